"""
A whole network in memory: a registry, fifty nodes, and each fetches a file from another.

The seed decides everything: latency, how bytes are cut, what arrives first, how long workers
take, and what the files are. C{FLOW512_SEEDS} says which are tried, from first to last.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import NodeSettings
from flow512.testing import Host, Network
from flow512.transfer.fetch import Fetched, Target
from flow512.units import BLOCK

NODES = 50
SEEDS = range(*map(int, os.environ.get("FLOW512_SEEDS", "0:1").split(":")))
SIZES = (0, 1, 511, 512, 513, 4096, 70_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 100)


def local_addresses(host: Host) -> list[LocalAddress]:
    """What a host of the simulation has instead of interfaces."""
    return [LocalAddress(address, 24, "eth0", 2) for address in host.addresses]


class Simulation:
    """
    One network of one seed.

    @ivar fetched: for each node, what it fetched.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.network = Network(seed)
        self.random = Random(seed)
        self.folder = folder
        # OpenSSL has randomness of its own, so what is encrypted does not repeat to the byte.
        encryption = self.encryption = Encryption.TLS if seed % 2 else Encryption.NONE
        registry_host = self.network.host("10.0.0.250", name="registry")
        self.registry = RegistryService(
            registry_host.reactor,
            RegistrySettings(name="registry", encryption=encryption),
            random=Random(seed),
            local_addresses=lambda: local_addresses(registry_host),
        )
        self.contents = {}
        self.nodes = [self._node(number) for number in range(NODES)]

    def _node(self, number: int) -> NodeService:
        host = self.network.host(f"10.0.0.{number + 1}", name=f"host{number}")
        share = self.folder / f"share{number}"
        downloads = self.folder / f"downloads{number}"
        share.mkdir()
        downloads.mkdir()
        content = self.random.randbytes(self.random.choice(SIZES))
        self.contents[f"file{number}.bin"] = content
        file = share / f"file{number}.bin"
        file.write_bytes(content)
        os.utime(file, ns=(10**18 + number, 10**18 + number))
        # Some are told where the registry is, the others find it by the beacon.
        told = number % 2 == 0
        return NodeService(
            host.reactor,
            NodeSettings(
                shares=(str(share),),
                downloads=str(downloads),
                name=f"node{number}",
                encryption=self.encryption,
                registries=(NamedRegistry(HostPort("registry", 5000)),) if told else (),
                bootstrap=Mode.NEVER,
                beacon_port=None if told else 5120,
            ),
            random=Random(self.random.random()),
            run_blocking=host.run_blocking,
            local_addresses=lambda: local_addresses(host),
        )

    def run(self) -> None:
        """
        Start all at random times, let each fetch from another, stop all.
        """
        self.registry.startService()
        for node in self.nodes:
            self.network.run(self.random.uniform(0, 0.1))
            node.startService()
        self.network.run_until(
            lambda: all(len(node.peers) == NODES - 1 for node in self.nodes), limit=60
        )
        fetching: list[Deferred[Fetched]] = []
        for number, node in enumerate(self.nodes):
            other = (number + self.random.randrange(1, NODES)) % NODES
            fetching.append(
                node.fetching.get(
                    f"file{other}.bin",
                    peer=f"node{other}",
                    target=Target(str(self.folder / f"downloads{number}")),
                    run=self.random.choice((1, 7, 512)),
                )
            )
        self.fetched = self.network.result(gatherResults(fetching), limit=600)
        stopping = [node.stopService() for node in self.nodes]
        self.network.result(gatherResults(stopping), limit=60)
        self.network.result(self.registry.stopService(), limit=60)
        self.network.assert_quiet()


class NetworkOfNodes(SynchronousTestCase):
    """
    A registry and fifty nodes.
    """

    def simulate(self, seed: int) -> Simulation:
        with tempfile.TemporaryDirectory() as folder:
            simulation = Simulation(seed, Path(folder))
            simulation.run()
            for fetched in simulation.fetched:
                content = simulation.contents[fetched.entry.path]
                self.assertEqual(Path(fetched.path).read_bytes(), content)
                self.assertEqual(fetched.md5, hashlib.md5(content).digest())
                self.assertEqual(fetched.fetched, len(content))
            self.assertEqual(len(simulation.fetched), NODES)
        return simulation

    def test_everyone_gets_the_file(self) -> None:
        """
        Whatever the seed, every node is told of all others, fetches the exact file of another,
        and leaves nothing open behind.
        """
        for seed in SEEDS:
            with self.subTest(seed=seed):
                self.simulate(seed)

    def test_repeats_to_the_byte(self) -> None:
        """
        The same seed makes the same bytes arrive everywhere at the same times. (That another
        seed's fingerprint differs is flow512.testing's to prove.)
        """
        first = self.simulate(1000).network
        again = self.simulate(1000).network
        self.assertEqual(first.fingerprint, again.fingerprint)
        self.assertEqual(first.clock.seconds(), again.clock.seconds())
