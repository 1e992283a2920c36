"""Files that are here already, on file systems that keep less of a time than was wanted."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.manifest import Item
from flow512.content.placing import Existing
from flow512.content.tree import root_digest
from flow512.content.unfolding import Unfolding
from tests.unit.partial_files import Killed, Step, WatchedDisk, dying_at

SECOND = 10**9
TIME = 1_700_000_001_123_456_789
BEFORE_1901 = -2_500_000_000 * SECOND - 1
AFTER_2038 = 3_000_000_000 * SECOND + 5

Keeps = Callable[[int], int]


def every(step: int, first: int = -(2**63), last: int = 2**63 - 1) -> Keeps:
    """What a file system does that has every so many nanoseconds, within these times."""
    return lambda time: min(max(time - time % step, first), last)


EVERYTHING = every(1)
SMALL_INODES = every(SECOND, -(2**31) * SECOND, (2**31 - 1) * SECOND)
FAT = every(2 * SECOND, 315_532_800 * SECOND, 4_354_819_198 * SECOND)
ROUNDED_UP = every(2 * SECOND)
NTFS = every(100, -11_644_473_600 * SECOND)
KINDS = (EVERYTHING, SMALL_INODES, FAT, NTFS, lambda time: ROUNDED_UP(time + 2 * SECOND - 1))


class Coarse(WatchedDisk):
    """A disk with a file system that does not keep all of a time."""

    def __init__(self, keeps: Keeps, before: Step | None = None) -> None:
        super().__init__(before)
        self.keeps = keeps

    def utime(self, fd: int, *, ns: tuple[int, int]) -> None:  # type: ignore[override]  # a static one there
        os.utime(fd, ns=(self.keeps(ns[0]), self.keeps(ns[1])))


class CoarseNamed(Coarse):
    """One on which no file is without a name."""

    def __init__(self, keeps: Keeps, before: Step | None = None) -> None:
        def refuse(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "open" and args[0] == ".":
                raise OSError(errno.EOPNOTSUPP, "no files without names here")
            if before is not None:
                before(count, name, args)

        super().__init__(keeps, refuse)


class KeptTimesTests(SynchronousTestCase):
    """A folder that is fetched again."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = self.enterContext(tempfile.TemporaryDirectory())
        self.top = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.top)

    def items(self, *times: int) -> list[Item]:
        """A manifest of files of one size, half of them in a folder."""
        root = root_digest(4, b"data")
        names = [f"{where}{number:02}" for where in ("", "f/") for number in range(len(times))]
        files = [
            Item(name, 0o644, time, 4, root) for name, time in zip(names, times * 2, strict=True)
        ]
        return sorted([*files, Item("f/", 0o755, 0)], key=lambda item: item.path)

    def fetch(self, disk: WatchedDisk, items: list[Item], existing: Existing) -> Unfolding:
        """Fetch what is not here."""
        unfolding = Unfolding(self.top, existing, disk)
        try:
            for item in unfolding.take(items):
                unfolding.placing.put(item, b"data")
            unfolding.finish()
        finally:
            unfolding.close()
        self.assertEqual(disk.opened, set())
        return unfolding

    def again(self, disk: WatchedDisk, items: list[Item]) -> tuple[int, list[str]]:
        """Fetch again; tell how many files are unchanged, and which are taken for others."""
        before = sorted(os.listdir(self.folder))
        unfolding = self.fetch(disk, items, Existing.KEEP)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        return unfolding.outcome.unchanged, [path for path, _ in unfolding.outcome.left_out]

    def touch(self, path: str, time: int) -> None:
        """Write other bytes to a file, as many as it had, at some time."""
        whole = os.path.join(self.folder, path)
        with open(whole, "wb") as file:
            file.write(b"mine")
        os.utime(whole, ns=(time, time))

    def test_nothing_is_fetched_twice(self) -> None:
        """Whatever a file system keeps of a time, what came is known again."""
        times = (TIME, TIME + SECOND, 7, -1, BEFORE_1901, AFTER_2038)
        for kind in (Coarse, CoarseNamed):
            for keeps in KINDS:
                for existing in Existing:
                    with tempfile.TemporaryDirectory() as self.folder:
                        self.top = os.open(self.folder, os.O_RDONLY)
                        self.addCleanup(os.close, self.top)
                        items = self.items(*times)
                        self.fetch(kind(keeps), items, existing)
                        self.assertEqual(self.again(kind(keeps), items), (12, []))
                        mirrored = self.fetch(kind(keeps), items, Existing.REPLACE)
                        self.assertEqual(mirrored.outcome.unchanged, 12)

    def test_edited(self) -> None:
        """A file that was written to is another, as soon as the file system can tell."""
        for keeps, step in (
            (EVERYTHING, 1),
            (SMALL_INODES, SECOND),
            (FAT, 2 * SECOND),
            (NTFS, 100),
        ):
            items = self.items(TIME, TIME, TIME, BEFORE_1901)
            self.fetch(Coarse(keeps), items, Existing.REPLACE)
            for path, time in (("00", keeps(TIME) + step), ("f/01", keeps(TIME) - step)):
                self.touch(path, time)
            self.touch("03", TIME)
            edited = ["00", "03", "f/01"]
            self.assertEqual(self.again(Coarse(keeps), items), (5, edited))

    def test_less_than_could_be_kept(self) -> None:
        """Where all of a time is kept, a file of the same second is another."""
        items = self.items(TIME)
        self.fetch(Coarse(EVERYTHING), items, Existing.KEEP)
        self.touch("00", SMALL_INODES(TIME))
        self.assertEqual(self.again(Coarse(EVERYTHING), items), (1, ["00"]))

    def test_nothing_can_be_made(self) -> None:
        """Where nothing can be made, only the very time is known, and that is no error."""

        def refuse(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "open":
                raise OSError(errno.EROFS, "read-only")

        items = self.items(TIME, TIME)
        self.fetch(Coarse(EVERYTHING), items, Existing.KEEP)
        self.touch("00", TIME + 1)
        self.assertEqual(self.again(Coarse(EVERYTHING, refuse), items), (3, ["00"]))

    def test_killed(self) -> None:
        """What a process leaves that is killed does not outlast the next one."""
        items = self.items(TIME)
        self.fetch(CoarseNamed(FAT), items, Existing.KEEP)
        for call in range(1, 20):
            disk = CoarseNamed(FAT, dying_at(call))
            unfolding = Unfolding(self.top, Existing.KEEP, disk)
            self.addCleanup(unfolding.close)
            try:
                unfolding.take(items)
                unfolding.close()
            except Killed:
                disk.crash()
            else:
                break
            self.fetch(CoarseNamed(FAT), items, Existing.KEEP)
            self.assertEqual(sorted(os.listdir(self.folder)), ["00", "f"])
        else:
            self.fail("It does not end.")
