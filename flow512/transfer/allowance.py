"""
What all conversations of one server share, and how much of it each may have.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from flow512.discovery.limits import Budgets
from flow512.errors import Busy
from flow512.limits import Limits
from flow512.transfer.read_memory import ReadMemory
from flow512.transfer.turns import Turns

_MINUTE: Final = 60.0

_LEAST_RETRY: Final = 1.0
"""Seconds to wait before another listing, at least: one question for each token would be many."""


class Allowance:
    """
    Tells whether one more request may be taken on.

    @ivar limits: how much there is in all.
    @ivar memory: for what is read from the disk.
    @ivar turns: for whom it is sent to.
    @ivar requests: under way now, in all conversations.
    """

    def __init__(self, limits: Limits, clock: IReactorTime) -> None:
        """
        @param limits: how much there is in all.
        @param clock: for what is limited in time.
        """
        self.limits = limits
        self.memory = ReadMemory(limits.buffered, clock)
        self.turns = Turns(clock)
        self.requests = 0
        self._clock = clock
        self._listings = Budgets(
            limits.listings_per_minute / _MINUTE,
            limits.listings_per_minute,
            limits.connections,
            clock.seconds(),
        )

    def check_request(self, mine: int, conversations: int) -> None:
        """
        Check that a conversation may have one more request.

        @param mine: how many it has under way.
        @param conversations: how many there are.
        @raise Busy: it may not.
        """
        if mine >= self.limits.requests:
            raise Busy(
                f"At most {self.limits.requests} requests may be under way; wait for answers."
            )
        most = self.limits.requests_in_all
        if self.requests >= most:
            # Whoever has less than its share must not wait for those who have more.
            share = max(1, most // max(1, conversations))
            if mine >= share or self.requests >= 2 * most:
                raise Busy("The node has too many requests under way; wait for answers.")

    def take_listing(self, who: str) -> None:
        """
        Grant one page of a list.

        @param who: whose allowance is used: a proven identity's, or a connection's.
        @raise Busy: it is used up.
        """
        if not self._listings.take(who, self._clock.seconds()):
            most = self.limits.listings_per_minute
            raise Busy(
                f"At most {most} pages of lists are given in a minute; wait a while.",
                max(_LEAST_RETRY, _MINUTE / most),
            )
