"""
The catalog: what it remembers, in which order, and what it does when its database is damaged.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.catalog import IN_MEMORY, Catalog, Content, Known, Stamp
from flow512.content.database import Database
from flow512.content.tree import Tree, TreeBuilder
from flow512.errors import DiskFailure, DiskFull, Misuse, ResourceFailure
from flow512.units import BLOCK, DIGEST

SHARE = b"share"
OTHER = b"other"


def stamp(size: int = 1, mtime: int = 0) -> Stamp:
    """Make a stamp."""
    return Stamp(size, mtime, 1)


def tree(blocks: int, seed: int = 0) -> Tree:
    """Make a tree over invented digests."""
    builder = TreeBuilder()
    builder.add_many(b"".join((n + seed).to_bytes(DIGEST, "big") for n in range(blocks)))
    return builder.finish(blocks * BLOCK)


class CatalogCase(SynchronousTestCase):
    """A catalog in memory, and a folder for those that are kept."""

    def setUp(self) -> None:
        """Make them."""
        self.catalog = Catalog(IN_MEMORY)
        self.addCleanup(self.catalog.close)
        self.folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = os.path.join(self.folder, "catalog")

    def see(self, *paths: str, share: bytes = SHARE) -> None:
        """Take note of files."""
        self.catalog.update(share, {path: stamp() for path in paths}, ())

    def paths(self, prefix: str = "", after: str = "", limit: int = 100) -> list[str]:
        """List paths."""
        return [known.path for known in self.catalog.listing(SHARE, prefix, after, limit)]


class StampTests(SynchronousTestCase):
    """What is noted of a file."""

    def test_numbers_beyond_64_bits(self) -> None:
        """Times and inodes that some systems have are cut to what a database holds."""
        for ours, theirs in [(2**64 - 1, -1), (2**63, -(2**63)), (5, 5)]:
            status = os.stat_result(
                (0o100644, ours, 7, 1, 0, 0, 9, 0, 0, 0), {"st_mtime_ns": 253_370_764_800 * 10**9}
            )
            self.assertEqual(Stamp.of(status), Stamp(9, 2**63 - 1, theirs))


class FileTests(CatalogCase):
    """Files, and what is known of their content."""

    def test_private(self) -> None:
        """Nobody else can read which files there are, whatever the process lets others do."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        catalog = Catalog(self.path)
        self.addCleanup(catalog.close)
        catalog.update(SHARE, {"a": stamp()}, ())
        for name in os.listdir(self.folder):
            mode = os.stat(os.path.join(self.folder, name)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)

    def test_life_of_a_file(self) -> None:
        """A file is seen, hashed, changed, and gone."""
        self.assertIsNone(self.catalog.find(SHARE, "a"))
        self.catalog.update(SHARE, {"a": stamp(BLOCK)}, ())
        self.assertEqual(self.catalog.find(SHARE, "a"), Known("a", stamp(BLOCK), None, None))
        one = tree(1)
        self.assertTrue(self.catalog.record(SHARE, "a", stamp(BLOCK), one, bytes(16)))
        known = Known("a", stamp(BLOCK), one.root, bytes(16))
        self.assertEqual(self.catalog.find(SHARE, "a"), known)
        self.assertEqual(self.catalog.holders(SHARE, one.root, 10), [known])
        self.assertEqual(self.catalog.listing(SHARE, "", "", 10), [known])
        self.assertIsNone(self.catalog.find(OTHER, "a"))
        self.assertEqual(self.catalog.holders(OTHER, one.root, 10), [])
        self.catalog.update(SHARE, {"a": stamp(BLOCK, 7)}, ())
        self.assertEqual(self.catalog.find(SHARE, "a"), Known("a", stamp(BLOCK, 7), None, None))
        self.assertEqual(self.catalog.holders(SHARE, one.root, 10), [])
        self.catalog.update(SHARE, {}, ["a", "never there"])
        self.assertIsNone(self.catalog.find(SHARE, "a"))

    def test_entry(self) -> None:
        """The wire learns path, size, time and digests."""
        entry = Known("a", Stamp(5, 6, 7), b"r" * 32, None).entry()
        self.assertEqual(
            (entry.path, entry.size, entry.mtime, entry.root, entry.md5),
            ("a", 5, 6, b"r" * 32, None),
        )

    def test_hashed_too_late(self) -> None:
        """What was found of an older state of the file, or of one that is gone, is not kept."""
        self.see("a")
        for path, old in (("a", stamp(2)), ("a", stamp(1, 1)), ("b", stamp())):
            self.assertFalse(self.catalog.record(SHARE, path, old, tree(1)))
        self.assertIsNone(self.catalog.content(tree(1).root))
        self.assertEqual(self.catalog.unhashed(SHARE, "", 10), ["a"])

    def test_stamps(self) -> None:
        """The stamps of a range of paths, with its last but without its first."""
        self.catalog.update(SHARE, {name: stamp(at) for at, name in enumerate("abcd")}, ())
        self.assertEqual(self.catalog.stamps(SHARE, "a", "c"), {"b": stamp(1), "c": stamp(2)})
        self.assertEqual(list(self.catalog.stamps(SHARE, "b", None)), ["c", "d"])
        self.assertEqual(len(self.catalog.stamps(SHARE, "", None)), 4)

    def test_unhashed(self) -> None:
        """Files without a root are told in order, those of one share only."""
        self.see("c", "a", "b")
        self.see("z", share=OTHER)
        self.catalog.record(SHARE, "b", stamp(), tree(1))
        self.assertEqual(self.catalog.unhashed(SHARE, "", 10), ["a", "c"])
        self.assertEqual(self.catalog.unhashed(SHARE, "", 1), ["a"])
        self.assertEqual(self.catalog.unhashed(SHARE, "a", 10), ["c"])
        self.assertEqual(self.catalog.unhashed_count(SHARE), 2)
        self.assertEqual(self.catalog.unhashed_count(b"none"), 0)


class ListingTests(CatalogCase):
    """Listings are in the order of code points, and find prefixes exactly."""

    def test_order(self) -> None:
        """Code points decide, also above U+FFFF, and a slash is a character like others."""
        paths = ["\U0001f600", "\uffee", "Z", "a", "a/b", "a.b", "ä", "~"]
        self.see(*paths)
        self.assertEqual(self.paths(), sorted(paths))

    def test_pages(self) -> None:
        """Going on after the last path leaves none out and repeats none."""
        self.see(*(f"{n:04}" for n in range(25)))
        got: list[str] = []
        while more := self.paths(after=got[-1] if got else "", limit=7):
            got += more
        self.assertEqual(got, [f"{n:04}" for n in range(25)])

    @settings(max_examples=100, deadline=None)
    @given(
        st.sets(st.text("a/\ud7ff\ue000\U0010ffff%_*", min_size=1, max_size=4), max_size=12),
        st.text("a/\ud7ff\ue000\U0010ffff%_*", max_size=3),
        st.text("a/\ud7ff\ue000\U0010ffff%_*", max_size=3),
    )
    def test_prefix_and_after(self, paths: set[str], prefix: str, after: str) -> None:
        """Any prefix and any place to go on find what plain string comparison finds."""
        self.catalog.update(SHARE, {}, list(self.catalog.stamps(SHARE, "", None)))
        self.see(*paths)
        expected = sorted(p for p in paths if p.startswith(prefix) and p > after)
        self.assertEqual(self.paths(prefix, after), expected)

    def test_many(self) -> None:
        """Looking into a hundred thousand files looks at those that it lists, not at all."""
        self.see(*(f"folder{n % 100}/file{n}" for n in range(100_000)))
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with self.catalog._database.reading() as connection:
            connection.set_progress_handler(count, 100)
        self.assertEqual(len(self.paths("folder55/", "folder55/file5", 100)), 100)
        self.assertEqual(self.paths("folder55/file55556"), [])
        self.assertEqual(self.catalog.holders(SHARE, bytes(32), 100), [])
        self.assertEqual(len(self.catalog.unhashed(SHARE, "folder9", 10)), 10)
        self.assertLess(steps, 100)


class ContentTests(CatalogCase):
    """Contents belong to whatever files have them."""

    def test_pages(self) -> None:
        """Every page of every level can be had, and no others."""
        big = tree(513)
        self.see("a")
        self.catalog.record(SHARE, "a", stamp(), big)
        self.assertEqual(self.catalog.content(big.root), Content(513 * BLOCK, None))
        for level, index in ((0, 0), (0, 1), (1, 0)):
            self.assertEqual(self.catalog.page(big.root, level, index), big.page(level, index))
        self.assertIsNone(self.catalog.page(big.root, 1, 1))
        self.assertIsNone(self.catalog.page(bytes(32), 0, 0))

    def test_two_files(self) -> None:
        """Files with the same content share its digests, and its MD5 from whoever has it."""
        self.see("a", "b")
        self.catalog.record(SHARE, "a", stamp(), tree(1), b"m" * 16)
        self.catalog.record(SHARE, "b", stamp(), tree(1), None)
        self.assertEqual(
            [known.md5 for known in self.catalog.holders(SHARE, tree(1).root, 10)], [b"m" * 16] * 2
        )
        self.assertEqual(len(self.catalog.holders(SHARE, tree(1).root, 1)), 1)

    def test_first_holders(self) -> None:
        """Of many contents at once, the first file that a share has of each."""
        self.see("a", "b", "c", "d")
        for path, number in (("d", 1), ("b", 1), ("c", 2)):
            self.catalog.record(SHARE, path, stamp(), tree(number), bytes(16))
        self.catalog.update(OTHER, {"a": stamp()}, ())
        self.catalog.record(OTHER, "a", stamp(), tree(3))
        roots = [tree(number).root for number in (1, 2, 3)]
        found = self.catalog.first_holders(SHARE, [*roots, roots[0], bytes(32)])
        self.assertEqual(
            found,
            {
                roots[0]: Known("b", stamp(), roots[0], bytes(16)),
                roots[1]: Known("c", stamp(), roots[1], bytes(16)),
            },
        )
        self.assertEqual(list(self.catalog.first_holders(OTHER, roots)), [roots[2]])
        self.assertEqual(self.catalog.first_holders(SHARE, []), {})
        self.assertEqual(self.catalog.first_holders(SHARE, [bytes(32)] * 100), {})

    def test_md5_later(self) -> None:
        """An MD5 that is computed later is remembered for every file; one of nothing is not."""
        self.see("a")
        self.catalog.record(SHARE, "a", stamp(), tree(1))
        self.catalog.set_md5(tree(1).root, b"m" * 16)
        self.catalog.set_md5(bytes(32), b"m" * 16)
        self.assertEqual(self.catalog.listing(SHARE, "", "", 1)[0].md5, b"m" * 16)
        self.assertIsNone(self.catalog.content(bytes(32)))

    def test_prune(self) -> None:
        """A content is forgotten when the last file that has it is gone, and not before."""
        self.see("a", "b")
        for path in "ab":
            self.catalog.record(SHARE, path, stamp(), tree(1))
        self.catalog.update(SHARE, {}, ["a"])
        self.catalog.prune()
        self.assertEqual(self.catalog.content(tree(1).root), Content(BLOCK, None))
        self.catalog.update(SHARE, {"b": stamp(2)}, ())
        self.catalog.prune()
        self.assertIsNone(self.catalog.content(tree(1).root))
        self.assertIsNone(self.catalog.page(tree(1).root, 0, 0))

    def test_forget(self) -> None:
        """A content that is forgotten leaves its files, which have to be hashed again."""
        self.see("a")
        self.catalog.record(SHARE, "a", stamp(), tree(1))
        self.catalog.forget(tree(1).root)
        self.assertEqual(self.catalog.unhashed(SHARE, "", 10), ["a"])
        self.assertIsNone(self.catalog.page(tree(1).root, 0, 0))


class KeptTests(CatalogCase):
    """Catalogs on disk."""

    def setUp(self) -> None:
        """Prepare to hear of damage."""
        super().setUp()
        self.damage: list[str] = []

    def make(self) -> Catalog:
        """Open the catalog on disk."""
        catalog = Catalog(self.path, self.damage.append)
        self.addCleanup(catalog.close)
        return catalog

    def filled(self) -> Catalog:
        """Open it and put some files in."""
        catalog = self.make()
        catalog.update(SHARE, {f"file{n}": stamp() for n in range(50)}, ())
        for n in range(50):
            catalog.record(SHARE, f"file{n}", stamp(), tree(3, n), bytes([n]) * 16)
        return catalog

    def test_remembers(self) -> None:
        """What was recorded is there when the catalog is opened again, and nothing lies about."""
        self.filled().close()
        self.assertEqual(os.listdir(self.folder), ["catalog"])
        again = self.make()
        self.assertEqual(
            again.find(SHARE, "file7"), Known("file7", stamp(), tree(3, 7).root, b"\7" * 16)
        )
        self.assertEqual(again.page(tree(3, 7).root, 0, 0), tree(3, 7).page(0, 0))
        self.assertEqual(self.damage, [])

    def test_two_at_once(self) -> None:
        """Two processes on one catalog see what the other one writes."""
        first, second = self.filled(), self.make()
        second.update(SHARE, {"new": stamp()}, ["file1"])
        self.assertIsNotNone(first.find(SHARE, "new"))
        self.assertIsNone(first.find(SHARE, "file1"))

    def test_killed(self) -> None:
        """A process that ends without closing loses nothing that was written."""
        left = self.filled()
        with open(self.path, "rb") as file, open(self.path + "-wal", "rb") as log:
            database, written = file.read(), log.read()
        left.close()
        with open(self.path, "wb") as file, open(self.path + "-wal", "wb") as log:
            file.write(database)
            log.write(written)
        self.assertEqual(len(self.make().listing(SHARE, "", "", 100)), 50)
        self.assertEqual(self.damage, [])

    def test_closed(self) -> None:
        """A closed catalog says so; closing twice is closing once."""
        catalog = self.make()
        catalog.close()
        catalog.close()
        with self.assertRaises(Misuse):
            catalog.find(SHARE, "a")

    def test_garbage(self) -> None:
        """A file that is no database is moved aside, and what lay there before replaced."""
        for content in (b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000):
            with open(self.path, "wb") as file:
                file.write(content)
            catalog = self.make()
            catalog.update(SHARE, {"a": stamp()}, ())
            catalog.close()
            with open(self.path + ".corrupt", "rb") as file:
                self.assertEqual(file.read(), content)
            os.unlink(self.path)
        self.assertEqual(len(self.damage), 2)
        self.assertIn(self.path + ".corrupt", self.damage[0])

    def test_garbage_unheard(self) -> None:
        """Damage is put right though nobody wants to hear of it."""
        with open(self.path, "wb") as file:
            file.write(b"garbage" * 1000)
        catalog = Catalog(self.path)
        self.addCleanup(catalog.close)
        self.assertEqual(catalog.listing(SHARE, "", "", 10), [])

    def test_other_version(self) -> None:
        """A catalog with other tables than ours is moved aside."""
        self.filled().close()
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        self.assertEqual(self.make().listing(SHARE, "", "", 10), [])
        self.assertIn("version is 99", self.damage[0])

    def test_damaged_in_use(self) -> None:
        """Damage that shows up later fails what was asked for, and the catalog goes on, empty."""
        self.filled().close()
        size = os.path.getsize(self.path)
        with open(self.path, "r+b") as file:
            file.seek(4096)
            file.write(b"\x5a" * (size - 4096))
        catalog = self.make()
        self.assertEqual(self.damage, [])
        with self.assertRaises(DiskFailure):
            catalog.listing(SHARE, "", "", 100)
        self.assertEqual(len(self.damage), 1)
        self.assertEqual(catalog.listing(SHARE, "", "", 100), [])
        catalog.update(SHARE, {"a": stamp()}, ())
        catalog.close()
        self.assertEqual(sorted(os.listdir(self.folder)), ["catalog", "catalog.corrupt"])

    def test_damaged_in_a_transaction(self) -> None:
        """Damage that shows up while writing fails what was to be written, and no more."""
        catalog = self.filled()
        with catalog._database.reading() as connection:
            connection.execute("DROP TABLE pages")
        with self.assertRaises(DiskFailure):
            catalog.record(SHARE, "file1", stamp(), tree(1))
        self.assertEqual(len(self.damage), 1)
        catalog.update(SHARE, {"a": stamp()}, ())
        self.assertTrue(catalog.record(SHARE, "a", stamp(), tree(1)))

    def test_damaged_for_two(self) -> None:
        """When another process has the damaged database open as well, one begins anew, and the
        log of the old one is not taken for the new one's."""
        first, second = self.filled(), self.make()
        with second._database.reading() as connection:
            connection.execute("DROP TABLE pages")
        with self.assertRaises(DiskFailure):
            first.page(tree(3, 7).root, 0, 0)
        self.assertFalse(os.path.exists(self.path + "-wal"))
        first.update(SHARE, {"a": stamp()}, ())
        self.assertEqual(len(self.make().listing(SHARE, "", "", 100)), 1)

    def test_any_damage(self) -> None:
        """Wherever the database is damaged, every question is answered or fails as a resource."""
        self.filled().close()
        with open(self.path, "rb") as file:
            whole = file.read()
        os.unlink(self.path)
        places = [*range(100), *range(100, len(whole), 997)]
        for place in places:
            damaged = bytearray(whole)
            damaged[place : place + 8] = bytes(b ^ 0x55 for b in damaged[place : place + 8])
            with open(self.path, "wb") as file:
                file.write(damaged)
            catalog = self.make()
            for question in self.questions(catalog):
                try:
                    question()
                except ResourceFailure:
                    pass
            catalog.close()
            for name in os.listdir(self.folder):
                os.unlink(os.path.join(self.folder, name))

    def questions(self, catalog: Catalog) -> list[Callable[[], object]]:
        """All that a catalog can be asked."""
        root = tree(3, 7).root
        return [
            lambda: catalog.listing(SHARE, "", "", 100),
            lambda: catalog.find(SHARE, "file7"),
            lambda: catalog.stamps(SHARE, "", None),
            lambda: catalog.holders(SHARE, root, 10),
            lambda: catalog.first_holders(SHARE, [root]),
            lambda: catalog.page(root, 0, 0),
            lambda: catalog.content(root),
            lambda: catalog.unhashed(SHARE, "", 100),
            lambda: catalog.unhashed_count(SHARE),
            lambda: catalog.update(SHARE, {"file7": stamp(5), "new": stamp()}, ["file8"]),
            lambda: catalog.record(SHARE, "file7", stamp(5), tree(1)),
            lambda: catalog.set_md5(root, bytes(16)),
            lambda: catalog.forget(root),
            lambda: catalog.prune(),
        ]

    def test_unusable_path(self) -> None:
        """A place where no database can be is a failure, and nothing is moved about there."""
        with self.assertRaises(DiskFailure):
            Catalog(os.path.join(self.folder, "no", "such"))
        with self.assertRaises(DiskFailure):
            Catalog(self.folder)
        self.assertEqual(os.listdir(self.folder), [])

    def test_not_ours_to_move(self) -> None:
        """A damaged database that cannot be moved aside is a failure, each time, until it can."""
        os.mkdir(self.path + ".corrupt")
        with open(self.path, "wb") as file:
            file.write(b"garbage" * 1000)
        with self.assertRaises(ResourceFailure):
            self.make()
        os.rmdir(self.path + ".corrupt")
        self.assertEqual(self.make().listing(SHARE, "", "", 1), [])


class DatabaseTests(CatalogCase):
    """What the machine does to a database is told from damage."""

    def make(self, free_space: Callable[[str], int] = lambda folder: 2**30) -> Database:
        """Open one with a single table."""
        schema = ["CREATE TABLE things (thing BLOB)"]
        database = Database(self.path, schema, 1, self.damage.append, free_space)
        self.addCleanup(database.close)
        return database

    def setUp(self) -> None:
        """Make a database that must not be thought damaged."""
        super().setUp()
        self.damage: list[str] = []
        self.database = self.make()
        with self.database.writing() as connection:
            connection.execute("INSERT INTO things VALUES ('kept')")

    def things(self) -> int:
        """Count what is in it."""
        with self.database.reading() as connection:
            count: int = connection.execute("SELECT count(*) FROM things").fetchone()[0]
        return count

    def test_full(self) -> None:
        """A full disk is called that; what was there stays, and there is a way on."""
        with self.database.reading() as connection:
            connection.execute("PRAGMA max_page_count = 10")
        with self.assertRaises(DiskFull), self.database.writing() as connection:
            for _ in range(100):
                connection.execute("INSERT INTO things VALUES (zeroblob(4000))")
        self.assertEqual(self.things(), 1)
        with self.database.writing() as connection:
            connection.execute("INSERT INTO things VALUES (1)")
        self.assertEqual((self.things(), self.damage), (2, []))

    def test_no_room_to_open(self) -> None:
        """What SQLite calls an I/O error is called a full disk where there is no room for it."""
        for free, kind in ((0, DiskFull), (2**30, DiskFailure)):
            database = self.make({self.folder: free}.__getitem__)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
            with self.assertRaises(kind), database.reading():
                raise error
        self.assertEqual(self.damage, [])

    def test_busy(self) -> None:
        """Another process that keeps writing is a failure, not damage."""
        other = self.make()
        with self.database.reading() as connection:
            connection.execute("PRAGMA busy_timeout = 0")
        with other.writing() as theirs:
            theirs.execute("INSERT INTO things VALUES (1)")
            with self.assertRaises(DiskFailure), self.database.writing():
                self.fail("two write at once")
        self.assertEqual((self.things(), self.damage), (2, []))

    def test_all_or_nothing(self) -> None:
        """A transaction whose body raises leaves nothing behind."""
        with self.assertRaises(ZeroDivisionError), self.database.writing() as connection:
            connection.execute("INSERT INTO things VALUES (1)")
            raise ZeroDivisionError
        self.assertEqual(self.things(), 1)

    def test_our_mistakes(self) -> None:
        """A mistake in a call is not taken for damage."""
        with self.assertRaises(sqlite3.ProgrammingError), self.database.reading() as connection:
            connection.execute("SELECT ?", ())
        self.assertEqual((self.things(), self.damage), (1, []))
