"""
The network: hosts, the one clock and the one random generator, and the weather between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flow512.testing.addresses import Interface, canonical
from flow512.testing.clock import NetworkClock
from flow512.testing.host import Host
from flow512.testing.pipe import CAPACITY

if TYPE_CHECKING:
    from flow512.testing.datagrams import DatagramSocket
    from flow512.testing.flows import Flow

T = TypeVar("T")


def _has_fired(deferred: Deferred[Any]) -> bool:
    return deferred.called and not deferred.paused


@dataclass(frozen=True)
class Delivery:
    """
    Something that has arrived.

    @ivar time: when, in seconds.
    @ivar kind: C{"TCP"} and C{"UDP"} for bytes; C{"SYN"}, C{"FIN"} and so on for what has none.
    @ivar source: name of a host, and port.
    @ivar destination: likewise.
    @ivar data: the bytes.
    """

    time: float
    kind: str
    source: tuple[str, int]
    destination: tuple[str, int]
    data: bytes


class Network:
    """
    Any number of hosts in one process, without a socket, a thread or a second of waiting.

    @ivar clock: what all hosts live by; it begins at 0 and moves only when it is told to.
    @ivar random: where every delay and every cut comes from.
    @ivar latency: the least and the most that anything takes from host to host, in seconds.
    @ivar local_latency: likewise within a host.
    @ivar blocking_delay: likewise for the work of L{Host.run_blocking}.
    @ivar datagram_loss: the share of datagrams that never arrive, 0 to 1.
    @ivar datagram_duplication: the share of datagrams that arrive twice.
    @ivar datagram_reordering: the share of datagrams that later ones overtake.
    @ivar give_up: seconds without any acknowledgement after which a connection is lost.
    @ivar capacity: bytes that each direction of a connection that is opened from now on holds
        between the two transports, on the way and received but not read.
    @ivar hosts: all of them, in the order in which they were made.
    @ivar transcript: what has arrived, oldest first, if it is kept; else C{None}.
    """

    def __init__(self, seed: int = 0, *, keep_transcript: bool = False) -> None:
        """
        @param seed: the same program with the same seed runs the same, to the byte.
        @param keep_transcript: whether to keep everything that arrives, which takes memory.
        """
        self.clock = NetworkClock()
        self.random = Random(seed)
        self.latency = (0.001, 0.01)
        self.local_latency = (0.0, 0.0001)
        self.blocking_delay = (0.0, 0.005)
        self.datagram_loss = 0.0
        self.datagram_duplication = 0.0
        self.datagram_reordering = 0.0
        self.give_up = 60.0
        self.capacity = CAPACITY
        self.hosts: list[Host] = []
        self.transcript: list[Delivery] | None = [] if keep_transcript else None
        self.flows: dict[Flow, None] = {}
        self._by_address: dict[str, Host] = {}
        self._by_name: dict[str, Host] = {}
        self._cuts: set[tuple[Host, Host]] = set()
        self._links: dict[Interface, list[tuple[Host, Interface]]] = {}
        self._datagram_order: dict[tuple[Host, Host], float] = {}
        self._hash = blake2b(digest_size=32)

    # Hosts and time.

    def host(self, *addresses: str, name: str | None = None) -> Host:
        """
        Add a host.

        @param addresses: IPv4 and IPv6, with or without a subnet: C{"10.0.0.1"} is
            C{"10.0.0.1/24"}, C{"fd00::1"} is C{"fd00::1/64"}. Every host reaches every other;
            broadcasts, and datagrams to groups, reach those of the same subnet. The n-th IPv4 and
            the n-th IPv6 address belong to one interface.
        @param name: what it can be looked up by; its first address if it has none.
        @raise ValueError: an address is not one, or address or name is another host's.
        """
        if not addresses:
            raise ValueError("A host needs an address.")
        added = Host(self, (name or addresses[0].partition("/")[0]).lower(), addresses)
        for address in added.addresses:
            if address in self._by_address:
                raise ValueError(f"{self._by_address[address]} has {address} already.")
        if added.name in self._by_name:
            raise ValueError(f"{self._by_name[added.name]} has that name already.")
        self.hosts.append(added)
        self._by_name[added.name] = added
        self._by_address.update(dict.fromkeys(added.addresses, added))
        self._links.clear()
        return added

    def run(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        self.clock.advance(seconds)

    def run_until(self, what: Callable[[], object] | Deferred[Any], limit: float = 60.0) -> None:
        """
        Let time pass until something holds.

        @param what: a condition, asked after everything that happens; or a Deferred, until it has
            fired, whose result is left alone.
        @param limit: seconds after which that is too late.
        @raise AssertionError: it is too late, or nothing is left that could happen.
        """
        is_reached = partial(_has_fired, what) if isinstance(what, Deferred) else what
        clock = self.clock
        end = clock.rightNow + limit
        while not is_reached():
            if not clock.step(end):
                clock.rightNow = end
                if is_reached():
                    return
                left = "\n".join(self.left_over()) or "nothing"
                raise AssertionError(
                    f"Still waiting for {what} after {limit} s; what is left to happen:\n{left}"
                )

    def result(self, deferred: Deferred[T], limit: float = 60.0) -> T:
        """
        Let time pass until a Deferred has fired.

        @return: its result.
        @raise AssertionError: it has not fired within C{limit} seconds.
        @raise Exception: what it failed with.
        """
        results: list[T | Failure] = []
        deferred.addBoth(results.append)
        self.run_until(lambda: results, limit)
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result

    # Conditions.

    def cut(self, a: Host, b: Host) -> None:
        """Let nothing pass between two hosts, either way, until it is L{healed<heal>}."""
        self._cuts.update(((a, b), (b, a)))
        self.conditions_changed()

    def cut_one_way(self, source: Host, destination: Host) -> None:
        """Let nothing pass from one host to another; the other way stays open."""
        self._cuts.add((source, destination))
        self.conditions_changed()

    def partition(self, *groups: Iterable[Host]) -> None:
        """Let nothing pass between hosts of different groups."""
        parts = [list(group) for group in groups]
        for part in parts:
            for other in parts:
                if part is not other:
                    self._cuts.update((a, b) for a in part for b in other)
        self.conditions_changed()

    def heal(self, a: Host | None = None, b: Host | None = None) -> None:
        """Mend what was cut between two hosts; between one and all others; or all that was cut."""
        self._cuts = {
            pair for pair in self._cuts if not all(host is None or host in pair for host in (a, b))
        }
        self.conditions_changed()

    # What has happened.

    @property
    def fingerprint(self) -> str:
        """A digest of everything that has arrived, where, from where and when, in hexadecimal."""
        return self._hash.hexdigest()

    def left_over(self) -> list[str]:
        """Say what hosts that are up have not finished: delayed calls, connections, ports, work."""
        left: list[str] = []
        for host in self.hosts:
            left.extend(f"{host.name}: {each}" for each in host.left_over())
        left.extend(f"a test's {call}" for call in self.clock.getDelayedCalls())
        return left

    def assert_quiet(self) -> None:
        """@raise AssertionError: something is L{left_over}; it says what."""
        left = self.left_over()
        if left:
            raise AssertionError("Left behind on the network:\n" + "\n".join(left))

    def close(self) -> None:
        """
        End a test: take all hosts down.

        @raise AssertionError: something was L{left_over}; the hosts are down all the same.
        """
        left = self.left_over()
        for host in self.hosts:
            host.crash()
        if left:
            raise AssertionError("Left behind on the network:\n" + "\n".join(left))

    # For hosts, sockets and flows.

    def look_up(self, name: str) -> tuple[str, ...]:
        """List the addresses of a host by name or address; none if it is unknown."""
        host = self._by_name.get(name.lower())
        if host is not None:
            return host.addresses
        try:
            return (canonical(name),)
        except ValueError:
            return ()

    def host_at(self, address: str, source: Host) -> Host | None:
        """Find who has an address, as seen from C{source}."""
        return source if source.owns(address) else self._by_address.get(address)

    def passes(self, source: Host | None, destination: Host | None) -> bool:
        """Tell whether anything gets from one host to another now."""
        return (
            source is not None
            and destination is not None
            and source.up
            and destination.up
            and (source, destination) not in self._cuts
        )

    def delay(self) -> float:
        """Draw how long something takes from host to host."""
        return self.random.uniform(*self.latency)

    def arrival(self, source: Host | None, destination: Host | None, size: int) -> float:
        """
        Draw when something arrives that is sent now.

        @param size: bytes, which take their time where a host's bandwidth is limited.
        """
        arrival = self.departure(source, destination, size)
        if source is not destination and destination is not None:
            arrival = destination.received_at(arrival, size)
        return arrival

    def departure(self, source: Host | None, destination: Host | None, size: int) -> float:
        """
        Draw when something that is sent now comes to a host, which may have to receive other things
        first.

        @param size: bytes, which take their time where the sender's bandwidth is limited; what has
            none waits behind nothing.
        """
        start = self.clock.rightNow
        if source is destination:
            return start + self.random.uniform(*self.local_latency)
        if size and source is not None and source.bandwidth is not None:
            start = max(start, source.busy_sending_until) + size / source.bandwidth
            source.busy_sending_until = start
        return start + self.delay()

    def answer(self, source: Host, destination: Host, function: Callable[[], object]) -> None:
        """Have a kernel's word travel from one host to another, if it can."""

        def arrive() -> None:
            if self.passes(source, destination):
                function()

        self.clock.at(self.arrival(source, destination, 0), arrive)

    def unicast(
        self, socket: DatagramSocket, address: str, target: str, port: int, data: bytes
    ) -> None:
        """Send a datagram to one host."""
        self._count_datagram(socket.host, data)
        destination = self.host_at(target, socket.host)
        if destination is not None:
            self._send_datagram(
                socket,
                destination,
                port,
                data,
                destination.hear,
                (socket, address, target, port, data),
            )

    def spread(
        self,
        socket: DatagramSocket,
        interface: Interface,
        address: str,
        target: str,
        port: int,
        data: bytes,
        *,
        here: bool,
        elsewhere: bool,
    ) -> None:
        """Send a datagram to all on the link of an interface, the sender's own host if C{here}."""
        host = socket.host
        self._count_datagram(host, data)
        link = self._link(interface) if interface.index > 1 else []
        destinations = [each for each in link if each[0] is not host] if elsewhere else []
        if here:
            destinations.insert(0, (host, interface))
        for destination, its_interface in destinations:
            if len(destination.datagrams):
                self._send_datagram(
                    socket,
                    destination,
                    port,
                    data,
                    destination.overhear,
                    (socket, address, its_interface, target, port, data),
                )

    def record(
        self, kind: str, source: tuple[str, int], destination: tuple[str, int], data: bytes
    ) -> None:
        """Take note of something that has arrived."""
        now = self.clock.rightNow
        self._hash.update(repr((now, kind, source, destination, len(data))).encode())
        self._hash.update(data)
        if self.transcript is not None:
            self.transcript.append(Delivery(now, kind, source, destination, data))

    def conditions_changed(self) -> None:
        """Have every connection look again whether its path is open."""
        for flow in list(self.flows):
            flow.conditions_changed()

    def _count_datagram(self, host: Host, data: bytes) -> None:
        host.datagrams_sent += 1
        host.bytes_sent += len(data)

    def _send_datagram(
        self,
        socket: DatagramSocket,
        destination: Host,
        port: int,
        data: bytes,
        take: Callable[..., None],
        args: tuple[object, ...],
    ) -> None:
        source = socket.host
        for due in self._datagram_arrivals(source, destination, len(data)):
            self.clock.at(due, self._datagram_arrived, socket, destination, port, data, take, args)

    def _datagram_arrived(
        self,
        socket: DatagramSocket,
        destination: Host,
        port: int,
        data: bytes,
        take: Callable[..., None],
        args: tuple[object, ...],
    ) -> None:
        source = socket.host
        if self.passes(source, destination):
            self.record("UDP", (source.name, socket.port), (destination.name, port), data)
            take(*args)

    def _datagram_arrivals(self, source: Host, destination: Host, size: int) -> list[float]:
        due = self.arrival(source, destination, size)
        if source is destination:
            return [due]
        random = self.random.random
        if self.datagram_loss and random() < self.datagram_loss:
            return []
        pair = (source, destination)
        if self.datagram_reordering and random() < self.datagram_reordering:
            due += 4 * self.latency[1] * random()
        else:
            due = self._datagram_order[pair] = max(due, self._datagram_order.get(pair, 0.0))
        if self.datagram_duplication and random() < self.datagram_duplication:
            return [due, due + self.delay()]
        return [due]

    def _link(self, interface: Interface) -> list[tuple[Host, Interface]]:
        link = self._links.get(interface)
        if link is None:
            link = self._links[interface] = [
                (host, each)
                for host in self.hosts
                for each in host.interfaces[1:]
                if each.shares_link(interface)
            ]
        return link
