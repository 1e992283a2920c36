"""The registry dials back: by hand, and on a network on which nodes lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flow512.errors import WIRE_CODES, Busy, Misuse
from flow512.limits import Limits
from flow512.link.address import HostPort, client_endpoint
from flow512.link.conversation import Patience
from flow512.link.identity import Identity
from flow512.link.introduction import Introduction
from flow512.link.security import Plaintext, Security
from flow512.link.tls import Tls
from flow512.registry.client import RegistryClient
from flow512.registry.dials import WAITS
from flow512.registry.log_room import LINES
from flow512.registry.server import RegistryFactory
from flow512.testing import Host, Network
from flow512.wire.fields import Peer
from flow512.wire.messages import (
    Error,
    Hello,
    Leave,
    Reached,
    Register,
    Registered,
    Snapshot,
    encode,
)
from tests.unit.registry_ends import End, ServingFactory, hello, node_id

PATIENCE = Patience(greeting=10.0, silence=60.0, stall=300.0)
REGISTRY = Introduction(node_id(99), "registry")


def lines_of(events: list[LogEvent], level: str = "info") -> list[str]:
    """Read what the registry has logged."""
    return [
        formatEvent(event)
        for event in events
        if event["log_level"].name == level
        and str(event["log_namespace"]).startswith("flow512.registry")
    ]


class LogTestCase(SynchronousTestCase):
    """Remembers what is logged."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)


class Attempt(End):
    """A connection that the registry made, with the node at the other end moved by hand."""

    def answer(self, number: int) -> None:
        """Say hello as that node."""
        self.say_bytes(hello(number, conversation="transfer"))


@implementer(IStreamClientEndpoint)
class HandEndpoints:
    """
    Connects when it is told to.

    @ivar asked: the addresses that were dialled, in order.
    @ivar waiting: attempts that have neither succeeded nor failed.
    """

    def __init__(self) -> None:
        self.asked: list[HostPort] = []
        self.waiting: list[tuple[HostPort, IProtocolFactory, Deferred[Protocol]]] = []

    def to(self, address: HostPort) -> IStreamClientEndpoint:
        """Make the endpoint for an address."""
        self.asked.append(address)
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Protocol]:
        """Begin an attempt."""

        def cancelled(attempt: Deferred[Protocol]) -> None:
            self.waiting.remove(entry)

        attempt: Deferred[Protocol] = Deferred(cancelled)
        entry = (self.asked[-1], protocolFactory, attempt)
        self.waiting.append(entry)
        return attempt

    def refuse(self) -> None:
        """Let the oldest attempt fail."""
        _, _, attempt = self.waiting.pop(0)
        attempt.errback(Failure(ConnectionRefusedError()))

    def accept(self) -> Attempt:
        """Let the oldest attempt succeed; the registry's hello has been read then."""
        address, factory, attempt = self.waiting.pop(0)
        end = Attempt(factory, 0, IPv4Address("TCP", address.host, address.port))
        attempt.callback(end.protocol)
        (said,) = end.heard()
        assert isinstance(said, Hello)
        assert said.conversation == "transfer"
        assert said.node == REGISTRY.node
        return end


class HandTestCase(LogTestCase):
    """A registry, whose nodes and whose attempts to reach them are in the test's hands."""

    limits: Limits | None = None

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.endpoints = HandEndpoints()
        self.factory = RegistryFactory(
            REGISTRY,
            self.clock,
            connect=self.endpoints.to,
            patience=PATIENCE,
            lease=3600.0,
            limits=self.limits,
        )
        self.nodes: list[End] = []

    def tearDown(self) -> None:
        """Whatever happened: once it is stopped and all are gone, nothing is left to be done."""
        stopped = self.factory.stop()
        for node in self.nodes:
            node.close()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def arrive(self, number: int, host: str = "192.0.2.1") -> End:
        """Have a node connect and say hello."""
        node = End(self.factory, number, IPv4Address("TCP", host, 40000))
        self.nodes.append(node)
        node.say_hello()
        return node

    def join(self, number: int, host: str = "192.0.2.1", port: int = 5000) -> End:
        """Have a node register."""
        node = self.arrive(number, host)
        node.say(Register(bytes(16), port), 1)
        self.assertEqual(node.heard(), [Registered(3600.0, host), Snapshot(0, ())])
        return node

    def lose(self, node: End) -> None:
        """Have a connection break."""
        self.nodes.remove(node)
        node.hang_up()

    def reason(self, node: End) -> str:
        """Tell why a node was told that it is not reached."""
        (told,) = node.heard()
        assert isinstance(told, Reached), told
        self.assertFalse(told.ok)
        self.assertEqual((told.port, told.retry_after), (5000, WAITS[0]))
        start = "The registry could not reach this node at 192.0.2.1:5000: "
        self.assertEqual(told.sentence[: len(start)], start)
        return told.sentence[len(start) :]


class AttemptTests(HandTestCase):
    """What comes of one attempt."""

    def test_reached(self) -> None:
        """
        Who registers is dialled at the port that it names and the address that it comes from; when
        it answers as itself it is told, listed and left in peace.
        """
        node = self.join(1)
        self.assertEqual(self.endpoints.asked, [HostPort("192.0.2.1", 5000)])
        attempt = self.endpoints.accept()
        self.assertEqual(self.factory.peers, [])
        attempt.answer(1)
        self.assertEqual(attempt.heard(), [])
        self.assertTrue(attempt.transport.disconnecting)
        attempt.close()
        self.assertEqual(node.heard(), [Reached(5000, True)])
        self.assertEqual(self.factory.peers, [Peer(node.id, "", "192.0.2.1", 5000)])
        self.clock.advance(3000.0)
        self.assertEqual(self.endpoints.waiting, [])

    def test_watcher(self) -> None:
        """Who only watches is not dialled."""
        self.join(1, port=0)
        self.assertEqual(self.endpoints.asked, [])

    def test_nobody_listens(self) -> None:
        """A port that nobody listens at; then the node is tried again, and listed."""
        node = self.join(1)
        self.endpoints.refuse()
        self.assertEqual(self.reason(node), "no connection could be made.")
        self.clock.advance(WAITS[0] - 0.1)
        self.assertEqual(self.endpoints.waiting, [])
        self.clock.advance(0.1)
        attempt = self.endpoints.accept()
        attempt.answer(1)
        self.assertEqual(node.heard(), [Reached(5000, True)])
        attempt.close()
        self.assertEqual(len(self.factory.peers), 1)

    def test_no_endpoint(self) -> None:
        """An address that no endpoint can be made for is one that nobody reaches."""

        def refuse(address: HostPort) -> IStreamClientEndpoint:
            raise Misuse("Not that one.")

        self.factory = RegistryFactory(REGISTRY, self.clock, connect=refuse, lease=3600.0)
        node = self.arrive(1)
        node.say(Register(bytes(16), 5000), 1)
        told = node.heard()
        self.assertEqual([type(each) for each in told], [Registered, Snapshot, Reached])

    def test_another_node(self) -> None:
        """A port where another node answers, which is told why it is left."""
        node = self.join(1)
        attempt = self.endpoints.accept()
        attempt.answer(2)
        self.assertIsInstance(attempt.heard()[0], Error)
        attempt.close()
        self.assertEqual(self.reason(node), "what answers there did not prove to be this node.")
        self.assertEqual(self.factory.peers, [])

    def test_no_node(self) -> None:
        """A port where something else answers; what it says is told to nobody."""
        answers = [
            b"HTTP/1.1 200 OK\r\nServer: \x1b[31mhello\r\n\r\n",
            encode(Error(6, "Secret of a stranger.")),
            hello(1, network="elsewhere", conversation="transfer"),
            hello(1, conversation="registry"),
        ]
        for number, answer in enumerate(answers, 1):
            node = self.join(1)
            attempt = self.endpoints.accept()
            attempt.say_bytes(answer)
            self.assertTrue(attempt.is_closing)
            attempt.close()
            why = "what answers there did not prove to be this node."
            self.assertEqual(self.reason(node), why, number)
            node.say(Leave())

    def test_says_nothing(self) -> None:
        """A port where somebody accepts and says nothing is given ten seconds, and cut off."""
        node = self.join(1)
        self.clock.advance(4.0)
        attempt = self.endpoints.accept()
        self.clock.advance(5.9)
        self.assertEqual(node.heard(), [])
        self.clock.advance(0.1)
        self.assertTrue(attempt.transport.disconnected)
        attempt.hang_up()
        self.assertEqual(self.reason(node), "it did not prove within 10 seconds who it is.")

    def test_one_byte_a_second(self) -> None:
        """A node that says its hello byte by byte, one a second, takes too long."""
        node = self.join(1)
        attempt = self.endpoints.accept()
        for byte in hello(1, conversation="transfer")[:10]:
            attempt.say_bytes(bytes([byte]))
            self.clock.advance(1.0)
        self.assertTrue(attempt.transport.disconnected)
        attempt.hang_up()
        self.assertEqual(self.reason(node), "it did not prove within 10 seconds who it is.")

    def test_never_connects(self) -> None:
        """An attempt that hangs is given up."""
        node = self.join(1)
        self.clock.advance(9.9)
        self.assertEqual(len(self.endpoints.waiting), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.endpoints.waiting, [])
        self.assertEqual(self.reason(node), "no connection could be made.")

    def test_cut_off(self) -> None:
        """A port where somebody hangs up."""
        node = self.join(1)
        self.endpoints.accept().close()
        self.assertEqual(self.reason(node), "the connection was closed before it proved who it is.")

    def test_stays_connected(self) -> None:
        """A node that keeps the connection open is listed all the same, and cut off in time."""
        node = self.join(1)
        attempt = self.endpoints.accept()
        attempt.answer(1)
        self.assertEqual(node.heard(), [Reached(5000, True)])
        self.clock.advance(10.0)
        attempt.hang_up()
        self.assertEqual(len(self.factory.peers), 1)

    def test_back_in_time(self) -> None:
        """A node that is back within the grace is told at once what is known, and not dialled."""
        node = self.join(1)
        attempt = self.endpoints.accept()
        attempt.answer(1)
        attempt.close()
        self.lose(node)
        again = self.arrive(1)
        again.say(Register(bytes(16), 5000), 1)
        self.assertEqual(again.heard()[:2], [Registered(3600.0, "192.0.2.1"), Reached(5000, True)])
        self.assertEqual(self.endpoints.waiting, [])

    def test_gone_meanwhile(self) -> None:
        """Who leaves while it is dialled is not listed; who breaks off is, for the grace."""
        for is_lost in (False, True):
            node = self.join(1)
            attempt = self.endpoints.accept()
            if is_lost:
                self.lose(node)
            else:
                node.say(Leave())
            attempt.answer(1)
            attempt.close()
            self.assertEqual(len(self.factory.peers), int(is_lost))
            self.clock.advance(5.0)
            self.assertEqual(self.factory.peers, [])

    def test_changes_port(self) -> None:
        """With another port the entry is withdrawn, and what comes of the old one is no news."""
        node = self.join(1)
        attempt = self.endpoints.accept()
        node.say(Register(bytes(16), 6000), 2)
        node.heard()
        attempt.answer(1)
        attempt.close()
        self.assertEqual(node.heard(), [])
        self.assertEqual(self.factory.peers, [])
        self.assertEqual(self.endpoints.asked[1:], [HostPort("192.0.2.1", 6000)])
        attempt = self.endpoints.accept()
        attempt.answer(1)
        attempt.close()
        self.assertEqual(node.heard()[0], Reached(6000, True))
        self.assertEqual([peer.port for peer in self.factory.peers], [6000])

    def test_in_any_order(self) -> None:
        """A second process with the same identity may watch, and is not dialled for the first."""
        first = self.join(1)
        second = self.arrive(1)
        second.say(Register(b"t" * 16, 0), 1)
        self.assertIsInstance(second.heard()[0], Registered)
        attempt = self.endpoints.accept()
        attempt.answer(1)
        attempt.close()
        self.assertEqual(first.heard(), [Reached(5000, True)])
        self.assertEqual(second.heard(), [])
        second.say(Register(b"t" * 16, 6000), 2)
        (refused,) = second.heard()
        assert isinstance(refused, Error)
        self.assertIn("Another process with this identity serves already", refused.sentence)


class EndTests(HandTestCase):
    """A registry that stops while it dials."""

    def test_stop(self) -> None:
        """Every attempt is ended, nobody is told anything of it, and the end waits for them."""
        nodes = [self.join(number) for number in (1, 2, 3, 4)]
        silent = self.endpoints.accept()
        leaving = self.endpoints.accept()
        leaving.answer(2)
        self.assertEqual(nodes[1].heard(), [Reached(5000, True)])
        stopped = self.factory.stop()
        self.assertEqual(self.endpoints.waiting, [])
        self.assertTrue(silent.transport.disconnected)
        for node in nodes:
            self.assertEqual(node.heard(), [])
            node.close()
        self.nodes.clear()
        self.assertNoResult(stopped)
        silent.hang_up()
        self.assertNoResult(stopped)
        leaving.close()
        self.successResultOf(stopped)
        self.assertEqual(self.endpoints.waiting, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_starts_again(self) -> None:
        """A registry that goes on dials anew whom it had not reached."""
        self.factory.startFactory()
        self.lose(self.join(1))
        attempt = self.endpoints.accept()
        self.factory.stop()
        attempt.hang_up()
        self.factory.startFactory()
        attempt = self.endpoints.accept()
        attempt.answer(1)
        attempt.close()
        self.assertEqual(len(self.factory.peers), 1)


class StormTests(HandTestCase):
    """Many who register, to have the registry do harm."""

    limits = Limits(dial_backs_per_address_per_minute=100)

    def test_one_address(self) -> None:
        """
        A thousand registrations from one address, at ports where nobody answers: few dials at once,
        few in a minute, and somebody else is dialled and listed meanwhile.
        """
        for number in range(1000):
            self.join(number, port=1 + number)
        at_once = Limits().dial_backs_per_address
        self.assertEqual(len(self.endpoints.waiting), at_once)
        self.join(5000, "198.51.100.1")
        self.assertEqual(len(self.endpoints.waiting), at_once + 1)
        self.endpoints.waiting.insert(0, self.endpoints.waiting.pop())
        attempt = self.endpoints.accept()
        attempt.answer(5000)
        attempt.close()
        self.assertEqual([peer.host for peer in self.factory.peers], ["198.51.100.1"])
        for second in range(60):
            self.clock.advance(1.0)
            if second % 7 == 0:
                while self.endpoints.waiting:
                    self.endpoints.refuse()
            self.assertLessEqual(len(self.endpoints.waiting), at_once)
        self.assertLessEqual(len(self.endpoints.asked), 1 + 100 + 100)
        self.assertEqual({each.host for each in self.endpoints.asked[at_once + 1 :]}, {"192.0.2.1"})

    def test_ports_in_a_loop(self) -> None:
        """One that registers at ever new ports does not get its address scanned."""
        node = self.join(1, port=1)
        for port in range(2, 1000):
            node.say(Register(bytes(16), port), port)
            while self.endpoints.waiting:
                self.endpoints.refuse()
        self.assertEqual(len(self.endpoints.asked), 60)
        refused = [each for each in node.heard() if isinstance(each, Error)]
        self.assertEqual({each.code for each in refused}, {WIRE_CODES[Busy]})

    def test_log(self) -> None:
        """A source that registers again and again fills no log; another's lines are still there."""
        for number in range(1000):
            node = self.join(number % 300, port=0)
            node.say(Leave())
            if number % 100 == 0:
                self.join(5000 + number, f"203.0.113.{number // 10}", 0).say(Leave())
        self.assertLessEqual(len(lines_of(self.events)), LINES + 2 * 2 * 10)
        self.assertIn("Registered to watch: 203.0.113.90", lines_of(self.events))
        self.assertTrue(any("lines about registrations were left" in e for e in self.lines()))

    def lines(self) -> list[str]:
        """Read the log."""
        return lines_of(self.events)

    def test_lines(self) -> None:
        """The log says who is listed, and who is not and why; no word of a stranger's."""
        self.join(1)
        self.endpoints.refuse()
        self.clock.advance(WAITS[0])
        attempt = self.endpoints.accept()
        attempt.answer(1)
        attempt.close()
        self.assertEqual(
            self.lines(),
            [
                "Peer connected: ('192.0.2.1', 40000)",
                "Peer not listed: nobody can reach it at 192.0.2.1:5000: no connection could be"
                " made.",
                "Registered peer: 192.0.2.1",
            ],
        )


class NetworkTests(LogTestCase):
    """A registry and nodes on a network, with TLS and without."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network(7)
        self.there = self.network.host("10.0.0.1", "fd00::1", name="registry")
        self.clients: list[RegistryClient] = []
        self.ports: list[IListeningPort] = []
        self.registry: RegistryFactory | None = None

    def tearDown(self) -> None:
        """Stop everybody; nothing is left."""
        for client in self.clients:
            self.network.result(client.stopService())
        for port in self.ports:
            stopping = port.stopListening()
            if stopping is not None:
                self.network.result(stopping)
        if self.registry is not None:
            self.network.result(self.registry.stop())
        self.network.run(30.0)
        self.network.close()

    def security(self, host: Host, number: int | None) -> Security:
        """Make what a host's connections run over: TLS with the identity of that number, if any."""
        if number is None:
            return Plaintext()
        return Tls(Identity.from_seed(bytes([number]) * 32), host.reactor)

    def listen(self, host: Host, factory: IProtocolFactory, security: Security, port: int) -> None:
        """Listen."""
        endpoint = serverFromString(host.reactor, f"tcp:{port}:interface=\\:\\:")
        listening = endpoint.listen(security.accepting(factory))
        self.ports.append(self.network.result(listening))

    def dialler(
        self, host: Host, security: Security
    ) -> Callable[[HostPort], IStreamClientEndpoint]:
        """Make what connects from a host."""
        endpoint = partial(client_endpoint, host.reactor)
        return lambda address: security.connecting(endpoint(address))

    def start_registry(self, node: bytes = REGISTRY.node, number: int | None = None) -> None:
        """Start the registry."""
        security = self.security(self.there, number)
        self.registry = RegistryFactory(
            Introduction(node, "registry"),
            self.there.reactor,
            connect=self.dialler(self.there, security),
            patience=PATIENCE,
        )
        self.listen(self.there, self.registry, security, 5000)

    def start_node(self, host: Host, node: bytes, number: int | None = None) -> RegistryClient:
        """Start a node's client; it claims to serve at port 5000."""
        client = RegistryClient(
            host.reactor,
            self.dialler(host, self.security(host, number))(HostPort("registry", 5000)),
            Introduction(node),
            port=5000,
            ticket=node[:16],
            random=Random(1),
            patience=PATIENCE,
        )
        self.clients.append(client)
        client.startService()
        return client

    def test_honest(self) -> None:
        """Nodes that serve are listed within a second, over IPv4 and IPv6, and know it."""
        self.start_registry()
        for number, address in enumerate(("10.0.0.2", "fd00::3"), 1):
            host = self.network.host(address)
            serving = ServingFactory(Introduction(node_id(number)), host.reactor)
            self.listen(host, serving, Plaintext(), 5000)
            self.start_node(host, node_id(number))
        self.network.run(1.0)
        for client in self.clients:
            self.assertIs(client.is_reachable, True)
            self.assertEqual([each.host for each in client.peers.values()], ["10.0.0.2", "fd00::3"])

    def test_beside_the_registry(self) -> None:
        """A node on the registry's own machine is dialled at the loopback, and found elsewhere."""
        self.start_registry()
        self.listen(
            self.there,
            ServingFactory(Introduction(node_id(1)), self.there.reactor),
            Plaintext(),
            6000,
        )
        client = self.start_node(self.there, node_id(1))
        client.set_port(6000)
        far = self.start_node(self.network.host("10.0.0.2"), node_id(2))
        self.network.run(1.0)
        self.assertEqual([each.host for each in far.peers.values()], ["10.0.0.1"])

    def test_tls(self) -> None:
        """With TLS a node is listed by the key that it has; one with another's key is not."""
        self.start_registry(Identity.from_seed(bytes([9]) * 32).node, 9)
        owner, liar = (Identity.from_seed(bytes([number]) * 32).node for number in (1, 2))
        hosts = [self.network.host(f"10.0.0.{number}") for number in (2, 3)]
        for host, number in zip(hosts, (1, 1), strict=True):
            # Both answer with the first one's key, and the second registers with its own.
            serving = ServingFactory(Introduction(owner), host.reactor)
            self.listen(host, serving, self.security(host, number), 5000)
        good = self.start_node(hosts[0], owner, 1)
        bad = self.start_node(hosts[1], liar, 2)
        self.network.run(5.0)
        self.assertEqual((good.is_reachable, bad.is_reachable), (True, False))
        self.assertEqual([each.node for each in good.peers.values()], [owner])
        self.assertEqual(list(bad.peers.values()), list(good.peers.values()))

    def test_victim(self) -> None:
        """
        A victim is not dialled because somebody else registers its node id and port; the liar's own
        address is, and proves nothing.
        """
        self.start_registry()
        victim = self.network.host("10.0.0.2")
        serving = ServingFactory(Introduction(node_id(2)), victim.reactor)
        self.listen(victim, serving, Plaintext(), 5000)
        liar = self.network.host("10.0.0.3")
        client = self.start_node(liar, node_id(2))
        self.network.run(100.0)
        self.assertEqual(serving.visits, 0)
        self.assertIs(client.is_reachable, False)
        self.assertEqual(client.peers, {})

    def test_behind_a_wall(self) -> None:
        """
        A node that cannot be reached watches: it is told, knows the others, and is listed soon
        after its port is open; its user is warned once.
        """
        self.start_registry()
        host, other = self.network.host("10.0.0.2"), self.network.host("10.0.0.3")
        self.listen(
            other, ServingFactory(Introduction(node_id(3)), other.reactor), Plaintext(), 5000
        )
        self.start_node(other, node_id(3))
        client = self.start_node(host, node_id(2))
        self.network.run(100.0)
        self.assertIs(client.is_reachable, False)
        self.assertTrue(client.is_listed)
        self.assertEqual([each.host for each in client.peers.values()], ["10.0.0.3"])
        self.listen(host, ServingFactory(Introduction(node_id(2)), host.reactor), Plaintext(), 5000)
        self.network.run(WAITS[1] + WAITS[2])
        self.assertIs(client.is_reachable, True)
        self.assertEqual(len(self.clients[0].peers), 2)
        warnings = [line for line in lines_of(self.events, "warn") if "cannot reach" in line]
        self.assertEqual(len(warnings), 1)

    def test_many_behind_one_address(self) -> None:
        """A hundred nodes on one machine are all reached within two seconds, with the defaults."""
        self.start_registry()
        host = self.network.host("10.0.0.2")
        for number in range(1, 101):
            serving = ServingFactory(Introduction(node_id(number)), host.reactor)
            self.listen(host, serving, Plaintext(), 5000 + number)
            self.start_node(host, node_id(number)).set_port(5000 + number)
        self.network.run(2.0)
        assert self.registry is not None
        self.assertEqual(len(self.registry.peers), 100)
        self.assertTrue(all(len(client.peers) == 100 for client in self.clients))
