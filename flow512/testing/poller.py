"""
What C{epoll} is to a real reactor: says which sockets are ready, and has them served.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IReadDescriptor,
    IWriteDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.testing.clock import NetworkClock


class GaveUp(ConnectionLost, TimeoutError):
    """
    A connection was lost because what it had sent was not acknowledged for too long.

    On a real reactor this is a plain C{ConnectionLost}, which it is here too; it is a
    L{TimeoutError} besides, so that a test can tell it from a connection that was reset.
    """

    MESSAGE = "The other side has not acknowledged anything for too long"

    def __init__(self) -> None:
        Exception.__init__(self)


class Pollable(Protocol):
    """What the poller needs to know of a socket."""

    @property
    def readable(self) -> bool:
        """Whether reading would tell something: data, an end, an error, a connection."""

    @property
    def writable(self) -> bool:
        """Whether writing would do something."""

    @property
    def gave_up(self) -> bool:
        """Whether it failed because nothing was acknowledged for too long."""

    @property
    def is_owned(self) -> bool:
        """Whether the process has it, and not only the kernel."""

    def close(self) -> None:
        """Be closed in an orderly way."""

    def vanish(self) -> None:
        """Be gone, with the process that had it."""


class Poller:
    """
    The sockets of one process, and what it waits for on each.

    Readiness is a level, not an edge: what is ready and waited for is served once a turn, until it
    is no longer ready or no longer waited for.
    """

    _log = Logger()

    def __init__(self, clock: NetworkClock) -> None:
        self._clock = clock
        self._sockets: dict[int, Pollable] = {}
        self._readers: dict[int, IReadDescriptor] = {}
        self._writers: dict[int, IWriteDescriptor] = {}
        self._ready: dict[int, None] = {}
        self._turn_is_due = False
        self._last_descriptor = 2

    def register(self, socket: Pollable) -> int:
        """Take a socket in; its descriptor is returned, and never used again."""
        self._last_descriptor += 1
        self._sockets[self._last_descriptor] = socket
        return self._last_descriptor

    def forget(self, descriptor: int) -> None:
        """Let a closed socket go."""
        self._sockets.pop(descriptor, None)
        self._readers.pop(descriptor, None)
        self._writers.pop(descriptor, None)

    def stop(self) -> None:
        """Serve nothing any more; every socket vanishes, and no other host is told."""
        sockets = list(self._sockets.values())
        self._sockets.clear()
        self._readers.clear()
        self._writers.clear()
        for socket in sockets:
            socket.vanish()

    def lose_everything(self) -> None:
        """Tell every transport that waits for something that its connection was lost."""
        for transport in self.remove_all():
            self._lose(transport, ConnectionLost())

    def add_reader(self, reader: IReadDescriptor) -> None:
        """Wait for something to read."""
        descriptor = reader.fileno()
        if descriptor in self._sockets:
            self._readers[descriptor] = reader
            self.wake(descriptor)

    def add_writer(self, writer: IWriteDescriptor) -> None:
        """Wait for room to write."""
        descriptor = writer.fileno()
        if descriptor in self._sockets:
            self._writers[descriptor] = writer
            self.wake(descriptor)

    def remove_reader(self, reader: IReadDescriptor) -> None:
        """Wait no longer for something to read."""
        self._readers.pop(reader.fileno(), None)

    def remove_writer(self, writer: IWriteDescriptor) -> None:
        """Wait no longer for room to write."""
        self._writers.pop(writer.fileno(), None)

    def sockets(self) -> list[Pollable]:
        """List what was registered and not forgotten."""
        return list(self._sockets.values())

    def remove_all(self) -> list[IReadDescriptor | IWriteDescriptor]:
        """Wait for nothing any more; what was waiting is returned."""
        waiting: list[IReadDescriptor | IWriteDescriptor] = [*self._readers.values()]
        waiting.extend(each for each in self._writers.values() if each not in waiting)
        self._readers.clear()
        self._writers.clear()
        return waiting

    def readers(self) -> list[IReadDescriptor]:
        """List what waits to read."""
        return list(self._readers.values())

    def writers(self) -> list[IWriteDescriptor]:
        """List what waits to write."""
        return list(self._writers.values())

    def wake(self, descriptor: int) -> None:
        """Look at a socket again, at the next turn, if it is ready for what is waited for."""
        if self._is_due(descriptor):
            self._ready[descriptor] = None
            if not self._turn_is_due:
                self._turn_is_due = True
                self._clock.at(self._clock.rightNow, self._turn)

    def _is_due(self, descriptor: int) -> bool:
        socket = self._sockets.get(descriptor)
        return socket is not None and (
            (descriptor in self._readers and socket.readable)
            or (descriptor in self._writers and socket.writable)
        )

    def _turn(self) -> None:
        self._turn_is_due = False
        ready, self._ready = self._ready, {}
        for descriptor in ready:
            self._serve(descriptor)
            self.wake(descriptor)

    def _serve(self, descriptor: int) -> None:
        # What PosixReactorBase and EPollReactor do with a descriptor that is ready.
        socket = self._sockets.get(descriptor)
        if socket is None:
            return
        reader = self._readers.get(descriptor)
        if reader is not None and socket.readable:
            why: BaseException | None = None
            with self._log.failuresHandled("while reading from a transport") as reading:
                why = _outcome(reader.doRead())
            if reading.failure is not None:
                why = reading.failure.value
            if why is not None:
                self._disconnect(reader, socket, why, after_reading=True)
                return
        writer = self._writers.get(descriptor)
        if writer is not None and socket.writable:
            why = None
            with self._log.failuresHandled("while writing to a transport") as writing:
                why = _outcome(writer.doWrite())
            if writing.failure is not None:
                why = writing.failure.value
            if why is not None:
                self._disconnect(writer, socket, why, after_reading=False)

    def _disconnect(
        self,
        selectable: IReadDescriptor | IWriteDescriptor,
        socket: Pollable,
        why: BaseException,
        *,
        after_reading: bool,
    ) -> None:
        descriptor = selectable.fileno()
        self._readers.pop(descriptor, None)
        if (
            after_reading
            and why.__class__ is ConnectionDone
            and IHalfCloseableDescriptor.providedBy(selectable)
        ):
            with self._log.failuresHandled("while telling a protocol that there is no more"):
                selectable.readConnectionLost(_failure(why))
            return
        self._writers.pop(descriptor, None)
        if socket.gave_up and why.__class__ is ConnectionLost:
            why = GaveUp()
        self._lose(selectable, why)

    def _lose(self, transport: IReadDescriptor | IWriteDescriptor, why: BaseException) -> None:
        with self._log.failuresHandled("while telling a protocol that its connection was lost"):
            transport.connectionLost(_failure(why))


def _outcome(result: object) -> BaseException | None:
    # Interfaces promise a Failure; what transports return is an exception, or nothing.
    return result if isinstance(result, BaseException) else None


def _failure(why: BaseException) -> Failure:
    return Failure(why)  # type: ignore[no-untyped-call] # Failure has no types
