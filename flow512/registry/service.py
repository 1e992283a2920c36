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

from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
)
from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.interfaces import RunBlocking, Workers
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
from flow512.registry.server import RegistryFactory
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


class RegistryService(Service):
    """
    A registry.

    @ivar factory: its conversations and its table, once it has started.
    @ivar introduction: what it says of itself, once it has started.
    """

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
        @param random: for keys, jitter, and the choice among those who hold a content.
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

        @raise Flow512Error: the registry cannot run; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
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
        self.factory = RegistryFactory(
            self.introduction,
            self._reactor,
            connect=presence.standing.endpoint,
            random=self._random,
            limits=settings.limits,
        )
        presence.shared.conversations["registry"] = self.factory
        try:
            presence.listen(settings.listen or usual_places(DEFAULT_PORT))
        except BaseException:
            presence.close()
            raise
        self._presence = presence
        self.factory.startFactory()

    def startService(self) -> None:
        """
        Begin to announce it.

        @raise Flow512Error: as L{privilegedStartService}, if that was not called before.
        """
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        presence = self._presence
        assert presence is not None
        if self._run_blocking is not None:
            presence.watch_bans(self._run_blocking)
        elif self.settings.state is not None:
            self._workers = Workers(IReactorFromThreads(self._reactor))
            self._workers.startService()
            presence.watch_bans(self._workers.run_blocking)
        self.factory.listening(presence.host, presence.port)
        presence.announce("registry")

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and close everything.

        @return: fires when nothing is open any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        presence, self._presence = self._presence, None
        if presence is not None:
            await presence.fall_silent()
            await presence.stop_listening()
            await self.factory.stop()
            presence.close()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.stopService()
