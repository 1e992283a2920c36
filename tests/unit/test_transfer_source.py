"""Tests for L{flow512.transfer.source}."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flow512.errors import (
    WIRE_CODES,
    BadFrame,
    BadMessage,
    Busy,
    Flow512Error,
    NotFound,
    PeerLost,
    SourceFailure,
    TimedOut,
    Unreachable,
    Violation,
)
from flow512.link.conversation import Patience
from flow512.link.introduction import Introduction
from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source
from flow512.units import BLOCK, PIECE
from flow512.wire.fields import Message
from flow512.wire.frame import encode_header
from flow512.wire.messages import (
    Cancel,
    Checksum,
    Entry,
    Error,
    Hello,
    Kind,
    List,
    Listing,
    Md5,
    PageRequest,
    Read,
    Stat,
    Stated,
)
from tests.unit.transfer_ends import ADDRESS, OURS, THEIRS, End, ask

ROOT = b"r" * 32


class SourceTestCase(SynchronousTestCase):
    """A source, and its other end in the test's hands."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.source, self.end = ask(self.clock)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.end.hang_up)

    def read(
        self, first: int, count: int, size: int = 4 * BLOCK, run: int = 512
    ) -> tuple[Deferred[None], list[tuple[int, bytes]]]:
        """Ask for pieces; what the sink gets is returned as well."""
        got: list[tuple[int, bytes]] = []
        result = self.source.read(
            ROOT, size, first, count, run, lambda at, data: got.append((at, bytes(data)))
        )
        return result, got

    def data(self, position: int, length: int, request: int = 1, fill: bytes = b"d") -> None:
        """Send a data frame."""
        self.end.say_frame(Kind.DATA, request, fill * length, position)

    def test_like_tls(self) -> None:
        """
        Only what comes first tells that the other side speaks TLS: a chunk that begins with the
        byte of one of its records, after a while without any, is data like all other.
        """
        result, got = self.read(0, 512, BLOCK)
        self.end.say_bytes(encode_header(Kind.DATA, 1, BLOCK, 0) + b"x" * 1000)
        self.clock.advance(Patience().silence)
        self.end.say_bytes(b"\x16" + b"x" * (BLOCK - 1001))
        self.successResultOf(result)
        self.assertEqual(len(got[0][1]), BLOCK)

    def fails_the_conversation(self, result: Deferred[object]) -> None:
        """The request failed with the violation, and the source was told and left."""
        self.failureResultOf(result, Violation)
        told = [message for _, message in self.end.heard() if isinstance(message, Error)]
        self.assertEqual(len(told), 1)
        self.assertTrue(self.end.is_closing)
        self.assertFalse(self.source.is_open)


class AnswerTests(SourceTestCase):
    """What is asked, and what comes of the answer."""

    def test_questions(self) -> None:
        """Each question goes out as its message, and gives what its answer holds."""
        entry = Entry("a", 5, 0, ROOT)
        cases: list[tuple[Callable[[], Deferred[object]], Message, Message, object]] = [
            (
                lambda: self.source.list("a", "", 7),
                List("a", "", 7),
                Listing((entry,)),
                Listing((entry,)),
            ),
            (lambda: self.source.stat("a"), Stat("a"), Stated(entry), entry),
            (lambda: self.source.stat(root=ROOT), Stat("", ROOT), Stated(entry), entry),
            (lambda: self.source.checksum(ROOT), Checksum(ROOT), Md5(b"m" * 16), b"m" * 16),
        ]
        for call, question, answer, expected in cases:
            result = call()
            ((request, message),) = self.end.heard()
            self.assertEqual(message, question)
            self.end.say(answer, request=request)
            self.assertEqual(self.successResultOf(result), expected)

    def test_page(self) -> None:
        """A page of digests comes as bytes."""
        result = self.source.page(ROOT, 1, 5)
        self.assertEqual(self.end.heard(), [(1, PageRequest(ROOT, 1, 5))])
        self.end.say_frame(Kind.DIGESTS, 1, b"p" * 64, 5)
        self.assertEqual(self.successResultOf(result), b"p" * 64)

    def test_pieces(self) -> None:
        """Pieces come to the sink frame by frame; a block's boundary and the end cut runs."""
        size = BLOCK + 3 * PIECE + 10
        result, got = self.read(509, 7, size, run=2)
        self.assertEqual(self.end.heard(), [(1, Read(ROOT, 509, 7, 2))])
        for position, length in ((509, 1024), (511, 512), (512, 1024), (514, 522)):
            self.assertNoResult(result)
            self.data(position, length)
        self.assertIsNone(self.successResultOf(result))
        self.assertEqual(
            [(at, len(data)) for at, data in got],
            [(509, 1024), (511, 512), (512, 1024), (514, 522)],
        )

    def test_several_blocks_in_a_frame(self) -> None:
        """Where the run is longer than a block, the source says how many come together."""
        size = 6 * BLOCK + 100
        for frames in (
            [(500, 12 * PIECE + 3 * BLOCK), (4 * 512, 2 * BLOCK + 100)],
            [(500, 12 * PIECE), (512, 4 * BLOCK), (5 * 512, BLOCK), (6 * 512, 100)],
        ):
            self.setUp()
            result, got = self.read(500, 6 * 512 + 1 - 500, size, run=2048)
            for frame in frames:
                self.assertNoResult(result)
                self.data(*frame)
            self.assertIsNone(self.successResultOf(result))
            self.assertEqual([(at, len(data)) for at, data in got], frames)
            self.doCleanups()

    def test_frames_of_no_blocks(self) -> None:
        """Wherever a frame ends, it is at the end of a block, and within the run and the read."""
        size = 6 * BLOCK + 100
        for run, wanted, length in (
            (2048, 6 * 512, BLOCK - PIECE),
            (2048, 6 * 512, BLOCK + PIECE),
            (2048, 6 * 512, BLOCK + 1),
            (2048, 6 * 512, 0),
            (2048, 6 * 512, 4 * BLOCK - 1),
            (1024, 6 * 512, 3 * BLOCK),
            (1023, 6 * 512, 2 * BLOCK),
            (512, 6 * 512, 2 * BLOCK),
            (2048, 2 * 512, 3 * BLOCK),
            (2048, 1000, 2 * BLOCK),
        ):
            self.setUp()
            result, got = self.read(0, wanted, size, run)
            self.end.heard()
            self.data(0, length)
            self.assertEqual(got, [], (run, wanted, length))
            self.fails_the_conversation(result)
            self.doCleanups()

    def test_answers_in_any_order(self) -> None:
        """Every answer finds its request."""
        first, second = self.source.checksum(ROOT), self.source.checksum(ROOT)
        self.end.say(Md5(b"2" * 16), request=2)
        self.assertNoResult(first)
        self.end.say(Md5(b"1" * 16), request=1)
        self.assertEqual(self.successResultOf(first), b"1" * 16)
        self.assertEqual(self.successResultOf(second), b"2" * 16)

    def test_refusals(self) -> None:
        """An error fails its request, with its own words, and the conversation goes on."""
        result, _ = self.read(0, 512)
        self.end.say(Error(WIRE_CODES[Busy], "later", 3.0), request=1)
        error = self.failureResultOf(result, Busy).value
        self.assertEqual((str(error), error.retry_after), ("later", 3.0))
        result = self.source.stat("a")
        self.end.say(Error(WIRE_CODES[NotFound], "none"), request=2)
        self.failureResultOf(result, NotFound)
        self.assertTrue(self.source.is_open)


class ViolationTests(SourceTestCase):
    """A source is not believed."""

    def test_data_that_is_not_called_for(self) -> None:
        """Data at another place, or of another length, fails the conversation."""
        for position, length in ((1, BLOCK), (0, BLOCK - 1), (0, 512), (0, 0), (2**63, BLOCK)):
            self.setUp()
            result, got = self.read(0, 1024)
            self.end.heard()
            self.data(position, length)
            self.fails_the_conversation(result)
            self.assertEqual(got, [])
            self.doCleanups()

    def test_frame_of_another_kind(self) -> None:
        """A frame of another kind than the request calls for fails the conversation."""
        result, _ = self.read(0, 512)
        question = self.source.checksum(ROOT)
        self.end.heard()
        self.data(0, BLOCK, request=2)
        self.fails_the_conversation(result)
        self.failureResultOf(question, BadFrame)

    def test_answer_in_a_stream(self) -> None:
        """An answer in place of data fails the conversation."""
        result, _ = self.read(0, 512)
        self.end.heard()
        self.end.say(Md5(bytes(16)), request=1)
        self.fails_the_conversation(result)

    def test_request_that_nobody_made(self) -> None:
        """A frame for an unknown request, or one that was answered before, is a violation."""
        result = self.source.checksum(ROOT)
        other = self.source.checksum(ROOT)
        self.end.heard()
        self.end.say(Md5(bytes(16)), request=1)
        self.successResultOf(result)
        self.end.say(Md5(bytes(16)), request=1)
        self.fails_the_conversation(other)

    def test_error_for_nobody(self) -> None:
        """So is an error for a request that nobody made."""
        other = self.source.checksum(ROOT)
        self.end.heard()
        self.end.say(Error(5, "none"), request=9)
        self.fails_the_conversation(other)

    def test_body_that_is_no_message(self) -> None:
        """An answer that cannot be read fails the conversation, and its request."""
        result = self.source.checksum(ROOT)
        self.end.heard()
        self.end.say_frame(Kind.MD5, 1, b"\xc1")
        self.fails_the_conversation(result)

    def test_entry_of_another_file(self) -> None:
        """An entry under another path, of another root, or without one, is a lie."""
        for call, entry in (
            (lambda: self.source.stat("a"), Entry(".bashrc", 5, 0, ROOT)),
            (lambda: self.source.stat("a"), Entry("a", 5, 0, None)),
            (lambda: self.source.stat(root=ROOT), Entry("a", 5, 0, b"x" * 32)),
        ):
            self.setUp()
            result = call()
            self.end.heard()
            self.end.say(Stated(entry), request=1)
            self.fails_the_conversation(result)
            self.doCleanups()

    def test_list_that_leads_nowhere(self) -> None:
        """A list out of order, behind its beginning, or of something else, is refused."""
        for paths in (("b/2", "b/1"), ("b/2", "b/2"), ("b/0",), ("c",)):
            self.setUp()
            result = self.source.list("b", "b/0")
            self.end.heard()
            entries = tuple(Entry(path, 0, 0) for path in paths)
            self.end.say(Listing(entries, True), request=1)
            self.fails_the_conversation(result)
            self.doCleanups()

    def test_list_of_nothing_and_more(self) -> None:
        """A list that has nothing cannot be followed by more."""
        result = self.source.list("b")
        self.end.heard()
        self.end.say(Listing((), True), request=1)
        self.fails_the_conversation(result)


class CancelTests(SourceTestCase):
    """Requests that nobody wants any more."""

    def test_question(self) -> None:
        """The source is told once, and its answer is dropped when it comes."""
        result = self.source.checksum(ROOT)
        self.end.heard()
        result.cancel()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.end.heard(), [(1, Cancel())])
        self.end.say(Md5(bytes(16)), request=1)
        self.assertTrue(self.source.is_open)

    def test_stream(self) -> None:
        """Data that was on its way is dropped; the end comes as data or as an error."""
        for ends_with_error in (False, True):
            request = self.source._last_request + 1
            result, got = self.read(0, 1024)
            self.data(0, BLOCK, request)
            result.cancel()
            self.failureResultOf(result, CancelledError)
            if ends_with_error:
                self.end.say(Error(10, "cancelled"), request=request)
            else:
                self.data(512, BLOCK, request)
            self.assertEqual(len(got), 1)
            self.assertTrue(self.source.is_open)

    def test_sink_that_cancels(self) -> None:
        """A sink may cancel the very request that it is called for."""
        results: list[Deferred[None]] = []
        results.append(
            self.source.read(ROOT, BLOCK, 0, 512, 512, lambda at, data: results[0].cancel())
        )
        self.data(0, BLOCK)
        self.failureResultOf(results[0], CancelledError)
        self.assertTrue(self.source.is_open)

    def test_sink_that_leaves(self) -> None:
        """A sink may leave the source."""
        result = self.source.read(ROOT, BLOCK, 0, 512, 512, lambda at, data: self.source.leave())
        self.data(0, BLOCK)
        self.failureResultOf(result, PeerLost)


class EndTests(SourceTestCase):
    """The end of a conversation."""

    def test_pending_requests(self) -> None:
        """Every pending request fails with what ended the conversation."""
        results = [self.source.checksum(ROOT), self.read(0, 1)[0]]
        results[0].addErrback(lambda _: results[1].cancel())
        self.end.say(Error(WIRE_CODES[Busy], "too many", 1.0))
        self.successResultOf(results[0])
        self.failureResultOf(results[1], CancelledError)

    def test_lost(self) -> None:
        """A lost connection fails what is pending, and all that is asked afterwards."""
        result = self.source.checksum(ROOT)
        self.end.hang_up()
        self.failureResultOf(result, PeerLost)
        self.failureResultOf(self.source.stat("a"), PeerLost)
        self.failureResultOf(self.source.when_open(), PeerLost)

    def test_before_the_hello(self) -> None:
        """Nothing can be asked before the hello."""
        source, end = ask(self.clock, hello=False)
        self.addCleanup(end.hang_up)
        self.failureResultOf(source.stat("a"), PeerLost)

    def test_what_cannot_be_said(self) -> None:
        """A request that no frame can carry is refused here; nothing is left to wait for."""
        with self.assertRaises(BadMessage):
            self.source.stat("\udcff")
        self.assertEqual(self.end.take(), [])
        result = self.source.stat("a")
        self.end.hang_up()
        self.failureResultOf(result, PeerLost)

    def test_request_numbers_wrap(self) -> None:
        """After the largest number comes 1 again, and none that is under way."""
        with mock.patch("flow512.transfer.source.MAX_REQUEST", 3):
            first = self.source.checksum(ROOT)
            for number in (2, 3, 2):
                result = self.source.checksum(ROOT)
                self.assertEqual(self.end.take()[-1].request, number)
                self.end.say(Md5(bytes(16)), request=number)
                self.successResultOf(result)
        self.assertNoResult(first)
        self.end.say(Md5(bytes(16)), request=1)
        self.successResultOf(first)


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects when the test says so."""

    def __init__(self) -> None:
        self.result: Deferred[SourceProtocol] = Deferred(
            lambda waiting: waiting.errback(ConnectingCancelledError(ADDRESS))
        )
        self.factory: IProtocolFactory | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[SourceProtocol]:
        self.factory = protocolFactory
        return self.result


class ConnectTests(SynchronousTestCase):
    """L{connect_source}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def connect(self, expected: bytes | None = None) -> Deferred[SourceProtocol]:
        """Begin to connect."""
        factory = SourceFactory(Introduction(OURS), self.clock, expected=expected)
        return Deferred.fromCoroutine(connect_source(self.endpoint, factory))

    def answered(self) -> End:
        """Somebody answers."""
        assert self.endpoint.factory is not None
        source = self.endpoint.factory.buildProtocol(ADDRESS)
        assert isinstance(source, SourceProtocol)
        end = End(source)
        self.addCleanup(end.hang_up)
        self.endpoint.result.callback(source)
        return end

    def test_open(self) -> None:
        """It gives the source once the hellos are said."""
        result = self.connect(THEIRS)
        end = self.answered()
        ((_, hello),) = end.heard()
        assert isinstance(hello, Hello)
        self.assertEqual((hello.node, hello.conversation), (OURS, "transfer"))
        self.assertNoResult(result)
        end.say_hello()
        source = self.successResultOf(result)
        self.assertTrue(source.is_open)
        self.assertIs(self.successResultOf(source.when_open()), source)

    def test_another_node(self) -> None:
        """A node that is not the one looked for is refused."""
        result = self.connect(OURS)
        self.answered().say_hello()
        self.failureResultOf(result, Violation)

    def test_refused(self) -> None:
        """A refusal of the other side is given in its own words."""
        result = self.connect()
        self.answered().say(Error(WIRE_CODES[SourceFailure], "no disk"))
        self.assertEqual(str(self.failureResultOf(result, SourceFailure).value), "no disk")

    def test_silent(self) -> None:
        """One who never says hello is given up."""
        result = self.connect()
        self.answered()
        self.clock.advance(10)
        self.failureResultOf(result, TimedOut)

    def test_no_node(self) -> None:
        """Something else than a node is a violation."""
        result = self.connect()
        self.answered().say_bytes(b"HTTP/1.1 400 Bad Request\r\n")
        self.failureResultOf(result, BadFrame, BadMessage)

    def test_nobody_there(self) -> None:
        """Whatever keeps a connection from being made is told as such."""
        for error, words in (
            (ConnectionRefusedError(), "connection was refused by other side"),
            (DNSLookupError(), "dns lookup failed"),
            (OSError(19, "No such device"), "no such device"),
            (OSError("odd"), "odd"),
        ):
            self.endpoint.result = fail(error)
            failure = self.failureResultOf(self.connect(), Unreachable)
            self.assertEqual(str(failure.value), words)

    def test_cancelled_while_connecting(self) -> None:
        """Cancelled before there is a connection, it is cancelled, and nothing else."""
        result = self.connect()
        result.cancel()
        self.failureResultOf(result, CancelledError)

    def test_cancelled_before_the_hello(self) -> None:
        """Cancelled before the hello, the connection is closed."""
        result = self.connect()
        end = self.answered()
        result.cancel()
        self.failureResultOf(result, Flow512Error)
        self.assertTrue(end.is_closing)
