"""Tests for L{flow512.wire.membership}."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.wire.membership import KEY_SIZE, PROOF_SIZE, NetworkKey, Role
from tests.unit.cutting import UNHURRIED

VECTORS = Path(__file__).parents[1] / "vectors" / "membership.json"

KEY = bytes(range(32))
SESSION = bytes(range(32, 64))
INITIATOR = bytes(range(64, 96))
ACCEPTOR = bytes(range(96, 128))


class NetworkKeyTests(SynchronousTestCase):
    """L{NetworkKey}."""

    key = NetworkKey(KEY)

    def test_vectors(self) -> None:
        """What is derived from a key is what other implementations derive, too."""
        for vector in json.loads(VECTORS.read_text())["proofs"]:
            key = NetworkKey(bytes.fromhex(vector["network key"]))
            proof = key.prove(
                Role(vector["role"].encode()),
                bytes.fromhex(vector["session"]),
                bytes.fromhex(vector["caller"]),
                bytes.fromhex(vector["answerer"]),
            )
            self.assertEqual(proof.hex(), vector["proof"])
            self.assertEqual(key.beacons.hex(), vector["beacon key"])

    @given(st.integers(0, PROOF_SIZE * 8 - 1))
    @UNHURRIED
    def test_flipped_bit(self, bit: int) -> None:
        """A proof is accepted as it is, and not with any bit changed."""
        proof = self.key.prove(Role.INITIATOR, SESSION, INITIATOR, ACCEPTOR)
        about = (Role.INITIATOR, SESSION, INITIATOR, ACCEPTOR)
        self.assertTrue(self.key.is_proof(proof, *about))
        forged = bytearray(proof)
        forged[bit // 8] ^= 1 << bit % 8
        self.assertFalse(self.key.is_proof(bytes(forged), *about))
        self.assertFalse(self.key.is_proof(proof[:-1], *about))

    def test_bound(self) -> None:
        """A proof is no proof for another role, session or node, or with another key."""
        proof = self.key.prove(Role.INITIATOR, SESSION, INITIATOR, ACCEPTOR)
        for about in (
            (Role.ACCEPTOR, SESSION, INITIATOR, ACCEPTOR),
            (Role.INITIATOR, SESSION[::-1], INITIATOR, ACCEPTOR),
            (Role.INITIATOR, SESSION + INITIATOR[:1], INITIATOR[1:], ACCEPTOR),
            (Role.INITIATOR, SESSION, ACCEPTOR, ACCEPTOR),
            (Role.INITIATOR, SESSION, INITIATOR, INITIATOR),
            (Role.INITIATOR, SESSION, ACCEPTOR, INITIATOR),
        ):
            self.assertFalse(self.key.is_proof(proof, *about), about)
        other = NetworkKey(KEY[::-1])
        self.assertFalse(other.is_proof(proof, Role.INITIATOR, SESSION, INITIATOR, ACCEPTOR))

    def test_secret(self) -> None:
        """Neither the key nor what is derived from it appears when it is shown."""
        shown = repr(self.key) + str(self.key)
        for secret in (KEY, self.key.beacons):
            self.assertNotIn(secret.hex(), shown)
            self.assertNotIn(repr(secret), shown)

    def test_size(self) -> None:
        """A key of another size is refused."""
        for size in (0, KEY_SIZE - 1, KEY_SIZE + 1):
            self.assertRaises(ValueError, NetworkKey, bytes(size))
