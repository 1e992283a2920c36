"""
This machine's own addresses, and who is on the same link.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

import msgspec

from flow512.discovery.datagram import printable
from flow512.errors import Misuse

_LINK_LOCAL: Final = ipaddress.IPv6Network("fe80::/10")


class LocalAddress(msgspec.Struct, frozen=True, dict=True):
    """
    One address of this machine that a beacon may use.

    @ivar address: an IPv4 or IPv6 address, without scope.
    @ivar prefix: bits of it that name the subnet.
    @ivar interface: the name of the interface that has it, such as C{"eth0"}.
    @ivar index: the number of that interface, which IPv6 multicast needs.
    """

    address: str
    prefix: int
    interface: str = ""
    index: int = 0

    @cached_property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.address)

    @cached_property
    def _subnet(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        # An address leased by DHCPv6 has a prefix of 128, whatever its link's prefix is.
        prefix = min(self.prefix, 64) if self.is_ipv6 and not self.is_loopback else self.prefix
        return ipaddress.ip_network((self.address, prefix), strict=False)

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an IPv6 address."""
        return self._ip.version == 6

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine itself has it."""
        return self._ip.is_loopback

    @property
    def is_link_local(self) -> bool:
        """Whether it means nothing without its interface: IPv6 C{fe80::/10}."""
        return self._ip in _LINK_LOCAL

    @property
    def broadcast(self) -> str | None:
        """The address that reaches everybody in its subnet, or C{None} if there is none."""
        if self.is_ipv6 or self.prefix > 30:
            return None
        return str(self._subnet.broadcast_address)

    def reaches(self, host: str) -> bool:
        """
        Whether a host is on the same link, as far as its address tells.

        @param host: an IP address; one of C{fe80::/10} with its C{%interface}, if it is known.
        """
        address, _, interface = host.partition("%")
        ip = ipaddress.ip_address(address)
        if self.is_ipv6 and not self.is_loopback and ip in _LINK_LOCAL:
            return interface in ("", self.interface)
        return ip in self._subnet

    def scoped(self, host: str) -> str:
        """
        Add the interface to a host that means nothing without.

        @param host: an IP address that a datagram came from, at this address's sockets.
        """
        if self.interface and "%" not in host and ipaddress.ip_address(host) in _LINK_LOCAL:
            return f"{host}%{self.interface}"
        return host


def addresses_of_host() -> list[LocalAddress]:
    """
    Find this machine's addresses; it does not block.

    @raise OSError: the system would not tell.
    """
    import ifaddr  # which runs ldconfig, so not before it is needed

    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(LocalAddress(address, ip.network_prefix, adapter.name, adapter.index or 0))
    return found


def usable(addresses: Iterable[LocalAddress]) -> Sequence[LocalAddress]:
    """
    Choose what a beacon should use: every IPv4 address, and one of IPv6 for each interface.

    An IPv6 address that means the same on every machine is preferred to a link-local one,
    since peers are told of it. The loopback interface is used only when there is nothing
    else, so that two nodes on a machine without a network find each other; and only by
    IPv4, because it takes no IPv6 multicast.
    """
    ipv4: list[LocalAddress] = []
    loopback: list[LocalAddress] = []
    ipv6: dict[str, LocalAddress] = {}
    for address in addresses:
        if address.is_loopback:
            if not address.is_ipv6:
                loopback.append(address)
        elif not address.is_ipv6:
            ipv4.append(address)
        elif address.interface not in ipv6 or ipv6[address.interface].is_link_local:
            ipv6[address.interface] = address
    return [*ipv4, *ipv6.values()] or loopback


def choose_interfaces(
    names: Sequence[str], addresses: Sequence[LocalAddress]
) -> Sequence[LocalAddress]:
    """
    Choose the addresses that a beacon uses.

    @param names: interfaces or addresses that the user named; none for all that make sense.
    @param addresses: this machine's.
    """
    if not names:
        return usable(addresses)
    return [each for each in addresses if each.interface in names or each.address in names]


def check_interfaces(names: Sequence[str], addresses: Sequence[LocalAddress]) -> None:
    """
    Find out whether a user has misspelt the name of an interface.

    @param names: interfaces or addresses that the user named.
    @param addresses: this machine's.
    @raise Misuse: it has none of that name or address now.
    """
    for name in names:
        if not choose_interfaces([name], addresses):
            there = ", ".join(dict.fromkeys(each.interface or each.address for each in addresses))
            raise Misuse(f"There is no interface '{printable(name)}' here; there are: {there}.")


def usable_addresses() -> Sequence[LocalAddress]:
    """What L{usable} chooses from L{addresses_of_host}."""
    return usable(addresses_of_host())
