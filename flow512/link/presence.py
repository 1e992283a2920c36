"""
How a process is there for others: its standing, its port, its beacon, and its bans. A node and a
registry have all of it in common, and differ in the conversations that they offer.

Order: made, it has the state folder. L{Presence.listen} opens the port; so a process that cannot
run says so before it has told anybody of itself. L{Presence.announce} tells everybody;
L{Presence.fall_silent} and L{Presence.stop_listening} take both back, and L{Presence.close} the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.discovery.addresses import LocalAddress, check_interfaces, choose_interfaces
from flow512.discovery.beacon import Beacon, OnSighting
from flow512.discovery.engine import Sighting
from flow512.errors import ResourceFailure
from flow512.interfaces import RunBlocking
from flow512.limits import Limits
from flow512.link.address import LOOPBACK, host_of, listen_at
from flow512.link.ban_watch import BanWatch
from flow512.link.listening_file import Listening, ListeningFile
from flow512.link.shared_port import SharedPortFactory
from flow512.link.standing import Claims, Standing


class Airwaves(msgspec.Struct, frozen=True):
    """
    Where a process beacons.

    @ivar port: the UDP port; L{None} for no beacon.
    @ivar interfaces: names or addresses of the interfaces; all if empty.
    @ivar local_addresses: finds this machine's addresses.
    """

    port: int | None
    interfaces: tuple[str, ...]
    local_addresses: Callable[[], Sequence[LocalAddress]]

    def chosen(self) -> Sequence[LocalAddress]:
        """The addresses to use now."""
        return choose_interfaces(self.interfaces, self.local_addresses())


class Presence:
    """
    A process among others.

    @ivar standing: who it is.
    @ivar introduction: what it says of itself.
    @ivar shared: what answers at its port.
    @ivar listening: its port; L{None} if it has none.
    @ivar port: the TCP port's number; 0 for none.
    @ivar beacon: its beacon, while it announces anything.
    """

    log = Logger()
    listening: IListeningPort | None = None
    port = 0
    beacon: Beacon | None = None
    _watch: BanWatch | None = None
    _written: ListeningFile | None = None

    def __init__(
        self,
        reactor: IReactorTime,
        claims: Claims,
        airwaves: Airwaves,
        limits: Limits,
        random: Random,
    ) -> None:
        """
        @param reactor: with what its endpoints and its beacon need.
        @param claims: what the user says of it.
        @param airwaves: where it beacons.
        @param limits: how many connections it takes.
        @param random: for keys, nonces and jitter.
        @raise flow512.errors.Flow512Error: there is no such interface, or as L{Standing}.
        """
        if airwaves.port is not None:
            check_interfaces(airwaves.interfaces, airwaves.local_addresses())
        self.standing = Standing(claims, reactor, random)
        self.introduction = self.standing.introduction
        self.shared = SharedPortFactory(self.introduction, reactor, limits)
        self._reactor = reactor
        self._airwaves = airwaves
        self._random = random

    def listen(self, places: str | Sequence[str]) -> None:
        """
        Open the port.

        @param places: as for L{listen_at}.
        @raise flow512.errors.Flow512Error: as L{listen_at}.
        """
        failures: list[Failure] = []
        Deferred.fromCoroutine(
            listen_at(self._reactor, places, self.standing.security.accepting(self.shared))
        ).addCallbacks(self._listens, failures.append)
        if failures:
            failures[0].raiseException()

    def _listens(self, port: IListeningPort) -> None:
        self.listening = port
        self.port = getattr(port.getHost(), "port", 0)

    @property
    def beacon_addresses(self) -> Sequence[LocalAddress]:
        """The addresses that its beacon uses now, or would."""
        return self._airwaves.chosen()

    @property
    def host(self) -> str:
        """An address that others on the network reach it at."""
        usual = self._airwaves.chosen()
        return host_of(self.listening, usual[0].address if usual else LOOPBACK)

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """What the beacon sees."""
        return () if self.beacon is None else self.beacon.sightings

    def announce(self, offer: str, sightings_changed: OnSighting = lambda sighting: None) -> None:
        """
        Tell everybody that it is there; commands of the same user as well.

        @param offer: what is to be found at its port, as beacons call it.
        @param sightings_changed: told when the beacon sees another than before.
        """
        self._tell_commands()
        if self._airwaves.port is None:
            return
        self.beacon = Beacon(
            self._reactor,
            name=self.introduction.name,
            random=self._random,
            port=self._airwaves.port,
            network=self.standing.beacon_tag,
            seal_key=self.standing.seal_key,
            node_id=self.introduction.node,
            interfaces=self._airwaves.chosen,
            on_found=sightings_changed,
            on_lost=sightings_changed,
        )
        if self.port:
            self.beacon.offer(offer, self.port)
        self.beacon.startService()

    def _tell_commands(self) -> None:
        state = self.standing.state
        if not self.port or state is None:
            return
        listening = Listening(host_of(self.listening, ""), self.port)
        try:
            self._written = ListeningFile(state.path, listening)
        except ResourceFailure as error:
            # Nobody but this machine's own commands needs it; a full disk ends no registry.
            self.log.warn(
                "Other commands of yours do not learn that port {port} is this one's: {why}",
                port=self.port,
                why=str(error),
            )

    def watch_bans(self, run_blocking: RunBlocking) -> None:
        """
        Notice new bans, and close the connections of who is banned.

        @param run_blocking: runs what waits for the disk.
        """
        self._watch = self.standing.ban_watch(run_blocking, self.shared.end)
        if self._watch is not None:
            self._watch.startService()

    async def fall_silent(self) -> None:
        """
        Say goodbye to those who hear the beacon.
        """
        beacon, self.beacon = self.beacon, None
        if beacon is not None:
            await beacon.stopService()
        written, self._written = self._written, None
        if written is not None:
            written.close()

    async def stop_listening(self) -> None:
        """
        Take no more connections. Those that are open are for whoever speaks there to close.
        """
        listening, self.listening = self.listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        self.shared.close_waiting()
        watch, self._watch = self._watch, None
        if watch is not None:
            await maybeDeferred(watch.stopService)
        self.port = 0

    def close(self) -> None:
        """
        Let other processes have the state folder.
        """
        self.standing.close()
