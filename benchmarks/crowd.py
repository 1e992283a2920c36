"""
What a member still gets from a node that a crowd of strangers has connected to.

The node is in a closed network, and shares one large file and many empty ones. Its member lists
and fetches, with and without the crowd, in turn. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import NAME, START_SECONDS, Bench, Mover, make_file
from command import Note, common_options, perform, positive, size_of
from figures import peak_kib
from movers import INDEX_SECONDS, always, find_beside_python

LEAST_SPEED: Final = 0.5
"""Of the usual speed; less fails."""

MOST_MEMORY: Final = 200 * 1024
"""KiB; more fails."""

CALM_SECONDS: Final = 30.0
CROWD_SECONDS: Final = 60.0

KINDS: Final = {"ls": "listing", "get": "fetching", "alone": "the transfer alone"}
"""What is timed: two commands from their start to their end, and what C{get} says of itself."""


@dataclass
class Times:
    """
    Seconds that the member's commands took.

    @ivar taken: for each of L{KINDS}.
    """

    taken: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def median(self, kind: str) -> float:
        """What is usual."""
        return statistics.median(self.taken[kind])


@dataclass
class Siege:
    """
    The node, its member, and the crowd.

    @ivar port: the node's.
    @ivar seen: what the crowd told of itself while it was measured.
    """

    bench: Bench
    program: str
    server: subprocess.Popen[bytes]
    port: int
    seen: list[dict[str, float]] = field(default_factory=list)

    def member(self, *words: str) -> list[str]:
        """Make a command of the member's."""
        return [self.program, *words, "--state", str(self.bench.scratch / "member"), "--no-beacon"]

    def measure(self, times: Times) -> None:
        """
        Let the member list and fetch once.

        @raise Failed: a command failed, or brought something else than it should.
        """
        place = f"127.0.0.1:{self.port}"
        times.taken["ls"].append(self._list(place))
        get = self.member("get", NAME, "--from", place, "--json", "--no-md5")
        mover = Mover("flow512", always(lambda target: [*get, "-o", str(target)]), self.server)
        run = self.bench.measure(mover)
        times.taken["get"].append(run.seconds)
        if run.own_seconds is not None:
            times.taken["alone"].append(run.own_seconds)

    def _list(self, place: str) -> float:
        began = time.perf_counter()
        with self.bench.running("ls", self.member("ls", place)) as process:
            # Popen.wait with a timeout would look only now and then.
            watchdog = threading.Timer(self.bench.options.timeout, process.kill)
            watchdog.start()
            try:
                status = process.wait()
                seconds = time.perf_counter() - began
            finally:
                watchdog.cancel()
        rows = self.bench.log("ls", "out").read_text().count("\n")
        if status or rows != self.bench.options.entries + 1:
            raise self.bench.failure("ls", f"ended with status {status} after {rows} rows")
        return seconds

    def descriptors(self) -> int:
        """Count what the node has open."""
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))

    @contextlib.contextmanager
    def crowd(self) -> Iterator[None]:
        """
        Have the crowd around while the context lasts; all of it has come once when it begins, and
        the node is rid of it when it ends.
        """
        options = self.bench.options
        calm = self.descriptors()
        script = str(Path(__file__).with_name("bystanders.py"))
        command = [sys.executable, script, str(self.port), "--silent", str(options.crowd)]
        command += ["--slow", str(options.slow), "--rate", str(options.rate)]
        command += ["--sources", str(options.sources)]
        everybody = options.crowd + options.slow
        with self.bench.running("crowd", command) as crowd:
            line = self.bench.wait_for_line(
                "crowd",
                "out",
                crowd,
                lambda line: json.loads(line)["came"] >= everybody,
                CROWD_SECONDS + everybody / options.rate,
            )
            yield
            if crowd.poll() is not None:
                raise self.bench.failure("crowd", "went away")
            lines = self.bench.log("crowd", "out").read_text().splitlines()
            told = [json.loads(line) for line in lines]
            here = [each for each in told if each["time"] >= json.loads(line)["time"]]
            if statistics.median(each["up"] for each in here) * 10 < everybody:
                raise self.bench.failure("crowd", "found no way in")
            self.seen += here
        deadline = time.monotonic() + CALM_SECONDS
        while self.descriptors() > calm:
            if time.monotonic() > deadline:
                raise self.bench.failure("node", "keeps connections that are gone")
            time.sleep(0.05)


@contextlib.contextmanager
def besieged(bench: Bench) -> Iterator[Siege]:
    """Run a node of a closed network, with a member who is somebody else."""
    options = bench.options
    program = find_beside_python("flow512", "make bench")
    node = ["--state", str(bench.scratch / "node")]
    link = bench.typed([program, "invite", "--name", "crowd", *node])
    bench.typed([program, "join", "-", "--state", str(bench.scratch / "member")], link)
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1", *node]
    serve += ["--no-beacon", "--bootstrap", "never", "--json"]
    for limit in options.limit:
        serve += ["--limit", limit]
    with bench.running("node", serve) as server:
        port = bench.wait_for_event("node", server, "ready", START_SECONDS)["port"]
        bench.wait_for_event("node", server, "indexed", INDEX_SECONDS)
        yield Siege(bench, program, server, port)


def run(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Measure, and sum it up.

    @return: what C{--json} prints.
    """
    make_file(bench.shared / NAME, bench.options.size)
    for entry in range(bench.options.entries):
        (bench.shared / f"{entry:06}.txt").touch()
    usual, crowded = Times(), Times()
    with besieged(bench) as siege:
        siege.measure(Times())  # once for nothing, so that all is in memory
        before = peak_kib(siege.server)
        for number in range(bench.options.rounds):
            siege.measure(usual)
            with siege.crowd():
                siege.measure(crowded)
            rows = ", ".join(
                f"{kind} {usual.taken[kind][-1]:.2f} s and {crowded.taken[kind][-1]:.2f} s"
                for kind in KINDS
            )
            note(f"round {number + 1}, by itself and in the crowd: {rows}")
        peak = peak_kib(siege.server)
        complaints = bench.log("node", "err").read_text().count("\n")
    ratios = {kind: usual.median(kind) / crowded.median(kind) for kind in KINDS}
    return {
        "size": bench.options.size,
        "entries": bench.options.entries,
        "crowd": bench.options.crowd,
        "slow": bench.options.slow,
        "rounds": bench.options.rounds,
        "usual": usual.taken,
        "crowded": crowded.taken,
        "speed": ratios,
        "peak_kib": peak,
        "peak_before_kib": before,
        "node_log_lines": complaints,
        **of_the_crowd(siege.seen),
        "ok": min(ratios.values()) >= LEAST_SPEED and peak <= MOST_MEMORY,
    }


def of_the_crowd(seen: list[dict[str, float]]) -> dict[str, float]:
    """Say how large it was while the member worked, and how often the node dropped somebody."""
    return {
        "up_median": statistics.median(each["up"] for each in seen),
        "came": max(each["came"] for each in seen),
        "handshakes": max(each["handshakes"] for each in seen),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    silent, slow = report["crowd"], report["slow"]
    print(f"\n{silent:,} connections that say nothing, {slow:,} that say one byte a second;")
    print(f"{report['size']:,} bytes, {report['entries']:,} entries, {report['rounds']} rounds")
    print(f"{'':20}{'usual s':>10}{'crowded s':>11}{'speed':>8}")
    for kind, title in KINDS.items():
        times = [statistics.median(report[when][kind]) for when in ("usual", "crowded")]
        print(f"{title:20}{times[0]:>10.3f}{times[1]:>11.3f}{report['speed'][kind]:>8.2f}")
    peaks = f"{report['peak_kib']:,} KiB, {report['peak_before_kib']:,} KiB before the crowd"
    print(f"the node's peak resident memory: {peaks}; its log: {report['node_log_lines']} lines")
    print(
        f"connected at a time: {report['up_median']:,.0f}; in the longest round {report['came']:,}"
        f" came, {report['handshakes']:,} completed TLS"
    )
    print("It holds." if report["ok"] else "IT DOES NOT HOLD.")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=120)
    parser.add_argument("--size", type=size_of, default="256MiB", help="of the file (256MiB)")
    parser.add_argument("--entries", type=positive, default=5000, help="empty files (5000)")
    parser.add_argument("--crowd", type=positive, default=5000, help="silent connections (5000)")
    parser.add_argument("--slow", type=positive, default=200, help="slow connections (200)")
    parser.add_argument("--rate", type=positive, default=500, help="that come in a second (500)")
    parser.add_argument(
        "--sources", type=positive, default=1, help="addresses of the crowd; 1 is the member's (1)"
    )
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE", help="of the node"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}; 1 also if the node does not hold.
    """
    return perform(read_options(arguments), 2, run, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
