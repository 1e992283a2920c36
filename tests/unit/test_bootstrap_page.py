"""The figures of docs/bootstrap.rst, held to the code."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import MAX_TERM, MOST_RISE
from flow512.discovery.waits import (
    ARRIVALS,
    DIAL_PATIENCE,
    LATE_SPREAD,
    LISTEN,
    NEXT_NAMED,
    PATIENCE,
    PREFERRED_AFTER,
    SPREAD,
    STAGGER,
    STAND_AFTER,
    TURNS,
)
from flow512.limits import Limits
from flow512.registry.carried import CARRIED_FOR
from flow512.registry.conversation import FIRST_PING, SILENCE
from flow512.registry.office import CLOSES_AFTER
from flow512.registry.server import PINGS, SHORTEST_INTERVAL

PAGE = Path(__file__).parents[2] / "docs" / "bootstrap.rst"


class PageTests(SynchronousTestCase):
    """What the page says is so."""

    def test_figures(self) -> None:
        """The figures in the text are those of the code."""
        text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
        self.assertEqual((STAND_AFTER, STAGGER, SPREAD, NEXT_NAMED, TURNS), (0.5, 0.5, 0.5, 1.0, 8))
        self.assertEqual((MAX_TERM, FIRST_PING), (2**62, SHORTEST_INTERVAL))
        for said in (
            f"A term rises by at most {MOST_RISE} for one registration",
            f"For {PATIENCE:g} seconds (and a second for each further one) only those count",
            f"listened for {LISTEN:g} seconds, and up to half a second more at random",
            f"has listed it for {PREFERRED_AFTER:g} seconds without a break",
            "half a second after the loss for the first heir, and another half second later",
            f"From the ninth on, and for who is on no list, the turn is at random within"
            f" {LATE_SPREAD:g} seconds",
            f"before stays on it for {CARRIED_FOR:g} seconds",
            f"closes its registry {CLOSES_AFTER:g} seconds later",
            f"its registry every {SHORTEST_INTERVAL:g} seconds (less often in a network of more"
            f" than {PINGS * SHORTEST_INTERVAL:g}: the registry says when, so that it gets {PINGS}",
            f"heard nothing for {SILENCE:g} seconds",
            f"for {DIAL_PATIENCE:g} seconds at most, each again",
            f"up to a {ARRIVALS:g}th of a second for each peer",
            f"``--limit registrations-per-second``, {Limits().registrations_per_second})",
        ):
            self.assertIn(said, text)
