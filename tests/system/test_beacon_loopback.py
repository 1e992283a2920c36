"""Two beacons on one machine, over real sockets, on the loopback interface only."""

from __future__ import annotations

import socket
from collections.abc import Generator, Sequence
from random import SystemRandom
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs

from flow512.discovery.addresses import LocalAddress, addresses_of_host, usable
from flow512.discovery.beacon import Beacon
from flow512.discovery.datagram import Offer
from flow512.discovery.engine import Ignored, Sighting
from flow512.discovery.sockets import GROUP4

LOOPBACK = LocalAddress("127.0.0.1", 8, "lo")
LIMIT = 10.0


def free_port() -> int:
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ear(DatagramProtocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.got.append(datagram)


class Watched:
    """A beacon on the loopback interface, and Deferreds for what it sees."""

    def __init__(
        self,
        port: int,
        name: str,
        *offers: Offer,
        interfaces: Sequence[LocalAddress] = (LOOPBACK,),
        seal_key: bytes | None = None,
    ) -> None:
        from twisted.internet import reactor

        self.found: Deferred[Sighting] = Deferred()
        self.lost: Deferred[Sighting] = Deferred()
        self.found.addTimeout(LIMIT, reactor)
        self.lost.addTimeout(LIMIT, reactor)
        self.beacon = Beacon(
            reactor,
            name=name,
            random=SystemRandom(),
            port=port,
            offers=offers,
            interfaces=interfaces,
            seal_key=seal_key,
            on_found=self.found.callback,
            on_lost=self.lost.callback,
        )


@pytest_twisted.inlineCallbacks
def test_two_on_one_machine() -> Generator[Any, Any, None]:
    """They share the port, find each other, and see each other's goodbye."""
    port = free_port()
    first = Watched(port, "first", Offer("registry", 5000))
    second = Watched(port, "second", Offer("node", 5001))
    first.beacon.startService()
    second.beacon.startService()
    try:
        seen = yield first.found
        assert (seen.host, seen.name, seen.port("node")) == ("127.0.0.1", "second", 5001)
        seen = yield second.found
        assert (seen.host, seen.name, seen.port("registry")) == ("127.0.0.1", "first", 5000)
        yield second.beacon.stopService()
        seen = yield first.lost
        assert seen.name == "second"
    finally:
        yield first.beacon.stopService()
        if second.beacon.running:
            yield second.beacon.stopService()
        second.lost.cancel()
        yield second.lost.addErrback(lambda _: None)


@pytest_twisted.inlineCallbacks
def test_late_comer_is_answered() -> Generator[Any, Any, None]:
    """One that comes later and only looks finds the first by asking, before it announces again."""
    from twisted.internet import reactor

    port = free_port()
    first = Watched(port, "first", Offer("registry", 5000))
    second = Watched(port, "second")
    first.beacon.startService()
    try:
        yield deferLater(reactor, 0.05)
        began = reactor.seconds()
        second.beacon.startService()
        seen = yield second.found
        assert seen.port("registry") == 5000
        assert reactor.seconds() - began < 3.5
    finally:
        yield second.beacon.stopService()
        yield first.beacon.stopService()
        for unfired in (first.found, first.lost, second.lost):
            unfired.addErrback(lambda _: None)
            unfired.cancel()


@pytest_twisted.inlineCallbacks
def test_ipv6_without_multicast() -> Generator[Any, Any, None]:
    """Where IPv6 takes no multicast, as on loopback, that is logged once and IPv4 is used."""
    port = free_port()
    both = [LOOPBACK, LocalAddress("::1", 128, "lo", socket.if_nametoindex("lo"))]
    first = Watched(port, "first", Offer("registry", 5000), interfaces=both)
    second = Watched(port, "second", interfaces=both)
    with capturedLogs() as logs:
        first.beacon.startService()
        second.beacon.startService()
        try:
            seen = yield second.found
            assert seen.host == "127.0.0.1"
            yield second.beacon.stopService()
        finally:
            yield first.beacon.stopService()
            for unfired in (first.found, first.lost, second.lost):
                unfired.addErrback(lambda _: None)
                unfired.cancel()
    told = [event for event in logs if event.get("where") == "::1"]
    assert len(told) == 2, told  # one for each beacon


@pytest_twisted.inlineCallbacks
def test_closed_network() -> Generator[Any, Any, None]:
    """Members find each other; strangers, with another key or none, neither see nor are seen."""
    from twisted.internet import reactor

    port = free_port()
    key = bytes(range(32))
    first = Watched(port, "first", Offer("node", 5001), seal_key=key)
    strangers = [
        Watched(port, "stranger", Offer("node", 5002), seal_key=bytes(32)),
        Watched(port, "open", Offer("node", 5003)),
    ]
    second = Watched(port, "second", Offer("node", 5004), seal_key=key)
    watched = [first, *strangers, second]
    try:
        for each in watched:
            each.beacon.startService()
        seen = yield first.found
        assert seen.name == "second"
        seen = yield second.found
        assert seen.name == "first"
        yield deferLater(reactor, 1.5)  # until all have asked three times, and were answered
        assert [len(each.beacon.sightings) for each in watched] == [1, 0, 0, 1]
        assert strangers[0].beacon.ignored[Ignored.UNOPENED] > 0
        assert first.beacon.ignored[Ignored.UNOPENED] > 0
        yield second.beacon.stopService()
        seen = yield first.lost
        assert seen.name == "second"
    finally:
        for each in watched:
            if each.beacon.running:
                yield each.beacon.stopService()
            for unfired in (each.found, each.lost):
                unfired.addErrback(lambda _: None)
                unfired.cancel()


@pytest_twisted.inlineCallbacks
def test_recording_of_closed_network() -> Generator[Any, Any, None]:
    """Somebody on the same machine plays back all that a member said, and gets no answer."""
    from twisted.internet import reactor

    port = free_port()
    ear = Ear()
    listening = reactor.listenMulticast(port, ear, maxPacketSize=1024, listenMultiple=True)
    playing = reactor.listenUDP(0, Ear(), interface="127.0.0.1")
    playing.setBroadcastAllowed(True)
    member = Watched(port, "a secret name", Offer("node", 5001), seal_key=bytes(range(32)))
    try:
        yield listening.joinGroup(GROUP4, "127.0.0.1")
        member.beacon.startService()
        yield deferLater(reactor, 1.5)
        assert ear.got
        for data in ear.got:
            assert len(data) == 512
            assert b"secret" not in data
        for data in list(ear.got):
            playing.write(data, ("127.255.255.255", port))
        yield deferLater(reactor, 0.5)
        assert member.beacon.ignored[Ignored.UNOPENED] > 0
        assert member.beacon.sightings == ()
        assert playing.protocol.got == []
    finally:
        yield member.beacon.stopService()
        yield listening.stopListening()
        yield playing.stopListening()
        for unfired in (member.found, member.lost):
            unfired.addErrback(lambda _: None)
            unfired.cancel()


def test_addresses_of_this_machine() -> None:
    """This machine has a loopback address, and it is used only if there is nothing else."""
    addresses = addresses_of_host()
    loopback = [a for a in addresses if a.address == "127.0.0.1"]
    assert [a.prefix for a in loopback] == [8]
    assert list(usable(loopback)) == loopback
    if any(not a.is_loopback for a in addresses):
        assert not any(a.is_loopback for a in usable(addresses))
