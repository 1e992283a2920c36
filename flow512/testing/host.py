"""
A host: its addresses and ports, and the reactor of the process that runs on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from flow512.testing.addresses import (
    LOOPBACK,
    WILDCARD,
    Interface,
    canonical,
    family_of,
    interfaces_of,
    parse,
)
from flow512.testing.datagrams import DatagramSocket
from flow512.testing.ports import PortTable
from flow512.testing.reactor import HostReactor
from flow512.testing.streams import StreamSocket

if TYPE_CHECKING:
    from flow512.testing.network import Network

_LIMITED_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Host:
    """
    A machine on the network. Made by L{Network.host}.

    @ivar network: what it is on.
    @ivar name: what it can be looked up by.
    @ivar addresses: its own, IPv4 and IPv6, without the loopback.
    @ivar interfaces: where it has them; the first is the loopback.
    @ivar reactor: the reactor of the process that runs on it, a new one after each L{restart}.
    @ivar up: whether it runs.
    @ivar bandwidth: bytes per second that it sends and receives, each way; C{None} for no limit.
    @ivar bytes_sent: bytes of streams and datagrams that its transports have handed over.
    @ivar bytes_received: bytes of streams and datagrams that have arrived.
    @ivar datagrams_sent: datagrams; one that many are to hear counts once.
    @ivar datagrams_received: datagrams that a port was there for.
    """

    def __init__(self, network: Network, name: str, addresses: Sequence[str]) -> None:
        """
        @param addresses: as for L{interfaces_of}.
        @raise ValueError: an address cannot be read.
        """
        self.network = network
        self.name = name
        self.interfaces = interfaces_of(addresses)
        self.addresses = tuple(canonical(each.partition("/")[0]) for each in addresses)
        self.up = True
        self.bandwidth: float | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.datagrams_sent = 0
        self.datagrams_received = 0
        self.streams: PortTable[StreamSocket] = PortTable()
        self.datagrams: PortTable[DatagramSocket] = PortTable()
        self.busy_sending_until = 0.0
        self.busy_receiving_until = 0.0
        self.reactor = HostReactor(self, network.clock)

    def __repr__(self) -> str:
        return f"<Host {self.name}{'' if self.up else ' (down)'}>"

    # For tests.

    def run_blocking(
        self, function: Callable[..., Any], *args: object, **kwargs: object
    ) -> Deferred[Any]:
        """
        Run something that blocks, as C{deferToThread} does, but on the clock.

        It runs later, never before this returns, after a random delay within
        L{Network.blocking_delay}. A Deferred that is cancelled fails at once; the work is done
        all the same, and its result dropped.

        @return: what the function returns or raises.
        """
        delay = self.network.random.uniform(*self.network.blocking_delay)
        return self.reactor.run_blocking(delay, function, *args, **kwargs)

    def crash(self) -> None:
        """
        Go down at once, as if the power had failed.

        Connections and ports vanish without a word, delayed calls and blocking work never run, and
        nothing is answered until L{restart}. The others notice only when what they send is not
        acknowledged. A host that is down stays so.
        """
        self.up = False
        self._end_process()
        self.network.conditions_changed()

    def restart(self) -> None:
        """
        Come up again, with a new L{reactor} and nothing else; the test starts what is to run on it.

        What belongs to an earlier life is answered with RST. A host that is up is taken down first.
        """
        self._end_process()
        self.reactor = HostReactor(self, self.network.clock)
        self.up = True
        self.network.conditions_changed()

    def left_over(self) -> list[str]:
        """Say what has not been finished: delayed calls, connections, ports, blocking work."""
        left = [str(each) for each in self.reactor.getDelayedCalls()]
        left.extend(str(each) for each in self.reactor.open_sockets())
        work = self.reactor.work_pending()
        if work:
            left.append(f"blocking work or lookups not done: {work}")
        return left

    # For the network and the sockets.

    def received_at(self, comes: float, size: int) -> float:
        """
        Say when something has been received, behind all that came before it.

        @param comes: when it comes.
        @param size: its bytes.
        """
        if self.bandwidth is None:
            return comes
        self.busy_receiving_until = max(comes, self.busy_receiving_until) + size / self.bandwidth
        return self.busy_receiving_until

    def owns(self, address: str) -> bool:
        """Tell whether an address is one of this host's, the loopback's included."""
        parsed = parse(address)
        return parsed.is_loopback or any(each.has(parsed) for each in self.interfaces)

    def is_broadcast(self, address: str) -> bool:
        """Tell whether what is sent to an address is for everyone on a link of this host."""
        parsed = parse(address)
        return parsed == _LIMITED_BROADCAST or any(
            each.is_broadcast(parsed) for each in self.interfaces
        )

    def target(self, address: str) -> str:
        """Tell where what is sent to an address goes: a wildcard means the host itself."""
        return LOOPBACK[family_of(address)] if address in WILDCARD.values() else address

    def source_for(self, target: str) -> str | None:
        """Choose the address that a target sees this host by; C{None} if it cannot be reached."""
        if self.owns(target):
            return target
        parsed, family = parse(target), family_of(target)
        candidates = [each for each in self.interfaces[1:] if each.address(family) is not None]
        for interface in candidates:
            if interface.reaches(parsed):
                return interface.address(family)
        return candidates[0].address(family) if candidates else None

    def look_up(self, name: str) -> Sequence[str]:
        """List the addresses that a name or address stands for."""
        if name == "localhost":
            return list(LOOPBACK.values())
        return self.network.look_up(name)

    def accept_syn(self, sender: StreamSocket) -> StreamSocket | None:
        """Answer one who wants to connect; C{None} if nobody listens there."""
        found = self.streams.find(sender.peer_address, sender.peer_port)
        listeners = [each for each in found if each.is_listening]
        if not listeners:
            return None
        listener = listeners[sender.port % len(listeners)]
        accepted = StreamSocket(self, listener.poller, listener.family)
        accepted.answer_syn(listener, sender)
        return accepted

    def hear(
        self, source: DatagramSocket, address: str, target: str, port: int, data: bytes
    ) -> None:
        """Take a datagram that was sent to this host alone."""
        found = self.datagrams.find(target, port)
        if found:
            # Of sockets that share a port one gets it, chosen by the sender's port, as on Linux.
            self._queue([found[source.port % len(found)]], address, source.port, data)
        elif source.is_connected_to(target, port):
            self.network.answer(self, source.host, source.refuse)

    def overhear(
        self,
        source: DatagramSocket,
        address: str,
        interface: Interface,
        target: str,
        port: int,
        data: bytes,
    ) -> None:
        """Take a datagram that was sent to everyone, or to a group, on the link of an interface."""
        found = self.datagrams.find_all((target,), port)
        if parse(target).is_multicast:
            found = [each for each in found if each.is_member(target, interface)]
        self._queue(found, address, source.port, data)

    def _queue(self, sockets: list[DatagramSocket], address: str, port: int, data: bytes) -> None:
        for each in sockets:
            if each.deliver(data, address, port):
                self.datagrams_received += 1
                self.bytes_received += len(data)

    def _end_process(self) -> None:
        self.reactor.vanish()
        self.streams.clear()
        self.datagrams.clear()
