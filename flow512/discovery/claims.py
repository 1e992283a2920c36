"""
What leaders claim, and which of two stays: the one rule that every node computes alike.

The rule compares what is fixed for as long as somebody leads, so it does not matter when and in
which order anybody hears of whom. docs/bootstrap.rst has it for people.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

MOST_RISE: Final = 1000
"""By how much one registration can make a term rise; elections make it rise by one."""

MAX_TERM: Final = 2**62
"""Above this nothing rises, and nothing else changes: who leads is decided without terms."""

MAX_SINCE: Final = 2**53
"""Milliseconds; some hundred thousand years."""

Address: TypeAlias = tuple[str, int] | str
"""Host and TCP port, or the string of an endpoint that a user named."""


class Origin(Enum):
    """Where an offer of a registry is from."""

    BEACON = "beacon"
    REGISTRY = "registry"
    PEER = "peer"
    MEMORY = "memory"
    LIST = "list"


def rise(mine: int, theirs: int) -> int:
    """
    Take over a term that somebody knows.

    @param mine: the latest that is known here.
    @param theirs: what he says.
    @return: the later one, but no more than L{MOST_RISE} above C{mine}, and L{MAX_TERM}.
    """
    return max(mine, min(theirs, mine + MOST_RISE, MAX_TERM))


class Claim(msgspec.Struct, frozen=True):
    """
    What a leader says of itself.

    @ivar node: its node id.
    @ivar term: the term in which it leads; rises when it learns of a later one.
    @ivar since: when it began to lead, in milliseconds since 1970 by its own clock.
    @ivar appointed: whether its user wants it to lead.
    @ivar why: why it leads, for people; of no weight.
    """

    node: bytes
    term: int
    since: int
    appointed: bool = False
    why: str = ""

    @property
    def rank(self) -> tuple[bool, int, bytes]:
        """The smaller, the better: appointed, then longest, then by node id."""
        return (not self.appointed, self.since, self.node)

    def is_better_than(self, other: Claim) -> bool:
        """
        Tell whether this leader is to stay of the two.
        """
        return self.rank < other.rank

    def risen(self, term: int) -> Claim:
        """
        Make the same claim for a term that somebody else knows, if that is later.
        """
        return replace(self, term=rise(self.term, term))


class RegistryOffer(msgspec.Struct, frozen=True):
    """
    A hint that a registry may be somewhere: to be dialled, and nothing to be believed.

    @ivar host: an IP address, with C{%interface} if it means nothing without.
    @ivar port: the TCP port.
    @ivar node: the claimed node id; empty if unknown.
    @ivar term: the claimed term; 0 if nothing is claimed.
    @ivar since: when it claims to have begun to lead, in milliseconds since 1970.
    @ivar appointed: whether it claims to lead because its user wants that.
    @ivar origin: from where it is known.
    """

    host: str
    port: int
    node: bytes = b""
    term: int = 0
    since: int = 0
    appointed: bool = False
    origin: Origin = Origin.BEACON

    @property
    def address(self) -> Address:
        """Where to dial."""
        return (self.host, self.port)

    @property
    def claim(self) -> Claim | None:
        """What it claims; L{None} if that is unknown."""
        if not (self.term and self.node):
            return None
        return Claim(self.node, self.term, self.since, self.appointed)

    @property
    def order(self) -> tuple[object, ...]:
        """The smaller, the sooner to be tried: by claim, then IPv4 and what needs no interface."""
        claim = self.claim
        rank = (True,) if claim is None else (False, *claim.rank)
        return (rank, "%" in self.host, ":" in self.host, self.host, self.port)


class Heir(msgspec.Struct, frozen=True):
    """
    A node on the list that may lead.

    @ivar node: its node id.
    @ivar host: the address that it serves at.
    @ivar port: the TCP port.
    """

    node: bytes
    host: str
    port: int

    @property
    def offer(self) -> RegistryOffer:
        """Where to look for the registry that it may carry by now."""
        return RegistryOffer(self.host, self.port, self.node, origin=Origin.LIST)
