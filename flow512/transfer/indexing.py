"""
Keeping the library up to date: walk, hash what is new, make the MD5s, wait, walk again.

One worker at a time does this, so that serving keeps its own. Everything is usable meanwhile:
what is not hashed yet is hashed when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from flow512.content.library import Library, ScanReport
from flow512.content.paths import escape
from flow512.errors import Cancelled, Flow512Error
from flow512.interfaces import RunBlocking

RESCAN: Final = 60.0
"""Seconds between two walks."""


@dataclass(frozen=True)
class Indexed:
    """
    What one round found.

    @ivar scan: what the walk found.
    @ivar hashed: files that were hashed in this round.
    @ivar failed: files that could not be hashed; the log says why.
    """

    scan: ScanReport
    hashed: int
    failed: int


class IndexingService(Service):
    """
    Walks through the shares again and again, and hashes what is new.
    """

    log = Logger()

    def __init__(
        self,
        library: Library,
        clock: IReactorTime,
        run_long: RunBlocking,
        indexed: Callable[[Indexed], None] = lambda _: None,
        rescan: float = RESCAN,
    ) -> None:
        """
        @param library: what is kept up to date.
        @param clock: for the time between two rounds.
        @param run_long: runs the walking and the hashing.
        @param indexed: called after each round.
        @param rescan: seconds between two rounds.
        """
        self._library = library
        self._clock = clock
        self._run_long = run_long
        self._indexed = indexed
        self._rescan = rescan
        self._stop = Event()
        self._waiting: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._stop = Event()
        self._loop = Deferred.fromCoroutine(self._run(self._stop))
        self._loop.addErrback(lambda failure: self.log.failure("Indexing ended.", failure=failure))

    def stopService(self) -> Deferred[None] | None:
        """
        Stop soon: a file that is being hashed is given up after its current stretch.

        @return: fires when no worker is busy any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._stop.set()
        if self._waiting is not None:
            self._waiting.cancel()
        loop, self._loop = self._loop, None
        return loop

    async def _run(self, stop: Event) -> None:
        while not stop.is_set():
            try:
                await self._round(stop)
            except Cancelled:
                return
            except Flow512Error as error:
                # The next round may find the disk in a better state.
                self.log.warn("The shares were not looked through: {why}", why=escape(str(error)))
            if stop.is_set():
                # The worker had nothing left to stop.
                return
            self._waiting = deferLater(self._clock, self._rescan)
            try:
                await self._waiting
            except CancelledError:
                return
            finally:
                self._waiting = None

    async def _round(self, stop: Event) -> None:
        scan = await self._run_long(self._library.scan, stop.is_set)
        for left_out in scan.left_out:
            self.log.info(
                "Not shared: {path}: {reason}", path=left_out.path, reason=left_out.reason
            )
        hashed = failed = 0
        while True:
            try:
                entry = await self._run_long(self._library.hash_next, stop.is_set)
            except Cancelled:
                raise
            except Flow512Error as error:
                failed += 1
                self.log.info("Not hashed: {why}", why=escape(str(error)))
                if failed > scan.found:
                    # It is not the files, then.
                    raise
                continue
            if entry is None:
                break
            hashed += 1
        self._indexed(Indexed(scan, hashed, failed))
        await self._sum_all(stop, scan.found)

    async def _sum_all(self, stop: Event, most: int) -> None:
        failed = 0
        while not stop.is_set():
            try:
                if await self._run_long(self._library.sum_next, stop.is_set) is None:
                    return
            except Cancelled:
                raise
            except Flow512Error as error:
                failed += 1
                self.log.info("No MD5 was made: {why}", why=escape(str(error)))
                if failed > most:
                    raise
