"""
Pieces: how the bytes of a file are addressed, and how a range of them is cut for the wire.

A range of pieces is walked in spans, each of a block, or of a few: what is read to one place. Its
bytes are cut into runs, each of which is one frame. Nothing here loops over pieces, except for a
reader who asks for runs of a few.
"""

from __future__ import annotations

from typing import NamedTuple

from flow512.errors import Misuse
from flow512.units import PIECE, PIECES_PER_BLOCK


class Span(NamedTuple):
    """
    Consecutive pieces.

    @ivar first: the first one's number.
    @ivar pieces: how many, at least 1.
    """

    first: int
    pieces: int

    @property
    def blocks(self) -> range:
        """The numbers of the blocks that it has something of."""
        end = -(-(self.first + self.pieces) // PIECES_PER_BLOCK)
        return range(self.first // PIECES_PER_BLOCK, end)


def piece_count(size: int) -> int:
    """
    Say how many pieces a file has.

    @param size: its bytes.
    """
    return -(-size // PIECE)


def check_pieces(first: int, count: int, size: int) -> None:
    """
    Check that a file has the pieces that somebody asks for.

    @param size: the file's bytes.
    @raise Misuse: it has not all of them, or none are asked for.
    """
    if first < 0 or count < 1 or first + count > piece_count(size):
        raise Misuse(
            f"There are no pieces {first} to {first + count - 1};"
            f" a file of {size} bytes has {piece_count(size)}."
        )


def byte_range(first: int, count: int, size: int) -> tuple[int, int]:
    """
    Say where pieces lie.

    @param first: the first one's number.
    @param count: how many, at least 1.
    @param size: the file's bytes.
    @return: the offset of their first byte, and how many bytes they have: the file's last
        piece may be short.
    @raise Misuse: as L{check_pieces} does.
    """
    check_pieces(first, count, size)
    offset = first * PIECE
    return offset, min(count * PIECE, size - offset)


def span_from(first: int, end: int, blocks: int) -> Span:
    """
    Give the beginning of a range of pieces, to the end of a block.

    @param first: the first piece's number.
    @param end: the one after the last; more than C{first}.
    @param blocks: of how many blocks it is to have something, at least 1, if the range is that
        long.
    """
    boundary = (first // PIECES_PER_BLOCK + blocks) * PIECES_PER_BLOCK
    return Span(first, min(boundary, end) - first)


def cut_into_runs(
    first: int, data: bytes | memoryview, run: int
) -> list[tuple[int, bytes | memoryview]]:
    """
    Cut the bytes of a span into the bodies of frames.

    @param first: the number of the first piece in C{data}.
    @param data: whole pieces, but for the file's last.
    @param run: the most pieces that a frame may carry, at least 1.
    @return: each body and the number of its first piece. If one frame carries all, its body is
        C{data} itself; else the bodies are views of it, which copy nothing.
    @raise Misuse: C{run} is less than 1.
    """
    if run < 1:
        raise Misuse(f"A run has at least one piece, not {run}.")
    step = run * PIECE
    if len(data) <= step:
        return [(first, data)]
    view = memoryview(data)
    return [
        (first + offset // PIECE, view[offset : offset + step])
        for offset in range(0, len(data), step)
    ]
