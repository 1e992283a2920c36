"""
The standard streams of the process, which may be closed, full, or read by nobody.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, Final

from flow512.errors import from_os_error

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class StandardOutput(io.TextIOWrapper):
    """
    Standard output, whose failures are errors of ours.

    After one, nothing more is written: what is still in the buffer could only fail once more.
    """

    def write(self, text: str, /) -> int:
        """
        @raise BrokenPipeError: nobody reads it any more.
        @raise flow512.errors.ResourceFailure: it cannot be written to.
        """
        if text == "":
            return 0  # click tries out so whether this is text
        try:
            return super().write(text)
        except OSError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        """
        @raise BrokenPipeError: nobody reads it any more.
        @raise flow512.errors.ResourceFailure: it cannot be written to.
        """
        try:
            super().flush()
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> Exception:
        _forget(self)
        if isinstance(error, BrokenPipeError):
            return error
        return from_os_error(error, "writing to standard output")


class StandardError(io.TextIOWrapper):
    """
    Standard error, whose failures nobody could be told of.
    """

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        _forget(self)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _forget(self)


def _forget(stream: io.TextIOWrapper) -> None:
    """Let what is written to a stream go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_missing() -> None:
    """
    Let standard streams that the process was started without be C{/dev/null}. Otherwise the next
    file or connection that is opened would be standard output.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # to the end
            setattr(sys, name, stream)


def guard() -> None:
    """
    Make L{sys.stdout} and L{sys.stderr} what they are called here, and let them show any name.
    """
    for name, kind in (("stdout", StandardOutput), ("stderr", StandardError)):
        stream = _guarded(kind, getattr(sys, name))
        setattr(sys, name, stream)
        # Whoever wants to know how wide the terminal is asks the one of the beginning.
        setattr(sys, f"__{name}__", stream)


def _guarded(kind: type[io.TextIOWrapper], stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, kind):
        return stream
    settings: dict[str, Any] = {
        "encoding": stream.encoding,
        "errors": "backslashreplace",  # a name is no reason to fail
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }
    return kind(stream.detach(), **settings)
