"""
L{flow512.testing}: whatever happens, nothing is lost track of.
"""

from __future__ import annotations

from random import Random

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from flow512.testing import Host, Network
from tests.unit.simulated import HalfCloser, Recorder


class Storm:
    """Five hosts that connect, write, pause and close at random, while paths and hosts fail."""

    def __init__(self, seed: int, kind: type[Recorder]) -> None:
        self.network = Network(seed)
        self.network.give_up = 10.0
        self.random = Random(seed)
        self.protocols: list[Recorder] = []
        self.kind = kind
        self.hosts = [self.network.host(f"10.0.0.{number}") for number in range(1, 6)]
        for host in self.hosts:
            self.listen(host)

    def build(self) -> Recorder:
        self.protocols.append(self.kind())
        return self.protocols[-1]

    def listen(self, host: Host) -> None:
        host.reactor.listenTCP(5000, Factory.forProtocol(self.build))

    def connect(self) -> None:
        source, target = self.random.choices(self.hosts, k=2)
        endpoint = TCP4ClientEndpoint(source.reactor, target.addresses[0], 5000, timeout=5)
        connectProtocol(endpoint, self.build()).addErrback(lambda failure: None)

    def use(self) -> None:
        connected = [each.transport for each in self.protocols if each.transport is not None]
        if connected:
            transport = self.random.choice(connected)
            what = self.random.choice(
                ["write"] * 5
                + ["resumeProducing"] * 2
                + ["pauseProducing", "loseConnection", "abortConnection", "loseWriteConnection"]
            )
            if what == "write":
                transport.write(bytes(self.random.randrange(200_000)))
            else:
                getattr(transport, what)()

    def change_weather(self) -> None:
        one, other = self.random.sample(self.hosts, 2)
        what = self.random.choice((self.network.cut, self.network.cut_one_way))
        self.random.choice((lambda: what(one, other), self.network.heal, one.crash))()
        if not other.up:
            other.restart()
            self.listen(other)

    def rage(self) -> None:
        """Let a hundred things happen."""
        for _ in range(100):
            self.random.choice((self.connect, self.use, self.use, self.use, self.change_weather))()
            self.network.run(self.random.choice((0.0, 0.001, 0.01, 0.1, 1.0)))

    def calm_down(self) -> None:
        """Bring everything up, close every connection, and let all be settled."""
        self.network.heal()
        for host in self.hosts:
            if not host.up:
                host.restart()
        self.network.run(10)
        for protocol in self.protocols:
            if protocol.transport is not None:
                protocol.transport.abortConnection()
        self.network.run(60)


class StormTests(SynchronousTestCase):
    def test_nothing_is_left(self) -> None:
        """After a storm no connection, half a connection, or flow is left."""
        for seed in range(12):
            with self.subTest(seed=seed):
                storm = Storm(seed, (Recorder, HalfCloser)[seed % 2])
                storm.rage()
                storm.calm_down()
                left = [each for each in storm.network.left_over() if "TCP port" not in each]
                self.assertEqual(left, [])
                self.assertEqual(list(storm.network.flows), [])

    def test_repeats(self) -> None:
        """A storm repeats to the byte."""
        storms = [Storm(7, HalfCloser), Storm(7, HalfCloser)]
        for storm in storms:
            storm.rage()
        self.assertEqual(storms[0].network.fingerprint, storms[1].network.fingerprint)
