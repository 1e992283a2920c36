"""
Reading what the system has in memory: since that waits for no disk, on the reactor's own thread.

To hand a read to a worker, and its result back, costs more than to copy a megabyte. Linux can be
asked to read only what needs no waiting (C{RWF_NOWAIT}, preadv2(2)). Not every file system knows
that flag; but one that keeps files in memory, and nowhere else, has no need of it.

With the flag, too, Linux may begin to read ahead from a disk, and if that is busy, even to ask it
takes long. So it is seen whether a read has made any disk work.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from typing import Final

_NO_WAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)

_THREAD: Final[int] = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)

_REFUSED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What is said where the file system, or an older Linux, knows no such flag."""

_MOUNTS: Final = "/proc/self/mountinfo"
"""See proc_pid_mountinfo(5)."""

_IN_MEMORY: Final = (b"tmpfs", b"ramfs")


class Cached:
    """
    What can be read of an open file without waiting. One thread at a time may use it.

    @ivar is_missed: whether, at the last L{fill}, a disk had to work, or would have had to.
    """

    def __init__(self, fd: int) -> None:
        """
        @param fd: the file, open for reading.
        """
        self._fd = fd
        self.is_missed = False
        self._is_known = _NO_WAIT is None
        self._flags: int | None = None

    def look(self) -> None:
        """
        Find out how to read so. This may wait; until it was called, nothing is read.
        """
        if self._is_known or _NO_WAIT is None:
            return
        self._is_known = True
        try:
            os.preadv(self._fd, [bytearray(1)], 0, _NO_WAIT)
        except BlockingIOError:
            self._flags = _NO_WAIT
        except OSError as error:
            if error.errno in _REFUSED and is_in_memory(self._fd):
                self._flags = 0
        else:
            self._flags = _NO_WAIT

    def fill(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> bool:
        """
        Read from the file to where it is wanted, if all of it is in memory.

        @param offset: of the first byte.
        @param rooms: each is filled, one after the other; at most 16.
        @return: whether they are full. If not, nothing is known of what is in them, nor why: a read
            that may wait will tell.
        """
        self.is_missed = True
        if self._flags is None:
            return False
        before = _asked_of_disks()
        try:
            if os.preadv(self._fd, rooms, offset, self._flags) < sum(map(len, rooms)):
                return False
        except OSError:
            return False
        self.is_missed = _asked_of_disks() != before
        return True


def _asked_of_disks() -> int:
    # In units of 512 bytes; see getrusage(2).
    return resource.getrusage(_THREAD).ru_inblock


def is_in_memory(fd: int) -> bool:
    """
    Say whether an open file is in memory and nowhere else, as far as the system tells. May block.
    """
    try:
        device = os.fstat(fd).st_dev
        with open(_MOUNTS, "rb") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return False
    number = b"%d:%d" % (os.major(device), os.minor(device))
    for line in lines:
        mount, _, kind = line.partition(b" - ")
        if mount.split()[2] == number:
            return kind.split()[0] in _IN_MEMORY
    return False
