"""
Files that are larger than the memory that there is for them.

What is served is sparse: each block has one page of random bytes, and nothing else in tmpfs. So
no block is a hole, which a node need not hash and need not write, and none is like another. What
arrives is whole; its space is given back, by punching holes, while the download is under way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import Failed

BLOCK: Final = 2**18
PAGE: Final = 2**12

SPARSE: Final = 2 * PAGE / BLOCK
"""The share of a file's size that it takes in tmpfs, at most."""

EVERY: Final = 0.1
"""Seconds between two looks at what has arrived."""

_KEEP_SIZE: Final = 1  # linux/falloc.h
_PUNCH_HOLE: Final = 2


def make_sparse_file(path: Path, size: int) -> None:
    """Make a file of a page of random bytes in each block, the rest of which is a hole."""
    with path.open("wb", buffering=0) as out:
        out.truncate(size)
        for offset in range(0, size, BLOCK):
            os.pwrite(out.fileno(), os.urandom(min(PAGE, size - offset)), offset)


@contextlib.contextmanager
def discarding(folder: Path) -> Iterator[None]:
    """
    While the context lasts, punch holes into the partial files in a folder, again and again.

    A download reads nothing again of what it has verified and written, unless it is to make
    the MD5; so it does not notice.
    """
    ended = threading.Event()

    def discard() -> None:
        while not ended.wait(EVERY):
            for path in folder.glob("*.part"):
                # It may be renamed meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    _punch(path)

    thread = threading.Thread(target=discard)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _punch(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size and libc.fallocate(
            file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(size)
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def check_arrived(path: Path, size: int) -> None:
    """
    Make sure that a whole file is there, and remove it.

    @raise Failed: it is not.
    """
    if path.stat().st_size != size:
        raise Failed(f"{path.name} has not arrived whole.")
    path.unlink()
