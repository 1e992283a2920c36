"""
Between what is said of leaders on the wire and what an election is told and says.
"""

from __future__ import annotations

from collections.abc import Iterable

from flow512.discovery.claims import Claim, Heir, Origin, RegistryOffer
from flow512.discovery.sightings import Sighting
from flow512.registry.acquaintances import Met
from flow512.registry.peer_list import as_reached, can_be_dialled
from flow512.wire.fields import Peer
from flow512.wire.leading import Leader

REGISTRY = "registry"
"""The kind of what beacons offer that can be followed."""


def offers_seen(sightings: Iterable[Sighting]) -> list[RegistryOffer]:
    """
    Give the registries that a beacon sees.
    """
    return [
        RegistryOffer(
            sighting.host,
            offer.port,
            sighting.node_id,
            term=offer.term,
            since=offer.since,
            appointed=offer.appointed,
            origin=Origin.BEACON,
        )
        for sighting in sightings
        for offer in sighting.offers
        if offer.kind == REGISTRY
    ]


def offers_known(registries: Iterable[Met]) -> list[RegistryOffer]:
    """
    Give the registries that have listed this node at some time, and those that peers told of.
    """
    return [
        RegistryOffer(
            each.peer.host,
            each.peer.port,
            each.peer.node,
            origin=Origin.PEER if each.at is None else Origin.MEMORY,
        )
        for each in registries
    ]


def offer_told(told: Leader, told_by: str) -> RegistryOffer | None:
    """
    Read what somebody tells of another registry, or of his own.

    @param told_by: the address that he is reached at: loopback is his own machine, and an address
        of a link is on the link to him.
    @return: L{None} if nobody could be dialled there.
    """
    if not told.port:
        return None
    host = told.host or told_by
    peer = as_reached(Peer(told.node, "", host, told.port), told_by)
    if not can_be_dialled(peer):
        return None
    return RegistryOffer(
        peer.host,
        told.port,
        told.node,
        term=told.term,
        since=told.since,
        appointed=told.appointed,
        origin=Origin.REGISTRY,
    )


def leader_at(address: tuple[str, int] | None, claim: Claim) -> Leader | None:
    """
    Say where somebody leads.

    @param address: that he was reached at.
    @return: L{None} if there is no address that others could use.
    """
    if address is None or not address[1]:
        return None
    host, port = address
    return Leader(
        claim.node, claim.term, claim.since, claim.appointed, host.partition("%")[0], port
    )


def leader_offered(offer: RegistryOffer) -> Leader:
    """
    Say an offer to somebody else.
    """
    claim = (offer.term, offer.since, offer.appointed)
    return Leader(offer.node, *claim, offer.host.partition("%")[0], offer.port)


def heirs_among(peers: Iterable[Peer]) -> list[Heir]:
    """
    Give those on a list who may lead.
    """
    return [
        Heir(peer.node, peer.host, peer.port)
        for peer in peers
        if peer.can_lead and can_be_dialled(peer)
    ]
