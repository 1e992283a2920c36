"""
Where log events go: a node's own words to whoever watches it, the rest to standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

_OURS: Final = "flow512."


def is_word(event: LogEvent) -> bool:
    """
    Say whether an event is something that a node tells whoever watches it.
    """
    namespace = event.get("log_namespace") or ""
    return namespace.startswith(_OURS) and event.get("log_level") is LogLevel.info


@implementer(ILogObserver)
class Observer:
    """
    Tells words as bare sentences, and writes what is grave enough as lines that begin with
    C{flow512:}; a defect with its traceback.
    """

    def __init__(
        self, err: TextIO, level: LogLevel, words: Callable[[str], None] | None = None
    ) -> None:
        """
        @param err: for the lines.
        @param level: the least that is written.
        @param words: takes the words; they are events like others if nobody does.
        """
        self._err = err
        self._level = level
        self._words = words

    def __call__(self, event: LogEvent) -> None:
        if self._words is not None and is_word(event):
            self._words(formatEvent(event))
        elif event["log_level"] >= self._level:
            text = eventAsText(event, includeTimestamp=False, includeSystem=False)
            self._err.write(f"flow512: {text}\n")
            self._err.flush()


def begin_logging(err: TextIO, level: LogLevel, words: Callable[[str], None] | None = None) -> None:
    """
    Send all events of this process to an L{Observer}, which takes the same arguments.
    """
    observer = Observer(err, level, words)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
