"""
The network as one node knows it: whom a registry lists, whom the beacon sees, whom it has met; and
its part in keeping all of them together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flow512.discovery.addresses import LocalAddress
from flow512.discovery.claims import Claim, RegistryOffer
from flow512.discovery.deeds import Why
from flow512.discovery.election import Mode
from flow512.discovery.engine import Sighting
from flow512.errors import Cancelled
from flow512.interfaces import RunBlocking
from flow512.link.address import client_endpoint
from flow512.link.named_registry import NamedRegistry
from flow512.link.presence import Presence
from flow512.link.sparing_log import SparingLog
from flow512.link.standing import Standing
from flow512.registry.acquaintances import Met
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower
from flow512.registry.leaders import offers_known, offers_seen
from flow512.registry.leadership import Leadership
from flow512.registry.office import Office
from flow512.registry.term_file import TermKeeper
from flow512.settings import INodeListener, NodeSettings
from flow512.transfer.acquainting import Acquainting, Surroundings
from flow512.transfer.candidates import candidates_among, choose_candidate
from flow512.transfer.finding import Candidate
from flow512.transfer.source import SourceProtocol
from flow512.wire.fields import Peer
from flow512.wire.meeting import Met as MetMessage

if TYPE_CHECKING:
    # Loaded by who leads; most never do.
    from flow512.registry.server import RegistryFactory


@implementer(IPeerListListener)
class Neighbourhood:
    """
    Knows who is there.

    States::

        closed ──open──> open ──start──> started ──leave──> left ──stop──> closed

    Nobody is known but from C{start} to C{leave}.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        settings: NodeSettings,
        listener: INodeListener,
        random: Random,
        run_blocking: RunBlocking,
    ) -> None:
        """
        @param reactor: for all its waits and connections.
        @param settings: what the user decided.
        @param listener: is told who comes and goes, and when this node leads.
        @param random: for ids and jitter.
        @param run_blocking: runs what waits for the disk.
        """
        self._reactor = reactor
        self._settings = settings
        self._listener = listener
        self._random = random
        self._run_blocking = run_blocking
        # A registry may have peers come and go as often as it likes.
        self._lines = SparingLog(self.log, reactor)
        self._presence: Presence | None = None
        self._named: tuple[NamedRegistry, ...] = ()
        self._terms = TermKeeper(None, None)
        self._acquainting: Acquainting | None = None
        self._office: Office | None = None
        self._follower: RegistryFollower | None = None

    # Its life

    def open(
        self, presence: Presence, connect: Callable[[Candidate], Awaitable[SourceProtocol]]
    ) -> None:
        """
        Read what is remembered.

        @param presence: who this node is, and where.
        @param connect: opens a conversation with a peer; see L{Acquainting}.
        @raise flow512.errors.Flow512Error: an address of a registry or a peer is none, or what is
            remembered cannot be read.
        """
        self._presence = presence
        self._acquainting = self._make_acquainting(presence, connect)
        standing = presence.standing
        self._named = self._configured(standing)
        addresses = [each.address for each in self._named]
        for address in (*addresses, *(each.address for each in self._settings.peers)):
            # Whether that is an address at all is known now, and not only when it is dialled.
            client_endpoint(self._reactor, address)
        self._terms = TermKeeper(
            None if standing.state is None else standing.state.path, self._run_blocking
        )

    def _make_acquainting(
        self, presence: Presence, connect: Callable[[Candidate], Awaitable[SourceProtocol]]
    ) -> Acquainting:
        settings = self._settings
        return Acquainting(
            self._reactor,
            connect,
            Surroundings(
                lambda: self.registry,
                self._listed,
                self._said_to_be_there,
                lambda: presence.port,
                self._may_ask,
                self._reconsider,
            ),
            settings.limits,
            self._random,
            self._run_blocking,
            name=presence.introduction.name,
            named=settings.peers,
            state=(settings.state or settings.beside) if settings.remembers else None,
            may_write=settings.state is not None,
            is_patient=settings.beacon_port is not None or bool(settings.registries),
        )

    def _configured(self, standing: Standing) -> tuple[NamedRegistry, ...]:
        """The registries that the user named, or that came with the network."""
        return self._settings.registries or tuple(
            NamedRegistry(each.address, each.node)
            for each in standing.network.registries
            if each.node is None or not self.is_itself(each.node)
        )

    def start(self) -> None:
        """
        Announce this node, and look for the others.
        """
        presence, settings = self._presence, self._settings
        assert presence is not None
        assert self._acquainting is not None
        presence.announce("node", self._sightings_changed)
        office = self._office = Office(self._reactor, presence, self._make_registry)
        self._follower = RegistryFollower(
            self._reactor,
            presence.standing.endpoint,
            presence.introduction,
            # Whom nobody can reach by TCP would be a registry for nobody.
            mode=settings.bootstrap if presence.port else Mode.NEVER,
            named=self._named,
            keeps_all=settings.registry_all,
            port=presence.port,
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
        self._follower.startService()
        self._acquainting.start()

    async def leave(self) -> None:
        """
        Say goodbye to everybody. Who is registered with this node is told who leads next.
        """
        if self._presence is not None:
            await self._presence.fall_silent()
        if self._acquainting is not None:
            await self._acquainting.stop()
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.stopService()
        self._lines.say_left_out()

    async def stop(self) -> None:
        """
        Close the registry, if there is one here, and write down what is to be remembered.
        """
        if self._office is not None:
            await self._office.stop()
        await self._terms.finish()

    def close(self) -> None:
        """
        Forget everybody.
        """
        self._presence = self._office = self._acquainting = None

    # Carrying the registry

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
            presence.introduction,
            self._reactor,
            connect=presence.standing.endpoint,
            random=self._random,
            limits=self._settings.limits,
            claim=claim,
            term_known=known,
            heard=heard,
        )
        self.log.info("Bootstrap node started on port {port}.", port=presence.port)
        if not self.peers:
            self.log.info("No peers available yet, this is the first node in the network.")
        self._listener.bootstrap_started(presence.port)
        return registry

    # Following one

    def _registry_offers(self) -> list[RegistryOffer]:
        """Where registries may be."""
        # Of one address the last counts; what the beacon sees says what is claimed there.
        return [*offers_known(self.known_registries), *offers_seen(self.sightings())]

    def _sightings_changed(self, sighting: Sighting) -> None:
        self._reconsider()

    def _reconsider(self) -> None:
        if self._follower is not None:
            self._follower.reconsider()

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        joined = [peer for peer in joined if not self.is_itself(peer.node)]
        left = [peer for peer in left if not self.is_itself(peer.node)]
        changed = [peer for peer in changed if not self.is_itself(peer.node)]
        if not (joined or left or changed):
            return
        self._lines.info(
            "Received updated peers list: {count} in all, {joined} joined, {left} left",
            count=len(self.peers),
            joined=len(joined),
            left=len(left),
        )
        self._listener.peers_changed(joined, left, changed)

    def hold(self, added: Collection[bytes], removed: Collection[bytes]) -> None:
        """
        Have the registries know what this node holds; see L{RegistryFollower.hold}.
        """
        if self._follower is not None:
            self._follower.hold(added, removed)

    def who_holds(self, root: bytes) -> Deferred[tuple[Peer, ...]]:
        """
        Ask the registry who holds a content; see L{RegistryFollower.who}.

        @return: fails with L{Cancelled}, too, once this node has left.
        """
        if self._follower is None:
            return fail(Cancelled("The node has stopped."))
        return self._follower.who(root)

    # The registry

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
    def registry_trouble(self) -> str:
        """Why the registry that is tried does not list this node; empty if it said nothing."""
        client = None if self._follower is None else self._follower.trying
        return "" if client is None else client.trouble

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
    def is_bootstrap(self) -> bool:
        """Whether this node carries the registry that it follows."""
        return self._follower is not None and self._follower.is_leading

    @property
    def leadership(self) -> Leadership | None:
        """Who carries the registry that this node follows; L{None} while there is none."""
        return None if self._follower is None else self._follower.leadership

    @property
    def known_registries(self) -> list[Met]:
        """
        Registries that may be tried, besides those that the user named or the beacon sees: those
        that have listed this node, now or in an earlier run, the latest first; then those that
        peers have told of, with no time. Nobody vouches for them.
        """
        return [] if self._acquainting is None else self._acquainting.registries

    # The peers

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

    def met(self, visitor: bytes, at: Peer | None) -> MetMessage:
        """
        Answer a visitor; see L{Acquainting.asked}.
        """
        acquainting = self._acquainting
        return MetMessage() if acquainting is None else acquainting.asked(visitor, at)

    def _listed(self) -> Collection[bytes]:
        client = None if self._follower is None else self._follower.client
        return () if client is None else frozenset(client.peers)

    def _said_to_be_there(self) -> list[Peer]:
        seen = [
            Peer(each.node_id, each.name, each.host, port)
            for each in self.sightings()
            if each.node_id and (port := each.port("node")) is not None
        ]
        return [*self._to_dial(), *seen]

    def _to_dial(self) -> list[Peer]:
        return [] if self._follower is None else self._follower.peers_to_dial()

    # The beacon

    def sightings(self) -> tuple[Sighting, ...]:
        """What the beacon sees."""
        return () if self._presence is None else self._presence.sightings

    @property
    def off_clock(self) -> Mapping[str, float]:
        """Some whose clocks are too far off: address, and seconds that they are late by ours."""
        beacon = None if self._presence is None else self._presence.beacon
        return {} if beacon is None else beacon.off_clock

    @property
    def beacon_addresses(self) -> Sequence[LocalAddress]:
        """The addresses of this machine that the beacon uses, or would."""
        return () if self._presence is None else self._presence.beacon_addresses

    # Whom to ask

    def candidates(self) -> list[Candidate]:
        """
        Everyone who may be asked for a file: those whom the registry lists, those whom this node
        has met otherwise, and those whom the beacon sees besides.
        """
        listed = self._to_dial()
        known = {each.node for each in listed}
        met = [each for each in self.acquaintances if each.node not in known]
        return candidates_among([*listed, *met], self.sightings(), self._may_ask)

    def candidate(self, wanted: str) -> Candidate:
        """
        Find the peer that a user means.

        @param wanted: as for L{choose_candidate}.
        @raise flow512.errors.Flow512Error: as L{choose_candidate}.
        """
        return choose_candidate(self.candidates(), wanted)

    def candidates_for(self, peer: str) -> list[Candidate]:
        """
        Find whom to ask.

        @param peer: as L{candidate} takes it; everybody who is known if empty.
        @return: all places of that peer.
        @raise flow512.errors.Flow512Error: as L{choose_candidate}.
        """
        everybody = self.candidates()
        if not peer:
            return everybody
        chosen = choose_candidate(everybody, peer)
        return [each for each in everybody if each.node and each.node == chosen.node] or [chosen]

    def is_itself(self, node: bytes) -> bool:
        """
        Tell whether a node id is only this node's.
        """
        # A node that fetches only may share its identity with one that serves on this machine.
        presence = self._presence
        return presence is not None and self._settings.serves and node == presence.introduction.node

    def may_dial(self, peer: Peer) -> bool:
        """
        Tell whether somebody who was told of may be dialled: not this node, and nobody whom it
        does not speak with.
        """
        presence = self._presence
        if presence is None:
            return False
        # By its port: a node that only fetches may share its identity with one that serves.
        is_ours = peer.node == presence.introduction.node and peer.port == presence.port
        return not is_ours and presence.introduction.admits(peer.node)

    def _may_ask(self, node: bytes) -> bool:
        presence = self._presence
        return (
            presence is not None and not self.is_itself(node) and presence.introduction.admits(node)
        )
