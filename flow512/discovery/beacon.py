"""
The beacon as a service: the sockets and the clock around L{flow512.discovery.engine}.

Nothing that the network or its absence does is an error here. What cannot be sent or
opened is logged once for each cause, and tried again when the interfaces are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorMulticast,
    IReactorTime,
    IUDPTransport,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.clocks import wall_seconds_of
from flow512.discovery import sockets
from flow512.discovery.addresses import LocalAddress, usable_addresses
from flow512.discovery.datagram import INSTANCE, Offer, printable
from flow512.discovery.engine import (
    Action,
    Engine,
    Found,
    Ignored,
    Lost,
    OffClock,
    SendTo,
    SendToAll,
    Sighting,
)

PORT: Final = 5120
"""The UDP port where beacons listen."""

REFRESH: Final = 30.0
"""Seconds after which the interfaces are read again."""

_MOST_OFF_CLOCK: Final = 64
"""Addresses that are remembered to be off."""

Interfaces = Sequence[LocalAddress] | Callable[[], Sequence[LocalAddress]]
OnSighting = Callable[[Sighting], None]


class _Socket(DatagramProtocol):
    """One socket of the beacon; whether it is open is whether it has a transport."""

    noisy = False

    def __init__(self, heard: Callable[[bytes, str, int], None]) -> None:
        self._heard = heard

    def logPrefix(self) -> str:
        return "Beacon"

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self._heard(datagram, addr[0], addr[1])


class _Place:
    """
    One address in use.

    @ivar own: the socket that sends from it.
    @ivar shared: the socket that hears what is sent to everybody; C{None} for IPv4, where
        one serves all places.
    """

    def __init__(self, address: LocalAddress, own: _Socket, shared: _Socket | None) -> None:
        self.address = address
        self.own = own
        self.shared = shared

    @property
    def sockets(self) -> list[_Socket]:
        """All that it has of its own."""
        return [self.own] if self.shared is None else [self.own, self.shared]


class Beacon(Service):
    """
    Announces this process on its networks, and tells who else is there.

    What it tells is a hint: anybody on the network can announce anything. The one thing to
    do with a sighting is to try its address, and to make sure by other means who answers.

    Alone, in somebody's application::

        beacon = Beacon(
            reactor, name="camera", random=Random(), on_found=show, on_lost=hide
        )
        beacon.offer("node", 5000)
        beacon.setServiceParent(application)

    @param reactor: must also provide C{IReactorMulticast}; for IPv6 on real interfaces,
        C{IReactorSocket} too, as every reactor of Twisted's on POSIX does. With a C{seal_key}
        its clock must tell the time of day, as those of Twisted's do, or be an
        L{IWallClock<flow512.clocks.IWallClock>}.
    @param port: the UDP port, the same for everybody who is to meet.
    @param network: only beacons with the same tag, at most 64 characters, see each other;
        not used with a C{seal_key}.
    @param name: what others are shown, at most 64 characters.
    @param node_id: 32 bytes, or none.
    @param offers: what can be reached here, and at which TCP port; none: it only looks.
    @param interfaces: the addresses to use, or a function that finds them, which is called
        every 30 seconds. By default every interface of this machine, the loopback one only
        when there is no other.
    @param random: for jitter, and for the number that tells this run from every other. With a
        C{seal_key} also for nonces, so it must then be a C{SystemRandom}.
    @param on_found: called with a L{Sighting} that is new, or differs from what was seen there.
    @param on_lost: called with a L{Sighting} that said goodbye or fell silent.
    @param seal_key: 32 bytes derived from the key of a closed network: only who has them sees
        what is announced, and is seen. C{None}: an open network.
    @raise Misuse: a limit is broken.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        name: str,
        random: Random,
        port: int = PORT,
        network: str = "",
        node_id: bytes = b"",
        offers: Iterable[Offer] = (),
        interfaces: Interfaces | None = None,
        on_found: OnSighting = lambda sighting: None,
        on_lost: OnSighting = lambda sighting: None,
        seal_key: bytes | None = None,
    ) -> None:
        self._clock = reactor
        self._wall_seconds = wall_seconds_of(reactor)
        self._udp = IReactorMulticast(reactor)
        self._port = port
        self._network = network
        self._name = name
        self._node_id = node_id
        self._seal_key = seal_key
        self._random = random
        self._interfaces = usable_addresses if interfaces is None else interfaces
        self._on_found = on_found
        self._on_lost = on_lost
        self._offers = {offer.kind: offer for offer in offers}
        self._engine = self._make_engine()
        self._places: dict[LocalAddress, _Place] = {}
        self._ear = _Socket(self._heard_by_all)
        self._joined: set[LocalAddress] = set()
        self._wake: IDelayedCall | None = None
        self._refresh: IDelayedCall | None = None
        self._told: set[tuple[str, str]] = set()
        self._off_clock: dict[str, float] = {}

    # For the application

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Whom it sees now."""
        return self._engine.sightings if self.running else ()

    @property
    def ignored(self) -> Mapping[Ignored, int]:
        """How many datagrams were ignored since the start, and why."""
        return self._engine.ignored

    @property
    def off_clock(self) -> Mapping[str, float]:
        """
        Some of those who are not heard because of their clocks, by address, and how many seconds
        each is late by ours.
        """
        return self._off_clock

    def offer(
        self, kind: str, port: int, *, term: int = 0, since: int = 0, appointed: bool = False
    ) -> None:
        """
        Offer something, or say something else of it than before, and tell everybody soon.

        @param kind: C{"registry"} or C{"node"}.
        @param port: its TCP port.
        @param term: of a registry: the term in which it leads.
        @param since: of a registry: since when, in milliseconds since 1970.
        @param appointed: of a registry: whether its user wants it to lead.
        @raise Misuse: a limit is broken; nothing was changed.
        """
        now = self._clock.seconds()
        actions = self._engine.offer(kind, port, now, term=term, since=since, appointed=appointed)
        self._offers[kind] = Offer(kind, port, term, since, appointed)
        self._perform(actions)

    def withdraw(self, kind: str) -> None:
        """Offer that no longer, and tell everybody soon."""
        self._offers.pop(kind, None)
        self._perform(self._engine.withdraw(kind, self._clock.seconds()))

    def startService(self) -> None:
        """Open what can be opened, ask who is there, and announce what is offered."""
        if self.running:
            return  # a parent that was running has started it
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        # After its goodbye nobody believes an instance again, so every start is a new one.
        self._engine = self._make_engine()
        self._told.clear()
        self._ear = _Socket(self._heard_by_all)
        self._read_interfaces()
        self._perform(self._engine.started(self._clock.seconds()))

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye and close everything.

        @return: a L{Deferred} that fires when all is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._send_all(self._engine.stopping(self._clock.seconds()))
        for call in (self._wake, self._refresh):
            if call is not None and call.active():
                call.cancel()
        self._wake = self._refresh = None
        open_sockets = [self._ear]
        for place in self._places.values():
            open_sockets += place.sockets
        self._places.clear()
        self._joined.clear()
        return _closed(open_sockets)

    # Inputs to the engine

    def _make_engine(self) -> Engine:
        return Engine(
            instance=self._random.randbytes(INSTANCE),
            network=self._network,
            name=self._name,
            node_id=self._node_id,
            offers=self._offers.values(),
            random=self._random,
            now=self._clock.seconds(),
            seal_key=self._seal_key,
        )

    def _heard_by_all(self, data: bytes, host: str, port: int) -> None:
        # Only from our own links: somebody far away has no business here, and would be
        # answered under an address that may be forged.
        if any(
            place.address.reaches(host)
            for place in self._places.values()
            if not place.address.is_ipv6
        ):
            self._take_in(data, host, port)
        else:
            self._engine.ignored[Ignored.OFF_LINK] += 1

    def _heard_at(self, address: LocalAddress) -> Callable[[bytes, str, int], None]:
        def heard(data: bytes, host: str, port: int) -> None:
            # A link-local source has lost its scope on the way through Twisted.
            if address.reaches(host):
                self._take_in(data, address.scoped(host), port)
            else:
                self._engine.ignored[Ignored.OFF_LINK] += 1

        return heard

    def _take_in(self, data: bytes, host: str, port: int) -> None:
        if self.running:
            now, time_of_day = self._clock.seconds(), self._wall_seconds()
            self._perform(self._engine.received(data, host, port, now, time_of_day))

    def _tick(self) -> None:
        self._wake = None
        self._perform(self._engine.tick(self._clock.seconds()))

    # Actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Found(sighting):
                    self.log.debug(
                        "Found {name} at {host}", name=printable(sighting.name), host=sighting.host
                    )
                    self._tell(self._on_found, sighting)
                case Lost(sighting):
                    self.log.debug(
                        "Lost {name} at {host}", name=printable(sighting.name), host=sighting.host
                    )
                    self._tell(self._on_lost, sighting)
                case OffClock(host, late):
                    self._note_clock(host, late)
                case _:
                    self._send_all([action])
        self._set_wake()

    def _tell(self, listener: OnSighting, sighting: Sighting) -> None:
        try:
            listener(sighting)
        except Exception:  # noqa: BLE001 - a listener's error must not stop the beacon
            self.log.failure("A listener of the beacon failed")

    def _set_wake(self) -> None:
        wake_at = self._engine.wake_at
        if wake_at is None:
            return
        delay = max(0.0, wake_at - self._clock.seconds())
        if self._wake is None:
            self._wake = self._clock.callLater(delay, self._tick)
        else:
            self._wake.reset(delay)

    def _send_all(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, SendToAll):
                for place in list(self._places.values()):
                    self._send(place, action.body, _everybody(place.address), self._port)
            elif isinstance(action, SendTo):
                for place in self._places.values():
                    if place.address.reaches(action.host):
                        self._send(place, action.body, [action.host], action.port)
                        break

    def _send(self, place: _Place, body: bytes, hosts: Iterable[str], port: int) -> None:
        if place.own.transport is None:
            return
        transport = IUDPTransport(place.own.transport)
        source = place.address.address, transport.getHost().port
        data = self._engine.envelop(body, *source, self._wall_seconds())
        for host in hosts:
            # The socket is bound to its interface, which is all that a scope would say.
            target = host.partition("%")[0]
            try:
                transport.write(data, (target, port))
            except (OSError, MessageLengthError) as error:
                self._note(place.address.address, error)

    # Sockets

    def _read_interfaces(self) -> None:
        self._refresh = self._clock.callLater(REFRESH, self._reread_interfaces)
        try:
            wanted = list(self._interfaces() if callable(self._interfaces) else self._interfaces)
        except OSError as error:
            self._note("the list of interfaces", error)
            return
        for address in [*self._places]:
            if address not in wanted or self._places[address].own.transport is None:
                self._close_place(address)
        if self._ear.transport is None and any(not address.is_ipv6 for address in wanted):
            self._joined.clear()
            self._open(lambda: sockets.open_shared4(self._udp, self._port, self._ear), "IPv4")
        for address in wanted:
            if address not in self._places:
                self._open_place(address)
            if address in self._places:
                self._listen_at(self._places[address])

    def _reread_interfaces(self) -> None:
        before = set(self._places)
        self._read_interfaces()
        if set(self._places) - before:
            self._perform(self._engine.arrived(self._clock.seconds()))

    def _open_place(self, address: LocalAddress) -> None:
        heard = self._heard_at(address)
        own = _Socket(heard)
        try:
            sockets.open_own(self._udp, address, own, self._trouble_at(address))
        except (CannotListenError, OSError) as error:
            self._note(address.address, error)
            return
        self._places[address] = _Place(address, own, _Socket(heard) if address.is_ipv6 else None)

    def _listen_at(self, place: _Place) -> None:
        address, shared = place.address, place.shared
        if shared is None:
            if self._ear.transport is not None and address not in self._joined:
                self._joined.add(address)
                sockets.join4(self._ear, address, self._trouble_at(address))
        elif shared.transport is None:
            self._open(
                lambda: sockets.open_shared6(self._udp, address, self._port, shared),
                address.address,
            )

    def _close_place(self, address: LocalAddress) -> None:
        place = self._places.pop(address)
        _closed(place.sockets)
        if address in self._joined:
            self._joined.discard(address)
            if self._ear.transport is not None:
                sockets.leave4(self._ear, address)

    def _open(self, listen: Callable[[], None], where: str) -> None:
        try:
            listen()
        except (CannotListenError, OSError) as error:
            if self._is_new(where, error):
                self.log.info(
                    "UDP port {port} cannot be opened for {where} ({error}); what others "
                    "announce is not heard, but questions are still asked.",
                    port=self._port,
                    where=where,
                    error=error,
                )

    # Trouble, once for each cause

    def _trouble_at(self, address: LocalAddress) -> Callable[[Failure], None]:
        def trouble(failure: Failure) -> None:
            self._joined.discard(address)  # so that it is tried again
            self._note(address.address, failure.value)

        return trouble

    def _note(self, where: str, error: object) -> None:
        if self._is_new(where, error):
            self.log.info("The beacon cannot use {where}: {error}", where=where, error=error)

    def _note_clock(self, host: str, late: float) -> None:
        if host in self._off_clock or len(self._off_clock) < _MOST_OFF_CLOCK:
            self._off_clock[host] = late
        # Once for all members: if it is this clock that is wrong, it is so for every one.
        if self._is_new("clock", "off"):
            self.log.warn(
                "The clocks of this machine and of {host} are {apart} seconds apart, so their "
                "beacons do not see each other; set the wrong one. (Or somebody plays back "
                "what that machine announced then.)",
                host=host,
                apart=round(abs(late)),
            )

    def _is_new(self, where: str, error: object) -> bool:
        error = getattr(error, "socketError", error)
        cause = (where, str(getattr(error, "errno", None) or error))
        if cause in self._told:
            return False
        self._told.add(cause)
        return True


def _everybody(address: LocalAddress) -> list[str]:
    if address.is_ipv6:
        return [sockets.GROUP6]
    broadcast = address.broadcast
    return [sockets.GROUP4] if broadcast is None else [broadcast, sockets.GROUP4]


def _closed(protocols: Iterable[_Socket]) -> Deferred[None]:
    closing = [maybeDeferred(sockets.close, protocol) for protocol in protocols]
    return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)
