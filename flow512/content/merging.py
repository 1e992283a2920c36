"""
Shares that lie over one another: what each has in a folder becomes one list.

Of several that have the same path, the first share's is listed; folders of one path are one, with
what is in any of them. No name is both a file and a folder: it is what the first share that has it
says, and what others have beneath it, if that is a file, is not listed. A folder's slash sorts it
behind its name's file, and any number of other names may lie between: so whether a share before has
a folder of that name is asked of the share itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import repeat

from flow512.content.manifest import Item
from flow512.content.shares import Share


class _Subfolders:
    """
    Says which folders a share has. It is asked in the order of paths, and lists each folder once.
    """

    def __init__(self, share: Share, prefix: str) -> None:
        self._share = share
        self._prefix = prefix
        self._within: list[tuple[str, frozenset[str]]] = []

    def has(self, path: str) -> bool:
        """Say whether there is a folder; C{path} has no slash at its end."""
        above = path[: path.rfind("/") + 1]
        while self._within and not above.startswith(self._within[-1][0]):
            self._within.pop()
        if not self._within or self._within[-1][0] != above:
            found = self._share.subfolders([(self._prefix + above)[:-1]])
            self._within.append((above, frozenset(found)))
        return self._prefix + path in self._within[-1][1]


def merged(
    shares: Sequence[Share], prefix: str, items: Sequence[Iterable[Item]], also: Iterable[Item]
) -> Iterator[Item]:
    """
    Make one list of what several shares have in a folder.

    @param shares: in order.
    @param prefix: the folder, with a slash at its end; empty for all.
    @param items: of each of the shares, in the order of paths, which are relative to the folder.
    @param also: what is listed besides.
    @return: each path once, in order; and none both with and without a slash.
    """
    subfolders = [_Subfolders(share, prefix) for share in shares]
    ranked = merge(
        *(zip(those, repeat(rank)) for rank, those in enumerate([*items, also])),
        key=_path,
    )
    last = ""
    files = [""]  # those whose names the last path begins with
    hidden = ""
    for item, rank in ranked:
        path = item.path
        # The same path comes from the first share that has it first.
        if path == last or (hidden and path.startswith(hidden)):
            continue
        last = path
        while not path.startswith(files[-1]):
            files.pop()
        if path.endswith("/"):
            if path[:-1] in files[1:]:
                hidden = path
                continue
        elif any(before.has(path) for before in subfolders[:rank]):
            continue
        else:
            files.append(path)
        yield item


def _path(ranked: tuple[Item, int]) -> str:
    return ranked[0].path
