"""Tests for L{flow512.content.mending}."""

from __future__ import annotations

from hashlib import md5
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.mending import DamagedBlock, piece_md5s
from flow512.content.pieces import Span
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK

WHOLE = Random(3).randbytes(BLOCK)
EXAMPLES = settings(max_examples=40, deadline=None)


def damaged(content: bytes, pieces: set[int]) -> bytearray:
    """Flip a bit in some pieces."""
    data = bytearray(content)
    for piece in pieces:
        data[piece * PIECE + piece % 7] ^= 1 << piece % 8
    return data


class PieceMd5Tests(SynchronousTestCase):
    """L{piece_md5s}."""

    def test_one_after_the_other(self) -> None:
        """Each piece has its own MD5, and a short last one is a piece as well."""
        data = WHOLE[: 2 * PIECE + 9]
        parts = [data[:PIECE], data[PIECE : 2 * PIECE], data[2 * PIECE :]]
        self.assertEqual(piece_md5s(data), b"".join(md5(part).digest() for part in parts))
        self.assertEqual(piece_md5s(bytearray(data)), piece_md5s(memoryview(data)))
        self.assertEqual(piece_md5s(b""), b"")


class DamagedBlockTests(SynchronousTestCase):
    """L{DamagedBlock}."""

    def test_whole(self) -> None:
        """All of a block's pieces are numbered in the file; the last block may have fewer."""
        self.assertEqual(
            DamagedBlock(3, bytearray(BLOCK)).whole, Span(3 * PIECES_PER_BLOCK, PIECES_PER_BLOCK)
        )
        self.assertEqual(DamagedBlock(1, bytearray(PIECE + 1)).whole, Span(PIECES_PER_BLOCK, 2))

    def test_neighbours_make_one_run(self) -> None:
        """Damaged pieces beside each other are one run, in the first, middle and last place."""
        content = WHOLE
        block = DamagedBlock(2, damaged(content, {0, 5, 6, 7, 9, 511}))
        self.assertEqual(
            block.damaged_spans(piece_md5s(block.data), piece_md5s(content)),
            [Span(1024, 1), Span(1029, 3), Span(1033, 1), Span(1535, 1)],
        )

    @EXAMPLES
    @given(
        st.integers(1, BLOCK).map(lambda length: WHOLE[:length]),
        st.sets(st.integers(0, PIECES_PER_BLOCK - 1), max_size=40),
        st.integers(0, 2**40),
        st.integers(0, BLOCK),
    )
    def test_mended(self, content: bytes, wrong: set[int], block: int, here: int) -> None:
        """Whatever is damaged or cut off, just those pieces are asked for, and make it right."""
        pieces = -(-len(content) // PIECE)
        # Its first byte is flipped, since the last piece may have no more.
        local = bytearray(content)
        for piece in (wrong := {piece for piece in wrong if piece < pieces}):
            local[piece * PIECE] ^= 255
        here = min(here, len(content))
        ours = piece_md5s(memoryview(local)[:here])
        mending = DamagedBlock(block, local)
        spans = mending.damaged_spans(ours, piece_md5s(content))
        asked = [first + at for first, count in spans for at in range(count)]
        missing = set() if here == len(content) else set(range(here // PIECE, pieces))
        expected = wrong | missing or set(range(pieces))
        self.assertEqual([piece - mending.whole.first for piece in asked], sorted(expected))
        for first, count in spans:
            at = (first - mending.whole.first) * PIECE
            mending.put(first, content[at : at + count * PIECE])
        self.assertEqual(bytes(mending.data), content)

    def test_lies(self) -> None:
        """MD5s of too few or too many pieces, and such that nothing differs, lead to all of it."""
        block = DamagedBlock(0, damaged(WHOLE, {4}))
        ours = piece_md5s(block.data)
        for theirs in (b"", ours[:-16], ours + ours[:16], ours):
            self.assertEqual(block.damaged_spans(ours, theirs), [block.whole])
