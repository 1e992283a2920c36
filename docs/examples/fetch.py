"""
Fetch one file from a node, as a step of a program made of Deferreds.

The node's address, the path of the file in its share, and the folder that it is to go to::

    python fetch.py 192.168.1.20:5000 films/trailer.mkv .
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import react
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from flow512 import (
    Candidate,
    Fetched,
    Flow512Error,
    HostPort,
    Identity,
    Introduction,
    RunBlocking,
    Target,
    Tls,
    TransferClient,
    client_endpoint,
    parse_address,
)


def fetch(
    reactor: Any, run_blocking: RunBlocking, address: str, path: str, folder: str
) -> Deferred[Fetched]:
    """Fetch a file; it is there, whole and verified, when the Deferred fires."""
    # A new key each time; keep the seed to be the same node again.
    identity = Identity.from_seed(os.urandom(32))
    tls = Tls(identity, reactor)

    def endpoint(address: HostPort | str) -> IStreamClientEndpoint:
        # Any endpoint will do beneath TLS, such as one that goes by a proxy.
        return tls.connecting(client_endpoint(reactor, address))

    introduction = Introduction(identity.node, name="example")
    client = TransferClient(introduction, reactor, endpoint, run_blocking)
    source = Candidate(parse_address(address))
    return Deferred.fromCoroutine(client.get([source], Target(folder), path=path))


def report(fetched: Fetched) -> None:
    """Say where the file is."""
    assert fetched.md5 is not None
    print(f"{fetched.md5.hex()}  {fetched.path}")


def explain(failure: Failure) -> None:
    """Every error of flow512 is one sentence that says what to do."""
    failure.trap(Flow512Error)
    raise SystemExit(str(failure.value))


def main(reactor: Any, address: str, path: str, folder: str) -> Deferred[None]:
    """Fetch one file and end."""
    in_threads = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return fetch(reactor, in_threads, address, path, folder).addCallback(report).addErrback(explain)


if __name__ == "__main__":
    react(main, sys.argv[1:])
