"""
How long an election waits for what, and how much of it there may be.

docs/bootstrap.rst gives reasons; tests/unit/test_bootstrap_page.py holds it to these figures.
"""

from __future__ import annotations

from typing import Final

LISTEN: Final = 1.5
"""Seconds; the beacon asks three times within them."""

PATIENCE: Final = 3.0
"""Seconds that the registry that the user named has for itself at the start."""

NEXT_NAMED: Final = 1.0
"""Seconds after which the next registry that the user named is tried as well."""

SPREAD: Final = 0.5
"""Seconds; what is random in when a node leads that knows no rank of its own."""

PREFERRED_AFTER: Final = 5.0
"""Seconds for which a preferred registry has to be there without a break to be gone back to."""

STAND_AFTER: Final = 0.5
STAGGER: Final = 0.5
"""Seconds from the loss of the leader to the first heir's turn, and on to each heir's after it."""

TURN_SPREAD: Final = 0.1
"""Seconds; what is random in a turn of one's own."""

TURNS: Final = 8
"""Heirs that have turns of their own."""

LATE_SPREAD: Final = 4.0
"""Seconds in which all others have theirs, at random."""

DIAL_PATIENCE: Final = 4.0
"""Seconds for a link to be listed; named ones take as long as they need."""

HELD_UP: Final = 3.0
HELD_UP_UNCLAIMED: Final = 1.0
"""
Seconds for which a link that is tried can put off a turn: where a registry is said to be, and where
one may be by now.
"""

DIALS: Final = 2
"""Links that are tried at once, besides the named ones."""

LOOK_AT_WORSE: Final = 3.0
"""Seconds after which a leader looks at one who claims to be no better; usually that one comes."""

REACH_PATIENCE: Final = 11.0
"""Seconds within which a registry finds out whether it can reach a node."""

TELL_AGAIN: Final = 30.0
"""Seconds until a leader is told again, or one that is no better is looked at again."""

SAID_ANEW: Final = 1.0
"""Seconds after which an address is tried again where a registry is said to be that was not."""

HEARD_FOR: Final = 60.0
"""Seconds for which an offer is kept that a registry or a node told."""

MOST_HEARD: Final = 16
"""Such offers; more are not kept."""

HANDOVERS: Final = 8
"""Times in a minute that a node lets itself be sent on."""

ARRIVALS: Final = 500.0
"""Nodes a second that may arrive at a registry at once, when all of a network look for one."""
