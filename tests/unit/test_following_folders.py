"""Tests for L{flow512.transfer.following}."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import ALLOW_FILE
from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.following import EVERYTHING, QUIET, Following, Look, Place
from flow512.content.library import Library, Share
from flow512.errors import Cancelled
from flow512.transfer.following import FolderWatches
from flow512.transfer.inotify import COMING_AND_GOING, Event, Notifier, Told
from tests.unit.transfer_ends import HandFired, a_folder


class FakeNotifier:
    """
    Watches folders by their inodes, as Linux does, and tells what a test makes happen.

    @ivar refused: the error for some paths, or for all under C{None}.
    """

    def __init__(self, told: Told, refused: dict[str | None, int]) -> None:
        self.told = told
        self.refused = refused
        self.inodes: dict[int, int] = {}
        self.events: dict[int, Event] = {}
        self.is_closed = False
        self.calls = self.watched = 0

    def watch(self, folder: bytes, events: Event) -> int:
        """Watch a folder."""
        assert not self.is_closed
        self.calls += 1
        path = os.fsdecode(folder)
        number = self.refused.get(path, self.refused.get(None, 0))
        if number:
            raise OSError(number, os.strerror(number))
        if os.path.islink(path) or not os.path.isdir(path):
            raise OSError(errno.ENOTDIR, "Not a directory")
        inode = os.stat(path).st_ino
        if inode not in self.inodes:
            self.watched += 1
        watch = self.inodes.setdefault(inode, self.watched)
        self.events[watch] = self.events.get(watch, Event(0)) | events
        return watch

    def forget(self, watch: int) -> None:
        """Watch it no longer."""
        assert not self.is_closed
        self.calls += 1
        self.inodes = {inode: each for inode, each in self.inodes.items() if each != watch}
        self.events.pop(watch, None)

    def close(self) -> None:
        """Watch nothing."""
        assert not self.is_closed
        self.is_closed = True

    def watch_on(self, path: Path) -> int | None:
        """Tell which watch a folder has."""
        return self.inodes.get(path.stat().st_ino)

    def happen(self, folder: Path, name: str, what: Event) -> None:
        """Tell of an event in a folder, as one would come."""
        watch = self.watch_on(folder)
        if watch is not None and self.events[watch] & what:
            self.told(watch, what, os.fsencode(name))


class FolderCase(SynchronousTestCase):
    """Watches on two shares, with workers that work at once unless told otherwise."""

    def setUp(self) -> None:
        self.top = a_folder(self).resolve()
        self.share = self.top / "share"
        self.share.mkdir()
        self.clock = Clock()
        self.workers = HandFired()
        self.following = Following()
        self.refused: dict[str | None, int] = {}
        self.notifiers: list[FakeNotifier] = []
        self.happened = 0
        self.make([self.share])

    def make(self, folders: Iterable[Path]) -> None:
        """Make the library and its watches."""
        catalog = Catalog(IN_MEMORY)
        self.addCleanup(catalog.close)
        self.library = Library(catalog, [Share(str(folder)) for folder in folders])
        self.addCleanup(self.library.close)
        self.watches = FolderWatches(
            self.library,
            self.following,
            self.clock,
            self.workers.run_blocking,
            self.open_notifier,
            self.note,
        )

    def open_notifier(self, told: Told) -> Notifier:
        """Open one, and keep it."""
        self.notifiers.append(FakeNotifier(told, self.refused))
        return self.notifiers[-1]

    def note(self) -> None:
        """Count."""
        self.happened += 1

    @property
    def notifier(self) -> FakeNotifier:
        """The one that was opened last."""
        return self.notifiers[-1]

    def run_through(self, work: Callable[[], Deferred[None]]) -> int:
        """Do something to its end; tell how many calls there were at most in one turn."""
        before = self.notifier.calls if self.notifiers else 0
        most = 0

        def turn(delay: float, *call: Any, **more: Any) -> IDelayedCall:
            nonlocal before, most
            before, most = self.notifier.calls, max(most, self.notifier.calls - before)
            return call_later(delay, *call, **more)

        call_later = self.clock.callLater
        self.patch(self.clock, "callLater", turn)
        done = work()
        while self.workers.jobs or self.clock.getDelayedCalls():
            self.workers.do_all()
            self.clock.advance(0)
        self.successResultOf(done)
        self.clock.callLater = call_later  # type: ignore[method-assign]  # as it was
        return max(most, self.notifier.calls - before)

    def begin(self) -> int:
        """Watch everything."""
        return self.run_through(lambda: Deferred.fromCoroutine(self.watches.begin()))

    def cover(self, *paths: str) -> int:
        """Watch some places."""
        places = [Place(self.library.shares[0].key, path) for path in paths]
        return self.run_through(lambda: Deferred.fromCoroutine(self.watches.cover(places)))

    def take(self) -> Look:
        """Tell what is to be looked at."""
        self.clock.advance(QUIET)
        return self.following.take(self.clock.seconds())

    def paths(self) -> list[str]:
        """Tell which places of the first share those are."""
        key = self.library.shares[0].key
        return [place.path for place in self.take().places if place.share == key]


class EventTests(FolderCase):
    """Events become places."""

    def test_in_folders(self) -> None:
        """Whatever happens at any depth is noted under its path; what our own downloads do, and
        what happens beside the share, is not."""
        inner = self.share / "a" / "b"
        inner.mkdir(parents=True)
        (self.share / "link").symlink_to(self.top)
        self.begin()
        self.notifier.happen(self.share, "top", Event.CREATE)
        self.notifier.happen(self.share / "a", "b", Event.ATTRIB | Event.IS_FOLDER)
        self.notifier.happen(inner, "file", Event.MODIFY)
        self.notifier.happen(inner, ".flow512-part", Event.MODIFY)
        self.notifier.happen(self.share, ALLOW_FILE, Event.MODIFY)
        self.notifier.happen(self.top, "beside", Event.CREATE)
        self.notifier.happen(self.top, "beside", Event.MODIFY)
        self.notifier.happen(inner, "", Event.ATTRIB)
        self.assertEqual(self.paths(), ["top", "a/b", "a/b/file", ALLOW_FILE])
        self.assertEqual(self.happened, 4)
        self.assertEqual(len(self.notifier.inodes), 4)

    def test_shares_in_shares(self) -> None:
        """A file in two shares is noted in both."""
        (self.share / "inner").mkdir()
        self.make([self.share, self.share / "inner", self.share])
        self.begin()
        self.notifier.happen(self.share / "inner", "file", Event.MODIFY)
        outer, inner, _ = self.library.shares
        self.assertEqual(
            set(self.take().places), {Place(outer.key, "inner/file"), Place(inner.key, "file")}
        )

    def test_lost(self) -> None:
        """Lost events may have been anywhere; what comes from a watch that is no more may not."""
        self.begin()
        self.notifier.told(99, Event.MODIFY, b"file")
        self.assertEqual(self.take(), Look())
        self.notifier.told(-1, Event.OVERFLOW, b"")
        self.assertEqual(self.take(), EVERYTHING)

    def test_share_removed(self) -> None:
        """If a share's own folder comes or goes, everything is looked at."""
        self.begin()
        root = self.notifier.watch_on(self.share)
        assert root is not None
        for happen in (
            lambda: self.notifier.happen(self.top, "share", Event.CREATE | Event.IS_FOLDER),
            lambda: self.notifier.happen(self.top, "share", Event.MOVED_FROM | Event.IS_FOLDER),
            lambda: self.notifier.told(root, Event.MOVE_SELF, b""),
            lambda: self.notifier.told(root, Event.IGNORED, b""),
        ):
            happen()
            self.assertEqual(self.take(), EVERYTHING)


class CoverTests(FolderCase):
    """Which folders are watched."""

    def is_watched(self, *folders: str) -> list[bool]:
        """Tell whether events come from some folders, under their own names."""
        seen = []
        for folder in folders:
            self.notifier.happen(self.share / folder, "file", Event.CREATE)
            seen.append(f"{folder}/file" in self.paths())
        return seen

    def test_beside_a_share(self) -> None:
        """What comes and goes beside a share is nothing that happens in it."""
        self.begin()
        told: list[None] = []
        self.library.happened = lambda: told.append(None)  # type: ignore[method-assign]  # to count
        self.notifier.happen(self.top, "another", Event.CREATE)
        self.notifier.happen(self.top, "share-2", Event.MOVED_TO)
        self.assertEqual((told, self.happened), ([], 0))
        self.notifier.happen(self.share, "file", Event.CLOSE_WRITE)
        self.assertEqual((len(told), self.happened), (1, 1))

    def test_new_folder(self) -> None:
        """A new folder is watched with all that is in it already; what is no folder is not."""
        self.begin()
        (self.share / "new" / "inner").mkdir(parents=True)
        (self.share / "file").touch()
        self.assertEqual(self.is_watched("new"), [False])
        self.cover("new", "file", "gone", "gone/deeper")
        self.assertEqual(self.is_watched("new", "new/inner"), [True, True])

    def test_came_between(self) -> None:
        """A folder is listed only once it is watched: what comes before is in the list, what
        comes after is an event."""
        self.begin()
        (self.share / "new").mkdir()
        key = self.library.shares[0].key
        done = Deferred.fromCoroutine(self.watches.cover([Place(key, "new")]))
        self.workers.do_all()  # which look what is a folder
        self.assertIsNotNone(self.notifier.watch_on(self.share / "new"))
        (self.share / "new" / "inner").mkdir()
        self.clock.advance(0)
        self.run_through(lambda: done)
        self.assertEqual(self.is_watched("new/inner"), [True])

    def test_not_in_the_share(self) -> None:
        """
        A place that is reached only by a link now, such as one in a folder that was moved away and
        has a link in its place, is not watched; nor is what has a name that is not shared.
        """
        (self.share / "a").mkdir()
        self.begin()
        (self.share / "a" / "new" / "inner").mkdir(parents=True)
        os.rename(self.share / "a", self.top / "elsewhere")
        (self.share / "a").symlink_to(self.top / "elsewhere")
        for name in ("~bad", ".flow512-own"):
            (self.share / name / "inner").mkdir(parents=True)
        self.cover("a", "a/new", "~bad", "~bad/inner", ".flow512-own")
        for folder in ("a/new", "a/new/inner", "~bad", "~bad/inner", ".flow512-own"):
            self.assertIsNone(self.notifier.watch_on(self.share / folder), folder)

    def test_many(self) -> None:
        """Many folders are watched in many turns of the reactor."""
        for number in range(1000):
            (self.share / f"{number}").mkdir()
        self.assertLessEqual(self.begin(), 200)
        self.assertEqual(len(self.notifier.inodes), 1002)

    def test_moved(self) -> None:
        """What happens in a folder that was moved is noted under its new name, however soon it is
        found there; and a new folder of the old name is watched too."""
        (self.share / "a" / "inner").mkdir(parents=True)
        self.begin()
        for found_at in range(2):
            os.rename(self.share / "a", self.share / "b")
            (self.share / "a" / "inner").mkdir(parents=True)
            if found_at == 0:
                self.cover("")
            self.notifier.happen(self.share, "a", Event.MOVED_FROM | Event.IS_FOLDER)
            self.notifier.happen(self.share, "b", Event.MOVED_TO | Event.IS_FOLDER)
            self.notifier.happen(self.share, "a", Event.CREATE | Event.IS_FOLDER)
            self.assertEqual(sorted(self.paths()), ["a", "b"])
            self.cover("a", "b")
            self.assertEqual(self.is_watched("a", "b", "a/inner", "b/inner"), [True] * 4)
            shutil.rmtree(self.share / "b")

    def test_moved_and_found(self) -> None:
        """A folder that is found under its new name before the word of the move comes stays watched
        there, though nothing has taken its old place."""
        (self.share / "a" / "inner").mkdir(parents=True)
        self.begin()
        os.rename(self.share / "a", self.share / "b")
        self.cover("")
        self.notifier.happen(self.share, "a", Event.MOVED_FROM | Event.IS_FOLDER)
        self.cover("a")
        self.assertEqual(self.is_watched("b", "b/inner"), [True, True])

    def test_moved_away(self) -> None:
        """A large folder that was moved away is watched no longer, little by little."""
        for number in range(500):
            (self.share / "a" / f"{number}").mkdir(parents=True)
        self.begin()
        os.rename(self.share / "a", self.top / "away")
        self.notifier.happen(self.share, "a", Event.MOVED_FROM | Event.IS_FOLDER)
        self.assertLessEqual(self.cover("a"), 201)
        self.assertEqual(len(self.notifier.inodes), 2)

    def test_deleted(self) -> None:
        """A folder that was deleted and made anew is watched."""
        (self.share / "a").mkdir()
        self.begin()
        watch = self.notifier.watch_on(self.share / "a")
        assert watch is not None
        (self.share / "a").rmdir()
        self.notifier.told(watch, Event.IGNORED, b"")
        self.notifier.forget(watch)
        (self.share / "a").mkdir()
        self.cover("a")
        self.assertEqual(self.is_watched("a"), [True])

    def test_begun_anew(self) -> None:
        """To begin anew leaves nothing of what was; a share that has come meanwhile is watched."""
        shutil.rmtree(self.share)
        self.begin()
        (self.share / "a").mkdir(parents=True)
        self.notifier.happen(self.top, "share", Event.CREATE | Event.IS_FOLDER)
        self.assertEqual(self.take(), EVERYTHING)
        self.begin()
        self.assertEqual([each.is_closed for each in self.notifiers], [True, False])
        self.assertEqual(self.is_watched("a"), [True])
        self.assertEqual(
            self.notifier.events[self.notifier.watch_on(self.top) or 0], COMING_AND_GOING
        )

    def test_vanishing(self) -> None:
        """A folder that may not be read is passed over."""
        (self.share / "a" / "b").mkdir(parents=True)
        self.refused[str(self.share / "a")] = errno.EACCES
        self.begin()
        self.assertTrue(self.watches.are_kept)
        self.assertEqual(self.is_watched("a/b"), [False])


class EndTests(FolderCase):
    """No more watches, and the end."""

    def test_no_more(self) -> None:
        """When no more can be watched that is said once, and nothing is watched from then on."""
        for opening in range(3):
            self.make([self.share])
            for number in range(2):
                (self.share / f"{opening}{number}").mkdir()
            if opening == 2:
                self.open_notifier = self.open_none  # type: ignore[method-assign]  # to fail
                self.make([self.share])
            else:
                place = self.top if opening else self.share / f"{opening}1"
                self.refused[str(place)] = errno.ENOSPC
            with capturedLogs() as logs:
                self.begin()
                self.begin()
            said = [formatEvent(event) for event in logs]
            self.assertEqual(len(said), 1)
            self.assertIn("not followed live", str(said[0]))
            self.assertFalse(self.watches.are_kept)
            self.cover("")
        self.assertTrue(all(each.is_closed for each in self.notifiers))

    def open_none(self, told: Told) -> Notifier:
        """Have none left."""
        raise OSError(errno.EMFILE, "Too many open files")

    def test_no_more_later(self) -> None:
        """The same when it turns out later on."""
        self.begin()
        (self.share / "new").mkdir()
        self.refused[None] = errno.ENOSPC
        with capturedLogs() as logs:
            self.cover("new")
        self.assertEqual(len(logs), 1)
        self.assertFalse(self.watches.are_kept)

    def test_closed(self) -> None:
        """Closing at any time ends what is under way; nothing is left open."""
        (self.share / "a").mkdir()
        for steps in range(5):
            self.make([self.share])
            begun = Deferred.fromCoroutine(self.watches.begin())
            for step in range(steps):
                if step % 2:
                    self.clock.advance(0)
                else:
                    self.workers.do()
            self.watches.close()
            self.workers.do_all()
            self.assertIsInstance(self.failureResultOf(begun).value, Cancelled)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(each.is_closed for each in self.notifiers))
