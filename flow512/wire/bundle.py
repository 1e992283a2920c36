"""
Many small files in few frames: the request for them, and what comes.

BUNDLE names contents by their roots. PARCEL frames answer, in the order of the request: the
position of each is the number of its first content, from 0, and its body those contents, whole, one
after the other, each behind its length. When all have come, the request has ended.
"""

from __future__ import annotations

from struct import Struct
from typing import Annotated, Final

from msgspec import Meta

from flow512.errors import BadFrame
from flow512.units import BLOCK
from flow512.wire.fields import Digest, Message

MAX_BUNDLE: Final = 400
"""Contents that one BUNDLE may ask for."""

MAX_BUNDLED: Final = 64 * 1024
"""The most bytes of a content that travels in a parcel."""

_LENGTH: Final = Struct(">I")
_MISSING: Final = 2**32 - 1


class Bundle(Message, frozen=True):
    """
    Send me these contents whole, each of at most L{MAX_BUNDLED} bytes.

    @ivar roots: which.
    """

    roots: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=MAX_BUNDLE)]


class Parcel:
    """
    The body of a parcel, made in a buffer that is there already.

    @ivar count: contents in it, those that are missing among them.
    @ivar size: bytes in it.
    """

    def __init__(self, buffer: bytearray) -> None:
        """
        @param buffer: as long as the body may be: a L{BLOCK}, on the wire.
        """
        self._buffer = memoryview(buffer)
        self.count = 0
        self.size = 0

    @property
    def body(self) -> memoryview:
        """What has been put into it."""
        return self._buffer[: self.size]

    def room(self, size: int) -> memoryview | None:
        """
        Say where the next content may be written.

        @param size: its bytes, at most L{MAX_BUNDLED}.
        @return: just as long; L{None} if it does not fit.
        """
        start = self.size + _LENGTH.size
        return self._buffer[start : start + size] if start + size <= len(self._buffer) else None

    def add(self, size: int) -> None:
        """
        Put a content in.

        @param size: its bytes, which are where L{room} said.
        """
        self._put(size, size)

    def leave_out(self) -> None:
        """
        Say that the next content is missing; there must be L{room} for an empty one.
        """
        self._put(_MISSING, 0)

    def _put(self, length: int, size: int) -> None:
        _LENGTH.pack_into(self._buffer, self.size, length)
        self.size += _LENGTH.size + size
        self.count += 1


def unpack(body: bytes | bytearray | memoryview) -> list[memoryview | None]:
    """
    Take a parcel apart, without a copy.

    @return: the contents, at least one; L{None} for one that the sender does not have.
    @raise BadFrame: it is none.
    """
    view = memoryview(body)
    contents: list[memoryview | None] = []
    at = 0
    while at < len(view):
        if len(view) - at < _LENGTH.size:
            raise BadFrame("A parcel ends in the middle of a length.")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length == _MISSING:
            contents.append(None)
            continue
        if length > MAX_BUNDLED or length > len(view) - at:
            raise BadFrame(f"A parcel announces a content of {length} bytes, which it cannot have.")
        contents.append(view[at : at + length])
        at += length
    if not contents:
        raise BadFrame("A parcel came with nothing in it.")
    return contents


assert MAX_BUNDLED + _LENGTH.size <= BLOCK, "a parcel holds at least one content"
