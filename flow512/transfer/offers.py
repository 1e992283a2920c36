"""
Offers: what a node is downloading, for others to fetch from it meanwhile.

An offer has the blocks that are verified and in place, and the pages that are proven; nothing else
of it can be asked for. It goes on after the file was published, until it is withdrawn.

What holds, whatever becomes of the download:

  1. A block is read only if the partial file vouches for it (L{Partial.have}), through a
     descriptor that every reader has for himself. So a read that has begun goes on when the
     file is published, given up or closed, and when the offer is withdrawn.
  2. Once the file is published others may write to it. From then on what is read counts only if
     the file's stamp is what it was (see L{flow512.content.opened}).
  3. Watchers hear of the blocks that came within L{GATHER_FOR} seconds together, so what they cost
     does not grow with the speed of the download.

Workers open and read; all else happens on the reactor's thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Final, Protocol, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flow512.content.cached import Cached
from flow512.content.catalog import Stamp
from flow512.content.journal import BlockSet
from flow512.content.opened import check_unchanged, disk_of, fill, is_unchanged, stamp_of
from flow512.content.partial import Partial
from flow512.content.paths import check_path, escape
from flow512.content.tree import Shape, format_content_id
from flow512.errors import Misuse, NotFound
from flow512.transfer.proven_pages import ProvenPages
from flow512.units import BLOCK
from flow512.wire.messages import Entry

GATHER_FOR: Final = 0.05
"""Seconds that a block waits for others before watchers are told of it."""

LINGER: Final = 60.0
"""
Seconds that what was downloaded is offered on. If it went to a share, that has it long before.
"""

MOST_LINGERING: Final = 64
"""
Downloads that are offered on at once: each keeps a descriptor, and the room on the disk of a file
that was removed since. Who fetches one file after the other would have thousands in L{LINGER}
seconds.
"""

Admits: TypeAlias = Callable[[bytes], bool]
"""Tells whether somebody may have what is downloaded, by the node id that was proven."""


def everybody(asker: bytes) -> bool:
    """
    Admit all.
    """
    return True


class Watcher(Protocol):
    """Somebody who is told what becomes of an offer."""

    def blocks_came(self, runs: Sequence[tuple[int, int]]) -> None:
        """
        Blocks were added.

        @param runs: first block and count of each run, in order.
        """

    def withdrawn(self) -> None:
        """
        The offer is no more.
        """


class OfferedContent:
    """
    An offered file that is being read. One thread at a time may use it.

    @ivar root: its content id.
    @ivar size: its bytes.
    @ivar disk: the number of the disk that it is on.
    @ivar cached: what can be read of it without waiting, for L{read_cached}.
    """

    def __init__(self, offer: Offer, fd: int, asker: bytes, admits: Admits) -> None:
        """
        @param offer: what it is of.
        @param fd: the file, open for reading; it belongs to this object from now on.
        @param asker: whom it was opened for.
        @param admits: tells whether it is still for him.
        """
        self.root = offer.root
        self.size = offer.size
        self._offer = offer
        self._fd = fd
        self.disk = disk_of(fd)
        self._asker = asker
        self._admits = admits
        self.cached = Cached(fd)

    @property
    def is_over(self) -> bool:
        """Whether its root has to be opened anew for whoever asks for it now."""
        return self._offer.is_withdrawn

    def check_access(self) -> None:
        """
        Make sure that it is still for whom it was opened.

        @raise NotFound: it is not any more.
        """
        if not self._admits(self._asker):
            raise NotFound(f"{format_content_id(self.root)} is not shared, or not any more.")

    def read_into(self, offset: int, rooms: Sequence[bytearray]) -> None:
        """
        Read some of the content to where it is wanted.

        @param offset: of the first byte.
        @param rooms: each is filled, one after the other; at most 16.
        @raise NotFound: not all of these blocks are here yet.
        @raise ContentChanged: the file was published, and somebody has changed it.
        @raise Misuse: not all of these bytes are inside the file.
        @raise ResourceFailure: it could not be read.
        """
        end = offset + sum(map(len, rooms))
        if offset < 0 or end > self.size:
            raise Misuse(f"{self._offer.what} has no bytes {offset} to {end}.")
        self._offer.check_blocks(range(offset // BLOCK, -(-end // BLOCK)))
        fill(self._fd, offset, rooms, self._offer.what)
        self._offer.check_unchanged(self._fd)

    def read_cached(self, offset: int, rooms: Sequence[bytearray]) -> bool:
        """
        Read as L{read_into}, if that need not wait for anything; also on the reactor's thread.

        @return: whether it could be read. If not, nothing in C{rooms} counts, and L{read_into}
            tells why.
        """
        end = offset + sum(map(len, rooms))
        return (
            self._offer.has_blocks(range(offset // BLOCK, -(-end // BLOCK)))
            and self.cached.fill(offset, rooms)
            and self._offer.is_unchanged(self._fd)
        )

    def close(self) -> None:
        """
        Give the descriptor back; a second time does nothing.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Offer:
    """
    One content that is being downloaded; L{Offers.prepare} makes it.

    @ivar root: its content id.
    @ivar size: its bytes.
    @ivar blocks: those that watchers may be told of. They are in place.
    @ivar md5: of the whole content; L{None} until whoever downloads it sets it.
    @ivar what: what to call it in sentences.
    @ivar is_withdrawn: whether it is no more.
    """

    def __init__(self, offers: Offers, partial: Partial, entry: Entry) -> None:
        """
        For L{Offers.prepare}, which says what the arguments are.
        """
        self.root = partial.root
        self.size = partial.size
        self.md5: bytes | None = None
        self.is_withdrawn = False
        self._offers = offers
        self._have = partial.have
        self._shape = Shape(partial.size)
        # Not where it is here, nor in which folder it was there: that is nobody's business.
        self._name = check_path(entry.path)[-1]
        self._mtime = entry.mtime
        self.what = f"'{escape(self._name)}'"
        self.blocks = BlockSet()
        for run in partial.have.runs():
            self.blocks.add(*run)
        self._came = BlockSet()  # what watchers have not been told of
        self._watchers: dict[Watcher, None] = {}
        self._timer: IDelayedCall | None = None
        self._lingering: IDelayedCall | None = None
        self._stamp: Stamp | None = None  # once it is published
        self._opening = Lock()  # so that no descriptor is closed while it is duplicated
        self._fd = partial.open_to_read()

    # Told by the download

    def begin(self) -> None:
        """
        Let it be found; if another download of the same content is offered, only after that.
        """
        self._offers.begin(self)

    def page_proven(self, level: int, index: int, page: bytes) -> None:
        """
        A page has been proven by its parent, the top page by the root. One that was proven before
        L{begin} is to be told of after that.
        """
        self._offers.keep_page(self, level, index, page)

    def blocks_stored(self, blocks: Iterable[int]) -> None:
        """
        Blocks were verified, and are in the partial file.

        @param blocks: their numbers.
        """
        for block in blocks:
            self.blocks.add(block)
            if self._watchers:
                self._came.add(block)
        if self._watchers and self._timer is None:
            self._timer = self._offers.clock.callLater(GATHER_FOR, self._tell)

    def published(self) -> None:
        """
        The file has its name now. To be called by the worker that gave it, at once: what the file
        is at this moment is what it has to stay.

        @raise flow512.errors.ResourceFailure: the system does not tell what it is; it must be
            withdrawn.
        """
        with self._opening:
            if not self.is_withdrawn:
                self._stamp = stamp_of(self._fd, self.what)

    def linger(self) -> None:
        """
        Withdraw it in a while: it is published, and others may be in the middle of it.
        """
        if not self.is_withdrawn and self._lingering is None:
            self._lingering = self._offers.clock.callLater(LINGER, self.withdraw)
            self._offers.linger(self)

    def withdraw(self) -> None:
        """
        Offer it no longer; a second time does nothing. Reads that have begun are read to their end.
        """
        if self.is_withdrawn:
            return
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._tell()
        self._offers.withdraw(self)
        with self._opening:
            self.is_withdrawn = True
            os.close(self._fd)
        while self._watchers:
            watcher = next(iter(self._watchers))
            self.unwatch(watcher)
            watcher.withdrawn()

    # Asked for by others

    @property
    def is_whole(self) -> bool:
        """Whether every block is here."""
        return len(self.blocks) == self._shape.blocks

    def watch(self, watcher: Watcher) -> None:
        """
        Tell somebody what becomes of it, from now on. What has come a moment ago may be told of,
        though it is in L{blocks} already.
        """
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """
        Tell somebody nothing more.
        """
        self._watchers.pop(watcher, None)

    def entry(self) -> Entry:
        """
        Tell of the file.
        """
        return Entry(
            self._name, self.size, self._mtime, self.root, self.md5, is_partial=not self.is_whole
        )

    def page(self, level: int, index: int) -> bytes:
        """
        Give a page of digests.

        @raise NotFound: it is not known, or not any more.
        @raise Misuse: the tree has no such page.
        """
        self._shape.page_length(level, index)
        page = self._offers.pages.get(self.root, level, index)
        if page is None:
            raise NotFound(f"Page {index} of level {level} of {self.what} is not here.")
        return page

    def open(self, asker: bytes) -> OfferedContent:
        """
        Open the file.

        @param asker: whom it is for.
        @return: the caller has to close it.
        @raise NotFound: it was withdrawn.
        @raise flow512.errors.ResourceFailure: it cannot be opened.
        """
        with self._opening:
            if self.is_withdrawn:
                raise NotFound(f"{format_content_id(self.root)} is not shared, or not any more.")
            return OfferedContent(self, os.dup(self._fd), asker, self._offers.admits)

    def check_blocks(self, blocks: Iterable[int]) -> None:
        """
        Make sure that blocks are in place; on any thread.

        @raise NotFound: one is not.
        """
        for block in blocks:
            if block not in self._have:
                raise NotFound(f"Block {block} of {self.what} is not here yet.")

    def has_blocks(self, blocks: Iterable[int]) -> bool:
        """
        Say whether blocks are in place; on any thread.
        """
        return all(block in self._have for block in blocks)

    def check_unchanged(self, fd: int) -> None:
        """
        Make sure that nobody else can have written to the file; on any thread.

        @param fd: it.
        @raise ContentChanged: somebody has changed it since it was published.
        """
        if self._stamp is not None:
            check_unchanged(fd, self._stamp, self.what)

    def is_unchanged(self, fd: int) -> bool:
        """
        Say whether the system tells that nobody else can have written to the file; on any thread.

        @param fd: it.
        """
        return self._stamp is None or is_unchanged(fd, self._stamp)

    def _tell(self) -> None:
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
        runs = tuple(self._came.runs())
        self._came = BlockSet()
        if runs:
            for watcher in tuple(self._watchers):
                watcher.blocks_came(runs)


class Offers:
    """
    All that a node offers of its downloads.

    @ivar clock: for what is gathered before it is told, and for what is offered for a while longer.
    @ivar admits: who may have it.
    @ivar pages: those of all offers.
    @ivar began: told of each content that is offered from now on; does nothing at first.
    @ivar ended: told of each that is offered no longer.
    """

    began: Callable[[bytes], None]
    ended: Callable[[bytes], None]

    def __init__(
        self,
        clock: IReactorTime,
        admits: Admits = everybody,
        pages: ProvenPages | None = None,
    ) -> None:
        """
        @param clock: see L{Offers}.
        @param admits: tells who may have it. It is asked by workers, before each visit to the
            disk, and may block.
        @param pages: where pages are kept.
        """
        self.clock = clock
        self.admits = admits
        self.pages = pages or ProvenPages()
        self.began = self.ended = lambda root: None
        self._offers: dict[bytes, list[Offer]] = {}  # by root; the first is the one that is found
        self._lingering: dict[Offer, None] = {}  # the oldest first

    def prepare(self, partial: Partial, entry: Entry) -> Offer:
        """
        Make an offer of what is about to be downloaded. Blocks for a moment: call it where the
        partial file is opened.

        @param partial: an open one. The offer goes on after it was closed.
        @param entry: what a source said of the file.
        @return: nobody finds it before L{Offer.begin}; whoever has it withdraws it.
        @raise UnsafeName: no file can have the entry's path.
        @raise flow512.errors.ResourceFailure: the file cannot be opened once more.
        """
        return Offer(self, partial, entry)

    def find(self, root: bytes, asker: bytes) -> Offer | None:
        """
        Find what is offered to somebody; on any thread. It may block.

        @param asker: a node id that was proven, or L{NOBODY<flow512.content.access.NOBODY>}.
        """
        offers = self._offers.get(root)
        return offers[0] if offers and self.admits(asker) else None

    def __contains__(self, root: bytes) -> bool:
        return root in self._offers

    def begin(self, offer: Offer) -> None:
        """
        Let an offer be found; for L{Offer.begin}.
        """
        offers = self._offers.setdefault(offer.root, [])
        offers.append(offer)
        if len(offers) == 1:
            self.began(offer.root)

    def linger(self, offer: Offer) -> None:
        """
        Make room for an offer that is withdrawn in a while; for L{Offer.linger}.
        """
        self._lingering[offer] = None
        if len(self._lingering) > MOST_LINGERING:
            next(iter(self._lingering)).withdraw()

    def withdraw(self, offer: Offer) -> None:
        """
        Let an offer be found no longer; for L{Offer.withdraw}.
        """
        self._lingering.pop(offer, None)
        offers = self._offers.get(offer.root, [])
        if offer in offers:
            # Another thread may be looking for one: it must not find an empty list.
            left = [each for each in offers if each is not offer]
            if left:
                self._offers[offer.root] = left
                return
            del self._offers[offer.root]
            self.pages.forget(offer.root)
            self.ended(offer.root)

    def keep_page(self, offer: Offer, level: int, index: int, page: bytes) -> None:
        """
        Keep a page of an offer that can be found; for L{Offer.page_proven}.
        """
        if offer in self._offers.get(offer.root, ())[:1]:
            self.pages.add(offer.root, level, index, page)

    def stop(self) -> None:
        """
        Withdraw everything.
        """
        for offer in [each for offers in self._offers.values() for each in offers]:
            offer.withdraw()
