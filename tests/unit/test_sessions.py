"""Tests for L{flow512.link.sessions}: by OpenSSL itself, and by pyOpenSSL's public names."""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.link import sessions
from flow512.link.identity import Identity
from flow512.link.sessions import (
    ADDED,
    AT_ONCE,
    DirectSession,
    PublicSession,
    Session,
    open_session,
)
from flow512.link.tls import Tls


class Public:
    """A connection that has nothing but what pyOpenSSL promises."""

    def __init__(self, connection: SSL.Connection) -> None:
        self.send = connection.send
        self.recv_into = connection.recv_into
        self.bio_read = connection.bio_read
        self.bio_write = connection.bio_write


class SessionTestCase(SynchronousTestCase):
    """Two ends of a session, whose handshake is completed."""

    def setUp(self) -> None:
        tls = [Tls(Identity.from_seed(seed * 32), Clock()) for seed in (b"a", b"b")]
        context = [each._context for each in tls]
        self.ends = sender, receiver = [SSL.Connection(each, None) for each in context]
        sender.set_connect_state()
        receiver.set_accept_state()
        for one, other in [(sender, receiver), (receiver, sender)] * 3:
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(2**14))
        self.sender, self.receiver = map(self.open, self.ends)
        # All connections of a node are given what arrives in one place.
        self.place = memoryview(bytearray(2**18))

    def open(self, connection: SSL.Connection) -> Session:
        """Open a session as this pyOpenSSL allows."""
        return open_session(connection)

    def encrypt(self, content: bytes) -> bytes:
        """Have the sender encrypt something."""
        data, encrypted = memoryview(content), b""
        room = memoryview(bytearray(2 * (AT_ONCE + ADDED)))
        while data:
            taken, put = self.sender.encrypt_into(data, room)
            data = data[taken:]
            encrypted += bytes(room[:put])
        return encrypted

    def arrive(self, encrypted: bytes) -> None:
        """Have something arrive where everything does."""
        self.place[: len(encrypted)] = encrypted
        self.receiver.take(self.place[: len(encrypted)])

    def decrypted(self, room: int = 2**14) -> bytes:
        """Decrypt all that is there, into rooms of a size."""
        place = memoryview(bytearray(room))
        plain = b""
        while not self.receiver.is_dry:
            plain += bytes(place[: self.receiver.decrypt_into(place)])
        return plain


class DirectTests(SessionTestCase):
    """With a pyOpenSSL that has the names which this looks for."""

    kind: type[Session] = DirectSession

    def test_is_what_it_says(self) -> None:
        """This pyOpenSSL has the names; without them, everything is slower and nobody notices."""
        self.assertIsInstance(self.sender, self.kind)

    def test_holds_no_view(self) -> None:
        """A view of what arrived is its owner's, who may give it up: nobody has a buffer of it."""
        encrypted = memoryview(self.encrypt(b"content"))
        self.receiver.take(encrypted)
        encrypted.release()
        self.assertEqual(self.decrypted(), b"content")

    def test_several_records(self) -> None:
        """What arrived in several records fills the room; what does not fit comes next."""
        content = bytes(range(250)) * 200
        encrypted = self.encrypt(content)
        self.assertGreater(len(encrypted), len(content))
        self.arrive(encrypted)
        room = memoryview(bytearray(40_000))
        self.assertEqual(self.receiver.decrypt_into(room), 40_000)
        self.assertEqual(bytes(room), content[:40_000])
        self.assertEqual(self.receiver.decrypt_into(room), 10_000)
        self.assertEqual(bytes(room[:10_000]), content[40_000:])

    def test_cut(self) -> None:
        """However what arrives is cut, and whatever its place is used for between, all is there."""
        content = bytes(range(250)) * 200
        for size in (1, 5, 6, 100, 16_411, 16_412, 30_000):
            encrypted = self.encrypt(content)
            plain = b""
            for at in range(0, len(encrypted), size):
                self.arrive(encrypted[at : at + size])
                plain += self.decrypted()
                self.place[:] = bytes(len(self.place))
            self.assertEqual(plain, content)

    def test_record(self) -> None:
        """A record is decrypted by itself, and what was left of one."""
        self.arrive(self.encrypt(b"first") + self.encrypt(b"second"))
        room = memoryview(bytearray(4))
        for expected in (b"firs", b"t", b"seco", b"nd"):
            self.assertEqual(bytes(room[: self.receiver.decrypt_record(room)]), expected)
        self.assertFalse(self.receiver.is_dry)
        self.assertEqual(self.receiver.decrypt_record(room), 0)
        self.assertTrue(self.receiver.is_dry)

    def test_nothing(self) -> None:
        """Where nothing has arrived, or nothing is to be sent, that is said."""
        room = memoryview(bytearray(10))
        self.assertEqual(self.receiver.decrypt_into(room), 0)
        self.assertTrue(self.receiver.is_dry)
        self.assertEqual(self.sender.encrypted_into(room), 0)

    def test_end(self) -> None:
        """The end of the session comes after what was sent before it."""
        room = memoryview(bytearray(100))
        last = self.encrypt(b"last words")
        self.ends[0].shutdown()
        count = self.sender.encrypted_into(room)
        self.arrive(last + bytes(room[:count]))
        self.assertEqual(self.receiver.decrypt_into(room), 10)
        self.assertFalse(self.receiver.is_dry)
        self.assertRaises(SSL.ZeroReturnError, self.receiver.decrypt_into, room)

    def test_lost(self) -> None:
        """An end that nobody announced is an error, after what was sent before it."""
        self.arrive(self.encrypt(b"last words"))
        self.ends[1].bio_shutdown()
        room = memoryview(bytearray(10))
        self.assertEqual(self.receiver.decrypt_into(room), 10)
        error = self.assertRaises(SSL.Error, self.receiver.decrypt_into, room)
        self.assertNotIsInstance(error, SSL.WantReadError)

    def test_damaged(self) -> None:
        """A record that was changed is an error, which is not left for the next session."""
        data = bytearray(self.encrypt(b"something"))
        data[-1] ^= 1
        self.arrive(bytes(data))
        room = memoryview(bytearray(100))
        error = self.assertRaises(SSL.Error, self.receiver.decrypt_into, room)
        self.assertNotIsInstance(error, SSL.WantReadError)
        self.assertNotIn(b"something", bytes(room))
        self.assertEqual(self.sender.decrypt_into(room), 0)

    def test_ended(self) -> None:
        """Nothing is encrypted on a session that was ended."""
        self.ends[0].shutdown()
        error = self.assertRaises(SSL.Error, self.encrypt, b"too late")
        self.assertNotIsInstance(error, SSL.WantReadError)


class FailingLibrary:
    """OpenSSL, whose second write fails."""

    def __init__(self) -> None:
        self.library = sessions._LIB
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def SSL_write(self, ssl: Any, place: Any, size: int) -> int:
        """Write, or not."""
        self.writes += 1
        return -1 if self.writes == 2 else self.library.SSL_write(ssl, place, size)


class FailureTests(SessionTestCase):
    """What fails in the middle, where OpenSSL itself is used."""

    def test_after_something(self) -> None:
        """What was encrypted before something went wrong is taken; then it is said, once."""
        content = bytes(range(256)) * 1024
        room = memoryview(bytearray(4 * AT_ONCE + ADDED))
        self.patch(sessions, "_LIB", FailingLibrary())
        taken, put = self.sender.encrypt_into(memoryview(content), room)
        self.assertEqual(taken, AT_ONCE)
        self.arrive(bytes(room[:put]))
        self.assertEqual(self.decrypted(), content[:AT_ONCE])
        error = self.assertRaises(SSL.Error, self.sender.encrypt_into, memoryview(b"rest"), room)
        self.assertNotIsInstance(error, SSL.WantReadError)
        taken, put = self.sender.encrypt_into(memoryview(b"rest"), room)
        self.arrive(bytes(room[:put]))
        self.assertEqual(self.decrypted(), b"rest")


class OtherLibrary:
    """OpenSSL without one of the functions."""

    def __init__(self, lacks: str) -> None:
        self.library, self.lacks = sessions._LIB, lacks

    def __getattr__(self, name: str) -> Any:
        if name == self.lacks:
            raise AttributeError(name)
        return getattr(self.library, name)


class OtherVersionTests(SessionTestCase):
    """A later pyOpenSSL may have all of its own names, and not all of the library's functions."""

    def test_lacks_a_function(self) -> None:
        """Whichever is not there, the public names do."""
        for name in sessions._FUNCTIONS:
            self.patch(sessions, "_LIB", OtherLibrary(name))
            self.assertIsInstance(open_session(self.ends[0]), PublicSession)
        self.patch(sessions, "_LIB", None)
        self.assertIsInstance(open_session(self.ends[0]), PublicSession)


class PublicTests(DirectTests):
    """With a pyOpenSSL that has no other names than its public ones."""

    kind = PublicSession

    def open(self, connection: SSL.Connection) -> Session:
        return open_session(Public(connection))  # type: ignore[arg-type]  # as much of one as is used
