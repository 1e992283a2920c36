"""
What the command lines of the benchmarks have in common.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from bench import Bench, Failed, Missing

_T = TypeVar("_T")

Note: TypeAlias = Callable[[str], None]
"""Is told what goes on."""

UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


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


def common_options(about: str | None, *, timeout: int) -> argparse.ArgumentParser:
    """
    Make the parser of what every benchmark can be told.

    @param about: the benchmark's own docstring.
    @param timeout: what is usual, in seconds.
    """
    parser = argparse.ArgumentParser(description=(about or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=5, help="how often each is run (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", default="/dev/shm", help="a tmpfs (/dev/shm)")
    parser.add_argument(
        "--timeout", type=positive, default=timeout, help=f"seconds for one command ({timeout})"
    )
    return parser


def add_manner(parser: argparse.ArgumentParser, *, tls: str = "flow512 encrypted") -> None:
    """
    Add how flow512 is to fetch.

    @param tls: what C{--tls} means.
    """
    parser.add_argument("--tls", action="store_true", help=tls)
    parser.add_argument("--run", type=positive, help="pieces per frame, as in flow512 get")
    parser.add_argument(
        "--md5",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="whether flow512 checks the whole file's MD5 too; the others have no such check",
    )


def manner(options: argparse.Namespace) -> dict[str, Any]:
    """Give what L{add_manner} has added, for the report."""
    return {"rounds": options.rounds, "tls": options.tls, "md5": options.md5, "run": options.run}


def entered(
    stack: contextlib.ExitStack,
    bench: Bench,
    chosen: Mapping[str, Callable[[Bench], AbstractContextManager[_T]]],
    note: Note,
) -> list[_T]:
    """
    Start the servers of all movers that are to be compared and can take part.
    """
    there: list[_T] = []
    for name, start in chosen.items():
        try:
            there.append(stack.enter_context(start(bench)))
        except Missing as error:
            leave_out(bench, note, name, error)
    return there


def leave_out(bench: Bench, note: Note, name: str, error: Missing) -> None:
    """Say that one cannot take part, and remember it for the report."""
    bench.left_out[name] = str(error)
    note(f"{name} is left out: {error}")


def in_turn(each: list[_T], rounds: int) -> Iterator[tuple[int, list[_T]]]:
    """
    Give the number of each round, from 1, and in which order they go.
    """
    for number in range(rounds):
        # Whoever goes first in a round is another one each time.
        first = number % max(1, len(each))
        yield number + 1, each[first:] + each[:first]


def perform(
    options: argparse.Namespace,
    copies: float,
    measure: Callable[[Bench, Note], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> int:
    """
    Run a benchmark in a folder of its own, which is gone at the end.

    @param copies: how many files of the size in the options there are at a time.
    @param measure: gives what C{--json} prints. If it has C{ok}, that decides about the status.
    @param show: prints it for people.
    @return: the exit status: 0, 1 if something failed or does not hold, 130 after Ctrl-C.
    """
    # So that an orderly end, which removes everything, is what a request to end leads to.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        needed = int(copies * options.size) + 2**26
        if shutil.disk_usage(options.folder).free < needed:
            raise Failed(f"{options.folder} has no room for {needed:,} bytes.")
        with tempfile.TemporaryDirectory(prefix="flow512-bench-", dir=options.folder) as scratch:
            bench = Bench(Path(scratch), options)
            bench.shared.mkdir()
            (bench.scratch / "home").mkdir()
            report = measure(bench, note) | {"left_out": bench.left_out}
    except (Failed, Missing, OSError) as error:
        note(str(error))
        return 1
    except KeyboardInterrupt:
        note("Interrupted; everything was removed.")
        return 130
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return 0 if report.get("ok", True) else 1
