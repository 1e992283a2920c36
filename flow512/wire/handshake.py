"""
The handshake: who speaks, about what, in which version.

States of one side, and what moves it::

    initiator:  says HELLO ──> waiting ──HELLO──> agreed
                                  └─────ERROR──> refused
    acceptor:                  waiting ──HELLO──> agreed, answers HELLO
                                  └─────HELLO──> refused, answers ERROR

Invariants: nothing but a hello is read in C{waiting} (an initiator also reads the refusal);
the deadline on it is the driver's. Both sides reckon the agreement from the same two messages
and by the same rule, so they need not tell each other what it is:

  - the version is the smaller of the two newest ones, and must be one that both speak;
  - a feature is on when both name it;
  - the conversation is the one the initiator asks for; the acceptor names it in its answer;
  - the networks' names are equal.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flow512.errors import Unsupported, Violation
from flow512.wire.messages import Hello


@dataclass(frozen=True)
class Agreement:
    """
    What both sides hold to from now on.

    @ivar version: of the protocol.
    @ivar features: that both have.
    @ivar peer: the other side's hello.
    """

    version: int
    features: frozenset[str]
    peer: Hello


def agree(ours: Hello, theirs: Hello) -> Agreement:
    """
    Reckon what two hellos agree on.

    @param ours: what this side says, with the conversation that it asks for or answers with.
    @param theirs: what the other side said.
    @raise Unsupported: no version in common, or another network.
    @raise Violation: a hello that contradicts itself, or answers about another conversation.
    """
    if theirs.oldest > theirs.newest:
        raise Violation("The hello names versions from newer to older.")
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        raise Unsupported(
            f"This node speaks versions {ours.oldest} to {ours.newest} of the protocol, the other"
            f" {theirs.oldest} to {theirs.newest}; update the older of the two."
        )
    if ours.network != theirs.network:
        raise Unsupported("The other node belongs to another network.")
    if ours.conversation != theirs.conversation:
        raise Violation("The hello answers about another conversation than was asked for.")
    return Agreement(version, frozenset(ours.features) & frozenset(theirs.features), theirs)


def choose_conversation(theirs: Hello, offered: Collection[str]) -> str:
    """
    Find what the initiator asks for among what is offered here.

    @raise Unsupported: it is not offered.
    """
    if theirs.conversation not in offered:
        raise Unsupported(
            "That is not offered here: " + (", ".join(sorted(offered)) or "nothing") + " is."
        )
    return theirs.conversation
