"""
Bans: how long they hold, what the file keeps, and how a node that runs hears of them.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.clocks import keep_steady
from flow512.errors import DiskFailure, Misuse
from flow512.link.ban_watch import LOOK_EVERY, BanWatch
from flow512.link.bans import MAX_BAN, MAX_REASON, Ban, Bans
from flow512.link.node_id import format_node_id
from flow512.link.security import Encryption
from flow512.link.standing import Claims, Standing
from tests.unit.test_shares import as_nobody
from tests.unit.transfer_ends import HandFired, a_folder

ANN = b"a" * 32
BOB = b"b" * 32
EVE = b"e" * 32
START = 1_795_370_400
"""2026-11-22 18:00 UTC."""


class BansCase(SynchronousTestCase):
    """A folder for the file."""

    def setUp(self) -> None:
        """Make it."""
        self.folder = a_folder(self)
        self.path = self.folder / "bans.json"
        self.clock = Clock()
        self.clock.advance(START)

    def bans(self) -> Bans:
        """Read the bans, as a new process does."""
        return Bans(str(self.path), self.clock.seconds)

    def written(self) -> list[dict[str, Any]]:
        """What is in the file."""
        bans: list[dict[str, Any]] = json.loads(self.path.read_text())["bans"]
        return bans


class TimeOfDayTests(BansCase):
    """When a ban is over, where the clock is set."""

    def test_clock_is_set(self) -> None:
        """Bans end by the machine's clock, as it is set, and not by the reactor's time."""
        set_forward = [0.0]
        keep_steady(self.clock, lambda: START + set_forward[0], lambda: 0.0)
        self.bans().ban(EVE, seconds=3600)
        claims = Claims("", "", "", Encryption.TLS, str(self.folder))
        standing = Standing(claims, self.clock, Random(1))
        self.addCleanup(standing.close)
        self.assertFalse(standing.introduction.admits(EVE))
        set_forward[0] = 3600.0
        self.assertTrue(standing.introduction.admits(EVE))


class BanTests(BansCase):
    """Who is banned."""

    def test_nobody(self) -> None:
        """Without a file nobody is banned, and reading makes none."""
        bans = self.bans()
        self.assertIsNone(bans.holds(EVE))
        self.assertEqual((bans.active(), bans.reload()), ([], []))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_until(self) -> None:
        """A ban holds until its last second is over, for one node only."""
        bans = self.bans()
        ban = bans.ban(EVE, "fills the disk", 60)
        self.assertEqual(ban, Ban(EVE, START, START + 60, "fills the disk"))
        self.clock.advance(59.9)
        self.assertEqual((bans.holds(EVE), bans.active()), (ban, [ban]))
        self.assertIsNone(bans.holds(ANN))
        self.clock.advance(0.1)
        self.assertEqual((bans.holds(EVE), bans.active()), (None, []))

    def test_without_end(self) -> None:
        """A ban without end outlives processes."""
        ban = self.bans().ban(EVE)
        self.clock.advance(MAX_BAN * 2)
        self.assertEqual(self.bans().holds(EVE), ban)

    def test_again(self) -> None:
        """Who is banned again has the new reason and the new end, in place of the old ones."""
        bans = self.bans()
        bans.ban(EVE, "old", 60)
        self.clock.advance(10)
        ban = bans.ban(EVE, "new", 5)
        self.assertEqual((bans.holds(EVE), len(self.written())), (ban, 1))

    def test_unban(self) -> None:
        """A ban can be taken back; one that is over or never was is not there to be."""
        bans = self.bans()
        ban = bans.ban(EVE)
        bans.ban(BOB, "", 1)
        self.clock.advance(1)
        self.assertEqual(bans.unban(EVE), ban)
        self.assertEqual([bans.unban(node) for node in (EVE, BOB, ANN)], [None, None, None])
        self.assertIsNone(self.bans().holds(EVE))

    def test_order(self) -> None:
        """The oldest come first."""
        bans = self.bans()
        for node in (EVE, ANN, BOB):
            bans.ban(node)
            self.clock.advance(1)
        self.assertEqual([ban.node for ban in self.bans().active()], [EVE, ANN, BOB])

    def test_sentences(self) -> None:
        """A ban says how long, and why, and cannot control the terminal."""
        rows = [
            (Ban(EVE, START, START + 60, "noise."), "Banned until 2026-11-22 18:01 UTC: noise."),
            (Ban(EVE, START, None, "noise"), "Banned without end: noise."),
            (Ban(EVE, START, None), "Banned without end."),
            (Ban(EVE, START, None, "\x1b[2J"), "Banned without end: \\x1b[2J."),
        ]
        for ban, sentence in rows:
            self.assertEqual(str(ban), sentence)

    def test_limits(self) -> None:
        """What could not be kept or shown is refused, and changes nothing."""
        bans = self.bans()
        for reason, seconds in (("x" * (MAX_REASON + 1), 1), ("\ud800", 1), ("", 0), ("", -1)):
            with self.assertRaises(Misuse):
                bans.ban(EVE, reason, seconds)
        with self.assertRaises(Misuse):
            bans.ban(EVE, "", MAX_BAN + 1)
        self.assertFalse(self.path.exists())
        bans.ban(EVE, "x" * MAX_REASON, MAX_BAN)
        self.assertIsNotNone(self.bans().holds(EVE))

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_REASON))
    def test_any_reason(self, reason: str) -> None:
        """Any text comes back from the file as it was."""
        ban = self.bans().ban(EVE, reason)
        self.assertEqual((self.bans().holds(EVE), ban.reason), (ban, reason))


class FileTests(BansCase):
    """What is kept."""

    def test_form(self) -> None:
        """It is what the manual says, and nobody else can read it."""
        self.bans().ban(EVE, "noise", 60)
        self.assertEqual(
            self.written(),
            [
                {
                    "node": format_node_id(EVE),
                    "since": START,
                    "until": START + 60,
                    "reason": "noise",
                }
            ],
        )
        for path in self.folder.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_over(self) -> None:
        """What is over is dropped by the next change."""
        bans = self.bans()
        bans.ban(EVE, "", 60)
        self.clock.advance(60)
        self.assertEqual(len(self.written()), 1)
        bans.ban(ANN)
        self.assertEqual([each["node"] for each in self.written()], [format_node_id(ANN)])

    def test_two_writers(self) -> None:
        """What others wrote meanwhile is kept, by those as well who read the file before that."""
        first, second = self.bans(), self.bans()
        first.ban(ANN)
        second.ban(BOB)
        first.ban(EVE)
        self.assertIsNotNone(second.unban(ANN))
        self.assertEqual({ban.node for ban in self.bans().active()}, {BOB, EVE})

    def test_many_writers_at_once(self) -> None:
        """Those who write at the same moment wait for each other."""
        nodes = [bytes([number]) * 32 for number in range(16)]
        threads = [
            threading.Thread(target=lambda node=node: self.bans().ban(node))  # type: ignore[misc]  # of no matter
            for node in nodes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({ban.node for ban in self.bans().active()}, set(nodes))

    def test_damaged(self) -> None:
        """What is no list of bans is refused and left alone: it is not taken for an empty one."""
        eve = format_node_id(EVE)
        rows = [
            b"",
            b"nonsense",
            b"\xff",
            b"[]",
            b"{}",
            b'{"bans": {}}',
            b'{"bans": [{}]}',
            b'{"bans": [{"node": "EVE", "since": 1}]}',
            f'{{"bans": [{{"node": "{eve}"}}]}}'.encode(),
            f'{{"bans": [{{"node": "{eve}", "since": -1}}]}}'.encode(),
            f'{{"bans": [{{"node": "{eve}", "since": 1, "until": "x"}}]}}'.encode(),
            f'{{"bans": [{{"node": "{eve}", "since": 1, "until": 999999999999999}}]}}'.encode(),
        ]
        bans = self.bans()
        ban = bans.ban(EVE)
        for content in rows:
            self.path.write_bytes(content)
            with self.assertRaises(Misuse) as caught:
                self.bans()
            self.assertIn("holds no list of bans", str(caught.exception))
            for change in (lambda: bans.ban(ANN), lambda: bans.unban(EVE), bans.reload):
                with self.assertRaises(Misuse):
                    change()
            self.assertEqual(bans.holds(EVE), ban)
            self.assertEqual(self.path.read_bytes(), content)

    def test_newer(self) -> None:
        """Fields of a later version are no reason to refuse it."""
        eve = format_node_id(EVE)
        self.path.write_text(
            f'{{"bans": [{{"node": "{eve.lower()}", "since": 1, "colour": "red"}}], "more": 1}}'
        )
        self.assertEqual(self.bans().holds(EVE), Ban(EVE, 1, None))

    def test_unreadable(self) -> None:
        """A file that may not be read is not taken for none."""
        self.bans().ban(EVE)
        with as_nobody(), self.assertRaises(DiskFailure):
            self.bans()

    def test_too_long(self) -> None:
        """A file without end is not read to its end."""
        with self.path.open("wb") as file:
            os.truncate(file.fileno(), 2**40)
        with self.assertRaises(Misuse):
            self.bans()


class WatchTests(BansCase):
    """A node that runs."""

    def setUp(self) -> None:
        """Let it watch the file."""
        super().setUp()
        self.workers = HandFired()
        self.ended: list[bytes] = []
        self.seen = self.bans()
        self.watch = BanWatch(self.seen, self.clock, self.workers.run_blocking, self.ended.append)

    def start(self) -> None:
        """Start it, and let it stop at the end."""
        self.watch.startService()

        def stop() -> None:
            stopped = self.watch.stopService()
            self.workers.do_all()
            self.successResultOf(stopped)
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(stop)
        self.workers.do_all()

    def look(self) -> None:
        """Let it look once more."""
        self.clock.advance(LOOK_EVERY)
        self.workers.do_all()

    def test_banned_meanwhile(self) -> None:
        """Who is banned while it runs is told of, once, with the reason in the log."""
        self.bans().ban(ANN)
        with capturedLogs() as events:
            self.start()
            self.assertEqual(self.ended, [ANN])
            self.bans().ban(EVE, "noise")
            self.bans().ban(ANN, "again")
            self.assertIsNone(self.seen.holds(EVE))
            self.look()
            self.look()
        self.assertEqual(self.ended, [ANN, EVE])
        self.assertIsNotNone(self.seen.holds(EVE))
        self.assertEqual(
            formatEvent(events[-1]), f"{format_node_id(EVE)}: Banned without end: noise."
        )
        self.bans().unban(EVE)
        self.look()
        self.assertIsNone(self.seen.holds(EVE))
        self.bans().ban(EVE)
        self.look()
        self.assertEqual(self.ended, [ANN, EVE, EVE])

    def test_edited_by_hand(self) -> None:
        """A file that somebody wrote with an editor counts as well, and so does its removal."""
        self.start()
        eve = format_node_id(EVE)
        self.path.write_text(f'{{"bans": [{{"node": "{eve}", "since": 1}}]}}')
        self.look()
        self.assertEqual(self.ended, [EVE])
        self.path.unlink()
        self.look()
        self.assertIsNone(self.seen.holds(EVE))

    def test_damaged_meanwhile(self) -> None:
        """A file that is damaged unbans nobody; the log says so once, until it is well again."""
        self.bans().ban(EVE)
        self.start()
        good = self.path.read_bytes()
        with capturedLogs() as events:
            for content in (b"nonsense", good, b"nonsense"):
                self.path.write_bytes(content)
                for _ in range(3):
                    self.look()
                    self.assertIsNotNone(self.seen.holds(EVE))
        self.assertEqual(len(events), 2)
        self.assertIn("The bans stay as they were: ", str(formatEvent(events[0])))

    def test_stopped_while_reading(self) -> None:
        """It ends only when no worker is busy for it."""
        self.watch.startService()
        stopped = self.watch.stopService()
        self.assertNoResult(stopped)
        self.workers.do_all()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
