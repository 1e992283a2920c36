"""
Serving many small contents: from a BUNDLE to the parcel that holds the last of them.

Where the contents of a bundle are::

    BUNDLE ──> waiting ──a worker reads a parcel full──> ready ──transport──> ended
                 └──── in turns, a parcel each ────┘

Flow control. One parcel of a conversation is ready at most, and the next is read only when there is
none, or it is about to be written; so a conversation holds at most two blocks for all its bundles,
and one more in the transport. It counts in L{flow512.transfer.read_memory} as the blocks of reads
do, from the moment that the disk is asked until the transport has taken it, and its sending in
L{flow512.link.throttle}. When the memory is short, nothing is read ahead: a parcel is read when the
transport is ready for it, and the memory's turn has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec
from twisted.python.failure import Failure

from flow512.interfaces import RunBlocking
from flow512.link.bulk import FULL, IBulkTransport
from flow512.link.throttle import Throttle
from flow512.transfer.contents import Contents
from flow512.transfer.outgoing import Outgoing
from flow512.transfer.read_memory import ReadMemory
from flow512.transfer.serving import BulkConversation
from flow512.units import BLOCK
from flow512.wire.bundle import Bundle, Parcel
from flow512.wire.frame import HEADER_SIZE, encode_header
from flow512.wire.messages import Kind


class _Asked(msgspec.Struct, eq=False):
    """
    A BUNDLE that has not ended.

    @ivar read: contents that a worker has brought.
    """

    request: int
    roots: tuple[bytes, ...]
    read: int = 0


class _Ready(msgspec.Struct, frozen=True, eq=False):
    """
    What a worker has brought.

    @ivar first: the number of the first content in it.
    @ivar buffer: what the parcel is in.
    """

    asked: _Asked
    first: int
    parcel: Parcel
    buffer: bytearray


class Bundles:
    """
    All bundles of one conversation that have not ended.

    @ivar outgoing: what its transport has not taken yet.
    """

    def __init__(
        self,
        conversation: BulkConversation,
        contents: Contents,
        run_blocking: RunBlocking,
        memory: ReadMemory,
        throttle: Throttle,
        ended: Callable[[], None],
    ) -> None:
        """
        @param conversation: whose they are.
        @param contents: what may be read.
        @param run_blocking: runs what waits for the disk.
        @param memory: what is held of it meanwhile.
        @param throttle: says how fast it may be sent.
        @param ended: called when one has had its end.
        """
        self._conversation = conversation
        self._contents = contents
        self._run_blocking = run_blocking
        self._memory = memory
        self._throttle = throttle
        self._ended = ended
        self._pending: dict[int, _Asked] = {}
        self._turns: deque[_Asked] = deque()
        self._is_reading = False
        self._is_writing = False
        self._ready: _Ready | None = None
        self.outgoing = Outgoing(conversation, memory, self._read, lambda _: self._read())

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def begin(self, request: int, wanted: Bundle) -> None:
        """
        Take a request on.

        @param request: its number, which is not in use.
        """
        asked = self._pending[request] = _Asked(request, wanted.roots)
        self._turns.append(asked)
        self._read()

    def cancel(self, request: int) -> None:
        """
        Forget a request; its end is the caller's to write.
        """
        asked = self._pending.pop(request)
        if asked in self._turns:
            self._turns.remove(asked)

    def write_ready(self) -> None:
        """
        Write what has been read, if the transport takes it, and read on.
        """
        if self._is_writing:
            # The disk answered at once: the loop below goes on with what it read.
            return
        self._is_writing = True
        while (ready := self._ready) is not None and self._conversation.is_writable:
            if not self._has_turn(ready):
                break
            self._ready = None
            if self._memory.is_plentiful:
                # The disk works on while this is on its way.
                self._read()
            if self._is_wanted(ready.asked):
                self._write(ready)
            else:
                self._done_with(ready.buffer)
        self._is_writing = False
        self._read()

    def _has_turn(self, ready: _Ready) -> bool:
        if not self._throttle.is_limited or not self._is_wanted(ready.asked):
            return True
        return self._throttle.ask(self, HEADER_SIZE + ready.parcel.size)

    def _is_wanted(self, asked: _Asked) -> bool:
        return self._pending.get(asked.request) is asked

    def _done_with(self, buffer: bytearray) -> None:
        self._memory.buffers.give_back(buffer)
        self._memory.release(BLOCK)

    def end(self) -> None:
        """
        Forget everything; the conversation is over.
        """
        self._pending.clear()
        self._turns.clear()
        self.outgoing.end()
        self._throttle.forget(self)
        if self._ready is not None:
            buffer, self._ready = self._ready.buffer, None
            self._done_with(buffer)

    # From the throttle

    def turn_came(self) -> None:
        """
        Write: see L{flow512.link.throttle.Taker}.
        """
        self.write_ready()

    # The disk

    def _read(self) -> None:
        conversation = self._conversation
        if self._is_reading or self._ready is not None or not self._turns:
            return
        if not conversation.is_open:
            return
        if not self._memory.is_plentiful and not (
            conversation.is_writable and not self.outgoing.size and self.outgoing.may_hold_block()
        ):
            return
        asked = self._turns.popleft()
        self._is_reading = True
        self._memory.hold(BLOCK)
        buffer = self._memory.buffers.take(BLOCK)
        conversation.wait_for_worker(
            self._run_blocking(
                self._contents.read_small, asked.roots[asked.read :], conversation.asker, buffer
            ),
            lambda parcel: self._came(asked, parcel, buffer),
            lambda failure: self._failed(asked, failure, buffer),
        )

    def _came(self, asked: _Asked, parcel: Parcel, buffer: bytearray) -> None:
        self._is_reading = False
        if self._is_wanted(asked):
            self._ready = _Ready(asked, asked.read, parcel, buffer)
            asked.read += parcel.count
            if asked.read < len(asked.roots):
                self._turns.append(asked)
        else:
            self._done_with(buffer)
        self.write_ready()

    def _failed(self, asked: _Asked, failure: Failure, buffer: bytearray) -> None:
        self._is_reading = False
        self._done_with(buffer)
        if self._is_wanted(asked):
            assert failure.value is not None
            self.cancel(asked.request)
            self._conversation.fail(asked.request, failure.value)
        self._read()

    # The transport

    def _write(self, ready: _Ready) -> None:
        asked, parcel = ready.asked, ready.parcel
        header = encode_header(Kind.PARCEL, asked.request, parcel.size, ready.first)
        connection = self._conversation.connection
        bulk = IBulkTransport(connection, None)
        given_back = partial(self.outgoing.given_back, ready.buffer)
        self.outgoing.give(BLOCK)
        # A transport is not full before it has so much: many tiny ones must not keep a buffer each.
        if bulk is not None and parcel.size > FULL:
            bulk.write_bulk(header, parcel.body, given_back)
        else:
            connection.write(header + parcel.body)
            given_back()
        self.outgoing.given()
        if ready.first + parcel.count == len(asked.roots):
            del self._pending[asked.request]
            self._ended()
