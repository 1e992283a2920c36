"""
The progress bar, which only terminals see; whoever needs no bar does not import it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text
from twisted.internet.interfaces import IReactorTime

from flow512.cli.formatting import size_text
from flow512.content.paths import escape
from flow512.wire.messages import Entry

DRAWN_EVERY: Final = 0.1
"""Seconds between two drawings."""

_NAME: Final = 40
"""Characters of the file's name that are shown, at most."""

_WIDE: Final = 60
"""Columns of a terminal on which there is room for a bar, and for sizes."""

_BESIDE: Final = 26
_BESIDE_WHEN_WIDE: Final = 50
"""Columns that all the others take, at most, with a short bar if there is one."""


class _Rate(ProgressColumn):
    """Bytes per second, in the units of all other sizes here."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{size_text(task.speed)}/s", "cyan")


class Bar:
    """
    Draws a bar with the rate and the time that is left; see L{flow512.cli.progress.Progress}.
    """

    def __init__(self, console: Console, clock: IReactorTime) -> None:
        """
        @param console: on a terminal.
        @param clock: for the rate.
        """
        self._clock = clock
        self._next = 0.0
        self._progress = Progress(
            *_columns(console.width),
            console=console,
            auto_refresh=False,  # nothing but the reactor's thread writes here
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_time=clock.seconds,
        )

    def begin(self, entry: Entry, stored: int, *, is_sized: bool = True) -> None:
        name = escape(entry.path.rstrip("/").rpartition("/")[2] or entry.path, _NAME)
        total = entry.size if is_sized else None
        self._task = self._progress.add_task(name, total=total, completed=stored)
        self._progress.start()

    def sized(self, size: int) -> None:
        self._progress.update(self._task, total=size)

    def grown(self, stored: int) -> None:
        now = self._clock.seconds()
        if now >= self._next:
            self._next = now + DRAWN_EVERY
            self._progress.update(self._task, completed=stored, refresh=True)

    def end(self) -> None:
        self._progress.stop()


def _columns(width: int) -> list[ProgressColumn]:
    """Choose what fits into one line: only the bar itself can become shorter."""
    is_wide = width >= _WIDE
    room = width - (_BESIDE_WHEN_WIDE if is_wide else _BESIDE)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, min(_NAME, room)))
    whole = partial(Column, no_wrap=True)
    return [
        TextColumn("{task.description}", markup=False, table_column=name),
        *([BarColumn()] if is_wide else []),
        TaskProgressColumn(table_column=whole()),
        *([DownloadColumn(binary_units=True, table_column=whole())] if is_wide else []),
        _Rate(whole()),
        TimeRemainingColumn(table_column=whole()),
    ]
