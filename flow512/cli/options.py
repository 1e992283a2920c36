"""
Options that several commands have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from flow512.errors import Misuse

if TYPE_CHECKING:
    from flow512.settings import NodeSettings

_F = TypeVar("_F", bound=Callable[..., Any])

MODES: Final = ("auto", "always", "never")
WAIT: Final = 5.0
"""Seconds that a command looks for peers, unless told otherwise."""


class Reach(msgspec.Struct, frozen=True):
    """
    How far a command's node looks.

    @ivar registries: the registries, as C{[ID@]ADDRESS}, the preferred one first; none to look for
        one.
    @ivar registry_all: whether to be listed by all of them.
    @ivar peers: nodes to be asked whom they know, each C{ADDRESS} or C{ID@ADDRESS}.
    @ivar network: the name of the network; empty for the one that was joined.
    @ivar key_file: the file with the key of a closed network; empty for none.
    @ivar plaintext: whether connections are left bare.
    @ivar state: the state folder; L{None} for the usual one.
    @ivar beacon_port: the UDP port of the beacon; L{None} for no beacon.
    @ivar interfaces: those that the beacon uses; all if empty.
    """

    registries: tuple[str, ...]
    registry_all: bool
    peers: tuple[str, ...]
    network: str
    key_file: str
    plaintext: bool
    state: str | None
    beacon_port: int | None
    interfaces: tuple[str, ...]

    def settings(self, **more: Any) -> NodeSettings:
        """
        Make a node's settings.

        @param more: see L{NodeSettings}.
        @raise Misuse: one of them makes no sense.
        """
        from flow512.discovery.beacon import PORT
        from flow512.link.identity import default_state
        from flow512.link.named_registry import parse_named_registry
        from flow512.link.security import Encryption
        from flow512.settings import NodeSettings
        from flow512.transfer.candidates import named_candidate

        return NodeSettings(
            registries=tuple(parse_named_registry(each) for each in self.registries),
            registry_all=self.registry_all,
            peers=tuple(named_candidate(each) for each in self.peers),
            network=self.network,
            network_key_file=self.key_file,
            encryption=Encryption.NONE if self.plaintext else Encryption.TLS,
            beside=None if "state" in more else self.state or default_state(),
            beacon_port=PORT if self.beacon_port == 0 else self.beacon_port,
            interfaces=self.interfaces,
            **more,
        )


def _rate(context: click.Context, parameter: click.Parameter, text: str) -> int:
    from flow512.link.rate import parse_rate

    return parse_rate(text)


def rate_options(command: _F) -> _F:
    """
    Give a command the options for how fast its node may be; it takes them as C{up} and C{down}, in
    bytes a second, 0 for no limit.
    """
    for name, what in (("--down", "Fetch"), ("--up", "Send")):
        command = click.option(
            name,
            default="none",
            show_default=True,
            metavar="RATE",
            callback=_rate,
            help=f"{what} at most so many bytes a second, such as 500K or 1.5MiB.",
        )(command)
    return command


def reach_options(command: _F) -> _F:
    """
    Give a command the options of L{Reach}; it takes it as C{reach}.
    """

    @click.option(
        "--registry",
        "registries",
        multiple=True,
        metavar="[ID@]ADDRESS",
        help="The registry; found by beacon if not given. May be repeated, the best one first.",
    )
    @click.option(
        "--registry-all", is_flag=True, help="Be listed by all these registries, and follow one."
    )
    @click.option(
        "--peer",
        "peers",
        multiple=True,
        metavar="[ID@]ADDRESS",
        help="A node to ask whom it knows, where no beacon reaches it; may be repeated.",
    )
    @click.option("--state", metavar="DIR", help="The folder for identity, network and catalog.")
    @click.option(
        "--network-key-file",
        "key_file",
        default="",
        metavar="FILE",
        help="The key or join link of a closed network; the network that was joined if not given.",
    )
    @click.option(
        "--plaintext", is_flag=True, help="No TLS; all who are to be reached have to do the same."
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
        registries: tuple[str, ...],
        registry_all: bool,
        peers: tuple[str, ...],
        network: str,
        key_file: str,
        plaintext: bool,
        state: str | None,
        no_beacon: bool,
        beacon_port: int | None,
        interfaces: tuple[str, ...],
        **options: Any,
    ) -> Any:
        port = None if no_beacon else beacon_port or 0
        reach = Reach(
            registries=registries,
            registry_all=registry_all,
            peers=peers,
            network=network,
            key_file=key_file,
            plaintext=plaintext,
            state=state,
            beacon_port=port,
            interfaces=interfaces,
        )
        return command(reach=reach, **options)

    return with_reach  # type: ignore[return-value]  # click calls it by keywords alone


def _seconds(
    context: click.Context, parameter: click.Parameter, given: float | None
) -> float | None:
    if given is not None and not isfinite(given):
        raise click.BadParameter(f"{given} is no number of seconds", context, parameter)
    return given


def _peer(context: click.Context, parameter: click.Parameter, text: str | None) -> str:
    # It is a shell variable that is not set; everybody is not whom the user means.
    if text == "":
        raise Misuse("--from is empty; say whom to ask, or leave it out.")
    return text or ""


def from_option(what: str) -> Callable[[_F], _F]:
    """
    Give a command the option for whom to ask; it takes it as C{peer}, empty for anybody.

    @param what: its help.
    """
    return click.option("--from", "peer", metavar="ADDRESS|NAME|ID", callback=_peer, help=what)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
state_option = click.option("--state", metavar="DIR", help="The folder for identity and network.")
qr_option = click.option("--qr", is_flag=True, help="Draw the QR code, wherever the output goes.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show what happens inside.")
wait_option = click.option(
    "--wait",
    type=click.FloatRange(0),
    callback=_seconds,
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
    @click.option(
        "--bootstrap",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        help="Whether to carry the registry.",
    )
    @click.option(
        "--allow",
        multiple=True,
        metavar="NODE_ID",
        help="Only this node may see what is shared; may be repeated.",
    )
    @click.option(
        "--limit",
        "limits",
        multiple=True,
        metavar="NAME=VALUE",
        help="Change a limit, see docs/commands.rst; may be repeated.",
    )
    @click.option(
        "--rescan",
        type=click.FloatRange(0),
        callback=_seconds,
        metavar="SECONDS",
        help="How often to look through folders that cannot be followed live; 60, 0 for never.",
    )
    @rate_options
    @reach_options
    @wraps(command)
    def with_settings(
        *,
        listen: str,
        name: str,
        bootstrap: str,
        allow: tuple[str, ...],
        limits: tuple[str, ...],
        rescan: float | None,
        up: int,
        down: int,
        reach: Reach,
        **options: Any,
    ) -> Any:
        from flow512.discovery.election import Mode
        from flow512.limits import RESCAN, Limits
        from flow512.link.identity import default_state
        from flow512.link.node_id import parse_node_id

        settings = reach.settings(
            listen=listen,
            name=name,
            state=reach.state or default_state(),
            bootstrap=Mode(bootstrap),
            allow=tuple(parse_node_id(each) for each in allow),
            limits=Limits.with_settings(limits),
            rescan=RESCAN if rescan is None else rescan,
            up=up,
            down=down,
        )
        return command(settings=settings, **options)

    return with_settings  # type: ignore[return-value]  # click calls it by keywords alone
