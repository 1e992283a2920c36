"""
Partial files on a disk that fails, and in a process that dies, at every single call.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any
from unittest import SkipTest, mock

from twisted.trial.unittest import SynchronousTestCase

from flow512.content import disk as disk_module
from flow512.content.disk import Disk
from flow512.content.partial import WRITE_BEHIND, Partial
from flow512.content.publish import check_target
from flow512.errors import (
    DiskFailure,
    DiskFull,
    ResourceFailure,
    TargetExists,
)
from flow512.units import BLOCK
from tests.unit.partial_files import (
    BOOT,
    CONTENT,
    MTIME,
    NAME,
    OWN,
    ROOT,
    ForgetfulDisk,
    InFolder,
    Killed,
    NoLinks,
    WatchedDisk,
    block_of,
    dying_at,
    failing,
    failing_at,
    have,
)


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
        disk = WatchedDisk(failing("pwritev", errno.ENOSPC))
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
            def pwritev(self, fd: int, parts: Any, offset: int) -> int:
                return os.pwrite(fd, b"".join(parts)[:100_000], offset)

        self.complete(disk=Nibbling()).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)

    def test_no_writes(self) -> None:
        """A disk that takes nothing, and does not say why, is not asked for ever."""

        class Deaf(WatchedDisk):
            def pwritev(self, fd: int, parts: Any, offset: int) -> int:
                return 0

        partial = self.open(disk=Deaf())
        self.assertRaises(DiskFailure, partial.write, 0, block_of(CONTENT, 0))
        self.assertNotIn(0, partial.have)

    def test_journal_full(self) -> None:
        """What could not be recorded can be later."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        disk.before = failing("pwritev", errno.ENOSPC)
        self.assertRaises(DiskFull, partial.flush)
        partial.flush()
        partial.close()
        self.assertEqual(have(self.open()), {0})

    def test_close_on_a_full_disk(self) -> None:
        """A partial file can be closed on a full disk; what is not recorded is looked at."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        partial.write(0, block_of(CONTENT, 0))
        disk.before = failing("pwritev", errno.ENOSPC)
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

    def large(self, disk: WatchedDisk) -> Partial:
        """Begin a download of so much that the disk is kept up with."""
        return Partial.open(self.fd, NAME, ROOT, 3 * WRITE_BEHIND, BOOT, disk=disk)

    def test_write_behind(self) -> None:
        """
        While a large file comes the disk is kept up with, so that little is left to be waited for
        at its end; but not for holes, of which it has nothing to keep.
        """
        disk = WatchedDisk()
        partial = self.large(disk)
        for block in range(partial.blocks // 3 * 2):
            partial.write(block, bytes(BLOCK))
        self.assertEqual(disk.calls.count("write_behind"), 0)
        for block in range(partial.blocks // 3 * 2, partial.blocks):
            self.assertEqual(disk.calls.count("write_behind"), 0)
            partial.write(block, b"x" * BLOCK)
        self.assertEqual(disk.calls.count("write_behind"), 1)
        partial.discard()

    def test_write_behind_fails(self) -> None:
        """What the disk could not keep meanwhile is believed no more than after a failed sync."""
        disk = WatchedDisk()
        partial = self.large(disk)
        partial.write(0, b"x" * BLOCK)
        partial.flush()
        disk.before = failing("write_behind", errno.EIO)
        with self.assertRaises(DiskFailure):
            for block in range(1, partial.blocks):
                partial.write(block, b"x" * BLOCK)
        self.assertRaises(DiskFailure, partial.flush)
        partial.close()
        again = self.large(WatchedDisk())
        self.assertEqual(len(again.have), 0)
        again.discard()

    def test_disk_is_full_behind(self) -> None:
        """A disk that has no room for what it was to keep is full, and that is said."""
        disk = WatchedDisk()
        partial = self.large(disk)
        disk.before = failing("write_behind", errno.ENOSPC)
        with self.assertRaises(DiskFull):
            for block in range(partial.blocks):
                partial.write(block, b"x" * BLOCK)
        partial.discard()

    def test_read_error(self) -> None:
        """A read error is named."""
        disk = WatchedDisk()
        partial = self.complete(disk=disk)
        disk.before = failing("preadv", errno.EIO)
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


class WriteBehindTests(SynchronousTestCase):
    """L{Disk.write_behind}, which asks the system for more than C{os} has."""

    def test_no_such_file(self) -> None:
        """What the system says is passed on, where it has the call."""
        if sys.platform != "linux":
            raise SkipTest("only Linux has the call")
        error = self.assertRaises(OSError, Disk().write_behind, -1)
        self.assertEqual(error.errno, errno.EBADF)

    def test_no_such_call(self) -> None:
        """Where there is no such call, or it may not be used, nothing happens."""
        for found in (None, lambda *_: errno.ENOSYS, lambda *_: errno.EPERM):
            with mock.patch.object(disk_module, "_sync_file_range", lambda found=found: found):
                Disk().write_behind(-1)
