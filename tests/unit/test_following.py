"""Tests for L{flow512.registry.following}."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.discovery.datagram import Offer
from flow512.discovery.election import LISTEN, PATIENCE, SPREAD, Mode
from flow512.discovery.engine import Sighting
from flow512.errors import Unreachable
from flow512.limits import Limits
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower, _Ear
from flow512.registry.server import RegistryFactory
from flow512.testing import Host, Network
from flow512.wire.fields import Peer
from flow512.wire.messages import Register

HERE = b"here".ljust(32)


@implementer(IPeerListListener)
class Watcher:
    """Keeps the list as it is told."""

    def __init__(self) -> None:
        self.peers: dict[bytes, Peer] = {}

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        for peer in left:
            assert peer.node in self.peers, "who leaves was there"
            del self.peers[peer.node]
        for peer in joined:
            assert peer.node not in self.peers, "who joins was not there"
            self.peers[peer.node] = peer
        for peer in changed:
            assert self.peers[peer.node] != peer, "who changed was another"
            self.peers[peer.node] = peer


class FollowerTests(SynchronousTestCase):
    """
    L{RegistryFollower}: one node at 10.0.0.1, two hosts for registries, and what the beacon sees
    in the test's hands.
    """

    def setUp(self) -> None:
        self.network = Network(2)
        self.here = self.network.host("10.0.0.1", name="here")
        self.one = self.network.host("10.0.0.2", name="one")
        self.two = self.network.host("10.0.0.3", name="two")
        self.sightings: list[Sighting] = []
        self.watcher = Watcher()
        self.registries: dict[Host, tuple[RegistryFactory, IListeningPort]] = {}
        self.led: list[float] = []
        self.follower: RegistryFollower | None = None
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Stop everything; nothing may be left over."""
        if self.follower is not None and self.follower.running:
            self.stop()
        for host in list(self.registries):
            self.close_registry(host)
        self.network.run(100.0)
        self.network.assert_quiet()

    def start(
        self,
        mode: Mode = Mode.AUTO,
        configured: HostPort | str | None = None,
        listens: bool = True,
        configured_node: bytes | None = None,
        limits: Limits | None = None,
    ) -> RegistryFollower:
        """Start a follower."""
        self.follower = RegistryFollower(
            self.here.reactor,
            partial(client_endpoint, self.here.reactor),
            Introduction(HERE, "here"),
            mode=mode,
            configured=configured,
            configured_node=configured_node,
            port=5000,
            ticket=b"t" * 16,
            random=Random(1),
            sightings=lambda: self.sightings,
            listens=listens,
            lead=self.lead,
            listener=self.watcher,
            limits=limits,
        )
        self.follower.startService()
        return self.follower

    def stop(self) -> None:
        """Stop the follower."""
        assert self.follower is not None
        self.network.result(self.follower.stopService())

    def lead(self) -> HostPort:
        """Carry the registry."""
        self.led.append(self.network.clock.seconds())
        self.registry(self.here)
        return HostPort("127.0.0.1", 5000)

    def registry(self, host: Host) -> RegistryFactory:
        """Start a registry."""
        factory = RegistryFactory(Introduction(host.name.encode().ljust(32)), host.reactor)
        factory.startFactory()
        endpoint = serverFromString(host.reactor, "tcp:5000")
        self.registries[host] = factory, self.network.result(endpoint.listen(factory))
        return factory

    def close_registry(self, host: Host) -> None:
        """Stop a registry."""
        factory, port = self.registries.pop(host)
        port.stopListening()
        self.network.result(factory.stop())

    def see(self, *hosts: Host) -> None:
        """Let the beacon see registries on these hosts, and nothing else."""
        self.sightings = [
            Sighting(host.addresses[0], host.name.encode(), "", b"", (Offer("registry", 5000),))
            for host in hosts
        ]
        if self.follower is not None:
            self.follower.reconsider()

    def followed(self) -> str:
        """The host whose registry the node is listed by; empty for none."""
        assert self.follower is not None
        if self.follower.client is None or not self.follower.client.is_listed:
            return ""
        return next(
            (host.name for host, (factory, _) in self.registries.items() if self.lists(factory)),
            "",
        )

    def lists(self, factory: RegistryFactory) -> bool:
        """Whether a registry lists this node over an open connection."""
        return any(connection.is_registered for connection in factory._connections)

    def test_configured(self) -> None:
        """A configured registry that answers is followed, whatever else is seen."""
        verifyObject(IPeerListListener, self.watcher)
        self.registry(self.one)
        self.registry(self.two)
        self.see(self.two)
        follower = self.start(configured=HostPort("one", 5000))
        verifyObject(IPeerListListener, _Ear(follower))
        self.assertEqual(list(follower.peers), [])
        self.assertEqual(follower.peers_to_dial(), [])
        self.network.run(20.0)
        self.assertEqual(self.followed(), "one")
        self.assertEqual([peer.name for peer in follower.peers], ["here"])
        self.assertEqual(list(self.watcher.peers), [HERE])
        self.assertFalse(self.lists(self.registries[self.two][0]))

    def test_configured_node(self) -> None:
        """A configured registry has to be the node that the user named, if the user named one."""
        self.registry(self.one)
        self.start(Mode.NEVER, HostPort("one", 5000), configured_node=b"two".ljust(32))
        self.network.run(20.0)
        self.assertEqual(self.followed(), "")
        self.stop()
        self.start(Mode.NEVER, HostPort("one", 5000), configured_node=b"one".ljust(32))
        self.network.run(20.0)
        self.assertEqual(self.followed(), "one")

    def test_limits(self) -> None:
        """The limits on dials are those of the node."""
        registry = self.registry(self.one)
        follower = self.start(configured=HostPort("one", 5000), limits=Limits(dials_per_address=2))
        for number in range(9):
            node = bytes([number]) * 32
            wish = Register(bytes(16), 6000 + number)
            registry.table.register(object(), node, wish, "192.0.2.1", 0.0)  # type: ignore[arg-type]  # connections are only compared
        self.network.run(5.0)
        self.assertEqual(len(follower.peers), 10)
        self.assertEqual(len(follower.peers_to_dial()), 2)

    def test_holdings(self) -> None:
        """
        Whichever registry is followed is told all that the node holds then, and is the one that is
        asked; while none is followed nobody can be.
        """
        other = self.registry(self.two)
        self.see(self.two)
        follower = self.start(configured=HostPort("one", 5000))
        self.failureResultOf(follower.who(bytes(32)), Unreachable)
        follower.hold([b"1" * 32, b"2" * 32], [])
        self.network.run(10.0)
        self.assertEqual((self.followed(), len(other.holdings)), ("two", 2))
        follower.hold([b"3" * 32], [b"1" * 32])
        first = self.registry(self.one)
        self.network.run(130.0)
        self.assertEqual(self.followed(), "one")
        self.assertEqual((len(other.holdings), len(first.holdings)), (0, 2))
        friend = Peer(b"friend".ljust(32), "friend", "10.0.0.9", 5000)
        wish = Register(bytes(16), friend.port, friend.name)
        first.table.register(object(), friend.node, wish, friend.host, 0.0)  # type: ignore[arg-type]  # connections are only compared
        first.holdings.hold(friend.node, [b"3" * 32], [])
        self.assertEqual(self.network.result(follower.who(b"3" * 32)), (friend,))

    def test_holdings_at_the_next(self) -> None:
        """The registry that comes after another is told what is held by then, and nothing else."""
        self.registry(self.two)
        self.see(self.two)
        follower = self.start(Mode.NEVER)
        follower.hold([b"1" * 32, b"2" * 32], [])
        self.network.run(5.0)
        follower.hold([b"3" * 32], [b"1" * 32, b"2" * 32])
        self.close_registry(self.two)
        first = self.registry(self.one)
        self.see(self.one)
        self.network.run(30.0)
        self.assertEqual((self.followed(), len(first.holdings)), ("one", 1))

    def test_leads_itself(self) -> None:
        """The registry that a node leads is its own, and no other that answers at its address."""
        self.patch(self, "lead", lambda: HostPort("one", 5000))
        self.registry(self.one)
        follower = self.start()
        self.network.run(20.0)
        self.assertTrue(follower.is_leading)
        self.assertEqual(self.followed(), "")
        self.assertEqual(self.led, [])

    def test_configured_does_not_answer(self) -> None:
        """If the configured one does not answer, the one that is seen is followed after a while."""
        self.registry(self.two)
        self.see(self.two)
        self.start(configured=HostPort("one", 5000))
        self.network.run(PATIENCE - 0.5)
        self.assertEqual(self.followed(), "")
        self.network.run(1.0)
        self.assertEqual(self.followed(), "two")

    def test_configured_comes_back(self) -> None:
        """Once the configured one answers, the other is left, and the list is the new one's."""
        other = self.registry(self.two)
        self.see(self.two)
        self.start(configured=HostPort("one", 5000))
        self.network.run(10.0)
        self.assertEqual(self.followed(), "two")
        self.registry(self.one)
        self.network.run(130.0)
        self.assertEqual(self.followed(), "one")
        self.assertFalse(self.lists(other))
        assert self.follower is not None
        self.assertEqual(set(self.watcher.peers.values()), set(self.follower.peers))

    def test_leads(self) -> None:
        """Alone, it listens for a while and then leads, and is listed by itself."""
        follower = self.start()
        self.network.run(10.0)
        self.assertEqual(len(self.led), 1)
        self.assertGreaterEqual(self.led[0], LISTEN)
        self.assertLessEqual(self.led[0], LISTEN + SPREAD)
        self.assertTrue(follower.is_leading)
        self.assertEqual(self.followed(), "here")
        self.see(self.two)
        self.network.run(10.0)
        self.assertEqual((self.followed(), len(self.led)), ("here", 1))

    def test_leads_at_once_without_a_beacon(self) -> None:
        """Where nothing is listened to there is nothing to wait for."""
        self.start(listens=False)
        self.assertEqual(self.led, [0.0])

    def test_always(self) -> None:
        """One that must lead does so at once, whatever is seen or configured."""
        self.registry(self.two)
        self.see(self.two)
        self.start(Mode.ALWAYS, HostPort("two", 5000))
        self.assertEqual(self.led, [0.0])
        self.network.run(5.0)
        assert self.follower is not None
        self.assertEqual(list(self.watcher.peers), [HERE])
        self.assertEqual(self.follower.peers_to_dial(), [])

    def test_never(self) -> None:
        """One that must not lead waits for ever, and follows what it sees then."""
        self.start(Mode.NEVER)
        self.network.run(1000.0)
        self.assertEqual((self.led, self.followed()), ([], ""))
        self.registry(self.one)
        self.see(self.one)
        self.network.run(1.0)
        self.assertEqual(self.followed(), "one")

    def test_seen_and_tried_in_vain(self) -> None:
        """A registry that is announced and not there keeps nobody waiting: the next is tried."""
        self.registry(self.two)
        self.see(self.one, self.two)
        self.start()
        self.network.run(20.0)
        self.assertEqual((self.followed(), self.led), ("two", []))

    def test_all_seen_are_in_vain(self) -> None:
        """If none that is announced is there, it leads."""
        self.see(self.one)
        self.start()
        self.network.run(30.0)
        self.assertEqual((self.followed(), len(self.led)), ("here", 1))

    def test_good_one_is_kept(self) -> None:
        """A registry that works is not left for another that is seen."""
        self.registry(self.two)
        self.see(self.two)
        self.start()
        self.network.run(2.0)
        self.registry(self.one)
        self.see(self.one, self.two)
        self.network.run(10.0)
        self.assertEqual(self.followed(), "two")

    def test_silent_registry(self) -> None:
        """
        A node that has followed does not lead when its registry is gone; it comes back to it, or
        goes to another that is seen.
        """
        self.registry(self.two)
        self.see(self.two)
        self.start()
        self.network.run(5.0)
        self.close_registry(self.two)
        self.network.run(100.0)
        self.assertEqual((self.followed(), self.led), ("", []))
        self.assertEqual(list(self.watcher.peers), [HERE])
        self.registry(self.one)
        self.see(self.one)
        self.network.run(10.0)
        self.assertEqual(self.followed(), "one")
        self.close_registry(self.one)
        self.network.run(10.0)
        self.registry(self.one)
        self.network.run(100.0)
        self.assertEqual((self.followed(), self.led), ("one", []))

    def test_other_list(self) -> None:
        """When the registry is another, the listener hears the difference between the lists."""
        first = self.registry(self.two)
        self.see(self.two)
        follower = self.start(configured=HostPort("one", 5000))
        self.network.run(10.0)
        assert follower.client is not None
        listed = follower.client.peer_list.peers
        other, mine = b"x" * 32, listed[HERE]
        listed[other] = Peer(other, "x", "10.0.0.9", 1)
        listed[HERE] = Peer(HERE, "old name", mine.host, 5000)
        self.watcher.peers = dict(listed)
        self.registry(self.one)
        self.network.run(130.0)
        self.assertEqual(self.watcher.peers, {HERE: mine})
        self.assertFalse(self.lists(first))

    def test_stopped(self) -> None:
        """Stopped at any time, it leaves every registry, and decides nothing any more."""
        factory = self.registry(self.two)
        for moment in (0.0, 0.001, 0.005, 0.01, 0.5, 3.1, 20.0):
            self.see(self.two)
            follower = self.start(configured=HostPort("one", 5000))
            self.network.run(moment)
            self.stop()
            self.assertEqual(list(follower.peers), [])
            follower.reconsider()
            self.network.run(10.0)
            self.assertFalse(factory._connections)
            self.assertEqual(self.here.left_over(), [])
            self.watcher.peers.clear()
        self.assertEqual(self.led, [])
