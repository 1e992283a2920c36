"""
A node's side of the registry: registered for ever, whatever happens to the registry.

Whatever ends it, L{RegistryClient} connects again: after a wait that grows with each failure up to
a minute, and is random in part so that a registry that restarts is not met by everyone at once.
A registry that says when to come back is taken at its word. The wait is short again only after a
conversation has proved itself by a pong while it was listed.

A node that serves is on the list only once the registry has reached it where it says that it
serves. It is told what came of that, and tells its user once what there is to do; the registry
tries again by itself, and all else goes on meanwhile.

What the node holds outlives the conversations as well: each is told all of it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger, LogLevel
from zope.interface import Interface

from flow512.content.paths import escape
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.errors import Busy, Cancelled, Flow512Error, Unreachable
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.link.sparing_log import SparingLog
from flow512.registry.coming_back import wait_before
from flow512.registry.conversation import RegistryConversation
from flow512.registry.inventory import Inventory
from flow512.registry.peer_list import MOST_PEERS, Change, PeerList, choose_to_dial
from flow512.wire.fields import Peer
from flow512.wire.leading import Leader
from flow512.wire.messages import Reached

LONGEST_OBEYED: Final = 3600.0
"""Seconds for which a registry can send a node away."""


class IPeerListListener(Interface):
    """
    Is told how the list of peers changes.
    """

    def peer_list_changed(
        joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        """
        The list is another now; never called without a difference.

        The node itself is on the list as well. Names are hostile until they are escaped.

        @param joined: who is new.
        @param left: who is gone, as they were.
        @param changed: who has another name, host or port, as they are now.
        """


class _Conversations(Factory[RegistryConversation]):
    """Begins the client's conversations."""

    noisy = False

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def buildProtocol(self, addr: IAddress | None) -> RegistryConversation:
        return RegistryConversation(self._client)


class RegistryClient(Service):
    """
    Keeps a node registered, and the list of peers at hand.

    @ivar introduction: what the node says of itself.
    @ivar port: the TCP port that others find it at; 0 to watch without being listed.
    @ivar ticket: what proves to the registry that a registration is this node's.
    @ivar expected: the node id that the registry must have; L{None} for any.
    @ivar seen_host: the address that the registry sees the node at; empty before it has said so.
    @ivar is_reachable: whether the registry reached the node at its port, when it last tried;
        L{None} before it has said so, of a registry that does not try, and without a port.
    @ivar why_unreachable: why not, escaped; empty if it did, or has not said so.
    @ivar peer_list: the list and how current it is; to be read.
    @ivar inventory: what the node holds, and what of that is to be told.
    @ivar trouble: why its latest conversation ended, escaped; empty if none did since the registry
        has listed it for a while.
    @ivar failures: connections in a row that could not be made, or did not last.
    @ivar claim: by what right the registry leads, as it says in this conversation; L{None} before.
    @ivar leader_name: what the registry's user calls it, as it says.
    @ivar registry_at: the host and port that the registry was last reached at; L{None} before.
    @ivar elsewhere: the registry that this one sends its nodes to; L{None} as long as it leads.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        introduction: Introduction,
        *,
        port: int,
        ticket: bytes,
        random: Random,
        expected: bytes | None = None,
        shuns: bytes | None = None,
        listener: IPeerListListener | None = None,
        state_changed: Callable[[], None] = lambda: None,
        patience: Patience | None = None,
        most_peers: int = MOST_PEERS,
        limits: Limits | None = None,
        trouble_level: LogLevel = LogLevel.warn,
        can_lead: bool = False,
        term: Callable[[], int] = lambda: 0,
    ) -> None:
        """
        @param clock: for pings, deadlines and the waits between connections.
        @param endpoint: where the registry is.
        @param introduction: what the node says of itself; its name is the one that is listed.
        @param port: the TCP port that others find it at; 0 to watch without being listed.
        @param ticket: 16 random bytes, to be told to nobody else. It tells this process from
            others with the same node id: one of them may serve, the others watch.
        @param random: for the waits between connections.
        @param expected: the node id that the registry must have; L{None} for any.
        @param shuns: a node id that the registry must not have; L{None} for none.
        @param listener: is told of every change of the list.
        @param state_changed: called when L{is_listed}, L{failures}, L{is_reachable}, L{claim} or
            L{elsewhere} may be another than before, while the service runs.
        @param patience: how long conversations wait.
        @param most_peers: how long the list may be; a longer one ends the conversation.
        @param limits: how many peers L{peers_to_dial} and L{who} give, those called C{dials}.
        @param trouble_level: at which L{LogLevel} to log why the node is not registered.
        @param can_lead: whether this node may carry the registry, if there is no other.
        @param term: gives the latest term that this node knows.
        """
        self.clock = clock
        self.introduction = introduction
        self.port = port
        self.ticket = ticket
        self.patience = patience or Patience()
        self.expected = expected
        self.shuns = shuns
        self.can_lead = can_lead
        self._trouble_level = trouble_level
        # A registry may say first this, then that, as often as it likes.
        self._lines = SparingLog(self.log, clock)
        self.term = term
        self.claim: Claim | None = None
        self.leader_name = ""
        self.registry_at: tuple[str, int] | None = None
        self.elsewhere: RegistryOffer | None = None
        self.seen_host = ""
        self.is_reachable: bool | None = None
        self.peer_list = PeerList(most_peers)
        self.inventory = Inventory()
        self._random = random
        self._listener = listener
        self._state_changed = state_changed
        self._limits = limits or Limits()
        # Who names a peer needs no registry, and it takes a while to load.
        from twisted.application.internet import ClientService

        self._service = ClientService(
            endpoint, _Conversations(self), retryPolicy=self._wait_before, clock=clock
        )
        self._conversation: RegistryConversation | None = None
        self.failures = 0
        self._told_to_wait = 0.0
        self.trouble = ""
        self.why_unreachable = ""
        self._has_list = False
        self._waiting: list[Deferred[None]] = []

    # The list

    @property
    def is_listed(self) -> bool:
        """Whether the node is registered now, and has the list of this conversation."""
        return self._conversation is not None and self._conversation.is_listed

    @property
    def registry(self) -> Peer | None:
        """
        Where the registry is that lists the node now, and the node id that it has said, which is
        proven under TLS; L{None} while none does.
        """
        conversation = self._conversation
        if conversation is None or not conversation.is_listed or conversation.agreement is None:
            return None
        host, port = conversation.peer
        return Peer(conversation.agreement.peer.node, "", host, port) if port else None

    @property
    def peers(self) -> Mapping[bytes, Peer]:
        """
        All peers by node id, this node among them if it has a port. Without a connection it is
        the latest list that there was.
        """
        return MappingProxyType(self.peer_list.peers)

    @property
    def other_peers(self) -> list[Peer]:
        """All peers but this node."""
        return [peer for peer in self.peers.values() if self._is_other(peer)]

    def _is_other(self, peer: Peer) -> bool:
        # A node that only watches may share its identity with one that serves on its machine.
        return peer.node != self.introduction.node or not self.port

    def peers_to_dial(self) -> list[Peer]:
        """
        Give the peers that may be dialled without anybody having named them, as
        L{choose_to_dial<flow512.registry.peer_list.choose_to_dial>} does.
        """
        return choose_to_dial(self.other_peers, self._limits)

    def when_listed(self) -> Deferred[None]:
        """
        Wait for the first list.

        @return: a L{Deferred} that fires once there is a list, at once if there was one already,
            and fails with L{Cancelled} if the service is stopped before. It can be cancelled.
        """
        if self._has_list:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def set_port(self, port: int) -> None:
        """
        Be found at another port.

        @param port: 1 to 65535; 0 to watch without being listed.
        """
        if port != self.port:
            self.port = port
            self.is_reachable = None
            if self._conversation is not None:
                self._conversation.register()

    # Who holds what

    def hold(self, added: Iterable[bytes], removed: Iterable[bytes]) -> None:
        """
        Have the registry know what this node holds, or holds parts of, as long as it serves.

        It may be called at any time: the whole set is kept, and told anew after each reconnection,
        as fast as the transport takes it.

        @param added: roots that it holds from now on.
        @param removed: roots that it holds no longer.
        """
        self.inventory.change(added, removed)
        if self._conversation is not None:
            self._conversation.tell_holdings()

    def who(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        """
        Ask the registry who holds a content, or parts of it.

        @return: some of those who do, without this node, of whom L{choose_to_dial} says that they
            may be dialled; nobody vouches for them. Fails with L{Unreachable} without a
            registration, or if that ends meanwhile; with L{TimedOut<flow512.errors.TimedOut>}
            without an answer in 10 seconds; and with L{Busy} if too much is asked. It can be
            cancelled.
        """
        if self._conversation is None:
            return fail(Unreachable("No registry is there that could say who holds that."))
        return self._conversation.who(root).addCallback(self._holders)

    def _holders(self, told: tuple[Peer, ...]) -> tuple[Peer, ...]:
        peers = [self.peer_list.as_reached(peer) for peer in told if self._is_other(peer)]
        return tuple(choose_to_dial(peers, self._limits))

    # IService

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's is not annotated
        self._service.startService()

    def stopService(self) -> Deferred[None]:
        """
        Leave the registry.

        @return: a L{Deferred} that fires when the connection is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's is not annotated
        if self._conversation is not None:
            self._conversation.take_leave()
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(Cancelled("The node stopped before the registry listed it."))
        self._lines.say_left_out()
        return self._service.stopService()

    # What its conversations tell it

    def connection_made(self, conversation: RegistryConversation) -> None:
        """
        Somebody is at the other end, who may be the registry.
        """
        self._conversation = conversation
        self.claim = self.elsewhere = None

    def conversation_ended(self, error: Flow512Error) -> None:
        """
        The conversation is over, or never began.

        @param error: why.
        """
        self._conversation = None
        if isinstance(error, Busy):
            self._told_to_wait = min(error.retry_after, LONGEST_OBEYED)
        if not self.running:
            return
        reason = escape(str(error), 500)
        if reason != self.trouble:
            # The same trouble over and over is one line, not one a minute.
            self.trouble = reason
            self.log.emit(
                self._trouble_level, "Not registered: {reason} Trying again.", reason=reason
            )
        self._state_changed()

    def list_changed(self, change: Change) -> None:
        """
        The list is whole, and may be another than before.
        """
        self._has_list = True
        if self._listener is not None and any(change):
            self._listener.peer_list_changed(change.joined, change.left, change.changed)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
        self._state_changed()

    def leads(self, claim: Claim, name: str) -> None:
        """
        The registry says by what right it leads, or leads again.

        @param claim: with the node id that it has proven.
        @param name: what its user calls it.
        """
        self.claim, self.leader_name, self.elsewhere = claim, name, None
        self._state_changed()

    def sent_to(self, offer: RegistryOffer | None) -> None:
        """
        The registry says that another leads.

        @param offer: where that is; L{None} if it is nowhere.
        """
        self.elsewhere = offer
        self._state_changed()

    def tell(self, leader: Leader) -> None:
        """
        Tell the registry of another one, if it is there.
        """
        if self._conversation is not None:
            self._conversation.tell(leader)

    def reached(self, told: Reached) -> None:
        """
        The registry has tried whether others reach this node.

        @param told: what came of it. About another port than the present one it is old news.
        """
        if told.port != self.port:
            return
        self.is_reachable = told.ok
        if told.ok:
            if self.why_unreachable:
                self._lines.info("Others can reach this node now, and it is listed.")
            self.why_unreachable = ""
        else:
            reason = escape(told.sentence, 500)
            if reason != self.why_unreachable:
                # It is tried again and again; that is one line.
                self.why_unreachable = reason
                self._lines.warn(
                    "Others cannot reach this node, so it is not listed, and only fetches: {reason}"
                    " Open TCP port {port} in the firewall or router, or choose a port that others"
                    " reach with --listen.",
                    reason=reason,
                    port=self.port,
                )
        self._state_changed()

    def proved(self) -> None:
        """
        The registry has listed the node for a while.
        """
        self.failures = 0
        self.trouble = ""

    def _wait_before(self, attempt: int) -> float:
        # ClientService counts connections that could not be made; one that is made and refused
        # over and over is to be slowed down just the same.
        self.failures += 1
        self._state_changed()
        told, self._told_to_wait = self._told_to_wait, 0.0
        return wait_before(self.failures, len(self.peers), told, self._random)
