"""
One seed and many who want what it has, over links that are all the same.

The swarms and the turns are the real ones; the network between them is a model: blocks are numbers
without bytes. An uplink sends block after block to those who have a turn; a downlink takes what
comes in the order of its coming; everything else takes C{LATENCY}. A leecher tells of what it has
as L{flow512.transfer.offers} does.

C{FLOW512_LEECHERS}, C{FLOW512_BLOCKS} (of 256 KiB) and C{FLOW512_LINK} (MiB/s) try others; a
thousand leechers take some minutes.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import log2
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import Tree, TreeBuilder, TreeVerifier
from flow512.errors import NotFound
from flow512.testing.clock import NetworkClock
from flow512.transfer.actions import AskBlocks, AskPage, TakeBack
from flow512.transfer.offers import GATHER_FOR
from flow512.transfer.swarm import Swarm
from flow512.transfer.turns import Turns, Wanted
from flow512.units import BLOCK

LEECHERS = int(os.environ.get("FLOW512_LEECHERS", "40"))
BLOCKS = int(os.environ.get("FLOW512_BLOCKS", "256"))
LINK = float(os.environ.get("FLOW512_LINK", "10")) * 2**20

KNOWN = 15
"""Others that each leecher has as sources beside the seed: a download uses 16 at most."""

LATENCY = 0.005
STORED_AFTER = 0.02
TICK = 0.25
PARTS = 1
"""Parts of a block that take turns on an uplink."""
ON_THE_WAY = 2
"""Blocks that a connection holds which have left the one side and not come to the other."""


@dataclass(eq=False)
class Conversation:
    """
    What a leecher has asked of one source; it is a L{flow512.transfer.turns.Reader} there.

    @ivar number: of the source, to the leecher.
    @ivar asked: the blocks of each request that are to be sent still.
    """

    server: Server
    client: Leecher
    number: int
    asked: dict[int, deque[int]] = field(default_factory=dict)
    block: tuple[int, int] | None = None  # that is being sent, with its request
    left: int = 0  # parts of it
    on_the_way: int = 0  # parts

    def wanted(self) -> Iterator[Wanted]:
        for blocks in islice(self.asked.values(), 16):
            yield b"", blocks[0]

    def go_on(self) -> None:
        self.server.send_to(self)

    def cancel(self, request: int) -> None:
        self.asked.pop(request, None)
        if self.block is None and not self.asked:
            self.server.turns.leave(self)


class Server:
    """
    Somebody who has blocks, and sends them.

    @ivar have: the mask of those that it has.
    @ivar sent: how often it has sent each block.
    @ivar sent_bytes: of blocks and pages.
    """

    def __init__(self, network: Model) -> None:
        self.network = network
        self.turns = Turns(network.clock)
        self.have = 0
        self.pages: set[tuple[int, int]] = set()
        self.sent: Counter[int] = Counter()
        self.sent_bytes = 0
        self._sending: deque[Conversation] = deque()
        self._pages_to_send: deque[tuple[Conversation, AskPage]] = deque()
        self._is_busy = False

    # Asked by leechers

    def read(self, conversation: Conversation, wanted: AskBlocks) -> None:
        blocks = range(wanted.first, wanted.first + wanted.count)
        assert all(self.have >> block & 1 for block in blocks)
        conversation.asked[wanted.request] = deque(blocks)
        if conversation.block is None and self.turns.ask(conversation):
            self.send_to(conversation)

    def page(self, conversation: Conversation, wanted: AskPage) -> None:
        if (wanted.level, wanted.index) in self.pages:
            self._pages_to_send.append((conversation, wanted))
            self._send()
        else:
            self.network.later(LATENCY, conversation.client.page_refused, wanted)

    def send_to(self, conversation: Conversation) -> None:
        requests = list(conversation.asked)
        if not requests:
            self.turns.leave(conversation)
            return
        place = self.turns.first_of(conversation.wanted()) if self.turns.is_crowded else 0
        request = requests[place]
        blocks = conversation.asked[request]
        conversation.block = request, blocks.popleft()
        conversation.left = PARTS
        if not blocks:
            del conversation.asked[request]
        self.turns.begin((b"", conversation.block[1]))
        self._sending.append(conversation)
        self._send()

    # The uplink

    def _send(self) -> None:
        if self._is_busy:
            return
        if self._pages_to_send:
            conversation, page = self._pages_to_send.popleft()
            size = len(self.network.tree.page(page.level, page.index))
            gone = self._occupy(size)
            self.network.clock.at(gone + LATENCY, conversation.client.page_came, page)
            return
        for _ in range(len(self._sending)):
            conversation = self._sending.popleft()
            if conversation.on_the_way < ON_THE_WAY * PARTS:
                self._send_part(conversation)
                return
            self._sending.append(conversation)

    def _send_part(self, conversation: Conversation) -> None:
        assert conversation.block is not None
        conversation.left -= 1
        conversation.on_the_way += 1
        gone = self._occupy(BLOCK // PARTS)
        client = conversation.client
        # It comes in while it goes out, unless the downlink has other things to take.
        takes = BLOCK / PARTS / self.network.link
        client.busy_until = came = max(gone + LATENCY, client.busy_until + takes)
        whole = None
        if conversation.left:
            self._sending.append(conversation)
        else:
            whole = conversation.block
            self.sent[whole[1]] += 1
            self.network.clock.at(gone, self._block_is_gone, conversation)
        self.network.clock.at(came, self._part_came, conversation, whole)

    def _occupy(self, size: int) -> float:
        self._is_busy = True
        self.sent_bytes += size
        gone = self.network.clock.rightNow + size / self.network.link
        self.network.clock.at(gone, self._is_free)
        return gone

    def _is_free(self) -> None:
        self._is_busy = False
        self._send()

    def _block_is_gone(self, conversation: Conversation) -> None:
        conversation.block = None
        self.turns.taken(conversation, BLOCK)
        if conversation.block is None and conversation.asked:
            if self.turns.ask(conversation):
                self.send_to(conversation)
        elif conversation.block is None:
            self.turns.leave(conversation)

    def _part_came(self, conversation: Conversation, whole: tuple[int, int] | None) -> None:
        conversation.on_the_way -= 1
        if whole is not None:
            conversation.client.block_came(conversation.number, *whole)
        self._send()


class Leecher(Server):
    """
    Somebody who wants all blocks, and passes on those that it has.

    @ivar busy_until: when its downlink has taken all that was sent to it.
    @ivar done_at: when it had all.
    @ivar twice: blocks that came though they were there.
    """

    def __init__(self, network: Model, seed: float) -> None:
        super().__init__(network)
        shape = network.tree.shape
        self.swarm = Swarm(
            TreeVerifier(network.tree.root, shape.size),
            [(0, shape.blocks)],
            clock=network.clock.seconds,
            random=Random(seed),
        )
        self.busy_until = 0.0
        self.done_at: float | None = None
        self.twice = 0
        self._sources: dict[int, Conversation] = {}
        self._watchers: list[tuple[Leecher, int]] = []
        self._arrived: list[int] = []
        self._news: list[int] = []

    def know(self, other: Server) -> None:
        if isinstance(other, Leecher):
            number = self.swarm.join([])
            other._watchers.append((self, number))
        else:
            number = self.swarm.join()
        self._sources[number] = Conversation(other, self, number)

    def look(self) -> None:
        if self.done_at is None:
            self.swarm.tick()
            self.advance()
            self.network.later(TICK, self.look)

    def advance(self) -> None:
        while (action := self.swarm.next_action()) is not None:
            assert isinstance(action, AskBlocks | AskPage | TakeBack), action
            source = self._sources[action.source]
            if isinstance(action, AskBlocks):
                self.network.later(LATENCY, source.server.read, source, action)
            elif isinstance(action, AskPage):
                self.network.later(LATENCY, source.server.page, source, action)
            else:
                self.network.later(LATENCY, source.cancel, action.request)

    # What comes

    def page_came(self, page: AskPage) -> None:
        data = self.network.tree.page(page.level, page.index)
        if self.swarm.page_came(page.source, page.level, page.index, data):
            self.pages.add((page.level, page.index))
        self.advance()

    def page_refused(self, page: AskPage) -> None:
        error = NotFound("It is not here yet.")
        self.swarm.page_refused(page.source, page.level, page.index, error)
        self.advance()

    def block_came(self, source: int, request: int, block: int) -> None:
        if self.swarm.arrived(source, [block]):
            if not self._arrived:
                self.network.later(STORED_AFTER, self._store)
            self._arrived.append(block)
        else:
            self.twice += 1
        self.advance()

    def _store(self) -> None:
        blocks, self._arrived = self._arrived, []
        self.swarm.stored(blocks)
        if not self._news:
            self.network.later(GATHER_FOR, self._tell)
        self._news += blocks
        for block in blocks:
            self.have |= 1 << block
        if self.swarm.is_done:
            self.done_at = self.network.clock.rightNow
            self.network.left -= 1
        self.advance()

    def _tell(self) -> None:
        news, self._news = sorted(self._news), []
        runs = [(block, 1) for block in news]
        for watcher, number in self._watchers:
            if watcher.done_at is None:
                self.network.later(LATENCY, watcher.hear, number, runs, self.done_at is not None)

    def hear(self, source: int, runs: list[tuple[int, int]], is_all: bool) -> None:
        if is_all:
            self.swarm.has_all(source)
        else:
            self.swarm.has(source, runs)
        self.advance()


class Model:
    """
    The network.

    @ivar left: leechers that have not all yet.
    """

    def __init__(self, leechers: int, blocks: int, link: float, seed: int = 1) -> None:
        random = Random(seed)
        self.clock = NetworkClock()
        self.link = link
        self.tree = tree_of(blocks)
        self.left = leechers
        self.seed = Server(self)
        self.seed.have = (1 << blocks) - 1
        shape = self.tree.shape
        self.seed.pages = {
            (level, index) for level in range(shape.levels) for index in range(shape.pages(level))
        }
        self.leechers = [Leecher(self, random.random()) for _ in range(leechers)]
        for leecher in self.leechers:
            leecher.know(self.seed)
            for other in random.sample(self.leechers, min(KNOWN + 1, leechers)):
                if other is not leecher:
                    leecher.know(other)
            self.later(random.uniform(0.0, TICK), leecher.look)
        self.bound = (blocks + log2(leechers + 1)) * BLOCK / link

    def later(self, seconds: float, function: Callable[..., object], *args: object) -> None:
        self.clock.at(self.clock.rightNow + seconds, function, *args)

    def run(self, limit: float) -> None:
        while self.left:
            assert self.clock.step(limit), f"{self.left} have not all after {limit} s"

    @property
    def last(self) -> float:
        return max(each.done_at or 0.0 for each in self.leechers)

    @property
    def copies(self) -> float:
        return self.seed.sent_bytes / self.tree.shape.size


def tree_of(blocks: int) -> Tree:
    builder = TreeBuilder()
    builder.add_many(b"".join(number.to_bytes(32, "big") for number in range(blocks)))
    return builder.finish(blocks * BLOCK)


class ManyLeechers(SynchronousTestCase):
    """
    All begin at once.
    """

    def test_equal_links(self) -> None:
        """
        The last has all within one and a half times what the links allow: the time of the file,
        and of one block for each time that those who have it can have doubled. The seed sends it
        less than three times.
        """
        model = Model(LEECHERS, BLOCKS, LINK)
        model.run(limit=10 * model.bound)
        twice = sum(each.twice for each in model.leechers) / LEECHERS / BLOCKS
        print(
            f"{LEECHERS} leechers, {BLOCKS} blocks, {LINK / 2**20:g} MiB/s: {model.last:.2f} s,"
            f" {model.last / model.bound:.2f} times the bound; the seed sent {model.copies:.2f}"
            f" copies; {twice:.1%} came twice"
        )
        self.assertLess(model.last, 1.5 * model.bound)
        self.assertLess(model.copies, 3)
