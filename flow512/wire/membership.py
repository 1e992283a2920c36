"""
Closed networks: how members prove to each other that they know the network key.

From the key (32 random bytes) two others are derived with BLAKE3's key derivation: one for proofs,
one for beacons; so what one is used for tells nothing of the other.

A proof is the keyed BLAKE3 digest of who gives it, the session, and both node ids::

    proof = BLAKE3-keyed(derived key, role || length of session || session || initiator || acceptor)

C{role} is the byte C{I} or C{A}, so that nobody can send a proof back to the one who gave it. The
session is what tells this conversation from every other: under TLS 32 bytes of exported keying
material (RFC 9266), which only the two ends of this very TLS session have; so whoever stands in
the middle, with a session to each side, cannot use one side's proof on the other. Without TLS it
is two nonces of 32 bytes, one from each side: proofs cannot be replayed, but whoever can change
what travels can take the conversation over once it was proven.

The key is 256 bits of randomness and no password, so a proof tells nothing that could be guessed
at from it.
"""

from __future__ import annotations

from enum import Enum
from hmac import compare_digest
from typing import Final

from blake3 import blake3

KEY_SIZE: Final = 32
"""Bytes in a network key."""

NONCE_SIZE: Final = 32
"""Bytes in a nonce of the handshake without TLS."""

PROOF_SIZE: Final = 32
"""Bytes in a proof."""

_PROOFS: Final = "flow512 2026-11 proofs of membership"
_BEACONS: Final = "flow512 2026-11 beacons"


class Role(Enum):
    """Which side of a conversation gives a proof."""

    INITIATOR = b"I"
    ACCEPTOR = b"A"


class NetworkKey:
    """
    The key of a closed network.

    @ivar beacons: the key that its beacons are sealed with.
    """

    def __init__(self, secret: bytes) -> None:
        """
        @param secret: L{KEY_SIZE} random bytes, which all members have.
        """
        if len(secret) != KEY_SIZE:
            raise ValueError(f"A network key has {KEY_SIZE} bytes.")
        self._proofs = blake3(secret, derive_key_context=_PROOFS).digest()
        self.beacons = blake3(secret, derive_key_context=_BEACONS).digest()

    def prove(self, role: Role, session: bytes, initiator: bytes, acceptor: bytes) -> bytes:
        """
        Make a proof.

        @param role: who gives it.
        @param session: what only the two ends of this conversation know, or have chosen together.
        @param initiator: the node id of the one who connected.
        @param acceptor: the node id of the other; 32 zeros where the initiator cannot know it.
        @return: L{PROOF_SIZE} bytes.
        """
        said = role.value + len(session).to_bytes(4, "big") + session + initiator + acceptor
        return blake3(said, key=self._proofs).digest()

    def is_proof(
        self, proof: bytes, role: Role, session: bytes, initiator: bytes, acceptor: bytes
    ) -> bool:
        """
        Check a proof, in a time that does not depend on what is wrong with it.
        """
        return compare_digest(proof, self.prove(role, session, initiator, acceptor))
