"""
The scan: what is in the shares now, against what the catalog knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from flow512.content.catalog import Catalog, Stamp
from flow512.content.following import Place
from flow512.content.hashing import Stop
from flow512.content.shares import Found, LeftOut, Share, Unread, walk
from flow512.errors import Cancelled, NotFound, ResourceFailure, ShareMissing, UnsafeName

_BATCH: Final = 1000
"""Files that are compared with the catalog at once."""

_UNWRITTEN: Final = 10_000
"""Differences that are gathered before they are written to the catalog: a file that is gone in one
place and new in another was moved, if both are among them."""

_MAX_LEFT_OUT: Final = 1000
"""Reasons that a report has; a share full of links must not fill the memory."""


class ScanReport(msgspec.Struct, frozen=True):
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

    def __init__(self, catalog: Catalog, stop: Stop, busy: frozenset[Place] = frozenset()) -> None:
        """
        @param catalog: is brought up to date.
        @param stop: asked before every file.
        @param busy: files that are left alone: the catalog keeps what it knows of them.
        """
        self._catalog = catalog
        self._stop = stop
        self._busy = busy
        self._fresh: dict[bytes, list[str]] = {}
        self._seen: dict[str, Stamp] = {}
        self._gone: list[str] = []
        self._was: dict[Stamp, str] = {}
        self._found = self._new = self._changed = self._gone_count = 0
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
            self._gone_count,
            tuple(self._missing),
            tuple(self._left_out),
            self._left_out_count,
        )

    def fresh(self, share: bytes) -> list[str]:
        """
        List the files of a share, by its key, that are new or have changed; the first thousand.
        """
        return self._fresh.get(share, [])[:_BATCH]

    def has_more_fresh(self, share: bytes) -> bool:
        """
        Say whether that left some out.
        """
        return len(self._fresh.get(share, ())) > _BATCH

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
        self._look(share, ("",))

    def look_at(self, share: Share, paths: Iterable[str]) -> None:
        """
        Look at some places of a share, and all that is beneath them.

        @param paths: of files and folders; empty for the share's own folder. The catalog forgets
            what is not there.
        @raise Cancelled: as L{look_through}, and so are the other errors.
        """
        if share.is_there:
            self._look(share, paths)

    def _look(self, share: Share, paths: Iterable[str]) -> None:
        try:
            with share.folder() as folder:
                for path in paths:
                    self._look_beneath(share, folder, path)
        finally:
            self._write(share)

    def _look_beneath(self, share: Share, folder: int, path: str) -> None:
        # The walk and the catalog have the same order. So they are compared batch by batch, each
        # from after the last path of the one before up to its own last path.
        after = f"{path}/" if path else ""
        end = f"{path}0" if path else None  # which sorts after all that begins with the path and /
        seen: dict[str, Stamp] = {}
        unread: list[str] = []
        itself = self._catalog.find(share.key, path) if path else None
        known = {} if itself is None else {path: itself.stamp}
        for sight in walk(folder, path):
            if self._stop():
                raise Cancelled("Looking through the shares was given up before the end.")
            if isinstance(sight, Found):
                if Place(share.key, sight.path) in self._busy:
                    continue
                seen[sight.path] = sight.stamp
                if len(seen) == _BATCH:
                    self._compare(
                        share, known | self._known(share, after, sight.path), seen, unread
                    )
                    after = sight.path
                    seen, known = {}, {}
            elif isinstance(sight, Unread):
                unread.append(sight.path)
                self._leave_out(LeftOut(sight.path or share.name, sight.reason))
            elif isinstance(sight, LeftOut):
                self._leave_out(sight)
        known |= self._known(share, after, end)
        if end is not None:
            known.pop(end, None)
        self._compare(share, known, seen, unread)

    def _known(self, share: Share, after: str, last: str | None) -> dict[str, Stamp]:
        return self._catalog.stamps(share.key, after, last)

    def _compare(
        self,
        share: Share,
        known: Mapping[str, Stamp],
        seen: Mapping[str, Stamp],
        unread: Sequence[str],
    ) -> None:
        fresh = {path: stamp for path, stamp in seen.items() if known.get(path) != stamp}
        gone = [
            path
            for path in known.keys() - seen.keys()
            if not any(_is_within(path, place) for place in unread)
            and Place(share.key, path) not in self._busy
        ]
        new = len(fresh.keys() - known.keys())
        self._found += len(seen)
        self._new += new
        self._changed += len(fresh) - new
        self._seen |= fresh
        self._gone += gone
        for path in (*gone, *(fresh.keys() & known.keys())):
            self._was[known[path]] = path
        if len(self._seen) + len(self._gone) >= _UNWRITTEN:
            self._write(share)

    def _write(self, share: Share) -> None:
        seen, self._seen = self._seen, {}
        was, self._was = self._was, {}
        gone = [path for path in self._gone if path not in seen and _is_gone(share, path)]
        self._gone = []
        self._gone_count += len(gone)
        if not seen and not gone:
            return
        moved = {path: was[stamp] for path, stamp in seen.items() if stamp in was}
        self._catalog.update(share.key, seen, gone, moved)
        fresh = self._fresh.setdefault(share.key, [])
        fresh += list(seen)[: _BATCH + 1 - len(fresh)]

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
