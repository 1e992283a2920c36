"""Records of TLS 1.3 that are made by hand, since no library lets what is in them be chosen."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HANDSHAKE: Final = 22
DATA: Final = 23
# RFC 8446, section 5.1.

NEW_KEY_ASKED: Final = bytes((24, 0, 0, 1, 1))
"""A key update that asks for another one (section 4.6.3)."""


class Forger:
    """
    Goes on in the name of an end that has sent nothing since its handshake.

    TLS_AES_256_GCM_SHA384 only, which is what OpenSSL chooses.
    """

    def __init__(self, secret: bytes) -> None:
        """
        @param secret: the end's C{CLIENT_TRAFFIC_SECRET_0}, or the server's.
        """
        self._begin(secret)

    @classmethod
    def of_log(cls, lines: list[bytes], label: bytes) -> Forger:
        """
        Begin with what pyOpenSSL writes in a key log.

        @param label: the secret's name.
        """
        secrets = {line.split()[0]: line.split()[2].decode() for line in lines}
        return cls(bytes.fromhex(secrets[label]))

    def _begin(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(self._expand(b"key", 32))
        self._iv = int.from_bytes(self._expand(b"iv", 12))
        self._sent = 0

    def _expand(self, label: bytes, length: int) -> bytes:
        # Section 7.1: HKDF-Expand-Label, with no context.
        label = b"tls13 " + label
        info = length.to_bytes(2) + bytes((len(label),)) + label + b"\0"
        return HKDFExpand(SHA384(), length, info).derive(self._secret)

    def record(self, content: bytes, kind: int = DATA) -> bytes:
        """Encrypt one record."""
        inner = content + bytes((kind,))
        head = bytes((DATA, 3, 3)) + (len(inner) + 16).to_bytes(2)
        nonce = (self._iv ^ self._sent).to_bytes(12)
        self._sent += 1
        return head + self._key.encrypt(nonce, inner, head)

    def new_key(self) -> bytes:
        """Change the key, and ask the other side to change its own."""
        record = self.record(NEW_KEY_ASKED, HANDSHAKE)
        self._begin(self._expand(b"traffic upd", 48))
        return record
