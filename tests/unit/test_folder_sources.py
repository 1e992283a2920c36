"""Tests for L{flow512.transfer.folder_sources}."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import BadDigest, Busy, Flow512Error, NotFound, PeerLost
from flow512.link.conversation import Patience
from flow512.transfer.blocks import buffers_for
from flow512.transfer.finding import Candidate
from flow512.transfer.folder_sources import LONGEST_WAIT, FolderSources
from flow512.transfer.source import SourceProtocol
from flow512.wire.messages import Entry

ENTRY = Entry("large", 10**9, 0, bytes(32))


class Idle:
    """A source that is there, and is asked for nothing."""

    patience = Patience()
    is_held_back = False
    is_open = True

    def __init__(self) -> None:
        self.buffers = buffers_for(1)

    def leave(self) -> None:
        """Go."""
        self.is_open = False


class FolderSourcesTests(SynchronousTestCase):
    """L{FolderSources}, of two."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.blamed: list[Candidate] = []
        self.one, self.two = Candidate("one"), Candidate("two")
        self.idle = [Idle(), Idle()]
        first, second = (cast(SourceProtocol, each) for each in self.idle)
        self.first, self.second = first, second
        self.sources = FolderSources(
            {first: self.one, second: self.two},
            self.clock,
            lambda who, reason: self.blamed.append(who),
        )

    def lent(self) -> list[Candidate]:
        """Tell who may be asked for one large file."""
        return [each.candidate for each in self.sources.lend(ENTRY)]

    def failed(self, source: SourceProtocol, error: Flow512Error) -> Deferred[None]:
        """A source does not give what it was asked for."""
        return Deferred.fromCoroutine(self.sources.failed(source, error))

    def test_lent(self) -> None:
        """Nobody is lent who has lied, or is gone."""
        self.assertEqual(self.lent(), [self.one, self.two])
        self.sources.blame(self.one, BadDigest("It lied."))
        self.sources.blame(self.one, BadDigest("It lied again."))
        self.assertEqual(self.lent(), [self.two])
        self.assertEqual(self.blamed, [self.one])
        self.idle[1].is_open = False
        with self.assertRaisesRegex(BadDigest, "It lied\\."):
            self.lent()

    def test_all_gone(self) -> None:
        """If all are gone without blame, that is said."""
        for each in self.idle:
            each.leave()
        with self.assertRaises(PeerLost):
            self.lent()

    def test_left(self) -> None:
        """Who is of no use is left, and the others are asked; why the last one is, is told."""
        for _ in range(2):
            self.successResultOf(self.failed(self.first, NotFound("It is not here.")))
        self.assertEqual([each.is_open for each in self.idle], [False, True])
        self.assertIs(self.sources.first, self.second)
        self.failureResultOf(self.failed(self.second, NotFound("Nor here.")), NotFound)

    def test_busy(self) -> None:
        """Who is busy is asked again when he says, but within half a minute."""
        for says, waits in ((1.0, 1.0), (10**6, LONGEST_WAIT)):
            waiting = self.failed(self.first, Busy("Later.", says))
            self.clock.advance(waits - 0.1)
            self.assertNoResult(waiting)
            self.clock.advance(0.1)
            self.successResultOf(waiting)
        self.assertTrue(self.idle[0].is_open)

    def test_in_turn(self) -> None:
        """They are asked one after the other."""
        chosen = [self.sources.choose() for _ in range(4)]
        self.assertEqual(chosen[:2], chosen[2:])
        self.assertEqual(set(chosen), {self.first, self.second})
