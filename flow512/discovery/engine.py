"""
What the beacon says and believes: datagrams and time in, actions out.

Rules

  - A sighting is one instance at one source address. The address is the datagram's, the
    rest is what it claims. The only thing to do with a sighting is to try its address.
  - A sighting is replaced only by a greater sequence number from the same address and
    instance, ended by a goodbye from there or by silence, and never by anybody else: when
    the table is full, new ones are ignored.
  - After a goodbye that instance is not believed again from that address for a while,
    so that a recording cannot bring it back.
  - A question is answered to the address it came from, after a random while, unless the
    answer would be longer than the question or a budget is used up. Nothing else is ever
    answered, so two beacons cannot keep each other talking.
  - What a flood can cost is bounded: first its length and first bytes are looked at, then
    a budget for each source and one for all, and only then a datagram is decoded.
  - Announcements grow rarer as the network grows, so that its traffic stays bounded.

Every input returns the actions to take, in order. L{Engine.wake_at} says when to call
L{Engine.tick} next; it may change with every input. Nothing here raises for what a
datagram holds.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final, TypeAlias

from flow512.discovery.datagram import (
    INSTANCE,
    MAX_INTERVAL,
    MAX_NAME,
    MAX_OFFERS,
    NODE_ID,
    Announce,
    Answer,
    Goodbye,
    Offer,
    Query,
    decode,
    encode,
    encode_query,
    is_ours,
)
from flow512.discovery.limits import Budget, Budgets
from flow512.errors import BadMessage, Misuse

BASE_INTERVAL: Final = 5.0
INTERVAL_PER_SIGHTING: Final = 0.05
"""Seconds; together: all peers of a network announce at most 20 times a second."""

JITTER: Final = 0.2
"""Of the interval, to both sides."""

QUERY_DELAYS: Final = (0.3, 0.7)
"""Seconds from one question to the next; both fit into the time that an election listens."""

MIN_ANNOUNCE_GAP: Final = 1.0
"""Seconds between two announcements, however often an offer changes."""

ANSWER_DELAY: Final = (0.01, 0.1)
"""Seconds; the later end grows by a millisecond with each sighting, to a second at most."""

SILENT_INTERVALS: Final = 3
SLACK: Final = 2.0
"""Seconds beyond those intervals until a peer counts as lost."""

SWEEP_GAP: Final = 0.5
"""Seconds between two looks for lost peers, so that no pattern of intervals makes it costly."""

MAX_SIGHTINGS: Final = 4096
MAX_SIGHTINGS_PER_HOST: Final = 64
MAX_PENDING_ANSWERS: Final = 256

GOODBYE_MEMORY: Final = 300.0
"""Seconds; a forged goodbye does not hide a peer for longer than that either."""


class Ignored(Enum):
    """Why a datagram was ignored."""

    NOISE = "too long, not ours, or of another version"
    OFF_LINK = "from an address that is on none of our links"
    FLOOD = "over the budget of its source, or of all sources"
    MALFORMED = "not what its kind promises"
    OWN = "our own, come back"
    OTHER_NETWORK = "for another network"
    REPLAY = "not newer than what is known"
    FULL = "no room in the table"
    UNKNOWN = "a goodbye of somebody that was not there"
    UNANSWERED = "a question over the budget for answers, too short, or with nothing to answer"


@dataclass(frozen=True)
class Sighting:
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


@dataclass(frozen=True)
class SendToAll:
    """Send this on every usable interface."""

    data: bytes


@dataclass(frozen=True)
class SendTo:
    """Send this to one address."""

    data: bytes
    host: str
    port: int


@dataclass(frozen=True)
class Found:
    """A peer is there, or says something else of itself than before."""

    sighting: Sighting


@dataclass(frozen=True)
class Lost:
    """A peer said goodbye or fell silent; this is what it said last."""

    sighting: Sighting


Action: TypeAlias = SendToAll | SendTo | Found | Lost
_Key: TypeAlias = tuple[str, bytes]


@dataclass
class _Seen:
    sighting: Sighting
    sequence: int
    deadline: float


@dataclass(frozen=True)
class _Pending:
    due: float
    room: int


def _subnet(host: str) -> str:
    """The /24 or /64 that a source address is in: what one machine can easily speak for."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return address.packed[:8].hex()
    return address.packed[:3].hex()


class Engine:
    """
    The beacon of one run of one process.

    @param instance: 16 random bytes.
    @param network: the tag of the network, at most 64 characters; empty is the open one.
    @param name: what others will be shown, at most 64 characters.
    @param node_id: 32 bytes, or none.
    @param offers: what can be reached here.
    @param random: for jitter.
    @param now: seconds on the clock that all other times are on.
    @raise Misuse: one of them is over its limit.
    """

    def __init__(
        self,
        *,
        instance: bytes,
        network: str,
        name: str,
        node_id: bytes,
        offers: Iterable[Offer],
        random: Random,
        now: float,
    ) -> None:
        if len(instance) != INSTANCE:
            raise Misuse("An instance has 16 bytes.")
        if len(node_id) not in (0, NODE_ID):
            raise Misuse("A node id has 32 bytes, or none.")
        for what, text in (("network", network), ("node", name)):
            if len(text) > MAX_NAME:
                raise Misuse(f"The name of the {what} has more than {MAX_NAME} characters.")
        self.ignored: Counter[Ignored] = Counter()
        self._instance = instance
        self._network = network
        self._name = name
        self._node_id = node_id
        self._offers: dict[str, Offer] = {}
        self._check_length()
        for offer in offers:
            self._set_offer(offer)
        self._random = random
        self._running = False
        self._sequence = 0
        self._query = encode_query(instance, network)
        self._queries: list[float] = []
        self._announce_at: float | None = None
        self._announced = now - MIN_ANNOUNCE_GAP
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._seen: dict[_Key, _Seen] = {}
        self._per_host: Counter[str] = Counter()
        self._sweep_at: float | None = None
        self._gone: dict[_Key, float] = {}
        # Generous for 64 nodes behind one address, and for a network that answers at once.
        self._source_budgets = Budgets(50, 200, MAX_SIGHTINGS, now)
        self._decode_budget = Budget(2000, MAX_SIGHTINGS, now)
        self._subnet_answers = Budgets(16, 64, 1024, now)
        self._answer_budget = Budget(64, 256, now)

    # Inputs

    def started(self, now: float) -> list[Action]:
        """Begin to ask, to announce and to listen."""
        self._running = True
        return self.arrived(now)

    def arrived(self, now: float) -> list[Action]:
        """There is a link that was not there before: announce, and ask a few times who is here."""
        if not self._running:
            return []
        self._queries = [now]
        for delay in QUERY_DELAYS:
            self._queries.append(self._queries[-1] + self._jittered(delay))
        return self._changed(now) if self._offers else self._due(now)

    def received(self, data: bytes, host: str, port: int, now: float) -> list[Action]:
        """
        Take in a datagram.

        @param data: whatever came.
        @param host: the IP address it came from, with C{%interface} if that is needed.
        @param port: the UDP port it came from.
        """
        if not self._running:
            return []
        if not is_ours(data) or port == 0:
            return self._ignore(Ignored.NOISE)
        if not (self._source_budgets.take(host, now) and self._decode_budget.take(now)):
            return self._ignore(Ignored.FLOOD)
        try:
            datagram = decode(data)
        except BadMessage:
            return self._ignore(Ignored.MALFORMED)
        if datagram.instance == self._instance:
            return self._ignore(Ignored.OWN)
        if datagram.network != self._network:
            return self._ignore(Ignored.OTHER_NETWORK)
        if isinstance(datagram, Query):
            actions = self._asked(len(data), host, port, now)
        elif isinstance(datagram, Goodbye):
            actions = self._left(datagram, host, now)
        else:
            actions = self._told(datagram, host, now)
        return actions + self._due(now)

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        return self._due(now) if self._running else []

    def offer(self, kind: str, port: int, now: float) -> list[Action]:
        """
        Offer something, or the same at another port, and announce that soon.

        @param kind: C{"registry"}, C{"node"}, or what a newer version knows; 1 to 16 characters.
        @param port: its TCP port.
        @raise Misuse: a limit is broken; nothing was changed.
        """
        offer = Offer(kind, port)
        if self._offers.get(kind) == offer:
            return []
        self._set_offer(offer)
        return self._changed(now)

    def withdraw(self, kind: str, now: float) -> list[Action]:
        """Offer that no longer, and announce so soon."""
        if self._offers.pop(kind, None) is None:
            return []
        return self._changed(now)

    def stopping(self, now: float) -> list[Action]:
        """Say goodbye, if anything was ever said; nothing happens any more after that."""
        if not self._running:
            return []
        self._running = False
        if self._sequence == 0:
            return []
        goodbye = Goodbye(self._instance, self._network, self._next_sequence())
        return [SendToAll(encode(goodbye))]

    # What there is to know

    @property
    def wake_at(self) -> float | None:
        """When to call L{tick}, or C{None} if nothing is to come."""
        if not self._running:
            return None
        times = [pending.due for pending in self._pending.values()]
        times += self._queries[:1]
        times += [at for at in (self._announce_at, self._sweep_at) if at is not None]
        return min(times, default=None)

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Whom it sees now, in the order in which they were found."""
        return tuple(seen.sighting for seen in self._seen.values())

    @property
    def interval(self) -> float:
        """Seconds between announcements, as many peers as there are."""
        stretched = max(BASE_INTERVAL, len(self._seen) * INTERVAL_PER_SIGHTING)
        return min(stretched, MAX_INTERVAL)

    # What others say

    def _ignore(self, why: Ignored) -> list[Action]:
        self.ignored[why] += 1
        return []

    def _told(self, told: Announce | Answer, host: str, now: float) -> list[Action]:
        key = (host, told.instance)
        self._forget_goodbyes(now)
        seen = self._seen.get(key)
        if key in self._gone or (seen is not None and told.sequence <= seen.sequence):
            return self._ignore(Ignored.REPLAY)
        if seen is None and (
            len(self._seen) >= MAX_SIGHTINGS or self._per_host[host] >= MAX_SIGHTINGS_PER_HOST
        ):
            return self._ignore(Ignored.FULL)
        sighting = Sighting(host, told.instance, told.name, told.node_id, told.offers)
        deadline = now + SILENT_INTERVALS * told.interval / 1000 + SLACK
        self._seen[key] = _Seen(sighting, told.sequence, deadline)
        if seen is None:
            self._per_host[host] += 1
        if self._sweep_at is None or deadline < self._sweep_at:
            self._sweep_at = deadline
        if seen is not None and seen.sighting == sighting:
            return []
        return [Found(sighting)]

    def _left(self, goodbye: Goodbye, host: str, now: float) -> list[Action]:
        key = (host, goodbye.instance)
        seen = self._seen.get(key)
        if seen is None:
            return self._ignore(Ignored.UNKNOWN)
        if goodbye.sequence <= seen.sequence:
            return self._ignore(Ignored.REPLAY)
        if len(self._gone) >= MAX_SIGHTINGS:
            del self._gone[next(iter(self._gone))]
        self._gone[key] = now + GOODBYE_MEMORY
        return [self._lose(key)]

    def _asked(self, room: int, host: str, port: int, now: float) -> list[Action]:
        asker = (host, port)
        if asker in self._pending:
            return []  # the same question by another way: broadcast and multicast
        if (
            not self._offers
            or len(self._pending) >= MAX_PENDING_ANSWERS
            or room < len(self._announcement(Answer, self._sequence + 1, self.interval))
            or not self._subnet_answers.take(_subnet(host), now)
            or not self._answer_budget.take(now)
        ):
            return self._ignore(Ignored.UNANSWERED)
        earliest, latest = ANSWER_DELAY
        latest = min(1.0, latest + len(self._seen) / 1000)
        self._pending[asker] = _Pending(now + self._random.uniform(earliest, latest), room)
        return []

    def _lose(self, key: _Key) -> Lost:
        seen = self._seen.pop(key)
        host = key[0]
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]
        return Lost(seen.sighting)

    def _forget_goodbyes(self, now: float) -> None:
        # All are kept equally long, so the oldest stands first.
        while self._gone and next(iter(self._gone.values())) <= now:
            del self._gone[next(iter(self._gone))]

    # What we say

    def _set_offer(self, offer: Offer) -> None:
        if not (1 <= len(offer.kind) <= 16 and 1 <= offer.port <= 65535):
            raise Misuse("An offer has a kind of 1 to 16 characters, and a port of 1 to 65535.")
        offers = {**self._offers, offer.kind: offer}
        if len(offers) > MAX_OFFERS:
            raise Misuse(f"No more than {MAX_OFFERS} things can be offered at once.")
        before, self._offers = self._offers, offers
        try:
            self._check_length()
        except Misuse:
            self._offers = before
            raise

    def _check_length(self) -> None:
        # With the longest numbers that there can be: what fits now still fits later.
        self._announcement(Announce, 2**63 - 1, MAX_INTERVAL)

    def _announcement(self, kind: type[Announce], sequence: int, interval: float) -> bytes:
        return encode(
            kind(
                self._instance,
                self._network,
                self._name,
                self._node_id,
                tuple(self._offers.values()),
                sequence,
                int(interval * 1000),
            )
        )

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _changed(self, now: float) -> list[Action]:
        if not self._running:
            return []
        soon = max(now, self._announced + MIN_ANNOUNCE_GAP)
        self._announce_at = soon if self._announce_at is None else min(soon, self._announce_at)
        return self._due(now)

    def _due(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._announce_at is not None and self._announce_at <= now:
            sequence = self._next_sequence()
            actions.append(SendToAll(self._announcement(Announce, sequence, self.interval)))
            self._announced = now
            # The one that said that nothing is offered any more was the last.
            self._announce_at = now + self._jittered(self.interval) if self._offers else None
        if self._queries and self._queries[0] <= now:
            actions.append(SendToAll(self._query))
            self._queries = [at for at in self._queries if at > now]
        for asker in [asker for asker, pending in self._pending.items() if pending.due <= now]:
            pending = self._pending.pop(asker)
            answer = self._announcement(Answer, self._next_sequence(), self.interval)
            # The offers, and with them the length, may have changed since it was asked.
            if self._offers and len(answer) <= pending.room:
                actions.append(SendTo(answer, *asker))
        if self._sweep_at is not None and self._sweep_at <= now:
            actions += self._sweep(now)
        return actions

    def _sweep(self, now: float) -> list[Action]:
        lost: list[Action] = [
            self._lose(key)
            for key in [key for key, seen in self._seen.items() if seen.deadline <= now]
        ]
        deadline = min((seen.deadline for seen in self._seen.values()), default=None)
        self._sweep_at = None if deadline is None else max(deadline, now + SWEEP_GAP)
        return lost
