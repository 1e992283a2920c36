"""
The manifests that a library has made of folders, so that it can serve them like files.

A manifest is kept in a temporary file without a name, together with its tree, until there is no
room for it any more: then it is not found, and whoever wants it asks for the folder again. It shows
what one view showed, and so is given only to those who may see all the shares that it is of.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import mkstemp
from typing import Final

from flow512.content.catalog import Catalog, Stamp
from flow512.content.hashing import Stop, hash_file
from flow512.content.manifest import MODES, Item, manifest_of
from flow512.content.opened import OpenContent
from flow512.content.paths import check_path, open_folder_beneath
from flow512.content.shares import Found, FoundFolder, Share, walk
from flow512.content.tree import Tree
from flow512.errors import Cancelled, from_os_error

MOST: Final = 256 * 1024 * 1024
"""Bytes of all manifests that are kept; the latest one is kept whatever it has."""

_BATCH: Final = 1000
"""Files whose roots are looked up at once."""

WHAT: Final = "the list of a folder"


@dataclass(frozen=True)
class _Kept:
    fd: int
    tree: Tree
    stamp: Stamp
    shares: frozenset[bytes]


class Manifests:
    """
    Those that are kept. Any thread may call any method; all may block.
    """

    def __init__(self, most: int = MOST) -> None:
        """
        @param most: see L{MOST}.
        """
        self._most = most
        self._turn = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def close(self) -> None:
        """
        Keep none any more. Those that are open stay so.
        """
        with self._turn:
            while self._kept:
                os.close(self._kept.popitem()[1].fd)

    def keep(self, items: Iterable[Item], shares: Iterable[Share], stop: Stop) -> tuple[bytes, int]:
        """
        Make a manifest, and keep it.

        @param items: in the order of their paths.
        @param shares: those that they are from.
        @param stop: asked now and then whether to give up.
        @return: its root and its size.
        @raise Cancelled: C{stop} said so.
        @raise ResourceFailure: there is no room for it.
        """
        with ExitStack() as unless_kept:
            try:
                fd, name = mkstemp(prefix="flow512-")
                unless_kept.callback(os.close, fd)
                os.unlink(name)
                with open(fd, "wb", closefd=False) as file:
                    for part in manifest_of(items):
                        if stop():
                            raise Cancelled(f"Nobody waits for {WHAT} any more.")
                        file.write(part)
                stamp = Stamp.of(os.fstat(fd))
            except OSError as error:
                raise from_os_error(error, f"writing {WHAT}") from error
            tree, _ = hash_file(fd, stamp.size, stop=stop, md5=False, what=WHAT)
            unless_kept.pop_all()
        self._put(_Kept(fd, tree, stamp, frozenset(each.key for each in shares)))
        return tree.root, stamp.size

    def _put(self, made: _Kept) -> None:
        with self._turn:
            before = self._kept.pop(made.tree.root, None)
            if before is not None:
                os.close(before.fd)
            self._kept[made.tree.root] = made
            held = sum(kept.stamp.size for kept in self._kept.values())
            while len(self._kept) > 1 and held > self._most:
                _, oldest = self._kept.popitem(last=False)
                held -= oldest.stamp.size
                os.close(oldest.fd)

    def _find(self, root: bytes, shares: Iterable[Share]) -> _Kept | None:
        kept = self._kept.get(root)
        if kept is None or not kept.shares <= {each.key for each in shares}:
            return None
        self._kept.move_to_end(root)
        return kept

    def size(self, root: bytes, shares: Iterable[Share]) -> int | None:
        """
        Tell how many bytes a manifest has.

        @param shares: those that whoever asks may see.
        @return: L{None} if there is none for him.
        """
        with self._turn:
            kept = self._find(root, shares)
        return None if kept is None else kept.stamp.size

    def page(self, root: bytes, level: int, index: int, shares: Iterable[Share]) -> bytes | None:
        """
        Give a page of a manifest's digests.

        @param shares: those that whoever asks may see.
        @return: L{None} if there is no such manifest for him.
        @raise Misuse: its tree has no such page.
        """
        with self._turn:
            kept = self._find(root, shares)
        return None if kept is None else kept.tree.page(level, index)

    def open(
        self, root: bytes, shares: Iterable[Share], check_access: Callable[[], None]
    ) -> OpenContent | None:
        """
        Open a manifest.

        @param shares: those that whoever asks may see.
        @param check_access: as for L{OpenContent}.
        @return: for the caller to close; L{None} if there is none for him.
        @raise ResourceFailure: it cannot be opened.
        """
        with self._turn:
            kept = self._find(root, shares)
            if kept is None:
                return None
            try:
                fd = os.dup(kept.fd)
            except OSError as error:
                raise from_os_error(error, f"opening {WHAT}") from error
        return OpenContent(fd, root, kept.stamp, WHAT, check_access)


def items_in(share: Share, prefix: str, catalog: Catalog, stop: Stop) -> Iterator[Item]:
    """
    Say what a share has in one folder, as far as it has been hashed, in the order of paths.

    @param prefix: the folder, with a slash at its end; empty for the whole share. Paths are
        relative to it.
    @param stop: asked before each file.
    @raise Cancelled: C{stop} said so.
    @raise NotFound: there is no such folder.
    @raise UnsafeName: no folder can have that name.
    @raise ResourceFailure: the folder or the catalog cannot be read.
    """
    parts = check_path(prefix[:-1]) if prefix else ()
    batch: list[Found | FoundFolder] = []
    with share.folder() as top:
        folder = open_folder_beneath(top, parts)
        try:
            for sight in walk(folder):
                if stop():
                    raise Cancelled(f"Nobody waits for {WHAT} any more.")
                if isinstance(sight, (Found, FoundFolder)):
                    batch.append(sight)
                if len(batch) == _BATCH:
                    yield from _items(share, batch, prefix, catalog)
                    batch = []
        finally:
            os.close(folder)
    yield from _items(share, batch, prefix, catalog)


def _items(
    share: Share, batch: list[Found | FoundFolder], prefix: str, catalog: Catalog
) -> Iterator[Item]:
    files = [prefix + sight.path for sight in batch if isinstance(sight, Found)]
    known = catalog.between(share.key, files[0], files[-1]) if files else {}
    for sight in batch:
        mode = sight.mode & MODES
        if isinstance(sight, FoundFolder):
            yield Item(sight.path, mode, sight.mtime)
            continue
        there = known.get(prefix + sight.path)
        if there is not None and there.root is not None and there.stamp == sight.stamp:
            yield Item(sight.path, mode, sight.stamp.mtime, sight.stamp.size, there.root)
