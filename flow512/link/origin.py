"""
Where connections come from: who is to be counted as one.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@lru_cache(1024)
def plain_address(host: str) -> IPv4Address | IPv6Address | None:
    """
    Read an address as a transport gives it.

    @return: the address, without a scope, which says nothing to others, and as IPv4 if it is one
        that IPv6 wraps; L{None} for anything else, such as the path of a UNIX socket.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def unwrapped(host: str) -> str:
    """
    Say a host as he does who is there: an IPv4 address that IPv6 wraps, as a socket that listens
    for both gives it, is the plain one; anything else stays as it is, with its scope.
    """
    if ":" not in host:
        return host
    address = plain_address(host)
    return str(address) if isinstance(address, IPv4Address) else host


def source_of(host: str) -> str:
    """
    Tell who is to be counted as one: an IPv4 address, or an IPv6 network of 64 bits, since the
    addresses in it are anyone's who has one of them.
    """
    address = plain_address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return host if address is None else str(address)


def subnet_of(host: str) -> str:
    """
    Tell which machines are likely to be one network's: those of a /24 of IPv4, or a /48 of IPv6.
    """
    address = plain_address(host)
    if address is None:
        return host
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))
