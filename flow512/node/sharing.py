"""
What others get from a node: the files in its shares, and parts of what it is downloading.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger

from flow512.content.paths import escape
from flow512.errors import Flow512Error
from flow512.interfaces import RunBlocking
from flow512.link.address import usual_places
from flow512.link.node_id import parse_node_id
from flow512.link.presence import Presence
from flow512.link.throttle import Throttle
from flow512.node.neighbourhood import Neighbourhood
from flow512.settings import NodeSettings
from flow512.transfer.holders import KnownHolders

if TYPE_CHECKING:
    # Loaded by nodes that serve or offer: those that only fetch are in a hurry.
    from flow512.content.catalog import Catalog
    from flow512.content.library import Library
    from flow512.registry.telling import Telling
    from flow512.transfer.indexing import Indexed, IndexingService
    from flow512.transfer.inotify import OpenNotifier
    from flow512.transfer.offers import Offers
    from flow512.transfer.server import TransferFactory

_CATALOG_FILE: Final = "catalog.sqlite"


class Sharing:
    """
    Lets others have what the user shares.

    @ivar offers: what is being downloaded, for others; L{None} if nothing of that is passed on.
    @ivar holders: who else has a content, as those say who ask for it.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        settings: NodeSettings,
        presence: Presence,
        neighbourhood: Neighbourhood,
        up: Throttle,
        run_blocking: RunBlocking,
        run_long: RunBlocking,
        reads_cached: bool,
    ) -> None:
        """
        @param reactor: for deadlines, and with the means to call it from threads.
        @param settings: what the user decided.
        @param presence: whose port it answers at.
        @param neighbourhood: is told what is held here.
        @param up: how fast it sends.
        @param run_blocking: runs what waits for the disk.
        @param run_long: runs what hashes whole files.
        @param reads_cached: whether what the system has in memory is read without a worker.
        """
        self.offers: Offers | None = None
        if settings.offer_downloads:
            from flow512.transfer.offers import Offers

            self.offers = Offers(reactor, self._may_have_downloads)
        self.holders = KnownHolders()
        self._reactor = reactor
        self._settings = settings
        self._presence = presence
        self._neighbourhood = neighbourhood
        self._up = up
        self._run_blocking = run_blocking
        self._run_long = run_long
        self._reads_cached = reads_cached
        self._catalog: Catalog | None = None
        self._library: Library | None = None
        self._transfer: TransferFactory | None = None
        self._indexing: IndexingService | None = None
        self._telling: Telling | None = None

    def open(self) -> None:
        """
        Open the shares and the catalog, and answer at the port.

        @raise Flow512Error: one of them cannot be opened; L{close} is to follow.
        """
        from flow512.content.catalog import IN_MEMORY, Catalog
        from flow512.content.library import Library
        from flow512.content.shares import Share
        from flow512.transfer.access_log import AccessLog

        settings, state = self._settings, self._presence.standing.state
        self._catalog = Catalog(
            IN_MEMORY if state is None else state.file(_CATALOG_FILE), self._catalog_damaged
        )
        with ExitStack() as undo:
            shares = []
            for path in settings.offered:
                shares.append(Share(path, allow=settings.allow, parse_id=parse_node_id))
                undo.callback(shares[-1].close)
            self._library = Library(
                self._catalog,
                shares,
                AccessLog(self._reactor.seconds),
                self._roots_changed,
            )
            undo.pop_all()
        self._answer(self._library)

    def _catalog_damaged(self, sentence: str) -> None:
        self.log.warn("{sentence}", sentence=sentence)

    def _answer(self, library: Library) -> None:
        from flow512.transfer.server import TransferFactory

        self._transfer = TransferFactory(
            library,
            self._presence.introduction,
            self._reactor,
            self._run_blocking,
            self._run_long,
            limits=self._settings.limits,
            up=self._up,
            offers=self.offers,
            holders=self.holders,
            met=self._neighbourhood.met,
            reads_cached=self._reads_cached,
        )
        self._presence.shared.conversations["transfer"] = self._transfer

    def offering_port(self) -> int:
        """
        Give the TCP port at which others get what is being downloaded, and open it if need be.

        @return: 0 if they cannot.
        """
        if self._library is None:
            # It serves nothing else, so it listens only now that there is something to pass on.
            from flow512.content.catalog import IN_MEMORY, Catalog
            from flow512.content.library import Library

            try:
                self._catalog = Catalog(IN_MEMORY, self._catalog_damaged)
                self._library = Library(self._catalog, ())
                self._answer(self._library)
                self._presence.listen(self._settings.listen or usual_places(0))
            except Flow512Error as error:
                self.log.info("Downloads are not passed on: {why}", why=escape(str(error)))
        return self._presence.port

    def start_indexing(
        self,
        indexed: Callable[[Indexed], None],
        open_notifier: OpenNotifier | None,
        hashed_at_once: int,
    ) -> None:
        """
        Follow the shares, and hash what is new.

        @param indexed: told when all that was found is hashed.
        @param open_notifier: opens what watches their folders; L{None} if nothing can.
        @param hashed_at_once: files that are hashed at a time.
        """
        if self._library is None:
            return
        from flow512.transfer.indexing import IndexingService

        self._indexing = IndexingService(
            self._library,
            self._reactor,
            self._run_long,
            indexed,
            self._settings.rescan,
            open_notifier,
            hashed_at_once,
        )
        self._indexing.startService()

    def start_telling(self) -> None:
        """
        Tell the registry what is held here, now and whenever that changes.
        """
        if self._library is None:
            return
        from flow512.registry.telling import Telling

        self._telling = Telling(
            self._reactor,
            self._library.roots,
            self._run_blocking,
            self._neighbourhood.hold,
            self._settings.limits.holdings_per_node,
        )
        self._telling.changed()
        if self.offers is not None:
            self.offers.began = self._telling.hold_part
            self.offers.ended = self._telling.drop_part

    def _roots_changed(self) -> None:
        # On whichever thread has noticed.
        IReactorFromThreads(self._reactor).callFromThread(self._tell_roots)

    def _tell_roots(self) -> None:
        if self._telling is not None:
            self._telling.changed()

    def _may_have_downloads(self, asker: bytes) -> bool:
        # In a worker. A download may go to any of the shares, so it is for those who see them all.
        library, allow = self._library, self._settings.allow
        return (
            library is not None
            and (not allow or asker in allow)
            and not library.seen_by(asker).withheld
        )

    # Stopping

    def stop_telling(self) -> Deferred[None]:
        """
        Tell the registry nothing more.

        @return: fires when nothing is looked up for it any more.
        """
        telling, self._telling = self._telling, None
        return succeed(None) if telling is None else telling.stop()

    async def stop(self) -> None:
        """
        End the conversations, and the work that is under way.
        """
        if self.offers is not None:
            self.offers.stop()
        if self._transfer is not None:
            await self._transfer.stop()
        if self._indexing is not None:
            await maybeDeferred(self._indexing.stopService)

    def close(self) -> None:
        """
        Close the files.
        """
        if self._library is not None:
            self._library.close()
        if self._catalog is not None:
            self._catalog.close()
        self._library = self._catalog = self._transfer = None
