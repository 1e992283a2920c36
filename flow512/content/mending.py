"""
Mending a block: the MD5s of its pieces tell which of them are damaged, and only those are fetched.

The MD5s prove nothing, and may be lies: what they do not lead to is a block that its digest
proves, and then all of the block is fetched. So they can cost a block's bytes, and no more.
"""

from __future__ import annotations

from hashlib import md5

from flow512.content.pieces import Span, piece_count
from flow512.units import PIECE, PIECES_PER_BLOCK
from flow512.wire.fields import MD5_LENGTH


def piece_md5s(data: bytes | bytearray | memoryview) -> bytes:
    """
    Make the MD5s of pieces. It takes as long as a few digests of the tree, so it is for workers.

    @param data: whole pieces, but for the last one.
    @return: L{MD5_LENGTH} (16) bytes for each, one after the other.
    """
    view = memoryview(data)
    return b"".join(
        [
            md5(view[at : at + PIECE], usedforsecurity=False).digest()
            for at in range(0, len(view), PIECE)
        ]
    )


class DamagedBlock:
    """
    A block that is not what its digest says, while pieces of it are put right.

    @ivar block: its number.
    @ivar data: its bytes: those that are here, and those that were fetched in place of others.
    @ivar whole: all of its pieces.
    """

    def __init__(self, block: int, data: bytearray) -> None:
        """
        @param data: of the block's length, with what is here of it at its beginning.
        """
        self.block = block
        self.data = data
        self.whole = Span(block * PIECES_PER_BLOCK, piece_count(len(data)))

    def damaged_spans(self, ours: bytes, theirs: bytes) -> list[Span]:
        """
        Find out which pieces to fetch.

        @param ours: what L{piece_md5s} makes of the bytes that are here; those of pieces that are
            not here are left out at the end.
        @param theirs: what a source says that they should be.
        @return: runs of pieces that differ, in order, numbered in the file; L{whole} if what the
            source says cannot be: MD5s of another number of pieces, or nothing that differs.
        """
        if len(theirs) != self.whole.pieces * MD5_LENGTH or ours == theirs:
            return [self.whole]
        spans: list[Span] = []
        for piece in range(self.whole.pieces):
            at = slice(piece * MD5_LENGTH, (piece + 1) * MD5_LENGTH)
            if ours[at] == theirs[at]:
                continue
            number = self.whole.first + piece
            if spans and sum(spans[-1]) == number:
                spans[-1] = spans[-1]._replace(pieces=spans[-1].pieces + 1)
            else:
                spans.append(Span(number, 1))
        return spans

    def put(self, first: int, pieces: bytes | bytearray) -> None:
        """
        Put fetched pieces in their places.

        @param first: the first one's number in the file; all of them are the block's.
        """
        at = (first - self.whole.first) * PIECE
        self.data[at : at + len(pieces)] = pieces
