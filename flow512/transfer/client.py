"""
What a node does with its peers: look at what they share, find a file among them, fetch it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from random import Random, SystemRandom
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater

from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond
from flow512.content.outlet import Outlet
from flow512.content.placing import Existing
from flow512.errors import Busy, Flow512Error, NotFound
from flow512.interfaces import WRITING, AtMost, RunBlocking
from flow512.link.address import HostPort
from flow512.link.introduction import Introduction
from flow512.link.open_connections import OpenConnections
from flow512.link.throttle import Throttle
from flow512.transfer.at_once import AtOnce, wait_if_begun
from flow512.transfer.blocks import BlockSource, buffers_for
from flow512.transfer.download import Checksum, Download
from flow512.transfer.exchange import Exchange
from flow512.transfer.fetch import Fetched, Fetcher, Growing, Target
from flow512.transfer.finding import ANSWERS_WITHIN, Candidate, Finder
from flow512.transfer.folder_sources import FolderSources
from flow512.transfer.folders import FolderFetch
from flow512.transfer.folders import Progress as FolderProgress
from flow512.transfer.gathering import Gathering
from flow512.transfer.pace import WINDOW
from flow512.transfer.proof import Proof
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source, fell_silent
from flow512.units import LONGEST_RUN
from flow512.wire.fields import MAX_LIST
from flow512.wire.messages import Entry, Listing

MOST_WAITS: Final = 5
"""How often in a row a source may say that it is busy before it is believed."""

LONGEST_WAIT: Final = 30.0
"""Seconds that a busy source is waited for before it is asked again, at most."""

FIRST_LISTED: Final = 100
"""Entries of a list that are asked for first, so that somebody soon has something to read."""

LAST_WORDS: Final = 1.0
"""Seconds that a node which stops waits for its sources to close as well."""


class TransferClient:
    """
    Talks to sources on behalf of one node.
    """

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        endpoint: Callable[[HostPort | str], IStreamClientEndpoint],
        run_blocking: RunBlocking,
        run_long: RunBlocking | None = None,
        down: Throttle | None = None,
        random: Random | None = None,
    ) -> None:
        """
        @param introduction: what the node says of itself.
        @param clock: for deadlines.
        @param endpoint: makes the endpoint that connects to an address.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files; C{run_blocking} unless given.
        @param down: how fast it fetches, from all sources together; no limit unless given.
        @param random: chooses among blocks that are equally rare.
        """
        self._introduction = introduction
        self._clock = clock
        self._endpoint = endpoint
        # However slow the disk is that is written to, workers are left for those who are served.
        self._run_blocking = AtMost(run_blocking, WRITING).on("downloads")
        self._run_long = run_long or run_blocking
        self._random = random or SystemRandom()
        self._down = down
        self._connections: OpenConnections[SourceProtocol] = OpenConnections()
        self._buffers = buffers_for(WINDOW)

    async def stop(self) -> None:
        """
        Close every connection. What was asked for fails.
        """
        for source in self._connections:
            source.leave()
        gone = self._connections.when_none()
        # Nobody waits longer than that for the last word of a peer that may be dead.
        hurry = self._clock.callLater(LAST_WORDS, self._abort)
        await gone
        if hurry.active():
            hurry.cancel()

    def _abort(self) -> None:
        for source in self._connections:
            source.connection.abortConnection()

    async def connect(self, candidate: Candidate) -> SourceProtocol:
        """
        Open a conversation.

        @return: the source, for the caller to leave.
        @raise Flow512Error: as L{connect_source}; also L{flow512.errors.Violation} if another
            node answers there.
        """
        factory = SourceFactory(
            self._introduction,
            self._clock,
            expected=candidate.node,
            connections=self._connections,
            down=self._down,
            buffers=self._buffers,
        )
        return await connect_source(self._endpoint(candidate.address), factory)

    async def entries(self, source: SourceProtocol, prefix: str = "") -> AsyncIterator[Entry]:
        """
        Go through what a source shares, in the order of paths.

        @param prefix: only paths that begin with this.
        """
        async with aclosing(self.pages(source, prefix)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def pages(
        self, source: SourceProtocol, prefix: str = ""
    ) -> AsyncGenerator[Sequence[Entry], None]:
        """
        Go through what a source shares as it comes, up to a thousand entries at a time. The next
        ones are on their way while these are looked at.

        @param prefix: only paths that begin with this.
        """
        coming: Deferred[Listing] | None = self._begin_list(source, prefix, "", FIRST_LISTED)
        try:
            while coming is not None:
                listing = await coming
                after = listing.entries[-1].path if listing.more else ""
                coming = self._begin_list(source, prefix, after) if listing.more else None
                yield listing.entries
        finally:
            if coming is not None:
                # Whoever wants no more does not wait to hear that it failed.
                coming.addErrback(lambda failure: None)
                coming.cancel()

    def _begin_list(
        self, source: SourceProtocol, prefix: str, after: str, limit: int = MAX_LIST
    ) -> Deferred[Listing]:
        return Deferred.fromCoroutine(self._list(source, prefix, after, limit))

    async def _list(self, source: SourceProtocol, prefix: str, after: str, limit: int) -> Listing:
        # A long list takes more pages than a source gives at once.
        waits = 0
        while True:
            asked = source.list(prefix, after, limit)
            asked.addTimeout(ANSWERS_WITHIN, self._clock, fell_silent)
            try:
                return await asked
            except Busy as busy:
                if waits == MOST_WAITS:
                    raise
                waits += 1
                await deferLater(self._clock, min(busy.retry_after, LONGEST_WAIT))

    async def get(
        self,
        candidates: Sequence[Candidate],
        target: Target,
        *,
        path: str = "",
        root: bytes | None = None,
        others: Callable[[], Awaitable[Sequence[Candidate]]] | None = None,
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        run: int = LONGEST_RUN,
        checksum: Checksum = Checksum.MD5,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        progress: Callable[[Growing], None] = lambda download: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        exchange: Exchange | None = None,
    ) -> Fetched:
        """
        Find a file among peers, by path or by content id, and fetch it from all who have it.

        @param candidates: whom to ask.
        @param target: where it is to go.
        @param others: see L{Finder.find_all}.
        @param also: further sources, which may have its blocks and cannot say what it is. They
            are left in the end.
        @param run: pieces that a frame may carry, 1 to L{LONGEST_RUN}.
        @param checksum: whether the MD5 is compared at the end.
        @param found: told who was the first to have it, and what it is.
        @param progress: see L{Fetcher.fetch}.
        @param blame: see L{Fetcher.fetch}.
        @param passed_over: see L{Fetcher.fetch}; also of those who have it not, or are not reached.
        @param exchange: how further sources are found, and others find this download; L{None} for
            nobody but C{candidates} and C{also}.
        @raise Flow512Error: as L{Finder.find_all} and L{Fetcher.fetch}. If nobody knows the root
            yet, and the file is large, the first who has it sends it all the same: then as
            L{AtOnce.fetch}, and what C{found} is told has no root.
        """
        gathering = self._gather(exchange, progress, also)
        finder = Finder(self.connect, self._clock, gathering.came_later, passed_over)
        try:
            asked = finder.find_all(
                candidates, path=path, root=root, at_once=bool(path), others=others
            )
            sources = gathering.begin_with(await asked)
            if sources[0].entry.root is None:
                sources = [await wait_if_begun(sources[0], target, self._run_blocking)]
            found(sources[0].candidate, sources[0].entry)
            if sources[0].entry.root is None:
                for who, _ in also:
                    passed_over(who, NotFound("Nobody can verify yet what it would send."))
                return await AtOnce(
                    sources[0],
                    target,
                    self._clock,
                    self._run_blocking,
                    self._run_long,
                    run,
                    progress,
                    blame,
                ).fetch()
            fetcher = Fetcher(
                self._clock,
                self._run_blocking,
                self._run_long,
                self._random,
                run,
                checksum,
                None if exchange is None else exchange.offers,
            )
            return await fetcher.fetch(sources, target, gathering.progress, blame, passed_over)
        finally:
            finder.stop()
            gathering.end()

    def _gather(
        self,
        exchange: Exchange | None,
        progress: Callable[[Download], None],
        also: Sequence[tuple[Candidate, BlockSource]],
    ) -> Gathering:
        return Gathering(
            self.connect, self._clock, self._random, exchange=exchange, told=progress, also=also
        )

    async def stream(
        self,
        candidates: Sequence[Candidate],
        open_outlet: Callable[[Entry], Outlet],
        *,
        path: str = "",
        root: bytes | None = None,
        others: Callable[[], Awaitable[Sequence[Candidate]]] | None = None,
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        exchange: Exchange | None = None,
    ) -> Outlet:
        """
        Find a file among peers, and write it on as it comes, verified and in order.

        @param candidates: whom to ask.
        @param open_outlet: says where it goes, once its size is proven.
        @param others: see L{Finder.find_all}.
        @param also: see L{get}.
        @param blame: told who sent something wrong, and what.
        @param passed_over: see L{get}.
        @param exchange: how further sources are found; see L{get}.
        @return: where it went.
        @raise Flow512Error: as L{Finder.find_all} and L{Fetcher.stream}.
        """
        gathering = self._gather(exchange, lambda download: None, also)
        finder = Finder(self.connect, self._clock, gathering.came_later, passed_over)
        try:
            asked = finder.find_all(candidates, path=path, root=root, others=others)
            sources = gathering.begin_with(await asked)
            fetcher = Fetcher(self._clock, self._run_blocking, self._run_long, self._random)
            return await fetcher.stream(
                sources, open_outlet, gathering.progress, blame, passed_over
            )
        finally:
            finder.stop()
            gathering.end()

    async def get_folder(
        self,
        candidates: Sequence[Candidate],
        top: str,
        *,
        path: str = "",
        root: bytes | None = None,
        existing: Existing = Existing.KEEP,
        beyond: Beyond = Beyond.IGNORE,
        is_wanted: Callable[[Item], bool] = lambda item: True,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        told: Callable[[FolderProgress], None] = lambda progress: None,
        growing: Callable[[Download], None] = lambda download: None,
        left_out: Callable[[str, str], None] = lambda path, reason: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> FolderProgress:
        """
        Find a folder among peers, by path or by its manifest's content id, and fetch it.

        @param candidates: whom to ask.
        @param top: the folder that it is to become; it is made if it is not there.
        @param path: with a slash at its end.
        @param existing: what becomes of files that are there and are others.
        @param beyond: what becomes of what is there and not in the manifest.
        @param is_wanted: as for L{FolderFetch}.
        @param found: told who was the first to have it, and what its manifest is.
        @param told: called as it goes on.
        @param growing: called with the download of a large file, as it grows.
        @param left_out: called with each path that is left out, escaped, and why, as it goes on.
        @param blame: see L{Fetcher.fetch}.
        @raise Flow512Error: as L{Finder.find_all} and L{FolderFetch.fetch}.
        """
        finder = Finder(self.connect, self._clock)
        found_at = await finder.find_all(candidates, path=path, root=root)
        replace = existing is Existing.REPLACE
        fetcher = Fetcher(
            self._clock,
            self._run_blocking,
            self._run_long,
            self._random,
            checksum=Checksum.RESUMED,
        )

        async def fetch_large(item: Item) -> int:
            entry = Entry(item.path, item.size, item.mtime, item.root)
            *folders, name = item.path.split("/")
            fetched = await fetcher.fetch(
                sources.lend(entry),
                Target(top, name, replace, tuple(folders)),
                growing,
                sources.blame,
            )
            return fetched.fetched

        try:
            proof = Proof(found_at, self._clock, blame, lambda who, reason: None)
            proven = await proof.settle()
            left = sorted((each for each in found_at if each in proven), key=proven.index)
            entry = proven[0].entry
            found(proven[0].candidate, entry)
            sources = FolderSources(
                {each.source: each.candidate for each in left}, self._clock, blame
            )
            fetch = FolderFetch(
                sources,
                self._run_blocking,
                fetch_large,
                is_wanted=is_wanted,
                told=told,
                left_out=left_out,
                origin=path.removeprefix("/") if path else None,
            )
            return await fetch.fetch(entry, top, existing, beyond, proof.verifier)
        finally:
            for each in found_at:
                each.source.leave()
