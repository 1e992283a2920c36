"""
Shares: what a walk through a hostile folder finds, and what becomes of a share whose folder moves.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.catalog import Stamp
from flow512.content.shares import LARGEST, Found, FoundFolder, LeftOut, Share, Sight, Unread, walk
from flow512.errors import NotFound, ShareMissing, TooManyOpenFiles, UnsafeName
from flow512.wire.fields import MAX_PATH

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, if it is root who runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class FolderCase(SynchronousTestCase):
    """A folder to share, beside one that is not shared."""

    def setUp(self) -> None:
        """Make them."""
        self.top = self.enterContext(tempfile.TemporaryDirectory())
        os.chmod(self.top, 0o755)
        self.folder = os.path.join(self.top, "share")
        self.outside = os.path.join(self.top, "outside")
        os.mkdir(self.folder)
        os.mkdir(self.outside)
        self.put("secret", b"secret", self.outside)

    def put(self, path: str, data: bytes = b"data", folder: str = "") -> str:
        """Write a file, and the folders that it is in."""
        whole = os.path.join(folder or self.folder, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(data)
        return whole

    def walk(self) -> list[Sight]:
        """Walk through the folder, and leave out the folders in it."""
        return [sight for sight in self.walk_all() if not isinstance(sight, FoundFolder)]

    def walk_all(self) -> list[Sight]:
        """Walk through the folder."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            return list(walk(fd))
        finally:
            os.close(fd)

    def found(self) -> list[str]:
        """Walk, and say which files are offered."""
        return [sight.path for sight in self.walk() if isinstance(sight, Found)]

    def left_out(self) -> dict[str, str]:
        """Walk, and say what is not offered, and why."""
        return {sight.path: sight.reason for sight in self.walk() if isinstance(sight, LeftOut)}


class WalkTests(FolderCase):
    """The walk."""

    def test_files(self) -> None:
        """Files and folders of every depth are found, with their stamps and permissions."""
        path = self.put("a/b/c.txt", b"12345")
        empty = self.put("empty", b"")
        os.chmod(empty, 0o4750)
        nothing = os.path.join(self.folder, "nothing")
        os.mkdir(nothing)
        os.chmod(nothing, 0o711)
        os.utime(nothing, ns=(1, 77))
        sights = self.walk_all()
        self.assertEqual(
            [sight.path for sight in sights], ["a/", "a/b/", "a/b/c.txt", "empty", "nothing/"]
        )
        self.assertEqual(
            [sight for sight in sights if sight.path[-1] != "/"],
            [
                Found("a/b/c.txt", Stamp.of(os.stat(path)), os.stat(path).st_mode & 0o7777),
                Found("empty", Stamp.of(os.stat(empty)), 0o4750),
            ],
        )
        self.assertEqual(sights[-1], FoundFolder("nothing/", 0o711, 77))

    def test_order(self) -> None:
        """Paths come by code point, though folders are walked whole: C{a.b} is before C{a/b}."""
        paths = ["a-b", "a.b", "a/b", "a/b.c", "a0", "a0/x"[:2] + "1", "B", "a/-/z", "a/0", "ä"]
        for path in paths:
            self.put(path)
        self.assertEqual(self.found(), sorted(paths))

    @settings(max_examples=25, deadline=None)
    @given(
        st.sets(st.text("a-.0é", min_size=1, max_size=3).filter(lambda s: s[-1] != "."), max_size=8)
    )
    def test_any_order(self, names: set[str]) -> None:
        """Whatever the names of files and folders, the order is that of whole paths."""
        shutil.rmtree(self.folder)
        os.mkdir(self.folder)
        for at, name in enumerate(sorted(names)):
            self.put(f"{name}/{name}" if at % 2 else name)
        found = self.found()
        self.assertEqual(found, sorted(found))
        self.assertEqual(len(found), len(names))

    def test_own_files(self) -> None:
        """Our own partial files are not offered, nor worth a word."""
        self.put(".flow512-abcdefghijklmnop.part")
        self.put("a/.flow512-abcdefghijklmnop.journal")
        self.put(".hidden")
        self.assertEqual([getattr(sight, "path", "") for sight in self.walk()], [".hidden"])

    def test_no_regular_files(self) -> None:
        """Links, FIFOs and sockets are left out with a reason; none is followed or waited for."""
        os.symlink(os.path.join(self.outside, "secret"), os.path.join(self.folder, "link"))
        os.symlink(self.outside, os.path.join(self.folder, "way out"))
        os.symlink("nowhere", os.path.join(self.folder, "dangling"))
        os.symlink(".", os.path.join(self.folder, "loop"))
        os.mkfifo(os.path.join(self.folder, "fifo"))
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(self.folder)  # the whole path may be too long for a socket
            try:
                listener.bind("socket")
            finally:
                os.chdir(here)
        self.assertEqual(self.found(), [])
        reasons = self.left_out()
        self.assertEqual(sorted(reasons), ["dangling", "fifo", "link", "loop", "socket", "way out"])
        for name in ("link", "way out", "dangling", "loop"):
            self.assertIn("link", reasons[name])
        for name in ("fifo", "socket"):
            self.assertIn("not a regular file", reasons[name])

    def test_unsafe_names(self) -> None:
        """Names that must not be given to others are left out, escaped, with what is under them."""
        folder = os.fsencode(self.folder)
        for name in (b"a\nb", b"\x1b[31m", b"\xff\xfe", "\u202egnp.exe".encode(), b"CON", b"end."):
            with open(os.path.join(folder, name), "wb"):
                pass
        os.mkdir(os.path.join(folder, b"back\\slash"))
        with open(os.path.join(folder, b"back\\slash", b"file"), "wb"):
            pass
        self.put("good")
        self.assertEqual(self.found(), ["good"])
        reasons = self.left_out()
        self.assertEqual(len(reasons), 7)
        for path, reason in reasons.items():
            self.assertTrue(path.isprintable() and reason.isprintable(), (path, reason))

    def test_deep(self) -> None:
        """A thousand folders deep, the walk ends with a reason where paths would be refused."""
        here = os.getcwd()
        os.chdir(self.folder)
        try:
            for _ in range(1000):
                os.mkdir("d")
                os.chdir("d")
                with open("file", "wb"):
                    pass
        finally:
            os.chdir(here)
        self.addCleanup(self.flatten)
        self.assertEqual(len(self.found()), 99)
        self.assertEqual(sorted(map(len, self.left_out())), [201, 204])

    def flatten(self) -> None:
        """Remove folders that are too deep for rmtree."""
        outer, inner = (os.path.join(self.folder, name) for name in "de")
        for _ in range(999):
            os.rename(os.path.join(outer, "d"), inner)
            shutil.rmtree(outer)
            os.rename(inner, outer)

    def test_long_path(self) -> None:
        """A path that is longer than a message may carry is left out."""
        self.put("/".join(["n" * 200] * 10) + "/file")
        long = os.path.join(*["n" * 200] * 10)
        fd = os.open(os.path.join(self.folder, long), os.O_RDONLY)
        try:
            for _ in range(10):
                os.mkdir("ü" * 120, dir_fd=fd)
                inner = os.open("ü" * 120, os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = inner
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        finally:
            os.close(fd)
        self.assertEqual(len(self.found()), 1)
        [reason] = self.left_out().values()
        self.assertIn("4096 bytes", reason)

    def test_longest_path(self) -> None:
        """A file's path may be as long as a path can be; a folder's with a slash behind it."""
        parts = [letter * 240 for letter in "abcdefghijklmnopq"]
        self.assertEqual(len("/".join(parts)), MAX_PATH)
        fd = os.open(self.folder, os.O_RDONLY)
        for part in parts[:-1]:
            os.mkdir(part, dir_fd=fd)
            inner = os.open(part, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.mkdir(parts[-1], dir_fd=fd)
        os.mkdir(parts[-1][1:], dir_fd=fd)
        os.close(os.open("f" * 240, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        self.put("z")
        lengths = [len(sight.path) for sight in self.walk_all() if not isinstance(sight, LeftOut)]
        self.assertEqual(lengths[-3:], [MAX_PATH, MAX_PATH, 1])
        [(path, reason)] = self.left_out().items()
        self.assertEqual(path, "/".join(parts))
        self.assertIn("with a slash at its end, it is longer than 4096 bytes", reason)

    def test_unreadable(self) -> None:
        """A file that may not be read is left out; a folder is told as not looked at."""
        os.chmod(self.put("a/closed"), 0)
        self.put("b/c/file")
        os.chmod(os.path.join(self.folder, "b/c"), 0)
        self.addCleanup(os.chmod, os.path.join(self.folder, "b/c"), 0o755)
        self.put("d")
        with as_nobody():
            sights = self.walk()
        self.assertEqual([type(sight) for sight in sights], [LeftOut, Unread, Found])
        self.assertEqual([sight.path for sight in sights], ["a/closed", "b/c", "d"])

    def test_searchable_only(self) -> None:
        """A folder whose names can be read but whose files cannot be looked at is no surprise."""
        self.put("a/file")
        os.chmod(os.path.join(self.folder, "a"), 0o444)
        self.addCleanup(os.chmod, os.path.join(self.folder, "a"), 0o755)
        with as_nobody():
            sights = self.walk()
        self.assertEqual([(type(s), s.path) for s in sights], [(Unread, "a/file")])

    def test_too_large(self) -> None:
        """A sparse file whose digests would fill the memory is left out."""
        path = self.put("sparse", b"")
        os.truncate(path, LARGEST)
        self.assertEqual(self.found(), ["sparse"])
        os.truncate(path, LARGEST + 1)
        self.assertEqual(list(self.left_out()), ["sparse"])

    def test_vanishing(self) -> None:
        """What goes away between being listed and being looked at is not mentioned."""
        for path in ("a", "b", "c/file", "d"):
            self.put(path)
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            sights = walk(fd)
            self.assertEqual(next(sights).path, "a")
            os.unlink(os.path.join(self.folder, "b"))
            shutil.rmtree(os.path.join(self.folder, "c"))
            self.assertEqual([sight.path for sight in sights if isinstance(sight, Found)], ["d"])
        finally:
            os.close(fd)

    def test_swapped(self) -> None:
        """A folder that becomes a link out of the share in between is not followed."""
        self.put("a")
        self.put("b/file")
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            sights = walk(fd)
            next(sights)
            shutil.rmtree(os.path.join(self.folder, "b"))
            os.symlink(self.outside, os.path.join(self.folder, "b"))
            [left] = sights
        finally:
            os.close(fd)
        self.assertIsInstance(left, LeftOut)
        self.assertEqual(left.path, "b")

    def test_folder_that_cannot_be_listed(self) -> None:
        """If not even the top can be read, the whole share counts as not looked at."""
        fd = os.open(self.put("file"), os.O_RDONLY)
        try:
            [sight] = walk(fd)
        finally:
            os.close(fd)
        self.assertIsInstance(sight, Unread)
        self.assertEqual(sight.path, "")


class ShareTests(FolderCase):
    """The share itself."""

    def share(self, path: str = "") -> Share:
        """Open the share."""
        share = Share(path or self.folder)
        self.addCleanup(share.close)
        return share

    def read(self, share: Share, *parts: str) -> bytes:
        """Read a file of it."""
        fd, stamp = share.open(parts)
        try:
            self.assertEqual(stamp, Stamp.of(os.fstat(fd)))
            return os.read(fd, 1000)
        finally:
            os.close(fd)

    def test_missing(self) -> None:
        """A folder that is not there, or is none, is refused in a sentence that names it."""
        for path in (os.path.join(self.top, "none"), self.put("file")):
            failure = self.assertRaises(ShareMissing, Share, path)
            self.assertIn(os.path.basename(path), str(failure))

    def test_through_a_link(self) -> None:
        """The user may name the folder by a link; it is the same share in the catalog."""
        link = os.path.join(self.top, "link")
        os.symlink(self.folder, link)
        self.put("a", b"here")
        self.assertEqual(self.read(self.share(link), "a"), b"here")
        self.assertEqual(self.share(link).key, self.share().key)
        self.assertNotEqual(self.share(self.outside).key, self.share().key)

    def test_names(self) -> None:
        """Reports call it what the user calls it, else its path, fit for display."""
        self.assertEqual(self.share().name, self.folder)
        share = Share(self.folder, "films")
        self.addCleanup(share.close)
        self.assertEqual(share.name, "films")
        bad = os.path.join(self.top, "a\x1b[0m")
        os.mkdir(bad)
        self.assertTrue(self.share(bad).name.isprintable())

    def test_stays_inside(self) -> None:
        """No link is followed, and nothing but regular files is opened."""
        os.symlink(self.outside, os.path.join(self.folder, "out"))
        os.symlink(os.path.join(self.outside, "secret"), os.path.join(self.folder, "link"))
        os.mkfifo(os.path.join(self.folder, "fifo"))
        os.mkdir(os.path.join(self.folder, "folder"))
        share = self.share()
        for parts in (["out", "secret"], ["link"], ["fifo"], ["folder"], ["..", "outside"]):
            with self.assertRaises(UnsafeName):
                share.open(parts)
        with self.assertRaises(NotFound):
            share.open(["none"])

    def test_renamed_folder(self) -> None:
        """A folder that is renamed while it is shared goes on being served until it is looked
        for under its name."""
        self.put("a", b"first")
        share = self.share()
        os.rename(self.folder, self.folder + "2")
        self.assertEqual(self.read(share, "a"), b"first")
        with self.assertRaises(ShareMissing):
            share.look_again()
        self.assertFalse(share.is_there)
        with self.assertRaises(NotFound):
            share.open(["a"])
        os.mkdir(self.folder)
        self.put("a", b"second")
        share.look_again()
        self.assertTrue(share.is_there)
        self.assertEqual(self.read(share, "a"), b"second")

    def test_lent(self) -> None:
        """Whoever has been lent the folder may use it though the share is closed meanwhile."""
        self.put("a")
        share = self.share()
        with share.folder() as folder:
            share.close()
            self.assertEqual(os.listdir(folder), ["a"])
        with self.assertRaises(NotFound):
            share.open(["a"])

    def test_no_descriptors(self) -> None:
        """Without descriptors a share fails as a resource, and stays what it is."""
        share = self.share()
        free = os.dup(0)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with self.assertRaises(TooManyOpenFiles):
                share.open(["a"])
            with self.assertRaises(TooManyOpenFiles):
                share.look_again()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertTrue(share.is_there)

    def test_visit(self) -> None:
        """In one visit files of any folders are opened, in any order, whatever failed before; no
        link is followed, two folders are held at most, and nothing after the visit."""
        paths = ("top", "a/one", "a/two", "b/one", "a/b/one", "b/two")
        for path in paths:
            self.put(path, path.encode())
        os.symlink(self.outside, os.path.join(self.folder, "out"))
        os.symlink("one", os.path.join(self.folder, "a", "link"))
        share = self.share()
        before = set(os.listdir("/proc/self/fd"))
        with share.visit() as visit:
            share.close()  # it is lent
            for path in (*paths, *reversed(paths), *paths[::2], *paths[1::2]):
                fd, stamp = visit.open(path.split("/"))
                self.assertEqual((os.read(fd, 100), stamp), (path.encode(), Stamp.of(os.fstat(fd))))
                os.close(fd)
                for bad in ("out/secret", "a/link", "../outside/secret", "b"):
                    self.assertRaises(UnsafeName, visit.open, bad.split("/"))
                for bad in ("none", "b/none", "none/one", "top/one"):
                    self.assertRaises(NotFound, visit.open, bad.split("/"))
                # That of the share was closed, and a listing takes one.
                self.assertLessEqual(len(os.listdir("/proc/self/fd")), len(before) + 1)
            os.close(visit.open(["a", "one"])[0])
        self.assertLess(set(os.listdir("/proc/self/fd")), before)
