"""
What every mover is measured with: processes that end when they should, and a clock.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import filecmp
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

NAME: Final = "random.bin"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
REST_SECONDS: Final = 0.5

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_GET_FLAGS: Final = 0x8913  # SIOCGIFFLAGS and SIOCSIFFLAGS, linux/sockios.h
_SET_FLAGS: Final = 0x8914
_UP: Final = 1  # IFF_UP, linux/if.h


class Failed(Exception):
    """The benchmark cannot go on; one sentence says why."""


class Missing(Exception):
    """A mover cannot take part; says why, and what to do about it."""


@dataclass(frozen=True)
class Run:
    """
    One transfer.

    @ivar seconds: from the start of the fetching process to its end.
    @ivar own_seconds: what the process itself says the transfer took, if it does.
    @ivar peak_kib: its peak resident memory.
    """

    seconds: float
    own_seconds: float | None
    peak_kib: int


@dataclass
class Mover:
    """
    A way to move the file.

    @ivar fetch: prepares one transfer into a target, and gives the command that fetches.
    @ivar server: the serving process.
    """

    name: str
    fetch: Callable[[Path], AbstractContextManager[list[str]]]
    server: subprocess.Popen[bytes]
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """
    Where and what is measured.

    @ivar scratch: a folder in tmpfs that is removed at the end.
    """

    scratch: Path
    options: argparse.Namespace

    @property
    def shared(self) -> Path:
        """The folder that is served; it holds the one file."""
        return self.scratch / "shared"

    @property
    def environment(self) -> dict[str, str]:
        """
        What processes get: nothing that makes Python another than users have, and folders of their
        own, so that they leave nothing in the user's.
        """
        homes = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
        usual = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
        return usual | dict.fromkeys(homes, str(self.scratch / "home"))

    @contextlib.contextmanager
    def running(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """
        Run a process while the context lasts; its output is in C{NAME.out} and C{NAME.err}.

        It leads a session of its own: Ctrl-C reaches this process only, which then ends it.
        """
        with self.log(name, "out").open("wb") as out, self.log(name, "err").open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.scratch,
                env=self.environment,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.terminate()
                    try:
                        process.wait(STOP_SECONDS)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()

    def log(self, name: str, kind: str) -> Path:
        """Name the file that a process writes to."""
        return self.scratch / f"{name}.{kind}"

    def failure(self, name: str, what: str) -> Failed:
        """Make the error of a process that failed, with the last that it said."""
        said = "".join(
            self.log(name, kind).read_text(errors="replace")[-2000:] for kind in ("out", "err")
        )
        return Failed(f"{name} {what}." + (f" It said:\n{said.rstrip()}" if said.strip() else ""))

    def wait_for_port(self, name: str, server: subprocess.Popen[bytes], port: int) -> None:
        """Return when the server accepts connections."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise self.failure(name, f"ended with status {server.returncode} at its start")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise self.failure(name, f"did not listen within {START_SECONDS:g} seconds")

    def wait_for_line(
        self,
        name: str,
        kind: str,
        process: subprocess.Popen[bytes],
        matches: Callable[[str], bool],
        seconds: float,
    ) -> str:
        """Return the first whole line in a process's log that is the one waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log(name, kind).read_text(errors="replace").splitlines(True):
                if line.endswith("\n") and matches(line):
                    return line
            if process.poll() is not None:
                raise self.failure(name, f"ended with status {process.returncode} too early")
            time.sleep(0.05)
        raise self.failure(name, f"was not ready within {seconds:g} seconds")

    def wait_for_event(
        self, name: str, server: subprocess.Popen[bytes], event: str, seconds: float
    ) -> dict[str, Any]:
        """Return the first object of a kind that the server prints."""
        line = self.wait_for_line(
            name, "out", server, lambda line: _parsed(line).get("event") == event, seconds
        )
        return _parsed(line)

    def wait_for_rest(self, name: str, server: subprocess.Popen[bytes], seconds: float) -> None:
        """
        Return when the server does nothing any more, such as hashing what it is to serve.
        """
        deadline = time.monotonic() + seconds
        before = -1
        while (now := _ticks(server.pid)) != before:
            if time.monotonic() >= deadline:
                raise self.failure(name, f"was still busy after {seconds:g} seconds")
            before = now
            time.sleep(REST_SECONDS)

    def measure(self, mover: Mover) -> Run:
        """
        Fetch once, compare what arrived, and remove it.

        @raise Failed: the fetch failed, hung, or brought other bytes.
        """
        name = f"{mover.name}-client"
        folder = self.scratch / "target"
        folder.mkdir()
        target = folder / NAME
        with mover.fetch(target) as command:
            self._own_memory(folder)
            run = self._timed(name, command)
        if not target.exists() or not filecmp.cmp(self.shared / NAME, target, shallow=False):
            raise self.failure(name, "brought something else than the file")
        shutil.rmtree(folder)
        return run

    def _own_memory(self, folder: Path) -> None:
        """
        Take as much memory as the target needs, and free it.

        A hypervisor takes back what its guest has freed for a while, and giving it out again costs
        more than writing to it: it would be counted against whoever comes next.
        """
        zeros = bytes(2**20)
        taken = folder / "taken"
        with taken.open("wb", buffering=0) as out:
            for _ in range(self.options.size * 9 // 8 // len(zeros) + 1):
                out.write(zeros)
        taken.unlink()

    def _timed(self, name: str, command: list[str]) -> Run:
        began = time.perf_counter()
        with self.running(name, command) as process:
            watchdog = threading.Timer(self.options.timeout, process.kill)
            watchdog.start()
            try:
                # wait4 and not Popen.wait: it tells the memory of this one child.
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - began
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                watchdog.cancel()
        if process.returncode == -signal.SIGKILL and seconds >= self.options.timeout:
            raise self.failure(name, f"took longer than {self.options.timeout} seconds")
        if process.returncode != 0:
            raise self.failure(name, f"ended with status {process.returncode}")
        own = None
        for line in self.log(name, "out").read_text(errors="replace").splitlines():
            if (said := _parsed(line)).get("event") == "done":
                own = float(said["seconds"])
        return Run(seconds, own, usage.ru_maxrss)


def _parsed(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _ticks(pid: int) -> int:
    # proc(5): the name, which may hold anything, is in parentheses; the 14th and 15th are times.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def leave_the_network() -> None:
    """
    Give this process, and all that it starts from now on, a network of its own: loopback only.

    @raise OSError: this user may not, or this system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("16xH", asked)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
