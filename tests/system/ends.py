"""
Connections made by hand: a socket that says what a test lets it say, bare or in TLS, and keeps all
that it hears. On 127.0.0.1 only. No reactor: what a test waits for is the next byte, or the end.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Any, Self

from OpenSSL import SSL
from twisted.internet.task import Clock

from flow512.link.identity import Identity, node_of_certificate
from flow512.link.introduction import Introduction
from flow512.link.tls import ALPN, Tls
from flow512.wire.fields import Message
from flow512.wire.frame import Frame, FrameReader
from flow512.wire.handshake import Channel, Initiator
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import CAPS, Challenge, Hello, Kind, decode, encode

LIMIT = 60
"""Seconds after which a test that still waits has failed."""


class End:
    """
    One end of a bare connection; closed at the end of the context.

    @ivar wire: every byte that came.
    @ivar heard: every byte that came and is not TLS's own.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(LIMIT)
        self._reader = FrameReader(CAPS)
        self.wire = b""
        self.heard = b""

    @classmethod
    def to(cls, port: int, *arguments: Any) -> Self:
        """Connect."""
        return cls(socket.create_connection(("127.0.0.1", port), LIMIT), *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Say something; whoever has hung up does not hear it."""
        with suppress(ConnectionError):
            self._socket.sendall(data)

    def say(self, message: Message, request: int = 0) -> None:
        """Send a message."""
        self.send(encode(message, request))

    def receive(self) -> bytes:
        """What came, at least one byte; nothing at the end."""
        data = self._from_wire()
        self.heard += data
        return data

    def _from_wire(self) -> bytes:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        self.wire += data
        return data

    def frame(self) -> Frame | None:
        """The next frame; C{None} at the end."""
        while (frame := self._reader.next_frame()) is None:
            data = self.receive()
            if not data:
                return None
            self._reader.receive(data)
        return frame

    def frames(self) -> list[Frame]:
        """All that come until the other side hangs up."""
        return list(iter(self.frame, None))

    def finish(self) -> None:
        """Say that no more will come."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def until(self, kind: Kind) -> Frame:
        """The next frame of a kind."""
        for frame in iter(self.frame, None):
            if frame.kind == kind:
                return frame
        raise AssertionError(f"the end came before {kind.name}: {self.heard!r}")


class TlsEnd(End):
    """
    One end of a connection with TLS, after its handshake.

    @ivar alert: what TLS complained of, in OpenSSL's words; empty for nothing.
    """

    alert = ""

    def __init__(self, connected: socket.socket, tls: SSL.Connection, *, accepts: bool) -> None:
        super().__init__(connected)
        self._tls = tls
        (tls.set_accept_state if accepts else tls.set_connect_state)()
        while True:
            try:
                tls.do_handshake()
            except SSL.WantReadError:
                self._flush()
                if not self._feed():
                    return
            except SSL.Error as error:
                self._complain(error)
                return
            else:
                self._flush()
                return

    @classmethod
    def connect(cls, port: int, tls: SSL.Connection) -> Self:
        """Connect, and begin TLS."""
        return cls(
            socket.create_connection(("127.0.0.1", port), LIMIT),
            tls,
            accepts=False,
        )

    @classmethod
    def accept(cls, connected: socket.socket, identity: Identity) -> Self:
        """Be the server of somebody who has connected."""
        return cls(connected, own_tls(identity), accepts=True)

    def _complain(self, error: SSL.Error) -> None:
        self.alert = str(error)
        self._flush()

    def _flush(self) -> None:
        with suppress(SSL.WantReadError):
            while True:
                super().send(self._tls.bio_read(65536))

    def _feed(self) -> bool:
        data = self._from_wire()
        if data:
            self._tls.bio_write(data)
        return bool(data)

    def send(self, data: bytes) -> None:
        with suppress(SSL.Error):
            self._tls.sendall(data)
        self._flush()

    def receive(self) -> bytes:
        while not self.alert:
            try:
                data = self._tls.recv(65536)
            except SSL.WantReadError:
                self._flush()
                if not self._feed():
                    break
            except SSL.ZeroReturnError:
                break
            except SSL.Error as error:
                self._complain(error)
            else:
                self.heard += data
                return data
        return b""

    @property
    def channel(self) -> Channel:
        """What this side knows of the other from TLS."""
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        session = self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        return Channel(node_of_certificate(certificate), session)


def own_tls(identity: Identity) -> SSL.Connection:
    """TLS as a node with that identity speaks it, for one connection."""
    tls: SSL.Connection = Tls(identity, Clock()).clientConnectionForTLS(None)  # type: ignore[arg-type]  # not looked at
    return tls


def nobodys_tls() -> SSL.Connection:
    """Likewise without a certificate."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_alpn_protos([ALPN])
    return SSL.Connection(context, None)


def greet(
    end: End, identity: Identity, conversation: str, key: NetworkKey | None = None
) -> list[Frame]:
    """
    Say hello as a node does, with whatever key; in the clear as well as under TLS.

    @return: what was answered, in order: it ends with a hello, or with the connection.
    """
    introduction = Introduction(identity.node, key=key)
    initiator = Initiator(
        introduction.hello(conversation),
        key=key,
        channel=end.channel if isinstance(end, TlsEnd) else None,
        nonce=introduction.nonce(),
    )
    end.say(initiator.opening())
    answers: list[Frame] = []
    for frame in iter(end.frame, None):
        answers.append(frame)
        if frame.kind == Kind.CHALLENGE:
            end.say(initiator.challenged(decode(frame, Challenge)))
        elif frame.kind == Kind.HELLO:
            initiator.answered(decode(frame, Hello))
            break
    return answers


def carry(one: End, other: End) -> None:
    """Pass on what each of two says to the other, until both have hung up."""

    def pass_on(source: End, target: End) -> None:
        while data := source.receive():
            target.send(data)
        target.finish()

    back = Thread(target=pass_on, args=(other, one))
    back.start()
    pass_on(one, other)
    back.join(LIMIT)


def frames_in(data: bytes) -> list[Frame]:
    """Cut what was heard into frames."""
    reader = FrameReader(CAPS)
    reader.receive(data)
    return list(iter(reader.next_frame, None))
