"""
The commands: what each is called, what it takes, and whom it asks to do it.

What a command needs is imported when it runs: help and C{flow512 id} come at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Final

import click

from flow512._version import __version__
from flow512.cli import file_commands, identity_commands, network_commands
from flow512.cli.outcome import WRONG_USAGE

_WIDEST: Final = 100
"""Columns that help takes, at most."""

_NARROWEST: Final = 30
"""Columns that it takes on any terminal."""

_FOR_WORDS: Final = 46
"""Columns that what an option does has, before the option's own column may have more than 10."""


class _Help(click.HelpFormatter):
    """Help as wide as the terminal, which click takes to have 50 columns or more."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        if width is None:
            width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns)) - 2
        super().__init__(indent_increment, width, max_width)

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        super().write_dl(rows, min(col_max, max(10, self.width - _FOR_WORDS)), col_spacing)


class _Context(click.Context):
    """The context of every command."""

    formatter_class = _Help


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """
    Share folders on a network, and fetch files from others, in pieces of 512 bytes.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such file or peer, 4 the target exists,
    5 not reachable now, 6 a file is damaged (verify), 7 some of a folder was left out,
    130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return WRONG_USAGE  # counts only if there is no subcommand


for _command in (
    network_commands.serve,
    network_commands.get,
    network_commands.cat,
    network_commands.ls,
    network_commands.peers,
    network_commands.doctor,
    network_commands.console,
    network_commands.demo,
    file_commands.identify,
    file_commands.verify,
    file_commands.repair,
    file_commands.link,
    identity_commands.whoami,
    identity_commands.invite,
    identity_commands.join,
    identity_commands.leave,
    identity_commands.ban,
    identity_commands.unban,
    identity_commands.bans,
):
    _command.context_class = _Context
    cli.add_command(_command)
cli.context_class = _Context


def wants_json(arguments: Sequence[str]) -> bool:
    """
    Say whether a program is to read what a command says, though it may not have been understood.

    @param arguments: as typed.
    """
    command = cli.commands.get(arguments[0]) if arguments else None
    takes_it = command is not None and any(each.name == "as_json" for each in command.params)
    return takes_it and "--json" in arguments
