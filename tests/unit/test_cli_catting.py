"""C{flow512 cat}: what it says when its output ends before the file does."""

from __future__ import annotations

import os
from random import Random

from flow512.units import BLOCK
from tests.unit.command_line import CommandCase, Said
from tests.unit.test_cli_sentences import Descriptor

CONTENT = Random(9).randbytes(20 * BLOCK)


class EndTests(CommandCase):
    """One node shares a file that takes a while."""

    def setUp(self) -> None:
        super().setUp()
        self.start_node({"film.mkv": CONTENT}, beacon_port=None)
        self.server.bandwidth = 10 * BLOCK

    def cat(self, out: int, *, stop_after: int | None = None) -> Said:
        """Type it; as soon as so much has been written, Ctrl-C."""

        def is_enough(_: str) -> bool:
            assert stop_after is not None
            return os.fstat(out).st_size >= stop_after

        return self.flow512(
            "cat",
            "film.mkv",
            *("--from", "10.0.0.1", "--no-beacon"),
            out=Descriptor(out),
            until=None if stop_after is None else is_enough,
        )

    def test_nobody_reads(self) -> None:
        """Who has seen enough, as C{head} has, is told nothing; but it was not all."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        self.addCleanup(os.close, write_end)
        said = self.cat(write_end)
        self.assertEqual((said.status, said.out, said.err), (1, "", ""))

    def test_interrupted(self) -> None:
        """Ctrl-C says how much has been written, which is the beginning of the file."""
        with (self.here / "out").open("wb") as out:
            said = self.cat(out.fileno(), stop_after=3 * BLOCK)
        written = (self.here / "out").read_bytes()
        self.assertEqual(said.status, 130)
        self.assertEqual(said.err, f"flow512: Stopped after {len(written)} bytes.\n")
        self.assertGreaterEqual(len(written), 3 * BLOCK)
        self.assertLess(len(written), len(CONTENT))
        self.assertEqual(written, CONTENT[: len(written)])
