"""
The scan: what is in the shares now, against what the catalog knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from flow512.content.catalog import Catalog, Stamp
from flow512.content.hashing import Stop
from flow512.content.shares import Found, LeftOut, Share, Unread, walk
from flow512.errors import Cancelled, NotFound, ResourceFailure, ShareMissing, UnsafeName

_BATCH: Final = 1000
"""Files that are compared with the catalog, and written to it, at once."""

_MAX_LEFT_OUT: Final = 1000
"""Reasons that a report has; a share full of links must not fill the memory."""


@dataclass
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

    found: int = 0
    new: int = 0
    changed: int = 0
    gone: int = 0
    missing: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_count: int = 0


def scan_share(catalog: Catalog, share: Share, stop: Stop, report: ScanReport) -> None:
    """
    Look at all that is in a share, bring the catalog up to date, and add to a report.

    If the folder is missing, or a part of it cannot be looked at for now, the catalog keeps what
    it knows of that: hashing it again when it comes back would take long.

    @raise Cancelled: C{stop} said so; what was seen until then is kept.
    @raise ResourceFailure: the catalog cannot be read or written; likewise.
    """
    try:
        share.look_again()
    except (ShareMissing, ResourceFailure) as error:
        report.missing.append(share.name)
        _leave_out(report, LeftOut(share.name, str(error)))
        return
    # The walk and the catalog have the same order. So they are compared batch by batch, each
    # from after the last path of the one before up to its own last path.
    after = ""
    seen: dict[str, Stamp] = {}
    unread: list[str] = []
    with share.folder() as folder:
        for sight in walk(folder):
            if stop():
                raise Cancelled("Looking through the shares was given up before the end.")
            if isinstance(sight, Found):
                seen[sight.path] = sight.stamp
                if len(seen) == _BATCH:
                    _compare(catalog, share, after, sight.path, seen, unread, report)
                    after = sight.path
                    seen = {}
            elif isinstance(sight, Unread):
                unread.append(sight.path)
                _leave_out(report, LeftOut(sight.path or share.name, sight.reason))
            else:
                _leave_out(report, sight)
    _compare(catalog, share, after, None, seen, unread, report)


def _compare(
    catalog: Catalog,
    share: Share,
    after: str,
    last: str | None,
    seen: Mapping[str, Stamp],
    unread: Sequence[str],
    report: ScanReport,
) -> None:
    known = catalog.stamps(share.key, after, last)
    fresh = {path: stamp for path, stamp in seen.items() if known.get(path) != stamp}
    new = len(fresh.keys() - known.keys())
    gone = [
        path
        for path in known.keys() - seen.keys()
        if not any(_is_within(path, place) for place in unread) and _is_gone(share, path)
    ]
    report.found += len(seen)
    report.new += new
    report.changed += len(fresh) - new
    report.gone += len(gone)
    if fresh or gone:
        catalog.update(share.key, fresh, gone)


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


def _leave_out(report: ScanReport, what: LeftOut) -> None:
    report.left_out_count += 1
    if len(report.left_out) < _MAX_LEFT_OUT:
        report.left_out.append(what)
