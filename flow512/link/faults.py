"""
Who has sent something wrong, how often: after a few times it is no accident.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

STRIKES: Final = 3
"""Times that a node may send something wrong, the last of which it is banned for."""

BANNED_FOR: Final = 7 * 86400
"""Seconds that such a ban lasts: a week."""

MOST: Final = 10_000
"""Nodes that are remembered; who did wrong the longest ago is forgotten first."""


class Faults:
    """
    Counts them, by node id.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[bytes, int] = OrderedDict()

    def note(self, node: bytes) -> bool:
        """
        Note one.

        @param node: the node id, which was proven.
        @return: whether that was once too often; it is counted from the beginning after that.
        """
        times = self._times.pop(node, 0) + 1
        if times >= STRIKES:
            return True
        self._times[node] = times
        if len(self._times) > MOST:
            self._times.popitem(last=False)
        return False
