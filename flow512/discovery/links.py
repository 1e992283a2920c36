"""
The links of one node to those that lead, or may.
"""

from __future__ import annotations

from math import inf

import msgspec

from flow512.discovery.claims import Address, Claim, RegistryOffer


class Link(msgspec.Struct):
    """
    A registration at an address, under way or listed.

    @ivar address: where.
    @ivar begun: when it was begun.
    @ivar place: its place among those that the user named; L{None} if he did not.
    @ivar listed: since when this node is listed there.
    @ivar claim: what whoever is there claims, who has proven who he is; L{None} if not listed.
    @ivar is_told: whether he was told that this node leads.
    @ivar is_in_vain: whether he has tried in vain to reach this node.
    @ivar points: where the leader is, as he says; L{None} if that is he.
    """

    address: Address
    begun: float
    place: int | None
    listed: float = inf
    claim: Claim | None = None
    points: RegistryOffer | None = None
    is_told: bool = False
    is_in_vain: bool = False

    @property
    def is_listed(self) -> bool:
        """Whether whoever is there has listed this node."""
        return self.claim is not None

    @property
    def preference(self) -> tuple[bool, float, tuple[bool, int, bytes]]:
        """The smaller, the better; of a link that is listed."""
        assert self.claim is not None
        place = inf if self.place is None else self.place
        return (self.points is not None, place, self.claim.rank)

    def ended(self) -> None:
        """Take note that the link is lost."""
        self.listed, self.claim, self.points = inf, None, None
        self.is_told = self.is_in_vain = False


def better(one: Link | None, other: Link) -> Link:
    """
    Give the one of two that claims to come first.
    """
    if one is None or one.claim is None or other.claim is None:
        return other
    return other if other.claim.is_better_than(one.claim) else one
