"""
Addresses, as people type them and as peers are listed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    clientFromString,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)

from flow512.content.paths import escape
from flow512.errors import Misuse, PortTaken
from flow512.link.origin import unwrapped

DEFAULT_PORT: Final = 5000
"""The TCP port of nodes and registries."""

LOOPBACK: Final = "127.0.0.1"
"""Where a machine reaches itself."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a connection to be made."""

_BACKLOG: Final = 1024
"""
Connections that may wait to be accepted. With Twisted's 50, whoever connects while a few thousand a
second do the same has to wait for a second, until his system tries again.
"""

_TCP: Final = re.compile(r"tcp6?:.")
_POSITIONAL_BACKLOG: Final = re.compile(r"^tcp6?:[^:]*:(\\.|[^:=])*:[0-9]+$")
_BRACKETED: Final = re.compile(r"\[([^\]]+)\](?::([0-9]{1,5}))?")
_PLAIN: Final = re.compile(r"([^:/\s\[\]]+)(?::([0-9]{1,5}))?")


class HostPort(msgspec.Struct, frozen=True):
    """
    A TCP address. C{str()} gives it as people write it.

    @ivar host: a name, or the literal of an IPv4 or IPv6 address.
    @ivar port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> HostPort | str:
    """
    Read an address that somebody typed: C{host}, C{host:port}, C{[IPv6]:port}, or the string of
    any Twisted client endpoint, such as C{tcp:host:port} or C{unix:/path}.

    @param default_port: for an address without one.
    @return: the TCP address, or the endpoint string as it is.
    @raise Misuse: it is none of these.
    """
    text = text.strip()
    if _is_ipv6(text):
        return HostPort(unwrapped(text), default_port)
    match = _BRACKETED.fullmatch(text)
    if match is not None and _is_ipv6(match[1]):
        return HostPort(unwrapped(match[1]), _port(text, match[2], default_port))
    match = _PLAIN.fullmatch(text)
    if match is not None:
        return HostPort(match[1], _port(text, match[2], default_port))
    if ":" in text and not text.startswith(("[", ":")):
        return text
    raise _no_address(text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _port(text: str, digits: str | None, default: int) -> int:
    port = default if digits is None else int(digits)
    if not 1 <= port <= 65535:
        raise Misuse(f"'{escape(text)}' is no address; its port has to be one from 1 to 65535.")
    return port


def _no_address(text: str) -> Misuse:
    return Misuse(
        f"'{escape(text)}' is no address; give host, host:port, [IPv6]:port"
        " or a Twisted endpoint string."
    )


def _why(error: Exception) -> str:
    """Say what Twisted has against an endpoint string, as the middle of a sentence."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    return escape(said).rstrip(".")


def client_endpoint(
    reactor: IReactorTime, address: HostPort | str, timeout: float = CONNECT_TIMEOUT
) -> IStreamClientEndpoint:
    """
    Make the endpoint that connects to an address.

    @param reactor: one that can do what the address needs: TCP, or what its endpoint string says.
    @param address: as L{parse_address} gives it.
    @param timeout: seconds for a TCP connection to be made.
    @raise Misuse: no such endpoint is known here, or its arguments are wrong.
    """
    if isinstance(address, HostPort):
        try:
            version = ipaddress.ip_address(address.host).version
        except ValueError:
            try:
                name = address.host.encode("idna")
            except UnicodeError:
                raise _no_address(str(address)) from None
            return HostnameEndpoint(reactor, name, address.port, timeout=timeout)
        kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
        return kind(reactor, address.host, address.port, timeout)
    try:
        endpoint: IStreamClientEndpoint = clientFromString(  # type: ignore[no-untyped-call]  # Twisted has no types there
            reactor, address
        )
        return endpoint
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise Misuse(
            f"'{escape(address)}' is no endpoint that can be connected to: {_why(error)};"
            " give host, host:port or [IPv6]:port."
        ) from None


def usual_places(*ports: int) -> list[str]:
    """
    Give the server endpoint strings for TCP ports on every address of the machine.

    @param ports: in the order in which they are to be tried; 0 for any that is free.
    """
    # The IPv6 wildcard takes IPv4 connections as well; not every machine has it.
    return [f"tcp:{port}{interface}" for port in ports for interface in (r":interface=\:\:", "")]


def _with_backlog(description: str) -> str:
    """Let a server endpoint string say how many may wait, unless it does or cannot."""
    says_it = ":backlog=" in description or _POSITIONAL_BACKLOG.search(description)
    if says_it or not _TCP.match(description):
        return description
    return f"{description}:backlog={_BACKLOG}"


async def listen_at(
    reactor: IReactorTime, places: str | Sequence[str], factory: IProtocolFactory
) -> IListeningPort:
    """
    Listen where the user said, or at the first of several places that is free.

    @param places: a server endpoint string, or at least one of them.
    @raise PortTaken: none is free, or may be used.
    @raise Misuse: it is no endpoint.
    """
    for description in [places] if isinstance(places, str) else places:
        try:
            endpoint: IStreamServerEndpoint = serverFromString(  # type: ignore[no-untyped-call]  # Twisted has no types there
                reactor, _with_backlog(description)
            )
            # Some endpoints look at their arguments only now.
            return await endpoint.listen(factory)
        except CannotListenError as error:
            failed = error
        except (ValueError, TypeError, LookupError, OSError, OverflowError) as error:
            raise Misuse(
                f"'{escape(description)}' is no endpoint to listen on: {_why(error)};"
                " give it as in tcp:5000, or tcp:5000:interface=10.0.0.5."
            ) from None
    cause = failed.socketError
    why = getattr(cause, "strerror", None) or str(cause)
    raise PortTaken(
        f"Nothing can listen on '{escape(description)}' ({escape(why)});"
        " choose another with --listen, such as --listen tcp:5001."
    )


def host_of(port: IListeningPort | None, usual: str) -> str:
    """
    Say at which of the machine's addresses a port can be reached.

    @param usual: the address for a port that is open on all of them, or has none.
    """
    bound = "" if port is None else unwrapped(getattr(port.getHost(), "host", ""))
    return usual if bound in ("", "0.0.0.0", "::") else bound  # noqa: S104  # compared, not bound
