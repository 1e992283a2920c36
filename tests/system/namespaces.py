"""
A small network of Linux's own: hosts that are network namespaces, on bridges in another one.

Nothing of it touches the network of the machine: even the bridges are in a namespace, and all of it
is gone at the end. It takes root, and the command C{ip} of iproute2.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Final

CLI: Final = [sys.executable, "-m", "flow512.cli"]
LIMIT: Final = 60.0
"""Seconds after which a test that still waits has failed."""

_IP: Final = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")

_NOT_OURS: Final = ("not permitted", "permission denied", "not supported", "unknown device type")
"""What the system says where such a network cannot be made. Anything else is a mistake of ours."""

_numbers = itertools.count(1)


def why_not() -> str:
    """Say why no such network can be made here; empty if it can."""
    if _IP is None:
        return "there is no command `ip` here; install iproute2"
    try:
        with lan(1):
            return ""
    except subprocess.CalledProcessError as error:
        why: str = error.stderr.strip()
        if not any(each in why.lower() for each in _NOT_OURS):
            raise
        return f"network namespaces cannot be made here ({why}); be root, with CAP_NET_ADMIN"


def _ip(*arguments: str) -> None:
    subprocess.run(_command(*arguments), check=True, capture_output=True, text=True)


def _command(*arguments: str) -> list[str]:
    assert _IP is not None
    return [_IP, *arguments]


@dataclass(frozen=True)
class Line:
    """
    What a process has said.

    @ivar at: when it came, on the machine's monotonic clock.
    """

    at: float
    event: dict[str, Any]


class Process:
    """
    A command with C{--json} on a host. What it says is read as it comes.

    @ivar lines: all that it has said.
    """

    def __init__(self, command: list[str], cwd: Path, log: Path) -> None:
        self.lines: list[Line] = []
        self._log = log
        self._news = Condition()
        self._is_over = False
        with log.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=cwd, stdout=subprocess.PIPE, stderr=err, text=True
            )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(Line(time.monotonic(), json.loads(line)))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def wait_for(self, event: str, after: int = 0, **fields: object) -> Line:
        """
        Wait for an event.

        @param after: so many lines are not looked at.
        @param fields: what is in it.
        """

        def found() -> Line | None:
            for line in self.lines[after:]:
                if line.event["event"] == event and fields.items() <= line.event.items():
                    return line
            return None

        with self._news:
            self._news.wait_for(lambda: found() or self._is_over, LIMIT)
        line = found()
        assert line is not None, f"no {event} {fields}: {self.said}"
        return line

    @property
    def said(self) -> str:
        """All that it said, for who has to find out what went wrong."""
        return "\n".join(str(line.event) for line in self.lines) + "\n" + self._log.read_text()

    @property
    def peers(self) -> int:
        """How many peers its registry's list has, by what it told of the changes."""
        changes = [line.event for line in self.lines if line.event["event"] == "peers"]
        return sum(each["joined"] - each["left"] for each in changes)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(LIMIT)

    def stop(self) -> None:
        """End it in peace, unless it has ended."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
        self.finish()

    def finish(self) -> int:
        """Wait for its end; its exit status."""
        try:
            status = self._process.wait(LIMIT)
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status


@dataclass
class Host:
    """
    A host.

    @ivar name: also of its folder, and of its node.
    @ivar addresses: its own, without those of its link.
    """

    name: str
    namespace: str
    folder: Path
    addresses: list[str] = field(default_factory=list)
    _processes: list[Process] = field(default_factory=list)

    def start(self, *command: str, python: str = "") -> Process:
        """
        Run a command of C{flow512}, with C{--json}.

        @param python: a module to run instead.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        typed = [sys.executable, "-m", python, *command] if python else [*CLI, *command, "--json"]
        process = Process(
            _command("netns", "exec", self.namespace, *typed),
            self.folder,
            self.folder / f"err{next(_numbers)}",
        )
        self._processes.append(process)
        return process

    def serve(self, *options: str) -> Process:
        """Run a node that shares the folder C{share}, and wait until it has said so."""
        (self.folder / "share").mkdir(parents=True, exist_ok=True)
        node = self.start("serve", "share", "--state", "state", "--name", self.name, *options)
        node.wait_for("ready")
        return node

    def type(self, *command: str) -> tuple[int, list[dict[str, Any]]]:
        """Run a command to its end: its exit status, and the objects that it printed."""
        process = self.start(*command)
        status = process.finish()
        return status, [line.event for line in process.lines]

    def stop_all(self) -> None:
        """End whatever runs here."""
        for process in self._processes:
            process.stop()


@dataclass
class Lan:
    """
    Hosts on one link, which can be cut in two.
    """

    hosts: list[Host]
    _switch: str

    def cut(self, *names: str) -> None:
        """Put these hosts on a link of their own."""
        for host in self.hosts:
            if host.name in names:
                _ip("-n", self._switch, "link", "set", f"to-{host.name}", "master", "far")

    def heal(self) -> None:
        """Put all on one link again."""
        for host in self.hosts:
            _ip("-n", self._switch, "link", "set", f"to-{host.name}", "master", "near")


@contextmanager
def lan(
    count: int, folder: Path | None = None, *, ipv4: bool = True, ipv6: bool = False
) -> Iterator[Lan]:
    """
    Make a network; all of it is gone at the end, and what runs there.

    @param count: of hosts.
    @param folder: where their folders are made.
    @param ipv4: whether they have addresses of IPv4.
    @param ipv6: whether they have global ones of IPv6. Those of the link they always have.
    """
    prefix = f"flow512-{os.getpid()}-{next(_numbers)}"
    made: list[str] = []
    hosts: list[Host] = []
    try:
        switch = f"{prefix}-switch"
        _add(switch, made)
        for bridge in ("near", "far"):
            _ip("-n", switch, "link", "add", "name", bridge, "type", "bridge")
            _ip("-n", switch, "link", "set", bridge, "up")
        for number in range(count):
            name = chr(ord("a") + number)
            host = Host(name, f"{prefix}-{name}", (folder or Path()) / name)
            _add(host.namespace, made)
            here = ["-n", host.namespace]
            peer = ["peer", "name", f"to-{name}", "netns", switch]
            _ip(*here, "link", "add", "name", "eth0", "type", "veth", *peer)
            _ip("-n", switch, "link", "set", f"to-{name}", "master", "near", "up")
            # No waiting whether somebody has an address of IPv6 already.
            _sysctl(host, "net.ipv6.conf.eth0.accept_dad=0")
            _ip(*here, "link", "set", "lo", "up")
            if ipv4:
                host.addresses.append(f"192.0.2.{number + 1}")
                broadcast = ["broadcast", "192.0.2.255"]
                _ip(*here, "address", "add", f"192.0.2.{number + 1}/24", *broadcast, "dev", "eth0")
            if ipv6:
                host.addresses.append(f"fd00::{number + 1}")
                _ip(*here, "address", "add", f"fd00::{number + 1}/64", "dev", "eth0", "nodad")
            _ip(*here, "link", "set", "eth0", "up")
            hosts.append(host)
        yield Lan(hosts, switch)
    finally:
        for host in hosts:
            host.stop_all()
        for namespace in made:
            _ip("netns", "delete", namespace)


def _add(namespace: str, made: list[str]) -> None:
    _ip("netns", "add", namespace)
    made.append(namespace)


def _sysctl(host: Host, setting: str) -> None:
    key, value = setting.split("=")
    path = "/proc/sys/" + key.replace(".", "/")
    _ip("netns", "exec", host.namespace, "sh", "-c", f"echo {value} > {path}")


def wait_until(what: Callable[[], bool], limit: float = LIMIT) -> float:
    """
    Wait until something holds; the time when it did, on the machine's monotonic clock.

    @raise AssertionError: it is too late.
    """
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, f"still waiting after {limit} s"
        time.sleep(0.01)
    return time.monotonic()
