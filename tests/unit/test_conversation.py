"""Tests for L{flow512.link.conversation}."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.errors import (
    WIRE_CODES,
    BadFrame,
    BadMessage,
    Busy,
    Flow512Error,
    NotFound,
    PeerLost,
    SourceFailure,
    TimedOut,
    Unsupported,
    Violation,
)
from flow512.link.conversation import (
    MAX_UNREAD_ANSWERS,
    Conversation,
    Patience,
    address_host,
)
from flow512.link.greeting import Answerer, Caller
from flow512.link.introduction import Introduction
from flow512.wire.fields import Message
from flow512.wire.frame import Frame, FrameReader, encode_frame, encode_header
from flow512.wire.handshake import Agreement
from flow512.wire.messages import (
    CAPS,
    TRANSFER_CLIENT,
    TRANSFER_SERVER,
    Cancel,
    Checksum,
    Error,
    Hello,
    Kind,
    List,
    Listing,
    Ping,
    Pong,
    Snapshot,
    encode,
    message_in,
)
from tests.unit.cutting import cuttings

PATIENCE = Patience(greeting=10.0, silence=30.0, stall=100.0)

OURS = b"o" * 32
THEIRS = b"t" * 32


class Recorded(Conversation):
    """Writes down what it is told, and then does what the test wants."""

    conversation = "transfer"

    def __init__(self, clock: Clock, patience: Patience = PATIENCE, network: str = "") -> None:
        super().__init__(Introduction(OURS, "us", network), clock, patience)
        self.opened: list[Agreement] = []
        self.frames: list[Frame] = []
        self.ended: list[Flow512Error] = []
        self.pongs: list[Pong] = []
        self.times_writable = 0
        self.on_open: Callable[[], object] = lambda: None
        self.on_frame: Callable[[Frame], object] = lambda frame: None
        self.on_end: Callable[[], object] = lambda: None
        self.on_writable: Callable[[], object] = lambda: None

    def conversation_opened(self, agreement: Agreement) -> None:
        self.opened.append(agreement)
        self.on_open()

    def frame_received(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.on_frame(frame)

    def conversation_ended(self, error: Flow512Error) -> None:
        self.ended.append(error)
        self.on_end()

    def writable_again(self) -> None:
        self.times_writable += 1
        self.on_writable()

    def ponged(self, pong: Pong) -> None:
        super().ponged(pong)
        self.pongs.append(pong)


class Answering(Recorded, Answerer):
    """A conversation that was connected to."""

    allowed: Mapping[int, int] = TRANSFER_SERVER


class Calling(Recorded, Caller):
    """A conversation that connected."""

    allowed: Mapping[int, int] = TRANSFER_CLIENT


class BoundedTransport(StringTransport):
    """
    A transport that is full once so many bytes wait in it, and says so as Twisted's do: at every
    write while it is full, and once when all has been taken.
    """

    room = 1000
    is_paused = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.producer is not None and len(self.value()) > self.room:
            self.is_paused = True
            self.producer.pauseProducing()

    def take(self) -> bytes:
        """The other side reads all that waits."""
        data: bytes = self.value()
        self.clear()
        if self.is_paused and self.producer is not None:
            self.is_paused = False
            self.producer.resumeProducing()
        return data


@implementer(ITCPTransport)
class TCPTransport(BoundedTransport):
    """A transport that knows TCP's options."""

    def __init__(self) -> None:
        super().__init__()
        self.options: list[tuple[str, bool]] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options.append(("no delay", enabled))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options.append(("keep alive", enabled))

    def getTcpNoDelay(self) -> bool:
        return ("no delay", True) in self.options

    def getTcpKeepAlive(self) -> bool:
        return ("keep alive", True) in self.options

    def loseWriteConnection(self) -> None:
        raise NotImplementedError


def hello(
    conversation: str = "transfer", oldest: int = 1, newest: int = 1, network: str = ""
) -> bytes:
    """What the other side says first."""
    return encode(Hello(oldest, newest, conversation, THEIRS, "them", network))


def messages(data: bytes) -> list[tuple[int, Message]]:
    """Request and message of every frame in some bytes."""
    reader = FrameReader(CAPS)
    reader.receive(data)
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append((frame.request, message_in(frame)))
    return found


def errors(data: bytes) -> list[tuple[int, int]]:
    """Request and code of every error in some bytes."""
    return [(number, each.code) for number, each in messages(data) if isinstance(each, Error)]


class ConversationTestCase(SynchronousTestCase):
    """What the tests of conversations share. No delayed call outlives a connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.connected: list[Conversation] = []

    def tearDown(self) -> None:
        for conversation in self.connected:
            conversation.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, conversation: Conversation) -> BoundedTransport:
        """Connect it to somebody who has said nothing yet."""
        transport = BoundedTransport()
        conversation.makeConnection(transport)
        self.connected.append(conversation)
        return transport

    def open(self, patience: Patience = PATIENCE) -> tuple[Answering, BoundedTransport]:
        """A conversation after the hellos, with nothing in its transport."""
        conversation = Answering(self.clock, patience)
        transport = self.connect(conversation)
        conversation.dataReceived(hello())
        self.assertTrue(conversation.is_open)
        transport.take()
        return conversation, transport

    def wait(self, seconds: float) -> None:
        """Let time pass, not at one stroke: what is due in between happens in between."""
        whole, rest = divmod(seconds, 1.0)
        self.clock.pump([1.0] * int(whole) + [rest])

    def assert_ended(self, conversation: Recorded, kind: type[Flow512Error]) -> Flow512Error:
        """The conversation is over, was so once, and for such a reason."""
        self.assertEqual([type(error) for error in conversation.ended], [kind])
        self.assertFalse(conversation.is_open)
        return conversation.ended[0]


class GreetingTests(ConversationTestCase):
    """Nothing is said before the hello, and nothing but a hello is heard."""

    def test_answerer(self) -> None:
        """A hello is answered with one, wherever it is cut, and the conversation is open."""
        for chunks in cuttings(hello()):
            conversation = Answering(self.clock)
            transport = self.connect(conversation)
            for chunk in chunks:
                self.assertEqual((conversation.opened, transport.value()), ([], b""))
                conversation.dataReceived(chunk)
                if conversation.is_open:
                    break
            ((number, ours),) = messages(transport.value())
            assert isinstance(ours, Hello)
            self.assertEqual((number, ours.node, ours.name), (0, OURS, "us"))
            self.assertEqual((ours.conversation, ours.agent[:8]), ("transfer", "flow512/"))
            (agreement,) = conversation.opened
            self.assertIs(conversation.agreement, agreement)
            self.assertEqual((agreement.version, agreement.peer.node), (1, THEIRS))

    def test_caller(self) -> None:
        """The caller says hello at once, and is open when the answer is there."""
        for chunks in cuttings(hello()):
            conversation = Calling(self.clock)
            transport = self.connect(conversation)
            self.assertEqual([type(each) for _, each in messages(transport.take())], [Hello])
            for chunk in chunks:
                conversation.dataReceived(chunk)
            self.assertTrue(conversation.is_open)
            self.assertEqual(len(conversation.opened), 1)
            self.assertEqual(transport.value(), b"")

    def test_deadline(self) -> None:
        """Who does not say hello in time is cut off, though a byte comes now and then."""
        for conversation in (Answering(self.clock), Calling(self.clock)):
            transport = self.connect(conversation)
            transport.clear()
            for place in range(9):
                self.clock.advance(1.0)
                conversation.dataReceived(hello()[place : place + 1])
            self.assertEqual(conversation.ended, [])
            self.clock.advance(1.0)
            error = self.assert_ended(conversation, TimedOut)
            self.assertIn("No hello came within 10 seconds", str(error))
            self.assertTrue(transport.disconnected)
            self.assertEqual(transport.value(), b"")

    def test_at_the_last_moment(self) -> None:
        """A hello just before the deadline is early enough, and the deadline is off."""
        conversation = Answering(self.clock)
        self.connect(conversation)
        self.clock.advance(9.9)
        conversation.dataReceived(hello())
        self.clock.advance(20.0)
        self.assertTrue(conversation.is_open)

    def assert_refused(self, conversation: Recorded, data: bytes, kind: type[Flow512Error]) -> None:
        """Bytes instead of a proper hello: the other side is told why, and it is over."""
        transport = self.connect(conversation)
        transport.clear()
        conversation.dataReceived(data + hello())
        self.assert_ended(conversation, kind)
        self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[kind])])
        self.assertEqual(len(messages(transport.value())), 1)
        self.assertTrue(transport.disconnecting)
        self.assertEqual((conversation.opened, conversation.frames), ([], []))

    def test_no_hello(self) -> None:
        """Anything else than a hello first is refused, and a hello that is too large."""
        rows: list[tuple[bytes, type[Flow512Error]]] = [
            (encode(Ping(), 1), BadFrame),
            (encode(List(), 1), BadFrame),
            (encode(Listing(()), 1), BadFrame),
            (encode_frame(0x77, 0, b""), BadFrame),
            (encode_header(Kind.HELLO, 0, 1025), BadFrame),
            (encode_header(Kind.HELLO, 0, 2**24 - 1), BadFrame),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh", Unsupported),
            (encode_frame(Kind.HELLO, 0, b"\x90"), BadMessage),
        ]
        for data, kind in rows:
            self.assert_refused(Answering(self.clock), data, kind)
            self.assert_refused(Calling(self.clock), data, kind)

    def test_error_instead(self) -> None:
        """A stranger may not send errors; the caller may be sent one, of 1 KiB."""
        error = encode(Error(7, "Full.", 5.0))
        self.assert_refused(Answering(self.clock), error, BadFrame)
        self.assert_refused(Calling(self.clock), encode_header(Kind.ERROR, 0, 1025), BadFrame)
        self.assert_refused(Calling(self.clock), encode(Error(7, "Full."), 3), BadMessage)

        conversation = Calling(self.clock)
        transport = self.connect(conversation)
        transport.clear()
        conversation.dataReceived(error)
        told = self.assert_ended(conversation, Busy)
        assert isinstance(told, Busy)
        self.assertEqual((str(told), told.retry_after), ("Full.", 5.0))
        self.assertEqual(transport.value(), b"")
        self.assertTrue(transport.disconnecting)

    def test_versions(self) -> None:
        """Without a version in common there is no conversation; a newer node may speak older."""
        self.assert_refused(Answering(self.clock), hello(oldest=2, newest=3), Unsupported)
        self.assert_refused(Calling(self.clock), hello(oldest=2, newest=3), Unsupported)
        self.assert_refused(Answering(self.clock), hello(oldest=2, newest=1), Violation)
        conversation = Answering(self.clock)
        self.connect(conversation)
        conversation.dataReceived(hello(oldest=1, newest=9))
        self.assertEqual(conversation.opened[0].version, 1)

    def test_networks(self) -> None:
        """Another network is refused, on either side."""
        self.assert_refused(Answering(self.clock), hello(network="office"), Unsupported)
        self.assert_refused(Calling(self.clock), hello(network="office"), Unsupported)
        conversation = Answering(self.clock, network="office")
        self.connect(conversation)
        conversation.dataReceived(hello(network="office"))
        self.assertTrue(conversation.is_open)

    def test_another_conversation(self) -> None:
        """Who asks for something else is told what is offered; an answer about it is wrong."""
        conversation = Answering(self.clock)
        self.assert_refused(conversation, hello("registry"), Unsupported)
        self.assertIn("transfer", str(conversation.ended[0]))
        self.assert_refused(Calling(self.clock), hello("registry"), Violation)

    def test_another_node(self) -> None:
        """A caller that looks for one node refuses another at its address."""
        conversation = Calling(self.clock)
        conversation.expected = OURS
        self.assert_refused(conversation, hello(), Violation)
        conversation = Calling(self.clock)
        conversation.expected = THEIRS
        self.connect(conversation)
        conversation.dataReceived(hello())
        self.assertTrue(conversation.is_open)

    def test_second_hello(self) -> None:
        """Greeting twice is a violation."""
        conversation, transport = self.open()
        conversation.dataReceived(hello())
        self.assert_ended(conversation, BadFrame)
        self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[BadFrame])])

    def test_end_on_opening(self) -> None:
        """Whoever opens a conversation may close it at once; what came along is not heard."""
        for how in ("leave", "end", "raise"):
            conversation = Answering(self.clock)
            transport = self.connect(conversation)

            def refuse(conversation: Answering = conversation, how: str = how) -> None:
                if how == "leave":
                    conversation.leave()
                elif how == "end":
                    conversation.end(Busy("Full."))
                else:
                    raise Busy("Full.")

            conversation.on_open = refuse
            conversation.dataReceived(hello() + encode(List(), 1))
            self.assertEqual((len(conversation.ended), conversation.frames), (1, []))
            self.assertTrue(transport.disconnecting)
            told = errors(transport.value())
            self.assertEqual(told, [] if how == "leave" else [(0, WIRE_CODES[Busy])])


class OpenTests(ConversationTestCase):
    """What is heard in an open conversation."""

    def test_frames(self) -> None:
        """Frames come in their order, wherever the bytes are cut, the hello's chunk included."""
        data = hello() + encode(List(), 1) + encode(Checksum(bytes(32)), 2) + encode(Cancel(), 1)
        for chunks in cuttings(data):
            conversation = Answering(self.clock)
            self.connect(conversation)
            for chunk in chunks:
                conversation.dataReceived(chunk)
            self.assertEqual(
                [(frame.kind, frame.request) for frame in conversation.frames],
                [(Kind.LIST, 1), (Kind.CHECKSUM, 2), (Kind.CANCEL, 1)],
            )

    def test_wrong_time(self) -> None:
        """A known kind where it means nothing, an unknown one, one over its cap: it is over."""
        for data in (
            encode(Listing(()), 1),
            encode(Snapshot(1, ())),
            encode_frame(0x77, 0, b""),
            encode_header(Kind.LIST, 1, CAPS[Kind.LIST] + 1),
            encode_header(Kind.LIST, 1, 2**24 - 1),
        ):
            conversation, transport = self.open()
            conversation.dataReceived(data + encode(List(), 2))
            self.assert_ended(conversation, BadFrame)
            self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[BadFrame])])
            self.assertEqual(conversation.frames, [])
            self.assertTrue(transport.disconnecting)

    def test_receiver_refuses(self) -> None:
        """An error that the receiver raises is told, and ends the conversation."""
        conversation, transport = self.open()

        def refuse(frame: Frame) -> None:
            raise BadMessage("That is no message.")

        conversation.on_frame = refuse
        conversation.dataReceived(encode(List(), 1) + encode(List(), 2))
        self.assertEqual(messages(transport.value()), [(0, Error(3, "That is no message."))])
        self.assert_ended(conversation, BadMessage)
        self.assertEqual(len(conversation.frames), 1)

    def test_nobody_listens(self) -> None:
        """A conversation that understands no frames says so."""

        class Deaf(Answerer):
            conversation = "transfer"
            allowed: Mapping[int, int] = TRANSFER_SERVER

        conversation = Deaf(Introduction(OURS), self.clock, PATIENCE)
        transport = self.connect(conversation)
        conversation.dataReceived(hello() + encode(Pong()))
        self.assertTrue(conversation.is_open)
        conversation.resumeProducing()
        conversation.dataReceived(encode(List(), 1))
        self.assertFalse(conversation.is_open)
        self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[BadFrame])])

    def test_error_of_the_conversation(self) -> None:
        """An error without a request ends the conversation; nothing is answered."""
        conversation, transport = self.open()
        conversation.dataReceived(encode(Error(1, "Oops.")) + encode(List(), 1))
        error = self.assert_ended(conversation, SourceFailure)
        self.assertEqual(str(error), "Oops.")
        self.assertEqual((transport.value(), conversation.frames), (b"", []))
        self.assertTrue(transport.disconnecting)

    def test_bad_error(self) -> None:
        """An error that is no message is an error itself."""
        conversation, transport = self.open()
        conversation.dataReceived(encode_frame(Kind.ERROR, 0, b"\x90"))
        self.assert_ended(conversation, BadMessage)
        self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[BadMessage])])

    def test_error_of_a_request(self) -> None:
        """An error with a request belongs to whoever asked; the conversation goes on."""
        conversation, _ = self.open()
        conversation.dataReceived(encode(Error(5, "No."), 7))
        self.assertEqual([frame.request for frame in conversation.frames], [7])
        self.assertTrue(conversation.is_open)

    def test_failing_requests(self) -> None:
        """A request fails with its number and its cause, whatever characters that has."""
        conversation, transport = self.open()
        conversation.fail_request(7, NotFound("No."))
        conversation.fail_request(8, ValueError("secret"))
        conversation.fail_request(9, NotFound("There is no caf\udce9."))
        conversation.fail_request(10, NotFound("x" * 10_000))
        self.assertTrue(conversation.is_open)
        said = dict(messages(transport.value()))
        self.assertEqual(said[7], Error(5, "No."))
        self.assertNotIn("secret", repr(said[8]))
        self.assertEqual(said[9], Error(5, "There is no caf?."))
        self.assertEqual(said[10], Error(5, "x" * 500))

    def test_ping(self) -> None:
        """A ping is answered with its number, a pong is taken."""
        conversation, transport = self.open()
        conversation.dataReceived(encode(Ping(), 9) + encode(Pong(5)))
        self.assertEqual(messages(transport.value()), [(9, Pong())])
        self.assertEqual((conversation.pongs, conversation.frames), ([Pong(5)], []))

    def test_bad_ping(self) -> None:
        """A ping has to be one."""
        for kind in (Kind.PING, Kind.PONG):
            conversation, transport = self.open()
            conversation.dataReceived(encode_frame(kind, 9, b"\xc0"))
            self.assert_ended(conversation, BadMessage)
            self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[BadMessage])])

    def test_tcp(self) -> None:
        """Small messages are not delayed, and dead connections are noticed."""
        conversation = Answering(self.clock)
        transport = TCPTransport()
        conversation.makeConnection(transport)
        self.connected.append(conversation)
        self.assertTrue(transport.getTcpNoDelay())
        self.assertTrue(transport.getTcpKeepAlive())

    def test_addresses(self) -> None:
        """Where the other side is seen from, also where there are no hosts and ports."""
        conversation, transport = self.open()
        transport.peerAddr = IPv4Address("TCP", "192.0.2.7", 1234)
        self.assertEqual(conversation.peer_host, "192.0.2.7")
        self.assertEqual(conversation.peer, ("192.0.2.7", 1234))
        transport.peerAddr = IPv6Address("TCP", "::ffff:192.0.2.7", 1234)
        self.assertEqual(conversation.peer_host, "192.0.2.7")
        self.assertEqual(conversation.peer, ("192.0.2.7", 1234))
        transport.peerAddr = IPv6Address("TCP", "fe80::7%lan", 1234, 0, 3)
        self.assertEqual(conversation.peer_host, "fe80::7%lan")
        self.assertEqual(conversation.peer, ("fe80::7%lan", 1234))
        transport.peerAddr = UNIXAddress(b"/run/x")
        self.assertEqual(conversation.peer, (address_host(UNIXAddress(b"/run/x")), 0))

    def test_interface(self) -> None:
        """A conversation hears from its transport when that is full."""
        conversation, transport = self.open()
        verifyObject(IPushProducer, conversation)
        self.assertIs(transport.producer, conversation)
        self.assertTrue(transport.streaming)


class EndTests(ConversationTestCase):
    """A conversation ends once, and says why."""

    def test_leave(self) -> None:
        """Leaving closes the connection after what was written."""
        conversation, transport = self.open()
        conversation.send(Ping())
        conversation.leave()
        self.assertEqual(messages(transport.value()), [(0, Ping())])
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.disconnected)
        self.assert_ended(conversation, PeerLost)

    def test_end(self) -> None:
        """Ending tells the other side why."""
        conversation, transport = self.open()
        conversation.end(Busy("Full.", 5.0))
        self.assertEqual(messages(transport.value()), [(0, Error(7, "Full.", 5.0))])
        self.assertTrue(transport.disconnecting)
        self.assert_ended(conversation, Busy)

    def test_unreachable(self) -> None:
        """Who is gone is not told so."""
        conversation, transport = self.open()
        conversation.end(TimedOut("It fell silent."))
        self.assertEqual(transport.value(), b"")
        self.assertTrue(transport.disconnected)
        self.assert_ended(conversation, TimedOut)

    def test_once(self) -> None:
        """Once it is over, ending it again, and losing the connection, change nothing."""
        conversation, transport = self.open()
        conversation.end(Busy("Full."))
        transport.clear()
        conversation.end(NotFound("No."))
        conversation.end(TimedOut("Late."))
        conversation.leave()
        conversation.connectionLost(Failure(ConnectionLost()))
        self.assert_ended(conversation, Busy)
        self.assertEqual(transport.value(), b"")
        self.assertFalse(transport.disconnected)

    def test_nothing_after(self) -> None:
        """After the end nothing is written, heard, stopped or resumed."""
        conversation, transport = self.open()
        conversation.leave()
        conversation.send(Ping())
        conversation.write_small(b"anything")
        conversation.fail_request(1, NotFound("No."))
        conversation.dataReceived(encode(List(), 1) + encode(Ping(), 1))
        conversation.stop_reading("test")
        conversation.resume_reading("test")
        conversation.resumeProducing()
        self.assertEqual(transport.value(), b"")
        self.assertEqual((conversation.frames, conversation.times_writable), ([], 0))
        self.assertEqual(len(conversation.ended), 1)

    def test_nothing_is_kept_after(self) -> None:
        """What somebody goes on sending after the end takes no memory."""
        conversation, _ = self.open()
        conversation.leave()
        chunk = bytes(65536)
        tracemalloc.start()
        try:
            for _ in range(32):
                conversation.dataReceived(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 2 * len(chunk))

    def test_linger(self) -> None:
        """Who does not let the connection close is cut off."""
        conversation, transport = self.open()
        conversation.leave()
        self.clock.advance(9.9)
        self.assertFalse(transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(transport.disconnected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_linger_ends(self) -> None:
        """Once the connection is closed nobody waits any more."""
        conversation, transport = self.open()
        conversation.leave()
        conversation.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100.0)
        self.assertFalse(transport.disconnected)

    def test_closing_while_stopped(self) -> None:
        """A connection that is not read is read again to be closed, or its end goes unnoticed."""
        conversation, transport = self.open()
        conversation.stop_reading("test")
        conversation.leave()
        self.assertEqual(transport.producerState, "producing")
        self.assertIs(transport.producer, None)

    def test_closing_while_full(self) -> None:
        """Who reads nothing is told why all the same, and no longer waited for than others."""
        conversation, transport = self.open()
        conversation.connection.write(bytes(2000))
        self.assertFalse(conversation.is_writable)
        conversation.end(Busy("Full."))
        self.assertEqual(errors(transport.value()[2000:]), [(0, WIRE_CODES[Busy])])
        self.clock.advance(10.0)
        self.assertTrue(transport.disconnected)

    def test_a_receiver_of_the_end_that_fails(self) -> None:
        """The connection is closed though whoever is told of the end does not survive it."""
        for error in (Busy("Full."), TimedOut("Late.")):
            conversation, transport = self.open()

            def fail() -> None:
                raise ZeroDivisionError

            conversation.on_end = fail
            self.assertRaises(ZeroDivisionError, conversation.end, error)
            self.assertTrue(transport.disconnecting)

    def test_lost(self) -> None:
        """The sentence tells a clean end from one inside a frame, and from a broken network."""
        for data, reason, sentence in [
            (b"", ConnectionDone(), "The other side closed the connection."),
            (
                encode(List(), 1)[:-1],
                ConnectionDone(),
                "The other side closed the connection in the middle of a frame.",
            ),
            (b"", ConnectionLost("Cable."), "The connection to 192.168.1.1:54321 was lost."),
        ]:
            conversation, _ = self.open()
            conversation.dataReceived(data)
            conversation.connectionLost(Failure(reason))
            error = self.assert_ended(conversation, PeerLost)
            self.assertEqual(str(error)[: len(sentence)], sentence)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_in_greeting(self) -> None:
        """A connection that ends before the hello is an end as well."""
        conversation = Calling(self.clock)
        self.connect(conversation)
        conversation.connectionLost(Failure(ConnectionDone()))
        self.assert_ended(conversation, PeerLost)

    def test_ends_within_a_frame(self) -> None:
        """A receiver may end the conversation; no further frame of the chunk reaches it."""
        ends: list[Callable[[Recorded], None]] = [
            lambda conversation: conversation.end(BadMessage("Odd.")),
            lambda conversation: conversation.end(TimedOut("Late.")),
            lambda conversation: conversation.leave(),
        ]
        for end in ends:
            conversation, transport = self.open()
            finish = partial(end, conversation)

            def take(_: Frame, finish: Callable[[], None] = finish) -> None:
                finish()

            conversation.on_frame = take
            conversation.dataReceived(encode(List(), 1) + encode(List(), 2) + encode(Ping(), 3))
            self.assertEqual((len(conversation.frames), len(conversation.ended)), (1, 1))
            self.assertTrue(transport.disconnecting)
            self.assertEqual(messages(transport.value())[1:], [])

    def test_ends_within_a_frame_and_raises(self) -> None:
        """The first reason counts."""
        conversation, transport = self.open()

        def end_and_raise(frame: Frame) -> None:
            conversation.end(Busy("Full."))
            raise BadMessage("Odd.")

        conversation.on_frame = end_and_raise
        conversation.dataReceived(encode(List(), 1))
        self.assert_ended(conversation, Busy)
        self.assertEqual(errors(transport.value()), [(0, WIRE_CODES[Busy])])


class ReadingTests(ConversationTestCase):
    """Reading stops while anybody has a reason for it."""

    def test_stop(self) -> None:
        """The transport is paused, and goes on when the reason is gone."""
        conversation, transport = self.open()
        conversation.stop_reading("disk")
        self.assertEqual(transport.producerState, "paused")
        conversation.resume_reading("disk")
        self.assertEqual(transport.producerState, "producing")

    def test_several_causes(self) -> None:
        """As long as one cause is left nothing is read; a cause counts once."""
        conversation, transport = self.open()
        for cause in ("disk", "hash", "disk"):
            conversation.stop_reading(cause)
        conversation.dataReceived(encode(List(), 1))
        for cause in ("disk", "disk", "something else"):
            conversation.resume_reading(cause)
            self.assertEqual((transport.producerState, conversation.frames), ("paused", []))
        conversation.resume_reading("hash")
        self.assertEqual((transport.producerState, len(conversation.frames)), ("producing", 1))

    def test_frames_wait(self) -> None:
        """What was received already waits too, and is taken later, in order and whole."""
        data = b"".join(encode(List(), number) for number in range(1, 6))
        for chunks in cuttings(data):
            conversation, _ = self.open()

            def stop(_: Frame, conversation: Answering = conversation) -> None:
                conversation.stop_reading("disk")

            conversation.on_frame = stop
            for chunk in chunks:
                conversation.dataReceived(chunk)
            for taken in range(1, 6):
                self.assertEqual(len(conversation.frames), taken)
                conversation.resume_reading("disk")
            self.assertEqual([frame.request for frame in conversation.frames], [1, 2, 3, 4, 5])

    def test_stops_again(self) -> None:
        """A waiting frame that stops reading again keeps the transport paused."""
        conversation, transport = self.open()
        conversation.on_frame = lambda frame: conversation.stop_reading("disk")
        conversation.dataReceived(encode(List(), 1) + encode(List(), 2))
        conversation.resume_reading("disk")
        self.assertEqual((transport.producerState, len(conversation.frames)), ("paused", 2))
        conversation.resume_reading("disk")
        self.assertEqual(transport.producerState, "producing")

    def test_resumes_within_a_frame(self) -> None:
        """A receiver that stops and resumes at once gets the frames one after the other."""
        conversation, transport = self.open()
        inside: list[int] = []

        def take(frame: Frame) -> None:
            inside.append(frame.request)
            self.assertEqual(inside, [frame.request])
            conversation.stop_reading("disk")
            conversation.resume_reading("disk")
            inside.clear()

        conversation.on_frame = take
        conversation.dataReceived(encode(List(), 1) + encode(List(), 2) + encode(List(), 3))
        self.assertEqual([frame.request for frame in conversation.frames], [1, 2, 3])
        self.assertEqual(transport.producerState, "producing")

    def test_violation_waits(self) -> None:
        """What is wrong with a waiting frame is found when it is taken."""
        conversation, transport = self.open()
        conversation.stop_reading("disk")
        conversation.dataReceived(encode_frame(0x77, 0, b""))
        self.assertEqual(conversation.ended, [])
        conversation.resume_reading("disk")
        self.assert_ended(conversation, BadFrame)
        self.assertTrue(transport.disconnecting)


class WritingTests(ConversationTestCase):
    """Whoever does not read cannot make us hold more than a bounded heap of answers."""

    def test_writable(self) -> None:
        """The transport says when it is full, and the conversation when it no longer is."""
        conversation, transport = self.open()
        self.assertTrue(conversation.is_writable)
        conversation.connection.write(bytes(2000))
        self.assertFalse(conversation.is_writable)
        self.assertEqual(conversation.times_writable, 0)
        transport.take()
        self.assertTrue(conversation.is_writable)
        self.assertEqual(conversation.times_writable, 1)

    def test_goes_on_writing(self) -> None:
        """Bulk is written until the transport is full, each time that it was emptied."""
        conversation, transport = self.open()

        def write() -> None:
            while conversation.is_writable:
                conversation.connection.write(bytes(600))

        conversation.on_writable = write
        write()
        for _ in range(3):
            self.assertEqual(len(transport.take()), 1200)

    def test_not_before_the_hello(self) -> None:
        """Nobody writes bulk to a stranger, even if the transport has room again."""
        conversation = Calling(self.clock)
        transport = self.connect(conversation)
        conversation.connection.write(bytes(2000))
        transport.take()
        self.assertEqual(conversation.times_writable, 0)

    def test_ends_when_writable(self) -> None:
        """Room in the transport may be the moment to end, in either way."""
        ends: list[Callable[[Recorded], None]] = [
            lambda conversation: conversation.end(Busy("Full.")),
            lambda conversation: conversation.leave(),
        ]
        for end in ends:
            conversation, transport = self.open()
            conversation.on_writable = partial(end, conversation)
            conversation.connection.write(bytes(2000))
            transport.take()
            self.assertEqual((len(conversation.ended), conversation.times_writable), (1, 1))
            self.assertTrue(transport.disconnecting)

    def ask_without_reading(self, conversation: Conversation, transport: BoundedTransport) -> int:
        """Ping until nothing is read any more; how often that was."""
        ping = encode(Ping(), 1)
        count = 0
        while transport.producerState == "producing":
            conversation.dataReceived(ping * 64)
            count += 64
            self.assertLess(count * len(ping), 2 * MAX_UNREAD_ANSWERS)
        return count

    def test_unread_answers(self) -> None:
        """Who asks on and on without reading is no longer read, and what is held stays small."""
        conversation, transport = self.open()
        transport.write(bytes(2000))
        self.ask_without_reading(conversation, transport)
        held = len(transport.value())
        self.assertLess(held, MAX_UNREAD_ANSWERS + 4096)
        for _ in range(10):
            conversation.dataReceived(encode(Ping(), 1) * 64)
        self.assertEqual(len(transport.value()), held)

    def test_answers_are_read(self) -> None:
        """Once the answers are read, requests are read again, and none was lost."""
        conversation, transport = self.open()
        transport.write(bytes(2000))
        count = self.ask_without_reading(conversation, transport)
        answers = transport.take()[2000:]
        self.assertEqual(transport.producerState, "producing")
        while transport.value():
            answers += transport.take()
        self.assertEqual(messages(answers), [(1, Pong())] * count)

    def test_no_count_while_read(self) -> None:
        """Answers that are read do not add up, however many they are."""
        conversation, transport = self.open()
        for _ in range(MAX_UNREAD_ANSWERS // (64 * 17) + 2):
            transport.write(bytes(2000))
            conversation.dataReceived(encode(Ping(), 1) * 64)
            self.assertEqual(transport.producerState, "producing")
            transport.take()

    def test_cancel_is_heard(self) -> None:
        """While the transport is full of bulk the other side can still ask, and cancel."""
        conversation, transport = self.open()
        transport.write(bytes(2000))
        conversation.dataReceived(encode(Cancel(), 1))
        self.assertEqual([frame.kind for frame in conversation.frames], [Kind.CANCEL])

    def test_not_writable_after_all(self) -> None:
        """Requests that waited come first; if their answers fill the transport, bulk waits on."""
        conversation, transport = self.open()
        transport.write(bytes(2000))
        self.ask_without_reading(conversation, transport)
        conversation.dataReceived(encode(Ping(), 1) * 100)
        writable: list[bool] = []
        conversation.on_writable = lambda: writable.append(conversation.is_writable)
        while transport.value():
            transport.take()
        self.assertEqual(writable, [True])

    def test_stopped(self) -> None:
        """A transport that is gone takes no bulk."""
        conversation, _ = self.open()
        conversation.stopProducing()
        self.assertFalse(conversation.is_writable)


class SilenceTests(ConversationTestCase):
    """Who neither speaks nor reads is not waited for for ever, and everyone else is."""

    def test_silent(self) -> None:
        """Silence is followed by one ping, and a second silence by the end."""
        conversation, transport = self.open()
        self.wait(30.0)
        self.assertEqual(transport.value(), b"")
        self.wait(30.0)
        self.assertEqual(messages(transport.take()), [(0, Ping())])
        self.wait(29.9)
        self.assertTrue(conversation.is_open)
        self.wait(0.1)
        error = self.assert_ended(conversation, TimedOut)
        self.assertEqual(str(error), "The other side fell silent.")
        self.assertTrue(transport.disconnected)
        self.assertEqual(transport.value(), b"")

    def test_answers(self) -> None:
        """Who answers pings may be silent for ever."""
        conversation, transport = self.open()
        pings = 0
        for _ in range(100):
            self.wait(30.0)
            for _, message in messages(transport.take()):
                self.assertEqual(message, Ping())
                pings += 1
                conversation.dataReceived(encode(Pong()))
        self.assertTrue(conversation.is_open)
        self.assertGreater(pings, 30)

    def test_speaks(self) -> None:
        """Who speaks, if only a byte at a time, is not pinged."""
        conversation, transport = self.open()
        for byte in encode(List(), 1):
            self.wait(29.0)
            conversation.dataReceived(bytes([byte]))
        self.assertEqual(transport.value(), b"")
        self.assertTrue(conversation.is_open)

    def test_not_listening(self) -> None:
        """Whoever we do not listen to is not silent; they hear a ping, for we do not speak."""
        conversation, transport = self.open()
        conversation.stop_reading("disk")
        for _ in range(10):
            self.wait(30.0)
            self.assertEqual(messages(transport.take()), [(0, Ping())])
        conversation.resume_reading("disk")
        self.wait(59.9)
        self.assertTrue(conversation.is_open)

    def test_listened_too_little(self) -> None:
        """A ping whose answer we did not listen for until the last moment may be answered yet."""
        conversation, _ = self.open()
        self.wait(60.0)
        conversation.stop_reading("disk")
        self.wait(29.0)
        conversation.resume_reading("disk")
        self.wait(2.0)
        self.assertTrue(conversation.is_open)
        conversation.dataReceived(encode(Pong()))
        self.wait(30.0)
        self.assertTrue(conversation.is_open)

    def test_slow_disk(self) -> None:
        """A side that reads nothing for long, and has nothing to say, keeps the conversation."""
        caller, answerer = Calling(self.clock), Answering(self.clock)
        sides = [(caller, self.connect(caller)), (answerer, self.connect(answerer))]

        def deliver() -> None:
            for (_, here), (other, there) in (sides, sides[::-1]):
                if there.producerState == "producing" and here.value():
                    other.dataReceived(here.take())

        for _ in range(3):
            deliver()
        self.assertTrue(caller.is_open and answerer.is_open)
        caller.stop_reading("disk")
        answerer.connection.write(encode(Listing(()), 1))
        for _ in range(20):
            self.wait(29.0)
            deliver()
        self.assertEqual((caller.ended, answerer.ended, caller.frames), ([], [], []))
        caller.resume_reading("disk")
        deliver()
        self.assertEqual(len(caller.frames), 1)

    def test_stalled(self) -> None:
        """Who talks but reads nothing is cut off after a while, and not before."""
        conversation, transport = self.open()
        self.wait(29.0)
        transport.write(bytes(2000))
        for _ in range(10):
            self.wait(9.9)
            conversation.dataReceived(encode(Ping(), 1))
            self.assertTrue(conversation.is_open)
        for _ in range(4):
            self.wait(9.9)
            conversation.dataReceived(encode(Ping(), 1))
        error = self.assert_ended(conversation, TimedOut)
        self.assertEqual(str(error), "The other side stopped reading.")
        self.assertTrue(transport.disconnected)

    def test_impatient_about_stalls(self) -> None:
        """A stall shorter than the silence is measured as well, from when it began."""
        conversation, transport = self.open(Patience(silence=30.0, stall=20.0))
        self.wait(29.0)
        transport.write(bytes(2000))
        self.wait(1.0)
        self.assertTrue(conversation.is_open)
        conversation.dataReceived(encode(Ping(), 1))
        self.wait(30.0)
        self.assert_ended(conversation, TimedOut)

    def test_reads_slowly(self) -> None:
        """Who empties the transport now and then may take as long as they like."""
        conversation, transport = self.open()
        for _ in range(20):
            transport.write(bytes(2000))
            for _ in range(9):
                self.wait(10.0)
                conversation.dataReceived(encode(Pong()))
            transport.take()
        self.assertTrue(conversation.is_open)
