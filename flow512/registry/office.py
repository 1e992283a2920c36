"""
What a process needs to carry the registry: for as long as it leads, and a little longer.

States::

    empty ──begin──> open ──step_down──> closing ──CLOSES_AFTER──> empty
                      ▲  └──send_to──> open, and sends those who come to another
                      └──begin────────────────┘

At its port the process answers C{registry} from L{Office.begin} to L{Office.step_down}. Those who
are registered then are told where to go, and have L{CLOSES_AFTER} seconds for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.discovery.claims import Claim, RegistryOffer
from flow512.link.address import LOOPBACK, HostPort, host_of
from flow512.link.presence import Presence
from flow512.wire.leading import Leader

if TYPE_CHECKING:
    # Loaded by who leads; most never do.
    from flow512.registry.server import RegistryFactory

CLOSES_AFTER: Final = 5.0
"""Seconds that those who are sent on have to register where they are sent."""

MakeRegistry = Callable[
    [Claim, Callable[[int], None], Callable[[RegistryOffer], None]], "RegistryFactory"
]
"""Makes a registry of a claim, what it tells of later terms, and what of other registries."""


class Office:
    """
    Carries the registry of one process.

    @ivar registry: the one that is open; L{None} while the process does not lead.
    @ivar known: told of later terms.
    @ivar heard: told of other registries.
    """

    registry: RegistryFactory | None = None

    def __init__(self, clock: IReactorTime, presence: Presence, make: MakeRegistry) -> None:
        """
        @param clock: for the wait before it closes.
        @param presence: whose port it answers at, and whose beacon announces it.
        @param make: makes a registry.
        """
        self.known: Callable[[int], None] = lambda term: None
        self.heard: Callable[[RegistryOffer], None] = lambda offer: None
        self._clock = clock
        self._presence = presence
        self._make = make
        self._closing: dict[RegistryFactory, IDelayedCall] = {}
        self._ending: list[Deferred[None]] = []
        self._announced: Claim | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process carries a registry."""
        return self.registry is not None

    @property
    def host(self) -> str:
        """An address that others reach this process at."""
        return self._presence.host

    @property
    def port(self) -> int:
        """The TCP port that it answers at."""
        return self._presence.port

    @property
    def leader(self) -> Leader | None:
        """What this process says of itself to another leader; L{None} if it does not lead."""
        if self.registry is None or not self.port:
            return None
        claim = self.registry.claim
        # Without a host: it is where the other sees it.
        return Leader(claim.node, claim.term, claim.since, claim.appointed, port=self.port)

    def open(self, claim: Claim) -> RegistryFactory:
        """
        Answer as a registry, in the place of any that was there.
        """
        if self.registry is not None:
            self._close(self.registry)
        registry = self.registry = self._make(
            claim, lambda term: self.known(term), lambda offer: self.heard(offer)
        )
        registry.startFactory()
        self._presence.shared.conversations["registry"] = registry
        return registry

    def begin(self, claim: Claim) -> HostPort:
        """
        Lead. A registry that is open already goes on with the new claim.

        @return: the address at which this process finds its own registry.
        """
        if self.registry is None:
            registry = self.open(claim)
            registry.listening(self.host, self.port)
        else:
            self.registry.claim = claim
            self.registry.send_to(None)
        self.announce(claim)
        return HostPort(host_of(self._presence.listening, LOOPBACK), self.port)

    def announce(self, claim: Claim) -> None:
        """
        Have the beacon say what is claimed.
        """
        beacon = self._presence.beacon
        if claim == self._announced or beacon is None or not self.port or self.registry is None:
            return
        self._announced = claim
        beacon.offer(
            "registry",
            self.port,
            term=claim.term,
            since=claim.since,
            appointed=claim.appointed,
        )

    def send_to(self, leader: Leader | None) -> None:
        """
        Send everybody to another registry, and stay open; with L{None}, keep them again.
        """
        if self.registry is not None:
            self.registry.send_to(leader)

    def step_down(self, leader: Leader | None) -> None:
        """
        Send everybody to another registry, and close soon after.
        """
        registry, self.registry = self.registry, None
        self._announced = None
        if registry is None:
            return
        self._presence.shared.conversations.pop("registry", None)
        if self._presence.beacon is not None:
            self._presence.beacon.withdraw("registry")
        registry.send_to(leader)
        self._closing[registry] = self._clock.callLater(CLOSES_AFTER, self._close, registry)

    def name_heir(self) -> None:
        """
        Tell everybody who is to lead next: this process stops.
        """
        if self.registry is not None:
            self.registry.name_heir()

    def _close(self, registry: RegistryFactory) -> None:
        call = self._closing.pop(registry, None)
        if call is not None and call.active():
            call.cancel()
        ending = registry.stop()
        self._ending.append(ending)
        ending.addCallback(
            lambda _: self._ending.remove(ending) if ending in self._ending else None
        )

    def stop(self) -> Deferred[list[tuple[bool, None]]]:
        """
        Close everything.

        @return: fires when no connection is left.
        """
        for registry in [*self._closing, *([] if self.registry is None else [self.registry])]:
            self._close(registry)
        self.registry = None
        self._presence.shared.conversations.pop("registry", None)
        return DeferredList(list(self._ending))
