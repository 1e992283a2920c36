"""
The programs of docs/embedding.rst, each as a process of its own, over real sockets on loopback.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from flow512 import Mode, NamedRegistry, NodeService, NodeSettings, parse_address

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 20.0
SILENCE = 10.0
"""Seconds before which no beacon is lost because it fell silent; only a goodbye is as fast."""
LOOPBACK = "tcp:0:interface=127.0.0.1"

IMPORT_LIGHTLY = """
import sys
import flow512
assert sorted(flow512.__all__) == [name for name in dir(flow512) if name in flow512.__all__]
loaded = [name for name in sys.modules if name.partition(".")[0] in ("twisted", "msgspec", "zope")]
sys.exit(f"importing flow512 loaded {loaded}" if loaded else 0)
"""

IMPORT_ALL = """
import sys
from flow512 import *
assert NodeService and Beacon and Flow512Error
sys.exit("twisted.internet.reactor" in sys.modules)
"""


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Program(ProcessProtocol):
    """
    One of the programs, as it runs.

    @ivar said: what it has printed.
    @ivar complained: what it has written to standard error.
    @ivar ended: fires with the exit status, or L{None} if a signal ended it.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        from twisted.internet import reactor

        self.said = self.complained = ""
        self.ended: Deferred[int | None] = Deferred()
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._reactor = reactor
        script = str(ROOT / "docs" / "examples" / f"{name}.py")
        self._process = reactor.spawnProcess(
            self, sys.executable, [sys.executable, script, *arguments], os.environ, str(ROOT)
        )

    def outReceived(self, data: bytes) -> None:
        self.said += data.decode()
        for each in self._waiting[:]:
            text, waiting = each
            if text in self.said and not waiting.called:
                self._waiting.remove(each)
                waiting.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.complained += data.decode()

    def processEnded(self, reason: Failure) -> None:
        for text, waiting in self._waiting:
            if not waiting.called:
                waiting.errback(AssertionError(f"ended without {text!r}: {self.complained}"))
        self.ended.callback(reason.value.exitCode)

    def says(self, text: str, limit: float = LIMIT) -> Deferred[None]:
        """Wait for something to be printed."""
        waiting: Deferred[None] = Deferred()
        if text in self.said:
            waiting.callback(None)
        else:
            self._waiting.append((text, waiting))
        return waiting.addTimeout(limit, self._reactor)

    def stop(self) -> Deferred[int | None]:
        """Ask it to end, and wait until it has."""
        if not self.ended.called:
            self._process.signalProcess("TERM")
        return self.end()

    def end(self) -> Deferred[int | None]:
        """Wait until it has ended, and give its exit status."""
        return self.ended.addTimeout(LIMIT, self._reactor)

    def kill(self) -> None:
        """End it, if it has not ended yet."""
        if not self.ended.called:
            self._process.signalProcess("KILL")


@contextmanager
def running(name: str, *arguments: str) -> Generator[Program, None, None]:
    """Run a program, and leave none behind whatever happens."""
    program = Program(name, *arguments)
    try:
        yield program
    finally:
        program.kill()


class Reader(Protocol):
    """Keeps what it is told until the end."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.ended.callback(self.received)


def node(**settings: Any) -> NodeService:
    """Make a node that only this machine can reach."""
    from twisted.internet import reactor

    return NodeService(reactor, NodeSettings(beacon_port=None, **settings))


@pytest_twisted.inlineCallbacks
def test_registry_in_application() -> Generator[Any, Any, None]:
    """A node registers with it, and the application's other service tells of the node."""
    from twisted.internet import reactor

    registry, roll_call = free_port(), free_port()
    places = [f"tcp:{port}:interface=127.0.0.1" for port in (registry, roll_call)]
    with running("registry_in_application", *places) as program:
        yield program.says("ready")
        guest = node(
            listen=LOOPBACK,
            name="guest",
            registries=(NamedRegistry(parse_address(f"127.0.0.1:{registry}")),),
        )
        guest.startService()
        try:
            told = b""
            for _ in range(50):
                endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{roll_call}")
                reader = yield connectProtocol(endpoint, Reader())
                told = yield reader.ended
                if told:
                    break
                yield deferLater(reactor, 0.1)
            assert told.decode() == f"127.0.0.1 {guest.port} 'guest'\n"
        finally:
            yield guest.stopService()
        yield program.stop()
        assert program.complained == ""


@pytest_twisted.inlineCallbacks
def test_fetch(tmp_path: Path) -> Generator[Any, Any, None]:
    """It fetches a file and prints its MD5; an error is one sentence and exit status 1."""
    share, folder = tmp_path / "share", tmp_path / "folder"
    share.mkdir()
    folder.mkdir()
    content = os.urandom(1_000_000)
    (share / "trailer.mkv").write_bytes(content)
    server = node(listen=LOOPBACK, shares=(str(share),), bootstrap=Mode.ALWAYS)
    server.startService()
    address = f"127.0.0.1:{server.port}"
    try:
        with running("fetch", address, "trailer.mkv", str(folder)) as program:
            status = yield program.end()
            assert (status, program.complained) == (0, "")
            md5 = hashlib.md5(content).hexdigest()
            assert program.said == f"{md5}  {folder / 'trailer.mkv'}\n"
            assert (folder / "trailer.mkv").read_bytes() == content
        with running("fetch", address, "nothing.mkv", str(folder)) as program:
            status = yield program.end()
            assert status == 1
            assert program.complained.count("\n") == 1
            assert "nothing.mkv" in program.complained
    finally:
        yield server.stopService()


@pytest_twisted.inlineCallbacks
def test_beacon_alone() -> Generator[Any, Any, None]:
    """Two find each other, and when one ends its goodbye tells the other."""
    names = [f"{name}-{os.getpid()}" for name in ("kitchen", "attic")]
    with (
        running("beacon_alone", names[0], "8000", "127.0.0.1") as kitchen,
        running("beacon_alone", names[1], "8001", "127.0.0.1") as attic,
    ):
        yield kitchen.says(f"found '{names[1]}' at 127.0.0.1 port 8001\n")
        yield attic.says(f"found '{names[0]}' at 127.0.0.1 port 8000\n")
        yield attic.stop()
        yield kitchen.says(f"lost '{names[1]}'\n", SILENCE)
        yield kitchen.stop()
        assert (kitchen.complained, attic.complained) == ("", "")


def test_imports() -> None:
    """To import flow512 loads nothing of Twisted; to import all names from it, no reactor."""
    for program in (IMPORT_LIGHTLY, IMPORT_ALL):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
