"""
A file whose root nobody knows yet: the request for it.

STREAM names a file by its path, and by the size and mtime that STAT told of it. DATA frames
answer, from a block on to the file's end, and after each block a DIGESTS frame with its digest,
whose position is the block's number; then an ENTRY, which has the root by now, is the end.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from flow512.units import PIECES_PER_BLOCK
from flow512.wire.fields import Message, Path, Size


class Stream(Message, frozen=True):
    """
    Send me this file, from a block on to its end; hash it meanwhile, and then tell me its root.

    @ivar path: the file's.
    @ivar size: bytes, as STAT told.
    @ivar mtime: likewise.
    @ivar first: the first block that is wanted; as many as there are if only the root is.
    @ivar run: at most so many pieces in a data frame.
    """

    path: Path
    size: Size
    mtime: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    first: Annotated[int, Meta(ge=0, le=2**45 - 1)] = 0
    run: Annotated[int, Meta(ge=1, le=PIECES_PER_BLOCK)] = PIECES_PER_BLOCK
