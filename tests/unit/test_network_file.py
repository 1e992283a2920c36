"""Tests for L{flow512.link.network_file}."""

from __future__ import annotations

import json
import os
import stat
import traceback
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import DiskFailure, Misuse
from flow512.link.address import HostPort
from flow512.link.join_link import JoinLink, Registry, format_key
from flow512.link.network_file import (
    load_network,
    read_key_file,
    remove_network,
    store_first_network,
    store_network,
)
from flow512.link.node_id import format_node_id
from tests.unit.transfer_ends import a_folder

KEY = bytes(range(100, 132))
TEXT = format_key(KEY)
NODE = bytes(range(32))
OFFICE = JoinLink(
    "office \N{SNOWMAN}",
    KEY,
    (Registry(HostPort("192.0.2.7", 5000), NODE), Registry(HostPort("::1", 7))),
)
HOME = JoinLink("home", bytes(32))


class FileCase(SynchronousTestCase):
    """A state folder."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.state = str(self.folder)
        self.path = self.folder / "network.json"

    def write(self, content: bytes, path: Path | None = None) -> str:
        """Write a file that only its owner can read."""
        path = path or self.path
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)

    def keeps_key(self, error: Misuse) -> str:
        """Make sure that what was raised says nothing of the key."""
        whole = "".join(traceback.format_exception(error, chain=True))
        context = error.__context__
        self.assertNotIn(TEXT[:12], whole + repr(context).upper())
        return str(error)


class NetworkFileTests(FileCase):
    """The network of a state folder."""

    def test_stored(self) -> None:
        """What is stored is found again, by its owner only."""
        self.assertIsNone(load_network(self.state))
        self.assertIsNone(load_network(os.path.join(self.state, "nowhere")))
        for network in (OFFICE, HOME):
            store_network(self.state, network)
            self.assertEqual(load_network(self.state), network)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.state), ["network.json"])

    def test_first(self) -> None:
        """Two processes that make a network at once agree on the one that was first."""
        self.assertEqual(store_first_network(self.state, OFFICE), OFFICE)
        self.assertEqual(store_first_network(self.state, HOME), OFFICE)
        self.assertEqual(load_network(self.state), OFFICE)

    def test_removed(self) -> None:
        """A network can be forgotten, even one that cannot be read."""
        self.assertFalse(remove_network(self.state))
        self.assertFalse(remove_network(os.path.join(self.state, "nowhere")))
        for content in (b"", b"{}"):
            self.write(content)
            self.path.chmod(0o644)
            self.assertTrue(remove_network(self.state))
            self.assertIsNone(load_network(self.state))
        self.path.mkdir()
        with self.assertRaises(DiskFailure):
            remove_network(self.state)

    def test_readable(self) -> None:
        """The file is JSON for people: the key as in links, ids as they are shown."""
        store_network(self.state, OFFICE)
        self.assertEqual(
            json.loads(self.path.read_bytes()),
            {
                "name": "office \N{SNOWMAN}",
                "key": TEXT,
                "registries": [
                    {"address": "192.0.2.7:5000", "id": format_node_id(NODE)},
                    {"address": "[::1]:7", "id": None},
                ],
            },
        )

    def test_unknown_fields(self) -> None:
        """What a later version adds is ignored, and what may be left out is."""
        self.write(json.dumps({"name": "n", "key": TEXT, "colour": "red"}).encode())
        self.assertEqual(load_network(self.state), JoinLink("n", KEY))

    def test_others_can_read(self) -> None:
        """A key that others can read is refused."""
        store_network(self.state, OFFICE)
        self.path.chmod(0o640)
        with self.assertRaises(Misuse) as caught:
            load_network(self.state)
        self.assertIn("chmod 600", self.keeps_key(caught.exception))

    def test_damaged(self) -> None:
        """What is no network is refused with what to do, and without what it holds."""
        good: dict[str, Any] = {"name": "n", "key": TEXT, "registries": []}
        rows: list[object] = [
            [],
            {**good, "key": TEXT[:-1]},
            {**good, "key": None},
            {**good, "name": ""},
            {**good, "registries": [{"address": "unix:/x"}]},
            {**good, "registries": [{"address": "a", "id": f"{TEXT}"}]},
            {"name": "n"},
        ]
        texts = [json.dumps(row).encode() for row in rows]
        for text in (b"", b"\xff", texts[1][:-9], b'{"key": "\xff"}', *texts):
            self.write(text)
            with self.assertRaises(Misuse) as caught:
                load_network(self.state)
            self.assertIn("`flow512 leave`", self.keeps_key(caught.exception))

    @given(st.binary())
    def test_any_content(self, content: bytes) -> None:
        """Whatever is in the file, it is a network or is refused."""
        self.write(content)
        with self.assertRaises(Misuse):
            load_network(self.state)


class KeyFileTests(FileCase):
    """The file of C{--network-key-file}."""

    def test_both_forms(self) -> None:
        """It holds a join link or a bare key, with the end of line that editors add."""
        self.assertEqual(read_key_file(self.write(f"{OFFICE}\n".encode())), OFFICE)
        self.assertEqual(read_key_file(self.write(f"{TEXT.lower()}\r\n".encode())), KEY)

    def test_others_can_read(self) -> None:
        """A key file that others can read is refused, and the sentence names chmod."""
        path = self.write(TEXT.encode())
        self.path.chmod(0o604)
        with self.assertRaises(Misuse) as caught:
            read_key_file(path)
        self.assertIn(f"`chmod 600 '{path}'`", self.keeps_key(caught.exception))

    def test_missing(self) -> None:
        """A file that is not there is no reason to run without a key."""
        with self.assertRaises(Misuse) as caught:
            read_key_file(str(self.path))
        self.assertIn("There is no key file", str(caught.exception))

    def test_no_key(self) -> None:
        """The sentence names the file and what is wrong, and not what is in it."""
        for content, words in (
            (b"", "no network key"),
            (f"{TEXT}x".encode(), "no network key"),
            (b"\xff", "no network key"),
            (f"flow512://join/x?key={TEXT}x".encode(), "no join link: its key is damaged"),
        ):
            path = self.write(content)
            with self.assertRaises(Misuse) as caught:
                read_key_file(path)
            sentence = self.keeps_key(caught.exception)
            self.assertIn(words, sentence)
            self.assertIn(path, sentence)

    def test_key_instead_of_file(self) -> None:
        """Who gives the key itself is told what to do, and the key is not repeated."""
        for text in (TEXT, TEXT.lower(), str(OFFICE)):
            with self.assertRaises(Misuse) as caught:
                read_key_file(text)
            self.assertIn("not the name of a file", self.keeps_key(caught.exception))
