"""Tests for L{flow512.link.address}."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.errors import Misuse, PortTaken
from flow512.link.address import (
    HostPort,
    client_endpoint,
    host_of,
    listen_at,
    parse_address,
    usual_places,
)
from flow512.testing import Network


class ParseTests(SynchronousTestCase):
    """L{parse_address}."""

    def test_what_people_type(self) -> None:
        """Names and literals, with a port or without one; and endpoint strings as they are."""
        for text, expected in {
            "host": HostPort("host", 5000),
            " host \n": HostPort("host", 5000),
            "host.example:80": HostPort("host.example", 80),
            "10.0.0.1": HostPort("10.0.0.1", 5000),
            "10.0.0.1:65535": HostPort("10.0.0.1", 65535),
            "::1": HostPort("::1", 5000),
            "[::1]": HostPort("::1", 5000),
            "[fe80::1%eth0]:1": HostPort("fe80::1%eth0", 1),
            "fe80::1%eth0": HostPort("fe80::1%eth0", 5000),
            "::ffff:10.0.0.1": HostPort("10.0.0.1", 5000),
            "[::ffff:10.0.0.1]:1": HostPort("10.0.0.1", 1),
            "bücher.example": HostPort("bücher.example", 5000),
            "tcp:host:80": "tcp:host:80",
            "unix:/run/node": "unix:/run/node",
        }.items():
            self.assertEqual(parse_address(text), expected, text)
        self.assertEqual(parse_address("host", 7), HostPort("host", 7))

    def test_what_is_no_address(self) -> None:
        """Anything else is refused, in a sentence that shows it escaped."""
        for text in (
            "",
            " ",
            "host:0",
            "host:65536",
            "[::1",
            "[host]",
            "[::1]:",
            ":80",
            "a b",
            "a/b",
        ):
            with self.assertRaises(Misuse, msg=text):
                parse_address(text)
        with self.assertRaises(Misuse) as caught:
            parse_address("a \x1b[31m")
        self.assertNotIn("\x1b", str(caught.exception))

    @given(st.text(max_size=30))
    def test_any_text(self, text: str) -> None:
        """Whatever is typed is an address with an endpoint, or it is refused."""
        try:
            client_endpoint(MemoryReactorClock(), parse_address(text))
        except Misuse:
            pass

    def test_written_back(self) -> None:
        """A TCP address is written so that it is read the same."""
        for address in (HostPort("host", 80), HostPort("::1", 5000), HostPort("10.0.0.1", 1)):
            self.assertEqual(parse_address(str(address), 9), address)


class ClientEndpointTests(SynchronousTestCase):
    """L{client_endpoint}."""

    def test_kinds(self) -> None:
        """Literals are connected to at once, names are looked up, strings are Twisted's."""
        reactor = MemoryReactorClock()
        for address in (HostPort("10.0.0.1", 80), HostPort("::1", 80), "tcp:10.0.0.1:80"):
            endpoint = client_endpoint(reactor, address, 3.0)
            verifyObject(IStreamClientEndpoint, endpoint)
            endpoint.connect(Factory())
        self.assertEqual(
            [(host, port, timeout) for host, port, _, timeout, _ in reactor.tcpClients],
            [("10.0.0.1", 80, 3.0), ("::1", 80, 3.0), ("10.0.0.1", 80, 30)],
        )

    def test_no_endpoint(self) -> None:
        """What no endpoint can be made of is the user's mistake, and said so."""
        for address in (
            "nonsense:x",
            "tcp:host:port",
            "tcp:",
            "tls:host:443:certificate=/nowhere/at/all",
            HostPort("a..b", 80),
            HostPort("x" * 64, 80),
        ):
            with self.assertRaises(Misuse, msg=str(address)):
                client_endpoint(MemoryReactorClock(), address)


class ListenTests(SynchronousTestCase):
    """L{listen_at}."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.host = self.network.host("10.0.0.1", "fd00::1")

    def listen(
        self, places: str | Sequence[str], reactor: IReactorTime | None = None
    ) -> Deferred[IListeningPort]:
        """Listen with a factory."""
        return Deferred.fromCoroutine(listen_at(reactor or self.host.reactor, places, Factory()))

    def test_first_that_is_free(self) -> None:
        """The first place that is free is taken, and IPv4 gets in where there is IPv6."""
        first = self.successResultOf(self.listen(usual_places(5000, 0)))
        second = self.successResultOf(self.listen(usual_places(5000, 0)))
        self.assertEqual((first.getHost().host, first.getHost().port), ("::", 5000))
        self.assertNotIn(second.getHost().port, (0, 5000))

    def test_backlog(self) -> None:
        """Many may wait at a TCP port to be accepted, unless the user says how many."""
        for place, backlog in {
            "tcp:0": 1024,
            r"tcp:0:interface=\:\:": 1024,
            "tcp6:0": 1024,
            r"tcp:0:interface=\:\:1": 1024,
            "tcp:0:127.0.0.1": 1024,
            "tcp:0:backlog=7": 7,
            "tcp:0:127.0.0.1:7": 7,
            r"tcp:0:\:\:1:7": 7,
        }.items():
            reactor = MemoryReactorClock()
            self.successResultOf(self.listen(place, reactor))
            self.assertEqual(reactor.tcpServers[0][2], backlog, place)
        reactor = MemoryReactorClock()
        self.successResultOf(self.listen("unix:/run/node", reactor))
        self.assertEqual(reactor.unixServers[0][2], 50)

    def test_taken(self) -> None:
        """If none is free the sentence names the last of them, and what to do."""
        self.successResultOf(self.listen("tcp:5000"))
        for places in ("tcp:5000", ["tcp:5000:interface=10.0.0.1", "tcp:5000"]):
            failure = self.failureResultOf(self.listen(places), PortTaken)
            self.assertIn("'tcp:5000' (Address already in use)", str(failure.value))
            self.assertIn("--listen tcp:5001", str(failure.value))

    def test_no_endpoint(self) -> None:
        """What cannot be listened on at all is the user's mistake, and said so."""
        for place in ("nonsense:x", "tcp:port", "tcp:", "", "ssl:443:privateKey=/nowhere/at/all"):
            self.failureResultOf(self.listen(place), Misuse)

    def test_port_out_of_range(self) -> None:
        """So is a port that no socket can have."""

        class Strict(MemoryReactorClock):
            """Raises what a socket does."""

            def listenTCP(self, *args: object, **kwargs: object) -> object:
                raise OverflowError("bind(): port must be 0-65535.")

        failure = self.failureResultOf(self.listen("tcp:70000", Strict()), Misuse)
        self.assertIn("port must be 0-65535", str(failure.value))

    def test_host_of(self) -> None:
        """A port on one address is reached there; one on all of them, or none, at the usual one."""
        every = self.successResultOf(self.listen(r"tcp:1:interface=\:\:"))
        old = self.successResultOf(self.listen("tcp:2"))
        one = self.successResultOf(self.listen("tcp:3:interface=10.0.0.1"))
        wrapped = MemoryReactorClock().listenTCP(4, Factory(), interface="::ffff:10.0.0.1")
        self.assertEqual(
            [host_of(port, "usual") for port in (every, old, one, wrapped, None)],
            ["usual", "usual", "10.0.0.1", "10.0.0.1", "usual"],
        )
