"""
Do the same with ten times as much, and see whether each costs more.

One large file is fetched, a folder of small ones is fetched and listed, and a change is pushed to
the nodes of a registry. The time for each unit has the start of the commands in it, so it shrinks
at first; what counts is whether it grows. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, TypeAlias

from bench import Bench, Mover, make_file
from command import UNITS, Note, common_options, in_turn, perform, positive, size_of
from large import SPARSE, check_arrived, discarding, make_sparse_file
from listing import list_once
from movers import Node, always, node
from push import push_by_flow512

from flow512.descriptors import allow_enough_descriptors

MOST_GROWTH: Final = 1.3
"""What is wanted: the time for a unit, as a share of what it was with any smaller number."""

SIZES: Final = (1 * UNITS["GiB"], 4 * UNITS["GiB"], 16 * UNITS["GiB"])
FILES: Final = (1000, 10_000, 100_000)
NODES: Final = (100, 1000, 10_000)

FILE_SIZE: Final = 4096
PER_FOLDER: Final = 100

DISCARDED: Final = UNITS["GiB"]
"""Bytes of a large file that are there at a time before they are discarded, at most."""

Runs: TypeAlias = dict[float, Callable[[], float]]
"""For each number of units, what does it once with so many; it gives the seconds."""


@contextlib.contextmanager
def large_files(bench: Bench) -> Iterator[dict[str, Runs]]:
    """Fetch files of several sizes."""
    folder = bench.scratch / "target"
    folder.mkdir()
    for size in bench.options.sizes:
        make_sparse_file(bench.shared / f"{size}.bin", size)
    with node(bench, "never") as served:

        def fetch(size: int) -> float:
            target = folder / f"{size}.bin"
            command = served.get(target.name, "--from", served.place, "-o", str(target))
            with discarding(folder):
                seconds = bench.timed({"get": command}).seconds
            check_arrived(target, size)
            return seconds

        runs: Runs = {size / UNITS["GiB"]: partial(fetch, size) for size in bench.options.sizes}
        yield {"GiB fetched": runs}


@contextlib.contextmanager
def many_files(bench: Bench) -> Iterator[dict[str, Runs]]:
    """Fetch, and list, folders of several numbers of files."""
    counts = bench.options.files
    for count in counts:
        for number in range(count):
            above = bench.shared / str(count) / f"{number // PER_FOLDER:04}"
            if number % PER_FOLDER == 0:
                above.mkdir(parents=True)
            make_file(above / f"{number:06}.bin", FILE_SIZE)
    with node(bench, "never") as served:
        yield {
            "file fetched": {count: partial(fetch_files, bench, served, count) for count in counts},
            "file listed": {count: partial(list_files, bench, served, count) for count in counts},
        }


def fetch_files(bench: Bench, served: Node, count: int) -> float:
    """Fetch a folder once."""
    get = served.get(f"{count}/", "--from", served.place)
    mover = Mover("get", always(lambda target: [*get, "-o", str(target)]), served.process)
    return bench.measure(mover, f"{count}/").seconds


def list_files(bench: Bench, served: Node, count: int) -> float:
    """List a folder once."""
    _, seconds = list_once(bench, served.ls("--prefix", f"{count}/"), count)
    return seconds


@contextlib.contextmanager
def many_nodes(bench: Bench) -> Iterator[dict[str, Runs]]:
    """Push changes to several numbers of nodes."""

    def push(count: int) -> float:
        options = argparse.Namespace(**vars(bench.options) | {"nodes": count, "rounds": 1})
        home = Bench(bench.scratch / f"{count}", options)
        home.shared.mkdir(parents=True, exist_ok=True)
        return float(push_by_flow512(home, lambda text: None)["median"])

    yield {"node told of a change": {count: partial(push, count) for count in bench.options.nodes}}


CASES: Final[dict[str, Callable[[Bench], AbstractContextManager[dict[str, Runs]]]]] = {
    "bytes": large_files,
    "files": many_files,
    "nodes": many_nodes,
}


def run_rounds(runs: Runs, unit: str, rounds: int, note: Note) -> dict[str, Any]:
    """Run the rounds of one case, the numbers of units in turn, and sum them up."""
    seconds: dict[float, list[float]] = {units: [] for units in runs}
    for number, turns in in_turn(list(runs), rounds):
        for units in turns:
            seconds[units].append(runs[units]())
            note(f"round {number}, each {unit}: {units:,g} in {seconds[units][-1]:.3f} s")
    per_unit = [statistics.median(took) / units for units, took in seconds.items()]
    return {
        "units": list(seconds),
        "runs": list(seconds.values()),
        "seconds_per_unit": per_unit,
        "growth": growth(per_unit),
    }


def growth(per_unit: list[float]) -> float:
    """Say how much more a unit takes than with any smaller number, where that is the most."""
    return max(
        (later / min(per_unit[:number]) for number, later in enumerate(per_unit) if number),
        default=1.0,
    )


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Run one case after the other.

    @return: what C{--json} prints.
    """
    cases = {}
    for name in bench.options.only or CASES:
        home = Bench(bench.scratch / name, bench.options)
        for folder in (home.shared, home.scratch / "home"):
            folder.mkdir(parents=True)
        with CASES[name](home) as units:
            for unit, runs in units.items():
                cases[unit] = run_rounds(runs, unit, bench.options.rounds, note)
        shutil.rmtree(home.scratch)
    return {"rounds": bench.options.rounds, "cases": cases}


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    print(f"\nmilliseconds for each, {report['rounds']} rounds; growth {MOST_GROWTH} wanted")
    for unit, case in report["cases"].items():
        pairs = zip(case["units"], case["seconds_per_unit"], strict=True)
        each = "".join(f"{units:>10,g}: {seconds * 1000:<9.4g}" for units, seconds in pairs)
        print(f"{unit:24}{each}growth {case['growth']:.2f}")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=600)
    for name, kind, usual, said in (
        ("sizes", size_of, SIZES, "1GiB, 4GiB and 16GiB"),
        ("files", positive, FILES, "1000, 10000 and 100000"),
        ("nodes", positive, NODES, "100, 1000 and 10000"),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=usual, help=f"({said})")
    parser.add_argument("--only", action="append", choices=list(CASES), help="may be repeated")
    options = parser.parse_args(arguments)
    # What the others are measured with, and the most that a folder takes.
    options.tls, options.md5, options.run = False, False, None
    options.size = max(options.files) * FILE_SIZE
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    allow_enough_descriptors()
    large = sum(options.sizes) * SPARSE + min(DISCARDED, max(options.sizes))
    return perform(options, max(3, large / options.size), measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
