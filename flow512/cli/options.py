"""
Options that several commands have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from flow512.settings import NodeSettings

_F = TypeVar("_F", bound=Callable[..., Any])

MODES: Final = ("auto", "always", "never")
WAIT: Final = 5.0
"""Seconds that a command looks for peers, unless told otherwise."""


@dataclass(frozen=True)
class Reach:
    """
    How far a command's node looks.

    @ivar registry: the registry's address; L{None} to look for one.
    @ivar network: the name of the network.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: those that the beacon uses; all if empty.
    """

    registry: str | None
    network: str
    beacon_port: int | None
    interfaces: tuple[str, ...]

    def settings(self, **more: Any) -> NodeSettings:
        """
        Make a node's settings.

        @param more: see L{NodeSettings}.
        @raise Misuse: one of them makes no sense.
        """
        from flow512.discovery.beacon import PORT
        from flow512.link.address import parse_address
        from flow512.settings import NodeSettings

        return NodeSettings(
            registry=None if self.registry is None else parse_address(self.registry),
            network=self.network,
            beacon_port=PORT if self.beacon_port == 0 else self.beacon_port,
            interfaces=self.interfaces,
            **more,
        )


def reach_options(command: _F) -> _F:
    """
    Give a command the options of L{Reach}; it takes it as C{reach}.
    """

    @click.option(
        "--registry", metavar="ADDRESS", help="The registry; found by beacon if not given."
    )
    @click.option("--network", metavar="NAME", default="", help="Only nodes of this network.")
    @click.option("--no-beacon", is_flag=True, help="Look for nobody by UDP, and announce nothing.")
    @click.option(
        "--beacon-port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help="The beacon's UDP port, if not 5120.",
    )
    @click.option(
        "--interface",
        "interfaces",
        multiple=True,
        metavar="NAME|ADDRESS",
        help="Beacon on this interface only; may be repeated.",
    )
    @wraps(command)
    def with_reach(
        *,
        registry: str | None,
        network: str,
        no_beacon: bool,
        beacon_port: int | None,
        interfaces: tuple[str, ...],
        **options: Any,
    ) -> Any:
        port = None if no_beacon else beacon_port or 0
        return command(reach=Reach(registry, network, port, interfaces), **options)

    return with_reach  # type: ignore[return-value]  # click calls it by keywords alone


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show what happens inside.")
wait_option = click.option(
    "--wait",
    type=click.FloatRange(0),
    default=WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long to look for peers.",
)


def node_options(command: _F) -> _F:
    """
    Give a command the options of a node that serves, and those of L{Reach}; it takes its
    settings, which lack the folders, as C{settings}.
    """

    @click.option("--listen", default="", metavar="ENDPOINT", help="Where; tcp:5000 if it is free.")
    @click.option("--name", default="", help="What others are shown; else the machine's name.")
    @click.option("--state", metavar="DIR", help="The folder for identity and catalog.")
    @click.option(
        "--bootstrap",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="Whether to carry the registry.",
    )
    @reach_options
    @wraps(command)
    def with_settings(
        *, listen: str, name: str, state: str | None, bootstrap: str, reach: Reach, **options: Any
    ) -> Any:
        from flow512.discovery.election import Mode
        from flow512.link.identity import default_state

        settings = reach.settings(
            listen=listen,
            name=name,
            state=state or default_state(),
            bootstrap=Mode(bootstrap),
        )
        return command(settings=settings, **options)

    return with_settings  # type: ignore[return-value]  # click calls it by keywords alone
