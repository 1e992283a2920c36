"""
The reactor of a host.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import (
    DNSLookupError,
    ReactorAlreadyRunning,
    ReactorNotRunning,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IListeningPort,
    IMulticastTransport,
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorMulticast,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
    IReadDescriptor,
    IResolutionReceiver,
    IWriteDescriptor,
)
from twisted.internet.protocol import ClientFactory, DatagramProtocol, ServerFactory
from twisted.logger import Logger
from zope.interface import implementer

from flow512.testing.clock import NetworkClock, Timers
from flow512.testing.datagrams import DatagramSocket
from flow512.testing.events import SystemEvents, Trigger
from flow512.testing.poller import Pollable, Poller
from flow512.testing.ports import os_error
from flow512.testing.resolver import HostResolver
from flow512.testing.streams import StreamSocket
from flow512.testing.transports import (
    DatagramPort,
    MulticastPort,
    StreamConnector,
    StreamPort,
)

if TYPE_CHECKING:
    from flow512.testing.host import Host


class _LoggedTimers(Timers):
    """Delayed calls whose errors are logged, as every reactor logs them."""

    _log = Logger()

    def run(self, call: DelayedCall) -> None:
        with self._log.failuresHandled("while handling timed call"):
            super().run(call)


@implementer(IResolutionReceiver)
class _FirstAddress:
    """Fires a Deferred with the first address that a name resolves to."""

    def __init__(self, name: str) -> None:
        self.found: Deferred[str] = Deferred()
        self._name = name
        self._first: str | None = None

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """The answer always comes later."""

    def addressResolved(self, address: IAddress) -> None:
        if self._first is None:
            self._first = getattr(address, "host", None)

    def resolutionComplete(self) -> None:
        if self._first is None:
            self.found.errback(DNSLookupError(f"{self._name!r} is no host of this network"))
        else:
            self.found.callback(self._first)


@implementer(
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorMulticast,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
)
class HostReactor:
    """
    A reactor that reaches the network of its host, and lives by the network's clock.

    It runs from the start, for as long as its host is up and nothing has stopped it; the network
    moves it, so it needs no L{run}. There is one for each life of a host.

    @ivar running: whether it still runs.
    @ivar nameResolver: resolves names of hosts, C{"localhost"}, and addresses.
    """

    def __init__(self, host: Host, clock: NetworkClock) -> None:
        self._host = host
        self._clock = clock
        self._poller = Poller(clock)
        self._timers = _LoggedTimers(clock)
        # What is done outside of a real process's delayed calls, by its threads for one.
        self._elsewhere = _LoggedTimers(clock)
        self._events = SystemEvents()
        self.running = True
        self._has_ended = False
        self.nameResolver: IHostnameResolver = HostResolver(host.look_up, self._after_a_while)

    def __repr__(self) -> str:
        return f"<HostReactor of {self._host.name}>"

    # IReactorTime

    def seconds(self) -> float:
        """Tell the network's time, which began at 0."""
        return self._clock.rightNow

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call something later; what it raises is logged."""
        return self._timers.call_later(delay, callable, args, kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """List what this reactor is still to call."""
        return self._timers.pending()

    # IReactorTCP

    def listenTCP(
        self, port: int, factory: ServerFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """
        Listen for connections.

        @param port: 0 for any that is free.
        @raise CannotListenError: the port is taken, or the interface is not this host's.
        """
        listening = StreamPort(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float = 30.0,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """Connect to a host of the network, by address or name."""
        connector = StreamConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    # IReactorUDP and IReactorMulticast

    def listenUDP(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
    ) -> IListeningPort:
        """
        Send and receive datagrams.

        @raise CannotListenError: the port is taken, or the interface is not this host's.
        """
        listening = DatagramPort(  # type: ignore[no-untyped-call] # udp.Port has no types
            port, protocol, interface, maxPacketSize, self
        )
        listening.startListening()  # type: ignore[no-untyped-call] # likewise
        return listening

    def listenMulticast(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> IMulticastTransport:
        """
        Send and receive datagrams, those of groups as well.

        @raise CannotListenError: the port is taken, or the interface is not this host's.
        """
        listening = MulticastPort(port, protocol, interface, maxPacketSize, self, listenMultiple)
        listening.startListening()  # type: ignore[no-untyped-call] # udp.Port has no types
        return listening

    # IReactorPluggableNameResolver, and the one method of IReactorCore that belongs with it

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Resolve names by other means; the resolver that was replaced is returned."""
        previous, self.nameResolver = self.nameResolver, resolver
        return previous

    def resolve(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        """
        Look up one address.

        @return: it, or L{DNSLookupError} if the name is unknown.
        """
        receiver = _FirstAddress(name)
        self.nameResolver.resolveHostName(receiver, name)
        return receiver.found

    # IReactorFromThreads

    def callFromThread(self, callable: Callable[..., object], *args: object, **kw: object) -> None:
        """Call something at the next turn. Nothing here is called from another thread, though."""
        self._elsewhere.call_later(0.0, callable, args, kw)

    # IReactorCore

    def addSystemEventTrigger(
        self,
        phase: str,
        eventType: str,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> Trigger:
        """Have something called before, during or after C{"shutdown"}, for one."""
        return self._events.add(Trigger(phase, eventType, callable, args, kwargs))

    def removeSystemEventTrigger(self, triggerID: Trigger) -> None:
        """Take back what L{addSystemEventTrigger} returned."""
        self._events.remove(triggerID)

    def fireSystemEvent(self, eventType: str) -> None:
        """Call the triggers of an event."""
        self._events.fire(eventType)

    def callWhenRunning(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """Call something now, as the reactor runs."""
        callable(*args, **kwargs)

    def stop(self) -> None:
        """
        End the process in an orderly way: C{"shutdown"} is fired, then everything open is lost.

        The host stays up, and refuses connections from then on.

        @raise ReactorNotRunning: that has begun already.
        """
        if not self.running:
            raise ReactorNotRunning("Can't stop reactor that isn't running.")
        self.running = False
        self._events.add(Trigger("after", "shutdown", self._end_orderly, (), {}))
        self._events.fire("shutdown")

    def crash(self) -> None:
        """
        End the process at once: no events are fired, and nothing of it is run any more.

        The host closes its connections and ports, as a kernel does for a process that was killed.
        """
        self._end()
        for socket in self._poller.sockets():
            socket.close()

    def run(self) -> None:
        """@raise ReactorAlreadyRunning: always; the network runs its hosts."""
        raise ReactorAlreadyRunning()

    def iterate(self, delay: float = 0.0) -> None:
        """@raise ReactorAlreadyRunning: always; the network runs its hosts."""
        raise ReactorAlreadyRunning()

    # IReactorFDSet

    def addReader(self, reader: IReadDescriptor) -> None:
        """Serve a transport when it can read."""
        self._poller.add_reader(reader)

    def addWriter(self, writer: IWriteDescriptor) -> None:
        """Serve a transport when it can write."""
        self._poller.add_writer(writer)

    def removeReader(self, reader: IReadDescriptor) -> None:
        """Leave a transport alone that could read."""
        self._poller.remove_reader(reader)

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        """Leave a transport alone that could write."""
        self._poller.remove_writer(writer)

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        """Leave everything alone; what that is, is returned."""
        return self._poller.remove_all()

    def getReaders(self) -> list[IReadDescriptor]:
        """List what waits to read."""
        return self._poller.readers()

    def getWriters(self) -> list[IWriteDescriptor]:
        """List what waits to write."""
        return self._poller.writers()

    # What the host and its transports call.

    def open_stream(self, family: int) -> StreamSocket:
        """
        Make a TCP socket for a transport.

        @raise OSError: C{ENETDOWN}, the process has ended.
        """
        self._check_process()
        return StreamSocket(self._host, self._poller, family)

    def open_datagram(self, family: int) -> DatagramSocket:
        """
        Make a UDP socket for a transport.

        @raise OSError: C{ENETDOWN}, the process has ended.
        """
        self._check_process()
        return DatagramSocket(self._host, self._poller, family)

    def run_blocking(
        self, delay: float, function: Callable[..., Any], *args: object, **kwargs: object
    ) -> Deferred[Any]:
        """Do the work of a thread after C{delay} seconds; see L{Host.run_blocking}."""
        done: Deferred[Any] = Deferred()

        def work() -> None:
            execute(function, *args, **kwargs).chainDeferred(done)

        self._elsewhere.call_later(delay, work, (), {})
        return done

    def open_sockets(self) -> list[Pollable]:
        """List what the process has opened or accepted, and not closed."""
        return [socket for socket in self._poller.sockets() if socket.is_owned]

    def vanish(self) -> None:
        """End the process with its host: nothing is closed, and no one is told."""
        self._end()
        self._poller.stop()

    def work_pending(self) -> int:
        """Count the blocking work and lookups that have not been answered."""
        return len(self._elsewhere.pending())

    def _check_process(self) -> None:
        if self._has_ended:
            raise os_error(errno.ENETDOWN)

    def _after_a_while(self, function: Callable[[], None]) -> None:
        self._elsewhere.call_later(self._host.network.delay(), function, (), {})

    def _end(self) -> None:
        self.running = False
        self._has_ended = True
        self._timers.stop()
        self._elsewhere.stop()

    def _end_orderly(self) -> None:
        self._poller.lose_everything()
        self.crash()
