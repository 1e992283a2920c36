"""Tests for L{flow512.link.sessions}: by OpenSSL itself, and by pyOpenSSL's public names."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.link import sessions
from flow512.link.identity import Identity
from flow512.link.sessions import decrypt_into, encrypted_into
from flow512.link.tls import Tls


class Public:
    """A session that has nothing but what pyOpenSSL promises."""

    def __init__(self, session: SSL.Connection) -> None:
        self.recv_into = session.recv_into
        self.bio_read = session.bio_read


class DirectTests(SynchronousTestCase):
    """With a pyOpenSSL that has the names which this looks for."""

    def setUp(self) -> None:
        tls = [Tls(Identity.from_seed(seed * 32), Clock()) for seed in (b"a", b"b")]
        context = [each._context for each in tls]
        self.sender, self.receiver = (SSL.Connection(each, None) for each in context)
        self.sender.set_connect_state()
        self.receiver.set_accept_state()
        for _ in range(3):
            for one, other in (
                (self.sender, self.receiver),
                (self.receiver, self.sender),
            ):
                try:
                    one.do_handshake()
                except SSL.WantReadError:
                    pass
                self.carry(one, other)

    def as_used(self, session: SSL.Connection) -> SSL.Connection:
        """Give the session as what is tested sees it."""
        return session

    def carry(self, one: SSL.Connection, other: SSL.Connection) -> int:
        """Carry what one has encrypted to the other."""
        room = memoryview(bytearray(300))
        carried = 0
        while count := encrypted_into(self.as_used(one), room):
            other.bio_write(bytes(room[:count]))
            carried += count
        return carried

    def test_is_what_it_says(self) -> None:
        """This pyOpenSSL has the names; without them, everything is slower and nobody notices."""
        self.assertTrue(sessions._is_direct(self.sender, "_ssl"))
        self.assertTrue(sessions._is_direct(self.sender, "_from_ssl"))

    def test_several_records(self) -> None:
        """What arrived in several records fills the room; what does not fit comes next."""
        content = bytes(range(250)) * 200
        self.sender.send(content)
        self.assertGreater(self.carry(self.sender, self.receiver), len(content))
        room = memoryview(bytearray(40_000))
        self.assertEqual(decrypt_into(self.as_used(self.receiver), room), 40_000)
        self.assertEqual(bytes(room), content[:40_000])
        self.assertEqual(decrypt_into(self.as_used(self.receiver), room), 10_000)
        self.assertEqual(bytes(room[:10_000]), content[40_000:])

    def test_nothing(self) -> None:
        """Where nothing has arrived, or nothing is to be sent, that is said."""
        room = memoryview(bytearray(10))
        self.assertRaises(SSL.WantReadError, decrypt_into, self.as_used(self.receiver), room)
        self.assertEqual(encrypted_into(self.as_used(self.sender), room), 0)

    def test_end(self) -> None:
        """The end of the session comes after what was sent before it."""
        self.sender.send(b"last words")
        self.sender.shutdown()
        self.carry(self.sender, self.receiver)
        room = memoryview(bytearray(100))
        self.assertEqual(decrypt_into(self.as_used(self.receiver), room), 10)
        self.assertRaises(SSL.ZeroReturnError, decrypt_into, self.as_used(self.receiver), room)

    def test_damaged(self) -> None:
        """A record that was changed is an error, which is not left for the next session."""
        self.sender.send(b"something")
        data = bytearray(self.sender.bio_read(1000))
        data[-1] ^= 1
        self.receiver.bio_write(bytes(data))
        room = memoryview(bytearray(100))
        error = self.assertRaises(SSL.Error, decrypt_into, self.as_used(self.receiver), room)
        self.assertNotIsInstance(error, SSL.WantReadError)
        self.assertNotIn(b"something", bytes(room))
        self.assertRaises(SSL.WantReadError, decrypt_into, self.as_used(self.sender), room)


class PublicTests(DirectTests):
    """With a pyOpenSSL that has no other names than its public ones."""

    def as_used(self, session: SSL.Connection) -> SSL.Connection:
        return Public(session)  # type: ignore[return-value]  # as much of one as is used

    def test_is_what_it_says(self) -> None:
        """Without the names, the other way is taken."""
        self.assertFalse(sessions._is_direct(self.as_used(self.sender), "_ssl"))
