"""A node's side of the registry: by hand, and on a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.application.service import IService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.errors import (
    WIRE_CODES,
    BadFrame,
    BadMessage,
    Busy,
    Cancelled,
    NotAllowed,
    StateInUse,
    Unsupported,
)
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.registry.client import IPeerListListener, RegistryClient
from flow512.registry.conversation import FIRST_PING, SILENCE
from flow512.registry.server import RegistryFactory
from flow512.testing import Host, Network
from flow512.wire.fields import Message, Peer
from flow512.wire.leading import Leader
from flow512.wire.messages import (
    Delta,
    Entry,
    Error,
    Hello,
    Leave,
    Listing,
    Ping,
    Pong,
    Reached,
    Register,
    Registered,
    Resync,
    Snapshot,
    encode,
)
from tests.unit.cutting import cuttings
from tests.unit.registry_ends import End, hello, leads, node_id

TICKET = b"sixteen bytes it"
REGISTRY_AT = IPv4Address("TCP", "198.51.100.1", 5000)
PATIENCE = Patience(greeting=10.0, silence=60.0, stall=300.0)


def peer(number: int, host: str = "192.0.2.9", port: int = 5000, name: str = "") -> Peer:
    """Make a peer as it is listed."""
    return Peer(node_id(number), name, host, port)


@implementer(IStreamClientEndpoint)
class HandEndpoint:
    """
    An endpoint at which nothing happens but by hand.

    @ivar attempts: those that have neither succeeded nor failed.
    """

    def __init__(self) -> None:
        self.attempts: list[tuple[IProtocolFactory, Deferred[Protocol]]] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Protocol]:
        """Begin an attempt."""
        attempt: Deferred[Protocol] = Deferred()
        self.attempts.append((protocolFactory, attempt))
        return attempt

    def refuse(self) -> None:
        """Let the attempt fail."""
        _, attempt = self.attempts.pop()
        attempt.errback(Failure(ConnectionRefusedError()))

    def accept(self) -> End:
        """Let the attempt succeed; nobody has said anything yet."""
        factory, attempt = self.attempts.pop()
        end = End(factory, 0, REGISTRY_AT)
        attempt.callback(end.protocol)
        return end


@implementer(IPeerListListener)
class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[list[Peer], list[Peer], list[Peer]]] = []

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        """Take note."""
        self.told.append((list(joined), list(left), list(changed)))


class ClientTestCase(SynchronousTestCase):
    """A client whose registry is the test."""

    limits: Limits | None = None

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = HandEndpoint()
        self.listener = Listener()
        self.client = self.make()
        self.ends: list[End] = []
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def tearDown(self) -> None:
        """Whatever happened: once it is stopped, nothing is left to be done."""
        stopped = self.client.stopService()
        for end in self.ends:
            end.close()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make(self, **options: Any) -> RegistryClient:
        """Make the client."""
        return RegistryClient(
            self.clock,
            self.endpoint,
            Introduction(node_id(1), "Ada"),
            port=5000,
            ticket=TICKET,
            random=Random(1),
            listener=self.listener,
            patience=PATIENCE,
            limits=self.limits,
            **options,
        )

    def accept(self) -> End:
        """Let the client connect."""
        end = self.endpoint.accept()
        self.ends.append(end)
        return end

    def open(self) -> End:
        """Let it connect, and say hello to it."""
        if not self.client.running:
            self.client.startService()
        end = self.accept()
        (said,) = end.heard()
        self.assertIsInstance(said, Hello)
        end.say_bytes(hello(0))
        return end

    def registered(self, lease: float = 30.0) -> End:
        """Let it register as well."""
        end = self.open()
        self.assertEqual(end.heard(), [Register(TICKET, 5000, "Ada")])
        end.say(Registered(lease, "203.0.113.5"), end.requests[0])
        end.say(leads())
        return end

    def listed(self, number: int = 10, peers: Sequence[Peer] = (), lease: float = 30.0) -> End:
        """Let it have its list as well."""
        end = self.registered(lease)
        end.say(Snapshot(number, tuple(peers)))
        return end

    def lose(self, end: End) -> None:
        """Let a connection break."""
        self.ends.remove(end)
        end.hang_up()

    def wait_for_attempt(self) -> float:
        """Let time pass until the client connects again; tell how long that was."""
        before = self.clock.seconds()
        while not self.endpoint.attempts:
            self.clock.advance(0.1)
            self.assertLess(self.clock.seconds(), before + 10000.0)
        return self.clock.seconds() - before

    def warnings(self) -> list[str]:
        """Read what the client has warned of."""
        return [
            formatEvent(event)
            for event in self.events
            if event["log_level"].name == "warn" and event["log_namespace"].startswith("flow512")
        ]

    def assert_ended(self, end: End, kind: type[Exception]) -> None:
        """The client has told of that error and closed."""
        told = end.heard()[-1]
        assert isinstance(told, Error), told
        self.assertEqual(told.code, {k.__name__: c for k, c in WIRE_CODES.items()}[kind.__name__])
        self.assertTrue(end.is_closing)


class RegisteringTests(ClientTestCase):
    """How it registers, and stays registered."""

    def test_interfaces(self) -> None:
        """It is a service; its seams are interfaces."""
        verifyObject(IService, self.client)
        verifyObject(IPeerListListener, self.listener)
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def test_conversation(self) -> None:
        """It says hello as a registry's, and registers its port, its name and its ticket."""
        self.client.startService()
        end = self.accept()
        (said,) = end.heard()
        assert isinstance(said, Hello)
        self.assertEqual((said.conversation, said.node), ("registry", node_id(1)))
        end.say_bytes(hello(0))
        self.assertEqual(end.heard(), [Register(TICKET, 5000, "Ada")])
        self.assertFalse(self.client.is_listed)
        end.say(Registered(30.0, "203.0.113.5"), end.requests[0])
        self.assertEqual(self.client.seen_host, "203.0.113.5")
        end.say(leads())
        self.assertFalse(self.client.is_listed)
        end.say(Snapshot(0, ()))
        self.assertTrue(self.client.is_listed)

    def test_pings(self) -> None:
        """
        It pings soon, and then as the registry wants, but three times in a lease at least, and not
        more often than once a second.
        """
        end = self.listed()
        wait = FIRST_PING
        for told, then in ((4.0, 4.0), (60.0, 10.0), (0.0, 10.0), (0.1, 1.0), (2.0, 2.0)):
            self.clock.advance(wait - 0.1)
            self.assertEqual(end.heard(), [])
            self.clock.advance(0.1)
            self.assertEqual(end.heard(), [Ping()])
            end.say(Pong(10, told))
            wait = then

    def test_silence(self) -> None:
        """
        A registry that says nothing for three seconds after a ping is given up; anything that it
        says is a sign of life.
        """
        end = self.listed()
        for _ in range(5):
            self.clock.advance(FIRST_PING)
            self.clock.advance(SILENCE - FIRST_PING - 0.1)
            end.say(Delta(10))
            self.assertTrue(self.client.is_listed)
        self.clock.advance(FIRST_PING)
        self.assertTrue(self.client.is_listed)
        self.clock.advance(SILENCE)
        self.assertFalse(self.client.is_listed)
        self.assertTrue(end.is_closing)

    def test_silence_of_many(self) -> None:
        """A registry that wants few pings may be silent for as long as from one to the next."""
        end = self.listed()
        end.say(Pong(10, 8.0))
        self.clock.advance(FIRST_PING)
        end.say(Pong(10, 8.0))
        self.clock.advance(8.0)
        self.clock.advance(7.9)
        self.assertTrue(self.client.is_listed)
        self.clock.advance(0.2)
        self.assertFalse(self.client.is_listed)

    def test_term(self) -> None:
        """It says which term it knows, and whether it may lead; who only watches never does."""
        self.client = self.make(term=lambda: 7, can_lead=True)
        end = self.open()
        self.assertEqual(end.heard(), [Register(TICKET, 5000, "Ada", 7, True)])
        end.say(Registered(30.0, "203.0.113.5"), end.requests[0])
        self.client.set_port(0)
        self.assertEqual(end.heard(), [Register(TICKET, 0, "Ada", 7, False)])

    def test_leader(self) -> None:
        """It knows what its registry claims, and where that sends it until it claims to lead."""
        end = self.listed()
        assert self.client.claim is not None
        self.assertEqual((self.client.claim.node, self.client.claim.since), (node_id(0), 1000))
        end.say(Leader(node_id(5), 9, host="127.0.0.1", port=5001))
        assert self.client.elsewhere is not None
        # Loopback is the registry's own machine.
        self.assertEqual(self.client.elsewhere.address, ("198.51.100.1", 5001))
        for nowhere in ("224.0.0.1", "a name", "0.0.0.0"):  # told, not bound
            end.say(Leader(node_id(5), 9, host=nowhere, port=5001))
            self.assertIsNone(self.client.elsewhere, nowhere)
        end.say(Leader(node_id(5), 9, port=5001))
        self.assertIsNotNone(self.client.elsewhere)
        end.say(leads(10))
        self.assertIsNone(self.client.elsewhere)
        self.assertEqual(self.client.claim.term, 10)

    def test_leader_of_another_name(self) -> None:
        """A registry that claims to be another node than it has proven to be is left."""
        end = self.registered()
        end.say(leads(number=5))
        self.assert_ended(end, BadMessage)

    def test_list_without_leader(self) -> None:
        """A registry that sends a list and has not said by what right is left."""
        end = self.open()
        end.heard()
        end.say(Registered(30.0, "203.0.113.5"), 1)
        end.say(Snapshot(0, ()))
        self.assert_ended(end, BadFrame)

    def test_tells(self) -> None:
        """What it is to tell of another registry is told, if there is one to tell it to."""
        leader = Leader(node_id(5), 9, 1, False, "192.0.2.7", 5000)
        self.client.tell(leader)
        end = self.open()
        end.heard()
        self.client.tell(leader)
        self.assertEqual(end.leaders, [])
        end.say(Registered(30.0, "203.0.113.5"), 1)
        self.client.tell(leader)
        end.heard()
        self.assertEqual(end.leaders, [leader])

    def test_shuns(self) -> None:
        """A registry that it is not to have is left before it is told anything."""
        self.client = self.make(shuns=node_id(0))
        end = self.open()
        self.assert_ended(end, NotAllowed)

    def test_tiny_lease(self) -> None:
        """A lease of nothing does not make it ping without end."""
        end = self.listed(lease=0.0)
        for _ in range(100):
            self.clock.advance(0.1)
        self.assertLessEqual(len(end.heard()), 10)

    def test_new_port(self) -> None:
        """With another port it registers anew on the same connection; with the same it does not."""
        end = self.listed()
        self.client.set_port(6000)
        self.client.set_port(6000)
        self.assertEqual(end.heard(), [Register(TICKET, 6000, "Ada")])
        end.say(Registered(30.0, "203.0.113.6"), end.requests[0])
        self.assertEqual(self.client.seen_host, "203.0.113.6")
        self.assertTrue(self.client.is_listed)

    def test_new_port_offline(self) -> None:
        """A port that changes without a connection is registered with the next one."""
        self.client.set_port(0)
        end = self.open()
        self.assertEqual(end.heard(), [Register(TICKET, 0, "Ada")])

    def test_new_port_early(self) -> None:
        """A port that changes before the registry's hello is the one that is registered."""
        self.client.startService()
        end = self.accept()
        self.assertEqual(len(end.heard()), 1)
        self.client.set_port(6000)
        self.assertEqual(end.heard(), [])
        end.say_bytes(hello(0))
        self.assertEqual(end.heard(), [Register(TICKET, 6000, "Ada")])

    def test_stop(self) -> None:
        """It gives its lease back, closes, and has stopped when the connection is gone."""
        end = self.listed()
        stopped = self.client.stopService()
        self.assertEqual(end.heard(), [Leave()])
        self.assertTrue(end.is_closing)
        self.assertNoResult(stopped)
        self.lose(end)
        self.successResultOf(stopped)
        self.clock.advance(100.0)
        self.assertEqual(self.endpoint.attempts, [])
        self.assertEqual(self.warnings(), [])

    def test_stop_early(self) -> None:
        """It stops as well before hello, while connecting, while waiting, and unstarted."""
        self.client.startService()
        end = self.accept()
        stopped = self.client.stopService()
        self.assertEqual([type(message) for message in end.heard()], [Hello])
        self.lose(end)
        self.successResultOf(stopped)
        self.client.startService()
        _, attempt = self.endpoint.attempts[0]
        stopped = self.client.stopService()
        self.assertTrue(attempt.called)
        self.successResultOf(stopped)
        self.endpoint.attempts.clear()
        self.client.startService()
        self.endpoint.refuse()
        self.successResultOf(self.client.stopService())
        self.successResultOf(self.make().stopService())

    def test_start_again(self) -> None:
        """After a stop it can be started again, and registers again."""
        end = self.listed()
        self.client.stopService()
        self.lose(end)
        self.listed(3)
        self.assertTrue(self.client.is_listed)


class ReconnectTests(ClientTestCase):
    """Whatever ends the conversation, it tries again: later each time, and not all at once."""

    def test_registers_again(self) -> None:
        """After a lost connection it connects within the grace, and registers with its ticket."""
        end = self.listed()
        self.lose(end)
        self.assertFalse(self.client.is_listed)
        self.assertLess(self.wait_for_attempt(), 5.0)
        self.listed()
        self.assertTrue(self.client.is_listed)

    def test_backs_off(self) -> None:
        """Without success the waits grow to a minute, no further, and go on for ever."""
        self.client.startService()
        waits = []
        for _ in range(40):
            self.endpoint.refuse()
            waits.append(self.wait_for_attempt())
        self.assertLess(waits[0], 5.0)
        self.assertGreater(min(waits[-10:]), 50.0)
        self.assertLess(max(waits), 60.2)

    def test_jitter(self) -> None:
        """Nodes that lose their registry together do not come back together."""
        waits = set()
        for seed in range(20):
            clock, endpoint = Clock(), HandEndpoint()
            client = RegistryClient(
                clock,
                endpoint,
                Introduction(node_id(1)),
                port=0,
                ticket=TICKET,
                random=Random(seed),
            )
            client.startService()
            endpoint.refuse()
            (call,) = clock.getDelayedCalls()
            waits.add(call.getTime())
            client.stopService()
        self.assertEqual(len(waits), 20)
        self.assertGreater(max(waits) - min(waits), 1.0)

    def test_accepted_and_dropped(self) -> None:
        """A registry that accepts and drops at once is visited ever less often, too."""
        waits = []
        for _ in range(20):
            end = self.listed()
            self.lose(end)
            waits.append(self.wait_for_attempt())
        self.assertGreater(waits[-1], 50.0)

    def test_state(self) -> None:
        """Who asks for it is told when the node gets on the list and off it, but not of a stop."""
        states: list[tuple[bool, int]] = []
        self.client = client = RegistryClient(
            self.clock,
            self.endpoint,
            Introduction(node_id(1), "Ada"),
            port=5000,
            ticket=TICKET,
            random=Random(1),
            state_changed=lambda: states.append((client.is_listed, client.failures)),
        )
        client.startService()
        self.endpoint.refuse()
        self.assertEqual(states, [(False, 1)])
        self.wait_for_attempt()
        end = self.listed()
        self.assertEqual(states[1:], [(False, 1), (True, 1)])
        self.lose(end)
        self.assertEqual(states[3:], [(False, 1), (False, 2)])
        self.wait_for_attempt()
        end = self.listed()
        end.say(Pong(10))
        states.clear()
        client.stopService()
        self.assertEqual(states, [])

    def test_proof(self) -> None:
        """Only a conversation that lasts, by a pong while listed, makes the wait short again."""
        self.client.startService()
        for _ in range(20):
            self.endpoint.refuse()
            self.wait_for_attempt()
        end = self.registered()
        end.say(Pong(10))
        self.lose(end)
        self.assertGreater(self.wait_for_attempt(), 50.0)
        end = self.listed()
        end.say(Pong(10))
        self.lose(end)
        self.assertLess(self.wait_for_attempt(), 5.0)

    def test_retry_after(self) -> None:
        """A registry that says when to come back is taken at its word, up to an hour."""
        for told, least, most in ((90.0, 90.0, 113.0), (86400.0, 3600.0, 4501.0)):
            end = self.open()
            end.heard()
            end.say(Error(WIRE_CODES[Busy], "The registry is full.", told), end.requests[0])
            self.assertTrue(end.is_closing)
            self.lose(end)
            waited = self.wait_for_attempt()
            self.assertGreaterEqual(waited, least)
            self.assertLess(waited, most)
        self.assertIn("Not registered: The registry is full. Trying again.", self.warnings())

    def test_busy_at_hello(self) -> None:
        """So is one that says it instead of hello."""
        self.client.startService()
        end = self.accept()
        end.say(Error(WIRE_CODES[Busy], "Not now.", 200.0))
        self.lose(end)
        self.assertGreaterEqual(self.wait_for_attempt(), 200.0)

    def test_no_registry_there(self) -> None:
        """One clear line says that somebody else answers there, however often that is tried."""
        self.client.startService()
        for _ in range(5):
            end = self.accept()
            end.say(Error(WIRE_CODES[Unsupported], "That is not offered here: transfer is."))
            self.assertTrue(end.is_closing)
            self.lose(end)
            self.wait_for_attempt()
        self.assertEqual(
            self.warnings(),
            ["Not registered: That is not offered here: transfer is. Trying again."],
        )

    def test_wrong_conversation(self) -> None:
        """An answer about another conversation is not believed."""
        self.client.startService()
        end = self.accept()
        end.say_bytes(hello(0, conversation="transfer"))
        self.assertTrue(end.is_closing)
        self.assertEqual(len(self.warnings()), 1)

    def test_escaped(self) -> None:
        """What a registry says cannot forge a line of the log."""
        end = self.open()
        end.say(Error(WIRE_CODES[NotAllowed], "no\n\x1b[31m\u202e"), 1)
        self.assertEqual(len(self.warnings()), 1)
        self.assertTrue(self.warnings()[0].isprintable())

    def test_taken_over(self) -> None:
        """A node whose registration is taken over by its twin says so, and slows down."""
        waits = []
        for _ in range(15):
            end = self.listed()
            end.say(Error(WIRE_CODES[StateInUse], "The node registered elsewhere."))
            self.lose(end)
            waits.append(self.wait_for_attempt())
        self.assertGreater(waits[-1], 30.0)
        self.assertEqual(len(self.warnings()), 1)

    def test_no_answer(self) -> None:
        """A registry that says hello and then nothing is given up."""
        end = self.open()
        self.clock.advance(10.0)
        self.assertTrue(end.is_closing)

    def test_silent_later(self) -> None:
        """A registry that falls silent is given up, though pings are sent all the time."""
        end = self.listed()
        for _ in range(40):
            self.clock.advance(5.0)
        self.assertTrue(end.is_closing)


class ListTests(ClientTestCase):
    """The list, as the node has it."""

    def test_listener(self) -> None:
        """The listener is told of each difference, once, and of nothing else."""
        end = self.listed(10, [peer(1), peer(2)])
        end.say(Delta(11, (peer(3),), (node_id(2),), (peer(1, port=6000),)))
        end.say(Delta(11))
        self.assertEqual(
            self.listener.told,
            [
                ([peer(1), peer(2)], [], []),
                ([peer(3)], [peer(2)], [peer(1, port=6000)]),
            ],
        )
        self.assertEqual(self.client.peers, {node_id(1): peer(1, port=6000), node_id(3): peer(3)})

    def test_without_listener(self) -> None:
        """It works without a listener."""
        client = RegistryClient(
            self.clock,
            self.endpoint,
            Introduction(node_id(1)),
            port=0,
            ticket=TICKET,
            random=Random(1),
        )
        self.client = client
        client.startService()
        end = self.accept()
        end.say_hello()
        end.say(Registered(30.0, "203.0.113.5"), 1)
        end.say(leads())
        end.say(Snapshot(1, (peer(2),)))
        self.assertEqual(list(client.peers), [node_id(2)])

    def test_stale(self) -> None:
        """The list is kept without a connection; the next snapshot's difference is told."""
        end = self.listed(10, [peer(2), peer(3)])
        self.lose(end)
        self.assertEqual(len(self.client.peers), 2)
        self.wait_for_attempt()
        self.listed(0, [peer(3), peer(4)])
        self.assertEqual(self.listener.told[1:], [([peer(4)], [peer(2)], [])])

    def test_same_again(self) -> None:
        """A reconnection that finds the same list tells nobody."""
        end = self.listed(10, [peer(2)])
        self.lose(end)
        self.wait_for_attempt()
        self.listed(77, [peer(2)])
        self.assertEqual(len(self.listener.told), 1)

    def test_read_only(self) -> None:
        """Nobody changes the list by accident."""
        self.listed(10, [peer(2)])
        with self.assertRaises(TypeError):
            self.client.peers[node_id(2)] = peer(3)  # type: ignore[index]  # that is the test

    def test_any_cuts(self) -> None:
        """However the registry's bytes are cut, the list is the same."""
        talk = hello(0) + encode(Registered(30.0, "203.0.113.5"), 1) + encode(leads())
        talk += encode(Snapshot(3, (peer(1), peer(2)), True)) + encode(Snapshot(3, (peer(3),)))
        talk += encode(Delta(4, (peer(4),), (node_id(2),))) + encode(Pong(4), 1)
        for chunks in cuttings(talk):
            self.client.startService()
            end = self.accept()
            for chunk in chunks:
                end.say_bytes(chunk)
            self.assertEqual(set(self.client.peers), {node_id(n) for n in (1, 3, 4)})
            self.assertFalse(end.is_closing)
            stopped = self.client.stopService()
            self.lose(end)
            self.successResultOf(stopped)

    def test_when_listed(self) -> None:
        """Who waits for the list is told when it is whole, after the listener; later at once."""
        waiting = self.client.when_listed()
        end = self.registered()
        end.say(Snapshot(1, (peer(2),), True))
        self.assertNoResult(waiting)
        waiting.addCallback(lambda _: len(self.listener.told))
        end.say(Snapshot(1, ()))
        self.assertEqual(self.successResultOf(waiting), 1)
        self.successResultOf(self.client.when_listed())

    def test_when_listed_ends(self) -> None:
        """Waiting can be cancelled, and fails when the service stops."""
        impatient, patient = self.client.when_listed(), self.client.when_listed()
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        self.client.startService()
        self.endpoint.refuse()
        self.client.stopService()
        self.failureResultOf(patient, Cancelled)

    def test_gap(self) -> None:
        """A missed number is asked for once; deltas are ignored until the snapshot."""
        end = self.listed(10, [peer(2)])
        end.say(Delta(12, (peer(4),)))
        end.say(Delta(13, (peer(5),)))
        end.say(Pong(13))
        self.assertEqual(end.heard(), [Resync()])
        self.assertEqual(list(self.client.peers), [node_id(2)])
        end.say(Snapshot(13, (peer(2), peer(4), peer(5))))
        end.say(Delta(14, (peer(6),)))
        self.assertEqual(len(self.client.peers), 4)

    def test_pong_shows_gap(self) -> None:
        """A pong with a later number shows that something was missed."""
        end = self.listed(10)
        end.say(Pong(10))
        self.assertEqual(end.heard(), [])
        end.say(Pong(11))
        self.assertEqual(end.heard(), [Resync()])

    def test_early_pong(self) -> None:
        """A pong before the registration says nothing of the list."""
        end = self.open()
        end.heard()
        end.say(Pong(3))
        self.assertEqual(end.heard(), [])

    def test_back_in_time(self) -> None:
        """A registry that goes back in time is told so and left, and asked again later."""
        for message in (Delta(9), Pong(9), Snapshot(9, ())):
            end = self.listed(10, [peer(2)])
            end.say(message)
            self.assert_ended(end, BadMessage)
            self.assertEqual(list(self.client.peers), [node_id(2)])
            self.lose(end)
            self.wait_for_attempt()


class ReachableTests(ClientTestCase):
    """What it makes of being reached, or not."""

    NO = Reached(5000, False, "Nobody answers.", 30.0)
    WARNING = (
        "Others cannot reach this node, so it is not listed, and only fetches: Nobody answers."
        " Open TCP port 5000 in the firewall or router, or choose a port that others reach with"
        " --listen."
    )

    def infos(self) -> list[str]:
        """Read what the client has said."""
        return [
            formatEvent(event)
            for event in self.events
            if event["log_level"].name == "info" and event["log_namespace"].startswith("flow512")
        ]

    def test_reached(self) -> None:
        """It knows that it is reached, and has nothing to say about that."""
        end = self.listed()
        self.assertIsNone(self.client.is_reachable)
        end.say(Reached(5000, True))
        self.assertIs(self.client.is_reachable, True)
        self.assertEqual(self.warnings() + self.infos(), [])

    def test_early(self) -> None:
        """It may be told between its registration and the list, even within the list."""
        end = self.registered()
        end.say(Snapshot(1, (peer(2),), True))
        end.say(self.NO)
        end.say(Snapshot(1, (peer(3),)))
        self.assertIs(self.client.is_reachable, False)
        self.assertEqual(len(self.client.peers), 2)

    def test_not_reached(self) -> None:
        """It warns its user once, however often it is told, and says when that is over."""
        end = self.listed()
        for _ in range(3):
            end.say(self.NO)
        self.assertIs(self.client.is_reachable, False)
        self.assertTrue(self.client.is_listed)
        self.lose(end)
        self.wait_for_attempt()
        end = self.listed()
        end.say(self.NO)
        self.assertEqual(len([each for each in self.warnings() if "reach" in each]), 1)
        self.assertIn(self.WARNING, self.warnings())
        self.assertEqual(self.infos(), [])
        end.say(Reached(5000, True))
        end.say(Reached(5000, True))
        self.assertIs(self.client.is_reachable, True)
        self.assertEqual(self.infos(), ["Others can reach this node now, and it is listed."])
        end.say(self.NO)
        self.assertEqual(self.warnings()[-1], self.WARNING)

    def test_flood(self) -> None:
        """A registry that says something else each time does not fill the node's log."""
        end = self.listed()
        for number in range(1000):
            end.say(Reached(5000, False, f"Nobody answers, {number}."))
            end.say(Reached(5000, True))
        self.assertLess(len(self.warnings() + self.infos()), 50)
        self.assertIs(self.client.is_reachable, True)

    def test_old_news(self) -> None:
        """About a port that it has left it is told nothing new."""
        end = self.listed()
        end.say(self.NO)
        self.client.set_port(6000)
        self.assertIsNone(self.client.is_reachable)
        end.say(self.NO)
        self.assertIsNone(self.client.is_reachable)
        end.say(Reached(6000, True))
        self.assertIs(self.client.is_reachable, True)
        self.client.set_port(0)
        end.say(Reached(6000, False, "No."))
        self.assertIsNone(self.client.is_reachable)

    def test_state(self) -> None:
        """Who asks for it is told of the change."""
        states: list[bool | None] = []
        self.client = client = self.make(state_changed=lambda: states.append(client.is_reachable))
        end = self.listed()
        end.say(self.NO)
        end.say(Reached(5000, True))
        self.assertEqual(states[-2:], [False, True])

    def test_unregistered(self) -> None:
        """A registry that reached somebody who has not registered contradicts itself."""
        end = self.open()
        end.heard()
        end.say(Reached(5000, True))
        self.assert_ended(end, BadFrame)
        self.assertIsNone(self.client.is_reachable)

    def test_escaped(self) -> None:
        """What the registry says cannot forge a line, nor be endless."""
        end = self.listed()
        end.say(Reached(5000, False, "\x1b[31m\nAll is well." * 30))
        (line,) = self.warnings()
        self.assertTrue(line.isprintable())
        self.assertLess(len(line), 1000)


class ExpectedTests(ClientTestCase):
    """The registry that it wants is a node like others, known by its id."""

    def make(self, **options: Any) -> RegistryClient:
        return super().make(expected=node_id(0))

    def test_the_one(self) -> None:
        """The node that it expects is told what it has to tell."""
        self.listed()
        self.assertTrue(self.client.is_listed)

    def test_another(self) -> None:
        """Another node is told nothing, and asked again later whether it is the one."""
        self.client.startService()
        end = self.accept()
        end.heard()
        end.say_bytes(hello(5))
        said = end.heard()
        self.assertEqual([type(each) for each in said], [Error])
        self.assertTrue(end.is_closing)
        self.lose(end)
        self.wait_for_attempt()
        self.listed()


class HostileRegistryTests(ClientTestCase):
    """What a registry cannot do to a node."""

    limits = Limits(dials_per_address=3)

    def make(self, **options: Any) -> RegistryClient:
        return super().make(most_peers=500)

    def test_early_push(self) -> None:
        """A list that comes before the registration was accepted is refused."""
        for message in (Snapshot(1, (peer(2),)), Delta(1, (peer(2),))):
            end = self.open()
            end.say(message)
            self.assert_ended(end, BadFrame)
            self.assertEqual(self.client.peers, {})
            self.lose(end)
            self.wait_for_attempt()

    def test_other_messages(self) -> None:
        """What belongs to another conversation, or to a registry, may not come."""
        strange: list[Message] = [
            Listing((Entry("a", 1, 1),)),
            Register(TICKET, 1),
            Leave(),
            Resync(),
            Hello(1, 1, "registry", node_id(0)),
        ]
        for message in strange:
            end = self.listed()
            end.say(message)
            self.assert_ended(end, BadFrame)
            self.lose(end)
            self.wait_for_attempt()

    def test_unasked_answers(self) -> None:
        """An answer to what was not asked is a violation; so is a second one."""
        for message in (Registered(30.0, "203.0.113.5"), Error(7, "no")):
            for request in (1, 99):
                end = self.listed()
                end.say(message, request)
                self.assert_ended(end, BadMessage)
                self.lose(end)
                self.wait_for_attempt()

    def test_victim(self) -> None:
        """A registry that lists a victim ten thousand times does not make it dialled as often."""
        victims = [peer(number, "203.0.113.80", 1 + number) for number in range(2, 400)]
        end = self.listed(1, [])
        for place in range(0, len(victims), 100):
            end.say(Delta(2 + place // 100, tuple(victims[place : place + 100])))
        self.assertEqual(len(self.client.other_peers), 398)
        self.assertEqual(len(self.client.peers_to_dial()), 3)

    def test_victim_by_other_names(self) -> None:
        """One machine is one machine, however its address is written; so is a subnet."""
        spellings = [
            "203.0.113.80",
            "::ffff:203.0.113.80",
            "::ffff:cb00:7150",
            "::FFFF:203.0.113.80",
        ]
        self.listed(
            1, [peer(number, spellings[number % 4], 1 + number) for number in range(2, 100)]
        )
        self.assertEqual(len(self.client.peers_to_dial()), 3)

    def test_subnet(self) -> None:
        """A registry cannot have a whole subnet dialled, nor the whole world."""
        table = [
            peer(number, f"203.0.{113 + number % 2}.{number % 250}") for number in range(2, 100)
        ]
        for limits, expected in (
            (Limits(dials_per_address=3, dials_per_subnet=10), 20),
            (Limits(dials_per_address=3, dials_per_subnet=10, dials=15), 15),
        ):
            self.limits = limits
            self.client = self.make()
            self.listed(1, table)
            self.assertEqual(len(self.client.peers_to_dial()), expected)
            self.client.stopService()
            self.lose(self.ends[-1])

    def test_too_many(self) -> None:
        """A list without end ends its conversation, before it fills the memory."""
        end = self.registered()
        for first in range(0, 1000, 100):
            if not end.is_closing:
                peers = tuple(peer(number) for number in range(first, first + 100))
                end.say(Snapshot(1, peers, True))
        self.assert_ended(end, BadMessage)
        self.assertEqual(self.client.peers, {})

    def test_dialled(self) -> None:
        """Only others are dialled, at addresses of one machine."""
        self.listed(
            1,
            [
                peer(1),
                peer(2, "192.0.2.2"),
                peer(3, "127.0.0.1"),
                peer(4, "intranet.example"),
                peer(5, "224.0.0.251"),
                peer(6, "0.0.0.0"),
                peer(7, "2001:db8::7"),
                peer(8, "::ffff:0.0.0.0"),
                peer(9, "::ffff:224.0.0.1"),
            ],
        )
        self.assertEqual(
            [each.host for each in self.client.peers_to_dial()],
            ["192.0.2.2", REGISTRY_AT.host, "2001:db8::7"],
        )


class NetworkTestCase(SynchronousTestCase):
    """A registry and nodes, each on a host of its own."""

    def setUp(self) -> None:
        self.begin(512)

    def tearDown(self) -> None:
        self.finish()

    def begin(self, seed: int) -> None:
        """Start a network that has a registry and nothing else."""
        self.network = Network(seed=seed)
        self.host = self.network.host("10.0.0.1", name="registry")
        self.clients: list[RegistryClient] = []
        self.hosts: list[Host] = []
        self.listen()

    def finish(self) -> None:
        """Stop everybody; nothing is left."""
        for client in self.clients:
            if client.running:
                self.network.result(client.stopService())
        self.stop_registry()
        self.network.close()

    def listen(self) -> None:
        """Start the registry."""
        self.registry = RegistryFactory(
            Introduction(node_id(0), "registry"),
            self.host.reactor,
            patience=PATIENCE,
            limits=Limits(registrations_per_node_per_minute=1000),
        )
        listening = serverFromString(self.host.reactor, "tcp:5000").listen(self.registry)
        self.port: IListeningPort = self.network.result(listening)

    def stop_registry(self) -> None:
        """Stop the registry."""
        stopped = self.registry.stop()
        self.network.result(Deferred.fromCoroutine(self.close_port()))
        self.network.result(stopped)

    async def close_port(self) -> None:
        """Stop listening."""
        closing = self.port.stopListening()
        if closing is not None:
            await closing

    def add(self, count: int, listener: IPeerListListener | None = None) -> list[RegistryClient]:
        """Start nodes, each on a new host."""
        for number in range(len(self.clients) + 1, len(self.clients) + 1 + count):
            host = self.network.host(f"10.0.1.{number}")
            client = RegistryClient(
                host.reactor,
                clientFromString(host.reactor, "tcp:registry:5000"),
                Introduction(node_id(number), f"node {number}"),
                port=5000 + number,
                ticket=number.to_bytes(16, "big"),
                random=Random(number),
                listener=listener,
                patience=PATIENCE,
            )
            self.hosts.append(host)
            self.clients.append(client)
            client.startService()
        return self.clients[-count:]

    def all_know(self, *numbers: int) -> bool:
        """Tell whether all that run have the list of exactly these nodes."""
        return all(
            client.is_listed and set(client.peers) == set(map(node_id, numbers))
            for client in self.clients
            if client.running
        )


class NetworkTests(NetworkTestCase):
    """Many nodes and their registry, in fair weather and foul."""

    def test_join_and_leave(self) -> None:
        """Of fifty nodes each knows all, by address; when half go, the others know in a second."""
        self.add(50)
        self.network.run_until(lambda: self.all_know(*range(1, 51)), 5.0)
        for number, listed in enumerate(self.clients[0].peers.values(), 1):
            self.assertEqual(
                self.clients[-1].peers[node_id(number)],
                peer(number, f"10.0.1.{number}", 5000 + number, f"node {number}"),
            )
            self.assertIn(listed, self.registry.peers)
        for client in self.clients[:25]:
            client.stopService()
        self.network.run_until(lambda: self.all_know(*range(26, 51)), 1.0)

    def test_registry_restarts(self) -> None:
        """All register again with a registry that restarts empty, and go on with the old list."""
        listener = Listener()
        self.add(1, listener)
        self.add(9)
        self.network.run_until(lambda: self.all_know(*range(1, 11)), 5.0)
        self.network.run(20.0)
        self.stop_registry()
        self.network.run(2.0)
        for client in self.clients:
            self.assertEqual(len(client.peers), 10)
        self.listen()
        self.network.run_until(lambda: self.all_know(*range(1, 11)), 30.0)

    def test_crash(self) -> None:
        """A node that vanishes is off everybody's list when its lease is over."""
        self.add(5)
        self.network.run_until(lambda: self.all_know(*range(1, 6)), 5.0)
        self.clients.pop()
        self.hosts[-1].crash()
        self.network.run(15.0)
        self.assertTrue(self.all_know(*range(1, 6)))
        self.network.run_until(lambda: self.all_know(*range(1, 5)), 20.0)

    def test_cut_and_healed(self) -> None:
        """A node that is cut off for a while finds everybody's changes when it is back."""
        self.add(5)
        self.network.run_until(lambda: self.all_know(*range(1, 6)), 5.0)
        self.network.cut(self.host, self.hosts[0])
        self.network.run(200.0)
        self.assertFalse(self.clients[0].is_listed)
        self.assertEqual(len(self.registry.peers), 4)
        self.assertEqual(len(self.clients[0].peers), 5)
        self.network.result(self.clients[1].stopService())
        self.add(1)
        self.network.heal()
        self.network.run_until(lambda: self.all_know(1, 3, 4, 5, 6), 150.0)

    def test_short_cut(self) -> None:
        """An interruption that TCP bridges is nobody's news."""
        listener = Listener()
        self.add(1, listener)
        self.add(2)
        self.network.run_until(lambda: self.all_know(1, 2, 3), 5.0)
        told = len(listener.told)
        self.network.cut(self.host, self.hosts[1])
        self.network.run(8.0)
        self.network.heal()
        self.network.run(60.0)
        self.assertTrue(self.all_know(1, 2, 3))
        self.assertEqual(len(listener.told), told)

    def test_same_host(self) -> None:
        """A node that runs beside the registry is found by the others, and by its neighbours."""
        neighbour = RegistryClient(
            self.host.reactor,
            clientFromString(self.host.reactor, "tcp:127.0.0.1:5000"),
            Introduction(node_id(99)),
            port=5099,
            ticket=TICKET,
            random=Random(1),
            patience=PATIENCE,
        )
        self.clients.append(neighbour)
        neighbour.startService()
        self.network.run(1.0)
        (far,) = self.add(1)
        self.network.run_until(lambda: far.is_listed and node_id(99) in far.peers, 5.0)
        self.assertEqual(far.peers[node_id(99)].host, "10.0.0.1")
        self.assertEqual(neighbour.peers[node_id(99)].host, "127.0.0.1")

    def test_slow(self) -> None:
        """
        A node that takes next to nothing misses pushes, and nobody waits for it; once it can take
        them it has the whole list, at less than what the pushes would have cost.
        """
        self.network.capacity = 4096
        slow = self.add(1)[0]
        others = self.add(30)
        self.network.run_until(lambda: self.all_know(*range(1, 32)), 5.0)
        self.hosts[0].bandwidth = 1000.0
        for port in range(10000, 10150):
            for client in others:
                client.set_port(port)
            self.network.run(0.1)
        ports = {each.port for each in others[0].peers.values() if each.node != node_id(1)}
        self.assertGreater(min(ports), 10140)
        self.hosts[0].bandwidth = None
        self.network.run_until(lambda: slow.peers == others[0].peers, 10.0)
        self.assertLess(self.hosts[0].bytes_received, self.hosts[1].bytes_received / 2)

    def test_repeats(self) -> None:
        """The same seed makes the same run, to the byte; another makes another."""
        fingerprints = []
        for seed in (1, 1, 2):
            self.finish()
            self.begin(seed)
            self.add(8)
            self.network.run(40.0)
            fingerprints.append(self.network.fingerprint)
        self.assertEqual(fingerprints[0], fingerprints[1])
        self.assertNotEqual(fingerprints[0], fingerprints[2])
