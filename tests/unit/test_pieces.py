"""
Pieces: every byte that is asked for travels exactly once, in frames of the size that was asked for.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.pieces import (
    byte_range,
    check_pieces,
    cut_into_runs,
    piece_count,
    span_from,
)
from flow512.errors import Misuse
from flow512.units import BLOCK, LONGEST_RUN, PIECE, PIECES_PER_BLOCK


class AddressTests(SynchronousTestCase):
    """Which pieces a file has, and where they lie."""

    def test_counts(self) -> None:
        """The last piece may be short, and a file without bytes has none."""
        for size, pieces in [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2), (BLOCK, 512)]:
            self.assertEqual(piece_count(size), pieces, size)

    def test_byte_range(self) -> None:
        """A range ends where the file does, though its last piece could be longer."""
        for first, count, size, expected in [
            (0, 1, 1, (0, 1)),
            (0, 1, 512, (0, 512)),
            (0, 2, 513, (0, 513)),
            (1, 1, 513, (512, 1)),
            (511, 2, BLOCK + 100, (BLOCK - 512, 612)),
            (2**54 - 1, 1, 2**63 - 1, (2**63 - 512, 511)),
        ]:
            self.assertEqual(byte_range(first, count, size), expected)

    def test_beyond(self) -> None:
        """Pieces that the file has not are refused, and so is a range of none."""
        for first, count, size in [(0, 1, 0), (1, 1, 512), (0, 2, 512), (0, 0, 512), (-1, 1, 512)]:
            with self.assertRaises(Misuse):
                check_pieces(first, count, size)
            with self.assertRaises(Misuse):
                byte_range(first, count, size)


class CutTests(SynchronousTestCase):
    """How a range becomes frames."""

    def test_whole_block(self) -> None:
        """A block that fits in one frame is that frame's body itself: nothing is copied."""
        block = bytes(BLOCK)
        [(first, body)] = cut_into_runs(1024, block, PIECES_PER_BLOCK)
        self.assertEqual(first, 1024)
        self.assertIs(body, block)

    def test_single_pieces(self) -> None:
        """With a run of one, every frame has 512 bytes, but for the file's last."""
        frames = cut_into_runs(7, bytes(1025), 1)
        self.assertEqual([(7, 512), (8, 512), (9, 1)], [(at, len(body)) for at, body in frames])

    def test_no_run(self) -> None:
        """A run of no pieces would never end."""
        with self.assertRaises(Misuse):
            cut_into_runs(0, b"x", 0)

    @given(
        st.integers(0, 5000),
        st.integers(1, 3000),
        st.integers(1, LONGEST_RUN),
        st.integers(1, 512),
        st.integers(1, 5),
    )
    def test_everything_once(
        self, first: int, count: int, run: int, rest: int, blocks: int
    ) -> None:
        """
        Whatever is asked for comes whole and in order, and a span ends where a block does, after as
        many as it may have.
        """
        size = (first + count - 1) * PIECE + rest
        position = first
        while position < first + count:
            span = span_from(position, first + count, blocks)
            self.assertEqual(span.first, position)
            self.assertGreater(span.pieces, 0)
            stop = span.first + span.pieces
            if stop < first + count:
                self.assertEqual(stop % PIECES_PER_BLOCK, 0)
                self.assertEqual(len(span.blocks), blocks)
            self.assertIn(span.first, range(span.blocks[0] * 512, (span.blocks[0] + 1) * 512))
            self.assertIn(stop - 1, range(span.blocks[-1] * 512, (span.blocks[-1] + 1) * 512))
            offset, length = byte_range(span.first, span.pieces, size)
            data = bytes(length)
            for at, body in cut_into_runs(span.first, data, run):
                self.assertEqual(at, position)
                self.assertGreater(len(body), 0)
                self.assertLessEqual(len(body), run * PIECE)
                position = at + piece_count(len(body))
            self.assertEqual(offset, span.first * PIECE)
        self.assertEqual(position, first + count)
