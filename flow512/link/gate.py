"""
Which connections may be there: so that those who only connect keep nobody else out.

States of a connection::

    absent ──arrived──> half-open ──greeted──> established
                         │    │                     │
       too many: dropped │    └───────left──────────┤
                         └──────────────────────────┴──> absent

A half-open connection has cost whoever made it nothing, so none is refused for want of room: the
newcomer comes in, and the oldest half-open connection of the source that has most of them goes.
Thousands of silent connections so only push out each other, and a newcomer of the same source
still has the time in which as many more arrive as that source may have. If no source has more
than one part in L{CROWD}, the oldest of all goes: else who comes from thousands of addresses, with
one connection each, would push out whoever has two. Sources are those of
L{flow512.link.origin.source_of}.

What costs this side most is to begin TLS, and it costs the other one nothing. So L{Gate.begins}
lets only so many handshakes of one source begin in a second, after as many at once as may be
half-open. Who shares an address with somebody that floods this node has to try again.

An established connection has said who it is and is not dropped for another; who comes when all
room is taken is told to come back. The last quarter of the room is for sources that have less
than their share, as it would be with one source more: so whoever takes what there is, from
however many addresses, leaves a share for the next.

Invariants:

  - Never more than L{Gate.half_open} connections are half-open, nor more than the limit of one
    source from that source; likewise for the established.
  - A connection that is refused by L{Gate.greeted} stays half-open until it leaves, and may be
    dropped while the refusal is on its way.
  - C{_sources_with[n]} holds exactly the sources with C{n} half-open connections, in the order in
    which they came to have that many; no set in it is empty; C{_most} is the greatest C{n}, 0
    if there is none. A source's count changes by one at a time, so C{_most} is kept in O(1).
  - Nothing is kept of a connection that is absent, nor of a source without connections.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from flow512.discovery.limits import Budgets
from flow512.errors import Busy
from flow512.limits import Limits
from flow512.link.origin import source_of

RETRY: Final = 15.0
"""Seconds after which to try again whoever finds all room taken."""

CROWD: Final = 16
"""A source that holds more than one part in so many of the half-open room is a crowd."""

_SOURCES: Final = 4096
"""Sources whose handshakes are counted one by one; beyond that the new ones share a count."""

_Connection = TypeVar("_Connection", bound=Hashable)


class _Established(NamedTuple):
    source: str
    node: bytes


class Gate(Generic[_Connection]):
    """
    Counts the connections that others make.

    Connections are whatever the caller knows them by; here they are only compared. Every call
    takes the same short time, however many there are.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """
        @param limits: how many there may be.
        """
        self._limits = limits or Limits()
        # In the order of their arrival, all of them; plain dicts are slow to find their first.
        self._half_open: OrderedDict[_Connection, str] = OrderedDict()
        self._waiting: dict[str, OrderedDict[_Connection, None]] = {}  # by source
        self._sources_with: dict[int, OrderedDict[str, None]] = {}
        self._most = 0
        self._handshakes = Budgets(
            self._limits.handshakes_per_address_per_second,
            self._limits.half_open_per_address,
            _SOURCES,
            0.0,
        )
        self._established: dict[_Connection, _Established] = {}
        self._by_source: Counter[str] = Counter()
        self._by_node: dict[bytes, dict[_Connection, None]] = {}

    @property
    def half_open(self) -> int:
        """How many connections have not been greeted."""
        return len(self._half_open)

    @property
    def established(self) -> int:
        """How many have been."""
        return len(self._established)

    def connections_of(self, node: bytes) -> list[_Connection]:
        """
        Give the established connections of a node, such as one that was banned just now.

        @param node: its node id.
        """
        return list(self._by_node.get(node, ()))

    def arrived(self, connection: _Connection, host: str) -> _Connection | None:
        """
        Let a connection in; it is half-open.

        @param connection: one that is absent.
        @param host: where it comes from, as the transport says.
        @return: a connection that had to go for it, for the caller to abort, and absent from now
            on; L{None} if there was room.
        """
        source = source_of(host)
        dropped = None
        if len(self._waiting.get(source, ())) >= self._limits.half_open_per_address:
            dropped = next(iter(self._waiting[source]))
        elif len(self._half_open) >= self._limits.half_open:
            dropped = next(iter(self._half_open))
            if self._most * CROWD > self._limits.half_open:
                largest = next(iter(self._sources_with[self._most]))
                dropped = next(iter(self._waiting[largest]))
        if dropped is not None:
            self._take_out(dropped)
        self._half_open[connection] = source
        waiting = self._waiting.setdefault(source, OrderedDict())
        waiting[connection] = None
        self._recount(source, len(waiting) - 1, len(waiting))
        return dropped

    def begins(self, connection: _Connection, now: float) -> bool:
        """
        Let a half-open connection begin its handshake.

        @param now: seconds on any clock.
        @return: whether it may; if not, it is the caller's to close.
        """
        source = self._half_open.get(connection)
        return source is not None and self._handshakes.take(source, now)

    def greeted(self, connection: _Connection, node: bytes) -> None:
        """
        Establish a connection: its handshake is through.

        @param connection: one that is half-open. One that was dropped is not taken back.
        @param node: the node id of who made it.
        @raise Busy: there is no room; the connection stays half-open until it leaves.
        """
        source = self._half_open.get(connection)
        if source is None:
            return
        self._check_room(source)
        self._take_out(connection)
        self._established[connection] = _Established(source, node)
        self._by_source[source] += 1
        self._by_node.setdefault(node, {})[connection] = None

    def left(self, connection: _Connection) -> None:
        """
        Forget a connection that is gone. For one that is absent, nothing happens.
        """
        if connection in self._half_open:
            self._take_out(connection)
            return
        gone = self._established.pop(connection, None)
        if gone is None:
            return
        self._by_source[gone.source] -= 1
        if not self._by_source[gone.source]:
            del self._by_source[gone.source]
        of_node = self._by_node[gone.node]
        del of_node[connection]
        if not of_node:
            del self._by_node[gone.node]

    def _check_room(self, source: str) -> None:
        limits, taken, mine = self._limits, len(self._established), self._by_source[source]
        if mine >= limits.connections_per_address:
            raise Busy(
                f"{mine} connections from your address are open, and more may not be;"
                " try again later.",
                RETRY,
            )
        share = limits.connections // (len(self._by_source) + 1)
        if taken >= limits.connections or (4 * taken >= 3 * limits.connections and mine >= share):
            raise Busy("Too many connections are open; try again later.", RETRY)

    def _take_out(self, connection: _Connection) -> None:
        source = self._half_open.pop(connection)
        waiting = self._waiting[source]
        del waiting[connection]
        self._recount(source, len(waiting) + 1, len(waiting))
        if not waiting:
            del self._waiting[source]

    def _recount(self, source: str, before: int, now: int) -> None:
        if before:
            sources = self._sources_with[before]
            del sources[source]
            if not sources:
                del self._sources_with[before]
        if now:
            self._sources_with.setdefault(now, OrderedDict())[source] = None
        if now > self._most or self._most not in self._sources_with:
            self._most = now
