"""
C{flow512 get}: fetch one file with a node that lives no longer than that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace

from flow512.cli.formatting import rate_text, size_text, took_text
from flow512.cli.meeting import Meeting, is_address
from flow512.cli.outcome import Interrupted
from flow512.cli.progress import Progress
from flow512.cli.running import STOPPED, Machine
from flow512.cli.voice import Voice
from flow512.content.paths import check_path, escape
from flow512.content.tree import SCHEME, format_content_id, parse_content_id
from flow512.discovery.election import Mode
from flow512.errors import Flow512Error, Misuse, NotFound, TargetExists, Unreachable
from flow512.link.content_link import LinkedPeer, is_content_link, parse_content_link
from flow512.link.http_url import HttpUrl, parse_http_url
from flow512.link.throttle import Throttle
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.transfer.blocks import BlockSource
from flow512.transfer.download import Checksum
from flow512.transfer.fetch import Fetched, Growing, Target
from flow512.transfer.finding import Candidate, Finder
from flow512.wire.messages import Entry


class Wish(msgspec.Struct, frozen=True):
    """
    What is to be fetched, from whom, to where, and how.

    @ivar wanted: a path in some share, or C{flow512:} and a content id.
    @ivar target: where it is to go.
    @ivar run: pieces that a frame may carry, 1 to 2,048.
    @ivar peer: whom to ask: an address, a name, the beginning of an id; anybody if empty.
    @ivar wait: seconds to look for peers, at most.
    @ivar checksum: whether the MD5 is compared at the end.
    @ivar linked: nodes that a link names, to be asked besides those that are known.
    @ivar urls: where web servers have it.
    @ivar is_placed: whether the user says where it is to go. Otherwise that is the current folder,
        where a folder has its own name.
    """

    wanted: str
    target: Target
    run: int
    peer: str = ""
    wait: float = 5.0
    checksum: Checksum = Checksum.MD5
    linked: tuple[LinkedPeer, ...] = ()
    urls: tuple[HttpUrl, ...] = ()
    is_placed: bool = False

    def with_link(self, urls: Sequence[str]) -> Wish:
        """
        Read what is wanted as a content link, if it is one, and web addresses.

        @param urls: where web servers have it, besides those that a link names.
        @raise Misuse: the link or an address is none.
        @raise UnsafeName: the link's name must not touch the disk, and the user gives no other.
        """
        web = tuple(map(parse_http_url, urls))
        if self.wanted.startswith(("http://", "https://")):
            raise Misuse(
                "A web server's word is not enough: ask for a path or flow512:ID, and name the"
                " URL with --http-source."
            )
        if not is_content_link(self.wanted):
            return replace(self, urls=web)
        link = parse_content_link(self.wanted)
        target = self.target
        if not target.name:
            target = replace(target, name=link.file_name())
        return replace(
            self,
            wanted=link.content_id,
            target=target,
            linked=link.peers,
            urls=(*web, *link.http),
        )

    def names(self, who: Candidate) -> bool:
        """
        Say whether the user, or his link, names a source.
        """
        if self.peer:
            return True  # nobody else is asked
        named = (*(each.address for each in self.linked), *(each.shown for each in self.urls))
        return who.address in named


def target_of(output: str | None, *, may_replace: bool) -> Target:
    """
    Read what C{-o} says: a folder that is there, or a file in one.

    @param output: L{None} if it was not given.
    @raise Misuse: it says nothing.
    """
    if output is None:
        return Target(".", replace=may_replace)
    if not output:
        raise Misuse("-o is empty; say where to, or leave it out.")
    if output.endswith("/") or os.path.isdir(output):
        return Target(output, replace=may_replace)
    folder, name = os.path.split(output)
    return Target(folder or ".", name, replace=may_replace)


def check_folder_target(wish: Wish) -> None:
    """
    Make sure that a folder can go where it is to go.

    @param wish: what is wanted is a folder, with a slash at its end.
    @raise TargetExists: something is there that is no folder.
    """
    target = wish.target
    name = target.name or ("" if wish.is_placed else os.path.basename(wish.wanted[:-1]))
    path = os.path.join(target.folder, name)
    if name and os.path.lexists(path) and not os.path.isdir(path):
        raise TargetExists(
            f"'{escape(path)}' is there, and is no folder; move it away, or choose another place"
            " with -o."
        )


def passing(settings: NodeSettings, peer: str) -> NodeSettings:
    """
    Make the settings of a node that only asks: it serves nothing and is nobody's bootstrap. If
    the user named an address, there is nobody else to look for; if he named a peer, nothing is
    passed on to others.
    """
    offers = settings.offer_downloads and not peer
    settings = replace(
        settings, serves=False, bootstrap=Mode.NEVER, state=None, offer_downloads=offers
    )
    if not is_address(peer):
        return settings
    return replace(settings, registries=(), beacon_port=None, peers=(), remembers=False)


class Telling:
    """
    What comes, as it is told to the user.

    @ivar has_begun: whether a byte could have come.
    """

    has_begun = False

    def __init__(self, machine: Machine, voice: Voice, progress: Progress) -> None:
        self._clock = machine.reactor
        self._voice = voice
        self._bar = progress
        self._entry: Entry | None = None
        self._start = 0.0
        # A bar has the terminal to itself, so these are said when it has gone.
        self._dropped: list[str] = []

    @contextmanager
    def until_it_is_here(self) -> Iterator[None]:
        """
        Leave the terminal as it was, and say how to go on if it does not come.
        """
        try:
            yield
        except STOPPED:
            raise Interrupted(self.stopped()) from None
        except Unreachable as error:
            if not self.has_begun:
                raise
            raise type(error)(f"{error} Run the same command again to go on.") from error
        finally:
            self._bar.end()
            for sentence in self._dropped:
                self._voice.warn(sentence)

    def stopped(self) -> str:
        """
        Say how far it was when the user stopped it.
        """
        raise NotImplementedError

    def found(self, candidate: Candidate, entry: Entry) -> None:
        """It is there; its root is not always known yet."""
        self._entry = entry
        self._start = self._clock.seconds()
        self._voice.tell(
            "found",
            peer=candidate.name,
            address=str(candidate.address),
            path=entry.path,
            bytes=entry.size,
            root=None if entry.root is None else format_content_id(entry.root),
        )

    def blamed(self, who: Candidate, reason: Flow512Error) -> None:
        """Somebody sent something wrong, or is of no use, and is not asked any more."""
        why = escape(str(reason))
        self._voice.tell("dropped", peer=who.name, address=str(who.address), reason=why)
        self._dropped.append(f"{who} was dropped: {why}")


class _Download(Telling):
    """One file."""

    _stored = 0

    def __init__(self, machine: Machine, voice: Voice, progress: Progress, wish: Wish) -> None:
        super().__init__(machine, voice, progress)
        self._wish = wish

    def passed_over(self, who: Candidate, reason: Flow512Error) -> None:
        """Somebody is of no use; of those whom the user did not name, that is nothing to tell."""
        # Until the peer of --from is found, this is about one of its addresses.
        if self._wish.names(who) and not (self._wish.peer and self._entry is None):
            self.blamed(who, reason)

    def grown(self, download: Growing) -> None:
        """More of it is here; the first time, it begins."""
        assert self._entry is not None
        self._stored = download.stored
        if not self.has_begun:
            self.has_begun = True
            self._bar.begin(self._entry, download.stored)
        else:
            self._bar.grown(download.stored)

    def done(self, fetched: Fetched) -> None:
        """All of it is here."""
        entry = fetched.entry
        assert entry.root is not None
        seconds = self._clock.seconds() - self._start
        self._voice.tell(
            "done",
            path=fetched.path,
            bytes=entry.size,
            fetched=fetched.fetched,
            resumed=fetched.resumed,
            seconds=round(seconds, 6),
            md5=None if fetched.md5 is None else fetched.md5.hex(),
            root=format_content_id(entry.root),
            sources=[_sent(who, count) for who, count in fetched.sent],
        )
        self._voice.say(f"File '{escape(os.path.basename(fetched.path))}' downloaded successfully.")
        self._voice.say(
            "[+] Every block was verified as it came; the MD5 was left out."
            if fetched.md5 is None
            else "[+] Hash verification successful. The file is intact."
        )
        here = f"; {size_text(fetched.resumed)} were here already" if fetched.resumed else ""
        self._voice.say(
            f"{size_text(fetched.fetched)} in {took_text(seconds)}"
            f" ({rate_text(fetched.fetched, seconds)}){here}: {escape(fetched.path)}"
        )
        if len(fetched.sent) > 1:
            shares = ", ".join(f"{who} {size_text(count)}" for who, count in fetched.sent)
            self._voice.say(f"From {len(fetched.sent)} sources: {shares}")

    def stopped(self) -> str:
        """Say how much of it is here."""
        if self._entry is None or not self.has_begun:
            return "Stopped before anything was downloaded."
        percent = 100 * self._stored // max(1, self._entry.size)
        return f"Stopped at {percent} %; run the same command again to go on."


def _sent(who: Candidate, count: int) -> dict[str, str | int]:
    return {"peer": who.name, "address": str(who.address), "bytes": count}


async def get(
    machine: Machine, settings: NodeSettings, wish: Wish, voice: Voice, progress: Progress
) -> None:
    """
    Fetch one file.

    @param settings: see L{passing}.
    @raise Flow512Error: as L{flow512.node.fetching.Fetching.get}; L{Interrupted} if it was
        cancelled. What was verified until then is kept for the next time.
    """
    if wish.wanted.startswith(SCHEME):
        parse_content_id(wish.wanted)
    else:
        check_path(wish.wanted)
    told = _Download(machine, voice, progress, wish)
    with told.until_it_is_here():
        async with machine.node(settings) as node:
            fetched = await _fetch(machine, node, wish, told)
    told.done(fetched)


async def _fetch(machine: Machine, node: NodeService, wish: Wish, told: _Download) -> Fetched:
    meeting = Meeting(machine.reactor, node, wish.wait)
    is_host = False
    if wish.peer:
        is_host = (await meeting.peer(wish.peer)).node is None and not is_address(wish.peer)
    elif not wish.linked:
        await meeting.anybody()
    try:
        return await node.fetching.get(
            wish.wanted,
            peer=wish.peer,
            known=[Candidate(each.address, node=each.node) for each in wish.linked],
            meet=meeting.anybody if wish.linked else None,
            also=web_sources(machine, wish.urls, node.down),
            target=wish.target,
            run=wish.run,
            checksum=wish.checksum,
            found=told.found,
            progress=told.grown,
            blame=told.blamed,
            passed_over=told.passed_over,
        )
    except NotFound:
        if told.has_begun or not await is_there_a_folder(machine, node, wish):
            raise
        shown = escape(wish.wanted)
        raise NotFound(
            f"'{shown}' is a folder; ask for '{shown}/', with the slash, to fetch all of it."
        ) from None
    except Unreachable:
        if is_host and not told.has_begun:
            raise meeting.unknown(wish.peer) from None
        raise


async def is_there_a_folder(machine: Machine, node: NodeService, wish: Wish) -> bool:
    """
    Say whether what was asked for as a file is a folder of those who have been asked.
    """
    if wish.wanted.startswith(SCHEME):
        return False
    finder = Finder(node.fetching.client.connect, machine.reactor)
    try:
        found = await finder.find(
            node.neighbourhood.candidates_for(wish.peer), path=f"{wish.wanted}/"
        )
    except Flow512Error:
        return False
    found.source.leave()
    return True


def web_sources(
    machine: Machine, urls: Sequence[HttpUrl], down: Throttle
) -> list[tuple[Candidate, BlockSource]]:
    """
    Make the sources that web servers are.

    @param down: how fast the node fetches.
    """
    if not urls:
        return []
    from flow512.transfer.http_source import http_source  # which takes a while to load

    return [(Candidate(each.shown), http_source(machine.reactor, each, down=down)) for each in urls]
