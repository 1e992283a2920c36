"""
What beacons cost the network, and how soon they find: counted on a network in memory.

C{FLOW512_BEACONS} is the number of nodes on the largest of them.
"""

from __future__ import annotations

import os
from random import Random

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.beacon import Beacon
from flow512.discovery.engine import Sighting
from flow512.testing import Network

NODES = int(os.environ.get("FLOW512_BEACONS", "100"))
ALLOWED = 20_000
"""Bytes a second on the wire that all beacons of a network may take together."""

HEADERS = 48 + 8 + 18 + 20
"""Bytes for each datagram: IPv6, UDP, the frame of Ethernet with its sum, preamble and gap."""


class Link:
    """
    Beacons that have found each other on one link, and say nothing but what they must.

    @param kinds: 4 and 6, the versions of IP that each has an address of.
    @param seal_key: of their closed network.
    """

    def __init__(self, count: int, kinds: tuple[int, ...], seal_key: bytes | None) -> None:
        self.network = Network(seed=count)
        self.beacons = [self._beacon(number, kinds, seal_key) for number in range(count)]
        # What all ask at once at the start is not the subject; without it they hear of each other
        # by what they announce.
        self.network.datagram_loss = 1.0
        for beacon in self.beacons:
            beacon.startService()
        self.network.run(2.0)
        self.network.datagram_loss = 0.0
        seen = (count - 1) * len(kinds)
        self.network.run_until(
            lambda: all(len(beacon.sightings) == seen for beacon in self.beacons), limit=10.0
        )

    def _beacon(self, number: int, kinds: tuple[int, ...], seal_key: bytes | None) -> Beacon:
        places = {
            4: LocalAddress(f"10.0.{number >> 8}.{number % 256}", 8, "eth0", 2),
            6: LocalAddress(f"fd00::{number + 1:x}", 64, "eth0", 2),
        }
        addresses = [places[kind] for kind in kinds]
        host = self.network.host(*(f"{each.address}/{each.prefix}" for each in addresses))
        beacon = Beacon(
            host.reactor,
            name=f"{number:08}" + "n" * 56,
            random=Random(number),
            node_id=bytes(32),
            interfaces=addresses,
            seal_key=seal_key,
        )
        beacon.offer("node", 5000)
        beacon.offer("registry", 5000)
        return beacon

    def bytes_a_second(self, seconds: float) -> float:
        """What goes over the wire in that time, with all headers."""
        before = self._sent()
        self.network.run(seconds)
        return (self._sent() - before) / seconds

    def _sent(self) -> int:
        return sum(host.bytes_sent + host.datagrams_sent * HEADERS for host in self.network.hosts)

    def stop(self) -> None:
        """Leave nothing behind."""
        # Nobody is left who would care for a goodbye.
        self.network.datagram_loss = 1.0
        self.network.result(gatherResults([each.stopService() for each in self.beacons]))
        self.network.assert_quiet()


class TrafficTests(SynchronousTestCase):
    """An idle network, however large, costs the same few kilobytes a second."""

    def link(self, *kinds: int, count: int = NODES, seal_key: bytes | None = None) -> Link:
        """Make a link, which is taken down after the test."""
        link = Link(count, kinds, seal_key)
        self.addCleanup(link.stop)
        return link

    def test_large_and_sealed(self) -> None:
        """
        So does the dearest of all: a closed network on IPv4, where each datagram is a full one and
        goes two ways.
        """
        link = self.link(4, seal_key=bytes(32))
        spent = link.bytes_a_second(15.0)
        self.assertLess(spent, ALLOWED)
        # They are all still there, and say so.
        self.assertGreater(spent, ALLOWED / 3)

    def test_both_versions(self) -> None:
        """Who has IPv4 and IPv6 is seen twice, and so speaks half as often."""
        link = self.link(4, 6, count=40, seal_key=bytes(32))
        self.assertLess(link.bytes_a_second(15.0), ALLOWED)

    def test_open(self) -> None:
        """An open network costs less, though its names be as long as may be."""
        link = self.link(4, count=min(NODES, 100))
        self.assertLess(link.bytes_a_second(7.5), ALLOWED / 2)


class FirstTests(SynchronousTestCase):
    """Who starts sees somebody at once."""

    def test_first_peer(self) -> None:
        """However large the network is, a node that starts has its first peer within 300 ms."""
        for count in (1, 2, 100):
            with self.subTest(count=count):
                link = Link(count, (4,), None)
                found: list[Sighting] = []
                host = link.network.host("10.9.9.9/8")
                beacon = Beacon(
                    host.reactor,
                    name="late",
                    random=Random(7),
                    interfaces=[LocalAddress("10.9.9.9", 8, "eth0", 2)],
                    on_found=found.append,
                )
                beacon.startService()
                link.beacons.append(beacon)
                link.network.run_until(lambda found=found: found, limit=0.3)
                link.stop()
