"""C{flow512 link}, as it is typed and beside a node."""

from __future__ import annotations

import io
import os
from pathlib import Path
from random import Random

from flow512.cli.linking import Wanted, link
from flow512.cli.remembered import catalog_in, find_known
from flow512.cli.voice import PlainVoice
from flow512.content.catalog import Catalog
from flow512.content.tree import TreeBuilder, block_digest, format_content_id
from flow512.discovery.addresses import LocalAddress
from flow512.errors import Misuse
from flow512.link.address import HostPort
from flow512.link.content_link import ContentLink, LinkedPeer, parse_content_link
from flow512.link.http_url import parse_http_url
from flow512.link.identity import read_identity
from flow512.link.listening_file import Listening, ListeningFile
from flow512.units import BLOCK
from tests.unit.command_line import CommandCase, Said

CONTENT = Random(8).randbytes(BLOCK + 9)
ADDRESSES = [
    LocalAddress("192.0.2.1", 24, "eth0", 2),
    LocalAddress("fe80::1", 64, "eth0", 2),
    LocalAddress("2001:db8::1", 64, "eth1", 3),
]


def root_of(content: bytes) -> bytes:
    """The content id of some bytes."""
    builder = TreeBuilder()
    for at in range(0, len(content), BLOCK):
        builder.add(block_digest(content[at : at + BLOCK]))
    return builder.finish(len(content)).root


class LinkCase(CommandCase):
    """A state folder, and commands that are typed."""

    def setUp(self) -> None:
        super().setUp()
        self.state = str(self.folder / "state")
        self.shown: list[str] = []
        self.notices: list[str] = []

    def file(self, name: str = "report.pdf", content: bytes = CONTENT) -> str:
        """Make a local file."""
        path = self.here / name
        path.write_bytes(content)
        return str(path)

    def link(self, *paths: str, urls: tuple[str, ...] = ()) -> list[ContentLink]:
        """Make links on a machine of known addresses."""
        out = io.StringIO()
        self.err = io.StringIO()
        self.status = link(
            Wanted(paths, self.state, urls),
            PlainVoice(out, self.err),
            self.notices.append,
            self.shown.append,
            local_addresses=lambda: ADDRESSES,
        )
        return [parse_content_link(line) for line in out.getvalue().splitlines()]

    def typed(self, *arguments: str) -> Said:
        return self.flow512("link", *arguments, "--state", self.state)

    def listen(self, host: str = "") -> bytes:
        """Let a node run with the state folder; give its id."""
        node = read_identity(self.state).node
        listening = ListeningFile(self.state, Listening(host, 5001))
        self.addCleanup(listening.close)
        return node


class LinkTests(LinkCase):
    """What is in a link."""

    def test_alone(self) -> None:
        """Without a node, name, size and content are in it, and nothing is left in the state."""
        path = self.file()
        self.assertEqual(
            self.link(path), [ContentLink(root_of(CONTENT), "report.pdf", len(CONTENT))]
        )
        self.assertEqual(self.status, 0)
        self.assertFalse(Path(self.state).exists())
        [notice] = self.notices
        self.assertIn("names none to fetch from", notice)

    def test_beside_a_node(self) -> None:
        """A node that runs is named with its id, at each address that others can use."""
        node = self.listen()
        [made] = self.link(self.file())
        self.assertEqual(
            made.peers,
            tuple(LinkedPeer(HostPort(host, 5001), node) for host in ("192.0.2.1", "2001:db8::1")),
        )
        [notice] = self.notices
        self.assertIn("report.pdf' is in no folder that is shared", notice)

    def test_one_address(self) -> None:
        """A node that listens at one address only is named at that."""
        node = self.listen("192.0.2.9")
        [made] = self.link(self.file())
        self.assertEqual(made.peers, (LinkedPeer(HostPort("192.0.2.9", 5001), node),))

    def test_web(self) -> None:
        """Web addresses are added; that a password is among them is said."""
        path = self.file()
        urls = ("https://example.org/r.pdf?a&b", "http://ann:secret@example.org/r.pdf")
        [made] = self.link(path, urls=urls)
        self.assertEqual(made.http, tuple(parse_http_url(each) for each in urls))
        self.assertIn("contains the password", self.notices[-1])
        self.notices.clear()
        self.link(path, urls=urls[:1])
        self.assertNotIn("password", self.notices[-1])

    def test_web_refused(self) -> None:
        """What is no URL is refused before anything is hashed, and so is one for several files."""
        with self.assertRaises(Misuse):
            self.link("nowhere", urls=("example.org/a",))
        with self.assertRaises(Misuse) as caught:
            self.link("a", "b", urls=("http://a/",))
        self.assertIn("one by one", str(caught.exception))

    def test_names(self) -> None:
        """A name that others could not use is left out, so that they need not name it anew."""
        for name in ("a:b", ".flow512-allow", "end.", os.fsdecode(b"\xff.pdf")):
            [made] = self.link(self.file(name))
            self.assertEqual((made.name, made.root), ("", root_of(CONTENT)))
        [made] = self.link(self.file("B\u00fccher & mehr.pdf"))
        self.assertEqual(made.name, "B\u00fccher & mehr.pdf")

    def test_empty(self) -> None:
        """A file of no bytes has a link."""
        [made] = self.link(self.file("empty", b""))
        self.assertEqual((made.size, made.root), (0, root_of(b"")))

    def test_code(self) -> None:
        """The code of a single link is shown, as long as one can hold it."""
        path = self.file()
        [made] = self.link(path)
        self.assertEqual(self.shown, [str(made)])
        self.shown.clear()
        self.link(path, path)
        self.link(path, urls=tuple(f"http://example.org/{'x' * 1900}{at}" for at in range(2)))
        self.assertEqual(self.shown, [])


class CatalogTests(LinkCase):
    """Files that a node shares."""

    def test_shared(self) -> None:
        """
        What the catalog knows is not hashed again: a file whose bytes were changed behind the
        system's back, which it cannot know, has the content id of before.
        """
        self.start_node({"sub/report.pdf": CONTENT}, state=self.state, beacon_port=None)
        self.network.run(5)
        [path] = self.folder.glob("*/sub/report.pdf")
        status = path.stat()
        path.write_bytes(CONTENT[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        [made] = self.link(str(path))
        self.assertEqual(made.root, root_of(CONTENT))
        self.assertEqual([each.address.port for each in made.peers], [5000, 5000])
        self.assertEqual(self.notices, [])
        os.utime(path, (5, 5))
        [made] = self.link(str(path))
        self.assertEqual(made.root, root_of(CONTENT[::-1]))

    def test_folder_gone(self) -> None:
        """A file whose folder has gone meanwhile is not known, and that is no failure."""
        os.mkdir(self.state)
        Catalog(os.path.join(self.state, "catalog.sqlite")).close()
        with catalog_in(self.state) as catalog:
            assert catalog is not None
            self.assertIsNone(find_known(catalog, str(self.folder / "gone" / "file")))


class TypedTests(LinkCase):
    """The command."""

    def test_said(self) -> None:
        """Standard output has the link and nothing else, and standard error what is to be known."""
        said = self.typed(self.file())
        self.assertEqual(said.status, 0)
        expected = ContentLink(root_of(CONTENT), "report.pdf", len(CONTENT))
        self.assertEqual(said.out, f"{expected}\n")
        self.assertIn("No node runs", said.err)

    def test_json(self) -> None:
        """A program is told what is in the link."""
        path = self.file()
        said = self.typed(path, "--json", "--http", "http://example.org/a b".replace(" ", "%20"))
        told = said.event("link")
        made = parse_content_link(told["link"])
        self.assertEqual(
            told,
            {
                "event": "link",
                "path": path,
                "link": str(made),
                "name": "report.pdf",
                "bytes": len(CONTENT),
                "root": format_content_id(root_of(CONTENT)),
                "peers": [],
                "http": ["http://example.org/a%20b"],
            },
        )

    def test_code(self) -> None:
        """A QR code is drawn when it is asked for."""
        self.assertIn("\u2588", self.typed(self.file(), "--qr").out)

    def test_failures(self) -> None:
        """What has no link is told, the rest goes on, and the last failure decides."""
        path = self.file()
        said = self.typed(str(self.here / "no"), path, str(self.here))
        self.assertEqual(said.status, 2)
        self.assertEqual(len(said.out.splitlines()), 1)
        self.assertIn("There is no file", said.err)
        self.assertIn("is not a regular file, so it has no link", said.err)
        self.assertEqual(self.typed(path + "/x").status, 3)
        self.assertEqual(self.typed(path + "\0").status, 3)
        self.assertEqual(self.typed("n" * 300).status, 1)
        self.assertEqual(self.typed(path, "--http", "example.org").status, 2)
