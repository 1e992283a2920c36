"""
Elections without a network: nodes of nothing but L{Election}, L{RegistryTable} and L{PeerList}.

The seed decides everything: who starts when, what dies, is stopped or cut, how long each message
takes and which datagrams are lost, and how wrong each clock is. Conversations are lists of calls,
delivered in order; TCP's patience is modelled (what is sent over a cut path comes after it heals),
and so are pings, leases and the 0.1 seconds in which changes are gathered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Final

from flow512.discovery.claims import Address, Claim, Heir, RegistryOffer
from flow512.discovery.deeds import (
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
from flow512.registry.peer_list import PeerList
from flow512.registry.server import WINDOW
from flow512.registry.table import RegistryTable
from flow512.wire.frame import FrameReader
from flow512.wire.messages import CAPS, Delta, Register, Snapshot, decode

PING: Final = 2.0
SILENCE: Final = 3.0
HANDOVER: Final = 5.0
ANNOUNCE: Final = 5.0
PORT: Final = 5000


class Wire:
    """
    One connection, between the node that dialled and the one that answered.

    @ivar ends: the two, each with what takes its messages; the dialler first.
    """

    def __init__(self, world: World, dialler: Node, answerer: Node, address: Address) -> None:
        self.world = world
        self.nodes = (dialler, answerer)
        self.lives = (dialler.life, answerer.life)
        self.address = address
        self.is_over = [False, False]  # for which end
        self._queues: tuple[deque[Callable[[], None]], ...] = (deque(), deque())
        self._is_moving = [False, False]

    def send(self, end: int, what: Callable[[], None]) -> None:
        """Have something called at the other end."""
        self._queues[end].append(what)
        self._move(end, self.world.delay())

    def close(self, end: int) -> None:
        """Be over for one end, and after a while for the other."""
        if not self.is_over[end]:
            self.is_over[end] = True
            self.send(end, lambda: self.ended(1 - end))

    def ended(self, end: int) -> None:
        """The other end has closed."""
        if not self.is_over[end]:
            self.is_over[end] = True
            node = self.nodes[end]
            (node.link_ended if end == 0 else node.visitor_gone)(self)

    def is_up(self, end: int) -> bool:
        """Tell whether the node at an end is the one that it was."""
        node = self.nodes[end]
        return node.is_up and node.life == self.lives[end]

    def _move(self, end: int, delay: float) -> None:
        if not self._is_moving[end]:
            self._is_moving[end] = True
            self.world.at(self.world.now + delay, lambda: self._arrive(end))

    def _arrive(self, end: int) -> None:
        self._is_moving[end] = False
        here, there = self.nodes[end], self.nodes[1 - end]
        if not self.world.passes(here, there) or not self.is_up(1 - end):
            if self.is_over[end] and not self.is_up(end):
                return
            if there.is_up and there.life != self.lives[1 - end] and not self.is_over[end]:
                self.ended(end)  # RST by who knows nothing of it
                return
            if not self.is_over[end]:
                self._move(end, 1.0)  # TCP sends it again
            return
        if self._queues[end]:
            what = self._queues[end].popleft()
            if not self.is_over[1 - end]:
                what()
        if self._queues[end]:
            self._move(end, self.world.delay() / 10)


@dataclass
class _Link:
    """A link from its dialler's side."""

    wire: Wire | None
    peers: PeerList
    claim: Claim | None = None
    elsewhere: RegistryOffer | None = None
    is_listed: bool = False
    heard: float = 0.0
    is_over: bool = False


class Node:
    """
    A node of the simulation.

    @ivar skew: how wrong its clock is, in seconds.
    @ivar life: which run it is; a node that starts again is another process.
    """

    def __init__(self, world: World, number: int, mode: Mode, skew: float) -> None:
        self.world = world
        self.number = number
        self.id = world.random.randbytes(32)
        self.host = f"10.0.{number // 200}.{number % 200 + 1}"
        self.mode = mode
        self.skew = skew
        self.named: list[tuple[Address, bytes | None]] = []
        self.is_up = False
        self.life = 0
        self.term = 0  # in its state folder
        self.followed_term = 0  # ... and the latest that it followed, or led in

    @property
    def now(self) -> float:
        """What its clock says."""
        return self.world.now + self.skew

    def start(self) -> None:
        """Begin a run."""
        self.is_up = True
        self.life += 1
        self.election = Election(
            self.id,
            self.mode,
            random=Random(self.world.random.random()),
            now=self.now,
            named=self.named,
            term=self.term,
        )
        self.links: dict[Address, _Link] = {}
        self.table: RegistryTable[Wire] | None = None
        self.visitors: dict[Wire, bytes] = {}
        self.points: RegistryOffer | None = None
        self.claim: Claim | None = None
        self.own = PeerList()
        self.sightings: dict[Address, tuple[RegistryOffer, float]] = {}
        self._wakes_at: float | None = None
        self._followed: PeerList | None = None
        self._pushes = False
        self.step()
        for wait in (0.0, 0.3, 1.0):
            self.later(wait, self._ask)

    def kill(self, *, power: bool) -> None:
        """End without a word; the kernel closes the connections, unless the power failed."""
        self.is_up = False
        self.world.part_changed()
        if not power:
            for wire in self._wires():
                wire.close(0 if wire.nodes[0] is self else 1)

    def stop(self) -> None:
        """End in an orderly way."""
        if self.table is not None:
            heirs = sorted(
                (peer for peer in self.table.peers if peer.can_lead and peer.node != self.id),
                key=lambda peer: peer.node,
            )
            if heirs and self.points is None:
                heir = heirs[0]
                self._tell_all(RegistryOffer(heir.host, heir.port, heir.node))
        for link in self.links.values():
            if link.wire is not None and not link.is_over:
                self._leave(link.wire)
        if self.claim is not None:
            self.world.spread(self, lambda node: node.sightings.pop((self.host, PORT), None))
        self.kill(power=False)

    def _wires(self) -> list[Wire]:
        dialled = [each.wire for each in self.links.values() if each.wire is not None]
        return [*dialled, *self.visitors]

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something later in this run."""
        life = self.life

        def do() -> None:
            if self.is_up and self.life == life:
                what()

        self.world.at(self.world.now + seconds, do)

    # The election

    def step(self) -> None:
        """Have it decided, and do what was decided."""
        for _ in range(20):
            actions = self.election.step(self.now, self._offers())
            for action in actions:
                self._do(action)
            self.term = self.election.term
            if not actions:
                break
        else:
            raise AssertionError("It never comes to an end.")
        wake = self.election.wake_at
        if wake is not None and (self._wakes_at is None or wake < self._wakes_at):
            self._wakes_at = wake
            self.later(max(wake - self.now, 0.0), lambda: self._woken(wake))

    def _woken(self, wake: float) -> None:
        if self._wakes_at == wake:
            self._wakes_at = None
            self.step()

    def _offers(self) -> list[RegistryOffer]:
        now = self.world.now
        return [offer for offer, until in self.sightings.values() if until > now]

    def _do(self, action: object) -> None:
        match action:
            case Dial(address, expected):
                self._dial(address, expected)
            case HangUp(address):
                link = self.links.pop(address)
                if link.wire is not None and not link.is_over:
                    self._leave(link.wire)
            case Follow(address, claim):
                assert claim.term >= self.followed_term, "an earlier term is followed"
                self.followed_term = claim.term
                self._followed = self.links[address].peers
                if self.claim is not None and not self.claim.appointed:
                    self.claim = None
            case Lead(claim):
                assert claim.term > self.followed_term, "it leads in no later term"
                self.followed_term = claim.term
                self._close_registry(self.table)
                self.claim = claim
                self.table = RegistryTable()
                self.points = None
                self._followed = self.own
                self.table.register(
                    Wire(self.world, self, self, (self.host, PORT)),
                    self.id,
                    self._wish(),
                    self.host,
                    self.now,
                )
                self._announce(claim, self.life)
            case StepDown(address, claim):
                self.claim = None
                self.world.spread(self, lambda node: node.sightings.pop((self.host, PORT), None))
                self._tell_all(_offer_at(address, claim))
                table = self.table
                self.later(HANDOVER, lambda: self._close_registry(table))
            case Point(address, claim):
                assert self.claim is not None
                if address is None or claim is None:
                    self.points = None
                    self._followed = self.own
                    for wire in self.visitors:
                        self._say_claim(wire)
                else:
                    self.points = _offer_at(address, claim)
                    self._tell_all(self.points)
            case Tell(address, offer):
                self._tell(address, offer)
            case Introduce(address, other, claim):
                self._tell(address, _offer_at(other, claim))
            case _:
                raise AssertionError(action)

    def _wish(self) -> Register:
        return Register(
            bytes(16), PORT, str(self.number), self.election.term, self.mode is not Mode.NEVER
        )

    @property
    def peers(self) -> set[bytes]:
        """Who is on the list that counts."""
        if self._followed is None:
            return set()
        if self._followed is self.own:
            assert self.table is not None
            return {peer.node for peer in self.table.peers}
        return set(self._followed.peers)

    # Links

    def _dial(self, address: Address, expected: bytes | None) -> None:
        link = self.links[address] = _Link(None, PeerList(), heard=self.now)
        there = self.world.by_host.get(address[0])
        assert there is not None
        life = there.life

        def arrived() -> None:
            if self.links.get(address) is not link:
                return  # it was given up
            if not self.world.passes(self, there) or not there.is_up:
                self.later(10.0, lambda: self._failed(address, link))
                return
            if there.life != life or there.table is None or (there.claim is None):
                self.world.at(
                    self.world.now + self.world.delay(), lambda: self._failed(address, link)
                )
                return
            wire = link.wire = Wire(self.world, self, there, address)
            there.visitors[wire] = self.id
            wish = self._wish()
            wire.send(0, lambda: there.visited(wire, wish, self.id))
            self._ping(link, wire)

        self.later(self.world.delay(), arrived)

    def _failed(self, address: Address, link: _Link) -> None:
        if self.is_up and not link.is_over and self.links.get(address) is link:
            link.is_over = True
            self._lose(address, link)

    def _ping(self, link: _Link, wire: Wire) -> None:
        if link.is_over or wire.is_over[0]:
            return
        if self.now - link.heard > PING + SILENCE:
            wire.close(0)
            self._failed(wire.address, link)
            return
        there = wire.nodes[1]

        def pong() -> None:
            number = there.pinged(wire)
            wire.send(1, lambda: self._heard(link, lambda: link.peers.pong(number)))

        wire.send(0, pong)
        self.later(PING, lambda: self._ping(link, wire))

    def _heard(self, link: _Link, what: Callable[[], object]) -> None:
        link.heard = self.now
        what()
        if link.peers.take_missing() and link.wire is not None:
            wire = link.wire
            wire.send(0, lambda: wire.nodes[1].resync(wire))

    def link_ended(self, wire: Wire) -> None:
        """The registry closed a link, or knows nothing of it."""
        link = self.links.get(wire.address)
        if link is not None and link.wire is wire:
            self._failed(wire.address, link)

    def _lose(self, address: Address, link: _Link) -> None:
        heirs = [
            Heir(peer.node, peer.host, peer.port)
            for peer in link.peers.peers.values()
            if peer.can_lead
        ]
        del self.links[address]
        self.election.lost(address, self.now, heirs, len(link.peers.peers))
        is_named = any(address == each for each, _ in self.named)
        if is_named and self.election.is_linked(address):
            wait = self.world.random.uniform(0.5, 3.0)
            self.links[address] = waiting = _Link(None, PeerList(), is_over=True)
            self.later(wait, lambda: self._dial_again(address, waiting))
        self.step()

    def _dial_again(self, address: Address, waiting: _Link) -> None:
        if self.links.get(address) is waiting:
            self._dial(address, None)

    def _leave(self, wire: Wire) -> None:
        there = wire.nodes[1]
        wire.send(0, lambda: there.left(wire))
        wire.close(0)

    def _tell(self, address: Address, offer: RegistryOffer | None) -> None:
        link = self.links[address]
        if link.wire is None:
            return
        if offer is None:
            assert self.claim is not None
            offer = _offer_at((self.host, PORT), self.claim)
        there, told = link.wire.nodes[1], offer

        def heard() -> None:
            there.election.heard(told, there.now)
            there.step()

        link.wire.send(0, heard)

    def _update(self, address: Address, claim: Claim) -> None:
        link = self.links.get(address)
        if link is not None:
            link.claim, link.elsewhere = claim, None
            if link.is_listed:
                self.election.listed(address, claim, self.now)
                self.step()

    def _pointed(self, address: Address, offer: RegistryOffer) -> None:
        link = self.links.get(address)
        if link is not None:
            link.elsewhere = offer
            if link.is_listed:
                self.election.handed(address, offer, self.now)
                self.step()

    def _snapshot(self, address: Address, link: _Link, frames: list[bytes]) -> None:
        reader = FrameReader(CAPS)
        for data in frames:
            reader.receive(data)
            frame = reader.next_frame()
            assert frame is not None
            link.peers.snapshot(decode(frame, Snapshot))
        if not link.is_listed and self.links.get(address) is link:
            link.is_listed = True
            assert link.claim is not None
            self.election.listed(address, link.claim, self.now)
            if link.elsewhere is not None:
                self.election.handed(address, link.elsewhere, self.now)
            self.step()

    # The registry

    def visited(self, wire: Wire, wish: Register, node: bytes) -> None:
        """Somebody registers."""
        if self.table is None or self.claim is None:
            self.visitors.pop(wire, None)
            wire.close(1)
            return
        before = self.claim
        self.election.known(wish.term)
        self.claim = self.election.claim or before
        displaced = self.table.register(
            wire, node, replace_ticket(wish, node), wire.nodes[0].host, self.now
        ).displaced
        if displaced is not None and displaced is not wire:
            self.visitors.pop(displaced, None)
            displaced.close(1)
        if self.claim is not before and self.points is None:
            for each in self.visitors:
                self._say_claim(each)
        else:
            self._say_claim(wire)
        self.resync(wire)
        if self.points is not None:
            self._say_points(wire, self.points)
        self._push_soon()
        self._expire_later()
        self.step()

    def resync(self, wire: Wire) -> None:
        """Send a snapshot."""
        if self.table is None or wire.is_over[1]:
            return
        frames = list(self.table.snapshot())
        there = wire.nodes[0]
        link = there.links.get(wire.address)
        if link is not None:
            at = wire.address
            wire.send(1, lambda: there._heard(link, lambda: there._snapshot(at, link, frames)))

    def pinged(self, wire: Wire) -> int:
        """Renew a lease."""
        if self.table is None:
            return 0
        self.table.renew(wire, wire.nodes[0].id, self.now)
        return self.table.number

    def left(self, wire: Wire) -> None:
        """Somebody leaves."""
        self.visitors.pop(wire, None)
        if self.table is not None:
            self.table.leave(wire, wire.nodes[0].id)
            self._push_soon()

    def visitor_gone(self, wire: Wire) -> None:
        """A connection ended."""
        self.visitors.pop(wire, None)
        if self.table is not None:
            self.table.disconnected(wire, wire.nodes[0].id, self.now)
            self._expire_later()

    def _say_claim(self, wire: Wire) -> None:
        claim, there = self.claim, wire.nodes[0]
        if claim is not None:
            at = wire.address
            wire.send(1, lambda: there._update(at, claim))

    def _say_points(self, wire: Wire, offer: RegistryOffer) -> None:
        there, at = wire.nodes[0], wire.address
        wire.send(1, lambda: there._pointed(at, offer))

    def _tell_all(self, offer: RegistryOffer) -> None:
        for wire in list(self.visitors):
            self._say_points(wire, offer)

    def _push_soon(self) -> None:
        if not self._pushes:
            self._pushes = True
            self.later(WINDOW, self._push)

    def _push(self) -> None:
        self._pushes = False
        if self.table is None:
            return
        for delta in self.table.take_deltas():
            for wire in self.visitors:
                self._send_delta(wire, delta)

    def _send_delta(self, wire: Wire, delta: Delta) -> None:
        there = wire.nodes[0]
        link = there.links.get(wire.address)
        if link is not None and link.wire is wire:
            wire.send(1, lambda: there._heard(link, lambda: link.peers.delta(delta)))

    def _expire_later(self) -> None:
        if self.table is not None and self.table.next_end is not None:
            self.later(max(0.0, self.table.next_end - self.now) + 0.001, self._expire)

    def _expire(self) -> None:
        if self.table is None:
            return
        # This node's own registration has no link that could keep it.
        for wire in list(self.table.expire(self.now)):
            if wire.nodes[0] is self:
                self.table.register(wire, self.id, self._wish(), self.host, self.now)
            else:
                self.visitors.pop(wire, None)
                wire.close(1)
        self._push_soon()
        if self.table.next_end is not None:
            self.later(max(0.5, self.table.next_end - self.now), self._expire)

    def _close_registry(self, table: RegistryTable[Wire] | None) -> None:
        if table is not None and self.table is table:
            self.table = None
            visitors, self.visitors = self.visitors, {}
            for wire in visitors:
                wire.close(1)

    # The beacon

    def _announce(self, claim: Claim, life: int) -> None:
        if self.claim is None or self.life != life or self.claim.since != claim.since:
            return
        offer = _offer_at((self.host, PORT), self.claim)
        self.world.spread(self, lambda node: node.sees(offer))
        self.later(
            ANNOUNCE * self.world.random.uniform(0.8, 1.2), lambda: self._announce(claim, life)
        )

    def sees(self, offer: RegistryOffer) -> None:
        """An announcement came."""
        self.sightings[offer.address] = (offer, self.world.now + 3 * ANNOUNCE + 2)
        self.step()

    def _ask(self) -> None:
        def asked(node: Node) -> None:
            if node.claim is not None:
                offer = _offer_at((node.host, PORT), node.claim)
                node.later(
                    self.world.random.uniform(0.01, 0.1),
                    lambda: self.world.datagram(node, self, lambda: self.sees(offer)),
                )

        self.world.spread(self, asked)


def replace_ticket(wish: Register, node: bytes) -> Register:
    """Give each node a ticket of its own."""
    import msgspec

    return msgspec.structs.replace(wish, ticket=node[:16])


def _offer_at(address: Address, claim: Claim) -> RegistryOffer:
    assert isinstance(address, tuple)
    return RegistryOffer(*address, claim.node, claim.term, claim.since, claim.appointed)


class World:
    """
    All nodes, and what is between them.

    @ivar disturbed: when the last disturbance was.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.nodes: list[Node] = []
        self.by_host: dict[object, Node] = {}
        self.cuts: set[tuple[Node, Node]] = set()
        self.loss = 0.0
        self.latency = (0.0005, 0.01)
        self.disturbed = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def add(self, mode: Mode, skew: float = 0.0) -> Node:
        """Add a node, which is not started."""
        node = Node(self, len(self.nodes), mode, skew)
        self.nodes.append(node)
        self.by_host[node.host] = node
        return node

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Have something done."""
        self._count += 1
        heappush(self._agenda, (time, self._count, what))

    def delay(self) -> float:
        """How long a message takes."""
        return self.random.uniform(*self.latency)

    def passes(self, source: Node, target: Node) -> bool:
        """Whether anything gets from one to another."""
        return (source, target) not in self.cuts

    def datagram(self, source: Node, target: Node, what: Callable[[], None]) -> None:
        """Have something done by who gets a datagram."""
        if self.passes(source, target) and self.random.random() >= self.loss:
            target.later(self.delay(), what) if target.is_up else None

    def spread(self, source: Node, what: Callable[[Node], object]) -> None:
        """Send a datagram to everybody."""
        for node in self.nodes:
            if node is not source and node.is_up:
                self.datagram(source, node, lambda node=node: what(node))  # type: ignore[misc]

    def part_changed(self) -> None:
        """Take note of a disturbance."""
        self.disturbed = self.now

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, what = heappop(self._agenda)
            what()
        self.now = until

    def parts(self) -> list[list[Node]]:
        """Those that are up, by who reaches whom."""
        parts: list[list[Node]] = []
        for node in self.nodes:
            if not node.is_up:
                continue
            for part in parts:
                if self.passes(node, part[0]) and self.passes(part[0], node):
                    part.append(node)
                    break
            else:
                parts.append([node])
        return parts

    def trouble(self) -> str:
        """What is not as it should be in the end; empty if all is."""
        for part in self.parts():
            if all(node.mode is Mode.NEVER for node in part):
                continue
            leaders = [node for node in part if node.election.state is State.LEADING]
            if len(leaders) != 1:
                return f"{len(leaders)} lead of {len(part)}: {[each.number for each in leaders]}"
            everybody = {node.id for node in part}
            for node in part:
                leader = node.election.leader
                if leader is None or leader.node != leaders[0].id:
                    return (
                        f"{node.number} does not follow {leaders[0].number}: {node.election.state}"
                    )
                if node.peers != everybody:
                    return f"{node.number} lists {len(node.peers)} of {len(part)}"
        return ""


class Weather:
    """
    One seed: a network, and all that befalls it.

    @ivar settled: seconds from the last disturbance to the end of all trouble.
    @ivar agreed: seconds until everybody follows the one leader of his part.
    """

    def __init__(self, seed: int, limit: float) -> None:
        random = self.random = Random(f"weather {seed}")
        self.world = World(seed)
        self.limit = limit
        self.settled = 0.0
        self.agreed = 0.0
        self.kinds: dict[str, int] = {}
        self.terms: dict[int, int] = {}
        world = self.world
        world.latency = (0.0005, random.choice((0.002, 0.02, 0.1)))
        world.loss = random.choice((0.0, 0.0, 0.1, 0.3))
        for number in range(random.randint(3, 30)):
            skew = random.choice((0.0, random.uniform(-2, 2), random.uniform(-3600, 3600)))
            mode = random.choices((Mode.AUTO, Mode.NEVER, Mode.ALWAYS), (16, 2, 1))[0]
            world.add(mode if number else Mode.AUTO, 5000.0 + skew)
        self._name_some()
        together = random.random() < 0.3
        for node in world.nodes:
            world.at(0.0 if together else random.uniform(0, 10), self._starter(node))
        self.end = 15.0
        for _ in range(random.randint(1, 12)):
            self.end += random.choice((0.01, 0.3, 3.0, 12.0, 40.0)) * random.random() * 2
            world.at(self.end, self._disturb)
        world.at(self.end + 0.001, self._calm)

    def _name_some(self) -> None:
        random, nodes = self.random, self.world.nodes
        if random.random() < 0.6:
            return
        named = [nodes[0], nodes[1]][: random.randint(1, 2)]
        for node in named:
            node.mode = random.choice((Mode.ALWAYS, Mode.AUTO))
        share = random.choice((1.0, 0.5))
        for node in nodes:
            if node not in named and random.random() < share:
                node.named = [((each.host, PORT), None) for each in named]

    def _starter(self, node: Node) -> Callable[[], None]:
        def start() -> None:
            if not node.is_up:
                node.start()
                self.world.part_changed()

        return start

    def _disturb(self) -> None:
        random, world = self.random, self.world
        up = [node for node in world.nodes if node.is_up]
        leaders = [node for node in up if node.election.state is State.LEADING]
        kinds = ["kill", "power", "stop", "start", "cut", "one way", "part", "heal", "leader"]
        kind = random.choice(kinds)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        victim = random.choice(leaders if leaders and random.random() < 0.5 else up) if up else None
        if kind == "leader" and leaders:
            random.choice(leaders).kill(power=random.random() < 0.5)
        elif kind in ("kill", "power") and victim and len(up) > 2:
            victim.kill(power=kind == "power")
        elif kind == "stop" and victim and len(up) > 2:
            victim.stop()
        elif kind == "start":
            self._starter(random.choice(world.nodes))()
        elif kind in ("cut", "one way") and len(up) > 1:
            one, other = random.sample(up, 2)
            world.cuts.add((one, other))
            if kind == "cut":
                world.cuts.add((other, one))
        elif kind == "part":
            self._partition()
        elif kind == "heal":
            world.cuts.clear()
        world.part_changed()

    def _partition(self) -> None:
        world, count = self.world, self.random.randint(2, 3)
        sides = {node: self.random.randrange(count) for node in world.nodes}
        world.cuts = {
            (one, other)
            for one in world.nodes
            for other in world.nodes
            if sides[one] != sides[other]
        }

    def _calm(self) -> None:
        # In the end the network is whole, or falls into parts that are.
        self.world.cuts.clear()
        if self.random.random() < 0.3:
            self._partition()
        self.world.loss = min(self.world.loss, 0.1)
        self.world.part_changed()

    def run(self) -> str:
        """
        Let it all happen, and what is wrong be put right.

        @return: what is still not as it should be at the limit; empty if all is.
        """
        world = self.world
        time = 0.0
        while time < self.end + 0.01:
            time += 0.25
            world.run(time)
            self._check()
        self._check()
        quiet = 0.0
        while time < self.end + self.limit + 10.0:
            trouble = world.trouble()
            if trouble:
                quiet = 0.0
                self.settled = time - world.disturbed
                if "lists" not in trouble:
                    self.agreed = self.settled
                if time > self.end + self.limit:
                    return trouble
            else:
                quiet += 0.25
                if quiet >= 40.0:
                    return ""
            time += 0.25
            world.run(time)
            self._check()
        return ""

    def _check(self) -> None:
        for node in self.world.nodes:
            assert node.term >= self.terms.get(node.number, 0), "a term goes back"
            self.terms[node.number] = node.term
            if not node.is_up:
                continue
            election = node.election
            if election.leader is not None and election.state is State.FOLLOWING:
                assert election.leader.term <= node.term, "it follows a term that it does not know"
