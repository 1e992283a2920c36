"""
TLS for much data: Twisted's, without what it does anew for each record of 16 KiB.

Twisted asks OpenSSL for one record at a time, and passes each on by itself, in both directions:
65,536 slices, copies, calls and exceptions a GiB, which cost more than encrypting it. Here what is
written is encrypted in one go; and what arrives for the body of a frame is decrypted to where
the body is put together (L{IBodyReceiver}).

Everything else is Twisted's. The two methods that are replaced are internal to it: a later
Twisted that calls them no longer is slower with this, not wrong, and
C{tests/unit/test_records.py} notices.
"""

from __future__ import annotations

from typing import Final

from OpenSSL.SSL import Connection, Context, Error, WantReadError, ZeroReturnError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ITransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import Interface

_RECORD: Final = 2**14
"""The most bytes that a record carries (RFC 8446, section 5.1)."""

_OVERHEAD: Final = 22
"""What TLS 1.3 adds to a record: 5 bytes of header, 1 of type, 16 of tag."""

_READ: Final = 2**18
"""Bytes that are taken from the socket at once, by those that receive bodies."""

_SEND: Final = 2**19
"""Bytes that are given to the socket at once: more than a block and what TLS adds to it."""

_PARTIAL_WRITE: Final = 1
"""C{SSL_MODE_ENABLE_PARTIAL_WRITE} of C{openssl/ssl.h}, which pyOpenSSL sets but does not name."""


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


def write_whole(context: Context) -> None:
    """
    Let connections of a context encrypt what is written in one go, and not stop at each record.

    They write to memory, which takes everything, so that there is nothing to stop for.
    """
    context.clear_mode(_PARTIAL_WRITE)


class RecordTransport(BufferingTLSTransport):
    """
    TLS for one protocol; see the module.
    """

    _tlsConnection: Connection
    _receiver: IBodyReceiver | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self._receiver = IBodyReceiver(self.wrappedProtocol, None)
        if isinstance(transport, FileDescriptor):
            transport.SEND_LIMIT = _SEND
            if self._receiver is not None:
                transport.bufferSize = _READ
        super().makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _write(self, bytes: bytes) -> None:
        if self._lostTLSConnection:
            return
        left = memoryview(bytes)
        try:
            while left:
                left = left[self._tlsConnection.send(left) :]
        except WantReadError:
            # Before the handshake, and only then, nothing of it was taken.
            self._bufferedWrite(bytes)  # type: ignore[no-untyped-call]  # Twisted has no types there
        except Error:
            self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]  # Twisted has no types there
        else:
            self._pass_on(len(bytes) + (len(bytes) // _RECORD + 2) * _OVERHEAD)

    def _pass_on(self, most: int) -> None:
        assert self.transport is not None
        try:
            while True:
                self.transport.write(self._tlsConnection.bio_read(most))
        except WantReadError:
            return

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
        self._flushSendBIO()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _take_some(self) -> None:
        room = None
        if self._receiver is not None and not self._aborted:
            room = self._receiver.body_room()
        if room is None:
            data = self._tlsConnection.recv(_RECORD)
            if not self._aborted:
                assert self.wrappedProtocol is not None
                self.wrappedProtocol.dataReceived(data)
        else:
            assert self._receiver is not None
            self._receiver.body_filled(self._decrypt_into(room))

    def _decrypt_into(self, room: memoryview) -> int:
        filled = 0
        try:
            while filled < len(room):
                filled += self._tlsConnection.recv_into(room[filled:], _RECORD)
        except (WantReadError, ZeroReturnError):
            # Both are said again to whoever asks again.
            if not filled:
                raise
        return filled


class RecordFactory(TLSMemoryBIOFactory):
    """
    Twisted's factory, which makes L{RecordTransport}s.
    """

    protocol = RecordTransport
