"""
Hashing: what comes out of a file on disk, whatever its holes, and what happens when it changes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.hashing import Stop, hash_file, md5_of_file, never
from flow512.content.tree import Tree, TreeBuilder, block_digest
from flow512.errors import Cancelled, ContentChanged, DiskFailure
from flow512.units import BLOCK

MIB = 1024 * 1024
PATTERN = bytes(range(251)) * (5 * BLOCK // 251 + 1)
ZERO_BLOCK = block_digest(bytes(BLOCK))


def tree_of(data: bytes) -> Tree:
    """Make the tree of bytes that are at hand."""
    builder = TreeBuilder()
    for at in range(0, len(data), BLOCK):
        builder.add(block_digest(data[at : at + BLOCK]))
    return builder.finish(len(data))


def on_question(number: int, do: Callable[[], object]) -> Stop:
    """Make a stop that never says so, and does something when it is asked for the n-th time."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == number:
            do()
        return False

    return stop


class FileCase(SynchronousTestCase):
    """A file without a name, open to read and write."""

    def setUp(self) -> None:
        """Make the file."""
        self.file = self.enterContext(tempfile.TemporaryFile(buffering=0))
        self.fd = self.file.fileno()

    def put(self, data: bytes, offset: int = 0) -> None:
        """Write into it."""
        os.pwrite(self.fd, data, offset)


class DenseTests(FileCase):
    """Files without holes."""

    def test_sizes(self) -> None:
        """At every size around a piece, a block and a step, tree and MD5 are those of the bytes."""
        for size in (
            *(0, 1, 511, 512, 513),
            *(BLOCK - 1, BLOCK, BLOCK + 1),
            *(MIB - 1, MIB, MIB + 1, MIB + BLOCK + 1),
        ):
            self.file.truncate(0)
            self.put(PATTERN[:size])
            tree, md5 = hash_file(self.fd, size, stop=never, md5=True)
            self.assertEqual(tree, tree_of(PATTERN[:size]), size)
            self.assertEqual(md5, hashlib.md5(PATTERN[:size]).digest(), size)
            self.assertEqual(md5_of_file(self.fd, size, stop=never), md5)

    def test_without_md5(self) -> None:
        """No MD5 comes unless it is asked for, and the tree is the same."""
        self.put(PATTERN[:1000])
        self.assertEqual(
            hash_file(self.fd, 1000, stop=never, md5=False), (tree_of(PATTERN[:1000]), None)
        )

    def test_no_word_of_holes(self) -> None:
        """On a file system that does not tell of holes, everything is read."""

        def lseek(fd: int, offset: int, whence: int) -> int:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.put(b"x", 3 * BLOCK)
        self.patch(os, "lseek", lseek)
        tree, md5 = hash_file(self.fd, 3 * BLOCK + 1, stop=never, md5=True)
        data = bytes(3 * BLOCK) + b"x"
        self.assertEqual((tree, md5), (tree_of(data), hashlib.md5(data).digest()))

    def test_short_reads(self) -> None:
        """A system that reads less than it is asked to changes nothing."""
        preadv = os.preadv

        def short(fd: int, buffers: list[memoryview], offset: int) -> int:
            return preadv(fd, [buffers[0][:100_001]], offset)

        self.put(PATTERN[: MIB + 5])
        self.patch(os, "preadv", short)
        tree, _ = hash_file(self.fd, MIB + 5, stop=never, md5=False)
        self.assertEqual(tree, tree_of(PATTERN[: MIB + 5]))


class SparseTests(FileCase):
    """Files with holes, which read as zero bytes."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 7 * BLOCK + 1),
        st.lists(
            st.tuples(st.integers(0, 7 * BLOCK), st.sampled_from([1, 4096, BLOCK, MIB])),
            max_size=4,
        ),
    )
    def test_any_holes(self, size: int, islands: list[tuple[int, int]]) -> None:
        """Wherever the data lies, tree and MD5 are those of what a reader gets."""
        self.file.truncate(0)
        self.file.truncate(size)
        for offset, length in islands:
            self.put(PATTERN[: max(0, min(length, size - offset))], offset)
        data = os.pread(self.fd, size, 0)
        tree, md5 = hash_file(self.fd, size, stop=never, md5=True)
        self.assertEqual(tree, tree_of(data))
        self.assertEqual(md5, hashlib.md5(data).digest())

    def test_seventy_gib(self) -> None:
        """A sparse file of 70 GiB has three levels, and its holes are never read."""
        size = 70 * 2**30
        self.file.truncate(size)
        islands = {0: b"begin", 5 * 2**30 + 1: b"x", 64 * 2**30 - 1: b"yz", size - 1: b"e"}
        for offset, data in islands.items():
            self.put(data, offset)
        digests = [ZERO_BLOCK] * (size // BLOCK)
        for block in (0, 20480, 262143, 262144, 286719):
            digests[block] = block_digest(os.pread(self.fd, BLOCK, block * BLOCK))
        builder = TreeBuilder()
        builder.add_many(b"".join(digests))
        questions = []
        tree, _ = hash_file(self.fd, size, stop=lambda: bool(questions.append(1)), md5=False)
        self.assertEqual(tree, builder.finish(size))
        self.assertEqual(tree.shape.levels, 3)
        self.assertLess(len(questions), 100)


class TroubleTests(FileCase):
    """What is not one state of a file has no tree."""

    def test_stopped(self) -> None:
        """It gives up within a MiB, in data and in a hole whose MD5 is wanted."""
        self.file.truncate(20 * MIB)
        self.put(PATTERN[:MIB])
        for limit in (1, 2, 10):
            questions: list[int] = []

            def stop(questions: list[int] = questions, limit: int = limit) -> bool:
                questions.append(1)
                return len(questions) >= limit

            with self.assertRaises(Cancelled):
                hash_file(self.fd, 20 * MIB, stop=stop, md5=True)
            self.assertEqual(len(questions), limit)
        with self.assertRaises(Cancelled):
            md5_of_file(self.fd, 20 * MIB, stop=lambda: True)

    def test_other_size(self) -> None:
        """A file that has not the size that it is said to have is not hashed."""
        self.put(bytes(1000))
        for size in (999, 1001, 0):
            with self.assertRaises(ContentChanged):
                hash_file(self.fd, size, stop=never, md5=False)

    def test_cut(self) -> None:
        """A file that is cut while it is read is noticed, in data and in holes."""
        self.put(PATTERN[:MIB])
        self.put(b"x", 3 * MIB)
        for number in (2, 3, 4):
            self.file.truncate(8 * MIB)
            stop = on_question(number, lambda: self.file.truncate(5))
            with self.assertRaises(ContentChanged):
                hash_file(self.fd, 8 * MIB, stop=stop, md5=True, what="'a'")
            self.put(PATTERN[:MIB])

    def test_written(self) -> None:
        """A file that is written to while it is read is noticed, though its size stays."""
        self.put(PATTERN[: 2 * BLOCK])

        def write() -> None:
            self.put(b"other", 0)
            os.utime(self.fd, ns=(1, 1))

        failure = self.assertRaises(
            ContentChanged,
            hash_file,
            self.fd,
            2 * BLOCK,
            stop=on_question(2, write),
            md5=False,
            what="'a/b'",
        )
        self.assertIn("'a/b'", str(failure))

    def test_unreadable(self) -> None:
        """A read error is this machine's failure, and its sentence names the file."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
            file.flush()
            fd = os.open(file.name, os.O_WRONLY)
            try:
                failure = self.assertRaises(
                    DiskFailure, hash_file, fd, 1, stop=never, md5=False, what="'a/b'"
                )
            finally:
                os.close(fd)
        self.assertIn("reading 'a/b'", str(failure))
