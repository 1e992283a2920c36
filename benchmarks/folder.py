"""
Move a folder of many small files by flow512 and by rsync, in turn.

Everything is on 127.0.0.1, in a folder of its own in tmpfs. What is timed is what a user waits for:
the fetching process from start to end. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from bench import Bench, Mover, make_file
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
from movers import flow512, rsync

FOLDER: Final = "folder/"
PER_FOLDER: Final = 100

MOVERS: Final[dict[str, Callable[[Bench], AbstractContextManager[Mover]]]] = {
    "flow512": partial(flow512, wanted=FOLDER),
    # Modes and times are what flow512 keeps too.
    "rsync": lambda bench: rsync(bench, FOLDER, "--recursive", "--times", "--perms"),
}


def make_files(bench: Bench) -> None:
    """Fill the folder that is moved: folders of a hundred files each."""
    for number in range(bench.options.files):
        above = bench.shared / FOLDER / f"{number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0:
            above.mkdir(parents=True)
        make_file(above / f"{number:06}.bin", bench.options.file_size)


def compare(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the servers, run the rounds, and sum them up.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_files(bench)
    with contextlib.ExitStack() as stack:
        wanted = {name: MOVERS[name] for name in options.only or MOVERS}
        movers = entered(stack, bench, wanted, note)
        for number, turns in in_turn(movers, options.rounds):
            for mover in turns:
                run = bench.measure(mover, FOLDER)
                mover.runs.append(run)
                note(f"round {number}: {mover.name} {run.seconds:.3f} s")
        return with_ratios(
            {
                "files": options.files,
                "file_size": options.file_size,
                "size": options.size,
                **manner(options),
                "movers": {mover.name: sum_up(mover, options.size) for mover in movers},
            }
        )


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    show_title(f"{report['files']:,} files of {report['file_size']:,} bytes", report)
    show_table(report, report["size"])


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--files", type=positive, default=10_000, help="how many (10000)")
    parser.add_argument("--file-size", type=size_of, default="4KiB", help="of each (4KiB)")
    parser.add_argument("--only", action="append", choices=list(MOVERS), help="may be repeated")
    add_manner(parser)
    options = parser.parse_args(arguments)
    options.size = options.files * options.file_size
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    # Whatever its size, a file takes whole pages.
    return perform(read_options(arguments), 3, compare, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
