"""
Ask a node something every few milliseconds, while somebody else fetches from it at full speed.

Who asks is a process of its own, with a connection of its own, by flow512's own client. It shares
the processors with the node and with the one who fetches, and is measured while nobody fetches as
well. Then the served file is on a disk, and not in its cache. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench import NAME, Bench, Failed, Missing, Mover, Run, make_file
from command import Note, add_manner, common_options, leave_out, manner, perform, size_of
from figures import at_rank
from movers import Node, always, node

ASKED: Final = "asked.bin"
"""The file whose entry is asked for."""

EVERY: Final = 0.005
"""Seconds from one question to the next, whether or not it was answered."""

IDLE_SECONDS: Final = 1.0
LAST_ANSWERS: Final = 60.0
"""Seconds that the last answers may take."""

WITHIN: Final = {"warm": 0.02, "cold": 0.05}
"""Seconds that are wanted at the 99th percentile."""

Answers: TypeAlias = list[tuple[float, float]]
"""When each question was asked, by C{time.perf_counter}, and the seconds until its answer."""


def ask(port: int, tls: bool) -> None:
    """
    Ask, until a line comes on standard input; then print the answers.
    """
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.endpoints import TCP4ClientEndpoint
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.internet.task import LoopingCall, react
    from twisted.internet.threads import deferToThread

    from flow512 import Identity, Introduction, SourceFactory, SourceProtocol, Tls, connect_source
    from flow512.wire.messages import Entry

    answers: Answers = []
    waiting: set[Deferred[Entry]] = set()

    def question(source: SourceProtocol) -> None:
        began = time.perf_counter()

        def answered(entry: Entry) -> Entry:
            answers.append((began, time.perf_counter() - began))
            waiting.discard(asked)
            return entry

        asked = source.stat(ASKED)
        waiting.add(asked)
        asked.addCallback(answered)

    async def converse(reactor: Any) -> None:
        identity = Identity.from_seed(os.urandom(32))
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        if tls:
            endpoint = Tls(identity, reactor).connecting(endpoint)
        factory = SourceFactory(Introduction(identity.node, "asker"), reactor)
        source = await connect_source(endpoint, factory)
        asking = LoopingCall(question, source)
        asking.clock = reactor
        asking.start(EVERY)
        print("asking", flush=True)
        await deferToThread(sys.stdin.readline)
        asking.stop()
        await gatherResults(waiting)
        print(json.dumps(answers), flush=True)

    react(lambda reactor: Deferred.fromCoroutine(converse(reactor)), (), reactor)


class Asker:
    """The process that asks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.answers: Answers = []

    def end(self) -> None:
        """Let it end; L{answers} are all there then."""
        try:
            said, _ = self._process.communicate("\n", timeout=LAST_ANSWERS)
        except subprocess.TimeoutExpired:
            raise Failed(f"Not all was answered within {LAST_ANSWERS:g} seconds.") from None
        if self._process.returncode:
            raise Failed(f"The process that asks ended with status {self._process.returncode}.")
        self.answers = json.loads(said)

    def between(self, began: float, ended: float) -> list[float]:
        """Give the seconds of what was asked in that time."""
        return [seconds for at, seconds in self.answers if began <= at < ended]


@contextlib.contextmanager
def asking(bench: Bench, served: Node) -> Iterator[Asker]:
    """Have somebody ask the node while the context lasts."""
    command = [sys.executable, __file__, "--ask", served.place.rpartition(":")[2]]
    command += ["--tls"] if bench.options.tls else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "asking\n":
                raise Failed("The process that asks could not begin.")
            asker = Asker(process)
            yield asker
            asker.end()
        finally:
            process.kill()


def drop_from_cache(file: Path) -> None:
    """Have the system forget what it has of a file in memory; it is on the disk then."""
    with file.open("rb", buffering=0) as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_rounds(bench: Bench, home: Bench, what: str, note: Note) -> dict[str, Any]:
    """
    Fetch and ask; the file is dropped from the cache before each round, unless it is in memory.

    @param bench: where the file comes from, for the comparison, and where it goes to.
    @param home: where the node is.
    @param what: C{warm} or C{cold}.
    """
    idle: list[float] = []
    busy: list[float] = []
    runs: list[Run] = []
    with node(home, "never") as served:
        get = served.get(NAME, "--from", served.place)
        mover = Mover("flow512-get", always(lambda to: [*get, "-o", str(to)]), served.process)
        for number in range(bench.options.rounds):
            if what == "cold":
                drop_from_cache(home.shared / NAME)
            with asking(bench, served) as asker:
                began = time.perf_counter()
                time.sleep(IDLE_SECONDS)
                run = bench.measure(mover)
            runs.append(run)
            idle += asker.between(began, began + IDLE_SECONDS)
            # From when the bytes flow, or a little later: until the process has ended.
            ended = run.began + run.seconds
            answers = asker.between(ended - (run.own_seconds or run.seconds), ended)
            busy += answers
            note(f"{what}, round {number + 1}: {run.seconds:.3f} s; {_said(sum_up(answers))}")
    return {
        "own_median": statistics.median(run.own_seconds or run.seconds for run in runs),
        "idle": sum_up(idle),
        "busy": sum_up(busy),
    }


def sum_up(seconds: Sequence[float]) -> dict[str, float]:
    """Reckon what the answers come to."""
    if not seconds:
        raise Failed("Nothing was answered during the transfer; try a larger --size.")
    ranks = {"p50": 0.5, "p99": 0.99}
    return {
        "answers": len(seconds),
        **{name: at_rank(seconds, share) for name, share in ranks.items()},
        "max": max(seconds),
    }


def _said(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {row[name] * 1000:.1f} ms" for name in ("p50", "p99", "max"))


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Measure in memory, and from the disk.

    @return: what C{--json} prints.
    """
    options = bench.options
    for name, size in ((NAME, options.size), (ASKED, 1)):
        make_file(bench.shared / name, size)
    report = {"size": options.size, **manner(options), "every": EVERY}
    report["warm"] = run_rounds(bench, bench, "warm", note)
    try:
        with on_disk(bench) as home:
            report["cold"] = run_rounds(bench, home, "cold", note)
    except Missing as error:
        leave_out(bench, note, "the cold disk", error)
    return report


@contextlib.contextmanager
def on_disk(bench: Bench) -> Iterator[Bench]:
    """
    Have what is shared on a disk as well.

    @raise Missing: there is no disk, or no room on it.
    """
    folder, size = bench.options.disk_folder, bench.options.size
    if not Path(folder).is_dir() or shutil.disk_usage(folder).free < size + 2**26:
        raise Missing(f"{folder} has no room for {size:,} bytes; name another by --disk-folder")
    with tempfile.TemporaryDirectory(prefix="flow512-bench-", dir=folder) as scratch:
        home = Bench(Path(scratch), bench.options)
        shutil.copytree(bench.shared, home.shared)
        (home.scratch / "home").mkdir()
        yield home


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    print(f"\na question every {report['every'] * 1000:g} ms; {report['size']:,} bytes, {tls}")
    for what in WITHIN:
        if (row := report.get(what)) is not None:
            rate = report["size"] / row["own_median"] / 1e6
            print(f"{what}: idle    {_said(row['idle'])}")
            wanted = f"p99 within {WITHIN[what] * 1000:g} ms wanted"
            print(f"      busy    {_said(row['busy'])}, at {rate:.0f} MB/s ({wanted})")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--size", type=size_of, default="1GiB", help="of the file (1GiB)")
    parser.add_argument(
        "--disk-folder", default="/var/tmp", help="a folder on a disk, for the cold one (/var/tmp)"
    )
    parser.add_argument("--ask", type=int, metavar="PORT", help=argparse.SUPPRESS)
    add_manner(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    if options.ask:
        ask(options.ask, options.tls)
        return 0
    return perform(options, 2.2, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
