"""
One seed and a crowd of whole nodes that fetch the same file from it and from each other, over links
that are all the same.

C{FLOW512_CROWD}, C{FLOW512_CROWD_BLOCKS} (of 256 KiB) and C{FLOW512_CROWD_LINK} (bytes a second)
try others than the few that there is time for; L{tests.unit.test_many_leechers} has a thousand,
without bytes and connections.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import log2
from pathlib import Path
from random import Random

from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import format_content_id
from flow512.discovery.election import Mode
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import NodeSettings
from flow512.testing import Host, Network
from flow512.transfer.fetch import Target
from flow512.units import BLOCK
from tests.unit.offered_files import tree_of

LEECHERS = int(os.environ.get("FLOW512_CROWD", "10"))
BLOCKS = int(os.environ.get("FLOW512_CROWD_BLOCKS", "128"))
LINK = float(os.environ.get("FLOW512_CROWD_LINK", str(2**21)))

NAME = "film.mkv"


class Crowd:
    """
    A registry, a seed, and those who want what it has.
    """

    def __init__(self, folder: Path, leechers: int, blocks: int, seed: int = 1) -> None:
        self.random = Random(seed)
        self.network = Network(seed)
        self.folder = folder
        self.content = self.random.randbytes(blocks * BLOCK)
        registry_host = self.network.host("10.0.0.250", name="registry")
        self.registry = RegistryService(
            registry_host.reactor,
            RegistrySettings(name="registry", encryption=Encryption.NONE, beacon_port=None),
            random=Random(self.random.random()),
            run_blocking=registry_host.run_blocking,
            local_addresses=list,
        )
        self.hosts: list[Host] = []
        self.nodes = [self._node(number) for number in range(leechers + 1)]

    def _node(self, number: int) -> NodeService:
        host = self.network.host(f"10.1.{number // 200}.{number % 200 + 1}", name=f"node{number}")
        self.hosts.append(host)
        downloads, share = self.folder / f"downloads{number}", self.folder / f"share{number}"
        downloads.mkdir()
        share.mkdir()
        if number == 0:
            (share / NAME).write_bytes(self.content)
        return NodeService(
            host.reactor,
            NodeSettings(
                shares=(str(share),),
                downloads=str(downloads),
                name=host.name,
                encryption=Encryption.NONE,
                registries=(NamedRegistry(HostPort("10.0.0.250", 5000)),),
                bootstrap=Mode.NEVER,
                beacon_port=None,
            ),
            random=Random(self.random.random()),
            run_blocking=host.run_blocking,
            local_addresses=list,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them run, and know of each other, for as long as this takes."""
        self.registry.startService()
        for node in self.nodes:
            node.startService()
        count = len(self.nodes)
        self.network.run_until(lambda: len(self.nodes[0].peers) == count - 1, limit=120)
        self.network.run(5)  # the seed hashes what it has
        yield
        stopping = gatherResults(node.stopService() for node in self.nodes)
        self.network.result(stopping, limit=60)
        self.network.result(self.registry.stopService(), limit=60)
        self.network.assert_quiet()

    def fetch(self, link: float, limit: float) -> float:
        """
        Let all fetch it at once.

        @param link: bytes a second of each of them, each way.
        @return: seconds until the last has it.
        """
        clock = self.network.clock
        for host in self.hosts:
            host.bandwidth = link
        begun, sent = clock.seconds(), self.hosts[0].bytes_sent
        wanted = format_content_id(tree_of(self.content).root)
        fetching = gatherResults(
            node.get(wanted, target=Target(str(self.folder / f"downloads{number}")))
            for number, node in enumerate(self.nodes)
            if number
        )
        self.network.result(fetching, limit)
        took = clock.seconds() - begun
        self.sent = self.hosts[0].bytes_sent - sent
        for host in self.hosts:
            host.bandwidth = None
        return took


class CrowdOfNodes(SynchronousTestCase):
    """
    Whole nodes.
    """

    def test_equal_links(self) -> None:
        """
        The last has it within one and a half times what the links allow, looking for each other
        included, and the seed sends it less than three times.
        """
        bound = (BLOCKS + log2(LEECHERS + 1)) * BLOCK / LINK
        with tempfile.TemporaryDirectory() as folder:
            crowd = Crowd(Path(folder), LEECHERS, BLOCKS)
            with crowd.running():
                took = crowd.fetch(LINK, limit=10 * bound)
            for number in range(1, LEECHERS + 1):
                file = Path(folder) / f"downloads{number}" / NAME
                self.assertEqual(file.read_bytes(), crowd.content)
        copies = crowd.sent / len(crowd.content)
        print(
            f"{LEECHERS} nodes, {BLOCKS} blocks, {LINK / 2**20:g} MiB/s: {took:.1f} s,"
            f" {took / bound:.2f} times the bound; the seed sent {copies:.2f} copies"
        )
        self.assertLess(took, 1.5 * bound)
        self.assertLess(copies, 3)
