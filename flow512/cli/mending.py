"""
C{flow512 repair}, and C{flow512 verify} with the help of peers: a node that lives no longer than
that finds all who have the file, and tells what is wrong with the one that is here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from flow512.cli.formatting import size_text
from flow512.cli.getting import Telling
from flow512.cli.meeting import Meeting, is_address
from flow512.cli.progress import Progress
from flow512.cli.running import STOPPED, Machine
from flow512.cli.verifying import Expected, Verdicts, damage_text
from flow512.cli.voice import Voice
from flow512.content.paths import check_path, escape
from flow512.content.suspect import Damage, SuspectFile
from flow512.content.tree import format_content_id
from flow512.errors import Flow512Error, Unreachable
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.transfer.finding import Candidate, Finder, Found
from flow512.transfer.mending import Mended


class Help(msgspec.Struct, frozen=True):
    """
    Who is to help.

    @ivar peer: an address, a name, the beginning of an id; anybody if empty.
    @ivar wait: seconds to look for peers, at most.
    """

    peer: str
    wait: float


@asynccontextmanager
async def _found(
    machine: Machine, node: NodeService, expected: Expected, path: str, who: Help
) -> AsyncIterator[list[Found]]:
    """
    Find those who have what a file should be, for as long as the context lasts.

    @param path: what it is called in their shares, if its content id is not known.
    """
    meeting = Meeting(machine.reactor, node, who.wait)
    is_host = False
    linked: list[Candidate] = []
    if who.peer:
        is_host = (await meeting.peer(who.peer)).node is None and not is_address(who.peer)
    elif expected.peers:
        linked = [Candidate(each.address, node=each.node) for each in expected.peers]
    else:
        await meeting.anybody()

    async def others() -> list[Candidate]:
        await meeting.anybody()
        return node.neighbourhood.candidates()

    try:
        found = await Finder(node.fetching.client.connect, machine.reactor).find_all(
            [*node.neighbourhood.candidates_for(who.peer), *linked],
            path="" if expected.root else path,
            root=expected.root,
            others=others if linked else None,
        )
    except Unreachable:
        if is_host:
            raise meeting.unknown(who.peer) from None
        raise
    try:
        yield found
    finally:
        for each in found:
            each.source.leave()


def _check_file(expected: Expected, path: str) -> str:
    """
    Fail early: before anybody is asked, the file has to be there, and its name to be askable.

    @return: what to ask for.
    """
    suspect = SuspectFile(expected.file)
    try:
        suspect.open()
    finally:
        suspect.close()
    path = path or os.path.basename(expected.file)
    if expected.root is None:
        check_path(path)
    return path


async def verify(
    machine: Machine,
    settings: NodeSettings,
    files: Sequence[Expected],
    who: Help,
    verdicts: Verdicts,
) -> None:
    """
    Say what is wrong with files, by the digests that peers have; go on with the next after one
    that fails.

    @param settings: see L{flow512.cli.getting.passing}.
    @param verdicts: it has the exit status.
    @raise Flow512Error: the node cannot run.
    """
    async with machine.node(settings) as node:
        for each in files:
            try:
                path = _check_file(each, "")
                async with _found(machine, node, each, path, who) as found:
                    damage = await node.fetching.mender(verdicts.blame).look(found, each.file)
            except STOPPED:
                raise
            except Flow512Error as error:
                verdicts.fail(error)
            else:
                assert found[0].entry.root is not None
                verdicts.judge(each.file, found[0].entry.root, damage)


async def repair(
    machine: Machine,
    settings: NodeSettings,
    expected: Expected,
    path: str,
    who: Help,
    voice: Voice,
    progress: Progress,
) -> None:
    """
    Make a file what it should be.

    @param settings: see L{flow512.cli.getting.passing}.
    @param path: what it is called in the shares of those who have it; its own name if empty. It
        does not matter if the content id is given.
    @param progress: of looking at the file, which takes longest.
    @raise Flow512Error: as L{flow512.transfer.mending.Mender.repair}; L{Interrupted} if it was
        cancelled. Either way the file is as it was.
    """
    path = _check_file(expected, path)
    told = _Repair(expected.file, machine, voice, progress)
    with told.until_it_is_here():
        async with (
            machine.node(settings) as node,
            _found(machine, node, expected, path, who) as found,
        ):
            told.found(found[0].candidate, found[0].entry)
            progress.begin(found[0].entry, 0)
            mended = await node.fetching.mender(told.blamed).repair(
                found, expected.file, progress.grown, told.damage
            )
    told.done(mended)


class _Repair(Telling):
    """
    One repair, as it is told to the user.
    """

    def __init__(self, file: str, machine: Machine, voice: Voice, progress: Progress) -> None:
        super().__init__(machine, voice, progress)
        self._file = file

    def stopped(self) -> str:
        """Say that the file is as it was."""
        return (
            f"Stopped; '{escape(self._file)}' is not repaired yet. Run the same command again to"
            " go on."
        )

    def damage(self, damage: Damage) -> None:
        """This is wrong with it."""
        self._bar.end()
        self._voice.say(f"{escape(self._file)}: {damage_text(damage)}")
        self._voice.tell(
            "damage",
            path=self._file,
            intact=damage.is_none,
            bytes=damage.size,
            bytes_here=damage.size_here,
            blocks=damage.blocks,
            ranges=[f"{low}-{high}" for low, high in damage.ranges],
        )

    def done(self, mended: Mended) -> None:
        """It is what it should be."""
        self._voice.tell(
            "repaired",
            path=self._file,
            root=format_content_id(mended.root),
            blocks=mended.damage.blocks,
            resumed=mended.resumed,
            pieces=mended.pieces,
            fetched=mended.fetched,
        )
        if mended.damage.is_none:
            return
        pieces = "1 piece" if mended.pieces == 1 else f"{mended.pieces} pieces"
        self._voice.say(
            f"[+] Repaired and verified: {pieces} of 512 bytes came anew;"
            f" {size_text(mended.fetched)} were fetched in all."
        )
