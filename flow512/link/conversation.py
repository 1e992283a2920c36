"""
One conversation over one connection: frames, the hello, pings, and who may fill whose memory.

States::

    securing ──TLS agreed──> greeting ──agreed──> open ──> closed
        └────────────────────────┴──refused, silent, violation, lost──> closed

  - C{securing}: TLS is being agreed on, if the transport is TLS; nothing is sent before it has
    proven who the other side is. Without TLS a conversation begins in C{greeting}.
  - C{greeting}: nothing but a hello is read (L{flow512.wire.handshake}), of at most 1 KiB. Both
    together take no longer than L{Patience.greeting} seconds.
  - C{open}: frames of the kinds that the conversation allows are read, and given to
    L{Conversation.frame_received}. Pings are answered here.
  - C{closed}: nothing is read or written any more. L{Conversation.conversation_ended} has been
    called, once, with an error that says why.

Flow control. Three things can pile up on this side:

  - What the other side sends. The subclass stops the transport (L{Conversation.stop_reading})
    when it has more than it can use, and TCP stops the sender. Stops are counted by their
    cause, so that one cause going away does not let in what another still holds back.
  - Bulk that we send. The subclass only writes it while L{Conversation.is_writable}, and goes on
    in L{Conversation.writable_again}; the transport's buffer so holds what it held at the
    moment that it became full and one bulk frame more.
  - Small answers that we send while the transport is full, since requests go on being read then
    (a CANCEL must be heard). Once they add up to L{MAX_UNREAD_ANSWERS} bytes the other side asks
    without reading, and nothing more is read from it until it has read what it asked for.

Silence. Every L{Patience.silence} seconds in which nothing was heard a PING is sent; a second
such time ends the conversation. A time in which we did not listen does not count; a PING is
sent in it nevertheless, since the other side hears nothing else from who neither reads nor
answers. A transport that stays full for L{Patience.stall} seconds ends the conversation as well:
the other side reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast
from typing import Protocol as Shape

import msgspec
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.errors import (
    BadFrame,
    Banned,
    Flow512Error,
    PeerLost,
    TimedOut,
    Unreachable,
    Unsupported,
    Violation,
    from_wire,
)
from flow512.link.address import HostPort
from flow512.link.bulk import IBodyReceiver, Lane, open_lane
from flow512.link.introduction import Introduction
from flow512.link.origin import unwrapped
from flow512.link.security import TLS_RECORDS, beneath, is_tls
from flow512.wire.fields import Message
from flow512.wire.frame import BufferPool, Frame, FrameReader
from flow512.wire.handshake import Agreement, Channel
from flow512.wire.messages import (
    Error,
    Kind,
    Ping,
    Pong,
    decode,
    encode,
    error_message,
)

_OTHER_SIDE_HAS_TLS: Final = (
    "The other side speaks TLS, and this one does not; leave out --plaintext here, or give it there"
    " too."
)

MAX_UNREAD_ANSWERS: Final = 256 * 1024
"""Bytes of small answers that may wait while the other side does not read."""


class Transport(Shape):
    """
    What a conversation needs of its transport; every connection-oriented one of Twisted's has it.
    """

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


class Patience(msgspec.Struct, frozen=True):
    """
    How long a conversation waits, in seconds.

    @ivar greeting: for the other side's hello.
    @ivar silence: for anything at all before a ping, and then for the answer.
    @ivar stall: for the other side to read what fills the transport.
    """

    greeting: float = 10.0
    silence: float = 30.0
    stall: float = 300.0


def address_host(address: IAddress | None) -> str:
    """
    The host in a transport's address: IPv4 plainly, IPv6 with its scope if it has one. For an
    address that has no host, its text.

    @param address: such as C{transport.getPeer()} gives.
    """
    return unwrapped(str(getattr(address, "host", address)))


@implementer(IPushProducer, IHandshakeListener, IBodyReceiver)
class Conversation(Protocol):
    """
    The common part of every conversation. L{Caller} says hello first, L{Answerer} answers.

    @cvar conversation: what it is about, as the hello names it.
    @cvar allowed: the kinds of frames that may arrive once it is open, with their caps.
    @ivar agreement: what the two hellos agreed on; L{None} before.
    @ivar channel: what TLS has proven; L{None} before, and without TLS.
    @ivar connection: the transport.
    """

    conversation: str
    allowed: Mapping[int, int]
    log = Logger()

    agreement: Agreement | None = None
    channel: Channel | None = None
    connection: Transport

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        patience: Patience,
        buffers: BufferPool | None = None,
    ) -> None:
        """
        @param introduction: what this side says of itself.
        @param clock: for the deadlines.
        @param patience: how long they are.
        @param buffers: for the bodies of bulk frames.
        """
        self.introduction = introduction
        self.clock = clock
        self.patience = patience
        self.is_writable = True
        self._reader = FrameReader(self._allowed_in_greeting(), buffers)
        self._is_closed = False
        self._unread_answers = 0
        self._reading_stopped_by: set[str] = set()
        self._taking_frames = False
        self._timer: IDelayedCall | None = None
        self._lane: Lane | None = None
        self._heard = False
        self._pinged = False
        self._full_since = 0.0

    # What the subclasses fill in

    def _allowed_in_greeting(self) -> Mapping[int, int]:
        raise NotImplementedError

    def _begin_greeting(self) -> None:
        raise NotImplementedError

    def _greeted(self, frame: Frame) -> Agreement | None:
        raise NotImplementedError

    def _closed_in_greeting(self) -> str:
        return "The other side closed the connection before it said hello."

    def conversation_opened(self, agreement: Agreement) -> None:
        """
        Both sides said hello; from now on anything may be sent.

        @param agreement: what they agree on.
        """

    def frame_received(self, frame: Frame) -> None:
        """
        A frame came whose kind is in L{allowed} and which nothing here takes care of.

        @raise Flow512Error: any error ends the conversation, and the other side is told of it.
        """
        raise BadFrame(f"Nobody here understands frames of kind {frame.kind:#04x}.")

    def conversation_ended(self, error: Flow512Error) -> None:
        """
        The conversation is over; called once.

        @param error: why. L{PeerLost} when the other side simply closed.
        """

    def writable_again(self) -> None:
        """
        The transport took what it had; bulk may be written until L{is_writable} is false.
        """

    # Sending

    @property
    def is_open(self) -> bool:
        """Whether both sides said hello and neither closed."""
        return self.agreement is not None and not self._is_closed

    @property
    def peer(self) -> tuple[str, int]:
        """The address and port that the other side is seen from, for logs."""
        address = self.connection.getPeer()
        return address_host(address), getattr(address, "port", 0)

    def _peer_text(self) -> str:
        host, port = self.peer
        return str(HostPort(host, port)) if port else host

    @property
    def peer_host(self) -> str:
        """The address that the other side is seen from."""
        return address_host(self.connection.getPeer())

    def send(self, message: Message, request: int = 0) -> None:
        """
        Send a small message. Once the conversation is closed, nothing happens.

        @param request: the request that it makes or answers.
        """
        self.write_small(encode(message, request))

    def write_small(self, data: bytes) -> None:
        """
        Send whole frames that were encoded already. Once it is closed, nothing happens.
        """
        if self._is_closed:
            return
        self.connection.write(data)
        if not self.is_writable:
            self._unread_answers += len(data)
            if self._unread_answers > MAX_UNREAD_ANSWERS:
                self.stop_reading("unread answers")

    def fail_request(self, request: int, error: BaseException) -> None:
        """
        Tell the other side that its request failed; the conversation goes on.
        """
        self.send(error_message(error), request)

    # Ending

    def end(self, error: Flow512Error) -> None:
        """
        Close the conversation because of an error on this side.

        @param error: why. The other side is told of it first, unless it is gone, or banned.
        """
        if self._is_closed:
            return
        if isinstance(error, Unreachable):
            self._finish()
            self.connection.abortConnection()
            self.conversation_ended(error)
            return
        if not isinstance(error, Banned):
            self.fail_request(0, error)
        self._close(error)

    def leave(self, why: str = "This side closed the conversation.") -> None:
        """
        Close the conversation in peace: what has been written is delivered first.

        @param why: a sentence for whoever asks on this side.
        """
        if not self._is_closed:
            self._close(PeerLost(why))

    def _close(self, error: Flow512Error) -> None:
        self._finish()
        # Somebody who reads nothing must not keep the connection by that.
        self._timer = self.clock.callLater(self.patience.greeting, self._close_at_once)
        self.connection.loseConnection()
        self.conversation_ended(error)

    def _close_at_once(self) -> None:
        self._timer = None
        self.connection.abortConnection()

    def _finish(self) -> None:
        self._is_closed = True
        self._disarm()
        self.connection.unregisterProducer()
        # A transport that was told to stop reading would never notice the end.
        self._reading_stopped_by.clear()
        self.connection.resumeProducing()

    # Receiving

    def stop_reading(self, cause: str) -> None:
        """
        Take nothing more from the other side, not even what has been received already.

        @param cause: to be named again in L{resume_reading}.
        """
        if self._is_closed:
            return
        if not self._reading_stopped_by:
            self.connection.pauseProducing()
        self._reading_stopped_by.add(cause)

    def resume_reading(self, cause: str) -> None:
        """
        Let one cause for not reading go; without any left, frames are taken again.
        """
        if cause not in self._reading_stopped_by:
            return
        self._reading_stopped_by.discard(cause)
        if not self._reading_stopped_by:
            self._take_frames()
            if not self._reading_stopped_by and not self._is_closed:
                # Whoever we did not listen to has not been silent.
                self._heard = True
                self.connection.resumeProducing()

    def _take_frames(self) -> None:
        if self._taking_frames:
            # A frame's receiver let reading go on: the loop below does so when it returns.
            return
        self._taking_frames = True
        try:
            while not self._reading_stopped_by and not self._is_closed:
                frame = self._reader.next_frame()
                if frame is None:
                    return
                self._frame(frame)
        except Flow512Error as error:
            self.end(error)
        except Exception:  # noqa: BLE001  # the one boundary: a defect of ours ends this conversation only
            self.log.failure("A frame could not be dealt with.")
            self.end(Flow512Error("Something went wrong inside the node."))
        finally:
            self._taking_frames = False

    def _frame(self, frame: Frame) -> None:
        if frame.kind == Kind.ERROR and frame.request == 0:
            self._told_of_the_end(frame)
        elif self.agreement is None:
            self.agreement = self._greeted(frame)
            if self.agreement is None:
                return
            self._reader.allowed = self.allowed
            self._arm(self.patience.silence)
            self.conversation_opened(self.agreement)
        elif frame.kind == Kind.PING:
            decode(frame, Ping)
            self.pinged(frame.request)
        elif frame.kind == Kind.PONG:
            self.ponged(decode(frame, Pong))
        else:
            self.frame_received(frame)

    def _told_of_the_end(self, frame: Frame) -> None:
        told = decode(frame, Error)
        self._close(from_wire(told.code, told.sentence, told.retry_after))

    def pinged(self, request: int) -> None:
        """
        Answer a ping.

        @param request: its number.
        """
        self.send(Pong(), request)

    def ponged(self, pong: Pong) -> None:
        """
        A ping of ours was answered.
        """

    # Deadlines

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.clock.callLater(seconds, self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        if self.agreement is None:
            self.end(
                TimedOut(
                    f"No hello came within {self.patience.greeting:g} seconds;"
                    " is the other side a flow512 node?"
                )
            )
            return
        if not self.is_writable and self.clock.seconds() - self._full_since >= self.patience.stall:
            self.end(TimedOut("The other side stopped reading."))
            return
        if self._reading_stopped_by:
            self._pinged = False
            self.send(Ping())
        elif self._heard or not self.is_writable:
            # A ping would wait behind what fills the transport, however fast that is read.
            self._pinged = False
        elif self._pinged:
            self.end(TimedOut("The other side fell silent."))
            return
        else:
            self._pinged = True
            self.send(Ping())
        self._heard = False
        self._arm(self.patience.silence)

    # Twisted's side

    def connectionMade(self) -> None:
        tcp = beneath(self.transport)
        if ITCPTransport.providedBy(tcp):
            tcp.setTcpNoDelay(True)
            tcp.setTcpKeepAlive(True)
        self._lane = open_lane(self.transport)
        if self._lane is not None:
            self._lane.receive_bodies(self)
        self.connection = cast(Transport, self._lane or self.transport)
        self.connection.registerProducer(self, True)
        self._arm(self.patience.greeting)
        if not is_tls(self.transport):
            self._begin_greeting()

    def handshakeCompleted(self) -> None:
        if self._is_closed:
            return
        from flow512.link.tls import channel_of

        try:
            channel = channel_of(self.transport)
            if self.channel is None:
                self.channel = channel
                self._begin_greeting()
            elif channel.peer != self.channel.peer:
                raise Violation("The other side changed its key in the middle of a conversation.")
        except Flow512Error as error:
            # Not a word: it is not the one to speak with.
            if not self._is_closed:
                self._close(error)

    def dataReceived(self, data: bytes) -> None:
        if self._is_closed:
            return
        is_first = self.agreement is None and not self._heard
        if is_first and not is_tls(self.transport) and data[:1] in TLS_RECORDS:
            self.end(Unsupported(_OTHER_SIDE_HAS_TLS))
            return
        self._heard = True
        self._reader.receive(data)
        self._take_frames()

    # IBodyReceiver: much data is received, or decrypted, to where it is needed

    def body_room(self) -> memoryview | None:
        return None if self._is_closed else self._reader.body_room()

    def body_filled(self, count: int) -> None:
        self._heard = True
        if self._reader.body_filled(count):
            self._take_frames()

    # Twisted's side again

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._disarm()
        if self._lane is not None:
            self._lane.gone()
        if self._is_closed:
            return
        if is_tls(self.transport) and (why := self._why_tls_failed(reason)):
            sentence = why
        elif isinstance(reason.value, ConnectionDone) and self.agreement is None:
            sentence = self._closed_in_greeting()
        elif isinstance(reason.value, ConnectionDone) and self._reader.is_between_frames:
            sentence = "The other side closed the connection."
        elif isinstance(reason.value, ConnectionDone):
            sentence = "The other side closed the connection in the middle of a frame."
        else:
            # Twisted's own words are that it was lost, over and over, and not whose it was.
            sentence = f"The connection to {self._peer_text()} was lost."
        self._finish()
        self.conversation_ended(PeerLost(sentence))

    def _why_tls_failed(self, reason: Failure) -> str:
        from flow512.link.tls import why_tls_failed

        return why_tls_failed(reason.value)

    # IPushProducer: what the transport tells us of its buffer

    def pauseProducing(self) -> None:
        # Twisted's transports say so again at every write while they are full.
        if self.is_writable:
            self.is_writable = False
            self._full_since = self.clock.seconds()

    def resumeProducing(self) -> None:
        self.is_writable = True
        self._unread_answers = 0
        self.resume_reading("unread answers")
        # What was read just now may have been answered until the transport was full again.
        if self.is_open and self.is_writable:
            self.writable_again()

    def stopProducing(self) -> None:
        self.is_writable = False
