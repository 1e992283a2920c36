"""
C{twistd flow512-registry}: a registry by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from flow512.clocks import keep_steady
from flow512.limits import Limits
from flow512.link.identity import default_registry_state
from flow512.plugins.options import Daemon, ServiceOptions, starters_error
from flow512.registry.service import RegistryService, RegistrySettings

COMMAND = "flow512-registry"


class Options(ServiceOptions):
    """
    The options of C{twistd flow512-registry}.
    """

    command = COMMAND

    synopsis = "[options]"
    longdesc = (
        "Introduces the nodes of a network to each other. It listens on TCP port 5000 unless told"
        " otherwise, and announces itself by UDP."
    )

    optParameters: Sequence[Sequence[object]] = [
        [
            "state",
            None,
            None,
            "The folder for the registry's identity and network, which no node shares.",
        ],
    ]

    def postOptions(self) -> None:
        self.settings = RegistrySettings(
            listen=self["listen"],
            name=self["name"],
            state=self["state"] or default_registry_state(),
            network=self["network"],
            network_key_file=self["network-key-file"],
            encryption=self.encryption,
            limits=Limits.with_settings(self["limit"]),
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
    return Daemon(COMMAND, RegistryService(reactor, config.settings), starter)
