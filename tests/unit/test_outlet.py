"""Tests for L{flow512.content.outlet}."""

from __future__ import annotations

import os
import tempfile
import threading

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.outlet import MAX_EARLY, Outlet
from flow512.errors import Cancelled, Misuse, ReaderGone, ResourceFailure
from flow512.units import BLOCK
from tests.unit.cutting import UNHURRIED

CONTENT = bytes(range(256)) * (5 * BLOCK // 256) + b"the end"
ROOT = b"r" * 32


def blocks_of(*numbers: int) -> list[bytes]:
    """Some blocks of the content."""
    return [CONTENT[number * BLOCK : (number + 1) * BLOCK] for number in numbers]


class OutletTests(SynchronousTestCase):
    """Content on its way to a stream."""

    def setUp(self) -> None:
        """Make a pipe, and somebody who reads it."""
        self.read_end, self.write_end = os.pipe()
        self.got = bytearray()
        self.reader: threading.Thread | None = None
        self.addCleanup(os.close, self.read_end)

    def outlet(self, offset: int = 0, length: int | None = None) -> Outlet:
        """Begin, with a reader."""
        self.reader = threading.Thread(target=self.read_all)
        self.reader.start()
        return Outlet(self.write_end, ROOT, len(CONTENT), offset, length)

    def read_all(self) -> None:
        """Read to the end."""
        while data := os.read(self.read_end, 100_000):
            self.got += data

    def finish(self) -> bytes:
        """Close the stream, and give all that came out."""
        os.close(self.write_end)
        assert self.reader is not None
        self.reader.join()
        return bytes(self.got)

    def test_in_order(self) -> None:
        """What comes in order goes out as it comes."""
        outlet = self.outlet()
        self.assertEqual(list(outlet.missing_runs()), [(0, 6)])
        self.assertEqual((outlet.blocks, outlet.stored), (6, 0))
        outlet.write(0, *blocks_of(0, 1, 2))
        outlet.write(3, *blocks_of(3, 4, 5))
        self.assertEqual(list(outlet.missing_runs()), [])
        self.assertEqual((outlet.stored, outlet.written), (len(CONTENT), len(CONTENT)))
        self.assertEqual(self.finish(), CONTENT)

    def test_early(self) -> None:
        """What comes too early waits; what comes twice goes once."""
        outlet = self.outlet()
        outlet.write(2, *blocks_of(2, 3))
        outlet.write(2, *blocks_of(2))
        self.assertEqual((outlet.written, outlet.stored), (0, 2 * BLOCK))
        self.assertEqual(outlet.horizon, MAX_EARLY)
        outlet.write(0, *blocks_of(0, 1))
        self.assertEqual(outlet.horizon, 4 + MAX_EARLY)
        outlet.write(1, *blocks_of(1))
        outlet.write(4, *blocks_of(4, 5))
        self.assertEqual(self.finish(), CONTENT)

    @UNHURRIED
    @given(st.permutations(range(6)), st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT)))
    def test_any(self, order: list[int], one: int, other: int) -> None:
        """Any range, from blocks in any order, comes out exact."""
        offset, end = sorted((one, other))
        self.read_end, self.write_end = os.pipe()
        self.got = bytearray()
        outlet = self.outlet(offset, end - offset)
        wanted = {first + at for first, count in outlet.missing_runs() for at in range(count)}
        for block in order:
            if block in wanted:
                outlet.write(block, *blocks_of(block))
        self.assertEqual(list(outlet.missing_runs()), [])
        self.assertEqual(self.finish(), CONTENT[offset:end])
        os.close(self.read_end)

    def test_ranges(self) -> None:
        """A range that is not in the file is refused, an empty one wants nothing."""
        for offset, length in ((0, len(CONTENT) + 1), (len(CONTENT) + 1, None), (-1, 5), (5, -1)):
            self.assertRaises(Misuse, Outlet, self.write_end, ROOT, len(CONTENT), offset, length)
        for offset, length in ((len(CONTENT), None), (70, 0)):
            outlet = Outlet(self.write_end, ROOT, len(CONTENT), offset, length)
            self.assertEqual(list(outlet.missing_runs()), [])
        self.assertEqual(
            list(Outlet(self.write_end, ROOT, len(CONTENT), BLOCK - 1, 2).missing_runs()), [(0, 2)]
        )
        os.close(self.write_end)

    def test_nobody_reads(self) -> None:
        """While nobody reads the worker waits, and it gives up when it is told to."""
        outlet = Outlet(self.write_end, ROOT, len(CONTENT), 0, None)
        outlet.stop()
        self.assertRaises(Cancelled, outlet.write, 0, *blocks_of(0, 1))
        os.close(self.write_end)

    def test_reader_gone(self) -> None:
        """A reader that has gone wants nothing more; that is no failure of this machine."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        outlet = Outlet(write_end, ROOT, len(CONTENT), 0, None)
        self.assertRaises(ReaderGone, outlet.write, 0, *blocks_of(0))
        os.close(write_end)
        os.close(self.write_end)

    def test_file(self) -> None:
        """What is no pipe is written to in larger parts."""
        fd, name = tempfile.mkstemp()
        os.unlink(name)
        outlet = Outlet(fd, ROOT, len(CONTENT), 7, None)
        outlet.write(0, *blocks_of(*range(6)))
        self.assertEqual(os.pread(fd, len(CONTENT), 0), CONTENT[7:])
        os.close(fd)
        os.close(self.write_end)

    def test_full(self) -> None:
        """A disk that is full is told as such; nothing can be read back, or vouched for."""
        fd = os.open("/dev/full", os.O_WRONLY)
        outlet = Outlet(fd, ROOT, len(CONTENT), 0, None, name="standard output")
        error = self.assertRaises(ResourceFailure, outlet.write, 0, *blocks_of(0))
        self.assertIn("full while writing to standard output;", str(error))
        self.assertRaises(Misuse, outlet.read, 0, 1)
        self.assertRaises(Misuse, outlet.vouch, [0])
        outlet.flush()
        os.close(fd)
        os.close(self.write_end)
