"""
Move one file between two processes by flow512 and by what people use otherwise, in turn.

Everything is on 127.0.0.1, in a folder of its own in tmpfs, so that neither network nor disk is
measured. What is timed is what a user waits for: the fetching process from start to end.
See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import NAME, Bench, Failed, Missing, Mover, leave_the_network
from movers import ENCRYPTED, MOVERS, PLAIN

UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def peak_kib(process: subprocess.Popen[bytes]) -> int:
    """
    Tell the peak resident memory of a running process, in KiB.

    @raise Failed: this system does not tell.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError as error:
        raise Failed(f"Memory is read from /proc, which failed: {error}.") from error
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise Failed("The serving process is gone.")
    return int(found[1])


def make_file(path: Path, size: int) -> None:
    """Fill a file with random bytes."""
    with path.open("wb") as out:
        while size > 0:
            size -= out.write(os.urandom(min(size, 2**22)))


def chosen(options: argparse.Namespace) -> list[str]:
    """Name the movers that are to be compared."""
    return list(options.only or (ENCRYPTED if options.tls else PLAIN))


def compare(bench: Bench, note: Callable[[str], None]) -> dict[str, Any]:
    """
    Start the servers, run the rounds, and sum them up.

    @param note: told what goes on.
    @return: what C{--json} prints.
    """
    options = bench.options
    with contextlib.ExitStack() as stack:
        movers: list[Mover] = []
        for name in chosen(options):
            try:
                movers.append(stack.enter_context(MOVERS[name](bench)))
            except Missing as error:
                note(f"{name} is left out: {error}")
        for number in range(options.rounds):
            # Whoever goes first in a round is another one each time.
            first = number % max(1, len(movers))
            for mover in movers[first:] + movers[:first]:
                run = bench.measure(mover)
                mover.runs.append(run)
                note(f"round {number + 1}: {mover.name} {run.seconds:.3f} s")
        return {
            "size": options.size,
            "rounds": options.rounds,
            "tls": options.tls,
            "md5": options.md5,
            "run": options.run,
            "movers": {mover.name: sum_up(mover, options.size) for mover in movers},
        }


def sum_up(mover: Mover, size: int) -> dict[str, Any]:
    """Reckon what the runs of one mover come to; MB are 10**6 bytes."""
    seconds = [run.seconds for run in mover.runs]
    own = [run.own_seconds for run in mover.runs if run.own_seconds is not None]
    median = statistics.median(seconds)
    return {
        "seconds": seconds,
        "median": median,
        "min": min(seconds),
        "max": max(seconds),
        "mb_per_second": size / median / 1e6,
        "own_median": statistics.median(own) if own else None,
        # The others' would mislead: nginx, rsync and sshd serve from children, and a fetching
        # process is counted from before its exec, when it is as large as this one.
        **(memory(mover) if mover.name == "flow512" else {}),
    }


def memory(mover: Mover) -> dict[str, int]:
    """Tell the peaks of both sides, in KiB."""
    return {
        "server_peak_kib": peak_kib(mover.server),
        "client_peak_kib": max(run.peak_kib for run in mover.runs),
    }


def with_ratios(report: dict[str, Any]) -> dict[str, Any]:
    """Add how fast flow512 is as a share of each other's speed, by medians."""
    movers = report["movers"]
    ratios: dict[str, dict[str, float]] = {}
    ours = movers.get("flow512")
    for name, theirs in movers.items():
        if ours is not None and name != "flow512":
            ratios[name] = {"process": theirs["median"] / ours["median"]}
            if ours["own_median"]:
                ratios[name]["transfer_alone"] = theirs["median"] / ours["own_median"]
    return {**report, "speed_relative_to": ratios}


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    md5 = "with" if report["md5"] else "without"
    print(f"\n{report['size']:,} bytes, {report['rounds']} rounds; flow512 {tls}, {md5} MD5")
    print(f"{'':10}{'median s':>10}{'min s':>9}{'max s':>9}{'MB/s':>9}")
    for name, row in report["movers"].items():
        times = f"{row['median']:>10.3f}{row['min']:>9.3f}{row['max']:>9.3f}"
        print(f"{name:10}{times}{row['mb_per_second']:>9.0f}")
        if row["own_median"]:
            rate = report["size"] / row["own_median"] / 1e6
            print(f"{'  alone':10}{row['own_median']:>10.3f}{'':18}{rate:>9.0f}")
    if (ours := report["movers"].get("flow512")) is not None:
        peaks = f"{ours['server_peak_kib']:,} KiB serving, {ours['client_peak_kib']:,} KiB fetching"
        print(f"flow512's peak resident memory: {peaks}")
    for name, ratio in report["speed_relative_to"].items():
        alone = ratio.get("transfer_alone")
        rest = f", {alone:.2f} without its start and end" if alone else ""
        print(f"flow512 has {ratio['process']:.2f} of the speed of {name}{rest}")


def size_of(text: str) -> int:
    """Read a size: bytes, or a number with KiB, MiB, GiB or TiB."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write it like 64MiB or 1GiB")
    return int(found[1]) * UNITS[found[2] or ""]


def positive(text: str) -> int:
    """Read a number of at least one."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 1")
    return int(text)


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--size", type=size_of, default="1GiB", help="of the file (1GiB)")
    parser.add_argument("--rounds", type=positive, default=5, help="how often each is run (5)")
    parser.add_argument("--only", action="append", choices=list(MOVERS), help="may be repeated")
    parser.add_argument(
        "--tls",
        action="store_true",
        help="flow512 encrypted, beside scp and magic-wormhole; otherwise beside curl and rsync",
    )
    parser.add_argument("--run", type=positive, help="pieces per frame, as in flow512 get")
    parser.add_argument(
        "--md5",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="whether flow512 checks the whole file's MD5 too; curl has no such check",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", default="/dev/shm", help="a tmpfs (/dev/shm)")
    parser.add_argument("--timeout", type=positive, default=600, help="seconds for one fetch (600)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status: 0, 1 if something failed, 130 after Ctrl-C.
    """
    options = read_options(arguments)
    # So that an orderly end, which removes everything, is what a request to end leads to.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    options.is_alone = False
    if "wormhole" in chosen(options):
        with contextlib.suppress(OSError, AttributeError):
            leave_the_network()
            options.is_alone = True
    try:
        if shutil.disk_usage(options.folder).free < 2.2 * options.size + 2**26:
            raise Failed(f"{options.folder} has no room for two files of {options.size:,} bytes.")
        with tempfile.TemporaryDirectory(prefix="flow512-bench-", dir=options.folder) as scratch:
            bench = Bench(Path(scratch), options)
            bench.shared.mkdir()
            (bench.scratch / "home").mkdir()
            make_file(bench.shared / NAME, options.size)
            report = with_ratios(compare(bench, note))
    except (Failed, OSError) as error:
        note(str(error))
        return 1
    except KeyboardInterrupt:
        note("Interrupted; everything was removed.")
        return 130
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
