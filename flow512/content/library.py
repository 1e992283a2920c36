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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from heapq import merge, nsmallest
from operator import attrgetter
from typing import Final

import msgspec
from msgspec.structs import replace

from flow512.content.backlog import MD5_AT_ONCE, Backlog
from flow512.content.catalog import Catalog, Known, Stamp
from flow512.content.following import EVERYTHING, WALK, Look
from flow512.content.hashing import Stop, md5_of_file, never
from flow512.content.manifest import NOT_ALL
from flow512.content.manifests import Manifests, items_in
from flow512.content.merging import merged
from flow512.content.opened import OpenContent, changed, check_unchanged, name_of
from flow512.content.paths import check_path, escape, is_own_name, open_folder_beneath
from flow512.content.scan import Scan, ScanReport
from flow512.content.shares import LARGEST, LeftOut, Share
from flow512.content.small import read_small
from flow512.content.tree import TreeVerifier, format_content_id
from flow512.content.turns import Turns
from flow512.content.unhashed import UnhashedContent
from flow512.content.view import AccessNotes, NoNotes, View
from flow512.content.visibility import Visibility
from flow512.errors import (
    BadDigest,
    BadMessage,
    DiskFailure,
    Flow512Error,
    Misuse,
    NotFound,
    ResourceFailure,
    ShareMissing,
    UnsafeName,
)
from flow512.units import DIGESTS_PER_PAGE
from flow512.wire.bundle import Parcel
from flow512.wire.fields import MAX_LIST
from flow512.wire.messages import CAPS, Entry, Kind

__all__ = [
    "MD5_AT_ONCE",
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

_MAX_HOLDERS: Final = 100
"""Files of one share that are tried for one content."""

_ROOTS_AT_ONCE: Final = 10_000
"""Roots that are read from the catalog at once; others wait for their turn at it meanwhile."""

_LEFT_BEHIND: Final = 1000
"""Files that are gone, or are others now, before what they had is forgotten, or a quarter of all
files if that is more. It may be that nobody ever looks through everything again."""

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
        self._tell_of_roots = roots_changed
        self._manifests = Manifests()
        self._public: frozenset[bytes] = frozenset()  # keys of the shares whose roots were given
        for share in self._shares:
            share.had_files = partial(catalog.has_files, share.key)
            with suppress(ShareMissing, ResourceFailure):
                share.look_again()
        self._visible = Visibility(self._shares, notes or NoNotes(), self._roots_changed)
        self._scanning = threading.Lock()
        self._left_behind = 0  # since what no file has was forgotten
        self._turns = Turns()
        self._backlog = Backlog(catalog, self._shares, self._roots_changed)

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
                    self._visible.judge(share, None)
                    scan.look_through(share)
                self._prune()
            self._backlog.try_all_again()
            return self._reported(scan.report())
        try:
            with self._scanning:
                for share in self._visible.present():
                    scan.look_at(
                        share, [place.path for place in look.places if place.share == share.key]
                    )
        finally:
            self._backlog.prefer(scan)
        found = sum(self._catalog.count(share.key) for share in self._visible.present())
        report = scan.report()
        with self._scanning:
            self._left_behind += report.changed + report.gone
            if self._left_behind > max(_LEFT_BEHIND, found // 4):
                self._prune()
        return self._reported(replace(report, found=found))

    def _prune(self) -> None:
        self._catalog.prune()
        self._left_behind = 0

    def _note_walk(self) -> None:
        for share in self._shares:
            self._visible.judge(share, None)
            with suppress(ShareMissing, ResourceFailure):
                share.look_again()
                share.walked()

    def _reported(self, report: ScanReport) -> ScanReport:
        if report.changed or report.gone or self._public != self._visible.keys_seen_by_all():
            self._roots_changed()
        return report

    def follow(self, is_followed: bool) -> None:
        """
        Say whether L{happened} is called from now on whenever something happens in the shares; only
        then, and until it does, the manifest of a folder is given again without a look at the disk.
        At first it is not. Any thread may call this and L{happened}, and neither blocks.
        """
        self._manifests.follow(is_followed)

    def happened(self) -> None:
        """
        Take note that something has happened in the shares.
        """
        self._manifests.happened()

    @property
    def shares(self) -> tuple[Share, ...]:
        """What was given to it."""
        return self._shares

    def pending(self) -> int:
        """
        Say how many files have no root yet, those that could not be hashed among them.
        """
        return sum(self._catalog.unhashed_count(share.key) for share in self._visible.present())

    def roots(self, most: int) -> frozenset[bytes]:
        """
        Give the contents that every member of the network may see, as of the last look at each
        file: nothing of a share that only some may see is among them.

        @param most: at most so many. They are the least ones, so that the choice is a steady one.
        @raise ResourceFailure: the catalog cannot be read.
        """
        keys = self._public = self._visible.keys_seen_by_all()
        found: set[bytes] = set()
        for key in keys:
            after, left = b"", most
            while some := self._catalog.roots(key, after, min(left, _ROOTS_AT_ONCE)):
                found.update(some)
                after = some[-1]
                left -= len(some)
        return frozenset(found if len(found) <= most else nsmallest(most, found))

    def _roots_changed(self) -> None:
        self._manifests.happened()
        self._tell_of_roots()

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
        known = self._backlog.hash_next(stop)
        return None if known is None else known.entry()

    def sum_next(self, stop: Stop = never) -> bytes | None:
        """
        Make the MD5 of one content that has none yet.

        @return: the root of the content; L{None} if none is left to do.
        @raise Flow512Error: as L{checksum}. As after every error, it is left alone until the next
            scan; call again for the next one.
        """
        while (root := self._backlog.next_without_md5()) is not None:
            try:
                self.checksum(root, stop)
            except NotFound:
                continue  # of a folder that is not shared now
            return root
        return None

    def seen_by(self, asker: bytes) -> View:
        """
        Find out what somebody may see now. The view is for one request: the rules may change.

        @param asker: a node id that was proven, or L{NOBODY<flow512.content.access.NOBODY>}.
        """
        return self._visible.seen_by(asker)

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
        self._visible.note(view)
        entries: list[Entry] = []
        room = max_bytes - _LISTING_FRAME
        files = merge(
            *(
                self._catalog.listing(share.key, prefix, after, limit + 1)
                for share in self._visible.present(view)
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
            shares = list(self._visible.present(view))
            if (size := self._manifests.size(root, shares)) is not None:
                return Entry("/", size, 0, root)
            share, known, fd = self._open_holder(root, view)
            os.close(fd)
            return self._entry(share, known)
        opened = self._open_path(path, view)
        if opened is None:
            raise self._no_file(path, view)
        share, fd, _ = opened
        try:
            return self._entry(share, self._backlog.hash(share, path, fd, stop))
        finally:
            os.close(fd)

    def known(
        self, path: str, view: View | None = None, *, unhashed_above: int = LARGEST
    ) -> Entry | None:
        """
        Tell of one file by its path, as L{stat} does, if that takes no hashing.

        @param view: of whoever asks; L{None} for the owner.
        @param unhashed_above: the size in bytes above which a file without a root is told of as
            well.
        @return: its entry, with a root unless it is so large; L{None} if only L{stat} can tell.
        @raise UnsafeName: no file can have such a path.
        @raise ResourceFailure: it cannot be looked at.
        """
        if path.endswith("/"):
            return None
        opened = self._open_path(path, view)
        if opened is None:
            return None
        share, fd, stamp = opened
        os.close(fd)
        known = self._catalog.find(share.key, path)
        if known is not None and known.stamp == stamp and known.root is not None:
            return self._entry(share, known)
        if unhashed_above < stamp.size <= LARGEST:
            return self._entry(share, Known(path, stamp, None, None))
        return None

    def open_unhashed(
        self, path: str, size: int, mtime: int, first: int = 0, view: View | None = None
    ) -> UnhashedContent:
        """
        Open a file to read it, whether its root is known or not.

        @param size: what it was when its entry was told.
        @param mtime: likewise.
        @param first: the block to begin with; only if that is 0 its tree is made and kept.
        @param view: of whoever asks; L{None} for the owner.
        @return: the caller has to close it.
        @raise NotFound: there is no such file.
        @raise UnsafeName: no file can have such a path.
        @raise ContentChanged: it has another size or mtime now.
        @raise Misuse: it has not so many blocks.
        @raise ResourceFailure: it cannot be opened.
        """
        opened = self._open_path(path, view)
        if opened is None:
            raise self._no_file(path, view)
        share, fd, stamp = opened
        try:
            if (stamp.size, stamp.mtime) != (size, mtime):
                raise changed(name_of(path))
            self._backlog.take_note(share, path, stamp)
            return UnhashedContent(
                fd,
                stamp,
                name_of(path),
                first,
                self._visible.guard((share,), view, lambda: _no_file(path)),
                lambda tree: self._entry(share, self._backlog.keep(share, path, stamp, tree)),
            )
        except BaseException:
            os.close(fd)
            raise

    def _open_path(self, path: str, view: View | None) -> tuple[Share, int, Stamp] | None:
        parts = check_path(path)
        if not any(map(is_own_name, parts)):
            for share in self._visible.of(view):
                with suppress(NotFound, UnsafeName):
                    return share, *share.open(parts)
        return None

    def _no_file(self, path: str, view: View | None) -> NotFound:
        self._visible.note(view)
        return _no_file(path)

    def _entry(self, share: Share, known: Known) -> Entry:
        is_restricted = not self._visible.is_for_all(share)
        return replace(known.entry(), is_restricted=is_restricted)

    def _manifest(self, path: str, stop: Stop, view: View | None) -> Entry:
        prefix = "" if path == "/" else path
        parts = check_path(path[:-1]) if prefix else ()
        shares = []
        for share in () if any(map(is_own_name, parts)) else self._visible.of(view):
            # A link is no folder, as it is no file, and whoever asks learns no more of it.
            with suppress(NotFound, UnsafeName), share.folder() as folder:
                os.close(open_folder_beneath(folder, parts))
                shares.append(share)
        if not shares:
            self._visible.note(view)
            raise NotFound(
                f"No folder '{escape(path)}' is shared here; `flow512 ls` shows what is."
            )
        # Whoever mirrors the folder must not take for gone what is in a share that is away.
        asker = None if view is None else view.asker
        lacks = any(
            share.is_missed_by(asker) and self._catalog.listing(share.key, prefix, "", 1)
            for share in self._shares
        )
        if not lacks and (made := self._manifests.again(path, shares)) is not None:
            return Entry(path, made[1], 0, made[0])
        state = self._manifests.state
        items = merged(
            shares,
            prefix,
            [items_in(share, prefix, self._catalog, stop) for share in shares],
            [NOT_ALL] if lacks else [],
        )
        root, size = self._manifests.keep(items, shares, stop)
        if not lacks:
            self._manifests.remember(path, shares, root, state)
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
        page = self._manifests.page(root, level, index, self._visible.present(view))
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

        shares = tuple(self._visible.present(view))
        guard = self._visible.guard(shares, view, lambda: _unknown(root))
        manifest = self._manifests.open(root, shares, guard)
        if manifest is not None:
            return manifest
        share, known, fd = self._open_holder(root, view)
        guard = self._visible.guard((share,), view, lambda: _unknown(root))
        return OpenContent(fd, root, known.stamp, name_of(known.path), guard)

    def read_small(self, roots: Sequence[bytes], parcel: Parcel, view: View | None = None) -> None:
        """
        Read small contents whole, one after the other, until no more fit.

        @param roots: which.
        @param parcel: where they go. What is not shared, has changed, cannot be read, or is larger
            than L{MAX_BUNDLED<flow512.wire.bundle.MAX_BUNDLED>}, is missing in it.
        @param view: of whoever asks; L{None} for the owner.
        """
        read_small(
            roots,
            parcel,
            self._catalog,
            tuple(self._visible.present(view)),
            lambda root: self.open(root, view),
        )

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
                what = name_of(known.path)
                md5 = md5_of_file(fd, known.stamp.size, stop=stop, what=what)
                check_unchanged(fd, known.stamp, what)
            finally:
                os.close(fd)
            self._catalog.set_md5(root, md5)
            return md5

    def _check_shared(self, root: bytes, view: View | None) -> None:
        # Contents are of all that was ever shared, and their digests tell who has them.
        if not any(
            self._catalog.holders(share.key, root, 1) for share in self._visible.present(view)
        ):
            self._visible.note(view)
            raise _unknown(root)

    def _open_holder(self, root: bytes, view: View | None) -> tuple[Share, Known, int]:
        failure: Flow512Error | None = None
        for share in self._visible.present(view):
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
                failure = changed(name_of(known.path))
                self._backlog.note_change(share, known.path, stamp)
        if failure is None:
            self._visible.note(view)
            failure = _unknown(root)
        raise failure


def _no_file(path: str) -> NotFound:
    return NotFound(f"No file '{escape(path)}' is shared here; `flow512 ls` shows what is.")


def _unknown(root: bytes) -> NotFound:
    return NotFound(f"{format_content_id(root)} is not shared, or not any more.")
