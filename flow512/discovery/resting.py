"""
How long an address is left alone after it was tried.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

import msgspec

from flow512.discovery.claims import Address

SHORTEST: Final = 0.5
LONGEST: Final = 8.0
LONGEST_IF_UNCLAIMED: Final = 60.0
"""
Seconds: after the first failure, and at most where a registry is said to be, and where nobody says
so.
"""

_MOST: Final = 1024


class _Rest(msgspec.Struct):
    failures: int = 0
    until: float = -inf


class Resting:
    """
    The addresses that were tried in vain, or are not to be tried yet.
    """

    def __init__(self, random: Random) -> None:
        """
        @param random: keeps nodes apart that try the same one.
        """
        self._random = random
        self._rests: dict[Address, _Rest] = {}

    def until(self, address: Address) -> float:
        """Tell when an address may be tried; long ago, if nothing is against it."""
        rest = self._rests.get(address)
        return -inf if rest is None else rest.until

    def fail(self, address: Address, now: float, *, is_claimed: bool, delay: float = 0.0) -> None:
        """
        Let an address rest that was tried in vain: twice as long each time.

        @param is_claimed: whether a registry is said to be there.
        @param delay: seconds beyond that.
        """
        before = self._rests.get(address)
        failures = 1 if before is None else before.failures + 1
        longest = LONGEST if is_claimed else LONGEST_IF_UNCLAIMED
        rest = min(SHORTEST * 2 ** min(failures, 10), longest) * self._random.uniform(0.75, 1.25)
        self._put(address, _Rest(failures, now + rest + delay))

    def wait(self, address: Address, until: float) -> None:
        """
        Leave an address alone for some time, though nothing is known against it.
        """
        self._put(address, _Rest(0, until))

    def shorten(self, address: Address, until: float) -> None:
        """
        Let it be tried sooner that was tried in vain, since somebody says that a registry is there
        now.
        """
        rest = self._rests.get(address)
        if rest is not None and rest.failures:
            rest.until = min(rest.until, until)

    def end_waits(self) -> None:
        """
        Let all be tried that nothing is known against.
        """
        self._rests = {address: rest for address, rest in self._rests.items() if rest.failures}

    def forget(self, address: Address) -> None:
        """
        Let it be tried at any time.
        """
        self._rests.pop(address, None)

    def _put(self, address: Address, rest: _Rest) -> None:
        self._rests.pop(address, None)
        if len(self._rests) >= _MOST:
            del self._rests[next(iter(self._rests))]
        self._rests[address] = rest
