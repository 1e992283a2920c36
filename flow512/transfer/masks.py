"""
Sets of blocks as the swarm works with them. Pure.

A page of digests has 512 blocks, so a set of blocks of one page is an integer of 512 bits, bit
N for the page's Nth block: what a decision asks of such sets (which of these has that source,
which are the rarest) is a few operations on integers, and not on blocks. Sets that go through
the whole file are runs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

from flow512.content.journal import BlockSet
from flow512.units import DIGESTS_PER_PAGE

FULL: Final = (1 << DIGESTS_PER_PAGE) - 1
"""All blocks of a page."""


def mask_of(first: int, count: int) -> int:
    """
    Make the mask of some blocks in a row.
    """
    return ((1 << count) - 1) << first


def mask_within(page: int, runs: Iterable[tuple[int, int]]) -> int:
    """
    Say which blocks of a page are in some runs of blocks of the file.

    @param runs: first block and count of each.
    """
    start = page * DIGESTS_PER_PAGE
    end = start + DIGESTS_PER_PAGE
    mask = 0
    for first, count in runs:
        if first < end and first + count > start:
            low, high = max(first, start), min(first + count, end)
            mask |= ((1 << high - low) - 1) << low - start
    return mask


def first_run(mask: int, most: int) -> tuple[int, int]:
    """
    Find the first blocks in a row.

    @param mask: not 0.
    @param most: how many are enough.
    @return: the first one, and how many follow each other from there.
    """
    first = (mask & -mask).bit_length() - 1
    rest = mask >> first
    # Adding one turns the ones at the end to zeros, and the zero above them to a one.
    return first, min(((rest + 1) & ~rest).bit_length() - 1, most)


def last_run(mask: int, most: int) -> tuple[int, int]:
    """
    Find the last blocks in a row.

    @param mask: not 0.
    @param most: how many are enough.
    @return: the first of them, and how many.
    """
    end = mask.bit_length()
    highest_gap = (~mask & ((1 << end) - 1)).bit_length()
    count = min(end - highest_gap, most)
    return end - count, count


class Runs(BlockSet):
    """
    A set of blocks of a whole file, from which blocks can be taken.
    """

    def remove(self, first: int, count: int = 1) -> None:
        """
        Take out a run of blocks, some of which may be missing already.
        """
        end = first + count
        low = bisect_left(self._bounds, first)
        high = bisect_right(self._bounds, end)
        begins = [first] if low % 2 else []
        ends = [end] if high % 2 else []
        old = [first] * (low % 2) + self._bounds[low:high] + [end] * (high % 2)
        self._bounds[low:high] = begins + ends
        self._count -= sum(old[1::2]) - sum(old[::2])

    def next_run(self, block: int) -> tuple[int, int] | None:
        """
        Give the first run at or after a block: of a run that it lies in, the rest.
        """
        place = bisect_right(self._bounds, block)
        if place == len(self._bounds):
            return None
        first = block if place % 2 else self._bounds[place]
        return first, self._bounds[place | 1] - first

    def mask(self, page: int) -> int:
        """
        Say which blocks of a page are in it.
        """
        start = page * DIGESTS_PER_PAGE
        low = bisect_right(self._bounds, start)
        high = bisect_left(self._bounds, start + DIGESTS_PER_PAGE)
        # From each bound on, what was not in it is, and what was is not.
        mask = -(low % 2)
        for bound in self._bounds[low:high]:
            mask ^= -1 << bound - start
        return mask & FULL


class Rarity:
    """
    How many have each block of a page.

    The counts are kept in columns: the Nth number has the Nth binary digit of every count.
    """

    def __init__(self) -> None:
        self._digits: list[int] = []

    def add(self, mask: int) -> None:
        """
        One more has these.
        """
        place = 0
        while mask:
            if place == len(self._digits):
                self._digits.append(0)
            carry = self._digits[place] & mask
            self._digits[place] ^= mask
            mask = carry
            place += 1

    def remove(self, mask: int) -> None:
        """
        One has these no more, who had them.
        """
        place = 0
        while mask:
            borrow = ~self._digits[place] & mask
            self._digits[place] ^= mask
            mask = borrow
            place += 1

    def rarest(self, among: int) -> tuple[int, int]:
        """
        Find the rarest of some blocks.

        @param among: not 0.
        @return: how many have each of them, and which they are.
        """
        count = 0
        for place in range(len(self._digits) - 1, -1, -1):
            without = among & ~self._digits[place]
            if without:
                among = without
            else:
                count |= 1 << place
        return count, among
