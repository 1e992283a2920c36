"""C{flow512 demo}: what a newcomer watches, with real processes on 127.0.0.1 only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

LIMIT = 100
COMMAND = [sys.executable, "-m", "flow512.cli", "demo"]


def is_running(folder: Path) -> bool:
    """Tell whether a process works in a folder, or one that was there."""
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(entry.readlink()).startswith(str(folder)):
                return True
        except OSError:
            pass
    return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its temporary folder; nothing of it may be left there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def assert_clean(folder: Path) -> None:
    """Nothing is left, neither files nor processes."""
    assert list(folder.iterdir()) == []
    assert not is_running(folder)


def test_demo(folder: Path) -> None:
    """Three processes start, find each other, move 64 MiB and verify it, and end."""
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=LIMIT, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for words in (
        "$ twistd -n flow512-registry",
        "registry | Waiting for peers to connect...",
        "   first | Server running on port",
        "  second | Registering with the registry at 127.0.0.1:",
        "   first | Request for file: 'big.bin'",
        "100 % of 64.0 MiB",
        "File 'big.bin' downloaded successfully.",
        "[+] Hash verification successful. The file is intact.",
        "  second | Request for file: 'small.bin'",
        "File 'small.bin' downloaded successfully.",
    ):
        assert words in done.stdout, done.stdout
    sums = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("md5 ")]
    assert len(sums) == 4
    assert len(set(sums)) == 2
    assert done.stdout.splitlines()[-1].startswith("Verified: 64.0 MiB")
    assert "eth" not in done.stdout
    assert_clean(folder)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start it, and read until its first node runs."""
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("   first | File-sharing node running"):
            return process
    raise AssertionError(process.communicate())


def test_ctrl_c(folder: Path) -> None:
    """Ctrl-C in the middle, which a terminal sends to all of them, leaves nothing behind."""
    process = start(folder)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (130, "flow512: Stopped.\n")
    assert_clean(folder)


def test_terminal_closed(folder: Path) -> None:
    """Nor does a terminal that is closed in the middle."""
    process = start(folder)
    assert process.stdout is not None
    process.stdout.close()
    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (130, "flow512: Stopped.\n")
    assert_clean(folder)


def test_a_process_dies(folder: Path) -> None:
    """When one of the three dies, it is named, and the others are ended."""
    process = start(folder)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "The process 'registry' died of signal 9; it said: " in err
    assert_clean(folder)
