"""
A node: everything below, put together into one C{IService}.

Order of starting: state folder and catalog, then the port, then the rest; so a node that cannot
run says so before it has told anybody of itself. Order of stopping: goodbye to everyone (beacon,
registry), then what is being fetched, then no new connections, then the conversations, then the
work under way, then the files. Nothing outlives the L{Deferred} of L{NodeService.stopService}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond
from flow512.content.outlet import Outlet
from flow512.content.paths import escape
from flow512.content.tree import SCHEME, parse_content_id
from flow512.content.unfolding import Existing
from flow512.discovery.addresses import (
    LocalAddress,
    addresses_of_host,
)
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Why
from flow512.discovery.election import Mode
from flow512.discovery.engine import Sighting
from flow512.errors import Cancelled, Flow512Error, Misuse
from flow512.interfaces import RunBlocking, Workers
from flow512.link.address import (
    DEFAULT_PORT,
    LOOPBACK,
    client_endpoint,
    usual_places,
)
from flow512.link.faults import BANNED_FOR, STRIKES, Faults
from flow512.link.introduction import Introduction
from flow512.link.named_registry import NamedRegistry
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.link.presence import Airwaves, Presence
from flow512.link.security import Encryption
from flow512.link.standing import Claims, Standing
from flow512.link.throttle import Throttle
from flow512.registry.acquaintances import Met
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower
from flow512.registry.leaders import offers_known, offers_seen
from flow512.registry.leadership import Leadership
from flow512.registry.office import Office
from flow512.registry.term_file import TermKeeper
from flow512.settings import (
    INodeListener,
    NodeListener,
    NodeSettings,
)
from flow512.transfer.acquainting import Acquainting, Surroundings
from flow512.transfer.blocks import BlockSource
from flow512.transfer.candidates import candidates_among, choose_candidate
from flow512.transfer.client import TransferClient
from flow512.transfer.download import Checksum, Download
from flow512.transfer.exchange import Exchange
from flow512.transfer.fetch import Fetched, Growing, Target
from flow512.transfer.finding import Candidate
from flow512.transfer.folders import Progress as FolderProgress
from flow512.transfer.holders import KnownHolders
from flow512.units import PIECES_PER_BLOCK
from flow512.wire.fields import Peer
from flow512.wire.meeting import Met as MetMessage
from flow512.wire.messages import Entry

if TYPE_CHECKING:
    # Loaded by nodes that serve, offer, mend or lead: those that only fetch are in a hurry.
    from flow512.content.catalog import Catalog
    from flow512.content.library import Library
    from flow512.registry.server import RegistryFactory
    from flow512.registry.telling import Telling
    from flow512.transfer.indexing import IndexingService
    from flow512.transfer.inotify import OpenNotifier
    from flow512.transfer.mending import Mender
    from flow512.transfer.offers import Offers
    from flow512.transfer.server import TransferFactory

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


_T = TypeVar("_T")


@implementer(IPeerListListener)
class NodeService(Service):
    """
    A node.

    @ivar settings: what the user decided.
    @ivar introduction: what it says of itself, once it has started.
    @ivar client: what it fetches with, once it has started.
    @ivar up: how fast it sends; L{Throttle.limit} changes that at any time.
    @ivar down: how fast it fetches.
    @ivar offers: what it is downloading, for others; L{None} if it passes on nothing of that.
    """

    log = Logger()
    introduction: Introduction
    client: TransferClient

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
    ) -> None:
        """
        @param reactor: with what its endpoints and its beacon need.
        @param settings: what the user decided.
        @param listener: is told what happens.
        @param random: for ids and jitter.
        @param run_blocking: runs what waits for the disk; threads of the node's own unless given.
        @param run_long: runs what hashes whole files; C{run_blocking} if only that is given.
        @param local_addresses: finds this machine's addresses.
        @param open_notifier: opens what watches the folders of the shares. Unless given, the
            system's own is used, if C{reactor} can serve it and C{run_blocking} is not given:
            then nothing here is simulated.
        """
        self.settings = settings
        self.up = Throttle(reactor, settings.up)
        self.down = Throttle(reactor, settings.down)
        self.offers: Offers | None = None
        if settings.offer_downloads:
            from flow512.transfer.offers import Offers

            self.offers = Offers(reactor, self._may_have_downloads)
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
        self._open_notifier = open_notifier
        self._run_blocking = run_blocking
        self._run_long = run_long or run_blocking
        self._local_addresses = local_addresses
        self._presence: Presence | None = None
        self._catalog: Catalog | None = None
        self._library: Library | None = None
        self._transfer: TransferFactory | None = None
        self._office: Office | None = None
        self._indexing: IndexingService | None = None
        self._follower: RegistryFollower | None = None
        self._telling: Telling | None = None
        self._acquainting: Acquainting | None = None
        self._holders = KnownHolders()
        self._faults = Faults()
        self._fetching: dict[Deferred[Any], Deferred[None]] = {}  # and what fires at its end
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
            if self._presence is not None and self.settings.serves:
                self._listen(self._presence)
        except BaseException:
            self._close()
            raise
        self._is_prepared = True

    def _open(self) -> None:
        settings = self.settings
        presence = self._presence = Presence(
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
        standing = presence.standing
        self.introduction = presence.introduction
        self.client = TransferClient(
            self.introduction,
            self._reactor,
            standing.endpoint,
            self._run_blocking,
            self._run_long,
            self.down,
            self._random,
        )
        self._acquainting = self._make_acquainting()
        self._named = self._configured(standing)
        for each in self._named:
            # Whether that is an address at all is known now, and not only when it is dialled.
            client_endpoint(self._reactor, each.address)
        self._terms = TermKeeper(
            None if standing.state is None else standing.state.path, self._run_blocking
        )
        if standing.state is not None:
            check_state_is_not_shared(standing.state.path, settings.offered)
        if settings.serves:
            self._open_library(standing)

    def _open_library(self, standing: Standing) -> None:
        from flow512.content.catalog import IN_MEMORY, Catalog
        from flow512.content.library import Library
        from flow512.content.shares import Share
        from flow512.transfer.access_log import AccessLog

        settings, state = self.settings, standing.state
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

    def _make_acquainting(self) -> Acquainting:
        settings = self.settings
        is_patient = settings.beacon_port is not None or bool(settings.registries)
        return Acquainting(
            self._reactor,
            self.client.connect,
            Surroundings(
                lambda: self.registry,
                self._listed,
                self._said_to_be_there,
                lambda: self.port,
                self._may_ask,
                self._reconsider_registry,
            ),
            settings.limits,
            self._random,
            self._run_blocking,
            name=self.introduction.name,
            named=settings.peers,
            state=(settings.state or settings.beside) if settings.remembers else None,
            may_write=settings.state is not None,
            is_patient=is_patient,
        )

    def _listed(self) -> Collection[bytes]:
        client = None if self._follower is None else self._follower.client
        return () if client is None else frozenset(client.peers)

    def _said_to_be_there(self) -> list[Peer]:
        listed = [] if self._follower is None else self._follower.peers_to_dial()
        seen = [
            Peer(each.node_id, each.name, each.host, port)
            for each in self.sightings()
            if each.node_id and (port := each.port("node")) is not None
        ]
        return [*listed, *seen]

    def _reconsider_registry(self) -> None:
        if self._follower is not None:
            self._follower.reconsider()

    def _configured(self, standing: Standing) -> tuple[NamedRegistry, ...]:
        """The registries that the user named, or that came with the network."""
        return self.settings.registries or tuple(
            NamedRegistry(each.address, each.node)
            for each in standing.network.registries
            if each.node is None or not self.is_itself(each.node)
        )

    def _catalog_damaged(self, sentence: str) -> None:
        self.log.warn("{sentence}", sentence=sentence)

    def _serve(self, presence: Presence) -> None:
        from flow512.transfer.server import TransferFactory

        assert self._library is not None
        self._transfer = TransferFactory(
            self._library,
            self.introduction,
            self._reactor,
            self._run_blocking,
            self._run_long,
            limits=self.settings.limits,
            up=self.up,
            offers=self.offers,
            holders=self._holders,
            met=self._met,
        )
        presence.shared.conversations["transfer"] = self._transfer

    def _met(self, visitor: bytes, at: Peer | None) -> MetMessage:
        acquainting = self._acquainting
        return MetMessage() if acquainting is None else acquainting.asked(visitor, at)

    def _listen(self, presence: Presence) -> None:
        self._serve(presence)
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
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        settings = self.settings
        presence = self._presence
        assert presence is not None
        if self._workers is not None:
            self._workers.startService()
        presence.watch_bans(self._run_blocking)
        if presence.listening is not None:
            self._say_where(presence.listening)
            self._listener.node_listening(self.host, self.port)
        if self._library is not None:
            from flow512.transfer.indexing import IndexingService

            self._indexing = IndexingService(
                self._library,
                self._reactor,
                self._run_long,
                self._listener.node_indexed,
                settings.rescan,
                self._open_notifier,
                self._hashed_at_once,
            )
            self._indexing.startService()
        presence.announce("node", self._sightings_changed)
        office = self._office = Office(self._reactor, presence, self._make_registry)
        self._follower = RegistryFollower(
            self._reactor,
            presence.standing.endpoint,
            self.introduction,
            # Whom nobody can reach by TCP would be a registry for nobody.
            mode=settings.bootstrap if self.port else Mode.NEVER,
            named=self._named,
            keeps_all=settings.registry_all,
            port=self.port,
            ticket=self._random.randbytes(16),
            random=self._random,
            offers=self._registry_offers,
            listens=presence.beacon is not None,
            office=office,
            listener=self,
            limits=settings.limits,
            term=self._terms.term,
            remember=self._terms.remember,
        )
        office.known, office.heard = self._follower.known, self._follower.heard
        if self._library is not None:
            from flow512.registry.telling import Telling

            self._telling = Telling(
                self._reactor,
                self._library.roots,
                self._run_blocking,
                self._follower.hold,
                settings.limits.holdings_per_node,
            )
            self._telling.changed()
            if self.offers is not None:
                self.offers.began = self._telling.hold_part
                self.offers.ended = self._telling.drop_part
        self._follower.startService()
        if self._acquainting is not None:
            self._acquainting.start()

    def _may_have_downloads(self, asker: bytes) -> bool:
        # In a worker. A download may go to any of the shares, so it is for those who see them all.
        library, allow = self._library, self.settings.allow
        return (
            library is not None
            and (not allow or asker in allow)
            and not library.seen_by(asker).withheld
        )

    # What downloads give and take beside

    def _exchange(self) -> Exchange:
        return Exchange(
            self._who_holds,
            self._may_dial,
            self._holders,
            self.settings.limits,
            self.offers,
            self._offering_port,
        )

    def _who_holds(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        if self._follower is None:
            return fail(Cancelled("The node has stopped."))
        return self._follower.who(root)

    def _may_dial(self, peer: Peer) -> bool:
        # By its port: a node that only fetches may share its identity with one that serves.
        is_ours = peer.node == self.introduction.node and peer.port == self.port
        return not is_ours and self.introduction.admits(peer.node)

    def _offering_port(self) -> int:
        presence = self._presence
        if presence is not None and self._library is None:
            # It serves nothing else, so it listens only now that there is something to pass on.
            from flow512.content.catalog import IN_MEMORY, Catalog
            from flow512.content.library import Library

            try:
                self._catalog = Catalog(IN_MEMORY, self._catalog_damaged)
                self._library = Library(self._catalog, ())
                self._serve(presence)
                presence.listen(self.settings.listen or usual_places(0))
            except Flow512Error as error:
                self.log.info("Downloads are not passed on: {why}", why=escape(str(error)))
        return self.port

    def _roots_changed(self) -> None:
        # On whichever thread has noticed.
        IReactorFromThreads(self._reactor).callFromThread(self._tell_roots)

    def _tell_roots(self) -> None:
        if self._telling is not None:
            self._telling.changed()

    def _sightings_changed(self, sighting: Sighting) -> None:
        self._reconsider_registry()

    # Stopping

    def stopService(self) -> Deferred[None]:
        """
        Say goodbye, and end everything.

        @return: fires when nothing is open any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted has no types there
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        presence = self._presence
        if presence is not None:
            await presence.fall_silent()
        if self._acquainting is not None:
            await self._acquainting.stop()
        telling, self._telling = self._telling, None
        told = succeed(None) if telling is None else telling.stop()
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.stopService()
        for fetching, ended in list(self._fetching.items()):
            fetching.cancel()
            await ended
        await self.client.stop()
        if presence is not None:
            await presence.stop_listening()
        if self._office is not None:
            await self._office.stop()
        if self.offers is not None:
            self.offers.stop()
        if self._transfer is not None:
            await self._transfer.stop()
        if self._indexing is not None:
            await maybeDeferred(self._indexing.stopService)
        await told
        await self._terms.finish()
        if self._workers is not None:
            self._workers.stopService()
        self._close()

    def _close(self) -> None:
        if self._library is not None:
            self._library.close()
        if self._catalog is not None:
            self._catalog.close()
        if self._presence is not None:
            self._presence.close()
        self._library = self._catalog = self._presence = None
        self._transfer = self._office = self._acquainting = None
        self._is_prepared = False

    # The registry

    def _make_registry(
        self,
        claim: Claim,
        known: Callable[[int], None],
        heard: Callable[[RegistryOffer], None],
    ) -> RegistryFactory:
        from flow512.registry.server import RegistryFactory

        presence = self._presence
        assert presence is not None
        if claim.why == Why.NOBODY.value:
            self.log.info("No bootstrap node found, starting as bootstrap.")
        registry = RegistryFactory(
            self.introduction,
            self._reactor,
            connect=presence.standing.endpoint,
            random=self._random,
            limits=self.settings.limits,
            claim=claim,
            term_known=known,
            heard=heard,
        )
        self.log.info("Bootstrap node started on port {port}.", port=self.port)
        if not self.peers:
            self.log.info("No peers available yet, this is the first node in the network.")
        self._listener.bootstrap_started(self.port)
        return registry

    def _registry_offers(self) -> list[RegistryOffer]:
        """Where registries may be."""
        # Of one address the last counts; what the beacon sees says what is claimed there.
        return [*offers_known(self.known_registries), *offers_seen(self.sightings())]

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
        return LOOPBACK if self._presence is None else self._presence.host

    @property
    def port(self) -> int:
        """The TCP port that it serves at; 0 if it does not, or on something else than TCP."""
        return 0 if self._presence is None else self._presence.port

    @property
    def peers(self) -> list[Peer]:
        """The peers that the registry lists, without this node."""
        listed = () if self._follower is None else self._follower.peers
        return [peer for peer in listed if not self.is_itself(peer.node)]

    @property
    def acquaintances(self) -> list[Peer]:
        """The peers that this node has met lately, whether a registry lists them or not."""
        return [] if self._acquainting is None else self._acquainting.known

    @property
    def is_settled(self) -> bool:
        """Whether all have been visited whom this node heard of by now, or remembers."""
        return self._acquainting is None or self._acquainting.is_settled

    @property
    def peer_trouble(self) -> str:
        """Why a peer that the user named was not reached, if none was."""
        return "" if self._acquainting is None else self._acquainting.trouble

    @property
    def known_registries(self) -> list[Met]:
        """
        Registries that may be tried, besides those that the user named or the beacon sees: those
        that have listed this node, now or in an earlier run, the latest first; then those that
        peers have told of, with no time. Nobody vouches for them.
        """
        return [] if self._acquainting is None else self._acquainting.registries

    def is_itself(self, node: bytes) -> bool:
        """
        Tell whether a node id is only this node's.
        """
        # A node that fetches only may share its identity with one that serves on this machine.
        return self.settings.serves and node == self.introduction.node

    def sightings(self) -> tuple[Sighting, ...]:
        """What the beacon sees."""
        return () if self._presence is None else self._presence.sightings

    @property
    def is_listed(self) -> bool:
        """Whether a registry knows this node, and has sent the list of peers."""
        client = None if self._follower is None else self._follower.client
        return client is not None and client.is_listed

    @property
    def registry(self) -> Peer | None:
        """Where the registry is that lists this node now, and its node id; L{None} if none does."""
        client = None if self._follower is None else self._follower.client
        return None if client is None else client.registry

    @property
    def is_reachable(self) -> bool | None:
        """Whether the registry has reached this node; L{None} if it has not said so."""
        client = None if self._follower is None else self._follower.client
        return None if client is None else client.is_reachable

    @property
    def why_unreachable(self) -> str:
        """Why the registry has not reached this node, escaped; empty if it did, or was silent."""
        client = None if self._follower is None else self._follower.client
        return "" if client is None else client.why_unreachable

    @property
    def off_clock(self) -> Mapping[str, float]:
        """Some whose clocks are too far off: address, and seconds that they are late by ours."""
        beacon = None if self._presence is None else self._presence.beacon
        return {} if beacon is None else beacon.off_clock

    @property
    def beacon_addresses(self) -> Sequence[LocalAddress]:
        """The addresses of this machine that the beacon uses, or would."""
        return () if self._presence is None else self._presence.beacon_addresses

    @property
    def registry_trouble(self) -> str:
        """Why the registry that is tried does not list this node; empty if it said nothing."""
        client = None if self._follower is None else self._follower.trying
        return "" if client is None else client.trouble

    @property
    def is_bootstrap(self) -> bool:
        """Whether this node carries the registry that it follows."""
        return self._follower is not None and self._follower.is_leading

    @property
    def leadership(self) -> Leadership | None:
        """Who carries the registry that this node follows; L{None} while there is none."""
        return None if self._follower is None else self._follower.leadership

    def candidates(self) -> list[Candidate]:
        """
        Everyone who may be asked for a file: those whom the registry lists, those whom this node
        has met otherwise, and those whom the beacon sees besides.
        """
        listed = [] if self._follower is None else self._follower.peers_to_dial()
        known = {each.node for each in listed}
        met = [each for each in self.acquaintances if each.node not in known]
        return candidates_among([*listed, *met], self.sightings(), self._may_ask)

    def _may_ask(self, node: bytes) -> bool:
        return not self.is_itself(node) and self.introduction.admits(node)

    def candidate(self, wanted: str) -> Candidate:
        """
        Find the peer that a user means.

        @param wanted: as for L{choose_candidate}.
        @raise Flow512Error: as L{choose_candidate}.
        """
        return choose_candidate(self.candidates(), wanted)

    def candidates_for(self, peer: str) -> list[Candidate]:
        """
        Find whom to ask.

        @param peer: as L{candidate} takes it; everybody who is known if empty.
        @raise Flow512Error: as L{choose_candidate}.
        """
        return self._addresses_of(self.candidate(peer)) if peer else self.candidates()

    def _candidates_beside(self, known: Sequence[Candidate]) -> list[Candidate]:
        addresses = {each.address for each in known}
        others = (each for each in self.candidates() if each.address not in addresses)
        return [*known, *others]

    def mender(
        self, blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None
    ) -> Mender:
        """
        Make what looks at local files, and repairs them, with this node's workers.

        @param blame: told who sent something wrong, and what.
        """
        from flow512.transfer.mending import Mender

        return Mender(self._reactor, self._run_blocking, self._run_long, self._blaming(blame))

    def _addresses_of(self, chosen: Candidate) -> list[Candidate]:
        same = [each for each in self.candidates() if each.node and each.node == chosen.node]
        return same or [chosen]

    def get(
        self,
        wanted: str,
        *,
        peer: str = "",
        known: Sequence[Candidate] = (),
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        target: Target | None = None,
        run: int = PIECES_PER_BLOCK,
        checksum: Checksum = Checksum.MD5,
        found: Callable[[Candidate, Entry], None] = lambda candidate, entry: None,
        progress: Callable[[Growing], None] = lambda download: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Deferred[Fetched]:
        """
        Find a file among the peers, and fetch it.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask, and nobody else, as L{candidate} takes it; if empty, everybody
            who is known, and those whom these and the registry know, and they may ask this node.
        @param known: whom to ask first, if C{peer} is empty.
        @param also: see L{TransferClient.get}.
        @param target: where it is to go; the downloads folder unless given.
        @param run: pieces that a frame may carry, 1 to L{PIECES_PER_BLOCK}.
        @param checksum: whether the MD5 is compared at the end.
        @param found: told who has it, and what it is.
        @param progress: told of the download as it grows.
        @param blame: told who sent something wrong, and what.
        @param passed_over: told who is of no use, and why, without having sent anything wrong.
        @return: what became of it; fails with a L{Flow512Error<flow512.errors.Flow512Error>}.
            Cancelling it keeps what was verified for the next time.
        """

        async def get() -> Fetched:
            is_id = wanted.startswith(SCHEME)
            return await self.client.get(
                self._candidates_beside(known) if not peer else self.candidates_for(peer),
                target or Target(self.settings.downloads or "."),
                path="" if is_id else wanted,
                root=parse_content_id(wanted) if is_id else None,
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
        also: Sequence[tuple[Candidate, BlockSource]] = (),
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Deferred[Outlet]:
        """
        Find a file among the peers, and write it on as it comes; see L{TransferClient.stream}.

        @param wanted: its path in some share, or C{flow512:} and its content id.
        @param peer: whom to ask, as L{candidate} takes it; everybody who is known if empty.
        @param known: whom to ask first, if C{peer} is empty.
        """
        is_id = wanted.startswith(SCHEME)
        return self._fetch(
            self.client.stream(
                self._candidates_beside(known) if not peer else self.candidates_for(peer),
                open_outlet,
                path="" if is_id else wanted,
                root=parse_content_id(wanted) if is_id else None,
                also=also,
                blame=self._blaming(blame),
                passed_over=passed_over,
                exchange=None if peer else self._exchange(),
            )
        )

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
        @param peer: whom to ask, as L{candidate} takes it; everybody who is known if empty.
        @return: what became of it. Cancelling it keeps what is in its place.
        """
        is_id = wanted.startswith(SCHEME)
        return self._fetch(
            self.client.get_folder(
                self._candidates_beside(()) if not peer else self.candidates_for(peer),
                top,
                path="" if is_id else wanted,
                root=parse_content_id(wanted) if is_id else None,
                existing=existing,
                beyond=beyond,
                is_wanted=is_wanted,
                found=found,
                told=told,
                growing=growing,
                left_out=left_out,
                blame=self._blaming(blame),
            )
        )

    def _blaming(
        self, blame: Callable[[Candidate, Flow512Error], None]
    ) -> Callable[[Candidate, Flow512Error], None]:
        """Ban who sends something wrong again and again, besides telling of it."""

        def blamed(who: Candidate, reason: Flow512Error) -> None:
            # Without TLS anybody could put the blame on another.
            is_proven = self.settings.encryption is Encryption.TLS
            if is_proven and who.node is not None and self._faults.note(who.node):
                self._ban(who.node, f"It sent something wrong {STRIKES} times; at last: {reason}")
            blame(who, reason)

        return blamed

    def _ban(self, node: bytes, reason: str) -> None:
        if self._presence is not None:
            banned = self._run_blocking(self._presence.standing.ban, node, reason, BANNED_FOR)
            banned.addErrback(
                lambda failure: self.log.warn(
                    "{node} could not be banned: {why}",
                    node=format_node_id(node),
                    why=escape(failure.getErrorMessage()),
                )
            )

    def _fetch(self, coroutine: Coroutine[Deferred[Any], Any, _T]) -> Deferred[_T]:
        fetching = Deferred.fromCoroutine(coroutine)
        ended: Deferred[None] = Deferred()
        self._fetching[fetching] = ended

        def has_ended(result: _T | Failure) -> _T | Failure:
            del self._fetching[fetching]
            ended.callback(None)
            return result

        return fetching.addBoth(has_ended)
