"""
A source, as a repair asks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.content.pieces import Span
from flow512.errors import Flow512Error
from flow512.transfer.blocks import BlockSource, Sink
from flow512.transfer.proof import Claim
from flow512.transfer.swarm import silent
from flow512.units import PIECES_PER_BLOCK

_T = TypeVar("_T")

READS: Final = 64
"""Runs of pieces that are asked for at the same time; with
L{flow512.transfer.mending.LANES}, what any source allows."""


class PieceSource(BlockSource, Protocol):
    """
    A source that may know the MD5s of pieces.
    """

    def pieces(self, root: bytes, block: int) -> Deferred[bytes]:
        """
        Ask for the MD5s of a block's pieces, one after the other.

        It fails with L{NotFound} or L{Unsupported} if the source cannot tell.
        """


class PieceClaim(Claim, Protocol):
    """
    The claim of one who may know the MD5s of pieces.
    """

    @property
    def source(self) -> PieceSource:
        """It, open."""


class MendingSource:
    """
    A source of which no more is asked at once than any allows, and not for ever.

    @ivar claim: what it says.
    @ivar source: it.
    @ivar has_heard: whether anything came of it lately.
    """

    def __init__(self, claim: PieceClaim, clock: IReactorTime, is_busy: Callable[[], bool]) -> None:
        """
        @param clock: for the deadline on one that is silent.
        @param is_busy: whether workers are, which are waited for just as well.
        """
        self.claim = claim
        self.source = claim.source
        self.has_heard = False
        self._clock = clock
        self._is_busy = is_busy
        self._places = DeferredSemaphore(READS)
        self._asked: dict[Deferred[Any], None] = {}
        self._dropped: Flow512Error | None = None
        self._timer: IDelayedCall | None = None

    def watch(self) -> None:
        """
        Begin to see whether it is silent.
        """
        self.has_heard = False
        self._timer = self._clock.callLater(self.source.patience.silence * 2, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.has_heard or not self._asked or self._is_busy():
            self.watch()
        else:
            self.drop(silent())

    def forget(self) -> None:
        """
        Care no more whether it is silent.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self, reason: Flow512Error) -> None:
        """
        Ask it for nothing any more; what it was asked for fails with this reason.
        """
        self.forget()
        self._dropped = reason
        for asked in list(self._asked):
            asked.cancel()

    async def ask(self, what: Callable[..., Deferred[_T]], *arguments: Any) -> _T:
        """
        Ask for something, and wait for the answer.

        @raise Flow512Error: the answer is that, or it was dropped, perhaps for its silence.
        """
        if self._dropped is not None:
            raise self._dropped
        asked = what(*arguments)
        self._asked[asked] = None
        try:
            answer = await asked
        except CancelledError:
            if self._dropped is not None:
                raise self._dropped from None
            raise
        finally:
            del self._asked[asked]
        self.has_heard = True
        return answer

    async def read(self, root: bytes, size: int, span: Span, sink: Sink) -> None:
        """
        Ask for pieces, when there is a place.

        @param sink: as for L{BlockSource.read}, but what it is given stays ours.
        @raise Flow512Error: as L{ask}.
        """

        def came(first: int, data: bytes | bytearray) -> None:
            self.has_heard = True
            sink(first, data)
            self.source.buffers.give_back(data)

        read = self.source.read
        await self.ask(self._places.run, read, root, size, *span, PIECES_PER_BLOCK, came)
