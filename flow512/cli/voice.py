"""
What a command says: sentences to a person, or one JSON object a line to a program.

Each command tells both, and the voice that it was given keeps one of them to itself. Errors are
sentences on standard error either way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, TextIO, TypeAlias

import msgspec

from flow512.cli.outcome import DONE, FAILED
from flow512.content.paths import escape
from flow512.errors import Flow512Error, ResourceFailure

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

    def say_all(self, sentences: Iterable[str]) -> None:
        """Tell a person many things at once."""

    def tell_all(self, event: str, many: Iterable[Mapping[str, Value]]) -> None:
        """Tell a program of many events of one kind at once."""

    def warn(self, sentence: str) -> None:
        """Tell whoever it is, on standard error, what he may have expected otherwise."""

    def fail(self, error: Flow512Error) -> None:
        """Say why it was not done."""


class PlainVoice(msgspec.Struct, frozen=True):
    """
    Speaks to people.

    @ivar out: for what was asked for.
    @ivar err: for errors.
    """

    out: TextIO
    err: TextIO

    def say(self, sentence: str) -> None:
        self.say_all([sentence])

    def tell(self, event: str, **fields: Value) -> None:
        pass

    def say_all(self, sentences: Iterable[str]) -> None:
        self.out.write("".join(f"{sentence}\n" for sentence in sentences))
        self.out.flush()

    def tell_all(self, event: str, many: Iterable[Mapping[str, Value]]) -> None:
        pass

    def warn(self, sentence: str) -> None:
        complain(self.err, sentence)

    def fail(self, error: Flow512Error) -> None:
        complain(self.err, error)


class JsonVoice(msgspec.Struct, frozen=True):
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
        self.tell_all(event, [fields])

    def say_all(self, sentences: Iterable[str]) -> None:
        pass

    def tell_all(self, event: str, many: Iterable[Mapping[str, Value]]) -> None:
        self.out.write("".join(json.dumps({"event": event, **each}) + "\n" for each in many))
        self.out.flush()

    def warn(self, sentence: str) -> None:
        complain(self.err, sentence)

    def fail(self, error: Flow512Error) -> None:
        # It may be standard output that has failed.
        with suppress(ResourceFailure, BrokenPipeError):
            self.tell("error", sentence=_without_key(str(error)), code=type(error).__name__)
        complain(self.err, error)


class Undeterred:
    """
    Speaks as another voice does, and goes on when standard output fails: what is done is worth
    doing though nobody hears of it. What is for people is said on standard error from then on.

    @ivar status: the exit status, as far as it is up to this: L{FAILED} if standard output failed.
    """

    status = DONE

    def __init__(self, voice: PlainVoice | JsonVoice) -> None:
        self._voice = voice

    def say(self, sentence: str) -> None:
        if self.status == DONE:
            self._try(lambda: self._voice.say(sentence))
        if self.status != DONE:
            self._voice.err.write(f"{sentence}\n")
            self._voice.err.flush()

    def tell(self, event: str, **fields: Value) -> None:
        if self.status == DONE:
            self._try(lambda: self._voice.tell(event, **fields))

    def say_all(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.say(sentence)

    def tell_all(self, event: str, many: Iterable[Mapping[str, Value]]) -> None:
        for each in many:
            self.tell(event, **each)

    def warn(self, sentence: str) -> None:
        self._voice.warn(sentence)

    def fail(self, error: Flow512Error) -> None:
        if self.status == DONE:
            self._voice.fail(error)
        else:
            complain(self._voice.err, error)

    def _try(self, speak: Callable[[], None]) -> None:
        try:
            speak()
        except BrokenPipeError:
            self.status = FAILED
            self.warn("Nobody reads standard output any more; what follows is said here.")
        except ResourceFailure as error:
            self.status = FAILED
            self.warn(f"{error} What follows is said here.")


def complain(err: TextIO, error: Flow512Error | str) -> None:
    """
    Write an error as one sentence, fit for a terminal whoever wrote it.
    """
    err.write(f"flow512: {escape(_without_key(str(error)))}\n")
    err.flush()


def _without_key(sentence: str) -> str:
    """Leave out the key of a join link that was typed where it does not belong, and is quoted."""
    return _KEY.sub("\N{HORIZONTAL ELLIPSIS}", sentence)
