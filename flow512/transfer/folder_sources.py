"""
The sources of one folder: all its files are asked of them, so none is left for the sake of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

from flow512.errors import Busy, Flow512Error
from flow512.transfer.blocks import Sink
from flow512.transfer.finding import Candidate
from flow512.transfer.senders import telling_most
from flow512.transfer.source import SourceProtocol
from flow512.transfer.swarm import silent
from flow512.wire.messages import Entry

BUSY_FOR: Final = 120.0
"""Seconds for which a source may say that it is busy while nothing comes from it."""

LONGEST_WAIT: Final = 30.0
"""Seconds until it is asked again, at most, whatever it says."""

_T = TypeVar("_T")


class Lent:
    """
    A source as the fetch of one file sees it, which may do without it: others go on.
    """

    def __init__(self, source: SourceProtocol) -> None:
        self._source = source
        self.buffers = source.buffers
        self.patience = source.patience

    @property
    def is_held_back(self) -> bool:
        return self._source.is_held_back

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        return self._source.page(root, level, index)

    def checksum(self, root: bytes) -> Deferred[bytes]:
        return self._source.checksum(root)

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        return self._source.read(root, size, first, count, run, sink)

    def leave(self) -> None:
        """
        Nothing was asked that is not taken back by then.
        """


class LentClaim(msgspec.Struct, frozen=True):
    """
    A L{Claim<flow512.transfer.proof.Claim>} of one who is lent.
    """

    candidate: Candidate
    source: Lent
    entry: Entry


class FolderSources:
    """
    Those that are left. One that is of no use is left out; the last one is not even then, since its
    reason is why the folder cannot be fetched.
    """

    def __init__(
        self,
        sources: Mapping[SourceProtocol, Candidate],
        clock: IReactorTime,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> None:
        """
        @param sources: open ones, at least one, and whose each is; whoever opened them leaves them
            in the end.
        @param clock: for their silence, and for waiting.
        @param blame: told who sent something wrong, and what; of each only once.
        """
        self._who = sources
        self._sources = list(sources)
        self._clock = clock
        self._blame = blame
        self._blamed: dict[Candidate, Flow512Error] = {}
        self._heard: Counter[SourceProtocol] = Counter()  # answers, or parts of them
        self._busy_since: dict[SourceProtocol, float] = {}
        self._next = 0

    @property
    def first(self) -> SourceProtocol:
        """The one whom the manifest is asked of."""
        return self._sources[0]

    def choose(self) -> SourceProtocol:
        """
        Take the next in turn.
        """
        self._next += 1
        return self._sources[self._next % len(self._sources)]

    def lend(self, entry: Entry) -> list[LentClaim]:
        """
        Give those who may be asked for one large file.

        @param entry: what the manifest says of it.
        @raise Flow512Error: why there is none.
        """
        lent = [
            LentClaim(self._who[each], Lent(each), entry)
            for each in self._sources
            if each.is_open and self._who[each] not in self._blamed
        ]
        if not lent:
            raise telling_most(list(self._blamed.values()))
        return lent

    def blame(self, who: Candidate, error: Flow512Error) -> None:
        """
        Somebody has sent something wrong.
        """
        if who not in self._blamed:
            self._blamed[who] = error
            self._blame(who, error)

    def lied(self, source: SourceProtocol, error: Flow512Error) -> None:
        """
        A source has sent something wrong; L{failed} has to follow.
        """
        self.blame(self._who[source], error)

    def heard(self, source: SourceProtocol) -> None:
        """
        Something of what it was asked for has come.
        """
        self._heard[source] += 1
        self._busy_since.pop(source, None)

    async def unless_silent(self, source: SourceProtocol, asked: Deferred[_T]) -> _T:
        """
        Wait for an answer, as long as anything comes from the source.

        @raise flow512.errors.TimedOut: nothing does.
        """
        seconds = source.patience.silence * 2
        is_silent = False
        watch: IDelayedCall

        def look(heard: int) -> None:
            nonlocal watch, is_silent
            now = self._heard[source]
            if now == heard and not source.is_held_back:
                is_silent = True
                asked.cancel()
            else:
                watch = self._clock.callLater(seconds, look, now)

        watch = self._clock.callLater(seconds, look, self._heard[source])
        try:
            return await asked
        except CancelledError:
            if is_silent:
                raise silent() from None
            raise
        finally:
            if watch.active():
                watch.cancel()

    async def failed(self, source: SourceProtocol, error: Flow512Error) -> None:
        """
        It has not given what it was asked for. Who is busy may be asked again, after a moment.

        @raise Flow512Error: C{error}, if nobody else is left.
        """
        now = self._clock.seconds()
        if isinstance(error, Busy) and now - self._busy_since.setdefault(source, now) < BUSY_FOR:
            await deferLater(self._clock, min(error.retry_after, LONGEST_WAIT))
            return
        if self._sources == [source]:
            raise error
        if source in self._sources:
            self._sources.remove(source)
            source.leave()
