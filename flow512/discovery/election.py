"""
Whether to follow a registry, and which, or to become one.

States::

  TRYING     A registry is configured. For PATIENCE seconds nothing but that one counts.
  LISTENING  What the beacon sees counts. With nothing configured this begins at once and
             lasts LISTEN seconds, a little more at random, so that of several nodes that
             start together one leads and the others hear it in time. After TRYING it has
             listened long enough already, and lasts only for what is random.
  DECIDED    Nobody is left to follow: lead, if the mode lets us.

What is decided in each, by mode::

             reached    a registry is seen   none is seen
  TRYING     configured wait                 wait
  LISTENING  configured follow it            wait
  DECIDED    configured follow it            auto: lead; never: wait on

Mode C{always} leads at once, whatever else holds. Nothing is remembered between two
decisions but the times, so a decision may be asked for again whenever something changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from random import Random
from typing import Final, TypeAlias

import msgspec

from flow512.discovery.engine import Sighting

LISTEN: Final = 1.5
"""Seconds; the beacon asks three times within them."""

PATIENCE: Final = 3.0
"""Seconds that the configured registry has for itself."""

SPREAD: Final = 0.5
"""Seconds; the random wait on top is at most this, and none where nothing is listened to."""

REGISTRY: Final = "registry"
"""The kind of offer that can be followed."""


class Mode(Enum):
    """What C{--bootstrap} says."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Wait(msgspec.Struct, frozen=True):
    """
    Do nothing yet.

    @ivar until: when to ask again at the latest, or C{None}: only when something changes.
    """

    until: float | None


class FollowConfigured(msgspec.Struct, frozen=True):
    """Stay with the configured registry, which answers."""


class Follow(msgspec.Struct, frozen=True):
    """Register with the registry at this address."""

    host: str
    port: int


class Lead(msgspec.Struct, frozen=True):
    """Start a registry in this process."""


Decision: TypeAlias = Wait | FollowConfigured | Follow | Lead


def registries(sightings: Iterable[Sighting]) -> list[tuple[str, int]]:
    """
    Put the registries that were seen in the order in which to try them.

    By instance, so that every node that sees the same ones chooses the same one; then the
    addresses of each, IPv4 first and those that need an interface last.

    @return: host and TCP port of each.
    """
    ordered = []
    for sighting in sightings:
        port = sighting.port(REGISTRY)
        if port is not None:
            host = sighting.host
            ordered.append((sighting.instance, "%" in host, ":" in host, host, port))
    return [(host, port) for _, _, _, host, port in sorted(ordered)]


class Election:
    """
    One node's way to its registry.

    @param mode: what the user wants.
    @param configured: the user named a registry. C{False}: none.
    @param listens: seconds to listen to the beacon before leading; 0 if there is none.
    @param random: for the wait that keeps nodes apart that start together.
    @param now: seconds, on the clock of all other times.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        configured: bool,
        random: Random,
        now: float,
        listens: float = LISTEN,
    ) -> None:
        self._mode = mode
        self._looks_at = now + PATIENCE if configured else now
        spread = random.uniform(0, SPREAD) if listens else 0.0
        self._has_heard_at = max(self._looks_at, now + listens)
        self._leads_at = self._has_heard_at + spread

    def decide(
        self,
        now: float,
        *,
        reached: bool,
        sightings: Iterable[Sighting],
        failed: Collection[tuple[str, int]] = (),
    ) -> Decision:
        """
        Say what to do now.

        @param reached: the configured registry answers.
        @param sightings: what the beacon sees.
        @param failed: addresses from sightings that were tried in vain; since anybody can
            announce anything, one that leads nowhere must not keep a node waiting.
        """
        if self._mode is Mode.ALWAYS:
            return Lead()
        if reached:
            return FollowConfigured()
        if now < self._looks_at:
            return Wait(self._looks_at)
        # What a registry sees of who comes by a link-local address is of no use to others: such
        # an address is for those who turn out to have no other.
        has_heard = now >= self._has_heard_at
        found = [each for each in registries(sightings) if each not in failed]
        for host, port in found:
            if has_heard or "%" not in host:
                return Follow(host, port)
        if self._mode is Mode.NEVER:
            return Wait(self._has_heard_at if found else None)
        if now < self._leads_at:
            return Wait(self._leads_at)
        return Lead()
