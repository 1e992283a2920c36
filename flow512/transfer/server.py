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

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from threading import Event
from typing import ClassVar, Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.access import NOBODY
from flow512.content.library import MD5_AT_ONCE, Library, View
from flow512.content.mending import piece_md5s
from flow512.content.paths import SHOWN, escape
from flow512.content.shares import LARGEST
from flow512.content.tree import Shape
from flow512.errors import (
    BadMessage,
    Busy,
    Cancelled,
    Flow512Error,
    PeerLost,
    SourceFailure,
    for_log,
)
from flow512.interfaces import OF_ONE_DISK, READING, AtMost, RunBlocking
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.greeting import Answerer
from flow512.link.introduction import Introduction
from flow512.link.origin import plain_address
from flow512.link.sparing_log import SparingLog
from flow512.link.throttle import Throttle
from flow512.registry.peer_list import as_reached
from flow512.transfer.allowance import Allowance
from flow512.transfer.bundles import Bundles
from flow512.transfer.contents import Contents
from flow512.transfer.holders import KnownHolders
from flow512.transfer.offers import Offers
from flow512.transfer.reading import Reads
from flow512.transfer.shared_work import SharedWork
from flow512.transfer.unhashed import Streams
from flow512.transfer.watching import Watches
from flow512.units import BLOCK
from flow512.wire.bundle import Bundle
from flow512.wire.fields import Peer
from flow512.wire.frame import Frame, encode_header
from flow512.wire.handshake import Agreement
from flow512.wire.holding import Holders, PiecesRequest, Watch, Who
from flow512.wire.meeting import Meet, Met
from flow512.wire.messages import (
    TRANSFER,
    TRANSFER_SERVER,
    Cancel,
    Checksum,
    Entry,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Read,
    Stat,
    Stated,
    decode,
)
from flow512.wire.streaming import Stream

_LINES: Final = (5.0, 100.0)
"""Lines a second, and at once, that connections may log by coming and going."""

_SMALL: Final = "small"
"""What is read by opening a file, and closing it at once: it may be on any disk."""

_T = TypeVar("_T")


class _Working(msgspec.Struct, eq=False, kw_only=True):
    """
    A request that a worker is busy with.

    @ivar stop: set when nobody wants the answer any more.
    """

    stop: Event = msgspec.field(default_factory=Event)


class _Listing(_Working, eq=False):
    """One LIST; it may have to wait for its turn."""

    request: int
    wanted: List


def _is_of_folder(frame: Frame) -> bool:
    """Whether a manifest is asked for, which is a listing of a whole folder."""
    return frame.kind == Kind.STAT and decode(frame, Stat).path.endswith("/")


def _md5s_of_pieces(contents: Contents, asker: bytes, wanted: PiecesRequest) -> bytes:
    file = contents.open(wanted.root, asker)
    try:
        block = bytearray(Shape(file.size).block_length(wanted.block))
        file.read_into(wanted.block * BLOCK, [block])
    finally:
        file.close()
    return piece_md5s(block)


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
        # All that have not ended, but for those that have a place of their own.
        self._requests: dict[int, _Working] = {}
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
            factory.reading.on(_SMALL),
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
        self.lines = SparingLog(self.log, factory.clock)
        self._workers = 0
        self._counted = 0  # what the allowance knows of
        self._idle_since = 0.0
        self._idle_timer: IDelayedCall | None = None
        self._is_gone = False
        self._listings: deque[_Listing] = deque()
        self._is_listing = False

    # The conversation

    def connectionMade(self) -> None:
        self._service.connections[self] = None
        super().connectionMade()
        self._reads.connected()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._reads.transport_gone()
        self._bundles.transport_gone()
        self._streams.transport_gone()
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
        for working in self._requests.values():
            working.stop.set()
        self._requests.clear()
        self._listings.clear()
        self._reads.end()
        self._watches.end()
        self._bundles.end()
        self._streams.end()
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
        answer = self._ANSWERS.get(frame.kind)
        if answer is None:
            raise BadMessage(
                f"A source makes no requests, so kind {frame.kind:#04x} means nothing."
            )
        if request == 0 or self._is_under_way(request):
            raise BadMessage(f"Request number {request} is in use.")
        try:
            self._service.allowance.check_request(self._counted, len(self._service.connections))
            if frame.kind == Kind.LIST or _is_of_folder(frame):
                self._service.allowance.take_listing(self._who)
        except Busy as busy:
            self.fail_request(request, busy)
        else:
            answer(self, frame)

    def _cancel(self, request: int) -> None:
        if request in self._requests:
            self._requests.pop(request).stop.set()
        elif request in self._reads:
            self._reads.cancel(request)
        elif request in self._watches:
            self._watches.cancel(request)
        elif request in self._bundles:
            self._bundles.cancel(request)
        elif request in self._streams:
            self._streams.cancel(request)
        else:
            return
        self.fail_request(request, Cancelled("The request was cancelled."))

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

    def _is_under_way(self, request: int) -> bool:
        return (
            request in self._requests
            or request in self._reads
            or request in self._watches
            or request in self._bundles
            or request in self._streams
        )

    def _recount(self) -> None:
        # Spelt out, since it is done for every block that is sent.
        now = len(self._requests) + len(self._reads) + len(self._watches)
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

    # Requests that a worker answers

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

    def _work(
        self,
        request: int,
        working: _Working,
        result: Deferred[_T],
        answer: Callable[[_T], None],
    ) -> None:
        """
        Wait for a worker, then write the request's end, unless it has had that already.
        """
        self._requests[request] = working

        def is_wanted() -> bool:
            return self._requests.get(request) is working

        def succeeded(value: _T) -> None:
            if is_wanted():
                del self._requests[request]
                answer(value)

        def failed(failure: Failure) -> None:
            if is_wanted():
                del self._requests[request]
                assert failure.value is not None
                self.fail(request, failure.value)

        self.wait_for_worker(result, succeeded, failed)

    def fail(self, request: int, error: BaseException) -> None:
        """
        Write the end of a request that cannot be answered.
        """
        if not isinstance(error, Flow512Error):
            self.log.failure("A request could not be answered.", failure=Failure(error))  # type: ignore[no-untyped-call]  # Twisted has no types there
        self.fail_request(request, error)

    def _list(self, frame: Frame) -> None:
        waiting = _Listing(frame.request, decode(frame, List))
        self._requests[frame.request] = waiting
        self._listings.append(waiting)
        self._next_listing()

    def _next_listing(self) -> None:
        while self._listings and self.is_writable and not self._is_listing:
            waiting = self._listings.popleft()
            if self._requests.get(waiting.request) is waiting:
                self._begin_listing(waiting)

    def _begin_listing(self, listing: _Listing) -> None:
        self._is_listing = True
        wanted = listing.wanted

        def answer(found: tuple[Sequence[Entry], bool]) -> None:
            entries, more = found
            self.send(Listing(tuple(entries), more), listing.request)

        def ended(_: object) -> None:
            self._is_listing = False
            self._next_listing()

        library, asker = self._service.library, self.asker
        made = self._service.run_blocking(
            lambda: library.list(
                wanted.prefix, wanted.after, wanted.limit, view=library.seen_by(asker)
            )
        )
        self._work(listing.request, listing, made, answer)
        made.addCallback(ended)

    def _stat(self, frame: Frame) -> None:
        wanted = decode(frame, Stat)
        if bool(wanted.path) == (wanted.root is not None):
            raise BadMessage("STAT names a path or a root, and not both.")
        if wanted.path:
            self.lines.info("Request for file: '{path}'", path=escape(wanted.path, SHOWN))

        def answer(entry: Entry) -> None:
            self.send(Stated(entry), frame.request)

        working = _Working()
        self._work(frame.request, working, self._find(wanted, working.stop), answer)

    def _find(self, wanted: Stat, stop: Event) -> Deferred[Entry]:
        library, service, asker = self._service.library, self._service, self.asker
        if wanted.root is not None:
            return service.run_blocking(service.contents.stat, wanted.root, asker, stop.is_set)

        def look() -> tuple[View, Entry | None]:
            view = library.seen_by(asker)
            # A small file is hashed before anything else could be done with it.
            above = MD5_AT_ONCE if wanted.at_once else LARGEST
            return view, library.known(wanted.path, view, unhashed_above=above)

        def hash_unless_known(looked: tuple[View, Entry | None]) -> Entry | Deferred[Entry]:
            view, known = looked
            if known is not None:
                return known
            # Only those wait together for one file who may see the same.
            return service.long_work.join(
                (view, wanted.path),
                stop,
                lambda may_stop: library.stat(wanted.path, None, may_stop, view),
            )

        return service.run_blocking(look).addCallback(hash_unless_known)

    def _page(self, frame: Frame) -> None:
        wanted = decode(frame, PageRequest)
        contents = self._service.contents

        def answer(page: bytes) -> None:
            header = encode_header(Kind.DIGESTS, frame.request, len(page), wanted.index)
            self.write_small(header + page)

        self._work(
            frame.request,
            _Working(),
            self._service.run_blocking(
                contents.page, wanted.root, wanted.level, wanted.index, self.asker
            ),
            answer,
        )

    def _checksum(self, frame: Frame) -> None:
        wanted = decode(frame, Checksum)
        library, service, asker = self._service.library, self._service, self.asker

        def answer(md5: bytes) -> None:
            self.send(Md5(md5), frame.request)

        working = _Working()

        def look() -> tuple[View, bytes | None]:
            return library.seen_by(asker), service.contents.md5(wanted.root, asker)

        def compute_unless_known(looked: tuple[View, bytes | None]) -> bytes | Deferred[bytes]:
            view, known = looked
            if known is not None:
                return known
            return service.long_work.join(
                (view, wanted.root),
                working.stop,
                lambda may_stop: library.checksum(wanted.root, may_stop, view),
            )

        found: Deferred[bytes] = service.run_blocking(look).addCallback(compute_unless_known)
        self._work(frame.request, working, found, answer)

    def _pieces(self, frame: Frame) -> None:
        wanted = decode(frame, PiecesRequest)

        def answer(md5s: bytes) -> None:
            header = encode_header(Kind.PIECE_DIGESTS, frame.request, len(md5s), wanted.block)
            self.write_small(header + md5s)

        service, asker = self._service, self.asker
        read = service.reading.on(_SMALL)
        made = read(_md5s_of_pieces, service.contents, asker, wanted)
        self._work(frame.request, _Working(), made, answer)

    def _holders(self, frame: Frame) -> None:
        wanted = decode(frame, Who)
        service = self._service

        def answer(_: Entry) -> None:
            self.send(Holders(service.holders.known(wanted.root, but=self)), frame.request)
            place = plain_address(self.peer_host)
            if wanted.port and place is not None:
                service.holders.note(self, wanted.root, self._serving_at(place, wanted.port))
            else:
                service.holders.drop(self, wanted.root)

        # Who may not see a content is not told who else has it.
        found = service.run_blocking(service.contents.stat, wanted.root, self.asker)
        self._work(frame.request, _Working(), found, answer)

    def _meet(self, frame: Frame) -> None:
        wanted = decode(frame, Meet)
        place = plain_address(self.peer_host)
        peer = None
        if wanted.port and place is not None:
            peer = as_reached(self._serving_at(place, wanted.port), self.peer_host)
        self.send(self._service.met(self.asker, peer), frame.request)

    def _serving_at(self, place: IPv4Address | IPv6Address, port: int) -> Peer:
        assert self.agreement is not None
        node = self.agreement.peer.node if self.channel is None else self.channel.peer
        return Peer(node, "", str(place), port)

    def _watch(self, frame: Frame) -> None:
        self._watches.begin(frame.request, decode(frame, Watch))

    def _read(self, frame: Frame) -> None:
        self._reads.begin(frame.request, decode(frame, Read))

    def _bundle(self, frame: Frame) -> None:
        self._bundles.begin(frame.request, decode(frame, Bundle))

    def _stream(self, frame: Frame) -> None:
        self._streams.begin(frame.request, decode(frame, Stream))

    def _unexpected(self, failure: Failure) -> None:
        self.log.failure("Serving failed.", failure=failure)
        self.end(SourceFailure("Something went wrong inside the node; its log tells more."))

    def writable_again(self) -> None:
        self._next_listing()
        self._watches.transport_drained()
        self._reads.transport_drained()
        self._bundles.transport_drained()
        self._streams.transport_drained()
        self._recount()

    def turn_came(self) -> None:
        self._reads.write_ready()
        self._recount()

    _ANSWERS: ClassVar[dict[int, Callable[[TransferProtocol, Frame], None]]] = {
        Kind.LIST: _list,
        Kind.STAT: _stat,
        Kind.PAGE: _page,
        Kind.READ: _read,
        Kind.CHECKSUM: _checksum,
        Kind.WHO: _holders,
        Kind.WATCH: _watch,
        Kind.PIECES: _pieces,
        Kind.BUNDLE: _bundle,
        Kind.STREAM: _stream,
        Kind.MEET: _meet,
    }


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
