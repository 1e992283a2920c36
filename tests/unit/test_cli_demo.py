"""The demo's course, with services in memory in place of its three processes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure
from zope.interface import implementer

from flow512.cli.children import Child
from flow512.cli.demo import FLOWS, LIMIT, demo
from flow512.cli.running import Machine
from flow512.cli.stage import Stage
from flow512.discovery.election import Mode
from flow512.errors import BadDigest, ResourceFailure, TimedOut
from flow512.link.named_registry import parse_named_registry
from flow512.node import NodeService
from flow512.registry.service import RegistryService, RegistrySettings
from flow512.settings import INodeListener, NodeListener, NodeSettings
from flow512.testing import Host
from tests.unit.command_line import CommandCase


@implementer(INodeListener)
class Words(NodeListener):
    """Writes what twistd would have logged."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def node_listening(self, host: str, port: int) -> None:
        self.child.childDataReceived(
            1, f"File-sharing node running at IP: {host}, Port: {port}\n".encode()
        )


class Pipe(io.StringIO):
    """What the demo writes to."""

    is_read = True

    def write(self, text: str) -> int:
        if not self.is_read:
            raise BrokenPipeError
        return super().write(text)


class Transport:
    """A process that stops its service when it is told to end."""

    def __init__(self, child: Child, service: Any) -> None:
        self.child = child
        self.service = service

    def signalProcess(self, name: str) -> None:
        stopping: Deferred[None] = self.service.stopService()
        stopping.addCallback(lambda _: self.child.processEnded(Failure(ProcessDone(0))))


class Theatre:
    """
    A reactor on which three services take the parts of processes.

    @ivar commands: what was started, as typed.
    @ivar before: called with each name before its service starts; true to have nothing start.
    """

    def __init__(self, machine: Machine, before: Callable[[str, Child, str], bool]) -> None:
        self._machine = machine
        self._before = before
        self.commands: list[list[str]] = []
        self.running: list[Any] = []
        self.registry = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine.reactor, name)

    def spawnProcess(
        self, child: Child, program: str, arguments: list[str], env: object, path: str
    ) -> None:
        self.commands.append(arguments)
        options = dict(pairwise(arguments))
        if self._before(child.name, child, path):
            return
        more: dict[str, Any] = {
            "random": Random(child.name),
            "local_addresses": self._machine.local_addresses,
        }
        service: Any
        if "flow512-registry" in arguments:
            settings = RegistrySettings(listen=options["--listen"], beacon_port=None)
            service = RegistryService(self._machine.reactor, settings, **more)
        else:
            service = NodeService(
                self._machine.reactor,
                NodeSettings(
                    downloads=str(Path(path, options["--downloads"])),
                    name=options["--name"],
                    listen=options["--listen"],
                    # By the beacon, in the real one.
                    registries=(parse_named_registry(options.get("--registry", self.registry)),),
                    bootstrap=Mode.NEVER,
                    beacon_port=None,
                ),
                listener=Words(child),
                run_blocking=self._machine.run_blocking,
                **more,
            )
        child.makeConnection(Transport(child, service))
        self.running.append(service)
        self._machine.reactor.callLater(0.1, self._start, child, service)

    def _start(self, child: Child, service: Any) -> None:
        service.startService()
        if child.name == "registry":
            self.registry = f"127.0.0.1:{service.port}"
            child.childDataReceived(
                1, f"Bootstrap node running at IP: 127.0.0.1, Port: {service.port}\n".encode()
            )


class DemoTests(CommandCase):
    """C{flow512 demo}."""

    def setUp(self) -> None:
        super().setUp()
        self.out = Pipe()
        self.folders: list[Path] = []

    def play(self, before: Callable[[str, Child, str], bool] = lambda *_: False) -> Theatre:
        """Give the demo to its end, and see that nothing is left of it."""

        def noting(name: str, child: Child, path: str) -> bool:
            self.folders.append(Path(path))
            return before(name, child, path)

        machine = self.machine(self.client)
        theatre: Any = Theatre(machine, noting)
        staged = Machine(theatre, machine.run_blocking, machine.random, machine.local_addresses)
        try:
            self.network.result(
                Deferred.fromCoroutine(demo(staged, Stage(self.out, self.out))), 2 * LIMIT
            )
        finally:
            self.assertFalse(self.folders[0].exists())
            self.assertFalse(any(service.running for service in theatre.running))
        return theatre  # type: ignore[no-any-return]  # it stands for a reactor

    def test_course(self) -> None:
        """Three are started, two files flow, their sums are compared, and that is said last."""
        theatre = self.play()
        self.assertEqual(len(theatre.commands), 3)
        for command in theatre.commands:
            self.assertIn("127.0.0.1", command[command.index("--interface") + 1])
            self.assertIn("interface=127.0.0.1", command[command.index("--listen") + 1])
        told = ["--registry" in command for command in theatre.commands]
        self.assertEqual(told, [False, True, False])
        lines = self.out.getvalue().splitlines()
        for flow in FLOWS:
            self.assertIn(f"File '{flow.name}' downloaded successfully.", lines)
        sums = [line.split()[1] for line in lines if line.startswith("md5 ")]
        self.assertEqual((sums[0], sums[2]), (sums[1], sums[3]))
        self.assertTrue(lines[-1].startswith("Verified: 64.0 MiB"))

    def test_nobody_reads(self) -> None:
        """When nobody reads any more it ends, and that is the reason, whatever is being said."""

        def close(name: str, child: Child, path: str) -> bool:
            self.out.is_read = name != "first"
            return False

        with self.assertRaises(BrokenPipeError):
            self.play(close)

    def test_one_dies(self) -> None:
        """A process that ends is named with its last words, and nothing is called verified."""

        def die(name: str, child: Child, path: str) -> bool:
            if name != "first":
                return False
            child.childDataReceived(2, b"Port taken.\n")
            dead = Failure(ProcessTerminated(1))
            self.client.reactor.callLater(0.1, child.processEnded, dead)
            return True

        with self.assertRaises(ResourceFailure) as caught:
            self.play(die)
        self.assertEqual(
            str(caught.exception),
            "The process 'first' ended with status 1; it said: Port taken.",
        )
        self.assertNotIn("Verified", self.out.getvalue())

    def test_dies_at_the_end(self) -> None:
        """Who ends while the others are ended, as at a terminal's Ctrl-C, is nothing to tell."""
        children: list[Child] = []

        def hang(name: str, child: Child, path: str) -> bool:
            children.append(child)
            if name == "second":
                child.makeConnection(Transport(child, Dying(self.client, children[0])))
            return name == "second"

        with self.assertRaises(TimedOut):
            self.play(hang)

    def test_too_slow(self) -> None:
        """When it takes too long, it is stopped."""

        def hang(name: str, child: Child, path: str) -> bool:
            if name == "second":
                child.makeConnection(Transport(child, Idle()))
            return name == "second"

        with self.assertRaises(TimedOut):
            self.play(hang)

    def test_other_bytes(self) -> None:
        """Files that differ in the end are not called verified."""
        before = self.machine

        def corrupting(host: Any) -> Machine:
            machine = before(host)
            assert machine.run_blocking is not None
            honest: Any = machine.run_blocking

            def run_blocking(function: Any, /, *args: Any, **kwargs: Any) -> Any:
                if function.__name__ == "_md5" and "second" in str(args[0]):
                    with open(args[0], "r+b") as file:
                        file.write(b"?" * 100)
                return honest(function, *args, **kwargs)

            return Machine(machine.reactor, run_blocking, machine.random, machine.local_addresses)

        self.machine = corrupting  # type: ignore[method-assign]  # for this test
        with self.assertRaises(BadDigest):
            self.play()
        self.assertNotIn("Verified", self.out.getvalue())

    def test_twistd(self) -> None:
        """The twistd that is started is that of this very Python."""
        [program, *rest] = self.play().commands[0]
        self.assertEqual(program, sys.executable)
        self.assertTrue(any("from twisted.scripts.twistd import run" in each for each in rest))


class Idle:
    """A service that does nothing."""

    running = False

    def stopService(self) -> Deferred[None]:
        stopped: Deferred[None] = Deferred()
        stopped.callback(None)
        return stopped


class Dying(Idle):
    """A service that takes its time to end, in which another process ends by itself."""

    def __init__(self, host: Host, other: Child) -> None:
        self.host = host
        self.other = other

    def stopService(self) -> Deferred[None]:
        stopped: Deferred[None] = Deferred()
        assert self.other.transport is not None
        self.other.transport.signalProcess("INT")
        self.host.reactor.callLater(0.1, stopped.callback, None)
        return stopped
