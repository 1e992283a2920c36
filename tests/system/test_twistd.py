"""The plugins as twistd runs them in the background, on 127.0.0.1 only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 60


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Start a daemon, and wait until it is one or cannot be."""
    twistd = Path(sys.executable).with_name("twistd")
    return subprocess.run(
        [str(twistd), "--logfile=log", "--pidfile=pid", *arguments, "--no-beacon"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_daemon_that_cannot_start(tmp_path: Path) -> None:
    """
    Whoever starts a daemon at a port that is taken is told why at once, with exit status 1, and
    the log says it as well.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listen = f"--listen=tcp:{port}:interface=127.0.0.1"
        ended = start("flow512-registry", listen, cwd=tmp_path)
    assert ended.returncode == 1
    sentence, *others = ended.stderr.splitlines()
    assert sentence.startswith("twistd flow512-registry: Nothing can listen on")
    assert sentence.endswith("choose another with --listen, such as --listen tcp:5001.")
    assert "The reason is above." in others[0]
    assert "Nothing can listen on" in (tmp_path / "log").read_text()


def test_daemon(tmp_path: Path) -> None:
    """A daemon that can start does, and ends in peace when it is told to."""
    listen = "--listen=tcp:0:interface=127.0.0.1"
    started = start("flow512-node", listen, "--state=state", cwd=tmp_path)
    assert started.returncode == 0, started.stdout + started.stderr
    log = tmp_path / "log"
    end = time.monotonic() + LIMIT
    while not (tmp_path / "pid").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process = int((tmp_path / "pid").read_text())
    os.kill(process, signal.SIGTERM)
    while (tmp_path / "pid").exists() and time.monotonic() < end:
        time.sleep(0.05)
    said = log.read_text()
    assert "Bootstrap node started on port" in said
    assert "Server Shut Down" in said
