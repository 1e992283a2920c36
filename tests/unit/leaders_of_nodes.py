"""
Whole nodes on the network of L{flow512.testing}, without a registry that would be theirs: they have
to make one. The seed decides what befalls them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from twisted.internet.defer import gatherResults

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.link.security import Encryption
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import NodeSettings
from flow512.testing import Host, Network

LOOK_EVERY: Final = 0.25


def local_addresses(host: Host) -> list[LocalAddress]:
    """What a host of the simulation has instead of interfaces."""
    return [LocalAddress(address, 24, "eth0", 2) for address in host.addresses]


class Village:
    """
    Some hosts, most of them with a node.

    @ivar running: the nodes that run, by host.
    @ivar terms: the latest term that the node of each host knew in this run.
    """

    def __init__(self, seed: int, count: int, encryption: Encryption = Encryption.NONE) -> None:
        self.network = Network(seed)
        self.random = Random(f"village {seed}")
        self.encryption = encryption
        self.hosts = [
            self.network.host(f"10.0.0.{number + 1}", name=f"host{number}")
            for number in range(count)
        ]
        self.modes = dict.fromkeys(self.hosts, Mode.AUTO)
        self.running: dict[Host, NodeService] = {}
        self.registries: dict[Host, RegistryService] = {}
        self.terms: dict[Host, int] = {}
        self.disturbed = 0.0

    @property
    def now(self) -> float:
        """What the clock says."""
        return self.network.clock.seconds()

    def start(self, host: Host, **settings: object) -> NodeService:
        """Start a node on a host that has none."""
        if not host.up or not host.reactor.running:
            host.restart()
        given = {"bootstrap": self.modes[host], **settings}
        node = NodeService(
            host.reactor,
            NodeSettings(name=host.name, encryption=self.encryption, **given),  # type: ignore[arg-type]  # as the test says
            random=Random(self.random.random()),
            run_blocking=host.run_blocking,
            local_addresses=lambda: local_addresses(host),
        )
        node.startService()
        self.running[host] = node
        self.terms[host] = 0
        self.disturbed = self.now
        return node

    def start_registry(self, host: Host, **settings: object) -> RegistryService:
        """Start a registry by itself."""
        registry = RegistryService(
            host.reactor,
            RegistrySettings(name=host.name, encryption=self.encryption, **settings),  # type: ignore[arg-type]  # as the test says
            random=Random(self.random.random()),
            local_addresses=lambda: local_addresses(host),
        )
        registry.startService()
        self.registries[host] = registry
        self.disturbed = self.now
        return registry

    def kill(self, host: Host, *, power: bool = False) -> None:
        """End a node as SIGKILL does, or as a power failure."""
        del self.running[host]
        (host if power else host.reactor).crash()
        self.disturbed = self.now

    def stop(self, host: Host) -> None:
        """End a node in an orderly way."""
        stopped = self.running.pop(host).stopService()
        self.disturbed = self.now
        stopped.addErrback(self._failed)

    def _failed(self, failure: object) -> None:
        raise AssertionError(failure)

    @property
    def leaders(self) -> list[Host]:
        """Who leads now."""
        return [host for host, node in self.running.items() if node.neighbourhood.is_bootstrap]

    def parts(self) -> list[list[Host]]:
        """The hosts with nodes, by who reaches whom."""
        parts: list[list[Host]] = []
        for host in self.running:
            for part in parts:
                if self.network.passes(host, part[0]) and self.network.passes(part[0], host):
                    part.append(host)
                    break
            else:
                parts.append([host])
        return parts

    def trouble(self) -> str:
        """What is not as it should be in the end; empty if all is."""
        for part in self.parts():
            if all(self.modes[host] is Mode.NEVER for host in part):
                continue
            leading = [host for host in part if self.running[host].neighbourhood.is_bootstrap]
            if len(leading) != 1:
                return f"{[str(each) for each in leading]} lead of {len(part)}"
            leader = self.running[leading[0]].introduction.node
            everybody = {host.name for host in part}
            for host in part:
                node = self.running[host]
                leadership = node.leadership
                if leadership is None or leadership.claim.node != leader:
                    return f"{host} does not follow {leading[0]}"
                names = [peer.name for peer in node.peers]
                if sorted([*names, host.name]) != sorted(everybody):
                    return f"{host} lists {sorted(names)} of {sorted(everybody)}"
        return ""

    def check(self) -> None:
        """What must hold at any time."""
        for host, node in self.running.items():
            leadership = node.leadership
            if leadership is not None:
                term = leadership.claim.term
                assert term >= self.terms[host], f"the term of {host} goes back"
                self.terms[host] = term
            names = [peer.node for peer in node.peers]
            assert len(set(names)) == len(names), "a node is listed twice"

    def settle(self, limit: float, quiet: float = 1.0) -> float:
        """
        Let time pass until all is as it should be, and has been for a while.

        @param quiet: seconds for which it must have been.
        @return: seconds from the last disturbance until then.
        @raise AssertionError: it is not by C{limit} seconds.
        """
        settled = self.disturbed
        while self.now < max(settled, self.disturbed) + quiet:
            trouble = self.trouble()
            if trouble:
                settled = self.now + LOOK_EVERY
                assert settled < self.disturbed + limit, f"After {limit} s: {trouble}"
            self.network.run(LOOK_EVERY)
            self.check()
        return settled - self.disturbed

    def end(self) -> None:
        """
        Stop everything.

        @raise AssertionError: something is left over.
        """
        self.network.heal()
        stopping = [node.stopService() for node in self.running.values()]
        stopping += [registry.stopService() for registry in self.registries.values()]
        self.running.clear()
        self.network.result(gatherResults(stopping), limit=120)
        self.network.run(100.0)
        self.network.assert_quiet()


class Misfortune:
    """
    One seed: a village, and all that befalls it.
    """

    def __init__(self, seed: int, most: int = 8) -> None:
        random = self.random = Random(f"misfortune {seed}")
        self.village = Village(seed, random.randint(3, most))
        network = self.village.network
        network.latency = (0.0005, random.choice((0.002, 0.02, 0.1)))
        network.datagram_loss = random.choice((0.0, 0.0, 0.1, 0.3))
        for host in self.village.hosts[1:]:
            kinds = (Mode.AUTO, Mode.NEVER, Mode.ALWAYS)
            self.village.modes[host] = random.choices(kinds, (16, 2, 1))[0]

    def run(self, limit: float) -> float:
        """
        Let it all happen.

        @return: seconds from the last disturbance to the end of all trouble.
        @raise AssertionError: there is trouble by C{limit}, or something happens that never may.
        """
        random, village = self.random, self.village
        network = village.network
        for host in village.hosts:
            network.run(random.choice((0.0, random.uniform(0, 3))))
            village.start(host)
        self._pass(random.uniform(0, 10))
        for _ in range(random.randint(1, 7)):
            self._disturb()
            self._pass(random.choice((0.01, 0.5, 4.0, 15.0, 40.0)) * random.random() * 2)
        network.heal()
        village.disturbed = village.now
        if random.random() < 0.3:
            self._partition()
        network.datagram_loss = min(network.datagram_loss, 0.1)
        settled = village.settle(limit, quiet=35.0)
        village.end()
        return settled

    def _pass(self, seconds: float) -> None:
        end = self.village.now + seconds
        while self.village.now < end:
            self.village.network.run(min(1.0, end - self.village.now))
            self.village.check()

    def _disturb(self) -> None:
        random, village = self.random, self.village
        up = list(village.running)
        leaders = village.leaders
        victim = random.choice(leaders if leaders and random.random() < 0.5 else up) if up else None
        idle = [host for host in village.hosts if host not in village.running]
        kinds: list[Callable[[], object]] = [village.network.heal, self._partition]
        if victim is not None and len(up) > 2:
            kinds.append(lambda: village.kill(victim))
            kinds.append(lambda: village.kill(victim, power=True))
            kinds.append(lambda: village.stop(victim))
        if idle:
            kinds.append(lambda: village.start(random.choice(idle)))
        if len(up) > 1:
            one, other = random.sample(up, 2)
            kinds.append(lambda: village.network.cut(one, other))
            kinds.append(lambda: village.network.cut_one_way(one, other))
        random.choice(kinds)()
        village.disturbed = village.now

    def _partition(self) -> None:
        village = self.village
        village.network.heal()
        sides: list[list[Host]] = [[], []]
        for host in village.hosts:
            sides[self.random.randrange(2)].append(host)
        village.network.partition(*sides)
        village.disturbed = village.now
