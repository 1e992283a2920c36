"""Tests for L{flow512.registry.service}."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from unittest import mock

from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.beacon import Beacon
from flow512.errors import Misuse, PortTaken
from flow512.link.address import HostPort, client_endpoint
from flow512.link.identity import Identity
from flow512.link.introduction import Introduction
from flow512.link.tls import Tls
from flow512.registry.client import RegistryClient
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.testing import Host, Network
from tests.unit.registry_ends import ServingFactory

NODE = Identity.from_seed(b"n" * 32)


def local_addresses(host: Host) -> list[LocalAddress]:
    """What a host of the simulation has instead of interfaces."""
    return [LocalAddress(address, 24, "eth0", 2) for address in host.addresses]


class RegistryServiceTests(SynchronousTestCase):
    """L{RegistryService}."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.there = self.network.host("10.0.0.1", name="there")
        self.here = self.network.host("10.0.0.2", name="here")
        self.services: list[RegistryService] = []
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Stop all that runs; nothing may be left over."""
        for service in self.services:
            if service.running:
                self.network.result(service.stopService())
        self.network.run(100.0)
        self.network.assert_quiet()

    def make(self, settings: RegistrySettings) -> RegistryService:
        """Make a registry."""
        service = RegistryService(
            self.there.reactor,
            settings,
            random=Random(1),
            local_addresses=lambda: local_addresses(self.there),
        )
        self.services.append(service)
        return service

    def client(self, network: str = "") -> RegistryClient:
        """Make a node's client."""
        reactor = self.here.reactor
        return RegistryClient(
            reactor,
            Tls(NODE, reactor).connecting(client_endpoint(reactor, HostPort("there", 5000))),
            Introduction(NODE.node, "node", network),
            port=5001,
            ticket=b"t" * 16,
            random=Random(2),
        )

    def test_whole_life(self) -> None:
        """
        It lists the nodes that it reaches, says goodbye to them when it stops, and closes its port.
        """
        service = self.make(RegistrySettings(name="registry"))
        verifyObject(IService, service)
        service.startService()
        self.assertEqual(service.port, 5000)
        client = self.client()
        client.startService()
        self.network.run_until(lambda: client.is_reachable is False)
        self.assertEqual(client.peers, {})
        reactor = self.here.reactor
        serving = Tls(NODE, reactor).accepting(ServingFactory(client.introduction, reactor))
        port = self.network.result(serverFromString(reactor, "tcp:5001").listen(serving))
        self.network.run_until(lambda: client.peers)
        port.stopListening()
        self.assertEqual([peer.name for peer in client.peers.values()], ["node"])
        self.network.result(service.stopService())
        self.assertEqual(service.port, 0)
        self.assertEqual(self.there.left_over(), [])
        self.network.run(1.0)
        self.assertFalse(client.is_listed)
        self.network.result(client.stopService())

    def test_started_twice(self) -> None:
        """Started once more while it runs, it goes on as before, and nothing of it outlives it."""
        service = self.make(RegistrySettings(name="registry"))
        service.startService()
        service.startService()
        client = self.client()
        client.startService()
        self.network.run_until(lambda: client.is_listed)
        self.network.result(client.stopService())
        self.network.result(service.stopService())
        self.assertEqual(self.there.left_over(), [])

    def test_announced(self) -> None:
        """The beacon of another host sees it, until it says goodbye."""
        service = self.make(RegistrySettings(name="registry", network="lab"))
        service.startService()
        beacon = Beacon(
            self.here.reactor,
            name="here",
            random=Random(3),
            network="lab",
            node_id=b"n" * 32,
            interfaces=lambda: local_addresses(self.here),
        )
        beacon.startService()
        self.network.run_until(lambda: beacon.sightings)
        (sighting,) = beacon.sightings
        self.assertEqual((sighting.host, sighting.port("registry")), ("10.0.0.1", 5000))
        (offer,) = sighting.offers
        claim = service.factory.claim
        self.assertEqual((offer.term, offer.since, offer.appointed), (1, claim.since, True))
        self.network.result(service.stopService())
        self.network.run(1.0)
        self.assertEqual(beacon.sightings, ())
        stopped = beacon.stopService()
        assert stopped is not None
        self.network.result(stopped)

    def test_listening_file_cannot_be_written(self) -> None:
        """It is there for the network though its own machine's commands cannot be told of it."""
        state = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, state)
        Path(state, "listening").mkdir(mode=0o700)
        service = self.make(RegistrySettings(state=state))
        service._run_blocking = self.there.run_blocking
        with capturedLogs() as logs:
            service.startService()
        client = self.client()
        client.startService()
        self.network.run_until(lambda: client.is_listed)
        (warning,) = [formatEvent(each) for each in logs if each["log_level"] is LogLevel.warn]
        self.assertIn(f"while writing '{state}/listening'", warning)
        self.network.result(client.stopService())
        self.network.result(service.stopService())

    def test_term(self) -> None:
        """
        It begins in a term after all that it knew in its state folder, takes over a later one that
        a node knows, and tells its next run of it.
        """
        state = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, state)
        service = self.make(RegistrySettings(state=state, listen="tcp:5000"))
        service._run_blocking = self.there.run_blocking
        service.startService()
        self.assertEqual(service.factory.claim.term, 1)
        client = self.client()
        client.startService()
        self.network.run(1.0)
        client.term = lambda: 40
        client.set_port(5002)
        self.network.run(1.0)
        assert client.claim is not None
        self.assertEqual((client.claim.term, service.factory.claim.term), (40, 40))
        self.network.result(client.stopService())
        self.network.result(service.stopService())
        again = self.make(RegistrySettings(state=state, listen="tcp:5000"))
        again._run_blocking = self.there.run_blocking
        again.startService()
        self.assertEqual(again.factory.claim.term, 41)

    def test_no_beacon(self) -> None:
        """Without a beacon not a datagram is sent."""
        self.make(RegistrySettings(beacon_port=None)).startService()
        self.network.run(10.0)
        self.assertEqual(self.there.datagrams_sent, 0)

    def test_port_taken(self) -> None:
        """A registry whose port is taken says so, and leaves nothing open."""
        endpoint = serverFromString(self.there.reactor, "tcp:5000")
        port = self.network.result(endpoint.listen(Factory()))
        service = self.make(RegistrySettings(listen="tcp:5000"))
        with self.assertRaises(PortTaken):
            service.privilegedStartService()
        port.stopListening()
        self.network.run(1.0)
        self.assertEqual(self.there.left_over(), [])

    def test_no_endpoint(self) -> None:
        """What cannot be listened on is refused."""
        with self.assertRaises(Misuse):
            self.make(RegistrySettings(listen="nonsense:1")).privilegedStartService()

    def test_something_else_than_tcp(self) -> None:
        """A registry on an endpoint without a port works, and offers none to the beacon."""
        service = self.make(RegistrySettings(listen="tcp:5000"))
        with mock.patch("flow512.link.presence.listen_at", _listen_nowhere):
            service.privilegedStartService()
            service.startService()
        self.assertEqual(service.port, 0)

    def test_addresses(self) -> None:
        """Without a network there is the loopback; names that nobody would take are refused."""
        service = RegistryService(
            self.there.reactor, RegistrySettings(beacon_port=None), local_addresses=list
        )
        self.services.append(service)
        service.startService()
        for name in ("x" * 65, "\udcff"):
            with self.assertRaises(Misuse):
                RegistrySettings(name=name)
            with self.assertRaises(Misuse):
                RegistrySettings(network=name)

    def test_end_is_not_cut_short(self) -> None:
        """Whoever no longer waits for the end, or asks twice, has the registry end all the same."""
        service = self.make(RegistrySettings())
        service.startService()
        self.network.run(1.0)
        impatient, patient = service.stopService(), service.stopService()
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        with self.assertRaises(Misuse):
            service.startService()
        self.network.result(patient)
        self.assertEqual(service.port, 0)
        self.network.run(1.0)
        self.assertEqual(self.there.left_over(), [])

    def test_stopped_before_it_started(self) -> None:
        """Stopping what was never started does no harm."""
        stopped = self.make(RegistrySettings()).stopService()
        assert isinstance(stopped, Deferred)
        self.network.result(stopped)


class _Nowhere:
    """A port that is no TCP port."""

    def getHost(self) -> object:
        return object()

    def stopListening(self) -> None:
        """Nothing to stop."""


async def _listen_nowhere(*args: object) -> _Nowhere:
    return _Nowhere()
