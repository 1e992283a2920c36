"""
C{twistd flow512-node}: a node that shares folders.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.python.usage import UsageError

from flow512.clocks import keep_steady
from flow512.content.paths import escape
from flow512.content.shares import Share
from flow512.discovery.election import Mode
from flow512.limits import RESCAN, Limits
from flow512.link.identity import default_state
from flow512.link.named_registry import parse_named_registry
from flow512.link.node_id import parse_node_id
from flow512.link.rate import parse_rate
from flow512.node import NodeService
from flow512.plugins.options import Daemon, ServiceOptions, starters_error
from flow512.settings import NodeSettings
from flow512.transfer.candidates import named_candidate

COMMAND = "flow512-node"


class Options(ServiceOptions):
    """
    The options of C{twistd flow512-node}.
    """

    command = COMMAND

    synopsis = "[--share DIR]... [options]"
    longdesc = (
        "Shares folders with the other nodes of this network. It listens on TCP port 5000, or on"
        " a free one if that is taken; finds a registry, or becomes the bootstrap itself."
    )

    optFlags: Sequence[Sequence[object]] = [
        ["registry-all", None, "Be listed by all registries that are named, and follow one."],
    ]

    optParameters: Sequence[Sequence[object]] = [
        ["downloads", None, None, "A folder for what the node fetches; it is shared as well."],
        ["state", None, None, "The folder for the node's identity and catalog."],
        ["up", None, "none", "Bytes a second to send at most, such as 500K or 1.5MiB."],
        ["down", None, "none", "Bytes a second to fetch at most."],
        [
            "rescan",
            None,
            RESCAN,
            "Seconds between two looks through folders that cannot be followed live; 0 for never.",
            float,
        ],
        ["bootstrap", None, "auto", "Whether to be the bootstrap: auto, always or never."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["share"] = []
        self["registry"] = []
        self["allow"] = []
        self["peer"] = []

    def opt_share(self, folder: str) -> None:
        """
        A folder to share. May be repeated.
        """
        self["share"].append(folder)

    def opt_registry(self, registry: str) -> None:
        """
        The registry, such as HOST, HOST:PORT or ID@HOST:PORT. May be repeated, the preferred one
        first.
        """
        self["registry"].append(parse_named_registry(registry))

    def opt_peer(self, peer: str) -> None:
        """
        A node to ask whom it knows, where no beacon reaches it; HOST, HOST:PORT or ID@HOST:PORT.
        May be repeated.
        """
        self["peer"].append(named_candidate(peer))

    def opt_allow(self, node_id: str) -> None:
        """
        Only this node may see what is shared. May be repeated.
        """
        self["allow"].append(parse_node_id(node_id))

    def postOptions(self) -> None:
        for folder in (*self["share"], *filter(None, [self["downloads"]])):
            Share(folder).close()
        if self["bootstrap"] not in [mode.value for mode in Mode]:
            raise UsageError(
                f"--bootstrap is auto, always or never, not '{escape(self['bootstrap'])}'"
            )
        self.settings = NodeSettings(
            shares=tuple(self["share"]),
            downloads=self["downloads"],
            state=self["state"] or default_state(),
            name=self["name"],
            network=self["network"],
            network_key_file=self["network-key-file"],
            encryption=self.encryption,
            listen=self["listen"],
            registries=tuple(self["registry"]),
            registry_all=bool(self["registry-all"]),
            peers=tuple(self["peer"]),
            allow=tuple(self["allow"]),
            limits=Limits.with_settings(self["limit"]),
            rescan=self["rescan"],
            up=parse_rate(self["up"]),
            down=parse_rate(self["down"]),
            bootstrap=Mode(self["bootstrap"]),
            beacon_port=self.beacon_port,
            interfaces=tuple(self["interface"]),
        )


def makeService(config: Options, reactor: IReactorTime | None = None) -> Service:
    """
    Make the service that C{twistd} runs.

    @param config: parsed options.
    @param reactor: for tests and other applications; the global one unless given.
    """
    starter = None
    if reactor is None:
        from twisted.internet import reactor as installed

        keep_steady(installed)
        reactor = IReactorTime(installed)
        starter = starters_error()
    return Daemon(COMMAND, NodeService(reactor, config.settings), starter)
