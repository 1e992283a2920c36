"""
Reading many small files in a row, as a folder of them is fetched.

Each is opened beneath its share's folder, and its stamp is compared with the catalog's before it is
read and again after, as for any other content. What is the same for all of them is done once: the
catalog is asked for many at a time, and the folder that they are in stays open. A file that turns
out not to be as the catalog says, in whatever way, is left to the usual way of opening a content,
which finds another that has it, and takes note of the change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from flow512.content.catalog import Catalog, Known, Stamp
from flow512.content.opened import OpenContent
from flow512.content.shares import Share, Visit
from flow512.errors import Flow512Error
from flow512.wire.bundle import MAX_BUNDLED, Parcel

_AT_ONCE: Final = 32
"""Contents that are looked up at once; of the largest, a parcel holds three."""


def read_small(
    roots: Sequence[bytes],
    parcel: Parcel,
    catalog: Catalog,
    shares: Sequence[Share],
    open_anew: Callable[[bytes], OpenContent],
) -> None:
    """
    Read contents whole, until no more fit.

    @param roots: which.
    @param parcel: where they go. What cannot be opened or read, has changed, or is larger than
        L{MAX_BUNDLED}, is missing in it.
    @param shares: where they are looked for, in order.
    @param open_anew: opens a content in the usual way.
    """
    with ExitStack() as until_read:
        reads = _Reads(parcel, until_read, open_anew)
        for at in range(0, len(roots), _AT_ONCE):
            some = roots[at : at + _AT_ONCE]
            holders = _holders(some, catalog, shares)
            for root in some:
                if not reads.add(root, holders.get(root)):
                    return


def _holders(
    roots: Sequence[bytes], catalog: Catalog, shares: Sequence[Share]
) -> dict[bytes, tuple[Share, Known]]:
    found: dict[bytes, tuple[Share, Known]] = {}
    with suppress(Flow512Error):  # whoever opens them anew is told why
        for share in shares:
            left = [root for root in roots if root not in found]
            if left:
                for root, known in catalog.first_holders(share.key, left).items():
                    found[root] = share, known
    return found


class _Reads:
    def __init__(
        self, parcel: Parcel, until_read: ExitStack, open_anew: Callable[[bytes], OpenContent]
    ) -> None:
        self._parcel = parcel
        self._until_read = until_read
        self._open_anew = open_anew
        self._visits: dict[Share, Visit | None] = {}

    def add(self, root: bytes, holder: tuple[Share, Known] | None) -> bool:
        """Say whether there was room for it, or for the word that it is missing."""
        if holder is not None:
            share, known = holder
            size = known.stamp.size
            if size > MAX_BUNDLED:
                return self._leave_out()
            room = self._parcel.room(size)
            if room is None:
                return False
            visit = self._visit(share)
            if visit is not None and _is_read(visit, known, room):
                self._parcel.add(size)
                return True
        return self._add_anew(root)

    def _visit(self, share: Share) -> Visit | None:
        if share not in self._visits:
            self._visits[share] = None
            with suppress(Flow512Error):
                self._visits[share] = self._until_read.enter_context(share.visit())
        return self._visits[share]

    def _add_anew(self, root: bytes) -> bool:
        try:
            content = self._open_anew(root)
        except Flow512Error:
            return self._leave_out()
        try:
            if content.size > MAX_BUNDLED:
                return self._leave_out()
            room = self._parcel.room(content.size)
            if room is None:
                return False
            content.read_into(0, [room])
        except Flow512Error:
            return self._leave_out()
        finally:
            content.close()
        self._parcel.add(len(room))
        return True

    def _leave_out(self) -> bool:
        if self._parcel.room(0) is None:
            return False
        self._parcel.leave_out()
        return True


def _is_read(visit: Visit, known: Known, room: memoryview) -> bool:
    """Read a file, and say whether it was what it was hashed as, before and after."""
    try:
        fd, stamp = visit.open(known.path.split("/"))
    except Flow512Error:
        return False
    try:
        # Once the bytes are here: what was written before has left its mark on the stamp.
        return (
            stamp == known.stamp
            and os.preadv(fd, [room], 0) == len(room)
            and Stamp.of(os.fstat(fd)) == stamp
        )
    except OSError:
        return False
    finally:
        os.close(fd)
