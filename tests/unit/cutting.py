"""How bytes may arrive, for tests of everything that parses: it must not matter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from hypothesis import HealthCheck, settings

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Hypothesis without an eye on the clock, for machines that are busy with something else."""


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """
    Cut bytes in chunks.

    @param at: where, in any order; twice the same place makes an empty chunk.
    """
    places = [0, *sorted(at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def cuttings(data: bytes, rounds: int = 5) -> Iterator[list[bytes]]:
    """
    Cut bytes in every way that is worth trying: whole, byte by byte, at random places.

    @param rounds: of random cuts; the same ones each time.
    """
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    random = Random(len(data))
    for _ in range(rounds):
        yield cut(data, [random.randint(0, len(data)) for _ in range(random.randint(1, 9))])
