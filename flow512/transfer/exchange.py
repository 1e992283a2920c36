"""
What a node gives and takes beside the contents themselves: who else has one, and what it passes on
of its own downloads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred

from flow512.limits import Limits
from flow512.transfer.holders import KnownHolders
from flow512.wire.fields import Peer

if TYPE_CHECKING:
    from flow512.transfer.offers import Offers


class Exchange(msgspec.Struct, frozen=True):
    """
    How a download finds sources that nobody named, and is one itself.

    @ivar who: asks the registry who holds a content; see L{flow512.registry.client}.
    @ivar may_dial: tells whether somebody who was told of may be dialled at all: not this node, and
        nobody whom it does not speak with.
    @ivar holders: where sources are noted that were reached, for others who ask.
    @ivar limits: how many may be dialled whom nobody but others has named: those called C{dials}.
    @ivar offers: what is passed on; L{None} for nothing.
    @ivar port: gives the TCP port where others get that, and opens it if need be; 0 for none.
    """

    who: Callable[[bytes], Deferred[tuple[Peer, ...]]]
    may_dial: Callable[[Peer], bool]
    holders: KnownHolders
    limits: Limits
    offers: Offers | None = None
    port: Callable[[], int] = lambda: 0
