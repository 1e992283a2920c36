"""
What a swarm wants done (L{flow512.transfer.swarm}). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flow512.errors import Flow512Error


@dataclass(frozen=True)
class AskPage:
    """Ask a source for this page of digests."""

    source: int
    level: int
    index: int


@dataclass(frozen=True)
class AskBlocks:
    """Ask a source for these blocks, by a request of this number."""

    source: int
    request: int
    first: int
    count: int


@dataclass(frozen=True)
class CheckBlocks:
    """See whether these blocks, which may be on the disk already, are right."""

    first: int
    count: int


@dataclass(frozen=True)
class TakeBack:
    """Cancel this request: nothing more of it is wanted from this source."""

    source: int
    request: int


@dataclass(frozen=True)
class Drop:
    """A source is left out from now on: cancel all that it was asked for."""

    source: int
    reason: Flow512Error


Action: TypeAlias = AskPage | AskBlocks | CheckBlocks | TakeBack | Drop
