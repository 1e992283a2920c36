"""
C{flow512 peers} and C{flow512 ls}: who is there, and what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from flow512.cli.formatting import seconds_text
from flow512.cli.meeting import Meeting, is_address
from flow512.cli.running import Machine
from flow512.cli.tables import Table
from flow512.cli.voice import Value, Voice
from flow512.content.paths import check_prefix, escape
from flow512.content.tree import format_content_id
from flow512.errors import Flow512Error, NoSuchPeer, Unreachable
from flow512.link.address import HostPort
from flow512.link.node_id import format_node_id
from flow512.node import NodeService
from flow512.registry.leadership import Leadership
from flow512.settings import NodeSettings
from flow512.transfer.finding import DIALS_AT_ONCE, Candidate, NodeKey, cannot_be_reached, key_of
from flow512.transfer.source import SourceProtocol
from flow512.wire.messages import Entry

ID_SHOWN: Final = 15
"""Characters of a node id that a table shows, two groups; enough to name a peer by."""


class Acquaintance(msgspec.Struct, frozen=True):
    """
    A peer, and how it is known.

    @ivar node: its node id.
    @ivar name: what it calls itself; hostile until it is escaped.
    @ivar address: where it serves.
    @ivar known_by: C{"registry"}, C{"beacon"} or C{"both"}; C{"peers"} if neither knows it, and
        others have told of it, or the user.
    """

    node: bytes
    name: str
    address: HostPort
    known_by: str


def acquaintances(node: NodeService) -> list[Acquaintance]:
    """
    List everybody whom a node knows, by name.
    """
    known = {
        each.node: Acquaintance(
            each.node, each.name, HostPort(each.host, each.port), known_by="registry"
        )
        for each in node.peers
    }
    for sighting in node.neighbourhood.sightings():
        port = sighting.port("node")
        if port is None or node.neighbourhood.is_itself(sighting.node_id):
            continue
        before = known.get(sighting.node_id)
        known[sighting.node_id] = Acquaintance(
            sighting.node_id,
            sighting.name if before is None else before.name,
            HostPort(sighting.host, port) if before is None else before.address,
            "beacon" if before is None or before.known_by == "beacon" else "both",
        )
    for each in node.neighbourhood.acquaintances:
        known.setdefault(
            each.node,
            Acquaintance(each.node, each.name, HostPort(each.host, each.port), known_by="peers"),
        )
    return sorted(known.values(), key=lambda each: (each.name, each.node))


async def peers(
    machine: Machine, settings: NodeSettings, wait: float, voice: Voice, table: Table
) -> None:
    """
    Say who is there, and who leads.

    @param settings: see L{flow512.cli.getting.passing}.
    @param wait: seconds to look for peers, at most.
    @raise NoSuchPeer: nobody is.
    @raise Flow512Error: as L{Meeting.everybody}.
    """
    async with machine.node(settings) as node:
        await Meeting(machine.reactor, node, wait).everybody()
        known = acquaintances(node)
        leadership = node.leadership
    if not known:
        raise _nobody(wait)
    for each in known:
        short = format_node_id(each.node)[:ID_SHOWN]
        table.row(escape(each.name), escape(str(each.address)), short, each.known_by)
        voice.tell(
            "peer",
            name=each.name,
            address=str(each.address),
            id=format_node_id(each.node),
            known_by=each.known_by,
        )
    table.end()
    _tell_leader(leadership, {each.known_by for each in known}, voice, table)


def _tell_leader(
    leadership: Leadership | None, known_by: set[str], voice: Voice, table: Table
) -> None:
    if leadership is None:
        ways = {"beacon": "the beacon", "peers": "other peers"}
        who = " and ".join(way for by, way in ways.items() if by in known_by)
        table.remark(f"No registry lists them; they are known by {who or 'nobody else'} alone.")
        return
    claim = leadership.claim
    table.remark(
        f"Bootstrap: {escape(leadership.name) or 'a registry'} at {escape(leadership.address)},"
        f" {'appointed' if claim.appointed else 'elected'}, in term {claim.term},"
        f" since {leadership.since}: {escape(claim.why) or 'it does not say why'}."
    )
    voice.tell(
        "leader",
        name=leadership.name,
        address=leadership.address,
        id=format_node_id(claim.node),
        appointed=claim.appointed,
        term=claim.term,
        since=leadership.since,
        why=claim.why,
    )


def _nobody(wait: float) -> NoSuchPeer:
    return NoSuchPeer(
        f"Nobody was found within {seconds_text(wait)}; name a peer by its address,"
        " or a registry with --registry."
    )


class Question(msgspec.Struct, frozen=True):
    """
    Whose files are to be listed, and which.

    @ivar peer: an address, a name or the beginning of an id; everybody if empty.
    @ivar prefix: what their paths begin with.
    @ivar wait: seconds to look for peers, at most.
    """

    peer: str = ""
    prefix: str = ""
    wait: float = 5.0


async def ls(
    machine: Machine, settings: NodeSettings, question: Question, voice: Voice, table: Table
) -> None:
    """
    Say what peers share. One that cannot be asked is named on standard error, and the others
    count.

    @param settings: see L{flow512.cli.getting.passing}.
    @raise Misuse: no path can begin so.
    @raise Flow512Error: nobody could be asked.
    """
    check_prefix(question.prefix)
    async with machine.node(settings) as node:
        meeting = Meeting(machine.reactor, node, question.wait)
        candidates = await _whom(meeting, question)
        places = DeferredSemaphore(DIALS_AT_ONCE)

        async def ask(candidate: Candidate) -> SourceProtocol | Flow512Error:
            try:
                return await places.run(_connect, node, candidate)
            except Flow512Error as error:
                return error

        answers = await gatherResults([Deferred.fromCoroutine(ask(each)) for each in candidates])
        failures = [each for each in answers if isinstance(each, Flow512Error)]
        if len(failures) == len(candidates):
            if question.peer and candidates[0].node is None and not is_address(question.peer):
                raise meeting.unknown(question.peer)
            raise _unreachable(candidates, failures)
        told: set[NodeKey] = set()
        entries = 0
        for candidate, answer in zip(candidates, answers, strict=True):
            if isinstance(answer, Flow512Error):
                voice.fail(_unreachable([candidate], [answer]))
                continue
            if answer.channel is not None:
                who = key_of(replace(candidate, node=answer.channel.peer))
                if who in told:  # at another address
                    answer.leave()
                    continue
                told.add(who)
            async for page in node.fetching.client.pages(answer, question.prefix):
                entries += len(page)
                _tell_entries(candidate, page, voice, table, with_peer=not question.peer)
            answer.leave()
    table.end()
    if not entries:
        such = f" whose path begins with '{escape(question.prefix)}'" if question.prefix else ""
        table.remark(f"Nothing is shared{such} that you may see.")


def _connect(node: NodeService, candidate: Candidate) -> Deferred[SourceProtocol]:
    return Deferred.fromCoroutine(node.fetching.client.connect(candidate))


async def _whom(meeting: Meeting, question: Question) -> Sequence[Candidate]:
    if question.peer:
        return [await meeting.peer(question.peer)]
    await meeting.everybody()
    candidates = meeting.node.neighbourhood.candidates()
    if not candidates:
        raise _nobody(question.wait)
    return sorted(candidates, key=lambda each: (each.name, str(each.address)))


def _unreachable(candidates: Sequence[Candidate], failures: Sequence[Flow512Error]) -> Flow512Error:
    if len(candidates) > 1:
        return Unreachable(
            f"None of the {len(candidates)} known peers can be asked; are they still running?"
        )
    [candidate], [error] = candidates, failures
    if isinstance(error, Unreachable):
        return cannot_be_reached(candidate, error)
    return error


def _tell_entries(
    candidate: Candidate, page: Sequence[Entry], voice: Voice, table: Table, *, with_peer: bool
) -> None:
    who = [escape(candidate.name or str(candidate.address))] if with_peer else []
    table.rows(
        (*who, escape(entry.path), table.size(entry.size), table.time(entry.mtime))
        for entry in page
    )
    address = str(candidate.address)
    voice.tell_all("entry", (_told(candidate.name, address, entry) for entry in page))


def _told(peer: str, address: str, entry: Entry) -> dict[str, Value]:
    return {
        "peer": peer,
        "address": address,
        "path": entry.path,
        "bytes": entry.size,
        "mtime_ns": entry.mtime,
        "root": None if entry.root is None else format_content_id(entry.root),
        "md5": None if entry.md5 is None else entry.md5.hex(),
    }
