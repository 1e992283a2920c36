"""Tests for L{flow512.transfer.fetch}."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from unittest import mock

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import (
    BadDigest,
    Flow512Error,
    NotFound,
    StateInUse,
    TargetExists,
    TimedOut,
    UnsafeName,
    Violation,
)
from flow512.interfaces import RunBlocking
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.link.rate import LEAST_RATE
from flow512.link.throttle import Throttle
from flow512.transfer.download import Download
from flow512.transfer.fetch import Fetched, Fetcher, Target
from flow512.transfer.finding import Candidate, Found
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source
from flow512.units import BLOCK
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import OURS, THEIRS, HandFired, TransferTestCase

THERE = Candidate(HostPort("10.0.0.1", 5000), "there", THEIRS)


def open_files(folder: Path) -> int:
    """How many files and folders in a folder this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(each.startswith(str(folder.resolve())) for each in found)


class TargetTests(SynchronousTestCase):
    """L{Target}."""

    def test_name(self) -> None:
        """A file keeps the last part of its path, or is called what the user says."""
        self.assertEqual(Target("x").name_for(Entry("a/b/c", 0, 0)), "c")
        self.assertEqual(Target("x", "mine").name_for(Entry("../../c", 0, 0)), "mine")
        for path in ("..", "/etc/passwd", "a/..", "a\0b", "CON", ""):
            with self.assertRaises(UnsafeName):
                Target("x").name_for(Entry(path, 0, 0))


class FetcherTests(TransferTestCase):
    """L{Fetcher}."""

    def setUp(self) -> None:
        super().setUp()
        self.target = Target(str(self.folder))

    def fetch(
        self,
        entry: Entry,
        source: SourceProtocol | None = None,
        target: Target | None = None,
        run_blocking: RunBlocking | None = None,
    ) -> Deferred[Fetched]:
        """Begin to fetch."""
        run = run_blocking or self.here.run_blocking
        fetcher = Fetcher(self.here.reactor, run, run, Random(7))
        found = Found(THERE, source or self.source(), entry)
        return Deferred.fromCoroutine(fetcher.fetch([found], target or self.target))

    def names(self) -> list[str]:
        """What is in the folder."""
        return sorted(os.listdir(self.folder))

    def test_published(self) -> None:
        """The file is there under its name, with its time, and nothing else is."""
        entry, content = self.put("deep/down.bin", 2 * BLOCK + 3)
        fetched = self.network.result(self.fetch(entry))
        self.assertEqual(fetched.path, str(self.folder / "down.bin"))
        self.assertEqual((fetched.resumed, fetched.fetched), (0, entry.size))
        self.assertEqual((self.folder / "down.bin").read_bytes(), content)
        self.assertEqual(os.stat(fetched.path).st_mtime_ns, entry.mtime)
        self.assertEqual(self.names(), ["down.bin"])

    def test_empty_file(self) -> None:
        """A file of no bytes is published as well."""
        entry, _ = self.put("empty", 0)
        self.network.result(self.fetch(entry))
        self.assertEqual((self.folder / "empty").read_bytes(), b"")

    def test_name_is_taken(self) -> None:
        """Somebody's file is not replaced unless the user says so; not a byte is fetched before."""
        entry, content = self.put("one", 1000)
        (self.folder / "one").write_bytes(b"mine")
        with self.assertRaises(TargetExists):
            self.network.result(self.fetch(entry))
        self.assertEqual(self.names(), ["one"])
        self.assertEqual((self.folder / "one").read_bytes(), b"mine")
        self.network.result(self.fetch(entry, target=Target(str(self.folder), replace=True)))
        self.assertEqual((self.folder / "one").read_bytes(), content)

    def test_name_that_is_taken_meanwhile(self) -> None:
        """A name that is taken while the file is on its way is not taken back; a retry resumes."""
        entry, content = self.put("one", 3 * BLOCK)
        result = self.fetch(entry)
        self.network.run_until(lambda: any(name.endswith(".part") for name in self.names()))
        (self.folder / "one").write_bytes(b"mine")
        with self.assertRaises(TargetExists):
            self.network.result(result)
        self.assertEqual((self.folder / "one").read_bytes(), b"mine")
        (self.folder / "one").unlink()
        fetched = self.network.result(self.fetch(entry))
        self.assertEqual((fetched.resumed, fetched.fetched), (entry.size, 0))
        self.assertEqual((self.folder / "one").read_bytes(), content)

    def test_lie_about_the_size(self) -> None:
        """A wrong size is found out before the disk is touched: nothing that is there is lost."""
        entry, _ = self.put("one", 3 * BLOCK)
        assert entry.root is not None
        source = self.source()
        result = self.fetch(entry, source)
        self.network.run_until(lambda: any(name.endswith(".part") for name in self.names()))
        self.network.run_until(lambda: self.here.bytes_received > 2 * BLOCK)
        result.cancel()
        with self.assertRaises(CancelledError):
            self.network.result(result)
        left = {name: (self.folder / name).stat().st_size for name in self.names()}
        self.assertTrue(left)
        for size in (0, 1, entry.size - 1, entry.size + 1, 2**50):
            lie = Entry("one", size, 0, entry.root)
            with self.assertRaises(Flow512Error):
                self.network.result(self.fetch(lie))
        now = {name: (self.folder / name).stat().st_size for name in self.names()}
        self.assertEqual(now, left)
        fetched = self.network.result(self.fetch(entry))
        self.assertGreater(fetched.resumed, 0)

    def leave_part(self, entry: Entry) -> Path:
        """Stop a fetch when something of it is there."""
        result = self.fetch(entry)
        self.network.run_until(lambda: self.here.bytes_received > 4 * BLOCK)
        result.cancel()
        with self.assertRaises(CancelledError):
            self.network.result(result)
        (part,) = self.folder.glob(".flow512-*.part")
        return part

    def test_damaged_since(self) -> None:
        """
        Blocks that the journal vouches for and that were damaged on this disk since are found out
        by the MD5, and only they are fetched anew.
        """
        entry, content = self.put("one", 6 * BLOCK)
        part = self.leave_part(entry)
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([content[1000] ^ 1]))
        before = self.here.bytes_received
        fetched = self.network.result(self.fetch(entry))
        self.assertEqual((self.folder / "one").read_bytes(), content)
        self.assertEqual(self.names(), ["one"])
        self.assertLess(self.here.bytes_received - before, entry.size)
        self.assertEqual(fetched.resumed + fetched.fetched, entry.size)
        self.assertEqual(sum(count for _, count in fetched.sent), fetched.fetched)

    def test_written_to_since(self) -> None:
        """What is found to be right of a part that nobody vouches for counts as here already."""
        entry, content = self.put("one", 6 * BLOCK)
        part = self.leave_part(entry)
        later = part.stat().st_mtime + 3600
        os.utime(part, (later, later))
        fetched = self.network.result(self.fetch(entry))
        self.assertEqual((self.folder / "one").read_bytes(), content)
        self.assertGreater(fetched.resumed, 0)
        self.assertEqual(fetched.resumed + fetched.fetched, entry.size)

    def test_part_of_another_user(self) -> None:
        """What another user has put in the place of the partial file is not gone on with."""
        entry, _ = self.put("one", 6 * BLOCK)
        self.leave_part(entry)
        theirs = os.geteuid() + 1
        self.patch(os, "geteuid", lambda: theirs)
        with self.assertRaises(UnsafeName):
            self.network.result(self.fetch(entry))

    def test_empty_content_with_another_root(self) -> None:
        """Nobody gets an empty file for a content that is not empty."""
        with self.assertRaises(BadDigest):
            self.network.result(self.fetch(Entry("one", 0, 0, b"r" * 32)))
        self.assertEqual(self.names(), [])

    def test_silent_source(self) -> None:
        """A source that does not even give the first page is given up."""
        entry, _ = self.put("one", 1000)
        source = self.source()
        self.factory.run_blocking = lambda function, *args: Deferred()
        with self.assertRaises(TimedOut):
            self.network.result(self.fetch(entry, source), 200.0)
        source.leave()
        self.network.run(1.0)
        for connection in list(self.factory.connections):
            self.factory.connection_gone(connection)

    def test_same_file_twice_at_once(self) -> None:
        """Two fetches of one file to one place do not get into each other's way."""
        entry, content = self.put("one", 3 * BLOCK)
        first = self.fetch(entry)
        self.network.run_until(lambda: any(name.endswith(".part") for name in self.names()))
        with self.assertRaises(StateInUse):
            self.network.result(self.fetch(entry))
        self.network.result(first)
        self.assertEqual((self.folder / "one").read_bytes(), content)

    def test_cancelled_at_every_step(self) -> None:
        """
        Stopped at any step, once or twice: it waits for the worker that is busy, closes all that
        it had opened, and the next fetch goes on from there.
        """
        entry, content = self.put("one", 3 * BLOCK)
        self.network.result(self.fetch(entry))
        (self.folder / "one").unlink()
        ends = set()
        for step in range(40):
            source = self.source()
            workers = HandFired()
            result = self.fetch(entry, source, run_blocking=workers.run_blocking)
            self.network.run(0.05)
            for _ in range(step):
                if workers.jobs:
                    workers.do()
                self.network.run(0.01)
            result.cancel()
            result.cancel()
            self.network.run(1.0)
            if workers.jobs:
                self.assertNoResult(result)
                result.cancel()
            workers.do_all()
            self.network.run(1.0)
            outcome: list[object] = []
            result.addBoth(outcome.append)
            self.assertEqual(len(outcome), 1)
            ends.add(type(outcome[0]).__name__)
            source.leave()
            self.network.run(1.0)
            self.assertEqual(open_files(self.folder), 0)
            fetched = self.folder / "one"
            if isinstance(outcome[0], Fetched):
                self.assertEqual(fetched.read_bytes(), content)
                fetched.unlink()
            self.assertFalse(fetched.exists())
        self.assertEqual(ends, {"Failure", "Fetched"})
        self.network.result(self.fetch(entry))
        self.assertEqual((self.folder / "one").read_bytes(), content)

    def test_progress(self) -> None:
        """Progress is told first at the beginning, with what an earlier fetch had left."""
        entry, _ = self.put("one", 2 * BLOCK)
        told: list[int] = []

        def progress(download: Download) -> None:
            told.append(download.stored)

        run = self.here.run_blocking
        fetcher = Fetcher(self.here.reactor, run, run, Random(7))
        found = Found(THERE, self.source(), entry)
        self.network.result(Deferred.fromCoroutine(fetcher.fetch([found], self.target, progress)))
        self.assertEqual((told[0], told[-1]), (0, entry.size))


class SeveralTests(TransferTestCase):
    """L{Fetcher}, with several sources."""

    def setUp(self) -> None:
        super().setUp()
        self.entry, self.content = self.put("one", 20 * BLOCK + 9)
        self.other = self.another(3, "one", self.content)
        self.blamed: list[tuple[Candidate, Flow512Error]] = []

    def fetch(self, first: Entry, second: Entry | None = None) -> Fetched:
        """Fetch by what the node that there is and another say of the file."""
        run = self.here.run_blocking
        found = [
            Found(THERE, self.source(), first),
            Found(self.other.candidate, self.other.source, second or self.entry),
        ]
        fetching = Fetcher(self.here.reactor, run, run, Random(7)).fetch(
            found,
            Target(str(self.folder)),
            blame=lambda who, why: self.blamed.append((who, why)),
        )
        fetched = self.network.result(Deferred.fromCoroutine(fetching), 900)
        self.assertEqual((self.folder / "one").read_bytes(), self.content)
        return fetched

    def test_lie_about_the_size(self) -> None:
        """Who lies about the size is to blame, whoever is asked first; the others send the file."""
        for size in (0, 1, self.entry.size - 1, 2**50):
            self.blamed.clear()
            lie = Entry("one", size, 0, self.entry.root)
            fetched = self.fetch(lie)
            self.assertEqual([who for who, _ in self.blamed], [THERE])
            self.assertIsInstance(self.blamed[0][1], Violation)
            self.assertEqual([who for who, _ in fetched.sent], [self.other.candidate])
            self.assertEqual(fetched.entry, self.entry)
            (self.folder / "one").unlink()

    def test_lie_about_the_name(self) -> None:
        """Who gives a name that must not touch the disk is to blame, and nobody else fails."""
        fetched = self.fetch(replace(self.entry, path="../../one"))
        ((who, why),) = self.blamed
        self.assertEqual(who, THERE)
        self.assertIsInstance(why, UnsafeName)
        self.assertEqual(fetched.entry, self.entry)

    def test_first_page_of_another(self) -> None:
        """Who sends a wrong first page is to blame; who has none, or is gone, is not."""
        page = self.shelf.page
        self.shelf.page = lambda *args: bytes(len(page(*args)))
        self.fetch(self.entry)
        self.assertEqual([who for who, _ in self.blamed], [THERE])
        (self.folder / "one").unlink()
        self.blamed.clear()
        self.shelf.page = mock.Mock(side_effect=NotFound("none"))
        fetched = self.fetch(self.entry)
        self.assertEqual(self.blamed, [])
        self.assertEqual(len(fetched.sent), 2, "it has the blocks")

    def test_damaged_since(self) -> None:
        """When what is here has to be looked at again, all sources are used for the rest."""
        self.fetch(self.entry)
        (self.folder / "one").unlink()
        self.other = self.another(4, "one", self.content)
        run = self.here.run_blocking
        found = [
            Found(THERE, self.source(), self.entry),
            Found(self.other.candidate, self.other.source, self.entry),
        ]

        def fetch() -> Deferred[Fetched]:
            fetcher = Fetcher(self.here.reactor, run, run, Random(7))
            return Deferred.fromCoroutine(fetcher.fetch(found, Target(str(self.folder))))

        result = fetch()
        before = self.here.bytes_received
        self.network.run_until(lambda: self.here.bytes_received > before + 8 * BLOCK)
        result.cancel()
        with self.assertRaises(CancelledError):
            self.network.result(result)
        (part,) = self.folder.glob(".flow512-*.part")
        data = bytearray(part.read_bytes())
        at = next(n for n in range(0, len(data), BLOCK) if data[n])
        data[at] ^= 1
        with part.open("r+b") as file:
            file.write(data)
        self.network.result(fetch())
        self.assertEqual((self.folder / "one").read_bytes(), self.content)


class HeldBackTests(TransferTestCase):
    """L{Fetcher}, where this side limits how fast it takes."""

    def setUp(self) -> None:
        super().setUp()
        self.down = Throttle(self.here.reactor, LEAST_RATE)

    def claim(self, entry: Entry, number: int) -> Found:
        """One more who has it, of whom no more is read than the limit allows."""
        endpoint = client_endpoint(self.here.reactor, THERE.address)
        factory = SourceFactory(Introduction(OURS, "here"), self.here.reactor, down=self.down)
        source = self.network.result(Deferred.fromCoroutine(connect_source(endpoint, factory)))
        self.addCleanup(source.leave)
        return Found(Candidate(THERE.address, str(number), bytes([number]) * 32), source, entry)

    def fetch(self, claims: list[Found], lost: list[str]) -> Deferred[Fetched]:
        """Fetch from them."""
        run = self.here.run_blocking
        fetching = Fetcher(self.here.reactor, run, run, Random(7)).fetch(
            claims,
            Target(str(self.folder)),
            passed_over=lambda who, why: lost.append(str(why)),
        )
        return Deferred.fromCoroutine(fetching)

    def test_many_sources(self) -> None:
        """None of those who have to wait for each other is taken for silent."""
        entry, content = self.put("one", 40 * BLOCK)
        lost: list[str] = []
        self.network.result(self.fetch([self.claim(entry, n) for n in range(12)], lost), 4000)
        self.assertEqual(lost, [])
        self.assertEqual((self.folder / "one").read_bytes(), content)

    def test_nothing_twice(self) -> None:
        """What has to wait for this side is asked of nobody else: that would only take longer."""
        for number, blocks in enumerate((6, 40)):
            with self.subTest(blocks=blocks):
                one, _ = self.put(f"one {number}", blocks * BLOCK)
                other, _ = self.put(f"other {number}", blocks * BLOCK)
                claims = [self.claim(one, n) for n in range(3)]
                others = [Found(each.candidate, each.source, other) for each in claims]
                fetching = [self.fetch(claims, []), self.fetch(others, [])]
                for each in self.network.result(gatherResults(fetching), 4000):
                    self.assertEqual(each.fetched, blocks * BLOCK)

    def test_many_downloads(self) -> None:
        """Nor is the only source of one of many files that come at a time."""
        fetching = []
        for number in range(8):
            entry, _ = self.put(str(number), 4 * BLOCK)
            fetching.append(self.fetch([self.claim(entry, number)], []))
        for each in self.network.result(gatherResults(fetching), 4000):
            self.assertEqual(each.fetched, 4 * BLOCK)
