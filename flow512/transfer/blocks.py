"""
What a download needs of a source of blocks, whatever it speaks: a node, or a web server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred

from flow512.link.conversation import Patience
from flow512.units import BLOCK, LONGEST_RUN, PIECES_PER_BLOCK
from flow512.wire.frame import BufferPool

Sink: TypeAlias = Callable[[int, bytes | bytearray], None]
"""
Takes the number of the first piece, and the pieces. They belong to the sink, which gives them
back to L{BlockSource.buffers} when it is done.
"""


def buffers_for(blocks: int) -> BufferPool:
    """
    Make a pool for the bodies of data frames.

    @param blocks: so many are kept while nobody needs them, in buffers of one; and about as many
        in those of several.
    """
    several = range(2, LONGEST_RUN // PIECES_PER_BLOCK + 1)
    return BufferPool({BLOCK: blocks} | {n * BLOCK: blocks // (2 * n) for n in several})


class BlockSource(Protocol):
    """
    Somebody to ask for pages and pieces of a content. Nothing of what it sends is believed.

    Every method that asks gives a L{Deferred}. It fails with
    L{NotFound<flow512.errors.NotFound>} or L{Unsupported<flow512.errors.Unsupported>} if the
    source cannot do this one thing, so that another is asked for it; with any other
    L{Flow512Error<flow512.errors.Flow512Error>} if it is of no use for this content. Cancelling
    it says that nobody wants the answer any more: the sink is not called again.

    @ivar buffers: where blocks are put together; whoever is done with one gives it back.
    @ivar patience: how long a source may be silent.
    """

    buffers: BufferPool
    patience: Patience

    @property
    def is_held_back(self) -> bool:
        """Whether this side does not read what it sends now; so it may not be silent."""

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        """
        Ask for a page of digests; it is yet to be proven.
        """

    def checksum(self, root: bytes) -> Deferred[bytes]:
        """
        Ask for the MD5 of a content; the answer may take as long as computing it does.
        """

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        """
        Ask for pieces.

        @param size: the bytes of the whole content.
        @param first: the number of the first piece.
        @param count: how many, 1 to L{flow512.wire.messages.MAX_READ}, all inside the content.
        @param run: how many may come at once, 1 to L{flow512.units.LONGEST_RUN}.
        @param sink: called with pieces in order, before the result fires. What it is given ends
            at the end of a block, or has C{run} pieces and is part of one; it is of several
            blocks only if C{run} is more than L{flow512.units.PIECES_PER_BLOCK}.
        @return: fires with L{None} when all have come.
        """

    def leave(self) -> None:
        """
        End the conversation; what was asked for fails.
        """


class Onlooker(Protocol):
    """
    Somebody who is told what a download has, as it comes.
    """

    def page_proven(self, level: int, index: int, page: bytes) -> None:
        """
        A page of digests has come, and is proven.
        """

    def blocks_stored(self, blocks: Iterable[int]) -> None:
        """
        Blocks were verified, and are in the partial file.

        @param blocks: their numbers.
        """
