"""
Look around on a network: who is there, what does each share, and how does a file begin?

The path of a file in some share, and how many bytes of it are wanted::

    python look_around.py notes/today.txt 200
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from flow512 import Candidate, Entry, Flow512Error, NodeService, NodeSettings, Outlet

WAIT = 3.0
"""Seconds after which all have said that they are there."""


async def list_one(node: NodeService, peer: Candidate, say: Callable[[str], None]) -> None:
    """Say what one peer shares, as it comes."""
    client = node.fetching.client
    source = await client.connect(peer)
    try:
        async for entry in client.entries(source):
            say(f"{peer} has {entry.path!a}: {entry.size} bytes")
    finally:
        source.leave()


async def read_beginning(reactor: Any, node: NodeService, path: str, length: int) -> bytes:
    """Read the first bytes of a file: what is fetched is the blocks that they are in."""
    with TemporaryFile() as file:

        def open_outlet(entry: Entry) -> Outlet:
            assert entry.root is not None
            return Outlet(file.fileno(), entry.root, entry.size, 0, min(length, entry.size))

        await node.fetching.stream(path, open_outlet).addTimeout(60, reactor)
        file.seek(0)
        return file.read()


async def look_around(
    reactor: Any, node: NodeService, path: str, length: int, say: Callable[[str], None]
) -> None:
    """Say what there is; C{node} has been started."""
    await deferLater(reactor, WAIT)
    for peer in node.neighbourhood.candidates():
        try:
            await list_one(node, peer, say)
        except Flow512Error as error:
            say(f"{peer}: {error}")
    beginning = await read_beginning(reactor, node, path, length)
    say(f"{path!a} begins with {beginning!a}")


def main(reactor: Any, path: str, length: str) -> Deferred[None]:
    """Look around once and end."""

    async def run() -> None:
        node = NodeService(reactor, NodeSettings(serves=False))
        try:
            node.startService()
            # At the end, by Ctrl-C as well, the node leaves before the reactor stops.
            reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
            await look_around(reactor, node, path, int(length), print)
        except Flow512Error as error:
            raise SystemExit(str(error)) from None

    return Deferred.fromCoroutine(run())


if __name__ == "__main__":
    react(main, sys.argv[1:])
