"""C{flow512 doctor}, in memory: each ailment of a network is found, and told in words."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.link.join_link import JoinLink
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.testing import Host
from tests.unit.command_line import CommandCase, Said


class Silent(Factory[Protocol]):
    """Another program: it hangs up on whoever calls."""

    noisy = False

    def buildProtocol(self, addr: object) -> Protocol | None:
        return None


class Server(Factory[Protocol]):
    """Yet another: it says nothing."""

    noisy = False

    def __init__(self) -> None:
        self.called: list[Protocol] = []

    def buildProtocol(self, addr: object) -> Protocol:
        self.called.append(Protocol())
        return self.called[-1]

    def hang_up(self) -> None:
        """End all calls."""
        for each in self.called:
            if each.connected and each.transport is not None:
                each.transport.loseConnection()


class DoctorTests(CommandCase):
    """Typed on one host, with a node on another."""

    def setUp(self) -> None:
        super().setUp()
        self.state = self.folder / "state"

    def doctor(self, *arguments: str, status: int, wait: str = "8") -> dict[str, list[str]]:
        """What it found, for each check: verdict and words; its exit status is right."""
        said = self.type(*arguments, "--wait", wait, "--json")
        found: dict[str, list[str]] = {}
        for each in said.events:
            if each["event"] == "finding":
                text = f"{each['verdict']}: {each['sentence']} {each['advice'] or ''}"
                found.setdefault(each["check"], []).append(text)
        self.assertEqual((said.status, said.err), (status, ""), found)
        self.assertEqual(said.event("diagnosis")["wrong"] > 0, status == 1)
        return found

    def type(self, *arguments: str) -> Said:
        """Type the command."""
        return self.flow512("doctor", "--state", str(self.state), *arguments)

    def registry(self, host: Host, **settings: Any) -> RegistryService:
        """Run a registry by itself."""
        registry = RegistryService(
            host.reactor,
            RegistrySettings(**settings),
            random=Random(5),
            run_blocking=host.run_blocking,
            local_addresses=lambda: [LocalAddress(each, 24, "eth0", 2) for each in host.addresses],
        )
        registry.startService()
        self.addCleanup(lambda: self.network.result(registry.stopService()))
        return registry

    def occupy(self, host: Host) -> IListeningPort:
        """Let another program have port 5000."""
        port = self.network.result(serverFromString(host.reactor, "tcp:5000").listen(Silent()))
        self.addCleanup(lambda: self.network.result(port.stopListening()))
        return port

    def test_well(self) -> None:
        """Where all is well, it says so in every point, and leaves nothing behind."""
        self.start_node({})
        found = self.doctor(status=0)
        self.assertEqual(
            [*found],
            [
                *("state", "port", "interfaces", "beacon", "clock"),
                *("registry", "reachability", "peers"),
            ],
        )
        for texts in found.values():
            for text in texts:
                self.assertTrue(text.startswith("fine: "), text)
        self.assertIn("10.0.0.1:5000 lists 1 peer.", found["registry"][0])
        self.assertIn("The peer that was tried answers.", found["peers"][0])
        self.assertIn("sees 1: server", found["beacon"][1])

    def test_in_words(self) -> None:
        """A person reads a line for each, and what it comes to."""
        self.start_node({})
        said = self.type()
        lines = said.out.splitlines()
        self.assertEqual(lines[-1], "Nothing is wrong.")
        self.assertTrue(all(line.startswith("ok     ") for line in lines[:-1]), said.out)
        said = self.type("--registry", "10.0.0.9", "--no-beacon")
        self.assertEqual(said.status, 1)
        self.assertIn("\nWRONG  The registry at 10.0.0.9:5000 does not answer. See ", said.out)
        self.assertIn("\nOne thing is wrong.\n", said.out)

    def test_nobody(self) -> None:
        """Nobody else is there: that is no fault."""
        found = self.doctor(status=0)
        self.assertIn("note: No registry was found", found["registry"][0])
        self.assertIn("note: The beacon sees nobody", found["beacon"][1])
        self.assertIn("note: No peer is known", found["peers"][0])
        self.assertIn("note: Whether others reach", found["reachability"][0])

    def test_damaged_state(self) -> None:
        """A state folder with which no node starts is said, and nothing else is tried."""
        self.state.mkdir(mode=0o700)
        (self.state / "identity.pem").touch(0o644)
        found = self.doctor(status=1)
        self.assertIn("wrong: Others can read", found["state"][0])
        self.assertIn("note: Others can read", found["state"][1])
        self.assertIn("nothing else was looked at", found["state"][1])
        self.assertNotIn("registry", found)
        self.assertIn("\nOne thing is wrong.\n", self.type().out)

    def test_wrong_usage(self) -> None:
        """What was typed and makes no sense is no ailment of the state folder."""
        for arguments, words in (
            (("--listen", "foo"), "'foo' is no endpoint to listen on"),
            (("--registry", "a:b:c"), "'a:b:c' is no endpoint that can be connected to"),
            (("--peer", "a:b:c"), "'a:b:c' is no endpoint that can be connected to"),
            (("--network-key-file", str(self.folder / "none")), "There is no key file"),
        ):
            said = self.type(*arguments)
            self.assertEqual(said.status, 2)
            self.assertIn("The state folder", said.out)
            self.assertNotIn("WRONG", said.out)
            self.assertRegex(said.err, rf"\Aflow512: {words}[^\n]*; [^\n]*\n\Z")

    def test_port_taken(self) -> None:
        """Whoever has the port is named: another program, a registry, a node."""
        self.occupy(self.client)
        found = self.doctor(status=0)
        self.assertIn("note: TCP port 5000 is taken by another program", found["port"][0])
        found = self.doctor("--listen", "tcp:5000", status=1)
        self.assertIn("wrong: ", found["port"][0])
        self.assertIn("choose another with --listen", found["port"][0])
        self.assertIn("registry", found)

    def test_port_of_a_silent_one(self) -> None:
        """So is a program that has the port and says nothing at all; so does a peer."""
        for host in (self.client, self.server):
            silent = Server()
            port = self.network.result(serverFromString(host.reactor, "tcp:5000").listen(silent))
            self.addCleanup(lambda port=port: self.network.result(port.stopListening()))
            self.addCleanup(silent.hang_up)
        found = self.doctor("--peer", "10.0.0.1", status=1)
        self.assertIn("note: TCP port 5000 is taken by another program", found["port"][0])
        self.assertIn("a peer that was named is not reached", found["peers"][0].lower())

    def test_port_of_a_registry(self) -> None:
        """A registry of this machine has it."""
        self.registry(self.client)
        found = self.doctor(status=0)
        self.assertIn("taken by a flow512 registry", found["port"][0])

    def test_port_of_another_node(self) -> None:
        """Another node of this machine has it."""
        self.start_node({}, self.client)
        found = self.doctor(status=0)
        self.assertIn("taken by another flow512 node", found["port"][0])

    def test_port_of_another_network(self) -> None:
        """A node of this machine has it that does not speak with us."""
        self.start_node({}, self.client, network_key_file=self.key())
        found = self.doctor(status=0)
        self.assertIn("taken by a flow512 node of another network", found["port"][0])

    def key(self) -> str:
        """The file with the key of a closed network."""
        path = Path(self.folder / "key")
        path.touch(0o600)
        path.write_text(str(JoinLink("lab", bytes(32))))
        return str(path)

    def test_own_node(self) -> None:
        """While the node of the same state folder runs, it is looked at, and not disturbed."""
        self.start_node({})
        ours = self.start_node({}, self.client, state=str(self.state), bootstrap=Mode.NEVER)
        self.network.run(5)
        found = self.doctor(status=0)
        self.assertIn("fine: Your node runs, and answers on TCP port 5000", found["port"][0])
        self.assertIn("fine: The registry reached this machine", found["reachability"][0])
        self.assertTrue(ours.neighbourhood.is_listed)

    def test_own_node_is_not_reached(self) -> None:
        """A node that the registry does not reach is not on its list, and that is said."""
        self.registry(self.server)
        self.wall_off(self.server, port=5000)
        self.start_node({}, self.client, state=str(self.state), bootstrap=Mode.NEVER)
        self.network.run(5)
        found = self.doctor(status=1)
        self.assertIn("fine: Your node runs, and answers", found["port"][0])
        self.assertIn("wrong: The registry cannot reach this machine", found["reachability"][0])

    def test_own_node_is_stuck(self) -> None:
        """A node that runs, and does not answer, is wrong."""
        self.start_node({}, self.client, state=str(self.state), bootstrap=Mode.NEVER)
        self.wall_off(self.client, port=5000)
        found = self.doctor(status=1)
        self.assertIn("wrong: Your node runs, and does not answer", found["port"][0])

    def wall_off(self, host: Host, *, port: int = 0, target: str = "") -> None:
        """Let nothing connect from a host to a port, or to another host; nobody is there."""
        real = host.reactor.connectTCP

        def connect(to: str, at: int, factory: Any, *more: Any, **named: Any) -> Any:
            is_walled = at == port or to == target
            return real(to, 9 if is_walled else at, factory, *more, **named)

        host.reactor.connectTCP = connect  # type: ignore[method-assign]

    def test_no_registry(self) -> None:
        """A registry that was named and does not answer is wrong."""
        found = self.doctor("--registry", "10.0.0.9", status=1)
        self.assertIn("wrong: The registry at 10.0.0.9:5000 does not answer", found["registry"][0])

    def test_refused(self) -> None:
        """One that answers and refuses is wrong, in its words."""
        self.registry(self.server, network="other", beacon_port=None)
        found = self.doctor("--registry", "server", "--no-beacon", status=1)
        self.assertIn("does not take this machine", found["registry"][0])
        self.assertIn("belongs to another network", found["registry"][0])
        self.assertIn("note: The beacon was left out", found["beacon"][0])

    def test_not_reached(self) -> None:
        """The registry cannot connect to this machine: its firewall is in the way."""
        self.registry(self.server)
        self.wall_off(self.server, port=5000)
        found = self.doctor(status=1)
        self.assertIn("wrong: The registry cannot reach this machine", found["reachability"][0])
        self.assertIn("no connection could be made", found["reachability"][0])
        self.assertIn("Allow TCP port 5000", found["reachability"][0])

    def test_clock(self) -> None:
        """In a closed network, a clock that is an hour off is found by what others announce."""
        key = self.key()
        self.start_node({}, shares=(), network_key_file=key)
        self.assertIn("near enough", self.doctor("--network-key-file", key, status=0)["clock"][0])
        real = self.client.reactor.seconds
        self.client.reactor.seconds = lambda: real() + 3600  # type: ignore[method-assign]
        found = self.doctor("--network-key-file", key, status=1)
        self.assertIn("too far apart: 10.0.0.1 by 3600 seconds", found["clock"][0])
        del self.client.reactor.seconds

    def test_peers(self) -> None:
        """Peers that are announced and do not answer are named; so are those named by the user."""
        self.start_node({}, bootstrap=Mode.NEVER)
        self.network.host("10.0.0.3", name="third")
        self.wall_off(self.client, target="10.0.0.1")
        found = self.doctor("--peer", "10.0.0.3", status=1)
        self.assertIn(
            "wrong: A peer that was named is not reached (10.0.0.3:5000: ", found["peers"][0]
        )
        self.assertIn("note: server (10.0.0.1:5000) cannot be reached", found["peers"][1])
        self.assertIn("wrong: The peer that was tried does not answer.", found["peers"][2])

    def test_another_registry(self) -> None:
        """Another registry takes the place of one that was named; that is worth a note."""
        self.start_node({})
        found = self.doctor("--registry", "10.0.0.9", status=0)
        self.assertIn("note: The registry at 10.0.0.9:5000 does not", found["registry"][0])
        self.assertIn("the one at 10.0.0.1:5000 takes its place", found["registry"][0])

    def test_no_such_interface(self) -> None:
        """What is misspelt is said before anything is tried."""
        for arguments in ((), ("--no-beacon",)):
            found = self.doctor("--interface", "eth9", *arguments, status=1)
            self.assertIn("There is no interface 'eth9'", found["interfaces"][-1])
            self.assertEqual(len(found["state"]), 1)
