"""
The manifests that a library has made of folders, so that it can serve them like files.

A manifest is kept in a temporary file without a name, together with its tree, until there is no
room for it any more, or too many others were made: then it is not found, and whoever wants it asks
for the folder again. It shows
what one view showed, and so is given only to those who may see all the shares that it is of.

Whoever asks for a folder that was asked for before is given the same manifest, without a look at
the disk, if the shares are followed live and nothing at all has happened in them since. A change
that the system does not tell of (through a mapping, or on another machine) is noticed by the next
walk; until then, such a file is found to be another when it is read.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from tempfile import mkstemp
from typing import Final, TypeAlias

import msgspec

from flow512.content.catalog import Catalog, Stamp
from flow512.content.hashing import Stop, hash_file
from flow512.content.manifest import MODES, Item, manifest_of
from flow512.content.opened import OpenContent
from flow512.content.paths import check_path, open_folder_beneath
from flow512.content.shares import Found, FoundFolder, LeftOut, Share, Unread, walk
from flow512.content.tree import Tree
from flow512.errors import Cancelled, DiskFailure, from_os_error

MOST: Final = 256 * 1024 * 1024
"""Bytes of all manifests that are kept; the latest one is kept whatever it has."""

MOST_FILES: Final = 256
"""
Manifests that are kept. Each takes a descriptor, and there is a new one for each folder and each
change in it: a share with many folders must not take all that the process may have open.
"""

_MOST_AGAIN: Final = 100
"""Folders whose manifest may be given again."""

_BATCH: Final = 1000
"""Files whose roots are looked up at once."""

WHAT: Final = "the list of a folder"


class _Kept(msgspec.Struct, frozen=True):
    fd: int
    tree: Tree
    stamp: Stamp
    shares: frozenset[bytes]


_Of: TypeAlias = tuple[str, tuple[bytes, ...]]


def _of(path: str, shares: Sequence[Share]) -> _Of:
    return path, tuple(share.key for share in shares)


class Manifests:
    """
    Those that are kept. Any thread may call any method; all may block.
    """

    def __init__(self, most: int = MOST, most_files: int = MOST_FILES) -> None:
        """
        @param most: see L{MOST}.
        @param most_files: see L{MOST_FILES}; at least one.
        """
        self._most = most
        self._most_files = most_files
        self._turn = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        # By folder and shares, in order: the root, and how things were before it was made.
        self._again: OrderedDict[_Of, tuple[bytes, object]] = OrderedDict()
        self._state = object()
        self._is_followed = False

    @property
    def state(self) -> object:
        """What stands for how things are now; it is another whenever something has happened."""
        return self._state

    def happened(self) -> None:
        """
        Take note that what is in the shares, or known of it, may not be as it was. This and
        L{follow} never block.
        """
        self._state = object()

    def follow(self, is_followed: bool) -> None:
        """
        Say whether from now on L{happened} is called whenever something has.
        """
        self._is_followed = is_followed
        self.happened()

    def again(self, path: str, shares: Sequence[Share]) -> tuple[bytes, int] | None:
        """
        Give what L{keep} gave for a folder, if that stands.

        @param path: the folder.
        @param shares: those that it is in, in order.
        @return: L{None} if it has to be made anew.
        """
        with self._turn:
            root, state = self._again.get(_of(path, shares), (b"", None))
            kept = self._kept.get(root) if self._is_followed and state is self._state else None
            if kept is None:
                return None
            self._kept.move_to_end(root)
            return root, kept.stamp.size

    def remember(self, path: str, shares: Sequence[Share], root: bytes, state: object) -> None:
        """
        Remember what a folder's manifest is, for L{again}.

        @param path: the folder; C{shares} as for L{again}.
        @param state: L{state}, as it was before the folder was looked at.
        """
        with self._turn:
            self._again.pop(_of(path, shares), None)
            self._again[_of(path, shares)] = root, state
            if len(self._again) > _MOST_AGAIN:
                self._again.popitem(last=False)

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
            while len(self._kept) > 1 and (held > self._most or len(self._kept) > self._most_files):
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
    Say what a share has in one folder, in the order of paths. What has not been hashed, or cannot
    be read, is L{missing<Item.is_missing>}.

    @param prefix: the folder, with a slash at its end; empty for the whole share. Paths are
        relative to it.
    @param stop: asked before each file.
    @raise Cancelled: C{stop} said so.
    @raise NotFound: there is no such folder.
    @raise UnsafeName: no folder can have that name.
    @raise ResourceFailure: the folder or the catalog cannot be read.
    """
    parts = check_path(prefix[:-1]) if prefix else ()
    batch: list[Found | FoundFolder | Item] = []
    with share.folder() as top:
        folder = open_folder_beneath(top, parts)
        try:
            for sight in walk(folder):
                if stop():
                    raise Cancelled(f"Nobody waits for {WHAT} any more.")
                if isinstance(sight, Unread):
                    unread = _unread(folder, sight)
                    if batch and batch[-1].path == unread.path:
                        batch.pop()  # the folder itself could be looked at
                    batch.append(unread)
                elif isinstance(sight, LeftOut):
                    if sight.is_file:
                        batch.append(Item(sight.path, 0, 0))
                else:
                    if len(batch) >= _BATCH:
                        yield from _items(share, batch, prefix, catalog)
                        batch = []
                    batch.append(sight)
        finally:
            os.close(folder)
    yield from _items(share, batch, prefix, catalog)


def _unread(folder: int, sight: Unread) -> Item:
    if not sight.path:
        raise DiskFailure(sight.reason)
    try:
        is_folder = stat.S_ISDIR(os.stat(sight.path, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        is_folder = False
    return Item(sight.path + "/", 0, 0, 1) if is_folder else Item(sight.path, 0, 0)


def _items(
    share: Share, batch: list[Found | FoundFolder | Item], prefix: str, catalog: Catalog
) -> Iterator[Item]:
    files = [prefix + sight.path for sight in batch if isinstance(sight, Found)]
    known = catalog.between(share.key, files[0], files[-1]) if files else {}
    for sight in batch:
        if isinstance(sight, Item):
            yield sight
            continue
        mode = sight.mode & MODES
        if isinstance(sight, FoundFolder):
            yield Item(sight.path, mode, sight.mtime)
            continue
        there = known.get(prefix + sight.path)
        if there is not None and there.root is not None and there.stamp == sight.stamp:
            yield Item(sight.path, mode, sight.stamp.mtime, sight.stamp.size, there.root)
        else:
            yield Item(sight.path, mode, sight.stamp.mtime)
