"""
The registry's state: who is registered, what has been told of it, and what has not been yet.

States of a registration, which is one node id's::

    absent ──register──> held ──its connection ends──> lingering
    held ──register, by its own connection──> held, with what it says now
    held ──register with the same ticket, by another connection──> held by that one
    held ──leave; or a lease without a ping──> absent
    lingering ──register with the same ticket──> held
    lingering ──the grace is over──> absent
    held, lingering ──register with another ticket──> refused, unchanged

The list has two versions. The I{current} one is every registration that has a port. The
I{published} one is what the snapshots and deltas up to L{RegistryTable.number} tell.

Invariants:

  - L{RegistryTable._unpublished} holds exactly the node ids that differ between the two. So what
    comes and goes between two deltas cancels out, and a node that registers in a loop is told of
    once, as it is at the end.
  - A snapshot at a number, with the deltas after it up to another, is the snapshot at that other.
  - Leases all last equally long, and so do graces. Whoever is granted one goes to the end of its
    queue, and so both queues are in the order in which they end.
  - A connection other than the one that holds a registration changes nothing about it, but by
    registering with its ticket.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Generic, NamedTuple, TypeVar

from flow512.errors import Busy, NotAllowed, StateInUse
from flow512.registry.sheets import Sheets
from flow512.wire.messages import MAX_PEERS, Delta, Peer, Register

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

_Connection = TypeVar("_Connection", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """
    How much the registry takes on.

    @ivar registrations: in all. A hundred thousand take about 100 MiB.
    @ivar per_source: from one source, see L{source_of}. A lab behind one address, or a load test,
        stays below the default; whoever wants to fill the registry needs a hundred addresses.
    """

    registrations: int = 100_000
    per_source: int = 1_024


class Placed(NamedTuple, Generic[_Connection]):
    """
    What became of a registration.

    @ivar host: the address that the node is seen at.
    @ivar displaced: the connection that held it until now; L{None} if there is none, or it is
        the same.
    """

    host: str
    displaced: _Connection | None


@dataclass
class _Registration(Generic[_Connection]):
    node: bytes
    ticket: bytes
    source: str
    peer: Peer | None  # None for a node that only watches
    connection: _Connection | None  # None while it lingers
    ends: float


def plain_address(host: str) -> IPv4Address | IPv6Address | None:
    """
    Read an address as a transport gives it.

    @return: the address, without a scope, which says nothing to others, and as IPv4 if it is one
        that IPv6 wraps; L{None} for anything else, such as the path of a UNIX socket.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def source_of(host: str) -> str:
    """
    Tell who is to be counted as one: an IPv4 address, or an IPv6 network of 64 bits, since the
    addresses in it are anyone's who has one of them.
    """
    address = plain_address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return host if address is None else str(address)


def subnet_of(host: str) -> str:
    """
    Tell which machines are likely to be one network's: those of a /24 of IPv4, or a /48 of IPv6.
    """
    address = plain_address(host)
    if address is None:
        return host
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))


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
        self, *, lease: float = LEASE, grace: float = GRACE, limits: Limits | None = None
    ) -> None:
        """
        @param lease: seconds that a registration lasts without a ping.
        @param grace: seconds that it lasts after its connection ended without LEAVE.
        @param limits: how many there may be.
        """
        self.lease = lease
        self.grace = grace
        self.limits = limits or Limits()
        self.number = 0
        self._registrations: dict[bytes, _Registration[_Connection]] = {}
        self._held: OrderedDict[bytes, _Registration[_Connection]] = OrderedDict()
        self._lingering: OrderedDict[bytes, _Registration[_Connection]] = OrderedDict()
        self._by_source: Counter[str] = Counter()
        self._published = Sheets()
        self._unpublished: OrderedDict[bytes, None] = OrderedDict()

    # What is there

    @property
    def peers(self) -> list[Peer]:
        """The current list."""
        return [each.peer for each in self._registrations.values() if each.peer is not None]

    @property
    def has_changes(self) -> bool:
        """Whether L{take_deltas} has anything to give."""
        return bool(self._unpublished)

    @property
    def next_end(self) -> float | None:
        """When L{expire} has something to do next, unless there is a ping; L{None} for never."""
        heads = [next(iter(q.values())).ends for q in (self._held, self._lingering) if q]
        return min(heads, default=None)

    # What happens

    def register(
        self, connection: _Connection, node: bytes, wish: Register, host: str, now: float
    ) -> Placed[_Connection]:
        """
        List a node, or list it anew.

        @param connection: the one that asks, and that holds the registration from now on.
        @param node: its node id, 32 bytes.
        @param wish: what it asks for.
        @param host: where the connection comes from, as the transport says.
        @return: what became of it; a connection that was displaced is the caller's to close.
        @raise StateInUse: somebody else has registered that node id.
        @raise Busy: there are too many, in all or from that source.
        @raise NotAllowed: the name, or an address that nobody could reach. After any of the
            three, everything is as before.
        """
        name = clean_name(wish.name)
        address = plain_address(host)
        if address is not None:
            host = str(address)
        elif wish.port:
            raise NotAllowed(
                "The registry sees no internet address that you come from;"
                " register with port 0 to watch without being listed."
            )
        old = self._registrations.get(node)
        if old is not None and not compare_digest(old.ticket, wish.ticket):
            raise StateInUse(
                "This node id is registered with another ticket; if that was this node before it"
                f" restarted, its registration ends within {self.lease:g} seconds."
            )
        source = source_of(host)
        self._check_limits(old, source)
        displaced = None
        if old is not None:
            if old.connection != connection:
                displaced = old.connection
            self._forget(old)
        new = _Registration(
            node=node,
            ticket=wish.ticket,
            source=source,
            peer=Peer(node, name, host, wish.port) if wish.port else None,
            connection=connection,
            ends=now + self.lease,
        )
        self._registrations[node] = self._held[node] = new
        self._by_source[source] += 1
        self._compare(node)
        return Placed(host[:_MAX_HOST], displaced)

    def renew(self, connection: _Connection, node: bytes, now: float) -> None:
        """
        Let the lease last anew: a ping came.
        """
        held = self._held_by(connection, node)
        if held is not None:
            held.ends = now + self.lease
            self._held.move_to_end(node)

    def leave(self, connection: _Connection, node: bytes) -> None:
        """
        Take a node off the list, as it asks.
        """
        held = self._held_by(connection, node)
        if held is not None:
            self._forget(held)
            self._compare(node)

    def disconnected(self, connection: _Connection, node: bytes, now: float) -> None:
        """
        Let a node linger, whose connection ended and who may come back.
        """
        held = self._held_by(connection, node)
        if held is not None:
            del self._held[node]
            held.connection = None
            held.ends = now + self.grace
            self._lingering[node] = held

    def expire(self, now: float) -> list[_Connection]:
        """
        End the leases and graces that are over.

        @return: the connections whose lease ended; the caller's to close.
        """
        silent = []
        for queue in (self._held, self._lingering):
            while queue:
                first = next(iter(queue.values()))
                if first.ends > now:
                    break
                if first.connection is not None:
                    silent.append(first.connection)
                self._forget(first)
                self._compare(first.node)
        return silent

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
                peer = self._listed(node)
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

    def _listed(self, node: bytes) -> Peer | None:
        registration = self._registrations.get(node)
        return None if registration is None else registration.peer

    def _held_by(self, connection: _Connection, node: bytes) -> _Registration[_Connection] | None:
        held = self._held.get(node)
        return held if held is not None and held.connection == connection else None

    def _check_limits(self, old: _Registration[_Connection] | None, source: str) -> None:
        if old is None and len(self._registrations) >= self.limits.registrations:
            raise Busy("The registry is full; try again later.", self.lease)
        if (old is None or old.source != source) and (
            self._by_source[source] >= self.limits.per_source
        ):
            raise Busy(
                f"{self.limits.per_source} nodes have registered from your address, and more may"
                " not; try again later.",
                self.lease,
            )

    def _forget(self, registration: _Registration[_Connection]) -> None:
        node = registration.node
        queue = self._lingering if registration.connection is None else self._held
        del queue[node]
        del self._registrations[node]
        self._by_source[registration.source] -= 1
        if not self._by_source[registration.source]:
            del self._by_source[registration.source]

    def _compare(self, node: bytes) -> None:
        if self._listed(node) == self._published.get(node):
            self._unpublished.pop(node, None)
        else:
            self._unpublished[node] = None
