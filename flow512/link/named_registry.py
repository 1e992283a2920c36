"""
A registry that a user named.
"""

from __future__ import annotations

import msgspec

from flow512.link.address import HostPort, parse_address
from flow512.link.node_id import format_node_id, split_node_id


class NamedRegistry(msgspec.Struct, frozen=True):
    """
    A registry that a user named. C{str()} gives it as people write it.

    @ivar address: where it is: a TCP address, or the string of an endpoint.
    @ivar node: the node id that it has to prove, 32 bytes; L{None} for any.
    """

    address: HostPort | str
    node: bytes | None = None

    def __str__(self) -> str:
        if self.node is None:
            return str(self.address)
        return f"{format_node_id(self.node)}@{self.address}"


def parse_named_registry(text: str) -> NamedRegistry:
    """
    Read a registry that somebody typed: C{ADDRESS} or C{ID@ADDRESS}.

    @raise flow512.errors.Misuse: it is none.
    """
    node, place = split_node_id(text)
    return NamedRegistry(parse_address(place), node)
