"""Tests for L{flow512.wire.bundle}."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadFrame
from flow512.wire.bundle import MAX_BUNDLED, Parcel, unpack


def pack(contents: Sequence[bytes | None]) -> bytes:
    """Make a parcel of just the size that it needs."""
    parcel = Parcel(bytearray(sum(4 + len(content or b"") for content in contents)))
    for content in contents:
        if content is None:
            parcel.leave_out()
        else:
            room = parcel.room(len(content))
            assert room is not None
            room[:] = content
            parcel.add(len(content))
    assert parcel.room(0) is None
    return bytes(parcel.body)


class ParcelTests(SynchronousTestCase):
    """Small contents, whole, one after the other."""

    @given(st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=20))
    def test_round_trip(self, contents: list[bytes | None]) -> None:
        """What is packed is unpacked."""
        found = unpack(pack(contents))
        self.assertEqual([None if each is None else bytes(each) for each in found], contents)

    def test_bytes(self) -> None:
        """The format, to the byte: the empty content, one that is missing, one of two bytes."""
        self.assertEqual(pack([b"", None, b"ab"]), bytes.fromhex("00000000 ffffffff 00000002 6162"))

    def test_room(self) -> None:
        """There is room for what fits and no more; what was not added is not in it."""
        buffer = bytearray(b"?" * 20)
        parcel = Parcel(buffer)
        self.assertIsNone(parcel.room(17))
        whole = parcel.room(16)
        assert whole is not None
        self.assertEqual(len(whole), 16)
        self.assertEqual((parcel.count, parcel.size, bytes(parcel.body)), (0, 0, b""))
        room = parcel.room(8)
        assert room is not None
        room[:] = b"12345678"
        parcel.add(8)
        self.assertIsNone(parcel.room(5))
        self.assertEqual(len(parcel.room(4) or b""), 4)
        parcel.leave_out()
        parcel.leave_out()
        self.assertIsNone(parcel.room(0))
        self.assertEqual((parcel.count, parcel.size), (3, 20))
        self.assertEqual(unpack(buffer), [b"12345678", None, None])

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
        self.assertEqual(pack([None if each is None else bytes(each) for each in found]), body)

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
