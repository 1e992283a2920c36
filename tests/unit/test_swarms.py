"""
Swarms in memory: one node fetches one file from several sources, of which some are slow, silent,
lie, or go away.

The seed decides everything. C{FLOW512_SWARM_SEEDS} says which are tried, from first to last.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Flow512Error
from flow512.link.address import HostPort, client_endpoint
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.testing import Network
from flow512.transfer.blocks import Sink
from flow512.transfer.fetch import Fetched, Fetcher, Target
from flow512.transfer.finding import Candidate, Found
from flow512.transfer.proof import Claim
from flow512.transfer.server import TransferFactory
from flow512.transfer.source import SourceFactory, connect_source
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import BufferPool
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import OURS, THEIRS, Shelf

SEEDS = range(*map(int, os.environ.get("FLOW512_SWARM_SEEDS", "0:20").split(":")))
SIZES = (1, 512, BLOCK - 1, BLOCK, 3 * BLOCK + 5, 12 * BLOCK, 30 * BLOCK + 77)
KINDS = ("honest", "honest", "slow", "silent", "liar", "wrong page", "wrong size", "leaver")


class Silent:
    """A source that is there, and says nothing."""

    def __init__(self) -> None:
        self.buffers = BufferPool({BLOCK: 4})
        self.patience = Patience()
        self.is_held_back = False
        self.was_left = False

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        """Say nothing."""
        return Deferred()

    def checksum(self, root: bytes) -> Deferred[bytes]:
        """Say nothing."""
        return Deferred()

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        """Say nothing."""
        return Deferred()

    def leave(self) -> None:
        """Say nothing."""
        self.was_left = True


class SilentFound:
    """What a silent source once said of a file."""

    def __init__(self, candidate: Candidate, entry: Entry) -> None:
        self.candidate = candidate
        self.source = Silent()
        self.entry = entry


class Simulation:
    """
    One swarm of one seed.

    @ivar kinds: what each source is like.
    @ivar liars: those who are to blame if anybody is.
    """

    def __init__(
        self, seed: int, folder: Path, kinds: Sequence[str] = (), size: int | None = None
    ) -> None:
        """
        @param kinds: what the sources are like; the seed decides unless given.
        @param size: bytes of the content; likewise.
        """
        self.random = Random(seed)
        self.network = Network(seed)
        self.here = self.network.host("10.0.0.200", name="here")
        self.folder = folder
        (folder / "downloads").mkdir()
        self.content = self.random.randbytes(self.random.choice(SIZES) if size is None else size)
        self.kinds = list(kinds) or [
            self.random.choice(KINDS) for _ in range(self.random.randrange(1, 7))
        ]
        self.shelves: list[Shelf] = []
        self.factories: list[TransferFactory] = []
        self.ports: list[IListeningPort] = []
        self.blamed: list[Candidate] = []
        self.liars: set[Candidate] = set()
        self.found: list[Claim] = [self.source(*each) for each in enumerate(self.kinds)]

    def source(self, number: int, kind: str) -> Claim:
        """Make a source, and connect to it."""
        address = HostPort(f"10.0.0.{number + 1}", 5000)
        candidate = Candidate(address, f"{kind} {number}", THEIRS)
        host = self.network.host(address.host, name=f"host{number}")
        share = self.folder / f"share{number}"
        share.mkdir()
        shelf = Shelf(share)
        self.shelves.append(shelf)
        shelf.put("file", self.content)
        entry = shelf.stat("file")
        if kind == "silent":
            return SilentFound(candidate, entry)
        factory = TransferFactory(
            shelf, Introduction(THEIRS, kind), host.reactor, host.run_blocking, reads_cached=False
        )
        self.factories.append(factory)
        listening = serverFromString(host.reactor, "tcp:5000").listen(factory)
        self.ports.append(self.network.result(listening))
        connecting = connect_source(
            client_endpoint(self.here.reactor, address),
            SourceFactory(Introduction(OURS, "here"), self.here.reactor),
        )
        source = self.network.result(Deferred.fromCoroutine(connecting))
        if kind == "slow":
            host.bandwidth = self.random.choice([50_000, 500_000])
        elif kind == "leaver":
            self.here.reactor.callLater(
                self.random.uniform(0, 0.3), self.network.cut, self.here, host
            )
        elif kind == "liar":
            self.liars.add(candidate)
            shelf.read_hook = self.lie(self.random.randrange(1, 6))
        elif kind == "rare liar":
            self.liars.add(candidate)
            shelf.read_hook = self.lie_rarely
        elif kind == "wrong page":
            self.liars.add(candidate)
            page = shelf.page
            shelf.page = lambda *args: bytes(len(page(*args)))  # type: ignore[method-assign]  # it lies
        elif kind == "wrong size":
            self.liars.add(candidate)
            wrong = max(0, entry.size + self.random.choice([-1, 1, BLOCK, -BLOCK]))
            entry = Entry(entry.path, wrong, entry.mtime, entry.root)
        return Found(candidate, source, entry)

    def lie(self, every: int) -> Callable[[int, bytes], bytes]:
        """Make what corrupts one block in so many."""

        def hook(offset: int, data: bytes) -> bytes:
            if (offset // BLOCK) % every or not data:
                return data
            return data[:-1] + bytes([data[-1] ^ 1])

        return hook

    def lie_rarely(self, offset: int, data: bytes) -> bytes:
        """Corrupt one piece in a thousand."""
        corrupted = bytearray(data)
        for start in range(0, len(data), PIECE):
            if Random((offset + start) // PIECE).random() < 0.001:
                corrupted[start] ^= 1
        return bytes(corrupted)

    def run(self) -> Fetched | Flow512Error:
        """Fetch, and stop everything."""
        run_blocking = self.here.run_blocking
        fetcher = Fetcher(self.here.reactor, run_blocking, run_blocking, self.random)
        fetching = Deferred.fromCoroutine(
            fetcher.fetch(
                self.found,
                Target(str(self.folder / "downloads")),
                blame=lambda who, reason: self.blamed.append(who),
            )
        )
        outcome: Fetched | Flow512Error
        try:
            outcome = self.network.result(fetching, limit=2000)
        except Flow512Error as error:
            outcome = error
        for each in self.found:
            each.source.leave()
        self.network.heal()
        self.network.result(
            gatherResults([maybeDeferred(port.stopListening) for port in self.ports])
        )
        self.network.result(gatherResults([each.stop() for each in self.factories]), limit=200)
        self.network.run(400.0)
        self.network.assert_quiet()
        for shelf in self.shelves:
            assert shelf.open_now == 0
            shelf.shut()
        return outcome


class SwarmsTests(SynchronousTestCase):
    """Downloads from many sources."""

    def test_exact_or_an_error(self) -> None:
        """
        Whatever the seed: if an honest source stays, the file is exact; if not, it is exact or
        not there, and the error is one of ours. Nobody honest is blamed, and all liars that were
        asked for what they lie about are found out.
        """
        for seed in SEEDS:
            with self.subTest(seed=seed):
                self.simulate(seed)

    def simulate(self, seed: int) -> None:
        """Try one seed."""
        with tempfile.TemporaryDirectory() as folder:
            simulation = Simulation(seed, Path(folder))
            outcome = simulation.run()
            target = Path(folder) / "downloads" / "file"
            has_honest = bool({"honest", "slow"} & set(simulation.kinds))
            if has_honest or isinstance(outcome, Fetched):
                self.assertIsInstance(outcome, Fetched, f"{simulation.kinds}: {outcome}")
                self.assertEqual(target.read_bytes(), simulation.content)
            else:
                self.assertFalse(target.exists())
                self.assertTrue(str(outcome))
            self.assertLessEqual(set(simulation.blamed), simulation.liars)
            self.assertEqual(len(simulation.blamed), len(set(simulation.blamed)))
            if isinstance(outcome, Fetched):
                sent = sum(count for _, count in outcome.sent)
                # What was wrong, or came twice, is nobody's part of the file.
                self.assertEqual(sent, len(simulation.content))
                self.assertLessEqual(sent, outcome.fetched)

    def test_one_piece_in_a_thousand(self) -> None:
        """
        Of four sources one corrupts one piece in a thousand: the file is exact, it is named, and at
        most 2 % of the bytes are fetched twice.
        """
        kinds = ("honest", "honest", "rare liar", "honest")
        for seed in range(5):
            with self.subTest(seed=seed), tempfile.TemporaryDirectory() as folder:
                simulation = Simulation(seed, Path(folder), kinds, 200 * BLOCK + 77)
                outcome = simulation.run()
                assert isinstance(outcome, Fetched)
                target = Path(folder) / "downloads" / "file"
                self.assertEqual(target.read_bytes(), simulation.content)
                self.assertEqual(set(simulation.blamed), simulation.liars)
                self.assertLessEqual(outcome.fetched, 1.02 * len(simulation.content))
