"""
Fetching a folder: its manifest first, and then its files, many small ones to a frame.

The course of a file of the manifest::

    manifest ──taken──> here already, or left out
                 ├────> small ──BUNDLE──> came whole ──verified, put in its place──> done
                 │                  └──not given so──┐
                 └────> large ───────────────────────┴──a download of its own──> done

Flow control. The manifest is read on only while less than L{AHEAD} bytes of small files are asked
for and not in their places; so neither a long manifest nor a slow disk fills the memory. Large
files, which are verified and stored block by block, are fetched one after the other, when the
manifest has come to its end. Workers do one thing at a time with the folder, in the order in which
it was to be done.

What fails for one file (it is gone, has changed, may not be called so) leaves out that file, and
the rest goes on. What fails for the folder (the disk is full, every source is gone) ends it;
what is in its place stays, and the next fetch skips it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from flow512.content.manifest import Item, ManifestReader
from flow512.content.paths import SHOWN, escape, open_folder
from flow512.content.tree import TreeVerifier, block_digest, root_digest
from flow512.content.unfolding import Existing, Unfolded, Unfolding
from flow512.errors import (
    BadDigest,
    Flow512Error,
    PeerLost,
    Refusal,
    TargetExists,
    UnsafeName,
    Violation,
    from_os_error,
)
from flow512.interfaces import RunBlocking
from flow512.transfer.fetch import at_its_end
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, PIECES_PER_BLOCK
from flow512.wire.bundle import MAX_BUNDLE, MAX_BUNDLED
from flow512.wire.messages import Entry

AHEAD: Final = 8 * 1024 * 1024
"""Bytes of small files that may be asked for and not in their places."""

BUNDLE_BYTES: Final = 1024 * 1024
"""Bytes of small files that one BUNDLE asks for, and one more of them."""

READ_AHEAD: Final = 8
"""Blocks of a manifest that are asked for at once."""

FILE: Final = 200
"""Bytes that a small file counts for besides its own."""

_T = TypeVar("_T")

FetchLarge = Callable[[Item], Awaitable[int]]
"""Fetches a large file to its place, and gives the bytes that came for it."""


@dataclass
class Progress:
    """
    How far a folder is.

    @ivar outcome: what became of the manifest so far.
    @ivar done: files that are in their places now, and were not before.
    @ivar stored: bytes of those.
    @ivar fetched: bytes that came for them.
    @ivar is_listed: whether the manifest has come to its end, so that C{outcome} counts all.
    """

    outcome: Unfolded
    done: int = 0
    stored: int = 0
    fetched: int = 0
    is_listed: bool = False


class FolderFetch:
    """
    Fetches one folder.
    """

    def __init__(
        self,
        sources: Sequence[SourceProtocol],
        run_blocking: RunBlocking,
        fetch_large: FetchLarge,
        *,
        is_wanted: Callable[[Item], bool] = lambda item: True,
        told: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """
        @param sources: open ones, who have the manifest.
        @param run_blocking: runs what waits for the disk.
        @param fetch_large: fetches what no bundle brings.
        @param is_wanted: whether something of the manifest is to be taken at all.
        @param told: called as it goes on.
        """
        self._sources = list(sources)
        self._run_blocking = run_blocking
        self._fetch_large = fetch_large
        self._is_wanted = is_wanted
        self._told = told
        self._turn = DeferredLock()
        self._large: list[Item] = []
        self._bundle: list[Item] = []
        self._bundle_size = 0
        self._ahead = 0
        self._room: Deferred[None] | None = None
        self._under_way: set[Deferred[None]] = set()
        self._failure: Failure | None = None
        self._next_source = 0

    async def fetch(self, entry: Entry, top: str, existing: Existing) -> Progress:
        """
        Fetch it.

        @param entry: the manifest's.
        @param top: the folder that it is to become; it is made if it is not there.
        @param existing: what becomes of files that are there and are others.
        @return: how it went.
        @raise Flow512Error: it could not be fetched to the end.
        """
        folder = await self._run_blocking(_made, top)
        unfolding = self._unfolding = Unfolding(folder, existing)
        progress = self._progress = Progress(unfolding.outcome)
        try:
            async for items in self._items(entry):
                await self._take([item for item in items if self._is_wanted(item)])
            self._ask_bundle()
            progress.is_listed = True
            await self._all_came()
            for item in self._large:
                await self._fetch_alone(item)
            await self._do(unfolding.finish)
        finally:
            for each in list(self._under_way):
                each.cancel()
            await at_its_end(self._do(_close, unfolding, folder))
        self._told(progress)
        return progress

    def _do(self, work: Callable[..., _T], *args: Any) -> Deferred[_T]:
        # Whoever does not want the result any more leaves the worker at it: the next has to wait.
        result: Deferred[_T] = Deferred()
        self._turn.run(self._run_blocking, work, *args).addCallbacks(
            result.callback, result.errback
        )
        return result

    # The manifest

    async def _items(self, entry: Entry) -> AsyncIterator[list[Item]]:
        reader = ManifestReader()
        async for block in _blocks(self._sources[0], entry):
            yield reader.feed(block)
        reader.finish()

    async def _take(self, items: Iterable[Item]) -> None:
        for item in await self._do(self._unfolding.take, items):
            if item.size > MAX_BUNDLED:
                self._large.append(item)
                continue
            self._bundle.append(item)
            self._bundle_size += item.size + FILE
            if len(self._bundle) == MAX_BUNDLE or self._bundle_size >= BUNDLE_BYTES:
                self._ask_bundle()
                while self._ahead >= AHEAD and self._failure is None:
                    self._room = Deferred()
                    await self._room
            self._check()
        self._told(self._progress)

    def _check(self) -> None:
        if self._failure is not None:
            self._failure.raiseException()

    # Small files

    def _ask_bundle(self) -> None:
        items, self._bundle = self._bundle, []
        size, self._bundle_size = self._bundle_size, 0
        if items:
            self._ahead += size
            under_way = Deferred.fromCoroutine(self._fetch_bundle(items))
            self._under_way.add(under_way)
            under_way.addErrback(self._failed)
            under_way.addBoth(lambda _: self._bundle_ended(under_way, size))

    def _failed(self, failure: Failure) -> None:
        self._failure = self._failure or failure

    def _bundle_ended(self, under_way: Deferred[None], size: int) -> None:
        self._under_way.discard(under_way)
        self._ahead -= size
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    async def _all_came(self) -> None:
        while self._under_way and self._failure is None:
            self._room = Deferred()
            await self._room
        self._check()

    async def _fetch_bundle(self, items: list[Item]) -> None:
        while items:
            source = self._choose_source()
            putting: list[Deferred[None]] = []
            came = 0

            def sink(
                first: int,
                contents: list[memoryview | None],
                items: list[Item] = items,
                putting: list[Deferred[None]] = putting,
            ) -> None:
                nonlocal came
                came = first + len(contents)
                batch = list(zip(items[first:], contents, strict=False))
                put = self._do(self._put, batch)
                putting.append(put.addCallback(self._put_ended).addErrback(self._failed))

            roots = [item.root or b"" for item in items]
            lost: Flow512Error | None = None
            try:
                await source.bundle(roots, sink)
            except (PeerLost, Refusal, Violation) as error:
                lost = error
            for each in putting:
                await each
            self._check()
            if lost is not None:
                self._give_up(source, lost)
            items = items[came:]

    def _choose_source(self) -> SourceProtocol:
        self._next_source += 1
        return self._sources[self._next_source % len(self._sources)]

    def _give_up(self, source: SourceProtocol, error: Flow512Error) -> None:
        if source in self._sources:
            self._sources.remove(source)
            source.leave()
        if not self._sources:
            raise error

    def _put(self, batch: list[tuple[Item, memoryview | None]]) -> tuple[int, int, list[Item]]:
        # In a worker.
        done = stored = 0
        alone: list[Item] = []
        for item, content in batch:
            if content is None:
                alone.append(item)
                continue
            digest = block_digest(content) if content else b""
            if len(content) != item.size or root_digest(item.size, digest) != item.root:
                raise BadDigest("The source sent another file than the one asked for.")
            try:
                self._unfolding.put(item, content)
            except (TargetExists, UnsafeName) as error:
                self._unfolding.outcome.leave_out(item.path, str(error))
                continue
            done += 1
            stored += item.size
        return done, stored, alone

    def _put_ended(self, result: tuple[int, int, list[Item]]) -> None:
        done, stored, alone = result
        self._progress.done += done
        self._progress.stored += stored
        self._progress.fetched += stored
        self._large += alone
        self._told(self._progress)

    # Files that come alone

    async def _fetch_alone(self, item: Item) -> None:
        try:
            self._progress.fetched += await self._fetch_large(item)
            await self._do(self._unfolding.finish_file, item)
        except (Refusal, TargetExists, UnsafeName) as error:
            self._progress.outcome.leave_out(item.path, str(error))
        else:
            self._progress.done += 1
            self._progress.stored += item.size
        self._told(self._progress)


def _close(unfolding: Unfolding, folder: int) -> None:
    unfolding.close()
    os.close(folder)


def _made(top: str) -> int:
    try:
        os.makedirs(top, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"making the folder '{escape(top, SHOWN)}'") from error
    return open_folder(top)


async def _blocks(source: SourceProtocol, entry: Entry) -> AsyncIterator[bytes]:
    """Read a small content in order, proven from the root down."""
    assert entry.root is not None
    root = entry.root
    verifier = TreeVerifier(root, entry.size)
    if not entry.size:
        verifier.add_page(0, 0, b"")
    blocks = verifier.shape.blocks
    for first in range(0, blocks, READ_AHEAD):
        for block in range(first, min(first + READ_AHEAD, blocks)):
            while (wanted := verifier.wanted(block)) is not None:
                verifier.add_page(*wanted, await source.page(root, *wanted))
        got: list[bytes] = []

        def sink(piece: int, data: bytes | bytearray, got: list[bytes] = got) -> None:
            got.append(bytes(data))
            source.buffers.give_back(data)

        begin = first * PIECES_PER_BLOCK
        end = -(-min((first + READ_AHEAD) * BLOCK, entry.size) // 512)
        await source.read(root, entry.size, begin, end - begin, PIECES_PER_BLOCK, sink)
        for block, data in enumerate(got, first):
            verifier.verify(block, data)
            yield data
