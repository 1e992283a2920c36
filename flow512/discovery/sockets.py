"""
The sockets of a beacon.

For every address there is a socket of the process's own, on a port that the system chose:
datagrams leave by it, and answers come back to it. What is sent to everybody arrives at
the well-known port, which all processes of a machine share: broadcast and multicast reach
every one of them, but a datagram to that port alone would reach only one. For IPv4 one
such socket serves all addresses; for IPv6 there is one for each interface.

Why IPv6 sockets are made here where the reactor adopts them, and not by C{listenMulticast}:
Twisted's UDP ports know no scopes. They cannot bind a link-local address, or tell which
interface a link-local source is on. A socket that is bound to C{ff02::5120} or to a
link-local address in the scope of one interface hears that interface only, so the scope is
known by the socket. Other reactors, such as those of L{flow512.testing}, are asked for
multicast ports, and only the group is joined at the socket itself: Twisted packs an address
where the system wants the number of an interface.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IMulticastTransport,
    IReactorMulticast,
    IReactorSocket,
    ISystemHandle,
    IUDPTransport,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.datagram import MAX_DATAGRAM

GROUP4: Final = "239.255.51.20"
"""In 239.255.0.0/16, the IPv4 Local Scope of RFC 2365: never routed any farther than a site."""

GROUP6: Final = "ff02::5120"
"""Link-local scope: no router forwards it."""

_RECEIVE: Final = MAX_DATAGRAM + 1
"""Bytes to read of a datagram: enough to see that one is too long."""

Trouble = Callable[[Failure], None]


def open_shared4(reactor: IReactorMulticast, port: int, protocol: DatagramProtocol) -> None:
    """
    Listen where every IPv4 broadcast and multicast of the beacons arrives.

    @raise CannotListenError, OSError: somebody has the port and does not share it.
    """
    reactor.listenMulticast(port, protocol, maxPacketSize=_RECEIVE, listenMultiple=True)


def join4(protocol: DatagramProtocol, address: LocalAddress, trouble: Trouble) -> None:
    """Let the shared IPv4 socket hear the group on the interface that has this address."""
    transport = IMulticastTransport(protocol.transport)
    transport.joinGroup(GROUP4, address.address).addErrback(trouble)


def leave4(protocol: DatagramProtocol, address: LocalAddress) -> None:
    """Undo L{join4}; an interface that is gone has left already."""
    transport = IMulticastTransport(protocol.transport)
    transport.leaveGroup(GROUP4, address.address).addErrback(lambda _: None)


def open_shared6(
    reactor: IReactorMulticast,
    address: LocalAddress,
    port: int,
    protocol: DatagramProtocol,
) -> None:
    """
    Listen where every IPv6 multicast of the beacons on one interface arrives.

    @raise CannotListenError, OSError: somebody has the port and does not share it.
    """
    if IReactorSocket.providedBy(reactor):
        _adopt(IReactorSocket(reactor), address, GROUP6, port, protocol)
        return
    transport = reactor.listenMulticast(port, protocol, "::", _RECEIVE, listenMultiple=True)
    # What stands for the socket there takes the same options.
    _join6(cast(socket.socket, ISystemHandle(transport).getHandle()), address)


def open_own(
    reactor: IReactorMulticast,
    address: LocalAddress,
    protocol: DatagramProtocol,
    trouble: Trouble,
) -> None:
    """
    Open the socket that sends from this address.

    @raise CannotListenError, OSError: the address is gone, or nothing more can be opened.
    """
    if address.is_ipv6 and IReactorSocket.providedBy(reactor):
        _adopt(IReactorSocket(reactor), address, address.address, 0, protocol)
        return
    transport = reactor.listenMulticast(0, protocol, address.address, _RECEIVE)
    if address.is_ipv6:
        transport.setOutgoingInterface(address.index).addErrback(trouble)
    else:
        transport.setBroadcastAllowed(True)
        transport.setOutgoingInterface(address.address).addErrback(trouble)


def _join6(joining: socket.socket, address: LocalAddress) -> None:
    group = socket.inet_pton(socket.AF_INET6, GROUP6)
    request = group + struct.pack("@I", address.index)
    joining.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _adopt(
    reactor: IReactorSocket,
    address: LocalAddress,
    host: str,
    port: int,
    protocol: DatagramProtocol,
) -> None:
    """Bind the group or the address itself, in the scope of the address's interface."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, address.index)
        if host == GROUP6:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _join6(made, address)
        scoped = host == GROUP6 or address.is_link_local
        made.bind((host, port, 0, address.index if scoped else 0))
        # The reactor works on a duplicate of the descriptor.
        reactor.adoptDatagramPort(made.fileno(), socket.AF_INET6, protocol, _RECEIVE)


def close(protocol: DatagramProtocol) -> Deferred[None] | None:
    """
    Close what a protocol listens on.

    @return: a L{Deferred} that fires when it is closed, or C{None} if it is already.
    """
    if protocol.transport is None:
        return None
    return IUDPTransport(protocol.transport).stopListening()
