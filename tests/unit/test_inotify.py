"""Tests for L{flow512.transfer.inotify}; a pipe stands in for what Linux would give."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flow512.transfer.inotify import ALL_CHANGES, Event, Inotify, notifiers_of


class FakeLibc:
    """The C library: a notifier is the end of a pipe, and watches are numbered."""

    def __init__(self) -> None:
        self.fds = os.pipe()
        os.set_blocking(self.fds[0], False)
        self.error = 0
        self.watched: list[tuple[int, bytes, int]] = []
        self.forgotten: list[int] = []

    def fail(self) -> bool:
        """Fail if it should."""
        ctypes.set_errno(self.error)
        return bool(self.error)

    def inotify_init1(self, flags: int) -> int:
        """Open one."""
        assert flags == os.O_NONBLOCK | os.O_CLOEXEC
        return -1 if self.fail() else self.fds[0]

    def inotify_add_watch(self, fd: int, path: bytes, mask: ctypes.c_uint32) -> int:
        """Watch."""
        self.watched.append((fd, path, mask.value))
        return -1 if self.fail() else len(self.watched)

    def inotify_rm_watch(self, fd: int, watch: int) -> int:
        """Watch no longer."""
        self.forgotten.append(watch)
        return -1

    def happen(self, *events: tuple[int, int, bytes]) -> None:
        """Write events as the kernel does, with names filled up by NULs."""
        os.write(
            self.fds[1],
            b"".join(
                struct.pack("=iIII", watch, mask, 0, (len(name) + 15) // 16 * 16)
                + name.ljust((len(name) + 15) // 16 * 16, b"\0")
                for watch, mask, name in events
            ),
        )


@implementer(IReactorFDSet)
class FakeReactor:
    """Knows what waits to read."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """Serve it."""
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        """Leave it alone."""
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        """Never needed."""
        raise AssertionError

    def removeWriter(self, writer: Any) -> None:
        """Nothing to leave alone."""

    def removeAll(self) -> list[Any]:
        """Never needed."""
        raise AssertionError

    def getReaders(self) -> list[Any]:
        """Never needed."""
        raise AssertionError

    def getWriters(self) -> list[Any]:
        """Never needed."""
        raise AssertionError


class InotifyTests(SynchronousTestCase):
    """L{Inotify}."""

    def setUp(self) -> None:
        self.libc = FakeLibc()
        self.addCleanup(os.close, self.libc.fds[1])
        self.reactor = FakeReactor()
        self.told: list[tuple[int, Event, bytes]] = []

    def open(self) -> Inotify:
        """Open one that is closed after the test."""
        notifier = Inotify(
            self.reactor,
            self.libc,  # type: ignore[arg-type]  # all that is asked of one
            lambda *event: self.told.append(event),
        )
        self.addCleanup(notifier.close)
        return notifier

    def test_events(self) -> None:
        """Every event is told, with the name as it is; lost events are told as well."""
        notifier = self.open()
        [reader] = self.reactor.readers
        self.libc.happen(
            (1, Event.CREATE, b"a name of 16 by."),
            (2, Event.DELETE | Event.IS_FOLDER, b"\xff"),
            (1, Event.IGNORED, b""),
            (-1, Event.OVERFLOW, b""),
        )
        reader.doRead()
        self.assertEqual(
            self.told,
            [
                (1, Event.CREATE, b"a name of 16 by."),
                (2, Event.DELETE | Event.IS_FOLDER, b"\xff"),
                (1, Event.IGNORED, b""),
                (-1, Event.OVERFLOW, b""),
            ],
        )
        self.assertEqual(notifier.fileno(), self.libc.fds[0])

    def test_watches(self) -> None:
        """Only folders are watched, and no links; a folder that is watched already is watched for
        more, not for something else."""
        notifier = self.open()
        self.assertEqual(notifier.watch(b"/a", ALL_CHANGES), 1)
        [(fd, path, mask)] = self.libc.watched
        self.assertEqual((fd, path), (self.libc.fds[0], b"/a"))
        flags = Event.ONLY_FOLDERS | Event.DO_NOT_FOLLOW | Event.ADD_TO_MASK
        self.assertEqual(mask, ALL_CHANGES | flags)
        notifier.forget(1)
        self.assertEqual(self.libc.forgotten, [1])

    def test_errors(self) -> None:
        """What the system refuses is raised with its number."""
        notifier = self.open()
        self.libc.error = errno.ENOSPC
        with self.assertRaises(OSError) as caught:
            notifier.watch(b"/a", ALL_CHANGES)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        self.libc.error = errno.EMFILE
        with self.assertRaises(OSError) as caught:
            self.open()
        self.assertEqual(caught.exception.errno, errno.EMFILE)

    def test_closed_meanwhile(self) -> None:
        """After it was closed nothing is told, though it may have been read; it is closed once."""
        notifier = self.open()
        notifier._told = lambda *event: (self.told.append(event), notifier.close())[1]
        self.libc.happen((1, Event.CREATE, b"a"), (1, Event.CREATE, b"b"))
        notifier.doRead()
        self.assertEqual(len(self.told), 1)
        self.assertEqual(self.reactor.readers, set())
        self.assertRaises(OSError, os.fstat, self.libc.fds[0])
        notifier.close()

    def test_end_of_the_reactor(self) -> None:
        """When the reactor ends, it is closed."""
        notifier = self.open()
        notifier.connectionLost(Failure(ConnectionLost()))
        self.assertRaises(OSError, os.fstat, self.libc.fds[0])

    def test_no_descriptors(self) -> None:
        """A reactor that serves no descriptors can watch nothing."""
        self.assertIsNone(notifiers_of(Clock()))

    def test_system(self) -> None:
        """Where there is no inotify, nothing can be watched; where there is one, it is opened."""
        self.patch(ctypes, "CDLL", lambda name, use_errno: object())
        self.assertIsNone(notifiers_of(self.reactor))
        self.patch(ctypes, "CDLL", lambda name, use_errno: self.libc)
        open_notifier = notifiers_of(self.reactor)
        assert open_notifier is not None
        notifier = open_notifier(lambda *event: self.told.append(event))
        self.addCleanup(notifier.close)
        self.assertEqual(len(self.reactor.readers), 1)
