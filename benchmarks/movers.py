"""
The ways to move a file that are measured: each starts its server, and says how to fetch from it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bench import (
    NAME,
    START_SECONDS,
    STOP_SECONDS,
    Bench,
    Failed,
    Missing,
    Mover,
    free_port,
)

INDEX_SECONDS: Final = 300.0

Fetch: TypeAlias = Callable[[Path], AbstractContextManager[list[str]]]
"""Prepares one transfer into a target, and gives the command that fetches."""


def find(program: str, how: str) -> str:
    """
    Find a program; Debian keeps servers where users' paths do not lead.

    @param how: what installs it.
    @raise Missing: it is not there.
    """
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"it is not installed: {how}")
    return found


def find_beside_python(program: str, how: str) -> str:
    """
    Find a program of the environment that this runs in, or else anywhere.

    @raise Missing: it is not there.
    """
    return shutil.which(program, path=str(Path(sys.executable).parent)) or find(program, how)


def always(
    make: Callable[[Path], list[str]],
) -> Callable[[Path], AbstractContextManager[list[str]]]:
    """Fetch by a command that needs nothing to be prepared."""
    return lambda target: contextlib.nullcontext(make(target))


@dataclass(frozen=True)
class Node:
    """
    A node of flow512 that serves what is shared; all of it is indexed.

    @ivar place: its address and port.
    @ivar security: what every command needs that is to reach it.
    @ivar manner: how it is fetched from, as options of C{flow512 get}.
    """

    program: str
    process: subprocess.Popen[bytes]
    place: str
    security: list[str]
    manner: list[str]

    def get(self, wanted: str, *words: str) -> list[str]:
        """Make the command that fetches."""
        words = (*words, "--no-beacon", "--json", *self.security, *self.manner)
        return [self.program, "get", wanted, *words]

    def ls(self, *words: str) -> list[str]:
        """Make the command that lists."""
        return [self.program, "ls", self.place, *words, "--no-beacon", "--json", *self.security]


@contextlib.contextmanager
def node(bench: Bench, bootstrap: str) -> Iterator[Node]:
    """
    Run a node, and wait until it is at rest.

    @param bootstrap: whether it carries the registry, as C{flow512 serve} reads it.
    """
    try:
        program = find_beside_python("flow512", "make bench")
    except Missing:
        raise Failed(
            "There is no flow512 here; `make bench` installs it, or leave it out by --only."
        ) from None
    options = bench.options
    both = [] if options.tls else ["--plaintext"]
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1"]
    serve += ["--no-beacon", "--bootstrap", bootstrap, "--state", str(bench.scratch / "state")]
    with bench.running("flow512", [*serve, *both, "--json"]) as server:
        port = bench.wait_for_event("flow512", server, "ready", START_SECONDS)["port"]
        bench.wait_for_event("flow512", server, "indexed", INDEX_SECONDS)
        # The MD5 of a large file is made later than that, and would take one of the processors.
        bench.wait_for_rest("flow512", server, INDEX_SECONDS)
        manner = [] if options.md5 else ["--no-md5"]
        if options.run:
            manner += ["--run", str(options.run)]
        yield Node(program, server, f"127.0.0.1:{port}", both, manner)


@contextlib.contextmanager
def flow512(bench: Bench, wanted: str = NAME) -> Iterator[Mover]:
    """Serve by C{flow512 serve}, fetch by C{flow512 get}."""
    with node(bench, "never") as serving:
        get = serving.get(wanted, "--from", serving.place)
        fetch = always(lambda target: [*get, "-o", str(target)])
        yield Mover("flow512", fetch, serving.process)


@contextlib.contextmanager
def curl(bench: Bench) -> Iterator[Mover]:
    """Serve by nginx with sendfile, fetch by curl."""
    nginx = find("nginx", "apt-get install nginx-light")
    client = find("curl", "apt-get install curl")
    port = free_port()
    # Every folder that this nginx was built to write to, moved to where we may write.
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    temporary = "".join(
        f"    {kind.replace('-', '_')}_temp_path {bench.scratch}/nginx-{kind};\n"
        for kind in re.findall(r"--http-([a-z-]+)-temp-path=", built)
    )
    config = bench.scratch / "nginx.conf"
    config.write_text(
        f"""
{"user root;" if os.getuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {bench.scratch}/nginx.pid;
error_log stderr;
events {{}}
http {{
{temporary}
    access_log off;
    sendfile on;
    tcp_nopush on;
    server {{
        listen 127.0.0.1:{port};
        root {bench.shared};
    }}
}}
"""
    )
    command = [nginx, "-e", "stderr", "-p", str(bench.scratch), "-c", str(config)]
    with bench.running("curl", command) as server:
        bench.wait_for_port("curl", server, port)
        get = [client, "--silent", "--show-error", "--fail", f"http://127.0.0.1:{port}/{NAME}"]
        yield Mover("curl", always(lambda target: [*get, "-o", str(target)]), server)


@contextlib.contextmanager
def rsync(bench: Bench, wanted: str = NAME, *flags: str) -> Iterator[Mover]:
    """
    Serve by an rsync daemon, fetch by rsync.

    @param flags: of rsync, for more than one file.
    """
    program = find("rsync", "apt-get install rsync")
    port = free_port()
    config = bench.scratch / "rsyncd.conf"
    config.write_text(
        f"""
{"uid = root" if os.getuid() == 0 else ""}
{"gid = root" if os.getuid() == 0 else ""}
use chroot = no
lock file = {bench.scratch}/rsyncd.lock
[files]
path = {bench.shared}
read only = yes
"""
    )
    command = [program, "--daemon", "--no-detach", f"--config={config}"]
    command += ["--log-file=/dev/stderr", "--address=127.0.0.1", f"--port={port}"]
    with bench.running("rsync", command) as server:
        bench.wait_for_port("rsync", server, port)
        get = [program, "--whole-file", *flags, f"rsync://127.0.0.1:{port}/files/{wanted}"]
        yield Mover("rsync", always(lambda target: [*get, str(target)]), server)


@contextlib.contextmanager
def scp(bench: Bench) -> Iterator[Mover]:
    """
    Serve by an sshd with keys of its own, fetch by scp, with the cipher that they agree on.
    """
    how = "apt-get install openssh-server openssh-client"
    sshd, client, keygen = (find(each, how) for each in ("sshd", "scp", "ssh-keygen"))
    if os.getuid() == 0 and not Path("/run/sshd").is_dir():
        raise Missing("sshd wants a folder when root runs it: mkdir -m 0755 /run/sshd")
    port = free_port()
    folder = bench.scratch / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(f"bench {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
    )
    (folder / "config").write_text(
        f"""
Host bench
HostName 127.0.0.1
Port {port}
User {pwd.getpwuid(os.getuid()).pw_name}
IdentityFile {folder}/user
IdentitiesOnly yes
IdentityAgent none
HostKeyAlias bench
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
BatchMode yes
"""
    )
    with bench.running("scp", [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]) as server:
        bench.wait_for_port("scp", server, port)
        get = [client, "-q", "-F", str(folder / "config"), f"bench:{bench.shared / NAME}"]
        yield Mover("scp", always(lambda target: [*get, str(target)]), server)


@contextlib.contextmanager
def wormhole(bench: Bench) -> Iterator[Mover]:
    """
    Introduce by a mailbox server, send and fetch by magic-wormhole, without a transit relay.

    The sender is there, and its code is known, before the clock starts.
    """
    if not bench.options.is_alone:
        raise Missing(
            "it tells its peer every address of the machine, so it is run by root on Linux only,"
            " who can give it a network of its own"
        )
    how = f"{sys.executable} -m pip install magic-wormhole magic-wormhole-mailbox-server"
    program, twist = (find_beside_python(each, how) for each in ("wormhole", "twist"))
    port = free_port()
    mailbox = [twist, "wormhole-mailbox", "--port", f"tcp:{port}:interface=127.0.0.1"]
    mailbox += ["--channel-db", str(bench.scratch / "mailbox.sqlite")]
    # Both ends find each other directly. The relay that they know otherwise is a public one.
    both = [program, "--relay-url", f"ws://127.0.0.1:{port}/v1"]
    both += ["--transit-helper", f"tcp:127.0.0.1:{free_port()}"]
    sends = [*both, "send", "--hide-progress", "--no-qr", str(bench.shared / NAME)]
    says = "Wormhole code is: "

    @contextlib.contextmanager
    def fetch(target: Path) -> Iterator[list[str]]:
        name = "wormhole-sender"
        with bench.running(name, sends) as sender:
            line = bench.wait_for_line(
                name, "err", sender, lambda line: line.startswith(says), START_SECONDS
            )
            receives = [*both, "receive", "--hide-progress", "--accept-file", "-o", str(target)]
            yield [*receives, line.removeprefix(says).strip()]
            try:
                sender.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise bench.failure(name, "did not end after the transfer") from None

    with bench.running("wormhole", mailbox) as server:
        bench.wait_for_port("wormhole", server, port)
        yield Mover("wormhole", fetch, server)


@contextlib.contextmanager
def sockets(bench: Bench) -> Iterator[Mover]:
    """Serve and fetch by C{sockets.py}."""
    command = [sys.executable, str(Path(__file__).with_name("sockets.py"))]
    with bench.running("sockets", [*command, "serve", str(bench.shared / NAME)]) as server:
        port = bench.wait_for_event("sockets", server, "ready", START_SECONDS)["port"]
        fetch = [*command, "fetch", str(port)]
        yield Mover("sockets", always(lambda target: [*fetch, str(target)]), server)


@contextlib.contextmanager
def http_server(bench: Bench) -> Iterator[Mover]:
    """Serve by Python's own C{http.server}, fetch by curl."""
    client = find("curl", "apt-get install curl")
    port = free_port()
    serve = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with bench.running("http.server", [*serve, "--directory", str(bench.shared)]) as server:
        bench.wait_for_port("http.server", server, port)
        get = [client, "--silent", "--show-error", "--fail", f"http://127.0.0.1:{port}/{NAME}"]
        yield Mover("http.server", always(lambda target: [*get, "-o", str(target)]), server)


MOVERS: Final[dict[str, Callable[[Bench], AbstractContextManager[Mover]]]] = {
    "flow512": flow512,
    "curl": curl,
    "http.server": http_server,
    "sockets": sockets,
    "rsync": rsync,
    "scp": scp,
    "wormhole": wormhole,
}

PLAIN: Final = ("flow512", "curl", "http.server", "sockets", "rsync")
"""Those that do not encrypt."""

ENCRYPTED: Final = ("flow512", "scp", "wormhole")
"""Those that do."""
