"""
The reads of one serving conversation: from the request to the last data frame.

Where the bytes of a read are::

    READ ──open the file──> waiting ──disk──> ready ──transport──> ended
                               └── in the order of their arrival ──┘

What is read from the disk is read to rooms: of a block each, or of as many as one frame may carry.
A room is written by itself, in one frame or in several.

Two ways lead from waiting to ready::

    a worker      looks at who may see the file, and reads, however long the disk takes
    at once       reads what the system has in memory, on the reactor's thread, for L{LOOK_HOLDS}
                  seconds after a worker has looked. What it has not workers read, and all that
                  is wanted of the file in the L{MISS_HOLDS} seconds after that

Flow control. At most one worker is reading, at most L{READ_BLOCKS} blocks; it begins only while
fewer than that are ready. At once is read only what is written next. Rooms that are ready are
written only while the transport is not full. So a conversation holds at most 2 * L{READ_BLOCKS} - 1
blocks (1.75 MiB), and one room more in the transport. A client that reads nothing stops its own
disk reads, and nobody else's; nor is more than L{READ_BLOCKS} blocks read at once before the
reactor looks at other connections.

All conversations share L{flow512.transfer.read_memory}. When that is short, nothing is read ahead:
one block is read when the transport has nothing of the one before, and the memory's turn has come.
What a conversation holds is counted there from the moment that the disk is asked until the
transport has no need of it (L{flow512.transfer.outgoing}), or the connection is gone.

They share L{flow512.transfer.turns}, too: where many want some, each is sent one block when its
turn has come, and of its reads the one goes first whose next block was sent longest ago to anybody.

If sending is limited (L{flow512.link.throttle}), rooms have one block, and one that is ready waits
for its turn as well; its frames are counted with their headers.

At most L{MAX_OPEN} files are open (L{flow512.transfer.open_files}).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from math import inf
from typing import Final

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from flow512.content.opened import close_all
from flow512.content.pieces import (
    Span,
    byte_range,
    check_pieces,
    cut_into_runs,
    piece_count,
    span_from,
)
from flow512.content.tree import format_content_id
from flow512.errors import Busy, Flow512Error
from flow512.interfaces import SMALL, AtMost, RunBlocking
from flow512.link.bulk import IBulkTransport
from flow512.link.throttle import Throttle
from flow512.transfer.contents import Contents, ServedContent
from flow512.transfer.open_files import Opened, OpenFiles
from flow512.transfer.outgoing import Outgoing
from flow512.transfer.read_memory import ReadMemory
from flow512.transfer.serving import BulkConversation
from flow512.transfer.turns import Turns, Wanted
from flow512.units import PIECE, PIECES_PER_BLOCK
from flow512.wire.frame import HEADER_SIZE, encode_header
from flow512.wire.messages import Kind, Read

READ_BLOCKS: Final = 4
"""Blocks that one visit to the disk reads (1 MiB)."""

MAX_OPEN: Final = 8
"""Files that one conversation may have open at once, for all of its reads together."""

LOOK_HOLDS: Final = 0.5
"""Seconds for which a worker's look at who may see a file holds, where it is read at once."""

MISS_HOLDS: Final = 1.0
"""Seconds for which workers read a file that the system was found not to have in memory."""

READS_TO_CHOOSE: Final = 16
"""Reads from which the next block is chosen, where many conversations wait."""


class _Opening(msgspec.Struct, eq=False):
    """A READ whose file is not open yet."""

    request: int
    wanted: Read


class _Reading(msgspec.Struct, eq=False):
    """
    A READ whose file is open.

    @ivar opened: the file that it reads.
    @ivar run: at most so many pieces in a frame.
    @ivar next: the first piece that has not been read from the disk yet.
    @ivar end: the one after the last that is wanted.
    """

    request: int
    opened: Opened
    run: int
    next: int
    end: int

    def take(self, blocks: int, together: int) -> list[Span]:
        """
        Say what is to be read next, a span for each room.

        @param blocks: so many, at most.
        @param together: so many in a room, at most, if a frame may carry them.
        """
        together = min(together, self.run // PIECES_PER_BLOCK) or 1
        spans = []
        while blocks and self.next < self.end:
            span = span_from(self.next, self.end, min(blocks, together))
            self.next += span.pieces
            blocks -= len(span.blocks)
            spans.append(span)
        return spans


def _may_be_read_at_once(opened: Opened, now: float) -> bool:
    return opened.missed + MISS_HOLDS <= now < opened.looked + LOOK_HOLDS


def _open(contents: Contents, root: bytes, asker: bytes, *, reads_cached: bool) -> ServedContent:
    file = contents.open(root, asker)
    if reads_cached:
        file.cached.look()
    return file


def _read(file: ServedContent, first: int, rooms: Sequence[bytearray]) -> None:
    # A file stays open from one request to the next, and the rules may change between.
    file.check_access()
    file.read_into(first * PIECE, rooms)


def _length_of_frames(room: bytearray, run: int) -> int:
    frames = -(-len(room) // (run * PIECE))
    return frames * HEADER_SIZE + len(room)


def _data_frames(request: int, first: int, data: memoryview, run: int) -> bytes:
    frames: list[bytes | memoryview] = []
    for position, body in cut_into_runs(first, data, run):
        frames += (encode_header(Kind.DATA, request, len(body), position), body)
    return b"".join(frames)


class Reads:
    """
    All reads of one conversation that have not ended.

    @ivar outgoing: what its transport has not taken yet.
    """

    def __init__(
        self,
        conversation: BulkConversation,
        contents: Contents,
        run_blocking: RunBlocking,
        reading: AtMost,
        memory: ReadMemory,
        throttle: Throttle,
        turns: Turns,
        clock: IReactorTime,
        reads_cached: bool,
    ) -> None:
        """
        @param conversation: whose they are.
        @param contents: what may be read.
        @param run_blocking: runs what closes files.
        @param reading: runs what opens and reads them, by the disk that they are on.
        @param memory: what is held of it meanwhile.
        @param throttle: says how fast it may be sent.
        @param turns: says whom it is sent to, where many want some.
        @param clock: for what is read at once.
        @param reads_cached: whether that may be done.
        """
        self._conversation = conversation
        self._contents = contents
        self._run_blocking = run_blocking
        self._reading = reading
        self._memory = memory
        self._throttle = throttle
        self._turns = turns
        self._clock = clock
        self._reads_cached = reads_cached
        self._left_at_once = READ_BLOCKS  # blocks, until the reactor looks at other connections
        self._later: IDelayedCall | None = None
        self._bulk: IBulkTransport | None = None
        self._pending: dict[int, _Opening | _Reading] = {}
        self._files = OpenFiles(self._close)
        self._opening: dict[bytes, list[_Opening]] = {}
        self._waiting: deque[_Reading] = deque()
        self._ready: deque[tuple[_Reading, Span, bytearray]] = deque()
        self._disk_is_busy = False
        self._is_writing = False
        self.outgoing = Outgoing(conversation, memory, self.go_on, self._taken)

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def connected(self) -> None:
        """
        Take note that the conversation has its transport.
        """
        self._bulk = IBulkTransport(self._conversation.connection, None)

    def begin(self, request: int, wanted: Read) -> None:
        """
        Take a request on.

        @param request: its number, which is not in use.
        """
        root = wanted.root
        opened = self._files.find(root)
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
            now = self._clock.seconds()
            file = self._reading.on(SMALL)(
                _open,
                self._contents,
                root,
                self._conversation.asker,
                reads_cached=self._reads_cached,
            )
            self._conversation.wait_for_worker(
                file,
                lambda file: self._file_opened(root, file, now),
                lambda failure: self._file_not_opened(root, failure),
            )

    def cancel(self, request: int) -> None:
        """
        Forget a request; its end is the caller's to write.
        """
        cancelled = self._pending.pop(request)
        if isinstance(cancelled, _Reading):
            self._forget(cancelled)
        else:
            self._opening[cancelled.wanted.root].remove(cancelled)

    def write_ready(self) -> None:
        """
        Write what has been read, while the transport takes it.
        """
        if not self._is_writing:
            self._left_at_once = READ_BLOCKS
            self._go_on_writing()

    def _go_on_writing(self) -> None:
        if self._is_writing:
            return  # the loop below goes on with what there is now
        self._is_writing = True
        while self._ready or self._read_ahead():
            if not (self._conversation.is_writable and self._conversation.is_open):
                break
            if self._throttle.is_limited and not self._has_turn():
                break
            self._write_next()
        self._is_writing = False
        if self._ready:
            self._read_ahead()

    def _write_next(self) -> None:
        reading, span, room = self._ready.popleft()
        if self._memory.is_plentiful:
            # The disk works on while this is on its way.
            self._read_ahead(by_worker=True)
        self.outgoing.give(len(room))
        if self._pending.get(reading.request) is reading:
            self._write_room(reading, span, room)
        else:
            self.outgoing.given_back(room)
        self.outgoing.given()

    def _write_later(self) -> None:
        if self._later is None:
            self._later = self._clock.callLater(0, self._write_now)

    def _write_now(self) -> None:
        self._later = None
        self._conversation.turn_came()  # and what has ended is counted

    def _has_turn(self) -> bool:
        reading, _, room = self._ready[0]
        if self._pending.get(reading.request) is not reading:
            return True  # nothing of it is sent
        return self._throttle.ask(self._conversation, _length_of_frames(room, reading.run))

    def end(self) -> None:
        """
        Forget everything; the conversation is over.
        """
        self._pending.clear()
        self._waiting.clear()
        ready = sum(len(room) for _, _, room in self._ready)
        self._ready.clear()
        self.outgoing.end()
        self._throttle.forget(self._conversation)
        self._memory.release(ready)
        self._turns.leave(self)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if not self._disk_is_busy:
            self._files.close_all()

    # From the memory and the turns

    def go_on(self) -> None:
        """
        Ask the disk, if there is still something to ask it for.
        """
        self._read_ahead()

    def wanted(self) -> Iterator[Wanted]:
        """
        Say which blocks could be sent next; see L{flow512.transfer.turns.Reader}.
        """
        for reading in islice(self._waiting, READS_TO_CHOOSE):
            yield reading.opened.file.root, reading.next // PIECES_PER_BLOCK

    # Files

    def _make_room(self) -> bool:
        if len(self._files) + len(self._opening) >= MAX_OPEN:
            self._files.close_unread(all_of_them=True)
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

    def _file_opened(self, root: bytes, file: ServedContent, looked: float) -> None:
        waiting = self._take_who_waits_for(root)
        opened = Opened(file, looked)
        if not waiting:
            self._files.close([opened])
            return
        self._files.add(opened)
        for opening in waiting:
            self._begin_reading(opening.request, opening.wanted, opened)

    def _file_not_opened(self, root: bytes, failure: Failure) -> None:
        assert failure.value is not None
        for opening in self._take_who_waits_for(root):
            self._conversation.fail(opening.request, failure.value)

    def _close(self, files: list[ServedContent]) -> None:
        closed = self._run_blocking(close_all, files)
        self._conversation.wait_for_worker(closed, lambda _: None, Failure.raiseException)

    # The disk

    def _begin_reading(self, request: int, wanted: Read, opened: Opened) -> None:
        try:
            check_pieces(wanted.first, wanted.count, opened.file.size)
        except Flow512Error as error:
            self._conversation.fail(request, error)
            return
        reading = _Reading(
            request,
            opened,
            wanted.run,
            wanted.first,
            wanted.first + wanted.count,
        )
        opened.readers += 1
        self._pending[request] = reading
        self._waiting.append(reading)
        self._go_on_writing()

    def _forget(self, reading: _Reading) -> None:
        reading.opened.readers -= 1
        if reading in self._waiting:
            self._waiting.remove(reading)
            self._leave_turn_if_idle()
        self._files.close_unread()

    def _read_ahead(self, *, by_worker: bool = False) -> bool:
        """
        Have what is wanted next read, if it is time for that.

        @param by_worker: whether only a worker may read it now.
        @return: whether it is ready now: read at once, or by a worker who took no time.
        """
        self._leave_turn_if_idle()
        if self._disk_is_busy or not self._waiting or self._ready_blocks() >= READ_BLOCKS:
            return False
        is_writable = self._conversation.is_writable
        is_plentiful = self._memory.is_plentiful and not self._turns.is_crowded
        if not is_plentiful and (self._ready or not is_writable or self.outgoing.size):
            return False  # until the transport has taken what there is
        reading = self._waiting[self._turns.first_of(self.wanted())]
        opened, now = reading.opened, self._clock.seconds()
        is_at_once = self._reads_cached and _may_be_read_at_once(opened, now)
        if is_at_once and (by_worker or self._ready or not is_writable):
            return False
        if is_at_once and self._is_writing and self._left_at_once <= 0:
            self._write_later()
            return False
        if not self._turns.ask(self) or not (is_plentiful or self.outgoing.may_hold_block()):
            return False  # until its turn has come
        most = READ_BLOCKS if is_plentiful else 1
        spans = reading.take(most, 1 if self._throttle.is_limited else most)
        if reading.next == reading.end:
            self._waiting.remove(reading)
        for span in spans:
            for block in span.blocks:
                self._turns.begin((opened.file.root, block))
        size = opened.file.size
        rooms = [self._memory.buffers.take(byte_range(*span, size)[1]) for span in spans]
        self._memory.hold(sum(map(len, rooms)))
        if is_at_once:
            is_read = opened.file.read_cached(spans[0].first * PIECE, rooms)
            if opened.file.cached.is_missed:
                opened.missed = now
            if is_read:
                self._ready.extend((reading, *each) for each in zip(spans, rooms, strict=True))
                self._left_at_once -= sum(len(span.blocks) for span in spans)
                if not self._is_writing:
                    self._write_later()
                return True
        self._let_worker_read(reading, spans, rooms, now)
        return bool(self._ready)

    def _let_worker_read(
        self, reading: _Reading, spans: list[Span], rooms: list[bytearray], now: float
    ) -> None:
        self._disk_is_busy = True
        opened, held = reading.opened, sum(map(len, rooms))
        opened.readers += 1

        def succeeded(_: None) -> None:
            opened.looked = now
            self._disk_read(rooms, reading, spans, held)

        def failed(failure: Failure) -> None:
            opened.looked = -inf
            self._disk_failed(failure, reading, held)

        read = self._reading.on(opened.file.disk)
        done = read(_read, opened.file, spans[0].first, rooms)
        self._conversation.wait_for_worker(done, succeeded, failed)

    def _ready_blocks(self) -> int:
        return sum(len(span.blocks) for _, span, _ in self._ready)

    def _leave_turn_if_idle(self) -> None:
        if not (self._waiting or self._disk_is_busy or self._ready or self.outgoing.size):
            self._turns.leave(self)

    def _disk_is_free(self, reading: _Reading) -> bool:
        self._disk_is_busy = False
        reading.opened.readers -= 1
        self._files.close_unread()
        if not self._conversation.is_open:
            self._files.close_all()
        return self._conversation.is_open

    def _disk_read(
        self, rooms: list[bytearray], reading: _Reading, spans: list[Span], held: int
    ) -> None:
        is_open = self._disk_is_free(reading)
        if is_open and self._pending.get(reading.request) is reading:
            self._ready.extend((reading, *each) for each in zip(spans, rooms, strict=True))
        else:
            self._memory.release(held)
        if is_open:
            self.write_ready()

    def _disk_failed(self, failure: Failure, reading: _Reading, held: int) -> None:
        is_open = self._disk_is_free(reading)
        self._memory.release(held)
        if not is_open:
            return
        if self._pending.get(reading.request) is reading:
            assert failure.value is not None
            self.cancel(reading.request)
            self._conversation.fail(reading.request, failure.value)
        self.write_ready()

    # The transport

    def _taken(self, size: int) -> None:
        self._turns.taken(self, size)
        if not self._is_writing:
            self._read_ahead()

    def _write_room(self, reading: _Reading, span: Span, room: bytearray) -> None:
        first, count = span
        connection = self._conversation.connection
        given_back = partial(self.outgoing.given_back, room)
        if len(room) > reading.run * PIECE:
            connection.write(_data_frames(reading.request, first, memoryview(room), reading.run))
            given_back()
        else:
            header = encode_header(Kind.DATA, reading.request, len(room), first)
            if self._bulk is not None:
                self._bulk.write_bulk(header, memoryview(room), given_back)
            else:
                connection.write(header)
                connection.write(bytes(room))
                given_back()
        if first + count < reading.end:
            return
        self.cancel(reading.request)
        file = reading.opened.file
        if reading.end == piece_count(file.size):
            self._conversation.lines.info(
                "File sent to {peer}: {content}",
                peer=self._conversation.peer,
                content=format_content_id(file.root),
            )
