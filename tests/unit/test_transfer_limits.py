"""What the server of transfers does about those who want too much."""

from __future__ import annotations

import os
from unittest import mock

from msgspec.structs import replace
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from flow512.content import unhashed
from flow512.errors import WIRE_CODES, Busy, Cancelled
from flow512.interfaces import OF_ONE_DISK, READING
from flow512.limits import Limits
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.transfer.read_memory import STUCK
from flow512.transfer.server import TransferFactory
from flow512.units import BLOCK
from flow512.wire.bundle import Bundle
from flow512.wire.handshake import Channel
from flow512.wire.holding import PiecesRequest
from flow512.wire.messages import (
    Cancel,
    Error,
    Kind,
    List,
    Listing,
    Ping,
    Pong,
    Read,
    Stat,
    Stated,
    decode,
)
from flow512.wire.streaming import Stream
from tests.unit.test_transfer_server import ServerTestCase, text_of
from tests.unit.transfer_ends import OURS, FullTransport, LendingTransport, Served, join

BUSY = WIRE_CODES[Busy]


class LimitedTestCase(ServerTestCase):
    """
    One server, and any number of clients.

    @cvar limits: which the server keeps.
    @cvar reads_cached: whether it reads what is in memory without workers.
    """

    limits = Limits()
    reads_cached = False

    def setUp(self) -> None:
        super().setUp()
        self.factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            patience=Patience(silence=1e6, stall=1e6),
            limits=self.limits,
            reads_cached=self.reads_cached,
        )

    def end_all(self) -> None:
        super().end_all()
        allowance = self.factory.allowance
        self.assertEqual((allowance.memory.held, allowance.requests), (0, 0))

    def join(self, room: int = 1 << 40, kind: type[FullTransport] = FullTransport) -> Served:
        """Connect one more."""
        served = join(self.factory, room, kind=kind)
        self.served.append(served)
        return served

    def busy(self, served: Served) -> list[int]:
        """The numbers of the requests that were told to come later, each with a time."""
        told = [(request, message) for request, message in served.end.heard()]
        refused = []
        for request, message in told:
            if isinstance(message, Error):
                self.assertEqual(message.code, BUSY)
                self.assertGreater(message.retry_after, 0)
                refused.append(request)
        return refused


class MemoryTests(LimitedTestCase):
    """What is read from the disk, and not taken."""

    limits = Limits(buffered=16 * BLOCK)

    def setUp(self) -> None:
        super().setUp()
        self.root, self.content = self.put("one", 40 * BLOCK)

    def in_memory(self) -> int:
        """How many bytes of blocks there really are, waiting or in a transport."""
        ready = sum(
            len(block) for served in self.served for *_, block in served.protocol._reads._ready
        )
        return ready + sum(len(served.end.transport.value()) for served in self.served)

    def fetch(self, served: Served, request: int = 1) -> None:
        """Ask for everything."""
        served.end.say(Read(self.root, 0, 40 * 512), request=request)

    def gone(self, served: Served) -> None:
        """Let the connection be gone, if the server gave it up."""
        if served.end.transport.aborted:
            served.end.hang_up()

    def test_bound(self) -> None:
        """A hundred who read nothing do not make the server hold more than it wants to."""
        for _ in range(100):
            self.fetch(self.join(room=0))
            self.workers.do_all()
            self.assertLessEqual(self.in_memory(), 16 * (BLOCK + 16))
        self.assertGreater(self.in_memory(), 12 * BLOCK)

    def test_what_a_transport_keeps(self) -> None:
        """
        A block counts until its buffer is given back, though the transport would take more: those
        who read nothing hold no more than there is, and are given up once others wait.
        """
        for _ in range(100):
            self.fetch(self.join(kind=LendingTransport))
            self.workers.do_all()
            self.assertLessEqual(self.in_memory(), 16 * (BLOCK + 16))
        self.assertGreater(self.in_memory(), 12 * BLOCK)
        for _ in range(16):
            self.clock.advance(STUCK / 4)
            self.workers.do_all()
        self.assertTrue(any(each.end.transport.aborted for each in self.served))

    def test_one_block_where_memory_is_short(self) -> None:
        """Whose transport keeps a block gets the next one once that was given back, not before."""
        self.fetch(self.join(kind=LendingTransport))
        self.workers.do_all()
        self.assertFalse(self.factory.allowance.memory.is_plentiful)
        one = self.join(kind=LendingTransport)
        self.fetch(one)
        for _ in range(3):
            self.workers.do_all()
            self.assertEqual(len(b"".join(bytes(frame.body) for frame in one.end.take())), BLOCK)

    def test_what_a_transport_gives_back(self) -> None:
        """Readers whose transports keep buffers get everything, whole and in order."""
        readers = [self.join(kind=LendingTransport) for _ in range(12)]
        for each in readers:
            self.fetch(each)
        data = [bytearray() for _ in readers]
        for _ in range(500):
            self.workers.do_all()
            self.assertLessEqual(self.factory.allowance.memory.held, 16 * BLOCK)
            for which, each in enumerate(readers):
                data[which] += b"".join(bytes(frame.body) for frame in each.end.take())
        self.assertEqual([each == self.content for each in data], [True] * 12)

    def test_parcels_that_a_transport_keeps(self) -> None:
        """So it is with parcels of small files, though a connection has many of them."""
        roots = tuple(self.put(f"small{number}", 2**16)[0] for number in range(40))
        stuck = [self.join(kind=LendingTransport) for _ in range(20)]
        for each in stuck:
            each.end.say(Bundle(roots), request=1)
            self.workers.do_all()
            self.assertLessEqual(self.in_memory(), 16 * (BLOCK + 16))
        self.assertGreater(self.in_memory(), 8 * BLOCK)
        got = 0
        for _ in range(100):
            for each in stuck:
                got += sum(frame.kind == Kind.PARCEL for frame in each.end.take())
            self.workers.do_all()
        self.assertEqual(got, 20 * 14)

    def test_reader_among_those_who_do_not_read(self) -> None:
        """
        One who reads gets everything, though a hundred who read nothing came before: these are
        given up, but only as many as are in the way, and not before they had their time.
        """
        stuck = [self.join(room=0) for _ in range(100)]
        for each in stuck:
            self.fetch(each)
        self.workers.do_all()
        reader = self.join(room=0)
        self.fetch(reader)
        self.workers.do_all()
        self.assertEqual(reader.end.take(), [])
        data = b""
        for _ in range(1000):
            self.workers.do_all()
            frames = reader.end.take()
            data += b"".join(bytes(frame.body) for frame in frames)
            if len(data) == len(self.content):
                break
            if not frames:
                self.clock.advance(STUCK / 4)
                for each in stuck:
                    self.gone(each)
        self.assertEqual(data, self.content)
        self.assertLess(self.clock.seconds(), 10 * STUCK)
        self.assertFalse(reader.end.is_closing)

    def test_nobody_is_given_up_without_need(self) -> None:
        """Who reads nothing is left alone while nobody needs the memory."""
        stuck = [self.join(room=0) for _ in range(4)]
        for each in stuck:
            self.fetch(each)
        self.workers.do_all()
        self.clock.advance(100 * STUCK)
        self.assertFalse(any(each.end.is_closing for each in stuck))

    def test_slow_one_is_told_in_the_log(self) -> None:
        """The log says why somebody was given up."""
        with capturedLogs() as logs:
            for _ in range(40):
                self.fetch(self.join(room=0))
                self.workers.do_all()
            for _ in range(16):
                self.clock.advance(STUCK / 4)
                self.workers.do_all()
            for each in self.served:
                self.gone(each)
        self.assertIn("reads too slowly, and others wait", text_of(logs))

    def test_taking_turns(self) -> None:
        """When there is less than all want, who asks for much gets no more than the others."""
        readers = [self.join(room=0) for _ in range(30)]
        for request in range(1, 50):
            self.fetch(readers[0], request)
        for each in readers[1:]:
            self.fetch(each)
        got = dict.fromkeys(range(30), 0)
        for step in range(600):
            if self.workers.jobs:
                self.workers.do()
            which = step % 30
            got[which] += sum(len(frame.body) // BLOCK for frame in readers[which].end.take())
        self.assertGreater(min(got.values()), 2)
        # A few were read ahead while there was plenty.
        self.assertLessEqual(max(got.values()) - min(got.values()), 8)

    def test_everything_comes_right(self) -> None:
        """Under pressure everyone gets what it asked for, whole and in order."""
        readers = [self.join(room=BLOCK * 2) for _ in range(12)]
        for each in readers:
            self.fetch(each)
        data = [bytearray() for _ in readers]
        for _ in range(1000):
            if self.workers.jobs:
                self.workers.do(self.random.randrange(len(self.workers.jobs)))
            which = self.random.randrange(12)
            data[which] += b"".join(bytes(each.body) for each in readers[which].end.take())
            self.assertLessEqual(self.factory.allowance.memory.held, 16 * BLOCK)
        for _ in range(100):
            self.workers.do_all()
            for which, each in enumerate(readers):
                data[which] += b"".join(bytes(frame.body) for frame in each.end.take())
        self.assertEqual(data, [self.content] * 12)

    def test_cancelled_and_failed(self) -> None:
        """What was read for nobody is not counted any longer."""
        served = self.join(room=0)
        self.fetch(served, 1)
        self.fetch(served, 2)
        self.workers.do_all()
        served.end.say(Cancel(), request=1)
        served.end.say(Cancel(), request=2)
        while served.end.take():
            self.workers.do_all()
        self.assertEqual(self.factory.allowance.memory.held, 0)
        self.fetch(served, 3)
        self.workers.do()
        (self.shelf.folder / "one").write_bytes(b"changed")
        while served.end.take():
            self.workers.do_all()
        self.assertEqual(self.factory.allowance.memory.held, 0)


class SlowDiskTests(LimitedTestCase):
    """What is asked while all who fetch wait for a disk."""

    def test_workers_are_left(self) -> None:
        """However many wait for the disk, who asks for less has his answer."""
        root, _ = self.put("large", 40 * BLOCK)
        small = tuple(self.put(f"small{number}", 100)[0] for number in range(4))
        entry = self.shelf.stat("large")
        for _ in range(20):
            served = self.join()
            served.end.say(Read(root, 0, 40 * 512), request=1)
            served.end.say(Stream("large", entry.size, entry.mtime), request=2)
        self.workers.do_some(len(self.workers.jobs))  # now that they are open, they are read
        for served in self.served:
            served.end.say(Bundle(small), request=3)
            served.end.say(PiecesRequest(root, 0), request=4)
        busy = len(self.workers.jobs)
        self.assertEqual(busy, READING)
        asking = self.join()
        asking.end.say(Stat("large"), request=1)
        asking.end.say(List(), request=2)
        self.assertEqual(len(self.workers.jobs), busy + 2)
        self.workers.do(-1)
        self.workers.do(-1)
        self.assertEqual(sorted(request for request, _ in asking.end.heard()), [1, 2])
        self.assertEqual(len(self.workers.jobs), busy)

    def test_other_disks(self) -> None:
        """However many wait for one disk, who wants what is on another does not wait for them."""
        self.put("slow", 40 * BLOCK)
        self.put("quick", 30 * BLOCK)

        def stream(path: str) -> Served:
            entry = self.shelf.stat(path)
            served = self.join()
            served.end.say(Stream(path, entry.size, entry.mtime), request=1)
            return served

        # As if each size were on a disk of its own.
        with mock.patch.object(unhashed, "disk_of", lambda fd: os.fstat(fd).st_size):
            for _ in range(20):
                stream("slow")
            self.workers.do_some(20)
            self.assertEqual(len(self.workers.jobs), OF_ONE_DISK)
            quick = stream("quick")
            self.workers.do(-1)
            self.workers.do(-1)
        self.assertIn(Kind.DATA, {frame.kind for frame in quick.end.take()})


class RequestTests(LimitedTestCase):
    """Requests that are under way."""

    limits = Limits(requests=32, requests_in_all=64)

    def test_one_connection(self) -> None:
        """One connection may have so many; others are not affected."""
        self.put("one", 1)
        greedy, other = self.join(), self.join()
        for request in range(1, 41):
            greedy.end.say(Stat("one"), request=request)
        self.assertEqual(self.busy(greedy), list(range(33, 41)))
        other.end.say(Stat("one"), request=1)
        self.assertEqual(self.busy(other), [])
        self.workers.do_all()
        self.assertEqual(len(greedy.end.heard()), 32)

    def test_in_all(self) -> None:
        """When all have too many, only who has less than its share may have more."""
        self.put("one", 1)
        greedy = [self.join() for _ in range(2)]
        for each in greedy:
            for request in range(1, 33):
                each.end.say(Stat("one"), request=request)
            self.assertEqual(self.busy(each), [])
        modest = self.join()
        for request in range(1, 33):
            modest.end.say(Stat("one"), request=request)
        self.assertEqual(self.busy(modest), list(range(22, 33)))
        self.workers.do_all()
        self.assertEqual(len(modest.end.heard()), 21)
        modest.end.say(Stat("one"), request=99)
        self.assertEqual(self.busy(modest), [])

    def test_cancelling_makes_no_room(self) -> None:
        """Who asks and cancels over and over does not fill the workers' queue."""
        self.put("one", 1)
        served = self.join()
        for request in range(1, 1001):
            served.end.say(Stat("one"), Cancel(), request=request)
        self.assertEqual(len(self.workers.jobs), 32)
        codes = [message.code for _, message in served.end.heard() if isinstance(message, Error)]
        self.assertEqual(codes, [WIRE_CODES[Cancelled]] * 32 + [BUSY] * 968)
        self.workers.do_all()
        served.end.say(Stat("one"), request=1)
        self.workers.do_all()
        self.assertIsInstance(served.end.heard()[0][1], Stated)

    def test_hanging_up_makes_no_room(self) -> None:
        """
        Nor does who asks and hangs up over and over; once the workers are through, all is well.
        """
        self.put("one", 1)
        for _ in range(200):
            served = self.join()
            for request in range(1, 33):
                served.end.say(Stat("one"), request=request)
            served.end.hang_up()
        self.assertLessEqual(len(self.workers.jobs), 2 * 64)
        self.workers.do_all()
        served = self.join()
        served.end.say(Stat("one"), request=1)
        self.assertEqual(self.busy(served), [])


class ListingTests(LimitedTestCase):
    """Pages of lists."""

    limits = Limits(listings_per_minute=60)

    def ask(self, served: Served, count: int) -> tuple[int, int]:
        """Ask for so many; how many came and how many were refused is returned."""
        for request in range(1, count + 1):
            served.end.say(List(), request=request)
            self.workers.do_all()
        heard = [message for _, message in served.end.heard()]
        refused = [each for each in heard if isinstance(each, Error) and each.code == BUSY]
        self.assertTrue(all(each.retry_after >= 1 for each in refused))
        return sum(isinstance(each, Listing) for each in heard), len(refused)

    def test_per_connection(self) -> None:
        """
        Without proof of who it is each connection has its own; so nobody can use up another's by
        claiming to be that one. With time there are more.
        """
        first, second = self.join(), self.join()
        first.protocol.connection.peerAddr = IPv4Address("TCP", "10.0.0.9", 40001)
        self.assertEqual(self.ask(first, 70), (60, 10))
        self.assertEqual(self.ask(second, 60), (60, 0))
        self.clock.advance(5)
        self.assertEqual(self.ask(first, 10), (5, 5))

    def test_per_identity(self) -> None:
        """All connections of one proven identity share theirs; another identity has its own."""
        counts = []
        for identity in (b"a" * 32, b"a" * 32, b"b" * 32):
            served = self.join()
            served.protocol.channel = Channel(identity, bytes(32))
            counts.append(self.ask(served, 40))
        self.assertEqual(counts, [(40, 0), (20, 20), (40, 0)])

    def test_cancelled_are_forgotten(self) -> None:
        """What was cancelled while it waited for its turn is kept no longer."""
        served = self.join()
        for _ in range(50):
            served.end.say(List("p" * 4096, "q" * 4096), Cancel(), request=1)
        self.assertEqual(len(served.end.heard()), 50)
        self.assertEqual(len(served.protocol._answers._listings), 0)

    def test_other_requests_go_on(self) -> None:
        """Who has used up its lists may still ask for files."""
        self.put("one", 1)
        served = self.join()
        self.ask(served, 70)
        served.end.say(Stat("one"), request=1)
        self.workers.do_all()
        self.assertIsInstance(served.end.heard()[0][1], Stated)


class OpeningTests(LimitedTestCase):
    """Reads whose file is not open yet."""

    def test_workers_are_left(self) -> None:
        """However many files are opened on a slow disk, there are workers for all else."""
        roots = [self.put(str(number), 10)[0] for number in range(8)]
        for _ in range(3):
            served = self.join()
            for request, root in enumerate(roots, 1):
                served.end.say(Read(root, 0, 1), request=request)
        self.assertEqual(len(self.workers.jobs), OF_ONE_DISK)
        self.workers.do_all()
        for served in self.served:
            self.assertEqual(len(served.end.take()), len(roots))

    def test_cancelled_are_forgotten(self) -> None:
        """What was cancelled meanwhile is kept no longer; who asks again is answered."""
        root, content = self.put("one", 10)
        served = self.join()
        for _ in range(50):
            served.end.say(Read(root, 0, 1), Cancel(), request=1)
        self.assertEqual(len(served.end.heard()), 50)
        self.assertEqual(served.protocol._reads._opening, {root: []})
        served.end.say(Read(root, 0, 1), request=1)
        self.workers.do_all()
        self.assertEqual([bytes(frame.body) for frame in served.end.take()], [content])


class IdleTests(LimitedTestCase):
    """Conversations in which nothing is asked."""

    limits = replace(Limits(), idle=300.0)

    def wait(self, served: Served, seconds: float) -> None:
        """Let time pass, in which nothing is asked but whether the server is there."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            if not served.end.is_closing:
                served.end.say(Ping(), request=1)

    def test_nothing_asked(self) -> None:
        """Pings do not keep a conversation alive in which nothing is ever asked."""
        served = self.join()
        with capturedLogs() as logs:
            self.wait(served, 299)
            self.assertFalse(served.end.is_closing)
            self.wait(served, 2)
        self.assertTrue(served.end.transport.disconnecting)
        self.assertFalse(served.end.transport.aborted)
        self.assertEqual({type(message) for _, message in served.end.heard()}, {Pong})
        self.assertIn("nothing was asked for 300 seconds", text_of(logs))

    def test_since_the_last_request(self) -> None:
        """The time is counted from the end of the last request."""
        root, _ = self.put("one", 100)
        served = self.join()
        self.wait(served, 250)
        served.end.say(Read(root, 0, 1), request=2)
        self.workers.do_all()
        self.wait(served, 298)
        self.assertFalse(served.end.is_closing)
        self.wait(served, 4)
        self.assertTrue(served.end.is_closing)

    def test_request_under_way(self) -> None:
        """While a request is under way the conversation goes on, however long that takes."""
        self.put("one", 100)
        served = self.join()
        served.end.say(Stat("one"), request=2)
        self.wait(served, 2000)
        self.assertFalse(served.end.is_closing)
        self.workers.do_all()
        self.wait(served, 298)
        self.assertFalse(served.end.is_closing)
        self.wait(served, 305)
        self.assertTrue(served.end.is_closing)

    def test_answer_that_is_not_taken(self) -> None:
        """A read whose data the client has not taken is still under way."""
        root, _ = self.put("one", 4 * BLOCK)
        served = self.join(room=0)
        served.end.say(Read(root, 0, 2048), request=2)
        self.workers.do_all()
        self.clock.advance(1000)
        self.assertFalse(served.end.is_closing)


class LogTests(LimitedTestCase):
    """What clients make a node log."""

    def test_flood_of_stats(self) -> None:
        """Hundreds of requests for files are some lines, and one that says how many more."""
        self.put("one", 1)
        served = self.join()
        with capturedLogs() as logs:
            for request in range(1, 301):
                served.end.say(Stat("one"), request=request)
                self.workers.do_all()
            served.end.hang_up()
        lines = text_of(logs).splitlines()
        self.assertLess(len(lines), 30)
        self.assertEqual(lines[0], "Request for file: 'one'")
        self.assertEqual(
            [line for line in lines if "left out" in line],
            ["280 lines such as this were left out: Request for file: 'one'"],
        )

    def test_flood_of_connections(self) -> None:
        """Thousands of connections are some lines, and one that says how many more."""
        with capturedLogs() as logs:
            for _ in range(3000):
                join(self.factory).end.hang_up()
            self.successResultOf(self.factory.stop())
        lines = text_of(logs).splitlines()
        self.assertLess(len(lines), 110)
        self.assertIn("2900 lines such as this were left out: Connection from", lines[-1])

    def test_flood_of_small_files(self) -> None:
        """So are hundreds of files that were sent."""
        root, _ = self.put("one", 1)
        served = self.join()
        with capturedLogs() as logs:
            for request in range(1, 201):
                served.end.say(Read(root, 0, 1), request=request)
                self.workers.do_all()
            (first, *_) = served.end.take()
        self.assertEqual((first.kind, first.body[:0]), (Kind.DATA, b""))
        self.assertLess(len(text_of(logs).splitlines()), 30)
        self.assertIn("File sent to", text_of(logs))


class RefusalTests(LimitedTestCase):
    """How a refusal reads."""

    limits = Limits(requests=32)

    def test_sentence(self) -> None:
        """It names the limit."""
        self.put("one", 1)
        served = self.join()
        for request in range(1, 34):
            served.end.say(Stat("one"), request=request)
        (frame,) = served.end.take()
        self.assertIn("At most 32 requests", decode(frame, Error).sentence)


class HandshakeTests(LimitedTestCase):
    """Who is silent where a port has no other conversation to offer."""

    limits = Limits(handshake=2.0)

    def test_deadline(self) -> None:
        """The limit of the handshake is that of the hello."""
        factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            limits=self.limits,
            reads_cached=False,
        )
        transport = StringTransport()
        factory.buildProtocol(None).makeConnection(transport)
        self.clock.advance(1.9)
        self.assertFalse(transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(transport.disconnected)
