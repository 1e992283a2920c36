"""
What a web server answers to one READ: a stream of bytes, cut into blocks as it comes.

Flow control: whoever reads asks for no more than it has room for, and no byte beyond that is taken,
however much the server sends. A disk that is slow holds back the asking; only a limit on the rate
pauses a body. A server is not silent while it is not listened to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from flow512.errors import Flow512Error, PeerLost, TimedOut
from flow512.transfer.blocks import Sink
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import BufferPool


class PieceCutter:
    """
    Bytes in, runs of pieces out, as L{flow512.transfer.blocks.BlockSource.read} promises them.

    @ivar start: offset of the first byte that is wanted.
    @ivar end: offset after the last one.
    @ivar size: the bytes of the whole content.
    """

    def __init__(
        self, buffers: BufferPool, size: int, first: int, count: int, run: int, sink: Sink
    ) -> None:
        """
        @param buffers: where runs are put together.

        The others are those of L{flow512.transfer.blocks.BlockSource.read}.
        """
        self.size = size
        self.start = first * PIECE
        self.end = min((first + count) * PIECE, size)
        self._buffers = buffers
        self._longest = run * PIECE
        self._sink = sink
        self._at = self.start
        self._buffer: bytearray | None = None
        self._filled = 0
        self._is_stopped = False

    @property
    def left(self) -> int:
        """How many bytes are still to come."""
        return self.end - self._at

    def take(self, data: bytes) -> None:
        """
        Take the next bytes; what comes after the last one that is wanted is left out.
        """
        rest = memoryview(data)[: self.left]
        while rest and not self._is_stopped:
            buffer = self._buffer
            if buffer is None:
                buffer = self._buffer = self._buffers.take(self._length_of_run())
                self._filled = 0
            part = rest[: len(buffer) - self._filled]
            with memoryview(buffer) as room:  # a slice of the buffer itself would copy twice
                room[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self._at += len(part)
            rest = rest[len(part) :]
            if self._filled == len(buffer):
                self._buffer = None
                self._sink((self._at - len(buffer)) // PIECE, buffer)

    def stop(self) -> None:
        """
        Give nothing to the sink any more.
        """
        self._is_stopped = True
        if self._buffer is not None:
            self._buffers.give_back(self._buffer)
            self._buffer = None

    def _length_of_run(self) -> int:
        end_of_block = self._at - self._at % BLOCK + BLOCK
        return min(self._at + self._longest, end_of_block, self.end) - self._at


class BlocksBody(Protocol):
    """
    Takes the body of an answer.

    @ivar ended: fires when all that is wanted has come; fails with L{PeerLost} or L{TimedOut} if
        it will not. Cancelling it closes the connection.
    """

    def __init__(
        self,
        pieces: PieceCutter,
        server: str,
        clock: IReactorTime,
        silence: float,
        *,
        ends_with_it: bool,
        came: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        @param pieces: takes the bytes.
        @param server: what sentences call the server.
        @param clock: for the deadline.
        @param silence: seconds for anything at all to come.
        @param ends_with_it: whether the body is known to end with the last byte that is wanted, so
            that the connection can be used again.
        @param came: told of bytes when they have come; it may L{pause} this.
        """
        self.ended: Deferred[None] = Deferred(lambda _: self._close())
        self._pieces = pieces
        self._server = server
        self._clock = clock
        self._silence = silence
        self._ends_with_it = ends_with_it
        self._came = came
        self._timer: IDelayedCall | None = None
        self._is_over = False

    def pause(self) -> None:
        """
        Take nothing more; what is on its way to here comes all the same.
        """
        if not self._is_over:
            self._stop_waiting()
            self._producer().pauseProducing()

    def go_on(self) -> None:
        """
        Take more.
        """
        if not self._is_over and self._timer is None:
            self._wait()
            self._producer().resumeProducing()

    def connectionMade(self) -> None:
        self._wait()

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._timer is not None:
            self._timer.reset(self._silence)
        self._pieces.take(data)
        self._came(len(data))
        # Otherwise the end is waited for: only then the connection is free for the next request.
        if not self._pieces.left and not self._ends_with_it:
            self._close()
            self._end(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._pieces.left:
            self._end(PeerLost(f"The web server {self._server} ended before everything had come."))
        else:
            self._end(None)

    def _silent(self) -> None:
        self._timer = None
        self._close()
        self._end(TimedOut(f"The web server {self._server} sends nothing any more."))

    def _producer(self) -> IPushProducer:
        assert self.transport is not None
        # What HTTP clients give to a body is one, and does not say so.
        return cast(IPushProducer, self.transport)

    def _close(self) -> None:
        self._is_over = True
        self._stop_waiting()
        assert self.transport is not None
        self.transport.loseConnection()

    def _end(self, error: Flow512Error | None) -> None:
        self._is_over = True
        self._stop_waiting()
        if not self.ended.called:
            if error is None:
                self.ended.callback(None)
            else:
                self.ended.errback(error)

    def _wait(self) -> None:
        self._timer = self._clock.callLater(self._silence, self._silent)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class UnwantedBody(Protocol):
    """
    The body of an answer of which nothing is wanted: unless it is here already, the connection is
    closed.
    """

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
