"""
A download: the blocks of one content, from a source into a partial file::

    page or block asked for ──> frame ──> block whole ──> arrived ──> verified and written
          │     (Plan decides)    (Source judges its shape)     (a worker, in batches)
          └── a source that sends nothing at all for Patience.silence * 2 is given up

States: C{fetching} until every block is stored; C{summing} until the MD5 has followed; then
C{done}. Any error leads to C{failed}: nothing more is asked for, and the result fires at once; but
a worker may be busy with the partial file still, so wait for L{Download.idle} before closing it.

Flow control. L{Plan}'s window bounds what is asked for and not yet stored, and so all that can be
in memory here. One worker stores at a time, and takes with it everything that has arrived; a
slow disk so makes the batches larger, and then the window stops the asking. The MD5 follows
behind the first block that is missing, in a worker of its own, reading what was just written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from hashlib import md5
from itertools import groupby, takewhile
from typing import Any, Final, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.partial import Partial
from flow512.content.tree import TreeVerifier, block_digest
from flow512.errors import BadDigest, Cancelled, DiskFailure, Flow512Error, TimedOut
from flow512.interfaces import RunBlocking
from flow512.transfer.plan import AskBlocks, AskPage, Plan
from flow512.transfer.source import SourceProtocol, silent
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK

_T = TypeVar("_T")

SUM_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes that one visit to the worker adds to the MD5."""

RECORD_EVERY: Final = 16
"""Blocks that may be stored and not yet in the journal (4 MiB)."""


CHECKSUM_WITHIN: Final = 600.0
"""
Seconds for which a download that has every block waits for the MD5, if its source is silent. The
source makes it while it serves, so it is late only if it does so much slower than it sends.
"""


GATHER: Final = 8
"""
Blocks that are stored together, if they come fast: to hand one to a worker costs about as much as
to verify it.
"""

GATHER_FOR: Final = 0.02
"""Seconds that a block waits for others."""


_Arrived: TypeAlias = tuple[int, bytes | bytearray, bytes]
"""A block's number, its bytes, and the digest that it has to have."""


def _in_a_row(blocks: list[_Arrived]) -> Iterator[list[_Arrived]]:
    """Part blocks where one does not follow the other."""
    for _, run in groupby(enumerate(blocks), lambda each: each[1][0] - each[0]):
        yield [block for _, block in run]


class DamagedPartial(DiskFailure):
    """A partial file is not what its journal says."""


class Checksum(Enum):
    """What is compared at the end, beyond the tree."""

    MD5 = "md5"
    NONE = "none"


class Download:
    """
    Fetches what a partial file lacks.

    @ivar stored: bytes that are verified and in place.
    @ivar resumed: bytes that were there, by the journal, before it began.
    @ivar fetched: bytes that this download received.
    @ivar md5: of the whole content, once it is done and if it was wanted.
    """

    log = Logger()

    def __init__(
        self,
        source: SourceProtocol,
        partial: Partial,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        run_long: RunBlocking,
        *,
        verifier: TreeVerifier | None = None,
        run: int = PIECES_PER_BLOCK,
        checksum: Checksum = Checksum.MD5,
        progress: Callable[[Download], None] = lambda _: None,
    ) -> None:
        """
        @param source: an open one, which has the content.
        @param partial: where it goes; whoever opened it closes it afterwards.
        @param clock: for the deadline on a silent source.
        @param run_blocking: runs what writes to the disk.
        @param run_long: runs the MD5.
        @param verifier: of the same content, with what is proven of it; a new one unless given.
        @param run: pieces that a frame may carry, 1 to L{PIECES_PER_BLOCK}.
        @param checksum: whether to ask for the MD5 and compare it.
        @param progress: called whenever L{stored} has grown.
        """
        self._source = source
        self._partial = partial
        self._clock = clock
        self._run_blocking = run_blocking
        self._run_long = run_long
        self._run = run
        self._progress = progress
        self._verifier = verifier or TreeVerifier(partial.root, partial.size)
        self._plan = Plan(self._verifier, partial.missing_runs(), partial.unproven)
        self._result: Deferred[None] = Deferred(
            lambda _: self._fail(Cancelled("The download was stopped."))
        )
        self._has_failed = False
        self._asked: dict[Deferred[Any], None] = {}
        self._in_parts: dict[int, bytearray] = {}
        self._arrived: list[_Arrived] = []
        self._is_storing = False
        self._gathering: IDelayedCall | None = None
        self._is_summing = False
        self._workers = 0
        self._waiting_for_idle: list[Deferred[None]] = []
        self._hash = md5(usedforsecurity=False) if checksum is Checksum.MD5 else None
        self._summed = 0
        self._their_md5: bytes | None = None
        self._heard = False
        self._silent_for = 0.0
        self._timer: IDelayedCall | None = None
        self.stored = partial.stored
        self.resumed = self.stored
        self.fetched = 0
        self.md5: bytes | None = None

    def start(self) -> Deferred[None]:
        """
        Begin.

        @return: fires when the partial file is whole and verified. Fails with
            L{BadDigest} if the source sent something else than the content,
            L{flow512.errors.Refusal} if it would not send it, L{flow512.errors.Unreachable} if it
            went away, L{flow512.errors.ResourceFailure} if this machine could not store it; the
            partial file then keeps all that was stored. Cancelling it stops the download.
        """
        self._watch()
        try:
            if not self._partial.blocks:
                # No page will come that could prove that a content of no bytes has this root.
                self._verifier.add_page(0, 0, b"")
        except BadDigest as error:
            self._fail(error)
            return self._result
        if self._hash is not None:
            self._ask(self._source.checksum(self._partial.root), self._checksum_came)
        self._advance()
        return self._result

    def idle(self) -> Deferred[None]:
        """
        Wait until no worker is busy with the partial file.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting_for_idle.append(waiting)
        self._tell_if_idle()
        return waiting

    # Workers

    def _work(
        self,
        result: Deferred[_T],
        ended: Callable[[_T], None],
    ) -> None:
        self._workers += 1

        def done(value: _T | Failure) -> _T | Failure:
            self._workers -= 1
            self._heard = True
            return value

        # What follows may have more work for a worker.
        result.addBoth(done).addCallback(ended).addErrback(self._fail).addBoth(self._tell_if_idle)

    def _tell_if_idle(self, _: None = None) -> None:
        if not self._workers:
            waiting, self._waiting_for_idle = self._waiting_for_idle, []
            for each in waiting:
                each.callback(None)

    # Asking

    def _ask(self, asked: Deferred[_T], came: Callable[[_T], None]) -> None:
        self._asked[asked] = None

        def ended(result: _T | Failure) -> _T | Failure:
            self._asked.pop(asked, None)
            return result

        asked.addBoth(ended).addCallback(came).addErrback(self._fail)

    def _advance(self) -> None:
        while not self._has_failed:
            action = self._plan.next_action()
            if action is None:
                break
            if isinstance(action, AskPage):
                self._ask_page(action.level, action.index)
            elif isinstance(action, AskBlocks):
                self._ask_blocks(action)
            else:
                self._check(range(action.first, action.first + action.count))
        self._sum()
        self._finish_if_done()

    def _ask_page(self, level: int, index: int) -> None:
        def came(page: bytes) -> None:
            self._heard = True
            self._verifier.add_page(level, index, page)
            self._plan.page_came(level, index)
            self._advance()

        self._ask(self._source.page(self._partial.root, level, index), came)

    def _ask_blocks(self, blocks: AskBlocks) -> None:
        first = blocks.first * PIECES_PER_BLOCK
        size = self._partial.size
        end = min((blocks.first + blocks.count) * BLOCK, size)
        count = -(-end // PIECE) - first
        digests = self._digests(range(blocks.first, blocks.first + blocks.count))

        def came(first: int, data: bytes | bytearray) -> None:
            self._pieces_came(first, data, digests[first // PIECES_PER_BLOCK - blocks.first])

        self._ask(
            self._source.read(self._partial.root, size, first, count, self._run, came),
            lambda _: None,
        )

    def _digests(self, blocks: range) -> list[bytes]:
        # They are taken when something is asked for: the plan may forget their page after that.
        digests = []
        for block in blocks:
            digest = self._verifier.expects(block)
            assert digest is not None
            digests.append(digest)
        return digests

    def _checksum_came(self, theirs: bytes) -> None:
        self._their_md5 = theirs
        self._finish_if_done()

    # Receiving

    def _pieces_came(self, first: int, data: bytes | bytearray, expected: bytes) -> None:
        if self._has_failed:
            return
        self._heard = True
        self.fetched += len(data)
        block, piece = divmod(first, PIECES_PER_BLOCK)
        length = self._verifier.shape.block_length(block)
        if len(data) < length:
            whole = self._in_parts.get(block)
            if whole is None:
                whole = self._in_parts[block] = self._source.buffers.take(length)
            end = piece * PIECE + len(data)
            whole[piece * PIECE : end] = data
            if end < length:
                return
            data = self._in_parts.pop(block)
        self._arrived.append((block, data, expected))
        if len(self._arrived) >= GATHER:
            self._store()
        elif self._gathering is None:
            self._gathering = self._clock.callLater(GATHER_FOR, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._store()

    def _store(self) -> None:
        if self._is_storing or not self._arrived:
            return
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        batch, self._arrived = self._arrived, []
        self._is_storing = True

        def ended(_: None) -> None:
            self._is_storing = False
            for _block, data, _digest in batch:
                self._source.buffers.give_back(data)
            self._plan.stored(len(batch))
            self._grown()
            if self._has_failed or len(self._arrived) >= GATHER or self._gathering is None:
                self._store()

        self._work(self._run_blocking(self._store_blocks, batch), ended)

    def _store_blocks(self, batch: list[_Arrived]) -> None:
        # In a worker. Each call of the system lets the reactor's thread run, and then has to wait
        # for it; so few are made. What was right before something went wrong is kept.
        right = list(takewhile(lambda each: block_digest(each[1]) == each[2], batch))
        for at in range(0, len(right), RECORD_EVERY):
            together = right[at : at + RECORD_EVERY]
            for run in _in_a_row(together):
                self._partial.write(run[0][0], *(data for _, data, _ in run))
            self._partial.flush()
        if len(right) < len(batch):
            raise BadDigest(
                f"The source sent a damaged block {batch[len(right)][0]};"
                " fetch it from another source."
            )

    def _grown(self) -> None:
        self.stored = self._partial.stored
        if not self._has_failed:
            self._progress(self)
        self._advance()

    # Blocks that may be here already

    def _check(self, blocks: range) -> None:
        def ended(wrong: list[int]) -> None:
            self._plan.stored(len(blocks) - len(wrong))
            self._plan.not_there(wrong)
            self._grown()

        self._work(self._run_blocking(self._check_blocks, blocks, self._digests(blocks)), ended)

    def _check_blocks(self, blocks: range, expected: list[bytes]) -> list[int]:
        right: list[int] = []
        wrong: list[int] = []
        for block, digest in zip(blocks, expected, strict=True):
            data = self._partial.read(BLOCK * block, self._verifier.shape.block_length(block))
            (right if block_digest(data) == digest else wrong).append(block)
        self._partial.vouch(right)
        return wrong

    # The checksum

    def _sum(self) -> None:
        if self._hash is None or self._is_summing or self._has_failed:
            return
        first_missing, _ = next(self._partial.missing_runs(), (self._partial.blocks, 0))
        there = min(first_missing * BLOCK, self._partial.size)
        length = min(there - self._summed, SUM_AT_ONCE)
        if length <= 0:
            return
        self._is_summing = True

        def ended(_: None) -> None:
            self._is_summing = False
            self._summed += length
            self._sum()
            self._finish_if_done()

        self._work(self._run_long(self._sum_bytes, self._summed, length), ended)

    def _sum_bytes(self, offset: int, length: int) -> None:
        assert self._hash is not None
        for at in range(offset, offset + length, BLOCK):
            self._hash.update(self._partial.read(at, min(BLOCK, offset + length - at)))

    # Deadlines and ends

    def _watch(self) -> None:
        self._heard = False
        self._timer = self._clock.callLater(self._source.patience.silence * 2, self._look)

    def _look(self) -> None:
        self._timer = None
        busy = self._heard or self._workers
        self._silent_for = 0.0 if busy else self._silent_for + self._source.patience.silence * 2
        if self._silent_for and not self._plan.is_done:
            self._fail(silent())
        elif self._silent_for >= CHECKSUM_WITHIN:
            self._fail(
                TimedOut(
                    "Every block is here and verified, but the source does not tell the MD5;"
                    " --no-md5 does without."
                )
            )
        else:
            self._watch()

    def _finish_if_done(self) -> None:
        if self._has_failed or not self._plan.is_done or self._result.called:
            return
        if self._hash is not None:
            if self._summed < self._partial.size or self._their_md5 is None:
                return
            self.md5 = self._hash.digest()
            if self.md5 != self._their_md5:
                self._fail(self._wrong_md5())
                return
        self._stop_watching()
        self._result.callback(None)

    def _wrong_md5(self) -> Flow512Error:
        if self.resumed:
            return DamagedPartial(
                "What an earlier download left on this disk has been damaged since; run the same"
                " command again, and only that is fetched anew."
            )
        return BadDigest(
            "The MD5 that the source tells is not that of the content, though every block is"
            " right; the source's catalog is wrong. Use --no-md5 to go on."
        )

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, why: Failure | Flow512Error) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        self._stop_watching()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        # What is here is kept, if it is right, and if it is not the disk that failed.
        self._store()
        for asked in list(self._asked):
            asked.cancel()
        if not self._result.called:
            self._result.errback(why)
