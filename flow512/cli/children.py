"""
Child processes that are watched: what they write is passed on line by line, and none outlives
the one who started it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from flow512.content.paths import escape

STOP_SECONDS: Final = 5.0
"""What a child has for its goodbye, before it is killed."""

_LAST: Final = 5
"""Lines that are kept to tell what a child said last."""

_MAX_LINE: Final = 4096
"""Bytes; a longer line is passed on in parts."""


class Child(ProcessProtocol):
    """
    One process.

    @ivar name: what to call it.
    @ivar last: the last lines that it wrote.
    @ivar ended: why it ended; L{None} while it runs.
    """

    ended: str | None = None

    def __init__(self, name: str, line: Callable[[str, str], None]) -> None:
        """
        @param line: takes the name, and each line that the process writes, escaped.
        """
        self.name = name
        self.last: deque[str] = deque(maxlen=_LAST)
        self._line = line
        self._rest: dict[int, bytes] = {}
        self._waiting: list[Deferred[None]] = []
        self._kill: IDelayedCall | None = None

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._rest.get(childFD, b"") + data).split(b"\n")
        if len(rest) > _MAX_LINE:
            lines.append(rest)
            rest = b""
        self._rest[childFD] = rest
        for line in lines:
            self._say(line)

    def _say(self, line: bytes) -> None:
        text = escape(line.decode("utf-8", "replace").rstrip())
        if text:
            self.last.append(text)
            self._line(self.name, text)

    def processEnded(self, reason: Failure) -> None:
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        for rest in self._rest.values():
            self._say(rest)
        code = getattr(reason.value, "exitCode", None)
        self.ended = (
            "ended" if reason.check(ProcessDone) else  # type: ignore[no-untyped-call]
            f"was ended by signal {reason.value.signal}" if code is None else
            f"ended with status {code}"
        )
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def stop(self, clock: IReactorTime) -> Deferred[None]:
        """
        End the process, kindly first.

        @return: fires when it is gone.
        """
        gone: Deferred[None] = Deferred()
        if self.ended is not None:
            gone.callback(None)
            return gone
        self._waiting.append(gone)
        self._signal("TERM")
        self._kill = clock.callLater(STOP_SECONDS, self._signal, "KILL")
        return gone

    def _signal(self, name: str) -> None:
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass


def start(
    reactor: Any,
    name: str,
    command: Sequence[str],
    *,
    cwd: str,
    environment: Mapping[str, str],
    line: Callable[[str, str], None],
) -> Child:
    """
    Start a process.

    @param reactor: an L{IReactorProcess}.
    @param command: the program's path and its arguments.
    @param line: see L{Child}.
    """
    child = Child(name, line)
    IReactorProcess(reactor).spawnProcess(
        child, command[0], list(command), env=dict(environment), path=cwd
    )
    return child
