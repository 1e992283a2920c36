"""
What a file system makes of a file's time.

Not every file system keeps all of it: ext4 with small inodes has whole seconds and the years from
1901 to 2038, FAT every other second and the years from 1980, NTFS and SMB every 100 ns. So a file
that was given a time may have another one afterwards, and is still the file that was put there.

What is made of a time is found out by giving it to a file that is there for nothing else. To guess
it from the times that are seen would be less: a file of an even second does not say whether its
file system has odd ones, nor one of 2038 which years it has. And to allow for a fixed difference
would take files for unchanged, on most file systems, that were edited soon after they came. This
way the only edits that pass for none are those of which the file system keeps no trace.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import Final

from flow512.content.disk import NAMELESS, Disk
from flow512.content.paths import OWN_PREFIX, open_folder_beneath
from flow512.errors import Flow512Error

_NAME: Final = f"{OWN_PREFIX}time"
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class KeptTimes:
    """
    Finds it out. All methods block; one thread at a time.
    """

    def __init__(self, disk: Disk) -> None:
        """
        @param disk: does it.
        """
        self._disk = disk
        self._device: int | None = None
        self._fd = -1
        self._tried = ExitStack()

    def close(self) -> None:
        """
        Take away what times were tried on. A second time does nothing.
        """
        self._device = None
        with suppress(OSError):
            self._tried.close()

    def tidy(self, folder: int, names: Collection[str]) -> None:
        """
        Take away what a process left in a folder that died. What cannot be taken away stays.

        @param names: what is in it.
        """
        if _NAME in names:
            with suppress(OSError):
                self._disk.remove(folder, _NAME)

    def made_of(self, mtime: int, folder: int, device: int) -> int | None:
        """
        Say what a file would have that is given a time.

        @param mtime: the time, in nanoseconds since 1970 (UTC).
        @param folder: the one that the file is in; its descriptor stays the caller's.
        @param device: that the folder is on.
        @return: L{None} if it cannot be found out: nothing can be made there.
        """
        try:
            if device != self._device:
                self._begin(folder)
                self._device = device
            self._disk.utime(self._fd, ns=(mtime, mtime))
            return self._disk.fstat(self._fd).st_mtime_ns
        except (OSError, Flow512Error):
            return None

    def _begin(self, folder: int) -> None:
        self.close()
        disk = self._disk
        with ExitStack() as undo:
            try:
                self._fd = disk.open(".", NAMELESS, 0o600, dir_fd=folder)
            except OSError:
                within = open_folder_beneath(folder, ())
                undo.callback(os.close, within)
                self._fd = disk.open(_NAME, _NEW_FILE, 0o600, dir_fd=within)
                # Not now: there are network drives where a file without a name has no time.
                undo.callback(disk.remove, within, _NAME)
            undo.callback(disk.close, self._fd)
            self._tried = undo.pop_all()
