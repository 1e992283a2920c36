"""
A registry by itself: its factory, its port and its beacon in one C{IService}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random, SystemRandom

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
)
from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Why
from flow512.discovery.election import Mode
from flow512.discovery.engine import Sighting
from flow512.errors import Misuse
from flow512.interfaces import Ending, RunBlocking, Workers
from flow512.limits import Limits
from flow512.link.address import (
    DEFAULT_PORT,
    usual_places,
)
from flow512.link.identity import check_names
from flow512.link.introduction import Introduction
from flow512.link.presence import Airwaves, Presence
from flow512.link.security import Encryption
from flow512.link.standing import Claims
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower
from flow512.registry.leaders import offers_seen
from flow512.registry.office import Office
from flow512.registry.server import RegistryFactory
from flow512.registry.term_file import TermKeeper
from flow512.wire.fields import Peer


class RegistrySettings(msgspec.Struct, frozen=True):
    """
    What a user decides about a registry.

    @ivar listen: the server endpoint string; TCP port L{DEFAULT_PORT} on every address if empty.
    @ivar name: what others are shown; the machine's name if empty.
    @ivar state: its state folder; L{None} to be somebody new each time.
    @ivar network: only nodes with the same network name are accepted.
    @ivar network_key_file: the file with the key of a closed network; if empty, the network that
        was joined with the state folder, if any.
    @ivar encryption: what its connections run over.
    @ivar limits: how much it takes on.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: names or addresses of the interfaces that the beacon uses; all if empty.
    """

    listen: str = ""
    name: str = ""
    state: str | None = None
    network: str = ""
    network_key_file: str = ""
    encryption: Encryption = Encryption.TLS
    limits: Limits = msgspec.field(default_factory=Limits)
    beacon_port: int | None = BEACON_PORT
    interfaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """
        @raise Misuse: a name is too long, or no text.
        """
        check_names(self.name, self.network)


@implementer(IPeerListListener)
class RegistryService(Service):
    """
    A registry. If another that was appointed as well leads for longer, it sends its nodes there,
    and keeps them again once that one is gone.

    @ivar factory: its conversations and its table, once it has started.
    @ivar introduction: what it says of itself, once it has started.
    """

    log = Logger()
    factory: RegistryFactory
    introduction: Introduction

    def __init__(
        self,
        reactor: IReactorTime,
        settings: RegistrySettings,
        *,
        random: Random | None = None,
        run_blocking: RunBlocking | None = None,
        local_addresses: Callable[[], Sequence[LocalAddress]] = addresses_of_host,
    ) -> None:
        """
        @param reactor: with what its endpoint and its beacon need.
        @param settings: what the user decided.
        @param random: for keys, nonces, jitter, and the choice among those who hold a content. The
            system's unless given; another is for tests.
        @param run_blocking: runs what waits for the disk; threads of its own unless given.
        @param local_addresses: finds this machine's addresses.
        """
        self.settings = settings
        self._reactor = reactor
        self._random = random or SystemRandom()
        self._local_addresses = local_addresses
        self._run_blocking = run_blocking
        self._workers: Workers | None = None
        self._presence: Presence | None = None
        self._office: Office | None = None
        self._follower: RegistryFollower | None = None
        self._ending = Ending(self._stop)

    @property
    def peers(self) -> list[Peer]:
        """Who is listed now; nobody before it has started."""
        return [] if self._presence is None else self.factory.peers

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 if it listens on something else, or not."""
        return 0 if self._presence is None else self._presence.port

    def privilegedStartService(self) -> None:
        """
        Open the state and the port.

        @raise Flow512Error: the registry cannot run, or is still stopping; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._ending.is_under_way:
            raise Misuse("The registry is still stopping; wait for what stopService() returned.")
        if self._presence is not None:
            return
        settings = self.settings
        presence = Presence(
            self._reactor,
            Claims(
                settings.name,
                settings.network,
                settings.network_key_file,
                settings.encryption,
                settings.state,
            ),
            Airwaves(settings.beacon_port, settings.interfaces, self._local_addresses),
            settings.limits,
            self._random,
        )
        self.introduction = presence.introduction
        try:
            self._office = Office(self._reactor, presence, self._make_registry)
            presence.listen(settings.listen or usual_places(DEFAULT_PORT))
        except BaseException:
            presence.close()
            raise
        self._presence = presence
        state = presence.standing.state
        if self._run_blocking is None and state is not None:
            self._workers = Workers(IReactorFromThreads(self._reactor))
            self._run_blocking = self._workers.run_blocking
        self._terms = TermKeeper(None if state is None else state.path, self._run_blocking)
        since = int(self._reactor.seconds() * 1000)
        why = Why.APPOINTED.value
        self.factory = self._office.open(
            Claim(self.introduction.node, self._terms.term + 1, since, True, why)
        )

    def _make_registry(
        self,
        claim: Claim,
        known: Callable[[int], None],
        heard: Callable[[RegistryOffer], None],
    ) -> RegistryFactory:
        assert self._presence is not None
        return RegistryFactory(
            self.introduction,
            self._reactor,
            connect=self._presence.standing.endpoint,
            random=self._random,
            limits=self.settings.limits,
            claim=claim,
            term_known=known,
            heard=heard,
        )

    def startService(self) -> None:
        """
        Begin to announce it.

        @raise Flow512Error: as L{privilegedStartService}, if that was not called before.
        """
        if self.running:
            return  # a parent that was running has started it
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        presence = self._presence
        assert presence is not None
        if self._workers is not None:
            self._workers.startService()
        if self._run_blocking is not None:
            presence.watch_bans(self._run_blocking)
        self.factory.listening(presence.host, presence.port)
        presence.announce("registry", self._sightings_changed)
        assert self._office is not None
        follower = self._follower = RegistryFollower(
            self._reactor,
            presence.standing.endpoint,
            self.introduction,
            mode=Mode.ALWAYS,
            port=0,
            ticket=self._random.randbytes(16),
            random=self._random,
            offers=self._registry_offers,
            listens=presence.beacon is not None,
            office=self._office,
            listener=self,
            limits=self.settings.limits,
            term=self._terms.term,
            remember=self._terms.remember,
            registers=False,
        )
        self._office.known, self._office.heard = follower.known, follower.heard
        follower.startService()

    def _sightings_changed(self, sighting: Sighting) -> None:
        if self._follower is not None:
            self._follower.reconsider()

    def _registry_offers(self) -> list[RegistryOffer]:
        return offers_seen(() if self._presence is None else self._presence.sightings)

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        """Another registry's list, while this one sends its nodes there: it is for nodes."""

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and close everything.

        @return: fires when nothing is open any more. Cancelling it does not keep the registry from
            ending.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return self._ending.ask()

    async def _stop(self) -> None:
        presence, self._presence = self._presence, None
        follower, self._follower = self._follower, None
        office, self._office = self._office, None
        if presence is not None:
            await presence.fall_silent()
            if follower is not None:
                await follower.stopService()
            await presence.stop_listening()
            if office is not None:
                await office.stop()
            await self._terms.finish()
            presence.close()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.stopService()
            self._run_blocking = None
