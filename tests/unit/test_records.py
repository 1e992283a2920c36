"""Tests for L{flow512.link.records}."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.link.bulk import IBodyReceiver, IBulkTransport
from flow512.link.conversation import Patience
from flow512.link.greeting import Answerer
from flow512.link.identity import Identity
from flow512.link.introduction import Introduction
from flow512.link.records import RecordTransport
from flow512.link.tls import Tls
from tests.unit.forged_records import HANDSHAKE, NEW_KEY_ASKED, Forger

HEAD = 16
"""Bytes that come before each body."""

BODY = 100_000
"""Bytes in each body: six whole records and a part."""


class Plain(Protocol):
    """Keeps what comes, and how the connection was lost."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.value


@implementer(IBodyReceiver)
class Filled(Plain):
    """After each head, has a body decrypted to its place."""

    def __init__(self) -> None:
        super().__init__()
        self.handed = 0  # bytes that dataReceived got
        self.body = bytearray()
        self.filled = 0

    def dataReceived(self, data: bytes) -> None:
        self.handed += len(data)
        self.received += data
        if len(self.received) % (HEAD + BODY) == HEAD:
            self.body, self.filled = bytearray(BODY), 0

    def body_room(self) -> memoryview | None:
        return memoryview(self.body)[self.filled :] if self.body else None

    def body_filled(self, count: int) -> None:
        self.filled += count
        if self.filled == BODY:
            self.received += self.body
            self.body = bytearray()


@implementer(IHandshakeListener)
class Early(Plain):
    """Writes before the handshake, and when it is told of it."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"first,")

    def handshakeCompleted(self) -> None:
        assert isinstance(self.transport, RecordTransport)
        self.transport.write(b"second,")
        self.transport.write_bulk(b"third,", memoryview(b"fourth"), lambda: None)


class Wire(StringTransport):
    """Counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))
        super().write(data)


class RecordTests(SynchronousTestCase):
    """Two ends of TLS, and the bytes between them in our hands."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wires: dict[Any, Wire] = {}
        self.secrets: list[bytes] = []

    def end(self, protocol: Plain, seed: bytes, is_client: bool) -> RecordTransport:
        """Make one end."""
        tls = Tls(Identity.from_seed(seed * 32), self.clock)
        tls._context.set_keylog_callback(lambda _, line: self.secrets.append(line))
        inside = Factory.forProtocol(lambda: protocol)
        wrapped = tls.wrap(inside, is_client=is_client).buildProtocol(None)
        assert isinstance(wrapped, RecordTransport)
        wire = self.wires[wrapped] = Wire()
        wrapped.makeConnection(wire)
        return wrapped

    def ends(self, receiver: Plain) -> tuple[RecordTransport, RecordTransport]:
        """Make who sends, and who receives, before they have spoken."""
        return self.end(Plain(), b"a", False), self.end(receiver, b"b", True)

    def carried(self, sender: RecordTransport) -> bytes:
        """Take what one end has sent."""
        self.clock.advance(0)
        wire = self.wires[sender]
        data = wire.value()
        wire.clear()
        wire.writes.clear()
        return data

    def pump(self, *ends: RecordTransport, chunk: int = 2**16) -> None:
        """Carry everything across, in pieces, until nothing moves."""
        one, other = ends
        moved = True
        while moved:
            moved = False
            for sender, receiver in ((one, other), (other, one)):
                data = self.carried(sender)
                for at in range(0, len(data), chunk):
                    receiver.dataReceived(data[at : at + chunk])
                    moved = True

    def check(self, receiver: Plain, chunk: int) -> None:
        """What is written arrives, however it is cut, before and after the handshake."""
        sent, got = self.ends(receiver)
        content = bytes(range(256)) * (-(-(HEAD + BODY) // 256))
        unit = content[: HEAD + BODY]
        sent.write(unit)
        self.pump(sent, got, chunk=chunk)
        sent.write(unit[:HEAD])
        self.pump(sent, got, chunk=chunk)
        sent.write(unit[HEAD:])
        sent.write(unit)
        self.pump(sent, got, chunk=chunk)
        self.assertEqual(receiver.received, unit * 3)

    def test_arrives(self) -> None:
        """A protocol that knows nothing of bodies is handed everything, in order."""
        for chunk in (2**18, 2**16, 5000):
            self.check(Plain(), chunk)

    def test_in_one_go(self) -> None:
        """
        What is written is passed on a block at a time, and encrypted 64 KiB at a time: many
        records each, but no more than OpenSSL may keep the room of while the connection is idle.
        """
        sent, got = self.ends(Plain())
        self.pump(sent, got)
        sent.write(b"opens the session")
        self.pump(sent, got)
        encrypted: list[int] = []
        session = sent._session
        assert session is not None
        encrypt = session.encrypt_into

        def noted(data: memoryview, room: memoryview) -> tuple[int, int]:
            taken, put = encrypt(data, room)
            encrypted.append(taken)
            return taken, put

        self.patch(session, "encrypt_into", noted)
        sent.write(bytes(2**18 + HEAD))
        self.assertEqual(encrypted, [3 * 2**16, 2**16 + HEAD])
        writes = self.wires[sent].writes
        self.assertEqual(len(writes), 2)
        self.assertEqual(sum(writes), 2**18 + HEAD + 17 * 22)

    def test_in_place(self) -> None:
        """A body is decrypted to where its receiver wants it; only what is no body is handed."""
        receiver = Filled()
        sent, got = self.ends(receiver)
        self.pump(sent, got)
        for _ in range(2):
            sent.write(bytes(HEAD))
            self.clock.advance(0)
            sent.write(bytes(BODY))
        self.pump(sent, got)
        self.assertEqual(receiver.received, bytes(2 * (HEAD + BODY)))
        self.assertEqual(receiver.handed, 2 * HEAD)

    def test_damaged(self) -> None:
        """A record that was changed on the way ends the connection, and none of it is used."""
        for damaged_at in (5000, 40_000):
            receiver = Filled()
            sent, got = self.ends(receiver)
            self.pump(sent, got)
            sent.write(bytes(HEAD))
            self.pump(sent, got)
            sent.write(b"x" * BODY)
            data = bytearray(self.carried(sent))
            data[damaged_at] ^= 1
            got.dataReceived(bytes(data))
            self.assertTrue(self.wires[got].disconnecting)
            self.assertNotIn(b"x", receiver.received)
            got.connectionLost(Failure(ConnectionDone()))
            self.assertIsInstance(receiver.lost, SSL.Error)

    def test_closed_in_a_body(self) -> None:
        """The other side may close in the middle of a body; that is an end like any other."""
        receiver = Filled()
        sent, got = self.ends(receiver)
        self.pump(sent, got)
        sent.write(bytes(HEAD))
        self.pump(sent, got)
        sent.write(bytes(BODY // 2))
        sent.loseConnection()
        self.pump(sent, got)
        self.assertEqual(receiver.filled, BODY // 2)
        self.assertTrue(self.wires[got].disconnecting)
        got.connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(receiver.lost, ConnectionDone)

    def test_aborted(self) -> None:
        """Once a protocol aborts, nothing more of what has arrived reaches it."""

        class Aborting(Filled):
            """Wants no more than a head."""

            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                got.abortConnection()

        receiver = Aborting()
        sent, got = self.ends(receiver)
        self.pump(sent, got)
        sent.write(bytes(HEAD))
        self.clock.advance(0)
        sent.write(bytes(BODY))
        got.dataReceived(self.carried(sent))
        self.assertEqual((receiver.handed, receiver.filled), (HEAD, 0))

    def test_write_after_loss(self) -> None:
        """Nothing is sent on a connection whose TLS has ended."""
        sent, got = self.ends(Plain())
        self.pump(sent, got)
        sent.dataReceived(b"no TLS at all, and more than a header")
        self.carried(sent)
        sent.write(bytes(BODY))
        self.assertEqual(self.carried(sent), b"")

    def test_bulk(self) -> None:
        """
        A body that is written in bulk may be overwritten at once; its receiver gets it in place,
        since its header came in a record of its own.
        """
        receiver = Filled()
        sent, got = self.ends(receiver)
        verifyObject(IBulkTransport, sent)
        body = bytearray(b"b" * BODY)
        returned: list[int] = []

        def done() -> None:
            returned.append(len(returned))

        sent.write_bulk(b"h" * HEAD, memoryview(body), done)  # before the handshake
        body[:] = b"c" * BODY
        self.pump(sent, got)
        sent.write_bulk(b"h" * HEAD, memoryview(body), done)
        body[:] = b"d" * BODY
        self.pump(sent, got)
        self.assertEqual(receiver.received, b"h" * HEAD + b"b" * BODY + b"h" * HEAD + b"c" * BODY)
        sent.loseConnection()
        self.pump(sent, got)
        sent.write_bulk(b"h" * HEAD, memoryview(body), done)
        self.assertEqual(self.carried(sent), b"")
        self.assertEqual(returned, [0, 1, 2])

    def test_too_late(self) -> None:
        """What is written once the connection is gone is its owner's again, and goes nowhere."""
        sent, got = self.ends(Plain())
        self.pump(sent, got)
        sent.connectionLost(Failure(ConnectionDone()))
        returned: list[int] = []
        sent.write_bulk(b"head", memoryview(b"body"), lambda: returned.append(1))
        self.assertEqual(returned, [1])

    def test_in_order(self) -> None:
        """Bulk comes after what was written before, however small that was."""
        receiver = Plain()
        sent, got = self.ends(receiver)
        self.pump(sent, got)
        sent.write(b"first,")
        sent.write_bulk(b"second,", memoryview(b"third,"), lambda: None)
        sent.write(b"last")
        self.pump(sent, got)
        self.assertEqual(receiver.received, b"first,second,third,last")

    def test_early(self) -> None:
        """What was written before the handshake comes before what is written at its end."""
        receiver = Plain()
        sent, got = self.end(Early(), b"a", False), self.end(receiver, b"b", True)
        self.pump(sent, got)
        self.assertEqual(receiver.received, b"first,second,third,fourth")

    def forged(
        self, receiver: Plain, other: Plain
    ) -> tuple[RecordTransport, RecordTransport, Forger]:
        """Make a server, and a client in whose name we go on."""
        server, client = self.end(receiver, b"a", False), self.end(other, b"b", True)
        self.pump(server, client)
        return server, client, Forger.of_log(self.secrets, b"CLIENT_TRAFFIC_SECRET_0")

    def test_new_keys(self) -> None:
        """Either side may change its key at any time, and ask the other to, however that is cut."""
        receiver, other = Plain(), Plain()
        server, client, forger = self.forged(receiver, other)
        arriving = b"".join(
            forger.record(b"%d," % number) + forger.new_key() for number in range(9)
        )
        for at in range(len(arriving)):
            server.dataReceived(arriving[at : at + 1])
        server.write(b"answer")
        self.pump(server, client)
        self.assertEqual(receiver.received, b"0,1,2,3,4,5,6,7,8,")
        self.assertEqual(other.received, b"answer")

    def test_too_many_keys(self) -> None:
        """Who asks for ever more keys is sent no more of them, whether he reads them or not."""
        server, _, forger = self.forged(Plain(), Plain())
        wire = self.wires[server]
        server.dataReceived(b"".join(forger.new_key() for _ in range(1000)))
        self.assertFalse(wire.aborted)
        server.dataReceived(b"".join(forger.new_key() for _ in range(2000)))
        self.assertTrue(wire.aborted)
        server.connectionLost(Failure(ConnectionDone()))
        said = len(wire.value())
        server.dataReceived(b"".join(forger.new_key() for _ in range(100)))
        self.assertEqual(len(wire.value()), said)

    def test_in_pieces(self) -> None:
        """
        OpenSSL encrypts nothing between two parts of a message of TLS; who keeps the second one
        back while there is something to say is not waited for, and nothing comes out of order.
        """
        receiver, other = Plain(), Plain()
        server, client, forger = self.forged(receiver, other)
        server.dataReceived(forger.record(NEW_KEY_ASKED[:4], HANDSHAKE))
        self.assertFalse(self.wires[server].disconnecting)
        server.write(b"one")
        server.write_bulk(b"two", memoryview(b"three"), lambda: None)
        self.clock.advance(0)
        self.assertTrue(self.wires[server].disconnecting)
        server.dataReceived(forger.record(NEW_KEY_ASKED[4:], HANDSHAKE))
        server.write(b"four")
        self.pump(server, client)
        self.assertEqual(other.received, b"")
        server.connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(receiver.lost, SSL.Error)

    def test_is_given_back(self) -> None:
        """What OpenSSL keeps for a connection goes with it, without the garbage collector."""
        sent, got = self.ends(Plain())
        self.pump(sent, got)
        sent.write(bytes(BODY))
        self.pump(sent, got)
        connections = [ref(each._tlsConnection) for each in (sent, got)]
        gc.disable()
        self.addCleanup(gc.enable)
        for each in (sent, got):
            each.connectionLost(Failure(ConnectionDone()))
            each.dataReceived(b"too late")
        self.assertEqual([connection() for connection in connections], [None, None])

    def test_conversation(self) -> None:
        """Conversations receive bodies so."""
        known = Introduction(b"n" * 32)
        verifyObject(IBodyReceiver, Answerer(known, self.clock, Patience()))
