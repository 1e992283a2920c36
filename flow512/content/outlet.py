"""
Content that is written to a stream, in order, as it is verified: what a partial file is to a
download that is kept, to one that is only passed on.

Blocks may come in another order than they go; those that are too early wait in memory. A download
that goes in order does not run ahead further than L{Outlet.horizon}, so no more than L{MAX_EARLY}
blocks wait. The stream is written to by a worker, which waits while nobody reads: so whoever reads
slowly is sent no more than that.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import termios
from collections.abc import Iterable, Iterator
from struct import Struct
from threading import Event
from typing import Final

from flow512.content.tree import Shape
from flow512.errors import Cancelled, Misuse, ReaderGone, from_os_error
from flow512.units import BLOCK

MAX_EARLY: Final = 128
"""Blocks that may wait for one before them (32 MiB)."""

_GET_PIPE_SIZE: Final[int | None] = getattr(fcntl, "F_GETPIPE_SZ", None)  # Linux has it

_INT: Final = Struct("i")

_LOOK_EVERY: Final = 0.1
"""Seconds between two looks whether to give up, while nobody reads."""


class Outlet:
    """
    A range of a content on its way to a descriptor. One worker at a time.

    @ivar root: the content id.
    @ivar size: the content's bytes.
    @ivar blocks: its blocks.
    @ivar written: bytes that the stream has taken.
    """

    unproven: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        fd: int,
        root: bytes,
        size: int,
        offset: int,
        length: int | None,
        *,
        name: str = "the stream",
    ) -> None:
        """
        @param fd: where the bytes go; it stays the caller's.
        @param offset: of the first byte that is wanted.
        @param length: how many are wanted; L{None} for all from there on.
        @param name: what sentences are to call it.
        @raise Misuse: the content has no such range.
        """
        end = size if length is None else offset + length
        if not 0 <= offset <= end <= size:
            raise Misuse(
                f"The file has {size} bytes; choose an --offset and --length that are inside it."
            )
        self.root = root
        self.size = size
        self.blocks = Shape(size).blocks
        self.written = 0
        self._fd = fd
        self._name = name
        # How much it holds; 0 if it is none.
        self._pipe = 0
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            self._pipe = fcntl.fcntl(fd, _GET_PIPE_SIZE) if _GET_PIPE_SIZE else select.PIPE_BUF
        self._offset = offset
        self._end = end
        self._next = offset // BLOCK
        self._last = -(-end // BLOCK)
        self._early: dict[int, bytes] = {}
        self._stop = Event()
        if offset == end:
            self._next = self._last

    @property
    def stored(self) -> int:
        """Bytes that need not be fetched, those that are not wanted among them."""
        wanted = max(0, min(self._last * BLOCK, self.size) - self._next * BLOCK)
        return self.size - wanted + sum(map(len, self._early.values()))

    @property
    def horizon(self) -> int:
        """The first block that is not to be asked for yet."""
        return self._next + MAX_EARLY

    def missing_runs(self) -> Iterator[tuple[int, int]]:
        """
        Give the blocks that are wanted: first block and count of each run.
        """
        if self._next < self._last:
            yield self._next, self._last - self._next

    def write(self, first: int, *blocks: bytes | bytearray | memoryview) -> None:
        """
        Take verified blocks, and write what is next.

        @raise Cancelled: L{stop} was called.
        @raise ReaderGone: whoever read has gone.
        @raise ResourceFailure: the stream does not take it any more.
        """
        for block, data in enumerate(blocks, first):
            if self._next <= block < self._last and block not in self._early:
                if block == self._next:
                    self._write(block, memoryview(data))
                    self._next += 1
                else:
                    self._early[block] = bytes(data)
            while (early := self._early.pop(self._next, None)) is not None:
                self._write(self._next, memoryview(early))
                self._next += 1

    def flush(self) -> None:
        """
        Nothing is kept for another time.
        """

    def read(self, offset: int, length: int) -> bytearray:
        """
        Nothing can be read again.

        @raise Misuse: always.
        """
        raise Misuse("What was passed on is not kept.")

    def vouch(self, blocks: Iterable[int]) -> None:
        """
        Nothing was there before.

        @raise Misuse: always.
        """
        raise Misuse("What is passed on was not there before.")

    def stop(self) -> None:
        """
        Give up waiting for whoever reads. Any thread may call it.
        """
        self._stop.set()

    def _write(self, block: int, data: memoryview) -> None:
        begin = block * BLOCK
        rest = data[max(0, self._offset - begin) : self._end - begin]
        try:
            while rest:
                while not select.select((), (self._fd,), (), _LOOK_EVERY)[1]:
                    if self._stop.is_set():
                        raise Cancelled("Nobody waits for the rest.")
                count = os.write(self._fd, rest[: self._room()])
                self.written += count
                rest = rest[count:]
        except BrokenPipeError:
            raise ReaderGone("Nobody reads the rest.") from None
        except OSError as error:
            raise from_os_error(error, f"writing to {self._name}") from error

    def _room(self) -> int:
        """Say how much the descriptor, which can be written to, takes without a wait."""
        if not self._pipe:
            return BLOCK
        (waiting,) = _INT.unpack(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(_INT.size)))
        # One that has room has some for a page; an empty one has all of it.
        return select.PIPE_BUF if waiting else self._pipe
