"""
What both plugins' options have in common: one clear sentence for whoever mistypes.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from twisted.internet.endpoints import serverFromString
from twisted.python.usage import Options, UsageError

from flow512.content.paths import escape
from flow512.errors import Flow512Error


def refuse(command: str, sentence: str) -> NoReturn:
    """
    End the process because of something that the user can put right.

    @param command: what was run, such as C{"flow512-node"}.
    @param sentence: what is wrong, and what to do.
    """
    sys.stderr.write(f"twistd {command}: {sentence}\n")
    raise SystemExit(1)


class ServiceOptions(Options):
    """
    Options that end the process with one sentence and exit status 1 when they make no sense.

    @cvar command: the plugin's name.
    """

    command: str

    def parseOptions(self, options: list[str] | None = None) -> None:
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]  # Twisted has no types there
        except UsageError as error:
            refuse(self.command, f"{error}; `twistd {self.command} --help` lists the options.")
        except Flow512Error as error:
            refuse(self.command, str(error))

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"'{escape(arguments[0])}' is one word too many")


def check_listen(description: str) -> str:
    """
    See whether a server endpoint string can be one, before anything is started.

    @raise UsageError: it cannot.
    """
    try:
        # Endpoints want a reactor only when they are used.
        serverFromString(None, description)  # type: ignore[no-untyped-call]  # Twisted has no types there
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"'{escape(description)}' is no endpoint to listen on ({escape(str(error))});"
            " try --listen tcp:5000"
        ) from None
    return description
