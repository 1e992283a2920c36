"""
Tests for L{flow512.transfer.gathering}: nodes in a network in memory, of which several fetch the
same content at the same time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import cast
from unittest import mock

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import format_content_id
from flow512.discovery.election import Mode
from flow512.errors import BadDigest, Flow512Error, PeerLost
from flow512.limits import Limits
from flow512.link.address import DEFAULT_PORT, HostPort
from flow512.link.conversation import Patience
from flow512.link.named_registry import NamedRegistry
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import NodeSettings
from flow512.testing import Network
from flow512.transfer import gathering
from flow512.transfer.exchange import Exchange
from flow512.transfer.fetch import Fetched, Target
from flow512.transfer.finding import Candidate, Found
from flow512.transfer.gathering import MOST_RUNS, RETRY, Gathering
from flow512.transfer.holders import KnownHolders
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK
from flow512.wire.fields import Peer
from flow512.wire.holding import Blocks
from flow512.wire.messages import Entry
from tests.unit.offered_files import tree_of

REGISTRY = HostPort("10.0.1.1", 5000)
NAME = "film.mkv"
LINK = 2_000_000
"""Bytes a second that every host's link carries each way."""


class Town:
    """
    A network with, if wanted, a registry.
    """

    def __init__(self, test: SynchronousTestCase, blocks: int = 96) -> None:
        self.test = test
        self.network = Network(7)
        self.random = Random(7)
        self.content = self.random.randbytes(blocks * BLOCK)
        self.root = format_content_id(tree_of(self.content).root)
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.nodes: dict[str, NodeService] = {}
        self.hosts: dict[str, str] = {}
        self.number = 0
        self.registry: RegistryService | None = None
        test.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop all; nothing may be left open."""
        for name in list(self.nodes):
            self.leave(name)
        if self.registry is not None:
            self.network.result(self.registry.stopService(), limit=60)
        self.network.assert_quiet()

    def with_registry(self) -> Town:
        """Start a registry."""
        host = self.network.host(REGISTRY.host, name="registry")
        self.registry = RegistryService(
            host.reactor,
            RegistrySettings(name="registry", encryption=Encryption.NONE),
            random=Random(1),
            local_addresses=lambda: [],
        )
        self.registry.startService()
        return self

    def node(
        self, name: str, *, has_it: bool = False, serves: bool = True, **more: object
    ) -> NodeService:
        """Start a node."""
        number = self.number = self.number + 1
        self.hosts[name] = f"10.0.0.{number}"
        host = self.network.host(self.hosts[name], name=name)
        host.bandwidth = LINK
        share = self.folder / name / "share"
        share.mkdir(parents=True)
        (self.folder / name / "downloads").mkdir()
        if has_it:
            (share / NAME).write_bytes(self.content)
        settings: dict[str, object] = {
            "shares": (str(share),) if serves else (),
            "name": name,
            "encryption": Encryption.NONE,
            "serves": serves,
            "registries": () if self.registry is None else (NamedRegistry(REGISTRY),),
            "bootstrap": Mode.NEVER,
            "beacon_port": None,
        }
        node = self.nodes[name] = NodeService(
            host.reactor,
            NodeSettings(**{**settings, **more}),  # type: ignore[arg-type]  # as the fields have it
            random=Random(number),
            run_blocking=host.run_blocking,
            local_addresses=lambda: [],
        )
        node.startService()
        return node

    def leave(self, name: str) -> None:
        """Stop a node."""
        self.network.result(self.nodes.pop(name).stopService(), limit=60)

    def get(self, name: str, *of: str, **more: object) -> Deferred[Fetched]:
        """Let a node fetch the content, told of the addresses of some others."""
        known = [Candidate(HostPort(self.hosts[each], DEFAULT_PORT)) for each in of]
        return self.nodes[name].fetching.get(
            self.root,
            known=known,
            target=Target(str(self.folder / name / "downloads")),
            **more,  # type: ignore[arg-type]  # as get has it
        )

    def settle(self, seconds: float = 5.0) -> None:
        """Let everybody hash, register, and tell what there is."""
        self.network.run(seconds)

    def check(self, name: str) -> None:
        """The content must have come whole."""
        path = self.folder / name / "downloads" / NAME
        self.test.assertEqual(path.read_bytes(), self.content)


def by_the_seed(fetched: Iterable[Fetched]) -> int:
    """How many bytes the first node has sent."""
    return sum(
        count
        for each in fetched
        for who, count in each.sent
        if who.address == HostPort("10.0.0.1", DEFAULT_PORT)
    )


class SwarmTests(SynchronousTestCase):
    """Those who fetch the same at the same time fetch it from each other as well."""

    def fetch_at_once(self, town: Town, names: Sequence[str], *of: str, **more: object) -> int:
        """Let some fetch it at the same time; tell how much the seed has sent."""
        fetching = [town.get(name, *of, **more) for name in names]
        fetched = town.network.result(gatherResults(fetching), limit=600)
        for name in names:
            town.check(name)
        return by_the_seed(fetched)

    def test_by_the_registry(self) -> None:
        """Nodes that download are found through the registry, and serve what they have."""
        town = Town(self).with_registry()
        town.node("seed", has_it=True)
        names = [f"leecher{n}" for n in range(4)]
        for name in names:
            town.node(name)
        town.settle()
        self.assertLess(self.fetch_at_once(town, names), 2 * len(town.content))

    def test_by_the_source(self) -> None:
        """
        Without any registry, and without serving anything else, downloads that only know the same
        source find each other: it tells them of each other.
        """
        town = Town(self)
        town.node("seed", has_it=True)
        names = ["ann", "ben", "eve"]
        for name in names:
            town.node(name, serves=False)
        town.settle()
        self.assertLess(self.fetch_at_once(town, names, "seed"), 2 * len(town.content))

    def test_encrypted(self) -> None:
        """The same with TLS, where each proves to be whom the source has told of."""
        town = Town(self, 48)
        town.node("seed", has_it=True, encryption=Encryption.TLS)
        names = ["ann", "ben", "eve"]
        for name in names:
            town.node(name, serves=False, encryption=Encryption.TLS)
        town.settle()
        self.assertLess(self.fetch_at_once(town, names, "seed"), 2 * len(town.content))

    def test_not_offered(self) -> None:
        """Whoever does not want to pass anything on neither listens nor is told of."""
        town = Town(self, 24)
        town.node("seed", has_it=True)
        names = ["ann", "ben"]
        for name in names:
            town.node(name, serves=False, offer_downloads=False)
        town.settle()
        self.assertEqual(self.fetch_at_once(town, names, "seed"), 2 * len(town.content))
        self.assertEqual([town.nodes[name].port for name in names], [0, 0])

    def test_from_one(self) -> None:
        """Whoever names one peer to ask gets all of it from that one, and passes nothing on."""
        town = Town(self, 24)
        town.node("seed", has_it=True)
        names = ["ann", "ben"]
        for name in names:
            town.node(name, serves=False)
        town.settle()
        sent = self.fetch_at_once(town, names, peer=f"10.0.0.1:{DEFAULT_PORT}")
        self.assertEqual(sent, 2 * len(town.content))
        self.assertEqual([town.nodes[name].port for name in names], [0, 0])

    def test_restricted(self) -> None:
        """What not everyone may see is not passed on."""
        town = Town(self, 24)
        names = ["ann", "ben"]
        for name in names:
            town.node(name, serves=False, encryption=Encryption.TLS)
        allowed = tuple(town.nodes[name].introduction.node for name in names)
        town.node("seed", has_it=True, encryption=Encryption.TLS, allow=allowed)
        town.settle()
        self.fetch_at_once(town, names, "seed")
        self.assertEqual([town.nodes[name].port for name in names], [0, 0])

    def test_source_leaves(self) -> None:
        """
        When the only source that was known leaves, the others of whom it had told go on; and when
        nobody is left, the download ends with why, and goes on from there with another.
        """
        town = Town(self, 48)
        town.node("seed", has_it=True)
        town.node("ann", serves=False)
        town.node("ben", serves=False)
        town.settle()
        first = town.get("ann", "seed")
        town.network.run(2)
        fetching = town.get("ben", "seed")
        town.network.result(first, limit=600)
        self.assertFalse(fetching.called)
        town.leave("seed")
        fetched = town.network.result(fetching, limit=600)
        town.check("ben")
        self.assertLess(by_the_seed([fetched]), 47 * BLOCK)
        self.assertIsNotNone(fetched.md5)

    def test_nobody_left(self) -> None:
        """When nobody is left, and nobody else is found, the download ends, and says why."""
        town = Town(self, 48)
        town.node("seed", has_it=True)
        town.node("ben", serves=False)
        town.settle()
        stored: list[int] = []
        fetching = town.get("ben", "seed", progress=lambda download: stored.append(download.stored))
        town.network.run_until(lambda: bool(stored) and stored[-1] > 20 * BLOCK, limit=600)
        town.leave("seed")
        failed = fetching.addErrback(lambda failure: failure.trap(Flow512Error) and failure.value)
        error = town.network.result(failed, limit=60)
        self.assertIsInstance(error, Flow512Error)

    def test_no_place(self) -> None:
        """
        When all places are taken by those who have nothing of what is missing, there is one for the
        seed that comes back.
        """
        self.patch(gathering, "MOST_SOURCES", 2)
        town = Town(self, 48).with_registry()
        town.node("seed", has_it=True)
        stored = dict.fromkeys(("ann", "ben", "cat"), 0)
        for name in stored:
            town.node(name)
        town.settle()

        def note(name: str, bytes_stored: int) -> None:
            stored[name] = bytes_stored

        fetching = [
            town.get(name, "seed", progress=lambda each, name=name: note(name, each.stored))
            for name in stored
        ]
        town.network.run_until(lambda: min(stored.values()) > 8 * BLOCK, limit=600)
        town.leave("seed")
        town.network.run(5)
        town.node("again", has_it=True)
        for each in town.network.result(gatherResults(fetching), limit=900):
            self.assertEqual(Path(each.path).read_bytes(), town.content)

    def test_no_hope(self) -> None:
        """
        Who has only parts that are not enough, and others who are told of and cannot be reached,
        do not keep a download waiting for ever.
        """
        town = Town(self, 48)
        town.node("seed", has_it=True)
        for name in ("ann", "ben"):
            town.node(name, serves=False)
        town.settle()
        stored: list[int] = []
        fetching = [
            town.get("ann", "seed", progress=lambda download: stored.append(download.stored)),
            town.get("ben", "seed"),
        ]
        seed = town.nodes["seed"]
        town.network.run_until(lambda: bool(stored) and stored[-1] > 8 * BLOCK, limit=600)
        nobody = Peer(bytes(32), "", "10.0.0.77", 5000)
        seed_holders = seed.sharing.holders  # it tells of somebody who is not there
        seed_holders.note("nobody", tree_of(town.content).root, nobody)
        town.network.run(3)
        town.leave("seed")
        errors = [
            each.addErrback(lambda failure: failure.trap(Flow512Error) and failure.value)
            for each in fetching
        ]
        for error in town.network.result(gatherResults(errors), limit=600):
            self.assertIsInstance(error, Flow512Error)


class Teller:
    """A source that says which blocks it has, and nothing else."""

    is_open = True

    def watch(self, root: bytes, told: Callable[[Blocks], None]) -> Deferred[None]:
        """Take who is to be told."""
        self.tell = told
        return Deferred()

    def leave(self) -> None:
        """Go."""
        self.is_open = False


class BoundTests(SynchronousTestCase):
    """What a source may cost."""

    def test_too_many_runs(self) -> None:
        """A source that tells of ever more blocks that lie apart is left, and tells no further."""
        size = 2**40
        teller = Teller()
        entry = Entry("film.mkv", size, 0, bytes(32), is_partial=True)
        download = mock.Mock(size=size, stored=size, root=bytes(32))
        clock = Clock()
        gathering = Gathering(
            mock.Mock(), clock, Random(1), exchange=None, told=lambda download: None
        )
        found = Found(Candidate(HostPort("10.0.0.1", 5000)), cast(SourceProtocol, teller), entry)
        gathering.begin_with([found])
        gathering.progress(download)
        for first in range(0, 2 * MOST_RUNS, 1600):
            runs = [(block, 1) for block in range(first, min(first + 1600, 2 * MOST_RUNS), 2)]
            teller.tell(Blocks(tuple(runs)))
        self.assertTrue(teller.is_open)
        heard = download.has.call_count
        teller.tell(Blocks(((2 * MOST_RUNS, 1),)))
        self.assertFalse(teller.is_open)
        self.assertEqual(download.has.call_count, heard)
        gathering.end()
        self.assertEqual(clock.getDelayedCalls(), [])


class Answering(Teller):
    """A source that has all, and says how much that is."""

    patience = Patience()
    agreement = None

    def __init__(self, size: int) -> None:
        self.size = size
        self.knows: tuple[Peer, ...] = ()

    def stat(self, path: str = "", root: bytes | None = None) -> Deferred[Entry]:
        """Tell of the file."""
        return succeed(Entry(NAME, self.size, 0, root))

    def who(self, root: bytes, port: int = 0) -> Deferred[tuple[Peer, ...]]:
        """Tell of those whom it knows."""
        return succeed(self.knows)


class DialTests(SynchronousTestCase):
    """Who is dialled of those whom the registry tells of."""

    SIZE = 2**40

    def setUp(self) -> None:
        self.clock = Clock()
        self.download = mock.Mock(size=self.SIZE, stored=0, root=bytes(32), blamed=[])
        self.dialled: list[str] = []
        self.answering: dict[str, Answering] = {}
        self.away: set[str] = set()
        self.first = Answering(self.SIZE)

    def gather(self, peers: Sequence[Peer], may_dial: Callable[[Peer], bool]) -> Gathering:
        """Begin a download that has one source, and a registry that tells of others."""

        async def connect(candidate: Candidate) -> SourceProtocol:
            assert isinstance(candidate.address, HostPort)
            host = candidate.address.host
            self.dialled.append(host)
            if host in self.away:
                raise PeerLost("It is not there.")
            return cast(SourceProtocol, self.answering.setdefault(host, Answering(self.SIZE)))

        exchange = Exchange(lambda root: succeed(tuple(peers)), may_dial, KnownHolders(), Limits())
        gathering = Gathering(
            connect, self.clock, Random(1), exchange=exchange, told=lambda download: None
        )
        first = cast(SourceProtocol, self.first)
        entry = Entry(NAME, self.SIZE, 0, bytes(32))
        gathering.begin_with([Found(Candidate(HostPort("10.0.0.1", 5000)), first, entry)])
        gathering.progress(self.download)
        self.addCleanup(gathering.end)
        return gathering

    def peer(self, number: int) -> Peer:
        """Somebody."""
        return Peer(bytes([number]) * 32, "", f"10.0.{number}.2", 5000)

    def added(self) -> list[str]:
        """The hosts of the sources that the download was given."""
        return [call.args[0].address.host for call in self.download.add.call_args_list]

    def test_who_may(self) -> None:
        """Nobody is dialled with whom this node does not speak, such as one who is banned."""
        peers = [self.peer(number) for number in range(2, 6)]
        self.gather(peers, lambda peer: peer != peers[1])
        wanted = sorted(peer.host for peer in peers if peer != peers[1])
        self.assertEqual(sorted(self.dialled), wanted)
        self.assertEqual(sorted(self.added()), wanted)

    def test_another_size(self) -> None:
        """Who has another size of it is left, and no source."""
        peers = [self.peer(number) for number in (2, 3)]
        liar = self.answering[peers[0].host] = Answering(self.SIZE + 1)
        self.gather(peers, lambda peer: True)
        self.assertEqual(self.added(), [peers[1].host])
        self.assertFalse(liar.is_open)

    def test_once_more(self) -> None:
        """Who went away is dialled again after a while; who sent something wrong never is."""
        peers = [self.peer(number) for number in (2, 3)]
        self.gather(peers, lambda peer: True)
        blamed = self.download.add.call_args_list[0].args[0]
        self.download.blamed = [(blamed, BadDigest("It was wrong."))]
        for each in self.answering.values():
            each.is_open = False
        self.dialled.clear()
        for _ in range(int(20 * RETRY)):
            self.clock.advance(1)
            self.answering = {}
        other = next(peer.host for peer in peers if peer.host != blamed.address.host)
        self.assertEqual(set(self.dialled), {other})

    def test_told_by_a_source(self) -> None:
        """One who runs on the machine of a source that tells of him is dialled there, not here."""
        self.first.knows = (Peer(b"n" * 32, "", "127.0.0.1", 5001),)
        self.gather((), lambda peer: True)
        self.assertEqual(self.dialled, ["10.0.0.1"])

    def test_told_of_many(self) -> None:
        """
        Of those for whom there is no place yet, only so many are remembered: who tells of ever more
        fills no memory here.
        """
        self.patch(gathering, "MOST_SOURCES", 1)
        self.patch(gathering, "MOST_TOLD", 5)
        peers = [self.peer(number) for number in range(2, 12)]
        self.away = {peer.host for peer in peers}
        self.gather(peers, lambda peer: True)
        self.assertEqual(self.dialled, [])
        peers.clear()  # nobody tells of them again
        self.first.is_open = False
        self.clock.advance(RETRY)
        self.assertEqual(len(set(self.dialled)), 5)
