"""
How far a download is: a bar on a terminal, objects for a program, or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TextIO

from twisted.internet.interfaces import IReactorTime

from flow512.cli.formatting import size_text
from flow512.cli.voice import Voice
from flow512.content.paths import escape
from flow512.wire.messages import Entry

if TYPE_CHECKING:
    from rich.console import Console

TOLD_EVERY: Final = 0.25
"""Seconds between two objects."""

DRAWN_EVERY: Final = 0.1
"""Seconds between two drawings of the bar."""


class Progress(Protocol):
    """
    Shows how far one download is.
    """

    def begin(self, entry: Entry, stored: int) -> None:
        """
        @param entry: what is downloaded.
        @param stored: bytes that are here already.
        """

    def grown(self, stored: int) -> None:
        """
        @param stored: bytes that are here now.
        """

    def end(self) -> None:
        """Leave the terminal as it was; nothing happens if there was no begin."""


class Silence:
    """
    Shows nothing.
    """

    def begin(self, entry: Entry, stored: int) -> None:
        pass

    def grown(self, stored: int) -> None:
        pass

    def end(self) -> None:
        pass


class ToldProgress:
    """
    Tells a program.
    """

    def __init__(self, voice: Voice, clock: IReactorTime) -> None:
        self._voice = voice
        self._clock = clock
        self._size = 0
        self._next = 0.0

    def begin(self, entry: Entry, stored: int) -> None:
        self._size = entry.size
        self.grown(stored)

    def grown(self, stored: int) -> None:
        now = self._clock.seconds()
        if now >= self._next:
            self._next = now + TOLD_EVERY
            self._voice.tell("progress", stored=stored, bytes=self._size)

    def end(self) -> None:
        pass


class Milestones:
    """
    Says each quarter, where no bar can be drawn.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._size = 0
        self._quarters = 0

    def begin(self, entry: Entry, stored: int) -> None:
        self._size = entry.size
        self.grown(stored)

    def grown(self, stored: int) -> None:
        quarters = 4 * stored // max(1, self._size)
        if quarters > self._quarters:
            self._quarters = quarters
            self._voice.say(f"{25 * quarters} % of {size_text(self._size)}")

    def end(self) -> None:
        pass


class Bar:
    """
    Draws a bar with the rate and the time that is left.
    """

    def __init__(self, console: Console, clock: IReactorTime) -> None:
        """
        @param console: on a terminal.
        @param clock: for the rate.
        """
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._clock = clock
        self._next = 0.0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # nothing but the reactor's thread writes here
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_time=clock.seconds,
        )

    def begin(self, entry: Entry, stored: int) -> None:
        name = escape(entry.path.rpartition("/")[2], 40)
        self._task = self._progress.add_task(name, total=entry.size, completed=stored)
        self._progress.start()

    def grown(self, stored: int) -> None:
        now = self._clock.seconds()
        if now >= self._next:
            self._next = now + DRAWN_EVERY
            self._progress.update(self._task, completed=stored, refresh=True)

    def end(self) -> None:
        self._progress.stop()


def bar_on(err: TextIO, clock: IReactorTime) -> Progress:
    """
    Make the bar, if there is a terminal to draw it on.
    """
    if not err.isatty():
        return Silence()
    from rich.console import Console

    return Bar(Console(file=err), clock)
