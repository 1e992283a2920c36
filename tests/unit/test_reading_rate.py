"""What a limit on how fast a node sends or fetches does to its conversations."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Misuse
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.link.rate import LEAST_RATE, TURN
from flow512.link.throttle import Throttle
from flow512.plugins import node_tap
from flow512.settings import NodeSettings
from flow512.transfer.server import TransferFactory
from flow512.transfer.source import SourceFactory, SourceProtocol
from flow512.transfer.turns import AT_ONCE
from flow512.units import BLOCK, PIECE
from flow512.wire.bundle import Bundle
from flow512.wire.frame import HEADER_SIZE, Frame, encode_frame
from flow512.wire.messages import Cancel, Error, Kind, List, Read, decode
from tests.unit.command_line import CommandCase
from tests.unit.test_bundle import pack
from tests.unit.test_transfer_server import ServerTestCase
from tests.unit.transfer_ends import ADDRESS, OURS, End, Served, join

RATE = 100_000
BLOCKS = 40


class Client:
    """
    The other end of a conversation that a node serves.

    @ivar frames: the data frames that it got.
    """

    def __init__(self, served: Served, root: bytes) -> None:
        self.end = served.end
        self.protocol = served.protocol
        self.root = root
        self.frames: list[Frame] = []
        self.others: list[Frame] = []

    def read(self, first: int, count: int, run: int = 512, request: int = 1) -> None:
        """Ask for pieces."""
        self.end.say(Read(self.root, first, count, run), request=request)

    def take(self) -> None:
        """Take what came."""
        for frame in self.end.take():
            (self.frames if frame.kind == Kind.DATA else self.others).append(frame)

    @property
    def got(self) -> int:
        """Bytes of data frames, headers included."""
        self.take()
        return sum(HEADER_SIZE + len(frame.body) for frame in self.frames)

    @property
    def data(self) -> bytes:
        """What was in them."""
        self.take()
        return b"".join(bytes(frame.body) for frame in self.frames)


class SendingTests(ServerTestCase):
    """A server that sends at most 100,000 bytes a second."""

    def setUp(self) -> None:
        super().setUp()
        self.root, self.content = self.put("one", BLOCKS * BLOCK)
        self.up = Throttle(self.clock, RATE)
        self.factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            patience=Patience(silence=1e6, stall=1e6),
            up=self.up,
            reads_cached=False,
        )

    def end_all(self) -> None:
        super().end_all()
        allowance = self.factory.allowance
        self.assertEqual((allowance.memory.held, allowance.requests), (0, 0))

    def join(self, room: int = 1 << 40) -> Client:
        """Connect one more."""
        served = join(self.factory, room)
        self.served.append(served)
        return Client(served, self.root)

    def readers(self, count: int) -> list[Client]:
        """Connect some, and let each ask for everything."""
        clients = [self.join() for _ in range(count)]
        for client in clients:
            client.read(0, BLOCKS * 512)
        self.workers.do_all()
        return clients

    def run_for(self, seconds: float, step: float = 0.02) -> None:
        """Let time pass, and workers work."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.workers.do_all()

    def test_rate(self) -> None:
        """One who reads gets a block at once, and the rest at the rate, headers included."""
        [client] = self.readers(1)
        self.assertEqual(client.got, TURN)
        self.run_for(100)
        self.assertLessEqual(client.got, RATE * 100 + TURN)
        self.assertGreaterEqual(client.got, 0.98 * RATE * 100)
        self.run_for(10)
        self.assertEqual(client.data, self.content)

    def test_shared(self) -> None:
        """
        All together get no more than that, and none ever gets more than two blocks more than
        another: that many are sent something at once.
        """
        clients = self.readers(4)
        before = [client.got for client in clients]
        for _ in range(100):
            self.run_for(2, 0.1)
            gained = [client.got - had for client, had in zip(clients, before, strict=True)]
            self.assertLessEqual(max(gained) - min(gained), AT_ONCE * TURN)
        self.assertLess(abs(sum(gained) / (RATE * 200) - 1), 0.02)

    def test_who_does_not_read(self) -> None:
        """What one does not take, the others get."""
        stuck = self.join(room=0)
        stuck.read(0, BLOCKS * 512)
        self.workers.do_all()
        [client] = self.readers(1)
        self.run_for(60)
        self.assertGreaterEqual(client.got, 0.98 * RATE * 60 - TURN)
        self.assertLessEqual(len(stuck.end.transport.value()), TURN)

    def test_short_runs(self) -> None:
        """The headers of short runs are counted too."""
        client = self.join()
        client.read(0, BLOCKS * 512, run=1)
        self.workers.do_all()
        self.run_for(100)
        self.assertGreater(client.got, 0.98 * RATE * 100)
        self.assertLess(client.got, RATE * 100 + 512 * (HEADER_SIZE + PIECE))
        self.assertEqual(client.data, self.content[: len(client.data)])

    def test_bundles(self) -> None:
        """Small contents that go in parcels count as blocks do."""
        small = self.random.randbytes(60_000)
        root = self.shelf.put("small", small)
        bundler = self.join()
        bundler.end.say(Bundle((root,) * 100), request=1)
        self.workers.do_all()
        [client] = self.readers(1)
        self.run_for(40)
        bundler.take()
        parcels = [len(frame.body) + HEADER_SIZE for frame in bundler.others]
        self.assertEqual({frame.kind for frame in bundler.others}, {Kind.PARCEL})
        self.assertLess(abs(sum(parcels) - client.got), 2 * TURN)
        self.assertLess(abs(sum(parcels) + client.got - RATE * 40), 2 * TURN)

    def test_small_answers_do_not_wait(self) -> None:
        """What is no data of files is answered at once, though data waits."""
        client, other = self.readers(2)
        other.take()
        other.end.say(List(), request=2)
        self.workers.do_all()
        other.take()
        self.assertEqual([frame.kind for frame in other.others], [Kind.LISTING])
        self.assertEqual(other.frames, [])
        self.assertEqual(client.got, TURN)

    def test_cancelled_while_it_waits(self) -> None:
        """What was cancelled is not sent, and costs nobody a turn."""
        _, second, third = self.readers(3)
        turn = TURN / RATE
        second.end.say(Cancel(), request=1)
        second.take()
        self.assertEqual([frame.kind for frame in second.others], [Kind.ERROR])
        self.assertIsInstance(decode(second.others[0], Error), Error)
        self.assertEqual(self.factory.allowance.requests, 2)
        self.run_for(2 * turn + 0.1)
        self.assertEqual((second.got, third.got), (0, TURN))
        second.read(0, 512, request=1)
        self.workers.do_all()
        # The others have one each before it has a place, and may have another.
        self.run_for(5 * turn + 0.1)
        self.assertEqual(second.data, self.content[:BLOCK])

    def test_gone_while_it_waits(self) -> None:
        """Who hangs up leaves its turn to the others, and holds no memory."""
        first, second = self.readers(2)
        held = self.factory.allowance.memory.held
        second.end.hang_up()
        self.workers.do_all()
        self.assertLess(self.factory.allowance.memory.held, held)
        self.run_for(3 * TURN / RATE + 0.1)
        self.assertEqual((first.got, second.got), (4 * TURN, 0))

    def test_requests_that_end_in_a_turn_are_over(self) -> None:
        """A request whose last block had to wait for its turn counts no longer than any other."""
        [client] = self.readers(1)
        client.read(0, 512, request=2)
        self.assertEqual(self.factory.allowance.requests, 2)
        self.run_for((BLOCKS + 1) * TURN / RATE + 1)
        self.assertEqual(client.data, self.content + self.content[:BLOCK])
        self.assertEqual(self.factory.allowance.requests, 0)

    def test_changed(self) -> None:
        """The limit can be changed, and lifted, while data waits for it."""
        [client] = self.readers(1)
        self.up.limit(10 * RATE)
        self.run_for(5)
        self.assertGreaterEqual(client.got, 0.98 * 10 * RATE * 5)
        self.assertLessEqual(client.got, 10 * RATE * 5 + 2 * TURN)
        self.up.limit(0)
        self.clock.advance(0)
        self.workers.do_all()
        self.assertEqual(client.data, self.content)


class Supplier:
    """The node at the other end of a source, which sends all that is asked for, as TCP does."""

    def __init__(self, source: SourceProtocol) -> None:
        self.source = source
        self.end = End(source)
        self.end.say_hello()
        self.unsent = b""
        self.got = 0
        self.results: list[object] = []

    def want(self, blocks: int, run: int = 512) -> Deferred[None]:
        """Let the source ask for blocks, which are sent at once."""
        result = self.source.read(b"r" * 32, blocks * BLOCK, 0, blocks * 512, run, self.took)
        result.addBoth(self.results.append)
        [frame] = [frame for frame in self.end.take() if frame.kind == Kind.READ]
        frames = bytearray()
        for first in range(0, blocks * 512, run):
            length = min(run, 512 - first % 512) * PIECE
            frames += encode_frame(Kind.DATA, frame.request, bytes(length), first)
        self.unsent += frames
        return result

    def took(self, first: int, data: bytes | bytearray) -> None:
        """Count what came, and give the buffer back."""
        self.got += len(data)
        self.source.buffers.give_back(data)

    def flow(self, chunk: int = 65536) -> None:
        """Let bytes go from one side to the other, until it stops reading."""
        while self.unsent and self.end.transport.is_read and not self.end.is_closing:
            self.end.say_bytes(self.unsent[:chunk])
            self.unsent = self.unsent[chunk:]


class FetchingTests(SynchronousTestCase):
    """Sources that together take at most 100,000 bytes a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.down = Throttle(self.clock, RATE)
        self.suppliers: list[Supplier] = []
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Everything ends, and no timer is left."""
        for supplier in self.suppliers:
            supplier.end.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def supplier(self) -> Supplier:
        """Connect one more."""
        factory = SourceFactory(Introduction(OURS, "here"), self.clock, down=self.down)
        supplier = Supplier(factory.buildProtocol(ADDRESS))
        self.suppliers.append(supplier)
        return supplier

    def run_for(self, seconds: float, step: float = 0.02) -> None:
        """Let time pass, and bytes flow."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for supplier in self.suppliers:
                supplier.flow()

    def test_rate(self) -> None:
        """A source that has everything ready is read from at the rate, a block at a time."""
        supplier = self.supplier()
        supplier.want(BLOCKS)
        supplier.flow()
        self.assertEqual(supplier.got, BLOCK)
        self.run_for(100)
        self.assertGreaterEqual(supplier.got, 0.98 * RATE * 100)
        self.assertLessEqual(supplier.got, RATE * 100 + BLOCK)
        self.run_for(10)
        self.assertEqual((supplier.got, supplier.results), (BLOCKS * BLOCK, [None]))

    def test_short_runs(self) -> None:
        """Short runs are counted with their headers, and stop no more often."""
        supplier = self.supplier()
        supplier.want(BLOCKS, run=1)
        supplier.flow()
        self.assertLessEqual(supplier.got, BLOCK)
        self.run_for(100)
        self.assertLess(abs(supplier.got / PIECE * 528 / (RATE * 100 + TURN) - 1), 0.02)

    def test_shared(self) -> None:
        """All sources together are read from so fast, and none more than a block ahead."""
        for _ in range(4):
            self.supplier().want(30)
        self.run_for(0.02)
        before = [supplier.got for supplier in self.suppliers]
        for _ in range(100):
            self.run_for(2, 0.1)
            gained = [now.got - had for now, had in zip(self.suppliers, before, strict=True)]
            self.assertLessEqual(max(gained) - min(gained), BLOCK)
        self.assertLess(abs(sum(gained) / (RATE * 200) - 1), 0.02)

    def test_slow_source(self) -> None:
        """Who sends slowly, or nothing, keeps no more than a block's time from the others."""
        silent, slow, quick = (self.supplier() for _ in range(3))
        for each in self.suppliers:
            each.want(BLOCKS)
        silent.unsent = b""
        kept, slow.unsent = slow.unsent, b""
        self.run_for(1)
        quick_before = quick.got
        for _ in range(60):
            slow.unsent, kept = slow.unsent + kept[:10_000], kept[10_000:]
            self.run_for(1)
        self.assertGreaterEqual(slow.got, 600_000 - BLOCK)
        gained = quick.got - quick_before
        self.assertGreaterEqual(gained, 0.98 * (RATE * 60 - 600_000) - 3 * BLOCK)
        self.assertLessEqual(gained + slow.got, RATE * 62 + 3 * BLOCK)

    def test_bundles(self) -> None:
        """Small contents that come in parcels count as blocks do."""
        supplier, reader = self.supplier(), self.supplier()
        contents = [bytes(60_000)] * 40
        came: list[int] = []
        result = supplier.source.bundle(
            [b"r" * 32] * 40, [60_000] * 40, lambda first, parcel: came.append(len(parcel))
        )
        supplier.end.take()
        for first in range(0, 40, 4):
            supplier.unsent += encode_frame(
                Kind.PARCEL, 1, pack(contents[first : first + 4]), first
            )
        total = len(supplier.unsent)
        reader.want(BLOCKS)
        self.run_for(30)
        self.assertLess(abs(sum(came) * 60_000 - reader.got), 2 * BLOCK)
        self.assertLess(abs(sum(came) * 60_000 + reader.got - RATE * 30), 2 * BLOCK)
        self.run_for(2 * total / RATE)
        self.assertTrue(result.called)
        self.assertEqual(sum(came), 40)

    def test_idle_source(self) -> None:
        """A source of which nothing more is expected gives back what it did not use."""
        idle, other = self.supplier(), self.supplier()
        idle.want(1)
        result = idle.want(1)
        result.cancel()
        idle.unsent = idle.unsent[:0]
        for request in (1, 2):
            idle.end.say(Error(5, "No such content."), request=request)
        self.assertTrue(idle.end.transport.is_read)
        other.want(2)
        other.flow()
        self.assertEqual(other.got, BLOCK)
        self.clock.advance(TURN / RATE)
        other.flow()
        self.assertEqual(other.got, 2 * BLOCK)

    def test_listens_when_nothing_is_expected(self) -> None:
        """After its last block a source is read from again at once, for answers and pings."""
        supplier, other = self.supplier(), self.supplier()
        other.want(2)
        other.flow()
        supplier.want(1)
        self.assertFalse(supplier.end.transport.is_read)
        self.run_for(2 * TURN / RATE + 0.1)
        self.assertEqual(supplier.got, BLOCK)
        self.assertTrue(supplier.end.transport.is_read)
        listing = supplier.source.list()
        supplier.end.take()
        supplier.end.say_frame(Kind.ERROR, 2, b"")
        self.assertTrue(listing.called)
        listing.addErrback(lambda _: None)

    def test_gone_while_it_waits(self) -> None:
        """A source that goes away while it waits for its turn leaves that to the others."""
        first, second, third = (self.supplier() for _ in range(3))
        for supplier in self.suppliers:
            supplier.want(3)
            supplier.flow()
        self.assertEqual([each.got for each in self.suppliers], [BLOCK, 0, 0])
        second.end.hang_up()
        self.run_for(2 * TURN / RATE + 0.1)
        self.assertEqual((first.got, second.got, third.got), (2 * BLOCK, 0, BLOCK))
        self.assertEqual(len(second.results), 1)

    def test_left_while_it_waits(self) -> None:
        """A source that is left while reading is stopped closes all the same."""
        first, second = self.supplier(), self.supplier()
        first.want(1)
        second.want(1).addErrback(lambda _: None)
        self.assertFalse(second.end.transport.is_read)
        second.source.leave()
        self.assertTrue(second.end.is_closing)
        self.assertTrue(second.end.transport.is_read)

    def test_limited_in_the_middle(self) -> None:
        """A limit holds from when it is set, and not after it is lifted."""
        self.down.limit(0)
        supplier = self.supplier()
        supplier.want(BLOCKS)
        kept = supplier.unsent
        supplier.unsent = kept[: 10 * TURN]
        supplier.flow()
        self.assertEqual(supplier.got, 10 * BLOCK)
        self.down.limit(RATE)
        supplier.unsent = kept[10 * TURN :]
        supplier.flow()
        self.assertLessEqual(supplier.got, 12 * BLOCK)
        self.run_for(20)
        self.assertLessEqual(supplier.got, 12 * BLOCK + RATE * 20)
        self.assertGreaterEqual(supplier.got, 10 * BLOCK + 0.98 * RATE * 20 - BLOCK)
        self.down.limit(0)
        self.clock.advance(0)
        supplier.flow()
        self.assertEqual(supplier.got, BLOCKS * BLOCK)

    def test_limited_among_many(self) -> None:
        """What was on its way when the limit came is owed, by each, before more is taken."""
        self.down.limit(0)
        for _ in range(3):
            self.supplier().want(4)
        self.down.limit(RATE)
        for supplier in self.suppliers:
            supplier.flow()
        self.assertEqual([each.got for each in self.suppliers], [BLOCK] * 3)
        # The first of the three was free, the two others are paid for before the next three.
        self.run_for(3 * TURN / RATE + 0.1)
        self.assertLessEqual(sum(each.got for each in self.suppliers), 4 * BLOCK)
        self.run_for(10 * TURN / RATE)
        self.assertEqual([each.got for each in self.suppliers], [4 * BLOCK] * 3)

    def test_misbehaving(self) -> None:
        """A source that breaks the protocol in a frame that used up its turn ends as ever."""
        supplier = self.supplier()
        result = supplier.want(2)
        supplier.unsent = supplier.unsent[:TURN] + supplier.unsent[:TURN]
        supplier.flow()
        self.run_for(TURN / RATE + 0.1)
        self.assertTrue(result.called)
        self.assertTrue(supplier.end.is_closing)


class SettingsTests(SynchronousTestCase):
    """Rates of a node."""

    def test_settings(self) -> None:
        """Rates that cannot be kept to are refused; none is the default."""
        self.assertEqual((NodeSettings().up, NodeSettings().down), (0, 0))
        NodeSettings(up=LEAST_RATE, down=10**9)
        for wrong in ({"up": 1}, {"down": LEAST_RATE - 1}, {"up": -1}):
            with self.assertRaises(Misuse):
                NodeSettings(**wrong)  # type: ignore[arg-type]  # the names are known

    def test_plugin(self) -> None:
        """C{twistd flow512-node} takes both."""
        options = node_tap.Options()
        options.parseOptions(["--up", "500K", "--down=1.5MiB", "--no-beacon"])
        self.assertEqual((options.settings.up, options.settings.down), (500_000, 1_572_864))
        options = node_tap.Options()
        options.parseOptions(["--no-beacon"])
        self.assertEqual((options.settings.up, options.settings.down), (0, 0))

    def test_plugin_refuses(self) -> None:
        """What is no rate ends the process with a sentence."""
        self.patch(sys, "__stderr__", None)
        with self.assertRaises(SystemExit):
            node_tap.Options().parseOptions(["--up", "fast"])


class CommandTests(CommandCase):
    """The commands, in the in-memory network."""

    def fetch(self, *arguments: str, name: str = "got") -> float:
        """Fetch the file with C{get}, and tell how many seconds of the network's that took."""
        began = self.network.clock.seconds()
        output = self.here / name
        said = self.flow512(
            *("get", "file", "--from", "10.0.0.1", "--no-beacon", "--state", str(self.here / "s")),
            *("--no-md5", "-o", str(output), *arguments),
        )
        self.assertEqual((said.status, said.err), (0, ""), said.err)
        self.assertEqual(Path(output).read_bytes(), self.content)
        return self.network.clock.seconds() - began

    def start(self, blocks: int = 20, **settings: int) -> None:
        """Run a node that shares a file of so many blocks, and a bit."""
        self.content = Random(1).randbytes(blocks * BLOCK + 7)
        self.node = self.start_node({"file": self.content}, beacon_port=None, **settings)

    def test_down(self) -> None:
        """C{get --down} takes as long as the rate says, and without it no such time."""
        self.start()
        self.assertLess(self.fetch(name="quick"), 2.0)
        # The first block is free.
        expected = (19 * TURN + HEADER_SIZE + 7) / 1_000_000
        self.assertLess(abs(self.fetch("--down", "1M") - expected), 0.02 * expected + 0.5)

    def test_up(self) -> None:
        """A node that sends at a rate is as slow as it says, until it is told otherwise."""
        self.start(up=1_000_000)
        expected = (19 * TURN + HEADER_SIZE + 7) / 1_000_000
        self.assertLess(abs(self.fetch() - expected), 0.02 * expected + 0.5)
        self.node.up.limit(0)
        self.assertLess(self.fetch(name="again"), 2.0)

    def test_least(self) -> None:
        """At the least rate that there is, nobody takes a node for dead, on either side."""
        self.start(7, up=LEAST_RATE)
        self.assertGreater(self.fetch(), 96)
        self.node.up.limit(0)
        self.assertGreater(self.fetch("--down", "16KiB", name="again"), 96)

    def test_wrong(self) -> None:
        """What is no rate is refused before anything is done."""
        for command in (("get", "file"), ("serve", str(self.here)), ("console",)):
            said = self.flow512(*command, "--down", "1T", "--no-beacon")
            self.assertEqual((said.status, said.out), (2, ""))
            self.assertIn("'1T' is no rate", said.err)
