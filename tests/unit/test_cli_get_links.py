"""C{flow512 get} with content links, and with web servers beside nodes."""

from __future__ import annotations

from random import Random

from flow512.link.address import HostPort, parse_address
from flow512.link.content_link import ContentLink, LinkedPeer
from flow512.link.http_url import parse_http_url
from flow512.units import BLOCK
from tests.unit.command_line import CommandCase, Said
from tests.unit.test_cli_linking import root_of
from tests.unit.test_http_source import Server, part

CONTENT = Random(3).randbytes(30 * BLOCK + 5)
ROOT = root_of(CONTENT)
SERVER = HostPort("10.0.0.1", 5000)
NOBODY = HostPort("10.0.0.77", 5000)


class GetLinkTests(CommandCase):
    """Nobody is known but by the link."""

    def setUp(self) -> None:
        super().setUp()
        self.node = self.start_node({"sub/report.pdf": CONTENT}, beacon_port=None)

    def get(self, link: object, *arguments: str) -> Said:
        return self.flow512("get", str(link), "-o", str(self.here), "--no-beacon", *arguments)

    def serve(self) -> Server:
        """A web server on a host of its own, which is faster than the node."""
        web = self.network.host("10.0.0.3", name="web")
        server = Server(lambda request: part(request, content=CONTENT))
        web.reactor.listenTCP(80, server)
        self.server.bandwidth = 1_000_000
        return server

    def test_peer(self) -> None:
        """The node of the link is asked, without a wait, and the file has the link's name."""
        before = self.network.clock.seconds()
        said = self.get(ContentLink(ROOT, "mine.pdf", peers=(LinkedPeer(SERVER),)))
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertLess(self.network.clock.seconds() - before, 3)
        self.assertEqual((self.here / "mine.pdf").read_bytes(), CONTENT)

    def test_stale(self) -> None:
        """Nodes of a link that are gone are named, and whoever else has the file is asked."""
        for gone in ("10.0.0.1:5001",), ("10.0.0.1:5001", "10.0.0.1:5002"):
            with self.subTest(gone=gone):
                peers = tuple(LinkedPeer(parse_address(each)) for each in gone)
                said = self.get(ContentLink(ROOT, "a.pdf", peers=peers), "--registry", "10.0.0.1")
                self.assertEqual(said.status, 0, said.err)
                self.assertEqual((self.here / "a.pdf").read_bytes(), CONTENT)
                dropped = [line.split(" was dropped: ")[0] for line in said.err.splitlines()]
                self.assertEqual(sorted(dropped), sorted(f"flow512: {each}" for each in gone))
                (self.here / "a.pdf").unlink()

    def test_silent(self) -> None:
        """A node of a link that does not answer holds nobody up until it is given up."""
        before = self.network.clock.seconds()
        link = ContentLink(ROOT, peers=(LinkedPeer(NOBODY),))
        said = self.get(link, "--registry", "10.0.0.1")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertLess(self.network.clock.seconds() - before, 5)

    def test_nobody_else(self) -> None:
        """If nobody else is known, the link's node is the one that cannot be reached."""
        said = self.get(ContentLink(ROOT, peers=(LinkedPeer(NOBODY),)))
        self.assertEqual(said.status, 5)
        self.assertIn("flow512: 10.0.0.77:5000 cannot be reached", said.err)
        self.assertEqual(len(said.err.splitlines()), 1)

    def test_own_name(self) -> None:
        """Without a name in the link the file is called as at its source; -o has the last word."""
        link = ContentLink(ROOT, "", len(CONTENT), (LinkedPeer(SERVER),))
        self.assertEqual(self.get(link).status, 0)
        self.assertEqual((self.here / "report.pdf").read_bytes(), CONTENT)
        named = ContentLink(ROOT, "../mine.pdf", peers=link.peers)
        said = self.flow512("get", str(named), "-o", str(self.here / "so"), "--no-beacon")
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual((self.here / "so").read_bytes(), CONTENT)

    def test_hostile_name(self) -> None:
        """A name that leads elsewhere is refused, with a way out, before anybody is asked."""
        said = self.get(ContentLink(ROOT, "../mine.pdf", peers=(LinkedPeer(SERVER),)))
        self.assertEqual(said.status, 2)
        self.assertIn("choose another name with -o", said.err)
        self.assertEqual(list(self.here.iterdir()), [])

    def test_identity(self) -> None:
        """Who cannot prove the link's node id is not spoken to; the next one is asked."""
        node = self.node.introduction.node
        wrong = LinkedPeer(SERVER, bytes(32))
        self.assertNotEqual(self.get(ContentLink(ROOT, peers=(wrong,))).status, 0)
        right = LinkedPeer(HostPort("server", 5000), node)
        self.assertEqual(self.get(ContentLink(ROOT, peers=(wrong, right))).status, 0)

    def test_no_link(self) -> None:
        """A faulty link is refused, and so is a faulty web address."""
        said = self.get(f"{ContentLink(ROOT)}?size=x")
        self.assertEqual(said.status, 2)
        self.assertIn("its size is none that a file can have", said.err)
        said = self.get("sub/report.pdf", "--http-source", "web/file")
        self.assertEqual(said.status, 2)
        self.assertIn("no URL of a file", said.err)

    def test_web_server(self) -> None:
        """The web server of a link carries the bulk; who sent how much is told, without a query."""
        server = self.serve()
        url = parse_http_url("http://10.0.0.3/file?key=hunter2")
        link = ContentLink(ROOT, peers=(LinkedPeer(SERVER),), http=(url,))
        said = self.get(link, "--json")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual((self.here / "report.pdf").read_bytes(), CONTENT)
        sent = {each["address"]: each["bytes"] for each in said.event("done")["sources"]}
        self.assertGreater(sent[url.shown], len(CONTENT) // 2)
        self.assertNotIn("hunter2", said.out)
        self.network.run(1)
        self.assertEqual((server.open, self.client.left_over()), ([], []))

    def test_option(self) -> None:
        """The option adds a web server to whatever is wanted."""
        server = self.serve()
        said = self.get(
            "sub/report.pdf", "--from", "10.0.0.1", "--http-source", "http://10.0.0.3/file"
        )
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual((self.here / "report.pdf").read_bytes(), CONTENT)
        self.assertGreater(len(server.requests), 0)
        self.assertIn("From 2 sources", said.out)

    def test_rate(self) -> None:
        """What comes from web servers counts for --down like all else."""
        self.serve()
        link = ContentLink(ROOT, peers=(LinkedPeer(SERVER),))
        start = self.network.clock.seconds()
        said = self.get(link, "--http-source", "http://10.0.0.3/file", "--down", "1MiB")
        self.assertEqual((said.status, said.err), (0, ""))
        # 7.5 MiB, of which half a MiB at most comes at once.
        self.assertGreater(self.network.clock.seconds() - start, 7)

    def test_liar(self) -> None:
        """A web server with another file of that size is dropped by name; the file is right."""
        server = self.serve()
        server.answer = lambda request: part(request, content=CONTENT[::-1])
        said = self.get(
            ContentLink(ROOT, peers=(LinkedPeer(SERVER),)), "--http-source", "http://10.0.0.3/x"
        )
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual((self.here / "report.pdf").read_bytes(), CONTENT)
        self.assertIn("http://10.0.0.3/x was dropped", said.err)
        self.assertNotIn("sources:", said.out, "what it sent was of no use")
