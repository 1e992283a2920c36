"""Tests for L{flow512.transfer.download}."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from random import Random
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred

from flow512.content.partial import Partial
from flow512.content.paths import open_folder
from flow512.content.tree import root_digest
from flow512.errors import (
    BadDigest,
    ContentChanged,
    DiskFull,
    Flow512Error,
    NotFound,
    PeerLost,
    TimedOut,
    Unreachable,
)
from flow512.interfaces import RunBlocking
from flow512.link.address import HostPort
from flow512.transfer.arrivals import GATHER_FOR
from flow512.transfer.download import (
    Checksum,
    Download,
    Order,
)
from flow512.transfer.finding import Candidate
from flow512.transfer.md5_check import CHECKSUM_WITHIN
from flow512.transfer.pace import WINDOW
from flow512.transfer.senders import telling_most
from flow512.transfer.shared_work import SharedWork
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, LONGEST_RUN
from flow512.wire.messages import Entry, Read
from tests.unit.transfer_ends import THEIRS, HandFired, TransferTestCase

THERE = Candidate(HostPort("10.0.0.1", 5000), "there", THEIRS)


class DownloadTestCase(TransferTestCase):
    """Downloads into a folder, from a node on the network."""

    def setUp(self) -> None:
        super().setUp()
        self.folder_fd = open_folder(str(self.folder))
        self.addCleanup(os.close, self.folder_fd)

    def partial(self, entry: Entry, boot_id: str = "boot") -> Partial:
        """Open a partial file."""
        assert entry.root is not None
        partial = Partial.open(self.folder_fd, "target", entry.root, entry.size, boot_id)
        self.addCleanup(partial.close)
        return partial

    def download(
        self,
        entry: Entry,
        *,
        partial: Partial | None = None,
        source: SourceProtocol | None = None,
        run: int = LONGEST_RUN,
        checksum: Checksum = Checksum.MD5,
        progress: Callable[[Download], None] = lambda _: None,
        run_blocking: RunBlocking | None = None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Download:
        """Make a download."""
        download = Download(
            partial or self.partial(entry),
            self.here.reactor,
            run_blocking or self.here.run_blocking,
            run_blocking or self.here.run_blocking,
            Random(7),
            run=run,
            checksum=checksum,
            progress=progress,
            blame=blame,
        )
        download.add(THERE, source or self.source())
        return download

    def finish(self, download: Download) -> None:
        """Let it run to its end, and no worker be left."""
        try:
            self.network.result(download.start(), 600.0)
        finally:
            self.network.result(download.idle())


class WholeTests(DownloadTestCase):
    """Downloads that succeed."""

    def check(self, size: int, run: int) -> None:
        """A file of a size arrives as it is."""
        entry, content = self.put(f"file-{size}-{run}", size)
        partial = self.partial(entry)
        stored: list[int] = []
        download = self.download(
            entry, partial=partial, run=run, progress=lambda it: stored.append(it.stored)
        )
        self.finish(download)
        self.assertEqual(partial.read(0, size), content)
        self.assertEqual(download.md5, hashlib.md5(content).digest())
        self.assertEqual((download.stored, download.fetched), (size, size))
        self.assertEqual(stored, sorted(stored))
        self.assertEqual(stored[-1:], [size] if size else [])
        partial.discard()

    def test_sizes(self) -> None:
        """Files of all sizes around pieces and blocks arrive, in runs of all sorts."""
        for size in (0, 1, 511, 512, 513, 5000):
            for run in (1, 3, 511, 512):
                self.check(size, run)
        for run in (1, 3, 511, 512):
            self.check(BLOCK + 1, run)
        for size in (BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 513):
            self.check(size, 512)
        for size in (47 * BLOCK + 1, 48 * BLOCK):
            self.check(size, LONGEST_RUN)

    def test_sparse_of_a_page_and_a_block(self) -> None:
        """Files of 512 blocks, a byte more or less, nearly all hole, arrive with all pages."""
        for size in (512 * BLOCK - 1, 512 * BLOCK, 512 * BLOCK + 1):
            with open(self.shelf.folder / "sparse", "wb") as file:
                file.write(b"begin")
                file.seek(size - 3)
                file.write(b"end")
            entry = self.shelf.stat("sparse")
            partial = self.partial(entry)
            self.finish(self.download(entry, partial=partial, checksum=Checksum.NONE))
            self.assertEqual(partial.read(0, 6), b"begin\0")
            self.assertEqual(partial.read(size - 4, 4), b"\0end")
            self.assertEqual(partial.stored, size)
            partial.discard()

    def test_waits_for_nothing(self) -> None:
        """The last blocks are stored when they are here, and do not wait for more to come."""
        self.network.latency = self.network.blocking_delay = (0.0, 0.0001)
        for size in (1000, 3 * BLOCK):
            entry, _ = self.put(f"file-{size}", size)
            download = self.download(entry, checksum=Checksum.NONE)
            before = self.here.reactor.seconds()
            self.finish(download)
            self.assertLess(self.here.reactor.seconds() - before, GATHER_FOR)

    def test_without_md5(self) -> None:
        """Without a checksum none is asked for, nor computed."""
        entry, _ = self.put("one", 1000)
        self.shelf.checksum = self.fail
        download = self.download(entry, checksum=Checksum.NONE)
        self.finish(download)
        self.assertIsNone(download.md5)


class ResumeTests(DownloadTestCase):
    """What an earlier download has left."""

    def test_lost_midway(self) -> None:
        """After a lost connection, a second download fetches only what is missing."""
        entry, content = self.put("one", 200 * BLOCK + 5)
        source = self.source()
        partial = self.partial(entry)

        def cut_off(download: Download) -> None:
            if download.stored > 40 * BLOCK:
                self.network.cut(self.here, self.there)

        first = self.download(entry, partial=partial, source=source, progress=cut_off)
        with self.assertRaises(PeerLost):
            self.finish(first)
        partial.close()
        self.network.heal()
        partial = self.partial(entry)
        had = partial.stored
        self.assertGreater(had, 40 * BLOCK)
        self.assertLess(had, len(content))
        second = self.download(entry, partial=partial)
        self.finish(second)
        self.assertEqual(second.fetched, len(content) - had)
        self.assertEqual(partial.read(0, entry.size), content)
        self.assertEqual(second.md5, hashlib.md5(content).digest())

    def test_unproven_blocks(self) -> None:
        """Blocks that no journal vouches for are looked at, and only the wrong ones fetched."""
        entry, content = self.put("one", 20 * BLOCK)
        partial = self.partial(entry)
        self.finish(self.download(entry, partial=partial))
        with open(partial.fileno(), "r+b", closefd=False) as file:
            for block in (3, 11):
                file.seek(block * BLOCK + 77)
                file.write(b"damaged")
        partial.close()
        for journal in self.folder.glob(".*journal"):
            journal.write_bytes(journal.read_bytes()[:-40])
        partial = self.partial(entry, "another boot")
        self.assertEqual(partial.unproven, ((0, 20),))
        download = self.download(entry, partial=partial)
        self.finish(download)
        self.assertEqual(download.fetched, 2 * BLOCK)
        self.assertEqual(partial.read(0, entry.size), content)

    def test_missing_blocks_far_apart(self) -> None:
        """Where one block in each of many pages is missing, all of them arrive."""
        size = 3 * 512 * BLOCK
        with open(self.shelf.folder / "sparse", "wb") as file:
            file.truncate(size)
        entry = self.shelf.stat("sparse")
        partial = self.partial(entry)
        missing = {5, 512 + 6, 1024 + 7, 1024 + 300}
        partial.vouch(block for block in range(partial.blocks) if block not in missing)
        download = self.download(entry, partial=partial, checksum=Checksum.NONE)
        self.finish(download)
        self.assertEqual((download.fetched, partial.stored), (4 * BLOCK, size))


class LiarTests(DownloadTestCase):
    """Sources that are broken, or lie."""

    def test_damaged_block(self) -> None:
        """A damaged block fails the download; what was right stays, what was not is not kept."""
        entry, content = self.put("one", 5 * BLOCK)
        partial = self.partial(entry)
        honest = self.shelf.read_hook
        self.shelf.read_hook = lambda at, data: (
            data[:9] + b"x" + data[10:] if at == 2 * BLOCK else honest(at, data)
        )
        with self.assertRaises(BadDigest) as caught:
            self.finish(self.download(entry, partial=partial))
        self.assertIn("damaged block 2", str(caught.exception))
        self.assertNotIn(2, partial.have)
        for block in range(5):
            if block in partial.have:
                got = partial.read(block * BLOCK, BLOCK)
                self.assertEqual(got, content[block * BLOCK :][:BLOCK])
        self.assertIn(0, partial.have)
        self.shelf.read_hook = honest
        had = partial.stored
        download = self.download(entry, partial=partial)
        self.finish(download)
        self.assertEqual(download.fetched, entry.size - had)

    def test_damaged_block_among_others(self) -> None:
        """Of blocks that come in one frame a damaged one is not kept, and all others are."""
        entry, content = self.put("one", 130 * BLOCK)
        partial = self.partial(entry)
        asked: list[Read] = []
        source = self.source()
        read = source.read

        def note(root: bytes, size: int, *rest: Any) -> Deferred[None]:
            asked.append(Read(root, *rest[:3]))
            return read(root, size, *rest)

        source.read = note  # type: ignore[method-assign]  # to see what is asked
        self.shelf.read_hook = lambda at, data: b"x" + data[1:] if at == 70 * BLOCK else data
        with self.assertRaises(BadDigest) as caught:
            self.finish(self.download(entry, partial=partial, source=source))
        self.assertIn("damaged block 70", str(caught.exception))
        [of_it] = [each for each in asked if each.first <= 70 * 512 < each.first + each.count]
        self.assertEqual(of_it.run, LONGEST_RUN)
        self.assertEqual(
            [70 in partial.have, 69 in partial.have, 71 in partial.have], [False, True, True]
        )
        self.assertEqual(partial.read(68 * BLOCK, 2 * BLOCK), content[68 * BLOCK : 70 * BLOCK])

    def test_page_that_lies(self) -> None:
        """A page that is not proven fails the download before a block is asked for."""
        entry, _ = self.put("one", 5 * BLOCK)
        self.shelf.page = lambda root, level, index, view: bytes(160)
        download = self.download(entry)
        with self.assertRaises(BadDigest):
            self.finish(download)
        self.assertEqual(download.fetched, 0)

    def test_empty_content_with_another_root(self) -> None:
        """That a content is empty is not believed: only one root has no bytes."""
        entry = Entry("one", 0, 0, b"r" * 32)
        for checksum in Checksum:
            partial = self.partial(entry)
            with self.assertRaises(BadDigest):
                self.finish(self.download(entry, partial=partial, checksum=checksum))
            partial.close()
        empty = Entry("one", 0, 0, root_digest(0, b""))
        self.finish(self.download(empty, checksum=Checksum.NONE))

    def test_wrong_md5(self) -> None:
        """An MD5 that is not the content's fails the download, and says how to do without."""
        entry, _ = self.put("one", 1000)
        self.shelf.checksum = lambda root, stop, view: bytes(16)
        with self.assertRaises(BadDigest) as caught:
            self.finish(self.download(entry))
        self.assertIn("--no-md5", str(caught.exception))

    def test_silent_source(self) -> None:
        """A source that is there and sends nothing is given up in its time."""
        entry, _ = self.put("one", 5 * BLOCK)
        source = self.source()
        self.factory.run_blocking = lambda function, *args: Deferred()
        started = self.network.clock.seconds()
        with self.assertRaises(TimedOut):
            self.finish(self.download(entry, source=source))
        self.assertLess(self.network.clock.seconds() - started, 130.0)
        source.leave()
        self.network.run(1.0)
        for connection in list(self.factory.connections):
            self.factory.connection_gone(connection)

    def test_md5_that_never_comes(self) -> None:
        """
        A source that sends everything but the MD5 is waited for, but not for ever; the sentence
        says that all is there, and how to do without.
        """
        entry, _ = self.put("one", 5 * BLOCK)
        source = self.source()
        self.factory.long_work = SharedWork(lambda function, *args: Deferred())
        download = self.download(entry, source=source)
        result = download.start()
        self.network.run(CHECKSUM_WITHIN - 60.0)
        self.assertNoResult(result)
        self.assertEqual(download.stored, entry.size)
        self.network.run(180.0)
        failure = self.failureResultOf(result, TimedOut)
        self.assertIn("--no-md5", str(failure.value))
        source.leave()
        self.network.run(1.0)
        for connection in list(self.factory.connections):
            self.factory.connection_gone(connection)

    def test_slow_worker_is_no_silence(self) -> None:
        """However long our own disk takes, the source is not blamed."""
        entry, _ = self.put("one", 5 * BLOCK)
        workers = HandFired()
        source = self.source()
        download = self.download(entry, source=source, run_blocking=workers.run_blocking)
        result = download.start()
        self.network.run(500.0)
        self.assertNoResult(result)
        while not result.called:
            workers.do_all()
            self.network.run(1.0)
        self.successResultOf(result)

    def test_refusals(self) -> None:
        """What the source says is what the caller hears."""
        entry, _ = self.put("one", 5 * BLOCK)
        os.truncate(self.shelf.folder / "one", 5)
        with self.assertRaises(ContentChanged):
            self.finish(self.download(entry))
        with self.assertRaises(NotFound):
            self.finish(self.download(Entry("x", 5 * BLOCK, 0, b"r" * 32)))


def filling_up(partial: Partial, room: int) -> Callable[..., None]:
    """Write as a disk does that has room for so many blocks."""
    write = partial.write

    def fill(first: int, *blocks: bytes) -> None:
        for block, data in enumerate(blocks, first):
            if len(partial.have) == room:
                raise DiskFull("The disk is full.")
            write(block, data)

    return fill


class OwnTroubleTests(DownloadTestCase):
    """What goes wrong on this machine."""

    def test_disk_full(self) -> None:
        """A full disk is told as such, at whatever write; what was written before stays."""
        entry, content = self.put("one", 6 * BLOCK)
        for written in range(6):
            partial = self.partial(entry)
            with (
                mock.patch.object(partial, "write", filling_up(partial, written)),
                self.assertRaises(DiskFull),
            ):
                self.finish(self.download(entry, partial=partial))
            self.assertEqual(partial.stored, written * BLOCK)
            partial.close()
            partial = self.partial(entry)
            self.assertEqual(partial.stored, written * BLOCK)
            download = self.download(entry, partial=partial)
            self.finish(download)
            self.assertEqual(download.fetched, (6 - written) * BLOCK)
            self.assertEqual(partial.read(0, entry.size), content)
            partial.discard()

    def test_disk_that_stands_still(self) -> None:
        """
        What has come and is not written is never more than a window: a disk that takes nothing
        stops what is asked for, and once it goes on, so does the download.
        """
        entry, content = self.put("one", 4 * WINDOW * BLOCK)
        workers = HandFired()
        partial = self.partial(entry)
        download = self.download(
            entry, partial=partial, checksum=Checksum.NONE, run_blocking=workers.run_blocking
        )
        result = download.start()
        most = 0
        while not result.called:
            self.network.run(2.0)
            held = download.fetched - download.stored
            self.assertLessEqual(held, WINDOW * BLOCK)
            most = max(most, held)
            workers.do()
        self.successResultOf(result)
        self.assertEqual(most, WINDOW * BLOCK)
        self.assertEqual(partial.read(0, entry.size), content)

    def test_journal_between_many_blocks(self) -> None:
        """Of a long batch the journal is told now and then, so that a crash costs little."""
        entry, content = self.put("one", 40 * BLOCK)
        partial = self.partial(entry)
        workers = HandFired()
        download = self.download(entry, partial=partial, run_blocking=workers.run_blocking)
        result = download.start()
        self.network.run(2.0)
        with mock.patch.object(Partial, "flush", autospec=True, side_effect=Partial.flush) as flush:
            while not result.called:
                workers.do_all()
                self.network.run(1.0)
        self.assertGreaterEqual(flush.call_count, 3)
        self.assertEqual(partial.read(0, entry.size), content)

    def test_progress_that_fails(self) -> None:
        """A mistake in the application's own code fails the download, and is not lost."""
        entry, _ = self.put("one", 1000)

        def progress(download: Download) -> None:
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            self.finish(self.download(entry, progress=progress))


class CancelTests(DownloadTestCase):
    """Downloads that are stopped."""

    def test_any_time(self) -> None:
        """
        Stopped at any time, it fails at once; no worker is started after that, and it is idle
        only when those that work have ended. What was stored stays.
        """
        entry, content = self.put("one", 30 * BLOCK)
        for moment in range(0, 60, 3):
            source = self.source()
            partial = self.partial(entry)
            workers = HandFired()
            download = self.download(
                entry, partial=partial, source=source, run_blocking=workers.run_blocking
            )
            result = download.start()
            for _ in range(moment):
                if workers.jobs:
                    workers.do()
                self.network.run(0.002)
            if result.called:
                self.successResultOf(result)
                partial.discard()
                continue
            result.cancel()
            self.failureResultOf(result, CancelledError)
            busy = len(workers.jobs)
            self.network.run(5.0)
            self.assertEqual(len(workers.jobs), busy)
            idle = download.idle()
            self.assertEqual(idle.called, not busy)
            workers.do_all()
            self.successResultOf(idle)
            for first, count in partial.have.runs():
                span = slice(first * BLOCK, (first + count) * BLOCK)
                self.assertEqual(partial.read(span.start, count * BLOCK), content[span])
            partial.close()
            source.leave()

    def test_data_after_it(self) -> None:
        """The source is told to send no more, and data that comes still goes nowhere."""
        entry, _ = self.put("one", 30 * BLOCK)
        download = self.download(entry)
        result = download.start()
        self.network.run_until(lambda: download.fetched)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        fetched = download.fetched
        self.network.run(5.0)
        self.assertEqual(download.fetched, fetched)
        self.assertLess(self.here.bytes_received, 15 * BLOCK)


class SeveralTests(DownloadTestCase):
    """Downloads from several sources."""

    def begin(self, blocks: int, others: int, **more: Any) -> Deferred[None]:
        """Begin to download a file that so many nodes have besides the one that there is."""
        self.entry, self.content = self.put("one", blocks * BLOCK + 5)
        self.target = self.partial(self.entry)
        self.several = self.download(self.entry, partial=self.target, **more)
        self.others = [self.another(3 + n, "one", self.content) for n in range(others)]
        for each in self.others:
            self.several.add(each.candidate, each.source)
        return self.several.start()

    def check(self, result: Deferred[None]) -> None:
        """It ends with the exact content."""
        self.network.result(result, 900.0)
        self.network.result(self.several.idle())
        self.assertEqual(self.target.read(0, self.entry.size), self.content)
        self.assertEqual(self.several.md5, hashlib.md5(self.content).digest())

    def sent(self) -> list[int]:
        """The bytes that each source has sent."""
        return [each.fetched for each in self.several.senders.values()]

    def test_all_of_them_send(self) -> None:
        """Each of several sends some, together just what there is."""
        self.check(self.begin(100, 3))
        self.assertEqual(sum(self.sent()), self.entry.size)
        self.assertGreater(min(self.sent()), 5 * BLOCK)
        self.assertEqual(self.several.blamed, [])

    def test_one_dies(self) -> None:
        """A source that goes away is no failure while others are left; its work goes to them."""
        result = self.begin(100, 2)
        self.network.run_until(lambda: self.several.stored > 20 * BLOCK)
        for connection in list(self.factory.connections):
            connection.connection.abortConnection()
        self.check(result)
        (first, *others) = self.several.senders.values()
        self.assertIsInstance(first.lost, PeerLost)
        self.assertEqual([each.lost for each in others], [None, None])
        self.assertEqual(self.several.blamed, [])

    def test_one_cannot_be_reached(self) -> None:
        """Nobody waits for the deadline of a connection that is dead, while others are left."""
        result = self.begin(100, 2)
        self.network.run_until(lambda: self.several.stored > 20 * BLOCK)
        self.network.cut(self.here, self.there)
        started = self.network.clock.seconds()
        self.check(result)
        self.assertLess(self.network.clock.seconds() - started, 15.0)
        self.network.heal()

    def test_all_die(self) -> None:
        """When the last one has gone it fails, and what was stored stays."""
        result = self.begin(200, 1)
        self.network.run_until(lambda: self.several.stored > 20 * BLOCK)
        self.network.cut(self.here, self.there)
        self.network.cut(self.here, self.others[0].host)
        with self.assertRaises(Unreachable):
            self.network.result(result, 400.0)
        self.network.result(self.several.idle())
        self.assertGreater(self.target.stored, 20 * BLOCK)

    def test_one_lies_in_one_piece(self) -> None:
        """Who sends one wrong piece is named, once, and not asked again; the rest comes exact."""
        blames: list[tuple[Candidate, Flow512Error]] = []
        self.shelf.read_hook = lambda at, data: (
            data[:700] + b"x" + data[701:] if at % (7 * BLOCK) == 0 else data
        )
        result = self.begin(100, 2, blame=lambda who, why: blames.append((who, why)))
        self.check(result)
        ((who, why),) = blames
        self.assertEqual(self.several.blamed, blames)
        self.assertEqual(who, THERE)
        self.assertIsInstance(why, BadDigest)
        self.assertIn("damaged block", str(why))
        self.assertLess(sum(self.sent()), self.entry.size + 16 * BLOCK)
        self.network.run(1.0)
        self.assertFalse(self.factory.connections, "its connection is closed")

    def test_buffers_come_back(self) -> None:
        """The buffer of blocks that came together is given back though some are here already."""
        entry, content = self.put("one", 8 * BLOCK)
        source = self.source()
        given_back: list[object] = []
        source.buffers.give_back = given_back.append  # type: ignore[method-assign]  # of this one
        sinks: list[Callable[[int, bytearray], None]] = []

        def read(*args: Any) -> Deferred[None]:
            sinks.append(args[-1])
            return Deferred(lambda _: None)

        source.read = read  # type: ignore[assignment]  # as the test sends it
        partial = self.partial(entry)
        download = self.download(entry, partial=partial, source=source, checksum=Checksum.NONE)
        result = download.start()
        self.network.run_until(lambda: bool(sinks))
        frames = [(0, bytearray(content[:BLOCK])), (0, bytearray(content[: 4 * BLOCK]))]
        for first, data in frames:
            sinks[0](first, data)
        self.assertIs(given_back[0], frames[1][1])
        sinks[0](4 * 512, bytearray(content[4 * BLOCK :]))
        self.network.result(result)
        self.assertEqual(partial.read(0, entry.size), content)

    def test_one_is_silent(self) -> None:
        """One that sends nothing holds nobody up."""
        source = self.source()
        self.factory.run_blocking = lambda function, *args: Deferred()
        started = self.network.clock.seconds()
        self.check(self.begin(100, 1, source=source))
        self.assertLess(self.network.clock.seconds() - started, 20.0)
        source.leave()
        self.network.run(1.0)
        for connection in list(self.factory.connections):
            self.factory.connection_gone(connection)

    def test_one_is_slow(self) -> None:
        """One that is a hundred times slower costs no more than a moment at the end."""
        self.there.bandwidth = 100_000
        started = self.network.clock.seconds()
        self.check(self.begin(100, 1))
        self.assertLess(self.network.clock.seconds() - started, 20.0)
        slow, fast = self.sent()
        self.assertGreater(fast, 90 * BLOCK)
        self.assertLess(slow + fast, self.entry.size + 16 * BLOCK)

    def test_one_joins(self) -> None:
        """A source that is added while it runs sends its share."""
        self.there.bandwidth = 2_000_000
        result = self.begin(100, 0)
        self.network.run_until(lambda: self.several.stored > 10 * BLOCK)
        new = self.another(3, "one", self.content)
        sender = self.several.add(new.candidate, new.source)
        self.check(result)
        self.assertGreater(sender.fetched, 20 * BLOCK)

    def test_partial_sources(self) -> None:
        """Two that have half each, of which one gets more: together they send everything."""
        entry, content = self.put("one", 60 * BLOCK)
        partial = self.partial(entry)
        download = self.several = self.download(entry, partial=partial)
        first = download.senders[1]
        download.leave(first, PeerLost("gone"))
        one, two = (self.another(number, "one", content) for number in (3, 4))
        download.wait_for_more()
        result = download.start()
        left = download.add(one.candidate, one.source, [(0, 20)])
        right = download.add(two.candidate, two.source, [(30, 30)])
        self.network.run(100.0)
        self.assertNoResult(result)
        self.assertEqual((left.fetched, right.fetched), (20 * BLOCK, 30 * BLOCK))
        download.has(left, [(20, 9)])
        self.network.run(1.0)
        self.assertEqual(download.stored, 59 * BLOCK)
        download.has(left, [], is_all=True)
        self.network.result(result)
        self.assertEqual(partial.read(0, entry.size), content)
        self.assertEqual(left.fetched + right.fetched, entry.size)

    def test_nobody_has_the_rest(self) -> None:
        """If those who are left have not what is missing, that is said, in its time."""
        entry, content = self.put("one", 9 * BLOCK)
        download = self.download(entry)
        one = self.another(3, "one", content)
        download.add(one.candidate, one.source, [(0, 5)])
        download.leave(download.senders[1], PeerLost("gone"))
        result = download.start()
        self.network.run(30.0)
        self.assertNoResult(result)
        self.network.run(60.0)
        self.failureResultOf(result, NotFound)
        self.assertEqual(download.stored, 5 * BLOCK)

    def test_more_may_come(self) -> None:
        """Without a source it waits, if it is told to, until it is told that no more will come."""
        entry, _ = self.put("one", 9 * BLOCK)
        download = self.download(entry)
        download.leave(download.senders[1], PeerLost("gone"))
        download.wait_for_more()
        result = download.start()
        self.network.run(500.0)
        self.assertNoResult(result)
        download.no_more()
        self.failureResultOf(result, PeerLost)

    def test_nobody_at_all(self) -> None:
        """Without any source it fails at once."""
        entry, _ = self.put("one", 9 * BLOCK)
        run = self.here.run_blocking
        download = Download(self.partial(entry), self.here.reactor, run, run, Random(1))
        self.failureResultOf(download.start(), PeerLost)

    def test_md5_of_another(self) -> None:
        """An MD5 that is wrong, refused or late is asked of another source."""
        for number, checksum in enumerate(
            (
                lambda root, stop, view: bytes(16),
                mock.Mock(side_effect=NotFound("none")),
                mock.Mock(side_effect=ContentChanged("changed")),
            )
        ):
            self.shelf.checksum = checksum
            entry, content = self.put(f"file{number}", 3 * BLOCK)
            partial = self.partial(entry)
            download = self.download(entry, partial=partial)
            other = self.another(10 + number, "one", content)
            download.add(other.candidate, other.source)
            self.finish(download)
            self.assertEqual(download.md5, hashlib.md5(content).digest())
            partial.discard()

    def test_why_it_failed(self) -> None:
        """Of several reasons, the one that tells most is told."""
        self.assertIsInstance(telling_most([PeerLost("x"), ContentChanged("y")]), ContentChanged)
        self.assertIsInstance(telling_most([NotFound("x"), BadDigest("y")]), BadDigest)
        self.assertIsInstance(telling_most([PeerLost("x"), TimedOut("y")]), TimedOut)
        self.assertIsInstance(telling_most([DiskFull("x")]), DiskFull)
        self.assertIsInstance(telling_most([]), PeerLost)

    def test_in_order(self) -> None:
        """If the first blocks are wanted first, they come first, whoever is how rare."""
        entry, content = self.put("one", 100 * BLOCK)
        partial = self.partial(entry)
        run = self.here.run_blocking
        ends: list[int] = []

        def progress(download: Download) -> None:
            (first, count) = next(partial.have.runs(), (0, 0))
            ends.append(len(partial.have) - count if first == 0 else len(partial.have))

        download = Download(
            partial,
            self.here.reactor,
            run,
            run,
            Random(1),
            order=Order.FIRST_FIRST,
            progress=progress,
        )
        for number in (3, 4):
            each = self.another(number, "one", content)
            download.add(each.candidate, each.source, [(0, 100)])
        self.finish(download)
        self.assertLessEqual(max(ends), 64, "no more than a window is ahead of the first gap")
