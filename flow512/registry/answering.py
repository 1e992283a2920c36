"""
The registry's side of one conversation.

States, once both sides said hello::

    stranger ──REGISTER, accepted──> registered ──LEAVE, lease over, displaced, violation,
        │                                         lost──> gone
        └──REGISTER, refused──> stranger ──nothing accepted in time──> gone

A stranger is told nothing about anyone. Who is registered is owed the snapshot at some number, then
every delta after it; whether others are told of it is another matter, and decided by dialling it
back (L{flow512.registry.dial_back}). What it costs to be slow is the slow one's:

  - Deltas are encoded once for all, and each connection's transport is given them in one write,
    but only while it takes any. One that is full is passed over. Once it takes bytes again it
    gets an empty delta with the latest number, which shows it the gap; it asks for a snapshot.
  - Snapshots are written frame by frame as the transport takes them. So a connection holds no
    more than its transport does, one push or one frame more, and what has changed since
    (L{flow512.registry.sheets}).
  - Snapshots that are asked for come at most once in a while; an earlier question waits.

What a node says that it holds takes the place of what it said in an earlier conversation, from its
first HOLD on; until then that stands, so a node that comes back in time is never missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.paths import escape
from flow512.errors import (
    BadFrame,
    BadMessage,
    Busy,
    Flow512Error,
    NotAllowed,
    Refusal,
    StateInUse,
    for_log,
)
from flow512.link.bulk import IBulkTransport
from flow512.link.greeting import Answerer
from flow512.link.origin import plain_address
from flow512.wire.frame import Frame
from flow512.wire.handshake import Agreement
from flow512.wire.holding import Hold, Who
from flow512.wire.leading import Leader
from flow512.wire.messages import (
    REGISTRY_SERVER,
    Delta,
    Kind,
    Leave,
    Pong,
    Register,
    Registered,
    Resync,
    decode,
    encode,
)

if TYPE_CHECKING:
    from flow512.registry.server import RegistryFactory

TOLD_EVERY: Final = 1.0
"""Seconds between two other registries that one node can tell of."""


class RegistryProtocol(Answerer):
    """
    The registry's side of one conversation.

    @ivar host: the address that the node is seen at; empty before there is a connection.
    @ivar is_registered: whether its node has registered and not left.
    """

    # There are thousands of them, and a dictionary for all that they know would be twice as large.
    __slots__ = (
        "_asked",
        "_bulk",
        "_deadline",
        "_has_told",
        "_missed",
        "_next_snapshot",
        "_node",
        "_registry",
        "_snapshot",
        "host",
    )

    conversation = "registry"
    allowed = REGISTRY_SERVER
    log = Logger()

    is_registered = False

    def __init__(self, factory: RegistryFactory) -> None:
        """
        @param factory: the registry.
        """
        super().__init__(factory.introduction, factory.clock, factory.patience)
        self.host = ""
        self._registry = factory
        self._node = b""
        self._has_told = False  # what the node holds
        self._deadline: IDelayedCall | None = None
        self._snapshot: Iterator[bytes] | None = None  # what is left to write of one
        self._missed = False  # whether a push was not written, or not after that snapshot
        self._next_told = 0.0  # when it may tell of another registry again
        self._next_snapshot = 0.0  # when it may be asked for ...
        self._asked: IDelayedCall | None = None  # ... and the call that waits for that

    # The conversation

    def connectionMade(self) -> None:
        super().connectionMade()
        self._bulk = IBulkTransport(self.connection, None)
        self.host = str(plain_address(self.peer_host) or self.peer_host)
        self._registry.connection_made(self)

    def conversation_opened(self, agreement: Agreement) -> None:
        self._node = agreement.peer.node
        if not self._registry.is_itself(self._node) and self._registry.log_room.take(self.host):
            self.log.info("Peer connected: {address}", address=(escape(self.host), self.peer[1]))
        self._deadline = self.clock.callLater(self.patience.greeting, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        self.end(NotAllowed(f"No registration came within {self.patience.greeting:g} seconds."))

    def conversation_ended(self, error: Flow512Error) -> None:
        self._cancel_deadline()
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
        self._snapshot = None
        self.log.debug(
            "Peer {host} is gone: {reason}",
            host=escape(self.host),
            reason=escape(for_log(error), 500),
        )
        if self.is_registered:
            self.is_registered = False
            self._registry.connection_ended(self, self._node)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._registry.connection_gone(self)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # What the node says

    def frame_received(self, frame: Frame) -> None:
        if frame.kind == Kind.REGISTER:
            self._register(decode(frame, Register), frame.request)
        elif frame.kind == Kind.LEAVE:
            decode(frame, Leave)
            self._leave()
        elif frame.kind == Kind.RESYNC and self.is_registered:
            decode(frame, Resync)
            self._ask_for_snapshot()
        elif frame.kind == Kind.HOLD and self.is_registered:
            self._hold(decode(frame, Hold))
        elif frame.kind == Kind.WHO and self.is_registered:
            self._who(decode(frame, Who), frame.request)
        elif frame.kind == Kind.LEADER and self.is_registered:
            self._told_of(decode(frame, Leader))
        else:
            raise BadFrame(f"A frame of kind {frame.kind:#04x} may not come at this point.")

    def pinged(self, request: int) -> None:
        if self.is_registered:
            self._registry.renew(self, self._node)
            self.send(Pong(self._registry.table.number, self._registry.ping_interval), request)
        else:
            super().pinged(request)

    def _register(self, wish: Register, request: int) -> None:
        try:
            placed = self._registry.register(self, self._node, wish)
        except (Refusal, StateInUse) as error:
            self.fail_request(request, error)
            return
        self._cancel_deadline()
        self.send(Registered(self._registry.table.lease, placed.host), request)
        self.send(self._registry.leader)
        if self._registry.elsewhere is not None:
            self.send(self._registry.elsewhere)
        if placed.reached is not None:
            self.send(placed.reached)
        if not self.is_registered:
            self.is_registered = True
            self._registry.log_registration(self._node, placed, wish)
            self._start_snapshot()
        self._registry.dial()

    def _hold(self, told: Hold) -> None:
        if not self._registry.table.serves(self, self._node):
            raise BadFrame("Only who serves can tell what it holds; who watches can not.")
        if not self._has_told:
            self._has_told = True
            self._registry.holdings.begin(self._node)
        self._registry.hold(self, self._node, told)

    def _who(self, asked: Who, request: int) -> None:
        if not request:
            raise BadMessage("A question needs a number, for its answer to bear.")
        try:
            self.send(self._registry.who(self._node, asked), request)
        except Busy as busy:
            self.fail_request(request, busy)

    def _told_of(self, told: Leader) -> None:
        now = self.clock.seconds()
        if now >= self._next_told:
            self._next_told = now + TOLD_EVERY
            self._registry.told_of(self, told)

    def _leave(self) -> None:
        if self.is_registered:
            self.is_registered = False
            self._registry.leave(self, self._node)
        self.leave("It said goodbye.")

    # What the node is told

    def push(self, deltas: bytes) -> None:
        """
        Write deltas, unless the transport is full.

        @param deltas: whole frames, shared by all connections.
        """
        if not self.is_writable or self._snapshot is not None:
            self._missed = True
        elif self._bulk is not None:
            # At once, as long as the socket has room: the reactor need not be told of it.
            self._bulk.write_bulk(b"", memoryview(deltas), _nothing)
        else:
            self.connection.write(deltas)

    def writable_again(self) -> None:
        if self._snapshot is not None:
            self._write_snapshot()
        if self._missed and self.is_writable and self.is_registered:
            self._missed = False
            self.connection.write(encode(Delta(self._registry.table.number)))

    def _ask_for_snapshot(self) -> None:
        if self._asked is not None or self._snapshot is not None:
            return  # the one that is coming is the answer
        wait = self._next_snapshot - self.clock.seconds()
        if wait > 0:
            self._asked = self.clock.callLater(wait, self._start_snapshot)
        else:
            self._start_snapshot()

    def _start_snapshot(self) -> None:
        self._asked = None
        self._missed = False
        self._next_snapshot = self.clock.seconds() + self._registry.snapshot_interval
        self._snapshot = self._registry.table.snapshot()
        self._write_snapshot()

    def _write_snapshot(self) -> None:
        while self._snapshot is not None and self.is_writable:
            frame = next(self._snapshot, None)
            if frame is None:
                self._snapshot = None
            else:
                self.connection.write(frame)


def _nothing() -> None:
    """What is to be done once deltas are sent: they belong to all."""
