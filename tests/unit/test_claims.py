"""Tests for L{flow512.discovery.claims} and L{flow512.discovery.resting}."""

from __future__ import annotations

from itertools import permutations
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import MAX_TERM, MOST_RISE, Claim, Heir, Origin, RegistryOffer, rise
from flow512.discovery.resting import LONGEST, LONGEST_IF_UNCLAIMED, SHORTEST, Resting

HERE = ("10.0.0.1", 5000)


def claim(number: int, since: int = 1000, *, term: int = 1, appointed: bool = False) -> Claim:
    """What a node claims."""
    return Claim(bytes([number]) * 32, term, since, appointed)


class RuleTests(SynchronousTestCase):
    """Which of two leaders stays."""

    def test_order(self) -> None:
        """Appointed, then longest, then the smallest id; in whatever order they are compared."""
        ranked = [
            claim(8, 3000, appointed=True),
            claim(9, 3000, appointed=True),
            claim(7, 1000, term=99),
            claim(1, 2000),
            claim(2, 2000, term=3),
        ]
        for shuffled in permutations(ranked):
            self.assertEqual(sorted(shuffled, key=lambda each: each.rank), ranked)
        for place, better in enumerate(ranked):
            for worse in ranked[place + 1 :]:
                self.assertTrue(better.is_better_than(worse))
                self.assertFalse(worse.is_better_than(better))
            self.assertFalse(better.is_better_than(better))

    def test_term_decides_nothing(self) -> None:
        """However high a term is, it makes nobody better."""
        low, high = claim(1, term=1), claim(2, term=MAX_TERM)
        self.assertTrue(low.is_better_than(high))
        self.assertEqual(low.risen(50).rank, low.rank)

    def test_rise(self) -> None:
        """A term never goes back, and rises by a bounded step to a bounded height."""
        self.assertEqual(rise(5, 4), 5)
        self.assertEqual(rise(5, 6), 6)
        self.assertEqual(rise(5, 2**63), 5 + MOST_RISE)
        self.assertEqual(rise(MAX_TERM - 1, 2**63), MAX_TERM)
        self.assertEqual(rise(MAX_TERM, 2**63), MAX_TERM)
        self.assertEqual(claim(1, term=5).risen(9).term, 9)


class OfferTests(SynchronousTestCase):
    """Hints of where a registry may be."""

    def test_claim(self) -> None:
        """An offer claims something only if it says who, and in which term."""
        node = bytes([1]) * 32
        self.assertIsNone(RegistryOffer(*HERE).claim)
        self.assertIsNone(RegistryOffer(*HERE, node).claim)
        self.assertIsNone(RegistryOffer(*HERE, b"", 3).claim)
        self.assertEqual(RegistryOffer(*HERE, node, 3, 7, True).claim, Claim(node, 3, 7, True))

    def test_order(self) -> None:
        """The best claim is tried first, IPv4 before IPv6, what needs an interface last."""
        one, two = bytes([1]) * 32, bytes([2]) * 32
        ordered = [
            RegistryOffer("10.0.0.9", 5000, two, 1, 5, True),
            RegistryOffer("10.0.0.8", 5000, one, 1, 5),
            RegistryOffer("fd00::8", 5000, one, 1, 5),
            RegistryOffer("fe80::8%eth0", 5000, one, 1, 5),
            RegistryOffer("10.0.0.1", 5000, origin=Origin.MEMORY),
        ]
        for shuffled in permutations(ordered):
            self.assertEqual(sorted(shuffled, key=lambda offer: offer.order), ordered)

    def test_heir(self) -> None:
        """An heir is somebody who may lead by now, and claims nothing yet."""
        offer = Heir(bytes([1]) * 32, *HERE).offer
        self.assertEqual((offer.address, offer.claim, offer.origin), (HERE, None, Origin.LIST))


class RestingTests(SynchronousTestCase):
    """How long an address is left alone."""

    def rests(self, resting: Resting, *, is_claimed: bool) -> list[float]:
        """The waits after failures in a row."""
        waits = []
        for _ in range(12):
            resting.fail(HERE, 100.0, is_claimed=is_claimed)
            waits.append(resting.until(HERE) - 100.0)
        return waits

    def test_grows(self) -> None:
        """Each failure doubles the rest, up to a cap: a lower one where one is announced."""
        for is_claimed, longest in ((True, LONGEST), (False, LONGEST_IF_UNCLAIMED)):
            waits = self.rests(Resting(Random(1)), is_claimed=is_claimed)
            for number, wait in enumerate(waits):
                expected = min(SHORTEST * 2 ** (number + 1), longest)
                self.assertTrue(0.75 * expected <= wait <= 1.25 * expected, (number, wait))

    def test_forgotten(self) -> None:
        """After a success it may be tried at once, and the first rest is the shortest again."""
        resting = Resting(Random(1))
        self.rests(resting, is_claimed=True)
        resting.forget(HERE)
        self.assertLess(resting.until(HERE), 0.0)
        self.assertLess(self.rests(resting, is_claimed=True)[0], 2 * SHORTEST + 0.5)

    def test_shorter(self) -> None:
        """What is said anew can shorten a rest, and not make it longer."""
        resting = Resting(Random(1))
        resting.shorten(HERE, 1.0)
        self.rests(resting, is_claimed=True)
        resting.shorten(HERE, 101.0)
        self.assertEqual(resting.until(HERE), 101.0)
        resting.shorten(HERE, 500.0)
        self.assertEqual(resting.until(HERE), 101.0)

    def test_waits(self) -> None:
        """What is left alone without a failure can be tried again at once, and nothing else."""
        resting = Resting(Random(1))
        other = ("10.0.0.2", 5000)
        resting.wait(HERE, 200.0)
        resting.fail(other, 100.0, is_claimed=True)
        self.assertEqual(resting.until(HERE), 200.0)
        resting.end_waits()
        self.assertLess(resting.until(HERE), 0.0)
        self.assertGreater(resting.until(other), 100.0)

    def test_bounded(self) -> None:
        """However many addresses are tried, few are remembered: those that were tried last."""
        resting = Resting(Random(1))
        for number in range(3000):
            resting.fail((f"host{number}", 1), 0.0, is_claimed=True)
        self.assertLess(resting.until(("host0", 1)), 0.0)
        self.assertGreater(resting.until(("host2999", 1)), 0.0)
