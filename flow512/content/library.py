"""
The library: what a node offers, as its transfer server asks for it.

The catalog says what is there, as of the last scan; the disk has the last word. A file is opened
and its stamp compared before anything is said of its content, and again after every read, so
bytes that a root does not stand for are not given out as if it did.

Each question is answered by a view: the shares that whoever asks may see. It is as if the others
were not there: their files are in no list, and what only they have is not found. No view is needed
to ask as the owner.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from heapq import merge, nsmallest
from itertools import groupby
from operator import attrgetter
from typing import Final

import msgspec

from flow512.content.access import NOBODY
from flow512.content.catalog import Catalog, Known
from flow512.content.following import EVERYTHING, WALK, Look
from flow512.content.hashing import Stop, hash_file, md5_of_file, never
from flow512.content.manifests import Manifests, items_in
from flow512.content.opened import OpenContent, changed, check_unchanged, stamp_of
from flow512.content.paths import check_path, escape, is_own_name, open_folder_beneath
from flow512.content.scan import Scan, ScanReport
from flow512.content.shares import LARGEST, LeftOut, Share
from flow512.content.tree import TreeVerifier, format_content_id
from flow512.content.turns import Turns
from flow512.content.view import AccessNotes, NoNotes, View
from flow512.errors import (
    BadDigest,
    BadMessage,
    Cancelled,
    DiskFailure,
    Flow512Error,
    Misuse,
    NotFound,
    ResourceFailure,
    ShareMissing,
    UnsafeName,
)
from flow512.units import DIGESTS_PER_PAGE
from flow512.wire.fields import MAX_LIST
from flow512.wire.messages import CAPS, Entry, Kind

__all__ = [
    "AccessNotes",
    "LeftOut",
    "Library",
    "OpenContent",
    "ScanReport",
    "Share",
    "Stop",
    "View",
    "never",
]

MD5_AT_ONCE: Final = 8 * 1024 * 1024
"""
Bytes up to which a file's MD5 is made together with its tree. A larger file can be fetched as soon
as its tree is there, and MD5 takes several times as long.
"""

_MAX_HOLDERS: Final = 100
"""Files of one share that are tried for one content."""

_ROOTS_AT_ONCE: Final = 10_000
"""Roots that are read from the catalog at once; others wait for their turn at it meanwhile."""

_LISTING_FRAME: Final = 7
"""Bytes in a LISTING's body around its entries, at most."""

_ENCODER: Final = msgspec.msgpack.Encoder()


class Library:
    """
    What a node offers. Every method may block, and any thread may call it.
    """

    def __init__(
        self,
        catalog: Catalog,
        shares: Sequence[Share],
        notes: AccessNotes | None = None,
        roots_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        @param catalog: whoever made it closes it, after the library.
        @param shares: in order: a path in one hides the same path in those after it, from those
            who may see it. They belong to the library from now on.
        @param notes: takes note of what becomes of access rules.
        @param roots_changed: called when L{roots} may have another answer than before, on the
            thread that noticed and as often as a file is hashed; it must not block.
        """
        self._catalog = catalog
        self._shares = tuple(shares)
        self._notes = notes or NoNotes()
        self._roots_changed = roots_changed
        self._public: frozenset[bytes] = frozenset()  # keys of the shares whose roots were given
        # Their rules are known from the beginning: what is gone later was there.
        for share in self._shares:
            self._judge(share, None)
        self._scanning = threading.Lock()
        self._turns = Turns()
        self._choosing = threading.Lock()
        # How far hash_next has come in each share: what failed lies behind, until the next scan.
        self._hashed_up_to: dict[bytes, str] = {}
        # Likewise for sum_next, over all shares.
        self._summed_up_to = b""
        # What somebody waits for, in the order in which it was asked for.
        self._asked_for: dict[tuple[Share, str], None] = {}
        self._manifests = Manifests()

    def close(self) -> None:
        """
        Close the shares. Contents that are open stay so.
        """
        self._manifests.close()
        for share in self._shares:
            share.close()

    def scan(self, stop: Stop = never) -> ScanReport:
        """
        Look at all that is in the shares, and bring the catalog up to date. Nothing is hashed.

        @raise Cancelled: C{stop} said so; what was seen until then is kept.
        @raise ResourceFailure: the catalog cannot be read or written; likewise.
        @raise NotFound: the library was closed meanwhile; likewise.
        """
        self._note_walk()
        return self.look(EVERYTHING, stop)

    def look(self, look: Look, stop: Stop = never) -> ScanReport:
        """
        Look at some places, and bring the catalog up to date; otherwise as L{scan}.

        @param look: where; L{hash_next} does first what is new there.
        @return: as of these places, but C{found} counts all files that are offered.
        """
        if look == WALK:
            return self.scan(stop)
        if look.is_walk:
            self._note_walk()
        scan = Scan(self._catalog, stop, look.busy)
        if look.is_everything:
            with self._scanning:
                for share in self._shares:
                    self._judge(share, None)
                    scan.look_through(share)
                self._catalog.prune()
            with self._choosing:
                self._hashed_up_to.clear()
                self._summed_up_to = b""
            return self._reported(scan.report())
        try:
            with self._scanning:
                for share in self._present():
                    scan.look_at(
                        share, [place.path for place in look.places if place.share == share.key]
                    )
        finally:
            self._prefer(scan)
        found = sum(self._catalog.count(share.key) for share in self._present())
        return self._reported(replace(scan.report(), found=found))

    def _note_walk(self) -> None:
        for share in self._shares:
            self._judge(share, None)
            with suppress(ShareMissing, ResourceFailure):
                share.look_again()
                share.walked()

    def _prefer(self, scan: Scan) -> None:
        with self._choosing:
            for share in self._shares:
                self._asked_for |= {(share, path): None for path in scan.fresh(share.key)}
                if scan.has_more_fresh(share.key):
                    # Too much to be asked for one by one.
                    self._hashed_up_to.pop(share.key, None)
            self._summed_up_to = b""

    def _reported(self, report: ScanReport) -> ScanReport:
        if report.changed or report.gone or self._public != self._keys_seen_by_all():
            self._roots_changed()
        return report

    @property
    def shares(self) -> tuple[Share, ...]:
        """What was given to it."""
        return self._shares

    def pending(self) -> int:
        """
        Say how many files have no root yet, those that could not be hashed among them.
        """
        return sum(self._catalog.unhashed_count(share.key) for share in self._present())

    def roots(self, most: int) -> frozenset[bytes]:
        """
        Give the contents that every member of the network may see, as of the last look at each
        file: nothing of a share that only some may see is among them.

        @param most: at most so many. They are the least ones, so that the choice is a steady one.
        @raise ResourceFailure: the catalog cannot be read.
        """
        keys = self._public = self._keys_seen_by_all()
        found: set[bytes] = set()
        for key in keys:
            after, left = b"", most
            while some := self._catalog.roots(key, after, min(left, _ROOTS_AT_ONCE)):
                found.update(some)
                after = some[-1]
                left -= len(some)
        return frozenset(found if len(found) <= most else nsmallest(most, found))

    def _keys_seen_by_all(self) -> frozenset[bytes]:
        # Whoever has proven nothing sees what is shown to everybody, and no more.
        return frozenset(share.key for share in self.seen_by(NOBODY).shares)

    def hash_next(self, stop: Stop = never) -> Entry | None:
        """
        Hash one file that has no root yet. Those that somebody asked for come first. A small one's
        MD5 is made in the same pass; L{sum_next} makes the others'.

        @return: what is known of it now; L{None} if none is left to do.
        @raise Cancelled: C{stop} said so; the file comes first next time.
        @raise ContentChanged: it is being written. As after every error but C{Cancelled}, it is
            left alone until the next scan; call again for the next one.
        @raise NotFound: it has become too large.
        @raise ResourceFailure: it cannot be read, or the catalog cannot be written.
        """
        while (chosen := self._choose()) is not None:
            share, path = chosen
            try:
                fd, _ = share.open(path.split("/"))
            except (NotFound, UnsafeName):
                continue  # gone since the last scan; the next one will take note
            try:
                return self._hash(share, path, fd, stop, md5_up_to=MD5_AT_ONCE).entry()
            finally:
                os.close(fd)
        return None

    def sum_next(self, stop: Stop = never) -> bytes | None:
        """
        Make the MD5 of one content that has none yet.

        @return: the root of the content; L{None} if none is left to do.
        @raise Flow512Error: as L{checksum}. As after every error, it is left alone until the next
            scan; call again for the next one.
        """
        while True:
            with self._choosing:
                root = self._catalog.without_md5(self._summed_up_to)
                if root is None:
                    return None
                self._summed_up_to = root
            try:
                self.checksum(root, stop)
            except NotFound:
                continue  # of a folder that is not shared now
            return root

    def seen_by(self, asker: bytes) -> View:
        """
        Find out what somebody may see now. The view is for one request: the rules may change.

        @param asker: a node id that was proven, or L{NOBODY<flow512.content.access.NOBODY>}.
        """
        seen, withheld = [], []
        for share in self._shares:
            rule = self._judge(share, asker)
            if rule is None:
                seen.append(share)
            else:
                withheld.append((share.name, rule))
        return View(tuple(seen), asker, tuple(withheld))

    def list(
        self,
        prefix: str = "",
        after: str = "",
        limit: int = MAX_LIST,
        max_bytes: int = CAPS[Kind.LISTING],
        view: View | None = None,
    ) -> tuple[tuple[Entry, ...], bool]:
        """
        List files by path, in the order of code points.

        @param prefix: only paths that begin with this.
        @param after: only paths after this one; empty from the start.
        @param limit: at most so many, at least 1.
        @param max_bytes: of the body of the LISTING that carries them; but one entry at least.
        @param view: of whoever asks; L{None} for the owner.
        @return: the entries, without a root where none is known yet; and whether more follow.
        @raise Misuse: C{prefix} or C{after} is not text.
        """
        try:
            (prefix + after).encode()
        except UnicodeEncodeError:
            raise Misuse("A path is text; half a character cannot be looked for.") from None
        self._note(view)
        entries: list[Entry] = []
        room = max_bytes - _LISTING_FRAME
        files = merge(
            *(
                self._catalog.listing(share.key, prefix, after, limit + 1)
                for share in self._present(view)
            ),
            key=attrgetter("path"),
        )
        for known in files:
            # The same path comes from the first share that has it first.
            if entries and entries[-1].path == known.path:
                continue
            entry = known.entry()
            room -= len(_ENCODER.encode(entry))
            if len(entries) == limit or (entries and room < 0):
                return tuple(entries), True
            entries.append(entry)
        return tuple(entries), False

    def stat(
        self,
        path: str = "",
        root: bytes | None = None,
        stop: Stop = never,
        view: View | None = None,
    ) -> Entry:
        """
        Tell of one file, by its path or, if that is empty, by its root; or of a folder, by a path
        with a slash at its end, as of the file that its manifest is: C{/} is all that is offered.

        @param view: of whoever asks; L{None} for the owner.
        @return: its entry, with a root: a file that is not hashed yet is hashed now.
        @raise NotFound: there is no such file.
        @raise UnsafeName: no file can have such a path.
        @raise ContentChanged: the file changes while it is hashed, or has changed and has
            another root now.
        @raise Cancelled: C{stop} said so; L{hash_next} does this file next.
        @raise ResourceFailure: it cannot be read.
        """
        if path.endswith("/"):
            return self._manifest(path, stop, view)
        if root is not None and not path:
            shares = list(self._present(view))
            if (size := self._manifests.size(root, shares)) is not None:
                return Entry("/", size, 0, root)
            _, known, fd = self._open_holder(root, view)
            os.close(fd)
            return known.entry()
        parts = check_path(path)
        if not any(map(is_own_name, parts)):
            for share in self._seen(view):
                try:
                    fd, _ = share.open(parts)
                except (NotFound, UnsafeName):
                    continue
                try:
                    return self._hash(share, path, fd, stop, md5_up_to=-1).entry()
                finally:
                    os.close(fd)
        self._note(view)
        raise NotFound(f"No file '{escape(path)}' is shared here; `flow512 ls` shows what is.")

    def known(self, path: str, view: View | None = None) -> Entry | None:
        """
        Tell of one file by its path, as L{stat} does, if that takes no hashing.

        @param view: of whoever asks; L{None} for the owner.
        @return: its entry, with a root; L{None} if only L{stat} can tell.
        @raise UnsafeName: no file can have such a path.
        @raise ResourceFailure: it cannot be looked at.
        """
        if path.endswith("/"):
            return None
        parts = check_path(path)
        if any(map(is_own_name, parts)):
            return None
        for share in self._seen(view):
            try:
                fd, stamp = share.open(parts)
            except (NotFound, UnsafeName):
                continue
            os.close(fd)
            known = self._catalog.find(share.key, path)
            if known is None or known.stamp != stamp or known.root is None:
                return None
            return known.entry()
        return None

    def _manifest(self, path: str, stop: Stop, view: View | None) -> Entry:
        prefix = "" if path == "/" else path
        shares = []
        for share in self._seen(view):
            try:
                with share.folder() as folder:
                    os.close(open_folder_beneath(folder, check_path(path[:-1]) if prefix else ()))
            except NotFound:
                continue
            shares.append(share)
        if not shares:
            self._note(view)
            raise NotFound(
                f"No folder '{escape(path)}' is shared here; `flow512 ls` shows what is."
            )
        items = merge(
            *(items_in(share, prefix, self._catalog, stop) for share in shares),
            key=attrgetter("path"),
        )
        # The same path comes from the first share that has it first.
        once = (next(same) for _, same in groupby(items, key=attrgetter("path")))
        root, size = self._manifests.keep(once, shares, stop)
        return Entry(path, size, 0, root)

    def page(self, root: bytes, level: int, index: int, view: View | None = None) -> bytes:
        """
        Give a page of digests.

        @param view: of whoever asks; L{None} for the owner.
        @return: the page, proven by the root.
        @raise NotFound: no such content is shared.
        @raise Misuse: its tree has no such page.
        @raise DiskFailure: the catalog's copy was damaged; the file is hashed again.
        """
        page = self._manifests.page(root, level, index, self._present(view))
        if page is not None:
            return page
        self._check_shared(root, view)
        content = self._catalog.content(root)
        if content is None:
            raise _unknown(root)
        # Proven from the root down: a damaged catalog must not make liars of us.
        tree = TreeVerifier(root, content.size)
        tree.shape.page_length(level, index)
        data: bytes | None = None
        try:
            for above in range(tree.shape.levels - 1, level - 1, -1):
                number = index // DIGESTS_PER_PAGE ** (above - level)
                data = self._catalog.page(root, above, number) or b""
                tree.add_page(above, number, data)
        except (BadDigest, BadMessage) as error:
            self._catalog.forget(root)
            self._roots_changed()
            raise DiskFailure(
                f"The digests of {format_content_id(root)} were damaged; they are made again."
            ) from error
        assert data is not None
        return data

    def open(self, root: bytes, view: View | None = None) -> OpenContent:
        """
        Open a file that has this content.

        @param view: of whoever asks; L{None} for the owner.
        @return: the caller has to close it.
        @raise NotFound: none is shared.
        @raise ContentChanged: the file that had it has changed.
        @raise ResourceFailure: it cannot be opened.
        """

        shares = tuple(self._present(view))
        manifest = self._manifests.open(root, shares, self._guard(root, shares, view))
        if manifest is not None:
            return manifest
        share, known, fd = self._open_holder(root, view)
        guard = self._guard(root, (share,), view)
        return OpenContent(fd, root, known.stamp, _name(known.path), guard)

    def _guard(self, root: bytes, shares: Sequence[Share], view: View | None) -> Callable[[], None]:
        def check_access() -> None:
            if view is None:
                return
            for share in shares:
                if (rule := self._judge(share, view.asker)) is not None:
                    self._notes.withheld(view.asker, share.name, rule)
                    raise _unknown(root)

        return check_access

    def checksum(self, root: bytes, stop: Stop = never, view: View | None = None) -> bytes:
        """
        Give the MD5 of a content; it is computed once.

        @param view: of whoever asks; L{None} for the owner.
        @raise NotFound: none is shared.
        @raise ContentChanged: the file that had it has changed.
        @raise Cancelled: C{stop} said so.
        @raise ResourceFailure: it cannot be read.
        """
        self._check_shared(root, view)
        with self._turns.take(root, stop):
            content = self._catalog.content(root)
            if content is not None and content.md5 is not None:
                return content.md5
            _, known, fd = self._open_holder(root, view)
            try:
                what = _name(known.path)
                md5 = md5_of_file(fd, known.stamp.size, stop=stop, what=what)
                check_unchanged(fd, known.stamp, what)
            finally:
                os.close(fd)
            self._catalog.set_md5(root, md5)
            return md5

    # Who may see what

    def _judge(self, share: Share, asker: bytes | None) -> str | None:
        rule, change = share.judge(asker)
        if change is not None:
            self._notes.rules_changed(share.name, change)
            self._roots_changed()
        return rule

    def _note(self, view: View | None) -> None:
        if view is not None:
            for share, rule in view.withheld:
                self._notes.withheld(view.asker, share, rule)

    def _seen(self, view: View | None) -> tuple[Share, ...]:
        return self._shares if view is None else view.shares

    def _present(self, view: View | None = None) -> Iterator[Share]:
        return (share for share in self._seen(view) if share.is_there)

    def _check_shared(self, root: bytes, view: View | None) -> None:
        # Contents are of all that was ever shared, and their digests tell who has them.
        if not any(self._catalog.holders(share.key, root, 1) for share in self._present(view)):
            self._note(view)
            raise _unknown(root)

    # What is hashed next

    def _choose(self) -> tuple[Share, str] | None:
        with self._choosing:
            while self._asked_for:
                share, path = next(iter(self._asked_for))
                del self._asked_for[share, path]
                known = self._catalog.find(share.key, path)
                if known is None or known.root is None:
                    return share, path
            for share in self._present():
                after = self._hashed_up_to.get(share.key, "")
                for path in self._catalog.unhashed(share.key, after, 1):
                    self._hashed_up_to[share.key] = path
                    return share, path
        return None

    def _ask_for(self, share: Share, path: str) -> None:
        with self._choosing:
            self._asked_for[share, path] = None

    def _hash(self, share: Share, path: str, fd: int, stop: Stop, *, md5_up_to: int) -> Known:
        what = _name(path)
        try:
            with self._turns.take((share.key, path), stop):
                stamp = stamp_of(fd, what)
                known = self._catalog.find(share.key, path)
                if known is None or known.stamp != stamp:
                    if stamp.size > LARGEST:
                        raise NotFound(f"{what} is larger than what is shared here.")
                    self._catalog.update(share.key, {path: stamp}, ())
                    self._roots_changed()
                elif known.root is not None:
                    return known
                tree, checksum = hash_file(
                    fd, stamp.size, stop=stop, md5=stamp.size <= md5_up_to, what=what
                )
                check_unchanged(fd, stamp, what)
                self._catalog.record(share.key, path, stamp, tree, checksum)
                self._roots_changed()
                return Known(path, stamp, tree.root, checksum)
        except Cancelled:
            self._ask_for(share, path)
            raise

    def _open_holder(self, root: bytes, view: View | None) -> tuple[Share, Known, int]:
        failure: Flow512Error = _unknown(root)
        for share in self._present(view):
            for known in self._catalog.holders(share.key, root, _MAX_HOLDERS):
                try:
                    fd, stamp = share.open(known.path.split("/"))
                except (NotFound, UnsafeName):
                    continue
                except ResourceFailure as error:
                    failure = error
                    continue
                if stamp == known.stamp:
                    return share, known, fd
                os.close(fd)
                failure = changed(_name(known.path))
                self._catalog.update(share.key, {known.path: stamp}, ())
                self._roots_changed()
                self._ask_for(share, known.path)
        if isinstance(failure, NotFound):
            self._note(view)
        raise failure


def _name(path: str) -> str:
    return f"'{escape(path)}'"


def _unknown(root: bytes) -> NotFound:
    return NotFound(f"Nothing that is shared here is {format_content_id(root)}.")
