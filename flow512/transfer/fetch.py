"""
Fetching one file: from a source's entry to a published file under its own name.

The order matters: what can fail without a byte on its way fails first (the name, the target),
and nothing is published before everything has been verified.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from flow512.content.journal import read_boot_id
from flow512.content.partial import Partial
from flow512.content.paths import check_path, open_folder
from flow512.content.publish import check_target
from flow512.interfaces import RunBlocking
from flow512.transfer.download import Checksum, Download
from flow512.transfer.source import SourceProtocol
from flow512.units import PIECES_PER_BLOCK
from flow512.wire.messages import Entry


@dataclass(frozen=True)
class Target:
    """
    Where a file is to go.

    @ivar folder: an existing folder.
    @ivar name: what to call it there; its own name if empty.
    @ivar replace: whether it may take the place of another file.
    """

    folder: str
    name: str = ""
    replace: bool = False

    def name_for(self, entry: Entry) -> str:
        """
        Say what a file is to be called.

        @raise UnsafeName: its own name must not touch this machine's disk.
        """
        return self.name or check_path(entry.path)[-1]


@dataclass(frozen=True)
class Fetched:
    """
    What became of a fetch.

    @ivar entry: what the source said of the file.
    @ivar path: where it is now.
    @ivar resumed: bytes that an earlier download had left.
    @ivar fetched: bytes that came now.
    @ivar md5: of the file; L{None} if it was not wanted.
    """

    entry: Entry
    path: str
    resumed: int
    fetched: int
    md5: bytes | None


@dataclass(frozen=True)
class Fetcher:
    """
    Fetches files from open sources.

    @ivar clock: for deadlines.
    @ivar run_blocking: runs what waits for the disk.
    @ivar run_long: runs what hashes whole files.
    @ivar run: pieces that a frame may carry, 1 to L{PIECES_PER_BLOCK}.
    @ivar checksum: whether the MD5 is compared at the end.
    """

    clock: IReactorTime
    run_blocking: RunBlocking
    run_long: RunBlocking
    run: int = PIECES_PER_BLOCK
    checksum: Checksum = Checksum.MD5

    async def fetch(
        self,
        source: SourceProtocol,
        entry: Entry,
        target: Target,
        progress: Callable[[Download], None] = lambda _: None,
    ) -> Fetched:
        """
        Fetch one file and publish it.

        @param source: an open one.
        @param entry: what it said of the file.
        @param target: where the file is to go.
        @param progress: called with the download, first when it begins and then as it grows.
        @raise Flow512Error: as L{Download.start}, and L{flow512.errors.TargetExists},
            L{flow512.errors.UnsafeName}, L{flow512.errors.StateInUse}. What was verified until
            then stays in the partial file, and the next fetch goes on from there.
        """
        name = target.name_for(entry)
        opened = await self.run_blocking(_open, target, name, entry)
        download = Download(
            source,
            opened.partial,
            self.clock,
            self.run_blocking,
            self.run_long,
            run=self.run,
            checksum=self.checksum,
            progress=progress,
        )
        resumed = download.stored
        try:
            progress(download)
            await download.start()
            await self.run_blocking(opened.publish, target.replace, entry.mtime)
        finally:
            await download.idle()
            await self.run_blocking(opened.close)
        path = os.path.join(target.folder, name)
        return Fetched(entry, path, resumed, download.fetched, download.md5)


@dataclass(frozen=True)
class _Opened:
    """A partial file and the folder that it is in."""

    folder: int
    partial: Partial

    def publish(self, replace: bool, mtime: int) -> None:
        self.partial.publish(replace=replace, mtime_ns=mtime)

    def close(self) -> None:
        self.partial.close()
        os.close(self.folder)


def _open(target: Target, name: str, entry: Entry) -> _Opened:
    assert entry.root is not None
    folder = open_folder(target.folder)
    try:
        check_target(folder, name, entry.root, replace=target.replace)
        partial = Partial.open(folder, name, entry.root, entry.size, read_boot_id())
    except BaseException:
        os.close(folder)
        raise
    return _Opened(folder, partial)
