"""
C{flow512} on the network in memory: every command as it is typed, and what it said.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.main import main
from flow512.cli.running import Command, Machine, judge
from flow512.cli.voice import Voice
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.election import Mode
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.testing import Host, Network

LIMIT = 120.0


class Written(Protocol):
    """Where a command writes to, for a test that reads it."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def getvalue(self) -> str: ...


class TerminalText(io.StringIO):
    """Text that was written to a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Said:
    """
    What a command came to.

    @ivar status: its exit status.
    @ivar out: what it wrote to standard output.
    @ivar err: likewise, standard error.
    """

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The objects that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, kind: str) -> dict[str, Any]:
        """The one object of a kind."""
        [found] = [each for each in self.events if each["event"] == kind]
        return found


class CommandCase(SynchronousTestCase):
    """
    A host with a node to fetch from, and one where commands are typed.
    """

    def patch_terminal(self) -> None:
        """Let rich believe in the terminal, whatever the environment of the tests is."""
        self.patch_environment("TERM", "xterm-256color")
        self.patch_environment("COLUMNS", "120")

    def patch_environment(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            self.addCleanup(os.environ.pop, name, None)
        else:
            self.addCleanup(os.environ.__setitem__, name, before)

    def setUp(self) -> None:
        self.network = Network(1)
        self.server = self.network.host("10.0.0.1", name="server")
        self.client = self.network.host("10.0.0.2", name="client")
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.here = self.folder / "here"
        self.here.mkdir()

    def machine(self, host: Host) -> Machine:
        """What a command runs on, on a host."""
        return Machine(
            host.reactor,
            host.run_blocking,
            Random(host.name),
            lambda: [LocalAddress(address, 24, "eth0", 2) for address in host.addresses],
        )

    def share(self, files: dict[str, bytes], name: str = "share") -> str:
        """Make a folder with these files, all of one time."""
        share = self.folder / name
        share.mkdir()
        for path, content in files.items():
            (share / path).parent.mkdir(parents=True, exist_ok=True)
            (share / path).write_bytes(content)
            os.utime(share / path, (1_000_000_000, 1_000_000_000))
        return str(share)

    def start_node(
        self, files: dict[str, bytes], host: Host | None = None, **settings: Any
    ) -> NodeService:
        """Run a node that shares files; it is stopped at the test's end."""
        host = host or self.server
        machine = self.machine(host)
        given = {"name": host.name, "bootstrap": Mode.ALWAYS, **settings}
        given.setdefault("shares", (self.share(files, f"share of {host.name}"),))
        node = NodeService(
            machine.reactor,
            NodeSettings(**given),
            random=machine.random,
            run_blocking=machine.run_blocking,
            local_addresses=machine.local_addresses,
        )
        node.startService()
        self.addCleanup(lambda: self.network.result(node.stopService()))
        self.network.run(0.2)
        return node

    def flow512(
        self,
        *arguments: str,
        until: Callable[[str], bool] | None = None,
        out: Written | None = None,
        err: io.StringIO | None = None,
        host: Host | None = None,
    ) -> Said:
        """
        Type a command.

        @param until: interrupt it as soon as this holds for what it has written.
        @param out: its standard output; no terminal unless given.
        @param err: likewise, standard error.
        """
        out, err = out or io.StringIO(), err or io.StringIO()
        machine = self.machine(host or self.client)

        def runner(
            command: Command,
            voice: Voice,
            *,
            verbose: bool,
            words: Callable[[str], None] | None = None,
        ) -> int:
            results: list[object] = []
            running = Deferred.fromCoroutine(command(machine))
            running.addBoth(results.append)
            if until is not None:
                self.network.run_until(lambda: results or until(out.getvalue()), LIMIT)
                running.cancel()
            self.network.run_until(lambda: results, LIMIT)
            return judge(results[0], voice)

        with redirect_stdout(out), redirect_stderr(err):
            status = main(arguments, runner)
        return Said(status, out.getvalue(), err.getvalue())
