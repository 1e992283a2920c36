"""Tests for L{flow512.content.manifest}."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content import manifest
from flow512.content.manifest import (
    ITEMS_PER_PAGE,
    MAGIC,
    MAX_PAGE,
    Item,
    ManifestReader,
    manifest_of,
)
from flow512.content.paths import MAX_DEPTH
from flow512.errors import BadMessage
from tests.unit.cutting import UNHURRIED

ROOT = bytes(range(32))
TREE = [
    Item("empty/", 0o755, 5),
    Item("grün.txt", 0o600, 5, 1, ROOT),
    Item("grün/", 0o700, -1),
    Item("grün/a.txt", 0o640, 2**62, 10, ROOT),
    Item("grün/deep/", 0o755, 0),
    Item("grün/deep/b", 0o777, 0, 0, ROOT),
    Item("readme", 0o444, 7, 2**63 - 1, ROOT),
]

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=5)


@st.composite
def trees(draw: st.DrawFn) -> list[Item]:
    """Folders with files, sorted as a manifest has them."""
    folders = {"": None}
    items = {}
    for name in draw(st.lists(names, max_size=20)):
        parent = draw(st.sampled_from(sorted(folders)))
        path = parent + name
        if path in items or path + "/" in items:
            continue
        mode, mtime = draw(st.integers(0, 0o777)), draw(st.integers(-(2**63), 2**63 - 1))
        if draw(st.booleans()):
            path += "/"
            folders[path] = None
            items[path] = Item(path, mode, mtime)
        else:
            items[path] = Item(path, mode, mtime, draw(st.integers(0, 2**63 - 1)), ROOT)
    return [items[path] for path in sorted(items)]


def read(data: bytes, *cuts: int) -> list[Item]:
    """Read a manifest that comes in parts."""
    reader = ManifestReader()
    items = []
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        items += reader.feed(data[start:end])
    reader.finish()
    return items


class ManifestTests(SynchronousTestCase):
    """Folders as contents."""

    def test_bytes(self) -> None:
        """The format is what the docs say, to the byte."""
        item = Item("a", 0o644, 1, 2, ROOT)
        body = b"\x91\x95\xa1a\xcd\x01\xa4\x01\x02\xc4\x20" + ROOT
        self.assertEqual(
            b"".join(manifest_of([item])),
            b"flow512 manifest 1\n" + len(body).to_bytes(4, "big") + body,
        )
        self.assertEqual(b"".join(manifest_of([])), MAGIC)
        self.assertEqual(read(MAGIC), [])

    def test_round_trip(self) -> None:
        """What was written is read, folders before what is in them, byte by byte as well."""
        data = b"".join(manifest_of(TREE))
        self.assertEqual(read(data), TREE)
        self.assertEqual(read(data, *range(1, len(data))), TREE)
        self.assertEqual(
            [item.is_folder for item in TREE], [True, False, True, False, True, False, False]
        )

    @UNHURRIED
    @given(trees(), st.data())
    def test_any(self, tree: list[Item], data: st.DataObject) -> None:
        """Any tree, at any cuts."""
        made = b"".join(manifest_of(tree))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=8)))
        self.assertEqual(read(made, *cuts), tree)

    def test_pages(self) -> None:
        """A long manifest comes in pages that a reader takes, however long the paths are."""
        short = [Item(f"{number:06}/", 0, 0) for number in range(2 * ITEMS_PER_PAGE + 1)]
        self.assertEqual(len(list(manifest_of(short))), 4)
        long = [Item("\U0001f4be" * 1000 + f"{number:06}/", 0, 0) for number in range(300)]
        for tree in (short, long):
            pages = list(manifest_of(tree))
            self.assertLessEqual(max(map(len, pages)), MAX_PAGE)
            self.assertEqual(read(b"".join(pages)), tree)

    def test_refused(self) -> None:
        """What is no manifest, or a sly one, is refused in a sentence."""

        def of(*items: Item) -> bytes:
            return b"".join(manifest_of(items))

        good = of(TREE[0])
        deepest = [Item("d/" * depth, 0, 0) for depth in range(1, MAX_DEPTH + 1)]
        self.assertEqual(read(of(*deepest)), deepest)
        for data, why in {
            b"": "ends in the middle",
            MAGIC[:5]: "ends in the middle",
            good[:-1]: "ends in the middle",
            good + b"\0": "ends in the middle",
            b"%PDF-1.7 and more bytes": "no manifest",
            MAGIC + b"\0\0\0\0": "0 bytes",
            MAGIC + b"\xff\xff\xff\xff": "4294967295 bytes",
            MAGIC + (MAX_PAGE + 1).to_bytes(4, "big"): "262145 bytes",
            MAGIC + b"\0\0\0\x01\xc1": "not as it should be",
            MAGIC + b"\0\0\0\x02\x91\x90": "not as it should be",
            of(Item("b/", 0, 0), Item("a/", 0, 0)): "not in order",
            of(Item("a/", 0, 0), Item("a/", 0, 0)): "twice",
            of(Item("a/b/", 0, 0)): "does not have",
            of(Item("a", 0, 0, 0, ROOT), Item("a/b/", 0, 0)): "does not have",
            of(Item("a/", 0, 0, 5)): "neither",
            of(Item("a/", 0, 0, 2)): "neither",
            of(Item("a", 0, 0, 1)): "neither",
            of(Item("a/", 0, 0, 0, ROOT)): "neither",
            of(Item("a/", 0o4755, 0)): "not as it should be",
            of(Item("a", 0, 0, -1, ROOT)): "not as it should be",
            of(Item("a", 0, 0, 1, ROOT[1:])): "not as it should be",
            of(Item("", 0, 0)): "not as it should be",
            of(*deepest, Item("d/" * (MAX_DEPTH + 1), 0, 0)): "folders deep",
            of(*deepest, Item("d/" * MAX_DEPTH + "x", 0, 0, 0, ROOT)): "folders deep",
            of(*deepest[:2], Item("e/", 0, 0), Item("e/d/d/", 0, 0)): "does not have",
        }.items():
            error = self.assertRaises(BadMessage, read, data)
            self.assertIn(why, str(error))

    def test_too_many(self) -> None:
        """A reader takes no more items than it says, though each has few bytes."""
        self.patch(manifest, "MAX_ITEMS", 10)
        tree = [Item(f"{number:02}/", 0, 0) for number in range(11)]
        self.assertEqual(read(b"".join(manifest_of(tree[:10]))), tree[:10])
        error = self.assertRaises(BadMessage, read, b"".join(manifest_of(tree)))
        self.assertIn("more than 10 items", str(error))

    def test_memory(self) -> None:
        """Reading many folders takes no more memory than a few of them."""
        pages = list(manifest_of(Item(f"{number:06}/", 0, 0) for number in range(20_000)))
        reader = ManifestReader()
        reader.feed(pages[0] + pages[1])
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for page in pages[2:]:
            reader.feed(page)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 100_000)

    def test_cut_anywhere(self) -> None:
        """A manifest that is cut off is not taken for a whole one, unless between two pages."""
        tree = [Item(f"{number:04}/", 0, 0) for number in range(ITEMS_PER_PAGE + 1)]
        first, page, other = manifest_of(tree)
        data = first + page + other
        for end in range(len(data) - 50, len(data)):
            if end != len(first + page):
                self.assertRaises(BadMessage, read, data[:end])
