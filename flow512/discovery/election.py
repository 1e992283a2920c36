"""
Which registry a node follows, and when it leads: every decision, and no deed.

docs/bootstrap.rst has the words, the rule and the invariants. States (L{State})::

    seeking ──a link is listed──> following ──the link is lost──> standing
    seeking ──nobody in time──> leading <──its turn──────────────── standing
    following ──handed over, or what the user prefers──> following another
    following ──named as heir, and the leader stops──> leading
    leading ──a better one proved itself──> following (who is appointed leads on, and points there)

A I{link} is a registration at an address, under way or listed. Links that the user named (I{named})
are for ever: whoever has them tries by itself. All others end with their first failure, and are
made again here, later each time.

Everything that happens is told by a method of its own, and then L{Election.step} is to be called.
It gives the actions to take, in order; L{Election.wake_at} is when to call it at the latest.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from math import inf
from random import Random

from msgspec.structs import replace

from flow512.discovery.claims import MAX_TERM, Address, Claim, Heir, RegistryOffer, rise
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
from flow512.discovery.deeds import (
    Mode as Mode,
)
from flow512.discovery.hints import Hints
from flow512.discovery.limits import Budget
from flow512.discovery.links import Link, better
from flow512.discovery.prospects import Prospects
from flow512.discovery.resting import Resting
from flow512.discovery.succession import Succession
from flow512.discovery.waits import (
    ARRIVALS,
    DIAL_PATIENCE,
    DIALS,
    HANDOVERS,
    HELD_UP,
    HELD_UP_UNCLAIMED,
    LISTEN,
    LOOK_AT_WORSE,
    NEXT_NAMED,
    PATIENCE,
    PREFERRED_AFTER,
    REACH_PATIENCE,
    SAID_ANEW,
    SPREAD,
    TELL_AGAIN,
)


class Election:
    """
    One node's way to its registry, and to its office.

    @ivar term: the latest that is known.
    @ivar claim: what this node claims, if it leads or is appointed; else L{None}.
    @ivar following: the link whose list counts; L{None} while there is none, or this node leads.
    @ivar leader: what the leader claims that this node follows, itself if it leads.
    @ivar why: why it is that one.
    @ivar count: how many peers are on the latest list.
    @ivar wake_at: when to call L{step} at the latest; L{None}: only when something happens.
    """

    def __init__(
        self,
        node: bytes,
        mode: Mode,
        *,
        random: Random,
        now: float,
        named: Sequence[tuple[Address, bytes | None]] = (),
        keeps_all: bool = False,
        term: int = 0,
        listens: float = LISTEN,
    ) -> None:
        """
        @param node: this node's id.
        @param mode: what the user wants.
        @param random: for the waits that keep nodes apart.
        @param now: seconds, on the clock of all other times. What others are told of it is the
            time of day, since 1970, as far as the clock was right when the process began.
        @param named: the registries that the user named, the preferred one first, and the node
            id that each must have.
        @param keeps_all: whether the node is to be listed by all of these.
        @param term: the latest term that is known from before.
        @param listens: seconds to listen to the beacon before leading; 0 if there is none.
        """
        self.node = node
        self.term = min(term, MAX_TERM)
        self.claim: Claim | None = None
        self.following: Address | None = None
        self.leader: Claim | None = None
        self.why = Why.NOBODY
        self.wake_at: float | None = None
        self._mode = mode
        self._random = random
        self._named = list(named)
        self._places = {address: place for place, (address, _) in enumerate(self._named)}
        self._keeps_all = keeps_all
        self._links: dict[Address, Link] = {}
        self._resting = Resting(random)
        # A command may have the identity of the node on its machine, and never leads.
        self._prospects = Prospects(b"" if mode is Mode.NEVER else node)
        self._succession = Succession(random)
        self._hints = Hints(random)
        self.count = 0
        self._handovers = Budget(HANDOVERS / 60, HANDOVERS, now)
        self._goes_to: RegistryOffer | None = None  # where the registry sends it that it follows
        self._gone = b""  # the leader that was lost last
        self._is_heir = False
        self._is_pointing = False
        self._has_followed = False
        self._seeks_since = now
        self._looks_at = now + PATIENCE + NEXT_NAMED * (len(named) - 1) if named else now
        self._has_heard_at = max(self._looks_at, now + listens)
        spread = random.uniform(0, SPREAD) if listens else 0.0
        self._stands_at = self._has_heard_at + spread
        self._quiet_until = now

    @property
    def state(self) -> State:
        """What the node is up to."""
        if self.following is not None:
            return State.FOLLOWING
        if self.claim is not None:
            return State.LEADING
        return State.STANDING if self._has_followed else State.SEEKING

    def is_linked(self, address: Address) -> bool:
        """
        Tell whether there is to be a link to an address, listed or not.
        """
        return address in self._links

    # What happens

    def known(self, term: int) -> None:
        """
        Learn of a term that somebody knows who registers here.
        """
        self.term = rise(self.term, term)
        if self.claim is not None and self.claim.term < self.term:
            self.claim = replace(self.claim, term=self.term)
            if self.following is None:
                self.leader = self.claim

    def followed_by(self, nodes: Container[bytes]) -> None:
        """
        Learn who follows this node, and so is no other leader.

        @param nodes: their ids.
        """
        if self.following is None and self.claim is not None:
            self._succession.leave_out(nodes)

    def heard(self, offer: RegistryOffer, now: float) -> None:
        """
        Be told of another registry, by one who registered here.

        @param offer: to be looked at, however it is made up.
        """
        self._prospects.hear(offer, now)

    def listed(self, address: Address, claim: Claim, now: float) -> None:
        """
        A registry has listed this node, and said what it claims; or it says so anew.

        @param address: of the link.
        @param claim: with the node id that it has proven.
        """
        link = self._links.get(address)
        if link is None:
            return
        if not link.is_listed or link.points is not None:
            link.listed = now
        link.claim, link.points = claim, None
        self._resting.forget(address)
        if address == self.following:
            self._goes_to = None
            self.term = rise(self.term, claim.term)
            self.leader = claim

    def not_reached(self, address: Address) -> None:
        """
        A registry says that it cannot reach this node where it serves.

        @param address: of the link that says so.
        """
        link = self._links.get(address)
        if link is not None:
            link.is_in_vain = True

    def handed(self, address: Address, offer: RegistryOffer, now: float) -> None:
        """
        A registry says that another leads now.

        @param address: of the link that says so.
        """
        link = self._links.get(address)
        if link is None:
            return
        if offer.node == self.node:
            self._is_heir = address == self.following
            return
        link.points = offer
        if address == self.following:
            self._go_over(offer, now)

    def _go_over(self, offer: RegistryOffer, now: float) -> None:
        if not self._handovers.take(now):
            return
        self._goes_to = offer
        # Who is to lead next may hear of it a moment later.
        self._resting.wait(offer.address, now + self._random.uniform(0.1, 0.2) + self._delay())

    def lost(
        self, address: Address, now: float, heirs: Sequence[Heir] = (), count: int = 0
    ) -> None:
        """
        A link failed, or ended.

        @param heirs: who on its latest list may lead, this node among them if it may.
        @param count: how many peers are on that list.
        """
        link = self._links.get(address)
        if link is None:
            return
        leader = link.claim
        link.ended()
        if link.place is None:
            del self._links[address]
        if address == self.following:
            # Who was looked at, and was no better than the one that is gone, may be wanted now.
            self._resting.end_waits()
            self._prospects.judged.clear()
        if leader is None:
            self._fail(address, now)
        else:
            self._resting.wait(address, now + self._random.uniform(0.1, 0.3) + self._delay())
        if address != self.following:
            return
        self.following = None
        if self._goes_to is not None:
            self._prospects.hear(self._goes_to, now)
            self._goes_to = None
        self.leader = self.claim
        if self.claim is None:
            # The next one that the user named has its chance before any other.
            patience = NEXT_NAMED * len(self._named) if address in self._places else 0.0
            self._looks_at = now + patience
            self._begin_to_stand(now, leader, heirs, count)

    def _begin_to_stand(
        self, now: float, leader: Claim | None, heirs: Sequence[Heir], count: int
    ) -> None:
        gone = self._gone = b"" if leader is None else leader.node
        self.count = count
        self._seeks_since = now
        self._quiet_until = now + self._delay()
        turn = self._succession.begin(gone, heirs, self.node)
        self._stands_at = self._looks_at + (0.0 if self._is_heir else turn)
        for address in self._succession.ranks:
            self._resting.forget(address)

    # What to do about it

    def step(self, now: float, offers: Iterable[RegistryOffer] = ()) -> list[Action]:
        """
        Decide.

        @param offers: all that are known now but those of L{heard} and L{handed}: what the beacon
            sees, what peers told, what is remembered.
        @return: what to do, in order.
        """
        self.wake_at = None
        actions: list[Action] = []
        if self._mode is Mode.ALWAYS and self.claim is None:
            self._lead(now, Why.APPOINTED, actions)
        self._look(offers, now)
        self._end_dials(now, actions)
        if self.claim is None:
            self._choose(now, actions)
        else:
            self._compare(self.claim, now, actions)
        self._dial_named(now, actions)
        self._dial(now, actions)
        self._tell(now, actions)
        self._stand(now, actions)
        return actions

    def _is_due(self, at: float, now: float) -> bool:
        """Tell whether a time has come; if not, be woken then."""
        if at <= now:
            return True
        if at < inf:
            self.wake_at = at if self.wake_at is None else min(at, self.wake_at)
        return False

    def _look(self, offers: Iterable[RegistryOffer], now: float) -> None:
        goes_to = () if self._goes_to is None else (self._goes_to,)
        heirs = (heir.offer for heir in self._succession.heirs)
        said_anew = self._prospects.look(offers, heirs, goes_to, now)
        for address in said_anew:
            self._resting.shorten(address, now + SAID_ANEW + self._delay())

    def _end_dials(self, now: float, actions: list[Action]) -> None:
        for link in list(self._links.values()):
            if link.is_listed:
                is_pointed_to = self.claim is not None and link.address == self.following
                if link.claim is not None and link.claim.term < self.term and not is_pointed_to:
                    # It was told of the later term, and keeps to its own.
                    self._drop(link, actions)
                    self._fail(link.address, now)
            elif link.place is None and self._is_due(link.begun + DIAL_PATIENCE, now):
                self._drop(link, actions)
                self._fail(link.address, now)

    def _drop(self, link: Link, actions: list[Action]) -> None:
        self._links.pop(link.address, None)
        if link.address == self.following:
            self.following, self.leader, self._goes_to = None, self.claim, None
        actions.append(HangUp(link.address))

    def _choose(self, now: float, actions: list[Action]) -> None:
        """Follow what is best, as long as this node does not lead."""
        current = None if self.following is None else self._links[self.following]
        listed = [link for link in self._links.values() if link.is_listed]
        if current is None:
            if listed:
                best = min(listed, key=lambda link: link.preference)
                self._follow(best, Why.FOUND if best.place is None else Why.NAMED, now, actions)
            return
        preferred = self._preferred(current, now)
        if preferred is not None:
            assert preferred.claim is not None
            if current.claim is not None and not current.claim.appointed:
                # One that is appointed would not give way, but have the nodes sent back if it is
                # older: what their users prefer would not count.
                actions.append(Introduce(current.address, preferred.address, preferred.claim))
            self._follow(preferred, Why.NAMED, now, actions)
        elif self._goes_to is not None:
            link = self._links.get(self._goes_to.address)
            if link is not None and link is not current and link.is_listed:
                self._follow(link, Why.HANDED, now, actions)

    def _preferred(self, current: Link | None, now: float) -> Link | None:
        """Find what the user prefers to the current link, and is there again for long enough."""
        place = inf if current is None or current.place is None else current.place
        for link in self._links.values():
            is_preferred = link.place is not None and link.place < place
            if (
                is_preferred
                and link.is_listed
                and link.points is None
                and self._is_due(link.listed + PREFERRED_AFTER, now)
            ):
                return link
        return None

    def _follow(self, link: Link, why: Why, now: float, actions: list[Action]) -> None:
        assert link.claim is not None
        self.following, self.leader, self.why = link.address, link.claim, why
        self.term = rise(self.term, link.claim.term)
        self._goes_to = None
        self._is_heir = False
        self._has_followed = True
        self._succession.end()
        actions.append(Follow(link.address, link.claim, why))
        for other in list(self._links.values()):
            if other is not link and not self._is_kept(other.place):
                self._drop(other, actions)
        if link.points is not None:
            self._go_over(link.points, now)

    def _is_kept(self, place: int | None) -> bool:
        """Tell whether a named link is to be had, beside the one that is followed."""
        if place is None:
            return False
        current = None if self.following is None else self._places.get(self.following)
        return self._keeps_all or current is None or place < current

    def _compare(self, claim: Claim, now: float, actions: list[Action]) -> None:
        """Find out whether this node leads on, from those who have proved to lead as well."""
        best: Link | None = None
        for link in list(self._links.values()):
            if link.claim is None:
                continue
            if link.place is not None and not claim.appointed:
                self._tell_itself(link, actions)
                continue
            is_better = link.claim.is_better_than(claim)
            if not is_better and self._may_be_cut_off(link, claim, now):
                if not link.is_in_vain:
                    self._tell_itself(link, actions)
                    continue
                is_better = True
            if not is_better:
                self._tell_itself(link, actions)
                self._prospects.judged[link.claim.node] = now + TELL_AGAIN
                self._resting.wait(link.address, now + TELL_AGAIN)
                self._drop(link, actions)
            elif claim.appointed == link.claim.appointed or self._is_due(
                link.listed + PREFERRED_AFTER, now
            ):
                best = better(best, link)
        if claim.appointed:
            self._point(claim, best, now, actions)
            return
        preferred = self._preferred(None, now)
        if preferred is not None and not self._yields_to(preferred, claim):
            preferred = None
        winner = preferred or best
        if winner is not None and winner.claim is not None:
            self.claim = None
            actions.append(StepDown(winner.address, winner.claim))
            why = Why.BETTER if preferred is None else Why.NAMED
            self._follow(winner, why, now, actions)

    def _yields_to(self, link: Link, claim: Claim) -> bool:
        """
        Tell whether this elected leader gives way to a registry that its user prefers: not to one
        that is elected as well and no better, for that one gives way to this.
        """
        assert link.claim is not None
        return link.claim.appointed or link.is_in_vain or link.claim.is_better_than(claim)

    def _may_be_cut_off(self, link: Link, claim: Claim, now: float) -> bool:
        """
        Tell whether this node leads nobody because nobody can reach it; the registry of a link
        knows, or is about to find out. Who leads others as well believes nobody that.
        """
        if claim.appointed or self.count > 1:
            return False
        return link.is_in_vain or not self._is_due(link.listed + REACH_PATIENCE, now)

    def _tell_itself(self, link: Link, actions: list[Action]) -> None:
        if not link.is_told:
            link.is_told = True
            actions.append(Tell(link.address, None))

    def _point(self, claim: Claim, best: Link | None, now: float, actions: list[Action]) -> None:
        """Send on those who come to this appointed leader, as long as there is a better one."""
        if best is None or best.claim is None:
            if self._is_pointing:
                self._is_pointing = False
                self.following, self.leader, self.why = None, claim, Why.LOST
                actions.append(Point(None, None))
            return
        for link in list(self._links.values()):
            if link is not best and link.is_listed:
                self._resting.wait(link.address, now + TELL_AGAIN)
                self._drop(link, actions)
        if best.address != self.following:
            self._is_pointing = True
            self.following, self.leader, self.why = best.address, best.claim, Why.BETTER
            self.known(best.claim.term)
            actions.append(Point(best.address, best.claim))
            actions.append(Follow(best.address, best.claim, Why.BETTER))

    # Dialling

    def _dial_named(self, now: float, actions: list[Action]) -> None:
        for place, (address, node) in enumerate(self._named):
            if address in self._links or not (self.following is None or self._is_kept(place)):
                continue
            begins = self._seeks_since + (0 if self._keeps_all else place * NEXT_NAMED)
            if self._is_due(max(begins, self._resting.until(address)), now):
                self._links[address] = Link(address, now, place)
                actions.append(Dial(address, node))

    def _dial(self, now: float, actions: list[Action]) -> None:
        room = DIALS - len(self._under_way())
        busy = {self._node_at(link.address) for link in self._links.values()}
        due = [offer for offer in self._prospects.known if self._is_to_be_dialled(offer, now)]
        # Who waits for longest comes first, so that no new ones, made up or not, keep him out.
        due.sort(
            key=lambda offer: (
                bool(self._gone) and offer.node == self._gone,
                offer.claim is None,
                max(self._resting.until(offer.address), self._prospects.seen[offer.address]),
            )
        )
        for offer in due:
            if room <= 0:
                return
            if offer.node and offer.node in busy:
                continue
            busy.add(offer.node)
            room -= 1
            self._begin(offer.address, now, actions)

    def _begin(self, address: Address, now: float, actions: list[Action]) -> None:
        self._links[address] = Link(address, now, None)
        self._is_due(now + DIAL_PATIENCE, now)
        actions.append(Dial(address))

    def _under_way(self) -> list[Link]:
        """The links that are tried, but for those to who is likely to be dead."""
        return [
            link
            for link in self._links.values()
            if link.place is None
            and not link.is_listed
            and (not self._gone or self._node_at(link.address) != self._gone)
        ]

    def _node_at(self, address: Address) -> bytes:
        link = self._links.get(address)
        if link is not None and link.claim is not None:
            return link.claim.node
        offer = self._prospects.by_address.get(address)
        return b"" if offer is None else offer.node

    def _is_to_be_dialled(self, offer: RegistryOffer, now: float) -> bool:
        address = offer.address
        if address in self._links:
            return False
        if self.following is not None and self.claim is None and offer is not self._goes_to:
            return False
        at = self._resting.until(address)
        if offer is self._goes_to:
            return self._is_due(at, now)
        if self.claim is None:
            # An address of a link is of no use to others; it is for those who have no other.
            at = max(at, self._quiet_until, self._looks_at)
            if "%" in offer.host:
                at = max(at, self._has_heard_at)
            if offer.claim is None and not self._prospects.is_heard(address):
                at = max(at, self._seeks_since + self._succession.asks_after(address))
        else:
            claim = offer.claim
            if self.following is not None and (
                self.leader is None or claim is None or not claim.is_better_than(self.leader)
            ):
                return False
            if claim is None or not claim.is_better_than(self.claim):
                at = max(at, self._prospects.seen[address] + LOOK_AT_WORSE)
            at = max(at, self._prospects.judged.get(offer.node, at))
        return self._is_due(at, now)

    def _delay(self) -> float:
        """What keeps the many nodes of one registry apart."""
        return self._random.uniform(0, self.count / ARRIVALS)

    def _fail(self, address: Address, now: float) -> None:
        is_claimed = address in self._prospects.claims or address in self._places
        self._resting.fail(address, now, is_claimed=is_claimed, delay=self._delay())

    # Telling the leader

    def _tell(self, now: float, actions: list[Action]) -> None:
        if self.following is None or self.claim is not None or self.leader is None:
            return
        candidates = (
            offer
            for offer in self._prospects.known
            if offer.claim is not None
            and offer.node != self._gone
            and offer.claim.is_better_than(self.leader)
        )
        due = self._hints.due(candidates, now, self.count)
        actions += [Tell(self.following, offer) for offer in due]
        self._is_due(self._hints.next, now)

    # Leading

    def _stand(self, now: float, actions: list[Action]) -> None:
        if self._mode is not Mode.AUTO or self.claim is not None or self.following is not None:
            return
        if not self._is_due(self._stands_at, now):
            return
        until = self._stands_at
        is_wanted = self._is_heir and not any(
            offer.claim is not None and offer.node != self._gone for offer in self._prospects.known
        )
        for link in () if is_wanted else self._under_way():
            # Somebody may be there; but who announces what leads nowhere holds nobody up for long.
            longest = HELD_UP if link.address in self._prospects.claims else HELD_UP_UNCLAIMED
            until = max(until, min(link.begun, self._stands_at) + longest)
        if not self._is_due(until, now):
            return
        why = Why.HEIR if self._is_heir else Why.LOST if self._has_followed else Why.NOBODY
        self._lead(now, why, actions)

    def _lead(self, now: float, why: Why, actions: list[Action]) -> None:
        self.term = min(self.term + 1, MAX_TERM)
        self.claim = Claim(
            self.node, self.term, max(0, int(now * 1000)), self._mode is Mode.ALWAYS, why.value
        )
        self.leader, self.why = self.claim, why
        self._has_followed = True
        self._is_heir = False
        self._gone = b""
        for link in list(self._links.values()):
            if link.place is None:
                self._drop(link, actions)
        actions.append(Lead(self.claim, why))
