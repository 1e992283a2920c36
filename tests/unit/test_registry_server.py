"""The registry at work, conversation by conversation."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IPushProducer
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.discovery.claims import MOST_RISE, Claim, Origin, RegistryOffer
from flow512.errors import (
    WIRE_CODES,
    BadFrame,
    BadMessage,
    Busy,
    Flow512Error,
    NotAllowed,
    StateInUse,
    Unsupported,
)
from flow512.limits import Limits
from flow512.link.bulk import IBulkTransport
from flow512.link.conversation import MAX_UNREAD_ANSWERS, Patience
from flow512.link.introduction import Introduction
from flow512.link.shared_port import SharedPortFactory
from flow512.registry.answering import RegistryProtocol
from flow512.registry.server import SHORTEST_INTERVAL, RegistryFactory
from flow512.registry.table import MAX_CHANGES, RegistryTable
from flow512.wire.fields import MAX_PEERS, Message, Peer
from flow512.wire.frame import FrameReader
from flow512.wire.leading import Leader
from flow512.wire.messages import (
    CAPS,
    Delta,
    Error,
    Hello,
    Kind,
    Leave,
    Ping,
    Pong,
    Register,
    Registered,
    Resync,
    Snapshot,
    encode,
)
from tests.unit.cutting import cuttings
from tests.unit.registry_ends import End, hello, node_id

PATIENCE = Patience(greeting=10.0, silence=60.0, stall=300.0)
REGISTRY = Introduction(node=bytes(32), name="registry")


def address(host: str, port: int = 62069) -> IPv4Address | IPv6Address:
    """Make an address as transports have it."""
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)


class Node(End):
    """A node, by hand."""

    def register(self, port: int = 5000, secret: int = 0, name: str = "") -> list[Message]:
        """Ask to be listed."""
        self.say(Register(secret.to_bytes(16, "big"), port, name), 1)
        return self.heard()


class RegistryTestCase(SynchronousTestCase):
    """A registry, a clock, and nodes that do what they are told."""

    limits = Limits()

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = self.make()
        self.nodes: list[Node] = []
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def tearDown(self) -> None:
        """Whatever happened: once it is stopped and all are gone, nothing is left to be done."""
        self.factory.stop()
        for node in list(self.nodes):
            self.lose(node)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make(self) -> RegistryFactory:
        """Make the registry."""
        return RegistryFactory(
            REGISTRY, self.clock, patience=PATIENCE, lease=30.0, grace=5.0, limits=self.limits
        )

    def connect(self, number: int, seen: IAddress | None = None) -> Node:
        """Have a node connect and say nothing."""
        node = Node(self.factory, number, seen or address(f"192.0.2.{number % 250}"))
        self.nodes.append(node)
        return node

    def lose(self, node: Node) -> None:
        """Have a connection end in peace."""
        if node in self.nodes:
            self.nodes.remove(node)
        node.close()

    def arrive(self, number: int, seen: IAddress | None = None) -> Node:
        """Have a node connect and say hello."""
        node = self.connect(number, seen)
        node.say_hello()
        return node

    def join(self, number: int, port: int = 5000, name: str = "") -> Node:
        """Have a node register; what it hears of that, and the news of it, are passed over."""
        node = self.arrive(number)
        node.register(port, name=name)
        self.settle()
        for each in self.nodes:
            each.heard()
        return node

    def settle(self) -> None:
        """Let a window pass."""
        self.clock.advance(0.1)

    def hosts(self) -> list[str]:
        """List who is listed, by host."""
        return [peer.host for peer in self.factory.peers]

    def lines(self, level: str = "info") -> list[str]:
        """Read the log."""
        return [
            formatEvent(event)
            for event in self.events
            if event["log_level"].name == level
            and str(event["log_namespace"]).startswith("flow512.registry")
        ]

    def assert_error(self, node: Node, kind: type[Flow512Error]) -> Error:
        """The last that a node heard is that error."""
        error = node.heard()[-1]
        assert isinstance(error, Error)
        self.assertEqual(error.code, WIRE_CODES[kind])
        return error


class LeaderTests(RegistryTestCase):
    """Who leads, as nodes are told and tell it."""

    def setUp(self) -> None:
        super().setUp()
        self.known: list[int] = []
        self.heard: list[RegistryOffer] = []
        self.factory = RegistryFactory(
            REGISTRY,
            self.clock,
            patience=PATIENCE,
            claim=Claim(REGISTRY.node, 7, 1000, why="it was found"),
            term_known=self.known.append,
            heard=self.heard.append,
        )

    def test_claim(self) -> None:
        """A node that registers is told by what right the registry leads, before the list."""
        node = self.arrive(1)
        node.say(Register(bytes(16), 5000), 1)
        reader = FrameReader(CAPS)
        reader.receive(node.transport.value())
        kinds = []
        while (frame := reader.next_frame()) is not None:
            kinds.append(Kind(frame.kind))
        self.assertEqual(kinds, [Kind.REGISTERED, Kind.LEADER, Kind.SNAPSHOT])
        node.heard()
        self.assertEqual(node.leaders, [Leader(REGISTRY.node, 7, 1000, False, why="it was found")])

    def test_by_itself(self) -> None:
        """A registry of which nothing else is said is appointed, from its start on."""
        self.clock.advance(5.0)
        claim = self.make().claim
        self.assertEqual((claim.node, claim.term, claim.since), (REGISTRY.node, 1, 5000))
        self.assertTrue(claim.appointed)

    def test_later_term(self) -> None:
        """A later term that a node knows is taken over before it is answered, and all are told."""
        first = self.join(1)
        first.leaders.clear()
        second = self.arrive(2)
        second.say(Register(bytes(16), 5000, "", 9), 1)
        second.heard()
        self.assertEqual([leader.term for leader in second.leaders], [9])
        self.settle()
        first.heard()
        self.assertEqual([leader.term for leader in first.leaders], [9])
        self.assertEqual(self.known, [9])

    def test_absurd_term(self) -> None:
        """An absurd term makes its own rise by little; an earlier one not at all."""
        for term in (2**62, 3):
            self.arrive(term % 200).say(Register(bytes(16), 0, "", term), 1)
            self.assertEqual(self.factory.claim.term, 7 + MOST_RISE)

    def test_sends_on(self) -> None:
        """All are sent to another one, who comes later as well; and are kept when it is over."""
        first = self.join(1)
        watcher = self.arrive(3)
        first.leaders.clear()
        other = Leader(b"o" * 32, 8, 1, True, "192.0.2.7", 5000)
        self.factory.send_to(other)
        first.heard()
        self.assertEqual(first.leaders, [other])
        self.assertEqual(watcher.heard(), [])
        self.assertEqual(watcher.leaders, [])
        late = self.join(2)
        self.assertEqual(late.leaders, [self.factory.leader, other])
        first.leaders.clear()
        self.arrive(4).say(Register(bytes(16), 5000, "", 20), 1)
        self.settle()
        first.heard()
        self.assertEqual(first.leaders, [])
        self.factory.send_to(None)
        first.heard()
        self.assertEqual(first.leaders, [self.factory.leader])

    def test_told(self) -> None:
        """What a node tells is passed on as an offer: at most one a second, and no nonsense."""
        node = self.join(1)
        told = Leader(b"o" * 32, 8, 1, True, "192.0.2.7", 5000)
        node.say(told)
        node.say(told)
        self.assertEqual([offer.address for offer in self.heard], [("192.0.2.7", 5000)])
        self.assertEqual(self.heard[0].claim, Claim(b"o" * 32, 8, 1, True))
        self.assertIs(self.heard[0].origin, Origin.REGISTRY)
        for host, port, address in (
            ("", 5001, ("192.0.2.1", 5001)),
            ("127.0.0.1", 5000, ("192.0.2.1", 5000)),
            ("a name", 5000, None),
            ("255.255.255.255", 5000, None),
            ("192.0.2.9", 0, None),
        ):
            self.clock.advance(1.0)
            self.heard.clear()
            node.say(Leader(b"o" * 32, 8, host=host, port=port))
            expected = [] if address is None else [address]
            self.assertEqual([offer.address for offer in self.heard], expected, host)

    def test_strangers_tell_nothing(self) -> None:
        """Who has not registered has nothing to tell."""
        node = self.arrive(1)
        node.say(Leader(b"o" * 32, 8, host="192.0.2.7", port=5000))
        self.assert_error(node, BadFrame)
        self.assertEqual(self.heard, [])

    def test_heir(self) -> None:
        """The one that is named is the first by node id that may lead, and not the registry."""
        self.factory.name_heir()
        node = self.arrive(5)
        node.say(Register(bytes(16), 5000, "", 0, False), 1)
        for number in (9, 7):
            self.arrive(number).say(Register(bytes(16), 5000, "", 0, True), 1)
        node.heard()
        node.leaders.clear()
        self.factory.name_heir()
        node.heard()
        self.assertEqual(node.leaders, [Leader(node_id(7), host="192.0.2.7", port=5000)])


class RegisterTests(RegistryTestCase):
    """How a node gets on the list, stays there, and gets off it."""

    def test_interface(self) -> None:
        """The registry is a factory like any other."""
        verifyObject(IProtocolFactory, self.factory)
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        verifyObject(IPushProducer, protocol)
        self.assertIs(protocol.factory, self.factory)

    def test_register(self) -> None:
        """A node is told its lease and its address, then who is there; then it is listed."""
        node = self.arrive(1)
        self.assertEqual(
            node.register(name="Ada"), [Registered(30.0, "192.0.2.1"), Snapshot(0, ())]
        )
        ada = Peer(node.id, "Ada", "192.0.2.1", 5000)
        self.assertEqual(self.factory.peers, [ada])
        self.settle()
        self.assertEqual(node.heard(), [Delta(1, (ada,))])

    def test_answers_carry_the_request(self) -> None:
        """REGISTERED and a refusal carry the number of their request; pushes carry none."""
        node = self.arrive(1)
        for ticket in (b"a" * 16, b"b" * 16):
            node.say(Register(ticket, 5000), 77)
        answers = [type(message) for message in node.heard()]
        self.assertEqual(
            list(zip(answers, node.requests, strict=True)),
            [(Registered, 77), (Snapshot, 0), (Error, 77)],
        )

    def test_any_cuts(self) -> None:
        """However a node's bytes are cut, the registry makes the same of them."""
        talk = hello(1) + encode(Register(bytes(16), 5000, "Ada"), 1) + encode(Ping(), 2)
        talk += encode(Register(bytes(16), 6000, "Eve"), 3)
        expected = [Registered(30.0, "192.0.2.1"), Snapshot(0, ()), Pong(0, SHORTEST_INTERVAL)]
        expected += [Registered(30.0, "192.0.2.1")]
        for chunks in cuttings(talk):
            self.factory = self.make()
            node = self.connect(1)
            for chunk in chunks:
                node.say_bytes(chunk)
            self.assertEqual(node.heard()[1:], expected)
            self.assertEqual(self.factory.peers, [Peer(node.id, "Eve", "192.0.2.1", 6000)])
            self.factory.stop()
            self.lose(node)

    def test_seen_address(self) -> None:
        """The host that is listed is the one that the connection comes from, and no other."""
        self.arrive(1, address("::ffff:198.51.100.7")).register()
        self.arrive(2, address("2001:db8::2")).register()
        self.assertEqual(self.hosts(), ["198.51.100.7", "2001:db8::2"])

    def test_no_address(self) -> None:
        """Over a UNIX socket a node may watch, and is told why it cannot be listed."""
        node = self.arrive(1, UNIXAddress(b"/run/flow512"))
        node.register()
        node.register(port=6000)
        self.assertEqual(self.factory.peers, [])
        self.assertIsInstance(node.register(port=0)[0], Registered)

    def test_change(self) -> None:
        """Registering again changes the entry; there is no second snapshot."""
        node = self.join(1)
        other = self.join(2)
        self.assertEqual(node.register(6000, name="Eve"), [Registered(30.0, "192.0.2.1")])
        self.settle()
        changed = Delta(3, (), (), (Peer(node.id, "Eve", "192.0.2.1", 6000),))
        self.assertEqual(other.heard(), [changed])
        self.assertEqual(node.heard(), [changed])

    def test_watcher(self) -> None:
        """A node without a port is told of the others, and they are not told of it."""
        watcher = self.join(1, port=0)
        other = self.join(2)
        self.assertEqual(self.hosts(), ["192.0.2.2"])
        self.lose(other)
        self.clock.advance(5.0)
        self.settle()
        self.assertEqual(watcher.heard(), [Delta(2, (), (other.id,))])

    def test_leave(self) -> None:
        """A node that leaves is off the list at once, and its connection is closed."""
        node, other = self.join(1), self.join(2)
        node.say(Leave())
        self.assertTrue(node.is_closing)
        self.assertEqual(self.hosts(), ["192.0.2.2"])
        self.settle()
        self.assertEqual(other.heard(), [Delta(3, (), (node.id,))])
        self.assertEqual(node.heard(), [])

    def test_leave_unregistered(self) -> None:
        """Leaving without having come is a way to close."""
        node = self.arrive(1)
        node.say(Leave())
        self.assertTrue(node.is_closing)
        self.assertEqual(node.heard(), [])

    def test_lost(self) -> None:
        """A node that is lost stays on the list for the grace, and is told of then."""
        node, other = self.join(1), self.join(2)
        node.hang_up()
        self.clock.advance(4.9)
        self.assertEqual(len(self.factory.peers), 2)
        self.assertEqual(other.heard(), [])
        self.clock.advance(0.1)
        self.assertEqual(self.hosts(), ["192.0.2.2"])
        self.settle()
        self.assertEqual(other.heard(), [Delta(3, (), (node.id,))])

    def test_back_in_time(self) -> None:
        """A node that comes back within the grace is never told of."""
        node, other = self.join(1), self.join(2)
        node.hang_up()
        self.clock.advance(4.0)
        again = self.arrive(1)
        self.assertEqual(
            again.register()[1],
            Snapshot(2, tuple(Peer(node_id(n), "", f"192.0.2.{n}", 5000) for n in (1, 2))),
        )
        self.clock.advance(20.0)
        self.assertEqual(other.heard(), [])
        self.assertEqual(again.heard(), [])

    def test_ping_keeps(self) -> None:
        """Pings keep the lease; without them the node is off the list and cut off."""
        node, other = self.join(1), self.join(2)
        for _ in range(9):
            self.clock.advance(10.0)
            other.say(Ping())
            if self.clock.seconds() < 25.0:
                node.say(Ping())
        self.assertEqual(self.hosts(), ["192.0.2.2"])
        self.assertTrue(node.is_closing)
        self.assertFalse(other.is_closing)

    def test_lease_ends_on_time(self) -> None:
        """A silent node is off the list when its lease is over, not later."""
        self.join(1)
        self.clock.advance(29.8)
        self.assertEqual(len(self.factory.peers), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.factory.peers, [])

    def test_pong(self) -> None:
        """A pong has the latest number, and for a stranger none."""
        self.join(1)
        node = self.arrive(2)
        node.say(Ping(), 5)
        self.assertEqual(node.heard(), [Pong(0)])
        node.register()
        node.say(Ping(), 6)
        self.assertEqual(node.heard(), [Pong(1, SHORTEST_INTERVAL)])

    def test_ping_interval(self) -> None:
        """The more there are, the less often the registry wants pings, down to three in a lease."""
        for count, interval in ((1, 2.0), (500, 2.0), (501, 2.004), (2000, 8.0), (90_000, 10.0)):
            self.patch(RegistryTable, "count", count)
            self.assertEqual(self.factory.ping_interval, interval)

    def test_takeover(self) -> None:
        """A second connection with the ticket takes over; the first is told and closed."""
        first, other = self.join(1), self.join(2)
        second = self.arrive(1)
        self.assertIsInstance(second.register()[0], Registered)
        self.assert_error(first, StateInUse)
        self.assertTrue(first.is_closing)
        self.lose(first)
        self.clock.advance(20.0)
        self.assertEqual(other.heard(), [])
        self.assertEqual(len(self.factory.peers), 2)

    def test_other_ticket(self) -> None:
        """Another ticket is refused while the lease lives; the first node notices nothing."""
        first = self.join(1)
        thief = self.arrive(1, address("203.0.113.66"))
        thief.register(secret=666)
        self.assertEqual(self.hosts(), ["192.0.2.1"])
        self.assertFalse(thief.is_closing)
        self.assertEqual(first.heard(), [])
        self.clock.advance(10.0)
        self.assertTrue(thief.is_closing)

    def test_refused_says_why(self) -> None:
        """A refusal names its cause, and a better request is accepted after it."""
        node = self.arrive(1)
        node.say(Register(bytes(16), 5000, "a\u202eb"), 9)
        error = self.assert_error(node, NotAllowed)
        self.assertIn("U+202E", error.sentence)
        self.assertIsInstance(node.register()[0], Registered)
        self.clock.advance(20.0)
        self.assertFalse(node.is_closing)


class StrangerTests(RegistryTestCase):
    """Those who have not registered, and those who do what is not done."""

    def test_told_nothing(self) -> None:
        """Nobody is told of anyone before registering."""
        stranger = self.arrive(1)
        silent = self.connect(2)
        self.join(3)
        self.settle()
        self.assertEqual(stranger.heard() + silent.heard(), [])

    def test_deadline(self) -> None:
        """Who says hello and does not register is told, and closed."""
        node = self.arrive(1)
        self.clock.advance(9.9)
        node.say(Ping())
        self.assertFalse(node.is_closing)
        self.clock.advance(0.1)
        self.assertTrue(node.is_closing)
        self.assertIn("No registration came", self.assert_error(node, NotAllowed).sentence)

    def test_many_say_nothing(self) -> None:
        """Connections that say nothing are all closed in time."""
        nodes = [self.connect(number) for number in range(100)]
        self.clock.advance(10.0)
        self.assertTrue(all(node.is_closing for node in nodes))

    def test_forged_pushes(self) -> None:
        """Whoever sends the registry what only a registry sends is cut off; nobody is told."""
        other = self.join(9)
        victim = Peer(node_id(6), "victim", "203.0.113.1", 80)
        forged = [
            Snapshot(5, (victim,)),
            Delta(5, (victim,)),
            Delta(5, (), (other.id,)),
            Registered(30.0, "203.0.113.1"),
            Hello(1, 1, "registry", node_id(7)),
        ]
        for number, message in enumerate(forged, 1):
            for is_registered in (False, True):
                node = self.arrive(number)
                if is_registered:
                    node.register(port=0)
                node.say(message)
                self.assert_error(node, BadFrame)
                self.assertTrue(node.is_closing)
        self.settle()
        self.assertEqual(other.heard(), [])
        self.assertEqual(self.hosts(), ["192.0.2.9"])

    def test_wrong_time(self) -> None:
        """Asking for the list before registering ends the conversation; so does a stray error."""
        node = self.arrive(1)
        node.say(Resync())
        self.assert_error(node, BadFrame)
        node = self.join(2)
        node.say(Error(7, "no"), 5)
        self.assert_error(node, BadFrame)

    def test_garbage(self) -> None:
        """A body that is no message ends its conversation, registered or not, and no other."""
        other = self.join(1)
        for number, first in ((2, b""), (3, encode(Register(bytes(16), 5000), 1))):
            node = self.arrive(number)
            bad = bytearray(encode(Register(bytes(16), 5000), 2))
            bad[16] = 0xC1
            node.say_bytes(first + bad)
            self.assert_error(node, BadMessage)
            self.assertTrue(node.is_closing)
        self.assertFalse(other.is_closing)

    def test_other_network(self) -> None:
        """A node of another network is refused, and told of nobody."""
        self.join(1)
        node = self.connect(2)
        node.say_bytes(hello(2, network="elsewhere") + encode(Register(bytes(16), 5000), 1))
        self.assert_error(node, Unsupported)
        self.assertEqual(len(self.factory.peers), 1)

    def test_does_not_read(self) -> None:
        """Whoever asks and asks without reading is no longer listened to, and loses its lease."""
        node = self.join(1)
        node.fill()
        pings = encode(Ping()) * 1000
        for _ in range(200):
            node.say_bytes(pings)
        self.assertEqual(node.transport.producerState, "paused")
        self.assertLess(len(node.transport.value()), 2 * MAX_UNREAD_ANSWERS)
        self.clock.advance(30.0)
        self.assertEqual(self.factory.peers, [])


class LimitTests(RegistryTestCase):
    """A registry with little room."""

    limits = Limits(registrations=3, registrations_per_address=2)

    def test_one_source(self) -> None:
        """Any number of registrations from one source: two are listed, others may come later."""
        for number in range(50):
            node = self.arrive(number, address("192.0.2.1", 1024 + number))
            node.say(Register(bytes(16), 5000), 1)
            if number >= 2:
                self.assertEqual(self.assert_error(node, Busy).retry_after, 30.0)
        self.assertEqual(self.hosts(), ["192.0.2.1", "192.0.2.1"])
        self.join(60)
        self.assertEqual(len(self.factory.peers), 3)

    def test_full(self) -> None:
        """A full registry refuses, until somebody goes."""
        nodes = [self.join(number) for number in (1, 2, 3)]
        late = self.arrive(4)
        late.say(Register(bytes(16), 5000), 1)
        self.assert_error(late, Busy)
        nodes[0].say(Leave())
        self.assertIsInstance(late.register()[0], Registered)


class PushTests(RegistryTestCase):
    """How the list's changes reach everybody."""

    def test_gathered(self) -> None:
        """All that happens within a window is one delta, the same for everybody."""
        first = self.join(1)
        others = [self.arrive(number) for number in range(2, 8)]
        for node in others:
            node.register()
            self.clock.advance(0.01)
        self.clock.advance(0.02)
        self.assertEqual(first.heard(), [])
        self.clock.advance(0.02)
        (delta,) = first.heard()
        assert isinstance(delta, Delta)
        self.assertEqual([peer.node for peer in delta.joined], [node.id for node in others])
        for node in others:
            self.assertEqual(node.heard(), [delta])
        self.clock.advance(1.0)
        self.assertEqual(first.heard(), [])

    def test_first_at_once(self) -> None:
        """A change after a quiet time is told at once; those that follow wait for the window."""
        watching = self.join(1)
        self.clock.advance(1.0)
        self.arrive(2).register()
        self.clock.advance(0)
        (delta,) = watching.heard()
        assert isinstance(delta, Delta)
        for number in (3, 4):
            self.arrive(number).register()
            self.clock.advance(0.04)
            self.assertEqual(watching.heard(), [])
        self.clock.advance(0.02)
        (delta,) = watching.heard()
        assert isinstance(delta, Delta)
        self.assertEqual(len(delta.joined), 2)

    def test_sent_at_once(self) -> None:
        """Over bare TCP, a push goes to the socket, and the reactor need not be told of it."""
        node = self.join(1)
        bulk: list[bytes] = []

        @implementer(IBulkTransport)
        class Bulk:
            def write_bulk(self, header: bytes, body: memoryview, done: Callable[[], None]) -> None:
                bulk.append(header + body)
                done()

        (connection,) = self.factory._connections
        self.patch(connection, "_bulk", Bulk())
        self.clock.advance(1.0)
        connection.push(b"the delta")
        self.assertEqual((bulk, node.heard()), ([b"the delta"], []))

    def test_one_write(self) -> None:
        """A push is one write for each connection, of the very same bytes."""
        nodes = [self.join(number) for number in range(1, 4)]
        writes: list[bytes] = []
        for node in nodes:
            self.patch(node.transport, "write", writes.append)
        for number in range(10, 10 + MAX_PEERS + 1):
            self.arrive(number).register()
        self.settle()
        self.assertEqual(len(writes), 3)
        self.assertTrue(all(data is writes[0] for data in writes))

    def test_in_a_loop(self) -> None:
        """
        A node that registers in a loop is told of once in a window; it is soon told to wait, and
        stays what it was then.
        """
        watcher, node = self.join(1, port=0), self.join(2)
        answers = [node.register(port)[0] for port in range(1, 501)]
        allowed = Limits().registrations_per_node_per_minute - 1
        self.assertEqual(answers[:allowed], [Registered(30.0, "192.0.2.2")] * allowed)
        for answer in answers[allowed:]:
            assert isinstance(answer, Error)
            self.assertEqual((answer.code, answer.retry_after), (WIRE_CODES[Busy], 10.0))
        self.settle()
        self.assertEqual(
            watcher.heard(), [Delta(2, (), (), (Peer(node.id, "", "192.0.2.2", allowed),))]
        )
        self.assertFalse(node.is_closing)

    def test_nothing_left_of_it(self) -> None:
        """Who comes and goes within a window is nobody's news, and costs no number."""
        other = self.join(1)
        passing = self.arrive(2)
        passing.register()
        passing.say(Leave())
        self.settle()
        self.assertEqual(other.heard(), [])
        self.assertEqual(self.factory.table.number, 1)

    def test_flood_in_portions(self) -> None:
        """More changes than a push takes are told in the windows after it."""
        watcher = self.join(0, port=0)
        for number in range(1, MAX_CHANGES + 11):
            self.arrive(number).register()
        sizes = []
        for _ in range(3):
            self.settle()
            deltas = [each for each in watcher.heard() if isinstance(each, Delta)]
            sizes.append(sum(len(each.joined) for each in deltas))
        self.assertEqual(sizes, [MAX_CHANGES, 10, 0])

    def test_full_is_passed_over(self) -> None:
        """
        A full transport is given nothing; once it takes bytes again, an empty delta shows the
        gap, and the node is sent the list when it asks.
        """
        slow, quick = self.join(1), self.join(2)
        slow.fill()
        for number in range(3, 60):
            self.join(number)
        self.assertEqual(slow.heard(), [])
        slow.drain()
        self.assertEqual(slow.heard(), [Delta(59)])
        slow.say(Resync())
        (snapshot,) = slow.heard()
        assert isinstance(snapshot, Snapshot)
        self.assertEqual((snapshot.number, len(snapshot.peers)), (59, 59))
        self.join(60)
        quick.say(Leave())
        self.settle()
        self.assertEqual(slow.heard(), [Delta(61, (), (quick.id,))])

    def test_asks_while_full(self) -> None:
        """Who asks for the list while full gets it once it takes bytes again, and nothing else."""
        node = self.join(1)
        self.clock.advance(2.0)
        node.fill()
        self.join(2)
        node.say(Resync())
        self.assertEqual(node.heard(), [])
        node.drain()
        (snapshot,) = node.heard()
        assert isinstance(snapshot, Snapshot)
        self.assertEqual((snapshot.number, len(snapshot.peers)), (2, 2))

    def test_nothing_missed(self) -> None:
        """A transport that was full while nothing happened is told nothing."""
        node = self.join(1)
        node.fill()
        node.drain()
        self.assertEqual(node.heard(), [])

    def test_long_snapshot(self) -> None:
        """
        A list that the transport does not take at once is sent as it does; it is the list as it
        was, and what has happened since is shown by an empty delta after it. Whoever asks for it
        again meanwhile gets no other.
        """
        for number in range(2 * MAX_PEERS + 1):
            self.arrive(number).register()
        self.settle()
        slow = self.arrive(1000)
        slow.fill()
        self.assertEqual(slow.register(0), [Registered(30.0, "192.0.2.0")])
        write, frames = slow.transport.write, []

        def take_one(data: bytes) -> None:
            write(data)
            slow.fill()

        self.patch(slow.transport, "write", take_one)
        slow.say(Resync())
        for _ in range(3):
            slow.drain()
            frames += slow.heard()
            self.clock.advance(1.0)
            slow.say(Resync())
            self.nodes[len(frames)].say(Leave())
            self.settle()
        self.assertTrue(all(isinstance(each, Snapshot) for each in frames))
        snapshots = [each for each in frames if isinstance(each, Snapshot)]
        self.assertEqual([len(each.peers) for each in snapshots], [MAX_PEERS, MAX_PEERS, 1])
        self.assertEqual({each.number for each in snapshots}, {3})
        slow.drain()
        self.assertEqual(slow.heard(), [Delta(6)])
        slow.drain()
        self.assertEqual(slow.heard(), [])

    def test_resync_limited(self) -> None:
        """The list is sent once a second at most; one that is asked for too early comes later."""
        node = self.join(1)
        self.clock.advance(2.0)
        for _ in range(100):
            node.say(Resync())
        self.assertEqual(len(node.heard()), 1)
        self.clock.advance(0.9)
        self.assertEqual(node.heard(), [])
        node.say(Resync())
        self.clock.advance(0.1)
        self.assertEqual(len(node.heard()), 1)
        self.clock.advance(2.0)
        self.assertEqual(node.heard(), [])

    def test_leaves_while_resync_waits(self) -> None:
        """A node that goes while its list waits to be sent leaves nothing behind."""
        node = self.join(1)
        node.say(Resync())
        node.say(Leave())
        self.clock.advance(5.0)
        self.assertEqual(node.heard(), [])


class LogTests(RegistryTestCase):
    """What the log says, in the seed's words."""

    def test_lines(self) -> None:
        """The address, that it waits, who connects, and who registers, once each."""
        self.factory.listening("192.168.250.105", 5000)
        node = self.arrive(1, address("192.168.240.1", 62069))
        node.register()
        node.register(6000)
        self.assertEqual(
            self.lines(),
            [
                "Bootstrap node running at IP: 192.168.250.105, Port: 5000",
                "Waiting for peers to connect...",
                "Peer connected: ('192.168.240.1', 62069)",
                "Registered peer: 192.168.240.1",
            ],
        )

    def test_escaped(self) -> None:
        """What others say cannot forge a line."""
        node = self.arrive(1, UNIXAddress(b"/run/\x1b[31m\nx"))
        node.register(port=0)
        node.say(Error(1, "bye\n\x1b[31mRegistered peer: 6.6.6.6"))
        lines = self.lines() + self.lines("debug")
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.assertTrue(line.isprintable(), line)

    def test_goodbye(self) -> None:
        """Who takes his leave is said to have done so."""
        node = self.arrive(1, address("192.168.240.1", 62069))
        node.register(6000)
        node.say(Leave())
        self.assertEqual(self.lines("debug"), ["Peer 192.168.240.1 is gone: It said goodbye."])

    def test_said_nothing(self) -> None:
        """Somebody who never says hello is no peer."""
        self.lose(self.connect(1))
        self.assertEqual(self.lines(), [])


class StopTests(RegistryTestCase):
    """The end of a registry."""

    def test_stop(self) -> None:
        """All are closed in peace; the end is told when they are gone; nobody else comes in."""
        nodes = [self.join(1), self.arrive(2), self.connect(3)]
        self.arrive(4).register()
        stopped = self.factory.stop()
        for node in self.nodes:
            self.assertTrue(node.is_closing)
        self.assertIsNone(self.factory.buildProtocol(address("192.0.2.5")))
        self.assertNoResult(stopped)
        for node in [*nodes, self.nodes[3]]:
            self.assertNoResult(stopped)
            self.lose(node)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_there(self) -> None:
        """A registry without connections stops at once, however often."""
        for _ in range(2):
            self.successResultOf(self.factory.stop())

    def test_stubborn(self) -> None:
        """A node that does not read its end is cut off."""
        node = self.join(1)
        self.factory.stop()
        self.clock.advance(10.0)
        self.assertTrue(node.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_twice(self) -> None:
        """Both who wait for the end are told of it."""
        node = self.join(1)
        stops: list[Deferred[None]] = [self.factory.stop(), self.factory.stop()]
        self.lose(node)
        for stopped in stops:
            self.successResultOf(stopped)

    def test_port_stops_it(self) -> None:
        """When the last port of a factory stops listening, so does the registry."""
        self.factory.doStart()
        node = self.join(1)
        self.factory.doStop()
        self.assertTrue(node.is_closing)

    def test_starts_again(self) -> None:
        """A registry that listens again goes on, and forgets who did not come back."""
        self.factory.doStart()
        gone, back = self.join(1), self.join(2)
        self.factory.doStop()
        self.lose(gone)
        self.lose(back)
        self.factory.doStart()
        back = self.join(2)
        self.assertEqual(len(self.factory.peers), 2)
        self.clock.advance(5.0)
        self.assertEqual(self.hosts(), ["192.0.2.2"])
        self.settle()
        self.assertEqual(back.heard(), [Delta(3, (), (gone.id,))])
        self.factory.doStop()


class SharedPortTests(RegistryTestCase):
    """The registry at a port that it shares."""

    def test_shared(self) -> None:
        """Behind a shared port the registry is the same; once stopped, it is refused there."""
        port = SharedPortFactory(REGISTRY, self.clock)
        port.conversations["registry"] = self.factory
        node = Node(port, 1, address("192.0.2.1"))
        node.say_hello()
        self.assertIsInstance(node.register()[0], Registered)
        self.assertEqual(self.hosts(), ["192.0.2.1"])
        stopped = self.factory.stop()
        self.lose(node)
        self.successResultOf(stopped)
        late = Node(port, 2, address("192.0.2.2"))
        late.say_bytes(hello(2))
        self.assert_error(late, Unsupported)
        self.lose(late)


class ManyTests(RegistryTestCase):
    """Many at once."""

    def test_no_timer_per_node(self) -> None:
        """What the registry itself waits for does not grow with the nodes."""
        nodes = [self.arrive(number) for number in range(200)]
        for node in nodes:
            node.register()
        # One deadline of silence for each conversation, the window, and the leases.
        self.assertEqual(len(self.clock.getDelayedCalls()), 200 + 2)
        for node in nodes:
            node.hang_up()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.clock.advance(5.0)
        self.assertEqual(self.factory.peers, [])

    def test_protocol_is_exported(self) -> None:
        """What the factory builds is the protocol of this room."""
        self.assertIsInstance(self.connect(1).protocol, RegistryProtocol)
