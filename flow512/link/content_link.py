"""
Content links: a content id, and what helps to fetch it, on one line.

docs/links.rst has the grammar::

    flow512:ROOT?name=NAME&size=BYTES&peer=ID@HOST:PORT&http=URL

Only the root says what is fetched; everything else is a hint that somebody wrote, and is believed
no more than that.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from flow512.content.paths import SHOWN, check_new_name, escape
from flow512.content.tree import SCHEME, format_content_id, parse_content_id
from flow512.errors import Misuse
from flow512.link.address import HostPort, parse_address
from flow512.link.http_url import HttpUrl, parse_http_url
from flow512.link.node_id import format_node_id, split_node_id
from flow512.units import MAX_FILE_SIZE

MAX_CONTENT_LINK: Final = 16 * 1024
"""Characters in a content link."""

MAX_PARAMETER: Final = 2048
"""Characters in one parameter of it, as it is written."""

MAX_PEERS: Final = 16
MAX_HTTP: Final = 16

_BROKEN_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_NUMBER: Final = re.compile("[0-9]{1,19}")
_JOIN: Final = re.compile("flow512://", re.IGNORECASE)


class LinkedPeer(msgspec.Struct, frozen=True):
    """
    A node that a link names. C{str()} gives it as links and C{--from} have it.

    @ivar address: where it is.
    @ivar node: the node id that it has to prove, 32 bytes; L{None} for any.
    """

    address: HostPort
    node: bytes | None = None

    def __str__(self) -> str:
        if self.node is None:
            return str(self.address)
        return f"{format_node_id(self.node)}@{self.address}"


class ContentLink(msgspec.Struct, frozen=True):
    """
    A content, and where it may be had. C{str()} gives the link, which contains the passwords of
    L{http}, if there are any.

    @ivar root: the content, 32 bytes.
    @ivar name: what whoever wrote the link calls the file, as it stands there; empty if he does
        not say. L{file_name} gives it for use.
    @ivar size: the file's bytes, 0 to L{MAX_FILE_SIZE}; L{None} if not told. The root decides.
    @ivar peers: nodes to ask besides those that are known, at most L{MAX_PEERS}.
    @ivar http: where web servers have the file, at most L{MAX_HTTP}.
    """

    root: bytes
    name: str = ""
    size: int | None = None
    peers: tuple[LinkedPeer, ...] = ()
    http: tuple[HttpUrl, ...] = ()

    def __post_init__(self) -> None:
        """
        @raise Misuse: it is too much for a link.
        """
        if len(self.peers) > MAX_PEERS or len(self.http) > MAX_HTTP:
            raise Misuse(f"A link names at most {MAX_PEERS} peers and {MAX_HTTP} web addresses.")
        parameters = self._parameters()
        if any(len(each) > MAX_PARAMETER for each in parameters):
            raise Misuse(f"Nothing in a link may be longer than {MAX_PARAMETER} characters.")
        if len(str(self)) > MAX_CONTENT_LINK:
            raise Misuse(f"A link has at most {MAX_CONTENT_LINK} characters; name less in it.")

    def __str__(self) -> str:
        parameters = "&".join(self._parameters())
        return f"{self.content_id}?{parameters}" if parameters else self.content_id

    @property
    def content_id(self) -> str:
        """The content alone, as C{flow512:} and 52 letters and digits."""
        return format_content_id(self.root)

    def file_name(self) -> str:
        """
        Say what the file is to be called on this machine.

        @return: a single name, which may touch the disk; empty if the link does not say.
        @raise UnsafeName: it says one that must not.
        """
        if self.name:
            check_new_name(self.name)
        return self.name

    def _parameters(self) -> list[str]:
        given = [("name", self.name)] if self.name else []
        if self.size is not None:
            given.append(("size", str(self.size)))
        given += [("peer", str(each)) for each in self.peers]
        given += [("http", str(each)) for each in self.http]
        try:
            return [f"{key}={quote(value, safe='/:@')}" for key, value in given]
        except UnicodeEncodeError:  # from names on disks; those in links are decoded strictly
            raise Misuse(
                f"'{escape(self.name, SHOWN)}' cannot stand in a link: it is not UTF-8."
            ) from None


def is_content_link(text: str) -> bool:
    """
    Say whether a text is meant to be a content id or a content link, be it a faulty one.
    """
    return text.lstrip()[: len(SCHEME)].lower() == SCHEME


def parse_content_link(text: str) -> ContentLink:
    """
    Read a content link; a bare content id is one.

    @param text: the link; white space counts nowhere in it, as mail programs break long lines.
        Parameters that this version does not know are ignored, and so is a fragment.
    @raise Misuse: it is none. The sentence says what is wrong with it, and repeats no address
        that may hold a password.
    """
    if len(text) > MAX_CONTENT_LINK:
        raise _no_link(f"it is longer than {MAX_CONTENT_LINK} characters")
    if _JOIN.match(text.lstrip()):
        raise Misuse("That is the link to a network, and not to a file; `flow512 join` takes it.")
    link, _, _ = "".join(text.split()).partition("#")
    content_id, question, query = link.partition("?")
    root = parse_content_id(content_id)
    values: dict[str, list[str]] = {"name": [], "size": [], "peer": [], "http": []}
    for parameter in query.split("&") if question else []:
        if len(parameter) > MAX_PARAMETER:
            raise _no_link(f"one of its parameters is longer than {MAX_PARAMETER} characters")
        key, _, value = parameter.partition("=")
        if key in values:
            values[key].append(_decoded(key, value))
    for key in ("name", "size"):
        if len(values[key]) > 1:
            raise _no_link(f"it has more than one {key}")
    if len(values["peer"]) > MAX_PEERS:
        raise _no_link(f"it names more than {MAX_PEERS} peers")
    if len(values["http"]) > MAX_HTTP:
        raise _no_link(f"it names more than {MAX_HTTP} web addresses")
    return ContentLink(
        root,
        "".join(values["name"]),
        _size(values["size"]),
        tuple(_peer(number, value) for number, value in enumerate(values["peer"], 1)),
        tuple(_http(number, value) for number, value in enumerate(values["http"], 1)),
    )


def _no_link(why: str) -> Misuse:
    return Misuse(f"That is no link to a file: {why}; copy all of it, and nothing else.")


def _decoded(key: str, value: str) -> str:
    # Not parse_qsl: a plus is a plus here, in names as well as in web addresses.
    try:
        if _BROKEN_ESCAPE.search(value):
            raise ValueError
        decoded = unquote(value, errors="strict")
        decoded.encode()
    except ValueError:
        raise _no_link(f"its {key} is damaged") from None
    return decoded


def _size(values: list[str]) -> int | None:
    if not values:
        return None
    if not _NUMBER.fullmatch(values[0]) or int(values[0]) > MAX_FILE_SIZE:
        raise _no_link("its size is none that a file can have")
    return int(values[0])


def _peer(number: int, value: str) -> LinkedPeer:
    try:
        node, place = split_node_id(value)
        address = parse_address(place)
        if isinstance(address, str):  # an endpoint string is for the user's own machine to say
            raise Misuse("")
    except Misuse:
        raise _no_link(f"its peer number {number} is damaged") from None
    return LinkedPeer(address, node)


def _http(number: int, value: str) -> HttpUrl:
    try:
        return parse_http_url(value)
    except Misuse:
        raise _no_link(f"its web address number {number} is damaged") from None
