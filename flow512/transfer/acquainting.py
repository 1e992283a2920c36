"""
Keeping up acquaintances: L{flow512.registry.acquaintances} says whom to visit, this visits, and
answers those who visit.

A visit is a conversation C{transfer} of one question, MEET. It has one deadline for all of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from math import inf
from random import Random
from typing import Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flow512.content.paths import escape
from flow512.errors import Flow512Error
from flow512.interfaces import RunBlocking
from flow512.limits import Limits
from flow512.link.address import HostPort
from flow512.registry.acquaintances import AT_ONCE, Acquaintances, Met, Visit
from flow512.registry.memory import read_memory, write_memory
from flow512.registry.peer_list import as_reached
from flow512.transfer.finding import Candidate
from flow512.transfer.source import SourceProtocol, fell_silent
from flow512.wire import meeting
from flow512.wire.fields import Peer

VISIT: Final = 5.0
"""Seconds for a visit, from the first packet to the answer."""

FIRST_LOOK: Final = 1.0
"""Seconds that a registry or beacon has before those are visited who are remembered."""

OTHERS_AFTER: Final = 5.0
"""Seconds that a registry has before those are visited whom the beacon sees, or a list names."""

WARM_AFTER: Final = 30.0
"""Seconds after which a node that is listed looks for the few whom it keeps warm."""

ALONE_AFTER: Final = 10.0
"""Seconds without the registry that there was, after which everybody is visited."""

LOOK_EVERY: Final = 5.0
"""Seconds between two looks whether there is a registry, at most."""

WRITE_EVERY: Final = 60.0
"""Seconds between two times that the memory is written because something is new, at least."""

WRITE_AGAIN: Final = 3600.0
"""Seconds after which it is written though nothing is new but the times."""

_MOST_NOTED: Final = 4096
"""Places of which it is known that they are written, or are to be."""


class Surroundings(msgspec.Struct, frozen=True):
    """
    What else a node knows of its network.

    @ivar registry: the registry that lists it now, and the node id that it has proven; L{None} if
        none does.
    @ivar listed: the node ids on the list of that registry.
    @ivar others: who is said to be there, by the last list and by the beacon: may be dialled.
    @ivar port: the TCP port that this node serves at; 0 for none.
    @ivar may_meet: tells by node id whether somebody may be spoken with.
    @ivar registries_changed: called when there are other registries to try than before.
    """

    registry: Callable[[], Peer | None]
    listed: Callable[[], Collection[bytes]]
    others: Callable[[], Iterable[Peer]]
    port: Callable[[], int]
    may_meet: Callable[[bytes], bool]
    registries_changed: Callable[[], None] = lambda: None


class Acquainting:
    """
    One node's visits to others, and theirs to it.

    @ivar acquaintances: whom it has met; to be read.
    @ivar trouble: why a peer that the user named was not reached, when that was last tried; empty
        if one was.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        connect: Callable[[Candidate], Awaitable[SourceProtocol]],
        surroundings: Surroundings,
        limits: Limits,
        random: Random,
        run_blocking: RunBlocking,
        *,
        name: str,
        named: Sequence[Candidate] = (),
        state: str | None = None,
        may_write: bool = True,
        is_patient: bool = True,
    ) -> None:
        """
        @param clock: for rounds and deadlines.
        @param connect: opens a conversation, or raises L{Flow512Error}.
        @param surroundings: what else is known.
        @param limits: those called C{dials}.
        @param random: for jitter.
        @param run_blocking: runs what waits for the disk.
        @param name: what this node's user calls it; visitors are told.
        @param named: peers that the user named.
        @param state: the state folder with the memory; L{None} for none.
        @param may_write: whether that is this node's own.
        @param is_patient: whether there is a beacon or a registry to be waited for first.
        """
        self._clock = clock
        self._connect = connect
        self._surroundings = surroundings
        self._run_blocking = run_blocking
        self._name = name
        self._named = named
        self._state = state
        self._may_write = may_write
        self._is_patient = is_patient
        self.acquaintances = Acquaintances(
            limits, random, clock.seconds(), may_meet=surroundings.may_meet, named=len(named)
        )
        self._out: dict[Deferred[None], None] = {}
        self._timer: IDelayedCall | None = None
        self._began = 0.0
        self._listed_at = -inf
        self._written_at = -inf
        self._has_news = False
        self._places: dict[bytes, tuple[str, int]] = {}
        self._writing: Deferred[None] = succeed(None)
        self.trouble = ""
        self._is_running = False

    # Beginning and end

    def start(self) -> None:
        """
        Remember, and begin to visit.
        """
        now = self._began = self._written_at = self._clock.seconds()
        self._is_running = True
        if self._state is not None:
            try:
                peers, registries = read_memory(self._state)
            except Flow512Error as error:
                self.log.warn("{why}", why=str(error))
            else:
                at = now + (FIRST_LOOK if self._is_patient else 0.0)
                self.acquaintances.remember(peers, registries, at)
                if registries:
                    self._surroundings.registries_changed()
        self._look()

    async def stop(self) -> None:
        """
        Visit nobody any more, and write down whom to try the next time.
        """
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for visit in list(self._out):
            visit.cancel()
        await self._writing
        if self._places:
            await self._write()

    # Visiting

    def _look(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._is_running:
            return
        now = self._clock.seconds()
        self._look_around(now)
        for visit in self.acquaintances.visits(now):
            self._begin(visit)
        wait = WRITE_EVERY if self._has_news else WRITE_AGAIN
        if self._places and now - self._written_at >= wait:
            self._writing = Deferred.fromCoroutine(self._write())
        wait = LOOK_EVERY
        if self.acquaintances.is_alone and len(self._out) < AT_ONCE:
            wait = min(wait, max(0.1, self.acquaintances.wake_at() - now))
        self._timer = self._clock.callLater(wait, self._look)

    def _look_around(self, now: float) -> None:
        registry = self._surroundings.registry()
        if registry is not None:
            self._listed_at = now
            self.acquaintances.registered(registry, now)
            self._note(registry)
        # What was told last counts for a while longer: a registry is soon followed by another.
        if now - self._listed_at >= ALONE_AFTER:
            self.acquaintances.list_is(None, now)
        elif registry is not None:
            self.acquaintances.list_is(self._surroundings.listed(), now)
        after = OTHERS_AFTER if self.acquaintances.is_alone else WARM_AFTER
        if now - self._began >= after and self.acquaintances.is_lacking(now):
            self.acquaintances.told(self._surroundings.others(), "", now)

    def _begin(self, visit: Visit) -> None:
        going = Deferred.fromCoroutine(self._go(visit))
        self._out[going] = None

        def failed(failure: Failure) -> None:
            self.acquaintances.failed(visit, self._clock.seconds())
            failure.trap(Flow512Error, CancelledError)  # type: ignore[no-untyped-call]  # Twisted has no types there
            self._say(visit, failure)

        def ended(_: None) -> None:
            del self._out[going]
            if self._is_running and self._timer is not None and self._timer.active():
                # Not at once: what is cancelled by the end of all this ends here as well.
                self._timer.reset(0)

        going.addTimeout(VISIT, self._clock, fell_silent)
        going.addErrback(failed).addErrback(self._broken).addCallback(ended)

    async def _go(self, visit: Visit) -> None:
        if visit.peer is not None:
            peer = visit.peer
            candidate = Candidate(HostPort(peer.host, peer.port), peer.name, peer.node)
        else:
            assert visit.named is not None
            candidate = self._named[visit.named]
        source = await self._connect(candidate)
        try:
            host = source.peer_host
            told = await source.meet(self._surroundings.port())
            assert source.agreement is not None
            node = source.agreement.peer.node
        finally:
            source.leave()
        now = self._clock.seconds()
        if visit.named is not None:
            self.trouble = ""
        if visit.peer is not None:
            host, port = visit.peer.host, visit.peer.port
        elif isinstance(candidate.address, HostPort):
            port = candidate.address.port
        else:
            host, port = "", 1  # by some other way than TCP: nobody else could be sent there
        proven = Peer(node, told.name, host, port)
        self.acquaintances.met(visit, proven, now)
        self._note(proven)
        self.acquaintances.told([as_reached(each, host) for each in told.peers], host, now)
        if told.registries:
            registries = [as_reached(each, host) for each in told.registries]
            self.acquaintances.told_registries(registries, host, now)
            self._surroundings.registries_changed()

    def _note(self, met: Peer) -> None:
        place = met.host, met.port
        if self._places.get(met.node) != place:
            if len(self._places) >= _MOST_NOTED:
                self._places.clear()
            self._places[met.node] = place
            self._has_news = True

    def _say(self, visit: Visit, failure: Failure) -> None:
        why = escape(failure.getErrorMessage()).rstrip(".")
        if visit.named is None or not self._is_running:
            self.log.debug("A peer was not met: {why}.", why=why)
            return
        trouble = f"{self._named[visit.named].address}: {why}"
        if trouble != self.trouble:
            # The same trouble over and over is one line.
            self.trouble = trouble
            self.log.warn("A peer that was named is not reached: {why}. Trying again.", why=trouble)

    def _broken(self, failure: Failure) -> None:
        self.log.failure("A visit failed.", failure)

    # Being visited

    def asked(self, visitor: bytes, at: Peer | None) -> meeting.Met:
        """
        Answer a visitor.

        @param visitor: the node id of who asks.
        @param at: where he says that he serves; L{None} if nowhere.
        """
        now = self._clock.seconds()
        if at is not None and self._is_running:
            self.acquaintances.told([at], at.host, now)
            if self.acquaintances.is_alone and self._timer is not None and self._timer.active():
                self._timer.reset(min(0.1, max(0.0, self._timer.getTime() - now)))
        return meeting.Met(
            self._name,
            self.acquaintances.to_tell(now, visitor),
            self.acquaintances.registries_to_tell(now),
        )

    # What is known

    @property
    def known(self) -> list[Peer]:
        """The peers that it has met lately."""
        return self.acquaintances.known(self._clock.seconds())

    @property
    def registries(self) -> list[Met]:
        """Registries that may be tried: those that have listed this node, and those told of."""
        return self.acquaintances.registries(self._clock.seconds())

    @property
    def is_settled(self) -> bool:
        """Whether nobody is being visited, or is about to be."""
        return not self._out and self.acquaintances.is_settled(self._clock.seconds())

    # The memory

    async def _write(self) -> None:
        self._written_at = self._clock.seconds()
        self._has_news = False
        if self._state is None or not self._may_write:
            return
        peers, registries = self.acquaintances.kept(self._written_at)
        try:
            await self._run_blocking(write_memory, self._state, peers, registries)
        except Flow512Error as error:
            self.log.warn("Whom this node has met is not remembered: {why}", why=str(error))
