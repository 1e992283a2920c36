"""
What the transport of a conversation was given to send, and has not taken yet.

Some of it may be in the buffers that it was read to, until the transport gives these back; some
may have been copied by the transport, until it says that it has taken all. Both are counted in
L{flow512.transfer.read_memory} until then::

    given ──the buffer comes back──> taken       if the transport takes more now,
                                 └─> copied ──the transport has taken all──> taken   if it does not

A transport that takes more may still have a copy of so much as leaves it ready to: 64 KiB.

Whoever gives to a transport has its memory in the name of what it has given: when others wait for
that, and the transport takes nothing for long, the conversation is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flow512.errors import Flow512Error, TimedOut
from flow512.transfer.read_memory import ReadMemory


class Writing(Protocol):
    """The conversation that it belongs to."""

    @property
    def is_writable(self) -> bool:
        """Whether its transport takes any now."""

    def end(self, error: Flow512Error) -> None:
        """Close it because of an error."""


class Outgoing:
    """
    What one part of serving has given to its transport: a L{flow512.transfer.read_memory.Reader}.

    @ivar size: bytes that are counted.
    """

    def __init__(
        self,
        conversation: Writing,
        memory: ReadMemory,
        read_on: Callable[[], None],
        taken: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        @param conversation: whose transport is written to.
        @param memory: where it is counted, and is counted as held already.
        @param read_on: asks the disk, if there is still something to ask it for; called when
            there is memory that L{may_hold_block} had to wait for.
        @param taken: told of bytes that are counted no longer. May be called at once.
        """
        self._conversation = conversation
        self._memory = memory
        self._read_on = read_on
        self._taken = taken
        self._copied = 0
        self.size = 0

    def may_hold_block(self) -> bool:
        """
        Ask for the memory of one block: see L{ReadMemory.ask}.
        """
        return self._memory.ask(self)

    def give(self, size: int) -> None:
        """
        Something is given to the transport now.

        @param size: bytes of it that are held.
        """
        self.size += size

    def given(self) -> None:
        """
        It has been: unless the transport has taken all by now, it counts as full.
        """
        if self.size:
            self._memory.transport_full(self)

    def given_back(self, buffer: bytearray) -> None:
        """
        Take back the buffer of what was given.
        """
        self._memory.buffers.give_back(buffer)
        if self._conversation.is_writable:
            self._took(len(buffer))
        else:
            self._copied += len(buffer)

    def drained(self) -> None:
        """
        The transport has nothing of its own any more: it has taken all, or it is gone.
        """
        size, self._copied = self._copied, 0
        if size:
            self._took(size)

    def end(self) -> None:
        """
        Wait for memory no longer; the conversation is over.
        """
        self._memory.forget(self)

    # From the memory

    def go_on(self) -> None:
        """
        Read on: the memory's turn has come.
        """
        self._read_on()

    def give_up(self) -> None:
        """
        End the conversation: what its transport holds is needed.
        """
        self._conversation.end(
            TimedOut("The other side reads too slowly, and others wait for the memory.")
        )

    def _took(self, size: int) -> None:
        self.size -= size
        if not self.size:
            self._memory.transport_drained(self)
        self._memory.release(size)
        self._taken(size)
