"""Tests for L{flow512.link.shared_port}."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.errors import WIRE_CODES, BadFrame, BadMessage, NotAllowed, Unsupported
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.link.shared_port import SharedPort, SharedPortFactory
from flow512.wire.frame import FrameReader, encode_frame, encode_header
from flow512.wire.handshake import STRANGER
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import CAPS, Error, Hello, Kind, decode, encode
from tests.unit.cutting import cuttings

ADDRESS = IPv4Address("TCP", "192.0.2.7", 50000)
GREETING = Patience().greeting


def hello(conversation: str = "transfer") -> bytes:
    """The hello of somebody who asks for a conversation."""
    return encode(Hello(1, 1, conversation, bytes(32)))


class Listener(Protocol):
    """Writes down what happens to it."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class ListenerFactory(Factory[Listener]):
    """Makes listeners, unless it is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.is_full = full
        self.made: list[Listener] = []
        self.addresses: list[IAddress | None] = []

    def buildProtocol(self, addr: IAddress | None) -> Listener | None:
        self.addresses.append(addr)
        if self.is_full:
            return None
        self.made.append(Listener())
        return self.made[-1]


class SharedPortTests(SynchronousTestCase):
    """The hello decides who gets the connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.port = SharedPortFactory(Introduction(bytes(32)), self.clock)
        self.transfers = ListenerFactory()
        self.registry = ListenerFactory()
        self.port.conversations = {"transfer": self.transfers, "registry": self.registry}

    def connect(self) -> tuple[SharedPort, StringTransport]:
        """Connect somebody who has said nothing yet."""
        protocol = self.port.buildProtocol(ADDRESS)
        transport = StringTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def told(self, transport: StringTransport) -> Error:
        """The error that was written, the only thing that was."""
        reader = FrameReader(CAPS)
        reader.receive(transport.value())
        frame = reader.next_frame()
        assert frame is not None
        self.assertEqual(frame.request, 0)
        self.assertTrue(reader.is_between_frames)
        return decode(frame, Error)

    def assert_refused(self, data: bytes, code: int) -> Error:
        """These bytes are answered by an error, however they are cut, and nobody gets them."""
        for chunks in cuttings(data):
            protocol, transport = self.connect()
            for chunk in chunks:
                protocol.dataReceived(chunk)
            error = self.told(transport)
            self.assertEqual(error.code, code)
            self.assertTrue(transport.disconnecting)
            self.assertFalse(transport.disconnected)
            self.assertEqual(self.transfers.made + self.registry.made, [])
            protocol.connectionLost()
            self.assertEqual(self.clock.getDelayedCalls(), [])
        return error

    def test_interface(self) -> None:
        """It is a factory like any other."""
        verifyObject(IProtocolFactory, self.port)

    def test_chooses(self) -> None:
        """The connection goes to the factory whose conversation is asked for."""
        for conversation, chosen, other in [
            ("transfer", self.transfers, self.registry),
            ("registry", self.registry, self.transfers),
        ]:
            before = len(other.made)
            protocol, transport = self.connect()
            protocol.dataReceived(hello(conversation))
            self.assertEqual(chosen.made[-1].received, hello(conversation))
            self.assertIs(chosen.made[-1].transport, transport)
            self.assertEqual(chosen.addresses, [ADDRESS])
            self.assertEqual(len(other.made), before)
            self.assertEqual(transport.value(), b"")

    def test_cuts(self) -> None:
        """Every byte arrives at the chosen protocol, once and in order, wherever they are cut."""
        after = encode_frame(Kind.PING, 1, b"\x90") + b"anything at all"
        for chunks in cuttings(hello() + after):
            protocol, _ = self.connect()
            for chunk in chunks:
                protocol.dataReceived(chunk)
            self.assertEqual(self.transfers.made[-1].received, hello() + after)

    def test_split_in_two(self) -> None:
        """A hello that comes in two parts is heard when the second one is there."""
        for place in range(1, len(hello())):
            protocol, _ = self.connect()
            protocol.dataReceived(hello()[:place])
            self.assertEqual(len(self.transfers.made), place - 1)
            protocol.dataReceived(hello()[place:] + b"more")
            self.assertEqual(self.transfers.made[-1].received, hello() + b"more")

    def test_no_deadline_after_the_hello(self) -> None:
        """Once the connection is handed over, how long it lasts is no longer our business."""
        protocol, transport = self.connect()
        protocol.dataReceived(hello())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * GREETING)
        self.assertFalse(transport.disconnecting)

    def test_lost_after_the_hello(self) -> None:
        """The chosen protocol learns of the end."""
        protocol, _ = self.connect()
        protocol.dataReceived(hello())
        reason = Failure(ConnectionDone())
        protocol.connectionLost(reason)
        self.assertEqual(self.transfers.made[0].lost, [reason])

    def test_deadline(self) -> None:
        """Who has not said hello in time is cut off, though they send a byte now and then."""
        protocol, transport = self.connect()
        for place in range(9):
            self.clock.advance(GREETING / 10)
            protocol.dataReceived(hello()[place : place + 1])
        self.assertFalse(transport.disconnected)
        self.clock.advance(GREETING / 10)
        self.assertTrue(transport.disconnected)
        protocol.dataReceived(hello()[9:])
        self.assertEqual(self.transfers.made, [])
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_own_deadline(self) -> None:
        """How long to wait can be chosen."""
        self.port = SharedPortFactory(Introduction(bytes(32)), self.clock, Limits(handshake=1.0))
        _, transport = self.connect()
        self.clock.advance(1.0)
        self.assertTrue(transport.disconnected)

    def test_lost_before_the_hello(self) -> None:
        """A connection that ends early leaves nothing behind."""
        protocol, _ = self.connect()
        protocol.dataReceived(hello()[:7])
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_offered(self) -> None:
        """What nobody offers here is refused with a sentence that says what is."""
        error = self.assert_refused(hello("gossip"), WIRE_CODES[Unsupported])
        self.assertEqual(error.sentence, "That is not offered here: registry, transfer is.")

    def test_comes_and_goes(self) -> None:
        """Conversations are offered and withdrawn while the port is open."""
        del self.port.conversations["transfer"]
        self.assert_refused(hello(), WIRE_CODES[Unsupported])
        waiting, _ = self.connect()
        self.port.conversations["transfer"] = self.transfers
        waiting.dataReceived(hello())
        self.assertEqual(len(self.transfers.made), 1)

    def test_full(self) -> None:
        """A factory that makes no protocol refuses the connection, and the other side is told."""
        self.transfers.is_full = True
        error = self.assert_refused(hello(), WIRE_CODES[Unsupported])
        self.assertEqual(error.sentence, "The node does not take that connection.")

    def test_no_hello(self) -> None:
        """Anything but a hello is refused: other kinds, too long a one, another protocol."""
        self.assert_refused(encode_frame(Kind.PING, 1, b"\x90"), WIRE_CODES[BadFrame])
        self.assert_refused(encode_header(Kind.HELLO, 0, 1025), WIRE_CODES[BadFrame])
        self.assert_refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", WIRE_CODES[BadFrame])
        self.assert_refused(encode_frame(Kind.HELLO, 0, b"\x91\x01"), WIRE_CODES[BadMessage])

    def test_strangers(self) -> None:
        """At a closed network's port whatever is wrong is refused in the same words."""
        known = Introduction(bytes(32), key=NetworkKey(bytes(32)))
        self.port = SharedPortFactory(known, self.clock)
        self.port.conversations = {"transfer": self.transfers, "full": ListenerFactory(full=True)}
        for said in (
            hello("gossip"),
            hello("full"),
            encode_frame(Kind.PING, 1, b"\x90"),
            encode_header(Kind.HELLO, 0, 1025),
            encode_frame(Kind.HELLO, 0, b"\x91\x01"),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            error = self.assert_refused(said, WIRE_CODES[NotAllowed])
            self.assertEqual((error.sentence, error.retry_after), (STRANGER, 0.0))

    def test_refused_and_gone_on(self) -> None:
        """Whoever was refused is not listened to any more, not even to a proper hello."""
        protocol, transport = self.connect()
        protocol.dataReceived(hello("gossip"))
        transport.clear()
        protocol.dataReceived(hello())
        self.assertEqual((transport.value(), self.transfers.made), (b"", []))

    def test_refused_and_stays(self) -> None:
        """Whoever was refused and keeps the connection loses it."""
        protocol, transport = self.connect()
        self.clock.advance(GREETING - 1)
        protocol.dataReceived(hello("gossip"))
        self.clock.advance(GREETING - 1)
        self.assertFalse(transport.disconnected)
        self.clock.advance(1)
        self.assertTrue(transport.disconnected)
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_waiting(self) -> None:
        """Whoever has not said hello can be sent away; the others stay."""
        silent, silent_transport = self.connect()
        heard, heard_transport = self.connect()
        heard.dataReceived(hello())
        lost, lost_transport = self.connect()
        lost.connectionLost()
        self.port.close_waiting()
        self.assertTrue(silent_transport.disconnected)
        self.assertFalse(heard_transport.disconnected)
        self.assertFalse(lost_transport.disconnected)
        silent.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
