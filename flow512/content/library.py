"""
The library: what a node offers, as its transfer server asks for it.

The catalog says what is there, as of the last scan; the disk has the last word. A file is opened
and its stamp compared before anything is said of its content, and again after every read, so
bytes that a root does not stand for are not given out as if it did.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from operator import attrgetter
from typing import Final

import msgspec

from flow512.content.catalog import Catalog, Known, Stamp
from flow512.content.hashing import Stop, hash_file, md5_of_file, never
from flow512.content.paths import check_path, escape, is_own_name
from flow512.content.scan import Scan, ScanReport
from flow512.content.shares import LARGEST, LeftOut, Share
from flow512.content.tree import TreeVerifier, format_content_id
from flow512.errors import (
    BadDigest,
    BadMessage,
    Cancelled,
    ContentChanged,
    DiskFailure,
    Flow512Error,
    Misuse,
    NotFound,
    ResourceFailure,
    UnsafeName,
    from_os_error,
)
from flow512.units import DIGESTS_PER_PAGE
from flow512.wire.messages import CAPS, MAX_LIST, Entry, Kind

__all__ = ["LeftOut", "Library", "OpenContent", "ScanReport", "Share", "Stop", "never"]

MD5_AT_ONCE: Final = 8 * 1024 * 1024
"""
Bytes up to which a file's MD5 is made together with its tree. A larger file can be fetched as soon
as its tree is there, and MD5 takes several times as long.
"""

_MAX_HOLDERS: Final = 100
"""Files of one share that are tried for one content."""

_WAIT: Final = 0.1
"""Seconds between two questions whether to give up, while another thread is waited for."""

_LISTING_FRAME: Final = 7
"""Bytes in a LISTING's body around its entries, at most."""

_ENCODER: Final = msgspec.msgpack.Encoder()


class OpenContent:
    """
    A file that is being served. One thread at a time may use it.

    @ivar fd: its descriptor.
    @ivar size: its bytes.
    @ivar root: its content id.
    """

    def __init__(self, fd: int, root: bytes, stamp: Stamp, what: str) -> None:
        """
        @param fd: the file, open for reading; it belongs to this object from now on.
        @param stamp: the file's, when it was hashed.
        @param what: what to call it in sentences.
        """
        self.fd = fd
        self.root = root
        self.size = stamp.size
        self._stamp = stamp
        self._what = what

    def read(self, offset: int, length: int) -> bytes:
        """
        Read some of the content.

        @param offset: of the first byte.
        @param length: how many bytes.
        @return: exactly that many.
        @raise ContentChanged: the file is no longer what it was when it was hashed.
        @raise Misuse: not all of these bytes are inside the file.
        @raise ResourceFailure: it could not be read.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Misuse(f"{self._what} has no {length} bytes from {offset} on.")
        try:
            data = os.pread(self.fd, length, offset)
            while len(data) < length:
                more = os.pread(self.fd, length - len(data), offset + len(data))
                if not more:
                    raise _changed(self._what)
                data += more
        except OSError as error:
            raise from_os_error(error, f"reading {self._what}") from error
        # Once the bytes are here: what was written before has left its mark on the stamp.
        _check_unchanged(self.fd, self._stamp, self._what)
        return data

    def close(self) -> None:
        """
        Give the descriptor back; a second time does nothing.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Library:
    """
    What a node offers. Every method may block, and any thread may call it.
    """

    def __init__(self, catalog: Catalog, shares: Sequence[Share]) -> None:
        """
        @param catalog: whoever made it closes it, after the library.
        @param shares: in order: a path in one hides the same path in those after it. They belong
            to the library from now on.
        """
        self._catalog = catalog
        self._shares = tuple(shares)
        self._scanning = threading.Lock()
        self._turns = _Turns()
        self._choosing = threading.Lock()
        # How far hash_next has come in each share: what failed lies behind, until the next scan.
        self._hashed_up_to: dict[bytes, str] = {}
        # Likewise for sum_next, over all shares.
        self._summed_up_to = b""
        # What somebody waits for, in the order in which it was asked for.
        self._asked_for: dict[tuple[Share, str], None] = {}

    def close(self) -> None:
        """
        Close the shares. Contents that are open stay so.
        """
        for share in self._shares:
            share.close()

    def scan(self, stop: Stop = never) -> ScanReport:
        """
        Look at all that is in the shares, and bring the catalog up to date. Nothing is hashed.

        @raise Cancelled: C{stop} said so; what was seen until then is kept.
        @raise ResourceFailure: the catalog cannot be read or written; likewise.
        @raise NotFound: the library was closed meanwhile; likewise.
        """
        scan = Scan(self._catalog, stop)
        with self._scanning:
            for share in self._shares:
                scan.look_through(share)
            self._catalog.prune()
        with self._choosing:
            self._hashed_up_to.clear()
            self._summed_up_to = b""
        return scan.report()

    def pending(self) -> int:
        """
        Say how many files have no root yet, those that could not be hashed among them.
        """
        return sum(self._catalog.unhashed_count(share.key) for share in self._present())

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

    def list(
        self,
        prefix: str = "",
        after: str = "",
        limit: int = MAX_LIST,
        max_bytes: int = CAPS[Kind.LISTING],
    ) -> tuple[tuple[Entry, ...], bool]:
        """
        List files by path, in the order of code points.

        @param prefix: only paths that begin with this.
        @param after: only paths after this one; empty from the start.
        @param limit: at most so many, at least 1.
        @param max_bytes: of the body of the LISTING that carries them; but one entry at least.
        @return: the entries, without a root where none is known yet; and whether more follow.
        @raise Misuse: C{prefix} or C{after} is not text.
        """
        try:
            (prefix + after).encode()
        except UnicodeEncodeError:
            raise Misuse("A path is text; half a character cannot be looked for.") from None
        entries: list[Entry] = []
        room = max_bytes - _LISTING_FRAME
        files = merge(
            *(
                self._catalog.listing(share.key, prefix, after, limit + 1)
                for share in self._present()
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

    def stat(self, path: str = "", root: bytes | None = None, stop: Stop = never) -> Entry:
        """
        Tell of one file, by its path or, if that is empty, by its root.

        @return: its entry, with a root: a file that is not hashed yet is hashed now.
        @raise NotFound: there is no such file.
        @raise UnsafeName: no file can have such a path.
        @raise ContentChanged: the file changes while it is hashed, or has changed and has
            another root now.
        @raise Cancelled: C{stop} said so; L{hash_next} does this file next.
        @raise ResourceFailure: it cannot be read.
        """
        if root is not None and not path:
            known, fd = self._open_holder(root)
            os.close(fd)
            return known.entry()
        parts = check_path(path)
        if not any(map(is_own_name, parts)):
            for share in self._shares:
                try:
                    fd, _ = share.open(parts)
                except (NotFound, UnsafeName):
                    continue
                try:
                    return self._hash(share, path, fd, stop, md5_up_to=-1).entry()
                finally:
                    os.close(fd)
        raise NotFound(f"No file '{escape(path)}' is shared here; `flow512 ls` shows what is.")

    def known(self, path: str) -> Entry | None:
        """
        Tell of one file by its path, as L{stat} does, if that takes no hashing.

        @return: its entry, with a root; L{None} if only L{stat} can tell.
        @raise UnsafeName: no file can have such a path.
        @raise ResourceFailure: it cannot be looked at.
        """
        parts = check_path(path)
        for share in self._shares:
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

    def page(self, root: bytes, level: int, index: int) -> bytes:
        """
        Give a page of digests.

        @return: the page, proven by the root.
        @raise NotFound: no such content is shared.
        @raise Misuse: its tree has no such page.
        @raise DiskFailure: the catalog's copy was damaged; the file is hashed again.
        """
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
            raise DiskFailure(
                f"The digests of {format_content_id(root)} were damaged; they are made again."
            ) from error
        assert data is not None
        return data

    def open(self, root: bytes) -> OpenContent:
        """
        Open a file that has this content.

        @return: the caller has to close it.
        @raise NotFound: none is shared.
        @raise ContentChanged: the file that had it has changed.
        @raise ResourceFailure: it cannot be opened.
        """
        known, fd = self._open_holder(root)
        return OpenContent(fd, root, known.stamp, _name(known.path))

    def checksum(self, root: bytes, stop: Stop = never) -> bytes:
        """
        Give the MD5 of a content; it is computed once.

        @raise NotFound: none is shared.
        @raise ContentChanged: the file that had it has changed.
        @raise Cancelled: C{stop} said so.
        @raise ResourceFailure: it cannot be read.
        """
        with self._turns.take(root, stop):
            content = self._catalog.content(root)
            if content is not None and content.md5 is not None:
                return content.md5
            known, fd = self._open_holder(root)
            try:
                what = _name(known.path)
                md5 = md5_of_file(fd, known.stamp.size, stop=stop, what=what)
                _check_unchanged(fd, known.stamp, what)
            finally:
                os.close(fd)
            self._catalog.set_md5(root, md5)
            return md5

    def _present(self) -> Iterator[Share]:
        return (share for share in self._shares if share.is_there)

    def _choose(self) -> tuple[Share, str] | None:
        with self._choosing:
            if self._asked_for:
                chosen = next(iter(self._asked_for))
                del self._asked_for[chosen]
                return chosen
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
                stamp = _stamp(fd, what)
                known = self._catalog.find(share.key, path)
                if known is None or known.stamp != stamp:
                    if stamp.size > LARGEST:
                        raise NotFound(f"{what} is larger than what is shared here.")
                    self._catalog.update(share.key, {path: stamp}, ())
                elif known.root is not None:
                    return known
                tree, checksum = hash_file(
                    fd, stamp.size, stop=stop, md5=stamp.size <= md5_up_to, what=what
                )
                _check_unchanged(fd, stamp, what)
                self._catalog.record(share.key, path, stamp, tree, checksum)
                return Known(path, stamp, tree.root, checksum)
        except Cancelled:
            self._ask_for(share, path)
            raise

    def _open_holder(self, root: bytes) -> tuple[Known, int]:
        failure: Flow512Error = _unknown(root)
        for share in self._present():
            for known in self._catalog.holders(share.key, root, _MAX_HOLDERS):
                try:
                    fd, stamp = share.open(known.path.split("/"))
                except (NotFound, UnsafeName):
                    continue
                except ResourceFailure as error:
                    failure = error
                    continue
                if stamp == known.stamp:
                    return known, fd
                os.close(fd)
                failure = _changed(_name(known.path))
                self._catalog.update(share.key, {known.path: stamp}, ())
                self._ask_for(share, known.path)
        raise failure


class _Turns:
    """Lets one thread at a time do what several want, while the others wait for it."""

    def __init__(self) -> None:
        self._ended = threading.Condition()
        self._taken: set[Hashable] = set()

    @contextmanager
    def take(self, what: Hashable, stop: Stop) -> Iterator[None]:
        """
        Wait for the turn, and hold it.

        @raise Cancelled: C{stop} said so while it was not yet there.
        """
        with self._ended:
            while what in self._taken:
                if stop():
                    raise Cancelled("The wait for what another request computes was given up.")
                self._ended.wait(_WAIT)
            self._taken.add(what)
        try:
            yield
        finally:
            with self._ended:
                self._taken.discard(what)
                self._ended.notify_all()


def _name(path: str) -> str:
    return f"'{escape(path)}'"


def _stamp(fd: int, what: str) -> Stamp:
    try:
        return Stamp.of(os.fstat(fd))
    except OSError as error:
        raise from_os_error(error, f"looking at {what}") from error


def _check_unchanged(fd: int, stamp: Stamp, what: str) -> None:
    if _stamp(fd, what) != stamp:
        raise _changed(what)


def _changed(what: str) -> ContentChanged:
    return ContentChanged(f"{what} has changed since it was hashed; ask for it anew.")


def _unknown(root: bytes) -> NotFound:
    return NotFound(f"Nothing that is shared here is {format_content_id(root)}.")
