"""
TLS for much data: Twisted's, without what it does anew for each record of 16 KiB.

Twisted asks OpenSSL for one record at a time, and passes each on by itself, in both directions:
65,536 slices, copies, calls and exceptions a GiB, which cost more than encrypting it. Here what is
written is encrypted in one go; and what arrives for the body of a frame is decrypted to where
the body is put together (L{IBodyReceiver}). What comes from the socket, and what goes to it,
passes through one buffer, which all connections of a node share: nothing stays in it from one
call to the next.

Everything else is Twisted's. The two methods that are replaced are internal to it: a later
Twisted that calls them no longer is slower with this, not wrong, and
C{tests/unit/test_records.py} notices. Over a transport that is no socket of Twisted's, all of it
is handed on as Twisted does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from OpenSSL.SSL import Connection, Context, Error, WantReadError, ZeroReturnError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection as Tcp
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.link.bulk import IBodyReceiver, IBulkTransport, Lane, open_lane
from flow512.link.sessions import RECORD, decrypt_into, decrypt_record, encrypted_into

AT_ONCE: Final = 2**19 + 2**11
"""
Bytes that are taken from the socket, or given to it, at once: two blocks, their frames' headers,
and what TLS 1.3 adds to their records: 22 bytes each, for header, type and tag.
"""

_ENCRYPTED_AT_ONCE: Final = 2**16
"""Bytes that are encrypted before what came of it is sent."""

_PARTIAL_WRITE: Final = 1
"""C{SSL_MODE_ENABLE_PARTIAL_WRITE} of C{openssl/ssl.h}, which pyOpenSSL sets but does not name."""


def write_whole(context: Context) -> None:
    """
    Let connections of a context encrypt what is written in one go, and not stop at each record.

    They write to memory, which takes everything, so that there is nothing to stop for.
    """
    context.clear_mode(_PARTIAL_WRITE)


@implementer(IBulkTransport)
class RecordTransport(BufferingTLSTransport):
    """
    TLS for one protocol; see the module.
    """

    _tlsConnection: Connection
    _receiver: IBodyReceiver | None = None
    _tcp: Tcp | None = None
    _lane: Lane | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self._receiver = IBodyReceiver(self.wrappedProtocol, None)
        assert isinstance(self.factory, RecordFactory)
        self._passing = self.factory.passing
        self._record = self._passing[:RECORD]
        self._lane = open_lane(transport)
        if self._lane is not None and self._receiver is not None:
            assert isinstance(transport, Tcp)
            self._tcp = transport
            transport.doRead = self._read_socket  # type: ignore[method-assign]  # for this one socket
        super().makeConnection(self._lane or transport)  # type: ignore[no-untyped-call]  # Twisted has no types there

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._lane is not None:
            self._lane.gone()

    # From the socket

    def _read_socket(self) -> ConnectionLost | ConnectionDone | None:
        # As Twisted's doRead, but for where the bytes go.
        assert self._tcp is not None
        assert self._lane is not None
        if self._lane.lost is not None:
            return self._lane.lost
        try:
            count = self._tcp.socket.recv_into(self._passing)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not count:
            return CONNECTION_DONE
        self.dataReceived(self._passing[:count])  # type: ignore[no-untyped-call]  # Twisted has no types there
        return None

    def _flushReceiveBIO(self) -> None:
        while not self._lostTLSConnection:
            try:
                self._take_some()
            except WantReadError:
                break
            except ZeroReturnError:
                self._shutdownTLS()  # type: ignore[no-untyped-call]  # Twisted has no types there
                self._tlsShutdownFinished(None)  # type: ignore[no-untyped-call]  # Twisted has no types there
            except Error:
                self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._flushSendBIO()

    def _take_some(self) -> None:
        room = None
        if self._receiver is not None and not self._aborted:
            room = self._receiver.body_room()
        if room is None:
            # What came from the socket is OpenSSL's by now: its place is free.
            count = decrypt_record(self._tlsConnection, self._record)
            if not self._aborted:
                assert self.wrappedProtocol is not None
                self.wrappedProtocol.dataReceived(bytes(self._record[:count]))
        else:
            assert self._receiver is not None
            self._receiver.body_filled(decrypt_into(self._tlsConnection, room))

    # To the socket

    def write_bulk(self, header: bytes, body: memoryview, done: Callable[[], None]) -> None:
        if self._tlsConnection is None:
            done()
            return
        self._aggregator.flush()
        if not self._handshakeDone or self._appSendBuffer:
            self.write(header + bytes(body))  # type: ignore[no-untyped-call]  # Twisted has no types there
        elif not self.disconnecting or self._producer is not None:
            # The header has a record of its own: whoever takes it knows where the body goes.
            self._encrypt(header)
            self._encrypt(body)
            self._flushSendBIO()
        done()

    def _write(self, bytes: bytes) -> None:
        self._encrypt(bytes)
        self._flushSendBIO()

    def _encrypt(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        try:
            while left and not self._lostTLSConnection:
                # What OpenSSL takes to encrypt, it keeps the room of for as long as it lives.
                left = left[self._tlsConnection.send(left[:_ENCRYPTED_AT_ONCE]) :]
                if left:
                    self._flushSendBIO()
        except WantReadError:
            # Before the handshake, and only then, nothing of it was taken.
            self._bufferedWrite(bytes(data))  # type: ignore[no-untyped-call]  # Twisted has no types there
        except Error:
            self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _flushSendBIO(self) -> None:
        is_more = True
        while is_more:
            count = encrypted_into(self._tlsConnection, self._passing)
            is_more = count == len(self._passing)
            if count:
                self._pass_on(self._passing[:count])

    def _pass_on(self, encrypted: memoryview) -> None:
        if self._lane is not None:
            encrypted = encrypted[self._lane.send_now(encrypted) :]
        if encrypted:
            assert self.transport is not None
            self.transport.write(bytes(encrypted))


class RecordFactory(TLSMemoryBIOFactory):
    """
    Twisted's factory, which makes L{RecordTransport}s.
    """

    protocol = RecordTransport

    def __init__(
        self,
        creator: IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator,
        isClient: bool,
        wrappedFactory: IProtocolFactory,
        clock: IReactorTime,
        passing: memoryview,
    ) -> None:
        """
        @param passing: a buffer of L{AT_ONCE} bytes, which all may share that run in one thread;
            for the others see Twisted's.
        """
        super().__init__(creator, isClient, wrappedFactory, clock)
        self.passing = passing
