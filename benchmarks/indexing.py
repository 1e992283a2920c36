"""
Index a share that nobody has indexed before, and hash the same bytes with C{blake3} alone.

Everything is in a folder of its own in tmpfs, so the files are warm. What is timed is the work:
C{flow512 serve} from when it is ready until all is indexed, and the other, which is this very
file, from the first byte to the last. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import Bench, Failed, make_file
from command import Note, common_options, perform, positive, size_of
from movers import find_beside_python

WANTED: Final = 0.8
"""The share of C{blake3}'s speed that is wanted."""


def make_files(bench: Bench) -> None:
    """Fill the folder that is indexed."""
    size = bench.options.size // bench.options.files
    for number in range(bench.options.files):
        make_file(bench.shared / f"{number:06}.bin", size)


def hash_alone(folder: str) -> None:
    """
    Hash all files of a folder, each with all threads, and print the seconds that it took.
    """
    from blake3 import blake3

    paths = sorted(Path(folder).iterdir())
    began = time.perf_counter()
    for path in paths:
        blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
    print(json.dumps({"seconds": time.perf_counter() - began}))


def by_blake3(bench: Bench) -> float:
    """Hash once without flow512; the seconds that it took."""
    told = json.loads(bench.typed([sys.executable, __file__, "--hash-alone", str(bench.shared)]))
    return float(told["seconds"])


def by_flow512(bench: Bench) -> float:
    """Index once, with a new state folder; the seconds that it took."""
    program = find_beside_python("flow512", "make bench")
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1"]
    serve += ["--no-beacon", "--bootstrap", "never", "--json"]
    serve += ["--state", str(bench.scratch / f"state-{time.monotonic_ns()}")]
    began = 0.0
    with subprocess.Popen(
        serve,
        cwd=bench.scratch,
        env=bench.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                now, told = time.perf_counter(), json.loads(line)
                if told["event"] == "ready":
                    began = now
                elif told["event"] == "indexed":
                    if told["hashed"] != bench.options.files:
                        raise Failed(f"Only {told['hashed']:,} files were hashed.")
                    return now - began
        finally:
            server.terminate()
    raise Failed("flow512 serve ended too early.")


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Run the rounds, in turn.

    @return: what C{--json} prints.
    """
    options = bench.options
    make_files(bench)
    runs: dict[str, list[float]] = {"flow512": [], "blake3": []}
    for number in range(options.rounds):
        for name, run in (("flow512", by_flow512), ("blake3", by_blake3)):
            runs[name].append(run(bench))
            note(f"round {number + 1}: {name} {runs[name][-1]:.3f} s")
    medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return {
        "size": options.size,
        "files": options.files,
        "rounds": options.rounds,
        "runs": runs,
        "medians": medians,
        "speed_relative_to_blake3": medians["blake3"] / medians["flow512"],
    }


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    print(f"\n{report['size']:,} bytes in {report['files']:,} files, {report['rounds']} rounds")
    for name, seconds in report["medians"].items():
        print(f"{name:10}{seconds:>8.3f} s{report['size'] / seconds / 1e6:>8.0f} MB/s")
    ratio = report["speed_relative_to_blake3"]
    print(f"flow512 has {ratio:.2f} of the speed of blake3 ({WANTED} wanted)")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--size", type=size_of, default="2GiB", help="of all files (2GiB)")
    parser.add_argument("--files", type=positive, default=32, help="how many (32)")
    parser.add_argument("--hash-alone", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.size -= options.size % options.files
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    if options.hash_alone:
        hash_alone(options.hash_alone)
        return 0
    return perform(options, 1, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
