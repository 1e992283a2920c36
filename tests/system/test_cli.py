"""C{flow512} as people run it: real processes, on 127.0.0.1 only."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flow512.units import BLOCK

LIMIT = 60
COMMAND = [sys.executable, "-m", "flow512.cli"]
BIG = Random(1).randbytes(400 * BLOCK + 5)
"""100 MiB: what is moved in a time in which a signal can arrive."""


def flow512(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


class Server:
    """C{flow512 serve --json}, started and indexed."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "share").mkdir()
        (folder / "share" / "test.txt").write_bytes(b"hello\n")
        (folder / "share" / "big.bin").write_bytes(BIG)
        serve = ["serve", "share", "--state", "state", "--json", "--bootstrap", "always"]
        serve += ["--listen", "tcp:0:interface=127.0.0.1", "--name", "alpha", *options]
        self.process = subprocess.Popen(
            [*COMMAND, *serve],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = self.event("ready")["port"]
        self.event("indexed")

    def event(self, kind: str) -> dict[str, Any]:
        """Wait for an event; those before it are dropped."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == kind:
                return told
        raise AssertionError(f"it ended before '{kind}': {self.process.communicate()}")

    def stop(self) -> tuple[int, str]:
        """End it as a terminal does; its exit status, and what it complained of."""
        self.process.send_signal(signal.SIGINT)
        try:
            _, err = self.process.communicate(timeout=LIMIT)
        finally:
            self.process.kill()
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that all tests of this module fetch from; it has to stop cleanly in the end."""
    started = Server(tmp_path_factory.mktemp("server"), "--no-beacon")
    try:
        yield started
    finally:
        assert started.stop() == (0, "")


def get(server: Server, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Fetch from the server by its address."""
    return flow512("get", *arguments, "--from", f"127.0.0.1:{server.port}", cwd=cwd)


def test_round_trip(server: Server, tmp_path: Path) -> None:
    """A file arrives under its own name where the user is, in the seed's words."""
    done = get(server, "big.bin", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "File 'big.bin' downloaded successfully.",
        "[+] Hash verification successful. The file is intact.",
    ]
    assert (tmp_path / "big.bin").read_bytes() == BIG
    assert [path.name for path in tmp_path.iterdir()] == ["big.bin"]


def test_by_content_id(server: Server, tmp_path: Path) -> None:
    """What C{id} prints for one copy is what C{get} fetches another by."""
    (tmp_path / "copy").write_bytes(b"hello\n")
    printed = flow512("id", "copy", cwd=tmp_path).stdout.split()
    assert printed[1:] == [hashlib.md5(b"hello\n").hexdigest(), "copy"]
    done = get(server, printed[0], "-o", "new.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    """A signal keeps what is there and says how to go on; nothing of it travels again."""
    command = ["get", "big.bin", "--from", f"127.0.0.1:{server.port}", "--json", "--run", "8"]
    process = subprocess.Popen(
        [*COMMAND, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stored", 0) > 0:
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "run the same command again to go on." in err
    assert "Traceback" not in err
    assert not (tmp_path / "big.bin").exists()
    done = flow512(*command, cwd=tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["event"] == "done"
    assert told["resumed"] > 0
    assert told["resumed"] + told["fetched"] == len(BIG)
    assert (tmp_path / "big.bin").read_bytes() == BIG


def failing(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Run a command that fails: its exit status and its one sentence."""
    failed = flow512(*arguments, cwd=cwd)
    [sentence] = failed.stderr.splitlines()
    assert sentence.startswith("flow512: ")
    return failed.returncode, sentence


def test_failures(server: Server, tmp_path: Path) -> None:
    """Each has its exit status and one sentence that says what to do."""
    peer = ("--from", f"127.0.0.1:{server.port}")
    status, said = failing("get", "nope.txt", *peer, cwd=tmp_path)
    assert (status, "'nope.txt'" in said) == (3, True)
    (tmp_path / "test.txt").write_bytes(b"mine")
    status, said = failing("get", "test.txt", *peer, cwd=tmp_path)
    assert (status, "--replace" in said) == (4, True)
    assert (tmp_path / "test.txt").read_bytes() == b"mine"
    status, said = failing("get", "test.txt", "--from", "127.0.0.1:1", cwd=tmp_path)
    assert (status, "is a node running there?" in said) == (5, True)
    registry = ("--no-beacon", "--registry", f"127.0.0.1:{server.port}", "--wait", "0.5")
    status, said = failing("get", "x", "--from", "no such peer", *registry, cwd=tmp_path)
    assert (status, "No peer called 'no such peer'" in said) == (3, True)
    listen = ("--listen", f"tcp:{server.port}:interface=127.0.0.1", "--no-beacon")
    (tmp_path / "mine").mkdir()
    status, said = failing("serve", "mine", "--state", "state", *listen, cwd=tmp_path)
    assert (status, "--listen" in said) == (1, True)
    status, said = failing("serve", "nowhere", "--state", "state", "--no-beacon", cwd=tmp_path)
    assert (status, "There is no folder 'nowhere'" in said) == (2, True)
    assert failing("get", cwd=tmp_path)[0] == 2


def test_looking_around(server: Server, tmp_path: Path) -> None:
    """Peers and their files, by way of the registry that the server carries."""
    registry = ("--no-beacon", "--registry", f"127.0.0.1:{server.port}")
    [row] = flow512("peers", *registry, cwd=tmp_path).stdout.splitlines()
    name, address, _, known_by = row.split("\t")
    assert (name, address, known_by) == ("alpha", f"127.0.0.1:{server.port}", "registry")
    rows = flow512("ls", *registry, cwd=tmp_path).stdout.splitlines()
    assert [row.split("\t")[:3] for row in rows] == [
        ["alpha", "big.bin", str(len(BIG))],
        ["alpha", "test.txt", "6"],
    ]
    told = json.loads(
        flow512("ls", "alpha", "--json", *registry, cwd=tmp_path).stdout.split("\n")[1]
    )
    assert (told["path"], told["md5"]) == ("test.txt", hashlib.md5(b"hello\n").hexdigest())


def test_words_of_serve(tmp_path: Path) -> None:
    """A person who serves reads the seed's words; Ctrl-C is how it ends, so exit status 0."""
    (tmp_path / "share").mkdir()
    listen = ["--listen", "tcp:0:interface=127.0.0.1", "--no-beacon", "--state", "state"]
    process = subprocess.Popen(
        [*COMMAND, "serve", "share", *listen], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    lines = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Waiting for peers"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    words = "\n".join(lines)
    for said in (
        "Server running on port ",
        "File-sharing node running at IP: 127.0.0.1, Port: ",
        "No bootstrap node found, starting as bootstrap.",
        "Bootstrap node started on port ",
        "No peers available yet, this is the first node in the network.",
        "Bootstrap node running at IP: 127.0.0.1, Port: ",
        "Waiting for peers to connect...",
    ):
        assert said in words


def test_reader_gone(server: Server, tmp_path: Path) -> None:
    """A pipe that is closed early is no reason for a traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "ls", f"127.0.0.1:{server.port}"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def loaded_by(arguments: list[str], folder: Path) -> set[str]:
    """Run a command in a process; its modules at the end, and packages of these."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    *_, modules = done.stderr.splitlines()
    assert modules.startswith("['"), done.stderr
    return set(ast.literal_eval(modules))


LOOK = """
import atexit, sys
from flow512.cli.main import main
atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))
main()
"""


def test_light_commands(tmp_path: Path) -> None:
    """Help and C{id} load neither Twisted nor rich."""
    (tmp_path / "file").write_bytes(b"")
    for arguments in (["--help"], ["id", "file"], ["get", "--help"], ["get"]):
        loaded = loaded_by(arguments, tmp_path)
        assert not loaded & {"twisted", "rich", "cryptography", "asyncio", "sqlite3"}, arguments


def test_light_fetching(tmp_path: Path) -> None:
    """C{get} from a peer that the user names loads nothing of what others need for it."""
    bare = Server(tmp_path, "--no-beacon", "--plaintext")
    try:
        loaded = loaded_by(
            ["get", "test.txt", "--from", f"127.0.0.1:{bare.port}", "--plaintext"], tmp_path
        )
    finally:
        assert bare.stop() == (0, "")
    assert (tmp_path / "test.txt").read_bytes() == b"hello\n"
    assert "flow512.transfer.source" in loaded
    for heavy in UNUSED:
        assert heavy not in loaded, heavy


UNUSED = (
    "OpenSSL",
    "automat",
    "cryptography.x509",
    "flow512.link.tls",
    "http.client",
    "hyperlink",
    "ifaddr",
    "rich",
    "segno",
    "service_identity",
    "treq",
    "twisted.web",
)
"""What is for TLS, the web, registries, terminals, and beacons."""
