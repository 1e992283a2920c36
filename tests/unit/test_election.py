"""Tests for L{flow512.discovery.election}."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.datagram import Offer
from flow512.discovery.election import (
    LISTEN,
    PATIENCE,
    SPREAD,
    Decision,
    Election,
    Follow,
    FollowConfigured,
    Lead,
    Mode,
    Wait,
    registries,
)
from flow512.discovery.engine import Sighting

START = 1000.0


def sighting(number: int, host: str, kind: str = "registry", port: int = 5000) -> Sighting:
    """Somebody who was seen."""
    return Sighting(host, bytes([number]) * 16, "somebody", b"", (Offer(kind, port),))


class RegistriesTests(SynchronousTestCase):
    """The order in which registries are tried."""

    def test_same_for_all(self) -> None:
        """The smallest instance comes first, in whatever order they were seen."""
        seen = [sighting(n, f"10.0.0.{9 - n}") for n in range(1, 6)]
        for seed in range(20):
            Random(seed).shuffle(seen)
            self.assertEqual(registries(seen)[0], ("10.0.0.8", 5000))

    def test_addresses_of_one(self) -> None:
        """Of one registry's addresses IPv4 is tried first, and one with an interface last."""
        hosts = ["fe80::1%eth0", "fd00::1", "10.0.0.1"]
        tried = [host for host, _ in registries(sighting(1, host) for host in hosts)]
        self.assertEqual(tried, ["10.0.0.1", "fd00::1", "fe80::1%eth0"])

    def test_nodes_are_none(self) -> None:
        """A node that carries no registry is none to follow."""
        self.assertEqual(registries([sighting(1, "10.0.0.1", "node")]), [])


class ElectionTests(SynchronousTestCase):
    """What a node decides, and when."""

    def election(self, mode: Mode = Mode.AUTO, configured: bool = False, seed: int = 1) -> Election:
        """A node that starts at L{START}."""
        return Election(mode, configured=configured, random=Random(seed), now=START)

    def decide(
        self,
        election: Election,
        after: float,
        *seen: Sighting,
        reached: bool = False,
        failed: tuple[tuple[str, int], ...] = (),
    ) -> Decision:
        """What it decides, seconds after the start."""
        return election.decide(START + after, reached=reached, sightings=seen, failed=failed)

    def test_alone(self) -> None:
        """A node that sees nobody listens for a while, and leads exactly when it said."""
        election = self.election()
        waits = self.decide(election, 0)
        assert isinstance(waits, Wait)
        assert waits.until is not None
        self.assertTrue(LISTEN <= waits.until - START <= LISTEN + SPREAD)
        self.assertEqual(self.decide(election, waits.until - START - 0.001), waits)
        self.assertEqual(self.decide(election, waits.until - START), Lead())

    def test_apart(self) -> None:
        """Nodes that start together do not lead together."""
        until = {self.decide(self.election(seed=seed), 0) for seed in range(50)}
        self.assertEqual(len(until), 50)

    def test_seen(self) -> None:
        """A registry that is seen is followed at once, even when it was time to lead."""
        for after in (0.0, 60.0):
            decision = self.decide(self.election(), after, sighting(1, "10.0.0.1", port=5001))
            self.assertEqual(decision, Follow("10.0.0.1", 5001))

    def test_link_local(self) -> None:
        """
        A registry that is seen at a link-local address is followed there only if no other address
        of it turns up while the node listens.
        """
        far, near = sighting(1, "10.0.0.1"), sighting(1, "fe80::1%eth0")
        for mode in (Mode.AUTO, Mode.NEVER):
            election = self.election(mode)
            waits = self.decide(election, 0, near)
            assert isinstance(waits, Wait)
            self.assertIsNotNone(waits.until)
            self.assertEqual(self.decide(election, 0.1, near, far), Follow("10.0.0.1", 5000))
            self.assertEqual(self.decide(election, LISTEN, near), Follow("fe80::1%eth0", 5000))

    def test_only_nodes_seen(self) -> None:
        """Nodes without a registry are no reason not to lead."""
        decision = self.decide(self.election(), 60, sighting(1, "10.0.0.1", "node"))
        self.assertEqual(decision, Lead())

    def test_failed(self) -> None:
        """A registry that cannot be reached gives way to the next, and then to leading."""
        election = self.election()
        seen = (sighting(1, "10.0.0.1"), sighting(2, "10.0.0.2"))
        first, second = ("10.0.0.1", 5000), ("10.0.0.2", 5000)
        self.assertEqual(self.decide(election, 60, *seen, failed=(first,)), Follow(*second))
        self.assertEqual(self.decide(election, 60, *seen, failed=(first, second)), Lead())

    def test_configured_first(self) -> None:
        """While a configured registry may still answer, nothing else is followed."""
        election = self.election(configured=True)
        seen = sighting(1, "10.0.0.1")
        self.assertEqual(self.decide(election, 0, seen), Wait(START + PATIENCE))
        self.assertEqual(self.decide(election, PATIENCE, seen), Follow("10.0.0.1", 5000))

    def test_configured_reached(self) -> None:
        """A configured registry that answers is stayed with, early and late, in both modes."""
        for mode in (Mode.AUTO, Mode.NEVER):
            for after in (0.0, 60.0):
                election = self.election(mode, configured=True)
                decision = self.decide(election, after, sighting(1, "10.0.0.1"), reached=True)
                self.assertEqual(decision, FollowConfigured())

    def test_configured_in_vain(self) -> None:
        """When the configured registry does not answer and none is seen, the node leads."""
        election = self.election(configured=True)
        waits = self.decide(election, PATIENCE)
        assert isinstance(waits, Wait)
        assert waits.until is not None
        self.assertTrue(PATIENCE <= waits.until - START <= PATIENCE + SPREAD)
        self.assertEqual(self.decide(election, waits.until - START), Lead())

    def test_never(self) -> None:
        """Mode never waits for ever, but follows."""
        election = self.election(Mode.NEVER)
        self.assertEqual(self.decide(election, 0), Wait(None))
        self.assertEqual(self.decide(election, 1e9), Wait(None))
        followed = self.decide(election, 1e9, sighting(1, "10.0.0.1"))
        self.assertEqual(followed, Follow("10.0.0.1", 5000))

    def test_always(self) -> None:
        """Mode always leads at once, whoever is there."""
        election = self.election(Mode.ALWAYS, configured=True)
        self.assertEqual(self.decide(election, 0, sighting(1, "10.0.0.1"), reached=True), Lead())

    def test_deaf(self) -> None:
        """A node without a beacon has nothing to listen to, and leads at once."""
        election = Election(Mode.AUTO, configured=False, random=Random(1), now=START, listens=0)
        self.assertEqual(self.decide(election, 0), Lead())
