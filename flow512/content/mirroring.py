"""
A folder that is to have nothing beyond a manifest: what is there besides is found, and deleted if
the user says so.

The manifest is kept in a file without a name while it comes, and read again at the end, side by
side with the folder: both are in the order of paths. So what is held in memory is the names of one
folder for each level of depth, however much there is.

What never goes, and keeps the folders that it is in: what the user does not want to be touched,
our own hidden files, and names that L{flow512.content.paths} refuses. Every step down is one into a
real folder, by descriptor, so a link is removed as what it is, and nothing outside is ever reached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import Enum
from tempfile import TemporaryFile
from typing import IO, Final

import msgspec

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.manifest import Item, ManifestReader
from flow512.content.paths import (
    MAX_DEPTH,
    SHOWN,
    check_name,
    escape,
    is_own_name,
    open_folder_beneath,
)
from flow512.errors import Flow512Error, UnsafeName
from flow512.units import BLOCK

MAX_NAMED: Final = 1000
"""Paths that are kept by name; there may be any number."""


class Beyond(Enum):
    """What becomes of what is in a folder and not in the manifest."""

    IGNORE = "ignore"
    COUNT = "count"
    DELETE = "delete"


class Surplus(msgspec.Struct):
    """
    What a folder has, or had, beyond the manifest.

    @ivar count: files, links and folders; of folders, those in which nothing has to stay.
    @ivar deleted: how many of these were deleted.
    @ivar paths: the first thousand, escaped; what is in a folder stands before it. If anything is
        to be deleted, only what was.
    @ivar failed: the first thousand that could not be deleted, escaped, with why.
    """

    count: int = 0
    deleted: int = 0
    paths: list[str] = msgspec.field(default_factory=list)
    failed: list[tuple[str, str]] = msgspec.field(default_factory=list)


class Mirror:
    """
    One folder, and the manifest that it is compared with. Every method but L{stop} blocks; one
    thread at a time.

    @ivar surplus: what was found so far.
    """

    def __init__(
        self,
        top: int,
        is_wanted: Callable[[Item], bool] = lambda item: True,
        disk: Disk = DISK,
    ) -> None:
        """
        @param top: a descriptor of the folder; it stays the caller's.
        @param is_wanted: whether something may be touched at all; it is asked about paths. A folder
            of which it is not true goes if all that was in it goes.
        """
        self._top = top
        self._may_touch = is_wanted
        self._disk = disk
        self._kept: IO[bytes] | None = None
        self._paths: Iterator[str] = iter(())
        self._next: str | None = None
        self._deletes = False
        self._is_stopped = False
        self.surplus = Surplus()

    def close(self) -> None:
        """
        Give back what is open. A second time does nothing.
        """
        if self._kept is not None:
            self._kept.close()

    def stop(self) -> None:
        """
        Delete nothing more. Any thread may call it.
        """
        self._is_stopped = True

    def keep(self, data: bytes) -> None:
        """
        Keep the next bytes of the manifest, which are proven.

        @raise ResourceFailure: there is no room for them.
        """
        with blaming("keeping the list of a folder"):
            if self._kept is None:
                self._kept = TemporaryFile(prefix="flow512-")  # noqa: SIM115  # close() closes it
            self._kept.write(data)

    def compare(self, beyond: Beyond) -> None:
        """
        Look through the folder, when all of the manifest has been kept.

        @param beyond: whether what is found is deleted.
        @raise ResourceFailure: the folder or the manifest cannot be read. What could not be deleted
            is no error: L{surplus} tells of it.
        """
        self._deletes = beyond is Beyond.DELETE
        self._paths = (item.path for item in self.items())
        self._next = next(self._paths, None)
        folder = open_folder_beneath(self._top, ())
        try:
            self._go_through(folder, "", self._names(folder, ""), is_listed=True)
        finally:
            os.close(folder)

    def items(self) -> Iterator[Item]:
        """
        Read the manifest again, when all of it has been kept, and while nothing is compared.

        @raise ResourceFailure: it cannot be read.
        """
        reader = ManifestReader()
        assert self._kept is not None, "every manifest has a beginning"
        with blaming("reading the list of a folder"):
            self._kept.seek(0)
            while part := self._kept.read(BLOCK):
                yield from reader.feed(part)

    def _is_listed(self, path: str) -> bool:
        # Paths are asked for in order.
        while self._next is not None and self._next < path:
            self._next = next(self._paths, None)
        return self._next == path

    def _names(self, folder: int, path: str) -> list[str]:
        """List a folder; with a slash after folders, names sort as the paths that begin so do."""
        with (
            blaming(f"reading the folder '{escape(path, SHOWN) or '.'}'"),
            os.scandir(folder) as entries,
        ):
            return sorted(
                entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
            )

    def _go_through(self, folder: int, path: str, names: list[str], *, is_listed: bool) -> bool:
        """
        Look at what is in a folder.

        @param path: the folder's, with a slash at its end; empty for the top.
        @param is_listed: whether the manifest has it, so that it stays though nothing is in it.
        @return: whether nothing in it has to stay.
        """
        times = self._disk.fstat(folder)
        before = self.surplus.deleted
        stays = 0
        for name in names:
            if self._is_stopped:
                return False
            stays += not self._goes(folder, path + name, name.rstrip("/"))
        if self.surplus.deleted != before and (stays or is_listed) and path:
            # It has got its time from the manifest already.
            with blaming(f"setting the time of '{escape(path, SHOWN)}'"):
                self._disk.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
        return not stays

    def _goes(self, folder: int, path: str, name: str) -> bool:
        """Say whether something is gone now, or would be."""
        is_listed = self._is_listed(path)
        may_touch = self._may_touch(Item(path, 0, 0))
        if is_own_name(name) or not (may_touch or path.endswith("/")):
            return False
        try:
            check_name(name)
            if path.endswith("/"):
                before = self.surplus.count
                is_empty = self._look_into(folder, path, name, is_listed=is_listed)
                # One that was empty before is the user's own, unless it is wanted itself.
                may_touch = may_touch or self.surplus.count != before
                if is_listed or not is_empty or not may_touch:
                    return False
            elif is_listed:
                return False
            if self._deletes:
                self._delete(folder, path, name)
        except Flow512Error as error:
            if not is_listed and may_touch:
                self._found(path, error)
            return False
        self._found(path)
        return True

    def _look_into(self, folder: int, path: str, name: str, *, is_listed: bool) -> bool:
        if path.count("/") > MAX_DEPTH:
            raise UnsafeName(f"It is more than {MAX_DEPTH} folders deep.")
        inner = open_folder_beneath(folder, (name,))
        try:
            return self._go_through(inner, path, self._names(inner, path), is_listed=is_listed)
        finally:
            os.close(inner)

    def _delete(self, folder: int, path: str, name: str) -> None:
        with blaming(f"deleting '{escape(path, SHOWN)}'"):
            if path.endswith("/"):
                os.rmdir(name, dir_fd=folder)
            else:
                self._disk.unlink(name, dir_fd=folder)

    def _found(self, path: str, error: Flow512Error | None = None) -> None:
        surplus = self.surplus
        surplus.count += 1
        if self._deletes and error is not None:
            if len(surplus.failed) < MAX_NAMED:
                surplus.failed.append((escape(path, SHOWN), str(error)))
            return
        surplus.deleted += self._deletes
        if len(surplus.paths) < MAX_NAMED:
            surplus.paths.append(escape(path, SHOWN))
