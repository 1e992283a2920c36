"""
Time what flow512 cannot do without, and nothing else: what is built on the same is no faster.

One is to load the libraries that C{flow512 get --plaintext} is built on, as sparingly as it does,
in a process that ends at once. The other is the MD5 of bytes that are in the processor's cache,
by C{hashlib}, in one thread, since an MD5 cannot be made in two. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from typing import Any, Final

from bench import Bench
from command import Note, common_options, perform, size_of

LIBRARIES: Final = """
import gc, os

gc.disable()
from flow512.cli.sparing import load_no_more_than

load_no_more_than(["get", "--plaintext"])
import blake3, click, msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.internet import defer, endpoints, protocol, reactor

os._exit(0)
"""

CACHED: Final = 2**18
"""Bytes that are hashed again and again."""


def md5_alone(size: int) -> None:
    """
    Hash so many bytes, and print the seconds that it took.
    """
    part = bytes(CACHED)
    md5 = hashlib.md5(usedforsecurity=False)
    began = time.perf_counter()
    for _ in range(size // CACHED):
        md5.update(part)
    print(json.dumps({"seconds": time.perf_counter() - began}))


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Run the rounds, in turn.

    @return: what C{--json} prints.
    """
    options = bench.options
    hashing = [sys.executable, __file__, "--md5-alone", "--size", str(options.size)]
    runs: dict[str, list[float]] = {"libraries": [], "md5": []}
    for number in range(options.rounds):
        loaded = bench.timed({"libraries": [sys.executable, "-c", LIBRARIES]})
        runs["libraries"].append(loaded.seconds)
        runs["md5"].append(float(json.loads(bench.typed(hashing))["seconds"]))
        said = ", ".join(f"{name} {seconds[-1]:.3f} s" for name, seconds in runs.items())
        note(f"round {number + 1}: {said}")
    return {
        "size": options.size,
        "rounds": options.rounds,
        "runs": runs,
        "medians": {name: statistics.median(seconds) for name, seconds in runs.items()},
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    took = report["medians"]
    print(f"\n{report['rounds']} rounds")
    print(f"loading the libraries: {took['libraries']:.3f} s")
    print(f"MD5 of {report['size']:,} bytes: {took['md5']:.3f} s")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=60)
    parser.add_argument("--size", type=size_of, default="1GiB", help="of what is hashed (1GiB)")
    parser.add_argument("--md5-alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    if options.md5_alone:
        md5_alone(options.size)
        return 0
    return perform(options, 0, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
