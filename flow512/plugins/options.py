"""
What both plugins' options have in common.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TextIO

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.usage import Options, UsageError

from flow512.content.paths import escape
from flow512.descriptors import allow_enough_descriptors
from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.errors import Flow512Error
from flow512.link.security import Encryption


def refuse(command: str, sentence: str) -> NoReturn:
    """
    End the process because of something that the user can put right.

    @param command: the plugin's name.
    @param sentence: what is wrong, and what to do.
    """
    # Not sys.stderr: twistd makes log entries of what is written there.
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"twistd {command}: {sentence}\n")
    raise SystemExit(1)


class NotStarted(Exception):
    """
    For twistd, which shows a hundred bytes of it: the reason has been said in full.
    """


def starters_error() -> TextIO | None:
    """
    Keep the standard error of whoever starts the process, which a daemon has lost when it starts.

    @return: L{None} if there is none.
    """
    try:
        return os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None


def _is_detached() -> bool:
    """Whether nobody can see what is written to standard error."""
    try:
        return os.path.samestat(os.fstat(2), os.stat(os.devnull))
    except OSError:
        return True


def port_number(text: str) -> int:
    """
    Read a port.

    @raise ValueError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise ValueError(f"'{escape(text)}' is no port; that is a number from 1 to 65535")
    return int(text)


port_number.coerceDoc = "A number from 1 to 65535."  # type: ignore[attr-defined]  # as usage.Options wants it


class ServiceOptions(Options):
    """
    Options that end the process with one sentence and exit status 1 when they make no sense.

    @cvar command: the plugin's name.
    """

    command: str

    optFlags: Sequence[Sequence[object]] = [
        ["no-beacon", None, "Neither announce anything on the network nor listen for others."],
        ["plaintext", None, "No TLS; all who are to reach it have to do the same."],
    ]

    optParameters: Sequence[Sequence[object]] = [
        ["listen", None, "", "Where to listen: any Twisted server endpoint string."],
        ["name", None, "", "What others are shown; the machine's name unless given."],
        ["network", None, "", "Only nodes with the same network name accept each other."],
        ["network-key-file", None, "", "The file with the key or join link of a closed network."],
        ["beacon-port", None, BEACON_PORT, "The UDP port of the beacon.", port_number],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self["interface"] = []
        self["limit"] = []

    def opt_limit(self, setting: str) -> None:
        """
        Change a limit, as NAME=VALUE; docs/commands.rst lists them. May be repeated.
        """
        self["limit"].append(setting)

    def opt_interface(self, interface: str) -> None:
        """
        The name or address of an interface that the beacon uses; all unless given. May be
        repeated.
        """
        self["interface"].append(interface)

    def parseOptions(self, options: list[str] | None = None) -> None:
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]  # Twisted has no types there
        except UsageError as error:
            sentence = str(error).removeprefix("Parameter type enforcement failed: ")
            refuse(self.command, f"{sentence}; see `twistd {self.command} --help`.")
        except Flow512Error as error:
            refuse(self.command, str(error))

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"'{escape(arguments[0])}' is not an option")

    @property
    def encryption(self) -> Encryption:
        """What connections run over."""
        return Encryption.NONE if self["plaintext"] else Encryption.TLS

    @property
    def beacon_port(self) -> int | None:
        """The UDP port of the beacon; L{None} for no beacon."""
        return None if self["no-beacon"] else self["beacon-port"]


class Daemon(Service):
    """
    A service on which the process depends: if it cannot start, the process ends with one
    sentence and exit status 1.
    """

    log = Logger()

    def __init__(self, command: str, service: IService, starter: TextIO | None = None) -> None:
        """
        @param command: the plugin's name.
        @param service: what it runs.
        @param starter: the standard error of whoever starts it; closed when it has started.
        """
        self.command = command
        self.service = service
        self.starter = starter

    def privilegedStartService(self) -> None:
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        allow_enough_descriptors()
        self._begin(self.service.privilegedStartService)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._begin(self.service.startService)
        if self.starter is not None:
            # Whoever reads from it to its end waits for no daemon.
            self.starter.close()

    def _begin(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except Flow512Error as error:
            if not _is_detached():
                refuse(self.command, str(error))
            self.log.critical("{why}", why=str(error))
            # twistd hands an exception to the process that the user waits for; of an exit that
            # would never hear. It shows the beginning only, so all of it is said before.
            if self.starter is None:
                raise
            with suppress(OSError):
                self.starter.write(f"twistd {self.command}: {error}\n")
                self.starter.close()
            raise NotStarted("The reason is above.") from error

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        stopped: Deferred[None] | None = self.service.stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return stopped
