"""
A node's side of one conversation with its registry.

States of a conversation, once both sides said hello::

    asking ──REGISTERED──> registered ──SNAPSHOT, the last──> listed ──> ended
       └──refused, or no answer in time──> ended

What the node holds is told from the moment that it is registered with a port: as much at a time
as the transport takes, and all of it anew in each conversation, and after each change of the port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall

from flow512.discovery.claims import Claim
from flow512.errors import (
    BadFrame,
    BadMessage,
    Flow512Error,
    NotAllowed,
    TimedOut,
    Unreachable,
    from_wire,
)
from flow512.link.greeting import Caller
from flow512.registry.leaders import offer_told
from flow512.registry.questions import Questions
from flow512.wire.fields import Peer
from flow512.wire.frame import Frame
from flow512.wire.handshake import Agreement
from flow512.wire.holding import Holders, Who
from flow512.wire.leading import Leader
from flow512.wire.messages import (
    REGISTRY_CLIENT,
    Delta,
    Error,
    Kind,
    Leave,
    Ping,
    Pong,
    Reached,
    Register,
    Registered,
    Resync,
    Snapshot,
    decode,
    encode,
)

if TYPE_CHECKING:
    from flow512.registry.client import RegistryClient

PINGS_PER_LEASE: Final = 3
"""So that two may be lost."""

SHORTEST_PING: Final = 1.0
"""Seconds between two pings, whatever a registry wants."""

FIRST_PING: Final = 2.0
"""Seconds until the first one, whose answer tells when the next is wanted."""

SILENCE: Final = 3.0
"""Seconds after a ping without anything from the registry, after which it is taken for dead."""


class RegistryConversation(Caller):
    """
    A node's side of one conversation.

    @ivar is_listed: whether the registry accepted the node and has sent its list.
    """

    conversation = "registry"
    allowed = REGISTRY_CLIENT

    is_listed = False

    def __init__(self, client: RegistryClient) -> None:
        """
        @param client: whose it is.
        """
        super().__init__(client.introduction, client.clock, client.patience)
        self.expected = client.expected
        self._client = client
        self._list = client.peer_list
        self._questions = Questions(client.clock)
        self._last_request = 0
        self._unanswered: set[int] = set()
        self._is_registered = False
        self._refusal: Flow512Error | None = None
        self._call: IDelayedCall | None = None  # the deadline while asking, then the next ping
        self._silence: IDelayedCall | None = None  # what ends it, unless it is heard of
        self._lease = 0.0
        self._interval = FIRST_PING

    def register(self) -> None:
        """
        Ask to be listed, or to be listed anew. Before the registry's hello, nothing happens: it is
        asked after that.
        """
        if not self.is_open:
            return
        request = self._next_request()
        self._unanswered.add(request)
        client = self._client
        self.send(
            Register(
                *(client.ticket, client.port, self.introduction.name),
                *(client.term(), client.can_lead and bool(client.port)),
            ),
            request,
        )

    def who(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        """
        Ask who holds a content; see L{RegistryClient.who}.

        @return: the peers as the registry says them.
        """
        if not (self.is_open and self._is_registered):
            return fail(Unreachable("No registry is there that could say who holds that."))
        request = self._next_request()
        answer = self._questions.ask(request)
        if not answer.called:
            self.send(Who(root), request)
        return answer

    def tell_holdings(self) -> None:
        """
        Tell of what is held and was not told yet, as much as the transport takes.
        """
        if not (self._is_registered and self._client.port) or self._unanswered:
            # The registry does not take it, or would not later if the port is refused.
            return
        while self.is_open and self.is_writable:
            hold = self._client.inventory.take()
            if hold is None:
                return
            self.connection.write(encode(hold))

    def writable_again(self) -> None:
        self.tell_holdings()

    def _next_request(self) -> int:
        self._last_request += 1
        return self._last_request

    def take_leave(self) -> None:
        """
        Give the lease back and close.
        """
        if self.is_open:
            self.send(Leave())
        self.leave()

    def connectionMade(self) -> None:
        super().connectionMade()
        self._client.connection_made(self)

    def conversation_opened(self, agreement: Agreement) -> None:
        if agreement.peer.node == self._client.shuns:
            raise NotAllowed("That registry is this node's own.")
        self._client.registry_at = self.peer
        self._list.begin(self.peer_host)
        self._call = self.clock.callLater(self.patience.greeting, self._unheard)
        self.register()

    def _unheard(self) -> None:
        self._call = None
        self.end(TimedOut("The registry does not answer."))

    def conversation_ended(self, error: Flow512Error) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._not_silent()
        self._client.conversation_ended(self._refusal or error)
        self._questions.end(error)

    def frame_received(self, frame: Frame) -> None:
        self._not_silent()
        if frame.kind in (Kind.REGISTERED, Kind.ERROR):
            self._answered(frame)
        elif not self._is_registered:
            raise BadFrame("A list came before the registration was accepted.")
        elif frame.kind == Kind.LEADER:
            self._told_of(decode(frame, Leader))
        elif self._client.claim is None:
            raise BadFrame("A list came before the registry said who leads.")
        elif frame.kind == Kind.SNAPSHOT:
            change = self._list.snapshot(decode(frame, Snapshot))
            if change is not None:
                self.is_listed = True
                self._client.list_changed(change)
        elif frame.kind == Kind.HOLDERS:
            self._questions.answered(frame.request, decode(frame, Holders).peers)
        elif frame.kind == Kind.REACHED:
            self._client.reached(decode(frame, Reached))
        else:
            change = self._list.delta(decode(frame, Delta))
            if change is not None:
                self._client.list_changed(change)
            self._ask_for_missing()

    def _answered(self, frame: Frame) -> None:
        if frame.kind == Kind.ERROR:
            told = decode(frame, Error)
            error = from_wire(told.code, told.sentence, told.retry_after)
            if frame.request not in self._unanswered:
                self._questions.failed(frame.request, error)
                return
            self._refusal = error
            self.leave()
            return
        if frame.request not in self._unanswered:
            raise BadMessage(f"Request {frame.request} was answered, which nobody made.")
        self._unanswered.discard(frame.request)
        answer = decode(frame, Registered)
        self._client.seen_host = answer.host
        self._lease = answer.lease
        if not self._is_registered:
            self._is_registered = True
            self._ping_later()
        self._client.inventory.begin()
        self.tell_holdings()

    def _told_of(self, told: Leader) -> None:
        assert self.agreement is not None
        if told.port:
            self._client.sent_to(offer_told(told, self.peer_host))
        elif told.node != self.agreement.peer.node:
            raise BadMessage("The registry claims the node id of somebody else.")
        else:
            claim = Claim(told.node, told.term, told.since, told.appointed, told.why)
            self._client.leads(claim, self.agreement.peer.name)

    def tell(self, leader: Leader) -> None:
        """
        Tell the registry of another one.
        """
        if self.is_open and self._is_registered:
            self.send(leader)

    def ponged(self, pong: Pong) -> None:
        self._not_silent()
        self._interval = pong.interval
        if self._is_registered:
            self._ping_later()
            self._list.pong(pong.number)
            self._ask_for_missing()
        if self.is_listed:
            self._client.proved()

    def _ask_for_missing(self) -> None:
        if self._list.take_missing():
            self.send(Resync())

    def _ping_later(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = self.clock.callLater(self._wait, self._ping)

    @property
    def _wait(self) -> float:
        longest = self._lease / PINGS_PER_LEASE
        return max(min(self._interval or longest, longest), SHORTEST_PING)

    def _ping(self) -> None:
        self._call = None
        self.send(Ping())
        if self._silence is None:
            wait = max(SILENCE, self._wait)
            self._silence = self.clock.callLater(wait, self._fell_silent)
        self._ping_later()

    def _fell_silent(self) -> None:
        self._silence = None
        self.end(TimedOut("The registry fell silent."))

    def _not_silent(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
