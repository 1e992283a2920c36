"""
What comes of one STREAM, on the side that takes it: that each frame is the one that has to come
next, and blocks put together from them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from flow512.content.tree import Shape
from flow512.errors import BadFrame
from flow512.units import DIGEST, PIECE, PIECES_PER_BLOCK
from flow512.wire.frame import BufferPool, Frame
from flow512.wire.messages import Entry, Kind, Stated, decode
from flow512.wire.streaming import Stream

BlockSink: TypeAlias = Callable[[bytes | bytearray, bytes], None]
"""
Takes the next block and the digest that came with it. The block belongs to the sink, which gives
it back to the buffers when it is done.
"""


class Incoming:
    """
    The frames of one stream, in order.
    """

    def __init__(self, wanted: Stream, buffers: BufferPool, sink: BlockSink) -> None:
        """
        @param wanted: what was asked for.
        @param buffers: where blocks are put together.
        @param sink: takes them.
        """
        self._wanted = wanted
        self._shape = Shape(wanted.size)
        self._buffers = buffers
        self._sink = sink
        self._block = wanted.first
        self._filled = 0  # bytes of it that came
        self._whole: bytes | bytearray | None = None

    def take(self, frame: Frame) -> Entry | None:
        """
        Take the next frame.

        @return: the entry, with its root, if it was the last.
        @raise BadFrame: it is not the one that has to come next.
        """
        if self._block == self._shape.blocks:
            return self._end(frame)
        length = self._shape.block_length(self._block)
        if self._filled < length:
            self._take_data(frame, length)
        else:
            self._take_digest(frame)
        return None

    def _take_data(self, frame: Frame, length: int) -> None:
        first = self._block * PIECES_PER_BLOCK + self._filled // PIECE
        due = min(self._wanted.run * PIECE, length - self._filled)
        if frame.kind != Kind.DATA or frame.position != first or len(frame.body) != due:
            raise BadFrame(
                f"{due} bytes from piece {first} on were called for; kind {frame.kind:#04x},"
                f" {len(frame.body)} bytes from {frame.position} on came."
            )
        if due == length:
            self._whole = frame.body
        else:
            if not isinstance(self._whole, bytearray):
                self._whole = self._buffers.take(length)
            self._whole[self._filled : self._filled + due] = frame.body
        self._filled += due

    def _take_digest(self, frame: Frame) -> None:
        is_it = frame.kind == Kind.DIGESTS and frame.position == self._block
        if not is_it or len(frame.body) != DIGEST:
            raise BadFrame(
                f"The digest of block {self._block} was called for; kind {frame.kind:#04x},"
                f" {len(frame.body)} bytes for {frame.position} came."
            )
        whole, self._whole = self._whole, None
        assert whole is not None
        self._block += 1
        self._filled = 0
        self._sink(whole, bytes(frame.body))

    def _end(self, frame: Frame) -> Entry:
        if frame.kind != Kind.ENTRY:
            raise BadFrame(f"ENTRY was called for; kind {frame.kind:#04x} came.")
        entry, wanted = decode(frame, Stated).entry, self._wanted
        is_it = (entry.path, entry.size, entry.mtime) == (wanted.path, wanted.size, wanted.mtime)
        if entry.root is None or not is_it:
            raise BadFrame("The entry that came is not of the file that was asked for.")
        return entry
