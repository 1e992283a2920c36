"""
The questions that one conversation has asked its registry, until each has had its end.
"""

from __future__ import annotations

from typing import Final, NoReturn

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from flow512.errors import BadMessage, Busy, Flow512Error, TimedOut
from flow512.wire.fields import Peer

ANSWERS_WITHIN: Final = 10.0
"""Seconds that a registry has to say who holds a content."""

MOST_QUESTIONS: Final = 256
"""Questions that may be under way; those that were given up count until they are answered."""


class Questions:
    """
    Who holds what, asked by number.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """
        @param clock: for the deadlines.
        """
        self._clock = clock
        # None for one whose answer nobody waits for any more.
        self._asked: dict[int, Deferred[tuple[Peer, ...]] | None] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further question may be asked for now."""
        return len(self._asked) >= MOST_QUESTIONS

    def ask(self, number: int) -> Deferred[tuple[Peer, ...]]:
        """
        Expect an answer.

        @param number: of the request.
        @return: fires with the answer; fails with L{TimedOut}, or as L{failed} and L{end} say. It
            can be cancelled.
        """
        if self.is_full:
            return fail(Busy("The registry is asked too much at once; wait for its answers."))
        asked: Deferred[tuple[Peer, ...]] = Deferred(lambda _: self._give_up(number))
        self._asked[number] = asked
        return asked.addTimeout(ANSWERS_WITHIN, self._clock, _timed_out)

    def answered(self, number: int, peers: tuple[Peer, ...]) -> None:
        """
        Take an answer.

        @raise BadMessage: nobody asked.
        """
        asked = self._take(number)
        if asked is not None:
            asked.callback(peers)

    def failed(self, number: int, error: Flow512Error) -> None:
        """
        Take an error for an answer.

        @raise BadMessage: nobody asked.
        """
        asked = self._take(number)
        if asked is not None:
            asked.errback(error)

    def end(self, error: Flow512Error) -> None:
        """
        Let all fail: the conversation is over.
        """
        asked, self._asked = self._asked, {}
        for each in asked.values():
            if each is not None:
                each.errback(error)

    def _take(self, number: int) -> Deferred[tuple[Peer, ...]] | None:
        if number not in self._asked:
            raise BadMessage(f"Request {number} was answered, which nobody made.")
        return self._asked.pop(number)

    def _give_up(self, number: int) -> None:
        # Its answer may be under way, and is no violation.
        self._asked[number] = None


def _timed_out(result: object, seconds: float) -> NoReturn:
    raise TimedOut("The registry does not say who holds that.")
