"""
Serve one file by blocking sockets, or fetch it: what Python can do with nothing but its sockets.

One buffer of a block is used again and again on either side. Who fetches hashes each block by
BLAKE3, keyed as flow512 does, and writes it to its place; there is no protocol, and nothing else
is done. So this bounds what one thread a side can reach. See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Final

from blake3 import blake3

BLOCK: Final = 2**18
KEY: Final = bytes(32)


def serve(file: Path) -> None:
    """
    Send all of a file to whoever connects, one after the other, until this process is ended.
    """
    room = memoryview(bytearray(BLOCK))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps({"event": "ready", "port": listener.getsockname()[1]}), flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, file.open("rb", buffering=0) as source:
                while count := source.readinto(room):
                    connection.sendall(room[:count])


def fetch(port: int, target: Path) -> None:
    """
    Take what comes until its end, a block at a time.
    """
    room = memoryview(bytearray(BLOCK))
    began = time.perf_counter()
    digests = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        offset = 0
        while count := connection.recv_into(room, BLOCK, socket.MSG_WAITALL):
            digests.append(blake3(room[:count], key=KEY).digest())
            os.pwrite(fd, room[:count], offset)
            offset += count
        os.close(fd)
    print(json.dumps({"event": "done", "seconds": round(time.perf_counter() - began, 6)}))


def main(arguments: list[str]) -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    sides = parser.add_subparsers(required=True, dest="side")
    sides.add_parser("serve", help="until this process is ended").add_argument("file", type=Path)
    fetching = sides.add_parser("fetch")
    fetching.add_argument("port", type=int)
    fetching.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    if options.side == "serve":
        serve(options.file)
    else:
        fetch(options.port, options.target)


if __name__ == "__main__":
    main(sys.argv[1:])
