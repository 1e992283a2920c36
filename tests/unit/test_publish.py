"""
Tests for L{flow512.content.publish}, by way of partial files.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from flow512.content import publish
from flow512.content.disk import Disk
from flow512.content.publish import check_target, current_umask
from flow512.errors import (
    DiskFailure,
    DiskFull,
    TargetExists,
)
from tests.unit.partial_files import (
    CONTENT,
    NAME,
    OWN,
    ROOT,
    InFolder,
    NoLinks,
    Step,
    WatchedDisk,
    failing,
)


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

    def test_never_over_what_came_for_a_placeholder(self) -> None:
        """
        Where a process died while it claimed the name, only an empty file of that name is ours:
        what somebody has put there since stays, and is not removed either.
        """
        for make in (self.put, lambda name: os.mkfifo(self.path(name))):
            self.crashed(0)
            self.put(OWN.placing, b"")
            make(NAME)
            before = os.lstat(self.path(NAME))
            self.assertRaises(TargetExists, check_target, self.fd, NAME, ROOT, replace=False)
            partial = self.complete()
            self.assertRaises(TargetExists, partial.publish, replace=False, mtime_ns=0)
            partial.discard()
            self.assertEqual(os.lstat(self.path(NAME)), before)
            os.unlink(self.path(NAME))

    def test_never_over_an_empty_file_after_a_placeholder(self) -> None:
        """Once the download has gone on, an empty file is somebody's again, and not ours."""
        self.crashed(0)
        self.put(OWN.placing, b"")
        self.open().close()
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
            self.assertNotIn(OWN.placing, self.names(), "an empty file there is not ours")
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

    def test_failing_disk(self) -> None:
        """
        A disk that fails is no disk without links, or that cannot sync a folder: that is said, and
        the file is published the next time.
        """
        for make_disk, call, replace in (
            (WatchedDisk, "link", False),
            (NoLinks, "rename", False),
            (WatchedDisk, "fsync", False),
            (WatchedDisk, "fsync", True),
        ):
            disk = make_disk()
            partial = self.complete(disk=disk)
            disk.before = failing(call, errno.EIO)
            self.assertRaises(DiskFailure, partial.publish, replace=replace, mtime_ns=0)
            if call != "fsync":
                self.assertEqual(self.names(), sorted((OWN.part, OWN.journal)))
            partial.publish(replace=replace, mtime_ns=0)
            self.assertEqual((self.names(), self.data()), ([NAME], CONTENT))
            os.unlink(self.path(NAME))

    def test_no_room_for_a_name(self) -> None:
        """Where there are no links, a name that cannot be claimed first is not given at all."""
        disk = NoLinks()
        partial = self.complete(disk=disk)

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "open" and args[0] == NAME:
                raise OSError(errno.ENOSPC, "full")

        disk.before = before
        self.assertRaises(DiskFull, partial.publish, replace=False, mtime_ns=0)
        self.assertEqual(self.names(), sorted((OWN.part, OWN.journal)))

    def test_mode_cannot_be_kept(self) -> None:
        """Nor is one that keeps neither modes nor times."""

        def before(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name in ("fchmod", "utime"):
                raise PermissionError(errno.EPERM, "no")

        self.complete(disk=WatchedDisk(before)).publish(replace=False, mtime_ns=0)
        self.assertEqual(self.data(), CONTENT)

    def test_umask(self) -> None:
        """The umask is found out without a moment of another, where the system tells it."""
        self.addCleanup(os.umask, os.umask(0o031))
        self.assertEqual(current_umask(), 0o031)
        self.patch(publish, "_STATUS", self.path("none"))
        self.assertEqual(current_umask(), 0o031)
        self.put("status", b"Name:\ta\n")
        self.patch(publish, "_STATUS", self.path("status"))
        self.assertEqual(current_umask(), 0o031)
        self.put("status", b"Name:\ta\nUmask:\t0027\n")
        self.assertEqual(current_umask(), 0o027)

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
