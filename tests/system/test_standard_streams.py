"""C{flow512} with standard streams that are closed or full, and signals that come early."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

LIMIT = 60
COMMAND = [sys.executable, "-m", "flow512.cli"]
LOCAL = ["--no-beacon", "--listen", "tcp:0:interface=127.0.0.1"]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a node that shares a file that a pipe holds, and one that none does."""
    folder = tmp_path_factory.mktemp("peer")
    (folder / "share").mkdir()
    (folder / "share" / "test.txt").write_bytes(b"hello\n")
    (folder / "share" / "long.txt").write_bytes(b"hello\n" * 1_000_000)
    process = subprocess.Popen(
        [*COMMAND, "serve", "share", "--state", "state", "--bootstrap", "never", *LOCAL],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"port (\d+)", process.stdout.readline())
        assert found is not None
        yield f"127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT)


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a line, in which C{flow512} is the command, to a shell."""
    typed = line.replace("flow512", shlex.join(COMMAND), 1)
    return subprocess.run(
        ["/bin/sh", "-c", typed],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_closed(peer: str, tmp_path: Path) -> None:
    """A stream that is closed is one that nobody looks at; the command does what it is to do."""
    for line in (
        f"flow512 cat test.txt --from {peer} >&-",
        f"flow512 ls {peer} >&-",
        f"flow512 get test.txt --from {peer} -o one >&-",
        f"flow512 get test.txt --from {peer} -o two 2>&-",
        f"flow512 get test.txt --from {peer} -o three <&- >&- 2>&-",
    ):
        done = shell(line, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), line
    for name in ("one", "two", "three"):
        assert (tmp_path / name).read_bytes() == b"hello\n"


def test_full(peer: str, tmp_path: Path) -> None:
    """A disk that is full is one sentence, and exit status 1."""
    for line in (
        f"flow512 ls {peer} > /dev/full",
        f"flow512 cat test.txt --from {peer} > /dev/full",
        "flow512 whoami --state state > /dev/full",
        "flow512 demo > /dev/full",
        f"mkdir mine; flow512 console mine --state state {shlex.join(LOCAL)} > /dev/full",
    ):
        done = shell(line, tmp_path)
        assert done.returncode == 1, line
        assert re.fullmatch(r"flow512: [^\n]*standard output[^\n]*\n", done.stderr, re.I), line
    done = shell(f"flow512 get test.txt --from {peer} -o it > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "File 'it' downloaded successfully." in done.stderr
    assert (tmp_path / "it").read_bytes() == b"hello\n"
    assert shell(f"flow512 ls {peer} > /dev/full 2>&1", tmp_path).returncode == 1


def test_nobody_reads(peer: str, tmp_path: Path) -> None:
    """What C{head} has seen enough of ends without a word; the exit status tells."""
    line = f"(flow512 cat long.txt --from {peer}; echo $? >&2) | head -c 5"
    done = shell(line, tmp_path)
    assert (done.stdout, done.stderr) == ("hello", "1\n")


def test_interrupted_while_nobody_reads(peer: str, tmp_path: Path) -> None:
    """Ctrl-C ends it though its reader takes nothing more, and says how far it was."""
    process = subprocess.Popen(
        [*COMMAND, "cat", "long.txt", "--from", peer],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 5) == b"hello"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (130, f"flow512: Stopped after {5 + len(out)} bytes.\n")


def test_serve_on_a_full_disk(tmp_path: Path) -> None:
    """Who serves goes on; the words are on standard error, and at the end it has not done well."""
    (tmp_path / "mine").mkdir()
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [*COMMAND, "serve", "mine", "--state", "state", "--bootstrap", "never", *LOCAL],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = []
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if line.startswith("Sharing"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 1
    assert "standard output" in said[0]
    assert "Traceback" not in "".join(said)


IMPORTING = """
import os, signal, sys
number = int(sys.argv[1])
class Here:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Here())
sys.argv[1:] = ["get", "x"]
from flow512.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_it_loads(tmp_path: Path, number: signal.Signals) -> None:
    """A signal that comes while the command is being loaded is one sentence as well."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, str(int(number))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "flow512: Stopped.\n")


def test_terminal_after_a_prompt(tmp_path: Path) -> None:
    """Ctrl-C at a prompt that shows nothing leaves a terminal that shows what is typed."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [*COMMAND, "join", "--state", "state"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    seen = b""
    while b"not shown):" not in seen:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)


LEAVING = """
import atexit, sys, threading
atexit.register(print, "told of the end")
sys.argv[1:] = ["--version"]
from flow512.cli.main import main
if {waits}:
    begun = threading.main_thread()
    threading.Thread(target=lambda: (begun.join(), print("done as well"))).start()
main()
"""


@pytest.mark.parametrize("waits", [False, True])
def test_leaving(tmp_path: Path, waits: bool) -> None:
    """A process that leaves at once tells who asked for it, says all, and waits for its threads."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING.format(waits=waits)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    said = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert said[0].startswith("flow512 ")
    assert set(said[1:]) == {"told of the end"} | ({"done as well"} if waits else set())


def seen_at(columns: int, *arguments: str) -> list[str]:
    """Type a command at a terminal that is so wide."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sizes = ("COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in sizes}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=its, env=environment)
    os.close(its)
    seen = b""
    with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # it is gone at the end
        while more := terminal.read(65536):
            seen += more
    assert process.wait(LIMIT) == 0
    return seen.decode().splitlines()


def test_width(tmp_path: Path) -> None:
    """Help is as wide as the terminal, up to 100 columns, and a QR code is seen if it fits."""
    for columns, least in ((40, 36), (80, 74), (120, 94)):
        lines = seen_at(columns, "get", "--help")
        assert least <= max(map(len, lines)) <= min(columns, 100)
    for columns in (30, 120):
        lines = seen_at(columns, "whoami", "--state", str(tmp_path / "state"))
        assert any("\N{FULL BLOCK}" in line for line in lines) == (columns == 120)
