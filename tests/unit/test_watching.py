"""Tests for L{flow512.transfer.watching}: what a watcher is told, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.journal import BlockSet
from flow512.errors import WIRE_CODES, BadFrame, BadMessage, Busy, Cancelled, NotFound, Violation
from flow512.transfer.offers import GATHER_FOR
from flow512.transfer.watching import MAX_WATCHES, RUNS_AT_ONCE, Telling
from flow512.units import BLOCK, MAX_FILE_SIZE
from flow512.wire.fields import Peer
from flow512.wire.holding import Blocks, Holders, Watch, Who
from flow512.wire.messages import CAPS, Cancel, Error, Kind, Read, encode
from tests.unit.offered_files import OfferTestCase
from tests.unit.transfer_ends import ask

NOT_FOUND = WIRE_CODES[NotFound]
BUSY = WIRE_CODES[Busy]
ROOT = b"r" * 32


class TellingTests(SynchronousTestCase):
    """What one watcher is told, whatever comes when, and however it reads."""

    def check(self, runs: list[tuple[int, int]]) -> set[int]:
        """Give the blocks that one frame tells of; it has to be as the protocol has it."""
        self.assertLessEqual(len(runs), RUNS_AT_ONCE)
        told: set[int] = set()
        end = -1
        for first, count in runs:
            self.assertGreater(first, end, "runs that touch are one")
            self.assertGreater(count, 0)
            end = first + count
            told.update(range(first, end))
        return told

    @given(
        st.lists(st.integers(0, 40), max_size=20),
        st.lists(
            st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)))),
            max_size=30,
        ),
    )
    def test_everything(self, before: list[int], steps: list[list[tuple[int, int]] | None]) -> None:
        """
        Whoever reads now (C{None}) and then, while blocks come, knows them all at the end, and
        never one that is not there; and what he knows already he is not told of again.
        """
        blocks = BlockSet()
        for block in before:
            blocks.add(block)
        telling = Telling(blocks)
        known: set[int] = set()
        for step in (*steps, None):
            if step is not None:
                merged = BlockSet()
                for first, count in step:
                    for block in range(first, first + count):
                        if block not in blocks:
                            merged.add(block)
                        blocks.add(block)
                telling.came(tuple(merged.runs()))
                continue
            while (runs := telling.next_runs()) is not None:
                told = self.check(runs)
                self.assertEqual(told & known, set())
                known |= told
        self.assertEqual(known, {block for block in range(60) if block in blocks})

    def test_first_is_at_once(self) -> None:
        """Somebody who has nothing says so, once."""
        telling = Telling(BlockSet())
        self.assertEqual(telling.next_runs(), [])
        self.assertIsNone(telling.next_runs())

    def test_many_runs(self) -> None:
        """
        What does not fit in one frame comes in several; what comes meanwhile, in front or behind,
        is told of as well.
        """
        blocks = BlockSet()
        for block in range(0, 4 * RUNS_AT_ONCE, 2):
            blocks.add(block)
        telling = Telling(blocks)
        known = self.check(telling.next_runs() or [])
        self.assertEqual(known, set(range(0, 2 * RUNS_AT_ONCE, 2)))
        runs = [(1, 1), (2 * RUNS_AT_ONCE - 1, 3), (2 * RUNS_AT_ONCE + 101, 1)]
        for run in runs:
            blocks.add(*run)
        telling.came(runs)
        while (more := telling.next_runs()) is not None:
            known |= self.check(more)
        self.assertEqual(known, {block for block in range(5 * RUNS_AT_ONCE) if block in blocks})

    def test_slow_reader(self) -> None:
        """
        However much comes while somebody does not read, it is told to him in merged runs; if they
        are too many, from the beginning, and still all of it.
        """
        blocks = BlockSet()
        telling = Telling(blocks)
        self.assertEqual(telling.next_runs(), [])
        for block in range(5000):
            blocks.add(block)
            telling.came([(block, 1)])
        self.assertEqual(telling.next_runs(), [(0, 5000)])
        self.assertIsNone(telling.next_runs())
        for block in range(6000, 6000 + 6 * RUNS_AT_ONCE, 3):
            blocks.add(block)
            telling.came([(block, 1)])
        known = set()
        frames = 0
        while (runs := telling.next_runs()) is not None:
            known |= self.check(runs)
            frames += 1
        self.assertEqual(known, {block for block in range(20_000) if block in blocks})
        self.assertEqual(frames, 3)

    def test_fits(self) -> None:
        """The largest frame that may come of it is within its cap."""
        last = MAX_FILE_SIZE // BLOCK
        runs = tuple((last - index, last) for index in range(RUNS_AT_ONCE))
        self.assertLessEqual(len(encode(Blocks(runs), 1)) - 16, CAPS[Kind.BLOCKS])


class WatchTests(OfferTestCase):
    """WATCH, over a conversation."""

    def test_from_nothing_to_whole(self) -> None:
        """A watcher hears at once what there is, then what comes, and the end."""
        download = self.download(4)
        download.store(1)
        served = self.serve()
        watch = Watch(download.offer.root)
        self.assertEqual(self.ask(served, watch), [Blocks(((1, 1),))])
        download.store(3)
        self.assertEqual(self.answers(served), [])
        self.clock.advance(GATHER_FOR / 2)
        download.store(2)
        self.clock.advance(GATHER_FOR / 2)
        self.assertEqual(self.answers(served), [Blocks(((2, 2),))])
        download.store(0)
        self.clock.advance(GATHER_FOR)
        self.assertEqual(self.answers(served), [Blocks((), is_all=True)])
        self.assertEqual(self.ask(served, watch), [Blocks((), is_all=True)], "the number is free")

    def test_resumed(self) -> None:
        """What an earlier download has left is told of, and can be read."""
        before = self.download(4, begin=False)
        before.store(0, 1, 3)
        entry = before.offer.entry()
        before.offer.withdraw()
        offer = self.offers.prepare(before.partial, entry)
        offer.begin()
        served = self.serve()
        self.assertEqual(self.ask(served, Watch(offer.root)), [Blocks(((0, 2), (3, 1)))])
        self.assertEqual(self.ask(served, Read(offer.root, 512, 1), 2), [before.block(1)[:512]])

    def test_nothing_yet(self) -> None:
        """Who has no block yet says so."""
        download = self.download(2)
        self.assertEqual(self.ask(self.serve(), Watch(download.offer.root)), [Blocks(())])

    def test_whole(self) -> None:
        """A content that is shared, or has no blocks, is whole at once."""
        shared = self.shelf.put("film", b"film")
        empty = self.download(0)
        served = self.serve()
        for root in (shared, empty.offer.root):
            self.assertEqual(self.ask(served, Watch(root)), [Blocks((), is_all=True)])

    def test_unknown(self) -> None:
        """What is not here cannot be watched."""
        self.assertEqual(self.ask(self.serve(), Watch(ROOT)), [NOT_FOUND])

    def test_cancel(self) -> None:
        """A watch that is cancelled ends, at any time, and nothing more is said of it."""
        download = self.download(4)
        watch = Watch(download.offer.root)
        served = self.serve()
        served.end.say(watch, request=1)
        served.end.say(Cancel(), request=1)
        self.workers.do_all()
        self.assertEqual(self.answers(served), [WIRE_CODES[Cancelled]])
        self.ask(served, watch)
        download.store(0)
        served.end.say(Cancel(), request=1)
        self.assertEqual(self.answers(served), [WIRE_CODES[Cancelled]])
        self.clock.advance(GATHER_FOR)
        self.assertEqual(self.answers(served), [])
        served.end.say(Watch(ROOT), request=1)
        served.end.say(Cancel(), request=1)
        self.workers.do_all()
        self.assertEqual(self.answers(served), [WIRE_CODES[Cancelled]])

    def test_number_is_in_use(self) -> None:
        """A watch's number is in use until it has ended."""
        download = self.download(4)
        served = self.serve()
        self.ask(served, Watch(download.offer.root))
        served.end.say(Read(download.offer.root, 0, 1), request=1)
        ((request, told),) = served.end.heard()
        assert isinstance(told, Error)
        self.assertEqual((request, told.code), (0, WIRE_CODES[BadMessage]))

    def test_too_many(self) -> None:
        """A conversation may watch so many and no more; one that ends makes room for another."""
        download = self.download(2)
        served = self.serve()
        watch = Watch(download.offer.root)
        for request in range(1, MAX_WATCHES + 1):
            self.assertEqual(self.ask(served, watch, request), [Blocks(())])
        self.assertEqual(self.ask(served, watch, 99), [BUSY])
        self.assertEqual(self.factory.allowance.requests, MAX_WATCHES)
        served.end.say(Cancel(), request=3)
        self.assertEqual(self.answers(served, 3), [WIRE_CODES[Cancelled]])
        self.assertEqual(self.ask(served, watch, 99), [Blocks(())])
        self.assertEqual(self.ask(self.serve(), watch), [Blocks(())], "another conversation")

    def test_counted_until_its_end(self) -> None:
        """A watch counts as a request until it has ended, by itself or because it was withdrawn."""
        for end in ("whole", "withdrawn"):
            download = self.download(1, end)
            served = self.serve()
            self.ask(served, Watch(download.offer.root))
            self.assertEqual(self.factory.allowance.requests, 1)
            if end == "whole":
                download.store(0)
                self.clock.advance(GATHER_FOR)
            else:
                download.offer.withdraw()
            self.assertEqual(self.factory.allowance.requests, 0)

    def test_withdrawn(self) -> None:
        """
        When an offer is withdrawn its watches end: with the whole, if it has just become that, and
        else with an error.
        """
        for blocks, expected in (
            ((0, 1), [Blocks((), is_all=True)]),
            ((0,), [Blocks(((0, 1),)), NOT_FOUND]),
            ((), [NOT_FOUND]),
        ):
            download = self.download(2, str(blocks))
            served = self.serve()
            self.ask(served, Watch(download.offer.root))
            download.store(*blocks)
            download.offer.withdraw()
            self.assertEqual(self.answers(served), expected)
            self.assertFalse(served.end.is_closing)

    def test_withdrawn_before_it_began(self) -> None:
        """An offer that goes while a worker looks for it ends the watch."""
        download = self.download(2)
        served = self.serve()
        served.end.say(Watch(download.offer.root), request=1)
        job = self.workers.jobs.pop()
        found = job.work()
        download.offer.withdraw()
        job.result.callback(found)
        self.assertEqual(self.answers(served), [NOT_FOUND])

    def test_hung_up(self) -> None:
        """Who hangs up is told nothing more, and what comes later does no harm."""
        download = self.download(3)
        early, late = self.serve(), self.serve()
        self.ask(early, Watch(download.offer.root))
        late.end.say(Watch(download.offer.root), request=1)
        for served in (early, late):
            served.end.hang_up()
        self.workers.do_all()
        download.store(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_does_not_read(self) -> None:
        """
        While somebody does not read, he is sent nothing; when he reads again, it is all in one
        frame. The others are told meanwhile.
        """
        download = self.download(40)
        slow, quick = self.serve(room=0), self.serve()
        watch = Watch(download.offer.root)
        slow.end.say(watch, request=1)
        self.workers.do_all()
        self.ask(quick, watch)
        waiting = len(slow.end.transport.value())
        for block in range(30, 0, -1):
            download.store(block)
            self.clock.advance(GATHER_FOR)
            self.assertEqual(self.answers(quick), [Blocks(((block, 1),))])
        self.assertEqual(len(slow.end.transport.value()), waiting)
        self.assertEqual(self.answers(slow), [Blocks(())])
        self.assertEqual(self.answers(slow), [Blocks(((1, 30),))])
        download.store(*range(31, 40), 0)
        self.clock.advance(GATHER_FOR)
        self.assertEqual(self.answers(slow), [Blocks((), is_all=True)])

    def test_watched_connection_is_not_idle(self) -> None:
        """A conversation is not closed as idle while it watches, though nothing comes."""
        download = self.download(2)
        served = self.serve()
        self.ask(served, Watch(download.offer.root))
        idle = self.factory.limits.idle
        for _ in range(200):
            self.clock.advance(idle / 50)
            served.end.say_frame(Kind.PONG, 0, b"\x90")
        served.end.take()
        self.assertFalse(served.end.is_closing)


class SourceTests(SynchronousTestCase):
    """The one who watches."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.source, self.end = ask(self.clock)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.end.hang_up)
        self.told: list[Blocks] = []

    def test_told(self) -> None:
        """All that comes is passed on, and the result fires when the source has all."""
        result = self.source.watch(ROOT, self.told.append)
        self.assertEqual(self.end.heard(), [(1, Watch(ROOT))])
        frames = [Blocks(()), Blocks(((1, 2), (3, 1))), Blocks(((0, 1),), is_all=True)]
        for frame in frames:
            self.assertNoResult(result)
            self.end.say(frame, request=1)
        self.assertEqual(self.told, frames)
        self.assertIsNone(self.successResultOf(result))
        self.end.say(Blocks(()), request=1)
        self.assertFalse(self.source.is_open, "the request had ended")

    def test_cancelled(self) -> None:
        """A watch that is cancelled is told so, and what comes until its end is ignored."""
        result = self.source.watch(ROOT, self.told.append)
        self.end.take()
        result.addErrback(lambda _: None)
        result.cancel()
        self.assertEqual(self.end.heard(), [(1, Cancel())])
        self.end.say(Blocks(((0, 1),)), request=1)
        self.end.say(Blocks((), is_all=True), request=1)
        self.assertEqual(self.told, [])
        self.assertTrue(self.source.is_open)

    def test_cancelled_when_told(self) -> None:
        """Who has heard enough may cancel at once."""
        result = self.source.watch(ROOT, lambda _: result.cancel())
        result.addErrback(lambda _: None)
        self.end.take()
        self.end.say(Blocks((), is_all=True), request=1)
        self.assertTrue(self.source.is_open)

    def test_failed(self) -> None:
        """A watch that the source refuses, or ends, fails."""
        result = self.source.watch(ROOT, self.told.append)
        self.end.say(Error(NOT_FOUND, "Not here."), request=1)
        self.failureResultOf(result, NotFound)

    def test_nonsense(self) -> None:
        """Runs out of order, or something else than BLOCKS, end the conversation."""
        wrong = [Blocks(((3, 1), (1, 1))), Blocks(((1, 3), (2, 1))), Holders(())]
        for message in wrong:
            source, end = ask(self.clock)
            result = source.watch(ROOT, self.told.append)
            end.say(message, request=1)
            self.failureResultOf(result, Violation, BadFrame)
            self.assertFalse(source.is_open)
            end.hang_up()
        self.assertEqual(self.told, [])

    def test_who(self) -> None:
        """Who holds a content is asked, and told."""
        peers = (Peer(b"p" * 32, "ann", "10.0.0.3", 5000),)
        result = self.source.who(ROOT)
        self.assertEqual(self.end.heard(), [(1, Who(ROOT))])
        self.end.say(Holders(peers), request=1)
        self.assertEqual(self.successResultOf(result), peers)
