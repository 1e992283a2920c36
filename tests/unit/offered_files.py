"""A node that shares nothing and downloads something, and those who ask it for that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.partial import Partial
from flow512.content.tree import Tree, TreeBuilder, block_digest
from flow512.link.introduction import Introduction
from flow512.transfer.holders import KnownHolders
from flow512.transfer.offers import Admits, Offer, Offers, everybody
from flow512.transfer.server import TransferFactory
from flow512.units import BLOCK
from flow512.wire.fields import Message
from flow512.wire.handshake import Channel
from flow512.wire.messages import Entry, Error, Kind, message_in
from tests.unit.transfer_ends import OURS, HandFired, Served, Shelf, a_folder, join

NAME = "folder/film.mkv"
RAW = (Kind.DATA, Kind.DIGESTS, Kind.PIECE_DIGESTS)
MTIME = 1_600_000_000_000_000_000


def tree_of(content: bytes) -> Tree:
    """Hash a file."""
    builder = TreeBuilder()
    for offset in range(0, len(content), BLOCK):
        builder.add(block_digest(content[offset : offset + BLOCK]))
    return builder.finish(len(content))


@dataclass
class Downloading:
    """A download in the test's hands."""

    content: bytes
    partial: Partial
    offer: Offer

    def block(self, number: int) -> bytes:
        """The bytes of one block."""
        return self.content[number * BLOCK : (number + 1) * BLOCK]

    def store(self, *blocks: int) -> None:
        """Let verified blocks come."""
        for block in blocks:
            self.partial.write(block, self.block(block))
        self.offer.blocks_stored(blocks)

    def prove(self) -> None:
        """Let every page come."""
        tree = tree_of(self.content)
        for level in range(tree.shape.levels):
            for index in range(tree.shape.pages(level)):
                self.offer.page_proven(level, index, tree.page(level, index))

    def publish(self) -> None:
        """Give the file its name."""
        self.partial.publish(replace=False, mtime_ns=MTIME)
        self.offer.published()


class OfferTestCase(SynchronousTestCase):
    """
    A node with an empty library, workers and a clock moved by hand.

    @ivar folder: where downloads go.
    @ivar admits: who may have them.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = HandFired()
        self.shelf = Shelf(a_folder(self))
        self.addCleanup(self.shelf.shut)
        self.folder = a_folder(self)
        self.folder_fd = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.folder_fd)
        self.random = Random(11)
        self.admits: Admits = everybody
        self.offers = Offers(self.clock, lambda asker: self.admits(asker))
        self.holders = KnownHolders()
        self.factory = TransferFactory(
            self.shelf,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            offers=self.offers,
            holders=self.holders,
            reads_cached=False,
        )
        self.served: list[Served] = []
        self.descriptors = len(os.listdir("/dev/fd"))
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Everything ends, and nothing may be left open."""
        self.offers.stop()
        for served in self.served:
            served.end.hang_up()
        self.workers.do_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.connections, {})
        self.assertEqual(self.factory.allowance.requests, 0)
        self.assertEqual(len(os.listdir("/dev/fd")), self.descriptors)

    def download(self, blocks: int, name: str = "here.mkv", *, begin: bool = True) -> Downloading:
        """Begin to download a file of so many blocks, the last of which has 700 bytes."""
        content = self.random.randbytes(max(0, blocks * BLOCK - BLOCK + 700))
        partial = Partial.open(
            self.folder_fd, name, tree_of(content).root, len(content), "this boot"
        )
        self.addCleanup(partial.close)
        entry = Entry(NAME, len(content), MTIME, partial.root)
        offer = self.offers.prepare(partial, entry)
        self.addCleanup(offer.withdraw)
        if begin:
            offer.begin()
        return Downloading(content, partial, offer)

    def serve(self, node: bytes | None = None, room: int = 1 << 40) -> Served:
        """Connect, as somebody whom TLS has proven if a node id is given."""
        served = join(self.factory, room)
        if node is not None:
            served.protocol.channel = Channel(node, bytes(32))
        self.served.append(served)
        return served

    def ask(self, served: Served, message: Message, request: int = 1) -> list[object]:
        """Ask, and give what is answered: bodies, messages, and errors by their codes."""
        served.end.say(message, request=request)
        self.workers.do_all()
        return self.answers(served, request)

    def answers(self, served: Served, request: int = 1) -> list[object]:
        """Give what came for one request; nothing else may have come."""
        answers: list[object] = []
        for frame in served.end.take():
            self.assertEqual(frame.request, request)
            if frame.kind in RAW:
                answers.append(bytes(frame.body))
            else:
                message = message_in(frame)
                answers.append(message.code if isinstance(message, Error) else message)
        return answers
