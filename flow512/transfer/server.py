"""
Serving: what a node answers to those who fetch from it.

Every request has exactly one end: its answer, its last data frame, or an error with its number.
A request is known by its number from the moment that it is read until its end is written;
C{CANCEL} brings that about early, and means nothing for a number that is not known.

Reads, and where their bytes are::

    READ ──open the file──> waiting ──disk──> ready ──transport──> ended
                               └── in the order of their arrival ──┘

Flow control. At most one disk read is under way for a connection, of at most L{READ_BLOCKS}
blocks; it begins only while fewer than that are ready. Blocks that are ready are written only
while the transport is not full. So a connection holds at most 2 * L{READ_BLOCKS} - 1 blocks
(1.75 MiB), one more in the transport, and the small answers that
L{flow512.link.conversation} bounds. A client that reads nothing stops its own disk reads, and
nobody else's. Listings are the one other answer that is large: they are made one at a time, and
none while the transport is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import ClassVar, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.library import Library, OpenContent
from flow512.content.paths import escape
from flow512.content.pieces import (
    Span,
    byte_range,
    check_pieces,
    cut_into_runs,
    piece_count,
    split_at_blocks,
)
from flow512.content.tree import format_content_id
from flow512.errors import (
    BadMessage,
    Busy,
    Cancelled,
    Flow512Error,
    PeerLost,
    SourceFailure,
)
from flow512.interfaces import RunBlocking
from flow512.link.conversation import Answerer, Introduction, Patience
from flow512.units import PIECE
from flow512.wire.frame import Frame, encode_header
from flow512.wire.handshake import Agreement
from flow512.wire.messages import (
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

CONVERSATION: Final = "transfer"

READ_BLOCKS: Final = 4
"""Blocks that one visit to the disk reads (1 MiB)."""

MAX_REQUESTS: Final = 256
"""Requests of one connection that may be under way at once."""

MAX_OPEN: Final = 8
"""Files that one connection may have open at once, for all of its reads together."""

_T = TypeVar("_T")


@dataclass(eq=False)
class _Opened:
    """
    A file that this connection reads.

    @ivar file: it.
    @ivar readers: how many need it: reads of this connection, and the worker that is at it.
    """

    file: OpenContent
    readers: int = 0


@dataclass(eq=False)
class _Reading:
    """
    One READ, on its way.

    @ivar opened: the file that it reads.
    @ivar run: at most so many pieces in a frame.
    @ivar last: the number of its last piece.
    @ivar spans: what has not been read from the disk yet, in order.
    """

    request: int
    opened: _Opened
    run: int
    last: int
    spans: deque[Span]


@dataclass(eq=False)
class _Working:
    """
    A request that a worker is busy with.

    @ivar stop: set when nobody wants the answer any more.
    """

    stop: Event = field(default_factory=Event, kw_only=True)


@dataclass(eq=False)
class _Listing(_Working):
    """One LIST; it may have to wait for its turn."""

    request: int
    wanted: List


def _read_spans(file: OpenContent, spans: Sequence[Span]) -> list[bytes]:
    return [file.read(*byte_range(*span, file.size)) for span in spans]


def _data_frames(request: int, first: int, data: bytes, run: int) -> bytes:
    frames: list[bytes | memoryview] = []
    for position, body in cut_into_runs(first, data, run):
        frames += (encode_header(Kind.DATA, request, len(body), position), body)
    return b"".join(frames)


class TransferProtocol(Answerer):
    """
    The serving side of one transfer conversation.
    """

    conversation = CONVERSATION
    allowed: Mapping[int, int] = TRANSFER_SERVER
    log = Logger()

    def __init__(self, factory: TransferFactory) -> None:
        """
        @param factory: what it serves, and with what.
        """
        super().__init__(factory.introduction, factory.clock, factory.patience)
        self._service = factory
        self._requests: dict[int, _Working | _Reading] = {}  # all that have not ended
        self._files: dict[bytes, _Opened] = {}
        self._opening: dict[bytes, list[tuple[int, Read, _Working]]] = {}  # who waits for a file
        self._workers = 0
        self._is_gone = False
        self._waiting: deque[_Reading] = deque()
        self._ready: deque[tuple[_Reading, Span, bytes]] = deque()
        self._disk_is_busy = False
        self._is_writing = False
        self._listings: deque[_Listing] = deque()
        self._is_listing = False

    # The conversation

    def connectionMade(self) -> None:
        self._service.connections[self] = None
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._is_gone = True
        self._tell_if_gone()

    def _tell_if_gone(self) -> None:
        if self._is_gone and not self._workers:
            self._service.connection_gone(self)

    def conversation_opened(self, agreement: Agreement) -> None:
        self.log.info("Connection from {peer} accepted.", peer=self.peer)

    def conversation_ended(self, error: Flow512Error) -> None:
        if not isinstance(error, PeerLost):
            self.log.info(
                "The conversation with {peer} ended: {why}", peer=self.peer, why=escape(str(error))
            )
        for working in self._requests.values():
            if isinstance(working, _Working):
                working.stop.set()
        self._requests.clear()
        self._waiting.clear()
        self._ready.clear()
        self._listings.clear()
        if not self._disk_is_busy:
            self._close_files()

    def frame_received(self, frame: Frame) -> None:
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
        if request == 0 or request in self._requests:
            raise BadMessage(f"Request number {request} is in use.")
        if len(self._requests) >= MAX_REQUESTS:
            busy = Busy(f"At most {MAX_REQUESTS} requests may be under way; wait for answers.")
            self.fail_request(request, busy)
            return
        answer(self, frame)

    def _cancel(self, request: int) -> None:
        cancelled = self._requests.pop(request, None)
        if cancelled is None:
            return
        if isinstance(cancelled, _Working):
            cancelled.stop.set()
        else:
            self._forget_reading(cancelled)
        self.fail_request(request, Cancelled("The request was cancelled."))

    # Requests that a worker answers

    def _wait_for_worker(
        self,
        result: Deferred[_T],
        succeeded: Callable[[_T], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._workers += 1

        def ended(_: None) -> None:
            self._workers -= 1
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
                self._fail(request, failure)

        self._wait_for_worker(result, succeeded, failed)

    def _fail(self, request: int, failure: Failure) -> None:
        error = failure.value
        assert error is not None
        if not isinstance(error, Flow512Error):
            self.log.failure("A request could not be answered.", failure=failure)
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

        made = self._service.run_blocking(
            self._service.library.list, wanted.prefix, wanted.after, wanted.limit
        )
        self._work(listing.request, listing, made, answer)
        made.addCallback(ended)

    def _stat(self, frame: Frame) -> None:
        wanted = decode(frame, Stat)
        if bool(wanted.path) == (wanted.root is not None):
            raise BadMessage("STAT names a path or a root, and not both.")
        if wanted.path:
            self.log.info("Request for file: '{path}'", path=escape(wanted.path))

        def answer(entry: Entry) -> None:
            self.send(Stated(entry), frame.request)

        working = _Working()
        self._work(
            frame.request,
            working,
            self._service.run_long(
                self._service.library.stat, wanted.path, wanted.root, working.stop.is_set
            ),
            answer,
        )

    def _page(self, frame: Frame) -> None:
        wanted = decode(frame, PageRequest)

        def answer(page: bytes) -> None:
            header = encode_header(Kind.DIGESTS, frame.request, len(page), wanted.index)
            self.write_small(header + page)

        self._work(
            frame.request,
            _Working(),
            self._service.run_blocking(
                self._service.library.page, wanted.root, wanted.level, wanted.index
            ),
            answer,
        )

    def _checksum(self, frame: Frame) -> None:
        wanted = decode(frame, Checksum)

        def answer(md5: bytes) -> None:
            self.send(Md5(md5), frame.request)

        working = _Working()
        self._work(
            frame.request,
            working,
            self._service.run_long(
                self._service.library.checksum, wanted.root, working.stop.is_set
            ),
            answer,
        )

    # Reads

    def _read(self, frame: Frame) -> None:
        wanted = decode(frame, Read)
        root = wanted.root
        opened = self._files.get(root)
        if opened is not None:
            self._begin_reading(frame.request, wanted, opened)
            return
        is_first = root not in self._opening
        if is_first and not self._make_room():
            busy = Busy(f"At most {MAX_OPEN} files may be read at once; wait for one of them.")
            self.fail_request(frame.request, busy)
            return
        working = self._requests[frame.request] = _Working()
        self._opening.setdefault(root, []).append((frame.request, wanted, working))
        if is_first:
            self._wait_for_worker(
                self._service.run_blocking(self._service.library.open, root),
                lambda file: self._file_opened(root, file),
                lambda failure: self._file_not_opened(root, failure),
            )

    def _make_room(self) -> bool:
        if len(self._files) + len(self._opening) >= MAX_OPEN:
            for root in [root for root, opened in self._files.items() if not opened.readers]:
                self._files.pop(root).file.close()
        return len(self._files) + len(self._opening) < MAX_OPEN

    def _who_waits_for(self, root: bytes) -> list[tuple[int, Read]]:
        return [
            (request, wanted)
            for request, wanted, working in self._opening.pop(root)
            if self._requests.get(request) is working
        ]

    def _file_opened(self, root: bytes, file: OpenContent) -> None:
        waiting = self._who_waits_for(root)
        if not waiting:
            file.close()
            return
        opened = self._files[root] = _Opened(file)
        for request, wanted in waiting:
            del self._requests[request]
            self._begin_reading(request, wanted, opened)

    def _file_not_opened(self, root: bytes, failure: Failure) -> None:
        for request, _ in self._who_waits_for(root):
            del self._requests[request]
            self._fail(request, failure)

    def _begin_reading(self, request: int, wanted: Read, opened: _Opened) -> None:
        try:
            check_pieces(wanted.first, wanted.count, opened.file.size)
        except Flow512Error as error:
            self.fail_request(request, error)
            return
        reading = _Reading(
            request,
            opened,
            wanted.run,
            wanted.first + wanted.count - 1,
            deque(split_at_blocks(wanted.first, wanted.count)),
        )
        opened.readers += 1
        self._requests[request] = reading
        self._waiting.append(reading)
        self._read_ahead()

    def _forget_reading(self, reading: _Reading) -> None:
        reading.opened.readers -= 1
        if reading in self._waiting:
            self._waiting.remove(reading)

    def _read_ahead(self) -> None:
        if self._disk_is_busy or not self._waiting or len(self._ready) >= READ_BLOCKS:
            return
        reading = self._waiting[0]
        spans = [reading.spans.popleft() for _ in range(min(READ_BLOCKS, len(reading.spans)))]
        if not reading.spans:
            self._waiting.popleft()
        self._disk_is_busy = True
        reading.opened.readers += 1
        self._wait_for_worker(
            self._service.run_blocking(_read_spans, reading.opened.file, spans),
            lambda blocks: self._disk_read(blocks, reading, spans),
            lambda failure: self._disk_failed(failure, reading),
        )

    def _disk_is_free(self, reading: _Reading) -> bool:
        self._disk_is_busy = False
        reading.opened.readers -= 1
        if not self.is_open:
            self._close_files()
        return self.is_open

    def _disk_read(self, blocks: list[bytes], reading: _Reading, spans: list[Span]) -> None:
        if not self._disk_is_free(reading):
            return
        if self._requests.get(reading.request) is reading:
            self._ready.extend((reading, *each) for each in zip(spans, blocks, strict=True))
        self._write_ready()

    def _disk_failed(self, failure: Failure, reading: _Reading) -> None:
        if not self._disk_is_free(reading):
            return
        if self._requests.get(reading.request) is reading:
            del self._requests[reading.request]
            self._forget_reading(reading)
            self._fail(reading.request, failure)
        self._write_ready()

    def _unexpected(self, failure: Failure) -> None:
        self.log.failure("Serving failed.", failure=failure)
        self.end(SourceFailure("Something went wrong inside the node; its log tells more."))

    def writable_again(self) -> None:
        self._next_listing()
        self._write_ready()

    def _write_ready(self) -> None:
        if self._is_writing:
            # The disk answered at once: the loop below goes on with what it read.
            return
        self._is_writing = True
        while self._ready and self.is_writable and self.is_open:
            reading, span, block = self._ready.popleft()
            # The disk works on while this is on its way.
            self._read_ahead()
            if self._requests.get(reading.request) is reading:
                self._write_block(reading, span, block)
        self._is_writing = False
        self._read_ahead()

    def _write_block(self, reading: _Reading, span: Span, block: bytes) -> None:
        first, count = span
        if len(block) <= reading.run * PIECE:
            self.connection.write(encode_header(Kind.DATA, reading.request, len(block), first))
            self.connection.write(block)
        else:
            self.connection.write(_data_frames(reading.request, first, block, reading.run))
        if first + count <= reading.last:
            return
        del self._requests[reading.request]
        self._forget_reading(reading)
        file = reading.opened.file
        if reading.last + 1 == piece_count(file.size):
            self.log.info(
                "File sent to {peer}: {content}",
                peer=self.peer,
                content=format_content_id(file.root),
            )

    def _close_files(self) -> None:
        for opened in self._files.values():
            opened.file.close()
        self._files.clear()

    _ANSWERS: ClassVar[dict[int, Callable[[TransferProtocol, Frame], None]]] = {
        Kind.LIST: _list,
        Kind.STAT: _stat,
        Kind.PAGE: _page,
        Kind.READ: _read,
        Kind.CHECKSUM: _checksum,
    }


class TransferFactory(Factory[TransferProtocol]):
    """
    Serves a library to everyone who asks.

    @ivar connections: those that there are.
    """

    noisy = False

    def __init__(
        self,
        library: Library,
        introduction: Introduction,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        run_long: RunBlocking | None = None,
        patience: Patience | None = None,
    ) -> None:
        """
        @param library: what is served.
        @param introduction: what the node says of itself.
        @param clock: for the deadlines.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files, so that quick work need not wait for it;
            C{run_blocking} unless given.
        @param patience: how long the deadlines are.
        """
        self.library = library
        self.introduction = introduction
        self.clock = clock
        self.run_blocking = run_blocking
        self.run_long = run_long or run_blocking
        self.patience = patience or Patience()
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
