"""
How blocking work is run: off the reactor's thread, or, in a simulation, later on.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from threading import Thread
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from flow512.errors import Misuse

READING: Final = 6
"""Workers that may read contents for those who fetch from a node."""

OF_ONE_DISK: Final = 3
"""And how many of them may read from one disk."""

SMALL: Final = "small"
"""What those do who open a file first: until it is open, it may be on any disk."""

WRITING: Final = 4
"""Workers that may be busy with what it fetches itself."""

LOOKING: Final = 4
"""Workers that are left for all else: what is asked of the catalog, of a folder, of a name."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_Waiting: TypeAlias = tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class RunBlocking(Protocol):
    """
    Runs a function where it may block.

    C{partial(deferToThreadPool, reactor, reactor.getThreadPool())} is one; so are those of
    L{Workers}, and C{run_blocking} of every host of L{flow512.testing}. C{deferToThread} is one
    for the global reactor, but not to type checkers: its C{f} can be given by name.
    """

    def __call__(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        @param function: what to run; it must not touch anything of the reactor's.
        @return: a L{Deferred} that fires on the reactor's thread with its result.
        """
        ...


async def at_its_end(work: Deferred[_T]) -> tuple[_T, bool]:
    """
    Wait for a worker, even if nobody wants its result any longer: it does not stop for that, and
    what it holds has to be closed.

    @return: its result, and whether the wait was cancelled.
    """
    ended: list[_T | Failure] = []
    waiting: Deferred[None] = Deferred()
    is_unwanted = False

    def done(result: _T | Failure) -> None:
        ended.append(result)
        if not waiting.called:
            waiting.callback(None)

    work.addBoth(done)
    while not ended:
        try:
            await waiting
        except CancelledError:
            is_unwanted = True
            waiting = Deferred()
    result = ended[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result, is_unwanted


class AtMost:
    """
    Runs so many functions at once and no more, where others run them; and of these, only so many
    that have to do with the same. The rest wait, in the order in which they came, in turns with
    those of others. So what may wait for a slow disk leaves workers to all else.
    """

    def __init__(self, run_blocking: RunBlocking, most: int, each: int | None = None) -> None:
        """
        @param run_blocking: runs them.
        @param most: how many at once, at least 1.
        @param each: how many of them for the same; C{most} unless given.
        """
        self._run_blocking = run_blocking
        self._most = most
        self._each = most if each is None else each
        self._running: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[_Waiting]] = OrderedDict()

    def on(self, what: Hashable) -> RunBlocking:
        """
        Give what runs functions that have to do with something.

        @param what: such as the disk that they wait for.
        """

        def run(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
            result: Deferred[_T] = Deferred()
            waiting = self._waiting.setdefault(what, deque())
            waiting.append((result, function, args, kwargs))
            self._go_on()
            return result

        return run

    def _go_on(self) -> None:
        while self._running.total() < self._most:
            for what in self._waiting:
                if self._running[what] < self._each:
                    break
            else:
                return
            waiting = self._waiting.pop(what)
            result, function, args, kwargs = waiting.popleft()
            if waiting:
                self._waiting[what] = waiting  # behind the others
            self._running[what] += 1
            self._run_blocking(function, *args, **kwargs).addBoth(self._ended, what, result)

    def _ended(self, value: Any, what: Hashable, result: Deferred[Any]) -> None:
        self._running[what] -= 1
        if not self._running[what]:
            del self._running[what]
        # Before its result is told of: whoever is told may want more, and comes last.
        self._go_on()
        result.callback(value)


class Ending:
    """
    The end of a service: several may ask for it, and none of them cuts it short for the others.
    """

    def __init__(self, end: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        """
        @param end: ends everything, and does nothing when nothing runs.
        """
        self._end = end
        self._waiting: list[Deferred[None]] = []

    @property
    def is_under_way(self) -> bool:
        """Whether something may be open still."""
        return bool(self._waiting)

    def ask(self) -> Deferred[None]:
        """
        End everything, if that has not begun.

        @return: fires when all is over, as all others do that were asked for meanwhile. Cancelling
            it does not keep anything from ending.
        """
        # Without a canceller: it fires for whoever waits, and the rest goes on.
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._end()).addBoth(self._ended)
        return ended

    def _ended(self, result: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(result)


class _Thread(Thread):
    """
    A thread that does not take the processor from the one that woke it: the reactor's, which still
    has the interpreter's lock then, so that neither could go on until the system's next tick.
    """

    def run(self) -> None:
        if hasattr(os, "SCHED_BATCH"):
            with suppress(OSError):  # not everyone may
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # of this thread alone
        super().run()


class _Pool(ThreadPool):
    threadFactory = _Thread


class Workers(Service):
    """
    A node's own threads: some for what waits for the disk, others for what hashes whole files, so
    that the first need not wait for the second. They end with the reactor at the latest, since no
    process ends before its threads.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        """
        @param reactor: where results are delivered.
        """
        self._reactor = reactor
        self._pools: list[ThreadPool] = []
        self._at_shutdown: object = None

    def startService(self) -> None:
        if self.running:
            return  # a parent that was running has started it
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        # A pool that was stopped cannot be started again.
        self._pools = [
            _Pool(0, READING + WRITING + LOOKING, "flow512-disk"),
            _Pool(0, 2 + (os.cpu_count() or 1), "flow512-hash"),
        ]
        for pool in self._pools:
            pool.start()
        core = IReactorCore(self._reactor, None)
        if core is not None:
            # After all services that are stopped "before" it, as those of an application are.
            self._at_shutdown = core.addSystemEventTrigger("during", "shutdown", self._end)

    def stopService(self) -> None:
        """
        End the threads; what is running is waited for.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        trigger, self._at_shutdown = self._at_shutdown, None
        if trigger is not None:
            IReactorCore(self._reactor).removeSystemEventTrigger(trigger)
        self._end()

    def _end(self) -> None:
        self._at_shutdown = None
        pools, self._pools = self._pools, []
        for pool in pools:
            pool.stop()

    def run_blocking(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """
        Run what waits for the disk; see L{RunBlocking}.

        @return: fails with L{Misuse} while this service is not running.
        """
        return self._run(0, function, *args, **kwargs)

    def run_long(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """
        Run what hashes whole files; as L{run_blocking} otherwise.
        """
        return self._run(1, function, *args, **kwargs)

    def _run(self, pool: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._pools:
            # A pool that has ended would take it, and never say what became of it.
            return fail(Misuse("The workers are not running; start their service first."))
        return deferToThreadPool(self._reactor, self._pools[pool], function, *args, **kwargs)
