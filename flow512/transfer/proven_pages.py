"""
Pages of digests that downloads have proven, kept for those who fetch from them.

There is a bound. When pages are too many, those of level 0 go that have been here longest. Those
above stay, since they are few, and nothing below them is proven without them.
"""

from __future__ import annotations

from typing import Final

PAGE_ROOM: Final = 64 * 1024 * 1024
"""Bytes of pages that all offers together keep: the digests of 512 GiB."""

_PAGE_OVERHEAD: Final = 300
"""Bytes that keeping a page costs beyond its own: without them tiny files would be free."""


class ProvenPages:
    """
    The pages of all offers.
    """

    def __init__(self, room: int = PAGE_ROOM) -> None:
        """
        @param room: bytes that they may take.
        """
        self._free = room
        self._pages: dict[bytes, dict[tuple[int, int], bytes]] = {}
        self._lowest: dict[tuple[bytes, int], None] = {}  # of level 0, in the order they came

    def add(self, root: bytes, level: int, index: int, page: bytes) -> None:
        """
        Keep a page, if there is room for it.
        """
        pages = self._pages.setdefault(root, {})
        if (level, index) in pages:
            return
        cost = len(page) + _PAGE_OVERHEAD
        while self._free < cost and self._lowest:
            self._drop(*next(iter(self._lowest)))
        if self._free < cost:
            return
        self._free -= cost
        pages[level, index] = page
        if level == 0:
            self._lowest[root, index] = None

    def get(self, root: bytes, level: int, index: int) -> bytes | None:
        """
        Give a page, if it is here; on any thread.
        """
        return self._pages.get(root, {}).get((level, index))

    def forget(self, root: bytes) -> None:
        """
        Forget the pages of a content.
        """
        for (level, index), page in self._pages.pop(root, {}).items():
            self._free += len(page) + _PAGE_OVERHEAD
            if level == 0:
                del self._lowest[root, index]

    def _drop(self, root: bytes, index: int) -> None:
        del self._lowest[root, index]
        self._free += len(self._pages[root].pop((0, index))) + _PAGE_OVERHEAD
