"""Tests for L{flow512.transfer.client}."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from flow512.errors import BadDigest, Busy, Flow512Error, NotFound, Violation
from flow512.limits import Limits
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.link.rate import LEAST_RATE
from flow512.transfer.allowance import Allowance
from flow512.transfer.client import FIRST_LISTED, LONGEST_WAIT, MOST_WAITS, TransferClient
from flow512.transfer.download import Checksum
from flow512.transfer.fetch import Fetched, Growing, Target
from flow512.transfer.finding import Candidate
from flow512.units import BLOCK
from flow512.wire.fields import MAX_LIST
from flow512.wire.messages import Entry, Listing
from tests.unit.transfer_ends import OURS, THEIRS, Another, TransferTestCase


class ClientTests(TransferTestCase):
    """L{TransferClient}."""

    def setUp(self) -> None:
        super().setUp()
        self.client = TransferClient(
            Introduction(OURS, "here"),
            self.here.reactor,
            partial(client_endpoint, self.here.reactor),
            self.here.run_blocking,
            self.here.run_blocking,
        )
        self.there_is = Candidate(HostPort("there", 5000), "there", THEIRS)
        self.target = Target(str(self.folder))

    def test_entries(self) -> None:
        """All that is shared is gone through, in as many lists as it takes."""
        for number in range(MAX_LIST + 5):
            (self.shelf.folder / f"file{number:04}").touch()
        (self.shelf.folder / "other").touch()
        self.shelf.scan()

        async def entries(prefix: str = "") -> list[str]:
            source = await self.client.connect(self.there_is)
            try:
                return [entry.path async for entry in self.client.entries(source, prefix)]
            finally:
                source.leave()

        names = [f"file{number:04}" for number in range(MAX_LIST + 5)]
        found = self.network.result(Deferred.fromCoroutine(entries()))
        self.assertEqual(found, [*names, "other"])
        found = self.network.result(Deferred.fromCoroutine(entries("file100")))
        self.assertEqual(found, [name for name in names if name.startswith("file100")])

    async def list_all(self) -> list[str]:
        """Go through everything that is shared."""
        source = await self.client.connect(self.there_is)
        try:
            return [entry.path async for entry in self.client.entries(source)]
        finally:
            source.leave()

    def test_pages(self) -> None:
        """The first entries come soon, and the next are asked for before these have been read."""
        for number in range(MAX_LIST):
            (self.shelf.folder / f"file{number:04}").touch()
        self.shelf.scan()
        asked: list[int] = []

        async def sizes() -> list[int]:
            source = await self.client.connect(self.there_is)
            ask = source.list

            def list_and_note(prefix: str, after: str, limit: int) -> Deferred[Listing]:
                asked.append(limit)
                return ask(prefix, after, limit)

            source.list = list_and_note  # type: ignore[method-assign]  # to see what is asked
            found = []
            async for page in self.client.pages(source):
                self.assertEqual(len(asked), min(len(found) + 2, 2))
                found.append(len(page))
            source.leave()
            return found

        found = self.network.result(Deferred.fromCoroutine(sizes()))
        self.assertEqual(found, [FIRST_LISTED, MAX_LIST - FIRST_LISTED])
        self.assertEqual(asked, [FIRST_LISTED, MAX_LIST])

    def test_pages_not_read(self) -> None:
        """Whoever wants no more of a list leaves nothing behind that goes on."""
        for number in range(MAX_LIST):
            (self.shelf.folder / f"file{number:04}").touch()
        self.shelf.scan()

        async def first() -> int:
            source = await self.client.connect(self.there_is)
            async with aclosing(self.client.pages(source)) as pages:
                async for page in pages:
                    return len(page)
            return 0

        found = self.network.result(Deferred.fromCoroutine(first()))
        self.assertEqual(found, FIRST_LISTED)
        self.network.run(1.0)

    def test_entries_of_a_busy_source(self) -> None:
        """A source that gives so many pages in a minute is waited for, and nothing is left out."""
        for number in range(MAX_LIST + 5):
            (self.shelf.folder / f"file{number:04}").touch()
        self.shelf.scan()
        limits = Limits(listings_per_minute=1)
        self.factory.allowance = Allowance(limits, self.there.reactor)
        began = self.here.reactor.seconds()
        found = self.network.result(Deferred.fromCoroutine(self.list_all()), limit=300)
        self.assertEqual(len(found), MAX_LIST + 5)
        self.assertGreater(self.here.reactor.seconds() - began, 59)

    def test_entries_of_one_that_is_always_busy(self) -> None:
        """A source that is never ready is believed after a while."""

        class NeverReady(Allowance):
            def take_listing(self, who: str) -> None:
                raise Busy("Never.", 10_000)

        self.factory.allowance = NeverReady(Limits(), self.there.reactor)
        began = self.here.reactor.seconds()
        with self.assertRaisesRegex(Busy, "Never"):
            self.network.result(Deferred.fromCoroutine(self.list_all()), limit=300)
        waited = self.here.reactor.seconds() - began
        self.assertEqual(round(waited), MOST_WAITS * LONGEST_WAIT)

    def test_get(self) -> None:
        """A file is found by path or root and fetched; then the source is left."""
        entry, content = self.put("one", 2 * BLOCK)
        told: list[tuple[Candidate, Entry]] = []
        progress: list[Growing] = []
        got = self.client.get(
            [self.there_is],
            self.target,
            path="one",
            found=lambda candidate, entry: told.append((candidate, entry)),
            progress=progress.append,
        )
        fetched = self.network.result(Deferred.fromCoroutine(got))
        self.assertEqual(told, [(self.there_is, entry)])
        self.assertIsNotNone(fetched.md5)
        self.assertTrue(progress)
        again = self.client.get(
            [self.there_is],
            Target(str(self.folder), "again"),
            root=entry.root,
            run=3,
            checksum=Checksum.NONE,
        )
        fetched = self.network.result(Deferred.fromCoroutine(again))
        self.assertIsNone(fetched.md5)
        self.assertEqual((self.folder / "again").read_bytes(), content)
        self.network.run(1.0)
        self.assertFalse(self.factory.connections)

    def several(self, blocks: int) -> tuple[bytes, list[Another]]:
        """Let two more nodes have a file, and know of them."""
        _, content = self.put("one", blocks * BLOCK)
        more = [self.another(number, "one", content) for number in (3, 4)]
        for each in more:
            each.source.leave()
        return content, more

    def fetch(self, more: list[Another], **wanted: Any) -> Fetched:
        """Fetch from everyone."""
        candidates = [self.there_is, *(each.candidate for each in more)]
        got = self.client.get(candidates, self.target, **(wanted or {"path": "one"}))
        return self.network.result(Deferred.fromCoroutine(got), 900)

    def test_get_from_all(self) -> None:
        """All who have the file send some of it, and all are left when it is here."""
        content, more = self.several(60)
        fetched = self.fetch(more)
        self.assertEqual((self.folder / "one").read_bytes(), content)
        self.assertEqual(
            {who for who, _ in fetched.sent},
            {self.there_is, *(each.candidate for each in more)},
        )
        self.assertEqual(sum(count for _, count in fetched.sent), len(content))
        self.assertEqual(
            [count for _, count in fetched.sent],
            sorted((count for _, count in fetched.sent), reverse=True),
        )
        self.network.run(1.0)
        self.assertFalse(any(each.factory.connections for each in more))

    def test_slow_line(self) -> None:
        """Who reads slowly is not taken for silent, though pings wait behind what he reads."""
        entry, content = self.put("one", 12 * BLOCK)
        self.there.bandwidth = self.here.bandwidth = LEAST_RATE
        fetched = self.network.result(
            Deferred.fromCoroutine(self.client.get([self.there_is], self.target, root=entry.root)),
            1000,
        )
        self.assertEqual((self.folder / "one").read_bytes(), content)
        self.assertEqual(fetched.fetched, entry.size)

    def test_one_that_answers_later(self) -> None:
        """Who says too late that it has the file, is asked for the rest of it."""
        content, more = self.several(60)
        self.there.bandwidth = more[0].host.bandwidth = 1_000_000
        stat = more[1].factory.run_blocking

        def late(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
            return deferLater(more[1].host.reactor, 2.0).addCallback(
                lambda _: stat(function, *args, **kwargs)
            )

        more[1].factory.run_blocking = late
        fetched = self.fetch(more)
        self.assertEqual((self.folder / "one").read_bytes(), content)
        self.assertIn(more[1].candidate, {who for who, _ in fetched.sent})

    def test_blame(self) -> None:
        """Who sends something wrong is named to the caller, with the reason."""
        content, more = self.several(40)
        self.shelf.read_hook = lambda at, data: bytes(len(data))
        blamed: list[tuple[Candidate, Flow512Error]] = []
        self.fetch(more, path="one", blame=lambda who, why: blamed.append((who, why)))
        self.assertEqual((self.folder / "one").read_bytes(), content)
        ((who, why),) = blamed
        self.assertEqual(who, self.there_is)
        self.assertIsInstance(why, BadDigest)

    def test_not_there(self) -> None:
        """What is not there is refused, and no connection is left."""
        with self.assertRaises(NotFound):
            self.network.result(
                Deferred.fromCoroutine(self.client.get([self.there_is], self.target, path="none"))
            )
        self.network.run(1.0)
        self.assertFalse(self.factory.connections)

    def test_another_node(self) -> None:
        """A node that is not the one looked for is not talked to."""
        wrong = Candidate(HostPort("there", 5000), node=OURS)
        with self.assertRaises(Violation):
            self.network.result(Deferred.fromCoroutine(self.client.connect(wrong)))
