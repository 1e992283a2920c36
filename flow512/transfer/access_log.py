"""
What the owner of shares reads about who does not see them, and why. Strangers are not told.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from twisted.logger import Logger

from flow512.content.access import NOBODY, Change
from flow512.discovery.limits import Budgets
from flow512.link.node_id import format_node_id

REPEAT: Final = 600.0
"""Seconds until the same is logged again of the same node and share."""

_MAX_REMEMBERED: Final = 200
"""Nodes and shares that this is remembered of; those beyond share one line in that time."""


class AccessLog:
    """
    Logs what becomes of access rules; any thread may tell it.
    """

    log = Logger()

    def __init__(self, clock_seconds: Callable[[], float]) -> None:
        """
        @param clock_seconds: gives the time in seconds.
        """
        self._clock_seconds = clock_seconds
        self._turn = Lock()
        self._lines = Budgets(1 / REPEAT, 1.0, _MAX_REMEMBERED, clock_seconds())

    def rules_changed(self, share: str, change: Change) -> None:
        """
        Log what has become of a share's rules.

        @param share: its name, fit for display.
        """
        log = self.log.warn if change.is_fault else self.log.info
        log("Share {share}: {change}", share=share, change=change.sentence)

    def withheld(self, asker: bytes, share: str, rule: str) -> None:
        """
        Log that somebody did not see a share, unless that was logged just now.

        @param asker: a node id, or L{NOBODY}.
        @param share: its name, fit for display.
        @param rule: why, as the end of a sentence that is fit for display.
        """
        with self._turn:
            if not self._lines.take(f"{asker.hex()} {share}", self._clock_seconds()):
                return
        self.log.info(
            "Share {share} was not shown to {who}: {rule}.",
            share=share,
            who="somebody" if asker == NOBODY else format_node_id(asker),
            rule=rule,
        )
