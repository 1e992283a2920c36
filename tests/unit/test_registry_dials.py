"""Whom a registry dials back, and when: without a network."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.limits import Limits
from flow512.registry.dials import LOOK_AGAIN, WAITS, Dial, Dials

HOST = "192.0.2.1"
NEIGHBOUR = "192.0.2.2"
ELSEWHERE = "198.51.100.1"


def node(number: int) -> bytes:
    """Make a node id."""
    return number.to_bytes(32, "big")


class DialsTestCase(SynchronousTestCase):
    """Dials, made by hand."""

    limits = Limits()

    def setUp(self) -> None:
        self.dials = Dials(self.limits)

    def want(self, count: int, host: str = HOST, first: int = 0) -> None:
        """Want so many nodes at one host."""
        for number in range(first, first + count):
            self.dials.want(node(number), host, 5000)

    def taken(self, now: float = 0.0) -> list[int]:
        """Take what may be taken; tell whose they are."""
        return [int.from_bytes(dial.node, "big") for dial in self.dials.take(now)]

    def run_one(self, now: float) -> Dial:
        """Let the one dial that is to be made fail."""
        (dial,) = self.dials.take(now)
        self.assertTrue(self.dials.failed(dial, "No.", now))
        self.dials.ended(dial)
        return dial


class TurnTests(DialsTestCase):
    """Which dial is next, and how many there are at once."""

    limits = Limits(dial_backs=6, dial_backs_per_address=2, dial_backs_per_subnet=3)

    def test_nothing(self) -> None:
        """Nobody is dialled whom nobody wants, and nothing is to be looked for."""
        self.assertEqual(self.taken(), [])
        self.assertIsNone(self.dials.next_look(0.0))

    def test_per_address(self) -> None:
        """One address is dialled so often at once, and again when a connection is gone."""
        self.want(5)
        first, second = self.dials.take(0.0)
        self.assertEqual(self.taken(), [])
        self.dials.failed(first, "No.", 0.0)
        self.assertEqual(self.taken(), [])
        self.dials.ended(first)
        self.assertEqual(self.taken(), [2])
        self.dials.ended(second)
        self.assertEqual(self.taken(), [3])

    def test_per_subnet(self) -> None:
        """So is a subnet, whatever its addresses; another's dials go on."""
        self.want(2)
        self.want(2, NEIGHBOUR, 10)
        self.want(2, ELSEWHERE, 20)
        self.assertEqual(sorted(self.taken()), [0, 1, 10, 20, 21])

    def test_one_address_by_many_names(self) -> None:
        """A network of IPv6 that belongs to one machine is one address."""
        for number in range(5):
            self.dials.want(node(number), f"2001:db8::{number}", 5000)
        self.assertEqual(len(self.taken()), 2)

    def test_in_all(self) -> None:
        """So many dials are there in all; who is there first goes first."""
        for number in range(10):
            self.dials.want(node(number), f"198.51.{number}.1", 5000)
        self.assertEqual(self.taken(), [0, 1, 2, 3, 4, 5])
        self.assertIsNone(self.dials.next_look(0.0))

    def test_in_turn(self) -> None:
        """Addresses take turns: a newcomer does not wait for a thousand of another address."""
        for number in range(3):
            self.want(1000, f"203.0.{number}.1", 1000 * number)
        hanging = self.dials.take(0.0)
        self.assertEqual(len(hanging), 6)
        self.want(1, ELSEWHERE, 9000)
        taken = []
        for dial in hanging[:4]:
            self.dials.ended(dial)
            taken += self.taken()
        self.assertEqual(taken, [2, 1002, 2002, 9000])

    def test_looks_are_bounded(self) -> None:
        """One look goes through so many addresses whose subnet is full; the next one goes on."""
        self.dials = Dials(Limits(dial_backs_per_address=1, dial_backs_per_subnet=1))
        for number in range(1000):
            self.dials.want(node(number), f"2001:db8:0:{number:x}::1", 5000)
        self.want(1, ELSEWHERE, 9000)
        looks = [self.taken() for _ in range(5)]
        self.assertEqual(looks[0], [0])
        self.assertEqual([number for look in looks for number in look], [0, 9000])


class RateTests(DialsTestCase):
    """How often somebody is dialled in a minute."""

    limits = Limits(
        dial_backs_per_address_per_minute=4, dial_backs_per_subnet_per_minute=6, dial_backs=1000
    )

    def take_and_end(self, now: float) -> list[int]:
        """Take what may be taken, and let it be over."""
        dials = self.dials.take(now)
        for dial in dials:
            self.dials.failed(dial, "No.", now)
            self.dials.ended(dial)
        return [int.from_bytes(dial.node, "big") for dial in dials]

    def test_per_address(self) -> None:
        """After so many, one address is dialled at the rate of its minute."""
        self.want(10)
        self.assertEqual(self.take_and_end(0.0), [0, 1, 2, 3])
        self.assertEqual(self.dials.next_look(0.0), LOOK_AGAIN)
        self.assertEqual(self.take_and_end(14.0), [])
        self.assertEqual(self.take_and_end(15.0), [4])

    def test_per_subnet(self) -> None:
        """So is a subnet; what an address has waited for is not lost while its subnet waits."""
        self.want(5)
        self.want(5, NEIGHBOUR, 10)
        self.want(1, ELSEWHERE, 20)
        self.assertEqual(sorted(self.take_and_end(0.0)), [0, 1, 2, 10, 11, 12, 20])
        for _ in range(100):
            self.assertEqual(self.take_and_end(1.0), [])
        self.assertEqual(len(self.take_and_end(10.0)), 1)
        self.assertEqual(len(self.take_and_end(20.0)), 1)

    def test_claims_in_a_loop(self) -> None:
        """A node that names another port each time is dialled no more often for that."""
        dialled = 0
        for port in range(1, 1001):
            self.dials.want(node(1), HOST, port)
            dialled += len(self.take_and_end(0.0))
        self.assertEqual(dialled, 4)


class RestTests(DialsTestCase):
    """When a node is tried again."""

    def test_waits_grow(self) -> None:
        """A node that is not reached is tried again after longer and longer, for ever."""
        self.want(1)
        now = 0.0
        waits = [*WAITS, WAITS[-1], WAITS[-1]]
        for wait in waits:
            dial = self.run_one(now)
            self.assertEqual((dial.due, dial.sentence), (now + wait, "No."))
            self.assertEqual(self.dials.next_look(now), now + wait)
            now += wait
            self.assertEqual(self.taken(now - 0.1), [])
        self.assertEqual(self.taken(now), [0])

    def test_wanted_again(self) -> None:
        """Wanting the same again changes nothing; another place is another dial, at once."""
        dial = self.dials.want(node(1), HOST, 5000)
        self.assertIs(self.dials.want(node(1), HOST, 5000), dial)
        self.assertIs(self.run_one(0.0), dial)
        self.assertIs(self.dials.want(node(1), HOST, 5000), dial)
        self.assertEqual(self.taken(1.0), [])
        other = self.dials.want(node(1), HOST, 6000)
        self.assertFalse(self.dials.counts(dial))
        self.assertEqual(self.dials.take(1.0), [other])
        self.assertEqual(self.taken(1000.0), [])

    def test_forgotten(self) -> None:
        """Who is forgotten is dialled no more, whatever the dial was at."""
        self.dials.forget(node(1))
        self.want(1)
        self.dials.forget(node(0))
        self.assertEqual(self.taken(), [])
        self.want(1)
        (dial,) = self.dials.take(0.0)
        self.dials.forget(node(0))
        self.assertFalse(self.dials.failed(dial, "No.", 0.0))
        self.dials.ended(dial)
        self.want(1)
        self.run_one(0.0)
        self.dials.forget(node(0))
        self.assertIsNone(self.dials.next_look(0.0))
        self.assertEqual(self.taken(1000.0), [])

    def test_given_up(self) -> None:
        """A dial that ended without having come to anything is made again."""
        self.want(1)
        (dial,) = self.dials.take(0.0)
        self.dials.ended(dial)
        self.assertEqual(self.dials.take(0.0), [dial])
        self.assertEqual(dial.failures, 0)
