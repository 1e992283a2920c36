"""Tests for L{flow512.transfer.swarm}, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import Tree, TreeBuilder, TreeVerifier
from flow512.errors import (
    BadDigest,
    Busy,
    ContentChanged,
    Flow512Error,
    Misuse,
    NotFound,
    PeerLost,
    SourceFailure,
    TimedOut,
    Unsupported,
)
from flow512.transfer import masks
from flow512.transfer.actions import Action, AskBlocks, AskPage, CheckBlocks, Drop, TakeBack
from flow512.transfer.endgame import ask_again
from flow512.transfer.pace import FIRST_WINDOW, MAX_REST, MIN_REST, WINDOW, Request, Source
from flow512.transfer.swarm import BLOCKS_PER_READ, CHOICE, LATE, STRIKES, Swarm
from flow512.transfer.wanted import OPEN_PAGES, Wanted
from flow512.units import BLOCK, DIGESTS_PER_PAGE

Runs = list[tuple[int, int]]


@lru_cache(maxsize=8)
def tree_of(blocks: int) -> Tree:
    """Make the tree of a file of so many blocks, the last one short."""
    builder = TreeBuilder()
    builder.add_many(b"".join(number.to_bytes(32, "big") for number in range(blocks)))
    return builder.finish(max(0, blocks * BLOCK - 7))


def runs_of(numbers: Iterable[int]) -> Runs:
    """Make runs of numbers."""
    runs: Runs = []
    for number in sorted(numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


@dataclass
class Model:
    """
    A swarm, and what has to be true of it: carries out its actions by the rules, and checks that
    it keeps to them.

    @ivar asked: for each source, the blocks of each request that it has to deliver.
    @ivar spans: the blocks of each request that there ever was.
    @ivar log: all actions so far.
    """

    test: SynchronousTestCase
    blocks: int
    missing: set[int]
    unproven: set[int] = field(default_factory=set)
    window: int = WINDOW
    in_order: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        self.now = 100.0
        self.tree = tree_of(self.blocks)
        self.verifier = TreeVerifier(self.tree.root, self.tree.shape.size)
        self.swarm = Swarm(
            self.verifier,
            runs_of(self.missing),
            runs_of(self.unproven),
            clock=lambda: self.now,
            random=Random(self.seed),
            window=self.window,
            in_order=self.in_order,
        )
        self.have: dict[int, set[int] | None] = {}
        self.asked: dict[int, dict[int, list[int]]] = {}
        self.pages: list[AskPage] = []
        self.checking: list[CheckBlocks] = []
        self.arrived: list[tuple[int, int]] = []
        self.stored: set[int] = set()
        self.dropped: dict[int, Flow512Error] = {}
        self.log: list[Action] = []
        self.taken_back = 0
        self.spans: dict[int, set[int]] = {}

    def join(self, have: Iterable[int] | None = None, patience: float = 60.0) -> int:
        """Let a source join."""
        known = None if have is None else set(have)
        number = self.swarm.join(None if known is None else runs_of(known), patience)
        self.have[number] = known
        self.asked[number] = {}
        return number

    def has(self, source: int, more: Iterable[int]) -> None:
        """A partial source has more."""
        known = self.have[source]
        assert known is not None
        known |= set(more)
        self.swarm.has(source, runs_of(known))

    def outstanding(self) -> list[int]:
        """Every block that is asked for, as often as it is."""
        return [
            block for each in self.asked.values() for blocks in each.values() for block in blocks
        ]

    def asked_of(self, source: int) -> list[int]:
        """The blocks that a source has to deliver."""
        return [block for blocks in self.asked[source].values() for block in blocks]

    def held(self) -> int:
        """What the window bounds."""
        checking = sum(each.count for each in self.checking)
        return len(self.outstanding()) + len(self.arrived) + checking

    def act(self) -> list[Action]:
        """Carry out all that is to do now."""
        done: list[Action] = []
        while (action := self.swarm.next_action()) is not None:
            done.append(action)
            self.log.append(action)
            self.carry_out(action)
        return done

    def carry_out(self, action: Action) -> None:
        """Carry out one action, and see whether it is allowed."""
        test = self.test
        if isinstance(action, AskPage):
            test.assertNotIn(action, self.pages)
            test.assertNotIn(action.source, self.dropped)
            self.pages.append(action)
        elif isinstance(action, Drop):
            self.dropped[action.source] = action.reason
            self.asked[action.source].clear()
            self.pages = [each for each in self.pages if each.source != action.source]
        elif isinstance(action, TakeBack):
            left = self.asked[action.source].pop(action.request)
            self.taken_back += len(left)
        else:
            numbers = range(action.first, action.first + action.count)
            test.assertEqual(numbers[0] // DIGESTS_PER_PAGE, numbers[-1] // DIGESTS_PER_PAGE)
            test.assertLessEqual(len(numbers), BLOCKS_PER_READ)
            test.assertTrue(set(numbers) <= self.missing - self.stored)
            for number in numbers:
                test.assertIsNotNone(self.verifier.expects(number))
            if isinstance(action, CheckBlocks):
                test.assertTrue(set(numbers) <= self.unproven)
                self.unproven -= set(numbers)
                self.checking.append(action)
            else:
                self.ask(action, numbers)
            test.assertLessEqual(self.held(), self.window)

    def ask(self, action: AskBlocks, numbers: range) -> None:
        """Ask for blocks."""
        test = self.test
        test.assertNotIn(action.source, self.dropped)
        have = self.have[action.source]
        test.assertTrue(have is None or set(numbers) <= have)
        test.assertFalse(set(numbers) & self.unproven)
        test.assertFalse(set(numbers) & {block for _, block in self.arrived})
        before = self.outstanding()
        for number in numbers:
            test.assertLess(before.count(number), 2)
        theirs = self.asked[action.source]
        test.assertFalse({block for each in theirs.values() for block in each} & set(numbers))
        test.assertNotIn(action.request, theirs)
        theirs[action.request] = list(numbers)
        self.spans[action.request] = set(numbers)

    # What the world does

    def give_pages(self) -> None:
        """Give every page that was asked for."""
        while self.pages:
            page = self.pages.pop(0)
            self.give_page(page)

    def give_page(self, page: AskPage) -> None:
        """Give a page."""
        data = self.tree.page(page.level, page.index)
        self.swarm.page_came(page.source, page.level, page.index, data)

    def deliver(self, source: int, together: int = 1) -> int | None:
        """Let a source deliver the next block that it was asked for, or so many in a row."""
        for request, blocks in self.asked[source].items():
            came = [blocks.pop(0)]
            while blocks and len(came) < together and blocks[0] == came[-1] + 1:
                came.append(blocks.pop(0))
            if not blocks:
                del self.asked[source][request]
            for block in self.swarm.arrived(source, came):
                self.arrived.append((source, block))
                for other in self.asked.values():
                    for left in other.values():
                        if block in left:
                            left.remove(block)
            if not blocks:
                self.swarm.ended(source, request)
            return came[0]
        return None

    def store(self, is_right: Callable[[int, int], bool] = lambda source, block: True) -> None:
        """Judge and store all that has arrived."""
        arrived, self.arrived = self.arrived, []
        for source, block in arrived:
            if is_right(source, block):
                self.test.assertNotIn(block, self.stored)
                self.stored.add(block)
                self.swarm.stored([block])
            else:
                self.swarm.wrong(source, block)

    def check(self, wrong: Callable[[int], bool] = lambda block: False) -> None:
        """Look at all blocks that are to be checked."""
        checking, self.checking = self.checking, []
        for each in checking:
            numbers = range(each.first, each.first + each.count)
            bad = [number for number in numbers if wrong(number)]
            self.swarm.not_there(bad)
            self.stored |= set(numbers) - set(bad)
            self.swarm.stored(set(numbers) - set(bad))

    def ready(self) -> list[Action]:
        """Act until no page is waited for."""
        done = self.act()
        while self.pages:
            self.give_pages()
            done += self.act()
        return done

    def work(self, *sources: int, seconds: float = 0.0, turns: int = 1) -> list[Action]:
        """Let each of these deliver one block, at once or one after the other, and store it."""
        done: list[Action] = []
        for _ in range(turns):
            self.now += seconds
            for source in sources:
                self.deliver(source)
                done += self.act()
            self.store()
            done += self.ready()
        return done

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass."""
        self.now += seconds
        self.swarm.tick()
        return self.ready()


def asks(actions: Iterable[Action], source: int | None = None) -> list[int]:
    """The blocks that are asked for in actions."""
    return [
        block
        for each in actions
        if isinstance(each, AskBlocks) and source in (None, each.source)
        for block in range(each.first, each.first + each.count)
    ]


class OneSourceTests(SynchronousTestCase):
    """A swarm of one complete source."""

    def model(self, blocks: int, **more: Any) -> Model:
        """Make one whose source is number 1."""
        model = Model(self, blocks, set(range(blocks)), **more)
        model.join()
        return model

    def test_in_order(self) -> None:
        """It is asked for everything once, in order, eight blocks at a time, a window at once."""
        model = self.model(1300)
        model.ready()
        first = WINDOW // 8
        self.assertEqual([len(asks([each])) for each in model.log[-first:]], [8] * first)
        while not model.swarm.is_done:
            self.assertEqual(model.held(), min(WINDOW, 1300 - len(model.stored)))
            for _ in range(8):
                model.deliver(1)
            model.store()
            model.ready()
        self.assertEqual(asks(model.log), list(range(1300)))
        self.assertIsNone(model.swarm.next_action())

    def test_enough_room(self) -> None:
        """While blocks are being stored nothing is asked for before there is room for eight."""
        model = self.model(1300)
        model.ready()
        for blocks in (4, 3):
            for _ in range(blocks):
                model.deliver(1)
                self.assertEqual(model.act(), [])
            model.store()
            model.deliver(1)
            asked = [len(asks([each])) for each in model.act()]
            self.assertEqual(asked, [] if blocks == 4 else [8])
        # Nothing is being stored here, so nothing is waited for.
        model.store()
        self.assertEqual([len(asks([each])) for each in model.act()], [1])

    def test_small_window(self) -> None:
        """It comes to its end with any window, however many are stored at once."""
        for window in (1, 2, 3, 4, 7, 32, 512):
            for at_once in (1, 2, 5):
                model = self.model(60, window=window)
                model.ready()
                for _ in range(200):
                    for _ in range(at_once):
                        model.deliver(1)
                        model.ready()
                    model.store()
                    model.ready()
                self.assertTrue(model.swarm.is_done)
                self.assertEqual(sorted(asks(model.log)), list(range(60)))

    def test_nothing_to_do(self) -> None:
        """Where nothing is missing, nothing is asked for."""
        model = Model(self, 10, set())
        model.join()
        self.assertEqual(model.act(), [])
        self.assertTrue(model.swarm.is_done)

    def test_memory_of_pages(self) -> None:
        """However large the file, at most three pages of its blocks are held."""
        model = self.model(6000)
        most = 0
        model.ready()
        while not model.swarm.is_done:
            for _ in range(8):
                model.deliver(1)
            model.store()
            model.ready()
            most = max(most, sum(level == 0 for level, _ in model.verifier._pages))
        self.assertLessEqual(most, 3)
        self.assertEqual([page for page in model.verifier._pages if not page[0]], [])

    def test_next_page_is_asked_for_ahead(self) -> None:
        """Half a page before its blocks are needed, the next page is asked for."""
        model = self.model(1024, window=512)
        swarm = model.swarm
        for level, index in ((1, 0), (0, 0)):
            page = swarm.next_action()
            assert isinstance(page, AskPage)
            self.assertEqual((page.level, page.index), (level, index))
            self.assertIsNone(swarm.next_action())
            model.give_page(page)
        for first in range(0, 256, 8):
            self.assertEqual(asks([swarm.next_action()]), list(range(first, first + 8)))
        self.assertEqual(swarm.next_action(), AskPage(1, 0, 1))
        self.assertEqual(asks([swarm.next_action()]), list(range(256, 264)))

    def test_millions_of_blocks(self) -> None:
        """A file of a tebibyte costs no more to begin with, or to go on with, than a small one."""
        blocks = 4 << 20
        verifier = TreeVerifier(b"r" * 32, blocks * BLOCK)
        swarm = Swarm(verifier, [(0, blocks)], clock=lambda: 0.0, random=Random(1))
        source = swarm.join()
        partial = swarm.join([(5, blocks // 2)])
        swarm.has(partial, [(0, 1 << 50)])
        self.assertIsInstance(swarm.next_action(), AskPage)
        self.assertIsNone(swarm.next_action())
        self.assertLessEqual(len(swarm._wanted.pages), 2)
        swarm.leave(source, PeerLost("gone"))
        self.assertIsInstance(swarm.next_action(), Drop)

    def test_window_limits(self) -> None:
        """A window has 1 to 512 blocks."""
        for window in (0, 513):
            with self.assertRaises(Misuse):
                self.model(1, window=window)

    def test_checks(self) -> None:
        """What may be here is looked at before it is asked for, without any source."""
        model = Model(self, 30, set(range(30)), set(range(4, 20)))
        source = model.join()
        actions = model.ready()
        checked = [each for each in actions if isinstance(each, CheckBlocks)]
        self.assertEqual(checked, [CheckBlocks(4, 8), CheckBlocks(12, 8)])
        self.assertEqual(asks(actions), [*range(4), *range(20, 28)])
        model.check(lambda block: block == 7)
        self.assertEqual(asks(model.act()), [7, 28, 29])
        model.work(source, turns=30)
        self.assertTrue(model.swarm.is_done)

    def test_alone_and_slow(self) -> None:
        """From the only source nothing is taken back as long as anything comes of it."""
        model = self.model(100)
        model.ready()
        for _ in range(20):
            self.assertEqual(model.wait(50.0), [])
            model.swarm.heard(1)
        self.assertEqual(model.held(), WINDOW)

    def test_alone_and_silent(self) -> None:
        """The only source is left out when it has been silent for as long as it may be."""
        model = self.model(100)
        model.ready()
        self.assertEqual(model.wait(59.0), [])
        (drop,) = model.wait(2.0)
        assert isinstance(drop, Drop)
        self.assertIsInstance(drop.reason, TimedOut)
        self.assertEqual(model.swarm.sources, 0)
        self.assertTrue(model.swarm.needs_sources)
        self.assertFalse(model.swarm.is_waiting)

    def test_one_that_owes_nothing_is_not_silent(self) -> None:
        """A source that has delivered what it was asked for may be silent, however long."""
        model = self.model(10)
        model.ready()
        for _ in range(10):
            model.deliver(1)
        self.assertEqual(model.wait(1000.0), [])
        model.store()
        self.assertTrue(model.swarm.is_done)


class FailureTests(SynchronousTestCase):
    """Sources that fail, refuse or lie."""

    def two(self, blocks: int = 100, **more: Any) -> Model:
        """Make a swarm with two complete sources."""
        model = Model(self, blocks, set(range(blocks)), **more)
        model.join()
        model.join()
        model.ready()
        return model

    def test_work_goes_to_the_others(self) -> None:
        """What a source was asked for that fails, another is asked for."""
        for error in (PeerLost("gone"), ContentChanged("changed"), NotFound("none")):
            model = self.two()
            theirs = sorted(model.asked_of(1))
            self.assertTrue(theirs)
            (request, *_) = model.asked[1]
            model.swarm.refused(1, request, error)
            actions = model.ready()
            self.assertEqual(actions[0], Drop(1, error))
            model.work(2, turns=100)
            self.assertTrue(model.swarm.is_done)
            self.assertTrue(set(theirs) <= set(asks(model.log, 2)))

    def test_liar(self) -> None:
        """Who sends a wrong block is left out; the block comes from another, the rest is kept."""
        model = self.two()
        lie = model.deliver(1)
        right = model.deliver(1)
        model.store(lambda source, block: block != lie)
        (drop, *_) = model.ready()
        assert isinstance(drop, Drop)
        self.assertEqual(drop.source, 1)
        self.assertIsInstance(drop.reason, BadDigest)
        self.assertIn(f"damaged block {lie};", str(drop.reason))
        self.assertIn(right, model.stored)
        model.work(2, turns=110)
        self.assertTrue(model.swarm.is_done)
        self.assertEqual(asks(model.log, 2).count(lie), 1)

    def test_block_of_one_who_is_gone(self) -> None:
        """A wrong block of a source that was left out already is asked for again."""
        model = self.two()
        lie = model.deliver(1)
        model.swarm.leave(1, PeerLost("gone"))
        model.store(lambda source, block: block != lie)
        model.ready()
        self.assertEqual(list(model.dropped), [1])
        self.assertIsInstance(model.dropped[1], PeerLost)
        model.work(2, turns=110)
        self.assertTrue(model.swarm.is_done)

    def test_what_comes_of_one_who_is_left_out(self) -> None:
        """Whatever is told of a source that was left out is ignored."""
        model = self.two()
        model.swarm.leave(1, PeerLost("gone"))
        model.ready()
        held = model.held()
        swarm = model.swarm
        self.assertEqual(swarm.arrived(1, [0]), [])
        swarm.heard(1)
        swarm.has(1, [(0, 5)])
        swarm.has_all(1)
        swarm.page_came(1, 0, 0, b"")
        swarm.page_refused(1, 0, 0, NotFound("none"))
        swarm.refused(1, 0, NotFound("none"))
        swarm.ended(1, 0)
        swarm.leave(1, PeerLost("again"))
        self.assertEqual((model.act(), model.held()), ([], held))

    def test_wrong_page(self) -> None:
        """Who sends a wrong page is left out, and another is asked for it."""
        for data in (b"", bytes(100 * 32)):
            model = Model(self, 100, set(range(100)))
            model.join()
            model.join()
            (page,) = model.act()
            assert isinstance(page, AskPage)
            model.pages.clear()
            model.swarm.page_came(page.source, 0, 0, data)
            drop, again = model.act()
            assert isinstance(drop, Drop)
            self.assertEqual((drop.source, again), (page.source, AskPage(3 - page.source, 0, 0)))

    def test_page_that_nobody_asked_for(self) -> None:
        """A page that was not asked for is not even looked at."""
        model = self.two()
        model.swarm.page_came(1, 0, 0, b"nonsense")
        self.assertEqual(model.act(), [])

    def test_source_without_pages(self) -> None:
        """Who cannot give pages is asked for blocks, as soon as another has given the page."""
        for error in (Unsupported("no pages"), NotFound("no such page")):
            model = Model(self, 1000, set(range(1000)))
            model.join()
            model.join()
            (page,) = model.act()
            assert isinstance(page, AskPage)
            model.pages.clear()
            model.swarm.page_refused(page.source, page.level, page.index, error)
            self.assertEqual(model.act(), [AskPage(3 - page.source, page.level, page.index)])
            model.ready()
            self.assertTrue(model.asked[page.source])
            self.assertEqual(model.dropped, {})

    def test_nobody_has_pages(self) -> None:
        """If no source has a page that is needed, the last word of each is why it is left out."""
        model = Model(self, 10, set(range(10)))
        model.join()
        model.act()
        model.swarm.page_refused(1, 0, 0, NotFound("none"))
        self.assertEqual([type(each) for each in model.act()], [Drop])

    def test_partial_source_has_a_page_later(self) -> None:
        """A partial source without a page is asked for it again when it has more blocks."""
        model = Model(self, 10, set(range(10)))
        model.join([0])
        self.assertEqual(model.act(), [AskPage(1, 0, 0)])
        model.pages.clear()
        model.swarm.page_refused(1, 0, 0, NotFound("none yet"))
        self.assertEqual(model.wait(5.0), [])
        model.has(1, [1])
        self.assertEqual(model.act(), [AskPage(1, 0, 0)])
        model.pages.clear()
        model.swarm.page_refused(1, 0, 0, NotFound("none yet"))
        model.have[1] = None
        model.swarm.has_all(1)
        self.assertEqual(len(asks(model.ready())), 10)

    def test_failing_page(self) -> None:
        """Who fails when it is asked for a page is left out."""
        model = Model(self, 10, set(range(10)))
        model.join()
        model.act()
        model.swarm.page_refused(1, 0, 0, PeerLost("gone"))
        self.assertEqual([type(each) for each in model.act()], [Drop])

    def test_busy(self) -> None:
        """A busy source is left in peace for as long as it says, and then asked again."""
        model = Model(self, 10, set(range(10)))
        model.join()
        model.act()
        model.pages.clear()
        model.swarm.page_refused(1, 0, 0, Busy("later", 10.0))
        self.assertEqual(model.wait(9.0), [])
        self.assertTrue(model.swarm.is_waiting)
        actions = model.wait(2.0)
        self.assertEqual(actions[0], AskPage(1, 0, 0))
        requests = list(model.asked[1])
        model.asked[1].clear()
        for request in requests:
            model.swarm.refused(1, request, Busy("later", 5000.0))
        self.assertEqual(model.wait(MAX_REST - 1), [])
        self.assertEqual(len(asks(model.wait(2.0))), 10)

    def test_always_busy(self) -> None:
        """A source that is always busy is left out in the end."""
        model = Model(self, 8, set(range(8)))
        model.join()
        model.ready()
        for _ in range(STRIKES - 1):
            ((request, _),) = model.asked[1].items()
            model.asked[1].clear()
            model.swarm.refused(1, request, Busy("later", 1.0))
            self.assertEqual(len(asks(model.wait(MAX_REST + 1))), 8)
        (request,) = model.asked[1]
        model.swarm.refused(1, request, Busy("later", 1.0))
        self.assertEqual([type(each) for each in model.act()], [Drop])

    def test_rests(self) -> None:
        """Each time that it refuses it is left in peace for twice as long, until it delivers."""
        model = Model(self, 8, set(range(8)))
        model.join()
        model.ready()

        def refuse() -> None:
            (request,) = model.asked[1]
            model.asked[1].clear()
            model.swarm.refused(1, request, Busy("later"))

        for rest in (MIN_REST, 2 * MIN_REST):
            refuse()
            self.assertEqual(asks(model.wait(rest - 0.1)), [])
            self.assertNotEqual(asks(model.wait(0.1)), [])
        model.work(1)
        refuse()
        self.assertNotEqual(asks(model.wait(MIN_REST)), [])

    def test_partial_source_that_has_it_not(self) -> None:
        """A partial source that has not what it told of is not asked for that again."""
        model = Model(self, 16, set(range(16)))
        model.join(range(8))
        model.join(range(8, 16))
        model.ready()
        ((request, blocks), *_) = model.asked[1].items()
        del model.asked[1][request]
        model.have[1] = set(range(8)) - set(blocks)
        model.swarm.refused(1, request, NotFound("none"))
        model.wait(MAX_REST + 1)
        model.work(1, 2, turns=16)
        self.assertEqual(model.missing - model.stored, set(blocks))
        self.assertEqual(model.dropped, {})

    def test_request_that_ends_early(self) -> None:
        """A source that says it is done, and has not sent everything, is left out."""
        model = self.two()
        (request, *_) = model.asked[1]
        model.swarm.ended(1, request)
        (drop, *_) = model.act()
        assert isinstance(drop, Drop)
        self.assertIsInstance(drop.reason, SourceFailure)


class PaceTests(SynchronousTestCase):
    """Fast sources, slow ones, and those that are silent."""

    def test_starts_small_and_grows(self) -> None:
        """Of several sources each begins with a few blocks; a fast one gets the most soon."""
        model = Model(self, 2000, set(range(2000)))
        slow, fast = model.join(), model.join()
        model.ready()
        for source in (slow, fast):
            self.assertLessEqual(len(model.asked_of(source)), FIRST_WINDOW)
        for turn in range(1200):
            model.work(fast, seconds=0.01)
            if turn % 100 == 99:
                model.work(slow)
            model.swarm.tick()
        self.assertGreater(len(model.asked_of(fast)), WINDOW // 2)
        self.assertLessEqual(len(model.asked_of(slow)), 4)
        self.assertEqual(model.dropped, {})

    def test_several_blocks_in_a_frame(self) -> None:
        """Who is known to be fast may send four blocks in a frame; all others one."""
        for seconds, together in ((0.01, 4), (0.04, 2), (0.2, 1)):
            model = Model(self, 2000, set(range(2000)))
            source = model.join()
            model.ready()
            first = [each.together for each in model.log if isinstance(each, AskBlocks)]
            self.assertEqual(set(first), {1})
            for _ in range(200):
                model.work(source, seconds=seconds)
            last = [each.together for each in model.log if isinstance(each, AskBlocks)][-1]
            self.assertEqual(last, together)

    def test_one_block_in_a_frame_at_the_end(self) -> None:
        """When little is left to ask for, a frame has one block: more could not be taken back."""
        model = Model(self, 300, set(range(300)))
        source = model.join()
        model.ready()
        while not model.swarm.is_done:
            left = 300 - len(model.stored) - model.held()
            for each in model.work(source, seconds=0.001):
                if isinstance(each, AskBlocks) and left > WINDOW + 8:
                    self.assertEqual(each.together, 4)
                elif isinstance(each, AskBlocks) and left <= WINDOW:
                    self.assertEqual(each.together, 1)

    def test_seldom_many_at_once(self) -> None:
        """
        One that has never much to deliver is not measured; but how soon a block comes tells how
        many may be asked for at once, where others download it, too.
        """
        for seconds, most in ((0.01, 8), (0.1, 2), (0.5, 1)):
            model = Model(self, 2000, set(range(2000)))
            source, partial = model.join(), model.join(range(0))
            model.ready()
            for _ in range(60):
                while model.asked_of(source):
                    model.now += seconds
                    model.deliver(source)
                model.store()
                model.ready()
            sizes = [len(asks([each], source)) for each in model.log[-10:]]
            self.assertEqual(max(sizes), most)
            self.assertEqual(model.asked_of(partial), [])

    def test_far_away(self) -> None:
        """A source whose answers take long, but come fast then, gets a large window, too."""
        model = Model(self, 4000, set(range(4000)))
        far, other = model.join(), model.join()
        model.ready()
        for _ in range(8):
            model.now += 3.0
            for _ in range(len(model.asked_of(far))):
                model.deliver(far)
                model.now += 0.002
            model.swarm.heard(other)
            model.store()
            model.ready()
        self.assertGreater(len(model.asked_of(far)), 2 * FIRST_WINDOW)

    def test_work_is_taken_back_from_the_slow(self) -> None:
        """What a source does not bring goes to another that would bring it much sooner."""
        model = Model(self, 1000, set(range(1000)))
        slow, fast = model.join(), model.join()
        model.ready()
        theirs = set(model.asked_of(slow))
        for _ in range(30):
            model.work(fast, seconds=LATE / 20)
            model.swarm.heard(slow)
            model.swarm.tick()
        self.assertEqual(model.taken_back, len(theirs))
        self.assertTrue(theirs <= set(asks(model.log, fast)))
        self.assertEqual(model.dropped, {})
        before = len(asks(model.log, slow))
        for _ in range(30):
            model.work(fast, seconds=LATE / 20)
            model.swarm.tick()
        self.assertEqual(len(asks(model.log, slow)), before + 1, "it is tried with one block")

    def test_nothing_is_taken_back_if_all_are_slow(self) -> None:
        """If nobody is faster, nothing is taken back from anybody."""
        model = Model(self, 1000, set(range(1000)))
        one, two = model.join(), model.join()
        model.ready()
        for _ in range(40):
            model.work(one, two, seconds=LATE * 2)
            model.swarm.tick()
        self.assertEqual(model.taken_back, 0)
        self.assertEqual(len(model.stored), 80)

    def test_silent_among_others(self) -> None:
        """A silent source holds nobody up, and is left out after some tries."""
        model = Model(self, 2000, set(range(2000)))
        silent, good = model.join(), model.join()
        model.ready()
        for _ in range(800):
            model.work(good, seconds=0.1)
            model.swarm.tick()
        self.assertIsInstance(model.dropped.get(silent), TimedOut)
        self.assertNotIn(good, model.dropped)
        self.assertLessEqual(len(asks(model.log, silent)), FIRST_WINDOW + STRIKES)

    def test_endgame(self) -> None:
        """At the end, what a slow one was asked for is asked of another; the first one counts."""
        model = Model(self, 64, set(range(64)))
        slow, fast = model.join(), model.join()
        model.ready()
        while any(model.asked[fast].values()) or model.swarm.is_waiting:
            if not any(model.asked[fast].values()):
                break
            model.work(fast, seconds=0.05)
        self.assertTrue(model.swarm.is_done, "the fast one has brought all, the slow one nothing")
        self.assertLess(model.now, 100.0 + 64 * 0.05 + LATE)
        asked = asks(model.log)
        self.assertLessEqual(max(map(asked.count, asked)), 2)
        self.assertEqual(model.swarm.arrived(slow, [0]), [])

    def test_endgame_that_the_slow_one_wins(self) -> None:
        """If the slow one brings a block first that two were asked for, the other need not."""
        model = Model(self, 20, set(range(20)))
        slow, fast = model.join(), model.join()
        model.ready()
        while not set(asks(model.log, slow)) & set(asks(model.log, fast)):
            model.work(fast, seconds=0.05)
        model.work(slow, turns=8)
        given_up = [each for each in model.log if isinstance(each, TakeBack)]
        self.assertEqual({each.source for each in given_up}, {fast})
        model.work(fast, slow, turns=20)
        self.assertTrue(model.swarm.is_done)

    def test_equals_do_nothing_twice(self) -> None:
        """Sources that are equally fast are asked for nothing twice."""
        model = Model(self, 300, set(range(300)))
        sources = [model.join() for _ in range(4)]
        model.ready()
        model.work(*sources, seconds=0.02, turns=80)
        self.assertTrue(model.swarm.is_done)
        self.assertLessEqual(len(asks(model.log)), 304)

    def test_slow_line(self) -> None:
        """
        If no source brings anything, since the line to all of them is slow, ever fewer are asked
        for the same besides: what they send would make it slower still.
        """
        model = Model(self, 1, {0})
        for _ in range(16):
            model.join(patience=1000.0)
        model.ready()
        for _ in range(4 * 100):
            model.wait(0.25)
        self.assertEqual(model.dropped, {})
        self.assertLessEqual(len(asks(model.log)), 12)

    def test_late_page(self) -> None:
        """A page that does not come is asked of one more, and then of nobody else."""
        model = Model(self, 10, set(range(10)))
        for _ in range(3):
            model.join()
        (first,) = model.act()
        self.assertEqual(model.act(), [])
        model.now += LATE + 1
        (second,) = model.act()
        assert isinstance(first, AskPage)
        assert isinstance(second, AskPage)
        self.assertNotEqual(first.source, second.source)
        model.now += LATE + 1
        self.assertEqual(model.act(), [])
        model.give_page(second)
        model.give_page(first)
        model.pages.clear()
        self.assertEqual(len(asks(model.act())), 10)


class PartialTests(SynchronousTestCase):
    """Sources that have not everything."""

    def test_only_what_it_has(self) -> None:
        """A source is asked for what it has, and for more when it has more."""
        model = Model(self, 20, set(range(20)))
        source = model.join([3, 4, 11])
        self.assertEqual(sorted(asks(model.ready())), [3, 4, 11])
        model.work(source, turns=3)
        self.assertFalse(model.swarm.is_waiting)
        model.has(source, range(5, 9))
        self.assertEqual(sorted(asks(model.ready())), [5, 6, 7, 8])
        model.have[source] = None
        model.swarm.has_all(source)
        model.swarm.has(source, [(0, 1)])
        model.ready()
        model.work(source, turns=20)
        self.assertTrue(model.swarm.is_done)

    def test_rarest_first(self) -> None:
        """What the fewest have is asked for first."""
        model = Model(self, 100, set(range(100)), window=8)
        everything = model.join()
        model.join(range(40, 100))
        model.join(range(60, 100))
        model.ready()
        first = asks(model.log, everything)
        self.assertTrue(first)
        self.assertLess(max(first), 40)

    def test_first_one_joins(self) -> None:
        """
        When the first partial source joins, what a complete one was asked for and has not begun
        to bring is asked for anew, by chance: others have begun with the same.
        """
        model = Model(self, 400, set(range(400)))
        everything = model.join()
        model.ready()
        self.assertEqual(sorted(asks(model.log, everything)), list(range(WINDOW)))
        model.join([])
        model.ready()
        now = model.asked_of(everything)
        self.assertEqual(len(now), FIRST_WINDOW)
        self.assertGreater(max(now), WINDOW)

    def test_first_one_joins_late(self) -> None:
        """What comes just then is not taken back."""
        model = Model(self, 400, set(range(400)))
        everything = model.join()
        model.ready()
        model.work(everything)
        model.join([])
        model.ready()
        self.assertTrue(set(range(1, 8)) <= set(model.asked_of(everything)))

    def test_small_requests(self) -> None:
        """
        Beside partial sources, a slow one is asked for one block at a time, so that what another
        brings meanwhile can be taken back; a fast one for many.
        """
        model = Model(self, 400, set(range(400)))
        slow, fast = model.join(), model.join()
        model.join([])
        model.ready()
        for _ in range(12):
            model.now += 0.5
            for source in (fast,) * 16 + (slow,):
                model.deliver(source)
            model.store()
            model.ready()
        counts = [(each.source, each.count) for each in model.log if isinstance(each, AskBlocks)]
        self.assertEqual({count for source, count in counts if source == slow}, {1})
        self.assertGreater(max(count for source, count in counts if source == fast), 4)

    def test_choice(self) -> None:
        """
        Beside partial sources, a complete one has a choice of blocks to send, however slow it is; a
        slow one that is partial has no more to do than it brings soon.
        """
        model = Model(self, 400, set(range(400)))
        slow, partial = model.join(), model.join(range(200))
        model.ready()
        model.work(slow, partial, seconds=1.0, turns=12)
        self.assertEqual(len(model.asked_of(slow)), CHOICE)
        self.assertLess(len(model.asked_of(partial)), CHOICE)

    def test_those_who_left_do_not_count(self) -> None:
        """When those who had blocks are gone, these are rare again."""
        model = Model(self, 64, set(range(64)), window=8)
        model.join(range(32))
        left = model.join(range(32, 64))
        seed = model.join()
        for source in (1, left):
            model.swarm.leave(source, PeerLost("gone"))
        model.join(range(32))
        model.ready()
        self.assertGreaterEqual(min(asks(model.log, seed)), 32)

    def test_chance(self) -> None:
        """Where all are equally rare, others fetch others first; in order only if told so."""
        firsts = set()
        for seed in range(10):
            model = Model(self, 400, set(range(400)), seed=seed)
            model.join()
            model.join([])
            firsts.add(asks(model.ready())[0])
        self.assertGreater(len(firsts), 5)
        model = Model(self, 400, set(range(400)), in_order=True)
        model.join()
        model.join(range(100, 400))
        actions = model.ready()
        self.assertEqual(sorted(asks(actions, 1)), list(range(len(asks(actions, 1)))))
        self.assertEqual(min(asks(actions, 2)), 100)

    def test_blocks_far_from_the_others(self) -> None:
        """A source that has something only far from all open pages is asked for it, too."""
        blocks = 40 * 512
        model = Model(self, blocks, set(range(blocks)))
        far = [index * 512 + 7 for index in range(40)]
        source = model.join(far)
        model.ready()
        while asks(model.work(source)) or any(model.asked[source].values()):
            pass
        self.assertEqual(model.stored, set(far))
        self.assertLessEqual(len(model.swarm._wanted.pages), OPEN_PAGES + 2)
        self.assertEqual(model.ready(), [])

    def test_page_that_was_put_away(self) -> None:
        """A page that comes when its blocks are not thought of any more is not kept."""
        blocks = 40 * 512
        model = Model(self, blocks, set(range(blocks)))
        model.join(range(0, blocks // 2, 512))
        model.act()
        model.give_page(model.pages.pop(0))  # that of the root
        model.act()
        for first in range(blocks // 2, blocks, 512):
            model.swarm.join([(first, 1)])
            model.swarm.next_action()
        model.act()
        asked = {page.index for page in model.pages}
        self.assertTrue(asked - set(model.swarm._wanted.pages))
        while model.pages:
            model.give_page(model.pages.pop(0))
        held = {index for level, index in model.verifier._pages if level == 0}
        self.assertTrue(held <= set(model.swarm._wanted.pages), held)


class WantedTests(SynchronousTestCase):
    """L{Wanted}, by itself."""

    def test_put_away(self) -> None:
        """Who was found to have nothing else is asked again for what was put away meanwhile."""
        blocks = 40 * 512
        wanted = Wanted(
            TreeVerifier(bytes(32), blocks * BLOCK), [(0, blocks)], [], Random(1), in_order=False
        )
        wanted.has(1, [(5, 1)])
        wanted.open_for(1)
        page, bit = wanted.place(5)
        page.to_do, page.asked = page.to_do & ~bit, bit
        wanted.open_for(1)  # for now, there is nothing else
        page.to_do, page.asked = page.to_do | bit, 0
        for index in range(1, 40):
            wanted.has(2, [(index * 512, 1)])
            for each in wanted.pages.values():
                each.to_do &= ~each.have.get(2, 0)
            wanted.open_for(2)
        self.assertNotIn(0, wanted.pages)
        self.assertTrue(wanted.is_left_for(1))
        wanted.open_for(1)
        self.assertIn(0, wanted.pages)


class EndgameTests(SynchronousTestCase):
    """What is asked of a second source."""

    def again(self, rate: float) -> tuple[int, int] | None:
        """
        Let one who will need five seconds have been asked for the last blocks, and another be idle
        who delivers so many a second; tell which of them he is asked for.
        """
        wanted = Wanted(TreeVerifier(bytes(32), 8 * BLOCK), [(0, 8)], [], Random(1), in_order=False)
        wanted.open_ahead()
        page = wanted.pages[0]
        page.to_do, page.asked = 0, 0xFF
        slow = Source(1, 60.0, outstanding=8, _rate=1.6)
        slow.requests[1] = Request(1, 1, 0, 8, 0xFF, 0.0)
        able = Source(2, 60.0, _rate=rate)
        again = ask_again([(able, 8)], [slow, able], wanted, 0.0)
        return None if again is None else again[2:]

    def test_what_comes_sooner(self) -> None:
        """Only the last blocks are asked for again, and only those that come sooner by it."""
        self.assertEqual(self.again(1.0), (3, 5))
        self.assertEqual(self.again(10.0), (0, 8))
        self.assertIsNone(self.again(0.3))


class AnyOrderTests(SynchronousTestCase):
    """Whatever happens, in whatever order."""

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 1 << 32), st.booleans())
    def test_every_block_is_stored(self, seed: int, in_order: bool) -> None:
        """
        Sources come, go, grow, lie, refuse and fall silent, and one good one stays: every block
        is stored in the end, each asked of those who have it, of two at most, and never beyond
        the window (L{Model} sees to that).
        """
        random = Random(seed)
        blocks = random.choice([1, 2, 30, 511, 513, 1300])
        missing = set(range(blocks))
        if random.random() < 0.4:
            missing = {n for n in missing if n * 7919 % 13 < random.randrange(1, 13)}
        unproven = {n for n in missing if n // 5 % 3 == 0} if random.random() < 0.5 else set()
        window = random.choice([1, 8, 64, 512])
        model = Model(self, blocks, missing, set(unproven), window, in_order, random.randrange(99))
        liars: set[int] = set()
        good = model.join()
        model.act()
        for step in range(100_000):
            if model.swarm.is_done:
                break
            self.happen(model, random, liars, good, calm=step > 3000)
            model.act()
        self.assertTrue(model.swarm.is_done)
        self.assertEqual(model.stored, missing)
        self.assertNotIn(good, model.dropped)
        self.assertEqual(model.act(), [])
        self.assertEqual([page for page in model.verifier._pages if not page[0]], [])

    def happen(self, model: Model, random: Random, liars: set[int], good: int, calm: bool) -> None:
        """Let one thing happen."""
        others = [each for each in model.have if each != good and each not in model.dropped]
        chance = random.random()
        if calm or chance < 0.5:
            model.now += random.choice([0.0, 0.01, 0.3])
            for _ in range(random.randrange(1, 9)):
                model.deliver(good, random.choice((1, 1, 2, 4)))
            for page in [each for each in model.pages if each.source == good]:
                model.pages.remove(page)
                model.give_page(page)
        elif chance < 0.6:
            model.store(lambda source, block: source not in liars)
            model.check(lambda block: block % 3 == 0)
        elif chance < 0.65 and len(others) < 6:
            partial = random.random() < 0.6
            some = [n for n in range(model.blocks) if random.random() < 0.5]
            number = model.join(some if partial else None, random.choice([5.0, 60.0]))
            if random.random() < 0.3:
                liars.add(number)
        elif chance < 0.7:
            model.now += random.choice([0.5, 1.0, 3.0])
            model.swarm.heard(good)
            model.swarm.tick()
        elif others:
            self.befall(model, random, random.choice(others))
        if calm:
            model.store(lambda source, block: source not in liars)
            model.check(lambda block: block % 3 == 0)
            model.swarm.tick()

    def befall(self, model: Model, random: Random, one: int) -> None:
        """Let something happen to a source."""
        chance = random.random()
        pages = [each for each in model.pages if each.source == one]
        requests = list(model.asked[one])
        if chance < 0.6:
            for _ in range(random.randrange(1, 9)):
                model.deliver(one, random.choice((1, 1, 2, 4)))
            for page in pages:
                model.pages.remove(page)
                model.give_page(page)
        elif chance < 0.7 and model.have[one] is not None:
            model.has(one, [random.randrange(model.blocks)])
        elif chance < 0.75 and model.have[one] is not None:
            model.have[one] = None
            model.swarm.has_all(one)
        elif chance < 0.8:
            model.swarm.leave(one, PeerLost("gone"))
        elif chance < 0.9 and pages:
            page = random.choice(pages)
            model.pages.remove(page)
            error = random.choice([NotFound("none"), Unsupported("no"), Busy("later", 1.0)])
            model.swarm.page_refused(one, page.level, page.index, error)
        elif requests:
            request = random.choice(requests)
            error = random.choice([NotFound("none"), Busy("later", 1.0), PeerLost("gone")])
            del model.asked[one][request]
            have = model.have[one]
            if have is not None and isinstance(error, NotFound):
                have -= model.spans[request]
            model.swarm.refused(one, request, error)


class IdleTalkTests(SynchronousTestCase):
    """Sources that tell of what they have, without any news."""

    def test_pages_that_are_lacked(self) -> None:
        """Who tells again what he has is not asked again for the pages that he has not."""
        swarm = Swarm(
            TreeVerifier(tree_of(3).root, 3 * BLOCK - 7),
            [(0, 3)],
            clock=lambda: 0.0,
            random=Random(1),
        )
        source = swarm.join([(0, 2)])
        self.assertEqual(swarm.next_action(), AskPage(source, 0, 0))
        swarm.page_refused(source, 0, 0, NotFound("It is not here."))
        for blocks in ([], [(0, 1)], [(0, 2)]):
            swarm.has(source, blocks)
            self.assertIsNone(swarm.next_action())
        self.assertFalse(swarm.is_waiting)
        swarm.has(source, [(2, 1)])
        self.assertEqual(swarm.next_action(), AskPage(source, 0, 0))

    def test_many_runs(self) -> None:
        """However much one has told of, what he tells next is looked at alone."""
        blocks = 66_000
        swarm = Swarm(
            TreeVerifier(bytes(32), blocks * BLOCK),
            [(block, 1) for block in range(1, blocks, 2)],
            clock=lambda: 0.0,
            random=Random(1),
        )
        swarm.join(None)
        source = swarm.join([(block, 1) for block in range(0, 65_534, 2)])
        while swarm.next_action() is not None:
            pass
        looks = []
        next_run = masks.Runs.next_run
        self.patch(
            masks.Runs, "next_run", lambda runs, block: looks.append(block) or next_run(runs, block)
        )
        for block in (0, 65_536):
            swarm.has(source, [(block, 1)])
            while swarm.next_action() is not None:
                pass
        self.assertLess(len(looks), 100)
