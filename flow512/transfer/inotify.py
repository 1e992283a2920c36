"""
Linux's inotify on a reactor.

Twisted has an C{INotify} of its own, which is meant for a few folders. For a tree of them that
comes and goes it does not serve: it ends when any watched folder is deleted, drops the word that
events were lost, does not say why a watch was refused, and takes a folder that was moved for one
that is still watched under its old name. So this one is no more than the descriptor; whose watch is
whose is for its user to know.

Source of numbers and formats: C{inotify(7)}, C{linux/inotify.h}.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from enum import IntFlag
from typing import Final, Protocol, TypeAlias

from twisted.internet.abstract import FileDescriptor
from twisted.internet.fdesc import readFromFD
from twisted.internet.interfaces import IReactorFDSet
from twisted.python.failure import Failure

_EVENT: Final = struct.Struct("=iIII")
"""Watch, what happened, a number that binds the halves of a move, bytes of the name."""


class Event(IntFlag):
    """
    What happens to a watched folder, or in it; and how to watch.
    """

    MODIFY = 0x2
    ATTRIB = 0x4
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    MOVE_SELF = 0x800
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLY_FOLDERS = 0x1000000
    DO_NOT_FOLLOW = 0x2000000
    ADD_TO_MASK = 0x20000000
    IS_FOLDER = 0x40000000


COMING_AND_GOING: Final = Event.CREATE | Event.DELETE | Event.MOVED_FROM | Event.MOVED_TO
ALL_CHANGES: Final = (
    COMING_AND_GOING | Event.MODIFY | Event.ATTRIB | Event.CLOSE_WRITE | Event.MOVE_SELF
)

Told: TypeAlias = Callable[[int, Event, bytes], None]
"""Is told of an event: the watch, -1 if events were lost; what happened; the name in the folder,
empty for the folder itself."""


class Notifier(Protocol):
    """
    Watches folders. What it tells, it tells on the reactor's thread, not before the reactor's next
    turn, and not after L{close}.
    """

    def watch(self, folder: bytes, events: Event) -> int:
        """
        Watch a folder, but nothing beneath it.

        @param folder: its path.
        @param events: what to tell of, besides what it tells of already.
        @return: the watch; one folder has one, whatever paths it is watched by.
        @raise OSError: C{ENOSPC} or C{ENOMEM} if no more can be watched.
        """

    def forget(self, watch: int) -> None:
        """
        Watch a folder no longer. A watch that is no more is passed over.
        """

    def close(self) -> None:
        """
        Watch nothing any longer.
        """


OpenNotifier: TypeAlias = Callable[[Told], Notifier]
"""Opens a notifier; raises C{OSError} if there are too many."""


def notifiers_of(reactor: object) -> OpenNotifier | None:
    """
    Find out how folders can be watched.

    @param reactor: a running one of this process.
    @return: L{None} if they cannot: the reactor serves no descriptors, or this is not Linux.
    """
    descriptors = IReactorFDSet(reactor, None)
    if descriptors is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return None

    def open_notifier(told: Told) -> Notifier:
        return Inotify(descriptors, libc, told)

    return open_notifier


class Inotify(FileDescriptor):
    """
    One descriptor of inotify.
    """

    def __init__(self, reactor: IReactorFDSet, libc: ctypes.CDLL, told: Told) -> None:
        """
        @param reactor: serves the descriptor.
        @param libc: the C library, opened so that it keeps C{errno}.
        @param told: is told of every event.
        @raise OSError: C{EMFILE} if there are too many.
        """
        super().__init__(reactor)
        self._libc = libc
        self._told = told
        self._inotify = self._call(libc.inotify_init1, os.O_NONBLOCK | os.O_CLOEXEC)
        self.startReading()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def watch(self, folder: bytes, events: Event) -> int:
        """See L{Notifier.watch}."""
        how = events | Event.ONLY_FOLDERS | Event.DO_NOT_FOLLOW | Event.ADD_TO_MASK
        return self._call(
            self._libc.inotify_add_watch, self._inotify, folder, ctypes.c_uint32(how.value)
        )

    def forget(self, watch: int) -> None:
        """See L{Notifier.forget}."""
        self._libc.inotify_rm_watch(self._inotify, watch)

    def close(self) -> None:
        """See L{Notifier.close}."""
        if self._inotify >= 0:
            self.stopReading()  # type: ignore[no-untyped-call]  # Twisted has no types there
            os.close(self._inotify)
            self._inotify = -1

    def fileno(self) -> int:
        """Give the descriptor's number."""
        return self._inotify

    def doRead(self) -> Failure | None:
        """Tell of some events; a read gives whole ones only."""
        why: Failure | None = readFromFD(self._inotify, self._read)  # type: ignore[no-untyped-call]  # Twisted has no types there
        return why

    def connectionLost(self, reason: Failure) -> None:
        """Close, as the reactor gives the descriptor up or ends."""
        self.close()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._inotify >= 0:
            watch, what, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            self._told(watch, Event(what), data[at - length : at].rstrip(b"\0"))

    @staticmethod
    def _call(function: Callable[..., int], *arguments: object) -> int:
        result = function(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
