"""Tests for L{flow512.registry.telling}: by itself, and in nodes on a network."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import ALLOW_FILE
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.errors import DiskFailure
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.node import NodeService
from flow512.registry.telling import DELAY, REST, RETRY, Telling
from flow512.settings import NodeSettings
from flow512.wire.fields import Peer
from tests.unit.test_library import root_of
from tests.unit.test_node import NodeTestCase, Told, text_of
from tests.unit.test_registry_holdings import root


class TellingTests(SynchronousTestCase):
    """L{Telling}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.shared: set[int] = set()
        self.looks = 0
        self.held: set[bytes] = set()
        self.told = 0
        self.answer: Deferred[frozenset[bytes]] | None = None
        self.telling = Telling(self.clock, self.roots, self.run_blocking, self.hold, 6)

    def tearDown(self) -> None:
        """Nothing is left to be done once it is stopped."""
        self.telling.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def roots(self, most: int) -> frozenset[bytes]:
        """Look up what the shares hold."""
        self.looks += 1
        return frozenset(map(root, sorted(self.shared)[:most]))

    def run_blocking(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run it at once, or let the test answer."""
        answer, self.answer = self.answer, None
        return answer or succeed(function(*args, **kwargs))

    def hold(self, added: Collection[bytes], removed: Collection[bytes]) -> None:
        """Apply what is told, which has to be a change."""
        self.told += 1
        self.assertTrue(added or removed)
        self.assertTrue(self.held.isdisjoint(added))
        self.assertTrue(self.held.issuperset(removed))
        self.held = (self.held - set(removed)) | set(added)

    def share(self, *numbers: int) -> None:
        """Share these, and say so."""
        self.shared = set(numbers)
        self.telling.changed()

    def assert_held(self, *numbers: int) -> None:
        """These were told, and no others."""
        self.assertEqual(self.held, set(map(root, numbers)))

    def test_told(self) -> None:
        """A change is told after a moment, and only what differs; a burst is looked up once."""
        for last in range(1, 6):
            self.share(*range(last))
        self.assertEqual(self.looks, 0)
        self.clock.advance(DELAY)
        self.assert_held(0, 1, 2, 3, 4)
        self.share(3, 4, 5)
        self.clock.advance(DELAY)
        self.assert_held(3, 4, 5)
        self.telling.changed()
        self.clock.advance(DELAY)
        self.assertEqual((self.looks, self.told), (3, 2))
        self.clock.pump([DELAY] * 100)
        self.assertEqual(self.looks, 3, "nothing has changed since")

    def test_changes_meanwhile(self) -> None:
        """What changes while it is looked up is looked up again, and never two at once."""
        looked_up = self.answer = Deferred()
        self.share(1)
        self.clock.advance(DELAY)
        self.share(2)
        self.telling.changed()
        self.clock.advance(0.9 * DELAY / REST)
        self.assertEqual(self.looks, 0)
        looked_up.callback(frozenset({root(1)}))
        self.assert_held(1)
        self.clock.advance(DELAY)
        self.assert_held(2)
        self.clock.pump([DELAY] * 100)
        self.assertEqual(self.looks, 1, "nothing has changed since")

    def test_one_at_a_time(self) -> None:
        """However long a look takes, no other is begun meanwhile."""
        looked_up = self.answer = Deferred()
        self.share(1)
        self.clock.advance(DELAY)
        self.share(2)
        self.clock.pump([DELAY] * 10)
        self.assertEqual(self.looks, 0)
        looked_up.callback(frozenset())
        self.clock.pump([DELAY] * int(REST * 10))
        self.assertEqual(self.looks, 1)
        self.assert_held(2)

    def test_slow(self) -> None:
        """Where looking takes long it is done seldom; else a moment after a change."""
        looked_up = self.answer = Deferred()
        self.share(1)
        self.clock.advance(DELAY)
        self.clock.advance(3.0)
        looked_up.callback(frozenset())
        self.share(2)
        self.clock.advance(3.0 * REST - 0.1)
        self.assert_held()
        self.clock.advance(0.1)
        self.assert_held(2)
        for last in (3, 4):  # of which the look before the second one took no time at all
            self.share(last)
            self.clock.advance(DELAY - 0.1)
            self.assertNotIn(root(last), self.held)
            self.clock.advance(0.1)
            self.assert_held(last)

    def test_too_many(self) -> None:
        """Of too many only some are told, and that is said once."""
        with capturedLogs() as logs:
            self.share(*range(5))
            self.clock.advance(DELAY)
            self.assertEqual(logs, [])
            for last in (7, 8):
                self.share(*range(last))
                self.clock.advance(DELAY)
        self.assert_held(0, 1, 2, 3, 4, 5)
        self.assertEqual(text_of(logs).count("no more than 6 of the contents"), 1)

    def test_parts(self) -> None:
        """What is held in part is told at once, and once; what a share has stays when it is not."""
        self.telling.hold_part(root(1))
        self.telling.hold_part(root(1))
        self.assert_held(1)
        self.telling.drop_part(root(1))
        self.assert_held(1)
        self.share(1, 2)
        self.clock.advance(DELAY)
        self.assert_held(1, 2)
        self.telling.drop_part(root(1))
        self.telling.hold_part(root(2))
        self.assert_held(1, 2)
        self.share()
        self.clock.advance(DELAY)
        self.assert_held(2)
        self.telling.drop_part(root(2))
        self.assert_held()

    def test_failure(self) -> None:
        """What cannot be looked up is said, stands as it was told, and is tried again later."""
        self.share(1)
        self.clock.advance(DELAY)
        self.answer = fail(DiskFailure("The disk is on fire."))
        with capturedLogs() as logs:
            self.share(2)
            self.clock.advance(DELAY)
        self.assertIn("The disk is on fire.", text_of(logs))
        self.clock.advance(RETRY - 0.1)
        self.assert_held(1)
        self.clock.advance(0.1)
        self.assert_held(2)

    def test_defect(self) -> None:
        """A defect is logged, and the next change is looked up nevertheless."""
        later: Deferred[frozenset[bytes]] = Deferred()
        for last, answer in ((2, fail(ZeroDivisionError())), (3, later)):
            self.answer = answer
            self.share(1)
            self.clock.advance(DELAY)
            if answer is later:
                later.errback(ZeroDivisionError())
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.share(last)
            self.clock.advance(DELAY)
            self.assert_held(last)

    def test_stopped(self) -> None:
        """Once it is stopped nothing is told; it is over when nothing is looked up any more."""
        looked_up = self.answer = Deferred()
        self.share(1)
        self.clock.advance(DELAY)
        self.share(2)
        stopped = self.telling.stop()
        self.assertNoResult(stopped)
        looked_up.callback(frozenset({root(1)}))
        self.successResultOf(stopped)
        self.share(3)
        self.clock.advance(DELAY)
        self.assertEqual((self.looks, self.told), (0, 0))

    def test_stopped_early(self) -> None:
        """It may be stopped before it has looked."""
        self.share(1)
        self.successResultOf(self.telling.stop())
        self.clock.advance(DELAY)
        self.assertEqual(self.looks, 0)


class NodeTests(NodeTestCase):
    """What nodes tell their registry of their shares."""

    def setUp(self) -> None:
        super().setUp()
        registry = NodeSettings(name="registry", beacon_port=None, bootstrap=Mode.ALWAYS)
        self.registry = self.start(self.host(1), registry)

    def node(self, number: int, **settings: Any) -> NodeService:
        """Start a node, and let it be listed."""
        node = self.start(
            self.host(number),
            NodeSettings(
                name=f"node{number}",
                beacon_port=None,
                registries=(NamedRegistry(HostPort("host1", 5000)),),
                rescan=5.0,
                **settings,
            ),
        )
        self.network.run_until(lambda: node.neighbourhood.is_listed)
        return node

    def holders(self, asker: NodeService, data: bytes) -> list[str]:
        """Have a node ask who holds a content; give their names."""
        found: tuple[Peer, ...] = self.network.result(asker.neighbourhood.who_holds(root_of(data)))
        return sorted(peer.name for peer in found)

    def test_shares(self) -> None:
        """
        What a node shares is found at its registry: soon after it is there, no longer once it is
        gone, and not without the node.
        """
        share = Path(self.share("s", a=b"one", b=b"two"))
        two = self.node(2, shares=(str(share),))
        three = self.node(3, shares=(self.share("t", c=b"two"),))
        self.network.run(10.0)
        self.assertEqual(self.holders(three, b"one"), ["node2"])
        self.assertEqual(self.holders(three, b"two"), ["node2"])
        self.assertEqual(self.holders(self.registry, b"two"), ["node2", "node3"])
        (share / "a").write_bytes(b"changed")
        (share / "b").unlink()
        self.network.run(15.0)
        self.assertEqual(
            [self.holders(three, data) for data in (b"one", b"two", b"changed")],
            [[], [], ["node2"]],
        )
        self.network.result(two.stopService())
        self.assertEqual(self.holders(three, b"changed"), [])

    def test_known_already(self) -> None:
        """What was hashed in an earlier life is told before the shares are looked through."""
        settings = {
            "shares": (self.share("s", a=b"one"),),
            "state": str(self.base / "state"),
        }
        told = Told()
        node = self.make(self.host(2), NodeSettings(beacon_port=None, **settings), told)
        node.startService()
        self.network.run_until(lambda: told.indexed)
        self.network.result(node.stopService())
        never: list[Deferred[None]] = []
        host = self.host(3)

        def run_long(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            never.append(Deferred())
            return never[-1].addCallback(lambda _: function(*args, **kwargs))

        node = NodeService(
            host.reactor,
            NodeSettings(
                name="node3",
                beacon_port=None,
                registries=(NamedRegistry(HostPort("host1", 5000)),),
                **settings,
            ),
            random=Random(3),
            run_blocking=host.run_blocking,
            run_long=run_long,
            local_addresses=lambda: [LocalAddress(host.addresses[0], 24, "eth0", 2)],
        )
        self.nodes.append(node)
        node.startService()
        self.network.run(5.0)
        self.assertEqual(self.holders(self.registry, b"one"), ["node3"])
        stopped = node.stopService()
        for each in never:
            each.callback(None)
        self.network.result(stopped)

    def test_restricted(self) -> None:
        """Nobody is told of what only some may see, and no longer of what only they see now."""
        secret = self.share("secret", a=b"secret")
        public = Path(self.share("public", b=b"public"))
        two = self.node(2, shares=(secret,), allow=(b"n" * 32,))
        self.node(3, shares=(str(public),))
        self.network.run(10.0)
        self.assertEqual(self.holders(self.registry, b"secret"), [])
        self.assertEqual(self.holders(two, b"public"), ["node3"])
        (public / ALLOW_FILE).write_text("# nobody\n")
        self.network.run(15.0)
        self.assertEqual(self.holders(two, b"public"), [])
