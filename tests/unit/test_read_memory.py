"""Tests for L{flow512.transfer.read_memory}."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.transfer.read_memory import STUCK, ReadMemory
from flow512.units import BLOCK


class Reader:
    """A reader that wants so many blocks, and keeps each until it is told to let go."""

    def __init__(self, memory: ReadMemory, wants: int = 0) -> None:
        self.memory = memory
        self.wants = wants
        self.got = 0
        self.kept = 0
        self.was_given_up = False

    def go_on(self) -> None:
        """Take a block, if it is still wanted and may be had."""
        if self.wants and self.memory.ask(self):
            self.wants -= 1
            self.got += 1
            self.kept += 1
            self.memory.hold(BLOCK)

    def let_go(self) -> None:
        """Give everything back, and ask for more."""
        kept, self.kept = self.kept, 0
        self.memory.transport_drained(self)
        self.memory.release(kept * BLOCK)
        self.go_on()

    def get_stuck(self) -> None:
        """Let the transport be full."""
        self.go_on()
        self.memory.transport_full(self)

    def give_up(self) -> None:
        """The connection is gone."""
        self.was_given_up = True
        self.memory.forget(self)
        kept, self.kept = self.kept, 0
        self.memory.release(kept * BLOCK)


class QuickReader(Reader):
    """A reader whose transport takes everything at once."""

    def go_on(self) -> None:
        """Take a block, and give it back."""
        super().go_on()
        kept, self.kept = self.kept, 0
        self.memory.release(kept * BLOCK)


class ReadMemoryTests(SynchronousTestCase):
    """Memory for 8 blocks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.memory = ReadMemory(8 * BLOCK, self.clock)

    def readers(self, count: int, wants: int = 1) -> list[Reader]:
        """Make readers who ask at once."""
        made = [Reader(self.memory, wants) for _ in range(count)]
        for each in made:
            each.go_on()
        return made

    def test_bound(self) -> None:
        """However many ask, no more is held than there is; who gives back lets the next have it."""
        readers = self.readers(20)
        self.assertEqual(self.memory.held, 8 * BLOCK)
        self.assertEqual([each.got for each in readers], [1] * 8 + [0] * 12)
        readers[3].let_go()
        self.assertEqual((self.memory.held, readers[8].got, readers[9].got), (8 * BLOCK, 1, 0))

    def test_turns(self) -> None:
        """Who asks for one block after another gets as many as each of the others, not more."""
        readers = self.readers(12, wants=1000)
        for step in range(600):
            readers[step % 12].let_go()
        got = [each.got for each in readers]
        self.assertGreater(sum(got), 400)
        self.assertLessEqual(max(got) - min(got), 1)

    def test_half_is_plenty(self) -> None:
        """Up to half of it may be used ahead; above, or while somebody waits, it is scarce."""
        self.assertTrue(self.memory.is_plentiful)
        self.memory.hold(4 * BLOCK)
        self.assertTrue(self.memory.is_plentiful)
        self.memory.hold(1)
        self.assertFalse(self.memory.is_plentiful)
        self.memory.release(1)
        self.assertTrue(self.memory.is_plentiful)

    def test_turn_that_is_not_needed(self) -> None:
        """A turn that somebody does not need any more goes to the next."""
        readers = self.readers(11)
        readers[8].wants = 0
        self.memory.forget(readers[9])
        readers[0].let_go()
        self.assertEqual([each.got for each in readers[8:]], [0, 0, 1])

    def test_turn_that_frees_something(self) -> None:
        """What is given back by one whose turn it is goes to the others, in their turns."""
        holding = self.readers(8)
        quick = QuickReader(self.memory, 1)
        quick.go_on()
        waiting = self.readers(2)
        holding[0].let_go()
        self.assertEqual([each.got for each in (quick, *waiting)], [1, 1, 0])
        self.assertEqual(self.memory.held, 8 * BLOCK)

    def test_stuck(self) -> None:
        """
        Who has not moved for a while is given up once others wait, no more than there are
        waiting, the longest first; who moves is not.
        """
        readers = self.readers(8)
        for each in readers[:5]:
            each.get_stuck()
            self.clock.advance(1)
        self.clock.advance(1000)
        self.assertFalse(any(each.was_given_up for each in readers))
        readers[0].memory.transport_drained(readers[0])
        readers[0].get_stuck()
        late = self.readers(2)
        self.clock.advance(0.2)
        self.assertEqual([each.was_given_up for each in readers], [False, True, True] + 5 * [False])
        self.assertEqual([each.got for each in late], [1, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stuck_while_others_wait(self) -> None:
        """Who gets stuck while others wait is given its time."""
        readers = self.readers(9)
        readers[0].get_stuck()
        self.clock.advance(STUCK - 1)
        self.assertEqual((readers[0].was_given_up, readers[8].got), (False, 0))
        self.clock.advance(1.2)
        self.assertEqual((readers[0].was_given_up, readers[8].got), (True, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_is_given_up_for_who_left(self) -> None:
        """When the one who waits is gone, or gets its turn, nobody has to be given up."""
        readers = self.readers(9)
        readers[0].get_stuck()
        self.memory.forget(readers[8])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        (waiting,) = self.readers(1)
        readers[1].let_go()
        self.assertEqual(waiting.got, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(STUCK * 2)
        self.assertFalse(readers[0].was_given_up)
