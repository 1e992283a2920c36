"""
A crowd of connections that want nothing: most say nothing, the others one byte a second.

Half of those who speak begin a TLS handshake, byte by byte; the other half complete it, and then
begin a hello. Whoever is dropped comes back. Everything is on 127.0.0.0/8.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from typing import Final

from OpenSSL import SSL
from twisted.internet.task import Clock

from flow512.link.identity import SEED_SIZE, Identity
from flow512.link.introduction import Introduction
from flow512.link.tls import Tls
from flow512.wire.messages import encode

BYTE_EVERY: Final = 1.0
TELL_EVERY: Final = 1.0
TURN: Final = 0.01
"""Seconds between two looks at who may come; within one, so many come at once."""


class Manner(Enum):
    """What somebody in the crowd does."""

    SILENT = "silent"
    HANDSHAKING = "handshaking"
    GREETING = "greeting"


class Bystander:
    """
    One connection after the other of somebody in the crowd.

    @ivar is_up: whether it is connected.
    """

    def __init__(self, crowd: Crowd, manner: Manner, source: str) -> None:
        self._crowd = crowd
        self.manner = manner
        self._source = source
        self.socket = socket.socket()
        self.is_up = False

    def come(self, port: int) -> None:
        """Begin to connect."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((self._source, 0))
        self._tls: SSL.Connection | None = None
        self._to_say: Iterator[int] = iter(b"")
        with suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    def connected(self) -> None:
        """Begin with what is to be said."""
        self.is_up = True
        if self.manner is Manner.HANDSHAKING:
            self._to_say = iter(self._crowd.client_hello())
        elif self.manner is Manner.GREETING:
            self._tls = self._crowd.tls_connection()
            self._shake_hands(self._tls)

    def _shake_hands(self, tls: SSL.Connection) -> None:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            pass
        else:
            self._crowd.handshakes += 1
            self._tls = None
            self._greeting = tls
            self._to_say = iter(self._crowd.hello)
        self._flush(tls)

    def _flush(self, tls: SSL.Connection) -> None:
        with suppress(SSL.WantReadError):
            while True:
                self.socket.send(tls.bio_read(65536))

    def heard(self) -> bool:
        """
        Take what came.

        @return: whether the connection is still there.
        """
        try:
            data = self.socket.recv(65536)
            if data and self._tls is not None:
                self._tls.bio_write(data)
                self._shake_hands(self._tls)
        except BlockingIOError:
            return True
        except (OSError, SSL.Error):
            return False
        return bool(data)

    def speak(self) -> None:
        """Say one byte more, if there is anything to be said yet."""
        for number in self._to_say:
            with suppress(OSError, SSL.Error):
                if self.manner is Manner.GREETING:
                    self._greeting.send(bytes([number]))
                    self._flush(self._greeting)
                else:
                    self.socket.send(bytes([number]))
            return


IP_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h


class Crowd:
    """
    All of them.

    @ivar came: connections that were begun.
    @ivar dropped: connections that the other side ended.
    @ivar handshakes: TLS handshakes that were completed.
    @ivar hello: what those say who have completed theirs.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        identity = Identity.from_seed(os.urandom(SEED_SIZE))
        self._tls = Tls(identity, Clock())
        self.hello = encode(Introduction(identity.node, "bystander").hello("transfer"))
        manners = [Manner.SILENT] * options.silent
        manners += [(Manner.HANDSHAKING, Manner.GREETING)[n % 2] for n in range(options.slow)]
        sources = [f"127.0.{n // 250}.{n % 250 + 1}" for n in range(options.sources)]
        # In an order in which those who speak are spread over the whole.
        manners = [manners[n * 7919 % len(manners)] for n in range(len(manners))]
        self._absent = deque(
            Bystander(self, manner, sources[n % len(sources)]) for n, manner in enumerate(manners)
        )
        self._here: dict[int, Bystander] = {}
        self._poll = select.epoll()
        self._up = 0
        self.came = self.dropped = self.handshakes = 0

    def tls_connection(self) -> SSL.Connection:
        """Make the client's side of a TLS session."""
        connection = self._tls.clientConnectionForTLS(None)  # type: ignore[arg-type]  # not looked at
        connection.set_connect_state()
        return connection

    def client_hello(self) -> bytes:
        """Make the first bytes of a TLS handshake."""
        connection = self.tls_connection()
        with suppress(SSL.WantReadError):
            connection.do_handshake()
        return connection.bio_read(65536)

    def stay(self) -> None:
        """Stay until the process is ended, and tell now and then how many are there."""
        speaking: deque[tuple[float, Bystander]] = deque()
        began = told = time.monotonic()
        while True:
            now = time.monotonic()
            # Nobody makes up for a time in which all were there.
            allowed = min((now - began) * self._options.rate, self._options.rate * 0.1)
            began = max(began, now - 0.1)
            while self._absent and allowed >= 1:
                allowed -= 1
                began += 1 / self._options.rate
                self._come(self._absent.popleft())
            for number, events in self._poll.poll(TURN):
                self._look_at(number, events, speaking, now)
            while speaking and speaking[0][0] <= now:
                _, bystander = speaking.popleft()
                if self._here.get(bystander.socket.fileno()) is bystander:
                    bystander.speak()
                    speaking.append((now + BYTE_EVERY, bystander))
            if now >= told + TELL_EVERY:
                told = now
                self._tell()

    def _come(self, bystander: Bystander) -> None:
        bystander.come(self._options.port)
        self.came += 1
        number = bystander.socket.fileno()
        self._here[number] = bystander
        self._poll.register(number, select.EPOLLIN | select.EPOLLOUT)

    def _look_at(
        self, number: int, events: int, speaking: deque[tuple[float, Bystander]], now: float
    ) -> None:
        bystander = self._here[number]
        is_here = True
        if not bystander.is_up and not events & select.EPOLLERR:
            self._poll.modify(number, select.EPOLLIN)
            self._up += 1
            bystander.connected()
            if bystander.manner is not Manner.SILENT:
                speaking.append((now + BYTE_EVERY, bystander))
        if events & ~select.EPOLLOUT:
            is_here = bystander.heard()
        if not is_here:
            self.dropped += 1
            self._up -= bystander.is_up
            bystander.is_up = False
            del self._here[number]
            self._poll.unregister(number)
            bystander.socket.close()
            self._absent.append(bystander)

    def _tell(self) -> None:
        report = {
            "time": time.time(),
            "up": self._up,
            "came": self.came,
            "dropped": self.dropped,
            "handshakes": self.handshakes,
        }
        print(json.dumps(report), flush=True)


def main(arguments: list[str]) -> None:
    """Be a crowd until the process is ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("port", type=int, help="of the node, on 127.0.0.1")
    parser.add_argument("--silent", type=int, default=5000, help="who say nothing (5000)")
    parser.add_argument("--slow", type=int, default=200, help="who say a byte a second (200)")
    parser.add_argument("--rate", type=int, default=500, help="who come in a second (500)")
    parser.add_argument("--sources", type=int, default=1, help="addresses that they have (1)")
    Crowd(parser.parse_args(arguments)).stay()


if __name__ == "__main__":
    main(sys.argv[1:])
