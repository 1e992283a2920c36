"""
A log that strangers cannot fill.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel

from flow512.discovery.limits import Budget

RATE: Final = 0.5
"""Lines a second that one cause may log in the long run."""

BURST: Final = 20.0
"""Lines that it may log at once."""


class SparingLog:
    """
    Logs lines, and counts those that would be too many.

    A line about what others do as often as they like goes through one of these, one for each of
    them. How many were left out is said before the next line, with the latest of them.
    """

    def __init__(
        self, log: Logger, clock: IReactorTime, rate: float = RATE, burst: float = BURST
    ) -> None:
        """
        @param log: where the lines go.
        @param clock: for the rate.
        @param rate: lines a second, in the long run.
        @param burst: lines at once.
        """
        self._log = log
        self._clock = clock
        self._budget = Budget(rate, burst, clock.seconds())
        self._left_out = 0
        self._latest: tuple[LogLevel, str, dict[str, Any]] = (LogLevel.info, "", {})

    def info(self, format: str, **fields: Any) -> None:
        """
        Log a line, or leave it out; the parameters are those of L{Logger.info}.
        """
        self._emit(LogLevel.info, format, fields)

    def warn(self, format: str, **fields: Any) -> None:
        """
        Log a warning, or leave it out; the parameters are those of L{Logger.warn}.
        """
        self._emit(LogLevel.warn, format, fields)

    def _emit(self, level: LogLevel, format: str, fields: dict[str, Any]) -> None:
        if not self._budget.take(self._clock.seconds()):
            self._left_out += 1
            self._latest = level, format, fields
            return
        self.say_left_out()
        self._log.emit(level, format, **fields)

    def say_left_out(self) -> None:
        """
        Say how many lines were left out, if any were; to be called when no more will come.
        """
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            level, format, fields = self._latest
            self._log.emit(
                level,
                "{left_out} lines such as this were left out: " + format,
                left_out=left_out,
                **fields,
            )
