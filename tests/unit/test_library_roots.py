"""The contents that a library tells of: only those that everybody may see."""

from __future__ import annotations

import os
import shutil
import tempfile
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flow512.content import backlog
from flow512.content import library as library_module
from flow512.content.access import ALLOW_FILE
from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library, Share
from flow512.errors import ContentChanged, DiskFailure
from flow512.units import BLOCK
from tests.unit.test_library import root_of

ANN = b"a" * 32


class RootsTests(SynchronousTestCase):
    """L{Library.roots}, and when it is said that they may have changed."""

    def setUp(self) -> None:
        """Make a library of two shares."""
        self.top = self.enterContext(tempfile.TemporaryDirectory())
        self.first = os.path.join(self.top, "first")
        self.second = os.path.join(self.top, "second")
        os.mkdir(self.first)
        os.mkdir(self.second)
        self.changes = 0
        self.writes = 0
        self.open_library()

    def open_library(self, *allow: bytes) -> None:
        """Share the folders, the second of them with these only."""
        self.catalog = Catalog(IN_MEMORY)
        self.addCleanup(self.catalog.close)
        self.library = Library(
            self.catalog,
            [Share(self.first), Share(self.second, allow=allow, parse_id=lambda text: ANN)],
            roots_changed=self.changed,
        )
        self.addCleanup(self.library.close)

    def changed(self) -> None:
        """Count."""
        self.changes += 1

    def put(self, name: str, data: bytes, folder: str = "") -> str:
        """Write a file with a modification time that no other write had."""
        path = os.path.join(folder or self.first, name)
        with open(path, "wb") as file:
            file.write(data)
        self.writes += 1
        os.utime(path, ns=(self.writes, self.writes))
        return path

    def index(self) -> None:
        """Look at everything, and hash it."""
        self.library.scan()
        while self.library.hash_next() is not None:
            pass

    def roots(self) -> frozenset[bytes]:
        """Give the roots; it has to have been said that they are others than before."""
        self.assertGreater(self.changes, 0, "nobody was told")
        self.changes = 0
        return self.library.roots(1000)

    def assert_roots(self, *contents: bytes) -> None:
        """These contents are given, since something has changed."""
        self.assertEqual(self.roots(), {root_of(each) for each in contents})

    def test_followed(self) -> None:
        """What is hashed, changed or gone is said; the same content of two files is one."""
        self.put("a", b"one")
        self.put("b", b"two")
        self.put("c", b"two", self.second)
        self.assertEqual(self.library.roots(1000), frozenset())
        self.index()
        self.assert_roots(b"one", b"two")
        self.put("a", b"three")
        self.index()
        self.assert_roots(b"two", b"three")
        os.remove(os.path.join(self.first, "b"))
        self.index()
        self.assert_roots(b"two", b"three")
        os.remove(os.path.join(self.second, "c"))
        self.index()
        self.assert_roots(b"three")

    def test_nothing_changes(self) -> None:
        """Where nothing has changed nothing is said."""
        self.put("a", b"one")
        self.index()
        self.assert_roots(b"one")
        self.index()
        self.assertEqual(self.changes, 0)

    def test_allowed_by_option(self) -> None:
        """What only some may see is not given, but for what everybody sees elsewhere."""
        self.open_library(ANN)
        self.put("a", b"one")
        self.put("b", b"secret", self.second)
        self.put("c", b"one", self.second)
        self.index()
        self.assert_roots(b"one")

    def test_allowed_by_file(self) -> None:
        """A rule that comes later takes the share's roots away at the next look, or question."""
        self.put("a", b"one")
        self.put("b", b"secret", self.second)
        self.index()
        self.assert_roots(b"one", b"secret")
        rule = self.put(ALLOW_FILE, b"ann", self.second)
        self.library.list()
        self.library.scan()
        self.assert_roots(b"one")
        self.put(ALLOW_FILE, b"\xff", self.second)
        self.library.seen_by(ANN)
        self.assert_roots(b"one")
        os.remove(rule)
        for _ in range(3):
            self.library.scan()
        self.assert_roots(b"one", b"secret")

    def test_folder_is_gone(self) -> None:
        """A share whose folder is gone has none, until it is there again."""
        self.put("a", b"one")
        self.put("b", b"two", self.second)
        self.index()
        self.assert_roots(b"one", b"two")
        os.rename(self.second, self.second + ".away")
        self.index()
        self.assert_roots(b"one")
        os.rename(self.second + ".away", self.second)
        self.index()
        self.assert_roots(b"one", b"two")

    def test_found_changed(self) -> None:
        """A file that is found changed when somebody asks for it is said to be."""
        self.put("a", b"one")
        self.index()
        self.assert_roots(b"one")
        self.put("a", b"two")
        with self.assertRaises(ContentChanged):
            self.library.open(root_of(b"one"))
        self.assert_roots()
        self.library.stat("a")
        self.assert_roots(b"two")

    def test_changes_while_hashed(self) -> None:
        """A file that was known, and changes while it is hashed anew, has no root for now."""
        path = self.put("a", b"one")
        self.index()
        self.assert_roots(b"one")
        self.put("a", b"two")

        def hash_and_change(*args: object, **kwargs: object) -> object:
            result = hash_file(*args, **kwargs)  # type: ignore[arg-type]  # passed on
            with open(path, "ab") as file:
                file.write(b"more")
            return result

        hash_file = backlog.hash_file
        with (
            mock.patch.object(backlog, "hash_file", hash_and_change),
            self.assertRaises(ContentChanged),
        ):
            self.library.stat("a")
        self.assert_roots()

    def test_damaged_digests(self) -> None:
        """A content whose digests turn out to be damaged is not given until it is hashed again."""
        data = bytes(BLOCK + 1)
        self.put("a", data)
        self.index()
        self.assert_roots(data)
        with (
            mock.patch.object(self.catalog, "page", return_value=b"x" * 64),
            self.assertRaises(DiskFailure),
        ):
            self.library.page(root_of(data), 0, 0)
        self.assert_roots()
        self.index()
        self.assert_roots(data)

    def test_many(self) -> None:
        """However many there are, all are given."""
        contents = [str(number).encode() for number in range(25)]
        for number, content in enumerate(contents):
            self.put(f"file{number}", content)
        self.index()
        with mock.patch.object(library_module, "_ROOTS_AT_ONCE", 10):
            self.assert_roots(*contents)

    def test_too_many(self) -> None:
        """Of too many, the same are given each time, whatever share they are in."""
        contents = [str(number).encode() for number in range(25)]
        for number, content in enumerate(contents):
            self.put(f"file{number}", content, self.second if number % 2 else self.first)
        self.index()
        least = sorted(map(root_of, contents))
        with mock.patch.object(library_module, "_ROOTS_AT_ONCE", 4):
            for most in (0, 1, 10, 24, 25, 26):
                self.assertEqual(self.library.roots(most), set(least[:most]))

    def test_same_folder_again(self) -> None:
        """A folder that takes another's place has what is in it."""
        self.put("a", b"one")
        self.index()
        self.assert_roots(b"one")
        shutil.rmtree(self.first)
        os.mkdir(self.first)
        self.put("a", b"two")
        self.index()
        self.assert_roots(b"two")
