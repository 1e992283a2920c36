"""
Repairing a local file from a source that has the content which it ought to be::

    pages ──> every block is looked at ──> damaged?
      the damaged ones:  MD5s of their pieces ──> those that differ ──> block right? ──> stored
      then the others:   copied, verified ──> the replacement takes the file's place

A source that lies about pages is found out by the tree; one that lies about the MD5s of pieces
costs a block's bytes, since a block that is not right with the pieces that they led to is fetched
whole. What is fetched is so little, and what the disk reads so much, that one source does.

Memory: the digests of all blocks, 32 bytes for 256 KiB; and L{LANES} blocks that are being mended.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    FirstError,
    gatherResults,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from flow512.content.journal import BlockSet
from flow512.content.mending import DamagedBlock
from flow512.content.pieces import Span
from flow512.content.suspect import Damage, SuspectFile, damage_of
from flow512.content.tree import TreeVerifier
from flow512.errors import BadDigest, NotFound, Unsupported
from flow512.interfaces import RunBlocking
from flow512.transfer.blocks import BlockSource
from flow512.transfer.swarm import silent
from flow512.units import BLOCK, PIECES_PER_BLOCK
from flow512.wire.messages import Entry

_T = TypeVar("_T")

LOOK_AT: Final = 64
"""Blocks that one visit to a worker looks at, or copies (16 MiB); pages are a multiple of it."""

LANES: Final = 32
"""Blocks that are being mended at the same time (8 MiB)."""

READS: Final = 64
"""Runs of pieces that are asked for at the same time; with L{LANES}, what any source allows."""


class PieceSource(BlockSource, Protocol):
    """
    A source that may know the MD5s of pieces.
    """

    def pieces(self, root: bytes, block: int) -> Deferred[bytes]:
        """
        Ask for the MD5s of a block's pieces, one after the other.

        It fails with L{NotFound} or L{Unsupported} if the source cannot tell.
        """


@dataclass(frozen=True)
class Mended:
    """
    What became of a repair.

    @ivar damage: what was wrong.
    @ivar resumed: damaged blocks that an earlier repair had fetched.
    @ivar pieces: how many pieces were fetched.
    @ivar fetched: bytes that were fetched: pieces, and what it took to know which.
    """

    damage: Damage
    resumed: int
    pieces: int
    fetched: int


@dataclass(frozen=True)
class Mender:
    """
    Looks at local files, and repairs them.

    @ivar clock: for the deadline on a silent source.
    @ivar run_blocking: runs what waits for the disk.
    @ivar run_long: runs what reads whole files.
    """

    clock: IReactorTime
    run_blocking: RunBlocking
    run_long: RunBlocking

    async def look(
        self,
        source: PieceSource,
        entry: Entry,
        path: str,
        progress: Callable[[int], None] = lambda checked: None,
    ) -> Damage:
        """
        Find out what is wrong with a file; it is only read.

        @param source: an open one, whom nothing but pages is asked for.
        @param entry: what the source says of what the file ought to be.
        @param path: the file.
        @param progress: told how many bytes have been looked at.
        @raise NotFound: there is no such file, or the source has not the content.
        @raise Flow512Error: the file cannot be read, or the source lies, refuses or goes away.
        """
        async with _Job(self, source, entry, SuspectFile(path)) as job:
            return await job.look(progress)

    async def repair(
        self,
        source: PieceSource,
        entry: Entry,
        path: str,
        progress: Callable[[int], None] = lambda checked: None,
        found: Callable[[Damage], None] = lambda damage: None,
        suspect: SuspectFile | None = None,
    ) -> Mended:
        """
        Make a file what it ought to be. One that is gets left alone.

        @param found: told what is wrong, before it is put right.
        @param suspect: the file, if it is on a special disk.
        @return: what was done.
        @raise flow512.errors.StateInUse: somebody else repairs, downloads or changes it.
        @raise BadDigest: the source has not what it says it has.
        @raise Flow512Error: as L{look}; or there is no room for the replacement. After every
            error the file is as it was. What was mended until then is kept beside it, and the next
            repair goes on from there. So it is when this is cancelled.
        """
        async with _Job(self, source, entry, suspect or SuspectFile(path)) as job:
            damage = await job.look(progress)
            found(damage)
            resumed = 0 if damage.is_none else await job.mend(damage)
            return Mended(damage, resumed, job.pieces, job.fetched)


class _Job:
    """
    One file, one source. As a context, it ends when no worker is busy with the file any more.

    @ivar pieces: how many were fetched.
    @ivar fetched: bytes of them, and of all else that came.
    """

    def __init__(
        self, mender: Mender, source: PieceSource, entry: Entry, suspect: SuspectFile
    ) -> None:
        assert entry.root is not None
        self._mender = mender
        self._source = source
        self._root = entry.root
        self._mtime = entry.mtime
        self._suspect = suspect
        self._verifier = TreeVerifier(entry.root, entry.size)
        self._shape = self._verifier.shape
        self._places = DeferredSemaphore(READS)
        self._asked: dict[Deferred[Any], None] = {}
        self._workers = 0
        self._idle: Deferred[None] | None = None
        self._has_heard = False
        self._is_silent = False
        self._timer: IDelayedCall | None = None
        self._mended = 0
        self.pieces = 0
        self.fetched = 0

    async def __aenter__(self) -> _Job:
        self._watch()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._until_idle()
        self._work(self._mender.run_blocking, self._suspect.close)
        await self._until_idle()

    # The source, and the workers

    def _watch(self) -> None:
        self._has_heard = False
        self._timer = self._mender.clock.callLater(self._source.patience.silence * 2, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._has_heard or self._workers or not self._asked:
            self._watch()
            return
        self._is_silent = True
        for asked in list(self._asked):
            asked.cancel()

    async def _ask(self, asked: Deferred[_T]) -> _T:
        self._asked[asked] = None
        try:
            answer = await asked
        except CancelledError:
            if self._is_silent:
                raise silent() from None
            raise
        finally:
            del self._asked[asked]
        self._has_heard = True
        return answer

    def _work(self, run: RunBlocking, function: Callable[..., _T], *arguments: Any) -> Deferred[_T]:
        """
        Let a worker do something. It goes on when nobody waits for it any more.
        """
        result: Deferred[_T] = Deferred()
        self._workers += 1

        def ended(value: _T | Failure) -> None:
            self._workers -= 1
            self._has_heard = True
            if not result.called:
                result.callback(value)  # a Failure is an errback
            if self._idle is not None and not self._workers:
                idle, self._idle = self._idle, None
                idle.callback(None)

        run(function, *arguments).addBoth(ended)
        return result

    async def _until_idle(self) -> None:
        # Not even for somebody who is in a hurry is a file closed under a worker's hands.
        while self._workers:
            self._idle = Deferred()
            try:
                await self._idle
            except CancelledError:
                continue

    # Looking

    async def look(self, progress: Callable[[int], None]) -> Damage:
        """
        Find out what is wrong.
        """
        await self._work(self._mender.run_blocking, self._suspect.open)
        if not self._shape.blocks:
            self._verifier.add_page(0, 0, b"")
        damaged = BlockSet()
        for blocks in self._parts():
            while (page := self._verifier.wanted(blocks.start)) is not None:
                data = await self._ask(self._source.page(self._root, *page))
                self.fetched += len(data)
                self._verifier.add_page(*page, data)
            digests = self._digests(blocks)
            for block in await self._work(
                self._mender.run_long, self._suspect.damaged, self._shape, blocks.start, digests
            ):
                damaged.add(block)
            progress(min(blocks.stop * BLOCK, self._shape.size))
        return damage_of(self._shape.size, self._suspect.size, damaged)

    def _parts(self) -> Iterator[range]:
        count = self._shape.blocks
        return (range(first, min(first + LOOK_AT, count)) for first in range(0, count, LOOK_AT))

    def _digests(self, blocks: range) -> list[bytes]:
        digests = []
        for block in blocks:
            digest = self._verifier.expects(block)
            assert digest is not None
            digests.append(digest)
        return digests

    # Mending

    async def mend(self, damage: Damage) -> int:
        """
        Put it right.

        @return: how many of its blocks were right in what an earlier repair had left.
        """
        in_place = await self._work(
            self._mender.run_blocking, self._suspect.begin, self._root, self._shape.size
        )
        todo = (
            block
            for first, count in damage.runs
            for block in range(first, first + count)
            if block not in in_place
        )
        await _all([self._lane(todo) for _ in range(min(LANES, damage.blocks))])
        for blocks in self._parts():
            digests = self._digests(blocks)
            await self._work(
                self._mender.run_long, self._suspect.copy, self._shape, blocks.start, digests
            )
        await self._work(self._mender.run_blocking, self._suspect.replace, self._mtime)
        return damage.blocks - self._mended

    async def _lane(self, todo: Iterator[int]) -> None:
        for block in todo:
            await self._mend_block(block)
            self._mended += 1

    async def _mend_block(self, block: int) -> None:
        room = self._source.buffers.take(self._shape.block_length(block))
        damaged = DamagedBlock(block, room)
        [digest] = self._digests(range(block, block + 1))
        spans = [damaged.whole]
        if block * BLOCK < self._suspect.size:
            ours = await self._work(
                self._mender.run_blocking, self._suspect.read_block, block, room
            )
            if ours:
                spans = damaged.damaged_spans(ours, await self._md5s_of_pieces(block))
        await self._fetch(damaged, spans)
        while not await self._work(
            self._mender.run_blocking, self._suspect.put, block, room, digest
        ):
            if spans == [damaged.whole]:
                raise BadDigest(
                    f"The source sent a damaged block {block}; repair from another source."
                )
            spans = [damaged.whole]
            await self._fetch(damaged, spans)
        self._source.buffers.give_back(room)

    async def _md5s_of_pieces(self, block: int) -> bytes:
        try:
            theirs = await self._ask(self._source.pieces(self._root, block))
        except (NotFound, Unsupported):
            return b""
        self.fetched += len(theirs)
        return theirs

    async def _fetch(self, damaged: DamagedBlock, spans: Sequence[Span]) -> None:
        def came(first: int, data: bytes | bytearray) -> None:
            self._has_heard = True
            self.fetched += len(data)
            damaged.put(first, data)
            self._source.buffers.give_back(data)

        async def fetch(span: Span) -> None:
            await self._ask(
                self._places.run(
                    self._source.read, self._root, self._shape.size, *span, PIECES_PER_BLOCK, came
                )
            )
            self.pieces += span.pieces

        await _all([fetch(span) for span in spans])


async def _all(steps: Sequence[Coroutine[Deferred[Any], Any, None]]) -> None:
    """
    Take steps at the same time; when one fails, the others are cancelled.
    """
    running = [Deferred.fromCoroutine(step) for step in steps]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for each in running:
            each.cancel()
