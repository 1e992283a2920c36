"""
The beacon's datagrams: bytes in, messages out.

A datagram is the magic C{f512}, one byte of version, and a body: one MessagePack array of the
kind, then the fields in the order of the class below. A reader ignores fields after those that
it knows, so fields are only ever added at the end, with a default. No datagram is longer
than 512 bytes, so none is ever fragmented.

This is the open form. In a closed network the same body is sealed instead, with a version of
its own: L{flow512.discovery.sealing}.

Where a node is stands in no datagram: it is the address that the datagram came from.
docs/beacon.rst says the same for people who write another client; the vectors in
C{tests/vectors/datagrams.json} hold both to it.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from flow512.discovery.claims import MAX_SINCE, MAX_TERM
from flow512.errors import BadMessage, Misuse

MAX_DATAGRAM: Final = 512
"""Bytes; fits into one frame of every link that IP runs on (IPv6 asks for 1280)."""

MAGIC: Final = b"f512"
VERSION: Final = 1
_HEADER: Final = MAGIC + bytes([VERSION])

OPEN_ROOM: Final = MAX_DATAGRAM - len(_HEADER)
"""Bytes for the body of an open datagram."""

MAX_NAME: Final = 64
"""Characters in the name of a node, and in the tag of a network."""

MAX_OFFERS: Final = 4
"""Offers in one announcement: two kinds are known today, and a datagram holds few."""

MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 300.0
"""Seconds between announcements. The cap bounds how long a lie about a peer can live."""

INSTANCE: Final = 16
"""Bytes that tell one run of one process from every other."""

NODE_ID: Final = 32

MAX_SEQUENCE: Final = 2**63 - 1

Instance = Annotated[bytes, Meta(min_length=INSTANCE, max_length=INSTANCE)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
NodeId = Annotated[bytes, Meta(max_length=NODE_ID)]
OfferKind = Annotated[str, Meta(min_length=1, max_length=16)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
Term = Annotated[int, Meta(ge=0, le=MAX_TERM)]
Since = Annotated[int, Meta(ge=0, le=MAX_SINCE)]
# Whole milliseconds: a float could be NaN, which passes every comparison with a limit.
Milliseconds = Annotated[int, Meta(ge=int(MIN_INTERVAL * 1000), le=int(MAX_INTERVAL * 1000))]


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """
    Something that can be reached at the sender's address.

    @ivar kind: C{"registry"} or C{"node"}; other kinds are for newer versions.
    @ivar port: its TCP port.
    @ivar term: of a registry: the term in which it claims to lead; else 0.
    @ivar since: of a registry: since when, in milliseconds since 1970 by its own clock; else 0.
    @ivar appointed: of a registry: whether its user wants it to lead.
    """

    kind: OfferKind
    port: Port
    term: Term = 0
    since: Since = 0
    appointed: bool = False


class Announce(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """
    Says that this is here: sent to everybody, again and again.

    @ivar instance: 16 random bytes, new in every run of a process.
    @ivar network: the tag of the network it belongs to; empty is the open network.
    @ivar name: what its owner calls it; hostile until it is escaped for display.
    @ivar node_id: 32 bytes, or none.
    @ivar offers: what can be reached there.
    @ivar sequence: greater than that of everything this instance said before.
    @ivar interval: milliseconds until it will say so again, but for jitter.
    """

    instance: Instance
    network: Name
    name: Name
    node_id: NodeId
    offers: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)]
    sequence: Sequence
    interval: Milliseconds

    def __post_init__(self) -> None:
        if len(self.node_id) not in (0, NODE_ID):
            raise ValueError("a node id has 32 bytes, or none")


class Answer(Announce, frozen=True, array_like=True, tag=3):
    """The same as an announcement, sent to one who asked."""


class Query(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """
    Asks who is here: sent to everybody, at the start.

    @ivar padding: zeros that fill the datagram to 512 bytes, so that no answer is larger
        than the question, and nobody gains by asking under a victim's address.
    """

    instance: Instance
    network: Name
    padding: Annotated[bytes, Meta(max_length=MAX_DATAGRAM)] = b""


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Says that this goes away now: sent to everybody, at a clean stop."""

    instance: Instance
    network: Name
    sequence: Sequence


Datagram: TypeAlias = Announce | Query | Answer | Goodbye

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Datagram]] = msgspec.msgpack.Decoder(Datagram)


def encode_body(datagram: Datagram, room: int) -> bytes:
    """
    Write what a datagram says, without its header.

    @param room: bytes that there are for it.
    @raise Misuse: it would be longer, or a name is no Unicode text.
    """
    try:
        body = _encoder.encode(datagram)
    except UnicodeEncodeError as error:
        raise Misuse("A name has characters that cannot be written; choose another.") from error
    if len(body) > room:
        raise Misuse("The names do not fit into one datagram; choose shorter ones.")
    return body


def encode_query_body(instance: bytes, network: str, room: int) -> bytes:
    """
    Write a question without its header, padded to fill its room exactly.

    @param instance: of the one that asks.
    @param network: the tag of the network it asks for.
    @param room: bytes that there are for it.
    """
    # The empty padding at the end takes two bytes. One whose length is written in two bytes,
    # even if one would do, fills up to any size.
    bare = encode_body(Query(instance, network), room)[:-2]
    padding = room - len(bare) - 3
    return bare + b"\xc5" + padding.to_bytes(2, "big") + bytes(padding)


def decode_body(body: bytes | memoryview) -> Datagram:
    """
    Read what a datagram says, without its header.

    @raise BadMessage: it breaks a limit.
    """
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError) as error:
        # msgspec's errors and bad UTF-8 are ValueErrors; fields that are skipped may nest.
        raise BadMessage("That datagram is malformed.") from error


def add_header(body: bytes) -> bytes:
    """
    Make a body an open datagram.

    @param body: at most L{OPEN_ROOM} bytes.
    """
    return _HEADER + body


def remove_header(data: bytes) -> memoryview:
    """
    Take the body out of an open datagram.

    @raise BadMessage: it is none of ours, or of another version.
    """
    if not is_ours(data):
        raise BadMessage("That is no datagram of a flow512 beacon of this version.")
    return memoryview(data)[len(_HEADER) :]


def encode(datagram: Datagram) -> bytes:
    """
    Write an open datagram.

    @return: at most 512 bytes.
    @raise Misuse: it would be longer, or a name is no Unicode text.
    """
    return add_header(encode_body(datagram, OPEN_ROOM))


def encode_query(instance: bytes, network: str) -> bytes:
    """
    Write an open question, padded to 512 bytes exactly.

    @param instance: of the one that asks.
    @param network: the tag of the network it asks for.
    """
    return add_header(encode_query_body(instance, network, OPEN_ROOM))


def is_ours(data: bytes) -> bool:
    """Tell cheaply whether this could be an open datagram, by its length and first bytes."""
    return len(_HEADER) < len(data) <= MAX_DATAGRAM and data.startswith(_HEADER)


def decode(data: bytes) -> Datagram:
    """
    Read an open datagram.

    @raise BadMessage: it is none of ours, of another version, or breaks a limit.
    """
    return decode_body(remove_header(data))


def printable(text: str) -> str:
    """Escape what could harm a terminal or mislead a reader: control and bidi characters."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
