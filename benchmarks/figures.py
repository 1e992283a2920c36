"""
What the runs of a benchmark come to, and how it is shown.
"""

from __future__ import annotations

import math
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import Failed, Mover


def memory_kib(process: int, what: str) -> int:
    """
    Tell the memory of a running process, in KiB.

    @param process: its id.
    @param what: what C{/proc} calls it: C{VmRSS} for what is resident now, C{VmHWM} for its peak.
    @raise Failed: this system does not tell, or the process is gone.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError as error:
        raise Failed(f"Memory is read from /proc, which failed: {error}.") from error
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise Failed("The process whose memory is measured is gone.")
    return int(found[1])


def peak_kib(process: subprocess.Popen[bytes]) -> int:
    """Tell the peak resident memory of a running process, in KiB."""
    return memory_kib(process.pid, "VmHWM")


def at_rank(values: Sequence[float], share: float) -> float:
    """
    Give the value that such a share of all values does not exceed, by the nearest rank.

    @param share: above 0, at most 1; 0.99 for the 99th percentile.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def sum_up(mover: Mover, size: int) -> dict[str, Any]:
    """
    Reckon what the runs of one mover come to; MB are 10**6 bytes.

    @param size: what each run brought, in bytes.
    """
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
        **(_memory(mover) if mover.name == "flow512" else {}),
    }


def _memory(mover: Mover) -> dict[str, int]:
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
                alone = theirs["own_median"] or theirs["median"]
                ratios[name]["transfer_alone"] = alone / ours["own_median"]
    return {**report, "speed_relative_to": ratios}


def show_title(what: str, report: dict[str, Any]) -> None:
    """Print what was measured, and in which manner."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    md5 = "with" if report["md5"] else "without"
    print(f"\n{what}, {report['rounds']} rounds; flow512 {tls}, {md5} MD5")


def show_table(report: dict[str, Any], size: int) -> None:
    """
    Print what L{sum_up} and L{with_ratios} have made, for people.

    @param size: as for L{sum_up}.
    """
    print(f"{'':10}{'median s':>10}{'min s':>9}{'max s':>9}{'MB/s':>9}")
    for name, row in report["movers"].items():
        times = f"{row['median']:>10.3f}{row['min']:>9.3f}{row['max']:>9.3f}"
        print(f"{name:10}{times}{row['mb_per_second']:>9.0f}")
        if row["own_median"]:
            rate = size / row["own_median"] / 1e6
            print(f"{'  alone':10}{row['own_median']:>10.3f}{'':18}{rate:>9.0f}")
    if (ours := report["movers"].get("flow512")) is not None:
        peaks = f"{ours['server_peak_kib']:,} KiB serving, {ours['client_peak_kib']:,} KiB fetching"
        print(f"flow512's peak resident memory: {peaks}")
    for name, ratio in report["speed_relative_to"].items():
        alone = ratio.get("transfer_alone")
        rest = f", {alone:.2f} without its start and end" if alone else ""
        print(f"flow512 has {ratio['process']:.2f} of the speed of {name}{rest}")
