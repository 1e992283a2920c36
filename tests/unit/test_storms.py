"""
Storms: all nodes of a dead registry look for one at the same time, and must not arrive so.
"""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush
from random import Random
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Dial
from flow512.discovery.election import Election, Mode
from flow512.discovery.waits import ARRIVALS
from flow512.errors import Busy
from flow512.limits import Limits
from flow512.registry.coming_back import LONGEST, wait_before
from flow512.registry.quota import AT_ONCE, LONGEST_TURN, Quota

NODES: Final = 10_000
RATE: Final = Limits().registrations_per_second


class ComingBackTests(SynchronousTestCase):
    """L{wait_before}, and what a registry says to those who come too many at once."""

    def test_grows(self) -> None:
        """Each wait is longer than the one before, to about a minute; what is said is obeyed."""
        random = Random(1)
        self.assertLessEqual(wait_before(1, 0, 0.0, random), 2.5)
        self.assertGreaterEqual(wait_before(1, 0, 0.0, random), 0.5)
        for failures in (20, 10**6):
            self.assertTrue(LONGEST <= wait_before(failures, 0, 0.0, random) <= LONGEST + 2.0)
        for _ in range(100):
            self.assertTrue(300.0 <= wait_before(1, 0, 300.0, random) <= 330.0)

    def arrivals(self, back_at: float, *, peers: int) -> tuple[Counter[int], Counter[int], float]:
        """
        Let the registry of all nodes be gone, from 0 until some time.

        @return: how many arrived in each second, how many were accepted, and when the last was.
        """
        random = Random(1)
        quota = Quota(Limits(), 30.0)
        failures = [1] * NODES
        agenda: list[tuple[float, int]] = []
        for node in range(NODES):
            heappush(agenda, (wait_before(1, peers, 0.0, random), node))
        arrived: Counter[int] = Counter()
        accepted: Counter[int] = Counter()
        last = 0.0
        while agenda:
            now, node = heappop(agenda)
            arrived[int(now)] += 1
            told = 0.0
            if now >= back_at:
                try:
                    quota.ask(f"10.0.{node // 250}.{node % 250}", node.to_bytes(32, "big"), now)
                except Busy as busy:
                    told = busy.retry_after
                else:
                    accepted[int(now)] += 1
                    last = now
                    continue
            failures[node] += 1
            heappush(agenda, (now + wait_before(failures[node], peers, told, random), node))
        return arrived, accepted, last

    def test_short_absence(self) -> None:
        """
        The nodes of a registry that is back at once do not come in the same second, and none of
        them waits longer than it takes to take them all.
        """
        arrived, _, last = self.arrivals(0.0, peers=NODES)
        self.assertLessEqual(max(arrived.values()), 1.2 * ARRIVALS)
        self.assertLess(last, 2 * NODES / ARRIVALS)

    def test_long_absence(self) -> None:
        """Nor do they after it was gone for long, and all of them have failed many times."""
        arrived, _, last = self.arrivals(300.0, peers=NODES)
        self.assertLessEqual(max(arrived.values()), 1.2 * ARRIVALS)
        self.assertLess(last, 300.0 + 2 * LONGEST + NODES / ARRIVALS)

    def test_unprepared(self) -> None:
        """
        Nodes that do not know how many they are come at once, and are sent away with a turn each:
        the registry takes no more than its limit, and they do not come back at once.
        """
        arrived, accepted, last = self.arrivals(0.0, peers=0)
        self.assertGreater(max(arrived.values()), 4 * RATE)
        self.assertLessEqual(max(accepted.values()), (1 + AT_ONCE) * RATE)
        self.assertEqual(sum(accepted.values()), NODES)
        after = {second: count for second, count in arrived.items() if second > 3}
        self.assertLessEqual(max(after.values()), 2 * RATE)
        self.assertLess(last, 4 * NODES / RATE)

    def test_turns(self) -> None:
        """Who is refused is told his own turn, which is later the more were refused before."""
        quota = Quota(Limits(registrations_per_second=10), 30.0)
        turns = []
        for number in range(7000):
            try:
                quota.ask(str(number), number.to_bytes(32, "big"), 5.0)
            except Busy as busy:
                turns.append(busy.retry_after)
        self.assertEqual(len(turns), 7000 - 10 * AT_ONCE)
        self.assertAlmostEqual(turns[0], 0.1)
        self.assertAlmostEqual(turns[99], 10.0)
        self.assertEqual(turns[-1], LONGEST_TURN)
        quota.ask("late", bytes(32), 5.2)
        with self.assertRaises(Busy):
            for number in range(9):
                quota.ask(str(number), bytes([9, number]).ljust(32), 5.2)


class NextRegistryTests(SynchronousTestCase):
    """L{Election}: all who have lost their leader go to the next one."""

    def test_arrivals(self) -> None:
        """They do not arrive in the same second there either, however they hear of it."""
        for is_handed in (True, False):
            arrived: Counter[int] = Counter()
            for number in range(2000):
                arrived[int(self.dialled(number, is_handed=is_handed))] += NODES // 2000
            self.assertEqual(sum(arrived.values()), NODES)
            self.assertLessEqual(max(arrived.values()), 1.3 * ARRIVALS)
            self.assertLess(max(arrived), 2 * NODES / ARRIVALS)

    def dialled(self, number: int, *, is_handed: bool) -> float:
        """When one of them dials the next registry."""
        old, new = ("10.0.0.1", 5000), RegistryOffer("10.0.0.2", 5000, b"n" * 32, 2, 5)
        node = number.to_bytes(32, "big")
        election = Election(node, Mode.NEVER, random=Random(number), now=-100.0)
        offer = RegistryOffer(*old, b"o" * 32, 1, 5)
        self.assertIn(Dial(old), election.step(-90.0, [offer]))
        election.listed(old, Claim(b"o" * 32, 1, 5), -89.0)
        election.count = NODES
        election.step(-89.0, [offer])
        if is_handed:
            election.handed(old, new, 0.0)
        else:
            election.lost(old, 0.0, (), NODES)
        now = 0.0
        while Dial(new.address) not in election.step(now, [] if is_handed else [new]):
            assert election.wake_at is not None
            now = max(now + 0.001, election.wake_at)
        return now
