"""
C{flow512 whoami}: who this node is, and where others reach it. No network and no reactor.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from flow512.cli.outcome import DONE
from flow512.cli.tables import Table
from flow512.cli.voice import Voice
from flow512.content.disk import blaming
from flow512.content.paths import escape
from flow512.discovery.addresses import LocalAddress, usable_addresses
from flow512.link.address import DEFAULT_PORT, HostPort
from flow512.link.identity import read_identity
from flow512.link.listening_file import Listening, read_listening
from flow512.link.network_file import load_network
from flow512.link.node_id import format_node_id

LocalAddresses: TypeAlias = Callable[[], Sequence[LocalAddress]]
"""Finds the addresses of this machine that others may reach it at."""


def whoami(
    state: str,
    voice: Voice,
    table: Table,
    show: Callable[[str], None],
    *,
    local_addresses: LocalAddresses = usable_addresses,
) -> int:
    """
    Say the node id, the names and the addresses of the node with a state folder; it gets its
    identity now if it has none.

    @param state: the state folder.
    @param show: draws the QR code of the id, if that makes sense.
    @return: the exit status.
    @raise flow512.errors.Flow512Error: the identity or the network cannot be read.
    """
    node = format_node_id(read_identity(state).node)
    network = load_network(state)
    listening = read_listening(state)
    name = socket.gethostname()
    addresses = [str(each) for each in reached_at(listening, local_addresses)]
    table.row("id", node)
    table.row("name", escape(name))
    if network is not None:
        table.row("network", escape(network.name))
    for address in addresses:
        table.row("address", address)
    table.end()
    voice.tell(
        "whoami",
        id=node,
        name=name,
        network=None if network is None else network.name,
        addresses=addresses,
        running=listening is not None,
    )
    show(node)
    return DONE


def reached_at(listening: Listening | None, local_addresses: LocalAddresses) -> list[HostPort]:
    """
    Say where others reach a node of this machine.

    @param listening: where it listens; L{None} if it does not run, for the usual port.
    @return: without addresses that mean nothing on another machine.
    @raise flow512.errors.ResourceFailure: the system would not tell its addresses.
    """
    if listening is None:
        listening = Listening("", DEFAULT_PORT)
    if listening.host:
        return [HostPort(listening.host, listening.port)]
    with blaming("looking for this machine's addresses"):
        found = local_addresses()
    return [HostPort(each.address, listening.port) for each in found if not each.is_link_local]
