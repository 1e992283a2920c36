"""Tests for L{flow512.link.sparing_log}."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.link.sparing_log import SparingLog


class SparingLogTests(SynchronousTestCase):
    """Lines, of which there may be too many."""

    log = Logger()

    def setUp(self) -> None:
        self.clock = Clock()
        self.sparing = SparingLog(self.log, self.clock, rate=0.5, burst=3)

    def test_flood(self) -> None:
        """Of a flood the first lines are there, then some, and how many are not."""
        with capturedLogs() as logs:
            for number in range(1000):
                self.sparing.info("Line {number}.", number=number)
            self.clock.advance(2)
            self.sparing.info("Line {number}.", number="two")
            self.sparing.say_left_out()
        self.assertEqual(
            [formatEvent(event) for event in logs],
            [
                "Line 0.",
                "Line 1.",
                "Line 2.",
                "997 lines such as this were left out: Line 999.",
                "Line two.",
            ],
        )

    def test_at_the_end(self) -> None:
        """What was left out is said at the end, once."""
        with capturedLogs() as logs:
            for number in range(5):
                self.sparing.info("Line {number}.", number=number)
            self.sparing.say_left_out()
            self.sparing.say_left_out()
        self.assertEqual(
            [formatEvent(event) for event in logs][3:],
            ["2 lines such as this were left out: Line 4."],
        )
