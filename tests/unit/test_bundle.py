"""Tests for L{flow512.wire.bundle}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadFrame
from flow512.wire.bundle import MAX_BUNDLED, pack, parcel_size, unpack


class ParcelTests(SynchronousTestCase):
    """Small contents, whole, one after the other."""

    @given(st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=20))
    def test_round_trip(self, contents: list[bytes | None]) -> None:
        """What is packed is unpacked, of the size that was reckoned."""
        body = pack(contents)
        self.assertEqual(len(body), parcel_size(contents))
        found = unpack(body)
        self.assertEqual([None if each is None else bytes(each) for each in found], contents)

    def test_bytes(self) -> None:
        """The format, to the byte: the empty content, one that is missing, one of two bytes."""
        self.assertEqual(pack([b"", None, b"ab"]), bytes.fromhex("00000000 ffffffff 00000002 6162"))

    def test_largest(self) -> None:
        """The largest content that travels so does; one byte more does not."""
        [content] = unpack(pack([b"x" * MAX_BUNDLED]))
        assert content is not None
        self.assertEqual(len(content), MAX_BUNDLED)
        self.assertRaises(BadFrame, unpack, pack([b"x" * (MAX_BUNDLED + 1)]))

    @given(st.binary(max_size=40))
    def test_anything(self, body: bytes) -> None:
        """Whatever comes is taken apart to the last byte, or refused."""
        try:
            found = unpack(body)
        except BadFrame:
            return
        self.assertEqual(pack(None if each is None else bytes(each) for each in found), body)

    def test_refused(self) -> None:
        """What is cut off, or empty, is refused in a sentence."""
        for body, why in (
            (b"", "nothing"),
            (b"\0\0\0", "middle of a length"),
            (b"\0\0\0\x02a", "2 bytes"),
            (b"\0\0\0\0\0", "middle of a length"),
            (b"\xff\xff\xff\xfe", "4294967294 bytes"),
        ):
            error = self.assertRaises(BadFrame, unpack, body)
            self.assertIn(why, str(error))
