"""Tests for L{flow512.transfer.indexing}."""

from __future__ import annotations

import errno
import os
from unittest import mock

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.content.following import QUIET, Look
from flow512.content.library import ScanReport, Stop
from flow512.errors import ContentChanged, DiskFailure, DiskFull
from flow512.limits import RESCAN
from flow512.transfer.indexing import WATCHED_RESCAN, Indexed, IndexingService
from flow512.transfer.inotify import Event, Notifier, Told
from flow512.wire.messages import Entry
from tests.unit.test_following_folders import FakeNotifier
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

    def test_several_at_once(self) -> None:
        """Where there are processors for it, several files are hashed at a time, each once."""
        self.write("a", "b", "c")
        self.service = IndexingService(
            self.shelf, self.clock, self.workers.run_blocking, self.rounds.append, at_once=2
        )
        self.service.startService()
        self.workers.do()  # the walk
        self.assertEqual(len(self.workers.jobs), 2)
        self.workers.do(1)
        self.assertEqual((len(self.workers.jobs), self.rounds), (2, []))
        self.workers.do_all()
        self.assertEqual((self.rounds[0].hashed, self.rounds[0].failed), (3, 0))
        self.assertEqual(self.shelf.pending(), 0)

    def test_several_that_all_fail(self) -> None:
        """If nothing can be hashed at all, all of them give up, and it is said why."""
        self.write("a")

        def full(stop: Stop) -> Entry | None:
            raise DiskFull("The disk is full.")

        self.shelf.hash_next = full  # type: ignore[method-assign]  # to fail always
        self.service = IndexingService(
            self.shelf, self.clock, self.workers.run_blocking, self.rounds.append, at_once=2
        )
        with capturedLogs() as logs:
            self.service.startService()
            self.workers.do_all()
        said = [formatEvent(event) for event in logs]
        self.assertIn("The shares were not hashed: The disk is full.", said)
        self.assertEqual((self.rounds, self.workers.jobs), ([], []))

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


class LiveTests(SynchronousTestCase):
    """L{IndexingService} where folders can be watched."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = HandFired()
        self.shelf = Shelf(a_folder(self).resolve())
        self.addCleanup(self.shelf.shut)
        self.folder = self.shelf.folder
        self.rounds: list[Indexed] = []
        self.notifiers: list[FakeNotifier] = []
        self.refused: dict[str | None, int] = {}
        self.start()

    def start(self, rescan: float = RESCAN) -> None:
        """Make the service, and let it look at everything."""
        self.service = IndexingService(
            self.shelf,
            self.clock,
            self.workers.run_blocking,
            self.rounds.append,
            rescan,
            self.open_notifier,
        )
        self.service.startService()
        self.addCleanup(self.end, self.service)
        self.work()

    def open_notifier(self, told: Told) -> Notifier:
        """Open one, and keep it."""
        self.notifiers.append(FakeNotifier(told, self.refused))
        return self.notifiers[-1]

    def end(self, service: IndexingService) -> None:
        """Stop at whatever it does; nothing may be left over."""
        stopped = service.stopService()
        self.workers.do_all()
        if stopped is not None:
            self.successResultOf(stopped)
        self.assertEqual((self.clock.getDelayedCalls(), self.workers.jobs), ([], []))
        self.assertTrue(all(each.is_closed for each in self.notifiers))

    def work(self, seconds: float = 0.0) -> None:
        """Let some time pass, and do what there is to do then."""
        self.clock.advance(seconds)
        while True:
            self.workers.do_all()
            self.clock.advance(0)
            if not self.workers.jobs:
                return

    def happen(self, name: str, what: Event = Event.CREATE) -> None:
        """Tell of something in the share."""
        folder, _, name = name.rpartition("/")
        self.notifiers[-1].happen(self.folder / folder, name, what)

    def write(self, name: str, content: str = "") -> None:
        """Put a file into the share, which is noticed."""
        (self.folder / name).write_text(content or name)
        self.happen(name)

    def paths(self) -> list[str]:
        """List what is shared and hashed."""
        return [entry.path for entry in self.shelf.list()[0] if entry.root is not None]

    def test_changes(self) -> None:
        """What changes is shared as soon as it is quiet, and told of; what does not is not."""
        self.write("a")
        self.work(QUIET / 2)
        self.write("a", "more")
        self.work(QUIET * 3 / 4)
        self.assertEqual(self.paths(), [])
        self.work(QUIET / 4)
        self.assertEqual(self.paths(), ["a"])
        (self.folder / "a").unlink()
        self.happen("a", Event.DELETE)
        self.happen("b", Event.DELETE)
        self.work(QUIET)
        self.happen("b", Event.DELETE)
        self.work(QUIET)
        self.assertEqual(
            [(each.scan.found, each.hashed) for each in self.rounds], [(0, 0), (1, 1), (0, 0)]
        )

    def test_burst(self) -> None:
        """Ten thousand events are one round, and a folder of which most were not seen is whole."""
        (self.folder / "new").mkdir()
        self.happen("new", Event.CREATE | Event.IS_FOLDER)
        for number in range(10_000):
            if number < 100:
                (self.folder / f"{number}").touch()
                (self.folder / "new" / f"{number}").touch()
            self.happen(f"{number}")
        self.work(QUIET)
        self.assertEqual(
            [(each.scan.found, each.hashed) for each in self.rounds], [(0, 0), (200, 200)]
        )
        self.happen("new/100")
        (self.folder / "new" / "100").touch()
        self.work(QUIET)
        self.assertEqual(self.rounds[-1].scan.found, 201)

    def test_while_hashing(self) -> None:
        """While something is hashed, what is new is seen, and what is gone is gone; it is hashed
        before any MD5 is made."""
        self.write("a")
        self.clock.advance(QUIET)
        self.clock.advance(0)
        self.workers.do()  # the folders
        self.workers.do()  # the look
        hashing = self.workers.jobs.pop(0)
        self.write("b")
        self.work(QUIET)
        self.assertEqual([entry.path for entry in self.shelf.list()[0]], ["a", "b"])
        sums: list[list[str]] = []
        sum_next = self.shelf.sum_next

        def note_sum(stop: Stop) -> bytes | None:
            sums.append(self.paths())
            return sum_next(stop)

        self.shelf.sum_next = note_sum  # type: ignore[method-assign]  # to take note
        hashing.do()
        self.work()
        self.assertEqual(sums, [["a", "b"]])

    def test_looked_at_now_and_then(self) -> None:
        """In case something was missed, everything is looked at after a longer while; rules of
        access are looked at as often as elsewhere."""
        (self.folder / "missed").write_text("missed")
        walks: list[float] = []
        self.patch(self.shelf, "_note_walk", lambda: walks.append(self.clock.seconds()))
        while self.clock.seconds() < WATCHED_RESCAN:
            self.assertEqual(self.paths(), [])
            self.work(RESCAN)
        self.assertEqual(self.paths(), ["missed"])
        self.assertEqual(walks[:3], [RESCAN, 2 * RESCAN, 3 * RESCAN])
        self.assertEqual(len(self.notifiers), 2)

    def makes_a_manifest(self) -> bool:
        """Ask for all that is shared; say whether anybody had to look at the disk for that."""
        with mock.patch("os.scandir", wraps=os.scandir) as looks:
            self.shelf.stat("/")
        return looks.called

    def test_manifests(self) -> None:
        """While nothing happens a manifest is not made twice. When something does, each is made
        anew until that has been looked at."""
        self.assertEqual([self.makes_a_manifest() for _ in range(3)], [True, False, False])
        (self.folder / "new").mkdir()
        self.happen("new", Event.CREATE | Event.IS_FOLDER)
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, True])
        self.work(QUIET)
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, False])
        self.happen("new/.flow512-partial")
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, False])
        self.work(RESCAN)
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, False])
        self.service.stopService()
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, True])

    def test_manifests_while_busy(self) -> None:
        """As long as something is still to be looked at, manifests are made anew."""
        self.write("a")
        self.clock.advance(QUIET)
        self.clock.advance(0)
        self.assertEqual(len(self.workers.jobs), 1)  # the look
        self.write("b")
        self.workers.do_all()
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, True])
        self.work(QUIET)
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, False])

    def test_manifests_unwatched(self) -> None:
        """Where folders cannot be watched any more, manifests are made anew."""
        self.refused[None] = errno.ENOSPC
        (self.folder / "new").mkdir()
        self.happen("new", Event.CREATE | Event.IS_FOLDER)
        self.work(QUIET)
        self.assertEqual([self.makes_a_manifest() for _ in range(2)], [True, True])

    def test_never_again(self) -> None:
        """If told so, everything is looked at only once; what happens is noticed still."""
        self.end(self.service)
        self.start(0)
        (self.folder / "missed").write_text("missed")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.work(10 * WATCHED_RESCAN)
        self.write("seen")
        self.work(QUIET)
        self.assertEqual(self.paths(), ["seen"])

    def test_lost(self) -> None:
        """After events were lost everything is looked at."""
        (self.folder / "missed").write_text("missed")
        self.notifiers[-1].told(-1, Event.OVERFLOW, b"")
        self.work(QUIET)
        self.assertEqual(self.paths(), ["missed"])

    def test_no_more_watches(self) -> None:
        """When no more folders can be watched, everything is looked at now and then."""
        (self.folder / "new").mkdir()
        (self.folder / "new" / "file").write_text("file")
        self.refused[None] = errno.ENOSPC
        self.happen("new", Event.CREATE | Event.IS_FOLDER)
        self.work(QUIET)
        (self.folder / "later").write_text("later")
        self.assertEqual(self.paths(), ["new/file"])
        self.work(RESCAN)
        self.assertEqual(self.paths(), ["later", "new/file"])

    def test_share_that_is_missing(self) -> None:
        """A share whose folder is not there is looked for as often as elsewhere."""
        moved = self.folder.with_name(self.folder.name + "-moved")
        self.folder.rename(moved)
        self.addCleanup(lambda: moved.exists() and moved.rename(self.folder))
        self.notifiers[-1].told(-1, Event.OVERFLOW, b"")
        self.work(QUIET)
        (moved / "file").write_text("file")
        moved.rename(self.folder)
        self.work(RESCAN)
        self.assertEqual(self.paths(), ["file"])

    def test_look_that_fails(self) -> None:
        """A look that fails is said, and made up for by a look at everything."""
        self.write("a")
        look = self.shelf.look

        def fails(look: Look, stop: Stop) -> ScanReport:
            raise DiskFailure("Input/output error.")

        self.shelf.look = fails  # type: ignore[method-assign]  # to fail
        with capturedLogs() as logs:
            self.work(QUIET)
        self.assertIn("Input/output error", str(formatEvent(logs[0])))
        self.shelf.look = look  # type: ignore[method-assign]  # as it was
        self.work(RESCAN)
        self.assertEqual(self.paths(), ["a"])

    def test_stopped_at_any_time(self) -> None:
        """It stops whatever it is at; nothing is left open."""
        for step in range(8):
            self.end(self.service)
            self.service.startService()
            for _ in range(step):
                if self.workers.jobs:
                    self.workers.do()
                else:
                    self.clock.advance(0)
        self.assertTrue(self.service.running)
