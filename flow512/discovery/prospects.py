"""
Where registries may be, from all that is known: merged, in the order in which to try them.
"""

from __future__ import annotations

from collections.abc import Iterable

from flow512.discovery.claims import Address, Claim, RegistryOffer
from flow512.discovery.waits import HEARD_FOR, MOST_HEARD


class Prospects:
    """
    The offers that one node knows.

    @ivar known: all of them, the best first; one for each address.
    @ivar by_address: the same.
    @ivar seen: when something was first offered at an address.
    @ivar claims: what is claimed to be at an address.
    @ivar judged: until when a leader is left alone that has turned out to be no better.
    """

    def __init__(self, itself: bytes) -> None:
        """
        @param itself: the node id that is of no interest; empty for none.
        """
        self.known: list[RegistryOffer] = []
        self.by_address: dict[Address, RegistryOffer] = {}
        self.seen: dict[Address, float] = {}
        self.claims: dict[Address, Claim] = {}
        self.judged: dict[bytes, float] = {}
        self._itself = itself
        self._heard: dict[Address, tuple[RegistryOffer, float]] = {}

    def hear(self, offer: RegistryOffer, now: float) -> None:
        """
        Keep an offer for a while that somebody told; of too many, the last are not kept.
        """
        if offer.address in self._heard or len(self._heard) < MOST_HEARD:
            self._heard[offer.address] = (offer, now + HEARD_FOR)

    def is_heard(self, address: Address) -> bool:
        """Tell whether somebody told of an address lately."""
        return address in self._heard

    def look(
        self,
        offers: Iterable[RegistryOffer],
        heirs: Iterable[RegistryOffer],
        certain: Iterable[RegistryOffer],
        now: float,
    ) -> list[Address]:
        """
        Take in what is offered now. Of one address the last of these counts: that of an heir, what
        was told, what is offered, and what is certain.

        @param offers: what is seen, remembered and so on.
        @param heirs: those who may lead by now, and claim nothing yet.
        @param certain: those that the registry that is followed vouches for.
        @return: where somebody claims to lead who did not before.
        """
        self._heard = {at: each for at, each in self._heard.items() if each[1] > now}
        self.judged = {node: until for node, until in self.judged.items() if until > now}
        certain = tuple(certain)
        heard = (offer for offer, _ in self._heard.values())
        self.by_address = {
            offer.address: offer
            for offer in (*heirs, *heard, *offers, *certain)
            if not (self._itself and offer.node == self._itself)
        }
        self.known = sorted(self.by_address.values(), key=lambda offer: offer.order)
        self.seen = {at: self.seen.get(at, now) for at in self.by_address}
        before = self.claims
        self.claims = {
            offer.address: offer.claim for offer in self.known if offer.claim is not None
        }
        anew = [
            address
            for address, claim in self.claims.items()
            if address not in before or before[address].since != claim.since
        ]
        for offer in certain:
            self.claims.setdefault(offer.address, Claim(offer.node, 0, 0))
        return anew
