"""
Bans: with whom a node does not speak, why, and for how long.

They are of node ids, which cannot be changed as addresses can; so they hold as far as identities
are proven, which is under TLS. They are kept in the file L{BANS_FILE} of the state folder, which
C{flow512 ban} and C{unban} change while a node runs::

    {"bans": [{"node": "P56IOI7-...", "since": 1795370317, "until": 1795975117,
               "reason": "fills the disk"}]}

Times are in seconds since 1970; C{until} is null for a ban without end. Fields that this version
does not know are ignored.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from flow512.content.disk import blaming
from flow512.content.paths import escape
from flow512.errors import Misuse
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.link.secret_file import replace_secret

BANS_FILE: Final = "bans.json"

MAX_REASON: Final = 200
"""Characters in the reason of a ban."""

MAX_BAN: Final = 100 * 365 * 86400
"""Seconds in the longest ban that has an end."""

_MAX_FILE: Final = 16 * 1024 * 1024
_END_OF_TIME: Final = 253402300799  # the last second that a calendar with four digits has

_Time = Annotated[int, Meta(ge=0, le=_END_OF_TIME)]


class Ban(msgspec.Struct, frozen=True):
    """
    A ban.

    @ivar node: whose.
    @ivar since: when it was made, in seconds since 1970.
    @ivar until: when it ends, likewise; L{None} for a ban without end.
    @ivar reason: why, in the words of who made it; to be escaped for display.
    """

    node: bytes
    since: int
    until: int | None
    reason: str = ""

    def is_over(self, now: float) -> bool:
        """
        @param now: seconds since 1970.
        """
        return self.until is not None and now >= self.until

    def __str__(self) -> str:
        """
        Say how long, and why, in a sentence that is fit for display.
        """
        end = "without end" if self.until is None else f"until {_text_of(self.until)}"
        reason = f": {escape(self.reason).rstrip('.')}" if self.reason else ""
        return f"Banned {end}{reason}."


def _text_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


class _Ban(msgspec.Struct, frozen=True):
    node: str
    since: _Time
    until: _Time | None = None
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class _File(msgspec.Struct, frozen=True):
    bans: list[_Ban]


class _Stamp(NamedTuple):
    """What changes whenever the file does."""

    size: int
    mtime: int
    ctime: int
    inode: int


class Bans:
    """
    The bans of one node. One thread may use it; besides, any may ask L{holds}.
    """

    def __init__(self, path: str, clock_seconds: Callable[[], float]) -> None:
        """
        Read the bans.

        @param path: the file, which need not be there: then nobody is banned.
        @param clock_seconds: gives the time in seconds since 1970.
        @raise Misuse: what is in the file is no list of bans.
        @raise ResourceFailure: it cannot be read.
        """
        self._path = path
        self._clock_seconds = clock_seconds
        self._stamp: _Stamp | None = None
        self._bans: dict[bytes, Ban] = {}
        self.reload()

    def holds(self, node: bytes) -> Ban | None:
        """
        Say whether a node is banned now; this waits for nothing.

        @param node: its node id.
        """
        ban = self._bans.get(node)
        return None if ban is None or ban.is_over(self._clock_seconds()) else ban

    def active(self) -> list[Ban]:
        """
        List the bans that are not over, the oldest first.
        """
        now = self._clock_seconds()
        bans = [ban for ban in self._bans.values() if not ban.is_over(now)]
        return sorted(bans, key=lambda ban: (ban.since, ban.node))

    def reload(self) -> list[Ban]:
        """
        Read the bans again if the file is another now.

        @return: the bans of those who were not banned before.
        @raise Misuse: what is in the file is no list of bans; those that were read before stand.
        @raise ResourceFailure: it cannot be read; likewise.
        """
        before = {ban.node for ban in self.active()}
        self._read()
        return [ban for ban in self.active() if ban.node not in before]

    def ban(self, node: bytes, reason: str = "", seconds: int | None = None) -> Ban:
        """
        Ban a node, whether it is banned already or not.

        @param node: its node id.
        @param reason: why; at most L{MAX_REASON} characters.
        @param seconds: for how long, 1 to L{MAX_BAN}; L{None} for good.
        @raise Misuse: a limit is passed, or what is in the file is no list of bans; it is left as
            it was.
        @raise ResourceFailure: it cannot be written; likewise.
        """
        if len(reason) > MAX_REASON:
            raise Misuse(f"A reason has at most {MAX_REASON} characters.")
        try:
            reason.encode()
        except UnicodeEncodeError:
            raise Misuse(f"'{escape(reason)}' is no text; type another reason.") from None
        if seconds is not None and not 1 <= seconds <= MAX_BAN:
            raise Misuse("A ban lasts from a second to a hundred years, or has no end.")
        with self._changing():
            now = int(self._clock_seconds())
            ban = Ban(node, now, None if seconds is None else now + seconds, reason)
            self._write({**self._bans, node: ban})
        return ban

    def unban(self, node: bytes) -> Ban | None:
        """
        End the ban of a node.

        @param node: its node id.
        @return: the ban that held until now; L{None} if there was none.
        @raise Misuse: what is in the file is no list of bans; it is left as it was.
        @raise ResourceFailure: it cannot be written; likewise.
        """
        with self._changing():
            held = self.holds(node)
            if held is not None:
                self._write({of: ban for of, ban in self._bans.items() if of != node})
        return held

    # The file

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other writers away, and begin with what the last one wrote."""
        with blaming(f"locking '{escape(self._path)}'"):
            # A file of its own: the other one is replaced.
            lock = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._read()
                yield
            finally:
                os.close(lock)

    def _read(self) -> None:
        with blaming(f"reading '{escape(self._path)}'"):
            try:
                file = open(self._path, "rb")  # noqa: SIM115  # closed below; it may be missing
            except FileNotFoundError:
                self._stamp, self._bans = None, {}
                return
            with file:
                status = os.fstat(file.fileno())
                stamp = _Stamp(
                    status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                )
                if stamp == self._stamp:
                    return
                content = file.read(_MAX_FILE + 1)
        self._bans = self._decode(content)
        self._stamp = stamp

    def _decode(self, content: bytes) -> dict[bytes, Ban]:
        try:
            if len(content) > _MAX_FILE:
                raise Misuse("It is too long.")
            bans = [
                Ban(parse_node_id(each.node), each.since, each.until, each.reason)
                for each in msgspec.json.decode(content, type=_File).bans
            ]
        except (msgspec.DecodeError, UnicodeDecodeError, Misuse) as error:
            raise Misuse(
                f"'{escape(self._path)}' holds no list of bans ({escape(str(error)).rstrip('.')});"
                " correct it, or delete it, and nobody is banned any more."
            ) from None
        return {ban.node: ban for ban in bans}

    def _write(self, bans: dict[bytes, Ban]) -> None:
        now = self._clock_seconds()
        kept = {node: ban for node, ban in bans.items() if not ban.is_over(now)}
        written = _File(
            [
                _Ban(format_node_id(ban.node), ban.since, ban.until, ban.reason)
                for ban in kept.values()
            ]
        )
        replace_secret(self._path, msgspec.json.format(msgspec.json.encode(written)) + b"\n")
        # The stamp stays the old one: the file is read once more before anything is built on it.
        self._bans = kept
