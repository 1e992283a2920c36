"""
Rows of cells: lined up for a person at a terminal, exact and divided by tabs for a pipe.
"""

from __future__ import annotations

from typing import Protocol, TextIO

from flow512.cli.formatting import columns, exact_time_text, size_text, time_text
from flow512.cli.voice import Voice


class Table(Protocol):
    """
    Prints rows.
    """

    def row(self, *cells: str) -> None:
        """
        @param cells: escaped; as many in each row.
        """

    def end(self) -> None:
        """There are no more rows."""

    def size(self, size: int) -> str:
        """Write a number of bytes."""

    def time(self, mtime: int) -> str:
        """Write a file's time, from nanoseconds since 1970."""


class Tabs:
    """
    For a pipe: each row as it comes.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    def row(self, *cells: str) -> None:
        self._voice.say("\t".join(cells))

    def end(self) -> None:
        pass

    def size(self, size: int) -> str:
        return str(size)

    def time(self, mtime: int) -> str:
        return exact_time_text(mtime)


class Columns:
    """
    For a terminal: once all are there, so that they can be lined up.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._rows: list[tuple[str, ...]] = []

    def row(self, *cells: str) -> None:
        self._rows.append(cells)

    def end(self) -> None:
        for line in columns(self._rows):
            self._voice.say(line)

    def size(self, size: int) -> str:
        return size_text(size)

    def time(self, mtime: int) -> str:
        return time_text(mtime)


def table_for(out: TextIO, voice: Voice) -> Table:
    """
    Choose how rows look.
    """
    return Columns(voice) if out.isatty() else Tabs(voice)
