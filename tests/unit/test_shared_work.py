"""Tests for L{flow512.transfer.shared_work}."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Cancelled
from flow512.transfer.shared_work import SharedWork
from tests.unit.transfer_ends import HandFired


class SharedWorkTests(SynchronousTestCase):
    """Work that several ask for."""

    def setUp(self) -> None:
        self.workers = HandFired()
        self.shared = SharedWork(self.workers.run_blocking)
        self.done = 0

    def work(self, may_stop: Callable[[], bool]) -> int:
        """Do it, unless nobody wants it."""
        if may_stop():
            raise Cancelled("Nobody wants it.")
        self.done += 1
        return self.done

    def test_once_for_all(self) -> None:
        """Whoever asks for the same keeps no worker of its own busy, and gets the same result."""
        results = [self.shared.join("a", Event(), self.work) for _ in range(5)]
        other = self.shared.join("b", Event(), self.work)
        self.assertEqual(len(self.workers.jobs), 2)
        self.workers.do_all()
        self.assertEqual([self.successResultOf(each) for each in results], [1] * 5)
        self.assertEqual(self.successResultOf(other), 2)
        again = self.shared.join("a", Event(), self.work)
        self.workers.do_all()
        self.assertEqual(self.successResultOf(again), 3)

    def test_failure(self) -> None:
        """A failure is everybody's, and the next who asks has another try."""

        def broken(may_stop: Callable[[], bool]) -> int:
            raise Cancelled("Broken.")

        results = [self.shared.join("a", Event(), broken) for _ in range(2)]
        self.workers.do_all()
        for each in results:
            self.failureResultOf(each, Cancelled)
        again = self.shared.join("a", Event(), self.work)
        self.workers.do_all()
        self.assertEqual(self.successResultOf(again), 1)

    def test_wanted_by_one(self) -> None:
        """The work goes on as long as one wants it, and stops when nobody does."""
        stops = [Event(), Event()]
        results = [self.shared.join("a", stop, self.work) for stop in stops]
        stops[0].set()
        self.workers.do_all()
        self.assertEqual([self.successResultOf(each) for each in results], [1, 1])
        stop = Event()
        deserted = self.shared.join("a", stop, self.work)
        stop.set()
        late = self.shared.join("a", Event(), self.work)
        self.workers.do_all()
        self.failureResultOf(deserted, Cancelled)
        self.assertEqual(self.successResultOf(late), 2)
