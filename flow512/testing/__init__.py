"""
A network in memory, to test Twisted applications on.

Any number of hosts live in one process, each with its own reactor; real factories, endpoints and
services run on them unchanged, on Twisted's own transports. There are no sockets, no threads and
no waiting: a clock that the test moves decides when things happen, and one seeded random generator
decides how, so that a run repeats to the byte::

    network = Network(seed=1)
    server, client = network.host("10.0.0.1", name="server"), network.host("10.0.0.2")
    serverFromString(server.reactor, "tcp:5000").listen(factory)
    endpoint = clientFromString(client.reactor, "tcp:server:5000")
    protocol = network.result(connectProtocol(endpoint, Protocol()))

Back-pressure is real, connections can be cut and hosts can crash; see L{Network} and L{Host}.
"""

from flow512.testing.host import Host
from flow512.testing.network import Delivery, Network
from flow512.testing.poller import GaveUp

__all__ = ["Delivery", "GaveUp", "Host", "Network"]
