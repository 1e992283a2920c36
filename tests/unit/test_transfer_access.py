"""
Access over a connection: who is asked for is who TLS has proven, and changes count at once.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import ALLOW_FILE, NOBODY, Change
from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library, Share
from flow512.errors import WIRE_CODES, NotFound
from flow512.link.introduction import Introduction
from flow512.link.node_id import format_node_id, parse_node_id
from flow512.transfer.access_log import REPEAT, AccessLog
from flow512.transfer.server import TransferFactory
from flow512.units import BLOCK
from flow512.wire.handshake import Channel
from flow512.wire.messages import (
    Checksum,
    Error,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Read,
    Stat,
    Stated,
    message_in,
)
from tests.unit.transfer_ends import OURS, End, HandFired, Served, a_folder, join

ANN = b"a" * 32
BOB = b"b" * 32
EVE = b"e" * 32


class AccessTests(SynchronousTestCase):
    """A share that Ann and Bob may see, and one that everybody may."""

    def setUp(self) -> None:
        """Share them."""
        self.private, self.public = a_folder(self), a_folder(self)
        self.allow(ANN, BOB)
        self.clock = Clock()
        self.workers = HandFired()
        self.long = HandFired()
        catalog = Catalog(IN_MEMORY)
        shares = [Share(str(each), parse_id=parse_node_id) for each in (self.private, self.public)]
        self.library = Library(catalog, shares)
        self.factory = TransferFactory(
            self.library,
            Introduction(OURS, "server"),
            self.clock,
            self.workers.run_blocking,
            self.long.run_blocking,
            reads_cached=False,
        )
        self.served: list[Served] = []
        self.addCleanup(catalog.close)
        self.addCleanup(self.library.close)
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Everything ends."""
        for served in self.served:
            served.end.hang_up()
        self.do_all()
        self.assertEqual(self.factory.connections, {})

    def allow(self, *nodes: bytes) -> None:
        """Say who may see the private share."""
        (self.private / ALLOW_FILE).write_text("\n".join(map(format_node_id, nodes)))

    def put(self, folder: Path, name: str, content: bytes) -> bytes:
        """Share a file, and give its root."""
        (folder / name).write_bytes(content)
        root = self.library.stat(name).root
        assert root is not None
        return root

    def end_of(self, node: bytes | None) -> End:
        """Connect as somebody whom TLS has proven; without TLS, if it is nobody."""
        served = join(self.factory)
        if node is not None:
            served.protocol.channel = Channel(node, bytes(32))
        self.served.append(served)
        return served.end

    def do_all(self) -> None:
        """Let all workers work."""
        while self.workers.jobs or self.long.jobs:
            self.workers.do_all()
            self.long.do_all()

    def answers(self, end: End) -> list[object]:
        """Let the workers work, and collect what is answered; errors by their codes."""
        self.do_all()
        answers: list[object] = []
        for frame in end.take():
            if frame.kind in (Kind.DATA, Kind.DIGESTS):
                answers.append(bytes(frame.body))
            else:
                message = message_in(frame)
                answers.append(message.code if isinstance(message, Error) else message)
        return answers

    def test_every_request(self) -> None:
        """Who may see a share is answered; all others, as of a share that is not there."""
        root = self.put(self.private, "secret", b"secret")
        self.put(self.public, "public", b"public")
        requests = (
            List("", "", 10),
            Stat("secret"),
            Stat("", root),
            PageRequest(root, 0, 0),
            Checksum(root),
            Read(root, 0, 1, 1),
        )
        not_found = WIRE_CODES[NotFound]
        for node in (EVE, None):
            end = self.end_of(node)
            for number, request in enumerate(requests, 1):
                end.say(request, request=number)
                [answer] = self.answers(end)
                if isinstance(answer, Listing):
                    self.assertEqual([entry.path for entry in answer.entries], ["public"])
                else:
                    self.assertEqual(answer, not_found)
        end = self.end_of(ANN)
        kinds = []
        for number, request in enumerate(requests, 1):
            end.say(request, request=number)
            [answer] = self.answers(end)
            kinds.append(type(answer))
        self.assertEqual(kinds, [Listing, Stated, Stated, bytes, Md5, bytes])

    def test_a_hello_proves_nothing(self) -> None:
        """Without TLS, whoever says that he is Ann is nobody."""
        self.put(self.private, "secret", b"secret")
        served = join(self.factory, hello=False)
        self.served.append(served)
        served.end.say_hello(ANN)
        self.assertEqual(served.protocol.asker, NOBODY)
        served.end.say(Stat("secret"), request=1)
        self.assertEqual(self.answers(served.end), [WIRE_CODES[NotFound]])

    def test_taken_away_while_reading(self) -> None:
        """A read that is under way ends at the next visit to the disk, and so do new ones."""
        content = bytes(12 * BLOCK)
        root = self.put(self.private, "secret", content)
        end = self.end_of(ANN)
        end.say(Read(root, 0, 12 * 512, 512), request=1)
        self.workers.do()  # opens
        self.workers.do()  # the first blocks
        self.allow(BOB)
        self.workers.do()
        *data, refusal = self.answers(end)
        self.assertTrue(0 < len(data) < 12)
        self.assertEqual(refusal, WIRE_CODES[NotFound])
        end.say(Read(root, 0, 1, 1), request=2)
        self.assertEqual(self.answers(end), [WIRE_CODES[NotFound]])
        self.allow(ANN)
        end.say(Read(root, 0, 1, 1), request=3)
        self.assertEqual(self.answers(end), [bytes(512)])

    def test_shared_work(self) -> None:
        """What is hashed once for several is hashed for those who see the same, and no others."""
        (self.private / "new").write_bytes(b"private")
        (self.public / "new").write_bytes(b"for everybody")
        ends = [self.end_of(node) for node in (ANN, EVE, BOB, None)]
        for end in ends:
            end.say(Stat("new"), request=1)
        self.workers.do_all()
        self.assertEqual(len(self.long.jobs), 2)
        sizes = []
        for end in ends:
            [stated] = self.answers(end)
            assert isinstance(stated, Stated)
            sizes.append(stated.entry.size)
        self.assertEqual(sizes, [7, 13, 7, 13])

    def test_shared_checksum(self) -> None:
        """Likewise, an MD5: who may not see the content does not wait for it with those who may."""
        root = self.put(self.private, "secret", b"secret")
        ann, eve = self.end_of(ANN), self.end_of(EVE)
        for end in (ann, eve):
            end.say(Checksum(root), request=1)
        self.workers.do_all()
        self.assertEqual(len(self.long.jobs), 2)
        self.assertEqual(self.answers(eve), [WIRE_CODES[NotFound]])
        self.assertIsInstance(self.answers(ann)[0], Md5)

    def test_removed_folder(self) -> None:
        """A private folder that is gone is still nobody else's."""
        self.put(self.private, "secret", b"secret")
        shutil.rmtree(self.private)
        end = self.end_of(EVE)
        end.say(List("", "", 10), request=1)
        self.assertEqual(self.answers(end), [Listing((), False)])
        self.private.mkdir()  # to be removed at the end


class AccessLogTests(SynchronousTestCase):
    """What the owner reads of it."""

    def setUp(self) -> None:
        """Make a log."""
        self.clock = Clock()
        self.log = AccessLog(self.clock.seconds)

    def heard(self, events: list[LogEvent]) -> list[tuple[LogLevel, str | None]]:
        """What was logged, and how gravely."""
        return [(event["log_level"], formatEvent(event)) for event in events]

    def test_refusals(self) -> None:
        """They name the node, the share and the rule; the same again only after a while."""
        with capturedLogs() as events:
            for share in ("photos", "photos", "letters"):
                self.log.withheld(EVE, share, "--allow does not name it")
            self.log.withheld(NOBODY, "photos", "because")
            self.clock.advance(REPEAT - 1)
            self.log.withheld(EVE, "photos", "--allow does not name it")
            self.assertEqual(len(events), 3)
            self.clock.advance(1)
            self.log.withheld(EVE, "photos", "--allow does not name it")
        eve = format_node_id(EVE)
        of_photos = f"Share photos was not shown to {eve}: --allow does not name it."
        self.assertEqual(
            self.heard(events),
            [
                (LogLevel.info, of_photos),
                (LogLevel.info, of_photos.replace("photos", "letters")),
                (LogLevel.info, "Share photos was not shown to somebody: because."),
                (LogLevel.info, of_photos),
            ],
        )

    def test_flood(self) -> None:
        """A stranger with any number of ids does not fill the log."""
        with capturedLogs() as events:
            for number in range(5000):
                self.log.withheld(number.to_bytes(32, "big"), "photos", "because")
        self.assertTrue(0 < len(events) < 300)

    def test_rules(self) -> None:
        """What the owner has to do something about is a warning."""
        with capturedLogs() as events:
            self.log.rules_changed("photos", Change("It was read."))
            self.log.rules_changed("photos", Change("It is wrong.", is_fault=True))
        self.assertEqual(
            self.heard(events),
            [
                (LogLevel.info, "Share photos: It was read."),
                (LogLevel.warn, "Share photos: It is wrong."),
            ],
        )
