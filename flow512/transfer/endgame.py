"""
The end of a download: what one source was asked for, and another would bring much sooner. Pure.

A block is asked of a second source only if nothing is left that this one could be asked for
instead, and only if that is worth it: what arrives first counts, and the other's bytes are lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from flow512.transfer.masks import last_run
from flow512.transfer.pace import MEASURE, Source
from flow512.transfer.wanted import Page, Wanted
from flow512.units import DIGESTS_PER_PAGE

UNKNOWN_FOR: Final = 0.5
"""Seconds for which a source that was just asked for the first time may be as fast as any other."""

SOONER: Final = 4.0
WORTH: Final = 0.5
"""
How many times sooner, and by how many seconds, another has to bring a block to be asked, too, as
long as there are blocks that nobody was asked for. At the very end, it is twice, and L{MEASURE}.
"""


class _Late(NamedTuple):
    """
    Blocks that one source alone was asked for, by one request.

    @ivar through: seconds until that source will be through with all that it was asked for.
    @ivar blocks: their mask.
    """

    through: float
    source: int
    page: Page
    blocks: int


def ask_again(
    able: Iterable[tuple[Source, int]],
    sources: Collection[Source],
    wanted: Wanted,
    now: float,
) -> tuple[Source, Page, int, int] | None:
    """
    Choose one to ask for what another was asked for, and would bring later.

    @param able: who may be asked, and for how many blocks at most.
    @param sources: all that there are.
    @param wanted: what is wanted of whom.
    @param now: the time, in seconds.
    @return: whom to ask, the page, the place of the first block in it, and how many.
    """
    late = _late(sources, wanted, now)
    if not late:
        return None
    in_pages: dict[int, int] = {}
    for each in late:
        in_pages[each.page.index] = in_pages.get(each.page.index, 0) | each.blocks
    pages = [(wanted.pages[index], blocks) for index, blocks in in_pages.items()]
    for source, most in able:
        if not any(wanted.of(source.number, page) & blocks for page, blocks in pages):
            continue
        if wanted.is_left_for(source.number):
            continue
        again = _choose_again(source, most, late, wanted, now)
        if again is not None:
            return source, *again
    return None


def _late(sources: Collection[Source], wanted: Wanted, now: float) -> list[_Late]:
    """Say what one alone was asked for, and who will be through with all of it last, first."""
    late: list[_Late] = []
    for source in sources:
        if source.is_held_back(now):
            continue  # nobody would be taken from any sooner
        # Nothing can be said of one that has only just been asked for the first time.
        if source.requests and (source.is_measured or now - source.delivered_at >= UNKNOWN_FOR):
            through = source.through_in(now)
            if through <= MEASURE:
                continue
            for request in source.requests.values():
                page = wanted.pages[request.first // DIGESTS_PER_PAGE]
                if blocks := request.left & ~page.asked_twice:
                    late.append(_Late(through, source.number, page, blocks))
    late.sort(key=lambda each: each.through)
    late.reverse()
    return late


def _choose_again(
    source: Source, most: int, late: Iterable[_Late], wanted: Wanted, now: float
) -> tuple[Page, int, int] | None:
    ours = source.through_in(now, 1)
    sooner, worth = (SOONER, WORTH) if wanted.will_have_more else (2.0, MEASURE)
    for each in late:
        if each.through <= sooner * ours + worth:
            break  # if little is won it is not worth that both bring it
        if each.source == source.number:
            continue
        blocks = each.blocks & wanted.of(source.number, each.page)
        if blocks:
            # The last ones, since the other comes to them last; and only those that come
            # sooner.
            while most > 1 and source.through_in(now, most) > each.through:
                most -= 1
            return each.page, *last_run(blocks, most)
    return None
