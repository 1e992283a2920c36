"""Tests for L{flow512.registry.following} and L{flow512.registry.office}."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Why
from flow512.discovery.election import Mode
from flow512.discovery.waits import LISTEN, PATIENCE, PREFERRED_AFTER, SPREAD
from flow512.errors import Unreachable
from flow512.limits import Limits
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.link.named_registry import NamedRegistry
from flow512.link.presence import Airwaves, Presence
from flow512.link.security import Encryption
from flow512.link.standing import Claims
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower, _Ear
from flow512.registry.leadership import Leadership
from flow512.registry.office import CLOSES_AFTER, Office
from flow512.registry.server import RegistryFactory
from flow512.testing import Host, Network
from flow512.wire.fields import Peer
from flow512.wire.leading import Leader
from flow512.wire.messages import Register

BOTH = (NamedRegistry(HostPort("one", 5000)), NamedRegistry(HostPort("two", 5000)))


def named(address: str, node: bytes | None = None) -> tuple[NamedRegistry, ...]:
    """A registry that the user named."""
    return (NamedRegistry(HostPort(address, 5000), node),)


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
    L{RegistryFollower}: one node at 10.0.0.1, two hosts for registries, and what is known of
    registries in the test's hands.
    """

    def setUp(self) -> None:
        self.network = Network(2)
        self.here = self.network.host("10.0.0.1", name="here")
        self.one = self.network.host("10.0.0.2", name="one")
        self.two = self.network.host("10.0.0.3", name="two")
        self.offers: list[RegistryOffer] = []
        self.watcher = Watcher()
        self.registries: dict[Host, tuple[RegistryFactory, IListeningPort]] = {}
        self.follower: RegistryFollower | None = None
        self.presence: Presence | None = None
        self.remembered: list[int] = []
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.logged)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged)
        self.addCleanup(self.end_all)

    def logged(self, event: LogEvent) -> None:
        """Keep a line of the log."""
        self.lines.append(formatEvent(event))

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
        registries: tuple[NamedRegistry, ...] = (),
        *,
        listens: bool = True,
        keeps_all: bool = False,
        limits: Limits | None = None,
        term: int = 0,
        registers: bool = True,
    ) -> RegistryFollower:
        """Start a follower."""
        reactor = self.here.reactor
        local = [LocalAddress("10.0.0.1", 24, "eth0", 2)]
        presence = self.presence = Presence(
            reactor,
            Claims("here", "", "", Encryption.NONE, None),
            Airwaves(None, (), lambda: local),
            limits or Limits(),
            Random(3),
        )
        presence.listen("tcp:5000")
        self.office = Office(reactor, presence, self.make)
        self.follower = RegistryFollower(
            reactor,
            partial(client_endpoint, reactor),
            presence.introduction,
            mode=mode,
            named=registries,
            keeps_all=keeps_all,
            port=5000,
            ticket=b"t" * 16,
            random=Random(1),
            offers=lambda: self.offers,
            listens=listens,
            office=self.office,
            listener=self.watcher,
            limits=limits,
            term=term,
            remember=self.remembered.append,
            registers=registers,
        )
        self.office.known, self.office.heard = self.follower.known, self.follower.heard
        self.follower.startService()
        return self.follower

    def make(self, claim: Claim, known: object, heard: object) -> RegistryFactory:
        """Make this node's registry."""
        assert self.presence is not None
        return RegistryFactory(
            self.presence.introduction,
            self.here.reactor,
            claim=claim,
            term_known=known,  # type: ignore[arg-type]  # as the office gives it
            heard=heard,  # type: ignore[arg-type]  # likewise
        )

    @property
    def node(self) -> bytes:
        """This node's id."""
        assert self.presence is not None
        return self.presence.introduction.node

    def stop(self) -> None:
        """Stop the follower, and what it stands on."""
        assert self.follower is not None
        self.network.result(self.follower.stopService())
        assert self.presence is not None
        self.network.result(Deferred.fromCoroutine(self.presence.stop_listening()))
        self.network.result(self.office.stop())
        self.presence.close()

    def registry(self, host: Host, claim: Claim | None = None) -> RegistryFactory:
        """Start a registry on another host."""
        factory = RegistryFactory(
            Introduction(host.name.encode().ljust(32)), host.reactor, claim=claim
        )
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
        """Have registries on these hosts be known of, and no others."""
        self.offers = [
            RegistryOffer(host.addresses[0], 5000, host.name.encode().ljust(32)) for host in hosts
        ]
        if self.follower is not None:
            self.follower.reconsider()

    def elected(self, host: Host, since: int, term: int = 1) -> Claim:
        """The claim of a host that was elected."""
        return Claim(host.name.encode().ljust(32), term, since)

    def followed(self) -> str:
        """The host whose registry the node is listed by; empty for none."""
        assert self.follower is not None
        if self.follower.client is None or not self.follower.client.is_listed:
            return ""
        if self.follower.is_leading:
            return "here"
        assert self.follower.client.claim is not None
        return self.follower.client.claim.node.decode().strip()

    def lists(self, factory: RegistryFactory) -> bool:
        """Whether a registry lists this node over an open connection."""
        return any(connection.is_registered for connection in factory._connections)

    def test_named(self) -> None:
        """A registry that was named and answers is followed, whatever else is known."""
        verifyObject(IPeerListListener, self.watcher)
        self.registry(self.one)
        self.registry(self.two)
        self.see(self.two)
        follower = self.start(registries=named("one"))
        verifyObject(IPeerListListener, _Ear(follower))
        self.assertEqual((list(follower.peers), follower.leadership), ([], None))
        self.assertEqual(follower.peers_to_dial(), [])
        self.assertIsNotNone(follower.trying)
        self.network.run(20.0)
        self.assertEqual(self.followed(), "one")
        self.assertEqual([peer.name for peer in follower.peers], ["here"])
        self.assertEqual(list(self.watcher.peers), [self.node])
        self.assertFalse(self.lists(self.registries[self.two][0]))

    def test_named_node(self) -> None:
        """A registry that was named has to be the node that the user named, if he named one."""
        self.registry(self.one)
        self.start(Mode.NEVER, named("one", b"two".ljust(32)))
        self.network.run(20.0)
        self.assertEqual(self.followed(), "")
        self.stop()
        self.start(Mode.NEVER, named("one", b"one".ljust(32)))
        self.network.run(20.0)
        self.assertEqual(self.followed(), "one")

    def test_two_named(self) -> None:
        """
        Of two that were named the first is followed; when it ends the second is, within seconds;
        and the first again, some seconds after it is back.
        """
        first = self.registry(self.one)
        other = self.registry(self.two)
        self.start(registries=BOTH)
        self.network.run(5.0)
        self.assertEqual(self.followed(), "one")
        self.assertFalse(self.lists(other))
        self.close_registry(self.one)
        self.network.run(2.0)
        self.assertEqual(self.followed(), "two")
        self.assertTrue(self.lists(other))
        first = self.registry(self.one)
        self.network.run_until(lambda: self.lists(first))
        self.network.run(PREFERRED_AFTER - 0.5)
        self.assertEqual(self.followed(), "two")
        self.network.run(1.0)
        self.assertEqual(self.followed(), "one")
        self.assertFalse(self.lists(other))

    def test_listed_by_all(self) -> None:
        """If asked to, the node is listed by every registry that was named, and follows one."""
        factories = [self.registry(self.one), self.registry(self.two)]
        follower = self.start(registries=BOTH, keeps_all=True)
        self.network.run(20.0)
        self.assertEqual(self.followed(), "one")
        self.assertEqual([self.lists(each) for each in factories], [True, True])
        self.assertEqual([peer.name for peer in follower.peers], ["here"])

    def test_limits(self) -> None:
        """The limits on dials are those of the node."""
        registry = self.registry(self.one)
        follower = self.start(registries=named("one"), limits=Limits(dials_per_address=2))
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
        follower = self.start(registries=named("one"))
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
        self.patch(Office, "begin", lambda office, claim: HostPort("one", 5000))
        self.registry(self.one)
        follower = self.start()
        self.network.run(20.0)
        self.assertTrue(follower.is_leading)
        self.assertEqual(self.followed(), "")

    def test_named_does_not_answer(self) -> None:
        """If the named one does not answer, one that is known of is followed after a while."""
        self.registry(self.two)
        self.see(self.two)
        self.start(registries=named("one"))
        self.network.run(PATIENCE - 0.5)
        self.assertEqual(self.followed(), "")
        self.network.run(1.0)
        self.assertEqual(self.followed(), "two")

    def test_named_comes_back(self) -> None:
        """Once the named one answers, the other is left, and the list is the new one's."""
        other = self.registry(self.two)
        self.see(self.two)
        self.start(registries=named("one"))
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
        follower = self.start(term=4)
        self.network.run(LISTEN - 0.1)
        self.assertFalse(follower.is_leading)
        self.network.run(SPREAD + 1.0)
        self.assertTrue(follower.is_leading)
        self.assertEqual(self.followed(), "here")
        self.assertEqual(self.remembered, [5])
        leadership = follower.leadership
        assert leadership is not None
        self.assertEqual((leadership.address, leadership.name), ("10.0.0.1:5000", "here"))
        self.assertEqual((leadership.claim.node, leadership.claim.term), (self.node, 5))
        self.assertRegex(leadership.since, r"^1970-01-01T00:00:0\dZ$")
        self.assertIn("This node is the bootstrap, in term 5: no bootstrap was found.", self.lines)

    def test_leads_at_once_without_a_beacon(self) -> None:
        """Where nothing is listened to there is nothing to wait for."""
        follower = self.start(listens=False)
        self.assertTrue(follower.is_leading)

    def test_always(self) -> None:
        """One that must lead does so at once, whatever is known or named."""
        self.registry(self.two, self.elected(self.two, 0))
        self.see(self.two)
        follower = self.start(Mode.ALWAYS, named("two"))
        self.assertTrue(follower.is_leading)
        self.network.run(5.0)
        self.assertEqual(list(self.watcher.peers), [self.node])
        self.assertEqual(follower.peers_to_dial(), [])

    def test_never(self) -> None:
        """One that must not lead waits for ever, and follows what is known of then."""
        follower = self.start(Mode.NEVER)
        self.network.run(1000.0)
        self.assertEqual((follower.is_leading, self.followed()), (False, ""))
        self.registry(self.one)
        self.see(self.one)
        self.network.run(1.0)
        self.assertEqual(self.followed(), "one")

    def test_tried_in_vain(self) -> None:
        """A registry that is announced and not there keeps nobody waiting: the next is tried."""
        self.registry(self.two)
        self.see(self.one, self.two)
        self.start()
        self.network.run(20.0)
        self.assertEqual(self.followed(), "two")

    def test_all_are_in_vain(self) -> None:
        """If none that is announced is there, it leads."""
        self.see(self.one)
        follower = self.start()
        self.network.run(5.0)
        self.assertTrue(follower.is_leading)

    def test_good_one_is_kept(self) -> None:
        """A registry that works is not left for another that is known of; it is told of that."""
        heard: list[RegistryOffer] = []
        factory = self.registry(self.two, self.elected(self.two, 1000))
        factory._heard = heard.append
        self.see(self.two)
        self.start()
        self.network.run(2.0)
        self.registry(self.one)
        better = RegistryOffer("10.0.0.2", 5000, b"one".ljust(32), 3, 5, True)
        self.offers.append(better)
        assert self.follower is not None
        self.follower.reconsider()
        self.network.run(20.0)
        self.assertEqual(self.followed(), "two")
        (told,) = heard
        self.assertEqual((told.address, told.claim), (better.address, better.claim))

    def test_silent_registry(self) -> None:
        """When its registry is gone, the node leads; and no list is lost meanwhile."""
        self.registry(self.two)
        self.see(self.two)
        follower = self.start()
        self.network.run(5.0)
        self.close_registry(self.two)
        self.see()
        self.network.run(0.3)
        self.assertIsNone(follower.leadership)
        self.assertEqual(list(self.watcher.peers), [self.node])
        self.network.run(2.0)
        self.assertTrue(follower.is_leading)
        self.assertEqual((self.followed(), list(self.watcher.peers)), ("here", [self.node]))
        self.assertIn("The bootstrap is gone; looking for the next.", self.lines)

    def test_sent_elsewhere(self) -> None:
        """A registry that sends its nodes on is left for the other, once that has listed them."""
        first = self.registry(self.one)
        other = self.registry(self.two, Claim(b"two".ljust(32), 1, 0))
        self.see(self.one)
        follower = self.start(Mode.NEVER, term=3)
        self.network.run(5.0)
        self.assertEqual((self.followed(), first.claim.term), ("one", 3))
        first.send_to(Leader(b"two".ljust(32), 1, 0, False, "10.0.0.3", 5000))
        self.network.run(1.0)
        self.assertEqual(self.followed(), "two")
        self.assertEqual((self.lists(first), self.lists(other)), (False, True))
        self.assertEqual(other.claim.term, 3)
        leadership = follower.leadership
        assert leadership is not None
        self.assertIs(leadership.why, Why.HANDED)
        self.assertTrue(any("two" not in line and "in term 3" in line for line in self.lines))

    def test_steps_down(self) -> None:
        """
        A leader that finds a better one goes there, sends all who follow it there, and answers no
        longer; and if that one is gone it can lead again.
        """
        follower = self.start()
        self.network.run(10.0)
        self.assertTrue(follower.is_leading)
        own = self.office.registry
        assert own is not None
        better = self.registry(self.two, self.elected(self.two, 0, term=9))
        self.offers = [RegistryOffer("10.0.0.3", 5000, b"two".ljust(32), 9, 0)]
        follower.reconsider()
        self.network.run(1.0)
        self.assertEqual(self.followed(), "two")
        assert self.presence is not None
        self.assertNotIn("registry", self.presence.shared.conversations)
        self.assertEqual(own.elsewhere, Leader(b"two".ljust(32), 9, 0, False, "10.0.0.3", 5000))
        self.network.run(CLOSES_AFTER)
        self.assertEqual(own._connections, {})
        self.assertEqual(self.remembered, [1, 9])
        del better
        self.close_registry(self.two)
        self.offers = []
        self.network.run(3.0)
        self.assertEqual((self.followed(), follower.is_leading), ("here", True))
        self.assertEqual(self.remembered, [1, 9, 10])

    def test_leads_again_at_once(self) -> None:
        """A leader that stepped down and leads again at once has one registry, and a new one."""
        follower = self.start()
        self.network.run(10.0)
        first = self.office.registry
        self.registry(self.two, self.elected(self.two, 0))
        self.offers = [RegistryOffer("10.0.0.3", 5000, b"two".ljust(32), 1, 0)]
        follower.reconsider()
        self.network.run(1.0)
        self.close_registry(self.two)
        self.offers = []
        self.network.run(2.0)
        self.assertTrue(follower.is_leading)
        self.assertIsNot(self.office.registry, first)
        self.network.run(CLOSES_AFTER + 1.0)
        self.assertEqual(self.followed(), "here")

    def test_worse_one_is_told(self) -> None:
        """A leader that is no better is told where the better one is."""
        heard: list[RegistryOffer] = []
        follower = self.start()
        self.network.run(10.0)
        worse = self.registry(self.two, self.elected(self.two, 2**50))
        worse._heard = heard.append
        self.offers = [RegistryOffer("10.0.0.3", 5000, b"two".ljust(32), 1, 2**50)]
        follower.reconsider()
        self.network.run(10.0)
        (told,) = heard
        self.assertEqual((told.address, told.node), (("10.0.0.1", 5000), self.node))
        self.assertEqual(self.followed(), "here")

    def test_points(self) -> None:
        """
        An appointed leader sends its nodes to a better one, answers on, and leads again when that
        one is gone.
        """
        self.network.run(1.0)
        follower = self.start(Mode.ALWAYS)
        self.registry(self.two, Claim(b"two".ljust(32), 1, 0, True))
        self.network.run(1.0)
        self.offers = [RegistryOffer("10.0.0.3", 5000, b"two".ljust(32), 1, 0, True)]
        follower.reconsider()
        self.network.run(1.0)
        own = self.office.registry
        assert own is not None
        self.assertEqual(self.followed(), "two")
        self.assertIsNotNone(own.elsewhere)
        self.close_registry(self.two)
        self.offers = []
        self.network.run(1.0)
        self.assertIsNone(own.elsewhere)
        self.assertEqual((self.followed(), self.office.registry), ("here", own))

    def test_finds_itself(self) -> None:
        """A leader that is told of itself under another name does not register there anew."""
        follower = self.start()
        self.network.run(10.0)
        assert self.office.registry is not None
        before = dict(self.office.registry._connections)
        self.offers = [RegistryOffer("10.0.0.1", 5000, b"old".ljust(32), 1, 0)]
        follower.reconsider()
        self.network.run(30.0)
        self.assertEqual(self.office.registry._connections, before)
        self.assertEqual(self.followed(), "here")

    def test_names_an_heir(self) -> None:
        """A leader that stops names the first on its list that may lead, other than itself."""
        self.start()
        self.network.run(3.0)
        registry = self.office.registry
        assert registry is not None
        for number, can_lead in ((1, False), (3, True), (2, True)):
            wish = Register(bytes(16), 5000, "", 0, can_lead)
            registry.table.register(object(), bytes([number]) * 32, wish, f"10.0.0.{number}", 3.0)  # type: ignore[arg-type]  # connections are only compared
        self.stop()
        self.assertEqual(registry.elsewhere, Leader(bytes([2]) * 32, host="10.0.0.2", port=5000))

    def test_other_list(self) -> None:
        """When the registry is another, the listener hears the difference between the lists."""
        first = self.registry(self.two)
        self.see(self.two)
        follower = self.start(registries=named("one"))
        self.network.run(10.0)
        assert follower.client is not None
        listed = follower.client.peer_list.peers
        other, mine = b"x" * 32, listed[self.node]
        listed[other] = Peer(other, "x", "10.0.0.9", 1)
        listed[self.node] = Peer(self.node, "old name", mine.host, 5000)
        self.watcher.peers = dict(listed)
        self.registry(self.one)
        self.network.run(130.0)
        self.assertEqual(self.watcher.peers, {self.node: mine})
        self.assertFalse(self.lists(first))

    def test_list_is_carried(self) -> None:
        """
        From one registry to the next the list does not go empty: who was on it stays, but for the
        leader that was lost, until the new registry lists him, or some seconds have passed.
        """
        first = self.registry(self.one)
        self.see(self.one)
        follower = self.start(Mode.NEVER)
        for number in (1, 2, 3):
            node = first.introduction.node if number == 3 else bytes([number]) * 32
            wish = Register(bytes(16), 5000, str(number))
            first.table.register(object(), node, wish, f"10.0.0.{10 + number}", 0.0)  # type: ignore[arg-type]  # connections are only compared
        self.network.run(5.0)
        self.assertEqual({peer.name for peer in follower.peers}, {"here", "1", "2", "3"})
        second = self.registry(self.two)
        self.see(self.two)
        self.close_registry(self.one)
        self.network.run_until(lambda: self.followed() == "two")
        self.assertEqual({peer.name for peer in follower.peers}, {"here", "1", "2"})
        wish = Register(bytes(16), 5000, "2")
        second.table.register(object(), bytes([2]) * 32, wish, "10.0.0.12", 5.0)  # type: ignore[arg-type]  # connections are only compared
        second._schedule_push()
        self.network.run(1.0)
        self.assertEqual({peer.name for peer in follower.peers}, {"here", "1", "2"})
        self.network.run(2.0)
        self.assertEqual({peer.name for peer in follower.peers}, {"here", "2"})
        self.assertEqual(set(self.watcher.peers.values()), set(follower.peers))

    def test_stopped(self) -> None:
        """Stopped at any time, it leaves every registry, and decides nothing any more."""
        factory = self.registry(self.two)
        for moment in (0.0, 0.001, 0.005, 0.01, 0.5, 3.1, 20.0):
            self.see(self.two)
            follower = self.start(registries=named("one"))
            self.network.run(moment)
            self.stop()
            self.assertEqual(list(follower.peers), [])
            follower.reconsider()
            follower.known(3)
            follower.heard(RegistryOffer("10.0.0.9", 1))
            self.network.run(10.0)
            self.assertFalse(factory._connections)
            self.assertEqual(self.here.left_over(), [])
            self.watcher.peers.clear()


class LeadershipTests(SynchronousTestCase):
    """L{Leadership}: who leads, for people."""

    def test_since(self) -> None:
        """A time that no calendar has is said to be none."""
        known = Leadership(Claim(b"", 1, 1_700_000_000_123), "", "", Why.FOUND)
        self.assertEqual(known.since, "2023-11-14T22:13:20Z")
        absurd = Leadership(Claim(b"", 1, 2**53), "", "", Why.FOUND)
        self.assertEqual(absurd.since, "a time that no clock shows")
