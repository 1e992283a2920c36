"""
C{flow512 link}: what to send to somebody who is to fetch a local file. No network and no reactor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from flow512.cli.outcome import DONE, status_of
from flow512.cli.remembered import catalog_in, find_known
from flow512.cli.voice import Voice
from flow512.cli.whoami import LocalAddresses, reached_at
from flow512.content.catalog import Catalog, Stamp
from flow512.content.hashing import hash_file, never
from flow512.content.paths import check_new_name, escape
from flow512.content.tree import format_content_id
from flow512.discovery.addresses import usable_addresses
from flow512.errors import Flow512Error, Misuse, NotFound, UnsafeName, from_os_error
from flow512.link.content_link import MAX_PEERS, ContentLink, LinkedPeer
from flow512.link.http_url import HttpUrl, parse_http_url
from flow512.link.identity import read_identity
from flow512.link.join_link import MAX_LINK
from flow512.link.listening_file import read_listening


class Wanted(msgspec.Struct, frozen=True):
    """
    Which links are wanted.

    @ivar paths: local files.
    @ivar state: the state folder of the node that shares them.
    @ivar urls: where else the file is, if it is a single one.
    """

    paths: Sequence[str]
    state: str
    urls: Sequence[str] = ()


def link(
    wanted: Wanted,
    voice: Voice,
    notice: Callable[[str], None],
    show: Callable[[str], None],
    *,
    local_addresses: LocalAddresses = usable_addresses,
) -> int:
    """
    Say the link of each file; go on with the next after one that fails.

    @param notice: tells a person something beside what was asked for.
    @param show: draws the QR code of a link, if that makes sense.
    @param local_addresses: finds this machine's.
    @return: the exit status: that of the last failure, if any.
    @raise Misuse: a URL is none, or several files are to have the same.
    @raise Flow512Error: the identity or the catalog cannot be read.
    """
    urls = tuple(parse_http_url(each) for each in wanted.urls)
    if urls and len(wanted.paths) > 1:
        raise Misuse("A web address is that of one file; make the links one by one.")
    peers = _peers(wanted.state, local_addresses)
    if not peers:
        notice(
            "No node runs with this state folder, so the link names none to fetch from;"
            " start `flow512 serve` first, or whoever has the link must find one by himself."
        )
    if any(each.credentials for each in urls):
        notice("The link contains the password of the web address.")
    status = DONE
    with catalog_in(wanted.state) as catalog:
        for path in wanted.paths:
            try:
                made, is_shared = _make(path, catalog, peers, urls)
            except Flow512Error as error:
                voice.fail(error)
                status = status_of(error)
                continue
            _tell(path, made, voice)
            if peers and not is_shared:
                notice(f"'{escape(path)}' is in no folder that is shared; `flow512 serve` it too.")
            if len(wanted.paths) == 1 and len(str(made)) <= MAX_LINK:  # else no code holds it
                show(str(made))
    return status


def _peers(state: str, local_addresses: LocalAddresses) -> tuple[LinkedPeer, ...]:
    """Name the node that runs with the state folder, if any."""
    listening = read_listening(state)
    if listening is None:
        return ()
    node = read_identity(state).node
    addresses = reached_at(listening, local_addresses)
    return tuple(LinkedPeer(each, node) for each in addresses[:MAX_PEERS])


def _tell(path: str, made: ContentLink, voice: Voice) -> None:
    voice.say(str(made))
    voice.tell(
        "link",
        path=path,
        link=str(made),
        name=made.name,
        bytes=made.size,
        root=format_content_id(made.root),
        peers=[str(each) for each in made.peers],
        http=[str(each) for each in made.http],
    )


def _make(
    path: str,
    catalog: Catalog | None,
    peers: tuple[LinkedPeer, ...],
    urls: tuple[HttpUrl, ...],
) -> tuple[ContentLink, bool]:
    """Make a file's link, and say whether the catalog knows the file."""
    shown = f"'{escape(path)}'"
    with ExitStack() as opened:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise NotFound(f"There is no file {shown}; check the spelling.") from None
        except OSError as error:
            raise from_os_error(error, f"opening {shown}") from None
        opened.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Misuse(f"{shown} is not a regular file, so it has no link.")
        known = None if catalog is None else find_known(catalog, path)
        if known is not None and known.root is not None and known.stamp == Stamp.of(status):
            root = known.root
        else:
            tree, _ = hash_file(fd, status.st_size, stop=never, md5=False, what=shown)
            root = tree.root
    return ContentLink(root, _name_of(path), status.st_size, peers, urls), known is not None


def _name_of(path: str) -> str:
    """Give a file's name, if others can use it; otherwise the link is better without."""
    name = os.path.basename(path)
    try:
        check_new_name(name)
    except UnsafeName:
        return ""
    return name
