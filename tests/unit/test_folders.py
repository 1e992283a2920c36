"""Tests for L{flow512.transfer.folders}, over the network in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail

from flow512.content.disk import Disk
from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond, Mirror
from flow512.content.placing import Existing, Placing
from flow512.errors import (
    BadDigest,
    Busy,
    DiskFull,
    Flow512Error,
    NotFound,
    PeerLost,
    TimedOut,
)
from flow512.transfer import folders
from flow512.transfer.asked import ParcelSink
from flow512.transfer.finding import Candidate
from flow512.transfer.folder_sources import BUSY_FOR, FolderSources
from flow512.transfer.folders import FolderFetch, Progress
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, PIECES_PER_BLOCK
from flow512.wire.bundle import MAX_BUNDLED
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import HandFired, TransferTestCase, a_folder


async def never_large(item: Item) -> int:
    """No file is fetched alone."""
    raise AssertionError(item)


class FolderTests(TransferTestCase):
    """A folder, from one node to another."""

    def setUp(self) -> None:
        super().setUp()
        self.target = a_folder(self)
        self.alone: list[str] = []
        self.blamed: list[tuple[SourceProtocol, str]] = []

    def asked(self, path: str = "/") -> tuple[SourceProtocol, Entry]:
        """Ask for a folder's manifest."""
        self.shelf.scan()
        source = self.source()
        return source, self.network.result(source.stat(path))

    def fetch(
        self,
        sources: list[SourceProtocol],
        entry: Entry,
        existing: Existing = Existing.KEEP,
        fetch: FolderFetch | None = None,
        beyond: Beyond = Beyond.IGNORE,
    ) -> Progress:
        """Fetch it."""
        fetch = fetch or self.fetching(sources)
        return self.network.result(
            Deferred.fromCoroutine(fetch.fetch(entry, str(self.target), existing, beyond))
        )

    def fetching(self, sources: list[SourceProtocol], **how: object) -> FolderFetch:
        """Make what fetches."""

        async def fetch_large(item: Item) -> int:
            self.alone.append(item.path)
            assert item.root is not None
            data = bytearray()
            await sources[0].read(
                item.root,
                item.size,
                0,
                -(-item.size // 512),
                PIECES_PER_BLOCK,
                lambda first, part: data.extend(part),
            )
            with open(self.target / item.path, "wb") as file:  # noqa: ASYNC230  # a test
                file.write(data)
            return len(data)

        whose = {Candidate(str(number)): source for number, source in enumerate(sources)}
        them = FolderSources(
            {source: who for who, source in whose.items()},
            self.here.reactor,
            lambda who, reason: self.blamed.append((whose[who], str(reason))),
        )
        return FolderFetch(them, self.here.run_blocking, fetch_large, **how)  # type: ignore[arg-type]  # as they are

    def content(self, folder: Path | None = None) -> dict[str, bytes]:
        """The files that have come, or those in another folder."""
        folder = folder or self.target
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def test_whole(self) -> None:
        """Many small files and some large ones arrive, exact, with empty folders and times."""
        expected = {}
        for number in range(1200):
            path = f"small/{number % 7}/{number}"
            expected[path] = self.put(path, number % 300)[1]
        for name, size in (("edge", MAX_BUNDLED), ("large/a", MAX_BUNDLED + 1), ("b", 700_000)):
            expected[name] = self.put(name, size)[1]
        (self.shelf.folder / "empty/deep").mkdir(parents=True)
        os.utime(self.shelf.folder / "empty", ns=(5, 7))
        source, entry = self.asked()
        progress = self.fetch([source], entry)
        self.assertEqual(self.content(), expected)
        self.assertEqual(self.alone, ["b", "large/a"])
        self.assertTrue((self.target / "empty/deep").is_dir())
        self.assertEqual((self.target / "empty").stat().st_mtime_ns, 7)
        for path in expected:
            here, there = (self.target / path).stat(), (self.shelf.folder / path).stat()
            self.assertEqual(here.st_mtime_ns, there.st_mtime_ns, path)
        size = sum(map(len, expected.values()))
        self.assertEqual((progress.done, progress.stored), (len(expected), size))
        self.assertEqual((progress.outcome.files, progress.outcome.size), (len(expected), size))
        self.assertEqual(progress.outcome.left_out, [])
        source.leave()

    def long_manifest(self) -> None:
        """Offer files whose manifest has more than one block."""
        for number in range(1000):
            self.put(f"{number:04}{'x' * 240}", 1)

    def test_pipeline(self) -> None:
        """Files are asked for and stored while the rest of the manifest is on its way."""
        self.long_manifest()
        source, entry = self.asked()
        self.assertGreater(entry.size, BLOCK)
        held: list[Callable[[], None]] = []
        read = source.read

        def slowly(*args: Any) -> Deferred[None]:
            *what, sink = args
            ended: Deferred[None] = Deferred()

            def pass_on(first: int, data: bytes | bytearray) -> None:
                if not first:
                    sink(first, data)
                else:
                    held.append(lambda: sink(first, data))

            read(*what, pass_on).addCallback(lambda _: held.append(lambda: ended.callback(None)))
            return ended

        source.read = slowly  # type: ignore[assignment]  # on a slow line
        seen: list[int] = []
        fetch = self.fetching([source], told=lambda progress: seen.append(progress.done))
        fetching = Deferred.fromCoroutine(fetch.fetch(entry, str(self.target), Existing.KEEP))
        self.network.run(2)
        self.assertEqual(len(held), 2)
        self.assertGreater(seen[-1], 0)
        self.assertEqual(len(self.content()), seen[-1])
        for each in held:
            each()
        self.assertEqual(self.network.result(fetching).done, 1000)
        self.assertEqual(len(self.content()), 1000)
        source.leave()

    def test_manifest_from_two(self) -> None:
        """A source that goes away or lies in the middle of the manifest is replaced there."""
        self.long_manifest()
        for does_lie in (False, True):
            self.target = a_folder(self)
            one, entry = self.asked()
            other, _ = self.asked()
            read = one.read

            def fail_then(
                *args: Any,
                does_lie: bool = does_lie,
                one: SourceProtocol = one,
                read: Callable[..., Deferred[None]] = read,
            ) -> Deferred[None]:
                *what, sink = args

                def pass_on(first: int, data: bytes | bytearray) -> None:
                    if not first:
                        sink(first, data)
                    elif does_lie:
                        sink(first, bytes(len(data)))
                    else:
                        one.connection.abortConnection()

                return read(*what, pass_on)

            one.read = fail_then  # type: ignore[assignment]  # it breaks, or lies
            self.blamed.clear()
            progress = self.fetch([one, other], entry)
            self.assertEqual((progress.outcome.files, progress.done), (1000, 1000))
            self.assertEqual([source for source, _ in self.blamed], [one] if does_lie else [])
            other.leave()

    def test_ahead(self) -> None:
        """However many files there are, little is asked for that is not in its place."""
        for number in range(1000):
            self.put(f"{number}", 10_000)
        source, entry = self.asked()
        self.patch(folders, "AHEAD", 1024 * 1024)
        ahead: list[int] = []
        waiting = [0]
        bundle = source.bundle

        def counted(
            roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink
        ) -> Deferred[None]:
            waiting[0] += len(roots)
            ahead.append(waiting[0])
            return bundle(roots, sizes, sink)

        source.bundle = counted  # type: ignore[method-assign]  # it counts
        done = [0]

        def told(progress: Progress) -> None:
            waiting[0] -= progress.done - done[0]
            done[0] = progress.done

        progress = self.fetch([source], entry, fetch=self.fetching([source], told=told))
        self.assertEqual(progress.done, 1000)
        self.assertGreater(len(ahead), 5)
        self.assertLess(max(ahead) * 10_000, 2 * 1024 * 1024 + 1024)
        source.leave()

    def test_again(self) -> None:
        """The second time only what has changed is fetched, and what is here stays unless told."""
        for name in ("one", "two", "three"):
            self.put(name, 50)
        source, entry = self.asked()
        self.fetch([source], entry)
        content = self.put("two", 60)[1]
        self.put("four", 5)
        entry = self.network.result(source.stat("/"))
        progress = self.fetch([source], entry)
        self.assertEqual((progress.done, progress.outcome.unchanged), (1, 2))
        self.assertEqual([path for path, _ in progress.outcome.left_out], ["two"])
        self.assertNotEqual(self.content()["two"], content)
        progress = self.fetch([source], entry, Existing.REPLACE)
        self.assertEqual((progress.done, progress.outcome.unchanged), (1, 3))
        self.assertEqual(self.content()["two"], content)
        source.leave()

    def mirrored(self) -> tuple[SourceProtocol, Entry]:
        """A folder there, and one here that has more; with times of their own."""
        for name in ("a/one", "a/two", "three"):
            self.put(name, 50)
        source, entry = self.asked()
        self.fetch([source], entry)
        for name in ("a/mine", "more/mine"):
            (self.target / name).parent.mkdir(exist_ok=True)
            (self.target / name).write_bytes(b"mine")
        return source, entry

    def test_mirror(self) -> None:
        """What is here and not there is counted, and deleted only when that is asked for."""
        source, entry = self.mirrored()
        progress = self.fetch([source], entry)
        self.assertIsNone(progress.surplus)
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.COUNT)
        assert progress.surplus is not None
        self.assertEqual(progress.surplus.paths, ["a/mine", "more/mine", "more/"])
        self.assertEqual(progress.surplus.deleted, 0)
        self.assertIn("more/mine", self.content())
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        assert progress.surplus is not None
        self.assertEqual((progress.surplus.count, progress.surplus.deleted), (3, 3))
        self.assertEqual(sorted(self.content()), ["a/one", "a/two", "three"])
        self.assertFalse((self.target / "more").exists())
        for name in ("a", "a/one"):
            here, there = (self.target / name).stat(), (self.shelf.folder / name).stat()
            self.assertEqual(here.st_mtime_ns, there.st_mtime_ns, name)
        source.leave()

    def of_another_kind(self) -> tuple[SourceProtocol, Entry]:
        """A folder there, and one here in which files and folders have changed places."""
        self.put("a/was folder", 50)
        self.put("a/was file/deep/one", 50)
        self.put("a/was file/large", MAX_BUNDLED + 1)
        self.put("was link/two", 50)
        self.put("z", 50)
        source, entry = self.asked()
        elsewhere = a_folder(self)
        (elsewhere / "kept").write_bytes(b"kept")
        (self.target / "a/was folder/deep").mkdir(parents=True)
        (self.target / "a/was folder/deep/mine").write_bytes(b"mine")
        (self.target / "a/was file").write_bytes(b"mine")
        (self.target / "was link").symlink_to(elsewhere)
        self.addCleanup(lambda: self.assertEqual((elsewhere / "kept").read_bytes(), b"kept"))
        self.addCleanup(lambda: self.assertEqual(len(list(elsewhere.iterdir())), 1))
        return source, entry

    def test_mirror_of_another_kind(self) -> None:
        """
        Where a file is to be and a folder is, or the reverse, that is deleted with what is not
        there, and what is to be there comes after it; nothing of that is left out.
        """
        source, entry = self.of_another_kind()
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        assert progress.surplus is not None
        self.assertEqual(
            progress.surplus.paths,
            [
                "a/was file",
                "a/was folder/deep/mine",
                "a/was folder/deep/",
                "a/was folder/",
                "was link",
            ],
        )
        self.assertEqual((progress.surplus.deleted, progress.outcome.left_out), (5, []))
        outcome = progress.outcome
        self.assertEqual((outcome.files, outcome.folders, progress.done), (5, 4, 5))
        self.assertEqual(self.content(), self.content(self.shelf.folder))
        for name in ("a", "a/was file", "a/was file/deep", "was link"):
            here, there = (self.target / name).stat(), (self.shelf.folder / name).stat()
            self.assertEqual(here.st_mtime_ns, there.st_mtime_ns, name)
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        assert progress.surplus is not None
        self.assertEqual((progress.outcome.unchanged, progress.surplus.count), (5, 0))
        source.leave()

    def test_mirror_of_another_kind_that_is_not_whole(self) -> None:
        """
        If anything else is left out, what is in the way stays as well, and each file that has no
        place is told of. So it is where nothing is to be deleted.
        """
        source, entry = self.of_another_kind()
        (self.target / "Z").write_bytes(b"mine")
        for beyond in (Beyond.DELETE, Beyond.COUNT):
            told: dict[str, str] = {}
            fetch = self.fetching([source], left_out=told.__setitem__)
            progress = self.fetch([source], entry, Existing.REPLACE, fetch=fetch, beyond=beyond)
            assert progress.surplus is not None
            self.assertEqual((progress.surplus.deleted, progress.surplus.count), (0, 6))
            self.assertEqual(
                sorted(told),
                [
                    "a/was file/",
                    "a/was file/deep/",
                    "a/was file/deep/one",
                    "a/was file/large",
                    "a/was folder",
                    "was link/",
                    "was link/two",
                    "z",
                ],
            )
            self.assertEqual(progress.outcome.left_out_count, 8)
            self.assertEqual(progress.outcome.left_out_within, 4)
            self.assertEqual(sorted(self.content()), ["Z", "a/was file", "a/was folder/deep/mine"])
            self.assertTrue((self.target / "was link").is_symlink())
        source.leave()

    def test_mirror_of_another_kind_that_stays(self) -> None:
        """What must not be deleted stays in the way, and what is to be there is left out."""
        source, entry = self.of_another_kind()
        (self.target / "a/was folder/.flow512-x.part").touch()
        fetch = self.fetching([source], is_wanted=lambda item: item.path != "was link")
        progress = self.fetch([source], entry, Existing.REPLACE, fetch=fetch, beyond=Beyond.DELETE)
        self.assertEqual(
            [path for path, _ in progress.outcome.left_out], ["a/was folder", "was link/"]
        )
        self.assertEqual(progress.outcome.left_out_within, 1)
        self.assertEqual(
            sorted(self.content()),
            ["a/was file/deep/one", "a/was file/large", "a/was folder/.flow512-x.part", "z"],
        )
        self.assertTrue((self.target / "was link").is_symlink())
        source.leave()

    def test_mirror_that_is_not_whole(self) -> None:
        """As long as anything is left out, nothing is deleted; a file that is not hashed yet is."""
        source, _ = self.mirrored()
        (self.shelf.folder / "a/one").write_bytes(b"changed")
        (self.shelf.folder / "new").write_bytes(b"new")
        before = self.content()
        entry = self.network.result(source.stat("/"))
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        assert progress.surplus is not None
        self.assertEqual((progress.surplus.count, progress.surplus.deleted), (3, 0))
        self.assertEqual([path for path, _ in progress.outcome.left_out], ["a/one", "new"])
        self.assertEqual(self.content(), before)
        self.shelf.stat("a/one")
        self.shelf.stat("new")
        entry = self.network.result(source.stat("/"))
        progress = self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        self.assertEqual(sorted(self.content()), ["a/one", "a/two", "new", "three"])
        source.leave()

    def test_mirror_that_fails(self) -> None:
        """When the source is gone before all has come, nothing is deleted."""
        source, _ = self.mirrored()
        self.put("four", 50)
        source, entry = self.asked()

        def gone(roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink) -> Deferred[None]:
            return fail(PeerLost("It went away."))

        source.bundle = gone  # type: ignore[method-assign]  # it goes away
        with self.assertRaises(PeerLost):
            self.fetch([source], entry, Existing.REPLACE, beyond=Beyond.DELETE)
        self.assertIn("a/mine", self.content())
        self.assertIn("more/mine", self.content())

    def test_mirror_that_is_stopped(self) -> None:
        """Stopped before the deleting begins, nothing is deleted, though a worker is at it."""
        source, entry = self.mirrored()
        held: list[Callable[[], None]] = []
        run_blocking = self.here.run_blocking

        def slowly(work: Callable[..., object], *args: object) -> Deferred[object]:
            if work.__name__ != Mirror.compare.__name__:
                return run_blocking(work, *args)
            result: Deferred[object] = Deferred()
            held.append(lambda: run_blocking(work, *args).chainDeferred(result))
            return result

        fetch = self.fetching([source])
        fetch._run_blocking = slowly  # type: ignore[assignment]  # a worker that takes its time
        fetching = Deferred.fromCoroutine(
            fetch.fetch(entry, str(self.target), Existing.REPLACE, Beyond.DELETE)
        )
        self.network.run_until(lambda: bool(held))
        fetching.cancel()
        held[0]()
        self.network.run(5.0)
        self.failureResultOf(fetching, CancelledError)
        self.assertIn("more/mine", self.content())
        source.leave()

    def test_not_wanted(self) -> None:
        """What the user does not want is neither fetched nor counted."""
        for name in ("a/one", "a/two", "b/one"):
            self.put(name, 50)
        source, entry = self.asked()
        fetch = self.fetching([source], is_wanted=lambda item: not item.path.startswith("a/"))
        progress = self.fetch([source], entry, fetch=fetch)
        self.assertEqual(list(self.content()), ["b/one"])
        self.assertFalse((self.target / "a").exists())
        self.assertEqual(progress.outcome.files, 1)
        source.leave()

    def test_gone_meanwhile(self) -> None:
        """A file that is gone since the manifest was made is left out; the others come."""
        for name in ("one", "two", "three"):
            self.put(name, 50)
        source, entry = self.asked()
        (self.shelf.folder / "two").unlink()
        fetch = self.fetching([source])

        async def cannot(item: Item) -> int:
            raise NotFound("It is not here.")

        fetch._fetch_large = cannot
        progress = self.fetch([source], entry, fetch=fetch)
        self.assertEqual(sorted(self.content()), ["one", "three"])
        self.assertEqual(progress.outcome.left_out, [("two", "It is not here.")])
        source.leave()

    def test_source_lost(self) -> None:
        """A source that goes away is missed by nobody while there is another."""
        for number in range(900):
            self.put(f"{number}", 50)
        one, entry = self.asked()
        other, _ = self.asked()
        told: list[int] = []

        def leave(progress: Progress) -> None:
            if progress.done and not told:
                told.append(progress.done)
                other.connection.abortConnection()

        progress = self.fetch([one, other], entry, fetch=self.fetching([one, other], told=leave))
        self.assertEqual(progress.done, 900)
        self.assertEqual(len(self.content()), 900)
        one.leave()

    def test_liar(self) -> None:
        """Of a file that is another than asked for nothing is kept; without others, it fails."""
        for number in range(5):
            self.put(f"{number}", 50)
        source, entry = self.asked()
        self.shelf.read_hook = lambda at, data: b"x" * 50 if len(data) == 50 else data
        with self.assertRaises(BadDigest):
            self.fetch([source], entry)
        self.assertEqual(self.content(), {})
        why = "The source sent another file than the one asked for."
        self.assertEqual(self.blamed, [(source, why)])
        source.leave()

    def test_one_of_two_lies(self) -> None:
        """What one source sends wrong comes from the other."""
        for number in range(900):
            self.put(f"{number}", 50)
        one, entry = self.asked()
        other, _ = self.asked()
        honest = one.bundle

        def lie(roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink) -> Deferred[None]:
            lies = [memoryview(b"lie")] * len(roots)
            return honest(roots, sizes, lambda first, got: sink(first, lies[: len(got)]))

        one.bundle = lie  # type: ignore[method-assign]  # a liar
        progress = self.fetch([one, other], entry)
        self.assertEqual((progress.done, len(self.content())), (900, 900))
        self.assertEqual([source for source, _ in self.blamed], [one])
        other.leave()

    def test_silent(self) -> None:
        """A source that answers pings and nothing else is given up."""
        self.put("one", 50)
        source, entry = self.asked()
        asked: list[Deferred[None]] = []

        def never(roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink) -> Deferred[None]:
            asked.append(Deferred())
            return asked[-1]

        source.bundle = never  # type: ignore[method-assign]  # it is silent
        fetching = Deferred.fromCoroutine(
            self.fetching([source]).fetch(entry, str(self.target), Existing.KEEP)
        )
        self.network.run(2 * source.patience.silence - 1)
        self.assertNoResult(fetching)
        self.network.run(2)
        self.failureResultOf(fetching, TimedOut)
        self.assertEqual(len(asked), 1)
        source.leave()

    def test_silent_to_several(self) -> None:
        """Why a source was given up is told, though other files were asked of it, too."""
        for number in range(900):
            self.put(f"{number}", 50)
        source, entry = self.asked()
        source.bundle = lambda roots, sizes, sink: Deferred()  # type: ignore[method-assign]  # it is silent
        fetching = Deferred.fromCoroutine(
            self.fetching([source]).fetch(entry, str(self.target), Existing.KEEP)
        )
        self.network.run(2 * source.patience.silence + 1)
        self.failureResultOf(fetching, TimedOut)
        source.leave()

    def busy(self, times: float) -> tuple[SourceProtocol, Entry]:
        """A source that has no time for so many of the questions that come after the first."""
        for number in range(900):
            self.put(f"{number}", 50)
        source, entry = self.asked()
        bundle = source.bundle
        asked: list[Sequence[bytes]] = []

        def seldom(
            roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink
        ) -> Deferred[None]:
            asked.append(roots)
            if 1 < len(asked) <= 1 + times:
                return fail(Busy("Over a limit.", 1.0))
            return bundle(roots, sizes, sink)

        source.bundle = seldom  # type: ignore[method-assign]  # it is busy
        return source, entry

    def test_busy(self) -> None:
        """A source that is busy for a while is waited for."""
        source, entry = self.busy(times=20)
        self.assertEqual(self.fetch([source], entry).done, 900)
        source.leave()

    def test_busy_for_good(self) -> None:
        """One that has no time for minutes is given up, and it is said why."""
        source, entry = self.busy(times=inf)
        fetching = Deferred.fromCoroutine(
            self.fetching([source]).fetch(entry, str(self.target), Existing.KEEP)
        )
        self.network.run(BUSY_FOR + 2)
        self.failureResultOf(fetching, Busy)
        source.leave()

    def test_stopped_while_the_folder_is_made(self) -> None:
        """The folder is closed again that a worker made meanwhile."""
        workers = HandFired()
        before = len(os.listdir("/dev/fd"))
        fetch = FolderFetch(FolderSources({}, self.here.reactor), workers.run_blocking, never_large)
        fetching = Deferred.fromCoroutine(
            fetch.fetch(Entry("/", 10, 0, bytes(32)), str(self.target), Existing.KEEP)
        )
        fetching.cancel()
        workers.do_all()
        self.failureResultOf(fetching, CancelledError)
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_stopped_while_a_worker_writes(self) -> None:
        """Nothing is closed before the worker is through that may write by it."""
        self.put("one", 50)
        source, entry = self.asked()
        held: list[Callable[[], None]] = []
        run_blocking = self.here.run_blocking

        def slowly(work: Callable[..., object], *args: object) -> Deferred[object]:
            if work.__name__ != "_put":
                return run_blocking(work, *args)
            result: Deferred[object] = Deferred()
            held.append(lambda: run_blocking(work, *args).chainDeferred(result))
            return result

        fetch = self.fetching([source])
        fetch._run_blocking = slowly  # type: ignore[assignment]  # a worker that takes its time
        fetching = Deferred.fromCoroutine(fetch.fetch(entry, str(self.target), Existing.KEEP))
        self.network.run_until(lambda: bool(held))
        fetching.cancel()
        self.network.run(5.0)
        self.assertNoResult(fetching)
        held[0]()
        self.network.run(5.0)
        self.failureResultOf(fetching, CancelledError)
        self.assertEqual(list(self.content()), ["one"])
        source.leave()

    def test_stopped_while_it_comes(self) -> None:
        """The sources are told to send no more of what was asked for: list and files."""
        self.put("one", 50)
        for name in ("read", "bundle"):
            source, entry = self.asked()
            told_off: list[Deferred[None]] = []

            def never(*_: object, told_off: list[Deferred[None]] = told_off) -> Deferred[None]:
                return Deferred(told_off.append)

            setattr(source, name, never)
            fetching = Deferred.fromCoroutine(
                self.fetching([source]).fetch(entry, str(self.target), Existing.KEEP)
            )
            self.network.run(2.0)
            self.assertEqual(told_off, [])
            fetching.cancel()
            self.assertEqual(len(told_off), 1, name)
            self.network.run(5.0)
            self.failureResultOf(fetching, CancelledError)
            source.leave()

    def test_all_lost(self) -> None:
        """Without any source left it fails, and says so; the next time goes on."""
        for number in range(900):
            self.put(f"{number}", 50)
        source, entry = self.asked()
        bundle = source.bundle
        asked: list[Deferred[None]] = []

        def once(roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink) -> Deferred[None]:
            asked.append(bundle(roots, sizes, sink) if not asked else Deferred())
            return asked[-1]

        source.bundle = once  # type: ignore[method-assign]  # only the first is answered

        def leave(progress: Progress) -> None:
            if progress.done and source.is_open:
                source.connection.abortConnection()
                for each in asked[1:]:
                    each.errback(PeerLost("It went away."))

        with self.assertRaises(PeerLost):
            self.fetch([source], entry, fetch=self.fetching([source], told=leave))
        there = len(self.content())
        self.assertGreater(there, 0)
        source, entry = self.asked()
        progress = self.fetch([source], entry)
        self.assertEqual((progress.outcome.unchanged, progress.done), (there, 900 - there))
        source.leave()

    def test_disk_full(self) -> None:
        """A full disk ends it, with the true cause."""
        self.put("one", 50)
        source, entry = self.asked()

        def full(*args: object) -> None:
            raise DiskFull("The disk is full.")

        self.patch(Placing, "put", full)
        with self.assertRaises(DiskFull):
            self.fetch([source], entry)
        self.assertEqual(self.content(), {})
        source.leave()

    def test_disk_full_for_a_folder(self) -> None:
        """So it is if it is a folder that cannot be made."""
        for number in range(3):
            self.put(f"a{number}/one", 50)
        source, entry = self.asked()

        def full(*args: object, **more: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        self.patch(Disk, "mkdir", full)
        with self.assertRaises(DiskFull):
            self.fetch([source], entry)
        source.leave()

    def test_left_out(self) -> None:
        """Each that is left out is told with the reason, what is in a folder that is with it."""
        for name in ("a/deep/one", "a/two", "three"):
            self.put(name, 50)
        (self.target / "a").write_bytes(b"mine")
        source, entry = self.asked()
        said: list[tuple[str, str]] = []
        fetch = self.fetching([source], left_out=lambda *what: said.append(what))
        progress = self.fetch([source], entry, fetch=fetch)
        self.assertEqual([path for path, _ in said], ["a/", "a/deep/", "a/deep/one", "a/two"])
        self.assertNotEqual(said[0][1], said[1][1])
        outcome = progress.outcome
        self.assertEqual((outcome.left_out_count, outcome.left_out_within), (4, 3))
        self.assertEqual(outcome.left_out, said[:1])
        self.assertEqual(sorted(self.content()), ["a", "three"])
        source.leave()

    def test_folders_that_nobody_needs(self) -> None:
        """A folder is made if it is wanted, or something in it; else it is not, and not counted."""
        for name in ("a/deep/one", "a/two", "b/deep/two"):
            self.put(name, 50)
        (self.shelf.folder / "c").mkdir()
        source, entry = self.asked()
        fetch = self.fetching([source], is_wanted=lambda item: item.path.endswith("one"))
        progress = self.fetch([source], entry, fetch=fetch)
        there = [str(path.relative_to(self.target)) for path in self.target.rglob("*")]
        self.assertEqual(sorted(there), ["a", "a/deep", "a/deep/one"])
        self.assertEqual((progress.outcome.folders, progress.outcome.files), (2, 1))
        fetch = self.fetching([source], is_wanted=lambda item: item.path == "nothing")
        with self.assertRaises(NotFound):
            self.fetch([source], entry, fetch=fetch, beyond=Beyond.DELETE)
        self.assertTrue((self.target / "a/deep/one").exists())
        source.leave()

    def test_manifest_in_workers(self) -> None:
        """The manifest is taken apart, and what is wanted of it chosen, by workers alone."""
        self.put("one", 50)
        source, entry = self.asked()
        working: list[bool] = []
        asked: list[bool] = []
        run_blocking = self.here.run_blocking

        def watched(work: Callable[..., object], *args: object) -> Deferred[object]:
            def run() -> object:
                working.append(True)
                try:
                    return work(*args)
                finally:
                    working.pop()

            return run_blocking(run)

        def is_wanted(item: Item) -> bool:
            asked.append(bool(working))
            return True

        fetch = self.fetching([source], is_wanted=is_wanted)
        fetch._run_blocking = watched  # type: ignore[assignment]  # it is watched
        self.fetch([source], entry, fetch=fetch)
        self.assertEqual(asked, [True])
        source.leave()

    def test_no_manifest(self) -> None:
        """A file is no folder, and what is said to be one and is not makes nothing."""
        entry, _ = self.put("one", 5000)
        source = self.source()
        with self.assertRaises(Flow512Error) as caught:
            self.fetch([source], entry)
        self.assertIn("no manifest", str(caught.exception))
        self.assertEqual(self.content(), {})
        source.leave()
