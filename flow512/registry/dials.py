"""
Which nodes a registry dials back, and when: all that can be decided without a network.

A registration is a claim: that this node answers at this port of the address that it comes from.
A dial finds out. States of the dial of one node::

    absent ──wanted──> ready ──its turn──> begun ──failed──> resting ──its time──> ready
       ▲                 │                   │                  │
       └──forgotten──────┴───────────────────┴──────────────────┘

A node that is wanted at another host or port gets another dial, and the one before is forgotten. A
dial that has begun takes a slot until its connection is gone, forgotten or not.

Nobody is hit harder for the sake of somebody who lies: only the address that a registration comes
from is dialled, and of those dials only so many at once and in a minute, for each source, each
subnet and in all. Sources take turns, one dial each, so that many dials of one source, or those
that hang until their deadline, do not keep another's waiting for longer than its turn.

Invariants:

  - Each node has at most one dial that counts, L{Dials._dials}; a ready one stands in
    L{Dials._ready} under its source, a resting one in the queue of its wait.
  - No queue in L{Dials._ready} is empty; the sources stand there in the order of their turns.
  - Everyone in one queue of L{Dials._resting} rests equally long, so each is in the order of time.
  - L{Dials._begun} counts the slots that are taken, under the source and the subnet of each.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from enum import Enum
from typing import Final

from flow512.discovery.limits import Budgets
from flow512.limits import Limits
from flow512.link.origin import source_of, subnet_of

WAITS: Final = (30.0, 60.0, 120.0, 300.0, 600.0)
"""
Seconds until a node that was not reached is tried again: after the first time, and so on.

Whoever opens a port after the first warning is found within a minute or two; whoever never does
costs a dial every ten minutes.
"""

LOOK_AGAIN: Final = 0.25
"""Seconds between two looks for dials that wait for a source's or a subnet's budget."""

_LOOKS: Final = 256
"""Sources in a row that one look may find over their limits; the next look goes on from there."""

_SOURCES: Final = 16_384
"""Sources, and subnets, whose budgets are remembered; each takes about 200 bytes."""

_MINUTE: Final = 60.0


class _State(Enum):
    READY = "ready"
    BEGUN = "begun"
    RESTING = "resting"
    FORGOTTEN = "forgotten"


class Dial:
    """
    Finds out whether one node answers at one address.

    @ivar node: the node id that whoever answers has to prove.
    @ivar host: the address, with its scope if it means nothing without.
    @ivar port: the TCP port.
    @ivar failures: times that it failed.
    @ivar due: when it is tried again, if it rests.
    @ivar sentence: why it failed last.
    """

    __slots__ = (
        "due",
        "failures",
        "has_token",
        "host",
        "node",
        "port",
        "sentence",
        "source",
        "state",
        "subnet",
    )

    def __init__(self, node: bytes, host: str, port: int) -> None:
        self.node = node
        self.host = host
        self.port = port
        self.failures = 0
        self.due = 0.0
        self.sentence = ""
        self.source = source_of(host)
        self.subnet = subnet_of(host)
        self.state = _State.READY
        self.has_token = False  # of its source's budget, while it waits for the subnet's


class Dials:
    """
    All dials of a registry.

    Times are seconds on the caller's clock, and never go back.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """
        @param limits: how many dials there may be, all those called C{dial_backs}.
        """
        self._limits = limits = limits or Limits()
        self._dials: dict[bytes, Dial] = {}
        self._ready: OrderedDict[str, OrderedDict[bytes, Dial]] = OrderedDict()
        self._resting: tuple[OrderedDict[bytes, Dial], ...] = tuple(OrderedDict() for _ in WAITS)
        self._begun_in_all = 0
        self._begun: Counter[str] = Counter()
        address = limits.dial_backs_per_address_per_minute
        subnet = limits.dial_backs_per_subnet_per_minute
        self._of_source = Budgets(address / _MINUTE, address, _SOURCES, 0.0)
        self._of_subnet = Budgets(subnet / _MINUTE, subnet, _SOURCES, 0.0)

    # What is wanted

    def want(self, node: bytes, host: str, port: int) -> Dial:
        """
        Find out whether a node answers somewhere.

        @param node: its node id.
        @param host: the address that it was seen at, and no other.
        @param port: the TCP port that it names.
        @return: its dial; the one that there is already, if that is for the same place, so that
            asking again makes nothing happen sooner.
        """
        dial = self._dials.get(node)
        if dial is not None and (dial.host, dial.port) == (host, port):
            return dial
        self.forget(node)
        dial = self._dials[node] = Dial(node, host, port)
        self._be_ready(dial)
        return dial

    def forget(self, node: bytes) -> None:
        """
        Find out nothing more about a node.
        """
        dial = self._dials.pop(node, None)
        if dial is None:
            return
        if dial.state is _State.READY:
            self._be_ready_no_more(dial)
        elif dial.state is _State.RESTING:
            del self._resting[_rest(dial)][node]
        dial.state = _State.FORGOTTEN

    def counts(self, dial: Dial) -> bool:
        """Whether what comes of a dial is still wanted."""
        return dial.state is not _State.FORGOTTEN

    # What happens

    def take(self, now: float) -> list[Dial]:
        """
        Say which dials are to begin now. Each takes a slot until L{ended}.
        """
        self._wake(now)
        taken: list[Dial] = []
        in_vain = 0
        while self._begun_in_all < self._limits.dial_backs and in_vain < min(
            len(self._ready), _LOOKS
        ):
            source, waiting = next(iter(self._ready.items()))
            self._ready.move_to_end(source)
            dial = next(iter(waiting.values()))
            if not self._may_begin(dial, now):
                in_vain += 1
                continue
            in_vain = 0
            self._be_ready_no_more(dial)
            dial.state = _State.BEGUN
            dial.has_token = False
            self._begun_in_all += 1
            self._begun[dial.source] += 1
            self._begun[dial.subnet] += 1
            taken.append(dial)
        return taken

    def failed(self, dial: Dial, sentence: str, now: float) -> bool:
        """
        Let a dial rest, for longer each time: what answered is not the node, or nothing did.

        @param sentence: why, for the node's user.
        @return: whether that is still of interest.
        """
        if dial.state is not _State.BEGUN:
            return False
        dial.failures += 1
        dial.sentence = sentence
        dial.state = _State.RESTING
        queue = _rest(dial)
        dial.due = now + WAITS[queue]
        self._resting[queue][dial.node] = dial
        return True

    def ended(self, dial: Dial) -> None:
        """
        Give a dial's slot to another: its connection is gone, whatever came of it. If nothing
        did, it is ready again.
        """
        if dial.state is _State.BEGUN:
            self._be_ready(dial)
        self._begun_in_all -= 1
        for place in (dial.source, dial.subnet):
            self._begun[place] -= 1
            if not self._begun[place]:
                del self._begun[place]

    def next_look(self, now: float) -> float | None:
        """
        Say when L{take} may give something though nothing happens before; L{None} for never.
        """
        times = [next(iter(queue.values())).due for queue in self._resting if queue]
        if self._ready and self._begun_in_all < self._limits.dial_backs:
            times.append(now + LOOK_AGAIN)
        return min(times, default=None)

    # How

    def _wake(self, now: float) -> None:
        for queue in self._resting:
            while queue:
                dial = next(iter(queue.values()))
                if dial.due > now:
                    break
                del queue[dial.node]
                self._be_ready(dial)

    def _may_begin(self, dial: Dial, now: float) -> bool:
        limits = self._limits
        if self._begun[dial.source] >= limits.dial_backs_per_address:
            return False
        if self._begun[dial.subnet] >= limits.dial_backs_per_subnet:
            return False
        # What a source has paid for is not to be paid twice because its subnet has nothing left.
        dial.has_token = dial.has_token or self._of_source.take(dial.source, now)
        return dial.has_token and self._of_subnet.take(dial.subnet, now)

    def _be_ready(self, dial: Dial) -> None:
        dial.state = _State.READY
        waiting = self._ready.get(dial.source)
        if waiting is None:
            waiting = self._ready[dial.source] = OrderedDict()
        waiting[dial.node] = dial

    def _be_ready_no_more(self, dial: Dial) -> None:
        waiting = self._ready[dial.source]
        del waiting[dial.node]
        if not waiting:
            del self._ready[dial.source]


def _rest(dial: Dial) -> int:
    return min(dial.failures, len(WAITS)) - 1
