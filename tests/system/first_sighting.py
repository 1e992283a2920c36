"""
A node that only tells, as one JSON object, how long it took from its start to its first peer by
beacon. It shares nothing, and ends then.
"""

from __future__ import annotations

import json
import sys

from twisted.internet.task import LoopingCall


def main() -> None:
    """Start, and wait for a sighting."""
    from twisted.internet import reactor as installed

    from flow512.discovery.election import Mode
    from flow512.node import NodeService
    from flow512.settings import NodeSettings

    reactor: object = installed
    node = NodeService(reactor, NodeSettings(name="late", bootstrap=Mode.NEVER))  # type: ignore[arg-type]  # Twisted's module stands for it
    began = installed.seconds()  # type: ignore[attr-defined]  # likewise
    node.startService()

    def look() -> None:
        if node.neighbourhood.sightings():
            seconds = installed.seconds() - began  # type: ignore[attr-defined]  # likewise
            sys.stdout.write(json.dumps({"event": "seen", "seconds": seconds}) + "\n")
            sys.stdout.flush()
            looking.stop()
            node.stopService().addCallback(
                lambda _: installed.stop()  # type: ignore[attr-defined]  # likewise
            )

    looking = LoopingCall(look)
    looking.start(0.002)
    installed.run()  # type: ignore[attr-defined]  # likewise


if __name__ == "__main__":
    main()
