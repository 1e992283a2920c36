"""
C{flow512 invite}, C{join} and C{leave}: who is in a closed network. No network and no reactor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final, TextIO

import msgspec
from msgspec.structs import replace

from flow512.cli.outcome import DONE
from flow512.cli.voice import Voice
from flow512.cli.whoami import LocalAddresses, reached_at
from flow512.content.paths import escape
from flow512.discovery.addresses import usable_addresses
from flow512.errors import Misuse
from flow512.link.identity import read_identity
from flow512.link.introduction import MAX_NAME
from flow512.link.join_link import (
    MAX_REGISTRIES,
    JoinLink,
    Registry,
    parse_join_link,
    parse_registry,
)
from flow512.link.listening_file import read_listening
from flow512.link.network_file import (
    load_network,
    read_key_file,
    remove_network,
    store_first_network,
    store_network,
)
from flow512.wire.membership import KEY_SIZE

_MAX_INPUT: Final = 64 * 1024
"""Characters of standard input that are read; more is no join link."""


class Invitation(msgspec.Struct, frozen=True):
    """
    What somebody is to be invited to.

    @ivar state: the state folder of the member who invites.
    @ivar name: what the network is called; empty for what it is called already, or, if there is
        none yet, as the machine.
    @ivar registries: C{ADDRESS} or C{ID@ADDRESS} each; none for those that are known.
    @ivar key_file: the file of a network that the state folder is not in.
    @ivar is_new: whether the network gets a new key.
    """

    state: str
    name: str = ""
    registries: tuple[str, ...] = ()
    key_file: str | None = None
    is_new: bool = False


class Surroundings(msgspec.Struct, frozen=True):
    """
    What C{invite} finds around it.

    @ivar notice: tells a person something beside what was asked for.
    @ivar agree: tells a person what is about to happen; raises what ends the command if he does
        not want it.
    @ivar show: draws the QR code of a text, if that makes sense.
    @ivar random_bytes: gives so many of them, fit for a key.
    @ivar local_addresses: finds this machine's.
    """

    notice: Callable[[str], None]
    agree: Callable[[str], None]
    show: Callable[[str], None]
    random_bytes: Callable[[int], bytes] = os.urandom
    local_addresses: LocalAddresses = usable_addresses


def invite(invitation: Invitation, voice: Voice, around: Surroundings) -> int:
    """
    Say the join link of a network, which is made if there is none.

    @return: the exit status.
    @raise flow512.errors.Flow512Error: there is no such network, or it cannot be read or written.
    """
    given = tuple(parse_registry(each) for each in invitation.registries)
    node = read_identity(invitation.state).node
    if invitation.key_file is not None:
        network = _of_key_file(invitation, invitation.key_file)
    else:
        network = _of_state(invitation, tuple(each for each in given if each.node != node), around)
    registries = given or network.registries or _ourselves(invitation.state, node, around)
    link = replace(network, registries=registries)
    voice.say(str(link))
    voice.tell(
        "invite", link=str(link), name=link.name, registries=[str(each) for each in registries]
    )
    around.show(str(link))
    around.notice(
        f"Whoever has this link is in the network '{escape(link.name)}'."
        " On the other machine, type `flow512 join`, and paste it there."
    )
    if not registries:
        around.notice(
            "It names no registry, so only machines on the same local network will find each"
            " other; run `flow512 serve` here first, or name one with --registry."
        )
    return DONE


def _of_key_file(invitation: Invitation, path: str) -> JoinLink:
    if invitation.is_new:
        raise Misuse("A new key is not written to a key file; leave out --new or the file.")
    found = read_key_file(path)
    if isinstance(found, bytes):
        return JoinLink(invitation.name, found)
    _check_name(found, invitation.name)
    return found


def _of_state(
    invitation: Invitation, registries: tuple[Registry, ...], around: Surroundings
) -> JoinLink:
    state = invitation.state
    stored = load_network(state)
    if stored is not None and not invitation.is_new:
        _check_name(stored, invitation.name)
        return stored
    name = invitation.name or (socket.gethostname()[:MAX_NAME] if stored is None else stored.name)
    if stored is None:
        made = JoinLink(name, around.random_bytes(KEY_SIZE), registries)
        network = store_first_network(state, made)
    else:
        around.agree(
            f"With a new key the network '{escape(stored.name)}' begins anew: nodes with the old"
            " key and nodes with the new one do not find or accept each other any more. Everybody"
            " who is to stay has to join again with the new link."
        )
        registries = registries or stored.registries
        network = JoinLink(name, around.random_bytes(KEY_SIZE), registries)
        store_network(state, network)
    _remind(state, around.notice)
    return network


def _check_name(network: JoinLink, name: str) -> None:
    if name not in ("", network.name):
        raise Misuse(
            f"The network is called '{escape(network.name)}'; invite to it without --name,"
            " or make another one with --new, or in another folder with --state."
        )


def _ourselves(state: str, node: bytes, around: Surroundings) -> tuple[Registry, ...]:
    """Name the node that runs with the state folder, if any."""
    listening = read_listening(state)
    if listening is None:
        return ()
    addresses = reached_at(listening, around.local_addresses)
    return tuple(Registry(each, node) for each in addresses[:MAX_REGISTRIES])


def _remind(state: str, notice: Callable[[str], None]) -> None:
    if read_listening(state) is not None:
        notice("The node that runs with this state folder has to be started again to follow.")


def read_link(
    typed: str | None, stdin: TextIO, ask: Callable[[], str], notice: Callable[[str], None]
) -> JoinLink:
    """
    Find the join link that somebody gives.

    @param typed: what stood behind the command; C{-} or L{None} for standard input.
    @param ask: asks for it at a terminal, where it is not shown.
    @param notice: tells a person something.
    @raise Misuse: it is none.
    """
    if typed in (None, "-"):
        typed = ask() if stdin.isatty() else _read(stdin)
    elif typed:
        notice(
            "Other users of this machine could see that link, and the shell has written it down;"
            " next time type `flow512 join` alone, and paste the link when it is asked for."
        )
    if not typed or typed.isspace():
        raise Misuse("No join link was given; paste all of it when `flow512 join` asks for it.")
    return parse_join_link(typed)


def _read(stdin: TextIO) -> str:
    try:
        return stdin.read(_MAX_INPUT)
    except UnicodeDecodeError:  # which quotes what was read
        return ""


def join(
    state: str, link: JoinLink, voice: Voice, notice: Callable[[str], None], *, may_replace: bool
) -> int:
    """
    Put a state folder into a network.

    @param may_replace: whether it may be in another one now.
    @return: the exit status.
    @raise Misuse: it is in another one.
    @raise flow512.errors.Flow512Error: the folder cannot be read or written.
    """
    node = read_identity(state).node
    stored = None if may_replace else load_network(state)
    if stored is not None:
        if (stored.name, stored.key) != (link.name, link.key):
            raise Misuse(
                f"This state folder is in the network '{escape(stored.name)}' already; give"
                " --replace to leave that one for this, or another folder with --state."
            )
        link = replace(link, registries=link.registries or stored.registries)
    others = tuple(each for each in link.registries if each.node != node)
    store_network(state, replace(link, registries=others))
    voice.say(
        f"Joined the network '{escape(link.name)}'; `flow512 serve DIR` is in it from now on."
    )
    _remind(state, notice)
    return DONE


def leave(state: str, voice: Voice, notice: Callable[[str], None]) -> int:
    """
    Take a state folder out of its network.

    @return: the exit status.
    @raise flow512.errors.ResourceFailure: the network cannot be forgotten.
    """
    if remove_network(state):
        voice.say("Left the network, and forgot its key.")
        _remind(state, notice)
    else:
        voice.say("This state folder is in no network.")
    return DONE
