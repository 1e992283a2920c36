"""
Run all benchmarks, one after the other, and print one table of what they say.

Each runs in a process of its own, and can be run alone as well. With C{--write}, the table becomes
a part of a page. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from command import positive
from machine import describe
from parts import PARTS, Figure, Part

MARKS: Final = (".. The figures begin.\n", ".. The figures end.\n")
"""The comments of a page between which L{write} puts the table."""

HEADER: Final = ("work", "beside", "aim", "measured", "flow512", "theirs", "without its start")


def run(part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """
    Run one benchmark.

    @return: C{command}, C{seconds}, and either its C{report} or why it C{failed}.
    """
    words = [*part.words, *(part.quick if options.quick else ())]
    if options.rounds and "--rounds" not in words:
        words += ["--rounds", str(options.rounds)]
    command = [sys.executable, str(Path(__file__).with_name(f"{part.script}.py")), *words]
    shown = " ".join([f"benchmarks/{part.script}.py", *words])
    print(f"==== {shown}", file=sys.stderr, flush=True)
    began = time.monotonic()
    # It removes everything when it is asked to end; Ctrl-C reaches it as well.
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate()
        except SystemExit:
            process.terminate()
            raise
    done: dict[str, Any] = {"command": shown, "seconds": round(time.monotonic() - began, 1)}
    # Some end with status 1 if something does not hold, but tell all the same.
    if said.strip():
        return {**done, "report": json.loads(said)}
    return {**done, "failed": f"{shown} ended with status {process.returncode}"}


def read(parts: dict[str, dict[str, Any]]) -> list[Figure]:
    """Read the reports of all benchmarks that did not fail."""
    return [
        figure
        for name, done in parts.items()
        if "report" in done
        for figure in PARTS[name].figures(done["report"])
    ]


def rows(figures: list[Figure]) -> list[tuple[str, ...]]:
    """Write the lines of the table, as L{HEADER} has its columns."""
    return [
        (
            figure.work,
            figure.beside,
            _aim(figure),
            _number(figure.measured, figure.unit) + (" *" if figure.is_reached is False else ""),
            figure.ours,
            figure.theirs,
            "" if figure.alone is None else _number(figure.alone, ""),
        )
        for figure in figures
    ]


def _aim(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"at least {figure.at_least:g}"
    return "" if figure.at_most is None else f"at most {figure.at_most:g} {figure.unit}".rstrip()


def _number(value: float, unit: str) -> str:
    digits = 1 if unit in ("ms", "MiB", "KiB") else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def notes(report: dict[str, Any]) -> list[str]:
    """Say what is to be known beside the table."""
    said = ["\\* falls short of what is aimed at."]
    said += ["Small and quick: it shows that all of it works, and not how fast."] * report["quick"]
    said += [f"{name} is left out: {why}." for name, why in report["left_out"].items()]
    said += [each["failed"] + "." for each in report["parts"].values() if "failed" in each]
    return said


def show(report: dict[str, Any], figures: list[Figure]) -> None:
    """Print the table for people."""
    lines = [HEADER, *rows(figures)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADER))]
    print()
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    for note in notes(report):
        print(note.removeprefix("\\"))


def page_part(report: dict[str, Any], figures: list[Figure]) -> str:
    """Write the table, and where it is from, as reStructuredText."""
    machine = "; ".join(f"{name} {what}" for name, what in report["machine"].items())
    table = [("   " + " | ".join(row)).rstrip() for row in [HEADER, *rows(figures)]]
    return "\n".join(
        [
            f"Measured on {report['date']}. {machine[0].upper()}{machine[1:]}.",
            "",
            ".. csv-table::",
            "   :delim: |",
            "   :widths: auto",
            "   :header-rows: 1",
            "",
            *table,
            "",
            *(f"- {note}" for note in notes(report)),
            "",
        ]
    )


def write(page: Path, text: str) -> None:
    """
    Put a table between the L{MARKS} of a page.

    @raise ValueError: the page has no marks.
    """
    before, _, rest = page.read_text().partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise ValueError(f"{page} has not the two comments that the table belongs between.")
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: to see that all of it works")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="may be repeated")
    parser.add_argument("--rounds", type=positive, help="how often each is run (5; memory once)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    options = parser.parse_args(arguments)
    if options.write and (options.quick or options.only):
        parser.error("only a whole run is written")
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmarks.

    @return: the exit status: 0, or 1 if one of them failed. To fall short of an aim is no failure.
    """
    options = read_options(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    parts = {name: run(PARTS[name], options) for name in options.only or PARTS}
    figures = read(parts)
    reports = [each["report"] for each in parts.values() if "report" in each]
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe(),
        "quick": options.quick,
        "figures": [{**asdict(each), "is_reached": each.is_reached} for each in figures],
        "left_out": {name: why for each in reports for name, why in each["left_out"].items()},
        "parts": parts,
    }
    if options.write:
        write(options.write, page_part(report, figures))
    if options.json:
        print(json.dumps(report))
    else:
        show(report, figures)
    return 1 if len(reports) < len(parts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
