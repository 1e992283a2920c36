"""
What an election may order: values, to be carried out by whoever has the connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from flow512.discovery.claims import Address, Claim, RegistryOffer


class Mode(Enum):
    """What C{--bootstrap} says."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class State(Enum):
    """What a node is up to."""

    SEEKING = "seeking"
    FOLLOWING = "following"
    STANDING = "standing"
    LEADING = "leading"


class Why(Enum):
    """Why the leader is another than before; for people."""

    APPOINTED = "its user wants it to be the bootstrap"
    NOBODY = "no bootstrap was found"
    LOST = "the bootstrap before it was gone"
    HEIR = "the bootstrap before it stopped, and named it"
    FOUND = "it was found"
    NAMED = "the user named it"
    HANDED = "the bootstrap before it named it"
    BETTER = "it comes before the other one"


@dataclass(frozen=True)
class Dial:
    """Register at this address; C{node} is who has to be there, L{None} for anybody."""

    address: Address
    node: bytes | None = None


@dataclass(frozen=True)
class HangUp:
    """Leave the registry at this address, or stop trying."""

    address: Address


@dataclass(frozen=True)
class Follow:
    """Take the list of this link for the list."""

    address: Address
    claim: Claim
    why: Why


@dataclass(frozen=True)
class Lead:
    """Carry a registry, and follow it."""

    claim: Claim
    why: Why


@dataclass(frozen=True)
class StepDown:
    """Send those who follow this node's registry to another, and close it soon after."""

    address: Address
    claim: Claim


@dataclass(frozen=True)
class Point:
    """Send those who follow this node's registry to another; with L{None}, to this one again."""

    address: Address | None
    claim: Claim | None


@dataclass(frozen=True)
class Tell:
    """Tell the registry of a link of another registry; with L{None}, of this node's own."""

    address: Address
    offer: RegistryOffer | None


@dataclass(frozen=True)
class Introduce:
    """Tell the registry of a link of that of another link, which claims to lead as well."""

    address: Address
    other: Address
    claim: Claim


Action: TypeAlias = Dial | HangUp | Follow | Lead | StepDown | Point | Tell | Introduce
