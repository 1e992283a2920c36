"""
Connections to web servers: over TLS, to one that shows whose it is before anything is asked of it.

Twisted makes the TLS, with the system's authorities, but it refuses only the certificate of another
host: one that names no host at all, or whose names make no sense, it logs and lets pass. So the
name is checked here (RFC 9525), and whatever cannot be checked is refused.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from flow512.link.address import CONNECT_TIMEOUT

_PROVEN: Final = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


@implementer(IAgentEndpointFactory)
class WebEndpoints:
    """
    Ways to web servers, for an L{Agent<twisted.web.client.Agent>}.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: what L{HostnameEndpoint} needs, and the clock.
        """
        self._reactor = reactor

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        Connect by TCP, and for C{https} by TLS over it.
        """
        host = uri.host.decode("ascii")
        endpoint = HostnameEndpoint(self._reactor, host, uri.port, timeout=CONNECT_TIMEOUT)
        if uri.scheme == b"http":
            return endpoint
        return wrapClientTLS(_OnlyHost(host), endpoint, clock=self._reactor)


@implementer(IOpenSSLClientConnectionCreator)
class _OnlyHost:
    """TLS with one host, and with nobody else."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._creator = optionsForClientTLS(host)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection: SSL.Connection = self._creator.clientConnectionForTLS(protocol)
        is_address = isIPAddress(self._host) or isIPv6Address(self._host)
        host = IPAddress_ID(self._host) if is_address else DNS_ID(self._host)

        def verify(_: object, certificate: X509, error: int, depth: int, is_valid: int) -> bool:
            if not is_valid or depth:
                return bool(is_valid)  # of those that vouch for the server's, OpenSSL judges
            try:
                verify_service_identity(extract_patterns(certificate), [host], [])
            except Exception:  # noqa: BLE001  # what cannot be read proves nothing
                return False
            return True

        connection.set_verify(_PROVEN, verify)
        return connection
