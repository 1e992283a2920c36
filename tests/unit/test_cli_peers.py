"""C{--peer}: commands where no beacon and no registry reaches anybody."""

from __future__ import annotations

import json

from flow512.discovery.election import Mode
from flow512.link.identity import read_identity
from flow512.link.node_id import format_node_id
from flow512.node import NodeService
from flow512.transfer.candidates import named_candidate
from tests.unit.command_line import CommandCase, Said, TerminalText, Written


class PeerTests(CommandCase):
    """One address is enough."""

    def setUp(self) -> None:
        super().setUp()
        self.state = str(self.folder / "state")
        alone = {"bootstrap": Mode.NEVER, "beacon_port": None}
        self.first = self.start_node({"a.txt": b"a"}, **alone)
        third = self.network.host("10.0.3.1", name="third")
        self.third = self.start_node(
            {"b.txt": b"bb"}, third, peers=(named_candidate("server:5000"),), **alone
        )
        self.network.run(5)

    def type(self, *arguments: str, out: Written | None = None) -> Said:
        """Type a command."""
        return self.flow512(*arguments, "--no-beacon", "--state", self.state, out=out)

    def test_peers(self) -> None:
        """All are found whom the one knows, each with its name, and how it is known."""
        said = self.type("peers", "--peer", "10.0.0.1", "--json")
        told = [(each["name"], each["address"], each["known_by"]) for each in said.events]
        self.assertEqual(
            told,
            [("server", "10.0.0.1:5000", "peers"), ("third", "10.0.3.1:5000", "peers")],
        )
        self.assertEqual(said.events[1]["id"], format_node_id(self.third.introduction.node))

    def test_in_words(self) -> None:
        """A person is told that no registry lists them, and by whom they are known."""
        said = self.type("peers", "--peer", "10.0.0.1", out=TerminalText())
        sentence = "No registry lists them; they are known by other peers alone."
        self.assertEqual(said.out.splitlines()[-1], sentence)

    def test_ls_and_get(self) -> None:
        """What others share is listed and fetched, by the name of who has it as well."""
        said = self.type("ls", "--peer", "third")
        self.assertEqual(
            [line.split("\t")[:2] for line in said.out.splitlines()],
            [["server", "a.txt"], ["third", "b.txt"]],
        )
        said = self.type("get", "b.txt", "--peer", "server", "-o", str(self.here / "1"))
        self.assertEqual((said.status, (self.here / "1").read_bytes()), (0, b"bb"))
        said = self.type(
            "get", "b.txt", "--from", "third", "--peer", "server", "-o", str(self.here / "2")
        )
        self.assertEqual((said.status, (self.here / "2").read_bytes()), (0, b"bb"))
        for output in ("1", "2"):
            (self.here / output).unlink()

    def test_id(self) -> None:
        """A node id, or enough of it, names its node in any case, with or without dashes."""
        node = format_node_id(self.third.introduction.node)
        for typed in (node, node.lower(), node.replace("-", ""), node.replace("-", " "), node[:7]):
            said = self.type("ls", typed, "--peer", "10.0.0.1")
            self.assertEqual((said.out.split("\t")[0], said.err), ("b.txt", ""), typed)
        said = self.type("get", "b.txt", "--from", node[:6], "--peer", "10.0.0.1")
        self.assertEqual(said.status, 3)

    def test_mistyped_id(self) -> None:
        """A mistyped id is refused at once, and the sentence names where the mistake is."""
        node = format_node_id(self.third.introduction.node)
        wrong = ("C" if node[0] == "B" else "B") + node[1:]
        groups = wrong[:15]
        before = self.network.clock.seconds()
        for typed in (wrong, f"{wrong}@10.0.3.1", f"{wrong}@10.0.3.1:5000", f"{wrong}@third"):
            for command in (("ls",), ("get", "b.txt", "--from"), ("cat", "b.txt", "--from")):
                said = self.type(*command, typed, "--peer", "10.0.0.1")
                self.assertEqual(said.status, 2, said.err)
                self.assertIn(f"is mistyped somewhere in {groups}; compare it again.", said.err)
        said = self.type("ls", f"{node[:7]}@10.0.3.1")
        self.assertIn("it has 7 characters, and a node id has 56", said.err)
        self.assertEqual(self.network.clock.seconds(), before)
        said = self.type("ls", wrong[:20], "--peer", "10.0.0.1")
        self.assertEqual(said.status, 3)
        self.assertIn(f"mistyped somewhere in {groups}.", said.err)

    def test_only_from(self) -> None:
        """Who names a source by its address asks that one, and nobody else."""
        said = self.type("get", "b.txt", "--from", "10.0.0.1", "--peer", "third")
        self.assertEqual(said.status, 3)
        self.assertIn("asked: 1", said.err)

    def test_not_reached(self) -> None:
        """Nobody is there: one sentence with the cause, and exit status 5."""
        said = self.type("peers", "--peer", "10.0.0.1:5001")
        self.assertEqual(said.status, 5)
        self.assertIn("the one that was named is not reached (10.0.0.1:5001: ", said.err)
        self.assertEqual(said.err.count("\n"), 1)

    def test_no_address(self) -> None:
        """What is no address is wrong usage."""
        said = self.type("peers", "--peer", "a b")
        self.assertEqual(said.status, 2)
        self.assertIn("is no address", said.err)

    def test_remembered(self) -> None:
        """
        Commands know whom the node of their state folder remembers, whether it runs or not; but
        not when somebody is named by his address.
        """
        node = self.serve()
        self.assertEqual(self.names(), {"server", "third"})
        self.network.result(node.stopService())
        self.assertEqual(self.names(), {"server", "third"})
        self.assertEqual(self.type("ls", "10.0.0.1").out.split("\t")[0], "a.txt")

    def names(self) -> set[str]:
        """Whom the command finds that is told of nobody."""
        return {each["name"] for each in self.type("peers", "--json").events}

    def serve(self) -> NodeService:
        """A node with the state folder of the commands, which has met the others and written so."""
        node = self.start_node(
            {},
            self.network.host("10.0.4.1", name="ours"),
            state=self.state,
            bootstrap=Mode.NEVER,
            beacon_port=None,
            peers=(named_candidate("server:5000"),),
        )
        self.network.run(90)
        self.assertEqual(read_identity(self.state).node, node.introduction.node)
        return node

    def test_serve(self) -> None:
        """A node that serves takes addresses as well."""
        said = self.flow512(
            "serve",
            self.share({"c.txt": b"c"}, "more"),
            *("--peer", "10.0.0.1", "--no-beacon", "--bootstrap", "never", "--json"),
            *("--state", self.state),
            until=lambda out: len(self.first.neighbourhood.acquaintances) == 2,
        )
        self.assertEqual(said.status, 0)
        self.assertEqual(json.loads(said.out.splitlines()[0])["event"], "ready")
        self.assertEqual(len(self.first.neighbourhood.acquaintances), 2)


class RememberedRegistryTests(CommandCase):
    """A registry that was reached once needs no beacon the next time."""

    def test_remembered_registry(self) -> None:
        """A command finds all by the registry that the node of its state folder remembers."""
        state = str(self.folder / "state")
        self.start_node({}, name="bootstrap")
        ours = self.start_node({}, self.client, state=state, bootstrap=Mode.NEVER)
        third = self.network.host("10.0.0.3", name="third")
        self.start_node({}, third, bootstrap=Mode.NEVER)
        self.network.run(20)
        self.network.result(ours.stopService())
        self.network.run(1)
        said = self.flow512("peers", "--no-beacon", "--state", state, "--json")
        told = {each["name"]: each["known_by"] for each in said.events if each["event"] == "peer"}
        self.assertEqual(told, {"bootstrap": "registry", "third": "registry"})
