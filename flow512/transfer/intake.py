"""
How fast one conversation takes what it has asked to be sent.

While data frames are expected, L{TURN} bytes at a time are paid for in advance, out of the limit
that all conversations share; when a frame has used them up, the next are paid for, or reading stops
until they can be. TCP then stops the other side. So each conversation takes turns of a block,
however fast its sender is; one that waits for a slow sender holds no more than one turn meanwhile,
and gives back what is left of it once nothing more is expected.

A frame that nothing was paid for, since the limit is new or the frame larger than a turn, is owed.
"""

from __future__ import annotations

from collections.abc import Callable

from flow512.link.rate import TURN
from flow512.link.throttle import Throttle


class Intake:
    """
    Pays for what arrives, and says when to read.
    """

    def __init__(
        self, throttle: Throttle, stop: Callable[[], None], go_on: Callable[[], None]
    ) -> None:
        """
        @param throttle: the limit that is shared.
        @param stop: stops reading from the other side; may be called again before C{go_on} is.
        @param go_on: lets reading go on; may be called without a stop.
        """
        self._throttle = throttle
        self._stop = stop
        self._go_on = go_on
        self._paid = 0  # bytes; what is owed if negative

    def took(self, size: int) -> None:
        """
        Count a frame; L{expect} or L{rest} has to follow.

        @param size: its bytes, with its header.
        """
        self._paid -= size

    def expect(self) -> None:
        """
        More is expected: pay for it, or stop reading.
        """
        if not self._pay():
            self._stop()

    def rest(self) -> None:
        """
        Nothing is expected: settle what was paid or is owed, and let reading go on.
        """
        self._throttle.forget(self)
        paid, self._paid = self._paid, 0
        if paid:
            self._throttle.give_back(paid)
        self._go_on()

    def turn_came(self) -> None:
        """
        Pay, as L{flow512.link.throttle.Taker} wants it.
        """
        if self._pay():
            self._go_on()

    def _pay(self) -> bool:
        while self._paid <= 0:
            if not self._throttle.ask(self, TURN):
                return False
            self._paid += TURN
        return True
