"""
Hashing: a file's tree and its MD5, read once and in order.

Holes of sparse files are not read: the digest of a block of zero bytes is known.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from flow512.content.tree import Tree, TreeBuilder, block_digest
from flow512.errors import Cancelled, ContentChanged, from_os_error
from flow512.units import BLOCK

Stop: TypeAlias = Callable[[], bool]
"""Says whether to give up; asked again and again, on the thread that works."""

_STEP: Final = 2 * BLOCK
"""
Bytes that are read at once (512 KiB): enough for a disk, little enough to stop soon, and to be in
the nearest cache still when they are hashed.
"""

_ZEROS: Final = memoryview(bytes(_STEP))
_HOLE_AT_ONCE: Final = 2**15
"""Blocks of a hole whose digests are added at once (1 MiB of digests)."""

_ZERO_BLOCK: Final = block_digest(_ZEROS[:BLOCK])


def never() -> bool:
    """
    Go on to the end: the L{Stop} of those who do not give up.
    """
    return False


def hash_file(
    fd: int, size: int, *, stop: Stop, md5: bool, what: str = "the file"
) -> tuple[Tree, bytes | None]:
    """
    Make a file's tree and, in the same pass, its MD5.

    @param fd: the file, open for reading; its offset is moved.
    @param size: its bytes.
    @param stop: asked before every step.
    @param md5: whether to make the MD5 as well, which takes several times as long as the tree,
        and cannot skip holes.
    @param what: what to call the file in sentences.
    @return: the tree; and the MD5, or L{None}.
    @raise Cancelled: C{stop} said so.
    @raise ContentChanged: its size is another, or its size or mtime changed meanwhile.
    @raise ResourceFailure: it could not be read.
    """
    builder = TreeBuilder()
    digest = hashlib.md5(usedforsecurity=False) if md5 else None
    _Pass(fd, size, stop, what).run(builder, digest)
    try:
        tree = builder.finish(size)
    except OSError as error:
        raise from_os_error(error, f"hashing {what}") from error
    return tree, None if digest is None else digest.digest()


def md5_of_file(fd: int, size: int, *, stop: Stop, what: str = "the file") -> bytes:
    """
    Make a file's MD5; parameters and errors are those of L{hash_file}.
    """
    digest = hashlib.md5(usedforsecurity=False)
    _Pass(fd, size, stop, what).run(None, digest)
    return digest.digest()


class _Extent(NamedTuple):
    """
    Whole blocks of a file, the last of which may be short in data, and never is in a hole.

    @ivar start: offset of its first byte.
    @ivar end: offset after its last byte.
    @ivar hole: whether it is known to be nothing but zero bytes.
    """

    start: int
    end: int
    hole: bool


class _Pass:
    """
    One pass through a file that must not change meanwhile.
    """

    def __init__(self, fd: int, size: int, stop: Stop, what: str) -> None:
        self._fd = fd
        self._size = size
        self._stop = stop
        self._what = what

    def run(self, builder: TreeBuilder | None, md5: hashlib._Hash | None) -> None:
        """
        Feed a builder and a digest, as far as they are given.
        """
        try:
            before = os.fstat(self._fd)
            for extent in self._extents():
                self._check_stop()
                if builder is not None and extent.hole:
                    self._add_hole(builder, (extent.end - extent.start) // BLOCK)
                if md5 is None and extent.hole:
                    continue
                for data in self._steps(extent):
                    if builder is not None and not extent.hole:
                        for at in range(0, len(data), BLOCK):
                            builder.add(block_digest(data[at : at + BLOCK]))
                    if md5 is not None:
                        md5.update(data)
            after = os.fstat(self._fd)
        except OSError as error:
            raise from_os_error(error, f"reading {self._what}") from error
        if not (before.st_size == after.st_size == self._size):
            raise self._changed()
        if before.st_mtime_ns != after.st_mtime_ns:
            raise self._changed()

    def _add_hole(self, builder: TreeBuilder, blocks: int) -> None:
        while blocks:
            self._check_stop()
            taken = min(blocks, _HOLE_AT_ONCE)
            builder.add_many(_ZERO_BLOCK * taken)
            blocks -= taken

    def _extents(self) -> Iterator[_Extent]:
        # A block that has any data in it, or is short, is read; so is all that comes after it up
        # to the next hole, so that files with many holes cost no more than one look-up a block.
        position = 0
        while position < self._size:
            data, end = self._next_data(position)
            start = min(data - data % BLOCK, self._size)
            if start > position:
                yield _Extent(position, start, True)
            position = min(end + -end % BLOCK, self._size)
            if position > start:
                yield _Extent(start, position, False)

    def _next_data(self, position: int) -> tuple[int, int]:
        try:
            data = os.lseek(self._fd, position, os.SEEK_DATA)
            return data, os.lseek(self._fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data comes after this
                return self._size, self._size
            return position, self._size  # the file system does not tell

    def _steps(self, extent: _Extent) -> Iterator[memoryview]:
        # Each step is good until the next one is asked for.
        length = min(_STEP, extent.end - extent.start)
        buffer = _ZEROS if extent.hole else memoryview(bytearray(length))
        for offset in range(extent.start, extent.end, _STEP):
            self._check_stop()
            data = buffer[: min(_STEP, extent.end - offset)]
            filled = len(data) if extent.hole else 0
            while filled < len(data):
                got = os.preadv(self._fd, [data[filled:]], offset + filled)
                if not got:
                    raise self._changed()
                filled += got
            yield data

    def _check_stop(self) -> None:
        if self._stop():
            raise Cancelled(f"Reading {self._what} was given up before its end.")

    def _changed(self) -> ContentChanged:
        return ContentChanged(f"{self._what} changed while it was being read.")
