"""Tests for L{flow512.transfer.mending}, and of the PIECES that it lives on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.mending import piece_md5s
from flow512.content.suspect import CopyingDisk, Damage, SuspectFile
from flow512.errors import (
    BadDigest,
    BadFrame,
    ContentChanged,
    DiskFull,
    Flow512Error,
    NotFound,
    PeerLost,
    Refusal,
    StateInUse,
    TimedOut,
    Unsupported,
)
from flow512.link.node_id import format_node_id
from flow512.transfer.blocks import Sink
from flow512.transfer.finding import Candidate
from flow512.transfer.mending import LANES, Mended, Mender
from flow512.transfer.source import SourceProtocol
from flow512.units import BLOCK, DIGEST, DIGESTS_PER_PAGE, PIECE, PIECES_PER_BLOCK
from flow512.wire.holding import PiecesRequest
from flow512.wire.messages import Entry, Kind
from tests.unit.transfer_ends import TransferTestCase, ask


class Odd:
    """
    A source that behaves otherwise in what a test replaces, and counts the rest.

    @ivar asked: the method and the block or piece of everything that was asked for.
    """

    def __init__(self, source: SourceProtocol) -> None:
        self.source = source
        self.buffers = source.buffers
        self.patience = source.patience
        self.is_held_back = False
        self.asked: list[tuple[str, int]] = []
        self.pieces_hook: Callable[[int, Deferred[bytes]], Deferred[bytes]] = lambda _, told: told
        self.read_hook: Callable[[int, bytes], bytes] = lambda _, data: data

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        self.asked.append(("page", index))
        return self.source.page(root, level, index)

    def checksum(self, root: bytes) -> Deferred[bytes]:
        raise AssertionError("a repair has no use for it")

    def pieces(self, root: bytes, block: int) -> Deferred[bytes]:
        self.asked.append(("pieces", block))
        return self.pieces_hook(block, self.source.pieces(root, block))

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        self.asked.append(("read", first))

        def came(first: int, data: bytes | bytearray) -> None:
            sink(first, self.read_hook(first, bytes(data)))

        return self.source.read(root, size, first, count, run, came)

    def leave(self) -> None:
        self.source.leave()


@dataclass
class Has:
    """What a source says."""

    source: Odd
    entry: Entry
    candidate: Candidate = field(default_factory=lambda: Candidate("10.0.0.1"))


class MendingCase(TransferTestCase):
    """A file that is shared there, and a damaged one here."""

    SIZE = 3 * BLOCK + 5 * PIECE + 100

    def setUp(self) -> None:
        super().setUp()
        self.entry, self.content = self.put("film.mkv", self.SIZE)
        self.path = self.folder / "film.mkv"
        self.odd = Odd(self.source())
        self.damages: list[Damage] = []
        self.checked: list[int] = []
        self.others: list[Has] = []
        self.blamed: list[tuple[Candidate, str]] = []
        self.mender = self.made(self.here.run_blocking)

    def made(self, run_blocking: Callable[..., Deferred[Any]]) -> Mender:
        """Make the mender."""
        return Mender(
            self.here.reactor,
            run_blocking,
            run_blocking,
            lambda who, reason: self.blamed.append((who, str(reason))),
        )

    def damage(self, *pieces: int) -> bytes:
        """Let the file here have damaged pieces."""
        wrong = bytearray(self.content)
        for piece in pieces:
            wrong[piece * PIECE] ^= 1
        self.path.write_bytes(wrong)
        return bytes(wrong)

    def begin(self, entry: Entry | None = None, **more: Any) -> Deferred[Mended]:
        """Begin to repair it."""
        return Deferred.fromCoroutine(
            self.mender.repair(
                [Has(self.odd, entry or self.entry), *self.others],
                str(self.path),
                self.checked.append,
                self.damages.append,
                **more,
            )
        )

    def repair(self, entry: Entry | None = None, **more: Any) -> Mended:
        """Repair it, and find it right."""
        mended: Mended = self.network.result(self.begin(entry, **more))
        self.assertEqual(self.path.read_bytes(), self.content)
        self.assertEqual(os.listdir(self.folder), ["film.mkv"])
        return mended

    def assert_left(self, content: bytes) -> None:
        """The file is as it was, and nothing is busy with it."""
        self.assertEqual(self.path.read_bytes(), content)
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue
            self.assertFalse(target.startswith(str(self.folder.resolve())), target)

    def reads(self) -> list[int]:
        """The first piece of every run that was asked for."""
        return sorted(first for what, first in self.odd.asked if what == "read")


class LookTests(MendingCase):
    """L{Mender.look}."""

    def look(self) -> Damage:
        """Look at the file."""
        has = [Has(self.odd, self.entry)]
        looking = Deferred.fromCoroutine(self.mender.look(has, str(self.path)))
        damage: Damage = self.network.result(looking)
        return damage

    def test_only_says(self) -> None:
        """The damaged blocks are named; nothing is fetched but pages, or written."""
        wrong = self.damage(PIECES_PER_BLOCK, 3 * PIECES_PER_BLOCK + 5)
        self.assertEqual(self.look(), Damage(self.SIZE, self.SIZE, ((1, 1), (3, 1))))
        self.assertEqual(self.odd.asked, [("page", 0)])
        self.assert_left(wrong)
        self.assertEqual(os.listdir(self.folder), ["film.mkv"])

    def test_missing(self) -> None:
        """A file that is not there is said to be so."""
        with self.assertRaises(NotFound):
            self.look()


class ManyPagesTests(MendingCase):
    """A file whose digests fill more than one page, nearly all of it hole."""

    def setUp(self) -> None:
        super().setUp()
        size = DIGESTS_PER_PAGE * BLOCK + 1
        there = self.shelf.folder / "sparse"
        for path in (there, self.path):
            path.touch()
            os.truncate(path, size)
        with open(self.path, "r+b") as file:
            file.seek(size - 1)
            file.write(b"x")
        self.entry = self.shelf.stat("sparse")
        self.other = Odd(self.source())

    def look(self) -> Damage:
        """Look at it, with two sources."""
        has = [Has(self.odd, self.entry), Has(self.other, self.entry, Candidate("10.0.0.2"))]
        looking = Deferred.fromCoroutine(self.mender.look(has, str(self.path)))
        damage: Damage = self.network.result(looking)
        return damage

    def test_all_pages(self) -> None:
        """Each page is asked for when it is needed, and only damage is told of."""
        self.assertEqual(self.look().runs, ((DIGESTS_PER_PAGE, 1),))
        self.assertEqual(self.odd.asked, [("page", 0), ("page", 0), ("page", 1)])
        self.assertEqual(self.other.asked, [])

    def test_wrong_page(self) -> None:
        """Who lies about a later page is blamed, and the next one is asked for it."""
        page = self.odd.page

        def lie(root: bytes, level: int, index: int) -> Deferred[bytes]:
            told = page(root, level, index)
            return told if not index else told.addCallback(lambda data: bytes(len(data)))

        self.odd.page = lie  # type: ignore[method-assign]  # a liar
        self.assertEqual(self.look().runs, ((DIGESTS_PER_PAGE, 1),))
        self.assertEqual([who for who, _ in self.blamed], [Candidate("10.0.0.1")])
        self.assertEqual(self.other.asked, [("page", 1)])


class RepairTests(MendingCase):
    """L{Mender.repair}."""

    def test_intact(self) -> None:
        """A file that is right is left alone, and costs its digests only."""
        self.damage()
        before = self.path.stat()
        mended = self.repair()
        self.assertTrue(mended.damage.is_none)
        self.assertEqual((mended.pieces, mended.fetched), (0, 4 * DIGEST))
        self.assertEqual(self.path.stat(), before)
        self.assertEqual(self.checked, [self.SIZE])

    def test_damaged_pieces(self) -> None:
        """Only the damaged pieces come again, neighbours together; a short last one, too."""
        last = 3 * PIECES_PER_BLOCK + 5
        self.damage(7, 8, 9, 100, PIECES_PER_BLOCK + 3, last)
        mended = self.repair()
        self.assertEqual(self.damages, [mended.damage])
        self.assertEqual(mended.damage.runs, ((0, 2), (3, 1)))
        self.assertEqual(self.reads(), [7, 100, PIECES_PER_BLOCK + 3, last])
        self.assertEqual((mended.pieces, mended.resumed), (6, 0))
        md5s = 16 * (2 * PIECES_PER_BLOCK + 6)
        self.assertEqual(mended.fetched, 4 * DIGEST + md5s + 5 * PIECE + 100)
        self.assertEqual(self.path.stat().st_mtime_ns, self.entry.mtime)

    def test_truncated(self) -> None:
        """What was cut off is fetched; of a block that was cut, only what is not there."""
        self.path.write_bytes(self.content[: BLOCK + 3 * PIECE + 1])
        mended = self.repair()
        self.assertEqual(mended.damage, Damage(self.SIZE, BLOCK + 3 * PIECE + 1, ((1, 3),)))
        first = PIECES_PER_BLOCK
        self.assertEqual(self.reads(), [first + 3, 2 * first, 3 * first])
        self.assertEqual([each for each in self.odd.asked if each[0] == "pieces"], [("pieces", 1)])

    def test_emptied(self) -> None:
        """Even a file of which nothing is left is repaired."""
        self.path.write_bytes(b"")
        self.assertEqual(self.repair().pieces, 3 * PIECES_PER_BLOCK + 6)

    def test_grown(self) -> None:
        """What is too much is cut off, and no piece has to be fetched for that."""
        self.path.write_bytes(self.content + b"more")
        mended = self.repair()
        self.assertEqual(mended.damage, Damage(self.SIZE, self.SIZE + 4, ()))
        self.assertEqual(mended.pieces, 0)

    def test_should_be_empty(self) -> None:
        """So it is with a file that should be empty."""
        entry, self.content = self.put("empty", 0)
        self.path.write_bytes(b"not empty")
        self.assertEqual(self.repair(entry).fetched, 0)

    def test_many_blocks(self) -> None:
        """More damaged blocks than are mended at a time are mended all the same."""
        blocks = 2 * LANES + 3
        entry, self.content = self.put("long", blocks * BLOCK)
        self.damage(*(block * PIECES_PER_BLOCK + block for block in range(blocks)))
        self.assertEqual(self.repair(entry).pieces, blocks)

    def test_every_other_piece(self) -> None:
        """A block in which every other piece is damaged is no more than a source allows."""
        self.damage(*range(0, 3 * PIECES_PER_BLOCK, 2))
        self.assertEqual(self.repair().pieces, 3 * PIECES_PER_BLOCK // 2)

    def test_lying_md5s(self) -> None:
        """MD5s that lead astray, and such that cannot be, cost the block, and no more."""
        ours = self.damage(3)
        lies = [
            piece_md5s(ours[:BLOCK]),
            piece_md5s(self.content[:BLOCK])[:-16],
            b"\0" * 16 + piece_md5s(ours[PIECE:BLOCK]),
        ]
        for lie in lies:
            self.damage(3)
            self.odd.pieces_hook = lambda block, told, lie=lie: told.addCallback(lambda _: lie)
            self.odd.asked.clear()
            mended = self.repair()
            self.assertEqual(self.reads()[-1], 0)
            self.assertLess(mended.fetched, BLOCK + 9 * 1024 + PIECE)

    def test_no_md5s(self) -> None:
        """A source that cannot tell the MD5s is asked for the block."""
        for error in (NotFound("no"), Unsupported("no")):
            self.damage(3)

            def refuse(
                block: int, told: Deferred[bytes], error: Flow512Error = error
            ) -> Deferred[bytes]:
                return told.addCallback(lambda _: fail(error))

            self.odd.pieces_hook = refuse
            self.assertEqual(self.repair().pieces, PIECES_PER_BLOCK)

    def test_liar(self) -> None:
        """A source that sends wrong pieces is found out; the file stays as it was."""
        wrong = self.damage(3, PIECES_PER_BLOCK)
        self.odd.read_hook = lambda first, data: bytes(len(data))
        with self.assertRaisesRegex(BadDigest, "a damaged block"):
            self.network.result(self.begin())
        self.assert_left(wrong)

    def test_wrong_size(self) -> None:
        """A lie about the size is found out before anything is asked for."""
        wrong = self.damage(3)
        lie = Entry(self.entry.path, self.SIZE - 1, 0, self.entry.root)
        with self.assertRaises(BadDigest):
            self.network.result(self.begin(lie))
        self.assert_left(wrong)
        self.assertEqual(self.reads(), [])

    def test_source_goes_away(self) -> None:
        """A source that goes away midway leaves the file as it was; the next one goes on."""
        wrong = self.damage(3, PIECES_PER_BLOCK, 2 * PIECES_PER_BLOCK)

        def vanish(block: int, told: Deferred[bytes]) -> Deferred[bytes]:
            if block == 2:
                self.network.cut(self.there, self.here)
            return told

        self.odd.pieces_hook = vanish
        self.there.bandwidth = 20_000
        with self.assertRaises((PeerLost, TimedOut)):
            self.network.result(self.begin(), 600.0)
        self.assert_left(wrong)
        self.network.heal(self.there, self.here)
        self.odd = Odd(self.source())
        self.repair()

    def test_goes_on(self) -> None:
        """What was mended before it broke off is not fetched again."""
        wrong = self.damage(3, 2 * PIECES_PER_BLOCK)
        never: Deferred[bytes] = Deferred()
        self.odd.pieces_hook = lambda block, told: never if block == 2 else told
        repairing = self.begin()
        self.network.run(10.0)
        repairing.cancel()
        self.network.run(1.0)
        self.failureResultOf(repairing)
        self.assert_left(wrong)
        self.odd.pieces_hook = lambda _, told: told
        self.odd.asked.clear()
        mended = self.repair()
        self.assertEqual((mended.resumed, mended.pieces), (1, 1))
        self.assertEqual(self.reads(), [2 * PIECES_PER_BLOCK])

    def test_silent_source(self) -> None:
        """A source that is there and answers nothing is given up; one that is slow is not."""
        wrong = self.damage(3)
        self.odd.pieces_hook = lambda block, told: Deferred()
        with self.assertRaisesRegex(TimedOut, "sends nothing"):
            self.network.result(self.begin(), 1000.0)
        self.assert_left(wrong)
        self.odd.pieces_hook = lambda block, told: told
        self.there.bandwidth = 500
        self.network.result(self.begin(), 10_000.0)
        self.assertEqual(self.path.read_bytes(), self.content)

    def test_refusal(self) -> None:
        """Why the source refuses is said."""
        wrong = self.damage(3)
        self.odd.pieces_hook = lambda block, told: told.addCallback(lambda _: fail(Refusal("no")))
        with self.assertRaisesRegex(Refusal, "no"):
            self.network.result(self.begin())
        self.assert_left(wrong)

    def test_disk_full(self) -> None:
        """A full disk is named as the cause, and leaves the file as it was."""

        class Full(CopyingDisk):
            def write_all(self, *_: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        wrong = self.damage(3, 4)
        with self.assertRaises(DiskFull):
            self.network.result(self.begin(suspect=SuspectFile(str(self.path), Full())))
        self.assert_left(wrong)
        self.repair()

    def test_written_meanwhile(self) -> None:
        """A file that somebody writes to meanwhile is not replaced."""
        self.damage(3)

        def write(block: int, told: Deferred[bytes]) -> Deferred[bytes]:
            with self.path.open("ab") as file:
                file.write(b"more")
            return told

        self.odd.pieces_hook = write
        with self.assertRaisesRegex(StateInUse, "was changed while"):
            self.network.result(self.begin())
        self.assertTrue(self.path.read_bytes().endswith(b"more"))

    def test_cancelled_while_a_worker_is_busy(self) -> None:
        """Nothing is closed under a worker's hands; when it is done, all is."""
        wrong = self.damage(3)
        busy: list[Deferred[Any]] = []

        def run_late(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            if function.__name__ == "damaged" and not busy:
                busy.append(Deferred())
                return busy[0].addCallback(lambda _: function(*arguments))
            return succeed(None).addCallback(lambda _: function(*arguments))

        self.mender = self.made(run_late)
        repairing = self.begin()
        self.network.run_until(lambda: busy)
        repairing.cancel()
        repairing.cancel()
        self.assertNoResult(repairing)
        busy[0].callback(None)
        self.failureResultOf(repairing)
        self.assert_left(wrong)


class SeveralTests(MendingCase):
    """Several sources, of which some are of no use."""

    SIZE = 40 * BLOCK
    LIAR = Candidate("10.0.0.1")

    def setUp(self) -> None:
        super().setUp()
        self.odds = [self.odd, Odd(self.source()), Odd(self.source())]
        self.others = [
            Has(odd, self.entry, Candidate(f"10.0.0.{number}"))
            for number, odd in enumerate(self.odds[1:], 2)
        ]
        self.wrong = self.damage(*(block * PIECES_PER_BLOCK + 7 for block in range(40)))

    def asked(self, odd: Odd, what: str) -> int:
        """How often a source was asked for that."""
        return sum(each == what for each, _ in odd.asked)

    def all_blamed(self) -> set[Candidate]:
        """Who was."""
        self.assertEqual(len(self.blamed), len({who for who, _ in self.blamed}))
        return {who for who, _ in self.blamed}

    def test_in_turn(self) -> None:
        """All take part, and no more is fetched than from one."""
        mended = self.repair()
        self.assertEqual(mended.pieces, 40)
        self.assertEqual([self.asked(odd, "read") for odd in self.odds], [13, 14, 13])
        self.assertEqual(sum(self.asked(odd, "page") for odd in self.odds), 1)
        self.assertEqual(self.blamed, [])

    def test_wrong_pieces(self) -> None:
        """Who sends wrong pieces is blamed and left out; only those come again, of another."""
        self.odd.read_hook = lambda first, data: bytes(len(data))
        mended = self.repair()
        self.assertEqual(self.all_blamed(), {self.LIAR})
        self.assertIn("a damaged block", self.blamed[0][1])
        lies = self.asked(self.odd, "read")
        self.assertTrue(0 < lies < 14, lies)
        # What the liar was asked for when it was found out may come once more, and nothing else.
        self.assertLessEqual(mended.pieces, 40 + lies)
        self.assertLess(mended.fetched, 40 * DIGEST + (40 + lies) * (8192 + PIECE) + 1)

    def test_wrong_md5s(self) -> None:
        """Who lies about the MD5s costs no more than the pieces that it sent in vain."""

        def lie(block: int, told: Deferred[bytes]) -> Deferred[bytes]:
            mine = piece_md5s(self.wrong[block * BLOCK : (block + 1) * BLOCK])
            return told.addCallback(lambda _: bytes(16) + mine[16:])

        self.odd.pieces_hook = lie
        mended = self.repair()
        self.assertEqual(self.all_blamed(), {self.LIAR})
        self.assertLessEqual(mended.pieces, 40 + self.asked(self.odd, "read"))
        self.assertLess(mended.pieces, 60)

    def test_wrong_page(self) -> None:
        """Who lies about digests, or the size, is blamed; the next one is asked."""
        page = self.odd.page
        self.odd.page = lambda *which: page(*which).addCallback(bytes.swapcase)  # type: ignore[method-assign]  # a liar
        self.others[0].entry = Entry(self.entry.path, self.SIZE + 1, 0, self.entry.root)
        mended = self.repair()
        self.assertEqual(mended.pieces, 40)
        self.assertEqual(self.all_blamed(), {self.LIAR, self.others[0].candidate})
        self.assertEqual([self.asked(odd, "read") for odd in self.odds], [0, 0, 40])

    def test_wrong_size_there(self) -> None:
        """The one who lies about the size is found out also if the others say the truth later."""
        lie = Entry(self.entry.path, self.SIZE - 1, 0, self.entry.root)
        self.repair(lie)
        self.assertEqual(self.all_blamed(), {self.LIAR})
        self.assertEqual(self.path.stat().st_mtime_ns, self.entry.mtime)
        self.others[1].entry = lie
        self.damage(3)
        self.blamed.clear()
        self.repair()
        self.assertEqual(
            [why for _, why in self.blamed], ["The source told a wrong size of the content."]
        )

    def test_refusal(self) -> None:
        """Who refuses, or goes away, is left out without blame."""
        self.odd.pieces_hook = lambda block, told: told.addCallback(lambda _: fail(Refusal("no")))
        read = self.odds[1].read

        def gone(*how: Any) -> Deferred[None]:
            self.odds[1].leave()
            return read(*how)

        self.odds[1].read = gone  # type: ignore[method-assign]  # it goes away
        self.assertEqual(self.repair().pieces, 40)
        self.assertEqual(self.blamed, [])

    def test_silent(self) -> None:
        """Who is silent is waited for once, and then left out."""
        self.odd.pieces_hook = lambda block, told: Deferred()
        start = self.network.clock.seconds()
        mended: Mended = self.network.result(self.begin(), 1000.0)
        self.assertEqual((mended.pieces, self.path.read_bytes()), (40, self.content))
        self.assertLess(self.network.clock.seconds() - start, 4 * self.odd.patience.silence + 5)
        self.assertLess(self.asked(self.odd, "pieces"), 20)
        self.assertEqual(self.asked(self.odd, "read"), 0)
        self.assertEqual(self.blamed, [])

    def test_all_lie(self) -> None:
        """If all do, each is blamed, and the file stays as it was."""
        for odd in self.odds:
            odd.read_hook = lambda first, data: bytes(len(data))
        with self.assertRaisesRegex(BadDigest, "a damaged block"):
            self.network.result(self.begin())
        self.assertEqual(len(self.all_blamed()), 3)
        self.assert_left(self.wrong)

    def test_what_tells_most(self) -> None:
        """If none is left, the reason is that which the user can do most about."""
        for odd, error in zip(
            self.odds, (NotFound("n"), ContentChanged("c"), PeerLost("p")), strict=True
        ):
            odd.page = lambda *_, error=error: fail(error)  # type: ignore[method-assign,misc]  # useless
        with self.assertRaises(ContentChanged):
            self.network.result(self.begin())


class FewBytesTests(MendingCase):
    """What a repair costs."""

    SIZE = 128 * BLOCK

    def test_scattered_damage(self) -> None:
        """A hundred damaged pieces all over a file cost a hundred times 8.5 KiB and the digests."""
        blocks = self.random.sample(range(128), 100)
        within = self.random.choices(range(PIECES_PER_BLOCK), k=100)
        self.damage(
            *(block * PIECES_PER_BLOCK + at for block, at in zip(blocks, within, strict=True))
        )
        source = self.odd.source
        received: list[int] = []
        take = source.dataReceived

        def count(data: bytes) -> None:
            received.append(len(data))
            take(data)

        self.patch(source, "dataReceived", count)
        mended = self.repair()
        self.assertEqual(mended.pieces, 100)
        self.assertEqual(mended.fetched, 100 * (PIECE + 16 * PIECES_PER_BLOCK) + 128 * DIGEST)
        # Headers come on top of that, and no more.
        self.assertTrue(mended.fetched < sum(received) < mended.fetched + 201 * 20, sum(received))


class PiecesTests(MendingCase):
    """PIECES and PIECE_DIGESTS between the two ends of a conversation."""

    def ask(self, block: int, root: bytes | None = None) -> bytes:
        """Ask for the MD5s of a block's pieces."""
        asked = self.odd.source.pieces(root or self.entry.root or b"", block)
        told: bytes = self.network.result(asked)
        return told

    def test_told(self) -> None:
        """Every block's are told, those of the short last one as well."""
        self.assertEqual(self.ask(1), piece_md5s(self.content[BLOCK : 2 * BLOCK]))
        self.assertEqual(self.ask(3), piece_md5s(self.content[3 * BLOCK :]))

    def test_no_such_block(self) -> None:
        """A block or content that is not there is refused, and the conversation goes on."""
        with self.assertRaisesRegex(Refusal, "has no block 4"):
            self.ask(4)
        with self.assertRaises(NotFound):
            self.ask(0, b"?" * 32)
        self.assertEqual(len(self.ask(0)), 16 * PIECES_PER_BLOCK)
        self.assertEqual(self.shelf.open_now, 0)

    def test_who_may_not_see_it(self) -> None:
        """Of a share that is not for whoever asks, no MD5 is told, as if it was not there."""
        (self.shelf.folder / ".flow512-allow").write_text(format_node_id(b"s" * 32))
        with self.assertRaises(NotFound):
            self.ask(0)

    def test_changed_file(self) -> None:
        """Of a file that was written to since it was hashed, no MD5 is told."""
        with (self.shelf.folder / "film.mkv").open("r+b") as file:
            file.write(b"new")
        with self.assertRaises(ContentChanged):
            self.ask(0)


class MalformedPiecesTests(SynchronousTestCase):
    """PIECE_DIGESTS that cannot be an answer."""

    def test_malformed(self) -> None:
        """A frame of another block, of no MD5, or of half of one ends the conversation."""
        for body, position in ((b"m" * 16, 8), (b"", 7), (b"m" * 24, 7)):
            source, end = ask(Clock())
            told = source.pieces(b"r" * 32, 7)
            [(request, asked)] = end.heard()
            self.assertEqual(asked, PiecesRequest(b"r" * 32, 7))
            end.say_frame(Kind.PIECE_DIGESTS, request, body, position)
            self.failureResultOf(told, BadFrame)
            self.assertTrue(end.is_closing)
            end.hang_up()

    def test_told(self) -> None:
        """The MD5s are told as they came."""
        source, end = ask(Clock())
        told = source.pieces(b"r" * 32, 7)
        [(request, _)] = end.heard()
        end.say_frame(Kind.PIECE_DIGESTS, request, b"m" * 32, 7)
        self.assertEqual(self.successResultOf(told), b"m" * 32)
        source.leave()
        end.hang_up()
