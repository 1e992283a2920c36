"""
The commands about who this node is, and with whom it speaks.
"""

from __future__ import annotations

import sys

import click

from flow512.cli.invoking import agree, code_shower, notice, voice_for
from flow512.cli.options import json_option, qr_option, state_option
from flow512.cli.stopping import Interruptible
from flow512.errors import Misuse


@click.command()
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
    show = code_shower(qr=qr, as_json=as_json)
    return whoami(state or default_state(), voice, table_for(sys.stdout, voice), show)


@click.command(short_help="Make a closed network, or show the link that lets others in.")
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
    around = Surroundings(notice, agree, code_shower(qr=qr, as_json=as_json))
    return invite(invitation, voice_for(as_json), around)


@click.command()
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
    found = read_link(link[0] if link else None, sys.stdin, ask, notice)
    voice = voice_for(as_json=False)
    return join(state or default_state(), found, voice, notice, may_replace=may_replace)


@click.command()
@state_option
def leave(state: str | None) -> int:
    """
    Get out of the closed network, and forget its key.
    """
    from flow512.cli.joining import leave
    from flow512.link.identity import default_state

    return leave(state or default_state(), voice_for(as_json=False), notice)


@click.command()
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


@click.command()
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


@click.command()
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
