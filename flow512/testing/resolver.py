"""
Names of hosts, looked up as a reactor does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer


@implementer(IHostResolution)
class Resolution:
    """
    A lookup that is under way.

    @ivar name: what is looked up.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled = False

    def cancel(self) -> None:
        """Look no further: the receiver is told nothing more."""
        self.cancelled = True


@implementer(IHostnameResolver)
class HostResolver:
    """Resolves names to the addresses that the network knows for them."""

    def __init__(
        self,
        look_up: Callable[[str], Sequence[str]],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        """
        @param look_up: given a name or address, lists addresses; none if it is unknown.
        @param later: calls its argument when the answer has come back.
        """
        self._look_up = look_up
        self._later = later

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See L{IHostnameResolver.resolveHostName}; an unknown name has no addresses."""
        resolution = Resolution(hostName)
        semantics: Literal["TCP", "UDP"] = "UDP" if transportSemantics == "UDP" else "TCP"

        def answer() -> None:
            if resolution.cancelled:
                return
            for address in self._look_up(hostName):
                kind = IPv6Address if ":" in address else IPv4Address
                if addressTypes is None or kind in addressTypes:
                    resolutionReceiver.addressResolved(kind(semantics, address, portNumber))
            resolutionReceiver.resolutionComplete()

        resolutionReceiver.resolutionBegan(resolution)
        self._later(answer)
        return resolution
