"""
Blocks that have arrived, on their way to the disk: gathered for a moment, verified and written by a
worker, one at a time.

What arrives while it writes the same worker takes too, if it is enough: it need not wait for the
reactor then, which is busy with what arrives. After L{AT_A_VISIT} blocks it tells what it has done.

Both threads use one queue, by operations of which Python does one at a time: the reactor's appends,
the worker takes from the front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.content.outlet import Outlet
from flow512.content.partial import Partial
from flow512.content.tree import block_digest
from flow512.interfaces import RunBlocking
from flow512.transfer.senders import Sender
from flow512.units import BLOCK

AT_A_VISIT: Final = 16
"""Blocks that may be stored and not yet in the journal (4 MiB), and one batch more."""

GATHER: Final = 4
"""
Blocks that are stored together, if they come fast: to hand one to a worker costs about as much as
to verify it, and of no more than these the processor's cache still has what was received.
"""

GATHER_FOR: Final = 0.02
"""Seconds that a block waits for others."""


class Arrived(msgspec.Struct, eq=False):
    """
    Blocks that came together, one after the other, and the digest that each has to have.
    """

    blocks: range
    data: bytes | bytearray
    expected: Sequence[bytes]
    sender: Sender

    def each(self) -> Iterator[tuple[int, memoryview, bytes]]:
        """Give each block's number, data and digest."""
        for at, (block, digest) in enumerate(zip(self.blocks, self.expected, strict=True)):
            yield block, memoryview(self.data)[at * BLOCK : (at + 1) * BLOCK], digest


_Done: TypeAlias = tuple[list[Arrived], list[int]]
"""What was looked at, in this order, and which blocks of it are wrong."""


class Arrivals:
    """
    The blocks of one download that have arrived.
    """

    def __init__(
        self,
        partial: Partial | Outlet,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        work: Callable[[Deferred[_Done], Callable[[_Done], None]], None],
        stored: Callable[[Sequence[Arrived], Sequence[int]], None],
    ) -> None:
        """
        @param partial: where they go.
        @param clock: for the moment that one waits for others.
        @param run_blocking: runs what writes to the disk.
        @param work: waits for a worker, and calls what is to follow, unless it failed.
        @param stored: told of what was looked at, in its order, and which blocks of it are wrong;
            all others are verified and in place. Both are forgotten here.
        """
        self._partial = partial
        self._clock = clock
        self._run_blocking = run_blocking
        self._work = work
        self._stored = stored
        self._arrived: deque[Arrived] = deque()
        self._is_storing = False
        self._is_hurried = False
        self._timer: IDelayedCall | None = None

    def add(self, arrived: Arrived) -> None:
        """
        More has arrived.
        """
        self._arrived.append(arrived)
        if not self._is_storing and self._are_enough():
            self._store()
        elif self._timer is None:
            self._timer = self._clock.callLater(GATHER_FOR, self._gathered)

    def no_more_come(self) -> None:
        """
        Store what is here: nothing that it could wait for is on its way.
        """
        self._stop_waiting()
        self._store()

    def hurry(self) -> None:
        """
        Store what is here, and wait for no more: the download is over.
        """
        self._is_hurried = True
        self.no_more_come()

    def _are_enough(self) -> bool:
        # Not while a worker takes some: Python lets nobody go through a queue that changes.
        return sum(len(each.blocks) for each in self._arrived) >= GATHER

    def _gathered(self) -> None:
        self._timer = None
        self._store()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _store(self) -> None:
        if self._is_storing or not self._arrived:
            return
        self._stop_waiting()
        self._is_storing = True

        def ended(done: _Done) -> None:
            self._is_storing = False
            for each in done[0]:
                each.sender.source.buffers.give_back(each.data)
            self._stored(*done)
            if not self._arrived:
                self._stop_waiting()
            elif self._is_hurried or self._are_enough() or self._timer is None:
                self._store()

        self._work(self._run_blocking(self._write), ended)

    # In a worker. Each call of the system lets the reactor's thread run, and then has to wait for
    # it; so few are made. What was written before something went wrong is kept.

    def _write(self) -> _Done:
        done: list[Arrived] = []
        wrong: list[int] = []
        count = 0
        while not done or (count < AT_A_VISIT and self._has_batch()):
            batch = self._take_batch()
            self._write_batch(batch, wrong)
            done += batch
            count += sum(len(each.blocks) for each in batch)
        self._partial.flush()
        return done, wrong

    def _has_batch(self) -> bool:
        queue = self._arrived
        return len(queue) >= GATHER or (len(queue) > 0 and len(queue[0].blocks) >= GATHER)

    def _take_batch(self) -> list[Arrived]:
        batch = []
        count = 0
        while self._arrived and count < GATHER:
            batch.append(self._arrived.popleft())
            count += len(batch[-1].blocks)
        return sorted(batch, key=lambda each: each.blocks.start)

    def _write_batch(self, batch: list[Arrived], wrong: list[int]) -> None:
        right: list[tuple[int, memoryview]] = []
        for arrived in batch:
            for block, data, expected in arrived.each():
                if block_digest(data) == expected:
                    right.append((block, data))
                else:
                    wrong.append(block)
        for run in _in_a_row(right):
            self._partial.write(run[0][0], *(data for _, data in run))


def _in_a_row(
    blocks: Sequence[tuple[int, memoryview]],
) -> Iterator[list[tuple[int, memoryview]]]:
    """Part blocks where one does not follow the other."""
    for _, run in groupby(enumerate(blocks), lambda each: each[1][0] - each[0]):
        yield [block for _, block in run]
