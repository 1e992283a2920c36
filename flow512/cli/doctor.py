"""
C{flow512 doctor}: what keeps this machine and others apart, and what to do.

It runs a node that shares nothing for a few seconds, and looks at what comes of it; what that means
is for L{flow512.cli.diagnosis} to say. While the node of the same state folder runs, this one only
watches.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorMulticast
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from flow512.cli.diagnosis import (
    Finding,
    Owner,
    Reached,
    Registered,
    Verdict,
    examine_state,
    fine,
    judge_clock,
    judge_echo,
    judge_interfaces,
    judge_peers,
    judge_port,
    judge_reachability,
    judge_registry,
    judge_sightings,
    note,
    wrong,
)
from flow512.cli.meeting import is_address
from flow512.cli.outcome import DONE, FAILED
from flow512.cli.running import Machine
from flow512.cli.voice import Voice
from flow512.content.paths import escape
from flow512.discovery.addresses import check_interfaces
from flow512.discovery.echo import TOKEN, echo
from flow512.discovery.election import Mode
from flow512.discovery.engine import BASE_INTERVAL, JITTER
from flow512.discovery.waits import LISTEN
from flow512.errors import Flow512Error, Misuse, NotAllowed, PortTaken, TimedOut, Unsupported
from flow512.link.address import DEFAULT_PORT, LOOPBACK, HostPort
from flow512.link.listening_file import Listening, read_listening
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.transfer.finding import Candidate

MOST_TRIED: Final = 8
"""Peers that are connected to."""

ANSWERS_WITHIN: Final = 5.0
"""Seconds for one of them to say hello."""

_ANNOUNCED: Final = BASE_INTERVAL * (1 + JITTER) + 0.1
"""Seconds within which every member of a small network has announced itself."""

_LOOK_EVERY: Final = 0.1

_SHOWN: Final = {Verdict.FINE: "ok   ", Verdict.NOTE: "note ", Verdict.WRONG: "WRONG"}


def _no_answer(result: object, seconds: float) -> Failure:
    """Say so, as C{addTimeout} wants it said."""
    return Failure(TimedOut(f"it does not say who it is within {seconds:g} seconds"))  # type: ignore[no-untyped-call]  # Twisted has no types there


class Doctor(msgspec.Struct):
    """
    One examination.

    @ivar status: the exit status, as far as it has come.
    """

    machine: Machine
    voice: Voice
    wait: float
    status: int = DONE
    _wrong: int = 0

    def say(self, *findings: Finding) -> None:
        """Tell what was found, as it is found."""
        for each in findings:
            advice = f" {each.advice}" if each.advice else ""
            self.voice.say(f"{_SHOWN[each.verdict]}  {each.sentence}{advice}")
            self.voice.tell(
                "finding",
                check=each.check,
                verdict=each.verdict.value,
                sentence=each.sentence,
                advice=each.advice or None,
            )
            if each.verdict is Verdict.WRONG:
                self._wrong += 1
                self.status = FAILED

    async def examine(self, settings: NodeSettings) -> None:
        """
        Look at everything, and tell.

        @param settings: of a node with the state folder beside it; its place to listen is the one
            that the user insists on, if any.
        @raise Misuse: an address or a file that the user named is none; no node starts so.
        """
        assert settings.beside is not None
        self.say(*examine_state(settings.beside))
        try:
            check_interfaces(settings.interfaces, self.machine.local_addresses())
        except Misuse as error:
            advice = "Give another with --interface; nothing else was looked at."
            self.say(wrong("interfaces", str(error), advice))
            return
        listening = None
        if self.status == DONE:
            listening = read_listening(settings.beside)
        serves = listening is None
        settings = replace(settings, serves=serves, bootstrap=Mode.NEVER, state=None)
        if not serves:
            settings = replace(settings, listen="")
        try:
            await self._with_node(settings, listening)
        except PortTaken as error:
            self.say(wrong("port", str(error), "Or end the program that has it, if one does."))
            await self._with_node(replace(settings, serves=False, listen=""), None)

    async def _with_node(self, settings: NodeSettings, listening: Listening | None) -> None:
        try:
            async with self.machine.node(settings) as node:
                await self._look(node, listening)
        except PortTaken:
            raise
        except Flow512Error as error:
            advice = "No node starts so; nothing else was looked at."
            if self.status != DONE:
                # What is wrong has been said, and counted.
                self.say(note("state", str(error), advice))
            elif isinstance(error, Misuse):
                # The state folder is as it should be: it is something that was typed.
                raise
            else:
                self.say(wrong("state", str(error), advice))

    async def _look(self, node: NodeService, listening: Listening | None) -> None:
        known = node.neighbourhood
        settings = node.settings
        if listening is not None or settings.serves:
            self.say(await self._port(node, listening))
        addresses = known.beacon_addresses
        self.say(judge_interfaces(addresses))
        if settings.beacon_port is None:
            self.say(note("beacon", "The beacon was left out."))
        else:
            udp = IReactorMulticast(self.machine.reactor)
            token = self.machine.random.randbytes(TOKEN)
            port = settings.beacon_port
            self.say(
                *judge_echo(port, await echo(self.machine.reactor, udp, port, addresses, token))
            )
        await self._wait_for_others(node)
        if settings.beacon_port is not None:
            names = self._seen(node)
            self.say(judge_sightings(names))
            off = list(known.off_clock.items())
            is_closed = node.introduction.key is not None
            self.say(judge_clock(off, is_closed=is_closed, sees=bool(names)))
        self.say(judge_registry(self._registered(node)), self._reachability(node, listening))
        self.say(*await self._peers(node))

    # The port

    async def _port(self, node: NodeService, listening: Listening | None) -> Finding:
        if listening is not None:
            host = listening.host or LOOPBACK
            owner = await self._owner(node, HostPort(host, listening.port))
            is_ours = owner is Owner.OURS
            owner = Owner.OURS if is_ours else Owner.OURS_SILENT
            return judge_port(listening.port, owner, is_insisted=False)
        if not node.port:
            return fine("port", "What was named with --listen can be listened on.")
        if node.settings.listen or node.port == DEFAULT_PORT:
            return judge_port(node.port, Owner.NOBODY, is_insisted=False)
        owner = await self._owner(node, HostPort(LOOPBACK, DEFAULT_PORT))
        return judge_port(DEFAULT_PORT, owner, is_insisted=False)

    async def _owner(self, node: NodeService, address: HostPort) -> Owner:
        try:
            found = await self._hello(node, Candidate(address))
        except Unsupported as error:
            return Owner.REGISTRY if "registry" in str(error) else Owner.STRANGER
        except NotAllowed:
            return Owner.STRANGER
        except Flow512Error:
            return Owner.PROGRAM
        return Owner.OURS if found == node.introduction.node else Owner.NODE

    async def _hello(self, node: NodeService, candidate: Candidate) -> bytes:
        connecting = Deferred.fromCoroutine(node.fetching.client.connect(candidate))
        connecting.addTimeout(ANSWERS_WITHIN, self.machine.reactor, _no_answer)
        source = await connecting
        assert source.agreement is not None
        source.leave()
        return source.agreement.peer.node

    # Others

    async def _wait_for_others(self, node: NodeService) -> None:
        known = node.neighbourhood
        clock = self.machine.reactor
        began = clock.seconds()
        listens = LISTEN if node.settings.beacon_port is not None else 0.0
        is_closed = node.introduction.key is not None

        def is_enough() -> bool:
            passed = clock.seconds() - began
            is_told = known.is_listed and (not node.port or known.is_reachable is not None)
            is_named = bool(node.settings.registries)
            # Members whose clocks are off answer no question; they are heard when they announce.
            is_hearing = passed >= _ANNOUNCED or known.sightings() or known.off_clock
            if passed < listens or (listens and is_closed and not is_hearing):
                return False
            return is_told or (not is_named and not self._is_seen(node))

        wait = max(self.wait, _ANNOUNCED) if listens and is_closed else self.wait
        while clock.seconds() - began < wait and not (is_enough() and known.is_settled):
            await deferLater(clock, _LOOK_EVERY)

    def _is_seen(self, node: NodeService) -> bool:
        """Whether there may be a registry."""
        return bool(node.neighbourhood.known_registries) or any(
            each.port("registry") is not None for each in node.neighbourhood.sightings()
        )

    def _seen(self, node: NodeService) -> list[str]:
        ours = node.introduction.node
        names = {
            each.node_id or each.instance: each.name or each.host
            for each in node.neighbourhood.sightings()
            if each.node_id != ours
        }
        return sorted(names.values())

    def _registered(self, node: NodeService) -> Registered:
        known = node.neighbourhood
        named = [each.address for each in node.settings.registries]
        registry = known.registry
        at = "" if registry is None else str(HostPort(registry.host, registry.port))
        others = [each for each in node.peers if each.node != node.introduction.node]
        return Registered(
            " or ".join(map(str, named)),
            at,
            known.registry_trouble,
            len(others),
            # What is named by a host's name, or by an endpoint, is not to be compared.
            bool(named)
            and all(isinstance(each, HostPort) and is_address(each.host) for each in named)
            and at not in map(str, named),
        )

    def _reachability(self, node: NodeService, listening: Listening | None) -> Finding:
        known = node.neighbourhood
        if node.port:
            said = {True: Reached.YES, False: Reached.NO, None: Reached.UNKNOWN}[known.is_reachable]
            return judge_reachability(said, node.port, known.why_unreachable)
        if listening is None or not known.is_listed:
            return judge_reachability(Reached.UNKNOWN, 0)
        # Our node runs, and is on the list only if the registry has reached it.
        is_listed = any(each.node == node.introduction.node for each in node.peers)
        return judge_reachability(Reached.YES if is_listed else Reached.NO, listening.port)

    async def _peers(self, node: NodeService) -> list[Finding]:
        known = node.neighbourhood
        ours = node.introduction.node
        candidates = [each for each in known.candidates() if each.node != ours][:MOST_TRIED]

        # By node id: one may be known by several addresses.
        answering: set[bytes] = set()
        failed: list[tuple[str, str]] = []

        async def try_one(candidate: Candidate) -> None:
            try:
                answering.add(await self._hello(node, candidate))
            except Flow512Error as error:
                failed.append((str(candidate), escape(str(error))))

        await gatherResults([Deferred.fromCoroutine(try_one(each)) for each in candidates])
        found = judge_peers(len(answering), failed)
        if known.peer_trouble:
            found.insert(
                0,
                wrong(
                    "peers",
                    f"A peer that was named is not reached ({known.peer_trouble.rstrip('.')}).",
                    "See whether a node runs there, and whether its firewall lets others in.",
                ),
            )
        return found

    def end(self) -> None:
        """Say what it comes to."""
        if self._wrong:
            things = "One thing is" if self._wrong == 1 else f"{self._wrong} things are"
            self.voice.say(f"{things} wrong.")
        else:
            self.voice.say("Nothing is wrong.")
        self.voice.tell("diagnosis", wrong=self._wrong)
