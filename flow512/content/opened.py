"""
A file that is being served: its bytes, for as long as it is what was hashed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar, Protocol

from flow512.content.cached import Cached
from flow512.content.catalog import Stamp
from flow512.content.paths import escape
from flow512.errors import ContentChanged, Misuse, from_os_error


class OpenContent:
    """
    A file that is being served. One thread at a time may use it.

    @cvar is_over: whether its root has to be opened anew for whoever asks for it now.
    @ivar fd: its descriptor.
    @ivar size: its bytes.
    @ivar root: its content id.
    @ivar disk: the number of the disk that it is on.
    @ivar cached: what can be read of it without waiting, for L{read_cached}.
    """

    is_over: ClassVar[bool] = False

    def __init__(
        self,
        fd: int,
        root: bytes,
        stamp: Stamp,
        what: str,
        check_access: Callable[[], None],
    ) -> None:
        """
        @param fd: the file, open for reading; it belongs to this object from now on.
        @param stamp: the file's, when it was hashed.
        @param what: what to call it in sentences.
        @param check_access: raises L{NotFound} once it is not for whom it was opened any more.
        """
        self.fd = fd
        self.root = root
        self.size = stamp.size
        self.disk = disk_of(fd)
        self._stamp = stamp
        self._what = what
        self._check_access = check_access
        self.cached = Cached(fd)

    def check_access(self) -> None:
        """
        Make sure that it is still for whom it was opened. That is looked up: ask before each visit
        to the disk, and not for every block.

        @raise NotFound: it is not any more.
        """
        self._check_access()

    def read_into(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
        """
        Read some of the content to where it is wanted.

        @param offset: of the first byte.
        @param rooms: each is filled, one after the other; at most 16.
        @raise ContentChanged: the file is no longer what it was when it was hashed.
        @raise Misuse: not all of these bytes are inside the file.
        @raise ResourceFailure: it could not be read.
        """
        length = sum(map(len, rooms))
        if offset < 0 or offset + length > self.size:
            raise Misuse(f"{self._what} has no {length} bytes from {offset} on.")
        fill(self.fd, offset, rooms, self._what)
        # Once the bytes are here: what was written before has left its mark on the stamp.
        check_unchanged(self.fd, self._stamp, self._what)

    def read_cached(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> bool:
        """
        Read as L{read_into}, if that need not wait for anything; also on the reactor's thread.

        @return: whether it could be read. If not, nothing in C{rooms} counts, and L{read_into}
            tells why.
        """
        return self.cached.fill(offset, rooms) and is_unchanged(self.fd, self._stamp)

    def close(self) -> None:
        """
        Give the descriptor back; a second time does nothing.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Closable(Protocol):
    """A file that was opened to be read."""

    def close(self) -> None:
        """Give its descriptor back."""


def close_all(files: Iterable[Closable]) -> None:
    """
    Close files that were only read. This may take long: who is the last to close a file that was
    removed waits until the disk has freed its space.
    """
    for file in files:
        with suppress(OSError):  # what was read is right all the same
            file.close()


def fill(fd: int, offset: int, rooms: Sequence[bytearray | memoryview], what: str) -> None:
    """
    Read from a file that is open to where it is wanted.

    @param offset: of the first byte.
    @param rooms: each is filled, one after the other; at most 16.
    @param what: what to call the file in sentences.
    @raise ContentChanged: the file ends before they are full.
    @raise ResourceFailure: it could not be read.
    """
    try:
        filled = os.preadv(fd, rooms, offset)
        for room in rooms:
            # Systems give all at once, but need not.
            rest = memoryview(room)[min(filled, len(room)) :]
            filled = max(0, filled - len(room))
            while rest:
                count = os.preadv(fd, [rest], offset + len(room) - len(rest))
                if not count:
                    raise changed(what)
                rest = rest[count:]
            offset += len(room)
    except OSError as error:
        raise from_os_error(error, f"reading {what}") from error


def disk_of(fd: int) -> int:
    """
    Say on which disk a file is that is open.

    @return: its number; 0 if the system does not tell.
    """
    try:
        return os.fstat(fd).st_dev
    except OSError:
        return 0


def stamp_of(fd: int, what: str) -> Stamp:
    """
    Take the stamp of a file that is open.

    @param what: what to call it in sentences.
    @raise ResourceFailure: the system does not tell.
    """
    try:
        return Stamp.of(os.fstat(fd))
    except OSError as error:
        raise from_os_error(error, f"looking at {what}") from error


def check_unchanged(fd: int, stamp: Stamp, what: str) -> None:
    """
    Make sure that a file that is open is what it was.

    @param stamp: the file's, from before.
    @param what: what to call it in sentences.
    @raise ContentChanged: it is not.
    @raise ResourceFailure: the system does not tell.
    """
    if stamp_of(fd, what) != stamp:
        raise changed(what)


def is_unchanged(fd: int, stamp: Stamp) -> bool:
    """
    Say whether the system tells that a file that is open is what it was.

    @param stamp: the file's, from before.
    """
    try:
        return Stamp.of(os.fstat(fd)) == stamp
    except OSError:
        return False


def name_of(path: str) -> str:
    """
    Say what to call a file in sentences.

    @param path: inside its share.
    """
    return f"'{escape(path)}'"


def changed(what: str) -> ContentChanged:
    """
    Make the error that says so.
    """
    return ContentChanged(f"{what} has changed since it was hashed; ask for it anew.")
