"""Tests for L{TransferClient.stream} and L{Fetcher.stream}: content that is written on."""

from __future__ import annotations

import os
import tempfile
from random import Random

from twisted.internet.defer import Deferred

from flow512.content.outlet import MAX_EARLY, Outlet
from flow512.errors import Flow512Error, Misuse
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.transfer.client import TransferClient
from flow512.transfer.finding import Candidate
from flow512.units import BLOCK
from flow512.wire.messages import Entry
from tests.unit.transfer_ends import OURS, TransferTestCase

THERE = Candidate(HostPort("10.0.0.1", 5000))


class StreamTests(TransferTestCase):
    """From one node, over the network in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.fd, name = tempfile.mkstemp()
        os.unlink(name)
        self.addCleanup(os.close, self.fd)
        reactor = self.here.reactor
        self.client = TransferClient(
            Introduction(OURS, "here"),
            reactor,
            lambda address: client_endpoint(reactor, address),
            self.here.run_blocking,
            random=Random(1),
        )
        self.outlets: list[Outlet] = []

    def stream(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Write a file on, and give all that came out."""

        def open_outlet(entry: Entry) -> Outlet:
            assert entry.root is not None
            self.outlets.append(Outlet(self.fd, entry.root, entry.size, offset, length))
            return self.outlets[-1]

        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        streamed = self.client.stream([THERE], open_outlet, path=path)
        self.network.result(Deferred.fromCoroutine(streamed))
        return os.pread(self.fd, 1 << 30, 0)

    def test_whole(self) -> None:
        """All of it comes out, the empty file too."""
        for size in (0, 1, BLOCK, 20 * BLOCK + 7):
            _, content = self.put(f"file {size}", size)
            self.assertEqual(self.stream(f"file {size}"), content)

    def test_range(self) -> None:
        """Of a range only the blocks are fetched that it lies in."""
        _, content = self.put("one", 40 * BLOCK)
        self.shelf.bytes_read = 0
        begin = 30 * BLOCK + 100
        self.assertEqual(self.stream("one", begin, BLOCK), content[begin : begin + BLOCK])
        self.assertEqual(self.shelf.bytes_read, 2 * BLOCK)
        self.assertEqual(self.stream("one", len(content)), b"")
        with self.assertRaises(Misuse):
            self.stream("one", 0, len(content) + 1)

    def test_liar(self) -> None:
        """Nothing is written that is not what it should be, nor anything behind it."""
        _, content = self.put("one", 30 * BLOCK)
        self.shelf.read_hook = lambda at, data: (
            data[:9] + b"x" + data[10:] if at == 12 * BLOCK else data
        )
        with self.assertRaises(Flow512Error):
            self.stream("one")
        out = os.pread(self.fd, 1 << 30, 0)
        self.assertLessEqual(len(out), 12 * BLOCK)
        self.assertEqual(out, content[: len(out)])

    def test_slow_reader(self) -> None:
        """While the reader takes nothing, no more is asked for than may wait."""
        self.put("one", 400 * BLOCK)
        held: list[Deferred[None]] = []
        run_blocking = self.client._run_blocking

        def slowly(function: object, *args: object, **kwargs: object) -> Deferred[None]:
            if getattr(function, "__name__", "") != "_write":
                return run_blocking(function, *args, **kwargs)  # type: ignore[call-overload, no-any-return]  # as it comes
            held.append(Deferred())
            return held[-1]

        self.client._run_blocking = slowly  # type: ignore[assignment]  # a worker that never comes
        streamed = self.client.stream(
            [THERE],
            lambda entry: Outlet(self.fd, entry.root or b"", entry.size, 0, None),
            path="one",
        )
        streaming = Deferred.fromCoroutine(streamed)
        self.network.run(20.0)
        self.assertLessEqual(self.shelf.bytes_read, MAX_EARLY * BLOCK)
        self.assertEqual(len(held), 1)
        streaming.addErrback(lambda failure: None)
        streaming.cancel()
        held[0].callback(None)
        self.network.run(5.0)
