"""
Views: what somebody may see of the shares, and who is told when that is not all.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from flow512.content.access import Change
from flow512.content.shares import Share


class AccessNotes(Protocol):
    """
    Takes note of what becomes of access rules, on the thread that noticed; it must not block.
    """

    def rules_changed(self, share: str, change: Change) -> None:
        """
        The rules of a share are others now; told once of each change.

        @param share: its name, fit for display.
        @param change: what has become of them.
        """

    def withheld(self, asker: bytes, share: str, rule: str) -> None:
        """
        Somebody was answered as if a share was not there: with a list, or that there is no such
        file. Whether it has what was asked for is not looked up.

        @param asker: a node id, or L{NOBODY<flow512.content.access.NOBODY>}.
        @param share: its name, fit for display.
        @param rule: why, as the end of a sentence that is fit for display.
        """


class NoNotes:
    """
    For whoever does not want to know.
    """

    def rules_changed(self, share: str, change: Change) -> None:
        pass

    def withheld(self, asker: bytes, share: str, rule: str) -> None:
        pass


class View(msgspec.Struct, frozen=True, eq=False):
    """
    What somebody may see. Those are equal that show the same.

    @ivar shares: these, in their order.
    @ivar asker: whose view it is: a node id, or L{NOBODY<flow512.content.access.NOBODY>}.
    @ivar withheld: the names of the other shares, each with the rule that hides it.
    """

    shares: tuple[Share, ...]
    asker: bytes
    withheld: tuple[tuple[str, str], ...]

    def __eq__(self, other: object) -> bool:
        return self.shares == other.shares if isinstance(other, View) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.shares)
