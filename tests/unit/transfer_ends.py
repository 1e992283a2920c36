"""The other ends of transfer conversations, and workers that work when the test says so."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from flow512.content.cached import Cached
from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library, OpenContent, View
from flow512.content.shares import Share
from flow512.link.address import HostPort, client_endpoint
from flow512.link.bulk import IBulkTransport
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.testing import Host, Network
from flow512.transfer.finding import Candidate
from flow512.transfer.server import TransferFactory, TransferProtocol
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source
from flow512.units import BLOCK
from flow512.wire.bundle import Parcel, unpack
from flow512.wire.fields import Message
from flow512.wire.frame import Frame, FrameReader, encode_frame
from flow512.wire.messages import CAPS, Entry, Hello, Kind, encode, message_in

OURS = b"o" * 32
THEIRS = b"t" * 32
ADDRESS = IPv4Address("TCP", "10.0.0.9", 40000)


def a_folder(test: SynchronousTestCase) -> Path:
    """Make an empty folder that is gone after the test."""
    folder = tempfile.mkdtemp()
    test.addCleanup(shutil.rmtree, folder)
    return Path(folder)


@dataclass(eq=False)
class Job:
    """Something for a worker."""

    work: Callable[[], Any]
    result: Deferred[Any]

    def do(self) -> None:
        """Do it, and tell."""
        execute(self.work).chainDeferred(self.result)


class HandFired:
    """Workers that do nothing before they are told to."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run_blocking(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Note the work."""
        job = Job(lambda: function(*args, **kwargs), Deferred())
        self.jobs.append(job)
        return job.result

    def do(self, which: int = 0) -> None:
        """Do one of the jobs."""
        self.jobs.pop(which).do()

    def do_some(self, count: int) -> None:
        """Do so many jobs."""
        for _ in range(count):
            self.do()

    def do_all(self) -> None:
        """Do all jobs, and those that come of them."""
        while self.jobs:
            self.do()


class Shelf(Library):
    """
    A library of some files in one folder that knows what it has opened.

    @ivar is_cached: tells from which offsets on its files can be read without waiting.
    """

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(IN_MEMORY)
        super().__init__(self.catalog, [Share(str(folder))])
        self.folder = folder
        self.opened: list[OpenContent] = []
        self.bytes_read = 0
        self.read_error: Exception | None = None
        self.read_hook: Callable[[int, bytes], bytes] = lambda offset, data: data
        self.is_cached: Callable[[int], bool] = lambda offset: False

    def put(self, path: str, content: bytes) -> bytes:
        """Write a file, and tell its root."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
        root = self.stat(path).root
        assert root is not None
        return root

    def open(self, root: bytes, view: View | None = None) -> OpenContent:
        content = super().open(root, view)
        opened = _Watched(content.fd, root, content._stamp, content._what, content._check_access)
        opened.shelf = self
        opened.cached = _ShelfCache(opened)
        self.opened.append(opened)
        return opened

    def read_small(self, roots: Sequence[bytes], parcel: Parcel, view: View | None = None) -> None:
        super().read_small(roots, parcel, view)
        for content in unpack(parcel.body):
            if content is not None:
                self.bytes_read += len(content)
                content[:] = self.read_hook(0, bytes(content))

    @property
    def open_now(self) -> int:
        """How many files are open."""
        return sum(content.fd >= 0 for content in self.opened)

    def shut(self) -> None:
        """Close everything."""
        self.close()
        self.catalog.close()


class _ShelfCache(Cached):
    def __init__(self, opened: _Watched) -> None:
        super().__init__(opened.fd)
        self._opened = opened

    def look(self) -> None:
        """What the system has in memory is no matter of a test's."""

    def fill(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> bool:
        self.is_missed = not self._opened.shelf.is_cached(offset)
        if self.is_missed:
            return False
        os.preadv(self._opened.fd, rooms, offset)
        self._opened.was_read(offset, rooms)
        return True


class _Watched(OpenContent):
    shelf: Shelf

    def read_into(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
        if self.shelf.read_error is not None:
            raise self.shelf.read_error
        super().read_into(offset, rooms)
        self.was_read(offset, rooms)

    def was_read(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
        """Count it, and let the test change it."""
        for room in rooms:
            self.shelf.bytes_read += len(room)
            for at in range(0, len(room), BLOCK):
                block = bytes(room[at : at + BLOCK])
                room[at : at + BLOCK] = self.shelf.read_hook(offset + at, block)
            offset += len(room)

    def close(self) -> None:
        assert self.fd >= 0, "a file is closed once"
        super().close()


class FullTransport(StringTransport):
    """
    A transport that is full once so many bytes wait in it, and says so as Twisted's do: at every
    write while it is full, and once when all has been taken.
    """

    def __init__(self, room: int) -> None:
        super().__init__(peerAddress=ADDRESS)
        self.room = room
        self.aborted = False
        self.is_full = False
        self.is_read = True
        self.most_waiting = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        waiting = len(self.value())
        self.most_waiting = max(waiting, self.most_waiting)
        if self.producer is not None and waiting > self.room:
            self.is_full = True
            self.producer.pauseProducing()

    def take(self) -> bytes:
        """Let the other side read all that waits."""
        data: bytes = self.value()
        self.clear()
        if self.is_full and self.producer is not None:
            self.is_full = False
            self.producer.resumeProducing()
        return data

    def pauseProducing(self) -> None:
        self.is_read = False

    def resumeProducing(self) -> None:
        self.is_read = True

    def abortConnection(self) -> None:
        self.aborted = True


@implementer(IBulkTransport)
class LendingTransport(FullTransport):
    """
    A transport that keeps the buffers that it is given until the other side reads.
    """

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.lent: list[Callable[[], None]] = []

    def write_bulk(self, header: bytes, body: memoryview, done: Callable[[], None]) -> None:
        self.lent.append(done)
        self.write(header + body)

    def take(self) -> bytes:
        data: bytes = self.value()
        self.clear()
        self.give_back()
        return data + super().take()

    def give_back(self) -> None:
        """Let the buffers be their owner's again."""
        lent, self.lent = self.lent, []
        for done in lent:
            done()


class End:
    """
    One end of a transfer conversation, at whose other end a protocol is under test.

    @ivar transport: what that writes to.
    """

    conversation = "transfer"

    def __init__(
        self, protocol: IProtocol, room: int = 1 << 40, kind: type[FullTransport] = FullTransport
    ) -> None:
        self.protocol = protocol
        self.transport = kind(room)
        self._reader = FrameReader(CAPS)
        self._is_lost = False
        protocol.makeConnection(self.transport)

    def say_hello(self, node: bytes = THEIRS) -> None:
        """Introduce ourselves, and forget what the other side says of itself."""
        self.say(Hello(1, 1, self.conversation, node))
        self.take()

    def say(self, *messages: Message, request: int = 0) -> None:
        """Send messages with one request number."""
        self.say_bytes(b"".join(encode(message, request) for message in messages))

    def say_frame(self, kind: Kind, request: int, body: bytes, position: int = 0) -> None:
        """Send a frame that carries no message."""
        self.say_bytes(encode_frame(kind, request, body, position))

    def say_bytes(self, data: bytes) -> None:
        """Send bytes."""
        self.protocol.dataReceived(data)

    def take(self) -> list[Frame]:
        """Take one load of frames from the transport."""
        self._reader.receive(self.transport.take())
        frames = []
        while (frame := self._reader.next_frame()) is not None:
            frames.append(frame)
        return frames

    def heard(self) -> list[tuple[int, Message]]:
        """Take the messages that came, with their request numbers."""
        return [(frame.request, message_in(frame)) for frame in self.take()]

    def hang_up(self, *, cleanly: bool = False) -> None:
        """Let the connection be gone."""
        if not self._is_lost:
            self._is_lost = True
            if isinstance(self.transport, LendingTransport):
                self.transport.give_back()
            self.protocol.connectionLost(Failure(ConnectionDone() if cleanly else ConnectionLost()))

    @property
    def is_closing(self) -> bool:
        """Whether the protocol under test has closed the connection."""
        return self.transport.disconnecting or self.transport.aborted


@dataclass
class Served:
    """A server under test, and its client."""

    factory: TransferFactory
    protocol: TransferProtocol
    end: End


def serve(
    library: Library, workers: HandFired, clock: Clock, room: int = 1 << 40, hello: bool = True
) -> Served:
    """Connect to a server of a library."""
    factory = TransferFactory(
        library, Introduction(OURS, "server"), clock, workers.run_blocking, reads_cached=False
    )
    return join(factory, room, hello)


def join(
    factory: TransferFactory,
    room: int = 1 << 40,
    hello: bool = True,
    kind: type[FullTransport] = FullTransport,
) -> Served:
    """Connect to a server."""
    protocol = factory.buildProtocol(ADDRESS)
    end = End(protocol, room, kind)
    if hello:
        end.say_hello()
    return Served(factory, protocol, end)


def ask(
    clock: Clock, expected: bytes | None = None, hello: bool = True
) -> tuple[SourceProtocol, End]:
    """Make a source under test whose other end is the test's."""
    factory = SourceFactory(Introduction(OURS, "client"), clock, Patience(), expected)
    source = factory.buildProtocol(ADDRESS)
    end = End(source)
    if hello:
        end.say_hello()
    return source, end


@dataclass
class Another:
    """One more node that serves, and the connection to it."""

    host: Host
    shelf: Shelf
    factory: TransferFactory
    candidate: Candidate
    source: SourceProtocol


class TransferTestCase(SynchronousTestCase):
    """
    A network with a node that serves a shelf at 10.0.0.1, and a host at 10.0.0.2 that fetches.

    @ivar shelf: what is served.
    @ivar folder: an empty folder for what is fetched.
    """

    def setUp(self) -> None:
        self.network = Network(3)
        self.network.latency = (0.001, 0.002)
        self.there = self.network.host("10.0.0.1", name="there")
        self.here = self.network.host("10.0.0.2", name="here")
        base = a_folder(self)
        (base / "shelf").mkdir(parents=True)
        self.folder = base / "folder"
        self.folder.mkdir()
        self.random = Random(5)
        self.shelf = Shelf(base / "shelf")
        self.addCleanup(self.shelf.shut)
        self.factory = TransferFactory(
            self.shelf,
            Introduction(THEIRS, "there"),
            self.there.reactor,
            self.there.run_blocking,
            reads_cached=False,
        )
        endpoint = serverFromString(self.there.reactor, "tcp:5000")
        self.port = self.network.result(endpoint.listen(self.factory))
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Stop serving; nothing may be left over after that."""
        self.network.result(maybeDeferred(self.port.stopListening))
        self.network.result(self.factory.stop())
        self.network.run(100.0)
        self.network.assert_quiet()
        self.assertEqual(self.shelf.open_now, 0)

    def put(self, path: str, size: int) -> tuple[Entry, bytes]:
        """Share a file of so many random bytes; its entry and its bytes are returned."""
        content = self.random.randbytes(size)
        self.shelf.put(path, content)
        return self.shelf.stat(path), content

    def source(self) -> SourceProtocol:
        """Connect to the node that serves."""
        endpoint = client_endpoint(self.here.reactor, HostPort("10.0.0.1", 5000))
        factory = SourceFactory(Introduction(OURS, "here"), self.here.reactor)
        source = self.network.result(Deferred.fromCoroutine(connect_source(endpoint, factory)))
        self.addCleanup(source.leave)
        return source

    def another(self, number: int, name: str, content: bytes) -> Another:
        """Start one more node, at 10.0.0.NUMBER, that serves one file, and connect to it."""
        host = self.network.host(f"10.0.0.{number}", name=f"another{number}")
        shelf = Shelf(a_folder(self))
        self.addCleanup(shelf.shut)
        shelf.put(name, content)
        factory = TransferFactory(
            shelf,
            Introduction(THEIRS, host.name),
            host.reactor,
            host.run_blocking,
            reads_cached=False,
        )
        endpoint = serverFromString(host.reactor, "tcp:5000")
        port = self.network.result(endpoint.listen(factory))
        address = HostPort(f"10.0.0.{number}", 5000)
        connecting = connect_source(
            client_endpoint(self.here.reactor, address),
            SourceFactory(Introduction(OURS, "here"), self.here.reactor),
        )
        source = self.network.result(Deferred.fromCoroutine(connecting))

        def end() -> None:
            source.leave()
            self.network.result(maybeDeferred(port.stopListening))
            self.network.result(factory.stop())
            self.assertEqual(shelf.open_now, 0)

        self.addCleanup(end)
        return Another(host, shelf, factory, Candidate(address, host.name, THEIRS), source)
