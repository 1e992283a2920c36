"""
What connections run over: TLS 1.3, in which each side proves its key, or bare TCP.

L{flow512.link.tls} is loaded when it is used: where all connections are bare, there need not even
be an OpenSSL.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from twisted.internet.interfaces import (
    INegotiated,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)

from flow512.link.identity import Identity

TLS_RECORDS: Final = (b"\x15", b"\x16")
"""The first byte of what somebody sends who speaks TLS: an alert, or a handshake."""


class Encryption(Enum):
    """What connections run over; both sides have to mean the same."""

    TLS = "tls"
    NONE = "none"


class Security(Protocol):
    """
    What a node's connections run over.
    """

    def accepting(self, factory: IProtocolFactory) -> IProtocolFactory:
        """
        Give the factory to listen with.

        @param factory: makes the protocols that speak inside.
        """
        ...

    def connecting(self, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
        """
        Give the endpoint to connect with.

        @param endpoint: what connects beneath.
        """
        ...


class Plaintext:
    """
    Nothing: bare connections, which anybody on the way can read and change.
    """

    def accepting(self, factory: IProtocolFactory) -> IProtocolFactory:
        return factory

    def connecting(self, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
        return endpoint


def security_of(encryption: Encryption, identity: Identity, clock: IReactorTime) -> Security:
    """
    Make what a node's connections run over.

    @param encryption: what its user decided.
    @param identity: the node's.
    @param clock: see L{Tls<flow512.link.tls.Tls>}.
    """
    if encryption is Encryption.NONE:
        return Plaintext()
    from flow512.link.tls import Tls

    return Tls(identity, clock)


def is_tls(transport: object) -> bool:
    """
    Tell whether a protocol's transport is TLS, whose handshake it has to wait for.
    """
    return INegotiated.providedBy(transport)


def beneath(transport: object) -> object:
    """
    Give the transport that carries TLS; any other as it is.
    """
    return getattr(transport, "transport", transport)
