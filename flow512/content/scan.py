"""
The scan: what is in the shares now, against what the catalog knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flow512.content.catalog import Catalog, Stamp
from flow512.content.hashing import Stop
from flow512.content.shares import Found, LeftOut, Share, Unread, walk
from flow512.errors import Cancelled, NotFound, ResourceFailure, ShareMissing, UnsafeName

_BATCH: Final = 1000
"""Files that are compared with the catalog, and written to it, at once."""

_MAX_LEFT_OUT: Final = 1000
"""Reasons that a report has; a share full of links must not fill the memory."""


@dataclass(frozen=True)
class ScanReport:
    """
    What was found in the shares.

    @ivar found: how many files are offered.
    @ivar new: how many of them the catalog did not know.
    @ivar changed: how many are not what they were.
    @ivar gone: how many that the catalog knew are no longer there.
    @ivar missing: the shares whose folder is not there now, by name.
    @ivar left_out: what is not offered, and why; the first thousand.
    @ivar left_out_count: how much that is in all.
    """

    found: int
    new: int
    changed: int
    gone: int
    missing: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    left_out_count: int


class Scan:
    """
    One scan of some shares, one after the other. It belongs to one thread.
    """

    def __init__(self, catalog: Catalog, stop: Stop) -> None:
        """
        @param catalog: is brought up to date.
        @param stop: asked before every file.
        """
        self._catalog = catalog
        self._stop = stop
        self._found = self._new = self._changed = self._gone = 0
        self._missing: list[str] = []
        self._left_out: list[LeftOut] = []
        self._left_out_count = 0

    def report(self) -> ScanReport:
        """
        Say what was found so far.
        """
        return ScanReport(
            self._found,
            self._new,
            self._changed,
            self._gone,
            tuple(self._missing),
            tuple(self._left_out),
            self._left_out_count,
        )

    def look_through(self, share: Share) -> None:
        """
        Look at all that is in a share.

        If the folder is missing, or a part of it cannot be looked at for now, the catalog keeps
        what it knows of that: hashing it again when it comes back would take long.

        @raise Cancelled: C{stop} said so; what was seen until then is kept.
        @raise ResourceFailure: the catalog cannot be read or written; likewise.
        @raise NotFound: the share was closed meanwhile.
        """
        try:
            share.look_again()
        except (ShareMissing, ResourceFailure) as error:
            self._missing.append(share.name)
            self._leave_out(LeftOut(share.name, str(error)))
            return
        # The walk and the catalog have the same order. So they are compared batch by batch, each
        # from after the last path of the one before up to its own last path.
        after = ""
        seen: dict[str, Stamp] = {}
        unread: list[str] = []
        with share.folder() as folder:
            for sight in walk(folder):
                if self._stop():
                    raise Cancelled("Looking through the shares was given up before the end.")
                if isinstance(sight, Found):
                    seen[sight.path] = sight.stamp
                    if len(seen) == _BATCH:
                        self._compare(share, after, sight.path, seen, unread)
                        after = sight.path
                        seen = {}
                elif isinstance(sight, Unread):
                    unread.append(sight.path)
                    self._leave_out(LeftOut(sight.path or share.name, sight.reason))
                elif isinstance(sight, LeftOut):
                    self._leave_out(sight)
        self._compare(share, after, None, seen, unread)

    def _compare(
        self,
        share: Share,
        after: str,
        last: str | None,
        seen: Mapping[str, Stamp],
        unread: Sequence[str],
    ) -> None:
        known = self._catalog.stamps(share.key, after, last)
        fresh = {path: stamp for path, stamp in seen.items() if known.get(path) != stamp}
        new = len(fresh.keys() - known.keys())
        gone = [
            path
            for path in known.keys() - seen.keys()
            if not any(_is_within(path, place) for place in unread) and _is_gone(share, path)
        ]
        self._found += len(seen)
        self._new += new
        self._changed += len(fresh) - new
        self._gone += len(gone)
        if fresh or gone:
            self._catalog.update(share.key, fresh, gone)

    def _leave_out(self, what: LeftOut) -> None:
        self._left_out_count += 1
        if len(self._left_out) < _MAX_LEFT_OUT:
            self._left_out.append(what)


def _is_within(path: str, place: str) -> bool:
    return not place or path == place or path.startswith(place + "/")


def _is_gone(share: Share, path: str) -> bool:
    # A file that came after the walk had passed, and was asked for by its path at once, is known
    # but was not seen.
    try:
        os.close(share.open(path.split("/"))[0])
    except (NotFound, UnsafeName, ResourceFailure):
        return True
    return False
