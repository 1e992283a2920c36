"""
Many small files in few frames: the request for them, and what comes.

BUNDLE names contents by their roots. PARCEL frames answer, in the order of the request: the
position of each is the number of its first content, from 0, and its body those contents, whole, one
after the other, each behind its length. When all have come, the request has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def parcel_size(contents: Iterable[bytes | None]) -> int:
    """
    Say how many bytes a parcel has that holds these.
    """
    return sum(_LENGTH.size + len(content or b"") for content in contents)


def pack(contents: Iterable[bytes | None]) -> bytes:
    """
    Make the body of a parcel.

    @param contents: each of at most L{MAX_BUNDLED} bytes, all together of at most L{BLOCK} with
        four more each; L{None} for one that the sender does not have.
    """
    parts: list[bytes] = []
    for content in contents:
        parts.append(_LENGTH.pack(_MISSING if content is None else len(content)))
        if content is not None:
            parts.append(content)
    return b"".join(parts)


def unpack(body: bytes | bytearray) -> list[memoryview | None]:
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
