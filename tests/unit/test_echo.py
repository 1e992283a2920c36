"""Tests for L{flow512.discovery.echo}, in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorMulticast
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.beacon import PORT
from flow512.discovery.echo import Trial, Way, echo
from flow512.testing import Host, Network
from tests.unit.test_beacon import BrokenNetwork, ipv4, ipv6

TOKEN = bytes(range(16))


class EchoTests(SynchronousTestCase):
    """What one sends to everybody, and hears."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.here = self.network.host("10.0.0.1", "fd00::1")

    def echo(self, *addresses: LocalAddress, udp: IReactorMulticast | None = None) -> list[Trial]:
        """Try, and leave nothing behind."""
        trying = echo(self.here.reactor, udp or self.here.reactor, PORT, addresses, TOKEN)
        before = self.network.left_over()
        trials = self.network.result(Deferred.fromCoroutine(trying))
        # A socket that could not be bound has no port; Twisted leaves it to the garbage collector.
        left = [what for what in self.network.left_over() if not what.endswith("UDP port 0")]
        self.assertLessEqual(set(left), set(before))
        return trials

    def test_heard(self) -> None:
        """All ways of all addresses are heard, beside a beacon that has the port as well."""
        trials = self.echo(ipv4(self.here), ipv6(self.here))
        self.assertEqual([each.way for each in trials], [*Way])
        self.assertEqual([(each.heard, each.error) for each in trials], [(True, "")] * 3)

    def test_no_broadcast(self) -> None:
        """Where a subnet has no broadcast, none is tried."""
        [trial] = self.echo(LocalAddress("10.0.0.1", 32, "eth0", 2))
        self.assertEqual((trial.way, trial.heard), (Way.MULTICAST4, True))

    def test_not_sent(self) -> None:
        """What cannot be sent says why."""
        broken = BrokenNetwork(self.here, "write")
        trials = self.echo(ipv4(self.here), udp=broken)
        self.assertEqual({each.error for each in trials}, {"Network is unreachable"})
        self.assertFalse(any(each.heard for each in trials))

    def test_not_joined(self) -> None:
        """So does a group that cannot be joined; the other way is heard all the same."""
        broken = BrokenNetwork(self.here, "joinGroup")
        broadcast, multicast = self.echo(ipv4(self.here), udp=broken)
        self.assertEqual((broadcast.heard, multicast.heard), (True, False))
        self.assertTrue(multicast.error)

    def test_taken(self) -> None:
        """Somebody has the port, and does not share it."""
        other = DatagramProtocol()
        port = self.here.reactor.listenUDP(PORT, other)
        trials = self.echo(ipv4(self.here))
        self.assertEqual({each.error for each in trials}, {"Address already in use"})
        self.network.result(port.stopListening())

    def test_gone(self) -> None:
        """An address that the machine has no longer is no more than an error."""
        trials = self.echo(LocalAddress("10.0.0.9", 24, "eth0", 2))
        self.assertTrue(all(each.error and not each.heard for each in trials))

    def test_others_hear_nothing(self) -> None:
        """Another's trial is not taken for one's own."""
        there: Host = self.network.host("10.0.0.2")
        other = Deferred.fromCoroutine(
            echo(there.reactor, there.reactor, PORT, [ipv4(there)], bytes(16))
        )
        self.network.cut_one_way(self.here, self.here)
        trials = self.echo(ipv4(self.here))
        self.assertFalse(any(each.heard for each in trials))
        self.assertTrue(all(each.heard for each in self.network.result(other)))
