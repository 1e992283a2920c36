"""Tests for L{flow512.transfer.plan}."""

from __future__ import annotations

from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import Tree, TreeBuilder, TreeVerifier
from flow512.errors import Misuse
from flow512.transfer.plan import AskBlocks, AskPage, CheckBlocks, Plan
from flow512.units import BLOCK, DIGESTS_PER_PAGE

Runs = list[tuple[int, int]]


@lru_cache(maxsize=8)
def tree_of(blocks: int) -> Tree:
    """Make the tree of a file of so many blocks, the last one short."""
    builder = TreeBuilder()
    builder.add_many(b"".join(number.to_bytes(32, "big") for number in range(blocks)))
    return builder.finish(max(0, blocks * BLOCK - 7))


def runs_of(numbers: set[int]) -> Runs:
    """Make runs of numbers."""
    runs: Runs = []
    for number in sorted(numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def plan_of(
    tree: Tree, missing: Runs, unproven: Runs = (), window: int = 64
) -> tuple[TreeVerifier, Plan]:
    """Make a plan and its verifier."""
    verifier = TreeVerifier(tree.root, tree.shape.size)
    return verifier, Plan(verifier, missing, unproven, window)


def some_blocks(blocks: int) -> st.SearchStrategy[set[int]]:
    """Draw some blocks of a file."""
    run = st.tuples(st.integers(0, max(0, blocks - 1)), st.integers(1, 700))
    return st.lists(run, max_size=5).map(
        lambda runs: {n for first, count in runs for n in range(first, first + count) if n < blocks}
    )


class PlanTests(SynchronousTestCase):
    """L{Plan}."""

    @settings(max_examples=60)
    @given(st.data())
    def test_any_order(self, data: st.DataObject) -> None:
        """
        Whatever is missing and whatever comes first: every block is asked for once, or once more
        after a check that found it wanting; never beyond the window, nor before its page, nor
        across two pages, nor out of order.
        """
        blocks = data.draw(st.sampled_from([0, 1, 2, 511, 512, 513, 1300, 2600]))
        tree = tree_of(blocks)
        missing = data.draw(some_blocks(blocks)) if data.draw(st.booleans()) else set(range(blocks))
        unproven = data.draw(some_blocks(blocks)) & missing
        window = data.draw(st.sampled_from([1, 7, 8, 64, 512]))
        wrong = {n for n in unproven if n % 3 == 0}
        verifier, plan = plan_of(tree, runs_of(missing), runs_of(unproven), window)
        asked: list[int] = []
        checked: list[int] = []
        pages: set[tuple[int, int]] = set()
        waiting: list[AskPage | AskBlocks | CheckBlocks] = []
        outstanding = 0
        while not plan.is_done:
            while (action := plan.next_action()) is not None:
                waiting.append(action)
                if isinstance(action, AskPage):
                    self.assertNotIn((action.level, action.index), pages)
                    pages.add((action.level, action.index))
                    continue
                numbers = range(action.first, action.first + action.count)
                self.assertEqual(numbers[0] // DIGESTS_PER_PAGE, numbers[-1] // DIGESTS_PER_PAGE)
                for number in numbers:
                    self.assertIsNotNone(verifier.expects(number))
                outstanding += len(numbers)
                self.assertLessEqual(outstanding, window)
                (asked if isinstance(action, AskBlocks) else checked).extend(numbers)
            self.assertTrue(waiting, "nothing is left to wait for, and it is not done")
            done = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            if isinstance(done, AskPage):
                pages.discard((done.level, done.index))
                verifier.add_page(done.level, done.index, tree.page(done.level, done.index))
                plan.page_came(done.level, done.index)
                continue
            numbers = range(done.first, done.first + done.count)
            outstanding -= done.count
            if isinstance(done, AskBlocks):
                plan.stored(done.count)
            else:
                bad = [number for number in numbers if number in wrong]
                plan.stored(done.count - len(bad))
                plan.not_there(bad)
        self.assertEqual(sorted(checked), sorted(unproven))
        self.assertEqual(sorted(asked), sorted((missing - unproven) | wrong))
        if not wrong:
            self.assertEqual(asked, sorted(asked))
        self.assertEqual(waiting, [w for w in waiting if isinstance(w, AskPage)])
        self.assertIsNone(plan.next_action())

    def test_memory_of_pages(self) -> None:
        """However large the file, at most three pages of its blocks are held."""
        tree = tree_of(6000)
        verifier, plan = plan_of(tree, [(0, 6000)])
        most = 0
        while not plan.is_done:
            action = plan.next_action()
            if isinstance(action, AskPage):
                verifier.add_page(action.level, action.index, tree.page(action.level, action.index))
                plan.page_came(action.level, action.index)
            elif action is not None:
                plan.stored(action.count)
            held = [index for level, index in verifier._pages if level == 0]
            most = max(most, len(held))
        self.assertEqual(most, 3)

    def test_next_page_is_asked_for_ahead(self) -> None:
        """Half a page before its blocks are needed, the next page is asked for."""
        tree = tree_of(1024)
        verifier, plan = plan_of(tree, [(0, 1024)], window=512)
        for level, index in ((1, 0), (0, 0)):
            self.assertEqual(plan.next_action(), AskPage(level, index))
            self.assertIsNone(plan.next_action())
            verifier.add_page(level, index, tree.page(level, index))
            plan.page_came(level, index)
        for first in range(0, 256, 8):
            self.assertEqual(plan.next_action(), AskBlocks(first, 8))
        self.assertEqual(plan.next_action(), AskPage(0, 1))
        self.assertEqual(plan.next_action(), AskBlocks(256, 8))

    def test_page_of_a_block_that_is_put_back(self) -> None:
        """A block far behind that is put back has its page asked for again, and let go again."""
        tree = tree_of(2600)
        verifier, plan = plan_of(tree, [(0, 1), (2000, 100)], [(0, 1)])

        def next_blocks() -> AskBlocks | CheckBlocks:
            while isinstance(action := plan.next_action(), AskPage):
                verifier.add_page(action.level, action.index, tree.page(action.level, action.index))
                plan.page_came(action.level, action.index)
            assert action is not None
            return action

        self.assertEqual(next_blocks(), CheckBlocks(0, 1))
        self.assertEqual(next_blocks(), AskBlocks(2000, 8))
        self.assertIsNone(verifier.expects(0))
        plan.not_there([0])
        self.assertEqual(next_blocks(), AskBlocks(0, 1))
        self.assertEqual(next_blocks(), AskBlocks(2008, 8))
        self.assertIsNone(verifier.expects(0))

    def test_window_limits(self) -> None:
        """A window has 1 to 512 blocks."""
        for window in (0, 513):
            with self.assertRaises(Misuse):
                plan_of(tree_of(1), [(0, 1)], window=window)
