"""
Fuzz L{flow512.wire.frame}: any bytes, cut anywhere.

  - Only L{BadFrame} gets out, and once it did, nothing is read any more.
  - The frames, the error and where it stands are those that a plain reading of the whole finds,
    whether the bytes come whole, one by one, or in chunks of any size.
  - At no moment does the reader hold more than one body of an allowed kind and one chunk.
  - What was read is written as the bytes that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import atheris
from running import run

with atheris.instrument_imports(include=["flow512"]):
    from flow512.errors import BadFrame
    from flow512.wire import messages
    from flow512.wire.frame import HEADER_SIZE, BufferPool, Frame, FrameReader, encode_frame

TABLES: Final[tuple[dict[int, int], ...]] = (
    {1: 8, 2: 1000, 3: 0, 255: 24},
    messages.HELLO_ONLY,
    messages.HELLO_ANSWER,
    messages.TRANSFER_SERVER,
    messages.TRANSFER_CLIENT,
    messages.REGISTRY_SERVER,
    messages.REGISTRY_CLIENT,
    messages.CAPS,
)
"""What may arrive: short caps, and those of every moment of a conversation."""

Reading = tuple[list[Frame], bool, bool]
"""The frames, whether an error ended them, and whether the bytes end between two frames."""


def plainly(data: bytes, allowed: dict[int, int]) -> Reading:
    """Read frames as the layout says, with nothing in mind but to be obviously right."""
    frames: list[Frame] = []
    while len(data) >= HEADER_SIZE:
        kind, length = data[0], int.from_bytes(data[1:4], "big")
        if kind not in allowed or length > allowed[kind]:
            return frames, True, False
        if len(data) < HEADER_SIZE + length:
            break
        request = int.from_bytes(data[4:8], "big")
        position = int.from_bytes(data[8:16], "big")
        frames.append(Frame(kind, request, position, data[16 : 16 + length]))
        data = data[HEADER_SIZE + length :]
    return frames, False, not data


def held(reader: FrameReader) -> int:
    """Count the bytes in whatever buffers a reader has."""
    return sum(
        len(value) for value in vars(reader).values() if isinstance(value, (bytes, bytearray))
    )


def read(reader: FrameReader, chunks: Iterable[bytes], allowed: dict[int, int]) -> Reading:
    """Read frames with the reader, and watch what it holds."""
    frames = []
    most = max(allowed.values()) + HEADER_SIZE
    for chunk in chunks:
        reader.receive(chunk)
        try:
            while (frame := reader.next_frame()) is not None:
                frames.append(frame)
        except BadFrame:
            try:
                reader.next_frame()
            except BadFrame:
                return frames, True, False
            raise AssertionError("a broken stream was read on") from None
        assert held(reader) <= most + len(chunk), "too much is held"
    return frames, False, reader.is_between_frames


def cut(data: bytes, sizes: bytes) -> Iterable[bytes]:
    """Cut into chunks whose sizes follow each other in a circle; size 0 is an empty chunk."""
    place = turn = 0
    while place < len(data):
        size = sizes[turn % len(sizes)] % 40
        yield data[place : place + size]
        place += size
        turn += 1


def one_input(data: bytes) -> None:
    """The first byte chooses what may arrive and how the bytes are cut, then come the sizes."""
    if len(data) < 4:
        return
    how, sizes, stream = data[0], data[1:4], data[4:]
    allowed = TABLES[how % 8]
    expected = plainly(stream, allowed)
    found = read(FrameReader(allowed), (stream,), allowed)
    assert found == expected, "whole"
    written = b"".join(
        encode_frame(frame.kind, frame.request, bytes(frame.body), frame.position)
        for frame in found[0]
    )
    assert stream.startswith(written), "written otherwise than read"
    assert not found[2] or written == stream, "more was read than is there"
    reader = FrameReader(allowed, BufferPool({24: 2, 60: 1}) if how & 8 else None)
    single = (stream[place : place + 1] for place in range(len(stream)))
    chunks = single if how & 16 or not any(size % 40 for size in sizes) else cut(stream, sizes)
    assert read(reader, chunks, allowed) == expected, "in chunks"


if __name__ == "__main__":
    run("frames", one_input, 160)
