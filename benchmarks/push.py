"""
Push a change to 10,000 nodes: by a registry to those registered with it, and by Redis, which
publishes as many bytes to as many subscribers.

Everything is on 127.0.0.0/8, over bare TCP. The listeners are raw sockets in a process of their
own. What is timed is what lies between the cause and the last who hears of it. See
benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench import START_SECONDS, Bench, Failed, Missing, free_port
from command import Note, common_options, leave_out, perform, positive
from figures import memory_kib
from movers import find, find_beside_python

from flow512.descriptors import allow_enough_descriptors
from flow512.wire.frame import HEADER_SIZE
from flow512.wire.messages import Hello, Kind, Leave, Register, encode

SPREAD: Final = 50
"""Addresses that the listeners connect from, as ports are finite."""

SETTLED: Final = 1.0
"""Seconds without a word to anybody, after which all that was said before has been heard."""

CHANNEL: Final = b"changes"


def hello(conversation: str, node: int) -> bytes:
    """Make the first frame of a node."""
    return encode(Hello(1, 1, conversation, node.to_bytes(32, "big"), name="bench"))


def words_of(kind: str, number: int) -> tuple[bytes, ...]:
    """Give what a listener says: each when the other side has answered what was said before."""
    if kind == "redis":
        return (b"SUBSCRIBE %s\r\n" % CHANNEL,)
    return hello("registry", number + 1), encode(Register(number.to_bytes(16, "big"), 0), 1)


def listen(kind: str, port: int, count: int) -> None:
    """
    Be all listeners; for each line on standard input, wait until all have heard something and
    print when the last has, by the clock that all processes share.
    """
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for number in range(count):
        one = socket.socket()
        one.bind((f"127.0.1.{number % SPREAD + 1}", 0))
        one.connect(("127.0.0.1", port))
        for words in words_of(kind, number):
            one.sendall(words)
            if one.recv(65536)[:1] == bytes([Kind.ERROR]):
                sys.exit("A listener was refused.")
        one.setblocking(False)
        sockets[one.fileno()] = one
        poller.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    for _ in sys.stdin:
        _drain(poller, sockets)
        print("listening", flush=True)
        left = set(sockets)
        size = 0
        while left:
            heard = poller.poll(60.0)
            for fd, _ in heard:
                size = len(sockets[fd].recv(65536))
                if not size:
                    sys.exit("A listener was cut off.")
                left.discard(fd)
            if not heard:
                sys.exit("Not everybody was told.")
        print(json.dumps({"at": time.monotonic(), "bytes": size}), flush=True)


def _drain(poller: select.epoll, sockets: dict[int, socket.socket]) -> None:
    while heard := poller.poll(SETTLED):
        for fd, _ in heard:
            if not sockets[fd].recv(65536):
                sys.exit("A listener was cut off.")


class Listeners:
    """The process of the listeners."""

    def __init__(self, bench: Bench, kind: str, port: int) -> None:
        count = bench.options.nodes
        command = [sys.executable, __file__, "--listen", kind, str(port), "--nodes", str(count)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != f"{word}\n":
            raise Failed("The listeners have ended too early.")

    def hear(self, cause: Callable[[], object]) -> tuple[float, int]:
        """Cause a change; the seconds until the last has heard of it, and the bytes of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("listening")
        began = time.monotonic()
        cause()
        line = self._process.stdout.readline()
        if not line:
            raise Failed("Not everybody was told.")
        told = json.loads(line)
        return told["at"] - began, told["bytes"]

    def end(self) -> None:
        """End them."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def listeners(bench: Bench, kind: str, port: int) -> Iterator[Listeners]:
    """Run the listeners."""
    them = Listeners(bench, kind, port)
    try:
        yield them
    finally:
        them.end()


class Member:
    """A node that is listed, and leaves."""

    def __init__(self, port: int, number: int) -> None:
        node = 1_000_000 + number
        self._door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._answer, args=(hello("transfer", node),), daemon=True).start()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(hello("registry", node))
        _frame(self._socket)
        at = self._door.getsockname()[1]
        self._socket.sendall(encode(Register(node.to_bytes(16, "big"), at), 1))
        while _frame(self._socket) != Kind.REACHED:
            pass

    def _answer(self, words: bytes) -> None:
        """Prove to the registry that this node is where it says."""
        there, _ = self._door.accept()
        with there:
            _frame(there)
            there.sendall(words)
            with contextlib.suppress(OSError):
                there.recv(65536)

    def leave(self) -> None:
        """Leave the list."""
        self._socket.sendall(encode(Leave()))

    def close(self) -> None:
        """Be gone."""
        self._socket.close()
        self._door.close()


def _frame(connection: socket.socket) -> int:
    """Read one frame; its kind."""
    header = connection.recv(HEADER_SIZE, socket.MSG_WAITALL)
    if len(header) < HEADER_SIZE:
        raise Failed("The registry has closed the connection.")
    size = int.from_bytes(header[1:4], "big")
    if size:
        connection.recv(size, socket.MSG_WAITALL)
    return header[0]


@contextlib.contextmanager
def registry(bench: Bench) -> Iterator[tuple[int, int]]:
    """Run a node that carries the registry; its port and its process id."""
    program = find_beside_python("flow512", "make bench")
    serve = [program, "serve", str(bench.shared), "--listen", "tcp:0:interface=127.0.0.1"]
    serve += ["--no-beacon", "--bootstrap", "always", "--plaintext", "--json"]
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
        with listeners(bench, "registry", port) as them:
            each = (memory_kib(process, "VmRSS") - before) / bench.options.nodes
            for number in range(bench.options.rounds):
                member = Member(port, number)
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
    Run both. They do not take turns: each would have its 10,000 connections meanwhile.

    @return: what C{--json} prints.
    """
    ours = push_by_flow512(bench, note)
    report = {"nodes": bench.options.nodes, "rounds": bench.options.rounds, "flow512": ours}
    try:
        theirs = push_by_redis(bench, note, ours["bytes"])
    except Missing as error:
        leave_out(bench, note, "redis", error)
        return report
    ratio = theirs["median"] / ours["median"]
    return {**report, "redis": theirs, "speed_relative_to_redis": ratio}


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    print(f"\n{report['nodes']:,} nodes, {report['rounds']} rounds; until the last has it")
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
    parser.add_argument("--listen", nargs=2, help=argparse.SUPPRESS)
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
    if options.listen:
        kind, port = options.listen
        listen(kind, int(port), options.nodes)
        return 0
    return perform(options, 1, measure, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
