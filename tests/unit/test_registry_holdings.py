"""Tests for L{flow512.registry.holdings} and L{flow512.registry.inventory}."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Busy
from flow512.limits import Limits
from flow512.registry.holdings import Holdings
from flow512.registry.inventory import Inventory
from flow512.wire.fields import MAX_PEERS, MAX_ROOTS, Peer
from tests.unit.registry_ends import node_id

NOBODY = node_id(0)


def root(number: int) -> bytes:
    """Make a root, which is another object each time."""
    return number.to_bytes(32, "little")


def listed(node: bytes) -> Peer | None:
    """List everybody."""
    return Peer(node, "", "192.0.2.1", 5000)


def holders(holdings: Holdings, of: int, asker: bytes = NOBODY, now: float = 0.0) -> list[int]:
    """Ask who holds a root; tell the numbers of the nodes."""
    found = holdings.who(root(of), asker, listed, Random(1), now)
    return sorted(int.from_bytes(peer.node, "big") for peer in found)


class HoldingsTests(SynchronousTestCase):
    """Who holds what."""

    def test_hold(self) -> None:
        """What a node holds is found, whatever others hold, until it holds it no longer."""
        holdings = Holdings(Limits())
        self.assertEqual(holders(holdings, 1), [])
        holdings.hold(node_id(1), [root(1), root(2)], [])
        holdings.hold(node_id(2), [root(2), root(3)], [])
        holdings.hold(node_id(3), [root(2)], [])
        self.assertEqual([holders(holdings, n) for n in (1, 2, 3, 4)], [[1], [1, 2, 3], [2], []])
        holdings.hold(node_id(2), [root(4)], [root(2), root(9)])
        self.assertEqual([holders(holdings, n) for n in (1, 2, 3, 4)], [[1], [1, 3], [2], [2]])
        holdings.hold(node_id(1), [], [root(1), root(2)])
        self.assertEqual([holders(holdings, n) for n in (1, 2)], [[], [3]])
        self.assertEqual(len(holdings), 3)

    def test_said_twice(self) -> None:
        """What is said twice is held once, and gone when it is taken away once."""
        holdings = Holdings(Limits())
        for _ in range(2):
            holdings.hold(node_id(1), [root(1), root(1)], [])
        self.assertEqual((len(holdings), holders(holdings, 1)), (1, [1]))
        holdings.hold(node_id(1), [], [root(1), root(1)])
        self.assertEqual((len(holdings), holders(holdings, 1)), (0, []))

    def test_added_and_removed(self) -> None:
        """What is both removed and added at once is held."""
        holdings = Holdings(Limits())
        holdings.hold(node_id(1), [root(1)], [root(1)])
        self.assertEqual(holders(holdings, 1), [1])

    def test_forget(self) -> None:
        """A node that is forgotten holds nothing; one that nobody knows can be forgotten."""
        holdings = Holdings(Limits())
        for number in (1, 2):
            holdings.hold(node_id(number), [root(1), root(number + 1)], [])
        holdings.forget(node_id(1))
        holdings.forget(node_id(7))
        self.assertEqual([holders(holdings, n) for n in (1, 2, 3)], [[2], [], [2]])
        self.assertEqual(len(holdings), 2)

    def test_asker(self) -> None:
        """Nobody is told of himself."""
        holdings = Holdings(Limits())
        holdings.hold(node_id(1), [root(1)], [])
        self.assertEqual(holders(holdings, 1, asker=node_id(1)), [])
        holdings.hold(node_id(2), [root(1)], [])
        self.assertEqual(holders(holdings, 1, asker=node_id(1)), [2])

    def test_unlisted(self) -> None:
        """Whoever is not on the list is left out, and takes nobody's place in the answer."""
        holdings = Holdings(Limits())
        for number in range(1, 1001):
            holdings.hold(node_id(number), [root(1)], [])
        few = {node_id(number) for number in range(10, 1000, 10)}
        found = holdings.who(
            root(1), NOBODY, lambda node: listed(node) if node in few else None, Random(1), 0.0
        )
        self.assertEqual({peer.node for peer in found}, few)

    def test_too_many(self) -> None:
        """
        Of too many, some are named, none twice, and others each time, so that the askers spread.
        """
        holdings = Holdings(Limits())
        for number in range(1, 1001):
            holdings.hold(node_id(number), [root(1)], [])
        random = Random(5)
        named: defaultdict[bytes, int] = defaultdict(int)
        for _ in range(100):
            found = {peer.node for peer in holdings.who(root(1), node_id(7), listed, random, 0.0)}
            self.assertEqual(len(found), MAX_PEERS)
            for node in found:
                named[node] += 1
        # Each is expected 12.8 times.
        self.assertEqual(len(named), 999)
        self.assertLess(max(named.values()), 40)

    def test_node_is_full(self) -> None:
        """Above a node's limit nothing more is remembered; that is said once, and room is used."""
        holdings = Holdings(Limits(holdings_per_node=2))
        why = holdings.hold(node_id(1), [root(1), root(2), root(3)], [])
        self.assertEqual(why, "at most 2 of one node are remembered")
        self.assertEqual([holders(holdings, n) for n in (1, 2, 3)], [[1], [1], []])
        self.assertEqual(holdings.hold(node_id(1), [root(3)], []), "")
        self.assertEqual(holders(holdings, 3), [])
        self.assertEqual(holdings.hold(node_id(1), [root(1), root(2)], []), "")
        holdings.hold(node_id(1), [root(3)], [root(1)])
        self.assertEqual([holders(holdings, n) for n in (1, 2, 3)], [[], [1], [1]])
        self.assertEqual(holdings.hold(node_id(2), [root(1), root(2)], []), "")

    def test_said_again(self) -> None:
        """It is said again of a node that was forgotten, and not of one that begins anew."""
        holdings = Holdings(Limits(holdings_per_node=1))
        self.assertTrue(holdings.hold(node_id(1), [root(1), root(2)], []))
        holdings.begin(node_id(1))
        self.assertEqual(len(holdings), 0)
        self.assertFalse(holdings.hold(node_id(1), [root(1), root(2)], []))
        holdings.forget(node_id(1))
        self.assertTrue(holdings.hold(node_id(1), [root(1), root(2)], []))

    def test_all_is_full(self) -> None:
        """So it is above the limit for all; whoever goes makes room."""
        holdings = Holdings(Limits(holdings=3, holdings_per_node=2))
        self.assertEqual(holdings.hold(node_id(1), [root(1), root(2)], []), "")
        why = holdings.hold(node_id(2), [root(1), root(2)], [])
        self.assertEqual(why, "at most 3 of all nodes are remembered")
        self.assertEqual([holders(holdings, n) for n in (1, 2)], [[1, 2], [1]])
        holdings.forget(node_id(1))
        self.assertEqual(holdings.hold(node_id(2), [root(2)], []), "")
        self.assertEqual([holders(holdings, n) for n in (1, 2)], [[2], [2]])

    def test_asks_too_often(self) -> None:
        """Who asks too often is told when to come back, can then ask, and hinders nobody else."""
        holdings = Holdings(Limits(lookups_per_minute=30))
        for _ in range(30):
            holders(holdings, 1, asker=node_id(1))
        with self.assertRaises(Busy) as caught:
            holders(holdings, 1, asker=node_id(1))
        self.assertEqual(caught.exception.retry_after, 2.0)
        holders(holdings, 1, asker=node_id(2))
        holders(holdings, 1, asker=node_id(1), now=caught.exception.retry_after)

    def test_retry(self) -> None:
        """However many are allowed in a minute, the next one is not asked for at once."""
        holdings = Holdings(Limits(lookups_per_minute=600))
        for _ in range(600):
            holders(holdings, 1)
        with self.assertRaises(Busy) as caught:
            holders(holdings, 1)
        self.assertEqual(caught.exception.retry_after, 1.0)

    steps = st.lists(
        st.tuples(
            st.integers(1, 5),
            st.none() | st.tuples(st.lists(st.integers(1, 8)), st.lists(st.integers(1, 8))),
        ),
        max_size=40,
    )

    @given(steps)
    def test_any_story(self, story: list[tuple[int, tuple[list[int], list[int]] | None]]) -> None:
        """Whatever is said, and whoever is forgotten: the answers are those of a simple model."""
        holdings = Holdings(Limits())
        model: defaultdict[int, set[int]] = defaultdict(set)
        for node, said in story:
            if said is None:
                holdings.forget(node_id(node))
                model.pop(node, None)
                continue
            added, removed = said
            holdings.hold(node_id(node), list(map(root, added)), list(map(root, removed)))
            model[node] = (model[node] - set(removed)) | set(added)
        self.assertEqual(len(holdings), sum(map(len, model.values())))
        for number in range(1, 9):
            expected = sorted(node for node, roots in model.items() if number in roots)
            self.assertEqual(holders(holdings, number), expected)


class InventoryTests(SynchronousTestCase):
    """What is to be told."""

    def take(self, inventory: Inventory) -> tuple[set[int], set[int], int]:
        """Take all messages; tell what was added, what was removed, and how many there were."""
        added: list[bytes] = []
        removed: list[bytes] = []
        messages = 0
        while (message := inventory.take()) is not None:
            self.assertLessEqual(len(message.added) + len(message.removed), MAX_ROOTS)
            added += message.added
            removed += message.removed
            messages += 1
        self.assertEqual(len(added + removed), len({*added, *removed}), "none is said twice")
        return {_number(each) for each in added}, {_number(each) for each in removed}, messages

    def test_changes(self) -> None:
        """What has changed is said, once, and nothing else is."""
        inventory = Inventory()
        self.assertEqual(self.take(inventory), (set(), set(), 0))
        inventory.change([root(1), root(2)], [])
        self.assertEqual(self.take(inventory), ({1, 2}, set(), 1))
        inventory.change([root(2), root(3)], [root(1), root(9)])
        self.assertEqual(self.take(inventory), ({3}, {1}, 1))
        self.assertEqual(self.take(inventory), (set(), set(), 0))
        self.assertEqual(inventory.roots, {root(2), root(3)})

    def test_many(self) -> None:
        """Many go in several messages, each of which can be sent."""
        inventory = Inventory()
        inventory.change(map(root, range(1001)), [])
        self.assertEqual(self.take(inventory), (set(range(1001)), set(), 6))
        inventory.change([], map(root, range(500)))
        self.assertEqual(self.take(inventory), (set(), set(range(500)), 3))

    def test_comes_and_goes(self) -> None:
        """What changes again before it is said is said as it is at the end."""
        inventory = Inventory()
        inventory.change([root(1), root(2)], [])
        self.take(inventory)
        inventory.change([], [root(1)])
        inventory.change([root(1), root(3)], [])
        inventory.change([], [root(2)])
        inventory.change([], [root(3)])
        added, removed, _ = self.take(inventory)
        self.assertEqual(added, {1})
        self.assertIn(2, removed)

    def test_begin(self) -> None:
        """All is said anew, and nothing of what was held once."""
        inventory = Inventory()
        inventory.begin()
        self.assertEqual(self.take(inventory), (set(), set(), 0))
        inventory.change([root(1), root(2)], [])
        self.take(inventory)
        inventory.change([], [root(2)])
        inventory.begin()
        self.assertEqual(self.take(inventory), ({1}, set(), 1))

    def test_begin_with_nothing(self) -> None:
        """Who held something and holds nothing now says so, for it may be remembered."""
        inventory = Inventory()
        inventory.change([root(1)], [])
        self.take(inventory)
        inventory.change([], [root(1)])
        inventory.begin()
        self.assertEqual(self.take(inventory), (set(), set(), 1))


def _number(root: bytes) -> int:
    return int.from_bytes(root, "little")
