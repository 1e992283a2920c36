"""
Shares: the folders that a node offers, and the walk through one of them.

A share is held by its folder's descriptor, and everything in it is reached from there: whatever
happens to the path that the user named, nothing outside is opened. If the folder is removed, the
share has nothing until a folder is there again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Final, TypeAlias

import msgspec
from blake3 import blake3

from flow512.content.access import Access, ParseId, Verdict, unreadable_id
from flow512.content.catalog import Stamp
from flow512.content.paths import (
    MAX_DEPTH,
    SHOWN,
    check_name,
    check_path,
    escape,
    is_own_name,
    open_file_in,
    open_folder,
    open_folder_beneath,
)
from flow512.errors import (
    NotFound,
    ResourceFailure,
    ShareMissing,
    UnsafeName,
    from_os_error,
)
from flow512.wire.fields import MAX_PATH

LARGEST: Final = 2**43
"""Bytes in the largest file that is offered (8 TiB): while it is hashed, its digests take 1 GiB
of temporary space. A sparse file may claim any size without having it."""


class Share:
    """
    A folder that is offered. Any thread may use it.

    @ivar path: the folder, as the user named it.
    @ivar name: what it is called in reports.
    @ivar key: what it is called in the catalog.
    @ivar had_files: tells whether there were files in it, as far as is known; it may block.
    """

    had_files: Callable[[], bool]

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str = "",
        *,
        allow: Collection[bytes] = (),
        parse_id: ParseId = unreadable_id,
    ) -> None:
        """
        @param path: the folder, which may be reached through links.
        @param name: what to call it in reports; C{path} if empty.
        @param allow: the ids of the nodes that may see it; every node, if empty, unless the folder
            has a rule of its own (L{flow512.content.access}).
        @param parse_id: reads the node ids in that.
        @raise ShareMissing: there is no such folder.
        @raise ResourceFailure: it cannot be opened.
        """
        self.path = os.fspath(path)
        self.name = name or escape(self.path)
        self.had_files = lambda: False
        self._turn = threading.Lock()
        self._access = Access(allow, parse_id)
        self._folder: int | None = open_folder(self.path)
        self.key = blake3(os.fsencode(os.path.realpath(self.path))).digest(length=16)

    @property
    def is_there(self) -> bool:
        """Whether the folder was there when it was last looked for."""
        return self._folder is not None

    def close(self) -> None:
        """
        Give the folder's descriptor back: from now on the share has nothing.
        """
        self._put(None)

    def look_again(self) -> None:
        """
        See whether the folder is there. One that has taken its place takes its place here too. If
        it is empty and L{had_files}, that is what a disk leaves that is not mounted, and it is not
        there: so nobody takes its files for deleted, and none is hashed again when it comes back.

        @raise ShareMissing: it is not there; the share has nothing until it is.
        @raise ResourceFailure: it cannot be opened now; the share stays as it was.
        """
        try:
            fresh = open_folder(self.path)
        except ShareMissing:
            self._put(None)
            raise
        try:
            is_away = _is_empty(fresh) and self.had_files()
        except BaseException:
            os.close(fresh)
            raise
        if is_away:
            os.close(fresh)
            self._put(None)
            raise ShareMissing(
                f"The folder '{self.name}' is empty, and was not: mount its disk if it has one,"
                " or put something else into it. Until there is something in it, it counts as not"
                " there, and what was in it is remembered."
            )
        self._put(fresh)

    def walked(self) -> None:
        """
        Take note of a walk: rules that are gone stand until two have missed them.
        """
        with self._turn:
            if self._folder is not None:
                self._access.walked(self._folder)

    def judge(self, asker: bytes | None) -> Verdict:
        """
        Say whether somebody may see the share now.

        @param asker: as for L{Access.judge}.
        """
        with self._turn:
            if self._folder is None:
                # Whatever rules it had; those of a folder that comes back meanwhile are not known.
                return Verdict(None if asker is None else "its folder is not there, or empty")
            return self._access.judge(self._folder, asker)

    def is_missed_by(self, asker: bytes | None) -> bool:
        """
        Say whether somebody could see the share, as far as is known, if its folder were there and
        could be read.

        @param asker: as for L{Access.judge}.
        """
        with self._turn:
            if self._folder is None:
                return self._access.allowed(asker)
            return self._access.is_unread and self._access.allowed(asker)

    @contextmanager
    def folder(self) -> Iterator[int]:
        """
        Lend the folder's descriptor, which stays good though the share is closed meanwhile.

        @raise NotFound: the folder is not there.
        @raise ResourceFailure: it cannot be opened once more.
        """
        with self._turn:
            if self._folder is None:
                raise NotFound(f"The folder '{self.name}' is not there any more.")
            lent = open_folder_beneath(self._folder, ())
        try:
            yield lent
        finally:
            os.close(lent)

    def open(self, parts: Sequence[str]) -> tuple[int, Stamp]:
        """
        Open a file to read it.

        @return: a descriptor, for the caller to close, and the file's stamp.
        @raise NotFound: there is no such file, or the share has nothing.
        @raise UnsafeName: it is no regular file, or reached through a link.
        @raise ResourceFailure: it cannot be opened.
        """
        with self.visit() as visit:
            return visit.open(parts)

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """
        Begin to open files, one after the other; the visit is over with the block.

        @raise NotFound: the share has nothing.
        @raise ResourceFailure: its folder cannot be opened once more.
        """
        with self.folder() as top:
            visit = Visit(top)
            try:
                yield visit
            finally:
                visit.close()

    def real_path(self) -> str:
        """
        Give the folder's path without links, whether it is there or not.
        """
        return os.path.realpath(self.path)

    def only_folders(self, paths: Sequence[str]) -> list[str]:
        """
        Choose those of some places that are folders which may have something to offer.

        @param paths: inside the share; empty for its own folder.
        @return: without what is no folder, or not reached but by a link, or has a name that is
            not shared.
        """
        found = []
        for path in paths:
            with suppress(NotFound, UnsafeName, ResourceFailure, OSError), self.folder() as top:
                parts = check_path(path) if path else ()
                if not any(map(is_own_name, parts)):
                    os.close(open_folder_beneath(top, parts))
                    found.append(path)
        return found

    def subfolders(self, paths: Sequence[str]) -> list[str]:
        """
        List the folders that may have something to offer, one level down.

        @param paths: of folders inside the share; empty for its own.
        @return: the paths of those directly in them. What cannot be looked at has none, and what is
            no folder any more; no link is one.
        """
        found = []
        for path in paths:
            with suppress(NotFound, UnsafeName, ResourceFailure, OSError), self.folder() as top:
                inner = open_folder_beneath(top, path.split("/") if path else ())
                try:
                    with os.scandir(inner) as entries:
                        names = [
                            entry.name for entry in entries if entry.is_dir(follow_symlinks=False)
                        ]
                finally:
                    os.close(inner)
                for name in names:
                    with suppress(UnsafeName):
                        whole = f"{path}/{name}" if path else name
                        if not is_own_name(name):
                            check_path(whole)
                            found.append(whole)
        return found

    def _put(self, folder: int | None) -> None:
        with self._turn:
            if self._folder is not None:
                os.close(self._folder)
            self._folder = folder


def _is_empty(folder: int) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False  # whoever looks through it says why


class Visit:
    """
    Opens files of one share, one after the other. The folder of the last one stays open, so that
    many in one folder take no way down each: what is moved elsewhere meanwhile is still read, as if
    it had been read just before. One thread at a time may use it, and not for long.
    """

    def __init__(self, top: int) -> None:
        """
        @param top: the share's descriptor, which stays the caller's.
        """
        self._top = self._folder = top
        self._way: Sequence[str] = ()

    def open(self, parts: Sequence[str]) -> tuple[int, Stamp]:
        """
        Open a file; see L{Share.open}.
        """
        way = parts[:-1]
        if way != self._way:
            self.close()
            if way:
                self._folder = open_folder_beneath(self._top, way)
                self._way = way
        fd, status = open_file_in(self._folder, parts[-1])
        return fd, Stamp.of(status)

    def close(self) -> None:
        """
        Close the folder; a second time does nothing.
        """
        if self._folder != self._top:
            os.close(self._folder)
        self._folder, self._way = self._top, ()


class Found(msgspec.Struct, frozen=True):
    """
    A file that is offered.

    @ivar path: inside the share.
    @ivar stamp: what the system says of it.
    @ivar mode: its permissions.
    """

    path: str
    stamp: Stamp
    mode: int


class FoundFolder(msgspec.Struct, frozen=True):
    """
    A folder in a share; what is in it follows.

    @ivar path: inside the share, with a slash at its end.
    @ivar mode: its permissions.
    @ivar mtime: nanoseconds since 1970 (UTC), cut to 64 bits.
    """

    path: str
    mode: int
    mtime: int


class LeftOut(msgspec.Struct, frozen=True):
    """
    Something that is not offered.

    @ivar path: inside the share, escaped for display.
    @ivar reason: why, in one sentence that is fit for display.
    @ivar is_file: whether it is a file that could be offered, and only cannot be had: whoever
        mirrors the folder must not take it for gone. Its path is as it is then.
    """

    path: str
    reason: str
    is_file: bool = False


class Unread(msgspec.Struct, frozen=True):
    """
    A file or folder that could not be looked at; it may be as it was.

    @ivar path: inside the share; empty for its folder itself.
    @ivar reason: why, in one sentence that is fit for display.
    """

    path: str
    reason: str


Sight: TypeAlias = Found | FoundFolder | LeftOut | Unread


def walk(folder: int, path: str = "") -> Iterator[Sight]:
    """
    Look at all that is in a folder, and beneath it; or only at what has a certain path there.

    Files and folders come in the order of their whole paths, by code point. No link is followed,
    and nothing is opened but folders. Our own hidden files, and what vanishes meanwhile, are not
    mentioned. At most L{MAX_DEPTH} descriptors are held at once.

    @param folder: its descriptor, which stays the caller's.
    @param path: of a file, or of a folder with all that is beneath it; empty for C{folder} itself.
        What is not there, or only by a link, is not mentioned.
    """
    if not path:
        yield from _walk(folder, "", 1)
        return
    try:
        parts = check_path(path)
        if any(map(is_own_name, parts)):
            return
        inside = open_folder_beneath(folder, parts[:-1])
        try:
            status = os.stat(parts[-1], dir_fd=inside, follow_symlinks=False)
            if not S_ISDIR(status.st_mode):
                yield _look_at(inside, parts[-1], path)
                return
            inner = open_folder_beneath(inside, parts[-1:])
        finally:
            os.close(inside)
        try:
            yield from _walk(inner, path + "/", len(parts) + 1)
        finally:
            os.close(inner)
    except (NotFound, UnsafeName, FileNotFoundError):
        return
    except ResourceFailure as error:
        yield Unread(path, str(error))
    except OSError as error:
        yield Unread(path, str(from_os_error(error, f"looking at '{escape(path)}'")))


def _walk(folder: int, prefix: str, depth: int) -> Iterator[Sight]:
    try:
        with os.scandir(folder) as entries:
            # With a slash after folders, names sort as the paths do that begin with them.
            here = sorted(
                (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                for entry in entries
            )
    except OSError as error:
        yield Unread(prefix[:-1], str(from_os_error(error, f"reading the folder '{prefix}'")))
        return
    for key, entry in here:
        name = entry.name
        path = prefix + name
        if is_own_name(name):
            continue
        try:
            check_name(name)
            if depth > MAX_DEPTH or 4 * len(path) > MAX_PATH:
                check_path(path)
            if len(prefix + key) > MAX_PATH:
                # It would not fit into a manifest, nor would the path of anything in it.
                raise UnsafeName(
                    f"'{escape(path, SHOWN)}' is refused as a path: with a slash at its end, it is"
                    f" longer than {MAX_PATH} bytes."
                )
            if key != name:
                inner = open_folder_beneath(folder, (name,))
                try:
                    status = os.fstat(inner)
                    yield FoundFolder(path + "/", S_IMODE(status.st_mode), Stamp.of(status).mtime)
                    yield from _walk(inner, path + "/", depth + 1)
                finally:
                    os.close(inner)
            else:
                yield _look_at(folder, name, path)
        except UnsafeName as error:
            yield LeftOut(escape(path), str(error))
        except NotFound:
            continue
        except ResourceFailure as error:
            yield Unread(path, str(error))


def _look_at(folder: int, name: str, path: str) -> Sight:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if S_ISLNK(status.st_mode):
            return LeftOut(path, "It is a link, and links are not followed.")
        if not S_ISREG(status.st_mode):
            return LeftOut(path, "It is not a regular file.")
        stamp = Stamp.of(status)
        readable = os.access(name, os.R_OK, dir_fd=folder, effective_ids=True)
    except FileNotFoundError as error:
        raise NotFound(f"'{path}' is gone.") from error
    except OSError as error:
        raise from_os_error(error, f"looking at '{path}'") from error
    if not readable:
        reason = "It may not be read; change its permissions to share it."
        return LeftOut(path, reason, is_file=True)
    if stamp.size > LARGEST:
        return LeftOut(path, f"It is larger than {LARGEST} bytes.", is_file=True)
    return Found(path, stamp, S_IMODE(status.st_mode))
