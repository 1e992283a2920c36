"""
A limit on how fast bytes go that several connections share, and how they take turns.

States of who shares it, a taker::

    absent ──ask: no leave, or others wait──> waiting ──due, longest first──> turn
       ↑                                         ↑                              │
       ├──────────────asked for nothing more─────┼──────────────────────────────┤
       │                                         └──asked for more─────────────┘
       └── forget

Who has a turn may send L{TURN} bytes: one block, or as many smaller things, so that who reads small
files does not get one of them for each block of another. If they are not all due at once, it stays
first in the queue meanwhile. After that it is last in the queue. So of takers who all want more
blocks, none is ever ahead of another by more than one. Whose next thing does not fit in what is
left of the turn leaves that: it loses a part of its share, less than one thing a turn.

Invariants:

  - What may go is counted in one L{Bucket}; without a limit nothing is counted, and nobody waits
    longer than until the next turn of the reactor.
  - A taker is told of its turn only by the timer, never while it asks, nor while another does.
  - The timer runs exactly while somebody waits, but for while turns are given.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.link.rate import TURN, Bucket, check_rate

_GRAIN: Final = 1e-6
"""Seconds; what is due so soon is due: a sum of floats does not hit the very moment."""


class Taker(Protocol):
    """
    One who shares a limit.
    """

    def turn_came(self) -> None:
        """Its turn has come: it asks again, at once, or has lost it."""


class Throttle:
    """
    Says who may send, or take, how much, and when.

    @ivar is_limited: whether there is a limit; else there is no need to L{ask}.
    """

    def __init__(self, clock: IReactorTime, rate: int = 0) -> None:
        """
        @param clock: for when the next turn is due.
        @param rate: bytes a second; 0 for no limit.
        @raise Misuse: the rate is out of range.
        """
        self._clock = clock
        self._bucket: Bucket | None = None
        self._waiting: OrderedDict[Taker, int] = OrderedDict()  # and for how much
        self._turn: Taker | None = None
        self._left = 0  # of the turn
        self._is_giving_turns = False
        self._timer: IDelayedCall | None = None
        self.is_limited = False
        self.limit(rate)

    @property
    def rate(self) -> int:
        """Bytes a second; 0 if there is no limit."""
        return 0 if self._bucket is None else int(self._bucket.rate)

    def limit(self, rate: int) -> None:
        """
        Set another limit, from now on.

        @param rate: bytes a second; 0 for no limit.
        @raise Misuse: it is out of range; the limit stays as it was.
        """
        check_rate(rate)
        now = self._clock.seconds()
        if not rate:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = Bucket(rate, now)
        else:
            self._bucket.change(rate, now)
        self.is_limited = self._bucket is not None
        self._set_timer()

    def ask(self, taker: Taker, size: int) -> bool:
        """
        Ask for leave. Without a limit that is given, and nothing is counted.

        @param taker: who asks, for itself alone.
        @param size: bytes, more than 0.
        @return: whether they may go now, and are counted; else the taker waits, and is told when
            its turn has come.
        """
        bucket = self._bucket
        if bucket is None:
            return True
        now = self._clock.seconds()
        is_due = bucket.due(size) <= now + _GRAIN
        if taker is self._turn:
            if size <= self._left or self._left == TURN:
                if is_due:
                    self._left -= size
                    bucket.take_late(size, now)
                    self._no_longer_waits(taker)
                    return True
                self._waiting[taker] = size
                self._waiting.move_to_end(taker, last=False)
                self._set_timer()
                return False
            self._turn = None
        elif is_due and not self._waiting and self._turn is None:
            bucket.take(size, now)
            return True
        self._waiting[taker] = size
        if taker is next(iter(self._waiting)):
            self._set_timer()
        return False

    def give_back(self, size: int) -> None:
        """
        Count bytes no longer that did not go; or, if C{size} is negative, count some more.
        """
        if self._bucket is not None:
            self._bucket.give_back(size)
            self._set_timer()

    def forget(self, taker: Taker) -> None:
        """
        Forget a taker who wants nothing any more.
        """
        if taker is self._turn:
            self._turn = None
        self._no_longer_waits(taker)

    def _no_longer_waits(self, taker: Taker) -> None:
        if self._waiting.pop(taker, None) is not None:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._is_giving_turns:
            self._timer = self._clock.callLater(self._wait(), self._give_turns)

    def _wait(self) -> float:
        """Seconds until whoever waits longest has its turn."""
        if self._bucket is None:
            return 0.0
        due = self._bucket.due(next(iter(self._waiting.values())))
        return max(0.0, due - self._clock.seconds())

    def _give_turns(self) -> None:
        self._timer = None
        self._is_giving_turns = True
        try:
            while self._waiting and self._wait() <= _GRAIN:
                taker, _ = self._waiting.popitem(last=False)
                if taker is not self._turn:
                    self._turn, self._left = taker, TURN
                taker.turn_came()
        finally:
            self._is_giving_turns = False
            if self._turn not in self._waiting:
                self._turn = None
            self._set_timer()
