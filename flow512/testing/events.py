"""
System events: what is to happen before, during and after a reactor starts or stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

PHASES = ("before", "during", "after")


@dataclass(frozen=True, eq=False)
class Trigger:
    """
    Something to be called when an event comes to a phase.

    @ivar phase: C{"before"}, C{"during"} or C{"after"}.
    @ivar event: C{"startup"}, C{"shutdown"} or any other.
    """

    phase: str
    event: str
    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]


class SystemEvents:
    """The system events of one reactor, as L{twisted.internet.interfaces.IReactorCore} has them."""

    _log = Logger()

    def __init__(self) -> None:
        self._triggers: list[Trigger] = []

    def add(self, trigger: Trigger) -> Trigger:
        """
        Add a trigger.

        @return: it, to L{remove} it by.
        @raise KeyError: there is no such phase; nothing is added.
        """
        if trigger.phase not in PHASES:
            raise KeyError("invalid phase")
        self._triggers.append(trigger)
        return trigger

    def remove(self, trigger: Trigger) -> None:
        """
        Remove a trigger.

        @raise ValueError: it is not there, or was called already.
        """
        self._triggers.remove(trigger)

    def fire(self, event: str) -> None:
        """
        Call the triggers of an event, and forget them.

        Those of the later phases wait for the Deferreds that the first phase returned. What a
        trigger raises is logged.
        """
        results = self._call("before", event)
        waiting = [result for result in results if isinstance(result, Deferred)]
        done = DeferredList(waiting, consumeErrors=True)
        done.addCallback(lambda _: [self._call(phase, event) for phase in PHASES[1:]])

    def _call(self, phase: str, event: str) -> list[object]:
        mine = [each for each in self._triggers if (each.phase, each.event) == (phase, event)]
        results = []
        for trigger in mine:
            self._triggers.remove(trigger)
            with self._log.failuresHandled(
                "while calling a trigger {phase} {event}", phase=phase, event=event
            ):
                results.append(trigger.function(*trigger.args, **trigger.kwargs))
        return results
