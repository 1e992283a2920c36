"""
One port, several conversations: the hello decides which factory answers.

A node serves transfers at its port; if it becomes the bootstrap, the registry answers at the
same one. So whoever knows one address of a node has found all that it offers.
"""

from __future__ import annotations

from typing import Final, cast

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from flow512.errors import Flow512Error, Unsupported
from flow512.link.conversation import Patience, Transport
from flow512.wire.frame import FrameReader
from flow512.wire.handshake import choose_conversation
from flow512.wire.messages import HELLO_ONLY, Hello, decode, encode, error_message

_FULL: Final = Unsupported("The node does not take that connection.")


class SharedPort(Protocol):
    """
    Waits for the hello, then hands the connection to the protocol that it asks for.

    States: C{waiting} (no L{_chosen} yet; the deadline runs, and at most one hello and one chunk
    of the transport's are buffered), then C{handed over} (every call goes to L{_chosen}), or
    C{refused} (nothing is read any more; the deadline runs until the connection is gone).
    """

    _chosen: IProtocol | None = None
    _is_refused = False
    _deadline: IDelayedCall | None = None

    def __init__(self, factory: SharedPortFactory, address: IAddress) -> None:
        self.port = factory
        self._address = address
        self._reader = FrameReader(HELLO_ONLY)
        self._received = b""

    def connectionMade(self) -> None:
        self.port.waiting[self] = None
        self._deadline = self.port.clock.callLater(self.port.patience.greeting, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        cast(Transport, self.transport).abortConnection()

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self._is_refused or self._deadline is None:
            return
        self._received += data
        self._reader.receive(data)
        try:
            frame = self._reader.next_frame()
            if frame is None:
                return
            theirs = decode(frame, Hello)
            conversation = choose_conversation(theirs, self.port.conversations)
            chosen = self.port.conversations[conversation].buildProtocol(self._address)
            if chosen is None:
                raise _FULL
        except Flow512Error as error:
            self._is_refused = True
            self._deadline.reset(self.port.patience.greeting)
            self.transport.write(encode(error_message(error)))
            self.transport.loseConnection()
            return
        self._stop_waiting()
        self._chosen = chosen
        received, self._received = self._received, b""
        # From here on the transport's bytes reach the chosen protocol without a detour.
        self.dataReceived = chosen.dataReceived  # type: ignore[method-assign]  # a plain shortcut
        chosen.makeConnection(self.transport)
        chosen.dataReceived(received)

    def _stop_waiting(self) -> None:
        self.port.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        if self._chosen is not None:
            self._chosen.connectionLost(reason)


class SharedPortFactory(Factory[SharedPort]):
    """
    Serves several conversations at one port.

    @ivar conversations: for each conversation that is offered, the factory that answers it.
        Factories may come and go while it listens.
    @ivar waiting: connections whose hello has not come.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, patience: Patience | None = None) -> None:
        """
        @param clock: for the deadline on the hello.
        @param patience: how long that is.
        """
        self.clock = clock
        self.patience = patience or Patience()
        self.conversations: dict[str, IProtocolFactory] = {}
        self.waiting: dict[SharedPort, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> SharedPort:
        assert addr is not None
        return SharedPort(self, addr)

    def close_waiting(self) -> None:
        """
        Close the connections whose hello has not come.
        """
        for waiting in list(self.waiting):
            cast(Transport, waiting.transport).abortConnection()
