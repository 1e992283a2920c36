"""
Putting the files of a folder that is being received in their places, when they have come.

A folder may have thousands of files, so what is done for each is kept to the fewest system calls.
A new file has no name at all until it is whole (C{O_TMPFILE}), where the file system can do that;
elsewhere, and where it may replace another, it is made under a hidden name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from typing import Final

from flow512.content.disk import DISK, NAMELESS, Disk, blaming
from flow512.content.manifest import MODES, Item
from flow512.content.paths import SHOWN, escape, open_folder_beneath
from flow512.content.publish import OwnNames, current_umask, place
from flow512.errors import TargetExists, from_os_error

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Existing(Enum):
    """What becomes of a file that is here, and is another than the one that comes."""

    KEEP = "keep"
    REPLACE = "replace"


class Placing:
    """
    Puts files in their places. Use it from one thread at a time.
    """

    def __init__(self, top: int, existing: Existing, disk: Disk = DISK) -> None:
        """
        @param top: a descriptor of the folder that is received; it stays the caller's.
        @param existing: what becomes of files that are there and are others.
        """
        self._top = top
        self._existing = existing
        self._disk = disk
        self._last = ("", -1)  # the folder that was put into last
        self._can_be_nameless = existing is Existing.KEEP

    def close(self) -> None:
        """
        Give back what is open; it can go on after that.
        """
        if self._last[1] >= 0:
            os.close(self._last[1])
        self._last = ("", -1)

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
        above, _, name = item.path.rpartition("/")
        folder = self._put_folder(above)
        try:
            if not (self._can_be_nameless and self._put_nameless(folder, name, item, data)):
                self._put_hidden(folder, name, item, data)
        except OSError as error:
            raise from_os_error(error, f"writing '{escape(item.path, SHOWN)}'") from error

    def _put_nameless(
        self, folder: int, name: str, item: Item, data: bytes | bytearray | memoryview
    ) -> bool:
        """Say whether it could be done; if not, nothing was."""
        disk = self._disk
        try:
            # The system takes from the mode what the user does not want.
            fd = disk.open(".", NAMELESS, item.mode & MODES, dir_fd=folder)
        except OSError:
            # The file system cannot do it; or it is something worse, which will be met again.
            self._can_be_nameless = False
            return False
        try:
            disk.write_all(fd, (data,), 0)
            disk.utime(fd, ns=(item.mtime, item.mtime))
            try:
                # The link is one to the file itself, and no other can come there.
                disk.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder)
            except FileExistsError:
                raise _came_meanwhile(name) from None
            except OSError:
                # There is no /proc here, or no hard links.
                self._can_be_nameless = False
                return False
        finally:
            disk.close(fd)
        return True

    def _put_hidden(
        self, folder: int, name: str, item: Item, data: bytes | bytearray | memoryview
    ) -> None:
        assert item.root is not None
        disk = self._disk
        own = OwnNames.of(item.root, name)
        try:
            fd = disk.open(own.part, _NEW_FILE, item.mode & MODES, dir_fd=folder)
        except FileExistsError:
            # An earlier process died when it had just made it.
            disk.remove(folder, own.part)
            fd = disk.open(own.part, _NEW_FILE, item.mode & MODES, dir_fd=folder)
        try:
            try:
                disk.write_all(fd, (data,), 0)
                disk.utime(fd, ns=(item.mtime, item.mtime))
                if self._existing is Existing.REPLACE:
                    self._replace(folder, own, name)
                else:
                    self._give_name(folder, fd, own, name)
            finally:
                disk.close(fd)
        except BaseException:
            with suppress(OSError):
                disk.remove(folder, own.part)
            raise

    def _replace(self, folder: int, own: OwnNames, name: str) -> None:
        try:
            self._disk.rename(own.part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            raise _came_meanwhile(name) from None

    def _give_name(self, folder: int, fd: int, own: OwnNames, name: str) -> None:
        # As flow512.content.publish does it, but without its look at the whole folder, which was
        # read when the manifest was.
        try:
            self._disk.link(
                own.part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
            )
        except FileExistsError:
            raise _came_meanwhile(name) from None
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
                self._disk.fchmod(fd, item.mode & MODES & ~current_umask())
                self._disk.utime(fd, ns=(item.mtime, item.mtime))
            finally:
                self._disk.close(fd)

    def _put_folder(self, path: str) -> int:
        # Files come much in the order of their folders.
        last, fd = self._last
        if fd < 0 or path != last:
            self.close()
            fd = open_folder_beneath(self._top, tuple(path.split("/")) if path else ())
            self._last = (path, fd)
        return fd


def _came_meanwhile(name: str) -> TargetExists:
    return TargetExists(f"'{escape(name, SHOWN)}' came to be there meanwhile.")
