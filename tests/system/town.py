"""
A closed network of real processes on 127.0.0.1: a registry of C{twistd}, a node that is listed
there, and the state folders of a member who is at home and of one who was banned.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Final

from flow512.link.identity import Identity, read_identity
from flow512.link.join_link import parse_join_link
from flow512.link.node_id import format_node_id
from flow512.wire.membership import NetworkKey
from tests.system.ends import LIMIT, End, TlsEnd, own_tls

CLI: Final = [sys.executable, "-m", "flow512.cli"]
TWISTD: Final = [
    str(Path(sys.executable).with_name("twistd")),
    "--nodaemon",
    "--logfile=-",
    "--pidfile=",
]
LISTEN: Final = "tcp:0:interface=127.0.0.1"

FILE: Final = "secret-plans.txt"
CONTENT: Final = "the plans themselves"
NAME: Final = "hidden-node"
NETWORK: Final = "hidden-network"


def flow512(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*CLI, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


class Process:
    """A process that runs until it is stopped; what it says is kept."""

    def __init__(self, command: list[str], cwd: Path, name: str) -> None:
        self._log = cwd / f"{name}.err"
        self.said = ""
        with self._log.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=cwd, stdout=subprocess.PIPE, stderr=err, text=True
            )

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until a line that matches."""
        assert self._process.stdout is not None
        watchdog = Timer(LIMIT, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                self.said += line
                if match := re.search(pattern, line):
                    return match
        finally:
            watchdog.cancel()
        raise AssertionError(f"it ended too early: {self.said}{self._log.read_text()}")

    def stop(self) -> str:
        """End it in peace; all that it said."""
        self._process.send_signal(signal.SIGINT)
        try:
            rest, _ = self._process.communicate(timeout=LIMIT)
        finally:
            self._process.kill()
        # twistd ends by the signal itself, after all else.
        assert self._process.returncode in (0, -signal.SIGINT)
        return self.said + rest + self._log.read_text()


@dataclass(frozen=True)
class Door:
    """A port of the closed network, and the conversation that is had there."""

    port: int
    conversation: str


@dataclass(frozen=True)
class Town:
    """
    A closed network: a registry, a node that is listed there, and a member who is at home.

    @ivar member: whose state folder is C{member}.
    @ivar banned: a member by his key, whom both have banned.
    @ivar secrets: what no stranger may ever hear.
    """

    folder: Path
    key: NetworkKey
    member: Identity
    banned: Identity
    options: tuple[str, ...]
    doors: dict[str, Door]
    secrets: tuple[bytes, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it does without TLS."""
        return bool(self.options)

    def connect(self, port: int, identity: Identity) -> End:
        """Connect as nodes of this network do."""
        return End.to(port) if self.is_plain else TlsEnd.connect(port, own_tls(identity))

    def type(self, *arguments: str, state: str = "member") -> subprocess.CompletedProcess[str]:
        """Type a command, as the member unless told otherwise."""
        return flow512(*arguments, "--state", state, *self.options, cwd=self.folder)

    def assert_nothing(self, end: End) -> None:
        """What somebody heard tells nothing of the network, neither as it came nor deciphered."""
        for secret in self.secrets:
            assert secret not in end.heard
            assert secret not in end.wire


def found(folder: Path, *, plain: bool) -> Iterator[Town]:
    """Found a closed network, and end it; its processes must have taken no harm."""
    (folder / "share").mkdir()
    (folder / "share" / FILE).write_text(CONTENT)
    link = flow512("invite", "--state", "node", "--name", NETWORK, cwd=folder).stdout
    key_file = folder / "key"
    key_file.touch(0o600)
    key_file.write_text(link)
    for state in ("registry", "member", "banned"):
        assert flow512("join", "-", "--state", state, cwd=folder, stdin=link).returncode == 0
    node, member, banned = (
        read_identity(str(folder / state)) for state in ("node", "member", "banned")
    )
    for state in ("registry", "node"):
        ban = flow512("ban", format_node_id(banned.node), "--state", state, cwd=folder)
        assert ban.returncode == 0
    options = ("--plaintext", "--network-key-file", "key") if plain else ()
    both = ["--listen", LISTEN, "--no-beacon", "--limit", "handshake=1", *options]
    registry = Process([*TWISTD, "flow512-registry", "--state=registry", *both], folder, "registry")
    port = int(registry.wait_for(r"running at IP: 127\.0\.0\.1, Port: (\d+)")[1])
    serve = ["serve", "share", "--state", "node", "--bootstrap", "never", "--name", NAME, "--json"]
    serve += ["--registry", f"127.0.0.1:{port}"]
    sharing = Process([*CLI, *serve, *both], folder, "node")
    doors = {
        "node": Door(int(json.loads(sharing.wait_for("ready").string)["port"]), "transfer"),
        "registry": Door(port, "registry"),
    }
    # A conversation that nobody offers at that port: not even that is told.
    doors["nothing"] = Door(doors["node"].port, "registry")
    sharing.wait_for("indexed")
    yield Town(
        folder,
        NetworkKey(parse_join_link(link).key),
        member,
        banned,
        options,
        doors,
        # Without TLS, a challenge has to name the node that it comes from.
        (*map(str.encode, (FILE, NAME, NETWORK, CONTENT)), *([] if plain else [node.node])),
    )
    shut_down = registry.stop()
    assert "Server Shut Down" in shut_down
    said = sharing.stop() + shut_down
    assert "Traceback" not in said
    assert "Unhandled" not in said
    key = re.search(r"key=(\w+)", link)
    assert key is not None
    assert key[1] not in said
