"""Tests for L{flow512.transfer.client}: folders, from several sources."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from flow512.errors import BadDigest, Flow512Error
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.transfer.client import TransferClient
from flow512.transfer.finding import Candidate
from flow512.transfer.folders import Progress
from flow512.units import BLOCK
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import OURS, THEIRS, TransferTestCase

THERE = Candidate(HostPort("10.0.0.1", 5000), "there", THEIRS)


class FolderClientTests(TransferTestCase):
    """All that a node shares, fetched by another."""

    def setUp(self) -> None:
        super().setUp()
        run = self.here.run_blocking
        endpoint = partial(client_endpoint, self.here.reactor)
        self.client = TransferClient(
            Introduction(OURS, "here"), self.here.reactor, endpoint, run, run
        )
        self.top = self.folder / "top"
        self.blamed: list[tuple[Candidate, Flow512Error]] = []

    def fetch(
        self,
        candidates: list[Candidate],
        found: Callable[[], object] = lambda: None,
        **how: Any,
    ) -> Progress:
        """Fetch it."""
        self.shelf.scan()
        getting = self.client.get_folder(
            candidates,
            str(self.top),
            path="/",
            found=lambda who, entry: found(),
            blame=lambda who, why: self.blamed.append((who, why)),
            **how,
        )
        return self.network.result(Deferred.fromCoroutine(getting), 900)

    def assert_rest_came(self, spoil: Callable[[], object]) -> None:
        """What happens to one of three large files is no matter of the others."""
        contents = {name: self.put(name, 2 * BLOCK + 5)[1] for name in ("a", "b", "c")}
        left_out: list[str] = []
        progress = self.fetch([THERE], spoil, left_out=lambda path, why: left_out.append(path))
        self.assertEqual((progress.done, left_out), (2, ["a"]))
        for name in ("b", "c"):
            self.assertEqual((self.top / name).read_bytes(), contents[name])
        self.assertEqual(self.blamed, [])

    def test_one_has_changed(self) -> None:
        """A large file that has changed is left out, and the rest comes."""
        self.assert_rest_came(lambda: (self.shelf.folder / "a").write_bytes(bytes(2 * BLOCK + 5)))

    def test_one_is_gone(self) -> None:
        """A large file that is gone is left out, and the rest comes."""
        self.assert_rest_came((self.shelf.folder / "a").unlink)

    def test_liar(self) -> None:
        """Who sends a wrong block of one large file is asked for no block of another."""
        contents = {name: self.put(name, 20 * BLOCK + 5)[1] for name in ("a", "b", "c")}
        other = self.another(3, "a", contents["a"])
        for name in ("b", "c"):
            other.shelf.put(name, contents[name])
        other.shelf.scan()
        asked: list[int] = []
        other.shelf.read_hook = lambda at, data: asked.append(at) or bytes(len(data))
        progress = self.fetch([THERE, other.candidate])
        self.assertEqual(progress.done, 3)
        for name, content in contents.items():
            self.assertEqual((self.top / name).read_bytes(), content)
        ((who, why),) = self.blamed
        self.assertEqual(who, other.candidate)
        self.assertIsInstance(why, BadDigest)
        self.assertLessEqual(len(asked), 20)

    def test_damaged_since(self) -> None:
        """What an earlier fetch has left of a large file is not believed if the disk spoilt it."""
        _, content = self.put("a", 6 * BLOCK)
        self.shelf.scan()
        getting = Deferred.fromCoroutine(self.client.get_folder([THERE], str(self.top), path="/"))
        self.network.run_until(lambda: self.here.bytes_received > 4 * BLOCK)
        getting.cancel()
        with self.assertRaises(CancelledError):
            self.network.result(getting)
        (part,) = self.top.glob(".flow512-*.part")
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([content[1000] ^ 1]))
        self.assertEqual(self.fetch([THERE]).done, 1)
        self.assertEqual((self.top / "a").read_bytes(), content)

    def test_lie_about_the_size(self) -> None:
        """Who tells a wrong size of the list is to blame, and not those who tell the right one."""
        _, content = self.put("a", 50)
        for number in (3, 4):
            liar = self.another(number, "a", content)
            stat = liar.shelf.stat

            def lie(*args: Any, stat: Callable[..., Entry] = stat) -> Entry:
                entry = stat(*args)
                return replace(entry, size=entry.size + 1)

            liar.shelf.scan()
            liar.shelf.stat = lie  # type: ignore[method-assign]  # of a liar
            self.blamed.clear()
            candidates = [liar.candidate, THERE]
            self.assertEqual(self.fetch(candidates).outcome.files, 1)
            self.assertEqual([who for who, _ in self.blamed], [liar.candidate])
            self.assertEqual((self.top / "a").read_bytes(), content)
