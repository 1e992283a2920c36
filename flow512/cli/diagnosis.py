"""
What C{flow512 doctor} makes of what it has found: facts in, findings out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

import msgspec

from flow512.content.paths import escape
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.echo import Trial, Way
from flow512.errors import Flow512Error
from flow512.link.bans import BANS_FILE, Bans
from flow512.link.identity import has_identity, read_identity
from flow512.link.network_file import load_network
from flow512.registry.memory import read_memory

LEAST_SPACE: Final = 16 * 2**20
"""Bytes that the disk with the state folder should have left."""


class Verdict(Enum):
    """How bad a finding is."""

    FINE = "fine"
    NOTE = "note"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """
    One thing that was looked at.

    @ivar check: which: C{state}, C{port}, C{interfaces}, C{beacon}, C{clock}, C{registry},
        C{reachability} or C{peers}.
    @ivar sentence: what is so.
    @ivar advice: what to do; empty for nothing.
    """

    check: str
    verdict: Verdict
    sentence: str
    advice: str = ""


def fine(check: str, sentence: str) -> Finding:
    """Say that nothing is wrong with it."""
    return Finding(check, Verdict.FINE, sentence)


def note(check: str, sentence: str, advice: str = "") -> Finding:
    """Say something that may be meant so."""
    return Finding(check, Verdict.NOTE, sentence, advice)


def wrong(check: str, sentence: str, advice: str) -> Finding:
    """Say what is wrong, and what to do."""
    return Finding(check, Verdict.WRONG, sentence, advice)


# The state folder


def _nearest(path: str) -> str:
    """The folder itself, or the one above it that is there."""
    path = os.path.abspath(path)
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _space(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def examine_state(
    path: str,
    *,
    access: Callable[[str, int], bool] = os.access,
    space: Callable[[str], int] = _space,
) -> list[Finding]:
    """
    Look at a state folder, and change nothing.

    @param path: the folder, which need not be there.
    @param access: says what this process may do, as C{os.access} does.
    @param space: says how many bytes are free there.
    """
    shown = escape(path)
    other = "Choose another with --state."
    place = _nearest(path)
    is_there = os.path.lexists(path)
    if not os.path.isdir(place):
        return [wrong("state", f"The state folder '{shown}' is, or lies in, no folder.", other)]
    if not access(place, os.R_OK | os.W_OK | os.X_OK):
        what = "may not be read and written" if is_there else "cannot be made"
        return [wrong("state", f"The state folder '{shown}' {what} by this user.", other)]
    found = []
    if space(place) < LEAST_SPACE:
        sentence = f"The disk with the state folder '{shown}' is almost full."
        found.append(wrong("state", sentence, "Free some space on it."))
    if not is_there:
        return [*found, fine("state", f"The state folder '{shown}' will be made when it is used.")]
    for look in (_look_at_identity, load_network, _look_at_bans):
        try:
            look(path)
        except Flow512Error as error:
            found.append(_in_the_way(str(error)))
    try:
        read_memory(path)
    except Flow512Error as error:
        found.append(note("state", str(error)))
    return found or [fine("state", f"The state folder '{shown}' is as it should be.")]


def _in_the_way(sentence: str) -> Finding:
    # These sentences say what to do themselves.
    return wrong("state", sentence, "No node starts with it as it is.")


def _look_at_identity(path: str) -> None:
    if has_identity(path):
        read_identity(path)


def _look_at_bans(path: str) -> None:
    Bans(os.path.join(path, BANS_FILE), lambda: 0.0)


# The port


class Owner(Enum):
    """Who has a port."""

    NOBODY = "nobody"
    OURS = "our node"
    OURS_SILENT = "our node, which does not answer"
    NODE = "another node"
    REGISTRY = "a registry"
    STRANGER = "a node of another network"
    PROGRAM = "another program"


def judge_port(port: int, owner: Owner, *, is_insisted: bool) -> Finding:
    """
    Judge who has the port.

    @param port: the TCP port.
    @param owner: who has it.
    @param is_insisted: whether the user wants that one and no other.
    """
    if owner is Owner.NOBODY:
        return fine("port", f"TCP port {port} is free, and can be listened on.")
    if owner is Owner.OURS:
        return fine("port", f"Your node runs, and answers on TCP port {port}.")
    if owner is Owner.OURS_SILENT:
        return wrong(
            "port",
            f"Your node runs, and does not answer on TCP port {port}.",
            "See what its log says, and start it again.",
        )
    who = {
        Owner.NODE: "another flow512 node",
        Owner.REGISTRY: "a flow512 registry",
        Owner.STRANGER: "a flow512 node of another network",
    }.get(owner, "another program")
    sentence = f"TCP port {port} is taken by {who} on this machine."
    if is_insisted:
        return wrong("port", sentence, "End that, or choose another port with --listen.")
    return note(
        "port",
        sentence,
        "A node takes a free port instead, another each time; choose one with --listen if a"
        " firewall is to let it through.",
    )


# The interfaces, and the beacon


def judge_interfaces(addresses: Sequence[LocalAddress]) -> Finding:
    """
    Judge the addresses that the beacon uses.
    """
    shown = ", ".join(f"{each.address} ({escape(each.interface)})" for each in addresses)
    cable = "Plug in the cable, or join the wireless network."
    if all(each.is_loopback for each in addresses):
        return wrong("interfaces", "This machine has no address on any network.", cable)
    if all(each.is_link_local or each.is_loopback for each in addresses):
        sentence = f"This machine has only addresses of its own link: {shown}."
        return note("interfaces", sentence, "Others are reached on the same link only.")
    return fine("interfaces", f"This machine's addresses: {shown}.")


def judge_echo(port: int, trials: Sequence[Trial]) -> list[Finding]:
    """
    Judge what this machine has heard of what it sent to everybody.

    @param port: the beacon's UDP port.
    @param trials: of each address, each way.
    """
    found = []
    for address in dict.fromkeys(each.address for each in trials):
        ways = [each for each in trials if each.address == address]
        failed = [each for each in ways if not each.heard]
        where = f"on {escape(address.interface)} ({address.address})"
        if not failed:
            names = " and ".join(each.way.value for each in ways)
            found.append(fine("beacon", f"{_upper(names)} {where} can be sent and heard."))
            continue
        names = " and ".join(each.way.value for each in failed)
        errors = "; ".join(dict.fromkeys(escape(each.error) for each in failed if each.error))
        why = f" ({errors})" if errors else ""
        sentence = f"{_upper(names)} {where} is not heard on this machine itself{why}."
        if len(failed) < len(ways):
            found.append(note("beacon", sentence, "The other way is enough on most networks."))
        elif ways[0].way is Way.MULTICAST6 and any(each.heard for each in trials):
            found.append(note("beacon", sentence, "Where there is IPv4, that is enough."))
        else:
            advice = f"Allow UDP port {port} in this machine's firewall."
            if errors:
                advice = "If another program has the port, choose another with --beacon-port, the"
                advice += " same on all machines."
            found.append(wrong("beacon", sentence, advice))
    return found


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def judge_sightings(names: Sequence[str]) -> Finding:
    """
    Judge whom the beacon sees.

    @param names: of them; hostile until they are escaped.
    """
    if not names:
        return note(
            "beacon",
            "The beacon sees nobody.",
            "If somebody is there: his machine's firewall has to allow UDP from the local network,"
            " and the network may keep its machines apart (guest networks do). An address that is"
            " named with --peer needs no beacon.",
        )
    some = ", ".join(escape(each) for each in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return fine("beacon", f"The beacon sees {len(names)}: {some}{more}.")


def judge_clock(off: Sequence[tuple[str, float]], *, is_closed: bool, sees: bool) -> Finding:
    """
    Judge the clock, as far as the beacons of a closed network tell.

    @param off: the members whose clocks are too far away: address, and seconds that they are late.
    @param is_closed: whether this is a closed network.
    @param sees: whether the beacon sees any member.
    """
    if off:
        some = ", ".join(f"{host} by {abs(late):.0f} seconds" for host, late in off[:8])
        if len(off) > 1 and not sees:
            return wrong(
                "clock",
                f"This machine's clock differs from those of all members that are heard: {some}.",
                "Set it right, best by a time server.",
            )
        return wrong(
            "clock",
            f"The clocks of this machine and of others are too far apart: {some}.",
            "Set the wrong one right; till then their beacons do not see each other.",
        )
    if not is_closed:
        return fine("clock", "No clock is compared: nothing in an open network depends on it.")
    if not sees:
        return note("clock", "No member is heard with whose clock this one could be compared.")
    return fine("clock", "The clocks of all members that are heard are near enough.")


# The registry, and the peers


class Registered(msgspec.Struct, frozen=True):
    """
    What became of registering.

    @ivar named: the registry that the user named; empty for none.
    @ivar at: the one that lists this machine now; empty for none.
    @ivar trouble: why none does, if it said so.
    @ivar peers: how many it lists.
    @ivar is_other: whether it is certainly not the one that was named.
    """

    named: str = ""
    at: str = ""
    trouble: str = ""
    peers: int = 0
    is_other: bool = False


def judge_registry(it: Registered) -> Finding:
    """
    Judge what became of registering.
    """
    if it.at and it.is_other:
        return note(
            "registry",
            f"The registry at {escape(it.named)} does not answer; the one at {it.at} takes its"
            f" place, and lists {_peers(it.peers)}.",
        )
    if it.at:
        return fine("registry", f"The registry at {it.at} lists {_peers(it.peers)}.")
    if it.trouble:
        return wrong(
            "registry",
            f"The registry does not take this machine: {it.trouble.rstrip('.')}.",
            "Ask whoever runs it, or name another with --registry.",
        )
    if it.named:
        return wrong(
            "registry",
            f"The registry at {escape(it.named)} does not answer.",
            "See whether it runs there, and whether a firewall between lets its TCP port through.",
        )
    return note(
        "registry",
        "No registry was found.",
        "The first node that serves becomes it; name one with --registry if there is one.",
    )


class Reached(Enum):
    """Whether others reach this machine, by the word of a registry."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def judge_reachability(reached: Reached, port: int, why: str = "") -> Finding:
    """
    Judge whether others can connect to this machine.

    @param reached: what the registry says.
    @param port: where it tried.
    @param why: why not, in its words, escaped.
    """
    if reached is Reached.YES:
        return fine("reachability", f"The registry reached this machine at TCP port {port}.")
    if reached is Reached.UNKNOWN:
        return note(
            "reachability",
            "Whether others reach this machine is not known: no registry has tried.",
        )
    because = f": {why.rstrip('.')}" if why else ""
    return wrong(
        "reachability",
        f"The registry cannot reach this machine at TCP port {port}{because}.",
        f"Allow TCP port {port} in this machine's firewall, or in the router; whoever only fetches"
        " needs none.",
    )


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


def judge_peers(answering: int, failed: Sequence[tuple[str, str]]) -> list[Finding]:
    """
    Judge which peers answer.

    @param answering: how many do.
    @param failed: those that do not, and why; escaped.
    """
    asked = answering + len(failed)
    if not asked:
        advice = "Start a node on another machine, or name one with --peer."
        return [note("peers", "No peer is known.", advice)]
    found = [
        note("peers", f"{who} cannot be reached: {why.rstrip('.')}.") for who, why in failed[:8]
    ]
    if answering:
        said = "The peer that was tried answers."
        if asked > 1:
            verb = "answers" if answering == 1 else "answer"
            said = f"{answering} of {asked} peers that were tried {verb}."
        return [*found, fine("peers", said)]
    none = f"None of the {asked} peers that were tried answers."
    if asked == 1:
        none = "The peer that was tried does not answer."
    advice = "If it runs, a firewall between here and there has to let its TCP port through."
    return [*found, wrong("peers", none, advice)]
