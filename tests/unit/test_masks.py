"""Tests for L{flow512.transfer.masks}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.transfer.masks import Rarity, Runs, first_run, last_run, mask_of, mask_within
from flow512.units import DIGESTS_PER_PAGE

masks = st.integers(0, (1 << DIGESTS_PER_PAGE) - 1)
few = st.integers(0, (1 << 24) - 1)


def bits(mask: int) -> set[int]:
    """Say which bits are set."""
    return {place for place in range(mask.bit_length()) if mask >> place & 1}


class MaskTests(SynchronousTestCase):
    """Sets of blocks of one page."""

    @given(st.integers(0, 511), st.integers(0, 512))
    def test_mask_of(self, first: int, count: int) -> None:
        """A mask has just the blocks that it was made of."""
        self.assertEqual(bits(mask_of(first, count)), set(range(first, first + count)))

    @given(st.lists(st.tuples(st.integers(0, 1600), st.integers(1, 1200)), max_size=5))
    def test_mask_within(self, runs: list[tuple[int, int]]) -> None:
        """Of runs of the whole file, the mask of a page has what lies in it."""
        blocks = {block for first, count in runs for block in range(first, first + count)}
        for page in range(5):
            self.assertEqual(
                {page * 512 + bit for bit in bits(mask_within(page, runs))},
                {block for block in blocks if block // 512 == page},
            )

    @given(few.filter(bool), st.integers(1, 30))
    def test_runs(self, mask: int, most: int) -> None:
        """The first and the last blocks in a row are found, up to as many as are wanted."""
        there = bits(mask)
        first, count = first_run(mask, most)
        self.assertEqual(first, min(there))
        self.assertLessEqual(set(range(first, first + count)), there)
        self.assertTrue(count == most or first + count not in there)
        first, count = last_run(mask, most)
        self.assertEqual(first + count - 1, max(there))
        self.assertLessEqual(set(range(first, first + count)), there)
        self.assertTrue(count == most or first - 1 not in there)


class RunsTests(SynchronousTestCase):
    """L{Runs}."""

    @given(
        st.lists(st.tuples(st.booleans(), st.integers(0, 1100), st.integers(1, 700)), max_size=9)
    )
    def test_like_a_set(self, steps: list[tuple[bool, int, int]]) -> None:
        """Whatever is put in and taken out, it has what a set would have."""
        runs, plain = Runs(), set[int]()
        for adds, first, count in steps:
            if adds:
                runs.add(first, count)
                plain |= set(range(first, first + count))
            else:
                runs.remove(first, count)
                plain -= set(range(first, first + count))
        self.assertEqual(len(runs), len(plain))
        for page in range(5):
            self.assertEqual(
                {page * 512 + bit for bit in bits(runs.mask(page))},
                {block for block in plain if block // 512 == page},
            )
        for block in (0, 1, 511, 512, 1100, 1800):
            after = sorted(each for each in plain if each >= block)
            run = runs.next_run(block)
            self.assertEqual(run and run[0], after[0] if after else None)
            if run is not None:
                self.assertLessEqual(set(range(run[0], sum(run))), plain)
                self.assertNotIn(sum(run), plain)


class RarityTests(SynchronousTestCase):
    """L{Rarity}."""

    @given(st.lists(few, max_size=12), st.data())
    def test_counts(self, have: list[int], data: st.DataObject) -> None:
        """After any who came and went, the rarest are those that the fewest have."""
        rarity = Rarity()
        for mask in have:
            rarity.add(mask)
        gone = data.draw(st.sets(st.sampled_from(range(len(have))))) if have else set()
        for which in gone:
            rarity.remove(have[which])
        left = [bits(mask) for which, mask in enumerate(have) if which not in gone]
        among = data.draw(few.filter(bool))
        counts = {block: sum(block in each for each in left) for block in bits(among)}
        least, rarest = rarity.rarest(among)
        self.assertEqual(least, min(counts.values()))
        self.assertEqual(bits(rarest), {block for block, count in counts.items() if count == least})
