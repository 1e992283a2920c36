"""The registry's state, and a node's copy of its list: both without a network."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadMessage, Busy, Flow512Error, NotAllowed, StateInUse
from flow512.limits import Limits
from flow512.registry.dials import Dial, Dials
from flow512.registry.peer_list import Change, PeerList, can_be_dialled
from flow512.registry.table import (
    RegistryTable,
    clean_name,
)
from flow512.wire.fields import MAX_PEERS, Peer
from flow512.wire.frame import FrameReader
from flow512.wire.messages import (
    REGISTRY_CLIENT,
    Delta,
    Reached,
    Register,
    Snapshot,
    decode,
    encode,
)

Table: TypeAlias = RegistryTable[str]

HOST = "192.0.2.1"
ELSEWHERE = "198.51.100.1"


def node(number: int) -> bytes:
    """Make a node id."""
    return number.to_bytes(32, "big")


def ticket(number: int = 0) -> bytes:
    """Make a ticket."""
    return number.to_bytes(16, "big")


def wish(port: int = 5000, name: str = "", number: int = 0) -> Register:
    """Make what a node asks for, with the ticket of that number."""
    return Register(ticket(number), port, name)


def peer(number: int, host: str = HOST, port: int = 5000, name: str = "") -> Peer:
    """Make a peer as it is listed."""
    return Peer(node(number), name, host, port)


def snapshot_of(table: Table) -> list[Snapshot]:
    """Read the frames of a table's snapshot."""
    return read_snapshot(table.snapshot())


def read_snapshot(frames: Iterable[bytes]) -> list[Snapshot]:
    """Read a snapshot as a node would."""
    reader = FrameReader(REGISTRY_CLIENT)
    messages = []
    for data in frames:
        reader.receive(data)
        frame = reader.next_frame()
        assert frame is not None
        messages.append(decode(frame, Snapshot))
        assert reader.is_between_frames
    return messages


def copy_of(table: Table) -> PeerList:
    """Make a node's copy from a table's snapshot."""
    copy = PeerList()
    copy.begin(ELSEWHERE)
    feed(copy, table.snapshot())
    return copy


def feed(copy: PeerList, frames: Iterable[bytes]) -> Change | None:
    """Give a snapshot to a node's copy."""
    change = None
    for message in read_snapshot(frames):
        change = copy.snapshot(message)
    return change


def by_node(peers: Iterable[Peer]) -> dict[bytes, Peer]:
    """Index peers by their node id."""
    return {each.node: each for each in peers}


class RegistrationTests(SynchronousTestCase):
    """Who is on the list, and for how long."""

    def setUp(self) -> None:
        self.table: Table = RegistryTable(lease=30.0, grace=5.0)

    def register(
        self, number: int = 1, connection: str = "a", now: float = 0.0, host: str = HOST
    ) -> str | None:
        """Register a node; give back the connection that it displaces."""
        return self.table.register(connection, node(number), wish(), host, now).displaced

    def test_register(self) -> None:
        """A node is listed at the address that it is seen at and the port and name it gives."""
        placed = self.table.register("a", node(1), wish(5000, " Ada "), HOST, 0.0)
        self.assertEqual(placed, (HOST, None, None))
        self.assertEqual(self.table.peers, [peer(1, name="Ada")])

    def test_watcher(self) -> None:
        """A node without a port holds a registration and is not listed."""
        self.table.register("a", node(1), wish(0), HOST, 0.0)
        self.assertEqual(self.table.peers, [])
        self.assertFalse(self.table.has_changes)
        self.assertEqual(self.table.expire(30.0), ["a"])

    def test_register_anew(self) -> None:
        """On the same connection, a node replaces what it said, and displaces nobody."""
        self.register()
        placed = self.table.register("a", node(1), wish(5001, "Eve"), HOST, 1.0)
        self.assertIsNone(placed.displaced)
        self.assertEqual(self.table.peers, [peer(1, port=5001, name="Eve")])
        self.table.register("a", node(1), wish(0), HOST, 2.0)
        self.assertEqual(self.table.peers, [])

    def test_lease(self) -> None:
        """A lease ends after its time, and its connection is to be closed."""
        self.register()
        self.assertEqual(self.table.next_end, 30.0)
        self.assertEqual(self.table.expire(29.9), [])
        self.assertEqual(self.table.expire(30.0), ["a"])
        self.assertEqual(self.table.peers, [])
        self.assertIsNone(self.table.next_end)

    def test_ping(self) -> None:
        """A ping lets the lease last anew; those who do not ping go first."""
        self.register(1, "a", 0.0)
        self.register(2, "b", 1.0)
        self.table.renew("a", node(1), 10.0)
        self.assertEqual(self.table.next_end, 31.0)
        self.assertEqual(self.table.expire(39.9), ["b"])
        self.assertEqual(self.table.peers, [peer(1)])
        self.assertEqual(self.table.expire(40.0), ["a"])

    def test_leave(self) -> None:
        """A node that leaves is off the list at once."""
        self.register()
        self.table.leave("a", node(1))
        self.assertEqual(self.table.peers, [])
        self.assertIsNone(self.table.next_end)

    def test_grace(self) -> None:
        """A node whose connection ends stays listed for the grace, and nothing is to be closed."""
        self.register()
        self.table.disconnected("a", node(1), 10.0)
        self.assertEqual(self.table.next_end, 15.0)
        self.assertEqual(self.table.expire(14.9), [])
        self.assertEqual(self.table.peers, [peer(1)])
        self.assertEqual(self.table.expire(15.0), [])
        self.assertEqual(self.table.peers, [])

    def test_return_within_grace(self) -> None:
        """A node that comes back in time changes nothing on the list."""
        self.register()
        self.table.take_deltas()
        self.table.disconnected("a", node(1), 10.0)
        self.assertIsNone(self.register(1, "b", 14.0))
        self.assertFalse(self.table.has_changes)
        self.assertEqual(self.table.next_end, 44.0)

    def test_takeover(self) -> None:
        """Another connection with the ticket takes over; the end of the old one means nothing."""
        self.register(1, "a")
        self.assertEqual(self.register(1, "b", 1.0), "a")
        self.table.disconnected("a", node(1), 2.0)
        self.table.leave("a", node(1))
        self.table.renew("a", node(1), 20.0)
        self.assertEqual(self.table.peers, [peer(1)])
        self.assertEqual(self.table.expire(31.0), ["b"])

    def test_other_ticket(self) -> None:
        """A node id is not given to another ticket while its lease or grace lasts."""
        self.register(1, "a")
        rows = (("a", "keep to it"), ("b", "Another process .* within 30 seconds"))
        for connection, why in rows:
            with self.assertRaisesRegex(StateInUse, why):
                self.table.register(connection, node(1), wish(6000, number=1), HOST, 1.0)
        self.assertEqual(self.table.peers, [peer(1)])
        self.table.disconnected("a", node(1), 2.0)
        self.assertRaises(
            StateInUse, self.table.register, "b", node(1), wish(6000, number=1), HOST, 3.0
        )
        self.table.expire(7.0)
        self.table.register("b", node(1), wish(6000, number=1), HOST, 7.0)
        self.assertEqual(self.table.peers, [peer(1, port=6000)])

    def test_watchers_beside(self) -> None:
        """
        Any number of processes may watch with one node id, before and beside the one that serves;
        each has a lease of its own, and none hinders another.
        """
        self.table.register("w", node(1), wish(0, number=7), HOST, 0.0)
        self.register(1, "a", 1.0)
        self.table.register("v", node(1), wish(0, number=8), HOST, 2.0)
        self.assertEqual(self.table.peers, [peer(1)])
        self.table.leave("v", node(1))
        self.table.disconnected("w", node(1), 3.0)
        self.assertEqual(self.table.expire(8.0), [])
        self.assertEqual(self.table.peers, [peer(1)])
        self.table.register("w", node(1), wish(0, number=7), HOST, 9.0)
        self.table.leave("a", node(1))
        self.assertEqual(self.table.peers, [])
        self.assertEqual(self.table.expire(39.0), ["w"])

    def test_watcher_begins_to_serve(self) -> None:
        """Who watches may serve as soon as nobody else does with that node id."""
        self.table.register("w", node(1), wish(0, number=7), HOST, 0.0)
        self.register(1, "a")
        with self.assertRaises(StateInUse):
            self.table.register("w", node(1), wish(6000, number=7), HOST, 1.0)
        self.table.leave("a", node(1))
        self.table.register("w", node(1), wish(6000, number=7), HOST, 1.0)
        self.assertEqual(self.table.peers, [peer(1, port=6000)])
        self.table.register("w", node(1), wish(0, number=7), HOST, 1.0)
        self.register(1, "a", 2.0)
        self.assertEqual(self.table.peers, [peer(1)])

    def test_watcher_keeps_its_ticket(self) -> None:
        """One conversation cannot hold a registration for each ticket that it makes up."""
        self.table.register("w", node(1), wish(0, number=1), HOST, 0.0)
        with self.assertRaisesRegex(StateInUse, "keep to it"):
            self.table.register("w", node(1), wish(0, number=2), HOST, 0.0)
        self.assertEqual(self.table.expire(30.0), ["w"])
        self.assertIsNone(self.table.next_end)

    def test_unknown(self) -> None:
        """Pings, leaves and ends of connections that hold nothing change nothing."""
        self.table.renew("a", node(1), 0.0)
        self.table.leave("a", node(1))
        self.table.disconnected("a", node(1), 0.0)
        self.assertIsNone(self.table.next_end)
        self.assertEqual(self.table.peers, [])

    def test_squatted_name(self) -> None:
        """Two nodes may have one name: both are listed, told apart by their ids."""
        for number, connection in ((1, "a"), (2, "b")):
            self.table.register(connection, node(number), wish(5000, "Ada"), HOST, 0.0)
        self.assertEqual(self.table.peers, [peer(1, name="Ada"), peer(2, name="Ada")])


class AddressTests(SynchronousTestCase):
    """The list has the addresses that nodes are seen at, in one spelling."""

    def test_spelling(self) -> None:
        """IPv4 within IPv6 is IPv4; IPv6 is in its short form, without a scope."""
        rows = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("fe80::1%eth7", "fe80::1"),
        ]
        for seen, listed in rows:
            table: Table = RegistryTable()
            self.assertEqual(table.register("a", node(1), wish(), seen, 0.0).host, listed)
            self.assertEqual(table.peers, [peer(1, host=listed)])

    def test_no_address(self) -> None:
        """Who is not seen at any address may watch, and is not listed."""
        table: Table = RegistryTable()
        path = "UNIXAddress('/run/" + 100 * "x" + "')"
        with self.assertRaisesRegex(NotAllowed, "port 0"):
            table.register("a", node(1), wish(5000), path, 0.0)
        placed = table.register("a", node(1), wish(0), path, 0.0)
        self.assertLessEqual(len(placed.host), 64)


class NameTests(SynchronousTestCase):
    """Names can be shown to people."""

    def test_fine(self) -> None:
        """Letters of any script, spaces within, and joined emoji are fine."""
        for name in (
            "",
            "Ada's laptop",
            "Zoë",
            "名前",
            "\u0646\u0627\u0645\u200c\u0647\u0627",
            "\U0001f469\u200d\U0001f4bb",
        ):
            self.assertEqual(clean_name(f" {name}\t"), name)

    def test_refused(self) -> None:
        """A character that could forge what others see is named in the refusal."""
        bad = ["\0", "\x1b", "\x7f", "\x85", "\u200e", "\u202e", "\u2066", "\u2028", "\u2029"]
        for character in [*bad, "\ufeff", "\U000e0041", "\ud800"]:
            code = f"U\\+{ord(character):04X}"
            with self.assertRaisesRegex(NotAllowed, code):
                clean_name(f"a{character}b")
        table: Table = RegistryTable()
        with self.assertRaises(NotAllowed):
            table.register("a", node(1), wish(5000, "a\nb"), HOST, 0.0)
        self.assertEqual(table.peers, [])


class LimitTests(SynchronousTestCase):
    """Nobody fills the registry."""

    def test_per_source(self) -> None:
        """A million registrations from one source end at the limit; other sources go on."""
        table: Table = RegistryTable(lease=20.0, limits=Limits(registrations_per_address=3))
        for number in range(3):
            table.register(str(number), node(number), wish(), HOST, 0.0)
        for number in range(3, 100):
            with self.assertRaises(Busy) as caught:
                table.register(str(number), node(number), wish(), HOST, 0.0)
            self.assertEqual(caught.exception.retry_after, 20.0)
        table.register("other", node(200), wish(), ELSEWHERE, 0.0)
        self.assertEqual(len(table.peers), 4)

    def test_per_source_frees(self) -> None:
        """Whoever leaves makes room, and a node that is in may always register anew."""
        table: Table = RegistryTable(limits=Limits(registrations_per_address=1))
        table.register("a", node(1), wish(), HOST, 0.0)
        table.register("a", node(1), wish(6000), HOST, 0.0)
        table.leave("a", node(1))
        table.register("b", node(2), wish(), HOST, 0.0)
        self.assertRaises(Busy, table.register, "a", node(1), wish(), HOST, 0.0)

    def test_moving(self) -> None:
        """A node that comes back from another address counts there, if there is room."""
        table: Table = RegistryTable(limits=Limits(registrations_per_address=1))
        table.register("a", node(1), wish(), HOST, 0.0)
        table.register("b", node(2), wish(), ELSEWHERE, 0.0)
        self.assertRaises(Busy, table.register, "c", node(1), wish(), ELSEWHERE, 0.0)
        self.assertEqual(table.peers[0], peer(1))
        table.leave("b", node(2))
        self.assertEqual(table.register("c", node(1), wish(), ELSEWHERE, 0.0).displaced, "a")
        self.assertEqual(table.peers, [peer(1, host=ELSEWHERE)])
        table.register("d", node(3), wish(), HOST, 0.0)

    def test_per_node(self) -> None:
        """Of one node id so many watch at most, from wherever they come; others go on."""
        table: Table = RegistryTable(limits=Limits(registrations_per_node=2))
        table.register("a", node(1), wish(0, number=1), HOST, 0.0)
        table.register("b", node(1), wish(0, number=2), ELSEWHERE, 0.0)
        with self.assertRaisesRegex(Busy, "2 processes with your identity"):
            table.register("c", node(1), wish(0, number=3), HOST, 0.0)
        table.register("a", node(1), wish(6000, number=1), HOST, 0.0)
        table.register("c", node(2), wish(0), HOST, 0.0)
        table.leave("b", node(1))
        table.register("d", node(1), wish(0, number=3), HOST, 0.0)

    def test_per_minute(self) -> None:
        """
        One node id registers so often in a minute, whether it is accepted or not, and is told to
        wait; so does an address with ever new node ids. Others go on, and so do they later.
        """
        rows = [
            (Limits(registrations_per_node_per_minute=3), lambda number: node(1), "You register"),
            (Limits(registrations_per_address_per_minute=3), node, "Your address registers"),
        ]
        for limits, node_of, why in rows:
            table: Table = RegistryTable(limits=limits)
            table.register("a", node_of(1), wish(), HOST, 0.0)
            table.register("a", node_of(1), wish(6000), HOST, 0.0)
            with self.assertRaises(NotAllowed):
                table.register("a", node_of(1), wish(7000, "a\nb"), HOST, 0.0)
            for number in range(100):
                with self.assertRaisesRegex(Busy, why) as caught:
                    table.register("a", node_of(1 + number), wish(8000), HOST, 1.0)
                self.assertEqual(caught.exception.retry_after, 10.0)
            self.assertEqual(table.peers, [peer(1, port=6000)])
            table.register("b", node(200), wish(), ELSEWHERE, 1.0)
            table.register("a", node_of(1), wish(8000), HOST, 21.0)
            self.assertRaises(Busy, table.register, "a", node_of(1), wish(), HOST, 22.0)

    def test_in_all(self) -> None:
        """A full registry says so; watchers count too, and those in it may register anew."""
        table: Table = RegistryTable(limits=Limits(registrations=2))
        table.register("a", node(1), wish(), HOST, 0.0)
        table.register("b", node(2), wish(0), ELSEWHERE, 0.0)
        with self.assertRaisesRegex(Busy, "full"):
            table.register("c", node(3), wish(), "203.0.113.1", 0.0)
        table.register("b", node(2), wish(5000), ELSEWHERE, 0.0)
        self.assertEqual(len(table.peers), 2)


class DeltaTests(SynchronousTestCase):
    """What is told, and in which pieces."""

    def setUp(self) -> None:
        self.table: Table = RegistryTable()

    def register(self, number: int, port: int = 5000) -> None:
        """Register a node over a connection of its own."""
        self.table.register(str(number), node(number), wish(port), HOST, 0.0)

    def leave(self, number: int) -> None:
        """Have it leave."""
        self.table.leave(str(number), node(number))

    def test_numbered(self) -> None:
        """Each delta has the number after the one before; nothing new makes none."""
        self.assertEqual(self.table.take_deltas(), [])
        self.register(1)
        self.assertEqual(self.table.take_deltas(), [Delta(1, (peer(1),))])
        self.assertEqual(self.table.take_deltas(), [])
        self.register(1, 6000)
        self.register(2)
        self.assertEqual(
            self.table.take_deltas(), [Delta(2, (peer(2),), (), (peer(1, port=6000),))]
        )
        self.leave(1)
        self.assertEqual(self.table.take_deltas(), [Delta(3, (), (node(1),))])
        self.assertEqual(self.table.number, 3)

    def test_cancels_out(self) -> None:
        """Who comes and goes between two deltas was never there; who goes and comes never left."""
        self.register(1)
        self.leave(1)
        self.assertFalse(self.table.has_changes)
        self.register(2)
        self.table.take_deltas()
        self.leave(2)
        self.register(2)
        self.assertFalse(self.table.has_changes)
        self.leave(2)
        self.register(2, 6000)
        self.assertEqual(self.table.take_deltas(), [Delta(2, (), (), (peer(2, port=6000),))])

    def test_coalesced(self) -> None:
        """A node that registers in a loop is told of once, as it is at the end."""
        self.table = RegistryTable(limits=Limits(registrations_per_node_per_minute=1000))
        for port in range(1, 1001):
            self.register(1, port)
        self.assertEqual(self.table.take_deltas(), [Delta(1, (peer(1, port=1000),))])

    def test_split(self) -> None:
        """Many changes take several deltas, each within its limits, and each encodable."""
        for number in range(MAX_PEERS + 1):
            self.register(number)
        first, second = self.table.take_deltas()
        self.assertEqual((len(first.joined), len(second.joined)), (MAX_PEERS, 1))
        self.assertEqual((first.number, second.number), (1, 2))
        for number in range(MAX_PEERS):
            self.leave(number)
        for number in range(1000, 1000 + MAX_PEERS):
            self.register(number)
        deltas = self.table.take_deltas()
        self.assertEqual([each.number for each in deltas], [3, 4])
        self.assertEqual(sum(len(each.left) for each in deltas), MAX_PEERS)
        self.assertEqual(sum(len(each.joined) for each in deltas), MAX_PEERS)

    def test_longest(self) -> None:
        """Even with the longest names and hosts, deltas and snapshots stay below their caps."""
        name, host = 64 * "\U0001f600", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
        numbers = range(2 * MAX_PEERS)
        for number in numbers[:MAX_PEERS]:
            self.table.register("x", node(number), wish(65535, name), host, 0.0)
        self.table.take_deltas()
        for number in numbers:
            self.table.register("x", node(number), wish(65534, name), host, 0.0)
        deltas = self.table.take_deltas()
        self.assertEqual(len(deltas), 2)
        for delta in deltas:
            encode(delta)
        self.assertEqual([len(each.peers) for each in snapshot_of(self.table)], 2 * [MAX_PEERS])

    def test_bounded(self) -> None:
        """One push has so many changes at most, the oldest first; the others come later."""
        for number in range(20):
            self.register(number)
        pushes = [self.table.take_deltas(most=8) for _ in range(3)]
        self.assertEqual([len(push[0].joined) for push in pushes], [8, 8, 4])
        joined = [each.node for push in pushes for each in push[0].joined]
        self.assertEqual(joined, [node(number) for number in range(20)])
        self.assertFalse(self.table.has_changes)


class SnapshotTests(SynchronousTestCase):
    """All who are listed, at one number."""

    def test_nobody(self) -> None:
        """An empty list is one empty frame."""
        self.assertEqual(snapshot_of(RegistryTable()), [Snapshot(0, ())])

    def test_published(self) -> None:
        """A snapshot has what the deltas up to its number told, and not what comes next."""
        table: Table = RegistryTable()
        table.register("a", node(1), wish(), HOST, 0.0)
        self.assertEqual(snapshot_of(table), [Snapshot(0, ())])
        table.take_deltas()
        self.assertEqual(snapshot_of(table), [Snapshot(1, (peer(1),))])

    def test_split(self) -> None:
        """A long list takes several frames; all but the last say that more follow."""
        table: Table = RegistryTable()
        for number in range(2 * MAX_PEERS + 1):
            table.register("x", node(number), wish(), HOST, 0.0)
        table.take_deltas()
        frames = snapshot_of(table)
        self.assertEqual([len(each.peers) for each in frames], [MAX_PEERS, MAX_PEERS, 1])
        self.assertEqual([each.more for each in frames], [True, True, False])
        self.assertEqual({each.number for each in frames}, {table.number})

    def test_holes_are_filled(self) -> None:
        """Nodes that come after others have left do not make the snapshot longer."""
        table: Table = RegistryTable()
        numbers = range(MAX_PEERS)
        for number in numbers:
            table.register("x", node(number), wish(), HOST, 0.0)
        table.take_deltas()
        for number in numbers[::2]:
            table.leave("x", node(number))
            table.register("x", node(number + MAX_PEERS), wish(), HOST, 0.0)
            table.take_deltas()
        self.assertEqual(len(snapshot_of(table)), 1)
        self.assertEqual(len(snapshot_of(table)[0].peers), MAX_PEERS)

    def test_unmoved(self) -> None:
        """A snapshot that is under way does not see what changes meanwhile."""
        table: Table = RegistryTable()
        for number in range(MAX_PEERS + 1):
            table.register("x", node(number), wish(), HOST, 0.0)
        table.take_deltas()
        before = snapshot_of(table)
        under_way = table.snapshot()
        first = next(under_way)
        for number in range(MAX_PEERS + 1):
            table.leave("x", node(number))
        table.take_deltas()
        self.assertEqual(read_snapshot([first, *under_way]), before)
        self.assertEqual(snapshot_of(table), [Snapshot(table.number, ())])

    def test_large_histories(self) -> None:
        """With lists of several frames, snapshots and deltas agree all the same."""
        random = Random(512)
        table: Table = RegistryTable()
        copies = [copy_of(table)]
        for step in range(40):
            for _ in range(random.randrange(200)):
                number = random.randrange(700)
                if random.random() < 0.6:
                    table.register(
                        "x", node(number), wish(random.choice((0, 1, 2))), HOST, float(step)
                    )
                else:
                    table.leave("x", node(number))
            for delta in table.take_deltas(most=150):
                for copy in copies:
                    copy.delta(delta)
            copies = [*copies[:5], copy_of(table)]
            for copy in copies:
                self.assertEqual(copy.peers, copies[-1].peers)
                self.assertEqual(copy.number, table.number)
        while table.has_changes:
            for delta in table.take_deltas():
                copies[0].delta(delta)
        self.assertEqual(copies[0].peers, by_node(table.peers))


class ProvingTests(SynchronousTestCase):
    """With dials, only who was reached is on the list."""

    def setUp(self) -> None:
        self.dials = Dials()
        self.table: Table = RegistryTable(lease=30.0, grace=5.0, dials=self.dials)

    def register(
        self, asked: Register, connection: str = "a", host: str = HOST, now: float = 0.0
    ) -> Reached | None:
        """Register node 1; give back what it is told of being reached."""
        return self.table.register(connection, node(1), asked, host, now).reached

    def take(self, now: float = 0.0) -> list[Dial]:
        """Take the dials that are to be made, and free their slots at once."""
        dials = self.dials.take(now)
        for dial in dials:
            self.dials.ended(dial)
        return dials

    def take_one(self, now: float = 0.0) -> Dial:
        """Take the one dial that is to be made."""
        (dial,) = self.dials.take(now)
        return dial

    def prove(self, now: float = 0.0) -> None:
        """Reach node 1."""
        dial = self.take_one(now)
        self.assertIsNotNone(self.table.reached(dial, now))
        self.dials.ended(dial)

    def test_listed_once_reached(self) -> None:
        """A node is dialled where it is seen, and listed when it answered there."""
        self.assertIsNone(self.register(wish(5000, "Ada")))
        self.assertEqual(self.table.peers, [])
        self.assertFalse(self.table.has_changes)
        dial = self.take_one()
        self.assertEqual((dial.node, dial.host, dial.port), (node(1), HOST, 5000))
        self.assertEqual(self.table.reached(dial, 0.5), ("a", Reached(5000, True)))
        self.assertEqual(self.table.take_deltas(), [Delta(1, (peer(1, name="Ada"),))])
        self.assertEqual(self.take(1000.0), [])

    def test_not_reached(self) -> None:
        """A node that was not reached is told why and when it is tried again, and not listed."""
        self.register(wish())
        told = self.table.not_reached(self.take_one(), "No.", 2.0)
        self.assertEqual(told, ("a", Reached(5000, False, "No.", 30.0)))
        self.assertEqual(self.table.peers, [])
        self.assertFalse(self.table.has_changes)
        self.assertEqual(self.dials.take(31.9), [])
        self.assertEqual(self.table.reached(self.take_one(32.0), 32.0), ("a", Reached(5000, True)))
        self.assertEqual(self.table.peers, [peer(1)])

    def test_watcher(self) -> None:
        """Nobody is dialled who only watches, and nobody at no address."""
        self.assertIsNone(self.register(wish(0)))
        self.table.register("b", node(2), wish(0), "UNIXAddress('/run/x')", 0.0)
        with self.assertRaises(NotAllowed):
            self.table.register("b", node(2), wish(5000), "UNIXAddress('/run/x')", 0.0)
        self.assertEqual(self.take(), [])

    def test_stays_proven(self) -> None:
        """At the same host and port a node stays proven: with another name, or coming back."""
        self.register(wish())
        self.prove()
        self.table.take_deltas()
        self.assertEqual(self.register(wish(5000, "Ada")), Reached(5000, True))
        self.assertEqual(self.table.peers, [peer(1, name="Ada")])
        self.table.disconnected("a", node(1), 1.0)
        self.assertEqual(self.register(wish(5000, "Ada"), "b", now=5.0), Reached(5000, True))
        self.assertEqual(len(self.table.take_deltas()[0].changed), 1)
        self.assertEqual(self.take(), [])

    def test_gone_for_long(self) -> None:
        """After its grace, or after it left, a node is proven anew."""
        for end in ("leave", "expire"):
            self.register(wish())
            self.prove()
            if end == "leave":
                self.table.leave("a", node(1))
            else:
                self.table.expire(30.0)
            self.assertIsNone(self.register(wish(), now=30.0))
            self.assertEqual(self.table.peers, [])
            self.prove(30.0)
            self.table.leave("a", node(1))

    def test_another_place(self) -> None:
        """With another port or host the entry is withdrawn, until the node was reached there."""
        self.register(wish())
        self.prove()
        self.table.take_deltas()
        for asked, host in ((wish(6000), HOST), (wish(6000), ELSEWHERE)):
            self.assertIsNone(self.register(asked, host=host))
            self.assertEqual(self.table.peers, [])
            self.assertEqual(self.table.take_deltas()[0].left, (node(1),))
            self.prove()
            self.assertEqual(self.table.peers, [peer(1, host, 6000)])
            self.assertEqual(self.table.take_deltas()[0].joined, (peer(1, host, 6000),))

    def test_withdrawn_by_watching(self) -> None:
        """Who serves no more is off the list; serving again is a new claim."""
        self.register(wish())
        self.prove()
        self.assertIsNone(self.register(wish(0)))
        self.assertEqual(self.table.peers, [])
        self.assertIsNone(self.register(wish()))
        self.assertEqual(self.table.peers, [])

    def test_old_news(self) -> None:
        """What comes of a dial means nothing once the node claims something else, or is gone."""
        self.register(wish())
        first = self.take_one()
        self.register(wish(6000))
        self.assertIsNone(self.table.reached(first, 0.0))
        self.assertIsNone(self.table.not_reached(first, "No.", 0.0))
        second = self.take_one()
        self.table.leave("a", node(1))
        self.assertIsNone(self.table.reached(second, 0.0))
        self.assertEqual(self.table.peers, [])
        self.register(wish())
        self.assertIsNone(self.table.reached(first, 0.0))
        self.assertEqual(self.table.peers, [])

    def test_without_dials(self) -> None:
        """A table without dials has no use for what comes of any."""
        table: Table = RegistryTable()
        table.register("a", node(1), wish(), HOST, 0.0)
        self.assertIsNone(table.reached(self.dials.want(node(1), HOST, 5000), 0.0))

    def test_patience_is_not_reset(self) -> None:
        """Registering the same again makes no dial come sooner, and tells what is known."""
        self.register(wish())
        self.table.not_reached(self.take_one(), "No.", 0.0)
        for now in range(1, 30):
            known = Reached(5000, False, "No.", 30.0 - now)
            self.assertEqual(self.register(wish(5000, str(now)), now=float(now)), known)
            self.assertEqual(self.take(float(now)), [])
        self.table.disconnected("a", node(1), 29.0)
        self.assertEqual(self.register(wish(), "b", now=29.5), Reached(5000, False, "No.", 0.5))
        self.assertEqual(self.take(29.5), [])
        self.take_one(30.0)
        self.assertEqual(self.register(wish(), "b", now=31.0), Reached(5000, False, "No.", 0.0))

    def test_lingering(self) -> None:
        """A node that is reached while it is away is listed, and there is nobody to tell."""
        self.register(wish())
        self.table.disconnected("a", node(1), 0.0)
        self.assertEqual(self.table.reached(self.take_one(), 0.0), (None, Reached(5000, True)))
        self.assertEqual(self.table.peers, [peer(1)])

    def test_where(self) -> None:
        """Dials go to the address that the node is seen at, with the scope if it needs one."""
        rows = [
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("fe80::1%eth7", "fe80::1%eth7"),
            ("127.0.0.1", "127.0.0.1"),
        ]
        for seen, dialled in rows:
            self.register(wish(), host=seen)
            self.assertEqual(self.take_one().host, dialled)


class TableMachine(RuleBasedStateMachine):
    """
    Any history: the table against a dictionary of what should be, and against copies of its list
    that were made at different times.
    """

    LEASE, GRACE, IN_ALL, PER_SOURCE, PER_NODE = 10.0, 3.0, 4, 3, 2
    nodes = st.integers(0, 4)
    connections = st.sampled_from("abcdef")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        limits = Limits(
            registrations=self.IN_ALL,
            registrations_per_address=self.PER_SOURCE,
            registrations_per_node=self.PER_NODE,
            registrations_per_node_per_minute=1000,
        )
        self.dials = Dials(limits)
        self.table: Table = RegistryTable(
            lease=self.LEASE, grace=self.GRACE, limits=limits, dials=self.dials
        )
        # Node and ticket to (wish, host, connection or None, end).
        self.model: dict[tuple[int, bytes], tuple[Register, str, str | None, float]] = {}
        self.proven: dict[int, tuple[str, int]] = {}
        self.under_way: list[Dial] = []
        self.told: dict[bytes, Peer] = {}
        self.copies = [copy_of(self.table)]

    def serving(self) -> dict[int, tuple[Register, str]]:
        """Say who serves, by number."""
        return {
            number: (asked, host)
            for (number, _), (asked, host, _, _) in self.model.items()
            if asked.port
        }

    def listed(self) -> dict[bytes, Peer]:
        """Say what the list should be."""
        return {
            node(number): peer(number, host, asked.port, asked.name)
            for number, (asked, host) in self.serving().items()
            if self.proven.get(number) == (host, asked.port)
        }

    def forget_claims(self) -> None:
        """Drop what was proven of claims that nobody makes any more."""
        serving = self.serving()
        self.proven = {
            number: place
            for number, place in self.proven.items()
            if number in serving and (serving[number][1], serving[number][0].port) == place
        }

    def held(self, number: int, connection: str) -> tuple[int, bytes] | None:
        """Find the registration of a node that a connection holds."""
        for key, (_, _, holder, _) in self.model.items():
            if key[0] == number and holder == connection:
                return key
        return None

    @rule(
        number=nodes,
        connection=connections,
        port=st.integers(0, 2),
        secret=st.sampled_from((0, 0, 0, 1)),
        name=st.sampled_from(("", "Ada")),
        host=st.sampled_from((HOST, ELSEWHERE)),
    )
    def register(
        self, number: int, connection: str, port: int, secret: int, name: str, host: str
    ) -> None:
        """A node registers, or tries to."""
        asked = wish(port, name, secret)
        key = (number, asked.ticket)
        old = self.model.get(key)
        from_host = sum(1 for each in self.model.values() if each[1] == host)
        of_node = sum(1 for each in self.model if each[0] == number)
        others_serve = any(
            each[0].port
            for other, each in self.model.items()
            if other[0] == number and other != key
        )
        expected: type[Flow512Error] | None = None
        if self.held(number, connection) not in (None, key) or (port and others_serve):
            expected = StateInUse
        elif (old is None and (len(self.model) >= self.IN_ALL or of_node >= self.PER_NODE)) or (
            (old is None or old[1] != host) and from_host >= self.PER_SOURCE
        ):
            expected = Busy
        if expected is not None:
            with pytest.raises(expected):
                self.table.register(connection, node(number), asked, host, self.now)
            return
        placed = self.table.register(connection, node(number), asked, host, self.now)
        holder = old[2] if old is not None else None
        assert placed.displaced == (None if holder == connection else holder)
        self.model[key] = (asked, host, connection, self.now + self.LEASE)
        self.forget_claims()
        is_proven = port and self.proven.get(number) == (host, port)
        assert (placed.reached is not None and placed.reached.ok) == bool(is_proven)

    @rule(number=nodes, connection=connections)
    def leave(self, number: int, connection: str) -> None:
        """A connection says LEAVE."""
        self.table.leave(connection, node(number))
        key = self.held(number, connection)
        if key is not None:
            del self.model[key]
            self.forget_claims()

    @rule(number=nodes, connection=connections)
    def disconnect(self, number: int, connection: str) -> None:
        """A connection ends."""
        self.table.disconnected(connection, node(number), self.now)
        key = self.held(number, connection)
        if key is not None:
            asked, host, _, _ = self.model[key]
            self.model[key] = (asked, host, None, self.now + self.GRACE)

    @rule(number=nodes, connection=connections)
    def ping(self, number: int, connection: str) -> None:
        """A connection pings."""
        self.table.renew(connection, node(number), self.now)
        key = self.held(number, connection)
        if key is not None:
            asked, host, _, _ = self.model[key]
            self.model[key] = (asked, host, connection, self.now + self.LEASE)

    @rule(seconds=st.sampled_from((1, 2, 3, 5, 30)))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds
        over = {key: each for key, each in self.model.items() if each[3] <= self.now}
        closed = self.table.expire(self.now)
        assert sorted(closed) == sorted(each[2] for each in over.values() if each[2])
        for key in over:
            del self.model[key]
        self.forget_claims()

    @rule()
    def dial(self) -> None:
        """Dials are begun: of those who are not proven, where they say, and of nobody else."""
        for dial in self.dials.take(self.now):
            ((number, (asked, host)),) = [
                each for each in self.serving().items() if node(each[0]) == dial.node
            ]
            assert (dial.host, dial.port) == (host, asked.port)
            assert self.proven.get(number) is None
            self.under_way.append(dial)

    @rule(data=st.data(), is_reached=st.booleans())
    def end_dial(self, data: st.DataObject, is_reached: bool) -> None:
        """A dial has come to something."""
        if not self.under_way:
            return
        place = data.draw(st.integers(0, len(self.under_way) - 1))
        dial = self.under_way.pop(place)
        if is_reached:
            told = self.table.reached(dial, self.now)
            if told is not None:
                self.proven[int.from_bytes(dial.node, "big")] = (dial.host, dial.port)
        else:
            told = self.table.not_reached(dial, "No.", self.now)
        if told is not None:
            ((asked, host, holder, _),) = [
                each
                for key, each in self.model.items()
                if node(key[0]) == dial.node and each[0].port
            ]
            assert (host, asked.port, holder) == (dial.host, dial.port, told.connection)
            assert (told.reached.ok, told.reached.port) == (is_reached, dial.port)
        self.dials.ended(dial)

    @rule(most=st.integers(1, 3))
    def publish(self, most: int) -> None:
        """A window ends; every copy is given the deltas."""
        before = self.told
        deltas = self.table.take_deltas(most)
        for delta in deltas:
            encode(delta)
            for copy in self.copies:
                assert copy.delta(delta) is not None
        self.told = dict(self.copies[0].peers)
        differing = [n for n in {**before, **self.told} if before.get(n) != self.told.get(n)]
        assert len(differing) <= most
        if not self.table.has_changes:
            assert self.told == self.listed()

    @rule()
    def arrive(self) -> None:
        """Somebody takes a snapshot, who is told everything from then on."""
        self.copies = [*self.copies[-3:], copy_of(self.table)]

    @invariant()
    def agree(self) -> None:
        """All copies are equal, and changes are owed exactly if the list is another by now."""
        assert by_node(self.table.peers) == self.listed()
        for copy in self.copies:
            assert copy.is_current
            assert copy.number == self.table.number
            assert copy.peers == self.told
        assert self.table.has_changes == (self.told != self.listed())
        assert self.table.next_end == min((each[3] for each in self.model.values()), default=None)

    def teardown(self) -> None:
        """Once all have left, nobody is dialled any more."""
        for number, _ in list(self.model):
            for connection in "abcdef":
                self.leave(number, connection)
        self.wait(100)
        assert self.dials.take(self.now + 10_000.0) == []
        assert self.table.peers == []


class HistoryTests(SynchronousTestCase):
    """Any history."""

    def test_any(self) -> None:
        """A snapshot and the deltas after it are the snapshot at their end, whatever happens."""
        run_state_machine_as_test(
            TableMachine, settings=settings(max_examples=100, stateful_step_count=40)
        )


class ReachTests(SynchronousTestCase):
    """At which address a peer is reached by the one who reads the list."""

    def test_same_link(self) -> None:
        """A link-local address is on the link by which the registry is reached, if that tells."""
        for reached_at, expected in (
            ("fe80::9%eth7", "fe80::1%eth7"),
            ("192.0.2.9", "fe80::1"),
            ("fd00::9", "fe80::1"),
        ):
            copy = PeerList()
            copy.begin(reached_at)
            copy.snapshot(Snapshot(1, (Peer(b"n" * 32, "n", "fe80::1", 5000),)))
            self.assertEqual([each.host for each in copy.peers.values()], [expected])


class PeerListTests(SynchronousTestCase):
    """A node's copy notices what it misses and what cannot be."""

    def setUp(self) -> None:
        self.list = PeerList(most=4)
        self.list.begin(ELSEWHERE)

    def start(self, *numbers: int) -> None:
        """Give it a list, at number 10."""
        self.list.snapshot(Snapshot(10, tuple(peer(number) for number in numbers)))

    def test_first(self) -> None:
        """The first snapshot is all news, once its last frame is there."""
        self.assertIsNone(self.list.snapshot(Snapshot(10, (peer(1),), more=True)))
        self.assertEqual(self.list.peers, {})
        self.assertEqual(
            self.list.snapshot(Snapshot(10, (peer(2),))), Change((peer(1), peer(2)), (), ())
        )
        self.assertEqual((self.list.is_current, self.list.number), (True, 10))

    def test_next_conversation(self) -> None:
        """The peers stay; then the difference is told, and any number will do to begin with."""
        self.start(1, 2, 3)
        self.list.begin(ELSEWHERE)
        self.assertEqual(len(self.list.peers), 3)
        self.assertFalse(self.list.is_current)
        change = self.list.snapshot(Snapshot(2, (peer(1), peer(2, port=6000), peer(4))))
        self.assertEqual(change, Change((peer(4),), (peer(3),), (peer(2, port=6000),)))
        self.assertEqual(self.list.number, 2)

    def test_cut_off_snapshot(self) -> None:
        """What was gathered of a snapshot that never ended is forgotten with its conversation."""
        self.list.snapshot(Snapshot(10, (peer(1),), more=True))
        self.list.begin(ELSEWHERE)
        self.list.snapshot(Snapshot(5, (peer(2),)))
        self.assertEqual(self.list.peers, by_node([peer(2)]))

    def test_delta(self) -> None:
        """A delta with the next number is told as it is, with those who left as they were."""
        self.start(1, 2)
        change = self.list.delta(Delta(11, (peer(3),), (node(1),), (peer(2, name="Eve"),)))
        self.assertEqual(change, Change((peer(3),), (peer(1),), (peer(2, name="Eve"),)))
        self.assertEqual(self.list.peers, by_node([peer(2, name="Eve"), peer(3)]))

    def test_gap(self) -> None:
        """A number beyond the next is asked for once; until the snapshot, deltas are ignored."""
        for message in (Delta(12, (peer(2),)), Delta(11), Delta(12)):
            self.list.begin(ELSEWHERE)
            self.start(1)
            self.assertFalse(self.list.take_missing())
            self.assertIsNone(self.list.delta(message))
            self.assertTrue(self.list.take_missing())
            self.assertIsNone(self.list.delta(Delta(13, (peer(3),))))
            self.list.pong(14)
            self.assertFalse(self.list.take_missing())
            self.assertEqual(self.list.peers, by_node([peer(1)]))
            self.list.snapshot(Snapshot(13, (peer(3),)))
            self.assertEqual((self.list.is_current, self.list.number), (True, 13))

    def test_empty_delta(self) -> None:
        """An empty delta that repeats the number says that nothing is missing."""
        self.start(1)
        self.assertIsNone(self.list.delta(Delta(10)))
        self.assertTrue(self.list.is_current)

    def test_pong(self) -> None:
        """A pong's number shows a gap as a delta's does."""
        self.list.pong(3)
        self.start(1)
        self.list.pong(10)
        self.assertFalse(self.list.take_missing())
        self.list.pong(11)
        self.assertTrue(self.list.take_missing())
        self.assertFalse(self.list.is_current)

    def test_back_in_time(self) -> None:
        """A number that goes back within a conversation is a violation."""
        for message in (Delta(9), Delta(9, (peer(2),)), Delta(10, (peer(2),))):
            self.start(1)
            self.assertRaises(BadMessage, self.list.delta, message)
        self.assertRaises(BadMessage, self.list.pong, 9)
        self.assertRaises(BadMessage, self.list.snapshot, Snapshot(9, ()))
        self.list.delta(Delta(12))
        self.assertRaises(BadMessage, self.list.snapshot, Snapshot(9, ()))
        self.assertEqual(self.list.peers, by_node([peer(1)]))

    def test_unasked_snapshot(self) -> None:
        """A registry may send a snapshot at any time."""
        self.start(1)
        self.list.snapshot(Snapshot(10, (peer(2),), more=True))
        self.assertIsNone(self.list.delta(Delta(11, (peer(4),))))
        self.list.snapshot(Snapshot(10, (peer(3),)))
        self.assertEqual(self.list.peers, by_node([peer(2), peer(3)]))
        self.assertFalse(self.list.take_missing())

    def test_contradictions(self) -> None:
        """A delta that does not fit the list changes nothing and is a violation."""
        self.start(1, 2)
        rows = [
            Delta(11, (peer(1),)),
            Delta(11, (), (node(3),)),
            Delta(11, (), (), (peer(3),)),
            Delta(11, (peer(3), peer(3))),
            Delta(11, (), (node(1), node(1))),
            Delta(11, (), (node(1),), (peer(1, port=1),)),
            Delta(11, (peer(3),), (node(3),)),
            Delta(11, tuple(peer(number) for number in range(3, 6))),
        ]
        for delta in rows:
            self.assertRaises(BadMessage, self.list.delta, delta)
            self.assertEqual(self.list.peers, by_node([peer(1), peer(2)]))
        self.assertIsNotNone(
            self.list.delta(Delta(11, (peer(3), peer(4), peer(5)), (node(1),))), "four fit"
        )

    def test_bad_snapshots(self) -> None:
        """A snapshot that repeats a node id, is too long, or changes its number is refused."""
        rows = [
            [Snapshot(1, (peer(1), peer(1)))],
            [Snapshot(1, (peer(1),), True), Snapshot(1, (peer(1, port=2),))],
            [Snapshot(1, (peer(1),), True), Snapshot(2, (peer(2),))],
            [Snapshot(1, tuple(map(peer, range(3))), True), Snapshot(1, (peer(4), peer(5)), True)],
        ]
        for *good, bad in rows:
            self.list.begin(ELSEWHERE)
            for message in good:
                self.list.snapshot(message)
            self.assertRaises(BadMessage, self.list.snapshot, bad)
            self.assertEqual(self.list.peers, {})

    def test_neighbours_of_the_registry(self) -> None:
        """
        Who is at a loopback address is where the registry is, as seen from here; and an IPv4
        address in IPv6 is that one.
        """
        local = [peer(1, "127.0.0.1"), peer(2, "::ffff:127.0.0.2"), peer(3, f"::ffff:{HOST}")]
        rows = [
            (ELSEWHERE, [ELSEWHERE, ELSEWHERE, HOST]),
            ("127.0.0.1", ["127.0.0.1", "127.0.0.2", HOST]),
            ("UNIXAddress(None)", ["127.0.0.1", "127.0.0.2", HOST]),
        ]
        for registry, hosts in rows:
            copy = PeerList()
            copy.begin(registry)
            copy.snapshot(Snapshot(0, tuple(local)))
            self.assertEqual([each.host for each in copy.peers.values()], hosts)
            copy.begin(registry)
            copy.snapshot(Snapshot(0, ()))
            copy.delta(Delta(1, tuple(local)))
            self.assertEqual([each.host for each in copy.peers.values()], hosts)
            copy.delta(Delta(2, (), (), tuple(local)))
            self.assertEqual([each.host for each in copy.peers.values()], hosts)

    def test_dialling(self) -> None:
        """Nobody dials names, groups, everybody or nobody because a registry says so."""
        rows = [
            (HOST, True),
            ("2001:db8::1", True),
            ("fe80::1", True),
            ("127.0.0.1", True),
            ("victim.example", False),
            ("0.0.0.0", False),
            ("::", False),
            ("224.0.0.1", False),
            ("ff02::1", False),
            ("255.255.255.255", False),
            ("", False),
        ]
        for host, can in rows:
            self.assertEqual(can_be_dialled(peer(1, host)), can, host)
