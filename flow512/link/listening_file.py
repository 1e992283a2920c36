"""
Where a running node listens, for commands of the same user: the file C{listening} in the state
folder, one line C{HOST PORT}.

The node keeps the file locked for as long as it runs. A file that nobody holds is what a node left
that was killed, and counts for nothing.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

import msgspec

from flow512.content.disk import blaming
from flow512.content.paths import escape

_LISTENING_FILE: Final = "listening"
_EVERYWHERE: Final = "*"
_MAX_LINE: Final = 512


class Listening(msgspec.Struct, frozen=True):
    """
    Where a node listens.

    @ivar host: the one address of the machine that the port is open on; empty for all of them.
    @ivar port: the TCP port, 1 to 65535.
    """

    host: str
    port: int


class ListeningFile:
    """
    Tells where a node listens, from when it is made until it is closed or the process ends.
    """

    def __init__(self, state: str, listening: Listening) -> None:
        """
        Write the file.

        @param state: the node's state folder, which it has taken.
        @param listening: what to tell.
        @raise flow512.errors.ResourceFailure: it cannot be written.
        """
        self._path = _path(state)
        line = f"{listening.host or _EVERYWHERE} {listening.port}\n".encode()
        with blaming(f"writing '{escape(self._path)}'"):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # A reader holds it for a moment, to see whether anybody does.
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                os.pwrite(self._fd, line, 0)
                os.ftruncate(self._fd, len(line))
            except BaseException:
                os.close(self._fd)
                raise

    def close(self) -> None:
        """
        Tell it no more; once.
        """
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._fd)


def read_listening(state: str) -> Listening | None:
    """
    Find out where the node that runs with a state folder listens.

    @param state: the folder, which need not be there.
    @return: L{None} if none runs, or it listens on no TCP port.
    @raise flow512.errors.ResourceFailure: the file cannot be read.
    """
    path = _path(state)
    with blaming(f"reading '{escape(path)}'"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse(os.read(fd, _MAX_LINE))
        finally:
            os.close(fd)
    return None


def _parse(line: bytes) -> Listening | None:
    match line.decode("utf-8", "replace").split():
        case [host, port] if port.isdecimal() and 1 <= int(port) <= 65535:
            return Listening("" if host == _EVERYWHERE else host, int(port))
    return None


def _path(state: str) -> str:
    return os.path.join(state, _LISTENING_FILE)
