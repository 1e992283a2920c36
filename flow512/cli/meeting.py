"""
Waiting for the peers that a short-lived node has to know before it can ask anybody.

A registry sends its list at once; a beacon is answered within L{LISTEN} seconds. When neither has
brought anybody, the wait that the user allows is used up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from flow512.cli.formatting import seconds_text
from flow512.content.paths import escape
from flow512.discovery.waits import LISTEN
from flow512.errors import Misuse, NoSuchPeer, Refusal, Unreachable
from flow512.link.address import parse_address
from flow512.link.node_id import mistyped_groups, parse_beginning, split_node_id
from flow512.node import NodeService
from flow512.node.neighbourhood import Neighbourhood
from flow512.transfer.finding import Candidate

_FOR_REGISTRIES: Final = 2.0
"""Seconds for a registry that is remembered, or that a peer has told of, to answer."""

_LOOK_SOON: Final = 0.001
_LOOK_EVERY: Final = 0.05
"""
Seconds before the first look at who is known by now, and between two at most: a registry that is
near answers within milliseconds, and when one is far, nobody has to look so often.
"""


def is_address(peer: str) -> bool:
    """
    Say whether what a user calls a peer can only be its address, and no name: an IP address,
    anything with a port, the string of an endpoint.

    @raise Misuse: it has a colon, so it is to be an address, and is none; or it has a mistyped
        node id in it.
    """
    beginning, at, rest = peer.partition("@")
    parse_beginning(beginning)
    try:
        node, place = split_node_id(peer)
        address = parse_address(place)
    except Misuse:
        if ":" in peer or (at and _is_ip_address(rest)):
            raise
        return False
    return (
        node is not None or isinstance(address, str) or ":" in place or _is_ip_address(address.host)
    )


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Meeting(msgspec.Struct, frozen=True):
    """
    One node's wait for its peers.

    @ivar clock: for the wait.
    @ivar node: who waits; it has just started.
    @ivar wait: seconds, at most.
    """

    clock: IReactorTime
    node: NodeService
    wait: float

    @property
    def _known(self) -> Neighbourhood:
        return self.node.neighbourhood

    async def anybody(self) -> None:
        """
        Wait until it is worth asking around: a registry's list is here with somebody on it, or
        those have answered who hear the beacon.

        @raise Unreachable: the registry or peer that the user named does not answer, and nobody is
            known otherwise.
        @raise Refusal: likewise, and it says why, or is none.
        """
        is_named = bool(self.node.settings.registries)
        await self._gather(
            lambda passed: (
                self._known.is_listed
                or (self._has_listened(passed) and not is_named and self._has_met(passed))
            )
        )

    async def everybody(self) -> None:
        """
        Wait until all those are known who can be known soon.

        @raise Flow512Error: as L{anybody}.
        """
        is_named = bool(self.node.settings.registries)
        await self._gather(
            lambda passed: (
                self._has_listened(passed)
                and (
                    self._known.is_listed
                    or (not is_named and self._has_met(passed) and not self._is_seen(passed))
                )
            )
        )

    def _has_listened(self, passed: float) -> bool:
        return self.node.settings.beacon_port is None or passed >= LISTEN

    def _is_seen(self, passed: float) -> bool:
        """
        Say whether a registry that the beacon sees may be about to list this node: at an address of
        a link it is not tried before the beacon has been listened to.

        @param passed: seconds since the wait began.
        """
        is_seen = any(each.port("registry") is not None for each in self._known.sightings())
        return is_seen and passed < LISTEN + _FOR_REGISTRIES

    def _has_met(self, passed: float) -> bool:
        """
        Say whether nobody is left who is still to be asked whom he knows.

        @param passed: seconds since the wait began.
        """
        known = self._known
        may_answer = bool(known.known_registries) and not known.is_listed
        return known.is_settled and (passed >= _FOR_REGISTRIES or not may_answer)

    async def _gather(self, is_enough: Callable[[float], bool]) -> None:
        settings = self.node.settings
        if not settings.registries and settings.beacon_port is None and self._has_met(0.0):
            return
        began = self.clock.seconds()

        def holds() -> bool:
            return is_enough(self.clock.seconds() - began) and bool(self._known.candidates())

        await self._until(holds)
        if settings.registries and not (self._known.is_listed or self._known.candidates()):
            trouble = self._known.registry_trouble
            first, *others = (each.address for each in settings.registries)
            if others:
                raise Unreachable(
                    f"None of the {1 + len(others)} registries that were named lists us; are they"
                    f" running? {trouble}".rstrip()
                )
            if trouble:
                raise Refusal(f"The registry at {first} does not list us: {trouble}")
            raise Unreachable(f"The registry at {first} does not answer; is it running?")
        if self._known.peer_trouble and not self._known.candidates():
            raise Unreachable(
                f"No peer was found, and the one that was named is not reached"
                f" ({self._known.peer_trouble}); is a node running there?"
            )

    async def peer(self, wanted: str) -> Candidate:
        """
        Wait until a peer is known by its name or id; an address needs no waiting.

        @return: the peer. One that nobody knows by that name may be a host of that name.
        @raise NoSuchPeer: several are called that, or nobody is and it cannot be a host.
        """
        if not is_address(wanted):
            await self._until(lambda: self._knows(wanted))
        try:
            return self._known.candidate(wanted)
        except Misuse:
            raise self.unknown(wanted) from None

    def unknown(self, wanted: str) -> NoSuchPeer:
        """
        Make the error that says that nobody is called that.
        """
        where = mistyped_groups(parse_beginning(wanted))
        advice = (
            f"if that is to be a node id, it is mistyped somewhere in {where}."
            if where
            else "`flow512 peers` shows who is there."
        )
        return NoSuchPeer(
            f"No peer called '{escape(wanted)}' was found within {seconds_text(self.wait)};"
            f" {advice}"
        )

    def _knows(self, wanted: str) -> bool:
        try:
            return self._known.candidate(wanted).node is not None
        except Misuse:
            return False

    async def _until(self, holds: Callable[[], bool]) -> None:
        end = self.clock.seconds() + self.wait
        pause = _LOOK_SOON
        while not holds() and self.clock.seconds() < end:
            await deferLater(self.clock, pause)
            pause = min(2 * pause, _LOOK_EVERY)
