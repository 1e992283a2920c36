"""
A registry by itself: its factory, its port and its beacon in one C{IService}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
    check_interfaces,
    choose_interfaces,
)
from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.discovery.beacon import Beacon
from flow512.interfaces import RunBlocking, Workers
from flow512.limits import Limits
from flow512.link.address import (
    DEFAULT_PORT,
    LOOPBACK,
    host_of,
    listen_at,
    usual_places,
)
from flow512.link.ban_watch import BanWatch
from flow512.link.identity import check_names
from flow512.link.introduction import Introduction
from flow512.link.shared_port import SharedPortFactory
from flow512.link.standing import Claims, Standing
from flow512.link.tls import Encryption
from flow512.registry.server import RegistryFactory
from flow512.wire.messages import Peer


@dataclass(frozen=True)
class RegistrySettings:
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
    limits: Limits = field(default_factory=Limits)
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
    @ivar port: the TCP port that it listens on; 0 if it listens on something else.
    """

    factory: RegistryFactory
    introduction: Introduction
    port = 0

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
        @param random: for keys and jitter.
        @param run_blocking: runs what waits for the disk; threads of its own unless given.
        @param local_addresses: finds this machine's addresses.
        """
        self.settings = settings
        self._reactor = reactor
        self._random = random or SystemRandom()
        self._local_addresses = local_addresses
        self._run_blocking = run_blocking
        self._workers: Workers | None = None
        self._standing: Standing | None = None
        self._ban_watch: BanWatch | None = None
        self._shared: SharedPortFactory | None = None
        self._listening: IListeningPort | None = None
        self._beacon: Beacon | None = None

    @property
    def peers(self) -> list[Peer]:
        """Who is listed now; nobody before it has started."""
        return [] if self._shared is None else self.factory.peers

    def privilegedStartService(self) -> None:
        """
        Open the state and the port.

        @raise Flow512Error: the registry cannot run; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._listening is not None:
            return
        try:
            self._listen()
        except BaseException:
            self._close_standing()
            raise

    def _listen(self) -> None:
        settings = self.settings
        if settings.beacon_port is not None:
            check_interfaces(settings.interfaces, self._local_addresses())
        claims = Claims(
            settings.name,
            settings.network,
            settings.network_key_file,
            settings.encryption,
            settings.state,
        )
        standing = self._standing = Standing(claims, self._reactor, self._random)
        self.introduction = standing.introduction
        self.factory = RegistryFactory(
            self.introduction, self._reactor, connect=standing.endpoint, limits=settings.limits
        )
        self._shared = SharedPortFactory(self.introduction, self._reactor, settings.limits)
        self._shared.conversations["registry"] = self.factory
        failures: list[Failure] = []
        Deferred.fromCoroutine(
            listen_at(
                self._reactor,
                settings.listen or usual_places(DEFAULT_PORT),
                standing.security.accepting(self._shared),
            )
        ).addCallbacks(self._listens, failures.append)
        if failures:
            failures[0].raiseException()
        self.factory.startFactory()

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
        assert self._standing is not None
        self._watch_bans(self._standing)
        self.factory.listening(host_of(self._listening, usual), self.port)
        if self.settings.beacon_port is None:
            return
        self._beacon = Beacon(
            self._reactor,
            name=self.introduction.name,
            random=self._random,
            port=self.settings.beacon_port,
            network=self._standing.beacon_tag,
            seal_key=self._standing.seal_key,
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
        watch, self._ban_watch = self._ban_watch, None
        if watch is not None:
            await maybeDeferred(watch.stopService)
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
            if self._shared is not None:
                self._shared.close_waiting()
            await self.factory.stop()
        if self._workers is not None:
            self._workers.stopService()
            self._workers = None
        self._close_standing()
        self.port = 0

    def _close_standing(self) -> None:
        standing, self._standing = self._standing, None
        if standing is not None:
            standing.close()

    def _watch_bans(self, standing: Standing) -> None:
        run_blocking = self._run_blocking
        if run_blocking is None and standing.state is not None:
            self._workers = Workers(IReactorFromThreads(self._reactor))
            self._workers.startService()
            run_blocking = self._workers.run_blocking
        if run_blocking is not None:
            self._ban_watch = standing.ban_watch(run_blocking, self._banned)
        if self._ban_watch is not None:
            self._ban_watch.startService()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _banned(self, node: bytes) -> None:
        if self._shared is not None:
            self._shared.end(node)
