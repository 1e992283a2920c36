"""
How fast a source of blocks is, and how much it is asked for at once. Pure.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final

import msgspec

from flow512.units import LONGEST_RUN, PIECES_PER_BLOCK

WINDOW: Final = 32
"""
Blocks that may be asked for and not stored (8 MiB): so much may a download that is killed fetch
again.
"""

FIRST_WINDOW: Final = 8
"""Blocks that a source has to deliver at once as long as nothing is known of it."""

AHEAD: Final = 2.0
"""Seconds of work that a source is given."""

REQUEST_TAKES: Final = 0.2
"""
Seconds that a request may take which is made where others may come to have the same blocks: so what
is not wanted any more, since another has brought it, can be taken back in time.
"""

FRAME_TAKES: Final = 0.1
"""Seconds that a frame of several blocks may take, since none of them is of use before the last."""

SHORTEST: Final = 0.001
"""Seconds from a request to its first block that count for something, at least."""

MEASURE: Final = 0.1
"""Seconds that a rate is measured over, at least."""

SMOOTH: Final = 0.3
"""How much of a rate is what was measured last, if that was less. What is more counts at once."""

GUESSED_RATE: Final = 4.0
"""Blocks per second of a source that has not been measured (1 MiB/s)."""

HELD_BACK_FOR: Final = 2.0
"""Seconds for which nothing is said of how slow a source is that this side has held back."""

MIN_REST: Final = 2.0
MAX_REST: Final = 30.0
"""Seconds that a source from which work was taken back is left in peace, at first and at most."""


class Request(msgspec.Struct, eq=False):
    """
    Blocks that a source was asked for.

    @ivar number: no other request has it.
    @ivar source: the source's number.
    @ivar left: the mask, within their page, of those that it has to deliver still.
    @ivar asked_at: when.
    """

    number: int
    source: int
    first: int
    count: int
    left: int
    asked_at: float


class Source(msgspec.Struct, eq=False):
    """
    A source, as a swarm knows it. Times and delays are in seconds.

    @ivar patience: for how long it may be silent.
    @ivar requests: what it has to deliver, by number.
    @ivar outstanding: blocks that it was asked for and has not delivered.
    @ivar window: how many these may be.
    @ivar pages: pages that it was asked for and has not delivered.
    @ivar heard: when anything came last, or it began to have something to answer.
    @ivar delivered_at: when a block came last, or it began to have one to deliver.
    @ivar held_back_at: when it was this side last that took nothing from it.
    @ivar rests_until: when it may be asked again.
    @ivar strikes: how often it failed in a way that may pass, since the last block.
    @ivar has_no_pages: whether it is not to be asked for pages at all.
    @ivar lacks_pages: level and index of pages that it does not have.
    """

    number: int
    patience: float
    requests: dict[int, Request] = msgspec.field(default_factory=dict)
    outstanding: int = 0
    window: int = FIRST_WINDOW
    pages: int = 0
    heard: float = 0.0
    delivered_at: float = 0.0
    held_back_at: float = -inf
    rests_until: float = 0.0
    strikes: int = 0
    has_no_pages: bool = False
    lacks_pages: set[tuple[int, int]] = msgspec.field(default_factory=set)
    _rate: float = 0.0  # blocks per second, smoothed; 0 as long as there is none
    _delay: float = inf  # from a request to its first block, at best
    _since: float = 0.0  # when the measuring began ...
    _came: int = 0  # ... and what came since
    _grown: int = 0  # blocks since the window was doubled last
    _rest: float = MIN_REST

    @property
    def is_waited_for(self) -> bool:
        """Whether it has something to answer."""
        return bool(self.outstanding or self.pages)

    @property
    def has_delivered(self) -> bool:
        """Whether any block has come from it."""
        return self._delay < inf

    @property
    def is_measured(self) -> bool:
        """Whether anything is known of how fast it is."""
        return self._rate > 0

    def is_held_back(self, now: float) -> bool:
        """
        Say whether it is this side that took nothing from it, now or just before.
        """
        return now - self.held_back_at <= HELD_BACK_FOR

    def lacks(self, page: tuple[int, int]) -> bool:
        """
        Say whether it is of no use to ask it for a page.
        """
        return self.has_no_pages or page in self.lacks_pages

    def pace(self, now: float) -> float:
        """
        Estimate how many blocks it delivers per second. That it is slower than it was shows by
        what does not come.
        """
        rate = self._rate or GUESSED_RATE
        if self.outstanding and now > self._since:
            return min(rate, (self._came + 1) / (now - self._since))
        return rate

    def through_in(self, now: float, more: int = 0) -> float:
        """
        Estimate the seconds until it will have delivered everything, and so many blocks more.
        """
        return (self.outstanding + more) / self.pace(now)

    def begin(self, now: float) -> None:
        """
        It is about to be asked for something: if there is nothing else that it has to deliver,
        its silence and the time that it takes are counted from now on.
        """
        if not self.is_waited_for:
            self.heard = now
        if not self.outstanding:
            self.delivered_at = self._since = now
            self._came = 0

    def delivered(self, now: float, request: Request, blocks: int) -> None:
        """
        It has delivered blocks.

        @param request: that they belong to.
        """
        self.outstanding -= blocks
        self.strikes = 0
        self._rest = MIN_REST
        self.delivered_at = self.heard = now
        self._delay = min(self._delay, now - request.asked_at)
        self._came += blocks
        passed = now - self._since
        # Over a whole window, since what the first one waited for, the others have waited for too.
        is_enough = self._came >= self.window or passed >= max(AHEAD, 2 * self._delay)
        if is_enough and passed >= MEASURE:
            measured = self._came / passed
            if measured > self._rate:
                self._rate = measured
            else:
                self._rate += (measured - self._rate) * SMOOTH
            self._since, self._came = now, 0
        self._grown += blocks
        if self._grown >= self.window:
            self._grown = 0
            self.window = min(2 * self.window, WINDOW)
        if self._rate:
            enough = ceil(self._rate * max(AHEAD, 2 * self._delay))
            self.window = max(1, min(self.window, enough))

    @property
    def together(self) -> int:
        """
        How many blocks may come in one frame: so many as come soon enough for each to be of use in
        time.
        """
        return max(1, min(int(self._hoped_rate * FRAME_TAKES), LONGEST_RUN // PIECES_PER_BLOCK))

    @property
    def at_once(self) -> int:
        """How many blocks to ask it for by one request, if others may come to have them."""
        return max(1, int(self._hoped_rate * REQUEST_TAKES))

    @property
    def _hoped_rate(self) -> float:
        # One that has seldom several blocks to deliver is not measured for long; but more than one
        # block comes in the time from a request to the first of them.
        return self._rate or 1 / max(self._delay, SHORTEST)

    def let_rest(self, now: float, wait: float = 0.0) -> None:
        """
        Leave it in peace for a while; the next time for longer, if it delivers nothing.

        @param wait: at least for so long, within L{MAX_REST}.
        """
        self.rests_until = now + min(max(wait, self._rest), MAX_REST)
        self._rest = min(2 * self._rest, MAX_REST)

    def begin_anew(self) -> None:
        """
        Give it no more than one block to deliver, until it has.
        """
        self.window = 1
        self._grown = 0
