"""
Long work that several ask for is done once, for all of them.

Hashing a large file takes minutes, and everyone who asks for it would keep a worker busy with
nothing but waiting. So whoever asks for what is being computed already joins those who wait. The
work goes on as long as one of them wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Event
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flow512.interfaces import RunBlocking

_T = TypeVar("_T")


class _Group(msgspec.Struct, eq=False):
    """
    Those who wait for the same.

    @ivar members: for each, what is set when it does not want it any more, and its result.
    """

    members: list[tuple[Event, Deferred[Any]]] = msgspec.field(default_factory=list)

    def is_deserted(self) -> bool:
        """Whether nobody wants it any more; asked by the worker, too."""
        return all(stop.is_set() for stop, _ in tuple(self.members))


class SharedWork:
    """
    Runs long work for all connections of a node.
    """

    def __init__(self, run_long: RunBlocking) -> None:
        """
        @param run_long: runs what hashes whole files.
        """
        self._run_long = run_long
        self._groups: dict[Hashable, _Group] = {}

    def join(
        self, key: Hashable, stop: Event, function: Callable[[Callable[[], bool]], _T]
    ) -> Deferred[_T]:
        """
        Ask for a result.

        @param key: what is asked for; the same key means the same work.
        @param stop: set by the caller when it does not want the result any more.
        @param function: the work, given a function that tells whether it may stop.
        @return: the result or failure of the work, the same for all who asked.
        """
        result: Deferred[_T] = Deferred()
        group = self._groups.get(key)
        # A deserted group's worker may have noticed already, and is about to give up.
        if group is not None and not group.is_deserted():
            group.members.append((stop, result))
            return result
        mine = self._groups[key] = _Group([(stop, result)])

        def ended(outcome: _T | Failure) -> None:
            if self._groups.get(key) is mine:
                del self._groups[key]
            for _, waiting in mine.members:
                waiting.callback(outcome)

        self._run_long(function, mine.is_deserted).addBoth(ended)
        return result
