"""
The commands: what each is called, what it takes, and whom it asks to do it.

What a command needs is imported when it runs: help and C{flow512 id} come at once.
"""

from __future__ import annotations

import click

from flow512._version import __version__
from flow512.cli import file_commands, identity_commands, network_commands
from flow512.cli.outcome import WRONG_USAGE


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
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
    cli.add_command(_command)
