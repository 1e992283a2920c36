"""
When a node tells its leader of one who claims to be better.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from random import Random
from typing import Final

from flow512.discovery.claims import Address, RegistryOffer
from flow512.discovery.waits import TELL_AGAIN

SOONEST: Final = 2.0
LATEST: Final = 6.0
"""Seconds for which it waits first: nearly always the leader sees him too."""

PER_SECOND: Final = 50
"""Nodes of one leader that tell at once, at most."""


class Hints:
    """
    What the leader is to be told of.

    @ivar next: when L{due} has something to give; infinite for never.
    """

    def __init__(self, random: Random) -> None:
        """
        @param random: keeps the nodes of one leader from telling all at once.
        """
        self.next = inf
        self._random = random
        self._due: dict[Address, float] = {}

    def due(self, better: Iterable[RegistryOffer], now: float, count: int) -> list[RegistryOffer]:
        """
        Give those of whom it is time to tell; each again after a while.

        @param better: who claims to be better.
        @param count: how many nodes the leader has.
        """
        told = []
        due = {}
        for offer in better:
            at = self._due.get(offer.address)
            if at is None:
                wait = self._random.uniform(SOONEST, LATEST)
                at = now + wait + self._random.uniform(0, count / PER_SECOND)
            elif at <= now:
                told.append(offer)
                at = now + TELL_AGAIN
            due[offer.address] = at
        self._due = due
        self.next = min(due.values(), default=inf)
        return told
