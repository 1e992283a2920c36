"""
Who a node is: its names, and the state folder with its identity.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

import platformdirs

from flow512.content.paths import escape
from flow512.errors import Misuse, StateInUse, from_os_error
from flow512.link.conversation import MAX_NAME

ID_SIZE: Final = 32
"""Bytes in a node id."""

_ID_FILE: Final = "node-id"
_LOCK_FILE: Final = "lock"


def default_state() -> str:
    """
    Give the state folder of a node whose user names none: the usual place of this system.
    """
    return platformdirs.user_state_dir("flow512", appauthor=False)


def check_names(*names: str) -> None:
    """
    Check what a user calls a node or a network.

    @raise Misuse: a name is too long, or holds what is no text; nobody would take its hello.
    """
    for name in names:
        if len(name) > MAX_NAME:
            raise Misuse(f"Names of nodes and networks have at most {MAX_NAME} characters.")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Misuse(f"'{escape(name)}' is no text, and so no name; type another.") from None


class StateFolder:
    """
    The folder in which a node keeps what it has to remember. One process has it at a time.

    @ivar path: the folder.
    @ivar node: the node id.
    """

    def __init__(self, path: str) -> None:
        """
        Make the folder if it is not there, take it, and find or make the identity.

        @param path: the folder; those above it are made as well.
        @raise StateInUse: another process has it.
        @raise Misuse: it is no folder, or what is in it is no identity.
        @raise ResourceFailure: it cannot be read or written.
        """
        self.path = os.path.abspath(path)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._lock = os.open(
                self.file(_LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except (FileExistsError, NotADirectoryError):
            raise Misuse(
                f"'{escape(self.path)}' is no folder; give another with --state."
            ) from None
        except OSError as error:
            raise from_os_error(error, f"opening the state folder '{escape(self.path)}'") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.node = self._identity()
        except BlockingIOError:
            os.close(self._lock)
            raise StateInUse(
                f"Another node uses the state folder '{escape(self.path)}';"
                " stop it, or give this one another folder with --state."
            ) from None
        except OSError as error:
            os.close(self._lock)
            raise from_os_error(error, f"locking the state folder '{escape(self.path)}'") from None
        except BaseException:
            os.close(self._lock)
            raise

    def file(self, name: str) -> str:
        """
        Give the path of a file in the folder.
        """
        return os.path.join(self.path, name)

    def close(self) -> None:
        """
        Let other processes have the folder.
        """
        os.close(self._lock)

    def _identity(self) -> bytes:
        try:
            with open(self.file(_ID_FILE), "rb") as file:
                node = file.read(ID_SIZE + 1)
        except FileNotFoundError:
            return self._new_identity()
        except OSError as error:
            raise from_os_error(error, f"reading the identity in '{escape(self.path)}'") from None
        if len(node) != ID_SIZE:
            raise Misuse(
                f"'{escape(self.file(_ID_FILE))}' holds no node id;"
                " delete it, and the node makes a new one."
            )
        return node

    def _new_identity(self) -> bytes:
        node = os.urandom(ID_SIZE)
        temporary = self.file(_ID_FILE + ".new")
        try:
            # What a node that died here has left behind is overwritten: the lock is ours.
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(node)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, self.file(_ID_FILE))
        except OSError as error:
            raise from_os_error(error, f"writing the identity to '{escape(self.path)}'") from None
        return node
