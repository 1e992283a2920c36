"""
Bring one file from one seed to several leechers by flow512 and by libtorrent, in turn.

Each leecher is a process of its own, and passes on what it has. Everything is on 127.0.0.1, in a
folder of its own in tmpfs. What is timed is what those who wait for each other wait for: from the
start of all leechers to the end of the last. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench import NAME, START_SECONDS, Bench, Missing, Mover, Run, leave_the_network, make_file
from command import (
    Note,
    add_manner,
    common_options,
    entered,
    in_turn,
    manner,
    perform,
    positive,
    size_of,
)
from figures import show_table, show_title, sum_up, with_ratios
from movers import INDEX_SECONDS, always, node

LEECHERS: Final = (1, 4, 8)

HAS_LIBTORRENT: Final = "import libtorrent"


@dataclass
class Seed:
    """
    The one who has the file.

    @ivar mover: how a leecher fetches it.
    @ivar place: its address and port, as leechers call it.
    @ivar swarms: for each number of leechers, a mover with the runs of swarms of that size.
    """

    mover: Mover
    place: str
    swarms: dict[int, Mover] = field(default_factory=dict)

    def swarm(self, leechers: int) -> Mover:
        """Give the mover of swarms of one size."""
        return self.swarms.setdefault(leechers, replace(self.mover, runs=[]))

    def sent(self, run: Run) -> int:
        """Count the bytes that leechers had from the seed, and not from each other."""
        sources = [source for told in run.told for source in told["sources"]]
        return sum(source["bytes"] for source in sources if source["address"] == self.place)


@contextlib.contextmanager
def flow512(bench: Bench) -> Iterator[Seed]:
    """Seed by a node that carries the registry; fetch by C{flow512 get flow512:ROOT}."""
    with node(bench, "always") as seed:
        said = bench.typed([seed.program, "id", str(bench.shared / NAME), "--json"])
        get = seed.get(json.loads(said)["root"], "--registry", seed.place)

        def leech(target: Path) -> list[str]:
            return [*get, "--state", str(target.with_name("state")), "-o", str(target)]

        yield Seed(Mover("flow512", always(leech), seed.process), seed.place)


@contextlib.contextmanager
def libtorrent(bench: Bench) -> Iterator[Seed]:
    """Seed and fetch by C{torrent.py}; the seed carries the tracker."""
    command = [_python_with_libtorrent(), str(Path(__file__).with_name("torrent.py"))]
    torrent = str(bench.scratch / "torrent")
    with bench.running("libtorrent", [*command, "seed", str(bench.shared / NAME), torrent]) as seed:
        port = bench.wait_for_event("libtorrent", seed, "ready", INDEX_SECONDS)["port"]

        def leech(target: Path) -> list[str]:
            return [*command, "fetch", torrent, str(target.parent)]

        yield Seed(Mover("libtorrent", always(leech), seed), f"127.0.0.1:{port}")


def _python_with_libtorrent() -> str:
    # Debian's package is for Debian's Python.
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [python, "-c", HAS_LIBTORRENT], stderr=subprocess.DEVNULL, timeout=START_SECONDS
            )
            if tried.returncode == 0:
                return python
    raise Missing(f"it is not installed: {sys.executable} -m pip install libtorrent")


SEEDS: Final[dict[str, Callable[[Bench], AbstractContextManager[Seed]]]] = {
    "flow512": flow512,
    "libtorrent": libtorrent,
}


def compare(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the seeds, run the rounds, and sum them up.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_file(bench.shared / NAME, options.size)
    with contextlib.ExitStack() as stack:
        wanted = {name: SEEDS[name] for name in options.only or SEEDS}
        seeds = entered(stack, bench, wanted, note)
        for number, turns in in_turn(seeds, options.rounds):
            for leechers in options.leechers:
                for seed in turns:
                    swarm = seed.swarm(leechers)
                    run = bench.measure(swarm, fetchers=leechers)
                    swarm.runs.append(run)
                    said = f"{run.seconds:.3f} s, {seed.sent(run) / options.size:.2f} copies sent"
                    note(f"round {number}, {leechers} leechers: {swarm.name} {said}")
        return {
            "size": options.size,
            **manner(options),
            "swarms": [
                {"leechers": leechers, **sum_up_swarms(seeds, leechers, options.size)}
                for leechers in options.leechers
            ],
        }


def sum_up_swarms(seeds: list[Seed], leechers: int, size: int) -> dict[str, Any]:
    """Reckon what the swarms of one size come to; the speed is that of all leechers together."""
    movers: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        swarm = seed.swarm(leechers)
        copies = [seed.sent(run) / size for run in swarm.runs]
        movers[swarm.name] = {
            **sum_up(swarm, leechers * size),
            "copies_sent": copies,
            "copies_sent_median": statistics.median(copies),
        }
    return with_ratios({"movers": movers})


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    show_title(f"{report['size']:,} bytes", report)
    for swarm in report["swarms"]:
        print(f"\none seed, leechers: {swarm['leechers']}")
        show_table(swarm, swarm["leechers"] * report["size"])
        for name, row in swarm["movers"].items():
            print(f"{name}'s seed sent {row['copies_sent_median']:.2f} copies")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--size", type=size_of, default="256MiB", help="of the file (256MiB)")
    parser.add_argument(
        "--leechers", type=positive, action="append", help="may be repeated (1, 4 and 8)"
    )
    parser.add_argument("--only", action="append", choices=list(SEEDS), help="may be repeated")
    add_manner(parser)
    options = parser.parse_args(arguments)
    options.leechers = sorted(set(options.leechers or LEECHERS))
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    # Only root on Linux can; for others, all are told to keep to 127.0.0.1.
    with contextlib.suppress(OSError, AttributeError):
        leave_the_network()
    return perform(options, 1.2 * (max(options.leechers) + 1), compare, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
