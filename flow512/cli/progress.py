"""
How far a download is: a bar on a terminal, objects for a program, or nothing.
"""

from __future__ import annotations

from typing import Final, Protocol, TextIO

from twisted.internet.interfaces import IReactorTime

from flow512.cli.formatting import size_text
from flow512.cli.voice import Voice
from flow512.wire.messages import Entry

TOLD_EVERY: Final = 0.25
"""Seconds between two objects."""


class Progress(Protocol):
    """
    Shows how far one download is.
    """

    def begin(self, entry: Entry, stored: int, *, is_sized: bool = True) -> None:
        """
        @param entry: what is downloaded.
        @param stored: bytes that are here already.
        @param is_sized: whether the entry's size is known; if not, L{sized} tells it later.
        """

    def sized(self, size: int) -> None:
        """
        @param size: how many bytes there will be.
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

    def begin(self, entry: Entry, stored: int, *, is_sized: bool = True) -> None:
        pass

    def sized(self, size: int) -> None:
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
        self._size: int | None = None
        self._next = 0.0

    def begin(self, entry: Entry, stored: int, *, is_sized: bool = True) -> None:
        self._size = entry.size if is_sized else None
        self.grown(stored)

    def sized(self, size: int) -> None:
        self._size = size

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
        self._size: int | None = None
        self._quarters = 0

    def begin(self, entry: Entry, stored: int, *, is_sized: bool = True) -> None:
        self._size = entry.size if is_sized else None
        self.grown(stored)

    def sized(self, size: int) -> None:
        self._size = size

    def grown(self, stored: int) -> None:
        if self._size is None:
            return
        quarters = 4 * stored // max(1, self._size)
        if quarters > self._quarters:
            self._quarters = quarters
            self._voice.say(f"{25 * quarters} % of {size_text(self._size)}")

    def end(self) -> None:
        pass


def bar_on(err: TextIO, clock: IReactorTime) -> Progress:
    """
    Make the bar, if there is a terminal to draw it on.
    """
    if not err.isatty():
        return Silence()
    from rich.console import Console

    from flow512.cli.bar import Bar

    return Bar(Console(file=err), clock)
