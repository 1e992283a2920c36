"""
The memory that all conversations of a node share for what they read from the disk.

Three things keep one reader from starving the others:

  - While more than half is in use nobody reads ahead. What is free then goes, a block at a time,
    to those whose transport takes it at once, in turns: who was given a block is last in the
    queue when it asks for the next.
  - So who reads slowly, or nothing, holds what is in its transport: one block from then on.
  - Many who read nothing could hold all in this way. So once somebody has to wait, those whose
    transports have been full for L{STUCK} seconds are given up, the longest first, and no more
    of them than there are waiting.

Invariants:

  - No more than C{most} bytes are held: who was told that it may, by L{ReadMemory.ask}, holds at
    most a block, and holds it before anybody else is told so. While the memory L{is
    plentiful<ReadMemory.is_plentiful>} a reader holds at most C{most / 2} more.
  - A reader waits only while less than a block is free, or others who came before it are given
    their turn.
  - The timer runs only while somebody waits and somebody's transport is full.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.transfer.blocks import buffers_for
from flow512.units import BLOCK

STUCK: Final = 10.0
"""
Seconds for a transport to take what it was given, a block, while others wait for the memory.

Who reads more slowly than 26 KB/s may lose the connection then, and can resume.
"""


IDLE: Final = 32
"""Blocks (8 MiB) whose buffers are kept while nobody reads; see L{buffers_for}."""


_LOOK_GAP: Final = 0.1
"""Seconds between two looks for who is stuck, at least."""


class Reader(Protocol):
    """
    One who shares the memory.
    """

    def go_on(self) -> None:
        """Its turn has come: it may ask again, at once."""

    def give_up(self) -> None:
        """End the connection that holds the memory."""


class ReadMemory:
    """
    Counts the bytes that are held, and lets readers wait for their turn.

    @ivar held: bytes that are held now.
    @ivar buffers: where blocks are read to.
    """

    def __init__(self, most: int, clock: IReactorTime) -> None:
        """
        @param most: bytes that may be held, at least 8 blocks.
        @param clock: for those who are stuck.
        """
        self._most = most
        self._clock = clock
        self.held = 0
        self.buffers = buffers_for(IDLE)
        self._waiting: OrderedDict[Reader, None] = OrderedDict()
        self._full: OrderedDict[Reader, float] = OrderedDict()  # since when
        self._turn: Reader | None = None
        self._is_giving_turns = False
        self._timer: IDelayedCall | None = None

    @property
    def is_plentiful(self) -> bool:
        """Whether a reader may hold more than it can write at once."""
        return not self._waiting and 2 * self.held <= self._most

    def ask(self, reader: Reader) -> bool:
        """
        Ask for a block's memory.

        @return: whether the reader may hold that now; else it is told when its turn has come.
        """
        if reader is self._turn:
            self._turn = None
            return True
        if not self._waiting and self._has_block:
            return True
        self._waiting[reader] = None
        self._watch()
        return False

    def hold(self, size: int) -> None:
        """
        Count bytes as held.
        """
        self.held += size

    def release(self, size: int) -> None:
        """
        Count bytes as held no longer, and let others have them.
        """
        self.held -= size
        self._give_turns()

    def transport_full(self, reader: Reader) -> None:
        """
        Note that a reader's transport holds what it was given.
        """
        self._full.setdefault(reader, self._clock.seconds())
        self._watch()

    def transport_drained(self, reader: Reader) -> None:
        """
        Note that it has taken all.
        """
        self._full.pop(reader, None)
        self._watch()

    def forget(self, reader: Reader) -> None:
        """
        Forget a reader who wants nothing any more; what it holds is to be released still.
        """
        self._waiting.pop(reader, None)
        self._full.pop(reader, None)
        self._give_turns()

    @property
    def _has_block(self) -> bool:
        return self._most - self.held >= BLOCK

    def _give_turns(self) -> None:
        if self._is_giving_turns:
            # Somebody who has its turn released something: the loop below goes on with that.
            return
        self._is_giving_turns = True
        while self._waiting and self._has_block:
            self._turn, _ = self._waiting.popitem(last=False)
            self._turn.go_on()
        self._turn = None
        self._is_giving_turns = False
        self._watch()

    def _watch(self) -> None:
        if self._waiting and self._full:
            if self._timer is None:
                since = next(iter(self._full.values()))
                wait = max(_LOOK_GAP, since + STUCK - self._clock.seconds())
                self._timer = self._clock.callLater(wait, self._look)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        stuck = [reader for reader, since in self._full.items() if since + STUCK <= now]
        for reader in stuck[: len(self._waiting)]:
            del self._full[reader]
            reader.give_up()
        self._watch()
