"""
A web server as a source: any that serves ranges of files, such as a bucket or a CDN.

It has the bytes of a content and knows nothing of trees, so digests and checksum come from others,
and its blocks are verified like everybody's. Each READ is one request for a range (RFC 9110, 14).
Redirects are followed, and where they lead is asked directly the next time; when that does not work
any more, the way is gone from the beginning once more. All requests of a source have to find the
same file: the first answer's ETag, or else its time, is held against every other.

If the node that fetches keeps to a rate, the server takes turns with the peers: all bodies of a
source together are one taker, and are paused while it waits. What came with the head of an answer,
some 64 KiB at most, is paid for afterwards.
"""

from __future__ import annotations

import re
from typing import Any, Final

from hyperlink import EncodedURL
from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, fail
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError  # public, but for the module's name
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from flow512._version import __version__
from flow512.errors import (
    BadMessage,
    Busy,
    ContentChanged,
    Flow512Error,
    Misuse,
    NotAllowed,
    NotFound,
    PeerLost,
    SourceFailure,
    TimedOut,
    Unreachable,
)
from flow512.link.conversation import Patience
from flow512.link.http_url import HttpUrl
from flow512.link.throttle import Throttle
from flow512.transfer.blocks import Sink
from flow512.transfer.http_body import BlocksBody, PieceCutter, UnwantedBody
from flow512.transfer.intake import Intake
from flow512.transfer.web_endpoints import WebEndpoints
from flow512.units import BLOCK
from flow512.wire.frame import BufferPool

CONNECTIONS: Final = 4
"""Connections to one source at a time; browsers open six."""

MAX_REDIRECTS: Final = 5

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds that a server may put one off for."""

_IDLE_BUFFERS: Final = 16
"""Buffers that are kept while nobody needs them (4 MiB)."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(
    r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE
)
_SECONDS: Final = re.compile("[0-9]{1,6}")
_HEADER: Final = ("utf-8", "surrogateescape")


class HttpSource:
    """
    One file on a web server; a L{flow512.transfer.blocks.BlockSource}.

    A read fails with

      - L{ContentChanged} if the file has another size than the content, or is no longer the one
        that was read from before;
      - L{Busy} if the server says that it is, with the time that it asks for;
      - L{NotAllowed} if it wants a password or does not let us;
      - L{SourceFailure} if it has no such file, serves no ranges, or does not know what is wrong;
      - L{BadMessage<flow512.errors.BadMessage>} if its answer makes no sense;
      - L{Unreachable} and its kin if it is not there or falls silent.

    The sentences contain no password and no query of the address.

    @ivar url: where the file is.
    """

    log = Logger()

    def __init__(
        self,
        url: HttpUrl,
        agent: IAgent,
        clock: IReactorTime,
        patience: Patience | None = None,
        pool: HTTPConnectionPool | None = None,
        down: Throttle | None = None,
    ) -> None:
        """
        @param url: where the file is.
        @param agent: makes the requests.
        @param clock: for the deadlines.
        @param patience: C{silence} is how long the server may send nothing.
        @param pool: the agent's, which belongs to this source and is emptied when it is left.
        @param down: how fast bodies are taken, of all sources together; no limit unless given.
        """
        self.url = url
        self.buffers = BufferPool({BLOCK: _IDLE_BUFFERS})
        self.patience = patience or Patience()
        self._client = HTTPClient(_AsItIs(agent))
        self._clock = clock
        self._pool = pool
        self._turns = DeferredSemaphore(CONNECTIONS)
        self._reads: dict[Deferred[None], tuple[PieceCutter, Deferred[None]]] = {}
        self._found = url
        self._validator: str | None = None
        self._has_left = False
        self._down = down or Throttle(clock)
        self._intake = Intake(self._down, self._pause, self._go_on)
        self._bodies: list[BlocksBody] = []
        self._is_paused = False

    def page(self, root: bytes, level: int, index: int) -> Deferred[bytes]:
        """
        Refuse: a web server has no digests.
        """
        return fail(NotFound(f"The web server {self.url.host} has no digests of the file."))

    def checksum(self, root: bytes) -> Deferred[bytes]:
        """
        Refuse: a web server tells no MD5 that could be relied on.
        """
        return fail(NotFound(f"The web server {self.url.host} does not tell the file's MD5."))

    def read(
        self, root: bytes, size: int, first: int, count: int, run: int, sink: Sink
    ) -> Deferred[None]:
        """
        Ask for pieces, as L{flow512.transfer.blocks.BlockSource.read} says. Cancelling it closes
        the connection that they come by.
        """
        if self._has_left:
            return fail(self._left())
        pieces = PieceCutter(self.buffers, size, first, count, run, sink)
        work: Deferred[None] = self._turns.run(lambda: Deferred.fromCoroutine(self._read(pieces)))
        read: Deferred[None] = Deferred(lambda read: self._give_up(read, CancelledError()))
        self._reads[read] = (pieces, work)

        def ended(result: Failure | None) -> None:
            if self._reads.pop(read, None) is None:
                return  # it was given up: what comes of it now is nobody's concern
            if isinstance(result, Failure):
                pieces.stop()
                read.errback(result)
            else:
                read.callback(None)

        work.addBoth(ended)
        return read

    def leave(self) -> None:
        """
        Close the connections; what was asked for fails with L{PeerLost}.
        """
        self._has_left = True
        for read in list(self._reads):
            self._give_up(read, self._left())
        if self._pool is not None:
            self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]  # Twisted's

    def _left(self) -> PeerLost:
        return PeerLost(f"The web server {self.url.host} is not asked any more.")

    def _give_up(self, read: Deferred[None], why: Exception) -> None:
        pieces, work = self._reads.pop(read)
        pieces.stop()
        read.errback(why)
        work.cancel()

    # One read

    async def _read(self, pieces: PieceCutter) -> None:
        begin = self._found
        url, response = await self._follow(begin, pieces)
        if response.code not in (200, 206) and begin != self.url:
            _drop(response)
            self._found = self.url
            url, response = await self._follow(self.url, pieces)
        try:
            self._check(response, pieces)
        except Flow512Error:
            _drop(response)
            raise
        if url not in (self._found, self.url):
            self.log.info("{url} leads to {target}", url=self.url.shown, target=url.shown)
        self._found = url
        body = BlocksBody(
            pieces,
            url.host,
            self._clock,
            self.patience.silence,
            ends_with_it=response.length == pieces.left,
            came=self._came,
        )
        if self._down.is_limited:
            self._intake.expect()
        self._bodies.append(body)
        try:
            response.deliverBody(body)  # type: ignore[no-untyped-call]  # Twisted has no types there
            if self._is_paused:
                body.pause()  # to deliver is to go on
            await body.ended
        finally:
            self._bodies.remove(body)
            if not self._bodies:
                self._intake.rest()

    def _came(self, size: int) -> None:
        if self._down.is_limited:
            self._intake.took(size)
            self._intake.expect()

    @property
    def is_held_back(self) -> bool:
        return self._is_paused

    def _pause(self) -> None:
        self._is_paused = True
        for body in self._bodies:
            body.pause()

    def _go_on(self) -> None:
        self._is_paused = False
        for body in self._bodies:
            body.go_on()

    async def _follow(self, url: HttpUrl, pieces: PieceCutter) -> tuple[HttpUrl, IResponse]:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._ask(url, pieces)
            if response.code not in _REDIRECTS:
                return url, response
            _drop(response)
            url = self._redirected(url, _header(response, "Location"))
        raise SourceFailure(
            f"The web server {self.url.host} redirects more than {MAX_REDIRECTS} times."
        )

    def _redirected(self, url: HttpUrl, location: str) -> HttpUrl:
        try:
            if not location:
                raise Misuse("")
            target = url.joined(location)
        except Misuse:
            raise BadMessage(f"The web server {url.host} redirects to nowhere.") from None
        if url.is_private and not target.is_private:
            raise SourceFailure(
                f"The web server {url.host} redirects to an address without encryption; name"
                " that one yourself if you trust the way to it."
            )
        return target

    async def _ask(self, url: HttpUrl, pieces: PieceCutter) -> IResponse:
        headers = Headers({"User-Agent": [f"flow512/{__version__}"]})
        headers.addRawHeader("Range", f"bytes={pieces.start}-{pieces.end - 1}")
        if self._validator is not None and self._validator.startswith('"'):
            # Then a file that has changed comes whole, which tells. Only such an ETag says that
            # not a single byte has changed (RFC 9110, 13.1.5).
            headers.addRawHeader(b"If-Range", self._validator.encode(*_HEADER))
        asked: Deferred[Any] = self._client.get(
            _Uri.from_text(url.plain),
            headers=headers,
            auth=url.credentials,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._clock,  # type: ignore[arg-type]  # unused, but else it is imported
        )

        def silent(result: object, seconds: float) -> Failure:
            error = TimedOut(f"The web server {url.host} does not answer.")
            return Failure(error)  # type: ignore[no-untyped-call]  # Twisted has no types there

        asked.addTimeout(self.patience.silence, self._clock, silent)
        try:
            response: IResponse = await asked
        except (ConnectError, DNSLookupError) as error:
            told = error.args[0] if type(error) is ConnectError and error.args else ""
            why = (str(told) or error.MESSAGE).rstrip(".").lower()
            raise Unreachable(f"The web server {url.host} is not reached: {why}.") from error
        except (ResponseFailed, RequestTransmissionFailed, RequestGenerationFailed) as error:
            raise _ended_early(url, error.reasons) from error
        return response

    # Answers

    def _check(self, response: IResponse, pieces: PieceCutter) -> None:
        """
        Make sure that the body has what is wanted, from its first byte on.
        """
        host = self.url.host
        code = response.code
        found = _CONTENT_RANGE.fullmatch(_header(response, "Content-Range"))
        if code == 206:
            if found is None:
                raise BadMessage(f"The web server {host} sends a part, and does not say which.")
            self._check_size(found[3], pieces)
            self._check_unchanged(response)
            if (found[1], found[2]) != (str(pieces.start), str(pieces.end - 1)):
                raise BadMessage(
                    f"The web server {host} was asked for bytes {pieces.start} to"
                    f" {pieces.end - 1}, and sends {found[1]} to {found[2]}."
                )
        elif code == 200:
            self._check_unchanged(response)
            if response.length is not UNKNOWN_LENGTH:
                self._check_size(str(response.length), pieces)
            if pieces.start:
                raise SourceFailure(
                    f"The web server {host} sends files only whole, so it is of no use here."
                )
        elif code == 416:
            self._check_size("*" if found is None else found[3], pieces)
            raise BadMessage(f"The web server {host} says that the file has no such part.")
        else:
            raise self._refusal(response)

    def _check_size(self, told: str, pieces: PieceCutter) -> None:
        if told != "*" and int(told) != pieces.size:
            raise ContentChanged(
                f"The file on the web server {self.url.host} has {int(told)} bytes, and not the"
                f" {pieces.size} of this content: it has changed, or was another all along."
            )

    def _check_unchanged(self, response: IResponse) -> None:
        validator = _header(response, "ETag") or _header(response, "Last-Modified") or None
        if self._validator is None:
            self._validator = validator
        elif validator not in (None, self._validator):
            raise ContentChanged(
                f"The file on the web server {self.url.host} has changed meanwhile."
            )

    def _refusal(self, response: IResponse) -> Flow512Error:
        host, code = self.url.host, response.code
        if code in (404, 410):
            return SourceFailure(f"The web server {host} has no file there ({code}).")
        if code in (401, 403, 407):
            return NotAllowed(f"The web server {host} does not let us have the file ({code}).")
        if code in (429, 503):
            told = _header(response, "Retry-After")
            seconds = float(told) if _SECONDS.fullmatch(told) else 1.0
            return Busy(f"The web server {host} is busy ({code}).", min(seconds, MAX_RETRY_AFTER))
        return SourceFailure(f"The web server {host} answers with status {code}.")


def http_source(
    reactor: Any, url: HttpUrl, patience: Patience | None = None, down: Throttle | None = None
) -> HttpSource:
    """
    Make a source of a file on a web server, with connections of its own.

    @param reactor: the clock, and what L{Agent} needs: TCP and names.
    @param url: where the file is.
    @param patience: see L{HttpSource}.
    @param down: see L{HttpSource}.
    @return: the source; nothing has been asked yet. Leave it when it is done.
    """
    pool = HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]  # Twisted's
    pool.maxPersistentPerHost = CONNECTIONS
    agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]  # Twisted has no types there
        reactor, WebEndpoints(reactor), pool
    )
    return HttpSource(url, agent, reactor, patience, pool, down)


class _Uri(EncodedURL):
    """A URL that is ASCII already. To encode it again fails for IPv6 (hyperlink's issue 68)."""

    def to_uri(self) -> EncodedURL:
        return self


_UNREADABLE: Final = (ParseError, ValueError, KeyError)
"""What Twisted raises for a status line, a header or a length that it cannot take apart."""


@implementer(IAgent)
class _AsItIs:
    """
    Asks for files as they are stored. treq would ask for gzip, and undo it; and many servers say
    of an archive C{x.tar.gz} that it is encoded, though it is the archive that is wanted.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders("Accept-Encoding", ["identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_undeclared)


def _undeclared(response: IResponse) -> IResponse:
    response.headers.removeHeader("Content-Encoding")
    # treq, which keeps cookies, reads ASCII only, and fails over anything else.
    cookies: list[bytes] = response.headers.getRawHeaders(b"Set-Cookie") or []
    response.headers.setRawHeaders(b"Set-Cookie", [each for each in cookies if each.isascii()])
    return response


def _header(response: IResponse, name: str) -> str:
    """
    Give a header's last value, empty if there is none. A byte that is not UTF-8 is a surrogate,
    which nothing takes that reads the value, and which is the same byte again when it is sent back.
    """
    values: list[bytes] = response.headers.getRawHeaders(name.encode("ascii")) or [b""]
    return values[-1].decode(*_HEADER).strip()


def _drop(response: IResponse) -> None:
    """Want nothing of a body: it must be taken or refused, or its connection stays paused."""
    response.deliverBody(UnwantedBody())  # type: ignore[no-untyped-call]  # Twisted's


def _ended_early(url: HttpUrl, reasons: list[Failure]) -> Flow512Error:
    if any(isinstance(reason.value, TlsError | VerificationError) for reason in reasons):
        return Unreachable(
            f"The web server {url.host} is not trusted: its certificate, or its TLS, is not valid."
        )
    if any(isinstance(reason.value, _UNREADABLE) for reason in reasons):
        return BadMessage(f"The web server {url.host} sends an answer whose head is not HTTP.")
    return PeerLost(f"The web server {url.host} ended the connection before its answer.")
