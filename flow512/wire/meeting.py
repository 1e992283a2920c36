"""
The messages by which nodes tell each other whom they have met.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from flow512.wire.fields import MAX_PEERS, Message, Name, Peer, Port

MAX_REGISTRIES: Final = 8
"""Registries that one MET tells of."""


class Meet(Message, frozen=True):
    """
    Whom have you met lately?

    @ivar port: where the sender itself answers C{transfer}, at the address that it comes from; 0 if
        nowhere. Whoever hears it may see for himself.
    """

    port: Port = 0


class Met(Message, frozen=True):
    """
    The answer to MEET. Nobody vouches for those who are told of: each is dialled as any stranger
    is.

    @ivar name: what the sender's user calls it, which no hello says in a closed network.
    @ivar peers: some whom the sender itself has lately connected to.
    @ivar registries: where it is registered, or was lately; the best one first.
    """

    name: Name = ""
    peers: Annotated[tuple[Peer, ...], Meta(max_length=MAX_PEERS)] = ()
    registries: Annotated[tuple[Peer, ...], Meta(max_length=MAX_REGISTRIES)] = ()
