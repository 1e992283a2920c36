"""
The MD5 of a content: as a download computes it, and as its sources tell it. Pure, but for the
reading.

It is computed behind the first block that is missing, from what was just written. One source is
asked to tell it; the next one if it fails, tells another, or takes long: a source that has to
compute it has as much to do as with serving the file. Those who are downloading the content
themselves do not know it before they have all of it. So if nobody who is left can tell it, the
download does without the comparison: the tree has verified every block already.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum
from hashlib import md5
from typing import Final

from flow512.content.partial import Partial
from flow512.errors import BadDigest, DiskFailure, Flow512Error, TimedOut
from flow512.transfer.senders import Sender
from flow512.units import BLOCK

SUM_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes that one visit to the worker adds to the MD5."""

READ_AT_ONCE: Final = 4 * 1024 * 1024
"""
Bytes of these that are read, and then added, in one go. MD5 is slower than all else, and takes a
processor for itself; but between two of these it waits for the interpreter, as all others do.
"""

CHECKSUM_WITHIN: Final = 600.0
"""
Seconds for which a download that has every block waits for the MD5, if its sources are silent. They
make it while they serve, so it is late only if they do so much slower than they send.
"""

MD5_LATE: Final = 1.0
"""Seconds after which another source is asked for the MD5; twice as many for each one more."""

ASKED: Final[Hashable] = "md5"
"""What a sender is asked for under that name: see L{Sender.asked}."""


class DamagedPartial(DiskFailure):
    """A partial file is not what its journal says."""


class Verdict(Enum):
    """What has become of the comparison."""

    OPEN = "open"
    SAME = "same"
    UNKNOWN = "unknown"


class Md5Check:
    """
    The MD5 of one download.

    @ivar is_reading: whether a worker is adding to it.
    """

    is_reading = False

    def __init__(self, partial: Partial) -> None:
        """
        @param partial: what is computed.
        """
        self._partial = partial
        self._hash = md5(usedforsecurity=False)
        self._summed = 0
        self._asked: dict[int, float] = {}  # which senders, and when
        self._told: list[bytes] = []
        self._refusal: Flow512Error | None = None
        self._done_since: float | None = None

    # Computing

    def next_part(self) -> tuple[int, int] | None:
        """
        Say which bytes come next.

        @return: offset and length, for L{add}; L{None} if they are not there yet, or if a worker
            is busy.
        """
        if self.is_reading:
            return None
        first_missing, _ = next(self._partial.missing_runs(), (self._partial.blocks, 0))
        there = min(first_missing * BLOCK, self._partial.size)
        length = min(there - self._summed, SUM_AT_ONCE)
        return (self._summed, length) if length > 0 else None

    def add(self, offset: int, length: int) -> None:
        """
        Add those bytes, in a worker.

        @raise DiskFailure: they cannot be read.
        """
        room = memoryview(bytearray(min(length, READ_AT_ONCE)))
        end = offset + length
        for at in range(offset, end, READ_AT_ONCE):
            part = room[: end - at]
            self._partial.read_into(at, part)
            self._hash.update(part)
        self._summed = end

    @property
    def digest(self) -> bytes | None:
        """The MD5; L{None} until all bytes were added."""
        return self._hash.digest() if self._summed == self._partial.size else None

    # Asking

    def choose(self, here: Sequence[Sender], now: float) -> Sender | None:
        """
        Choose whom to ask now, if anybody. Whoever is chosen is taken for asked.

        @param here: the senders that were not left out.
        """
        if self._told:
            return None
        if any(ASKED in sender.asked for sender in here):
            since = max(self._done_since or now, *self._asked.values())
            if now - since < MD5_LATE * 2 ** len(self._asked):
                return None
        able = [each for each in here if each.number not in self._asked]
        if not able:
            return None
        sender = max(able, key=lambda each: each.fetched)
        self._asked[sender.number] = now
        return sender

    def told(self, digest: bytes) -> None:
        """
        A source has told it.
        """
        self._told.append(digest)

    def refused(self, error: Flow512Error) -> None:
        """
        A source does not tell it.
        """
        if not isinstance(self._refusal, BadDigest):
            self._refusal = error

    # Comparing

    def compare(self, here: Sequence[Sender], now: float, *, is_resumed: bool) -> Verdict:
        """
        Say what has become of it, once every block is here.

        @param here: as for L{choose}, which comes next if it is L{Verdict.OPEN}.
        @param is_resumed: whether some of it was there before the download began.
        @raise DamagedPartial: what was there is not what its journal says.
        @raise BadDigest: all that sources told is wrong.
        @raise TimedOut: it was waited for long enough.
        """
        self._done_since = now if self._done_since is None else self._done_since
        ours = self.digest
        if self._told:
            return Verdict.OPEN if ours is None else self._judge(ours, is_resumed)
        if any(ASKED in sender.asked for sender in here):
            if now - max(self._done_since, *self._asked.values()) >= CHECKSUM_WITHIN:
                raise TimedOut(
                    "Every block is here and verified, but the source does not tell the MD5;"
                    " --no-md5 does without."
                )
            return Verdict.OPEN
        if any(each.number not in self._asked for each in here):
            return Verdict.OPEN
        if isinstance(self._refusal, BadDigest):
            raise self._refusal
        return Verdict.OPEN if ours is None else Verdict.UNKNOWN

    def _judge(self, ours: bytes, is_resumed: bool) -> Verdict:
        if ours in self._told:
            return Verdict.SAME
        if is_resumed:
            raise DamagedPartial(
                "What an earlier download left on this disk has been damaged since; run the"
                " same command again, and only that is fetched anew."
            )
        self._told.clear()
        self._refusal = BadDigest(
            "The MD5 that the source tells is not that of the content, though every block is"
            " right; the source's catalog is wrong. Use --no-md5 to go on."
        )
        return Verdict.OPEN
