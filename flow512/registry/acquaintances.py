"""
Whom a node has met: peers and registries that it has reached itself, and hints where to find more.

Pure: the time, and what came of each visit, are told to it; it says whom to visit. A visit is a
connection to one address, on which the other side proves who it is, and tells whom it has met.
States of a peer::

    told of ──a place is free──> visited ──it proves itself──> met ──its turn comes──> visited
                 ▲                  └──it does not──> resting        (it is told of meanwhile)
                 └─────────────────────────────────────┘ after a rest, twice as long each time

What holds:

  1. Only who was met within L{LATELY} seconds, and did not fail since, is told of to others. What
     was told of is never told on.
  2. What is told of a peer never takes the place of where it was met; it is tried in turn with
     that once nobody answers there.
  3. Of what was only told of, no more is dialled in an hour than one search may dial: in all, at
     one address, and in one subnet (L{Limits.dials}). What fails rests, and after L{TRIES} is only
     tried once for each time that it is told of, and not before L{LONGEST_REST}; so nobody can be
     made to dial a victim in a loop, or to hammer one.
  4. Memory is bounded: L{Limits.dials} peers, of whom one teller names L{MOST_TOLD_BY_ONE}. Who
     was met is not pushed out by who was told of.

Without a registry a node visits everybody whom it hears of, again and again, the more rarely the
more there are. While a registry lists it, that tells it of everybody on its list, and of these it
only keeps L{FEW} warm, for whoever asks and for later. Whoever is not on the list may follow
another registry, and is visited as before, to hear of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from math import inf
from random import Random
from typing import Final

import msgspec
from msgspec.structs import replace

from flow512.discovery.limits import Budget, Budgets
from flow512.limits import Limits
from flow512.link.origin import source_of, subnet_of
from flow512.registry.peer_list import can_be_dialled
from flow512.wire.fields import MAX_PEERS, Peer
from flow512.wire.meeting import MAX_REGISTRIES

LATELY: Final = 900.0
"""Seconds for which others are told of who was met."""

FEW: Final = 8
"""Peers that are visited now and then while a registry lists all of them anyway."""

AT_ONCE: Final = 8
"""Visits under way at the same time, at most."""

FIRST_ROUND: Final = 5.0
"""Seconds from the first visit to the second, for whom the other has met meanwhile."""

ROUND: Final = 60.0
"""Seconds between two visits, once they know each other for a while and no registry is there."""

ROUND_PER_PEER: Final = 0.25
"""Seconds for each peer, if that is more: so nobody makes more than four visits a second."""

ROUND_OF_FEW: Final = 300.0
"""Seconds between two visits while a registry is there."""

FIRST_REST: Final = 15.0
LONGEST_REST: Final = 3600.0
"""Seconds until somebody who was not reached is tried again; at first, and at most."""

LONGEST_REST_OF_MET: Final = 300.0
"""Likewise at most for who was met once: he may be back, or on the other side of a cut."""

TRIES: Final = 6
"""Visits in vain after which a peer that was never met is left alone, unless it is told of."""

MOST_TOLD_BY_ONE: Final = MAX_PEERS
"""Peers that one teller may have told of who were not met yet."""

MOST_KEPT: Final = 64
"""Peers that are remembered over a restart; those met last."""

MOST_TOLD_REGISTRIES: Final = 32

KEPT_FOR: Final = 30 * 86400.0
"""Seconds since it was last met until a peer or registry is forgotten."""

_HOUR: Final = 3600.0
_MOST_SOURCES: Final = 4096
"""Addresses, and subnets, of which it is remembered how often they were dialled."""


class Visit(msgspec.Struct, frozen=True):
    """
    A connection to be made.

    @ivar peer: where to, and the node id that has to be proven there; L{None} for a place that the
        user named.
    @ivar named: the number of that place; L{None} for a peer.
    """

    peer: Peer | None = None
    named: int | None = None


class Met(msgspec.Struct, frozen=True):
    """
    A peer or registry that was reached once.

    @ivar peer: where, and the node id that was proven there.
    @ivar at: when that was last so, in seconds on the clock of all times here; L{None} if it was
        only told of, by somebody else.
    """

    peer: Peer
    at: float | None


class _Someone(msgspec.Struct):
    """What is known of one peer, by its node id."""

    peer: Peer
    due: float
    told_by: str = ""
    met: float | None = None
    hint: Peer | None = None
    failures: int = 0
    visits: int = 0
    told: int = 0
    is_out: bool = False
    rests_until: float = 0.0

    @property
    def place(self) -> Peer:
        """Where to try it next."""
        return self.hint if self.hint is not None and self.failures % 2 else self.peer

    @property
    def is_fresh(self) -> bool:
        """Whether it was only told of, and is being tried."""
        return self.met is None and self.failures < TRIES

    def is_known(self, now: float) -> bool:
        """Whether it counts as there."""
        return self.met is not None and not self.failures and now - self.met < LATELY


class _Named(msgspec.Struct):
    """A place that the user named."""

    due: float
    node: bytes | None = None
    failures: int = 0
    is_out: bool = False


class Acquaintances:
    """
    One node's acquaintances.
    """

    _listed: Collection[bytes] | None = None

    def __init__(
        self,
        limits: Limits,
        random: Random,
        now: float,
        *,
        may_meet: Callable[[bytes], bool],
        named: int = 0,
    ) -> None:
        """
        @param limits: those called C{dials}.
        @param random: for jitter, and the order of visits.
        @param now: seconds, on the clock of all other times; since 1970 if anything is to be kept.
        @param may_meet: tells by node id whether somebody may be spoken with: not this node itself,
            and nobody whom it has banned.
        @param named: how many places the user has named.
        """
        self._limits = limits
        self._random = random
        self._may_meet = may_meet
        self._people: dict[bytes, _Someone] = {}
        self._named = [_Named(now) for _ in range(named)]
        self._registries: dict[bytes, Met] = {}
        self._told_registries: dict[bytes, tuple[Met, float]] = {}
        self._tellings = 0
        dials = limits.dials
        self._dials = Budget(dials / _HOUR, dials, now)
        self._to_address = self._budgets(limits.dials_per_address, now)
        self._to_subnet = self._budgets(limits.dials_per_subnet, now)

    def _budgets(self, dials: int, now: float) -> Budgets:
        return Budgets(dials / _HOUR, dials, _MOST_SOURCES, now)

    # What is heard

    @property
    def is_alone(self) -> bool:
        """Whether no registry lists the node."""
        return self._listed is None

    def list_is(self, listed: Collection[bytes] | None, now: float) -> None:
        """
        Know the list of the registry.

        @param listed: the node ids on it, in something that is quick to look them up in; L{None}
            if no registry lists the node.
        """
        before, self._listed = self._listed, listed
        for node, someone in self._people.items():
            if before is not None and node in before and not self._is_covered(node):
                # It is dead, or follows another registry now.
                someone.due = min(someone.due, now + self._jittered(FIRST_ROUND))

    def _is_covered(self, node: bytes) -> bool:
        """Whether the registry tells of somebody."""
        return self._listed is not None and node in self._listed

    def remember(self, peers: Iterable[Met], registries: Iterable[Met], at: float) -> None:
        """
        Take what was kept from an earlier run.

        @param peers: as L{kept} gave them.
        @param registries: likewise.
        @param at: when the first of them may be visited.
        """
        for each in peers:
            known = len(self._people) < self._limits.dials and self._may_meet(each.peer.node)
            if known and can_be_dialled(each.peer):
                met = None if each.at is None else min(each.at, at)
                # Not counted as there before it has answered in this run.
                self._people[each.peer.node] = _Someone(each.peer, at, met=met, failures=1)
        for each in registries:
            self._registries[each.peer.node] = each

    def told(self, peers: Iterable[Peer], by: str, now: float) -> None:
        """
        Hear where peers are said to be.

        @param peers: as whoever can be reached from here would see them; nobody vouches for them.
        @param by: the address that whoever says so is reached at; what is told from there, or
            from another address of the same L{source<flow512.link.origin.source_of>}, crowds out
            nothing that others say.
        """
        by = source_of(by)
        unmet = Counter(each.told_by for each in self._people.values() if each.is_fresh)
        for peer in peers:
            if not can_be_dialled(peer) or not self._may_meet(peer.node):
                continue
            known = self._people.get(peer.node)
            if known is not None:
                self._told_again(known, peer, now)
            elif unmet[by] < MOST_TOLD_BY_ONE and self._make_room(for_unmet=True):
                unmet[by] += 1
                self._people[peer.node] = _Someone(peer, now, by)

    def _told_again(self, known: _Someone, peer: Peer, now: float) -> None:
        is_elsewhere = (peer.host, peer.port) != (known.peer.host, known.peer.port)
        if not known.failures or known.is_out:
            return
        if known.due == inf and now >= known.rests_until:
            known.due = now
        if not is_elsewhere:
            return
        if known.met is None:
            known.peer = peer
        elif known.hint is None or (known.hint.host, known.hint.port) != (peer.host, peer.port):
            known.hint = peer
            known.failures |= 1  # so that it is the next to be tried
            known.due = min(known.due, now + FIRST_REST)

    def told_registries(self, registries: Iterable[Peer], by: str, now: float) -> None:
        """
        Hear where registries are said to be.

        @param registries: as L{told} takes peers.
        @param by: who says so.
        """
        for peer in registries:
            if can_be_dialled(peer) and self._may_meet(peer.node):
                self._told_registries.pop(peer.node, None)
                self._told_registries[peer.node] = Met(peer, None), now
        while len(self._told_registries) > MOST_TOLD_REGISTRIES:
            del self._told_registries[next(iter(self._told_registries))]

    def registered(self, registry: Peer, now: float) -> None:
        """
        Note that a registry lists this node now.

        @param registry: where it is, and the node id that it has proven; its name does not matter.
        """
        self._registries.pop(registry.node, None)
        if can_be_dialled(registry):
            self._registries[registry.node] = Met(registry, now)
        while len(self._registries) > MAX_REGISTRIES:
            del self._registries[next(iter(self._registries))]

    # Visits

    def visits(self, now: float) -> list[Visit]:
        """
        Say whom to visit now; each is to come to its end by L{met} or L{failed}.
        """
        out = sum(each.is_out for each in self._everybody)
        chosen: list[Visit] = []
        for number, named in enumerate(self._named):
            if named.due <= now and not named.is_out and out + len(chosen) < AT_ONCE:
                named.is_out = True
                chosen.append(Visit(named=number))
        for someone in self._in_turn(now):
            if out + len(chosen) >= AT_ONCE:
                break
            place = someone.place
            if (someone.met is None or place is someone.hint) and not self._may_dial(place, now):
                someone.due = now + FIRST_REST
                continue
            someone.is_out = True
            chosen.append(Visit(place))
        return chosen

    @property
    def _everybody(self) -> list[_Someone | _Named]:
        return [*self._people.values(), *self._named]

    def _in_turn(self, now: float) -> list[_Someone]:
        strangers = [each for node, each in self._people.items() if not self._is_covered(node)]
        ready = self._ready(strangers, now)
        self._random.shuffle(ready)
        ready.sort(key=lambda each: -(each.met or 0.0))
        covered = [each for node, each in self._people.items() if self._is_covered(node)]
        warm = self._warm(covered, now)
        lacking = FEW - len(warm) - sum(each.is_out for each in covered if each not in warm)
        others = self._ready((each for each in covered if each not in warm), now)
        self._random.shuffle(others)
        return [*self._ready(warm, now), *ready, *others[: max(0, lacking)]]

    def _warm(self, covered: Iterable[_Someone], now: float) -> list[_Someone]:
        known = [each for each in covered if each.is_known(now)]
        return sorted(known, key=lambda each: each.met or 0.0, reverse=True)[:FEW]

    def _ready(self, people: Iterable[_Someone], now: float) -> list[_Someone]:
        return [
            each
            for each in people
            if each.due <= now and not each.is_out and self._may_meet(each.peer.node)
        ]

    def _may_dial(self, place: Peer, now: float) -> bool:
        return (
            self._to_address.take(source_of(place.host), now)
            and self._to_subnet.take(subnet_of(place.host), now)
            and self._dials.take(now)
        )

    def met(self, visit: Visit, proven: Peer, now: float) -> None:
        """
        Note that somebody was reached.

        @param proven: who has proven to be there, where that is from here, and what he calls
            himself; empty if he does not say.
        """
        if visit.named is not None:
            named = self._named[visit.named]
            named.is_out, named.failures, named.node = False, 0, proven.node
            # From now on it is met as everybody else is, if it can be.
            named.due = inf if can_be_dialled(proven) else now + ROUND
        if visit.peer is not None and visit.peer.node in self._people:
            self._people[visit.peer.node].is_out = False
        if not self._may_meet(proven.node):
            return
        someone = self._people.get(proven.node)
        if someone is None:
            if not can_be_dialled(proven) or not self._make_room(for_unmet=False):
                return
            someone = self._people[proven.node] = _Someone(proven, now)
        someone.peer = replace(proven, name=proven.name or someone.peer.name)
        someone.met, someone.hint, someone.failures = now, None, 0
        someone.visits += 1
        someone.due = now + self._jittered(self._round(someone))

    def failed(self, visit: Visit, now: float) -> None:
        """
        Note that somebody was not reached, or was somebody else.
        """
        if visit.named is not None:
            named = self._named[visit.named]
            named.is_out = False
            named.failures += 1
            named.due = now + self._jittered(min(2.0**named.failures, ROUND))
        someone = None if visit.peer is None else self._people.get(visit.peer.node)
        if someone is None:
            return
        someone.is_out = False
        someone.failures += 1
        someone.visits = 0
        rest = FIRST_REST * 2.0 ** min(someone.failures - 1, 20)
        longest = LONGEST_REST if someone.met is None else LONGEST_REST_OF_MET
        someone.due = now + self._jittered(min(rest, longest))
        if someone.met is None and not someone.is_fresh:
            someone.due, someone.rests_until = inf, now + LONGEST_REST
        for named in self._named:
            if named.node == someone.peer.node and named.due == inf:
                named.due = now

    def _round(self, someone: _Someone) -> float:
        if self._is_covered(someone.peer.node):
            return ROUND_OF_FEW
        usual = max(ROUND, len(self._people) * ROUND_PER_PEER)
        return min(usual, FIRST_ROUND * 2.0 ** min(someone.visits - 1, 20))

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.8, 1.2)

    def _make_room(self, *, for_unmet: bool) -> bool:
        """Push out who is worth least, if there are too many; tell whether there is room."""
        if len(self._people) < self._limits.dials:
            return True
        if for_unmet:
            worst = [each for each in self._people.values() if each.met is None and each.failures]
        else:
            worst = [each for each in self._people.values() if each.met is None or each.failures]
        worst = [each for each in worst if not each.is_out]
        if not worst:
            return False
        # Who was never met before who was met, and of these who was met longest ago.
        out = min(worst, key=lambda each: (each.met or 0.0, -each.failures))
        del self._people[out.peer.node]
        return True

    # What there is to know

    def wake_at(self) -> float:
        """When to ask for L{visits} next; infinite if nothing is to come by itself."""
        times = [each.due for each in self._everybody if not each.is_out]
        return min(times, default=inf)

    def is_settled(self, now: float) -> bool:
        """Whether nobody is being visited, or is about to be."""
        return not any(
            each.is_out or (self.is_alone and each.due <= now) for each in self._everybody
        )

    def is_lacking(self, now: float) -> bool:
        """Whether it is of use to be told of more peers."""
        return self.is_alone or len(self.known(now)) < FEW

    def known(self, now: float) -> list[Peer]:
        """Give the peers that were met lately, and did not fail since."""
        return [each.peer for each in self._people.values() if each.is_known(now)]

    def to_tell(self, now: float, but: bytes = b"") -> tuple[Peer, ...]:
        """
        Choose whom somebody is told of who asks: those who were told of longest ago.

        @param but: who asks, and is not told of himself.
        @return: at most L{MAX_PEERS}.
        """
        known = [each for each in self._people.values() if each.is_known(now)]
        known = [each for each in known if each.peer.node != but]
        chosen = sorted(known, key=lambda each: each.told)[:MAX_PEERS]
        self._tellings += 1
        for each in chosen:
            each.told = self._tellings
        return tuple(each.peer for each in chosen)

    def registries(self, now: float) -> list[Met]:
        """
        Give the registries that listed this node, the latest first; then those that it was told
        of within the last L{LATELY} seconds.
        """
        noted = [each for node, each in self._registries.items() if self._may_meet(node)]
        told = [
            met
            for node, (met, at) in self._told_registries.items()
            if now - at < LATELY and node not in self._registries
        ]
        return [*reversed(noted), *reversed(told)]

    def registries_to_tell(self, now: float) -> tuple[Peer, ...]:
        """
        Give the registries that listed this node lately, the latest first; one that it carries
        itself among them.
        """
        return tuple(
            each.peer
            for each in reversed(self._registries.values())
            if each.at is not None and now - each.at < LATELY
        )

    def kept(self, now: float) -> tuple[list[Met], list[Met]]:
        """
        Give what is worth to be kept for a later run.

        @return: peers, at most L{MOST_KEPT}, and registries, each with the latest first.
        """
        met = [
            Met(each.peer, each.met)
            for each in self._people.values()
            if each.met is not None and now - each.met < KEPT_FOR
        ]
        met.sort(key=lambda each: each.at or 0.0, reverse=True)
        registries = [
            each
            for each in self.registries(now)
            if each.at is not None and now - each.at < KEPT_FOR
        ]
        return met[:MOST_KEPT], registries
