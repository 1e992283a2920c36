"""Tests for L{flow512.link.listening_file}."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import DiskFailure
from flow512.link.listening_file import Listening, ListeningFile, read_listening
from tests.unit.transfer_ends import a_folder


class ListeningFileTests(SynchronousTestCase):
    """What a running node tells the commands beside it."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.state = str(self.folder)
        self.path = Path(self.state, "listening")

    def test_told(self) -> None:
        """It is there from when the node says so until it says goodbye, for its owner only."""
        self.assertIsNone(read_listening(self.state))
        self.assertIsNone(read_listening(os.path.join(self.state, "nowhere")))
        for listening in (Listening("", 5000), Listening("192.0.2.7", 1), Listening("::1", 65535)):
            told = ListeningFile(self.state, listening)
            self.assertEqual(read_listening(self.state), listening)
            self.assertEqual(read_listening(self.state), listening)
            self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
            told.close()
            self.assertIsNone(read_listening(self.state))
            self.assertEqual(os.listdir(self.state), [])

    def test_killed(self) -> None:
        """What a node left that was killed counts for nothing, and the next one writes over it."""
        self.path.write_text("192.0.2.200 50000\n")
        self.assertIsNone(read_listening(self.state))
        told = ListeningFile(self.state, Listening("", 5001))
        self.addCleanup(told.close)
        self.assertEqual(read_listening(self.state), Listening("", 5001))
        self.assertEqual(self.path.read_text(), "* 5001\n")

    def test_removed(self) -> None:
        """A node whose folder somebody emptied ends in peace."""
        told = ListeningFile(self.state, Listening("", 5000))
        self.path.unlink()
        told.close()

    def test_nonsense(self) -> None:
        """What is no address is none, even while it is held."""
        told = ListeningFile(self.state, Listening("", 5000))
        self.addCleanup(told.close)
        for text in (b"", b"5000", b"* x", b"* 0", b"* 65536", b"a b c", b"\xff\xff"):
            self.path.write_bytes(text)
            self.assertIsNone(read_listening(self.state), text)

    def test_disk_errors(self) -> None:
        """What the disk does not let us do is named, and leaves no descriptor open."""
        before = len(os.listdir("/proc/self/fd"))
        with (
            mock.patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks")),
            self.assertRaises(DiskFailure),
        ):
            ListeningFile(self.state, Listening("", 5000))
        self.path.unlink()
        self.path.mkdir()
        with self.assertRaises(DiskFailure):
            ListeningFile(self.state, Listening("", 5000))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
