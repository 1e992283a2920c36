"""
What a download asks of whom. Pure: state in, actions out; the time and the chance are handed in.

Each block that is wanted is in one of these states::

    to check ──> checking ──> stored
                    │ (it is not what its digest says)
                    v
    to do ──> asked for ──> arrived ──> stored
      ^           │            │
      └───────────┴────────────┘  (taken back, its source failed; its digest is another)

Invariants:

  - a block is asked for only when its digest is proven, so it can be judged as it comes;
  - a request never crosses a page, and has at most eight blocks, all of which its source has;
  - the window: requests for blocks that have not arrived, blocks that have arrived and blocks
    that are being checked are never more than it together, whatever the sources do. It bounds
    the memory of the download;
  - a block is asked of one source; of a second one only if that one is much faster, and nothing
    is left that it could be asked for instead (so it is at the end). What arrives first counts;
    from the other nothing of it is wanted any more;
  - each block has one sender: the request that brought it. If it is wrong, that sender is left
    out for good, and so is who sends a wrong page, fails, or is silent for too long. What it had
    been asked for is to do again;
  - blocks are taken from open pages. Pages are opened when few blocks are left to take, and
    forgotten when the last of their blocks is stored: what is held goes with the window and not
    with the size of the file.

Who is asked. Each source has a window of its own: C{FIRST_WINDOW} blocks, doubled whenever so
many have arrived, and never more than it delivers in C{AHEAD} seconds, or in twice its delay if
that is longer. So a fast one has as much on its way as it takes to be always busy, and of a slow
one little is waited for. A source that is the only one has the whole window. Of those with room,
the one that would be through with its requests first is asked next.

What is asked. With complete sources only, or if the order matters, the first block that is to do.
With partial sources (then others are downloading, too) the one that the fewest have, chosen by
chance among equals, so that not everyone fetches the same; it stays within a few open pages,
which are chosen by chance as well. Requests are small then, since the same blocks soon come from
elsewhere: one block, until more are known to come within C{REQUEST_TAKES} seconds. When the first
partial source joins, what others were asked for is asked for anew by these rules. While blocks are
being stored, nothing is asked for before there is room for several. Several come in one frame from
who is fast; but one by one when nobody is left to be asked for more than the window.

What is taken back. A source that has not delivered a block for C{LATE} seconds, while another
would have brought all of it C{SLOWER} times faster, is left with nothing to do for a while; then
it is tried again with one block. Of one of whom nothing is known yet that is only hoped: whenever
that was the reason, the next one is waited for twice as long. A source that this side itself holds
back, for the sake of a limit, is not slow: nobody else would be taken from any sooner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from flow512.content.tree import TreeVerifier
from flow512.errors import (
    BadDigest,
    Busy,
    Flow512Error,
    Misuse,
    NotFound,
    SourceFailure,
    TimedOut,
    Unsupported,
    Violation,
)
from flow512.transfer.actions import Action, AskBlocks, AskPage, CheckBlocks, Drop, TakeBack
from flow512.transfer.endgame import ask_again
from flow512.transfer.masks import first_run, mask_of
from flow512.transfer.pace import WINDOW, Request, Source
from flow512.transfer.wanted import Page, Wanted
from flow512.units import DIGESTS_PER_PAGE

BLOCKS_PER_READ: Final = 8
"""Blocks that one request asks for, at most (2 MiB)."""

LATE: Final = 2.0
"""Seconds without a block, or a page, after which others are looked at."""

SLOWER: Final = 4.0
"""How much faster others have to be for work to be taken back."""

ENOUGH_ROOM: Final = 4
"""
The part of the window that has to be free, a fourth, for something to be asked for while blocks are
being stored: so there are fewer requests, for more blocks each.
"""

CHOICE: Final = 8
"""
Blocks that a source that has all of it may be asked for, at least, where others download it as
well: it sends first what it has sent to nobody, if it has the choice.
"""

STRIKES: Final = 5
"""How often in a row a source may fail in a way that could pass."""


def silent() -> TimedOut:
    """
    Make the error for a source that answers pings and nothing else.
    """
    return TimedOut("The source sends nothing, though it is there; try another source.")


class Swarm:
    """
    Decides what a download asks of its sources.

    Tell it what happens, carry out the actions that L{next_action} gives until there are none,
    and call L{tick} now and then. A source goes by the number that L{join} gives it; what is told
    of one that is left out is ignored.

    @ivar horizon: no block from this one on is asked for yet; L{None} if all may be.
    """

    horizon: int | None = None

    def __init__(
        self,
        verifier: TreeVerifier,
        missing: Iterable[tuple[int, int]],
        unproven: Iterable[tuple[int, int]] = (),
        *,
        clock: Callable[[], float],
        random: Random,
        window: int = WINDOW,
        in_order: bool = False,
    ) -> None:
        """
        @param verifier: the proven pages; this adds those that come, and forgets those of level 0
            that are no longer needed.
        @param missing: first and count of each run of blocks that is wanted, in order.
        @param unproven: first and count of each run of them that may be on the disk already.
        @param clock: tells the time, in seconds.
        @param random: chooses among what is equally good.
        @param window: blocks that may be asked for and not stored, 1 to 512.
        @param in_order: whether the first blocks are wanted first, whoever has them.
        """
        if not 1 <= window <= DIGESTS_PER_PAGE:
            raise Misuse(f"A window has 1 to {DIGESTS_PER_PAGE} blocks, not {window}.")
        self._verifier = verifier
        self._clock = clock
        self._window = window
        self._wanted = Wanted(verifier, missing, unproven, random, in_order)
        self._sources: dict[int, Source] = {}
        self._last_number = 0
        self._last_request = 0
        self._hope_after = LATE  # for how long one is waited for, if no other is known to be faster
        self._requests: dict[int, list[Request]] = {}  # by block: one or two
        self._asked_pages: dict[tuple[int, int], dict[int, float]] = {}  # of whom, and when
        self._held = 0  # what the window bounds
        self._actions: deque[Action] = deque()

    @property
    def is_done(self) -> bool:
        """Whether every block is stored."""
        return self._wanted.is_done

    @property
    def sources(self) -> int:
        """How many sources there are."""
        return len(self._sources)

    @property
    def needs_sources(self) -> bool:
        """Whether there is anything that only a source can give."""
        return self._wanted.needs_sources

    @property
    def is_waiting(self) -> bool:
        """Whether something is on its way, or a source rests before it is asked again."""
        now = self._clock()
        return bool(self._held or self._asked_pages) or any(
            source.rests_until > now for source in self._sources.values()
        )

    @property
    def is_expecting(self) -> bool:
        """Whether blocks are on their way."""
        return bool(self._requests)

    @property
    def is_eager(self) -> bool:
        """Whether there may be something to do though nothing was stored."""
        return bool(self._actions) or len(self._sources) > 1

    # Sources

    def join(self, blocks: Iterable[tuple[int, int]] | None = None, patience: float = 60.0) -> int:
        """
        A source is there.

        @param blocks: first and count of each run of blocks that it has; L{None} for all.
        @param patience: seconds for which it may be silent when it was asked.
        @return: its number.
        """
        self._last_number = number = self._last_number + 1
        self._sources[number] = Source(number, patience)
        if blocks is not None:
            is_first = not self._wanted.has_partial_sources
            self._wanted.has(number, blocks)
            if is_first:
                self._share_out()
        return number

    def _share_out(self) -> None:
        """
        Others download it, too: take back what somebody who has all of it was asked for alone, but
        for what comes just now. They have asked for the same, and would all get it from there.
        """
        for source in self._sources.values():
            asked = list(source.requests.values())
            for request in asked[1:] if source.has_delivered else asked:
                self._put_back(source, request)
                self._actions.append(TakeBack(source.number, request.number))

    def has(self, source: int, blocks: Iterable[tuple[int, int]]) -> None:
        """
        A partial source has these blocks, too.

        @param blocks: first and count of each run; what lies beyond the content is ignored.
        """
        one = self._sources.get(source)
        if one is not None and self._wanted.is_partial(source) and self._wanted.has(source, blocks):
            one.lacks_pages.clear()

    def has_all(self, source: int) -> None:
        """
        A partial source is complete now.
        """
        one = self._sources.get(source)
        if one is not None:
            one.lacks_pages.clear()
            self._wanted.has_all(source)

    def leave(self, source: int, reason: Flow512Error) -> None:
        """
        A source is not to be asked any more, for a reason that lies in it: it went away, failed,
        or did what it must not. L{Drop} follows.
        """
        one = self._sources.pop(source, None)
        if one is None:
            return
        for request in list(one.requests.values()):
            self._put_back(one, request)
        for page in list(self._asked_pages):
            self._page_answered(page, source)
        self._wanted.has_all(source)
        self._actions.append(Drop(source, reason))

    def is_of_use(self, source: int) -> bool:
        """
        Say whether a source is busy for this download, or has something that is wanted.
        """
        one = self._sources.get(source)
        return one is not None and (one.is_waited_for or self._wanted.is_left_for(source))

    # What happens

    def heard(self, source: int) -> None:
        """
        A source has sent something, of which no block has become whole.
        """
        if (one := self._sources.get(source)) is not None:
            one.heard = self._clock()

    def held_back(self, source: int) -> None:
        """
        This side takes nothing from a source now: it is neither silent nor slow.
        """
        if (one := self._sources.get(source)) is not None:
            one.heard = one.held_back_at = self._clock()

    def page_came(self, source: int, level: int, index: int, data: bytes) -> bool:
        """
        A source has sent a page that it was asked for. If it is wrong, the source is left out.

        @return: whether it is proven, and was of use.
        """
        one = self._sources.get(source)
        if one is None or not self._page_answered((level, index), source):
            return False
        one.pages -= 1
        one.heard = self._clock()
        if level == 0 and index not in self._wanted.pages:
            return False  # nobody would forget it
        try:
            self._verifier.add_page(level, index, data)
        except Violation as error:
            self.leave(source, error)
            return False
        for other in self._asked_pages.pop((level, index), ()):
            self._sources[other].pages -= 1
        return True

    def page_refused(self, source: int, level: int, index: int, error: Flow512Error) -> None:
        """
        A source does not give a page that it was asked for.
        """
        one = self._sources.get(source)
        if one is None:
            return
        page = level, index
        if self._page_answered(page, source):
            one.pages -= 1
        if isinstance(error, Busy):
            self._strike(one, error)
        elif isinstance(error, Unsupported | NotFound):
            one.has_no_pages = one.has_no_pages or isinstance(error, Unsupported)
            one.lacks_pages.add(page)
            everyone_lacks = all(each.lacks(page) for each in self._sources.values())
            if everyone_lacks and not self._wanted.has_partial_sources:
                # A partial one may have it later; these never.
                self.leave(source, error)
        else:
            self.leave(source, error)

    def _page_answered(self, page: tuple[int, int], source: int) -> bool:
        askers = self._asked_pages.get(page, {})
        was_asked = askers.pop(source, None) is not None
        if was_asked and not askers:
            del self._asked_pages[page]
        return was_asked

    def arrived(self, source: int, blocks: Iterable[int]) -> list[int]:
        """
        A source has delivered blocks that it was asked for by one request, yet to be judged.

        @return: which of them are wanted. For each, L{stored} or L{wrong} has to follow.
        """
        wanted: list[int] = []
        request: Request | None = None
        one = self._sources.get(source)
        if one is None:
            return wanted
        for block in blocks:
            requests = self._requests.get(block, ())
            ours = next((each for each in requests if each.source == source), None)
            if ours is None:
                continue
            request = ours
            wanted.append(block)
            page, bit = self._wanted.place(block)
            for each in requests:
                each.left &= ~bit
                other = self._sources[each.source]
                if other is not one:
                    other.outstanding -= 1
                if not each.left:
                    del other.requests[each.number]
                    if other is not one:
                        self._actions.append(TakeBack(each.source, each.number))
            self._held += 1 - len(requests)
            del self._requests[block]
            page.asked &= ~bit
            page.asked_twice &= ~bit
            page.arrived |= bit
        if request is not None:
            one.delivered(self._clock(), request, len(wanted))
        return wanted

    def ended(self, source: int, request: int) -> None:
        """
        A source says that a request is answered. If blocks of it have not arrived, it is left out.
        """
        one = self._sources.get(source)
        if one is not None and request in one.requests:
            self.leave(source, SourceFailure("The source did not send all that it was asked for."))

    def refused(self, source: int, request: int, error: Flow512Error) -> None:
        """
        A source will not answer a request. A busy one is asked again later, and a partial one
        for other blocks; any other is left out.
        """
        one = self._sources.get(source)
        if one is None:
            return
        lacks_it = isinstance(error, NotFound) and self._wanted.is_partial(source)
        if not lacks_it and not isinstance(error, Busy):
            self.leave(source, error)
            return
        asked = one.requests.get(request)
        if asked is not None:
            self._put_back(one, asked)
            if lacks_it:
                self._wanted.has_not(source, asked.first, asked.count)
        self._strike(one, error)

    def _strike(self, source: Source, error: Flow512Error) -> None:
        source.strikes += 1
        if source.strikes >= STRIKES:
            self.leave(source.number, error)
        else:
            wait = error.retry_after if isinstance(error, Busy) else 0.0
            source.let_rest(self._clock(), wait)

    def stored(self, blocks: Iterable[int]) -> None:
        """
        Blocks that arrived, or were checked, are in place.
        """
        for block in blocks:
            self._held -= 1
            page, bit = self._wanted.place(block)
            page.arrived &= ~bit
            self._wanted.close_if_done(page)

    def not_there(self, blocks: Iterable[int]) -> None:
        """
        Blocks that were checked, or have arrived, are not what their digests say.
        """
        for block in blocks:
            self._held -= 1
            page, bit = self._wanted.place(block)
            page.arrived &= ~bit
            page.to_do |= bit

    def wrong(self, source: int, block: int) -> None:
        """
        A block that a source delivered is not what its digest says: it is wanted still, and its
        sender is left out.
        """
        self.not_there([block])
        self.leave(source, damaged(block))

    def tick(self) -> None:
        """
        Time has passed: leave out the silent, and take work back from the slow.
        """
        now = self._clock()
        for source in list(self._sources.values()):
            if source.is_waited_for and now - source.heard >= source.patience:
                self.leave(source.number, silent())
            elif (
                source.outstanding
                and now - source.delivered_at > LATE
                and not source.is_held_back(now)
            ):
                self._take_back_if_slow(source, now)

    def _take_back_if_slow(self, source: Source, now: float) -> None:
        theirs = source.through_in(now)
        may_hope = now - source.delivered_at > self._hope_after
        has_hoped = False
        for request in list(source.requests.values()):
            page = self._wanted.pages[request.first // DIGESTS_PER_PAGE]
            others = [
                other
                for other in self._sources.values()
                if other is not source
                and other.rests_until <= now
                and (not other.outstanding or now - other.delivered_at <= LATE)
                and not request.left & ~self._wanted.of(other.number, page)
                and theirs > SLOWER * other.through_in(now, source.outstanding)
            ]
            is_known = any(other.is_measured for other in others)
            if is_known or (others and may_hope):
                has_hoped = has_hoped or not is_known
                self._put_back(source, request)
                self._actions.append(TakeBack(source.number, request.number))
        if has_hoped:
            # What is on its way is lost. If it is this machine's own line that is slow, each one
            # more that is asked makes it slower, and in the end nothing would ever come whole.
            self._hope_after *= 2
        if not source.outstanding:
            source.begin_anew()
            if now - source.heard > LATE:
                self._strike(source, silent())
            else:
                source.let_rest(now)

    def _put_back(self, source: Source, request: Request) -> None:
        page = self._wanted.pages[request.first // DIGESTS_PER_PAGE]
        while request.left:
            slot, _ = first_run(request.left, 1)
            bit = 1 << slot
            request.left &= ~bit
            self._held -= 1
            source.outstanding -= 1
            requests = self._requests[page.start + slot]
            requests.remove(request)
            page.asked_twice &= ~bit
            if not requests:
                del self._requests[page.start + slot]
                page.asked &= ~bit
                page.to_do |= bit
        del source.requests[request.number]

    # Decisions

    def next_action(self) -> Action | None:
        """
        Say what to do next.

        @return: L{None} if there is nothing to do until something has come.
        """
        if self._actions:
            return self._actions.popleft()
        self._wanted.open_ahead()
        # That nothing can be asked for may have opened a page.
        return self._check() or self._ask_page() or self._ask_blocks() or self._ask_page()

    def _check(self) -> CheckBlocks | None:
        room = self._window - self._held
        if room < 1:
            return None
        for page in self._wanted.pages.values():
            if page.to_check and self._wanted.is_proven(page):
                first, count = first_run(page.to_check, min(room, BLOCKS_PER_READ))
                mask = mask_of(first, count)
                page.to_check &= ~mask
                page.arrived |= mask
                self._held += count
                return CheckBlocks(page.start + first, count)
        return None

    def _ask_page(self) -> AskPage | None:
        now = self._clock()
        for page in self._wanted.pages.values():
            if self._wanted.is_proven(page):
                continue
            wanted = self._verifier.wanted(page.start)
            assert wanted is not None
            askers = self._asked_pages.get(wanted, {})
            if len(askers) > 1 or any(now - at <= LATE for at in askers.values()):
                continue
            source = self._source_for_page(wanted, askers, now)
            if source is not None:
                source.begin(now)
                source.pages += 1
                self._asked_pages.setdefault(wanted, {})[source.number] = now
                return AskPage(source.number, *wanted)
        return None

    def _source_for_page(
        self, page: tuple[int, int], askers: Iterable[int], now: float
    ) -> Source | None:
        able = (
            source
            for source in self._sources.values()
            if source.number not in askers and source.rests_until <= now and not source.lacks(page)
        )
        return min(able, key=lambda each: (each.pages, each.through_in(now)), default=None)

    def _ask_blocks(self) -> AskBlocks | None:
        room = self._window - self._held
        is_storing = self._held > len(self._requests)
        if room < max(1, self._window // ENOUGH_ROOM if is_storing else 1):
            return None  # or there will be more in a moment
        now = self._clock()
        able = [
            (source.through_in(now), source, count)
            for source in self._sources.values()
            if (count := self._room_of(source, room, now))
        ]
        able.sort(key=lambda each: each[0])
        for _, source, count in able:
            chosen = self._wanted.choose(source.number, count)
            if chosen is None:
                self._wanted.open_for(source.number)
            elif (ahead := self._within_horizon(*chosen)) is not None:
                return self._ask(source, *ahead, now)
        again = ask_again(
            [(source, count) for _, source, count in able],
            self._sources.values(),
            self._wanted,
            now,
        )
        return None if again is None else self._ask(*again, now)

    def _within_horizon(self, page: Page, slot: int, count: int) -> tuple[Page, int, int] | None:
        if self.horizon is None:
            return page, slot, count
        count = min(count, self.horizon - page.start - slot)
        return (page, slot, count) if count > 0 else None

    def _room_of(self, source: Source, room: int, now: float) -> int:
        if source.rests_until > now:
            return 0
        if len(self._sources) == 1:
            return min(room, BLOCKS_PER_READ)
        # Half of its window, so that it has something to do while a request is on its way.
        window = source.window
        count = min(BLOCKS_PER_READ, max(1, window // 2))
        if self._wanted.has_partial_sources:
            count = min(count, source.at_once)
            if not self._wanted.is_partial(source.number):
                window = max(window, CHOICE)
        return min(count, room) if source.outstanding + count <= window else 0

    def _ask(self, source: Source, page: Page, slot: int, count: int, now: float) -> AskBlocks:
        source.begin(now)
        first = page.start + slot
        mask = mask_of(slot, count)
        self._last_request = number = self._last_request + 1
        request = Request(number, source.number, first, count, mask, now)
        source.requests[number] = request
        for block in range(first, first + count):
            self._requests.setdefault(block, []).append(request)
        source.outstanding += count
        self._held += count
        page.to_do &= ~mask
        page.asked_twice |= page.asked & mask
        page.asked |= mask
        # At the end, what others bring sooner is taken back block by block.
        together = source.together if self._wanted.is_more_than(self._window) else 1
        return AskBlocks(source.number, number, first, count, together)


def damaged(block: int) -> BadDigest:
    """
    Make the error for a source that sent a wrong block.
    """
    return BadDigest(f"The source sent a damaged block {block}; fetch it from another source.")
