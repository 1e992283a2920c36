"""Tests for L{flow512.interfaces}."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from unittest import mock

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.errors import Misuse
from flow512.interfaces import AtMost, Workers
from flow512.testing import Network
from tests.unit.transfer_ends import HandFired


@implementer(IReactorFromThreads)
class Inbox:
    """What threads want to have called."""

    def __init__(self) -> None:
        self.has_some = threading.Condition()
        self.calls: list[tuple[object, ...]] = []

    def callFromThread(self, callable: object, *args: object, **kwargs: object) -> None:
        with self.has_some:
            self.calls.append((callable, *args))
            self.has_some.notify_all()

    def take(self) -> None:
        """Call the next, once there is one."""
        with self.has_some:
            assert self.has_some.wait_for(lambda: self.calls, 30)
            call, *args = self.calls.pop(0)
        call(*args)  # type: ignore[operator]  # it is what threads gave


class WorkersTests(SynchronousTestCase):
    """L{Workers}, with real threads, each of which the test waits for."""

    def setUp(self) -> None:
        self.inbox = Inbox()
        self.workers = Workers(self.inbox)
        self.workers.startService()
        self.addCleanup(lambda: self.workers.running and self.workers.stopService())

    def wait(self, result: Deferred[object]) -> None:
        """Wait for a result."""
        while not result.called:
            self.inbox.take()

    def test_elsewhere(self) -> None:
        """What is run is run on another thread; results and errors come through the reactor."""
        verifyObject(IService, self.workers)
        verifyObject(IReactorFromThreads, self.inbox)
        for run in (self.workers.run_blocking, self.workers.run_long):
            result = run(lambda a, b: (threading.get_ident(), a, b), 1, b=2)
            self.assertNoResult(result)
            self.wait(result)
            ident, a, b = self.successResultOf(result)
            self.assertNotEqual(ident, threading.get_ident())
            self.assertEqual((a, b), (1, 2))
            result = run(lambda: 1 // 0)
            self.wait(result)
            self.failureResultOf(result, ZeroDivisionError)

    def test_may_not(self) -> None:
        """Where threads may not say how they are to be scheduled, they work all the same."""
        with mock.patch.object(
            os, "sched_setscheduler", side_effect=PermissionError, create=True
        ) as asked:
            result = self.workers.run_blocking(lambda: "done")
            self.wait(result)
        self.assertEqual(self.successResultOf(result), "done")
        self.assertEqual(asked.called, hasattr(os, "SCHED_BATCH"))

    def test_long_work_keeps_nobody_waiting(self) -> None:
        """While all threads for long work are busy, those for the disk are free."""
        go_on = threading.Event()
        busy = [self.workers.run_long(go_on.wait, 30) for _ in range(40)]
        quick = self.workers.run_blocking(lambda: "quick")
        self.wait(quick)
        self.assertEqual(self.successResultOf(quick), "quick")
        self.assertFalse(any(result.called for result in busy))
        go_on.set()
        for result in busy:
            self.wait(result)

    def test_stop(self) -> None:
        """Stopping waits for what runs, and ends the threads."""
        before = threading.active_count()
        result = self.workers.run_blocking(lambda: "done")
        self.workers.stopService()
        self.wait(result)
        self.assertEqual(self.successResultOf(result), "done")
        self.assertLessEqual(threading.active_count(), before)

    def test_started_again(self) -> None:
        """A node that is started again has workers again."""
        self.workers.stopService()
        self.workers.startService()
        result = self.workers.run_long(lambda: "again")
        self.wait(result)
        self.assertEqual(self.successResultOf(result), "again")

    def test_reactor_ends(self) -> None:
        """
        Threads end with the reactor, though nobody stopped the service: a program that ended
        without that, by a mistake of its own, would never have been over. Who stops it later may.
        """
        before = threading.active_count()
        reactor = Network().host("10.0.0.1").reactor
        workers = Workers(reactor)
        workers.startService()
        for run in (workers.run_blocking, workers.run_long):
            run(threading.get_ident)
        self.assertGreater(threading.active_count(), before)
        reactor.stop()
        self.assertLessEqual(threading.active_count(), before)
        workers.stopService()

    def test_forgotten_by_the_reactor(self) -> None:
        """Of whoever was stopped the reactor keeps nothing, however often that is done."""
        reactor = Network().host("10.0.0.1").reactor
        workers = Workers(reactor)
        workers.startService()
        workers.stopService()
        seen = weakref.ref(workers)
        del workers
        gc.collect()
        self.assertIsNone(seen())

    def test_not_running(self) -> None:
        """Before it has started and after it has stopped, what it is given fails at once."""
        for workers in (Workers(self.inbox), self.workers):
            if workers.running:
                workers.stopService()
            for run in (workers.run_blocking, workers.run_long):
                self.failureResultOf(run(threading.get_ident), Misuse)


class AtMostTests(SynchronousTestCase):
    """L{AtMost}, over workers that the test moves."""

    def setUp(self) -> None:
        self.workers = HandFired()
        self.run_few = AtMost(self.workers.run_blocking, 2).on("all")
        self.ran: list[int] = []

    def run_all(self, count: int) -> list[Deferred[None]]:
        """Have some run that note that they were."""
        return [self.run_few(self.ran.append, number) for number in range(count)]

    def test_no_more(self) -> None:
        """No more than so many are given to workers, and the others follow in order."""
        results = self.run_all(5)
        while self.workers.jobs:
            self.assertLessEqual(len(self.workers.jobs), 2)
            self.workers.do()
        self.assertEqual(self.ran, [0, 1, 2, 3, 4])
        for result in results:
            self.successResultOf(result)

    def test_failure(self) -> None:
        """One that fails makes room like others, and tells of it."""
        failed = [self.run_few(divmod, 1, 0) for _ in range(3)]
        result = self.run_few(divmod, 7, 2)
        self.workers.do_all()
        for each in failed:
            self.failureResultOf(each, ZeroDivisionError)
        self.assertEqual(self.successResultOf(result), (3, 1))

    def test_who_comes_back(self) -> None:
        """Who wants more when he has his result comes after those who wait already."""
        self.run_few(self.ran.append, 0).addCallback(lambda _: self.run_all(1))
        for number in range(1, 4):
            self.run_few(self.ran.append, number)
        self.workers.do_all()
        self.assertEqual(self.ran, [0, 1, 2, 3, 0])

    def test_of_the_same(self) -> None:
        """What has to do with the same has not all of them, and takes turns with the rest."""
        few = AtMost(self.workers.run_blocking, 3, 2)
        for number in range(4):
            few.on("slow")(self.ran.append, number)
        self.assertEqual(len(self.workers.jobs), 2)
        for number in range(10, 13):
            few.on("quick")(self.ran.append, number)
        self.assertEqual(len(self.workers.jobs), 3)
        self.workers.do(2)  # what is quick is done, and what is slow is not
        self.assertEqual(len(self.workers.jobs), 3)
        self.workers.do(2)
        self.workers.do(2)
        self.assertEqual(len(self.workers.jobs), 2)
        self.workers.do_all()
        self.assertEqual(self.ran, [10, 11, 12, 0, 1, 2, 3])

    def test_in_turns(self) -> None:
        """One that waits comes after one of each other that waits, not after all of them."""
        few = AtMost(self.workers.run_blocking, 1)
        for number in range(4):
            few.on("much")(self.ran.append, number)
        few.on("little")(self.ran.append, 10)
        self.workers.do_all()
        self.assertEqual(self.ran, [0, 1, 10, 2, 3])
