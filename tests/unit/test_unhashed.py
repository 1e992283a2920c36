"""
Tests for L{flow512.transfer.unhashed} and what it rests on: L{flow512.transfer.course},
L{flow512.content.unhashed}, and what the library does for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import ALLOW_FILE
from flow512.content.catalog import IN_MEMORY, Catalog, Stamp
from flow512.content.hashing import hash_file
from flow512.content.library import MD5_AT_ONCE, Library, Share
from flow512.content.tree import TreeBuilder, block_digest
from flow512.content.unhashed import UnhashedContent
from flow512.errors import (
    WIRE_CODES,
    BadMessage,
    Cancelled,
    ContentChanged,
    DiskFailure,
    DiskFull,
    Misuse,
    NotFound,
    SourceFailure,
    UnsafeName,
)
from flow512.limits import Limits
from flow512.link.introduction import Introduction
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.link.throttle import Throttle
from flow512.transfer.server import TransferFactory
from flow512.transfer.shared_work import SharedWork
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import HEADER_SIZE, Frame
from flow512.wire.messages import Cancel, Entry, Error, Kind, Read, Stat, Stated, decode
from flow512.wire.streaming import Stream
from tests.unit.test_fetch import open_files
from tests.unit.test_transfer_server import ServerTestCase
from tests.unit.transfer_ends import OURS, HandFired, Served, a_folder, join

MTIME = 10**18
LARGE = MD5_AT_ONCE + BLOCK + 700
ANN = b"a" * 32


def root_of(content: bytes) -> bytes:
    """The root of a content."""
    builder = TreeBuilder()
    for at in range(0, len(content), BLOCK):
        builder.add(block_digest(content[at : at + BLOCK]))
    return builder.finish(len(content)).root


class Taken:
    """What came of one stream, each frame checked for its place."""

    def __init__(self, size: int, first: int = 0) -> None:
        self.size = size
        self.first = first
        self.data = b""
        self.block = first
        self.entry: Entry | None = None
        self.code: int | None = None

    def take(self, frames: list[Frame]) -> None:
        """Take frames."""
        for frame in frames:
            assert self.entry is None
            assert self.code is None
            if frame.kind == Kind.ENTRY:
                self.entry = decode(frame, Stated).entry
            elif frame.kind == Kind.ERROR:
                self.code = decode(frame, Error).code
            elif frame.kind == Kind.DIGESTS:
                begin = (self.block - self.first) * BLOCK
                assert frame.position == self.block
                assert bytes(frame.body) == block_digest(self.data[begin:])
                self.block += 1
            else:
                assert frame.kind == Kind.DATA
                assert frame.position == self.first * 512 + len(self.data) // PIECE
                self.data += bytes(frame.body)


class StreamTestCase(ServerTestCase):
    """A shelf with a file that nobody has hashed."""

    def setUp(self) -> None:
        super().setUp()
        self.content = self.random.randbytes(LARGE)
        self.write("new", self.content)
        self.stream = Stream("new", LARGE, MTIME)

    def end_all(self) -> None:
        super().end_all()
        self.assertEqual(open_files(self.shelf.folder / "new"), 0)
        for served in self.served:
            allowance = served.factory.allowance
            self.assertEqual((allowance.memory.held, allowance.requests), (0, 0))

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, and do not hash it."""
        (self.shelf.folder / name).write_bytes(content)
        os.utime(self.shelf.folder / name, ns=(MTIME, MTIME))

    def all_of(self, served: Served, first: int = 0, request: int = 1) -> Taken:
        """Let the workers work, and take what comes of one request."""
        taken = Taken(LARGE, first)
        self.workers.do_all()
        taken.take([frame for frame in served.end.take() if frame.request == request])
        return taken

    def no_hashing(self) -> Callable[..., None]:
        """Let hashing a file be an error."""
        hashing = mock.patch("flow512.content.backlog.hash_file", side_effect=AssertionError)
        hashing.start()
        self.addCleanup(hashing.stop)
        return hashing.stop


class StatTests(StreamTestCase):
    """STAT of one who does not want to wait."""

    def stat(self, wanted: Stat) -> Entry | int:
        """Ask, and give what is answered; an error by its code."""
        served = self.serve()
        served.end.say(wanted, request=1)
        self.workers.do_all()
        [(_, answer)] = served.end.heard()
        if isinstance(answer, Stated):
            return answer.entry
        assert isinstance(answer, Error)
        return answer.code

    def test_large(self) -> None:
        """An entry without a root comes at once, and nothing is hashed for it."""
        self.no_hashing()
        self.assertEqual(self.stat(Stat("new", at_once=True)), Entry("new", LARGE, MTIME))

    def test_small(self) -> None:
        """A small file is hashed first."""
        self.write("small", self.content[:MD5_AT_ONCE])
        entry = self.stat(Stat("small", at_once=True))
        assert isinstance(entry, Entry)
        self.assertEqual(entry.root, root_of(self.content[:MD5_AT_ONCE]))

    def test_known(self) -> None:
        """A root that is known is told."""
        root = self.shelf.stat("new").root
        entry = self.stat(Stat("new", at_once=True))
        assert isinstance(entry, Entry)
        self.assertEqual(entry.root, root)

    def test_one_who_waits(self) -> None:
        """Whoever does not say so waits for the root, as ever."""
        entry = self.stat(Stat("new"))
        assert isinstance(entry, Entry)
        self.assertEqual(entry.root, root_of(self.content))

    def test_what_is_not_there(self) -> None:
        """There is no hurry about what is not there."""
        self.assertEqual(self.stat(Stat("other", at_once=True)), WIRE_CODES[NotFound])


class ServingTests(StreamTestCase):
    """The side that has it."""

    def test_whole(self) -> None:
        """Every block comes with its digest, and then the root, which is known from then on."""
        self.no_hashing()
        served = self.serve()
        served.end.say(self.stream, request=1)
        taken = self.all_of(served)
        self.assertEqual(taken.data, self.content)
        self.assertEqual(taken.block, LARGE // BLOCK + 1)
        self.assertEqual(taken.entry, Entry("new", LARGE, MTIME, root_of(self.content)))
        # Nothing is hashed again for those who ask now.
        self.assertEqual(self.shelf.stat("new").root, root_of(self.content))
        page = self.shelf.page(root_of(self.content), 0, 0)
        self.assertEqual(page[:32], block_digest(self.content[:BLOCK]))
        self.assertIsNone(self.shelf.hash_next())

    def test_run(self) -> None:
        """Frames have as many pieces as are wanted, and never cross a block."""
        served = self.serve()
        served.end.say(Stream("new", LARGE, MTIME, run=500), request=1)
        self.workers.do_all()
        frames = served.end.take()
        lengths = [len(frame.body) for frame in frames if frame.kind == Kind.DATA]
        self.assertEqual(lengths[:4], [500 * PIECE, 12 * PIECE] * 2)
        taken = Taken(LARGE)
        taken.take(frames)
        self.assertEqual(taken.data, self.content)

    def test_from_a_block_on(self) -> None:
        """What is wanted from a block on comes so, and the root is of the whole."""
        served = self.serve()
        served.end.say(Stream("new", LARGE, MTIME, 30), request=1)
        taken = self.all_of(served, 30)
        self.assertEqual(taken.data, self.content[30 * BLOCK :])
        assert taken.entry is not None
        self.assertEqual(taken.entry.root, root_of(self.content))

    def test_from_a_block_on_of_what_is_known(self) -> None:
        """If the root is known by then, nothing is hashed for it."""
        self.shelf.stat("new")
        self.no_hashing()
        served = self.serve()
        served.end.say(Stream("new", LARGE, MTIME, 30), request=1)
        self.assertIsNotNone(self.all_of(served, 30).entry)

    def test_the_root_alone(self) -> None:
        """Whoever has every block is told the root, and nothing else; one block more is none."""
        served = self.serve()
        blocks = LARGE // BLOCK + 1
        served.end.say(Stream("new", LARGE, MTIME, blocks), request=1)
        taken = self.all_of(served, blocks)
        self.assertEqual(taken.data, b"")
        self.assertIsNotNone(taken.entry)
        served.end.say(Stream("new", LARGE, MTIME, blocks + 1), request=1)
        self.workers.do_all()
        self.assertEqual(self.errors(served), [(1, WIRE_CODES[Misuse])])

    def test_empty(self) -> None:
        """A file without bytes is nothing but its root."""
        self.write("empty", b"")
        served = self.serve()
        served.end.say(Stream("empty", 0, MTIME), request=1)
        self.assertEqual(self.all_of(served).entry, Entry("empty", 0, MTIME, root_of(b"")))

    def test_another_file(self) -> None:
        """A file that is not what STAT told, not there, or of no name, is refused."""
        served = self.serve()
        served.end.say(Stream("new", LARGE - 1, MTIME), request=1)
        served.end.say(Stream("new", LARGE, MTIME + 1), request=2)
        served.end.say(Stream("old", LARGE, MTIME), request=3)
        served.end.say(Stream("", LARGE, MTIME), request=4)
        self.workers.do_all()
        self.assertEqual(
            self.errors(served),
            [
                (1, WIRE_CODES[ContentChanged]),
                (2, WIRE_CODES[ContentChanged]),
                (3, WIRE_CODES[NotFound]),
                (4, WIRE_CODES[Misuse]),
            ],
        )

    def test_changed(self) -> None:
        """A file that is written to meanwhile ends the stream, and no root is kept."""
        served = self.serve(room=1000)
        served.end.say(self.stream, request=1)
        self.workers.do_all()
        taken = Taken(LARGE)
        taken.take(served.end.take())
        (self.shelf.folder / "new").write_bytes(self.content[::-1])
        for _ in range(50):
            self.workers.do_all()
            taken.take(served.end.take())
        self.assertEqual(taken.code, WIRE_CODES[ContentChanged])
        self.assertLess(len(taken.data), LARGE)
        self.assertEqual(self.shelf.stat("new").root, root_of(self.content[::-1]))

    def test_one_after_the_other(self) -> None:
        """Of several streams the second begins when the first has ended, and none is lost."""
        served = self.serve()
        for request in (1, 2, 3):
            served.end.say(self.stream, request=request)
        served.end.say(Cancel(), request=2)
        self.workers.do_all()
        frames = served.end.take()
        order = [frame.request for frame in frames]
        self.assertEqual(sorted(order[1:]), order[1:])
        for request in (1, 3):
            taken = Taken(LARGE)
            taken.take([frame for frame in frames if frame.request == request])
            self.assertEqual(taken.data, self.content)
            self.assertIsNotNone(taken.entry)

    def test_number_in_use(self) -> None:
        """The number of a stream that has not ended is in use."""
        served = self.serve()
        served.end.say(self.stream, request=1)
        served.end.say(self.stream, request=1)
        self.assertEqual(self.errors(served), [(0, WIRE_CODES[BadMessage])])

    def test_cancelled_at_every_step(self) -> None:
        """Cancelled at any step, it ends with that, nothing is held, and the next one goes on."""
        for step in range(8):
            served = self.serve(room=1000)
            served.end.say(self.stream, request=1)
            for _ in range(step):
                if self.workers.jobs:
                    self.workers.do()
                else:
                    served.end.take()
            served.end.say(Cancel(), request=1)
            served.end.say(Stream("new", LARGE, MTIME, LARGE // BLOCK), request=2)
            frames: list[Frame] = []
            for _ in range(10):
                self.workers.do_all()
                frames += served.end.take()
            last = [frame for frame in frames if frame.request == 1][-1]
            self.assertEqual(decode(last, Error).code, WIRE_CODES[Cancelled])
            self.assertEqual([frame for frame in frames if frame.request == 2][-1].kind, Kind.ENTRY)
            self.assertEqual(served.factory.allowance.memory.held, 0)
            self.assertEqual(served.factory.allowance.requests, 0)
            self.shelf.catalog.forget(root_of(self.content))

    def test_cancelled_while_it_is_hashed(self) -> None:
        """Cancelled at the end, while the library hashes what was before: that is given up."""
        long = HandFired()
        served = self.serve()
        served.factory.long_work = served.protocol._streams._long_work = SharedWork(
            long.run_blocking
        )
        served.end.say(Stream("new", LARGE, MTIME, LARGE // BLOCK + 1), request=1)
        self.workers.do_all()
        self.assertEqual(len(long.jobs), 1)
        served.end.say(Cancel(), request=1)
        failed: list[object] = []
        Deferred.addErrback(long.jobs[0].result, lambda failure: failed.append(failure) or failure)
        long.do_all()
        self.assertEqual(self.errors(served), [(1, WIRE_CODES[Cancelled])])
        self.assertIsNone(self.shelf.known("new"))

    def test_lost_at_every_step(self) -> None:
        """Whoever hangs up leaves nothing open and nothing held."""
        for step in range(8):
            served = self.serve(room=1000)
            served.end.say(self.stream, request=1)
            served.end.say(self.stream, request=2)
            for _ in range(step):
                if self.workers.jobs:
                    self.workers.do()
                else:
                    served.end.take()
            served.end.hang_up()
            self.workers.do_all()
            self.assertEqual(served.factory.allowance.memory.held, 0)
            self.assertEqual(open_files(self.shelf.folder / "new"), 0)
            self.assertIsNone(self.shelf.known("new"))

    def test_unreadable(self) -> None:
        """A disk that fails ends it with that."""
        served = self.serve()
        served.end.say(self.stream, request=1)
        self.workers.do()
        failing = mock.patch("flow512.content.unhashed.fill", side_effect=DiskFailure("broken"))
        with failing:
            self.workers.do_all()
        self.assertEqual(self.errors(served), [(1, WIRE_CODES[SourceFailure])])


class FlowTests(StreamTestCase):
    """How much is read, held and sent."""

    def test_back_pressure(self) -> None:
        """While the transport is full, no more is read than a little ahead."""
        served = self.serve(room=1000)
        served.end.say(self.stream, request=1)
        taken = Taken(LARGE)
        most = 0
        while taken.entry is None:
            self.workers.do_all()
            most = max(most, served.factory.allowance.memory.held)
            self.assertLess(served.end.transport.most_waiting, 2 * BLOCK)
            taken.take(served.end.take())
        self.assertLessEqual(most, 8 * BLOCK)
        self.assertEqual(taken.data, self.content)

    def test_short_memory(self) -> None:
        """When the memory is short, several get their files all the same, a block at a time."""
        limits = Limits(buffered=16 * BLOCK)
        factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            limits=limits,
            reads_cached=False,
        )
        all_served = [join(factory, 1000) for _ in range(24)]
        self.served += all_served
        all_taken = [Taken(LARGE) for _ in all_served]
        for served in all_served:
            served.end.say(self.stream, request=1)
        for _ in range(500):
            self.workers.do_all()
            self.assertLessEqual(factory.allowance.memory.held, limits.buffered)
            for served, taken in zip(all_served, all_taken, strict=True):
                taken.take(served.end.take())
        self.assertEqual({taken.data == self.content for taken in all_taken}, {True})
        self.assertEqual({taken.entry is None for taken in all_taken}, {False})

    def test_who_reads_nothing(self) -> None:
        """When others wait for the memory, who takes nothing loses the connection."""
        limits = Limits(buffered=16 * BLOCK)
        factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            limits=limits,
            reads_cached=False,
        )
        stuck = [join(factory, 1000) for _ in range(17)]
        for served in stuck:
            served.end.say(self.stream, request=1)
        self.served += stuck
        self.workers.do_all()
        self.clock.advance(20)
        self.assertTrue(any(served.end.is_closing for served in stuck))

    def test_rate(self) -> None:
        """What is sent is limited, headers and digests included."""
        rate = 100_000
        factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            up=Throttle(self.clock, rate),
            reads_cached=False,
        )
        served = join(factory)
        self.served.append(served)
        served.end.say(self.stream, request=1)
        self.workers.do_all()
        taken = Taken(LARGE)
        sent = 0
        for _ in range(250):
            frames = served.end.take()
            sent += sum(HEADER_SIZE + len(frame.body) for frame in frames)
            taken.take([frame for frame in frames if frame.request])
            self.clock.advance(0.1)
            self.workers.do_all()
        self.assertGreater(sent, 24 * rate)
        self.assertLess(sent, 25 * rate + 2 * BLOCK)

    def test_beside_a_read(self) -> None:
        """A stream and the read of another file share the conversation."""
        root, other = self.put("other", 3 * BLOCK)
        served = self.serve(room=1000)
        served.end.say(self.stream, request=1)
        served.end.say(Read(root, 0, 3 * 512), request=2)
        frames: list[Frame] = []
        for _ in range(60):
            self.workers.do_all()
            frames += served.end.take()
        taken = Taken(LARGE)
        taken.take([frame for frame in frames if frame.request == 1])
        self.assertIsNotNone(taken.entry)
        read = b"".join(bytes(frame.body) for frame in frames if frame.request == 2)
        self.assertEqual(read, other)


class AccessTests(SynchronousTestCase):
    """A share that only some may see."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        (self.folder / "new").write_bytes(bytes(LARGE))
        os.utime(self.folder / "new", ns=(MTIME, MTIME))
        self.allow(ANN)
        catalog = Catalog(IN_MEMORY)
        self.library = Library(catalog, [Share(str(self.folder), parse_id=parse_node_id)])
        self.addCleanup(catalog.close)
        self.addCleanup(self.library.close)

    def allow(self, *nodes: bytes) -> None:
        """Say who may see it."""
        (self.folder / ALLOW_FILE).write_text("\n".join(map(format_node_id, nodes)) + "\n")

    def open(self, who: bytes) -> UnhashedContent:
        """Open it as somebody would who asks for it."""
        view = self.library.seen_by(who)
        content = self.library.open_unhashed("new", LARGE, MTIME, 0, view)
        self.addCleanup(content.close)
        return content

    def test_who_may_not(self) -> None:
        """Who may not see it is told what everybody is told of what is not there."""
        with self.assertRaises(NotFound) as refused:
            self.open(b"e" * 32)
        with self.assertRaises(NotFound) as absent:
            self.library.open_unhashed("new2", LARGE, MTIME)
        self.assertEqual(str(refused.exception), str(absent.exception).replace("new2", "new"))
        self.assertIsNone(
            self.library.known("new", self.library.seen_by(b"e" * 32), unhashed_above=0)
        )

    def test_rules_that_change(self) -> None:
        """Who may see it no longer gets no more of it, and not the root."""
        content = self.open(ANN)
        content.read([bytearray(BLOCK)])
        self.allow(b"b" * 32)
        self.assertRaises(NotFound, content.read, [bytearray(BLOCK)])
        self.assertRaises(NotFound, content.finish)

    def test_own_names(self) -> None:
        """Hidden files of ours, and what is no path, are not there."""
        (self.folder / ".flow512-x.part").write_bytes(b"x")
        with self.assertRaises(NotFound):
            self.library.open_unhashed(".flow512-x.part", 1, MTIME)
        with self.assertRaises(UnsafeName):
            self.library.open_unhashed("../new", LARGE, MTIME)


class KeepingTests(StreamTestCase):
    """One file that is hashed and sent at the same time."""

    def read(self, content: UnhashedContent) -> Entry | None:
        """Read to the end."""
        rooms = [bytearray(len(self.content[at : at + BLOCK])) for at in range(0, LARGE, BLOCK)]
        for at in range(0, len(rooms), 16):
            content.read(rooms[at : at + 16])
        return content.finish()

    def open(self) -> UnhashedContent:
        """Open it."""
        content = self.shelf.open_unhashed("new", LARGE, MTIME)
        self.addCleanup(content.close)
        return content

    def test_hashing_that_is_overtaken(self) -> None:
        """Whoever hashes the file meanwhile stops when the stream has its root, and has it too."""
        content = self.open()
        passes: list[bool] = []

        def overtaken(fd: int, size: int, *, stop: Callable[[], bool], **how: object) -> object:
            passes.append(stop())
            self.read(content)
            return hash_file(fd, size, stop=stop, **how)  # type: ignore[arg-type]  # as it was given

        with mock.patch("flow512.content.backlog.hash_file", overtaken):
            entry = self.shelf.stat("new")
        self.assertEqual(entry.root, root_of(self.content))
        self.assertEqual(passes, [False])
        self.assertIsNone(self.shelf.hash_next())

    def test_file_that_is_overtaken_and_changes(self) -> None:
        """If the file has changed by then, nobody has the root of what was before."""
        content = self.open()

        def overtaken(fd: int, size: int, *, stop: Callable[[], bool], **how: object) -> object:
            self.read(content)
            os.utime(fd, ns=(MTIME + 1, MTIME + 1))
            return hash_file(fd, size, stop=stop, **how)  # type: ignore[arg-type]  # as it was given

        with mock.patch("flow512.content.backlog.hash_file", overtaken):
            self.assertRaises(ContentChanged, self.shelf.stat, "new")
        self.assertIsNone(self.shelf.known("new"))

    def test_stream_that_is_overtaken(self) -> None:
        """If the library has the root first, with the MD5, the stream ends with that."""
        content = self.open()
        entry = self.shelf.stat("new")
        assert entry.root is not None
        self.shelf.checksum(entry.root)
        self.assertEqual(self.read(content), self.shelf.stat("new"))

    def test_file_that_was_seen_to_change(self) -> None:
        """A tree is not kept for a file that a scan has seen with another stamp."""
        content = self.open()
        [share] = self.shelf.shares
        self.shelf.catalog.update(share.key, {"new": Stamp(1, 1, 1)}, ())
        entry = self.read(content)
        assert entry is not None
        self.assertEqual(entry.root, root_of(self.content))
        self.assertEqual(self.shelf.pending(), 1)

    def test_roots_change(self) -> None:
        """Others are told that there is one more root."""
        told: list[threading.Thread] = []
        self.shelf._tell_of_roots = lambda: told.append(threading.current_thread())
        content = self.open()
        before = len(told)
        self.read(content)
        self.assertGreater(len(told), before)
        self.assertEqual(self.shelf.roots(9), {root_of(self.content)})

    def test_no_room_for_digests(self) -> None:
        """A disk without room for the tree is a failure of this machine."""
        content = self.open()
        with mock.patch.object(TreeBuilder, "add_many", side_effect=OSError(28, "full")):
            self.assertRaises(DiskFull, content.read, [bytearray(BLOCK)])
        content = self.open()
        with mock.patch.object(TreeBuilder, "finish", side_effect=OSError(5, "bad")):
            self.assertRaises(DiskFailure, content.finish)
