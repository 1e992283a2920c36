"""
The reads of one serving conversation: from the request to the last data frame.

Where the bytes of a read are::

    READ ──open the file──> waiting ──disk──> ready ──transport──> ended
                               └── in the order of their arrival ──┘

Flow control. At most one disk read is under way, of at most L{READ_BLOCKS} blocks; it begins only
while fewer than that are ready. Blocks that are ready are written only while the transport is not
full. So a conversation holds at most 2 * L{READ_BLOCKS} - 1 blocks (1.75 MiB), and one more in
the transport. A client that reads nothing stops its own disk reads, and nobody else's.

A file is open once, however many reads want it, and at most L{MAX_OPEN} are. It is closed when
the room is needed and nobody reads it, or when the conversation ends, but never while a worker
is at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.library import Library, OpenContent
from flow512.content.pieces import (
    Span,
    byte_range,
    check_pieces,
    cut_into_runs,
    piece_count,
    split_at_blocks,
)
from flow512.content.tree import format_content_id
from flow512.errors import Busy, Flow512Error
from flow512.interfaces import RunBlocking
from flow512.link.conversation import Transport
from flow512.units import PIECE
from flow512.wire.frame import encode_header
from flow512.wire.messages import Kind, Read

READ_BLOCKS: Final = 4
"""Blocks that one visit to the disk reads (1 MiB)."""

MAX_OPEN: Final = 8
"""Files that one conversation may have open at once, for all of its reads together."""

_T = TypeVar("_T")


class ServingConversation(Protocol):
    """
    What reads need of the conversation that they belong to.

    @ivar connection: where data frames are written.
    @ivar is_writable: whether that takes any now.
    """

    connection: Transport
    is_writable: bool

    @property
    def is_open(self) -> bool:
        """Whether anything may be written at all."""

    @property
    def peer(self) -> tuple[str, int]:
        """Who reads, for logs."""

    def wait_for_worker(
        self,
        result: Deferred[_T],
        succeeded: Callable[[_T], None],
        failed: Callable[[Failure], None],
    ) -> None:
        """Go on when a worker is done."""

    def fail(self, request: int, error: BaseException) -> None:
        """Write the end of a request that cannot be answered."""


@dataclass(eq=False)
class _Opened:
    """
    A file that is being read.

    @ivar file: it.
    @ivar readers: how many need it: reads of this conversation, and the worker that is at it.
    """

    file: OpenContent
    readers: int = 0


@dataclass(eq=False)
class _Opening:
    """A READ whose file is not open yet."""

    request: int
    wanted: Read


@dataclass(eq=False)
class _Reading:
    """
    A READ whose file is open.

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


def _read_spans(file: OpenContent, spans: Sequence[Span]) -> list[bytes]:
    return [file.read(*byte_range(*span, file.size)) for span in spans]


def _data_frames(request: int, first: int, data: bytes, run: int) -> bytes:
    frames: list[bytes | memoryview] = []
    for position, body in cut_into_runs(first, data, run):
        frames += (encode_header(Kind.DATA, request, len(body), position), body)
    return b"".join(frames)


class Reads:
    """
    All reads of one conversation that have not ended.
    """

    log = Logger()

    def __init__(
        self, conversation: ServingConversation, library: Library, run_blocking: RunBlocking
    ) -> None:
        """
        @param conversation: whose they are.
        @param library: what is read.
        @param run_blocking: runs what waits for the disk.
        """
        self._conversation = conversation
        self._library = library
        self._run_blocking = run_blocking
        self._pending: dict[int, _Opening | _Reading] = {}
        self._files: dict[bytes, _Opened] = {}
        self._opening: dict[bytes, list[_Opening]] = {}
        self._waiting: deque[_Reading] = deque()
        self._ready: deque[tuple[_Reading, Span, bytes]] = deque()
        self._disk_is_busy = False
        self._is_writing = False

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def begin(self, request: int, wanted: Read) -> None:
        """
        Take a request on.

        @param request: its number, which is not in use.
        """
        root = wanted.root
        opened = self._files.get(root)
        if opened is not None:
            self._begin_reading(request, wanted, opened)
            return
        is_first = root not in self._opening
        if is_first and not self._make_room():
            self._conversation.fail(
                request,
                Busy(f"At most {MAX_OPEN} files may be read at once; wait for one of them."),
            )
            return
        opening = self._pending[request] = _Opening(request, wanted)
        self._opening.setdefault(root, []).append(opening)
        if is_first:
            self._conversation.wait_for_worker(
                self._run_blocking(self._library.open, root),
                lambda file: self._file_opened(root, file),
                lambda failure: self._file_not_opened(root, failure),
            )

    def cancel(self, request: int) -> None:
        """
        Forget a request; its end is the caller's to write.
        """
        cancelled = self._pending.pop(request)
        if isinstance(cancelled, _Reading):
            self._forget(cancelled)

    def write_ready(self) -> None:
        """
        Write what has been read, while the transport takes it.
        """
        if self._is_writing:
            # The disk answered at once: the loop below goes on with what it read.
            return
        self._is_writing = True
        while self._ready and self._conversation.is_writable and self._conversation.is_open:
            reading, span, block = self._ready.popleft()
            # The disk works on while this is on its way.
            self._read_ahead()
            if self._pending.get(reading.request) is reading:
                self._write_block(reading, span, block)
        self._is_writing = False
        self._read_ahead()

    def end(self) -> None:
        """
        Forget everything; the conversation is over.
        """
        self._pending.clear()
        self._waiting.clear()
        self._ready.clear()
        if not self._disk_is_busy:
            self._close_files()

    # Files

    def _make_room(self) -> bool:
        if len(self._files) + len(self._opening) >= MAX_OPEN:
            for root in [root for root, opened in self._files.items() if not opened.readers]:
                self._files.pop(root).file.close()
        return len(self._files) + len(self._opening) < MAX_OPEN

    def _take_who_waits_for(self, root: bytes) -> list[_Opening]:
        waiting = [
            opening
            for opening in self._opening.pop(root)
            if self._pending.get(opening.request) is opening
        ]
        for opening in waiting:
            del self._pending[opening.request]
        return waiting

    def _file_opened(self, root: bytes, file: OpenContent) -> None:
        waiting = self._take_who_waits_for(root)
        if not waiting:
            file.close()
            return
        opened = self._files[root] = _Opened(file)
        for opening in waiting:
            self._begin_reading(opening.request, opening.wanted, opened)

    def _file_not_opened(self, root: bytes, failure: Failure) -> None:
        assert failure.value is not None
        for opening in self._take_who_waits_for(root):
            self._conversation.fail(opening.request, failure.value)

    def _close_files(self) -> None:
        for opened in self._files.values():
            opened.file.close()
        self._files.clear()

    # The disk

    def _begin_reading(self, request: int, wanted: Read, opened: _Opened) -> None:
        try:
            check_pieces(wanted.first, wanted.count, opened.file.size)
        except Flow512Error as error:
            self._conversation.fail(request, error)
            return
        reading = _Reading(
            request,
            opened,
            wanted.run,
            wanted.first + wanted.count - 1,
            deque(split_at_blocks(wanted.first, wanted.count)),
        )
        opened.readers += 1
        self._pending[request] = reading
        self._waiting.append(reading)
        self._read_ahead()

    def _forget(self, reading: _Reading) -> None:
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
        self._conversation.wait_for_worker(
            self._run_blocking(_read_spans, reading.opened.file, spans),
            lambda blocks: self._disk_read(blocks, reading, spans),
            lambda failure: self._disk_failed(failure, reading),
        )

    def _disk_is_free(self, reading: _Reading) -> bool:
        self._disk_is_busy = False
        reading.opened.readers -= 1
        if not self._conversation.is_open:
            self._close_files()
        return self._conversation.is_open

    def _disk_read(self, blocks: list[bytes], reading: _Reading, spans: list[Span]) -> None:
        if not self._disk_is_free(reading):
            return
        if self._pending.get(reading.request) is reading:
            self._ready.extend((reading, *each) for each in zip(spans, blocks, strict=True))
        self.write_ready()

    def _disk_failed(self, failure: Failure, reading: _Reading) -> None:
        if not self._disk_is_free(reading):
            return
        if self._pending.get(reading.request) is reading:
            assert failure.value is not None
            self.cancel(reading.request)
            self._conversation.fail(reading.request, failure.value)
        self.write_ready()

    # The transport

    def _write_block(self, reading: _Reading, span: Span, block: bytes) -> None:
        first, count = span
        connection = self._conversation.connection
        if len(block) <= reading.run * PIECE:
            connection.write(encode_header(Kind.DATA, reading.request, len(block), first))
            connection.write(block)
        else:
            connection.write(_data_frames(reading.request, first, block, reading.run))
        if first + count <= reading.last:
            return
        self.cancel(reading.request)
        file = reading.opened.file
        if reading.last + 1 == piece_count(file.size):
            self.log.info(
                "File sent to {peer}: {content}",
                peer=self._conversation.peer,
                content=format_content_id(file.root),
            )
