"""
Child processes that are watched: what they write is passed on line by line, and none outlives
the one who started it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from flow512.content.paths import escape

STOP_SECONDS: Final = 5.0
"""What a child has for its goodbye, before it is killed."""

_LAST: Final = 3
"""Lines that are kept to tell what a child said last."""

_MAX_LINE: Final = 4096
"""Bytes; a longer line is passed on in parts."""


class Child(ProcessProtocol):
    """
    One process.

    @ivar name: what to call it.
    @ivar ended: how it ended, as the end of a sentence; empty while it runs.
    """

    ended = ""

    def __init__(
        self,
        name: str,
        line: Callable[[str, str], None],
        gone: Callable[[Child], None] = lambda child: None,
    ) -> None:
        """
        @param line: takes the name, and each line that the process writes, escaped.
        @param gone: told when the process has ended by itself.
        """
        self.name = name
        self._line = line
        self._gone = gone
        self._last: deque[str] = deque(maxlen=_LAST)
        self._rest = {1: b"", 2: b""}
        self._awaited: list[tuple[str, Deferred[str]]] = []
        self._stopping: Deferred[None] | None = None
        self._kill: IDelayedCall | None = None

    def start(self, reactor: IReactorProcess, command: Sequence[str], cwd: str) -> None:
        """
        Start the process; once.

        @param command: the program's path and its arguments.
        @param cwd: its current folder.
        """
        reactor.spawnProcess(self, command[0], list(command), env=dict(os.environ), path=cwd)

    def says(self, words: str) -> Deferred[str]:
        """
        Wait for a line.

        @param words: which are somewhere in it; it has not been written yet.
        @return: the line.
        """
        awaited: Deferred[str] = Deferred()
        self._awaited.append((words, awaited))
        return awaited

    def stop(self, clock: IReactorTime) -> Deferred[None]:
        """
        End the process, kindly first; once.

        @return: fires when it is gone.
        """
        stopping: Deferred[None] = Deferred()
        self._stopping = stopping
        if self.ended:
            stopping.callback(None)
        else:
            self._signal("TERM")
            self._kill = clock.callLater(STOP_SECONDS, self._signal, "KILL")
        return stopping

    @property
    def epitaph(self) -> str:
        """How it ended, and what it said last: one sentence."""
        said = f"; it said: {' / '.join(self._last)}" if self._last else ", and said nothing."
        return f"The process '{self.name}' {self.ended}{said}"

    def _signal(self, name: str) -> None:
        assert self.transport is not None
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:  # processEnded is on its way
            pass

    def _wrote(self, line: bytes) -> None:
        text = escape(line.decode("utf-8", "replace").strip())
        if not text:
            return
        self._last.append(text)
        self._line(self.name, text)
        for awaited in [each for each in self._awaited if each[0] in text]:
            self._awaited.remove(awaited)
            awaited[1].callback(text)

    # ProcessProtocol

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._rest[childFD] + data).split(b"\n")
        if len(rest) > _MAX_LINE:
            lines.append(rest)
            rest = b""
        self._rest[childFD] = rest
        for line in lines:
            self._wrote(line)

    def processEnded(self, reason: Failure) -> None:
        for rest in self._rest.values():
            self._wrote(rest)
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        how = reason.value
        assert isinstance(how, ProcessDone | ProcessTerminated)
        self.ended = (
            f"ended with status {how.exitCode}"
            if how.signal is None
            else f"died of signal {how.signal}"
        )
        if self._stopping is None:
            self._gone(self)
        else:
            self._stopping.callback(None)
