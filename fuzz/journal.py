"""
Fuzz L{flow512.content.journal}: any history of a journal, with any damage in between.

An input is a program: each instruction is one byte and its arguments. It records, seals, resets,
ends the process, reboots the machine, and damages the file: cut off, bytes changed, copied from
one place to another, appended, replaced. Beside the journal stands a list of what was done, and a
few lines that say what that vouches for.

  - Nothing gets out of reading any file.
  - After damage the journal vouches for what stood before it, exactly; without any, for all that
    was recorded in this boot, and for what was sealed before it. So never for a block that was
    not recorded.
  - It says that it is whole only if nothing that the file once told is lost, and what is left in
    the file is what it has read.
  - Its sets of blocks are sets.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import atheris
from running import run

with atheris.instrument_imports(include=["flow512"]):
    from flow512.content.disk import Disk
    from flow512.content.journal import BOOT, HEADER, RECORD, RUN, SEAL, BlockSet, Journal

BLOCKS: Final = 40
SIZE: Final = BLOCKS * 2**18
ROOT: Final = bytes(range(32))
MOST: Final = 8
"""Instructions in a program."""

FD: Final = 3
"""A number and nothing else: the file is in memory."""


class Memory(Disk):
    """A disk that has one file."""

    def __init__(self) -> None:
        self.data = b""

    def fstat(self, fd: int) -> os.stat_result:
        """See C{os.fstat}."""
        return os.stat_result((0o100600, 0, 0, 1, 0, 0, len(self.data), 0, 0, 0))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See C{os.pread}."""
        return self.data[offset : offset + length]

    def pwritev(self, fd: int, parts: list[memoryview], offset: int) -> int:  # type: ignore[override]  # just views
        """See C{os.pwritev}."""
        data = b"".join(parts)
        before = self.data[:offset].ljust(offset, b"\0")
        self.data = before + data + self.data[offset + len(data) :]
        return len(data)

    def ftruncate(self, fd: int, length: int) -> None:
        """See C{os.ftruncate}."""
        self.data = self.data[:length].ljust(length, b"\0")

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]  # a static one there
        """See C{os.fdatasync}."""


class Record(NamedTuple):
    """What one record in the file says; of a boot, its number and nothing."""

    kind: bytes
    first: int
    blocks: int


def mask(first: int, blocks: int) -> int:
    """Give a run of blocks as the bits of a number, which is a fast set."""
    return (1 << blocks) - 1 << first


def vouched(records: list[Record], boot: int) -> tuple[int, bool]:
    """Say which blocks some records vouch for in a boot, and whether that is all they ever did."""
    ever = durable = here = 0
    lost = False
    sealed = True
    for record in records:
        if record.kind == BOOT:
            lost = lost or not sealed
            ever = durable
            sealed = True
            here = record.first
        elif record.kind == RUN:
            ever |= mask(record.first, record.blocks)
            sealed = False
        else:
            durable = ever
            sealed = True
    if here == boot:
        return ever, not lost
    return durable, not lost and sealed


def as_bits(blocks: BlockSet) -> int:
    """Take a set of blocks apart, and doubt it."""
    members = gaps = 0
    for run_of in blocks.runs():
        members |= mask(*run_of)
    for run_of in blocks.gaps(BLOCKS):
        gaps |= mask(*run_of)
    assert len(blocks) == members.bit_count(), "counted wrongly"
    assert members ^ gaps == mask(0, BLOCKS), "gaps are not what is missing"
    return members


class History:
    """A journal, the file that it is in, and what was done to both."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.place = 0
        self.boot = 1
        self.disk = Memory()
        self.records: list[Record] = []
        self.clean = b""
        self.reopen()

    def take(self) -> int:
        """Take the next byte of the program; 0 after its end."""
        place = self.place
        self.place += 1
        return self.program[place] if place < len(self.program) else 0

    def kept_of(self, data: bytes) -> int:
        """Count the records that stand in some bytes as they were written; -1 without a header."""
        if len(data) < HEADER.size or data[: HEADER.size] != self.clean[: HEADER.size]:
            return -1
        most = (min(len(data), len(self.clean)) - HEADER.size) // RECORD.size
        for kept in range(most):
            start = HEADER.size + RECORD.size * kept
            if data[start : start + RECORD.size] != self.clean[start : start + RECORD.size]:
                return kept
        return most

    def reopen(self) -> None:
        """Open the journal as another process does, and compare it with the list."""
        data = self.disk.data
        kept = self.kept_of(data)
        length = HEADER.size + RECORD.size * max(kept, 0)
        if kept < 0:
            kept = length = 0
        del self.records[kept:]
        expected, all_of_it = vouched(self.records, self.boot)
        self.journal = Journal(FD, ROOT, SIZE, f"boot {self.boot}", self.disk)
        assert as_bits(self.journal.trusted) == expected, "not what was recorded"
        assert self.journal.whole == (all_of_it and length > 0 and length == len(data))
        assert self.disk.data == data[:length], "something is left that does not count"
        self.clean = self.disk.data

    def ends_here(self) -> bool:
        """Say whether the last boot that the file tells of is this one."""
        boots = [record.first for record in self.records if record.kind == BOOT]
        return bool(boots) and boots[-1] == self.boot

    def write(self, records: list[Record]) -> None:
        """Note what the journal was told to write."""
        if not self.ends_here():
            self.records.append(Record(BOOT, self.boot, 0))
        self.records += records
        self.clean = self.disk.data
        assert len(self.clean) == HEADER.size + RECORD.size * len(self.records)

    def record(self) -> None:
        """Record a few runs."""
        runs = []
        for _ in range(self.take() % 4):
            first = self.take() % BLOCKS
            runs.append((first, 1 + self.take() % (BLOCKS - first)))
        self.journal.record(runs)
        if runs:
            self.write([Record(RUN, *numbers) for numbers in runs])

    def seal(self) -> None:
        """Seal, which writes only if there is anything to seal."""
        before = len(self.disk.data)
        self.journal.seal()
        assert self.journal.sealed
        if len(self.disk.data) > before:
            self.write([Record(SEAL, 0, 0)])

    def reset(self) -> None:
        """Forget everything."""
        self.journal.reset()
        assert not self.disk.data
        self.records.clear()
        self.clean = b""

    def damage(self, how: int) -> None:
        """Change the file behind the journal's back, and open it anew."""
        data = self.disk.data
        start = (self.take() << 8 | self.take()) % (len(data) + 1)
        length = self.take()
        middle = data[start : start + length]
        # Less than a record: a check is no secret, and the fuzzer reads from comparisons what a
        # whole record would need. Whoever can write the file could vouch for anything.
        noise = self.program[self.place : self.place + length % RECORD.size]
        match how:
            case 0:
                data = data[:start]
            case 1:
                data = data[:start] + bytes([self.take()]) * len(middle) + data[start + length :]
            case 2:
                place = self.take() * RECORD.size // 2 % (len(data) + 1)
                data = data[:place] + middle + data[place:]
            case 3:
                data = data[:start] + data[start + length :]
            case 4:
                data = data + noise
            case _:
                data = noise + middle
        self.disk.data = data
        self.reopen()

    def go(self) -> None:
        """Run the program."""
        for _ in range(MOST):
            if self.place >= len(self.program):
                break
            instruction = self.take()
            match instruction % 16:
                case 0 | 1 | 2 | 3 | 4:
                    self.record()
                case 5 | 6:
                    self.seal()
                case 7:
                    self.reset()
                case 8:
                    self.reopen()
                case 9:
                    self.boot += 1
                    self.reopen()
                case other:
                    self.damage(other - 10)
        self.reopen()


def one_input(data: bytes) -> None:
    """See the module."""
    History(data).go()


if __name__ == "__main__":
    run("journal", one_input, 80)
