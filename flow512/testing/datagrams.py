"""
UDP: sockets, and the groups that they join.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from flow512.testing.addresses import (
    WILDCARD,
    Interface,
    SocketAddress,
    canonical,
    family_of,
    parse,
    socket_address,
)
from flow512.testing.ports import os_error
from flow512.testing.sockets import Socket

if TYPE_CHECKING:
    from flow512.testing.host import Host
    from flow512.testing.poller import Poller

MAX_DATAGRAM: Final = 65507
"""Bytes that fit into one datagram over IPv4."""

_QUEUE: Final = 208 * 1024
"""Bytes kept for a reader that is late, Linux's C{rmem_default}; what exceeds it is dropped."""

_BROADCAST: Final = "255.255.255.255"


class DatagramSocket(Socket):
    """A UDP socket."""

    def __init__(self, host: Host, poller: Poller, family: int) -> None:
        super().__init__(host, poller, family)
        self._queue: deque[tuple[bytes, SocketAddress]] = deque()
        self._queued = 0
        self._peer: tuple[str, int] | None = None
        self._refused = False
        self._groups: set[tuple[str, int]] = set()
        self.options[socket.IPPROTO_IP, socket.IP_MULTICAST_TTL] = 1
        self.options[socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP] = 1
        self.options[socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP] = 1

    def __str__(self) -> str:
        return f"UDP port {self.port}"

    @property
    def readable(self) -> bool:
        """Whether there is a datagram or an error."""
        return bool(self._queue) or self._refused

    @property
    def writable(self) -> bool:
        """Always: a network that is full drops."""
        return True

    def bind(self, address: tuple[str, int]) -> None:
        """
        Take an address of the host's, a broadcast or a group, and a port.

        @raise OSError: as a real socket's C{bind} does; nothing is bound.
        """
        name = canonical(address[0]) if address[0] else ""
        if not name or not (parse(name).is_multicast or self.host.is_broadcast(name)):
            name = self.own_name(name)
        self.port = self.host.datagrams.bind(
            self,
            name,
            address[1],
            dual=self.dual,
            shared=self.flag(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            or self.flag(socket.SOL_SOCKET, socket.SO_REUSEPORT),
        )
        self.address = name

    def connect(self, address: tuple[str, int]) -> None:
        """Send to one address only, and hear only from there."""
        self._peer = (self.host.target(canonical(address[0])), address[1])

    def send(self, data: bytes) -> int:
        """
        Send to where the socket is connected.

        @raise OSError: as L{sendto}; C{ECONNREFUSED}, what was sent before has found no one.
        """
        assert self._peer is not None, "udp.Port sends this way only when connected"
        if self._refused:
            self._refused = False
            raise os_error(errno.ECONNREFUSED)
        return self.sendto(data, self._peer)

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        """
        Send a datagram to an address, a broadcast address or a group.

        @return: its size. Whether it arrives is never known.
        @raise OSError: C{EMSGSIZE}, it is too large; C{EACCES}, broadcast was not allowed;
            C{ENETUNREACH}, the host has no interface for that.
        """
        if len(data) > MAX_DATAGRAM:
            raise os_error(errno.EMSGSIZE)
        if self.closed:
            return len(data)  # by what is left in memory of a host that has crashed
        host = self.host
        name, port = address[0], address[1]
        target = host.target(_BROADCAST if name == "<broadcast>" else canonical(name))
        if parse(target).is_multicast:
            self._multicast(bytes(data), target, port)
        elif host.is_broadcast(target):
            self._broadcast(bytes(data), target, port)
        else:
            source = self._source(host.source_for(target))
            if parse(source).is_loopback and not host.owns(target):
                raise os_error(errno.EINVAL)
            host.network.unicast(self, source, target, port, bytes(data))
        return len(data)

    def recvfrom(self, size: int) -> tuple[bytes, SocketAddress]:
        """
        Take the next datagram; what exceeds C{size} of it is lost.

        @raise OSError: C{EWOULDBLOCK}, there is none; C{ECONNREFUSED}, what was sent has found
            no one.
        """
        if self._refused:
            self._refused = False
            raise os_error(errno.ECONNREFUSED)
        if not self._queue:
            raise os_error(errno.EWOULDBLOCK)
        data, source = self._queue.popleft()
        self._queued -= len(data)
        return data[:size], source

    def close(self) -> None:
        """Let go of port and groups."""
        if not self.closed:
            self.closed = True
            self.poller.forget(self.descriptor)
            self.host.datagrams.release(self, self.port)

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        """
        Set an option, or join or leave a group.

        @raise OSError: C{ENODEV}, there is no such interface; C{EINVAL}, that is no group;
            C{EADDRINUSE}, it was joined already; C{EADDRNOTAVAIL}, it was not joined.
        """
        if (level, name) in _MEMBERSHIP:
            assert isinstance(value, bytes), "a group and an interface, packed"
            self._change_membership(_MEMBERSHIP[level, name], level, value)
            return
        if (level, name) == (socket.IPPROTO_IP, socket.IP_MULTICAST_IF):
            assert isinstance(value, bytes), "the address of an interface, packed"
            self._interface_by_address(value[:4])
        elif (level, name) == (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF):
            index = value if isinstance(value, int) else int.from_bytes(value, sys.byteorder)
            self._interface_by_index(index)
            value = index
        elif (level, name) == (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL):
            value = value if isinstance(value, int) else value[0]
        super().setsockopt(level, name, value)

    def refuse(self) -> None:
        """Learn that nobody listens where the socket is connected."""
        self._refused = True
        self.wake()

    def is_connected_to(self, address: str, port: int) -> bool:
        """Tell whether this socket sends there and nowhere else."""
        return self._peer == (address, port)

    def deliver(self, data: bytes, source: str, port: int) -> bool:
        """Queue a datagram for the reader; whether there was room for it, and it was wanted."""
        if self._peer is not None and self._peer != (source, port):
            return False
        if self._queued + len(data) > _QUEUE:
            return False
        self._queue.append((data, socket_address(source, port, self.family)))
        self._queued += len(data)
        self.wake()
        return True

    def is_member(self, group: str, interface: Interface) -> bool:
        """Tell whether a group was joined on an interface."""
        return (group, interface.index) in self._groups

    def _source(self, default: str | None) -> str:
        bound = self.address
        if bound not in WILDCARD.values() and not parse(bound).is_multicast:
            return bound if not self.host.is_broadcast(bound) else (default or bound)
        if default is None:
            raise os_error(errno.ENETUNREACH)
        return default

    def _multicast(self, data: bytes, group: str, port: int) -> None:
        interface = self._outgoing_interface(family_of(group))
        source = self._source(interface.address(family_of(group)))
        if family_of(group) == socket.AF_INET6:
            loops = self.flag(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP)
            stays = parse(group).packed[1] & 0x0F == 1
        else:
            loops = self.flag(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP)
            stays = not self.options[socket.IPPROTO_IP, socket.IP_MULTICAST_TTL]
        self.host.network.spread(
            self, interface, source, group, port, data, here=loops, elsewhere=not stays
        )

    def _broadcast(self, data: bytes, target: str, port: int) -> None:
        if not self.flag(socket.SOL_SOCKET, socket.SO_BROADCAST):
            raise os_error(errno.EACCES)
        address = parse(target)
        for interface in self.host.interfaces:
            if interface.is_broadcast(address):
                break
        else:
            interface = self._default_interface(socket.AF_INET)
        source = self._source(interface.address(socket.AF_INET))
        self.host.network.spread(
            self, interface, source, target, port, data, here=True, elsewhere=True
        )

    def _outgoing_interface(self, family: int) -> Interface:
        if family == socket.AF_INET6:
            index = self.options.get((socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF), 0)
            assert isinstance(index, int), "setsockopt keeps the number"
            if index:
                return self._interface_by_index(index)
        else:
            chosen = self.options.get((socket.IPPROTO_IP, socket.IP_MULTICAST_IF), bytes(4))
            assert isinstance(chosen, bytes), "setsockopt keeps the packed address"
            if any(chosen[:4]):
                return self._interface_by_address(chosen[:4])
        return self._default_interface(family)

    def _default_interface(self, family: int) -> Interface:
        # That of the address which the socket is bound to; else the first that is no loopback.
        own = parse(self.address)
        for interface in self.host.interfaces:
            if interface.has(own):
                return interface
        for interface in self.host.interfaces[1:]:
            if interface.address(family) is not None:
                return interface
        raise os_error(errno.ENETUNREACH)

    def _interface_by_address(self, packed: bytes) -> Interface:
        address = parse(socket.inet_ntop(socket.AF_INET, packed))
        if not int(address):
            return self._default_interface(socket.AF_INET)
        for interface in self.host.interfaces:
            if interface.has(address):
                return interface
        raise os_error(errno.ENODEV)

    def _interface_by_index(self, index: int) -> Interface:
        if not index:
            return self._default_interface(socket.AF_INET6)
        for interface in self.host.interfaces:
            if interface.index == index:
                return interface
        raise os_error(errno.ENODEV)

    def _change_membership(self, joins: bool, level: int, request: bytes) -> None:
        if level == socket.IPPROTO_IPV6:
            # struct ipv6_mreq: the group, and the number of an interface.
            group = socket.inet_ntop(socket.AF_INET6, request[:16])
            interface = self._interface_by_index(struct.unpack("=I", request[16:20])[0])
        else:
            # struct ip_mreq: the group, and the address of an interface; ip_mreqn: its number, too.
            group = socket.inet_ntop(socket.AF_INET, request[:4])
            index = struct.unpack("=I", request[8:12])[0] if len(request) >= 12 else 0
            if index:
                interface = self._interface_by_index(index)
            else:
                interface = self._interface_by_address(request[4:8])
        if not parse(group).is_multicast:
            raise os_error(errno.EINVAL)
        membership = (canonical(group), interface.index)
        if joins == (membership in self._groups):
            raise os_error(errno.EADDRINUSE if joins else errno.EADDRNOTAVAIL)
        if joins:
            self._groups.add(membership)
        else:
            self._groups.remove(membership)


_MEMBERSHIP: Final = {
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP): True,
    (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP): False,
    (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP): True,
    (socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP): False,
}
