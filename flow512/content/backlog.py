"""
The backlog: what is hashed, and in which order.

First comes what somebody waits for, then what has no root yet, share by share; MD5s of large files
are made after all that. What fails is left alone until the shares are looked through again. Several
threads may hash at once, but no two the same file: who comes second waits, and has what the first
found.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from flow512.content.catalog import Catalog, Known, Stamp
from flow512.content.hashing import Stop, hash_file
from flow512.content.opened import changed, check_unchanged, name_of, stamp_of
from flow512.content.scan import Scan
from flow512.content.shares import LARGEST, Share
from flow512.content.tree import Tree
from flow512.content.turns import Turns
from flow512.errors import Cancelled, NotFound, UnsafeName

MD5_AT_ONCE: Final = 8 * 1024 * 1024
"""
Bytes up to which a file's MD5 is made together with its tree. A larger file can be fetched as soon
as its tree is there, and MD5 takes several times as long.
"""


class Backlog:
    """
    The files of some shares that are to be hashed. Every method may block, and any thread may call
    it. All raise L{flow512.errors.ResourceFailure} if the catalog cannot be read or written.
    """

    def __init__(
        self, catalog: Catalog, shares: Sequence[Share], roots_changed: Callable[[], None]
    ) -> None:
        """
        @param catalog: says what has no root, and is told what was found.
        @param shares: in the order in which they are hashed.
        @param roots_changed: called when the catalog may have other roots than before.
        """
        self._catalog = catalog
        self._shares = shares
        self._roots_changed = roots_changed
        self._turns = Turns()
        self._choosing = threading.Lock()
        # How far hash_next has come in each share: what failed lies behind, until the next scan.
        self._hashed_up_to: dict[bytes, str] = {}
        # Likewise for next_without_md5, over all shares.
        self._summed_up_to = b""
        # What somebody waits for, in the order in which it was asked for.
        self._asked_for: dict[tuple[Share, str], None] = {}
        # What hash_next has chosen and is not through with: several threads may call it.
        self._in_hand: set[tuple[bytes, str]] = set()
        # What is being hashed; set once somebody else has its root.
        self._overtaken: dict[tuple[bytes, str], threading.Event] = {}

    # The order

    def try_all_again(self) -> None:
        """
        Leave nothing alone any more: all shares were looked through.
        """
        with self._choosing:
            self._hashed_up_to.clear()
            self._summed_up_to = b""

    def prefer(self, scan: Scan) -> None:
        """
        Do first what a scan found to be new.
        """
        with self._choosing:
            for share in self._shares:
                self._asked_for |= {(share, path): None for path in scan.fresh(share.key)}
                if scan.has_more_fresh(share.key):
                    # Too much to be asked for one by one.
                    self._hashed_up_to.pop(share.key, None)
            self._summed_up_to = b""

    def hash_next(self, stop: Stop) -> Known | None:
        """
        Hash one file that has no root yet, with its MD5 if it is small.

        @return: what is known of it now; L{None} if none is left to do.
        @raise Flow512Error: as L{hash}.
        """
        while (chosen := self._choose()) is not None:
            share, path = chosen
            try:
                try:
                    fd, _ = share.open(path.split("/"))
                except (NotFound, UnsafeName):
                    continue  # gone since the last scan; the next one will take note
                try:
                    return self.hash(share, path, fd, stop, md5_up_to=MD5_AT_ONCE)
                finally:
                    os.close(fd)
            finally:
                with self._choosing:
                    self._in_hand.discard((share.key, path))
        return None

    def next_without_md5(self) -> bytes | None:
        """
        Choose the next content that has no MD5.

        @return: its root; L{None} if none is left.
        """
        with self._choosing:
            root = self._catalog.without_md5(self._summed_up_to)
            if root is not None:
                self._summed_up_to = root
        return root

    def _choose(self) -> tuple[Share, str] | None:
        with self._choosing:
            chosen = self._next_asked_for() or self._next_in_order()
            if chosen is not None:
                self._in_hand.add((chosen[0].key, chosen[1]))
        return chosen

    def _next_asked_for(self) -> tuple[Share, str] | None:
        # What is in hand and asked for again has changed meanwhile, perhaps; it is looked at then.
        while True:
            for share, path in self._asked_for:
                if (share.key, path) not in self._in_hand:
                    break
            else:
                return None
            del self._asked_for[share, path]
            known = self._catalog.find(share.key, path)
            if known is None or known.root is None:
                return share, path

    def _next_in_order(self) -> tuple[Share, str] | None:
        for share in self._shares:
            if not share.is_there:
                continue
            after = self._hashed_up_to.get(share.key, "")
            while found := self._catalog.unhashed(share.key, after, 1):
                after = self._hashed_up_to[share.key] = found[0]
                if (share.key, after) not in self._in_hand:
                    return share, after
        return None

    def _ask_for(self, share: Share, path: str) -> None:
        with self._choosing:
            self._asked_for[share, path] = None

    # The deed

    def hash(self, share: Share, path: str, fd: int, stop: Stop, *, md5_up_to: int = -1) -> Known:
        """
        Hash a file, unless its root is known.

        @param fd: the file, open for reading; it stays the caller's.
        @param md5_up_to: the size in bytes up to which its MD5 is made too.
        @return: what is known of it now.
        @raise Cancelled: C{stop} said so; the file comes first next time.
        @raise ContentChanged: it is being written.
        @raise NotFound: it is larger than what is shared.
        @raise ResourceFailure: it cannot be read.
        """
        what = name_of(path)
        try:
            with self._turns.take((share.key, path), stop):
                stamp = stamp_of(fd, what)
                known = self.take_note(share, path, stamp)
                if known is not None and known.root is not None:
                    return known
                overtaken = self._overtaken[share.key, path] = threading.Event()
                try:
                    tree, checksum = hash_file(
                        fd,
                        stamp.size,
                        stop=lambda: overtaken.is_set() or stop(),
                        md5=stamp.size <= md5_up_to,
                        what=what,
                    )
                except Cancelled:
                    if not overtaken.is_set():
                        raise
                    known = self.take_note(share, path, stamp_of(fd, what))
                    if known is None or known.root is None:
                        raise changed(what) from None
                    return known
                finally:
                    del self._overtaken[share.key, path]
                check_unchanged(fd, stamp, what)
                self._catalog.record(share.key, path, stamp, tree, checksum)
                self._roots_changed()
                return Known(path, stamp, tree.root, checksum)
        except Cancelled:
            self._ask_for(share, path)
            raise

    def take_note(self, share: Share, path: str, stamp: Stamp) -> Known | None:
        """
        Take note of what a file is now.

        @return: what is known of it; L{None} if nothing but that it is there.
        @raise NotFound: it is larger than what is shared.
        """
        known = self._catalog.find(share.key, path)
        if known is not None and known.stamp == stamp:
            return known
        if stamp.size > LARGEST:
            raise NotFound(f"{name_of(path)} is larger than what is shared here.")
        self._catalog.update(share.key, {path: stamp}, ())
        self._roots_changed()
        return None

    def note_change(self, share: Share, path: str, stamp: Stamp) -> None:
        """
        Take note that a file is not what it was when it was hashed; it is hashed next.
        """
        self._catalog.update(share.key, {path: stamp}, ())
        self._roots_changed()
        self._ask_for(share, path)

    def keep(self, share: Share, path: str, stamp: Stamp, tree: Tree) -> Known:
        """
        Take a tree that somebody else has made of a file. Who is hashing it may stop.

        @param stamp: the file's, before and after that.
        @return: what is known of it now.
        """
        known = self._catalog.find(share.key, path)
        if known is None or known.stamp != stamp or known.root != tree.root:
            known = Known(path, stamp, tree.root, None)
            if not self._catalog.record(share.key, path, stamp, tree):
                return known
            self._roots_changed()
        overtaken = self._overtaken.get((share.key, path))
        if overtaken is not None:
            overtaken.set()
        return known
