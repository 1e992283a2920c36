"""
C{flow512 ban}, C{unban} and C{bans}: with whom this node does not speak. No network and no reactor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from flow512.cli.formatting import exact_time_text
from flow512.cli.outcome import DONE
from flow512.cli.tables import Table
from flow512.cli.voice import Voice
from flow512.content.paths import escape
from flow512.errors import Misuse, NotFound
from flow512.link.bans import BANS_FILE, Ban, Bans
from flow512.link.identity import read_identity
from flow512.link.node_id import format_node_id, parse_node_id

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION: Final = re.compile(r"([0-9]{1,10})([smhdw])", re.ASCII)

Now: TypeAlias = Callable[[], float]
"""Gives the time in seconds since 1970."""


def parse_duration(text: str) -> int:
    """
    Read how long something is to last.

    @param text: a number and a unit, such as C{7d}: of seconds, minutes, hours, days, weeks.
    @return: seconds.
    @raise Misuse: it is something else.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Misuse(
            f"'{escape(text)}' is no length of time; give a number and s, m, h, d or w, as in 7d."
        )
    return int(match[1]) * _SECONDS[match[2]]


def ban(
    state: str, node: str, voice: Voice, now: Now, *, reason: str = "", duration: str | None = None
) -> int:
    """
    Ban a node; one that is banned already gets the new reason and end.

    @param state: the state folder of the node that is to speak with it no more.
    @param node: its node id, as people write it.
    @param duration: for how long, as L{parse_duration} takes it; L{None} for good.
    @return: the exit status.
    @raise flow512.errors.Flow512Error: one of these makes no sense, or the bans cannot be written.
    """
    banned = parse_node_id(node)
    seconds = None if duration is None else parse_duration(duration)
    if banned == read_identity(state).node:
        raise Misuse("That is this node itself; it cannot do without speaking with itself.")
    made = _bans(state, now).ban(banned, reason, seconds)
    voice.say(f"{format_node_id(banned)}: {made}")
    _tell(voice, "banned", made)
    return DONE


def unban(state: str, node: str, voice: Voice, now: Now) -> int:
    """
    End the ban of a node.

    @param state: the state folder.
    @param node: its node id, as people write it.
    @return: the exit status.
    @raise NotFound: it is not banned.
    @raise flow512.errors.Flow512Error: the id makes no sense, or the bans cannot be written.
    """
    banned = parse_node_id(node)
    shown = format_node_id(banned)
    held = _bans(state, now).unban(banned) if os.path.isdir(state) else None
    if held is None:
        raise NotFound(f"{shown} is not banned; `flow512 bans` lists who is.")
    voice.say(f"{shown} is banned no more.")
    _tell(voice, "unbanned", held)
    return DONE


def bans(state: str, voice: Voice, table: Table, now: Now) -> int:
    """
    List the bans that hold.

    @param state: the state folder, which need not be there.
    @return: the exit status.
    @raise flow512.errors.Flow512Error: they cannot be read.
    """
    active = _bans(state, now).active()
    for each in active:
        table.row(
            format_node_id(each.node),
            table.time(each.since * 10**9),
            "without end" if each.until is None else table.time(each.until * 10**9),
            escape(each.reason),
        )
        _tell(voice, "ban", each)
    table.end()
    if not active:
        table.remark("Nobody is banned.")
    return DONE


def _bans(state: str, now: Now) -> Bans:
    return Bans(os.path.join(state, BANS_FILE), now)


def _tell(voice: Voice, event: str, ban: Ban) -> None:
    voice.tell(
        event,
        id=format_node_id(ban.node),
        reason=ban.reason,
        since=exact_time_text(ban.since * 10**9),
        until=None if ban.until is None else exact_time_text(ban.until * 10**9),
    )
