"""Tests for L{flow512.transfer.http_source}."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from flow512.errors import (
    BadMessage,
    Busy,
    ContentChanged,
    Flow512Error,
    NotAllowed,
    NotFound,
    PeerLost,
    SourceFailure,
    TimedOut,
    Unreachable,
)
from flow512.link.http_url import parse_http_url
from flow512.link.rate import BURST, LATE, LEAST_RATE, TURN
from flow512.link.throttle import Throttle
from flow512.testing import Network
from flow512.transfer.blocks import BlockSource
from flow512.transfer.http_source import CONNECTIONS, HttpSource, http_source
from flow512.units import BLOCK, PIECE, PIECES_PER_BLOCK

CONTENT = Random(4).randbytes(5 * BLOCK + 3 * PIECE + 17)
SIZE = len(CONTENT)
PIECES = -(-SIZE // PIECE)
ROOT = bytes(32)
SECRET = "hunter2"
LATIN = "\udce9"
"""A byte of a header that is not UTF-8."""


class Scripted(Protocol):
    """The server's end of a connection, which answers as the test says."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = ""

    def connectionMade(self) -> None:
        self.server.open.append(self)
        self.server.most_open = max(self.server.most_open, len(self.server.open))

    def dataReceived(self, data: bytes) -> None:
        self.received += data.decode("utf-8", "surrogateescape")
        while "\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition("\r\n\r\n")
            self.server.requests.append(head)
            self.transport.write(self.server.answer(head))  # type: ignore[union-attr]  # it is there

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.open.remove(self)


class Server(Factory[Scripted]):
    """
    A web server that answers as the test says.

    @ivar requests: the heads of all requests.
    @ivar open: the connections.
    """

    noisy = False

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.open: list[Scripted] = []
        self.most_open = 0

    def buildProtocol(self, addr: object) -> Scripted:
        return Scripted(self)

    def asked(self, name: str) -> list[str | None]:
        """The values of a header in all requests."""
        found = [re.search(rf"(?im)^{name}: (.*?)\r?$", head) for head in self.requests]
        return [each[1] if each else None for each in found]


def head(status: int, length: int | None, *lines: str) -> bytes:
    """The head of an answer."""
    told = [] if length is None else [f"Content-Length: {length}"]
    text = "\r\n".join([f"HTTP/1.1 {status} Status", *told, *lines, "", ""])
    return text.encode("utf-8", "surrogateescape")


def bounds(request: str) -> tuple[int, int]:
    """The first byte that a request asks for, and the one after the last."""
    found = re.search(r"(?i)^range: bytes=(\d+)-(\d+)", request, re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2]) + 1


def part(request: str, *lines: str, content: bytes = CONTENT) -> bytes:
    """The right answer."""
    start, end = bounds(request)
    told = f"Content-Range: bytes {start}-{end - 1}/{len(content)}"
    return head(206, end - start, told, *lines) + content[start:end]


class HttpCase(SynchronousTestCase):
    """A host with a web server, and one that reads."""

    def setUp(self) -> None:
        self.network = Network(3)
        self.web = self.network.host("10.0.0.1", "fd00::1", name="web")
        self.here = self.network.host("10.0.0.2", "fd00::2", name="here")
        self.came: dict[int, bytes] = {}
        self.sources: list[HttpSource] = []
        self.addCleanup(self.leave)

    def serve(self, answer: Callable[[str], bytes], port: int = 80) -> Server:
        server = Server(answer)
        self.web.reactor.listenTCP(port, server, interface="::")
        return server

    def source(self, url: str = "http://web/file", down: Throttle | None = None) -> HttpSource:
        source = http_source(self.here.reactor, parse_http_url(url), down=down)
        self.sources.append(source)
        return source

    def leave(self) -> None:
        """Nothing of the sources is still there when they have been left."""
        for source in self.sources:
            source.leave()
        self.network.run(1)
        self.assertEqual(self.here.left_over(), [])

    def start(
        self,
        source: HttpSource,
        first: int = 0,
        count: int = PIECES,
        run: int = PIECES_PER_BLOCK,
        size: int = SIZE,
    ) -> Deferred[None]:
        def sink(piece: int, data: bytes | bytearray) -> None:
            self.assertNotIn(piece, self.came)
            self.came[piece] = bytes(data)
            source.buffers.give_back(data)

        return source.read(ROOT, size, first, count, run, sink)

    def read(self, source: HttpSource, *given: int, **named: int) -> bytes:
        """Read, and give all that came by this; it came in order."""
        self.came = {}
        self.network.result(self.start(source, *given, **named), limit=200)
        self.assertEqual(list(self.came), sorted(self.came))
        return b"".join(self.came.values())

    def fails(self, kind: type[Exception], source: HttpSource, *given: int, **named: int) -> str:
        """Read, which fails so; nothing but the right bytes came until then."""
        self.came = {}
        with self.assertRaises(kind) as caught:
            self.network.result(self.start(source, *given, **named), limit=200)
        for piece, data in self.came.items():
            self.assertEqual(data, CONTENT[piece * PIECE : piece * PIECE + len(data)])
        self.assertTrue(str(caught.exception).isprintable())
        self.assertNotIn(SECRET, str(caught.exception))
        return str(caught.exception)


class RateTests(HttpCase):
    """A node that keeps to a rate does so towards web servers."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(part)

    def measured(self, source: HttpSource, times: int) -> list[tuple[float, int]]:
        """Read the file several times at once; tell when how many bytes had come in all."""
        came: list[tuple[float, int]] = [(0.0, 0)]
        begin = self.network.clock.seconds()

        def sink(piece: int, data: bytes | bytearray) -> None:
            came.append((self.network.clock.seconds() - begin, came[-1][1] + len(data)))
            source.buffers.give_back(data)

        reads = [source.read(ROOT, SIZE, 0, PIECES, 512, sink) for _ in range(times)]
        for read in reads:
            self.network.result(read, limit=1000)
        return came

    def test_rate(self) -> None:
        """Whatever is read, by however many connections, it comes no faster, nor slower."""
        for rate in (500_000, 10_000_000):
            down = Throttle(self.here.reactor, rate)
            came = self.measured(self.source(down=down), 8)
            burst = max(TURN, rate * BURST)
            for seconds, size in came:
                # Of each answer, what came with its head is paid for when it has come.
                most = rate * (seconds + LATE) + burst + CONNECTIONS * 64 * 1024
                self.assertLessEqual(size, most, (rate, seconds))
            self.assertEqual(came[-1][1], 8 * SIZE)
            self.assertLess(came[-1][0], 8 * SIZE / rate + 1)

    def test_least_rate(self) -> None:
        """At the least rate connections wait for minutes, which is no silence of the server."""
        source = self.source(down=Throttle(self.here.reactor, LEAST_RATE))
        came = self.measured(source, CONNECTIONS)
        self.assertGreater(came[-1][0], 4 * SIZE / LEAST_RATE - 30)
        self.assertGreater(TURN / LEAST_RATE * CONNECTIONS, source.patience.silence)

    def test_turns(self) -> None:
        """Who shares the rate gets as much as the others, however many connections it has."""
        down = Throttle(self.here.reactor, 1_000_000)
        one, other = self.source(down=down), self.source(down=down)
        came = {one: 0, other: 0}

        def reading(source: HttpSource) -> Deferred[None]:
            def sink(piece: int, data: bytes | bytearray) -> None:
                came[source] += len(data)
                source.buffers.give_back(data)

            return source.read(ROOT, SIZE, 0, PIECES, 512, sink)

        reads = [reading(one) for _ in range(CONNECTIONS)] + [reading(other)]
        self.network.run(2)
        self.assertGreater(came[one] + came[other], 1_500_000)
        self.assertLess(abs(came[one] - came[other]), 2 * TURN)
        for read in reads:
            self.network.result(read, limit=100)

    def test_given_up(self) -> None:
        """Who has been given up, or left, waits for no turn and has what it paid for given back."""
        down = Throttle(self.here.reactor, LEAST_RATE)
        source = self.source(down=down)
        for leave in (False, True):
            reads = [self.start(source) for _ in range(3)]
            self.came = {}
            self.network.run(1)
            if leave:
                source.leave()
            for read in reads:
                read.cancel()
                self.failureResultOf(read)
        self.network.run(1)
        self.assertEqual(self.here.left_over(), [])

    def test_limit_is_lifted(self) -> None:
        """When the limit goes, who was held back goes on at once."""
        down = Throttle(self.here.reactor, LEAST_RATE)
        read = self.start(self.source(down=down))
        self.network.run(3)
        self.assertNoResult(read)
        down.limit(0)
        self.network.run(1)
        self.successResultOf(read)


class ReadTests(HttpCase):
    """Reading from servers as they should be."""

    def test_blocks(self) -> None:
        """One request brings whole blocks, in order; the last one is as short as the file says."""
        server = self.serve(part)
        source: BlockSource = self.source()
        assert isinstance(source, HttpSource)
        self.assertEqual(self.read(source), CONTENT)
        self.assertEqual(list(self.came), [PIECES_PER_BLOCK * at for at in range(6)])
        self.assertEqual(server.asked("range"), [f"bytes=0-{SIZE - 1}"])
        self.assertEqual(server.asked("accept-encoding"), ["identity"])
        self.assertEqual(
            self.read(source, PIECES_PER_BLOCK * 2, 700), CONTENT[2 * BLOCK :][: 700 * PIECE]
        )
        self.assertEqual(list(self.came), [1024, 1536])
        self.assertEqual(self.read(source, PIECES - 1, 1), CONTENT[-17:])

    def test_runs(self) -> None:
        """Runs are no longer than was asked for, and never cross the end of a block."""
        self.serve(part)
        self.assertEqual(
            self.read(self.source(), 500, 300, 200), CONTENT[500 * PIECE : 800 * PIECE]
        )
        self.assertEqual(list(self.came), [500, 512, 712])

    def test_buffers_used_again(self) -> None:
        """Blocks are put together in the buffers that the sink has given back."""
        self.serve(part)
        source = self.source()
        seen = []

        def sink(piece: int, data: bytes | bytearray) -> None:
            seen.append(id(data))
            source.buffers.give_back(data)

        self.network.result(source.read(ROOT, SIZE, 0, 5 * PIECES_PER_BLOCK, 512, sink))
        self.assertEqual((len(seen), len(set(seen))), (5, 1))

    def test_connection_used_again(self) -> None:
        """Reads one after the other go by one connection, which is closed when it is left."""
        server = self.serve(part)
        source = self.source()
        for at in range(4):
            self.read(source, at * PIECES_PER_BLOCK, PIECES_PER_BLOCK)
        self.assertEqual(len(server.open), 1)
        source.leave()
        self.network.run(1)
        self.assertEqual((server.most_open, server.open), (1, []))

    def test_few_connections(self) -> None:
        """However much is asked for at once, few connections are used, and all of them."""
        server = self.serve(part)
        source = self.source()
        reads = [self.start(source, at * 100, 100) for at in range(20)]
        for read in reads:
            self.network.result(read)
        self.assertEqual(len(server.requests), 20)
        self.assertEqual(server.most_open, CONNECTIONS)
        self.assertEqual(
            b"".join(self.came[at] for at in sorted(self.came)), CONTENT[: 2000 * PIECE]
        )

    def test_addresses(self) -> None:
        """IPv6, a port, a query and what has to be encoded arrive as they are meant."""
        server = self.serve(part, 8080)
        source = self.source("http://[fd00::1]:8080/a%2Fb/\u00fc?x=1&y=%26")
        self.assertEqual(self.read(source), CONTENT)
        self.assertTrue(server.requests[0].startswith("GET /a%2Fb/%C3%BC?x=1&y=%26 HTTP/1.1"))
        self.assertEqual(server.asked("host"), ["[fd00::1]:8080"])

    def test_password(self) -> None:
        """User and password are told to the server, and are in no log."""
        server = self.serve(lambda request: part(request, "Location: /"))
        events: list[object] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        source = self.source(f"http://ann:{SECRET}@web/file?key={SECRET}")
        self.assertEqual(self.read(source), CONTENT)
        self.assertEqual(server.asked("authorization"), ["Basic YW5uOmh1bnRlcjI="])
        self.assertNotIn("@", server.requests[0])
        self.assertNotIn(SECRET, repr(events))

    def test_no_digests(self) -> None:
        """Digests and checksums are for others to tell."""
        source = self.source()
        for asked in (source.page(ROOT, 0, 0), source.checksum(ROOT)):
            self.failureResultOf(asked, NotFound)

    def test_archive(self) -> None:
        """An archive that the server says is encoded, as many do, is taken as it is."""
        self.serve(lambda request: part(request, "Content-Encoding: gzip"))
        self.assertEqual(self.read(self.source("http://web/file.tar.gz")), CONTENT)

    def test_no_ranges(self) -> None:
        """A server without ranges is good for the beginning of a file, and for no more."""
        server = self.serve(lambda _: head(200, SIZE) + CONTENT)
        source = self.source()
        self.assertEqual(self.read(source), CONTENT)
        self.assertEqual(self.read(source, 0, 700), CONTENT[: 700 * PIECE])
        self.network.run(1)
        self.assertEqual(server.open, [])
        self.assertIn("only whole", self.fails(SourceFailure, source, 512, 1))

    def test_unknown_length(self) -> None:
        """A body in chunks, or up to the end of the connection, is taken as far as it is wanted."""
        chunk = b"%x\r\n%b\r\n" % (SIZE, CONTENT)
        told = f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}"
        answers = (
            head(206, None, told, "Transfer-Encoding: chunked") + chunk + b"0\r\n\r\n",
            head(206, None, told, "Transfer-Encoding: chunked") + chunk,
            head(206, None, told) + CONTENT,
            head(200, None) + CONTENT + b"more",
        )
        for at, answer in enumerate(answers):
            server = self.serve(lambda _, answer=answer: answer, 100 + at)  # type: ignore[misc]  # mypy cannot infer it
            source = self.source(f"http://web:{100 + at}/")
            self.assertEqual(self.read(source), CONTENT)
            self.network.run(1)
            self.assertEqual(server.open, [])


class RefusalTests(HttpCase):
    """Servers that have something else, or nothing."""

    def test_answers(self) -> None:
        """Each answer that is not the one that was asked for fails with its own cause."""

        def ranged(told: str) -> bytes:
            return head(206, SIZE, f"Content-Range: {told}") + CONTENT

        rows: list[tuple[bytes, type[Flow512Error], str]] = [
            (head(404, 0), SourceFailure, "no file there (404)"),
            (head(410, 0), SourceFailure, "no file there (410)"),
            (head(401, 0), NotAllowed, "(401)"),
            (head(403, 4) + b"no!!", NotAllowed, "(403)"),
            (head(500, 10**9) + b"endless", SourceFailure, "status 500"),
            (head(204, None), SourceFailure, "status 204"),
            (head(206, SIZE) + CONTENT, BadMessage, "does not say which"),
            (ranged("pieces 0-9/9"), BadMessage, "does not say which"),
            (ranged(f"bytes 1-{SIZE}/{SIZE}"), BadMessage, "and sends 1 to"),
            (ranged(f"bytes 0-{SIZE}/{SIZE}"), BadMessage, f"sends 0 to {SIZE}"),
            (ranged(f"bytes */{SIZE}"), BadMessage, "was asked for bytes 0"),
            (ranged(f"bytes 0-{SIZE - 1}/{SIZE + 1}"), ContentChanged, f"has {SIZE + 1} bytes"),
            (head(200, SIZE - 1) + CONTENT[1:], ContentChanged, f"not the {SIZE} of this"),
            (head(416, 0, "Content-Range: bytes */5"), ContentChanged, "has 5 bytes"),
            (head(416, 0), BadMessage, "has no such part"),
            (head(301, 0), BadMessage, "redirects to nowhere"),
            (head(302, 0, "Location: ftp://web/"), BadMessage, "redirects to nowhere"),
            (head(302, 0, f"Location: /{LATIN}"), BadMessage, "redirects to nowhere"),
            (ranged(f"bytes 0-{SIZE - 1}/{LATIN}"), BadMessage, "does not say which"),
            (b"SSH-2.0-OpenSSH_9\r\n\r\n", BadMessage, "is not HTTP"),
            (b"HTTP/1.1 206 Part\r\nX-\xff: y\r\n\r\n", BadMessage, "is not HTTP"),
            (b"HTTP/1.1 206 Part\r\nContent-Length: y\r\n\r\n", BadMessage, "is not HTTP"),
            (b"HTTP/1.1 206 Part\r\nTransfer-Encoding: y\r\n\r\n", BadMessage, "is not HTTP"),
        ]
        for at, (answer, kind, words) in enumerate(rows):
            server = self.serve(lambda _, answer=answer: answer, 100 + at)  # type: ignore[misc]  # mypy cannot infer it
            source = self.source(f"http://u:{SECRET}@web:{100 + at}/x?{SECRET}")
            sentence = self.fails(kind, source)
            self.assertIn(words, sentence, answer[:60])
            self.assertIn(f"web:{100 + at}", sentence)
            self.network.run(1)
            self.assertLessEqual(len(server.requests), 2)  # Agent tries an idle connection again
            self.assertEqual(self.came, {})

    def test_any_size(self) -> None:
        """A server that does not know the file's size is not refused for it."""
        self.serve(lambda _: head(206, SIZE, f"Content-Range: bytes 0-{SIZE - 1}/*") + CONTENT)
        self.assertEqual(self.read(self.source()), CONTENT)

    def test_busy(self) -> None:
        """One that is busy says for how long, and is not believed beyond an hour."""
        for at, (told, seconds) in enumerate(
            (
                ("Retry-After: 7", 7.0),
                ("X: y", 1.0),
                ("Retry-After: 999999", 3600.0),
                ("Retry-After: Fri, 31 Dec", 1.0),
                (f"Retry-After: {LATIN}", 1.0),
            )
        ):
            self.serve(lambda _, told=told: head(503 - 74 * (told == "X: y"), 0, told), 100 + at)  # type: ignore[misc]  # mypy cannot infer it
            read = self.start(self.source(f"http://web:{100 + at}/"))
            with self.assertRaises(Busy) as caught:
                self.network.result(read)
            self.assertEqual(caught.exception.retry_after, seconds)

    def test_not_there(self) -> None:
        """A name that nobody has, and a port that nobody listens on, are told apart."""
        self.assertIn("refused", self.fails(Unreachable, self.source("http://web:81/")))
        self.assertIn(
            "nobody is not reached", self.fails(Unreachable, self.source("http://nobody/"))
        )

    def test_not_private(self) -> None:
        """What does not speak TLS where TLS is asked for is not trusted."""
        self.serve(lambda _: b"", 443)
        port = self.web.reactor.listenTCP(444, Factory.forProtocol(_Greeter))
        self.assertIn("is not trusted", self.fails(Unreachable, self.source("https://web:444/")))
        port.stopListening()

    def test_ends_early(self) -> None:
        """A connection that ends in the middle is no whole answer; what came before is good."""
        server = self.serve(lambda request: part(request)[: 3 * BLOCK])
        source = self.source()
        read = self.start(source)
        self.network.run_until(lambda: len(self.came) == 2)
        server.open[0].transport.loseConnection()  # type: ignore[union-attr]  # it is there
        with self.assertRaises(PeerLost) as caught:
            self.network.result(read)
        self.assertIn("before everything had come", str(caught.exception))
        self.assertEqual(len(self.came), 2)

    def test_silent(self) -> None:
        """A server that says nothing to a request is given up, and so is one that stops."""
        self.serve(lambda _: b"")
        self.assertIn("does not answer", self.fails(TimedOut, self.source()))
        server = self.serve(lambda request: part(request)[: 3 * BLOCK], 81)
        source = self.source("http://web:81/")
        before = self.network.clock.seconds()
        self.assertIn("nothing any more", self.fails(TimedOut, source))
        self.assertLess(self.network.clock.seconds() - before, source.patience.silence + 5)
        self.network.run(1)
        self.assertEqual(server.open, [])

    def test_slow(self) -> None:
        """A server that is slow, and never silent, is waited for."""
        self.serve(part)
        self.web.bandwidth = SIZE // 100
        before = self.network.clock.seconds()
        self.assertEqual(self.read(self.source()), CONTENT)
        self.assertGreater(self.network.clock.seconds() - before, 90)


class _Greeter(Protocol):
    """Speaks first, and no TLS."""

    def connectionMade(self) -> None:
        self.transport.write(b"220 ready\r\n" * 20)  # type: ignore[union-attr]  # it is there


class ChangeTests(HttpCase):
    """Files that change while they are being read."""

    def test_strong_etag(self) -> None:
        """The ETag of the first answer is held against every other, by the server and here."""
        tag = '"one"'
        server = self.serve(lambda request: part(request, f"ETag: {tag}", "Last-Modified: now"))
        source = self.source()
        self.read(source, 0, 512)
        self.read(source, 512, 512)
        self.assertEqual(server.asked("if-range"), [None, '"one"'])
        tag = '"two"'
        self.assertIn("has changed meanwhile", self.fails(ContentChanged, source, 1024, 512))
        self.assertEqual(self.came, {})
        tag = '"one"'
        server.answer = lambda _: head(200, SIZE, 'ETag: "two"') + CONTENT
        self.assertIn("has changed meanwhile", self.fails(ContentChanged, source, 0, 512))

    def test_weak(self) -> None:
        """A weak ETag, or a time, is compared here, and the server is not asked to."""
        for at, (one, two) in enumerate(
            (('ETag: W/"1"', 'ETag: W/"2"'), ("Last-Modified: a", "Last-Modified: b"))
        ):
            server = self.serve(lambda request, told=one: part(request, told), 100 + at)  # type: ignore[misc]  # mypy cannot infer it
            source = self.source(f"http://web:{100 + at}/")
            self.read(source, 0, 1)
            self.read(source, 1, 1)
            server.answer = lambda request, told=two: part(request, told)  # type: ignore[misc]  # likewise
            self.fails(ContentChanged, source, 2, 1)
            self.assertEqual(server.asked("if-range"), [None] * 3)

    def test_not_utf8(self) -> None:
        """What a file's tag or time is made of is the server's affair; it is sent back as it is."""
        for at, (one, two, asked) in enumerate(
            (
                (f'ETag: "{LATIN}"', f'ETag: "{LATIN * 2}"', f'"{LATIN}"'),
                (f"Last-Modified: {LATIN}", f"Last-Modified: {LATIN * 2}", None),
            )
        ):
            server = self.serve(lambda request, told=one: part(request, told), 100 + at)  # type: ignore[misc]  # mypy cannot infer it
            source = self.source(f"http://web:{100 + at}/")
            self.read(source, 0, 1)
            self.assertEqual(self.read(source, 1, 1), CONTENT[PIECE : 2 * PIECE])
            self.assertEqual(server.asked("if-range"), [None, asked])
            server.answer = lambda request, told=two: part(request, told)  # type: ignore[misc]  # likewise
            self.fails(ContentChanged, source, 2, 1)

    def test_unreadable_cookie(self) -> None:
        """A cookie that makes no sense is left out, and others are sent back as before."""
        told = ("Set-Cookie: a=1", f"Set-Cookie: b={LATIN}", "Set-Cookie: c=3")
        server = self.serve(lambda request: part(request, *told))
        source = self.source()
        self.read(source, 0, 1)
        self.assertEqual(self.read(source, 1, 1), CONTENT[PIECE : 2 * PIECE])
        self.assertEqual(server.asked("cookie"), [None, "a=1; c=3"])

    def test_says_nothing(self) -> None:
        """A server that tells neither is not suspected; its blocks are verified anyway."""
        server = self.serve(lambda request: part(request, 'ETag: "a"'))
        source = self.source()
        self.read(source, 0, 1)
        server.answer = part
        self.assertEqual(self.read(source, 1, 1), CONTENT[PIECE : 2 * PIECE])


class RedirectTests(HttpCase):
    """Files that are elsewhere."""

    def test_followed(self) -> None:
        """Every kind of redirect is followed; the next read goes straight to where it led."""
        for at, code in enumerate((301, 302, 303, 307, 308)):
            here, there = 100 + at, 200 + at
            first = self.serve(
                lambda _, code=code, there=there: (
                    head(code, 3, f"Location: //web:{there}/b") + b"see"
                ),  # type: ignore[misc]  # mypy cannot infer it
                here,
            )
            second = self.serve(part, there)
            source = self.source(f"http://u:{SECRET}@web:{here}/a")
            self.assertEqual(self.read(source, 0, 512), CONTENT[:BLOCK])
            self.assertEqual(self.read(source, 512, 512), CONTENT[BLOCK : 2 * BLOCK])
            self.assertEqual((len(first.requests), len(second.requests)), (1, 2), code)
            self.assertEqual(first.asked("authorization"), ["Basic dTpodW50ZXIy"])
            self.assertEqual(second.asked("authorization"), [None, None])

    def test_way_gone_again(self) -> None:
        """When the place that a redirect named is no good any more, the way is gone once more."""
        target = "a"

        def answer(request: str) -> bytes:
            path = request.split()[1]
            if path == "/file":
                return head(302, 0, f"Location: /{target}")
            return part(request) if path == f"/{target}" else head(403, 0)

        server = self.serve(answer)
        source = self.source()
        self.read(source, 0, 1)
        target = "b"
        self.assertEqual(self.read(source, 1, 1), CONTENT[PIECE : 2 * PIECE])
        self.read(source, 2, 1)
        self.assertEqual(
            [each.split()[1] for each in server.requests],
            ["/file", "/a", "/a", "/file", "/b", "/b"],
        )

    def test_too_many(self) -> None:
        """A server that sends one round in circles is left after five turns."""
        server = self.serve(lambda _: head(302, 0, "Location: /file"))
        self.assertIn("more than 5 times", self.fails(SourceFailure, self.source()))
        self.assertEqual(len(server.requests), 6)
        self.assertEqual(server.most_open, 1)

    def test_never_less_private(self) -> None:
        """From an encrypted address no redirect leads to one that is not."""
        server = self.serve(part, 443)
        reactor = self.here.reactor
        agent = Agent.usingEndpointFactory(reactor, _Bare(reactor))
        source = HttpSource(parse_http_url("https://web/file"), agent, reactor)
        self.sources.append(source)
        server.answer = lambda _: head(302, 0, "Location: http://web:443/b")
        self.assertIn("without encryption", self.fails(SourceFailure, source))
        self.assertEqual(len(server.requests), 1)
        server.answer = lambda request: (
            part(request) if "/b " in request else head(302, 0, "Location: /b")
        )
        self.assertEqual(self.read(source), CONTENT)


@implementer(IAgentEndpointFactory)
class _Bare:
    """Leaves TLS out, so that a server in memory need not prove who it is."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def endpointForURI(self, uri: URI) -> HostnameEndpoint:
        return HostnameEndpoint(self.reactor, uri.host, uri.port)


class EndTests(HttpCase):
    """Reads that nobody wants any more."""

    def test_cancelled_body(self) -> None:
        """Cancelling closes the connection; the sink is not called again, nor the buffer lost."""
        server = self.serve(part)
        source = self.source()
        self.web.bandwidth = BLOCK
        read = self.start(source)
        self.network.run_until(lambda: len(self.came) == 2)
        read.cancel()
        self.failureResultOf(read, CancelledError)
        self.network.run(5)
        self.assertEqual((len(self.came), server.open), (2, []))
        self.assertEqual(self.read(source, 512, 1), CONTENT[BLOCK : BLOCK + PIECE])

    def test_cancelled_early(self) -> None:
        """Cancelling before there is an answer, or a connection, or a turn, asks no more."""
        server = self.serve(lambda _: b"")
        source = self.source()
        reads = [self.start(source, at, 1) for at in range(CONNECTIONS + 2)]
        for read in reversed(reads):
            read.cancel()
            self.failureResultOf(read, CancelledError)
        self.network.run(1)
        self.assertEqual((server.requests, server.open), ([], []))
        reads = [self.start(source, at, 1) for at in range(CONNECTIONS + 2)]
        self.network.run_until(lambda: len(server.requests) == CONNECTIONS)
        for read in reversed(reads):
            read.cancel()
            self.failureResultOf(read, CancelledError)
        self.network.run(1)
        self.assertEqual((len(server.requests), server.open), (CONNECTIONS, []))

    def test_cancelled_in_sink(self) -> None:
        """Who has enough may say so in the middle of a block's delivery."""
        self.serve(part)
        source = self.source()
        pieces: list[int] = []

        def sink(piece: int, data: bytes | bytearray) -> None:
            pieces.append(piece)
            read.cancel()

        read = source.read(ROOT, SIZE, 0, 512, 1, sink)
        self.network.run(2)
        self.failureResultOf(read, CancelledError)
        self.assertEqual(pieces, [0])

    def test_left(self) -> None:
        """Leaving ends all that was asked for, and refuses what is asked for after."""
        server = self.serve(lambda _: b"")
        source = self.source()
        reads = [self.start(source, at, 1) for at in range(CONNECTIONS + 2)]
        self.network.run_until(lambda: len(server.requests) == CONNECTIONS)
        source.leave()
        reads.append(self.start(source))
        for read in reads:
            self.assertIn("not asked any more", str(self.failureResultOf(read, PeerLost).value))
        self.network.run(1)
        self.assertEqual((server.open, self.here.left_over()), ([], []))


class SiteTests(HttpCase):
    """A server that says yes to everything, as some gateways do."""

    def test_error_page(self) -> None:
        """A page that says that there is no file, as if all was well, has the wrong size."""
        root = Resource()
        root.isLeaf = True
        root.render_GET = lambda request: b"<h1>Sorry</h1>"
        self.web.reactor.listenTCP(80, Site(root, reactor=self.web.reactor))
        self.addCleanup(self.web.crash)
        self.assertIn("has 14 bytes", self.fails(ContentChanged, self.source()))
