"""Tests for L{flow512.clocks}."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.clocks import keep_steady, seconds_since_boot, wall_seconds_of

NOW = 1_800_000_000.0
HOUR = 3600.0


class Machine:
    """A clock that somebody sets, beside the time that passes."""

    def __init__(self) -> None:
        self.wall = NOW
        self.passed = 50.0
        # Twisted's own way to wait, for what is called when the time of day has come.
        self.reactor = Clock()
        self.reactor.rightNow = self.wall
        self.reactor.seconds = lambda: self.wall  # type: ignore[method-assign]  # as reactors do

    def keep_steady(self) -> None:
        """Do as the commands do."""
        keep_steady(self.reactor, lambda: self.wall, lambda: self.passed)

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.passed += seconds


class SteadyTests(SynchronousTestCase):
    """A reactor's time goes on, however the clock is set."""

    def test_goes_on_from_now(self) -> None:
        """Nothing happens to it when it is made steady, and then it passes as time does."""
        machine = Machine()
        machine.keep_steady()
        self.assertEqual(machine.reactor.seconds(), NOW)
        machine.go_on(2.5)
        self.assertEqual(machine.reactor.seconds(), NOW + 2.5)

    def test_set(self) -> None:
        """That the clock is set, back or forward, is no time that passes."""
        for by in (-HOUR, HOUR):
            machine = Machine()
            machine.keep_steady()
            machine.wall += by
            machine.go_on(1.0)
            self.assertEqual(machine.reactor.seconds(), NOW + 1.0)

    def test_calls_in_time(self) -> None:
        """What is to be called in two seconds is, though the clock is set back an hour."""
        machine = Machine()
        machine.keep_steady()
        called: list[float] = []
        due = machine.reactor.callLater(2.0, called.append, 1.0)
        machine.wall -= HOUR
        machine.go_on(2.0)
        self.assertLessEqual(due.getTime(), machine.reactor.seconds())

    def test_time_of_day(self) -> None:
        """What has to know the time of day is told it as it is set."""
        machine = Machine()
        machine.keep_steady()
        machine.wall -= HOUR
        self.assertEqual(wall_seconds_of(machine.reactor)(), NOW - HOUR)

    def test_any_clock(self) -> None:
        """A clock that nobody made steady tells the time of day itself."""
        clock = Clock()
        clock.advance(NOW)
        self.assertEqual(wall_seconds_of(clock)(), NOW)

    def test_passing(self) -> None:
        """The system's own count is never less than before."""
        before = seconds_since_boot()
        self.assertGreaterEqual(seconds_since_boot(), before)
