"""
Which registry a node follows, and when it carries one itself: the deeds.

L{flow512.discovery.election} decides, and docs/bootstrap.rst tells of it; this has a
L{RegistryClient} for each link, and an L{Office} for the time that the node leads. What the clients
and the office tell is compared with what the election knows, once everything of one moment has
happened, and then the election is asked what to do.

Invariant: L{RegistryFollower.client} is the one client whose list counts. It stays when its
registry is gone, so that the latest list is at hand until there is another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from flow512.content.paths import escape
from flow512.discovery.claims import Address, Claim, RegistryOffer
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
)
from flow512.discovery.election import Election, Mode
from flow512.discovery.waits import ARRIVALS, LISTEN
from flow512.errors import Unreachable
from flow512.limits import Limits
from flow512.link.address import HostPort
from flow512.link.introduction import Introduction
from flow512.link.named_registry import NamedRegistry
from flow512.link.node_id import format_node_id
from flow512.registry.carried import CARRIED_FOR, Carried
from flow512.registry.client import IPeerListListener, RegistryClient
from flow512.registry.leaders import leader_at, leader_offered
from flow512.registry.leadership import Leadership
from flow512.registry.linked import Link
from flow512.registry.office import Office
from flow512.registry.peer_list import Change
from flow512.wire.fields import Peer
from flow512.wire.leading import Leader


class RegistryFollower(Service):
    """
    Keeps a node with the right registry, and has it carry that when it is its turn.

    @ivar client: the client whose list counts; L{None} before there is any.
    @ivar is_leading: whether this process carries the registry that is followed.
    """

    log = Logger()
    client: RegistryClient | None = None

    def __init__(
        self,
        clock: IReactorTime,
        connect: Callable[[HostPort | str], IStreamClientEndpoint],
        introduction: Introduction,
        *,
        mode: Mode,
        named: Sequence[NamedRegistry] = (),
        keeps_all: bool = False,
        port: int,
        ticket: bytes,
        random: Random,
        offers: Callable[[], Iterable[RegistryOffer]],
        listens: bool,
        office: Office,
        listener: IPeerListListener,
        limits: Limits | None = None,
        term: int = 0,
        remember: Callable[[int], None] = lambda term: None,
        registers: bool = True,
    ) -> None:
        """
        @param clock: for the waits, and the time of day.
        @param connect: makes the endpoint that connects to an address.
        @param introduction: what the node says of itself.
        @param mode: whether it may, must or must not lead.
        @param named: the registries that the user named, the preferred one first.
        @param keeps_all: whether to be listed by all of them that answer.
        @param port: the TCP port that the node serves at; 0 for none.
        @param ticket: see L{RegistryClient}.
        @param random: for jitter.
        @param offers: tells where registries may be: what the beacon sees, peers told or is
            remembered. L{reconsider} is to be called when it gives others than before.
        @param listens: whether there is a beacon.
        @param office: carries the registry in this process.
        @param listener: is told how the list of peers changes.
        @param limits: how many peers L{peers_to_dial} and L{who} give.
        @param term: the latest term that is known from an earlier run.
        @param remember: told of each later one, for the next run.
        @param registers: whether this process registers with its own registry, as nodes do.
        """
        self._clock = clock
        self._connect = connect
        self._introduction = introduction
        self._mode = mode
        self._named = list(named)
        self._keeps_all = keeps_all
        self.port = port
        self._ticket = ticket
        self._random = random
        self._offers = offers
        self._listens = listens
        self._office = office
        self._listener = listener
        self._limits = limits
        self._term = term
        self._remember = remember
        self._registers = registers
        self._election: Election | None = None
        self._links: dict[Address, Link] = {}
        self._own: RegistryClient | None = None
        self._own_address: HostPort | None = None
        self._held: dict[bytes, None] = {}
        self._carried = Carried()
        self._carrying: IDelayedCall | None = None  # the end of that
        self._timer: IDelayedCall | None = None
        self._stopping: list[Deferred[None]] = []
        self._said: tuple[bytes, bool] | None = None

    # What others ask

    @property
    def is_leading(self) -> bool:
        """Whether this process carries the registry that is followed."""
        return self._election is not None and self._election.state is State.LEADING

    @property
    def peers(self) -> Collection[Peer]:
        """All that are listed, this node among them if it serves; empty while it seeks."""
        return self._list().values()

    def _list(self) -> dict[bytes, Peer]:
        return self._carried.with_list({} if self.client is None else self.client.peers)

    @property
    def trying(self) -> RegistryClient | None:
        """The client that counts; while it seeks, that of the named registry that is preferred."""
        if self.client is not None:
            return self.client
        link = next((self._links.get(_address(each.address)) for each in self._named), None)
        return None if link is None else link.client

    @property
    def leadership(self) -> Leadership | None:
        """Who leads; L{None} while nobody is followed."""
        election = self._election
        if election is None or election.leader is None:
            return None
        if election.following is None:
            address = HostPort(self._office.host, self.port or self._office.port)
            return Leadership(election.leader, str(address), self._introduction.name, election.why)
        link = self._links.get(election.following)
        claim = election.leader
        listed = None if link is None else link.client.peers.get(claim.node)
        name = "" if link is None else link.client.leader_name
        return Leadership(
            claim,
            str(_host_port(election.following)),
            name if listed is None else listed.name,
            election.why,
        )

    def peers_to_dial(self) -> list[Peer]:
        """The peers that may be dialled; see L{RegistryClient.peers_to_dial}."""
        return [] if self.client is None else self.client.peers_to_dial()

    def hold(self, added: Collection[bytes], removed: Collection[bytes]) -> None:
        """
        Have every registry that is followed, now or later, know what this node holds.

        @param added: roots that it holds from now on.
        @param removed: roots that it holds no longer.
        """
        for root in removed:
            self._held.pop(root, None)
        self._held.update(dict.fromkeys(added))
        for client in self._clients():
            client.hold(added, removed)

    def who(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        """
        Ask the registry that is followed who holds a content.

        @return: as of L{RegistryClient.who}; fails with L{Unreachable} while it seeks.
        """
        if self.client is None:
            return fail(Unreachable("No registry is there that could say who holds that."))
        return self.client.who(root)

    # What the office tells

    def known(self, term: int) -> None:
        """
        Learn of a later term, from a node that has registered here.
        """
        if self._election is not None:
            self._election.known(term)
            self._reconsider_soon()

    def heard(self, offer: RegistryOffer) -> None:
        """
        Learn of another registry, from a node that has registered here.
        """
        if self._election is not None:
            self._election.heard(offer, self._clock.seconds())
            self._reconsider_soon()

    # IService

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._election = Election(
            self._introduction.node,
            self._mode,
            random=self._random,
            now=self._clock.seconds(),
            named=[(_address(each.address), each.node) for each in self._named],
            keeps_all=self._keeps_all,
            term=self._term,
            listens=LISTEN if self._listens else 0.0,
        )
        self.reconsider()

    def stopService(self) -> Deferred[list[tuple[bool, None]]]:
        """
        Leave every registry. Whoever follows this node's own is told who is to lead next.

        @return: fires when the connections are closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._cancel_timer()
        self._office.name_heir()
        for client in self._clients():
            self._stopping.append(client.stopService())
        self._links.clear()
        self._own = self.client = self._election = None
        self._carried.end()
        if self._carrying is not None:
            self._carrying.cancel()
            self._carrying = None
        stopping, self._stopping = self._stopping, []
        return DeferredList(stopping)

    def _clients(self) -> list[RegistryClient]:
        own = [] if self._own is None else [self._own]
        return [*(link.client for link in self._links.values()), *own]

    # Deciding

    def reconsider(self) -> None:
        """
        Decide anew; to be called whenever there are other offers.
        """
        self._cancel_timer()
        if not self.running or self._election is None:
            return
        for address, link in list(self._links.items()):
            if not link.tell(self._election, address, self._clock.seconds()):
                self._end(self._links.pop(address).client)
        if self.client is not None:
            self._election.count = len(self.client.peers)
            self._election.followed_by(self.client.peers)
        offers = list(self._offers())
        for _ in range(_MOST_ROUNDS):
            actions = self._election.step(self._clock.seconds(), offers)
            for action in actions:
                self._do(action)
            if not actions:
                break
        self._say_who_leads(self._election)
        if self._election.term > self._term:
            self._term = self._election.term
            self._remember(self._term)
        if self._election.claim is not None:
            self._office.announce(self._election.claim)
        wake_at = self._election.wake_at
        if wake_at is not None:
            wait = max(0.0, wake_at - self._clock.seconds())
            self._timer = self._clock.callLater(wait, self._waited)

    def _reconsider_soon(self) -> None:
        # Not at once: a client that tells of a failure is in the middle of it, and could not be
        # stopped there.
        self._cancel_timer()
        if self.running:
            self._timer = self._clock.callLater(0, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self.reconsider()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Doing

    def _do(self, action: Action) -> None:
        match action:
            case Dial(address, node):
                self._links[address] = Link(self._dial(address, node))
            case HangUp(address):
                self._end(self._links.pop(address).client)
            case Follow(address):
                self._follow(self._links[address].client)
                if self._own is not None and not self._office.is_open:
                    self._end_own()
            case Lead(claim):
                self._lead(claim)
            case StepDown(address, claim):
                self._office.step_down(self._leader(address, claim))
            case Point(address, claim):
                if address is None or claim is None:
                    self._office.send_to(None)
                    if self._own is not None:
                        self._follow(self._own)
                else:
                    self._office.send_to(self._leader(address, claim))
            case Tell(address, offer):
                leader = self._office.leader if offer is None else leader_offered(offer)
                if leader is not None:
                    self._links[address].client.tell(leader)
            case Introduce(address, other, claim):
                leader = self._leader(other, claim)
                if leader is not None:
                    self._links[address].client.tell(leader)

    def _dial(self, address: Address, node: bytes | None) -> RegistryClient:
        where = _host_port(address)
        is_named = any(where == each.address for each in self._named)
        # What is only looked at, while all is well, is of no interest to anybody.
        is_needed = self._election is not None and self._election.leader is None
        level = LogLevel.info if is_named or is_needed else LogLevel.debug
        self.log.emit(level, "Registering with the registry at {address}", address=str(where))
        return self._start_client(where, node, LogLevel.warn if is_named else level)

    def _leader(self, address: Address, claim: Claim) -> Leader | None:
        return leader_at(self._links[address].client.registry_at, claim)

    def _lead(self, claim: Claim) -> None:
        self._end_own()
        address = self._office.begin(claim)
        if self._registers:
            # It has to be this very process, and no other that answers at its address.
            self._own = self._start_client(address, self._introduction.node, is_own=True)
            self._follow(self._own)

    def _end_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            self._end(own)

    def _end(self, client: RegistryClient) -> None:
        ending = client.stopService()
        self._stopping.append(ending)
        ending.addBoth(lambda _: self._ended(ending))

    def _ended(self, ending: Deferred[None]) -> None:
        if self.running:
            self._stopping.remove(ending)

    def _follow(self, client: RegistryClient) -> None:
        if self.client is client:
            return
        before, old = self._list(), self.client
        is_gone = old is not None and not old.is_listed and old.claim is not None
        gone = old.claim.node if is_gone and old and old.claim else b""
        self.client = client
        self._tell(self._carried.go_over(before, client.peers, gone))
        if self._carried:
            self._carry_for(CARRIED_FOR + len(before) / ARRIVALS)

    def _carry_for(self, seconds: float) -> None:
        if self._carrying is not None:
            self._carrying.reset(seconds)
        else:
            self._carrying = self._clock.callLater(seconds, self._carried_enough)

    def _carried_enough(self) -> None:
        self._carrying = None
        self._tell(Change((), self._carried.end(), ()))

    def _tell(self, change: Change) -> None:
        if any(change):
            self._listener.peer_list_changed(change.joined, change.left, change.changed)

    def _say_who_leads(self, election: Election) -> None:
        leader = election.leader
        said = None if leader is None else (leader.node, election.following is None)
        if said == self._said:
            return
        self._said = said
        leadership = self.leadership
        if leadership is None:
            self.log.info("The bootstrap is gone; looking for the next.")
        elif election.following is not None:
            self.log.info(
                "{name} ({id}) at {address} is the bootstrap, in term {term}, since {since}:"
                " {why}.",
                name=escape(leadership.name),
                id=format_node_id(leadership.claim.node),
                address=leadership.address,
                term=leadership.claim.term,
                since=leadership.since,
                why=leadership.why.value,
            )
        else:
            self.log.info(
                "This node is the bootstrap, in term {term}: {why}.",
                term=leadership.claim.term,
                why=leadership.why.value,
            )

    def _start_client(
        self,
        address: HostPort | str,
        expected: bytes | None,
        trouble: LogLevel = LogLevel.warn,
        *,
        is_own: bool = False,
    ) -> RegistryClient:
        ear = _Ear(self)
        ear.client = client = RegistryClient(
            self._clock,
            self._connect(address),
            self._introduction,
            port=self.port,
            ticket=self._ticket,
            random=self._random,
            expected=expected,
            # Whoever may lead may find himself announced, and is to register there on purpose only.
            shuns=None if is_own or self._mode is Mode.NEVER else self._introduction.node,
            listener=ear,
            state_changed=self._reconsider_soon,
            limits=self._limits,
            trouble_level=trouble,
            can_lead=self._mode is not Mode.NEVER,
            term=self._known_term,
        )
        client.hold(self._held, ())
        client.startService()
        return client

    def _known_term(self) -> int:
        return self._term if self._election is None else self._election.term

    def list_changed(
        self,
        client: RegistryClient | None,
        joined: Sequence[Peer],
        left: Sequence[Peer],
        changed: Sequence[Peer],
    ) -> None:
        """
        Pass on what a client was told, if it is the one that counts.
        """
        if client is not None and client is self.client:
            self._tell(self._carried.change(joined, left, changed))


_MOST_ROUNDS = 20
"""Times in a row that an election is asked; in fact it has decided after two or three."""


def _address(place: HostPort | str) -> Address:
    return place if isinstance(place, str) else (place.host, place.port)


def _host_port(address: Address) -> HostPort | str:
    return address if isinstance(address, str) else HostPort(*address)


@implementer(IPeerListListener)
class _Ear:
    """Tells the follower which of its clients was told."""

    client: RegistryClient | None = None

    def __init__(self, follower: RegistryFollower) -> None:
        self._follower = follower

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        self._follower.list_changed(self.client, joined, left, changed)
