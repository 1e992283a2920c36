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
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

NAME: Final = "random.bin"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
REST_SECONDS: Final = 0.5
PAGE: Final = mmap.PAGESIZE

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
    One transfer, or several at a time.

    @ivar began: when the fetching processes were started, by C{time.perf_counter}.
    @ivar seconds: from then to the end of the last.
    @ivar peak_kib: their largest peak resident memory.
    @ivar told: what each says at its end, if it does.
    """

    began: float
    seconds: float
    peak_kib: int
    told: tuple[dict[str, Any], ...]

    @property
    def own_seconds(self) -> float | None:
        """What the processes themselves say that the transfer took, the longest of all."""
        return max((float(each["seconds"]) for each in self.told), default=None)


@dataclass
class Mover:
    """
    A way to move what is shared.

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
    @ivar left_out: who cannot take part, and why.
    """

    scratch: Path
    options: argparse.Namespace
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        """The folder that is served; it holds what is moved, and nothing else."""
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

    def typed(self, command: list[str], stdin: str = "") -> str:
        """Run a command that prepares something; what it said."""
        done = subprocess.run(
            command,
            cwd=self.scratch,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{' '.join(command)} failed: {done.stderr}")
        return done.stdout

    def measure(self, mover: Mover, wanted: str = NAME, fetchers: int = 1) -> Run:
        """
        Fetch once, compare what arrived, and remove it.

        @param wanted: the file or folder in the shared folder.
        @param fetchers: how many processes fetch it at a time, each for itself.
        @raise Failed: the fetch failed, hung, or brought other bytes.
        """
        folder = self.scratch / "target"
        folder.mkdir()
        targets = {f"{mover.name}-{n}": folder / f"{n}" / wanted for n in range(fetchers)}
        with contextlib.ExitStack() as stack:
            commands: dict[str, list[str]] = {}
            for name, target in targets.items():
                target.parent.mkdir()
                commands[name] = stack.enter_context(mover.fetch(target))
            self._own_memory(fetchers)
            run = self.timed(commands)
        for name, target in targets.items():
            if not _are_same(self.shared / wanted, target):
                raise self.failure(name, f"brought something else than {wanted}")
        shutil.rmtree(folder)
        return run

    def _own_memory(self, copies: int) -> None:
        """
        Keep as much free memory with this machine as the targets need.

        A hypervisor takes back what its guest has freed, in stretches of 2 MiB, and giving it out
        again can cost ten times what writing to it does: it would be counted against whoever
        comes next. So of every megabyte one page stays in use, in a file that grows as it has to.
        """
        kept, taken = self.scratch / "kept", self.scratch / "taken"
        page = bytes(PAGE)
        rest = bytes(2**20 - PAGE)
        with kept.open("ab", buffering=0) as keep, taken.open("wb", buffering=0) as take:
            for _ in range(keep.tell() // PAGE, copies * self.options.size * 9 // 8 // 2**20 + 1):
                take.write(rest)
                keep.write(page)
        taken.unlink()

    def timed(self, commands: Mapping[str, list[str]]) -> Run:
        """
        Run commands at a time, each under its name.

        @raise Failed: one failed, or hung.
        """
        with contextlib.ExitStack() as stack:
            began = time.perf_counter()
            processes = {
                name: stack.enter_context(self.running(name, command))
                for name, command in commands.items()
            }
            watchdog = threading.Timer(self.options.timeout, _kill, [processes.values()])
            watchdog.start()
            stack.callback(watchdog.cancel)
            peak = 0
            for process in processes.values():
                # wait4 and not Popen.wait: it tells the memory of this one child.
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                peak = max(peak, usage.ru_maxrss)
            seconds = time.perf_counter() - began
        for name, process in processes.items():
            if process.returncode == -signal.SIGKILL and seconds >= self.options.timeout:
                raise self.failure(name, f"took longer than {self.options.timeout} seconds")
            if process.returncode != 0:
                raise self.failure(name, f"ended with status {process.returncode}")
        told = (self._told(name, "done") for name in commands)
        return Run(began, seconds, peak, tuple(each for each in told if each))

    def _told(self, name: str, event: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for line in self.log(name, "out").read_text(errors="replace").splitlines():
            if (said := _parsed(line)).get("event") == event:
                told = said
        return told


def _kill(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()


def _are_same(one: Path, other: Path) -> bool:
    if one.is_dir() != other.is_dir():
        return False
    if not one.is_dir():
        return other.exists() and filecmp.cmp(one, other, shallow=False)
    names = os.listdir(one)
    if sorted(names) != sorted(os.listdir(other)):
        return False
    return all(_are_same(one / name, other / name) for name in names)


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


def make_file(path: Path, size: int) -> None:
    """Fill a file with random bytes."""
    with path.open("wb") as out:
        while size > 0:
            size -= out.write(os.urandom(min(size, 2**22)))


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
