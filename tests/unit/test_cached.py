"""Tests for L{flow512.content.cached}."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from flow512.content import cached
from flow512.content.cached import Cached, is_in_memory
from tests.unit.transfer_ends import a_folder

CONTENT = bytes(range(256)) * 16
NO_WAIT = 8


class CachedTestCase(SynchronousTestCase):
    """
    One open file, and a system that answers as the test wants.

    @ivar asked: the flags of each read that the system was asked for.
    @ivar answer: the error's number that it says to one with C{NO_WAIT}, if it does.
    @ivar most: how many bytes of a read it has in memory.
    @ivar disk_works: how much it asks of a disk at each read.
    """

    def setUp(self) -> None:
        self.path = a_folder(self) / "file"
        self.path.write_bytes(CONTENT)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.asked: list[int] = []
        self.answer: int | None = None
        self.most = len(CONTENT)
        self._preadv = os.preadv
        self.patch(cached, "_NO_WAIT", NO_WAIT)
        self.patch(cached.os, "preadv", self.preadv)
        self.disk_works = 0
        self.patch(cached, "_asked_of_disks", lambda: self.disk_works * len(self.asked))
        self.mounts("ext4")

    def preadv(self, fd: int, rooms: Sequence[bytearray], offset: int, flags: int = 0) -> int:
        """Stand for the system's call."""
        self.asked.append(flags)
        if flags == NO_WAIT and self.answer is not None:
            raise OSError(self.answer, os.strerror(self.answer))
        return min(self.most, self._preadv(fd, rooms, offset))

    def mounts(self, kind: str, device: int | None = None) -> None:
        """Say that the file is on a file system of some kind."""
        number = os.fstat(self.fd).st_dev if device is None else device
        table = self.path.with_name("mounts")
        table.write_bytes(
            b"22 1 252:7 / / rw,relatime shared:1 - xfs /dev/vda rw\n"
            b"36 22 %d:%d / /a\\040b rw master:1 shared:2 - %s none rw,size=9k\n"
            % (os.major(number), os.minor(number), kind.encode())
        )
        self.patch(cached, "_MOUNTS", str(table))

    def read(self, file: Cached, offset: int = 100) -> bytes | None:
        """What it reads to two rooms, if it does."""
        rooms = [bytearray(50), bytearray(70)]
        return b"".join(rooms) if file.fill(offset, rooms) else None


class CachedTests(CachedTestCase):
    """L{Cached}."""

    def test_all_in_memory(self) -> None:
        """What the system has in memory is read, and nothing before it was looked at."""
        file = Cached(self.fd)
        self.assertIsNone(self.read(file))
        self.assertEqual(self.asked, [])
        file.look()
        self.assertEqual(self.read(file), CONTENT[100:220])
        self.assertEqual(set(self.asked), {NO_WAIT})

    def test_looked_at_once(self) -> None:
        """What is known already is not looked at again."""
        file = Cached(self.fd)
        file.look()
        asked = len(self.asked)
        file.look()
        self.assertEqual(len(self.asked), asked)

    def test_not_in_memory(self) -> None:
        """Where the system would have to wait it is asked anew the next time."""
        file = Cached(self.fd)
        self.answer = errno.EAGAIN
        file.look()
        self.assertIsNone(self.read(file))
        self.answer = None
        self.assertEqual(self.read(file), CONTENT[100:220])

    def test_not_all(self) -> None:
        """What is in memory only in part is not read; nor what ends before."""
        file = Cached(self.fd)
        file.look()
        self.most = 119
        self.assertIsNone(self.read(file))
        self.most = 120
        self.assertEqual(self.read(file), CONTENT[100:220])
        self.assertIsNone(self.read(file, len(CONTENT) - 119))

    def test_missed(self) -> None:
        """Whatever makes a disk work has not all been in memory, though it may have been read."""
        file = Cached(self.fd)
        file.look()
        for disk_works, most, is_missed in ((0, 4096, False), (8, 4096, True), (0, 119, True)):
            self.disk_works, self.most = disk_works, most
            self.assertEqual(self.read(file) is None, most < 120)
            self.assertEqual(file.is_missed, is_missed)
        self.most = 4096
        self.read(file)
        self.assertFalse(file.is_missed)
        self.answer = errno.EAGAIN
        self.read(file)
        self.assertTrue(file.is_missed)

    def test_damaged(self) -> None:
        """A read that fails is left to one that may wait."""
        file = Cached(self.fd)
        file.look()
        self.answer = errno.EIO
        self.assertIsNone(self.read(file))

    def test_no_such_flag(self) -> None:
        """A file system that does not know the flag is not asked, unless it is in memory."""
        for refusal in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            for kind, is_read in (("nfs4", False), ("tmpfs", True), ("ramfs", True)):
                self.mounts(kind)
                self.answer = refusal
                file = Cached(self.fd)
                file.look()
                self.asked.clear()
                self.assertEqual(self.read(file), CONTENT[100:220] if is_read else None)
                self.assertEqual(self.asked, [0] if is_read else [])

    def test_another_error(self) -> None:
        """An error that says nothing of the flag leaves all reads to workers."""
        self.mounts("tmpfs")
        self.answer = errno.EIO
        file = Cached(self.fd)
        file.look()
        self.assertIsNone(self.read(file))

    def test_system_without_it(self) -> None:
        """Where the system has no such flag at all, nothing is asked."""
        self.patch(cached, "_NO_WAIT", None)
        self.mounts("tmpfs")
        file = Cached(self.fd)
        file.look()
        self.assertIsNone(self.read(file))
        self.assertEqual(self.asked, [])


class InMemoryTests(CachedTestCase):
    """L{is_in_memory}."""

    def test_another_device(self) -> None:
        """A file system counts that the file is on, and no other."""
        self.mounts("tmpfs", os.makedev(1234, 5))
        self.assertFalse(is_in_memory(self.fd))

    def test_no_table(self) -> None:
        """A system that does not tell is taken for one that has to wait."""
        self.patch(cached, "_MOUNTS", str(self.path.with_name("none")))
        self.assertFalse(is_in_memory(self.fd))


class DiskTests(SynchronousTestCase):
    """What the system itself says."""

    def test_asked_of_disks(self) -> None:
        """It counts, and what was counted stays."""
        before = cached._asked_of_disks()
        self.assertGreaterEqual(before, 0)
        self.assertGreaterEqual(cached._asked_of_disks(), before)
