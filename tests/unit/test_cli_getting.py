"""Tests for what C{flow512 get} says of several sources."""

from __future__ import annotations

import os
from unittest import mock

from flow512.errors import DiskFailure
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from tests.unit.command_line import CommandCase, Said

BIG = bytes(range(256)) * 4 * 1024 * 30
"""30 MiB, every piece like the others; so blocks are, too."""


class SeveralSourcesTests(CommandCase):
    """C{flow512 get}, where two nodes have the file."""

    def setUp(self) -> None:
        super().setUp()
        other = self.network.host("10.0.0.3", name="other")
        self.start_node({"big.bin": BIG}, beacon_port=None)
        self.start_node(
            {"big.bin": BIG},
            other,
            beacon_port=None,
            registries=(NamedRegistry(HostPort("server", 5000)),),
        )
        self.network.run(5.0)

    def get(self, *arguments: str) -> Said:
        """Fetch it."""
        said = self.flow512(
            "get", "big.bin", "--registry", "server", "-o", str(self.here), *arguments
        )
        self.assertEqual(said.status, 0)
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)
        return said

    def damage(self) -> None:
        """Let one node's disk give something else than it was given, and nothing show it."""
        path = self.folder / "share of other" / "big.bin"
        before = os.stat(path)
        with path.open("r+b") as file:
            for at in range(0, len(BIG), 1 << 18):
                file.seek(at)
                file.write(b"\xff")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_who_sent_what(self) -> None:
        """People are told how much each source has sent, and so are programs."""
        lines = self.get().out.splitlines()
        self.assertRegex(
            lines[-1], r"\AFrom 2 sources: \w+ \(\S+\) [\d.]+ MiB, \w+ \(\S+\) .* MiB\Z"
        )
        (self.here / "big.bin").unlink()
        sources = self.get("--json").event("done")["sources"]
        self.assertEqual({each["peer"] for each in sources}, {"server", "other"})
        self.assertEqual(sum(each["bytes"] for each in sources), len(BIG))
        self.assertEqual({each["address"] for each in sources}, {"10.0.0.1:5000", "10.0.0.3:5000"})

    def test_who_was_dropped(self) -> None:
        """Who has sent something wrong is named, with the reason; the file is exact."""
        self.damage()
        said = self.get()
        (line,) = [each for each in said.err.splitlines() if "was dropped" in each]
        self.assertRegex(
            line, r"\Aflow512: other \(10\.0\.0\.3:5000\) was dropped: .*damaged block \d+"
        )
        (self.here / "big.bin").unlink()
        dropped = self.get("--json").event("dropped")
        self.assertEqual((dropped["peer"], dropped["address"]), ("other", "10.0.0.3:5000"))
        self.assertIn("damaged block", dropped["reason"])


class AtOnceTests(CommandCase):
    """C{flow512 get}, of a file that nobody has hashed."""

    def setUp(self) -> None:
        super().setUp()
        failing = mock.patch("flow512.content.backlog.hash_file", side_effect=DiskFailure("no"))
        with failing:
            self.start_node({"big.bin": BIG}, beacon_port=None)
            self.network.run(5.0)

    def get(self, *arguments: str) -> Said:
        """Fetch it."""
        with mock.patch("flow512.content.backlog.hash_file", side_effect=DiskFailure("no")):
            said = self.flow512(
                "get", "big.bin", "--from", "server", "-o", str(self.here), *arguments
            )
        self.assertEqual(said.status, 0)
        self.assertEqual((self.here / "big.bin").read_bytes(), BIG)
        return said

    def test_for_people(self) -> None:
        """They are told that it is verified, and that there was no MD5."""
        lines = self.get().out.splitlines()
        self.assertEqual(lines[0], "File 'big.bin' downloaded successfully.")
        self.assertEqual(lines[1], "[+] Every block was verified as it came; the MD5 was left out.")

    def test_for_programs(self) -> None:
        """They are told at first that there is no root, and at the end what it is."""
        said = self.get("--json")
        self.assertIsNone(said.event("found")["root"])
        done = said.event("done")
        self.assertRegex(done["root"], r"\Aflow512:[a-z2-7]{52}\Z")
        self.assertEqual((done["fetched"], done["md5"]), (len(BIG), None))
