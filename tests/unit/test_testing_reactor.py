"""
L{flow512.testing}: real endpoints, services and TLS on a host's reactor.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL.crypto import X509
from twisted.application.internet import ClientService, StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    clientFromString,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    ReactorAlreadyRunning,
    ReactorNotRunning,
)
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorMulticast,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
    IResolutionReceiver,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.ssl import Certificate, CertificateOptions, optionsForClientTLS
from twisted.internet.task import LoopingCall
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.unit.simulated import NetworkTestCase, Recorder, Server, Spring


class InterfaceTests(NetworkTestCase):
    """What the reactor promises, it has."""

    def test_interfaces(self) -> None:
        for interface in (
            IReactorCore,
            IReactorFDSet,
            IReactorFromThreads,
            IReactorMulticast,
            IReactorPluggableNameResolver,
            IReactorTCP,
            IReactorTime,
            IReactorUDP,
        ):
            verifyObject(interface, self.a.reactor)
        verifyObject(IHostnameResolver, self.a.reactor.nameResolver)
        self.assertIn("a", repr(self.a.reactor))


class TimeTests(NetworkTestCase):
    """Delayed calls."""

    def test_calls(self) -> None:
        """Each reactor knows its own calls; all live by one clock."""
        ran: list[float] = []
        call = self.a.reactor.callLater(2, lambda: ran.append(self.b.reactor.seconds()))
        self.assertEqual(list(self.a.reactor.getDelayedCalls()), [call])
        self.assertEqual(list(self.b.reactor.getDelayedCalls()), [])
        self.network.run(3)
        self.assertEqual(ran, [2])

    def test_error(self) -> None:
        """What a call raises is logged, and the rest goes on."""
        ran: list[str] = []
        self.a.reactor.callLater(1, ran.remove, "x")
        self.a.reactor.callLater(2, ran.append, "y")
        self.network.run(3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(ran, ["y"])

    def test_call_from_thread(self) -> None:
        """callFromThread calls at the next turn, not at once, and is no delayed call."""
        ran: list[str] = []
        self.a.reactor.callFromThread(ran.append, "x")
        self.assertEqual((ran, list(self.a.reactor.getDelayedCalls())), ([], []))
        self.network.run(0)
        self.assertEqual(ran, ["x"])

    def test_looping_call(self) -> None:
        """A LoopingCall runs on it."""
        ticks: list[float] = []
        loop = LoopingCall(lambda: ticks.append(self.network.clock.seconds()))
        loop.clock = self.a.reactor
        loop.start(1, now=False)
        self.network.run(3)
        loop.stop()
        self.assertEqual(ticks, [1, 2, 3])


@implementer(IResolutionReceiver)
class Receiver:
    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.complete = False
        self.resolution: IHostResolution | None = None

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.resolution = resolutionInProgress

    def addressResolved(self, address: object) -> None:
        self.addresses.append(address.host)

    def resolutionComplete(self) -> None:
        self.complete = True


class ResolverTests(NetworkTestCase):
    """Names of hosts."""

    def resolve(self, name: str, **options: object) -> Receiver:
        receiver = Receiver()
        self.b.reactor.nameResolver.resolveHostName(receiver, name, **options)
        self.assertFalse(receiver.complete)
        verifyObject(IHostResolution, receiver.resolution)
        self.network.run(1)
        return receiver

    def test_names(self) -> None:
        """A host's name gives all its addresses, C{localhost} the loopback's, nothing else any."""
        self.assertEqual(self.resolve("A").addresses, ["10.0.0.1", "fd00::1"])
        self.assertEqual(self.resolve("localhost").addresses, ["127.0.0.1", "::1"])
        self.assertEqual(self.resolve("10.0.0.9").addresses, ["10.0.0.9"])
        unknown = self.resolve("nobody")
        self.assertEqual((unknown.addresses, unknown.complete), ([], True))

    def test_address_types(self) -> None:
        """The family may be chosen."""
        self.assertEqual(self.resolve("a", addressTypes=[IPv6Address]).addresses, ["fd00::1"])
        self.assertEqual(
            self.resolve("a", transportSemantics="UDP").addresses, ["10.0.0.1", "fd00::1"]
        )

    def test_cancel(self) -> None:
        """Who cancels hears nothing more."""
        receiver = Receiver()
        self.b.reactor.nameResolver.resolveHostName(receiver, "a").cancel()
        self.network.run(1)
        self.assertEqual((receiver.addresses, receiver.complete), ([], False))

    def test_resolve(self) -> None:
        """The older way gives one address, or fails."""
        self.assertEqual(self.network.result(self.b.reactor.resolve("a")), "10.0.0.1")
        self.assertRaises(DNSLookupError, self.network.result, self.b.reactor.resolve("nobody"))

    def test_install(self) -> None:
        """Another resolver can be put in its place."""
        first = self.b.reactor.nameResolver
        self.assertIs(self.b.reactor.installNameResolver(self.a.reactor.nameResolver), first)
        self.assertIs(self.b.reactor.nameResolver, self.a.reactor.nameResolver)

    def test_connect_by_name(self) -> None:
        """TCP endpoints and HostnameEndpoint connect by name; an unknown one is an error."""
        self.listen(self.a, Server())
        self.connect(self.b, Recorder(), "tcp:a:5000")
        endpoint = HostnameEndpoint(self.b.reactor, "a", 5000)
        client = self.network.result(connectProtocol(endpoint, Recorder()))
        self.assertEqual(client.transport.getPeer().host, "10.0.0.1")
        for unknown in (
            HostnameEndpoint(self.b.reactor, "nobody", 5000),
            clientFromString(self.b.reactor, "tcp:nobody:5000"),
        ):
            connecting = connectProtocol(unknown, Recorder())
            self.assertRaises(DNSLookupError, self.network.result, connecting)


class ServiceTests(NetworkTestCase):
    """Services run on it unchanged."""

    def test_services(self) -> None:
        """A server's service and a client's meet, and stop without a trace."""
        server, client = Server(), Server()
        services = MultiService()
        StreamServerEndpointService(
            TCP4ServerEndpoint(self.a.reactor, 5000), server
        ).setServiceParent(services)
        StreamServerEndpointService(
            TCP6ServerEndpoint(self.a.reactor, 5001), server
        ).setServiceParent(services)
        ClientService(
            clientFromString(self.b.reactor, "tcp:a:5000"), client, clock=self.b.reactor
        ).setServiceParent(services)
        services.startService()
        self.network.run_until(lambda: client.protocols and server.protocols)
        self.network.result(services.stopService())
        self.network.run(1)
        self.network.close()

    def test_reconnecting(self) -> None:
        """A ClientService finds its server again after a crash, and after a cut."""
        self.network.give_up = 5

        class Pinging(Recorder):
            def connectionMade(self) -> None:
                self.loop = LoopingCall(self.transport.write, b"ping")
                self.loop.clock = reactor
                self.loop.start(1)

            def connectionLost(self, reason: object = None) -> None:
                self.loop.stop()

        reactor = self.b.reactor
        self.listen(self.a, Server())
        client = Server(Pinging)
        service = ClientService(
            clientFromString(reactor, "tcp:10.0.0.1:5000:timeout=2"),
            client,
            clock=reactor,
            retryPolicy=lambda attempt: 1.0,
        )
        service.startService()
        self.network.run(3)
        self.assertEqual(len(client.protocols), 1)
        self.a.crash()
        self.network.run(20)
        self.assertEqual(len(client.protocols), 1)
        self.a.restart()
        self.listen(self.a, Server())
        self.network.run(10)
        self.assertEqual(len(client.protocols), 2)
        self.network.cut(self.a, self.b)
        self.network.run(20)
        self.network.heal()
        self.network.run(10)
        self.assertEqual(len(client.protocols), 3)
        self.network.result(service.stopService())


class CoreTests(NetworkTestCase):
    """Starting and stopping."""

    def test_runs_from_the_start(self) -> None:
        """The network runs it: nobody else has to, or may."""
        reactor, ran = self.a.reactor, []
        self.assertTrue(reactor.running)
        self.assertRaises(ReactorAlreadyRunning, reactor.run)
        self.assertRaises(ReactorAlreadyRunning, reactor.iterate)
        reactor.callWhenRunning(ran.append, "x")
        self.assertEqual(ran, ["x"])

    def test_triggers(self) -> None:
        """Triggers are called in the order of their phases; the later ones wait for the first."""
        reactor, ran, done = self.a.reactor, [], Deferred()
        reactor.addSystemEventTrigger("after", "tea", ran.append, "after")
        reactor.addSystemEventTrigger("during", "tea", ran.append, "during")
        reactor.addSystemEventTrigger("before", "tea", lambda: done)
        reactor.addSystemEventTrigger("before", "tea", ran.append, "before")
        reactor.addSystemEventTrigger("before", "supper", ran.append, "never")
        removed = reactor.addSystemEventTrigger("before", "tea", ran.append, "removed")
        reactor.removeSystemEventTrigger(removed)
        self.assertRaises(ValueError, reactor.removeSystemEventTrigger, removed)
        self.assertRaises(KeyError, reactor.addSystemEventTrigger, "soon", "tea", ran.append)
        reactor.fireSystemEvent("tea")
        self.assertEqual(ran, ["before"])
        done.callback(None)
        self.assertEqual(ran, ["before", "during", "after"])
        reactor.fireSystemEvent("tea")
        self.assertEqual(len(ran), 3)

    def test_trigger_fails(self) -> None:
        """A trigger that fails is logged and keeps nothing from happening."""
        reactor, ran = self.a.reactor, []
        reactor.addSystemEventTrigger("before", "tea", [].pop)
        reactor.addSystemEventTrigger("during", "tea", ran.append, "x")
        reactor.fireSystemEvent("tea")
        self.assertEqual(ran, ["x"])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_stop(self) -> None:
        """
        A process that stops may finish what it does before shutdown; then its connections are lost,
        and it refuses others. Its host is still up.
        """
        server, client = self.pair()
        paused = self.connect(self.b, Recorder())
        self.network.run(1)
        for each in self.port.factory.protocols:
            if each is not server:
                each.transport.pauseProducing()
        reactor = self.a.reactor

        def farewell() -> Deferred[None]:
            server.transport.write(b"farewell")
            waiting: Deferred[None] = Deferred()
            reactor.callLater(3, waiting.callback, None)
            return waiting

        reactor.addSystemEventTrigger("before", "shutdown", farewell)
        reactor.stop()
        self.assertFalse(reactor.running)
        self.assertRaises(ReactorNotRunning, reactor.stop)
        self.network.run(2)
        self.assertIsNone(client.lost)
        self.network.run(3)
        self.assertEqual(client.received, b"farewell")
        server.lost.trap(ConnectionLost)
        client.lost.trap(ConnectionDone)
        paused.lost.trap(ConnectionDone)
        self.assertTrue(self.a.up)
        self.assertEqual(self.network.left_over(), [])
        self.assertRaises(ConnectionRefusedError, self.connect, self.b, Recorder())
        self.assertLess(self.network.clock.seconds(), 8)

    def test_crash(self) -> None:
        """A process that is killed has its connections closed by its host."""
        server, client = self.pair()
        self.a.reactor.crash()
        self.network.run(1)
        client.lost.trap(ConnectionDone)
        self.assertIsNone(server.lost)

    def test_remove_all(self) -> None:
        """Everything that waits to read or write can be made to wait no longer."""
        server, client = self.pair()
        reactor = self.b.reactor
        client.transport.write(b"x")
        self.assertEqual(reactor.getReaders(), [client.transport])
        self.assertEqual(reactor.getWriters(), [client.transport])
        self.assertEqual(reactor.removeAll(), [client.transport])
        self.network.run(1)
        self.assertEqual(server.received, b"")


class Identity:
    """
    A key, and a certificate that is signed by itself.

    @ivar certificate: it.
    @ivar options: what a server shows.
    @ivar trust: what a client believes who knows it.
    """

    def __init__(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        start = datetime.datetime(2020, 1, 1)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=36500))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.certificate = made
        self.options = CertificateOptions(privateKey=key, certificate=made)
        root = Certificate(X509.from_cryptography(made))
        self.trust = optionsForClientTLS(name, trustRoot=root)


class TLSTests(NetworkTestCase):
    """TLS over it is the TLS of any reactor, if it is given that reactor for a clock."""

    def secure(self, kind: type[Protocol], identity: Identity) -> Server:
        """Listen with TLS."""
        server = Server(kind)
        reactor = self.a.reactor
        self.listen(self.a, TLSMemoryBIOFactory(identity.options, False, server, clock=reactor))
        return server

    def connect_securely(self, identity: Identity) -> Recorder:
        """Connect with TLS, trusting somebody."""
        reactor = self.b.reactor
        endpoint = wrapClientTLS(
            identity.trust, HostnameEndpoint(reactor, "a", 5000), clock=reactor
        )
        return self.network.result(connectProtocol(endpoint, Recorder()))

    def test_data(self) -> None:
        """Data flows both ways, is paused and resumed, and the end is clean."""
        identity = Identity("a")
        server = self.secure(Recorder, identity)
        client = self.connect_securely(identity)
        self.network.run(1)
        protocol = server.protocols[0]
        spring = Spring(client.transport, 10**6)
        protocol.transport.pauseProducing()
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        self.network.run(5)
        self.assertGreater(spring.left, 0)
        protocol.transport.resumeProducing()
        protocol.transport.write(b"answer")
        self.network.run(10)
        self.assertEqual(len(protocol.received), 10**6)
        self.assertEqual(client.received, b"answer")
        shown = client.transport.getPeerCertificate().to_cryptography()
        self.assertEqual(shown, identity.certificate)
        client.transport.loseConnection()
        self.network.run(1)
        protocol.lost.trap(ConnectionDone)
        client.lost.trap(ConnectionDone)

    def test_untrusted(self) -> None:
        """Who trusts somebody else is not connected."""
        self.secure(Recorder, Identity("a"))
        client = self.connect_securely(Identity("a"))
        self.network.run(1)
        self.assertIn("certificate verify failed", str(client.lost.value))

    def test_start_tls(self) -> None:
        """
        startTLS is refused: Twisted's takes its clock from the global reactor, so what is written
        would wait there for ever.
        """
        for protocol in self.pair():
            self.assertRaises(NotImplementedError, protocol.transport.startTLS, object())


class FactoryTests(NetworkTestCase):
    """Factories are started and stopped as everywhere."""

    def test_start_and_stop(self) -> None:
        """doStart comes with the port, doStop when it is closed; a UDP protocol likewise."""
        events: list[str] = []

        class Noting(Factory):
            protocol = Protocol

            def startFactory(self) -> None:
                events.append("start")

            def stopFactory(self) -> None:
                events.append("stop")

        class NotingDatagrams(DatagramProtocol):
            def startProtocol(self) -> None:
                events.append("start UDP")

            def stopProtocol(self) -> None:
                events.append("stop UDP")

        port = self.listen(self.a, Noting())
        udp = self.a.reactor.listenUDP(0, NotingDatagrams())
        self.assertIn("5000", repr(port))
        self.network.result(port.stopListening())
        self.network.result(udp.stopListening())
        self.assertEqual(events, ["start", "start UDP", "stop", "stop UDP"])
        self.network.assert_quiet()
