"""
A registry by itself: its factory, its port and its beacon in one C{IService}.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.python.failure import Failure

from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
    check_interfaces,
    choose_interfaces,
)
from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.discovery.beacon import Beacon
from flow512.link.address import DEFAULT_PORT, LOOPBACK, host_of, listen_at, usual_places
from flow512.link.conversation import MAX_NAME, Introduction
from flow512.link.identity import ID_SIZE, check_names
from flow512.registry.server import RegistryFactory


@dataclass(frozen=True)
class RegistrySettings:
    """
    What a user decides about a registry.

    @ivar listen: the server endpoint string; TCP port L{DEFAULT_PORT} on every address if empty.
    @ivar name: what others are shown; the machine's name if empty.
    @ivar network: only nodes with the same network name are accepted.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: names or addresses of the interfaces that the beacon uses; all if empty.
    """

    listen: str = ""
    name: str = ""
    network: str = ""
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

    @ivar factory: its conversations and its table.
    @ivar port: the TCP port that it listens on; 0 if it listens on something else.
    """

    port = 0

    def __init__(
        self,
        reactor: IReactorTime,
        settings: RegistrySettings,
        *,
        random: Random | None = None,
        local_addresses: Callable[[], Sequence[LocalAddress]] = addresses_of_host,
    ) -> None:
        """
        @param reactor: with what its endpoint and its beacon need.
        @param settings: what the user decided.
        @param random: for ids and jitter.
        @param local_addresses: finds this machine's addresses.
        """
        self.settings = settings
        self._reactor = reactor
        self._random = random or SystemRandom()
        self._local_addresses = local_addresses
        name = settings.name or socket.gethostname()[:MAX_NAME]
        self.introduction = Introduction(self._random.randbytes(ID_SIZE), name, settings.network)
        self.factory = RegistryFactory(self.introduction, reactor)
        self._listening: IListeningPort | None = None
        self._beacon: Beacon | None = None

    def privilegedStartService(self) -> None:
        """
        Open the port.

        @raise Flow512Error: it cannot be opened; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._listening is not None:
            return
        if self.settings.beacon_port is not None:
            check_interfaces(self.settings.interfaces, self._local_addresses())
        failures: list[Failure] = []
        Deferred.fromCoroutine(
            listen_at(
                self._reactor, self.settings.listen or usual_places(DEFAULT_PORT), self.factory
            )
        ).addCallbacks(self._listens, failures.append)
        if failures:
            failures[0].raiseException()

    def _listens(self, port: IListeningPort) -> None:
        self._listening = port
        self.port = getattr(port.getHost(), "port", 0)

    def startService(self) -> None:
        """
        Begin to announce it.

        @raise Flow512Error: as L{privilegedStartService}, if that was not called before.
        """
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        addresses = choose_interfaces(self.settings.interfaces, self._local_addresses())
        usual = addresses[0].address if addresses else LOOPBACK
        self.factory.listening(host_of(self._listening, usual), self.port)
        if self.settings.beacon_port is None:
            return
        self._beacon = Beacon(
            self._reactor,
            name=self.introduction.name,
            random=self._random,
            port=self.settings.beacon_port,
            network=self.introduction.network,
            node_id=self.introduction.node,
            interfaces=lambda: choose_interfaces(self.settings.interfaces, self._local_addresses()),
        )
        if self.port:
            self._beacon.offer("registry", self.port)
        self._beacon.startService()

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and close everything.

        @return: fires when nothing is open any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        beacon, self._beacon = self._beacon, None
        if beacon is not None:
            await beacon.stopService()
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        await self.factory.stop()
        self.port = 0
