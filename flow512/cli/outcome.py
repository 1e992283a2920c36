"""
How a command ends: its exit status, and the one sentence on standard error.

docs/commands.rst lists the same numbers.
"""

from __future__ import annotations

from typing import Final

from flow512.errors import (
    Busy,
    Flow512Error,
    Misuse,
    NoSuchPeer,
    NotFound,
    StateInUse,
    TargetExists,
    Unreachable,
)


class Interrupted(Flow512Error):
    """The user stopped it, by Ctrl-C or by ending the process."""


class Incomplete(Flow512Error):
    """Some of a folder was left out, for reasons that were said; all else is here."""


DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
DAMAGED: Final = 6
"""A file is not what it should be; only C{flow512 verify} ends so."""

STATUSES: Final[dict[type[Flow512Error], int]] = {
    Flow512Error: FAILED,
    StateInUse: FAILED,
    Misuse: WRONG_USAGE,
    NotFound: 3,
    NoSuchPeer: 3,
    TargetExists: 4,
    Unreachable: 5,
    Busy: 5,
    Incomplete: 7,
    Interrupted: 130,
}
"""The exit status of each error; that of the nearest ancestor counts."""


def status_of(error: Flow512Error) -> int:
    """
    Give the exit status of an error.
    """
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
