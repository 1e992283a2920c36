"""Tests for L{flow512.transfer.turns}."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.transfer.turns import (
    AT_ONCE,
    LONGEST_EVERY,
    PLACE_FOR,
    REMEMBERED,
    Turns,
    Wanted,
)
from flow512.units import BLOCK

ROOT = bytes(32)


class Reader:
    """
    One who wants blocks.

    @ivar blocks: which, in the order in which it asks for them.
    @ivar turns_had: how often its turn came after it had to wait.
    """

    def __init__(self, *blocks: int) -> None:
        self.blocks = list(blocks)
        self.turns_had = 0
        self.then: Callable[[], None] = lambda: None

    def wanted(self) -> Iterable[Wanted]:
        return [(ROOT, block) for block in self.blocks]

    def go_on(self) -> None:
        self.turns_had += 1
        self.then()


class Places(SynchronousTestCase):
    """
    Who is sent something.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)

    def tearDown(self) -> None:
        for reader in [*self.turns._waiting, *self.turns._sending]:
            self.turns.leave(reader)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def fill(self) -> list[Reader]:
        """Give all places away."""
        sending = [Reader(0) for _ in range(AT_ONCE)]
        for each in sending:
            self.assertTrue(self.turns.ask(each))
        return sending

    def wait(self, *blocks: int) -> Reader:
        """Let one more ask, who has to wait."""
        reader = Reader(*blocks)
        self.assertFalse(self.turns.ask(reader))
        return reader

    def test_few(self) -> None:
        """
        Few readers have their places for as long as they like.
        """
        for reader in self.fill():
            for _ in range(3):
                self.turns.taken(reader, BLOCK)
                self.assertTrue(self.turns.ask(reader))
        self.assertFalse(self.turns.is_crowded)

    def test_many(self) -> None:
        """
        Of many readers, one who has taken a block makes room for one who waits, and waits itself
        for the next.
        """
        first = self.fill()[0]
        waiting = self.wait(1)
        self.assertTrue(self.turns.is_crowded)
        self.turns.taken(first, BLOCK)
        self.assertEqual(waiting.turns_had, 1)
        self.assertTrue(self.turns.ask(waiting))
        self.assertFalse(self.turns.ask(first))

    def test_leave(self) -> None:
        """
        Who wants nothing any more makes room, and is not given any.
        """
        sending = self.fill()
        gone, waiting = self.wait(1), self.wait(2)
        self.turns.leave(gone)
        self.turns.leave(sending[0])
        self.assertEqual((gone.turns_had, waiting.turns_had), (0, 1))
        self.assertFalse(self.turns.is_crowded)

    def test_through_at_once(self) -> None:
        """
        If all who wait are through at once, each has had one turn.
        """
        sending = self.fill()
        waiting = [self.wait(number) for number in range(100)]
        for each in waiting:
            each.then = lambda each=each: self.turns.taken(each, BLOCK)
        self.turns.taken(sending[0], BLOCK)
        self.assertEqual([each.turns_had for each in waiting], [1] * 100)

    def test_stuck(self) -> None:
        """
        Who takes nothing for a while has its place no more; those who wait have it.
        """
        sending = self.fill()
        waiting = [self.wait(1) for _ in range(AT_ONCE)]
        self.clock.advance(PLACE_FOR / 2)
        self.turns.taken(sending[0], BLOCK)
        self.clock.advance(PLACE_FOR / 2)
        self.assertEqual([each.turns_had for each in waiting], [1] * AT_ONCE)

    def test_all_stuck(self) -> None:
        """
        If nobody takes anything, ever more are tried, so one who does is soon found among many.
        """
        self.fill()
        waiting = [self.wait(1) for _ in range(1000)]
        self.clock.pump([PLACE_FOR / 2] * 20)
        self.assertEqual(waiting[-1].turns_had, 1)

    def simulate(self, takes: Callable[[int], float], readers: int, seconds: float) -> int:
        """
        Let many read for some time.

        @param takes: seconds for one block, given how many are being sent.
        @return: how many are sent to at the end.
        """
        now = {"sending": 0}

        def begin(reader: Reader) -> None:
            now["sending"] += 1
            self.clock.callLater(takes(now["sending"]), end, reader)

        def end(reader: Reader) -> None:
            now["sending"] -= 1
            self.turns.taken(reader, BLOCK)
            if self.turns.ask(reader):
                begin(reader)

        for number in range(readers):
            reader = Reader(number)
            reader.then = lambda reader=reader: begin(reader)
            if self.turns.ask(reader):
                begin(reader)
        for _ in range(int(seconds / 0.01)):
            self.clock.advance(0.01)
        for call in tuple(self.clock.getDelayedCalls()):
            if call.func is end:
                call.cancel()
        return now["sending"]

    def test_slow_readers(self) -> None:
        """
        If readers are slow themselves, more of them are sent to, since that is faster.
        """
        self.assertGreater(self.simulate(lambda sending: 0.5, 100, 30), 5 * AT_ONCE)

    def test_slow_link(self) -> None:
        """
        If it is the link that is slow, few are sent to, since more would not be faster.
        """
        self.assertLess(self.simulate(lambda sending: sending * 0.02, 100, 60), 3 * AT_ONCE)

    def test_link_grows_slow(self) -> None:
        """
        Many are sent to no longer than that is of use.
        """
        begun = self.clock.seconds()

        def takes(sending: int) -> float:
            return 0.5 if self.clock.seconds() - begun < 30 else sending * 0.02

        self.assertLess(self.simulate(takes, 100, 150), 3 * AT_ONCE)


class Choosing(SynchronousTestCase):
    """
    Which block is sent first.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)

    def begin(self, *blocks: int) -> None:
        """Let blocks be sent."""
        for block in blocks:
            self.turns.begin((ROOT, block))

    def first(self, *blocks: int) -> int:
        """Say which is first."""
        return blocks[self.turns.first_of([(ROOT, block) for block in blocks])]

    def test_never_sent(self) -> None:
        """
        What was never sent is first; among equals, what was asked for first.
        """
        self.begin(5, 6)
        self.assertEqual(self.first(6, 8, 7, 5), 8)

    def test_sent_longest_ago(self) -> None:
        """
        If all were sent, the one is first that was sent longest ago.
        """
        self.begin(5, 6, 7, 5)
        self.assertEqual(self.first(7, 5, 6), 6)

    def test_forgotten(self) -> None:
        """
        What was sent very long ago is as if it never was.
        """
        self.begin(*range(REMEMBERED + 1))
        self.assertEqual(self.first(2, 1, 0), 0)

    def test_each_once(self) -> None:
        """
        Who asks for what was sent already waits for those who ask for what was not, but not
        for ever.
        """
        turns = self.turns
        sending = [Reader(0) for _ in range(AT_ONCE)]
        for each in sending:
            turns.ask(each)
        self.begin(0)
        late = Reader(0)
        turns.ask(late)
        others = [Reader(number) for number in range(1, LONGEST_EVERY + 1)]
        behind = [Reader(number) for number in range(100, 100 + 4 * LONGEST_EVERY)]
        for each in (*others, *behind):
            turns.ask(each)
        order: list[Reader] = []
        for each in (late, *others):
            each.then = lambda each=each: (order.append(each), self.begin(*each.blocks))[0]
        for number in range(LONGEST_EVERY + 1):
            turns.taken(sending[number % AT_ONCE] if number < AT_ONCE else order[-1], BLOCK)
        expected = [*others[: LONGEST_EVERY - 1], late, others[-1]]
        self.assertEqual(order, expected)
