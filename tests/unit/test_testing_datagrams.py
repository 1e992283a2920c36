"""
L{flow512.testing}: UDP between hosts, to one, to a group and to all.
"""

from __future__ import annotations

import errno
import socket
import struct

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    CannotListenError,
    InvalidAddressError,
    MessageLengthError,
    MulticastJoinError,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IMulticastTransport,
    ISystemHandle,
    IUDPTransport,
)
from twisted.internet.protocol import DatagramProtocol
from zope.interface.verify import verifyObject

from flow512.testing import Host
from tests.unit.simulated import NetworkTestCase

PORT = 5120
GROUP = "239.255.51.20"
GROUP6 = "ff02::5120"


class Ear(DatagramProtocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.sources: list[tuple[str, int]] = []
        self.refusals = 0

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        self.sources.append(addr)

    def connectionRefused(self) -> None:
        self.refusals += 1


class DatagramTestCase(NetworkTestCase):
    def ear(self, host: Host, port: int = PORT, interface: str = "") -> Ear:
        ear = Ear()
        host.reactor.listenUDP(port, ear, interface)
        return ear

    def shared_ear(self, host: Host, interface: str = "") -> Ear:
        ear = Ear()
        host.reactor.listenMulticast(PORT, ear, interface=interface, listenMultiple=True)
        return ear

    def say(self, ear: Ear, data: bytes, address: str, port: int = PORT) -> None:
        ear.transport.write(data, (address, port))
        self.network.run(1)


class UnicastTests(DatagramTestCase):
    def test_interfaces(self) -> None:
        """The ports are what Twisted's own are; only a multicast port can join groups."""
        plain, multicast = self.ear(self.a, 0), self.shared_ear(self.a)
        for each in (IListeningPort, IUDPTransport, ISystemHandle):
            verifyObject(each, plain.transport)
            verifyObject(each, multicast.transport)
        verifyObject(IMulticastTransport, multicast.transport)
        self.assertFalse(IMulticastTransport.providedBy(plain.transport))

    def test_there_and_back(self) -> None:
        """A datagram arrives whole, and can be answered to where it came from."""
        a, b = self.ear(self.a), self.ear(self.b, 0)
        self.say(b, b"question", "10.0.0.1")
        self.assertEqual(a.heard, [b"question"])
        self.assertEqual(a.sources, [("10.0.0.2", b.transport.getHost().port)])
        self.say(a, b"answer", *a.sources[0])
        self.assertEqual((b.heard, b.sources), ([b"answer"], [("10.0.0.1", PORT)]))
        self.assertEqual(a.transport.getHost(), IPv4Address("UDP", "0.0.0.0", PORT))

    def test_ipv6(self) -> None:
        """Likewise over IPv6."""
        a, b = self.ear(self.a, interface="::"), self.ear(self.b, 0, "fd00::2")
        self.say(b, b"question", "fd00::1")
        self.assertEqual(a.sources, [("fd00::2", b.transport.getHost().port)])
        self.assertEqual(a.transport.getHost(), IPv6Address("UDP", "::", PORT))

    def test_dual_stack(self) -> None:
        """A port of C{::} hears IPv4, unless it was told not to."""
        both, one = self.ear(self.a, interface="::"), self.ear(self.b, 0)
        self.say(one, b"x", "10.0.0.1")
        self.assertEqual(both.sources[0][0], "::ffff:10.0.0.2")

    def test_both_families_on_one_port(self) -> None:
        """Ports that are shared can be of both families; each hears its own."""
        four, six = self.shared_ear(self.a), self.shared_ear(self.a, "::")
        sender, sender6 = self.ear(self.b, 0), self.ear(self.b, 0, "::")
        self.say(sender, b"4", "10.0.0.1")
        self.say(sender6, b"6", "fd00::1")
        self.assertEqual((four.heard, six.heard), ([b"4"], [b"6"]))

    def test_taken(self) -> None:
        """A port that is not shared can be had once."""
        ear = self.ear(self.a)
        self.assertRaises(CannotListenError, self.ear, self.a)
        self.assertRaises(CannotListenError, self.shared_ear, self.a)
        self.network.result(ear.transport.stopListening())
        self.ear(self.a)

    def test_addresses_that_are_wrong(self) -> None:
        """Names, the other family and other hosts' addresses are refused."""
        ear, ear6 = self.ear(self.a, 0), self.ear(self.a, 0, "::")
        self.assertRaises(InvalidAddressError, ear.transport.write, b"", ("b", 1))
        self.assertRaises(InvalidAddressError, ear.transport.write, b"", ("fd00::2", 1))
        self.assertRaises(InvalidAddressError, ear6.transport.write, b"", ("10.0.0.2", 1))
        self.assertRaises(CannotListenError, self.ear, self.a, 0, "10.0.0.2")

    def test_loopback(self) -> None:
        """A host can talk to itself; from its loopback address it cannot talk to others."""
        ear = self.ear(self.a, interface="127.0.0.1")
        self.say(ear, b"me", "127.0.0.1")
        self.assertEqual(ear.heard, [b"me"])
        error = self.assertRaises(OSError, ear.transport.write, b"x", ("10.0.0.2", PORT))
        self.assertEqual(error.errno, errno.EINVAL)

    def test_no_route(self) -> None:
        """A host without IPv6 cannot send there."""
        host = self.network.host("10.0.0.3")
        ear = self.ear(host, 0, "::")
        for address in ("fd00::1", GROUP6):
            error = self.assertRaises(OSError, ear.transport.write, b"x", (address, PORT))
            self.assertEqual(error.errno, errno.ENETUNREACH)

    def test_too_long(self) -> None:
        """A datagram has its limit; a reader's own limit cuts what it gets."""
        ear, sender = Ear(), self.ear(self.b, 0)
        self.a.reactor.listenUDP(PORT, ear, maxPacketSize=100)
        self.assertRaises(
            MessageLengthError, sender.transport.write, b"x" * 65508, ("10.0.0.1", PORT)
        )
        self.say(sender, b"x" * 1000, "10.0.0.1")
        self.assertEqual([len(each) for each in ear.heard], [100])

    def test_nobody_there(self) -> None:
        """What nobody listens for, or nobody has the address of, is lost without a word."""
        sender = self.ear(self.b, 0)
        self.say(sender, b"x", "10.0.0.1")
        self.say(sender, b"x", "10.0.0.77")
        self.assertEqual(sender.refusals, 0)
        self.assertEqual(self.b.datagrams_sent, 2)
        self.assertEqual(self.a.datagrams_received, 0)

    def test_connected(self) -> None:
        """A connected port hears of a refusal, and nothing from anyone else."""
        sender, other, a = self.ear(self.b), self.ear(self.a, 0), self.ear(self.a)
        sender.transport.connect("10.0.0.1", PORT)
        sender.transport.write(b"x")
        self.network.run(1)
        self.assertEqual(a.heard, [b"x"])
        self.say(other, b"stranger", "10.0.0.2")
        self.say(a, b"friend", "10.0.0.2")
        self.assertEqual(sender.heard, [b"friend"])
        self.network.result(a.transport.stopListening())
        sender.transport.write(b"x")
        self.network.run(1)
        self.assertEqual(sender.refusals, 1)

    def test_refusal_found_while_writing(self) -> None:
        """A refusal may also be found by the next write."""
        sender = self.ear(self.b)
        sender.transport.connect("10.0.0.1", PORT)
        sender.transport.write(b"x")
        sender.transport.stopReading()
        self.network.run(1)
        sender.transport.write(b"y")
        self.assertEqual(sender.refusals, 1)

    def test_late_reader(self) -> None:
        """A reader that is late finds what fits into its queue; the rest was dropped."""
        ear, sender = self.ear(self.a), self.ear(self.b, 0)
        ear.transport.stopReading()
        for _ in range(10):
            sender.transport.write(b"x" * 60_000, ("10.0.0.1", PORT))
        self.network.run(1)
        ear.transport.startReading()
        self.network.run(1)
        self.assertEqual(len(ear.heard), 3)

    def test_error_in_datagramReceived(self) -> None:
        """An error in a protocol is logged; the port goes on."""

        class Broken(Ear):
            def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
                super().datagramReceived(data, addr)
                raise ValueError("broken")

        ear, sender = Broken(), self.ear(self.b, 0)
        self.a.reactor.listenUDP(PORT, ear)
        self.say(sender, b"1", "10.0.0.1")
        self.say(sender, b"2", "10.0.0.1")
        self.assertEqual(ear.heard, [b"1", b"2"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_shared_port(self) -> None:
        """What is sent to a port that several share reaches one of them, chosen by the sender."""
        ears = [self.shared_ear(self.a) for _ in range(2)]
        for _ in range(20):
            self.say(self.ear(self.b, 0), b"x", "10.0.0.1")
        self.assertEqual(sum(len(ear.heard) for ear in ears), 20)
        self.assertTrue(all(ear.heard for ear in ears))


class WeatherTests(DatagramTestCase):
    """Datagrams get lost, doubled and out of order, as often as was asked for."""

    def send_thousand(self) -> list[int]:
        ear, sender = self.ear(self.a), self.ear(self.b, 0)
        for number in range(1000):
            sender.transport.write(b"%d" % number, ("10.0.0.1", PORT))
            self.network.run(0.0001)
        self.network.run(1)
        return [int(each) for each in ear.heard]

    def test_fair(self) -> None:
        """In fair weather all arrive, once and in order."""
        self.assertEqual(self.send_thousand(), list(range(1000)))

    def test_loss(self) -> None:
        """A share of them is lost."""
        self.network.datagram_loss = 0.3
        self.assertIn(len(self.send_thousand()), range(640, 760))

    def test_duplication(self) -> None:
        """A share of them arrives twice."""
        self.network.datagram_duplication = 0.3
        heard = self.send_thousand()
        self.assertIn(len(heard), range(1240, 1360))
        self.assertEqual(set(heard), set(range(1000)))

    def test_reordering(self) -> None:
        """A share of them is overtaken; none is lost."""
        self.network.datagram_reordering = 0.1
        heard = self.send_thousand()
        self.assertNotEqual(heard, list(range(1000)))
        self.assertEqual(sorted(heard), list(range(1000)))

    def test_within_a_host(self) -> None:
        """There is no weather within a host."""
        self.network.datagram_loss = 1.0
        ear = self.ear(self.a)
        self.say(ear, b"x", "10.0.0.1")
        self.assertEqual(ear.heard, [b"x"])

    def test_cut(self) -> None:
        """Nothing gets through a cut, and nothing is sent again."""
        ear, sender = self.ear(self.a), self.ear(self.b, 0)
        self.network.cut_one_way(self.b, self.a)
        self.say(sender, b"lost", "10.0.0.1")
        self.network.heal()
        self.say(sender, b"heard", "10.0.0.1")
        self.assertEqual(ear.heard, [b"heard"])


class BroadcastTests(DatagramTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.c = self.network.host("10.0.0.3", "10.0.9.3")
        self.d = self.network.host("10.0.9.4")
        self.ears = {host: self.ear(host) for host in self.network.hosts}
        for ear in self.ears.values():
            ear.transport.setBroadcastAllowed(True)

    def who_heard(self, data: bytes) -> set[Host]:
        return {host for host, ear in self.ears.items() if data in ear.heard}

    def test_not_allowed(self) -> None:
        """Broadcasting has to be asked for."""
        ear = self.ear(self.a, 0)
        self.assertFalse(ear.transport.getBroadcastAllowed())
        for address in ("255.255.255.255", "10.0.0.255", "<broadcast>"):
            self.assertRaises(PermissionError, ear.transport.write, b"x", (address, PORT))
        ear.transport.setBroadcastAllowed(True)
        self.assertTrue(ear.transport.getBroadcastAllowed())
        ear.transport.write(b"x", ("255.255.255.255", PORT))

    def test_limited(self) -> None:
        """255.255.255.255 reaches all of the sender's link, itself too."""
        self.say(self.ears[self.a], b"all", "255.255.255.255")
        self.assertEqual(self.who_heard(b"all"), {self.a, self.b, self.c})
        self.assertEqual(self.ears[self.b].sources, [("10.0.0.1", PORT)])
        self.assertEqual(self.a.datagrams_sent, 1)
        self.assertEqual(self.b.datagrams_received, 1)

    def test_directed(self) -> None:
        """A host on two links reaches either by its broadcast address, from its address there."""
        self.say(self.ears[self.c], b"first", "10.0.0.255")
        self.say(self.ears[self.c], b"second", "10.0.9.255")
        self.assertEqual(self.who_heard(b"first"), {self.a, self.b, self.c})
        self.assertEqual(self.who_heard(b"second"), {self.c, self.d})
        self.assertEqual(self.ears[self.d].sources, [("10.0.9.3", PORT)])

    def test_bound_sender(self) -> None:
        """A port that is bound to one address broadcasts on its link; it hears no broadcasts."""
        bound = self.ear(self.c, 0, "10.0.9.3")
        bound.transport.setBroadcastAllowed(True)
        self.say(bound, b"all", "255.255.255.255")
        self.assertEqual(self.who_heard(b"all"), {self.c, self.d})
        other = self.ear(self.c, 7, "10.0.9.3")
        self.say(self.ears[self.d], b"back", "10.0.9.255", 7)
        self.assertEqual(other.heard, [])

    def test_bound_to_broadcast(self) -> None:
        """A port can be bound to the broadcast address; it hears that and nothing else."""
        ear = self.ear(self.b, 7, "10.0.0.255")
        self.say(self.ears[self.a], b"all", "10.0.0.255", 7)
        self.say(self.ears[self.a], b"you", "10.0.0.2", 7)
        self.assertEqual(ear.heard, [b"all"])

    def test_loopback(self) -> None:
        """The loopback has a broadcast address, which stays on the host."""
        ear = self.ear(self.a, 0, "127.0.0.1")
        ear.transport.setBroadcastAllowed(True)
        self.say(ear, b"here", "127.255.255.255")
        self.assertEqual(self.who_heard(b"here"), {self.a})

    def test_shared(self) -> None:
        """All who share a port hear a broadcast."""
        for ear in self.ears.values():
            self.network.result(ear.transport.stopListening())
        ears = [self.shared_ear(self.b) for _ in range(3)]
        sender = self.ear(self.a, 0)
        sender.transport.setBroadcastAllowed(True)
        self.say(sender, b"all", "10.0.0.255")
        self.assertEqual([ear.heard for ear in ears], [[b"all"]] * 3)

    def test_no_ipv4(self) -> None:
        """A host that has no IPv4 cannot broadcast."""
        ear = self.ear(self.network.host("fd00::5"), 0)
        ear.transport.setBroadcastAllowed(True)
        self.assertRaises(OSError, ear.transport.write, b"x", ("255.255.255.255", PORT))


class MulticastTests(DatagramTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.c = self.network.host("10.0.0.3", "10.0.9.3", "fd00::3", "fd09::3")
        self.d = self.network.host("10.0.9.4", "fd09::4")
        self.ears = {host: self.shared_ear(host) for host in self.network.hosts}
        self.ears6 = {host: self.shared_ear(host, "::") for host in self.network.hosts}

    def who_heard(self, data: bytes) -> set[Host]:
        return {
            host
            for ears in (self.ears, self.ears6)
            for host, ear in ears.items()
            if data in ear.heard
        }

    def join(self, host: Host, group: str = GROUP, interface: str = "") -> None:
        ears = self.ears6 if ":" in group else self.ears
        self.network.result(ears[host].transport.joinGroup(group, interface))

    def test_members(self) -> None:
        """Those of the link who joined hear it, and nobody else."""
        for host in (self.a, self.d):
            self.join(host)
        self.say(self.ears[self.a], b"group", GROUP)
        self.assertEqual(self.who_heard(b"group"), {self.a})
        self.join(self.b)
        self.say(self.ears[self.a], b"again", GROUP)
        self.assertEqual(self.who_heard(b"again"), {self.a, self.b})
        self.assertEqual(self.ears[self.b].sources, [("10.0.0.1", PORT)])

    def test_leave(self) -> None:
        """Who has left hears nothing more."""
        self.join(self.b)
        self.network.result(self.ears[self.b].transport.leaveGroup(GROUP))
        self.say(self.ears[self.a], b"group", GROUP)
        self.assertEqual(self.who_heard(b"group"), set())

    def test_interface(self) -> None:
        """A group is joined on an interface, and sent to through one."""
        self.join(self.c, interface="10.0.9.3")
        self.join(self.d)
        self.say(self.ears[self.b], b"first", GROUP)
        self.assertEqual(self.who_heard(b"first"), set())
        transport = self.ears[self.c].transport
        self.assertEqual(transport.getOutgoingInterface(), "0.0.0.0")
        self.network.result(transport.setOutgoingInterface("10.0.9.3"))
        self.assertEqual(transport.getOutgoingInterface(), "10.0.9.3")
        self.say(self.ears[self.c], b"second", GROUP)
        self.assertEqual(self.who_heard(b"second"), {self.c, self.d})
        self.assertEqual(self.ears[self.d].sources, [("10.0.9.3", PORT)])
        self.network.result(transport.setOutgoingInterface("0.0.0.0"))
        self.say(self.ears[self.c], b"third", GROUP)
        self.assertEqual(self.who_heard(b"third"), set())

    def test_ipv6(self) -> None:
        """Likewise over IPv6, where interfaces have numbers."""
        self.join(self.b, GROUP6)
        self.join(self.d, GROUP6)
        self.say(self.ears6[self.a], b"six", GROUP6)
        self.assertEqual(self.who_heard(b"six"), {self.b})
        self.assertEqual(self.ears6[self.b].sources, [("fd00::1", PORT)])
        transport = self.ears6[self.c].transport
        self.network.result(transport.setOutgoingInterface(3))
        self.assertEqual(transport.getOutgoingInterface(), 3)
        self.say(self.ears6[self.c], b"other", GROUP6)
        self.assertEqual(self.who_heard(b"other"), {self.d})
        self.network.result(transport.setOutgoingInterface(0))
        self.say(self.ears6[self.c], b"back", GROUP6)
        self.assertEqual(self.who_heard(b"back"), {self.b})

    def test_ipv6_only(self) -> None:
        """Hosts without IPv4 are on one link if they share a subnet of IPv6."""
        heard = []
        for address in ("fd00::11", "fd00::12", "fd07::13"):
            ear = self.shared_ear(self.network.host(address), "::")
            self.network.result(ear.transport.joinGroup(GROUP6))
            heard.append(ear.heard)
        self.join(self.b, GROUP6)
        four_only = self.network.host("10.0.0.99")
        self.shared_ear(four_only, "::")
        self.say(ear, b"far", GROUP6)
        self.say(self.ears6[self.a], b"near", GROUP6)
        self.assertEqual(heard, [[b"near"], [b"near"], [b"far"]])

    def test_ipv6_join_by_number(self) -> None:
        """The socket itself can join on an interface by number, as Twisted's joinGroup cannot."""
        handle = self.ears6[self.c].transport.getHandle()
        request = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("=I", 3)
        handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        self.say(self.ears6[self.a], b"first", GROUP6)
        self.say(self.ears6[self.d], b"second", GROUP6)
        self.assertEqual(self.ears6[self.c].heard, [b"second"])

    def test_ipv4_join_by_number(self) -> None:
        """Likewise over IPv4, with ip_mreqn."""
        handle = self.ears[self.c].transport.getHandle()
        request = socket.inet_aton(GROUP) + bytes(4) + struct.pack("=I", 3)
        handle.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        self.say(self.ears[self.d], b"second", GROUP)
        self.assertEqual(self.ears[self.c].heard, [b"second"])

    def test_ipv6_outgoing_as_bytes(self) -> None:
        """The outgoing interface of IPv6 may be given packed, too."""
        handle = self.ears6[self.c].transport.getHandle()
        handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("=I", 3))
        self.assertEqual(self.ears6[self.c].transport.getOutgoingInterface(), 3)

    def test_loopback_mode(self) -> None:
        """A sender's own host hears the group unless the sender does not want that."""
        for ears, group in ((self.ears, GROUP), (self.ears6, GROUP6)):
            self.join(self.a, group)
            self.join(self.b, group)
            transport = ears[self.a].transport
            self.assertTrue(transport.getLoopbackMode())
            self.say(ears[self.a], b"loud", group)
            self.assertEqual(self.who_heard(b"loud"), {self.a, self.b})
            transport.setLoopbackMode(0)
            self.assertFalse(transport.getLoopbackMode())
            self.say(ears[self.a], b"quiet", group)
            self.assertEqual(self.who_heard(b"quiet"), {self.b})

    def test_ttl(self) -> None:
        """With a TTL of 0 a datagram does not leave the host."""
        transport = self.ears[self.a].transport
        self.assertEqual(transport.getTTL(), 1)
        self.join(self.a)
        self.join(self.b)
        transport.setTTL(0)
        self.say(self.ears[self.a], b"here", GROUP)
        self.assertEqual(self.who_heard(b"here"), {self.a})
        transport.setTTL(5)
        self.assertEqual(transport.getTTL(), 5)

    def test_interface_local_group(self) -> None:
        """A group of interface-local scope does not leave the host."""
        self.join(self.a, "ff01::1")
        self.join(self.b, "ff01::1")
        self.say(self.ears6[self.a], b"here", "ff01::1")
        self.assertEqual(self.who_heard(b"here"), {self.a})

    def test_loopback_interface(self) -> None:
        """Two on one host meet in a group on its loopback."""
        other = self.shared_ear(self.a)
        self.join(self.a, interface="127.0.0.1")
        self.network.result(other.transport.setOutgoingInterface("127.0.0.1"))
        self.say(other, b"here", GROUP)
        self.assertEqual(self.ears[self.a].heard, [b"here"])
        self.assertEqual(self.ears[self.a].sources, [("127.0.0.1", PORT)])

    def test_refusals(self) -> None:
        """What is no group or no interface, or is joined or left twice, is refused."""
        transport = self.ears[self.a].transport
        self.join(self.a)
        for group, interface in ((GROUP, ""), ("10.0.0.9", ""), (GROUP6, ""), (GROUP, "10.0.0.2")):
            self.failureResultOf(transport.joinGroup(group, interface), MulticastJoinError)
        self.failureResultOf(transport.leaveGroup("239.1.1.1"), MulticastJoinError)
        self.failureResultOf(transport.setOutgoingInterface("10.0.0.2"), OSError)
        six = self.ears6[self.a].transport
        self.failureResultOf(six.setOutgoingInterface(9), OSError)
        self.failureResultOf(six.joinGroup(GROUP6, "fd00::1"), MulticastJoinError)

    def test_bound_to_group(self) -> None:
        """A port that is bound to a group hears that group only."""
        ear = Ear()
        self.b.reactor.listenMulticast(7, ear, interface=GROUP)
        self.network.result(ear.transport.joinGroup(GROUP))
        self.say(self.ears[self.a], b"group", GROUP, 7)
        self.say(self.ears[self.a], b"you", "10.0.0.2", 7)
        self.assertEqual(ear.heard, [b"group"])
        self.say(ear, b"reply", "10.0.0.1")
        self.assertEqual(self.ears[self.a].sources, [("10.0.0.2", 7)])
