"""
How many registrations a registry takes, and how often: in all, from one source, of one node id.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeVar

from flow512.discovery.limits import Budget, Budgets
from flow512.errors import Busy
from flow512.limits import Limits

RETRY: Final = 10.0
"""Seconds after which to try again whoever registers too often."""

AT_ONCE: Final = 4.0
"""Seconds' worth of registrations that are taken at once after a quiet time."""

LONGEST_TURN: Final = 600.0
"""Seconds; nobody is sent away for longer than that because of others."""

_BUDGETS: Final = 16_384
"""Sources, and node ids, whose budgets are remembered; each takes about 200 bytes."""

_MINUTE: Final = 60.0

_Key = TypeVar("_Key")


class Quota:
    """
    Counts the registrations that there are, and those that are made or changed.

    A source is that of L{flow512.link.origin.source_of}. Where node ids are proven, a limit on
    one holds up nobody else; over bare TCP they are not, and anybody can use up another's, as they
    can also register in its stead.
    """

    def __init__(self, limits: Limits, lease: float) -> None:
        """
        @param limits: those called C{registrations}.
        @param lease: seconds after which to try again whoever finds no room.
        """
        self._limits = limits
        self._lease = lease
        self._in_all = 0
        self._by_source: Counter[str] = Counter()
        self._by_node: Counter[bytes] = Counter()
        source = limits.registrations_per_address_per_minute
        node = limits.registrations_per_node_per_minute
        self._rate = limits.registrations_per_second
        self._of_all = Budget(self._rate, self._rate * AT_ONCE, 0.0)
        self._next_turn = 0.0
        self._of_source = Budgets(source / _MINUTE, source, _BUDGETS, 0.0)
        self._of_node = Budgets(node / _MINUTE, node, _BUDGETS, 0.0)

    def ask(self, source: str, node: bytes, now: float) -> None:
        """
        Count a registration that is to be made or changed, whatever comes of it.

        @raise Busy: there were too many lately.
        """
        if not self._of_source.take(source, now):
            raise Busy("Your address registers too often; try again later.", RETRY)
        if not self._of_node.take(node.hex(), now):
            raise Busy("You register too often; try again later.", RETRY)
        if not self._of_all.take(now):
            raise Busy("Many nodes register at the moment; come back later.", self._turn(now))

    def _turn(self, now: float) -> float:
        """
        Give one who has to wait a turn of his own: seconds until then. Turns that nobody comes for
        are no loss, as the budget goes to whoever does come.
        """
        self._next_turn = max(self._next_turn, now) + 1 / self._rate
        return min(self._next_turn - now, LONGEST_TURN)

    def find_room(self, source: str, node: bytes, before: str | None) -> None:
        """
        Make sure that there is room for a registration, without taking it.

        @param before: the source that it had until now; L{None} if it is new.
        @raise Busy: there is none.
        """
        limits = self._limits
        if before is None:
            if self._in_all >= limits.registrations:
                raise Busy("The registry is full; try again later.", self._lease)
            if self._by_node[node] >= limits.registrations_per_node:
                raise Busy(
                    f"{limits.registrations_per_node} processes with your identity have"
                    " registered, and more may not; try again later.",
                    self._lease,
                )
        if before != source and self._by_source[source] >= limits.registrations_per_address:
            raise Busy(
                f"{limits.registrations_per_address} nodes have registered from your address, and"
                " more may not; try again later.",
                self._lease,
            )

    def add(self, source: str, node: bytes) -> None:
        """
        Count a registration in.
        """
        self._in_all += 1
        self._by_source[source] += 1
        self._by_node[node] += 1

    def remove(self, source: str, node: bytes) -> None:
        """
        Count a registration out.
        """
        self._in_all -= 1
        _count_down(self._by_source, source)
        _count_down(self._by_node, node)


def _count_down(counts: Counter[_Key], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
