"""
TCP as the network sees it: flows, each of which carries one L{Pipe} from socket to socket.

A flow is
    - moving: one call on the clock stands for the arrival that is due next;
    - held: an arrival came due while the path was cut or the other host was down. A real kernel
      would send again and again; here everything in flight is held, and moves on, after a new
      delay, when conditions change;
    - over: its end or RST has arrived, or its sender failed or vanished.

Besides, the sender is waiting while either way is cut and it is owed an acknowledgement: for what
is in flight, for what arrived while none could return, and while it wants to write and has no room
(a kernel asks for room then). After C{network.give_up} seconds of that it fails with ETIMEDOUT.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from flow512.testing.pipe import Item, Mark, Pipe

if TYPE_CHECKING:
    from flow512.testing.host import Host
    from flow512.testing.network import Network
    from flow512.testing.streams import StreamSocket

_HEADER: Final = 40
"""Bytes that a segment costs besides its data, when bandwidth is counted."""


class Flow:
    """
    One direction of a connection, on its way between two hosts.

    @ivar sender: the socket that it comes from.
    @ivar receiver: the socket that it goes to; C{None} until the SYN has found one.
    """

    def __init__(self, network: Network, sender: StreamSocket, destination: Host | None) -> None:
        """@param destination: C{None} if no host has the address; nothing ever arrives then."""
        self.network = network
        self.sender = sender
        self.source = sender.host
        self.destination = destination
        self.receiver: StreamSocket | None = None
        self.pipe = Pipe(network.random, network.capacity)
        self._is_scheduled = False
        self._is_held = False
        self._is_on_downlink = False
        self._waiting_since: float | None = None
        self._unacknowledged = False
        self._room_held = 0
        network.flows[self] = None

    def send(self, data: bytes | memoryview) -> int:
        """Take what there is room for, as L{Pipe.send} does."""
        taken = self.pipe.send(data, self._due)
        self.source.bytes_sent += taken
        if self.pipe.refused and not self._path_is_open():
            self._wait_if_owed()
        self._go_on()
        return taken

    def mark(self, mark: Mark) -> None:
        """Send a mark behind everything else."""
        self.network.flows[self] = None
        self.pipe.mark(mark, self._due(0))
        self._go_on()

    def read(self, limit: int) -> bytes:
        """Take what has arrived; the sender learns after a while that there is room again."""
        data = self.pipe.read(limit)
        if not self.sender.closed:
            self._return_room(len(data))
        return data

    def end(self) -> None:
        """Be over: nothing of what is in flight arrives any more."""
        self.pipe.discard()
        self._is_held = False
        self._waiting_since = None
        self.network.flows.pop(self, None)

    def conditions_changed(self) -> None:
        """Look whether the path has closed or opened."""
        passes = self.network.passes
        if not self._path_is_open():
            self._wait_if_owed()
        else:
            self._waiting_since = None
            self._unacknowledged = False
            if self.pipe.refused and self.receiver is not None and self.receiver.vanished:
                # A kernel that has no room asks for some, and a host that came back answers RST.
                self._answer_with(errno.ECONNRESET)
        if self._room_held and passes(self.destination, self.source):
            held, self._room_held = self._room_held, 0
            self._return_room(held)
        if self._is_held and passes(self.source, self.destination):
            self._is_held = False
            self.pipe.postpone(self._due(0))
            self._go_on()

    def _path_is_open(self) -> bool:
        passes = self.network.passes
        return passes(self.source, self.destination) and passes(self.destination, self.source)

    def _due(self, size: int) -> float:
        return self.network.departure(self.source, self.destination, size + _HEADER)

    def _go_on(self) -> None:
        due = self.pipe.next_due
        if due is not None and not self._is_scheduled and not self._is_held:
            self._is_scheduled = True
            self.network.clock.at(due, self._arrive)

    def _arrive(self) -> None:
        self._is_scheduled = False
        due = self.pipe.next_due
        now = self.network.clock.rightNow
        if due is None:
            return
        if due <= now:
            if not self.network.passes(self.source, self.destination):
                self._is_held = True
                self._wait_if_owed()
                return
            while due is not None and due <= now and not self._waits_for_downlink(now):
                self._deliver(self.pipe.arrive())
                due = self.pipe.next_due
            if not self.network.passes(self.destination, self.source):
                self._unacknowledged = True
                self._wait_if_owed()
        self._go_on()

    def _waits_for_downlink(self, now: float) -> bool:
        # What comes first is received first, whoever has sent it earlier: so the place in the
        # receiver's queue is taken when it comes, and not when it is sent.
        if self._is_on_downlink or self.source is self.destination:
            self._is_on_downlink = False
            return False
        assert self.destination is not None, "passes() lets nothing through to nowhere"
        received = self.destination.received_at(now, self.pipe.next_size + _HEADER)
        if received <= now:
            return False
        self._is_on_downlink = True
        self.pipe.hold_first(received)
        return True

    def _deliver(self, item: Item) -> None:
        assert self.destination is not None, "passes() lets nothing through to nowhere"
        sender = self.sender
        if isinstance(item, bytes):
            self.destination.bytes_received += len(item)
        self.network.record(
            "TCP" if isinstance(item, bytes) else item.value,
            (self.source.name, sender.port),
            (self.destination.name, sender.peer_port),
            item if isinstance(item, bytes) else b"",
        )
        if item is Mark.SYN:
            self.receiver = self.destination.accept_syn(sender)
            if self.receiver is None:
                self._answer_with(errno.ECONNREFUSED)
        elif item is Mark.RESET or (item is Mark.END and not self.pipe.in_flight):
            self.network.flows.pop(self, None)
        if self.receiver is not None:
            if self.receiver.vanished:
                self._answer_with(errno.ECONNRESET)
            else:
                self.receiver.receive(item)

    def _answer_with(self, error: int) -> None:
        # RST from a host that knows nothing of the connection; it may get lost, as a real one may.
        due = self.network.arrival(self.destination, self.source, _HEADER)
        self.network.clock.at(due, self._answered_with, error)

    def _answered_with(self, error: int) -> None:
        if self.network.passes(self.destination, self.source):
            self.sender.fail(error)

    def _wait_if_owed(self) -> None:
        owed = self.pipe.in_flight or self.pipe.refused or self._unacknowledged
        if owed and self._waiting_since is None:
            now = self.network.clock.rightNow
            self._waiting_since = now
            self.network.clock.at(now + self.network.give_up, self._give_up, now)

    def _give_up(self, since: float) -> None:
        if self._waiting_since == since:
            self.sender.fail(errno.ETIMEDOUT)

    def _return_room(self, size: int) -> None:
        # An acknowledgement does not wait behind data of other connections, as in the fair queues
        # of today; so it is not counted.
        due = self.network.departure(self.destination, self.source, 0)
        self.network.clock.at(due, self._room_returned, size)

    def _room_returned(self, size: int) -> None:
        if not self.network.passes(self.destination, self.source):
            self._room_held += size
            self._wait_if_owed()
            return
        self.pipe.give_back(size)
        if self.pipe.writable:
            self.sender.wake()
