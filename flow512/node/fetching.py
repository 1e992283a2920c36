"""
What a node fetches: files and folders, for its user and for the programs that embed it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond
from flow512.content.outlet import Outlet
from flow512.content.paths import escape
from flow512.content.placing import Existing
from flow512.content.tree import SCHEME, parse_content_id
from flow512.errors import Flow512Error, Misuse
from flow512.interfaces import RunBlocking
from flow512.link.faults import BANNED_FOR, STRIKES, Faults
from flow512.link.node_id import format_node_id
from flow512.link.security import Encryption
from flow512.link.standing import Standing
from flow512.node.neighbourhood import Neighbourhood
from flow512.node.sharing import Sharing
from flow512.settings import NodeSettings
from flow512.transfer.blocks import BlockSource
from flow512.transfer.client import TransferClient
from flow512.transfer.download import Checksum, Download
from flow512.transfer.exchange import Exchange
from flow512.transfer.fetch import Fetched, Growing, Target
from flow512.transfer.finding import Candidate
from flow512.transfer.folders import Progress as FolderProgress
from flow512.units import LONGEST_RUN
from flow512.wire.messages import Entry

if TYPE_CHECKING:
    # Loaded by who mends.
    from flow512.transfer.mending import Mender

_T = TypeVar("_T")


class Fetching:
    """
    Fetches what its peers have, until the node is stopped.

    @ivar client: what it fetches with.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        settings: NodeSettings,
        client: TransferClient,
        standing: Standing,
        neighbourhood: Neighbourhood,
        sharing: Sharing,
        run_blocking: RunBlocking,
        run_long: RunBlocking,
    ) -> None:
        """
        @param reactor: for the deadlines of repairs.
        @param settings: what the user decided.
        @param client: what it fetches with.
        @param standing: bans who sends something wrong again and again.
        @param neighbourhood: who may be asked.
        @param sharing: passes on what is being downloaded.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files.
        """
        self.client = client
        self._reactor = reactor
        self._settings = settings
        self._standing = standing
        self._neighbourhood = neighbourhood
        self._sharing = sharing
        self._run_blocking = run_blocking
        self._run_long = run_long
        self._faults = Faults()
        self._under_way: dict[Deferred[Any], Deferred[None]] = {}  # and what fires at its end
        self._has_stopped = False

    def get(
        self,
        wanted: str,
        *,
        peer: str = "",
        known: Sequence[Candidate] = (),
        meet: Callable[[], Awaitable[None]] | None = None,
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        target: Target | None = None,
        run: int = LONGEST_RUN,
        checksum: Checksum = Checksum.MD5,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        progress: Callable[[Growing], None] = lambda download: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Deferred[Fetched]:
        """
        Find a file among the peers, and fetch it.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask, and nobody else, as L{Neighbourhood.candidate} takes it; if empty,
            everybody who is known, and those whom these and the registry know, and they may ask
            this node.
        @param known: whom to ask first, if C{peer} is empty.
        @param meet: waits until others are known, who are asked if none of C{known} has it.
        @param also: see L{TransferClient.get}.
        @param target: where it is to go; the downloads folder unless given.
        @param run: pieces that a frame may carry, 1 to L{LONGEST_RUN}.
        @param checksum: whether the MD5 is compared at the end.
        @param found: told who has it, and what it is.
        @param progress: told of the download as it grows.
        @param blame: told who sent something wrong, and what.
        @param passed_over: told who is of no use, and why, without having sent anything wrong.
        @return: what became of it; fails with a L{Flow512Error<flow512.errors.Flow512Error>}.
            Cancelling it keeps what was verified for the next time. If that is done, or the node is
            stopped, it fails with Twisted's C{CancelledError}.
        """

        async def get() -> Fetched:
            path, root = _path_or_root(wanted)
            return await self.client.get(
                self._whom_to_ask(peer, known),
                target or Target(self._settings.downloads or "."),
                path=path,
                root=root,
                others=None if peer or meet is None else partial(self._others, meet),
                also=also,
                run=run,
                checksum=checksum,
                found=found,
                progress=progress,
                blame=self._blaming(blame),
                passed_over=passed_over,
                exchange=None if peer else self._exchange(),
            )

        return self._fetch(get())

    def stream(
        self,
        wanted: str,
        open_outlet: Callable[[Entry], Outlet],
        *,
        peer: str = "",
        known: Sequence[Candidate] = (),
        meet: Callable[[], Awaitable[None]] | None = None,
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Deferred[Outlet]:
        """
        Find a file among the peers, and write it on as it comes; see L{TransferClient.stream}.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask, as L{Neighbourhood.candidate} takes it; everybody who is known if
            empty.
        @param known: whom to ask first, if C{peer} is empty.
        @param meet: waits until others are known, who are asked if none of C{known} has it.
        """

        async def stream() -> Outlet:
            path, root = _path_or_root(wanted)
            return await self.client.stream(
                self._whom_to_ask(peer, known),
                open_outlet,
                path=path,
                root=root,
                others=None if peer or meet is None else partial(self._others, meet),
                also=also,
                blame=self._blaming(blame),
                passed_over=passed_over,
                exchange=None if peer else self._exchange(),
            )

        return self._fetch(stream())

    def get_folder(
        self,
        wanted: str,
        top: str,
        *,
        peer: str = "",
        existing: Existing = Existing.KEEP,
        beyond: Beyond = Beyond.IGNORE,
        is_wanted: Callable[[Item], bool] = lambda item: True,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        told: Callable[[FolderProgress], None] = lambda progress: None,
        growing: Callable[[Download], None] = lambda download: None,
        left_out: Callable[[str, str], None] = lambda path, reason: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Deferred[FolderProgress]:
        """
        Find a folder among the peers, and fetch it; see L{TransferClient.get_folder}.

        @param wanted: its path in some share, with a slash at its end (C{/} is all that a peer
            offers), or C{flow512:} and the content id of its manifest.
        @param peer: whom to ask, as L{Neighbourhood.candidate} takes it; everybody who is known if
            empty.
        @return: what became of it. Cancelling it keeps what is in its place.
        """

        async def get_folder() -> FolderProgress:
            path, root = _path_or_root(wanted)
            return await self.client.get_folder(
                self._whom_to_ask(peer),
                top,
                path=path,
                root=root,
                existing=existing,
                beyond=beyond,
                is_wanted=is_wanted,
                found=found,
                told=told,
                growing=growing,
                left_out=left_out,
                blame=self._blaming(blame),
            )

        return self._fetch(get_folder())

    def mender(
        self, blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None
    ) -> Mender:
        """
        Make what looks at local files, and repairs them, with this node's workers.

        @param blame: told who sent something wrong, and what.
        """
        from flow512.transfer.mending import Mender

        return Mender(self._reactor, self._run_blocking, self._run_long, self._blaming(blame))

    async def stop(self) -> None:
        """
        Cancel all that is under way, and close the connections.
        """
        # Whoever is told of that may try again at once.
        self._has_stopped = True
        for fetching, ended in list(self._under_way.items()):
            fetching.cancel()
            await ended
        await self.client.stop()

    def _whom_to_ask(self, peer: str, known: Sequence[Candidate] = ()) -> list[Candidate]:
        candidates = self._neighbourhood.candidates_for(peer)
        if peer:
            return candidates
        addresses = {each.address for each in known}
        return [*known, *(each for each in candidates if each.address not in addresses)]

    async def _others(self, meet: Callable[[], Awaitable[None]]) -> list[Candidate]:
        await meet()
        return self._neighbourhood.candidates()

    def _exchange(self) -> Exchange:
        return Exchange(
            self._neighbourhood.who_holds,
            self._neighbourhood.may_dial,
            self._sharing.holders,
            self._settings.limits,
            self._sharing.offers,
            self._sharing.offering_port,
        )

    def _blaming(
        self, blame: Callable[[Candidate, Flow512Error], None]
    ) -> Callable[[Candidate, Flow512Error], None]:
        """Ban who sends something wrong again and again, besides telling of it."""

        def blamed(who: Candidate, reason: Flow512Error) -> None:
            # Without TLS anybody could put the blame on another.
            is_proven = self._settings.encryption is Encryption.TLS
            if is_proven and who.node is not None and self._faults.note(who.node):
                self._ban(who.node, f"It sent something wrong {STRIKES} times; at last: {reason}")
            blame(who, reason)

        return blamed

    def _ban(self, node: bytes, reason: str) -> None:
        banned = self._run_blocking(self._standing.ban, node, reason, BANNED_FOR)
        banned.addErrback(
            lambda failure: self.log.warn(
                "{node} could not be banned: {why}",
                node=format_node_id(node),
                why=escape(failure.getErrorMessage()),
            )
        )

    def _fetch(self, coroutine: Coroutine[Deferred[Any], Any, _T]) -> Deferred[_T]:
        if self._has_stopped:
            coroutine.close()
            return fail(Misuse("The node has stopped; start it again first."))
        fetching = Deferred.fromCoroutine(coroutine)
        ended: Deferred[None] = Deferred()
        self._under_way[fetching] = ended

        def has_ended(result: _T | Failure) -> _T | Failure:
            del self._under_way[fetching]
            ended.callback(None)
            return result

        return fetching.addBoth(has_ended)


def _path_or_root(wanted: str) -> tuple[str, bytes | None]:
    if wanted.startswith(SCHEME):
        return "", parse_content_id(wanted)
    return wanted, None
