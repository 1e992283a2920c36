"""
Whom to ask: peers as registries and beacons tell of them, and as users name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flow512.content.paths import escape
from flow512.discovery.engine import Sighting
from flow512.errors import NoSuchPeer
from flow512.link.address import HostPort, parse_address
from flow512.link.node_id import format_node_id, parse_beginning, split_node_id
from flow512.transfer.finding import Candidate
from flow512.wire.fields import Peer


def candidates_among(
    listed: Iterable[Peer], seen: Iterable[Sighting], may_ask: Callable[[bytes], bool]
) -> list[Candidate]:
    """
    Put together those whom the registry lists, and those whom the beacon sees besides.

    @param listed: peers that may be dialled.
    @param seen: what the beacon sees.
    @param may_ask: tells by node id whether somebody is to be asked at all; an empty one stands for
        somebody who does not say who he is.
    """
    found = [
        Candidate(HostPort(each.host, each.port), each.name, each.node)
        for each in listed
        if may_ask(each.node)
    ]
    # Not by id: anybody on the network can announce anybody's, at an address of their own.
    known = {each.address for each in found}
    for sighting in seen:
        port = sighting.port("node")
        if port is None or not may_ask(sighting.node_id):
            continue
        address = HostPort(sighting.host, port)
        if address not in known:
            known.add(address)
            found.append(Candidate(address, sighting.name, sighting.node_id or None))
    return found


def choose_candidate(candidates: Sequence[Candidate], wanted: str) -> Candidate:
    """
    Find the peer that a user means.

    @param candidates: those who are known.
    @param wanted: a name or the beginning of a node id of one of them, as L{parse_beginning} takes
        it, or an address, as C{ID@ADDRESS} if only that node may answer there.
    @raise NoSuchPeer: several peers are called that.
    @raise Misuse: it is none of these.
    """
    beginning = parse_beginning(wanted) or "-"
    known = [
        each
        for each in candidates
        if each.name == wanted
        or (each.node is not None and format_node_id(each.node).startswith(beginning))
    ]
    if len({each.node or each.address for each in known}) > 1:
        which = ", ".join(f"{each.address}" for each in known)
        raise NoSuchPeer(
            f"Several peers are called '{escape(wanted)}'; name one by its address: {which}."
        )
    if known:
        return known[0]
    return named_candidate(wanted)


def named_candidate(text: str) -> Candidate:
    """
    Read the address of a peer.

    @param text: C{ADDRESS}, or C{ID@ADDRESS} if only that node may answer there.
    @raise Misuse: it is none.
    """
    node, address = split_node_id(text)
    return Candidate(parse_address(address), node=node)
