"""The processes that are flow512's own go by the time that passes, however the clock is set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLUGIN = """
import sys
from importlib import import_module
from twisted.internet import reactor
from flow512.clocks import IWallClock

tap = import_module("flow512.plugins." + sys.argv[1])
options = tap.Options()
options.parseOptions(["--state", sys.argv[2]])
tap.makeService(options)
print(IWallClock.providedBy(reactor))
"""

COMMAND = """
import sys
from flow512.cli.main import run_in_process
from flow512.cli.voice import PlainVoice
from flow512.clocks import IWallClock


async def command(machine):
    print(IWallClock.providedBy(machine.reactor))


sys.exit(run_in_process(command, PlainVoice(sys.stdout, sys.stderr), verbose=False))
"""


@pytest.mark.parametrize(
    "program",
    [(PLUGIN, "node_tap"), (PLUGIN, "registry_tap"), (COMMAND,)],
    ids=["node", "registry", "command"],
)
def test_steady(program: tuple[str, ...], tmp_path: Path) -> None:
    """Each of them makes its reactor so."""
    done = subprocess.run(
        [sys.executable, "-c", *program, str(tmp_path / "state")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
