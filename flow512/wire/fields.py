"""
What messages are made of: the limits of their fields, and their root.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flow512.discovery.claims import MAX_SINCE, MAX_TERM
from flow512.units import DIGEST, MAX_FILE_SIZE, PIECES_PER_BLOCK

KIB: Final = 1024

MAX_PATH: Final = 4096
"""Characters in a path; paths.py says what else holds for one, as that it is as many bytes."""

MAX_LIST: Final = 1000
"""Entries that one LIST may ask for."""

MAX_READ: Final = 64 * PIECES_PER_BLOCK
"""Pieces that one READ may ask for (16 MiB)."""

MAX_SENTENCE: Final = 500
"""Characters in the sentence of an ERROR."""

MAX_SECONDS: Final = 86400
"""A day; the longest time that a message may speak of."""

MAX_PEERS: Final = 128
"""Peers in one SNAPSHOT or HOLDERS frame, and changes of each sort in one DELTA."""

MAX_ROOTS: Final = 200
"""Contents that one HOLD adds, or takes away."""

MD5_LENGTH: Final = 16
"""Bytes in an MD5."""

MAX_RUNS: Final = 1000
"""Runs of blocks that one BLOCKS tells of."""


Name = Annotated[str, Meta(max_length=64)]
Path = Annotated[str, Meta(max_length=MAX_PATH)]
Digest = Annotated[bytes, Meta(min_length=DIGEST, max_length=DIGEST)]
Md5Digest = Annotated[bytes, Meta(min_length=MD5_LENGTH, max_length=MD5_LENGTH)]
NodeId = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Proof = Annotated[bytes, Meta(min_length=32, max_length=32)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Size = Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Term = Annotated[int, Meta(ge=0, le=MAX_TERM)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_SINCE)]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """The root of every message."""


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """
    A node as the registry lists it.

    @ivar node: its node id.
    @ivar name: what its user calls it; not unique, and proves nothing.
    @ivar host: the address that the registry sees it at.
    @ivar port: the TCP port that it serves at.
    @ivar can_lead: whether it may carry the registry, if there is no other.
    """

    node: NodeId
    name: Name
    host: Name
    port: Annotated[int, Meta(ge=1, le=65535)]
    can_lead: bool = False
