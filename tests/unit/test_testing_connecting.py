"""
L{flow512.testing}: ports, and what becomes of an attempt to connect.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    connectProtocol,
)
from twisted.internet.error import (
    CannotListenError,
    ConnectBindError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from twisted.internet.protocol import ClientFactory, Factory
from zope.interface.verify import verifyObject

from tests.unit.simulated import NetworkTestCase, Recorder, Server


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

    def test_half_open_when_the_listener_stops(self) -> None:
        """A connection that was never accepted is not left over in a process that has stopped."""
        port = self.listen(self.a, Server())
        self.network.run(0)
        connecting = TCP4ClientEndpoint(self.b.reactor, "10.0.0.1", 5000)
        failed = connectProtocol(connecting, Recorder())
        self.network.cut_one_way(self.a, self.b)
        self.network.run(1.0)
        self.network.result(port.stopListening())
        self.assertEqual(self.a.left_over(), [])
        self.network.heal()
        self.network.run(100.0)
        self.network.result(failed).transport.loseConnection()
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
