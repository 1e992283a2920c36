"""Sources that the user names, and that are of no use: C{flow512 get} and C{cat} say so."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from flow512.errors import DiskFailure
from flow512.link.address import HostPort
from flow512.link.content_link import ContentLink, LinkedPeer
from flow512.link.named_registry import NamedRegistry
from tests.unit.command_line import CommandCase, Said
from tests.unit.test_cli_get_links import CONTENT, ROOT, SERVER
from tests.unit.test_cli_sentences import Descriptor
from tests.unit.test_http_source import Server, head, part

URL = "http://10.0.0.3/file"


class NamedSourceTests(CommandCase):
    """One node has the file, and somebody else was named besides."""

    def setUp(self) -> None:
        super().setUp()
        self.node = self.start_node({"report.pdf": CONTENT}, beacon_port=None)
        self.web = self.network.host("10.0.0.3", name="web")

    def get(self, *arguments: str) -> Said:
        said = self.flow512(
            "get", *arguments, "-o", str(self.here / "it"), "--no-beacon", "--replace"
        )
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual((self.here / "it").read_bytes(), CONTENT)
        (self.here / "it").unlink()
        return said

    def dropped(self, answer: Callable[[str], bytes] | None) -> str:
        """Name a web server beside the node; what is said of it, with and without JSON."""
        self.server.bandwidth = 1_000_000
        if answer is not None:
            port = self.web.reactor.listenTCP(80, Server(answer))
            self.addCleanup(port.stopListening)
        arguments = ("report.pdf", "--from", "10.0.0.1", "--http-source", URL)
        told = self.get(*arguments, "--json").event("dropped")
        self.assertEqual(told["address"], URL)
        said = self.get(*arguments)
        self.assertNotIn("dropped", said.out)
        self.assertNotIn("sources:", said.out)
        self.assertEqual(said.err, f"flow512: {URL} was dropped: {told['reason']}\n")
        reason: str = told["reason"]
        return reason

    def test_no_such_file(self) -> None:
        """A web server that has no such file."""
        self.assertIn("has no file there (404)", self.dropped(lambda request: head(404, 0)))

    def test_nobody_there(self) -> None:
        """A web server that is not there."""
        self.assertIn("is not reached", self.dropped(None))

    def test_no_ranges(self) -> None:
        """A web server that sends files only whole."""
        whole = head(200, len(CONTENT)) + CONTENT

        def answer(request: str) -> bytes:
            return head(200, len(CONTENT)) if "bytes=0-" in request else whole

        self.assertIn("sends files only whole", self.dropped(answer))

    def test_another_size(self) -> None:
        """A file of another size."""
        reason = self.dropped(lambda request: part(request, content=CONTENT + b"more"))
        self.assertIn(f"has {len(CONTENT) + 4} bytes, and not", reason)

    def test_linked_peer(self) -> None:
        """A peer of a link that is not there, and one that has another file."""
        other = self.network.host("10.0.0.4", name="other")
        self.start_node({"else": b"else"}, other, beacon_port=None)
        gone = LinkedPeer(HostPort("10.0.0.3", 5000))
        useless = LinkedPeer(HostPort("10.0.0.4", 5000))
        link = str(ContentLink(ROOT, peers=(LinkedPeer(SERVER), gone, useless)))
        dropped = [
            each["address"]
            for each in self.get(link, "--json").events
            if each["event"] == "dropped"
        ]
        self.assertEqual(sorted(dropped), ["10.0.0.3:5000", "10.0.0.4:5000"])
        said = self.get(link)
        self.assertRegex(said.err, r"(?m)^flow512: 10\.0\.0\.3:5000 was dropped: .*refused")
        self.assertRegex(said.err, r"(?m)^flow512: 10\.0\.0\.4:5000 was dropped: ")

    def test_silent_peer(self) -> None:
        """A peer of a link that takes the connection and sends nothing."""
        port = self.web.reactor.listenTCP(5000, Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        silent = LinkedPeer(HostPort("10.0.0.3", 5000))
        link = str(ContentLink(ROOT, peers=(LinkedPeer(SERVER), silent)))
        self.assertRegex(
            self.get(link).err, r"\Aflow512: 10\.0\.0\.3:5000 was dropped: No hello .*\n\Z"
        )

    def test_nobodys_choice(self) -> None:
        """Of a peer that nobody named and that has not the file, nothing is said."""
        other = self.network.host("10.0.0.4", name="other")
        self.start_node(
            {"else": b"else"},
            other,
            beacon_port=None,
            registries=(NamedRegistry(HostPort("server", 5000)),),
        )
        self.network.run(3.0)
        said = self.get("report.pdf", "--registry", "server")
        self.assertEqual(said.err, "")

    def test_lost_on_the_way(self) -> None:
        """The peer of --from that goes away when a web server has the rest."""
        server = Server(lambda request: part(request, content=CONTENT))
        self.web.reactor.listenTCP(80, server)
        self.web.bandwidth = self.server.bandwidth = 1_000_000
        self.network.clock.callLater(3, self.node.stopService)
        said = self.get("report.pdf", "--from", "10.0.0.1", "--http-source", URL, "--no-md5")
        self.assertRegex(said.err, r"\Aflow512: 10\.0\.0\.1:5000 was dropped: .*\n\Z")

    def test_not_hashed(self) -> None:
        """Nobody knows what a web server would have to send: it is not asked, and that is said."""
        failing = mock.patch("flow512.content.backlog.hash_file", side_effect=DiskFailure("no"))
        other = self.network.host("10.0.0.4", name="other")
        with failing:
            self.start_node({"big.bin": CONTENT * 4}, other, beacon_port=None)
            said = self.flow512(
                "get", "big.bin", "--from", "10.0.0.4", "--http-source", URL, "-o", str(self.here)
            )
        self.assertEqual(said.status, 0, said.err)
        self.assertIn(f"{URL} was dropped: Nobody can verify", said.err)


class Resets(Protocol):
    """Ends a connection as a machine does that has lost its power and come back."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]  # of every TCP transport

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        pass


class LostTests(CommandCase):
    """A connection that breaks."""

    def test_whose(self) -> None:
        """The sentence says once that it was lost, and whose it was."""
        self.server.reactor.listenTCP(5000, Factory.forProtocol(Resets))
        said = self.flow512("get", "x", "--from", "10.0.0.1", "--no-beacon")
        self.assertEqual(said.status, 5)
        self.assertEqual(said.err.lower().count("lost"), 1, said.err)
        self.assertIn("The connection to 10.0.0.1:5000 was lost", said.err)


class CatTests(CommandCase):
    """C{flow512 cat}, which says it at once."""

    def test_no_such_file(self) -> None:
        """A web server that has no such file is named; what was asked for comes."""
        self.start_node({"report.pdf": CONTENT}, beacon_port=None)
        web = self.network.host("10.0.0.3", name="web")
        self.server.bandwidth = 1_000_000
        web.reactor.listenTCP(80, Server(lambda request: head(404, 0)))
        with (self.here / "out").open("wb") as out:
            said = self.flow512(
                "cat",
                "report.pdf",
                *("--from", "10.0.0.1", "--http-source", URL, "--no-beacon"),
                out=Descriptor(out.fileno()),
            )
        self.assertEqual(said.status, 0)
        self.assertRegex(said.err, rf"\Aflow512: {URL} was dropped: .*404.*\n\Z")
        self.assertEqual((self.here / "out").read_bytes(), CONTENT)

    def test_stale_link(self) -> None:
        """A node of a link that is gone is named; the file comes from whoever has it."""
        self.start_node({"report.pdf": CONTENT}, beacon_port=None)
        link = ContentLink(ROOT, peers=(LinkedPeer(HostPort("10.0.0.1", 5001)),))
        with (self.here / "out").open("wb") as out:
            said = self.flow512(
                "cat",
                str(link),
                *("--registry", "10.0.0.1", "--no-beacon"),
                out=Descriptor(out.fileno()),
            )
        self.assertEqual(said.status, 0)
        self.assertRegex(said.err, r"\Aflow512: 10\.0\.0\.1:5001 was dropped: .*\n\Z")
        self.assertEqual((self.here / "out").read_bytes(), CONTENT)
