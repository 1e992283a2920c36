"""
Serving files whose root is not known yet: from a STREAM to the ENTRY that has the root.

Where the blocks of a file are::

    STREAM ──its turn, opened──> waiting ──disk, hashed──> ready ──transport──> through
                                    └─── in order, by Course ───┘                 │
                                          ENTRY <──── the tree is made and kept ──┘

The streams of one conversation are sent one after the other, and one file is open for them at a
time. What L{flow512.transfer.reading} says of its flow control holds here: at most one visit to the
disk is under way, of at most L{READ_BLOCKS} blocks, and it begins only while fewer than that are
ready; what is held counts in L{flow512.transfer.read_memory}, and what is sent in
L{flow512.link.throttle}.

A stream that begins with the first block makes the tree as it goes on. Of one that does not, the
library tells the root at the end: by then it may know it, or else hashes the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flow512.content.library import Library, View
from flow512.content.opened import changed, close_all
from flow512.content.paths import escape
from flow512.content.tree import format_content_id
from flow512.content.unhashed import UnhashedContent
from flow512.interfaces import AtMost, RunBlocking
from flow512.link.throttle import Throttle
from flow512.transfer.course import Course
from flow512.transfer.outgoing import Outgoing
from flow512.transfer.read_memory import ReadMemory
from flow512.transfer.reading import READ_BLOCKS
from flow512.transfer.serving import BulkConversation
from flow512.transfer.shared_work import SharedWork
from flow512.wire.messages import Entry, Stated
from flow512.wire.streaming import Stream

_T = TypeVar("_T")


class _Asked(msgspec.Struct, eq=False):
    """
    A STREAM that has not ended.

    @ivar stop: set when nobody wants it any more.
    @ivar view: what whoever asks may see; with C{content}, once that is open.
    """

    request: int
    wanted: Stream
    stop: Event = msgspec.field(default_factory=Event)
    view: View | None = None
    content: UnhashedContent | None = None
    course: Course | None = None


class Streams:
    """
    All streams of one conversation that have not ended.

    @ivar outgoing: what its transport has not taken yet.
    """

    def __init__(
        self,
        conversation: BulkConversation,
        library: Library,
        run_blocking: RunBlocking,
        reading: AtMost,
        long_work: SharedWork,
        memory: ReadMemory,
        throttle: Throttle,
    ) -> None:
        """
        @param conversation: whose they are.
        @param library: what is shared.
        @param run_blocking: runs what opens and closes files.
        @param reading: runs what reads them, by the disk that they are on.
        @param long_work: hashes whole files.
        @param memory: what is held of it meanwhile.
        @param throttle: says how fast it may be sent.
        """
        self._conversation = conversation
        self._library = library
        self._run_blocking = run_blocking
        self._reading = reading
        self._long_work = long_work
        self._memory = memory
        self._throttle = throttle
        self._pending: dict[int, _Asked] = {}
        self._turns: deque[_Asked] = deque()
        self._now: _Asked | None = None  # stays while a worker is at it, wanted or not
        self._is_busy = False
        self._is_writing = False
        self.outgoing = Outgoing(conversation, memory, self._read_ahead)

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def begin(self, request: int, wanted: Stream) -> None:
        """
        Take a request on.

        @param request: its number, which is not in use.
        """
        asked = self._pending[request] = _Asked(request, wanted)
        self._turns.append(asked)
        self._go_on()

    def cancel(self, request: int) -> None:
        """
        Forget a request; its end is the caller's to write.
        """
        asked = self._pending.pop(request)
        asked.stop.set()
        if asked is self._now:
            self._let_go()
        else:
            self._turns.remove(asked)

    def write_ready(self) -> None:
        """
        Write what has been read, while the transport takes it, and read on.
        """
        if self._is_writing:
            # The disk answered at once: the loop below goes on with what it read.
            return
        self._is_writing = True
        while (course := self._ready_course()) is not None:
            if self._throttle.is_limited and not self._throttle.ask(self, course.next_size()):
                break
            frames, block = course.write()
            if self._memory.is_plentiful:
                # The disk works on while this is on its way.
                self._read_ahead()
            self.outgoing.give(len(block))
            self._conversation.connection.write(frames)
            self.outgoing.given_back(block)
            self.outgoing.given()
        self._is_writing = False
        self._go_on()

    def _ready_course(self) -> Course | None:
        course = None if self._now is None else self._now.course
        if course is None or not course.ready:
            return None
        conversation = self._conversation
        return course if conversation.is_writable and conversation.is_open else None

    def end(self) -> None:
        """
        Forget everything; the conversation is over.
        """
        for asked in self._pending.values():
            asked.stop.set()
        self._pending.clear()
        self._turns.clear()
        self.outgoing.end()
        self._throttle.forget(self)
        self._let_go()

    # From the throttle

    def turn_came(self) -> None:
        """
        Write: see L{flow512.link.throttle.Taker}.
        """
        self.write_ready()

    # One after the other

    def _is_wanted(self, asked: _Asked) -> bool:
        return self._pending.get(asked.request) is asked

    def _let_go(self) -> None:
        """Close the file, unless a worker is at it, and what was read of it is not needed."""
        asked = self._now
        if asked is None:
            return
        if asked.course is not None:
            course, asked.course = asked.course, None
            self._memory.release(course.held)
        if self._is_busy:
            return
        self._now = None
        if asked.content is not None:
            closed = self._run_blocking(close_all, [asked.content])
            self._conversation.wait_for_worker(closed, lambda _: None, Failure.raiseException)
        self._go_on()

    def _go_on(self) -> None:
        if self._now is None and self._turns and self._conversation.is_open:
            self._open(self._turns.popleft())
        elif self._now is not None and self._now.course is not None:
            if self._now.course.is_through:
                self._finish(self._now)
            else:
                self._read_ahead()

    def _work(
        self, asked: _Asked, result: Deferred[_T], came: Callable[[_T], None], held: int = 0
    ) -> None:
        self._is_busy = True

        def succeeded(value: _T) -> None:
            self._is_busy = False
            if self._is_wanted(asked):
                came(value)
            else:
                self._memory.release(held)
                self._let_go()

        def failed(failure: Failure) -> None:
            self._is_busy = False
            self._memory.release(held)
            if not self._is_wanted(asked):
                self._let_go()
                return
            assert failure.value is not None
            self.cancel(asked.request)
            self._conversation.fail(asked.request, failure.value)

        self._conversation.wait_for_worker(result, succeeded, failed)

    # The disk

    def _open(self, asked: _Asked) -> None:
        self._now = asked
        wanted, library, asker = asked.wanted, self._library, self._conversation.asker

        def open_in_worker() -> None:
            view = asked.view = library.seen_by(asker)
            asked.content = library.open_unhashed(
                wanted.path, wanted.size, wanted.mtime, wanted.first, view
            )

        def opened(_: None) -> None:
            asked.course = Course(asked.request, wanted.size, wanted.first, wanted.run)
            self._go_on()

        self._work(asked, self._run_blocking(open_in_worker), opened)

    def _read_ahead(self) -> None:
        asked = self._now
        course = None if asked is None else asked.course
        if self._is_busy or asked is None or course is None or course.is_read:
            return
        if course.ready >= READ_BLOCKS:
            return
        is_plentiful = self._memory.is_plentiful
        if not is_plentiful:
            if course.ready or not self._conversation.is_writable:
                return  # until the transport has taken what there is
            if not self.outgoing.may_hold_block():
                return  # until its turn has come
        lengths = course.to_read(READ_BLOCKS if is_plentiful else 1)
        rooms = [self._memory.buffers.take(length) for length in lengths]
        held = sum(lengths)
        self._memory.hold(held)

        def read(digests: list[bytes]) -> None:
            course.came(rooms, digests)
            self.write_ready()

        content = asked.content
        assert content is not None
        self._work(asked, self._reading.on(content.disk)(content.read, rooms), read, held)

    def _finish(self, asked: _Asked) -> None:
        if self._is_busy:
            return
        content, view, path = asked.content, asked.view, asked.wanted.path
        assert content is not None

        def stat_unless_known(known: Entry | None) -> Entry | Deferred[Entry]:
            if known is not None:
                return known
            return self._long_work.join(
                (view, path),
                asked.stop,
                lambda may_stop: self._library.stat(path, None, may_stop, view),
            )

        found: Deferred[Entry] = self._run_blocking(content.finish).addCallback(stat_unless_known)
        self._work(asked, found, lambda entry: self._answer(asked, entry))

    def _answer(self, asked: _Asked, entry: Entry) -> None:
        wanted, conversation = asked.wanted, self._conversation
        self.cancel(asked.request)
        if (entry.size, entry.mtime) != (wanted.size, wanted.mtime) or entry.root is None:
            conversation.fail(asked.request, changed(f"'{escape(wanted.path)}'"))
        else:
            conversation.send(Stated(entry), asked.request)
            conversation.lines.info(
                "File sent to {peer}: {content}",
                peer=conversation.peer,
                content=format_content_id(entry.root),
            )
