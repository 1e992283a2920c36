"""Tests for beacons of closed networks: who sees what, and what recordings can do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.interfaces import IReactorMulticast, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.clocks import keep_steady
from flow512.discovery.beacon import PORT, Beacon
from flow512.discovery.datagram import MAX_DATAGRAM, Offer, encode_query
from flow512.discovery.engine import (
    Action,
    Engine,
    Found,
    Ignored,
    Lost,
    OffClock,
    SendTo,
    SendToAll,
    Sighting,
)
from flow512.discovery.sealing import SEALED_ROOM, WINDOW, Seal
from flow512.errors import Misuse
from flow512.testing import Host, Network
from tests.unit.test_beacon import Stranger, ipv4, ipv6
from tests.unit.test_discovery_engine import announce, run

KEY = b"k" * 32
OTHER_KEY = b"K" * 32
NOW = 1_800_000_000.0
REGISTRY = Offer("registry", 5000)
NODE = Offer("node", 5001)
SOURCE = ("10.0.0.2", 4002)


def make(
    instance: bytes, *offers: Offer, now: float = NOW, key: bytes | None = KEY, **changes: Any
) -> Engine:
    """An engine of the closed network, not started."""
    settings: dict[str, Any] = {"network": "", "name": "secret name", "node_id": b"i" * 32}
    return Engine(
        instance=instance,
        offers=offers,
        random=Random(instance),
        now=now,
        seal_key=key,
        **{**settings, **changes},
    )


class Member:
    """
    An engine at L{SOURCE}, and a recording of everything that it sent.

    @ivar engine: the engine, which has said what there is to say at its start.
    @ivar recorded: when it sent what.
    """

    def __init__(self, now: float = NOW) -> None:
        self.engine = make(b"m" * 16, NODE, now=now)
        self.recorded: list[bytes] = []
        self.keep(self.engine.started(now), now)

    def keep(self, actions: list[Action], now: float) -> None:
        """Record what is sent now."""
        for action in actions:
            if isinstance(action, SendToAll):
                self.recorded.append(self.engine.envelop(action.body, *SOURCE, now))

    def run(self, until: float) -> None:
        """Record what is sent until then."""
        for at, action in run(self.engine, until):
            self.keep([action], at)


class RecordingTests(SynchronousTestCase):
    """What a stranger can do who records a member and plays that back."""

    def setUp(self) -> None:
        """A member that announces itself for 20 seconds, and another one that only looks."""
        self.member = Member()
        self.member.run(NOW + 20)
        self.engine = make(b"e" * 16)
        self.engine.started(NOW)
        run(self.engine, NOW + 2)

    def play(
        self, now: float, source: tuple[str, int] = SOURCE, engine: Engine | None = None
    ) -> list[Action]:
        """Play everything back."""
        engine = engine or self.engine
        actions = run(engine, now)
        done = [action for _, action in actions]
        for data in self.member.recorded:
            done += engine.received(data, *source, now)
        return done

    def test_heard(self) -> None:
        """The original is heard: the member is found, with all that it says."""
        (found,) = self.play(NOW + 20)
        self.assertEqual(
            found, Found(Sighting("10.0.0.2", b"m" * 16, "secret name", b"i" * 32, (NODE,)))
        )

    def test_elsewhere(self) -> None:
        """From any other address, or another port of the same, it is neither heard nor answered."""
        answering = make(b"a" * 16, NODE)
        answering.started(NOW)
        for source in (("10.0.0.3", 4002), ("10.0.0.2", 4003), ("fe80::2%eth0", 4002)):
            for engine in (self.engine, answering):
                done = self.play(NOW + 20, source, engine)
                done += [action for _, action in run(engine, NOW + 22)]
                self.assertEqual([a for a in done if not isinstance(a, SendToAll)], [])
                self.assertEqual(engine.sightings, ())
        count = len(self.member.recorded)
        self.assertGreater(count, 5)
        self.assertEqual(self.engine.ignored, {Ignored.UNOPENED: 3 * count})

    def test_heard_before(self) -> None:
        """Under the member's own address it tells nothing new, and hides no silence."""
        self.play(NOW + 20)
        done: list[Action] = []
        for second in range(21, 900):
            done += self.play(NOW + second)
        kinds = [type(action) for action in done if not isinstance(action, OffClock)]
        self.assertEqual(kinds, [Lost])
        self.assertEqual(self.engine.sightings, ())

    def test_after_goodbye(self) -> None:
        """It does not bring back who said goodbye, however far the clocks are apart."""
        for skew in (1 - WINDOW, 0.0, WINDOW - 30):
            engine = make(b"e" * 16, now=NOW + skew)
            engine.started(NOW + skew)
            run(engine, NOW + skew + 2)
            member = self.member = Member()
            member.run(NOW + 20)
            self.play(NOW + skew + 20, engine=engine)
            (goodbye,) = member.engine.stopping(NOW + 20)
            assert isinstance(goodbye, SendToAll)
            data = member.engine.envelop(goodbye.body, *SOURCE, NOW + 20)
            (lost,) = engine.received(data, *SOURCE, NOW + skew + 20)
            self.assertIsInstance(lost, Lost)
            for second in range(21, 900):
                done = self.play(NOW + skew + second, engine=engine)
                self.assertEqual([a for a in done if not isinstance(a, OffClock)], [])
            self.assertEqual(engine.sightings, ())

    def test_to_newcomers(self) -> None:
        """One who did not hear the original believes it, but not after the window."""
        for second, sees in ((20 + WINDOW - 30, 1), (20 + WINDOW, 0)):
            newcomer = make(b"n" * 16, now=NOW + second)
            newcomer.started(NOW + second)
            self.play(NOW + second, engine=newcomer)
            self.assertEqual(len(newcomer.sightings), sees)

    def test_questions(self) -> None:
        """A question that is played back brings its asker the bounded number of answers."""
        answering = make(b"a" * 16, NODE)
        answering.started(NOW)
        question = self.member.recorded[1]
        answers = 0
        for hundredth in range(1000):
            now = NOW + hundredth / 100
            done = [action for _, action in run(answering, now)]
            answers += sum(isinstance(action, SendTo) for action in done)
            answering.received(question, *SOURCE, now)
        self.assertTrue(1 <= answers <= 64 + 10 * 16, answers)
        self.assertGreater(answering.ignored[Ignored.FLOOD], 0)


class ClosedEngineTests(SynchronousTestCase):
    """What an engine of a closed network says and believes."""

    def hears(self, listener: Engine, speaker: Engine) -> bool:
        """Whether one believes what the other says at its start."""
        listener.started(NOW)
        for action in speaker.started(NOW):
            assert isinstance(action, SendToAll)
            listener.received(speaker.envelop(action.body, *SOURCE, NOW), *SOURCE, NOW)
        return bool(listener.sightings)

    def test_members_only(self) -> None:
        """Only who has the same key is heard: no other network, and no open one, either way."""
        keys = (KEY, OTHER_KEY, None)
        for ours in keys:
            for theirs in keys:
                heard = self.hears(make(b"a" * 16, key=ours), make(b"b" * 16, NODE, key=theirs))
                self.assertEqual(heard, ours == theirs, (ours, theirs))

    def test_key_is_network(self) -> None:
        """The tag of a network does not matter to those who have a key, and is not sent."""
        speaker = make(b"b" * 16, NODE, network="theirs")
        self.assertTrue(self.hears(make(b"a" * 16, network="ours"), speaker))
        self.assertNotIn(b"theirs", b"".join(self.bodies(speaker)))
        with self.assertRaises(Misuse):
            make(b"a" * 16, network="n" * 65)

    def bodies(self, engine: Engine) -> list[bytes]:
        """All that an engine sends at its start, unsealed."""
        return [a.body for a in engine.started(NOW) if isinstance(a, SendToAll)]

    def test_reveals_nothing(self) -> None:
        """Every kind of datagram has 512 bytes, and shows neither name, id nor instance."""
        engine = make(b"b" * 16, REGISTRY, NODE)
        bodies = self.bodies(engine)
        question = Seal(KEY, Random(1)).close(make(b"q" * 16).started(NOW)[0].body, *SOURCE, NOW)
        engine.received(question, *SOURCE, NOW)
        done = [action for _, action in run(engine, NOW + 2)]
        bodies += [a.body for a in done if isinstance(a, SendTo | SendToAll)]
        self.assertIn(SendTo, [type(action) for action in done])
        bodies += [a.body for a in engine.stopping(NOW + 3) if isinstance(a, SendToAll)]
        for body in bodies:
            data = engine.envelop(body, *SOURCE, NOW)
            self.assertEqual(len(data), MAX_DATAGRAM)
            for told in (b"secret", b"iiii", b"bbbb", b"node", b"registry", KEY[:4]):
                self.assertNotIn(told, data)

    def test_malformed(self) -> None:
        """What a member seals that is no datagram is ignored, and counted as such."""
        engine = make(b"a" * 16)
        engine.started(NOW)
        for body in (b"", b"\xc1", announce()[5:-1]):
            data = Seal(KEY, Random(1)).close(body, *SOURCE, NOW)
            self.assertEqual(engine.received(data, *SOURCE, NOW), [])
        self.assertEqual(engine.ignored, {Ignored.MALFORMED: 3})

    def test_tagged(self) -> None:
        """A member's datagram with a tag is for another network."""
        engine = make(b"a" * 16)
        engine.started(NOW)
        data = Seal(KEY, Random(1)).close(announce(network="x")[5:], *SOURCE, NOW)
        self.assertEqual(engine.received(data, *SOURCE, NOW), [])
        self.assertEqual(engine.ignored, {Ignored.OTHER_NETWORK: 1})

    def test_off_clock(self) -> None:
        """A member whose clock is off is not heard, and that is told."""
        member = Member(NOW - 1000)
        engine = make(b"e" * 16)
        engine.started(NOW)
        self.assertEqual(
            engine.received(member.recorded[0], *SOURCE, NOW), [OffClock("10.0.0.2", 1000.0)]
        )
        self.assertEqual(engine.ignored, {Ignored.OUT_OF_TIME: 1})
        self.assertEqual(engine.sightings, ())

    def test_budget_before_crypto(self) -> None:
        """A stranger who floods has no more opened than his budget, and members are heard still."""
        engine = make(b"e" * 16)
        engine.started(NOW)
        rubbish = Seal(OTHER_KEY, Random(1)).close(bytes(SEALED_ROOM), "10.0.0.3", 9, NOW)
        for _ in range(1000):
            engine.received(rubbish, "10.0.0.3", 9, NOW)
        self.assertEqual(engine.ignored, {Ignored.UNOPENED: 200, Ignored.FLOOD: 800})
        self.assertIsInstance(engine.received(Member().recorded[0], *SOURCE, NOW)[0], Found)

    def test_open_is_noise(self) -> None:
        """Open datagrams cost a closed network's beacon no budget, and the reverse."""
        closed, opened = make(b"e" * 16), make(b"o" * 16, key=None)
        sealed = Member().recorded[0]
        for engine, data in ((closed, encode_query(b"q" * 16, "")), (opened, sealed)):
            engine.started(NOW)
            for _ in range(1000):
                engine.received(data, *SOURCE, NOW)
            self.assertEqual(engine.ignored, {Ignored.NOISE: 1000})

    def test_wrong_key(self) -> None:
        """A key of the wrong length is refused when the engine is made."""
        with self.assertRaises(Misuse):
            make(b"e" * 16, key=b"short")


@implementer(IReactorTime, IReactorMulticast)
class WrongClock:
    """A host's reactor whose clock is a number of seconds fast."""

    def __init__(self, host: Host, fast: float) -> None:
        self._real = host.reactor
        self._fast = fast

    def seconds(self) -> float:
        return self._real.seconds() + self._fast

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        return self._real.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        return self._real.getDelayedCalls()

    def listenMulticast(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> Any:
        return self._real.listenMulticast(port, protocol, interface, maxPacketSize, listenMultiple)


class ClosedBeaconTests(SynchronousTestCase):
    """Beacons of a closed network, on a network in memory."""

    def setUp(self) -> None:
        """A network, which must be quiet when all beacons have stopped."""
        self.network = Network(seed=1)
        self.beacons: list[Beacon] = []
        self.addCleanup(self.stop_all)

    def stop_all(self) -> None:
        """Stop what runs, and see that nothing is left."""
        for beacon in self.beacons:
            self.network.result(beacon.stopService())
        self.network.run(1.0)
        self.assertEqual(self.network.left_over(), [])

    def beacon(self, host: Host, name: str, key: bytes | None = KEY, **changes: Any) -> Beacon:
        """A beacon on a host, started."""
        settings: dict[str, Any] = {
            "name": name,
            "random": Random(name),
            "offers": [NODE],
            "interfaces": [ipv4(host), ipv6(host)],
            "seal_key": key,
            **changes,
        }
        beacon = Beacon(settings.pop("reactor", host.reactor), **settings)
        beacon.startService()
        self.beacons.append(beacon)
        return beacon

    def hosts(self, count: int) -> list[Host]:
        """Hosts on one link."""
        return [self.network.host(f"10.0.0.{n}", f"fd00::{n}") for n in range(1, count + 1)]

    def warnings(self, logs: list[LogEvent]) -> list[str]:
        """What was logged as a warning."""
        return [str(formatEvent(e)) for e in logs if e["log_level"] is LogLevel.warn]

    def test_members_find_each_other(self) -> None:
        """Members see each other at every address, and nobody else sees or is seen."""
        hosts = self.hosts(5)
        keys = (KEY, KEY, OTHER_KEY, None, None)
        for number, (host, key) in enumerate(zip(hosts, keys, strict=True)):
            self.beacon(host, str(number), key)
        self.network.run(20.0)
        seen = [{sighting.name for sighting in beacon.sightings} for beacon in self.beacons]
        self.assertEqual(seen, [{"1"}, {"0"}, set(), {"4"}, {"3"}])
        self.assertEqual({s.host for s in self.beacons[0].sightings}, {"10.0.0.2", "fd00::2"})

    def test_late_comer(self) -> None:
        """A member that comes late asks, and is answered within half a second."""
        first, second = self.hosts(2)
        self.beacon(first, "first")
        self.network.run(2.0)
        late = self.beacon(second, "second", offers=[])
        self.network.run(0.5)
        self.assertEqual({sighting.name for sighting in late.sightings}, {"first"})

    def test_goodbye(self) -> None:
        """A member that stops is lost at once, and is found again after its next start."""
        first, second = self.hosts(2)
        stays, stops = self.beacon(first, "first"), self.beacon(second, "second")
        self.network.run(1.0)
        self.network.result(stops.stopService())
        self.network.run(0.5)
        self.assertEqual(stays.sightings, ())
        stops.startService()
        self.network.run(0.5)
        self.assertEqual({sighting.name for sighting in stays.sightings}, {"second"})

    def test_eavesdropper(self) -> None:
        """A stranger who plays back, from his own address, all that he heard, gets no answer."""
        first, second = self.hosts(2)
        stranger, ear = Stranger(), Stranger()
        ports = [second.reactor.listenMulticast(0, stranger)]
        ports[0].setBroadcastAllowed(True)
        ports.append(second.reactor.listenMulticast(PORT, ear, listenMultiple=True))
        beacon = self.beacon(first, "first", interfaces=[ipv4(first)])
        self.network.run(10.0)
        heard = [data for data, _ in ear.got]
        self.assertGreater(len(heard), 3)
        self.assertEqual({len(data) for data in heard}, {MAX_DATAGRAM})
        for data in [*heard, encode_query(b"s" * 16, "")]:
            stranger.transport.write(data, ("10.0.0.255", PORT))
        self.network.run(2.0)
        self.assertEqual(stranger.got, [])
        self.assertEqual(beacon.sightings, ())
        self.assertEqual(beacon.ignored[Ignored.UNOPENED], len(heard))
        for port in ports:
            self.network.result(port.stopListening())

    def test_clocks_apart(self) -> None:
        """Clocks that are up to five minutes apart do not matter."""
        first, second = self.hosts(2)
        skewed = WrongClock(second, WINDOW - 1)
        verifyObject(IReactorTime, skewed)
        verifyObject(IReactorMulticast, skewed)
        with capturedLogs() as logs:
            self.beacon(first, "first")
            self.beacon(second, "second", reactor=skewed)
            self.network.run(20.0)
        self.assertEqual([len(beacon.sightings) for beacon in self.beacons], [2, 2])
        self.assertEqual(self.warnings(logs), [])

    def test_clocks_too_far_apart(self) -> None:
        """Clocks that are farther apart hide members, which each is told once, with the cause."""
        first, second = self.hosts(2)
        with capturedLogs() as logs:
            self.beacon(first, "first", interfaces=[ipv4(first)])
            self.beacon(
                second,
                "second",
                interfaces=[ipv4(second)],
                reactor=WrongClock(second, 3600.0),
            )
            self.network.run(60.0)
        self.assertEqual([beacon.sightings for beacon in self.beacons], [(), ()])
        said = self.warnings(logs)
        self.assertEqual(len(said), 2, said)
        for host, sentence in zip(("10.0.0.1", "10.0.0.2"), sorted(said), strict=True):
            self.assertIn(
                f"The clocks of this machine and of {host} are 3600 seconds apart", sentence
            )

    def test_clock_is_set(self) -> None:
        """Whose clock is an hour off is heard once it is set, though no time passes by that."""
        first, second = self.hosts(2)
        fast = [3600.0]
        passed = self.network.clock.seconds
        keep_steady(second.reactor, lambda: passed() + fast[0], passed)
        for number, host in enumerate((first, second)):
            self.beacon(host, str(number), interfaces=[ipv4(host)])
        self.network.run(20.0)
        self.assertEqual([beacon.sightings for beacon in self.beacons], [(), ()])
        fast[0] = 0.0
        self.network.run(20.0)
        seen = [{sighting.name for sighting in beacon.sightings} for beacon in self.beacons]
        self.assertEqual(seen, [{"1"}, {"0"}])

    def test_wrong_key(self) -> None:
        """A key of the wrong length is refused when the beacon is made."""
        (first,) = self.hosts(1)
        with self.assertRaises(Misuse):
            Beacon(first.reactor, name="first", random=Random(1), seal_key=b"short")
