"""Tests for L{flow512.node}."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from unittest import mock

from msgspec.structs import replace
from twisted.application.service import IService
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.content import backlog
from flow512.content.opened import OpenContent
from flow512.content.tree import format_content_id
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.errors import (
    BadDigest,
    Misuse,
    NoSuchPeer,
    PortTaken,
    ShareMissing,
    StateInUse,
)
from flow512.interfaces import Workers
from flow512.link.address import HostPort
from flow512.link.bans import Bans
from flow512.link.faults import BANNED_FOR, STRIKES
from flow512.link.named_registry import NamedRegistry
from flow512.link.node_id import format_node_id
from flow512.node import NodeService
from flow512.registry.client import IPeerListListener
from flow512.settings import NodeListener, NodeSettings
from flow512.testing import Host, Network
from flow512.transfer.fetch import Fetched, Target
from flow512.transfer.finding import Candidate
from flow512.transfer.indexing import Indexed
from flow512.units import BLOCK
from flow512.wire.fields import Peer
from tests.unit.transfer_ends import a_folder


class Told(NodeListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.listening: list[tuple[str, int]] = []
        self.indexed: list[Indexed] = []
        self.joined: list[str] = []
        self.left: list[str] = []
        self.bootstrap: list[int] = []

    def node_listening(self, host: str, port: int) -> None:
        self.listening.append((host, port))

    def node_indexed(self, indexed: Indexed) -> None:
        self.indexed.append(indexed)

    def peers_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        self.joined += [peer.name for peer in joined]
        self.left += [peer.name for peer in left]

    def bootstrap_started(self, port: int) -> None:
        self.bootstrap.append(port)


@implementer(IListeningPort)
class Pipe:
    """A place to listen that is no TCP port."""

    is_open = False

    async def listen_at(self, *arguments: object) -> Pipe:
        """Listen."""
        self.is_open = True
        return self

    def getHost(self) -> UNIXAddress:
        return UNIXAddress("/run/pipe")

    def startListening(self) -> None:
        self.is_open = True

    def stopListening(self) -> None:
        self.is_open = False


def text_of(events: Sequence[LogEvent]) -> str:
    """What an operator reads."""
    return "\n".join(str(formatEvent(event)) for event in events)


def open_files(folder: Path) -> list[str]:
    """The files and folders in a folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sorted(each for each in found if each.startswith(str(folder.resolve())))


class NodeTestCase(SynchronousTestCase):
    """Nodes on hosts of one network, each with a share."""

    def setUp(self) -> None:
        self.network = Network(4)
        self.base = a_folder(self)
        self.nodes: list[NodeService] = []
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Stop all; nothing may be left open."""
        for node in self.nodes:
            if node.running:
                self.network.result(node.stopService())
        self.network.run(1.0)
        self.network.assert_quiet()
        self.assertEqual(open_files(self.base), [])

    def host(self, number: int) -> Host:
        """Make a host."""
        return self.network.host(f"10.0.0.{number}", name=f"host{number}")

    def share(self, name: str, **files: bytes) -> str:
        """Make a folder with files."""
        folder = self.base / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return str(folder)

    def make(
        self, host: Host, settings: NodeSettings, listener: NodeListener | None = None
    ) -> NodeService:
        """Make a node."""
        node = NodeService(
            host.reactor,
            settings,
            listener=listener,
            random=Random(len(self.nodes)),
            run_blocking=host.run_blocking,
            local_addresses=lambda: [LocalAddress(host.addresses[0], 24, "eth0", 2)],
        )
        self.nodes.append(node)
        return node

    def start(
        self, host: Host, settings: NodeSettings, listener: NodeListener | None = None
    ) -> NodeService:
        """Make a node and start it."""
        node = self.make(host, settings, listener)
        node.startService()
        return node

    def refused(self, kind: type[Exception], node: NodeService) -> str:
        """The node does not start, says why, and leaves nothing open."""
        before = open_files(self.base)
        with self.assertRaises(kind) as caught:
            node.privilegedStartService()
        self.assertEqual(open_files(self.base), before)
        return str(caught.exception)


class LifeTests(NodeTestCase):
    """Starting and stopping."""

    def test_restless_registry(self) -> None:
        """
        A registry that has a peer come and go without end does not fill the node's log. Whoever
        embeds the node is told of everything, and the log says in the end how it was.
        """
        told = Told()
        node = self.start(self.host(1), NodeSettings(name="one"), told)
        self.network.run_until(lambda: node.neighbourhood.is_listed)
        mallory = Peer(b"m" * 32, "mallory", "10.0.0.9", 5000)
        with capturedLogs() as logs:
            for _ in range(500):
                node.neighbourhood.peer_list_changed((mallory,), (), ())
                node.neighbourhood.peer_list_changed((), (mallory,), ())
            self.network.result(node.stopService())
        self.assertEqual(told.joined, ["mallory"] * 500)
        said = [str(formatEvent(each)) for each in logs]
        said = [each for each in said if "updated peers list" in each]
        self.assertLess(len(said), 50)
        self.assertIn("lines such as this were left out", said[-1])

    def test_first_node(self) -> None:
        """The first node on a network serves, becomes the bootstrap, and says so."""
        told = Told()
        host = self.host(1)
        with capturedLogs() as logs:
            node = self.make(host, NodeSettings(name="one"), told)
            verifyObject(IService, node)
            verifyObject(IPeerListListener, node.neighbourhood)
            node.startService()
            self.network.run_until(lambda: node.neighbourhood.is_listed)
        said = text_of(logs)
        for line in (
            "Server running on port 5000",
            "File-sharing node running at IP: 10.0.0.1, Port: 5000",
            "No bootstrap node found, starting as bootstrap.",
            "Bootstrap node started on port 5000.",
            "No peers available yet, this is the first node in the network.",
        ):
            self.assertIn(line, said)
        for line in ("Peer connected", "Registered"):
            self.assertNotIn(line, said, "nobody else is there")
        self.assertTrue(node.neighbourhood.is_bootstrap)
        self.assertEqual((told.listening, told.bootstrap), ([("10.0.0.1", 5000)], [5000]))
        self.assertEqual((node.peers, node.neighbourhood.candidates(), told.joined), ([], [], []))
        self.network.result(node.stopService())
        self.network.run(1)  # the system, too, is done with what the registry dialled
        self.assertEqual(host.left_over(), [])
        self.assertEqual(
            (node.port, node.neighbourhood.is_bootstrap, node.neighbourhood.is_listed),
            (0, False, False),
        )
        self.assertEqual((node.peers, node.neighbourhood.sightings()), ([], ()))

    def test_end_is_not_cut_short(self) -> None:
        """
        Whoever no longer waits for the end, or asks for it twice, has the node end all the same,
        whole and once; and it can be started again.
        """
        host = self.host(1)
        settings = NodeSettings((self.share("s", a=b"a"),), state=str(self.base / "state"))
        node = self.start(host, settings)
        self.network.run_until(lambda: node.neighbourhood.is_listed)
        impatient, patient = node.stopService(), node.stopService()
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        self.network.result(patient)
        self.network.run(1)
        self.assertEqual(host.left_over(), [])
        node.startService()
        self.network.run_until(lambda: node.neighbourhood.is_listed)

    def test_port_is_taken(self) -> None:
        """If the usual port is taken a free one is used, and that is said."""
        host = self.host(1)
        port = self.network.result(serverFromString(host.reactor, "tcp:5000").listen(Factory()))
        with capturedLogs() as logs:
            node = self.start(host, NodeSettings(beacon_port=None))
        self.assertNotIn(node.port, (0, 5000))
        self.assertIn(f"serving at port {node.port} instead", text_of(logs))
        port.stopListening()

    def test_own_port_is_taken(self) -> None:
        """A port that the user named is used or nothing is."""
        host = self.host(1)
        port = self.network.result(serverFromString(host.reactor, "tcp:7000").listen(Factory()))
        settings = NodeSettings(
            (self.share("s"),), state=str(self.base / "state"), listen="tcp:7000"
        )
        node = self.make(host, settings)
        self.assertIn("'tcp:7000'", self.refused(PortTaken, node))
        port.stopListening()
        self.network.run(1.0)
        node.startService()
        self.assertEqual(node.port, 7000)

    def test_what_cannot_start(self) -> None:
        """State in use, shares that are missing, addresses that are none: said, nothing left."""
        state = str(self.base / "state")
        self.start(self.host(1), NodeSettings(state=state))
        host = self.host(2)
        self.refused(StateInUse, self.make(host, NodeSettings(state=state)))
        other = str(self.base / "other")
        shares = (self.share("s"), self.share("t"), str(self.base / "none"))
        said = self.refused(ShareMissing, self.make(host, NodeSettings(shares, state=other)))
        self.assertIn("none", said)
        self.refused(
            Misuse,
            self.make(host, NodeSettings(registries=(NamedRegistry("nonsense:1"),), state=other)),
        )
        self.refused(Misuse, self.make(host, NodeSettings(listen="nonsense:1", state=other)))

    def test_state_in_a_share(self) -> None:
        """What is only the node's own cannot be shared by mistake."""
        share = self.share("s")
        for state in (share, f"{share}/deep/state"):
            settings = NodeSettings(shares=(self.share("t"), share), state=state)
            said = self.refused(Misuse, self.make(self.host(1 + len(self.nodes)), settings))
            self.assertIn("share another folder, or choose a state folder outside of it", said)
            # Neither is a key made there, which another node would share.
            self.assertEqual(os.listdir(share), [])

    def test_no_tcp_port(self) -> None:
        """
        A node that listens on something else than TCP serves there, says where, and never becomes
        the bootstrap: nobody could reach it as that.
        """
        pipe = Pipe()
        settings = NodeSettings(listen="unix:/run/pipe", beacon_port=None)
        with mock.patch("flow512.link.presence.listen_at", pipe.listen_at):
            self.refused(Misuse, self.make(self.host(1), replace(settings, bootstrap=Mode.ALWAYS)))
            self.assertFalse(pipe.is_open)
            with capturedLogs() as logs:
                node = self.start(self.host(2), settings)
                self.network.run(30.0)
        self.assertTrue(pipe.is_open)
        self.assertIn("Server running on UNIXAddress('/run/pipe')", text_of(logs))
        self.assertFalse(node.neighbourhood.is_bootstrap)
        self.network.result(node.stopService())
        self.assertFalse(pipe.is_open)

    def test_damaged_catalog(self) -> None:
        """A catalog that is damaged is said, made anew, and keeps no node from starting."""
        state = self.share("state", **{"catalog.sqlite": b"SQLite format 3\0" + b"x" * 5000})
        settings = NodeSettings((self.share("s", a=b"a"),), state=state, beacon_port=None)
        told = Told()
        with capturedLogs() as logs:
            self.start(self.host(1), settings, told)
            self.network.run_until(lambda: told.indexed)
        self.assertIn("catalog", text_of(logs))
        self.assertEqual(told.indexed[0].hashed, 1)

    def test_term(self) -> None:
        """The term in which a node leads rises from run to run, if it has a state folder."""
        terms = []
        for number in (1, 2, 3):
            state = str(self.base / "state") if number > 1 else None
            settings = NodeSettings(state=state, beacon_port=None)
            node = self.start(self.host(number), settings)
            self.network.run(1.0)
            assert node.leadership is not None
            terms.append(node.leadership.claim.term)
            self.network.result(node.stopService())
        self.assertEqual(terms, [1, 1, 2])

    def test_same_state_again(self) -> None:
        """A node that is started again is the same node, and hashes nothing twice."""
        share = self.share("s", a=b"a" * BLOCK, b=b"b")
        settings = NodeSettings((share,), state=str(self.base / "state"), beacon_port=None)
        ids, hashed = [], []
        with mock.patch.object(backlog, "hash_file", wraps=backlog.hash_file) as hashing:
            for _ in range(2):
                told = Told()
                node = self.start(self.host(len(ids) + 1), settings, told)
                self.network.run_until(lambda told=told: told.indexed)
                ids.append(node.introduction.node)
                hashed.append((told.indexed[0].hashed, hashing.call_count))
                self.network.result(node.stopService())
        self.assertEqual(hashed, [(2, 2), (0, 2)])
        self.assertEqual(ids[0], ids[1])

    def test_started_again(self) -> None:
        """The same service can be started again after it was stopped."""
        node = self.start(self.host(1), NodeSettings((self.share("s", a=b"a"),)))
        for _ in range(2):
            self.network.run(3.0)
            self.network.result(node.stopService())
            self.assertEqual(self.network.left_over(), [])
            node.startService()
        self.network.run_until(lambda: node.neighbourhood.is_listed)
        self.assertEqual(node.port, 5000)

    def test_started_too_soon(self) -> None:
        """Started before it has stopped, it says what to wait for, and stops as it should."""
        host = self.host(1)
        node = self.start(host, NodeSettings((self.share("s", a=b"a"),)))
        self.network.run(3.0)
        stopped = node.stopService()
        self.assertNoResult(stopped)
        self.assertIn("wait for what stopService() returned", self.refused(Misuse, node))
        self.network.result(stopped)
        self.assertEqual(self.network.left_over(), [])
        node.startService()
        self.assertEqual(node.port, 5000)

    def test_started_twice(self) -> None:
        """A node that a running parent has started may be started once more by who forgot that."""
        told = Told()
        node = self.start(self.host(1), NodeSettings((self.share("s", a=b"a"),)), told)
        node.startService()
        self.network.run_until(lambda: told.indexed)
        self.network.run(3.0)
        self.assertEqual((len(told.listening), len(told.indexed)), (1, 1))
        self.network.result(node.stopService())
        self.assertEqual(self.network.left_over(), [])

    def test_stopped_at_any_time(self) -> None:
        """Stopped at any time, nothing is left behind."""
        host = self.host(1)
        share = self.share("s", a=b"a" * BLOCK, b=b"b")
        for moment in (0.0, 0.001, 0.004, 0.01, 0.5, 1.6, 2.1, 30.0):
            node = self.start(host, NodeSettings((share,), state=str(self.base / "state")))
            self.network.run(moment)
            self.network.result(node.stopService())
            self.assertEqual(self.network.left_over(), [])
            self.assertEqual(open_files(self.base), [])

    def test_without_serving(self) -> None:
        """A node that does not serve opens no port, is not listed, and follows the others."""
        self.start(self.host(1), NodeSettings((self.share("s", a=b"a"),), name="one"))
        self.network.run(5.0)
        told = Told()
        node = self.start(self.host(2), NodeSettings(serves=False, name="two"), told)
        self.network.run_until(lambda: node.peers)
        self.assertEqual((node.port, told.listening, told.joined), (0, [], ["one"]))
        self.assertEqual([each.name for each in self.nodes[0].peers], [])

    def test_names(self) -> None:
        """Without a name it is the machine's; without a network it is the loopback's."""
        node = NodeService(
            self.host(1).reactor,
            NodeSettings(beacon_port=None),
            run_blocking=self.network.hosts[0].run_blocking,
            local_addresses=list,
        )
        self.nodes.append(node)
        node.startService()
        self.assertTrue(node.introduction.name)
        self.assertEqual(node.host, "127.0.0.1")

    def test_threads_of_its_own(self) -> None:
        """Unless it is handed workers, a node has some of its own, which end with it."""
        host = self.host(1)
        started: list[bool] = []
        with (
            mock.patch.object(Workers, "startService", side_effect=lambda: started.append(True)),
            mock.patch.object(Workers, "stopService", side_effect=lambda: started.append(False)),
            mock.patch.object(Workers, "run_long", lambda it, *args: host.run_blocking(*args)),
        ):
            node = NodeService(host.reactor, NodeSettings(beacon_port=None), local_addresses=list)
            node.startService()
            self.network.result(node.stopService())
        self.assertEqual(started, [True, False])


class TogetherTests(NodeTestCase):
    """Several nodes."""

    def two(self, **settings: object) -> tuple[NodeService, NodeService, Told]:
        """Start two nodes, and wait until the second knows the first."""
        one = self.start(
            self.host(1),
            NodeSettings((self.share("s", **{"a.bin": b"a" * 1000}),), name="one", **settings),  # type: ignore[arg-type]  # known names
        )
        self.network.run(5.0)
        told = Told()
        two = self.start(
            self.host(2),
            NodeSettings(downloads=self.share("d"), name="two", **settings),  # type: ignore[arg-type]  # known names
            told,
        )
        self.network.run_until(lambda: two.neighbourhood.candidates())
        return one, two, told

    def test_two_start_together(self) -> None:
        """Of nodes that start together one leads, and all find each other."""
        for number in (1, 2, 3):
            self.start(self.host(number), NodeSettings(name=f"n{number}"))
        self.network.run_until(lambda: all(len(node.peers) == 2 for node in self.nodes))
        self.assertEqual(sum(node.neighbourhood.is_bootstrap for node in self.nodes), 1)

    def test_peers_come_and_go(self) -> None:
        """The listener hears of others, and never of the node itself."""
        one, two, told = self.two()
        self.network.run_until(lambda: told.joined)
        self.assertEqual(told.joined, ["one"])
        third = self.start(self.host(3), NodeSettings(name="three"))
        self.network.run_until(lambda: len(told.joined) == 2)
        self.network.result(third.stopService())
        self.network.run_until(lambda: told.left)
        self.assertEqual((told.joined, told.left), (["one", "three"], ["three"]))
        self.assertEqual([peer.name for peer in two.peers], ["one"])
        self.assertEqual([peer.name for peer in one.peers], ["two"])

    def test_found_by_beacon_alone(self) -> None:
        """Without any registry, the beacon is enough to find and fetch."""
        _, two, _ = self.two(bootstrap=Mode.NEVER)
        self.network.run(5.0)
        self.assertEqual(two.peers, [])
        self.assertEqual(
            [str(each) for each in two.neighbourhood.candidates()], ["one (10.0.0.1:5000)"]
        )
        fetched = self.network.result(two.get("a.bin"))
        self.assertEqual(Path(fetched.path), self.base / "d" / "a.bin")

    def test_liar_is_banned(self) -> None:
        """Who sends something wrong again and again is banned, with the reason, for a while."""
        one = self.start(self.host(1), NodeSettings((self.share("s", a=b"a" * 1000),), name="one"))
        self.network.run(5.0)
        two = self.start(
            self.host(2),
            NodeSettings(downloads=self.share("d"), state=self.share("state"), name="two"),
        )
        os.chmod(self.base / "state", 0o700)
        read_into = OpenContent.read_into

        def lie(content: OpenContent, offset: int, rooms: Sequence[bytearray]) -> None:
            read_into(content, offset, rooms)
            rooms[0][7] ^= 1

        self.patch(OpenContent, "read_into", lie)
        bans = self.base / "state" / "bans.json"
        blamed: list[str] = []
        for times in range(1, STRIKES + 1):
            self.assertFalse(bans.exists())
            got = two.fetching.get(
                "a", peer="10.0.0.1", blame=lambda who, reason: blamed.append(str(reason))
            )
            self.network.run_until(lambda got=got: got.called)  # type: ignore[misc]  # it is
            self.failureResultOf(got, BadDigest)
            self.assertEqual(len(blamed), times)
        self.network.run(3.0)
        (ban,) = Bans(str(bans), self.network.clock.seconds).active()
        self.assertEqual(ban.node, one.introduction.node)
        self.assertIn("3 times", ban.reason)
        self.assertIn("damaged block 0", ban.reason)
        assert ban.until is not None
        self.assertEqual(ban.until - ban.since, BANNED_FOR)
        self.assertEqual(two.neighbourhood.candidates(), [])

    def test_get(self) -> None:
        """A file is got by its path or content id, from anybody or from a peer however named."""
        one, two, _ = self.two()
        root = self.network.result(two.get("a.bin")).entry.root
        assert root is not None
        target = Target(str(self.base / "d"), "again", replace=True)
        seen: list[Candidate] = []
        for wanted, peer in (
            (format_content_id(root), ""),
            ("a.bin", "one"),
            ("a.bin", format_node_id(one.introduction.node)[:7].lower()),
            ("a.bin", "10.0.0.1"),
            (format_content_id(root), "host1:5000"),
        ):
            got = two.fetching.get(
                wanted, peer=peer, target=target, found=lambda who, entry: seen.append(who)
            )
            self.assertEqual(self.network.result(got).entry.root, root)
        self.assertEqual([each.name for each in seen], ["one", "one", "one", "", ""])
        self.assertEqual((self.base / "d" / "again").read_bytes(), b"a" * 1000)

    def test_get_of_nonsense(self) -> None:
        """What cannot be got fails the Deferred, and raises nothing."""
        _, two, _ = self.two()
        for wanted, peer in (("flow512:short", ""), ("a.bin", "a b"), ("a.bin", "nonsense:x:y")):
            self.failureResultOf(two.get(wanted, peer=peer), Misuse)

    def test_peers_of_one_name(self) -> None:
        """If several have the name, the user has to choose by address."""
        _, two, _ = self.two()
        self.start(self.host(3), NodeSettings(name="one"))
        self.network.run_until(lambda: len(two.neighbourhood.candidates()) == 2)
        failure = self.failureResultOf(two.get("a.bin", peer="one"), NoSuchPeer)
        self.assertIn("10.0.0.1:5000, 10.0.0.3:5000", str(failure.value))

    def test_stopped_while_fetching(self) -> None:
        """A node that stops ends what it fetches, and waits for that; the next time goes on."""
        _, two, _ = self.two()
        content = Random(1).randbytes(30 * BLOCK)
        self.share("s", big=content)
        for moment in (0.0, 0.005, 0.02, 0.05):
            got = two.get("big", peer="10.0.0.1")
            outcome: list[object] = []
            got.addBoth(outcome.append)
            self.network.run(moment)
            self.assertEqual(outcome, [])
            self.network.result(two.stopService())
            self.assertEqual(len(outcome), 1)
            self.assertEqual(self.network.hosts[1].left_over(), [])
            two.startService()
        got = two.get("big", peer="10.0.0.1")
        self.network.run_until(lambda: self.network.hosts[1].bytes_received > 5 * BLOCK)
        self.network.result(two.stopService())
        self.failureResultOf(got, CancelledError)
        two.startService()
        fetched = self.network.result(two.get("big", peer="10.0.0.1"))
        self.assertIsInstance(fetched, Fetched)
        self.assertGreater(fetched.resumed, 0)
        self.assertEqual((self.base / "d" / "big").read_bytes(), content)

    def test_given_up(self) -> None:
        """Whenever a fetch takes too long for whoever wants it, C{addTimeout} says just that."""
        _, two, _ = self.two()
        self.share("s", big=Random(1).randbytes(30 * BLOCK))
        here = self.network.hosts[1]
        here.bandwidth = 10_000_000
        # It is connecting at first, then asks, and then the blocks come.
        for seconds in (0.0, 0.01, 0.05, 0.1, 0.2, 0.3):
            got = two.get("big", peer="10.0.0.1").addTimeout(seconds, here.reactor)
            with self.assertRaises(TimeoutError):
                self.network.result(got)
        self.assertGreater(here.bytes_received, 5 * BLOCK)

    def test_get_while_stopped(self) -> None:
        """A node that does not run fetches nothing, and says so, and nothing is left of it."""
        _, two, _ = self.two()
        self.share("s", big=Random(1).randbytes(30 * BLOCK))
        never_started = self.make(self.host(9), NodeSettings())
        self.failureResultOf(never_started.get("big", peer="10.0.0.1"), Misuse)
        got = two.get("big", peer="10.0.0.1")
        again = got.addErrback(lambda _: two.fetching.get("big", peer="10.0.0.1"))
        self.network.run_until(lambda: self.network.hosts[1].bytes_received > 5 * BLOCK)
        self.network.result(two.stopService())
        self.failureResultOf(again, Misuse)
        self.failureResultOf(two.get("big", peer="10.0.0.1"), Misuse)
        self.failureResultOf(two.fetching.get("big", peer="10.0.0.1"), Misuse)
        self.assertEqual(self.network.hosts[1].left_over(), [])

    def test_server_stopped_while_serving(self) -> None:
        """A node that stops while it serves closes every file, and waits for its workers."""
        one, two, _ = self.two()
        self.share("s", big=Random(1).randbytes(30 * BLOCK))
        got = two.get("big", peer="10.0.0.1")
        self.network.run_until(lambda: self.network.hosts[1].bytes_received > 5 * BLOCK)
        self.network.result(one.stopService())
        self.assertEqual(self.network.hosts[0].left_over(), [])
        failed: list[object] = []
        got.addErrback(failed.append)
        self.network.run_until(lambda: failed)

    def test_configured_registry(self) -> None:
        """A node that is told where the registry is needs no beacon."""
        self.start(self.host(1), NodeSettings(name="one", beacon_port=None))
        self.network.run(1.0)
        settings = NodeSettings(
            name="two",
            beacon_port=None,
            registries=(NamedRegistry(HostPort("host1", 5000)),),
            bootstrap=Mode.NEVER,
        )
        two = self.start(self.host(2), settings)
        self.network.run_until(lambda: two.peers)
        self.assertFalse(two.neighbourhood.is_bootstrap)

    def test_own_changes_are_no_news(self) -> None:
        """A change that concerns only the node itself is not told of."""
        one, _, _ = self.two()
        me = Peer(one.introduction.node, "me", "10.0.0.1", 5000)
        listener = Told()
        call: Callable[..., None] = one.neighbourhood.peer_list_changed
        with mock.patch.object(one, "_listener", listener):
            call([me], [], [])
            call([], [me], [])
            call([], [], [me])
        self.assertEqual((listener.joined, listener.left), ([], []))
        self.assertIsInstance(one.stopService(), Deferred)
