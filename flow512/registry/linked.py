"""
A client of one registry, and what the election was told of it.
"""

from __future__ import annotations

from flow512.discovery.claims import Address, Claim, RegistryOffer
from flow512.discovery.election import Election
from flow512.registry.client import RegistryClient
from flow512.registry.leaders import heirs_among


class Link:
    """
    A link that the election wants.

    @ivar client: what keeps it.
    """

    def __init__(self, client: RegistryClient) -> None:
        """
        @param client: what keeps it.
        """
        self.client = client
        self._was_listed = False
        self._failures = 0
        self._claim: Claim | None = None
        self._elsewhere: RegistryOffer | None = None

    def tell(self, election: Election, address: Address, now: float) -> bool:
        """
        Tell an election what has happened since it was told last.

        @return: whether there is to be a link still; if not, the client is the caller's to stop.
        """
        client = self.client
        is_lost = self._was_listed and not client.is_listed
        if is_lost or client.failures > self._failures:
            self._was_listed, self._claim, self._elsewhere = False, None, None
            heirs = heirs_among(client.peers.values())
            election.lost(address, now, heirs, len(client.peers))
            if not election.is_linked(address):
                return False
        self._failures = client.failures
        if client.is_listed and client.claim is not None:
            self._tell_claim(election, address, client.claim, now)
        return True

    def _tell_claim(self, election: Election, address: Address, claim: Claim, now: float) -> None:
        client = self.client
        is_kept_again = self._elsewhere is not None and client.elsewhere is None
        if not self._was_listed or claim != self._claim or is_kept_again:
            self._was_listed, self._claim, self._elsewhere = True, claim, None
            election.listed(address, claim, now)
        if client.is_reachable is False and client.port:
            election.not_reached(address)
        if client.elsewhere is not None and client.elsewhere != self._elsewhere:
            self._elsewhere = client.elsewhere
            election.handed(address, client.elsewhere, now)
