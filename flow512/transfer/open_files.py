"""
The files that one conversation has open to read from.

A file is open once, however many reads want it. It is closed when the room is needed and nobody
reads it, or when the conversation ends, but never while a worker is at it; and by a worker, since
the last who closes a file that was removed waits until the disk has freed its space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

import msgspec

from flow512.transfer.contents import ServedContent


class Opened(msgspec.Struct, eq=False):
    """
    A file that is being read.

    @ivar file: it.
    @ivar looked: when a worker last began to look at who may see it.
    @ivar readers: how many need it: reads of the conversation, and the worker that is at it.
    @ivar missed: when the system was last found not to have it in memory.
    """

    file: ServedContent
    looked: float
    readers: int = 0
    missed: float = -inf


class OpenFiles:
    """
    Keeps them, and closes what is not needed.
    """

    def __init__(self, close: Callable[[list[ServedContent]], None]) -> None:
        """
        @param close: has a worker close some; called with at least one.
        """
        self._close = close
        self._files: dict[bytes, Opened] = {}
        self._aside: list[Opened] = []  # read to the end, and opened anew for whoever asks now

    def __len__(self) -> int:
        return len(self._files) + len(self._aside)

    def find(self, root: bytes) -> Opened | None:
        """
        Give the file that has a content, if it is open, and need not be opened anew.
        """
        opened = self._files.get(root)
        if opened is not None and opened.file.is_over:
            self._aside.append(self._files.pop(root))
            self.close_unread()
            return None
        return opened

    def add(self, opened: Opened) -> None:
        """
        Keep one more, which somebody is about to read.
        """
        self._files[opened.file.root] = opened

    def close_unread(self, *, all_of_them: bool = False) -> None:
        """
        Close those that nobody reads.

        @param all_of_them: whether those as well that might be asked for again.
        """
        unread = [opened for opened in self._aside if not opened.readers]
        self._aside = [opened for opened in self._aside if opened.readers]
        if all_of_them:
            unused = [root for root, opened in self._files.items() if not opened.readers]
            unread += map(self._files.pop, unused)
        self.close(unread)

    def close_all(self) -> None:
        """
        Close all, since the conversation is over, and no worker is at them.
        """
        files = [*self._files.values(), *self._aside]
        self._files.clear()
        self._aside.clear()
        self.close(files)

    def close(self, files: Iterable[Opened]) -> None:
        """
        Close some that are not kept here.
        """
        if closing := [opened.file for opened in files]:
            self._close(closing)
