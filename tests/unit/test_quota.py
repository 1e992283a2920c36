"""Tests for L{flow512.registry.quota}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Busy
from flow512.limits import Limits
from flow512.registry.quota import AT_ONCE, LONGEST_TURN, RETRY, Quota

LEASE = 60.0
RATE = 10
BURST = int(RATE * AT_ONCE)
"""Registrations that are taken at once."""


class QuotaTests(SynchronousTestCase):
    """L{Quota}, by itself."""

    def refused(self, quota: Quota, who: int, now: float, node: int | None = None) -> float | None:
        """Let somebody ask; tell for how long he is sent away, if he is."""
        try:
            quota.ask(f"10.0.0.{who}", (who if node is None else node).to_bytes(32, "big"), now)
        except Busy as error:
            return error.retry_after
        return None

    def test_turns(self) -> None:
        """
        Of too many who register at once each is told of a turn of his own, one after the other;
        time that passes brings all of them nearer, and nobody is sent away for very long.
        """
        quota = Quota(Limits(registrations_per_second=RATE), LEASE)
        for who in range(BURST):
            self.assertIsNone(self.refused(quota, who, 0.0))
        for turn in range(1, 31):
            self.assertAlmostEqual(self.refused(quota, 1000 + turn, 0.0) or 0, turn / 10)
        self.assertIsNone(self.refused(quota, 2000, 1.0))
        for who in range(9):
            self.refused(quota, 3000 + who, 1.0)
        self.assertAlmostEqual(self.refused(quota, 4000, 1.0) or 0, 2.1)
        for who in range(20 * int(LONGEST_TURN)):
            longest = self.refused(quota, 5000 + who, 1.0) or 0
        self.assertEqual(longest, LONGEST_TURN)

    def test_turns_after_a_rest(self) -> None:
        """Turns that nobody came for are not waited for."""
        quota = Quota(Limits(registrations_per_second=RATE), LEASE)
        for now in (0.0, 1000.0):
            for who in range(BURST):
                self.assertIsNone(self.refused(quota, int(now) + who, now))
            self.assertAlmostEqual(self.refused(quota, 50_000, now) or 0, 0.1)

    def test_too_often(self) -> None:
        """One address, or one node id, may not ask all the time; others may meanwhile."""
        limits = Limits(registrations_per_address_per_minute=3, registrations_per_node_per_minute=2)
        for node, most in ((None, 2), (7, 2)):
            quota = Quota(limits, LEASE)
            told = [self.refused(quota, 1, 0.0, node) for _ in range(most + 1)]
            self.assertEqual(told, [None] * most + [RETRY])
        quota = Quota(limits, LEASE)
        told = [self.refused(quota, 1, 0.0, node) for node in range(4)]
        self.assertEqual(told, [None, None, None, RETRY])
        self.assertIsNone(self.refused(quota, 2, 0.0))
        quota = Quota(limits, LEASE)
        told = [self.refused(quota, who, 0.0, 7) for who in range(3)]
        self.assertEqual(told, [None, None, RETRY])
        self.assertIsNone(self.refused(quota, 3, 0.0))

    def test_full(self) -> None:
        """No more than so many are registered; who goes makes room for another."""
        quota = Quota(Limits(registrations=2), LEASE)
        for who in ("one", "two"):
            quota.find_room(who, who.encode(), None)
            quota.add(who, who.encode())
        with self.assertRaises(Busy) as caught:
            quota.find_room("three", b"three", None)
        self.assertEqual(caught.exception.retry_after, LEASE)
        quota.find_room("two", b"two", "two")  # it is there already
        quota.remove("one", b"one")
        quota.find_room("three", b"three", None)

    def test_nothing_is_left(self) -> None:
        """Of those who are gone nothing is kept: there may have been millions."""
        quota = Quota(Limits(), LEASE)
        for _ in range(2):
            quota.add("source", b"node")
        for left in (1, 0):
            quota.remove("source", b"node")
            self.assertEqual((len(quota._by_source), len(quota._by_node)), (left, left))
