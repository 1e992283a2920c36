"""
What a command says: sentences to a person, or one JSON object a line to a program.

Each command tells both, and the voice that it was given keeps one of them to itself. Errors are
sentences on standard error either way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TextIO, TypeAlias

from flow512.content.paths import escape
from flow512.errors import Flow512Error

Value: TypeAlias = (
    str | int | float | bool | Sequence[str] | Sequence[Mapping[str, str | int]] | None
)
"""What the fields of an event hold."""

_KEY: Final = re.compile(r"(?<=key=)[\w%]+", re.IGNORECASE)
"""The key in a join link (docs/commands.rst)."""


class Voice(Protocol):
    """
    Says what happens.
    """

    def say(self, sentence: str) -> None:
        """Tell a person, on a line of its own."""

    def tell(self, event: str, **fields: Value) -> None:
        """Tell a program, as one JSON object on a line of its own."""

    def fail(self, error: Flow512Error) -> None:
        """Say why it was not done."""


@dataclass(frozen=True)
class PlainVoice:
    """
    Speaks to people.

    @ivar out: for what was asked for.
    @ivar err: for errors.
    """

    out: TextIO
    err: TextIO

    def say(self, sentence: str) -> None:
        self.out.write(sentence + "\n")
        self.out.flush()

    def tell(self, event: str, **fields: Value) -> None:
        pass

    def fail(self, error: Flow512Error) -> None:
        complain(self.err, error)


@dataclass(frozen=True)
class JsonVoice:
    """
    Speaks to programs.

    @ivar out: for the objects, errors among them.
    @ivar err: for errors as sentences.
    """

    out: TextIO
    err: TextIO

    def say(self, sentence: str) -> None:
        pass

    def tell(self, event: str, **fields: Value) -> None:
        self.out.write(json.dumps({"event": event, **fields}) + "\n")
        self.out.flush()

    def fail(self, error: Flow512Error) -> None:
        self.tell("error", sentence=_without_key(str(error)), code=type(error).__name__)
        complain(self.err, error)


def complain(err: TextIO, error: Flow512Error) -> None:
    """
    Write an error as one sentence, fit for a terminal whoever wrote it.
    """
    err.write(f"flow512: {escape(_without_key(str(error)))}\n")
    err.flush()


def _without_key(sentence: str) -> str:
    """Leave out the key of a join link that was typed where it does not belong, and is quoted."""
    return _KEY.sub("\N{HORIZONTAL ELLIPSIS}", sentence)
