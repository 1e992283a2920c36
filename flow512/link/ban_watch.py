"""
Following the bans while a node runs: whoever is banned meanwhile is spoken with no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.paths import escape
from flow512.errors import Flow512Error
from flow512.interfaces import RunBlocking
from flow512.link.bans import Ban, Bans
from flow512.link.node_id import format_node_id

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the file."""


class BanWatch(Service):
    """
    Reads the bans again and again.
    """

    log = Logger()
    _ended: Deferred[None]

    def __init__(
        self,
        bans: Bans,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        banned: Callable[[bytes], None],
        every: float = LOOK_EVERY,
    ) -> None:
        """
        @param bans: what is kept up to date.
        @param clock: for the time between two looks.
        @param run_blocking: runs what waits for the disk.
        @param banned: called with the id of each node that is newly banned, to end what it has
            with this one.
        @param every: seconds between two looks.
        """
        self._clock = clock
        self._every = every
        self._waiting: Deferred[None] | None = None
        self._bans = bans
        self._run_blocking = run_blocking
        self._banned = banned
        self._complaint = ""

    def startService(self) -> None:
        """
        Look now, and then again and again.
        """
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        # Twisted's LoopingCall would load the global reactor, whatever clock it is given then.
        self._ended = Deferred.fromCoroutine(self._keep_looking()).addErrback(
            lambda failure: self.log.failure("Bans are not followed any more.", failure)
        )

    def stopService(self) -> Deferred[None]:
        """
        Look no more.

        @return: fires when the last look is over.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._waiting is not None:
            self._waiting.cancel()
        return self._ended

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            if not self.running:
                return
            self._waiting = deferLater(self._clock, self._every)
            try:
                await self._waiting
            except CancelledError:
                return
            finally:
                self._waiting = None

    def _look(self) -> Deferred[None]:
        return self._run_blocking(self._bans.reload).addCallbacks(self._tell, self._complain)

    def _tell(self, bans: list[Ban]) -> None:
        self._complaint = ""
        for ban in bans:
            self.log.info("{node}: {ban}", node=format_node_id(ban.node), ban=str(ban))
            self._banned(ban.node)

    def _complain(self, failure: Failure) -> None:
        # Whatever is the matter with the file, those who are banned stay so.
        failure.trap(Flow512Error)  # type: ignore[no-untyped-call]  # Twisted has no types there
        complaint = failure.getErrorMessage()
        if complaint != self._complaint:
            self._complaint = complaint
            self.log.warn("The bans stay as they were: {why}", why=escape(complaint))
