"""
The registry's state: who is registered, what has been told of it, and what has not been yet.

A registration is that of one process, which is known by its node id and its ticket. It I{serves}
if it has a port, and else it only watches. States::

    absent ──register──> held ──its connection ends──> lingering
    held ──register, by its own connection──> held, with what it says now
    held ──register with the same ticket, by another connection──> held by that one
    held ──leave; or a lease without a ping──> absent
    lingering ──register with the same ticket──> held
    lingering ──the grace is over──> absent

What a registration that serves claims, that the node answers at that port of the address that it
is seen at, has states of its own::

    unproven ──a dial found the node there──> proven ──another host or port, or none──> unproven

While it is unproven L{flow512.registry.dials} has a dial for it. A table without dials takes every
claim for proven.

The list has two versions. The I{current} one is every registration that is proven. The
I{published} one is what the snapshots and deltas up to L{RegistryTable.number} tell.

Invariants:

  - One registration of a node id serves at most. Whoever wants to serve with another ticket is
    refused, and nothing changes; any number may watch beside it, as commands do whose user also
    serves.
  - L{RegistryTable._unpublished} holds exactly the node ids that differ between the two. So what
    comes and goes between two deltas cancels out, and a node that registers in a loop is told of
    once, as it is at the end.
  - A snapshot at a number, with the deltas after it up to another, is the snapshot at that other.
  - Leases all last equally long, and so do graces. Whoever is granted one goes to the end of its
    queue, and so both queues are in the order in which they end.
  - A connection other than the one that holds a registration changes nothing about it, but by
    registering with its ticket. A connection holds one registration of a node id at most.
"""

from __future__ import annotations

import unicodedata
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from flow512.errors import NotAllowed, StateInUse
from flow512.limits import Limits
from flow512.link.origin import plain_address, source_of
from flow512.registry.dials import Dial, Dials
from flow512.registry.holdings import Holdings
from flow512.registry.quota import Quota
from flow512.registry.sheets import Sheets
from flow512.wire.fields import MAX_PEERS, Peer
from flow512.wire.messages import Delta, Reached, Register

LEASE: Final = 30.0
"""Seconds that a registration lasts without a ping."""

GRACE: Final = 5.0
"""Seconds in which a node may come back without having left."""

MAX_CHANGES: Final = 4 * MAX_PEERS
"""
Changes that are published at once; the others wait for the next time.

It bounds what one push adds to every connection's memory.
"""

_MAX_HOST: Final = 64
_JOINERS: Final = "\u200c\u200d"
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

_Key = TypeVar("_Key")
_Connection = TypeVar("_Connection", bound=Hashable)


class Placed(NamedTuple, Generic[_Connection]):
    """
    What became of a registration.

    @ivar host: the address that the node is seen at.
    @ivar displaced: the connection that held it until now; L{None} if there is none, or it is
        the same.
    @ivar reached: whether it is known to be reached where it says; L{None} if that is to be
        found out, or is no question.
    """

    host: str
    displaced: _Connection | None
    reached: Reached | None = None


class Told(NamedTuple, Generic[_Connection]):
    """
    What a node is to be told of being reached.

    @ivar connection: the one that holds its registration; L{None} while it lingers.
    """

    connection: _Connection | None
    reached: Reached


class _Registration(msgspec.Struct, Generic[_Connection]):
    node: bytes
    ticket: bytes
    source: str
    peer: Peer | None  # None for a node that only watches
    seen_at: str  # the peer's host, with its scope if it has one
    is_proven: bool
    connection: _Connection | None  # None while it lingers
    ends: float


def clean_name(name: str) -> str:
    """
    Check what a user calls a node.

    @return: the name without white space around it.
    @raise NotAllowed: it has a character that could forge what others see: control, bidi, line or
        paragraph separator (of Unicode's categories Cc, Cf but for the joiners U+200C and U+200D,
        Cs, Zl, Zp).
    """
    name = name.strip()
    for character in name:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            raise NotAllowed(
                f"The name holds the character U+{ord(character):04X}, which names may not;"
                " choose one without control characters."
            )
    return name


class RegistryTable(Generic[_Connection]):
    """
    All registrations, and the list that is told of them.

    Connections are whatever the caller knows them by; here they are only compared. Times are
    seconds on the caller's clock, and never go back.

    @ivar number: of the latest delta; 0 before the first.
    """

    def __init__(
        self,
        *,
        lease: float = LEASE,
        grace: float = GRACE,
        limits: Limits | None = None,
        dials: Dials | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        """
        @param lease: seconds that a registration lasts without a ping.
        @param grace: seconds that it lasts after its connection ended without LEAVE.
        @param limits: how many there may be, and how often, all those called C{registrations}.
        @param dials: is told whom to dial back; with L{None} whoever registers is listed at once.
        @param holdings: forgets what a node holds once the node serves no longer.
        """
        self.lease = lease
        self.grace = grace
        self.number = 0
        self._quota = Quota(limits or Limits(), lease)
        self._dials = dials
        self._holdings = holdings
        self._registrations: dict[tuple[bytes, bytes], _Registration[_Connection]] = {}
        self._serving: dict[bytes, _Registration[_Connection]] = {}
        self._held: OrderedDict[tuple[_Connection, bytes], _Registration[_Connection]]
        self._held = OrderedDict()
        self._lingering: OrderedDict[tuple[bytes, bytes], _Registration[_Connection]]
        self._lingering = OrderedDict()
        self._published = Sheets()
        self._unpublished: OrderedDict[bytes, None] = OrderedDict()

    # What is there

    @property
    def peers(self) -> list[Peer]:
        """The current list."""
        return [
            each.peer
            for each in self._registrations.values()
            if each.peer is not None and each.is_proven
        ]

    @property
    def count(self) -> int:
        """How many are registered now, by a connection that there is."""
        return len(self._held)

    @property
    def has_changes(self) -> bool:
        """Whether L{take_deltas} has anything to give."""
        return bool(self._unpublished)

    @property
    def next_end(self) -> float | None:
        """When L{expire} has something to do next, unless there is a ping; L{None} for never."""
        heads = [_first(self._held), _first(self._lingering)]
        return min((head.ends for head in heads if head is not None), default=None)

    def listed(self, node: bytes) -> Peer | None:
        """
        Give a node as it is on the current list; L{None} if it is not.
        """
        registration = self._serving.get(node)
        return registration.peer if registration is not None and registration.is_proven else None

    def serves(self, connection: _Connection, node: bytes) -> bool:
        """
        Tell whether a connection holds the registration by which a node serves.
        """
        registration = self._serving.get(node)
        return registration is not None and registration.connection == connection

    # What happens

    def register(
        self, connection: _Connection, node: bytes, wish: Register, host: str, now: float
    ) -> Placed[_Connection]:
        """
        Know a node, or know it anew.

        @param connection: the one that asks, and that holds the registration from now on.
        @param node: its node id, 32 bytes.
        @param wish: what it asks for.
        @param host: where the connection comes from, as the transport says.
        @return: what became of it; a connection that was displaced is the caller's to close.
        @raise StateInUse: another process serves with that node id, or this connection
            registered with another ticket.
        @raise Busy: there are too many, in all, from that source or of that node id, or too
            often.
        @raise NotAllowed: the name, or an address that nobody could reach. After any of the
            three, everything is as before, but that it counts against how often.
        """
        address = plain_address(host)
        seen_at = host
        if address is not None:
            host = str(address)
            # A scope is of this machine: good for dialling, and nothing for others to know.
            seen_at = seen_at if address.version == 6 and "%" in seen_at else host
        source = source_of(host)
        self._quota.ask(source, node, now)
        name = clean_name(wish.name)
        if address is None and wish.port:
            raise NotAllowed(
                "The registry sees no internet address that you come from;"
                " register with port 0 to watch without being listed."
            )
        old = self._registrations.get((node, wish.ticket))
        self._check_ticket(connection, node, wish, old)
        self._quota.find_room(source, node, None if old is None else old.source)
        peer = Peer(node, name, host, wish.port, wish.can_lead) if wish.port else None
        displaced = None
        is_proven = peer is not None and self._dials is None
        if old is not None:
            if old.connection != connection:
                displaced = old.connection
            if old.is_proven and old.peer is not None and peer is not None:
                is_proven |= (old.peer.host, old.peer.port) == (peer.host, peer.port)
            self._forget(old)
        new = _Registration(
            node=node,
            ticket=wish.ticket,
            source=source,
            peer=peer,
            seen_at=seen_at,
            is_proven=is_proven,
            connection=connection,
            ends=now + self.lease,
        )
        self._registrations[node, wish.ticket] = self._held[connection, node] = new
        if peer is not None:
            self._serving[node] = new
        self._quota.add(source, node)
        self._review(node)
        return Placed(host[:_MAX_HOST], displaced, self._known_of(new, now))

    def renew(self, connection: _Connection, node: bytes, now: float) -> None:
        """
        Let the lease last anew: a ping came.
        """
        held = self._held_by(connection, node)
        if held is not None:
            held.ends = now + self.lease
            self._held.move_to_end((connection, node))

    def leave(self, connection: _Connection, node: bytes) -> None:
        """
        Take a node off the list, as it asks.
        """
        held = self._held_by(connection, node)
        if held is not None:
            self._forget(held)
            self._review(node)

    def disconnected(self, connection: _Connection, node: bytes, now: float) -> None:
        """
        Let a node linger, whose connection ended and who may come back.
        """
        held = self._held_by(connection, node)
        if held is not None:
            del self._held[connection, node]
            held.connection = None
            held.ends = now + self.grace
            self._lingering[node, held.ticket] = held

    def expire(self, now: float) -> list[_Connection]:
        """
        End the leases and graces that are over.

        @return: the connections whose lease ended; the caller's to close.
        """
        silent = []
        while (first := _first(self._held)) is not None and first.ends <= now:
            assert first.connection is not None
            silent.append(first.connection)
            self._forget(first)
            self._review(first.node)
        while (first := _first(self._lingering)) is not None and first.ends <= now:
            self._forget(first)
            self._review(first.node)
        return silent

    def reached(self, dial: Dial, now: float) -> Told[_Connection] | None:
        """
        List a node: it answered where it says.

        @param dial: what has found that out.
        @return: what to tell, and whom; L{None} if it is of no interest any more.
        """
        registration = self._unproven(dial)
        if registration is None:
            return None
        registration.is_proven = True
        self._review(dial.node)
        return self._told(registration, now)

    def not_reached(self, dial: Dial, sentence: str, now: float) -> Told[_Connection] | None:
        """
        Leave a node off the list until it is tried again: it did not answer where it says.

        @param dial: what has found that out.
        @param sentence: why, for the node's user.
        @return: what to tell, and whom; L{None} if it is of no interest any more.
        """
        registration = self._unproven(dial)
        if registration is None:
            return None
        assert self._dials is not None
        self._dials.failed(dial, sentence, now)
        return self._told(registration, now)

    # What is told

    def take_deltas(self, most: int = MAX_CHANGES) -> list[Delta]:
        """
        Publish what has changed, the oldest changes first.

        @param most: changes to publish at most; L{has_changes} tells whether any are left.
        @return: the deltas to push, in order; none if nothing has changed.
        """
        deltas = []
        while self._unpublished and most > 0:
            joined: list[Peer] = []
            left: list[bytes] = []
            changed: list[Peer] = []
            while self._unpublished and most > 0:
                if max(len(joined), len(left), len(changed)) == MAX_PEERS:
                    break
                node, _ = self._unpublished.popitem(last=False)
                most -= 1
                peer = self.listed(node)
                if peer is None:
                    self._published.remove(node)
                    left.append(node)
                    continue
                (joined if self._published.get(node) is None else changed).append(peer)
                self._published.put(peer)
            self.number += 1
            deltas.append(Delta(self.number, tuple(joined), tuple(left), tuple(changed)))
        return deltas

    def snapshot(self) -> Iterator[bytes]:
        """
        Give the published list, at the current number.

        @return: its encoded frames, which stay the same whatever happens before they are taken.
        """
        return self._published.frames(self.number)

    # How

    def _held_by(self, connection: _Connection, node: bytes) -> _Registration[_Connection] | None:
        return self._held.get((connection, node))

    def _unproven(self, dial: Dial) -> _Registration[_Connection] | None:
        if self._dials is None or not self._dials.counts(dial):
            return None
        return self._serving[dial.node]

    def _told(
        self, registration: _Registration[_Connection], now: float
    ) -> Told[_Connection] | None:
        reached = self._known_of(registration, now)
        assert reached is not None
        return Told(registration.connection, reached)

    def _known_of(self, registration: _Registration[_Connection], now: float) -> Reached | None:
        if registration.peer is None or self._dials is None:
            return None
        port = registration.peer.port
        if registration.is_proven:
            return Reached(port, True)
        dial = self._dials.want(registration.node, registration.seen_at, port)
        if not dial.failures:
            return None
        return Reached(port, False, dial.sentence, max(0.0, dial.due - now))

    def _check_ticket(
        self,
        connection: _Connection,
        node: bytes,
        wish: Register,
        old: _Registration[_Connection] | None,
    ) -> None:
        held = self._held_by(connection, node)
        if held is not None and held is not old:
            raise StateInUse("You have registered with another ticket, and have to keep to it.")
        serving = self._serving.get(node)
        if wish.port and serving is not None and serving is not old:
            raise StateInUse(
                "Another process with this identity serves already; stop it, or give this one"
                " another state folder. If it was this one before it restarted, its registration"
                f" ends within {self.lease:g} seconds."
            )

    def _forget(self, registration: _Registration[_Connection]) -> None:
        node, ticket = registration.node, registration.ticket
        if registration.connection is None:
            del self._lingering[node, ticket]
        else:
            del self._held[registration.connection, node]
        del self._registrations[node, ticket]
        if self._serving.get(node) is registration:
            del self._serving[node]
        self._quota.remove(registration.source, node)

    def _review(self, node: bytes) -> None:
        """Draw the conclusions, after anything that concerns a node id."""
        serving = self._serving.get(node)
        if self._holdings is not None and serving is None:
            self._holdings.forget(node)
        if self._dials is not None:
            if serving is None or serving.is_proven:
                self._dials.forget(node)
            else:
                assert serving.peer is not None
                self._dials.want(node, serving.seen_at, serving.peer.port)
        if self.listed(node) == self._published.get(node):
            self._unpublished.pop(node, None)
        else:
            self._unpublished[node] = None


def _first(
    queue: OrderedDict[_Key, _Registration[_Connection]],
) -> _Registration[_Connection] | None:
    return next(iter(queue.values()), None)
