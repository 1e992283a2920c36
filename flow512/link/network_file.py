"""
Which closed network a node is in: the file C{network.json} in its state folder.

It is what a join link says, so that C{flow512 join} only has to write it down::

    {"name": "office",
     "key": "MFRGGZDFMZTWQ2LK...",
     "registries": [{"address": "192.0.2.7:5000", "id": "P56IOI7-..."}]}

C{id} is null where the registry may be anybody. Fields that this version does not know are ignored.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from flow512.content.disk import blaming
from flow512.content.paths import escape
from flow512.errors import Misuse
from flow512.link.address import HostPort, parse_address
from flow512.link.join_link import (
    JoinLink,
    Registry,
    format_key,
    is_join_link,
    is_key,
    parse_join_link,
    parse_key,
)
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.link.secret_file import read_secret, replace_secret, write_new_secret

_NETWORK_FILE: Final = "network.json"


class _Registry(msgspec.Struct, frozen=True):
    address: str
    id: str | None = None


class _Network(msgspec.Struct, frozen=True):
    name: str
    key: str
    registries: list[_Registry] = []


def load_network(state: str) -> JoinLink | None:
    """
    Find the network that a state folder is in.

    @param state: the folder, which need not be there.
    @return: L{None} if it is in none.
    @raise Misuse: others can read the file, or what is in it is no network.
    @raise flow512.errors.ResourceFailure: it cannot be read.
    """
    path = _path(state)
    content = read_secret(path)
    if content is None:
        return None
    network = _decode(content)
    if network is None:
        raise Misuse(
            f"'{escape(path)}' holds no network; run `flow512 leave` to forget it,"
            " and join again with a new link."
        )
    return network


def store_network(state: str, network: JoinLink) -> None:
    """
    Put a state folder into a network, in the place of the one that it was in.

    @param state: the folder, which is there.
    @raise flow512.errors.ResourceFailure: it cannot be written; the old network stays.
    """
    replace_secret(_path(state), _encode(network))


def store_first_network(state: str, network: JoinLink) -> JoinLink:
    """
    Put a state folder into a network, unless another process was quicker.

    @param state: the folder, which is there and was in no network.
    @return: the network that it is in now.
    @raise flow512.errors.Flow512Error: as L{load_network} and L{store_network}.
    """
    if write_new_secret(_path(state), _encode(network)):
        return network
    return load_network(state) or network


def remove_network(state: str) -> bool:
    """
    Take a state folder out of its network, even if what is in the file makes no sense.

    @param state: the folder, which need not be there.
    @return: whether it was in any.
    @raise flow512.errors.ResourceFailure: the file cannot be removed.
    """
    path = _path(state)
    with blaming(f"removing '{escape(path)}'"):
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def read_key_file(path: str) -> JoinLink | bytes:
    """
    Read the file of C{--network-key-file}, which holds a join link or a bare network key.

    @return: the network, or the key as 32 bytes.
    @raise Misuse: it is not there, others can read it, or there is neither in it.
    @raise flow512.errors.ResourceFailure: it cannot be read.
    """
    if is_join_link(path) or is_key(path):
        raise Misuse(
            "That is a key itself, not the name of a file; put it into a file that only you can"
            " read, for other users can see what is typed."
        )
    content = read_secret(path)
    shown = escape(path)
    if content is None:
        raise Misuse(f"There is no key file '{shown}'; check the spelling.")
    text = content.decode("utf-8", "replace")
    try:
        return parse_join_link(text) if is_join_link(text) else parse_key(text)
    except Misuse as error:
        raise Misuse(f"The key file '{shown}' is of no use: {error}") from None


def _path(state: str) -> str:
    return os.path.join(state, _NETWORK_FILE)


def _encode(network: JoinLink) -> bytes:
    registries = [
        _Registry(str(each.address), None if each.node is None else format_node_id(each.node))
        for each in network.registries
    ]
    stored = _Network(network.name, format_key(network.key), registries)
    return msgspec.json.format(msgspec.json.encode(stored)) + b"\n"


def _decode(content: bytes) -> JoinLink | None:
    try:
        stored = msgspec.json.decode(content, type=_Network)
        return JoinLink(
            stored.name,
            parse_key(stored.key),
            tuple(_registry(each) for each in stored.registries),
        )
    except (msgspec.DecodeError, UnicodeDecodeError, Misuse):
        return None


def _registry(stored: _Registry) -> Registry:
    address = parse_address(stored.address)
    if not isinstance(address, HostPort):
        raise Misuse("That is no TCP address.")
    return Registry(address, None if stored.id is None else parse_node_id(stored.id))
