"""
The message by which registries and nodes tell each other who leads.

docs/bootstrap.rst tells what follows from it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from flow512.wire.fields import Message, Milliseconds, Name, NodeId, Port, Term

MAX_WHY: Final = 200
"""Characters in which a leader says why it leads."""


class Leader(Message, frozen=True):
    """
    Who leads.

    From a registry: itself, once somebody has registered and whenever its term rises; or
    another one, to which the node is to go. From a node: another registry, for this one to look
    at; or itself, if it leads as well.

    @ivar node: the leader's node id; where it is the sender's, the sender has proven it.
    @ivar term: the term in which it leads; 0 if that is not known yet.
    @ivar since: when it began to lead, in milliseconds since 1970 (UTC) by its own clock.
    @ivar appointed: whether its user wants it to lead.
    @ivar host: where it is; empty for the address that the sender is seen at.
    @ivar port: its TCP port; 0 from a registry that speaks of itself.
    @ivar why: why it leads, for people; hostile until it is escaped.
    """

    node: NodeId
    term: Term = 0
    since: Milliseconds = 0
    appointed: bool = False
    host: Name = ""
    port: Port = 0
    why: Annotated[str, Meta(max_length=MAX_WHY)] = ""
