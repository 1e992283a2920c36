"""
L{flow512.testing}: cuts, crashes, running, repeating and cleaning up.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    clientFromString,
    connectProtocol,
)
from twisted.internet.error import (
    CannotListenError,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.protocol import DatagramProtocol, Protocol

from flow512.testing import Delivery, GaveUp, Host, Network
from tests.unit.simulated import HalfCloser, NetworkTestCase, Recorder, Server, Spring


class HostTests(NetworkTestCase):
    """Hosts and what they are called."""

    def test_addresses(self) -> None:
        """A host has the addresses that it was given, in their one form."""
        host = self.network.host("10.1.2.3/16", "FD00:0:0::9/48")
        self.assertEqual(host.addresses, ("10.1.2.3", "fd00::9"))
        self.assertEqual(host.name, "10.1.2.3")
        self.assertIn("10.1.2.3", repr(host))

    def test_refusals(self) -> None:
        """No address, a wrong one, or one or a name that is taken: the network stays as it was."""
        for addresses, name in (
            ((), None),
            (("10.0.0.256",), None),
            (("10.0.0.1",), "x"),
            (("10.0.0.9", "fd00:0::1"), "x"),
            (("10.0.0.9",), "A"),
        ):
            self.assertRaises(ValueError, self.network.host, *addresses, name=name)
        self.assertEqual(self.network.hosts, [self.a, self.b])
        self.network.host("10.0.0.9", name="x")

    def test_default_subnet_of_one(self) -> None:
        """A subnet of two addresses has no broadcast."""
        host = self.network.host("10.9.9.1/31")
        self.assertFalse(host.is_broadcast("10.9.9.1"))


class RunningTests(NetworkTestCase):
    """Moving time."""

    def test_result(self) -> None:
        """The result of a Deferred is waited for, or its failure raised."""
        later: Deferred[str] = Deferred()
        self.a.reactor.callLater(5, later.callback, "done")
        self.assertEqual(self.network.result(later), "done")
        self.assertEqual(self.network.clock.seconds(), 5)
        failing: Deferred[str] = Deferred()
        self.a.reactor.callLater(5, failing.errback, ValueError("no"))
        self.assertRaises(ValueError, self.network.result, failing)

    def test_result_too_late(self) -> None:
        """Waiting has its limit, and says what is left to happen."""
        self.a.reactor.callLater(500, len, "")
        error = self.assertRaises(AssertionError, self.network.result, Deferred(), 7)
        self.assertEqual(self.network.clock.seconds(), 7)
        self.assertIn("a: <DelayedCall", str(error))

    def test_run_until(self) -> None:
        """A condition is asked after everything that happens, and the Deferred is left alone."""
        seen: list[float] = []
        for second in range(5):
            self.a.reactor.callLater(second, seen.append, second)
        self.network.run_until(lambda: len(seen) == 3)
        self.assertEqual(self.network.clock.seconds(), 2)
        later: Deferred[str] = Deferred()
        self.a.reactor.callLater(5, later.callback, "done")
        self.network.run_until(later)
        self.assertEqual(self.successResultOf(later), "done")

    def test_run_until_the_last_moment(self) -> None:
        """What holds just when the limit is reached is in time."""
        self.network.run_until(lambda: self.network.clock.seconds() >= 3, limit=3)
        error = self.assertRaises(AssertionError, self.network.run_until, lambda: False, limit=3)
        self.assertIn("nothing", str(error))

    def test_run(self) -> None:
        """Time passes by as much as was asked for."""
        self.network.run(2.5)
        self.assertEqual(self.a.reactor.seconds(), 2.5)


class RunBlockingTests(NetworkTestCase):
    """Work that would block."""

    def test_result(self) -> None:
        """The work is done later, with what it was given; its result comes back."""
        done = self.a.run_blocking(int, "ff", base=16)
        self.assertNoResult(done)
        self.assertEqual(self.network.left_over(), ["a: blocking work or lookups not done: 1"])
        self.assertEqual(self.network.result(done), 255)
        self.network.assert_quiet()

    def test_failure(self) -> None:
        """What it raises comes back."""
        done = self.a.run_blocking(int, "no number")
        self.network.run(1)
        self.failureResultOf(done, ValueError)

    def test_cancel(self) -> None:
        """Who cancels is told at once; the work is done all the same, and its result dropped."""
        for work in ([1].pop, [].pop):
            did: list[str] = []
            done = self.a.run_blocking(lambda work=work, did=did: (did.append("it"), work()))
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.network.run(1)
            self.assertEqual(did, ["it"])

    def test_order(self) -> None:
        """Work that was asked for later may be done earlier, as with threads."""
        order: list[int] = []
        for number in range(50):
            self.a.run_blocking(order.append, number)
        self.network.run(1)
        self.assertNotEqual(order, sorted(order))
        self.assertEqual(sorted(order), list(range(50)))

    def test_crash(self) -> None:
        """The work of a host that crashes is never done."""
        did: list[str] = []
        self.a.run_blocking(did.append, "it")
        self.a.crash()
        self.network.run(1)
        self.assertEqual(did, [])


class CutTests(NetworkTestCase):
    """Paths that close, and open again."""

    def test_nothing_passes(self) -> None:
        """While a path is cut nothing arrives; when it is healed in time, everything does."""
        server, client = self.pair()
        self.network.cut(self.a, self.b)
        client.transport.write(b"x" * 100_000)
        self.network.run(30)
        self.assertEqual((server.received, server.lost, client.lost), (b"", None, None))
        self.network.heal()
        self.network.run(10)
        self.assertEqual(server.received, b"x" * 100_000)
        self.network.run(100)
        self.assertIsNone(client.lost)

    def test_gives_up(self) -> None:
        """A sender that is not acknowledged for long enough loses the connection."""
        server, client = self.pair()
        self.network.cut(self.a, self.b)
        self.network.run(100)
        self.assertIsNone(client.lost, "nothing was sent: nobody notices")
        client.transport.write(b"x")
        self.network.run(59)
        self.assertIsNone(client.lost)
        self.network.run(2)
        client.lost.trap(TimeoutError)
        client.lost.trap(ConnectionLost)
        self.assertIs(client.lost.type, GaveUp)
        self.assertIn("not acknowledged", str(client.lost.value))
        self.assertIsNone(server.lost)
        self.network.heal()
        server.transport.write(b"anyone?")
        self.network.run(1)
        server.lost.trap(ConnectionLost)

    def test_shorter_patience(self) -> None:
        """How long that takes can be chosen."""
        self.network.give_up = 5
        _, client = self.pair()
        self.network.cut(self.a, self.b)
        client.transport.write(b"x")
        self.network.run(6)
        client.lost.trap(TimeoutError)

    def test_one_way(self) -> None:
        """What arrives but cannot be acknowledged counts as not acknowledged."""
        server, client = self.pair()
        self.network.cut_one_way(self.a, self.b)
        client.transport.write(b"heard")
        server.transport.write(b"unheard")
        self.network.run(30)
        self.assertEqual((server.received, client.received), (b"heard", b""))
        self.network.run(40)
        client.lost.trap(TimeoutError)
        server.lost.trap(TimeoutError)

    def test_one_way_healed(self) -> None:
        """Healed in time, a one-way cut has done no harm, even to one who had no room left."""
        server, client = self.pair()
        self.network.cut_one_way(self.a, self.b)
        client.transport.write(b"x" * 500_000)
        self.network.run(30)
        self.assertEqual(len(server.received), 65536)
        self.network.heal(self.a, self.b)
        self.network.run(100)
        self.assertEqual(len(server.received), 500_000)
        self.assertIsNone(client.lost)

    def test_no_room_and_cut(self) -> None:
        """One who waits for room behind a cut gives up as well."""
        for cut_first in (False, True):
            with self.subTest(cut_first=cut_first):
                self.setUp()
                server, client = self.pair()
                server.transport.pauseProducing()
                client.transport.write(b"x" * 65536)
                if not cut_first:
                    client.transport.write(b"more")
                self.network.run(10)
                self.network.cut(self.a, self.b)
                client.transport.write(b"more")
                self.network.run(61)
                self.assertEqual(client.lost is not None, not cut_first)

    def test_connecting_across_a_cut(self) -> None:
        """An attempt to connect across a cut times out, or succeeds if it is healed in time."""
        self.listen(self.a, server := Server())
        self.network.cut(self.a, self.b)
        self.assertRaises(
            TimeoutError, self.connect, self.b, Recorder(), "tcp:10.0.0.1:5000:timeout=5"
        )
        self.b.reactor.callLater(3, self.network.heal, self.a)
        self.connect(self.b, Recorder(), "tcp:10.0.0.1:5000:timeout=5")
        self.network.run(1)
        self.assertEqual(len(server.protocols), 1)

    def test_refusal_is_lost(self) -> None:
        """A refusal that cannot come back leaves the client waiting."""
        self.network.cut_one_way(self.a, self.b)
        self.assertRaises(
            TimeoutError, self.connect, self.b, Recorder(), "tcp:10.0.0.1:5000:timeout=5"
        )

    def test_closing_across_a_cut(self) -> None:
        """What was written before closing still arrives after a cut that did not last."""
        server, client = self.pair()
        self.network.cut(self.a, self.b)
        client.transport.write(b"goodbye")
        client.transport.loseConnection()
        self.network.run(30)
        self.assertIsNotNone(client.lost)
        self.network.heal()
        self.network.run(1)
        self.assertEqual(server.received, b"goodbye")
        self.assertIsNotNone(server.lost)

    def test_partition(self) -> None:
        """Groups of hosts reach each other within, and not across; healing one frees only that."""
        c = self.network.host("10.0.0.3")
        servers = {}
        for host in self.network.hosts:
            servers[host] = Server()
            self.listen(host, servers[host])
        self.network.partition([self.a, self.b], [c])

        def reaches(source: Host, destination: Host) -> bool:
            before = len(servers[destination].protocols)
            self.connect_in_vain(source, f"tcp:{destination.addresses[0]}:5000:timeout=1")
            return len(servers[destination].protocols) > before

        self.assertTrue(reaches(self.a, self.b))
        self.assertFalse(reaches(self.a, c))
        self.assertFalse(reaches(c, self.b))
        self.network.heal(self.a, c)
        self.assertTrue(reaches(self.a, c))
        self.assertFalse(reaches(c, self.b))
        self.network.heal(c)
        self.assertTrue(reaches(c, self.b))

    def connect_in_vain(self, host: Host, description: str) -> None:
        try:
            self.connect(host, Recorder(), description)
        except TimeoutError:
            pass
        self.network.run(1)


class CrashTests(NetworkTestCase):
    """Hosts that go down without a word."""

    def test_silence(self) -> None:
        """The other side notices only when what it sends is not acknowledged."""
        server, client = self.pair()
        self.a.crash()
        self.network.run(1000)
        self.assertIsNone(client.lost)
        client.transport.write(b"x")
        self.network.run(61)
        client.lost.trap(TimeoutError)
        self.assertIsNone(server.lost, "the dead are told nothing")
        self.assertIn("down", repr(self.a))

    def test_nothing_runs(self) -> None:
        """Nothing of a host that has crashed runs any more, and what it sends goes nowhere."""
        ran: list[str] = []
        ear = DatagramProtocol()
        self.a.reactor.listenUDP(7, ear)
        call = self.a.reactor.callLater(1, ran.append, "x")
        server, client = self.pair()
        old = self.a.reactor
        self.a.crash()
        server.transport.write(b"x")
        server.transport.loseConnection()
        ear.transport.write(b"x", ("10.0.0.2", 7))
        old.callLater(1, ran.append, "y")
        old.callFromThread(ran.append, "z")
        call.cancel()
        self.network.run(10)
        self.assertEqual((ran, client.received), ([], b""))
        self.assertEqual(self.a.datagrams_sent, 0)
        self.assertRaises(CannotListenError, old.listenTCP, 1, Server())
        self.assertRaises(CannotListenError, old.listenUDP, 1, DatagramProtocol())

    def test_in_flight(self) -> None:
        """What a host had sent when it crashed is lost."""
        self.network.latency = (1, 1)
        server, client = self.pair()
        server.transport.write(b"x")
        self.network.run(0.5)
        self.a.crash()
        self.network.run(10)
        self.assertEqual(client.received, b"")

    def test_connecting(self) -> None:
        """A host that is down does not answer; once up again it refuses."""
        self.listen(self.a, Server())
        self.a.crash()
        self.assertRaises(TimeoutError, self.connect, self.b, Recorder())
        self.a.restart()
        self.assertRaises(ConnectionRefusedError, self.connect, self.b, Recorder())
        self.assertLess(self.network.clock.seconds(), 32)
        self.listen(self.a, Server())
        self.connect(self.b, Recorder())

    def test_restart_resets(self) -> None:
        """A host that was restarted answers what belongs to its earlier life with a reset."""
        _, client = self.pair()
        self.a.crash()
        client.transport.write(b"x")
        self.network.run(10)
        self.assertIsNone(client.lost)
        before = self.a.reactor
        self.a.restart()
        self.assertIsNot(self.a.reactor, before)
        self.network.run(1)
        client.lost.trap(ConnectionLost)
        self.assertIsNot(client.lost.type, GaveUp)

    def test_restart_resets_one_without_room(self) -> None:
        """So it does for one who waits for room."""
        server, client = self.pair()
        server.transport.pauseProducing()
        client.transport.write(b"x" * 100_000)
        self.network.run(1)
        self.a.restart()
        self.network.run(1)
        client.lost.trap(ConnectionLost)

    def test_idle_connection_after_restart(self) -> None:
        """One who was idle learns of a restart when it writes."""
        _, client = self.pair()
        self.a.restart()
        self.network.run(100)
        self.assertIsNone(client.lost)
        client.transport.write(b"x")
        self.network.run(1)
        client.lost.trap(ConnectionLost)

    def test_crash_while_accepting(self) -> None:
        """A server rids itself of a client that vanished before it was accepted."""
        server = Server()
        port = self.listen(self.a, server)
        self.network.latency = (1, 1)
        for seconds in (1.5, 2.5):
            endpoint = clientFromString(self.b.reactor, "tcp:10.0.0.1:5000")
            connectProtocol(endpoint, Recorder())
            self.network.run(seconds)
            self.b.crash()
            self.network.run(100)
            self.b.restart()
        self.assertEqual(server.protocols, [])
        self.network.result(port.stopListening())
        self.network.assert_quiet()


class QuietTests(NetworkTestCase):
    """What is left behind at the end of a test."""

    def test_quiet(self) -> None:
        """A network on which nothing is left is quiet, and can be closed."""
        self.network.assert_quiet()
        self.network.close()
        self.assertFalse(self.a.up)

    def test_left_over(self) -> None:
        """Delayed calls, connections, ports and a test's own calls are named, with their host."""
        self.pair()
        self.b.reactor.listenUDP(99, DatagramProtocol())
        self.b.reactor.callLater(5, print)
        self.network.clock.callLater(5, print)
        self.assertEqual(len(self.network.left_over()), 6)
        error = self.assertRaises(AssertionError, self.network.assert_quiet)
        for part in (
            "a: TCP port 5000",
            "a: TCP connection ('10.0.0.1', 5000) to ('10.0.0.2',",
            "b: TCP connection",
            "b: UDP port 99",
            "b: <DelayedCall",
            "a test's <DelayedCall",
        ):
            self.assertIn(part, str(error))
        self.assertRaises(AssertionError, self.network.close)
        self.assertFalse(self.a.up, "closed all the same")

    def test_crashed(self) -> None:
        """A host that has crashed has left nothing."""
        self.pair()
        self.a.crash()
        self.assertFalse([each for each in self.network.left_over() if each.startswith("a:")])


class Chatter(Protocol):
    """Sends back what it hears, and a little more, a number of times."""

    turns = 20

    def dataReceived(self, data: bytes) -> None:
        self.turns -= 1
        if self.turns:
            self.transport.write(data + b"!")
        else:
            self.transport.loseConnection()


class RepeatingTests(NetworkTestCase):
    """The same seed, the same run."""

    def play(self, seed: int, keep: bool = False) -> Network:
        network = Network(seed, keep_transcript=keep)
        hosts = [network.host(f"10.0.0.{number + 1}") for number in range(6)]
        network.datagram_loss = 0.1
        for host in hosts:
            host.reactor.listenTCP(5000, Server(Chatter))
            ear = DatagramProtocol()
            ear.datagramReceived = lambda data, source: None
            host.reactor.listenUDP(5120, ear)
            ear.transport.setBroadcastAllowed(True)
            ear.transport.write(b"hello", ("255.255.255.255", 5120))
        for one in hosts:
            for other in hosts:
                endpoint = TCP4ClientEndpoint(one.reactor, other.addresses[0], 5000)
                connecting = connectProtocol(endpoint, Chatter())
                connecting.addCallback(lambda chatter: chatter.transport.write(b"x" * 3000))
        network.run(10)
        return network

    def test_repeats(self) -> None:
        """Two runs with one seed are the same to the byte; with another they are not."""
        first, second, third = self.play(1, True), self.play(1, True), self.play(2)
        self.assertEqual(first.fingerprint, second.fingerprint)
        self.assertEqual(first.transcript, second.transcript)
        self.assertNotEqual(first.fingerprint, third.fingerprint)
        self.assertIsNone(third.transcript)

    def test_order_between_connections(self) -> None:
        """Which of several connections is served first differs from seed to seed."""

        def order(seed: int) -> list[int]:
            network = self.play(seed, True)
            return [each.source[1] for each in network.transcript or () if each.kind == "TCP"]

        self.assertEqual(len({tuple(order(seed)) for seed in range(5)}), 5)

    def test_transcript(self) -> None:
        """The transcript tells what arrived, when, and between whom."""
        network = Network(1, keep_transcript=True)
        network.latency = (1, 1)
        a, b = network.host("10.0.0.1", name="a"), network.host("10.0.0.2", name="b")
        a.reactor.listenTCP(5000, server := Server())
        client = network.result(
            connectProtocol(TCP4ClientEndpoint(b.reactor, "10.0.0.1", 5000), Recorder())
        )
        client.transport.write(b"x")
        client.transport.loseConnection()
        network.run(1.5)
        there, back = (("b", 32768), ("a", 5000)), (("a", 5000), ("b", 32768))
        self.assertEqual(
            network.transcript,
            [
                Delivery(1, "SYN", *there, b""),
                Delivery(2, "SYN+ACK", *back, b""),
                Delivery(3, "ACK", *there, b""),
                Delivery(3, "TCP", *there, b"x"),
                Delivery(3, "FIN", *there, b""),
            ],
        )
        self.assertEqual(server.protocols[0].received, b"x")


class ManyHostsTests(NetworkTestCase):
    """It is made for many hosts and much data."""

    def test_many(self) -> None:
        """64 hosts in a ring, each sending 512 KiB to the next under back-pressure."""
        network = Network(3)
        hosts = [network.host(f"10.0.{n}.1/8") for n in range(64)]
        servers = []
        for host in hosts:
            host.reactor.listenTCP(5000, server := Server())
            servers.append(server)

        class Sender(Protocol):
            def connectionMade(self) -> None:
                spring = Spring(self.transport, 512 * 1024, 64 * 1024)
                self.transport.registerProducer(spring, True)
                spring.resumeProducing()

        for number, host in enumerate(hosts):
            target = hosts[(number + 1) % 64].addresses[0]
            connectProtocol(TCP4ClientEndpoint(host.reactor, target, 5000), Sender())
        network.run(60)
        self.assertEqual(
            [len(server.protocols[0].received) for server in servers], [512 * 1024] * 64
        )

    def test_thousand_hosts(self) -> None:
        """A thousand hosts hear a broadcast."""
        network = Network(3)
        heard: list[bytes] = []
        hosts = [network.host(f"10.{n >> 8}.{n & 255}.7/8") for n in range(1000)]
        for host in hosts:
            ear = DatagramProtocol()
            ear.datagramReceived = lambda data, source: heard.append(data)
            host.reactor.listenUDP(5120, ear)
        ear.transport.setBroadcastAllowed(True)
        ear.transport.write(b"hello", ("10.255.255.255", 5120))
        network.run(1)
        self.assertEqual(heard, [b"hello"] * 1000)


class HalfClosedTests(NetworkTestCase):
    def test_half_closed_and_cut(self) -> None:
        """An end that cannot be delivered makes its sender give up, like any data."""
        _, client = self.pair(HalfCloser, HalfCloser)
        self.network.cut(self.a, self.b)
        client.transport.loseWriteConnection()
        self.network.run(61)
        client.lost.trap(TimeoutError)
