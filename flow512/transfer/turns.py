"""
Turns: to whom a node sends next where many want blocks, and which block.

If a thousand want something of one node at once, and each has its share of the link, all of them
wait until the last moment for their first block, and have nothing to pass on till then. If each is
sent what it happened to ask for, they get the same blocks again and again. So blocks are sent to a
few at a time, and of what is asked for the one first that was sent longest ago, or never: after the
node has sent each block once, all of them are somewhere else.

States of a reader::

    absent ──ask: a place is free──> sending ──its block is sent, others wait──> absent
       │                               ↑ └──leave, or PLACE_FOR seconds are over──> absent
       └──ask: none is──> waiting ─────┘
        (of those who wait longest, the one that wants the block that was sent longest ago)

Invariants:

  - While nobody waits, who is sending goes on as it likes: few readers notice nothing of this.
  - Only the quarter that waits longest is looked at, so nobody has turn after turn because what it
    wants next was never sent. Whoever wants what was sent a moment ago waits longer, but not for
    ever: every L{LONGEST_EVERY}th turn is for who waits longest.
  - A place is free while fewer than so many are sending. How many is found out: twice as many are
    tried now and then, and kept if together they are sent more; half as many are tried, and
    kept if they are sent as much. So readers that are slow themselves do not keep a fast link idle.
  - Who has a place for L{PLACE_FOR} seconds, and has not taken a block, has it no more.
  - The timer runs only while somebody waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.units import BLOCK

AT_ONCE: Final = 2
"""Readers that are sent blocks at once, at least."""

LOOKED_AT: Final = 1024
"""How many of those who wait longest are looked at for the block that was sent longest ago."""

LOOKED_AT_LEAST: Final = 8
"""And how many of them, at least."""

LONGEST_EVERY: Final = 16
"""Every so manieth turn is for who waits longest, whatever it wants."""

PLACE_FOR: Final = 5.0
"""Seconds in which a block has to be taken. Two at once do so on a link of 103 KiB/s."""

REMEMBERED: Final = 16384
"""Blocks of which it is known when they were sent (4 GiB)."""

TRIED_FOR: Final = 1.0
"""Seconds for which a number of places is tried, at least."""

MORE: Final = 1.4
"""How many times as much twice as many places have to bring."""

AS_MUCH: Final = 0.8
"""How many times as much half as many places have to bring."""

SAMPLE: Final = 4
"""Blocks for each place that have to be sent for that, at least."""

_LOOK_GAP: Final = 0.1
"""Seconds between two looks at who takes nothing, at least."""

Wanted: TypeAlias = tuple[bytes, int]
"""A block: the root of its content, and its number."""


class Reader(Protocol):
    """One who is sent blocks."""

    def wanted(self) -> Iterable[Wanted]:
        """The blocks that it could be sent next."""

    def go_on(self) -> None:
        """Its turn has come: it has a place."""


class Turns:
    """
    Says whose turn it is.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """
        @param clock: for the timer, and to measure how much is sent.
        """
        self._clock = clock
        self._sending: OrderedDict[Reader, float] = OrderedDict()  # since when
        self._waiting: OrderedDict[Reader, None] = OrderedDict()
        self._sent: OrderedDict[Wanted, int] = OrderedDict()  # the how manieth it was
        self._count = 0
        self._turn = 0
        self._is_giving = False
        self._timer: IDelayedCall | None = None
        self._places = AT_ONCE
        self._before: tuple[int, float] | None = None  # places, and what they brought
        self._tries_more = True
        self._since = 0.0
        self._taken = 0

    @property
    def is_crowded(self) -> bool:
        """Whether a reader may have one block at a time only."""
        return bool(self._waiting)

    def ask(self, reader: Reader) -> bool:
        """
        Ask for a place.

        @return: whether the reader has one; else it is told when its turn has come.
        """
        if reader in self._sending:
            return True
        if not self._waiting:
            if len(self._sending) < self._places:
                self._sending[reader] = self._clock.seconds()
                return True
            self._measure_anew()
        self._waiting[reader] = None
        self._watch()
        return False

    def first_of(self, wanted: Iterable[Wanted]) -> int:
        """
        Say which of some blocks is to be sent first.

        @return: the place, among them, of the one that was sent longest ago.
        """
        times = [self._sent.get(each, 0) for each in wanted]
        return times.index(min(times))

    def begin(self, wanted: Wanted) -> None:
        """
        A block is about to be sent to somebody.
        """
        self._count += 1
        self._sent[wanted] = self._count
        self._sent.move_to_end(wanted)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def taken(self, reader: Reader, size: int) -> None:
        """
        A reader's transport has taken all that it was given: others have their turn.

        @param size: bytes that this was.
        """
        self._taken += size
        if self._waiting or len(self._sending) > AT_ONCE:
            self._try_places()
        if self._waiting or len(self._sending) > self._places:
            self._sending.pop(reader, None)
            self._give()
        elif reader in self._sending:
            self._sending[reader] = self._clock.seconds()
            self._sending.move_to_end(reader)

    def leave(self, reader: Reader) -> None:
        """
        A reader wants nothing any more.
        """
        self._sending.pop(reader, None)
        self._waiting.pop(reader, None)
        self._give()

    # Giving

    def _give(self) -> None:
        if self._is_giving:
            # Somebody whose turn has come was through with it at once: the loop below goes on.
            return
        self._is_giving = True
        while self._waiting and len(self._sending) < self._places:
            reader = self._choose()
            del self._waiting[reader]
            self._sending[reader] = self._clock.seconds()
            reader.go_on()
        self._is_giving = False
        self._watch()

    def _choose(self) -> Reader:
        self._turn = (self._turn + 1) % LONGEST_EVERY
        longest = next(iter(self._waiting))
        if not self._turn:
            return longest
        best = self._count + 1, longest
        # Who had a turn a moment ago waits behind these.
        for reader in islice(
            self._waiting, min(max(LOOKED_AT_LEAST, len(self._waiting) // 4), LOOKED_AT)
        ):
            sent = min((self._sent.get(each, 0) for each in reader.wanted()), default=best[0])
            if sent < best[0]:
                best = sent, reader
                if not sent:
                    break
        return best[1]

    # Those who do not take what they are sent

    def _watch(self) -> None:
        if self._waiting and self._sending:
            if self._timer is None:
                since = next(iter(self._sending.values()))
                wait = max(_LOOK_GAP, since + PLACE_FOR - self._clock.seconds())
                self._timer = self._clock.callLater(wait, self._look)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        late = [reader for reader, since in self._sending.items() if since + PLACE_FOR <= now]
        for reader in late:
            del self._sending[reader]
        if late and not self._taken:
            self._places *= 2  # nobody takes anything; the next ones may
        self._give()

    # How many at once

    def _measure_anew(self) -> None:
        self._before = None
        self._since = self._clock.seconds()
        self._taken = 0

    def _try_places(self) -> None:
        passed = self._clock.seconds() - self._since
        if passed < TRIED_FOR or self._taken < SAMPLE * self._places * BLOCK:
            return
        rate = self._taken / passed
        if self._before is not None:
            places, before = self._before
            enough = MORE if self._places > places else AS_MUCH
            if rate < enough * before:
                self._places = places
                self._tries_more = not self._tries_more
            self._measure_anew()
            return
        self._measure_anew()
        self._before = self._places, rate
        if self._tries_more:
            self._places *= 2
        elif self._places > AT_ONCE:
            self._places = max(AT_ONCE, self._places // 2)
        else:
            self._tries_more = True
