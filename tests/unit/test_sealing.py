"""Tests for L{flow512.discovery.sealing}."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.datagram import (
    MAX_DATAGRAM,
    OPEN_ROOM,
    Goodbye,
    Query,
    decode_body,
    encode_body,
    encode_query,
    encode_query_body,
)
from flow512.discovery.sealing import SEALED_ROOM, WINDOW, OutOfTime, Seal, Unsealed
from flow512.errors import BadMessage, Misuse
from tests.unit.test_datagram import INSTANCE, announce, meaning

KEY = bytes(range(32))
NOW = 1_800_000_000.0
HEADER = b"f512\x02"

hosts = st.ip_addresses().map(str)
ports = st.integers(1, 65535)
bodies = st.binary(max_size=SEALED_ROOM)
# Until the year 2242; a double tells milliseconds apart for much longer.
times = st.integers(0, 2**43).map(lambda milliseconds: milliseconds / 1000)


class OneNonce(Random):
    """A chance that always gives the same bytes."""

    def __init__(self, nonce: bytes) -> None:
        super().__init__(0)
        self._nonce = nonce

    def randbytes(self, n: int) -> bytes:
        assert n == len(self._nonce)
        return self._nonce


def seal(key: bytes = KEY) -> Seal:
    """A seal of one network."""
    return Seal(key, Random(1))


def sealed_by_hand(plain: bytes) -> bytes:
    """What a member who follows no rules may send from 10.0.0.1, port 4000."""
    bound = HEADER + bytes([10, 0, 0, 1]) + (4000).to_bytes(2, "big")
    return HEADER + bytes(12) + ChaCha20Poly1305(KEY).encrypt(bytes(12), plain, bound)


class VectorTests(SynchronousTestCase):
    """The bytes that other implementations are tested against."""

    path = Path(__file__).parents[1] / "vectors" / "sealed_datagrams.json"
    vectors = json.loads(path.read_text())

    def test_read(self) -> None:
        """Every vector is opened and read as what it means."""
        for vector in self.vectors:
            read = seal(bytes.fromhex(vector["key"])).open(
                bytes.fromhex(vector["hex"]), vector["host"], vector["port"], vector["time"] / 1000
            )
            self.assertEqual(meaning(decode_body(read)), vector["meaning"], vector["name"])

    def test_written(self) -> None:
        """What a vector means is sealed as its bytes."""
        for vector in self.vectors:
            where_and_when = (vector["host"], vector["port"], vector["time"] / 1000)
            own = Seal(bytes.fromhex(vector["key"]), OneNonce(bytes.fromhex(vector["nonce"])))
            datagram = decode_body(own.open(bytes.fromhex(vector["hex"]), *where_and_when))
            if isinstance(datagram, Query):
                body = encode_query_body(datagram.instance, datagram.network, SEALED_ROOM)
            else:
                body = encode_body(datagram, SEALED_ROOM)
            self.assertEqual(own.close(body, *where_and_when).hex(), vector["hex"], vector["name"])

    def test_complete(self) -> None:
        """There is a vector of every kind, by IPv4 and by IPv6."""
        kinds = {vector["meaning"]["kind"] for vector in self.vectors}
        self.assertEqual(kinds, {"announce", "query", "answer", "goodbye"})
        self.assertEqual({":" in vector["host"] for vector in self.vectors}, {False, True})


class SealTests(SynchronousTestCase):
    """What only members of a network can write and read."""

    def refuses(self, data: bytes, host: str, port: int, now: float, key: bytes = KEY) -> None:
        """Assert that these bytes cannot be opened."""
        with self.assertRaises(BadMessage):
            seal(key).open(data, host, port, now)

    @given(bodies, hosts, ports, times)
    def test_there_and_back(self, body: bytes, host: str, port: int, now: float) -> None:
        """What was sealed is opened as it was, in one datagram of 512 bytes."""
        data = seal().close(body, host, port, now)
        self.assertEqual(len(data), MAX_DATAGRAM)
        self.assertEqual(seal().open(data, host, port, now), body)

    @given(bodies, st.integers(0, MAX_DATAGRAM * 8 - 1))
    def test_flipped(self, body: bytes, bit: int) -> None:
        """A datagram with any bit flipped is refused."""
        data = bytearray(seal().close(body, "10.0.0.1", 4000, NOW))
        data[bit // 8] ^= 1 << bit % 8
        self.refuses(bytes(data), "10.0.0.1", 4000, NOW)

    @given(bodies, st.integers(0, 2 * MAX_DATAGRAM))
    def test_length(self, body: bytes, length: int) -> None:
        """A datagram that was cut anywhere, or that has a tail, is refused."""
        assume(length != MAX_DATAGRAM)
        data = seal().close(body, "10.0.0.1", 4000, NOW).ljust(length, b"\0")[:length]
        self.assertFalse(seal().is_ours(data))
        self.refuses(data, "10.0.0.1", 4000, NOW)

    @given(bodies, st.binary(min_size=32, max_size=32))
    def test_other_key(self, body: bytes, key: bytes) -> None:
        """What was sealed with another key is refused."""
        assume(key != KEY)
        self.refuses(seal().close(body, "10.0.0.1", 4000, NOW), "10.0.0.1", 4000, NOW, key)

    @given(hosts, ports, hosts, ports)
    def test_other_source(self, host: str, port: int, other: str, elsewhere: int) -> None:
        """What comes from another address or port than it was sealed for is refused."""
        assume((host, port) != (other, elsewhere))
        self.refuses(seal().close(b"", host, port, NOW), other, elsewhere, NOW)

    def test_mapped_source(self) -> None:
        """An IPv4 address is another than the IPv6 address that stands for it."""
        self.refuses(seal().close(b"", "10.0.0.1", 1, NOW), "::ffff:10.0.0.1", 1, NOW)

    def test_scope(self) -> None:
        """The interface that each side calls a link by does not matter."""
        data = seal().close(b"body", "fe80::1", 4000, NOW)
        self.assertEqual(seal().open(data, "fe80::1%wlan0", 4000, NOW), b"body")

    @given(st.floats(-2 * WINDOW, 2 * WINDOW))
    def test_window(self, late: float) -> None:
        """What is less than five minutes off is opened, and nothing else; that says how far off."""
        assume(abs(abs(late) - WINDOW) > 0.002)
        data = seal().close(b"body", "10.0.0.1", 4000, NOW)
        if abs(late) < WINDOW:
            self.assertEqual(seal().open(data, "10.0.0.1", 4000, NOW + late), b"body")
        else:
            with self.assertRaises(OutOfTime) as refused:
                seal().open(data, "10.0.0.1", 4000, NOW + late)
            self.assertLess(abs(refused.exception.late - late), 0.002)

    def test_edge_of_window(self) -> None:
        """Five minutes to the millisecond are too much, both ways."""
        data = seal().close(b"", "10.0.0.1", 4000, NOW)
        for now in (NOW - WINDOW, NOW + WINDOW):
            self.refuses(data, "10.0.0.1", 4000, now)

    @given(st.binary(max_size=600), times)
    def test_anything(self, tail: bytes, now: float) -> None:
        """Whatever comes from strangers is refused as a L{BadMessage}."""
        for data in (tail, HEADER + tail, (HEADER + tail).ljust(MAX_DATAGRAM, b"\0")):
            self.refuses(data, "10.0.0.1", 4000, now)

    @given(st.binary(min_size=479, max_size=479))
    def test_anything_from_members(self, plain: bytes) -> None:
        """Whatever a member seals is a body or a L{BadMessage}, from the furthest times too."""
        for data in (sealed_by_hand(plain), sealed_by_hand(bytes(8) + plain[8:])):
            try:
                body = seal().open(data, "10.0.0.1", 4000, 0.0)
            except BadMessage:
                continue
            self.assertTrue(len(body) <= SEALED_ROOM)

    def test_lying_length(self) -> None:
        """A body that claims to be longer than there is room is refused."""
        for length, fits in ((SEALED_ROOM, True), (SEALED_ROOM + 1, False), (65535, False)):
            data = sealed_by_hand(bytes(8) + length.to_bytes(2, "big") + bytes(SEALED_ROOM))
            if fits:
                self.assertEqual(seal().open(data, "10.0.0.1", 4000, 0.0), bytes(SEALED_ROOM))
            else:
                self.refuses(data, "10.0.0.1", 4000, 0.0)

    def test_never_the_same(self) -> None:
        """The same said again at the same instant shares nothing with it but the header."""
        own = seal()
        body = encode_body(Goodbye(INSTANCE, "", 3), SEALED_ROOM)
        first, second = (own.close(body, "10.0.0.1", 4000, NOW) for _ in range(2))
        equal = sum(a == b for a, b in zip(first[5:], second[5:], strict=True))
        self.assertLess(equal, 20)

    def test_apart(self) -> None:
        """Open datagrams and sealed ones are no more than noise to each other."""
        question = encode_query(INSTANCE, "")
        sealed = seal().close(b"", "10.0.0.1", 4000, NOW)
        self.assertEqual((len(question), len(sealed)), (512, 512))
        self.assertTrue(Unsealed().is_ours(question))
        self.assertTrue(seal().is_ours(sealed))
        self.assertFalse(Unsealed().is_ours(sealed))
        self.assertFalse(seal().is_ours(question))
        with self.assertRaises(BadMessage):
            Unsealed().open(sealed, "10.0.0.1", 4000, NOW)

    def test_room(self) -> None:
        """The longest names and most offers fit into a sealed datagram."""
        wide = "\N{GRINNING FACE}" * 64
        offers = [(str(number) * 16, 65535) for number in range(4)]
        body = encode_body(
            announce(
                name=wide,
                node_id=bytes(32),
                offers=offers,
                sequence=2**63 - 1,
                interval=300_000,
            ),
            SEALED_ROOM,
        )
        self.assertLess(SEALED_ROOM, OPEN_ROOM)
        self.assertEqual(len(seal().close(body, "::1", 1, NOW)), MAX_DATAGRAM)

    def test_key_of_wrong_length(self) -> None:
        """A key of any other length than 32 bytes is refused at once."""
        for key in (b"", bytes(31), bytes(33), bytes(64)):
            with self.assertRaises(Misuse):
                seal(key)
