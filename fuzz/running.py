"""
Coverage-guided fuzzing of what reads bytes from strangers or from a disk.

Every other file here is one target, and its docstring says what it holds to be true of any
input at all::

    python fuzz/frames.py                   until it is interrupted
    python fuzz/frames.py -runs=5000000     so many inputs
    python fuzz/frames.py FILE              this input only, to look into a finding
    make fuzz                               every target, a minute each

The options are libFuzzer's (U{https://llvm.org/docs/LibFuzzer.html}); what a target gives them
unless told otherwise is in L{run}. A run fails, with the input in a file beside the target, when an
exception or a broken promise gets out, when one input takes more than a second, or when the
process has grown by more than L{GROWTH} bytes since the first tenth of its runs.

C{corpus/} has a few inputs for each target to begin with. They are read and never written to, so
they stay few: add one by hand when a target does not get somewhere by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

GROWTH: Final = 64 * 2**20
"""Bytes by which a run may grow, the inputs that libFuzzer collects included."""

WARM_UP: Final = 50_000
"""Inputs after which growth is measured where the number of runs is not known beforehand."""

LOOK: Final = 10_000
"""Inputs between two looks at the memory."""

_HERE: Final = Path(__file__).resolve().parent
_STATM: Final = Path("/proc/self/statm")


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Growth:
    """The target, and an eye on the memory of the process."""

    def __init__(self, target: Callable[[bytes], None], runs: int) -> None:
        self._target = target
        self._runs = runs
        self._begin = runs // 10 or WARM_UP
        self._count = 0
        self._before = 0

    def __call__(self, data: bytes) -> None:
        self._target(data)
        self._count += 1
        if self._count == self._begin:
            self._before = _resident()
        elif self._before and (self._count % LOOK == 0 or self._count == self._runs):
            grown = _resident() - self._before
            if grown > GROWTH:
                raise MemoryError(f"The process grew by {grown} bytes.")
            if self._count == self._runs:
                sys.stderr.write(f"grown by {grown / 2**20:.1f} MiB since the first tenth\n")


def samples(name: str) -> list[bytes]:
    """
    Read the corpus of a target.
    """
    return [path.read_bytes() for path in sorted((_HERE / "corpus" / name).iterdir())]


def run(
    name: str,
    target: Callable[[bytes], None],
    max_len: int,
    mutator: Callable[[bytes, int, int], bytes] | None = None,
) -> None:
    """
    Fuzz, as the command line says.

    @param name: of the target, and of its folder in the corpus.
    @param target: takes an input; raises if anything is not as it has to be.
    @param max_len: bytes; no input is longer.
    @param mutator: makes an input from another, instead of libFuzzer.
    """
    given = {argument.partition("=")[0]: argument.partition("=")[2] for argument in sys.argv[1:]}
    options = {
        "-max_len": str(max_len),
        "-timeout": "1",
        "-rss_limit_mb": "512",
        "-artifact_prefix": f"{_HERE}/{name}-",
        "-print_final_stats": "1",
    }
    if all(argument.startswith("-") for argument in given):
        seeds = sorted(map(str, (_HERE / "corpus" / name).iterdir()))
        options["-seed_inputs"] = ",".join(seeds)
    if (dictionary := _HERE / f"{name}.dict").exists():
        options["-dict"] = str(dictionary)
    runs = int(given.get("-runs", "-1"))
    arguments = [f"{option}={value}" for option, value in options.items() if option not in given]
    keywords = {} if mutator is None else {"custom_mutator": mutator}
    watched = _Growth(target, max(runs, 0))
    atheris.Setup([sys.argv[0], *arguments, *sys.argv[1:]], watched, **keywords)
    atheris.Fuzz()
