"""
One port, several conversations: the hello decides which factory answers.

A node serves transfers at its port; if it becomes the bootstrap, the registry answers at the
same one. So whoever knows one address of a node has found all that it offers.
"""

from __future__ import annotations

from functools import partial
from typing import Final, cast

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.errors import Flow512Error, NotAllowed, Unsupported
from flow512.limits import Limits
from flow512.link.conversation import Patience, Transport, address_host
from flow512.link.gate import Gate
from flow512.link.greeting import Answerer
from flow512.link.handshake_guard import IHandshakeGuard
from flow512.link.introduction import Introduction
from flow512.link.security import is_tls
from flow512.wire.frame import FrameReader
from flow512.wire.handshake import STRANGER, choose_conversation
from flow512.wire.messages import HELLO_ONLY, Hello, decode, encode, error_message

_FULL: Final = Unsupported("The node does not take that connection.")


@implementer(IHandshakeListener, IHandshakeGuard)
class SharedPort(Protocol):
    """
    Waits for TLS, if there is any, and for the hello, then hands the connection to the protocol
    that the hello asks for.

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
        pushed_out = self.port.gate.arrived(self, address_host(self._address))
        if pushed_out is not None:
            pushed_out.abort()

    def abort(self) -> None:
        """
        Close the connection at once, whatever it is for.
        """
        cast(Transport, self.transport).abortConnection()

    def _too_late(self) -> None:
        self._deadline = None
        self.abort()

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
            conversation = self.port.choose(theirs)
            chosen = self.port.conversations[conversation].buildProtocol(self._address)
            if chosen is None:
                raise _FULL
        except Flow512Error as error:
            self._is_refused = True
            self._deadline.reset(self.port.patience.greeting)
            self.transport.write(encode(error_message(self.port.refusal(error))))
            self.transport.loseConnection()
            return
        self._stop_waiting()
        self._chosen = chosen
        if isinstance(chosen, Answerer):
            # Until then it counts as one of those who only connect.
            chosen.admission = partial(self.port.gate.greeted, self)
        received, self._received = self._received, b""
        # From here on the transport's bytes reach the chosen protocol without a detour.
        self.dataReceived = chosen.dataReceived  # type: ignore[method-assign]  # a plain shortcut
        chosen.makeConnection(self.transport)
        if is_tls(self.transport):
            IHandshakeListener(chosen).handshakeCompleted()
        chosen.dataReceived(received)

    def handshake_begins(self) -> bool:
        return self.port.gate.begins(self, self.port.clock.seconds())

    def handshakeCompleted(self) -> None:
        # Before the hello there is nobody to tell; whoever is chosen asks for himself.
        if self._chosen is not None:
            IHandshakeListener(self._chosen).handshakeCompleted()

    def _stop_waiting(self) -> None:
        self.port.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        self.port.gate.left(self)
        if self._chosen is not None:
            self._chosen.connectionLost(reason)


class SharedPortFactory(Factory[SharedPort]):
    """
    Serves several conversations at one port.

    @ivar conversations: for each conversation that is offered, the factory that answers it.
        Factories may come and go while it listens.
    @ivar waiting: connections whose hello has not come.
    @ivar gate: counts all connections.
    """

    noisy = False

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        limits: Limits | None = None,
    ) -> None:
        """
        @param introduction: of the node whose port it is.
        @param clock: for the deadline on the handshake.
        @param limits: how long that is, and how many connections there may be.
        """
        limits = limits or Limits()
        self._introduction = introduction
        self.clock = clock
        self.patience = Patience(greeting=limits.handshake)
        self.gate: Gate[SharedPort] = Gate(limits)
        self.conversations: dict[str, IProtocolFactory] = {}
        self.waiting: dict[SharedPort, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> SharedPort:
        assert addr is not None
        return SharedPort(self, addr)

    def choose(self, hello: Hello) -> str:
        """
        Find the conversation that a hello asks for.

        @raise Unsupported: it is not offered.
        """
        return choose_conversation(hello, self.conversations)

    def refusal(self, error: Flow512Error) -> Flow512Error:
        """
        Decide what somebody hears who has proven nothing yet.

        @param error: why he is refused.
        @return: in a closed network, what every stranger hears.
        """
        return error if self._introduction.key is None else NotAllowed(STRANGER)

    def close_waiting(self) -> None:
        """
        Close the connections whose hello has not come.
        """
        for waiting in list(self.waiting):
            waiting.abort()

    def end(self, node: bytes) -> None:
        """
        Close every connection of a node at once.

        @param node: its node id.
        """
        for connection in self.gate.connections_of(node):
            connection.abort()
