"""
The vectors in C{tests/vectors/messages.json}, and what writes them.

After a deliberate change of the protocol: C{python -m tests.unit.message_vectors}. The bytes of
a message that was ever released do not change; fields are only added at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from flow512.wire.bundle import Bundle
from flow512.wire.fields import Message, Peer
from flow512.wire.frame import Frame, encode_frame, encode_header
from flow512.wire.holding import Blocks, Hold, Holders, PiecesRequest, Watch, Who
from flow512.wire.leading import Leader
from flow512.wire.meeting import Meet, Met
from flow512.wire.messages import (
    Cancel,
    Challenge,
    Checksum,
    Delta,
    Entry,
    Error,
    Hello,
    Kind,
    Leave,
    List,
    Listing,
    Md5,
    PageRequest,
    Ping,
    Pong,
    Reached,
    Read,
    Register,
    Registered,
    Resync,
    Snapshot,
    Stat,
    Stated,
    encode,
)
from flow512.wire.streaming import Stream

FILE: Final = Path(__file__).parents[1] / "vectors" / "messages.json"

ANNA: Final = Peer(bytes(range(32)), "Anna's laptop", "192.0.2.7", 5000)
BEN: Final = Peer(bytes(range(32, 64)), "büro", "2001:db8::7", 65535, True)
ROOT: Final = bytes(range(64, 96))
MD5: Final = bytes(range(16))
PHOTO: Final = Entry("Fotos/Übersicht.jpg", 70_000, 1_700_000_000_123_456_789, ROOT, MD5)
FRESH: Final = Entry("neu.txt", 0, -1)
PART: Final = Entry("disk.iso", 70_000, 0, ROOT, None, True, True)

MESSAGES: Final[list[tuple[str, Message, int]]] = [
    (
        "hello of one who asks for a transfer",
        Hello(1, 1, "transfer", ANNA.node, "Anna's laptop", "", (), "flow512/0.1.0"),
        0,
    ),
    (
        "hello in a network, with features",
        Hello(1, 3, "registry", BEN.node, "büro", "office", ("zip", "tls-exporter"), "x"),
        0,
    ),
    (
        "hello of a member, who proves the key under TLS",
        Hello(1, 1, "transfer", ANNA.node, proof=bytes(range(96, 128))),
        0,
    ),
    (
        "hello of a member without TLS, at first",
        Hello(1, 1, "registry", ANNA.node, nonce=bytes(range(128, 160))),
        0,
    ),
    ("challenge", Challenge(bytes(range(160, 192)), BEN.node), 0),
    ("error of a request", Error(5, "There is no file of that name here."), 7),
    ("error of the conversation", Error(7, "Too many nodes; try again later.", 30.5), 0),
    ("cancel", Cancel(), 4294967295),
    ("ping", Ping(), 1),
    ("pong", Pong(), 1),
    ("pong of a registry", Pong(300, 2.5), 2),
    ("register", Register(bytes(range(16)), 5000, "Anna's laptop", 7, True), 0),
    ("register to watch", Register(bytes(range(16)), 0, ""), 0),
    ("registered", Registered(30.0, "192.0.2.7"), 0),
    ("leader, the registry itself", Leader(BEN.node, 8, 1_700_000_000_123, True), 0),
    (
        "leader, another one",
        Leader(ANNA.node, 9, 1_700_000_000_000, False, "192.0.2.7", 5000, "it was found"),
        0,
    ),
    ("leader, to be", Leader(ANNA.node, host="192.0.2.7", port=5000), 0),
    ("reached", Reached(5000, True), 0),
    ("not reached", Reached(5000, False, "No connection could be made.", 30.0), 0),
    ("leave", Leave(), 0),
    ("resync", Resync(), 0),
    ("snapshot of nobody", Snapshot(0, ()), 0),
    ("snapshot, more to come", Snapshot(70_000, (ANNA, BEN), True), 0),
    ("delta", Delta(70_001, (ANNA,), (bytes(range(64, 96)),), (BEN,)), 0),
    ("delta that tells the number only", Delta(70_001), 0),
    ("hold", Hold((ROOT, ANNA.node), (BEN.node,)), 0),
    ("hold nothing new", Hold(()), 0),
    ("who holds it", Who(ROOT), 9),
    ("who holds it, beside me", Who(ROOT, 5000), 9),
    ("holders", Holders((ANNA, BEN)), 9),
    ("holders, nobody", Holders(()), 9),
    ("whom have you met", Meet(), 13),
    ("whom have you met, beside me", Meet(5000), 13),
    ("met", Met("Carl", (ANNA, BEN), (BEN,)), 13),
    ("met nobody", Met(), 13),
    ("list everything", List(), 1),
    ("list, next page of a folder", List("Fotos/", "Fotos/a.jpg", 100), 2),
    ("listing", Listing((PHOTO, FRESH), True), 1),
    ("listing of nothing", Listing(()), 2),
    ("stat by path", Stat("Fotos/Übersicht.jpg"), 3),
    ("stat by root", Stat("", ROOT), 4),
    ("stat, at once", Stat("Fotos/Übersicht.jpg", None, True), 3),
    ("entry", Stated(PHOTO), 3),
    ("entry of what is being downloaded, for some only", Stated(PART), 3),
    ("page", PageRequest(ROOT, 1, 137_438), 5),
    ("read one block, in runs of a block", Read(ROOT, 512, 512), 6),
    ("read four blocks, in the longest runs", Read(ROOT, 512, 2048, 2048), 7),
    ("read the seed's way, piece by piece", Read(ROOT, 0, 2, 1), 7),
    ("checksum", Checksum(ROOT), 8),
    ("md5", Md5(MD5), 8),
    ("watch", Watch(ROOT), 10),
    ("blocks", Blocks(((0, 3), (7, 1), (512, 70_000))), 10),
    ("blocks, all of them", Blocks(((3, 4),), True), 10),
    ("bundle", Bundle((ROOT, BEN.node)), 12),
    ("pieces", PiecesRequest(ROOT, 4095), 11),
    ("stream", Stream("disk.iso", 70_000_000_000, 1_700_000_000_123_456_789), 13),
    ("stream from a block on, in short runs", Stream("disk.iso", 70_000, -1, 512, 16), 13),
]
"""Name, message, request."""

RAW: Final[list[tuple[str, Frame]]] = [
    ("digests of two blocks, page 3", Frame(Kind.DIGESTS, 5, 3, ROOT + ANNA.node)),
    ("digests of nothing", Frame(Kind.DIGESTS, 5, 0, b"")),
    ("digests of two pieces of block 4095", Frame(Kind.PIECE_DIGESTS, 11, 4095, MD5 + MD5[::-1])),
    (
        "parcel: an empty content, one that is not there, one of two bytes",
        Frame(Kind.PARCEL, 12, 3, bytes.fromhex("00000000ffffffff000000026162")),
    ),
    ("data, one whole piece", Frame(Kind.DATA, 7, 0, bytes(range(256)) * 2)),
    ("data, a piece and the short last one", Frame(Kind.DATA, 6, 136, bytes(range(200)) * 3)),
]
"""Frames whose body is no message."""

FROM_OTHER_VERSIONS: Final[list[tuple[str, Kind, list[object], Message]]] = [
    (
        "hello of a newer version: fields after those that are known",
        Kind.HELLO,
        [1, 2, "transfer", ANNA.node, "", "", [], "", None, None, {"new": True}, 2**64 - 1],
        Hello(1, 2, "transfer", ANNA.node),
    ),
    (
        "hello with nothing but what is required",
        Kind.HELLO,
        [1, 1, "transfer", ANNA.node],
        Hello(1, 1, "transfer", ANNA.node),
    ),
    ("error, its time given as an integer", Kind.ERROR, [7, "Full.", 2], Error(7, "Full.", 2.0)),
    ("read without a run", Kind.READ, [ROOT, 0, 2], Read(ROOT, 0, 2, 512)),
    ("stat of one who waits", Kind.STAT, ["neu.txt"], Stat("neu.txt")),
    ("stream of the whole file", Kind.STREAM, ["a", 1, 2], Stream("a", 1, 2, 0, 512)),
    (
        "entry of a newer version, the longer one inside",
        Kind.ENTRY,
        [["neu.txt", 0, -1, None, None, False, False, "new"], "new"],
        Stated(FRESH),
    ),
]
"""Frames to be read, though no writer of this version makes them."""

_MSG = msgspec.msgpack.encode

REFUSED: Final[list[tuple[str, bytes]]] = [
    ("kind 0", encode_frame(0, 0, b"\x90")),
    ("unknown kind", encode_frame(0x77, 0, b"\x90")),
    ("hello one byte over its cap", encode_header(Kind.HELLO, 0, 1025)),
    ("ping of 16777215 bytes", encode_header(Kind.PING, 0, 2**24 - 1)),
    ("data one byte over its cap", encode_header(Kind.DATA, 0, 1_048_577)),
    ("no body at all", encode_frame(Kind.PING, 0, b"")),
    ("a byte after the array", encode_frame(Kind.PING, 0, b"\x90\x00")),
    ("an array that ends early", encode_frame(Kind.PONG, 0, b"\x91")),
    ("a map for an array", encode_frame(Kind.PONG, 0, _MSG({"number": 1}))),
    ("a required field left out", encode_frame(Kind.READ, 0, _MSG([ROOT, 0]))),
    ("text for an integer", encode_frame(Kind.PONG, 0, _MSG(["1"]))),
    ("a float for an integer", encode_frame(Kind.PONG, 0, _MSG([1.0]))),
    ("a negative number", encode_frame(Kind.PONG, 0, _MSG([-1]))),
    ("a number of 2^63", encode_frame(Kind.PONG, 0, _MSG([2**63]))),
    ("a time that is no number", encode_frame(Kind.ERROR, 0, _MSG([7, "", float("nan")]))),
    ("a time without end", encode_frame(Kind.ERROR, 0, _MSG([7, "", float("inf")]))),
    ("a root of 31 bytes", encode_frame(Kind.CHECKSUM, 0, _MSG([ROOT[:31]]))),
    ("a root of text", encode_frame(Kind.CHECKSUM, 0, _MSG(["x" * 32]))),
    ("text that is not UTF-8", encode_frame(Kind.ERROR, 0, b"\x92\x05\xa1\xff")),
    ("half a surrogate pair", encode_frame(Kind.ERROR, 0, b"\x92\x05\xa3\xed\xa0\x80")),
    ("a read of nothing", encode_frame(Kind.READ, 0, _MSG([ROOT, 0, 0]))),
    ("a run of 2,049 pieces", encode_frame(Kind.READ, 0, _MSG([ROOT, 0, 1, 2049]))),
    (
        "a million entries announced, one sent",
        encode_frame(Kind.LISTING, 0, b"\x91\xdd\x00\x0f\x42\x40" + _MSG(FRESH)),
    ),
]
"""Frames that nobody may accept."""


def plain(value: object) -> object:
    """Say a message in what JSON has: structs as objects, bytes as hexadecimal digits."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(each) for name, each in msgspec.structs.asdict(value).items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


def _message(name: str, frame: bytes, kind: str, request: int, message: Message) -> object:
    return {
        "name": name,
        "kind": kind,
        "request": request,
        "fields": plain(message),
        "frame": frame.hex(),
    }


def written() -> str:
    """The text of the file."""
    kinds = {type(message): Kind(encode(message)[0]).name for _, message, _ in MESSAGES}
    text = {
        "messages": [
            _message(name, encode(message, request), kinds[type(message)], request, message)
            for name, message, request in MESSAGES
        ],
        "raw": [
            {
                "name": name,
                "kind": Kind(frame.kind).name,
                "request": frame.request,
                "position": frame.position,
                "body": frame.body.hex(),
                "frame": encode_frame(
                    frame.kind, frame.request, bytes(frame.body), frame.position
                ).hex(),
            }
            for name, frame in RAW
        ],
        "from other versions": [
            _message(name, encode_frame(kind, 9, _MSG(fields)), kind.name, 9, message)
            for name, kind, fields, message in FROM_OTHER_VERSIONS
        ],
        "refused": [{"name": name, "frame": frame.hex()} for name, frame in REFUSED],
    }
    return json.dumps(text, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
