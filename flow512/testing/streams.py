"""
TCP as a host sees it: sockets. A connection is two of them, and two flows between.

A socket is
    - idle, until it C{listen}s or C{connect}s;
    - listening: an arriving SYN makes a socket that is...
    - opening: a SYN was sent (client) or answered (server), until the other's answer arrives;
    - open: bytes flow. It stays so after an end was sent or received, which are remembered apart;
    - failed: C{error} says why. What was received before can still be read, as in a real kernel;
    - closed: its owner knows it no more. What it had sent, and its end, still arrive; what arrives
      for it is answered with RST.
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flow512.testing.addresses import (
    WILDCARD,
    SocketAddress,
    canonical,
    parse,
    socket_address,
)
from flow512.testing.flows import Flow
from flow512.testing.pipe import Item, Mark
from flow512.testing.ports import os_error
from flow512.testing.sockets import Socket

if TYPE_CHECKING:
    from flow512.testing.host import Host
    from flow512.testing.poller import Poller


class _State(enum.Enum):
    IDLE = "idle"
    LISTENING = "listening"
    OPENING = "opening"
    OPEN = "open"


class StreamSocket(Socket):
    """
    A TCP socket.

    @ivar peer_address: where it is connected to; a wildcard if nowhere.
    @ivar peer_port: 0 if nowhere.
    @ivar vanished: whether its host has crashed since.
    """

    def __init__(self, host: Host, poller: Poller, family: int) -> None:
        super().__init__(host, poller, family)
        self.peer_address = self.address
        self.peer_port = 0
        self._state = _State.IDLE
        self._error = 0
        self._outgoing: Flow | None = None
        self._incoming: Flow | None = None
        self._listener: StreamSocket | None = None
        self._accepted: deque[StreamSocket] = deque()
        self._is_accepted = False
        self._end_is_sent = False
        self._reset_is_sent = False
        self.vanished = False

    def __str__(self) -> str:
        if self._state is _State.LISTENING:
            return f"TCP port {self.port}"
        return f"TCP connection {self.getsockname()[:2]} to {self.getpeername()[:2]}"

    # What the reactor asks.

    @property
    def readable(self) -> bool:
        """Whether there are bytes, an end, an error or (listening) a connection."""
        if self._state is _State.LISTENING:
            return bool(self._accepted)
        if self._error:
            return True
        incoming = self._incoming
        return (
            self._state is _State.OPEN
            and incoming is not None
            and (incoming.pipe.received > 0 or incoming.pipe.ended)
        )

    @property
    def writable(self) -> bool:
        """Whether there is room, or an error to be told of."""
        if self._error:
            return True
        outgoing = self._outgoing
        return self._state is _State.OPEN and outgoing is not None and outgoing.pipe.writable

    @property
    def gave_up(self) -> bool:
        """Whether nothing was acknowledged for too long."""
        return self._error == errno.ETIMEDOUT

    @property
    def is_owned(self) -> bool:
        """Whether the process has it: what it has not accepted is only the kernel's."""
        return self._listener is None or self._is_accepted

    @property
    def is_listening(self) -> bool:
        """Whether it listens."""
        return self._state is _State.LISTENING

    # What the owner calls.

    def bind(self, address: SocketAddress) -> None:
        """
        Take an address of the host's and a port.

        @raise OSError: as a real socket's C{bind} does; nothing is bound.
        """
        name = self.own_name(address[0])
        self.port = self.host.streams.bind(
            self,
            name,
            address[1],
            dual=self.dual,
            shared=self.flag(socket.SOL_SOCKET, socket.SO_REUSEPORT),
        )
        self.address = name

    def listen(self, backlog: int) -> None:
        """Await connections. The backlog is not limited: a reactor here accepts at once."""
        self._state = _State.LISTENING

    def accept(self) -> tuple[StreamSocket, SocketAddress]:
        """
        Take the next connection.

        @raise OSError: C{EWOULDBLOCK}, there is none.
        """
        if not self._accepted:
            raise os_error(errno.EWOULDBLOCK)
        accepted = self._accepted.popleft()
        accepted._is_accepted = True
        return accepted, accepted.getpeername()

    def connect_ex(self, address: SocketAddress) -> int:
        """
        Start to connect, or tell how that went.

        @return: an error number, as a real socket's C{connect_ex} does: C{EINPROGRESS} at first,
            C{EISCONN} in the end.
        """
        if self._state is _State.OPEN:
            return errno.EISCONN
        assert self._state is _State.IDLE, "Twisted asks again only when it is told that it is time"
        host = self.host
        target = host.target(canonical(address[0]))
        source = host.source_for(target)
        if source is None:
            return errno.ENETUNREACH
        if self.address in WILDCARD.values():
            self.address = source
        elif parse(self.address).is_loopback and not host.owns(target):
            return errno.EINVAL
        if not self.port:
            self.port = host.streams.bind(self, self.address, 0)
        self.peer_address, self.peer_port = target, address[1]
        self._state = _State.OPENING
        network = host.network
        self._outgoing = Flow(network, self, network.host_at(target, host))
        self._outgoing.mark(Mark.SYN)
        self._limit_opening()
        return errno.EINPROGRESS

    def send(self, data: bytes | memoryview) -> int:
        """
        Send what there is room for.

        @return: how many bytes were taken; 0 when the pipe is full.
        @raise OSError: C{EPIPE}, this end is shut or has failed.
        """
        outgoing = self._outgoing
        if self._error or self._end_is_sent or outgoing is None:
            raise os_error(errno.EPIPE)
        return outgoing.send(data)

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        """
        Send what there is room for of several pieces, one after the other.

        @return: how many bytes were taken.
        @raise OSError: as L{send}; C{EWOULDBLOCK}, the pipe is full.
        """
        taken = self.send(b"".join(buffers))
        if not taken:
            raise os_error(errno.EWOULDBLOCK)
        return taken

    def recv(self, size: int) -> bytes:
        """
        Take what has arrived.

        @return: up to C{size} bytes; none at the end.
        @raise OSError: C{EWOULDBLOCK}, nothing is there yet; any other, the connection has failed.
        """
        incoming = self._incoming
        if incoming is not None:
            if incoming.pipe.received:
                return incoming.read(size)
            if incoming.pipe.ended:
                return b""
        raise os_error(self._error or errno.EWOULDBLOCK)

    def recv_into(self, room: memoryview) -> int:
        """
        Take what has arrived, to a place for it.

        @return: how many bytes; 0 at the end.
        @raise OSError: as L{recv}.
        """
        data = self.recv(len(room))
        room[: len(data)] = data
        return len(data)

    def recvmsg_into(
        self, rooms: Sequence[memoryview | bytearray]
    ) -> tuple[int, list[object], int, None]:
        """
        Take what has arrived, to several places, one after the other.

        @return: how many bytes, 0 at the end; and what a kernel would tell beside.
        @raise OSError: as L{recv}.
        """
        data = memoryview(self.recv(sum(map(len, rooms))))
        count = len(data)
        for room in rooms:
            part = data[: len(room)]
            room[: len(part)] = part
            data = data[len(part) :]
        return count, [], 0, None

    def shutdown(self, how: int) -> None:
        """
        End what is sent; reading goes on.

        @raise OSError: C{ENOTCONN}, there is no connection any more.
        """
        if self._state is not _State.OPEN or self._error:
            raise os_error(errno.ENOTCONN)
        if not self._end_is_sent and self._outgoing is not None:
            self._end_is_sent = True
            self._outgoing.mark(Mark.END)

    def close(self) -> None:
        """Let go; C{SO_LINGER} of no seconds resets the connection and drops what was sent."""
        if self.closed:
            return
        self.closed = True
        self.poller.forget(self.descriptor)
        if self._listener is None:
            self.host.streams.release(self, self.port)
        for waiting in self._accepted:
            waiting.reset()
        self._accepted.clear()
        if self._outgoing is None or self._error:
            return
        linger = self.options.get((socket.SOL_SOCKET, socket.SO_LINGER))
        if self._state is not _State.OPEN or linger == struct.pack("ii", 1, 0):
            self.reset()
            return
        if not self._end_is_sent:
            self.shutdown(socket.SHUT_RDWR)
        if self._incoming is not None and self._incoming.pipe.received:
            # What will never be read is answered with RST (RFC 1122, 4.2.2.13).
            self._reset_after_all()

    def getpeername(self) -> SocketAddress:
        """Name the other side."""
        return socket_address(self.peer_address, self.peer_port, self.family)

    def getsockopt(self, level: int, name: int, size: int = 0) -> int | bytes:
        """Get an option; C{SO_ERROR} tells why connecting failed."""
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return self._error
        return super().getsockopt(level, name, size)

    # What the network does.

    def vanish(self) -> None:
        """Be gone; what was in flight from here is lost."""
        self.closed = self.vanished = True
        if self._outgoing is not None:
            self._outgoing.end()

    def reset(self) -> None:
        """Drop what was sent, and tell the other side that the connection is no more."""
        self.closed = True
        self.poller.forget(self.descriptor)
        if self._outgoing is not None:
            self._outgoing.pipe.discard()
            self._reset_after_all()

    def fail(self, error: int) -> None:
        """Have the owner find an error; nothing that was sent arrives any more."""
        if self._outgoing is not None:
            self._outgoing.end()
        self._error = self._error or error
        if self._listener is not None and self._state is _State.OPENING:
            # Nobody owns it yet.
            self.closed = True
            self.poller.forget(self.descriptor)
        self.wake()

    def answer_syn(self, listener: StreamSocket, sender: StreamSocket) -> None:
        """Be the server's end of a connection that C{sender} has asked for."""
        self._listener = listener
        self._state = _State.OPENING
        self.address, self.port = sender.peer_address, sender.peer_port
        self.peer_address, self.peer_port = sender.address, sender.port
        self._outgoing = Flow(self.host.network, self, sender.host)
        self._outgoing.receiver = sender
        self._incoming = sender._outgoing
        sender._incoming = self._outgoing
        self._outgoing.mark(Mark.SYN_ACK)
        self._limit_opening()

    def receive(self, item: Item) -> None:
        """Take what has arrived."""
        if self.closed:
            self._receive_closed(item)
        elif item is Mark.RESET:
            self.fail(errno.ECONNRESET)
        elif item is Mark.SYN_ACK:
            self._state = _State.OPEN
            assert self._outgoing is not None, "a SYN was sent on it"
            self._outgoing.mark(Mark.ACK)
            self.wake()
        elif item is Mark.ACK:
            self._open_accepted()
        elif item is not Mark.SYN:
            self.wake()

    def _open_accepted(self) -> None:
        self._state = _State.OPEN
        assert self._listener is not None, "only a client sends ACK"
        if self._listener.closed:
            self.reset()
        else:
            self._listener._accepted.append(self)
            self._listener.wake()

    def _receive_closed(self, item: Item) -> None:
        # The kernel answers for a socket that is no more.
        if isinstance(item, bytes) or item is Mark.SYN_ACK:
            self._reset_after_all()

    def _reset_after_all(self) -> None:
        # In order, behind what was sent and its end: so an RST never overtakes an answer.
        if self._outgoing is not None and not self._reset_is_sent:
            self._reset_is_sent = True
            self._outgoing.mark(Mark.RESET)

    def _limit_opening(self) -> None:
        # Either side's answer may never come: what would make it may have been lost with a host.
        network = self.host.network
        network.clock.at(network.clock.rightNow + network.give_up, self._opening_took_too_long)

    def _opening_took_too_long(self) -> None:
        if self._state is _State.OPENING and not self.closed:
            self.fail(errno.ETIMEDOUT)
