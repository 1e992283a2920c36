"""
Time that passes as it does, whatever is done to the machine's clock.

Reactors reckon by the time of day. When somebody sets that back by an hour, whatever they were to
do next comes an hour later: a registry tells nobody of anybody, a beacon is silent, no ping is sent
and no silence noticed. When it is set forward, every lease and deadline is over at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface, alsoProvides

_SINCE_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The first, which Linux has, goes on while the machine sleeps."""


class IWallClock(Interface):
    """
    Of a reactor whose own time goes on when the machine's clock is set.
    """

    def wall_seconds() -> float:
        """
        Say what time it is: seconds since 1970 by the machine's clock, as it is set now.
        """


def keep_steady(
    reactor: Any,
    wall_seconds: Callable[[], float] = time.time,
    passed_seconds: Callable[[], float] | None = None,
) -> None:
    """
    Let a reactor's time go on from what it is now by what passes, not by how the clock is set.

    For processes that are flow512's own, and never for somebody else's that it is a part of.

    @param reactor: one whose C{seconds} may be replaced, as of all that Twisted has. It is an
        L{IWallClock} from now on.
    @param wall_seconds: gives the time in seconds since 1970.
    @param passed_seconds: gives seconds since whenever, which nobody sets; the system's own, in
        which time that the machine sleeps counts where the system can say so.
    """
    passed = passed_seconds or seconds_since_boot
    began = reactor.seconds() - passed()
    reactor.seconds = lambda: began + passed()
    reactor.wall_seconds = wall_seconds
    alsoProvides(reactor, IWallClock)


def seconds_since_boot() -> float:
    """
    Say how long the machine has been running, or counted: a number that only ever grows.
    """
    return time.clock_gettime(_SINCE_BOOT)


def wall_seconds_of(clock: IReactorTime) -> Callable[[], float]:
    """
    Find what tells the time of day where a clock is given: for what is compared with the clocks of
    others, or outlives the process.

    @param clock: any; one that is no L{IWallClock} is taken for the time of day itself.
    """
    if IWallClock.providedBy(clock):
        told: Callable[[], float] = IWallClock(clock).wall_seconds
        return told
    return clock.seconds
