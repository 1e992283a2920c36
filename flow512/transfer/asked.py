"""
What was asked of a source and has not ended: what each request calls for next.

A source is not believed: what comes has to be exactly what the request calls for, so that
whoever takes it need not ask what, where or how much it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from twisted.internet.defer import Deferred

from flow512.errors import BadFrame
from flow512.transfer.blocks import Sink
from flow512.transfer.incoming import Incoming
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK
from flow512.wire.bundle import unpack
from flow512.wire.frame import Frame
from flow512.wire.holding import Blocks
from flow512.wire.messages import Kind, decode


class Asked(Protocol):
    """
    A request whose end has not come.

    @ivar result: fires when it has. Once it was cancelled, what comes is judged all the same, and
        given to nobody.
    """

    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        """
        Take a frame that belongs to the request.

        @return: whether it was the last one.
        @raise Flow512Error: it is not what the request calls for.
        """


class Question(msgspec.Struct, eq=False):
    """
    A request with one answer.

    @ivar kind: of the answer.
    @ivar read: makes of it what L{result} fires with, or raises L{BadFrame}.
    """

    kind: Kind
    read: Callable[[Frame], object]
    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        if frame.kind != self.kind:
            raise BadFrame(f"{self.kind.name} was asked for, and kind {frame.kind:#04x} came.")
        answer = self.read(frame)
        if not self.result.called:
            self.result.callback(answer)
        return True


class Watching(msgspec.Struct, eq=False):
    """
    A WATCH: what there is of a content, and what is added, until all is there.

    @ivar told: called with what has come.
    """

    told: Callable[[Blocks], None]
    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        if frame.kind != Kind.BLOCKS:
            raise BadFrame(f"BLOCKS was asked for, and kind {frame.kind:#04x} came.")
        blocks = decode(frame, Blocks)
        end = 0
        for first, count in blocks.runs:
            if first < end:
                raise BadFrame("Runs of blocks came that are not in order.")
            end = first + count
        if not self.result.called:
            self.told(blocks)
        if blocks.is_all and not self.result.called:
            self.result.callback(None)
        return blocks.is_all


class Reading(msgspec.Struct, eq=False):
    """
    A READ: data frames, in order.

    Each ends with a block, or with what was asked for, or has C{run} pieces and is part of a
    block. So how long it is, is the source's to choose only if C{run} is more than a block: there
    it may be of one block or of several.

    @ivar next: the piece that comes next.
    @ivar end: the one after the last.
    @ivar size: bytes of the whole content.
    @ivar run: pieces in a frame, at most.
    @ivar sink: called with the first piece of each frame, and its body.
    """

    next: int
    end: int
    size: int
    run: int
    sink: Sink
    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        first = self.next
        boundary = first - first % PIECES_PER_BLOCK + PIECES_PER_BLOCK
        self.next = min(first + self.run, boundary, self.end)
        length = min(self.next * PIECE, self.size) - first * PIECE
        if len(frame.body) > length and self.run > PIECES_PER_BLOCK:
            more = -(-(len(frame.body) - length) // BLOCK) * PIECES_PER_BLOCK
            self.next = min(self.next + more, self.end)
            if self.next - first <= self.run:
                length = min(self.next * PIECE, self.size) - first * PIECE
        if frame.kind != Kind.DATA or frame.position != first or len(frame.body) != length:
            raise BadFrame(
                f"{length} bytes from piece {first} on were called for; kind {frame.kind:#04x},"
                f" {len(frame.body)} bytes from {frame.position} on came."
            )
        if not self.result.called:
            self.sink(first, frame.body)
        if self.next < self.end:
            return False
        if not self.result.called:
            self.result.callback(None)
        return True


ParcelSink: TypeAlias = Callable[[int, list[memoryview | None]], None]
"""Takes the number of the first content, and the contents, which are whoever's that keeps them."""


class Parcels(msgspec.Struct, eq=False):
    """
    A BUNDLE: parcels, in order, until every content has come.

    @ivar next: the number of the content that comes next.
    @ivar sizes: bytes of each.
    @ivar sink: called with each parcel's.
    """

    next: int
    sizes: Sequence[int]
    sink: ParcelSink
    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        if frame.kind != Kind.PARCEL or frame.position != self.next:
            raise BadFrame(
                f"Content {self.next} was called for; kind {frame.kind:#04x} at"
                f" {frame.position} came."
            )
        contents = unpack(frame.body)
        first, self.next = self.next, self.next + len(contents)
        if self.next > len(self.sizes):
            raise BadFrame(f"{len(self.sizes)} contents were asked for, and more came.")
        for number, content in enumerate(contents, first):
            if content is not None and len(content) != self.sizes[number]:
                raise BadFrame(
                    f"Content {number} has {self.sizes[number]} bytes; {len(content)} came for it."
                )
        if not self.result.called:
            self.sink(first, contents)
        if self.next < len(self.sizes):
            return False
        if not self.result.called:
            self.result.callback(None)
        return True


class Streaming(msgspec.Struct, eq=False):
    """
    A STREAM: blocks with their digests, and at the end the entry, which L{result} fires with.

    @ivar incoming: judges and passes on what comes.
    """

    incoming: Incoming
    result: Deferred[Any]

    def take(self, frame: Frame) -> bool:
        entry = self.incoming.take(frame)
        if entry is not None and not self.result.called:
            self.result.callback(entry)
        return entry is not None


BULK: Final = (Reading, Parcels, Streaming)
"""Requests whose answers are what is in files, and so are taken no faster than the limit has it."""
