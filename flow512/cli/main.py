"""
C{flow512}: the commands, their options, and nothing else.

What a command needs is imported when it runs: help and C{flow512 id} come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from flow512._version import __version__
from flow512.cli.outcome import DONE, FAILED, Interrupted, status_of
from flow512.cli.voice import JsonVoice, PlainVoice, Voice, complain
from flow512.errors import Flow512Error, Misuse

if TYPE_CHECKING:
    from flow512.cli.running import Command, Machine
    from flow512.settings import NodeSettings

_F = TypeVar("_F", bound=Callable[..., Any])

WRONG_USAGE: Final = 2
MODES: Final = ("auto", "always", "never")
WAIT: Final = 5.0
"""Seconds that a command looks for peers, unless told otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    @param arguments: as typed; those of this process unless given.
    @return: the exit status.
    """
    try:
        status = cli.main(arguments, prog_name="flow512", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return WRONG_USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = "flow512" if context is None else context.command_path
        sentence = error.format_message().rstrip(".")
        complain(sys.stderr, Misuse(f"{sentence}; see `{where} --help`."))
        return WRONG_USAGE
    except Flow512Error as error:
        complain(sys.stderr, error)
        return status_of(error)
    except (KeyboardInterrupt, click.Abort):
        stopped = Interrupted("Stopped.")
        complain(sys.stderr, stopped)
        return status_of(stopped)
    except BrokenPipeError:
        status = FAILED
    return _flushed(status)


def _flushed(status: int | None) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this has seen enough; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status or DONE


# Options that several commands have


@dataclass(frozen=True)
class Reach:
    """
    How far a command's node looks.

    @ivar registry: the registry's address; L{None} to look for one.
    @ivar network: the name of the network.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: those that the beacon uses; all if empty.
    """

    registry: str | None
    network: str
    beacon_port: int | None
    interfaces: tuple[str, ...]

    def settings(self, **more: Any) -> NodeSettings:
        """
        Make a node's settings.

        @param more: see L{NodeSettings}.
        @raise Misuse: one of them makes no sense.
        """
        from flow512.discovery.beacon import PORT
        from flow512.link.address import parse_address
        from flow512.settings import NodeSettings

        return NodeSettings(
            registry=None if self.registry is None else parse_address(self.registry),
            network=self.network,
            beacon_port=PORT if self.beacon_port == 0 else self.beacon_port,
            interfaces=self.interfaces,
            **more,
        )


def reach_options(command: _F) -> _F:
    """
    Give a command the options of L{Reach}; it takes it as C{reach}.
    """

    @click.option(
        "--registry", metavar="ADDRESS", help="The registry; found by beacon if not given."
    )
    @click.option("--network", metavar="NAME", default="", help="Only nodes of this network.")
    @click.option("--no-beacon", is_flag=True, help="Look for nobody by UDP, and announce nothing.")
    @click.option(
        "--beacon-port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help="The beacon's UDP port, if not 5120.",
    )
    @click.option(
        "--interface",
        "interfaces",
        multiple=True,
        metavar="NAME|ADDRESS",
        help="Beacon on this interface only; may be repeated.",
    )
    @wraps(command)
    def with_reach(
        *,
        registry: str | None,
        network: str,
        no_beacon: bool,
        beacon_port: int | None,
        interfaces: tuple[str, ...],
        **options: Any,
    ) -> Any:
        port = None if no_beacon else beacon_port or 0
        return command(reach=Reach(registry, network, port, interfaces), **options)

    return with_reach  # type: ignore[return-value]  # click calls it by keywords alone


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show what happens inside.")
wait_option = click.option(
    "--wait",
    type=click.FloatRange(0),
    default=WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long to look for peers.",
)


def voice_for(as_json: bool) -> Voice:
    """
    Choose who is spoken to.
    """
    kind = JsonVoice if as_json else PlainVoice
    return kind(sys.stdout, sys.stderr)


def _run(
    command: Command, voice: Voice, *, verbose: bool, words: Callable[[str], None] | None = None
) -> int:
    from twisted.logger import LogLevel

    from flow512.cli.logs import begin_logging
    from flow512.cli.running import run

    begin_logging(sys.stderr, LogLevel.info if verbose else LogLevel.warn, words)
    return run(command, voice)


# The commands


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """
    Share folders on a network, and fetch files from others, in pieces of 512 bytes.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such file or peer, 4 the target exists,
    5 not reachable now, 130 interrupted.
    """


@cli.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--listen", default="", metavar="ENDPOINT", help="Where; tcp:5000 if it is free.")
@click.option("--name", default="", help="What others are shown; the machine's name if not given.")
@click.option("--state", metavar="DIR", help="The folder for identity and catalog.")
@click.option(
    "--bootstrap",
    type=click.Choice(MODES),
    default="auto",
    show_default=True,
    help="Whether to carry the registry.",
)
@reach_options
@json_option
@verbose_option
def serve(
    folders: tuple[str, ...],
    listen: str,
    name: str,
    state: str | None,
    bootstrap: str,
    reach: Reach,
    as_json: bool,
    verbose: bool,
) -> int:
    """
    Share folders until Ctrl-C.
    """
    from flow512.cli import serving
    from flow512.discovery.election import Mode
    from flow512.link.identity import default_state

    voice = voice_for(as_json)
    settings = reach.settings(
        shares=folders,
        listen=listen,
        name=name,
        state=state or default_state(),
        bootstrap=Mode(bootstrap),
    )
    return _run(
        lambda machine: serving.serve(machine, settings, voice),
        voice,
        verbose=verbose,
        words=voice.say,
    )


@cli.command()
@click.argument("target")
@click.option(
    "-o", "--output", metavar="FILE|DIR", help="Where to; the current folder if not given."
)
@click.option("--from", "peer", default="", metavar="ADDRESS|NAME|ID", help="Whom to ask.")
@click.option("--replace", "may_replace", is_flag=True, help="Take the place of another file.")
@click.option("--no-md5", is_flag=True, help="Leave out the MD5; every block is verified anyway.")
@click.option(
    "--run",
    "pieces",
    type=click.IntRange(1, 512),
    default=512,
    show_default=True,
    metavar="N",
    help="Pieces of 512 bytes in a frame.",
)
@wait_option
@reach_options
@json_option
@verbose_option
def get(
    target: str,
    output: str | None,
    peer: str,
    may_replace: bool,
    no_md5: bool,
    pieces: int,
    wait: float,
    reach: Reach,
    as_json: bool,
    verbose: bool,
) -> int:
    """
    Fetch a file, by its path in some share or by flow512:ID.

    What was fetched is kept when this is interrupted; the same command goes on from there.
    """
    from flow512.cli import getting
    from flow512.cli.progress import ToldProgress, bar_on
    from flow512.transfer.download import Checksum

    voice = voice_for(as_json)
    wish = getting.Wish(
        target,
        getting.target_of(output, may_replace=may_replace),
        pieces,
        peer,
        wait,
        Checksum.NONE if no_md5 else Checksum.MD5,
    )
    settings = getting.passing(reach.settings(), peer)

    async def command(machine: Machine) -> None:
        clock = machine.reactor
        progress = ToldProgress(voice, clock) if as_json else bar_on(sys.stderr, clock)
        await getting.get(machine, settings, wish, voice, progress)

    return _run(command, voice, verbose=verbose)


@cli.command()
@click.argument("peer", default="")
@click.option("--prefix", default="", metavar="PATH", help="Only paths that begin with this.")
@wait_option
@reach_options
@json_option
@verbose_option
def ls(peer: str, prefix: str, wait: float, reach: Reach, as_json: bool, verbose: bool) -> int:
    """
    List what peers share: path, size, time.

    PEER is an address, a name or the beginning of an id; without one, everybody is listed.
    """
    from flow512.cli import looking
    from flow512.cli.getting import passing
    from flow512.cli.tables import table_for

    voice = voice_for(as_json)
    table = table_for(sys.stdout, voice)
    settings = passing(reach.settings(), peer)
    question = looking.Question(peer, prefix, wait)
    return _run(
        lambda machine: looking.ls(machine, settings, question, voice, table),
        voice,
        verbose=verbose,
    )


@cli.command()
@wait_option
@reach_options
@json_option
@verbose_option
def peers(wait: float, reach: Reach, as_json: bool, verbose: bool) -> int:
    """
    List who is there: name, address, id, and how they are known.
    """
    from flow512.cli import looking
    from flow512.cli.getting import passing
    from flow512.cli.tables import table_for

    voice = voice_for(as_json)
    table = table_for(sys.stdout, voice)
    settings = passing(reach.settings(), "")
    return _run(
        lambda machine: looking.peers(machine, settings, wait, voice, table),
        voice,
        verbose=verbose,
    )


@cli.command("id")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
def identify(paths: tuple[str, ...], as_json: bool) -> int:
    """
    Print content id and MD5 of local files.
    """
    from flow512.cli.identifying import identify

    return identify(paths, voice_for(as_json))


@cli.command()
@click.argument("folder", default=".", metavar="[DIR]")
@click.option("--listen", default="", metavar="ENDPOINT", help="Where; tcp:5000 if it is free.")
@click.option("--name", default="", help="What others are shown; the machine's name if not given.")
@click.option("--state", metavar="DIR", help="The folder for identity and catalog.")
@click.option(
    "--bootstrap",
    type=click.Choice(MODES),
    default="auto",
    show_default=True,
    help="Whether to carry the registry.",
)
@reach_options
@verbose_option
def console(
    folder: str,
    listen: str,
    name: str,
    state: str | None,
    bootstrap: str,
    reach: Reach,
    verbose: bool,
) -> int:
    """
    Share a folder, and download into it by question and answer.
    """
    from flow512.cli.console import Dialogue
    from flow512.cli.terminal import Terminal
    from flow512.discovery.election import Mode
    from flow512.link.identity import default_state

    voice = voice_for(False)
    settings = reach.settings(
        downloads=folder,
        listen=listen,
        name=name,
        state=state or default_state(),
        bootstrap=Mode(bootstrap),
    )
    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())

    async def command(machine: Machine) -> None:
        async with terminal.opened(), machine.node(settings) as node:
            await Dialogue(node, terminal).hold()

    return _run(command, voice, verbose=verbose, words=terminal.say)


@cli.command()
@verbose_option
def demo(verbose: bool) -> int:
    """
    Watch a registry and two nodes move and verify a file, on this machine alone.
    """
    from flow512.cli.demo import demo
    from flow512.cli.stage import Stage

    stage = Stage(sys.stdout, sys.stderr)
    return _run(lambda machine: demo(machine, stage), stage, verbose=verbose)
