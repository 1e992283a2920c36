"""Tests for L{flow512.registry.term_file}."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import MAX_TERM
from flow512.registry.term_file import TERM_FILE, TermKeeper, read_term, write_term


class TermFileTests(SynchronousTestCase):
    """The file."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = folder.name
        self.file = Path(self.state, TERM_FILE)

    def test_kept(self) -> None:
        """What was written is read again; without anything it is 0."""
        self.assertEqual(read_term(self.state), 0)
        write_term(self.state, 41)
        self.assertEqual((read_term(self.state), self.file.read_text()), (41, "41\n"))

    def test_damaged(self) -> None:
        """A file that makes no sense counts for nothing, and an absurd term for the highest."""
        for content, term in (
            (b"", 0),
            (b"-3", 0),
            (b"\xff", 0),
            (b"9" * 40, 0),
            (b"9" * 30, MAX_TERM),
            (b" 7 \n", 7),
        ):
            self.file.write_bytes(content)
            os.chmod(self.file, 0o600)
            self.assertEqual(read_term(self.state), term, content)
        os.chmod(self.file, 0o644)
        self.assertEqual(read_term(self.state), 0)


class TermKeeperTests(TermFileTests):
    """L{TermKeeper}: one write after the other, and none on the reactor's thread."""

    def setUp(self) -> None:
        super().setUp()
        self.waiting: list[tuple[Deferred[None], tuple[object, ...]]] = []
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.logged)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged)

    def logged(self, event: LogEvent) -> None:
        """Keep a line of the log."""
        self.lines.append(formatEvent(event))

    def run_blocking(self, *call: object) -> Deferred[None]:
        """Do it later."""
        done: Deferred[None] = Deferred()
        self.waiting.append((done, call))
        return done

    def work(self) -> None:
        """Do the next thing."""
        done, (function, *arguments) = self.waiting.pop(0)
        try:
            function(*arguments)  # type: ignore[operator]  # it is one
        except Exception:  # noqa: BLE001  # as a worker does
            done.errback()
        else:
            done.callback(None)

    def test_one_after_the_other(self) -> None:
        """While one term is written, later ones wait; only the latest of them is written then."""
        keeper = TermKeeper(self.state, self.run_blocking)
        for term in (5, 6, 8, 7):
            keeper.remember(term)
        self.assertEqual((keeper.term, len(self.waiting)), (8, 1))
        finished = Deferred.fromCoroutine(keeper.finish())
        self.work()
        self.assertEqual(read_term(self.state), 5)
        self.assertNoResult(finished)
        self.work()
        self.successResultOf(finished)
        self.assertEqual((read_term(self.state), self.waiting), (8, []))
        self.successResultOf(Deferred.fromCoroutine(keeper.finish()))
        keeper.remember(8)
        self.assertEqual(self.waiting, [])
        self.assertEqual(TermKeeper(self.state, None).term, 8)

    def test_nothing_to_keep_it_in(self) -> None:
        """Without a state folder it is known for as long as the process runs."""
        keeper = TermKeeper(None, self.run_blocking)
        keeper.remember(5)
        self.assertEqual((keeper.term, self.waiting), (5, []))

    def test_disk_fails(self) -> None:
        """A term that cannot be written is said to be so, and the next one is tried."""
        keeper = TermKeeper(self.state, self.run_blocking)
        os.rmdir(self.state)
        keeper.remember(5)
        self.work()
        self.assertTrue(any("The term 5 could not be written down" in line for line in self.lines))
        os.mkdir(self.state)
        keeper.remember(6)
        self.work()
        self.assertEqual(read_term(self.state), 6)
