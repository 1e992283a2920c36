"""
Tests for L{flow512.content.partial} and L{flow512.content.publish}.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.disk import Disk
from flow512.content.partial import Partial
from flow512.content.publish import OwnNames, check_target, current_umask
from flow512.errors import (
    DiskFailure,
    DiskFull,
    Misuse,
    ResourceFailure,
    StateInUse,
    TargetExists,
    UnsafeName,
)
from flow512.units import BLOCK, MAX_FILE_SIZE

ROOT = bytes(range(32))
NAME = "report.pdf"
BOOT = "boot one"
MTIME = 1_600_000_000_123_456_789
OWN = OwnNames.of(ROOT, NAME)

CONTENT = b"".join((bytes([65 + block]) * BLOCK) for block in range(3)) + b"tail"
"""Four blocks, the last of them short."""


def block_of(content: bytes, block: int) -> bytes:
    return content[block * BLOCK : (block + 1) * BLOCK]


Step = Callable[[int, str, tuple[Any, ...]], None]


class Killed(BaseException):
    """The process is no more: nothing of ours may catch this."""


class WatchedDisk(Disk):
    """
    A disk that counts its calls, and lets a test step in before each of them.

    @ivar before: is called with the number, name and arguments of each.
    @ivar calls: the names of all calls so far, but for those that close a file.
    @ivar opened: the descriptors that are open.
    """

    CALLS = frozenset(
        {
            *("open", "flock", "stat", "fstat", "lseek", "pread", "pwrite", "ftruncate"),
            *("fdatasync", "fsync", "fchmod", "utime", "link", "rename", "unlink"),
        }
    )

    def __init__(self, before: Step | None = None) -> None:
        self.calls: list[str] = []
        self.opened: set[int] = set()
        self.before = before

    def __getattribute__(self, name: str) -> Any:
        real = super().__getattribute__(name)
        if name not in WatchedDisk.CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.before is not None:
                self.before(len(self.calls), name, args)
            result = real(*args, **kwargs)
            if name == "open":
                self.opened.add(result)
            return result

        return call

    def close(self, fd: int) -> None:
        os.close(fd)
        self.opened.discard(fd)

    def crash(self) -> None:
        """Close what the kernel closes when a process dies."""
        for fd in tuple(self.opened):
            self.close(fd)


class NoLinks(WatchedDisk):
    """A disk without hard links, as FAT is."""

    def link(self, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no links here")


class ForgetfulDisk(WatchedDisk):
    """
    A disk that keeps data only if it is told to.

    @ivar synced: what each file was when it was last synced, by inode.
    """

    def __init__(self, before: Step | None = None) -> None:
        super().__init__(before)
        self.synced: dict[int, bytes] = {}

    def fdatasync(self, fd: Any) -> None:
        status = os.fstat(fd)
        self.synced[status.st_ino] = os.pread(fd, status.st_size, 0)

    def forget(self, path: str) -> None:
        """Let the power fail on a file: its length stays, its data is as it was synced."""
        with open(path, "r+b") as file:
            status = os.fstat(file.fileno())
            file.truncate(0)
            file.write(self.synced.get(status.st_ino, b"")[: status.st_size])
            file.truncate(status.st_size)


def failing(called: str, number: int) -> Step:
    """Let the next call of that name fail with this error."""
    left = [OSError(number, os.strerror(number))]

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if name == called and left:
            raise left.pop()

    return before


def failing_at(number: int, call: int) -> Step:
    """Let one call fail, by its number, with this error."""

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if count == call:
            raise OSError(number, os.strerror(number))

    return before


def dying_at(call: int) -> Step:
    """Kill the process in one call, by its number; a write does half of its work."""

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if count == call and name == "pwrite":
            fd, data, offset = args
            os.pwrite(fd, data[: len(data) // 2], offset)
        if count >= call:
            raise Killed

    return before


class InFolder(SynchronousTestCase):
    """Tests that have a folder to download to."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = holder.name
        self.fd = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.made: list[Partial] = []

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def put(self, name: str, data: bytes = b"somebody's") -> None:
        with open(self.path(name), "wb") as file:
            file.write(data)

    def data(self, name: str = NAME) -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def open(
        self,
        size: int = len(CONTENT),
        *,
        name: str = NAME,
        root: bytes = ROOT,
        boot_id: str = BOOT,
        disk: WatchedDisk | None = None,
    ) -> Partial:
        disk = disk or WatchedDisk()
        self.addCleanup(disk.crash)
        partial = Partial.open(self.fd, name, root, size, boot_id, disk=disk)
        self.made.append(partial)
        return partial

    def complete(self, content: bytes = CONTENT, disk: WatchedDisk | None = None) -> Partial:
        partial = self.open(len(content), disk=disk)
        for first, count in list(partial.missing_runs()):
            for block in range(first, first + count):
                partial.write(block, block_of(content, block))
        return partial

    def crashed(self, *blocks: int, flush: bool = True) -> None:
        """Leave what a process leaves that was killed after it wrote these blocks."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        for block in blocks:
            partial.write(block, block_of(CONTENT, block))
        if flush:
            partial.flush()
        disk.crash()

    def spoil(self, *blocks: int) -> None:
        """Change blocks of the partial file behind everybody's back."""
        with open(self.path(OWN.part), "r+b") as file:
            for block in blocks:
                file.seek(block * BLOCK)
                file.write(b"?" * len(block_of(CONTENT, block)))


def have(partial: Partial) -> set[int]:
    return {block for block in range(partial.blocks) if block in partial.have}


class Downloading(InFolder):
    """From the first block to the name."""

    def test_sizes(self) -> None:
        """Files of every awkward size come out as they went in."""
        for size in (0, 1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 1):
            content = (CONTENT * 2)[:size]
            partial = self.complete(content)
            self.assertEqual(partial.blocks, -(-size // BLOCK))
            self.assertEqual(partial.publish(replace=True, mtime_ns=MTIME), NAME)
            self.assertEqual(self.data(), content)
            self.assertEqual(self.names(), [NAME])

    def test_hidden_until_published(self) -> None:
        """Until it is published there are only hidden files, whose names do not show the name."""
        partial = self.complete()
        partial.flush()
        self.assertEqual(self.names(), sorted([OWN.part, OWN.journal]))
        self.assertTrue(OWN.part.startswith(".flow512-"))
        self.assertEqual(len(OWN.part), len(".flow512-1234567890abcdef.part"))

    def test_longest_name(self) -> None:
        """A name as long as the file system allows can be downloaded to."""
        name = "n" * 255
        partial = self.open(0, name=name)
        self.assertEqual(partial.publish(replace=False, mtime_ns=0), name)
        self.assertEqual(self.names(), [name])

    def test_mode_and_time(self) -> None:
        """It is the user's alone until it is published; then it has the usual mode, and its
        own time."""
        self.addCleanup(os.umask, os.umask(0o027))
        partial = self.complete()
        partial.flush()
        for name in (OWN.part, OWN.journal):
            self.assertEqual(stat.S_IMODE(os.stat(self.path(name)).st_mode), 0o600)
        partial.publish(replace=False, mtime_ns=MTIME)
        status = os.stat(self.path(NAME))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o640)
        self.assertEqual(status.st_mtime_ns, MTIME)

    def test_hostile_times(self) -> None:
        """Any time that a stranger can send is survived."""
        for mtime_ns in (-(2**63), -1, 0, 2**63 - 1):
            self.complete().publish(replace=True, mtime_ns=mtime_ns)
            self.assertEqual(self.data(), CONTENT)

    def test_umask_is_only_looked_at(self) -> None:
        """Looking at the umask leaves it as it was."""
        self.addCleanup(os.umask, os.umask(0o031))
        self.assertEqual(current_umask(), 0o031)
        self.assertEqual(current_umask(), 0o031)

    def test_stored(self) -> None:
        """What is in place is counted in bytes; the last block counts as long as it is."""
        partial = self.open()
        self.assertEqual(partial.stored, 0)
        partial.write(3, b"tail")
        self.assertEqual(partial.stored, 4)
        partial.write(0, block_of(CONTENT, 0))
        self.assertEqual(partial.stored, BLOCK + 4)
        self.assertEqual(self.open(0, root=bytes(32)).stored, 0)

    def test_missing_runs(self) -> None:
        """What is missing shrinks as blocks come in, in any order."""
        partial = self.open()
        self.assertEqual(list(partial.missing_runs()), [(0, 4)])
        partial.write(2, block_of(CONTENT, 2))
        self.assertEqual(list(partial.missing_runs()), [(0, 2), (3, 1)])
        partial.write(0, block_of(CONTENT, 0))
        partial.write(3, block_of(CONTENT, 3))
        partial.write(1, block_of(CONTENT, 1))
        self.assertEqual(list(partial.missing_runs()), [])
        self.assertEqual(len(partial.have), 4)

    def test_several_threads(self) -> None:
        """Several workers may vouch for blocks, record and seal at once; nothing is lost."""
        blocks, workers = 1200, 4
        partial = self.open(blocks * BLOCK)

        def work(worker: int) -> None:
            for block in range(worker, blocks, workers):
                partial.vouch([block])
                if block % 97 == 0:
                    partial.seal()

        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(list(partial.have.runs()), [(0, blocks)])
        partial.close()
        partial = self.open(blocks * BLOCK, boot_id="boot two")
        self.assertEqual(list(partial.have.runs()), [(0, blocks)])

    def test_read(self) -> None:
        """What is in place can be read back, across blocks."""
        partial = self.complete()
        self.assertEqual(partial.read(BLOCK - 2, 5), CONTENT[BLOCK - 2 : BLOCK + 3])
        self.assertEqual(partial.read(0, len(CONTENT)), CONTENT)
        self.assertEqual(os.pread(partial.fileno(), 4, 3 * BLOCK), b"tail")
        os.truncate(self.path(OWN.part), BLOCK)
        error = self.assertRaises(DiskFailure, partial.read, BLOCK - 2, 5)
        self.assertIn("cut short", str(error))

    def test_any_buffer(self) -> None:
        """A block may come as any kind of bytes."""
        partial = self.open()
        partial.write(0, bytearray(block_of(CONTENT, 0)))
        partial.write(1, memoryview(CONTENT)[BLOCK : 2 * BLOCK])
        partial.write(2, memoryview(bytearray(BLOCK)))
        self.assertEqual(partial.read(0, 3 * BLOCK), CONTENT[: 2 * BLOCK] + bytes(BLOCK))

    def test_whole_blocks_only(self) -> None:
        """A block that is not one is refused, and nothing is written."""
        partial = self.open()
        for block, data in ((0, b"short"), (3, b"tail!"), (3, b""), (4, b""), (-1, b"tail")):
            self.assertRaises(Misuse, partial.write, block, data)
        self.assertRaises(Misuse, partial.vouch, [4])
        self.assertEqual(len(partial.have), 0)
        self.assertEqual(partial.read(0, len(CONTENT)), bytes(len(CONTENT)))

    def test_in_place_already(self) -> None:
        """A block that two sources send is written once."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        partial.write(0, block_of(CONTENT, 0))
        self.assertEqual(disk.calls.count("pwrite"), 1)
        self.assertEqual(len(partial.have), 1)

    def test_zeros_stay_holes(self) -> None:
        """Blocks of zeros take no space on the disk, and still count."""
        content = bytes(BLOCK) * 64 + b"end"
        self.complete(content).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), content)
        self.assertLess(os.stat(self.path(NAME)).st_blocks * 512, BLOCK)

    def test_zeros_over_something(self) -> None:
        """Zeros are written where something else is in their place."""
        self.crashed()
        self.spoil(0)
        partial = self.open()
        partial.write(0, bytes(BLOCK))
        self.assertEqual(partial.read(0, BLOCK), bytes(BLOCK))

    def test_incomplete(self) -> None:
        """A file with a block missing is not published."""
        partial = self.open()
        for block in (0, 1, 3):
            partial.write(block, block_of(CONTENT, block))
        error = self.assertRaises(Misuse, partial.publish, replace=False, mtime_ns=0)
        self.assertIn("1 blocks are missing", str(error))
        self.assertNotIn(NAME, self.names())

    def test_sizes_that_cannot_be(self) -> None:
        """A size that no file can have is refused, and nothing is made."""
        for size in (-1, MAX_FILE_SIZE + 1):
            self.assertRaises(Misuse, self.open, size)
        self.assertEqual(self.names(), [])

    def test_size_that_lies(self) -> None:
        """The largest size costs no memory; a file system that cannot hold it says so."""

        class Boundless(WatchedDisk):
            def ftruncate(self, fd: int, length: int) -> None:
                pass

        partial = self.open(MAX_FILE_SIZE, disk=Boundless())
        self.assertEqual(list(partial.missing_runs()), [(0, 2**45)])
        partial.discard()
        disk = WatchedDisk(failing("ftruncate", errno.EFBIG))
        error = self.assertRaises(DiskFailure, self.open, MAX_FILE_SIZE, disk=disk)
        self.assertIn("File too large", str(error))
        self.assertEqual(disk.opened, set())

    def test_sparse_70_gib(self) -> None:
        """A huge file with islands of data is resumed without reading the sea between them."""
        size = 70 * 2**30 + 5
        islands = [0, 1, 511, 512, 512 * 512 - 1, 512 * 512, size // BLOCK]
        partial = self.open(size)
        for block in islands:
            partial.write(block, b"x" * min(BLOCK, size - block * BLOCK))
        partial.close()
        partial = self.open(size)
        self.assertEqual(have(partial), set(islands))
        self.assertEqual(partial.unproven, ())
        partial.close()
        os.unlink(self.path(OWN.journal))
        partial = self.open(size)
        self.assertEqual(len(partial.have), 0)
        found = {first + index for first, count in partial.unproven for index in range(count)}
        self.assertEqual(found, set(islands))

    def test_discard(self) -> None:
        """A download that is given up leaves nothing."""
        partial = self.complete()
        partial.flush()
        partial.discard()
        self.assertEqual(self.names(), [])

    def test_close_twice(self) -> None:
        """Closing twice does no harm, to nobody's files."""
        partial = self.open()
        partial.close()
        with open(self.path("other"), "wb") as other:
            partial.close()
            partial.discard()
            os.fstat(other.fileno())


class Resuming(InFolder):
    """What an earlier process left."""

    def test_after_close(self) -> None:
        """What was in place is so again, in any later boot."""
        partial = self.open()
        partial.write(1, block_of(CONTENT, 1))
        partial.close()
        for boot_id in (BOOT, "boot two", ""):
            partial = self.open(boot_id=boot_id)
            self.assertEqual(have(partial), {1})
            self.assertEqual(partial.unproven, ())
            self.assertEqual(partial.read(BLOCK, BLOCK), block_of(CONTENT, 1))
            partial.close()

    def test_after_kill(self) -> None:
        """What was flushed is in place; what was only written is worth a look."""
        self.crashed(0, 2)
        self.crashed(3, flush=False)
        partial = self.open()
        self.assertEqual(have(partial), {0, 2})
        self.assertEqual(partial.unproven, ((3, 1),))

    def test_after_power_cut(self) -> None:
        """What was not sealed is not believed in another boot, but looked at."""
        partial = self.open()
        partial.write(0, block_of(CONTENT, 0))
        partial.seal()
        partial.close()
        self.crashed(2)
        self.spoil(2)
        partial = self.open(boot_id="boot two")
        self.assertEqual(have(partial), {0})
        self.assertEqual(partial.unproven, ((2, 1),))
        partial.write(2, block_of(CONTENT, 2))
        self.assertEqual(partial.read(2 * BLOCK, BLOCK), block_of(CONTENT, 2))

    def test_vouch(self) -> None:
        """Blocks whose digests were found right count from then on."""
        self.crashed(0, 2, 3)
        os.unlink(self.path(OWN.journal))
        partial = self.open()
        self.assertEqual(partial.unproven, ((0, 1), (2, 2)))
        partial.vouch([0, 3])
        self.assertEqual(have(partial), {0, 3})
        partial.vouch([0])
        partial.close()
        self.assertEqual(have(self.open()), {0, 3})

    def test_journal_without_file(self) -> None:
        """A journal does not speak for a partial file that came after it."""
        self.crashed(0, 1, 2, 3)
        os.unlink(self.path(OWN.part))
        partial = self.open()
        self.assertEqual(len(partial.have), 0)
        self.assertEqual(partial.unproven, ())
        partial.close()
        self.assertEqual(len(self.open().have), 0)

    def test_file_cut_short(self) -> None:
        """A partial file of another length is begun anew."""
        self.crashed(0, 1, 2, 3)
        os.truncate(self.path(OWN.part), BLOCK)
        partial = self.open()
        self.assertEqual(len(partial.have), 0)
        self.assertEqual(partial.read(0, len(CONTENT)), bytes(len(CONTENT)))

    def test_torn_journal(self) -> None:
        """A journal that ends in the middle of a record is believed up to there."""
        self.crashed(0)
        self.crashed(2)
        size = os.stat(self.path(OWN.journal)).st_size
        os.truncate(self.path(OWN.journal), size - 1)
        partial = self.open()
        self.assertEqual(have(partial), {0})
        self.assertEqual(partial.unproven, ((2, 1),))

    def test_no_holes(self) -> None:
        """Where the file system knows no holes, everything is looked at if the journal has lost
        something, and nothing if not."""

        class NoHoles(WatchedDisk):
            def lseek(self, fd: int, offset: int, whence: int) -> int:
                return offset if whence == os.SEEK_DATA else len(CONTENT)

        self.crashed(0)
        partial = self.open(disk=NoHoles())
        self.assertEqual(partial.unproven, ())
        partial.close()
        os.unlink(self.path(OWN.journal))
        self.assertEqual(self.open(disk=NoHoles()).unproven, ((0, 4),))

    def test_two_processes(self) -> None:
        """Only one at a time may download a file to one place."""
        partial = self.open()
        error = self.assertRaises(StateInUse, self.open)
        self.assertIn("being downloaded", str(error))
        self.open(root=bytes(32)).close()
        self.open(name="other").close()
        partial.close()
        self.open()

    def test_published_while_opening(self) -> None:
        """A partial file that is published just before we lock it is not written to."""

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "flock" and not os.path.exists(self.path(NAME)):
                os.rename(self.path(OWN.part), self.path(NAME))

        self.crashed(0)
        partial = self.open(disk=WatchedDisk(before))
        partial.write(1, block_of(CONTENT, 1))
        self.assertEqual(self.data(), block_of(CONTENT, 0) + bytes(len(CONTENT) - BLOCK))
        self.assertEqual(have(partial), {1})

    def test_always_taken_away(self) -> None:
        """One that others take away again and again is left to them."""

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "flock":
                os.unlink(self.path(OWN.part))

        disk = WatchedDisk(before)
        self.assertRaises(StateInUse, self.open, disk=disk)
        self.assertEqual(disk.opened, set())

    def test_second_name(self) -> None:
        """A partial file that has a second name is somebody's file by now: it is left alone."""
        self.crashed(0, 1, 2, 3)
        os.link(self.path(OWN.part), self.path("mine.pdf"))
        partial = self.open()
        self.assertEqual(len(partial.have), 0)
        partial.write(0, b"!" * BLOCK)
        self.assertEqual(self.data("mine.pdf"), CONTENT)

    def test_journal_with_second_name(self) -> None:
        """Nor is a file written to that was linked to the journal's name."""
        self.put("victim")
        self.crashed()
        os.unlink(self.path(OWN.journal))
        os.link(self.path("victim"), self.path(OWN.journal))
        partial = self.open()
        partial.write(0, block_of(CONTENT, 0))
        partial.close()
        self.assertEqual(self.data("victim"), b"somebody's")
        self.assertEqual(have(self.open()), {0})

    def test_links_in_place(self) -> None:
        """A link, folder or FIFO in the place of a hidden file is refused, and not followed."""
        for name in (OWN.part, OWN.journal):
            self.put("victim")
            for make in (
                lambda path: os.symlink("victim", path),
                lambda path: os.symlink("new", path),
                os.mkfifo,
                os.mkdir,
            ):
                make(self.path(name))
                disk = WatchedDisk()
                error = self.assertRaises(UnsafeName, self.open, disk=disk)
                self.assertIn(name, str(error))
                self.assertEqual(disk.opened, set())
                if os.path.isdir(self.path(name)):
                    os.rmdir(self.path(name))
                else:
                    os.unlink(self.path(name))
            self.assertEqual(self.data("victim"), b"somebody's")
            self.assertNotIn("new", self.names())

    def test_hostile_names(self) -> None:
        """A name that must not touch the disk does not."""
        for name in ("../x", "", "a/b", "CON", ".flow512-x", "a\nb", "what?"):
            self.assertRaises(UnsafeName, self.open, name=name)
            self.assertRaises(UnsafeName, check_target, self.fd, name, ROOT, replace=True)
        self.assertEqual(self.names(), [])


class Publishing(InFolder):
    """The name, and who has it already."""

    def refused(self, *, replace: bool = False, disk: WatchedDisk | None = None) -> str:
        """
        Expect the name to be taken, both for the early check and at the end; and nothing that
        others have to be touched.
        """
        before = {name: os.lstat(self.path(name)) for name in self.names()}
        early = self.assertRaises(
            TargetExists, check_target, self.fd, NAME, ROOT, replace=replace, disk=disk or Disk()
        )
        partial = self.complete(disk=disk)
        late = self.assertRaises(TargetExists, partial.publish, replace=replace, mtime_ns=0)
        self.assertEqual(str(early), str(late))
        self.assertIn("-o", str(early))
        partial.discard()
        after = {name: os.lstat(self.path(name)) for name in self.names()}
        self.assertEqual(before.keys(), after.keys())
        for name, status in before.items():
            self.assertEqual(status.st_ino, after[name].st_ino)
            self.assertEqual(status.st_mtime_ns, after[name].st_mtime_ns)
        return str(early)

    def test_never_over_a_file(self) -> None:
        """A file that is there already is not replaced, with hard links or without."""
        for data in (b"somebody's", b""):
            self.put(NAME, data)
            for disk in (None, NoLinks()):
                self.assertIn("--replace", self.refused(disk=disk))
                self.assertEqual(self.data(), data)

    def test_never_over_an_empty_file(self) -> None:
        """An empty file is somebody's too, even beside a partial file that was left."""
        self.crashed(0)
        self.put(NAME, b"")
        self.assertRaises(TargetExists, check_target, self.fd, NAME, ROOT, replace=False)
        partial = self.complete()
        self.assertRaises(TargetExists, partial.publish, replace=False, mtime_ns=0)
        self.assertEqual(self.data(), b"")

    def test_never_over_anything(self) -> None:
        """Nor is a link, wherever it points, nor a FIFO."""
        for make in (
            lambda path: os.symlink("none", path),
            lambda path: os.symlink("/", path),
            os.mkfifo,
        ):
            make(self.path(NAME))
            for disk in (None, NoLinks()):
                self.refused(disk=disk)
            os.unlink(self.path(NAME))

    def test_never_over_a_folder(self) -> None:
        """A folder is not replaced even if the user says so, be it empty."""
        os.mkdir(self.path(NAME))
        for replace in (False, True):
            self.assertIn("folder", self.refused(replace=replace))

    def test_twins(self) -> None:
        """Nor does it come to stand beside a name that other systems cannot tell from it."""
        self.put("REPORT.pdf")
        for replace in (False, True):
            self.assertIn("REPORT.pdf", self.refused(replace=replace))

    def test_replace_beside_a_twin(self) -> None:
        """Where both spellings are there already, the right one is replaced."""
        self.put("REPORT.pdf")
        self.put(NAME)
        check_target(self.fd, NAME, ROOT, replace=True)
        self.complete().publish(replace=True, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)
        self.assertEqual(self.data("REPORT.pdf"), b"somebody's")

    def test_replace(self) -> None:
        """A file is replaced if the user says so; whoever has it open keeps the old one."""
        self.put(NAME)
        with open(self.path(NAME), "rb") as old:
            check_target(self.fd, NAME, ROOT, replace=True)
            self.complete().publish(replace=True, mtime_ns=0)
            self.assertEqual(old.read(), b"somebody's")
        self.assertEqual(self.data(), CONTENT)
        self.assertEqual(self.names(), [NAME])

    def test_replace_a_link(self) -> None:
        """A link is replaced itself; what it points to is not touched."""
        self.put("victim")
        os.symlink("victim", self.path(NAME))
        self.complete().publish(replace=True, mtime_ns=0)
        self.assertEqual(self.data("victim"), b"somebody's")
        self.assertFalse(os.path.islink(self.path(NAME)))
        self.assertEqual(self.data(), CONTENT)

    def test_appears_at_the_last_instant(self) -> None:
        """A file that appears between the check and the publishing is not replaced."""

        def appear_before(call: str) -> Step:
            def before(count: int, name: str, args: tuple[Any, ...]) -> None:
                if name == call and args[0] in (NAME, OWN.part):
                    self.put(NAME)

            return before

        for make_disk, call in ((WatchedDisk, "link"), (NoLinks, "open")):
            disk = make_disk()
            partial = self.complete(disk=disk)
            check_target(self.fd, NAME, ROOT, replace=False)
            disk.before = appear_before(call)
            self.assertRaises(TargetExists, partial.publish, replace=False, mtime_ns=0)
            self.assertEqual(self.data(), b"somebody's")
            os.unlink(self.path(NAME))
            disk.before = None
            partial.publish(replace=False, mtime_ns=0)
            self.assertEqual(self.data(), CONTENT)
            os.unlink(self.path(NAME))
            self.assertEqual(self.names(), [])

    def test_free(self) -> None:
        """A free name is free, and checking makes nothing."""
        self.put("other.pdf")
        check_target(self.fd, NAME, ROOT, replace=False)
        self.assertEqual(self.names(), ["other.pdf"])

    def test_partial_file_taken_away(self) -> None:
        """If the partial file was removed or replaced, no other file gets the name."""
        for put in (False, True):
            partial = self.complete()
            os.unlink(self.path(OWN.part))
            if put:
                self.put(OWN.part)
            error = self.assertRaises(DiskFailure, partial.publish, replace=False, mtime_ns=0)
            self.assertIn("taken away", str(error))
            partial.discard()
            self.assertEqual(self.names(), [])

    def test_folder_cannot_be_synced(self) -> None:
        """A file system that cannot sync a folder is no reason to fail."""
        disk = WatchedDisk(failing("fsync", errno.EINVAL))
        self.complete(disk=disk).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.names(), [NAME])

    def test_mode_cannot_be_kept(self) -> None:
        """Nor is one that keeps neither modes nor times."""

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name in ("fchmod", "utime"):
                raise PermissionError(errno.EPERM, "no")

        self.complete(disk=WatchedDisk(before)).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)

    def test_order_of_things(self) -> None:
        """The data is on the disk before the name is given, and the name before the journal
        goes."""
        disk = WatchedDisk()
        partial = self.complete(disk=disk)
        del disk.calls[:]
        partial.publish(replace=False, mtime_ns=0)
        order = [disk.calls.index(name) for name in ("fdatasync", "fchmod", "link", "unlink")]
        self.assertEqual(order, sorted(order))
        fsync = disk.calls.index("fsync")
        self.assertIn("unlink", disk.calls[fsync:])
        self.assertEqual(disk.opened, set())


class Failures(InFolder):
    """A disk that does not play along."""

    def scenario(self, disk: WatchedDisk) -> None:
        """A whole download, in two sittings."""
        check_target(self.fd, NAME, ROOT, replace=False, disk=disk)
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        partial.write(2, block_of(CONTENT, 2))
        partial.flush()
        partial.write(3, block_of(CONTENT, 3))
        partial.close()
        partial = self.open(disk=disk)
        partial.write(1, block_of(CONTENT, 1))
        for block in range(4):
            partial.write(block, block_of(CONTENT, block))
        partial.publish(replace=False, mtime_ns=MTIME)

    def finish(self, disk: WatchedDisk | None = None, boot_id: str = BOOT) -> None:
        """Go on after a failure, as the next process does; it must end well."""
        disk = disk or WatchedDisk()
        try:
            check_target(self.fd, NAME, ROOT, replace=False, disk=disk)
        except TargetExists:
            pass
        else:
            partial = self.open(disk=disk, boot_id=boot_id)
            for block in have(partial):
                length = len(block_of(CONTENT, block))
                self.assertEqual(partial.read(block * BLOCK, length), block_of(CONTENT, block))
            for first, count in list(partial.missing_runs()):
                for block in range(first, first + count):
                    partial.write(block, block_of(CONTENT, block))
            partial.publish(replace=False, mtime_ns=MTIME)
        self.assertEqual(self.data(), CONTENT)
        self.assertEqual(self.names(), [NAME])
        os.unlink(self.path(NAME))

    def check_killed(self, make_disk: Callable[[Any], WatchedDisk]) -> None:
        """
        Kill the process before each of its calls in turn, and let a writing call do half its
        work; look at what is left; and go on.
        """
        for call in range(1, 1000):
            disk = make_disk(dying_at(call))
            try:
                self.scenario(disk)
            except Killed:
                disk.crash()
            else:
                self.assertEqual(self.data(), CONTENT)
                self.assertGreater(call, 40)
                os.unlink(self.path(NAME))
                return
            if NAME in self.names() and self.data() != CONTENT:
                self.assertEqual(self.data(), b"")
                self.assertIn(OWN.placing, self.names())
                self.assertIn(OWN.part, self.names())
            self.finish(make_disk(None))
        self.fail("The scenario does not end.")

    def test_killed_anywhere(self) -> None:
        """Killed between any two calls, the file is there whole or goes on, and nothing is left."""
        self.check_killed(WatchedDisk)

    def test_killed_anywhere_without_links(self) -> None:
        """The same holds where there are no hard links."""
        self.check_killed(NoLinks)

    def test_power_cut_anywhere(self) -> None:
        """
        Whenever the power fails, and the disk then has the journal and the names but no data
        that was not synced: no wrong block is believed, and no wrong file has the name.
        """
        for call in range(1, 1000):
            disk = ForgetfulDisk(dying_at(call))
            try:
                self.scenario(disk)
            except Killed:
                disk.crash()
            else:
                return
            for name in (OWN.part, NAME):
                if name in self.names():
                    disk.forget(self.path(name))
            self.finish(boot_id="boot two")
        self.fail("The scenario does not end.")

    def test_killed_while_replacing(self) -> None:
        """Killed anywhere while it replaces a file, that is always the old one or the new."""
        for call in range(1, 100):
            self.put(NAME)
            disk = WatchedDisk(dying_at(call))
            try:
                self.complete(disk=disk).publish(replace=True, mtime_ns=0)
            except Killed:
                disk.crash()
            else:
                return
            self.assertIn(self.data(), (b"somebody's", CONTENT))
            check_target(self.fd, NAME, ROOT, replace=True)
            self.complete().publish(replace=True, mtime_ns=0)
            self.assertEqual(self.data(), CONTENT)
            self.assertEqual(self.names(), [NAME])
        self.fail("It does not end.")

    def test_flushed_is_kept(self) -> None:
        """Whenever it is killed after a flush, what was flushed is not fetched again."""
        for call in range(1, 1000):
            disk = WatchedDisk()
            partial = self.open(disk=disk)
            partial.write(0, block_of(CONTENT, 0))
            partial.flush()
            disk.before = dying_at(len(disk.calls) + call)
            try:
                for block in range(1, 4):
                    partial.write(block, block_of(CONTENT, block))
                partial.publish(replace=False, mtime_ns=0)
            except Killed:
                disk.crash()
            else:
                return
            if NAME not in self.names():
                partial = self.open()
                self.assertIn(0, partial.have)
                partial.discard()
            else:
                os.unlink(self.path(NAME))
                self.open().discard()
        self.fail("It does not end.")

    def test_any_call_fails(self) -> None:
        """
        Whichever call fails, with whatever error: it is named, nothing is left open, and the
        next start ends well.
        """
        for make_disk in (WatchedDisk, NoLinks):
            for number, kind in ((errno.EIO, DiskFailure), (errno.ENOSPC, DiskFull)):
                for call in range(1, 1000):
                    disk = make_disk(failing_at(number, call))
                    try:
                        self.scenario(disk)
                    except kind:
                        pass
                    for partial in self.made:
                        partial.close()
                    self.assertEqual(disk.opened, set())
                    if call > len(disk.calls):
                        break
                    self.finish(make_disk(None))
                else:
                    self.fail("The scenario does not end.")
                os.unlink(self.path(NAME))

    def test_disk_full_and_freed(self) -> None:
        """When the disk is full, a block is not in place; with space again, all goes on."""
        disk = WatchedDisk(failing("pwrite", errno.ENOSPC))
        partial = self.open(disk=disk)
        error = self.assertRaises(DiskFull, partial.write, 0, block_of(CONTENT, 0))
        self.assertIn(NAME, str(error))
        self.assertNotIn(0, partial.have)
        for block in range(4):
            partial.write(block, block_of(CONTENT, block))
        partial.publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)

    def test_short_writes(self) -> None:
        """A disk that takes only some of what it is given gets the rest."""

        class Nibbling(WatchedDisk):
            def pwrite(self, fd: int, data: Any, offset: int) -> int:
                return os.pwrite(fd, data[:100_000], offset)

        self.complete(disk=Nibbling()).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)

    def test_no_writes(self) -> None:
        """A disk that takes nothing, and does not say why, is not asked for ever."""

        class Deaf(WatchedDisk):
            def pwrite(self, fd: int, data: Any, offset: int) -> int:
                return 0

        partial = self.open(disk=Deaf())
        self.assertRaises(DiskFailure, partial.write, 0, block_of(CONTENT, 0))
        self.assertNotIn(0, partial.have)

    def test_journal_full(self) -> None:
        """What could not be recorded can be later."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        disk.before = failing("pwrite", errno.ENOSPC)
        self.assertRaises(DiskFull, partial.flush)
        partial.flush()
        partial.close()
        self.assertEqual(have(self.open()), {0})

    def test_close_on_a_full_disk(self) -> None:
        """A partial file can be closed on a full disk; what is not recorded is looked at."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        disk.before = failing("pwrite", errno.ENOSPC)
        partial.close()
        self.assertEqual(disk.opened, set())
        partial = self.open()
        self.assertEqual(len(partial.have), 0)
        self.assertEqual(partial.unproven, ((0, 1),))

    def test_sync_fails_once(self) -> None:
        """
        After a sync has failed, nothing written before is believed, however well the next one
        goes: not to publish it, and not after a restart.
        """
        disk = WatchedDisk()
        partial = self.complete(disk=disk)
        partial.flush()
        disk.before = failing("fdatasync", errno.EIO)
        self.assertRaises(DiskFailure, partial.publish, replace=False, mtime_ns=0)
        self.assertRaises(DiskFailure, partial.publish, replace=False, mtime_ns=0)
        self.assertRaises(DiskFailure, partial.flush)
        partial.close()
        self.assertNotIn(NAME, self.names())
        partial = self.open()
        self.assertEqual(len(partial.have), 0)
        self.assertEqual(partial.unproven, ((0, 4),))

    def test_read_error(self) -> None:
        """A read error is named."""
        disk = WatchedDisk()
        partial = self.complete(disk=disk)
        disk.before = failing("pread", errno.EIO)
        error = self.assertRaises(DiskFailure, partial.read, 0, 1)
        self.assertIn("reading 'report.pdf'", str(error))

    def test_retried_after_the_link(self) -> None:
        """If tidying up fails after the name was given, publishing again ends well."""
        for make_disk in (WatchedDisk, NoLinks):
            disk = make_disk()
            partial = self.complete(disk=disk)
            disk.before = failing("unlink", errno.EIO)
            self.assertRaises(DiskFailure, partial.publish, replace=False, mtime_ns=0)
            if make_disk is WatchedDisk:
                partial.publish(replace=False, mtime_ns=0)
            partial.close()
            self.assertEqual(self.data(), CONTENT)
            os.unlink(self.path(NAME))

    def test_rename_fails_without_links(self) -> None:
        """If the renaming fails, the placeholder goes, and publishing again ends well."""
        disk = NoLinks(failing("rename", errno.EIO))
        partial = self.complete(disk=disk)
        self.assertRaises(DiskFailure, partial.publish, replace=False, mtime_ns=0)
        self.assertNotIn(NAME, self.names())
        partial.publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)
        self.assertEqual(self.names(), [NAME])

    def test_discard_fails(self) -> None:
        """A partial file that cannot be removed is said to be, and nothing stays open."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        disk.before = failing("unlink", errno.EROFS)
        self.assertRaises(ResourceFailure, partial.discard)
        self.assertEqual(disk.opened, set())
