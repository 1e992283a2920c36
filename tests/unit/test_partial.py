"""
Tests for L{flow512.content.partial}.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from typing import Any

from flow512.content.partial import TOUCHED
from flow512.content.publish import check_target, current_umask
from flow512.errors import (
    DiskFailure,
    Misuse,
    StateInUse,
    UnsafeName,
)
from flow512.units import BLOCK, MAX_FILE_SIZE
from tests.unit.partial_files import (
    BOOT,
    CONTENT,
    MTIME,
    NAME,
    OWN,
    ROOT,
    InFolder,
    WatchedDisk,
    block_of,
    failing,
    have,
)


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
        self.assertEqual(disk.calls.count("pwritev"), 1)
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

    def test_vouch_before_a_kill(self) -> None:
        """Nor have they to be looked at again after the process was killed."""
        disk = WatchedDisk()
        self.open(disk=disk).vouch([0, 3])
        disk.crash()
        self.assertEqual(have(self.open()), {0, 3})

    def test_recorded_once(self) -> None:
        """The journal grows by what is new, and by nothing that it says already."""
        partial = self.open()
        sizes = []
        for block in (0, 2, 2, 3):
            partial.write(block, block_of(CONTENT, block))
            partial.flush()
            partial.flush()
            sizes.append(os.stat(self.path(OWN.journal)).st_size)
        record = sizes[1] - sizes[0]
        self.assertGreater(record, 0)
        self.assertEqual(sizes[1:], [sizes[0] + record] * 2 + [sizes[0] + 2 * record])

    def test_private_again(self) -> None:
        """What a process was about to publish when it died is for nobody else while it is not."""
        self.crashed(0)
        os.chmod(self.path(OWN.part), 0o644)
        self.open()
        self.assertEqual(stat.S_IMODE(os.stat(self.path(OWN.part)).st_mode), 0o600)

    def test_disk_that_cannot_look(self) -> None:
        """A disk that fails when it is asked where data is has not said that there is none."""
        self.crashed(0, 2)
        disk = WatchedDisk(failing("lseek", errno.EIO))
        self.assertRaises(DiskFailure, self.open, disk=disk)
        self.assertEqual(disk.opened, set())
        self.assertEqual(have(self.open()), {0, 2})

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

    def test_written_to_by_another(self) -> None:
        """
        When something was written to the file long after its journal, nothing is vouched for, and
        all that is there is looked at.
        """
        self.crashed(0, 1, 2, 3)
        recorded = os.stat(self.path(OWN.journal)).st_mtime
        os.utime(self.path(OWN.part), (recorded, recorded + TOUCHED - 1))
        partial = self.open()
        self.assertEqual(have(partial), {0, 1, 2, 3})
        partial.close()
        os.utime(self.path(OWN.part), (recorded, recorded + TOUCHED + 1))
        partial = self.open()
        self.assertEqual((have(partial), partial.unproven), (set(), ((0, 4),)))

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

    def test_replaced_while_opening(self) -> None:
        """Of one that another process makes anew just before we lock it that is written to."""

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "flock" and not replaced:
                replaced.append(self.path(OWN.part))
                os.unlink(self.path(OWN.part))
                self.put(OWN.part, b"")

        replaced: list[str] = []
        self.complete(disk=WatchedDisk(before)).publish(replace=False, mtime_ns=0)
        self.assertEqual((self.names(), self.data()), ([NAME], CONTENT))

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
