"""
The commands about local files: what they are, whether they are whole, how others get them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from flow512.cli.invoking import code_shower, notice, run_command, run_undeterred, voice_for
from flow512.cli.options import (
    Reach,
    from_option,
    json_option,
    qr_option,
    reach_options,
    state_option,
    verbose_option,
    wait_option,
)
from flow512.cli.voice import Undeterred

if TYPE_CHECKING:
    from flow512.cli.running import Machine


@click.command("id")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
def identify(paths: tuple[str, ...], as_json: bool) -> int:
    """
    Print content id and MD5 of local files.
    """
    from flow512.cli.identifying import identify

    return identify(paths, voice_for(as_json))


@click.command(short_help="Say whether local files are damaged, and where.")
@click.argument("files", nargs=-1, required=True, metavar="FILE [flow512:ID]...")
@from_option("Who has them.")
@wait_option
@reach_options
@json_option
@verbose_option
def verify(
    files: tuple[str, ...], peer: str, wait: float, reach: Reach, as_json: bool, verbose: bool
) -> int:
    """
    Say whether local files are what they should be, and where they are not.

    Each should have the content id behind it. Without one, it should be what is in the catalog, or
    what the peer of --from has by its name. Nothing is changed.
    """
    from flow512.cli import mending, verifying
    from flow512.cli.getting import passing
    from flow512.link.identity import default_state

    expected = verifying.expected_of(files)
    voice = voice_for(as_json)
    verdicts = verifying.Verdicts(voice)
    if not peer:
        return verifying.verify(expected, reach.state or default_state(), verdicts)
    settings = passing(reach.settings(), peer)
    who = mending.Help(peer, wait)
    status = run_command(
        lambda machine: mending.verify(machine, settings, expected, who, verdicts),
        voice,
        verbose=verbose,
    )
    return status or verdicts.status


@click.command()
@click.argument("file")
@click.argument("content", default="", metavar="[flow512:ID]")
@from_option("Whom to ask.")
@click.option("--as", "path", default="", metavar="PATH", help="What it is called there.")
@wait_option
@reach_options
@json_option
@verbose_option
def repair(
    file: str,
    content: str,
    peer: str,
    path: str,
    wait: float,
    reach: Reach,
    as_json: bool,
    verbose: bool,
) -> int:
    """
    Mend a damaged local file by fetching only the damaged pieces.

    What it should be is said by its content id, or else by its name in the share of whoever has
    it. It stays as it is until a verified replacement is on the disk.
    """
    from flow512.cli import mending, verifying
    from flow512.cli.getting import passing
    from flow512.cli.progress import ToldProgress, bar_on
    from flow512.link.content_link import parse_content_link

    expected = verifying.Expected(file)
    if content:
        link = parse_content_link(content)
        expected = verifying.Expected(file, link.root, link.peers)
    voice = Undeterred(voice_for(as_json))
    settings = passing(reach.settings(), peer)
    who = mending.Help(peer, wait)

    async def command(machine: Machine) -> None:
        clock = machine.reactor
        progress = ToldProgress(voice, clock) if as_json else bar_on(sys.stderr, clock)
        await mending.repair(machine, settings, expected, path, who, voice, progress)

    return run_undeterred(command, voice, verbose=verbose)


@click.command(short_help="Print links of local files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--http", "urls", multiple=True, metavar="URL", help="Where the web has it too.")
@state_option
@qr_option
@json_option
def link(
    files: tuple[str, ...], urls: tuple[str, ...], state: str | None, qr: bool, as_json: bool
) -> int:
    """
    Print links of local files, for others to fetch them with `flow512 get`.

    A link says what the file is, what it is called, and where the node is that shares it.
    """
    from flow512.cli.linking import Wanted, link
    from flow512.link.identity import default_state

    wanted = Wanted(files, state or default_state(), urls)
    show = code_shower(qr=qr, as_json=as_json)
    return link(wanted, voice_for(as_json), notice, show)
