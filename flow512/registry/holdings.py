"""
Who holds which content, as the nodes themselves have said.

A node says what it holds, and may say anything: nothing here is proof. It is there to save those
who look for a content from asking everybody.

Invariants:

  - A node is among the holders of a root exactly if the root is among those of the node.
  - No node has more roots than its limit, and all together have no more than theirs. What is
    beyond is not remembered, and comes in only when it is said again; nothing is pushed out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Final

from flow512.discovery.limits import Budgets
from flow512.errors import Busy
from flow512.limits import Limits
from flow512.wire.fields import MAX_PEERS, Peer

_ASKERS: Final = 16_384
"""Node ids whose budgets of questions are remembered; each takes about 200 bytes."""

_MINUTE: Final = 60.0

_LEAST_RETRY: Final = 1.0
"""Seconds to wait before another question, at least: one question for each token would be many."""


class Holdings:
    """
    Roots by node, and nodes by root.

    A root takes about 140 bytes if one node holds it, 250 for each of two, and 70 for each of many:
    so two million take 500 MB at most. A node that goes costs the time to take each of its roots
    back, which is less than 0.1 seconds for 100,000.
    """

    def __init__(self, limits: Limits) -> None:
        """
        @param limits: those called C{holdings}, and C{lookups_per_minute}.
        """
        self._limits = limits
        self._in_all = 0
        self._roots: dict[bytes, set[bytes]] = {}
        # Most roots have one holder, who then stands here himself. Several are a dict, for its
        # order and for leaving fast; its values are the root, so that the sets can share one.
        self._holders: dict[bytes, bytes | dict[bytes, bytes]] = {}
        self._said: set[bytes] = set()
        rate = limits.lookups_per_minute
        self._lookups = Budgets(rate / _MINUTE, rate, _ASKERS, 0.0)

    def __len__(self) -> int:
        """How much is remembered: the roots of all nodes, counted once for each holder."""
        return self._in_all

    def hold(self, node: bytes, added: Collection[bytes], removed: Collection[bytes]) -> str:
        """
        Remember what a node holds from now on, and holds no longer.

        @param node: its node id.
        @param added: roots.
        @param removed: roots, which are taken away first; those that it does not have do not
            matter.
        @return: why not all of it is remembered, as the end of a sentence; empty if it is, or if
            that was said of this node already.
        """
        roots = self._roots.setdefault(node, set())
        for root in removed:
            if root in roots:
                roots.discard(root)
                self._release(node, root)
        why = ""
        for root in added:
            if root in roots:
                continue
            if len(roots) >= self._limits.holdings_per_node:
                why = f"at most {self._limits.holdings_per_node} of one node are remembered"
                break
            if self._in_all >= self._limits.holdings:
                why = f"at most {self._limits.holdings} of all nodes are remembered"
                break
            roots.add(self._take(node, root))
        if not why or node in self._said:
            return ""
        self._said.add(node)
        return why

    def begin(self, node: bytes) -> None:
        """
        Forget what a node holds, for it is about to say all of it anew.
        """
        for root in self._roots.pop(node, ()):
            self._release(node, root)

    def forget(self, node: bytes) -> None:
        """
        Forget a node.
        """
        self.begin(node)
        self._said.discard(node)

    def who(
        self,
        root: bytes,
        asker: bytes,
        listed: Callable[[bytes], Peer | None],
        random: Random,
        now: float,
        most: int = MAX_PEERS,
    ) -> tuple[Peer, ...]:
        """
        Say who holds a content.

        @param asker: the node id of whoever wants to know, who is no answer himself.
        @param listed: gives the peer of a node id, as it is listed; L{None} if it is not.
        @param random: chooses among them if there are too many.
        @param most: at most so many.
        @return: peers, in no order.
        @raise Busy: this node asks too often.
        """
        if not self._lookups.take(asker.hex(), now):
            rate = self._limits.lookups_per_minute
            raise Busy(
                f"At most {rate} questions who holds a content are answered in a minute; wait a"
                " while.",
                max(_LEAST_RETRY, _MINUTE / rate),
            )
        here = self._holders.get(root, ())
        left = [here] if isinstance(here, bytes) else list(here)
        found: list[Peer] = []
        while left and len(found) < most:
            # One is drawn after the other, for most of ten thousand are never looked at.
            chosen = random.randrange(len(left))
            left[chosen], left[-1] = left[-1], left[chosen]
            node = left.pop()
            peer = None if node == asker else listed(node)
            if peer is not None:
                found.append(peer)
        return tuple(found)

    def _take(self, node: bytes, root: bytes) -> bytes:
        """Make a node a holder of a root; give the root to be kept in its set."""
        self._in_all += 1
        here = self._holders.get(root)
        if here is None:
            self._holders[root] = node
        elif isinstance(here, bytes):
            self._holders[root] = {here: root, node: root}
        else:
            root = next(iter(here.values()))
            here[node] = root
        return root

    def _release(self, node: bytes, root: bytes) -> None:
        self._in_all -= 1
        here = self._holders[root]
        if isinstance(here, bytes):
            del self._holders[root]
            return
        del here[node]
        if len(here) == 1:
            self._holders[root] = next(iter(here))
