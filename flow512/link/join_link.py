"""
Join links: all that a node needs to get into a closed network, on one line.

docs/commands.rst has the grammar::

    flow512://join/NAME?key=KEY&registry=ID@HOST:PORT&registry=HOST:PORT

A link holds the network key, so whoever has it is a member. It is written out where the user
asked for it and nowhere else: no C{repr()} contains it, and no error either, not even in what it
was raised from.
"""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from flow512.errors import Misuse
from flow512.link.address import HostPort, parse_address
from flow512.link.identity import check_names
from flow512.link.node_id import format_node_id, split_node_id

MAX_LINK: Final = 2900
"""Characters in a join link; a QR code holds 2,953, and a terminal takes lines of 4,095."""

MAX_REGISTRIES: Final = 16
"""Registries in a join link; a node tries them all."""

_MAX_PARAMETERS: Final = 64
_SCHEME: Final = "flow512"
_ACTION: Final = "join"

_KEY: Final = re.compile(r"[A-Z2-7]{51}[AQ]")
"""A key as base32: 52 characters, of which the last one carries a single bit."""


class Registry(msgspec.Struct, frozen=True):
    """
    A registry of a closed network. C{str()} gives it as join links have it.

    @ivar address: where it is.
    @ivar node: the node id that it has to prove, 32 bytes; L{None} for any.
    """

    address: HostPort
    node: bytes | None = None

    def __str__(self) -> str:
        if self.node is None:
            return str(self.address)
        return f"{format_node_id(self.node)}@{self.address}"


class JoinLink(msgspec.Struct, frozen=True):
    """
    A closed network, as its members know it. C{str()} gives the link, which contains the key.

    @ivar name: the network's, 1 to 64 characters.
    @ivar key: the network key, 32 bytes: a secret, which C{repr()} leaves out.
    @ivar registries: where its members register; none if the beacon finds them.
    """

    name: str
    key: bytes
    registries: tuple[Registry, ...] = ()

    def __post_init__(self) -> None:
        """
        @raise Misuse: no network can be called so, or it is too much for a link.
        """
        if not self.name:
            raise Misuse("A closed network needs a name; give it one with --name.")
        check_names(self.name)
        if len(self.registries) > MAX_REGISTRIES:
            raise Misuse(f"A join link holds at most {MAX_REGISTRIES} registries.")
        if len(str(self)) > MAX_LINK:
            raise Misuse(f"A join link has at most {MAX_LINK} characters; name fewer registries.")

    def __repr__(self) -> str:
        return f"JoinLink(name={self.name!r}, registries={self.registries!r})"

    def __str__(self) -> str:
        parameters = [("key", format_key(self.key))]
        parameters += [("registry", str(each)) for each in self.registries]
        query = urlencode(parameters, safe="@:", quote_via=quote)
        return f"{_SCHEME}://{_ACTION}/{quote(self.name, safe='')}?{query}"


def format_key(key: bytes) -> str:
    """
    Write a network key.

    @param key: 32 bytes.
    @return: 52 characters of base32 (RFC 4648), without padding.
    """
    return base64.b32encode(key).decode().rstrip("=")


def is_key(text: str) -> bool:
    """
    Say whether a text is a network key.
    """
    return _KEY.fullmatch(text.strip().upper()) is not None


def parse_key(text: str) -> bytes:
    """
    Read a network key that L{format_key} wrote.

    @param text: in any case, with blanks around it.
    @return: 32 bytes.
    @raise Misuse: it is none; the sentence does not repeat it.
    """
    if not is_key(text):
        raise Misuse("That is no network key, which has 52 characters of A-Z and 2-7.")
    return base64.b32decode(text.strip().upper() + "====")


def is_join_link(text: str) -> bool:
    """
    Say whether a text is meant to be a join link, be it a faulty one.
    """
    return text.lstrip().lower().startswith(f"{_SCHEME}:")


def parse_registry(text: str) -> Registry:
    """
    Read a registry that somebody typed: C{ADDRESS} or C{ID@ADDRESS}.

    @param text: the address as L{parse_address} reads it; other endpoints than TCP do not fit
        into a join link.
    @raise Misuse: it is none. The sentence repeats what was typed: not for what a link holds.
    """
    node, place = split_node_id(text.strip())
    address = parse_address(place)
    if isinstance(address, str):
        raise Misuse("A join link can name a registry as host:port only; give it like that.")
    return Registry(address, node)


def parse_join_link(text: str) -> JoinLink:
    """
    Read a join link.

    @param text: the link; white space counts nowhere in it, as mail programs break long lines.
        Parameters that this version does not know are ignored.
    @raise Misuse: it is none. The sentence says what is wrong with it and repeats nothing of it.
    """
    # What goes wrong below is raised out here: the errors of urllib quote what they fail at, and
    # would be the context of ours.
    result = _read("".join(text.split()))
    if isinstance(result, str):
        raise Misuse(f"That is no join link: {result}.")
    return result


def _read(text: str) -> JoinLink | str:
    """Read a link, or say what is wrong with it, as the end of a sentence."""
    if len(text) > MAX_LINK:
        return f"it is longer than {MAX_LINK} characters"
    try:
        link = urlsplit(text)
        name = unquote(link.path.removeprefix("/"), errors="strict")
        given = parse_qsl(
            link.query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        return "it is damaged; copy all of it, and nothing else"
    if (link.scheme, link.netloc.lower()) != (_SCHEME, _ACTION):
        return f"it does not begin with {_SCHEME}://{_ACTION}/"
    keys = [value for parameter, value in given if parameter == "key"]
    places = [value for parameter, value in given if parameter == "registry"]
    if len(keys) != 1:
        return f"it has {len(keys)} keys" if keys else "it has no key; copy all of it"
    try:
        key = parse_key(keys[0])
    except Misuse:
        return "its key is damaged; copy all of it"
    registries = []
    for number, place in enumerate(places, 1):
        try:
            registries.append(parse_registry(place))
        except Misuse:
            return f"its registry number {number} is damaged; copy all of it"
    try:
        return JoinLink(name, key, tuple(registries))
    except Misuse:
        return f"it names no network, or more than {MAX_REGISTRIES} registries"
