"""
Where the console's dialogue is held: standard input and output, by lines, never blocking.

On a terminal the user's line ends what he was asked. In a pipe nothing does, so each answer is
written out behind its question; either way the whole dialogue can be read afterwards.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.content.paths import escape
from flow512.errors import ResourceFailure


@implementer(IHalfCloseableProtocol)
class Terminal(LineReceiver):
    """
    Asks, and hears the answers line by line.
    """

    delimiter = b"\n"

    def __init__(self, stdin: int, stdout: int) -> None:
        """
        @param stdin: a descriptor; it stays open.
        @param stdout: likewise.
        """
        self._descriptors = (stdin, stdout)
        self._echoes = not os.isatty(stdin)
        self._lines: list[str] = []
        self._is_over = False
        self._is_leaving = False
        self._has_lost_output = False
        self._asked: Deferred[str | None] | None = None
        self._question = ""
        self._closed: Deferred[None] = Deferred()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """
        Take standard input and output for as long as the context lasts.

        @raise ResourceFailure: it could not be written to, and so the dialogue was over.
        """
        # StandardIO closes what it was given, and makes it non-blocking for everybody who has it:
        # a shell that reads from the same terminal afterwards would be surprised.
        blocking = [(fd, os.get_blocking(fd)) for fd in self._descriptors]
        stdin, stdout = (os.dup(fd) for fd in self._descriptors)
        # mypy sees the StandardIO of Windows.
        stdio = StandardIO(self, stdin=stdin, stdout=stdout)  # type: ignore[no-untyped-call,call-arg]
        try:
            yield
        finally:
            self._is_leaving = True
            stdio.loseConnection()  # type: ignore[no-untyped-call]  # Twisted has no types there
            await self._closed
            for fd, was_blocking in blocking:
                os.set_blocking(fd, was_blocking)
        if self._has_lost_output:
            raise ResourceFailure("Standard output takes nothing more; is there room for it?")

    def say(self, sentence: str) -> None:
        """
        Write a line; a question that is waiting for its answer is asked again after it.
        """
        again = self._question if self._asked is not None and self._question[-1:] != "\n" else ""
        self._write(f"\n{sentence}\n{again}" if again else f"{sentence}\n")

    def ask(self, question: str) -> Deferred[str | None]:
        """
        Ask, and wait for a line.

        @param question: written as it is, so with its own end of line, if any.
        @return: the answer without its line's end; L{None} when there will be no more.
        """
        self._question = question
        self._write(question)
        self._asked = Deferred()
        asked = self._asked
        self._answer()
        return asked

    def _answer(self) -> None:
        if self._asked is None or not (self._lines or self._is_over):
            return
        asked, self._asked = self._asked, None
        if not self._lines:
            asked.callback(None)
            return
        line = self._lines.pop(0)
        if self._echoes:
            self._write(escape(line) + "\n")
        asked.callback(line)

    def _write(self, text: str) -> None:
        if self.transport is not None and not self._closed.called:
            self.transport.write(text.encode("utf-8", "replace"))

    # LineReceiver

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line.decode("utf-8", "replace").removesuffix("\r"))
        self._answer()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.clearLineBuffer()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._lines.append("")
        self._answer()

    def readConnectionLost(self) -> None:
        """Called by StandardIO at the end of the input."""
        self._end()

    def writeConnectionLost(self) -> None:
        """Called by StandardIO when nobody reads the output any more: it says no more then."""
        self._has_lost_output = not self._is_leaving
        self.connectionLost()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._end()
        if not self._closed.called:
            self._closed.callback(None)

    def _end(self) -> None:
        self._is_over = True
        self._answer()
