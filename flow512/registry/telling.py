"""
Keeping the registry told of what a node holds.

What the shares hold is looked up off the reactor's thread, a moment after it has changed, so that
a burst of changes is looked up once, and a share that changes all the time costs little. Only the
difference to the time before is passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.paths import escape
from flow512.errors import Flow512Error
from flow512.interfaces import RunBlocking

DELAY: Final = 1.0
"""Seconds from a change until it is looked up, for others to come."""

REST: Final = 20.0
"""The next look waits for so many times the time that the last one took."""

RETRY: Final = 60.0
"""Seconds until it is looked up again after that failed."""


class Telling:
    """
    Tells of what the shares hold, and of what a node holds parts of besides.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        roots: Callable[[int], frozenset[bytes]],
        run_blocking: RunBlocking,
        hold: Callable[[Collection[bytes], Collection[bytes]], None],
        most: int,
    ) -> None:
        """
        @param clock: for the wait after a change.
        @param roots: looks up what the shares hold, and may block; it is given how much that may
            be, and only what every member of the network may see is to be among it.
        @param run_blocking: runs that.
        @param hold: is told which roots come and go.
        @param most: roots of the shares that are told; if there are more, the log says so once.
        """
        self._clock = clock
        self._roots = roots
        self._run_blocking = run_blocking
        self._hold = hold
        self._most = most
        self._is_full = False
        self._wait = DELAY
        self._shared: frozenset[bytes] = frozenset()
        self._partly: Counter[bytes] = Counter()
        self._call: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._is_stale = False
        self._is_stopped = False

    def changed(self) -> None:
        """
        Look up soon what the shares hold now. Once it is stopped, nothing happens.
        """
        if self._looking is not None:
            self._is_stale = True
        else:
            self._look_in(self._wait)

    def hold_part(self, root: bytes) -> None:
        """
        Tell that parts of a content are held, as by a download that serves what it has verified.

        @param root: the content; L{drop_part} is to follow as often as this.
        """
        self._partly[root] += 1
        if self._partly[root] == 1 and root not in self._shared:
            self._hold((root,), ())

    def drop_part(self, root: bytes) -> None:
        """
        Tell that they are not held any more, unless a share or somebody else still has them.
        """
        self._partly[root] -= 1
        if not self._partly[root]:
            del self._partly[root]
            if root not in self._shared:
                self._hold((), (root,))

    def stop(self) -> Deferred[None]:
        """
        Tell nothing more.

        @return: fires when nothing is looked up any more.
        """
        self._is_stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return succeed(None) if self._looking is None else self._looking

    def _look_in(self, seconds: float) -> None:
        if self._call is None and not self._is_stopped:
            self._call = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._call = None
        self._is_stale = False
        self._looking = Deferred.fromCoroutine(self._look_up()).addErrback(self._broken)
        if self._looking.called:
            self._looking = None

    def _broken(self, failure: Failure) -> None:
        self._looking = None
        self.log.failure("What the shares hold could not be looked up.", failure=failure)

    async def _look_up(self) -> None:
        began = self._clock.seconds()
        try:
            shared = await self._run_blocking(self._roots, self._most)
        except Flow512Error as error:
            self._is_stale = True
            self._wait = RETRY
            self.log.warn("The registry was not told of the shares: {why}", why=escape(str(error)))
        else:
            self._wait = max(DELAY, REST * (self._clock.seconds() - began))
            if not self._is_stopped:
                self._differ(shared)
        self._looking = None
        if self._is_stale:
            self._look_in(self._wait)

    def _differ(self, shared: frozenset[bytes]) -> None:
        if len(shared) >= self._most and not self._is_full:
            self._is_full = True
            self.log.warn(
                "The registry is told of no more than {most} of the contents shared here; peers"
                " find the others only by asking.",
                most=self._most,
            )
        before, self._shared = self._shared, shared
        # In an order of their own, so that a simulation repeats to the byte.
        added = sorted(root for root in shared - before if root not in self._partly)
        removed = sorted(root for root in before - shared if root not in self._partly)
        if added or removed:
            self._hold(added, removed)
