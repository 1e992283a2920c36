"""
Tests for L{flow512.transfer.at_once}, the source's side of a stream
(L{flow512.transfer.incoming}), and how a search comes to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.library import MD5_AT_ONCE
from flow512.content.provisional import Provisional
from flow512.content.tree import block_digest
from flow512.errors import (
    BadDigest,
    BadFrame,
    ContentChanged,
    DiskFull,
    Flow512Error,
    Misuse,
    PeerLost,
    TargetExists,
    TimedOut,
    UnsafeName,
)
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.link.throttle import Throttle
from flow512.transfer.at_once import HELD, AtOnce
from flow512.transfer.client import TransferClient
from flow512.transfer.fetch import Fetched, Growing, Target
from flow512.transfer.finding import Candidate, Found
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import encode_frame
from flow512.wire.messages import Cancel, Entry, Kind, Stat, Stated, encode
from flow512.wire.streaming import Stream
from tests.unit.test_fetch import open_files
from tests.unit.test_unhashed import MTIME, root_of
from tests.unit.transfer_ends import OURS, THEIRS, HandFired, TransferTestCase, a_folder, ask

THERE = Candidate(HostPort("10.0.0.1", 5000), "there", THEIRS)
LARGE = MD5_AT_ONCE + 7 * BLOCK + 700


class IncomingTests(SynchronousTestCase):
    """What comes of a stream, frame by frame."""

    def setUp(self) -> None:
        self.content = os.urandom(BLOCK + 700)
        self.wanted = Stream("a", len(self.content), 1, run=400)
        self.entry = Entry("a", len(self.content), 1, root_of(self.content))
        self.source, self.end = ask(Clock())
        self.addCleanup(self.hang_up)
        self.got: list[tuple[bytes, bytes]] = []
        self.result = self.source.stream(
            self.wanted, lambda block, digest: self.got.append((bytes(block), digest))
        )
        self.asked = self.end.heard()

    def hang_up(self) -> None:
        """The connection is gone."""
        self.end.hang_up()
        self.result.addErrback(lambda _: None)

    def frames(self) -> list[bytes]:
        """The frames that have to come, in order."""
        first, last = self.content[:BLOCK], self.content[BLOCK:]
        cut = 400 * PIECE
        return [
            encode_frame(Kind.DATA, 1, first[:cut], 0),
            encode_frame(Kind.DATA, 1, first[cut:], 400),
            encode_frame(Kind.DIGESTS, 1, block_digest(first), 0),
            encode_frame(Kind.DATA, 1, last, 512),
            encode_frame(Kind.DIGESTS, 1, b"d" * 32, 1),
            encode(Stated(self.entry), 1),
        ]

    def test_all(self) -> None:
        """Blocks are put together and given on with their digests, and at the end the entry."""
        self.assertEqual(self.asked, [(1, self.wanted)])
        for frame in self.frames():
            self.assertNoResult(self.result)
            self.end.say_bytes(frame)
        self.assertEqual(self.successResultOf(self.result), self.entry)
        first, last = self.content[:BLOCK], self.content[BLOCK:]
        self.assertEqual(self.got, [(first, block_digest(first)), (last, b"d" * 32)])

    def test_any_other(self) -> None:
        """Any frame that is not the next one ends the conversation, at every place."""
        others = [
            *self.frames(),
            encode_frame(Kind.DIGESTS, 1, bytes(31), 0),
            encode(Stated(Entry("b", len(self.content), 1, bytes(32))), 1),
            encode(Stated(Entry("a", len(self.content), 2, bytes(32))), 1),
            encode(Stated(Entry("a", len(self.content), 1)), 1),
        ]
        for place, right in enumerate(self.frames()):
            for other in others:
                if other == right:
                    continue
                source, end = ask(Clock())
                result = source.stream(self.wanted, lambda block, digest: None)
                for frame in (*self.frames()[:place], other):
                    end.say_bytes(frame)
                self.failureResultOf(result, BadFrame)
                end.hang_up()

    def test_cancelled(self) -> None:
        """After it is cancelled nothing is given on, until its end has come."""
        self.result.cancel()
        self.assertEqual(self.end.heard(), [(1, Cancel())])
        self.failureResultOf(self.result)
        for frame in self.frames():
            self.end.say_bytes(frame)
        self.assertEqual(self.got, [])
        self.assertFalse(self.end.is_closing)

    def test_stat(self) -> None:
        """An entry without a root is taken only by those who said that they would."""
        bare = Entry("a", 1, 1)
        asked = self.source.stat("a", at_once=True)
        self.assertEqual(self.end.heard(), [(2, Stat("a", None, True))])
        self.end.say(Stated(bare), request=2)
        self.assertEqual(self.successResultOf(asked), bare)
        asked = self.source.stat("a")
        self.end.say(Stated(bare), request=3)
        self.failureResultOf(asked, BadFrame)


class AtOnceTestCase(TransferTestCase):
    """A node with a large file that it has not hashed, and a client."""

    def setUp(self) -> None:
        super().setUp()
        self.content = self.random.randbytes(LARGE)
        self.write(self.shelf.folder)
        self.target = Target(str(self.folder))
        self.progress: list[int] = []
        self.blamed: list[tuple[Candidate, Flow512Error]] = []
        self.found: list[Entry] = []
        self.client = self.a_client()

    def write(self, folder: Any, content: bytes | None = None) -> None:
        """Put the file into a folder, unhashed."""
        (folder / "new").write_bytes(self.content if content is None else content)
        os.utime(folder / "new", ns=(MTIME, MTIME))

    def a_client(self, run_blocking: Any = None) -> TransferClient:
        """Make a client."""
        return TransferClient(
            Introduction(OURS, "here"),
            self.here.reactor,
            partial(client_endpoint, self.here.reactor),
            run_blocking or self.here.run_blocking,
        )

    def get(self, *more: Candidate, **wanted: Any) -> Deferred[Fetched]:
        """Begin to fetch it."""
        return Deferred.fromCoroutine(
            self.client.get(
                [THERE, *more],
                self.target,
                path="new",
                found=lambda who, entry: self.found.append(entry),
                progress=lambda growing: self.progress.append(growing.stored),
                blame=lambda who, why: self.blamed.append((who, why)),
                **wanted,
            )
        )

    def fetch(self, *more: Candidate, **wanted: Any) -> Fetched:
        """Fetch it."""
        return self.network.result(self.get(*more, **wanted), 900)

    def hidden(self) -> list[str]:
        """What is left in the folder but for what was published."""
        return [name for name in os.listdir(self.folder) if name != "new"]

    def check_published(self) -> None:
        """The file is there, as it was, and nothing else is."""
        self.assertEqual((self.folder / "new").read_bytes(), self.content)
        self.assertEqual((self.folder / "new").stat().st_mtime_ns, MTIME)
        self.assertEqual(self.hidden(), [])
        self.assertEqual(open_files(self.folder), 0)

    def break_off(self, blocks: int) -> None:
        """Fetch some of it, and lose the source."""

        def grown(growing: Growing) -> None:
            if growing.stored >= blocks * BLOCK:
                for connection in list(self.factory.connections):
                    connection.connection.abortConnection()

        got = self.client.get([THERE], self.target, path="new", progress=grown)
        with self.assertRaises(PeerLost):
            self.network.result(Deferred.fromCoroutine(got), 900)
        self.assertFalse((self.folder / "new").exists())
        self.assertEqual(open_files(self.folder), 0)


class FetchTests(AtOnceTestCase):
    """L{AtOnce}, through L{TransferClient.get}."""

    def test_fetch(self) -> None:
        """It comes without being hashed first, grows as it comes, and is published."""
        with mock.patch("flow512.content.backlog.hash_file", side_effect=AssertionError):
            fetched = self.fetch()
        self.check_published()
        self.assertEqual(self.found, [Entry("new", LARGE, MTIME)])
        self.assertEqual(
            fetched,
            Fetched(
                Entry("new", LARGE, MTIME, root_of(self.content)),
                str(self.folder / "new"),
                0,
                LARGE,
                None,
                ((THERE, LARGE),),
            ),
        )
        self.assertEqual(self.progress, sorted(self.progress))
        self.assertEqual((self.progress[0], self.progress[-1]), (0, LARGE))
        self.network.run(1.0)
        self.assertFalse(self.factory.connections)
        self.assertEqual(self.blamed, [])

    def test_run(self) -> None:
        """Frames may be as short as one likes."""
        self.fetch(run=100)
        self.check_published()

    def test_small(self) -> None:
        """A small file is fetched as ever, with its MD5."""
        self.content = self.content[:MD5_AT_ONCE]
        self.write(self.shelf.folder)
        self.assertIsNotNone(self.fetch().md5)
        self.check_published()

    def test_broken_off(self) -> None:
        """What was stored is not fetched again."""
        self.break_off(20)
        fetched = self.fetch()
        self.check_published()
        self.assertGreaterEqual(fetched.resumed, 20 * BLOCK)
        self.assertEqual(fetched.resumed + fetched.fetched, LARGE)
        self.assertEqual(fetched.entry.root, root_of(self.content))

    def test_broken_off_with_all_of_it(self) -> None:
        """If every block was here, and only the root was missing, only that is asked for."""
        with mock.patch("flow512.content.unhashed.UnhashedContent.finish") as finish:
            finish.side_effect = ContentChanged("no")
            with self.assertRaises(ContentChanged):
                self.fetch()
        fetched = self.fetch()
        self.check_published()
        self.assertEqual((fetched.resumed, fetched.fetched, fetched.sent), (LARGE, 0, ()))

    def test_root_known_by_then(self) -> None:
        """If the root is known the next time, the ordinary download has what was stored."""
        self.break_off(20)
        self.shelf.stat("new")
        fetched = self.fetch()
        self.check_published()
        self.assertIsNotNone(fetched.md5)
        # No journal vouched for it in that download: it was looked at, block by block.
        self.assertLessEqual(fetched.fetched, LARGE - 20 * BLOCK)

    def test_root_forgotten(self) -> None:
        """What a download with a root has left is worth waiting until the root is known again."""
        root = self.shelf.stat("new").root
        assert root is not None
        self.break_off(20)
        self.shelf.catalog.forget(root)
        fetched = self.fetch()
        self.check_published()
        self.assertEqual(self.found[0].root, root)
        self.assertGreaterEqual(fetched.resumed, 20 * BLOCK)

    def test_other_blocks_of_a_known_root(self) -> None:
        """What was stored and is wrong is fetched again, once the root tells."""
        self.break_off(20)
        [part] = [name for name in self.hidden() if name.endswith(".part")]
        with open(self.folder / part, "r+b") as file:
            file.write(b"?" * BLOCK)
        self.shelf.stat("new")
        self.fetch()
        self.check_published()

    def test_other_blocks_from_before(self) -> None:
        """
        If what was here from before is not what the source has, nothing is published, nobody is
        blamed, and the next fetch begins anew.
        """
        self.break_off(20)
        [part] = [name for name in self.hidden() if name.endswith(".part")]
        with open(self.folder / part, "r+b") as file:
            file.write(b"?" * BLOCK)
        with self.assertRaisesRegex(BadDigest, "earlier download"):
            self.fetch()
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.blamed, [])
        self.fetch()
        self.check_published()

    def test_changed(self) -> None:
        """If the file changes meanwhile, it is not published, and fetched anew the next time."""

        def grown(growing: Growing) -> None:
            if growing.stored >= 5 * BLOCK:
                self.write(self.shelf.folder, self.content[::-1])
                os.utime(self.shelf.folder / "new", ns=(MTIME, MTIME + 1))

        got = self.client.get([THERE], self.target, path="new", progress=grown)
        with self.assertRaises(ContentChanged):
            self.network.result(Deferred.fromCoroutine(got), 900)
        self.assertFalse((self.folder / "new").exists())
        self.fetch()
        self.assertEqual((self.folder / "new").read_bytes(), self.content[::-1])

    def test_taken_name(self) -> None:
        """A name that is taken is refused before anything comes."""
        (self.folder / "new").write_bytes(b"mine")
        with self.assertRaises(TargetExists):
            self.fetch()
        self.assertEqual(self.progress, [])
        self.assertEqual((self.folder / "new").read_bytes(), b"mine")

    def test_stopped_at_every_step(self) -> None:
        """Stopped at any step, all is closed, and the next fetch goes on from there."""
        ends = set()
        for step in range(0, 60, 3):
            workers = HandFired()
            self.client = self.a_client(workers.run_blocking)
            result = self.get()
            for _ in range(step):
                self.network.run(0.01)
                if workers.jobs:
                    workers.do()
            result.cancel()
            result.cancel()
            for _ in range(20):
                workers.do_all()
                self.network.run(0.05)
            outcome: list[Any] = []
            result.addBoth(outcome.append)
            [end] = outcome
            ends.add("Fetched" if isinstance(end, Fetched) else end.type.__name__)
            self.assertEqual(open_files(self.folder), 0)
            if isinstance(end, Fetched):
                self.check_published()
                (self.folder / "new").unlink()
            self.assertFalse((self.folder / "new").exists())
            # So that the next one, too, has to take what has no root.
            self.shelf.catalog.forget(root_of(self.content))
        self.assertEqual(ends, {"CancelledError", "Fetched"})
        self.client = self.a_client()
        self.fetch()
        self.check_published()

    def test_disk_full(self) -> None:
        """A disk that is full ends it with that, and what was stored is kept."""
        room = [10]
        store = Provisional.store

        def full(file: Provisional, arrived: Any) -> None:
            room[0] -= len(arrived)
            if room[0] < 0:
                raise DiskFull("The disk is full.")
            store(file, arrived)

        with mock.patch.object(Provisional, "store", full), self.assertRaises(DiskFull):
            self.fetch()
        self.assertEqual(self.blamed, [])
        fetched = self.fetch()
        self.check_published()
        self.assertLess(fetched.fetched, LARGE)

    def test_slow_disk(self) -> None:
        """While the disk is slow, no more is held than a little."""
        workers = HandFired()
        self.client = self.a_client(workers.run_blocking)
        batches: list[int] = []
        store = Provisional.store

        def watched(file: Provisional, arrived: Any) -> None:
            batches.append(len(arrived))
            store(file, arrived)

        with mock.patch.object(Provisional, "store", watched):
            result = self.get()
            for _ in range(100):
                self.network.run(1.0)
                if workers.jobs:
                    workers.do()
        self.successResultOf(result)
        self.check_published()
        # All that had come while it was busy is stored together.
        self.assertGreater(max(batches), 1)
        self.assertLessEqual(max(batches), HELD)

    def test_down(self) -> None:
        """What it takes is limited as what others take."""
        down = Throttle(self.here.reactor, 1_000_000)
        self.client = TransferClient(
            Introduction(OURS, "here"),
            self.here.reactor,
            partial(client_endpoint, self.here.reactor),
            self.here.run_blocking,
            down=down,
        )
        began = self.here.reactor.seconds()
        self.fetch()
        self.check_published()
        self.assertGreater(self.here.reactor.seconds() - began, (LARGE - 4 * BLOCK) / 1_000_000)


class ChoosingTests(AtOnceTestCase):
    """Who is asked, if several have it."""

    def another_with(self, number: int, content: bytes, *, hashed: bool) -> Candidate:
        """Start one more node that has the file."""
        another = self.another(number, "other", b"x")
        another.source.leave()
        self.write(another.shelf.folder, content)
        if hashed:
            another.shelf.stat("new")
        return another.candidate

    def test_one_who_knows_the_root(self) -> None:
        """Whoever knows the root is asked, and the others are left."""
        other = self.another_with(3, self.content, hashed=True)
        fetched = self.fetch(other)
        self.check_published()
        self.assertEqual([who for who, _ in fetched.sent], [other])
        self.assertIsNotNone(fetched.md5)
        self.assertIsNone(self.shelf.known("new"))

    def test_several_who_do_not(self) -> None:
        """One of those who have it sends it."""
        other = self.another_with(3, self.content, hashed=False)
        [(who, sent)] = self.fetch(other).sent
        self.check_published()
        self.assertIn(who, [THERE, other])
        self.assertEqual(sent, LARGE)

    def test_different_ones(self) -> None:
        """What has another size is another file, and the user has to choose."""
        other = self.another_with(3, self.content[1:], hashed=False)
        with self.assertRaisesRegex(Misuse, "different files"):
            self.fetch(other)
        self.network.run(1.0)
        self.assertFalse(self.factory.connections)

    def test_one_who_is_late(self) -> None:
        """One who answers when the stream has begun is not needed."""
        other = self.another_with(3, self.content, hashed=True)
        connect = self.client.connect

        async def slow(candidate: Candidate) -> SourceProtocol:
            source = await connect(candidate)
            if candidate.address == other.address:
                waiting: Deferred[None] = Deferred()
                self.here.reactor.callLater(0.7, waiting.callback, None)
                await waiting
            return source

        with mock.patch.object(self.client, "connect", slow):
            fetched = self.fetch(other)
        self.check_published()
        self.assertEqual([who for who, _ in fetched.sent], [THERE])


class LyingTests(SynchronousTestCase):
    """L{AtOnce} with a source that is the test's."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.clock = Clock()
        self.workers = HandFired()
        self.source, self.end = ask(self.clock)
        self.content = os.urandom(3 * BLOCK + 700)
        self.entry = Entry("new", len(self.content), MTIME)
        self.root = root_of(self.content)
        self.blamed: list[tuple[Candidate, Flow512Error]] = []
        self.result = self.fetch()
        self.addCleanup(self.clean_up)

    def clean_up(self) -> None:
        """Nothing is left."""
        self.end.hang_up()
        self.workers.do_all()
        self.result.addErrback(lambda _: None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(open_files(self.folder), 0)

    def fetch(self, entry: Entry | None = None) -> Deferred[Fetched]:
        """Begin."""
        fetch = AtOnce(
            Found(THERE, self.source, entry or self.entry),
            Target(str(self.folder)),
            self.clock,
            self.workers.run_blocking,
            self.workers.run_blocking,
            blame=lambda who, why: self.blamed.append((who, why)),
        )
        result = Deferred.fromCoroutine(fetch.fetch())
        self.workers.do_all()
        return result

    def send(self, *blocks: int, digest: Callable[[bytes], bytes] = block_digest) -> None:
        """Send blocks."""
        for block in blocks:
            data = self.content[block * BLOCK : (block + 1) * BLOCK]
            self.end.say_frame(Kind.DATA, 1, data, block * 512)
            self.end.say_frame(Kind.DIGESTS, 1, digest(data), block)

    def finish(self, root: bytes) -> None:
        """Tell the root."""
        self.end.say(Stated(Entry("new", len(self.content), MTIME, root)), request=1)
        self.workers.do_all()

    def test_right(self) -> None:
        """Who sends what is right is not blamed."""
        self.send(0, 1, 2, 3)
        self.finish(self.root)
        self.assertEqual(self.successResultOf(self.result).entry.root, self.root)
        self.assertEqual((self.folder / "new").read_bytes(), self.content)
        self.assertEqual(self.blamed, [])

    def test_wrong_root(self) -> None:
        """Who tells another root in the end is named, and nothing of it is kept."""
        self.send(0, 1, 2, 3)
        self.finish(b"?" * 32)
        failure = self.failureResultOf(self.result, BadDigest)
        self.assertIn("there (10.0.0.1:5000)", str(failure.value))
        self.assertEqual(self.blamed, [(THERE, failure.value)])
        self.assertEqual(os.listdir(self.folder), [])

    def test_wrong_digest(self) -> None:
        """A block that is not what its digest says ends it; those before it are kept."""
        self.send(0, 1)
        self.send(2, digest=lambda data: bytes(32))
        self.workers.do_all()
        failure = self.failureResultOf(self.result, BadDigest)
        self.assertEqual(self.blamed, [(THERE, failure.value)])
        self.assertEqual([message for _, message in self.end.heard()][-1], Cancel())
        self.result = self.fetch()
        [(_, wanted)] = self.end.heard()
        self.assertEqual(wanted, Stream("new", len(self.content), MTIME, 2))

    def test_violation(self) -> None:
        """Who sends something that was not asked for is named."""
        self.send(0)
        self.end.say_frame(Kind.DATA, 1, b"x", 5)
        self.workers.do_all()
        failure = self.failureResultOf(self.result, BadFrame)
        self.assertEqual(self.blamed, [(THERE, failure.value)])

    def test_silence(self) -> None:
        """Who sends nothing, and answers pings, is given up; what came is kept."""
        self.send(0)
        for _ in range(20):
            self.clock.advance(6)
            for frame in self.end.take():
                if frame.kind == Kind.PING:
                    self.end.say_frame(Kind.PONG, frame.request, b"\x90")
            self.workers.do_all()
        self.failureResultOf(self.result, TimedOut)
        self.assertEqual(self.blamed, [])

    def test_time_for_the_root(self) -> None:
        """Who has sent everything has all the time that the root takes."""
        self.send(0, 1, 2, 3)
        self.workers.do_all()
        for _ in range(200):
            self.clock.advance(6)
            for frame in self.end.take():
                if frame.kind == Kind.PING:
                    self.end.say_frame(Kind.PONG, frame.request, b"\x90")
        self.assertNoResult(self.result)
        self.finish(self.root)
        self.successResultOf(self.result)

    def test_stopped_at_the_end(self) -> None:
        """Stopped when only the publishing is left, it is not published, and is kept."""
        self.send(0, 1, 2, 3)
        self.workers.do_all()
        self.end.say(Stated(Entry("new", len(self.content), MTIME, self.root)), request=1)
        self.result.cancel()
        self.workers.do_all()
        self.failureResultOf(self.result, CancelledError)
        self.assertFalse((self.folder / "new").exists())

    def test_hostile_path(self) -> None:
        """A path that must not touch the disk is refused before it does."""
        self.result.cancel()
        self.workers.do_all()
        self.failureResultOf(self.result, CancelledError)
        self.failureResultOf(self.fetch(Entry("../x", 5, 0)), UnsafeName)
