"""
C{flow512 demo}: a registry and two nodes, each a process of C{twistd}, and files that flow
between the nodes.

Everything stays on this machine: they listen on 127.0.0.1, and the beacon is restricted to it, on
a UDP port that nobody else has, so that no other node is met and none is bothered.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool

from flow512.cli.children import Child
from flow512.cli.formatting import size_text
from flow512.cli.getting import Wish, get, passing
from flow512.cli.outcome import Interrupted
from flow512.cli.running import Machine, to_its_end
from flow512.cli.stage import Stage
from flow512.errors import BadDigest, Flow512Error, ResourceFailure, TimedOut, from_os_error
from flow512.interfaces import RunBlocking
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.settings import NodeSettings
from flow512.transfer.fetch import Target
from flow512.units import PIECES_PER_BLOCK

_P = ParamSpec("_P")
_T = TypeVar("_T")

HOST: Final = "127.0.0.1"
LISTEN: Final = f"tcp:0:interface={HOST}"

BIG: Final = 64 * 1024 * 1024
"""Bytes of the file that travels in runs of a block."""

SMALL: Final = 100_001
"""Bytes of the file that travels piece by piece: 196 of them, the last one short."""

LIMIT: Final = 60.0
"""Seconds for everything."""

_TWISTD: Final = """\
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv[0] = "twistd"
from twisted.scripts.twistd import run
run()
"""
"""
It leaves Ctrl-C, which a terminal sends to all of them, to who started it. It stays in the group of
processes that is told when the terminal is closed.
"""

_PORT: Final = re.compile(r"Port: (\d+)")
_STRETCH: Final = 1024 * 1024


class Flow(msgspec.Struct, frozen=True):
    """
    One file, from one node to the other.

    @ivar name: the file's.
    @ivar size: bytes.
    @ivar source: the node that shares it; also the name of its folder.
    @ivar target: the node whose folder it goes to.
    @ivar run: pieces in a frame.
    """

    name: str
    size: int
    source: str
    target: str
    run: int


FLOWS: Final = (
    Flow("big.bin", BIG, "first", "second", PIECES_PER_BLOCK),
    Flow("small.bin", SMALL, "second", "first", 1),
)


async def demo(machine: Machine, stage: Stage) -> None:
    """
    Give the whole show.

    @param machine: whose reactor can start processes.
    @param stage: where it is seen.
    @raise Flow512Error: something failed. No process and no file of it is left, either way.
    """
    failed: list[Flow512Error] = []

    def child_gone(child: Child) -> None:
        failed.append(ResourceFailure(child.epitaph))
        show.cancel()

    def too_late(result: object, limit: float) -> None:
        raise TimedOut(f"The demo was not over within {limit:g} seconds; it was stopped.")

    cast = _Cast(machine, stage, child_gone)
    show = Deferred.fromCoroutine(_show(cast)).addTimeout(LIMIT, machine.reactor, too_late)
    try:
        await show
    except (Interrupted, CancelledError):
        if failed:
            raise failed[0] from None
        raise


class _Cast:
    """The processes and the folder that they work in, for as long as the context lasts."""

    def __init__(self, machine: Machine, stage: Stage, gone: Callable[[Child], None]) -> None:
        self.machine = machine
        self.stage = stage
        self._tell_gone = gone
        self._is_ending = False
        self._children: list[Child] = []
        reactor: Any = machine.reactor
        self._reactor = reactor
        # In a process of its own, the reactor's own threads, which it ends itself.
        self._run_blocking: RunBlocking = machine.run_blocking or partial(
            deferToThreadPool, reactor, reactor.getThreadPool()
        )

    async def work(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """
        Run what blocks. While it works in the folder, that is not removed.
        """
        return await to_its_end(self._run_blocking(function, *args, **kwargs))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[str]:
        """
        Have a folder, and at the end neither it nor any process.
        """
        with tempfile.TemporaryDirectory(prefix="flow512-demo-") as folder:
            self.folder = folder
            try:
                yield folder
            finally:
                self._is_ending = True
                with suppress(BrokenPipeError):  # nobody may be there to read it
                    self.stage.announce("Stopping all three.")
                await to_its_end(Deferred.fromCoroutine(self._stop()))

    async def _stop(self) -> None:
        for child in reversed(self._children):
            await child.stop(self.machine.reactor)

    def _gone(self, child: Child) -> None:
        # One that ends while the others are ended is waited for when it is its turn.
        if not self._is_ending:
            self._tell_gone(child)

    def start(self, name: str, *arguments: str) -> Child:
        """
        Start C{twistd} in the foreground.
        """
        child = Child(name, self.stage.line, self._gone)
        self.stage.announce(f"$ twistd -n {shlex.join(arguments)}")
        twistd = (sys.executable, "-P", "-c", _TWISTD, "-n", "--pidfile=")
        child.start(self._reactor, [*twistd, *arguments], self.folder)
        self._children.append(child)
        return child


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def _show(cast: _Cast) -> None:
    async with cast.working() as folder:
        for flow in FLOWS:
            cast.stage.say(
                f"Making {size_text(flow.size)} of random bytes: {flow.source}/{flow.name}"
            )
            await cast.work(_make, os.path.join(folder, flow.source), flow)
        beacon = ("--beacon-port", str(_free_udp_port()), "--interface", HOST)
        office = ("flow512-registry", "--name", "registry", "--state", "state-registry")
        registry = cast.start("registry", *office, "--listen", LISTEN, *beacon)
        port = _PORT.search(await registry.says("Bootstrap node running at"))
        assert port is not None
        address = HostPort(HOST, int(port[1]))
        # The first is told where the registry is, the second has to find it by the beacon.
        for name, how in (("first", ("--registry", str(address))), ("second", ())):
            node = ("flow512-node", "--name", name, "--downloads", name, "--state", f"state-{name}")
            child = cast.start(
                name, *node, "--bootstrap", "never", "--listen", LISTEN, *how, *beacon
            )
            await child.says("File-sharing node running at")
        for flow in FLOWS:
            await _flow(cast, flow, address)
    big, small = FLOWS
    cast.stage.announce(
        f"Verified: {size_text(big.size)} in blocks of {big.run} pieces and"
        f" {size_text(small.size)} in single pieces of 512 bytes arrived as they were,"
        " encrypted on the way (TLS 1.3)."
    )


async def _flow(cast: _Cast, flow: Flow, registry: HostPort) -> None:
    cast.stage.announce(
        f"$ flow512 get {flow.name} --from {flow.source} --run {flow.run} -o {flow.target}/"
        f" --registry {registry} --no-beacon"
    )
    source, target = (os.path.join(cast.folder, name) for name in (flow.source, flow.target))
    settings = passing(
        NodeSettings(registries=(NamedRegistry(registry),), beacon_port=None), flow.source
    )
    wish = Wish(flow.name, Target(target), flow.run, peer=flow.source, wait=LIMIT)
    progress = cast.stage.progress(cast.machine.reactor)
    await get(cast.machine, settings, wish, cast.stage, progress)
    sums = []
    for folder in (source, target):
        sums.append(await cast.work(_md5, os.path.join(folder, flow.name)))
        cast.stage.say(f"md5 {sums[-1]}  {os.path.basename(folder)}/{flow.name}")
    if sums[0] != sums[1]:
        raise BadDigest(f"'{flow.name}' did not arrive as it was: its MD5 is another.")


def _make(folder: str, flow: Flow) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, flow.name), "wb") as file:
            for at in range(0, flow.size, _STRETCH):
                file.write(os.urandom(min(_STRETCH, flow.size - at)))
    except OSError as error:
        raise from_os_error(error, f"making {flow.name}") from error


def _md5(path: str) -> str:
    # Not by way of flow512's own reading or hashing: this is the audience's own check.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
