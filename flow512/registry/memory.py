"""
What a node remembers of its network over a restart: the file C{acquaintances} in its state folder.

It holds peers and registries that the node has reached, with the time, as JSON. Nothing in it is
believed: it says where to try. So a file that is damaged costs nothing but what was in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flow512.content.paths import escape
from flow512.errors import Flow512Error, Misuse
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.link.secret_file import MAX_SECRET, read_secret, replace_secret
from flow512.registry.acquaintances import MOST_KEPT, Met
from flow512.wire.fields import Peer
from flow512.wire.meeting import MAX_REGISTRIES

MEMORY_FILE: Final = "acquaintances"

_Text = Annotated[str, Meta(max_length=64)]


class _Place(msgspec.Struct, frozen=True):
    node: Annotated[str, Meta(max_length=128)]
    host: _Text
    port: Annotated[int, Meta(ge=1, le=65535)]
    met: Annotated[int, Meta(ge=0, le=2**53)]
    name: _Text = ""


class _File(msgspec.Struct, frozen=True):
    peers: Annotated[list[_Place], Meta(max_length=MOST_KEPT)]
    registries: Annotated[list[_Place], Meta(max_length=MAX_REGISTRIES)]


def read_memory(state: str) -> tuple[list[Met], list[Met]]:
    """
    Read what a node remembers; this waits for the disk.

    @param state: its state folder.
    @return: peers and registries, each with the latest first; nobody if there is no such file.
    @raise Flow512Error: it cannot be read, or is no such list. The sentence says what to do.
    """
    path = os.path.join(state, MEMORY_FILE)
    content = read_secret(path)
    if content is None:
        return [], []
    try:
        if len(content) == MAX_SECRET:
            raise Misuse("it is too long")
        file = msgspec.json.decode(content, type=_File)
        return [_met(each) for each in file.peers], [_met(each) for each in file.registries]
    except (msgspec.DecodeError, UnicodeDecodeError, Flow512Error) as error:
        raise Misuse(
            f"'{escape(path)}' is no list of peers ({escape(str(error)).rstrip('.')}), so nobody is"
            " remembered; it will be written anew."
        ) from None


def _met(place: _Place) -> Met:
    peer = Peer(parse_node_id(place.node), place.name, place.host, place.port)
    return Met(peer, float(place.met))


def write_memory(state: str, peers: Sequence[Met], registries: Sequence[Met]) -> None:
    """
    Write what a node remembers, in the place of what was there; this waits for the disk.

    @param state: its state folder.
    @param peers: at most L{MOST_KEPT}.
    @param registries: at most L{MAX_REGISTRIES}.
    @raise flow512.errors.ResourceFailure: it cannot be written; what was there is there still.
    """
    file = _File([_place(each) for each in peers], [_place(each) for each in registries])
    content = msgspec.json.format(msgspec.json.encode(file)) + b"\n"
    replace_secret(os.path.join(state, MEMORY_FILE), content)


def _place(met: Met) -> _Place:
    peer = met.peer
    node = format_node_id(peer.node)
    return _Place(node, peer.host, peer.port, max(0, int(met.at or 0)), peer.name)
