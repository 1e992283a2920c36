"""Tests for L{flow512.transfer.indexing}."""

from __future__ import annotations

from unittest import mock

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.content.library import Stop
from flow512.errors import ContentChanged, DiskFailure
from flow512.transfer.indexing import RESCAN, Indexed, IndexingService
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import HandFired, Shelf, a_folder


class IndexingTests(SynchronousTestCase):
    """L{IndexingService}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = HandFired()
        self.shelf = Shelf(a_folder(self))
        self.addCleanup(self.shelf.shut)
        self.rounds: list[Indexed] = []
        self.service = IndexingService(
            self.shelf, self.clock, self.workers.run_blocking, self.rounds.append
        )
        self.addCleanup(self.end)

    def end(self) -> None:
        """Stop; nothing may be left over."""
        if self.service.running:
            self.stop()
        self.assertEqual((self.clock.getDelayedCalls(), self.workers.jobs), ([], []))

    def stop(self) -> None:
        """Stop, and wait for the end."""
        stopped = self.service.stopService()
        self.workers.do_all()
        assert stopped is not None
        self.successResultOf(stopped)

    def write(self, *names: str) -> None:
        """Put files into the share."""
        for name in names:
            (self.shelf.folder / name).write_text(name)

    def test_rounds(self) -> None:
        """It hashes what is new, tells of it, and looks again after a while."""
        verifyObject(IService, self.service)
        self.write("a", "b")
        self.service.startService()
        self.assertEqual(self.rounds, [])
        self.workers.do_all()
        self.write("c")
        self.clock.advance(RESCAN - 1)
        self.assertEqual(self.workers.jobs, [])
        self.clock.advance(1)
        self.workers.do_all()
        self.assertEqual([(each.hashed, each.failed) for each in self.rounds], [(2, 0), (1, 0)])
        self.assertEqual([each.scan.found for each in self.rounds], [2, 3])
        self.assertEqual(self.shelf.pending(), 0)

    def test_what_is_left_out(self) -> None:
        """What is not shared is said with its reason, and keeps nothing else from being shared."""
        (self.shelf.folder / "link").symlink_to("/etc/passwd")
        self.write("a")
        with capturedLogs() as logs:
            self.service.startService()
            self.workers.do_all()
        said = "\n".join(str(formatEvent(event)) for event in logs)
        self.assertIn("Not shared: link: It is a link", said)
        self.assertEqual(self.rounds[0].hashed, 1)

    def test_file_that_cannot_be_hashed(self) -> None:
        """A file that cannot be hashed is said, and the next one is done."""
        self.write("a", "b")
        hash_next = self.shelf.hash_next
        calls = 0

        def hash_some(stop: Stop) -> Entry | None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ContentChanged("'a' changes.")
            return hash_next(stop)

        self.shelf.hash_next = hash_some  # type: ignore[method-assign]  # to fail once
        with capturedLogs() as logs:
            self.service.startService()
            self.workers.do_all()
        self.assertIn("Not hashed: 'a' changes.", [formatEvent(event) for event in logs])
        self.assertEqual((self.rounds[0].hashed, self.rounds[0].failed), (2, 1))

    def test_checksums(self) -> None:
        """MD5s are made after all roots; one that cannot be made is said, and the next one is."""
        self.write("a")
        left = [ContentChanged("'a' has changed."), b"root", None]
        told: list[int] = []

        def sum_next(stop: Stop) -> bytes | None:
            told.append(len(self.rounds))
            result = left.pop(0)
            if isinstance(result, ContentChanged):
                raise result
            return result

        self.shelf.sum_next = sum_next  # type: ignore[method-assign]  # to fail once
        with capturedLogs() as logs:
            self.service.startService()
            self.workers.do_all()
        self.assertIn("No MD5 was made: 'a' has changed.", [formatEvent(event) for event in logs])
        self.assertEqual((left, told), ([], [1, 1, 1]))

    def test_broken_catalog(self) -> None:
        """If nothing can be hashed at all it gives up, until the next round."""
        self.write("a", "b")
        calls = 0

        def broken(stop: Stop) -> Entry | None:
            nonlocal calls
            calls += 1
            raise DiskFailure("The catalog cannot be read.")

        hash_next, self.shelf.hash_next = self.shelf.hash_next, broken  # type: ignore[method-assign]  # to fail
        self.service.startService()
        self.workers.do_all()
        self.assertEqual((calls, self.rounds), (3, []))
        self.shelf.hash_next = hash_next  # type: ignore[method-assign]  # as it was
        self.clock.advance(RESCAN)
        self.workers.do_all()
        self.assertEqual(self.rounds[0].hashed, 2)

    def test_checksums_that_fail(self) -> None:
        """MD5s are made after everything is hashed; one that fails keeps nothing from going on."""
        self.write("a", "b")
        broken = DiskFailure("The catalog cannot be read.")
        for outcomes, calls in (
            ([ContentChanged("'a' changes."), b"r" * 32, None], 3),
            ([broken] * 9, 3),
        ):
            with mock.patch.object(self.shelf, "sum_next", side_effect=outcomes) as sum_next:
                self.service.startService()
                self.workers.do_all()
                self.assertEqual(sum_next.call_count, calls)
                self.assertEqual(len(self.clock.getDelayedCalls()), 1)
                self.stop()
        self.assertEqual([each.hashed for each in self.rounds], [2, 0])

    def test_scan_that_fails(self) -> None:
        """A walk that fails is said, and the next one is made all the same."""
        self.write("a")

        def broken(stop: Stop) -> None:
            raise DiskFailure("Input/output error.")

        scan, self.shelf.scan = self.shelf.scan, broken  # type: ignore[method-assign,assignment]  # to fail
        with capturedLogs() as logs:
            self.service.startService()
            self.workers.do_all()
        self.assertIn(
            "The shares were not looked through: Input/output error.",
            [formatEvent(event) for event in logs],
        )
        self.shelf.scan = scan  # type: ignore[method-assign]  # as it was
        self.clock.advance(RESCAN)
        self.workers.do_all()
        self.assertEqual(self.rounds[0].hashed, 1)

    def test_our_own_mistake(self) -> None:
        """What nobody foresaw is logged, and stopping works still."""
        self.service.startService()
        self.workers.jobs.pop().result.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopped_while_working(self) -> None:
        """Stopping waits for the worker, which is told to stop; nothing is begun after that."""
        self.write("a", "b")
        for done in range(2):
            self.service.startService()
            for _ in range(done):
                self.workers.do()
            stopped = self.service.stopService()
            assert stopped is not None
            self.assertNoResult(stopped)
            self.assertEqual(len(self.workers.jobs), 1)
            self.workers.do()
            self.successResultOf(stopped)
            self.assertEqual(self.workers.jobs, [])
        self.assertEqual((self.rounds, self.shelf.pending()), ([], 2))

    def test_stopped_at_the_end_of_a_round(self) -> None:
        """Stopped when the worker is just done, it does not wait for the next round."""
        self.service.startService()
        self.workers.do()
        job = self.workers.jobs.pop()
        stopped = self.service.stopService()
        assert stopped is not None
        job.result.callback(None)
        self.successResultOf(stopped)

    def test_stopped_while_waiting(self) -> None:
        """Stopping between two rounds ends at once; a second time there is nothing to end."""
        self.service.startService()
        self.workers.do_all()
        stopped = self.service.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertIsNone(self.service.stopService())

    def test_started_again(self) -> None:
        """It can be started again, and goes on with what is left."""
        self.write("a")
        self.service.startService()
        self.stop()
        self.service.startService()
        self.workers.do_all()
        self.assertEqual(self.rounds[0].hashed, 1)
