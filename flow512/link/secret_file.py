"""
Small files that only their owner may read: read whole, and replaced whole.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from flow512.content.disk import blaming
from flow512.content.paths import escape
from flow512.errors import Misuse

MAX_SECRET: Final = 64 * 1024
"""Bytes of such a file that are read."""


def read_secret(path: str) -> bytes | None:
    """
    Read a file that nobody else can read.

    Links are followed, since whoever keeps secrets elsewhere puts links to them; what counts is
    who can read the file itself. A pipe will do as well.

    @return: its first L{MAX_SECRET} bytes; L{None} if there is no such file.
    @raise Misuse: others can read it; it was not read.
    @raise flow512.errors.ResourceFailure: it cannot be read.
    """
    shown = escape(path)
    with blaming(f"reading '{shown}'"):
        try:
            file = open(path, "rb")  # noqa: SIM115  # closed below; the name may be missing
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        with file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Misuse(
                    f"Others can read '{shown}', so what is in it may be a secret no more;"
                    f" make it yours with `chmod 600 '{shown}'`, or better, get a new key."
                )
            return file.read(MAX_SECRET)


def replace_secret(path: str, content: bytes) -> None:
    """
    Write a file that nobody else can read, in the place of the one that was there, if any.

    Whatever happens, either the old content is there or the new one, whole.

    @param path: in a folder that is there.
    @raise flow512.errors.ResourceFailure: it cannot be written.
    """
    with _written_beside(path, content) as temporary:
        os.replace(temporary, path)


def write_new_secret(path: str, content: bytes) -> bool:
    """
    Write a file that nobody else can read, unless there is one.

    @param path: in a folder that is there.
    @return: whether it was written; of several processes at once, one is told so.
    @raise flow512.errors.ResourceFailure: it cannot be written.
    """
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _written_beside(path: str, content: bytes) -> Iterator[str]:
    """Put the content on the disk beside its place, to be moved there; gone if it was not."""
    with blaming(f"writing '{escape(path)}'"):
        folder, name = os.path.split(os.path.abspath(path))
        fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # mode 0600
        try:
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(fd)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
