"""Tests for L{flow512.discovery.datagram}."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.datagram import (
    MAX_DATAGRAM,
    Announce,
    Answer,
    Datagram,
    Goodbye,
    Offer,
    Query,
    decode,
    encode,
    encode_query,
    is_ours,
    printable,
)
from flow512.errors import BadMessage, Misuse

INSTANCE = bytes(range(16))
HEADER = b"f512\x01"


def announce(**changes: object) -> Announce:
    """An announcement like any other, but for some fields."""
    plain = Announce(INSTANCE, "", "a", b"", (Offer("registry", 5000),), 1, 5000)
    return msgspec.structs.replace(plain, **changes)


def raw(*fields: object) -> bytes:
    """A datagram with these fields, whatever they are."""
    return HEADER + msgspec.msgpack.encode(fields)


def meaning(datagram: Datagram) -> dict[str, object]:
    """What the vectors say of a datagram."""
    said: dict[str, object] = {"kind": type(datagram).__name__.lower()}
    for name, value in msgspec.structs.asdict(datagram).items():
        if name == "offers":
            said[name] = [list(msgspec.structs.astuple(offer)) for offer in value]
        elif name != "padding":
            said[name] = value.hex() if isinstance(value, bytes) else value
    return said


class VectorTests(SynchronousTestCase):
    """The bytes that other implementations are tested against."""

    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "datagrams.json").read_text())

    def test_read(self) -> None:
        """Every vector is read as what it means."""
        for vector in self.vectors:
            datagram = decode(bytes.fromhex(vector["hex"]))
            self.assertEqual(meaning(datagram), vector["meaning"], vector["name"])

    def test_written(self) -> None:
        """What a vector means is written as its bytes."""
        for vector in self.vectors:
            datagram = decode(bytes.fromhex(vector["hex"]))
            if isinstance(datagram, Query):
                written = encode_query(datagram.instance, datagram.network)
            else:
                written = encode(datagram)
            self.assertEqual(written.hex(), vector["hex"], vector["name"])

    def test_complete(self) -> None:
        """There is a vector of every kind."""
        kinds = {vector["meaning"]["kind"] for vector in self.vectors}
        self.assertEqual(kinds, {"announce", "query", "answer", "goodbye"})


class EncodeTests(SynchronousTestCase):
    """What is written."""

    def test_queries_are_full(self) -> None:
        """A question has 512 bytes, whatever network it is for."""
        for network in ("", "n", "n" * 31, "n" * 32, "n" * 64, "\N{GRINNING FACE}" * 64):
            self.assertEqual(len(encode_query(INSTANCE, network)), MAX_DATAGRAM, network)

    def test_never_longer(self) -> None:
        """What would be longer than 512 bytes is refused."""
        wide = "\N{GRINNING FACE}" * 64
        encode(announce(name=wide))
        with self.assertRaises(Misuse):
            encode(announce(name=wide, network=wide))

    def test_no_text(self) -> None:
        """A name that is no Unicode text is refused."""
        with self.assertRaises(Misuse):
            encode(announce(name="\udcff"))


class DecodeTests(SynchronousTestCase):
    """What is read, and what is not."""

    def refuses(self, data: bytes) -> None:
        """Assert that these bytes are no datagram."""
        with self.assertRaises(BadMessage):
            decode(data)

    def test_truncated(self) -> None:
        """A datagram that was cut anywhere is refused."""
        for whole in (encode(announce()), encode(Goodbye(INSTANCE, "", 3))):
            for length in range(len(whole)):
                self.refuses(whole[:length])

    def test_tail(self) -> None:
        """Bytes after the datagram are refused."""
        self.refuses(encode(announce()) + b"\x00")

    def test_oversized(self) -> None:
        """A datagram of 513 bytes is refused, even if it would mean something."""
        self.assertFalse(is_ours(HEADER + bytes(508)))
        self.refuses(raw(2, INSTANCE, "", b"", bytes(500)))

    def test_strangers(self) -> None:
        """Other protocols and versions are told apart by the first bytes."""
        good = encode(announce())
        self.assertTrue(is_ours(good))
        for other in (b"", b"f512", HEADER, b"F512" + good[4:], good[:4] + b"\x02" + good[5:]):
            self.assertFalse(is_ours(other), other)
            self.refuses(other)

    def test_limits(self) -> None:
        """A field that is over its limit, or of another type, is refused."""
        good = [1, INSTANCE, "", "a", b"", [["node", 1]], 1, 5000]
        decode(raw(*good))
        bad: list[tuple[int, object]] = [
            (0, 5),
            (0, "1"),
            (1, INSTANCE[:15]),
            (1, INSTANCE + b"x"),
            (1, "sixteen letters!"),
            (2, "n" * 65),
            (3, "n" * 65),
            (3, None),
            (4, bytes(31)),
            (4, bytes(33)),
            (5, [["node", 0]]),
            (5, [["node", 65536]]),
            (5, [["", 1]]),
            (5, [["n" * 17, 1]]),
            (5, [["node", 1]] * 5),
            (5, {"node": 1}),
            (6, -1),
            (6, 2**63),
            (7, 999),
            (7, 300_001),
            (7, float("nan")),
        ]
        for place, value in bad:
            fields: list[object] = list(good)
            fields[place] = value
            self.refuses(raw(*fields))

    def test_hostile_messagepack(self) -> None:
        """Bad UTF-8, lies about lengths and deep nesting are refused or skipped, no more."""
        self.refuses(HEADER + b"\x94\x04\xc4\x10" + INSTANCE + b"\xa3\xed\xa0\x80\x01")
        self.refuses(HEADER + b"\xdd\xff\xff\xff\xff\x01")
        self.refuses(HEADER + b"\xdf\xff\xff\xff\xff\x01")
        self.refuses(HEADER + b"\x91" * 500)
        nested = HEADER + b"\x95\x04\xc4\x10" + INSTANCE + b"\xa0\x01" + b"\x91" * 400 + b"\xc0"
        self.assertEqual(decode(nested), Goodbye(INSTANCE, "", 1))

    def test_newer_fields(self) -> None:
        """Fields that a newer version added at the end are skipped."""
        offers = [["registry", 5000, 0, 0, False, "tls"]]
        newer = raw(1, INSTANCE, "", "a", b"", offers, 1, 5000, "new")
        self.assertEqual(decode(newer), announce())

    def test_kinds_of_offers(self) -> None:
        """An offer of a kind that only newer versions know does not spoil the rest."""
        offers = [["gateway", 8080], ["node", 5000]]
        read = decode(raw(3, INSTANCE, "", "a", b"", offers, 1, 5000))
        assert isinstance(read, Answer)
        self.assertEqual(read.offers, (Offer("gateway", 8080), Offer("node", 5000)))

    @given(st.binary(max_size=600))
    def test_anything(self, tail: bytes) -> None:
        """Whatever comes, it is a datagram or a L{BadMessage}."""
        for data in (tail, HEADER + tail):
            try:
                decode(data)
            except BadMessage:
                pass


class PrintableTests(SynchronousTestCase):
    """Names, as they are shown."""

    def test_escaped(self) -> None:
        """Control, bidi and lone surrogate characters are escaped; the rest is left alone."""
        self.assertEqual(printable("büro 7"), "büro 7")
        self.assertEqual(printable("a\x1b[2Jb\n\u202ec\ud800"), r"a\x1b[2Jb\n\u202ec\ud800")
