"""
Elections of three to thirty nodes, in bad weather, by the seed.

C{FLOW512_ELECTION_SEEDS} says which are tried, from first to last.
"""

from __future__ import annotations

import os
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.unit.election_of_nodes import Weather

BOUND: Final = 60.0
SEEDS = range(*map(int, os.environ.get("FLOW512_ELECTION_SEEDS", "0:12").split(":")))


class ElectionsTests(SynchronousTestCase):
    """One leader in each part, and everybody listed, soon after the last disturbance."""

    def test_seeds(self) -> None:
        """Whatever the seed."""
        for seed in SEEDS:
            with self.subTest(seed=seed):
                weather = Weather(seed, BOUND)
                self.assertEqual(weather.run(), "")
