"""Tests for L{flow512.content.mirroring}."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content import mirroring
from flow512.content.disk import DISK, Disk
from flow512.content.manifest import Item, manifest_of
from flow512.content.mirroring import Beyond, Mirror, Surplus
from flow512.content.paths import MAX_DEPTH

SOURCE = ["a/", "a/one", "b.txt", "b/", "b/deep/", "b/deep/two", "empty/"]


class MirrorTests(SynchronousTestCase):
    """What is in a folder beyond a manifest."""

    def setUp(self) -> None:
        """Make the folder, as the manifest has it."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory())) / "top"
        self.folder.mkdir()
        self.top = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.top)
        self.make(*SOURCE)

    def make(self, *paths: str) -> None:
        """Make files and folders."""
        for path in paths:
            whole = self.folder / path
            if path.endswith("/"):
                whole.mkdir(parents=True, exist_ok=True)
            else:
                whole.parent.mkdir(parents=True, exist_ok=True)
                whole.write_bytes(b"here")

    def here(self) -> list[str]:
        """What is in the folder."""
        return sorted(
            str(path.relative_to(self.folder)) + "/" * (path.is_dir() and not path.is_symlink())
            for path in self.folder.rglob("*")
        )

    def mirror(self, disk: Disk = DISK, **how: Any) -> Mirror:
        """Make one that has taken the manifest."""
        mirror = Mirror(self.top, disk=disk, **how)
        self.addCleanup(mirror.close)
        items = [
            Item(path, 0, 0, 0, None if path.endswith("/") else b"r" * 32)
            for path in sorted(SOURCE)
        ]
        for part in manifest_of(items):
            mirror.keep(part)
        return mirror

    def compare(self, beyond: Beyond, **how: Any) -> Surplus:
        """Compare the folder with the manifest; nothing may be left open."""
        gc.collect()  # or others' files may be closed meanwhile
        before = len(os.listdir("/proc/self/fd"))
        mirror = self.mirror(**how)
        mirror.compare(beyond)
        mirror.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        return mirror.surplus

    def test_nothing(self) -> None:
        """A folder that is as the manifest says has nothing beyond it, and stays as it is."""
        self.assertEqual(self.compare(Beyond.DELETE), Surplus())
        self.assertEqual(self.here(), sorted(SOURCE))

    def test_counted(self) -> None:
        """What is too much is counted and named, and stays."""
        self.make("a/more", "c/x", "c/y/")
        surplus = self.compare(Beyond.COUNT)
        self.assertEqual(surplus, Surplus(4, 0, ["a/more", "c/x", "c/y/", "c/"]))
        self.assertEqual(self.here(), sorted([*SOURCE, "a/more", "c/", "c/x", "c/y/"]))

    def test_deleted(self) -> None:
        """If told so, it is deleted, with its folders, at any depth, and nothing else is."""
        self.make("0", "a/more", "a.txt", "b/deep/er/and/deeper", "b0", "z/empty/", "b/\x1bname")
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual(self.here(), sorted([*SOURCE, "b/\x1bname"]))
        self.assertEqual((surplus.count, surplus.deleted), (10, 9))
        self.assertIn("b/deep/er/and/", surplus.paths)
        [(path, reason)] = surplus.failed
        self.assertEqual(path, "b/\\x1bname")
        self.assertIn("control character", reason)

    def test_folders_of_the_manifest(self) -> None:
        """A folder of the manifest stays, though nothing is left in it."""
        for path in ("a/one", "b/deep/two"):
            (self.folder / path).unlink()
        self.make("b/deep/er/x")
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual(surplus, Surplus(2, 2, ["b/deep/er/x", "b/deep/er/"]))
        self.assertEqual(self.here(), ["a/", "b.txt", "b/", "b/deep/", "empty/"])

    def test_counted_though_not_deletable(self) -> None:
        """What could not be deleted is counted like all else, unless the user does not want it."""
        self.make("b/\x1bname", "\x1bfolder/x")
        surplus = self.compare(Beyond.COUNT)
        self.assertEqual(surplus, Surplus(2, 0, ["\\x1bfolder/", "b/\\x1bname"]))
        surplus = self.compare(Beyond.DELETE, is_wanted=lambda item: "b/" in item.path)
        self.assertEqual((surplus.count, surplus.deleted), (1, 0))
        self.assertEqual([path for path, _ in surplus.failed], ["b/\\x1bname"])

    def test_hidden_files_of_other_downloads(self) -> None:
        """Our own hidden files stay, with the folders that they are in, and are not counted."""
        own = [".flow512-abc.part", "c/.flow512-def.journal", "c/deep/.FLOW512-x.part"]
        self.make(*own, "c/x")
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual(surplus, Surplus(1, 1, ["c/x"]))
        self.assertEqual(self.here(), sorted([*SOURCE, *own, "c/", "c/deep/"]))

    def test_excluded(self) -> None:
        """What the user does not want stays, with the folder that it is in."""
        self.make("c/keep.txt", "c/x", "keep/x", "a/keep.txt")
        surplus = self.compare(Beyond.DELETE, is_wanted=lambda item: "keep" not in item.path)
        self.assertEqual(surplus, Surplus(1, 1, ["c/x"]))
        self.assertEqual(
            self.here(), sorted([*SOURCE, "c/", "c/keep.txt", "keep/", "keep/x", "a/keep.txt"])
        )

    def test_links(self) -> None:
        """Links go as links; what they lead to stays, be it a file or a folder, in or out."""
        outside = self.folder.parent / "outside"
        outside.mkdir()
        (outside / "x").write_bytes(b"theirs")
        for name, target in (("a/file", outside / "x"), ("c", outside), ("b/up", "../a")):
            os.symlink(target, self.folder / name)
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual(surplus, Surplus(3, 3, ["a/file", "b/up", "c"]))
        self.assertEqual(self.here(), sorted(SOURCE))
        self.assertEqual((outside / "x").read_bytes(), b"theirs")

    def test_swapped_for_a_link(self) -> None:
        """A folder that turns into a link between look and step is not gone into."""
        outside = self.folder.parent / "outside"
        outside.mkdir()
        (outside / "x").write_bytes(b"theirs")
        self.make("c/x")
        folder = self.folder

        class Swapping(Disk):
            def fstat(self, fd: int) -> os.stat_result:  # type: ignore[override]  # a static one there
                if not (folder / "c").is_symlink():
                    (folder / "c").rename(folder.parent / "c")
                    os.symlink(outside, folder / "c")
                return os.fstat(fd)

        surplus = self.compare(Beyond.DELETE, disk=Swapping())
        self.assertEqual((outside / "x").read_bytes(), b"theirs")
        self.assertEqual((surplus.count, surplus.deleted), (1, 0))
        self.assertIn("link", surplus.failed[0][1])

    def test_not_deletable(self) -> None:
        """What cannot be deleted is told with its cause, keeps its folder, and stops nothing."""
        self.make("c/x", "c/y", "d")

        class Stubborn(Disk):
            def unlink(self, name: str, *, dir_fd: int) -> None:  # type: ignore[override]  # a static one there
                if name == "x":
                    raise PermissionError(errno.EPERM, "Operation not permitted")
                os.unlink(name, dir_fd=dir_fd)

        surplus = self.compare(Beyond.DELETE, disk=Stubborn())
        self.assertEqual((surplus.count, surplus.deleted, surplus.paths), (3, 2, ["c/y", "d"]))
        self.assertEqual(surplus.failed, [("c/x", "Operation not permitted while deleting 'c/x'.")])
        self.assertEqual(self.here(), sorted([*SOURCE, "c/", "c/x"]))

    def test_times(self) -> None:
        """A folder of the manifest keeps its time, though something in it was deleted."""
        self.make("a/more")
        os.utime(self.folder / "a", ns=(3, 5))
        self.compare(Beyond.DELETE)
        self.assertNotIn("a/more", self.here())
        self.assertEqual((self.folder / "a").stat().st_mtime_ns, 5)

    def test_times_of_the_empty(self) -> None:
        """So does one that is empty in the manifest, and here when all was deleted."""
        self.make("empty/more/one", "empty/two")
        os.utime(self.folder / "empty", ns=(3, 5))
        self.compare(Beyond.DELETE)
        self.assertEqual(list((self.folder / "empty").iterdir()), [])
        self.assertEqual((self.folder / "empty").stat().st_mtime_ns, 5)

    def test_stopped(self) -> None:
        """Once it is stopped, nothing more is deleted."""
        self.make("0", "a/more", "z")
        mirror: Mirror

        class Stopping(Disk):
            def unlink(self, name: str, *, dir_fd: int) -> None:  # type: ignore[override]  # a static one there
                os.unlink(name, dir_fd=dir_fd)
                mirror.stop()

        mirror = self.mirror(Stopping())
        mirror.compare(Beyond.DELETE)
        self.assertEqual((mirror.surplus.deleted, mirror.surplus.paths), (1, ["0"]))
        self.assertEqual(self.here(), sorted([*SOURCE, "a/more", "z"]))

    def test_too_deep(self) -> None:
        """What is deeper than any path may be stays, and is told."""
        deep = "d/" * (MAX_DEPTH + 1)
        self.make(deep)
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual((surplus.count, surplus.deleted), (1, 0))
        self.assertIn("deep", surplus.failed[0][1])
        self.assertTrue((self.folder / deep).is_dir())

    def test_names_are_bounded(self) -> None:
        """However much there is, memory holds only some names of it."""
        self.patch(mirroring, "MAX_NAMED", 3)
        self.make(*(f"x{number}" for number in range(9)), *(f"CON.{n}" for n in range(5)))
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual((surplus.count, surplus.deleted), (14, 9))
        self.assertEqual((len(surplus.paths), len(surplus.failed)), (3, 3))

    def test_odd_names(self) -> None:
        """Names that are no text of UTF-8 are told in one that a terminal can show."""
        os.close(os.open(os.fsencode(str(self.folder)) + b"/\xff", os.O_CREAT | os.O_WRONLY, 0o600))
        surplus = self.compare(Beyond.DELETE)
        self.assertEqual(surplus.failed[0][0], "\\udcff")
        self.assertEqual(surplus.deleted, 0)
