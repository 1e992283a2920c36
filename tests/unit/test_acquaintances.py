"""Tests for L{flow512.registry.acquaintances}: whom a node visits, and whom it tells of."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.limits import Limits
from flow512.registry.acquaintances import (
    AT_ONCE,
    FEW,
    KEPT_FOR,
    LATELY,
    MOST_KEPT,
    MOST_TOLD_BY_ONE,
    TRIES,
    Acquaintances,
    Met,
    Visit,
)
from flow512.wire.fields import MAX_PEERS, Peer

OURS = b"o" * 32


def peer(number: int, host: str = "", port: int = 5000) -> Peer:
    """A peer, on a machine of its own unless told otherwise."""
    host = host or f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Peer(number.to_bytes(32, "big"), f"peer{number}", host, port)


class AcquaintancesCase(SynchronousTestCase):
    """One node's, at some time."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.banned: set[bytes] = {OURS}
        self.known = self.make()

    def make(self, limits: Limits | None = None, named: int = 0) -> Acquaintances:
        """Acquaintances with nobody among them."""
        return Acquaintances(
            limits or Limits(),
            Random(1),
            self.now,
            may_meet=lambda node: node not in self.banned,
            named=named,
        )

    def visits(self) -> list[Visit]:
        """Whom to visit now."""
        return self.known.visits(self.now)

    def meet_all(self) -> list[Peer]:
        """Visit, and reach, whoever is to be visited now; who that was."""
        met: list[Peer] = []
        while visits := self.visits():
            for visit in visits:
                assert visit.peer is not None
                self.known.met(visit, visit.peer, self.now)
                met.append(visit.peer)
        return met

    def fail_until(self, end: float, step: float = 10.0) -> list[tuple[float, Peer]]:
        """Let time pass, and nobody be reached; who was dialled, and when."""
        dialled = []
        while self.now < end:
            for visit in self.visits():
                assert visit.peer is not None
                self.known.failed(visit, self.now)
                dialled.append((self.now, visit.peer))
            self.now += step
        return dialled


class TellingTests(AcquaintancesCase):
    """What is told to others."""

    def test_only_who_was_met(self) -> None:
        """Who was only told of is told of to nobody, until it has proved itself."""
        self.known.told([peer(1), peer(2)], "teller", self.now)
        self.assertEqual(self.known.to_tell(self.now), ())
        first, second = self.visits()
        self.known.met(first, first.peer, self.now)
        self.known.failed(second, self.now)
        self.assertEqual(self.known.to_tell(self.now), (first.peer,))
        self.assertEqual(self.known.known(self.now), [first.peer])

    def test_not_the_asker(self) -> None:
        """Nobody is told of himself."""
        self.known.told([peer(1), peer(2)], "teller", self.now)
        self.meet_all()
        self.assertEqual(self.known.to_tell(self.now, but=peer(1).node), (peer(2),))

    def test_lately(self) -> None:
        """Who was met long ago is told of no longer, nor whoever fails."""
        self.known.told([peer(1), peer(2)], "teller", self.now)
        self.meet_all()
        self.now += LATELY - 1
        self.assertEqual(len(self.known.to_tell(self.now)), 2)
        visit = self.visits()[0]
        self.known.failed(visit, self.now)
        self.assertNotIn(visit.peer, self.known.to_tell(self.now))
        self.now += 1
        self.assertEqual(self.known.to_tell(self.now), ())

    def test_all_in_turn(self) -> None:
        """However many there are, no answer is longer than it may be, and each comes in turn."""
        everybody = [peer(number) for number in range(300)]
        for start in range(0, 300, 100):
            self.known.told(everybody[start : start + 100], str(start), self.now)
        self.meet_all()
        told = [self.known.to_tell(self.now) for _ in range(3)]
        self.assertEqual([len(each) for each in told], [MAX_PEERS] * 3)
        self.assertEqual({each for part in told for each in part}, set(everybody))

    def test_name(self) -> None:
        """A peer that does not say its name keeps the one that it was told of by."""
        self.known.told([peer(1)], "teller", self.now)
        [visit] = self.visits()
        self.known.met(visit, Peer(peer(1).node, "", peer(1).host, 5000), self.now)
        self.assertEqual([each.name for each in self.known.known(self.now)], ["peer1"])


class HearingTests(AcquaintancesCase):
    """What others may say, and what comes of it."""

    def test_who_is_never_dialled(self) -> None:
        """Nobody is looked up by name, and no address is dialled that stands for many or for us."""
        hosts = ["victim.example", "224.0.0.1", "0.0.0.0", "::", "255.255.255.255", "ff02::1", ""]
        told = [peer(number, host) for number, host in enumerate(hosts, 1) if host]
        self.known.told([*told, Peer(OURS, "", "10.0.0.1", 5000)], "liar", self.now)
        self.assertEqual(self.visits(), [])

    def test_banned(self) -> None:
        """Who is banned is not visited, though told of before."""
        self.known.told([peer(1), peer(2)], "teller", self.now)
        self.banned.add(peer(1).node)
        self.assertEqual(self.visits(), [Visit(peer(2))])

    def test_victim(self) -> None:
        """
        One address that is told of under many ids, by many, is dialled in six hours no more than
        the limits give for each hour, and those in its subnet likewise.
        """
        limits = Limits(dials_per_address=4, dials_per_subnet=8)
        self.known = self.make(limits)
        hours = 6
        end = self.now + hours * 3600
        dialled: list[tuple[float, Peer]] = []
        number = 0
        while self.now < end:
            for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
                victims = [peer(number + each, host, 1 + each) for each in range(20)]
                number += 20
                self.known.told(victims, f"liar{number}", self.now)
            dialled += self.fail_until(self.now + 600, step=30)
        by_host = Counter(each.host for _, each in dialled)
        self.assertLessEqual(max(by_host.values()), 4 + 4 * hours)
        self.assertLessEqual(len(dialled), 8 + 8 * hours)
        self.assertGreater(len(dialled), 2 * hours)

    def test_no_loop(self) -> None:
        """Who does not answer rests ever longer, and is forgotten in the end."""
        self.known.told([peer(1)], "liar", self.now)
        dialled = self.fail_until(self.now + 86400)
        times = [at for at, _ in dialled]
        gaps = [after - before for before, after in pairwise(times)]
        self.assertEqual(len(times), TRIES)
        self.assertTrue(all(after > 1.2 * before for before, after in pairwise(gaps)), gaps)

    def test_told_again(self) -> None:
        """Being told of somebody over and over does not make the rest any shorter."""
        self.known.told([peer(1)], "liar", self.now)
        end = self.now + 3600
        dialled = []
        while self.now < end:
            self.known.told([peer(1)], "liar", self.now)
            dialled += self.fail_until(self.now + 10)
        self.assertLess(len(dialled), TRIES + 2)

    def test_one_teller(self) -> None:
        """What one tells does not crowd out what another tells."""
        self.known.told([peer(number) for number in range(1, 5000)], "liar", self.now)
        self.known.told([peer(9999)], "honest", self.now)
        dialled = {each.peer for each in self.meet_all_once()}
        self.assertIn(peer(9999), dialled)
        self.assertEqual(len(dialled), MOST_TOLD_BY_ONE + 1)

    def test_many_addresses_are_one(self) -> None:
        """Whoever has a network of IPv6 addresses is one teller, whichever he speaks from."""
        half = MOST_TOLD_BY_ONE // 2
        for number in range(4):
            told = [peer(1000 * number + each) for each in range(half)]
            self.known.told(told, f"2001:db8::{number}", self.now)
        self.assertEqual(len(self.meet_all_once()), MOST_TOLD_BY_ONE)

    def meet_all_once(self) -> list[Visit]:
        """Visit everybody once, in vain."""
        done = []
        while visits := self.visits():
            for visit in visits:
                self.known.failed(visit, self.now)
            done += visits
        return done

    def test_who_was_met_stays(self) -> None:
        """However many are made up, whoever was met is not pushed out."""
        self.known = self.make(Limits(dials=200, dials_per_subnet=200))
        self.known.told([peer(1), peer(2)], "teller", self.now)
        self.meet_all()
        for number in range(100):
            made_up = [peer(1000 + 100 * number + each) for each in range(100)]
            self.known.told(made_up, f"liar{number}", self.now)
            self.fail_until(self.now + 60, step=60)
        for visit in self.visits():
            if visit.peer in (peer(1), peer(2)):
                self.known.met(visit, visit.peer, self.now)
        self.assertLessEqual(
            {peer(1), peer(2)}, {each.peer for each in self.known.kept(self.now)[0]}
        )

    def test_moved(self) -> None:
        """
        A peer is said to be elsewhere: nothing happens while it answers where it was met. When it
        does not, both are tried in turn.
        """
        self.known.told([peer(1)], "teller", self.now)
        self.meet_all()
        moved = peer(1, "10.9.9.9")
        self.known.told([moved], "teller", self.now)
        self.now += 60
        [visit] = self.visits()
        self.assertEqual(visit, Visit(peer(1)))
        self.known.failed(visit, self.now)
        self.known.told([moved], "teller", self.now)
        self.now += 60
        [visit] = self.visits()
        self.assertEqual(visit, Visit(moved))
        self.known.failed(visit, self.now)
        self.now += 60
        [visit] = self.visits()
        self.assertEqual(visit, Visit(peer(1)))
        self.known.failed(visit, self.now)
        self.now += 120
        [visit] = self.visits()
        self.known.met(visit, moved, self.now)
        self.assertEqual(self.known.known(self.now), [moved])

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 30), st.integers(0, 5), st.sampled_from(["met", "failed", "told"])
            ),
            max_size=60,
        )
    )
    def test_whatever_happens(self, events: list[tuple[int, int, str]]) -> None:
        """No more visits are under way than may be, and none twice."""
        self.known = self.make(Limits(dials=16, dials_per_subnet=16, dials_per_address=4))
        out: list[Visit] = []
        for number, host, what in events:
            self.now += number
            if what == "told":
                self.known.told([peer(number, f"10.0.0.{host + 1}")], str(host), self.now)
            elif out:
                visit = out.pop(number % len(out))
                if what == "met":
                    self.known.met(visit, visit.peer, self.now)
                else:
                    self.known.failed(visit, self.now)
            out += self.visits()
            nodes = [each.peer.node for each in out if each.peer]
            self.assertLessEqual(len(out), AT_ONCE)
            self.assertEqual(len(nodes), len(set(nodes)))
            self.assertLessEqual(len(self.known.known(self.now)), 16)


class RoundTests(AcquaintancesCase):
    """When they are visited again."""

    def test_alone(self) -> None:
        """Without a registry everybody is visited, soon again at first, then once a minute."""
        self.known.told([peer(number) for number in range(1, 21)], "teller", self.now)
        self.assertEqual(len(self.meet_all()), 20)
        counts = []
        for _ in range(5):
            met = 0
            for _ in range(60):
                self.now += 1
                met += len(self.meet_all())
            counts.append(met / 20)
        self.assertGreaterEqual(counts[0], 2)
        self.assertTrue(all(0.7 <= each <= 1.4 for each in counts[2:]), counts)

    def test_many(self) -> None:
        """The more there are, the rarer: nobody makes more than some four visits a second."""
        for start in range(0, 1000, 100):
            told = [peer(number) for number in range(start, start + 100)]
            self.known.told(told, str(start), self.now)
        self.meet_all()
        for _ in range(600):
            self.now += 1
            self.meet_all()
        met = 0
        for _ in range(300):
            self.now += 1
            met += len(self.meet_all())
        self.assertLess(met, 300 * 5)
        self.assertEqual(len(self.known.known(self.now)), 1000)

    def test_few(self) -> None:
        """While a registry is there, some few are kept warm, whatever is told."""
        everybody = [peer(number) for number in range(1, 101)]
        self.known.list_is({each.node for each in everybody}, self.now)
        self.known.told(everybody, "list", self.now)
        self.assertEqual(len(self.meet_all()), FEW)
        warm = set(self.known.known(self.now))
        for _ in range(3600):
            self.now += 1
            self.known.told(everybody, "list", self.now)
            self.assertLessEqual(set(self.meet_all()), warm)
        self.assertEqual(set(self.known.known(self.now)), warm)

    def test_few_are_replaced(self) -> None:
        """Another takes the place of one who is gone."""
        everybody = [peer(number) for number in range(1, 101)]
        self.known.list_is({each.node for each in everybody}, self.now)
        self.known.told(everybody, "list", self.now)
        gone = self.meet_all()[0]
        for _ in range(60):
            self.now += 10
            for visit in self.visits():
                if visit.peer == gone:
                    self.known.failed(visit, self.now)
                else:
                    self.known.met(visit, visit.peer, self.now)
        known = self.known.known(self.now)
        self.assertEqual(len(known), FEW)
        self.assertNotIn(gone, known)

    def test_not_on_the_list(self) -> None:
        """Who is not on the list of the registry is visited as if there was none."""
        listed = [peer(number) for number in range(1, 21)]
        self.known.list_is({each.node for each in listed}, self.now)
        self.known.told([*listed, peer(99)], "x", self.now)
        self.meet_all()
        counts: Counter[Peer] = Counter()
        for _ in range(230):
            self.now += 1
            counts.update(self.meet_all())
        self.assertEqual([*counts], [peer(99)])
        self.assertGreater(counts[peer(99)], 3)

    def test_leaves_the_list(self) -> None:
        """Who is on the list no longer is visited at once: he may follow another registry."""
        listed = {peer(number).node for number in range(1, 4)}
        self.known.list_is(listed, self.now)
        self.known.told([peer(number) for number in range(1, 4)], "list", self.now)
        self.meet_all()
        self.now += 20
        self.known.list_is(listed - {peer(2).node}, self.now)
        self.now += 6
        self.assertEqual(self.meet_all(), [peer(2)])

    def test_long_away(self) -> None:
        """Who was met once is tried every few minutes, however long he is away."""
        self.known.told([peer(1)], "x", self.now)
        self.meet_all()
        dialled = [at for at, _ in self.fail_until(self.now + 86400, step=30)]
        gaps = [after - before for before, after in pairwise(dialled)]
        self.assertLessEqual(max(gaps), 300 * 1.2 + 30)
        self.assertGreater(min(gaps[-100:]), 200)

    def test_at_once(self) -> None:
        """So many are visited at the same time, and the next when one has come to its end."""
        self.known.told([peer(number) for number in range(1, 101)], "teller", self.now)
        visits = self.visits()
        self.assertEqual(len(visits), AT_ONCE)
        self.assertEqual(self.visits(), [])
        self.assertFalse(self.known.is_settled(self.now))
        self.known.failed(visits[0], self.now)
        self.assertEqual(len(self.visits()), 1)


class NamedTests(AcquaintancesCase):
    """Places that the user named."""

    def test_tried_for_ever(self) -> None:
        """Nobody is there: it is tried again, at most once a minute, and never given up."""
        self.known = self.make(named=1)
        times = []
        while self.now < 9000:
            for visit in self.visits():
                self.assertEqual(visit, Visit(named=0))
                self.known.failed(visit, self.now)
                times.append(self.now)
            self.now += 1
        self.assertLess(times[1] - times[0], 4)
        self.assertGreater(len(times), 100)
        self.assertLess(len(times), 200)

    def test_met(self) -> None:
        """Who was met there is met again as all others are; if it is gone, the place is tried."""
        self.known = self.make(named=1)
        [visit] = self.visits()
        self.known.met(visit, peer(1), self.now)
        self.assertEqual(self.known.known(self.now), [peer(1)])
        self.now += 10
        [visit] = self.visits()
        self.assertEqual(visit, Visit(peer(1)))
        self.known.failed(visit, self.now)
        self.assertEqual(self.visits(), [Visit(named=0)])

    def test_no_address(self) -> None:
        """Who is reached by something else than TCP is nobody to tell of, and visited again."""
        self.known = self.make(named=1)
        [visit] = self.visits()
        self.known.met(visit, peer(1, "pipe"), self.now)
        self.assertEqual(self.known.to_tell(self.now), ())
        self.now += 60
        self.assertEqual(self.visits(), [Visit(named=0)])


class MemoryTests(AcquaintancesCase):
    """What is kept for a later run."""

    def test_kept(self) -> None:
        """The latest of those who were met are kept, and nobody who was only told of."""
        for number in range(1, 300):
            self.known.told([peer(number)], str(number), self.now)
            self.meet_all()
            self.now += 0.001
        self.known.told([peer(5000)], "x", self.now)
        kept, _ = self.known.kept(self.now)
        self.assertEqual([each.peer for each in kept], [peer(299 - n) for n in range(MOST_KEPT)])
        self.now += KEPT_FOR
        self.assertEqual(self.known.kept(self.now), ([], []))

    def test_remembered(self) -> None:
        """Who is remembered is visited, the latest first, and counts as there once it answers."""
        met = [Met(peer(number), 900.0 - number) for number in range(1, 4)]
        self.known.remember([*met, Met(Peer(OURS, "", "10.0.0.9", 1), 1.0)], [], self.now + 1)
        self.assertEqual(self.visits(), [])
        self.now += 1
        visits = self.visits()
        self.assertEqual([each.peer for each in visits], [peer(1), peer(2), peer(3)])
        self.assertEqual(self.known.known(self.now), [])
        self.known.met(visits[0], peer(1), self.now)
        self.known.failed(visits[1], self.now)
        self.assertEqual(self.known.known(self.now), [peer(1)])
        self.assertEqual(
            [each.peer for each in self.known.kept(self.now)[0]], [peer(1), peer(2), peer(3)]
        )

    def test_clock_went_back(self) -> None:
        """What was met in the future was met now."""
        self.known.remember([Met(peer(1), 9e9)], [], self.now)
        self.assertEqual(self.known.kept(self.now)[0], [Met(peer(1), self.now)])

    def test_registries(self) -> None:
        """The registry that lists us now comes first, then the earlier ones, then hearsay."""
        self.known.remember([], [Met(peer(7), 10.0)], self.now)
        self.known.registered(peer(8), self.now)
        self.known.registered(peer(9), self.now + 1)
        self.known.registered(peer(8), self.now + 2)
        self.known.told_registries([peer(6), peer(8, "10.6.6.6"), peer(5, "name")], "x", self.now)
        self.known.told_registries([Peer(OURS, "", "10.0.0.1", 5000)], "x", self.now)
        self.assertEqual(
            self.known.registries(self.now + 2),
            [
                Met(peer(8), self.now + 2),
                Met(peer(9), self.now + 1),
                Met(peer(7), 10.0),
                Met(peer(6), None),
            ],
        )
        self.assertEqual(self.known.registries_to_tell(self.now + 2), (peer(8), peer(9)))
        self.assertEqual(len(self.known.registries(self.now + LATELY)), 3)
        self.assertEqual(
            [each.peer for each in self.known.kept(self.now)[1]], [peer(8), peer(9), peer(7)]
        )

    def test_own_registry(self) -> None:
        """A registry that the node carries itself is told of, and no memory of its own."""
        ours = Peer(OURS, "", "127.0.0.1", 5000)
        self.known.registered(ours, self.now)
        self.assertEqual(self.known.registries_to_tell(self.now), (ours,))
        self.assertEqual(self.known.registries(self.now), [])
        self.assertEqual(self.known.kept(self.now), ([], []))

    def test_registries_are_few(self) -> None:
        """However many come by, few are kept."""
        for number in range(1, 100):
            self.known.registered(peer(number), self.now)
            self.known.told_registries([peer(1000 + number)], "x", self.now)
        self.assertEqual(len(self.known.kept(self.now)[1]), 8)
        self.assertEqual(len(self.known.registries(self.now)), 8 + 32)
