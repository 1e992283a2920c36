"""
L{flow512.testing}: TCP connections between hosts.
"""

from __future__ import annotations

import io

from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IConsumer,
    IPullProducer,
)
from twisted.internet.protocol import Protocol
from twisted.protocols.basic import FileSender
from zope.interface import implementer

from tests.unit.simulated import HalfCloser, NetworkTestCase, Recorder, Server, Spring

KIB = 1024


@implementer(IPullProducer)
class Bucket:
    """Writes once each time that it is asked."""

    def __init__(self, consumer: IConsumer, parts: list[bytes]) -> None:
        self.consumer = consumer
        self.parts = parts
        self.stopped = False

    def resumeProducing(self) -> None:
        if self.parts:
            self.consumer.write(self.parts.pop(0))
        else:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class FlowTests(NetworkTestCase):
    """Bytes, their order, and how many of them are under way."""

    def test_bytes(self) -> None:
        """Everything written arrives in order, both ways, though not as it was cut."""
        server, client = self.pair()
        there, back = (bytes(range(256)) * 1000, bytes(range(255)) * 999)
        for start in range(0, len(there), 1000):
            client.transport.write(there[start : start + 1000])
        server.transport.writeSequence([back[:5], b"", back[5:]])
        self.network.run(10)
        self.assertTrue(server.received == there)
        self.assertTrue(client.received == back)

    def test_cut_at_random(self) -> None:
        """A receiver cannot rely on messages arriving whole, nor alone."""
        server, client = self.pair()
        for _ in range(100):
            client.transport.write(b"0123456789")
            self.network.run(0.001)
        self.network.run(1)
        self.assertEqual(server.received, b"0123456789" * 100)
        self.assertTrue(any(size % 10 for size in server.sizes), "some are cut")
        self.assertTrue(any(size > 10 for size in server.sizes), "some come together")

    def test_only_bytes(self) -> None:
        """Nothing but bytes can be written."""
        _, client = self.pair()
        self.assertRaises(TypeError, client.transport.write, "text")
        self.assertRaises(TypeError, client.transport.writeSequence, ["text"])

    def test_at_most_64_kib_at_once(self) -> None:
        """A chunk is up to 64 KiB, and most are large: no work for every few bytes."""
        server, client = self.pair()
        client.transport.write(b"x" * 2**20)
        self.network.run(10)
        self.assertEqual(len(server.received), 2**20)
        self.assertLessEqual(max(server.sizes), 64 * KIB)
        self.assertLess(len(server.sizes), 120)

    def test_back_pressure(self) -> None:
        """
        A receiver that does not read stops the sender's producer; what is under way is bounded by
        the pipe and the write buffer. When it reads again, everything arrives.
        """
        server, client = self.pair()
        server.transport.pauseProducing()
        spring = Spring(client.transport, 2**20)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        self.network.run(100)
        self.assertEqual(server.received, b"")
        self.assertEqual(spring.pauses, 1)
        # Three writes fill the write buffer; 64 KiB of them fill the pipe, and the rest stays.
        self.assertEqual(2**20 - spring.left, 96 * KIB)
        self.assertEqual(self.b.bytes_sent, 64 * KIB)
        server.transport.resumeProducing()
        self.network.run(100)
        self.assertEqual(len(server.received), 2**20)

    def test_capacity(self) -> None:
        """A smaller pipe holds less."""
        self.network.capacity = 1000
        server, client = self.pair()
        server.transport.pauseProducing()
        client.transport.write(b"x" * 5000)
        self.network.run(10)
        self.assertEqual(self.b.bytes_sent, 1000)
        server.transport.resumeProducing()
        self.network.run(10)
        self.assertEqual(self.b.bytes_sent, 5000)
        self.assertEqual(len(server.received), 5000)

    def test_pull_producer(self) -> None:
        """A pull producer is asked for more each time that everything was handed over."""
        server, client = self.pair()
        bucket = Bucket(client.transport, [b"a" * 70 * KIB, b"b" * 70 * KIB, b"c"])
        client.transport.registerProducer(bucket, False)
        self.network.run(10)
        self.assertEqual(len(server.received), 140 * KIB + 1)
        self.assertEqual(bucket.parts, [])

    def test_lose_connection_flushes(self) -> None:
        """What was written before loseConnection arrives, then the end."""
        server, client = self.pair()
        client.transport.write(b"x" * 200_000)
        client.transport.loseConnection()
        self.assertTrue(client.transport.disconnecting)
        self.network.run(10)
        self.assertEqual(len(server.received), 200_000)
        server.lost.trap(ConnectionDone)
        client.lost.trap(ConnectionDone)

    def test_producer_finishes_after_lose_connection(self) -> None:
        """A registered producer may write all it has before the connection is lost."""
        server, client = self.pair()
        spring = Spring(client.transport, 500_000)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        client.transport.loseConnection()
        self.network.run(10)
        self.assertEqual(len(server.received), 500_000)
        client.lost.trap(ConnectionDone)

    def test_producer_is_stopped(self) -> None:
        """A producer is stopped when the connection is lost, or was lost before it came."""
        server, client = self.pair()
        server.transport.pauseProducing()
        spring = Spring(client.transport, 10**6)
        client.transport.registerProducer(spring, True)
        self.assertRaises(RuntimeError, client.transport.registerProducer, spring, True)
        spring.resumeProducing()
        self.network.run(1)
        server.transport.abortConnection()
        self.network.run(1)
        self.assertTrue(spring.stopped)
        late = Spring(client.transport, 1)
        client.transport.registerProducer(late, True)
        self.assertTrue(late.stopped)

    def test_pause_before_anything(self) -> None:
        """A protocol that pauses as soon as it is connected hears nothing, not even the end."""

        class Paused(Recorder):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        server, client = self.pair(server=Paused)
        client.transport.write(b"hello")
        client.transport.loseConnection()
        self.network.run(10)
        self.assertEqual((server.received, server.lost), (b"", None))
        server.transport.resumeProducing()
        self.network.run(1)
        self.assertEqual(server.received, b"hello")
        server.lost.trap(ConnectionDone)

    def test_bandwidth(self) -> None:
        """A host that is slow to send, or to receive, takes as long as its bandwidth says."""
        for slow in (self.a, self.b):
            with self.subTest(slow=slow.name):
                self.setUp()
                server, client = self.pair()
                (self.a if slow.name == "a" else self.b).bandwidth = 100_000.0
                start = self.network.clock.seconds()
                client.transport.write(b"x" * 1_000_000)
                self.network.run_until(lambda server=server: len(server.received) == 1_000_000)
                taken = self.network.clock.seconds() - start
                self.assertGreater(taken, 10.0)
                self.assertLess(taken, 11.0)

    def test_counting(self) -> None:
        """Hosts count the bytes that they sent and received."""
        server, client = self.pair()
        client.transport.write(b"x" * 1000)
        server.transport.write(b"y" * 10)
        self.network.run(1)
        self.assertEqual((self.b.bytes_sent, self.b.bytes_received), (1000, 10))
        self.assertEqual((self.a.bytes_sent, self.a.bytes_received), (10, 1000))


class EndingTests(NetworkTestCase):
    """The many ways in which a connection ends."""

    def test_abort(self) -> None:
        """abortConnection drops what was written; the other side sees a reset."""
        server, client = self.pair()
        client.transport.write(b"x" * 10**6)
        self.network.run(0.001)
        client.transport.abortConnection()
        self.network.run(10)
        client.lost.trap(ConnectionAborted)
        server.lost.trap(ConnectionLost)
        self.assertLess(len(server.received), 10**6)

    def test_what_arrived_before_a_reset(self) -> None:
        """What had arrived can be read though a reset came behind it."""
        server, client = self.pair()
        server.transport.pauseProducing()
        client.transport.write(b"last words")
        self.network.run(1)
        client.transport.abortConnection()
        self.network.run(1)
        server.transport.resumeProducing()
        self.network.run(1)
        self.assertEqual(server.received, b"last words")
        server.lost.trap(ConnectionLost)

    def test_half_close(self) -> None:
        """One direction ends, the other goes on; both sides are told if they care."""
        server, client = self.pair(HalfCloser, HalfCloser)
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        client.transport.write(b"lost or not")
        self.network.run(1)
        self.assertEqual(client.ends, ["write"])
        self.assertEqual(server.ends, ["read"])
        self.assertIsNone(server.lost)
        server.transport.write(b"answer")
        self.network.run(1)
        self.assertEqual(client.received, b"answer")
        server.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(client.ends, ["write", "read"])
        server.lost.trap(ConnectionDone)
        self.assertIsNone(client.lost)
        client.transport.loseConnection()
        self.network.run(1)
        client.lost.trap(ConnectionDone)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_half_close_twice(self) -> None:
        """After half a close the rest can be closed, or aborted."""
        ways = (("loseConnection", ConnectionDone), ("abortConnection", ConnectionAborted))
        for finish, reason in ways:
            with self.subTest(finish=finish):
                self.setUp()
                server, client = self.pair(HalfCloser, HalfCloser)
                client.transport.loseWriteConnection()
                self.network.run(1)
                getattr(client.transport, finish)()
                server.transport.write(b"x")
                self.network.run(1)
                client.lost.trap(reason)
                server.transport.write(b"y")
                self.network.run(1)
                server.lost.trap(ConnectionLost)

    def test_half_close_of_one_who_does_not_care(self) -> None:
        """A protocol that knows nothing of half a connection loses all of it."""
        server, client = self.pair(Recorder, HalfCloser)
        client.transport.loseWriteConnection()
        self.network.run(1)
        server.lost.trap(ConnectionDone)

    def test_error_in_dataReceived(self) -> None:
        """An error in a protocol is logged, and costs it its connection, not the others theirs."""

        class Broken(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ValueError("broken")

        server, client = self.pair(server=Broken)
        other = self.connect(self.b, Recorder())
        client.transport.write(b"x")
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        server.lost.trap(ValueError)
        self.assertIsNotNone(client.lost)
        self.assertIsNone(other.lost)

    def test_error_in_a_producer(self) -> None:
        """An error while writing is logged, and costs the connection."""

        class Broken(Spring):
            def resumeProducing(self) -> None:
                raise ValueError("broken")

        _, client = self.pair()
        producer = Broken(client.transport, 1)
        client.transport.registerProducer(producer, True)
        client.transport.write(b"x" * 100_000)
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        client.lost.trap(ValueError)

    def test_error_in_connectionLost(self) -> None:
        """An error in connectionLost is logged, and harms no one else."""

        class Broken(Recorder):
            def connectionLost(self, reason: object = None) -> None:
                raise ValueError("broken")

        server, client = self.pair(client=Broken)
        client.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        server.lost.trap(ConnectionDone)

    def test_write_to_one_who_has_gone(self) -> None:
        """
        One that closes without having read everything still delivers its last words; the other's
        writes then lead nowhere, and never block for ever.
        """

        class Hasty(Recorder):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        server, client = self.pair(server=Hasty, client=HalfCloser)
        spring = Spring(client.transport, 10**6)
        client.transport.registerProducer(spring, True)
        spring.resumeProducing()
        self.network.run(1)
        server.transport.write(b"enough")
        server.transport.loseConnection()
        self.network.run(10)
        self.assertEqual(client.received, b"enough")
        client.lost.trap(ConnectionLost)
        self.assertTrue(spring.stopped)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_write_after_the_other_has_closed(self) -> None:
        """Data for a connection that was closed is answered with a reset."""
        server, client = self.pair(client=HalfCloser)
        server.transport.loseConnection()
        self.network.run(1)
        self.assertEqual(client.ends, ["read"])
        client.transport.write(b"anyone?")
        self.network.run(1)
        self.assertIsNone(client.lost, "nothing reads, nothing writes: nobody has noticed")
        client.transport.write(b"anyone?")
        self.network.run(1)
        client.lost.trap(ConnectionLost)

    def test_both_close(self) -> None:
        """Both may close at once."""
        server, client = self.pair()
        server.transport.loseConnection()
        client.transport.loseConnection()
        self.network.run(1)
        server.lost.trap(ConnectionDone)
        client.lost.trap(ConnectionDone)
        self.network.result(self.port.stopListening())
        self.network.assert_quiet()

    def test_writing_after_the_end(self) -> None:
        """Writing to a transport that has lost its connection does nothing."""
        server, client = self.pair()
        client.transport.loseConnection()
        self.network.run(1)
        client.transport.write(b"too late")
        client.transport.writeSequence([b"too", b"late"])
        client.transport.loseConnection()
        client.transport.abortConnection()
        self.network.run(1)
        self.assertEqual(server.received, b"")

    def test_file_sender(self) -> None:
        """Twisted's own FileSender moves a file across."""
        server, client = self.pair()
        content = bytes(range(256)) * 4096
        sent = FileSender().beginFileTransfer(io.BytesIO(content), client.transport)
        self.network.result(sent)
        client.transport.loseConnection()
        self.network.run(5)
        self.assertTrue(server.received == content)

    def test_connection_lost_in_connectionMade(self) -> None:
        """A server that hangs up at once is seen to do so, after what it said."""

        class Rude(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"go away")
                self.transport.loseConnection()

        self.listen(self.a, Server(Rude))
        client = self.connect(self.b, Recorder())
        self.network.run(1)
        self.assertEqual(client.received, b"go away")
        client.lost.trap(ConnectionDone)
