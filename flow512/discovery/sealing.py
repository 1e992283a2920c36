"""
What the beacon's datagrams travel in: nothing in an open network, a seal in a closed one.

A sealed datagram is always 512 bytes, so that its length tells nothing::

    header      5   the magic C{f512} and the version, 2
    nonce      12   random
    sealed    479   ChaCha20-Poly1305 (RFC 8439) with the beacon key of the network, of
                      time     8   milliseconds since 1970, UTC, by the sender's clock
                      length   2   of the body
                      body         as in an open datagram, with an empty tag of the network
                      zeros        up to 479 bytes
    tag        16   of ChaCha20-Poly1305

Numbers are big-endian. The tag also covers what is not sent a second time: the header, then the IP
address (4 or 16 bytes) and the UDP port (2 bytes) that the datagram is sent from. So whoever has
recorded one cannot send it from anywhere else; and from there, forging the address, only as long
as its time is less than L{WINDOW} from the receiver's clock.

Nonces are random: at 2^32 datagrams under one key the chance that two share one is 2^-33.
docs/beacon.rst says the same for people who write another client.
"""

from __future__ import annotations

import ipaddress
from random import Random
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag

from flow512.discovery import datagram
from flow512.discovery.datagram import MAGIC, MAX_DATAGRAM
from flow512.errors import BadMessage, Misuse

VERSION: Final = 2
_HEADER: Final = MAGIC + bytes([VERSION])

SEAL_KEY: Final = 32
"""Bytes in the key."""

WINDOW: Final = 300.0
"""
Seconds that the clocks of two members may be apart.

Machines that ask a time server are within a second of each other; those that cannot lose or gain
up to some ten seconds a day, and a clock set by hand is minutes off. Five minutes is what Kerberos
has asked of clocks for decades (RFC 4120), so where that works this does. It bounds for how long a
recording can be played to those who did not hear the original.
"""

_NONCE: Final = 12
_TAG: Final = 16
_TIME: Final = 8
_LENGTH: Final = 2
_SEALED_AT: Final = len(_HEADER) + _NONCE
_PLAIN: Final = MAX_DATAGRAM - _SEALED_AT - _TAG

SEALED_ROOM: Final = _PLAIN - _TIME - _LENGTH
"""Bytes for the body of a sealed datagram."""


class OutOfTime(BadMessage):
    """
    A member's datagram whose time is too far from this machine's.

    @ivar late: seconds that it is too old by this clock; negative if it is from the future.
    """

    def __init__(self, late: float) -> None:
        super().__init__(
            "That datagram was sealed at another time; set this clock, or its sender's."
        )
        self.late = late


class Envelope(Protocol):
    """What bodies become datagrams by, and the reverse."""

    @property
    def room(self) -> int:
        """Bytes that a body may have."""

    def is_ours(self, data: bytes) -> bool:
        """Tell cheaply whether this could be a datagram in such an envelope."""

    def close(self, body: bytes, host: str, port: int, now: float) -> bytes:
        """
        Make a datagram.

        @param body: at most L{room} bytes.
        @param host: the IP address that it is to be sent from.
        @param port: the UDP port that it is to be sent from.
        @param now: seconds since 1970, UTC.
        @return: at most 512 bytes.
        """

    def open(self, data: bytes, host: str, port: int, now: float) -> bytes | memoryview:
        """
        Take the body out of a datagram.

        @param data: whatever came.
        @param host: the IP address that it came from.
        @param port: the UDP port that it came from.
        @param now: seconds since 1970, UTC.
        @raise BadMessage: it is none of ours.
        """


class Unsealed:
    """The envelope of open networks, which anybody can open and close."""

    room: Final = datagram.OPEN_ROOM

    def is_ours(self, data: bytes) -> bool:
        """See L{Envelope.is_ours}."""
        return datagram.is_ours(data)

    def close(self, body: bytes, host: str, port: int, now: float) -> bytes:
        """See L{Envelope.close}."""
        return datagram.add_header(body)

    def open(self, data: bytes, host: str, port: int, now: float) -> memoryview:
        """See L{Envelope.open}."""
        return datagram.remove_header(data)


class Seal:
    """
    The envelope of one closed network, which only its members can open and close.

    @param key: 32 bytes that all members have, and that are used for nothing else.
    @param random: for nonces. Two members whose chance is the same give away what they say, so
        outside of tests this is a C{SystemRandom}.
    @raise Misuse: the key has another length.
    """

    room: Final = SEALED_ROOM

    def __init__(self, key: bytes, random: Random) -> None:
        if len(key) != SEAL_KEY:
            raise Misuse(f"The key that beacons are sealed with has {SEAL_KEY} bytes.")
        # Only closed networks need it, and it takes a while to load.
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        self._cipher = ChaCha20Poly1305(key)
        self._random = random

    def is_ours(self, data: bytes) -> bool:
        """See L{Envelope.is_ours}."""
        return len(data) == MAX_DATAGRAM and data.startswith(_HEADER)

    def close(self, body: bytes, host: str, port: int, now: float) -> bytes:
        """See L{Envelope.close}."""
        plain = round(now * 1000).to_bytes(_TIME, "big") + len(body).to_bytes(_LENGTH, "big") + body
        nonce = self._random.randbytes(_NONCE)
        bound = _bound(host, port)
        return _HEADER + nonce + self._cipher.encrypt(nonce, plain.ljust(_PLAIN, b"\0"), bound)

    def open(self, data: bytes, host: str, port: int, now: float) -> bytes:
        """
        Take the body out of a datagram.

        @raise OutOfTime: a member sealed it, L{WINDOW} or longer ago or from now.
        @raise BadMessage: anything else is wrong with it; nothing tells what.
        """
        if not self.is_ours(data):
            raise BadMessage("That is no sealed datagram of a flow512 beacon.")
        nonce = data[len(_HEADER) : _SEALED_AT]
        try:
            plain = self._cipher.decrypt(nonce, data[_SEALED_AT:], _bound(host, port))
        except InvalidTag as error:
            raise BadMessage("That datagram was sealed by a stranger, or elsewhere.") from error
        late = now - int.from_bytes(plain[:_TIME], "big") / 1000
        if abs(late) >= WINDOW:
            raise OutOfTime(late)
        length = int.from_bytes(plain[_TIME : _TIME + _LENGTH], "big")
        if length > SEALED_ROOM:
            raise BadMessage("That datagram says that it is longer than it is.")
        return plain[_TIME + _LENGTH :][:length]


def _bound(host: str, port: int) -> bytes:
    # Without the scope, which is a machine's own name for a link: no other knows it.
    return _HEADER + ipaddress.ip_address(host).packed + port.to_bytes(2, "big")
