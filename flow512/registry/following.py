"""
Which registry a node follows, and when it becomes one itself.

L{flow512.discovery.election} decides; this carries it out. States::

    seeking ──> following a configured registry <──┐
       │  └──> following one that was seen ────────┘ when the configured one answers
       └──> leading

A configured registry has a client of its own from the beginning, which tries for ever. A registry
that was seen gets another, until it fails L{TRIES} times in a row; then the next is tried. A node
that has followed once does not lead because its registry went silent: it keeps trying.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from flow512.discovery.election import (
    LISTEN,
    Election,
    Follow,
    FollowConfigured,
    Lead,
    Mode,
    Wait,
)
from flow512.discovery.engine import Sighting
from flow512.errors import Unreachable
from flow512.limits import Limits
from flow512.link.address import HostPort
from flow512.link.introduction import Introduction
from flow512.registry.client import IPeerListListener, RegistryClient
from flow512.wire.fields import Peer

TRIES: Final = 2
"""Failures in a row after which a registry that was seen is passed over."""


class RegistryFollower(Service):
    """
    Keeps a node with the right registry.

    @ivar client: the client of the registry that it follows; L{None} while it seeks.
    @ivar is_leading: whether this process carries the registry.
    """

    log = Logger()
    client: RegistryClient | None = None
    is_leading = False

    def __init__(
        self,
        clock: IReactorTime,
        connect: Callable[[HostPort | str], IStreamClientEndpoint],
        introduction: Introduction,
        *,
        mode: Mode,
        configured: HostPort | str | None,
        configured_node: bytes | None = None,
        port: int,
        ticket: bytes,
        random: Random,
        sightings: Callable[[], Iterable[Sighting]],
        listens: bool,
        lead: Callable[[], HostPort],
        listener: IPeerListListener,
        limits: Limits | None = None,
    ) -> None:
        """
        @param clock: for the waits.
        @param connect: makes the endpoint that connects to an address.
        @param introduction: what the node says of itself.
        @param mode: whether it may, must or must not lead.
        @param configured: the registry that the user named; L{None} for none.
        @param configured_node: the node id that it must have; L{None} for any.
        @param port: the TCP port that the node serves at; 0 for none.
        @param ticket: see L{RegistryClient}.
        @param random: for jitter.
        @param sightings: tells what the beacon sees.
        @param listens: whether there is a beacon.
        @param lead: starts the registry in this process, and gives the address to reach it at.
        @param listener: is told how the list of peers changes.
        @param limits: how many peers L{peers_to_dial} and L{who} give.
        """
        self._clock = clock
        self._connect = connect
        self._introduction = introduction
        self._mode = mode
        self._configured_address = configured
        self._configured_node = configured_node
        self._configured: RegistryClient | None = None
        self.port = port
        self._ticket = ticket
        self._random = random
        self._sightings = sightings
        self._listens = listens
        self._lead = lead
        self._listener = listener
        self._limits = limits
        self._election: Election | None = None
        self._found: RegistryClient | None = None
        self._found_address: HostPort | None = None
        self._failed: set[tuple[str, int]] = set()
        self._has_followed = False
        self._held: dict[bytes, None] = {}
        self._timer: IDelayedCall | None = None
        self._stopping: list[Deferred[None]] = []

    # What others ask

    @property
    def peers(self) -> Collection[Peer]:
        """All that are listed, this node among them if it serves; empty while it seeks."""
        return () if self.client is None else self.client.peers.values()

    @property
    def trying(self) -> RegistryClient | None:
        """The client that counts; while it seeks, the one of the configured registry, if any."""
        return self.client or self._configured

    def peers_to_dial(self) -> list[Peer]:
        """The peers that may be dialled; see L{RegistryClient.peers_to_dial}."""
        return [] if self.client is None else self.client.peers_to_dial()

    def hold(self, added: Collection[bytes], removed: Collection[bytes]) -> None:
        """
        Have every registry that is followed, now or later, know what this node holds.

        @param added: roots that it holds from now on.
        @param removed: roots that it holds no longer.
        """
        for root in removed:
            self._held.pop(root, None)
        self._held.update(dict.fromkeys(added))
        for client in (self._configured, self._found):
            if client is not None:
                client.hold(added, removed)

    def who(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        """
        Ask the registry that is followed who holds a content.

        @return: as of L{RegistryClient.who}; fails with L{Unreachable} while it seeks.
        """
        if self.client is None:
            return fail(Unreachable("No registry is there that could say who holds that."))
        return self.client.who(root)

    # IService

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._election = Election(
            self._mode,
            configured=self._configured_address is not None,
            random=self._random,
            now=self._clock.seconds(),
            listens=LISTEN if self._listens else 0.0,
        )
        if self._configured_address is not None:
            self._configured = self._start_client(self._configured_address, self._configured_node)
        self.reconsider()

    def stopService(self) -> Deferred[list[tuple[bool, None]]]:
        """
        Leave every registry.

        @return: fires when the connections are closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._cancel_timer()
        for client in (self._configured, self._found):
            if client is not None:
                self._stopping.append(client.stopService())
        self._configured = self._found = self.client = self._found_address = None
        stopping, self._stopping = self._stopping, []
        return DeferredList(stopping)

    # Deciding

    def reconsider(self) -> None:
        """
        Decide anew; to be called whenever what the beacon sees has changed.
        """
        self._cancel_timer()
        if not self.running or self.is_leading:
            return
        assert self._election is not None
        if self._found is not None and not self._found.is_listed and self._found.failures >= TRIES:
            assert self._found_address is not None
            self._failed.add((self._found_address.host, self._found_address.port))
        sightings = list(self._sightings())
        self._failed &= {
            (sighting.host, port)
            for sighting in sightings
            if (port := sighting.port("registry")) is not None
        }
        decision = self._election.decide(
            self._clock.seconds(),
            reached=self._configured is not None and self._configured.is_listed,
            sightings=sightings,
            failed=self._failed,
        )
        if self._found is not None and self._found.is_listed:
            self._has_followed = True
        match decision:
            case FollowConfigured():
                self._drop_found()
                self._follow(self._configured)
            case Follow(host, port):
                self._follow_found(HostPort(host, port))
            case Lead() if not self._has_followed:
                self._begin_leading()
            case Wait(until) if until is not None:
                wait = max(0.0, until - self._clock.seconds())
                self._timer = self._clock.callLater(wait, self._waited)

    def _reconsider_soon(self) -> None:
        # Not at once: a client that tells of a failure is in the middle of it, and could not be
        # stopped there.
        self._cancel_timer()
        if self.running and not self.is_leading:
            self._timer = self._clock.callLater(0, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self.reconsider()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_leading(self) -> None:
        self.is_leading = True
        self._drop_found()
        self._follow_found(self._lead())

    def _follow_found(self, address: HostPort) -> None:
        has_good_one = self._found is not None and self._found.is_listed
        if address == self._found_address or (has_good_one and not self.is_leading):
            return
        self._drop_found()
        self.log.info("Registering with the registry at {address}", address=str(address))
        self._found_address = address
        # What a beacon says of node ids is no proof, and so nothing to insist on.
        expected = self._introduction.node if self.is_leading else None
        self._found = self._start_client(address, expected)
        self._follow(self._found)

    def _drop_found(self) -> None:
        if self._found is not None:
            self._stopping.append(self._found.stopService())
            self._found = self._found_address = None

    def _follow(self, client: RegistryClient | None) -> None:
        assert client is not None
        if self.client is client:
            return
        before = {} if self.client is None else dict(self.client.peers)
        self.client = client
        after = client.peers
        joined = [peer for node, peer in after.items() if node not in before]
        left = [peer for node, peer in before.items() if node not in after]
        changed = [peer for node, peer in after.items() if before.get(node, peer) != peer]
        if joined or left or changed:
            self._listener.peer_list_changed(joined, left, changed)

    def _start_client(self, address: HostPort | str, expected: bytes | None) -> RegistryClient:
        ear = _Ear(self)
        ear.client = client = RegistryClient(
            self._clock,
            self._connect(address),
            self._introduction,
            port=self.port,
            ticket=self._ticket,
            random=self._random,
            expected=expected,
            listener=ear,
            state_changed=self._reconsider_soon,
            limits=self._limits,
        )
        client.hold(self._held, ())
        client.startService()
        return client

    def list_changed(
        self,
        client: RegistryClient | None,
        joined: Sequence[Peer],
        left: Sequence[Peer],
        changed: Sequence[Peer],
    ) -> None:
        """
        Pass on what a client was told, if it is the one that counts.
        """
        if client is not None and client is self.client:
            self._listener.peer_list_changed(joined, left, changed)


@implementer(IPeerListListener)
class _Ear:
    """Tells the follower which of its clients was told."""

    client: RegistryClient | None = None

    def __init__(self, follower: RegistryFollower) -> None:
        self._follower = follower

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        self._follower.list_changed(self.client, joined, left, changed)
