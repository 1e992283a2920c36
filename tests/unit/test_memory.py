"""Tests for L{flow512.registry.memory}: the file C{acquaintances}."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Flow512Error, Misuse
from flow512.registry.acquaintances import MOST_KEPT, Met
from flow512.registry.memory import MEMORY_FILE, read_memory, write_memory
from flow512.wire.fields import Peer
from tests.unit.transfer_ends import a_folder

ANNA = Met(Peer(bytes(range(32)), "Anna's laptop", "10.0.0.1", 5000), 1000.0)
BEN = Met(Peer(bytes(range(32, 64)), "", "fe80::1%eth0", 5001), 999.0)


class MemoryTests(SynchronousTestCase):
    """What is written is read again, or nothing is."""

    def setUp(self) -> None:
        self.state = a_folder(self)
        self.file = self.state / MEMORY_FILE

    def test_round_trip(self) -> None:
        """Peers and registries come back as they were."""
        write_memory(str(self.state), [ANNA, BEN], [BEN])
        self.assertEqual(read_memory(str(self.state)), ([ANNA, BEN], [BEN]))

    def test_no_time(self) -> None:
        """Who was met before 1970, by a wrong clock, or was only told of, comes back as well."""
        write_memory(str(self.state), [Met(ANNA.peer, -5.0)], [Met(BEN.peer, None)])
        self.assertEqual(
            read_memory(str(self.state)), ([Met(ANNA.peer, 0.0)], [Met(BEN.peer, 0.0)])
        )

    def test_nothing(self) -> None:
        """Without the file, or the folder, nobody is remembered."""
        self.assertEqual(read_memory(str(self.state)), ([], []))
        self.assertEqual(read_memory(str(self.state / "no")), ([], []))

    def test_private_and_whole(self) -> None:
        """Only its owner can read it, and nothing else is left in the folder."""
        write_memory(str(self.state), [ANNA], [])
        write_memory(str(self.state), [BEN], [])
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.state), [MEMORY_FILE])

    def test_as_large_as_can_be(self) -> None:
        """The longest names and addresses that there can be fit in."""
        peers = [
            Met(Peer(bytes([number]) * 32, "\x01" * 64, "f" * 64, 65535), 2.0**40)
            for number in range(MOST_KEPT)
        ]
        write_memory(str(self.state), peers, peers[:8])
        self.assertEqual(read_memory(str(self.state)), (peers, peers[:8]))

    def test_damaged(self) -> None:
        """A file that is no such list is one sentence, which says what becomes of it."""
        write_memory(str(self.state), [ANNA], [])
        content = self.file.read_bytes()
        for damage in (b"", b"{}", content[:-20], content.replace(b"P", b"Q"), b"\xff" * 100):
            self.file.write_bytes(damage)
            error = self.assertRaises(Misuse, read_memory, str(self.state))
            self.assertIn("is no list of peers", str(error))
            self.assertIn("it will be written anew", str(error))
        self.file.write_bytes(b"[" * 100_000)
        self.assertRaises(Misuse, read_memory, str(self.state))

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_any_damage(self, data: st.DataObject) -> None:
        """Whatever is in it, it is read or refused in a sentence, and nothing else."""
        write_memory(str(self.state), [ANNA, BEN], [BEN])
        content = bytearray(self.file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        self.file.write_bytes(content)
        try:
            peers, registries = read_memory(str(self.state))
        except Flow512Error:
            return
        for each in (*peers, *registries):
            self.assertEqual(len(each.peer.node), 32)
            self.assertTrue(1 <= each.peer.port <= 65535)

    def test_open_to_others(self) -> None:
        """A file that others can read is not used."""
        write_memory(str(self.state), [ANNA], [])
        Path(self.file).chmod(0o644)
        self.assertRaises(Misuse, read_memory, str(self.state))
