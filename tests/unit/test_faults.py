"""Tests for L{flow512.link.faults}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.link.faults import MOST, STRIKES, Faults


class FaultsTests(SynchronousTestCase):
    """Who has sent something wrong."""

    def test_strikes(self) -> None:
        """The third time is once too often, for each node by itself; then it begins anew."""
        faults = Faults()
        for _ in range(2):
            for _ in range(STRIKES - 1):
                self.assertFalse(faults.note(b"a"))
            self.assertFalse(faults.note(b"b" * _ + b"c"))
            self.assertTrue(faults.note(b"a"))

    def test_bounded(self) -> None:
        """Of very many who did wrong the first are forgotten, not the latest."""
        faults = Faults()
        faults.note(b"first")
        for number in range(MOST):
            faults.note(number.to_bytes(4, "big"))
        faults.note((MOST - 1).to_bytes(4, "big"))
        self.assertTrue(faults.note((MOST - 1).to_bytes(4, "big")))
        self.assertFalse(faults.note(b"first"))
        self.assertFalse(faults.note(b"first"))
