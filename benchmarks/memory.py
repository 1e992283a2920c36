"""
Fetch a file that is larger than the memory, and watch how much both sides keep resident.

The served file is sparse, and what arrives is discarded while it arrives (C{large.py}), so that
neither takes the tmpfs that both are in. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from typing import Any, Final

from bench import NAME, Bench, Failed
from command import Note, add_manner, common_options, manner, perform, size_of
from figures import memory_kib
from large import SPARSE, check_arrived, discarding, make_sparse_file
from movers import node

EVERY: Final = 0.05
"""Seconds between two samples."""

MOST_MIB: Final = 100
MOST_GROWTH: Final = 1.1
"""What is wanted: at the peak; and in the last quarter, as a share of the first."""

SIDES: Final = ("serving", "fetching")


def fetch(bench: Bench, command: list[str], pids: dict[str, int]) -> list[dict[str, Any]]:
    """
    Run the fetching process.

    @param pids: the processes that are watched, to which it is added.
    @return: the samples: the time, and each side's resident memory and peak in KiB.
    @raise Failed: it failed, or hung.
    """
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    with bench.running("flow512-get", command) as process:
        pids["fetching"] = process.pid
        while process.poll() is None:
            # Gone between the two questions, or not there yet: not to be told of.
            with contextlib.suppress(Failed):
                samples.append({"at": time.monotonic() - began, **sample(pids)})
            if time.monotonic() - began > bench.options.timeout:
                raise bench.failure("flow512-get", "took too long")
            time.sleep(EVERY)
        if process.returncode:
            raise bench.failure("flow512-get", f"ended with status {process.returncode}")
    return samples


def sample(pids: dict[str, int]) -> dict[str, dict[str, int]]:
    """Look at all processes once."""
    return {
        side: {what: memory_kib(pid, what) for what in ("VmRSS", "VmHWM")}
        for side, pid in pids.items()
    }


def sum_up(samples: list[dict[str, Any]], side: str) -> dict[str, float]:
    """Reckon one side's peak, its median in each quarter of the time, and the growth, in MiB."""
    quarter = max(1, len(samples) // 4)
    resident = [each[side]["VmRSS"] / 1024 for each in samples]
    first, last = (statistics.median(part) for part in (resident[:quarter], resident[-quarter:]))
    return {
        "peak_mib": max(each[side]["VmHWM"] for each in samples) / 1024,
        "first_quarter_mib": first,
        "last_quarter_mib": last,
        "growth": last / first,
    }


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Start the node, and run the rounds.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_sparse_file(bench.shared / NAME, options.size)
    folder = bench.scratch / "target"
    folder.mkdir()
    rounds = []
    with node(bench, "never") as served:
        command = served.get(NAME, "--from", served.place, "-o", str(folder / NAME))
        for number in range(options.rounds):
            # What makes the MD5 reads what was written.
            keeping = contextlib.nullcontext() if options.md5 else discarding(folder)
            with keeping:
                samples = fetch(bench, command, {"serving": served.process.pid})
            check_arrived(folder / NAME, options.size)
            seconds = samples[-1]["at"]
            rounds.append({side: sum_up(samples, side) for side in SIDES} | {"seconds": seconds})
            peaks = ", ".join(f"{side} {rounds[-1][side]['peak_mib']:.1f} MiB" for side in SIDES)
            note(f"round {number + 1}: {peaks}; {seconds:.1f} s")
    return {
        "size": options.size,
        **manner(options),
        "sides": {
            side: {key: max(each[side][key] for each in rounds) for key in rounds[0][side]}
            for side in SIDES
        },
        "runs": rounds,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    print(f"\n{report['size']:,} bytes, {report['rounds']} rounds; the most of any round, in MiB")
    print(f"{'':10}{'peak':>8}{'first quarter':>15}{'last quarter':>14}{'growth':>8}")
    for side, row in report["sides"].items():
        quarters = f"{row['first_quarter_mib']:>15.1f}{row['last_quarter_mib']:>14.1f}"
        print(f"{side:10}{row['peak_mib']:>8.1f}{quarters}{row['growth']:>8.2f}")
    print(f"wanted: at most {MOST_MIB} MiB, and growth of at most {MOST_GROWTH}")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=600)
    parser.add_argument("--size", type=size_of, default="16GiB", help="of the file (16GiB)")
    add_manner(parser)
    parser.set_defaults(rounds=1)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    # What arrives within a moment is there before it is discarded; with MD5, all of it stays.
    return perform(options, SPARSE + (1.1 if options.md5 else 0.05), measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
