"""
What the parts of serving need of the conversation that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flow512.errors import Flow512Error
from flow512.link.conversation import Transport
from flow512.link.sparing_log import SparingLog
from flow512.wire.fields import Message

_T = TypeVar("_T")


class ServingConversation(Protocol):
    """
    What all of them need.

    @ivar is_writable: whether the transport takes anything now.
    @ivar lines: for what its requests make the node log.
    """

    is_writable: bool
    lines: SparingLog

    @property
    def is_open(self) -> bool:
        """Whether anything may be written at all."""

    @property
    def asker(self) -> bytes:
        """Who asks: a node id that was proven, or L{NOBODY<flow512.content.access.NOBODY>}."""

    def wait_for_worker(
        self,
        result: Deferred[_T],
        succeeded: Callable[[_T], None],
        failed: Callable[[Failure], None],
    ) -> None:
        """Go on when a worker is done."""

    def send(self, message: Message, request: int = 0) -> None:
        """Send a message."""

    def fail(self, request: int, error: BaseException) -> None:
        """Write the end of a request that cannot be answered."""


class BulkConversation(ServingConversation, Protocol):
    """
    What those need that send what is in files.

    @ivar connection: where it is written.
    """

    connection: Transport

    @property
    def peer(self) -> tuple[str, int]:
        """Who gets it, for logs."""

    def turn_came(self) -> None:
        """Write what waited for its turn: see L{flow512.link.throttle.Taker}."""

    def end(self, error: Flow512Error) -> None:
        """Close the conversation because of an error."""
