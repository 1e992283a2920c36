"""Tests for L{flow512.link.node_id}."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Misuse
from flow512.link.node_id import (
    format_node_id,
    mistyped_groups,
    parse_beginning,
    parse_node_id,
    split_node_id,
)

ALPHABET = string.ascii_uppercase + "234567"
LOOK_ALIKES = {"0": "O", "1": "I", "8": "B"}
PUBLISHED = "P56IOI7-MZJNU2Y-IQGDREY-DM2MGTI-MGL3BXN-PQ6W5BM-TBBZ4TJ-XZWICQ2"
"""The example of Syncthing's documentation and tests."""

nodes = st.binary(min_size=32, max_size=32)


def shown(plain: str) -> str:
    """Put the dashes in."""
    return "-".join(plain[at : at + 7] for at in range(0, len(plain), 7))


class FormTests(SynchronousTestCase):
    """What is written, and what is read."""

    @given(nodes)
    def test_round_trip(self, node: bytes) -> None:
        """What is written for an id is read as that id, and looks as documented."""
        text = format_node_id(node)
        self.assertRegex(text, r"\A([A-Z2-7]{7}-){7}[A-Z2-7]{7}\Z")
        self.assertEqual(parse_node_id(text), node)

    def test_published(self) -> None:
        """The form is Syncthing's, check characters included."""
        self.assertEqual(format_node_id(parse_node_id(PUBLISHED)), PUBLISHED)
        self.assertEqual(format_node_id(bytes(32)), "-".join(["AAAAAAA"] * 8))

    def test_forgiven(self) -> None:
        """Case, blanks, dashes and look-alikes do not matter, as with Syncthing."""
        for text in (
            "P56IOI-7MZJNU2Y-IQGDR-EYDM2M-GTI-MGL3-BXNPQ6-W5BM-TBB-Z4TJXZ-WICQ2",
            "P56IOI7 MZJNU2Y IQGDREY DM2MGTI MGL3BXN PQ6W5BM TBBZ4TJ XZWICQ2",
            "p561017mzjnu2yiqgdreydm2mgtimgl3bxnpq6w5bmt88z4tjxzwicq2",
            f"  {PUBLISHED.lower()}\n",
        ):
            self.assertEqual(parse_node_id(text), parse_node_id(PUBLISHED), text)


class MistypedTests(SynchronousTestCase):
    """What is found, and how it is told."""

    def refused(self, text: str) -> str:
        """Read what is no id."""
        with self.assertRaises(Misuse) as caught:
            parse_node_id(text)
        sentence = str(caught.exception)
        self.assertTrue(sentence.isprintable())
        return sentence

    @given(nodes, st.integers(0, 55), st.sampled_from(ALPHABET + "0189"))
    def test_wrong_character(self, node: bytes, at: int, char: str) -> None:
        """A wrong character is found wherever it stands, and the sentence names its groups."""
        plain = format_node_id(node).replace("-", "")
        wrong = plain[:at] + char + plain[at + 1 :]
        if LOOK_ALIKES.get(char, char) == plain[at]:
            self.assertEqual(parse_node_id(wrong), node)
            return
        sentence = self.refused(wrong)
        self.assertIn("mistyped", sentence)
        if char != "9":
            groups = shown(wrong.translate(str.maketrans(LOOK_ALIKES))).split("-")
            first = at // 14 * 2
            self.assertIn(f"{groups[first]}-{groups[first + 1]}", sentence)

    @given(nodes, st.integers(0, 3), st.integers(0, 11))
    def test_swapped_neighbours(self, node: bytes, part: int, at: int) -> None:
        """Two neighbours among the 13 that are swapped are found, unless they are A and 7."""
        plain = format_node_id(node).replace("-", "")
        at += part * 14
        first, second = plain[at : at + 2]
        swapped = plain[:at] + second + first + plain[at + 2 :]
        if first == second:
            self.assertEqual(parse_node_id(swapped), node)
        elif {first, second} != {"A", "7"}:
            self.assertIn("mistyped", self.refused(swapped))

    def test_what_is_not_found(self) -> None:
        """The documented exceptions are no more than that: A with 7, 13th with check character."""
        node = b"\x07\xc0" + bytes(30)  # A7AA...
        text = format_node_id(node)
        self.assertTrue(text.startswith("A7A"))
        self.assertNotEqual(parse_node_id("7A" + text[2:]), node)
        plain = text.replace("-", "")
        swapped = plain[:12] + plain[13] + plain[12] + plain[14:]
        self.assertNotEqual(parse_node_id(swapped), node)

    def test_unused_bits(self) -> None:
        """The last character carries one bit; an id with more in it is refused, not a twin."""
        plain = format_node_id(bytes(32)).replace("-", "")
        # 1 at the 13th place, of weight 1, has the check character 31.
        self.assertIn("AAAAAAA-AAAAAB7", self.refused(plain[:-2] + "B7"))

    def test_length(self) -> None:
        """A wrong length is told as that, with the count; so is half of an id, and nothing."""
        self.assertIn("it has 55 characters", self.refused(PUBLISHED[:-1]))
        self.assertIn("it has 57 characters", self.refused(PUBLISHED + "A"))
        self.assertIn("it has 52 characters", self.refused("A" * 52))
        self.assertIn("it has 0 characters", self.refused(" - "))
        self.assertNotIn("mistyped", self.refused(PUBLISHED[7:]))

    def test_foreign_character(self) -> None:
        """A character that no id has is named, fit for a terminal."""
        self.assertIn("'9'", self.refused("9" + PUBLISHED[1:]))
        self.assertIn("'\\x1b'", self.refused("\x1b" + PUBLISHED[1:]))
        # Python's upper() makes I of this one.
        self.assertIn(
            "mistyped", self.refused(PUBLISHED.replace("I", "\N{LATIN SMALL LETTER DOTLESS I}"))
        )

    def test_endless(self) -> None:
        """However long it is, the sentence is short."""
        self.assertLess(len(self.refused("A" * 100_000)), 300)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any text is an id or is refused by a sentence that a terminal can show."""
        try:
            parse_node_id(text)
        except Misuse as error:
            self.assertTrue(str(error).isprintable())


class SplitTests(SynchronousTestCase):
    """Whom somebody wants at an address."""

    def test_split(self) -> None:
        """An id before the first @ is taken off; an endpoint string keeps what it has."""
        node = parse_node_id(PUBLISHED)
        rows = [
            ("a:5000", None, "a:5000"),
            (f"{PUBLISHED}@a:5000", node, "a:5000"),
            (f"{PUBLISHED}@unix:/run/a@b", node, "unix:/run/a@b"),
            ("unix:/run/a@b", None, "unix:/run/a@b"),
        ]
        for text, expected, rest in rows:
            self.assertEqual(split_node_id(text), (expected, rest))
        for text in ("@a:5000", f"{PUBLISHED[1:]}@a:5000"):
            with self.assertRaises(Misuse):
                split_node_id(text)


class BeginningTests(SynchronousTestCase):
    """What may be the beginning of an id, or a name."""

    @given(nodes, st.integers(7, 56))
    def test_round_trip(self, node: bytes, length: int) -> None:
        """However much of an id is typed, without dashes and in any case, it begins like that."""
        text = format_node_id(node)
        typed = text.replace("-", "")[:length].lower()
        beginning = parse_beginning(typed)
        self.assertTrue(text.startswith(beginning), beginning)
        self.assertEqual(beginning.replace("-", "").lower(), typed)
        self.assertEqual(mistyped_groups(beginning), "")

    def test_none(self) -> None:
        """What is too short, or has something in it that no id has, begins none."""
        for text in ("", "P56-IOI", "nas.example", "p56ioi9", "192.168.77.77", "a" * 60 + ".lan"):
            self.assertEqual(parse_beginning(text), "", text)

    def test_mistyped(self) -> None:
        """A mistake is named where it can be found; what can only be an id is refused for it."""
        wrong = PUBLISHED.replace("MZJNU2Y", "MZJNU3Y")
        for length, where in ((7, ""), (14, ""), (15, "P56IOI7-MZJNU3Y"), (40, "P56IOI7-MZJNU3Y")):
            self.assertEqual(mistyped_groups(parse_beginning(wrong[:length])), where, length)
        for text in (
            wrong,
            wrong[:-2],
            PUBLISHED[:20] + PUBLISHED[22:],
            PUBLISHED + "A",
            "9" + PUBLISHED[1:],
        ):
            with self.assertRaises(Misuse, msg=text):
                parse_beginning(text)
