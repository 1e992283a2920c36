"""
What a node holds, and what of it its registry has not been told yet.

Only how things stand counts: a root that comes and goes before it is said is said once, as it is
at the end. So what waits is never more than what is held, and what has just gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from flow512.wire.fields import MAX_ROOTS
from flow512.wire.holding import Hold


class Inventory:
    """
    The roots of one node, for one registry.

    @ivar roots: all that it holds; to be read.
    """

    def __init__(self) -> None:
        self.roots: set[bytes] = set()
        # In the order of their arrival, so that a simulation repeats to the byte.
        self._unsaid: dict[bytes, None] = {}
        self._has_begun = False
        self._owes_first = False

    def change(self, added: Iterable[bytes], removed: Iterable[bytes]) -> None:
        """
        Take note of what is held from now on, and no longer.

        @param added: roots; those that are held already do not matter.
        @param removed: roots, likewise.
        """
        for root in removed:
            if root in self.roots:
                self.roots.discard(root)
                self._unsaid[root] = None
        for root in added:
            if root not in self.roots:
                self.roots.add(root)
                self._unsaid[root] = None

    def begin(self) -> None:
        """
        Say all of it anew: to a registry that may know nothing, or what was so earlier.

        The first HOLD of a conversation takes the place of what was said in another; so there is
        one, be it empty, wherever something was said before.
        """
        self._owes_first = self._has_begun
        self._unsaid = dict.fromkeys(self.roots)

    def take(self) -> Hold | None:
        """
        Give the next message, which is then taken to be said.

        @return: it; L{None} if everything has been said.
        """
        if not self._unsaid and not self._owes_first:
            return None
        self._owes_first = False
        self._has_begun = True
        added: list[bytes] = []
        removed: list[bytes] = []
        for _ in range(min(MAX_ROOTS, len(self._unsaid))):
            root, _ = self._unsaid.popitem()
            (added if root in self.roots else removed).append(root)
        return Hold(tuple(added), tuple(removed))
