"""C{flow512 console} as people run it: by a pipe and on a terminal, on 127.0.0.1 only."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 60.0
COMMAND = [sys.executable, "-m", "flow512.cli"]
LOCAL = ["--no-beacon", "--listen", "tcp:0:interface=127.0.0.1"]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A bootstrap node with one file; the TCP port that it serves at."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "test.txt").write_bytes(b"hello\n")
    process = subprocess.Popen(
        [*COMMAND, "serve", "share", "--state", "served", *LOCAL],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"port (\d+)", process.stdout.readline())
        assert found is not None
        yield int(found[1])
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT)


def console(port: int) -> list[str]:
    """The command: no registry to be led, so that nothing but the dialogue is said."""
    return [*COMMAND, "console", "mine", "--state", "state", "--bootstrap", "never", *LOCAL]


def test_pipe(port: int, tmp_path: Path) -> None:
    """Answers that come by a pipe give the seed's transcript, line for line."""
    (tmp_path / "mine").mkdir()
    peer = f"127.0.0.1:{port}"
    typed = ["d", peer, "test.txt", "d", peer, "nope.txt", "q"]
    done = subprocess.run(
        console(port),
        input="".join(f"{line}\n" for line in typed),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"Server running on port \d+", lines[0])
    assert re.fullmatch(r"File-sharing node running at IP: 127\.0\.0\.1, Port: \d+", lines[1])
    assert lines[2:] == [
        "Enter 'd' to download a file or 'q' to quit:",
        "d",
        f"Enter the IP of the peer to download from: {peer}",
        "Enter the filename to download: test.txt",
        "File 'test.txt' downloaded successfully.",
        "[+] Hash verification successful. The file is intact.",
        "Enter 'd' to download a file or 'q' to quit:",
        "d",
        f"Enter the IP of the peer to download from: {peer}",
        "Enter the filename to download: nope.txt",
        f"[-] File 'nope.txt' not found on {peer}.",
        "Enter 'd' to download a file or 'q' to quit:",
        "q",
    ]
    assert (tmp_path / "mine" / "test.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("given", [subprocess.DEVNULL, None])
def test_end_of_input(port: int, tmp_path: Path, given: int | None) -> None:
    """The end of the input quits, also where it is a file and no pipe."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "typed").write_text("d\n", encoding="utf-8")
    with (tmp_path / "typed").open("rb") as typed:
        done = subprocess.run(
            console(port),
            stdin=typed if given is None else given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Enter 'd'" if given is not None else "Enter the IP of the peer"), last


class Typist:
    """A person at a terminal of their own."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.theirs = theirs
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        self.seen = ""
        self.at = 0

    def read_until(self, words: str) -> None:
        """Look at the screen until the words are there, after those that were seen before."""
        end = time.monotonic() + LIMIT
        while words not in self.seen[self.at :]:
            ready, _, _ = select.select([self.ours], [], [], end - time.monotonic())
            assert ready, f"never saw {words!r} in:\n{self.seen}"
            self.seen += os.read(self.ours, 4096).decode()
        self.at = self.seen.index(words, self.at) + len(words)

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self.ours, f"{line}\n".encode())

    def close(self) -> None:
        """Go away."""
        self.process.kill()
        self.process.wait(LIMIT)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def typist(port: int, tmp_path: Path) -> Iterator[Typist]:
    """One whose console has just started."""
    (tmp_path / "mine").mkdir()
    started = Typist(console(port), tmp_path)
    try:
        yield started
    finally:
        started.close()


def test_terminal(port: int, typist: Typist, tmp_path: Path) -> None:
    """On a terminal the dialogue is the same, nothing is shown twice, and it is left as it was."""
    typist.read_until("Enter 'd' to download a file or 'q' to quit:")
    typist.type("d")
    typist.read_until("Enter the IP of the peer to download from: ")
    typist.type(f"127.0.0.1:{port}")
    typist.read_until("Enter the filename to download: ")
    typist.type("test.txt")
    typist.read_until("[+] Hash verification successful. The file is intact.")
    typist.read_until("Enter 'd' to download a file or 'q' to quit:")
    typist.type("q")
    assert typist.process.wait(LIMIT) == 0
    assert typist.seen.count("test.txt") == 2  # typed, and downloaded
    assert (tmp_path / "mine" / "test.txt").read_bytes() == b"hello\n"
    assert os.get_blocking(typist.theirs)


def test_ctrl_c(typist: Typist) -> None:
    """Ctrl-C ends it cleanly."""
    typist.read_until("Enter 'd' to download a file or 'q' to quit:")
    typist.process.send_signal(signal.SIGINT)
    assert typist.process.wait(LIMIT) == 130
    typist.read_until("flow512: Stopped.")
    assert "Traceback" not in typist.seen
