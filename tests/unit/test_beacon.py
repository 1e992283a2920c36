"""Tests for L{flow512.discovery.beacon} and L{flow512.discovery.sockets}, in memory."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.error import MulticastJoinError
from twisted.internet.interfaces import IReactorMulticast, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.beacon import PORT, REFRESH, Beacon
from flow512.discovery.datagram import (
    Announce,
    Goodbye,
    Offer,
    decode,
    encode,
    encode_query,
)
from flow512.discovery.engine import Ignored, Sighting
from flow512.errors import Misuse
from flow512.testing import Host, Network

REGISTRY = Offer("registry", 5000)
NODE = Offer("node", 5001)


def ipv4(host: Host) -> LocalAddress:
    """The IPv4 address of a host in 10.0.0.0/24."""
    return LocalAddress(str(host.interfaces[1].ipv4.ip), 24, "eth0", 2)


def ipv6(host: Host) -> LocalAddress:
    """The IPv6 address of a host in fd00::/64."""
    return LocalAddress(str(host.interfaces[1].ipv6.ip), 64, "eth0", 2)


class Stranger(DatagramProtocol):
    """Somebody who sends what he likes, and keeps what he gets."""

    noisy = False

    def __init__(self) -> None:
        self.got: list[tuple[bytes, tuple[str, int]]] = []

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.got.append((datagram, addr))


@implementer(IReactorTime, IReactorMulticast)
class BrokenNetwork:
    """
    A reactor whose sockets cannot do everything.

    @ivar broken: the methods of its ports that fail.
    """

    def __init__(self, host: Host, *broken: str) -> None:
        self._real = host.reactor
        self.broken = set(broken)

    def seconds(self) -> float:
        return self._real.seconds()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        return self._real.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        return self._real.getDelayedCalls()

    def listenMulticast(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> Any:
        made = self._real.listenMulticast(port, protocol, interface, maxPacketSize, listenMultiple)

        real_write, real_join = made.write, made.joinGroup

        def write(datagram: bytes, addr: tuple[str, int]) -> Any:
            if "write" in self.broken:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
            return real_write(datagram, addr)

        def join_group(group: str, interface: str = "") -> Any:
            if "joinGroup" in self.broken:
                return fail(MulticastJoinError(group, interface, errno.ENOBUFS))
            return real_join(group, interface)

        made.write = write
        made.joinGroup = join_group
        return made


class BeaconTests(SynchronousTestCase):
    """Beacons on a network in memory."""

    def setUp(self) -> None:
        """A network, which must be quiet when all beacons have stopped."""
        self.network = Network(seed=1)
        self.beacons: list[Beacon] = []
        self.found: dict[str, list[Sighting]] = {}
        self.lost: dict[str, list[Sighting]] = {}
        self.addCleanup(self.stop_all)

    def stop_all(self) -> None:
        """Stop what runs, and see that nothing is left."""
        for beacon in self.beacons:
            if beacon.running:
                self.network.result(beacon.stopService())
        self.network.run(1.0)
        # A socket that could not be bound has no port; Twisted leaves it to the garbage collector.
        left = [what for what in self.network.left_over() if not what.endswith("UDP port 0")]
        self.assertEqual(left, [])

    def beacon(self, host: Host, name: str, *offers: Offer, **changes: Any) -> Beacon:
        """A beacon on a host, started."""
        found, lost = self.found.setdefault(name, []), self.lost.setdefault(name, [])
        settings: dict[str, Any] = {
            "name": name,
            "random": Random(name),
            "offers": offers,
            "interfaces": [ipv4(host)],
            "on_found": found.append,
            "on_lost": lost.append,
            **changes,
        }
        beacon = Beacon(settings.pop("reactor", host.reactor), **settings)
        beacon.startService()
        self.beacons.append(beacon)
        return beacon

    def hosts(self, count: int) -> list[Host]:
        """Hosts on one link."""
        return [self.network.host(f"10.0.0.{n}", f"fd00::{n}") for n in range(1, count + 1)]

    def stranger(self, host: Host) -> Stranger:
        """Somebody on a host, with a UDP port."""
        stranger = Stranger()
        port = host.reactor.listenMulticast(0, stranger)
        port.setBroadcastAllowed(True)
        self.addCleanup(lambda: self.network.result(port.stopListening()))
        return stranger

    def said(self, logs: list[LogEvent]) -> list[str]:
        """What beacons logged for people."""
        return [
            str(formatEvent(event))
            for event in logs
            if "beacon" in event["log_namespace"] and event["log_level"].name != "debug"
        ]

    # Finding

    def test_find_each_other(self) -> None:
        """Two beacons on one link find each other, with what each offers and where it is."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY, node_id=b"i" * 32)
        self.beacon(second, "second", NODE)
        self.network.run(1.0)
        (seen,) = self.found["second"]
        self.assertEqual((seen.host, seen.name, seen.node_id), ("10.0.0.1", "first", b"i" * 32))
        self.assertEqual(seen.port("registry"), 5000)
        (seen,) = self.found["first"]
        self.assertEqual((seen.host, seen.port("node")), ("10.0.0.2", 5001))
        self.assertEqual(self.beacons[0].sightings, (seen,))

    def test_ipv6(self) -> None:
        """Where there is only IPv6, they find each other by its multicast."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY, interfaces=[ipv6(first)])
        self.beacon(second, "second", interfaces=[ipv6(second)])
        self.network.run(1.0)
        self.assertEqual([seen.host for seen in self.found["second"]], ["fd00::1"])

    def test_every_address(self) -> None:
        """Who has two addresses is seen at both."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY, interfaces=[ipv4(first), ipv6(first)])
        self.beacon(second, "second", interfaces=[ipv4(second), ipv6(second)])
        self.network.run(1.0)
        self.assertEqual({seen.host for seen in self.found["second"]}, {"10.0.0.1", "fd00::1"})

    def test_one_machine(self) -> None:
        """Several processes of one machine share the port, and find each other by loopback."""
        host = self.network.host("10.0.0.1")
        loopback = [LocalAddress("127.0.0.1", 8, "lo", 1)]
        for name in ("a", "b", "c"):
            self.beacon(host, name, NODE, interfaces=loopback)
        self.network.run(1.0)
        for name in ("a", "b", "c"):
            seen = {(sighting.name, sighting.host) for sighting in self.found[name]}
            self.assertEqual(seen, {(n, "127.0.0.1") for n in "abc" if n != name})

    def test_late_comer(self) -> None:
        """Who comes between two announcements asks, and is answered within half a second."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY)
        self.network.run(1.0)
        self.beacon(second, "second")
        self.network.run(0.5)
        self.assertEqual([seen.name for seen in self.found["second"]], ["first"])

    def test_networks_apart(self) -> None:
        """Beacons of different networks do not see each other."""
        first, second, third = self.hosts(3)
        self.beacon(first, "first", NODE, network="a")
        self.beacon(second, "second", NODE, network="b")
        self.beacon(third, "third", NODE)
        self.network.run(20.0)
        self.assertEqual(list(self.found.values()), [[], [], []])

    def test_new_offer(self) -> None:
        """Others are told at once of a registry that starts later, and of its end."""
        first, second = self.hosts(2)
        beacon = self.beacon(first, "first", NODE)
        self.beacon(second, "second")
        self.network.run(2.5)
        beacon.offer("registry", 5000)
        self.network.run(0.5)
        self.assertEqual(self.found["second"][-1].port("registry"), 5000)
        beacon.withdraw("registry")
        self.network.run(1.5)
        self.assertIsNone(self.found["second"][-1].port("registry"))
        self.assertEqual(self.found["second"][-1].port("node"), 5001)

    def test_offers_last(self) -> None:
        """What is offered before the start, or was when it stopped, is offered after it."""
        first, second = self.hosts(2)
        self.beacon(second, "second")
        beacon = self.beacon(first, "first")
        self.network.result(beacon.stopService())
        beacon.offer("registry", 5000)
        beacon.offer("node", 5001)
        beacon.withdraw("node")
        with self.assertRaises(Misuse):
            beacon.offer("node", 0)
        beacon.startService()
        self.network.run(1.0)
        self.assertEqual(self.found["second"][-1].offers, (REGISTRY,))

    # Losing

    def test_goodbye(self) -> None:
        """Who stops is lost at once, and his sockets are closed when the stop is done."""
        first, second = self.hosts(2)
        stops = self.beacon(first, "first", NODE)
        self.beacon(second, "second")
        self.network.run(1.0)
        self.network.result(stops.stopService())
        self.assertEqual(first.left_over(), [])
        self.assertEqual(stops.sightings, ())
        self.network.run(0.5)
        self.assertEqual([seen.name for seen in self.lost["second"]], ["first"])

    def test_crash(self) -> None:
        """Who vanishes without a word is lost after three intervals and a little."""
        first, second = self.hosts(2)
        self.beacons.remove(self.beacon(first, "first", NODE))
        self.beacon(second, "second")
        self.network.run(1.0)
        first.crash()
        self.network.run(10.0)
        self.assertEqual(self.lost["second"], [])
        self.network.run(10.0)
        self.assertEqual([seen.name for seen in self.lost["second"]], ["first"])

    def test_restart(self) -> None:
        """A beacon that was stopped and started again is found again."""
        first, second = self.hosts(2)
        beacon = self.beacon(first, "first", NODE)
        self.beacon(second, "second")
        self.network.run(1.0)
        self.network.result(beacon.stopService())
        beacon.startService()
        self.network.run(1.0)
        before, after = self.found["second"]
        self.assertEqual(before.host, after.host)
        self.assertNotEqual(before.instance, after.instance)

    # Strangers

    def test_answer_on_the_wire(self) -> None:
        """A question is answered to its source alone, and by nothing longer than itself."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY)
        stranger = self.stranger(second)
        question = encode_query(b"s" * 16, "")
        stranger.transport.write(question, ("10.0.0.255", PORT))
        self.network.run(1.0)
        ((answer, source),) = stranger.got
        self.assertEqual(source[0], "10.0.0.1")
        self.assertTrue(len(answer) <= len(question))
        self.assertEqual(decode(answer).offers, (REGISTRY,))

    def test_far_away(self) -> None:
        """Somebody on another link is neither answered nor believed."""
        (first,) = self.hosts(1)
        beacon = self.beacon(first, "first", REGISTRY, interfaces=[ipv4(first), ipv6(first)])
        near = self.stranger(self.network.host("10.0.0.2"))
        near.transport.write(encode_query(b"n" * 16, ""), ("10.0.0.255", PORT))
        self.network.run(1.0)
        ((_, own),) = near.got
        stranger = self.stranger(self.network.host("10.7.0.1"))
        announcement = encode(Announce(b"s" * 16, "", "far", b"", (NODE,), 1, 5000))
        for data in (encode_query(b"s" * 16, ""), announcement):
            stranger.transport.write(data, ("10.0.0.1", PORT))
            stranger.transport.write(data, own)
        self.network.run(1.0)
        self.assertEqual(stranger.got, [])
        self.assertEqual(beacon.sightings, ())

    def test_flood(self) -> None:
        """A thousand questions of one source bring a bounded number of answers."""
        first, second = self.hosts(2)
        self.beacon(first, "first", REGISTRY)
        for number in range(10):
            stranger = self.stranger(second)
            for _ in range(100):
                stranger.transport.write(encode_query(bytes([number]) * 16, ""), ("10.0.0.1", PORT))
        self.network.run(2.0)
        self.assertLess(first.datagrams_sent, 100)

    def test_forged_goodbye(self) -> None:
        """Nobody is lost because somebody else says his goodbye."""
        first, second, third = self.hosts(3)
        self.beacon(first, "first", NODE)
        self.beacon(second, "second")
        self.network.run(1.0)
        (seen,) = self.found["second"]
        forged = encode(Goodbye(seen.instance, "", 1000))
        self.stranger(third).transport.write(forged, ("10.0.0.2", PORT))
        self.network.run(20.0)
        self.assertEqual(self.lost["second"], [])

    def test_hostile_name(self) -> None:
        """A name never reaches the log with its control and bidi characters."""
        first, second = self.hosts(2)
        with capturedLogs() as logs:
            self.beacon(first, "first")
            self.beacon(second, "evil\x1b[2J\u202e\n{name}", NODE)
            self.network.run(1.0)
            self.network.result(self.beacons[1].stopService())
            self.network.run(1.0)
        lines = [str(formatEvent(event)) for event in logs if "beacon" in event["log_namespace"]]
        self.assertEqual(
            [line for line in lines if "evil" in line],
            [
                r"Found evil\x1b[2J\u202e\n{name} at 10.0.0.2",
                r"Lost evil\x1b[2J\u202e\n{name} at 10.0.0.2",
            ],
        )

    # Trouble

    def test_port_taken(self) -> None:
        """With the port taken it says so once, and still finds others by asking."""
        first, second = self.hosts(2)
        taken = first.reactor.listenUDP(PORT, DatagramProtocol())
        with capturedLogs() as logs:
            beacon = self.beacon(first, "first", interfaces=[ipv4(first)])
            self.beacon(second, "second", REGISTRY)
            self.network.run(2 * REFRESH + 10)
        (sentence,) = self.said(logs)
        self.assertIn("UDP port 5120 cannot be opened for IPv4", sentence)
        self.assertIn("second", [seen.name for seen in self.found["first"]])
        self.network.result(taken.stopListening())
        self.network.run(REFRESH + 10)
        self.assertEqual([seen.name for seen in beacon.sightings], ["second"])

    def test_nothing_can_be_sent(self) -> None:
        """A network that takes nothing is logged once, whatever is tried for however long."""
        (first,) = self.hosts(1)
        broken = BrokenNetwork(first, "write")
        verifyObject(IReactorTime, broken)
        verifyObject(IReactorMulticast, broken)
        with capturedLogs() as logs:
            self.beacon(first, "first", NODE, reactor=broken)
            self.network.run(100.0)
        (sentence,) = self.said(logs)
        self.assertIn("10.0.0.1", sentence)
        self.assertIn("Network is unreachable", sentence)

    def test_group_cannot_be_joined(self) -> None:
        """When a group cannot be joined, that is logged once, and tried again."""
        (first,) = self.hosts(1)
        broken = BrokenNetwork(first, "joinGroup")
        with capturedLogs() as logs:
            self.beacon(first, "first", reactor=broken)
            self.network.run(3 * REFRESH)
        (sentence,) = self.said(logs)
        self.assertIn("10.0.0.1", sentence)
        broken.broken.clear()
        self.network.run(REFRESH)
        # No broadcast reaches it here: the group is the only way.
        narrow = LocalAddress("10.0.0.2", 31, "eth0", 2)
        second = self.network.host("10.0.0.2")
        self.beacon(second, "second", NODE, interfaces=[narrow])
        self.network.run(1.0)
        self.assertEqual([seen.name for seen in self.found["first"]], ["second"])

    def test_address_not_there(self) -> None:
        """An address that cannot be used is logged once, and the others are used."""
        first, second = self.hosts(2)
        gone = LocalAddress("10.0.9.9", 24, "eth9", 9)
        gone6 = LocalAddress("fd09::9", 64, "eth9", 9)
        with capturedLogs() as logs:
            self.beacon(first, "first", NODE, interfaces=[gone, gone6, ipv4(first)])
            self.beacon(second, "second")
            self.network.run(3 * REFRESH)
        sentences = self.said(logs)
        self.assertEqual(len(sentences), 2, sentences)
        self.assertEqual([seen.name for seen in self.found["second"]], ["first"])

    def test_interfaces_come_and_go(self) -> None:
        """Within half a minute an interface that comes is used, and one that goes is left."""
        first, second = self.hosts(2)
        present: list[LocalAddress] = []
        beacon = self.beacon(first, "first", NODE, interfaces=lambda: present)
        self.beacon(second, "second", REGISTRY)
        self.network.run(3.0)
        self.assertEqual(self.found["second"], [])
        present.append(ipv4(first))
        self.network.run(REFRESH)
        self.assertEqual([seen.name for seen in self.found["second"]], ["first"])
        self.assertEqual([seen.name for seen in beacon.sightings], ["second"])
        present.clear()
        self.network.run(REFRESH + 30)
        self.assertEqual([seen.name for seen in self.lost["second"]], ["first"])
        self.assertEqual([seen.name for seen in self.lost["first"]], ["second"])
        present.append(ipv4(first))
        with capturedLogs() as logs:
            self.network.run(REFRESH + 1)
        self.assertEqual(self.said(logs), [])
        self.assertEqual([seen.name for seen in beacon.sightings], ["second"])

    def test_interfaces_cannot_be_read(self) -> None:
        """When the system does not list its interfaces, that is logged once and tried again."""
        first, second = self.hosts(2)
        failing = [True]

        def interfaces() -> list[LocalAddress]:
            if failing:
                raise OSError(errno.EMFILE, "Too many open files")
            return [ipv4(first)]

        with capturedLogs() as logs:
            self.beacon(first, "first", interfaces=interfaces)
            self.beacon(second, "second", REGISTRY)
            self.network.run(3 * REFRESH)
        self.assertEqual(len(self.said(logs)), 1)
        failing.clear()
        self.network.run(REFRESH + 1)
        self.assertEqual([seen.name for seen in self.found["first"]], ["second"])

    def test_socket_dies(self) -> None:
        """A socket that the reactor closed because of an error is opened again."""
        first, second = self.hosts(2)
        beacon = self.beacon(first, "first", NODE, interfaces=[ipv6(first)])
        for port in [p for p in first.reactor.getReaders() if hasattr(p, "joinGroup")]:
            port.connectionLost(None)
        self.network.run(REFRESH + 1)
        self.beacon(second, "second", REGISTRY, interfaces=[ipv6(second)])
        self.network.run(1.0)
        self.assertEqual([seen.name for seen in beacon.sightings], ["second"])
        self.assertEqual([seen.name for seen in self.found["second"]], ["first"])

    def test_listener_fails(self) -> None:
        """An error in the application's listener is logged, and the beacon goes on."""
        first, second = self.hosts(2)

        def explode(sighting: Sighting) -> None:
            raise ZeroDivisionError

        beacon = self.beacon(first, "first", NODE, on_found=explode)
        self.beacon(second, "second", NODE)
        self.network.run(1.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([seen.name for seen in beacon.sightings], ["second"])
        self.assertEqual([seen.name for seen in self.found["second"]], ["first"])

    def test_misuse(self) -> None:
        """What cannot be announced is refused when the beacon is made."""
        (first,) = self.hosts(1)
        with self.assertRaises(Misuse):
            Beacon(first.reactor, name="n" * 65, random=Random(1))

    def test_repeats(self) -> None:
        """The same seed gives the same traffic, to the byte."""

        def traffic() -> str:
            network = Network(seed=7)
            beacons = []
            for number in range(1, 6):
                host = network.host(f"10.0.0.{number}")
                beacon = Beacon(
                    host.reactor,
                    name=str(number),
                    random=Random(number),
                    offers=[NODE],
                    interfaces=[ipv4(host)],
                )
                beacon.startService()
                beacons.append(beacon)
            network.run(20.0)
            for beacon in beacons:
                network.result(beacon.stopService())
            return network.fingerprint

        self.assertEqual(traffic(), traffic())

    def test_own_is_ignored(self) -> None:
        """A beacon hears itself, and makes nothing of it."""
        (first,) = self.hosts(1)
        beacon = self.beacon(first, "first", NODE)
        self.network.run(1.0)
        self.assertEqual(beacon.sightings, ())
        self.assertGreater(beacon.ignored[Ignored.OWN], 0)
