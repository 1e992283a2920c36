"""
Dialling back: the registry as a caller, who asks nothing but that the node prove itself.

L{flow512.registry.dials} decides whom and when; this connects. An attempt has one deadline for
all of it, from the first packet to the hello, so that it matters to nobody how slowly the other
side speaks. States of an attempt::

    connecting ──connected──> asking ──hello of the node──> told: reached ──> gone
        │                       └──anything else──────────> told: not reached ──> gone
        └──refused, deadline──> told: not reached, and gone

It is told once what has come of an attempt, and once that it is gone: only then another takes its
place. What the other side said is no part of what the node is told: a registry lends nobody its
eyes for more than to see who answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from flow512.errors import Flow512Error, PeerLost, TimedOut, Unreachable
from flow512.link.address import HostPort
from flow512.link.conversation import Patience
from flow512.link.greeting import Caller
from flow512.link.introduction import Introduction
from flow512.registry.dials import Dial, Dials
from flow512.wire.handshake import Agreement
from flow512.wire.messages import TRANSFER_CLIENT

DEADLINE: Final = 10.0
"""Seconds for an attempt, from the first packet to the hello."""

NO_CONNECTION: Final = "no connection could be made"
TOO_SLOW: Final = "it did not prove within {seconds:g} seconds who it is"
CUT_OFF: Final = "the connection was closed before it proved who it is"
SOMEBODY_ELSE: Final = "what answers there did not prove to be this node"


class Probe(Caller):
    """
    The registry's side of one attempt.
    """

    conversation = "transfer"
    allowed = TRANSFER_CLIENT

    def __init__(self, attempt: Attempt, introduction: Introduction, clock: IReactorTime) -> None:
        """
        @param attempt: whose it is.
        @param introduction: what the registry says of itself.
        @param clock: for the deadlines.
        """
        super().__init__(introduction, clock, Patience(greeting=attempt.seconds))
        self.expected = attempt.dial.node
        self._attempt = attempt

    def conversation_opened(self, agreement: Agreement) -> None:
        self._attempt.reached()
        self.leave()

    def conversation_ended(self, error: Flow512Error) -> None:
        self._attempt.not_reached(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._attempt.gone()


class Attempt(Factory[Probe]):
    """
    One attempt.

    @ivar dial: what it is to find out.
    @ivar seconds: how long it may take.
    """

    noisy = False

    def __init__(self, dial_back: DialBack, dial: Dial, seconds: float) -> None:
        """
        @param dial_back: whose it is.
        @param dial: what it is to find out.
        @param seconds: how long it may take.
        """
        self.dial = dial
        self.seconds = seconds
        self._dial_back = dial_back
        self._connecting: Deferred[IProtocol] | None = None
        self._probe: Probe | None = None
        self._deadline: IDelayedCall | None = None
        self._is_told = False

    def begin(self, clock: IReactorTime, connect: Connect) -> None:
        """
        Connect.
        """
        self._deadline = clock.callLater(self.seconds, self._too_late)
        address = HostPort(self.dial.host, self.dial.port)
        self._connecting = maybeDeferred(lambda: connect(address).connect(self))
        self._connecting.addCallbacks(self._connected, self._failed)

    def buildProtocol(self, addr: IAddress | None) -> Probe:
        self._probe = Probe(self, self._dial_back.introduction, self._dial_back.clock)
        return self._probe

    def _connected(self, probe: object) -> None:
        self._connecting = None

    def _failed(self, reason: Failure) -> None:
        self._connecting = None
        self._tell(NO_CONNECTION)
        if self._probe is None or not self._probe.connected:
            self.gone()

    def _too_late(self) -> None:
        self._deadline = None
        self._end(TimedOut("The deadline is over."))

    # What the probe tells

    def reached(self) -> None:
        """
        The node answered.
        """
        self._tell(None)

    def not_reached(self, error: Flow512Error) -> None:
        """
        The conversation is over, or never began.
        """
        if isinstance(error, TimedOut):
            self._tell(TOO_SLOW.format(seconds=self.seconds))
        elif isinstance(error, PeerLost):
            self._tell(CUT_OFF)
        else:
            self._tell(SOMEBODY_ELSE)

    def gone(self) -> None:
        """
        The connection is no more, or never was.
        """
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._dial_back.attempt_gone(self)

    def _tell(self, why_not: str | None) -> None:
        if not self._is_told:
            self._is_told = True
            self._dial_back.attempt_told(self, why_not)

    def abandon(self) -> None:
        """
        End it now, and tell nothing that has not been told.
        """
        self._is_told = True
        self._end(PeerLost("The registry stops."))

    def _end(self, error: Unreachable) -> None:
        if self._probe is not None and self._probe.connected:
            self._probe.end(error)
        elif self._connecting is not None:
            self._connecting.cancel()


Connect = Callable[[HostPort], IStreamClientEndpoint]


class DialBack:
    """
    Carries out a registry's dials.

    @ivar introduction: what the registry says of itself.
    @ivar clock: for deadlines, and to look again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connect: Connect,
        introduction: Introduction,
        dials: Dials,
        *,
        told: Callable[[Dial, str | None], None],
        idle: Callable[[], None],
        seconds: float = DEADLINE,
    ) -> None:
        """
        @param clock: for deadlines, and to look again.
        @param connect: makes the endpoint that connects to an address, with TLS if nodes have it.
        @param introduction: what the registry says of itself.
        @param dials: decides whom, and when.
        @param told: is told what has come of a dial: why the node was not reached, in some
            words that go on after a colon, or L{None} if it was.
        @param idle: is told when the last attempt is gone.
        @param seconds: how long an attempt may take.
        """
        self.introduction = introduction
        self.clock = clock
        self._connect = connect
        self._dials = dials
        self._told = told
        self._idle = idle
        self._seconds = seconds
        # In the order of their beginning, so that a simulation repeats to the byte.
        self._attempts: dict[Attempt, None] = {}
        self._call: IDelayedCall | None = None
        self._is_looking = False
        self._is_stopped = False

    @property
    def is_idle(self) -> bool:
        """Whether there is no attempt."""
        return not self._attempts

    def look(self) -> None:
        """
        Begin what may begin; to be called whenever something may have been wanted.
        """
        if self._is_looking or self._is_stopped:
            # An attempt that ends as it begins: the loop below takes what that makes room for.
            return
        self._is_looking = True
        try:
            while taken := self._dials.take(self.clock.seconds()):
                for dial in taken:
                    attempt = Attempt(self, dial, self._seconds)
                    self._attempts[attempt] = None
                    attempt.begin(self.clock, self._connect)
        finally:
            self._is_looking = False
        self._look_later()

    def _look_later(self) -> None:
        now = self.clock.seconds()
        due = self._dials.next_look(now)
        if self._call is not None:
            if due is not None and self._call.getTime() <= due:
                # Looking too early does no harm, and a storm would make and cancel many calls.
                return
            self._call.cancel()
            self._call = None
        if due is not None:
            self._call = self.clock.callLater(max(0.0, due - now), self._time_to_look)

    def _time_to_look(self) -> None:
        self._call = None
        self.look()

    def start(self) -> None:
        """
        Begin, again after L{stop}.
        """
        self._is_stopped = False
        self.look()

    def stop(self) -> None:
        """
        Begin nothing more, and end every attempt; C{idle} tells when all are gone.
        """
        self._is_stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        for attempt in list(self._attempts):
            attempt.abandon()

    # What its attempts tell

    def attempt_told(self, attempt: Attempt, why_not: str | None) -> None:
        """
        Know what has come of an attempt.
        """
        self._told(attempt.dial, why_not)

    def attempt_gone(self, attempt: Attempt) -> None:
        """
        Give an attempt's place to another.
        """
        del self._attempts[attempt]
        self._dials.ended(attempt.dial)
        self.look()
        if not self._attempts:
            self._idle()
