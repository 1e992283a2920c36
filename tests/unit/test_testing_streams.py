"""
L{flow512.testing}: TCP connections between hosts.
"""

from __future__ import annotations

import io

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    connectProtocol,
)
from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IPullProducer,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.protocols.basic import FileSender
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.unit.simulated import HalfCloser, NetworkTestCase, Recorder, Server, Spring

KIB = 1024


@implementer(IPullProducer)
class Bucket:
    """Writes once each time that it is asked."""

    def __init__(self, consumer: IConsumer, parts: list[bytes]) -> None:
        self.consumer = consumer
        self.parts = parts
        self.stopped = False

    def resumeProducing(self) -> None:
        if self.parts:
            self.consumer.write(self.parts.pop(0))
        else:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class ConnectingTests(NetworkTestCase):
    """Ports, addresses, and what becomes of an attempt to connect."""

    def test_addresses(self) -> None:
        """Both sides know their own and the other's address."""
        server, client = self.pair()
        self.assertEqual(client.transport.getPeer(), IPv4Address("TCP", "10.0.0.1", 5000))
        self.assertEqual(server.transport.getHost(), IPv4Address("TCP", "10.0.0.1", 5000))
        self.assertEqual(server.transport.getPeer(), client.transport.getHost())
        self.assertEqual(client.transport.getHost().host, "10.0.0.2")

    def test_interfaces(self) -> None:
        """The transports are what Twisted's own are."""
        for protocol in self.pair():
            for interface in (
                ITCPTransport,
                ITLSTransport,
                IConsumer,
                IPushProducer,
                ISystemHandle,
            ):
                verifyObject(interface, protocol.transport)

    def test_latency(self) -> None:
        """Connecting takes there and back; the server hears of it once more there."""
        self.network.latency = (1.0, 1.0)
        server = Server()
        self.listen(self.a, server)
        self.connect(self.b, Recorder())
        self.assertEqual(self.network.clock.seconds(), 2.0)
        self.assertEqual(server.protocols, [])
        self.network.run(1.0)
        self.assertEqual(len(server.protocols), 1)

    def test_ipv6(self) -> None:
        """A port of IPv6 is reached by IPv6."""
        server = Server()
        port = self.listen(self.a, server, "tcp6:5000:interface=fd00\\:\\:1")
        client = self.connect(self.b, Recorder(), "tcp:fd00\\:\\:1:5000")
        self.network.run(1)
        self.assertEqual(port.getHost(), IPv6Address("TCP", "fd00::1", 5000))
        self.assertEqual(client.transport.getPeer(), IPv6Address("TCP", "fd00::1", 5000))
        self.assertEqual(client.transport.getHost().host, "fd00::2")
        self.assertEqual(server.protocols[0].transport.getPeer(), client.transport.getHost())

    def test_ipv6_wildcard_takes_ipv4(self) -> None:
        """As on Linux, listening on C{::} accepts IPv4, and shows its addresses mapped."""
        server = Server()
        self.listen(self.a, server, "tcp6:5000")
        self.connect(self.b, Recorder())
        self.network.run(1)
        self.assertEqual(server.protocols[0].transport.getPeer().host, "::ffff:10.0.0.2")

    def test_port_zero(self) -> None:
        """Port 0 gives a port that is free, another one each time."""
        ports = {self.listen(self.a, Server(), "tcp:0").getHost().port for _ in range(5)}
        self.assertEqual(len(ports), 5)
        self.assertNotIn(0, ports)

    def test_port_taken(self) -> None:
        """A port can be had once, and again after it was given up."""
        port = self.listen(self.a, Server())
        self.assertRaises(CannotListenError, self.a.reactor.listenTCP, 5000, Server())
        self.assertRaises(
            CannotListenError, self.a.reactor.listenTCP, 5000, Server(), 50, "10.0.0.1"
        )
        self.listen(self.b, Server())
        self.network.result(port.stopListening())
        self.listen(self.a, Server())

    def test_port_that_is_none(self) -> None:
        """A port beyond 65535 cannot be listened on."""
        self.assertRaises(CannotListenError, self.a.reactor.listenTCP, 65536, Server())

    def test_interface_of_another(self) -> None:
        """One can listen on one's own addresses only."""
        self.assertRaises(
            CannotListenError, self.a.reactor.listenTCP, 5000, Server(), 50, "10.0.0.2"
        )

    def test_bound_to_an_interface(self) -> None:
        """What listens on one address is not reached by another, and leaves the port free there."""
        host = self.network.host("10.0.1.1", "10.0.2.1")
        first, second = Server(), Server()
        self.listen(host, first, "tcp:5000:interface=10.0.1.1")
        self.listen(host, second, "tcp:5000:interface=127.0.0.1")
        self.connect(self.b, Recorder(), "tcp:10.0.1.1:5000")
        self.network.run(1)
        self.assertEqual((len(first.protocols), len(second.protocols)), (1, 0))
        self.failureRefused("tcp:10.0.2.1:5000")

    def failureRefused(self, description: str) -> None:
        self.assertRaises(ConnectionRefusedError, self.connect, self.b, Recorder(), description)

    def test_loopback(self) -> None:
        """127.0.0.1, ::1 and localhost are the host itself."""
        server = Server()
        self.listen(self.a, server, "tcp:5000:interface=127.0.0.1")
        self.listen(self.a, server, "tcp6:5000:interface=\\:\\:1")
        for name in ("127.0.0.1", "\\:\\:1", "localhost", "0.0.0.0"):
            client = self.connect(self.a, Recorder(), f"tcp:{name}:5000")
            self.assertIn(client.transport.getHost().host, ("127.0.0.1", "::1"))
        self.network.run(1)
        self.assertEqual(len(server.protocols), 4)
        self.failureRefused("tcp:127.0.0.1:5000")
        self.failureRefused("tcp:10.0.0.1:5000")

    def test_refused(self) -> None:
        """Nobody listens: the answer takes as long as any."""
        self.network.latency = (1.0, 1.0)
        self.failureRefused("tcp:10.0.0.1:5000")
        self.assertEqual(self.network.clock.seconds(), 2.0)

    def test_refused_after_stop_listening(self) -> None:
        """A port that was closed refuses, connections that it had accepted go on."""
        server, client = self.pair()
        self.network.result(self.port.stopListening())
        self.failureRefused("tcp:10.0.0.1:5000")
        client.transport.write(b"still here")
        self.network.run(1)
        self.assertEqual(server.received, b"still here")

    def test_listener_stops_during_handshake(self) -> None:
        """One whose listener closes before it was accepted is told that there is none."""
        port = self.listen(self.a, Server())
        client = self.connect(self.b, Recorder())
        self.network.result(port.stopListening())
        self.network.run(1)
        client.lost.trap(ConnectionLost)
        self.network.assert_quiet()

    def test_never_accepted(self) -> None:
        """One who was never accepted is reset when the port, or the whole process, ends."""
        for end in ("port", "process"):
            with self.subTest(end=end):
                port = self.listen(self.a, Server())
                port.stopReading()
                client = self.connect(self.b, Recorder())
                self.network.run(1)
                self.assertIsNone(client.lost)
                if end == "port":
                    self.network.result(port.stopListening())
                else:
                    self.a.reactor.crash()
                self.network.run(1)
                client.lost.trap(ConnectionLost)
                self.network.assert_quiet()

    def test_bind_to_the_other_family(self) -> None:
        """A client of IPv6 cannot be bound to an address of IPv4."""
        endpoint = TCP6ClientEndpoint(self.b.reactor, "fd00::1", 5000, bindAddress=("10.0.0.2", 0))
        connecting = connectProtocol(endpoint, Recorder())
        self.assertRaises(ConnectBindError, self.network.result, connecting)

    def test_nobody_there(self) -> None:
        """An address that no host has does not answer; the attempt times out."""
        self.assertRaises(
            TimeoutError, self.connect, self.b, Recorder(), "tcp:10.0.0.77:5000:timeout=7"
        )
        self.assertEqual(self.network.clock.seconds(), 7.0)
        self.network.assert_quiet()

    def test_kernel_gives_up(self) -> None:
        """An attempt without a limit of its own ends when the host gives up."""
        failures = []
        factory = ClientFactory()
        factory.clientConnectionFailed = lambda connector, reason: failures.append(reason)
        self.b.reactor.connectTCP("10.0.0.77", 5000, factory, timeout=None)
        self.network.run(self.network.give_up + 1)
        self.assertIn("timed out", str(failures[0].value))
        self.network.assert_quiet()

    def test_no_route(self) -> None:
        """A host without IPv6 cannot connect there."""
        host = self.network.host("10.0.0.3")
        self.assertRaises(NoRouteError, self.connect, host, Recorder(), "tcp:fd00\\:\\:1:5000")

    def test_stop_connecting(self) -> None:
        """An attempt that is given up on the way leaves nothing behind on either host."""
        self.listen(self.a, server := Server())
        failures = []
        factory = ClientFactory()
        factory.protocol = Recorder
        factory.clientConnectionFailed = lambda connector, reason: failures.append(reason)
        self.network.latency = (1.0, 1.0)
        for seconds in (0.5, 1.5):
            connector = self.b.reactor.connectTCP("10.0.0.1", 5000, factory)
            self.network.run(seconds)
            connector.stopConnecting()
        self.network.run(10)
        for failure in failures:
            failure.trap(UserError)
        self.assertEqual(len(failures), 2)
        self.assertEqual(server.protocols, [])
        self.assertEqual(len(self.network.left_over()), 1, "only the port is left")

    def test_bind_address(self) -> None:
        """A client may choose its address and port, once."""
        server = Server()
        self.listen(self.a, server)
        endpoint = TCP4ClientEndpoint(
            self.b.reactor, "10.0.0.1", 5000, bindAddress=("10.0.0.2", 777)
        )
        self.network.result(connectProtocol(endpoint, Recorder()))
        self.network.run(1)
        self.assertEqual(server.protocols[0].transport.getPeer().port, 777)
        again = connectProtocol(endpoint, Recorder())
        self.assertRaises(ConnectBindError, self.network.result, again)

    def test_bound_to_loopback(self) -> None:
        """From a loopback address nothing leaves the host."""
        failures = []
        factory = ClientFactory()
        factory.clientConnectionFailed = lambda connector, reason: failures.append(reason)
        self.b.reactor.connectTCP("10.0.0.1", 5000, factory, bindAddress=("127.0.0.1", 0))
        self.network.run(1)
        self.assertEqual(len(failures), 1)

    def test_ephemeral_ports(self) -> None:
        """Clients of one host have ports of their own."""
        server = Server()
        self.listen(self.a, server)
        for _ in range(10):
            self.connect(self.b, Recorder())
        self.network.run(1)
        self.assertEqual(len({each.transport.getPeer().port for each in server.protocols}), 10)

    def test_factory_declines(self) -> None:
        """A server whose factory builds no protocol closes the connection."""
        factory = Factory()
        factory.buildProtocol = lambda address: None
        self.listen(self.a, factory)
        client = self.connect(self.b, Recorder())
        self.network.run(1)
        client.lost.trap(ConnectionDone)

    def test_options(self) -> None:
        """TCP's options can be set and read."""
        _, client = self.pair()
        transport = client.transport
        self.assertFalse(transport.getTcpNoDelay())
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(1)
        self.assertTrue(transport.getTcpNoDelay())
        self.assertTrue(transport.getTcpKeepAlive())


class FlowTests(NetworkTestCase):
    """Bytes, their order, and how many of them are under way."""

    def test_bytes(self) -> None:
        """Everything written arrives in order, both ways, though not as it was cut."""
        server, client = self.pair()
        there, back = (bytes(range(256)) * 1000, bytes(range(255)) * 999)
        for start in range(0, len(there), 1000):
            client.transport.write(there[start : start + 1000])
        server.transport.writeSequence([back[:5], b"", back[5:]])
        self.network.run(10)
        self.assertTrue(server.received == there)
        self.assertTrue(client.received == back)

    def test_cut_at_random(self) -> None:
        """A receiver cannot rely on messages arriving whole, nor alone."""
        server, client = self.pair()
        for _ in range(100):
            client.transport.write(b"0123456789")
            self.network.run(0.001)
        self.network.run(1)
        self.assertEqual(server.received, b"0123456789" * 100)
        self.assertTrue(any(size % 10 for size in server.sizes), "some are cut")
        self.assertTrue(any(size > 10 for size in server.sizes), "some come together")

    def test_only_bytes(self) -> None:
        """Nothing but bytes can be written."""
        _, client = self.pair()
        self.assertRaises(TypeError, client.transport.write, "text")
        self.assertRaises(TypeError, client.transport.writeSequence, ["text"])

    def test_at_most_64_kib_at_once(self) -> None:
        """A chunk is up to 64 KiB, and most are large: no work for every few bytes."""
        server, client = self.pair()
        client.transport.write(b"x" * 2**20)
        self.network.run(10)
        self.assertEqual(len(server.received), 2**20)
        self.assertLessEqual(max(server.sizes), 64 * KIB)
        self.assertLess(len(server.sizes), 120)

    def test_back_pressure(self) -> None:
        """
        A receiver that does not read stops the sender's producer; what is under way is bounded by
        the pipe and the write buffer. When it reads again, everything arrives.
        """
        server, client = self.pair()
        server.transport.pauseProducing()
        spring = Spring(client.transport, 2**20)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        self.network.run(100)
        self.assertEqual(server.received, b"")
        self.assertEqual(spring.pauses, 1)
        # Three writes fill the write buffer; 64 KiB of them fill the pipe, and the rest stays.
        self.assertEqual(2**20 - spring.left, 96 * KIB)
        self.assertEqual(self.b.bytes_sent, 64 * KIB)
        server.transport.resumeProducing()
        self.network.run(100)
        self.assertEqual(len(server.received), 2**20)

    def test_capacity(self) -> None:
        """A smaller pipe holds less."""
        self.network.capacity = 1000
        server, client = self.pair()
        server.transport.pauseProducing()
        client.transport.write(b"x" * 5000)
        self.network.run(10)
        self.assertEqual(self.b.bytes_sent, 1000)
        server.transport.resumeProducing()
        self.network.run(10)
        self.assertEqual(self.b.bytes_sent, 5000)
        self.assertEqual(len(server.received), 5000)

    def test_pull_producer(self) -> None:
        """A pull producer is asked for more each time that everything was handed over."""
        server, client = self.pair()
        bucket = Bucket(client.transport, [b"a" * 70 * KIB, b"b" * 70 * KIB, b"c"])
        client.transport.registerProducer(bucket, False)
        self.network.run(10)
        self.assertEqual(len(server.received), 140 * KIB + 1)
        self.assertEqual(bucket.parts, [])

    def test_lose_connection_flushes(self) -> None:
        """What was written before loseConnection arrives, then the end."""
        server, client = self.pair()
        client.transport.write(b"x" * 200_000)
        client.transport.loseConnection()
        self.assertTrue(client.transport.disconnecting)
        self.network.run(10)
        self.assertEqual(len(server.received), 200_000)
        server.lost.trap(ConnectionDone)
        client.lost.trap(ConnectionDone)

    def test_producer_finishes_after_lose_connection(self) -> None:
        """A registered producer may write all it has before the connection is lost."""
        server, client = self.pair()
        spring = Spring(client.transport, 500_000)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        client.transport.loseConnection()
        self.network.run(10)
        self.assertEqual(len(server.received), 500_000)
        client.lost.trap(ConnectionDone)

    def test_producer_is_stopped(self) -> None:
        """A producer is stopped when the connection is lost, or was lost before it came."""
        server, client = self.pair()
        server.transport.pauseProducing()
        spring = Spring(client.transport, 10**6)
        client.transport.registerProducer(spring, True)
        self.assertRaises(RuntimeError, client.transport.registerProducer, spring, True)
        spring.resumeProducing()
        self.network.run(1)
        server.transport.abortConnection()
        self.network.run(1)
        self.assertTrue(spring.stopped)
        late = Spring(client.transport, 1)
        client.transport.registerProducer(late, True)
        self.assertTrue(late.stopped)

    def test_pause_before_anything(self) -> None:
        """A protocol that pauses as soon as it is connected hears nothing, not even the end."""

        class Paused(Recorder):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        server, client = self.pair(server=Paused)
        client.transport.write(b"hello")
        client.transport.loseConnection()
        self.network.run(10)
        self.assertEqual((server.received, server.lost), (b"", None))
        server.transport.resumeProducing()
        self.network.run(1)
        self.assertEqual(server.received, b"hello")
        server.lost.trap(ConnectionDone)

    def test_bandwidth(self) -> None:
        """A host that is slow to send, or to receive, takes as long as its bandwidth says."""
        for slow in (self.a, self.b):
            with self.subTest(slow=slow.name):
                self.setUp()
                server, client = self.pair()
                (self.a if slow.name == "a" else self.b).bandwidth = 100_000.0
                start = self.network.clock.seconds()
                client.transport.write(b"x" * 1_000_000)
                self.network.run_until(lambda server=server: len(server.received) == 1_000_000)
                taken = self.network.clock.seconds() - start
                self.assertGreater(taken, 10.0)
                self.assertLess(taken, 11.0)

    def test_counting(self) -> None:
        """Hosts count the bytes that they sent and received."""
        server, client = self.pair()
        client.transport.write(b"x" * 1000)
        server.transport.write(b"y" * 10)
        self.network.run(1)
        self.assertEqual((self.b.bytes_sent, self.b.bytes_received), (1000, 10))
        self.assertEqual((self.a.bytes_sent, self.a.bytes_received), (10, 1000))


class EndingTests(NetworkTestCase):
    """The many ways in which a connection ends."""

    def test_abort(self) -> None:
        """abortConnection drops what was written; the other side sees a reset."""
        server, client = self.pair()
        client.transport.write(b"x" * 10**6)
        self.network.run(0.001)
        client.transport.abortConnection()
        self.network.run(10)
        client.lost.trap(ConnectionAborted)
        server.lost.trap(ConnectionLost)
        self.assertLess(len(server.received), 10**6)

    def test_what_arrived_before_a_reset(self) -> None:
        """What had arrived can be read though a reset came behind it."""
        server, client = self.pair()
        server.transport.pauseProducing()
        client.transport.write(b"last words")
        self.network.run(1)
        client.transport.abortConnection()
        self.network.run(1)
        server.transport.resumeProducing()
        self.network.run(1)
        self.assertEqual(server.received, b"last words")
        server.lost.trap(ConnectionLost)

    def test_half_close(self) -> None:
        """One direction ends, the other goes on; both sides are told if they care."""
        server, client = self.pair(HalfCloser, HalfCloser)
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        client.transport.write(b"lost or not")
        self.network.run(1)
        self.assertEqual(client.ends, ["write"])
        self.assertEqual(server.ends, ["read"])
        self.assertIsNone(server.lost)
        server.transport.write(b"answer")
        self.network.run(1)
        self.assertEqual(client.received, b"answer")
        server.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(client.ends, ["write", "read"])
        server.lost.trap(ConnectionDone)
        self.assertIsNone(client.lost)
        client.transport.loseConnection()
        self.network.run(1)
        client.lost.trap(ConnectionDone)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_half_close_twice(self) -> None:
        """After half a close the rest can be closed, or aborted."""
        for finish, reason in (
            ("loseConnection", ConnectionDone),
            ("abortConnection", ConnectionLost),
        ):
            with self.subTest(finish=finish):
                self.setUp()
                server, client = self.pair(HalfCloser, HalfCloser)
                client.transport.loseWriteConnection()
                self.network.run(1)
                getattr(client.transport, finish)()
                server.transport.write(b"x")
                self.network.run(1)
                client.lost.trap(reason)
                server.transport.write(b"y")
                self.network.run(1)
                server.lost.trap(ConnectionLost)

    def test_half_close_of_one_who_does_not_care(self) -> None:
        """A protocol that knows nothing of half a connection loses all of it."""
        server, client = self.pair(Recorder, HalfCloser)
        client.transport.loseWriteConnection()
        self.network.run(1)
        server.lost.trap(ConnectionDone)

    def test_error_in_dataReceived(self) -> None:
        """An error in a protocol is logged, and costs it its connection, not the others theirs."""

        class Broken(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ValueError("broken")

        server, client = self.pair(server=Broken)
        other = self.connect(self.b, Recorder())
        client.transport.write(b"x")
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        server.lost.trap(ValueError)
        self.assertIsNotNone(client.lost)
        self.assertIsNone(other.lost)

    def test_error_in_a_producer(self) -> None:
        """An error while writing is logged, and costs the connection."""

        class Broken(Spring):
            def resumeProducing(self) -> None:
                raise ValueError("broken")

        _, client = self.pair()
        producer = Broken(client.transport, 1)
        client.transport.registerProducer(producer, True)
        client.transport.write(b"x" * 100_000)
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        client.lost.trap(ValueError)

    def test_error_in_connectionLost(self) -> None:
        """An error in connectionLost is logged, and harms no one else."""

        class Broken(Recorder):
            def connectionLost(self, reason: object = None) -> None:
                raise ValueError("broken")

        server, client = self.pair(client=Broken)
        client.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        server.lost.trap(ConnectionDone)

    def test_write_to_one_who_has_gone(self) -> None:
        """
        One that closes without having read everything still delivers its last words; the other's
        writes then lead nowhere, and never block for ever.
        """

        class Hasty(Recorder):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        server, client = self.pair(server=Hasty, client=HalfCloser)
        spring = Spring(client.transport, 10**6)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        self.network.run(1)
        server.transport.write(b"enough")
        server.transport.loseConnection()
        self.network.run(10)
        self.assertEqual(client.received, b"enough")
        client.lost.trap(ConnectionLost)
        self.assertTrue(spring.stopped)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_write_after_the_other_has_closed(self) -> None:
        """Data for a connection that was closed is answered with a reset."""
        server, client = self.pair(client=HalfCloser)
        server.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(client.ends, ["read"])
        client.transport.write(b"anyone?")
        self.network.run(1)
        self.assertIsNone(client.lost, "nothing reads, nothing writes: nobody has noticed")
        client.transport.write(b"anyone?")
        self.network.run(1)
        client.lost.trap(ConnectionLost)

    def test_both_close(self) -> None:
        """Both may close at once."""
        server, client = self.pair()
        server.transport.loseConnection()
        client.transport.loseConnection()
        self.network.run(1)
        server.lost.trap(ConnectionDone)
        client.lost.trap(ConnectionDone)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_writing_after_the_end(self) -> None:
        """Writing to a transport that has lost its connection does nothing."""
        server, client = self.pair()
        client.transport.loseConnection()
        self.network.run(1)
        client.transport.write(b"too late")
        client.transport.writeSequence([b"too", b"late"])
        client.transport.loseConnection()
        client.transport.abortConnection()
        self.network.run(1)
        self.assertEqual(server.received, b"")

    def test_file_sender(self) -> None:
        """Twisted's own FileSender moves a file across."""
        server, client = self.pair()
        content = bytes(range(256)) * 4096
        sent = FileSender().beginFileTransfer(io.BytesIO(content), client.transport)
        self.network.result(sent)
        client.transport.loseConnection()
        self.network.run(5)
        self.assertTrue(server.received == content)

    def test_connection_lost_in_connectionMade(self) -> None:
        """A server that hangs up at once is seen to do so, after what it said."""

        class Rude(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"go away")
                self.transport.loseConnection()

        self.listen(self.a, Server(Rude))
        client = self.connect(self.b, Recorder())
        self.network.run(1)
        self.assertEqual(client.received, b"go away")
        client.lost.trap(ConnectionDone)
