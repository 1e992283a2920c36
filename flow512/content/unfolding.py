"""
A folder that is being received: what a manifest says, done to a folder of this machine.

First each page of the manifest is L{taken<Unfolding.take>}: its folders are made, and its files
sorted into those that are here already, those that must not be touched, and those that are to be
fetched. What is fetched is L{put<Unfolding.put>} in its place whole, small files by this, large
ones by a download. L{Unfolding.finish} gives the folders their permissions and times at last, as
no more files come into them.

Nothing is ever written through a link: every step down is one into a real folder, by descriptor. A
file that is here and is another is kept, unless the user lets it be replaced; nothing is deleted. A
name that may not be, or that some systems cannot tell from one that is here, is left out, with the
reason, and everything else goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.manifest import MODES, Item
from flow512.content.paths import (
    SHOWN,
    check_new_name,
    check_path,
    escape,
    open_folder_beneath,
    twin_key,
)
from flow512.content.publish import OwnNames, current_umask, place
from flow512.errors import Flow512Error, TargetExists

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

MAX_REASONS: Final = 1000
"""Reasons that are kept for what is left out; a folder full of bad names must not fill memory."""


class Existing(Enum):
    """What becomes of a file that is here, and is another than the one that comes."""

    KEEP = "keep"
    REPLACE = "replace"


@dataclass
class Unfolded:
    """
    What has become of a manifest's items so far.

    @ivar files: that the manifest has.
    @ivar size: bytes of all of them.
    @ivar folders: that the manifest has.
    @ivar unchanged: files that were here already, by size and time.
    @ivar left_out: paths, escaped, with why each was left out; the first thousand.
    @ivar left_out_count: how many that is in all.
    """

    files: int = 0
    size: int = 0
    folders: int = 0
    unchanged: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    left_out_count: int = 0

    def leave_out(self, path: str, reason: str) -> None:
        """
        Note that something is not taken.
        """
        self.left_out_count += 1
        if len(self.left_out) < MAX_REASONS:
            self.left_out.append((escape(path, SHOWN), reason))


@dataclass
class _Folder:
    """
    One that the manifest is in at the moment.

    @ivar path: with a slash at its end; empty for the top.
    @ivar fd: its descriptor; -1 if it is left out with all that is in it.
    @ivar names: what is in it, by what other systems cannot tell apart.
    """

    path: str
    fd: int
    names: dict[str, str]


class Unfolding:
    """
    One folder. Every method blocks; one thread at a time.

    @ivar outcome: what has become of it so far.
    """

    def __init__(self, top: int, existing: Existing, disk: Disk = DISK) -> None:
        """
        @param top: a descriptor of the folder; it stays the caller's.
        @param existing: what becomes of files that are here and are others.
        """
        self._top = top
        self._existing = existing
        self._disk = disk
        self._umask = current_umask()
        self._within: list[_Folder] = []
        self._finishing: list[Item] = []
        self._last = ("", -1)  # the folder that was put into last
        self.outcome = Unfolded()

    def close(self) -> None:
        """
        Give back what is open. A second time does nothing.
        """
        for folder in self._within:
            if folder.fd >= 0:
                os.close(folder.fd)
        self._within = []
        self._close_last()

    # What the manifest says

    def take(self, items: Iterable[Item]) -> list[Item]:
        """
        Take a part of the manifest, the next one.

        @return: the files that are to be fetched.
        @raise ResourceFailure: a folder could not be made or read; the rest can be taken later, by
            a new L{Unfolding} of the same manifest.
        """
        if not self._within:
            self._within.append(self._entered("", open_folder_beneath(self._top, ())))
        wanted = []
        for item in items:
            self._leave_for(item.path)
            if item.is_folder:
                self.outcome.folders += 1
                self._enter(item)
            else:
                self.outcome.files += 1
                self.outcome.size += item.size
                if self._is_wanted(item):
                    wanted.append(item)
        return wanted

    def _leave_for(self, path: str) -> None:
        while not path.startswith(self._within[-1].path):
            folder = self._within.pop()
            if folder.fd >= 0:
                os.close(folder.fd)

    def _entered(self, path: str, fd: int) -> _Folder:
        try:
            with blaming(f"reading the folder '{escape(path, SHOWN) or '.'}'"):
                names = self._disk.listdir(fd)
        except BaseException:
            os.close(fd)
            raise
        return _Folder(path, fd, {twin_key(name): name for name in names})

    def _enter(self, item: Item) -> None:
        parent = self._within[-1]
        fd = -1
        if parent.fd >= 0:
            try:
                fd = self._make(parent, item.path)
            except Flow512Error as error:
                self.outcome.leave_out(item.path, str(error))
        if fd < 0:
            self._within.append(_Folder(item.path, -1, {}))
            return
        self._within.append(self._entered(item.path, fd))
        self._finishing.append(item)

    def _make(self, parent: _Folder, path: str) -> int:
        name = self._check(parent, path)
        with blaming(f"making the folder '{escape(path, SHOWN)}'"), suppress(FileExistsError):
            # Nobody but its owner, until all is in it.
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        return open_folder_beneath(parent.fd, (name,))

    def _check(self, parent: _Folder, path: str) -> str:
        """Give the last part of a path, if something may be made by it."""
        name = check_path(path.rstrip("/"))[-1]
        check_new_name(name)
        twin = parent.names.setdefault(twin_key(name), name)
        if twin != name:
            raise TargetExists(
                f"Some systems cannot tell it from '{escape(twin, SHOWN)}', which is there already."
            )
        return name

    def _is_wanted(self, item: Item) -> bool:
        parent = self._within[-1]
        if parent.fd < 0:
            return False
        try:
            name = self._check(parent, item.path)
            with blaming(f"looking at '{escape(item.path, SHOWN)}'"):
                here = self._disk.stat_in(parent.fd, name)
        except Flow512Error as error:
            self.outcome.leave_out(item.path, str(error))
            return False
        if here is None:
            return True
        if (
            stat.S_ISREG(here.st_mode)
            and here.st_size == item.size
            and here.st_mtime_ns == item.mtime
        ):
            self.outcome.unchanged += 1
            return False
        if stat.S_ISDIR(here.st_mode):
            self.outcome.leave_out(item.path, "A folder of that name is here.")
            return False
        if self._existing is Existing.KEEP:
            self.outcome.leave_out(
                item.path, "Another file of that name is here; --replace takes this one instead."
            )
            return False
        return True

    # What has been fetched

    def folder_of(self, item: Item) -> int:
        """
        Open the folder that a file is to be in.

        @return: its descriptor, for the caller to close.
        @raise ResourceFailure: it cannot be opened.
        @raise NotFound: it is gone.
        """
        return open_folder_beneath(self._top, tuple(item.path.split("/")[:-1]))

    def put(self, item: Item, data: bytes | bytearray | memoryview) -> None:
        """
        Put a file in its place that was fetched whole, and verified.

        @raise TargetExists: another file came there meanwhile.
        @raise ResourceFailure: it could not be written; nothing of it is left.
        """
        folder = self._put_folder(item.path.rpartition("/")[0])
        name = item.path.rpartition("/")[2]
        assert item.root is not None
        own = OwnNames.of(item.root, name)
        replace = self._existing is Existing.REPLACE
        with blaming(f"writing '{escape(item.path, SHOWN)}'"):
            self._disk.remove(folder, own.part)
            fd = self._disk.open(own.part, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                try:
                    self._disk.write_all(fd, [data], 0)
                    self._finish_file(fd, item)
                    if replace:
                        self._disk.rename(own.part, name, src_dir_fd=folder, dst_dir_fd=folder)
                    else:
                        self._give_name(folder, fd, own, name)
                finally:
                    self._disk.close(fd)
            except BaseException:
                with suppress(OSError):
                    self._disk.remove(folder, own.part)
                raise

    def _give_name(self, folder: int, fd: int, own: OwnNames, name: str) -> None:
        # As flow512.content.publish does it, but without its look at the whole folder, which was
        # read when the manifest was.
        try:
            self._disk.link(
                own.part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
            )
        except FileExistsError:
            raise TargetExists(f"'{escape(name, SHOWN)}' came to be there meanwhile.") from None
        except OSError:
            place(folder, fd, own, name, replace=False, disk=self._disk)
        self._disk.remove(folder, own.part)

    def finish_file(self, item: Item) -> None:
        """
        Give a file that a download has put in its place the permissions that it is to have.

        @raise ResourceFailure: they cannot be set.
        """
        folder = self._put_folder(item.path.rpartition("/")[0])
        with blaming(f"setting the permissions of '{escape(item.path, SHOWN)}'"):
            fd = self._disk.open(
                item.path.rpartition("/")[2], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder
            )
            try:
                self._finish_file(fd, item)
            finally:
                self._disk.close(fd)

    def _finish_file(self, fd: int, item: Item) -> None:
        self._disk.fchmod(fd, item.mode & MODES & ~self._umask)
        self._disk.utime(fd, ns=(item.mtime, item.mtime))

    def _put_folder(self, path: str) -> int:
        # Files come much in the order of their folders.
        last, fd = self._last
        if fd < 0 or path != last:
            self._close_last()
            fd = open_folder_beneath(self._top, tuple(path.split("/")) if path else ())
            self._last = (path, fd)
        return fd

    def _close_last(self) -> None:
        if self._last[1] >= 0:
            os.close(self._last[1])
        self._last = ("", -1)

    def finish(self) -> None:
        """
        Give the folders their permissions and times; nothing may be put into them after that.

        @raise ResourceFailure: one could not be given them.
        """
        self.close()
        # What is deepest first: a folder without the right to be searched hides what is in it.
        for item in reversed(self._finishing):
            with blaming(f"setting the permissions of '{escape(item.path, SHOWN)}'"):
                fd = open_folder_beneath(self._top, tuple(item.path[:-1].split("/")))
                try:
                    # Its owner can always go on with it.
                    self._disk.fchmod(fd, item.mode & MODES & ~self._umask | stat.S_IRWXU)
                    self._disk.utime(fd, ns=(item.mtime, item.mtime))
                finally:
                    self._disk.close(fd)
        self._finishing = []
