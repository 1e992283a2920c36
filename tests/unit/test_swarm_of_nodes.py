"""
Swarms of 2 to 64 whole nodes in memory, with a registry, in bad weather.

The seed decides everything; see L{tests.unit.swarm_of_nodes}. C{FLOW512_SWARM_OF_NODES_SEEDS} says
which are tried, from first to last.
"""

from __future__ import annotations

import contextlib
import gc
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred, gatherResults, getDebugging, setDebugging
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import NOBODY
from flow512.content.cached import Cached
from flow512.errors import DiskFull, NoSuchPeer
from flow512.transfer.pace import Source
from flow512.units import BLOCK
from tests.unit.bad_company import NAME
from tests.unit.swarm_of_nodes import ENDS_WITHIN, Member, Nodes, Simulation

SEEDS = range(*map(int, os.environ.get("FLOW512_SWARM_OF_NODES_SEEDS", "1:8").split(":")))

KEPT = (53,)
"""
Seeds that have found something. 53: those who have parts, and others who are found to be of no use
again and again, kept a download waiting for ever.
"""


def open_files() -> int:
    """Count the descriptors of files and folders."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # of what lists them
            mode = os.fstat(int(name)).st_mode
            count += stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return count


def fill_mostly(random: Random) -> Callable[[Cached, int, Sequence[bytearray]], bool]:
    """Stand for L{Cached.fill} on a system that has most of what is read in memory."""

    def fill(file: Cached, offset: int, rooms: Sequence[bytearray]) -> bool:
        return random.random() < 0.8 and os.preadv(file._fd, rooms, offset) == sum(map(len, rooms))

    return fill


class NodesTestCase(SynchronousTestCase):
    """Tests in which a great many Deferreds are made."""

    def setUp(self) -> None:
        # To note where each Deferred was made takes longer than all the rest together.
        self.addCleanup(setDebugging, getDebugging())
        setDebugging(False)


class SwarmOfNodesTests(NodesTestCase):
    """Whole nodes fetch a file from each other, whatever happens."""

    def simulate(self, seed: int) -> Simulation:
        """Try one seed."""
        open_before = open_files()
        with tempfile.TemporaryDirectory() as folder:
            simulation = Simulation(seed, Path(folder))
            # Lines here are slow, so by itself nobody would ask for several blocks in a frame.
            together = (1, 2, 4)[seed % 3]
            self.patch(Source, "together", together)
            self.patch(Cached, "look", lambda file: None)
            self.patch(Cached, "fill", fill_mostly(Random(seed)))
            simulation.run()
            self.check(simulation)
            self.assertEqual(open_files(), open_before)
        # A Deferred that failed and that nobody has looked at tells of it when it goes.
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
        return simulation

    def check(self, simulation: Simulation) -> None:
        """See what has become of everybody."""
        sources = [
            member
            for member in simulation.members
            if (member.has_all or member.fetched) and not (member.leaves or member.is_cut_off)
        ]
        for member in simulation.members:
            whole = {} if member.fetched is None else {NAME: simulation.content}
            self.assertTrue(member.published() == whole, f"{member.host}: {member.error}")
            if not member.has_all and member.fetched is None:
                self.check_error(member, bool(sources))
        liars = {stranger.host.addresses[0] for stranger in simulation.strangers if stranger.lies}
        blamed = {str(who.address).partition(":")[0] for who in simulation.blamed}
        self.assertLessEqual(blamed, liars)

    def check_error(self, member: Member, has_source: bool) -> None:
        """See that a node which has not the file could not have it, and says so."""
        self.assertTrue(str(member.error or ""), member.host)
        if has_source and not member.is_cut_off:
            self.assertTrue(member.is_full, f"{member.host}: {member.error}")
            self.assertIsInstance(member.error, DiskFull)

    def test_exact_or_an_error(self) -> None:
        """
        Whatever the seed: every honest node that can reach one who has the file ends with exactly
        that file, unless its disk is full, and says so; nobody publishes anything else; nobody
        honest is blamed; and whoever stops leaves nothing open.
        """
        for seed in (*SEEDS, *KEPT):
            with self.subTest(seed=seed):
                self.simulate(seed)

    def test_repeats_to_the_byte(self) -> None:
        """
        The same seed makes the same bytes arrive everywhere at the same times.
        """
        first = self.simulate(1010).network
        again = self.simulate(1010).network
        self.assertEqual(first.fingerprint, again.fingerprint)
        self.assertEqual(first.clock.seconds(), again.clock.seconds())


class SharingTests(NodesTestCase):
    """Nodes that download serve each other what they have."""

    def nodes(
        self, count: int, blocks: int, *, have_all: int = 1, slow: Sequence[int] = ()
    ) -> Nodes:
        """
        Make nodes, of which the first have a file of so many blocks.

        @param slow: who has a line much slower than that of the others, which are equal.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        random = Random(7)
        content = random.randbytes(blocks * BLOCK)
        nodes = Nodes(random, Path(folder.name), content, count, have_all)
        self.addCleanup(nodes.stop)
        for number, member in enumerate(nodes.members):
            member.host.bandwidth = 20_000 if number in slow else 2 * BLOCK
        begun = [Deferred.fromCoroutine(member.live(1.0)) for member in nodes.members]
        nodes.network.result(gatherResults(begun))
        return nodes

    def check_all_have_it(self, nodes: Nodes) -> None:
        """See that all who fetch the file end with it."""
        nodes.wait_for_all()
        for member in nodes.members:
            if not member.has_all:
                self.assertTrue(member.published() == {NAME: nodes.content}, str(member.error))

    def test_less_than_a_copy_for_each(self) -> None:
        """
        The only one who has the file sends less than a copy of it to each of the eight who
        fetch it: they have much of it from each other.
        """
        nodes = self.nodes(9, 16)
        seed = nodes.members[0]
        self.check_all_have_it(nodes)
        self.assertLess(seed.host.bytes_sent, 3 * len(nodes.content))

    def test_seed_leaves(self) -> None:
        """
        Once those who fetch have every block between them, they need nobody who has all of it.
        """
        nodes = self.nodes(5, 16)
        seed, *others = nodes.members

        def blocks_of(member: Member) -> set[int]:
            assert member.service.sharing.offers is not None
            offer = member.service.sharing.offers.find(nodes.root, NOBODY)
            runs = [] if offer is None else offer.blocks.runs()
            return {block for first, count in runs for block in range(first, first + count)}

        nodes.network.run_until(
            lambda: len(set().union(*map(blocks_of, others))) == 16, limit=ENDS_WITHIN
        )
        self.assertEqual([member.fetched for member in others], [None] * 4)
        self.assertLess(min(len(blocks_of(member)) for member in others), 16)
        nodes.network.result(Deferred.fromCoroutine(seed.stop()))
        self.check_all_have_it(nodes)

    def test_slow_lines(self) -> None:
        """
        Where all lines are slow, the last block comes too, however many could send it: a node does
        not ask one after the other until all of them send at once, and nothing comes whole.
        """
        nodes = self.nodes(17, 1, have_all=16, slow=range(17))
        self.check_all_have_it(nodes)
        # It was too early for the first try, as no registry had listed anybody.
        self.assertIsInstance(nodes.members[-1].error, NoSuchPeer)
