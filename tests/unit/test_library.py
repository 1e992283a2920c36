"""
The library: what peers are told of the shares, whatever happens on the disk meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.following import Look, Place
from flow512.content.library import MD5_AT_ONCE, Library, OpenContent, Share
from flow512.content.manifest import NOT_ALL, manifest_of
from flow512.content.shares import LARGEST
from flow512.content.tree import TreeBuilder, TreeVerifier, block_digest, page_digest
from flow512.errors import (
    Cancelled,
    ContentChanged,
    DiskFailure,
    Misuse,
    NotFound,
    ShareMissing,
    TooManyOpenFiles,
    UnsafeName,
)
from flow512.units import BLOCK
from flow512.wire.messages import Entry, Listing

PATTERN = bytes(range(251)) * (3 * BLOCK // 251 + 1)


def root_of(data: bytes) -> bytes:
    """Make the root of bytes that are at hand."""
    builder = TreeBuilder()
    for at in range(0, len(data), BLOCK):
        builder.add(block_digest(data[at : at + BLOCK]))
    return builder.finish(len(data)).root


def read(content: OpenContent, offset: int, length: int) -> bytes:
    """Read some of a content."""
    room = bytearray(length)
    content.read_into(offset, [room])
    return bytes(room)


class LibraryCase(SynchronousTestCase):
    """A library of two shares, the second of which is often empty."""

    def setUp(self) -> None:
        """Make it."""
        self.top = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = os.path.join(self.top, "first")
        self.second = os.path.join(self.top, "second")
        os.mkdir(self.folder)
        os.mkdir(self.second)
        self.catalog = Catalog(IN_MEMORY)
        self.addCleanup(self.catalog.close)
        self.library = Library(self.catalog, [Share(self.folder), Share(self.second, "other")])
        self.addCleanup(self.library.close)
        self.writes = 0

    def put(self, path: str, data: bytes = b"data", folder: str = "") -> str:
        """Write a file with a modification time that no other write had."""
        whole = os.path.join(folder or self.folder, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(data)
        self.writes += 1
        os.utime(whole, ns=(self.writes, self.writes))
        return whole

    def paths(self, *args: object, **kwargs: object) -> list[str]:
        """List paths."""
        return [entry.path for entry in self.library.list(*args, **kwargs)[0]]  # type: ignore[arg-type] -- passed on

    def hash_all(self) -> list[str]:
        """Hash until nothing is left, and say what was hashed, in order."""
        done = []
        while (entry := self.library.hash_next()) is not None:
            done.append(entry.path)
        return done

    def counts(self) -> tuple[int, int, int, int]:
        """Scan, and say what was found, new, changed and gone."""
        report = self.library.scan()
        return report.found, report.new, report.changed, report.gone

    def must_not_hash(self) -> bool:
        """Fail the test if anything is hashed: a stop."""
        self.fail("this was hashed before")
        return True


class ScanTests(LibraryCase):
    """Following what is in the folders."""

    def test_counts(self) -> None:
        """New, changed and vanished files are told apart from those that are as they were."""
        self.assertEqual(self.counts(), (0, 0, 0, 0))
        self.put("a")
        self.put("b/c")
        self.put("d", folder=self.second)
        self.put("f", folder=self.second)
        self.assertEqual(self.counts(), (4, 4, 0, 0))
        self.assertEqual(self.counts(), (4, 0, 0, 0))
        self.put("a", b"other")
        os.unlink(os.path.join(self.second, "d"))
        self.put("e")
        self.assertEqual(self.counts(), (4, 1, 1, 1))
        self.assertEqual(self.paths(), ["a", "b/c", "e", "f"])

    def test_same_stamp(self) -> None:
        """A file is hashed once, and again only when size, time or inode are others."""
        path = self.put("a", b"aaaa")
        self.library.scan()
        self.assertEqual(self.hash_all(), ["a"])
        self.library.scan()
        self.assertEqual((self.library.pending(), self.hash_all()), (0, []))
        for change in (
            lambda: self.put("a", b"bbbb"),
            lambda: self.put("a", b"bbbbb"),
            lambda: os.utime(path, ns=(1, 10**18 + 1)),
            lambda: self.replace("a"),
        ):
            change()
            self.assertEqual(self.counts(), (1, 0, 1, 0))
            self.assertEqual((self.library.pending(), self.hash_all()), (1, ["a"]))

    def replace(self, path: str) -> None:
        """Put another file in place of one, with the same size and time."""
        whole = os.path.join(self.folder, path)
        status = os.stat(whole)
        with open(whole + ".new", "wb") as file:
            file.write(bytes(status.st_size))
        os.utime(whole + ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(whole + ".new", whole)

    def test_batches(self) -> None:
        """More files than are compared at once, coming, changing and going at every border."""
        names = [f"{n:05}" for n in range(2500)]
        for name in names:
            self.put(name, b"")
        self.assertEqual(self.counts(), (2500, 2500, 0, 0))
        self.assertEqual(self.counts(), (2500, 0, 0, 0))
        gone = {0, 999, 1000, 1001, 2499, *range(1500, 1700)}
        for n in gone:
            os.unlink(os.path.join(self.folder, names[n]))
        self.put(names[998], b"x")
        self.put("0", b"")
        self.put("9", b"")
        left = sorted({names[n] for n in range(2500) if n not in gone} | {"0", "9"})
        self.assertEqual(self.counts(), (len(left), 2, 1, len(gone)))
        got: list[str] = []
        more = True
        while more:
            entries, more = self.library.list(after=got[-1] if got else "")
            got += [entry.path for entry in entries]
        self.assertEqual(got, left)

    def test_left_out(self) -> None:
        """What is not offered is told with its reason; of too much, only the number."""
        for n in range(1200):
            os.symlink("nowhere", os.path.join(self.folder, f"link{n}"))
        self.put("a")
        report = self.library.scan()
        self.assertEqual((report.found, report.left_out_count), (1, 1200))
        self.assertEqual(len(report.left_out), 1000)
        self.assertEqual(report.left_out[0].path, "link0")
        self.assertEqual(self.paths(), ["a"])

    def test_stopped(self) -> None:
        """A scan that is given up keeps what it has seen, and takes nothing for gone."""
        for n in range(1500):
            self.put(f"{n:04}", b"")
        self.library.scan()
        shutil.rmtree(self.folder)
        os.mkdir(self.folder)
        self.put("new")
        with self.assertRaises(Cancelled):
            self.library.scan(stop=lambda: True)
        self.assertEqual(len(self.paths()), 1000)
        self.assertEqual(self.counts(), (1, 1, 0, 1500))

    def test_folder_removed(self) -> None:
        """A share whose folder is missing is told of and has nothing; when the folder is back,
        everything is, and nothing is hashed again."""
        data = b"x" * 1000
        self.put("a", data)
        self.put("b", folder=self.second)
        self.library.scan()
        self.hash_all()
        os.rename(self.folder, self.folder + ".away")
        report = self.library.scan()
        self.assertEqual(report.missing, (self.folder,))
        self.assertEqual((report.found, report.gone, report.left_out_count), (1, 0, 1))
        self.assertEqual(self.paths(), ["b"])
        for ask in (
            lambda: self.library.stat("a"),
            lambda: self.library.stat(root=root_of(data)),
            lambda: self.library.open(root_of(data)),
        ):
            with self.assertRaises(NotFound):
                ask()
        os.rename(self.folder + ".away", self.folder)
        report = self.library.scan()
        self.assertEqual((report.missing, report.found, report.new), ((), 2, 0))
        self.assertEqual(self.library.stat("a", stop=self.must_not_hash).root, root_of(data))

    def test_disk_not_mounted(self) -> None:
        """
        A folder that is empty and was not is taken for the place of a disk that is not mounted:
        nobody takes its files for deleted, and when they are back nothing is hashed again. One that
        was always empty is just empty, and so is one that was emptied file by file.
        """
        data = b"x" * 1000
        self.put("a", data)
        self.library.scan()
        self.hash_all()
        away = self.folder + ".away"
        os.rename(self.folder, away)
        os.mkdir(self.folder)
        for _ in range(2):
            report = self.library.scan()
            self.assertEqual((report.missing, report.found), ((self.folder,), 0))
            self.assertEqual(self.paths(), [])
            size = self.library.stat("/").size
            self.assertEqual(size, len(b"".join(manifest_of([NOT_ALL]))))
            # Whoever else looks for it finds no more, nor does a node that starts now.
            with self.assertRaisesRegex(ShareMissing, "mount its disk .*, or put something else"):
                self.library.shares[0].look_again()
        fresh = Share(self.folder)
        self.addCleanup(fresh.close)
        Library(self.catalog, [fresh])
        self.assertFalse(fresh.is_there)
        os.rmdir(self.folder)
        os.rename(away, self.folder)
        self.assertEqual(self.library.scan().missing, ())
        self.assertEqual(self.library.stat("a", stop=self.must_not_hash).root, root_of(data))
        os.unlink(os.path.join(self.folder, "a"))
        place = Place(self.library.shares[0].key, "a")
        self.library.look(Look(places=(place,)))
        self.assertEqual(self.library.scan().missing, ())

    def test_folder_removed_between_scans(self) -> None:
        """Before a scan has noticed that a folder was removed, its files are not found either;
        a folder that is made anew is found by the next scan."""
        self.put("a")
        root = self.library.stat("a").root
        assert root is not None
        shutil.rmtree(self.folder)
        with self.assertRaises(NotFound):
            self.library.stat("a")
        with self.assertRaises(NotFound):
            self.library.open(root)
        self.put("a", b"anew")
        self.assertEqual(self.counts(), (1, 0, 1, 0))
        self.assertEqual(self.library.stat("a").root, root_of(b"anew"))

    def test_unreadable_for_now(self) -> None:
        """What cannot be looked at for now stays known; its digests are not thrown away."""
        self.put("a/b/file")
        self.put("a/c")
        self.put("a.txt")
        self.library.scan()
        self.hash_all()
        opened = os.open

        def fails(path: str, *args: object, **kwargs: object) -> int:
            if path == "a":
                raise OSError(5, "Input/output error")
            return opened(path, *args, **kwargs)  # type: ignore[arg-type] -- passed on

        self.patch(os, "open", fails)
        os.unlink(os.path.join(self.folder, "a.txt"))
        report = self.library.scan()
        self.assertEqual((report.found, report.gone), (0, 1))
        self.assertEqual([left.path for left in report.left_out], ["a"])
        self.assertIn("Input/output error", report.left_out[0].reason)
        self.assertEqual(self.paths(), ["a/b/file", "a/c"])
        self.patch(os, "open", opened)
        self.assertEqual(self.counts(), (2, 0, 0, 0))
        self.assertEqual(self.hash_all(), [])

    def test_no_descriptors(self) -> None:
        """If a share's folder cannot be opened for now, the share is left as it is."""
        self.put("a")
        self.library.scan()
        opened = os.open

        def fails(path: str, *args: object, **kwargs: object) -> int:
            if path == self.folder:
                raise OSError(24, "Too many open files")
            return opened(path, *args, **kwargs)  # type: ignore[arg-type] -- passed on

        self.patch(os, "open", fails)
        self.assertEqual(self.library.scan().missing, (self.folder,))
        self.assertEqual(self.library.stat("a").root, root_of(b"data"))

    def test_came_behind_the_walk(self) -> None:
        """A file that is asked for while a scan has already passed its place is not lost."""
        self.put("b")

        def stop() -> bool:
            if not os.path.exists(os.path.join(self.folder, "a")):
                self.put("a")
                self.library.stat("a")
            return False

        self.library.scan(stop)
        self.assertEqual(self.paths(), ["a", "b"])


class HashTests(LibraryCase):
    """Hashing in the background."""

    def test_in_order(self) -> None:
        """Files are hashed by share and path, with their MD5."""
        self.put("b", PATTERN)
        self.put("a")
        self.put("0", folder=self.second)
        self.library.scan()
        self.assertEqual(self.library.pending(), 3)
        entry = self.library.hash_next()
        assert entry is not None
        self.assertEqual(
            (entry.path, entry.root, entry.md5),
            ("a", root_of(b"data"), hashlib.md5(b"data").digest()),
        )
        self.assertEqual(self.library.pending(), 2)
        self.assertEqual(self.hash_all(), ["b", "0"])
        self.assertEqual(self.library.pending(), 0)
        self.assertEqual({e.root is None for e in self.library.list()[0]}, {False})

    def test_stopped(self) -> None:
        """A file whose hashing was given up comes next, whoever gave it up."""
        for path in "abc":
            self.put(path)
        self.library.scan()
        with self.assertRaises(Cancelled):
            self.library.stat("c", stop=lambda: True)
        with self.assertRaises(Cancelled):
            self.library.hash_next(stop=lambda: True)
        self.assertEqual(self.hash_all(), ["c", "a", "b"])

    def test_one_each(self) -> None:
        """What is being hashed is not hashed once more by another thread, nor by one after it."""
        for path in "ab":
            self.put(path)
        self.library.scan()
        others: list[str | None] = []

        def meanwhile() -> bool:
            if not others:
                self.library.scan()  # so that all that has no root is to be tried again
                for _ in range(2):
                    entry = self.library.hash_next()
                    others.append(None if entry is None else entry.path)
            return False

        entry = self.library.hash_next(meanwhile)
        assert entry is not None
        self.assertEqual((entry.path, others), ("a", ["b", None]))
        self.assertEqual(self.hash_all(), [])

    def test_large_files_later(self) -> None:
        """
        A large file has its root without waiting for its MD5, which is made afterwards, once, and
        not for a file that has changed meanwhile.
        """
        for name in ("a", "b"):
            self.put(name, name.encode())
            os.truncate(os.path.join(self.folder, name), MD5_AT_ONCE + 1)
        self.put("c")
        self.library.scan()
        self.assertEqual(self.hash_all(), ["a", "b", "c"])
        entries = {entry.path: entry for entry in self.library.list()[0]}
        self.assertEqual([e.md5 is None for e in entries.values()], [True, True, False])
        os.truncate(os.path.join(self.folder, "b"), 1)
        done, failed = [], 0
        while True:
            try:
                root = self.library.sum_next()
            except ContentChanged:
                failed += 1
                continue
            if root is None:
                break
            done.append(root)
        self.assertEqual((done, failed), ([entries["a"].root], 1))
        md5 = hashlib.md5(b"a" + bytes(MD5_AT_ONCE)).digest()
        self.assertEqual(self.library.list()[0][0].md5, md5)

    def test_of_a_folder_that_is_not_shared_now(self) -> None:
        """MD5s that are due in a folder that is no longer shared are passed over."""
        self.put("a", folder=self.second)
        os.truncate(os.path.join(self.second, "a"), MD5_AT_ONCE + 1)
        self.library.scan()
        self.hash_all()
        only_first = Library(self.catalog, [Share(self.folder)])
        self.addCleanup(only_first.close)
        self.assertIsNone(only_first.sum_next())
        self.assertIsNotNone(self.library.sum_next())

    def test_known(self) -> None:
        """What needs no hashing is told at once; of all else nothing is said."""
        self.put("a")
        self.assertIsNone(self.library.known("a"))
        entry = self.library.stat("a")
        self.assertEqual(self.library.known("a"), entry)
        self.assertIsNone(self.library.known("b"))
        self.put("a", b"other")
        self.assertIsNone(self.library.known("a"))
        with self.assertRaises(UnsafeName):
            self.library.known("../a")

    def test_trouble(self) -> None:
        """A file that is being written is told of once, and not tried again before the next
        scan; the others are hashed."""
        for path in "abc":
            self.put(path)
        self.library.scan()

        def write() -> bool:
            self.put("a", b"more and more")
            return False

        failure = self.assertRaises(ContentChanged, self.library.hash_next, write)
        self.assertIn("'a'", str(failure))
        self.assertEqual(self.hash_all(), ["b", "c"])
        self.assertEqual(self.library.pending(), 1)
        self.library.scan()
        self.assertEqual(self.hash_all(), ["a"])

    def test_vanished(self) -> None:
        """A file that is gone since the scan is passed over."""
        for path in "ab":
            self.put(path)
        self.library.scan()
        os.unlink(os.path.join(self.folder, "a"))
        self.assertEqual(self.hash_all(), ["b"])
        self.assertEqual(self.counts(), (1, 0, 0, 1))

    def test_changed_since_the_scan(self) -> None:
        """A file that changed since the scan is hashed as it is now."""
        self.put("a")
        self.library.scan()
        self.put("a", b"other")
        entry = self.library.hash_next()
        assert entry is not None
        self.assertEqual((entry.size, entry.root), (5, root_of(b"other")))
        self.assertEqual(self.counts(), (1, 0, 0, 0))

    def test_seen_anew_meanwhile(self) -> None:
        """What is found of a file's old state does not replace what a scan saw of its new one."""
        self.put("a", b"old")
        self.library.scan()

        def swap() -> bool:
            self.replace_by_new()
            self.library.scan()
            return False

        entry = self.library.hash_next(swap)
        assert entry is not None
        self.assertEqual(entry.root, root_of(b"old"))
        self.assertEqual(self.library.pending(), 1)
        self.assertEqual(self.library.stat("a").root, root_of(b"new!"))

    def replace_by_new(self) -> None:
        """Put a new file in place of the old one, which stays as it is for who has it open."""
        self.put("b", b"new!", self.top)
        os.replace(os.path.join(self.top, "b"), os.path.join(self.folder, "a"))


class ListTests(LibraryCase):
    """Listings."""

    def test_before_hashing(self) -> None:
        """Files are listed as soon as they are found, without a root."""
        self.put("a", b"12345")
        self.library.scan()
        ([entry], more) = self.library.list()
        self.assertEqual((entry.path, entry.size, entry.mtime), ("a", 5, 1))
        self.assertEqual((entry.root, entry.md5, more), (None, None, False))

    def test_shares_are_merged(self) -> None:
        """Paths of all shares come in one order, and the first share's file hides the second's."""
        self.put("b", b"first")
        self.put("d")
        for path in "abce":
            self.put(path, b"second", self.second)
        self.library.scan()
        entries, _ = self.library.list()
        self.assertEqual("".join(entry.path for entry in entries), "abcde")
        self.assertEqual(entries[1].size, 5)
        self.assertEqual(self.library.stat("b").root, root_of(b"first"))
        for limit in range(1, 6):
            got: list[str] = []
            more = True
            while more:
                entries, more = self.library.list(after=got[-1] if got else "", limit=limit)
                self.assertLessEqual(len(entries), limit)
                got += [entry.path for entry in entries]
            self.assertEqual("".join(got), "abcde", limit)

    def test_prefix(self) -> None:
        """A prefix is not a folder: it is whatever paths begin with."""
        for path in ("a/b", "a/c", "ab", "b"):
            self.put(path)
        self.library.scan()
        self.assertEqual(self.paths("a"), ["a/b", "a/c", "ab"])
        self.assertEqual(self.paths("a/"), ["a/b", "a/c"])
        self.assertEqual(self.paths("a/", after="a/b"), ["a/c"])
        self.assertEqual(self.paths("%"), [])
        self.assertEqual(self.paths("../"), [])

    def test_bytes(self) -> None:
        """A listing is never longer than it may be on the wire, and never empty if more follow."""
        for n in range(30):
            self.put(f"{'n' * 100}/{n:02}")
        self.library.scan()
        self.hash_all()
        for max_bytes in (1, 200, 1000, 2000):
            got: list[str] = []
            more = True
            while more:
                entries, more = self.library.list(after=got[-1] if got else "", max_bytes=max_bytes)
                if len(entries) > 1:
                    body = msgspec.msgpack.encode(Listing(entries, more))
                    self.assertLessEqual(len(body), max_bytes)
                self.assertGreater(len(entries), 0)
                got += [entry.path for entry in entries]
            self.assertEqual(len(got), 30)
        self.assertGreater(len(self.library.list(max_bytes=2000)[0]), 8)

    def test_no_text(self) -> None:
        """Half a character is refused, wherever it came from."""
        for args in (("\ud800", ""), ("", "\udfff")):
            with self.assertRaises(Misuse):
                self.library.list(*args)


class StatTests(LibraryCase):
    """Telling of one file."""

    def test_by_path(self) -> None:
        """A file is hashed when it is asked for, even before any scan, and once only."""
        self.put("a/b", PATTERN)
        entry = self.library.stat("a/b")
        self.assertEqual((entry.size, entry.root), (len(PATTERN), root_of(PATTERN)))
        self.assertEqual(self.library.stat("a/b", stop=self.must_not_hash), entry)
        self.assertEqual(self.counts(), (1, 0, 0, 0))
        self.assertEqual(self.library.stat("a/b", stop=self.must_not_hash), entry)

    def test_by_root(self) -> None:
        """A root leads to a file that has it now."""
        self.put("a")
        self.put("b", b"other")
        self.library.scan()
        self.hash_all()
        self.assertEqual(self.library.stat(root=root_of(b"other")).path, "b")
        os.rename(os.path.join(self.folder, "b"), os.path.join(self.folder, "c"))
        with self.assertRaises(NotFound):
            self.library.stat(root=root_of(b"other"))

    def test_changed(self) -> None:
        """A file that changed since it was hashed is hashed again when it is asked for."""
        self.put("a")
        old = self.library.stat("a").root
        self.put("a", b"other")
        self.assertEqual(self.library.stat("a").root, root_of(b"other"))
        with self.assertRaises(NotFound):
            self.library.stat(root=old)

    def test_not_there(self) -> None:
        """Nothing but what is offered can be asked for, and the answer is one printable
        sentence."""
        self.put(".flow512-abcdefghijklmnop.part")
        self.put("secret", folder=self.top)
        os.symlink(os.path.join(self.top, "secret"), os.path.join(self.folder, "link"))
        os.symlink(self.top, os.path.join(self.folder, "way out"))
        os.mkfifo(os.path.join(self.folder, "fifo"))
        os.mkdir(os.path.join(self.folder, "folder"))
        os.truncate(self.put("huge"), LARGEST + 1)
        for path in (
            *("none", "link", "way out/secret", "fifo", "folder", "folder/none", "huge"),
            ".flow512-abcdefghijklmnop.part",
        ):
            failure = self.assertRaises(NotFound, self.library.stat, path)
            self.assertIn(path, str(failure))

    def test_unsafe(self) -> None:
        """What can be no path is called that."""
        for path in ("", "../secret", "/etc/passwd", "a\0b", "\x1b[31m", "a//b", "\ud800"):
            failure = self.assertRaises(UnsafeName, self.library.stat, path)
            self.assertTrue(str(failure).isprintable())

    def test_behind_a_link(self) -> None:
        """A link in one share does not hide a file in the next."""
        os.symlink("nowhere", os.path.join(self.folder, "a"))
        self.put("a", b"second", self.second)
        self.library.scan()
        self.assertEqual(self.paths(), ["a"])
        self.assertEqual(self.library.stat("a").root, root_of(b"second"))


class PageTests(LibraryCase):
    """Pages of digests."""

    def test_pages(self) -> None:
        """The pages of a tree with three levels prove every block down from the root."""
        path = self.put("sparse", b"begin")
        os.truncate(path, 70 * 2**30)
        entry = self.library.stat("sparse")
        assert entry.root is not None
        verifier = TreeVerifier(entry.root, entry.size)
        content = self.library.open(entry.root)
        self.addCleanup(content.close)
        for block in (0, 511, 512, 286719):
            while (page := verifier.wanted(block)) is not None:
                verifier.add_page(*page, self.library.page(entry.root, *page))
            verifier.verify(block, read(content, block * BLOCK, BLOCK))

    def test_empty_file(self) -> None:
        """A file without bytes has one page without digests."""
        self.put("empty", b"")
        root = self.library.stat("empty").root
        assert root is not None
        self.assertEqual(self.library.page(root, 0, 0), b"")

    def test_not_there(self) -> None:
        """Of an unknown content there is no page, and of a known one only those it has."""
        self.put("a")
        root = self.library.stat("a").root
        assert root is not None
        with self.assertRaises(NotFound):
            self.library.page(bytes(32), 0, 0)
        for level, index in ((0, 1), (1, 0), (5, 2**36)):
            with self.assertRaises(Misuse):
                self.library.page(root, level, index)

    def test_gone(self) -> None:
        """The digests of a content that nothing has any more are forgotten by the next scan."""
        path = self.put("a")
        root = self.library.stat("a").root
        assert root is not None
        os.unlink(path)
        self.library.scan()
        with self.assertRaises(NotFound):
            self.library.page(root, 0, 0)

    def test_damaged(self) -> None:
        """Digests that were damaged in the catalog are not given out, but made again."""
        self.put("a")
        entry = self.library.stat("a")
        assert entry.root is not None
        for damage in (
            "UPDATE pages SET digests = zeroblob(32)",
            "UPDATE pages SET digests = zeroblob(31)",
            "DELETE FROM pages",
        ):
            with self.catalog._database.reading() as connection:
                connection.execute(damage)
            with self.assertRaises(DiskFailure):
                self.library.page(entry.root, 0, 0)
            self.assertEqual(self.library.pending(), 1)
            self.assertEqual(self.library.stat("a"), entry)
            page = self.library.page(entry.root, 0, 0)
            self.assertEqual(page_digest(page), page_digest(block_digest(b"data")))


class OpenTests(LibraryCase):
    """Reading what is served."""

    def serve(self, data: bytes = PATTERN) -> OpenContent:
        """Share a file, and open it."""
        self.put("a", data)
        root = self.library.stat("a").root
        assert root is not None
        content = self.library.open(root)
        self.addCleanup(content.close)
        return content

    def test_read(self) -> None:
        """Any range is read as it is on disk."""
        content = self.serve()
        self.assertEqual((content.size, content.root), (len(PATTERN), root_of(PATTERN)))
        for offset, length in ((0, len(PATTERN)), (BLOCK - 1, 3), (len(PATTERN) - 1, 1), (5, 0)):
            self.assertEqual(read(content, offset, length), PATTERN[offset : offset + length])

    def test_beyond(self) -> None:
        """A range that the file has not is the caller's mistake."""
        content = self.serve(b"data")
        for offset, length in ((0, 5), (4, 1), (-1, 1), (2, 3)):
            with self.assertRaises(Misuse):
                read(content, offset, length)

    def test_closed_twice(self) -> None:
        """Closing again closes nobody else's descriptor."""
        content = self.serve()
        fd = content.fd
        content.close()
        other = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, other)
        os.dup2(other, fd)
        self.addCleanup(os.close, fd)
        content.close()
        os.fstat(fd)

    def test_changes_while_open(self) -> None:
        """A file that is cut, written to, or only touched is not served on."""
        whole = os.path.join(self.folder, "a")
        for change in (
            lambda: os.truncate(whole, 10),
            lambda: self.put("a", PATTERN[::-1]),
            lambda: os.utime(whole, ns=(5, 10**18)),
        ):
            content = self.serve()
            read(content, 0, 10)
            change()
            with self.assertRaises(ContentChanged):
                read(content, 0, 10)
            with self.assertRaises(ContentChanged):
                read(content, len(PATTERN) - 10, 10)

    def test_replaced_while_open(self) -> None:
        """A file that is replaced by another one can still be read by who has it open."""
        content = self.serve(b"old!")
        self.put("b", b"new!", self.top)
        os.replace(os.path.join(self.top, "b"), os.path.join(self.folder, "a"))
        self.assertEqual(read(content, 0, 4), b"old!")

    def test_short_reads(self) -> None:
        """A system that reads less than it is asked to changes nothing."""
        preadv = os.preadv

        def some(fd: int, rooms: list[bytearray | memoryview], offset: int) -> int:
            left, wanted = 1001, []
            for room in rooms:
                wanted.append(memoryview(room)[:left])
                left -= len(wanted[-1])
            return preadv(fd, wanted, offset)

        content = self.serve()
        self.patch(os, "preadv", some)
        self.assertEqual(read(content, 1, 5000), PATTERN[1:5001])
        for sizes in ((5000,), (1, 1000, 3999), (600, 600, 3800), (2002, 0, 2998)):
            rooms = [bytearray(size) for size in sizes]
            content.read_into(1, rooms)
            self.assertEqual(b"".join(rooms), PATTERN[1:5001])

    def test_read_error(self) -> None:
        """A disk that fails is this machine's fault, in a sentence that names the file."""

        def fails(fd: int, rooms: object, offset: int) -> int:
            raise OSError(5, "Input/output error")

        content = self.serve()
        self.patch(os, "preadv", fails)
        failure = self.assertRaises(DiskFailure, read, content, 0, 1)
        self.assertEqual(str(failure), "Input/output error while reading 'a'.")

    def test_stale_handle(self) -> None:
        """A file whose state cannot be asked for any more is not served."""

        def fails(fd: int) -> os.stat_result:
            raise OSError(116, "Stale file handle")

        content = self.serve()
        descriptors = set(os.listdir("/proc/self/fd"))
        self.patch(os, "fstat", fails)
        self.assertRaises(DiskFailure, read, content, 0, 1)
        self.assertRaises(DiskFailure, self.library.open, content.root)
        self.assertEqual(set(os.listdir("/proc/self/fd")), descriptors)

    def test_unknown(self) -> None:
        """A root that nothing has cannot be opened."""
        with self.assertRaises(NotFound):
            self.library.open(bytes(32))

    def test_changed(self) -> None:
        """A file that changed since it was hashed is not opened; its new content is hashed next,
        without waiting for a scan."""
        self.put("a")
        self.put("b")
        self.library.scan()
        self.hash_all()
        self.put("a", b"changed")
        os.unlink(os.path.join(self.folder, "b"))
        with self.assertRaises(ContentChanged):
            self.library.open(root_of(b"data"))
        self.assertEqual([entry.size for entry in self.library.list()[0]], [7, 4])
        self.assertEqual(self.library.pending(), 1)
        self.assertEqual(self.hash_all(), ["a"])
        self.assertEqual(self.library.stat("a", stop=self.must_not_hash).root, root_of(b"changed"))

    def test_another_holder(self) -> None:
        """If one file has changed, is gone or cannot be read, another with the content serves."""
        for path in "abcd":
            self.put(path)
        self.put("e", folder=self.second)
        self.library.scan()
        self.hash_all()
        self.put("a", b"changed")
        os.unlink(os.path.join(self.folder, "b"))
        opened = os.open

        def fails(path: str, *args: object, **kwargs: object) -> int:
            if path == "c":
                raise OSError(24, "Too many open files")
            return opened(path, *args, **kwargs)  # type: ignore[arg-type] -- passed on

        self.patch(os, "open", fails)
        self.assertEqual(self.library.stat(root=root_of(b"data")).path, "d")
        os.unlink(os.path.join(self.folder, "d"))
        self.assertEqual(self.library.stat(root=root_of(b"data")).path, "e")
        os.unlink(os.path.join(self.second, "e"))
        with self.assertRaises(TooManyOpenFiles):
            self.library.open(root_of(b"data"))


class ChecksumTests(LibraryCase):
    """Whole-file MD5s."""

    def test_once(self) -> None:
        """An MD5 is computed when it is asked for, and remembered for every file that has it."""
        self.put("a", PATTERN)
        self.put("b", PATTERN)
        root = self.library.stat("a").root
        assert root is not None
        self.library.stat("b")
        md5 = hashlib.md5(PATTERN).digest()
        self.assertEqual(self.library.checksum(root), md5)
        self.assertEqual(self.library.checksum(root, self.must_not_hash), md5)
        self.assertEqual([entry.md5 for entry in self.library.list()[0]], [md5, md5])

    def test_from_the_background(self) -> None:
        """What hashing in the background found is not computed again."""
        self.put("a")
        self.library.scan()
        self.hash_all()
        self.assertEqual(
            self.library.checksum(root_of(b"data"), self.must_not_hash),
            hashlib.md5(b"data").digest(),
        )

    def test_trouble(self) -> None:
        """No MD5 comes of what is unknown, given up, changed, or changing."""
        self.put("a")
        root = self.library.stat("a").root
        assert root is not None

        def touch() -> bool:
            os.utime(os.path.join(self.folder, "a"), ns=(5, 10**18))
            return False

        with self.assertRaises(NotFound):
            self.library.checksum(bytes(32))
        with self.assertRaises(Cancelled):
            self.library.checksum(root, lambda: True)
        with self.assertRaises(ContentChanged):
            self.library.checksum(root, touch)
        with self.assertRaises(ContentChanged):
            self.library.checksum(root)


class MomentTests(LibraryCase):
    """A file may change at any moment."""

    def change_at(self, moment: int) -> None:
        """Change the file when something is asked of an open file for the n-th time."""
        fstat = os.fstat
        calls: list[int] = []

        def changing(fd: int) -> os.stat_result:
            calls.append(fd)
            if len(calls) == moment:
                with open(os.path.join(self.folder, "a"), "r+b") as file:
                    file.write(b"new!")
                os.utime(os.path.join(self.folder, "a"), ns=(2, 2))
            return fstat(fd)

        self.patch(os, "fstat", changing)

    def check(self, entry: Entry) -> None:
        """Check that all that is said of the file is said of one state of it."""
        data = {1: b"old!", 2: b"new!"}[entry.mtime]
        self.assertIn(entry.root, (None, root_of(data)))
        self.assertIn(entry.md5, (None, hashlib.md5(data).digest()))

    def sweep(self, ask: Callable[[], object]) -> set[type]:
        """Ask with the file changing at every moment in turn; say what came of it."""
        fstat = os.fstat
        outcomes = set()
        for moment in range(1, 12):
            self.writes = 0
            self.put("a", b"old!")
            self.library.scan()
            self.assertEqual(self.library.stat("a").mtime, 1)
            self.change_at(moment)
            try:
                ask()
                outcomes.add(type(None))
            except (ContentChanged, NotFound) as error:
                outcomes.add(type(error))
            self.patch(os, "fstat", fstat)
            for entry in self.library.list()[0]:
                self.check(entry)
        return outcomes

    def test_stat(self) -> None:
        """Whenever it changes, time and root belong together, or it is said to change."""

        def ask() -> None:
            self.catalog.forget(root_of(b"old!"))
            self.check(self.library.stat("a"))

        self.assertEqual(self.sweep(ask), {type(None), ContentChanged})

    def test_hash_next(self) -> None:
        """The same holds for hashing in the background, and for the MD5 that comes with it."""

        def ask() -> None:
            self.catalog.forget(root_of(b"old!"))
            self.library.scan()
            while (entry := self.library.hash_next()) is not None:
                self.check(entry)

        self.assertEqual(self.sweep(ask), {type(None), ContentChanged})

    def test_checksum(self) -> None:
        """Whenever it changes, no root gets the MD5 of other bytes."""

        def ask() -> None:
            md5 = self.library.checksum(root_of(b"old!"))
            self.assertEqual(md5, hashlib.md5(b"old!").digest())

        self.assertEqual(self.sweep(ask), {type(None), ContentChanged})


class ThreadTests(LibraryCase):
    """Several threads at once."""

    def race(self, second_stops: bool, ask: Callable[[Callable[[], bool]], object]) -> object:
        """
        Ask for the same thing in two threads, so that the second one begins, and has to wait,
        while the first one works; say what the second one got, or what it failed with.
        """
        waiting = threading.Event()
        first_done = threading.Event()
        results: list[object] = []

        def second_stop() -> bool:
            self.assertFalse(first_done.is_set(), "the second one began to work")
            waiting.set()
            return second_stops

        def second() -> None:
            try:
                results.append(ask(second_stop))
            except Cancelled as error:
                results.append(error)

        thread = threading.Thread(target=second)

        def first_stop() -> bool:
            if not waiting.is_set():
                thread.start()
                self.assertTrue(waiting.wait(10))
                if second_stops:
                    thread.join(10)
            return False

        first = ask(first_stop)
        first_done.set()
        thread.join(10)
        self.assertEqual(len(results), 1)
        self.assertIsNotNone(first)
        return first if results[0] == first else results[0]

    def test_stat_twice(self) -> None:
        """Two that ask for the same file get the same answer, and it is hashed once."""
        self.put("a")
        entry = self.race(False, lambda stop: self.library.stat("a", stop=stop))
        self.assertEqual(getattr(entry, "root", None), root_of(b"data"))

    def test_checksum_twice(self) -> None:
        """Two that ask for the same MD5 get the same answer, and it is computed once."""
        self.put("a")
        root = self.library.stat("a").root
        assert root is not None
        md5 = self.race(False, lambda stop: self.library.checksum(root, stop))
        self.assertEqual(md5, hashlib.md5(b"data").digest())

    def test_waiting_is_given_up(self) -> None:
        """Who waits for another one's work can give up waiting; the work goes on."""
        self.put("a")
        failure = self.race(True, lambda stop: self.library.stat("a", stop=stop))
        self.assertIsInstance(failure, Cancelled)
        self.assertEqual(self.library.stat("a", stop=self.must_not_hash).root, root_of(b"data"))

    def test_other_files_do_not_wait(self) -> None:
        """While one file is hashed, another one can be."""
        self.put("a")
        self.put("b")
        entries = []

        def stop() -> bool:
            if not entries:
                entries.append(self.library.stat("b"))
            return False

        self.assertEqual(self.library.stat("a", stop=stop).path, "a")
        self.assertEqual(entries[0].path, "b")

    def test_closed(self) -> None:
        """A library that is closed has nothing, but what is open can be read to its end."""
        self.put("a")
        root = self.library.stat("a").root
        assert root is not None
        content = self.library.open(root)
        self.addCleanup(content.close)
        self.library.close()
        self.assertEqual(read(content, 0, 4), b"data")
        self.assertEqual(self.paths(), [])
        with self.assertRaises(NotFound):
            self.library.stat("a")
