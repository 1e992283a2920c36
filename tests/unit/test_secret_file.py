"""Tests for L{flow512.link.secret_file}."""

from __future__ import annotations

import errno
import os
import stat
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import DiskFailure, DiskFull, Misuse
from flow512.link.secret_file import MAX_SECRET, read_secret, replace_secret, write_new_secret
from tests.unit.transfer_ends import a_folder


class SecretFileTests(SynchronousTestCase):
    """Files that only their owner reads."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.path = self.folder / "secret"

    def test_private(self) -> None:
        """What is written is for its owner only, whatever the umask, and nothing lies beside it."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        replace_secret(str(self.path), b"one")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        replace_secret(str(self.path), b"two")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(read_secret(str(self.path)), b"two")
        self.assertEqual(os.listdir(self.folder), ["secret"])

    def test_open_to_others(self) -> None:
        """A file that others can read, write or run is refused, with the command that mends it."""
        replace_secret(str(self.path), b"one")
        for mode in (0o640, 0o604, 0o620, 0o602, 0o610, 0o601):
            self.path.chmod(mode)
            with self.assertRaises(Misuse) as caught:
                read_secret(str(self.path))
            self.assertIn(f"`chmod 600 '{self.path}'`", str(caught.exception))
        self.path.chmod(0o400)
        self.assertEqual(read_secret(str(self.path)), b"one")

    def test_links(self) -> None:
        """A link to a secret file is as good as the file, and as bad."""
        link = self.folder / "link"
        link.symlink_to(self.path)
        self.assertIsNone(read_secret(str(link)))
        replace_secret(str(self.path), b"one")
        self.assertEqual(read_secret(str(link)), b"one")
        self.path.chmod(0o644)
        with self.assertRaises(Misuse):
            read_secret(str(link))

    def test_missing(self) -> None:
        """No file is L{None}; so is a name that no file can have."""
        for path in (self.path, self.path / "below", f"{self.path}\0"):
            self.assertIsNone(read_secret(str(path)))

    def test_new(self) -> None:
        """Of several who write a first file one does, and his stays."""
        self.assertTrue(write_new_secret(str(self.path), b"one"))
        self.assertFalse(write_new_secret(str(self.path), b"two"))
        self.assertEqual(read_secret(str(self.path)), b"one")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.folder), ["secret"])

    def test_disk_full(self) -> None:
        """When the disk is full the old content stays, and no half of the new one lies about."""
        replace_secret(str(self.path), b"one")
        for write in (replace_secret, write_new_secret):
            with (
                mock.patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "full")),
                self.assertRaises(DiskFull),
            ):
                write(str(self.path), b"two")
        self.assertEqual(read_secret(str(self.path)), b"one")
        self.assertEqual(os.listdir(self.folder), ["secret"])

    def test_on_the_disk_before_its_name(self) -> None:
        """The content is on the disk before it has its name, and then the name is."""
        real, done = os.fsync, []

        def fsync(fd: int) -> None:
            done.append(
                ("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file", self.path.exists())
            )
            real(fd)

        with mock.patch.object(os, "fsync", fsync):
            replace_secret(str(self.path), b"one")
        self.assertEqual(done, [("file", False), ("folder", True)])

    def test_no_file(self) -> None:
        """A folder in its place, or none around it, is named as the disk names it."""
        self.path.mkdir(mode=0o700)
        for call in (
            lambda: read_secret(str(self.path)),
            lambda: replace_secret(str(self.path), b""),
        ):
            with self.assertRaises(DiskFailure) as caught:
                call()
            self.assertIn(os.strerror(errno.EISDIR), str(caught.exception))
        with self.assertRaises(DiskFailure):
            replace_secret(str(self.folder / "nowhere" / "secret"), b"")

    def test_endless(self) -> None:
        """No more is read than such a file can hold."""
        replace_secret(str(self.path), bytes(MAX_SECRET + 1))
        self.assertEqual(len(read_secret(str(self.path)) or b""), MAX_SECRET)
