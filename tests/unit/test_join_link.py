"""Tests for L{flow512.link.join_link}."""

from __future__ import annotations

import traceback

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Misuse
from flow512.link.address import HostPort
from flow512.link.join_link import (
    MAX_LINK,
    MAX_REGISTRIES,
    JoinLink,
    Registry,
    format_key,
    is_join_link,
    is_key,
    parse_join_link,
    parse_key,
    parse_registry,
)
from flow512.link.node_id import format_node_id

KEY = bytes(range(100, 132))
TEXT = format_key(KEY)
NODE = bytes(range(32))
ID = format_node_id(NODE)

keys = st.binary(min_size=32, max_size=32)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
hosts = st.one_of(
    # An IPv4 address that is written as one of IPv6 is read as what it is.
    st.ip_addresses().map(str).filter(lambda host: not host.startswith("::ffff:")),
    st.from_regex(r"[a-zA-Z0-9\u00e4-\u00f6.+&=#%/@-]{1,30}", fullmatch=True).filter(
        lambda host: "/" not in host and "@" not in host
    ),
)
registries = st.builds(
    Registry, st.builds(HostPort, hosts, st.integers(1, 65535)), st.none() | keys
)


class LinkCase(SynchronousTestCase):
    """What is refused."""

    def refused(self, text: str) -> str:
        """Read what is no link; however the error is looked at, nothing of the key may show."""
        with self.assertRaises(Misuse) as caught:
            parse_join_link(text)
        error = caught.exception
        whole = "".join(traceback.format_exception(error, chain=True)) + repr(error)
        self.assertIsNone(error.__context__)
        self.assertNotIn(TEXT[:12], whole.upper())
        self.assertTrue(str(error).isprintable())
        return str(error)


class RoundTripTests(LinkCase):
    """What is written is what is read."""

    @given(names, keys, st.lists(registries, max_size=5))
    def test_round_trip(self, name: str, key: bytes, places: list[Registry]) -> None:
        """Any network comes out of its link as it was, and the link is one word of ASCII."""
        network = JoinLink(name, key, tuple(places))
        link = str(network)
        self.assertTrue(link.isascii())
        self.assertEqual(len(link.split()), 1)
        self.assertEqual(parse_join_link(link), network)

    def test_mapped_address(self) -> None:
        """An IPv4 address that is written as one of IPv6 is read as what it is."""
        network = JoinLink("a", KEY, (Registry(HostPort("::ffff:7f00:1", 1), None),))
        (registry,) = parse_join_link(str(network)).registries
        self.assertEqual(registry.address, HostPort("127.0.0.1", 1))

    def test_as_documented(self) -> None:
        """The link looks as docs/commands.rst has it."""
        network = JoinLink(
            "my office/2",
            KEY,
            (Registry(HostPort("192.0.2.7", 5000), NODE), Registry(HostPort("2001:db8::1", 5001))),
        )
        self.assertEqual(
            str(network),
            f"flow512://join/my%20office%2F2?key={TEXT}"
            f"&registry={ID}@192.0.2.7:5000&registry=%5B2001:db8::1%5D:5001",
        )

    def test_forgiven(self) -> None:
        """Case of scheme and key, line breaks, brackets as they are, and a missing port pass."""
        network = JoinLink("office", KEY, (Registry(HostPort("2001:db8::1", 5000), NODE),))
        link = (
            f" FLOW512://Join/office?registry={ID.lower()}@[2001:db8::1]"
            f"&key={TEXT[:20].lower()}\n {TEXT[20:]}\n"
        )
        self.assertEqual(parse_join_link(link), network)

    def test_unknown_parameters(self) -> None:
        """What a later version adds is ignored, with a value and without."""
        link = f"flow512://join/office?v=2&key={TEXT}&flag&colour=red#more"
        self.assertEqual(parse_join_link(link), JoinLink("office", KEY))

    def test_keys(self) -> None:
        """A bare key is read in any case, and only as a whole."""
        self.assertEqual(parse_key(f" {TEXT.lower()}\n"), KEY)
        self.assertEqual(len(TEXT), 52)
        for text in ("", TEXT[:-1], TEXT + "A", "0" + TEXT[1:], TEXT[:-1] + "B"):
            self.assertFalse(is_key(text))
            with self.assertRaises(Misuse) as caught:
                parse_key(text)
            self.assertNotIn(TEXT[1:9], str(caught.exception))

    def test_meant(self) -> None:
        """A faulty link is known for what it is meant to be."""
        for text in ("flow512://join/", "\nFLOW512:x"):
            self.assertTrue(is_join_link(text))
        for text in (TEXT, "", "http://flow512:5000/"):
            self.assertFalse(is_join_link(text))


class RefusalTests(LinkCase):
    """What is wrong with a link is told without it."""

    def test_sentences(self) -> None:
        """Each fault has its own words."""
        start, key = "flow512://join/office", f"key={TEXT}"
        rows = [
            ("", "does not begin with flow512://join/"),
            (TEXT, "does not begin with flow512://join/"),
            (f"http://join/office?{key}", "does not begin with"),
            (f"flow512://leave/office?{key}", "does not begin with"),
            (f"flow512://[{TEXT}/office?{key}", "it is damaged"),
            (f"flow512://{TEXT}\u2100/office?{key}", "it is damaged"),
            (f"flow512://join/%ff?{key}", "it is damaged"),
            (f"{start}?{key}&x=%ff", "it is damaged"),
            (f"{start}?{key}" + "&x=1" * 64, "it is damaged"),
            (start, "no key"),
            (f"{start}{key}", "no key"),
            (f"{start}?{key}&{key}", "2 keys"),
            (f"{start}?key=", "its key is damaged"),
            (f"{start}?{key[:-1]}", "its key is damaged"),
            (f"{start}?{key}registry=a", "its key is damaged"),
            (f"flow512://join?{key}", "names no network"),
            (f"flow512://join/{'n' * 65}?{key}", "names no network"),
            (f"flow512://join/\udcff?{key}", "names no network"),
            (f"{start}?{key}{'&registry=a' * (MAX_REGISTRIES + 1)}", "more than 16 registries"),
            (f"{start}?{key}&registry=a&registry={TEXT}:0", "registry number 2 is damaged"),
            (f"{start}?{key}&registry={TEXT}@a", "registry number 1 is damaged"),
            (f"{start}?{key}&registry=unix:/{TEXT}", "registry number 1 is damaged"),
            (f"{start}?{key}&x={'x' * MAX_LINK}", "longer than"),
        ]
        for text, words in rows:
            self.assertIn(words, self.refused(text), ascii(text))

    @given(st.text() | st.text().map(lambda text: f"flow512://join/{text}"))
    def test_any_text(self, text: str) -> None:
        """Any text is a link or is refused."""
        try:
            parse_join_link(text)
        except Misuse as error:
            self.assertIsNone(error.__context__)

    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """A link that lost, got or changed a character is read or refused, never repeated."""
        link = str(JoinLink("office", KEY, (Registry(HostPort("a", 1), NODE),)))
        at = data.draw(st.integers(0, len(link)))
        put = data.draw(st.text(max_size=2))
        text = link[:at] + put + link[at + data.draw(st.integers(0, 2)) :]
        try:
            parse_join_link(text)
        except Misuse as error:
            self.assertNotIn(TEXT[:12], str(error))
            self.assertNotIn(TEXT[-12:], str(error))

    def test_no_network(self) -> None:
        """What cannot be written as a link cannot be made."""
        registry = Registry(HostPort("a", 1))
        long = Registry(HostPort("a" * MAX_LINK, 1))
        for name, places in (
            ("", ()),
            ("n" * 65, ()),
            ("n", (registry,) * (MAX_REGISTRIES + 1)),
            ("n", (long,)),
        ):
            with self.assertRaises(Misuse) as caught:
                JoinLink(name, KEY, places)
            self.assertNotIn(TEXT, str(caught.exception))

    def test_repr(self) -> None:
        """Who logs the object by mistake does not log the key, in any form."""
        shown = f"{JoinLink('office', KEY, (Registry(HostPort('a', 1), NODE),))!r}"
        self.assertIn("office", shown)
        for form in (TEXT, KEY.hex(), repr(KEY), repr(KEY)[2:-1]):
            self.assertNotIn(form, shown)


class RegistryTests(SynchronousTestCase):
    """Registries, as people type them."""

    def test_registries(self) -> None:
        """An address, with or without an id."""
        self.assertEqual(parse_registry("a:1"), Registry(HostPort("a", 1)))
        self.assertEqual(parse_registry("a"), Registry(HostPort("a", 5000)))
        self.assertEqual(
            parse_registry(f" {ID.lower()}@[::1]:7 "), Registry(HostPort("::1", 7), NODE)
        )

    def test_refused(self) -> None:
        """The sentence says which half is wrong."""
        rows = [
            ("a b", "is no address"),
            ("@a", "is no node id"),
            (f"{ID[:-1]}@a", "is no node id"),
            (f"{ID}@", "is no address"),
            ("unix:/run/registry", "as host:port only"),
        ]
        for text, words in rows:
            with self.assertRaises(Misuse) as caught:
                parse_registry(text)
            self.assertIn(words, str(caught.exception), text)
