"""
TLS 1.3, in which each side proves its key.

It is Twisted's, with OpenSSL beneath. Certificates are signed by the keys that they hold, and by
nobody else, so there is no chain to verify: that the other side has the key is proven by TLS, and
which node that makes it is reckoned from the key (L{flow512.link.identity}). Whether that is a
node to speak with is for the conversation to decide, each time that a handshake is completed.
"""

from __future__ import annotations

from typing import Final, NoReturn, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import alsoProvides, implementer

from flow512.errors import Violation
from flow512.link.handshake_guard import IHandshakeGuard
from flow512.link.identity import Identity, node_of_certificate
from flow512.link.records import Passage, RecordFactory, write_whole
from flow512.wire.handshake import Channel

ALPN: Final = b"flow512/1"
"""What the protocol is called in TLS (RFC 7301)."""

_EXPORTER: Final = b"EXPORTER-Channel-Binding"
_EXPORTED: Final = 32
# RFC 9266, section 2: this label, no context, 32 bytes.


class _UnbegunSession:
    """
    The server's side of TLS before the client has said anything.

    OpenSSL takes about 50 KiB for a session, and as many microseconds, which whoever only connects
    is not worth. Until the first byte comes, this answers Twisted's wrapper as a session does that
    waits for it; then it makes the session, which takes its place, if L{IHandshakeGuard} lets it.
    """

    def __init__(self, context: SSL.Context, wrapper: TLSMemoryBIOProtocol) -> None:
        self._context = context
        self._wrapper = wrapper

    def set_accept_state(self) -> None:
        pass

    def set_app_data(self, wrapper: TLSMemoryBIOProtocol) -> None:
        pass

    def bio_write(self, data: bytes) -> int:
        guard = IHandshakeGuard(self._wrapper.wrappedProtocol, None)
        if guard is not None and not guard.handshake_begins():
            self._wrapper.abortConnection()  # type: ignore[no-untyped-call]  # Twisted has no types there
            return len(data)
        session = SSL.Connection(self._context, None)
        session.set_accept_state()
        session.set_app_data(self._wrapper)
        self._wrapper._tlsConnection = session
        return session.bio_write(data)

    def _wait(self, _: object = None) -> NoReturn:
        raise SSL.WantReadError

    do_handshake = send = bio_read = _wait

    def recv_into(self, room: memoryview, size: int) -> NoReturn:
        # Asked only when the connection is gone.
        raise SSL.ZeroReturnError

    def shutdown(self) -> bool:
        return False

    def bio_shutdown(self) -> None:
        pass


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Tls:
    """
    TLS 1.3 both ways, with one node's certificate.
    """

    def __init__(self, identity: Identity, clock: IReactorTime) -> None:
        """
        @param identity: the node's.
        @param clock: gathers small writes until its next turn.
        """
        self._clock = clock
        self._passage = Passage()
        context = self._context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.use_privatekey(identity.key)
        context.use_certificate(identity.certificate)
        # Any certificate, but one there must be; conversations judge whose it is.
        context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *certificate: True
        )
        # Nobody resumes a session: each handshake proves the keys anew. Tickets would be sent all
        # the same, and be of another length each time.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        # Thousands of connections may be idle: their buffers are given back.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        write_whole(context)
        context.set_alpn_protos([ALPN])
        context.set_alpn_select_callback(
            lambda _, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
        )

    # For Twisted's wrapper, which says itself which side it is

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return cast(SSL.Connection, _UnbegunSession(self._context, protocol))

    # Security

    def accepting(self, factory: IProtocolFactory) -> IProtocolFactory:
        return self.wrap(factory, is_client=False)

    def connecting(self, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
        return _Endpoint(self, endpoint)

    def wrap(self, factory: IProtocolFactory, *, is_client: bool) -> RecordFactory:
        """
        Give a factory of connections inside which the factory's protocols speak.
        """
        return RecordFactory(self, is_client, factory, self._clock, self._passage)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects, and begins TLS."""

    def __init__(self, tls: Tls, endpoint: IStreamClientEndpoint) -> None:
        self._tls = tls
        self._endpoint = endpoint

    def __repr__(self) -> str:
        # Twisted's logs show it.
        return f"<TLS over {self._endpoint!r}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        told = _TellsOfHandshakes(protocolFactory)
        wrapping = self._tls.wrap(told, is_client=True)
        return self._endpoint.connect(wrapping).addCallback(_inside)


@implementer(IProtocolFactory)
class _TellsOfHandshakes:
    """
    Makes sure that a protocol hears of its handshake.

    The proxy that C{ClientService} puts before every protocol passes on everything that it is
    asked for, but does not say that it would pass on that.
    """

    noisy = False

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        protocol = self._factory.buildProtocol(addr)
        if callable(getattr(protocol, "handshakeCompleted", None)):
            alsoProvides(protocol, IHandshakeListener)
        return protocol

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()


def _inside(wrapper: IProtocol) -> IProtocol:
    assert isinstance(wrapper, TLSMemoryBIOProtocol)
    inside = wrapper.wrappedProtocol
    assert inside is not None
    return inside


def channel_of(transport: object) -> Channel:
    """
    Say what TLS has proven, once its handshake is completed.

    @param transport: one for which L{is_tls}.
    @raise Violation: the other side speaks something else inside, or has no key of a node's.
    """
    assert isinstance(transport, TLSMemoryBIOProtocol)
    if transport.negotiatedProtocol != ALPN:
        raise Violation("The other side speaks TLS, but not flow512 inside it.")
    connection: SSL.Connection = transport.getHandle()  # type: ignore[no-untyped-call]  # Twisted has no types there
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise Violation("The other side has no certificate, and so is no node.")
    return Channel(
        node_of_certificate(certificate),
        connection.export_keying_material(_EXPORTER, _EXPORTED),
    )


def why_tls_failed(error: BaseException | None) -> str:
    """
    Say in a sentence why a handshake failed.

    @param error: why the connection was lost; OpenSSL's holds a list of reasons in its own words.
    @return: empty if TLS had nothing to do with it.
    """
    if not isinstance(error, SSL.Error):
        return ""
    reasons = " ".join(
        str(part) for reason in error.args if isinstance(reason, list) for part in reason
    )
    if "wrong version number" in reasons or "protocol version" in reasons:
        return (
            "The other side does not speak TLS 1.3; if it was started with --plaintext, this side"
            " needs that as well."
        )
    if "certificate required" in reasons or "did not return a certificate" in reasons:
        return "One side has no certificate, and so is no node."
    return "TLS could not be agreed on with the other side; is it a flow512 node?"
