"""
How a command is invoked: who is spoken to, and what runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import click

from flow512.cli.stopping import Interruptible
from flow512.cli.voice import JsonVoice, PlainVoice, Undeterred, Voice
from flow512.errors import Misuse

if TYPE_CHECKING:
    from flow512.cli.running import Command


class Runner(Protocol):
    """
    Runs what a command is to do; the context's C{obj}.
    """

    def __call__(
        self,
        command: Command,
        voice: Voice,
        *,
        verbose: bool,
        words: Callable[[str], None] | None = None,
    ) -> int:
        """
        @param voice: says why it failed.
        @param verbose: whether log events of all levels but debug are shown.
        @param words: takes what nodes tell, if somebody is to read it.
        @return: the exit status.
        """
        ...


def run_command(
    command: Command,
    voice: Voice,
    *,
    verbose: bool,
    words: Callable[[str], None] | None = None,
) -> int:
    """
    Run what a command is to do.

    @return: the exit status.
    """
    runner: Runner = click.get_current_context().obj
    return runner(command, voice, verbose=verbose, words=words)


def voice_for(as_json: bool) -> PlainVoice | JsonVoice:
    """
    Choose who is spoken to.
    """
    kind = JsonVoice if as_json else PlainVoice
    return kind(sys.stdout, sys.stderr)


def run_undeterred(
    command: Command,
    voice: Undeterred,
    *,
    verbose: bool,
    words: Callable[[str], None] | None = None,
) -> int:
    """
    Run what a command is to do, even if nobody hears of it any more.

    @return: the exit status, which counts what could not be said.
    """
    return run_command(command, voice, verbose=verbose, words=words) or voice.status


def refuse_for(what: str, option: str, given: object) -> None:
    """
    Refuse an option where it means nothing.

    @raise Misuse: it was given.
    """
    if given:
        raise Misuse(f"{option} is not for {what}; leave it out.")


def notice(sentence: str) -> None:
    """Tell a person something besides what was asked for."""
    click.echo(sentence, err=True)


def agree(sentence: str) -> None:
    """Tell a person what is about to happen; at a terminal, only if he wants it."""
    notice(sentence)
    if sys.stdin.isatty():
        with Interruptible():
            click.confirm("Go on?", abort=True, err=True)


def code_shower(*, qr: bool, as_json: bool) -> Callable[[str], None]:
    """
    Choose who gets to see a QR code.
    """
    from flow512.cli.qr import has_room, show_code

    def show(text: str) -> None:
        if not as_json and (qr or has_room(text, sys.stdout)):
            show_code(text, sys.stdout)

    return show
