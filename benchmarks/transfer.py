"""
Move one file between two processes by flow512, by curl from nginx and by rsync, in turn.

Everything is on 127.0.0.1, in a folder of its own in tmpfs, so that neither network nor disk is
measured. What is timed is what a user waits for: the fetching process from start to end.
See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

NAME: Final = "random.bin"
START_SECONDS: Final = 20.0
INDEX_SECONDS: Final = 300.0
STOP_SECONDS: Final = 10.0
UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
INSTALL: Final = "apt-get install nginx-light rsync curl"


class Failed(Exception):
    """The benchmark cannot go on; one sentence says why."""


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

    @ivar fetch: makes the command that fetches into a target.
    @ivar server: the serving process.
    """

    name: str
    fetch: Callable[[Path], list[str]]
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
        """What processes get, so that they leave nothing in the user's own folders."""
        homes = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
        return {**os.environ, **dict.fromkeys(homes, str(self.scratch / "home"))}

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

    def wait_for_event(
        self, name: str, server: subprocess.Popen[bytes], event: str, seconds: float
    ) -> dict[str, Any]:
        """Return the first object of a kind that the server prints."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log(name, "out").read_text(errors="replace").splitlines(True):
                if line.endswith("\n") and (said := _parsed(line)).get("event") == event:
                    return said
            if server.poll() is not None:
                raise self.failure(name, f"ended with status {server.returncode} before '{event}'")
            time.sleep(0.05)
        raise self.failure(name, f"did not say '{event}' within {seconds:g} seconds")

    def measure(self, mover: Mover) -> Run:
        """
        Fetch once, compare what arrived, and remove it.

        @raise Failed: the fetch failed, hung, or brought other bytes.
        """
        name = f"{mover.name}-client"
        folder = self.scratch / "target"
        folder.mkdir()
        target = folder / NAME
        began = time.perf_counter()
        with self.running(name, mover.fetch(target)) as process:
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
        if not target.exists() or not filecmp.cmp(self.shared / NAME, target, shallow=False):
            raise self.failure(name, "brought something else than the file")
        shutil.rmtree(folder)
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


def free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def find(program: str) -> str | None:
    """Find a program; Debian keeps servers where users' paths do not lead."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def flow512(bench: Bench) -> Iterator[Mover]:
    """Serve by C{flow512 serve}, fetch by C{flow512 get}."""
    program = shutil.which("flow512", path=str(Path(sys.executable).parent)) or find("flow512")
    if program is None:
        raise Failed(
            "There is no flow512 here; `make bench` installs it, or leave it out by --only."
        )
    options = bench.options
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1"]
    serve += ["--no-beacon", "--bootstrap", "never", "--state", str(bench.scratch / "state")]
    with bench.running("flow512", [*serve, "--json"]) as server:
        port = bench.wait_for_event("flow512", server, "ready", START_SECONDS)["port"]
        bench.wait_for_event("flow512", server, "indexed", INDEX_SECONDS)
        get = [program, "get", NAME, "--from", f"127.0.0.1:{port}", "--no-beacon", "--json"]
        if not options.md5:
            get.append("--no-md5")
        if options.run:
            get += ["--run", str(options.run)]
        yield Mover("flow512", lambda target: [*get, "-o", str(target)], server)


@contextlib.contextmanager
def curl(bench: Bench) -> Iterator[Mover | None]:
    """Serve by nginx with sendfile, fetch by curl."""
    nginx, client = find("nginx"), find("curl")
    if nginx is None or client is None:
        yield None
        return
    port = free_port()
    # Every folder that this nginx was built to write to, moved to where we may write.
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    temporary = "".join(
        f"    {kind.replace('-', '_')}_temp_path {bench.scratch}/nginx-{kind};\n"
        for kind in re.findall(r"--http-([a-z-]+)-temp-path=", built)
    )
    config = bench.scratch / "nginx.conf"
    config.write_text(
        f"""
{"user root;" if os.getuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {bench.scratch}/nginx.pid;
error_log stderr;
events {{}}
http {{
{temporary}
    access_log off;
    sendfile on;
    tcp_nopush on;
    server {{
        listen 127.0.0.1:{port};
        root {bench.shared};
    }}
}}
"""
    )
    command = [nginx, "-e", "stderr", "-p", str(bench.scratch), "-c", str(config)]
    with bench.running("curl", command) as server:
        bench.wait_for_port("curl", server, port)
        get = [client, "--silent", "--show-error", "--fail", f"http://127.0.0.1:{port}/{NAME}"]
        yield Mover("curl", lambda target: [*get, "-o", str(target)], server)


@contextlib.contextmanager
def rsync(bench: Bench) -> Iterator[Mover | None]:
    """Serve by an rsync daemon, fetch by rsync."""
    program = find("rsync")
    if program is None:
        yield None
        return
    port = free_port()
    config = bench.scratch / "rsyncd.conf"
    config.write_text(
        f"""
{"uid = root" if os.getuid() == 0 else ""}
{"gid = root" if os.getuid() == 0 else ""}
use chroot = no
lock file = {bench.scratch}/rsyncd.lock
[files]
path = {bench.shared}
read only = yes
"""
    )
    command = [program, "--daemon", "--no-detach", f"--config={config}"]
    command += ["--log-file=/dev/stderr", "--address=127.0.0.1", f"--port={port}"]
    with bench.running("rsync", command) as server:
        bench.wait_for_port("rsync", server, port)
        get = [program, "--whole-file", f"rsync://127.0.0.1:{port}/files/{NAME}"]
        yield Mover("rsync", lambda target: [*get, str(target)], server)


MOVERS: Final[dict[str, Callable[[Bench], contextlib.AbstractContextManager[Mover | None]]]] = {
    "flow512": flow512,
    "curl": curl,
    "rsync": rsync,
}


def peak_kib(process: subprocess.Popen[bytes]) -> int:
    """
    Tell the peak resident memory of a running process, in KiB.

    @raise Failed: this system does not tell.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError as error:
        raise Failed(f"Memory is read from /proc, which failed: {error}.") from error
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise Failed("The serving process is gone.")
    return int(found[1])


def make_file(path: Path, size: int) -> None:
    """Fill a file with random bytes."""
    with path.open("wb") as out:
        while size > 0:
            size -= out.write(os.urandom(min(size, 2**22)))


def compare(bench: Bench, note: Callable[[str], None]) -> dict[str, Any]:
    """
    Start the servers, run the rounds, and sum them up.

    @param note: told what goes on.
    @return: what C{--json} prints.
    """
    options = bench.options
    with contextlib.ExitStack() as stack:
        movers: list[Mover] = []
        for name in options.only or MOVERS:
            mover = stack.enter_context(MOVERS[name](bench))
            if mover is None:
                note(f"{name} is left out, for it is not installed: {INSTALL}")
            else:
                movers.append(mover)
        for number in range(options.rounds):
            # Whoever goes first in a round is another one each time.
            first = number % max(1, len(movers))
            for mover in movers[first:] + movers[:first]:
                run = bench.measure(mover)
                mover.runs.append(run)
                note(f"round {number + 1}: {mover.name} {run.seconds:.3f} s")
        return {
            "size": options.size,
            "rounds": options.rounds,
            "md5": options.md5,
            "run": options.run,
            "movers": {mover.name: sum_up(mover, options.size) for mover in movers},
        }


def sum_up(mover: Mover, size: int) -> dict[str, Any]:
    """Reckon what the runs of one mover come to; MB are 10**6 bytes."""
    seconds = [run.seconds for run in mover.runs]
    own = [run.own_seconds for run in mover.runs if run.own_seconds is not None]
    median = statistics.median(seconds)
    return {
        "seconds": seconds,
        "median": median,
        "min": min(seconds),
        "max": max(seconds),
        "mb_per_second": size / median / 1e6,
        "own_median": statistics.median(own) if own else None,
        # The others' would mislead: nginx and rsync serve from children, and a fetching process
        # is counted from before its exec, when it is as large as this one.
        **(memory(mover) if mover.name == "flow512" else {}),
    }


def memory(mover: Mover) -> dict[str, int]:
    """Tell the peaks of both sides, in KiB."""
    return {
        "server_peak_kib": peak_kib(mover.server),
        "client_peak_kib": max(run.peak_kib for run in mover.runs),
    }


def with_ratios(report: dict[str, Any]) -> dict[str, Any]:
    """Add how fast flow512 is as a share of each other's speed, by medians."""
    movers = report["movers"]
    ratios: dict[str, dict[str, float]] = {}
    ours = movers.get("flow512")
    for name, theirs in movers.items():
        if ours is not None and name != "flow512":
            ratios[name] = {"process": theirs["median"] / ours["median"]}
            if ours["own_median"]:
                ratios[name]["transfer_alone"] = theirs["median"] / ours["own_median"]
    return {**report, "speed_relative_to": ratios}


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    md5 = "with" if report["md5"] else "without"
    print(f"\n{report['size']:,} bytes, {report['rounds']} rounds, {md5} MD5")
    print(f"{'':10}{'median s':>10}{'min s':>9}{'max s':>9}{'MB/s':>9}")
    for name, row in report["movers"].items():
        times = f"{row['median']:>10.3f}{row['min']:>9.3f}{row['max']:>9.3f}"
        print(f"{name:10}{times}{row['mb_per_second']:>9.0f}")
        if row["own_median"]:
            rate = report["size"] / row["own_median"] / 1e6
            print(f"{'  alone':10}{row['own_median']:>10.3f}{'':18}{rate:>9.0f}")
    if (ours := report["movers"].get("flow512")) is not None:
        peaks = f"{ours['server_peak_kib']:,} KiB serving, {ours['client_peak_kib']:,} KiB fetching"
        print(f"flow512's peak resident memory: {peaks}")
    for name, ratio in report["speed_relative_to"].items():
        alone = ratio.get("transfer_alone")
        rest = f", {alone:.2f} without its start and end" if alone else ""
        print(f"flow512 has {ratio['process']:.2f} of the speed of {name}{rest}")


def size_of(text: str) -> int:
    """Read a size: bytes, or a number with KiB, MiB, GiB or TiB."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write it like 64MiB or 1GiB")
    return int(found[1]) * UNITS[found[2] or ""]


def positive(text: str) -> int:
    """Read a number of at least one."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 1")
    return int(text)


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--size", type=size_of, default="1GiB", help="of the file (1GiB)")
    parser.add_argument("--rounds", type=positive, default=5, help="how often each is run (5)")
    parser.add_argument("--only", action="append", choices=list(MOVERS), help="may be repeated")
    parser.add_argument("--run", type=positive, help="pieces per frame, as in flow512 get")
    parser.add_argument(
        "--md5",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="whether flow512 checks the whole file's MD5 too; curl has no such check",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", default="/dev/shm", help="a tmpfs (/dev/shm)")
    parser.add_argument("--timeout", type=positive, default=600, help="seconds for one fetch (600)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status: 0, 1 if something failed, 130 after Ctrl-C.
    """
    options = read_options(arguments)
    # So that an orderly end, which removes everything, is what a request to end leads to.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        if shutil.disk_usage(options.folder).free < 2 * options.size + 2**26:
            raise Failed(f"{options.folder} has no room for two files of {options.size:,} bytes.")
        with tempfile.TemporaryDirectory(prefix="flow512-bench-", dir=options.folder) as scratch:
            bench = Bench(Path(scratch), options)
            bench.shared.mkdir()
            (bench.scratch / "home").mkdir()
            make_file(bench.shared / NAME, options.size)
            report = with_ratios(compare(bench, note))
    except (Failed, OSError) as error:
        note(str(error))
        return 1
    except KeyboardInterrupt:
        note("Interrupted; everything was removed.")
        return 130
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
