"""
The list of peers from one registry to the next.

When the registry is another, its list is short at first: all others are still on their way to it.
So who was on the list before stays on it for a while, unless he is known to be gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from flow512.registry.peer_list import Change
from flow512.wire.fields import Peer

CARRIED_FOR: Final = 2.0
"""Seconds for which somebody stays whom the next registry does not list."""


class Carried:
    """
    Those of the list before who are not on the new one yet.
    """

    def __init__(self) -> None:
        self._peers: dict[bytes, Peer] = {}

    def __bool__(self) -> bool:
        return bool(self._peers)

    def with_list(self, listed: Mapping[bytes, Peer]) -> dict[bytes, Peer]:
        """
        Give the list as it counts.

        @param listed: by the registry that is followed.
        """
        return {**self._peers, **listed}

    def go_over(
        self, before: Mapping[bytes, Peer], listed: Mapping[bytes, Peer], gone: bytes
    ) -> Change:
        """
        Have another registry.

        @param before: the list that counted until now.
        @param listed: by the new registry.
        @param gone: who is known to be gone; empty for nobody.
        @return: how the list that counts has changed.
        """
        self._peers = {
            node: peer for node, peer in before.items() if node not in listed and node != gone
        }
        after = self.with_list(listed)
        return Change(
            joined=tuple(peer for node, peer in after.items() if node not in before),
            left=tuple(peer for node, peer in before.items() if node not in after),
            changed=tuple(peer for node, peer in after.items() if before.get(node, peer) != peer),
        )

    def change(
        self, joined: Iterable[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> Change:
        """
        Take in how the registry's list has changed.

        @return: how the list that counts has.
        """
        new, other = [], list(changed)
        for peer in joined:
            before = self._peers.pop(peer.node, None)
            if before is None:
                new.append(peer)
            elif before != peer:
                other.append(peer)
        return Change(tuple(new), tuple(left), tuple(other))

    def end(self) -> tuple[Peer, ...]:
        """
        Carry nobody any more.

        @return: who is off the list by that.
        """
        left, self._peers = tuple(self._peers.values()), {}
        return left
