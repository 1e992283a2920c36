"""
Tests for L{flow512.transfer.acquainting}: nodes that find each other without beacon or registry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.errors import ResourceFailure
from flow512.link.address import HostPort
from flow512.link.bans import BANS_FILE, Bans
from flow512.link.identity import read_identity
from flow512.link.join_link import JoinLink
from flow512.link.named_registry import NamedRegistry
from flow512.link.node_id import format_node_id
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.acquaintances import Met as Remembered
from flow512.registry.memory import MEMORY_FILE, read_memory, write_memory
from flow512.settings import NodeSettings
from flow512.testing import Host, Network
from flow512.transfer.candidates import named_candidate
from flow512.transfer.fetch import Target
from flow512.wire.fields import Peer
from flow512.wire.meeting import Met
from tests.unit.transfer_ends import a_folder

HOUR = 3600.0
REGISTRY = NamedRegistry(HostPort("registry", 5000))


def said(events: Sequence[LogEvent]) -> str:
    """What an operator reads."""
    return "\n".join(str(formatEvent(each)) for each in events if each["log_level"].name != "debug")


class Counting(Factory[Protocol]):
    """Counts who calls, and says nothing."""

    noisy = False

    def __init__(self) -> None:
        self.called: list[Protocol] = []

    @property
    def calls(self) -> int:
        """How often somebody called."""
        return len(self.called)

    def buildProtocol(self, addr: object) -> Protocol:
        protocol = Protocol()
        self.called.append(protocol)
        return protocol

    def hang_up(self) -> None:
        """End all calls."""
        for each in self.called:
            if each.transport is not None and each.connected:
                each.transport.loseConnection()


class AcquaintingCase(SynchronousTestCase):
    """Nodes that no beacon reaches, of which none may be the bootstrap."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.folder = a_folder(self)
        self.nodes: dict[str, NodeService] = {}
        self.hosts: dict[str, Host] = {}
        self.addCleanup(self.stop_all)

    def stop_all(self) -> None:
        """Stop them, and see that nothing is left."""
        self.network.heal()
        stopping = [each.stopService() for each in self.nodes.values() if each.running]
        self.network.result(gatherResults(stopping), limit=120)
        self.network.assert_quiet()

    def host(self, name: str) -> Host:
        """A host in a subnet of its own."""
        if name not in self.hosts:
            number = len(self.hosts) + 1
            self.hosts[name] = self.network.host(f"10.0.{number}.1/24", name=name)
        return self.hosts[name]

    def node(self, name: str, *peers: str, **settings: Any) -> NodeService:
        """Run a node, with a state folder, that shares one file with its name."""
        share = self.folder / f"share of {name}"
        share.mkdir(exist_ok=True)
        (share / f"{name}.txt").write_text(name)
        host = self.host(name)
        given: dict[str, Any] = {
            "shares": (str(share),),
            "state": str(self.folder / f"state of {name}"),
            "name": name,
            "bootstrap": Mode.NEVER,
            "beacon_port": None,
            "encryption": Encryption.NONE,
            "peers": tuple(named_candidate(each) for each in peers),
            **settings,
        }
        node = self.nodes[name] = NodeService(
            host.reactor,
            NodeSettings(**given),
            random=Random(name),
            run_blocking=host.run_blocking,
            local_addresses=lambda: [
                LocalAddress(address, 24, "eth0", 2) for address in host.addresses
            ],
        )
        node.startService()
        return node

    def stop(self, name: str) -> None:
        """Stop a node."""
        self.network.result(self.nodes[name].stopService(), limit=60)

    def known_to(self, name: str) -> set[str]:
        """The names of those whom a node has met."""
        return {each.name for each in self.nodes[name].neighbourhood.acquaintances}

    def all_know_all(self) -> bool:
        """Whether every node that runs has met every other, and nobody else."""
        running = {name for name, node in self.nodes.items() if node.running}
        return all(self.known_to(name) == running - {name} for name in running)

    def state_of(self, name: str) -> str:
        """The state folder of a node."""
        return str(self.folder / f"state of {name}")


class MeetingTests(AcquaintingCase):
    """How they find each other."""

    def test_one_address(self) -> None:
        """Twelve nodes that each know one address of one, and of no registry, all meet."""
        self.node("n0")
        for number in range(1, 12):
            self.node(f"n{number}", "n0:5000")
            self.network.run(0.3)
        self.network.run_until(self.all_know_all, limit=30)

    def test_in_a_row(self) -> None:
        """So do those of whom each knows only the one before, with TLS."""
        self.node("n0", encryption=Encryption.TLS)
        for number in range(1, 8):
            self.node(f"n{number}", f"n{number - 1}:5000", encryption=Encryption.TLS)
        self.network.run_until(self.all_know_all, limit=60)

    def test_fetches(self) -> None:
        """Whoever knows one address fetches what another has, whom that one knows."""
        self.node("n0")
        self.node("n1", "n0:5000")
        node = self.node("n2", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        fetched = self.network.result(node.get("n1.txt", target=Target(str(self.folder))))
        self.assertEqual(Path(fetched.path).read_text(), "n1")

    def test_starts_later(self) -> None:
        """Who is not there when its address is given is found once it is."""
        self.node("n1", "n0:5000")
        self.host("n0")
        self.network.run(60)
        self.node("n0")
        self.network.run_until(self.all_know_all, limit=90)

    def test_dies(self) -> None:
        """Who is dead is nobody's acquaintance a minute later, and is again when it is back."""
        self.node("n0")
        for number in range(1, 5):
            self.node(f"n{number}", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        self.network.run(300)
        self.stop("n0")
        self.network.run_until(self.all_know_all, limit=80)
        self.node("n0")
        self.network.run_until(self.all_know_all, limit=200)

    def test_cut_and_healed(self) -> None:
        """Two parts that were cut off from each other for long find each other again."""
        self.node("n0")
        for number in range(1, 6):
            self.node(f"n{number}", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        hosts = [*self.hosts.values()]
        self.network.partition(hosts[:3], hosts[3:])
        self.network.run(HOUR / 3)
        self.assertEqual(self.known_to("n0"), {"n1", "n2"})
        self.network.heal()
        self.network.run_until(self.all_know_all, limit=400)

    def test_without_the_registry(self) -> None:
        """
        The registry goes, and no beacon reaches anybody: the nodes have met a minute later, and
        one that only knows the address of one of them finds all.
        """
        registry = self.node("registry", bootstrap=Mode.ALWAYS)
        self.network.run(1)
        for number in range(6):
            self.node(f"n{number}", registries=(REGISTRY,))
        self.network.run(20)
        self.assertEqual(len(registry.peers), 6)
        self.assertEqual(self.known_to("n1"), set())
        self.stop("registry")
        self.network.run_until(self.all_know_all, limit=60)
        self.node("late", "n3:5000")
        self.network.run_until(self.all_know_all, limit=30)

    def test_with_a_registry(self) -> None:
        """While a registry lists them, no more than a few are visited."""
        self.node("registry", bootstrap=Mode.ALWAYS)
        self.network.run(1)
        for number in range(20):
            self.node(f"n{number}", registries=(REGISTRY,))
        self.network.run(120)
        self.assertEqual({len(self.known_to(f"n{number}")) for number in range(20)}, {8})

    def test_tells_of_the_registry(self) -> None:
        """Who knows one address is told where the registry is, by that node or from it."""
        self.node("registry", bootstrap=Mode.ALWAYS)
        self.network.run(1)
        listed = self.node("n0", registries=(REGISTRY,))
        self.network.run(6)
        for peer in ("n0", "registry"):
            late = self.node(f"asks {peer}", f"{peer}:5000")
            self.network.run_until(lambda late=late: late.neighbourhood.known_registries, limit=20)
            [met] = late.neighbourhood.known_registries
            self.assertEqual((met.peer.host, met.peer.port, met.at), ("10.0.1.1", 5000, None))
            self.assertEqual(met.peer.node, self.nodes["registry"].introduction.node)
        [met] = listed.neighbourhood.known_registries
        self.assertEqual(met.peer.host, "10.0.1.1")
        self.assertIsNotNone(met.at)

    def test_joins(self) -> None:
        """Who knows one address is told of the registry there, registers, and has its list."""
        self.node("registry", bootstrap=Mode.ALWAYS)
        self.network.run(1)
        self.node("n0", registries=(REGISTRY,))
        self.network.run(6)
        late = self.node("late", "n0:5000")
        self.network.run_until(
            lambda: {each.name for each in late.peers} == {"registry", "n0"}, limit=30
        )

    def test_one_bootstrap(self) -> None:
        """
        Nodes that may lead, and that each know one address of one, agree on one registry though no
        beacon reaches any; when the leader dies another one leads, and all are on its list.
        """
        names = [f"n{number}" for number in range(5)]
        for name in names:
            peers = () if name == "n0" else ("n0:5000",)
            self.node(name, *peers, bootstrap=Mode.AUTO)
            self.network.run(0.5)

        def are_listed(*names: str) -> bool:
            nodes = [self.nodes[name] for name in names]
            leaders = {
                node.neighbourhood.registry.node
                for node in nodes
                if node.neighbourhood.registry is not None
            }
            return len(leaders) == 1 and all(
                {each.name for each in node.peers} == {*names} - {node.settings.name}
                for node in nodes
            )

        self.network.run_until(lambda: are_listed(*names), limit=120)
        [leader] = [name for name in names if self.nodes[name].neighbourhood.is_bootstrap]
        self.stop(leader)
        survivors = [name for name in names if name != leader]
        self.network.run_until(lambda: are_listed(*survivors), limit=30)

    def test_all_restart(self) -> None:
        """Without being told of anybody, nodes that restart find the registry they remember."""
        self.node("n0", bootstrap=Mode.AUTO)
        for number in range(1, 4):
            self.node(f"n{number}", "n0:5000", bootstrap=Mode.AUTO)
        self.network.run_until(
            lambda: all(len(node.peers) == 3 for node in self.nodes.values()), limit=120
        )
        for name in list(self.nodes):
            self.stop(name)
        for number in range(4):
            self.node(f"n{number}", bootstrap=Mode.AUTO)
        self.network.run_until(
            lambda: all(len(node.peers) == 3 for node in self.nodes.values()), limit=120
        )

    def test_by_beacon(self) -> None:
        """Those whom the beacon sees are met as well, so that who comes from afar hears of them."""
        for number in (1, 2, 3):
            self.hosts[f"n{number}"] = self.network.host(f"10.9.0.{number}/24", name=f"n{number}")
            self.node(f"n{number}", beacon_port=5120)
        self.network.run(15)
        self.node("afar", "n1:5000")
        self.network.run_until(self.all_know_all, limit=60)

    def test_one_without_a_port(self) -> None:
        """A node that only fetches meets all, and is told of to nobody."""
        self.node("n0")
        self.node("n1", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        self.node("asks", "n0:5000", serves=False, shares=(), state=None)
        self.network.run(30)
        self.assertEqual(self.known_to("asks"), {"n0", "n1"})
        self.assertEqual(self.known_to("n0"), {"n1"})

    def test_repeats(self) -> None:
        """The same seed does the same, to the byte."""
        prints = []
        for _ in range(2):
            self.setUp()
            self.node("n0", state=None)
            for number in range(1, 6):
                self.node(f"n{number}", "n0:5000", state=None)
            self.network.run(30)
            self.assertTrue(self.all_know_all())
            self.stop_all()
            prints.append(self.network.fingerprint)
        self.assertEqual(prints[0], prints[1])


class TrustTests(AcquaintingCase):
    """Who is asked, and who is believed."""

    def test_closed(self) -> None:
        """In a closed network members meet, with their names, and strangers hear nothing."""
        key_file = self.folder / "key"
        key_file.touch(0o600)
        key_file.write_text(str(JoinLink("lab", bytes(range(32)))))
        key = {"network_key_file": str(key_file), "encryption": Encryption.TLS}
        self.node("n0", **key)
        self.node("n1", "n0:5000", **key)
        self.node("n2", "n0:5000", **key)
        self.network.run_until(self.all_know_all, limit=30)
        with capturedLogs() as logs:
            stranger = self.node("stranger", "n0:5000", encryption=Encryption.TLS)
            self.network.run(30)
        self.assertEqual(stranger.neighbourhood.acquaintances, [])
        self.assertIn("does not speak with you", stranger.neighbourhood.peer_trouble)
        self.assertIn("is not reached: n0:5000:", said(logs))
        self.assertEqual(self.known_to("n0"), {"n1", "n2"})

    def test_somebody_else(self) -> None:
        """Who proves another id than was told of is not met, and not told of."""
        self.node("n0", encryption=Encryption.TLS)
        wrong = self.node("n1", encryption=Encryption.TLS)
        self.network.run(1)
        victim = Peer(b"v" * 32, "somebody", "10.0.2.1", 5000)
        self.assertEqual(self.hosts["n1"].addresses, ("10.0.2.1",))
        n0 = self.nodes["n0"].neighbourhood._acquainting
        assert n0 is not None
        n0.asked(b"x" * 32, victim)
        self.network.run(300)
        self.assertEqual(n0.known, [])
        self.assertNotEqual(wrong.introduction.node, victim.node)

    def test_named_with_an_id(self) -> None:
        """A place that was named with an id is met only if that is proven there."""
        self.node("n0", encryption=Encryption.TLS)
        self.network.run(1)
        other = read_identity(self.state_of("n0"))
        self.assertEqual(other.node, self.nodes["n0"].introduction.node)
        right = self.node(
            "right", f"{format_node_id(other.node)}@n0:5000", encryption=Encryption.TLS
        )
        wrong = self.node("wrong", f"{format_node_id(b'w' * 32)}@n0", encryption=Encryption.TLS)
        self.network.run(5)
        self.assertIn("n0", {each.name for each in right.neighbourhood.acquaintances})
        self.assertNotIn("n0", {each.name for each in wrong.neighbourhood.acquaintances})
        self.assertIn("Another node answers", wrong.neighbourhood.peer_trouble)

    def test_victim(self) -> None:
        """A lying peer cannot make a node call a victim more often than the limits say."""
        victim = self.host("victim")
        counting = Counting()
        port = self.network.result(serverFromString(victim.reactor, "tcp:80").listen(counting))
        liar = self.node("liar")
        acquainting = liar.neighbourhood._acquainting
        assert acquainting is not None
        made_up = [Peer(number.to_bytes(32, "big"), "", "10.0.1.1", 80) for number in range(1, 129)]
        acquainting.asked = lambda visitor, at: Met("liar", tuple(made_up))  # type: ignore[method-assign]
        self.node("n0", "liar:5000")
        self.network.run(HOUR)
        self.assertGreater(counting.calls, 10)
        self.assertLessEqual(counting.calls, 32 + 32)
        self.stop("n0")
        counting.hang_up()
        self.network.result(port.stopListening())

    def test_banned(self) -> None:
        """Whom a node has banned is not visited, whoever tells of him."""
        self.node("n0")
        n1 = self.node("n1", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        state = Path(self.state_of("n2"))
        state.mkdir(mode=0o700)
        Bans(str(state / BANS_FILE), lambda: 0.0).ban(n1.introduction.node)
        self.node("n2", "n0:5000")
        self.network.run(60)
        self.assertEqual(self.known_to("n2"), {"n0"})

    def test_silent(self) -> None:
        """Who accepts and says nothing is given up within seconds, and keeps no other waiting."""
        silent = self.host("silent")
        counting = Counting()
        port = self.network.result(serverFromString(silent.reactor, "tcp:5000").listen(counting))
        self.node("n0")
        late = self.node("n1", *["silent:5000"] * 3, "n0:5000")
        self.network.run_until(lambda: late.neighbourhood.acquaintances, limit=2)
        self.network.run(10)
        self.assertIn("silent:5000", late.neighbourhood.peer_trouble)
        self.stop("n1")
        counting.hang_up()
        self.network.result(port.stopListening())

    def test_registry_alone(self) -> None:
        """A registry by itself is no peer, and the log says so."""
        silent = self.node("n1", "nobody.example:5000")
        with capturedLogs() as logs:
            self.network.run(10)
        self.assertIn("nobody.example:5000", silent.neighbourhood.peer_trouble)
        self.assertEqual(said(logs).count("A peer that was named is not reached"), 1)


class RememberingTests(AcquaintingCase):
    """What outlives a restart."""

    def test_restart(self) -> None:
        """A network whose nodes all restart finds itself again, though nobody names anybody."""
        self.node("n0")
        for number in range(1, 5):
            self.node(f"n{number}", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        for name in list(self.nodes):
            self.stop(name)
        for number in range(1, 5):
            self.node(f"n{number}")
        self.network.run_until(self.all_know_all, limit=30)

    def test_killed(self) -> None:
        """Who is killed remembers whom it had met a minute before."""
        self.node("n0")
        self.node("n1", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        self.network.run(70)
        peers, _ = read_memory(self.state_of("n1"))
        self.assertEqual([each.peer.name for each in peers], ["n0"])

    def test_registry(self) -> None:
        """The registry that listed a node is among those that it may try the next time."""
        self.node("registry", bootstrap=Mode.ALWAYS)
        self.network.run(1)
        self.node("n0", registries=(REGISTRY,))
        self.network.run(6)
        self.stop("n0")
        again = self.node("n0")
        [met] = again.neighbourhood.known_registries
        self.assertEqual((met.peer.host, met.peer.port), ("10.0.1.1", 5000))
        self.assertIsNotNone(met.at)

    def test_damaged(self) -> None:
        """A damaged memory is one sentence in the log, and is written anew."""
        self.node("n0")
        state = Path(self.state_of("n1"))
        state.mkdir(mode=0o700)
        memory = state / MEMORY_FILE
        memory.touch(0o600)
        memory.write_text("{")
        with capturedLogs() as logs:
            self.node("n1", "n0:5000")
            self.network.run_until(self.all_know_all, limit=30)
        self.assertEqual(said(logs).count("is no list of peers"), 1)
        self.stop("n1")
        self.assertEqual(len(read_memory(str(state))[0]), 1)

    def test_cannot_be_written(self) -> None:
        """If it cannot be written, the log says so, and the node goes on."""
        self.node("n0")
        node = self.node("n1", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)

        def run_blocking(*arguments: object) -> object:
            raise ResourceFailure("The disk is full.")

        acquainting = node.neighbourhood._acquainting
        assert acquainting is not None
        acquainting._run_blocking = run_blocking  # type: ignore[assignment]
        with capturedLogs() as logs:
            self.network.run(120)
            self.stop("n1")
        self.assertIn("Whom this node has met is not remembered: The disk is full.", said(logs))

    def test_not_written_in_vain(self) -> None:
        """Where nothing is new, the disk is left alone."""
        self.node("n0")
        self.node("n1", "n0:5000")
        self.network.run_until(self.all_know_all, limit=30)
        self.network.run(120)
        memory = Path(self.state_of("n1")) / MEMORY_FILE
        before = memory.stat().st_ino
        self.network.run(1800)
        self.assertEqual(memory.stat().st_ino, before)
        self.network.run(3600)
        self.assertNotEqual(memory.stat().st_ino, before)

    def test_many_dead(self) -> None:
        """However many of those who are remembered are gone, the one who is there is found."""
        self.node("n0")
        self.network.run(1)
        there = self.nodes["n0"].introduction.node
        peers = [
            Peer(number.to_bytes(32, "big"), "", f"10.7.0.{number}", 5000) for number in range(60)
        ]
        state = Path(self.state_of("n1"))
        state.mkdir(mode=0o700)
        kept = [Remembered(each, 0.0) for each in (*peers, Peer(there, "", "10.0.1.1", 5000))]
        write_memory(str(state), kept, [])
        self.node("n1")
        self.network.run_until(self.all_know_all, limit=60)

    def test_no_state(self) -> None:
        """A node without a state folder remembers nothing, and leaves nothing behind."""
        self.node("n0")
        self.node("n1", "n0:5000", state=None)
        self.network.run_until(self.all_know_all, limit=30)
        self.stop("n1")
        self.assertFalse(os.path.exists(self.state_of("n1")))
