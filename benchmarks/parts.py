"""
What the table has: which benchmark is run for which of its lines, and what is aimed at.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import crowd
import indexing
import latency
import listing
import memory
import proportion
import startup

Report: TypeAlias = dict[str, Any]
"""What a benchmark prints with C{--json}."""


@dataclass(frozen=True)
class Figure:
    """
    One line of the table.

    @ivar work: what is done.
    @ivar measured: what came of it: with C{beside}, how fast flow512 is as a share of that one's
        speed, by medians of whole processes.
    @ivar unit: of C{measured}, and of what is aimed at.
    @ivar beside: who does the same.
    @ivar at_least: what is aimed at.
    @ivar at_most: likewise; neither, if it is only to be known.
    @ivar ours: what was measured of flow512.
    @ivar theirs: what was measured of the other.
    @ivar alone: the share without the start and the end of flow512's process.
    """

    work: str
    measured: float
    unit: str = ""
    beside: str = ""
    at_least: float | None = None
    at_most: float | None = None
    ours: str = ""
    theirs: str = ""
    alone: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether it is what is aimed at; L{None} if nothing is."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None if self.at_most is None else self.measured <= self.at_most


@dataclass(frozen=True)
class Part:
    """
    One benchmark that is run.

    @ivar script: its file, without C{.py}.
    @ivar words: how it is run.
    @ivar quick: what makes a small trial of it.
    @ivar figures: reads its report.
    """

    script: str
    words: tuple[str, ...]
    quick: tuple[str, ...]
    figures: Callable[[Report], list[Figure]]


def part(script: str, words: str, quick: str, figures: Callable[[Report], list[Figure]]) -> Part:
    """Make a part, with its words in one string."""
    return Part(script, tuple(words.split()), tuple(quick.split()), figures)


def amount(size: int) -> str:
    """Write a size with its unit."""
    units = ("bytes", "KiB", "MiB", "GiB")
    power = max(n for n in range(len(units)) if size % 1024**n == 0)
    return f"{size // 1024**power:,} {units[power]}"


def times(seconds: list[float]) -> str:
    """Write times, all in the unit that suits the longest."""
    unit, scale = next(
        (each for each in (("s", 1.0), ("ms", 1e3)) if max(seconds) * each[1] >= 1), ("µs", 1e6)
    )
    return ", ".join(f"{each * scale:.3g}" for each in seconds) + f" {unit}"


def _relative(
    report: Report, work: str, aims: dict[str, tuple[str, float]], decimals: int = 2
) -> list[Figure]:
    # One line for each other mover, as far as it took part.
    movers = report["movers"]
    return [
        Figure(
            work,
            ratio["process"],
            beside=aims[name][0],
            at_least=aims[name][1],
            ours=f"{movers['flow512']['median']:.{decimals}f} s",
            theirs=f"{movers[name]['median']:.{decimals}f} s",
            alone=ratio.get("transfer_alone"),
        )
        for name, ratio in report["speed_relative_to"].items()
    ]


PLAIN: Final = {
    "curl": ("curl from nginx, sendfile", 1.3),
    "http.server": ("curl from http.server", 0.9),
    "sockets": ("sockets, BLAKE3, pwrite", 0.85),
}
CHECKED: Final = {"rsync": ("rsync daemon, whole file", 0.7)}
ENCRYPTED: Final = {"scp": ("scp", 2.5), "wormhole": ("magic-wormhole", 3.0)}
SWARM: Final = {"libtorrent": ("libtorrent", 3.0)}
FOLDER: Final = {"rsync": ("rsync daemon", 1.0)}


def of_transfer(manner: str, aims: dict[str, tuple[str, float]], report: Report) -> list[Figure]:
    """Read C{transfer.py}."""
    return _relative(report, f"{amount(report['size'])}, {manner}", aims)


def of_swarm(report: Report) -> list[Figure]:
    """Read C{swarm.py}."""
    size = amount(report["size"])
    return [
        figure
        for swarm in report["swarms"]
        for figure in _relative(swarm, f"{size} to {swarm['leechers']} leechers", SWARM)
    ]


def of_folder(report: Report) -> list[Figure]:
    """Read C{folder.py}."""
    work = f"{report['files']:,} files of {amount(report['file_size'])}"
    return _relative(report, work, FOLDER)


def of_push(report: Report) -> list[Figure]:
    """Read C{push.py}."""
    ours, nodes = report["flow512"], f"{report['nodes']:,} nodes"
    tls = "TLS" if report["tls"] else "bare TCP"
    figures = []
    if (theirs := report.get("redis")) is not None:
        figures.append(
            Figure(
                f"a change pushed to {nodes}",
                report["speed_relative_to_redis"],
                beside="Redis PUBLISH",
                at_least=0.7,
                ours=f"{ours['median']:.3f} s",
                theirs=f"{theirs['median']:.3f} s",
            )
        )
    work = f"registry, memory for each of {nodes}, {tls}"
    most = None if report["tls"] else 8.0
    return [*figures, Figure(work, ours["kib_each"], "KiB", at_most=most)]


def of_indexing(report: Report) -> list[Figure]:
    """Read C{indexing.py}."""
    return [
        Figure(
            f"indexing {amount(report['size'])} of warm files",
            report["speed_relative_to_blake3"],
            beside="blake3, all threads",
            at_least=indexing.WANTED,
            ours=f"{report['medians']['flow512']:.2f} s",
            theirs=f"{report['medians']['blake3']:.2f} s",
        )
    ]


def of_listing(report: Report) -> list[Figure]:
    """Read C{listing.py}."""
    work = f"listing {report['files']:,} files"
    return [
        Figure(f"{work}, first entry", report["first"], "s", at_most=listing.FIRST_WITHIN),
        Figure(f"{work}, last entry", report["last"], "s", at_most=listing.LAST_WITHIN),
    ]


def of_memory(report: Report) -> list[Figure]:
    """Read C{memory.py}."""
    figures = []
    for side, row in report["sides"].items():
        work = f"{amount(report['size'])}, {side}"
        quarters = f"{row['first_quarter_mib']:.1f}, then {row['last_quarter_mib']:.1f} MiB"
        figures += [
            Figure(f"{work}, peak memory", row["peak_mib"], "MiB", at_most=memory.MOST_MIB),
            Figure(
                f"{work}, memory in the last quarter beside the first",
                row["growth"],
                at_most=memory.MOST_GROWTH,
                ours=quarters,
            ),
        ]
    return figures


def of_latency(manner: str, report: Report) -> list[Figure]:
    """Read C{latency.py}."""
    figures = []
    for what, title in (("warm", "in memory"), ("cold", "from a cold disk")):
        if (row := report.get(what)) is None:
            continue
        half, idle = row["busy"]["p50"] * 1000, row["idle"]["p99"] * 1000
        figures.append(
            Figure(
                f"a request during {amount(report['size'])} {title}, {manner}, p99",
                row["busy"]["p99"] * 1000,
                "ms",
                at_most=latency.WITHIN[what] * 1000,
                ours=f"p50 {half:.1f} ms; idle p99 {idle:.1f} ms",
            )
        )
    return figures


def of_startup(report: Report) -> list[Figure]:
    """Read C{startup.py}."""
    took = report["medians"]
    python = f"Python alone {took['python']:.3f} s"
    work = f"flow512 get of {amount(report['size'])}"
    return [
        Figure("flow512 --help", took["help"], "s", at_most=startup.WITHIN["help"], ours=python),
        Figure(work, took["get"], "s", at_most=startup.WITHIN["get"], ours=python),
    ]


def of_bounds(report: Report) -> list[Figure]:
    """Read C{bounds.py}."""
    took = report["medians"]
    return [
        Figure("loading what flow512 is built on, bare TCP", took["libraries"], "s"),
        Figure(f"MD5 of {amount(report['size'])} in memory, by hashlib", took["md5"], "s"),
    ]


def of_proportion(report: Report) -> list[Figure]:
    """Read C{proportion.py}."""
    figures = []
    for unit, case in report["cases"].items():
        units = ", ".join(f"{units:,g}" for units in case["units"])
        figures.append(
            Figure(
                f"growth of the time for each {unit}, {units}",
                case["growth"],
                at_most=proportion.MOST_GROWTH,
                ours=times(case["seconds_per_unit"]),
            )
        )
    return figures


def of_crowd(report: Report) -> list[Figure]:
    """Read C{crowd.py}."""
    who = f"a crowd of {report['crowd'] + report['slow']:,}"
    figures = []
    for kind, title in crowd.KINDS.items():
        crowded, usual = (statistics.median(report[when][kind]) for when in ("crowded", "usual"))
        figures.append(
            Figure(
                f"{title} in {who}",
                report["speed"][kind],
                beside="without the crowd",
                at_least=crowd.LEAST_SPEED,
                ours=f"{crowded:.2f} s",
                theirs=f"{usual:.2f} s",
            )
        )
    most, peak = crowd.MOST_MEMORY / 1024, report["peak_kib"] / 1024
    return [*figures, Figure(f"the node's peak memory in {who}", peak, "MiB", at_most=most)]


def _only(*names: str) -> str:
    return " ".join(f"--only {name}" for name in ("flow512", *names))


BARE: Final = "bare TCP"
QUICK_FILE: Final = "--size 16MiB --rounds 1"

PARTS: Final[dict[str, Part]] = {
    "transfer": part(
        "transfer", _only(*PLAIN), QUICK_FILE, partial(of_transfer, f"{BARE}, no MD5", PLAIN)
    ),
    "md5": part(
        "transfer",
        f"--md5 {_only(*CHECKED)}",
        QUICK_FILE,
        partial(of_transfer, f"{BARE}, MD5 as well", CHECKED),
    ),
    "tls": part(
        "transfer",
        f"--tls {_only(*ENCRYPTED)}",
        QUICK_FILE,
        partial(of_transfer, "TLS, no MD5", ENCRYPTED),
    ),
    "swarm": part("swarm", "", "--size 8MiB --leechers 2 --rounds 1", of_swarm),
    "folder": part("folder", "", "--files 300 --rounds 1", of_folder),
    "push": part("push", "", "--nodes 200 --rounds 1", of_push),
    "push-tls": part("push", "--tls --nodes 2000", "--nodes 100 --rounds 1", of_push),
    "indexing": part("indexing", "", "--size 64MiB --files 4 --rounds 1", of_indexing),
    "listing": part("listing", "", "--files 1000 --rounds 1", of_listing),
    "memory": part("memory", "", "--size 256MiB --rounds 1", of_memory),
    "latency": part("latency", "", "--size 64MiB --rounds 1", partial(of_latency, BARE)),
    "latency-tls": part("latency", "--tls", "--size 64MiB --rounds 1", partial(of_latency, "TLS")),
    "startup": part("startup", "--tls --md5", "--rounds 1", of_startup),
    "bounds": part("bounds", "", "--size 16MiB --rounds 1", of_bounds),
    "proportion": part(
        "proportion",
        "",
        "--sizes 16MiB 64MiB --files 30 300 --nodes 10 100 --rounds 1",
        of_proportion,
    ),
    "crowd": part(
        "crowd",
        "",
        "--crowd 200 --slow 20 --size 16MiB --entries 500 --rounds 1",
        of_crowd,
    ),
}
"""In the order in which they are run."""
