"""A file on a real web server, Twisted's own, over real sockets on 127.0.0.1."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import deferLater
from twisted.web.server import Site
from zope.interface import implementer

from flow512.errors import ContentChanged, Unreachable
from flow512.link.http_url import parse_http_url
from flow512.transfer.http_source import HttpSource, http_source
from flow512.units import BLOCK, PIECE

with warnings.catch_warnings():
    # It uses something that Twisted has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from twisted.web.static import File

LIMIT = 20.0
BLOCKS_PER_READ = 8
CONTENT = os.urandom(40 * BLOCK + 1234)


@implementer(IOpenSSLServerConnectionCreator)
class Nobody:
    """TLS for 127.0.0.1, with a certificate that nobody vouches for."""

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_privatekey(key)
        context.use_certificate(certificate)
        return SSL.Connection(context, None)


class Web:
    """A web server, and a source that reads from it; C{end} closes both."""

    def __init__(self, folder: Path, *, is_private: bool = False) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        site = Site(File(os.fspath(folder)))
        if is_private:
            self.port = self.reactor.listenSSL(0, site, Nobody(), interface="127.0.0.1")
        else:
            self.port = self.reactor.listenTCP(0, site, interface="127.0.0.1")
        scheme = "https" if is_private else "http"
        url = f"{scheme}://127.0.0.1:{self.port.getHost().port}/file.tar.gz"
        self.source: HttpSource = http_source(reactor, parse_http_url(url))
        self.came: dict[int, bytes] = {}

    def read(self, first: int, count: int) -> Deferred[None]:
        """Read some blocks."""

        def sink(piece: int, data: bytes | bytearray) -> None:
            self.came[piece * PIECE] = bytes(data)
            self.source.buffers.give_back(data)

        end = min((first + count) * BLOCK, len(CONTENT))
        pieces = -(-(end - first * BLOCK) // PIECE)
        read = self.source.read(bytes(32), len(CONTENT), first * 512, pieces, 512, sink)
        return read.addTimeout(LIMIT, self.reactor)

    def end(self) -> Deferred[Any]:
        """Leave nothing behind."""
        self.source.leave()
        return DeferredList([self.port.stopListening(), deferLater(self.reactor, 0.05)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the server serves."""
    (tmp_path / "file.tar.gz").write_bytes(CONTENT)
    return tmp_path


@pytest_twisted.inlineCallbacks
def test_whole_file(folder: Path) -> Generator[Deferred[Any], Any, None]:
    """Reads that are under way together bring the file, to the byte; a change is noticed."""
    web = Web(folder)
    try:
        reads = [web.read(at, BLOCKS_PER_READ) for at in range(0, 41, BLOCKS_PER_READ)]
        yield gatherResults(reads)
        assert b"".join(web.came[at] for at in sorted(web.came)) == CONTENT
        os.utime(folder / "file.tar.gz", (1, 1))
        with pytest.raises(ContentChanged):
            yield web.read(0, 1)
    finally:
        yield web.end()


@pytest_twisted.inlineCallbacks
def test_not_trusted(folder: Path) -> Generator[Deferred[Any], Any, None]:
    """A server whose certificate nobody vouches for is not read from, and it is said why."""
    web = Web(folder, is_private=True)
    try:
        with pytest.raises(Unreachable) as caught:
            yield web.read(0, 1)
        assert "is not trusted" in str(caught.value)
        assert web.came == {}
    finally:
        yield web.end()
