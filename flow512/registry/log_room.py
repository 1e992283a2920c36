"""
Room in the log: so that nobody can fill a registry's disk with lines about themselves.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flow512.discovery.limits import Budgets
from flow512.link.origin import source_of

LINES: Final = 128
"""Lines about one source that may come at once."""

LINES_PER_MINUTE: Final = 12
"""Lines about one source after these."""

_SOURCES: Final = 4096
"""Sources that are remembered; new ones beyond share one budget."""


class LogRoom:
    """
    Counts lines by the source that they are about. The next line after some that were left out is
    preceded by one that tells how many.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        """
        @param clock: for the budgets.
        """
        self._clock = clock
        self._budgets = Budgets(LINES_PER_MINUTE / 60.0, LINES, _SOURCES, 0.0)
        self._left_out = 0

    def take(self, host: str) -> bool:
        """
        Find room for one more line about somebody.

        @param host: the address that they are seen at.
        @return: whether there is any.
        """
        if not self._budgets.take(source_of(host), self._clock.seconds()):
            self._left_out += 1
            return False
        if self._left_out:
            self.log.info("{count} lines about registrations were left out.", count=self._left_out)
            self._left_out = 0
        return True
