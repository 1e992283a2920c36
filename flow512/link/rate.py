"""
How fast bytes may go: what users say of it, and the bucket that counts it.

A bucket holds leave to send at most L{Bucket.capacity} bytes, and fills at its rate. It is kept as
one number, the time at which it is full again (the virtual scheduling of ITU-T I.371, annex A):
taking moves that time on, by exactly what was taken. So nothing is rounded off that would add up,
however often it is looked at, and nothing has to be done while time passes.
"""

from __future__ import annotations

import re
from typing import Final

from flow512.errors import Misuse
from flow512.units import BLOCK
from flow512.wire.frame import HEADER_SIZE

TURN: Final = HEADER_SIZE + BLOCK
"""Bytes that one connection may send before others have their turn: a block, in one frame."""

BURST: Final = 0.2
"""Seconds' worth that a bucket holds, if that is more than L{TURN}."""

LATE: Final = 0.05
"""
Seconds that a turn may be late, at most, without loss. A bucket of one block is full when its turn
is due, so what a busy reactor's timers are late by would be lost at every block.
"""

LEAST_RATE: Final = 16 * 1024
"""
Bytes a second, the least that can be set. A block then takes 16 seconds; more slowly, both sides
would begin to take each other for dead.
"""

MOST_RATE: Final = 10**15
"""Bytes a second, the most that can be set."""

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_RATE: Final = re.compile(
    r"(?P<number>[0-9]{1,16}(?:\.[0-9]{1,9})?)\s?(?:(?P<unit>[kmg]i?)b?|b)?(?:/s)?", re.IGNORECASE
)


def check_rate(rate: int) -> None:
    """
    Make sure that a rate can be kept to.

    @param rate: bytes a second; 0 for no limit.
    @raise Misuse: it is out of range.
    """
    if rate != 0 and not LEAST_RATE <= rate <= MOST_RATE:
        raise Misuse(
            f"A rate is 0, for no limit, or at least {LEAST_RATE} bytes a second (16KiB),"
            f" and at most {MOST_RATE:.0e}; not {rate}."
        )


def parse_rate(text: str) -> int:
    """
    Read a rate as users write it.

    @param text: C{500K}, C{2M}, C{1.5MiB}: K, M and G are powers of 1000, KiB, MiB and GiB of 1024;
        C{B} and C{/s} may follow. C{0} and C{none} are no limit.
    @return: bytes a second; 0 for no limit.
    @raise Misuse: it is no rate, or out of range.
    """
    text = text.strip()
    if text.lower() == "none":
        return 0
    match = _RATE.fullmatch(text)
    if match is None:
        raise Misuse(f"{text!r} is no rate; give bytes a second, such as 500K, 2M, 1.5MiB or none.")
    unit = (match["unit"] or "").lower()
    rate = round(float(match["number"]) * _UNITS[unit + "b" if unit.endswith("i") else unit])
    check_rate(rate)
    return rate


class Bucket:
    """
    Leave to send, which comes at a steady rate.

    Whatever happens, what was taken in any time C{t} is at most C{rate * (t + LATE) + capacity},
    but for one L{take} that was larger than the bucket, which is paid for afterwards.

    @ivar rate: bytes a second.
    @ivar capacity: bytes that may go at once after a pause.
    """

    def __init__(self, rate: float, now: float) -> None:
        """
        @param rate: more than 0.
        @param now: the time. The bucket is full.
        """
        self._set_rate(rate)
        self._full_at = now

    def _set_rate(self, rate: float) -> None:
        self.rate = rate
        self.capacity = max(rate * BURST, float(TURN))

    def change(self, rate: float, now: float) -> None:
        """
        Fill at another rate from now on; what is in the bucket, or is owed, stays.
        """
        missing = max(0.0, self._full_at - now) * self.rate
        # A larger bucket is not filled by being larger, nor a smaller one emptied.
        content = self.capacity - missing
        self._set_rate(rate)
        self._full_at = now + (self.capacity - min(content, self.capacity)) / rate

    def due(self, size: float) -> float:
        """
        Tell when so much may go.

        @param size: bytes. Of what is larger than the bucket the rest is owed.
        @return: that time; it may be past.
        """
        return self._full_at - (self.capacity - min(size, self.capacity)) / self.rate

    def take(self, size: float, now: float) -> None:
        """
        Let bytes go that are due.
        """
        self._full_at = max(self._full_at, now) + size / self.rate

    def take_late(self, size: float, now: float) -> None:
        """
        Let bytes go that were waited for until now, as if that had been when they were due.

        More than L{LATE} seconds are not made up for.
        """
        self.take(size, min(now, max(self.due(size), now - LATE)))

    def give_back(self, size: float) -> None:
        """
        Put back what was taken and did not go; if C{size} is negative, owe it instead.
        """
        self._full_at -= size / self.rate
