"""
Who a process is among others: its identity, its network, and whom it does not speak with. A node
and a registry have it in common; it comes from the state folder and what the user said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from random import Random

import msgspec
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from flow512.clocks import wall_seconds_of
from flow512.errors import ResourceFailure
from flow512.interfaces import RunBlocking
from flow512.link.address import HostPort, client_endpoint
from flow512.link.ban_watch import BanWatch
from flow512.link.bans import BANS_FILE, MAX_REASON, Bans
from flow512.link.closed_network import membership_of
from flow512.link.identity import SEED_SIZE, Identity, StateFolder, read_identity
from flow512.link.introduction import MAX_NAME, Introduction
from flow512.link.security import Encryption, security_of


class Claims(msgspec.Struct, frozen=True):
    """
    What a user says of a node or registry; see L{flow512.settings.NodeSettings}.
    """

    name: str
    network: str
    network_key_file: str
    encryption: Encryption
    state: str | None
    beside: str | None = None


class Standing:
    """
    Who a process is. It has the state folder until L{close}.

    @ivar state: the state folder; L{None} if there is none of its own.
    @ivar identity: its key.
    @ivar network: the network that it belongs to.
    @ivar introduction: what it says of itself.
    @ivar security: what its connections run over.
    @ivar seal_key: what its beacons are sealed with; L{None} in an open network.
    """

    def __init__(self, claims: Claims, clock: IReactorTime, random: Random) -> None:
        """
        @param claims: what the user says.
        @param clock: for connections, and for the end of bans.
        @param random: for nonces, and for the key of who has no state folder.
        @raise flow512.errors.Flow512Error: something in the state folder is not as it must be, or
            another process has it. Nothing is left open.
        """
        self._clock = clock
        self.state: StateFolder | None = None
        try:
            folder = self._open(claims, random)
            self.network = membership_of(claims.network, claims.network_key_file, folder)
            self._bans = None
            self._bans_file = ""
            if folder is not None:
                self._bans_file = os.path.join(folder, BANS_FILE)
                self._bans = Bans(self._bans_file, wall_seconds_of(clock))
                self._bans.reload()
        except BaseException:
            self.close()
            raise
        key = self.network.key
        self.seal_key = None if key is None else key.beacons
        self.introduction = Introduction(
            self.identity.node,
            claims.name or socket.gethostname()[:MAX_NAME],
            self.network.name,
            key,
            self._admits,
            random.randbytes,
        )
        self.security = security_of(claims.encryption, self.identity, clock)

    def _open(self, claims: Claims, random: Random) -> str | None:
        """Find the identity, and the folder of all else."""
        self.identity: Identity
        if claims.state is not None:
            self.state = StateFolder(claims.state)
            self.identity = self.state.identity
            return self.state.path
        if claims.beside is not None:
            try:
                self.identity = read_identity(claims.beside)
                return claims.beside
            except ResourceFailure:
                pass  # where nothing can be kept, one is nobody in particular
        self.identity = Identity.from_seed(random.randbytes(SEED_SIZE))
        return None

    def _admits(self, node: bytes) -> bool:
        return self._bans is None or self._bans.holds(node) is None

    @property
    def beacon_tag(self) -> str:
        """The name of the network that its beacons say; a closed one is not named."""
        return self.network.name if self.seal_key is None else ""

    def endpoint(self, address: HostPort | str) -> IStreamClientEndpoint:
        """
        Make the endpoint that connects to an address, as this process does.

        @raise Misuse: no such endpoint is known here.
        """
        return self.security.connecting(client_endpoint(self._clock, address))

    def ban_watch(
        self, run_blocking: RunBlocking, banned: Callable[[bytes], None]
    ) -> BanWatch | None:
        """
        Make the service that notices new bans.

        @param run_blocking: runs what waits for the disk.
        @param banned: told of each node that is banned while it runs.
        @return: L{None} if there is no state folder, and so no bans.
        """
        if self._bans is None:
            return None
        return BanWatch(self._bans, self._clock, run_blocking, banned)

    def ban(self, node: bytes, reason: str, seconds: int) -> None:
        """
        Ban a node, as C{flow512 ban} does; L{ban_watch} notices. Without a state folder nothing
        happens. This blocks, and any thread may call it.

        @param node: its node id.
        @param reason: why; cut off after L{MAX_REASON} characters.
        @param seconds: for how long.
        @raise flow512.errors.Flow512Error: as L{Bans.ban}.
        """
        if self._bans_file:
            bans = Bans(self._bans_file, wall_seconds_of(self._clock))
            bans.ban(node, reason[:MAX_REASON], seconds)

    def close(self) -> None:
        """
        Let other processes have the state folder.
        """
        state, self.state = self.state, None
        if state is not None:
            state.close()
