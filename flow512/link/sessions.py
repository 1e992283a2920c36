"""
The bytes of a TLS session, to and from memory that is used again and again.

pyOpenSSL hands out fresh C{bytes}, takes 16 KiB of memory of its own for each record that it
decrypts, and copies what it is given once more: 65,536 times a GiB. OpenSSL itself takes any place
to write to, and any to read from. pyOpenSSL has the way there, but not under public names; where a
later one lacks them, its public ones do the same, more slowly. C{tests/unit/test_sessions.py} runs
both.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from OpenSSL import SSL

_FFI: Final[Any] = getattr(SSL, "_ffi", None)
_LIB: Final[Any] = getattr(SSL, "_lib", None)

_NAMES: Final = ("_ssl", "_from_ssl", "_into_ssl", "_raise_ssl_error")
_FUNCTIONS: Final = (
    *("SSL_read", "SSL_write", "SSL_set_bio", "BIO_read", "BIO_new_mem_buf"),
    *("BIO_set_mem_eof_return", "BIO_get_mem_data"),
)
"""What is looked for of a connection of pyOpenSSL's, and of the library beneath it."""

RECORD: Final = 2**14
"""The most bytes that a record carries (RFC 8446, section 5.1)."""

AT_ONCE: Final = 2**16
"""Bytes that OpenSSL encrypts in one go: the room for them it keeps while the connection lives."""

ADDED: Final = 2**11
"""Bytes for what TLS 1.3 adds to the records of two blocks: 22 each, for header, type and tag."""


class Session(Protocol):
    """
    One TLS session, whose handshake is completed.

    @ivar is_dry: whether the last call that was to decrypt something has come to the end of what
        has arrived.
    """

    is_dry: bool

    def take(self, encrypted: memoryview) -> None:
        """
        Take what has arrived. All of it has to be decrypted before more is taken.

        @param encrypted: not to be changed until L{is_dry}.
        """

    def decrypt_into(self, room: memoryview) -> int:
        """
        Decrypt what has arrived.

        @param room: where it goes, at least a byte.
        @return: how many bytes were put there. None only if there is nothing, L{is_dry}.
        @raise SSL.ZeroReturnError: the other side has ended the session, and all that came before
            was decrypted.
        @raise SSL.Error: what arrived is no part of the session; nothing of C{room} may be used.
        """

    def decrypt_record(self, room: memoryview) -> int:
        """
        Decrypt one record of what has arrived, or what was left of one; as L{decrypt_into}.
        """

    def encrypt_into(self, data: memoryview, room: memoryview) -> tuple[int, int]:
        """
        Encrypt what there is room for, and take it.

        @param data: at least one byte.
        @param room: where it goes, at least L{AT_ONCE} and L{ADDED} bytes.
        @return: how many bytes of C{data} were encrypted, at least one, and how many were put
            there.
        @raise SSL.WantReadError: the session waits for the other side; nothing was encrypted.
        @raise SSL.Error: the session has failed, or was ended; nothing was encrypted.
        """

    def encrypted_into(self, room: memoryview) -> int:
        """
        Take what the session has encrypted.

        @param room: where it goes, at least a byte.
        @return: how many bytes were put there: as many as fit, or all.
        """


class PublicSession:
    """
    A L{Session} by what pyOpenSSL promises.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self.is_dry = False

    def take(self, encrypted: memoryview) -> None:
        self._connection.bio_write(encrypted)
        self.is_dry = False

    def decrypt_into(self, room: memoryview) -> int:
        filled = 0
        try:
            while filled < len(room):
                filled += self._connection.recv_into(room[filled:], RECORD)
        except SSL.WantReadError:
            self.is_dry = True
        except SSL.ZeroReturnError:
            # It is said again to whoever asks again.
            if not filled:
                raise
        return filled

    def decrypt_record(self, room: memoryview) -> int:
        try:
            return self._connection.recv_into(room, len(room))
        except SSL.WantReadError:
            self.is_dry = True
            return 0

    def encrypt_into(self, data: memoryview, room: memoryview) -> tuple[int, int]:
        taken = self._connection.send(data[:AT_ONCE])
        return taken, self.encrypted_into(room)

    def encrypted_into(self, room: memoryview) -> int:
        try:
            data = self._connection.bio_read(len(room))
        except SSL.WantReadError:
            return 0
        room[: len(data)] = data
        return len(data)


class DirectSession:
    """
    A L{Session} by OpenSSL's own functions.

    What has arrived is read where it lies (C{BIO_new_mem_buf}), so that memory is held on to here
    for as long as OpenSSL might look at it.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection: Any = connection
        self._ssl = self._connection._ssl
        self._from_ssl = self._connection._from_ssl
        self._taken: Any = None
        self._failure: Exception | None = None  # came after something, and is yet to be said
        self.is_dry = False

    def take(self, encrypted: memoryview) -> None:
        place = _FFI.from_buffer(encrypted)
        bio = _LIB.BIO_new_mem_buf(place, len(encrypted))
        if bio == _FFI.NULL:
            raise MemoryError
        # When it is empty, more may come: that is no end.
        _LIB.BIO_set_mem_eof_return(bio, -1)
        # It belongs to the session from now on, and the one before it is no more.
        _LIB.SSL_set_bio(self._ssl, bio, self._from_ssl)
        self._connection._into_ssl = bio
        # The object itself and no view of it: when the garbage collector clears a view that
        # somebody has a buffer of, CPython 3.11 ends with a segmentation fault.
        self._taken = encrypted.obj
        self.is_dry = False

    def decrypt_into(self, room: memoryview) -> int:
        ssl, read, size = self._ssl, _LIB.SSL_read, len(room)
        filled = 0
        with _FFI.from_buffer(room) as place:
            while filled < size:
                count: int = read(ssl, place + filled, size - filled)
                if count <= 0:
                    self._stopped(count, filled)
                    break
                filled += count
        return filled

    def decrypt_record(self, room: memoryview) -> int:
        with _FFI.from_buffer(room) as place:
            count: int = _LIB.SSL_read(self._ssl, place, len(room))
        if count <= 0:
            self._stopped(count, 0)
        return max(0, count)

    def _stopped(self, count: int, filled: int) -> None:
        try:
            self._connection._raise_ssl_error(self._ssl, count)
        except SSL.WantReadError:
            self.is_dry = True
        except SSL.ZeroReturnError:
            # It is said again to whoever asks again.
            if not filled:
                raise

    def encrypt_into(self, data: memoryview, room: memoryview) -> tuple[int, int]:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        ssl, bio, write, read = self._ssl, self._from_ssl, _LIB.SSL_write, _LIB.BIO_read
        size, space = len(data), len(room)
        taken = filled = 0
        with _FFI.from_buffer(data) as source, _FFI.from_buffer(room) as place:
            while taken < size and space - filled >= AT_ONCE + ADDED:
                count: int = write(ssl, source + taken, min(AT_ONCE, size - taken))
                if count <= 0:
                    try:
                        self._connection._raise_ssl_error(ssl, count)
                    except SSL.Error as error:
                        if not taken:
                            raise
                        self._failure = error
                    break
                taken += count
                filled += max(0, read(bio, place + filled, space - filled))
        return taken, filled

    def encrypted_into(self, room: memoryview) -> int:
        if not _LIB.BIO_get_mem_data(self._from_ssl, _FFI.NULL):
            return 0
        with _FFI.from_buffer(room) as place:
            count: int = _LIB.BIO_read(self._from_ssl, place, len(room))
        return max(0, count)


def open_session(connection: SSL.Connection) -> Session:
    """
    Give the way to a session that is the fastest here.

    @param connection: with memory on both sides; its handshake is completed, and everything that
        has arrived was decrypted. It is not to be given anything by C{bio_write} any more, and has
        to encrypt what it is given in one go (see L{flow512.link.records.write_whole}).
    """
    is_there = all(hasattr(connection, name) for name in _NAMES)
    if _FFI is None or not is_there or not all(hasattr(_LIB, name) for name in _FUNCTIONS):
        return PublicSession(connection)
    return DirectSession(connection)
