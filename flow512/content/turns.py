"""
Turns: what several threads want to do is done by one of them at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from flow512.content.hashing import Stop
from flow512.errors import Cancelled

_WAIT: Final = 0.1
"""Seconds between two questions whether to give up, while another thread is waited for."""


class Turns:
    """
    Lets one thread at a time do what several want, while the others wait for it.
    """

    def __init__(self) -> None:
        self._ended = threading.Condition()
        self._taken: set[Hashable] = set()

    @contextmanager
    def take(self, what: Hashable, stop: Stop) -> Iterator[None]:
        """
        Wait for the turn, and hold it.

        @raise Cancelled: C{stop} said so while it was not yet there.
        """
        with self._ended:
            while what in self._taken:
                if stop():
                    raise Cancelled("The wait for what another request computes was given up.")
                self._ended.wait(_WAIT)
            self._taken.add(what)
        try:
            yield
        finally:
            with self._ended:
                self._taken.discard(what)
                self._ended.notify_all()
