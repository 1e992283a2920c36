"""
What a node says of itself, and whom it speaks with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec

from flow512._version import __version__
from flow512.wire.membership import NONCE_SIZE, NetworkKey
from flow512.wire.messages import Hello

PROTOCOL_VERSION: Final = 1
"""The version of the protocol that docs/protocol.rst specifies."""

MAX_NAME: Final = 64
"""Characters in the name of a node, and of a network."""


def everybody(node: bytes) -> bool:
    """Admit whoever it is."""
    return True


class Introduction(msgspec.Struct, frozen=True):
    """
    What a node says of itself to everyone, and what it asks of everyone.

    @ivar node: its node id, 32 bytes.
    @ivar name: what its user calls it, at most 64 characters.
    @ivar network: the name of its network; empty for the open one. In a closed network it is never
        sent.
    @ivar key: the key that members of its network prove; L{None} if it is open.
    @ivar admits: tells by node id whether it speaks with a node at all.
    @ivar random_bytes: gives so many bytes that nobody can foresee.
    """

    node: bytes
    name: str = ""
    network: str = ""
    key: NetworkKey | None = None
    admits: Callable[[bytes], bool] = everybody
    random_bytes: Callable[[int], bytes] = os.urandom

    def hello(self, conversation: str) -> Hello:
        """
        Say hello; without any name if the network is closed, since who hears it may be a stranger.

        @param conversation: what it is to be about.
        """
        return Hello(
            oldest=PROTOCOL_VERSION,
            newest=PROTOCOL_VERSION,
            conversation=conversation,
            node=self.node,
            name="" if self.key is not None else self.name,
            network="" if self.key is not None else self.network,
            agent="" if self.key is not None else f"flow512/{__version__}",
        )

    def nonce(self) -> bytes:
        """
        Draw a nonce for a handshake.
        """
        return self.random_bytes(NONCE_SIZE)
