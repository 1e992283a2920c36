"""
What a node can be asked for by content id: what its library has, and then what it is downloading.

The library comes first, since it has the whole. What becomes of a question is what it would
become without offers, unless one can answer it: so nobody learns that there are others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from flow512.content.hashing import Stop, never
from flow512.content.library import Library, OpenContent, View
from flow512.errors import Flow512Error
from flow512.transfer.offers import Offer, OfferedContent, Offers
from flow512.wire.bundle import Parcel
from flow512.wire.messages import Entry

ServedContent: TypeAlias = OpenContent | OfferedContent
"""A file that can be read from."""

_T = TypeVar("_T")


class Contents:
    """
    Finds contents for those who ask. Every method may block, and any thread may call it; each
    takes a node id that was proven, or L{NOBODY<flow512.content.access.NOBODY>}, as C{asker}.
    """

    def __init__(self, library: Library, offers: Offers | None = None) -> None:
        """
        @param library: what is shared.
        @param offers: what is being downloaded; L{None} to offer nothing of that.
        """
        self._library = library
        self._offers = offers

    def open(self, root: bytes, asker: bytes) -> ServedContent:
        """
        Open a file that has a content, or some of its blocks.

        @return: the caller has to close it.
        @raise Flow512Error: as L{Library.open}.
        """

        def shared(view: View) -> ServedContent:
            return self._library.open(root, view)

        def offered(offer: Offer) -> ServedContent:
            return offer.open(asker)

        return self._ask(root, asker, shared, offered)

    def read_small(self, roots: Sequence[bytes], asker: bytes, buffer: bytearray) -> Parcel:
        """
        Read small contents whole, as many of the first of them as one parcel holds.

        @param roots: which, at least one.
        @param buffer: where they go, a L{BLOCK<flow512.units.BLOCK>}.
        @return: at least one, in the buffer; missing is what L{Library.read_small} says.
        """
        parcel = Parcel(buffer)
        self._library.read_small(roots, parcel, self._library.seen_by(asker))
        return parcel

    def page(self, root: bytes, level: int, index: int, asker: bytes) -> bytes:
        """
        Give a page of digests.

        @raise Flow512Error: as L{Library.page}, and as L{Offer.page}.
        """
        return self._ask(
            root,
            asker,
            lambda view: self._library.page(root, level, index, view),
            lambda offer: offer.page(level, index),
        )

    def stat(self, root: bytes, asker: bytes, stop: Stop = never) -> Entry:
        """
        Tell of a file that has a content, or is to have it.

        @raise Flow512Error: as L{Library.stat}.
        """
        return self._ask(
            root,
            asker,
            lambda view: self._library.stat("", root, stop, view),
            Offer.entry,
        )

    def md5(self, root: bytes, asker: bytes) -> bytes | None:
        """
        Give the MD5 of a content that was downloaded; L{None} if only the library can tell.
        """
        offer = None if self._offers is None else self._offers.find(root, asker)
        return None if offer is None else offer.md5

    def offer(self, root: bytes, asker: bytes) -> Offer | None:
        """
        Find out who has a content.

        @return: L{None} if the library has it, and so all of it.
        @raise Flow512Error: as L{Library.stat}.
        """

        def shared(view: View) -> None:
            self._library.stat("", root, view=view)

        def offered(offer: Offer) -> Offer | None:
            return offer

        return self._ask(root, asker, shared, offered)

    def _ask(
        self,
        root: bytes,
        asker: bytes,
        library: Callable[[View], _T],
        offered: Callable[[Offer], _T],
    ) -> _T:
        try:
            return library(self._library.seen_by(asker))
        except Flow512Error:
            offer = None if self._offers is None else self._offers.find(root, asker)
            if offer is None:
                raise
        return offered(offer)
