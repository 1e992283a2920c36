"""
The bytes of a TLS session, to and from memory that is used again and again.

pyOpenSSL hands out fresh C{bytes}, and takes 16 KiB of memory of its own for each record that it
decrypts: 65,536 times a GiB. OpenSSL itself takes any place to write to. pyOpenSSL has the way
there, but not under public names; where a later one lacks them, its public ones do the same, more
slowly. C{tests/unit/test_sessions.py} runs both.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL

_FFI: Final[Any] = getattr(SSL, "_ffi", None)
_LIB: Final[Any] = getattr(SSL, "_lib", None)

RECORD: Final = 2**14
"""The most bytes that a record carries (RFC 8446, section 5.1)."""


def decrypt_into(session: SSL.Connection, room: memoryview) -> int:
    """
    Decrypt what has arrived.

    @param session: has been given it by C{bio_write}.
    @param room: where it goes, at least a byte.
    @return: how many bytes were put there, at least one.
    @raise SSL.WantReadError: there is nothing.
    @raise SSL.ZeroReturnError: the other side has ended the session.
    @raise SSL.Error: what arrived is no part of the session; nothing of C{room} may be used.
    """
    filled = 0
    try:
        if _is_direct(session, "_ssl"):
            ssl, read = session._ssl, _LIB.SSL_read
            with _FFI.from_buffer(room) as place:
                while filled < len(room):
                    count = read(ssl, place + filled, len(room) - filled)
                    if count <= 0:
                        session._raise_ssl_error(ssl, count)
                    filled += count
        else:
            while filled < len(room):
                filled += session.recv_into(room[filled:], RECORD)
    except (SSL.WantReadError, SSL.ZeroReturnError):
        # Both are said again to whoever asks again.
        if not filled:
            raise
    return filled


def decrypt_record(session: SSL.Connection, room: memoryview) -> int:
    """
    Decrypt one record of what has arrived, or what was left of one.

    @param room: where it goes, at least a byte.
    @return: how many bytes were put there, at least one.
    @raise SSL.Error: as L{decrypt_into}.
    """
    if _is_direct(session, "_ssl"):
        with _FFI.from_buffer(room) as place:
            count: int = _LIB.SSL_read(session._ssl, place, len(room))
            if count <= 0:
                session._raise_ssl_error(session._ssl, count)
            return count
    return session.recv_into(room, len(room))


def encrypted_into(session: SSL.Connection, room: memoryview) -> int:
    """
    Take what the session has encrypted.

    @param room: where it goes, at least a byte.
    @return: how many bytes were put there: as many as fit, or all.
    """
    if _is_direct(session, "_from_ssl"):
        with _FFI.from_buffer(room) as place:
            count: int = _LIB.BIO_read(session._from_ssl, place, len(room))
            return max(0, count)
    try:
        data = session.bio_read(len(room))
    except SSL.WantReadError:
        return 0
    room[: len(data)] = data
    return len(data)


def _is_direct(session: SSL.Connection, name: str) -> bool:
    return None not in (_FFI, _LIB, getattr(session, name, None))
