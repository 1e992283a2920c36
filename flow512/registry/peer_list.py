"""
A node's copy of the registry's list.

States::

    awaiting ──SNAPSHOT, more follows──> gathering ──SNAPSHOT, the last──> current
    awaiting ──SNAPSHOT, the only one──> current
    current ──DELTA with the next number──> current
    current ──SNAPSHOT, at no earlier number──> gathering or current
    current ──a number beyond the next──> awaiting; a snapshot is to be asked for, once
    any ──a new conversation──> awaiting; the registry sends a snapshot by itself

Invariants: L{PeerList.peers} is always one whole version of the list, that of L{PeerList.number}
while the list is current, else an older one. Within one conversation the number never goes back:
that, and a message that contradicts the list, is a violation. Until the snapshot is whole,
deltas and pongs are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

import msgspec

from flow512.errors import BadMessage
from flow512.limits import Limits
from flow512.link.origin import plain_address, source_of, subnet_of, unwrapped
from flow512.wire.fields import Peer
from flow512.wire.messages import Delta, Snapshot

MOST_PEERS: Final = 100_000
"""Peers that a registry may list; more take more memory than a list is worth."""


class Change(NamedTuple):
    """
    How one version of the list differs from the one before.

    @ivar joined: who is new.
    @ivar left: who is gone, as they were.
    @ivar changed: who has another name, host or port, as they are now.
    """

    joined: tuple[Peer, ...]
    left: tuple[Peer, ...]
    changed: tuple[Peer, ...]


class PeerList:
    """
    The list, as far as the registry has told it.

    @ivar peers: every peer by its node id.
    @ivar number: of the latest delta that is counted in.
    @ivar is_current: whether nothing is known to be missing.
    """

    def __init__(self, most: int = MOST_PEERS) -> None:
        """
        @param most: how many peers the list may have.
        """
        self.peers: dict[bytes, Peer] = {}
        self.number = 0
        self.is_current = False
        self._most = most
        self._registry_host: str | None = None
        self._gathered: dict[bytes, Peer] | None = None
        self._gathered_number = 0
        self._is_missing = False

    def begin(self, registry_host: str) -> None:
        """
        Forget the numbers of the conversation before; the peers stay.

        @param registry_host: the address that the registry is reached at. A peer that it sees at a
            loopback address runs on the registry's own machine, and is found there; one that it
            sees at a link-local address is on the link that the registry is reached by.
        """
        self.number = 0
        self.is_current = False
        self._gathered = None
        self._is_missing = False
        address = plain_address(registry_host)
        is_elsewhere = address is not None and not address.is_loopback
        self._registry_host = registry_host if is_elsewhere else None

    def take_missing(self) -> bool:
        """
        Tell whether a snapshot is to be asked for; once for each time that it is.
        """
        missing, self._is_missing = self._is_missing, False
        return missing

    def snapshot(self, message: Snapshot) -> Change | None:
        """
        Take a frame of a snapshot.

        @return: how the list has changed, once the snapshot is whole; L{None} before.
        @raise BadMessage: it names a peer twice, has too many, or its number goes back.
        """
        if self._gathered is None:
            if message.number < self.number:
                raise _went_back(self.number, message.number)
            self.is_current = False
            self._gathered = {}
            self._gathered_number = message.number
        elif message.number != self._gathered_number:
            raise BadMessage("A snapshot changes its number between two of its frames.")
        for peer in message.peers:
            if peer.node in self._gathered:
                raise BadMessage("A snapshot lists a node id twice.")
            self._gathered[peer.node] = self.as_reached(peer)
        self._check_size(len(self._gathered))
        if message.more:
            return None
        before, self.peers = self.peers, self._gathered
        self.number = self._gathered_number
        self.is_current = True
        self._gathered = None
        return Change(
            joined=tuple(peer for node, peer in self.peers.items() if node not in before),
            left=tuple(peer for node, peer in before.items() if node not in self.peers),
            changed=tuple(
                peer for node, peer in self.peers.items() if before.get(node, peer) != peer
            ),
        )

    def delta(self, message: Delta) -> Change | None:
        """
        Take a delta.

        @return: how the list has changed; L{None} if it has not.
        @raise BadMessage: it contradicts the list, makes it too long, or its number goes back.
        """
        if not self.is_current:
            return None
        is_empty = not (message.joined or message.left or message.changed)
        if message.number < self.number or (message.number == self.number and not is_empty):
            raise _went_back(self.number, message.number)
        if message.number > self.number + (0 if is_empty else 1):
            self._miss()
            return None
        if is_empty:
            return None
        joined = tuple(self.as_reached(peer) for peer in message.joined)
        changed = tuple(self.as_reached(peer) for peer in message.changed)
        known = [peer.node for peer in changed] + list(message.left)
        new = [peer.node for peer in joined]
        if (
            len({*known, *new}) < len(known) + len(new)
            or not self.peers.keys() >= set(known)
            or not self.peers.keys().isdisjoint(new)
        ):
            raise BadMessage("A delta contradicts the list that it is to change.")
        self._check_size(len(self.peers) + len(new) - len(message.left))
        left = tuple(self.peers.pop(node) for node in message.left)
        self.peers.update((peer.node, peer) for peer in (*joined, *changed))
        self.number = message.number
        return Change(joined, left, changed)

    def pong(self, number: int) -> None:
        """
        Compare the number in a pong.

        @raise BadMessage: it goes back.
        """
        if self.is_current and number < self.number:
            raise _went_back(self.number, number)
        if self.is_current and number > self.number:
            self._miss()

    def as_reached(self, peer: Peer) -> Peer:
        """
        Say where a peer is found that the registry told of.

        @param peer: as the registry says it.
        """
        return as_reached(peer, self._registry_host)

    def _miss(self) -> None:
        self.is_current = False
        self._is_missing = True

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise BadMessage(f"The registry lists more than {self._most} peers.")


def as_reached(peer: Peer, told_by: str | None) -> Peer:
    """
    Say where a peer is found that somebody told of: loopback is the machine of whoever told it, an
    address of a link is on the link that he is reached by, and an IPv4 address in IPv6 is that one.

    @param peer: as he says it.
    @param told_by: the address that he is reached at; L{None} if that is this machine, whose
        addresses are as he says them.
    """
    host = unwrapped(peer.host)
    address = plain_address(host)
    if told_by is not None and address is not None:
        _, percent, scope = told_by.partition("%")
        if address.is_loopback:
            host = told_by
        elif percent and address.version == 6 and address.is_link_local:
            host = f"{address}%{scope}"
    return peer if host == peer.host else msgspec.structs.replace(peer, host=host)


def can_be_dialled(peer: Peer) -> bool:
    """
    Tell whether a peer's host is the address of one machine: no name that would have to be looked
    up, and no address that stands for many machines or none.
    """
    # As it is dialled: ::ffff:0.0.0.0 is 0.0.0.0, which is this very machine.
    address = plain_address(peer.host)
    if address is None:
        return False
    return not (address.is_multicast or address.is_unspecified or address == _EVERYBODY)


def choose_to_dial(peers: Iterable[Peer], limits: Limits) -> list[Peer]:
    """
    Choose the peers that may be dialled though nobody but a registry has named them.

    A registry only introduces, and could lie: so no host is among these that would have to be
    looked up or stands for many machines.

    @param peers: those that it named; the first come first.
    @param limits: how many may be dialled: at each address, in each subnet, and in all.
    """
    dials: Counter[str] = Counter()
    chosen: list[Peer] = []
    for peer in peers:
        if len(chosen) == limits.dials:
            break
        host, subnet = source_of(peer.host), subnet_of(peer.host)
        if (
            can_be_dialled(peer)
            and dials[host] < limits.dials_per_address
            and dials[subnet] < limits.dials_per_subnet
        ):
            dials[host] += 1
            dials[subnet] += 1
            chosen.append(peer)
    return chosen


_EVERYBODY: Final = ip_address("255.255.255.255")


def _went_back(before: int, now: int) -> BadMessage:
    return BadMessage(f"The number of the list goes back from {before} to {now}.")
