"""
Where the figures are from: the machine, and the versions of all that is measured.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "flow512",
    "twisted",
    "blake3",
    "msgspec",
    "cryptography",
    "libtorrent",
    "magic-wormhole",
)

PROGRAMS: Final = {
    "curl": ("curl", "--version"),
    "nginx": ("nginx", "-v"),
    "rsync": ("rsync", "--version"),
    "OpenSSH": ("ssh", "-V"),
    "Redis": ("redis-server", "--version"),
}

_VERSION: Final = re.compile(r"\d+(?:\.\d+)+\w*")
_SECONDS: Final = 10.0


def describe() -> dict[str, str]:
    """
    Say what there is, under titles for people; what is missing is left out.
    """
    named = _field("/proc/cpuinfo", "model name")
    memory = _field("/proc/meminfo", "MemTotal").removesuffix(" kB")
    return {
        "processors": f"{len(os.sched_getaffinity(0))}" + (f", {named}" if named else ""),
        **({"memory": f"{int(memory) / 2**20:.0f} GiB"} if memory else {}),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **_packages(),
        **_programs(),
    }


def _field(path: str, name: str) -> str:
    with suppress(OSError):
        found = re.search(rf"^{name}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
        return found[1].strip() if found else ""
    return ""


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _programs() -> dict[str, str]:
    found = {}
    for name, (program, ask) in PROGRAMS.items():
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
        if path is None:
            continue
        with suppress(OSError, subprocess.SubprocessError):
            # Some say it on one side, some on the other.
            asked = subprocess.run(
                [path, ask], capture_output=True, text=True, timeout=_SECONDS, check=True
            )
            if number := _VERSION.search(asked.stdout + asked.stderr):
                found[name] = number[0]
    return found
