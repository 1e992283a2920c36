"""The figures of docs/registry.rst, held to the code."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.claims import MOST_RISE
from flow512.discovery.waits import ARRIVALS
from flow512.limits import Limits
from flow512.registry.conversation import FIRST_PING, SILENCE
from flow512.registry.dial_back import DEADLINE
from flow512.registry.dials import WAITS
from flow512.registry.log_room import LINES, LINES_PER_MINUTE
from flow512.registry.questions import ANSWERS_WITHIN
from flow512.registry.server import PINGS, SHORTEST_INTERVAL
from flow512.registry.table import GRACE, LEASE, MAX_CHANGES
from flow512.wire.fields import MAX_PEERS

PAGE = Path(__file__).parents[2] / "docs" / "registry.rst"


class PageTests(SynchronousTestCase):
    """What the page says is so."""

    def test_figures(self) -> None:
        """The figures in the text are those of the code."""
        text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
        limits = Limits()
        first, *others, last = WAITS
        for said in (
            f"{limits.registrations_per_address} registrations from each,",
            f"{limits.registrations_per_node} of one node id, and {limits.registrations} in all.",
            f"It takes {limits.registrations_per_second} new or changed ones a second",
            f"each a {limits.registrations_per_second}th of a second after the one before",
            f"PING {FIRST_PING:g} seconds after it has registered",
            f"wants a ping every {SHORTEST_INTERVAL:g} seconds, or less often from more than"
            f" {PINGS * SHORTEST_INTERVAL:g} nodes: so that it gets {PINGS} a second,",
            f"heard nothing for {SILENCE:g} seconds after a PING",
            f"up to a {ARRIVALS:g}th of a second for each peer on its list",
            f"up to {MOST_RISE} more than its own",
            f"{limits.registrations_per_address_per_minute} may be made or changed from one source,"
            f" and {limits.registrations_per_node_per_minute} by one node id",
            f"room for {LINES} lines about one source, and {LINES_PER_MINUTE} more each minute",
            f"An attempt takes {DEADLINE:g} seconds at most",
            f"in {first:g} seconds, then in {', '.join(f'{wait:g}' for wait in others)},"
            f" and {last:g} from there on",
            f"At most {limits.dial_backs_per_address} attempts to one source are made at once,"
            f" {limits.dial_backs_per_subnet} to one subnet",
            f"and {limits.dial_backs} in all; in a minute,"
            f" {limits.dial_backs_per_address_per_minute} to one source and"
            f" {limits.dial_backs_per_subnet_per_minute} to one subnet.",
            f"at most {limits.dials_per_address} peers of one address to be dialled by itself,"
            f" {limits.dials_per_subnet} of one subnet and {limits.dials} in all",
            f"A registration lasts for the lease, {LEASE:g} seconds",
            f"the registration stays for {GRACE:g} seconds",
            f"at most {MAX_CHANGES} of them at once",
            f"remembers {limits.holdings_per_node} contents of each node,"
            f" and {limits.holdings} of all together",
            f"minute {limits.lookups_per_minute} questions of one node are answered",
            f"HOLDERS has at most {MAX_PEERS} peers",
            f"no answer within {ANSWERS_WITHIN:g} seconds",
        ):
            self.assertIn(said, text)
