"""
Repairing a local file from sources that have the content which it ought to be::

    pages ──> every block is looked at ──> damaged?
      the damaged ones:  MD5s of their pieces ──> those that differ ──> block right? ──> stored
      then the others:   copied, verified ──> the replacement takes the file's place

Pages come from one source, as long as it answers; blocks are mended with one source each, in turn.
A source that refuses, is silent or goes away is left out, and what it was asked for is asked of the
others. One that lies about pages is found out by the tree. If a block is not right with what one
source said and sent, that source has lied about the MD5s or the pieces, and is left out with the
blame; the next one's MD5s tell which pieces are wrong now, and only those come again. When there is
no other, a lie about MD5s costs a block's bytes: it is fetched whole.

Memory: the digests of all blocks, 32 bytes for 256 KiB; and L{LANES} blocks that are being mended.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    gatherResults,
)
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from flow512.content.journal import BlockSet
from flow512.content.mending import DamagedBlock, piece_md5s
from flow512.content.pieces import Span
from flow512.content.suspect import Damage, SuspectFile, damage_of
from flow512.content.tree import TreeVerifier
from flow512.errors import (
    BadDigest,
    Flow512Error,
    NotFound,
    Refusal,
    Unreachable,
    Unsupported,
    Violation,
)
from flow512.interfaces import RunBlocking
from flow512.transfer.finding import Candidate
from flow512.transfer.mending_source import MendingSource, PieceClaim
from flow512.transfer.senders import telling_most
from flow512.units import BLOCK

_T = TypeVar("_T")

LOOK_AT: Final = 64
"""Blocks that one visit to a worker looks at, or copies (16 MiB); pages are a multiple of it."""

LANES: Final = 32
"""Blocks that are being mended at the same time (8 MiB)."""

_THEIRS: Final = (Refusal, Unreachable, Violation)
"""Errors for which a source is left out, and another one asked."""


class Mended(msgspec.Struct, frozen=True):
    """
    What became of a repair.

    @ivar root: what the file is now.
    @ivar damage: what was wrong.
    @ivar resumed: damaged blocks that an earlier repair had fetched.
    @ivar pieces: how many pieces were fetched.
    @ivar fetched: bytes that were fetched: pieces, and what it took to know which.
    """

    root: bytes
    damage: Damage
    resumed: int
    pieces: int
    fetched: int


class Mender(msgspec.Struct, frozen=True):
    """
    Looks at local files, and repairs them.

    @ivar clock: for the deadline on silent sources.
    @ivar run_blocking: runs what waits for the disk.
    @ivar run_long: runs what reads whole files.
    @ivar blame: told who sent something wrong, and what.
    """

    clock: IReactorTime
    run_blocking: RunBlocking
    run_long: RunBlocking
    blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None

    async def look(
        self,
        sources: Sequence[PieceClaim],
        path: str,
        progress: Callable[[int], None] = lambda checked: None,
    ) -> Damage:
        """
        Find out what is wrong with a file; it is only read.

        @param sources: open ones, at least one, with what each says of what the file ought to be;
            all say that it has the same root. Those who fail or lie are left.
        @param path: the file.
        @param progress: told how many bytes have been looked at.
        @raise NotFound: there is no such file, or no source has the content.
        @raise Flow512Error: the file cannot be read, or every source lies, refuses or goes away.
        """
        async with _Job(self, sources, SuspectFile(path)) as job:
            return await job.look(progress)

    async def repair(
        self,
        sources: Sequence[PieceClaim],
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
        @raise BadDigest: no source has what it says it has.
        @raise Flow512Error: as L{look}; or there is no room for the replacement. After every
            error the file is as it was. What was mended until then is kept beside it, and the next
            repair goes on from there. So it is when this is cancelled.
        """
        async with _Job(self, sources, suspect or SuspectFile(path)) as job:
            damage = await job.look(progress)
            found(damage)
            resumed = 0 if damage.is_none else await job.mend(damage)
            return Mended(job.root, damage, resumed, job.pieces, job.fetched)


class _Job:
    """
    One file. As a context, it ends when no worker is busy with the file any more.

    @ivar root: what it ought to be.
    @ivar pieces: how many were fetched.
    @ivar fetched: bytes of them, and of all else that came.
    """

    _verifier: TreeVerifier

    def __init__(self, mender: Mender, sources: Sequence[PieceClaim], suspect: SuspectFile) -> None:
        root = sources[0].entry.root
        assert root is not None
        self._mender = mender
        self._senders = [MendingSource(each, mender.clock, self._is_busy) for each in sources]
        self._reasons: list[Flow512Error] = []
        self._turn = 0
        self._buffers = sources[0].source.buffers
        self._suspect = suspect
        self._workers = 0
        self._idle: Deferred[None] | None = None
        self._mended = 0
        self.root = root
        self.pieces = 0
        self.fetched = 0

    async def __aenter__(self) -> _Job:
        for sender in self._senders:
            sender.watch()
        return self

    async def __aexit__(self, *error: object) -> None:
        for sender in self._senders:
            sender.forget()
        await self._until_idle()
        self._work(self._mender.run_blocking, self._suspect.close)
        await self._until_idle()

    # The sources, and the workers

    def _choose(self) -> MendingSource:
        self._turn += 1
        return self._senders[self._turn % len(self._senders)]

    def _give_up(self, sender: MendingSource, reason: Flow512Error) -> None:
        """
        Ask somebody else from now on.

        @raise Flow512Error: there is nobody else; the reason that tells most.
        """
        # Others may have been asking it just as well.
        if sender in self._senders:
            self._senders.remove(sender)
            self._reasons.append(reason)
            sender.drop(reason)
            if isinstance(reason, Violation):
                self._mender.blame(sender.claim.candidate, reason)
        if not self._senders:
            raise telling_most(self._reasons)

    def _is_busy(self) -> bool:
        return bool(self._workers)

    def _work(self, run: RunBlocking, function: Callable[..., _T], *arguments: Any) -> Deferred[_T]:
        """
        Let a worker do something. It goes on when nobody waits for it any more.
        """
        result: Deferred[_T] = Deferred()
        self._workers += 1

        def ended(value: _T | Failure) -> None:
            self._workers -= 1
            for sender in self._senders:
                sender.has_heard = True
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
        await self._settle()
        damaged = BlockSet()
        for blocks in self._parts():
            while (page := self._verifier.wanted(blocks.start)) is not None:
                sender = self._senders[0]
                try:
                    await self._add_page(sender, self._verifier, page)
                except _THEIRS as error:
                    self._give_up(sender, error)
            digests = self._digests(blocks)
            for block in await self._work(
                self._mender.run_long, self._suspect.damaged, self._shape, blocks.start, digests
            ):
                damaged.add(block)
            progress(min(blocks.stop * BLOCK, self._shape.size))
        return damage_of(self._shape.size, self._suspect.size, damaged)

    async def _settle(self) -> None:
        """
        Find out what size is true: the first page that is right proves that of who sent it.
        """
        while True:
            sender = self._senders[0]
            self._mtime = sender.claim.entry.mtime
            self._verifier = TreeVerifier(self.root, sender.claim.entry.size)
            self._shape = self._verifier.shape
            try:
                if self._shape.blocks:
                    page = self._verifier.wanted(0)
                    assert page is not None
                    await self._add_page(sender, self._verifier, page)
                else:
                    self._verifier.add_page(0, 0, b"")
                break
            except _THEIRS as error:
                self._give_up(sender, error)
        for other in self._senders[1:]:
            if other.claim.entry.size != self._shape.size:
                self._give_up(other, BadDigest("The source told a wrong size of the content."))

    async def _add_page(
        self, sender: MendingSource, verifier: TreeVerifier, page: tuple[int, int]
    ) -> None:
        data = await sender.ask(sender.source.page, self.root, *page)
        self.fetched += len(data)
        verifier.add_page(*page, data)

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
            self._mender.run_blocking, self._suspect.begin, self.root, self._shape.size
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
        room = self._buffers.take(self._shape.block_length(block))
        damaged = DamagedBlock(block, room)
        ours = b""
        if block * BLOCK < self._suspect.size:
            ours = await self._work(
                self._mender.run_blocking, self._suspect.read_block, block, room
            )
        while True:
            sender = self._choose()
            try:
                if await self._mend_by(sender, damaged, ours):
                    break
                raise BadDigest(f"The source sent a damaged block {block}.")
            except _THEIRS as error:
                self._give_up(sender, error)
            # Whatever of it is right now need not come again.
            ours = await self._work(self._mender.run_blocking, piece_md5s, room)
        self._buffers.give_back(room)

    async def _mend_by(self, sender: MendingSource, damaged: DamagedBlock, ours: bytes) -> bool:
        """
        Mend a block with one source.

        @param ours: the MD5s of what is here of it.
        @return: whether it is right.
        """
        spans = [damaged.whole]
        if ours:
            spans = damaged.damaged_spans(ours, await self._md5s_of_pieces(sender, damaged.block))
        await self._fetch(sender, damaged, spans)
        if await self._put(damaged):
            return True
        if spans == [damaged.whole] or len(self._senders) > 1:
            return False
        await self._fetch(sender, damaged, [damaged.whole])
        return await self._put(damaged)

    def _put(self, damaged: DamagedBlock) -> Deferred[bool]:
        [digest] = self._digests(range(damaged.block, damaged.block + 1))
        return self._work(
            self._mender.run_blocking, self._suspect.put, damaged.block, damaged.data, digest
        )

    async def _md5s_of_pieces(self, sender: MendingSource, block: int) -> bytes:
        try:
            theirs = await sender.ask(sender.source.pieces, self.root, block)
        except (NotFound, Unsupported):
            return b""
        self.fetched += len(theirs)
        return theirs

    async def _fetch(
        self, sender: MendingSource, damaged: DamagedBlock, spans: Sequence[Span]
    ) -> None:
        def came(first: int, data: bytes | bytearray) -> None:
            self.fetched += len(data)
            damaged.put(first, data)

        async def fetch(span: Span) -> None:
            await sender.read(self.root, self._shape.size, span, came)
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
