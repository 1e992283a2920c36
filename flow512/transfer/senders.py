"""
The sources of a download, and why there may be none left.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred

from flow512.errors import (
    Busy,
    ContentChanged,
    Flow512Error,
    NotAllowed,
    NotFound,
    PeerLost,
    Refusal,
    TimedOut,
    Unreachable,
    Unsupported,
    Violation,
)
from flow512.transfer.blocks import BlockSource
from flow512.transfer.finding import Candidate

_TELLS_MOST: Final = (
    ContentChanged,
    NotAllowed,
    Violation,
    Busy,
    Unsupported,
    NotFound,
    Refusal,
    TimedOut,
    Unreachable,
)
"""Why sources are left out: first what will not pass, or what the user can do something about."""


def telling_most(errors: Sequence[Flow512Error]) -> Flow512Error:
    """
    Choose, of the reasons why no source is left, the one that tells most.
    """
    for kind in _TELLS_MOST:
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0] if errors else PeerLost("There is no source to fetch from.")


class Sender(msgspec.Struct, eq=False):
    """
    A source, as its download knows it.

    @ivar who: whose it is.
    @ivar fetched: bytes that it sent.
    @ivar verified: of these, those in blocks that were right and are stored.
    @ivar lost: why it was left out; L{None} if it was not.
    @ivar is_partial: whether it had only parts when it was added.
    """

    who: Candidate
    source: BlockSource
    number: int
    fetched: int = 0
    verified: int = 0
    lost: Flow512Error | None = None
    is_partial: bool = False
    asked: dict[Hashable, Deferred[Any]] = msgspec.field(default_factory=dict)
