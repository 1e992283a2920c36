"""Tests for L{flow512.wire.messages}."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.inspect import (
    BoolType,
    BytesType,
    FloatType,
    IntType,
    NoneType,
    StrType,
    StructType,
    TupleType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadFrame, BadMessage, Busy, DiskFailure, NotFound
from flow512.units import MAX_FILE_SIZE
from flow512.wire.fields import MAX_LIST, MAX_PATH, MAX_PEERS, Message, Peer
from flow512.wire.frame import Frame, FrameReader
from flow512.wire.leading import Leader
from flow512.wire.messages import (
    CAPS,
    HELLO_ANSWER,
    HELLO_ONLY,
    REGISTRY_CLIENT,
    REGISTRY_SERVER,
    TRANSFER_CLIENT,
    TRANSFER_SERVER,
    Delta,
    Entry,
    Error,
    Hello,
    Kind,
    List,
    Listing,
    PageRequest,
    Pong,
    Reached,
    Read,
    Register,
    Registered,
    Snapshot,
    Stat,
    Stated,
    decode,
    encode,
    error_message,
    message_in,
)
from tests.unit import message_vectors as vectors
from tests.unit.cutting import UNHURRIED, cuttings

CLASSES = sorted(Message.__subclasses__(), key=lambda each: each.__name__)

WIDE = "\U0001f4be"
"""A character that takes four bytes."""


def strategy(kind: Type) -> st.SearchStrategy[Any]:
    """Everything that a field of this type may hold."""
    match kind:
        case IntType(ge=least, le=most):
            return st.integers(least, most)
        case FloatType(ge=least, le=most):
            return st.floats(least, most)
        case BoolType():
            return st.booleans()
        case StrType(max_length=most):
            return st.text(max_size=most)
        case BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=most)
        case VarTupleType(item_type=item, min_length=least, max_length=most):
            few = st.lists(strategy(item), min_size=least or 0, max_size=min(most or 3, 3))
            return few.map(tuple)
        case TupleType(item_types=items):
            return st.tuples(*map(strategy, items))
        case UnionType(types=types):
            return st.one_of([strategy(each) for each in types])
        case NoneType():
            return st.none()
        case StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: strategy(field.type) for field in fields})
    raise AssertionError(f"How is {kind} made?")


messages: st.SearchStrategy[Message] = st.one_of([strategy(type_info(each)) for each in CLASSES])


def frames_in(data: bytes, allowed: dict[int, int] = CAPS) -> list[Frame]:
    """The frames in some bytes."""
    reader = FrameReader(allowed)
    reader.receive(data)
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    return found


def body(kind: Kind, *fields: object) -> Frame:
    """A frame with these fields, whatever they are."""
    return Frame(kind, 0, 0, msgspec.msgpack.encode(fields))


class VectorTests(SynchronousTestCase):
    """The bytes that other implementations are tested against."""

    vectors = json.loads(vectors.FILE.read_text(encoding="utf-8"))

    def test_up_to_date(self) -> None:
        """The file is what its script writes."""
        self.assertEqual(vectors.FILE.read_text(encoding="utf-8"), vectors.written())

    def test_every_kind(self) -> None:
        """There is a vector of every kind."""
        named = {each["kind"] for part in ("messages", "raw") for each in self.vectors[part]}
        self.assertEqual(named, {kind.name for kind in Kind})

    def test_messages(self) -> None:
        """Each is read and written as the file says, whatever the cuts."""
        for vector, (name, message, request) in zip(
            self.vectors["messages"], vectors.MESSAGES, strict=True
        ):
            data = bytes.fromhex(vector["frame"])
            self.assertEqual(vector["name"], name)
            self.assertEqual(encode(message, request), data, name)
            self.assertEqual(vectors.plain(message), vector["fields"], name)
            for chunks in cuttings(data):
                reader = FrameReader(CAPS)
                found = []
                for chunk in chunks:
                    reader.receive(chunk)
                    found.append(reader.next_frame())
                (frame,) = [each for each in found if each is not None]
                self.assertEqual(frame.kind, Kind[vector["kind"]], name)
                self.assertEqual((frame.request, frame.position), (vector["request"], 0), name)
                self.assertEqual(decode(frame, type(message)), message, name)
                self.assertEqual(message_in(frame), message, name)

    def test_raw(self) -> None:
        """Digests and data are their bytes."""
        for vector in self.vectors["raw"]:
            wanted = Frame(
                Kind[vector["kind"]],
                vector["request"],
                vector["position"],
                bytes.fromhex(vector["body"]),
            )
            self.assertEqual(frames_in(bytes.fromhex(vector["frame"])), [wanted], vector["name"])
            self.assertRaises(BadMessage, message_in, wanted)

    def test_other_versions(self) -> None:
        """Fields that were added later are ignored, and those that are missing have defaults."""
        for vector in self.vectors["from other versions"]:
            (frame,) = frames_in(bytes.fromhex(vector["frame"]))
            message = message_in(frame)
            self.assertEqual(vectors.plain(message), vector["fields"], vector["name"])

    def test_refused(self) -> None:
        """What nobody may accept is not accepted."""
        for vector in self.vectors["refused"]:
            with self.assertRaises((BadFrame, BadMessage), msg=vector["name"]):
                for frame in frames_in(bytes.fromhex(vector["frame"])):
                    message_in(frame)


class CodecTests(SynchronousTestCase):
    """Messages become bytes and messages again, and nothing else does."""

    @settings(UNHURRIED, max_examples=500)
    @given(messages, st.integers(0, 2**32 - 1))
    def test_there_and_back(self, message: Message, request: int) -> None:
        """Every message within its limits is read as it was written, or is over its cap."""
        try:
            data = encode(message, request)
        except BadMessage as error:
            self.assertIn("over its cap", str(error))
            return
        (frame,) = frames_in(data)
        self.assertEqual((frame.request, frame.position), (request, 0))
        self.assertEqual(decode(frame, type(message)), message)
        # A body that came in parts is a bytearray.
        self.assertEqual(message_in(frame._replace(body=bytearray(frame.body))), message)

    @UNHURRIED
    @given(st.sampled_from(list(Kind)), st.binary(max_size=200))
    def test_any_body(self, kind: Kind, data: bytes) -> None:
        """Any bytes are a message or a BadMessage, and nothing else happens."""
        for start in (b"", b"\x91", b"\x94\x01\x01", b"\x93\xc4\x20" + bytes(32)):
            try:
                message = message_in(Frame(kind, 0, 0, start + data))
            except BadMessage:
                continue
            self.assertIsInstance(message, Message)

    json_like = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=5)
        | st.binary(max_size=40),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    )

    @UNHURRIED
    @given(st.sampled_from(list(Kind)), st.lists(json_like, max_size=6))
    def test_any_values(self, kind: Kind, fields: list[object]) -> None:
        """Any well-formed MessagePack is a message or a BadMessage; what is read can be written."""
        try:
            message = message_in(body(kind, *fields))
        except BadMessage:
            return
        (frame,) = frames_in(encode(message))
        self.assertEqual(message_in(frame), message)

    def test_truncated(self) -> None:
        """A body that ends early anywhere is refused."""
        for _, message, _ in vectors.MESSAGES:
            (frame,) = frames_in(encode(message))
            for end in range(len(frame.body)):
                self.assertRaises(
                    BadMessage, decode, frame._replace(body=frame.body[:end]), type(message)
                )

    def test_unknown_kind(self) -> None:
        """A number that stands for no kind, or for a raw one, is no message."""
        for kind in (0, 0x06, 0x77, 0xFF, Kind.DATA, Kind.DIGESTS):
            self.assertRaises(BadMessage, message_in, Frame(kind, 0, 0, b"\x90"))

    def test_another_kind(self) -> None:
        """A message is read from frames of its own kind only."""
        with self.assertRaises(BadMessage) as raised:
            decode(Frame(Kind.PING, 0, 0, b"\x90"), Pong)
        self.assertEqual(str(raised.exception), "PONG was expected, and kind 0x04 came.")

    def test_over_the_cap(self) -> None:
        """A message that is too long for its kind is not sent."""
        entries = tuple(Entry("x" * MAX_PATH, 0, 0) for _ in range(100))
        with self.assertRaises(BadMessage) as raised:
            encode(Listing(entries))
        self.assertIn("LISTING of 41", str(raised.exception))
        self.assertIn("is over its cap of 262144.", str(raised.exception))

    def test_half_characters(self) -> None:
        """A text that UTF-8 has no bytes for is not sent."""
        self.assertRaises(BadMessage, encode, Stat("caf\udce9"))

    def test_fullest(self) -> None:
        """What the limits of its fields allow fits into the frame, in the worst alphabet too."""
        peer = Peer(bytes(32), WIDE * 64, WIDE * 64, 65535, True)
        for message in (
            Error(65535, WIDE * 500, 86400.0),
            Register(bytes(16), 65535, WIDE * 64, 2**62, True),
            Leader(bytes(32), 2**62, 2**53, True, WIDE * 64, 65535, WIDE * 200),
            Registered(86400.0, WIDE * 64),
            Reached(65535, False, WIDE * 500, 86400.0),
            Snapshot(2**63 - 1, (peer,) * MAX_PEERS, True),
            Delta(2**63 - 1, (peer,) * MAX_PEERS, (bytes(32),) * MAX_PEERS, (peer,) * MAX_PEERS),
            PageRequest(bytes(32), 5, 2**36),
            Read(bytes(32), MAX_FILE_SIZE // 512, 32768, 512),
            Pong(2**63 - 1, 86400.0),
            # Paths are of so many bytes, whatever their characters (content/paths.py).
            List(WIDE * (MAX_PATH // 4), "x" * MAX_PATH, MAX_LIST),
            Stat("x" * MAX_PATH, bytes(32)),
            Stated(Entry("x" * MAX_PATH, MAX_FILE_SIZE, -(2**63), bytes(32), bytes(16))),
            Hello(
                65535, 65535, "x" * 16, bytes(32), WIDE * 64, "x" * 64, ("y" * 16,) * 16, "z" * 64
            ),
        ):
            (frame,) = frames_in(encode(message))
            self.assertEqual(message_in(frame), message)


class HostileTests(SynchronousTestCase):
    """FIELD.md, 5: what is not as it should be is refused, at no cost."""

    def assert_refused(self, kind: Kind, data: bytes) -> None:
        """A body is refused, and refusing it takes little memory beside its own."""
        frame = Frame(kind, 0, 0, data)
        tracemalloc.start()
        try:
            self.assertRaises(BadMessage, message_in, frame)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 200_000)

    def test_deep(self) -> None:
        """A hundred thousand levels of arrays or maps, as a field or after the last one."""
        for level in (b"\x91", b"\x81\xa1x", b"\xdd\x00\x00\x00\x01"):
            for start in (b"", b"\x91", b"\x93\x90\xc2"):
                self.assert_refused(Kind.LISTING, start + level * 100_000 + b"\xc0")

    def test_declared(self) -> None:
        """What is declared costs nothing until it is there: arrays, maps, texts, bytes."""
        for count in (1000, 1_000_000, 2**32 - 1):
            for first in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):
                declared = first + struct.pack(">I", count)
                entry = msgspec.msgpack.encode(Entry("a", 1, 1))
                for start in (b"", b"\x91", b"\x93\x90\xc2", b"\x91\x91"):
                    self.assert_refused(Kind.LISTING, start + declared + entry)
                    self.assert_refused(Kind.SNAPSHOT, start + declared + entry)

    def test_one_too_many(self) -> None:
        """More of something than its limit is refused though it is there."""
        peer = Peer(bytes(32), "", "", 1)
        for frame in (
            body(Kind.LISTING, [Entry("", 0, 0)] * (MAX_LIST + 1)),
            body(Kind.SNAPSHOT, 1, [peer] * (MAX_PEERS + 1)),
            body(Kind.DELTA, 1, [peer] * (MAX_PEERS + 1)),
            body(Kind.DELTA, 1, [], [bytes(32)] * (MAX_PEERS + 1)),
            body(Kind.HELLO, 1, 1, "", bytes(32), "", "", [""] * 17),
            body(Kind.HELLO, 1, 1, "x" * 17, bytes(32)),
            body(Kind.HELLO, 1, 1, "", bytes(32), "x" * 65),
            body(Kind.ERROR, 1, "x" * 501),
            body(Kind.LIST, "x" * (MAX_PATH + 1)),
            body(Kind.LIST, "", "", MAX_LIST + 1),
            body(Kind.READ, bytes(32), 0, 32769),
            body(Kind.PAGE, bytes(32), 6, 0),
            body(Kind.CHECKSUM, bytes(33)),
            body(Kind.MD5, bytes(17)),
            body(Kind.REGISTER, bytes(16), 65536),
            body(Kind.REACHED, 0, True),
            body(Kind.REACHED, 1, False, "x" * 501),
        ):
            self.assertRaises(BadMessage, message_in, frame)

    def test_huge_map(self) -> None:
        """A map is never a message, however well it is filled."""
        self.assert_refused(
            Kind.LISTING, msgspec.msgpack.encode(dict.fromkeys(map(str, range(20_000)), 1))
        )

    def test_wrong_types(self) -> None:
        """A field holds its own type or the message is refused; nothing is converted."""
        strange: list[Any] = [None, True, -1, 2**63, 2**64 - 1, 1.5, "7", b"7", [], {}]
        strange += [math.nan, msgspec.msgpack.Ext(1, b"x")]
        rows: list[tuple[Kind, list[object], int, tuple[type, ...]]] = [
            (Kind.HELLO, [1, 1, "", bytes(32)], 0, ()),
            (Kind.HELLO, [1, 1, "", bytes(32)], 2, (str,)),
            (Kind.HELLO, [1, 1, "", bytes(32)], 3, ()),
            (Kind.HELLO, [1, 1, "", bytes(32), "", "", []], 6, (list,)),
            (Kind.PONG, [1], 0, ()),
            (Kind.LISTING, [[], True], 1, (bool,)),
            (Kind.CHECKSUM, [bytes(32)], 0, ()),
            (Kind.ENTRY, [[]], 0, ()),
        ]
        for kind, fields, place, good in rows:
            for value in strange:
                frame = body(kind, *fields[:place], value, *fields[place + 1 :])
                if isinstance(value, good):
                    message_in(frame)
                else:
                    self.assertRaises(BadMessage, message_in, frame)

    def test_no_text(self) -> None:
        """Half characters and bytes that are not UTF-8 are refused in every text."""
        for text in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xed\xb2\xa9", b"\xc0\x80", b"\xf5\x80"):
            spelled = bytes([0xA0 + len(text)]) + text
            self.assert_refused(Kind.ERROR, b"\x92\x01" + spelled)
            self.assert_refused(Kind.STAT, b"\x91" + spelled)
            self.assert_refused(Kind.LISTING, b"\x91\x91\x93" + spelled + b"\x01\x01")

    def test_times(self) -> None:
        """Seconds are from 0 to a day: neither endless, nor negative, nor no number."""
        for seconds in (math.nan, -math.nan, math.inf, -math.inf, -1e-9, 86400.1, 1e308, -1, 2**63):
            self.assertRaises(BadMessage, message_in, body(Kind.ERROR, 7, "", seconds))
            self.assertRaises(BadMessage, message_in, body(Kind.REGISTERED, seconds, ""))
            self.assertRaises(BadMessage, message_in, body(Kind.REACHED, 1, False, "", seconds))
        for seconds in (0, 0.0, 86400, 86400.0):
            self.assertEqual(message_in(body(Kind.ERROR, 7, "", seconds)), Error(7, "", seconds))

    def test_size_of_a_file(self) -> None:
        """An entry of 2^63 bytes is refused, one of a byte less is not."""
        self.assertRaises(BadMessage, message_in, body(Kind.ENTRY, ["a", 2**63, 0]))
        entry = Entry("a", 2**63 - 1, 0)
        self.assertEqual(message_in(body(Kind.ENTRY, ["a", 2**63 - 1, 0])), Stated(entry))


class TellingErrorsTests(SynchronousTestCase):
    """An error can always be told."""

    def test_plain(self) -> None:
        """Its code, its sentence and its time are said."""
        self.assertEqual(error_message(NotFound("No.")), Error(5, "No."))
        self.assertEqual(error_message(Busy("Full.", 3.0)), Error(7, "Full.", 3.0))

    def test_unsayable(self) -> None:
        """Half characters, endless sentences and endless times are made to fit."""
        for error in (
            DiskFailure("It failed while reading caf\udce9."),
            NotFound(WIDE * 501),
            Busy("Full.", math.inf),
            Busy("Full.", -1.0),
        ):
            message = error_message(error)
            (frame,) = frames_in(encode(message, 3))
            self.assertEqual(decode(frame, Error), message)
        self.assertEqual(error_message(DiskFailure("caf\udce9")).sentence, "caf?")


class AllowedTests(SynchronousTestCase):
    """What may arrive where."""

    def test_before_the_hello(self) -> None:
        """
        A stranger may send a hello of 1 KiB; one who was greeted may also refuse as briefly, or ask
        for a proof.
        """
        self.assertEqual(HELLO_ONLY, {Kind.HELLO: 1024})
        self.assertEqual(HELLO_ANSWER, {Kind.HELLO: 1024, Kind.CHALLENGE: 128, Kind.ERROR: 1024})

    def test_no_second_hello(self) -> None:
        """Once a conversation is open, nobody greets again."""
        for allowed in (TRANSFER_CLIENT, TRANSFER_SERVER, REGISTRY_CLIENT, REGISTRY_SERVER):
            self.assertNotIn(Kind.HELLO, allowed)
            self.assertLessEqual({Kind.ERROR, Kind.PING, Kind.PONG}, set(allowed))

    def test_directions(self) -> None:
        """
        Requests go one way and answers the other; registries and sources do not mix, but that both
        may be asked who holds a content.
        """
        both = {Kind.ERROR, Kind.PING, Kind.PONG}
        self.assertEqual(set(TRANSFER_CLIENT) & set(TRANSFER_SERVER), both)
        self.assertEqual(set(REGISTRY_CLIENT) & set(REGISTRY_SERVER), both | {Kind.LEADER})
        transfer = set(TRANSFER_CLIENT) | set(TRANSFER_SERVER)
        registry = set(REGISTRY_CLIENT) | set(REGISTRY_SERVER)
        self.assertEqual(transfer & registry, both | {Kind.WHO, Kind.HOLDERS})
        greeting = {Kind.HELLO, Kind.CHALLENGE}
        self.assertEqual(transfer | registry | greeting, set(Kind))

    def test_small_requests(self) -> None:
        """Nobody who asks can make the asked hold more than 16 KiB of one frame."""
        self.assertLessEqual(max(TRANSFER_SERVER.values()), 16 * 1024)
        self.assertLessEqual(max(REGISTRY_SERVER.values()), 16 * 1024)
