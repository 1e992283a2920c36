"""Tests for L{flow512.content.manifests}, as the library serves them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

from flow512.content.library import Library, Share
from flow512.content.manifest import NOT_ALL, Item, ManifestReader
from flow512.content.manifests import Manifests
from flow512.content.tree import TreeVerifier
from flow512.content.view import View
from flow512.errors import Cancelled, ContentChanged, DiskFailure, Misuse, NotFound, UnsafeName
from flow512.units import BLOCK
from flow512.wire.messages import Entry
from tests.unit.test_library import LibraryCase, root_of


class ManifestsTests(LibraryCase):
    """Folders as contents."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("one", "two/a", "two/deep/b"):
            os.chmod(self.put(name, name.encode()), 0o4640)
        os.mkdir(os.path.join(self.folder, "two/empty"), 0o750)
        self.library.scan()
        self.hash_all()

    def items(self, entry: Entry, library: Library | None = None) -> list[Item]:
        """Fetch a manifest as a peer does: proven from the root down."""
        library = library or self.library
        assert entry.root is not None
        verifier = TreeVerifier(entry.root, entry.size)
        reader = ManifestReader()
        content = library.open(entry.root)
        self.addCleanup(content.close)
        items = []
        for block in range(verifier.shape.blocks):
            while (wanted := verifier.wanted(block)) is not None:
                verifier.add_page(*wanted, library.page(entry.root, *wanted))
            room = bytearray(verifier.shape.block_length(block))
            content.read_into(block * BLOCK, [room])
            verifier.verify(block, room)
            items += reader.feed(room)
        reader.finish()
        return items

    def test_all(self) -> None:
        """Everything that is offered: files with their roots, folders, the empty ones too."""
        entry = self.library.stat("/")
        self.assertEqual(entry.path, "/")
        items = self.items(entry)
        self.assertEqual(
            [(item.path, item.size, item.root) for item in items],
            [
                ("one", 3, root_of(b"one")),
                ("two/", 0, None),
                ("two/a", 5, root_of(b"two/a")),
                ("two/deep/", 0, None),
                ("two/deep/b", 10, root_of(b"two/deep/b")),
                ("two/empty/", 0, None),
            ],
        )
        self.assertEqual([items[0].mode, items[-1].mode], [0o640, 0o750])
        self.assertEqual([item.mtime for item in items if item.root is not None], [1, 2, 3])

    def test_folder(self) -> None:
        """One folder, with paths from there on; the same folder has the same root."""
        entry = self.library.stat("two/")
        self.assertEqual(
            [item.path for item in self.items(entry)], ["a", "deep/", "deep/b", "empty/"]
        )
        self.assertEqual(self.library.stat("two/"), entry)
        self.assertEqual(self.library.stat(root=entry.root), Entry("/", entry.size, 0, entry.root))
        self.assertEqual(self.items(self.library.stat("two/empty/")), [])

    def test_changes(self) -> None:
        """A file that is new, or has changed since it was hashed, is listed as one that cannot be
        had yet, so that nobody takes it for gone."""
        self.put("two/a", b"other")
        self.put("two/new", b"new")
        items = self.items(self.library.stat("two/"))
        self.assertEqual([item.path for item in items if item.is_missing], ["a", "new"])
        self.library.scan()
        self.hash_all()
        items = {item.path: item.root for item in self.items(self.library.stat("two/"))}
        self.assertEqual(items["a"], root_of(b"other"))

    def test_unreadable(self) -> None:
        """What cannot be read is listed as such, be it a file or a folder with what is in it."""
        reads, looks = os.scandir, os.stat
        deep = os.stat(os.path.join(self.folder, "two/deep"))

        def scandir(folder: int) -> object:
            if os.path.samestat(os.fstat(folder), deep):
                raise OSError(errno.EIO, "bad disk")
            return reads(folder)

        def stat(name: str, **how: Any) -> os.stat_result:
            if name in ("a", "two/a"):
                raise OSError(errno.EIO, "bad disk")
            return looks(name, **how)

        self.patch(os, "scandir", scandir)
        self.patch(os, "stat", stat)
        items = self.items(self.library.stat("/"))
        self.assertEqual(
            [(item.path, item.is_missing) for item in items],
            [
                *(("one", False), ("two/", False), ("two/a", True)),
                *(("two/deep/", True), ("two/empty/", False)),
            ],
        )
        self.assertRaises(DiskFailure, self.library.stat, "two/deep/")

    def test_not_allowed(self) -> None:
        """A file that may not be read is listed as such: whoever mirrors must not delete his."""
        self.patch(os, "access", lambda name, mode, **how: name != "a")
        for _ in range(2):
            items = self.items(self.library.stat("two/"))
            missing = [item.path for item in items if item.is_missing]
            self.assertEqual(missing, ["a"])
            self.library.scan()

    def test_refused(self) -> None:
        """What is no folder here is not found; what no folder can be called is said to be so."""
        for path in ("none/", "one/", "two/none/"):
            self.assertRaises(NotFound, self.library.stat, path)
        for path in ("../", "two/../", "//", "/two/"):
            self.assertRaises(UnsafeName, self.library.stat, path)
        entry = self.library.stat("two/")
        assert entry.root is not None
        self.assertRaises(Misuse, self.library.page, entry.root, 0, 1)
        self.assertRaises(Cancelled, self.library.stat, "two/", stop=lambda: True)

    def test_several_shares(self) -> None:
        """Shares lie over one another: the first that has a path shows it."""
        self.put("two/a", b"hidden", self.second)
        self.put("two/z", b"seen", self.second)
        self.library.scan()
        self.hash_all()
        items = {item.path: item.root for item in self.items(self.library.stat("two/"))}
        self.assertEqual(list(items), ["a", "deep/", "deep/b", "empty/", "z"])
        self.assertEqual(items["a"], root_of(b"two/a"))
        self.assertEqual(items["z"], root_of(b"seen"))

    def test_link(self) -> None:
        """A folder that is there only by a link is not found, and nobody learns that it is one; one
        of the same name in another share is."""
        for target in ("two", "/etc", "nowhere"):
            link = os.path.join(self.folder, "link")
            os.symlink(target, link)
            for path in ("link/", "link/deep/"):
                error = self.assertRaises(NotFound, self.library.stat, path)
                self.assertIn(f"No folder '{path}' is shared here", str(error))
            os.unlink(link)
        os.symlink("two", os.path.join(self.folder, "link"))
        os.makedirs(os.path.join(self.second, "link/real"))
        items = self.items(self.library.stat("link/"))
        self.assertEqual([item.path for item in items], ["real/"])

    def test_own_folders(self) -> None:
        """What is never listed is not found as a folder either."""
        self.put(".flow512-x/a")
        self.assertRaises(NotFound, self.library.stat, ".flow512-x/")

    def test_longest_path(self) -> None:
        """A folder whose path cannot be said is not in the list, and the rest is."""
        parts = [letter * 240 for letter in "abcdefghijklmnopq"]
        fd = os.open(self.folder, os.O_RDONLY)
        for part in parts:
            os.mkdir(part, dir_fd=fd)
            inner = os.open(part, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)
        for path, above in (("/", 0), ("a" * 240 + "/", 1)):
            items = self.items(self.library.stat(path))
            folders = [item.path for item in items if item.path.startswith(parts[above])]
            self.assertEqual(folders[-1], "/".join(parts[above : 16 + above]) + "/")
        self.assertEqual(self.items(self.library.stat("/"))[-1].path, "two/empty/")

    def paths_in(self, shares: list[dict[str, bytes]], path: str = "/") -> list[str]:
        """Share folders with these files, or folders, and list what is in one."""
        made = []
        for files in shares:
            folder = self.enterContext(tempfile.TemporaryDirectory())
            made.append(Share(folder, folder))
            for name, data in files.items():
                if name.endswith("/"):
                    os.makedirs(os.path.join(folder, name))
                else:
                    self.put(name, data, folder)
        library = Library(self.catalog, made)
        self.addCleanup(library.close)
        return [item.path for item in self.items(library.stat(path), library)]

    def test_file_and_folder(self) -> None:
        """
        No name is a file and a folder: it is what the first share with it has, and all that is
        beneath a folder goes with it.
        """
        file = {"x": b"1", "x.b": b"", "y": b""}
        folder = {"x!/a": b"", "x.b": b"", "x/a": b"2", "x/b/c": b"", "x0": b"", "y.z": b""}
        around = ["x!/", "x!/a", "x.b"], ["x0", "y", "y.z"]
        whole = [*around[0], "x/", "x/a", "x/b/", "x/b/c", *around[1]]
        self.assertEqual(self.paths_in([file, folder]), ["x", *around[0], *around[1]])
        self.assertEqual(self.paths_in([folder, file]), whole)
        self.assertEqual(self.paths_in([folder, file, {"x/d": b""}]), sorted([*whole, "x/d"]))
        self.assertEqual(self.paths_in([file, folder, folder]), ["x", *around[0], *around[1]])
        self.assertEqual(self.paths_in([{"x/": b""}, {"x": b"", "z": b""}]), ["x/", "z"])

    def test_file_and_folder_below(self) -> None:
        """It is so in every folder, also in one that is asked for itself."""
        file = {"d/a.": b"", "d/x": b"1", "d/e/f/y": b"", "d/e/q": b"", "d/z": b""}
        folder = {"d/x/a": b"2", "d/e/f/y/a": b"", "d/e/r": b"", "d/z/": b"", "d/zz": b""}
        e = ["e/", "e/f/", "e/f/y"]
        self.assertEqual(self.paths_in([file, folder], "d/"), [*e, "e/q", "e/r", "x", "z", "zz"])
        self.assertEqual(
            self.paths_in([folder, file], "d/"),
            [*e[:2], "e/f/y/", "e/f/y/a", "e/q", "e/r", "x/", "x/a", "z/", "zz"],
        )
        self.assertEqual(
            [path for path in self.paths_in([folder, file]) if path.startswith("d/e/f/y")],
            ["d/e/f/y/", "d/e/f/y/a"],
        )
        self.assertEqual(
            [path for path in self.paths_in([{"d": b""}, file, folder]) if path[0] == "d"], ["d"]
        )

    def test_access(self) -> None:
        """Who may not see a share gets no manifest with it, not even by its root."""
        friend, stranger = b"f" * 32, b"s" * 32
        self.library = Library(
            self.catalog, [Share(self.folder, allow=[friend]), Share(self.second, "other")]
        )
        self.addCleanup(self.library.close)
        self.put("open/file", b"for all", self.second)
        self.library.scan()
        self.hash_all()
        whole = self.library.stat("/", view=self.library.seen_by(friend))
        assert whole.root is not None
        their_view = self.library.seen_by(stranger)
        theirs = self.library.stat("/", view=their_view)
        self.assertEqual([item.path for item in self.items(theirs)], ["open/", "open/file"])
        refused: list[Callable[[], object]] = [
            lambda: self.library.stat("two/", view=their_view),
            lambda: self.library.stat(root=whole.root, view=their_view),
            lambda: self.library.page(whole.root or b"", 0, 0, their_view),
            lambda: self.library.open(whole.root or b"", their_view),
        ]
        for ask in refused:
            self.assertRaises(NotFound, ask)
        assert theirs.root is not None
        self.library.open(theirs.root, their_view).close()

    def test_share_that_is_gone(self) -> None:
        """When a share's folder is not there, whoever could see it is told that there may be more,
        in the folders that it had; nobody else is, and nothing of it is named."""
        friend, stranger = b"f" * 32, b"s" * 32
        self.put("two/z", b"gone", self.second)
        self.library = Library(
            self.catalog, [Share(self.folder), Share(self.second, "other", allow=[friend])]
        )
        self.addCleanup(self.library.close)
        self.library.scan()
        self.hash_all()
        self.library.follow(True)
        theirs = self.library.stat("two/", view=self.library.seen_by(stranger))
        os.rename(self.second, self.second + ".away")
        self.library.scan()
        for asker, paths in (
            (stranger, ["a", "deep/", "deep/b", "empty/"]),
            (friend, ["/", "a", "deep/", "deep/b", "empty/"]),
            (stranger, ["a", "deep/", "deep/b", "empty/"]),
        ):
            entry = self.library.stat("two/", view=self.library.seen_by(asker))
            items = self.items(entry)
            self.assertEqual([item.path for item in items], paths)
            self.assertEqual(items[0].is_missing, asker == friend)
        self.assertEqual(entry, theirs)
        self.assertEqual(self.items(self.library.stat("/"))[0], NOT_ALL)
        self.assertEqual(len(self.items(self.library.stat("two/empty/"))), 0)
        os.rename(self.second + ".away", self.second)
        self.library.scan()
        self.assertEqual(self.items(self.library.stat("two/"))[-1].path, "z")

    def looks(self, path: str = "/", view: View | None = None) -> tuple[int, Entry]:
        """Ask for a folder; tell how many folders were listed for that, and the answer."""
        looks = 0
        scandir = os.scandir

        def counted(folder: int) -> object:
            nonlocal looks
            looks += 1
            return scandir(folder)

        with mock.patch.object(os, "scandir", counted):
            entry = self.library.stat(path, view=view)
        return looks, entry

    def test_again(self) -> None:
        """While the shares are followed and nothing happens, nobody looks at the disk to make the
        same manifest again."""
        before = self.looks()
        self.assertEqual(self.looks(), before)
        self.assertGreater(before[0], 3)
        self.library.follow(True)
        self.assertEqual(self.looks(), before)
        self.assertEqual(self.looks(), (0, before[1]))
        two = self.looks("two/")
        self.assertGreater(two[0], 2)
        self.assertEqual(self.looks("two/"), (0, two[1]))
        self.assertEqual([item.path for item in self.items(self.looks()[1])][:2], ["one", "two/"])
        self.assertRaises(NotFound, self.library.stat, "one/")
        self.library.follow(False)
        self.assertEqual(self.looks(), before)
        self.assertEqual(self.looks(), before)

    def test_happened(self) -> None:
        """Whatever happens in the shares, or becomes known of what is in them, counts at once."""
        self.library.follow(True)
        self.looks()
        os.mkdir(os.path.join(self.folder, "new"))
        self.library.happened()
        looks, entry = self.looks()
        self.assertGreater(looks, 0)
        self.assertIn("new/", [item.path for item in self.items(entry)])
        self.put("one", b"changed")
        with self.assertRaises(ContentChanged):
            self.library.open(root_of(b"one"))  # nobody told, but this finds out
        _, entry = self.looks()
        self.assertTrue(self.items(entry)[1].is_missing)
        self.hash_all()
        _, entry = self.looks()
        self.assertEqual(self.items(entry)[1].root, root_of(b"changed"))

    def test_happened_meanwhile(self) -> None:
        """What happens while a manifest is made may not be in it: the next one is made anew."""

        def happens() -> bool:
            self.library.happened()
            return False

        self.library.follow(True)
        self.library.stat("/", stop=happens)
        self.assertGreater(self.looks()[0], 0)
        self.assertEqual(self.looks()[0], 0)

    def test_again_for_each_view(self) -> None:
        """Who sees other shares is not given what was made for somebody else."""
        friend, stranger = b"f" * 32, b"s" * 32
        self.put("open/file", b"for all", self.second)
        self.library = Library(
            self.catalog, [Share(self.folder, allow=[friend]), Share(self.second, "other")]
        )
        self.addCleanup(self.library.close)
        self.library.scan()
        self.hash_all()
        self.library.follow(True)
        for who, count in ((friend, 8), (stranger, 2)):
            first, again = (self.looks("/", self.library.seen_by(who)) for _ in range(2))
            self.assertEqual(again, (0, first[1]))
            self.assertEqual(len(self.items(again[1])), count)
        self.library.shares[1].close()
        with self.assertRaises(NotFound):
            self.looks("/", self.library.seen_by(stranger))

    def test_again_only_while_kept(self) -> None:
        """What had to go for want of room, or of which too many were asked for, is made anew."""
        kept = Manifests(most=300)
        self.addCleanup(kept.close)
        kept.follow(True)
        share = Share(self.folder)
        self.addCleanup(share.close)

        def keep(name: str) -> None:
            item = Item(name * 100 + "/", 0, 0)
            root, size = kept.keep([item], [share], lambda: False)
            kept.remember(name, [share], root, kept.state)
            self.assertEqual(kept.again(name, [share]), (root, size))

        for name in "abc":
            keep(name)
        self.assertEqual(
            [kept.again(name, [share]) is None for name in "abc"], [True, False, False]
        )
        root = kept.again("c", [share])
        assert root is not None
        for number in range(100):
            kept.remember(f"{number}", [share], root[0], kept.state)
        self.assertEqual(kept.again("c", [share]), None)
        self.assertEqual(kept.again("0", [share]), root)

    def test_many(self) -> None:
        """A folder of thousands of files takes several blocks, and comes whole."""
        for number in range(2500):
            self.put(f"many/{'x' * 60}{number:05}", b"")
        self.library.scan()
        self.hash_all()
        items = self.items(self.library.stat("many/"))
        self.assertEqual(len(items), 2500)
        self.assertEqual(items[-1].path, "x" * 60 + "02499")

    def test_room(self) -> None:
        """When there is no room for all, those that were asked for least lately go."""
        kept = Manifests(most=300)
        self.addCleanup(kept.close)
        share = Share(self.folder)
        self.addCleanup(share.close)

        def keep(name: str) -> bytes:
            return kept.keep([Item(name * 100 + "/", 0, 0)], [share], lambda: False)[0]

        first, second = keep("a"), keep("b")
        self.assertIsNotNone(kept.size(first, [share]))
        third = keep("c")
        there = [kept.size(root, [share]) is not None for root in (first, second, third)]
        self.assertEqual(there, [True, False, True])
        huge = kept.keep([Item("x" * 1000 + "/", 0, 0)], [share], lambda: False)[0]
        self.assertEqual(kept.size(first, [share]), None)
        self.assertIsNotNone(kept.size(huge, [share]))

    def test_descriptors(self) -> None:
        """
        However small they are, only so many take a descriptor: a peer that asks for one folder
        after the other must not leave the process without any.
        """
        library = Library(self.catalog, [Share(self.folder)])
        self.addCleanup(library.close)
        for number in range(600):
            os.mkdir(os.path.join(self.folder, f"{number}"))
            os.mkdir(os.path.join(self.folder, f"{number}", f"{number}"))
        before = len(os.listdir("/dev/fd"))
        roots = [library.stat(f"{number}/").root for number in range(600)]
        self.assertLess(len(os.listdir("/dev/fd")) - before, 300)
        with self.assertRaises(NotFound):
            library.stat(root=roots[0])
        self.assertEqual(library.stat(root=roots[-1]).root, roots[-1])
        # What had to go is there again for whoever asks for the folder.
        self.assertEqual(library.stat("0/").root, roots[0])
        self.assertEqual(len(self.items(library.stat("0/"), library)), 1)
