"""
Push a change to 10,000 nodes: by a registry to those registered with it, and by Redis, which
publishes as many bytes to as many subscribers.

Everything is on 127.0.0.0/8, over bare TCP unless told otherwise. The listeners are raw sockets in
a process of their own (C{listeners.py}). What is timed is what lies between the cause and the last
who hears of it. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bench import START_SECONDS, Bench, Failed, Missing, free_port
from command import Note, common_options, leave_out, perform, positive
from figures import memory_kib
from listeners import AT_ONCE, CHANNEL, Line, Someone, listeners
from movers import find, find_beside_python

from flow512.descriptors import allow_enough_descriptors
from flow512.wire.frame import HEADER_SIZE
from flow512.wire.messages import Kind, Leave, Register, encode


class Member:
    """A node that is listed, and leaves."""

    def __init__(self, port: int, number: int, tls: bool) -> None:
        self._self = Someone(1_000_000 + number, tls)
        self._door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._answer, daemon=True).start()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._line = self._self.calling(self._socket)
        self._line.sendall(self._self.hello("registry"))
        _frame(self._line)
        at = self._door.getsockname()[1]
        ticket = number.to_bytes(15, "big") + b"m"
        self._line.sendall(encode(Register(ticket, at), 1))
        while _frame(self._line) != Kind.REACHED:
            pass

    def _answer(self) -> None:
        """Prove to the registry that this node is where it says."""
        there, _ = self._door.accept()
        with there, contextlib.suppress(OSError):
            line = self._self.called(there)
            _frame(line)
            line.sendall(self._self.hello("transfer"))
            line.recv(AT_ONCE)

    def leave(self) -> None:
        """Leave the list."""
        self._line.sendall(encode(Leave()))

    def close(self) -> None:
        """Be gone."""
        self._socket.close()
        self._door.close()


def _frame(line: Line) -> int:
    """Read one frame; its kind."""
    header = _exactly(line, HEADER_SIZE)
    _exactly(line, int.from_bytes(header[1:4], "big"))
    return header[0]


def _exactly(line: Line, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        if not part:
            raise Failed("The registry has closed the connection.")
        data += part
    return data


@contextlib.contextmanager
def registry(bench: Bench) -> Iterator[tuple[int, int]]:
    """Run a node that carries the registry; its port and its process id."""
    program = find_beside_python("flow512", "make bench")
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1"]
    serve += ["--no-beacon", "--bootstrap", "always", "--json"]
    serve += [] if bench.options.tls else ["--plaintext"]
    serve += ["--state", str(bench.scratch / "state")]
    serve += ["--limit", f"connections={bench.options.nodes + 1000}"]
    serve += ["--limit", f"nodes-per-address={bench.options.nodes}"]
    # They come as fast as they can, and are all taken at once.
    serve += ["--limit", f"registrations-per-second={bench.options.nodes}"]
    with bench.running("flow512", serve) as server:
        port = bench.wait_for_event("flow512", server, "ready", START_SECONDS)["port"]
        bench.wait_for_event("flow512", server, "bootstrap", START_SECONDS)
        yield port, server.pid


@contextlib.contextmanager
def redis(bench: Bench) -> Iterator[int]:
    """Run Redis; its port."""
    program = find("redis-server", "apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--protected-mode", "no", "--maxclients"]
    with bench.running("redis", [*command, str(bench.options.nodes + 100)]) as server:
        bench.wait_for_port("redis", server, port)
        yield port


def push_by_flow512(bench: Bench, note: Note) -> dict[str, Any]:
    """Run the rounds of the registry."""
    seconds = []
    size = 0
    with registry(bench) as (port, process):
        before = memory_kib(process, "VmRSS")
        tls = bench.options.tls
        with listeners(bench, "registry-tls" if tls else "registry", port) as them:
            each = (memory_kib(process, "VmRSS") - before) / bench.options.nodes
            for number in range(bench.options.rounds):
                member = Member(port, number, tls)
                took, size = them.hear(member.leave)
                member.close()
                seconds.append(took)
                note(f"round {number + 1}: flow512 {took:.3f} s, {size} bytes")
    median = statistics.median(seconds)
    return {"runs": seconds, "median": median, "bytes": size, "kib_each": each}


def push_by_redis(bench: Bench, note: Note, size: int) -> dict[str, Any]:
    """Run the rounds of Redis."""
    around = len(b"*3\r\n$7\r\nmessage\r\n$7\r\n%s\r\n$99\r\n\r\n" % CHANNEL)
    words = b"x" * max(1, size - around)
    command = b"*3\r\n$7\r\nPUBLISH\r\n$7\r\n%s\r\n$%d\r\n%s\r\n" % (
        CHANNEL,
        len(words),
        words,
    )
    seconds = []
    with (
        redis(bench) as port,
        listeners(bench, "redis", port) as them,
        socket.create_connection(("127.0.0.1", port)) as publisher,
    ):
        for number in range(bench.options.rounds):
            took, size = them.hear(lambda: publisher.sendall(command))
            seconds.append(took)
            note(f"round {number + 1}: redis {took:.3f} s, {size} bytes")
    return {"runs": seconds, "median": statistics.median(seconds), "bytes": size}


def measure(bench: Bench, note: Note) -> dict[str, Any]:
    """
    Run both, Redis only in plaintext. They do not take turns: each would have its 10,000
    connections meanwhile.

    @return: what C{--json} prints.
    """
    options = bench.options
    ours = push_by_flow512(bench, note)
    report = {"nodes": options.nodes, "rounds": options.rounds, "tls": options.tls, "flow512": ours}
    if options.tls:
        return report
    try:
        theirs = push_by_redis(bench, note, ours["bytes"])
    except Missing as error:
        leave_out(bench, note, "redis", error)
        return report
    ratio = theirs["median"] / ours["median"]
    return {**report, "redis": theirs, "speed_relative_to_redis": ratio}


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    tls = "encrypted" if report["tls"] else "in plaintext"
    print(f"\n{report['nodes']:,} nodes, {report['rounds']} rounds, {tls}; until the last has it")
    for name in ("flow512", "redis"):
        if (row := report.get(name)) is not None:
            print(f"{name:10}{row['median']:>8.3f} s, {row['bytes']} bytes each")
    print(f"the registry takes {report['flow512']['kib_each']:.1f} KiB for each")
    if "speed_relative_to_redis" in report:
        print(f"flow512 has {report['speed_relative_to_redis']:.2f} of the speed of Redis")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = common_options(__doc__, timeout=300)
    parser.add_argument("--nodes", type=positive, default=10_000, help="how many (10000)")
    parser.add_argument("--tls", action="store_true", help="encrypted, and without Redis")
    options = parser.parse_args(arguments)
    options.size = 0
    return options


def main(arguments: list[str]) -> int:
    """
    Run the benchmark.

    @return: the exit status, as of L{perform}.
    """
    options = read_options(arguments)
    allow_enough_descriptors()
    return perform(options, 1, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
