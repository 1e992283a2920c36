"""
The commands: what each is called, what it takes, and whom it asks to do it.

What a command needs is imported when it runs: help and C{flow512 id} come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import click
from msgspec.structs import replace

from flow512._version import __version__
from flow512.cli.options import (
    Reach,
    json_option,
    node_options,
    qr_option,
    rate_options,
    reach_options,
    state_option,
    verbose_option,
    wait_option,
)
from flow512.cli.outcome import WRONG_USAGE
from flow512.cli.stopping import Interruptible
from flow512.cli.voice import JsonVoice, PlainVoice, Undeterred, Voice
from flow512.errors import Misuse
from flow512.units import PIECES_PER_BLOCK

if TYPE_CHECKING:
    from flow512.cli.running import Command, Machine
    from flow512.settings import NodeSettings


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


def _run(
    command: Command,
    voice: Voice,
    *,
    verbose: bool,
    words: Callable[[str], None] | None = None,
) -> int:
    runner: Runner = click.get_current_context().obj
    return runner(command, voice, verbose=verbose, words=words)


def voice_for(as_json: bool) -> PlainVoice | JsonVoice:
    """
    Choose who is spoken to.
    """
    kind = JsonVoice if as_json else PlainVoice
    return kind(sys.stdout, sys.stderr)


def _run_undeterred(
    command: Command,
    voice: Undeterred,
    *,
    verbose: bool,
    words: Callable[[str], None] | None = None,
) -> int:
    return _run(command, voice, verbose=verbose, words=words) or voice.status


def _refuse_for(what: str, option: str, given: object) -> None:
    if given:
        raise Misuse(f"{option} is not for {what}; leave it out.")


def _notice(sentence: str) -> None:
    """Tell a person something beside what was asked for."""
    click.echo(sentence, err=True)


def _agree(sentence: str) -> None:
    """Tell a person what is about to happen; at a terminal, only if he wants it."""
    _notice(sentence)
    if sys.stdin.isatty():
        with Interruptible():
            click.confirm("Go on?", abort=True, err=True)


def _code_shower(*, qr: bool, as_json: bool) -> Callable[[str], None]:
    """
    Choose who gets to see a QR code.
    """
    from flow512.cli.qr import has_room, show_code

    def show(text: str) -> None:
        if not as_json and (qr or has_room(text, sys.stdout)):
            show_code(text, sys.stdout)

    return show


# The commands


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


@cli.command()
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
    return _run_undeterred(
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
    type=click.IntRange(1, 512),
    metavar="N",
    help="Of a file, pieces of 512 bytes in a frame; 512 if not given.",
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
        pieces or PIECES_PER_BLOCK,
        peer,
        wait,
        Checksum.NONE if no_md5 else Checksum.MD5,
    )
    if unfolding.is_folder(target):
        _refuse_for("folders", "--http-source", urls)
        _refuse_for("folders", "--run", pieces)
        getting.check_folder_target(target, wish.target)
    else:
        _refuse_for("single files", "--include", include)
        _refuse_for("single files", "--exclude", exclude)
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

    return _run_undeterred(command, voice, verbose=verbose)


@cli.command()
@click.argument("target")
@click.option("--from", "peer", default="", metavar="ADDRESS|NAME|ID", help="Whom to ask.")
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
    return _run(
        lambda machine: catting.cat(
            machine, settings, wish, sys.stdout.fileno(), offset, length, voice
        ),
        voice,
        verbose=verbose,
    )


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


@cli.command()
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

    return _run(command, voice, verbose=verbose) or found[0].status


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
@click.argument("files", nargs=-1, required=True, metavar="FILE [flow512:ID]...")
@click.option("--from", "peer", default="", metavar="ADDRESS|NAME|ID", help="Who has them.")
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
    status = _run(
        lambda machine: mending.verify(machine, settings, expected, who, verdicts),
        voice,
        verbose=verbose,
    )
    return status or verdicts.status


@cli.command()
@click.argument("file")
@click.argument("content", default="", metavar="[flow512:ID]")
@click.option("--from", "peer", default="", metavar="ADDRESS|NAME|ID", help="Whom to ask.")
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

    return _run_undeterred(command, voice, verbose=verbose)


@cli.command()
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
    show = _code_shower(qr=qr, as_json=as_json)
    return link(wanted, voice_for(as_json), _notice, show)


@cli.command()
@state_option
@qr_option
@json_option
def whoami(state: str | None, qr: bool, as_json: bool) -> int:
    """
    Print this node's id, names and addresses.
    """
    from flow512.cli.tables import table_for
    from flow512.cli.whoami import whoami
    from flow512.link.identity import default_state

    voice = voice_for(as_json)
    show = _code_shower(qr=qr, as_json=as_json)
    return whoami(state or default_state(), voice, table_for(sys.stdout, voice), show)


@cli.command()
@click.option("--name", default="", help="What the network is called; else as this machine.")
@click.option(
    "--registry",
    "registries",
    multiple=True,
    metavar="[ID@]ADDRESS",
    help="Where to register; may be repeated.",
)
@click.option(
    "--network-key-file",
    "key_file",
    metavar="FILE",
    help="Invite to the network whose key or join link this file holds.",
)
@click.option("--new", "is_new", is_flag=True, help="Replace the key; all have to join again.")
@state_option
@qr_option
@json_option
def invite(
    name: str,
    registries: tuple[str, ...],
    key_file: str | None,
    is_new: bool,
    state: str | None,
    qr: bool,
    as_json: bool,
) -> int:
    """
    Print the join link of this node's closed network, which is made the first time.

    Whoever has the link is a member.
    """
    from flow512.cli.joining import Invitation, Surroundings, invite
    from flow512.link.identity import default_state

    invitation = Invitation(state or default_state(), name, registries, key_file, is_new)
    around = Surroundings(_notice, _agree, _code_shower(qr=qr, as_json=as_json))
    return invite(invitation, voice_for(as_json), around)


@cli.command()
# Takes any number, so that it is not click that refuses a second one, and repeats it.
@click.argument("link", nargs=-1, metavar="[LINK]")
@click.option("--replace", "may_replace", is_flag=True, help="Leave another network for it.")
@state_option
def join(link: tuple[str, ...], may_replace: bool, state: str | None) -> int:
    """
    Get into the closed network of a join link.

    The link is read from standard input, or asked for and not shown: best leave it out.
    """
    from flow512.cli.joining import join, read_link
    from flow512.link.identity import default_state

    def ask() -> str:
        asked = "Join link (it is not shown)"
        with Interruptible():
            answer: str = click.prompt(
                asked, hide_input=True, default="", show_default=False, err=True
            )
        return answer

    if len(link) > 1:
        raise Misuse("A join link is one word; put it in quotes, or better paste it when asked.")
    found = read_link(link[0] if link else None, sys.stdin, ask, _notice)
    voice = voice_for(as_json=False)
    return join(state or default_state(), found, voice, _notice, may_replace=may_replace)


@cli.command()
@state_option
def leave(state: str | None) -> int:
    """
    Get out of the closed network, and forget its key.
    """
    from flow512.cli.joining import leave
    from flow512.link.identity import default_state

    return leave(state or default_state(), voice_for(as_json=False), _notice)


@cli.command()
@click.argument("node", metavar="NODE_ID")
@click.option("--reason", default="", metavar="TEXT", help="Why; `flow512 bans` shows it.")
@click.option("--for", "duration", metavar="TIME", help="How long, as in 7d or 12h; else for good.")
@state_option
@json_option
def ban(node: str, reason: str, duration: str | None, state: str | None, as_json: bool) -> int:
    """
    Speak with a node no more, wherever it is.

    A node that runs ends what it has with it at once.
    """
    import time

    from flow512.cli.banning import ban
    from flow512.link.identity import default_state

    voice = voice_for(as_json)
    state = state or default_state()
    return ban(state, node, voice, time.time, reason=reason, duration=duration)


@cli.command()
@click.argument("node", metavar="NODE_ID")
@state_option
@json_option
def unban(node: str, state: str | None, as_json: bool) -> int:
    """
    Speak with a node again that was banned.
    """
    import time

    from flow512.cli.banning import unban
    from flow512.link.identity import default_state

    return unban(state or default_state(), node, voice_for(as_json), time.time)


@cli.command()
@state_option
@json_option
def bans(state: str | None, as_json: bool) -> int:
    """
    List who is banned: id, since when, until when, why.
    """
    import time

    from flow512.cli.banning import bans
    from flow512.cli.tables import table_for
    from flow512.link.identity import default_state

    voice = voice_for(as_json)
    return bans(state or default_state(), voice, table_for(sys.stdout, voice), time.time)


@cli.command()
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

    return _run(command, voice_for(as_json=False), verbose=verbose, words=terminal.say)


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
