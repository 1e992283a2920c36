"""
Which blocks a swarm wants, in what state each is, and who has them. Pure.

Blocks are taken from open pages: those with blocks that were asked for or arrived, and those that
will be asked for next. All others are runs in a set, so that a file of millions of blocks costs
no more than a small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

import msgspec

from flow512.content.tree import TreeVerifier
from flow512.transfer.masks import FULL, Rarity, Runs, first_run, mask_of, mask_within
from flow512.units import DIGESTS_PER_PAGE

PAGE_AHEAD: Final = DIGESTS_PER_PAGE // 2
"""Blocks to do at which another page is opened."""

OPEN_PAGES: Final = 16
"""Pages that are open without anything of them on its way, at most."""

TOGETHER: Final = 8
"""
Blocks that are chosen together where chance decides, counted from the page's beginning: that
many make one request, and in a multiple of them they are written.
"""


class Page(msgspec.Struct, eq=False):
    """
    512 blocks some of which are wanted. Each set is a mask; no block is in two of the first four.

    @ivar to_do: those that are wanted, and asked of nobody.
    @ivar to_check: those that may be on the disk already.
    @ivar asked: those that were asked for and have not arrived.
    @ivar asked_twice: those of them that two were asked for.
    @ivar arrived: those that have arrived, or are being checked, and are not stored.
    @ivar is_proven: whether their digests are here.
    @ivar have: for each partial source, which of the page's blocks it has.
    @ivar rarity: how many partial sources have each.
    """

    index: int
    to_do: int
    to_check: int
    asked: int = 0
    asked_twice: int = 0
    arrived: int = 0
    is_proven: bool = False
    have: dict[int, int] = msgspec.field(default_factory=dict)
    rarity: Rarity = msgspec.field(default_factory=Rarity)

    @property
    def start(self) -> int:
        """The number of its first block."""
        return self.index * DIGESTS_PER_PAGE

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is on its way, or has to be looked at."""
        return not (self.asked or self.arrived or self.to_check)


class Wanted:
    """
    The blocks that are wanted, and who has them. A source is a number.

    @ivar pages: the open ones, by index.
    """

    def __init__(
        self,
        verifier: TreeVerifier,
        missing: Iterable[tuple[int, int]],
        unproven: Iterable[tuple[int, int]],
        random: Random,
        in_order: bool,
    ) -> None:
        """
        @param verifier: pages of level 0 that are no longer needed are forgotten there.
        @param missing: first and count of each run of blocks that is wanted.
        @param unproven: first and count of each run of them that may be on the disk already.
        @param random: chooses among what is equally good.
        @param in_order: whether the first blocks come first, even if others are rarer.
        """
        self._verifier = verifier
        self._random = random
        self._in_order = in_order
        self._closed = Runs()
        for first, count in missing:
            self._closed.add(first, count)
        self._unproven = Runs()
        for first, count in unproven:
            self._unproven.add(first, count)
        self._partial: dict[int, Runs] = {}
        self._dry: set[int] = set()  # partial sources that have nothing of the closed pages
        self.pages: dict[int, Page] = {}

    @property
    def is_done(self) -> bool:
        """Whether every block is stored."""
        return not self._closed and not self.pages

    @property
    def needs_sources(self) -> bool:
        """Whether there is anything that only a source can give."""
        return bool(self._closed) or any(
            page.to_do or page.to_check or page.asked for page in self.pages.values()
        )

    def is_more_than(self, blocks: int) -> bool:
        """
        Say whether nobody was asked yet for more than so many blocks, of those that are wanted.
        """
        return bool(self._closed) or blocks < sum(
            page.to_do.bit_count() for page in self.pages.values()
        )

    def place(self, block: int) -> tuple[Page, int]:
        """
        Find a block of an open page.

        @return: its page, and the mask that is this block.
        """
        index, slot = divmod(block, DIGESTS_PER_PAGE)
        return self.pages[index], 1 << slot

    # Who has what

    @property
    def has_partial_sources(self) -> bool:
        """Whether some source has not all of the content."""
        return bool(self._partial)

    def is_partial(self, source: int) -> bool:
        """Say whether a source has not all of the content."""
        return source in self._partial

    def has(self, source: int, blocks: Iterable[tuple[int, int]]) -> bool:
        """
        A source is partial, and has these, too.

        @param blocks: first and count of each run; what lies beyond the content is left out.
        @return: whether that is news.
        """
        is_new = source not in self._partial
        have = self._partial.setdefault(source, Runs())
        end = self._verifier.shape.blocks
        runs = [(first, min(count, end - first)) for first, count in blocks if first < end]
        before = len(have)
        for run in runs:
            have.add(*run)
        if len(have) == before and not is_new:
            return False
        # Or all that it ever told of would be gone through once more, for nothing.
        if any(self._is_closed(*run) for run in runs):
            self._dry.discard(source)
        for page in self.pages.values():
            before = page.have.get(source, 0)
            page.have[source] = before | mask_within(page.index, runs)
            page.rarity.add(page.have[source] & ~before)
        return True

    def _is_closed(self, first: int, count: int) -> bool:
        run = self._closed.next_run(first)
        return run is not None and run[0] < first + count

    def has_not(self, source: int, first: int, count: int) -> None:
        """
        A partial source has these no more.
        """
        self._partial[source].remove(first, count)
        for page in self.pages.values():
            self._count(source, page)

    def has_all(self, source: int) -> None:
        """
        A source is not partial any more: it is complete, or gone.
        """
        if self._partial.pop(source, None) is not None:
            for page in self.pages.values():
                page.rarity.remove(page.have.pop(source, 0))

    def of(self, source: int, page: Page) -> int:
        """
        Say which blocks of an open page a source has.
        """
        return page.have.get(source, 0) if source in self._partial else FULL

    @property
    def will_have_more(self) -> bool:
        """Whether there are blocks that are to do, of which partial sources may have some later."""
        if not self._partial:
            return False
        return bool(self._closed) or any(page.to_do for page in self.pages.values())

    def is_left_for(self, source: int) -> bool:
        """
        Say whether a source could be asked for something, now or when a page has come.
        """
        if self._closed and source not in self._dry:
            return True
        return any(page.to_do & self.of(source, page) for page in self.pages.values())

    def _count(self, source: int, page: Page) -> None:
        have, before = self._partial[source].mask(page.index), page.have.get(source, 0)
        if have != before:
            page.rarity.remove(before & ~have)
            page.rarity.add(have & ~before)
            page.have[source] = have

    # Pages

    def is_proven(self, page: Page) -> bool:
        """
        Say whether the digests of an open page are here.
        """
        if not page.is_proven:
            page.is_proven = self._verifier.expects(page.start) is not None
        return page.is_proven

    def open_ahead(self) -> None:
        """
        Open pages until there is enough to ask for next.
        """
        ready = count = 0
        for page in self.pages.values():
            if left := page.to_do | page.to_check:
                count += 1
                ready += left.bit_count()
        while ready <= PAGE_AHEAD and count < OPEN_PAGES and self._closed:
            place = self._random.randrange(self._verifier.shape.blocks) if self._by_chance else 0
            run = self._closed.next_run(place) or self._closed.next_run(0)
            assert run is not None
            page = self._open(run[0] // DIGESTS_PER_PAGE)
            ready += (page.to_do | page.to_check).bit_count()
            count += 1

    @property
    def _by_chance(self) -> bool:
        return bool(self._partial) and not self._in_order

    def _open(self, index: int) -> Page:
        start = index * DIGESTS_PER_PAGE
        wanted = self._closed.mask(index)
        to_check = wanted & self._unproven.mask(index)
        self._closed.remove(start, DIGESTS_PER_PAGE)
        self._unproven.remove(start, DIGESTS_PER_PAGE)
        page = self.pages[index] = Page(index, wanted & ~to_check, to_check)
        for source in self._partial:
            self._count(source, page)
        return page

    def close_if_done(self, page: Page) -> None:
        """
        Forget a page of which nothing is wanted any more. If nothing is on its way, and too many
        such pages are open, it is put away as well.
        """
        if not page.is_idle:
            return
        if not page.to_do:
            del self.pages[page.index]
            self._verifier.forget(0, page.index)
        elif len(self._idle()) > OPEN_PAGES:
            self._put_away(page)

    def _idle(self) -> list[Page]:
        return [page for page in self.pages.values() if page.is_idle]

    def _put_away(self, page: Page) -> None:
        del self.pages[page.index]
        self._verifier.forget(0, page.index)
        mask = page.to_do
        while mask:
            first, count = first_run(mask, DIGESTS_PER_PAGE)
            self._closed.add(page.start + first, count)
            mask &= ~mask_of(first, count)
        self._dry.clear()

    def open_for(self, source: int) -> None:
        """
        See to it that some page is open of which a partial source has blocks that are to do, if
        there is one. If too many pages are open then, one that is idle is put away.
        """
        if not self._closed or source not in self._partial or source in self._dry:
            return
        if any(page.to_do & self.of(source, page) for page in self.pages.values()):
            return
        index = self._closed_page_of(self._partial[source])
        if index is None:
            self._dry.add(source)
            return
        idle = self._idle()
        if len(idle) >= OPEN_PAGES:
            self._put_away(self._random.choice(idle))
        self._open(index)

    def _closed_page_of(self, have: Runs) -> int | None:
        place = self._random.randrange(self._verifier.shape.blocks) if self._by_chance else 0
        for first, count in _around(have, place):
            run = self._closed.next_run(first)
            if run is not None and run[0] < first + count:
                return run[0] // DIGESTS_PER_PAGE
        return None

    # Choosing

    def choose(self, source: int, most: int) -> tuple[Page, int, int] | None:
        """
        Choose blocks in a row that are to do, that a source has, and whose digests are here.

        @param most: how many, at most.
        @return: their page, the place of the first one in it, and how many.
        """
        best: tuple[int, float, Page, int] | None = None
        for page in self.pages.values():
            there = page.to_do & self.of(source, page)
            if not there or not self.is_proven(page):
                continue
            rank = page.index, 0.0
            if self._by_chance:
                count, there = page.rarity.rarest(there)
                rank = count, self._random.random()
            if best is None or rank < best[:2]:
                best = (*rank, page, there)
        if best is None:
            return None
        _, _, page, there = best
        if self._by_chance:
            there = self._some(there)
        return page, *first_run(there, most)

    def _some(self, blocks: int) -> int:
        place = self._random.randrange(blocks.bit_length())
        block, _ = first_run(blocks >> place << place or blocks, 1)
        return blocks & mask_of(block - block % TOGETHER, TOGETHER)


def _around(runs: Runs, place: int) -> Iterator[tuple[int, int]]:
    run = runs.next_run(place)
    while run is not None:
        yield run
        run = runs.next_run(sum(run))
    run = runs.next_run(0)
    while run is not None and run[0] < place:
        yield run
        run = runs.next_run(sum(run))
