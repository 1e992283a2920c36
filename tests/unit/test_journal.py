"""
Tests for L{flow512.content.journal}.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.disk import Disk
from flow512.content.journal import (
    BOOT,
    HEADER,
    MAGIC,
    RECORD,
    RUN,
    SEAL,
    BlockSet,
    Journal,
    check_of,
    read_boot_id,
)
from flow512.units import MAX_FILE_SIZE

ROOT = bytes(range(32))
SIZE = 10**9


def members(blocks: BlockSet) -> set[int]:
    return {first + index for first, count in blocks.runs() for index in range(count)}


class BlockSets(SynchronousTestCase):
    """Sets of block numbers."""

    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=30))
    def test_is_a_set(self, runs: list[tuple[int, int]]) -> None:
        """It holds what was put in, in whatever order and however often, as the fewest runs."""
        blocks = BlockSet()
        expected: set[int] = set()
        for first, count in runs:
            blocks.add(first, count)
            expected.update(range(first, first + count))
            self.assertEqual(members(blocks), expected)
            self.assertEqual(len(blocks), len(expected))
        for block in range(80):
            self.assertEqual(block in blocks, block in expected)
        ends = [first + count for first, count in blocks.runs()]
        begins = [first for first, _ in blocks.runs()]
        self.assertTrue(all(end < begin for end, begin in zip(ends, begins[1:], strict=False)))

    @given(st.sets(st.integers(0, 60)))
    def test_gaps(self, numbers: set[int]) -> None:
        """The gaps are exactly what is not in it."""
        blocks = BlockSet()
        for number in numbers:
            blocks.add(number)
        gaps = BlockSet()
        for first, count in blocks.gaps(61):
            self.assertGreater(count, 0)
            gaps.add(first, count)
        self.assertEqual(members(gaps), set(range(61)) - numbers)

    @given(st.sets(st.integers(0, 60)), st.integers(0, 70), st.integers(1, 10))
    def test_some_runs(self, numbers: set[int], block: int, most: int) -> None:
        """The first runs from a block on are what is left of all runs."""
        blocks = BlockSet()
        for number in numbers:
            blocks.add(number)
        ends = [(max(first, block), first + count) for first, count in blocks.runs()]
        expected = [(first, end - first) for first, end in ends if first < end]
        self.assertEqual(blocks.runs_from(block, most), expected[:most])

    def test_no_blocks(self) -> None:
        """An empty file has no gap."""
        self.assertEqual(list(BlockSet().gaps(0)), [])

    def test_iterating_while_it_grows(self) -> None:
        """Whoever goes through the gaps sees them as they were when they began."""
        blocks = BlockSet()
        blocks.add(5)
        gaps = blocks.gaps(10)
        blocks.add(0, 10)
        self.assertEqual(list(gaps), [(0, 5), (6, 4)])


class BootId(SynchronousTestCase):
    """Which boot this is."""

    def test_does_not_change(self) -> None:
        """It is the same whenever it is asked for."""
        self.assertEqual(read_boot_id(), read_boot_id())

    def test_of_this_system(self) -> None:
        """Linux tells it in 36 letters; where nobody does it is empty."""
        told = read_boot_id()
        self.assertEqual(len(told), 36 if os.path.exists("/proc/sys/kernel/random/boot_id") else 0)


class Journals(SynchronousTestCase):
    """The file itself."""

    def setUp(self) -> None:
        self.fd, path = tempfile.mkstemp()
        os.unlink(path)
        self.addCleanup(os.close, self.fd)

    def open(self, boot_id: str = "boot one", root: bytes = ROOT, size: int = SIZE) -> Journal:
        return Journal(self.fd, root, size, boot_id)

    def stored(self) -> bytes:
        return os.pread(self.fd, 100_000, 0)

    def set_bytes(self, data: bytes | bytearray) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)

    def trusted(self, boot_id: str = "boot one") -> set[int]:
        return members(self.open(boot_id).trusted)

    def test_new(self) -> None:
        """An empty file vouches for nothing, and looking at it writes nothing."""
        journal = self.open()
        self.assertEqual(members(journal.trusted), set())
        self.assertFalse(journal.whole)
        self.assertEqual(self.stored(), b"")

    def test_remembers(self) -> None:
        """Within a boot it vouches for all that was recorded, also over several processes."""
        self.open().record([(0, 2), (7, 1)])
        self.open().record([(3000, 1000)])
        journal = self.open()
        self.assertEqual(members(journal.trusted), {0, 1, 7, *range(3000, 4000)})
        self.assertTrue(journal.whole)

    def test_nothing_to_record(self) -> None:
        """Nothing is written for nothing."""
        journal = self.open()
        journal.record([])
        journal.seal()
        self.assertEqual(self.stored(), b"")

    def test_after_a_power_cut(self) -> None:
        """In another boot only what was sealed counts, and what is lost is said to be."""
        journal = self.open()
        journal.record([(0, 2)])
        self.assertFalse(journal.sealed)
        journal.seal()
        self.assertTrue(journal.sealed)
        journal.record([(5, 1)])
        other = self.open("boot two")
        self.assertEqual(members(other.trusted), {0, 1})
        self.assertFalse(other.whole)

    def test_sealed_survives(self) -> None:
        """A journal that was sealed last counts whole in every later boot."""
        journal = self.open()
        journal.record([(0, 2)])
        journal.seal()
        for boot_id in ("boot two", "boot three", ""):
            other = self.open(boot_id)
            self.assertEqual(members(other.trusted), {0, 1})
            self.assertTrue(other.whole)

    def test_lost_is_lost(self) -> None:
        """What a power cut made worthless stays so, even if a seal follows in a later boot."""
        self.open().record([(0, 2)])
        other = self.open("boot two")
        other.record([(5, 1)])
        other.seal()
        for boot_id in ("boot one", "boot two", "boot three"):
            journal = self.open(boot_id)
            self.assertEqual(members(journal.trusted), {5})
            self.assertFalse(journal.whole, "what was lost may be on the disk all the same")
        journal.record([(6, 1)])
        self.assertFalse(self.open("boot three").whole)

    def test_unknown_boot(self) -> None:
        """Where the system does not tell its boots apart, only what was sealed counts."""
        journal = self.open("")
        journal.record([(0, 1)])
        journal.seal()
        journal.record([(1, 1)])
        self.assertEqual(self.trusted(""), {0})

    def test_another_file(self) -> None:
        """A journal of another root or size counts for nothing."""
        self.open().record([(0, 2)])
        data = self.stored()
        for root, size in ((bytes(32), SIZE), (ROOT, SIZE + 1)):
            self.set_bytes(data)
            journal = self.open(root=root, size=size)
            self.assertEqual(members(journal.trusted), set())
            self.assertFalse(journal.whole)

    def test_reset(self) -> None:
        """After a reset nothing counts, and it can be written anew."""
        self.open().record([(0, 2)])
        journal = self.open()
        journal.reset()
        self.assertEqual(members(journal.trusted), set())
        self.assertTrue(journal.sealed, "there is nothing to sync")
        self.assertEqual(self.trusted(), set())
        journal.record([(9, 1)])
        self.assertEqual(self.trusted(), {9})

    def test_reset_is_on_the_disk(self) -> None:
        """What an emptied journal said cannot come back with a power cut."""
        self.open().record([(0, 2)])
        synced: list[int] = []

        class WatchedDisk(Disk):
            fdatasync = staticmethod(lambda fd: synced.append(os.fstat(fd).st_size))

        Journal(self.fd, ROOT, SIZE, "boot one", WatchedDisk()).reset()
        self.assertEqual(synced, [0])

    def test_failed_write(self) -> None:
        """A write that fails in the middle costs nothing: the next one goes over what it left."""

        class FillingDisk(Disk):
            calls = 0

            def pwritev(self, fd: int, parts: Any, offset: int) -> int:
                (data,) = parts
                self.calls += 1
                if self.calls == 2:
                    raise OSError(errno.ENOSPC, "full")
                whole = self.calls > 2
                return os.pwrite(fd, data if whole else data[: len(data) * 3 // 4], offset)

        journal = Journal(self.fd, ROOT, SIZE, "boot one", FillingDisk())
        self.assertRaises(OSError, journal.record, [(0, 1), (2, 1), (4, 1)])
        left = self.stored()
        self.assertEqual(self.trusted(), {0})
        self.set_bytes(left)
        journal.record([(6, 1)])
        self.assertEqual(self.trusted(), {6})
        journal.record([(8, 1)])
        self.assertEqual(self.trusted(), {6, 8})

    def example(self) -> bytes:
        journal = self.open("boot zero")
        journal.record([(0, 4), (8, 2)])
        journal.seal()
        journal.record([(100, 1)])
        journal = self.open()
        journal.record([(20, 5)])
        journal.seal()
        journal.record([(30, 1), (32, 1)])
        return self.stored()

    EVER_TRUSTED = {0, 1, 2, 3, 8, 9, 20, 21, 22, 23, 24, 30, 32}

    def test_cut_anywhere(self) -> None:
        """Cut at any length, it vouches for a subset, and goes on from there."""
        data = self.example()
        self.assertEqual(self.trusted(), self.EVER_TRUSTED)
        before: set[int] = set()
        for length in range(len(data)):
            self.set_bytes(data[:length])
            journal = self.open()
            trusted = members(journal.trusted)
            self.assertLessEqual(trusted, self.EVER_TRUSTED)
            self.assertLessEqual(before, trusted)
            if length % RECORD.size != HEADER.size % RECORD.size:
                self.assertFalse(journal.whole)
            journal.record([(50, 1)])
            self.assertEqual(self.trusted(), trusted | {50})
            before = trusted

    def test_any_byte_flipped(self) -> None:
        """With any byte changed, it vouches for a subset, says so, and goes on from there."""
        data = self.example()
        for index in range(len(data)):
            for bit in (0x01, 0x80):
                flipped = bytearray(data)
                flipped[index] ^= bit
                self.set_bytes(flipped)
                journal = self.open()
                trusted = members(journal.trusted)
                self.assertLess(trusted, self.EVER_TRUSTED)
                self.assertFalse(journal.whole)
                journal.record([(50, 1)])
                self.assertEqual(self.trusted(), trusted | {50})

    def test_damage_is_cut_off(self) -> None:
        """What follows the damage is gone for good, so that the journal is whole again."""
        self.open().record([(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)])
        damaged = bytearray(self.stored())
        damaged[HEADER.size + 2 * RECORD.size] ^= 1
        self.set_bytes(damaged)
        self.open().record([(50, 1)])
        journal = self.open()
        self.assertEqual(members(journal.trusted), {0, 50})
        self.assertTrue(journal.whole)

    def test_records_cannot_be_moved(self) -> None:
        """A record counts only in its place: swapped, doubled, or left out, it ends the journal."""
        journal = self.open()
        journal.record([(0, 1), (2, 1), (4, 1)])
        data = self.stored()
        start = HEADER.size + RECORD.size
        first, second, third = (
            data[start + index * RECORD.size : start + (index + 1) * RECORD.size]
            for index in range(3)
        )
        for records, trusted in (
            ([first, second, third], {0, 2, 4}),
            ([second, first, third], set()),
            ([first, first, second], {0}),
            ([first, third], {0}),
        ):
            self.set_bytes(data[:start] + b"".join(records))
            self.assertEqual(self.trusted(), trusted)

    def test_the_largest_file(self) -> None:
        """The journal of the largest file has the numbers of its last blocks."""
        blocks = -(-MAX_FILE_SIZE // 2**18)
        Journal(self.fd, ROOT, MAX_FILE_SIZE, "boot").record([(blocks - 1, 1)])
        journal = Journal(self.fd, ROOT, MAX_FILE_SIZE, "boot")
        self.assertEqual(list(journal.trusted.runs()), [(blocks - 1, 1)])

    def test_format(self) -> None:
        """The bytes are those that the module's documentation describes."""
        journal = self.open()
        journal.record([(3, 2)])
        journal.seal()
        data = self.stored()
        self.assertEqual(data[:56], MAGIC + ROOT + SIZE.to_bytes(8, "big"))
        check = check_of(data[:56])
        kinds = []
        for offset in range(56, len(data), 32):
            record = data[offset : offset + 17]
            check = check_of(check, record)
            self.assertEqual(data[offset + 17 : offset + 32], check)
            kinds.append(record[:1])
        self.assertEqual(kinds, [BOOT, RUN, SEAL])
        self.assertEqual(data[89:105], (3).to_bytes(8, "big") + (2).to_bytes(8, "big"))

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("record"), st.integers(0, 50), st.integers(1, 5)),
                st.tuples(st.just("seal"), st.just(0), st.just(0)),
                st.tuples(st.just("restart"), st.just(0), st.just(0)),
                st.tuples(st.just("power cut"), st.just(0), st.just(0)),
            ),
            max_size=20,
        ),
        st.data(),
    )
    @settings(max_examples=150)
    def test_any_history(self, history: list[tuple[str, int, int]], data: st.DataObject) -> None:
        """
        After any history it vouches for what is still in place and nothing else; after any
        damage to its bytes, for no more than that.
        """
        os.ftruncate(self.fd, 0)
        boot = 0
        journal = self.open(str(boot))
        in_place: set[int] = set()
        on_disk: set[int] = set()
        for what, first, count in history:
            if what == "record":
                journal.record([(first, count)])
                in_place.update(range(first, first + count))
            elif what == "seal":
                journal.seal()
                on_disk = set(in_place)
            else:
                if what == "power cut":
                    boot += 1
                    in_place = set(on_disk)
                journal = self.open(str(boot))
            self.assertEqual(self.trusted(str(boot)), in_place)
        damaged = bytearray(self.stored())
        if damaged:
            index = data.draw(st.integers(0, len(damaged) - 1))
            new = data.draw(st.binary(max_size=40))
            damaged[index : index + len(new)] = new
            self.set_bytes(damaged)
            self.assertLessEqual(self.trusted(str(boot)), in_place)
