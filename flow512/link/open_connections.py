"""
The connections that somebody has open, so that he can wait for their end.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, succeed

_Connection = TypeVar("_Connection", bound=Hashable)


class OpenConnections(Generic[_Connection]):
    """
    Connections in the order in which they were made.
    """

    def __init__(self) -> None:
        # A dictionary keeps the order, so that a simulation repeats to the byte.
        self._open: dict[_Connection, None] = {}
        self._waiting: list[Deferred[None]] = []

    def __iter__(self) -> Iterator[_Connection]:
        """Go through those that are open now; they may come and go meanwhile."""
        return iter(list(self._open))

    def add(self, connection: _Connection) -> None:
        """
        Know a connection that was made.
        """
        self._open[connection] = None

    def remove(self, connection: _Connection) -> None:
        """
        Forget a connection that is closed for good.
        """
        self._open.pop(connection, None)
        if not self._open:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def when_none(self) -> Deferred[None]:
        """
        Wait until none is open.
        """
        if not self._open:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting
