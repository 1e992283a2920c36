"""
What an election may order: values, to be carried out by whoever has the connections.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

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


class Dial(msgspec.Struct, frozen=True):
    """Register at this address; C{node} is who has to be there, L{None} for anybody."""

    address: Address
    node: bytes | None = None


class HangUp(msgspec.Struct, frozen=True):
    """Leave the registry at this address, or stop trying."""

    address: Address


class Follow(msgspec.Struct, frozen=True):
    """Take the list of this link for the list."""

    address: Address
    claim: Claim
    why: Why


class Lead(msgspec.Struct, frozen=True):
    """Carry a registry, and follow it."""

    claim: Claim
    why: Why


class StepDown(msgspec.Struct, frozen=True):
    """Send those who follow this node's registry to another, and close it soon after."""

    address: Address
    claim: Claim


class Point(msgspec.Struct, frozen=True):
    """Send those who follow this node's registry to another; with L{None}, to this one again."""

    address: Address | None
    claim: Claim | None


class Tell(msgspec.Struct, frozen=True):
    """Tell the registry of a link of another registry; with L{None}, of this node's own."""

    address: Address
    offer: RegistryOffer | None


class Introduce(msgspec.Struct, frozen=True):
    """Tell the registry of a link of that of another link, which claims to lead as well."""

    address: Address
    other: Address
    claim: Claim


Action: TypeAlias = Dial | HangUp | Follow | Lead | StepDown | Point | Tell | Introduce
