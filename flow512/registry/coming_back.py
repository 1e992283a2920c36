"""
How long a node waits before it tries its registry again.

When the registry of many nodes ends, all of them lose it at one moment. So the wait is random, over
as long a time as it takes to take them all, which each of them knows from its last list; and nobody
tries again before all the others have tried.
"""

from __future__ import annotations

from random import Random
from typing import Final

from flow512.discovery.waits import ARRIVALS

FIRST: Final = 0.5
GROWTH: Final = 1.5
LONGEST: Final = 58.0
"""Seconds: the first wait, what each is longer by than the one before, and the longest."""

SPREAD: Final = 2.0
"""Seconds at random on top, though there be few nodes."""


def wait_before(failures: int, peers: int, told: float, random: Random) -> float:
    """
    Say how long to wait.

    @param failures: connections in a row that could not be made, or did not last; at least 1.
    @param peers: how many are on the last list, who are all likely to come as well.
    @param told: seconds that the registry said; 0 if it said nothing.
    @return: seconds.
    """
    wait = min(FIRST * GROWTH ** min(failures - 1, 20), LONGEST)
    crowd = peers / ARRIVALS
    turn = random.uniform(0.0, crowd) if failures <= 1 else random.uniform(crowd, 2 * crowd)
    wait += random.uniform(0.0, SPREAD) + turn
    return max(wait, told * random.uniform(1.0, 1.1))
