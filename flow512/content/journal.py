"""
The journal of a download: which blocks of the partial file are verified and in place.

It is a file that only grows::

    header   16 bytes "flow512 journal\\n", 32 bytes root, 8 bytes size (big-endian)
    records  32 bytes each: 1 byte kind, 16 bytes body, 15 bytes check

    kind  body                                              says
    B     BLAKE3 of the boot id, first 16 bytes             what follows was written in this boot
    R     first block, number of blocks (8 bytes each)      these are in place
    S     zeros                                             the data of all the above was synced

A record's check is the BLAKE3, first 15 bytes, of the check before it (of the header, for the
first one) and its own kind and body. So a record counts only if everything before it is whole,
and none can be moved here from another place or another file's journal.

What holds:

  1. A run is recorded after its data was written. Whoever dies, dies with the journal behind.
  2. Within one boot that is enough: what was written is what any later process reads, synced
     or not. After a power cut the disk may have kept the record and lost the data. Hence in
     another boot only what stands before an S counts; that is written after fdatasync.
  3. Whatever bytes the file holds, reading it gives a subset of what was once recorded; and
     where it gives less than that, L{Journal.whole} is false.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from blake3 import blake3

from flow512.content.disk import DISK, Disk

MAGIC: Final = b"flow512 journal\n"
HEADER: Final = struct.Struct(">16s32sQ")
RECORD: Final = struct.Struct(">c16s15s")
BOOT: Final = b"B"
RUN: Final = b"R"
SEAL: Final = b"S"

_RUN_BODY: Final = struct.Struct(">QQ")


def check_of(before: bytes, record: bytes = b"") -> bytes:
    """
    Compute the check of a record, or of the header.

    @param before: the header, or the check of the record before.
    @param record: kind and body.
    """
    return blake3(before + record).digest(15)


def read_boot_id() -> str:
    """
    Find out which boot of the machine this is.

    @return: a text that differs after every boot; empty where the system does not tell (other
        than Linux), and then only what was synced is trusted after a restart.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
            return source.read().strip()
    except OSError:
        return ""


class BlockSet:
    """
    A set of block numbers, kept as runs: its memory goes with the number of gaps, not with the
    size of the file.

    One thread may change it while others read: the numbers are in one list, and every change
    replaces one slice of it.
    """

    def __init__(self) -> None:
        # Where runs begin (even places) and where they end (odd places), strictly ascending.
        self._bounds: list[int] = []
        self._count = 0

    def add(self, first: int, count: int = 1) -> None:
        """
        Take in a run of blocks, some of which may be in already.

        @param count: at least 1.
        """
        end = first + count
        low = bisect_left(self._bounds, first)
        high = bisect_right(self._bounds, end)
        if low == high:
            # There is nothing of it and nothing beside it, or all of it is in already.
            if not low % 2:
                self._bounds[low:low] = first, end
                self._count += count
            return
        if high == low + 1:
            # It only moves one bound of one run.
            old_bound = self._bounds[low]
            self._bounds[low] = end if low % 2 else first
            self._count += end - old_bound if low % 2 else old_bound - first
            return
        # An odd place is inside of a run or touches it: that run's own bound is the new one.
        begins = [] if low % 2 else [first]
        ends = [] if high % 2 else [end]
        old = [first] * (low % 2) + self._bounds[low:high] + [end] * (high % 2)
        self._bounds[low:high] = begins + ends
        self._count += count - (sum(old[1::2]) - sum(old[::2]))

    def __contains__(self, block: int) -> bool:
        return bisect_right(self._bounds, block) % 2 == 1

    def __len__(self) -> int:
        return self._count

    def runs(self) -> Iterator[tuple[int, int]]:
        """
        Give the runs in it as they are now: (first block, number of blocks), ascending.
        """
        bounds = tuple(self._bounds)
        return ((first, end - first) for first, end in zip(bounds[::2], bounds[1::2], strict=True))

    @property
    def run_count(self) -> int:
        """How many runs there are: what it takes of memory."""
        return len(self._bounds) // 2

    def runs_from(self, block: int, most: int) -> list[tuple[int, int]]:
        """
        Give the first runs at or after a block, however many there are in all. Not to be called
        while another thread changes the set.

        @param block: of a run that it lies in, the rest is given.
        @param most: at most so many runs.
        """
        place = bisect_right(self._bounds, block)
        bounds = self._bounds[place - place % 2 : place - place % 2 + 2 * most]
        if place % 2:
            bounds[0] = block
        return [(first, end - first) for first, end in zip(bounds[::2], bounds[1::2], strict=True)]

    def gaps(self, blocks: int) -> Iterator[tuple[int, int]]:
        """
        Give the runs that are not in it, as it is now.

        @param blocks: where the last gap ends; nothing beyond may be in the set.
        """
        bounds = (0, *self._bounds, blocks)
        return (
            (first, end - first)
            for first, end in zip(bounds[::2], bounds[1::2], strict=True)
            if first < end
        )


class Journal:
    """
    An open journal.

    It does no locking and names no cause of an L{OSError}: both are its partial file's business.

    @ivar trusted: the blocks that it vouched for when it was opened.
    @ivar whole: whether those were all that it ever vouched for.
    """

    def __init__(self, fd: int, root: bytes, size: int, boot_id: str, disk: Disk = DISK) -> None:
        """
        Read what is in the file, and cut off what does not count.

        @param fd: the file, open to read and write; it stays the caller's.
        @param boot_id: as L{read_boot_id} gives it.
        @raise OSError: it cannot be read.
        """
        self.trusted = BlockSet()
        self._fd = fd
        self._disk = disk
        self._header = HEADER.pack(MAGIC, root, size)
        self._boot = blake3(boot_id.encode()).digest(16) if boot_id else b""
        self._here = False  # whether the last boot that the file tells of is this one
        self._sealed = True  # whether no run came after the last S
        self._length = 0  # bytes that count; the next record goes there
        self._check = b""
        data = disk.pread(fd, disk.fstat(fd).st_size, 0)
        self.whole = self._read(data)
        if self._length < len(data):
            disk.ftruncate(fd, self._length)

    def _read(self, data: bytes) -> bool:
        """Take in the records before the first that is not whole; say whether nothing is lost."""
        if not data.startswith(self._header):
            return False
        self._length = HEADER.size
        self._check = check_of(self._header)
        nothing_lost = True
        unsealed: list[tuple[int, int]] = []
        for offset in range(HEADER.size, len(data) - RECORD.size + 1, RECORD.size):
            kind, body, check = RECORD.unpack_from(data, offset)
            if check != check_of(self._check, kind + body):
                break
            if kind == BOOT:
                # What an earlier boot left unsynced is lost for good.
                nothing_lost = nothing_lost and not unsealed
                unsealed.clear()
                self._here = body == self._boot
            elif kind == RUN:
                unsealed.append(_RUN_BODY.unpack(body))
            else:
                self._trust(unsealed)
                unsealed.clear()
            self._check = check
            self._length = offset + RECORD.size
        if self._here:
            self._trust(unsealed)
        elif unsealed:
            nothing_lost = False
        self._sealed = not unsealed
        return nothing_lost and self._length == len(data)

    def _trust(self, runs: Iterable[tuple[int, int]]) -> None:
        for first, count in runs:
            self.trusted.add(first, count)

    def reset(self) -> None:
        """
        Forget everything, for good: after this, not even a power cut brings it back.
        """
        self.whole = False
        self.trusted = BlockSet()
        self._here = False
        self._sealed = True
        self._disk.ftruncate(self._fd, 0)
        if self._length:
            self._length = 0
            self._disk.fdatasync(self._fd)

    def record(self, runs: Iterable[tuple[int, int]]) -> None:
        """
        Vouch for runs of blocks whose data is written.

        @raise OSError: it cannot be written; the same may be tried again.
        """
        records = [(RUN, _RUN_BODY.pack(first, count)) for first, count in runs]
        if records:
            self._append(records)
            self._sealed = False

    def seal(self) -> None:
        """
        Vouch that the data of all recorded runs was synced before this call.

        @raise OSError: as L{record}.
        """
        if not self._sealed:
            self._append([(SEAL, bytes(16))])
            self._sealed = True

    @property
    def sealed(self) -> bool:
        """Whether all that is recorded counts after a power cut."""
        return self._sealed

    def _append(self, records: list[tuple[bytes, bytes]]) -> None:
        out = bytearray()
        check = self._check
        if not self._length:
            out += self._header
            check = check_of(self._header)
        if not self._here:
            records = [(BOOT, self._boot.ljust(16, b"\0")), *records]
        for kind, body in records:
            check = check_of(check, kind + body)
            out += RECORD.pack(kind, body, check)
        # Always behind what counts: this also writes over what a failed call left.
        self._disk.write_all(self._fd, [out], self._length)
        self._length += len(out)
        self._check = check
        self._here = True
