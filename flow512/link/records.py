"""
TLS for much data: Twisted's, without what it does anew for each record of 16 KiB.

Twisted asks OpenSSL for one record at a time, and passes each on by itself, in both directions:
65,536 slices, copies, calls and exceptions a GiB, which cost more than encrypting it. Here what is
written is encrypted in one go; and what arrives for the body of a frame is decrypted to where
the body is put together (L{IBodyReceiver}). What comes from the socket, and what goes to it, passes
through two buffers (L{Passage}), which all connections of a node share: nothing stays in them from
one call of the reactor's to the next.

Everything else is Twisted's. The methods that are replaced are internal to it: a later
Twisted that calls them no longer is slower with this, not wrong, and
C{tests/unit/test_records.py} notices. Over a transport that is no socket of Twisted's, all of it
is handed on as Twisted does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from OpenSSL.SSL import Connection, Context, Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.link.bulk import IBodyReceiver, IBulkTransport, Lane, open_lane
from flow512.link.sessions import ADDED, AT_ONCE, RECORD, PublicSession, Session, open_session
from flow512.units import BLOCK

_OF_ITS_OWN: Final = 2**16
"""
Bytes that TLS may say of itself on one connection. A handshake takes 2 KiB, each answer to a new
key 27 bytes: whoever asks for 2,000 of them, and perhaps reads none, wants to fill our memory.
"""

_PARTIAL_WRITE: Final = 1
"""C{SSL_MODE_ENABLE_PARTIAL_WRITE} of C{openssl/ssl.h}, which pyOpenSSL sets but does not name."""


_IN_PIECES: Final = ("SSL routines", "", "a message of the other side's TLS is in pieces")
"""As pyOpenSSL says what OpenSSL complains of."""


class Passage:
    """
    What the bytes of all connections pass through that run in one thread.

    @ivar arriving: takes what the socket has, two blocks at most; it is OpenSSL's until all of it
        was decrypted.
    @ivar leaving: takes what is to be sent in one go, one block.
    """

    def __init__(self) -> None:
        self.arriving = memoryview(bytearray(2 * BLOCK + ADDED))
        self.leaving = memoryview(bytearray(BLOCK + ADDED))


def write_whole(context: Context) -> None:
    """
    Let connections of a context encrypt what is written in one go, and not stop at each record.

    They write to memory, which takes everything, so that there is nothing to stop for.
    """
    context.clear_mode(_PARTIAL_WRITE)


@implementer(IBulkTransport, IBodyReceiver)
class RecordTransport(BufferingTLSTransport):
    """
    TLS for one protocol; see the module.
    """

    _tlsConnection: Connection
    _receiver: IBodyReceiver | None = None
    _lane: Lane | None = None
    _session: Session | None = None
    _said_of_its_own = 0

    def makeConnection(self, transport: ITransport) -> None:
        self._receiver = IBodyReceiver(self.wrappedProtocol, None)
        assert isinstance(self.factory, RecordFactory)
        self._passage = self.factory.passage
        self._lane = open_lane(transport)
        if self._lane is not None:
            self._lane.receive_bodies(self)
        super().makeConnection(self._lane or transport)  # type: ignore[no-untyped-call]  # Twisted has no types there

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        # OpenSSL keeps 50 KiB for it, and it knows this transport: left to the garbage collector,
        # which does not see that memory, it would stay for long.
        self._session = None
        if self._lane is not None:
            self._lane.gone()

    def _open_session(self) -> Session:
        if not self._handshakeDone:
            return PublicSession(self._tlsConnection)
        self._session = open_session(self._tlsConnection)
        return self._session

    # From the socket

    def body_room(self) -> memoryview | None:
        """
        Have what arrives put where OpenSSL reads it, once the handshake is completed.
        """
        return None if self._session is None or self._lostTLSConnection else self._passage.arriving

    def body_filled(self, count: int) -> None:
        """
        Decrypt what has arrived.
        """
        self._take(self._passage.arriving[:count])

    def dataReceived(self, bytes: bytes) -> None:
        if self._lostTLSConnection:
            return
        if self._session is None:
            super().dataReceived(bytes)  # type: ignore[no-untyped-call]  # Twisted has no types there
        else:
            self._take(memoryview(bytes))

    def _take(self, encrypted: memoryview) -> None:
        assert self._session is not None
        self._session.take(encrypted)
        self._flushReceiveBIO()

    def _flushReceiveBIO(self) -> None:
        session = self._session or self._open_session()
        receiver = self._receiver
        try:
            while not self._lostTLSConnection:
                room = None if receiver is None or self._aborted else receiver.body_room()
                if room is None:
                    self._take_record(session)
                elif count := session.decrypt_into(room):
                    assert receiver is not None
                    receiver.body_filled(count)
                if session.is_dry:
                    break
        except ZeroReturnError:
            self._shutdownTLS()  # type: ignore[no-untyped-call]  # Twisted has no types there
            self._tlsShutdownFinished(None)  # type: ignore[no-untyped-call]  # Twisted has no types there
        except Error:
            self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._flushSendBIO()

    def _take_record(self, session: Session) -> None:
        record = self._passage.leaving[:RECORD]  # of which nothing leaves just now
        count = session.decrypt_record(record)
        if count and not self._aborted:
            assert self.wrappedProtocol is not None
            self.wrappedProtocol.dataReceived(bytes(record[:count]))

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
            self._encrypt(header, body)
        done()

    def _write(self, bytes: bytes) -> None:
        if self._appSendBuffer and not self._lostTLSConnection:
            # What was written before the handshake comes first, even when this is written by
            # who is told of the handshake.
            self._bufferedWrite(bytes)  # type: ignore[no-untyped-call]  # Twisted has no types there
            return
        self._encrypt(bytes)
        self._flushSendBIO()

    def _encrypt(self, *parts: bytes | memoryview) -> None:
        # What all of it comes to is sent in as few calls as there is room for.
        session = self._session or self._open_session()
        room = self._passage.leaving
        filled = 0
        for each in parts:
            part = memoryview(each)
            while part and not self._lostTLSConnection:
                if len(room) - filled < AT_ONCE + ADDED:
                    self._pass_on(room[:filled])
                    filled = 0
                try:
                    taken, put = session.encrypt_into(part, room[filled:])
                except WantReadError:
                    # Nothing of it was taken.
                    self._pass_on(room[:filled])
                    filled = 0
                    if self._handshakeDone:
                        # The other side has cut a message of TLS in two, and keeps the rest; no
                        # library does so with five bytes. We do not keep what waits for it.
                        self._tlsShutdownFinished(Failure(Error([_IN_PIECES])))  # type: ignore[no-untyped-call]  # Twisted has no types there
                    else:
                        self._bufferedWrite(bytes(part))  # type: ignore[no-untyped-call]  # Twisted has no types there
                    break
                except Error:
                    self._pass_on(room[:filled])
                    filled = 0
                    self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]  # Twisted has no types there
                    break
                part = part[taken:]
                filled += put
        self._pass_on(room[:filled])

    def _flushSendBIO(self) -> None:
        if self._tlsConnection is None:
            return
        session = self._session or self._open_session()
        room = self._passage.leaving
        is_more = True
        while is_more:
            count = session.encrypted_into(room)
            is_more = count == len(room)
            self._said_of_its_own += count
            self._pass_on(room[:count])
        if self._said_of_its_own > _OF_ITS_OWN and not self._aborted:
            self.abortConnection()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _pass_on(self, encrypted: memoryview) -> None:
        if encrypted and self._lane is not None:
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
        passage: Passage,
    ) -> None:
        """
        @param passage: which all may share that run in one thread; for the others see Twisted's.
        """
        super().__init__(creator, isClient, wrappedFactory, clock)
        self.passage = passage
