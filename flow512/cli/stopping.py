"""
Signals that ask the process to end, while there is nothing that has to be ended first: from its
first line on, until a command runs on the reactor and takes them itself
(L{flow512.cli.running.run}). What is half done then looks as if the machine had lost its power.

Nothing is imported here that takes a while to load.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a request to end, and that the terminal was closed."""

STOPPED: Final = 130
"""The exit status, as in L{flow512.cli.outcome}."""


def take_signals() -> None:
    """
    End the process with one sentence when a signal comes that it was not started without.
    """
    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # An exception would be lost where Python swallows them, as in the middle of an import.
    try:
        os.write(2, b"flow512: Stopped.\n")
    finally:
        os._exit(STOPPED)


class Interruptible:
    """
    A context in which such a signal is a L{KeyboardInterrupt}: for a terminal that has to be left
    as it was.
    """

    def __enter__(self) -> None:
        self._taken = [each for each in SIGNALS if signal.getsignal(each) is _stop]
        for each in self._taken:
            signal.signal(each, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        for each in self._taken:
            signal.signal(each, _stop)
