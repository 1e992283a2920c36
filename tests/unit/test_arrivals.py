"""Tests for L{flow512.transfer.arrivals}."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import block_digest
from flow512.transfer.arrivals import AT_A_VISIT, GATHER, GATHER_FOR, Arrivals, Arrived
from flow512.units import BLOCK
from tests.unit.transfer_ends import HandFired


class Place:
    """
    Stands for a partial file.

    @ivar blocks: what was written, by its place.
    @ivar writes: how many blocks each call has written.
    @ivar flushed: how many blocks were there at each flush.
    @ivar writing: called before something is written.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}
        self.writes: list[int] = []
        self.flushed: list[int] = []
        self.writing: Callable[[], None] = lambda: None

    def write(self, first: int, *blocks: memoryview) -> None:
        """Take blocks."""
        self.writing()
        self.writes.append(len(blocks))
        self.blocks.update(enumerate(map(bytes, blocks), first))

    def flush(self) -> None:
        """Record them."""
        self.flushed.append(len(self.blocks))


class Queue(deque[Arrived]):
    """
    A queue that is changed by another thread: nobody may go through it meanwhile.

    @ivar is_changing: whether it is.
    """

    is_changing = False

    def __iter__(self) -> Iterator[Arrived]:
        assert not self.is_changing
        return super().__iter__()


class ArrivalsTests(SynchronousTestCase):
    """Blocks arrive, and a worker that the test moves stores them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = HandFired()
        self.place = Place()
        self.told: list[tuple[list[int], list[int]]] = []
        self.given_back = 0
        self.content = Random(3).randbytes(64 * BLOCK)
        self.arrivals = Arrivals(
            self.place,  # type: ignore[arg-type]  # it stands for one
            self.clock,
            self.workers.run_blocking,
            self.work,
            self.stored,
        )
        self.queue = self.arrivals._arrived = Queue()

    def work(self, result: Deferred[Any], ended: Callable[[Any], None]) -> None:
        """Wait for a worker."""
        self.queue.is_changing = True

        def worked(done: object) -> None:
            self.queue.is_changing = False
            ended(done)

        result.addCallback(worked)

    def stored(self, batch: Sequence[Arrived], wrong: Sequence[int]) -> None:
        """Be told what has become of blocks."""
        self.told.append(([block for each in batch for block in each.blocks], list(wrong)))

    def give_back(self, buffer: object) -> None:
        """Take a buffer back."""
        self.given_back += 1

    def arrive(self, first: int, count: int = 1, *, wrong: bool = False) -> None:
        """Let blocks come in one frame."""
        data = self.content[first * BLOCK : (first + count) * BLOCK]
        digests = [
            block_digest(data[at * BLOCK : (at + 1) * BLOCK][:: -1 if wrong else 1])
            for at in range(count)
        ]
        sender: Any = SimpleNamespace(
            source=SimpleNamespace(buffers=SimpleNamespace(give_back=self.give_back))
        )
        self.arrivals.add(Arrived(range(first, first + count), bytearray(data), digests, sender))

    def check(self, *blocks: int) -> None:
        """These are in place, no others, and no timer runs."""
        self.assertEqual(set(self.place.blocks), set(blocks))
        for block in blocks:
            there = self.place.blocks[block]
            self.assertEqual(there, self.content[block * BLOCK : (block + 1) * BLOCK])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.workers.jobs, [])

    def test_gathered(self) -> None:
        """A few are waited for, but only for a moment; those side by side are written together."""
        for block in (3, 1, 2):
            self.arrive(block)
        self.assertEqual(self.workers.jobs, [])
        self.clock.advance(GATHER_FOR)
        self.workers.do()
        self.check(1, 2, 3)
        self.assertEqual((self.place.writes, self.told), ([3], [([1, 2, 3], [])]))
        for block in (7, 5, 9, 6):
            self.arrive(block)
        self.workers.do()
        self.check(1, 2, 3, 5, 6, 7, 9)
        self.assertEqual(self.place.writes, [3, 3, 1])
        self.assertEqual(self.given_back, 7)

    def test_while_it_writes(self) -> None:
        """What comes while a worker writes it takes too, if it is enough, and tells at the end."""
        more = iter(range(4, 12, 4))

        def writing() -> None:
            for first in more:
                self.arrive(first, 4)

        self.place.writing = writing
        self.arrive(0, 4)
        self.workers.do()
        self.check(*range(12))
        self.assertEqual(self.told, [(list(range(12)), [])])
        self.assertEqual((self.place.writes, self.place.flushed), ([4, 4, 4], [12]))

    def test_single_blocks_while_it_writes(self) -> None:
        """It takes as many as are to be gathered; of fewer the rest is waited for."""
        more = iter(range(4, 4 + GATHER + 1))

        def writing() -> None:
            for block in more:
                self.arrive(block)

        self.place.writing = writing
        self.arrive(0, 4)
        self.workers.do()
        self.assertEqual(len(self.place.blocks), 4 + GATHER)
        self.assertEqual(self.workers.jobs, [])
        self.clock.advance(GATHER_FOR)
        self.workers.do()
        self.check(*range(4 + GATHER + 1))
        self.assertEqual(self.place.flushed, [4 + GATHER, 4 + GATHER + 1])

    def test_never_for_ever(self) -> None:
        """However fast they come, what was done is told, and recorded, after a few megabytes."""
        more = iter(range(4, 64, 4))

        def writing() -> None:
            for first in more:
                self.arrive(first, 4)
                break

        self.place.writing = writing
        self.arrive(0, 4)
        visits = 0
        while self.workers.jobs:
            self.workers.do()
            visits += 1
        self.check(*range(64))
        self.assertEqual(visits, 64 // AT_A_VISIT)
        self.assertEqual(self.place.flushed, list(range(AT_A_VISIT, 65, AT_A_VISIT)))
        self.assertEqual(len(self.told), visits)

    def test_wrong(self) -> None:
        """Blocks that are not what they have to be are told of, and not written."""
        self.arrive(0, 2)
        self.arrive(2, 1, wrong=True)
        self.arrive(3)
        self.workers.do()
        self.check(0, 1, 3)
        self.assertEqual(self.told, [([0, 1, 2, 3], [2])])

    def test_hurried(self) -> None:
        """At the end nothing is waited for, though a worker is busy just then."""
        self.arrive(0, 4)
        self.place.writing = lambda: self.assertEqual(self.clock.getDelayedCalls(), [])
        self.arrive(9)
        self.arrivals.hurry()
        self.workers.do()
        self.workers.do()
        self.check(*range(4), 9)
