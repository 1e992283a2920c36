"""
Which network a node belongs to, by what its user said and what it has joined.
"""

from __future__ import annotations

import msgspec

from flow512.content.paths import escape
from flow512.errors import Misuse
from flow512.link.join_link import JoinLink, Registry
from flow512.link.network_file import load_network, read_key_file
from flow512.wire.membership import NetworkKey


class Membership(msgspec.Struct, frozen=True):
    """
    A node's network.

    @ivar name: what it is called; empty for the open one without a name.
    @ivar key: what its members prove; L{None} if it is open.
    @ivar registries: those that came with the key, the preferred one first.
    """

    name: str = ""
    key: NetworkKey | None = None
    registries: tuple[Registry, ...] = ()


def membership_of(name: str, key_file: str, state: str | None) -> Membership:
    """
    Find out which network a node belongs to.

    @param name: what its user said with C{--network}; empty for nothing.
    @param key_file: what he said with C{--network-key-file}; empty for nothing.
    @param state: the state folder; L{None} for none.
    @raise Misuse: two of them are of different networks, or a file is not what it should be.
    @raise flow512.errors.ResourceFailure: a file cannot be read.
    """
    if key_file:
        found = read_key_file(key_file)
        if isinstance(found, bytes):
            return Membership(name, NetworkKey(found))
        return _joined(found, name, "the key file's")
    joined = None if state is None else load_network(state)
    return Membership(name) if joined is None else _joined(joined, name, "the one that was joined")


def _joined(network: JoinLink, name: str, which: str) -> Membership:
    if name and name != network.name:
        raise Misuse(
            f"--network says '{escape(name)}', and {which} is '{escape(network.name)}'; leave out"
            " --network, or give another folder with --state."
        )
    return Membership(network.name, NetworkKey(network.key), network.registries)
