"""
Fetching one file: from a source's entry to a published file under its own name.

The order matters: what can fail before the disk is touched fails first (the name; a root and a
size that do not belong together), then what can fail without a byte on its way (the target), and
nothing is published before everything has been verified.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from flow512.content.journal import read_boot_id
from flow512.content.partial import Partial
from flow512.content.paths import check_path, open_folder
from flow512.content.publish import check_target
from flow512.content.tree import TreeVerifier
from flow512.errors import Cancelled
from flow512.interfaces import RunBlocking
from flow512.transfer.download import Checksum, DamagedPartial, Download
from flow512.transfer.source import SourceProtocol, fell_silent
from flow512.units import PIECES_PER_BLOCK
from flow512.wire.messages import Entry

_T = TypeVar("_T")


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
        verifier = await self._prove(source, entry)
        try:
            return await self._fetch_into(source, entry, target, name, verifier, progress)
        except DamagedPartial:
            # Nothing of it is trusted now: what is right is found by its digests, and kept.
            return await self._fetch_into(source, entry, target, name, verifier, progress)

    async def _fetch_into(
        self,
        source: SourceProtocol,
        entry: Entry,
        target: Target,
        name: str,
        verifier: TreeVerifier,
        progress: Callable[[Download], None],
    ) -> Fetched:
        opened, is_unwanted = await _at_its_end(self.run_blocking(_open, target, name, entry))
        download = Download(
            source,
            opened.partial,
            self.clock,
            self.run_blocking,
            self.run_long,
            verifier=verifier,
            run=self.run,
            checksum=self.checksum,
            progress=progress,
        )
        resumed = download.stored
        try:
            if is_unwanted:
                raise Cancelled("The download was stopped.")
            progress(download)
            try:
                await download.start()
            except DamagedPartial:
                await _at_its_end(download.idle())
                await _at_its_end(self.run_blocking(opened.partial.distrust))
                raise
            await _at_its_end(self.run_blocking(opened.publish, target.replace, entry.mtime))
        finally:
            await _at_its_end(download.idle())
            await _at_its_end(self.run_blocking(opened.close))
        path = os.path.join(target.folder, name)
        return Fetched(entry, path, resumed, download.fetched, download.md5)

    async def _prove(self, source: SourceProtocol, entry: Entry) -> TreeVerifier:
        # A lie about the size must not cost what an earlier download has left.
        assert entry.root is not None
        verifier = TreeVerifier(entry.root, entry.size)
        top = verifier.shape.levels - 1
        page = b""
        if entry.size:
            asked = source.page(entry.root, top, 0)
            asked.addTimeout(source.patience.silence * 2, self.clock, fell_silent)
            page = await asked
        verifier.add_page(top, 0, page)
        return verifier


async def _at_its_end(work: Deferred[_T]) -> tuple[_T, bool]:
    """
    Wait for a worker, even if nobody wants its result any longer: it does not stop for that, and
    what it holds has to be closed.

    @return: its result, and whether the wait was cancelled.
    """
    ended: list[_T | Failure] = []
    waiting: Deferred[None] = Deferred()
    is_unwanted = False

    def done(result: _T | Failure) -> None:
        ended.append(result)
        if not waiting.called:
            waiting.callback(None)

    work.addBoth(done)
    while not ended:
        try:
            await waiting
        except CancelledError:
            is_unwanted = True
            waiting = Deferred()
    result = ended[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result, is_unwanted


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
