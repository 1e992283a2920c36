"""Tests for L{flow512.transfer.reading}: what is read without workers."""

from __future__ import annotations

from flow512.content.access import ALLOW_FILE
from flow512.errors import WIRE_CODES, ContentChanged, NotFound
from flow512.limits import Limits
from flow512.link.rate import MOST_RATE
from flow512.transfer.reading import LOOK_HOLDS, MISS_HOLDS, READ_BLOCKS
from flow512.units import BLOCK, PIECES_PER_BLOCK
from flow512.wire.messages import Cancel, Error, Kind, Message, Read
from tests.unit.test_transfer_limits import LimitedTestCase
from tests.unit.transfer_ends import FullTransport, LendingTransport, Served, message_in

BLOCKS = 28


class AtOnceTestCase(LimitedTestCase):
    """One file of L{BLOCKS} blocks and a few bytes, all of it in the system's memory."""

    reads_cached = True

    def setUp(self) -> None:
        super().setUp()
        self.root, self.content = self.put("one", BLOCKS * BLOCK + 77)
        self.shelf.is_cached = lambda offset: True
        self.got: dict[int, bytes] = {}

    def ask(self, served: Served, request: int = 1, root: bytes | None = None) -> None:
        """Ask for all of a file."""
        read = Read(root or self.root, 0, BLOCKS * PIECES_PER_BLOCK + 1, 2048)
        served.end.say(read, request=request)

    def take(self, served: Served) -> list[Message]:
        """Take what has come: data is kept by its request, other messages are returned."""
        others = []
        for frame in served.end.take():
            if frame.kind == Kind.DATA:
                self.got[frame.request] = self.got.get(frame.request, b"") + bytes(frame.body)
            else:
                others.append(message_in(frame))
        return others

    def begin(self, served: Served, request: int = 1) -> None:
        """Ask for all of the file, and let a worker open it."""
        self.ask(served, request)
        self.workers.do()

    def forbidden(self) -> Served:
        """Somebody who reads what he may not see any more."""
        served = self.join(room=1000)
        self.begin(served)
        self.clock.advance(0)
        self.take(served)
        (self.shelf.folder / ALLOW_FILE).write_text("")
        return served

    def turn(self) -> None:
        """Let the reactor do what is due, and nothing of what comes of that."""
        for call in self.clock.getDelayedCalls():
            if call.getTime() <= self.clock.seconds():
                func, args = call.func, call.args  # type: ignore[attr-defined]  # of a Clock's
                call.cancel()
                func(*args)

    def go_on(self, served: Served, request: int = 1) -> None:
        """Let all of the file come, and make sure that no worker was needed."""
        for _ in range(3 * BLOCKS):
            self.clock.advance(0)
            self.assertEqual(self.workers.jobs, [])
            self.assertEqual(self.take(served), [])
        self.assertEqual(self.got[request], self.content)
        self.assertEqual(self.factory.allowance.requests, 0)


class AtOnceTests(AtOnceTestCase):
    """What is read at once, and what is left to workers."""

    def test_all_of_it(self) -> None:
        """Once a worker has opened a file, the system's memory is all that is needed."""
        for kind in (FullTransport, LendingTransport):
            served = self.join(kind=kind)
            self.begin(served)
            self.go_on(served)
            self.ask(served, 2)  # the file is open now
            self.go_on(served, 2)
            self.got.clear()

    def test_in_turns(self) -> None:
        """However fast one takes it, others have their turn after a megabyte."""
        served = self.join()
        self.begin(served)
        for turn in range(1, 5):
            self.assertEqual(self.shelf.bytes_read, turn * READ_BLOCKS * BLOCK)
            self.take(served)
            self.turn()
        self.go_on(served)

    def test_many_that_end_in_later_turns(self) -> None:
        """Each request has ended for all others, too, once its last data was written."""
        served = self.join()
        for request in range(1, 33):
            served.end.say(Read(self.root, 0, PIECES_PER_BLOCK, 512), request=request)
        self.workers.do()
        for _ in range(32):
            self.clock.advance(0)
        self.assertEqual(self.take(served), [])
        self.assertEqual((len(self.got), self.factory.allowance.requests), (32, 0))

    def test_no_more_than_is_taken(self) -> None:
        """A transport that is full stops it; no block is read ahead."""
        for kind in (FullTransport, LendingTransport):
            self.shelf.bytes_read = 0
            served = self.join(room=1000, kind=kind)
            self.begin(served)
            for turn in range(1, 5):
                for _ in range(3):
                    self.clock.advance(0)
                self.assertEqual(self.shelf.bytes_read, turn * READ_BLOCKS * BLOCK)
                self.take(served)

    def test_where_it_is_not(self) -> None:
        """What is not in memory a worker reads; for a while it is not even tried."""
        tried: list[int] = []

        def is_cached(offset: int) -> bool:
            tried.append(offset)
            return offset != 2 * READ_BLOCKS * BLOCK

        self.shelf.is_cached = is_cached
        served = self.join(room=1000)
        self.begin(served)
        for _ in range(3):
            self.clock.advance(0)
            self.take(served)
        self.assertEqual(tried, [at * READ_BLOCKS * BLOCK for at in range(3)])
        self.workers.do()
        self.take(served)
        self.assertEqual((len(tried), len(self.workers.jobs)), (3, 1))
        self.workers.do()
        self.clock.advance(MISS_HOLDS)
        for _ in range(2):  # one reads ahead, one looks who may see it
            self.workers.do()
            self.take(served)
        self.go_on(served)
        self.assertGreater(len(tried), 3)

    def test_never_there(self) -> None:
        """A file of which nothing is in memory comes all the same, at one try for each while."""
        tried: list[int] = []
        self.shelf.is_cached = lambda offset: bool(tried.append(offset))
        served = self.join(room=BLOCK)
        self.begin(served)
        for _ in range(BLOCKS):
            self.clock.advance(MISS_HOLDS / 2)
            self.workers.do_all()
            self.assertEqual(self.take(served), [])
        self.assertEqual(self.got[1], self.content)
        self.assertLessEqual(len(tried), BLOCKS // 2 + 1)

    def test_looked_at_again(self) -> None:
        """Now and then a worker looks who may see the file; then it goes on at once."""
        served = self.join(room=1000)
        self.begin(served)
        for _ in range(2):
            self.clock.advance(LOOK_HOLDS)
            self.take(served)
            self.workers.do()
            self.take(served)
            self.assertEqual(self.workers.jobs, [])
        self.go_on(served)

    def test_taken_away(self) -> None:
        """Whoever may not see a file any more is sent none of it after the next look."""
        served = self.forbidden()
        self.ask(served, 2)
        self.clock.advance(LOOK_HOLDS)
        told: list[Message] = []
        for _ in range(10):
            told += self.take(served)
            self.workers.do_all()
        codes = [each.code for each in told if isinstance(each, Error)]
        self.assertEqual(codes, 2 * [WIRE_CODES[NotFound]])
        read = self.shelf.bytes_read
        self.ask(served, 3)
        for _ in range(10):
            self.clock.advance(0)
            self.workers.do_all()
        [told_last] = self.take(served)
        self.assertEqual(getattr(told_last, "code", 0), WIRE_CODES[NotFound])
        self.assertEqual(self.shelf.bytes_read, read)

    def test_found_out_early(self) -> None:
        """A worker that may not read any more ends what is read at once, too."""
        served = self.forbidden()
        self.shelf.is_cached = lambda offset: False
        self.ask(served, 2)
        for _ in range(4):
            self.take(served)
            self.workers.do_all()
        self.shelf.is_cached = lambda offset: True
        self.clock.advance(MISS_HOLDS)
        read = self.shelf.bytes_read
        self.ask(served, 3)
        self.clock.advance(0)
        self.workers.do_all()
        [error] = self.take(served)
        self.assertEqual(getattr(error, "code", 0), WIRE_CODES[NotFound])
        self.assertEqual(self.shelf.bytes_read, read)

    def test_found_out_while_a_look_holds(self) -> None:
        """Nor is more read at once because another look, a moment before, found that it may be."""
        served = self.join(room=1000)
        self.shelf.is_cached = lambda offset: False
        self.begin(served)
        self.clock.advance(MISS_HOLDS - 0.1)
        for _ in range(4):  # of which the last looks have begun just now
            self.workers.do()
            self.take(served)
        (self.shelf.folder / ALLOW_FILE).write_text("")
        self.workers.do()
        self.take(served)
        self.shelf.is_cached = lambda offset: True
        self.clock.advance(0.1)
        read = self.shelf.bytes_read
        self.ask(served, 3)
        self.clock.advance(0)
        self.assertEqual(self.shelf.bytes_read, read)
        self.workers.do_all()
        [error] = self.take(served)
        self.assertEqual(getattr(error, "code", 0), WIRE_CODES[NotFound])

    def test_changed(self) -> None:
        """Of a file that has changed nothing more is sent."""
        served = self.join(room=1000)
        self.begin(served)
        self.clock.advance(0)
        self.take(served)
        (self.shelf.folder / "one").write_bytes(bytes(len(self.content)))
        self.workers.do_all()
        before = self.got[1]
        self.assertEqual(before, self.content[: len(before)])
        self.clock.advance(0)
        told: list[Message] = []
        for _ in range(5):
            told += self.take(served)
            self.workers.do_all()
        [error] = told
        self.assertEqual(getattr(error, "code", 0), WIRE_CODES[ContentChanged])
        self.assertEqual(self.got[1], self.content[: len(self.got[1])])

    def test_gone_meanwhile(self) -> None:
        """A client that is gone, or has cancelled, is read nothing for."""
        gone, cancelling = self.join(), self.join()
        for served in (gone, cancelling):
            self.begin(served)
        read = self.shelf.bytes_read
        gone.end.hang_up()
        cancelling.end.say(Cancel(), request=1)
        self.workers.do_all()
        self.clock.advance(0)
        self.assertEqual(self.shelf.bytes_read, read)

    def test_limited(self) -> None:
        """What is read at once keeps the limit."""
        self.factory.up.limit(10 * BLOCK)
        served = self.join()
        self.begin(served)
        for _ in range(10):
            self.clock.advance(0.1)
            self.assertEqual(self.take(served), [])
            self.assertEqual(self.workers.jobs[1:], [])
            self.workers.do_all()
        self.assertLess(len(self.got[1]), 13 * BLOCK)
        self.factory.up.limit(MOST_RATE)
        for _ in range(BLOCKS):
            self.clock.advance(0.1)
            self.workers.do_all()
            self.take(served)
        self.assertEqual(self.got[1], self.content)


class CrowdedTests(AtOnceTestCase):
    """Many who want it, and little memory."""

    limits = Limits(buffered=16 * BLOCK)

    def test_all_are_served(self) -> None:
        """Each has the whole in the end, and nobody more memory than there is."""
        crowd = [
            self.join(room=self.random.choice([1000, BLOCK, 1 << 40]), kind=kind)
            for kind in (FullTransport, LendingTransport)
            for _ in range(10)
        ]
        for number, served in enumerate(crowd, 1):
            self.ask(served, number)
        self.shelf.is_cached = lambda offset: self.random.random() < 0.8
        memory = self.factory.allowance.memory
        for _ in range(400):
            self.clock.advance(self.random.choice([0, 0.01]))
            if self.workers.jobs:
                self.workers.do(self.random.randrange(len(self.workers.jobs)))
            self.assertLessEqual(memory.held, 16 * BLOCK)
            self.assertEqual(self.take(self.random.choice(crowd)), [])
        for _ in range(2000):
            self.clock.advance(0.01)
            self.workers.do_all()
            for served in crowd:
                self.assertEqual(self.take(served), [])
            if len(self.got) == len(crowd) and all(
                len(got) == len(self.content) for got in self.got.values()
            ):
                break
        self.assertEqual(set(self.got), set(range(1, len(crowd) + 1)))
        for got in self.got.values():
            self.assertEqual(got, self.content)
