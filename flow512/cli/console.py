"""
C{flow512 console}: the dialogue of the first 512-flow, in its own words.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

import msgspec
from twisted.internet.defer import Deferred

from flow512.content.paths import SHOWN, check_path, escape
from flow512.errors import Flow512Error, NotFound, TargetExists
from flow512.node import NodeService

CHOOSE: Final = "Enter 'd' to download a file or 'q' to quit:\n"
WHOM: Final = "Enter the IP of the peer to download from: "
WHAT: Final = "Enter the filename to download: "


class Asking(Protocol):
    """
    Where the dialogue is held; L{flow512.cli.terminal.Terminal} is one.
    """

    def say(self, sentence: str) -> None:
        """Write a line."""

    def ask(self, question: str) -> Deferred[str | None]:
        """Ask; L{None} if there are no more answers."""


class Dialogue(msgspec.Struct, frozen=True):
    """
    Asks what to do, and does it, until the user has had enough.

    @ivar node: what downloads.
    @ivar asking: where the user is.
    """

    node: NodeService
    asking: Asking

    async def hold(self) -> None:
        """
        Go on until C{q}, or until there is no more input.
        """
        try:
            while (choice := (await self._ask(CHOOSE)).strip()) != "q":
                if choice == "d":
                    await self._download()
                elif choice:
                    self._refuse(f"'{escape(choice, SHOWN)}' is neither 'd' nor 'q'.")
        except EOFError:
            pass

    async def _ask(self, question: str) -> str:
        answer = await self.asking.ask(question)
        if answer is None:
            raise EOFError
        return answer

    async def _download(self) -> None:
        peer = (await self._ask(WHOM)).strip()
        if not peer:
            self._refuse("A peer is needed: its IP, or its name.")
            return
        name = await self._ask(WHAT)
        if not name:
            self._refuse("A filename is needed.")
            return
        try:
            check_path(name)
            fetched = await self.node.get(name, peer=peer)
        except NotFound:
            self._refuse(f"File '{escape(name, SHOWN)}' not found on {escape(peer, SHOWN)}.")
        except TargetExists:
            shown = escape(os.path.basename(name), SHOWN)
            self._refuse(f"File '{shown}' is here already; move it away first.")
        except Flow512Error as error:
            self._refuse(escape(str(error)))
        else:
            shown = escape(os.path.basename(fetched.path))
            self.asking.say(f"File '{shown}' downloaded successfully.")
            self.asking.say("[+] Hash verification successful. The file is intact.")

    def _refuse(self, sentence: str) -> None:
        self.asking.say(f"[-] {sentence}")
