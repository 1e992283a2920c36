"""
Gathering: the sources of one download, from those that were found before it began to those that
come up as it goes on.

Where they come from: peers that were asked for the content and answered late; the registry, which
knows who holds it; and every source, which knows others who hold it, or download it. All of these
are asked again after L{FIRST_REST} seconds, then after twice as many, up to L{LONGEST_REST}, and at
once when no source is left. States of one that was told of::

    told of ──a place is free──> dialled ──has it──> source ──left out──> forgotten
       ▲                            └──has it not, cannot be reached──> resting
       └────────RETRY seconds, and twice as many each time after that──────┘

What holds:

  1. At most L{MOST_SOURCES} are sources, or dialled, at once; of many that were told of, some are
     chosen by chance, so that not everybody asks the same.
  2. If there is no place for others who were told of, a source that has only parts, and nothing of
     what is missing, is left for them, one every L{MAKE_ROOM} seconds: nobody can keep others away
     by being there.
  3. The download waits for more (L{Download.wait_for_more}) as long as anybody is being asked or
     dialled, and something has come in the last L{HOPE_FOR} seconds, be it a source or a block; so
     it neither fails while there is hope nor waits without.
  4. Everything that was opened here is closed by L{Gathering.end}.

A source that is only downloading the content itself is watched: it says which blocks it has, and
the download is told. A source that has all of it says so, and is watched no longer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from math import inf
from random import Random
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.journal import BlockSet
from flow512.content.paths import escape
from flow512.errors import Flow512Error, SourceFailure
from flow512.link.address import HostPort
from flow512.registry.peer_list import as_reached, choose_to_dial
from flow512.transfer.blocks import BlockSource
from flow512.transfer.download import Download
from flow512.transfer.exchange import Exchange
from flow512.transfer.fetch import WORTH_OFFERING
from flow512.transfer.finding import ANSWERS_WITHIN, Candidate, Found, NodeKey, key_of
from flow512.transfer.senders import Sender
from flow512.transfer.source import SourceProtocol, fell_silent
from flow512.wire.fields import Peer
from flow512.wire.holding import Blocks

MOST_SOURCES: Final = 16
"""Sources that one download uses at once, at most."""

FIRST_REST: Final = 0.25
"""Seconds from the first time that others are asked who has it to the second."""

LONGEST_REST: Final = 30.0
"""Seconds between two such times, at most."""

RETRY: Final = 30.0
"""
Seconds until somebody is dialled again who had it not, or was not reached, or was left out; twice
as many the next time.
"""

HOPE_FOR: Final = 60.0
"""Seconds for which it is hoped that asking around brings somebody, if nothing comes meanwhile."""

MAKE_ROOM: Final = 5.0
"""Seconds until one more source that is of no use is left for others, at least."""

MOST_RUNS: Final = 32768
"""
Runs of blocks that a source may have. Downloads fill a few pages at a time, so an honest one has
far fewer; one that told of every other block would fill this machine's memory.
"""

MOST_TOLD: Final = 512
"""Others that are remembered who were told of and not dialled yet; more are not listened to."""


class _Part(msgspec.Struct, eq=False):
    """
    A source that had only parts when it was found.

    @ivar has: the blocks that it told of.
    @ivar sender: it, as the present download knows it.
    """

    found: Found
    has: BlockSet = msgspec.field(default_factory=BlockSet)
    has_all: bool = False
    sender: Sender | None = None
    watching: Deferred[None] | None = None


class Gathering:
    """
    The sources of one download.

    @ivar sources: those that there are.
    """

    log = Logger()

    def __init__(
        self,
        connect: Callable[[Candidate], Awaitable[SourceProtocol]],
        clock: IReactorTime,
        random: Random,
        *,
        exchange: Exchange | None,
        told: Callable[[Download], None],
        also: Sequence[tuple[Candidate, BlockSource]] = (),
    ) -> None:
        """
        @param connect: opens a conversation, or raises L{Flow512Error}.
        @param clock: for the times between two looks.
        @param random: chooses whom to dial.
        @param exchange: how others are found; L{None} for nobody but those who are given.
        @param told: told of the download when it begins and as it grows.
        @param also: further sources, which cannot say what they have.
        """
        self.sources: list[Found] = []
        self._connect = connect
        self._clock = clock
        self._random = random
        self._exchange = exchange
        self._tell = told
        self._also = also
        self._has_also = False
        self._download: Download | None = None
        self._root = b""
        self._parts: list[_Part] = []
        self._later: list[Found] = []
        self._told_of: dict[NodeKey, Candidate] = {}
        self._dialled: dict[NodeKey, None] = {}
        self._resting: dict[NodeKey, tuple[float, float]] = {}  # until when, and for how long
        self._asked: dict[Deferred[None], None] = {}
        self._rest = FIRST_REST
        self._timer: IDelayedCall | None = None
        self._looked_in_vain = False
        self._made_room = -inf  # when a source was left for others
        self._stored = -1
        self._hope_until = 0.0
        self._is_over = False

    # Before it begins

    def begin_with(self, found: Sequence[Found]) -> list[Found]:
        """
        Take those that a search has found.

        @return: as many as are used.
        """
        used, too_many = list(found[:MOST_SOURCES]), found[MOST_SOURCES:]
        for each in too_many:
            each.source.leave()
        for each in used:
            self._keep(each)
        return used

    def _keep(self, found: Found) -> None:
        self.sources.append(found)
        if found.entry.is_partial:
            self._parts.append(_Part(found))

    def came_later(self, found: Found) -> None:
        """
        One more has it: it was asked by the search, and has answered late; or was dialled.
        """
        self._tidy()
        if self._is_over or len(self.sources) + len(self._later) >= MOST_SOURCES:
            found.source.leave()
            return
        self._later.append(found)
        self._add_later()

    # From the download

    def progress(self, download: Download) -> None:
        """
        It has begun, or begun anew, or has grown.
        """
        if download.stored != self._stored:
            self._stored = download.stored
            self._be_hopeful()
        if download is not self._download:
            self._begin(download)
        self._tell(download)

    def _be_hopeful(self) -> None:
        self._hope_until = self._clock.seconds() + HOPE_FOR

    @property
    def _is_hopeful(self) -> bool:
        return bool(self._asked) and self._clock.seconds() < self._hope_until

    def _begin(self, download: Download) -> None:
        is_first = self._download is None
        self._download = download
        self._root = download.root
        download.look_for_more = self._look_at_once
        if not self._has_also:
            self._has_also = True
            for who, source in self._also:
                download.add(who, source)
        for part in self._parts:
            self._add_part(part)
        if is_first:
            for each in self.sources:
                self._note(each)
        self._add_later()
        if is_first and download.size - download.stored > WORTH_OFFERING:
            self._look()

    def _add_part(self, part: _Part) -> None:
        assert self._download is not None
        found = part.found
        part.sender = self._download.add(found.candidate, found.source, part.has.runs())
        if part.has_all:
            self._download.has(part.sender, (), is_all=True)
        elif part.watching is None:
            self._watch(part)

    def _add_later(self) -> None:
        download = self._download
        if download is None:
            return
        later, self._later = self._later, []
        for found in later:
            # What it says of the size is not proven yet; one that lies is of no use.
            if found.entry.size != download.size:
                found.source.leave()
                continue
            self._keep(found)
            self._note(found)
            if key_of(found.candidate) not in self._resting:
                self._be_hopeful()
            self._looked_in_vain = False
            if found.entry.is_partial:
                self._add_part(self._parts[-1])
            else:
                download.add(found.candidate, found.source)

    def _note(self, found: Found) -> None:
        exchange, who = self._exchange, found.candidate
        if exchange is not None and who.node is not None and isinstance(who.address, HostPort):
            peer = Peer(who.node, "", who.address.host, who.address.port)
            exchange.holders.note((self, found), self._root, peer)

    def _forget(self, found: Found) -> None:
        if self._exchange is not None:
            self._exchange.holders.forget((self, found))

    # Watching those that have parts

    def _watch(self, part: _Part) -> None:
        def told(blocks: Blocks) -> None:
            part.has_all = part.has_all or blocks.is_all
            for first, count in blocks.runs:
                part.has.add(first, count)
            if part.has.run_count > MOST_RUNS:
                part.found.source.leave()
            elif self._download is not None and part.sender is not None:
                self._download.has(part.sender, blocks.runs, blocks.is_all)

        def failed(failure: Failure) -> None:
            failure.trap(Flow512Error, CancelledError)  # type: ignore[no-untyped-call]  # Twisted has no types there
            error = failure.value
            if not self._is_over and self._download is not None and part.sender is not None:
                assert isinstance(error, Flow512Error)
                self._download.leave(part.sender, error)

        part.watching = part.found.source.watch(self._root, told)
        part.watching.addErrback(failed).addErrback(self._broken)

    # Asking who else has it

    def _look_at_once(self) -> bool:
        """For the download, when nobody is left: tell whether somebody may come."""
        if self._asked or self._told_of:
            self._dial_more()
        elif not self._looked_in_vain and self._exchange is not None:
            self._looked_in_vain = True
            self._look()
        return self._is_hopeful

    def _look_in(self, seconds: float) -> None:
        self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        exchange = self._exchange
        if exchange is None or self._is_over:
            return
        self._look_in(self._rest)
        self._rest = min(2 * self._rest, LONGEST_REST)
        self._tidy()
        self._ask(self._ask_registry(exchange))
        is_offered = exchange.offers is not None and self._root in exchange.offers
        port = exchange.port() if is_offered else 0
        for each in self.sources:
            self._ask(self._ask_source(exchange, each, port))

    async def _ask_registry(self, exchange: Exchange) -> None:
        self._hear(exchange, await exchange.who(self._root))

    async def _ask_source(self, exchange: Exchange, found: Found, port: int) -> None:
        asked = found.source.who(self._root, port)
        asked.addTimeout(ANSWERS_WITHIN, self._clock, fell_silent)
        told = await asked
        place = found.candidate.address
        if isinstance(place, HostPort):
            told = tuple(as_reached(peer, place.host) for peer in told)
        self._hear(exchange, told)

    def _hear(self, exchange: Exchange, peers: Iterable[Peer]) -> None:
        now = self._clock.seconds()
        self._tidy()
        here = {key_of(each.candidate) for each in (*self.sources, *self._later)}
        for peer in choose_to_dial(peers, exchange.limits):
            candidate = Candidate(HostPort(peer.host, peer.port), peer.name, peer.node)
            key = key_of(candidate)
            due, _ = self._resting.get(key, (0.0, 0.0))
            is_taken = key in here or key in self._dialled or due > now
            if not is_taken and len(self._told_of) < MOST_TOLD and exchange.may_dial(peer):
                self._told_of[key] = candidate
        self._dial_more()

    def _tidy(self) -> None:
        """Forget the sources that are gone."""
        gone = [each for each in self.sources if not each.source.is_open]
        if not gone:
            return
        self.sources = [each for each in self.sources if each.source.is_open]
        self._parts = [each for each in self._parts if each.found.source.is_open]
        blamed = [] if self._download is None else [who for who, _ in self._download.blamed]
        for each in gone:
            self._forget(each)
            is_to_blame = each.candidate in blamed
            self._let_rest(key_of(each.candidate), is_for_good=is_to_blame)

    def _let_rest(self, key: NodeKey, *, is_for_good: bool = False) -> None:
        now = self._clock.seconds()
        if len(self._resting) >= MOST_TOLD:
            self._resting = {each: rest for each, rest in self._resting.items() if rest[0] > now}
        _, before = self._resting.get(key, (0.0, RETRY / 2))
        seconds = inf if is_for_good else 2 * before
        self._resting[key] = now + seconds, seconds

    # Dialling

    def _dial_more(self) -> None:
        if self._is_over or not self._told_of:
            return
        self._tidy()
        room = self._room()
        if room <= 0 and self._make_room():
            self._tidy()
            room = self._room()
        while self._told_of and room > 0:
            room -= 1
            key = self._random.choice(list(self._told_of))
            self._dialled[key] = None
            self._ask(self._dial(key, self._told_of.pop(key)))

    def _room(self) -> int:
        return MOST_SOURCES - len(self.sources) - len(self._later) - len(self._dialled)

    def _make_room(self) -> bool:
        """Leave one who has nothing that is missing."""
        download, now = self._download, self._clock.seconds()
        if download is None or now - self._made_room < MAKE_ROOM:
            return False
        for part in self._parts:
            if part.sender is not None and not download.is_of_use(part.sender):
                self._made_room = now
                part.found.source.leave()
                return True
        return False

    async def _dial(self, key: NodeKey, candidate: Candidate) -> None:
        try:
            found = await self._try(candidate)
        except BaseException:
            self._let_rest(key)
            raise
        finally:
            del self._dialled[key]
        self.came_later(found)

    async def _try(self, candidate: Candidate) -> Found:
        assert self._download is not None
        source = await self._connect(candidate)
        try:
            answer = source.stat("", self._root)
            answer.addTimeout(ANSWERS_WITHIN, self._clock, fell_silent)
            entry = await answer
            if entry.size != self._download.size:
                raise SourceFailure("It tells another size of the content.")
        except BaseException:
            source.leave()
            raise
        if not candidate.name and source.agreement is not None:
            candidate = replace(candidate, name=source.agreement.peer.name)
        return Found(candidate, source, entry)

    def _ask(self, question: Coroutine[Deferred[Any], Any, None]) -> None:
        """Wait for somebody, and keep the download waiting meanwhile."""
        asked = Deferred.fromCoroutine(question)
        self._asked[asked] = None
        if self._download is not None and self._is_hopeful:
            self._download.wait_for_more()

        def ended(_: None) -> None:
            del self._asked[asked]
            self._dial_more()
            if not self._is_hopeful and not self._is_over and self._download is not None:
                self._download.no_more()

        asked.addErrback(self._in_vain).addErrback(self._broken).addCallback(ended)

    def _in_vain(self, failure: Failure) -> None:
        failure.trap(Flow512Error, CancelledError)  # type: ignore[no-untyped-call]  # Twisted has no types there
        self.log.debug("Looking for sources: {why}", why=escape(failure.getErrorMessage()))

    def _broken(self, failure: Failure) -> None:
        self.log.failure("Looking for sources failed.", failure)

    # At its end

    def end(self) -> None:
        """
        Close all of them, and ask nobody any more.
        """
        self._is_over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for asked in list(self._asked):
            asked.cancel()
        for each in (*self.sources, *self._later):
            self._forget(each)
            each.source.leave()
        for _, source in self._also:
            source.leave()
