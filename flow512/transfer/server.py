"""
Serving: what a node answers to those who fetch from it.

Every request has exactly one end: its answer, its last data frame, or an error with its number.
A request is known by its number from the moment that it is read until its end is written;
C{CANCEL} brings that about early, and means nothing for a number that is not known.

What is large is made only while the transport takes it: blocks, which are the business of
L{flow512.transfer.reading}, what L{flow512.transfer.watching} tells of them, and listings, one at
a time. All else is small, and L{flow512.link.conversation} bounds it.

A request counts against L{flow512.transfer.allowance} until it has had its end, and no worker is
busy with it any more: so whoever cancels, or hangs up, has not made room by that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.access import NOBODY
from flow512.content.library import Library
from flow512.content.paths import escape
from flow512.errors import (
    BadMessage,
    Busy,
    Cancelled,
    Flow512Error,
    PeerLost,
    SourceFailure,
    for_log,
)
from flow512.interfaces import OF_ONE_DISK, READING, SMALL, AtMost, RunBlocking
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.greeting import Answerer
from flow512.link.introduction import Introduction
from flow512.link.sparing_log import SparingLog
from flow512.link.throttle import Throttle
from flow512.transfer.allowance import Allowance
from flow512.transfer.answers import ANSWERED, Answers, is_listing
from flow512.transfer.bundles import Bundles
from flow512.transfer.contents import Contents
from flow512.transfer.holders import KnownHolders
from flow512.transfer.offers import Offers
from flow512.transfer.reading import Reads
from flow512.transfer.shared_work import SharedWork
from flow512.transfer.unhashed import Streams
from flow512.transfer.watching import Watches
from flow512.wire.bundle import Bundle
from flow512.wire.fields import Peer
from flow512.wire.frame import Frame
from flow512.wire.handshake import Agreement
from flow512.wire.holding import Watch
from flow512.wire.meeting import Met
from flow512.wire.messages import TRANSFER, TRANSFER_SERVER, Cancel, Kind, Read, decode
from flow512.wire.streaming import Stream

_LINES: Final = (5.0, 100.0)
"""Lines a second, and at once, that connections may log by coming and going."""

_REQUESTS: Final = ANSWERED | {Kind.READ, Kind.WATCH, Kind.BUNDLE, Kind.STREAM}

_T = TypeVar("_T")


class TransferProtocol(Answerer):
    """
    The serving side of one transfer conversation.
    """

    conversation = TRANSFER
    allowed: Mapping[int, int] = TRANSFER_SERVER
    log = Logger()

    def __init__(self, factory: TransferFactory) -> None:
        """
        @param factory: what it serves, and with what.
        """
        super().__init__(factory.introduction, factory.clock, factory.patience)
        self._service = factory
        self._answers = Answers(self, factory)
        self._reads = Reads(
            self,
            factory.contents,
            factory.run_blocking,
            factory.reading,
            factory.allowance.memory,
            factory.up,
            factory.allowance.turns,
            factory.clock,
            factory.reads_cached,
        )
        self._watches = Watches(self, factory.contents, factory.run_blocking, self._recount)
        self._bundles = Bundles(
            self,
            factory.contents,
            factory.reading.on(SMALL),
            factory.allowance.memory,
            factory.up,
            self._recount,
        )
        self._streams = Streams(
            self,
            factory.library,
            factory.run_blocking,
            factory.reading,
            factory.long_work,
            factory.allowance.memory,
            factory.up,
        )
        self._senders = self._reads, self._bundles, self._streams
        self._under_way = self._answers, self._watches, *self._senders
        self.lines = SparingLog(self.log, factory.clock)
        self._workers = 0
        self._counted = 0  # what the allowance knows of
        self._idle_since = 0.0
        self._idle_timer: IDelayedCall | None = None
        self._is_gone = False

    # The conversation

    def connectionMade(self) -> None:
        self._service.connections[self] = None
        super().connectionMade()
        self._reads.connected()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        for each in self._senders:
            each.outgoing.drained()  # or what was in the transport would be counted for ever
        self._is_gone = True
        self._service.holders.forget(self)
        self._tell_if_gone()

    def _tell_if_gone(self) -> None:
        if self._is_gone and not self._workers:
            self._service.connection_gone(self)

    def conversation_opened(self, agreement: Agreement) -> None:
        self._service.lines.info("Connection from {peer} accepted.", peer=self.peer)
        self._idle_since = self.clock.seconds()
        self._wait_for_requests(self._service.limits.idle)

    def conversation_ended(self, error: Flow512Error) -> None:
        self.lines.say_left_out()
        if not isinstance(error, PeerLost):
            self._service.lines.info(
                "The conversation with {peer} ended: {why}",
                peer=self.peer,
                why=escape(for_log(error)),
            )
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        for each in self._under_way:
            each.end()
        self._recount()

    def frame_received(self, frame: Frame) -> None:
        self._take(frame)
        self._recount()

    def _take(self, frame: Frame) -> None:
        request = frame.request
        if frame.kind == Kind.CANCEL:
            decode(frame, Cancel)
            self._cancel(request)
            return
        if frame.kind not in _REQUESTS:
            raise BadMessage(
                f"A source makes no requests, so kind {frame.kind:#04x} means nothing."
            )
        if request == 0 or any(request in each for each in self._under_way):
            raise BadMessage(f"Request number {request} is in use.")
        try:
            self._service.allowance.check_request(self._counted, len(self._service.connections))
            if is_listing(frame):
                self._service.allowance.take_listing(self._who)
        except Busy as busy:
            self.fail_request(request, busy)
        else:
            self._begin(frame)

    def _begin(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.READ:
                self._reads.begin(frame.request, decode(frame, Read))
            case Kind.WATCH:
                self._watches.begin(frame.request, decode(frame, Watch))
            case Kind.BUNDLE:
                self._bundles.begin(frame.request, decode(frame, Bundle))
            case Kind.STREAM:
                self._streams.begin(frame.request, decode(frame, Stream))
            case _:
                self._answers.begin(frame)

    def _cancel(self, request: int) -> None:
        for each in self._under_way:
            if request in each:
                each.cancel(request)
                self.fail_request(request, Cancelled("The request was cancelled."))
                return

    @property
    def asker(self) -> bytes:
        """Who asks: what TLS has proven, or L{NOBODY}; what a hello says is no proof."""
        return NOBODY if self.channel is None else self.channel.peer

    @property
    def _who(self) -> str:
        if self.channel is None:
            # Anybody could claim to be somebody else, and use up what that one may have.
            host, port = self.peer
            return f"{host} {port}"
        return self.channel.peer.hex()

    # How much is under way

    def _recount(self) -> None:
        # Spelt out, since it is done for every block that is sent.
        now = len(self._answers) + len(self._reads) + len(self._watches)
        now = max(now + len(self._bundles) + len(self._streams), self._workers)
        self._service.allowance.requests += now - self._counted
        if self._counted and not now:
            self._idle_since = self.clock.seconds()
        self._counted = now

    def _wait_for_requests(self, seconds: float) -> None:
        self._idle_timer = self.clock.callLater(seconds, self._look_for_requests)

    def _look_for_requests(self) -> None:
        self._idle_timer = None
        idle = self._service.limits.idle
        left = idle - (self.clock.seconds() - self._idle_since)
        if self._counted or left > 0:
            # A second more or less does not matter, and a clock's rounding must not make a loop.
            self._wait_for_requests(idle if self._counted else max(1.0, left))
            return
        self._service.lines.info(
            "The conversation with {peer} ended: nothing was asked for {seconds:g} seconds.",
            peer=self.peer,
            seconds=idle,
        )
        self.leave()

    # What requests need

    def wait_for_worker(
        self,
        result: Deferred[_T],
        succeeded: Callable[[_T], None],
        failed: Callable[[Failure], None],
    ) -> None:
        """
        Go on when a worker is done; the connection counts as gone only after that.
        """
        self._workers += 1

        def ended(_: None) -> None:
            self._workers -= 1
            self._recount()
            self._tell_if_gone()

        result.addCallbacks(succeeded, failed).addErrback(self._unexpected).addBoth(ended)

    def fail(self, request: int, error: BaseException) -> None:
        """
        Write the end of a request that cannot be answered.
        """
        if not isinstance(error, Flow512Error):
            self.log.failure("A request could not be answered.", failure=Failure(error))  # type: ignore[no-untyped-call]  # Twisted has no types there
        self.fail_request(request, error)

    def _unexpected(self, failure: Failure) -> None:
        self.log.failure("Serving failed.", failure=failure)
        self.end(SourceFailure("Something went wrong inside the node; its log tells more."))

    def writable_again(self) -> None:
        self._answers.transport_drained()
        self._watches.transport_drained()
        for each in self._senders:
            each.outgoing.drained()
            each.write_ready()
        self._recount()

    def turn_came(self) -> None:
        self._reads.write_ready()
        self._recount()


class TransferFactory(Factory[TransferProtocol]):
    """
    Serves a library to everyone who asks.

    @ivar connections: those that there are.
    @ivar allowance: what they share.
    @ivar reading: runs what reads contents for all of them, a few at a time, by the disk that they
        are on: however slow one is, there are workers left for the others, and for all else.
    @ivar lines: where they say that they come and go.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        library: Library,
        introduction: Introduction,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        run_long: RunBlocking | None = None,
        patience: Patience | None = None,
        limits: Limits | None = None,
        up: Throttle | None = None,
        offers: Offers | None = None,
        holders: KnownHolders | None = None,
        met: Callable[[bytes, Peer | None], Met] = lambda visitor, at: Met(),
        reads_cached: bool = True,
    ) -> None:
        """
        @param library: what is served.
        @param introduction: what the node says of itself.
        @param clock: for the deadlines.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files, so that quick work need not wait for it;
            C{run_blocking} unless given.
        @param patience: how long the deadlines are; as usual unless given, but for the handshake.
        @param limits: of requests, memory, listings, idle time, and the handshake.
        @param up: how fast it sends what is in files, to all together; no limit unless given.
        @param offers: what it is downloading, and serves meanwhile; nothing unless given.
        @param holders: who else has a content that this node has, or is downloading; those who
            ask for it, and say that they pass it on, are noted there.
        @param met: tells by node id, and by where he says that he serves, whom a visitor is told
            of; nobody unless given.
        @param reads_cached: whether what the system has in memory is read without a worker.
        """
        self.library = library
        self.contents = Contents(library, offers)
        self.holders = holders or KnownHolders()
        self.met = met
        self.reads_cached = reads_cached
        self.introduction = introduction
        self.clock = clock
        self.run_blocking = run_blocking
        self.reading = AtMost(run_blocking, READING, OF_ONE_DISK)
        self.long_work = SharedWork(run_long or run_blocking)
        self.limits = limits or Limits()
        self.patience = patience or Patience(greeting=self.limits.handshake)
        self.allowance = Allowance(self.limits, clock)
        self.up = up or Throttle(clock)
        self.lines = SparingLog(self.log, clock, *_LINES)
        # In the order of their arrival, so that a simulation repeats to the byte.
        self.connections: dict[TransferProtocol, None] = {}
        self._stopping: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> TransferProtocol:
        return TransferProtocol(self)

    def stop(self) -> Deferred[None]:
        """
        Close every connection in peace.

        @return: fires when all of them are gone, and no worker is busy for them.
        """
        for connection in list(self.connections):
            connection.leave()
        self.lines.say_left_out()
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        self._tell_if_stopped()
        return stopped

    def connection_gone(self, connection: TransferProtocol) -> None:
        """
        A connection is closed for good, and no worker is busy with what it asked for.
        """
        self.connections.pop(connection, None)
        self._tell_if_stopped()

    def _tell_if_stopped(self) -> None:
        if not self.connections:
            stopping, self._stopping = self._stopping, []
            for stopped in stopping:
                stopped.callback(None)
