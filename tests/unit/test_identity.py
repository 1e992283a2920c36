"""Tests for L{flow512.link.identity}."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import DiskFailure, DiskFull, Misuse, StateInUse
from flow512.link.identity import ID_SIZE, Identity, StateFolder, check_names, default_state
from tests.unit.transfer_ends import a_folder


class PemTests(SynchronousTestCase):
    """What an identity is kept as."""

    def test_written(self) -> None:
        """Everybody else reads what is written, and finds the same key and node id in it."""
        identity = Identity.from_seed(b"s" * 32)
        key = load_pem_private_key(identity.pem(), None)
        assert isinstance(key, Ed25519PrivateKey)
        self.assertEqual(key.private_bytes_raw(), b"s" * 32)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(identity.node, hashlib.sha256(public).digest())

    def test_read(self) -> None:
        """However others write a key, and whatever follows it, it is the same identity."""
        identity = Identity.from_seed(b"s" * 32)
        certificate = identity.certificate.public_bytes(Encoding.PEM)
        written = identity.pem()
        for text in (
            written,
            written + certificate,
            b"A comment before it.\n" + written,
            written.replace(b"\n", b"\r\n"),
            identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ):
            self.assertEqual(Identity.from_pem(text).node, identity.node, text)

    def test_no_identity(self) -> None:
        """Another kind of key, an encrypted one, and a damaged one are none."""
        other = X25519PrivateKey.generate()
        ours = Identity.from_seed(b"s" * 32).key
        pem, form = Encoding.PEM, PrivateFormat.PKCS8
        for text in (
            b"",
            other.private_bytes(pem, form, NoEncryption()),
            ours.private_bytes(pem, form, BestAvailableEncryption(b"secret")),
            Identity.from_seed(b"s" * 32).pem().replace(b"MC4C", b"MC4D"),
        ):
            self.assertRaises(ValueError, Identity.from_pem, text)


class StateFolderTests(SynchronousTestCase):
    """L{StateFolder}."""

    def setUp(self) -> None:
        self.path = a_folder(self) / "state"

    def open(self, path: Path | None = None) -> StateFolder:
        """Take a state folder."""
        folder = StateFolder(str(path or self.path))
        self.addCleanup(folder.close)
        return folder

    def test_same_node_again(self) -> None:
        """A node that comes back to its folder is the same node; another folder is another."""
        first = StateFolder(str(self.path / "deep" / "down"))
        first.close()
        again = self.open(self.path / "deep" / "down")
        self.assertEqual(len(first.identity.node), ID_SIZE)
        self.assertEqual(again.identity.node, first.identity.node)
        self.assertNotEqual(self.open(self.path / "other").identity.node, first.identity.node)

    def test_private(self) -> None:
        """Nobody else may look into the folder."""
        folder = self.open()
        self.assertEqual(stat.S_IMODE(os.stat(folder.path).st_mode), 0o700)
        for name in os.listdir(folder.path):
            self.assertEqual(stat.S_IMODE(os.stat(folder.file(name)).st_mode), 0o600, name)

    def test_two_nodes(self) -> None:
        """A folder that is taken is refused until it is given back."""
        first = StateFolder(str(self.path))
        with self.assertRaises(StateInUse) as caught:
            StateFolder(str(self.path))
        self.assertIn("--state", str(caught.exception))
        first.close()
        self.open()

    def test_refused_for_nothing(self) -> None:
        """A folder that could not be taken leaves no descriptor open."""
        before = len(os.listdir("/proc/self/fd"))
        self.path.mkdir()
        (self.path / "identity.pem").write_bytes(b"short")
        for _ in range(3):
            with self.assertRaises(Misuse) as caught:
                StateFolder(str(self.path))
        self.assertIn("Others can read", str(caught.exception))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_no_folder(self) -> None:
        """A file where the folder should be is refused."""
        self.path.write_bytes(b"")
        for path in (self.path, self.path / "below"):
            with self.assertRaises(Misuse):
                StateFolder(str(path))

    def test_disk_errors(self) -> None:
        """What the disk does not let us do is named."""
        self.path.mkdir()
        with (
            mock.patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "full")),
            self.assertRaises(DiskFull),
        ):
            StateFolder(str(self.path))
        with (
            mock.patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks")),
            self.assertRaises(DiskFailure),
        ):
            StateFolder(str(self.path))
        with (
            mock.patch.object(os, "makedirs", side_effect=OSError(errno.EROFS, "Read-only")),
            self.assertRaisesRegex(DiskFailure, "Read-only while .*; give another with --state"),
        ):
            StateFolder(str(self.path))
        (self.path / "identity.pem").mkdir()
        with self.assertRaises((DiskFailure, Misuse)):
            StateFolder(str(self.path))
        (self.path / "identity.pem").rmdir()
        self.open()
        self.assertEqual(sorted(os.listdir(self.path)), ["identity.pem", "lock"])

    def test_default(self) -> None:
        """Without a choice of the user's, it is an absolute path of flow512's own."""
        self.assertTrue(os.path.isabs(default_state()))
        self.assertIn("flow512", default_state())


class NameTests(SynchronousTestCase):
    """L{check_names}."""

    def test_names(self) -> None:
        """A name is text of at most 64 characters."""
        check_names("", "ü" * 64)
        for name in ("x" * 65, "\udcff"):
            with self.assertRaises(Misuse):
                check_names("good", name)
