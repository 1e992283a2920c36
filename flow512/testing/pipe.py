"""
One direction of a stream: bytes in, bytes out, in order, and never more than fit.

::

    sender --send--> [ in flight ] --arrive--> [ received ] --read--> receiver
       ^                                                                 |
       +------------------------- give_back <--- (travels back) ---------+

This is what a kernel's two socket buffers and the wire between them amount to. The pipe is pure:
it is told when things happen, and keeps no clock.

Where a byte is
    1. Refused: C{send} took fewer bytes than it was offered. The sender keeps the rest and tries
       again when the pipe is L{writable<Pipe.writable>}.
    2. In flight: taken, with a time at which it is due at the other end.
    3. Received: arrived, and waiting for the receiver to read. A receiver that does not read leaves
       its bytes here; that is all that back-pressure is.
    4. Read: gone, but the sender does not know yet. Its room is on the way back.

Invariants
    - A. C{free + in flight + received + on the way back == capacity}, at all times; none is
      negative. So what the two ends hold between them is bounded, whatever either does.
    - B. What is in flight is due in the order in which it was sent, so it arrives in that order.
      Marks (the opening, the end) travel in the same order, and take no room.
    - C. After C{Mark.END} was sent nothing more is; after it arrived C{ended} holds.
    - D. The pipe is writable only while half of it is free. Were it writable at every byte that
      comes free, a sender with much to say would send ever smaller chunks (the silly window of
      RFC 813).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

CAPACITY: Final = 64 * 1024
"""Bytes that one direction of a connection holds unless told otherwise."""


class Mark(enum.Enum):
    """What travels among the bytes without being one."""

    SYN = "SYN"
    SYN_ACK = "SYN+ACK"
    ACK = "ACK"
    END = "FIN"
    RESET = "RST"


Item = bytes | Mark
"""What is in flight."""


class Pipe:
    """
    One direction of a stream.

    @ivar capacity: bytes that it holds.
    @ivar free: bytes that the sender may send now.
    @ivar refused: whether the sender was left with bytes that it had wanted to send.
    @ivar received: bytes that have arrived and not been read.
    @ivar ended: whether everything has arrived that ever will.
    """

    def __init__(self, random: Random, capacity: int) -> None:
        """
        @param random: decides where chunks are cut.
        @param capacity: bytes, 2 or more.
        """
        self.capacity = capacity
        self.free = capacity
        self.refused = False
        self.received = 0
        self.ended = False
        self._random = random
        self._in_flight: deque[tuple[float, Item]] = deque()
        self._last_due = 0.0
        self._arrived: deque[bytes] = deque()

    @property
    def writable(self) -> bool:
        """Whether enough is free for it to be worth sending (invariant D)."""
        return self.free * 2 >= self.capacity

    @property
    def in_flight(self) -> bool:
        """Whether anything is on its way, bytes or marks."""
        return bool(self._in_flight)

    @property
    def next_size(self) -> int:
        """How many bytes the next arrival has; a mark has none."""
        item = self._in_flight[0][1]
        return len(item) if isinstance(item, bytes) else 0

    @property
    def next_due(self) -> float | None:
        """When the next arrival is due; C{None} if nothing is in flight."""
        return self._in_flight[0][0] if self._in_flight else None

    def send(self, data: bytes | memoryview, due: Callable[[int], float]) -> int:
        """
        Take as much as there is room for, cut at random places.

        @param data: any number of bytes.
        @param due: given the size of a chunk, says when it is to arrive. It may name times in any
            order; a chunk is never due before the one that was sent before it.
        @return: how many bytes were taken, from the front; 0 when the pipe is full.
        """
        taken = min(len(data), self.free)
        self.refused = taken < len(data)
        self.free -= taken
        view = memoryview(data)
        start = 0
        for end in self._cuts(taken):
            self._launch(bytes(view[start:end]), due(end - start))
            start = end
        return taken

    def mark(self, mark: Mark, due: float) -> None:
        """Send a mark behind everything that was sent so far, due at C{due} or later."""
        self._launch(mark, due)

    def arrive(self) -> Item:
        """
        Let the first thing in flight arrive.

        @return: it. Bytes can be read from now on.
        @raise IndexError: nothing is in flight; nothing is changed.
        """
        item = self._in_flight.popleft()[1]
        if isinstance(item, bytes):
            self._arrived.append(item)
            self.received += len(item)
        elif item is Mark.END:
            self.ended = True
        return item

    def hold_first(self, until: float) -> None:
        """Make the first thing in flight, and so all of it, due no earlier than C{until}."""
        self._in_flight[0] = (until, self._in_flight[0][1])
        self._last_due = max(self._last_due, until)

    def postpone(self, earliest: float) -> None:
        """Make nothing that is in flight due before C{earliest}, as after a cut was mended."""
        self._in_flight = deque((max(due, earliest), item) for due, item in self._in_flight)
        self._last_due = max(self._last_due, earliest)

    def read(self, limit: int) -> bytes:
        """
        Take what has arrived, however it was cut.

        @param limit: bytes, 1 or more.
        @return: up to C{limit} bytes; none if none have arrived. Their room is L{given
            back<give_back>} by the caller, when the sender learns of it.
        """
        if self.received <= limit:
            data = b"".join(self._arrived)
            self._arrived.clear()
        else:
            parts: list[bytes] = []
            wanted = limit
            while wanted:
                chunk = self._arrived.popleft()
                parts.append(chunk[:wanted])
                if len(chunk) > wanted:
                    self._arrived.appendleft(chunk[wanted:])
                wanted -= len(parts[-1])
            data = b"".join(parts)
        self.received -= len(data)
        return data

    def give_back(self, size: int) -> None:
        """Tell the sender that C{size} bytes were read."""
        self.free += size
        if self.writable:
            self.refused = False

    def discard(self) -> None:
        """Forget everything in flight; it never arrives. The sender sends no more."""
        self._in_flight.clear()

    def _launch(self, item: Item, due: float) -> None:
        self._last_due = max(self._last_due, due)
        self._in_flight.append((self._last_due, item))

    def _cuts(self, size: int) -> list[int]:
        # Half of what is sent stays whole, as most does on a real network. The other half comes in
        # two or three parts, which may be as small as a byte: that is what finds a parser that
        # relies on how its bytes were cut. More parts would find nothing more, only cost time.
        if size == 0:
            return []
        random = self._random.random
        throw = random()
        if size == 1 or throw < 0.5:
            return [size]
        places = {1 + int(random() * (size - 1))}
        if throw > 0.75:
            places.add(1 + int(random() * (size - 1)))
        return [*sorted(places), size]
