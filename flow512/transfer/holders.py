"""
Holders: who else has a content, or parts of it, as a node knows it from those whom it speaks with.

Whoever asks for a content and passes on what he has of it tells where, and is told of to the
others who ask, as long as he is there. Everyone is told of equally often.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from flow512.wire.fields import Peer

TOLD_AT_ONCE: Final = 32
"""Holders that one answer names, at most: more than one download uses."""

MOST_CONTENTS: Final = 16
"""Contents that one conversation may say it holds; what it says of further ones is passed over."""


class KnownHolders:
    """
    Who holds what, of those who are known by an own word or deed.
    """

    def __init__(self) -> None:
        # Who has been told of last stands last.
        self._holders: dict[bytes, OrderedDict[Hashable, Peer]] = {}
        self._told_by: dict[Hashable, set[bytes]] = {}

    def note(self, key: Hashable, root: bytes, peer: Peer) -> None:
        """
        Take note of a holder.

        @param key: what it is known by, such as a conversation with it. It has one place for each
            content: the last that was noted.
        @param root: what it holds.
        @param peer: where it is.
        """
        roots = self._told_by.setdefault(key, set())
        if root in roots or len(roots) < MOST_CONTENTS:
            roots.add(root)
            self._holders.setdefault(root, OrderedDict())[key] = peer

    def drop(self, key: Hashable, root: bytes) -> None:
        """
        Tell no longer that somebody holds a content; nothing happens if nobody said so.
        """
        roots = self._told_by.get(key)
        if roots is None or root not in roots:
            return
        roots.discard(root)
        if not roots:
            del self._told_by[key]
        holders = self._holders[root]
        del holders[key]
        if not holders:
            del self._holders[root]

    def forget(self, key: Hashable) -> None:
        """
        Tell no longer of somebody at all.
        """
        for root in tuple(self._told_by.get(key, ())):
            self.drop(key, root)

    def known(self, root: bytes, but: Hashable = None) -> tuple[Peer, ...]:
        """
        Tell who holds a content.

        @param root: which.
        @param but: the key of whoever asks, who is not told of.
        @return: at most L{TOLD_AT_ONCE}, none twice; others the next time, if there are more.
        """
        holders = self._holders.get(root, OrderedDict())
        chosen: list[Hashable] = []
        for key in holders:
            if len(chosen) == TOLD_AT_ONCE:
                break
            if key != but:
                chosen.append(key)
        for key in chosen:
            holders.move_to_end(key)
        return tuple(dict.fromkeys(holders[key] for key in chosen))
