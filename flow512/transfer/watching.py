"""
Watches: telling others which blocks of a content are here, now and as they come.

A watch goes through the blocks that there are from first to last, in frames of at most
L{RUNS_AT_ONCE} runs::

    told of <── here ──> to be found on the way ──> end
        └── what comes meanwhile behind is gathered, and told of after that

Flow control. Frames are made only while the transport takes them. What comes while it does not is
gathered into runs; if that makes more than one frame holds, they are dropped, and the watch begins
again with the first block. So a watch takes as much memory as one frame, however slowly the other
side reads, however long the file is, and however far apart its blocks come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.python.failure import Failure

from flow512.content.journal import BlockSet
from flow512.content.tree import format_content_id
from flow512.errors import Busy, NotFound
from flow512.interfaces import RunBlocking
from flow512.transfer.contents import Contents
from flow512.transfer.offers import Offer
from flow512.transfer.serving import ServingConversation
from flow512.wire.holding import Blocks, Watch

MAX_WATCHES: Final = 16
"""Contents that one conversation may watch at once."""

RUNS_AT_ONCE: Final = 800
"""
Runs of blocks in one frame: as many as fit into it whatever their numbers are, at 19 bytes each.
"""


class Telling:
    """
    What one watcher knows of a set of blocks that grows, and what it is to be told next.
    """

    def __init__(self, blocks: BlockSet) -> None:
        """
        @param blocks: the set; L{came} has to be called after each change of it.
        """
        self._blocks = blocks
        self._behind = BlockSet()
        self._place: int | None = 0  # where to go on; None at the end
        self._has_begun = False

    def came(self, runs: Sequence[tuple[int, int]]) -> None:
        """
        Take note of blocks that were added.

        @param runs: first block and count of each run.
        """
        for first, count in runs:
            # What lies ahead is found on the way there.
            behind = count if self._place is None else min(count, self._place - first)
            if behind > 0:
                self._behind.add(first, behind)
        if len(self._behind.runs_from(0, RUNS_AT_ONCE + 1)) > RUNS_AT_ONCE:
            self._behind = BlockSet()
            self._place = 0

    def next_runs(self) -> list[tuple[int, int]] | None:
        """
        Say what to tell next.

        @return: first block and count of each run, in order, at most L{RUNS_AT_ONCE}; L{None} if
            there is nothing new. The first time it may be nothing, which is to be told.
        """
        runs: list[tuple[int, int]] = []
        if self._place is not None:
            runs = self._blocks.runs_from(self._place, RUNS_AT_ONCE)
            self._place = sum(runs[-1]) if len(runs) == RUNS_AT_ONCE else None
        if not runs:
            runs = self._behind.runs_from(0, RUNS_AT_ONCE)
            self._behind = BlockSet()
        has_begun, self._has_begun = self._has_begun, True
        return runs if runs or not has_begun else None


class _Watch:
    """One WATCH. It is an L{offers.Watcher<flow512.transfer.offers.Watcher>}."""

    def __init__(self, watches: Watches, request: int) -> None:
        self.request = request
        self._watches = watches
        self._offer: Offer | None = None
        self._telling = Telling(BlockSet())

    def begin(self, offer: Offer) -> None:
        """
        Tell of an offer from now on.
        """
        self._offer = offer
        self._telling = Telling(offer.blocks)
        offer.watch(self)

    def end(self) -> None:
        """
        Tell nothing more.
        """
        if self._offer is not None:
            self._offer.unwatch(self)
            self._offer = None

    def next_message(self) -> Blocks | None:
        """
        Say what to tell next, if there is anything.
        """
        if self._offer is None:
            return None
        if self._offer.is_whole:
            return WHOLE
        runs = self._telling.next_runs()
        return None if runs is None else Blocks(tuple(runs))

    def blocks_came(self, runs: Sequence[tuple[int, int]]) -> None:
        self._telling.came(runs)
        self._watches.go_on(self)

    def withdrawn(self) -> None:
        assert self._offer is not None
        self._watches.withdrawn(self, self._offer.root)


WHOLE: Final = Blocks((), is_all=True)
"""What ends a watch: every block is here."""


class Watches:
    """
    All watches of one conversation that have not ended.
    """

    def __init__(
        self,
        conversation: ServingConversation,
        contents: Contents,
        run_blocking: RunBlocking,
        ended: Callable[[], None],
    ) -> None:
        """
        @param conversation: whose they are.
        @param contents: what may be watched.
        @param run_blocking: runs what waits for the disk.
        @param ended: called whenever a watch has had its end without being asked for it.
        """
        self._conversation = conversation
        self._contents = contents
        self._run_blocking = run_blocking
        self._ended = ended
        self._pending: dict[int, _Watch] = {}

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def begin(self, request: int, wanted: Watch) -> None:
        """
        Take a request on.

        @param request: its number, which is not in use.
        """
        conversation = self._conversation
        if len(self._pending) >= MAX_WATCHES:
            conversation.fail(
                request, Busy(f"At most {MAX_WATCHES} contents may be watched at once.")
            )
            return
        watch = self._pending[request] = _Watch(self, request)

        def found(offer: Offer | None) -> None:
            if self._pending.get(request) is not watch:
                return
            if offer is None:
                self._end(watch)
                conversation.send(WHOLE, request)
            elif offer.is_withdrawn:
                self.withdrawn(watch, wanted.root)
            else:
                watch.begin(offer)
                self.go_on(watch)

        def not_found(failure: Failure) -> None:
            if self._pending.get(request) is watch:
                assert failure.value is not None
                self._end(watch)
                conversation.fail(request, failure.value)

        conversation.wait_for_worker(
            self._run_blocking(self._contents.offer, wanted.root, conversation.asker),
            found,
            not_found,
        )

    def cancel(self, request: int) -> None:
        """
        Forget a request; its end is the caller's to write.
        """
        self._end(self._pending[request])

    def transport_drained(self) -> None:
        """
        Go on: the transport takes more.
        """
        for watch in tuple(self._pending.values()):
            self.go_on(watch)

    def end(self) -> None:
        """
        Forget everything; the conversation is over.
        """
        for watch in tuple(self._pending.values()):
            self._end(watch)

    # From the watches

    def go_on(self, watch: _Watch) -> None:
        """
        Tell what there is to tell, while the transport takes it.
        """
        conversation = self._conversation
        while conversation.is_writable and conversation.is_open:
            message = watch.next_message()
            if message is None:
                return
            conversation.send(message, watch.request)
            if message is WHOLE:
                self._end(watch)
                self._ended()

    def withdrawn(self, watch: _Watch, root: bytes) -> None:
        """
        End a watch: nothing more comes.
        """
        self._end(watch)
        self._conversation.fail(
            watch.request, NotFound(f"{format_content_id(root)} is not offered here any more.")
        )
        self._ended()

    def _end(self, watch: _Watch) -> None:
        del self._pending[watch.request]
        watch.end()
