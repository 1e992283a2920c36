"""Importing flow512 has no effect on the process that imports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

IMPORT_EACH_FIRST = """
import importlib, pkgutil, sys
import twisted.plugins.flow512_dropin
import flow512

names = [module.name for module in pkgutil.walk_packages(flow512.__path__, "flow512.")]
for name in names:
    # Each as if it were the first, so that none leans on what another has imported.
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "flow512"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} cannot be imported first: {error!r}")
    if "twisted.internet.reactor" in sys.modules:
        sys.exit(f"importing {name} installed a reactor")
print(len(names))
"""


def test_no_reactor_installed() -> None:
    """Every module can be imported first, and none of them installs a reactor."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH_FIRST],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = [path for path in (ROOT / "flow512").rglob("*.py") if path.stem != "__init__"]
    assert int(done.stdout) >= len(modules), "walk_packages passed over a folder: no __init__.py?"
