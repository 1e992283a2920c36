"""Tests for L{flow512.content.unfolding}."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.disk import DISK, Disk
from flow512.content.manifest import Item
from flow512.content.tree import root_digest
from flow512.content.unfolding import MAX_REASONS, Existing, Unfolding
from flow512.errors import DiskFull, NotFound, TargetExists, UnsafeName


def file(path: str, data: bytes = b"data", mode: int = 0o644, mtime: int = 7) -> Item:
    """A file in a manifest."""
    return Item(path, mode, mtime, len(data), root_digest(len(data), data))


class UnfoldingTests(SynchronousTestCase):
    """What a manifest says, done to a folder."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = self.enterContext(tempfile.TemporaryDirectory())
        self.top = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.top)

    def unfolding(self, existing: Existing = Existing.KEEP, disk: Disk = DISK) -> Unfolding:
        """Begin."""
        made = Unfolding(self.top, existing, disk)
        self.addCleanup(made.close)
        return made

    def write(self, path: str, data: bytes = b"mine") -> str:
        """Put a file there."""
        whole = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as made:
            made.write(data)
        return whole

    def content(self) -> dict[str, bytes | None]:
        """What is in the folder; of folders, nothing."""
        found: dict[str, bytes | None] = {}
        for where, folders, files in os.walk(self.folder):
            below = os.path.relpath(where, self.folder)
            for name in folders:
                found[os.path.normpath(os.path.join(below, name)) + "/"] = None
            for name in files:
                with open(os.path.join(where, name), "rb") as there:
                    found[os.path.normpath(os.path.join(below, name))] = there.read()
        return found

    def test_whole(self) -> None:
        """Folders and files come to be as the manifest says, with modes and times."""
        items = [
            file("a.txt", mode=0o600),
            Item("a/", 0o750, 11),
            file("a/b", b"", mode=0o777),
            Item("a/empty/", 0o500, 13),
            file("z"),
        ]
        unfolding = self.unfolding()
        wanted = unfolding.take(items[:3]) + unfolding.take(items[3:])
        self.assertEqual([item.path for item in wanted], ["a.txt", "a/b", "z"])
        for item in wanted:
            unfolding.put(item, b"data"[: item.size])
        unfolding.finish()
        self.assertEqual(
            self.content(),
            {"a/": None, "a/empty/": None, "a.txt": b"data", "a/b": b"", "z": b"data"},
        )
        self.assertEqual((unfolding.outcome.files, unfolding.outcome.folders), (3, 2))
        self.assertEqual(unfolding.outcome.size, 8)
        umask = os.umask(0)
        os.umask(umask)
        for item in items:
            status = os.stat(os.path.join(self.folder, item.path))
            expected = item.mode & ~umask | (0o700 if item.is_folder else 0)
            self.assertEqual(stat.S_IMODE(status.st_mode), expected, item.path)
            self.assertEqual(status.st_mtime_ns, item.mtime, item.path)

    def test_again(self) -> None:
        """What is here by size and time is not wanted again; what was changed here is kept."""
        items = [Item("a/", 0o755, 1), file("a/one"), file("a/two"), file("three")]
        unfolding = self.unfolding()
        for item in unfolding.take(items):
            unfolding.put(item, b"data")
        unfolding.finish()
        self.write("a/two", b"mine now")
        again = self.unfolding()
        self.assertEqual(again.take(items), [])
        again.finish()
        self.assertEqual(again.outcome.unchanged, 2)
        [(path, reason)] = again.outcome.left_out
        self.assertEqual(path, "a/two")
        self.assertIn("--replace", reason)
        self.assertEqual(self.content()["a/two"], b"mine now")

    def test_replace(self) -> None:
        """If the user lets it, another file is replaced; a link is, and not what it points to."""
        outside = self.enterContext(tempfile.NamedTemporaryFile())
        self.write("one", b"mine")
        os.symlink(outside.name, os.path.join(self.folder, "two"))
        items = [file("one"), file("two")]
        unfolding = self.unfolding(Existing.REPLACE)
        for item in unfolding.take(items):
            unfolding.put(item, b"data")
        self.assertEqual(self.content(), {"one": b"data", "two": b"data"})
        self.assertEqual(os.path.getsize(outside.name), 0)
        self.assertFalse(os.path.islink(os.path.join(self.folder, "two")))

    def test_links(self) -> None:
        """A link where a folder is meant is not followed, and all that was to be in it is left."""
        outside = self.enterContext(tempfile.TemporaryDirectory())
        os.symlink(outside, os.path.join(self.folder, "a"))
        unfolding = self.unfolding(Existing.REPLACE)
        items = [Item("a/", 0o755, 1), file("a/one"), Item("a/b/", 0o755, 1), file("z")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["z"])
        unfolding.finish()
        self.assertEqual(os.listdir(outside), [])
        self.assertIn("link", unfolding.outcome.left_out[0][1])
        self.assertRaises(UnsafeName, unfolding.put, file("a/one"), b"data")
        self.assertRaises(UnsafeName, unfolding.folder_of, file("a/one"))
        self.assertEqual(os.listdir(outside), [])

    def test_hostile_names(self) -> None:
        """Names that must not touch the disk do not, and the rest comes all the same."""
        bad = [
            *("..", "../x", "a/../../x", ".flow512-allow", "CON", "x:stream", "~", "x\u202ey"),
            *("/etc/passwd", "a//b", "x" * 256, "end."),
        ]
        unfolding = self.unfolding()
        wanted = unfolding.take([file(name) for name in bad] + [file("good")])
        self.assertEqual([item.path for item in wanted], ["good"])
        self.assertEqual(unfolding.outcome.left_out_count, len(bad))
        self.assertTrue(all(shown.isprintable() for shown, _ in unfolding.outcome.left_out))
        self.assertEqual(self.content(), {})

    def test_hostile_folders(self) -> None:
        """A folder with such a name is not made, and nothing in it wanted."""
        unfolding = self.unfolding()
        items = [Item("../", 0o755, 0), file("../x"), Item("../../", 0o755, 0), file("z")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["z"])
        self.assertEqual(self.content(), {})
        self.assertEqual([path for path, _ in unfolding.outcome.left_out], ["../"])

    def test_twins(self) -> None:
        """Of two names that some systems cannot tell apart, the first comes."""
        self.write("ÜBER")
        unfolding = self.unfolding()
        items = [
            Item("A/", 0o755, 0),
            file("A/x"),
            file("README"),
            file("a"),
            file("readme"),
            file("u\u0308ber"),
        ]
        self.assertEqual([item.path for item in unfolding.take(items)], ["A/x", "README"])
        self.assertEqual(
            [path for path, _ in unfolding.outcome.left_out], ["a", "readme", "u\u0308ber"]
        )

    def test_file_and_folder(self) -> None:
        """A file where a folder is meant, and the reverse, stay as they are."""
        self.write("a", b"mine")
        os.mkdir(os.path.join(self.folder, "b"))
        unfolding = self.unfolding(Existing.REPLACE)
        items = [Item("a/", 0o755, 0), file("a/x"), file("b")]
        self.assertEqual(unfolding.take(items), [])
        self.assertEqual(self.content(), {"a": b"mine", "b/": None})
        self.assertEqual(unfolding.outcome.left_out_count, 2)

    def test_came_meanwhile(self) -> None:
        """A file that somebody makes while one is fetched is not replaced."""
        unfolding = self.unfolding()
        [item] = unfolding.take([file("one")])
        self.write("one", b"mine")
        self.assertRaises(TargetExists, unfolding.put, item, b"data")
        self.assertEqual(self.content(), {"one": b"mine"})

    def test_without_hard_links(self) -> None:
        """Where the file system has no hard links, files get their names all the same."""

        class Flat(Disk):
            def link(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # a static one there
                raise OSError(errno.EPERM, "no links here")

        unfolding = self.unfolding(disk=Flat())
        for item in unfolding.take([file("one"), file("two")]):
            unfolding.put(item, b"data")
        self.assertEqual(self.content(), {"one": b"data", "two": b"data"})

    def test_disk_full(self) -> None:
        """A full disk is told as such, and leaves nothing half."""

        class Full(Disk):
            def pwritev(self, *args: Any) -> int:  # type: ignore[override]  # a static one there
                raise OSError(errno.ENOSPC, "full")

        unfolding = self.unfolding(disk=Full())
        [item] = unfolding.take([file("one")])
        error = self.assertRaises(DiskFull, unfolding.put, item, b"data")
        self.assertIn("'one'", str(error))
        self.assertEqual(self.content(), {})

    def test_large_file(self) -> None:
        """A file that a download has placed gets its permissions afterwards."""
        unfolding = self.unfolding()
        items = [Item("a/", 0o755, 0), file("a/big", mode=0o640, mtime=99)]
        [item] = unfolding.take(items)
        fd = unfolding.folder_of(item)
        try:
            os.close(os.open("big", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        finally:
            os.close(fd)
        unfolding.finish_file(item)
        status = os.stat(os.path.join(self.folder, "a/big"))
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_mtime_ns), (0o640, 99))
        self.assertRaises(NotFound, unfolding.folder_of, file("none/x"))

    def test_reasons_are_bounded(self) -> None:
        """A folder full of bad names does not fill the memory with reasons."""
        unfolding = self.unfolding()
        unfolding.take([file(f"x:{number}") for number in range(MAX_REASONS + 5)])
        self.assertEqual(len(unfolding.outcome.left_out), MAX_REASONS)
        self.assertEqual(unfolding.outcome.left_out_count, MAX_REASONS + 5)
