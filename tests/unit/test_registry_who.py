"""Who holds what, at the registry: HOLD and WHO, conversation by conversation."""

from __future__ import annotations

from random import Random

from flow512.errors import BadFrame, BadMessage, Busy
from flow512.limits import Limits
from flow512.registry.server import RegistryFactory
from flow512.wire.fields import MAX_ROOTS, Peer
from flow512.wire.holding import Hold, Holders, Who
from flow512.wire.messages import Leave, Ping
from tests.unit.registry_ends import hello, node_id
from tests.unit.test_registry_client import HandEndpoint
from tests.unit.test_registry_holdings import root
from tests.unit.test_registry_server import PATIENCE, REGISTRY, Node, RegistryTestCase


class WhoTests(RegistryTestCase):
    """What nodes say that they hold, and who is told of it."""

    limits = Limits(holdings_per_node=2 * MAX_ROOTS, lookups_per_minute=60)

    def make(self) -> RegistryFactory:
        """Make the registry."""
        return RegistryFactory(
            REGISTRY,
            self.clock,
            random=Random(1),
            patience=PATIENCE,
            lease=30.0,
            grace=5.0,
            limits=self.limits,
        )

    def hold(self, node: Node, *added: int, removed: tuple[int, ...] = ()) -> None:
        """Have a node say what it holds."""
        node.say(Hold(tuple(map(root, added)), tuple(map(root, removed))))
        self.assertEqual(node.heard(), [])

    def who(self, node: Node, number: int) -> set[int]:
        """Have a node ask; tell the numbers of the nodes that it is told of."""
        node.heard()
        node.say(Who(root(number)), 77)
        (told,) = node.heard()
        assert isinstance(told, Holders), told
        self.assertEqual(node.requests, [77])
        return {int.from_bytes(peer.node, "big") for peer in told.peers}

    def test_who(self) -> None:
        """A node is told who else holds a content, as the list has them; a watcher may ask too."""
        one, two, three = (self.join(number, name=f"node{number}") for number in (1, 2, 3))
        watcher = self.join(4, port=0)
        self.hold(one, 1, 2)
        self.hold(two, 2)
        self.assertEqual(self.who(three, 2), {1, 2})
        self.assertEqual(self.who(one, 2), {2})
        self.assertEqual(self.who(two, 2), {1})
        self.assertEqual(self.who(two, 9), set())
        watcher.say(Who(root(1)), 5)
        self.assertEqual(
            watcher.heard(), [Holders((Peer(node_id(1), "node1", "192.0.2.1", 5000),))]
        )
        self.hold(one, removed=(1,))
        self.assertEqual(self.who(watcher, 1), set())

    def test_moved(self) -> None:
        """A node that serves at another port is found there."""
        one, two = self.join(1), self.join(2)
        self.hold(one, 1)
        one.register(6000)
        two.heard()
        two.say(Who(root(1)), 5)
        self.assertEqual(two.heard(), [Holders((Peer(node_id(1), "", "192.0.2.1", 6000),))])

    def test_leaves(self) -> None:
        """Who leaves, or serves no longer, holds nothing, also when it comes back."""
        one, two, asker = self.join(1), self.join(2), self.join(3)
        self.hold(one, 1)
        self.hold(two, 1)
        one.say(Leave())
        self.assertEqual(self.who(asker, 1), {2})
        two.register(port=0)
        self.assertEqual(self.who(asker, 1), set())
        two.register()
        self.join(1)
        self.assertEqual(self.who(asker, 1), set())
        self.hold(two, 1)
        self.assertEqual(self.who(asker, 1), {2})

    def test_lease_ends(self) -> None:
        """Who falls silent is forgotten with its lease."""
        one, asker = self.join(1), self.join(2)
        self.hold(one, 1)
        for _ in range(4):
            self.clock.advance(8.0)
            asker.say(Ping())
        self.assertEqual(self.who(asker, 1), set())
        self.assertEqual(len(self.factory.holdings), 0)

    def test_comes_back(self) -> None:
        """Who comes back within the grace is found all along, and afterwards as it says anew."""
        one, asker = self.join(1), self.join(2)
        self.hold(one, 1, 2)
        self.lose(one)
        self.assertEqual(self.who(asker, 1), {1})
        self.clock.advance(4.0)
        again = self.join(1)
        self.clock.advance(4.0)
        self.assertEqual([self.who(asker, n) for n in (1, 2)], [{1}, {1}])
        self.hold(again, 2)
        self.hold(again, 3)
        self.assertEqual([self.who(asker, n) for n in (1, 2, 3)], [set(), {1}, {1}])

    def test_stays_away(self) -> None:
        """Who does not come back within the grace is forgotten."""
        one, asker = self.join(1), self.join(2)
        self.hold(one, 1)
        self.lose(one)
        self.clock.advance(5.0)
        self.assertEqual(self.who(asker, 1), set())
        self.assertEqual(len(self.factory.holdings), 0)

    def test_other_address(self) -> None:
        """Who takes its registration over from another address is found there."""
        one, asker = self.join(1), self.join(2)
        self.hold(one, 1)
        again = self.arrive(1, asker.transport.getPeer())
        again.register()
        asker.heard()
        asker.say(Who(root(1)), 5)
        self.assertEqual(asker.heard(), [Holders((Peer(node_id(1), "", "192.0.2.2", 5000),))])

    def test_strangers(self) -> None:
        """Whoever has not registered may neither ask nor tell."""
        self.hold(self.join(1), 1)
        for message in (Who(root(1)), Hold((root(1),))):
            stranger = self.arrive(9)
            stranger.say(message, 1)
            self.assert_error(stranger, BadFrame)
            self.assertTrue(stranger.is_closing)

    def test_watcher_tells(self) -> None:
        """A watcher may not tell what it holds, nor what the node holds whose id it has."""
        self.join(1)
        for number in (1, 2):
            watcher = self.arrive(number)
            watcher.register(port=0, secret=5)
            watcher.heard()
            watcher.say(Hold((root(1),)))
            self.assert_error(watcher, BadFrame)
            self.assertTrue(watcher.is_closing)
        self.assertEqual(self.who(self.join(3), 1), set())

    def test_no_number(self) -> None:
        """A question without a number cannot be answered, and is a violation."""
        one = self.join(1)
        one.say(Who(root(1)))
        self.assert_error(one, BadMessage)
        self.assertTrue(one.is_closing)

    def test_asks_too_often(self) -> None:
        """Who asks too often is told when to come back, and stays registered."""
        one = self.join(1)
        for _ in range(60):
            self.who(one, 1)
        one.say(Who(root(1)), 8)
        error = self.assert_error(one, Busy)
        self.assertEqual((error.retry_after, one.requests), (1.0, [8]))
        self.clock.advance(1.0)
        self.assertEqual(self.who(one, 1), set())
        self.assertFalse(one.is_closing)

    def test_too_much(self) -> None:
        """What is over the limit is not found; the log says so once, however often it is told."""
        one, asker = self.join(1), self.join(2)
        for first in range(0, 5 * MAX_ROOTS, MAX_ROOTS):
            self.hold(one, *range(first, first + MAX_ROOTS))
        self.assertEqual(self.who(asker, 2 * MAX_ROOTS - 1), {1})
        self.assertEqual(self.who(asker, 2 * MAX_ROOTS), set())
        self.assertEqual(
            self.lines("warn"),
            [
                "Not all that peer 192.0.2.1 holds will be found: at most 400 of one node are"
                " remembered."
            ],
        )

    def test_does_not_read(self) -> None:
        """Who asks and does not read the answers is not listened to until it does."""
        asker = self.join(1)
        for number in range(2, 60):
            self.hold(self.join(number, name="n" * 60), 1)
        asker.heard()
        asker.fill()
        for request in range(1, 60):
            asker.say(Who(root(1)), request)
        answered = len(asker.heard())
        self.assertLess(answered, 59)
        asker.drain()
        self.assertEqual(answered + len(asker.heard()), 59)


class ProvenTests(RegistryTestCase):
    """Before a node was dialled back."""

    def make(self) -> RegistryFactory:
        """Make a registry that dials nodes back; the test is whom it reaches."""
        self.endpoint = HandEndpoint()
        return RegistryFactory(
            REGISTRY, self.clock, connect=lambda _: self.endpoint, patience=PATIENCE
        )

    def test_unproven(self) -> None:
        """A node may tell what it holds before it is listed, and is an answer from then on."""
        one = self.arrive(1)
        one.register()
        one.say(Hold((root(1),)))
        asker = self.arrive(2)
        asker.register(port=0)
        asker.say(Who(root(1)), 3)
        self.assertEqual(asker.heard(), [Holders(())])
        dialled = self.endpoint.accept()
        dialled.say_bytes(hello(1, conversation="transfer"))
        asker.say(Who(root(1)), 4)
        self.assertEqual(asker.heard(), [Holders((Peer(node_id(1), "", "192.0.2.1", 5000),))])
        dialled.close()
