"""Tests for L{flow512.registry.leaders}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import Claim, Heir, Origin, RegistryOffer
from flow512.discovery.datagram import Offer
from flow512.discovery.sightings import Sighting
from flow512.registry.acquaintances import Met
from flow512.registry.leaders import (
    heirs_among,
    leader_at,
    offer_told,
    offers_known,
    offers_seen,
)
from flow512.wire.fields import Peer
from flow512.wire.leading import Leader

NODE = b"n" * 32
CLAIM = Claim(NODE, 3, 1000, True, "for a test")


class LeadersTests(SynchronousTestCase):
    """What is said, and what an election is told."""

    def test_seen(self) -> None:
        """Of what a beacon announces only registries are offers of one."""
        offers = (Offer("node", 5000), Offer("registry", 5001, 3, 1000, True))
        seen = offers_seen([Sighting("10.0.0.1", bytes(16), "anna", NODE, offers)])
        self.assertEqual(seen, [RegistryOffer("10.0.0.1", 5001, NODE, 3, 1000, True)])

    def test_known(self) -> None:
        """It is told apart who was met and who was only told of."""
        peer = Peer(NODE, "", "10.0.0.1", 5000)
        met, told = offers_known([Met(peer, 7.0), Met(peer, None)])
        self.assertEqual(met, RegistryOffer("10.0.0.1", 5000, NODE, origin=Origin.MEMORY))
        self.assertEqual(told, RegistryOffer("10.0.0.1", 5000, NODE, origin=Origin.PEER))

    def test_told(self) -> None:
        """Who speaks of himself is where he is reached; nobody is where nobody can be dialled."""
        for host, dialled in (
            ("", "10.0.0.9"),
            ("127.0.0.1", "10.0.0.9"),
            ("10.0.0.1", "10.0.0.1"),
        ):
            told = offer_told(Leader(NODE, 3, 1000, True, host, 5000), "10.0.0.9")
            self.assertEqual(
                told, RegistryOffer(dialled, 5000, NODE, 3, 1000, True, Origin.REGISTRY)
            )
        for host, port in (("224.0.0.1", 5000), ("nobody.example", 5000), ("10.0.0.1", 0)):
            self.assertIsNone(offer_told(Leader(NODE, 3, 1000, True, host, port), "10.0.0.9"))

    def test_at(self) -> None:
        """A leader without an address, or without a port, cannot be told of."""
        leads = Leader(NODE, 3, 1000, True, "fe80::1", 5000)
        self.assertEqual(leader_at(("fe80::1%eth0", 5000), CLAIM), leads)
        self.assertIsNone(leader_at(None, CLAIM))
        self.assertIsNone(leader_at(("10.0.0.1", 0), CLAIM))

    def test_heirs(self) -> None:
        """Only who may lead, and can be dialled, may inherit."""
        peers = [
            Peer(NODE, "", "10.0.0.1", 5000, True),
            Peer(b"o" * 32, "", "10.0.0.2", 5000, False),
            Peer(b"p" * 32, "", "224.0.0.1", 5000, True),
        ]
        self.assertEqual(heirs_among(peers), [Heir(NODE, "10.0.0.1", 5000)])
