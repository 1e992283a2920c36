"""
Who may see which of the shares, by their access rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flow512.content.access import NOBODY
from flow512.content.shares import Share
from flow512.content.view import AccessNotes, View
from flow512.errors import NotFound


class Visibility:
    """
    The shares of a library, as others may see them. Any thread may call any method; those that look
    at rules may block.

    @ivar shares: all of them, in order.
    """

    def __init__(
        self, shares: Sequence[Share], notes: AccessNotes, changed: Callable[[], None]
    ) -> None:
        """
        @param notes: takes note of what becomes of the rules.
        @param changed: called when a rule has.
        """
        self.shares = tuple(shares)
        self._notes = notes
        self._changed = changed
        # What they are is known from the beginning: what is gone later was there.
        for share in self.shares:
            self.judge(share, None)

    def judge(self, share: Share, asker: bytes | None) -> str | None:
        """
        Look at the rules of one share.

        @param asker: a node id that was proven, L{NOBODY}, or L{None} for the owner.
        @return: why he may not see it, as the end of a sentence; L{None} if he may.
        """
        rule, change = share.judge(asker)
        if change is not None:
            self._notes.rules_changed(share.name, change)
            self._changed()
        return rule

    def seen_by(self, asker: bytes) -> View:
        """
        Find out what somebody may see now; see L{Library.seen_by
        <flow512.content.library.Library.seen_by>}.
        """
        seen, withheld = [], []
        for share in self.shares:
            rule = self.judge(share, asker)
            if rule is None:
                seen.append(share)
            else:
                withheld.append((share.name, rule))
        return View(tuple(seen), asker, tuple(withheld))

    def is_for_all(self, share: Share) -> bool:
        """
        Say whether everybody in the network may see a share.
        """
        # Whoever has proven nothing sees what is shown to everybody, and no more.
        return self.judge(share, NOBODY) is None

    def keys_seen_by_all(self) -> frozenset[bytes]:
        """
        Give the keys of the shares that everybody may see.
        """
        return frozenset(share.key for share in self.shares if self.is_for_all(share))

    def of(self, view: View | None) -> tuple[Share, ...]:
        """
        Give the shares that are in a view; all if it is L{None}, the owner's.
        """
        return self.shares if view is None else view.shares

    def present(self, view: View | None = None) -> Iterator[Share]:
        """
        Give those of a view that are there now.
        """
        return (share for share in self.of(view) if share.is_there)

    def note(self, view: View | None) -> None:
        """
        Take note that an answer was given as if what is not in the view was not there.
        """
        if view is not None:
            for share, rule in view.withheld:
                self._notes.withheld(view.asker, share, rule)

    def guard(
        self, shares: Sequence[Share], view: View | None, missing: Callable[[], NotFound]
    ) -> Callable[[], None]:
        """
        Make what is asked again and again while something is read.

        @param shares: those that it is from.
        @param view: of whoever reads it.
        @param missing: makes the error for one who may not see all of them any more.
        @return: raises that.
        """

        def check_access() -> None:
            if view is None:
                return
            for share in shares:
                if (rule := self.judge(share, view.asker)) is not None:
                    self._notes.withheld(view.asker, share.name, rule)
                    raise missing()

        return check_access
