"""
A beacon alone: programs of one kind find each other, and need nothing else of flow512.

A name, the TCP port at which this program can be reached, and the network interfaces to use, which
are all if none is named::

    python beacon_alone.py kitchen 8000 eth0
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from flow512 import Beacon, Offer, Sighting, addresses_of_host, choose_interfaces

NETWORK = "example.net/thermometer"
"""Beacons with the same tag see each other; these do not mix with nodes that share files."""


def make_beacon(
    reactor: Any, name: str, port: int, interfaces: tuple[str, ...], say: Callable[[str], None]
) -> Beacon:
    """Make a beacon, which is an C{IService} like any other."""

    def found(sighting: Sighting) -> None:
        # A hint and no more: connect there, and see who answers. !a leaves nothing in the name that
        # a terminal obeys.
        say(f"found {sighting.name!a} at {sighting.host} port {sighting.port('node')}")

    def lost(sighting: Sighting) -> None:
        say(f"lost {sighting.name!a}")

    return Beacon(
        reactor,
        name=name,
        random=SystemRandom(),
        network=NETWORK,
        offers=[Offer("node", port)],
        # Called again every 30 seconds, since interfaces come and go.
        interfaces=lambda: choose_interfaces(interfaces, addresses_of_host()),
        on_found=found,
        on_lost=lost,
    )


def main(reactor: Any, name: str, port: str, *interfaces: str) -> Deferred[None]:
    """Run until Ctrl-C."""
    for each in interfaces:
        # A beacon waits for its interfaces, and would wait for ever for one that is misspelt.
        if not choose_interfaces([each], addresses_of_host()):
            raise SystemExit(f"There is no interface {each!a} here.")
    beacon = make_beacon(reactor, name, int(port), interfaces, lambda line: print(line, flush=True))
    beacon.startService()
    # The goodbye tells the others at once, instead of after some silent intervals.
    reactor.addSystemEventTrigger("before", "shutdown", beacon.stopService)
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
