"""Tests for L{flow512.transfer.web_endpoints}: whom a web server has to be."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory

from flow512.errors import Unreachable
from tests.unit.test_http_source import CONTENT, SECRET, HttpCase, Server, part

SINCE = datetime(2020, 1, 1)
NAMES = x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME


def named(*names: x509.GeneralName) -> x509.ExtensionType:
    """What says in a certificate whose it is."""
    return x509.SubjectAlternativeName(names)


class TrustTests(HttpCase):
    """Servers with certificates that the system vouches for, whatever is in them."""

    def serve_privately(self, port: int, extension: x509.ExtensionType | None) -> Server:
        """Serve with a certificate, for which the system's authorities vouch from now on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(port)
            .not_valid_before(SINCE)
            .not_valid_after(SINCE + timedelta(days=36500))
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        authorities = Path(self.mktemp())
        authorities.write_bytes(certificate.public_bytes(Encoding.PEM))
        self.patch_environment("SSL_CERT_FILE", os.fspath(authorities))
        server = Server(part)
        options = CertificateOptions(privateKey=key, certificate=certificate)
        reactor = self.web.reactor
        reactor.listenTCP(port, TLSMemoryBIOFactory(options, False, server, clock=reactor))
        return server

    def patch_environment(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            self.addCleanup(os.environ.pop, name, None)
        else:
            self.addCleanup(os.environ.__setitem__, name, before)

    def test_right(self) -> None:
        """Who shows a certificate for what the user names is read from."""
        for at, (host, name) in enumerate(
            (
                ("web", x509.DNSName("web")),
                ("10.0.0.1", x509.IPAddress(ip_address("10.0.0.1"))),
            )
        ):
            server = self.serve_privately(100 + at, named(name))
            source = self.source(f"https://u:{SECRET}@{host}:{100 + at}/file")
            self.assertEqual(self.read(source), CONTENT)
            self.assertEqual(server.asked("authorization"), ["Basic dTpodW50ZXIy"])

    def test_of_another(self) -> None:
        """
        Who shows one that names nobody, somebody else, or nothing that makes sense, is not trusted,
        and not told what it would be asked for.
        """
        extensions = (
            None,
            named(x509.DNSName("other")),
            named(x509.IPAddress(ip_address("10.0.0.1"))),
            named(x509.UniformResourceIdentifier("https://web/")),
            named(x509.DNSName("*")),
            named(x509.DNSName("web"), x509.DNSName("*.*.web")),
            x509.UnrecognizedExtension(NAMES, b"no names"),
        )
        for at, extension in enumerate(extensions):
            server = self.serve_privately(100 + at, extension)
            source = self.source(f"https://u:{SECRET}@web:{100 + at}/file")
            sentence = self.fails(Unreachable, source)
            self.assertIn("is not trusted: its certificate", sentence, extension)
            self.assertEqual(server.requests, [], extension)
