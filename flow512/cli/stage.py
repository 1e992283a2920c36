"""
Where the demo is seen: what several processes say, side by side with a progress bar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text
from twisted.internet.interfaces import IReactorTime

from flow512.cli.bar import Bar
from flow512.cli.progress import Milestones, Progress
from flow512.cli.voice import PlainVoice, Value
from flow512.errors import Flow512Error

_COLOURS: Final = {"registry": "magenta", "first": "cyan", "second": "green"}
_LOGGED: Final = re.compile(r"\S+ \[(?P<system>[^\]]*)\] (?P<text>.*)")
_NOISE: Final = re.compile(r"(?!flow512).*#(info|debug)|-")
"""What Twisted itself tells, rather than flow512, as long as nothing is wrong."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Theirs ends the process in the middle of whatever it does.
        raise BrokenPipeError


class Stage:
    """
    The voice of the demo.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._console = _Console(file=out, highlight=False, soft_wrap=True)
        self._errors = PlainVoice(out, err)

    def say(self, sentence: str) -> None:
        """
        Tell what happens.

        @raise BrokenPipeError: nobody reads it any more.
        """
        self._console.print(Text(sentence))

    def announce(self, sentence: str) -> None:
        """
        Tell what happens next, on a line that stands out.

        @raise BrokenPipeError: as of L{say}.
        """
        self._console.print(Text(f"\n{sentence}", "bold"))

    def line(self, name: str, line: str) -> None:
        """Pass on what a process of C{twistd} has logged."""
        logged = _LOGGED.fullmatch(line)
        if logged is not None and _NOISE.fullmatch(logged["system"]):
            return
        text = line if logged is None else logged["text"]
        with suppress(BrokenPipeError):  # the demo itself hears of it, when it says something
            self._console.print(Text.assemble((f"{name:>8} | ", _COLOURS.get(name, "")), text))

    def progress(self, clock: IReactorTime) -> Progress:
        """Make what shows how far a download is."""
        return Bar(self._console, clock) if self._console.is_terminal else Milestones(self)

    def tell(self, event: str, **fields: Value) -> None:
        """Nothing: no program watches."""

    def say_all(self, sentences: Iterable[str]) -> None:
        """Tell what happens."""
        for sentence in sentences:
            self.say(sentence)

    def tell_all(self, event: str, many: Iterable[Mapping[str, Value]]) -> None:
        """Nothing, likewise."""

    def warn(self, sentence: str) -> None:
        """Tell what is not as it might be expected."""
        self._errors.warn(sentence)

    def fail(self, error: Flow512Error) -> None:
        """Tell why it ended early."""
        self._errors.fail(error)
