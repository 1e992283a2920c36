"""Tests for L{flow512.discovery.engine}."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.datagram import (
    MAX_DATAGRAM,
    Announce,
    Answer,
    Goodbye,
    Offer,
    Query,
    decode_body,
    encode,
    encode_query,
)
from flow512.discovery.engine import (
    GOODBYE_MEMORY,
    Action,
    Engine,
    Found,
    Ignored,
    Lost,
    SendTo,
    SendToAll,
    Sighting,
)
from flow512.discovery.sightings import MAX_SIGHTINGS, MAX_SIGHTINGS_PER_HOST
from flow512.errors import Misuse

OWN = bytes(16)
PEER = b"p" * 16
REGISTRY = Offer("registry", 5000)
NODE = Offer("node", 5001)


def make(offers: tuple[Offer, ...] = (REGISTRY,), network: str = "", seed: int = 1) -> Engine:
    """An engine at time 0, not started."""
    return Engine(
        instance=OWN,
        network=network,
        name="own",
        node_id=b"",
        offers=offers,
        random=Random(seed),
        now=0.0,
    )


def announce(
    sequence: int = 1,
    instance: bytes = PEER,
    offers: tuple[Offer, ...] = (REGISTRY,),
    interval: int = 5000,
    name: str = "peer",
    network: str = "",
) -> bytes:
    """An announcement of somebody else's."""
    return encode(Announce(instance, network, name, b"", offers, sequence, interval))


def goodbye(sequence: int, instance: bytes = PEER) -> bytes:
    """A goodbye of somebody else's."""
    return encode(Goodbye(instance, "", sequence))


def instance(number: int) -> bytes:
    """One of many instances."""
    return number.to_bytes(16, "big")


def run(engine: Engine, until: float) -> list[tuple[float, Action]]:
    """Wake an engine whenever it wants, and tell what it did when."""
    done: list[tuple[float, Action]] = []
    while (at := engine.wake_at) is not None and at <= until:
        done += [(at, action) for action in engine.tick(at)]
    return done


def sent(done: list[tuple[float, Action]], kind: type) -> list[float]:
    """When datagrams of a kind were sent to everybody."""
    return [
        at
        for at, action in done
        if isinstance(action, SendToAll) and type(decode_body(action.body)) is kind
    ]


class SpeakingTests(SynchronousTestCase):
    """What an engine says by itself."""

    def test_start(self) -> None:
        """At the start it announces what it offers and asks who is there, both at once."""
        engine = make()
        first, second = engine.started(0.0)
        assert isinstance(first, SendToAll)
        assert isinstance(second, SendToAll)
        told = decode_body(first.body)
        self.assertEqual(told, Announce(OWN, "", "own", b"", (REGISTRY,), 1, 5000))
        self.assertIsInstance(decode_body(second.body), Query)
        sent = engine.envelop(second.body, "10.0.0.1", 4000, 0.0)
        self.assertEqual(len(sent), MAX_DATAGRAM)

    def test_questions_repeat(self) -> None:
        """It asks three times in a second and a half, ever later, and then no more."""
        engine = make(())
        done = [(0.0, action) for action in engine.started(0.0)] + run(engine, 60.0)
        first, second, third = sent(done, Query)
        self.assertTrue(0 == first < second < third < 1.5)
        self.assertGreater(third - second, second - first)
        self.assertEqual(len(done), 3)
        self.assertIsNone(engine.wake_at)

    def test_announcements_repeat(self) -> None:
        """It announces every five seconds, give or take a fifth, and never in step."""
        engine = make()
        done = [(0.0, action) for action in engine.started(0.0)] + run(engine, 500.0)
        times = sent(done, Announce)
        gaps = [after - before for before, after in pairwise(times)]
        self.assertTrue(all(4.0 <= gap <= 6.0 for gap in gaps), gaps)
        self.assertGreater(len(set(gaps)), 50)

    def test_bounded_network(self) -> None:
        """With a thousand peers it announces every 75 seconds, and says so."""
        engine = make()
        engine.started(0.0)
        for number in range(1, 1001):
            engine.received(
                announce(instance=instance(number), interval=300_000),
                f"10.0.{number // 250}.{number % 250}",
                9,
                0.0,
            )
        run(engine, 10.0)
        done = run(engine, 400.0)
        times = sent(done, Announce)
        gaps = [after - before for before, after in pairwise(times)]
        self.assertTrue(gaps)
        self.assertTrue(all(60.0 <= gap <= 90.0 for gap in gaps), gaps)
        said = [decode_body(a.body) for _, a in done if isinstance(a, SendToAll)]
        self.assertEqual({datagram.interval for datagram in said}, {75_000})

    def test_changes(self) -> None:
        """A new offer is announced at once, but never twice within a second."""
        engine = make()
        engine.started(0.0)
        run(engine, 3.0)
        (action,) = engine.offer("node", 5001, 3.0)
        assert isinstance(action, SendToAll)
        self.assertEqual(decode_body(action.body).offers, (REGISTRY, NODE))
        self.assertEqual(engine.offer("node", 5001, 3.1), [])
        self.assertEqual(engine.offer("node", 5002, 3.2), [])
        self.assertEqual(engine.offer("node", 5003, 3.3), [])
        self.assertEqual(sent(run(engine, 5.0), Announce), [4.0])

    def test_nothing_left(self) -> None:
        """When nothing is offered any more it says so once, and announces no more."""
        engine = make()
        engine.started(0.0)
        run(engine, 3.0)
        (action,) = engine.withdraw("registry", 3.0)
        assert isinstance(action, SendToAll)
        self.assertEqual(decode_body(action.body).offers, ())
        self.assertEqual(engine.withdraw("registry", 3.0), [])
        self.assertEqual(run(engine, 100.0), [])

    def test_goodbye(self) -> None:
        """A stop is a goodbye, with a sequence number above all before; then there is silence."""
        engine = make()
        engine.started(0.0)
        run(engine, 20.0)
        (action,) = engine.stopping(20.0)
        assert isinstance(action, SendToAll)
        last = decode_body(action.body)
        assert isinstance(last, Goodbye)
        self.assertEqual(last.instance, OWN)
        self.assertGreater(last.sequence, 4)
        self.assertIsNone(engine.wake_at)
        self.assertEqual(engine.stopping(20.0), [])
        self.assertEqual(engine.tick(30.0), [])
        self.assertEqual(engine.arrived(30.0), [])
        self.assertEqual(engine.offer("node", 1, 30.0), [])
        self.assertEqual(engine.received(announce(), "10.0.0.2", 9, 30.0), [])

    def test_nothing_to_take_back(self) -> None:
        """One that only looked says no goodbye."""
        engine = make(())
        engine.started(0.0)
        self.assertEqual(engine.stopping(1.0), [])

    def test_new_link(self) -> None:
        """On a new link it announces and asks again."""
        engine = make()
        engine.started(0.0)
        run(engine, 3.0)
        first, second = engine.arrived(3.0)
        assert isinstance(first, SendToAll)
        assert isinstance(second, SendToAll)
        self.assertIsInstance(decode_body(first.body), Announce)
        self.assertIsInstance(decode_body(second.body), Query)

    def test_misuse(self) -> None:
        """Limits are told at once, and break nothing."""
        good: dict[str, object] = {"instance": OWN, "network": "", "name": "n", "node_id": b""}
        for bad in (
            {"instance": b"short"},
            {"network": "n" * 65},
            {"name": "n" * 65},
            {"name": "\udcff"},
            {"node_id": bytes(31)},
            {"offers": [Offer("node", 0)]},
            {"offers": [Offer(str(kind), 1) for kind in range(5)]},
            {"network": "\N{GRINNING FACE}" * 64, "name": "\N{GRINNING FACE}" * 64},
        ):
            with self.assertRaises(Misuse):
                Engine(**{"offers": (), "random": Random(1), "now": 0.0, **good, **bad})
        engine = Engine(
            instance=OWN,
            network="\N{GRINNING FACE}" * 61,
            name="\N{GRINNING FACE}" * 46,
            node_id=b"",
            offers=(),
            random=Random(1),
            now=0.0,
        )
        engine.offer("k" * 16, 65535, 0.0)
        with self.assertRaises(Misuse):
            engine.offer("l" * 16, 65535, 0.0)
        (first, _) = engine.started(0.0)
        assert isinstance(first, SendToAll)
        self.assertEqual(len(decode_body(first.body).offers), 1)


class AnsweringTests(SynchronousTestCase):
    """What an engine says when it is asked."""

    query = encode_query(PEER, "")

    def asked(self, engine: Engine, count: int, host: str = "10.0.{}.2", now: float = 0.0) -> int:
        """Ask from many subnets or hosts at once, and count the answers."""
        for number in range(count):
            engine.received(self.query, host.format(number), 4000 + number, now)
        return sum(isinstance(action, SendTo) for _, action in run(engine, now + 1.0))

    def test_answer(self) -> None:
        """A question is answered once, where it came from, shortly after."""
        engine = make()
        engine.started(0.0)
        self.assertEqual(engine.received(self.query, "10.0.0.2", 4000, 0.0), [])
        self.assertEqual(engine.received(self.query, "10.0.0.2", 4000, 0.001), [])
        answers = [(at, a) for at, a in run(engine, 3.0) if isinstance(a, SendTo)]
        ((at, answer),) = answers
        self.assertTrue(0 < at <= 0.2)
        self.assertEqual((answer.host, answer.port), ("10.0.0.2", 4000))
        told = decode_body(answer.body)
        self.assertEqual(told, Answer(OWN, "", "own", b"", (REGISTRY,), 2, 5000))

    def test_repeated_question(self) -> None:
        """A question that comes again while its answer waits costs nothing of any budget."""
        engine = make()
        engine.started(0.0)
        for _ in range(100):
            engine.received(self.query, "10.0.0.1", 4000, 0.0)
        self.assertEqual(self.asked(engine, 63, "10.0.0.{}"), 64)

    def test_spread(self) -> None:
        """Many answerers answer at different times."""
        times = set()
        for seed in range(50):
            engine = make(seed=seed)
            engine.started(0.0)
            engine.received(self.query, "10.0.0.2", 4000, 0.0)
            times.add(engine.wake_at)
        self.assertEqual(len(times), 50)

    def test_never_larger(self) -> None:
        """A question that is shorter than its answer gets none."""
        engine = make()
        engine.started(0.0)
        engine.received(encode(Query(PEER, "")), "10.0.0.2", 4000, 0.0)
        self.assertEqual([a for _, a in run(engine, 3.0) if isinstance(a, SendTo)], [])
        self.assertEqual(engine.ignored[Ignored.UNANSWERED], 1)

    def test_never_larger_later(self) -> None:
        """Nor does one whose answer has grown since."""
        engine = make()
        engine.started(0.0)
        engine.received(encode(Query(PEER, "", bytes(30))), "10.0.0.2", 4000, 0.0)
        engine.offer("node", 5001, 0.0)
        engine.offer("k" * 16, 5001, 0.0)
        self.assertEqual([a for _, a in run(engine, 3.0) if isinstance(a, SendTo)], [])

    def test_nothing_offered(self) -> None:
        """One that offers nothing does not answer."""
        engine = make(())
        engine.started(0.0)
        self.assertEqual(self.asked(engine, 1), 0)

    def test_withdrawn(self) -> None:
        """What was withdrawn before the answer left is not offered in it."""
        engine = make()
        engine.started(0.0)
        engine.received(self.query, "10.0.0.2", 4000, 0.0)
        engine.withdraw("registry", 0.001)
        self.assertEqual([a for _, a in run(engine, 3.0) if isinstance(a, SendTo)], [])

    def test_budget_of_a_subnet(self) -> None:
        """Forged sources in one victim's subnet bring it a bounded number of answers."""
        for host in ("10.0.0.{}", "fd00::{}"):
            engine = make()
            engine.started(0.0)
            self.assertEqual(self.asked(engine, 200, host), 64)
            self.assertEqual(self.asked(engine, 200, host, now=2.0), 32)

    def test_budget_of_all(self) -> None:
        """Forged sources everywhere bring a bounded number of answers in all."""
        engine = make()
        engine.started(0.0)
        self.assertEqual(self.asked(engine, 256, "10.{}.0.2"), 256)
        self.assertEqual(self.asked(engine, 256, "10.{}.1.2", now=1.0), 64)

    def test_no_conversation(self) -> None:
        """Announcements, answers and goodbyes are never answered."""
        engine = make()
        engine.started(0.0)
        run(engine, 3.0)
        engine.received(announce(1), "10.0.0.2", 9, 3.0)
        engine.received(encode(Answer(PEER, "", "p", b"", (), 2, 5000)), "10.0.0.2", 9, 3.0)
        engine.received(goodbye(3), "10.0.0.2", 9, 3.0)
        self.assertEqual([a for _, a in run(engine, 30.0) if isinstance(a, SendTo)], [])


class SeeingTests(SynchronousTestCase):
    """Whom an engine sees."""

    def setUp(self) -> None:
        """An engine that only looks, and has asked already."""
        self.engine = make(())
        self.engine.started(0.0)
        run(self.engine, 5.0)

    def hear(self, data: bytes, now: float, host: str = "10.0.0.2") -> list[Action]:
        """Let a datagram come."""
        return self.engine.received(data, host, 9, now)

    def test_found(self) -> None:
        """An announcement is a sighting, at the address that it came from."""
        self.assertEqual(
            self.hear(announce(), 5.0),
            [Found(Sighting("10.0.0.2", PEER, "peer", b"", (REGISTRY,)))],
        )
        (sighting,) = self.engine.sightings
        self.assertEqual(sighting.port("registry"), 5000)
        self.assertIsNone(sighting.port("node"))

    def test_changed(self) -> None:
        """The same again is no news; a change is."""
        self.hear(announce(1), 5.0)
        self.assertEqual(self.hear(announce(2), 6.0), [])
        (action,) = self.hear(announce(3, offers=(NODE,)), 7.0)
        assert isinstance(action, Found)
        self.assertEqual(action.sighting.offers, (NODE,))

    def test_silence(self) -> None:
        """A peer is lost after three of its intervals and a little, not before."""
        self.hear(announce(1, interval=10_000), 5.0)
        self.hear(announce(2, interval=10_000), 20.0)
        ((at, action),) = run(self.engine, 1000.0)
        self.assertTrue(50.0 < at <= 53.0, at)
        self.assertEqual(action, Lost(Sighting("10.0.0.2", PEER, "peer", b"", (REGISTRY,))))
        self.assertEqual(self.engine.sightings, ())
        self.assertIsNone(self.engine.wake_at)

    def test_silence_among_others(self) -> None:
        """One that falls silent is lost, while the others stay."""
        self.hear(announce(1, instance(1)), 5.0, "10.0.0.1")
        self.hear(announce(1, instance(2), interval=100_000), 5.0, "10.0.0.2")
        ((_, action),) = run(self.engine, 100.0)
        assert isinstance(action, Lost)
        self.assertEqual(action.sighting.host, "10.0.0.1")
        self.assertEqual([s.host for s in self.engine.sightings], ["10.0.0.2"])

    def test_lost_comes_back(self) -> None:
        """A peer that fell silent is found again when it says something new, and only then."""
        self.hear(announce(1), 5.0)
        self.hear(announce(2), 6.0)
        run(self.engine, 100.0)
        for old in (1, 2):
            self.assertEqual(self.hear(announce(old), 100.0), [])
        self.assertEqual(self.engine.ignored[Ignored.REPLAY], 2)
        (action,) = self.hear(announce(3), 100.0)
        self.assertIsInstance(action, Found)

    def test_lost_twice(self) -> None:
        """One that was lost again is remembered from then on, and others no longer for that."""
        self.hear(announce(1), 5.0)
        run(self.engine, 30.0)
        self.hear(announce(1), 31.0, "10.0.0.3")
        self.hear(goodbye(2), 32.0, "10.0.0.3")
        self.hear(announce(2), 200.0)
        self.hear(goodbye(3), 201.0)
        self.assertEqual(len(self.hear(announce(3), 32.0 + GOODBYE_MEMORY, "10.0.0.3")), 1)
        self.hear(announce(4), 200.0 + GOODBYE_MEMORY)
        self.assertEqual(self.engine.sightings, ())
        (action,) = self.hear(announce(4), 201.0 + GOODBYE_MEMORY)
        self.assertIsInstance(action, Found)

    def test_goodbye(self) -> None:
        """A goodbye from the same address and instance ends a sighting at once."""
        self.hear(announce(1), 5.0)
        (action,) = self.hear(goodbye(2), 6.0)
        assert isinstance(action, Lost)
        self.assertEqual(action.sighting.instance, PEER)
        self.assertEqual(self.engine.sightings, ())

    def test_goodbye_of_others(self) -> None:
        """A goodbye from another address, instance, or time ends nothing."""
        self.hear(announce(5), 5.0)
        self.assertEqual(self.hear(goodbye(6), 6.0, "10.0.0.3"), [])
        self.assertEqual(self.hear(goodbye(6, instance(7)), 6.0), [])
        self.assertEqual(self.hear(goodbye(5), 6.0), [])
        self.assertEqual(len(self.engine.sightings), 1)
        self.assertEqual(self.engine.ignored[Ignored.UNKNOWN], 2)
        self.assertEqual(self.engine.ignored[Ignored.REPLAY], 1)

    def test_replay(self) -> None:
        """What was said before is not believed again: not the same, not older."""
        self.hear(announce(5), 5.0)
        for old in (5, 4):
            self.assertEqual(self.hear(announce(old, offers=(NODE,)), 6.0), [])
        self.assertEqual(self.engine.sightings[0].offers, (REGISTRY,))

    def test_replay_does_not_keep_alive(self) -> None:
        """A recording that is played again and again does not hide a peer's silence."""
        self.hear(announce(5), 5.0)
        lost: list[Action] = []
        for second in range(6, 60):
            lost += self.hear(announce(5), float(second))
            if lost:
                break
        self.assertEqual(lost, [Lost(Sighting("10.0.0.2", PEER, "peer", b"", (REGISTRY,)))])

    def test_replay_after_goodbye(self) -> None:
        """After a goodbye nothing brings the instance back for five minutes, not even news."""
        self.hear(announce(1), 5.0)
        self.hear(goodbye(2), 6.0)
        for sequence in (1, 3):
            self.assertEqual(self.hear(announce(sequence), 6.0 + GOODBYE_MEMORY - 1), [])
        self.assertEqual(self.engine.sightings, ())
        (action,) = self.hear(announce(4), 6.0 + GOODBYE_MEMORY)
        self.assertIsInstance(action, Found)

    def test_many_goodbyes(self) -> None:
        """Goodbyes are remembered in bounded memory: of very many, the oldest is forgotten."""
        for number in range(1, MAX_SIGHTINGS + 2):
            host = f"10.{number >> 8}.{number & 255}.2"
            now = 10.0 + number / 100
            self.hear(announce(1, instance(number)), now, host)
            self.hear(goodbye(2, instance(number)), now, host)
        self.assertEqual(len(self.hear(announce(3, instance(1)), 60.0, "10.0.1.2")), 1)
        self.assertEqual(len(self.hear(announce(3, instance(2)), 60.0, "10.0.2.2")), 0)

    def test_own(self) -> None:
        """What it said itself is no sighting, from whatever address it comes back."""
        self.assertEqual(self.hear(announce(1, OWN), 5.0), [])
        self.assertEqual(self.engine.ignored[Ignored.OWN], 1)

    def test_other_network(self) -> None:
        """Networks do not see each other, and do not answer each other."""
        engine = make(network="ours")
        engine.started(0.0)
        self.assertEqual(engine.received(announce(network="theirs"), "10.0.0.2", 9, 0.0), [])
        self.assertEqual(engine.received(announce(network=""), "10.0.0.2", 9, 0.0), [])
        engine.received(encode_query(PEER, "theirs"), "10.0.0.2", 9, 0.0)
        self.assertEqual([a for _, a in run(engine, 3.0) if isinstance(a, SendTo)], [])
        self.assertEqual(engine.ignored[Ignored.OTHER_NETWORK], 3)
        self.assertEqual(len(engine.received(announce(network="ours"), "10.0.0.2", 9, 3.0)), 1)

    def test_garbage(self) -> None:
        """Noise and malformed datagrams are ignored and counted."""
        for noise in (b"", b"hello", announce() + bytes(500)):
            self.assertEqual(self.hear(noise, 5.0), [])
        self.assertEqual(self.engine.received(announce(), "10.0.0.2", 0, 5.0), [])
        self.assertEqual(self.hear(announce()[:-1], 5.0), [])
        self.assertEqual(self.engine.ignored[Ignored.NOISE], 4)
        self.assertEqual(self.engine.ignored[Ignored.MALFORMED], 1)


class FloodTests(SynchronousTestCase):
    """What others cannot do to an engine."""

    def setUp(self) -> None:
        """An engine that sees one peer."""
        self.engine = make(())
        self.engine.started(0.0)
        self.engine.received(announce(interval=300_000), "10.9.9.9", 9, 0.0)

    def test_one_source(self) -> None:
        """One address can be 64 sightings, and no more; others are still found."""
        for number in range(1, 200):
            self.engine.received(announce(1, instance(number)), "10.0.0.2", 9, 0.0)
        self.assertEqual(len(self.engine.sightings), 1 + MAX_SIGHTINGS_PER_HOST)
        self.assertEqual(self.engine.ignored[Ignored.FULL], 199 - MAX_SIGHTINGS_PER_HOST)
        self.assertEqual(len(self.engine.received(announce(1), "10.0.0.3", 9, 0.0)), 1)

    def test_full(self) -> None:
        """When the table is full new ones are ignored, and nobody old is pushed out."""
        now = 0.0
        for number in range(1, MAX_SIGHTINGS + 100):
            host = f"10.{number >> 8}.{number & 255}.2"
            now += 0.001
            self.engine.received(announce(1, instance(number), interval=300_000), host, 9, now)
        self.assertEqual(len(self.engine.sightings), MAX_SIGHTINGS)
        self.assertEqual(self.engine.ignored[Ignored.FULL], 100)
        self.assertEqual(self.engine.sightings[0].host, "10.9.9.9")
        (action,) = self.engine.received(announce(2, offers=(NODE,)), "10.9.9.9", 9, now)
        self.assertIsInstance(action, Found)

    def test_room_again(self) -> None:
        """When those of one address are gone, it can be seen again."""
        for number in range(1, 65):
            self.engine.received(announce(1, instance(number)), "10.0.0.2", 9, 0.0)
        run(self.engine, 100.0)
        self.assertEqual(len(self.engine.received(announce(), "10.0.0.2", 9, 100.0)), 1)

    def test_budget_of_a_source(self) -> None:
        """A source that floods is not even decoded beyond its budget; others still are."""
        for _ in range(1000):
            self.engine.received(announce()[:-1], "10.0.0.2", 9, 0.0)
        self.assertEqual(self.engine.ignored[Ignored.MALFORMED], 200)
        self.assertEqual(self.engine.ignored[Ignored.FLOOD], 800)
        self.assertEqual(len(self.engine.received(announce(), "10.0.0.3", 9, 0.0)), 1)
        later = self.engine.received(announce(), "10.0.0.2", 9, 1.0)
        self.assertIsInstance(later[0], Found)

    def test_budget_of_all(self) -> None:
        """Very many sources together have a budget, too."""
        for number in range(5000):
            host = f"10.{number >> 8}.{number & 255}.3"
            self.engine.received(announce()[:-1], host, 9, 0.0)
        self.assertEqual(self.engine.ignored[Ignored.MALFORMED], MAX_SIGHTINGS - 1)
        self.assertGreater(self.engine.ignored[Ignored.FLOOD], 0)

    def test_seldom_swept(self) -> None:
        """However peers fall silent, there are no more than two wake-ups a second for it."""
        for number in range(1, 60):
            now = number / 100
            self.engine.received(announce(1, instance(number), interval=1000), "10.0.0.2", 9, now)
        times = {at for at, _ in run(self.engine, 100.0)}
        self.assertTrue(1 <= len(times) <= 4, times)
