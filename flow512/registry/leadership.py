"""
Who leads, for people.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from flow512.discovery.claims import Claim
from flow512.discovery.deeds import Why


class Leadership(msgspec.Struct, frozen=True):
    """
    Who leads.

    @ivar claim: what the leader claims.
    @ivar address: where it is; this node's own port, if that leads.
    @ivar name: what its user calls it; hostile until it is escaped.
    @ivar why: why this node follows it, or leads.
    """

    claim: Claim
    address: str
    name: str
    why: Why

    @property
    def since(self) -> str:
        """When it began to lead, by its own clock, as ISO 8601 has times, in UTC."""
        try:
            began = datetime.fromtimestamp(self.claim.since / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return "a time that no clock shows"
        return began.isoformat(timespec="seconds").replace("+00:00", "Z")
