"""Tests for L{flow512.content.manifests}, as the library serves them."""

from __future__ import annotations

import os
from collections.abc import Callable

from flow512.content.library import Library, Share
from flow512.content.manifest import Item, ManifestReader
from flow512.content.manifests import Manifests
from flow512.content.tree import TreeVerifier
from flow512.errors import Cancelled, Misuse, NotFound, UnsafeName
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
        """A file that has changed since it was hashed is left out until it is hashed again."""
        self.put("two/a", b"other")
        self.assertNotIn("a", [item.path for item in self.items(self.library.stat("two/"))])
        self.library.scan()
        self.hash_all()
        items = {item.path: item.root for item in self.items(self.library.stat("two/"))}
        self.assertEqual(items["a"], root_of(b"other"))

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
