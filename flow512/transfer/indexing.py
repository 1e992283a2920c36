"""
Keeping the library up to date: look at what has changed, hash what is new, make the MD5s.

Two things go on side by side, each with one worker at most, so that serving keeps its own. The
looking tells the catalog what is there: first everything, then the places where something has
happened, as L{flow512.content.following} gathers them, and everything again now and then. The
hashing takes from the catalog what has no root yet, then what has no MD5; a file that takes long
keeps nobody from seeing what is new. Everything is usable meanwhile: what is not hashed yet is
hashed when somebody asks for it.

Where folders can be watched, everything is looked at again only in case something was missed.
Elsewhere that is how changes are noticed at all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Event
from typing import Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.following import WALK, Following, Look
from flow512.content.library import Library, ScanReport
from flow512.content.paths import escape
from flow512.errors import Cancelled, Flow512Error
from flow512.interfaces import RunBlocking
from flow512.limits import RESCAN
from flow512.transfer.following import FolderWatches
from flow512.transfer.inotify import OpenNotifier

WATCHED_RESCAN: Final = 900.0
"""The same where they are, in case something was missed."""


class Indexed(msgspec.Struct, frozen=True):
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
    Follows the shares, and hashes what is new.
    """

    log = Logger()

    def __init__(
        self,
        library: Library,
        clock: IReactorTime,
        run_long: RunBlocking,
        indexed: Callable[[Indexed], None] = lambda _: None,
        rescan: float = RESCAN,
        open_notifier: OpenNotifier | None = None,
        at_once: int = 1,
    ) -> None:
        """
        @param library: what is kept up to date.
        @param clock: for the time between two looks.
        @param run_long: runs the looking and the hashing.
        @param indexed: called when all that was found is hashed.
        @param rescan: seconds between two looks at everything where the shares are not followed
            live; 0 to look at everything only once.
        @param open_notifier: opens what watches their folders; L{None} if nothing can.
        @param at_once: files that are hashed at a time: as many as there are processors, if
            C{run_long} has so many threads.
        """
        self._library = library
        self._clock = clock
        self._run_long = run_long
        self._indexed = indexed
        self._rescan = rescan
        self._open_notifier = open_notifier
        self._at_once = at_once
        self._stop = Event()
        self._following = Following()
        self._watches: FolderWatches | None = None
        self._waiting: Deferred[None] | None = None
        self._is_patient = False
        self._next_walk = self._full_walk = inf
        self._found: ScanReport | None = None
        self._idle: Deferred[None] | None = None
        self._running: list[Deferred[None]] = []

    def startService(self) -> None:
        if self.running:
            return  # a parent that was running has started it
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._stop = Event()
        self._following = Following()
        self._found = None
        if self._open_notifier is not None:
            self._watches = FolderWatches(
                self._library,
                self._following,
                self._clock,
                self._run_long,
                self._open_notifier,
                self._happened,
            )
        self._running = [
            Deferred.fromCoroutine(self._keep_looking(self._stop)),
            Deferred.fromCoroutine(self._keep_hashing(self._stop)),
        ]
        for each in self._running:
            each.addErrback(lambda failure: self.log.failure("Indexing ended.", failure=failure))

    def stopService(self) -> Deferred[None] | None:
        """
        Stop soon: a file that is being hashed is given up after its current stretch.

        @return: fires when no worker is busy any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        self._stop.set()
        self._library.follow(False)
        if self._watches is not None:
            self._watches.close()
            self._watches = None
        if self._waiting is not None:
            self._waiting.cancel()
        self._wake_hashing()
        running, self._running = self._running, []
        if not running:
            return None
        return gatherResults(running).addCallback(lambda _: None)

    # Looking

    async def _keep_looking(self, stop: Event) -> None:
        look: Look | None = WALK
        while look is not None:
            try:
                await self._look(look, stop)
            except Cancelled:
                return
            except Flow512Error as error:
                # A later look may find the disk in a better state.
                self.log.warn("The shares were not looked through: {why}", why=escape(str(error)))
                self._next_walk = self._full_walk = self._clock.seconds() + (self._rescan or RESCAN)
            look = await self._next_look(stop)

    async def _look(self, look: Look, stop: Event) -> None:
        watches = self._watches
        self._library.follow(False)
        if watches is not None:
            if look.is_everything:
                await watches.begin()
            else:
                await watches.cover(look.places)
        report = await self._run_long(self._library.look, look, stop.is_set)
        for left_out in report.left_out:
            self.log.info(
                "Not shared: {path}: {reason}", path=left_out.path, reason=left_out.reason
            )
        is_watched = watches is not None and watches.are_kept and not report.missing
        if is_watched and self._following.due() is None and not stop.is_set():
            self._library.follow(True)
        if look.is_everything or not is_watched:
            self._full_walk = self._clock.seconds() + (WATCHED_RESCAN if is_watched else 0.0)
        if look.is_everything or look.is_walk or not is_watched:
            self._next_walk = self._clock.seconds() + self._rescan if self._rescan else inf
        if look.is_everything or report.new or report.changed or report.gone:
            self._found = report
            self._wake_hashing()

    async def _next_look(self, stop: Event) -> Look | None:
        while not stop.is_set():
            now = self._clock.seconds()
            if self._next_walk <= now:
                if now < self._full_walk:
                    return Look(is_walk=True)
                self._following.forget()
                return WALK
            due = self._following.due()
            if due is not None and due <= now:
                return self._following.take(now)
            await self._wait(min(self._next_walk, inf if due is None else due) - now)
        return None

    async def _wait(self, seconds: float) -> None:
        self._is_patient = self._following.due() is None
        self._waiting = Deferred() if seconds == inf else deferLater(self._clock, seconds)
        try:
            await self._waiting
        except CancelledError:
            pass
        finally:
            self._waiting = None

    def _happened(self) -> None:
        # What is new may have folders in it that are not watched yet.
        self._library.follow(False)
        # When a round is due already, more events can only put it off.
        if self._is_patient and self._waiting is not None:
            self._waiting.cancel()

    # Hashing

    def _wake_hashing(self) -> None:
        if self._idle is not None:
            self._idle.callback(None)

    async def _keep_hashing(self, stop: Event) -> None:
        while not stop.is_set():
            if self._found is None:
                self._idle = Deferred()
                await self._idle
                self._idle = None
                continue
            found, self._found = self._found, None
            try:
                await self._hash_all(stop, found)
            except Cancelled:
                return
            except Flow512Error as error:
                self.log.warn("The shares were not hashed: {why}", why=escape(str(error)))

    async def _hash_all(self, stop: Event, scan: ScanReport) -> None:
        hashed = failed = 0

        async def hash_some() -> None:
            nonlocal hashed, failed
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
                    return
                hashed += 1

        hashing = [Deferred.fromCoroutine(hash_some()) for _ in range(self._at_once)]
        for _, result in await DeferredList(hashing, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()
        self._indexed(Indexed(scan, hashed, failed))
        await self._sum_all(stop, scan.found)

    async def _sum_all(self, stop: Event, most: int) -> None:
        failed = 0
        # Roots come first: whoever wants a file can do without its MD5.
        while not stop.is_set() and self._found is None:
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
