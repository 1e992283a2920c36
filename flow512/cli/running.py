"""
Running a command's coroutine on the reactor, until it ends or the user ends it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from random import Random, SystemRandom
from types import FrameType
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from flow512.cli.outcome import DONE, FAILED, Interrupted, status_of
from flow512.cli.stopping import SIGNALS
from flow512.cli.voice import Voice
from flow512.discovery.addresses import LocalAddress, addresses_of_host
from flow512.errors import Cancelled, Flow512Error
from flow512.interfaces import RunBlocking, at_its_end
from flow512.node import NodeService
from flow512.settings import INodeListener, NodeSettings

_T = TypeVar("_T")

STOPPED: Final = (Cancelled, CancelledError)
"""What a coroutine is told when the user ends it."""


class Machine(msgspec.Struct, frozen=True):
    """
    What a command runs on.

    @ivar reactor: with what its nodes need.
    @ivar run_blocking: runs what may block; L{None} to let each node use threads of its own.
    @ivar random: for ids and jitter.
    @ivar local_addresses: finds the machine's addresses.
    """

    reactor: IReactorTime
    run_blocking: RunBlocking | None = None
    random: Random = msgspec.field(default_factory=SystemRandom)
    local_addresses: Callable[[], Sequence[LocalAddress]] = addresses_of_host

    @asynccontextmanager
    async def node(
        self, settings: NodeSettings, listener: INodeListener | None = None
    ) -> AsyncIterator[NodeService]:
        """
        Run a node for as long as the context lasts.

        @raise Flow512Error: as L{NodeService.startService}.
        """
        node = NodeService(
            self.reactor,
            settings,
            listener=listener,
            random=self.random,
            run_blocking=self.run_blocking,
            local_addresses=self.local_addresses,
        )
        node.startService()
        try:
            yield node
        finally:
            await to_its_end(node.stopService())


async def to_its_end(work: Deferred[_T]) -> _T:
    """
    Wait for work that is not to be cut short, such as putting things away; whoever cancels that is
    heard when it is done.

    @return: what came of it, which may also be raised.
    @raise CancelledError: it was cancelled meanwhile, and is done.
    """
    result, is_unwanted = await at_its_end(work)
    if is_unwanted:
        raise CancelledError
    return result


Command: TypeAlias = Callable[[Machine], Coroutine[Deferred[Any], Any, None]]
"""What a command does; it is cancelled when the user ends it."""


def run(command: Command, voice: Voice, reactor: Any) -> int:
    """
    Run a command to its end.

    SIGINT, SIGTERM and SIGHUP cancel it; a second one of the first two ends the process at once.

    @param command: raises L{Flow512Error} if it fails.
    @param voice: says why it failed.
    @param reactor: what runs it, and is not running yet.
    @return: the exit status.
    """
    results: list[object] = []
    started: Deferred[None] = Deferred()

    async def whole() -> None:
        await started
        await command(Machine(reactor))

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in taken:
            # Of a closed terminal the shell and the system tell, each of them.
            again = signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL
            signal.signal(each, again)
        reactor.callFromThread(running.cancel)

    def ended(result: object) -> None:
        results.append(result)
        reactor.stop()

    def begin() -> None:
        # Over the reactor's own, which would stop it before the node has said goodbye; and before
        # the command says anything that somebody could answer with a signal.
        take_signals()
        if not results:
            started.callback(None)

    def take_signals() -> None:
        for each in taken:
            signal.signal(each, interrupt)

    # What was started with nohup is to outlive its terminal.
    taken = [
        each
        for each in SIGNALS
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN
    ]
    running = Deferred.fromCoroutine(whole())
    running.addBoth(ended)
    take_signals()
    reactor.callLater(0, begin)
    reactor.run()
    if not results:  # a signal came before the command did
        results.append(Failure(CancelledError()))  # type: ignore[no-untyped-call]  # Twisted has no types there
    return judge(results[0], voice)


def judge(result: object, voice: Voice) -> int:
    """
    Turn what a command came to into an exit status, and say why if it failed.

    @param result: C{None}, or the L{Failure}.
    @raise BrokenPipeError: nobody reads the output any more.
    """
    if not isinstance(result, Failure):
        return DONE
    error = result.value
    if isinstance(error, STOPPED):
        error = Interrupted("Stopped.")
    if isinstance(error, Flow512Error):
        voice.fail(error)
        return status_of(error)
    if isinstance(error, BrokenPipeError):
        raise error
    result.printTraceback(sys.stderr)  # type: ignore[no-untyped-call]  # Twisted has no types there
    voice.fail(Flow512Error("That is a defect in flow512; please report what is above."))
    return FAILED


async def never() -> None:
    """
    Wait until the user ends the command.
    """
    waiting: Awaitable[None] = Deferred()
    try:
        await waiting
    except CancelledError:
        pass
