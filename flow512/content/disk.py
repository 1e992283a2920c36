"""
The system calls that a download makes, gathered where a test can let any of them fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Final

from flow512.errors import from_os_error

NAMELESS: Final = os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_TMPFILE", 0)
"""How a folder is opened as a file that has no name in it. Only Linux can; elsewhere, and where the
file system cannot, that fails."""

_PARTS: Final = 16
"""Parts that one call writes: what POSIX promises (IOV_MAX)."""


_WAIT_AND_WRITE: Final = 1 | 2
"""C{SYNC_FILE_RANGE_WAIT_BEFORE} and C{SYNC_FILE_RANGE_WRITE}, linux/fs.h."""

_NO_SUCH_CALL: Final = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP)
"""What is said where the system, a sandbox or the kind of file has no such call."""


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The system's call, which C{os} has not; L{None} where it has no such."""
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def checked(*arguments: int) -> int:
        return ctypes.get_errno() if call(*arguments) else 0

    return checked


class Disk:
    """
    The calls themselves, as C{os} and C{fcntl} have them.

    A test hands in a subclass that runs out of space, reports a read error, or dies between
    any two of them.
    """

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    flock = staticmethod(fcntl.flock)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    lseek = staticmethod(os.lseek)
    pread = staticmethod(os.pread)
    preadv = staticmethod(os.preadv)
    pwritev = staticmethod(os.pwritev)
    ftruncate = staticmethod(os.ftruncate)
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))  # macOS has none
    fsync = staticmethod(os.fsync)
    fchmod = staticmethod(os.fchmod)
    utime = staticmethod(os.utime)
    link = staticmethod(os.link)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)

    def listdir(self, folder_fd: int) -> list[str]:
        """
        Give the names in a folder.
        """
        # One opening has one place in the listing; other threads may be reading by this one.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def write_behind(self, fd: int) -> None:
        """
        Let the system begin to put on the disk what was written to a file, and wait for what it
        began with at the last call: so no more is left for L{fdatasync} than was written since
        the call before that. It makes no promise, as that does, and does nothing where the system
        has no such call.

        @raise OSError: something could not be put there. It is not said again.
        """
        call = _sync_file_range()
        failed = 0 if call is None else call(fd, 0, 0, _WAIT_AND_WRITE)
        if failed and failed not in _NO_SUCH_CALL:
            raise OSError(failed, os.strerror(failed))

    def write_all(
        self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int
    ) -> None:
        """
        Write all of it, however many calls that takes.

        @param parts: what to write, one after the other.
        @raise OSError: a call failed; what came before it is written.
        """
        if len(parts) == 1 and parts[0]:
            # What a small file takes: it has to be cheap.
            written = self.pwritev(fd, parts, offset)
            if written == len(parts[0]):
                return
            parts, offset = [memoryview(parts[0])[written:]], offset + written
        rest = deque(memoryview(part) for part in parts if part)
        while rest:
            written = self.pwritev(fd, list(islice(rest, _PARTS)), offset)
            if not written:
                # No disk should say so; asking for ever would be worse than to say what it is.
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += written
            while rest and written >= len(rest[0]):
                written -= len(rest.popleft())
            if written:
                rest[0] = rest[0][written:]

    def stat_in(self, folder_fd: int, name: str) -> os.stat_result | None:
        """
        Look at what has a name in a folder, be it a link, without following it.

        @return: L{None} if nothing has.
        """
        try:
            return self.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def remove(self, folder_fd: int, name: str) -> None:
        """
        See to it that a folder has no file of that name.
        """
        try:
            self.unlink(name, dir_fd=folder_fd)
        except FileNotFoundError:
            pass


DISK: Final = Disk()
"""The real one."""


@contextmanager
def blaming(doing: str) -> Iterator[None]:
    """
    Turn an L{OSError} of what is run inside into the error that names its true cause.

    @param doing: as for L{from_os_error}.
    """
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing) from error
