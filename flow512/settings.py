"""
What a user decides about a node, and how an application hears of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

import msgspec
from zope.interface import Interface, implementer

from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.discovery.election import Mode
from flow512.errors import Misuse
from flow512.limits import RESCAN, Limits
from flow512.link.identity import check_names
from flow512.link.named_registry import NamedRegistry
from flow512.link.rate import check_rate
from flow512.link.security import Encryption
from flow512.transfer.finding import Candidate
from flow512.wire.fields import Peer

if TYPE_CHECKING:
    from flow512.transfer.indexing import Indexed


class INodeListener(Interface):
    """
    Is told what happens to a node.
    """

    def node_listening(host: str, port: int) -> None:
        """
        The node serves now.

        @param host: an address that others on its network reach it at.
        @param port: the TCP port; 0 if it listens on something else.
        """

    def node_indexed(indexed: Indexed) -> None:
        """
        What has changed in the shares was looked at, and everything found is hashed.
        """

    def peers_changed(
        joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        """
        The registry's list is another now.
        """

    def bootstrap_started(port: int) -> None:
        """
        The node carries the registry now.
        """


@implementer(INodeListener)
class NodeListener:
    """
    Does nothing; to be subclassed by who wants to know some of it.
    """

    def node_listening(self, host: str, port: int) -> None:
        pass

    def node_indexed(self, indexed: Indexed) -> None:
        pass

    def peers_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        pass

    def bootstrap_started(self, port: int) -> None:
        pass


class NodeSettings(msgspec.Struct, frozen=True):
    """
    What a user decides about a node.

    @ivar shares: the folders that it offers, in order.
    @ivar downloads: the folder for what it fetches, which it offers as well; L{None} for the
        current folder, not offered.
    @ivar state: its state folder; L{None} to remember nothing, and be somebody new each time.
    @ivar beside: the state folder of another node, whose identity and network it shares while that
        one runs; only if it has no folder of its own.
    @ivar name: what others are shown; the machine's name if empty.
    @ivar network: only nodes with the same network name accept each other.
    @ivar network_key_file: the file with the key of a closed network; if empty, the network that
        was joined with the state folder, if any.
    @ivar encryption: what its connections run over.
    @ivar serves: whether it listens at all.
    @ivar listen: the server endpoint string; if empty, TCP port L{DEFAULT_PORT} on every address,
        or a free one if that is taken.
    @ivar registries: the registries that the user named, the preferred one first; none to look
        for one.
    @ivar registry_all: whether to be listed by all of these that answer, and not only by the one
        that is followed.
    @ivar peers: nodes to be asked whom they know, as long as they are there; those that no beacon
        reaches.
    @ivar remembers: whether peers and registries are tried that are remembered in the state folder.
    @ivar allow: node ids of those who may see what is shared; everybody if empty.
    @ivar limits: how much it takes on.
    @ivar up: bytes a second of files that it sends, at most, to all together; 0 for no limit. See
        L{flow512.link.rate} for the range.
    @ivar down: the same for what it fetches.
    @ivar bootstrap: whether it may, must or must not carry the registry itself.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: names or addresses of the interfaces that the beacon uses; all if empty.
    @ivar rescan: seconds between two looks through the shares where they cannot be followed live; 0
        for none but the first.
    @ivar offer_downloads: whether it passes on what it is downloading, as far as it has come, to
        those who may see everything that it shares.
    """

    shares: tuple[str, ...] = ()
    downloads: str | None = None
    state: str | None = None
    beside: str | None = None
    name: str = ""
    network: str = ""
    network_key_file: str = ""
    encryption: Encryption = Encryption.TLS
    serves: bool = True
    listen: str = ""
    registries: tuple[NamedRegistry, ...] = ()
    registry_all: bool = False
    peers: tuple[Candidate, ...] = ()
    remembers: bool = True
    allow: tuple[bytes, ...] = ()
    limits: Limits = msgspec.field(default_factory=Limits)
    up: int = 0
    down: int = 0
    bootstrap: Mode = Mode.AUTO
    beacon_port: int | None = BEACON_PORT
    interfaces: tuple[str, ...] = ()
    rescan: float = RESCAN
    offer_downloads: bool = True

    def __post_init__(self) -> None:
        """
        @raise Misuse: the settings contradict each other or a limit.
        """
        check_names(self.name, self.network)
        check_rate(self.up)
        check_rate(self.down)
        if not 0 <= self.rescan < inf:
            raise Misuse("--rescan is a number of seconds, or 0 for never.")
        if not self.serves and self.bootstrap is Mode.ALWAYS:
            raise Misuse("A node that does not listen cannot be the bootstrap.")
        if self.allow and self.encryption is Encryption.NONE:
            raise Misuse("Without TLS nobody can prove an id; use --allow without --plaintext.")

    @property
    def offered(self) -> tuple[str, ...]:
        """All folders that are offered, each once, though it was named by several paths."""
        named = self.shares if self.downloads is None else (*self.shares, self.downloads)
        folders: dict[str, str] = {}
        for each in named:
            folders.setdefault(os.path.realpath(each), each)
        return tuple(folders.values())
