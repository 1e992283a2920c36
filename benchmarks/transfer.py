"""
Move one file between two processes by flow512 and by what people use otherwise, in turn.

Everything is on 127.0.0.1, in a folder of its own in tmpfs, so that neither network nor disk is
measured. What is timed is what a user waits for: the fetching process from start to end.
See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from bench import NAME, Bench, leave_the_network, make_file
from command import Note, add_manner, common_options, entered, in_turn, manner, perform, size_of
from figures import show_table, show_title, sum_up, with_ratios
from movers import ENCRYPTED, MOVERS, PLAIN


def chosen(options: argparse.Namespace) -> list[str]:
    """Name the movers that are to be compared."""
    return list(options.only or (ENCRYPTED if options.tls else PLAIN))


def compare(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the servers, run the rounds, and sum them up.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_file(bench.shared / NAME, options.size)
    with contextlib.ExitStack() as stack:
        wanted = {name: MOVERS[name] for name in chosen(options)}
        movers = entered(stack, bench, wanted, note)
        for number, turns in in_turn(movers, options.rounds):
            for mover in turns:
                run = bench.measure(mover)
                mover.runs.append(run)
                note(f"round {number}: {mover.name} {run.seconds:.3f} s")
        return with_ratios(
            {
                "size": options.size,
                **manner(options),
                "movers": {mover.name: sum_up(mover, options.size) for mover in movers},
            }
        )


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    show_title(f"{report['size']:,} bytes", report)
    show_table(report, report["size"])


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=600)
    parser.add_argument("--size", type=size_of, default="1GiB", help="of the file (1GiB)")
    parser.add_argument("--only", action="append", choices=list(MOVERS), help="may be repeated")
    tls = "flow512 encrypted, beside scp and magic-wormhole; otherwise beside curl and rsync"
    add_manner(parser, tls=tls)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    options.is_alone = False
    if "wormhole" in chosen(options):
        with contextlib.suppress(OSError, AttributeError):
            leave_the_network()
            options.is_alone = True
    return perform(options, 2.2, compare, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
