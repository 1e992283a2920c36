"""
Whose turn it is to lead when a leader is gone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from random import Random

from flow512.discovery.claims import Address, Heir
from flow512.discovery.waits import LATE_SPREAD, STAGGER, STAND_AFTER, TURN_SPREAD, TURNS


class Succession:
    """
    The heirs of the leader that was lost last.

    @ivar heirs: those that have turns of their own, in their order.
    @ivar ranks: by where they serve, how many come before them.
    """

    def __init__(self, random: Random) -> None:
        """
        @param random: for the turns of those who have none of their own.
        """
        self.heirs: list[Heir] = []
        self.ranks: dict[Address, int] = {}
        self._random = random

    def begin(self, gone: bytes, heirs: Iterable[Heir], node: bytes) -> float:
        """
        Put the heirs in order.

        @param gone: the leader that was lost.
        @param heirs: all who may lead, from the latest list.
        @param node: the one whose turn is asked for.
        @return: how many seconds from now that is.
        """
        remaining = sorted(
            (heir for heir in heirs if heir.node != gone), key=lambda heir: heir.node
        )
        nodes = [heir.node for heir in remaining]
        turn = min(nodes.index(node), TURNS) if node in nodes else TURNS
        self.heirs = remaining[:TURNS]
        self.ranks = {(heir.host, heir.port): rank for rank, heir in enumerate(self.heirs)}
        spread = self._random.uniform(0, LATE_SPREAD if turn == TURNS else TURN_SPREAD)
        return STAND_AFTER + turn * STAGGER + spread

    def asks_after(self, address: Address) -> float:
        """
        Tell when an heir is asked whether he leads by now.

        @return: seconds after the loss; 0 for who is none.
        """
        rank = self.ranks.get(address)
        return 0.0 if rank is None else STAND_AFTER + rank * STAGGER + 2 * TURN_SPREAD

    def leave_out(self, nodes: Container[bytes]) -> None:
        """
        Look for some heirs no longer.

        @param nodes: who follow the next leader by now.
        """
        self.heirs = [heir for heir in self.heirs if heir.node not in nodes]

    def end(self) -> None:
        """There is a leader."""
        self.heirs, self.ranks = [], {}
