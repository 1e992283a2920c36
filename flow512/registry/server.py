"""
The registry at work: conversations on one side, L{RegistryTable} on the other.

L{flow512.registry.answering} is one conversation. What concerns several is here: changes are
gathered for a while and then pushed to all, leases end, and whoever registers is dialled back.

There is one delayed call for the window in which changes are gathered, one for the leases, and one
for the dials; none for a node that is registered.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random, SystemRandom
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from flow512.content.paths import escape
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Why
from flow512.errors import StateInUse, TimedOut
from flow512.limits import Limits
from flow512.link.address import HostPort
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.registry.answering import RegistryProtocol
from flow512.registry.conversation import PINGS_PER_LEASE
from flow512.registry.dial_back import Connect, DialBack
from flow512.registry.dials import Dial, Dials
from flow512.registry.holdings import Holdings
from flow512.registry.leaders import offer_told
from flow512.registry.log_room import LogRoom
from flow512.registry.table import GRACE, LEASE, Placed, RegistryTable
from flow512.wire.fields import Peer
from flow512.wire.holding import Hold, Holders, Who
from flow512.wire.leading import Leader
from flow512.wire.messages import Register, encode

WINDOW: Final = 0.1
"""Seconds from one push to the next: the changes between are pushed together."""

SNAPSHOT_INTERVAL: Final = 1.0
"""Seconds between two snapshots on one connection."""

PINGS: Final = 250
"""Pings a second that a registry wants at most."""

SHORTEST_INTERVAL: Final = 2.0
"""Seconds between two pings of a node in a small network."""


class RegistryFactory(Factory[RegistryProtocol]):
    """
    The registry: accepts nodes, and pushes the list of them to each.

    It may listen by itself, or answer at a port that it shares
    (L{flow512.link.shared_port.SharedPortFactory}, as C{"registry"}). Either way L{stop} ends it.

    @ivar introduction: what it says of itself.
    @ivar claim: by what right it leads.
    @ivar elsewhere: the registry that it sends nodes to; L{None} as long as it leads itself.
    @ivar table: its state; to be read.
    @ivar holdings: who holds what.
    @ivar log_room: keeps any source from filling the log.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        *,
        connect: Connect | None = None,
        random: Random | None = None,
        patience: Patience | None = None,
        lease: float = LEASE,
        grace: float = GRACE,
        limits: Limits | None = None,
        window: float = WINDOW,
        snapshot_interval: float = SNAPSHOT_INTERVAL,
        claim: Claim | None = None,
        term_known: Callable[[int], None] = lambda term: None,
        heard: Callable[[RegistryOffer], None] = lambda offer: None,
    ) -> None:
        """
        @param introduction: what the registry says of itself.
        @param clock: for leases, windows and deadlines.
        @param connect: makes the endpoint by which a node is dialled back before it is listed, with
            TLS if nodes have it. With L{None} every node is listed unproven, at whatever port it
            names: for a network on which everybody is trusted, and for tests.
        @param random: chooses among those who hold a content; the system's unless given.
        @param patience: how long conversations wait; as usual unless given, but for the handshake.
            Within L{Patience.greeting} after the hello a node has to register, too.
        @param lease: seconds that a registration lasts without a ping.
        @param grace: seconds in which a node may come back without having left.
        @param limits: how many may register, how many are dialled back, how much of what they hold
            is remembered, and how long the handshake may take.
        @param window: seconds from one push to the next; changes between are pushed together.
        @param snapshot_interval: seconds between two snapshots on one connection.
        @param claim: by what right it leads; appointed, from now on, unless given.
        @param term_known: told of each term later than its own that a node knows; it takes it over.
        @param heard: told of other registries, of which nodes tell; they may all be made up.
        """
        self.claim = claim or Claim(
            introduction.node, 1, int(clock.seconds() * 1000), True, Why.APPOINTED.value
        )
        self.elsewhere: Leader | None = None
        self.introduction = introduction
        self._term_known = term_known
        self._heard = heard
        self._has_risen = False
        self.clock = clock
        self.patience = patience or Patience(greeting=(limits or Limits()).handshake)
        self.window = window
        self.snapshot_interval = snapshot_interval
        dials = None if connect is None else Dials(limits)
        self.holdings = Holdings(limits or Limits())
        self.table: RegistryTable[RegistryProtocol] = RegistryTable(
            lease=lease, grace=grace, limits=limits, dials=dials, holdings=self.holdings
        )
        self._random = random or SystemRandom()
        self._dial_back: DialBack | None = None
        if connect is not None and dials is not None:
            self._dial_back = DialBack(
                clock, connect, introduction, dials, told=self._dialled, idle=self._check_stopped
            )
        self.log_room = LogRoom(clock)
        # In the order of their arrival, so that a simulation repeats to the byte.
        self._connections: dict[RegistryProtocol, None] = {}
        self._push_call: IDelayedCall | None = None
        self._pushed_at = -inf
        self._expire_call: IDelayedCall | None = None
        self._is_stopped = False
        self._stopping: list[Deferred[None]] = []

    @property
    def peers(self) -> list[Peer]:
        """Who is listed now."""
        return self.table.peers

    # Beginning and end

    def listening(self, host: str, port: int) -> None:
        """
        Say in the log where the registry can be found; for whoever made it listen.

        @param host: an address that others reach it at.
        @param port: the TCP port.
        """
        self.log.info(
            "Bootstrap node running at IP: {host}, Port: {port}", host=escape(host), port=port
        )
        self.log.info("Waiting for peers to connect...")

    def startFactory(self) -> None:
        self._is_stopped = False
        self._schedule_expiry()
        self._schedule_push()
        if self._dial_back is not None:
            self._dial_back.start()

    def stopFactory(self) -> None:
        self.stop()

    def stop(self) -> Deferred[None]:
        """
        Take no more connections and close those that there are, in peace.

        @return: a L{Deferred} that fires when all of them are gone, and all by which nodes are
            dialled back.
        """
        self._is_stopped = True
        for call in (self._push_call, self._expire_call):
            if call is not None:
                call.cancel()
        self._push_call = self._expire_call = None
        for connection in list(self._connections):
            connection.leave()
        if self._dial_back is not None:
            self._dial_back.stop()
        if self._is_over():
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._stopping.append(waiting)
        return waiting

    def buildProtocol(self, addr: IAddress | None) -> RegistryProtocol | None:
        if self._is_stopped:
            return None
        protocol = RegistryProtocol(self)
        protocol.factory = self
        return protocol

    # What its conversations tell it

    def connection_made(self, connection: RegistryProtocol) -> None:
        """
        Know a connection, until L{connection_gone}.
        """
        self._connections[connection] = None

    def register(
        self, connection: RegistryProtocol, node: bytes, wish: Register
    ) -> Placed[RegistryProtocol]:
        """
        Know a node, or know it anew.

        @return: what became of it; L{dial} is to be called once the node is told.
        @raise Flow512Error: as L{RegistryTable.register} does.
        """
        placed = self.table.register(
            connection, node, wish, connection.peer_host, self.clock.seconds()
        )
        if wish.term > self.claim.term:
            self.claim = self.claim.risen(wish.term)
            self._has_risen = True
            self._term_known(self.claim.term)
        if placed.displaced is not None:
            placed.displaced.end(StateInUse("The node registered through another connection."))
        self._schedule_push()
        self._schedule_expiry()
        return placed

    def renew(self, connection: RegistryProtocol, node: bytes) -> None:
        """
        Let a lease last anew.
        """
        self.table.renew(connection, node, self.clock.seconds())

    def leave(self, connection: RegistryProtocol, node: bytes) -> None:
        """
        Take a node off the list.
        """
        self.table.leave(connection, node)
        self._schedule_push()

    def connection_ended(self, connection: RegistryProtocol, node: bytes) -> None:
        """
        Give a node that was listed the grace to come back.
        """
        self.table.disconnected(connection, node, self.clock.seconds())
        self._schedule_expiry()

    def connection_gone(self, connection: RegistryProtocol) -> None:
        """
        Forget a connection.
        """
        self._connections.pop(connection, None)
        self._check_stopped()

    def _is_over(self) -> bool:
        return not self._connections and (self._dial_back is None or self._dial_back.is_idle)

    def _check_stopped(self) -> None:
        if self._is_stopped and self._is_over():
            waiting, self._stopping = self._stopping, []
            for deferred in waiting:
                deferred.callback(None)

    # Who holds what

    def hold(self, connection: RegistryProtocol, node: bytes, told: Hold) -> None:
        """
        Remember what a node holds.
        """
        why = self.holdings.hold(node, told.added, told.removed)
        if why and self.log_room.take(connection.host):
            self.log.warn(
                "Not all that peer {host} holds will be found: {why}.",
                host=escape(connection.host),
                why=why,
            )

    def who(self, node: bytes, asked: Who) -> Holders:
        """
        Answer who holds a content.

        @param node: who asks.
        @raise Busy: it asks too often.
        """
        now = self.clock.seconds()
        return Holders(self.holdings.who(asked.root, node, self.table.listed, self._random, now))

    # Who leads

    @property
    def leader(self) -> Leader:
        """What it says of itself."""
        claim = self.claim
        return Leader(claim.node, claim.term, claim.since, claim.appointed, why=claim.why)

    @property
    def ping_interval(self) -> float:
        """Seconds between two pings of a node, so that no more come than can be answered."""
        wanted = max(SHORTEST_INTERVAL, self.table.count / PINGS)
        return min(wanted, self.table.lease / PINGS_PER_LEASE)

    def send_to(self, leader: Leader | None) -> None:
        """
        Have all nodes go to another registry, those as well that are still to come.

        @param leader: where to; L{None} to keep them from now on.
        """
        self.elsewhere = leader
        told = encode(self.leader if leader is None else leader)
        for connection in self._connections:
            if connection.is_registered:
                connection.write_small(told)

    def name_heir(self) -> None:
        """
        Tell all nodes who is to lead when this registry stops: the first on the list that may.
        """
        heirs = [
            peer
            for peer in self.table.peers
            if peer.can_lead and peer.node != self.introduction.node
        ]
        if heirs and self.elsewhere is None:
            heir = min(heirs, key=lambda peer: peer.node)
            self.send_to(Leader(heir.node, host=heir.host, port=heir.port))

    def told_of(self, connection: RegistryProtocol, told: Leader) -> None:
        """
        Take note of another registry, of which a node tells.
        """
        offer = offer_told(told, connection.peer_host)
        if offer is not None:
            self._heard(offer)

    # Dialling back

    def dial(self) -> None:
        """
        Dial whom the table wants to be dialled.
        """
        if self._dial_back is not None:
            self._dial_back.look()

    def _dialled(self, dial: Dial, why_not: str | None) -> None:
        now = self.clock.seconds()
        address = HostPort(dial.host.partition("%")[0], dial.port)
        if why_not is None:
            told = self.table.reached(dial, now)
        else:
            sentence = f"The registry could not reach this node at {address}: {why_not}."
            told = self.table.not_reached(dial, sentence, now)
        if told is None:
            return
        self._schedule_push()
        if told.connection is not None:
            told.connection.send(told.reached)
        if self.is_itself(dial.node) or not self.log_room.take(address.host):
            return
        if why_not is None:
            self.log.info("Registered peer: {host}", host=address.host)
        else:
            self.log.info(
                "Peer not listed: nobody can reach it at {address}: {reason}.",
                address=str(address),
                reason=why_not,
            )

    # The log

    def is_itself(self, node: bytes) -> bool:
        """
        Tell whether a node id is that of the node that carries this registry: it is no news in the
        log of that node that it registers with itself.
        """
        return node == self.introduction.node

    def log_registration(
        self, node: bytes, placed: Placed[RegistryProtocol], wish: Register
    ) -> None:
        """
        Say in the log who registered; of who is to be dialled back first, once that is done.
        """
        if self.is_itself(node):
            return
        if wish.port and self._dial_back is not None and not (placed.reached and placed.reached.ok):
            return
        if self.log_room.take(placed.host):
            said = "Registered peer: {host}" if wish.port else "Registered to watch: {host}"
            self.log.info(said, host=escape(placed.host))

    # Time

    def _schedule_push(self) -> None:
        if (
            (self.table.has_changes or self._has_risen)
            and self._push_call is None
            and not self._is_stopped
        ):
            # The first of many changes is told at once, and the others together, a window later.
            wait = self._pushed_at + self.window - self.clock.seconds()
            self._push_call = self.clock.callLater(max(0.0, wait), self._push)

    def _push(self) -> None:
        self._push_call = None
        self._pushed_at = self.clock.seconds()
        deltas = b"".join([encode(delta) for delta in self.table.take_deltas()])
        if self._has_risen:
            self._has_risen = False
            if self.elsewhere is None:
                self.send_to(None)
        if deltas:
            for connection in self._connections:
                if connection.is_registered:
                    connection.push(deltas)
        self._schedule_push()

    def _schedule_expiry(self) -> None:
        # Pings only ever make the next end later. So the call is left where it is, finds nothing
        # to do, and is made anew: that is once in a lease, however many nodes ping.
        end = self.table.next_end
        if end is None or self._is_stopped:
            return
        if self._expire_call is not None:
            if self._expire_call.getTime() <= end:
                return
            self._expire_call.cancel()
        self._expire_call = self.clock.callLater(max(0.0, end - self.clock.seconds()), self._expire)

    def _expire(self) -> None:
        self._expire_call = None
        for connection in self.table.expire(self.clock.seconds()):
            connection.is_registered = False
            connection.end(TimedOut("No ping came for a whole lease."))
        self._schedule_push()
        self._schedule_expiry()
