"""
The one clock that all hosts of a network live by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class NetworkClock(Clock):
    """
    A L{Clock} that visits every instant between now and then, in order.

    C{advance(10)} on a plain L{Clock} jumps by ten seconds and then runs what was due on the way;
    here time stands at C{t} while what was due at C{t} runs, so what that schedules for later runs
    in its turn too. Things due at the same instant run in the order in which they were scheduled.
    Scheduling costs the logarithm of what is pending, so many thousands of calls are no burden.

    @ivar most_at_once: things that may happen at one instant. More are taken for a loop of
        C{callLater(0, ...)} that would never end.
    """

    most_at_once = 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._at_this_instant = 0
        self._timers = Timers(self)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """
        Run something later that belongs to no host, as a test does.

        What it raises is raised out of whatever moves the time, L{advance} for one.
        """
        return self._timers.call_later(delay, callable, args, kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """List what L{callLater} has pending here; the calls of hosts are their reactors'."""
        return self._timers.pending()

    def at(self, time: float, function: Callable[..., object], *args: Any) -> None:
        """
        Run something that nobody will want to cancel.

        @param time: absolute, in seconds; what is in the past runs at the present instant.
        """
        self._scheduled += 1
        heappush(self._agenda, (time, self._scheduled, function, args))

    def step(self, limit: float) -> bool:
        """
        Run the next thing, and only that.

        @param limit: absolute time, in seconds; nothing due later is run.
        @return: whether anything was left to run.
        @raise RuntimeError: time does not move on; the network can still be looked at.
        """
        agenda = self._agenda
        if not agenda or agenda[0][0] > limit:
            return False
        time, _, function, args = heappop(agenda)
        if time > self.rightNow:
            self.rightNow = time
            self._at_this_instant = 0
        self._at_this_instant += 1
        if self._at_this_instant > self.most_at_once:
            raise RuntimeError(f"Time stands still at {time} s; {function!r} is run for ever.")
        function(*args)
        return True

    def advance(self, amount: float) -> None:
        """
        Let time pass.

        @param amount: seconds, 0 or more.
        """
        end = self.rightNow + amount
        while self.step(end):
            pass
        self.rightNow = max(end, self.rightNow)


class Timers:
    """
    The delayed calls of one owner, which end with it.

    @ivar clock: where they are run.
    """

    def __init__(self, clock: NetworkClock) -> None:
        self.clock = clock
        self._pending: dict[DelayedCall, None] = {}
        self._stopped = False

    def call_later(
        self,
        delay: float,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> DelayedCall:
        """
        Schedule a call.

        @param delay: seconds, 0 or more.
        @return: the call, which never runs if the owner has ended.
        """
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        clock = self.clock
        call = DelayedCall(
            clock.rightNow + delay,
            function,
            args,
            kwargs,
            self._forget,
            self._schedule,
            clock.seconds,
        )
        if not self._stopped:
            self._pending[call] = None
            self._schedule(call)
        return call

    def pending(self) -> list[DelayedCall]:
        """List what has neither run nor been cancelled."""
        return list(self._pending)

    def stop(self) -> None:
        """End with the owner: nothing pending is run, nor anything scheduled from now on."""
        self._stopped = True
        self._pending.clear()

    def run(self, call: DelayedCall) -> None:
        """Run a call whose time has come."""
        call.func(*call.args, **call.kw)

    def _forget(self, call: DelayedCall) -> None:
        self._pending.pop(call, None)

    def _schedule(self, call: DelayedCall) -> None:
        self.clock.at(call.getTime(), self._fire, call)

    def _fire(self, call: DelayedCall) -> None:
        # The agenda is never searched: a call that was cancelled, or moved to an earlier time,
        # leaves its old place behind; one that was put off comes here early and is scheduled again.
        if call not in self._pending:
            return
        if call.getTime() > self.clock.rightNow:
            self._schedule(call)
            return
        del self._pending[call]
        call.called = 1
        self.run(call)
