"""Tests for L{flow512.wire.frame}."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadFrame
from flow512.units import BLOCK
from flow512.wire.frame import (
    HEADER_SIZE,
    MAX_REQUEST,
    BufferPool,
    Frame,
    FrameReader,
    encode_frame,
    encode_header,
)
from flow512.wire.messages import CAPS, Kind
from tests.unit.cutting import UNHURRIED, cut, cuttings

ALLOWED = {1: 8, 2: 1000, 3: 0}
"""For the tests: a short kind, a longer one, and one that has no body."""

frames = st.builds(
    Frame,
    st.sampled_from(sorted(ALLOWED)),
    st.integers(0, MAX_REQUEST),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
).filter(lambda frame: len(frame.body) <= ALLOWED[frame.kind])


def spell(frame: Frame) -> bytes:
    """A frame's bytes."""
    return encode_frame(frame.kind, frame.request, bytes(frame.body), frame.position)


def read(
    chunks: list[bytes], allowed: dict[int, int] = ALLOWED
) -> tuple[list[Frame], str | None, bool]:
    """
    Read everything in some chunks.

    @return: the frames; the sentence of the error that ended the reading, if one did; whether
        the reader is between two frames.
    """
    reader = FrameReader(allowed)
    found = []
    for chunk in chunks:
        reader.receive(chunk)
        try:
            while (frame := reader.next_frame()) is not None:
                found.append(frame)
        except BadFrame as error:
            return found, str(error), False
    return found, None, reader.is_between_frames


class EncodeTests(SynchronousTestCase):
    """Frames are laid out as documented."""

    def test_header(self) -> None:
        """Kind, length, request and position stand in 1, 3, 4 and 8 bytes, big end first."""
        header = encode_header(0x27, 0x01020304, 0x0A0B0C, 0x1112131415161718)
        self.assertEqual(header.hex(), "270a0b0c010203041112131415161718")
        self.assertEqual(len(header), HEADER_SIZE)

    def test_frame(self) -> None:
        """The body follows the header, whose position is 0 unless it is given."""
        self.assertEqual(encode_frame(4, 7, b"abc").hex(), "0400000300000007" + "00" * 8 + "616263")

    def test_largest_block(self) -> None:
        """A whole block travels in one frame."""
        block = bytes(range(256)) * (BLOCK // 256)
        data = encode_frame(Kind.DATA, 1, block, 512)
        for chunks in ([data], cut(data, list(range(0, len(data), 16384)))):
            self.assertEqual(read(chunks, CAPS), ([Frame(Kind.DATA, 1, 512, block)], None, True))


class ReadTests(SynchronousTestCase):
    """What is read depends on the bytes, and never on their cuts."""

    def assert_reads(self, data: bytes, expected: list[Frame], error: str | None = None) -> None:
        """Bytes are read as these frames, then this error, whatever the cuts and the tail."""
        for tail in (b"", encode_frame(3, 9, b""), b"\x01\x00"):
            after = [Frame(3, 9, 0, b"")] if tail[:1] == b"\x03" and error is None else []
            whole = len(tail) != 2 and error is None
            for chunks in cuttings(data + tail):
                self.assertEqual(read(chunks), (expected + after, error, whole))

    def test_one(self) -> None:
        """A frame is read as it was written."""
        frame = Frame(2, MAX_REQUEST, 2**64 - 1, bytes(200))
        self.assert_reads(spell(frame), [frame])

    def test_several(self) -> None:
        """Frames are read in their order, those without a body among them."""
        several = [Frame(3, 1, 0, b""), Frame(1, 2, 5, b"12345678"), Frame(3, 0, 0, b"")]
        self.assert_reads(b"".join(map(spell, several)), several)

    def test_nothing(self) -> None:
        """Without bytes there is no frame, and the reader is between two."""
        self.assertEqual(read([]), ([], None, True))
        self.assertEqual(read([b"", b""]), ([], None, True))

    def test_lengths(self) -> None:
        """Zero and the cap are lengths; above it, and below zero, which is far above, none is."""
        self.assert_reads(encode_frame(1, 0, b""), [Frame(1, 0, 0, b"")])
        self.assert_reads(encode_frame(1, 0, b"x" * 8), [Frame(1, 0, 0, b"x" * 8)])
        for length in (9, 1000, 2**23, -8 % 2**24, -1 % 2**24):
            sentence = f"A frame of kind 0x01 announces {length} bytes; 8 is the most it may have."
            before = Frame(2, 1, 0, b"good")
            self.assert_reads(spell(before) + encode_header(1, 0, length), [before], sentence)

    def test_own_cap(self) -> None:
        """Each kind has its own cap, and a kind that may have no body may have none."""
        self.assert_reads(encode_frame(2, 0, bytes(9)), [Frame(2, 0, 0, bytes(9))])
        self.assert_reads(
            encode_frame(3, 0, b"x"),
            [],
            "A frame of kind 0x03 announces 1 bytes; 0 is the most it may have.",
        )

    def test_strange_kinds(self) -> None:
        """A kind that may not arrive is refused, even without a body."""
        for kind in (0, 4, 0x7F, 0xFF):
            sentence = f"A frame of kind {kind:#04x} may not arrive here and now."
            self.assert_reads(encode_frame(kind, 0, b""), [], sentence)
            self.assert_reads(encode_header(kind, 0, 2**24 - 1), [], sentence)

    def test_truncated(self) -> None:
        """Cut off anywhere, a frame is no frame, and the reader knows that it is inside one."""
        data = encode_frame(1, 2, b"12345678")
        for end in range(1, len(data)):
            for chunks in cuttings(data[:end]):
                self.assertEqual(read(chunks), ([], None, False))

    def test_stays_broken(self) -> None:
        """After a refused header nothing is read any more, whatever else arrives."""
        for chunks in cuttings(encode_header(1, 0, 9)):
            reader = FrameReader(ALLOWED)
            for chunk in chunks[:-1]:
                reader.receive(chunk)
                self.assertIs(reader.next_frame(), None)
            for more in (chunks[-1], b"", encode_frame(3, 0, b"")):
                reader.receive(more)
                self.assertRaises(BadFrame, reader.next_frame)

    def test_allowed_changes(self) -> None:
        """What may arrive can change between two frames of one chunk, or inside a header."""
        data = encode_frame(1, 0, b"") + encode_frame(4, 0, b"")
        for chunks in cuttings(data):
            reader = FrameReader({1: 0})
            found = []
            for chunk in chunks:
                reader.receive(chunk)
                while (frame := reader.next_frame()) is not None:
                    found.append(frame.kind)
                    reader.allowed = {4: 0}
            self.assertEqual(found, [1, 4])

    def test_left_to_be_taken(self) -> None:
        """Frames that are not taken at once stay, and what arrives later comes after them."""
        reader = FrameReader(ALLOWED)
        reader.receive(encode_frame(1, 1, b"a") + encode_frame(1, 2, b"b")[:5])
        self.assertFalse(reader.is_between_frames)
        reader.receive(encode_frame(1, 2, b"b")[5:])
        reader.receive(encode_frame(1, 3, b"c"))
        self.assertEqual(
            [reader.next_frame() for _ in range(4)],
            [Frame(1, 1, 0, b"a"), Frame(1, 2, 0, b"b"), Frame(1, 3, 0, b"c"), None],
        )
        self.assertTrue(reader.is_between_frames)

    def test_memory(self) -> None:
        """Headers that announce too much cost no memory."""
        header = encode_header(1, 0, 2**24 - 1)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for chunks in cuttings(header):
            read(chunks)
        self.assertLess(tracemalloc.get_traced_memory()[1], 100_000)

    @UNHURRIED
    @given(st.lists(frames, max_size=6), st.lists(st.integers(0, 400), max_size=12))
    def test_any_frames(self, several: list[Frame], at: list[int]) -> None:
        """Any frames are read as they were written, wherever they are cut."""
        data = b"".join(map(spell, several))
        at = [place for place in at if place <= len(data)]
        self.assertEqual(read(cut(data, at)), (several, None, True))

    @UNHURRIED
    @given(st.binary(max_size=120), st.lists(st.integers(0, 120), max_size=12))
    def test_any_bytes(self, data: bytes, at: list[int]) -> None:
        """Any bytes at all are read to the same end, wherever they are cut."""
        # Most random headers fail at their first byte: these are to get further.
        for start in (b"", b"\x01\x00\x00", b"\x02\x00\x00", encode_header(2, 1, 30)):
            whole = start + data
            at = [place for place in at if place <= len(whole)]
            self.assertEqual(read(cut(whole, at)), read([whole]))


class BufferTests(SynchronousTestCase):
    """Bodies may share memory with those before them, and nothing else."""

    def read_in_two(self, reader: FrameReader, body: bytes) -> bytes | bytearray:
        """Read a frame whose body comes in two chunks."""
        data = encode_frame(1, 0, body)
        reader.receive(data[:-1])
        self.assertIs(reader.next_frame(), None)
        reader.receive(data[-1:])
        frame = reader.next_frame()
        assert frame is not None
        return frame.body

    def test_used_again(self) -> None:
        """A buffer that was given back carries the next body, and nothing of the last."""
        pool = BufferPool({8: 1})
        reader = FrameReader(ALLOWED, pool)
        first = self.read_in_two(reader, b"12345678")
        pool.give_back(first)
        second = self.read_in_two(reader, b"abcdefgh")
        self.assertIs(second, first)
        self.assertEqual(second, b"abcdefgh")

    def test_kept(self) -> None:
        """A body that nobody gave back stays as it is, whatever is read after it."""
        reader = FrameReader(ALLOWED, BufferPool({8: 1}))
        first = self.read_in_two(reader, b"12345678")
        second = self.read_in_two(reader, b"abcdefgh")
        self.assertEqual((first, second), (b"12345678", b"abcdefgh"))

    def test_other_lengths(self) -> None:
        """A shorter body gets a buffer of its own length, and that is not kept."""
        pool = BufferPool({8: 2})
        reader = FrameReader(ALLOWED, pool)
        pool.give_back(bytearray(8))
        short = self.read_in_two(reader, b"123")
        self.assertEqual(short, b"123")
        pool.give_back(short)
        self.assertEqual(self.read_in_two(reader, b"abc"), b"abc")
        self.assertEqual(short, b"123")

    def test_sizes(self) -> None:
        """Buffers of each size are kept for themselves."""
        pool = BufferPool({8: 1, 4: 2})
        small, large = bytearray(4), bytearray(8)
        for buffer in (large, small):
            pool.give_back(buffer)
        self.assertIs(pool.take(4), small)
        self.assertIs(pool.take(8), large)
        self.assertEqual((len(pool.take(4)), len(pool.take(8))), (4, 8))

    def test_bounded(self) -> None:
        """Only so many idle buffers are kept, and bodies that are no buffers never."""
        pool = BufferPool({8: 1})
        buffers = [bytearray(8), bytearray(8)]
        pool.give_back(bytes(8))
        for buffer in buffers:
            pool.give_back(buffer)
        self.assertIs(pool.take(8), buffers[0])
        self.assertFalse(pool.take(8) is buffers[1])


class BodyRoomTests(SynchronousTestCase):
    """Bodies may be put in their place by whoever has their bytes."""

    def test_in_place(self) -> None:
        """Once a body has begun, its rest can be put there, in parts, and the frame is taken."""
        body = bytes(range(200))
        reader = FrameReader(ALLOWED)
        self.assertIsNone(reader.body_room())
        reader.receive(encode_header(2, 7, 200, 9) + body[:50])
        self.assertIsNone(reader.next_frame())
        for start, end in ((50, 51), (51, 200)):
            room = reader.body_room()
            assert room is not None
            self.assertEqual(len(room), 200 - start)
            room[: end - start] = body[start:end]
            self.assertEqual(reader.body_filled(end - start), end == 200)
        self.assertEqual(reader.next_frame(), Frame(2, 7, 9, body))
        self.assertIsNone(reader.body_room())
        self.assertTrue(reader.is_between_frames)

    def test_not_taken_yet(self) -> None:
        """A whole body has no room; what comes before its frame is taken is kept for after it."""
        reader = FrameReader(ALLOWED)
        reader.receive(encode_header(2, 7, 2, 9))
        self.assertIsNone(reader.next_frame())
        room = reader.body_room()
        assert room is not None
        room[:] = b"ab"
        self.assertTrue(reader.body_filled(2))
        self.assertIsNone(reader.body_room())
        reader.receive(encode_frame(1, 8, b"c"))
        self.assertFalse(reader.is_between_frames)
        self.assertEqual(reader.next_frame(), Frame(2, 7, 9, b"ab"))
        self.assertEqual(reader.next_frame(), Frame(1, 8, 0, b"c"))

    def test_not_looked_at_yet(self) -> None:
        """What was received and not yet looked at comes before anything that has room."""
        reader = FrameReader(ALLOWED)
        reader.receive(encode_header(2, 7, 3))
        self.assertIsNone(reader.next_frame())
        reader.receive(b"a")
        self.assertIsNone(reader.body_room())
        self.assertIsNone(reader.next_frame())
        room = reader.body_room()
        assert room is not None
        self.assertEqual(len(room), 2)
