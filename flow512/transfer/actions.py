"""
What a swarm wants done (L{flow512.transfer.swarm}). Pure.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from flow512.errors import Flow512Error


class AskPage(msgspec.Struct, frozen=True):
    """Ask a source for this page of digests."""

    source: int
    level: int
    index: int


class AskBlocks(msgspec.Struct, frozen=True):
    """
    Ask a source for these blocks, by a request of this number.

    @ivar together: how many of them may come in one frame.
    """

    source: int
    request: int
    first: int
    count: int
    together: int


class CheckBlocks(msgspec.Struct, frozen=True):
    """See whether these blocks, which may be on the disk already, are right."""

    first: int
    count: int


class TakeBack(msgspec.Struct, frozen=True):
    """Cancel this request: nothing more of it is wanted from this source."""

    source: int
    request: int


class Drop(msgspec.Struct, frozen=True):
    """A source is left out from now on: cancel all that it was asked for."""

    source: int
    reason: Flow512Error


Action: TypeAlias = AskPage | AskBlocks | CheckBlocks | TakeBack | Drop
