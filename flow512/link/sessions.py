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

RECORD: Final = 2**14
"""The most bytes that a record carries (RFC 8446, section 5.1)."""


class Session(Protocol):
    """
    One TLS session, whose handshake is completed.
    """

    def take(self, encrypted: memoryview) -> None:
        """
        Take what has arrived. All of it has to be decrypted before more is taken.

        @param encrypted: not to be changed until L{decrypt_into} or L{decrypt_record} says that
            there is nothing.
        """

    def decrypt_into(self, room: memoryview) -> int:
        """
        Decrypt what has arrived.

        @param room: where it goes, at least a byte.
        @return: how many bytes were put there, at least one.
        @raise SSL.WantReadError: there is nothing.
        @raise SSL.ZeroReturnError: the other side has ended the session.
        @raise SSL.Error: what arrived is no part of the session; nothing of C{room} may be used.
        """

    def decrypt_record(self, room: memoryview) -> int:
        """
        Decrypt one record of what has arrived, or what was left of one; as L{decrypt_into}.
        """

    def encrypt(self, data: bytes | memoryview) -> None:
        """
        Encrypt all of it.

        @param data: at least one byte, and at most what OpenSSL may keep the room of.
        @raise SSL.Error: the session has failed, or was ended.
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

    def take(self, encrypted: memoryview) -> None:
        self._connection.bio_write(encrypted)

    def decrypt_into(self, room: memoryview) -> int:
        filled = 0
        try:
            while filled < len(room):
                filled += self._connection.recv_into(room[filled:], RECORD)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            # Both are said again to whoever asks again.
            if not filled:
                raise
        return filled

    def decrypt_record(self, room: memoryview) -> int:
        return self._connection.recv_into(room, len(room))

    def encrypt(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self._connection.send(left) :]

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

    def decrypt_into(self, room: memoryview) -> int:
        ssl, read, size = self._ssl, _LIB.SSL_read, len(room)
        with _FFI.from_buffer(room) as place:
            filled: int = read(ssl, place, size)
            if filled <= 0:
                self._connection._raise_ssl_error(ssl, filled)
            while filled < size:
                count = read(ssl, place + filled, size - filled)
                if count <= 0:
                    try:
                        self._connection._raise_ssl_error(ssl, count)
                    except (SSL.WantReadError, SSL.ZeroReturnError):
                        # Both are said again to whoever asks again.
                        break
                filled += count
        return filled

    def decrypt_record(self, room: memoryview) -> int:
        with _FFI.from_buffer(room) as place:
            count: int = _LIB.SSL_read(self._ssl, place, len(room))
        if count <= 0:
            self._connection._raise_ssl_error(self._ssl, count)
        return count

    def encrypt(self, data: bytes | memoryview) -> None:
        with _FFI.from_buffer(data) as place:
            count = _LIB.SSL_write(self._ssl, place, len(data))
        if count <= 0:
            self._connection._raise_ssl_error(self._ssl, count)

    def encrypted_into(self, room: memoryview) -> int:
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
    names = ("_ssl", "_from_ssl", "_into_ssl", "_raise_ssl_error")
    if _FFI is None or _LIB is None or not all(hasattr(connection, name) for name in names):
        return PublicSession(connection)
    return DirectSession(connection)
