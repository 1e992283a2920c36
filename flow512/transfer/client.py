"""
What a node does with its peers: look at what they share, find a file among them, fetch it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater

from flow512.errors import Busy
from flow512.interfaces import RunBlocking
from flow512.link.address import HostPort
from flow512.link.introduction import Introduction
from flow512.link.open_connections import OpenConnections
from flow512.transfer.download import Checksum, Download
from flow512.transfer.fetch import Fetched, Fetcher, Target
from flow512.transfer.finding import ANSWERS_WITHIN, Candidate, Finder
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source, fell_silent
from flow512.units import PIECES_PER_BLOCK
from flow512.wire.messages import Entry, Listing

MOST_WAITS: Final = 5
"""How often in a row a source may say that it is busy before it is believed."""

LONGEST_WAIT: Final = 30.0
"""Seconds that a busy source is waited for before it is asked again, at most."""

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
    ) -> None:
        """
        @param introduction: what the node says of itself.
        @param clock: for deadlines.
        @param endpoint: makes the endpoint that connects to an address.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files; C{run_blocking} unless given.
        """
        self._introduction = introduction
        self._clock = clock
        self._endpoint = endpoint
        self._run_blocking = run_blocking
        self._run_long = run_long or run_blocking
        self._connections: OpenConnections[SourceProtocol] = OpenConnections()

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
        )
        return await connect_source(self._endpoint(candidate.address), factory)

    async def entries(self, source: SourceProtocol, prefix: str = "") -> AsyncIterator[Entry]:
        """
        Go through what a source shares, in the order of paths.

        @param prefix: only paths that begin with this.
        """
        after = ""
        while True:
            listing = await self._list(source, prefix, after)
            for entry in listing.entries:
                yield entry
            if not listing.more:
                return
            after = listing.entries[-1].path

    async def _list(self, source: SourceProtocol, prefix: str, after: str) -> Listing:
        # A long list takes more pages than a source gives at once.
        waits = 0
        while True:
            asked = source.list(prefix, after)
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
        run: int = PIECES_PER_BLOCK,
        checksum: Checksum = Checksum.MD5,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        progress: Callable[[Download], None] = lambda download: None,
    ) -> Fetched:
        """
        Find a file among peers, by path or by content id, and fetch it from the first who has it.

        @param candidates: whom to ask.
        @param target: where it is to go.
        @param run: pieces that a frame may carry, 1 to L{PIECES_PER_BLOCK}.
        @param checksum: whether the MD5 is compared at the end.
        @param found: told who has it, and what it is.
        @param progress: see L{Fetcher.fetch}.
        @raise Flow512Error: as L{Finder.find} and L{Fetcher.fetch}.
        """
        source_found = await Finder(self.connect, self._clock).find(
            candidates, path=path, root=root
        )
        source = source_found.source
        try:
            found(source_found.candidate, source_found.entry)
            fetcher = Fetcher(self._clock, self._run_blocking, self._run_long, run, checksum)
            return await fetcher.fetch(source, source_found.entry, target, progress)
        finally:
            source.leave()
