"""Tests for L{flow512.transfer.http_body}."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import TimedOut
from flow512.transfer.http_body import BlocksBody, PieceCutter
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import BufferPool

CONTENT = Random(4).randbytes(5 * BLOCK + 3 * PIECE + 17)
SIZE = len(CONTENT)


class CutterTests(SynchronousTestCase):
    """Bytes, however they come, are cut where runs end."""

    def test_any_cuts(self) -> None:
        """Whole, byte by byte, and at random cuts, the same runs come."""
        random = Random(9)
        for step in (lambda: SIZE * 2, lambda: 7919, lambda: random.randrange(1, 2 * BLOCK)):
            for run in (512, 511, 100):
                self.check(step, run)
        self.check(lambda: 1, 512, 2 * PIECE + 1)

    def check(self, step: Callable[[], int], run: int, size: int = SIZE) -> None:
        came: list[tuple[int, bytes]] = []
        cutter = PieceCutter(
            BufferPool({BLOCK: 2}),
            size,
            1,
            -(-size // PIECE) - 1,
            run,
            lambda *each: came.append(each),
        )
        stream = CONTENT[PIECE:size] + b"beyond"
        while stream:
            length = step()
            cutter.take(stream[:length])
            stream = stream[length:]
        self.assertEqual(b"".join(data for _, data in came), CONTENT[PIECE:size])
        self.assertEqual(cutter.left, 0)
        at = 1
        for piece, data in came:
            self.assertEqual(piece, at)
            self.assertLessEqual(len(data), run * PIECE)
            self.assertEqual(piece // 512, (piece * PIECE + len(data) - 1) // BLOCK)
            at += -(-len(data) // PIECE)

    def test_stopped(self) -> None:
        """What is half full is given back when it is stopped, and nothing is taken after."""
        pool = BufferPool({BLOCK: 1})
        buffer = pool.take(BLOCK)
        pool.give_back(buffer)
        came: list[Any] = []
        cutter = PieceCutter(pool, SIZE, 0, 1024, 512, lambda *each: came.append(each))
        cutter.take(CONTENT[:1000])
        cutter.stop()
        cutter.take(CONTENT[1000:BLOCK])
        self.assertEqual(came, [])
        self.assertIs(pool.take(BLOCK), buffer)


class BodyTests(SynchronousTestCase):
    """The end of a body."""

    def test_end_after_all(self) -> None:
        """A body that is whole is whole, however its connection ends after that."""
        came: list[Any] = []
        cutter = PieceCutter(BufferPool({BLOCK: 1}), 10, 0, 1, 512, lambda *each: came.append(each))
        clock = Clock()
        body = BlocksBody(cutter, "web", clock, 5.0, ends_with_it=True)
        body.makeConnection(StringTransport())
        body.dataReceived(b"0123456789")
        self.assertNoResult(body.ended)
        body.connectionLost(Failure(ConnectionResetError()))
        self.assertIsNone(self.successResultOf(body.ended))
        self.assertEqual(came, [(0, b"0123456789")])
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_paused(self) -> None:
        """While it is paused nobody is silent; what comes all the same is taken."""
        came: list[Any] = []
        cutter = PieceCutter(BufferPool({BLOCK: 1}), 10, 0, 1, 512, lambda *each: came.append(each))
        clock = Clock()
        body = BlocksBody(cutter, "web", clock, 5.0, ends_with_it=True)
        transport = StringTransport()
        body.makeConnection(transport)
        body.pause()
        self.assertEqual(transport.producerState, "paused")
        clock.advance(60)
        body.dataReceived(b"01234")
        body.go_on()
        body.go_on()
        self.assertEqual(transport.producerState, "producing")
        clock.advance(4)
        body.dataReceived(b"56789")
        body.connectionLost()
        self.assertIsNone(self.successResultOf(body.ended))
        self.assertEqual(came, [(0, b"0123456789")])
        for late in (body.pause, body.go_on):
            late()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_after_silence(self) -> None:
        """What comes when it has been given up is not taken."""
        came: list[Any] = []
        cutter = PieceCutter(BufferPool({BLOCK: 1}), 10, 0, 1, 512, lambda *each: came.append(each))
        clock = Clock()
        body = BlocksBody(cutter, "web", clock, 5.0, ends_with_it=True)
        transport = StringTransport()
        body.makeConnection(transport)
        body.dataReceived(b"01234")
        clock.advance(5)
        self.assertIn("nothing any more", str(self.failureResultOf(body.ended, TimedOut).value))
        self.assertTrue(transport.disconnecting)
        body.dataReceived(b"56789")
        body.connectionLost()
        self.assertEqual((came, clock.getDelayedCalls()), ([], []))
