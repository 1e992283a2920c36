"""Tests for L{flow512.content.suspect}."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.mending import piece_md5s
from flow512.content.suspect import COPYING_DISK, CopyingDisk, Damage, SuspectFile
from flow512.content.tree import Shape, TreeBuilder, block_digest
from flow512.errors import DiskFailure, DiskFull, Misuse, NotFound, StateInUse
from flow512.units import BLOCK
from tests.unit.partial_files import (
    CONTENT,
    MTIME,
    Killed,
    WatchedDisk,
    block_of,
    dying_at,
)
from tests.unit.transfer_ends import a_folder

SHAPE = Shape(len(CONTENT))
DIGESTS = [block_digest(block_of(CONTENT, block)) for block in range(SHAPE.blocks)]
_BUILDER = TreeBuilder()
_BUILDER.add_many(b"".join(DIGESTS))
ROOT = _BUILDER.finish(len(CONTENT)).root


class Watched(WatchedDisk, CopyingDisk):
    """A disk that a test can watch, for repairs."""


class OddDisk(CopyingDisk):
    """A disk that copies, or reads, as the test says."""

    def __init__(
        self,
        copy_range: Callable[[int, int, int, int, int], int] = COPYING_DISK.copy_range,
        preadv: Callable[..., int] = COPYING_DISK.preadv,
    ) -> None:
        self.copy_range = copy_range
        self.preadv = preadv


class SuspectCase(SynchronousTestCase):
    """A folder with a file in which one bit of block 1 is wrong."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.path = self.folder / "report.pdf"
        self.wrong = bytearray(CONTENT)
        self.wrong[BLOCK + 700] ^= 4
        self.path.write_bytes(self.wrong)

    def suspect(self, disk: CopyingDisk = COPYING_DISK) -> SuspectFile:
        """Open it."""
        suspect = SuspectFile(str(self.path), disk)
        suspect.open()
        self.addCleanup(suspect.close)
        return suspect

    def mend(self, suspect: SuspectFile) -> None:
        """Go through all of a repair."""
        have = suspect.begin(ROOT, len(CONTENT))
        for block in suspect.damaged(SHAPE, 0, DIGESTS):
            if block not in have:
                self.assertTrue(
                    suspect.put(block, bytearray(block_of(CONTENT, block)), DIGESTS[block])
                )
        suspect.copy(SHAPE, 0, DIGESTS)
        suspect.replace(MTIME)

    def assert_mended(self) -> None:
        """The file is right, and alone."""
        self.assertEqual(self.path.read_bytes(), CONTENT)
        self.assertEqual(os.listdir(self.folder), ["report.pdf"])


class LookTests(SuspectCase):
    """What is found out of a file."""

    def test_damaged(self) -> None:
        """Blocks that are wrong, cut off or not there at all are named, and no others."""
        self.assertEqual(self.suspect().damaged(SHAPE, 0, DIGESTS), [1])
        self.assertEqual(self.suspect().damaged(SHAPE, 2, DIGESTS[2:]), [])
        self.path.write_bytes(CONTENT[: 2 * BLOCK + 5])
        self.assertEqual(self.suspect().damaged(SHAPE, 0, DIGESTS), [2, 3])
        self.path.write_bytes(CONTENT + b"more")
        self.assertEqual(self.suspect().damaged(SHAPE, 0, DIGESTS), [])

    def test_root(self) -> None:
        """Its content id is made of what is there."""
        self.assertNotEqual(self.suspect().root(), ROOT)
        self.path.write_bytes(CONTENT)
        self.assertEqual(self.suspect().root(), ROOT)

    def test_bad_sector(self) -> None:
        """What the disk cannot read any more is damaged; other failures are no damage."""
        number = errno.EIO

        def preadv(fd: int, rooms: list[memoryview], offset: int) -> int:
            if offset == 2 * BLOCK and os.path.samestat(os.fstat(fd), self.path.stat()):
                raise OSError(number, os.strerror(number))
            return os.preadv(fd, rooms, offset)

        suspect = self.suspect(OddDisk(preadv=preadv))
        self.assertEqual(suspect.damaged(SHAPE, 0, DIGESTS), [1, 2])
        self.assertEqual(suspect.read_block(2, bytearray(BLOCK)), b"")
        self.mend(suspect)
        self.assert_mended()
        self.path.write_bytes(self.wrong)
        suspect = self.suspect(OddDisk(preadv=preadv))
        number = errno.ENOMEM
        with self.assertRaisesRegex(DiskFailure, os.strerror(errno.ENOMEM)):
            suspect.damaged(SHAPE, 0, DIGESTS)

    def test_block(self) -> None:
        """A block is read as far as it is here, and the MD5s are of just that."""
        self.path.write_bytes(CONTENT[: BLOCK + 600])
        suspect = self.suspect()
        room = bytearray(BLOCK)
        self.assertEqual(suspect.read_block(1, room), piece_md5s(CONTENT[BLOCK : BLOCK + 600]))
        self.assertEqual(room[:600], CONTENT[BLOCK : BLOCK + 600])
        self.assertEqual(suspect.read_block(2, room), b"")

    def test_no_file(self) -> None:
        """What is not there, or no file, is refused, and nothing stays open."""
        for path, kind in (("nope", NotFound), ("no/pe", NotFound), ("a\0b", NotFound)):
            with self.assertRaises(kind):
                SuspectFile(str(self.folder / path)).open()
        for name in ("folder", "fifo"):
            (os.mkdir if name == "folder" else os.mkfifo)(self.folder / name)
            suspect = SuspectFile(str(self.folder / name))
            with self.assertRaises(Misuse):
                suspect.open()
            suspect.close()
        with self.assertRaisesRegex(DiskFailure, os.strerror(errno.ENAMETOOLONG)):
            SuspectFile(str(self.folder / ("x" * 300))).open()

    def test_ranges(self) -> None:
        """Damage is said in bytes of the content, and a wrong length is damage too."""
        damage = Damage(len(CONTENT), len(CONTENT), ((0, 1), (2, 2)))
        self.assertEqual(damage.ranges, [(0, BLOCK - 1), (2 * BLOCK, len(CONTENT) - 1)])
        self.assertEqual((damage.blocks, damage.is_none), (3, False))
        self.assertFalse(Damage(5, 6, ()).is_none)
        self.assertTrue(Damage(6, 6, ()).is_none)


class ReplaceTests(SuspectCase):
    """The replacement."""

    def test_replaced(self) -> None:
        """The file is right, with its mode and the source's time, and nothing is beside it."""
        self.path.chmod(0o640)
        self.mend(self.suspect())
        self.assert_mended()
        status = self.path.stat()
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o640)
        self.assertEqual(status.st_mtime_ns, MTIME)

    def test_never_more_open(self) -> None:
        """What only its owner may read, nobody else may at any time."""
        self.path.chmod(0o600)
        modes = []

        def look(number: int, call: str, arguments: tuple[Any, ...]) -> None:
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir())

        self.mend(self.suspect(Watched(look)))
        self.assert_mended()
        self.assertEqual(set(modes), {0o600})

    def test_link(self) -> None:
        """What a link of the user's points to is repaired; the link stays."""
        link = a_folder(self) / "link"
        link.symlink_to(self.path)
        suspect = SuspectFile(str(link))
        suspect.open()
        self.mend(suspect)
        self.assertTrue(link.is_symlink())
        self.assert_mended()

    def test_without_the_systems_copy(self) -> None:
        """Where the system does not copy from file to file, blocks are read and written."""

        def refuse(*_: object) -> int:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        for copy_range in (refuse, lambda *_: 0):
            self.path.write_bytes(self.wrong)
            self.mend(self.suspect(OddDisk(copy_range)))
            self.assert_mended()

    def test_system_copies_wrongly(self) -> None:
        """What the system copied is verified, and copied again if it is wrong."""

        def garble(source: int, target: int, count: int, start: int, to: int) -> int:
            return os.pwrite(target, b"?" * count, to)

        self.mend(self.suspect(OddDisk(garble)))
        self.assert_mended()

    def test_holes(self) -> None:
        """A file with holes is copied, whatever an earlier try has left where they are."""
        content = bytes(2 * BLOCK) + CONTENT[:BLOCK]
        digests = [block_digest(block_of(content, block)) for block in range(3)]
        self.path.unlink()
        with self.path.open("wb") as file:
            file.truncate(3 * BLOCK)
        root = b"r" * 32
        suspect = self.suspect()
        suspect.begin(root, 3 * BLOCK)
        [part] = [path for path in self.folder.iterdir() if path.name.endswith(".part")]
        with part.open("r+b") as file:
            file.write(b"left over")
        self.assertTrue(suspect.put(2, bytearray(CONTENT[:BLOCK]), digests[2]))
        suspect.copy(Shape(3 * BLOCK), 0, digests)
        suspect.replace(MTIME)
        self.assertEqual(self.path.read_bytes(), content)

    def test_wrong_block(self) -> None:
        """A block that is not right is not taken; without it there is no replacement."""
        suspect = self.suspect()
        suspect.begin(ROOT, len(CONTENT))
        self.assertFalse(suspect.put(1, bytearray(BLOCK), DIGESTS[1]))
        with self.assertRaises(Misuse):
            suspect.replace(MTIME)
        self.assertEqual(self.path.read_bytes(), self.wrong)

    def test_resumed(self) -> None:
        """What was mended before a repair broke off is known to the next one."""
        suspect = self.suspect()
        suspect.begin(ROOT, len(CONTENT))
        suspect.put(1, bytearray(block_of(CONTENT, 1)), DIGESTS[1])
        suspect.close()
        suspect.close()
        again = self.suspect()
        self.assertEqual(list(again.begin(ROOT, len(CONTENT)).runs()), [(1, 1)])
        again.copy(SHAPE, 0, DIGESTS)
        again.replace(MTIME)
        self.assert_mended()

    def test_what_was_mended_is_damaged(self) -> None:
        """If the disk loses what was mended, that is found out, and it is not counted on again."""
        suspect = self.suspect()
        suspect.begin(ROOT, len(CONTENT))
        suspect.put(1, bytearray(block_of(CONTENT, 1)), DIGESTS[1])
        suspect.close()
        [part] = [path for path in self.folder.iterdir() if path.suffix == ".part"]
        with part.open("r+b") as file:
            file.seek(BLOCK + 9)
            file.write(b"?")
        suspect = self.suspect()
        suspect.begin(ROOT, len(CONTENT))
        with self.assertRaisesRegex(DiskFailure, "has been damaged on this disk since"):
            suspect.copy(SHAPE, 0, DIGESTS)
        suspect.close()
        self.assertEqual(self.path.read_bytes(), self.wrong)
        self.mend(self.suspect())
        self.assert_mended()

    def test_many_blocks_are_recorded(self) -> None:
        """Of many mended blocks, a process that is killed loses only the last few."""
        content = os.urandom(1) * (18 * BLOCK)
        digest = block_digest(content[:BLOCK])
        suspect = self.suspect()
        suspect.begin(ROOT, len(content))
        for block in range(18):
            suspect.put(block, bytearray(content[:BLOCK]), digest)
        journal = next(path for path in self.folder.iterdir() if path.suffix == ".journal")
        killed = journal.read_bytes()
        suspect.close()
        journal.write_bytes(killed)
        self.assertEqual(list(self.suspect().begin(ROOT, len(content)).runs()), [(0, 16)])

    def test_one_at_a_time(self) -> None:
        """A file that is being repaired is not repaired a second time."""
        self.suspect().begin(ROOT, len(CONTENT))
        with self.assertRaises(StateInUse):
            self.suspect().begin(ROOT, len(CONTENT))

    def test_changed_meanwhile(self) -> None:
        """A file that somebody writes to, moves or removes meanwhile is not replaced."""

        def write() -> None:
            with self.path.open("ab") as file:
                file.write(b"more")

        def move() -> None:
            other = self.folder / "other"
            other.write_bytes(b"somebody's")
            other.rename(self.path)

        for change in (write, move, self.path.unlink):
            self.path.write_bytes(self.wrong)
            suspect = self.suspect()
            suspect.begin(ROOT, len(CONTENT))
            suspect.put(1, bytearray(block_of(CONTENT, 1)), DIGESTS[1])
            suspect.copy(SHAPE, 0, DIGESTS)
            change()
            left = self.path.read_bytes() if self.path.exists() else None
            with self.assertRaisesRegex(StateInUse, "was changed while"):
                suspect.replace(MTIME)
            self.assertEqual(self.path.read_bytes() if self.path.exists() else None, left)
            suspect.close()

    def test_changed_before_the_copy(self) -> None:
        """So it is with a block that was right, and is not any more when it is copied."""
        suspect = self.suspect()
        suspect.begin(ROOT, len(CONTENT))
        with self.path.open("r+b") as file:
            file.write(b"new")
        with self.assertRaisesRegex(StateInUse, "was changed while"):
            suspect.copy(SHAPE, 0, DIGESTS)

    def test_killed(self) -> None:
        """Whenever the process dies, the file is what it was, or right; the next repair ends."""
        healthy = Watched()
        self.mend(self.suspect(healthy))
        for call in range(len(healthy.calls)):
            self.path.write_bytes(self.wrong)
            disk = Watched(dying_at(call))
            with closing(self.suspect(disk)) as suspect:
                with self.assertRaises(Killed):
                    self.mend(suspect)
                self.assertIn(self.path.read_bytes(), (CONTENT, self.wrong))
                disk.before = None
            if self.path.read_bytes() != CONTENT:
                self.mend(self.suspect())
                self.assert_mended()

    def test_disk_full(self) -> None:
        """Wherever the disk runs full, that is said, and the file is as it was; then it goes on."""

        def fail_from(place: int) -> Watched:
            def step(number: int, call: str, arguments: tuple[Any, ...]) -> None:
                if number >= place and call in ("open", "pwritev", "ftruncate", "rename"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return Watched(step)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        healthy = Watched()
        self.mend(self.suspect(healthy))
        failures = 0
        for place in range(len(healthy.calls)):
            failures += self.fails_for_lack_of_room(fail_from(place))
        self.assertGreater(failures, 3)
        self.assertTrue(self.fails_for_lack_of_room(OddDisk(full)))

    def fails_for_lack_of_room(self, disk: CopyingDisk = COPYING_DISK) -> bool:
        """Repair on such a disk; if that fails, the file is as it was, and can be repaired."""
        self.path.write_bytes(self.wrong)
        try:
            with closing(self.suspect(disk)) as suspect:
                self.mend(suspect)
        except DiskFull:
            self.assertEqual(self.path.read_bytes(), self.wrong)
            self.mend(self.suspect())
            self.assert_mended()
            return True
        self.assertEqual(self.path.read_bytes(), CONTENT)
        return False
