"""
The course of one STREAM: which blocks are read next, and which frames are written next. Pure::

    to_read ──> came ──> frames, written ──> to_read ... ──> is_through

Blocks are read and written in order, each with its digest behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from flow512.content.pieces import cut_into_runs
from flow512.content.tree import Shape
from flow512.units import DIGEST, PIECE, PIECES_PER_BLOCK
from flow512.wire.frame import HEADER_SIZE, encode_frame, encode_header
from flow512.wire.messages import Kind


class Course:
    """
    How far a file has been read and written.

    @ivar request: the number that its frames have.
    """

    def __init__(self, request: int, size: int, first: int, run: int) -> None:
        """
        @param request: the number that its frames have.
        @param size: bytes of the whole file.
        @param first: the block to begin with, at most the number of blocks.
        @param run: at most so many pieces in a data frame.
        """
        self.request = request
        self._shape = Shape(size)
        self._run = run
        self._to_read = first
        self._to_write = first
        self._ready: deque[tuple[bytearray, bytes]] = deque()

    def to_read(self, most: int) -> list[int]:
        """
        Say how long the next blocks are that are to be read; they are on their way from then on.

        @param most: at most so many.
        @return: the length of each; empty if all have been read.
        """
        first = self._to_read
        self._to_read = min(first + most, self._shape.blocks)
        return [self._shape.block_length(block) for block in range(first, self._to_read)]

    def came(self, blocks: Sequence[bytearray], digests: Sequence[bytes]) -> None:
        """
        Take the blocks that were read, in order, with their digests.
        """
        self._ready.extend(zip(blocks, digests, strict=True))

    @property
    def ready(self) -> int:
        """How many blocks have been read and not written."""
        return len(self._ready)

    @property
    def held(self) -> int:
        """How many bytes they have."""
        return sum(len(block) for block, _ in self._ready)

    @property
    def is_read(self) -> bool:
        """Whether there is nothing more to read."""
        return self._to_read == self._shape.blocks

    @property
    def is_through(self) -> bool:
        """Whether every block has been written."""
        return self._to_write == self._shape.blocks

    def next_size(self) -> int:
        """
        Say how many bytes the frames of the next block have; one is ready.
        """
        length = len(self._ready[0][0])
        frames = -(-length // (self._run * PIECE))
        return (frames + 1) * HEADER_SIZE + length + DIGEST

    def write(self) -> tuple[bytes, bytearray]:
        """
        Make the frames of the next block, which is ready; it counts as written.

        @return: the frames, and the block, which nobody needs any more.
        """
        block, digest = self._ready.popleft()
        number, self._to_write = self._to_write, self._to_write + 1
        frames: list[bytes | memoryview] = []
        view = memoryview(block)
        for position, body in cut_into_runs(number * PIECES_PER_BLOCK, view, self._run):
            frames += (encode_header(Kind.DATA, self.request, len(body), position), body)
        frames.append(encode_frame(Kind.DIGESTS, self.request, digest, number))
        return b"".join(frames), block
