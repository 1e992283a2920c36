"""
The seams between flow512's rooms, and between flow512 and the application around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RunBlocking(Protocol):
    """
    Runs a function where it may block: on a worker thread, or, in a simulation, later on.

    C{twisted.internet.threads.deferToThread} is one; so is C{run_blocking} of every host of
    L{flow512.testing}.
    """

    def __call__(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        @param function: what to run; it must not touch anything of the reactor's.
        @return: a L{Deferred} that fires on the reactor's thread with its result.
        """
        ...
