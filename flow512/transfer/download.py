"""
A download: the blocks of one content, from any number of sources into a partial file::

    page or block asked for ──> frame ──> block whole ──> arrived ──> verified and written
          │   (Swarm decides)    (the source judges its shape)     (a worker, in batches)
          └── a source that sends nothing at all for Patience.silence * 3 is left out

States: C{fetching} until every block is stored; C{summing} until the MD5 has followed; then
C{done}. A source that fails is left out, and its work goes to the others. Only if nobody is left,
or this machine fails, the download has C{failed}: nothing more is asked for, and the result fires
at once; but a worker may be busy with the partial file still, so wait for L{Download.idle} before
closing it.

Blame. A block comes whole from one source, and so does a page. Whoever sends a wrong one, or breaks
the protocol, is to blame: L{Download.blamed} says so, and it is not asked for this content again.

Flow control. L{Swarm}'s window bounds what is asked for and not yet stored, and so all that can be
in memory here. One worker stores at a time, and takes with it everything that has arrived; a
slow disk so makes the batches larger, and then the window stops the asking. The MD5 follows
behind the first block that is missing, in a worker of its own, reading what was just written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import Enum
from random import Random
from typing import Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.outlet import Outlet
from flow512.content.partial import Partial
from flow512.content.tree import TreeVerifier, block_digest
from flow512.errors import (
    BadDigest,
    Busy,
    Flow512Error,
    NotFound,
    Unsupported,
    Violation,
)
from flow512.interfaces import RunBlocking
from flow512.transfer.actions import AskBlocks, AskPage, CheckBlocks, Drop, TakeBack
from flow512.transfer.arrivals import Arrivals, Arrived
from flow512.transfer.blocks import BlockSource, Onlooker
from flow512.transfer.finding import Candidate
from flow512.transfer.md5_check import ASKED, Md5Check, Verdict
from flow512.transfer.senders import Sender, telling_most
from flow512.transfer.swarm import Swarm, damaged
from flow512.units import BLOCK, LONGEST_RUN, PIECE, PIECES_PER_BLOCK

_T = TypeVar("_T")

SILENCES: Final = 3
"""
How often C{Patience.silence} has to pass before a source is left out that sends nothing it was
asked for. A connection that is dead is lost before that, which is the better reason.
"""

STUCK_FOR: Final = 60.0
"""
Seconds for which a download waits for sources that are there and have nothing of what is missing.
"""

TICK: Final = 0.25
"""Seconds between two looks at who is slow or silent."""


class _Reading(msgspec.Struct, eq=False):
    """
    A request for blocks.

    @ivar first: the number of the first block.
    @ivar digests: what each has to have.
    @ivar whole: the block that comes in parts just now.
    """

    sender: Sender
    first: int
    digests: list[bytes]
    whole: bytearray | None = None


class Checksum(Enum):
    """What is compared at the end, beyond the tree."""

    MD5 = "md5"
    RESUMED = "resumed"
    """The MD5, but only of what an earlier download has begun: the disk may have spoilt it."""
    NONE = "none"


class Order(Enum):
    """Which blocks are wanted first."""

    ANY = "any"
    FIRST_FIRST = "first-first"


class Download:
    """
    Fetches what a partial file lacks.

    @ivar root: the content id.
    @ivar size: bytes of the whole content.
    @ivar stored: those that are verified and in place.
    @ivar resumed: bytes that were there, by the journal, before it began.
    @ivar fetched: bytes that this download received, of whatever use they were.
    @ivar md5: of the whole content, once all of it is here and if it was wanted.
    @ivar is_md5_compared: whether a source has told the same.
    @ivar senders: every source that was added, with what it sent, and why it was left out.
    @ivar blamed: who sent something wrong, and what.
    @ivar look_for_more: called when nobody is left to ask, before the download fails for that. It
        says whether it has called L{wait_for_more}; by default nobody comes.
    """

    log = Logger()
    look_for_more: Callable[[], bool]

    def __init__(
        self,
        partial: Partial | Outlet,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        run_long: RunBlocking,
        random: Random,
        *,
        verifier: TreeVerifier | None = None,
        run: int = LONGEST_RUN,
        checksum: Checksum = Checksum.MD5,
        order: Order = Order.ANY,
        progress: Callable[[Download], None] = lambda _: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        onlooker: Onlooker | None = None,
    ) -> None:
        """
        @param partial: where it goes; whoever opened it closes it afterwards. With an L{Outlet}
            there is no checksum, and L{Order.FIRST_FIRST}.
        @param clock: for deadlines, and to measure how fast sources are.
        @param run_blocking: runs what writes to the disk.
        @param run_long: runs the MD5.
        @param random: chooses among blocks that are equally rare.
        @param verifier: of the same content, with what is proven of it; a new one unless given.
        @param run: pieces that a frame may carry, 1 to L{LONGEST_RUN}; of more than a block, only
            from a source that is fast.
        @param checksum: whether to ask for the MD5 and compare it.
        @param order: which blocks are wanted first.
        @param progress: called whenever L{stored} has grown.
        @param blame: called when L{blamed} has grown.
        @param passed_over: told who is left out without being blamed, and why.
        @param onlooker: told of what is proven, and of what is stored.
        """
        self._partial = partial
        self._clock = clock
        self._run_blocking = run_blocking
        self._run_long = run_long
        self._run = run
        self._progress = progress
        self._blame = blame
        self._passed_over = passed_over
        self._onlooker = onlooker
        self._verifier = verifier or TreeVerifier(partial.root, partial.size)
        self._swarm = Swarm(
            self._verifier,
            partial.missing_runs(),
            partial.unproven,
            clock=clock.seconds,
            random=random,
            in_order=order is Order.FIRST_FIRST,
        )
        self._result: Deferred[None] = Deferred(lambda _: self._fail(CancelledError()))
        self._has_started = False
        self._has_failed = False
        self._more_may_come = False
        self._is_advancing = False
        self._arrivals = Arrivals(partial, clock, run_blocking, self._work, self._were_stored)
        self._workers = 0
        self._waiting_for_idle: list[Deferred[None]] = []
        self._md5_check = None
        if checksum is Checksum.MD5 or (checksum is Checksum.RESUMED and partial.stored):
            assert isinstance(partial, Partial)  # what is passed on is not kept
            self._md5_check = Md5Check(partial)
        self._stuck_since: float | None = None
        self._timer: IDelayedCall | None = None
        self.look_for_more = lambda: False
        self.senders: dict[int, Sender] = {}
        self.blamed: list[tuple[Candidate, Flow512Error]] = []
        self.root = partial.root
        self.size = partial.size
        self.stored = partial.stored
        self.resumed = self.stored
        self.fetched = 0
        self.md5: bytes | None = None
        self.is_md5_compared = False

    # Sources

    def add(
        self,
        who: Candidate,
        source: BlockSource,
        blocks: Iterable[tuple[int, int]] | None = None,
    ) -> Sender:
        """
        Fetch from one more source, now or when the download begins.

        @param who: whose it is.
        @param source: an open one; whoever opened it leaves it afterwards. If it is left out,
            this leaves it.
        @param blocks: first and count of each run of blocks that it has; L{None} for all.
        """
        number = self._swarm.join(blocks, source.patience.silence * SILENCES)
        sender = self.senders[number] = Sender(who, source, number, is_partial=blocks is not None)
        self._advance()
        return sender

    def has(self, sender: Sender, blocks: Iterable[tuple[int, int]], is_all: bool = False) -> None:
        """
        A source has more blocks than it had when it was added.

        @param blocks: first and count of each run of them.
        @param is_all: whether it has all, now.
        """
        if is_all:
            self._swarm.has_all(sender.number)
        else:
            self._swarm.has(sender.number, blocks)
        self._advance()

    def leave(self, sender: Sender, reason: Flow512Error) -> None:
        """
        Ask a source no more: it is gone.
        """
        self._swarm.leave(sender.number, reason)
        self._advance()

    def is_of_use(self, sender: Sender) -> bool:
        """
        Say whether a source is busy for this download, or has something that is missing.
        """
        return self._swarm.is_of_use(sender.number)

    def wait_for_more(self) -> None:
        """
        Do not fail for lack of sources until L{no_more} is called: more may come.
        """
        self._more_may_come = True

    def no_more(self) -> None:
        """
        No source will come that is not here: if nobody is left, fail.
        """
        self._more_may_come = False
        self._advance()

    # Running

    def start(self) -> Deferred[None]:
        """
        Begin.

        @return: fires when the partial file is whole and verified. If no source is left, it fails
            with why one of them was left out: L{BadDigest} if it sent something else than the
            content, L{flow512.errors.Refusal} if it would not send it,
            L{flow512.errors.Unreachable} if it went away. It fails with
            L{flow512.errors.ResourceFailure} if this machine could not store it. The
            partial file then keeps all that was stored. Cancelling it stops the download.
        """
        try:
            if not self._partial.blocks:
                # No page will come that could prove that a content of no bytes has this root.
                self._verifier.add_page(0, 0, b"")
        except BadDigest as error:
            self._fail(error)
            return self._result
        self._has_started = True
        self._look_again()
        self._sum()
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
            return value

        # What follows may have more work for a worker.
        result.addBoth(done).addCallback(ended).addErrback(self._fail).addBoth(self._tell_if_idle)

    def _tell_if_idle(self, _: None = None) -> None:
        if not self._workers:
            waiting, self._waiting_for_idle = self._waiting_for_idle, []
            for each in waiting:
                each.callback(None)

    # Asking

    def _ask(
        self,
        sender: Sender,
        key: Hashable,
        asked: Deferred[_T],
        came: Callable[[_T], None],
        refused: Callable[[Flow512Error], None],
    ) -> None:
        sender.asked[key] = asked

        def ended(result: _T | Failure) -> None:
            if sender.asked.get(key) is not asked:
                return  # it was taken back
            del sender.asked[key]
            if not isinstance(result, Failure):
                came(result)
            elif isinstance(result.value, Flow512Error):
                refused(result.value)
            else:
                result.raiseException()
            self._advance()

        asked.addBoth(ended).addErrback(self._fail)

    def _take_back(self, sender: Sender, key: Hashable) -> None:
        asked = sender.asked.pop(key, None)
        if asked is not None:
            asked.cancel()

    def _advance(self) -> None:
        # What an action leads to may happen at once, and call this again.
        if self._is_advancing or not self._has_started:
            return
        self._is_advancing = True
        try:
            self._swarm.horizon = self._partial.horizon
            while not self._has_failed:
                action = self._swarm.next_action()
                if action is None:
                    break
                if isinstance(action, AskBlocks):
                    self._ask_blocks(action)
                elif isinstance(action, AskPage):
                    self._ask_page(action)
                elif isinstance(action, CheckBlocks):
                    self._check(range(action.first, action.first + action.count))
                elif isinstance(action, TakeBack):
                    self._take_back(self.senders[action.source], action.request)
                else:
                    self._drop(action)
        finally:
            self._is_advancing = False
        self._ask_md5()
        self._finish_if_done()
        self._fail_if_alone()

    def _ask_page(self, page: AskPage) -> None:
        sender = self.senders[page.source]
        self._ask(
            sender,
            (page.level, page.index),
            maybeDeferred(sender.source.page, self._partial.root, page.level, page.index),
            lambda data: self._page_came(sender, page, data),
            lambda error: self._swarm.page_refused(sender.number, page.level, page.index, error),
        )

    def _page_came(self, sender: Sender, page: AskPage, data: bytes) -> None:
        is_proven = self._swarm.page_came(sender.number, page.level, page.index, data)
        if is_proven and self._onlooker is not None:
            self._onlooker.page_proven(page.level, page.index, data)

    def _ask_blocks(self, blocks: AskBlocks) -> None:
        sender = self.senders[blocks.source]
        first = blocks.first * PIECES_PER_BLOCK
        size = self._partial.size
        end = min((blocks.first + blocks.count) * BLOCK, size)
        count = -(-end // PIECE) - first
        digests = self._digests(range(blocks.first, blocks.first + blocks.count))
        reading = _Reading(sender, blocks.first, digests)
        run = min(self._run, blocks.together * PIECES_PER_BLOCK)
        self._ask(
            sender,
            blocks.request,
            maybeDeferred(
                sender.source.read,
                self._partial.root,
                size,
                first,
                count,
                run,
                lambda piece, data: self._pieces_came(reading, piece, data),
            ),
            lambda _: self._swarm.ended(sender.number, blocks.request),
            lambda error: self._swarm.refused(sender.number, blocks.request, error),
        )

    def _digests(self, blocks: range) -> list[bytes]:
        # They are taken when something is asked for: their page may be forgotten after that.
        digests = []
        for block in blocks:
            digest = self._verifier.expects(block)
            assert digest is not None
            digests.append(digest)
        return digests

    def _drop(self, drop: Drop) -> None:
        sender = self.senders[drop.source]
        sender.lost = drop.reason
        self.log.debug("{who} is left out: {why}", who=str(sender.who), why=str(drop.reason))
        for key in list(sender.asked):
            self._take_back(sender, key)
        if isinstance(drop.reason, Violation):
            self._put_blame(sender, drop.reason)
        elif not any(who is sender.who for who, _ in self.blamed):
            self._passed_over(sender.who, drop.reason)
        sender.source.leave()

    def _put_blame(self, sender: Sender, reason: Flow512Error) -> None:
        if any(who is sender.who for who, _ in self.blamed):
            return
        self.blamed.append((sender.who, reason))
        self._blame(sender.who, reason)

    # Receiving

    def _pieces_came(self, reading: _Reading, first: int, data: bytes | bytearray) -> None:
        sender = reading.sender
        if self._has_failed or sender.lost is not None:
            return
        self.fetched += len(data)
        sender.fetched += len(data)
        block, piece = divmod(first, PIECES_PER_BLOCK)
        length = self._verifier.shape.block_length(block)
        if len(data) < length:
            if reading.whole is None:
                reading.whole = sender.source.buffers.take(length)
            whole = reading.whole
            end = piece * PIECE + len(data)
            whole[piece * PIECE : end] = data
            if end < length:
                self._swarm.heard(sender.number)
                return
            data, reading.whole = whole, None
        blocks = range(block, block - (-len(data) // BLOCK))
        wanted = self._swarm.arrived(sender.number, blocks)
        if len(wanted) == len(blocks):
            at = block - reading.first
            self._arrivals.add(
                Arrived(blocks, data, reading.digests[at : at + len(blocks)], sender)
            )
        else:
            for each in wanted:
                at = (each - block) * BLOCK
                part = data[at : at + BLOCK]
                expected = reading.digests[each - reading.first]
                self._arrivals.add(Arrived(range(each, each + 1), part, [expected], sender))
            sender.source.buffers.give_back(data)
        if self._swarm.is_eager:
            self._advance()
        if not self._swarm.is_expecting:
            self._arrivals.no_more_come()

    def _were_stored(self, batch: Sequence[Arrived], wrong: Sequence[int]) -> None:
        right: list[int] = []
        for each in batch:
            each.sender.verified += len(each.data)
            for block in each.blocks:
                if block not in wrong:
                    right.append(block)
                    continue
                each.sender.verified -= self._verifier.shape.block_length(block)
                self._put_blame(each.sender, damaged(block))
                self._swarm.wrong(each.sender.number, block)
        self._are_stored(right)

    def _are_stored(self, blocks: Sequence[int]) -> None:
        self._swarm.stored(blocks)
        if self._onlooker is not None:
            self._onlooker.blocks_stored(blocks)
        self.stored = self._partial.stored
        if not self._has_failed:
            self._progress(self)
        self._sum()
        self._advance()

    # Blocks that may be here already

    def _check(self, blocks: range) -> None:
        def ended(wrong: list[int]) -> None:
            self._swarm.not_there(wrong)
            self._are_stored(sorted(set(blocks).difference(wrong)))

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
        check = self._md5_check
        part = None if check is None or self._has_failed else check.next_part()
        if check is None or part is None:
            return
        check.is_reading = True

        def ended(_: None) -> None:
            check.is_reading = False
            self._sum()
            self._advance()

        self._work(self._run_long(check.add, *part), ended)

    def _ask_md5(self) -> None:
        check = self._md5_check
        if check is None or self._has_failed:
            return
        sender = check.choose(self._here(), self._clock.seconds())
        if sender is not None:
            self._ask_md5_of(sender, check)

    def _ask_md5_of(self, sender: Sender, check: Md5Check) -> None:
        def refused(error: Flow512Error) -> None:
            check.refused(error)
            if not isinstance(error, NotFound | Unsupported | Busy):
                self._swarm.leave(sender.number, error)

        asked = maybeDeferred(sender.source.checksum, self.root)
        self._ask(sender, ASKED, asked, check.told, refused)

    def _here(self) -> list[Sender]:
        return [sender for sender in self.senders.values() if sender.lost is None]

    # Deadlines and ends

    def _look_again(self) -> None:
        self._timer = self._clock.callLater(TICK, self._look)

    def _look(self) -> None:
        self._look_again()
        for sender in self._here():
            if sender.asked and sender.source.is_held_back:
                self._swarm.held_back(sender.number)
        self._swarm.tick()
        self._advance()

    def _fail_if_alone(self) -> None:
        if self._has_failed or self._result.called:
            return
        now = self._clock.seconds()
        if self._swarm.is_done:
            return
        if self._more_may_come or self._swarm.is_waiting or self._workers:
            self._stuck_since = None
            if not self._more_may_come and not self._swarm.sources and self._swarm.needs_sources:
                self._fail_unless_more()
        elif not self._swarm.sources:
            self._fail_unless_more()
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= STUCK_FOR:
            self._fail(
                NotFound(
                    "The sources that are left have not what is missing; run the same command"
                    " again when another is there."
                )
            )

    def _fail_unless_more(self) -> None:
        if not self.look_for_more():
            self._fail(self._why_nobody_is_left())

    def _why_nobody_is_left(self) -> Flow512Error:
        return telling_most([each.lost for each in self.senders.values() if each.lost is not None])

    def _finish_if_done(self) -> None:
        if self._has_failed or not self._swarm.is_done or self._result.called:
            return
        if self._md5_check is not None:
            try:
                verdict = self._md5_check.compare(
                    self._here(), self._clock.seconds(), is_resumed=self.resumed > 0
                )
            except Flow512Error as error:
                self._fail(error)
                return
            if verdict is Verdict.OPEN:
                self._ask_md5()
                return
            self.md5 = self._md5_check.digest
            self.is_md5_compared = verdict is Verdict.SAME
        self._stop_watching()
        for sender in self.senders.values():
            for key in list(sender.asked):
                self._take_back(sender, key)
        self._result.callback(None)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, why: Failure | Flow512Error | CancelledError) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        self._stop_watching()
        # What is here is kept, if it is right, and if it is not the disk that failed.
        self._arrivals.hurry()
        for sender in self.senders.values():
            for key in list(sender.asked):
                self._take_back(sender, key)
        if not self._result.called:
            self._result.errback(why)
