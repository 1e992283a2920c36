"""
The tree: its definition, what proves and what does not, and the text of a content id.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import (
    HELD,
    Shape,
    Tree,
    TreeBuilder,
    TreeVerifier,
    block_digest,
    format_content_id,
    page_digest,
    parse_content_id,
    root_digest,
)
from flow512.errors import BadDigest, BadMessage, Misuse
from flow512.units import BLOCK, DIGEST, MAX_FILE_SIZE, PAGE

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "tree.json"
SPECIFICATION = Path(__file__).resolve().parents[2] / "docs" / "tree.rst"

PATTERN = bytes(range(251)) * (BLOCK // 251 + 2)


def keyed(sort: bytes, data: bytes) -> bytes:
    """Digest as the definition has it."""
    return blake3(data, key=(b"flow512 tree: " + sort).ljust(32, b"\0")).digest()


def defined_root(size: int, digests: list[bytes]) -> bytes:
    """Make the root by the definition, from the digests of one level and then of those above."""
    if len(digests) > 512:
        pages = [b"".join(digests[at : at + 512]) for at in range(0, len(digests), 512)]
        return defined_root(size, [keyed(b"page", page) for page in pages])
    return keyed(b"root", size.to_bytes(8, "big") + keyed(b"page", b"".join(digests)))


def invented_digests(blocks: int) -> list[bytes]:
    """Stand in for the digests of so many different blocks."""
    return [number.to_bytes(DIGEST, "big") for number in range(blocks)]


def invented_tree(size: int) -> Tree:
    """Make the tree of a file whose blocks have invented digests."""
    builder = TreeBuilder()
    builder.add_many(b"".join(invented_digests(-(-size // BLOCK))))
    return builder.finish(size)


def small_tree(data: bytes) -> Tree:
    """Make the tree of a file that is at hand."""
    builder = TreeBuilder()
    for at in range(0, len(data), BLOCK):
        builder.add(block_digest(data[at : at + BLOCK]))
    return builder.finish(len(data))


class DefinitionTests(SynchronousTestCase):
    """The tree is what docs/tree.rst says."""

    def test_vectors(self) -> None:
        """Every file of the vectors, which were made without flow512, has the root they tell."""
        files: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))["files"]
        sizes = {row["size"] for row in files}
        self.assertTrue({0, 1, 511, 512, 513, BLOCK - 1, BLOCK + 1, 512 * BLOCK + 1} <= sizes)
        for row in files:
            tree = self.tree_of(row["size"], row["bytes"])
            shape = tree.shape
            self.assertEqual(tree.root.hex(), row["root"], row)
            self.assertEqual(format_content_id(tree.root), row["content_id"])
            self.assertEqual((shape.blocks, shape.levels), (row["blocks"], row["levels"]))
            top = tree.page(shape.levels - 1, 0)
            self.assertEqual(page_digest(top).hex(), row["top_page_digest"])
            if shape.blocks:
                self.assertEqual(tree.page(0, 0)[:DIGEST].hex(), row["first_block_digest"])
                self.assertEqual(
                    tree.page(0, tree.shape.pages(0) - 1)[-DIGEST:].hex(), row["last_block_digest"]
                )

    def test_program_in_the_specification(self) -> None:
        """The program that docs/tree.rst shows makes the same roots."""
        program = SPECIFICATION.read_text(encoding="utf-8").partition(".. code-block:: python")[2]
        lines = itertools.takewhile(lambda line: line[:1] in ("", " "), program.splitlines())
        names: dict[str, Any] = {}
        exec(textwrap.dedent("\n".join(lines)), names)
        for size in (0, 1, BLOCK, BLOCK + 1):
            self.assertEqual(names["root"](PATTERN[:size]), self.tree_of(size, "pattern").root)

    def tree_of(self, size: int, kind: str) -> Tree:
        """Make the tree of a file of the vectors."""
        builder = TreeBuilder()
        if kind == "zero":
            builder.add_many(block_digest(bytes(BLOCK)) * (size // BLOCK))
            if size % BLOCK:
                builder.add(block_digest(bytes(size % BLOCK)))
        else:
            for offset in range(0, size, BLOCK):
                start = offset % 251
                builder.add(block_digest(PATTERN[start : start + min(BLOCK, size - offset)]))
        return builder.finish(size)

    def test_many_sizes(self) -> None:
        """The tree over any number of blocks is the recursive definition's, up to three levels."""
        for blocks in (0, 1, 2, 511, 512, 513, 1024, 1025, 512 * 512, 512 * 512 + 1):
            size = max(0, blocks * BLOCK - 5)
            self.assertEqual(
                invented_tree(size).root, defined_root(size, invented_digests(blocks)), blocks
            )

    def test_levels_do_not_mix(self) -> None:
        """The same bytes have other digests as a block, as a page and as the top."""
        data = bytes(40)
        self.assertEqual(
            len(
                {block_digest(data), page_digest(data), keyed(b"root", data), blake3(data).digest()}
            ),
            4,
        )

    def test_size_is_bound(self) -> None:
        """Two files with the same digests and other sizes have other roots."""
        self.assertNotEqual(root_digest(1, bytes(32)), root_digest(2, bytes(32)))

    def test_wrong_number_of_blocks(self) -> None:
        """A builder that was not given every block makes no tree."""
        builder = TreeBuilder()
        builder.add(bytes(DIGEST))
        for size in (0, BLOCK + 1):
            with self.assertRaises(Misuse):
                builder.finish(size)
        self.assertEqual(builder.finish(BLOCK).shape.blocks, 1)


class LargeTests(SynchronousTestCase):
    """Trees whose digests do not stay in memory."""

    def test_nothing_is_left(self) -> None:
        """The file that the digests are in has no name, and is closed with its last reader."""
        with tempfile.TemporaryDirectory() as folder:
            self.patch(tempfile, "tempdir", folder)
            gc.collect()  # or others' files may be closed meanwhile
            before = set(os.listdir("/proc/self/fd"))
            tree = invented_tree(2 * HELD // DIGEST * BLOCK)
            self.assertGreater(len(set(os.listdir("/proc/self/fd")) - before), 0)
            self.assertEqual(os.listdir(folder), [])
            last = 2 * HELD // PAGE - 1
            self.assertEqual(tree.page(0, last)[-DIGEST:], invented_digests(2 * HELD // DIGEST)[-1])
            del tree
            gc.collect()
            self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))


class ShapeTests(SynchronousTestCase):
    """What follows from a size."""

    def test_table(self) -> None:
        """Pieces, blocks, and the pages of each level."""
        for size, pieces, blocks, pages in [
            (0, 0, 0, [1]),
            (1, 1, 1, [1]),
            (513, 2, 1, [1]),
            (BLOCK, 512, 1, [1]),
            (BLOCK + 1, 513, 2, [1]),
            (512 * BLOCK, 512 * 512, 512, [1]),
            (512 * BLOCK + 1, 512 * 512 + 1, 513, [2, 1]),
            (70 * 2**30, 70 * 2**21, 70 * 2**12, [560, 2, 1]),
            (MAX_FILE_SIZE, 2**54, 2**45, [2**36, 2**27, 2**18, 2**9, 1]),
        ]:
            shape = Shape(size)
            self.assertEqual((shape.pieces, shape.blocks), (pieces, blocks), size)
            self.assertEqual([shape.pages(level) for level in range(shape.levels)], pages, size)
            self.assertEqual(shape.digests(0), blocks)
            for level in range(1, shape.levels):
                self.assertEqual(shape.digests(level), pages[level - 1])

    def test_lengths(self) -> None:
        """Only the last block and the last page of a level are short."""
        shape = Shape(513 * BLOCK + 7)
        self.assertEqual(shape.block_length(0), BLOCK)
        self.assertEqual(shape.block_length(513), 7)
        self.assertEqual(shape.page_length(0, 0), PAGE)
        self.assertEqual(shape.page_length(0, 1), 2 * DIGEST)
        self.assertEqual(shape.page_length(1, 0), 2 * DIGEST)
        self.assertEqual(Shape(0).page_length(0, 0), 0)

    def test_what_is_not_there(self) -> None:
        """No level, page or block beyond the last, or before the first, has a length."""
        shape = Shape(513 * BLOCK)
        for wrong in (
            lambda: shape.block_length(513),
            lambda: shape.block_length(-1),
            lambda: shape.page_length(0, 2),
            lambda: shape.page_length(0, -1),
            lambda: shape.page_length(2, 0),
            lambda: shape.digests(-1),
            lambda: shape.pages(2),
            lambda: Shape(0).block_length(0),
        ):
            with self.assertRaises(Misuse):
                wrong()

    def test_sizes_that_cannot_be(self) -> None:
        """A size that no file can have is refused before anything is computed of it."""
        for size in (-1, MAX_FILE_SIZE + 1, 2**64):
            with self.assertRaises(Misuse):
                Shape(size)
            with self.assertRaises(Misuse):
                TreeVerifier(bytes(32), size)


class VerifierTests(SynchronousTestCase):
    """Nothing passes that the root does not prove."""

    def fill(self, verifier: TreeVerifier, tree: Tree, block: int) -> list[tuple[int, int]]:
        """Give a verifier the pages that it wants for a block, and say which they were."""
        given_pages = []
        while (page := verifier.wanted(block)) is not None:
            verifier.add_page(*page, tree.page(*page))
            given_pages.append(page)
        return given_pages

    def test_from_the_top(self) -> None:
        """Pages are wanted from the root down, and only those on the way to the block."""
        tree = invented_tree(70 * 2**30)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        self.assertIsNone(verifier.expects(286_000))
        self.assertEqual(self.fill(verifier, tree, 286_000), [(2, 0), (1, 1), (0, 558)])
        self.assertEqual(verifier.expects(286_000), (286_000).to_bytes(32, "big"))
        self.assertEqual(self.fill(verifier, tree, 285_999), [])
        self.assertEqual(self.fill(verifier, tree, 0), [(1, 0), (0, 0)])

    def test_empty_file(self) -> None:
        """A file without bytes has a page to prove its size, and no block."""
        tree = small_tree(b"")
        verifier = TreeVerifier(tree.root, 0)
        verifier.add_page(0, 0, b"")
        with self.assertRaises(BadDigest):
            TreeVerifier(bytes(32), 0).add_page(0, 0, b"")
        with self.assertRaises(Misuse):
            verifier.wanted(0)

    def test_blocks(self) -> None:
        """A block passes with its own bytes only."""
        data = PATTERN[:BLOCK] + b"end"
        tree = small_tree(data)
        verifier = TreeVerifier(tree.root, len(data))
        self.fill(verifier, tree, 0)
        verifier.verify(0, data[:BLOCK])
        verifier.verify(1, memoryview(data)[BLOCK:])
        for block, wrong in [
            (0, data[1 : BLOCK + 1]),
            (0, data[: BLOCK - 1]),
            (0, b""),
            (1, data[:BLOCK]),
            (1, b"enD"),
            (1, b"end\0"),
        ]:
            failure = self.assertRaises(BadDigest, verifier.verify, block, wrong)
            self.assertIn(f"Block {block} ", str(failure))

    def test_too_early(self) -> None:
        """No block is judged before its digest is here, nor a page before its parent."""
        tree = invented_tree(600 * BLOCK)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        with self.assertRaises(Misuse):
            verifier.verify(3, b"x")
        with self.assertRaises(Misuse):
            verifier.add_page(0, 0, tree.page(0, 0))
        with self.assertRaises(Misuse):
            verifier.expects(600)

    def test_forged_pages(self) -> None:
        """A page with any other content or place is refused, nothing of it is kept, and the
        right one is still wanted and taken."""
        tree = invented_tree(1100 * BLOCK)
        other = invented_tree(1101 * BLOCK)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        top = tree.page(1, 0)
        forged = bytes([top[0] ^ 1]) + top[1:]
        for wrong in (forged, other.page(1, 0), top[32:64] + top[:32] + top[64:]):
            with self.assertRaises(BadDigest):
                verifier.add_page(1, 0, wrong)
            self.assertEqual(verifier.wanted(0), (1, 0))
        verifier.add_page(1, 0, top)
        with self.assertRaises(BadDigest):
            verifier.add_page(0, 0, tree.page(0, 1))
        self.assertEqual(verifier.wanted(0), (0, 0))
        verifier.add_page(0, 0, tree.page(0, 0))
        self.assertIsNone(verifier.wanted(0))

    def test_forged_size(self) -> None:
        """A root does not fit another size, even one with as many blocks."""
        tree = invented_tree(10 * BLOCK)
        verifier = TreeVerifier(tree.root, 10 * BLOCK - 1)
        with self.assertRaises(BadDigest):
            verifier.add_page(0, 0, tree.page(0, 0))

    def test_wrong_length(self) -> None:
        """A page of another length than the size asks for is no page."""
        tree = invented_tree(600 * BLOCK)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        top = tree.page(1, 0)
        for wrong in (b"", top[:-1], top + b"\0", top + bytes(DIGEST)):
            with self.assertRaises(BadMessage):
                verifier.add_page(1, 0, wrong)
        with self.assertRaises(Misuse):
            verifier.add_page(2, 0, top)

    def test_forget(self) -> None:
        """What is forgotten is wanted again; forgetting what is not here does nothing."""
        tree = invented_tree(600 * BLOCK)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        self.fill(verifier, tree, 0)
        verifier.forget(0, 0)
        verifier.forget(0, 0)
        self.assertIsNone(verifier.expects(0))
        self.assertEqual(self.fill(verifier, tree, 0), [(0, 0)])

    def test_keeps_its_own_copy(self) -> None:
        """A buffer that is used again by its owner changes nothing that was proven."""
        tree = invented_tree(3 * BLOCK)
        verifier = TreeVerifier(tree.root, tree.shape.size)
        buffer = bytearray(tree.page(0, 0))
        verifier.add_page(0, 0, buffer)
        buffer[:] = bytes(len(buffer))
        self.assertEqual(verifier.expects(2), (2).to_bytes(32, "big"))

    @settings(max_examples=50)
    @given(st.data())
    def test_any_order(self, data: st.DataObject) -> None:
        """In any order, with any pages forgotten, every block's digest is the right one."""
        blocks = data.draw(st.integers(1, 3000))
        size = blocks * BLOCK - data.draw(st.integers(0, BLOCK - 1))
        tree = invented_tree(size)
        verifier = TreeVerifier(tree.root, size)
        for block in data.draw(st.lists(st.integers(0, blocks - 1), max_size=20)):
            if data.draw(st.booleans()):
                verifier.forget(*data.draw(st.tuples(st.integers(0, 1), st.integers(0, 5))))
            self.fill(verifier, tree, block)
            self.assertEqual(verifier.expects(block), block.to_bytes(32, "big"))


class ContentIdTests(SynchronousTestCase):
    """The text of a content id."""

    ZERO = "flow512:" + "a" * 52

    @given(st.binary(min_size=32, max_size=32))
    def test_round_trip(self, root: bytes) -> None:
        """What is written can be read, in either case."""
        text = format_content_id(root)
        self.assertEqual(len(text), 60)
        self.assertEqual(text, text.lower())
        self.assertEqual(parse_content_id(text), root)
        self.assertEqual(parse_content_id(text.upper()), root)

    def test_known(self) -> None:
        """The alphabet is that of RFC 4648."""
        self.assertEqual(format_content_id(bytes(32)), self.ZERO)
        self.assertEqual(format_content_id(b"\xff" * 32), "flow512:" + "7" * 51 + "q")

    def test_refused(self) -> None:
        """Anything else is refused in one sentence that does not repeat it."""
        for text in (
            "",
            "flow512:",
            self.ZERO[8:],
            self.ZERO[:-1],
            self.ZERO + "a",
            self.ZERO + "====",
            self.ZERO + "\n",
            " " + self.ZERO,
            self.ZERO[:-1] + "b",
            self.ZERO[:-1] + "1",
            self.ZERO[:-1] + "\u017f",
            "blake3:" + "a" * 52,
            "flow512:" + "\x1b" * 52,
        ):
            failure = self.assertRaises(Misuse, parse_content_id, text)
            self.assertTrue(str(failure).startswith("That is no content id"))
            self.assertTrue(str(failure).isprintable())
