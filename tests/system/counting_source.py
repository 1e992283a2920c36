"""
A node's serving side as a program: shares a folder in plaintext on 127.0.0.1, and writes down each
range of the disk that it reads for others, a line each: offset and length.

C{python -m tests.system.counting_source FOLDER LOG} prints its port once all is hashed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread

from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library, OpenContent, View
from flow512.content.shares import Share
from flow512.link.introduction import Introduction
from flow512.transfer.server import TransferFactory


class Counting(OpenContent):
    """Writes down what is read."""

    log: str

    def read_into(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
        self.note(offset, rooms)
        super().read_into(offset, rooms)

    def read_cached(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> bool:
        is_read = super().read_cached(offset, rooms)
        if is_read:
            self.note(offset, rooms)
        return is_read

    def note(self, offset: int, rooms: Sequence[bytearray | memoryview]) -> None:
        """Write down one range."""
        with open(self.log, "a") as log:
            log.write(f"{offset} {sum(map(len, rooms))}\n")


class CountingLibrary(Library):
    """Opens files so."""

    def open(self, root: bytes, view: View | None = None) -> OpenContent:
        content = super().open(root, view)
        content.__class__ = Counting
        return content


def serve(folder: str, log: str) -> None:
    """Serve until the process is ended."""
    Counting.log = log
    catalog = Catalog(IN_MEMORY)
    library = CountingLibrary(catalog, [Share(folder)])
    library.scan()
    while library.hash_next() is not None:
        pass
    factory = TransferFactory(library, Introduction(b"c" * 32, "source"), reactor, deferToThread)

    def listening(port: IListeningPort) -> None:
        print(port.getHost().port, flush=True)

    TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory).addCallback(listening)
    reactor.run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
