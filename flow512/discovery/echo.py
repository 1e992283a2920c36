"""
Whether this machine hears what it sends to everybody: one datagram by each way that the beacon
uses, and who listens for them on the beacon's port.

The datagrams are of a version that no beacon reads (L{flow512.discovery.datagram}), so nobody else
takes them for anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec
from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorMulticast, IReactorTime, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from flow512.discovery import sockets
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.datagram import MAGIC

TOKEN: Final = 16
"""Bytes that tell one trial from every other."""

_HEADER: Final = MAGIC + b"\0"


class Way(Enum):
    """How a datagram gets to everybody."""

    BROADCAST = "broadcast"
    MULTICAST4 = "IPv4 multicast"
    MULTICAST6 = "IPv6 multicast"


class Trial(msgspec.Struct):
    """
    One way, from one address.

    @ivar heard: whether this machine has heard it.
    @ivar error: why it could not be sent, or listened for; empty if it could.
    """

    address: LocalAddress
    way: Way
    heard: bool = False
    error: str = ""


class _Ear(DatagramProtocol):
    noisy = False

    def __init__(self, echo: _Echo) -> None:
        self._echo = echo

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self._echo.heard(datagram)


class _Echo:
    """The trials of one call."""

    def __init__(self, addresses: Sequence[LocalAddress], token: bytes) -> None:
        self.trials = [Trial(each, way) for each in addresses for way in _ways(each)]
        self.token = token

    def datagram(self, number: int) -> bytes:
        """What is sent in a trial."""
        return _HEADER + self.token + number.to_bytes(2, "big")

    def heard(self, datagram: bytes) -> None:
        """Note what came."""
        for number, trial in enumerate(self.trials):
            if datagram == self.datagram(number):
                trial.heard = True


def _ways(address: LocalAddress) -> list[Way]:
    if address.is_ipv6:
        return [Way.MULTICAST6]
    return [Way.MULTICAST4] if address.broadcast is None else [Way.BROADCAST, Way.MULTICAST4]


async def echo(
    clock: IReactorTime,
    udp: IReactorMulticast,
    port: int,
    addresses: Sequence[LocalAddress],
    token: bytes,
    seconds: float = 0.5,
) -> list[Trial]:
    """
    Send to everybody, and listen.

    @param clock: for the wait.
    @param udp: as the beacon needs it.
    @param port: the beacon's.
    @param addresses: those to send from.
    @param token: L{TOKEN} random bytes.
    @param seconds: how long to listen.
    @return: what came of it, for each address and each of its ways.
    """
    trying = _Echo(addresses, token)
    opened: list[_Ear] = []

    def trouble(trial: Trial, error: object) -> None:
        error = getattr(error, "socketError", error)
        trial.error = trial.error or str(getattr(error, "strerror", None) or error)

    def note(address: LocalAddress) -> sockets.Trouble:
        def noted(failure: Failure) -> None:
            for trial in trying.trials:
                if trial.address == address:
                    trouble(trial, failure.value)

        return noted

    ear4 = _Ear(trying)
    opened.append(ear4)
    problem4: Exception | None = None
    if any(not address.is_ipv6 for address in addresses):
        try:
            sockets.open_shared4(udp, port, ear4)
        except (CannotListenError, OSError) as error:
            problem4 = error
    for address in addresses:
        ear = _Ear(trying)
        own = _Ear(trying)
        opened += [ear, own]
        trials = [each for each in trying.trials if each.address == address]
        try:
            if address.is_ipv6:
                sockets.open_shared6(udp, address, port, ear)
            elif problem4 is not None:
                raise problem4
            else:
                sockets.join4(ear4, address, note(address))
            sockets.open_own(udp, address, own, note(address))
        except (CannotListenError, OSError) as error:
            for trial in trials:
                trouble(trial, error)
            continue
        for trial in trials:
            datagram = trying.datagram(trying.trials.index(trial))
            try:
                IUDPTransport(own.transport).write(datagram, (_target(trial), port))
            except OSError as error:
                trouble(trial, error)
    try:
        await deferLater(clock, seconds)
    finally:
        await DeferredList(
            [maybeDeferred(sockets.close, each) for each in opened], consumeErrors=True
        )
    return trying.trials


def _target(trial: Trial) -> str:
    if trial.way is Way.MULTICAST6:
        return sockets.GROUP6
    if trial.way is Way.MULTICAST4:
        return sockets.GROUP4
    broadcast = trial.address.broadcast
    assert broadcast is not None
    return broadcast
