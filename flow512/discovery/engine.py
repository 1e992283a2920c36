"""
What the beacon says and believes: datagrams and time in, actions out.

Rules

  - Whom it sees is what L{flow512.discovery.sightings} believes.
  - A question is answered to the address it came from, after a random while, unless the
    answer would be longer than the question or a budget is used up. Nothing else is ever
    answered, so two beacons cannot keep each other talking.
  - What a flood can cost is bounded: first its length and first bytes are looked at, then
    a budget for each source and one for all, and only then a datagram is opened and decoded.
  - Announcements grow rarer as the network grows, so that its traffic stays bounded.

Every input returns the actions to take, in order. L{Engine.wake_at} says when to call
L{Engine.tick} next; it may change with every input. Nothing here raises for what a
datagram holds.

What an action sends is the body of a datagram: only when it is known from which address and
port it goes out, L{Engine.envelop} makes it a datagram, since a seal binds it to them.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Final, TypeAlias

import msgspec

from flow512.discovery.datagram import (
    INSTANCE,
    MAX_INTERVAL,
    MAX_NAME,
    MAX_OFFERS,
    MAX_SEQUENCE,
    NODE_ID,
    Announce,
    Answer,
    Goodbye,
    Offer,
    Query,
    decode_body,
    encode_body,
    encode_query_body,
)
from flow512.discovery.limits import Budget, Budgets
from flow512.discovery.sealing import WINDOW, Envelope, OutOfTime, Seal, Unsealed
from flow512.discovery.sightings import (
    MAX_SIGHTINGS,
    Found,
    Ignored,
    Lost,
    Sighting,
    Sightings,
)
from flow512.errors import BadMessage, Misuse

__all__ = [
    "Action",
    "Engine",
    "Found",
    "Ignored",
    "Lost",
    "OffClock",
    "SendTo",
    "SendToAll",
    "Sighting",
]

BASE_INTERVAL: Final = 5.0
INTERVAL_PER_SIGHTING: Final = 0.075
"""
Seconds. All nodes of a network together announce some 13 times a second, however many they are.
Sealed and with all headers that is 16 kB/s on the wire; docs/beacon.rst has the sum.
"""

JITTER: Final = 0.2
"""Of the interval, to both sides."""

QUERY_DELAYS: Final = (0.3, 0.7)
"""Seconds from one question to the next; both fit into the time that an election listens."""

MIN_ANNOUNCE_GAP: Final = 1.0
"""Seconds between two announcements, however often an offer changes."""

ANSWER_DELAY: Final = (0.01, 0.1)
"""Seconds; the later end grows by a millisecond with each sighting, to a second at most."""

MAX_PENDING_ANSWERS: Final = 256

GOODBYE_MEMORY: Final = 300.0
"""Seconds; a forged goodbye does not hide a peer for longer than that either."""

SEALED_MEMORY: Final = 2 * WINDOW
"""
Seconds. What a clock that is just in time sealed last can be played for as long as that after
it was heard; and no stranger can forge what would hide a peer.
"""


class SendToAll(msgspec.Struct, frozen=True):
    """Send this on every usable interface."""

    body: bytes


class SendTo(msgspec.Struct, frozen=True):
    """Send this to one address."""

    body: bytes
    host: str
    port: int


class OffClock(msgspec.Struct, frozen=True):
    """
    A member is not heard, because its clock and ours are too far apart.

    It may also be a recording that somebody plays under that member's address.

    @ivar host: where the datagram came from.
    @ivar late: seconds that it is too old by our clock; negative if it is from the future.
    """

    host: str
    late: float


Action: TypeAlias = SendToAll | SendTo | Found | Lost | OffClock


class _Pending(msgspec.Struct, frozen=True):
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
    @param network: the tag of the network, at most 64 characters; empty is the open one. In
        a closed network it is not used: the key tells one from another.
    @param name: what others will be shown, at most 64 characters.
    @param node_id: 32 bytes, or none.
    @param offers: what can be reached here.
    @param random: for jitter, and for the nonces of seals.
    @param now: seconds on the clock that all other times are on. In a closed network that is
        the time of day, since 1970 and UTC, give or take less than L{WINDOW}.
    @param seal_key: 32 bytes derived from the key of a closed network; C{None}: an open one.
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
        seal_key: bytes | None = None,
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
        self._envelope: Envelope = Unsealed() if seal_key is None else Seal(seal_key, random)
        self._network = network if seal_key is None else ""
        self._name = name
        self._node_id = node_id
        self._offers: dict[str, Offer] = {}
        self._check_length()
        for offer in offers:
            self._set_offer(offer)
        self._random = random
        self._running = False
        self._sequence = 0
        self._query = encode_query_body(instance, self._network, self._envelope.room)
        self._queries: list[float] = []
        self._announce_at: float | None = None
        self._announced = now - MIN_ANNOUNCE_GAP
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._sightings = Sightings(GOODBYE_MEMORY if seal_key is None else SEALED_MEMORY)
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

    def received(
        self, data: bytes, host: str, port: int, now: float, time_of_day: float | None = None
    ) -> list[Action]:
        """
        Take in a datagram.

        @param data: whatever came.
        @param host: the IP address it came from, with C{%interface} if that is needed.
        @param port: the UDP port it came from.
        @param time_of_day: seconds since 1970, UTC, which is what members compare; C{now} if that
            is the same.
        """
        if not self._running:
            return []
        if not self._envelope.is_ours(data) or port == 0:
            return self._ignore(Ignored.NOISE)
        if not (self._source_budgets.take(host, now) and self._decode_budget.take(now)):
            return self._ignore(Ignored.FLOOD)
        try:
            sealed_by = now if time_of_day is None else time_of_day
            body = self._envelope.open(data, host, port, sealed_by)
        except OutOfTime as error:
            return [*self._ignore(Ignored.OUT_OF_TIME), OffClock(host, error.late)]
        except BadMessage:
            return self._ignore(Ignored.UNOPENED)
        try:
            datagram = decode_body(body)
        except BadMessage:
            return self._ignore(Ignored.MALFORMED)
        if datagram.instance == self._instance:
            return self._ignore(Ignored.OWN)
        if datagram.network != self._network:
            return self._ignore(Ignored.OTHER_NETWORK)
        outcome: Found | Lost | Ignored | None
        if isinstance(datagram, Query):
            outcome = self._asked(len(body), host, port, now)
        elif isinstance(datagram, Goodbye):
            outcome = self._sightings.left(datagram, host, now)
        else:
            outcome = self._sightings.told(datagram, host, now)
        if isinstance(outcome, Ignored):
            return self._ignore(outcome) + self._due(now)
        return ([] if outcome is None else [outcome]) + self._due(now)

    def envelop(self, body: bytes, host: str, port: int, time_of_day: float) -> bytes:
        """
        Make a datagram of what an action sends.

        @param body: the action's.
        @param host: the IP address that it is to be sent from.
        @param port: the UDP port that it is to be sent from.
        @param time_of_day: seconds since 1970, UTC.
        @return: at most 512 bytes.
        """
        return self._envelope.close(body, host, port, time_of_day)

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        return self._due(now) if self._running else []

    def offer(
        self,
        kind: str,
        port: int,
        now: float,
        *,
        term: int = 0,
        since: int = 0,
        appointed: bool = False,
    ) -> list[Action]:
        """
        Offer something, or say something else of it than before, and announce that soon.

        @param kind: C{"registry"}, C{"node"}, or what a newer version knows; 1 to 16 characters.
        @param port: its TCP port.
        @param term: of a registry: the term in which it leads.
        @param since: of a registry: since when, in milliseconds since 1970.
        @param appointed: of a registry: whether its user wants it to lead.
        @raise Misuse: a limit is broken; nothing was changed.
        """
        offer = Offer(kind, port, term, since, appointed)
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
        return [SendToAll(encode_body(goodbye, self._envelope.room))]

    # What there is to know

    @property
    def wake_at(self) -> float | None:
        """When to call L{tick}, or C{None} if nothing is to come."""
        if not self._running:
            return None
        times = [pending.due for pending in self._pending.values()]
        times += self._queries[:1]
        times += [at for at in (self._announce_at, self._sightings.sweep_at) if at is not None]
        return min(times, default=None)

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Whom it sees now, in the order in which they were found."""
        return tuple(self._sightings)

    @property
    def interval(self) -> float:
        """Seconds between announcements, as many peers as there are."""
        stretched = max(BASE_INTERVAL, len(self._sightings) * INTERVAL_PER_SIGHTING)
        return min(stretched, MAX_INTERVAL)

    # What others say

    def _ignore(self, why: Ignored) -> list[Action]:
        self.ignored[why] += 1
        return []

    def _asked(self, room: int, host: str, port: int, now: float) -> Ignored | None:
        asker = (host, port)
        if asker in self._pending:
            return None  # the same question by another way: broadcast and multicast
        if (
            not self._offers
            or len(self._pending) >= MAX_PENDING_ANSWERS
            or room < len(self._announcement(Answer, self._sequence + 1, self.interval))
            or not self._subnet_answers.take(_subnet(host), now)
            or not self._answer_budget.take(now)
        ):
            return Ignored.UNANSWERED
        earliest, latest = ANSWER_DELAY
        latest = min(1.0, latest + len(self._sightings) / 1000)
        self._pending[asker] = _Pending(now + self._random.uniform(earliest, latest), room)
        return None

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
        self._announcement(Announce, MAX_SEQUENCE, MAX_INTERVAL)

    def _announcement(self, kind: type[Announce], sequence: int, interval: float) -> bytes:
        return encode_body(
            kind(
                self._instance,
                self._network,
                self._name,
                self._node_id,
                tuple(self._offers.values()),
                sequence,
                int(interval * 1000),
            ),
            self._envelope.room,
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
        sweep_at = self._sightings.sweep_at
        if sweep_at is not None and sweep_at <= now:
            actions += self._sightings.sweep(now)
        return actions
