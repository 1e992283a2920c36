"""
Requests that have one message for an answer, which a worker looks for: what there is, what is known
of a content, and who else has it.

Each is known by its number until its end is written. Listings are large, so those of one
conversation are made one at a time, and only while the transport takes what is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from ipaddress import IPv4Address, IPv6Address
from threading import Event
from typing import Final, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flow512.content.library import MD5_AT_ONCE, Library, View
from flow512.content.mending import piece_md5s
from flow512.content.paths import SHOWN, escape
from flow512.content.shares import LARGEST
from flow512.content.tree import Shape
from flow512.errors import BadMessage
from flow512.interfaces import SMALL, AtMost, RunBlocking
from flow512.link.origin import plain_address
from flow512.registry.peer_list import as_reached
from flow512.transfer.contents import Contents
from flow512.transfer.holders import KnownHolders
from flow512.transfer.serving import ServingConversation
from flow512.transfer.shared_work import SharedWork
from flow512.units import BLOCK
from flow512.wire.fields import Peer
from flow512.wire.frame import Frame, encode_header
from flow512.wire.handshake import Agreement, Channel
from flow512.wire.holding import Holders, PiecesRequest, Who
from flow512.wire.meeting import Meet, Met
from flow512.wire.messages import (
    Checksum,
    Entry,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Stat,
    Stated,
    decode,
)

_T = TypeVar("_T")


class AnsweringConversation(ServingConversation, Hashable, Protocol):
    """
    What answers need of the conversation that they belong to.

    @ivar agreement: with whom it is.
    @ivar channel: what TLS has proven of him.
    """

    agreement: Agreement | None
    channel: Channel | None

    @property
    def peer_host(self) -> str:
        """Where he is."""

    def write_small(self, data: bytes) -> None:
        """Write a frame that is no message."""


class Answering(Protocol):
    """
    What answers are made from, and with, such as a
    L{TransferFactory<flow512.transfer.server.TransferFactory>}.
    """

    library: Library
    contents: Contents
    holders: KnownHolders
    met: Callable[[bytes, Peer | None], Met]
    run_blocking: RunBlocking
    reading: AtMost
    long_work: SharedWork


class _Working(msgspec.Struct, eq=False, kw_only=True):
    """
    A request that a worker is busy with.

    @ivar stop: set when nobody wants the answer any more.
    """

    stop: Event = msgspec.field(default_factory=Event)


class _Listing(_Working, eq=False):
    """One LIST; it may have to wait for its turn."""

    request: int
    wanted: List


def is_listing(frame: Frame) -> bool:
    """
    Say whether a request is for a listing; the manifest of a folder is one.
    """
    if frame.kind == Kind.STAT:
        return decode(frame, Stat).path.endswith("/")
    return frame.kind == Kind.LIST


def _md5s_of_pieces(contents: Contents, asker: bytes, wanted: PiecesRequest) -> bytes:
    file = contents.open(wanted.root, asker)
    try:
        block = bytearray(Shape(file.size).block_length(wanted.block))
        file.read_into(wanted.block * BLOCK, [block])
    finally:
        file.close()
    return piece_md5s(block)


class Answers:
    """
    All such requests of one conversation that have not ended.
    """

    def __init__(self, conversation: AnsweringConversation, service: Answering) -> None:
        """
        @param conversation: whose they are.
        @param service: what they are answered from.
        """
        self._conversation = conversation
        self._service = service
        self._pending: dict[int, _Working] = {}
        self._listings: deque[_Listing] = deque()
        self._is_listing = False

    def __contains__(self, request: int) -> bool:
        return request in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    # From the conversation

    def begin(self, frame: Frame) -> None:
        """
        Take a request on.

        @param frame: of one of the kinds that are L{ANSWERED}; its number is not in use.
        @raise BadMessage: it makes no sense.
        """
        _ANSWERS[frame.kind](self, frame)

    def cancel(self, request: int) -> None:
        """
        Nobody wants the answer any more.
        """
        cancelled = self._pending.pop(request)
        cancelled.stop.set()
        if isinstance(cancelled, _Listing) and cancelled in self._listings:
            self._listings.remove(cancelled)

    def transport_drained(self) -> None:
        """
        The transport takes more.
        """
        self._next_listing()

    def end(self) -> None:
        """
        Forget them all: the conversation is over.
        """
        for working in self._pending.values():
            working.stop.set()
        self._pending.clear()
        self._listings.clear()

    # What a worker looks for

    def _work(
        self,
        request: int,
        working: _Working,
        result: Deferred[_T],
        answer: Callable[[_T], None],
    ) -> None:
        """
        Wait for a worker, then write the request's end, unless it has had that already.
        """
        self._pending[request] = working

        def is_wanted() -> bool:
            return self._pending.get(request) is working

        def succeeded(value: _T) -> None:
            if is_wanted():
                del self._pending[request]
                answer(value)

        def failed(failure: Failure) -> None:
            if is_wanted():
                del self._pending[request]
                assert failure.value is not None
                self._conversation.fail(request, failure.value)

        self._conversation.wait_for_worker(result, succeeded, failed)

    def _list(self, frame: Frame) -> None:
        waiting = _Listing(frame.request, decode(frame, List))
        self._pending[frame.request] = waiting
        self._listings.append(waiting)
        self._next_listing()

    def _next_listing(self) -> None:
        while self._listings and self._conversation.is_writable and not self._is_listing:
            waiting = self._listings.popleft()
            if self._pending.get(waiting.request) is waiting:
                self._begin_listing(waiting)

    def _begin_listing(self, listing: _Listing) -> None:
        self._is_listing = True
        wanted = listing.wanted

        def answer(found: tuple[Sequence[Entry], bool]) -> None:
            entries, more = found
            self._conversation.send(Listing(tuple(entries), more), listing.request)

        def ended(_: object) -> None:
            self._is_listing = False
            self._next_listing()

        library, asker = self._service.library, self._conversation.asker
        made = self._service.run_blocking(
            lambda: library.list(
                wanted.prefix, wanted.after, wanted.limit, view=library.seen_by(asker)
            )
        )
        self._work(listing.request, listing, made, answer)
        made.addCallback(ended)

    def _stat(self, frame: Frame) -> None:
        wanted = decode(frame, Stat)
        if bool(wanted.path) == (wanted.root is not None):
            raise BadMessage("STAT names a path or a root, and not both.")
        if wanted.path:
            path = escape(wanted.path, SHOWN)
            self._conversation.lines.info("Request for file: '{path}'", path=path)

        def answer(entry: Entry) -> None:
            self._conversation.send(Stated(entry), frame.request)

        working = _Working()
        self._work(frame.request, working, self._find(wanted, working.stop), answer)

    def _find(self, wanted: Stat, stop: Event) -> Deferred[Entry]:
        service, asker = self._service, self._conversation.asker
        library = service.library
        if wanted.root is not None:
            return service.run_blocking(service.contents.stat, wanted.root, asker, stop.is_set)

        def look() -> tuple[View, Entry | None]:
            view = library.seen_by(asker)
            # A small file is hashed before anything else could be done with it.
            above = MD5_AT_ONCE if wanted.at_once else LARGEST
            return view, library.known(wanted.path, view, unhashed_above=above)

        def hash_unless_known(looked: tuple[View, Entry | None]) -> Entry | Deferred[Entry]:
            view, known = looked
            if known is not None:
                return known
            # Only those wait together for one file who may see the same.
            return service.long_work.join(
                (view, wanted.path),
                stop,
                lambda may_stop: library.stat(wanted.path, None, may_stop, view),
            )

        return service.run_blocking(look).addCallback(hash_unless_known)

    def _page(self, frame: Frame) -> None:
        wanted = decode(frame, PageRequest)
        service, asker = self._service, self._conversation.asker

        def answer(page: bytes) -> None:
            header = encode_header(Kind.DIGESTS, frame.request, len(page), wanted.index)
            self._conversation.write_small(header + page)

        made = service.run_blocking(
            service.contents.page, wanted.root, wanted.level, wanted.index, asker
        )
        self._work(frame.request, _Working(), made, answer)

    def _checksum(self, frame: Frame) -> None:
        wanted = decode(frame, Checksum)
        service, asker = self._service, self._conversation.asker
        library = service.library

        def answer(md5: bytes) -> None:
            self._conversation.send(Md5(md5), frame.request)

        working = _Working()

        def look() -> tuple[View, bytes | None]:
            return library.seen_by(asker), service.contents.md5(wanted.root, asker)

        def compute_unless_known(looked: tuple[View, bytes | None]) -> bytes | Deferred[bytes]:
            view, known = looked
            if known is not None:
                return known
            return service.long_work.join(
                (view, wanted.root),
                working.stop,
                lambda may_stop: library.checksum(wanted.root, may_stop, view),
            )

        found: Deferred[bytes] = service.run_blocking(look).addCallback(compute_unless_known)
        self._work(frame.request, working, found, answer)

    def _pieces(self, frame: Frame) -> None:
        wanted = decode(frame, PiecesRequest)
        service, asker = self._service, self._conversation.asker

        def answer(md5s: bytes) -> None:
            header = encode_header(Kind.PIECE_DIGESTS, frame.request, len(md5s), wanted.block)
            self._conversation.write_small(header + md5s)

        made = service.reading.on(SMALL)(_md5s_of_pieces, service.contents, asker, wanted)
        self._work(frame.request, _Working(), made, answer)

    # Who else there is

    def _holders(self, frame: Frame) -> None:
        wanted = decode(frame, Who)
        conversation, holders = self._conversation, self._service.holders

        def answer(_: Entry) -> None:
            known = holders.known(wanted.root, but=conversation)
            conversation.send(Holders(known), frame.request)
            place = plain_address(conversation.peer_host)
            if wanted.port and place is not None:
                peer = self._serving_at(place, wanted.port)
                holders.note(conversation, wanted.root, peer)
            else:
                holders.drop(conversation, wanted.root)

        # Who may not see a content is not told who else has it.
        found = self._service.run_blocking(
            self._service.contents.stat, wanted.root, conversation.asker
        )
        self._work(frame.request, _Working(), found, answer)

    def _meet(self, frame: Frame) -> None:
        wanted = decode(frame, Meet)
        conversation = self._conversation
        place = plain_address(conversation.peer_host)
        peer = None
        if wanted.port and place is not None:
            peer = as_reached(self._serving_at(place, wanted.port), conversation.peer_host)
        conversation.send(self._service.met(conversation.asker, peer), frame.request)

    def _serving_at(self, place: IPv4Address | IPv6Address, port: int) -> Peer:
        agreement, channel = self._conversation.agreement, self._conversation.channel
        assert agreement is not None
        node = agreement.peer.node if channel is None else channel.peer
        return Peer(node, "", str(place), port)


_ANSWERS: Final[dict[int, Callable[[Answers, Frame], None]]] = {
    Kind.LIST: Answers._list,
    Kind.STAT: Answers._stat,
    Kind.PAGE: Answers._page,
    Kind.CHECKSUM: Answers._checksum,
    Kind.WHO: Answers._holders,
    Kind.PIECES: Answers._pieces,
    Kind.MEET: Answers._meet,
}

ANSWERED: Final = frozenset(_ANSWERS)
"""Kinds of requests that have one message for an answer."""
