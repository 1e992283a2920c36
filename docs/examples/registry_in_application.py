"""
A registry inside an application that has other services.

The other service here is a roll call: whoever connects to it is told which nodes are registered::

    python registry_in_application.py tcp:5000 tcp:5001:interface=127.0.0.1
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from flow512 import Flow512Error, RegistryService, RegistrySettings


class RollCall(Protocol):
    """Says who is registered, one node to a line, and hangs up."""

    def __init__(self, registry: RegistryService) -> None:
        self._registry = registry

    def connectionMade(self) -> None:
        assert self.transport is not None
        for peer in self._registry.peers:
            # A name comes from the network: !a leaves nothing in it that a terminal obeys.
            line = f"{peer.host} {peer.port} {peer.name!a}\n"
            self.transport.write(line.encode())
        self.transport.loseConnection()


class RollCallFactory(Factory[RollCall]):
    """Makes roll calls of one registry."""

    def __init__(self, registry: RegistryService) -> None:
        self._registry = registry

    def buildProtocol(self, addr: object) -> RollCall:
        return RollCall(self._registry)


def make_application(reactor: Any, registry_at: str, roll_call_at: str) -> MultiService:
    """Make the application: the registry is one of its services, started and stopped with it."""
    application = MultiService()
    # Without a beacon it is found only by who knows its address. Leave beacon_port out, and nodes
    # on the same network find it by themselves.
    settings = RegistrySettings(listen=registry_at, name="example", beacon_port=None)
    registry = RegistryService(reactor, settings)
    registry.setServiceParent(application)
    roll_call = StreamServerEndpointService(
        serverFromString(reactor, roll_call_at), RollCallFactory(registry)
    )
    roll_call.setServiceParent(application)
    return application


def main(reactor: Any, registry_at: str, roll_call_at: str) -> Deferred[None]:
    """Run until Ctrl-C."""
    application = make_application(reactor, registry_at, roll_call_at)
    try:
        application.startService()
    except Flow512Error as error:
        raise SystemExit(str(error)) from None
    reactor.addSystemEventTrigger("before", "shutdown", application.stopService)
    print("ready", flush=True)
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
