"""
The bulk lane: what a TCP connection of Twisted's does for much data.

Twisted receives into fresh C{bytes} of 64 KiB and joins what is to be sent into fresh ones; memory
that is new to a process costs more than all else that is done with it. Here what arrives for the
body of a frame is received to where the body is put together (L{IBodyReceiver}), and the next
frame's header with it; what is sent leaves from the buffer that it was read to
(L{IBulkTransport}), in one call with its header, and at once if the system takes it.

A L{Lane} stands before the transport, whose C{doRead} and C{doWrite} it answers, so the reactor
drives it as it drives every other, and everything else (closing, aborting, half-open connections)
is the transport's own. Whatever is no TCP connection of Twisted's (TLS from an endpoint, a UNIX
socket, another reactor's transport, a test's) has no lane, and is used as it is.

Flow control::

    write, write_bulk ──> queue ──the system takes it──> gone, and its owner told so
                            └── more than FULL bytes: the producer is paused until it is empty

A buffer is its owner's again when C{done} is called: once all of it was taken, or the connection
is lost. What was written is sent in order, whatever way it was written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from errno import ENOBUFS, EWOULDBLOCK
from itertools import islice
from typing import Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport, IUNIXTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection as Tcp
from zope.interface import Interface, directlyProvides, implementer, providedBy

from flow512.wire.frame import HEADER_SIZE

FULL: Final = 2**16
"""Bytes in the queue above which whoever writes is paused, as with Twisted's own transports."""

AT_ONCE: Final = 2**20
"""
Bytes that are received in a row, before the reactor looks at other connections. While what has
come is dealt with more comes: it is asked for until there is nothing.
"""

DIRECT: Final = 2**13
"""Bytes of a body that have to be missing for it to be received by itself."""

_BUFFERS: Final = 64
"""Buffers that one call of the system is given."""


class IBodyReceiver(Interface):
    """
    A protocol that says where the next bytes are to go, instead of being handed them.
    """

    def body_room() -> memoryview | None:
        """
        Say where they are to go.

        @return: writable, at least one byte; L{None} if they are to be given to C{dataReceived}.
        """

    def body_filled(count: int) -> None:
        """
        Take note that bytes were put there.

        @param count: how many, from the beginning of what L{body_room} gave last.
        """


class IBulkTransport(Interface):
    """
    A transport that does not copy what it is given to write.
    """

    def write_bulk(header: bytes, body: memoryview, done: Callable[[], None]) -> None:
        """
        Write both, one after the other.

        @param done: called once C{body} is its owner's again, perhaps before this returns.
        """


@implementer(IBulkTransport)
class Lane:
    """
    One connection's; see the module. L{open_lane} makes it.
    """

    def __init__(self, tcp: Tcp) -> None:
        """
        @param tcp: connected, and nothing was written to it that it has not sent.
        """
        self._tcp = tcp
        self._queue: deque[tuple[memoryview, Callable[[], None] | None]] = deque()
        self._queued = 0
        self._is_blocked = False  # the system has taken less than it was given
        self._lost: ConnectionLost | None = None  # a failure that the system says only once
        self._producer: IPushProducer | None = None
        self._has_paused = False
        self._is_paused = False
        self._receiver: Any = None
        self._next_header = bytearray(HEADER_SIZE)
        directlyProvides(self, providedBy(tcp))
        tcp.doWrite = self._do_write  # type: ignore[method-assign]  # of this one connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tcp, name)

    @property
    def lost(self) -> ConnectionLost | None:
        """Why nothing can be sent any more, for whoever reads by himself."""
        return self._lost

    def receive_bodies(self, receiver: Any) -> None:
        """
        Receive to where the protocol wants it.

        @param receiver: the connection's protocol; an L{IBodyReceiver}.
        """
        self._receiver = receiver
        self._tcp.doRead = self._do_read  # type: ignore[method-assign]  # of this one connection

    def gone(self) -> None:
        """
        Forget what was not sent: the connection is lost.
        """
        queue, self._queue = self._queue, deque()
        self._queued = 0
        producer, self._producer = self._producer, None
        for _, done in queue:
            if done is not None:
                done()
        if producer is not None:
            producer.stopProducing()

    # Writing

    def write(self, data: bytes) -> None:
        """
        Write a little; it is sent together with all else of this turn of the reactor.
        """
        if data and self._tcp.connected:
            self._append(memoryview(data), None)
            self._tcp.startWriting()  # type: ignore[no-untyped-call]  # Twisted has no types there
            self._pause_if_full()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """
        Write several pieces, one after the other; see L{write}.
        """
        self.write(b"".join(data))

    def write_bulk(self, header: bytes, body: memoryview, done: Callable[[], None]) -> None:
        if not self._tcp.connected:
            done()
            return
        if header:
            self._append(memoryview(header), None)
        self._append(body, done)
        if not self._is_blocked:
            self._send()
        if self._queue:
            self._tcp.startWriting()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._pause_if_full()

    def send_now(self, data: memoryview) -> int:
        """
        Send what the system takes at once, unless something else has to be sent before.

        @return: how many bytes it took; the others are to be written.
        """
        if self._queue or self._is_blocked or not self._tcp.connected:
            return 0
        try:
            return self._tcp.socket.send(data)
        except OSError as error:
            self._note(error)
            return 0

    def _note(self, error: OSError) -> None:
        # The reactor is told when it asks next; the system would not tell it again.
        if error.errno not in (EWOULDBLOCK, ENOBUFS):
            self._lost = CONNECTION_LOST

    def _append(self, data: memoryview, done: Callable[[], None] | None) -> None:
        self._queue.append((data, done))
        self._queued += len(data)

    def _send(self) -> None:
        queue = self._queue
        while queue and self._lost is None:
            given = [data for data, _ in islice(queue, _BUFFERS)]
            try:
                sent = self._tcp.socket.sendmsg(given)
            except OSError as error:
                self._note(error)
                sent = 0
            self._queued -= sent
            self._is_blocked = sent < sum(map(len, given))
            taken = []
            while queue and sent >= len(queue[0][0]):
                data, done = queue.popleft()
                sent -= len(data)
                if done is not None:
                    taken.append(done)
            if self._is_blocked:
                data, done = queue[0]
                queue[0] = data[sent:], done
            for done in taken:
                done()
            if self._is_blocked:
                break

    def _do_write(self) -> ConnectionLost | ConnectionDone | None:
        self._send()
        if self._queue or self._lost is not None:
            return self._lost
        self._is_blocked = False
        if self._has_paused:
            self._has_paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
                if self._queue or self._has_paused:
                    return self._lost
        if self._tcp.disconnecting or self._tcp._writeDisconnecting:
            return Tcp.doWrite(self._tcp)  # type: ignore[no-any-return, no-untyped-call]  # Twisted has no types there
        self._tcp.stopWriting()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return None

    # Back-pressure

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """
        Pause and resume whoever writes.

        @param streaming: has to be true.
        """
        assert streaming
        if not self._tcp.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._pause_if_full()

    def unregisterProducer(self) -> None:
        """
        Pause nobody any more.
        """
        self._producer = None
        self._has_paused = False

    def _pause_if_full(self) -> None:
        if self._producer is not None and self._queued > FULL and not self._has_paused:
            self._has_paused = True
            self._producer.pauseProducing()

    # Reading

    def pauseProducing(self) -> None:
        """
        Receive nothing more.
        """
        self._is_paused = True
        self._tcp.pauseProducing()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def resumeProducing(self) -> None:
        """
        Receive again.
        """
        self._is_paused = False
        self._tcp.resumeProducing()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _do_read(self) -> ConnectionLost | ConnectionDone | None:
        if self._lost is not None:
            return self._lost
        receiver, tcp, header = self._receiver, self._tcp, self._next_header
        left = AT_ONCE
        room = receiver.body_room()
        if room is None or len(room) < DIRECT:
            return Tcp.doRead(tcp)
        while room is not None and len(room) >= DIRECT and left > 0:
            length = len(room)
            try:
                count = tcp.socket.recvmsg_into([room, header])[0]
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            if not count:
                # Whoever was given the last of it may have written, and learned of a failure.
                return self._lost or CONNECTION_DONE
            receiver.body_filled(min(count, length))
            if count > length:
                receiver.dataReceived(bytes(header[: count - length]))
            if self._is_paused or not tcp.connected:
                return None
            left -= count
            room = receiver.body_room()
        return None


def open_lane(transport: object) -> Lane | None:
    """
    Make the lane of a transport, if it can have one.

    @param transport: connected, and nothing was written to it yet.
    """
    if (
        isinstance(transport, Tcp)
        and ITCPTransport.providedBy(transport)
        and not IUNIXTransport.providedBy(transport)
        and not transport.TLS
    ):
        return Lane(transport)
    return None
