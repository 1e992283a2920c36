"""
Those who wait for a change that is pushed: raw sockets, all in one process of their own.

They are nodes that watch with a registry, in plaintext or inside TLS, or subscribers of Redis. Once
each is registered, what counts is that something has come; inside TLS, nobody deciphers it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Protocol

from bench import Bench, Failed
from OpenSSL import SSL
from twisted.internet.task import Clock

from flow512.descriptors import allow_enough_descriptors
from flow512.link.identity import Identity
from flow512.link.tls import Tls
from flow512.wire.messages import Hello, Kind, Register, encode

SPREAD: Final = 50
"""Addresses that the listeners connect from, as ports are finite."""

SETTLED: Final = 1.0
"""Seconds without a word to anybody, after which all that was said before has been heard."""

CHANNEL: Final = b"changes"
AT_ONCE: Final = 65536


class Line(Protocol):
    """What words go through: a socket, or TLS over one."""

    def sendall(self, data: bytes, /) -> None:
        """Say it."""

    def recv(self, size: int, /) -> bytes:
        """Hear at most so much; nothing if the other side is gone."""


class Encrypted:
    """TLS over a blocking socket, by a node of its own."""

    def __init__(self, connection: socket.socket, session: SSL.Connection) -> None:
        """
        Complete the handshake.

        @param session: as L{Tls} makes it.
        """
        self._socket = connection
        self._session = session
        while True:
            try:
                session.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                if not self._feed():
                    raise ConnectionError("There was no TLS handshake.") from None
        self._flush()

    def sendall(self, data: bytes, /) -> None:
        """Say it."""
        self._session.sendall(data)
        self._flush()

    def recv(self, size: int, /) -> bytes:
        """Hear at most so much; nothing if the other side is gone."""
        while True:
            try:
                return self._session.recv(size)
            except SSL.ZeroReturnError:
                return b""
            except SSL.WantReadError:
                if not self._feed():
                    return b""

    def _feed(self) -> bool:
        data = self._socket.recv(AT_ONCE)
        if data:
            self._session.bio_write(data)
        return bool(data)

    def _flush(self) -> None:
        with suppress(SSL.WantReadError):
            while True:
                self._socket.sendall(self._session.bio_read(AT_ONCE))


class Someone:
    """
    A node, by its number.

    @ivar node: its node id.
    """

    def __init__(self, number: int, tls: bool) -> None:
        self.node = number.to_bytes(32, "big")
        self._tls: Tls | None = None
        if tls:
            identity = Identity.from_seed(self.node)
            self.node = identity.node
            self._tls = Tls(identity, Clock())

    def calling(self, connection: socket.socket) -> Line:
        """Begin to speak on a connection of its own."""
        return self._speaking(connection, SSL.Connection.set_connect_state)

    def called(self, connection: socket.socket) -> Line:
        """Begin to speak on a connection of somebody else's."""
        return self._speaking(connection, SSL.Connection.set_accept_state)

    def _speaking(
        self, connection: socket.socket, take_side: Callable[[SSL.Connection], None]
    ) -> Line:
        if self._tls is None:
            return connection
        session = self._tls.clientConnectionForTLS(None)  # type: ignore[arg-type]  # not looked at
        take_side(session)
        return Encrypted(connection, session)

    def hello(self, conversation: str) -> bytes:
        """Make its first frame."""
        return encode(Hello(1, 1, conversation, self.node, name="bench"))


def come(kind: str, port: int, number: int) -> socket.socket:
    """
    Connect one listener, and have it registered.

    @param kind: C{registry}, C{registry-tls} or C{redis}.
    """
    connection = socket.socket()
    connection.bind((f"127.0.1.{number % SPREAD + 1}", 0))
    connection.connect(("127.0.0.1", port))
    if kind == "redis":
        line: Line = connection
        said = [b"SUBSCRIBE %s\r\n" % CHANNEL]
    else:
        someone = Someone(number + 1, kind == "registry-tls")
        line = someone.calling(connection)
        ticket = number.to_bytes(16, "big")
        said = [someone.hello("registry"), encode(Register(ticket, 0), 1)]
    for words in said:
        line.sendall(words)
        if line.recv(AT_ONCE)[:1] in (b"", bytes([Kind.ERROR])):
            sys.exit("A listener was refused.")
    connection.setblocking(False)
    return connection


def listen(kind: str, port: int, count: int) -> None:
    """
    Be all listeners; for each line on standard input, wait until all have heard something and
    print when the last has, by the clock that all processes share.
    """
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for number in range(count):
        one = come(kind, port, number)
        sockets[one.fileno()] = one
        poller.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    for _ in sys.stdin:
        while heard := poller.poll(SETTLED):
            for fd, _ in heard:
                _hear(sockets[fd])
        print("listening", flush=True)
        left = set(sockets)
        size = 0
        while left:
            heard = poller.poll(60.0)
            for fd, _ in heard:
                size = _hear(sockets[fd])
                left.discard(fd)
            if not heard:
                sys.exit("Not everybody was told.")
        print(json.dumps({"at": time.monotonic(), "bytes": size}), flush=True)


def _hear(connection: socket.socket) -> int:
    size = len(connection.recv(AT_ONCE))
    if not size:
        sys.exit("A listener was cut off.")
    return size


class Listeners:
    """The process of the listeners."""

    def __init__(self, bench: Bench, kind: str, port: int) -> None:
        command = [sys.executable, __file__, kind, str(port), str(bench.options.nodes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != f"{word}\n":
            raise Failed("The listeners have ended too early.")

    def hear(self, cause: Callable[[], object]) -> tuple[float, int]:
        """Cause a change; the seconds until the last has heard of it, and the bytes of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("listening")
        began = time.monotonic()
        cause()
        line = self._process.stdout.readline()
        if not line:
            raise Failed("Not everybody was told.")
        told = json.loads(line)
        return told["at"] - began, told["bytes"]

    def end(self) -> None:
        """End them."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def listeners(bench: Bench, kind: str, port: int) -> Iterator[Listeners]:
    """Run the listeners."""
    them = Listeners(bench, kind, port)
    try:
        yield them
    finally:
        them.end()


if __name__ == "__main__":
    allow_enough_descriptors()
    listen(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
