"""C{serve}, C{get}, C{ls} and C{peers} between hosts in memory."""

from __future__ import annotations

import hashlib
import io
from random import Random

from flow512.cli.getting import target_of
from flow512.cli.meeting import is_address
from flow512.cli.serving import Announcer
from flow512.cli.voice import PlainVoice
from flow512.content.scan import ScanReport
from flow512.content.tree import format_content_id
from flow512.discovery.election import Mode
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.link.node_id import format_node_id
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.testing import Host
from flow512.transfer.fetch import Target
from flow512.transfer.indexing import Indexed
from flow512.units import BLOCK
from tests.unit.command_line import CommandCase, Said, TerminalText

BIG = Random(5).randbytes(12 * BLOCK + 77)
FILES = {"test.txt": b"hello\n", "sub/big.bin": BIG}


class GetTests(CommandCase):
    """C{flow512 get}."""

    def get(self, *arguments: str, **options: object) -> Said:
        return self.flow512("get", *arguments, "-o", str(self.here), **options)  # type: ignore[arg-type]  # passed on

    def test_from_address(self) -> None:
        """A peer that is named by its address is dialled at once; the words are the seed's."""
        self.start_node(FILES, beacon_port=None)
        before = self.network.clock.seconds()
        said = self.get("sub/big.bin", "--from", "10.0.0.1")
        self.assertLess(self.network.clock.seconds() - before, 3)
        self.assertEqual((said.status, said.err), (0, ""))
        lines = said.out.splitlines()
        self.assertEqual(
            lines[:2],
            [
                "File 'big.bin' downloaded successfully.",
                "[+] Hash verification successful. The file is intact.",
            ],
        )
        self.assertRegex(lines[2], r"\A3\.0 MiB in \d+\.\d s \(.+/s\): .*here/big\.bin\Z")
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)

    def test_json(self) -> None:
        """A program is told what was found, how far it is, and what became of it."""
        self.start_node(FILES, beacon_port=None)
        said = self.get("sub/big.bin", "--from", "10.0.0.1:5000", "--json")
        self.assertEqual((said.status, said.err), (0, ""))
        kinds = [each["event"] for each in said.events]
        self.assertEqual((kinds[0], kinds[1], kinds[-1]), ("found", "progress", "done"))
        found, done = said.event("found"), said.event("done")
        self.assertEqual((found["path"], found["bytes"]), ("sub/big.bin", len(BIG)))
        self.assertEqual(found["address"], "10.0.0.1:5000")
        self.assertEqual(done["path"], str(self.here / "big.bin"))
        self.assertEqual((done["bytes"], done["fetched"], done["resumed"]), (len(BIG),) * 2 + (0,))
        self.assertEqual(done["md5"], hashlib.md5(BIG).hexdigest())
        self.assertEqual(done["root"], found["root"])
        self.assertGreater(done["seconds"], 0)

    def test_progress_is_rare(self) -> None:
        """However many blocks come, a program is told four times a second at most."""
        self.start_node(FILES, beacon_port=None)
        self.server.bandwidth = 2_000_000
        said = self.get("sub/big.bin", "--from", "10.0.0.1:5000", "--json")
        told = [each for each in said.events if each["event"] == "progress"]
        seconds = said.event("done")["seconds"]
        self.assertTrue(3 <= len(told) <= seconds * 4 + 1, (len(told), seconds))
        self.assertEqual(sorted(told, key=lambda each: each["stored"]), told)

    def test_terminal(self) -> None:
        """On a terminal there is a bar with name, rate and time left, which goes in the end."""
        self.start_node(FILES, beacon_port=None)
        self.server.bandwidth = 2_000_000
        err = TerminalText()
        self.patch_terminal()
        said = self.get("sub/big.bin", "--from", "10.0.0.1", err=err)
        self.assertEqual(said.status, 0)
        for part in ("big.bin", " 50%", "MiB/s", "/3.0 MiB", "0:00:01"):
            self.assertIn(part, said.err)
        self.assertTrue(said.err.endswith("\x1b[1A\x1b[2K"), said.err[-40:])
        self.assertNotIn("\x1b", said.out)

    def test_no_md5(self) -> None:
        """The MD5 can be left out; what was verified then is said."""
        self.start_node(FILES, beacon_port=None)
        said = self.get("test.txt", "--from", "10.0.0.1", "--no-md5")
        self.assertIn("[+] Every block was verified as it came; the MD5 was left out.", said.out)
        said = self.get("sub/big.bin", "--from", "10.0.0.1", "--no-md5", "--json", "--run", "1")
        self.assertIsNone(said.event("done")["md5"])
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)

    def test_interrupted_and_resumed(self) -> None:
        """Ctrl-C keeps what is there and says how to go on; the same command then goes on."""
        self.start_node(FILES, beacon_port=None)
        self.server.bandwidth = 500_000
        wish = ("sub/big.bin", "--from", "10.0.0.1", "--json")
        said = self.get(*wish, until=lambda out: '"stored": 1' in out)
        self.assertEqual(said.status, 130)
        self.assertRegex(
            said.err,
            r"\Aflow512: Stopped at \d\d? %; run the same command again to go on\.\n\Z",
        )
        self.assertEqual(said.event("error")["code"], "Interrupted")
        self.assertFalse((self.here / "big.bin").exists())
        done = self.get(*wish).event("done")
        self.assertGreaterEqual(done["resumed"], 1_000_000 - BLOCK)
        self.assertEqual(done["resumed"] + done["fetched"], len(BIG))
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)

    def test_resumed_in_words(self) -> None:
        """A person is told how much was here already."""
        self.start_node(FILES, beacon_port=None)
        self.server.bandwidth = 500_000
        wish = ("sub/big.bin", "--from", "10.0.0.1")
        self.get(*wish, "--json", until=lambda out: '"stored": 1' in out)
        self.assertRegex(self.get(*wish).out, r"; 1\.\d MiB were here already: ")

    def test_interrupted_early(self) -> None:
        """Before there is anything to keep, that is said."""
        said = self.get("test.txt", until=lambda out: self.network.clock.seconds() > 1)
        self.assertEqual(said.status, 130)
        self.assertEqual(said.err, "flow512: Stopped before anything was downloaded.\n")

    def test_failed_midway(self) -> None:
        """A peer that vanishes is named as the cause, and what came is kept."""
        self.start_node(FILES, beacon_port=None)
        self.server.bandwidth = 500_000
        cut: list[str] = []

        def lose(out: str) -> bool:
            if '"stored": 1' in out and not cut:
                cut.append(out)
                self.network.cut(self.server, self.client)
            return False

        said = self.get("sub/big.bin", "--from", "10.0.0.1", "--json", until=lose)
        self.assertEqual(said.status, 5)
        self.network.heal()
        self.network.run(120)
        done = self.get("sub/big.bin", "--from", "10.0.0.1", "--json").event("done")
        self.assertGreater(done["resumed"], 0)

    def test_targets(self) -> None:
        """C{-o} is a folder that is there, a folder with its slash, or a file in one."""
        self.start_node(FILES, beacon_port=None)
        for output, path in (
            (self.here, self.here / "test.txt"),
            (f"{self.here}/", self.here / "test.txt"),
            (self.here / "other", self.here / "other"),
        ):
            said = self.flow512("get", "test.txt", "--from", "10.0.0.1", "-o", str(output))
            self.assertEqual(said.status, 0, said.err)
            self.assertEqual(path.read_bytes(), b"hello\n")
            path.unlink()
        said = self.flow512("get", "test.txt", "--from", "10.0.0.1", "-o", f"{self.folder}/no/")
        self.assertEqual(said.status, 2)
        self.assertIn("There is no folder", said.err)

    def test_current_folder(self) -> None:
        """Without C{-o}, files go where the user is, and a bare name is a file there."""
        self.assertEqual(target_of(None, may_replace=False), Target("."))
        self.assertEqual(target_of("new", may_replace=True), Target(".", "new", True))

    def test_target_exists(self) -> None:
        """Another's file is left as it is, unless the user says so; exit status 4."""
        self.start_node(FILES, beacon_port=None)
        other = self.here / "test.txt"
        other.write_bytes(b"mine")
        said = self.get("test.txt", "--from", "10.0.0.1")
        self.assertEqual((said.status, other.read_bytes()), (4, b"mine"))
        self.assertIn("--replace", said.err)
        said = self.get("test.txt", "--from", "10.0.0.1", "--replace")
        self.assertEqual((said.status, other.read_bytes()), (0, b"hello\n"))

    def test_not_found(self) -> None:
        """No such file: exit status 3, in a sentence and as an object."""
        self.start_node(FILES, beacon_port=None)
        said = self.get("nope.txt", "--from", "10.0.0.1", "--json")
        self.assertEqual(said.status, 3)
        self.assertEqual(said.event("error")["code"], "NotFound")
        self.assertEqual(said.err, f"flow512: {said.event('error')['sentence']}\n")

    def test_nobody_there(self) -> None:
        """An address where nobody answers: exit status 5."""
        said = self.get("test.txt", "--from", "10.0.0.1")
        self.assertEqual(said.status, 5)
        self.assertIn("10.0.0.1:5000 cannot be reached", said.err)

    def test_by_beacon(self) -> None:
        """Without any address, whoever answers the beacon is asked."""
        self.start_node(FILES, bootstrap=Mode.NEVER)
        said = self.get("test.txt", "--json")
        self.assertEqual(said.event("found")["peer"], "server")
        self.assertEqual((self.here / "test.txt").read_bytes(), b"hello\n")

    def test_by_registry(self) -> None:
        """A named registry's list is enough to go on with; the beacon is not waited for."""
        self.start_node(FILES, beacon_port=None)
        before = self.network.clock.seconds()
        said = self.get("test.txt", "--registry", "server", "--json")
        self.assertEqual(said.event("found")["peer"], "server")
        self.assertLess(self.network.clock.seconds() - before, 1.5)

    def test_by_name_and_id(self) -> None:
        """A peer is waited for by its name, or the beginning of its id."""
        node = self.start_node(FILES)
        for peer in ("server", format_node_id(node.introduction.node)[:7]):
            said = self.get("test.txt", "--from", peer, "--json", "--replace")
            self.assertEqual(said.event("found")["peer"], "server", said.err)

    def test_by_content_id(self) -> None:
        """A file that is asked for by its content id comes under its own name."""
        self.start_node(FILES, beacon_port=None)
        root = self.get("sub/big.bin", "--from", "10.0.0.1", "--json").event("done")["root"]
        (self.here / "big.bin").unlink()
        said = self.get(root, "--from", "10.0.0.1")
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)
        self.assertEqual(self.get(format_content_id(bytes(32)), "--from", "10.0.0.1").status, 3)

    def test_host_name(self) -> None:
        """A name that no peer has may be a host's; it is dialled when the wait is over."""
        self.start_node(FILES, name="somebody", beacon_port=None)
        said = self.get("test.txt", "--from", "server", "--wait", "1", "--no-beacon")
        self.assertEqual(said.status, 0, said.err)

    def test_no_such_peer(self) -> None:
        """A name that nobody has, not even a host, is exit status 3."""
        self.start_node(FILES)
        for name in ("beta", "my laptop"):
            said = self.get("test.txt", "--from", name, "--wait", "2")
            self.assertEqual(said.status, 3)
            self.assertIn(f"No peer called '{name}' was found within 2 seconds", said.err)

    def test_host_that_lacks_it(self) -> None:
        """A host that answers, but does not have the file, is not taken for no host."""
        self.start_node(FILES, name="somebody", beacon_port=None)
        said = self.get("nope", "--from", "server", "--wait", "0", "--no-beacon")
        self.assertEqual(said.status, 3)
        self.assertIn("nope", said.err)

    def test_nobody_to_ask(self) -> None:
        """When nobody turns up, the wait that the user allows is used up; exit status 3."""
        before = self.network.clock.seconds()
        said = self.get("test.txt", "--wait", "3")
        self.assertEqual(said.status, 3)
        self.assertTrue(3 <= self.network.clock.seconds() - before < 4)
        said = self.get("test.txt", "--no-beacon")
        self.assertEqual(said.status, 3)
        self.assertLess(self.network.clock.seconds() - before, 4)

    def test_registry_is_down(self) -> None:
        """A registry that the user named, and that does not answer, is named as the cause."""
        said = self.get("test.txt", "--registry", "10.0.0.1:5001", "--no-beacon")
        self.assertEqual(said.status, 5)
        self.assertIn("The registry at 10.0.0.1:5001 does not answer", said.err)

    def test_registry_refuses(self) -> None:
        """A registry that answers, and does not let this node in, is quoted."""
        self.start_node(FILES, network="office", bootstrap=Mode.ALWAYS, beacon_port=None)
        said = self.flow512("peers", "--registry", "10.0.0.1:5000", "--no-beacon")
        self.assertEqual(said.status, 1)
        self.assertIn("The registry at 10.0.0.1:5000 does not list us: The other", said.err)

    def test_late_peer(self) -> None:
        """Somebody who turns up while the command waits is asked."""
        host = self.network.host("10.0.0.3", name="late")
        self.network.clock.callLater(2.5, self.start_quietly, host)
        said = self.get("test.txt", "--wait", "20", "--json")
        self.assertEqual(said.event("found")["peer"], "late", said.err)

    def start_quietly(self, host: Host) -> None:
        """Start a node in the midst of a run."""
        self.network.run = lambda seconds: None  # type: ignore[method-assign]  # time runs already
        try:
            self.start_node(FILES, host, bootstrap=Mode.NEVER)
        finally:
            del self.network.run


class ServeTests(CommandCase):
    """C{flow512 serve}."""

    def serve(self, *arguments: str, seconds: float = 8.0) -> Said:
        share = self.share(FILES)
        end = self.network.clock.seconds() + seconds
        self.network.clock.callLater(seconds, lambda: None)  # so that something happens then
        return self.flow512(
            *("serve", share, "--state", str(self.folder / "state"), *arguments),
            until=lambda _: self.network.clock.seconds() >= end,
            host=self.server,
        )

    def test_events(self) -> None:
        """A program is told when it is ready, what is shared, and that it is the bootstrap."""
        said = self.serve("--json", "--listen", "tcp:5050")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual(said.event("ready"), {"event": "ready", "port": 5050, "host": "10.0.0.1"})
        indexed = said.event("indexed")
        self.assertEqual((indexed["files"], indexed["hashed"], indexed["failed"]), (2, 2, 0))
        self.assertEqual(said.event("bootstrap")["port"], 5050)
        self.network.assert_quiet()

    def test_peers(self) -> None:
        """It is told of peers that come."""
        self.start_node({}, self.client)
        said = self.serve("--json", "--registry", "client")
        self.assertIn({"event": "peers", "joined": 1, "left": 0, "changed": 0}, said.events)

    def test_words(self) -> None:
        """A person is told how many files there are, once as long as nothing changes."""
        said = self.serve("--no-beacon", seconds=100)
        self.assertEqual(said.out.splitlines(), ["Sharing 2 files."])

    def test_named_twice(self) -> None:
        """A folder that is named twice is shared once."""
        said = self.serve("--no-beacon", f"{self.folder}/share/")
        self.assertEqual(said.out.splitlines(), ["Sharing 2 files."])

    def test_looked_through(self) -> None:
        """Where nothing can be watched, as here, it looks as often as it is told to."""
        said = self.serve("--json", "--rescan", "2", seconds=7.0)
        events = [each for each in said.events if each["event"] == "indexed"]
        self.assertEqual(len(events), 4)

    def test_looked_through_once(self) -> None:
        """Told not to look again, it does not."""
        said = self.serve("--json", "--rescan", "0", seconds=100.0)
        events = [each for each in said.events if each["event"] == "indexed"]
        self.assertEqual(len(events), 1)

    def test_unreadable(self) -> None:
        """What cannot be shared is counted."""
        out = io.StringIO()
        scan = ScanReport(1, 1, 0, 0, (), (), 0)
        Announcer(PlainVoice(out, out)).node_indexed(Indexed(scan, 0, 1))
        self.assertEqual(out.getvalue(), "Sharing 1 file, 1 could not be read.\n")

    def test_cannot(self) -> None:
        """A share that is not there, and a taken port, are one sentence each."""
        said = self.flow512("serve", str(self.folder / "no"), "--state", str(self.folder / "s"))
        self.assertEqual(said.status, 2)
        self.assertIn("There is no folder", said.err)
        self.start_node({}, beacon_port=None, listen="tcp:5000")
        said = self.serve("--listen", "tcp:5000")
        self.assertEqual(said.status, 1)
        self.assertIn("choose another with --listen", said.err)


class LookTests(CommandCase):
    """C{flow512 peers} and C{flow512 ls}."""

    def setUp(self) -> None:
        super().setUp()
        self.node = self.start_node(FILES)
        third = self.network.host("10.0.0.3", name="third")
        self.third = self.start_node({"other.txt": b"x"}, third, bootstrap=Mode.NEVER)
        self.network.run(5)

    def test_peers(self) -> None:
        """Name, address, id, and how it is known; divided by tabs in a pipe."""
        lines = self.flow512("peers").out.splitlines()
        rows = [line.split("\t") for line in lines]
        ids = [format_node_id(node.introduction.node)[:15] for node in (self.node, self.third)]
        self.assertEqual(
            rows,
            [
                ["server", "10.0.0.1:5000", ids[0], "both"],
                ["third", "10.0.0.3:5000", ids[1], "both"],
            ],
        )

    def test_how_known(self) -> None:
        """Without the beacon, they are known by the registry; without it, by the beacon."""
        said = self.flow512("peers", "--no-beacon", "--registry", "server", "--json")
        listed = [each for each in said.events if each["event"] == "peer"]
        self.assertEqual([each["known_by"] for each in listed], ["registry"] * 2)
        self.network.result(self.node.stopService())
        said = self.flow512("peers", "--json")
        self.assertEqual([each["name"] for each in said.events], ["third"])
        self.assertEqual(said.events[0]["known_by"], "beacon")
        self.assertEqual(said.events[0]["id"], format_node_id(self.third.introduction.node))

    def test_who_leads(self) -> None:
        """
        Who carries the registry, since when, in which term, and why; to a person at a terminal as
        well. A pipe has the rows, and nothing else.
        """
        said = self.flow512("peers", "--json")
        leader = said.event("leader")
        self.assertRegex(str(leader.pop("since")), r"^1970-01-01T00:00:\d\dZ$")
        self.assertEqual(
            leader,
            {
                "event": "leader",
                "name": "server",
                "address": "10.0.0.1:5000",
                "id": format_node_id(self.node.introduction.node),
                "appointed": True,
                "term": 1,
                "why": "its user wants it to be the bootstrap",
            },
        )
        self.assertEqual(len(self.flow512("peers").out.splitlines()), 2)
        line = self.flow512("peers", out=TerminalText()).out.splitlines()[-1]
        self.assertRegex(
            line,
            r"^Bootstrap: server at 10\.0\.0\.1:5000, appointed, in term 1, since 1970-\S+Z:"
            r" its user wants it to be the bootstrap\.$",
        )

    def test_nobody_leads(self) -> None:
        """If nobody carries a registry, that is said."""
        self.network.result(self.node.stopService())
        self.assertEqual(
            self.flow512("peers", out=TerminalText()).out.splitlines()[-1],
            "No registry lists them; they are known by the beacon alone.",
        )

    def test_no_peers(self) -> None:
        """Nobody is exit status 3, after the wait."""
        said = self.flow512("peers", "--network", "elsewhere", "--wait", "2")
        self.assertEqual((said.status, said.out), (3, ""))
        self.assertIn("Nobody was found within 2 seconds", said.err)
        self.assertEqual(self.flow512("ls", "--network", "elsewhere", "--wait", "2").status, 3)

    def test_everything(self) -> None:
        """Everybody's files, with who has them, exact in a pipe."""
        self.assertEqual(
            self.flow512("ls").out.splitlines(),
            [
                f"server\tsub/big.bin\t{len(BIG)}\t2001-09-09T01:46:40Z",
                "server\ttest.txt\t6\t2001-09-09T01:46:40Z",
                "third\tother.txt\t1\t2001-09-09T01:46:40Z",
            ],
        )

    def test_several_addresses(self) -> None:
        """A node that is seen at an IPv4 and an IPv6 address is asked and listed once."""
        host = self.network.host("10.0.0.8", "fd00::8", name="both")
        self.start_node({"own.txt": b"1"}, host, network="of two")
        asker = self.network.host("10.0.0.9", "fd00::9", name="asker")
        said = self.flow512("ls", "--network", "of two", host=asker)
        self.assertEqual(said.out, "both\town.txt\t1\t2001-09-09T01:46:40Z\n")
        said = self.flow512("get", "nothing", "--network", "of two", host=asker)
        self.assertIn("(asked: 1, not reached: 0)", said.err)

    def test_one_peer(self) -> None:
        """One peer's files, by name or address; only those that are asked for."""
        for peer in ("server", "10.0.0.1"):
            said = self.flow512("ls", peer, "--prefix", "sub/")
            self.assertEqual(said.out, f"sub/big.bin\t{len(BIG)}\t2001-09-09T01:46:40Z\n")

    def test_terminal(self) -> None:
        """On a terminal, sizes and times are for people and columns line up."""
        said = self.flow512("ls", "server", out=TerminalText())
        lines = said.out.splitlines()
        self.assertRegex(lines[0], r"\Asub/big\.bin  3\.0 MiB  2001-09-0[89] \d\d:\d\d\Z")
        self.assertRegex(lines[1], r"\Atest\.txt     6 bytes  2001-09-0[89] \d\d:\d\d\Z")

    def test_nothing(self) -> None:
        """On a terminal it is said that there is nothing; whoever reads a pipe sees that."""
        arguments = "ls", "server", "--prefix", "no"
        said = self.flow512(*arguments, out=TerminalText())
        begins = "whose path begins with 'no'"
        self.assertEqual(said.out, f"Nothing is shared {begins} that you may see.\n")
        said = self.flow512(*arguments)
        self.assertEqual((said.status, said.out, said.err), (0, "", ""))

    def test_json(self) -> None:
        """Objects have what a peer tells of each file."""
        told = self.flow512("ls", "third", "--json").event("entry")
        self.assertEqual(told["path"], "other.txt")
        self.assertEqual((told["bytes"], told["mtime_ns"]), (1, 10**18))
        self.assertEqual(told["md5"], hashlib.md5(b"x").hexdigest())
        self.assertTrue(told["root"].startswith("flow512:"))

    def test_one_is_gone(self) -> None:
        """Who cannot be asked is named, and the others' files are listed."""
        self.network.cut(self.network.hosts[2], self.client)
        said = self.flow512("ls", "--registry", "server", "--no-beacon")
        self.assertEqual(said.status, 0)
        self.assertIn("server\ttest.txt", said.out)
        self.assertIn("third (10.0.0.3:5000) cannot be reached", said.err)
        self.network.heal()

    def test_none_can_be_asked(self) -> None:
        """Nobody who can be asked: exit status 5; a name that is nobody's: 3."""
        said = self.flow512("ls", "10.0.0.77")
        self.assertEqual(said.status, 5)
        self.assertIn("10.0.0.77:5000 cannot be reached", said.err)
        for name in ("nobody", "a b"):
            said = self.flow512("ls", name, "--wait", "1")
            self.assertEqual(said.status, 3)
            self.assertIn(f"No peer called '{name}'", said.err)


class GoneTests(CommandCase):
    """Peers that a registry still lists."""

    def test_all_gone(self) -> None:
        """When none of them can be asked, that is one sentence, and exit status 5."""
        host = self.network.host("10.0.0.9", name="registry")
        machine = self.machine(host)
        registry = RegistryService(
            host.reactor,
            RegistrySettings(beacon_port=None),
            random=machine.random,
            local_addresses=machine.local_addresses,
        )
        registry.startService()
        self.addCleanup(lambda: self.network.result(registry.stopService()))
        for number in (3, 4):
            self.start_node(
                FILES,
                self.network.host(f"10.0.0.{number}", name=f"node{number}"),
                bootstrap=Mode.NEVER,
                beacon_port=None,
                registries=(NamedRegistry(HostPort("registry", 5000)),),
            )
        self.network.run(2)
        for gone in self.network.hosts[3:]:
            self.network.cut(gone, self.client)
        self.addCleanup(self.network.heal)
        said = self.flow512("ls", "--registry", "registry", "--no-beacon")
        self.assertEqual(said.status, 5)
        self.assertIn("None of the 2 known peers can be asked", said.err)


class WhereTests(CommandCase):
    """What can only be an address is not waited for."""

    def test_addresses(self) -> None:
        """IP addresses, anything with a port, endpoint strings; bare words may be names."""
        for text in ("10.0.0.1", "::1", "[::1]:80", "box:5000", "unix:/run/x", "tcp:a:1"):
            self.assertTrue(is_address(text), text)
        for text in ("box", "box.local", "my box", "deadbeef"):
            self.assertFalse(is_address(text), text)
