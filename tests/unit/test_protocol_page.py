"""The tables of docs/protocol.rst, held to the code: who reads the page can rely on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec.inspect import (
    BoolType,
    BytesType,
    Field,
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

from flow512.content.manifest import Item
from flow512.errors import INTERNAL, WIRE_CODES
from flow512.link.conversation import MAX_UNREAD_ANSWERS, Patience
from flow512.link.introduction import PROTOCOL_VERSION
from flow512.wire.fields import MAX_READ, Message, Peer
from flow512.wire.frame import HEADER_SIZE
from flow512.wire.messages import (
    CAPS,
    HELLO_ANSWER,
    HELLO_ONLY,
    REGISTRY_CLIENT,
    REGISTRY_SERVER,
    TRANSFER_CLIENT,
    TRANSFER_SERVER,
    Cancel,
    Entry,
    Kind,
    Leave,
    Ping,
    Resync,
    encode,
)

PAGE = Path(__file__).parents[2] / "docs" / "protocol.rst"

STRUCTS: list[type[msgspec.Struct]] = [*Message.__subclasses__(), Entry, Item, Peer]

ROUND = {
    2**45 - 1: "2^45 - 1",
    2**36: "2^36",
    2**53: "2^53",
    2**54 - 1: "2^54 - 1",
    2**62: "2^62",
    2**63 - 1: "2^63 - 1",
    -(2**63): "-2^63",
}


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of every csv-table of a page, by its title, without the headings."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in text.splitlines():
        if line.startswith(".. csv-table:: "):
            rows = found[line.removeprefix(".. csv-table:: ")] = []
        elif line and not line.startswith(" "):
            rows = None
        elif rows is not None and line.strip() and not line.strip().startswith(":"):
            rows.append([cell.strip() for cell in line.split("|")])
    return found


def limits(least: float | None, most: float | None) -> str:
    """How the page says a range."""
    assert least is not None
    assert most is not None
    return " to ".join(ROUND.get(int(each), f"{each:g}") for each in (least, most))


def described(kind: Type) -> str:
    """How the page says a type and its limits."""
    match kind:
        case IntType(ge=least, le=most):
            return f"integer, {limits(least, most)}"
        case FloatType(ge=least, le=most):
            return f"number, {limits(least, most)}"
        case BoolType():
            return "boolean"
        case StrType(min_length=1, max_length=most):
            return f"text, 1 to {most}"
        case StrType(max_length=most):
            return f"text, at most {most}"
        case BytesType(min_length=least, max_length=most) if least == most:
            return f"bytes, exactly {most}"
        case VarTupleType(item_type=StructType(cls=cls), max_length=most):
            return f"array of {cls.__name__}, at most {most}"
        case TupleType(item_types=items):
            return "array of " + " and ".join(map(described, items))
        case VarTupleType(item_type=item, min_length=1, max_length=most):
            return f"array of ({described(item)}), 1 to {most}"
        case VarTupleType(item_type=item, max_length=most):
            return f"array of ({described(item)}), at most {most}"
        case UnionType(types=(NoneType(), other)) | UnionType(types=(other, NoneType())):
            return f"{described(other)}, or nil"
        case StructType(cls=cls):
            return cls.__name__
    raise AssertionError(f"How does the page say {kind}?")


def default(field: Field) -> str:
    """How the page says a field's default."""
    value: Any = field.default
    if value is NODEFAULT:
        return "required"
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else "empty"


class PageTests(SynchronousTestCase):
    """What the page says is so."""

    text = PAGE.read_text(encoding="utf-8")
    tables = tables(text)

    def test_kinds(self) -> None:
        """Every kind has its number, cap, conversation, sender and body, and there is no other."""
        bodies = {
            "DIGESTS": "digests, 32 bytes each",
            "DATA": "pieces",
            "ENTRY": "Stated",
            "PAGE": "PageRequest",
            "PIECES": "PiecesRequest",
            "PARCEL": "small contents",
            "PIECE_DIGESTS": "MD5s, 16 bytes each",
        }
        expected = []
        for kind in Kind:
            answerer_hears = kind in TRANSFER_SERVER or kind in REGISTRY_SERVER
            caller_hears = (
                kind in TRANSFER_CLIENT or kind in REGISTRY_CLIENT or kind == Kind.CHALLENGE
            )
            transfer = kind in TRANSFER_SERVER or kind in TRANSFER_CLIENT
            registry = kind in REGISTRY_SERVER or kind in REGISTRY_CLIENT
            expected.append(
                [
                    kind.name,
                    f"{kind:#04x}",
                    str(CAPS[kind]),
                    "every" if transfer == registry else "transfer" if transfer else "registry",
                    "both"
                    if answerer_hears == caller_hears
                    else "caller"
                    if answerer_hears
                    else "answerer",
                    bodies.get(kind.name, kind.name.capitalize()),
                ]
            )
        self.assertEqual(self.tables["Kinds of frames"], expected)

    def test_fields(self) -> None:
        """Every message has a table, with its fields in order, their types, limits, defaults."""
        for cls in STRUCTS:
            about = type_info(cls)
            assert isinstance(about, StructType)
            if not about.fields:
                continue
            expected = [
                [field.name, described(field.type), default(field)] for field in about.fields
            ]
            there = [row[:3] for row in self.tables[cls.__name__]]
            self.assertEqual(there, expected, cls.__name__)
            self.assertTrue(all(row[3] for row in self.tables[cls.__name__]), cls.__name__)

    def test_nothing_else(self) -> None:
        """No table is about something that is not there."""
        known = {cls.__name__ for cls in STRUCTS}
        self.assertEqual(set(self.tables) - known, {"Kinds of frames", "Error codes"})

    def test_without_fields(self) -> None:
        """The messages without a table are those that have no fields, and the page says so."""
        empty = [cls.__name__ for cls in STRUCTS if cls.__name__ not in self.tables]
        self.assertIn(
            "{}, {}, {} and {} have no fields yet".format(*map(str.upper, empty)), self.text
        )
        for cls in (Cancel, Leave, Ping, Resync):
            self.assertIn(cls.__name__, empty)
            self.assertEqual(encode(cls())[HEADER_SIZE:], b"\x90")

    def test_error_codes(self) -> None:
        """Every error that crosses the wire has its code and its name there."""
        expected = sorted(
            [str(code), "Internal" if code == INTERNAL else kind.__name__]
            for kind, code in WIRE_CODES.items()
        )
        self.assertEqual(sorted(row[:2] for row in self.tables["Error codes"]), expected)

    def test_figures(self) -> None:
        """The figures in the text are those of the code."""
        text = re.sub(r"\s+", " ", self.text)
        patience = Patience()
        for said in (
            f"for version {PROTOCOL_VERSION},",
            f"a header of {HEADER_SIZE} bytes",
            f"Such an ERROR has at most {HELLO_ANSWER[Kind.ERROR]} bytes.",
            f"within {patience.greeting:g} seconds of the connection",
            f"for {patience.silence:g} seconds should send PING",
            f"at least every {patience.silence:g} seconds",
            f"for up to {patience.greeting:g} seconds to deliver",
            f"reads nothing at all for {patience.stall:g} seconds",
            f"Once {MAX_UNREAD_ANSWERS // 1024} KiB of answers wait",
            f"at most {MAX_READ} pieces ({MAX_READ // 2048} MiB)",
        ):
            self.assertIn(said, text)
        self.assertEqual(HELLO_ONLY[Kind.HELLO], HELLO_ANSWER[Kind.HELLO])

    def test_header(self) -> None:
        """The example of a header is as long as one is."""
        self.assertIn("| 1 byte | 3 bytes            | 4 bytes           | 8 bytes", self.text)
        self.assertEqual(HEADER_SIZE, 1 + 3 + 4 + 8)
