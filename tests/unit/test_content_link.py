"""Tests for L{flow512.link.content_link} and L{flow512.link.http_url}."""

from __future__ import annotations

import traceback
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import format_content_id
from flow512.errors import Misuse, UnsafeName
from flow512.link.address import HostPort
from flow512.link.content_link import (
    MAX_CONTENT_LINK,
    MAX_HTTP,
    MAX_PARAMETER,
    MAX_PEERS,
    ContentLink,
    LinkedPeer,
    is_content_link,
    parse_content_link,
)
from flow512.link.http_url import MAX_URL, HttpUrl, parse_http_url
from flow512.link.node_id import format_node_id
from flow512.units import MAX_FILE_SIZE

ROOT = bytes(range(200, 232))
ID = format_content_id(ROOT)
NODE = bytes(range(32))
NODE_ID = format_node_id(NODE)
SECRET = "hunter2"

roots = st.binary(min_size=32, max_size=32)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
sizes = st.none() | st.integers(0, MAX_FILE_SIZE)
# An IPv4 address that is written as one of IPv6 is read as what it is.
addresses = st.ip_addresses().map(str).filter(lambda host: not host.startswith("::ffff:"))
hosts = addresses | st.from_regex(r"[a-z0-9\u00e4.+&=#%-]{1,30}", fullmatch=True)
peers = st.builds(LinkedPeer, st.builds(HostPort, hosts, st.integers(1, 65535)), st.none() | roots)
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)
urls = st.builds(
    "{}://{}{}:{}/{}?{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["", "user@", "user:pass@", "a%40b:c%3Ad%25@"]),
    st.sampled_from(["example.org", "192.0.2.7", "[2001:db8::1]", "b\u00fccher.example"]),
    st.integers(1, 65535),
    words.map(lambda word: word.replace("%", "%25").replace("?", "").replace("#", "")),
    words.map(lambda word: word.replace("%", "%25").replace("#", "")),
).map(parse_http_url)
links = st.builds(
    ContentLink,
    roots,
    names,
    sizes,
    st.lists(peers, max_size=4).map(tuple),
    st.lists(urls, max_size=3).map(tuple),
)


class RoundTripTests(SynchronousTestCase):
    """What is written is what is read."""

    @given(links)
    def test_round_trip(self, link: ContentLink) -> None:
        """Any link is one word of ASCII, and comes out of it as it was."""
        text = str(link)
        self.assertTrue(text.isascii())
        self.assertEqual(len(text.split()), 1)
        self.assertTrue(is_content_link(text))
        self.assertEqual(parse_content_link(text), link)

    def test_as_documented(self) -> None:
        """The link looks as docs/links.rst has it."""
        link = ContentLink(
            ROOT,
            "B\u00fccher & mehr+.iso",
            1234,
            (LinkedPeer(HostPort("192.0.2.7", 5000), NODE), LinkedPeer(HostPort("2001:db8::1", 1))),
            (parse_http_url("https://example.org/a%20b.iso?x=1&y=2"),),
        )
        self.assertEqual(
            str(link),
            f"{ID}?name=B%C3%BCcher%20%26%20mehr%2B.iso&size=1234"
            f"&peer={NODE_ID}@192.0.2.7:5000&peer=%5B2001:db8::1%5D:1"
            "&http=https://example.org/a%2520b.iso%3Fx%3D1%26y%3D2",
        )
        page = Path(__file__).parents[2] / "docs" / "links.rst"
        self.assertIn(str(link), "".join(page.read_text(encoding="utf-8").split()))

    def test_bare(self) -> None:
        """A content id is a link, and a link that says no more is a content id."""
        for text in (ID, f"{ID}?", f"{ID}#", ID.upper()):
            self.assertEqual(parse_content_link(text), ContentLink(ROOT), text)
        self.assertEqual(str(ContentLink(ROOT)), ID)
        self.assertEqual(ContentLink(ROOT, "a").content_id, ID)

    def test_forgiven(self) -> None:
        """
        Line breaks, what is not encoded though it should be, a plus, a missing port, a fragment.
        """
        text = f" {ID[:20]}\n  {ID[20:]}?name=B\u00fccher+1.iso&peer=[2001:db8::1]&size=007#more "
        self.assertEqual(
            parse_content_link(text),
            ContentLink(ROOT, "B\u00fccher+1.iso", 7, (LinkedPeer(HostPort("2001:db8::1", 5000)),)),
        )

    def test_unknown_parameters(self) -> None:
        """What a later version adds is ignored, whatever it looks like."""
        text = f"{ID}?v=2&name=a&&flag&=&colour=%zz&Size=x&md5=%ff&size=1"
        self.assertEqual(parse_content_link(text), ContentLink(ROOT, "a", 1))

    def test_meant(self) -> None:
        """A faulty link is known for what it is meant to be; a path is not taken for one."""
        for text in (ID, "FLOW512:x", "\nflow512:"):
            self.assertTrue(is_content_link(text), text)
        for text in ("", "a/flow512:b", "http://flow512:5000/", "flow512"):
            self.assertFalse(is_content_link(text), text)


class RefusalTests(SynchronousTestCase):
    """What is no link is refused in one sentence."""

    def refused(self, text: str) -> str:
        with self.assertRaises(Misuse) as caught:
            parse_content_link(text)
        whole = "".join(traceback.format_exception(caught.exception, chain=False))
        self.assertNotIn(SECRET, whole)
        self.assertTrue(str(caught.exception).isprintable())
        return str(caught.exception)

    def test_sentences(self) -> None:
        """Each fault has its own words."""
        rows = [
            ("", "no content id"),
            (f"{ID[:-1]}?name=a", "no content id"),
            (f"{ID}&name=a", "no content id"),
            (f"flow512://join/office?key={SECRET}", "`flow512 join` takes it"),
            (f" FLOW512://join/office?key={SECRET}", "`flow512 join` takes it"),
            (f"{ID}?name=a&name=b", "more than one name"),
            (f"{ID}?size=1&size=1", "more than one size"),
            (f"{ID}?size=", "size is none that a file can have"),
            (f"{ID}?size=-1", "size is none"),
            (f"{ID}?size=1e3", "size is none"),
            (f"{ID}?size=\u0661", "size is none"),
            (f"{ID}?size={MAX_FILE_SIZE + 1}", "size is none"),
            (f"{ID}?size={'9' * 2000}", "size is none"),
            (f"{ID}?name=%ff", "its name is damaged"),
            (f"{ID}?name=100%", "its name is damaged"),
            (f"{ID}?name=%ed%a0%80", "its name is damaged"),
            (f"{ID}?name=\udcff", "its name is damaged"),
            (f"{ID}?peer=a&peer=a:0", "peer number 2 is damaged"),
            (f"{ID}?peer=", "peer number 1 is damaged"),
            (f"{ID}?peer={NODE_ID[:-1]}@a", "peer number 1 is damaged"),
            (f"{ID}?peer=unix:/run/{SECRET}", "peer number 1 is damaged"),
            (f"{ID}?http=ftp://u:{SECRET}@a/", "web address number 1 is damaged"),
            (f"{ID}?http=http://a/&http=//u:{SECRET}@a", "web address number 2 is damaged"),
            (f"{ID}?{'peer=a&' * (MAX_PEERS + 1)}", "more than 16 peers"),
            (f"{ID}?{'http=http://a&' * (MAX_HTTP + 1)}", "more than 16 web addresses"),
            (f"{ID}?x={'x' * MAX_PARAMETER}", "longer than 2048 characters"),
            (f"{ID}?{'x&' * MAX_CONTENT_LINK}", "longer than 16384 characters"),
        ]
        for text, sentence in rows:
            self.assertIn(sentence, self.refused(text), ascii(text[:100]))

    @given(st.text() | st.text().map(lambda text: f"{ID}?{text}"))
    def test_any_text(self, text: str) -> None:
        """Any text is a link, which can be written again, or is refused."""
        try:
            link = parse_content_link(text)
        except Misuse as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(parse_content_link(str(link)), link)

    def test_longest(self) -> None:
        """What is just as long as it may be is read."""
        name = "n" * (MAX_PARAMETER - len("name="))
        self.assertEqual(parse_content_link(f"{ID}?name={name}").name, name)
        padding = "x" * MAX_PARAMETER
        text = f"{ID}?{'&'.join([padding] * 7)}&"
        self.assertEqual(parse_content_link(text.ljust(MAX_CONTENT_LINK, "x")), ContentLink(ROOT))

    def test_too_much(self) -> None:
        """What cannot be written as a link cannot be made."""
        peer = LinkedPeer(HostPort("a", 1))
        url = parse_http_url("http://a/" + "x" * (MAX_URL - 9))
        for make in (
            lambda: ContentLink(ROOT, peers=(peer,) * (MAX_PEERS + 1)),
            lambda: ContentLink(ROOT, http=(parse_http_url("http://a"),) * (MAX_HTTP + 1)),
            lambda: ContentLink(ROOT, "n" * MAX_PARAMETER),
            lambda: ContentLink(ROOT, http=(url,)),
            lambda: ContentLink(ROOT, http=(parse_http_url(f"http://a/{'x' * 2000}"),) * 9),
            lambda: ContentLink(ROOT, "\udcff.iso"),
        ):
            with self.assertRaises(Misuse) as caught:
                make()
            self.assertTrue(str(caught.exception).isprintable())


class NameTests(SynchronousTestCase):
    """The name in a link is a stranger's suggestion."""

    def test_hostile(self) -> None:
        """A name that must not touch the disk is read, and is not given for use."""
        for name in (
            "..",
            "../../etc/passwd",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "C:x",
            "~root",
            "a\0b",
            "a\nb",
            "\x1b[2J",
            "\u202efdp.exe",
            "CON",
            "aux.txt",
            "end.",
            "end ",
            "a:b",
            ".flow512-allow",
            "n" * 256,
        ):
            link = parse_content_link(str(ContentLink(ROOT, name)))
            self.assertEqual(link.name, name)
            with self.assertRaises(UnsafeName) as caught:
                link.file_name()
            self.assertTrue(str(caught.exception).isprintable(), ascii(name))

    def test_fair(self) -> None:
        """A name like others is given; a link without one leaves it open."""
        self.assertEqual(ContentLink(ROOT, "B\u00fccher 1.iso").file_name(), "B\u00fccher 1.iso")
        self.assertEqual(ContentLink(ROOT).file_name(), "")


class HttpUrlTests(SynchronousTestCase):
    """Addresses on the web."""

    def test_read(self) -> None:
        """What people copy becomes what is asked for: ASCII, without user and fragment."""
        rows = [
            ("http://a", "http://a/"),
            (" HTTPS://example.org:443/a%2Fb?c+d#e ", "https://example.org/a%2Fb?c+d"),
            ("http://b\u00fccher.example/\u00fc", "http://xn--bcher-kva.example/%C3%BC"),
            ("http://[2001:db8::1]:81/\u00fc", "http://[2001:db8::1]:81/%C3%BC"),
            (f"https://user:{SECRET}@a/b", "https://a/b"),
        ]
        for text, plain in rows:
            url = parse_http_url(text)
            self.assertEqual(url.plain, plain)
            self.assertEqual(parse_http_url(str(url)), url)

    def test_refused(self) -> None:
        """What is no address of a file on the web is refused, and not repeated."""
        for text in (
            "",
            "a.org/b",
            "//a/b",
            "ftp://a/b",
            "javascript:alert(1)",
            "http://",
            "http:///b",
            "http://a:0/",
            "http://a:65536/",
            "http://a:b/",
            "http://[::1/",
            "http://a..b/",
            f"http://u:{SECRET} @a/",
            f"http://u:{SECRET}\r\n@a/",
            f"http://u:{SECRET}@[/",
            f"http://{'a' * MAX_URL}",
        ):
            with self.assertRaises(Misuse) as caught:
                parse_http_url(text)
            self.assertNotIn(SECRET, str(caught.exception))

    def test_secrets(self) -> None:
        """Passwords and presigned queries are in the text alone, not in what logs may show."""
        url = parse_http_url(f"https://user:{SECRET}@a:81/b?signature={SECRET}")
        self.assertEqual(url.credentials, ("user", SECRET))
        self.assertEqual(url.shown, "https://a:81/b?\N{HORIZONTAL ELLIPSIS}")
        self.assertEqual(url.host, "a:81")
        self.assertIn(SECRET, str(url))
        for shown in (repr(url), repr(ContentLink(ROOT, http=(url,))), url.shown, url.host):
            self.assertNotIn(SECRET, shown)
        self.assertIn("a:81/b", repr(url))

    def test_joined(self) -> None:
        """A redirect leads where the server says; who asks is told to the same server only."""
        url = parse_http_url(f"https://user:{SECRET}@a/b/c?d")
        rows = [
            ("/e", "https://a/e", True),
            ("e?f", "https://a/b/e?f", True),
            ("https://a:443/e", "https://a/e", True),
            ("http://a/e", "http://a/e", False),
            ("https://a:444/e", "https://a:444/e", False),
            ("//other/e", "https://other/e", False),
        ]
        for location, plain, is_same in rows:
            target = url.joined(location)
            self.assertEqual(target.plain, plain)
            self.assertEqual(target.credentials, ("user", SECRET) if is_same else None, location)
            self.assertEqual(target.is_private, plain.startswith("https"))
        self.assertEqual(url.joined("https://x:y@o/").credentials, ("x", "y"))
        for location in ("ftp://a/", "http://[", "http://a:99999/", "/\x07"):
            self.assertRaises(Misuse, url.joined, location)

    def test_values(self) -> None:
        """Two that ask for the same, as the same user, are equal."""
        self.assertEqual(parse_http_url("HTTP://a"), HttpUrl("http://a/"))
        self.assertNotEqual(parse_http_url("http://u@a"), HttpUrl("http://a/"))
