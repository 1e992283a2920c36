"""
Twisted's own transports, on sockets of the network.

Nothing that a protocol can observe of a transport is written anew here: buffering, producers, half
close, abort and TLS are those of L{twisted.internet.tcp} and L{twisted.internet.udp}. Only where
the socket comes from is different.
"""

from __future__ import annotations

import socket
from typing import Protocol, cast

from twisted.internet import tcp, udp

from flow512.testing.datagrams import DatagramSocket
from flow512.testing.streams import StreamSocket


class OpensSockets(Protocol):
    """What these transports ask of their reactor besides C{IReactorFDSet}."""

    def open_stream(self, family: int) -> StreamSocket:
        """Make a TCP socket."""

    def open_datagram(self, family: int) -> DatagramSocket:
        """Make a UDP socket."""


def _open_stream(reactor: object, family: int) -> socket.socket:
    # Twisted says that it wants a socket.socket. What it calls on one, StreamSocket has.
    return cast(socket.socket, cast(OpensSockets, reactor).open_stream(family))


def _open_datagram(reactor: object, family: int) -> socket.socket:
    return cast(socket.socket, cast(OpensSockets, reactor).open_datagram(family))


class _Stream(tcp.Connection):
    def startTLS(self, ctx: object, normal: bool = True) -> None:
        """
        Refuse: from this, Twisted's TLS would take its clock from the global reactor.

        Give C{clock} to L{TLSMemoryBIOFactory<twisted.protocols.tls.TLSMemoryBIOFactory>} or
        L{wrapClientTLS<twisted.internet.endpoints.wrapClientTLS>} instead.

        @raise NotImplementedError: always; the connection goes on as it was.
        """
        raise NotImplementedError(
            "startTLS would use the global reactor; wrap the factory, and give the clock."
        )


class StreamServer(_Stream, tcp.Server):
    """The server's end of a TCP connection."""


class StreamPort(tcp.Port):
    """A TCP port of a host."""

    transport = StreamServer

    def createInternetSocket(self) -> socket.socket:
        """Make the socket to listen on."""
        return _open_stream(self.reactor, self.addressFamily)


class StreamClient(_Stream, tcp.Client):
    """The client's end of a TCP connection."""

    def createInternetSocket(self) -> socket.socket:
        """Make the socket to connect with."""
        return _open_stream(self.connector.reactor, self.addressFamily)


class StreamConnector(tcp.Connector):
    """An attempt to connect, as often as it is asked to."""

    def _makeTransport(self) -> StreamClient:
        return StreamClient(  # type: ignore[no-untyped-call] # tcp.Client has no types
            self.host, self.port, self.bindAddress, self, self.reactor
        )


class DatagramPort(udp.Port):
    """A UDP port of a host."""

    def createInternetSocket(self) -> socket.socket:
        """Make the socket."""
        return _open_datagram(self.reactor, self.addressFamily)


class MulticastPort(udp.MulticastPort):
    """A UDP port of a host, which may join groups."""

    def createInternetSocket(self) -> socket.socket:
        """Make the socket, which others may share the port of if that was asked for."""
        made = _open_datagram(self.reactor, self.addressFamily)
        if self.listenMultiple:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return made
