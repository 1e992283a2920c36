"""
A source: another node, as the one who fetches sees it.

Requests are pipelined; each has a number and, by L{flow512.transfer.server}'s rule, one end.
A request that is cancelled here stays known until its end comes, since data for it may be on
its way. A frame for a number that is not known is a violation: either nobody asked, or it was
answered before.

The source is not believed: each request says what it calls for next (L{flow512.transfer.asked}).
Whether the bytes are right is judged by the tree (L{flow512.transfer.download}).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.errors import BadFrame, Flow512Error, PeerLost, Unreachable, from_wire
from flow512.link.conversation import Patience
from flow512.link.greeting import Caller
from flow512.link.introduction import Introduction
from flow512.link.open_connections import OpenConnections
from flow512.link.throttle import Throttle
from flow512.transfer.asked import (
    BULK,
    Asked,
    Parcels,
    ParcelSink,
    Question,
    Reading,
    Streaming,
    Watching,
)
from flow512.transfer.blocks import Sink, buffers_for
from flow512.transfer.incoming import BlockSink, Incoming
from flow512.transfer.intake import Intake
from flow512.transfer.pace import WINDOW
from flow512.transfer.swarm import silent
from flow512.wire.bundle import Bundle
from flow512.wire.fields import MAX_LIST, MD5_LENGTH, Message, Peer
from flow512.wire.frame import HEADER_SIZE, MAX_REQUEST, BufferPool, Frame
from flow512.wire.handshake import Agreement
from flow512.wire.holding import Blocks, Holders, PiecesRequest, Watch, Who
from flow512.wire.meeting import Meet, Met
from flow512.wire.messages import (
    TRANSFER,
    TRANSFER_CLIENT,
    Cancel,
    Checksum,
    Entry,
    Error,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Read,
    Stat,
    Stated,
    decode,
)
from flow512.wire.streaming import Stream

_T = TypeVar("_T")


def fell_silent(result: object, seconds: float) -> Failure:
    """
    Say so, as C{addTimeout} wants it said.
    """
    return Failure(silent())  # type: ignore[no-untyped-call]  # Twisted has no types there


_NO_HELLO: Final = (
    "No hello had come when it was not needed any more; is the other side a flow512 node?"
)


class SourceProtocol(Caller):
    """
    The fetching side of one transfer conversation.

    @ivar buffers: where blocks are put together; whoever is done with one gives it back.

    Every method that asks gives a L{Deferred}. It fails with what the source answered
    (L{flow512.errors.Refusal} and its kin), or with why the conversation ended. Cancelling it
    tells the source that nobody wants the answer any more.
    """

    conversation = TRANSFER
    allowed: Mapping[int, int] = TRANSFER_CLIENT
    log = Logger()

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        patience: Patience | None = None,
        connections: OpenConnections[SourceProtocol] | None = None,
        down: Throttle | None = None,
        buffers: BufferPool | None = None,
    ) -> None:
        """
        @param introduction: what this node says of itself.
        @param clock: for the deadlines.
        @param patience: how long they are.
        @param connections: where it is counted while it is connected.
        @param down: how fast data frames are taken, from all sources together; no limit unless
            given.
        @param buffers: see L{buffers}; sources that work for one node share theirs.
        """
        self._connections = connections or OpenConnections()
        self.buffers = buffers or buffers_for(WINDOW)
        super().__init__(introduction, clock, patience or Patience(), self.buffers)
        self._pending: dict[int, Asked] = {}
        self._down = down or Throttle(clock)
        self._intake = Intake(
            self._down, partial(self.stop_reading, "rate"), partial(self.resume_reading, "rate")
        )
        self._last_request = 0
        self._opening: list[Deferred[SourceProtocol]] = []
        self._ended_by: Flow512Error | None = None

    @property
    def is_held_back(self) -> bool:
        """Whether nothing is read from it now."""
        return bool(self._reading_stopped_by)

    def when_open(self) -> Deferred[SourceProtocol]:
        """
        Wait for the hello.

        @return: fires with this source; fails with why there will be no conversation.
        """
        waiting: Deferred[SourceProtocol] = Deferred(lambda _: self.leave(_NO_HELLO))
        if self._ended_by is not None:
            waiting.errback(self._ended_by)
        elif self.is_open:
            waiting.callback(self)
        else:
            self._opening.append(waiting)
        return waiting

    def list(self, prefix: str = "", after: str = "", limit: int = MAX_LIST) -> Deferred[Listing]:
        """
        Ask what is shared, a page at a time.

        @param prefix: only paths that begin with this.
        @param after: only paths that sort after this one.
        @param limit: at most so many, 1 to L{MAX_LIST}.
        """

        def read(frame: Frame) -> Listing:
            listing = decode(frame, Listing)
            paths = [entry.path for entry in listing.entries]
            in_order = all(one < next_one for one, next_one in pairwise([after, *paths]))
            if listing.more and not paths:
                raise BadFrame("A list came that says there is more, and has nothing.")
            if not in_order or not all(path.startswith(prefix) for path in paths):
                raise BadFrame("The list that came is not the part that was asked for.")
            return listing

        return self._ask(List(prefix, after, limit), Kind.LISTING, read)

    def stat(
        self, path: str = "", root: bytes | None = None, at_once: bool = False
    ) -> Deferred[Entry]:
        """
        Ask for one file's entry, by path or else by root. It has a root.

        @param at_once: it may have none, if that takes long to compute.
        """

        def read(frame: Frame) -> Entry:
            entry = decode(frame, Stated).entry
            is_it = entry.path == path if path else entry.root == root
            if (entry.root is None and not at_once) or not is_it:
                raise BadFrame("The entry that came is not of the file that was asked for.")
            return entry

        return self._ask(Stat(path, root, at_once), Kind.ENTRY, read)

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        """
        Ask for a page of digests; it is yet to be proven.
        """
        return self._ask(
            PageRequest(root, level, index), Kind.DIGESTS, lambda frame: bytes(frame.body)
        )

    def checksum(self, root: bytes) -> Deferred[bytes]:
        """
        Ask for the MD5 of a content; the answer may take as long as computing it does.
        """
        return self._ask(Checksum(root), Kind.MD5, lambda frame: decode(frame, Md5).md5)

    def pieces(self, root: bytes, block: int) -> Deferred[bytes]:
        """
        Ask for the MD5s of a block's pieces. They prove nothing, and may be of another number of
        pieces than the block has.

        @return: 16 bytes for each piece, one after the other; 1 to L{PIECES_PER_BLOCK} of them.
        """

        def read(frame: Frame) -> bytes:
            length = len(frame.body)
            if frame.position != block or not length or length % MD5_LENGTH:
                raise BadFrame(
                    f"The MD5s of the pieces of block {block} were called for; {length} bytes for"
                    f" block {frame.position} came."
                )
            return bytes(frame.body)

        return self._ask(PiecesRequest(root, block), Kind.PIECE_DIGESTS, read)

    def who(self, root: bytes, port: int = 0) -> Deferred[tuple[Peer, ...]]:
        """
        Ask who else has a content, or some of its blocks. Nobody vouches for them.

        @param port: where this node gives to others what it has of it, from now on; 0 for nowhere.
        """
        return self._ask(Who(root, port), Kind.HOLDERS, lambda frame: decode(frame, Holders).peers)

    def meet(self, port: int = 0) -> Deferred[Met]:
        """
        Ask whom the source has met lately. Nobody vouches for them.

        @param port: the TCP port that this node serves at, so that the source may come back; 0 for
            none.
        """
        return self._ask(Meet(port), Kind.MET, lambda frame: decode(frame, Met))

    def watch(self, root: bytes, told: Callable[[Blocks], None]) -> Deferred[None]:
        """
        Ask which blocks of a content the source has, now and from now on.

        @param told: called at first with those that there are, in one or more turns, and then with
            those that are added. Some may come twice; they may lie beyond the content's end.
        @return: fires with L{None} when the source has all of them. That may never be; cancelling
            it ends the watch.
        """
        result: Deferred[None] = Deferred()
        return self._begin(Watch(root), Watching(told, result))

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        """
        Ask for pieces.

        @param size: the bytes of the whole content.
        @param first: the number of the first piece.
        @param count: how many, 1 to L{flow512.wire.messages.MAX_READ}, all inside the content.
        @param run: how many a frame may carry, 1 to L{flow512.units.LONGEST_RUN}.
        @param sink: called for each frame, in order, before the result fires.
        @return: fires with L{None} after the last frame.
        """
        result: Deferred[None] = Deferred()
        return self._begin(
            Read(root, first, count, run),
            Reading(first, first + count, size, run, sink, result),
        )

    def bundle(
        self, roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink
    ) -> Deferred[None]:
        """
        Ask for small contents, whole; they are yet to be proven.

        @param roots: which, 1 to L{MAX_BUNDLE<flow512.wire.bundle.MAX_BUNDLE>}.
        @param sizes: the bytes of each; whoever sends another number is not listened to further.
        @param sink: called with those that have come, in order; L{None} for one that the source
            does not give so, because it is too large, or is not there.
        @return: fires with L{None} when all have come.
        """
        result: Deferred[None] = Deferred()
        return self._begin(Bundle(tuple(roots)), Parcels(0, tuple(sizes), sink, result))

    def stream(self, wanted: Stream, sink: BlockSink) -> Deferred[Entry]:
        """
        Ask for a file whose root is not known yet.

        @param wanted: which, and from which block on.
        @param sink: called for each block, in order, with the digest that came with it; it may
            stop reading.
        @return: fires with the entry, which has a root, after the last block.
        """

        def pass_on(block: bytes | bytearray, digest: bytes) -> None:
            if not pending.result.called:
                sink(block, digest)

        pending = Streaming(Incoming(wanted, self.buffers, pass_on), Deferred())
        return self._begin(wanted, pending)

    def _ask(self, message: Message, kind: Kind, read: Callable[[Frame], _T]) -> Deferred[_T]:
        return self._begin(message, Question(kind, read, Deferred()))

    def _begin(self, message: Message, pending: Asked) -> Deferred[Any]:
        if not self.is_open:
            pending.result.errback(self._ended_by or PeerLost("There is no conversation yet."))
            return pending.result
        number = self._free_number()
        self._pending[number] = pending

        def cancel(_: Deferred[Any]) -> None:
            self.send(Cancel(), number)

        pending.result = Deferred(cancel)
        try:
            self.send(message, number)
        except Flow512Error:
            del self._pending[number]  # what cannot be said is not answered
            raise
        if self._down.is_limited and isinstance(pending, BULK):
            self._intake.expect()
        return pending.result

    def _free_number(self) -> int:
        while True:
            self._last_request = self._last_request % MAX_REQUEST + 1
            if self._last_request not in self._pending:
                return self._last_request

    # The conversation

    def conversation_opened(self, agreement: Agreement) -> None:
        opening, self._opening = self._opening, []
        for waiting in opening:
            waiting.callback(self)

    def conversation_ended(self, error: Flow512Error) -> None:
        self._ended_by = error
        self._intake.rest()
        waiting = [*self._opening, *(pending.result for pending in self._pending.values())]
        self._opening = []
        self._pending.clear()
        for result in waiting:
            if not result.called:
                result.errback(error)

    def connectionMade(self) -> None:
        self._connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._connections.remove(self)

    def frame_received(self, frame: Frame) -> None:
        pending = self._pending.get(frame.request)
        if pending is None:
            raise BadFrame(f"Request {frame.request} was not made, or was answered before.")
        if frame.kind == Kind.ERROR:
            told = decode(frame, Error)
            del self._pending[frame.request]
            if not pending.result.called:
                pending.result.errback(from_wire(told.code, told.sentence, told.retry_after))
        elif pending.take(frame):
            # Taking may have ended the conversation.
            self._pending.pop(frame.request, None)
        if self._down.is_limited and self.is_open:
            self._count(frame)

    def _count(self, frame: Frame) -> None:
        if frame.kind in (Kind.DATA, Kind.PARCEL):
            self._intake.took(HEADER_SIZE + len(frame.body))
        if any(isinstance(pending, BULK) for pending in self._pending.values()):
            self._intake.expect()
        else:
            self._intake.rest()


class SourceFactory(Factory[SourceProtocol]):
    """
    Makes L{SourceProtocol}s.
    """

    noisy = False

    def __init__(
        self,
        introduction: Introduction,
        clock: IReactorTime,
        patience: Patience | None = None,
        expected: bytes | None = None,
        connections: OpenConnections[SourceProtocol] | None = None,
        down: Throttle | None = None,
        buffers: BufferPool | None = None,
    ) -> None:
        """
        @param introduction: what this node says of itself.
        @param clock: for the deadlines.
        @param patience: how long they are.
        @param expected: the node id that the other side must have; L{None} for any.
        @param connections: where connections are counted.
        @param down: how fast all of them together take data frames; no limit unless given.
        @param buffers: where all of them put blocks together.
        """
        self.connections = connections or OpenConnections()
        self.introduction = introduction
        self.clock = clock
        self.patience = patience or Patience()
        self.expected = expected
        self.down = down or Throttle(clock)
        self.buffers = buffers or buffers_for(WINDOW)

    def buildProtocol(self, addr: IAddress | None) -> SourceProtocol:
        source = SourceProtocol(
            self.introduction,
            self.clock,
            self.patience,
            self.connections,
            self.down,
            self.buffers,
        )
        source.expected = self.expected
        return source


async def connect_source(endpoint: IStreamClientEndpoint, factory: SourceFactory) -> SourceProtocol:
    """
    Connect, and wait for the hello.

    @return: the source, open.
    @raise Unreachable: nothing answered there, or fell silent.
    @raise Flow512Error: what answered is no node, or refused.
    """
    try:
        source = await endpoint.connect(factory)
    except ConnectingCancelledError as error:
        raise CancelledError from error
    except (ConnectError, DNSLookupError) as error:
        told = error.args[0] if type(error) is ConnectError and error.args else ""
        raise Unreachable((str(told) or error.MESSAGE).rstrip(".").lower()) from error
    except OSError as error:
        raise Unreachable((error.strerror or str(error)).lower()) from error
    assert isinstance(source, SourceProtocol)
    await source.when_open()
    return source
