"""
L{flow512.testing.clock}: the one clock of a network.
"""

from __future__ import annotations

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.testing.clock import NetworkClock, Timers


class NetworkClockTests(SynchronousTestCase):
    """It does what a Clock does, and visits every instant."""

    def setUp(self) -> None:
        self.clock = NetworkClock()
        self.calls: list[tuple[object, float]] = []

    def note(self, what: object) -> None:
        self.calls.append((what, self.clock.seconds()))

    def test_interface(self) -> None:
        """It can be used wherever a Clock, or a reactor's time, is asked for."""
        self.assertIsInstance(self.clock, Clock)
        verifyObject(IReactorTime, self.clock)

    def test_every_instant(self) -> None:
        """A call sees the time that it was due at, and what it schedules runs in its turn."""

        def first() -> None:
            self.note("first")
            self.clock.callLater(1, self.note, "third")

        self.clock.callLater(1, first)
        self.clock.callLater(1.5, self.note, "second")
        self.clock.advance(10)
        self.assertEqual(self.calls, [("first", 1), ("second", 1.5), ("third", 2)])
        self.assertEqual(self.clock.seconds(), 10)

    def test_order_within_an_instant(self) -> None:
        """What is due at once runs in the order in which it was scheduled."""
        for number in range(20):
            self.clock.callLater(1, self.note, number)
        self.clock.advance(1)
        self.assertEqual([what for what, _ in self.calls], list(range(20)))

    def test_cancel(self) -> None:
        """A call that is cancelled is listed no longer, and never runs."""
        call = self.clock.callLater(1, self.note, "never")
        self.assertEqual(list(self.clock.getDelayedCalls()), [call])
        call.cancel()
        self.assertEqual(list(self.clock.getDelayedCalls()), [])
        self.clock.advance(2)
        self.assertEqual(self.calls, [])
        self.assertRaises(AlreadyCancelled, call.cancel)

    def test_called(self) -> None:
        """A call that has run is listed no longer, and cannot be cancelled."""
        call = self.clock.callLater(1, self.note, "now")
        self.clock.advance(1)
        self.assertEqual(list(self.clock.getDelayedCalls()), [])
        self.assertRaises(AlreadyCalled, call.cancel)

    def test_moved(self) -> None:
        """A call that was moved, to and fro, runs once, at the last time that it was given."""
        later = self.clock.callLater(5, self.note, "later")
        sooner = self.clock.callLater(5, self.note, "sooner")
        both = self.clock.callLater(5, self.note, "both")
        later.delay(2)
        sooner.reset(1)
        both.reset(2)
        both.reset(6)
        self.clock.advance(20)
        self.assertEqual(self.calls, [("sooner", 1), ("both", 6), ("later", 7)])

    def test_raises(self) -> None:
        """What a test's own call raises comes out where time is moved, and time can go on."""
        self.clock.callLater(1, [].pop)
        self.clock.callLater(2, self.note, "after")
        self.assertRaises(IndexError, self.clock.advance, 5)
        self.clock.advance(5)
        self.assertEqual(self.calls, [("after", 2)])

    def test_never_in_the_past(self) -> None:
        """A call cannot be asked for in the past."""
        self.assertRaises(AssertionError, self.clock.callLater, -1, self.note)

    def test_twisted_uses_it(self) -> None:
        """LoopingCall and deferLater run on it, all within one advance."""
        loop = LoopingCall(self.note, "tick")
        loop.clock = self.clock
        loop.start(1)
        later = deferLater(self.clock, 2.5, lambda: "done")
        self.clock.advance(3)
        self.assertEqual(self.successResultOf(later), "done")
        self.assertEqual([time for _, time in self.calls], [0, 1, 2, 3])
        loop.stop()

    def test_time_stands_still(self) -> None:
        """A loop that never lets time pass is told of, instead of running for ever."""

        def again() -> None:
            self.clock.callLater(0, again)

        self.clock.most_at_once = 100
        again()
        self.assertIn("stands still", str(self.assertRaises(RuntimeError, self.clock.advance, 1)))

    def test_step(self) -> None:
        """One thing at a time can be run, and nothing beyond a limit."""
        self.clock.callLater(1, self.note, "a")
        self.clock.callLater(1, self.note, "b")
        self.assertTrue(self.clock.step(1))
        self.assertEqual(self.calls, [("a", 1)])
        self.assertTrue(self.clock.step(1))
        self.assertFalse(self.clock.step(1))

    def test_owner_ends(self) -> None:
        """With its owner end its calls, later ones too; they can still be cancelled."""
        timers = Timers(self.clock)
        before = timers.call_later(1, self.note, ("before",), {})
        timers.stop()
        after = timers.call_later(1, self.note, ("after",), {})
        self.clock.advance(2)
        self.assertEqual(self.calls, [])
        before.cancel()
        after.cancel()
