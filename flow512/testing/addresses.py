"""
Addresses, the interfaces that have them, and the links between interfaces.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""What the socket module calls an address: host and port, and two zeros more for IPv6."""

WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - simulated, binds nothing
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@lru_cache(maxsize=65536)
def parse(address: str) -> IPv4Address | IPv6Address:
    """
    Read an address, without its scope: hosts here have no two links that only a scope tells apart.

    @raise ValueError: it is none.
    """
    return ip_address(address.partition("%")[0])


@lru_cache(maxsize=65536)
def canonical(address: str) -> str:
    """Write an address in the one form that it is compared in."""
    return str(parse(address))


def family_of(address: str) -> socket.AddressFamily:
    """Tell IPv4 from IPv6."""
    return socket.AF_INET6 if parse(address).version == 6 else socket.AF_INET


def socket_address(host: str, port: int, family: int) -> SocketAddress:
    """Write an address as sockets of C{family} do; IPv6 sockets show IPv4 addresses mapped."""
    if family != socket.AF_INET6:
        return (host, port)
    return (host if ":" in host else f"::ffff:{host}", port, 0, 0)


@dataclass(frozen=True)
class Interface:
    """
    A network interface of a host.

    @ivar index: its number on the host; 1 is the loopback.
    @ivar ipv4: its address and subnet, or C{None}.
    @ivar ipv6: its address and subnet, or C{None}.
    """

    index: int
    ipv4: IPv4Interface | None
    ipv6: IPv6Interface | None

    def address(self, family: int) -> str | None:
        """Name its address in a family, if it has one."""
        if family == socket.AF_INET6:
            return None if self.ipv6 is None else str(self.ipv6.ip)
        return None if self.ipv4 is None else str(self.ipv4.ip)

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """Tell whether an address is this interface's own."""
        return any(own is not None and own.ip == address for own in (self.ipv4, self.ipv6))

    def reaches(self, address: IPv4Address | IPv6Address) -> bool:
        """Tell whether an address is of one of its subnets."""
        return any(own is not None and address in own.network for own in (self.ipv4, self.ipv6))

    def is_broadcast(self, address: IPv4Address | IPv6Address) -> bool:
        """Tell whether an address is the directed broadcast of its subnet."""
        own = self.ipv4
        return (
            own is not None
            and own.network.prefixlen < 31
            and (address == own.network.broadcast_address)
        )

    def shares_link(self, other: Interface) -> bool:
        """
        Tell whether two interfaces are on one link, which broadcast and multicast stay on.

        They are if they are of the same IPv4 subnet; if one has no IPv4, of the same IPv6 subnet.
        """
        if self.ipv4 is not None and other.ipv4 is not None:
            return self.ipv4.network == other.ipv4.network
        if self.ipv6 is not None and other.ipv6 is not None:
            return self.ipv6.network == other.ipv6.network
        return False


LOOPBACK_INTERFACE = Interface(1, IPv4Interface("127.0.0.1/8"), IPv6Interface("::1/128"))


def interfaces_of(addresses: Iterable[str]) -> tuple[Interface, ...]:
    """
    Lay out the interfaces of a host, the loopback first.

    @param addresses: as in C{"10.0.0.1"}, C{"10.1.2.3/16"}, C{"fd00::1"}; a subnet that is not
        named has 24 bits of IPv4 or 64 of IPv6. The first IPv4 and the first IPv6 address share the
        first interface (index 2), the second ones the next, and so on.
    @raise ValueError: an address cannot be read.
    """
    ipv4: list[IPv4Interface] = []
    ipv6: list[IPv6Interface] = []
    for address in addresses:
        prefix = "" if "/" in address else ("/64" if ":" in address else "/24")
        interface = ip_interface(address + prefix)
        if isinstance(interface, IPv4Interface):
            ipv4.append(interface)
        else:
            ipv6.append(interface)
    return (
        LOOPBACK_INTERFACE,
        *(
            Interface(
                number + 2,
                ipv4[number] if number < len(ipv4) else None,
                ipv6[number] if number < len(ipv6) else None,
            )
            for number in range(max(len(ipv4), len(ipv6)))
        ),
    )
