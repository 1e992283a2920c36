"""
Numbers as people read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Final

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def size_text(size: float) -> str:
    """
    Write a number of bytes: about three digits, and a unit that is a power of 1024.
    """
    step = 0
    while size >= 999.5 and step < len(_UNITS) - 1:
        size /= 1024
        step += 1
    if step == 0:
        return "1 byte" if size == 1 else f"{size:.0f} bytes"
    return f"{size:.{0 if size >= 99.95 else 1}f} {_UNITS[step]}"


def rate_text(size: int, seconds: float) -> str:
    """
    Write how fast so many bytes came.
    """
    return f"{size_text(size / max(seconds, 0.001))}/s"


def seconds_text(seconds: float) -> str:
    """
    Write a length of time.
    """
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def files_text(count: int) -> str:
    """
    Write a number of files.
    """
    return "1 file" if count == 1 else f"{count} files"


def took_text(seconds: float) -> str:
    """
    Write how long something took: to a tenth of a second, and more exactly what was less.
    """
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{max(seconds, 0.001):.1g} s"


def time_text(mtime: int) -> str:
    """
    Write a file's time to the minute, in this machine's time zone.

    @param mtime: nanoseconds since 1970; any number, since peers send it.
    """
    try:
        return (_EPOCH + timedelta(microseconds=mtime // 1000)).astimezone().strftime("%F %R")
    except (OverflowError, ValueError):
        return "?"


def exact_time_text(mtime: int) -> str:
    """
    Write a file's time to the second, in UTC, as ISO 8601 has it.

    @param mtime: nanoseconds since 1970; any number, since peers send it.
    """
    try:
        return (_EPOCH + timedelta(seconds=mtime // 10**9)).strftime("%FT%TZ")
    except OverflowError:
        return "?"


def widths_of(rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """
    Tell how wide the columns of some rows have to be.

    @param rows: all of one length.
    @param least: how wide they are at least.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [max(pair) for pair in zip_longest(widths, least, fillvalue=0)]


def columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """
    Line rows up for a terminal.

    @param rows: all of one length.
    @param widths: see L{widths_of}.
    """
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
