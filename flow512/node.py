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
from contextlib import ExitStack
from random import Random, SystemRandom
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library
from flow512.content.paths import escape
from flow512.content.shares import Share
from flow512.content.tree import SCHEME, parse_content_id
from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
    check_interfaces,
    choose_interfaces,
)
from flow512.discovery.beacon import Beacon
from flow512.discovery.election import Mode
from flow512.discovery.engine import Sighting
from flow512.errors import Misuse, NoSuchPeer
from flow512.interfaces import RunBlocking, Workers
from flow512.link.address import (
    DEFAULT_PORT,
    LOOPBACK,
    HostPort,
    client_endpoint,
    host_of,
    listen_at,
    parse_address,
    usual_places,
)
from flow512.link.ban_watch import BanWatch
from flow512.link.introduction import Introduction
from flow512.link.listening_file import Listening, ListeningFile
from flow512.link.node_id import format_node_id, parse_node_id, split_node_id
from flow512.link.shared_port import SharedPortFactory
from flow512.link.standing import Claims, Standing
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower
from flow512.registry.server import RegistryFactory
from flow512.settings import (
    INodeListener,
    NodeListener,
    NodeSettings,
)
from flow512.transfer.access_log import AccessLog
from flow512.transfer.client import TransferClient
from flow512.transfer.download import Checksum, Download
from flow512.transfer.fetch import Fetched, Target
from flow512.transfer.finding import Candidate
from flow512.transfer.indexing import IndexingService
from flow512.transfer.server import TransferFactory
from flow512.units import PIECES_PER_BLOCK
from flow512.wire.messages import Entry, Peer

MIN_BEGINNING: Final = 7
"""Characters of a node id that are enough to name a peer by: its first group."""

_CATALOG_FILE: Final = "catalog.sqlite"


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
                " choose another with --state, outside of it."
            )


@implementer(IPeerListListener)
class NodeService(Service):
    """
    A node.

    @ivar settings: what the user decided.
    @ivar introduction: what it says of itself, once it has started.
    @ivar client: what it fetches with, once it has started.
    @ivar port: the TCP port that it serves at; 0 if it does not, or on something else than TCP.
    """

    log = Logger()
    introduction: Introduction
    client: TransferClient
    port = 0

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
    ) -> None:
        """
        @param reactor: with what its endpoints and its beacon need.
        @param settings: what the user decided.
        @param listener: is told what happens.
        @param random: for ids and jitter.
        @param run_blocking: runs what waits for the disk; threads of the node's own unless given.
        @param run_long: runs what hashes whole files; C{run_blocking} if only that is given.
        @param local_addresses: finds this machine's addresses.
        """
        self.settings = settings
        self._reactor = reactor
        self._listener = listener or NodeListener()
        self._random = random or SystemRandom()
        self._workers: Workers | None = None
        if run_blocking is None:
            self._workers = Workers(IReactorFromThreads(reactor))
            run_blocking, run_long = self._workers.run_blocking, self._workers.run_long
        self._run_blocking = run_blocking
        self._run_long = run_long or run_blocking
        self._local_addresses = local_addresses
        self._standing: Standing | None = None
        self._ban_watch: BanWatch | None = None
        self._listening_file: ListeningFile | None = None
        self._catalog: Catalog | None = None
        self._library: Library | None = None
        self._listening: IListeningPort | None = None
        self._shared: SharedPortFactory | None = None
        self._transfer: TransferFactory | None = None
        self._registry: RegistryFactory | None = None
        self._indexing: IndexingService | None = None
        self._beacon: Beacon | None = None
        self._follower: RegistryFollower | None = None
        self._fetching: dict[Deferred[Fetched], Deferred[None]] = {}  # and what fires at its end
        self._is_prepared = False

    # Starting

    def privilegedStartService(self) -> None:
        """
        Open the state and the port.

        @raise Flow512Error: the node cannot run; nothing is left open.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._is_prepared:
            return
        try:
            self._open()
            if self.settings.serves:
                self._listen()
        except BaseException:
            self._close()
            raise
        self._is_prepared = True

    def _open(self) -> None:
        settings = self.settings
        standing = self._standing = Standing(
            Claims(
                settings.name,
                settings.network,
                settings.network_key_file,
                settings.encryption,
                settings.state,
                settings.beside,
            ),
            self._reactor,
            self._random,
        )
        self.introduction = standing.introduction
        self.client = TransferClient(
            self.introduction,
            self._reactor,
            standing.endpoint,
            self._run_blocking,
            self._run_long,
        )
        if settings.beacon_port is not None:
            check_interfaces(settings.interfaces, self._local_addresses())
        self._registry_place = self._configured()
        if self._registry_place is not None:
            # Whether that is an address at all is known now, and not only when it is dialled.
            client_endpoint(self._reactor, self._registry_place[0])
        catalog = IN_MEMORY
        if standing.state is not None:
            check_state_is_not_shared(standing.state.path, settings.offered)
            catalog = standing.state.file(_CATALOG_FILE)
        if settings.serves:
            self._catalog = Catalog(catalog, self._catalog_damaged)
            with ExitStack() as undo:
                shares = []
                for path in settings.offered:
                    shares.append(Share(path, allow=settings.allow, parse_id=parse_node_id))
                    undo.callback(shares[-1].close)
                self._library = Library(self._catalog, shares, AccessLog(self._reactor.seconds))
                undo.pop_all()

    def _configured(self) -> tuple[HostPort | str, bytes | None] | None:
        """The registry that the user named, or that came with the network, and its node id."""
        if self.settings.registry is not None:
            return self.settings.registry, self.settings.registry_node
        assert self._standing is not None
        for each in self._standing.network.registries:
            if each.node is None or not self.is_itself(each.node):
                return each.address, each.node
        return None

    def _catalog_damaged(self, sentence: str) -> None:
        self.log.warn("{sentence}", sentence=sentence)

    def _listen(self) -> None:
        assert self._library is not None
        assert self._standing is not None
        self._shared = SharedPortFactory(self.introduction, self._reactor, self.settings.limits)
        self._transfer = TransferFactory(
            self._library,
            self.introduction,
            self._reactor,
            self._run_blocking,
            self._run_long,
            limits=self.settings.limits,
        )
        self._shared.conversations["transfer"] = self._transfer
        failures: list[Failure] = []
        Deferred.fromCoroutine(
            listen_at(
                self._reactor,
                self.settings.listen or usual_places(DEFAULT_PORT, 0),
                self._standing.security.accepting(self._shared),
            )
        ).addCallbacks(self._listens, failures.append)
        if failures:
            failures[0].raiseException()
        if self.settings.bootstrap is Mode.ALWAYS and not self.port:
            if self._listening is not None:
                self._listening.stopListening()
            raise Misuse(
                "Only a node that listens on a TCP port can be the bootstrap; choose another"
                " place with --listen, or leave out --bootstrap always."
            )

    def _listens(self, port: IListeningPort) -> None:
        self._listening = port
        address = port.getHost()
        self.port = getattr(address, "port", 0)
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

    def _write_where(self, listening: IListeningPort) -> None:
        assert self._standing is not None
        if self.port and self._standing.state is not None:
            self._listening_file = ListeningFile(
                self._standing.state.path, Listening(host_of(listening, ""), self.port)
            )

    def startService(self) -> None:
        """
        Begin to serve, to announce, and to look for the registry.

        @raise Flow512Error: as L{privilegedStartService}, if that was not called before.
        """
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        settings = self.settings
        assert self._standing is not None
        if self._workers is not None:
            self._workers.startService()
        self._ban_watch = self._standing.ban_watch(self._run_blocking, self._banned)
        if self._ban_watch is not None:
            self._ban_watch.startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        if self._listening is not None:
            self._say_where(self._listening)
            self._write_where(self._listening)
            self._listener.node_listening(self.host, self.port)
        if self._library is not None:
            self._indexing = IndexingService(
                self._library,
                self._reactor,
                self._run_long,
                self._listener.node_indexed,
                settings.rescan,
            )
            self._indexing.startService()
        if settings.beacon_port is not None:
            self._beacon = self._make_beacon(self._standing, settings.beacon_port)
            self._beacon.startService()
        self._follower = RegistryFollower(
            self._reactor,
            self._standing.endpoint,
            self.introduction,
            # Whom nobody can reach by TCP would be a registry for nobody.
            mode=settings.bootstrap if self.port else Mode.NEVER,
            configured=None if self._registry_place is None else self._registry_place[0],
            configured_node=None if self._registry_place is None else self._registry_place[1],
            port=self.port,
            ticket=self._random.randbytes(16),
            random=self._random,
            sightings=self.sightings,
            listens=self._beacon is not None,
            lead=self._lead,
            listener=self,
            limits=settings.limits,
        )
        self._follower.startService()

    def _make_beacon(self, standing: Standing, port: int) -> Beacon:
        beacon = Beacon(
            self._reactor,
            name=self.introduction.name,
            random=self._random,
            port=port,
            network=standing.beacon_tag,
            seal_key=standing.seal_key,
            node_id=self.introduction.node,
            interfaces=lambda: choose_interfaces(self.settings.interfaces, self._local_addresses()),
            on_found=self._sightings_changed,
            on_lost=self._sightings_changed,
        )
        if self.port:
            beacon.offer("node", self.port)
        return beacon

    def _banned(self, node: bytes) -> None:
        if self._shared is not None:
            self._shared.end(node)

    def _sightings_changed(self, sighting: Sighting) -> None:
        if self._follower is not None:
            self._follower.reconsider()

    # Stopping

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and end everything.

        @return: fires when nothing is open any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        beacon, self._beacon = self._beacon, None
        if beacon is not None:
            await beacon.stopService()
        watch, self._ban_watch = self._ban_watch, None
        if watch is not None:
            await maybeDeferred(watch.stopService)
        written, self._listening_file = self._listening_file, None
        if written is not None:
            written.close()
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.stopService()
        for fetching, ended in list(self._fetching.items()):
            fetching.cancel()
            await ended
        await self.client.stop()
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        if self._shared is not None:
            self._shared.close_waiting()
        if self._registry is not None:
            await self._registry.stop()
        if self._transfer is not None:
            await self._transfer.stop()
        if self._indexing is not None:
            await maybeDeferred(self._indexing.stopService)
        if self._workers is not None:
            self._workers.stopService()
        self._close()

    def _close(self) -> None:
        if self._library is not None:
            self._library.close()
        if self._catalog is not None:
            self._catalog.close()
        if self._standing is not None:
            self._standing.close()
        self._library = self._catalog = self._standing = None
        self._listening = self._shared = self._transfer = self._registry = None
        self._is_prepared = False
        self.port = 0

    # The registry

    def _lead(self) -> HostPort:
        assert self._shared is not None
        self.log.info("No bootstrap node found, starting as bootstrap.")
        assert self._standing is not None
        self._registry = RegistryFactory(
            self.introduction,
            self._reactor,
            connect=self._standing.endpoint,
            limits=self.settings.limits,
        )
        self._registry.startFactory()
        self._shared.conversations["registry"] = self._registry
        self.log.info("Bootstrap node started on port {port}.", port=self.port)
        self.log.info("No peers available yet, this is the first node in the network.")
        self._registry.listening(self.host, self.port)
        if self._beacon is not None and self.port:
            self._beacon.offer("registry", self.port)
        self._listener.bootstrap_started(self.port)
        return HostPort(host_of(self._listening, LOOPBACK), self.port)

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        joined = [peer for peer in joined if not self.is_itself(peer.node)]
        left = [peer for peer in left if not self.is_itself(peer.node)]
        changed = [peer for peer in changed if not self.is_itself(peer.node)]
        if not (joined or left or changed):
            return
        self.log.info(
            "Received updated peers list: {count} in all, {joined} joined, {left} left",
            count=len(self.peers),
            joined=len(joined),
            left=len(left),
        )
        self._listener.peers_changed(joined, left, changed)

    # What is known

    @property
    def host(self) -> str:
        """An address that others on the network reach this node at."""
        usual = choose_interfaces(self.settings.interfaces, self._local_addresses())
        return host_of(self._listening, usual[0].address if usual else LOOPBACK)

    @property
    def peers(self) -> list[Peer]:
        """The peers that the registry lists, without this node."""
        listed = () if self._follower is None else self._follower.peers
        return [peer for peer in listed if not self.is_itself(peer.node)]

    def is_itself(self, node: bytes) -> bool:
        """
        Tell whether a node id is only this node's.
        """
        # A node that fetches only may share its identity with one that serves on this machine.
        return self.settings.serves and node == self.introduction.node

    def sightings(self) -> tuple[Sighting, ...]:
        """What the beacon sees."""
        return () if self._beacon is None else self._beacon.sightings

    @property
    def is_listed(self) -> bool:
        """Whether a registry knows this node, and has sent the list of peers."""
        client = None if self._follower is None else self._follower.client
        return client is not None and client.is_listed

    @property
    def is_bootstrap(self) -> bool:
        """Whether this node carries the registry."""
        return self._registry is not None

    def candidates(self) -> list[Candidate]:
        """
        Everyone who may be asked for a file: those whom the registry lists, and those whom the
        beacon sees besides.
        """
        listed = [] if self._follower is None else self._follower.peers_to_dial()
        found = [Candidate(HostPort(each.host, each.port), each.name, each.node) for each in listed]
        admits = self.introduction.admits
        found = [each for each in found if each.node is None or admits(each.node)]
        # Not by id: anybody on the network can announce anybody's, at an address of their own.
        known = {each.address for each in found}
        for sighting in self.sightings():
            port = sighting.port("node")
            if port is None or self.is_itself(sighting.node_id) or not admits(sighting.node_id):
                continue
            address = HostPort(sighting.host, port)
            if address not in known:
                known.add(address)
                found.append(Candidate(address, sighting.name, sighting.node_id or None))
        return found

    def candidate(self, wanted: str) -> Candidate:
        """
        Find the peer that a user means.

        @param wanted: a name or the beginning of a node id of a known peer (7 characters at
            least), or an address, as C{ID@ADDRESS} if only that node may answer there.
        @raise NoSuchPeer: several peers are called that.
        @raise Misuse: it is none of these.
        """
        beginning = wanted.upper() if len(wanted) >= MIN_BEGINNING else "-"
        known = [
            each
            for each in self.candidates()
            if each.name == wanted
            or (each.node is not None and format_node_id(each.node).startswith(beginning))
        ]
        if len({each.node or each.address for each in known}) > 1:
            which = ", ".join(f"{each.address}" for each in known)
            raise NoSuchPeer(
                f"Several peers are called '{escape(wanted)}'; name one by its address: {which}."
            )
        if known:
            return known[0]
        node, address = split_node_id(wanted)
        return Candidate(parse_address(address), node=node)

    def _addresses_of(self, chosen: Candidate) -> list[Candidate]:
        same = [each for each in self.candidates() if each.node and each.node == chosen.node]
        return same or [chosen]

    def get(
        self,
        wanted: str,
        *,
        peer: str = "",
        target: Target | None = None,
        run: int = PIECES_PER_BLOCK,
        checksum: Checksum = Checksum.MD5,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        progress: Callable[[Download], None] = lambda download: None,
    ) -> Deferred[Fetched]:
        """
        Find a file among the peers, and fetch it.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask, as L{candidate} takes it; everybody who is known if empty.
        @param target: where it is to go; the downloads folder unless given.
        @param run: pieces that a frame may carry, 1 to L{PIECES_PER_BLOCK}.
        @param checksum: whether the MD5 is compared at the end.
        @param found: told who has it, and what it is.
        @param progress: told of the download as it grows.
        @return: what became of it; fails with a L{Flow512Error<flow512.errors.Flow512Error>}.
            Cancelling it keeps what was verified for the next time.
        """

        async def get() -> Fetched:
            is_id = wanted.startswith(SCHEME)
            return await self.client.get(
                self._addresses_of(self.candidate(peer)) if peer else self.candidates(),
                target or Target(self.settings.downloads or "."),
                path="" if is_id else wanted,
                root=parse_content_id(wanted) if is_id else None,
                run=run,
                checksum=checksum,
                found=found,
                progress=progress,
            )

        fetching = Deferred.fromCoroutine(get())
        ended: Deferred[None] = Deferred()
        self._fetching[fetching] = ended

        def has_ended(result: Fetched | Failure) -> Fetched | Failure:
            del self._fetching[fetching]
            ended.callback(None)
            return result

        return fetching.addBoth(has_ended)
