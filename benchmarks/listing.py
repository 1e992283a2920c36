"""
List what a node shares, until the first entry is read and until the last.

Everything is on 127.0.0.1, in a folder of its own in tmpfs. The times are from the start of
C{flow512 ls}, of which the start of Python is a part. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from bench import Bench, Failed
from command import Note, common_options, perform, positive
from movers import node

FIRST_WITHIN: Final = 0.2
LAST_WITHIN: Final = 3.0
"""Seconds that it may take, of a hundred thousand entries."""

PER_FOLDER: Final = 1000


def make_files(bench: Bench) -> None:
    """Fill the folder that is listed, with files that hold nothing."""
    for number in range(bench.options.files):
        above = bench.shared / f"folder-{number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0:
            above.mkdir()
        (above / f"file {number:07}.bin").touch()


def list_once(bench: Bench, command: list[str], files: int) -> tuple[float, float]:
    """
    Run the command once.

    @param files: how many it has to list.
    @return: the seconds until its first line, and until its end.
    @raise Failed: it did not list all.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=bench.scratch, env=bench.environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = int(bool(process.stdout.readline()))
        first = time.perf_counter() - began
        lines += sum(1 for _ in process.stdout)
    last = time.perf_counter() - began
    if process.returncode or lines != files:
        raise Failed(f"flow512 ls ended with status {process.returncode} after {lines:,} entries.")
    return first, last


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the node and run the rounds.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_files(bench)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(node(bench, "never"))
        runs = []
        for number in range(options.rounds):
            runs.append(list_once(bench, served.ls(), options.files))
            note(f"round {number + 1}: first {runs[-1][0]:.3f} s, last {runs[-1][1]:.3f} s")
    first, last = (statistics.median(each) for each in zip(*runs, strict=True))
    return {
        "files": options.files,
        "rounds": options.rounds,
        "tls": options.tls,
        "first": first,
        "last": last,
        "runs": runs,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    print(f"\n{report['files']:,} entries, {report['rounds']} rounds; {tls}")
    print(f"first entry  {report['first']:.3f} s ({FIRST_WITHIN} s wanted)")
    print(f"last entry   {report['last']:.3f} s ({LAST_WITHIN} s wanted)")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--files", type=positive, default=100_000, help="how many (100000)")
    parser.add_argument("--tls", action="store_true", help="encrypted")
    options = parser.parse_args(arguments)
    # A listing has neither; and what is listed has no bytes.
    options.md5, options.run, options.size = True, None, 0
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    return perform(read_options(arguments), 1, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
