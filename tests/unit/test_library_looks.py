"""
The library: looks at some places of the shares, instead of everything.
"""

from __future__ import annotations

import os
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st

from flow512.content import scan
from flow512.content.access import ALLOW_FILE, NOBODY
from flow512.content.following import EVERYTHING, WALK, Look, Place
from flow512.content.library import ScanReport
from flow512.errors import Cancelled, NotFound
from tests.unit.test_library import LibraryCase, root_of


class LookTests(LibraryCase):
    """L{Library.look}."""

    def place(self, path: str) -> Place:
        """A place in the first share."""
        return Place(self.library.shares[0].key, path)

    def look(self, *paths: str, busy: str = "-") -> ScanReport:
        """Look at some places of the first share."""
        return self.library.look(
            Look(tuple(map(self.place, paths)), busy=frozenset([self.place(busy)]))
        )

    def test_only_there(self) -> None:
        """What has changed in the places is found, what has changed elsewhere is not; the report
        is of the places, but counts all files."""
        for name in ("a", "b/1", "b/2", "b0", "c", "d"):
            self.put(name)
        self.library.scan()
        self.hash_all()
        for name in ("a", "b/3", "b/new/4", "b0", "c"):
            self.put(name, b"changed")
        os.unlink(os.path.join(self.folder, "b", "1"))
        os.unlink(os.path.join(self.folder, "d"))
        report = self.look("b", "a", "d", "e", "../x", "b/.flow512-x")
        self.assertEqual((report.found, report.new, report.changed, report.gone), (6, 2, 1, 2))
        self.assertEqual(self.paths(), ["a", "b/2", "b/3", "b/new/4", "b0", "c"])
        self.assertEqual(sorted(self.hash_all()), ["a", "b/3", "b/new/4"])

    def test_what_is_left_behind(self) -> None:
        """What no file has any more is forgotten now and then, though everything is never looked
        through again; what files have is not."""
        self.put("stays", b"stays")
        self.library.scan()
        self.hash_all()
        roots = []
        for turn in range(12):
            for number in range(100):
                self.put(f"a/{number}", b"%d, %d" % (turn, number))
                roots.append(root_of(b"%d, %d" % (turn, number)))
            self.look("a")
            self.hash_all()
        known = [self.catalog.content(root) is not None for root in roots]
        self.assertLess(sum(known), 400)
        self.assertEqual(known[-100:], [True] * 100)
        self.assertIsNotNone(self.catalog.content(root_of(b"stays")))

    def test_new_comes_first(self) -> None:
        """What is new is hashed before what was left, also behind what was tried already."""
        for name in ("m", "n"):
            self.put(name)
        self.library.scan()
        self.assertEqual(getattr(self.library.hash_next(), "path", ""), "m")
        self.put("a")
        self.look("a")
        self.assertEqual(self.hash_all(), ["a", "n"])

    def test_very_much_that_is_new(self) -> None:
        """However much is new, all of it is hashed."""
        self.patch(scan, "_BATCH", 3)
        self.patch(scan, "_UNWRITTEN", 5)
        self.put("m")
        self.library.scan()
        self.hash_all()
        names = [f"f/{number}" for number in range(20)]
        for name in names:
            self.put(name)
        self.assertEqual(self.look("f").new, 20)
        self.assertEqual(sorted(self.hash_all()), sorted(names))

    def test_file_and_folder(self) -> None:
        """A folder in the place of a file, and a file in that of a folder, are what they are."""
        self.put("file")
        self.put("folder/inner")
        self.library.scan()
        os.unlink(os.path.join(self.folder, "file"))
        shutil.rmtree(os.path.join(self.folder, "folder"))
        self.put("file/inner")
        self.put("folder")
        self.look("file", "folder")
        self.assertEqual(self.paths(), ["file/inner", "folder"])

    def test_links(self) -> None:
        """A link that has taken a file's or a folder's place is not followed."""
        self.put("folder/file")
        self.put("file")
        self.library.scan()
        os.rename(os.path.join(self.folder, "folder"), os.path.join(self.folder, "moved"))
        os.unlink(os.path.join(self.folder, "file"))
        for name in ("folder", "file"):
            os.symlink(os.path.join(self.folder, "moved"), os.path.join(self.folder, name))
        report = self.look("folder", "file", "folder/file")
        self.assertEqual(self.paths(), [])
        self.assertEqual([left.path for left in report.left_out], ["folder", "file"])

    def test_busy(self) -> None:
        """A file that is being written is left alone, whether it is known or not."""
        self.put("f/known")
        self.library.scan()
        self.hash_all()
        self.put("f/known", b"half")
        self.put("f/other")
        self.look("f", busy="f/known")
        self.assertEqual(self.hash_all(), ["f/other"])
        self.put("f/new")
        self.look("f", busy="f/new")
        self.assertEqual(self.paths(), ["f/known", "f/other"])
        os.unlink(os.path.join(self.folder, "f", "other"))
        self.assertEqual(self.look("f", busy="f/other").gone, 0)

    def test_moved(self) -> None:
        """What was moved is not hashed again, by itself or in a folder, and however names are
        exchanged; what only has its name is."""
        self.put("one", b"one")
        self.put("two", b"two")
        self.put("folder/three", b"three")
        self.library.scan()
        self.hash_all()
        for old, new in (("one", "x"), ("two", "one"), ("x", "two"), ("folder", "moved")):
            os.rename(os.path.join(self.folder, old), os.path.join(self.folder, new))
        self.put("folder/three", b"another")
        report = self.look("one", "two", "moved", "folder")
        self.assertEqual((report.new, report.changed), (1, 3))
        self.assertEqual(self.hash_all(), ["folder/three"])
        for path, data in (("one", b"two"), ("two", b"one"), ("moved/three", b"three")):
            self.assertEqual(self.library.stat(path, stop=self.must_not_hash).root, root_of(data))

    def test_moved_before_it_was_hashed(self) -> None:
        """What was moved before it was hashed is hashed under its new name."""
        self.put("a")
        self.library.scan()
        os.rename(os.path.join(self.folder, "a"), os.path.join(self.folder, "b"))
        self.look("a", "b")
        self.assertEqual(self.hash_all(), ["b"])

    def test_moved_meanwhile_unseen(self) -> None:
        """The same holds for what was moved between two scans."""
        self.put("a/file")
        self.library.scan()
        self.hash_all()
        os.rename(os.path.join(self.folder, "a"), os.path.join(self.folder, "b"))
        self.assertEqual(self.counts(), (1, 1, 0, 1))
        self.assertEqual(self.hash_all(), [])

    def test_deleted(self) -> None:
        """The content of a file that is gone is not served any more."""
        self.put("a")
        self.library.scan()
        self.hash_all()
        os.unlink(os.path.join(self.folder, "a"))
        self.look("a")
        self.assertRaises(NotFound, self.library.page, root_of(b"data"), 0, 0)

    def test_roots_changed(self) -> None:
        """Whoever follows the roots hears of what is gone."""
        self.put("a")
        self.library.scan()
        self.library.roots(100)
        told: list[str] = []
        self.patch(self.library, "_roots_changed", lambda: told.append("told"))
        self.look()
        self.assertEqual(told, [])
        os.unlink(os.path.join(self.folder, "a"))
        self.look("a")
        self.assertEqual(told, ["told"])

    def test_trouble(self) -> None:
        """What cannot be looked at for now stays as it is."""
        self.put("a/file")
        self.put("b")
        self.library.scan()
        stat, opened = os.stat, os.open

        def fails(path: str, *args: object, **kwargs: object) -> object:
            if path in ("a", "b"):
                raise OSError(5, "Input/output error")
            return (stat if "follow_symlinks" in kwargs else opened)(path, *args, **kwargs)  # type: ignore[operator] -- passed on

        self.patch(os, "stat", fails)
        self.assertEqual([left.path for left in self.look("b").left_out], ["b"])
        self.patch(os, "stat", stat)
        self.patch(os, "open", fails)
        self.assertEqual([left.path for left in self.look("a").left_out], ["a"])
        self.patch(os, "open", opened)
        self.assertEqual(self.paths(), ["a/file", "b"])

    def test_stopped(self) -> None:
        """A look that is given up keeps what it has seen, and hashing it is not forgotten."""
        self.put("a")
        self.put("b")
        asked: list[bool] = []

        def stop() -> bool:
            asked.append(True)
            return len(asked) > 1

        with self.assertRaises(Cancelled):
            self.library.look(Look((self.place("a"), self.place("b"))), stop)
        self.assertEqual(self.hash_all(), ["a"])

    def test_missing_share(self) -> None:
        """Of a share whose folder is not there nothing is forgotten."""
        self.put("a")
        self.library.scan()
        shutil.rmtree(self.folder)
        self.library.scan()
        self.assertEqual(self.look("a").gone, 0)

    def test_rules_stand_until_two_walks(self) -> None:
        """A rule of access that is gone stands until two walks have missed it, however often
        everything is looked at in between."""
        self.put("a")
        self.put(ALLOW_FILE, b"# nobody\n")
        self.library.scan()
        os.unlink(os.path.join(self.folder, ALLOW_FILE))
        counts = []
        for look in (EVERYTHING, EVERYTHING, Look(is_walk=True), EVERYTHING, WALK):
            self.library.look(look)
            counts.append(len(self.library.seen_by(NOBODY).shares))
        self.assertEqual(counts, [1, 1, 1, 1, 2])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "remove", "move", "make", "look"]),
                st.sampled_from(["a", "b", "a/x", "a/y", "b/x", "a/b/c", "a!"]),
                st.sampled_from(["a", "b", "a/x", "b/y", "a/b", "a0"]),
            ),
            max_size=25,
        )
    )
    def test_as_a_scan_would(self, changes: list[tuple[str, str, str]]) -> None:
        """After looks at all places where something has happened, a scan has nothing to add, and
        every root is right."""
        for name in os.listdir(self.folder):
            whole = os.path.join(self.folder, name)
            shutil.rmtree(whole) if os.path.isdir(whole) else os.unlink(whole)
        self.put("kept")  # or its disk would be taken for not mounted
        self.library.scan()
        noted: list[str] = []
        for what, first, second in changes:
            one, other = (os.path.join(self.folder, each) for each in (first, second))
            try:
                if what == "write":
                    self.put(first, b"%d" % self.writes)
                elif what == "remove":
                    shutil.rmtree(one) if os.path.isdir(one) else os.unlink(one)
                elif what == "move":
                    os.rename(one, other)
                elif what == "make":
                    os.makedirs(one)
                else:
                    self.look(*noted)
                    noted = []
                    self.hash_all()
            except OSError:
                pass
            # A file that is written may have come with folders around it.
            noted += [first.partition("/")[0] if what == "write" else first, second]
        self.look(*noted)
        self.hash_all()
        found, new, changed, gone = self.counts()
        self.assertEqual((new, changed, gone), (0, 0, 0))
        self.assertEqual(found, len(self.paths()))
        for entry in self.library.list()[0]:
            with open(os.path.join(self.folder, entry.path), "rb") as file:
                self.assertEqual(entry.root, root_of(file.read()))
