"""
Elections of three to thirty nodes, in bad weather, by the seed.

C{FLOW512_ELECTION_SEEDS} says which are tried, from first to last.
"""

from __future__ import annotations

import os
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.unit.election_of_nodes import Weather

AGREED: Final = 30.0
"""Seconds until everybody follows the one leader of his part."""

LISTED: Final = 45.0
"""Seconds until every list is exact: who died without a word is on it for a lease."""

SEEDS = range(*map(int, os.environ.get("FLOW512_ELECTION_SEEDS", "0:12").split(":")))


class ElectionsTests(SynchronousTestCase):
    """One leader in each part, and everybody listed, soon after the last disturbance."""

    def weather(self, seed: int) -> None:
        """Let one seed pass; no term goes back, and no node follows an earlier one meanwhile."""
        weather = Weather(seed, LISTED)
        self.assertEqual(weather.run(), "")
        self.assertLessEqual(weather.agreed, AGREED)

    def test_seeds(self) -> None:
        """Whatever the seed."""
        for seed in SEEDS:
            with self.subTest(seed=seed):
                self.weather(seed)

    def test_sent_on_in_vain(self) -> None:
        """
        A node whose registry sends it to where it gets no answer tries again for as long as it is
        sent there. (This was seed 155.)
        """
        self.weather(155)

    def test_announced_anew(self) -> None:
        """
        An heir who did not lead when he was asked is asked again as soon as he says that he does,
        and not a minute later. (This was seed 343.)
        """
        self.weather(343)

    def test_named_by_who_leads(self) -> None:
        """
        An appointed leader that sends its nodes to another one, and has named a third, does not
        register with that over and over. (This was seed 853.)
        """
        self.weather(853)

    def test_waiting_for_its_turn(self) -> None:
        """
        A leader that is tried again is not kept waiting by addresses where nobody says that a
        registry is. (This was seed 341.)
        """
        self.weather(341)
