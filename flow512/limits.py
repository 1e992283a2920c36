"""
Every limit that a node or registry keeps to, in one place.

The defaults are safe on a network that one does not own, and let 1,000 nodes stand behind one
address. Each can be set with C{--limit NAME=VALUE}, where the name has dashes, as in
C{--limit connections-per-address=5000}. Limits in time are kept by the clock that is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from flow512.errors import Misuse

SCALE: Final = "nodes-per-address"
"""The setting that raises everything that many nodes behind one address need."""

RESCAN: Final = 60.0
"""Seconds between two looks at everything where the shares are not followed live."""

_MEBIBYTE: Final = 2**20
_MULTIPLES: Final = {"": 1, "KiB": 2**10, "MiB": _MEBIBYTE, "GiB": 2**30}
_VALUE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(KiB|MiB|GiB)?")


class _Range(NamedTuple):
    """What a limit counts, and what it may be set to."""

    unit: str
    least: int
    most: int


class Limits(msgspec.Struct, frozen=True):
    """
    How much a node or registry takes on.

    An address is an IPv4 address or an IPv6 network of 64 bits, see
    L{flow512.link.origin.source_of}; a subnet is a /24 of IPv4 or a /48 of IPv6. What is limited
    per minute may come all at once, and is then granted anew steadily.

    @ivar connections: that are open after the handshake, in all. Each takes a file descriptor and
        up to 100 KiB of memory; `ulimit -n` has to allow them.
    @ivar connections_per_address: of these, from one address. A node has one connection to its
        registry, and one more for what it fetches.
    @ivar half_open: connections whose handshake is not over, in all. When there are more, the
        oldest one of the address that has most is closed, so they never keep anyone out. With TLS
        each takes 50 to 70 KiB.
    @ivar half_open_per_address: of these, from one address: a lab may start all at once.
    @ivar handshakes_per_address_per_second: TLS handshakes that are begun with one address. They
        take about half a millisecond each, and whoever sends the same bytes again and again has no
        work with it. As many as C{half_open_per_address} may come at once; who comes too soon after
        that is closed.
    @ivar handshake: seconds for the handshake, TLS and hello together. One that takes longer over a
        bad line is hardly usable afterwards.
    @ivar idle: seconds without a request, after which a conversation about files is ended. Who
        resumes a large file may be busy with it for long before there is something to ask for.
    @ivar requests: under way at once in one conversation. Fetching at full speed takes about 20.
    @ivar requests_in_all: under way at once in all conversations. When there are more, only
        those are taken whose conversation has less than its share, and never more than twice as
        many. Each takes about 2 KiB.
    @ivar buffered: bytes that were read from the disk and have not been taken by the network,
        for all conversations together; whoever needs more waits for a turn. With TLS the process
        takes up to twice as much for it.
    @ivar listings_per_minute: pages of up to 1,000 entries that are listed, for one node or
        connection. A list of a million files fits in the default.
    @ivar registrations: in a registry, in all. A hundred thousand take about 100 MiB.
    @ivar registrations_per_address: of these, from one address: two for each node behind it, for
        a command may watch beside it.
    @ivar registrations_per_node: of these, of one node id: one that serves, others that watch.
    @ivar registrations_per_second: that are made or changed, in all. Whoever is over that is told
        when it is his turn, each a moment after the one before.
    @ivar registrations_per_address_per_minute: that are made or changed from one address.
    @ivar registrations_per_node_per_minute: that are made or changed by one node id.
    @ivar holdings: contents that a registry remembers nodes to hold, in all; one that two hold
        counts twice. Two million take up to 500 MB.
    @ivar holdings_per_node: of these, of one node id. A node tells no more of its shares.
    @ivar lookups_per_minute: questions who holds a content, that a registry answers one node id.
    @ivar dials: peers that one search dials, of those whom nobody named but the registry; also how
        many a node dials in an hour, of those whom only other peers have told of.
    @ivar dials_per_address: of these, at one address. The registry may lie, and a victim at that
        address is dialled no more often than this.
    @ivar dials_per_subnet: of these, in one subnet, for the same reason.
    @ivar dial_backs: connections that a registry makes at once, to find out whether a node can be
        reached where it says.
    @ivar dial_backs_per_address: of these, to one address.
    @ivar dial_backs_per_subnet: of these, to one subnet.
    @ivar dial_backs_per_address_per_minute: that are begun to one address. It is the address that
        registered, so what can be hit is at most its neighbour behind it.
    @ivar dial_backs_per_subnet_per_minute: that are begun to one subnet.
    """

    connections: int = 4096
    connections_per_address: int = 2048
    half_open: int = 1536
    half_open_per_address: int = 1024
    handshakes_per_address_per_second: int = 200
    handshake: float = 10.0
    idle: float = 1800.0
    requests: int = 256
    requests_in_all: int = 16384
    buffered: int = 48 * _MEBIBYTE
    listings_per_minute: int = 1200
    registrations: int = 100_000
    registrations_per_address: int = 2048
    registrations_per_node: int = 64
    registrations_per_second: int = 500
    registrations_per_address_per_minute: int = 8192
    registrations_per_node_per_minute: int = 60
    holdings: int = 2_000_000
    holdings_per_node: int = 100_000
    lookups_per_minute: int = 1200
    dials: int = 1024
    dials_per_address: int = 32
    dials_per_subnet: int = 256
    dial_backs: int = 64
    dial_backs_per_address: int = 16
    dial_backs_per_subnet: int = 32
    dial_backs_per_address_per_minute: int = 2048
    dial_backs_per_subnet_per_minute: int = 4096

    def __post_init__(self) -> None:
        """
        @raise Misuse: a limit is out of its range.
        """
        for name, allowed in _RANGES.items():
            if not allowed.least <= getattr(self, name) <= allowed.most:
                raise _out_of_range(option_name(name), allowed)

    @classmethod
    def with_settings(cls, settings: Iterable[str]) -> Limits:
        """
        Read what a user set.

        A limit that encloses another, such as that in all the one per address, is raised with it
        unless it was set as well.

        @param settings: C{NAME=VALUE} each; of two for one name the later counts. Bytes may be
            given as C{16MiB}. C{nodes-per-address=N} raises whatever N nodes behind one address
            need, but for what was set by itself.
        @raise Misuse: there is no such limit, or no such value of it.
        """
        ranges = {option_name(name): each for name, each in _RANGES.items()}
        ranges[SCALE] = _Range("", 1, 100_000)
        given = dict(_read(setting, ranges) for setting in settings)
        nodes = given.pop(SCALE, 0)
        usual = cls()
        values: dict[str, Any] = {name.replace("-", "_"): value for name, value in given.items()}
        for name, per_node in _PER_NODE.items():
            values.setdefault(name, max(getattr(usual, name), int(per_node * nodes)))
        for inner, (outer, times) in _ENCLOSED.items():
            value = times * values.get(inner, getattr(usual, inner))
            values.setdefault(outer, max(getattr(usual, outer), value))
        return cls(**values)


_A_COUNT: Final = _Range("", 1, 1_000_000)
_MANY: Final = _Range("", 1, 100_000_000)
_DIAL_BACKS: Final = _Range("", 1, 10_000)
_RANGES: Final = {
    **dict.fromkeys(Limits.__struct_fields__, _A_COUNT),
    "handshake": _Range("seconds", 1, 600),
    "idle": _Range("seconds", 1, 7 * 86400),
    "requests": _Range("", 32, 65536),
    "requests_in_all": _Range("", 32, 1_000_000),
    "buffered": _Range("bytes", 4 * _MEBIBYTE, 2**40),
    "registrations": _MANY,
    "registrations_per_address": _MANY,
    "holdings": _MANY,
    "holdings_per_node": _MANY,
    "dial_backs": _DIAL_BACKS,
    "dial_backs_per_address": _DIAL_BACKS,
    "dial_backs_per_subnet": _DIAL_BACKS,
}
"""What each limit may be set to."""

_PER_NODE: Final = {
    "connections_per_address": 2,
    "half_open_per_address": 1,
    "registrations_per_address": 2,
    "registrations_per_address_per_minute": 8,
    "dial_backs_per_address_per_minute": 2,
}
"""What one node more behind an address adds to what is needed."""

_ENCLOSED: Final = {
    "connections_per_address": ("connections", 2),
    "half_open_per_address": ("half_open", 1),
    "requests": ("requests_in_all", 1),
    "registrations_per_node": ("registrations_per_address", 1),
    "registrations_per_address": ("registrations", 1),
    "registrations_per_node_per_minute": ("registrations_per_address_per_minute", 1),
    "holdings_per_node": ("holdings", 1),
    "dials_per_address": ("dials_per_subnet", 1),
    "dials_per_subnet": ("dials", 1),
    "dial_backs_per_address": ("dial_backs_per_subnet", 1),
    "dial_backs_per_subnet": ("dial_backs", 1),
    "dial_backs_per_address_per_minute": ("dial_backs_per_subnet_per_minute", 1),
}
"""Which limit has to be how many times as high for another to be of use; inner ones first."""


def option_name(name: str) -> str:
    """
    Say what users call a limit.

    @param name: of the field of L{Limits}.
    """
    return name.replace("_", "-")


def _read(setting: str, ranges: dict[str, _Range]) -> tuple[str, float]:
    name, equals, text = (part.strip() for part in setting.partition("="))
    allowed = ranges.get(name)
    if allowed is None:
        from difflib import get_close_matches  # which takes a while to load

        near = get_close_matches(name, ranges, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ranges)}."
        raise Misuse(f"No limit is called {name!r}; {hint}")
    match = _VALUE.fullmatch(text)
    if not equals or match is None or (match[2] and allowed.unit != "bytes"):
        raise _out_of_range(name, allowed)
    value = float(match[1]) * _MULTIPLES[match[2] or ""]
    if allowed.unit != "seconds":
        if value != int(value):
            raise _out_of_range(name, allowed)
        value = int(value)
    if not allowed.least <= value <= allowed.most:
        raise _out_of_range(name, allowed)
    return name, value


def _out_of_range(name: str, allowed: _Range) -> Misuse:
    unit = f" {allowed.unit}" if allowed.unit else ""
    kind = "number" if allowed.unit == "seconds" else "whole number"
    return Misuse(f"The limit {name} is a {kind} from {allowed.least} to {allowed.most}{unit}.")
