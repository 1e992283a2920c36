"""
The commands that speak with other nodes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from flow512.cli.invoking import refuse_for, run_command, run_undeterred, voice_for
from flow512.cli.options import (
    Reach,
    from_option,
    json_option,
    node_options,
    rate_options,
    reach_options,
    verbose_option,
    wait_option,
)
from flow512.cli.voice import PlainVoice, Undeterred
from flow512.units import LONGEST_RUN

if TYPE_CHECKING:
    from flow512.cli.running import Machine
    from flow512.settings import NodeSettings


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@node_options
@json_option
@verbose_option
def serve(folders: tuple[str, ...], settings: NodeSettings, as_json: bool, verbose: bool) -> int:
    """
    Share folders until Ctrl-C.
    """
    from flow512.cli import serving

    voice = Undeterred(voice_for(as_json))
    settings = replace(settings, shares=folders)
    return run_undeterred(
        lambda machine: serving.serve(machine, settings, voice),
        voice,
        verbose=verbose,
        words=voice.say,
    )


@click.command(short_help="Fetch a file or a folder.")
@click.argument("target")
@click.option(
    "-o", "--output", metavar="FILE|DIR", help="Where to; the current folder if not given."
)
@from_option("Whom to ask.")
@click.option(
    "--http-source", "urls", multiple=True, metavar="URL", help="A web server that has it too."
)
@click.option("--replace", "may_replace", is_flag=True, help="Take the place of another file.")
@click.option(
    "--mirror", is_flag=True, help="Of a folder, replace what differs, and say what is too much."
)
@click.option("--delete", is_flag=True, help="With --mirror, delete what is too much.")
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Of a folder, only files that fit."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Of a folder, nothing that fits.")
@click.option("--no-offer", is_flag=True, help="Pass nothing on to others meanwhile.")
@click.option("--no-md5", is_flag=True, help="Leave out the MD5; every block is verified anyway.")
@click.option(
    "--run",
    "pieces",
    type=click.IntRange(1, LONGEST_RUN),
    metavar="N",
    help="Of a file, pieces of 512 bytes in a frame, at most; 2048 if not given.",
)
@rate_options
@wait_option
@reach_options
@json_option
@verbose_option
def get(
    target: str,
    output: str | None,
    peer: str,
    urls: tuple[str, ...],
    may_replace: bool,
    mirror: bool,
    delete: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    no_offer: bool,
    no_md5: bool,
    pieces: int | None,
    up: int,
    down: int,
    wait: float,
    reach: Reach,
    as_json: bool,
    verbose: bool,
) -> int:
    """
    Fetch a file, by its path in some share, or by flow512:ID or a link; or a folder, with a slash
    at its end.

    What was fetched is kept when this is interrupted; the same command goes on from there.
    """
    from flow512.cli import getting, unfolding
    from flow512.cli.progress import ToldProgress, bar_on
    from flow512.transfer.download import Checksum

    voice = Undeterred(voice_for(as_json))
    beyond = unfolding.beyond_of(target, mirror=mirror, delete=delete)
    wish = getting.Wish(
        target,
        getting.target_of(output, may_replace=may_replace or mirror),
        pieces or LONGEST_RUN,
        peer,
        wait,
        Checksum.NONE if no_md5 else Checksum.MD5,
        is_placed=output is not None,
    )
    if unfolding.is_folder(target):
        refuse_for("folders", "--http-source", urls)
        refuse_for("folders", "--run", pieces)
        getting.check_folder_target(wish)
    else:
        refuse_for("single files", "--include", include)
        refuse_for("single files", "--exclude", exclude)
        wish = wish.with_link(urls)
    settings = reach.settings(up=up, down=down, offer_downloads=not no_offer)
    settings = getting.passing(settings, peer)

    async def command(machine: Machine) -> None:
        clock = machine.reactor
        progress = ToldProgress(voice, clock) if as_json else bar_on(sys.stderr, clock)
        if unfolding.is_folder(target):
            selection = unfolding.Selection(include, exclude)
            await unfolding.get_folder(machine, settings, wish, selection, beyond, voice, progress)
        else:
            await getting.get(machine, settings, wish, voice, progress)

    return run_undeterred(command, voice, verbose=verbose)


@click.command(short_help="Write a file to standard output as it comes.")
@click.argument("target")
@from_option("Whom to ask.")
@click.option(
    "--http-source", "urls", multiple=True, metavar="URL", help="A web server that has it too."
)
@click.option(
    "--offset", type=click.IntRange(0), default=0, metavar="BYTES", help="Where to begin; 0."
)
@click.option(
    "--length", type=click.IntRange(0), metavar="BYTES", help="How much; to the end if not given."
)
@rate_options
@wait_option
@reach_options
@verbose_option
def cat(
    target: str,
    peer: str,
    urls: tuple[str, ...],
    offset: int,
    length: int | None,
    up: int,
    down: int,
    wait: float,
    reach: Reach,
    verbose: bool,
) -> int:
    """
    Write a file to standard output as it comes, verified and in order.
    """
    from flow512.cli import catting, getting

    voice = PlainVoice(sys.stderr, sys.stderr)
    wish = getting.Wish(target, getting.target_of(None, may_replace=False), 512, peer, wait)
    wish = wish.with_link(urls)
    settings = getting.passing(reach.settings(up=up, down=down), peer)
    return run_command(
        lambda machine: catting.cat(
            machine, settings, wish, sys.stdout.fileno(), offset, length, voice
        ),
        voice,
        verbose=verbose,
    )


@click.command()
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
    return run_command(
        lambda machine: looking.ls(machine, settings, question, voice, table),
        voice,
        verbose=verbose,
    )


@click.command()
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
    return run_command(
        lambda machine: looking.peers(machine, settings, wait, voice, table),
        voice,
        verbose=verbose,
    )


@click.command(short_help="Find out what keeps this machine and others apart.")
@click.option("--listen", default="", metavar="ENDPOINT", help="Where the node is to listen.")
@wait_option
@reach_options
@json_option
@verbose_option
def doctor(listen: str, wait: float, reach: Reach, as_json: bool, verbose: bool) -> int:
    """
    Find out what keeps this machine and others apart: ports, interfaces, beacon, clock, registry,
    peers.

    Exit status 0 if nothing is wrong, 1 if something is; each line says what to do.
    """
    from flow512.cli.doctor import Doctor

    voice = voice_for(as_json)
    settings = reach.settings(listen=listen)
    found: list[Doctor] = []

    async def command(machine: Machine) -> None:
        found.append(Doctor(machine, voice, wait))
        await found[0].examine(settings)
        found[0].end()

    return run_command(command, voice, verbose=verbose) or found[0].status


@click.command()
@click.argument("folder", default=".", metavar="[DIR]")
@node_options
@verbose_option
def console(folder: str, settings: NodeSettings, verbose: bool) -> int:
    """
    Share a folder, and download into it by question and answer.
    """
    from flow512.cli.console import Dialogue
    from flow512.cli.terminal import Terminal

    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())
    settings = replace(settings, downloads=folder)

    async def command(machine: Machine) -> None:
        async with terminal.opened(), machine.node(settings) as node:
            await Dialogue(node, terminal).hold()

    return run_command(command, voice_for(as_json=False), verbose=verbose, words=terminal.say)


@click.command(short_help="Watch a registry and two nodes at work, on this machine alone.")
@verbose_option
def demo(verbose: bool) -> int:
    """
    Watch a registry and two nodes move and verify a file, on this machine alone.
    """
    from flow512.cli.demo import demo
    from flow512.cli.stage import Stage

    stage = Stage(sys.stdout, sys.stderr)
    return run_command(lambda machine: demo(machine, stage), stage, verbose=verbose)
