"""
The messages by which nodes learn who holds which content, and which parts of it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from flow512.units import BLOCK, MAX_FILE_SIZE
from flow512.wire.fields import MAX_PEERS, MAX_ROOTS, MAX_RUNS, Digest, Message, Peer, Port

Block = Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE // BLOCK)]
Count = Annotated[int, Meta(ge=1, le=MAX_FILE_SIZE // BLOCK)]
Roots = Annotated[tuple[Digest, ...], Meta(max_length=MAX_ROOTS)]


class Hold(Message, frozen=True):
    """
    A node tells its registry which contents it holds, or holds parts of. There is no answer; the
    registry forgets them all when the node is listed no longer.

    @ivar added: roots that it holds from now on.
    @ivar removed: roots that it holds no longer.
    """

    added: Roots
    removed: Roots = ()


class Who(Message, frozen=True):
    """
    Who holds this content, or parts of it? Asked of a registry, and of any node.

    @ivar root: the content.
    @ivar port: where the sender itself gives what it holds of it, to a node; 0 if nowhere. That
        counts until it asks anew, or the conversation ends.
    """

    root: Digest
    port: Port = 0


class Holders(Message, frozen=True):
    """
    The answer to WHO: some of those who do, in no order. Nobody vouches for them.
    """

    peers: Annotated[tuple[Peer, ...], Meta(max_length=MAX_PEERS)]


class Watch(Message, frozen=True):
    """
    Which blocks of this content do you have, now and from now on? BLOCKS answers, several times;
    CANCEL ends it.
    """

    root: Digest


class Blocks(Message, frozen=True):
    """
    The answer to WATCH. The first comes at once, and tells all; those that follow tell of what was
    added since.

    @ivar runs: first block and count of each run of blocks, in order, none twice.
    @ivar is_all: the sender has every block of the content now; nothing follows.
    """

    runs: Annotated[tuple[tuple[Block, Count], ...], Meta(max_length=MAX_RUNS)]
    is_all: bool = False


class PiecesRequest(Message, frozen=True):
    """
    What are the MD5s of a block's pieces? They prove nothing: they only tell which pieces to ask
    for, and the block is verified afterwards.

    @ivar root: the content.
    @ivar block: which of its blocks.
    """

    root: Digest
    block: Block
