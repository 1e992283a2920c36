"""Tests for L{flow512.link.bulk}."""

from __future__ import annotations

from collections.abc import Callable
from errno import ECONNRESET
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.link.address import HostPort, client_endpoint
from flow512.link.bulk import DIRECT, FULL, IBodyReceiver, IBulkTransport, Lane, open_lane
from flow512.link.identity import Identity
from flow512.link.introduction import Introduction
from flow512.link.records import RecordTransport
from flow512.link.tls import Tls
from flow512.testing import Network
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK
from flow512.wire.frame import HEADER_SIZE, FrameReader, encode_frame, encode_header
from tests.unit.transfer_ends import OURS, TransferTestCase

KIND = 7
"""The kind of all frames here."""


@implementer(IBodyReceiver, IPushProducer)
class End(Protocol):
    """One end of a connection that carries frames."""

    lane: Lane

    def __init__(self) -> None:
        self.reader = FrameReader({KIND: BLOCK})
        self.bodies: list[bytes] = []
        self.handed = 0
        self.said: list[str] = []
        self.lost: BaseException | None = None

    def connectionMade(self) -> None:
        lane = open_lane(self.transport)
        assert lane is not None
        self.lane = lane
        lane.receive_bodies(self)
        lane.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self.handed += len(data)
        self.reader.receive(data)
        self.take()

    def body_room(self) -> memoryview | None:
        return self.reader.body_room()

    def body_filled(self, count: int) -> None:
        if self.reader.body_filled(count):
            self.take()

    def take(self) -> None:
        """Keep the bodies of whole frames."""
        while (frame := self.reader.next_frame()) is not None:
            self.bodies.append(bytes(frame.body))

    def pauseProducing(self) -> None:
        self.said.append("pause")

    def resumeProducing(self) -> None:
        self.said.append("resume")

    def stopProducing(self) -> None:
        self.said.append("stop")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.value
        self.lane.gone()


class LaneTests(SynchronousTestCase):
    """Two ends of a connection of the network in memory."""

    def setUp(self) -> None:
        self.network = Network(7)
        there = self.network.host("10.0.0.1", name="there")
        here = self.network.host("10.0.0.2", name="here")
        made: list[End] = []

        def make() -> End:
            made.append(End())
            return made[-1]

        listening = serverFromString(there.reactor, "tcp:5000").listen(Factory.forProtocol(make))
        port = self.network.result(listening)
        connecting = clientFromString(here.reactor, "tcp:10.0.0.1:5000")
        connected = connecting.connect(Factory.forProtocol(End))
        self.sender = cast(End, self.network.result(connected))
        self.network.run(1.0)
        (self.receiver,) = made
        self.returned: list[int] = []

        def end() -> None:
            for each in (self.sender, self.receiver):
                each.lane.abortConnection()
            self.network.result(maybeDeferred(port.stopListening))
            self.network.run(1.0)
            self.network.assert_quiet()

        self.addCleanup(end)

    def write(self, number: int, body: bytes | bytearray) -> None:
        """Write one body in bulk, and note when it is ours again."""
        self.sender.lane.write_bulk(
            encode_header(KIND, 0, len(body)),
            memoryview(body),
            lambda: self.returned.append(number),
        )

    def test_interfaces(self) -> None:
        """A lane is as good as the transport that it stands before."""
        verifyObject(IBulkTransport, self.sender.lane)
        self.assertTrue(ITCPTransport.providedBy(self.sender.lane))
        self.assertEqual(self.sender.lane.getPeer(), self.sender.transport.getPeer())  # type: ignore[union-attr]  # it is connected

    def test_in_place(self) -> None:
        """
        Bodies arrive whole and in order, however the network cuts them, and all but the heads and
        the beginnings of them goes to its place without being handed over.
        """
        bodies = [bytes([number]) * (BLOCK - number) for number in range(8)]
        for number, body in enumerate(bodies):
            self.write(number, body)
            self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, bodies)
        self.assertLess(self.receiver.handed, 8 * (HEADER_SIZE + FULL))

    def test_small_bodies(self) -> None:
        """What is not worth a place of its own is handed over, and comes all the same."""
        bodies = [b"a" * (DIRECT - 1), b"b"]
        for number, body in enumerate(bodies):
            self.write(number, body)
            self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, bodies)
        self.assertEqual(self.receiver.handed, sum(HEADER_SIZE + len(body) for body in bodies))

    def test_in_order(self) -> None:
        """What is written little by little, and in bulk, is sent in the order of writing."""
        self.sender.lane.write(encode_frame(KIND, 0, b"first"))
        self.write(0, b"second")
        self.sender.lane.write(encode_frame(KIND, 0, b"third"))
        self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, [b"first", b"second", b"third"])

    def test_owner(self) -> None:
        """
        A body is its owner's again once all of it has left, and not before: what he does to it
        then reaches nobody.
        """
        bodies = [bytearray([number]) * BLOCK for number in range(6)]
        self.receiver.lane.pauseProducing()

        def returned(number: int) -> None:
            self.returned.append(number)
            bodies[number][:] = b"!" * BLOCK

        for number, body in enumerate(bodies):
            self.sender.lane.write_bulk(
                encode_header(KIND, 0, BLOCK), memoryview(body), partial(returned, number)
            )
        self.network.run(1.0)
        self.assertLess(len(self.returned), 6)
        self.receiver.lane.resumeProducing()
        self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, [bytes([number]) * BLOCK for number in range(6)])
        self.assertEqual(self.returned, [0, 1, 2, 3, 4, 5])

    def test_back_pressure(self) -> None:
        """Whoever writes is paused once while the other side does not read, and resumed once."""
        self.receiver.lane.pauseProducing()
        for number in range(4):
            self.write(number, bytes(BLOCK))
        self.network.run(1.0)
        self.assertEqual(self.sender.said, ["pause"])
        self.receiver.lane.resumeProducing()
        self.network.run(1.0)
        self.assertEqual(self.sender.said, ["pause", "resume"])
        self.assertEqual(len(self.receiver.bodies), 4)

    def test_paused_by_what_came(self) -> None:
        """Who has enough after one body is given no more of what has come, until he resumes."""
        lane, take = self.receiver.lane, self.receiver.take

        def take_and_pause() -> None:
            before = len(self.receiver.bodies)
            take()
            if len(self.receiver.bodies) > before:
                lane.pauseProducing()

        lane.pauseProducing()
        # What comes of the first is put in its place, and what follows it is there by then.
        for number, size in enumerate((FULL + 2 * DIRECT, 2 * DIRECT, 2 * DIRECT)):
            self.write(number, bytes(size))
        self.network.run(1.0)
        self.receiver.take = take_and_pause  # type: ignore[method-assign]  # of this one
        for bodies in (1, 2, 3):
            lane.resumeProducing()
            self.network.run(1.0)
            self.assertEqual(len(self.receiver.bodies), bodies)

    def test_close(self) -> None:
        """A connection that is closed in peace delivers what was written before."""
        for number in range(3):
            self.write(number, bytes(BLOCK))
        self.sender.lane.unregisterProducer()
        self.sender.lane.loseConnection()
        self.network.run(1.0)
        self.assertEqual(len(self.receiver.bodies), 3)
        self.assertIsInstance(self.receiver.lost, ConnectionDone)
        self.assertIsInstance(self.sender.lost, ConnectionDone)

    def test_lost(self) -> None:
        """With the connection, what was not sent is given back; and so is what is written later."""
        self.receiver.lane.pauseProducing()
        for number in range(4):
            self.write(number, bytes(BLOCK))
        self.receiver.lane.abortConnection()
        self.network.run(1.0)
        self.assertIsNotNone(self.sender.lost)
        self.assertEqual(self.returned, [0, 1, 2, 3])
        self.write(4, b"late")
        self.sender.lane.write(b"later")
        self.assertEqual(self.returned, [0, 1, 2, 3, 4])

    def test_sequence(self) -> None:
        """Several pieces that are written in one call are sent in their order with all else."""
        frame = encode_frame(KIND, 0, b"first")
        self.sender.lane.writeSequence([frame[:5], frame[5:]])
        self.write(0, b"second")
        self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, [b"first", b"second"])

    def test_half_close(self) -> None:
        """Who ends his side only is not cut off: what he wrote before arrives, and then the end."""
        self.write(0, bytes(BLOCK))
        self.sender.lane.loseWriteConnection()
        self.network.run(1.0)
        self.assertEqual(len(self.receiver.bodies), 1)
        self.assertIsInstance(self.receiver.lost, ConnectionDone)

    def test_done_writes(self) -> None:
        """Whoever writes more as soon as a buffer is his again has nothing sent twice."""
        frames = [encode_frame(KIND, 0, bytes([number]) * 9) for number in range(3)]

        def more() -> None:
            self.sender.lane.write_bulk(b"", memoryview(frames[2]), lambda: None)

        lane = self.sender.lane
        lane.write(b"")
        lane._append(memoryview(frames[0]), more)  # both are sent by one call
        lane.write_bulk(b"", memoryview(frames[1]), lambda: None)
        self.network.run(1.0)
        self.assertEqual(self.receiver.bodies, [bytes([number]) * 9 for number in range(3)])

    def test_paused_in_resume(self) -> None:
        """A producer that is paused while it resumes is resumed again, though all of it left."""
        frame = encode_frame(KIND, 0, bytes(FULL))
        rounds = iter(range(3))

        def resume() -> None:
            self.sender.said.append("resume")
            if next(rounds, None) is not None:
                self.sender.lane.write(frame)
                self.sender.lane.write_bulk(b"", memoryview(b""), lambda: None)

        self.sender.resumeProducing = resume  # type: ignore[method-assign]  # of this one
        self.sender.lane.write(frame)
        self.network.run(1.0)
        self.assertEqual(self.sender.said, ["pause", "resume"] * 4)
        self.assertEqual(len(self.receiver.bodies), 4)

    def test_reset(self) -> None:
        """
        A connection that the other side has reset is lost, and not closed in peace, though it was
        a write outside the reactor's turn that the system told it to.
        """
        lane = self.sender.lane
        sending = lane.socket

        def reset(buffers: object) -> int:
            del sending.sendmsg  # a system says so once
            raise ConnectionResetError(ECONNRESET, "reset")

        sending.sendmsg = reset
        self.write(0, b"late")
        self.assertEqual(self.returned, [])
        self.assertIs(self.sender.transport.doRead(), CONNECTION_LOST)  # type: ignore[union-attr]  # it is connected
        self.network.run(1.0)
        self.assertIsInstance(self.sender.lost, ConnectionLost)
        self.assertEqual(self.returned, [0])

    def test_reset_while_received(self) -> None:
        """It is lost, too, if it was who received the last of it that wrote, and was told so."""
        receiving = self.sender.lane.socket
        arrived = [0, FULL]

        def reset(buffers: object) -> int:
            raise ConnectionResetError(ECONNRESET, "reset")

        def receive(buffers: object) -> tuple[int]:
            return (arrived.pop(),)

        receiving.sendmsg, receiving.recvmsg_into = reset, receive
        self.sender.body_room = lambda: memoryview(bytearray(FULL))  # type: ignore[method-assign]  # of this one
        self.sender.body_filled = lambda count: self.write(0, b"late")  # type: ignore[method-assign]  # likewise
        self.assertIs(self.sender.transport.doRead(), CONNECTION_LOST)  # type: ignore[union-attr]  # it is connected
        self.assertEqual(arrived, [])
        self.network.run(1.0)
        self.assertIsInstance(self.sender.lost, ConnectionLost)

    def test_elsewhere(self) -> None:
        """Only a TCP connection of Twisted's has a lane."""
        self.assertIsNone(open_lane(StringTransport()))
        wrapped = WrappingFactory(Factory.forProtocol(Protocol)).buildProtocol(None)  # type: ignore[arg-type]  # nothing looks at it
        self.assertIsNone(open_lane(wrapped))


class _Wrapping:
    """An endpoint whose connections are no TCP connections of Twisted's any more."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, factory: SourceFactory) -> Deferred[SourceProtocol]:
        wrapping = WrappingFactory(factory)
        return self._endpoint.connect(wrapping).addCallback(lambda made: made.wrappedProtocol)


class OnLanesTests(TransferTestCase):
    """Reads of whole files, by the bulk lane."""

    has_lanes = True
    ours = Introduction(OURS, "here")

    def serve(self) -> IProtocolFactory:
        """Give the factory that serves at port 6000."""
        return self.factory

    def endpoint(self) -> IStreamClientEndpoint:
        """Give the way there."""
        return client_endpoint(self.here.reactor, HostPort("10.0.0.1", 6000))

    def setUp(self) -> None:
        super().setUp()
        listening = serverFromString(self.there.reactor, "tcp:6000").listen(self.serve())
        port = self.network.result(listening)
        self.addCleanup(lambda: self.network.result(maybeDeferred(port.stopListening)))
        self.from_there = self.connect()

    def connect(self) -> SourceProtocol:
        """Connect once more."""
        factory = SourceFactory(self.ours, self.here.reactor)
        connecting = connect_source(self.endpoint(), factory)
        source = self.network.result(Deferred.fromCoroutine(connecting))
        self.addCleanup(source.leave)
        return source

    def begin(self, source: SourceProtocol, run: int) -> tuple[Deferred[None], Callable[[], None]]:
        """Begin to read a file of four blocks and a bit by frames of so many pieces."""
        entry, content = self.put(f"file-{self.random.random()}", 4 * BLOCK + 1000)
        assert entry.root is not None
        got: dict[int, bytes] = {}
        pieces = -(-entry.size // PIECE)
        done = source.read(
            entry.root,
            entry.size,
            0,
            pieces,
            run,
            lambda first, data: got.__setitem__(first, bytes(data)),
        )

        def check() -> None:
            self.assertEqual(b"".join(got[first] for first in sorted(got)), content)

        return done, check

    def read(self, run: int) -> None:
        """Read such a file."""
        done, check = self.begin(self.from_there, run)
        self.network.result(done)
        check()
        self.assertIs(self.lane() is not None, self.has_lanes)

    def lane(self) -> Lane | None:
        """Give the lane of the connection, if it has one."""
        connection = self.from_there.connection
        return connection if isinstance(connection, Lane) else None

    def test_blocks(self) -> None:
        """Frames of a block arrive as they were sent."""
        self.read(PIECES_PER_BLOCK)

    def test_runs(self) -> None:
        """And so do those of some pieces, and of one."""
        self.read(17)
        self.read(1)

    def test_several(self) -> None:
        """Connections at the same time do not meddle with each other's bytes."""
        sources = [self.from_there, self.connect(), self.connect()]
        begun = [self.begin(source, run) for source in sources for run in (PIECES_PER_BLOCK, 100)]
        for done, check in begun:
            self.network.result(done)
            check()

    def test_slow_reader(self) -> None:
        """A reader who stops for a while loses nothing, and holds up no memory of the server's
        but what a conversation may have."""
        entry, content = self.put("large", 40 * BLOCK)
        assert entry.root is not None
        got: list[bytes] = []
        done = self.from_there.read(
            entry.root,
            entry.size,
            0,
            40 * PIECES_PER_BLOCK,
            PIECES_PER_BLOCK,
            lambda first, data: got.append(bytes(data)),
        )
        self.from_there.stop_reading("test")
        self.network.run(5.0)
        self.assertLess(self.factory.allowance.memory.held, 9 * BLOCK)
        self.from_there.resume_reading("test")
        self.network.result(done)
        self.assertEqual(b"".join(got), content)
        self.assertEqual(self.factory.allowance.memory.held, 0)


class OnOrdinaryTransportsTests(OnLanesTests):
    """The same on transports that have no lane."""

    has_lanes = False

    def serve(self) -> IProtocolFactory:
        return WrappingFactory(self.factory)

    def endpoint(self) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, _Wrapping(super().endpoint()))


class InRecordsTests(OnLanesTests):
    """The same by TLS, which lanes carry."""

    ours = Introduction(Identity.from_seed(b"o" * 32).node, "here")

    def serve(self) -> IProtocolFactory:
        theirs = Identity.from_seed(b"t" * 32)
        self.factory.introduction = Introduction(theirs.node, "there")
        return Tls(theirs, self.there.reactor).accepting(self.factory)

    def setUp(self) -> None:
        self.tls: Tls | None = None
        super().setUp()

    def endpoint(self) -> IStreamClientEndpoint:
        # All connections of a node have one: what arrives and leaves shares its memory.
        self.tls = self.tls or Tls(Identity.from_seed(b"o" * 32), self.here.reactor)
        return self.tls.connecting(super().endpoint())

    def lane(self) -> Lane | None:
        connection = self.from_there.connection
        assert isinstance(connection, RecordTransport)
        return connection._lane
