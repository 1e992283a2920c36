"""
What a download asks for next. Pure: state in, actions out.

Each block that is wanted is in one of these states, and moves to the right only, but for a
block that a check found wanting, or whose request failed::

    to do ──> asked for (or being checked) ──> stored

Invariants:

  - a block is asked for only when its digest is proven, so it can be judged as it comes;
  - blocks that are asked for and not stored never exceed the window: it bounds the memory of
    the download, whatever its source does;
  - blocks are asked for in order, and a request never crosses a page;
  - the page for the next 512 blocks is asked for half a page ahead; pages whose blocks are all
    behind are forgotten. So at most three pages of level 0 are held, whatever the file's size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from flow512.content.tree import TreeVerifier
from flow512.errors import Misuse
from flow512.units import DIGESTS_PER_PAGE

WINDOW: Final = 64
"""Blocks that may be asked for and not stored (16 MiB)."""

BLOCKS_PER_READ: Final = 8
"""Blocks that one request asks for (2 MiB)."""


@dataclass(frozen=True)
class AskPage:
    """Ask for this page of digests."""

    level: int
    index: int


@dataclass(frozen=True)
class AskBlocks:
    """Ask for these blocks."""

    first: int
    count: int


@dataclass(frozen=True)
class CheckBlocks:
    """See whether these blocks, which may be on the disk already, are right."""

    first: int
    count: int


Action: TypeAlias = AskPage | AskBlocks | CheckBlocks


class Plan:
    """
    Decides the order of a download from one source.
    """

    def __init__(
        self,
        verifier: TreeVerifier,
        missing: Iterable[tuple[int, int]],
        unproven: Iterable[tuple[int, int]] = (),
        window: int = WINDOW,
    ) -> None:
        """
        @param verifier: the proven pages; this forgets those that are no longer needed.
        @param missing: first and count of each run of blocks that is wanted, in order.
        @param unproven: first and count of each run of them that may be on the disk already.
        @param window: blocks that may be asked for and not stored, 1 to 512.
        """
        if not 1 <= window <= DIGESTS_PER_PAGE:
            raise Misuse(f"A window has 1 to {DIGESTS_PER_PAGE} blocks, not {window}.")
        self._verifier = verifier
        self._to_do = deque(missing)
        self._unproven = {
            block for first, count in unproven for block in range(first, first + count)
        }
        self._window = window
        self._outstanding = 0
        self._asked_pages: set[tuple[int, int]] = set()
        self._first_page = 0

    @property
    def is_done(self) -> bool:
        """Whether every block is stored."""
        return not self._to_do and not self._outstanding

    def next_action(self) -> Action | None:
        """
        Say what to do next.

        @return: L{None} if there is nothing to do until something has come.
        """
        if not self._to_do:
            return None
        first, count = self._to_do[0]
        page = self._page_to_ask(first, count)
        if page is not None:
            self._asked_pages.add(page)
            return AskPage(*page)
        room = self._window - self._outstanding
        if room < 1 or self._verifier.expects(first) is None:
            return None
        self._forget_before(first)
        end_of_page = DIGESTS_PER_PAGE - first % DIGESTS_PER_PAGE
        taken = min(count, BLOCKS_PER_READ, room, end_of_page)
        to_check = first in self._unproven
        for at in range(1, taken):
            if (first + at in self._unproven) != to_check:
                taken = at
                break
        self._take(taken)
        if not to_check:
            return AskBlocks(first, taken)
        self._unproven.difference_update(range(first, first + taken))
        return CheckBlocks(first, taken)

    def page_came(self, level: int, index: int) -> None:
        """
        A page that was asked for has been proven, and the verifier has it.
        """
        self._asked_pages.discard((level, index))

    def stored(self, count: int) -> None:
        """
        Blocks that were asked for, or checked, are stored.

        @param count: how many.
        """
        self._outstanding -= count

    def not_there(self, blocks: Iterable[int]) -> None:
        """
        Blocks that were asked for, or checked, are wanted still.

        @param blocks: their numbers, in order.
        """
        for block in reversed(list(blocks)):
            self._to_do.appendleft((block, 1))
            self._outstanding -= 1
            self._first_page = min(self._first_page, block // DIGESTS_PER_PAGE)

    def _take(self, taken: int) -> None:
        first, count = self._to_do.popleft()
        if taken < count:
            self._to_do.appendleft((first + taken, count - taken))
        self._outstanding += taken

    def _page_to_ask(self, first: int, count: int) -> tuple[int, int] | None:
        wanted = self._verifier.wanted(first)
        if wanted is None and first % DIGESTS_PER_PAGE >= DIGESTS_PER_PAGE // 2:
            ahead = first - first % DIGESTS_PER_PAGE + DIGESTS_PER_PAGE
            if ahead < first + count:
                wanted = self._verifier.wanted(ahead)
        return None if wanted in self._asked_pages else wanted

    def _forget_before(self, first: int) -> None:
        # Whoever asked for a block took its digest along, so even where wanted blocks are far
        # apart nobody misses a page behind; for a block that is put back it is asked for again.
        page = first // DIGESTS_PER_PAGE
        while self._first_page < page - 1:
            self._verifier.forget(0, self._first_page)
            self._first_page += 1
