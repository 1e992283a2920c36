"""
Finding who has a file, among peers that may be gone, slow, or disagree.

Everyone is asked at once, up to a bound. The first who has the file is not taken at once: for a
moment others may answer too, since what two peers call by the same path need not be the same
file, and then it is the user's to choose. If it is the same, all of them are sources of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.paths import escape
from flow512.content.tree import format_content_id
from flow512.errors import (
    Banned,
    Busy,
    Flow512Error,
    Misuse,
    NoSuchPeer,
    NotFound,
    Refusal,
    Unreachable,
)
from flow512.link.address import HostPort
from flow512.transfer.source import SourceProtocol, fell_silent
from flow512.wire.messages import Entry

DIALS_AT_ONCE: Final = 16
"""Connections that one search makes at the same time."""

ANSWERS_WITHIN: Final = 60.0
"""
Seconds for one of several peers to say whether it has the file. A peer that hashes it first may
take longer; whoever wants to wait for that one asks it alone.
"""

GRACE: Final = 0.5
"""Seconds that others may still answer after the first who has the file."""

ALONE: Final = 1.0
"""Seconds that those whom a link names have before others are asked as well."""


class Candidate(msgspec.Struct, frozen=True):
    """
    A peer that may have it.

    @ivar address: where it is.
    @ivar name: what to call it, for a person.
    @ivar node: the node id that it must have; L{None} for any.
    """

    address: HostPort | str
    name: str = ""
    node: bytes | None = None

    def __str__(self) -> str:
        return f"{escape(self.name)} ({self.address})" if self.name else str(self.address)


class Found(msgspec.Struct, frozen=True):
    """
    A peer that has it.

    @ivar source: the open conversation with it.
    @ivar entry: what it says of the file.
    """

    candidate: Candidate
    source: SourceProtocol
    entry: Entry


NodeKey: TypeAlias = tuple[bytes | None, HostPort | str | int]
"""Somebody: a node id and a port, since one node may have several addresses; or just an address."""


def key_of(candidate: Candidate) -> NodeKey:
    """
    Give what is the same for all addresses of one node, such as those of IPv4 and IPv6.
    """
    address = candidate.address
    if candidate.node is None or not isinstance(address, HostPort):
        return None, address
    # By its port: a node that only fetches may share its identity with one that serves.
    return candidate.node, address.port


def said_by(candidate: Candidate, error: Flow512Error) -> Flow512Error:
    """
    Name who is behind an error, so that a stranger's sentence is not taken for ours.
    """
    if isinstance(error, Misuse):
        return error  # what was typed is quoted in it already
    is_its_own = isinstance(error, Refusal) and not isinstance(error, Banned)
    words = "says: " if is_its_own else ""
    sentence = f"{candidate} {words}{escape(str(error))}" if words else f"{candidate}: {error}"
    if isinstance(error, Busy):
        return Busy(sentence, error.retry_after)
    return type(error)(sentence)


def cannot_be_reached(candidate: Candidate, error: Unreachable) -> Unreachable:
    """
    Say who cannot be reached, and ask what is to be looked at, unless the error asks already.
    """
    why = escape(str(error)).rstrip(".")
    if why.endswith("?"):
        return Unreachable(f"{candidate} cannot be reached: {why}")
    return Unreachable(f"{candidate} cannot be reached ({why}); is a node running there?")


class Finder:
    """
    Asks peers for a file; each makes one search.
    """

    log = Logger()

    def __init__(
        self,
        connect: Callable[[Candidate], Awaitable[SourceProtocol]],
        clock: IReactorTime,
        later: Callable[[Found], None] | None = None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> None:
        """
        @param connect: opens a conversation with a candidate, or raises L{Flow512Error}.
        @param clock: for the moment that others have.
        @param later: told of those who answer after the search has ended, with the same root,
            until L{stop} is called; their sources are its to close. Without it nobody is waited
            for any longer than the search takes.
        @param passed_over: told which of several candidates has it not, or cannot be asked, and
            why.
        """
        self._connect = connect
        self._clock = clock
        self._later = later
        self._passed_over = passed_over
        self._asked: list[Deferred[None]] = []
        self._root: bytes | None = None

    def stop(self) -> None:
        """
        Wait for nobody any more.
        """
        asked, self._asked = self._asked, []
        for each in asked:
            each.cancel()

    async def find(
        self, candidates: Sequence[Candidate], *, path: str = "", root: bytes | None = None
    ) -> Found:
        """
        Find one peer that has a file.

        @return: the first who had it; its source is the caller's to close.
        @raise Flow512Error: as L{find_all}.
        """
        first, *others = await self.find_all(candidates, path=path, root=root)
        for other in others:
            other.source.leave()
        return first

    async def find_all(
        self,
        candidates: Sequence[Candidate],
        *,
        path: str = "",
        root: bytes | None = None,
        at_once: bool = False,
        others: Callable[[], Awaitable[Sequence[Candidate]]] | None = None,
    ) -> list[Found]:
        """
        Find the peers that have a file, by path or by content id.

        @param candidates: whom to ask.
        @param at_once: do not wait until a large file is hashed: if nobody knows its root, the
            entries have none.
        @param others: finds whom to ask besides, if none of C{candidates} has it, or they are slow
            to say so; it is called at once, so that nobody has to wait for it then.
        @return: those who have it and said so within a moment after the first one, who is the
            first here, each at one of his addresses; their sources are the caller's to close. If
            any of them knows the root, all do; the others are left.
        @raise NoSuchPeer: there is nobody to ask.
        @raise NotFound: everyone who answered says that they have no such file.
        @raise Unreachable: nobody answered.
        @raise Misuse: peers have different files under that path.
        @raise Flow512Error: the only one who was asked refused; its own words.
        """
        wanted = escape(path) if path else format_content_id(root or b"")
        if not candidates:
            raise NoSuchPeer(
                "No peer is known yet; wait for one, name one with --from,"
                " or a registry with --registry."
            )
        found: list[Found] = []
        failed: list[tuple[Candidate, Flow512Error]] = []
        met: dict[NodeKey, Candidate] = {}
        doubles: list[Candidate] = []
        asked = list(candidates)
        is_looking = others is not None
        alone: Deferred[None] = Deferred()
        enough: Deferred[None] = Deferred()
        places = DeferredSemaphore(DIALS_AT_ONCE)

        async def ask(candidate: Candidate) -> None:
            try:
                source = await self._connect(candidate)
                if source.channel is not None:
                    # Whoever answered at an address has proven who he is.
                    candidate = replace(candidate, node=source.channel.peer)
                    if met.setdefault(key_of(candidate), candidate) is not candidate:
                        doubles.append(candidate)
                        source.leave()
                        tell_if_all_are_done()
                        return
                try:
                    answer = source.stat(path, root, at_once)
                    if len(asked) > 1 or is_looking:
                        answer.addTimeout(ANSWERS_WITHIN, self._clock, fell_silent)
                    entry = await answer
                except BaseException:
                    source.leave()
                    raise
            except Flow512Error as error:
                failed.append((candidate, error))
                self.log.debug("{peer}: {why}", peer=str(candidate), why=escape(str(error)))
                if len(asked) > 1:
                    self._passed_over(candidate, error)
            else:
                if enough.called:
                    self._came_later(Found(candidate, source, entry))
                    return
                found.append(Found(candidate, source, entry))
                if len(found) == 1 and len(asked) > 1:
                    timers.append(self._clock.callLater(GRACE, tell))
            tell_if_all_are_done()

        def tell_if_all_are_done() -> None:
            if len(found) + len(failed) + len(doubles) < len(asked):
                return
            if found or not is_looking:
                tell()
            else:
                be_alone_no_more()

        def be_alone_no_more() -> None:
            if not alone.called:
                alone.callback(None)

        async def ask_others(find: Callable[[], Awaitable[Sequence[Candidate]]]) -> None:
            nonlocal is_looking
            try:
                more = await find()
            except Flow512Error as error:
                self.log.debug("Nobody else is known: {why}", why=escape(str(error)))
                more = ()
            await alone
            is_looking = False
            # At an address there may be another than the one whom the link names.
            known = {(each.address, each.node) for each in asked}
            anybody = {each.address for each in asked if each.node is None}
            more = [
                each
                for each in more
                if (each.address, each.node) not in known and each.address not in anybody
            ]
            if more and len(asked) == 1:
                # It was the only one, whose error would have been everybody's.
                for each in failed:
                    self._passed_over(*each)
            asked.extend(more)
            begin(more)
            tell_if_all_are_done()

        def begin(more: Sequence[Candidate]) -> None:
            self._asked += [places.run(ask, each).addErrback(broken) for each in more]

        def tell() -> None:
            if not enough.called:
                enough.callback(None)

        def broken(failure: Failure) -> None:
            # Those who are not needed any more are cancelled; anything else is our own mistake.
            if not enough.called:
                enough.errback(failure)
            elif failure.check(CancelledError) is None:  # type: ignore[no-untyped-call]  # Twisted has no types there
                self.log.failure("Asking a peer for a file failed.", failure)

        timers: list[IDelayedCall] = []
        self._asked = []
        begin(candidates)
        looking: Deferred[None] | None = None
        if others is not None:
            timers.append(self._clock.callLater(ALONE, be_alone_no_more))
            looking = Deferred.fromCoroutine(ask_others(others)).addErrback(broken)
        try:
            await enough
            chosen = self._choose(found, failed, wanted)
        except BaseException:
            self.stop()
            for each in found:
                each.source.leave()
            raise
        finally:
            if looking is not None:
                looking.cancel()
            for timer in timers:
                if timer.active():
                    timer.cancel()
        self._root = chosen[0].entry.root
        if self._later is None:
            self.stop()
        return chosen

    def _came_later(self, found: Found) -> None:
        is_same = self._root is not None and found.entry.root == self._root
        if self._later is not None and is_same:
            self._later(found)
        else:
            found.source.leave()

    def _choose(
        self, found: list[Found], failed: list[tuple[Candidate, Flow512Error]], wanted: str
    ) -> list[Found]:
        if found:
            known = [each for each in found if each.entry.root is not None]
            if len({each.entry.root or each.entry.size for each in known or found}) > 1:
                who = ", ".join(str(each.candidate) for each in found)
                raise Misuse(
                    f"Several peers have different files called '{wanted}': {who};"
                    " choose one with --from, or ask for flow512:ROOT."
                )
            if known:
                for each in found:
                    if each.entry.root is None:
                        each.source.leave()
            return known or found
        answers = [error for _, error in failed if not isinstance(error, Unreachable)]
        if len(failed) == 1 and not isinstance(failed[0][1], NotFound):
            candidate, error = failed[0]
            if isinstance(error, Unreachable):
                raise cannot_be_reached(candidate, error)
            raise said_by(candidate, error)
        if answers:
            if not any(isinstance(error, NotFound) for error in answers):
                raise next(
                    said_by(candidate, error)
                    for candidate, error in failed
                    if not isinstance(error, Unreachable)
                )
            raise NotFound(
                f"Nobody has '{wanted}' (asked: {len(answers)},"
                f" not reached: {len(failed) - len(answers)}); `flow512 ls` shows what there is."
            )
        raise Unreachable(
            f"None of the {len(failed)} known peers can be reached; are they still running?"
        )
