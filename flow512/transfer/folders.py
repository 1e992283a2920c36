"""
Fetching a folder: its manifest first, and then its files, many small ones to a frame.

The course of a file of the manifest::

    manifest ──taken──> here already, or left out
                 ├────> small ──BUNDLE──> came whole ──verified, put in its place──> done
                 │                  └──not given so──┐
                 └────> large ───────────────────────┴──a download of its own──> done

The manifest is worked on as it comes, some hundred files at a time: those that are wanted are asked
for while the rest is on its way, and what has come is verified and written meanwhile.

Flow control. The manifest is read on only while less than L{AHEAD} bytes of small files are asked
for and not in their places; so neither a long manifest nor a slow disk fills the memory. Large
files, which are verified and stored block by block, are fetched one after the other, when the
manifest has come to its end. Workers do one thing at a time with the folder, in the order in which
it was to be done.

A source that sends something wrong, or nothing at all for long, is left out; what it was asked for
is asked of the others.

What fails for one file (it is gone, has changed, may not be called so) leaves out that file, and
the rest goes on; so does a folder that may not be called so, with all that is in it. What fails for
the whole (the disk is full, nothing may be written, every source is gone) ends it; what is in its
place stays, and the next fetch skips it.

What is in the folder and not in the manifest is looked for when all else is done, and deleted only
if everything that is wanted has come. What is wanted in the place of something that is to be
deleted, a file where a folder is or the reverse, comes after that.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, DeferredQueue, succeed
from twisted.python.failure import Failure

from flow512.content.choosing import Choosing
from flow512.content.manifest import Item, ManifestReader
from flow512.content.mirroring import Beyond, Mirror, Surplus
from flow512.content.paths import SHOWN, escape, open_folder
from flow512.content.placing import Existing
from flow512.content.tree import TreeVerifier, block_digest, root_digest
from flow512.content.unfolding import Obstacles, Permissions, Unfolded, Unfolding
from flow512.errors import (
    BadDigest,
    Flow512Error,
    Misuse,
    NotFound,
    Refusal,
    TargetExists,
    Unreachable,
    UnsafeName,
    Violation,
    from_os_error,
)
from flow512.interfaces import RunBlocking, at_its_end
from flow512.transfer.folder_sources import FolderSources
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK
from flow512.wire.bundle import MAX_BUNDLE, MAX_BUNDLED
from flow512.wire.messages import Entry

AHEAD: Final = 8 * 1024 * 1024
"""Bytes of small files that may be asked for and not in their places."""

BUNDLE_BYTES: Final = 1024 * 1024
"""Bytes of small files that one BUNDLE asks for, and one more of them."""

READ_AHEAD: Final = 8
"""Blocks of a manifest that are asked for at once; each is taken as it comes."""

TAKEN: Final = 400
"""Items of a manifest that a worker is given at once, so that the first are soon asked for."""

MAX_MANIFEST: Final = 256 * 1024 * 1024
"""Bytes of a manifest, some two million files; what it says is held in memory."""

FILE: Final = 200
"""Bytes that a small file counts for besides its own."""

_T = TypeVar("_T")

FetchLarge = Callable[[Item], Awaitable[int]]
"""Fetches a large file to its place, and gives the bytes that came for it."""


class Progress(msgspec.Struct):
    """
    How far a folder is.

    @ivar outcome: what became of the manifest so far.
    @ivar done: files that are in their places now, and were not before.
    @ivar stored: bytes of those.
    @ivar fetched: bytes that came for them.
    @ivar is_listed: whether the manifest has come to its end, so that C{outcome} counts all.
    @ivar surplus: what is here beyond the manifest; L{None} before that was looked for.
    """

    outcome: Unfolded
    done: int = 0
    stored: int = 0
    fetched: int = 0
    is_listed: bool = False
    surplus: Surplus | None = None


class _Put(msgspec.Struct):
    """
    What became of some of the small files that came.

    @ivar done: files that are in their places.
    @ivar stored: bytes of those.
    @ivar settled: what these, and those that are not asked for again, counted for.
    @ivar alone: files that no bundle brings.
    """

    done: int = 0
    stored: int = 0
    settled: int = 0
    alone: list[Item] = msgspec.field(default_factory=list)


class FolderFetch:
    """
    Fetches one folder.
    """

    def __init__(
        self,
        sources: FolderSources,
        run_blocking: RunBlocking,
        fetch_large: FetchLarge,
        *,
        is_wanted: Callable[[Item], bool] = lambda item: True,
        told: Callable[[Progress], None] = lambda progress: None,
        left_out: Callable[[str, str], None] = lambda path, reason: None,
        origin: str | None = None,
    ) -> None:
        """
        @param sources: those who have the manifest.
        @param run_blocking: runs what waits for the disk.
        @param fetch_large: fetches what no bundle brings.
        @param is_wanted: whether something of the manifest is to be taken at all; asked in workers.
            Of a folder, it says nothing about what is in it: that is asked about, too.
        @param told: called as it goes on.
        @param left_out: called with each path that is left out, escaped, and why, as it goes on.
        @param origin: as for L{Unfolding}.
        """
        self._sources = sources
        self._run_blocking = run_blocking
        self._fetch_large = fetch_large
        self._is_wanted = is_wanted
        self._told = told
        self._left_out = left_out
        self._origin = origin
        self._turn = DeferredLock()
        self._large: list[Item] = []
        self._bundle: list[Item] = []
        self._bundle_size = 0
        self._ahead = 0
        self._room: Deferred[None] | None = None
        self._reading: Deferred[None] = succeed(None)  # of the manifest
        self._under_way: set[Deferred[None]] = set()
        self._failure: Failure | None = None

    async def fetch(
        self,
        entry: Entry,
        top: str,
        existing: Existing,
        beyond: Beyond = Beyond.IGNORE,
        verifier: TreeVerifier | None = None,
    ) -> Progress:
        """
        Fetch it.

        @param entry: the manifest's.
        @param top: the folder that it is to become; it is made if it is not there, and goes again
            if this fails before anything is in it.
        @param existing: what becomes of files that are there and are others.
        @param beyond: what becomes of what is wanted, and is there and not in the manifest. If
            anything was left out, it is counted and not deleted. Unless it is ignored, files that
            are unchanged get the permissions of the manifest, as those do that come.
        @param verifier: of the manifest, with what is proven of it; a new one unless given.
        @return: how it went.
        @raise NotFound: nothing in it is wanted.
        @raise Flow512Error: it could not be fetched to the end; nothing was deleted, unless
            C{surplus} says so.
        """
        (folder, made), is_unwanted = await at_its_end(self._run_blocking(_made, top))
        if is_unwanted:
            await at_its_end(self._run_blocking(_unmake, folder, made))
            raise CancelledError
        looks = beyond is not Beyond.IGNORE
        unfolding = self._unfolding = Unfolding(
            folder,
            existing,
            origin=self._origin,
            permissions=Permissions.ALL if looks else Permissions.NEW,
            # What is in the way is deleted with all else that the peer does not have.
            obstacles=Obstacles.WAIT if beyond is Beyond.DELETE else Obstacles.LEAVE_OUT,
        )
        progress = self._progress = Progress(unfolding.outcome)
        mirror = self._mirror = Mirror(folder, self._is_wanted) if looks else None
        try:
            async for wanted in self._wanted(entry, verifier):
                for first in range(0, len(wanted), TAKEN):
                    await self._take(unfolding.take, wanted[first : first + TAKEN])
            await self._all_is_asked_for()
            if mirror is None:
                await self._do(unfolding.finish)
            else:
                await self._compare(mirror, beyond)
            made = []  # it is what was wanted, even if it is empty
        finally:
            for each in [self._reading, *self._under_way]:
                each.cancel()
            if mirror is not None:
                mirror.stop()
            await at_its_end(self._do(_close, unfolding, folder, mirror, made))
            self._tell_left_out()
        self._told(progress)
        return progress

    async def _compare(self, mirror: Mirror, beyond: Beyond) -> None:
        unfolding, progress = self._unfolding, self._progress
        is_whole = not progress.outcome.left_out_count
        if not unfolding.waits:
            await self._do(unfolding.finish)
            progress.surplus = mirror.surplus
            await self._do(mirror.compare, beyond if is_whole else Beyond.COUNT)
            return
        progress.surplus = mirror.surplus
        await self._do(mirror.compare, beyond if is_whole else Beyond.COUNT)
        choosing, items = Choosing(self._is_wanted), mirror.items()
        while (some := await self._do(_some, choosing, items)) is not None:
            if is_whole:
                await self._take(unfolding.take_waiting, some)
            else:
                await self._do(unfolding.leave_out_waiting, some)
        await self._all_is_asked_for()
        await self._do(unfolding.finish)

    async def _all_is_asked_for(self) -> None:
        self._ask_bundle()
        self._progress.is_listed = True
        await self._all_came()
        large, self._large = self._large, []
        for item in large:
            await self._fetch_alone(item)

    def _tell(self) -> None:
        self._tell_left_out()
        self._told(self._progress)

    def _tell_left_out(self) -> None:
        news = self._progress.outcome.news
        while news:
            self._left_out(*news.popleft())

    def _do(self, work: Callable[..., _T], *args: Any) -> Deferred[_T]:
        # Whoever does not want the result any more leaves the worker at it: the next has to wait.
        result: Deferred[_T] = Deferred()
        self._turn.run(self._run_blocking, work, *args).addCallbacks(
            result.callback, result.errback
        )
        return result

    # The manifest

    async def _wanted(
        self, entry: Entry, verifier: TreeVerifier | None
    ) -> AsyncIterator[list[Item]]:
        if entry.size > MAX_MANIFEST:
            raise Misuse("The list of that folder is too long; ask for the folders in it.")
        reader = ManifestReader()
        choosing = Choosing(self._is_wanted)
        verifier = verifier or TreeVerifier(entry.root or b"", entry.size)
        async for block in self._blocks(entry, verifier):
            yield await self._do(self._choose, reader, choosing, block)
        reader.finish()
        if choosing.seen and not choosing.chosen:
            raise NotFound("Nothing in that folder fits; check --include and --exclude.")

    def _choose(self, reader: ManifestReader, choosing: Choosing, block: bytes) -> list[Item]:
        # In a worker: a page that was made for it takes long.
        if self._mirror is not None:
            self._mirror.keep(block)
        return choosing.choose(reader.feed(block))

    async def _blocks(self, entry: Entry, verifier: TreeVerifier) -> AsyncIterator[bytes]:
        """Read the manifest, proven, each part from the first source that gives it."""
        if not entry.size:
            verifier.add_page(0, 0, b"")
        block = 0
        while block < verifier.shape.blocks:
            source = self._sources.first
            # What comes is worked on while the rest is on its way.
            came: DeferredQueue[bytes | Failure | None] = DeferredQueue()
            self._reading = Deferred.fromCoroutine(
                self._read(source, entry, verifier, block, came.put)
            )
            self._reading.addBoth(came.put)
            try:
                while isinstance(part := await came.get(), bytes):
                    verifier.verify(block, part)
                    block += 1
                    yield part
                if part is not None:
                    part.raiseException()
            except BadDigest as error:
                self._sources.lied(source, error)
                await self._sources.failed(source, error)
            except (Unreachable, Refusal, Violation) as error:
                await self._sources.failed(source, error)

    async def _read(
        self,
        source: SourceProtocol,
        entry: Entry,
        verifier: TreeVerifier,
        first: int,
        came: Callable[[bytes], None],
    ) -> None:
        """Read some blocks of the manifest, not proven yet, and the pages that prove them."""
        assert entry.root is not None
        last = min(first + READ_AHEAD, verifier.shape.blocks)
        for block in range(first, last):
            while (wanted := verifier.wanted(block)) is not None:
                page = await self._sources.unless_silent(source, source.page(entry.root, *wanted))
                verifier.add_page(*wanted, page)

        def sink(piece: int, data: bytes | bytearray) -> None:
            self._sources.heard(source)
            came(bytes(data))
            source.buffers.give_back(data)

        begin = first * PIECES_PER_BLOCK
        end = -(-min(last * BLOCK, entry.size) // PIECE)
        await self._sources.unless_silent(
            source,
            source.read(entry.root, entry.size, begin, end - begin, PIECES_PER_BLOCK, sink),
        )

    async def _take(
        self, take: Callable[[Iterable[Item]], list[Item]], items: Iterable[Item]
    ) -> None:
        for item in await self._do(take, items):
            if item.size > MAX_BUNDLED:
                self._large.append(item)
                continue
            self._bundle.append(item)
            self._bundle_size += _weight(item)
            if len(self._bundle) == MAX_BUNDLE or self._bundle_size >= BUNDLE_BYTES:
                self._ask_bundle()
                while self._ahead >= AHEAD and self._failure is None:
                    self._room = Deferred()
                    await self._room
            self._check()
        self._tell()

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
            under_way.addBoth(lambda _: self._bundle_ended(under_way))

    def _failed(self, failure: Failure) -> None:
        self._failure = self._failure or failure

    def _bundle_ended(self, under_way: Deferred[None]) -> None:
        self._under_way.discard(under_way)
        self._wake()

    def _wake(self) -> None:
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
            source = self._sources.choose()
            putting: list[Deferred[None]] = []
            wrong: list[Item] = []
            came = 0

            def sink(
                first: int,
                contents: list[memoryview | None],
                items: list[Item] = items,
                putting: list[Deferred[None]] = putting,
                wrong: list[Item] = wrong,
                source: SourceProtocol = source,
            ) -> None:
                nonlocal came
                came = first + len(contents)
                batch = list(zip(items[first:], contents, strict=False))
                self._sources.heard(source)
                put = self._do(self._put, batch, wrong)
                putting.append(put.addCallback(self._put_ended).addErrback(self._failed))

            roots = [item.root or b"" for item in items]
            sizes = [item.size for item in items]
            lost: Flow512Error | None = None
            try:
                await self._sources.unless_silent(source, source.bundle(roots, sizes, sink))
            except (Unreachable, Refusal, Violation) as error:
                lost = error
            for each in putting:
                await each
            self._check()
            if wrong:
                lost = BadDigest("The source sent another file than the one asked for.")
                self._sources.lied(source, lost)
            if lost is not None:
                await self._sources.failed(source, lost)
            items = wrong + items[came:]

    def _put(self, batch: list[tuple[Item, memoryview | None]], wrong: list[Item]) -> _Put:
        # In a worker.
        put = _Put()
        for item, content in batch:
            if content is None:
                put.alone.append(item)
                put.settled += _weight(item)
                continue
            if len(content) != item.size or not _is_right(item, content):
                wrong.append(item)
                continue
            put.settled += _weight(item)
            try:
                self._unfolding.placing.put(item, content)
            except (TargetExists, UnsafeName) as error:
                self._unfolding.outcome.leave_out(item.path, str(error))
                continue
            put.done += 1
            put.stored += item.size
        return put

    def _put_ended(self, put: _Put) -> None:
        self._progress.done += put.done
        self._progress.stored += put.stored
        self._progress.fetched += put.stored
        self._large += put.alone
        self._ahead -= put.settled
        self._tell()
        self._wake()

    # Files that come alone

    async def _fetch_alone(self, item: Item) -> None:
        try:
            self._progress.fetched += await self._fetch_large(item)
            await self._do(self._unfolding.placing.finish_file, item)
        except (Refusal, TargetExists, UnsafeName) as error:
            self._progress.outcome.leave_out(item.path, str(error))
        else:
            self._progress.done += 1
            self._progress.stored += item.size
        self._tell()


def _is_right(item: Item, content: memoryview) -> bool:
    return root_digest(item.size, block_digest(content) if content else b"") == item.root


def _some(choosing: Choosing, items: Iterator[Item]) -> list[Item] | None:
    """Choose among the next items of a manifest; None if there are no more."""
    some = list(islice(items, TAKEN))
    return choosing.choose(some) if some else None


def _weight(item: Item) -> int:
    return item.size + FILE


def _close(
    unfolding: Unfolding, folder: int, mirror: Mirror | None, made_for_nothing: Sequence[str]
) -> None:
    unfolding.close()
    if mirror is not None:
        mirror.close()
    _unmake(folder, made_for_nothing)


def _unmake(folder: int, made_for_nothing: Sequence[str]) -> None:
    os.close(folder)
    with suppress(OSError):  # something is in it
        for path in made_for_nothing:
            os.rmdir(path)


def _made(top: str) -> tuple[int, list[str]]:
    """Open a folder, and name those that had to be made for it, itself first."""
    made = []
    path = top.rstrip("/")
    while path and not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path).rstrip("/")
    try:
        os.makedirs(top, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"making the folder '{escape(top, SHOWN)}'") from error
    return open_folder(top), made
