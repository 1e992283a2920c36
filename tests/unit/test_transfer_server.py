"""Tests for L{flow512.transfer.server}."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from random import Random

from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import (
    WIRE_CODES,
    BadMessage,
    Busy,
    Cancelled,
    ContentChanged,
    DiskFailure,
    Flow512Error,
    Misuse,
    NotFound,
    SourceFailure,
)
from flow512.link.introduction import Introduction
from flow512.link.rate import MOST_RATE
from flow512.transfer.reading import MAX_OPEN, READ_BLOCKS
from flow512.transfer.server import TransferFactory
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import Frame
from flow512.wire.messages import (
    Cancel,
    Checksum,
    Error,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Ping,
    Pong,
    Read,
    Stat,
    Stated,
    decode,
)
from tests.unit.transfer_ends import HandFired, Served, Shelf, a_folder, join, serve

INTERNAL = WIRE_CODES[Flow512Error]


def text_of(events: Iterable[LogEvent]) -> str:
    """What an operator reads."""
    return "\n".join(str(formatEvent(event)) for event in events)


class ServerTestCase(SynchronousTestCase):
    """A shelf of files, workers moved by hand, and one client."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = HandFired()
        self.shelf = Shelf(a_folder(self))
        self.addCleanup(self.shelf.shut)
        self.random = Random(7)
        self.served: list[Served] = []
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Everything ends, and nothing may be left open."""
        for served in self.served:
            served.end.hang_up()
        self.workers.do_all()
        self.assertEqual(self.shelf.open_now, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for served in self.served:
            self.assertFalse(served.factory.connections)

    def put(self, path: str, size: int) -> tuple[bytes, bytes]:
        """Share a file of so many random bytes; its root and its bytes are returned."""
        content = self.random.randbytes(size)
        return self.shelf.put(path, content), content

    def serve(self, room: int = 1 << 40) -> Served:
        """Connect to a server."""
        served = serve(self.shelf, self.workers, self.clock, room)
        self.served.append(served)
        return served

    def errors(self, served: Served) -> list[tuple[int, int]]:
        """The request numbers and codes of the errors that came; nothing else may have come."""
        heard = served.end.heard()
        for _, message in heard:
            self.assertIsInstance(message, Error)
        return [(request, message.code) for request, message in heard]  # type: ignore[attr-defined]  # just checked


class QuestionTests(ServerTestCase):
    """What is answered by one message."""

    def test_list_pages_and_prefix(self) -> None:
        """LIST gives what follows a path, at most so many, and tells whether there are more."""
        for name in ("b/2", "a", "b/1", "b/3", "c"):
            self.put(name, 1)
        self.shelf.scan()
        served = self.serve()
        served.end.say(List(limit=2), request=1)
        served.end.say(List(after="b/1"), request=2)
        served.end.say(List(prefix="b/", limit=2), request=3)
        served.end.say(List(prefix="x"), request=4)
        self.workers.do_all()
        got = {
            request: ([entry.path for entry in listing.entries], listing.more)
            for request, listing in served.end.heard()
            if isinstance(listing, Listing)
        }
        self.assertEqual(
            got,
            {
                1: (["a", "b/1"], True),
                2: (["b/2", "b/3", "c"], False),
                3: (["b/1", "b/2"], True),
                4: ([], False),
            },
        )

    def test_lists_are_made_one_at_a_time(self) -> None:
        """
        However many lists are asked for, one is made at a time, and none for one who does not
        read; one that is cancelled before its turn is never made.
        """
        self.put("a", 1)
        self.shelf.scan()
        served = self.serve(room=0)
        for request in range(1, 5):
            served.end.say(List(), request=request)
        served.end.say(Cancel(), request=3)
        self.assertEqual(self.errors(served), [(3, WIRE_CODES[Cancelled])])
        for request in (1, 2, 4):
            self.assertEqual(len(self.workers.jobs), 1)
            self.workers.do()
            self.assertEqual(self.workers.jobs, [])
            ((number, message),) = served.end.heard()
            self.assertEqual((number, type(message)), (request, Listing))
        self.assertEqual(self.workers.jobs, [])

    def test_stat_by_path_and_by_root(self) -> None:
        """STAT tells the same of a file by its path and by its root."""
        root, _ = self.put("one", 700)
        served = self.serve()
        with capturedLogs() as logs:
            served.end.say(Stat("one"), request=1)
            served.end.say(Stat(root=root), request=2)
            self.workers.do_all()
        entries = [message.entry for _, message in served.end.heard()]  # type: ignore[attr-defined]  # checked next
        self.assertEqual(
            [(each.path, each.size, each.root) for each in entries], [("one", 700, root)] * 2
        )
        self.assertIn("Request for file: 'one'", text_of(logs))

    def test_stat_of_nothing(self) -> None:
        """STAT of what is not shared is refused, and so is a path that no file may have."""
        served = self.serve()
        served.end.say(Stat("none"), request=1)
        served.end.say(Stat(root=bytes(32)), request=2)
        served.end.say(Stat("../etc/passwd"), request=3)
        self.workers.do_all()
        not_found = WIRE_CODES[NotFound]
        self.assertEqual(
            sorted(self.errors(served)),
            [(1, not_found), (2, not_found), (3, WIRE_CODES[Misuse])],
        )

    def test_stat_names_one_thing(self) -> None:
        """STAT by path and root, or by neither, is a violation."""
        for message in (Stat(), Stat("a", bytes(32))):
            served = self.serve()
            served.end.say(message, request=1)
            self.assertEqual(self.errors(served), [(0, WIRE_CODES[BadMessage])])
            self.assertTrue(served.end.is_closing)

    def test_page(self) -> None:
        """PAGE gives a page of digests with its index; one that is not there is refused."""
        root, _ = self.put("one", BLOCK + 1)
        served = self.serve()
        served.end.say(PageRequest(root, 0, 0), request=5)
        served.end.say(PageRequest(root, 0, 1), request=6)
        served.end.say(PageRequest(bytes(32), 0, 0), request=7)
        self.workers.do_all()
        digests, *errors = served.end.take()
        self.assertEqual((digests.kind, digests.request, digests.position), (Kind.DIGESTS, 5, 0))
        self.assertEqual(len(digests.body), 64)
        self.assertEqual(
            [(frame.request, decode(frame, Error).code) for frame in errors],
            [(6, WIRE_CODES[Misuse]), (7, WIRE_CODES[NotFound])],
        )

    def test_checksum(self) -> None:
        """CHECKSUM gives the MD5 of the whole content."""
        root, content = self.put("one", 70_000)
        served = self.serve()
        served.end.say(Checksum(root), request=1)
        self.workers.do_all()
        self.assertEqual(served.end.heard(), [(1, Md5(hashlib.md5(content).digest()))])

    def test_answers_out_of_order(self) -> None:
        """What is ready first is answered first."""
        self.put("one", 1)
        served = self.serve()
        served.end.say(Stat("one"), request=1)
        served.end.say(List(), request=2)
        self.workers.do(1)
        self.assertEqual([request for request, _ in served.end.heard()], [2])
        self.workers.do()
        self.assertEqual([request for request, _ in served.end.heard()], [1])

    def test_unforeseen_error(self) -> None:
        """An error of the node's own is told as such, without a word about it, and logged."""
        served = self.serve()
        served.end.say(List(), request=1)
        self.workers.jobs.pop().result.errback(ZeroDivisionError("secret"))
        ((request, told),) = served.end.heard()
        assert isinstance(told, Error)
        self.assertEqual((request, told.code), (1, INTERNAL))
        self.assertNotIn("secret", told.sentence)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_answer_that_cannot_be_sent(self) -> None:
        """A result that no answer can be made of ends the conversation: nobody waits in vain."""
        served = self.serve()
        served.end.say(List(), request=1)
        self.workers.jobs.pop().result.callback(None)
        self.assertEqual(self.errors(served), [(0, WIRE_CODES[SourceFailure])])
        self.assertTrue(served.end.is_closing)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


class ReadTests(ServerTestCase):
    """READ, and the frames that come of it."""

    def read(self, served: Served, message: Read, request: int = 1) -> list[Frame]:
        """Read in one go."""
        served.end.say(message, request=request)
        self.workers.do_all()
        return served.end.take()

    def test_every_range_and_run(self) -> None:
        """The pieces asked for come, in order, in frames of the run, none across a block."""
        size = 2 * BLOCK + 3 * PIECE + 100
        root, content = self.put("one", size)
        served = self.serve()
        pieces = -(-size // PIECE)
        request = 0
        for first in (0, 1, 511, 512, 700, pieces - 1):
            for count in (1, 2, 511, 512, 513, pieces):
                if first + count > pieces:
                    continue
                for run in (1, 2, 3, 511, 512):
                    request += 1
                    frames = self.read(served, Read(root, first, count, run), request)
                    at = first
                    for frame in frames:
                        self.assertEqual(
                            (frame.kind, frame.request, frame.position), (Kind.DATA, request, at)
                        )
                        length = -(-len(frame.body) // PIECE)
                        boundary = at - at % 512 + 512
                        self.assertEqual(length, min(run, boundary - at, first + count - at))
                        at += length
                    self.assertEqual(at, first + count)
                    self.assertEqual(
                        b"".join(bytes(frame.body) for frame in frames),
                        content[first * PIECE : (first + count) * PIECE],
                    )

    def test_several_blocks_in_a_frame(self) -> None:
        """Whoever asks for it gets up to four blocks in a frame, from where a block begins."""
        root, content = self.put("one", 9 * BLOCK + 100)
        served = self.serve()
        for request, (run, ends) in enumerate(
            (
                (2048, [2048, 4096, 4609]),
                (2047, [1536, 2048, 3584, 4096, 4609]),
                (1024, [1024, 2048, 3072, 4096, 4609]),
                (1023, [512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 4608, 4609]),
            ),
            1,
        ):
            frames = self.read(served, Read(root, 7, 9 * 512 + 1 - 7, run), request)
            self.assertEqual([frame.position for frame in frames], [7, *ends[:-1]], run)
            self.assertEqual(b"".join(bytes(frame.body) for frame in frames), content[7 * PIECE :])

    def test_one_block_at_a_time(self) -> None:
        """Where the memory is short, and where sending is limited, a frame has one block."""
        root, content = self.put("one", 5 * BLOCK)
        for is_limited in (False, True):
            served = self.serve()
            memory = served.factory.allowance.memory
            if is_limited:
                served.factory.up.limit(MOST_RATE)
            else:
                memory.hold(served.factory.limits.buffered - 2 * BLOCK)
            frames = self.read(served, Read(root, 0, 5 * 512, 2048))
            for _ in range(20):
                self.clock.advance(0.1)
                self.workers.do_all()
                frames += served.end.take()
            self.assertEqual([len(frame.body) for frame in frames], 5 * [BLOCK])
            self.assertEqual(b"".join(bytes(frame.body) for frame in frames), content)
            if not is_limited:
                memory.release(served.factory.limits.buffered - 2 * BLOCK)
            self.assertEqual(memory.held, 0)

    def test_disk_that_answers_at_once(self) -> None:
        """Workers may answer before they are waited for: the bytes come all the same, in order."""
        root, content = self.put("one", 20 * BLOCK)
        factory = TransferFactory(
            self.shelf, Introduction(b"s" * 32, "server"), self.clock, execute, reads_cached=False
        )
        served = join(factory, room=BLOCK)
        self.served.append(served)
        served.end.say(Read(root, 0, 20 * 512, 100), request=1)
        frames = []
        while more := served.end.take():
            frames += more
        self.assertEqual(b"".join(bytes(frame.body) for frame in frames), content)

    def test_past_the_end(self) -> None:
        """Pieces that the file has not are refused, and the connection goes on."""
        root, content = self.put("one", 1000)
        empty, _ = self.put("empty", 0)
        served = self.serve()
        for request, (content_id, first, count) in enumerate(
            [(root, 2, 1), (root, 1, 2), (root, 10**9, 1), (empty, 0, 1)], 1
        ):
            served.end.say(Read(content_id, first, count), request=request)
        self.workers.do_all()
        self.assertEqual(
            self.errors(served), [(request, WIRE_CODES[Misuse]) for request in range(1, 5)]
        )
        (frame,) = self.read(served, Read(root, 1, 1), 9)
        self.assertEqual(frame.body, content[512:])

    def test_unknown_content(self) -> None:
        """What is not shared is refused: every READ of it, once."""
        served = self.serve()
        for request in (1, 2, 3):
            served.end.say(Read(bytes(32), 0, 1), request=request)
        served.end.say(Cancel(), request=2)
        self.workers.do_all()
        self.assertEqual(
            self.errors(served),
            [(2, WIRE_CODES[Cancelled]), (1, WIRE_CODES[NotFound]), (3, WIRE_CODES[NotFound])],
        )

    def test_file_sent_is_logged(self) -> None:
        """The operator sees who was sent a file to its end."""
        root, _ = self.put("one", 1000)
        served = self.serve()
        with capturedLogs() as logs:
            self.read(served, Read(root, 0, 1), 1)
            self.assertNotIn("File sent", text_of(logs))
            self.read(served, Read(root, 1, 1), 2)
        self.assertIn("File sent to ('10.0.0.9', 40000): flow512:", text_of(logs))

    def test_pipelined_reads_open_the_file_once(self) -> None:
        """Reads that come before the file is open wait for one opening, and are all answered."""
        root, content = self.put("one", 3 * BLOCK)
        served = self.serve()
        for block in range(3):
            served.end.say(Read(root, 512 * block, 512), request=block + 1)
        self.workers.do_all()
        frames = served.end.take()
        self.assertEqual([frame.request for frame in frames], [1, 2, 3])
        self.assertEqual(b"".join(bytes(frame.body) for frame in frames), content)
        self.assertEqual(len(self.shelf.opened), 1)

    def test_two_reads_of_one_file_at_once(self) -> None:
        """Two reads of one file do not mix up their bytes."""
        root, content = self.put("one", 8 * BLOCK)
        served = self.serve()
        served.end.say(Read(root, 0, 4096), request=1)
        served.end.say(Read(root, 512, 1024), request=2)
        self.workers.do_all()
        got = {1: b"", 2: b""}
        for frame in served.end.take():
            got[frame.request] += bytes(frame.body)
        self.assertEqual(got, {1: content, 2: content[BLOCK : 3 * BLOCK]})

    def test_disk_error_fails_one_request(self) -> None:
        """A read that the disk fails gets an error; the others, and the connection, go on."""
        root, content = self.put("one", BLOCK)
        served = self.serve()
        served.end.say(Read(root, 0, 512), request=1)
        self.workers.do()
        served.end.say(Read(root, 0, 1), request=2)
        self.shelf.read_error = DiskFailure("Input/output error.")
        self.workers.do()
        self.shelf.read_error = None
        self.workers.do_all()
        error, data = served.end.take()
        told = decode(error, Error)
        self.assertEqual((error.request, told.code), (1, WIRE_CODES[SourceFailure]))
        self.assertEqual(told.sentence, "Input/output error.")
        self.assertEqual((data.request, data.body), (2, content[:512]))

    def test_file_that_changes_midway(self) -> None:
        """A file that changes while it is read is told of, and no byte of the new one is sent."""
        root, content = self.put("one", 8 * BLOCK)
        served = self.serve()
        served.end.say(Read(root, 0, 4096), request=1)
        self.workers.do()
        self.workers.do()
        os.truncate(self.shelf.folder / "one", 5)
        self.workers.do_all()
        *data, error = served.end.take()
        self.assertEqual(b"".join(bytes(frame.body) for frame in data), content[: 4 * BLOCK])
        self.assertEqual(decode(error, Error).code, WIRE_CODES[ContentChanged])
        self.assertFalse(served.end.is_closing)


class CancelTests(ServerTestCase):
    """CANCEL at every stage."""

    def setUp(self) -> None:
        super().setUp()
        self.root, self.content = self.put("one", 12 * BLOCK)
        self.cancelled = WIRE_CODES[Cancelled]

    def goes_on(self, served: Served, request: int = 99) -> None:
        """The connection still serves."""
        served.end.say(Read(self.root, 3, 1), request=request)
        self.workers.do_all()
        (frame,) = served.end.take()
        self.assertEqual((frame.request, frame.body), (request, self.content[1536:2048]))

    def test_before_it_is_open(self) -> None:
        """Cancelled before the file is open: one end, and the file is closed when it comes."""
        served = self.serve()
        served.end.say(Read(self.root, 0, 512), request=1)
        served.end.say(Cancel(), request=1)
        self.workers.do_all()
        self.assertEqual(self.errors(served), [(1, self.cancelled)])
        self.assertEqual((len(self.shelf.opened), self.shelf.open_now), (1, 0))
        self.goes_on(served)

    def test_number_used_again_while_opening(self) -> None:
        """A number that is used again after its end belongs to the new request alone."""
        served = self.serve()
        served.end.say(Read(self.root, 0, 512), request=1)
        served.end.say(Cancel(), request=1)
        served.end.say(Read(self.root, 0, 1), request=1)
        self.workers.do_all()
        error, data = served.end.take()
        self.assertEqual(decode(error, Error).code, self.cancelled)
        self.assertEqual(data.body, self.content[:512])

    def test_while_the_disk_reads(self) -> None:
        """Cancelled while the disk is busy with it: what it read is not sent."""
        served = self.serve()
        served.end.say(Read(self.root, 0, 512), request=1)
        self.workers.do()
        served.end.say(Cancel(), request=1)
        self.workers.do_all()
        self.assertEqual(self.errors(served), [(1, self.cancelled)])
        self.goes_on(served)

    def test_while_waiting_for_the_disk(self) -> None:
        """Cancelled in the queue for the disk: the disk never hears of it."""
        served = self.serve()
        served.end.say(Read(self.root, 0, 512), request=1)
        self.workers.do()
        served.end.say(Read(self.root, 0, 512), request=2)
        served.end.say(Cancel(), request=2)
        self.workers.do()
        self.assertEqual(self.workers.jobs, [])
        error, data = served.end.take()
        self.assertEqual((error.request, decode(error, Error).code), (2, self.cancelled))
        self.assertEqual(data.request, 1)
        self.goes_on(served)

    def test_disk_error_after_it(self) -> None:
        """A disk error of a cancelled read is nobody's business: it had its end."""
        served = self.serve()
        served.end.say(Read(self.root, 0, 512), request=1)
        self.workers.do()
        served.end.say(Cancel(), request=1)
        self.shelf.read_error = DiskFailure("broken")
        self.workers.do_all()
        self.shelf.read_error = None
        self.assertEqual(self.errors(served), [(1, self.cancelled)])
        self.goes_on(served)

    def test_half_written(self) -> None:
        """Cancelled when part of it is written, and part is ready: nothing follows the end."""
        served = self.serve(room=BLOCK // 2)
        served.end.say(Read(self.root, 0, 4096), request=1)
        self.workers.do_all()
        self.assertEqual(len(served.end.transport.value()), BLOCK + 16)
        served.end.say(Cancel(), request=1)
        frames = []
        while more := served.end.take():
            frames += more
            self.workers.do_all()
        self.assertEqual([frame.kind for frame in frames], [Kind.DATA, Kind.ERROR])
        self.goes_on(served)

    def test_a_thousand_times(self) -> None:
        """Cancelled a thousand times, a request has one end; so has one that was never made."""
        served = self.serve()
        served.end.say(Stat("one"), request=1)
        served.end.say(*[Cancel()] * 1000, request=1)
        served.end.say(*[Cancel()] * 1000, request=77)
        self.workers.do_all()
        self.assertEqual(self.errors(served), [(1, self.cancelled)])
        self.goes_on(served)

    def test_hashing_stops(self) -> None:
        """Cancelled while a worker hashes for it: the worker is told to stop."""
        (self.shelf.folder / "new").write_bytes(b"new")
        served = self.serve()
        served.end.say(Stat("new"), request=1)
        self.workers.do()
        served.end.say(Cancel(), request=1)
        with self.assertRaises(Cancelled):
            self.workers.jobs[0].work()


class HostileTests(ServerTestCase):
    """What clients do that mean no good, or are broken."""

    def test_number_in_use(self) -> None:
        """A second request with a number that is under way, or with 0, is a violation."""
        root, _ = self.put("one", 600)
        served = self.serve()
        served.end.say(Read(root, 0, 1), request=1)
        served.end.say(Stat("one"), request=1)
        self.assertEqual(self.errors(served), [(0, WIRE_CODES[BadMessage])])
        other = self.serve()
        other.end.say(List())
        self.assertEqual(self.errors(other), [(0, WIRE_CODES[BadMessage])])

    def test_answer_to_nothing(self) -> None:
        """An error for a request of the server's, which makes none, is a violation."""
        served = self.serve()
        served.end.say(Error(5, "no"), request=3)
        self.assertEqual(self.errors(served), [(0, WIRE_CODES[BadMessage])])

    def test_ten_thousand_requests_unread(self) -> None:
        """
        Of ten thousand requests of one who reads nothing, 256 are under way, some are told to
        come later, and the rest is not even read.
        """
        self.put("one", 100)
        served = self.serve(room=1000)
        for request in range(1, 10_001):
            served.end.say(Stat("one"), request=request)
        self.assertEqual(len(self.workers.jobs), 256)
        self.assertFalse(served.end.transport.is_read)
        self.assertLess(served.end.transport.most_waiting, 300_000)
        ends = []
        while more := served.end.heard():
            ends += more
            self.workers.do_all()
        self.assertEqual(sorted(request for request, _ in ends), list(range(1, 10_001)))
        codes = {message.code for _, message in ends if isinstance(message, Error)}
        self.assertEqual(codes, {WIRE_CODES[Busy]})
        self.assertTrue(served.end.transport.is_read)

    def test_one_who_reads_nothing(self) -> None:
        """For one who reads nothing, no more than the documented blocks leave the disk."""
        root, content = self.put("one", 40 * BLOCK)
        served = self.serve(room=0)
        for request in range(1, 6):
            served.end.say(Read(root, 0, 40 * 512), request=request)
        self.workers.do_all()
        in_memory = len(served.protocol._reads._ready)
        self.assertLessEqual(in_memory, 2 * READ_BLOCKS - 1)
        self.assertEqual(len(served.end.transport.value()), BLOCK + 16)
        self.assertLessEqual(self.shelf.bytes_read, 2 * READ_BLOCKS * BLOCK)
        frames = []
        while more := served.end.take():
            frames += more
            self.workers.do_all()
        self.assertEqual(b"".join(bytes(frame.body) for frame in frames), content * 5)

    def test_ping_of_one_who_reads_nothing(self) -> None:
        """Bulk that waits does not keep a ping from being answered."""
        root, _ = self.put("one", 4 * BLOCK)
        served = self.serve(room=0)
        served.end.say(Read(root, 0, 2048), request=1)
        self.workers.do_all()
        served.end.say(Ping(), request=5)
        frames = served.end.take()
        self.assertEqual([frame.kind for frame in frames], [Kind.DATA, Kind.PONG])
        self.assertEqual(decode(frames[1], Pong), Pong())

    def test_many_files_at_once(self) -> None:
        """No connection has more than MAX_OPEN files open, or opening; the next is told to wait."""
        roots = [self.put(f"file{number}", 1 + number)[0] for number in range(MAX_OPEN + 2)]
        served = self.serve(room=0)
        for request, root in enumerate(roots, 1):
            served.end.say(Read(root, 0, 1), request=request)
        busy = WIRE_CODES[Busy]
        self.workers.do_all()
        self.assertEqual(self.shelf.open_now, MAX_OPEN)
        served.end.say(Read(roots[-1], 0, 1), request=50)
        frames = []
        while more := served.end.take():
            frames += more
            self.workers.do_all()
        errors = [frame for frame in frames if frame.kind == Kind.ERROR]
        refused = [frame.request for frame in errors if decode(frame, Error).code == busy]
        self.assertEqual(refused, [MAX_OPEN + 1, MAX_OPEN + 2, 50])
        self.assertEqual(
            sorted(f.request for f in frames if f.kind == Kind.DATA), list(range(1, MAX_OPEN + 1))
        )
        served.end.say(Read(roots[-1], 0, 1), request=51)
        self.workers.do_all()
        (frame,) = served.end.take()
        self.assertEqual(frame.kind, Kind.DATA)
        self.assertEqual(self.shelf.open_now, 1)

    def test_file_that_is_being_read_stays_open(self) -> None:
        """A file at which a worker is stays open, though nobody wants it and there is no room."""
        roots = [self.put(f"file{number}", 1 + number)[0] for number in range(MAX_OPEN + 1)]
        served = self.serve()
        served.end.say(Read(roots[0], 0, 1), request=1)
        self.workers.do()
        served.end.say(Cancel(), request=1)
        reading = self.workers.jobs.pop()
        for request, root in enumerate(roots[1:-1], 2):
            served.end.say(Read(root, 0, 1), request=request)
        for _ in range(MAX_OPEN - 1):
            self.workers.do()
        served.end.say(Read(roots[-1], 0, 1), request=50)
        self.assertGreaterEqual(self.shelf.opened[0].fd, 0)
        reading.do()
        self.workers.do_all()


class EndTests(ServerTestCase):
    """The end of a connection, whatever is under way."""

    def test_lost_while_opening(self) -> None:
        """A file that is opened for one who is gone is closed."""
        root, _ = self.put("one", BLOCK)
        served = self.serve()
        served.end.say(Read(root, 0, 1), request=1)
        served.end.hang_up()
        stopped = served.factory.stop()
        self.assertNoResult(stopped)
        self.workers.do_all()
        self.successResultOf(stopped)
        self.assertEqual((len(self.shelf.opened), self.shelf.open_now), (1, 0))

    def test_lost_while_the_disk_reads(self) -> None:
        """A file is closed only when the worker is done with it, and then once."""
        root, _ = self.put("one", 4 * BLOCK)
        for fails in (False, True):
            served = self.serve()
            served.end.say(Read(root, 0, 2048), request=1)
            self.workers.do()
            served.end.hang_up(cleanly=True)
            self.assertEqual(self.shelf.open_now, 1)
            stopped = served.factory.stop()
            self.assertNoResult(stopped)
            self.shelf.read_error = DiskFailure("broken") if fails else None
            self.workers.do_all()
            self.successResultOf(stopped)
            self.assertEqual(self.shelf.open_now, 0)

    def test_lost_while_hashing(self) -> None:
        """Hashing for one who is gone stops, and its result goes nowhere."""
        (self.shelf.folder / "new").write_bytes(b"new")
        served = self.serve()
        served.end.say(Stat("new"), request=1)
        self.workers.do()
        served.end.hang_up()
        with self.assertRaises(Cancelled):
            self.workers.jobs[0].work()
        self.workers.do_all()
        self.assertEqual(served.end.take(), [])

    def test_lost_with_data_ready(self) -> None:
        """
        Data that is ready for one who is gone is dropped, and the file closed: by a worker, and
        the connection counts as gone after that.
        """
        root, _ = self.put("one", 4 * BLOCK)
        served = self.serve(room=0)
        served.end.say(Read(root, 0, 2048), request=1)
        self.workers.do_all()
        served.end.hang_up()
        self.assertEqual((self.shelf.open_now, len(served.factory.connections)), (1, 1))
        self.workers.do_all()
        self.assertEqual((self.shelf.open_now, len(served.factory.connections)), (0, 0))
        self.assertFalse(served.factory.connections)

    def test_violation_while_the_disk_reads(self) -> None:
        """After a violation nothing more is sent, though a worker delivers."""
        root, _ = self.put("one", 4 * BLOCK)
        served = self.serve()
        with capturedLogs() as logs:
            served.end.say(Read(root, 0, 2048), request=1)
            self.workers.do()
            served.end.say(List())
        self.assertIn("ended: Request number 0 is in use.", text_of(logs))
        self.assertEqual(self.errors(served), [(0, WIRE_CODES[BadMessage])])
        self.workers.do_all()
        self.assertEqual(served.end.take(), [])
        self.assertEqual(self.shelf.open_now, 0)

    def test_stop(self) -> None:
        """Stopping closes every connection in peace, and waits until all are gone."""
        first = self.serve()
        second = join(first.factory)
        self.served.append(second)
        stopped = first.factory.stop()
        self.assertTrue(first.end.is_closing)
        self.assertTrue(second.end.is_closing)
        first.end.hang_up(cleanly=True)
        self.assertNoResult(stopped)
        second.end.hang_up(cleanly=True)
        self.successResultOf(stopped)
        self.successResultOf(first.factory.stop())

    def test_long_work_has_its_own_workers(self) -> None:
        """What hashes goes to other workers than what only waits for the disk."""
        root, _ = self.put("one", 1)
        long = HandFired()
        first = self.serve()
        factory = TransferFactory(
            self.shelf,
            first.factory.introduction,
            self.clock,
            self.workers.run_blocking,
            long.run_blocking,
            reads_cached=False,
        )
        served = join(factory)
        self.served.append(served)
        (self.shelf.folder / "new").write_bytes(b"new")
        served.end.say(Stat("one"), request=1)
        served.end.say(Stat("new"), request=2)
        served.end.say(Checksum(root), request=3)
        served.end.say(PageRequest(root, 0, 0), request=4)
        self.workers.do_all()
        # What is known already does not wait for anything that hashes.
        self.assertEqual([frame.request for frame in served.end.take()], [1, 4])
        self.assertEqual(len(long.jobs), 2)
        long.do_all()
        self.assertEqual([type(message) for _, message in served.end.heard()], [Stated, Md5])
