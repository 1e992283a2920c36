"""
Token buckets: how much of something may happen, and how fast.
"""

from __future__ import annotations

from typing import Final

_PURGE_GAP: Final = 1.0
"""Seconds between two purges, so that a flood of keys does not make every call a purge."""


class Budget:
    """
    One bucket: full at first, refilled steadily.

    @ivar rate: tokens a second.
    @ivar burst: tokens that it holds at most.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def _refill(self, now: float) -> None:
        # A clock that jumps back gives nothing, and takes nothing.
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def is_full(self, now: float) -> bool:
        """Whether it would be the same to forget this bucket and make a new one."""
        self._refill(now)
        return self._tokens >= self.burst


class Budgets:
    """
    One bucket for every key, in bounded memory.

    When there are too many keys, the new ones share one bucket until old ones have been
    idle for long enough; so nobody gets a fresh bucket by pushing another's out.

    @param rate: tokens a second for each key.
    @param burst: tokens that each holds at most.
    @param limit: keys that are remembered.
    """

    def __init__(self, rate: float, burst: float, limit: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._buckets: dict[str, Budget] = {}
        self._shared = Budget(rate, burst, now)
        self._purged = now - _PURGE_GAP

    def take(self, key: str, now: float) -> bool:
        """Take one token of this key's, if there is one."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._purge(now)
            if len(self._buckets) >= self._limit:
                bucket = self._shared
            else:
                bucket = self._buckets[key] = Budget(self._rate, self._burst, now)
        return bucket.take(now)

    def _purge(self, now: float) -> None:
        if abs(now - self._purged) < _PURGE_GAP:
            return
        self._purged = now
        self._buckets = {
            key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)
        }
