"""A download whose blocks come from a web server, and whose digests come from a node."""

from __future__ import annotations

import os
from hashlib import md5
from pathlib import Path
from random import Random

from twisted.internet.defer import Deferred, succeed

from flow512.content.partial import Partial
from flow512.content.tree import Tree, TreeBuilder, block_digest
from flow512.errors import BadDigest
from flow512.link.conversation import Patience
from flow512.transfer.blocks import Sink
from flow512.transfer.download import Download
from flow512.transfer.finding import Candidate
from flow512.units import BLOCK, PIECE
from flow512.wire.frame import BufferPool
from tests.unit.test_http_source import HttpCase, Server, bounds, head, part

CONTENT = Random(6).randbytes(21 * BLOCK + 1000)
NODE = Candidate("node")
WEB = Candidate("http://web/file")


def tree_of(content: bytes) -> Tree:
    """The tree of some bytes."""
    builder = TreeBuilder()
    for at in range(0, len(content), BLOCK):
        builder.add(block_digest(content[at : at + BLOCK]))
    return builder.finish(len(content))


class Node:
    """
    A source that has the digests at once, and the blocks later.

    @ivar served: how many blocks it gave.
    """

    def __init__(self) -> None:
        self.buffers = BufferPool({BLOCK: 4})
        self.patience = Patience()
        self.is_held_back = False
        self.tree = tree_of(CONTENT)
        self.served = 0

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        return succeed(self.tree.page(level, index))

    def checksum(self, root: bytes) -> Deferred[bytes]:
        return succeed(md5(CONTENT, usedforsecurity=False).digest())

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        end = min((first + count) * PIECE, size)
        for at in range(first * PIECE, end, BLOCK):
            self.served += 1
            sink(at // PIECE, CONTENT[at : min(at + BLOCK, end)])
        return succeed(None)

    def leave(self) -> None:
        pass


class DownloadTests(HttpCase):
    """The web server is one more source, and no more believed than others."""

    def setUp(self) -> None:
        super().setUp()
        self.root = tree_of(CONTENT).root
        folder = self.mktemp()
        os.mkdir(folder)
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, self.folder)
        self.path = Path(folder) / "file"
        self.partial = Partial.open(self.folder, "file", self.root, len(CONTENT), "boot")
        self.addCleanup(self.partial.close)

    def download(self, node: Node, blocks_after: float = 1000.0) -> Download:
        """A download from the web server and a node, to be started."""
        download = Download(
            self.partial,
            self.here.reactor,
            self.here.run_blocking,
            self.here.run_blocking,
            Random(2),
        )
        sender = download.add(NODE, node, ())
        download.add(WEB, self.source())
        has = self.network.clock.callLater(blocks_after, download.has, sender, (), True)
        self.addCleanup(lambda: has.cancel() if has.active() else None)
        return download

    def finish(self, download: Download) -> None:
        """The file is there, to the byte."""
        self.network.result(download.start(), limit=300)
        self.network.result(download.idle())
        self.partial.publish(replace=False, mtime_ns=10**18)
        self.assertEqual(self.path.read_bytes(), CONTENT)

    def served(self, content: bytes = CONTENT) -> Server:
        return self.serve(lambda request: part(request, content=content))

    def test_blocks_from_the_web(self) -> None:
        """Every block comes from the web server, though it has no digest."""
        self.served()
        download = self.download(Node())
        self.finish(download)
        sent = {sender.who: sender.fetched for sender in download.senders.values()}
        self.assertEqual(sent, {NODE: 0, WEB: len(CONTENT)})

    def test_wrong_bytes(self) -> None:
        """A web server with a wrong byte is named and left out; others send what it cannot."""
        self.served(
            CONTENT[: BLOCK * 3] + bytes([CONTENT[BLOCK * 3] ^ 1]) + CONTENT[BLOCK * 3 + 1 :]
        )
        node = Node()
        download = self.download(node, 5)
        self.finish(download)
        [(who, reason)] = download.blamed
        self.assertIs(who, WEB)
        self.assertIsInstance(reason, BadDigest)
        self.assertGreater(node.served, 0)

    def test_no_ranges(self) -> None:
        """A web server that turns out to be of no use is left out, and blamed for nothing."""
        self.serve(lambda request: head(404, 0) if bounds(request)[0] else head(500, 0))
        node = Node()
        download = self.download(node, 5)
        self.finish(download)
        self.assertEqual(download.blamed, [])
        self.assertEqual(node.served, 22)
