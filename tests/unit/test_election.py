"""Tests for L{flow512.discovery.election}: one node, and all that may happen to it, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import (
    MAX_TERM,
    MOST_RISE,
    Address,
    Claim,
    Heir,
    Origin,
    RegistryOffer,
)
from flow512.discovery.deeds import (
    Action,
    Dial,
    Follow,
    HangUp,
    Introduce,
    Lead,
    Point,
    State,
    StepDown,
    Tell,
    Why,
)
from flow512.discovery.election import Election, Mode
from flow512.discovery.waits import (
    DIAL_PATIENCE,
    DIALS,
    HANDOVERS,
    HELD_UP,
    LATE_SPREAD,
    LISTEN,
    LOOK_AT_WORSE,
    MOST_HEARD,
    NEXT_NAMED,
    PATIENCE,
    PREFERRED_AFTER,
    REACH_PATIENCE,
    SPREAD,
    STAGGER,
    STAND_AFTER,
    TELL_AGAIN,
    TURNS,
)

START = 1000.0
ME = bytes([100]) * 32


def node(number: int) -> bytes:
    """A node id; the smaller, the smaller its number."""
    return bytes([number]) * 32


def at(number: int) -> tuple[str, int]:
    """Where a node serves."""
    return (f"10.0.0.{number}", 5000)


def offer(number: int, since: int = 0, *, appointed: bool = False, term: int = 1) -> RegistryOffer:
    """What is seen of a node that leads."""
    return RegistryOffer(*at(number), node(number), term, since, appointed)


def claim(number: int, since: int = 0, *, appointed: bool = False, term: int = 1) -> Claim:
    """What a node claims that leads."""
    return Claim(node(number), term, since, appointed)


def heirs(*numbers: int) -> list[Heir]:
    """Those on a list who may lead."""
    return [Heir(node(number), *at(number)) for number in numbers]


class ElectionTestCase(SynchronousTestCase):
    """One node, which starts at L{START}."""

    def setUp(self) -> None:
        self.now = START
        self.offers: list[RegistryOffer] = []

    def begin(
        self,
        mode: Mode = Mode.AUTO,
        named: Sequence[tuple[Address, bytes | None]] = (),
        *,
        seed: int = 1,
        listens: float = LISTEN,
        term: int = 0,
        keeps_all: bool = False,
    ) -> None:
        """Start it."""
        self.election = Election(
            ME,
            mode,
            random=Random(seed),
            now=self.now,
            named=named,
            keeps_all=keeps_all,
            term=term,
            listens=listens,
        )

    def step(self) -> list[Action]:
        """Have it decide."""
        return self.election.step(self.now, self.offers)

    def run_for(self, seconds: float) -> list[Action]:
        """Let time pass; all that it decides meanwhile."""
        actions = self.step()
        end = self.now + seconds
        while self.election.wake_at is not None and self.election.wake_at <= end:
            self.now = max(self.now, self.election.wake_at)
            actions += self.step()
        self.now = end
        return actions + self.step()

    def listed(self, address: Address, claim: Claim) -> list[Action]:
        """Be listed somewhere."""
        self.election.listed(address, claim, self.now)
        return self.step()

    def lost(self, address: Address, *rest: object) -> list[Action]:
        """Lose a link."""
        self.election.lost(address, self.now, *rest)  # type: ignore[arg-type]  # heirs and count
        return self.step()

    def follow(self, number: int, **what: object) -> None:
        """Follow a node that leads."""
        self.offers = [offer(number, **what)]  # type: ignore[arg-type]  # as offer takes them
        self.assertIn(Dial(at(number)), self.run_for(LISTEN / 2))
        self.listed(at(number), claim(number, **what))  # type: ignore[arg-type]  # likewise
        self.assertEqual(self.election.following, at(number))

    def lead(self) -> Claim:
        """Lead, as nobody is there."""
        self.run_for(LISTEN + SPREAD)
        assert self.election.claim is not None
        self.assertIs(self.election.state, State.LEADING)
        self.election.count = 5
        return self.election.claim


class SeekingTests(ElectionTestCase):
    """From the start to a registry."""

    def test_alone(self) -> None:
        """A node that finds nobody leads after it has listened, in a term after all it knows."""
        self.begin(term=6)
        self.assertEqual(self.step(), [])
        self.assertIs(self.election.state, State.SEEKING)
        assert self.election.wake_at is not None
        self.assertTrue(LISTEN <= self.election.wake_at - START <= LISTEN + SPREAD)
        self.now = self.election.wake_at - 0.001
        self.assertEqual(self.step(), [])
        self.now += 0.001
        (action,) = self.step()
        assert isinstance(action, Lead)
        self.assertEqual((action.claim.node, action.claim.term, action.why), (ME, 7, Why.NOBODY))
        self.assertEqual(action.claim.since, int(self.now * 1000))
        self.assertIs(self.election.leader, action.claim)
        self.assertEqual((self.election.state, self.step()), (State.LEADING, []))

    def test_term_that_others_know(self) -> None:
        """Who leads claims a later term as soon as somebody knows one, and no earlier one again."""
        self.begin()
        mine = self.lead()
        self.election.known(mine.term + 4)
        self.assertEqual(self.election.claim, replace(mine, term=mine.term + 4))
        self.assertIs(self.election.leader, self.election.claim)
        later = self.election.claim
        self.election.known(mine.term)
        self.assertIs(self.election.claim, later)
        self.assertEqual(self.election.term, mine.term + 4)

    def test_term_of_a_follower(self) -> None:
        """Who follows only remembers it: what the leader claims is the leader's."""
        self.begin()
        self.follow(1)
        self.election.known(9)
        self.assertEqual((self.election.term, self.election.claim), (9, None))
        self.assertEqual(self.election.leader, claim(1))

    def test_latest_term(self) -> None:
        """A term from before that no message can carry is taken for the latest that one can."""
        self.begin(term=MAX_TERM + 5)
        self.assertEqual(self.election.term, MAX_TERM)

    def test_apart(self) -> None:
        """Nodes that start together do not lead together."""
        whens = set()
        for seed in range(50):
            self.begin(seed=seed)
            self.step()
            whens.add(self.election.wake_at)
        self.assertEqual(len(whens), 50)

    def test_deaf(self) -> None:
        """A node without a beacon has nothing to listen to, and leads at once."""
        self.begin(listens=0.0)
        self.assertIsInstance(self.step()[0], Lead)

    def test_seen(self) -> None:
        """A registry that is seen is tried at once, and followed once it has listed the node."""
        self.begin()
        self.offers = [offer(1)]
        self.assertEqual(self.step(), [Dial(at(1))])
        self.assertEqual(self.step(), [])
        self.assertEqual(
            self.listed(at(1), claim(1, term=4)), [Follow(at(1), claim(1, term=4), Why.FOUND)]
        )
        self.assertEqual((self.election.term, self.election.state), (4, State.FOLLOWING))
        self.assertEqual(self.run_for(100.0), [])

    def test_best_first(self) -> None:
        """Of several, the best are tried first, two at a time; the others once these fail."""
        self.begin()
        self.offers = [offer(number, since=number) for number in (5, 3, 4, 2)]
        self.assertEqual(self.step(), [Dial(at(2)), Dial(at(3))])
        self.assertEqual(self.lost(at(2)), [Dial(at(4))])
        self.assertEqual(self.lost(at(4)), [Dial(at(5))])
        self.assertEqual(
            self.listed(at(5), claim(5)), [Follow(at(5), claim(5), Why.FOUND), HangUp(at(3))]
        )

    def test_one_address_of_each(self) -> None:
        """A node that is seen at two addresses is tried at one of them at a time."""
        self.begin()
        self.offers = [offer(1), RegistryOffer("fd00::1", 5000, node(1), 1, 0)]
        self.assertEqual(self.step(), [Dial(at(1))])
        self.assertEqual(self.lost(at(1)), [Dial(("fd00::1", 5000))])

    def test_link_local(self) -> None:
        """An address that needs an interface is tried only if none else turned up in time."""
        near = RegistryOffer("fe80::1%eth0", 5000, node(1), 1, 0)
        for mode in (Mode.AUTO, Mode.NEVER):
            self.begin(mode)
            self.offers = [near]
            self.assertEqual(self.run_for(LISTEN - 0.1), [])
            self.assertEqual(self.run_for(0.1)[:1], [Dial(near.address)])

    def test_in_vain(self) -> None:
        """What is announced and leads nowhere holds the node up, but not for long."""
        self.begin()
        self.offers = [offer(1)]
        actions = self.run_for(LISTEN + SPREAD + HELD_UP)
        self.assertEqual(actions[:2], [Dial(at(1)), HangUp(at(1))])
        self.assertTrue(any(isinstance(action, Lead) for action in actions))

    def test_flood(self) -> None:
        """However many are announced that are not there, the node leads in time."""
        self.begin()
        self.offers = [offer(number) for number in range(1, 90)]
        actions = self.run_for(LISTEN + SPREAD + HELD_UP)
        leads = [isinstance(action, Lead) for action in actions].index(True)
        dials = [action for action in actions[:leads] if isinstance(action, Dial)]
        self.assertLessEqual(len(dials), DIALS * (1 + (LISTEN + SPREAD + HELD_UP) / DIAL_PATIENCE))

    def test_tried_again(self) -> None:
        """An address that failed is tried again, less and less often."""
        self.begin(Mode.NEVER)
        self.offers = [offer(1)]
        times = []
        for _ in range(8):
            while Dial(at(1)) not in self.step():
                assert self.election.wake_at is not None
                self.now = self.election.wake_at
            times.append(self.now)
            self.election.lost(at(1), self.now)
        gaps = [later - sooner for sooner, later in pairwise(times)]
        self.assertLess(gaps[0], 2.0)
        self.assertGreater(gaps[-1], 5.0)
        self.assertLess(gaps[-1], 11.0)

    def test_never(self) -> None:
        """Mode never waits for ever, but follows; even a registry of its own identity."""
        self.begin(Mode.NEVER)
        self.assertEqual(self.run_for(1e6), [])
        self.offers = [RegistryOffer(*at(1), ME, 1, 0)]
        self.assertEqual(self.step(), [Dial(at(1))])

    def test_itself(self) -> None:
        """A node that may lead does not look for itself."""
        self.begin()
        self.offers = [RegistryOffer(*at(1), ME, 1, 0)]
        self.assertEqual(self.run_for(LISTEN), [])

    def test_always(self) -> None:
        """Mode always leads at once, appointed, whoever is there."""
        self.begin(Mode.ALWAYS)
        (action,) = self.step()
        assert isinstance(action, Lead)
        self.assertEqual((action.claim.appointed, action.why), (True, Why.APPOINTED))

    def test_earlier_term(self) -> None:
        """A registry that keeps to an earlier term than the node knows is not followed."""
        self.begin(Mode.NEVER, term=5)
        self.offers = [offer(1)]
        self.step()
        self.assertEqual(self.listed(at(1), claim(1, term=4)), [HangUp(at(1))])
        self.assertIsNone(self.election.following)
        self.assertIn(Dial(at(1)), self.run_for(2.0))
        self.assertIn(
            Follow(at(1), claim(1, term=5), Why.FOUND), self.listed(at(1), claim(1, term=5))
        )

    def test_absurd_term(self) -> None:
        """A registry with an absurd term makes the node's own rise by little."""
        self.begin(Mode.NEVER, term=5)
        self.offers = [offer(1)]
        self.step()
        self.listed(at(1), claim(1, term=2**62))
        self.assertEqual(self.election.term, 5 + MOST_RISE)


class NamedTests(ElectionTestCase):
    """Registries that the user named."""

    one: Address = ("one", 5000)
    two: Address = ("two", 5000)

    def named(self, mode: Mode = Mode.AUTO, **more: bool) -> None:
        """Start with two of them."""
        self.begin(mode, [(self.one, node(1)), (self.two, None)], **more)  # type: ignore[arg-type]

    def test_first(self) -> None:
        """The first is tried at once, the next a second later; what else is seen has to wait."""
        self.named()
        self.offers = [offer(7)]
        self.assertEqual(self.step(), [Dial(self.one, node(1))])
        self.assertEqual(self.run_for(NEXT_NAMED), [Dial(self.two)])
        self.assertEqual(self.run_for(PATIENCE - 0.1), [])
        self.assertEqual(self.run_for(0.1), [Dial(at(7))])

    def test_answers(self) -> None:
        """The first that answers is followed; those that are preferred to it are kept trying."""
        self.named()
        self.run_for(NEXT_NAMED)
        self.assertEqual(self.listed(self.two, claim(2)), [Follow(self.two, claim(2), Why.NAMED)])
        self.assertTrue(self.election.is_linked(self.one))
        self.lost(self.one)
        self.assertTrue(self.election.is_linked(self.one))

    def test_preferred_is_back(self) -> None:
        """The preferred one is gone back to when it has been there for five seconds in a row."""
        self.named()
        self.run_for(NEXT_NAMED)
        self.listed(self.two, claim(2))
        self.assertEqual(self.listed(self.one, claim(1)), [])
        self.run_for(PREFERRED_AFTER - 0.1)
        self.lost(self.one)
        self.assertEqual(self.listed(self.one, claim(1)), [])
        self.assertEqual(self.run_for(PREFERRED_AFTER - 0.1), [])
        self.assertEqual(
            self.run_for(0.1),
            [
                Introduce(self.two, self.one, claim(1)),
                Follow(self.one, claim(1), Why.NAMED),
                HangUp(self.two),
            ],
        )

    def test_appointed_are_not_introduced(self) -> None:
        """
        Two appointed ones are not told of each other by who goes back to the one he prefers: the
        older one is the other, and would have him sent to it again.
        """
        self.named()
        self.run_for(NEXT_NAMED)
        self.listed(self.two, claim(2, appointed=True))
        back = claim(1, 10, appointed=True)
        self.listed(self.one, back)
        self.assertEqual(
            self.run_for(PREFERRED_AFTER),
            [Follow(self.one, back, Why.NAMED), HangUp(self.two)],
        )

    def test_failover(self) -> None:
        """When the one that is followed is gone, the next is tried within a second."""
        self.named()
        self.step()
        self.listed(self.one, claim(1))
        self.assertEqual(self.run_for(10.0), [])
        self.assertFalse(self.election.is_linked(self.two))
        self.assertEqual(self.lost(self.one), [])
        self.assertEqual(self.run_for(NEXT_NAMED), [Dial(self.two)])
        self.assertIn(Follow(self.two, claim(2), Why.NAMED), self.listed(self.two, claim(2)))

    def test_all(self) -> None:
        """If asked to, it is listed by all of them all the time, and follows one."""
        self.named(keeps_all=True)
        self.assertEqual(self.step(), [Dial(self.one, node(1)), Dial(self.two)])
        self.listed(self.one, claim(1))
        self.assertEqual(self.listed(self.two, claim(2)), [])
        self.assertEqual(self.run_for(100.0), [])
        self.assertEqual(self.lost(self.one), [Follow(self.two, claim(2), Why.NAMED)])

    def test_in_vain(self) -> None:
        """If none of them answers, and none is seen, the node leads; and ends it when one does."""
        self.named()
        actions = self.run_for(PATIENCE + NEXT_NAMED + SPREAD)
        (lead,) = (action for action in actions if isinstance(action, Lead))
        back = claim(2, since=2**50, appointed=True)
        self.assertEqual(self.listed(self.two, back), [Tell(self.two, None)])
        self.assertEqual(self.run_for(PREFERRED_AFTER - 0.1), [])
        self.assertEqual(
            self.run_for(0.1), [StepDown(self.two, back), Follow(self.two, back, Why.NAMED)]
        )
        self.assertEqual(self.election.term, lead.claim.term)

    def test_both_elected(self) -> None:
        """
        A leader does not give way to a named one that is elected as well and no better: that one
        gives way to it, and they would change places for ever. It is told who leads, once.
        """
        self.named()
        self.run_for(PATIENCE + NEXT_NAMED + SPREAD)
        self.election.count = 5
        worse = claim(2, since=2**50)
        self.assertEqual(self.listed(self.two, worse), [Tell(self.two, None)])
        self.assertEqual(self.run_for(100.0), [])
        self.assertIs(self.election.state, State.LEADING)

    def test_always(self) -> None:
        """
        Who must lead looks at those that were named as well: sends its nodes to one that is better,
        and tells one that is not, now and then.
        """
        self.named(Mode.ALWAYS)
        self.run_for(NEXT_NAMED)
        worse = claim(2, since=2**50, appointed=True)
        self.assertEqual(self.listed(self.two, worse), [Tell(self.two, None), HangUp(self.two)])
        self.assertEqual(self.run_for(TELL_AGAIN - 1.0), [])
        self.assertEqual(self.run_for(1.5), [Dial(self.two)])
        better = claim(1, appointed=True)
        self.assertIn(Point(self.one, better), self.listed(self.one, better))

    def test_sends_on(self) -> None:
        """A named one that sends its nodes on is not gone back to for as long as it does."""
        self.named(Mode.NEVER)
        self.step()
        self.listed(self.one, claim(1))
        self.election.handed(self.one, offer(7, since=5), self.now)
        self.assertIn(Dial(at(7)), self.run_for(0.5))
        self.assertEqual(
            self.listed(at(7), claim(7, since=5)), [Follow(at(7), claim(7, since=5), Why.HANDED)]
        )
        self.assertTrue(self.election.is_linked(self.one))
        self.assertNotIn(Follow, [type(action) for action in self.run_for(100.0)])
        self.listed(self.one, claim(1))
        actions = self.run_for(PREFERRED_AFTER)
        self.assertIn(Follow(self.one, claim(1), Why.NAMED), actions)


class LossTests(ElectionTestCase):
    """When the leader is gone."""

    def stands_after(self, *others: int, **more: object) -> float:
        """How long it waits for its turn, after the loss of node 1."""
        self.begin(**more)  # type: ignore[arg-type]  # as begin takes them
        self.follow(1)
        self.offers = []
        lost_at = self.now
        self.lost(at(1), heirs(1, 100, *others), 5)
        self.assertIs(self.election.state, State.STANDING)
        while self.election.claim is None:
            assert self.election.wake_at is not None
            self.now = self.election.wake_at
            for action in self.step():
                if isinstance(action, Dial):
                    self.election.lost(action.address, self.now)
        self.assertIs(self.election.why, Why.LOST)
        return self.now - lost_at

    def test_turns(self) -> None:
        """Each heir has a turn of its own, in the order of node ids."""
        for rank in range(TURNS):
            turn = STAND_AFTER + rank * STAGGER
            waited = self.stands_after(*range(2, 2 + rank), *range(150, 160))
            self.assertTrue(turn <= waited <= turn + 0.15, (rank, waited))

    def test_late_turns(self) -> None:
        """Those after the eighth, and who is on no list, have theirs at random after that."""
        turn = STAND_AFTER + TURNS * STAGGER
        waits = {self.stands_after(*range(2, 42), seed=seed) for seed in range(20)}
        self.assertEqual(len(waits), 20)
        self.assertTrue(all(turn <= waited <= turn + LATE_SPREAD + 0.1 for waited in waits))

    def test_next_term(self) -> None:
        """Whoever leads next does so in a later term."""
        self.begin()
        self.follow(1, term=7)
        self.offers = []
        self.lost(at(1), heirs(100))
        self.run_for(1.0)
        assert self.election.claim is not None
        self.assertEqual(self.election.claim.term, 8)

    def test_found_meanwhile(self) -> None:
        """If another leads by then, it is followed."""
        self.begin()
        self.follow(1)
        self.lost(at(1), heirs(2, 3, 4, 100), 5)
        self.run_for(0.3)
        self.offers = [offer(3, since=9)]
        self.assertIn(Dial(at(3)), self.run_for(0.1))
        self.assertIn(
            Follow(at(3), claim(3, since=9), Why.FOUND), self.listed(at(3), claim(3, since=9))
        )

    def test_heirs_are_asked(self) -> None:
        """Without a beacon, the heirs are asked one after the other whether they lead by now."""
        self.begin(Mode.NEVER)
        self.follow(1)
        self.offers = []
        self.lost(at(1), heirs(1, 2, 3), 5)
        lost_at, asked = self.now, {}
        while len(asked) < 2:
            assert self.election.wake_at is not None
            self.now = self.election.wake_at
            for action in self.step():
                if isinstance(action, Dial):
                    asked.setdefault(action.address, self.now - lost_at)
                    self.election.lost(action.address, self.now)
        self.assertTrue(STAND_AFTER < asked[at(2)] < asked[at(3)] < 2.0)

    def test_back_at_once(self) -> None:
        """A leader that is there again before anybody's turn is followed again."""
        self.begin()
        self.follow(1)
        self.lost(at(1), heirs(1, 100), 5)
        self.assertIn(Dial(at(1)), self.run_for(0.4))
        self.assertIn(Follow(at(1), claim(1), Why.FOUND), self.listed(at(1), claim(1)))
        self.assertEqual(self.run_for(100.0), [])

    def test_dead_leader_holds_nobody_up(self) -> None:
        """The beacon still sees a dead leader; waiting for its answer puts off no turn."""
        self.begin()
        self.follow(1)
        self.lost(at(1), heirs(1, 100), 5)
        actions = self.run_for(STAND_AFTER + 0.1)
        self.assertIn(Dial(at(1)), actions)
        self.assertIsInstance(next(each for each in actions if isinstance(each, Lead)), Lead)

    def test_named_heir(self) -> None:
        """Whom a leader that stops has named leads at once when it is gone, and not before."""
        self.begin()
        self.follow(1)
        self.election.handed(at(1), RegistryOffer(*at(100), ME), self.now)
        self.assertEqual(self.run_for(10.0), [])
        self.offers = []
        actions = self.lost(at(1), heirs(2, 3, 100), 5)
        (lead,) = (action for action in actions if isinstance(action, Lead))
        self.assertIs(lead.why, Why.HEIR)

    def test_another_heir(self) -> None:
        """The others go to the one who was named, and take their turn if he is not there."""
        self.begin()
        self.follow(1)
        self.election.handed(at(1), RegistryOffer(*at(3), node(3)), self.now)
        self.step()
        self.offers = []
        self.lost(at(1), heirs(2, 3, 100), 5)
        self.assertIn(Dial(at(3)), self.run_for(0.25))
        self.lost(at(3))
        self.assertTrue(any(isinstance(each, Lead) for each in self.run_for(3.0)))

    def test_heir_in_vain(self) -> None:
        """Who may not lead does not lead, whoever names it."""
        self.begin(Mode.NEVER)
        self.follow(1)
        self.election.handed(at(1), RegistryOffer(*at(100), ME), self.now)
        self.offers = []
        self.lost(at(1), heirs(1), 5)
        self.assertFalse(any(isinstance(each, Lead) for each in self.run_for(100.0)))


class FollowingTests(ElectionTestCase):
    """While all is well."""

    def test_forged(self) -> None:
        """
        Whatever is announced, a node stays with the registry that it follows, and dials nobody; its
        leader is told, after a while and not often.
        """
        self.begin()
        self.follow(50, since=500)
        self.offers += [offer(number, appointed=True) for number in range(1, 10)]
        actions = self.run_for(100.0)
        self.assertEqual({type(action) for action in actions}, {Tell})
        self.assertLessEqual(len(actions), 9 * (1 + 100.0 / TELL_AGAIN))
        self.assertEqual(self.election.following, at(50))

    def test_worse(self) -> None:
        """Of those that are no better nobody is told."""
        self.begin()
        self.follow(1, since=500)
        self.offers += [offer(2, since=501), RegistryOffer(*at(3))]
        self.assertEqual(self.run_for(100.0), [])

    def test_handed_over(self) -> None:
        """Sent on, the node is listed there first, and then leaves the registry that sent it."""
        self.begin()
        self.follow(1)
        self.election.handed(at(1), offer(2, term=3), self.now)
        self.assertEqual(self.run_for(0.25), [Dial(at(2))])
        self.assertEqual(self.election.following, at(1))
        self.assertEqual(
            self.listed(at(2), claim(2, term=3)),
            [Follow(at(2), claim(2, term=3), Why.HANDED), HangUp(at(1))],
        )
        self.assertEqual(self.election.term, 3)

    def test_handed_in_vain(self) -> None:
        """Sent to where nobody is, it stays, and tries again for as long as it is sent."""
        self.begin()
        self.follow(1)
        self.election.handed(at(1), offer(2), self.now)
        self.assertEqual(self.run_for(0.25), [Dial(at(2))])
        self.assertEqual(self.lost(at(2)), [])
        self.assertEqual(self.election.following, at(1))
        self.assertEqual(self.run_for(2.0), [Dial(at(2))])
        self.lost(at(2))
        self.listed(at(1), claim(1))
        self.assertEqual(self.run_for(100.0), [])

    def test_sent_in_circles(self) -> None:
        """Registries that send a node to each other for ever are obeyed a few times a minute."""
        self.begin()
        self.follow(1)
        here, there, moves = 1, 2, 0
        for _ in range(100):
            self.election.handed(at(here), offer(there), self.now)
            if Dial(at(there)) in self.run_for(0.25):
                moves += 1
                self.listed(at(there), claim(there))
                here, there = there, here
        self.assertLessEqual(moves, HANDOVERS * (1 + (self.now - START) / 60))

    def test_of_no_concern(self) -> None:
        """What a link says that is not followed, or not there, changes nothing."""
        self.begin()
        self.follow(1)
        self.election.handed(at(9), offer(2), self.now)
        self.election.listed(at(9), claim(9), self.now)
        self.election.lost(at(9), self.now)
        self.assertEqual(self.run_for(10.0), [])

    def test_later_term(self) -> None:
        """A leader whose term rises is followed as before, in that term."""
        self.begin()
        self.follow(1)
        self.assertEqual(self.listed(at(1), claim(1, term=9)), [])
        self.assertEqual((self.election.term, self.election.leader), (9, claim(1, term=9)))


class LeadingTests(ElectionTestCase):
    """A leader, and others that lead."""

    def test_better(self) -> None:
        """One that claims to be better is dialled at once, and followed once that is proven."""
        self.begin()
        self.lead()
        self.offers = [offer(1, since=1)]
        self.assertEqual(self.run_for(0.0), [Dial(at(1))])
        self.assertIs(self.election.state, State.LEADING)
        proven = claim(1, since=1, term=4)
        self.assertEqual(
            self.listed(at(1), proven), [StepDown(at(1), proven), Follow(at(1), proven, Why.BETTER)]
        )
        self.assertEqual((self.election.claim, self.election.leader), (None, proven))

    def test_not_there(self) -> None:
        """One that is announced to be better, and does not answer, is no reason to step down."""
        self.begin()
        claim = self.lead()
        self.offers = [offer(number, appointed=True) for number in range(1, 60)]
        actions = self.run_for(600.0)
        self.assertEqual({type(action) for action in actions}, {Dial, HangUp})
        self.assertIs(self.election.leader, claim)
        self.assertLessEqual(len(actions), 2 * DIALS * (1 + 600.0 / DIAL_PATIENCE))

    def test_lied(self) -> None:
        """One that was announced as better, and turns out not to be, is told who leads."""
        self.begin()
        self.lead()
        self.offers = [offer(1, since=1)]
        self.run_for(0.0)
        actions = self.listed(at(1), claim(1, since=2**50))
        self.assertEqual(actions, [Tell(at(1), None), HangUp(at(1))])
        self.assertEqual(self.run_for(TELL_AGAIN - 1.0), [])
        self.assertEqual(self.run_for(2.0), [Dial(at(1))])

    def test_worse(self) -> None:
        """One that claims to be no better usually comes by itself; if not, it is told."""
        self.begin()
        self.lead()
        self.offers = [offer(1, since=2**50)]
        self.assertEqual(self.run_for(LOOK_AT_WORSE - 0.1), [])
        self.assertEqual(self.run_for(0.1), [Dial(at(1))])
        self.assertEqual(
            self.listed(at(1), claim(1, since=2**50)), [Tell(at(1), None), HangUp(at(1))]
        )

    def test_told(self) -> None:
        """A registry that a node tells of is looked at like any other, within limits."""
        self.begin()
        self.lead()
        self.election.heard(replace_origin(offer(1, since=1)), self.now)
        self.election.heard(RegistryOffer(*at(2), ME, 1, 0), self.now)
        for number in range(10, 10 + 2 * MOST_HEARD):
            self.election.heard(offer(number, since=2**50), self.now)
        actions = self.run_for(50.0)
        dialled = {action.address for action in actions if isinstance(action, Dial)}
        self.assertIn(at(1), dialled)
        self.assertNotIn(at(2), dialled)
        self.assertLessEqual(len(dialled), MOST_HEARD)

    def test_cut_off(self) -> None:
        """
        A leader of nobody, whom another leader cannot reach, goes there though that one is no
        better: behind a firewall it would lead nobody for ever.
        """
        self.begin()
        self.lead()
        self.election.count = 1
        self.offers = [offer(1, since=2**50)]
        self.run_for(LOOK_AT_WORSE)
        worse = claim(1, since=2**50)
        self.assertEqual(self.listed(at(1), worse), [Tell(at(1), None)])
        self.assertEqual(self.run_for(REACH_PATIENCE - 1.0), [])
        self.election.not_reached(at(1))
        self.election.not_reached(at(9))
        self.assertEqual(self.step(), [StepDown(at(1), worse), Follow(at(1), worse, Why.BETTER)])

    def test_reached(self) -> None:
        """If the other one does reach it, or says nothing, it leads on."""
        self.begin()
        self.lead()
        self.election.count = 1
        self.offers = [offer(1, since=2**50)]
        self.run_for(LOOK_AT_WORSE)
        self.listed(at(1), claim(1, since=2**50))
        self.assertEqual(self.run_for(REACH_PATIENCE), [HangUp(at(1))])

    def test_lies_of_being_cut_off(self) -> None:
        """A leader of others does not believe that it cannot be reached."""
        self.begin()
        self.lead()
        self.election.count = 2
        self.offers = [offer(1, since=2**50)]
        self.run_for(LOOK_AT_WORSE)
        self.election.not_reached(at(1))
        actions = self.listed(at(1), claim(1, since=2**50))
        self.assertEqual(actions, [Tell(at(1), None), HangUp(at(1))])

    def test_appointed_is_better(self) -> None:
        """An appointed one takes over, once it has been there for five seconds."""
        self.begin()
        self.lead()
        self.offers = [offer(1, since=2**50, appointed=True)]
        self.run_for(0.0)
        proven = claim(1, since=2**50, appointed=True)
        self.assertEqual(self.listed(at(1), proven), [])
        self.assertEqual(self.run_for(PREFERRED_AFTER - 0.1), [])
        self.assertEqual(
            self.run_for(0.1), [StepDown(at(1), proven), Follow(at(1), proven, Why.BETTER)]
        )

    def test_former_list(self) -> None:
        """
        A leader looks among the heirs of the one before for another leader, now and then; but not
        among those who follow it.
        """
        self.begin()
        self.follow(1)
        self.offers = []
        self.lost(at(1), heirs(100, 101, 102), 5)
        self.run_for(STAND_AFTER + 0.2)
        self.assertIs(self.election.state, State.LEADING)
        self.election.followed_by({node(102)})
        dialled = [each.address for each in self.run_for(300.0) if isinstance(each, Dial)]
        self.assertEqual(set(dialled), {at(101)})
        self.assertLess(len(dialled), 12)

    def test_term_rises(self) -> None:
        """A later term that somebody knows is taken over, and nothing else changes."""
        self.begin()
        before = self.lead()
        self.election.known(40)
        assert self.election.claim is not None
        self.assertEqual(self.election.claim.term, 40)
        self.assertEqual(self.election.claim.rank, before.rank)
        self.assertIs(self.election.leader, self.election.claim)
        self.election.known(3)
        self.assertEqual(self.election.term, 40)

    def test_appointed_points(self) -> None:
        """
        An appointed leader sends its nodes to one that is appointed as well and better, goes on
        when that one is gone, and never steps down for one that is elected.
        """
        self.begin(Mode.ALWAYS)
        self.step()
        assert self.election.claim is not None
        self.offers = [offer(2, since=0)]
        self.assertEqual(self.run_for(LOOK_AT_WORSE), [Dial(at(2))])
        self.assertEqual(self.listed(at(2), claim(2)), [Tell(at(2), None), HangUp(at(2))])
        self.offers = [offer(1, since=1, appointed=True)]
        self.assertEqual(self.run_for(0.0), [Dial(at(1))])
        better = claim(1, since=1, appointed=True, term=8)
        self.assertEqual(
            self.listed(at(1), better), [Point(at(1), better), Follow(at(1), better, Why.BETTER)]
        )
        self.assertEqual((self.election.state, self.election.term), (State.FOLLOWING, 8))
        self.assertIsNotNone(self.election.claim)
        self.assertEqual(self.run_for(100.0), [])
        self.offers = []
        self.assertEqual(self.lost(at(1)), [Point(None, None)])
        self.assertIs(self.election.state, State.LEADING)
        self.assertEqual(self.election.leader, self.election.claim)

    def test_appointed_points_elsewhere(self) -> None:
        """If a still better one turns up, the nodes are sent there."""
        self.begin(Mode.ALWAYS)
        self.step()
        self.offers = [offer(2, since=2, appointed=True)]
        self.step()
        self.listed(at(2), claim(2, since=2, appointed=True))
        self.offers.append(offer(1, since=1, appointed=True))
        self.assertEqual(self.run_for(0.0), [Dial(at(1))])
        better = claim(1, since=1, appointed=True)
        self.assertEqual(
            self.listed(at(1), better),
            [HangUp(at(2)), Point(at(1), better), Follow(at(1), better, Why.BETTER)],
        )


def replace_origin(offer: RegistryOffer) -> RegistryOffer:
    """The same, from a registry."""
    return replace(offer, origin=Origin.REGISTRY)
