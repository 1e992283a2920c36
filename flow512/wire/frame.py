"""
Frames: how every TCP conversation is cut.

A frame is a fixed-size header, then the body::

     0        1                    4                 8                          16
    +--------+--------------------+-----------------+--------------------------+
    | kind   | length of the body | request         | position                    |
    +--------+--------------------+-----------------+--------------------------+

All integers are unsigned and big-endian. C{request} ties an answer to its question, 0 where
there is none. C{position} is the number of the first piece in a data frame, the number of the
page in a digests frame, and 0 in every other.

The reader is told which kinds may arrive now and how long each may be. It checks a header
against that before it takes a single byte of the body, so what it holds is never more than one
body of an allowed kind and one chunk of the transport's. What it finds never depends on how the
bytes were cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from flow512.errors import BadFrame

_HEADER: Final = Struct(">IIQ")

HEADER_SIZE: Final = _HEADER.size
"""Bytes in a header (16)."""

MAX_REQUEST: Final = 2**32 - 1
"""The largest request number."""


class Frame(NamedTuple):
    """
    One whole frame.

    @ivar kind: 0 to 255; a number of L{flow512.wire.messages.Kind}.
    @ivar request: 0 to L{MAX_REQUEST}.
    @ivar position: 0 to 2**64 - 1.
    @ivar body: the body, which belongs to whoever took the frame.
    """

    kind: int
    request: int
    position: int
    body: bytes | bytearray


def encode_header(kind: int, request: int, length: int, position: int = 0) -> bytes:
    """
    Make the 16 bytes that announce a body.

    @param kind: 0 to 255.
    @param request: 0 to L{MAX_REQUEST}.
    @param length: bytes in the body, 0 to 2**24 - 1.
    @param position: 0 to 2**64 - 1.
    """
    return _HEADER.pack(kind << 24 | length, request, position)


def encode_frame(kind: int, request: int, body: bytes, position: int = 0) -> bytes:
    """
    Make a whole frame; the parameters are those of L{encode_header}.
    """
    return _HEADER.pack(kind << 24 | len(body), request, position) + body


class BufferPool:
    """
    Buffers of a few sizes that are used again and again.

    Memory that is new to a process costs more, page by page, than all that is done with a block
    of data; so whoever is done with the body of a data frame gives it back.
    """

    def __init__(self, most: Mapping[int, int]) -> None:
        """
        @param most: for each size, in bytes, how many are kept while nobody needs them.
        """
        self._most = most
        self._idle: dict[int, list[bytearray]] = {size: [] for size in most}

    def take(self, length: int) -> bytearray:
        """
        Get a buffer of just this length, with anything in it.
        """
        idle = self._idle.get(length)
        return idle.pop() if idle else bytearray(length)

    def give_back(self, buffer: bytes | bytearray) -> None:
        """
        Let a buffer be used again. Nobody may hold it any longer.
        """
        idle = self._idle.get(len(buffer))
        if (
            idle is not None
            and isinstance(buffer, bytearray)
            and len(idle) < self._most[len(buffer)]
        ):
            idle.append(buffer)


class FrameReader:
    """
    Bytes in, frames out.

    Feed it with L{receive}, or L{body_room}, then take frames with L{next_frame} until there is
    none. Between two
    frames the caller may change L{allowed}, or stop taking: what has been received stays.

    @ivar allowed: for each kind that may arrive now, the most bytes that its body may have.
    """

    def __init__(self, allowed: Mapping[int, int], buffers: BufferPool | None = None) -> None:
        """
        @param allowed: see L{allowed}.
        @param buffers: where the bodies that came in several chunks are put together.
        """
        self.allowed = allowed
        self._buffers = buffers or BufferPool({})
        self._chunk: bytes = b""
        self._offset = 0
        self._header = b""  # the beginning of a header that a chunk cut in two
        self._body: bytearray | None = None  # a body that a chunk cut in two ...
        self._filled = 0  # ... and how much of it is here
        self._announced = (0, 0, 0)  # its kind, request and position

    def receive(self, data: bytes) -> None:
        """
        Take what the transport delivered.

        @param data: any number of bytes. They are not copied unless frames are left to be taken.
        """
        if self._offset < len(self._chunk):
            data = self._chunk[self._offset :] + data
        self._chunk = data
        self._offset = 0

    def next_frame(self) -> Frame | None:
        """
        Take the next whole frame.

        @return: the frame, or L{None} until more bytes are received.
        @raise BadFrame: its kind may not arrive now, or its body is too long. The stream cannot
            be read any further: every later call raises as well.
        """
        chunk = self._chunk
        offset = self._offset
        if self._body is not None and self._filled == len(self._body):
            body, self._body = self._body, None
            return Frame(*self._announced, body)
        if self._body is None:
            if self._header or len(chunk) - offset < HEADER_SIZE:
                missing = HEADER_SIZE - len(self._header)
                header = self._header + chunk[offset : offset + missing]
                if len(header) < HEADER_SIZE:
                    self._header = header
                    self._chunk, self._offset = b"", 0
                    return None
                first, request, position = _HEADER.unpack(header)
                offset += missing
            else:
                first, request, position = _HEADER.unpack_from(chunk, offset)
                offset += HEADER_SIZE
            kind = first >> 24
            length = first & 0xFFFFFF
            limit = self.allowed.get(kind)
            if limit is None or length > limit:
                raise _refusal(kind, length, limit)
            self._header = b""
            end = offset + length
            if end <= len(chunk):
                self._offset = end
                return Frame(kind, request, position, chunk[offset:end])
            self._body = self._buffers.take(length)
            self._filled = 0
            self._announced = (kind, request, position)
        body = self._body
        taken = min(len(body) - self._filled, len(chunk) - offset)
        body[self._filled : self._filled + taken] = memoryview(chunk)[offset : offset + taken]
        self._filled += taken
        if self._filled < len(body):
            self._chunk, self._offset = b"", 0
            return None
        self._offset = offset + taken
        self._body = None
        return Frame(*self._announced, body)

    def body_room(self) -> memoryview | None:
        """
        Give the place for the rest of the body that is being put together, for whoever can put
        bytes right there and then call L{body_filled}.

        @return: L{None} if no body has begun, or it is whole: what comes next is for L{receive}.
        """
        body = self._body
        if body is None or self._filled == len(body) or self._offset < len(self._chunk):
            return None
        return memoryview(body)[self._filled :]

    def body_filled(self, count: int) -> bool:
        """
        Bytes were put at the beginning of what L{body_room} gave last.

        @param count: how many.
        @return: whether the body is whole, so that L{next_frame} gives its frame.
        """
        assert self._body is not None
        self._filled += count
        return self._filled == len(self._body)

    @property
    def is_between_frames(self) -> bool:
        """Whether every byte received so far belongs to a frame that was taken."""
        return self._body is None and not self._header and self._offset == len(self._chunk)


def _refusal(kind: int, length: int, limit: int | None) -> BadFrame:
    if limit is None:
        return BadFrame(f"A frame of kind {kind:#04x} may not arrive here and now.")
    return BadFrame(
        f"A frame of kind {kind:#04x} announces {length} bytes; {limit} is the most it may have."
    )
