"""
The messages: what a frame's body means, kind by kind.

A control body is one MessagePack array, whose fields stand in the order of the class below.
A reader ignores fields after those that it knows, and gives the default for those that an
older writer left out; so fields are only ever added at the end, with a default.
Raw bodies (digests, data) are bytes and nothing else.

docs/protocol.rst says the same for people who write another client; the vectors in
C{tests/vectors/messages.json} hold both to it.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from flow512.errors import BadMessage, to_wire
from flow512.units import BLOCK, LONGEST_RUN, MAX_FILE_SIZE, PAGE, PIECE, PIECES_PER_BLOCK
from flow512.wire.bundle import Bundle
from flow512.wire.fields import (
    KIB,
    MAX_LIST,
    MAX_PEERS,
    MAX_READ,
    MAX_SECONDS,
    MAX_SENTENCE,
    MD5_LENGTH,
    Digest,
    Md5Digest,
    Message,
    Name,
    NodeId,
    Nonce,
    Number,
    Path,
    Peer,
    Port,
    Proof,
    Seconds,
    Size,
    Term,
)
from flow512.wire.frame import Frame, encode_frame
from flow512.wire.holding import Blocks, Hold, Holders, PiecesRequest, Watch, Who
from flow512.wire.leading import Leader
from flow512.wire.meeting import Meet, Met
from flow512.wire.streaming import Stream


class Kind(IntEnum):
    """The first byte of a frame."""

    HELLO = 0x01
    ERROR = 0x02
    CANCEL = 0x03
    PING = 0x04
    PONG = 0x05
    CHALLENGE = 0x06

    REGISTER = 0x10
    REGISTERED = 0x11
    LEAVE = 0x12
    RESYNC = 0x13
    SNAPSHOT = 0x14
    DELTA = 0x15
    REACHED = 0x16
    HOLD = 0x17
    WHO = 0x18
    HOLDERS = 0x19
    LEADER = 0x1A

    LIST = 0x20
    LISTING = 0x21
    STAT = 0x22
    ENTRY = 0x23
    PAGE = 0x24
    DIGESTS = 0x25
    READ = 0x26
    DATA = 0x27
    CHECKSUM = 0x28
    MD5 = 0x29
    WATCH = 0x2A
    BLOCKS = 0x2B
    PIECES = 0x2C
    PIECE_DIGESTS = 0x2D
    BUNDLE = 0x2E
    PARCEL = 0x2F
    STREAM = 0x30
    MEET = 0x31
    MET = 0x32


class Hello(Message, frozen=True):
    """
    The first message of each side; the initiator's comes first.

    @ivar oldest: the oldest version of the protocol that the sender speaks.
    @ivar newest: the newest one.
    @ivar conversation: what it is to be about: C{"registry"} or C{"transfer"}.
    @ivar node: the sender's node id.
    @ivar name: what its user calls it.
    @ivar network: the name of the network that it belongs to; empty for the open one.
    @ivar features: what it can do beyond the version.
    @ivar agent: which program it is; for logs.
    @ivar nonce: random; from the initiator, in a closed network without TLS.
    @ivar proof: that the sender knows the key of its closed network, see
        L{flow512.wire.membership}.
    """

    oldest: Annotated[int, Meta(ge=1, le=65535)]
    newest: Annotated[int, Meta(ge=1, le=65535)]
    conversation: Annotated[str, Meta(max_length=16)]
    node: NodeId
    name: Name = ""
    network: Name = ""
    features: Annotated[tuple[Annotated[str, Meta(max_length=16)], ...], Meta(max_length=16)] = ()
    agent: Name = ""
    nonce: Nonce | None = None
    proof: Proof | None = None


class Challenge(Message, frozen=True):
    """
    Prove first that you belong to this network; say hello again.

    @ivar nonce: random; a part of what is to be proven.
    @ivar node: the sender's node id, another part.
    """

    nonce: Nonce
    node: NodeId


class Error(Message, frozen=True):
    """
    A request failed; without a request (0), the conversation did, and the sender closes it.

    @ivar code: one of L{flow512.errors.WIRE_CODES}.
    @ivar sentence: the cause, for a person.
    @ivar retry_after: seconds after which to try again; 0 if that is no use.
    """

    code: Annotated[int, Meta(ge=0, le=65535)]
    sentence: Annotated[str, Meta(max_length=MAX_SENTENCE)]
    retry_after: Seconds = 0.0


class Cancel(Message, frozen=True):
    """The sender no longer wants the answer to this request. The request still gets its end."""


class Ping(Message, frozen=True):
    """Are you there? At the registry it also keeps the lease."""


class Pong(Message, frozen=True):
    """
    I am.

    @ivar number: from a registry, the number of its latest delta; else 0.
    @ivar interval: from a registry, seconds until the next ping should come; 0: a third of the
        lease.
    """

    number: Number = 0
    interval: Seconds = 0.0


class Register(Message, frozen=True):
    """
    Know me; on a conversation that is registered already, know me anew.

    @ivar ticket: random, known to the node and the registry only: whoever holds it may take
        over the lease of this node id from another connection.
    @ivar port: where the node serves; 0 to watch without being listed.
    @ivar name: what its user calls it.
    @ivar term: the latest term that it knows.
    @ivar can_lead: whether it may carry the registry, if there is no other.
    """

    ticket: Annotated[bytes, Meta(min_length=16, max_length=16)]
    port: Port
    name: Name = ""
    term: Term = 0
    can_lead: bool = False


class Registered(Message, frozen=True):
    """
    You are registered. A snapshot follows the first one of a conversation.

    @ivar lease: seconds that it lasts without a ping.
    @ivar host: the address that the registry sees the node at.
    """

    lease: Seconds
    host: Name


class Reached(Message, frozen=True):
    """
    I have tried whether others can reach you; only who was reached is on the list.

    @ivar port: the one that was tried, as registered.
    @ivar ok: whether the node itself answered there.
    @ivar sentence: why it was not reached, for a person; empty if it was.
    @ivar retry_after: seconds after which the registry tries again by itself; 0 if it was reached.
    """

    port: Annotated[int, Meta(ge=1, le=65535)]
    ok: bool
    sentence: Annotated[str, Meta(max_length=MAX_SENTENCE)] = ""
    retry_after: Seconds = 0.0


class Leave(Message, frozen=True):
    """Take me off the list; I am about to close."""


class Resync(Message, frozen=True):
    """I missed something: send a snapshot."""


class Snapshot(Message, frozen=True):
    """
    All who are listed, in one frame or several.

    @ivar number: of the latest delta that is counted in.
    @ivar peers: some of them.
    @ivar more: whether another frame of this snapshot follows.
    """

    number: Number
    peers: Annotated[tuple[Peer, ...], Meta(max_length=MAX_PEERS)]
    more: bool = False


class Delta(Message, frozen=True):
    """
    What changed since the delta before.

    @ivar number: one more than that of the delta before. An empty delta changes nothing and
        repeats the latest number.
    """

    number: Number
    joined: Annotated[tuple[Peer, ...], Meta(max_length=MAX_PEERS)] = ()
    left: Annotated[tuple[NodeId, ...], Meta(max_length=MAX_PEERS)] = ()
    changed: Annotated[tuple[Peer, ...], Meta(max_length=MAX_PEERS)] = ()


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """
    One file in a share.

    @ivar path: relative to the share, with C{/} between its parts.
    @ivar size: bytes.
    @ivar mtime: nanoseconds since 1970 (UTC).
    @ivar root: the content id; L{None} until the file has been hashed.
    @ivar md5: of the whole file; L{None} until it has been computed.
    @ivar is_partial: whether the sender is only downloading it, and may have parts of it.
    @ivar is_restricted: whether not everyone in the network may have it, so that it is not to be
        passed on.
    """

    path: Path
    size: Size
    mtime: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    root: Digest | None = None
    md5: Md5Digest | None = None
    is_partial: bool = False
    is_restricted: bool = False


class List(Message, frozen=True):
    """
    What do you share?

    @ivar prefix: only paths that begin with this.
    @ivar after: only paths that sort after this one, by code point; empty from the start.
    @ivar limit: at most so many entries.
    """

    prefix: Path = ""
    after: Path = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = MAX_LIST


class Listing(Message, frozen=True):
    """
    Some of what is shared, sorted by path.

    @ivar more: whether there are more after the last of these.
    """

    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_LIST)]
    more: bool = False


class Stat(Message, frozen=True):
    """
    Tell me of one file, by path or by root; exactly one of the two is given.

    The answer waits until the file's root is known.

    @ivar at_once: of a large file an entry without root is wanted rather than that; see
        L{flow512.wire.streaming}.
    """

    path: Path = ""
    root: Digest | None = None
    at_once: bool = False


class Stated(Message, frozen=True):
    """
    The answer to STAT, and the end of STREAM (an ENTRY frame).

    @ivar entry: has a root, unless STAT said that it may have none.
    """

    entry: Entry


class PageRequest(Message, frozen=True):
    """
    Give me a page of digests (a PAGE frame).

    @ivar level: 0 for the digests of blocks.
    @ivar index: which page of that level.
    """

    root: Digest
    level: Annotated[int, Meta(ge=0, le=5)]
    index: Annotated[int, Meta(ge=0, le=2**36)]


class Read(Message, frozen=True):
    """
    Send me pieces.

    @ivar first: the first one's number.
    @ivar count: how many.
    @ivar run: at most so many in a data frame.
    """

    root: Digest
    first: Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE // PIECE)]
    count: Annotated[int, Meta(ge=1, le=MAX_READ)]
    run: Annotated[int, Meta(ge=1, le=LONGEST_RUN)] = PIECES_PER_BLOCK


class Checksum(Message, frozen=True):
    """What is the MD5 of this content? The answer waits until it has been computed."""

    root: Digest


class Md5(Message, frozen=True):
    """The answer to CHECKSUM."""

    md5: Md5Digest


_BODIES: Final[dict[Kind, tuple[type[Message], int]]] = {
    Kind.HELLO: (Hello, 1 * KIB),
    Kind.ERROR: (Error, 4 * KIB),
    Kind.CANCEL: (Cancel, 16),
    Kind.PING: (Ping, 16),
    Kind.PONG: (Pong, 32),
    Kind.CHALLENGE: (Challenge, 128),
    Kind.REGISTER: (Register, 1 * KIB),
    Kind.REGISTERED: (Registered, 1 * KIB),
    Kind.LEAVE: (Leave, 16),
    Kind.RESYNC: (Resync, 16),
    Kind.SNAPSHOT: (Snapshot, 128 * KIB),
    Kind.DELTA: (Delta, 256 * KIB),
    Kind.REACHED: (Reached, 4 * KIB),
    Kind.HOLD: (Hold, 16 * KIB),
    Kind.WHO: (Who, 128),
    Kind.HOLDERS: (Holders, 128 * KIB),
    Kind.LEADER: (Leader, 2 * KIB),
    Kind.LIST: (List, 16 * KIB),
    Kind.LISTING: (Listing, 256 * KIB),
    Kind.STAT: (Stat, 16 * KIB),
    Kind.ENTRY: (Stated, 16 * KIB),
    Kind.PAGE: (PageRequest, 128),
    Kind.READ: (Read, 128),
    Kind.CHECKSUM: (Checksum, 128),
    Kind.MD5: (Md5, 128),
    Kind.WATCH: (Watch, 128),
    Kind.BLOCKS: (Blocks, 16 * KIB),
    Kind.PIECES: (PiecesRequest, 128),
    Kind.BUNDLE: (Bundle, 16 * KIB),
    Kind.STREAM: (Stream, 16 * KIB),
    Kind.MEET: (Meet, 16),
    Kind.MET: (Met, 128 * KIB),
}

CAPS: Final[dict[int, int]] = {
    **{kind: cap for kind, (_, cap) in _BODIES.items()},
    Kind.DIGESTS: PAGE,
    Kind.DATA: LONGEST_RUN * PIECE,
    Kind.PIECE_DIGESTS: PIECES_PER_BLOCK * MD5_LENGTH,
    Kind.PARCEL: BLOCK,
}
"""The most bytes that the body of each kind may have."""

_KINDS: Final = {struct: kind for kind, (struct, _) in _BODIES.items()}
_STRUCTS: Final[dict[int, type[Message]]] = {kind: struct for kind, (struct, _) in _BODIES.items()}
_ENCODER: Final = msgspec.msgpack.Encoder()


def caps_of(*kinds: Kind) -> dict[int, int]:
    """
    Say which kinds may arrive, as L{flow512.wire.frame.FrameReader} wants it.
    """
    return {kind: CAPS[kind] for kind in kinds}


HELLO_ONLY: Final = caps_of(Kind.HELLO)
"""What may arrive from somebody who has not said hello."""

HELLO_ANSWER: Final[dict[int, int]] = {
    **caps_of(Kind.HELLO, Kind.CHALLENGE),
    Kind.ERROR: 1 * KIB,
}
"""What may arrive from somebody to whom hello was said."""

REQUESTS: Final = frozenset(
    {
        *(Kind.LIST, Kind.STAT, Kind.PAGE, Kind.READ, Kind.CHECKSUM),
        *(Kind.PIECES, Kind.WATCH, Kind.WHO, Kind.BUNDLE, Kind.STREAM, Kind.MEET),
    }
)
"""What a source serves."""

TRANSFER: Final = "transfer"
"""What conversations about files are called."""

TRANSFER_SERVER: Final = caps_of(*REQUESTS, Kind.CANCEL, Kind.PING, Kind.PONG, Kind.ERROR)
"""What may arrive at the serving side of a transfer conversation."""

TRANSFER_CLIENT: Final = caps_of(
    Kind.LISTING,
    Kind.ENTRY,
    Kind.DIGESTS,
    Kind.DATA,
    Kind.MD5,
    Kind.PIECE_DIGESTS,
    Kind.BLOCKS,
    Kind.HOLDERS,
    Kind.PARCEL,
    Kind.MET,
    Kind.ERROR,
    Kind.PING,
    Kind.PONG,
)
"""What may arrive at the fetching side."""

REGISTRY_SERVER: Final = caps_of(
    *(Kind.REGISTER, Kind.LEAVE, Kind.RESYNC, Kind.HOLD, Kind.WHO, Kind.LEADER),
    *(Kind.PING, Kind.PONG, Kind.ERROR),
)
"""What may arrive at the registry."""

REGISTRY_CLIENT: Final = caps_of(
    Kind.REGISTERED,
    Kind.SNAPSHOT,
    Kind.DELTA,
    Kind.REACHED,
    Kind.HOLDERS,
    Kind.LEADER,
    Kind.PING,
    Kind.PONG,
    Kind.ERROR,
)
"""What may arrive at a node from its registry."""


def encode(message: Message, request: int = 0) -> bytes:
    """
    Make the whole frame of a message.

    @param request: the request that it makes or answers; 0 for none.
    @raise BadMessage: its body is over its kind's cap, and whoever made it has to split it; or
        a text in it cannot be said in UTF-8.
    """
    kind = _KINDS[type(message)]
    try:
        body = _ENCODER.encode(message)
    except UnicodeEncodeError as error:
        raise BadMessage(f"A text in {kind.name} is not UTF-8: {error.reason}.") from None
    if len(body) > CAPS[kind]:
        raise BadMessage(f"{kind.name} of {len(body)} bytes is over its cap of {CAPS[kind]}.")
    return encode_frame(kind, request, body)


def error_message(error: BaseException) -> Error:
    """
    Say an error as a message that can always be encoded.

    @param error: any; L{flow512.errors.to_wire} says what is told of it. What a sentence cannot
        hold on the wire (half characters, more than L{MAX_SENTENCE}) is replaced or cut off.
    """
    code, sentence, retry_after = to_wire(error)
    sayable = sentence[:MAX_SENTENCE].encode(errors="replace").decode()
    return Error(code, sayable, min(max(retry_after, 0.0), MAX_SECONDS))


_M = TypeVar("_M", bound=Message)


@cache
def _decoder_of(expected: type[_M]) -> msgspec.msgpack.Decoder[_M]:
    # Made when one is needed: each takes a tenth of a millisecond, and commands need few.
    return msgspec.msgpack.Decoder(expected)


def decode(frame: Frame, expected: type[_M]) -> _M:
    """
    Read the message in a frame.

    @param expected: the class that the frame's kind stands for.
    @raise BadMessage: the body is anything else. Nothing in it is to be believed.
    """
    kind = _KINDS[expected]
    if frame.kind != kind:
        raise BadMessage(f"{kind.name} was expected, and kind {frame.kind:#04x} came.")
    try:
        message = _decoder_of(expected).decode(frame.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadMessage(f"The body of {kind.name} is not as it should be: {error}") from None
    assert isinstance(message, expected)
    return message


def message_in(frame: Frame) -> Message:
    """
    Read the message in a frame of any control kind.

    @raise BadMessage: as L{decode} does, and for a kind whose body is raw.
    """
    expected = _STRUCTS.get(frame.kind)
    if expected is None:
        raise BadMessage(f"A frame of kind {frame.kind:#04x} carries no message.")
    return decode(frame, expected)
