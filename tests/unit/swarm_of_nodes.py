"""
A swarm of whole nodes in bad weather: some have a file, the others fetch it, and meanwhile nodes
stop and start again, hosts are slow or silent, the network parts, disks fill up, and strangers lie.

A L{Simulation} has one seed, which decides all of it. After L{Simulation.run} the weather is over,
everybody has tried long enough, everything has been stopped, and nothing was left open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.task import deferLater

from flow512.content.disk import DISK
from flow512.content.paths import is_own_name
from flow512.content.tree import format_content_id
from flow512.discovery.election import Mode
from flow512.errors import Flow512Error
from flow512.link.named_registry import NamedRegistry
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import NodeSettings
from flow512.testing import Host, Network
from flow512.transfer.fetch import Fetched, Target
from flow512.transfer.finding import Candidate
from flow512.units import BLOCK
from tests.unit.bad_company import NAME, REGISTRY, STRANGERS, Stranger
from tests.unit.offered_files import tree_of

NODES: Final = (2, 2, 3, 3, 4, 4, 5, 6, 8, 10, 13, 16, 24, 32, 48, 64)
_SMALL: Final = (1, 512, 70_000, BLOCK - 1, BLOCK, BLOCK + 1)
_LARGE: Final = (2 * BLOCK + 512, 3 * BLOCK + 5, 7 * BLOCK, 12 * BLOCK + 1, 30 * BLOCK + 77)
SIZES: Final = (*_SMALL, *_LARGE, *_LARGE, *_LARGE)
MOST_BYTES: Final = 200 * BLOCK
"""What all nodes of one simulation hold together in the end, at most: all of it goes by here."""

LATENCIES: Final = ((0.001, 0.01), (0.02, 0.08), (0.0, 0.3))
LEAST_BANDWIDTH: Final = 20_000
"""Bytes a second of the slowest host: enough for the talk beside the files."""

ALL_WITHIN: Final = 300.0
"""Seconds in which each host could send the file to everyone, one after the other."""

MOST_DESERTED: Final = 16
"""Nodes of a simulation, at most, in which all may leave that had the file from the beginning."""

TRIES: Final = 10
"""How often a node tries in good weather; enough for the longest wait of a registry's client."""

WAIT: Final = (5.0, 30.0)
"""Seconds between two tries, at least and at most."""

RESCAN: Final = 10.0
STOPS_WITHIN: Final = 30.0
"""Seconds that a node may take to stop, whatever is the matter with its peers."""

ENDS_WITHIN: Final = 2 * 3600.0
"""Seconds after which a node that has neither the file nor an error counts as hanging."""


class Room:
    """
    How much room there is on the disk of one node.

    @ivar left: bytes that it takes; L{None} for as many as come.
    """

    left: int | None = None

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do the work of a worker on this disk."""
        # The hosts share one process and one thread, so while this runs, no other node writes.
        with mock.patch.object(DISK, "pwritev", self._pwritev):
            return function(*args, **kwargs)

    def _pwritev(self, fd: int, parts: Sequence[memoryview], offset: int) -> int:
        if self.left is not None:
            size = sum(map(len, parts))
            if size > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= size
        return os.pwritev(fd, parts, offset)


class Member:
    """
    An honest node.

    @ivar has_all: whether it has the file from the beginning.
    @ivar room: its disk.
    @ivar absences: when it stops, and when it starts again, in order; C{inf} for never.
    @ivar is_cut_off: whether nothing reaches it in the end.
    @ivar fetched: what it fetched.
    @ivar error: why its latest try failed.
    @ivar service: what runs there, or has run last.
    """

    def __init__(self, simulation: Nodes, number: int, has_all: bool) -> None:
        self.simulation = simulation
        self.has_all = has_all
        self.room = Room()
        self.absences: list[tuple[float, float]] = []
        self.is_cut_off = False
        self.fetched: Fetched | None = None
        self.error: Flow512Error | None = None
        self.host = simulation.network.host(f"10.0.0.{number}", name=f"member{number}")
        self.folder = simulation.folder / f"member{number}"
        self.downloads = self.folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.share = self.folder / "share"
        self.share.mkdir()
        if has_all:
            file = self.share / NAME
            file.write_bytes(simulation.content)
            os.utime(file, ns=(10**18, 10**18))
        self.service = self._make()
        self._tries_left = TRIES
        self._trying: Deferred[None] = succeed(None)
        self._waiting: Deferred[None] | None = None

    def _make(self) -> NodeService:
        simulation = self.simulation
        # A key of its own has randomness of its own, so only what is encrypted anyway keeps it.
        keeps_state = simulation.encryption is Encryption.TLS
        return NodeService(
            self.host.reactor,
            NodeSettings(
                shares=(str(self.share),),
                downloads=str(self.downloads),
                state=str(self.folder / "state") if keeps_state else None,
                name=self.host.name,
                encryption=simulation.encryption,
                registries=(NamedRegistry(REGISTRY),),
                bootstrap=Mode.NEVER,
                beacon_port=None,
                rescan=RESCAN,
            ),
            random=Random(simulation.random.random()),
            run_blocking=lambda function, *args, **kwargs: self.host.run_blocking(
                self.room.run, function, *args, **kwargs
            ),
            local_addresses=list,
            reads_cached=simulation.reads_cached,
        )

    async def live(self, begin: float) -> None:
        """
        Start, and be away when it is to be.

        @param begin: when to start.
        """
        await self.simulation.sleep_until(begin)
        self._start()
        for begin, end in self.absences:
            await self.simulation.sleep_until(begin)
            await self.stop()
            if end == inf:
                return
            await self.simulation.sleep_until(end)
            self._start()

    @property
    def leaves(self) -> bool:
        """Whether it is not there in the end."""
        return any(end == inf for _, end in self.absences)

    @property
    def is_full(self) -> bool:
        """Whether its disk has too little room for the file."""
        return self.room.left is not None

    def _start(self) -> None:
        self.service.startService()
        if not self.has_all and self.fetched is None:
            self._trying = Deferred.fromCoroutine(self._try(self.service))

    async def stop(self) -> None:
        """
        Stop.

        @raise AssertionError: something is left open.
        """
        if not self.service.running:
            return
        stopping = self.service.stopService()
        if self._waiting is not None:
            self._waiting.cancel()
        await stopping.addTimeout(STOPS_WITHIN, self.simulation.network.clock)
        await self._trying
        await self.simulation.sleep(0.0)  # what was aborted is gone in the next turn
        left = self.host.left_over()
        assert not left, left
        if self.simulation.random.random() < 0.5:
            self.service = self._make()

    async def has_ended(self) -> None:
        """Wait until it has the file, or has given up."""
        await self._trying

    async def _try(self, service: NodeService) -> None:
        simulation = self.simulation
        while self._tries_left:
            self._tries_left -= simulation.is_calm
            try:
                self.fetched = await service.fetching.get(
                    format_content_id(simulation.root),
                    target=Target(str(self.downloads)),
                    blame=lambda who, reason: simulation.blamed.append(who),
                )
            except Flow512Error as error:
                self.error = error
            except CancelledError:
                assert not service.running
            if self.fetched is not None or not service.running:
                return
            self._waiting = simulation.sleep(simulation.random.uniform(*WAIT))
            try:
                await self._waiting
            except CancelledError:
                return
            finally:
                self._waiting = None

    def published(self) -> dict[str, bytes]:
        """Read what others can see in its downloads folder, by name."""
        return {
            file.name: file.read_bytes()
            for file in self.downloads.iterdir()
            if not is_own_name(file.name)
        }


class Nodes:
    """
    A registry and honest nodes, of which some have a file.

    @ivar members: those nodes.
    @ivar root: the file's content id.
    @ivar blamed: whom they blamed for what they were sent.
    @ivar is_calm: whether each failure counts; see L{TRIES}.
    """

    def __init__(
        self,
        random: Random,
        folder: Path,
        content: bytes,
        count: int,
        have_all: int,
        encryption: Encryption = Encryption.NONE,
        *,
        reads_cached: bool = False,
    ) -> None:
        """
        @param random: decides everything.
        @param folder: an empty one.
        @param content: the file.
        @param count: how many nodes there are.
        @param have_all: how many of them have it from the beginning.
        @param reads_cached: whether they read without workers what is in memory.
        """
        self.reads_cached = reads_cached
        self.random = random
        self.network = Network(random.randrange(1 << 32))
        self.folder = folder
        self.content = content
        self.encryption = encryption
        self.root = tree_of(content).root
        self.is_calm = False
        self.blamed: list[Candidate] = []
        registry_host = self.network.host(REGISTRY.host, name="registry")
        self.registry = RegistryService(
            registry_host.reactor,
            RegistrySettings(name="registry", encryption=encryption, beacon_port=None),
            random=Random(random.random()),
            run_blocking=registry_host.run_blocking,
            local_addresses=list,
        )
        self.registry.startService()
        self.members = [Member(self, number + 1, number < have_all) for number in range(count)]

    def sleep(self, seconds: float) -> Deferred[None]:
        """Wait, on the test's own clock."""
        return deferLater(self.network.clock, seconds, lambda: None)

    def sleep_until(self, time: float) -> Deferred[None]:
        """Wait until then; not at all if that is past."""
        return self.sleep(max(0.0, time - self.network.clock.seconds()))

    def wait_for_all(self, limit: float = ENDS_WITHIN) -> None:
        """Let time pass until every member has the file, or has given up."""
        self.is_calm = True
        ended = [Deferred.fromCoroutine(each.has_ended()) for each in self.members]
        self.network.result(gatherResults(ended), limit)

    def stop(self, others: Sequence[Stranger] = ()) -> None:
        """Stop everything; nothing may be left open."""
        stopped = [Deferred.fromCoroutine(each.stop()) for each in (*self.members, *others)]
        self.network.result(gatherResults(stopped), limit=2 * STOPS_WITHIN)
        self.network.result(self.registry.stopService(), limit=STOPS_WITHIN)
        self.network.assert_quiet()


class Simulation(Nodes):
    """
    One swarm of one seed.

    @ivar strangers: the nodes that are not honest.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        random = Random(seed)
        count = random.choice(NODES)
        super().__init__(
            random,
            folder,
            random.randbytes(random.choice([size for size in SIZES if size * count <= MOST_BYTES])),
            count,
            1 + random.randrange(max(1, count // 4)),
            # OpenSSL has randomness of its own, so what is encrypted does not repeat to the byte.
            Encryption.TLS if seed % 5 == 4 else Encryption.NONE,
            reads_cached=seed % 2 == 1,
        )
        self.network.latency = random.choice(LATENCIES)
        self._partitions: list[tuple[Sequence[Host], Sequence[Host]]] = []
        self.strangers = [
            self._stranger(number) for number in range(random.randrange(1 + min(6, count)))
        ]

    def _stranger(self, number: int) -> Stranger:
        kind = self.random.choice(STRANGERS)
        folder = self.folder / f"stranger{number}"
        folder.mkdir()
        host = self.network.host(f"10.0.1.{number + 1}", name=f"{kind.__name__}{number}")
        return kind(host, folder, self.content, self.encryption, Random(self.random.random()))

    def run(self) -> None:
        """
        Let there be weather, then none; wait until everybody has ended; stop everything.
        """
        weather = self.random.choice((5.0, 20.0, 90.0))
        self._slow_down(weather)
        for plan in (self._plan_absences, self._plan_silence, self._plan_partitions):
            plan(weather)
        self._fill_disks(weather)
        lives = [
            Deferred.fromCoroutine(each.live(self.random.uniform(0.0, weather / 4)))
            for each in self.members
        ]
        self.network.run(weather)
        self.network.result(gatherResults(lives), limit=2 * STOPS_WITHIN)
        self.wait_for_all()
        self.stop(self.strangers)

    # The weather

    def _spells(self, weather: float, share: float) -> Iterator[tuple[Member, float, float]]:
        """Choose members that something happens to, and from when to when."""
        for member in self.members:
            if self.random.random() < share:
                begin = self.random.uniform(0.0, weather)
                yield member, begin, self.random.uniform(begin, weather)

    def _at(self, time: float, what: Callable[..., object], *args: object) -> None:
        self.network.clock.callLater(time, what, *args)

    def _slow_down(self, weather: float) -> None:
        # So slow that there is time enough for something to happen while the file comes.
        size, count = len(self.content), len(self.members)
        least = max(LEAST_BANDWIDTH, count * size / ALL_WITHIN)
        for host in self.network.hosts[1:]:
            if self.random.random() < 0.7:
                host.bandwidth = max(size / self.random.uniform(0.1, weather / 3), least)

    def _plan_absences(self, weather: float) -> None:
        for member, begin, end in self._spells(weather, self.random.choice((0.0, 0.3, 0.8))):
            member.absences.append((begin, end))
            while self.random.random() < 0.4:
                begin = self.random.uniform(end, weather)
                end = self.random.uniform(begin, weather)
                member.absences.append((begin, end))
        # If nobody has the file any more, each try asks everybody, which takes long where many are.
        if len(self.members) <= MOST_DESERTED and self.random.random() < 0.25:
            for member in self.members:
                if member.has_all:
                    member.absences = [(self.random.uniform(0.0, weather), inf)]

    def _plan_silence(self, weather: float) -> None:
        for member, begin, end in self._spells(weather, self.random.choice((0.0, 0.2))):
            member.is_cut_off = not member.has_all and self.random.random() < 0.3
            others = [host for host in self.network.hosts if host is not member.host]
            self._part(begin, inf if member.is_cut_off else end, [member.host], others)

    def _plan_partitions(self, weather: float) -> None:
        for _ in range(self.random.randrange(3)):
            hosts = list(self.network.hosts)
            self.random.shuffle(hosts)
            here = self.random.randrange(1, len(hosts))
            begin = self.random.uniform(0.0, weather)
            end = self.random.uniform(begin, weather)
            self._part(begin, end, hosts[:here], hosts[here:])

    def _part(self, begin: float, end: float, here: Sequence[Host], there: Sequence[Host]) -> None:
        groups = (here, there)
        self._at(begin, self._partitions.append, groups)
        self._at(begin, self._conditions_changed)
        if end < inf:
            self._at(end, self._partitions.remove, groups)
            self._at(end, self._conditions_changed)

    def _conditions_changed(self) -> None:
        self.network.heal()
        for groups in self._partitions:
            self.network.partition(*groups)

    def _fill_disks(self, weather: float) -> None:
        for member, begin, end in self._spells(weather, self.random.choice((0.0, 0.3))):
            left = self.random.randrange(len(self.content))
            if self.random.random() < 0.4:
                member.room.left = left
            else:
                self._at(begin, setattr, member.room, "left", left)
                self._at(end, setattr, member.room, "left", None)
