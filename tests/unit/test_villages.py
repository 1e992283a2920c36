"""
Whole nodes that have no registry but the one that they make: in bad weather, and by the clock.

C{FLOW512_VILLAGE_SEEDS} says which seeds are tried, from first to last.
"""

from __future__ import annotations

import os
import tempfile
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import RegistryOffer
from flow512.discovery.election import Mode
from flow512.discovery.waits import PREFERRED_AFTER
from flow512.link.address import HostPort
from flow512.link.join_link import format_key
from flow512.link.named_registry import NamedRegistry
from flow512.link.security import Encryption
from tests.unit.leaders_of_nodes import Misfortune, Village

BOUND: Final = 40.0
"""Seconds; docs/bootstrap.rst says how they come about."""

SEEDS = range(*map(int, os.environ.get("FLOW512_VILLAGE_SEEDS", "0:6").split(":")))


class MisfortuneTests(SynchronousTestCase):
    """One leader in each part, and everybody listed, soon after the last disturbance."""

    def test_seeds(self) -> None:
        """Whatever the seed, and not one term goes back meanwhile."""
        for seed in SEEDS:
            with self.subTest(seed=seed):
                Misfortune(seed).run(BOUND)

    def test_old_name(self) -> None:
        """
        A node that comes back as somebody else hears its old announcement, and does not register
        with itself in the place of its own registration. (This was seed 91.)
        """
        Misfortune(91).run(BOUND)


class TimingTests(SynchronousTestCase):
    """How long nodes are without a list that is right; with the default settings."""

    def village(self, count: int, encryption: Encryption = Encryption.NONE) -> Village:
        """A village that has settled."""
        village = Village(count, count, encryption)
        for host in village.hosts:
            village.start(host)
        self.assertLess(village.settle(10.0), 5.0)
        village.network.run(33.3)
        return village

    def test_killed(self) -> None:
        """From SIGKILL of the leader to a complete list everywhere it takes two seconds at most."""
        for count in (3, 10, 30):
            village = self.village(count, Encryption.TLS if count == 3 else Encryption.NONE)
            (leader,) = village.leaders
            village.kill(leader)
            self.assertLess(village.settle(10.0), 2.0)
            village.end()

    def test_power_failure(self) -> None:
        """If its machine goes down, so that nothing is said, it takes ten seconds at most."""
        for count in (3, 10, 30):
            village = self.village(count)
            (leader,) = village.leaders
            village.kill(leader, power=True)
            self.assertLess(village.settle(10.0), 8.0)
            village.end()

    def test_heirs_die_too(self) -> None:
        """If the first heirs go down together with it, the next one leads in time."""
        village = self.village(8)
        (leader,) = village.leaders
        others = [host for host in village.running if host is not leader]
        others.sort(key=lambda host: village.running[host].introduction.node)
        for host in (leader, *others[:2]):
            village.kill(host, power=True)
        self.assertLess(village.settle(20.0), 11.0)
        village.end()

    def test_stopped(self) -> None:
        """From a clean stop to a complete list everywhere it takes a second at most."""
        for count in (3, 10, 30):
            village = self.village(count)
            (leader,) = village.leaders
            village.stop(leader)
            self.assertLess(village.settle(5.0), 1.0)
            village.end()

    def test_at_the_same_instant(self) -> None:
        """Nodes that start at the same instant have one leader, and complete lists, in seconds."""
        for seed in range(5):
            village = Village(seed, 12)
            for host in village.hosts:
                village.start(host)
            self.assertLess(village.settle(10.0), 3.0)
            village.end()

    def test_healed(self) -> None:
        """
        Two parts have a leader each; when the cut heals, those of the younger one are with the
        older one within seconds, in a later term, and nobody is listed twice or lost.
        """
        village = self.village(9)
        (first,) = village.leaders
        north, south = village.hosts[:5], village.hosts[5:]
        village.network.partition(north, south)
        village.disturbed = village.now
        village.settle(BOUND, quiet=20.0)
        self.assertEqual(len(village.leaders), 2)
        village.network.heal()
        village.disturbed = village.now
        self.assertLess(village.settle(BOUND), 10.0)
        self.assertEqual(village.leaders, [first])
        leadership = village.running[first].leadership
        assert leadership is not None
        self.assertEqual(leadership.claim.term, 2)
        village.end()

    def test_away_and_back(self) -> None:
        """One machine that was away, and led itself meanwhile, moves nobody when it is back."""
        village = self.village(6)
        (first,) = village.leaders
        away = next(host for host in village.hosts if host is not first)
        others = [host for host in village.hosts if host is not away]
        village.network.partition([away], others)
        village.disturbed = village.now
        village.settle(BOUND, quiet=10.0)
        self.assertEqual(set(village.leaders), {first, away})
        registry = village.running[first].neighbourhood._office.registry  # type: ignore[union-attr]  # it leads
        assert registry is not None
        before = set(registry._connections)
        village.network.heal()
        village.disturbed = village.now
        village.settle(BOUND)
        self.assertEqual(village.leaders, [first])
        self.assertTrue(before <= set(registry._connections))
        village.end()


class CutOffTests(SynchronousTestCase):
    """Nodes that nobody can reach."""

    def test_firewall(self) -> None:
        """
        A node that was there first, and whose port nobody can reach, does not lead for long once
        others are there: it follows one of them, and has the list, though it is not on it.
        """
        village = Village(4, 5)
        behind, *others = village.hosts
        alone = village.start(behind, listen="tcp:5000:interface=127.0.0.1")
        village.network.run(10.0)
        self.assertEqual(village.leaders, [behind])
        for host in others:
            village.start(host)
        village.network.run(30.0)
        (leader,) = village.leaders
        self.assertNotEqual(leader, behind)
        self.assertEqual({peer.name for peer in alone.peers}, {host.name for host in others})
        for host in others:
            self.assertEqual(len(village.running[host].peers), 3)
        village.end()


class StrangerTests(SynchronousTestCase):
    """Those who do not belong to the network."""

    def test_closed_network(self) -> None:
        """
        A registry that is appointed, and no member of a closed network, is followed by none of its
        members, and none of them steps down for it, though they are told of it all the time.
        """
        with tempfile.NamedTemporaryFile() as file:
            file.write(format_key(b"k" * 32).encode())
            file.flush()
            village = Village(3, 5, Encryption.TLS)
            stranger, *members = village.hosts
            registry = village.start_registry(stranger)
            village.network.run(3.0)
            for host in members:
                village.start(host, network_key_file=file.name)
            leading = registry.factory.claim
            told = RegistryOffer("10.0.0.1", 5000, leading.node, 9, leading.since, True)
            for node in village.running.values():
                follower = node.neighbourhood._follower
                assert follower is not None
                seen = follower._offers
                follower._offers = lambda seen=seen: [*seen(), told]  # type: ignore[misc]  # the default binds it
            village.settle(20.0, quiet=60.0)
            self.assertEqual(len(village.leaders), 1)
            self.assertEqual(registry.peers, [])
            village.end()


class SeveralRegistriesTests(SynchronousTestCase):
    """Registries by themselves, and nodes that have several."""

    def setUp(self) -> None:
        self.village = Village(5, 6)
        self.one, self.two, *self.others = self.village.hosts

    def names(self) -> set[str]:
        """The names of those whom the nodes say that they follow."""
        return {
            "" if (led := node.leadership) is None else led.name
            for node in self.village.running.values()
        }

    def test_two_found(self) -> None:
        """
        Of two registries that nobody named all nodes follow the one that was there first, whichever
        they found at first; when it goes, the other; and it keeps them.
        """
        village = self.village
        village.start_registry(self.one)
        village.network.run(3.0)
        village.network.cut(self.one, self.others[0])
        village.start_registry(self.two)
        for host in self.others:
            village.start(host, bootstrap=Mode.NEVER)
        village.network.run(5.0)
        village.network.heal()
        village.network.run(60.0)
        self.assertEqual(self.names(), {self.one.name})
        self.assertEqual([len(node.peers) for node in village.running.values()], [3] * 4)
        village.network.result(village.registries.pop(self.one).stopService())
        village.network.run(3.0)
        self.assertEqual(self.names(), {self.two.name})
        self.assertEqual([len(node.peers) for node in village.running.values()], [3] * 4)
        village.end()

    def test_named(self) -> None:
        """
        Nodes that have two, which know nothing of each other, go to the second within seconds of
        the end of the first, and back when that has been there for five seconds; to nobody else,
        and lead only when both are gone.
        """
        village = self.village
        both = tuple(NamedRegistry(HostPort(host.name, 5000)) for host in (self.one, self.two))
        for host in (self.one, self.two):
            village.start_registry(host, beacon_port=None)
        for host in self.others:
            village.start(host, registries=both, beacon_port=None)
        village.network.run(5.0)
        self.assertEqual(self.names(), {self.one.name})
        village.network.result(village.registries.pop(self.one).stopService())
        village.network.run(3.0)
        self.assertEqual(self.names(), {self.two.name})
        self.assertEqual([len(node.peers) for node in village.running.values()], [3] * 4)
        village.start_registry(self.one, beacon_port=None)
        village.network.run(PREFERRED_AFTER + 70.0)
        self.assertEqual(self.names(), {self.one.name})
        for host in (self.one, self.two):
            village.network.result(village.registries.pop(host).stopService())
        village.network.run(10.0)
        self.assertEqual(len(village.leaders), 1)
        self.assertEqual([len(node.peers) for node in village.running.values()], [3] * 4)
        village.end()

    def test_named_registry_returns(self) -> None:
        """
        A registry that some nodes named comes back: they go there, and the leader that they had
        meanwhile follows with all the others, though these never heard of it.
        """
        village = self.village
        named = (NamedRegistry(HostPort(self.one.name, 5000)),)
        for host in self.others[:2]:
            village.start(host, registries=named)
        for host in (self.two, *self.others[2:]):
            village.start(host)
        village.settle(20.0)
        village.network.run(30.0)
        # Its beacon is not heard, as if it were behind a router.
        registry = village.start_registry(self.one, beacon_port=None)
        village.network.run(100.0)
        self.assertEqual(self.names(), {self.one.name})
        self.assertEqual(len(registry.peers), 5)
        self.assertEqual([len(node.peers) for node in village.running.values()], [4] * 5)
        village.end()
