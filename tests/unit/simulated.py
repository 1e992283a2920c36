"""
Protocols that the tests of L{flow512.testing} talk with.
"""

from __future__ import annotations

from twisted.internet.endpoints import (
    clientFromString,
    connectProtocol,
    serverFromString,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flow512.testing import Host, Network


class Recorder(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.sizes: list[int] = []
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.sizes.append(len(data))

    def connectionLost(self, reason: Failure = None) -> None:
        assert self.lost is None, "a connection is lost once"
        self.lost = reason


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    """Notes the ends of both directions, and does not close by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    def readConnectionLost(self) -> None:
        self.ends.append("read")

    def writeConnectionLost(self) -> None:
        self.ends.append("write")


class Server(Factory):
    """Builds protocols and keeps them."""

    def __init__(self, kind: type[Protocol] = Recorder) -> None:
        self.kind = kind
        self.protocols: list[Recorder] = []

    def buildProtocol(self, addr: object) -> Protocol:
        protocol = self.kind()
        protocol.factory = self
        self.protocols.append(protocol)
        return protocol


@implementer(IPushProducer)
class Spring:
    """Writes whenever it may, until it has written enough."""

    def __init__(self, consumer: IConsumer, size: int, chunk: int = 32 * 1024) -> None:
        self.consumer = consumer
        self.left = size
        self.chunk = chunk
        self.pauses = 0
        self.stopped = False
        self._flows = False

    def resumeProducing(self) -> None:
        self._flows = True
        while self._flows and self.left:
            size = min(self.chunk, self.left)
            self.left -= size
            self.consumer.write(b"s" * size)
        if not self.left:
            self.consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        self.pauses += 1
        self._flows = False

    def stopProducing(self) -> None:
        self.stopped = True
        self._flows = False


class NetworkTestCase(SynchronousTestCase):
    """Two hosts, and what it takes to connect them."""

    seed = 1

    def setUp(self) -> None:
        self.network = Network(self.seed)
        self.a = self.network.host("10.0.0.1", "fd00::1", name="a")
        self.b = self.network.host("10.0.0.2", "fd00::2", name="b")

    def listen(self, host: Host, factory: Factory, description: str = "tcp:5000") -> IListeningPort:
        """Listen on an endpoint."""
        return self.network.result(serverFromString(host.reactor, description).listen(factory))

    def connect(
        self, host: Host, protocol: Protocol, description: str = "tcp:10.0.0.1:5000"
    ) -> Protocol:
        """Connect a protocol through an endpoint."""
        endpoint = clientFromString(host.reactor, description)
        return self.network.result(connectProtocol(endpoint, protocol))

    def pair(
        self, server: type[Protocol] = Recorder, client: type[Protocol] = Recorder
    ) -> tuple[Recorder, Recorder]:
        """Connect b to a; the server's and the client's protocol are returned."""
        factory = Server(server)
        self.port = self.listen(self.a, factory)
        client_protocol = self.connect(self.b, client())
        self.network.run_until(lambda: factory.protocols)
        return factory.protocols[0], client_protocol
