"""
A node: everything below, put together into one C{IService}.

Order of starting: state folder and catalog, then the port, then the rest; so a node that cannot
run says so before it has told anybody of itself. Order of stopping: goodbye to everyone (beacon,
registry), then what is being fetched, then no new connections, then the conversations, then the
work under way, then the files. Nothing outlives the L{Deferred} of L{NodeService.stopService}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from random import Random, SystemRandom
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import Logger

from flow512.content.paths import escape
from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
)
from flow512.discovery.election import Mode
from flow512.errors import Misuse
from flow512.interfaces import Ending, RunBlocking, Workers
from flow512.link.address import (
    DEFAULT_PORT,
    LOOPBACK,
    usual_places,
)
from flow512.link.introduction import Introduction
from flow512.link.presence import Airwaves, Presence
from flow512.link.standing import Claims
from flow512.link.throttle import Throttle
from flow512.node.fetching import Fetching
from flow512.node.neighbourhood import Neighbourhood
from flow512.node.sharing import Sharing
from flow512.registry.leadership import Leadership
from flow512.settings import (
    INodeListener,
    NodeListener,
    NodeSettings,
)
from flow512.transfer.client import TransferClient
from flow512.transfer.fetch import Fetched, Target
from flow512.wire.fields import Peer

if TYPE_CHECKING:
    # Loaded by nodes that serve: those that only fetch are in a hurry.
    from flow512.transfer.inotify import OpenNotifier


def check_state_is_not_shared(state: str, shares: Sequence[str]) -> None:
    """
    Make sure that nobody can fetch what is only the node's own.

    @raise Misuse: the state folder lies in a share.
    """
    inner = os.path.realpath(state)
    for share in shares:
        outer = os.path.realpath(share)
        if os.path.commonpath([inner, outer]) == outer:
            raise Misuse(
                f"The state folder '{escape(state)}' lies in the share '{escape(share)}';"
                " share another folder, or choose a state folder outside of it with --state."
            )


class NodeService(Service):
    """
    A node.

    @ivar settings: what the user decided.
    @ivar up: how fast it sends; L{Throttle.limit} changes that at any time.
    @ivar down: how fast it fetches.
    @ivar neighbourhood: whom it knows.
    @ivar introduction: what it says of itself, once it has started.
    @ivar sharing: what others get here, once it has started.
    @ivar fetching: what it fetches, once it has started.
    """

    log = Logger()
    introduction: Introduction
    sharing: Sharing
    fetching: Fetching

    def __init__(
        self,
        reactor: IReactorTime,
        settings: NodeSettings,
        *,
        listener: INodeListener | None = None,
        random: Random | None = None,
        run_blocking: RunBlocking | None = None,
        run_long: RunBlocking | None = None,
        local_addresses: Callable[[], Sequence[LocalAddress]] = addresses_of_host,
        open_notifier: OpenNotifier | None = None,
        reads_cached: bool | None = None,
    ) -> None:
        """
        @param reactor: with what its endpoints and its beacon need.
        @param settings: what the user decided.
        @param listener: is told what happens.
        @param random: for keys, nonces, ids and jitter. Another than the system's, which is used
            unless it is given, is for tests: whoever can foresee it has the key of a node without a
            state folder.
        @param run_blocking: runs what waits for the disk; threads of the node's own unless given.
        @param run_long: runs what hashes whole files; C{run_blocking} if only that is given.
        @param local_addresses: finds this machine's addresses.
        @param open_notifier: opens what watches the folders of the shares. Unless given, the
            system's own is used, if C{reactor} can serve it and C{run_blocking} is not given:
            then nothing here is simulated.
        @param reads_cached: whether what the system has in memory is read without a worker; unless
            given, if C{run_blocking} is not.
        """
        self.settings = settings
        self.up = Throttle(reactor, settings.up)
        self.down = Throttle(reactor, settings.down)
        self._reactor = reactor
        self._listener = listener or NodeListener()
        self._random = random or SystemRandom()
        self._workers: Workers | None = None
        self._hashed_at_once = 1
        if run_blocking is None:
            self._hashed_at_once = os.cpu_count() or 1
            self._workers = Workers(IReactorFromThreads(reactor))
            run_blocking, run_long = self._workers.run_blocking, self._workers.run_long
            if open_notifier is None and settings.serves:
                from flow512.transfer.inotify import notifiers_of

                open_notifier = notifiers_of(reactor)
            reads_cached = True if reads_cached is None else reads_cached
        self._open_notifier = open_notifier
        self._reads_cached = bool(reads_cached)
        self._run_blocking = run_blocking
        self._run_long = run_long or run_blocking
        self._local_addresses = local_addresses
        self._presence: Presence | None = None
        self._is_prepared = False
        self._ending = Ending(self._stop)
        self.neighbourhood = Neighbourhood(
            reactor, settings, self._listener, self._random, run_blocking
        )

    # Starting

    def privilegedStartService(self) -> None:
        """
        Open the state and the port.

        @raise Flow512Error: the node cannot run, or is still stopping; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._ending.is_under_way:
            raise Misuse("The node is still stopping; wait for what stopService() returned.")
        if self._is_prepared:
            return
        if self.settings.state is not None:
            # Before anything is made in it: a key that is left there would be shared by others.
            check_state_is_not_shared(self.settings.state, self.settings.offered)
        presence = self._presence = self._make_presence()
        try:
            self._open(presence)
            if self.settings.serves:
                self._listen(presence)
        except BaseException:
            self._close(presence)
            raise
        self._is_prepared = True

    def _make_presence(self) -> Presence:
        settings = self.settings
        return Presence(
            self._reactor,
            Claims(
                settings.name,
                settings.network,
                settings.network_key_file,
                settings.encryption,
                settings.state,
                settings.beside,
            ),
            Airwaves(settings.beacon_port, settings.interfaces, self._local_addresses),
            settings.limits,
            self._random,
        )

    def _open(self, presence: Presence) -> None:
        self.introduction = presence.introduction
        standing = presence.standing
        client = TransferClient(
            self.introduction,
            self._reactor,
            standing.endpoint,
            self._run_blocking,
            self._run_long,
            self.down,
            self._random,
        )
        self.sharing = Sharing(
            self._reactor,
            self.settings,
            presence,
            self.neighbourhood,
            self.up,
            self._run_blocking,
            self._run_long,
            self._reads_cached,
        )
        self.fetching = Fetching(
            self._reactor,
            self.settings,
            client,
            standing,
            self.neighbourhood,
            self.sharing,
            self._run_blocking,
            self._run_long,
        )
        self.neighbourhood.open(presence, client.connect)
        if self.settings.serves:
            self.sharing.open()

    def _listen(self, presence: Presence) -> None:
        presence.listen(self.settings.listen or usual_places(DEFAULT_PORT, 0))
        if self.settings.bootstrap is Mode.ALWAYS and not self.port:
            if presence.listening is not None:
                presence.listening.stopListening()
            raise Misuse(
                "Only a node that listens on a TCP port can be the bootstrap; choose another"
                " place with --listen, or leave out --bootstrap always."
            )
        if not self.settings.listen and self.port != DEFAULT_PORT:
            self.log.info(
                "Port {taken} is taken; serving at port {port} instead.",
                taken=DEFAULT_PORT,
                port=self.port,
            )

    def _say_where(self, listening: IListeningPort) -> None:
        if not self.port:
            self.log.info("Server running on {address}", address=listening.getHost())
            return
        self.log.info("Server running on port {port}", port=self.port)
        self.log.info(
            "File-sharing node running at IP: {host}, Port: {port}", host=self.host, port=self.port
        )

    def startService(self) -> None:
        """
        Begin to serve, to announce, and to look for the registry.

        @raise Flow512Error: as L{privilegedStartService}, if that was not called before.
        """
        if self.running:
            return  # a parent that was running has started it
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        presence = self._presence
        assert presence is not None
        if self._workers is not None:
            self._workers.startService()
        presence.watch_bans(self._run_blocking)
        if presence.listening is not None:
            self._say_where(presence.listening)
            self._listener.node_listening(self.host, self.port)
        self.sharing.start_indexing(
            self._listener.node_indexed, self._open_notifier, self._hashed_at_once
        )
        self.neighbourhood.start()
        self.sharing.start_telling()

    # Stopping

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and end everything.

        @return: fires when nothing is open any more. Cancelling it does not keep the node from
            ending.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return self._ending.ask()

    async def _stop(self) -> None:
        presence = self._presence
        if presence is None:
            return
        told = self.sharing.stop_telling()
        await self.neighbourhood.leave()
        await self.fetching.stop()
        await presence.stop_listening()
        await self.neighbourhood.stop()
        await self.sharing.stop()
        await told
        if self._workers is not None:
            self._workers.stopService()
        self._close(presence)

    def _close(self, presence: Presence) -> None:
        self.sharing.close()
        self.neighbourhood.close()
        presence.close()
        self._presence = None
        self._is_prepared = False

    # What most programs ask

    @property
    def host(self) -> str:
        """An address that others on the network reach this node at."""
        return LOOPBACK if self._presence is None else self._presence.host

    @property
    def port(self) -> int:
        """The TCP port that it serves at; 0 if it does not, or on something else than TCP."""
        return 0 if self._presence is None else self._presence.port

    @property
    def peers(self) -> list[Peer]:
        """The peers that the registry lists, without this node."""
        return self.neighbourhood.peers

    @property
    def leadership(self) -> Leadership | None:
        """Who carries the registry that this node follows; L{None} while there is none."""
        return self.neighbourhood.leadership

    def get(
        self, wanted: str, *, peer: str = "", target: Target | None = None
    ) -> Deferred[Fetched]:
        """
        Find a file among the peers, and fetch it. L{Fetching.get} can be told more.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask: a name, a node id or an address; everybody who is known if empty.
        @param target: where it is to go; the downloads folder unless given.
        @return: what became of it; fails with a L{Flow512Error<flow512.errors.Flow512Error>}, such
            as L{Misuse} if the node does not run. Cancelling it keeps what was verified for the
            next time. If that is done, or the node is stopped, it fails with Twisted's
            C{CancelledError}.
        """
        if not self.running:
            return fail(Misuse("The node is not running; start it first."))
        return self.fetching.get(wanted, peer=peer, target=target)
