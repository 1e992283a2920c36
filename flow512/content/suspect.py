"""
A local file that ought to be some content: what of it is, and its replacement.

The file itself is never written to. Its replacement is made in the partial file that a download
of the same content under the same name would have: first come the blocks that were damaged, then
copies of all others, which are verified where they have come to lie. Only when every block is
there, verified and on the disk, does it take the file's place, by one rename, with the file's mode
and owner. Whatever goes wrong before that leaves the file as it was, and what was mended for the
next time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final

import msgspec

from flow512.content.catalog import Stamp
from flow512.content.disk import Disk, blaming
from flow512.content.hashing import hash_file, never
from flow512.content.journal import BlockSet, read_boot_id
from flow512.content.mending import piece_md5s
from flow512.content.partial import Partial
from flow512.content.paths import OWN_PREFIX, SHOWN, escape, is_own_name, open_folder
from flow512.content.publish import OwnNames, check_target, place
from flow512.content.tree import Shape, block_digest
from flow512.errors import DiskFailure, Misuse, NotFound, StateInUse, UnsafeName, from_os_error
from flow512.units import BLOCK

RECORD_EVERY: Final = 16
"""Mended blocks that may be stored and not yet in the journal (4 MiB)."""

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_CANNOT_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
)
"""How the system says that it does not copy from this file to that one by itself."""


def _no_copy_range(source: int, target: int, count: int, start: int, to: int) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class CopyingDisk(Disk):
    """
    The calls of a download, and those that a repair makes besides.
    """

    copy_range: Callable[[int, int, int, int, int], int] = staticmethod(
        getattr(os, "copy_file_range", _no_copy_range)  # macOS has none
    )


COPYING_DISK: Final = CopyingDisk()
"""The real one."""


class Damage(msgspec.Struct, frozen=True):
    """
    What is wrong with a file.

    @ivar size: bytes that it should have.
    @ivar size_here: bytes that it has.
    @ivar runs: first block and count of each run of blocks that are damaged or missing, in order.
    """

    size: int
    size_here: int
    runs: tuple[tuple[int, int], ...]

    @property
    def is_none(self) -> bool:
        """Whether the file is what it should be."""
        return not self.runs and self.size == self.size_here

    @property
    def blocks(self) -> int:
        """How many blocks are damaged or missing."""
        return sum(count for _, count in self.runs)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Where their first bytes and their last bytes are."""
        return [
            (first * BLOCK, min((first + count) * BLOCK, self.size) - 1)
            for first, count in self.runs
        ]


def damage_of(size: int, size_here: int, damaged: BlockSet) -> Damage:
    """
    Say what is wrong with a file.

    @param damaged: its blocks that are damaged or missing.
    """
    return Damage(size, size_here, tuple(damaged.runs()))


class SuspectFile:
    """
    A local file that ought to be some content. Its methods block.

    Several threads may use it at once, but for what opens, L{replace}s and L{close}s.

    @ivar path: where it is, as the user named it.
    @ivar size: its bytes, once it is open.
    @ivar stamp: what the system says of it, once it is open.
    """

    def __init__(self, path: str, disk: CopyingDisk = COPYING_DISK) -> None:
        """
        @param path: where it is; links are followed, since the user's are.
        """
        self.path = path
        self.size = 0
        self._shown = escape(path, SHOWN)
        self._disk = disk
        self._folder = self._fd = -1
        self._name = ""
        self.stamp = Stamp(0, 0, 0)
        self._partial: Partial | None = None
        self._unrecorded = 0

    def open(self) -> None:
        """
        Open it.

        @raise NotFound: there is no such file.
        @raise Misuse: it is no regular file.
        @raise flow512.errors.ResourceFailure: it cannot be opened.
        """
        try:
            folder, self._name = os.path.split(os.path.realpath(self.path))
            self._folder = open_folder(folder)
            self._fd = os.open(self._name, _FLAGS, dir_fd=self._folder)
            status = os.fstat(self._fd)
        except (FileNotFoundError, NotADirectoryError, Misuse, ValueError):
            raise NotFound(f"There is no file '{self._shown}'; check the spelling.") from None
        except OSError as error:
            raise from_os_error(error, f"opening '{self._shown}'") from error
        if not stat.S_ISREG(status.st_mode):
            raise Misuse(f"'{self._shown}' is not a regular file, so nobody has its content.")
        self.stamp = Stamp.of(status)
        self.size = status.st_size

    def close(self) -> None:
        """
        Close it, and leave what there is of its replacement for later; a second time, or if it is
        not open, nothing happens.
        """
        if self._partial is not None:
            self._partial.close()
            self._partial = None
        for fd in (self._fd, self._folder):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._fd = self._folder = -1

    # What is here

    def _read(self, offset: int, room: memoryview) -> int:
        """
        Read what is here of some bytes.

        @return: how many there are. None, where the disk cannot read them: then they are as good
            as lost, and to be fetched.
        """
        filled = 0
        try:
            while filled < len(room):
                count = self._disk.preadv(self._fd, [room[filled:]], offset + filled)
                if not count:
                    break
                filled += count
        except OSError as error:
            if error.errno != errno.EIO:
                raise from_os_error(error, f"reading '{self._shown}'") from error
            return 0
        return filled

    def _is_right(self, offset: int, room: memoryview, digest: bytes) -> bool:
        return self._read(offset, room) == len(room) and block_digest(room) == digest

    def damaged(self, shape: Shape, first: int, digests: Sequence[bytes]) -> list[int]:
        """
        Look at some blocks.

        @param shape: that of the content.
        @param first: the first block's number.
        @param digests: what each ought to have, one block after the other.
        @return: the numbers of those that have not.
        @raise flow512.errors.ResourceFailure: it cannot be read, for no fault of the disk's.
        """
        room = memoryview(bytearray(min(BLOCK, shape.size)))
        return [
            block
            for block, digest in enumerate(digests, first)
            if not self._is_right(block * BLOCK, room[: shape.block_length(block)], digest)
        ]

    def root(self) -> bytes:
        """
        Make its content id.

        @raise flow512.errors.ContentChanged: it is being written.
        @raise flow512.errors.ResourceFailure: it cannot be read.
        """
        tree, _ = hash_file(self._fd, self.size, stop=never, md5=False, what=f"'{self._shown}'")
        return tree.root

    def read_block(self, block: int, room: bytearray) -> bytes:
        """
        Read what is here of a block.

        @param room: where it is put; it is of the block's length.
        @return: the MD5s of its pieces, as far as they are here.
        @raise flow512.errors.ResourceFailure: as L{damaged}.
        """
        view = memoryview(room)
        return piece_md5s(view[: self._read(block * BLOCK, view)])

    # Its replacement

    def begin(self, root: bytes, size: int) -> BlockSet:
        """
        Begin its replacement, or go on with what was left of that.

        @param root: the content id that it ought to have.
        @param size: the bytes that it ought to have.
        @return: the blocks that are in place there.
        @raise UnsafeName: it is one of flow512's own files.
        @raise StateInUse: it is being repaired, or downloaded, already.
        @raise flow512.errors.ResourceFailure: the disk does not play along.
        """
        check_target(
            self._folder, self._name, root, replace=True, disk=self._disk, check_name=_check_name
        )
        self._partial = Partial.open(
            self._folder,
            self._name,
            root,
            size,
            read_boot_id(),
            disk=self._disk,
            check_name=_check_name,
        )
        return self._partial.have

    @property
    def _replacement(self) -> Partial:
        assert self._partial is not None, "begin comes first"
        return self._partial

    def put(self, block: int, data: bytearray, digest: bytes) -> bool:
        """
        Put a block into the replacement, if it is right.

        @param data: its bytes, whoever they are from.
        @param digest: what they have to have.
        @return: whether they have.
        @raise flow512.errors.ResourceFailure: it could not be written.
        """
        if block_digest(data) != digest:
            return False
        self._replacement.write(block, data)
        self._unrecorded += 1
        if self._unrecorded >= RECORD_EVERY:
            self._unrecorded = 0
            self._replacement.flush()
        return True

    def copy(self, shape: Shape, first: int, digests: Sequence[bytes]) -> None:
        """
        Copy those of some blocks that the replacement lacks, and verify all of them there.

        @param shape: that of the content.
        @param first: the first block's number.
        @param digests: what each has to have, one block after the other.
        @raise StateInUse: the file is not what it was any more.
        @raise DiskFailure: the disk has not kept what was mended; begin anew.
        @raise flow512.errors.ResourceFailure: the disk is full, or fails.
        """
        partial = self._replacement
        blocks = range(first, first + len(digests))
        lacking = [block for block in blocks if block not in partial.have]
        for _, run in groupby(enumerate(lacking), lambda each: each[1] - each[0]):
            together = [block for _, block in run]
            end = together[-1] * BLOCK + shape.block_length(together[-1])
            self._copy_bytes(together[0] * BLOCK, end)
        right = []
        for block, digest in zip(blocks, digests, strict=True):
            length = shape.block_length(block)
            if block_digest(partial.read(block * BLOCK, length)) == digest:
                right.append(block)
                continue
            if block in partial.have:
                partial.distrust()
                raise DiskFailure(
                    f"What was mended of '{self._shown}' has been damaged on this disk since; run"
                    " the same command again to fetch it anew."
                )
            # The system did not copy, or something else was there where the file has a hole.
            room = bytearray(length)
            if not self._is_right(block * BLOCK, memoryview(room), digest):
                raise self._changed()
            partial.write(block, room)
        partial.vouch(right)

    def _copy_bytes(self, offset: int, end: int) -> None:
        """Let the system copy, or share, what data there is, if it can; the caller looks."""
        try:
            while offset < end:
                begin = self._disk.lseek(self._fd, offset, os.SEEK_DATA)
                stop = min(self._disk.lseek(self._fd, begin, os.SEEK_HOLE), end)
                while begin < stop:
                    copied = self._disk.copy_range(
                        self._fd, self._replacement.fileno(), stop - begin, begin, begin
                    )
                    if not copied:
                        return
                    begin += copied
                offset = max(begin, stop)
        except OSError as error:
            if error.errno != errno.ENXIO and error.errno not in _CANNOT_COPY:
                raise from_os_error(error, f"copying '{self._shown}'") from error

    def replace(self, mtime: int) -> None:
        """
        Let the replacement take the file's place, with its mode and owner. The file is closed.

        @param mtime: when it was last changed where its content comes from, in nanoseconds.
        @raise Misuse: blocks are missing.
        @raise StateInUse: the file is not what it was any more; it stays, as does what was mended.
        @raise flow512.errors.ResourceFailure: the file stays, unless the sentence says otherwise.
        """
        partial, disk = self._replacement, self._disk
        if next(partial.missing_runs(), None) is not None:
            raise Misuse(f"The replacement of '{self._shown}' is not complete.")
        partial.seal()
        with blaming(f"replacing '{self._shown}'"):
            before = os.fstat(self._fd)
            named = disk.stat_in(self._folder, self._name)
            if named is None or not os.path.samestat(named, before):
                raise self._changed()
            if Stamp.of(before) != self.stamp:
                raise self._changed()
            fd = partial.fileno()
            mode = stat.S_IMODE(before.st_mode)
            # Not everybody may give files away, and not every file system can keep the others. The
            # owner comes first: a change of it takes some mode bits away.
            try:
                os.fchown(fd, before.st_uid, before.st_gid)
            except PermissionError:
                mode &= 0o777  # what lets others act as the owner was meant for another owner
            with suppress(PermissionError):
                disk.fchmod(fd, mode)
            with suppress(PermissionError):
                disk.utime(fd, ns=(mtime, mtime))
            own = OwnNames.of(partial.root, self._name)
            place(self._folder, fd, own, self._name, replace=True, disk=disk)
        self.close()

    def _changed(self) -> StateInUse:
        return StateInUse(
            f"'{self._shown}' was changed while it was being repaired, and is left as it is now;"
            " repair it when nobody writes to it."
        )


def _check_name(name: str) -> None:
    # What no new file may be called may be here already, and stays as it is called.
    if is_own_name(name):
        raise UnsafeName(
            f"'{escape(name, SHOWN)}' is not repaired: flow512 keeps names that begin with"
            f" {OWN_PREFIX} for itself."
        )
