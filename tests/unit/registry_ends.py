"""The other end of a conversation, moved by hand, for the tests of the registry's two sides."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from flow512.link.conversation import Patience
from flow512.link.greeting import Answerer
from flow512.link.introduction import Introduction
from flow512.wire.fields import Message
from flow512.wire.frame import FrameReader
from flow512.wire.leading import Leader
from flow512.wire.messages import CAPS, TRANSFER_SERVER, Hello, encode, message_in


def node_id(number: int) -> bytes:
    """Make a node id."""
    return number.to_bytes(32, "big")


def hello(number: int, network: str = "", conversation: str = "registry") -> bytes:
    """Make somebody's hello."""
    return encode(Hello(1, 1, conversation, node_id(number), network=network))


class End:
    """
    One end, and at the other end a protocol that is under test.

    @ivar protocol: that protocol.
    @ivar transport: what it writes to.
    @ivar requests: the request numbers of the messages that were heard last.
    @ivar leaders: all that was heard of who leads, which L{heard} leaves out.
    """

    def __init__(self, factory: IProtocolFactory, number: int, seen: IAddress) -> None:
        """
        @param factory: what makes the protocol.
        @param number: of the node id that this end has.
        @param seen: where the protocol sees this end.
        """
        self.number = number
        self.id = node_id(number)
        self.transport = StringTransport(peerAddress=seen)
        protocol = factory.buildProtocol(seen)
        assert protocol is not None
        self.protocol: IProtocol = protocol
        self.requests: list[int] = []
        self.leaders: list[Leader] = []
        self._reader = FrameReader(CAPS)
        self.protocol.makeConnection(self.transport)

    def say_bytes(self, data: bytes) -> None:
        """Send bytes."""
        self.protocol.dataReceived(data)

    def say(self, message: Message, request: int = 0) -> None:
        """Send a message."""
        self.say_bytes(encode(message, request))

    def say_hello(self) -> None:
        """Send this end's hello, and take the other's."""
        self.say_bytes(hello(self.number))
        assert isinstance(self.heard()[0], Hello)

    def heard(self) -> list[Message]:
        """Take all messages that have come since."""
        self._reader.receive(self.transport.value())
        self.transport.clear()
        messages = []
        self.requests = []
        while (frame := self._reader.next_frame()) is not None:
            message = message_in(frame)
            if isinstance(message, Leader):
                self.leaders.append(message)
                continue
            messages.append(message)
            self.requests.append(frame.request)
        assert self._reader.is_between_frames
        return messages

    def fill(self) -> None:
        """Let the transport be full."""
        self._producer().pauseProducing()

    def drain(self) -> None:
        """Let the transport take bytes again."""
        self._producer().resumeProducing()

    def close(self) -> None:
        """Let the connection end in peace."""
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def hang_up(self) -> None:
        """Let the connection end, as it does when nobody is there any more."""
        self.protocol.connectionLost(Failure(ConnectionLost()))

    def _producer(self) -> IPushProducer:
        producer = self.transport.producer
        assert IPushProducer.providedBy(producer)
        return producer

    @property
    def is_closing(self) -> bool:
        """Whether the protocol has closed the connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)


def leads(term: int = 0, number: int = 0) -> Leader:
    """Say that a registry leads, the end of that number itself."""
    return Leader(node_id(number), term, 1000)


class Serving(Answerer):
    """A node that answers transfers, and nothing in them."""

    conversation = "transfer"
    allowed = TRANSFER_SERVER


class ServingFactory(Factory[Protocol]):
    """
    Answers as one node.

    @ivar visits: connections that were made to it.
    """

    noisy = False

    def __init__(self, introduction: Introduction, clock: IReactorTime) -> None:
        self.introduction = introduction
        self.clock = clock
        self.visits = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.visits += 1
        return Serving(self.introduction, self.clock, Patience())
