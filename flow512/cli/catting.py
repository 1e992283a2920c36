"""
C{flow512 cat}: write a file, or a part of it, to standard output as it comes.
"""

from __future__ import annotations

from shlex import quote

from flow512.cli.getting import Wish, is_there_a_folder, web_sources
from flow512.cli.meeting import Meeting
from flow512.cli.outcome import Interrupted
from flow512.cli.running import STOPPED, Machine
from flow512.cli.voice import Voice
from flow512.content.outlet import Outlet
from flow512.content.paths import check_path, escape
from flow512.content.tree import SCHEME, parse_content_id
from flow512.errors import Flow512Error, Misuse, NotFound, ReaderGone
from flow512.settings import NodeSettings
from flow512.transfer.finding import Candidate
from flow512.wire.messages import Entry


async def cat(
    machine: Machine,
    settings: NodeSettings,
    wish: Wish,
    out: int,
    offset: int,
    length: int | None,
    voice: Voice,
) -> None:
    """
    Write it. Nothing is written that is not verified, and nothing out of order.

    @param settings: see L{flow512.cli.getting.passing}.
    @param out: the descriptor that it is written to.
    @param offset: of the first byte that is wanted.
    @param length: how many are wanted; L{None} for all from there on.
    @param voice: says who was dropped, and why.
    @raise Flow512Error: as L{flow512.node.fetching.Fetching.stream}; L{Interrupted} if it was
        cancelled.
    @raise BrokenPipeError: nobody reads the output any more.
    """
    if wish.wanted.endswith("/"):
        raise Misuse(
            f"'{escape(wish.wanted)}' is a folder, and cat writes one file; `flow512 get` fetches"
            " folders."
        )
    if wish.wanted.startswith(SCHEME):
        parse_content_id(wish.wanted)
    else:
        check_path(wish.wanted)
    outlets: list[Outlet] = []

    def open_outlet(entry: Entry) -> Outlet:
        assert entry.root is not None
        outlets.append(Outlet(out, entry.root, entry.size, offset, length, name="standard output"))
        return outlets[-1]

    def blamed(who: Candidate, reason: Flow512Error) -> None:
        voice.warn(f"{who} was dropped: {escape(str(reason))}")

    def passed_over(who: Candidate, reason: Flow512Error) -> None:
        # Until the peer of --from is found, this is about one of its addresses.
        if wish.names(who) and (outlets or not wish.peer):
            blamed(who, reason)

    try:
        async with machine.node(settings) as node:
            meeting = Meeting(machine.reactor, node, wish.wait)
            if wish.peer:
                await meeting.peer(wish.peer)
            elif not wish.linked:
                await meeting.anybody()
            try:
                await node.fetching.stream(
                    wish.wanted,
                    open_outlet,
                    peer=wish.peer,
                    known=[Candidate(each.address, node=each.node) for each in wish.linked],
                    meet=meeting.anybody if wish.linked else None,
                    also=web_sources(machine, wish.urls, node.down),
                    blame=blamed,
                    passed_over=passed_over,
                )
            except NotFound:
                if outlets or not await is_there_a_folder(machine, node, wish):
                    raise
                raise NotFound(
                    f"'{escape(wish.wanted)}' is a folder, and cat writes one file; `flow512 get"
                    f" {quote(escape(wish.wanted) + '/')}` fetches it."
                ) from None
    except ReaderGone:
        raise BrokenPipeError from None
    except STOPPED:
        written = sum(outlet.written for outlet in outlets)
        raise Interrupted(f"Stopped after {written} bytes.") from None
