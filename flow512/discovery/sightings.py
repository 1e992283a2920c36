"""
Whom a beacon sees: what is believed of what others announce.

Rules

  - A sighting is one instance at one source address. The address is the datagram's, the
    rest is what it claims. The only thing to do with a sighting is to try its address.
  - A sighting is replaced only by a greater sequence number from the same address and
    instance, ended by a goodbye from there or by silence, and never by anybody else: when
    the table is full, new ones are ignored.
  - After a goodbye that instance is not believed again from that address for a while, and
    after silence only with a greater sequence number, so that a recording cannot bring it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Final, TypeAlias

import msgspec

from flow512.discovery.datagram import MAX_SEQUENCE, Announce, Goodbye, Offer

SILENT_INTERVALS: Final = 3
SLACK: Final = 2.0
"""Seconds beyond those intervals until a peer counts as lost."""

SWEEP_GAP: Final = 0.5
"""Seconds between two looks for lost peers, so that no pattern of intervals makes it costly."""

MAX_SIGHTINGS: Final = 4096
MAX_SIGHTINGS_PER_HOST: Final = 64


class Ignored(Enum):
    """Why a datagram was ignored."""

    NOISE = "too long, not ours, of another version, or sealed where others are not"
    OFF_LINK = "from an address that is on none of our links"
    FLOOD = "over the budget of its source, or of all sources"
    UNOPENED = "sealed with another key, or for another source address"
    OUT_OF_TIME = "sealed too long ago or from now, by our clock"
    MALFORMED = "not what its kind promises"
    OWN = "our own, come back"
    OTHER_NETWORK = "for another network"
    REPLAY = "not newer than what is known"
    FULL = "no room in the table"
    UNKNOWN = "a goodbye of somebody that was not there"
    UNANSWERED = "a question over the budget for answers, too short, or with nothing to answer"


class Sighting(msgspec.Struct, frozen=True):
    """
    One instance, seen at one address.

    @ivar host: IP address, with C{%interface} if it means nothing without.
    @ivar instance: 16 bytes.
    @ivar name: as claimed; hostile until it is escaped for display.
    @ivar node_id: as claimed: 32 bytes, or none.
    @ivar offers: as claimed.
    """

    host: str
    instance: bytes
    name: str
    node_id: bytes
    offers: tuple[Offer, ...]

    def port(self, kind: str) -> int | None:
        """The TCP port of what is offered under that kind, or C{None}."""
        return next((offer.port for offer in self.offers if offer.kind == kind), None)


class Found(msgspec.Struct, frozen=True):
    """A peer is there, or says something else of itself than before."""

    sighting: Sighting


class Lost(msgspec.Struct, frozen=True):
    """A peer said goodbye or fell silent; this is what it said last."""

    sighting: Sighting


_Key: TypeAlias = tuple[str, bytes]


class _Seen(msgspec.Struct):
    sighting: Sighting
    sequence: int
    deadline: float


class _Gone(msgspec.Struct, frozen=True):
    """What is remembered of a lost one: until when nothing up to that sequence is believed."""

    sequence: int
    until: float


class Sightings:
    """
    The table of sightings, in the order in which they were found.

    @param memory: seconds for which the lost are remembered.
    @ivar sweep_at: when to call L{sweep} next, or C{None}.
    """

    def __init__(self, memory: float) -> None:
        self.sweep_at: float | None = None
        self._memory = memory
        self._seen: dict[_Key, _Seen] = {}
        self._per_host: Counter[str] = Counter()
        self._gone: dict[_Key, _Gone] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[Sighting]:
        return (seen.sighting for seen in self._seen.values())

    def told(self, told: Announce, host: str, now: float) -> Found | Ignored | None:
        """
        Take in what somebody announces or answers.

        @return: what is new; why it is not believed; or C{None}: what was known is still so.
        """
        key = (host, told.instance)
        self._forget_the_lost(now)
        seen = self._seen.get(key)
        last = seen or self._gone.get(key)
        if last is not None and told.sequence <= last.sequence:
            return Ignored.REPLAY
        if seen is None and (
            len(self._seen) >= MAX_SIGHTINGS or self._per_host[host] >= MAX_SIGHTINGS_PER_HOST
        ):
            return Ignored.FULL
        sighting = Sighting(host, told.instance, told.name, told.node_id, told.offers)
        deadline = now + SILENT_INTERVALS * told.interval / 1000 + SLACK
        self._seen[key] = _Seen(sighting, told.sequence, deadline)
        if seen is None:
            self._per_host[host] += 1
        if self.sweep_at is None or deadline < self.sweep_at:
            self.sweep_at = deadline
        if seen is not None and seen.sighting == sighting:
            return None
        return Found(sighting)

    def left(self, goodbye: Goodbye, host: str, now: float) -> Lost | Ignored:
        """Take in a goodbye, and return who is lost or why it is not believed."""
        key = (host, goodbye.instance)
        seen = self._seen.get(key)
        if seen is None:
            return Ignored.UNKNOWN
        if goodbye.sequence <= seen.sequence:
            return Ignored.REPLAY
        return self._lose(key, MAX_SEQUENCE, now)

    def sweep(self, now: float) -> list[Lost]:
        """Return who has fallen silent."""
        silent = [(key, seen) for key, seen in self._seen.items() if seen.deadline <= now]
        lost = [self._lose(key, seen.sequence, now) for key, seen in silent]
        deadline = min((seen.deadline for seen in self._seen.values()), default=None)
        self.sweep_at = None if deadline is None else max(deadline, now + SWEEP_GAP)
        return lost

    def _lose(self, key: _Key, sequence: int, now: float) -> Lost:
        seen = self._seen.pop(key)
        host = key[0]
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]
        self._gone.pop(key, None)
        if len(self._gone) >= MAX_SIGHTINGS:
            del self._gone[next(iter(self._gone))]
        self._gone[key] = _Gone(sequence, now + self._memory)
        return Lost(seen.sighting)

    def _forget_the_lost(self, now: float) -> None:
        # All are remembered equally long, so the oldest stands first.
        while self._gone and next(iter(self._gone.values())).until <= now:
            del self._gone[next(iter(self._gone))]
