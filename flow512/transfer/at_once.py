"""
Fetching one file whose root nobody knows yet, from one source::

    looking ──> taking ──the entry, with the root──> proving ──right──> published
    what is      blocks, each with its digest           └─────wrong──> thrown away
    here already

Nothing is proven before the end: the digest that comes with a block is the source's own word, and
shows only that it was not damaged on its way. Whoever tells another root at the end than that of
what he sent has lied, or is broken, and nothing of it is kept. If some of it was here from before,
though, it may be that which is wrong: another source may have sent it.

What is stored when it breaks off is kept. The next fetch goes on from there, or, if the root is
known by then, lets the ordinary download begin with it: see L{flow512.content.provisional}.

Flow control. The source sends as fast as TCP takes it, so there is no window that bounds what is
held here: while L{HELD} blocks wait to be stored, nothing is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from flow512.content.journal import read_boot_id
from flow512.content.paths import escape
from flow512.content.provisional import Provisional, is_begun, provisional_id
from flow512.content.publish import check_target
from flow512.errors import BadDigest, Flow512Error, Violation
from flow512.interfaces import RunBlocking, at_its_end
from flow512.transfer.download import SILENCES
from flow512.transfer.fetch import Fetched, Growing, Target, open_target
from flow512.transfer.finding import Candidate, Found
from flow512.transfer.swarm import silent
from flow512.units import LONGEST_RUN, PIECES_PER_BLOCK
from flow512.wire.messages import Entry
from flow512.wire.streaming import Stream

HELD: Final = 16
"""Blocks that may wait here (4 MiB), beside those that are being stored, which are no more."""

_CAUSE: Final = "stream"
"""Why nothing is read from the source, as its conversation wants it named."""


async def wait_if_begun(found: Found, target: Target, run_blocking: RunBlocking) -> Found:
    """
    Wait for the root of a file after all, if an earlier download, which knew it, has left
    something: with the root, that goes on.

    @param found: a source, and what it tells of the file, without a root.
    @param target: where the file is to go.
    @param run_blocking: runs what waits for the disk.
    @return: the same if there is nothing; else what the source tells now.
    @raise Flow512Error: as L{SourceProtocol.stat<flow512.transfer.source.SourceProtocol.stat>},
        or the folder cannot be read.
    """
    name = target.name_for(found.entry)

    def look() -> bool:
        folder = open_target(target)
        try:
            return is_begun(folder, name, found.entry)
        finally:
            os.close(folder)

    if not await run_blocking(look):
        return found
    return replace(found, entry=await found.source.stat(found.entry.path))


class AtOnce:
    """
    One fetch of one file.

    @ivar size: bytes of the whole file, as the source tells.
    @ivar stored: those that are in place. None of them is proven before the end.
    """

    def __init__(
        self,
        found: Found,
        target: Target,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        run_long: RunBlocking,
        run: int = LONGEST_RUN,
        progress: Callable[[Growing], None] = lambda _: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> None:
        """
        @param found: an open source, and what it tells of the file; whoever opened it leaves it.
        @param target: where the file is to go.
        @param clock: for deadlines.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what reads much.
        @param run: pieces that a frame may carry, 1 to L{LONGEST_RUN}.
        @param progress: called with this when it begins, and then as it grows.
        @param blame: told if the source sent something wrong, and what.
        """
        self._found = found
        self._entry = found.entry
        self._target = target
        self._clock = clock
        self._run_blocking = run_blocking
        self._run_long = run_long
        self._run = min(run, PIECES_PER_BLOCK)
        self._progress = progress
        self._blame = blame
        self._fetched = 0
        self._arrived: list[tuple[bytes | bytearray, bytes]] = []
        self._is_storing = False
        self._failure: BaseException | None = None
        self._asked: Deferred[Entry] | None = None
        self._waiting_for_idle: list[Deferred[None]] = []
        self._heard = 0.0
        self._timer: IDelayedCall | None = None
        self.size = found.entry.size
        self.stored = 0

    async def fetch(self) -> Fetched:
        """
        Fetch it and publish it.

        @raise BadDigest: what the source sent is not what it says. If that is the root, all of
            it has been thrown away.
        @raise Flow512Error: as L{SourceProtocol.stream
            <flow512.transfer.source.SourceProtocol.stream>}, and as
            L{Fetcher.fetch<flow512.transfer.fetch.Fetcher.fetch>} of this machine. What was
            stored until then is kept.
        """
        target, entry = self._target, self._entry
        name = target.name_for(entry)
        folder, is_unwanted = await at_its_end(self._run_blocking(open_target, target))
        try:
            if is_unwanted:
                raise CancelledError
            file, is_unwanted = await at_its_end(self._run_blocking(self._open, folder, name))
            try:
                if is_unwanted:
                    raise CancelledError
                entry, resumed = await self._fetch_to(file)
            finally:
                await at_its_end(self._run_blocking(file.close))
        finally:
            await at_its_end(self._run_blocking(os.close, folder))
        path = os.path.join(target.folder, *target.beneath, name)
        sent = ((self._found.candidate, self._fetched),) if self._fetched else ()
        return Fetched(entry, path, resumed, self._fetched, None, sent)

    def _open(self, folder: int, name: str) -> Provisional:
        root = provisional_id(self._entry)
        check_target(folder, name, root, replace=self._target.replace)
        return Provisional(folder, name, self._entry, read_boot_id())

    async def _fetch_to(self, file: Provisional) -> tuple[Entry, int]:
        resumed = self.stored = file.stored
        is_more = True
        while is_more:
            is_more, is_unwanted = await at_its_end(self._run_long(file.look))
            if is_unwanted:
                raise CancelledError
        self._progress(self)
        entry = await self._take(file)
        root, is_unwanted = await at_its_end(self._run_blocking(file.root))
        if root != entry.root:
            await at_its_end(self._run_blocking(file.discard))
            raise self._wrong(resumed)
        if is_unwanted:
            raise CancelledError
        publishing = self._run_blocking(
            file.publish, replace=self._target.replace, mtime_ns=entry.mtime
        )
        await at_its_end(publishing)
        return entry, resumed

    def _wrong(self, resumed: int) -> BadDigest:
        what = f"'{escape(self._entry.path)}'"
        if resumed:
            return BadDigest(
                f"What an earlier download left of {what} and what {self._found.candidate} sent are"
                " not together what it says; all of it was thrown away. Run the same command again."
            )
        wrong = BadDigest(
            f"What {self._found.candidate} sent of {what} is not what it says; all of it was"
            " thrown away."
        )
        self._blame(self._found.candidate, wrong)
        return wrong

    # Taking

    async def _take(self, file: Provisional) -> Entry:
        told, source = self._entry, self._found.source
        wanted = Stream(told.path, told.size, told.mtime, file.next, self._run)
        self._heard = self._clock.seconds()
        self._asked = source.stream(wanted, lambda block, digest: self._came(file, block, digest))
        self._look_again(file)
        try:
            entry = await self._asked
        except CancelledError:
            if self._failure is None:
                self._failure = CancelledError()
            raise self._failure from None
        except Violation as error:
            self._failure = error
            self._blame(self._found.candidate, error)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            _, is_unwanted = await at_its_end(self._idle())
        if self._failure is not None:
            raise self._failure
        if is_unwanted:
            raise CancelledError
        return entry

    def _idle(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting_for_idle.append(waiting)
        self._tell_if_idle()
        return waiting

    def _tell_if_idle(self) -> None:
        if not self._is_storing:
            waiting, self._waiting_for_idle = self._waiting_for_idle, []
            for each in waiting:
                each.callback(None)

    def _came(self, file: Provisional, block: bytes | bytearray, digest: bytes) -> None:
        self._heard = self._clock.seconds()
        self._fetched += len(block)
        self._arrived.append((block, digest))
        if len(self._arrived) >= HELD:
            self._found.source.stop_reading(_CAUSE)
        self._store(file)

    def _store(self, file: Provisional) -> None:
        if self._is_storing or not self._arrived:
            return
        batch, self._arrived = self._arrived, []
        self._is_storing = True
        self._run_blocking(file.store, batch).addCallbacks(
            lambda _: self._stored(file, batch), self._not_stored
        ).addErrback(self._not_stored)

    def _stored(self, file: Provisional, batch: list[tuple[bytes | bytearray, bytes]]) -> None:
        self._is_storing = False
        source = self._found.source
        for block, _ in batch:
            source.buffers.give_back(block)
        self._heard = self._clock.seconds()
        self.stored = file.stored
        if self._failure is None:
            self._progress(self)
        self._store(file)
        source.resume_reading(_CAUSE)
        self._tell_if_idle()

    def _not_stored(self, failure: Failure) -> None:
        self._is_storing = False
        self._arrived.clear()
        error = failure.value
        assert error is not None
        if isinstance(error, BadDigest):
            self._blame(self._found.candidate, error)
        self._give_up(error)
        self._tell_if_idle()

    def _give_up(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        if self._asked is not None:
            self._asked.cancel()

    # Deadlines

    def _look_again(self, file: Provisional) -> None:
        limit = self._found.source.patience.silence * SILENCES
        left = self._heard + limit - self._clock.seconds()
        self._timer = self._clock.callLater(max(1.0, left), self._look, file)

    def _look(self, file: Provisional) -> None:
        self._timer = None
        silence = self._clock.seconds() - self._heard
        # At the end the source may have to hash the file, and nobody knows for how long.
        is_waited_for = not self._is_storing and file.next < file.blocks
        if is_waited_for and silence >= self._found.source.patience.silence * SILENCES:
            self._give_up(silent())
        else:
            self._look_again(file)
