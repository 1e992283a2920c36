"""Tests for L{flow512.transfer.offers} and L{flow512.transfer.contents}, as those see who ask."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import ALLOW_FILE, NOBODY
from flow512.content.cached import Cached
from flow512.content.partial import Partial
from flow512.content.tree import TreeVerifier, format_content_id
from flow512.discovery.election import Mode
from flow512.errors import (
    WIRE_CODES,
    Busy,
    ContentChanged,
    DiskFailure,
    Misuse,
    NotFound,
    ResourceFailure,
)
from flow512.link.address import HostPort, client_endpoint
from flow512.link.introduction import Introduction
from flow512.link.node_id import format_node_id
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.testing import Network
from flow512.transfer.offers import Offer, Offers
from flow512.transfer.proven_pages import ProvenPages
from flow512.transfer.reading import MAX_OPEN
from flow512.transfer.server import TransferFactory
from flow512.transfer.source import SourceFactory, connect_source
from flow512.units import BLOCK, PIECES_PER_BLOCK
from flow512.wire.fields import Message, Peer
from flow512.wire.holding import Blocks, Holders, PiecesRequest, Watch, Who
from flow512.wire.messages import (
    Cancel,
    Checksum,
    Entry,
    Error,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Ping,
    Read,
    Stat,
    Stated,
    decode,
)
from tests.unit.offered_files import MTIME, Downloading, OfferTestCase, tree_of
from tests.unit.test_node import NodeTestCase
from tests.unit.transfer_ends import OURS, THEIRS, Served, Shelf, a_folder

NOT_FOUND = WIRE_CODES[NotFound]
BUSY = WIRE_CODES[Busy]
ANN = b"a" * 32
EVE = b"e" * 32


class ReadTests(OfferTestCase):
    """READ of a content that is being downloaded."""

    def read(self, served: Served, root: bytes, first: int, count: int) -> object:
        """Read blocks: their bytes, or the error; what came before that is left out."""
        question = Read(root, first * PIECES_PER_BLOCK, count * PIECES_PER_BLOCK)
        answers = self.ask(served, question)
        data = b"".join(each for each in answers if isinstance(each, bytes))
        return data if isinstance(answers[-1], bytes) else answers[-1]

    def test_what_is_there(self) -> None:
        """Blocks that are verified are sent as those of a shared file are."""
        download = self.download(6)
        download.store(1, 2, 4)
        served = self.serve()
        root = download.offer.root
        self.assertEqual(
            self.read(served, root, 1, 2), download.content[BLOCK : 3 * BLOCK], "blocks 1 and 2"
        )
        piece = self.ask(served, Read(root, 4 * PIECES_PER_BLOCK + 7, 1))
        self.assertEqual(piece, [download.block(4)[7 * 512 : 8 * 512]])

    def test_what_is_not_there_yet(self) -> None:
        """
        A block that has not come is not found; those before it are sent, later requests are
        answered, and it is sent once it has come.
        """
        download = self.download(12)
        download.store(*range(5), *range(6, 12))
        served = self.serve()
        root = download.offer.root
        served.end.say(Read(root, 0, 8 * PIECES_PER_BLOCK), request=1)
        self.workers.do_all()
        *data, error = self.answers(served)
        self.assertEqual(data, [download.block(each) for each in range(4)])
        self.assertEqual(error, NOT_FOUND)
        self.assertEqual(self.read(served, root, 6, 2), download.block(6) + download.block(7))
        download.store(5)
        self.assertEqual(self.read(served, root, 5, 1), download.block(5))
        self.assertFalse(served.end.is_closing)

    def test_last_block(self) -> None:
        """The last block is as short as it is, and nothing beyond it can be asked for."""
        download = self.download(2)
        download.store(1)
        served = self.serve()
        root = download.offer.root
        self.assertEqual(self.ask(served, Read(root, 512, 2)), [download.block(1)])
        self.assertEqual(self.ask(served, Read(root, 512, 3)), [WIRE_CODES[Misuse]])

    def test_after_publication(self) -> None:
        """
        What was published is served on, whether it was being read before or not, and nothing has
        to be asked anew.
        """
        download = self.download(3)
        download.store(0, 1)
        early, late = self.serve(), self.serve()
        root = download.offer.root
        self.assertEqual(self.read(early, root, 0, 1), download.block(0))
        download.store(2)
        download.publish()
        for served in (early, late):
            for block in (0, 1):
                self.assertEqual(self.read(served, root, block, 1), download.block(block))

    def test_what_is_in_memory(self) -> None:
        """Without a worker just what is there is read, and nothing that was changed."""
        download = self.download(6)
        download.store(*range(4), 5)
        content = download.offer.open(NOBODY)
        self.addCleanup(content.close)
        filled: list[int] = []

        def fill(cached: Cached, offset: int, rooms: Sequence[bytearray]) -> bool:
            filled.append(offset)
            return os.preadv(cached._fd, rooms, offset) == sum(map(len, rooms))

        self.patch(Cached, "fill", fill)
        rooms = [bytearray(2 * BLOCK), bytearray(BLOCK)]
        self.assertTrue(content.read_cached(BLOCK, rooms))
        self.assertEqual(b"".join(rooms), download.content[BLOCK : 4 * BLOCK])
        self.assertFalse(content.read_cached(2 * BLOCK, rooms))
        self.assertEqual(filled, [BLOCK])
        download.store(4)
        self.assertTrue(content.read_cached(2 * BLOCK, rooms))
        download.publish()
        self.assertTrue(content.read_cached(2 * BLOCK, rooms))
        (self.folder / "here.mkv").write_bytes(bytes(len(download.content)))
        self.assertFalse(content.read_cached(2 * BLOCK, rooms))

    def test_changed_after_publication(self) -> None:
        """A published file that its owner changes is not passed off as what it was."""
        download = self.download(3)
        download.store(0, 1, 2)
        served = self.serve()
        root = download.offer.root
        self.assertEqual(self.read(served, root, 0, 1), download.block(0))
        download.publish()
        (self.folder / "here.mkv").write_bytes(download.content[::-1])
        self.assertEqual(self.read(served, root, 1, 1), WIRE_CODES[ContentChanged])
        self.assertEqual(self.read(self.serve(), root, 1, 1), WIRE_CODES[ContentChanged])

    def test_closed_meanwhile(self) -> None:
        """A download that is given up is served as far as it came, while it is offered."""
        download = self.download(3)
        download.store(1)
        download.partial.discard()
        served = self.serve()
        root = download.offer.root
        self.assertEqual(self.read(served, root, 1, 1), download.block(1))
        self.assertEqual(self.read(served, root, 0, 1), NOT_FOUND)

    def test_withdrawn_in_the_middle(self) -> None:
        """A READ that has begun is answered to its end; the next one finds nothing."""
        download = self.download(9)
        download.store(*range(8))
        served = self.serve()
        root = download.offer.root
        served.end.say(Read(root, 0, 8 * PIECES_PER_BLOCK), request=1)
        self.workers.do()
        self.workers.do()
        download.offer.withdraw()
        download.partial.close()
        served.end.say(Read(root, 0, PIECES_PER_BLOCK), request=2)
        self.workers.do_all()
        *data, error = served.end.take()
        self.assertEqual(
            b"".join(bytes(frame.body) for frame in data), download.content[: 8 * BLOCK]
        )
        self.assertEqual((error.request, decode(error, Error).code), (2, NOT_FOUND))

    def test_withdrawn_while_it_is_opened(self) -> None:
        """An offer that goes while a worker looks for it is as one that never was."""
        download = self.download(1)
        download.store(0)
        find = self.offers.find

        def find_and_withdraw(root: bytes, asker: bytes) -> object:
            offer = find(root, asker)
            download.offer.withdraw()
            return offer

        self.offers.find = find_and_withdraw  # type: ignore[method-assign,assignment]  # a worker's bad luck
        served = self.serve()
        self.assertEqual(self.read(served, download.offer.root, 0, 1), NOT_FOUND)

    def test_shared_meanwhile(self) -> None:
        """
        When a content that was offered is withdrawn since it is shared now, whoever was reading it
        reads on from the share, and the files of the offer are closed.
        """
        download = self.download(2)
        download.store(0, 1)
        served = self.serve()
        root = download.offer.root
        self.assertEqual(self.read(served, root, 0, 1), download.block(0))
        self.shelf.put("film", download.content)
        download.offer.withdraw()
        self.assertEqual(self.read(served, root, 0, 1), download.block(0))
        self.assertEqual(self.shelf.open_now, 1)

    def test_open_files_are_counted(self) -> None:
        """What is still read of withdrawn offers counts among the files that may be open."""
        served = self.serve(room=0)
        served.end.say(Ping(), request=99)  # its answer fills the transport
        downloads = [self.download(1, f"film {number}") for number in range(MAX_OPEN)]
        for number, download in enumerate(downloads, 1):
            download.store(0)
            served.end.say(Read(download.offer.root, 0, 1), request=number)
        self.workers.do_all()
        downloads[-1].offer.withdraw()
        root = downloads[-1].offer.root
        served.end.say(Read(root, 0, 1), request=20)
        self.workers.do_all()
        codes = {}
        while frames := served.end.take():
            self.workers.do_all()
            for frame in frames:
                codes[frame.request] = decode(frame, Error).code if frame.kind == Kind.ERROR else 0
        del codes[99]
        self.assertEqual(codes, {**dict.fromkeys(range(1, MAX_OPEN + 1), 0), 20: BUSY})
        self.assertEqual(self.ask(served, Read(root, 0, 1)), [NOT_FOUND], "there is room now")

    def test_closed_when_read(self) -> None:
        """The file of an offer that was withdrawn is closed when nobody reads it any more."""
        for ending in ("read", "cancelled"):
            before = len(os.listdir("/dev/fd"))
            download = self.download(9, ending)
            download.store(*range(9))
            served = self.serve()
            root = download.offer.root
            served.end.say(Read(root, 0, 8 * PIECES_PER_BLOCK), request=1)
            self.workers.do()
            download.offer.withdraw()
            download.partial.close()
            served.end.say(Read(root, 0, 1), request=2)
            self.assertEqual(len(os.listdir("/dev/fd")), before + 1)
            if ending == "cancelled":
                served.end.say(Cancel(), request=1)
            self.workers.do_all()
            self.assertEqual(len(os.listdir("/dev/fd")), before)
            self.assertFalse(served.end.is_closing)

    def test_closed_when_asked_for(self) -> None:
        """If nobody reads it, it is closed as soon as it is asked for in vain."""
        before = len(os.listdir("/dev/fd"))
        download = self.download(1)
        download.store(0)
        served = self.serve()
        question = Read(download.offer.root, 0, 1)
        self.ask(served, question)
        download.offer.withdraw()
        download.partial.close()
        self.assertEqual(len(os.listdir("/dev/fd")), before + 1)
        self.assertEqual(self.ask(served, question), [NOT_FOUND])
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_hung_up_in_the_middle(self) -> None:
        """Whoever hangs up while a worker reads leaves no file open behind."""
        download = self.download(2)
        download.store(0)
        served = self.serve()
        served.end.say(Read(download.offer.root, 0, 1), request=1)
        self.workers.do()
        download.offer.withdraw()
        served.end.say(Read(download.offer.root, 0, 1), request=2)
        served.end.hang_up()
        self.workers.do_all()
        self.assertEqual(len(os.listdir("/dev/fd")), self.descriptors + 2, "the partial's")
        download.partial.close()

    def test_lock_is_given_back(self) -> None:
        """A download that has ended can be gone on with at once, though it is still offered."""
        download = self.download(2)
        download.store(0)
        self.read(self.serve(), download.offer.root, 0, 1)
        download.partial.close()
        again = Partial.open(
            self.folder_fd, "here.mkv", download.offer.root, len(download.content), "this boot"
        )
        again.close()

    def test_by_itself(self) -> None:
        """A file that was opened has so many bytes and no more, and is closed once."""
        download = self.download(2)
        download.store(0, 1)
        file = download.offer.open(ANN)
        rooms = [bytearray(BLOCK), bytearray(700)]
        file.read_into(0, rooms)
        self.assertEqual(b"".join(rooms), download.content)
        for offset in (-1, 1):
            with self.assertRaises(Misuse):
                file.read_into(offset, rooms)
        file.close()
        file.close()

    def test_taken_away(self) -> None:
        """A partial file that somebody has put another in the place of is not offered."""
        download = self.download(2)
        (part,) = [name for name in os.listdir(self.folder) if name.endswith(".part")]
        entry = Entry("a", len(download.content), 0, download.offer.root)
        os.rename(self.folder / part, self.folder / "away")
        with self.assertRaises(ResourceFailure):
            self.offers.prepare(download.partial, entry)
        (self.folder / part).write_bytes(b"")
        with self.assertRaises(DiskFailure):
            self.offers.prepare(download.partial, entry)


class QuestionTests(OfferTestCase):
    """All other requests."""

    def test_stat(self) -> None:
        """
        By its root it is there, under its own name: not in which folder it is, here or there, nor
        what it is called here. By its path it is not there, and no list has it.
        """
        download = self.download(2)
        root = download.offer.root
        served = self.serve()
        entry = Entry("film.mkv", BLOCK + 700, MTIME, root, is_partial=True)
        self.assertEqual(self.ask(served, Stat(root=root)), [Stated(entry)])
        self.assertEqual(self.ask(served, Stat("film.mkv")), [NOT_FOUND])
        self.assertEqual(self.ask(served, Stat("here.mkv")), [NOT_FOUND])
        self.assertEqual(self.ask(served, List()), [Listing(())])

    def test_pages(self) -> None:
        """Proven pages are given; others are not found, and those that cannot be are misuse."""
        download = self.download(600)
        root = download.offer.root
        tree = tree_of(download.content)
        served = self.serve()
        self.assertEqual(self.ask(served, PageRequest(root, 1, 0)), [NOT_FOUND])
        download.offer.page_proven(1, 0, tree.page(1, 0))
        download.offer.page_proven(0, 1, tree.page(0, 1))
        self.assertEqual(self.ask(served, PageRequest(root, 1, 0)), [tree.page(1, 0)])
        self.assertEqual(self.ask(served, PageRequest(root, 0, 1)), [tree.page(0, 1)])
        self.assertEqual(self.ask(served, PageRequest(root, 0, 0)), [NOT_FOUND])
        self.assertEqual(self.ask(served, PageRequest(root, 0, 2)), [WIRE_CODES[Misuse]])

    def test_checksum(self) -> None:
        """The MD5 is told once it is known."""
        download = self.download(1)
        served = self.serve()
        question = Checksum(download.offer.root)
        self.assertEqual(self.ask(served, question), [NOT_FOUND])
        md5 = download.offer.md5 = hashlib.md5(download.content).digest()
        self.assertEqual(self.ask(served, question), [Md5(md5)])

    def test_pieces(self) -> None:
        """The MD5s of a block's pieces are told if it is there."""
        download = self.download(2)
        download.store(1)
        served = self.serve()
        last = download.block(1)
        expected = hashlib.md5(last[:512]).digest() + hashlib.md5(last[512:]).digest()
        root = download.offer.root
        self.assertEqual(self.ask(served, PiecesRequest(root, 1)), [expected])
        self.assertEqual(self.ask(served, PiecesRequest(root, 0)), [NOT_FOUND])

    def test_library_first(self) -> None:
        """A content that is shared as well is served from the share, and whole."""
        download = self.download(2)
        self.shelf.put("film", download.content)
        served = self.serve()
        root = download.offer.root
        ((stated,),) = [self.ask(served, Stat(root=root))]
        assert isinstance(stated, Stated)
        self.assertEqual(stated.entry.path, "film")
        self.assertEqual(
            self.ask(served, PageRequest(root, 0, 0)), [tree_of(download.content).page(0, 0)]
        )
        self.assertEqual(self.ask(served, Read(root, 0, 1)), [download.content[:512]])
        self.assertEqual(self.ask(served, PageRequest(root, 1, 0)), [WIRE_CODES[Misuse]])

    def test_instead_of_a_share_that_fails(self) -> None:
        """What a share has no longer is served from the offer."""
        download = self.download(2)
        self.shelf.put("film", download.content)
        os.truncate(self.shelf.folder / "film", 5)
        download.store(0)
        served = self.serve()
        self.assertEqual(
            self.ask(served, Read(download.offer.root, 0, 1)), [download.content[:512]]
        )

    def test_begin(self) -> None:
        """It cannot be found before it has begun, nor after it was withdrawn."""
        download = self.download(1, begin=False)
        served = self.serve()
        root = download.offer.root
        self.assertEqual(self.ask(served, Stat(root=root)), [NOT_FOUND])
        download.offer.begin()
        self.assertIsInstance(self.ask(served, Stat(root=root))[0], Stated)
        download.prove()
        download.offer.withdraw()
        download.offer.withdraw()
        self.assertEqual(self.ask(served, Stat(root=root)), [NOT_FOUND])
        self.assertIsNone(self.offers.pages.get(root, 0, 0), "pages take no room any more")

    def test_stop(self) -> None:
        """A node that stops withdraws everything."""
        downloads = [self.download(1, str(number)) for number in range(3)]
        self.offers.stop()
        served = self.serve()
        for download in downloads:
            self.assertEqual(self.ask(served, Stat(root=download.offer.root)), [NOT_FOUND])

    def test_same_content_twice(self) -> None:
        """Of two downloads of one content the first is offered; the other one's end is not its."""
        first = self.download(1)
        entry = Entry("other", 700, 0, first.offer.root)
        second = self.offers.prepare(first.partial, entry)
        self.addCleanup(second.withdraw)
        second.begin()
        second.page_proven(0, 0, b"x" * 32)
        served = self.serve()
        root = first.offer.root
        self.assertEqual(self.ask(served, PageRequest(root, 0, 0)), [NOT_FOUND])
        second.withdraw()
        second.published()
        ((stated,),) = [self.ask(served, Stat(root=root))]
        assert isinstance(stated, Stated)
        self.assertEqual(stated.entry.path, "film.mkv")

    def test_same_content_once_more(self) -> None:
        """When the first of two downloads of one content ends, the other one is offered."""
        first = self.download(1)
        second = self.offers.prepare(first.partial, Entry("other", 700, 0, first.offer.root))
        self.addCleanup(second.withdraw)
        second.begin()
        second.linger()
        first.offer.withdraw()
        ((stated,),) = [self.ask(self.serve(), Stat(root=second.root))]
        assert isinstance(stated, Stated)
        self.assertEqual(stated.entry.path, "other")
        self.offers.stop()
        self.assertTrue(second.is_withdrawn)

    def test_many_linger(self) -> None:
        """
        Who downloads one file after the other offers the latest of them on, and has no more open
        than that; what is downloading still stays.
        """
        under_way = self.download(1, "under way").offer
        done = []
        for number in range(200):
            download = self.download(1, f"{number}")
            download.store(0)
            download.publish()
            download.partial.close()
            download.offer.linger()
            done.append(download.offer)
        self.assertLess(len(os.listdir("/dev/fd")) - self.descriptors, 100)
        served = self.serve()
        self.assertEqual(self.ask(served, Stat(root=done[0].root)), [NOT_FOUND])
        for offer in (done[-1], under_way):
            (stated,) = self.ask(served, Stat(root=offer.root))
            self.assertIsInstance(stated, Stated)
        # One that was withdrawn before its time does not make another one go.
        left = [offer for offer in done if not offer.is_withdrawn]
        left[-1].withdraw()
        last = self.download(1, "last").offer
        last.linger()
        self.assertFalse(left[0].is_withdrawn)
        self.clock.advance(60)
        self.assertTrue(last.is_withdrawn)
        self.assertFalse(under_way.is_withdrawn)


class WhoTests(OfferTestCase):
    """WHO."""

    def test_holders(self) -> None:
        """
        WHO is answered with those of whom the node knows: at most 32 at a time, and others the
        next time.
        """
        peers = [Peer(bytes([n]) * 32, "", "10.0.0.1", n + 1) for n in range(40)]
        root = self.download(1).offer.root
        served = self.serve()
        self.assertEqual(self.ask(served, Who(root)), [Holders(())])
        for peer in peers:
            self.holders.note(peer.port, root, peer)
        self.assertEqual(self.ask(served, Who(root)), [Holders(tuple(peers[:32]))])
        self.assertEqual(self.ask(served, Who(root)), [Holders((*peers[32:], *peers[:24]))])
        for peer in peers[1:]:
            self.holders.forget(peer.port)
        self.assertEqual(self.ask(served, Who(root)), [Holders((peers[0],))])

    def test_who_asks_is_told_of(self) -> None:
        """
        Who asks and names a port is told of to the others, at the address that he comes from, until
        he asks without, or is gone; never to himself.
        """
        root = self.download(1).offer.root
        ann, eve = self.serve(ANN), self.serve(EVE)
        self.assertEqual(self.ask(ann, Who(root, 5000)), [Holders(())])
        self.assertEqual(self.ask(ann, Who(root, 5001)), [Holders(())])
        (told,) = self.ask(eve, Who(root, 70))
        assert isinstance(told, Holders)
        (peer,) = told.peers
        self.assertEqual((peer.node, peer.port), (ANN, 5001))
        self.assertEqual(peer.host, ann.protocol.peer_host)
        (told,) = self.ask(ann, Who(root))
        assert isinstance(told, Holders)
        self.assertEqual([each.node for each in told.peers], [EVE])
        self.assertEqual(self.ask(eve, Who(root, 70)), [Holders(())])
        self.ask(ann, Who(root, 5000))
        ann.end.hang_up()
        self.workers.do_all()
        self.assertEqual(self.ask(eve, Who(root)), [Holders(())])

    def test_too_many_contents(self) -> None:
        """A conversation is told of for 16 contents; what it says of more is passed over."""
        ann, eve = self.serve(ANN), self.serve(EVE)
        roots = [self.download(1, f"{n}.bin").offer.root for n in range(17)]
        self.assertEqual(len(set(roots)), 17)
        for root in roots:
            self.ask(ann, Who(root, 5000))
        told = [self.ask(eve, Who(root)) for root in roots]
        self.assertEqual([len(each[0].peers) for each in told], [1] * 16 + [0])

    def test_what_is_not_here(self) -> None:
        """Who may not see a content is not told who has it, nor told of."""
        self.admits = ANN.__eq__
        root = self.download(1).offer.root
        self.assertEqual(self.ask(self.serve(EVE), Who(root, 5000)), [NOT_FOUND])
        self.assertEqual(self.ask(self.serve(ANN), Who(root)), [Holders(())])


class AccessTests(OfferTestCase):
    """Who may have what is downloaded."""

    def questions(self, root: bytes) -> list[Message]:
        """Every request that names a content."""
        return [
            Stat(root=root),
            PageRequest(root, 0, 0),
            Checksum(root),
            Read(root, 0, 1),
            PiecesRequest(root, 0),
            Watch(root),
            Who(root),
        ]

    def test_not_admitted(self) -> None:
        """To whom it is not for, it is not there, in the words for what nobody has."""
        self.admits = ANN.__eq__
        download = self.download(1)
        download.store(0)
        download.prove()
        download.offer.md5 = bytes(16)
        root = download.offer.root
        ann, eve = self.serve(ANN), self.serve(EVE)
        nothing = format_content_id(bytes(32))
        for question, same in zip(self.questions(root), self.questions(bytes(32)), strict=True):
            (answer,) = self.ask(ann, question)
            self.assertNotEqual(answer, NOT_FOUND, question)
            sentences = []
            for each in (question, same):
                eve.end.say(each, request=1)
                self.workers.do_all()
                ((_, told),) = eve.end.heard()
                assert isinstance(told, Error)
                sentences.append(told.sentence.replace(format_content_id(root), nothing))
            self.assertEqual(sentences[0], sentences[1], question)

    def test_admitted_no_longer(self) -> None:
        """Access that is taken away counts for the next visit to the disk."""
        allowed = {ANN}
        self.admits = allowed.__contains__
        download = self.download(2)
        download.store(0)
        root = download.offer.root
        ann = self.serve(ANN)
        self.assertEqual(self.ask(ann, Read(root, 0, 1)), [download.content[:512]])
        allowed.clear()
        self.assertEqual(self.ask(ann, Read(root, 0, 1)), [NOT_FOUND])

    def test_not_offered(self) -> None:
        """A node without offers serves what is shared, and nothing else."""
        download = self.download(1)
        self.factory.contents._offers = None
        for question in self.questions(download.offer.root):
            self.assertEqual(self.ask(self.serve(), question), [NOT_FOUND])


class ProvenPagesTests(SynchronousTestCase):
    """The bound on pages."""

    COST = 16384 + 300

    def test_oldest_go(self) -> None:
        """Beyond the bound the oldest pages of blocks' digests go; those above them stay."""
        pages = ProvenPages(3 * self.COST)
        page = bytes(16384)
        pages.add(b"r", 1, 0, page)
        for index in range(4):
            pages.add(b"r", 0, index, page)
        there = [index for index in range(4) if pages.get(b"r", 0, index) is not None]
        self.assertEqual(there, [2, 3])
        self.assertEqual(pages.get(b"r", 1, 0), page)

    def test_no_room(self) -> None:
        """When only such as may not go are there, a new one is not kept."""
        pages = ProvenPages(self.COST)
        pages.add(b"r", 1, 0, bytes(16384))
        pages.add(b"r", 0, 0, b"x")
        self.assertIsNone(pages.get(b"r", 0, 0))

    def test_forgotten(self) -> None:
        """What a content took is free again when it is forgotten; one page is counted once."""
        pages = ProvenPages(2 * self.COST)
        for root in (b"a", b"b", b"c"):
            for _ in range(2):
                pages.add(root, 0, 0, bytes(16384))
                pages.add(root, 1, 0, bytes(16384))
            self.assertIsNotNone(pages.get(root, 0, 0))
            self.assertIsNotNone(pages.get(root, 1, 0))
            pages.forget(root)
            self.assertIsNone(pages.get(root, 0, 0))
        pages.forget(b"never seen")

    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 5)), max_size=60
        )
    )
    def test_bound(self, steps: list[tuple[str, int, int]]) -> None:
        """However they come and go, what is kept stays within the bound, and is what was added."""
        room = 5 * 310
        pages = ProvenPages(room)
        for name, level, index in steps:
            root = name.encode()
            if level == 2 and index == 5:
                pages.forget(root)
                continue
            pages.add(root, level, index, bytes([level]) * 10)
            kept = [
                page
                for root in (b"a", b"b", b"c")
                for level in range(3)
                for index in range(6)
                if (page := pages.get(root, level, index)) is not None
            ]
            self.assertLessEqual(len(kept) * 310, room)


class NetworkTests(SynchronousTestCase):
    """A download that another node follows, over the in-memory network."""

    def test_follows(self) -> None:
        """
        Who watches a download fetches its blocks as they come, proves them by its pages, and has
        the whole when it is whole.
        """
        network = Network(3)
        there, here = network.host("10.0.0.1", name="there"), network.host("10.0.0.2", name="here")
        shelf = Shelf(a_folder(self))
        self.addCleanup(shelf.shut)
        offers = Offers(there.reactor)
        factory = TransferFactory(
            shelf,
            Introduction(THEIRS, "there"),
            there.reactor,
            there.run_blocking,
            offers=offers,
            reads_cached=False,
        )
        port = network.result(serverFromString(there.reactor, "tcp:5000").listen(factory))
        folder = a_folder(self)
        fd = os.open(folder, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        content = bytes(range(256)) * (5 * 1024) + b"tail"
        root = tree_of(content).root
        partial = Partial.open(fd, "film", root, len(content), "boot")
        self.addCleanup(partial.close)
        offer = offers.prepare(partial, Entry("film", len(content), 0, root))
        offer.begin()
        download = Downloading(content, partial, offer)
        download.prove()
        endpoint = client_endpoint(here.reactor, HostPort("10.0.0.1", 5000))
        connecting = connect_source(
            endpoint, SourceFactory(Introduction(OURS, "here"), here.reactor)
        )
        source = network.result(Deferred.fromCoroutine(connecting))
        verifier = TreeVerifier(root, len(content))
        verifier.add_page(0, 0, network.result(source.page(root, 0, 0)))
        got: dict[int, bytes] = {}

        def told(blocks: Blocks) -> None:
            for first, count in blocks.runs:
                for block in range(first, first + count):
                    fetch(block)
            if blocks.is_all:
                for block in range(partial.blocks):
                    fetch(block)

        def fetch(block: int) -> None:
            def sink(piece: int, data: bytes | bytearray) -> None:
                verifier.verify(block, data)
                got[block] = bytes(data)

            if block not in got:
                count = -(-verifier.shape.block_length(block) // 512)
                source.read(root, len(content), block * 512, count, 512, sink)

        watching = source.watch(root, told)
        for block in (3, 1, 0, 5, 2, 4):
            download.store(block)
            network.run(1.0)
            self.assertEqual(got.get(block), download.block(block))
        network.result(watching)
        self.assertEqual(b"".join(got[block] for block in sorted(got)), content)
        source.leave()
        offers.stop()
        network.result(port.stopListening())
        network.result(factory.stop())
        network.run(100.0)
        network.assert_quiet()


class NodeTests(NodeTestCase):
    """What a node passes on of its downloads, and to whom."""

    def stat(self, asking: NodeService, asked: NodeService, root: bytes) -> Entry | None:
        """Let one node ask another for a content."""
        candidate = asking.neighbourhood.candidate(f"{asked.host}:{asked.port}")
        source = self.network.result(
            Deferred.fromCoroutine(asking.fetching.client.connect(candidate))
        )
        try:
            return self.network.result(source.stat(root=root))
        except NotFound:
            return None
        finally:
            source.leave()

    def offer(self, node: NodeService, name: str) -> Offer:
        """Begin to download something to a share of a node."""
        folder = os.open(self.base / name, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        partial = Partial.open(folder, "film", tree_of(b"film").root, 4, "boot")
        self.addCleanup(partial.close)
        assert node.sharing.offers is not None
        offer = node.sharing.offers.prepare(partial, Entry("film", 4, 0, partial.root))
        offer.begin()
        return offer

    def test_who_may_see_everything(self) -> None:
        """
        What is downloaded is for those who may see everything that the node shares, since it may
        become a part of that.
        """
        ann = self.start(self.host(1), NodeSettings(bootstrap=Mode.ALWAYS))
        eve = self.start(self.host(2), NodeSettings())
        folder = self.share("private")
        (self.base / "private" / ALLOW_FILE).write_text(format_node_id(ann.introduction.node))
        node = self.start(self.host(3), NodeSettings((self.share("public"), folder)))
        offer = self.offer(node, "public")
        self.assertEqual(self.stat(ann, node, offer.root), offer.entry())
        self.assertIsNone(self.stat(eve, node, offer.root))

    def test_allow(self) -> None:
        """Whom the node does not allow gets nothing of its downloads, even if it shares nothing."""
        ann = self.start(self.host(1), NodeSettings(bootstrap=Mode.ALWAYS))
        eve = self.start(self.host(2), NodeSettings())
        allow = (ann.introduction.node,)
        node = self.start(self.host(3), NodeSettings(allow=allow))
        self.share("folder")
        offer = self.offer(node, "folder")
        self.assertEqual(self.stat(ann, node, offer.root), offer.entry())
        self.assertIsNone(self.stat(eve, node, offer.root))

    def test_told_not_to(self) -> None:
        """A node that is told to keep its downloads to itself has no place to offer them."""
        node = self.start(self.host(1), NodeSettings(offer_downloads=False))
        self.assertIsNone(node.sharing.offers)
