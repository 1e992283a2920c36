"""
Start C{flow512}, to print its help and to fetch a small file from a node that is known.

Everything is on 127.0.0.1, in a folder of its own in tmpfs, and warm: each command has run once
before it is timed, from the start of the process to its end. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any, Final

from bench import NAME, Bench, Mover, make_file
from command import Note, add_manner, common_options, manner, perform, size_of
from movers import flow512

WITHIN: Final = {"help": 0.15, "get": 0.6}
"""Seconds that are wanted, at most."""

TITLES: Final = {"python": "Python alone", "help": "flow512 --help", "get": "flow512 get"}


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the node, and run the rounds.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_file(bench.shared / NAME, options.size)
    runs: dict[str, list[float]] = {name: [] for name in TITLES}
    with flow512(bench) as mover:
        for number in range(-1, options.rounds):
            taken = once(bench, mover)
            if number >= 0:
                for name, seconds in taken.items():
                    runs[name].append(seconds)
                said = ", ".join(f"{TITLES[name]} {taken[name]:.3f} s" for name in taken)
                note(f"round {number + 1}: {said}")
    return {
        "size": options.size,
        **manner(options),
        "runs": runs,
        "medians": {name: statistics.median(seconds) for name, seconds in runs.items()},
    }


def once(bench: Bench, mover: Mover) -> dict[str, float]:
    """Run each once; the seconds that they took."""
    with mover.fetch(bench.scratch) as get:
        program = get[0]
    return {
        "python": bench.timed({"python": [sys.executable, "-c", "pass"]}).seconds,
        "help": bench.timed({"help": [program, "--help"]}).seconds,
        "get": bench.measure(mover).seconds,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    print(f"\na file of {report['size']:,} bytes, {report['rounds']} rounds; {tls}")
    for name, seconds in report["medians"].items():
        wanted = f" ({WITHIN[name]} s wanted)" if name in WITHIN else ""
        print(f"{TITLES[name]:16}{seconds:.3f} s{wanted}")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=60)
    parser.add_argument("--size", type=size_of, default="4KiB", help="of the file (4KiB)")
    add_manner(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    return perform(read_options(arguments), 3, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
