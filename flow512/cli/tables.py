"""
Rows of cells: lined up for a person at a terminal, exact and divided by tabs for a pipe. Long
tables are shown as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from flow512.cli.formatting import columns, exact_time_text, size_text, time_text, widths_of
from flow512.cli.voice import Voice


class Table(Protocol):
    """
    Prints rows.
    """

    def row(self, *cells: str) -> None:
        """
        Add a row, which is shown at the end if not before.

        @param cells: escaped; as many in each row.
        """

    def rows(self, rows: Iterable[Sequence[str]]) -> None:
        """
        Show some of many rows now.

        @param rows: cells as for L{row}.
        """

    def end(self) -> None:
        """There are no more rows."""

    def remark(self, sentence: str) -> None:
        """Say something about the rows, to a person; whoever reads a pipe wants nothing else."""

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
        self.rows([cells])

    def rows(self, rows: Iterable[Sequence[str]]) -> None:
        self._voice.say_all("\t".join(cells) for cells in rows)

    def end(self) -> None:
        pass

    def remark(self, sentence: str) -> None:
        pass

    def size(self, size: int) -> str:
        return str(size)

    def time(self, mtime: int) -> str:
        return exact_time_text(mtime)


class Columns:
    """
    For a terminal: those that are shown together are lined up, and with those before as far as
    these have left room.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._rows: list[Sequence[str]] = []
        self._widths: list[int] = []

    def row(self, *cells: str) -> None:
        self._rows.append(cells)

    def rows(self, rows: Iterable[Sequence[str]]) -> None:
        together = [*self._rows, *rows]
        self._rows = []
        self._widths = widths_of(together, self._widths)
        self._voice.say_all(columns(together, self._widths))

    def end(self) -> None:
        self.rows(())

    def remark(self, sentence: str) -> None:
        self._voice.say(sentence)

    def size(self, size: int) -> str:
        return size_text(size)

    def time(self, mtime: int) -> str:
        return time_text(mtime)


def table_for(out: TextIO, voice: Voice) -> Table:
    """
    Choose how rows look.
    """
    return Columns(voice) if out.isatty() else Tabs(voice)
