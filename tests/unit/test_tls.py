"""Tests for L{flow512.link.tls}, and for conversations over it."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from flow512.errors import (
    Flow512Error,
    NotAllowed,
    PeerLost,
    TimedOut,
    Unsupported,
    Violation,
    for_log,
)
from flow512.limits import Limits
from flow512.link.address import HostPort, client_endpoint
from flow512.link.conversation import Patience
from flow512.link.greeting import Answerer, Caller
from flow512.link.identity import Identity
from flow512.link.introduction import Introduction
from flow512.link.node_id import format_node_id
from flow512.link.security import Encryption, Plaintext, Security, is_tls, security_of
from flow512.link.shared_port import SharedPortFactory
from flow512.link.tls import ALPN, Tls, why_tls_failed
from flow512.testing import Host, Network
from flow512.wire.handshake import STRANGER, Agreement
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import TRANSFER_CLIENT, TRANSFER_SERVER

ANNA = Identity.from_seed(b"a" * 32)
BEN = Identity.from_seed(b"b" * 32)
KEY = NetworkKey(b"k" * 32)


class Asking(Caller):
    """Says hello, and writes down what comes of it."""

    conversation = "transfer"
    allowed = TRANSFER_CLIENT
    opened: Agreement | None = None
    ended: Flow512Error | None = None

    def conversation_opened(self, agreement: Agreement) -> None:
        self.opened = agreement

    def conversation_ended(self, error: Flow512Error) -> None:
        self.ended = error


class Answering(Answerer):
    """Answers a hello, and writes down what comes of it."""

    conversation = "transfer"
    allowed = TRANSFER_SERVER
    opened: Agreement | None = None
    ended: Flow512Error | None = None

    def conversation_opened(self, agreement: Agreement) -> None:
        self.opened = agreement

    def conversation_ended(self, error: Flow512Error) -> None:
        self.ended = error


class Made(Factory[Any]):
    """Makes protocols, and keeps them."""

    noisy = False

    def __init__(self, make: Any) -> None:
        self.make = make
        self.made: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        self.made.append(self.make())
        return self.made[-1]


class Raw(Protocol):
    """Sends what it was given, and keeps what comes."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.received = b""
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class TlsTests(SynchronousTestCase):
    """Two ends on a network in memory."""

    def setUp(self) -> None:
        self.network = Network(5)
        self.there = self.network.host("10.0.0.1", name="there")
        self.here = self.network.host("10.0.0.2", name="here")
        self.addCleanup(self.network.close)

    def tls(self, host: Host, identity: Identity) -> Tls:
        """TLS as a node on a host has it."""
        return Tls(identity, host.reactor)

    def listen(
        self,
        security: Security | None = None,
        introduction: Introduction | None = None,
        limits: Limits | None = None,
    ) -> Made:
        """Let Anna answer."""
        known = introduction or Introduction(ANNA.node, "anna")
        clock = self.there.reactor
        made = Made(lambda: Answering(known, clock, Patience()))
        shared = SharedPortFactory(known, clock, limits)
        shared.conversations["transfer"] = made
        factory = (security or self.tls(self.there, ANNA)).accepting(shared)
        port = self.there.reactor.listenTCP(5000, factory)
        self.addCleanup(self.stop, port)
        return made

    def stop(self, port: Any) -> None:
        """Stop to listen, and let everything come to its end."""
        self.network.result(port.stopListening())
        self.network.run(120.0)

    def endpoint(self, security: Security | None = None) -> IStreamClientEndpoint:
        """Where Anna is, for Ben."""
        place = client_endpoint(self.here.reactor, HostPort("10.0.0.1", 5000))
        return (security or self.tls(self.here, BEN)).connecting(place)

    def ask(
        self,
        security: Security | None = None,
        introduction: Introduction | None = None,
        expected: bytes | None = None,
    ) -> Asking:
        """Let Ben ask, until something has come of it."""
        known = introduction or Introduction(BEN.node, "ben")

        def make() -> Asking:
            asking = Asking(known, self.here.reactor, Patience())
            asking.expected = expected
            return asking

        asking: Asking = self.network.result(self.endpoint(security).connect(Made(make)))
        self.network.run_until(lambda: asking.opened or asking.ended)
        return asking

    def connect(self, factory: IProtocolFactory) -> Any:
        """Connect anything to Anna."""
        place = client_endpoint(self.here.reactor, HostPort("10.0.0.1", 5000))
        connecting: Deferred[Any] = place.connect(factory)
        return self.network.result(connecting)

    def leave(self, *asking: Asking) -> None:
        """End conversations in peace."""
        for each in asking:
            each.leave()
        self.network.run(30.0)

    # Who speaks with whom

    def test_both_proven(self) -> None:
        """Each side knows the other's node id from its key, and both the same session."""
        made = self.listen()
        asking = self.ask(expected=ANNA.node)
        assert asking.opened is not None
        assert asking.channel is not None
        self.assertEqual(asking.channel.peer, ANNA.node)
        (answering,) = made.made
        self.network.run_until(lambda: answering.opened)
        self.assertEqual(answering.channel.peer, BEN.node)
        self.assertEqual(answering.channel.session, asking.channel.session)
        self.assertTrue(is_tls(asking.transport))
        again = self.ask()
        assert again.channel is not None
        self.assertNotEqual(again.channel.session, asking.channel.session)
        self.leave(asking, again)
        self.assertIsInstance(answering.ended, PeerLost)

    def test_nothing_in_the_clear(self) -> None:
        """Neither names nor ids of either side can be read on the way."""
        network = self.network
        network.transcript = []
        self.listen()
        self.leave(self.ask(expected=ANNA.node))
        sent = b"".join(delivery.data for delivery in network.transcript)
        self.assertGreater(len(sent), 1000)
        for secret in (b"anna", b"ben", ANNA.node, BEN.node, b"transfer"):
            self.assertNotIn(secret, sent)

    def test_no_tickets(self) -> None:
        """
        Nothing is sent to resume a session by, which no node does: what a refusal comes to on the
        way has always the same length.
        """
        lengths = set()
        self.listen(introduction=self.member(ANNA))
        for _ in range(8):
            self.network.transcript = []
            self.ask()
            self.network.run(30.0)
            lengths.add(sum(len(delivery.data) for delivery in self.network.transcript))
        self.assertEqual(len(lengths), 1, lengths)

    def test_another_than_looked_for(self) -> None:
        """Who looks for one node and finds another tells it nothing, not even who he is."""
        made = self.listen()
        asking = self.ask(expected=BEN.node)
        self.assertIsInstance(asking.ended, Violation)
        self.assertIn("Another node answers", str(asking.ended))
        self.network.run(30.0)
        self.assertEqual(made.made, [])

    def test_not_a_word(self) -> None:
        """Who finds another node than he looks for, or one that he banned, sends nothing at all."""
        raw: list[Raw] = []

        def make() -> Raw:
            raw.append(Raw())
            return raw[-1]

        port = self.there.reactor.listenTCP(5000, self.tls(self.there, ANNA).accepting(Made(make)))
        self.addCleanup(self.stop, port)
        self.ask(expected=BEN.node)
        self.ask(introduction=Introduction(BEN.node, admits=lambda node: False))
        self.network.run(30.0)
        self.assertEqual([each.received for each in raw], [b"", b""])
        self.assertTrue(all(each.lost for each in raw))

    def test_claimed_by_another(self) -> None:
        """A hello that names another node than the key proves is refused, on both sides."""
        made = self.listen()
        asking = self.ask(introduction=Introduction(ANNA.node, "not anna"))
        self.assertIsNotNone(asking.ended)
        self.assertIsNone(made.made[0].opened)
        self.network.run(30.0)

    def test_answer_claimed_by_another(self) -> None:
        """So is an answer."""
        self.listen(introduction=Introduction(BEN.node, "not ben"))
        asking = self.ask()
        self.assertIsInstance(asking.ended, Violation)
        self.network.run(30.0)

    def test_key_changes(self) -> None:
        """If a handshake is completed again, the other side must be who it was."""
        made = self.listen()
        asking = self.ask()
        asking.handshakeCompleted()
        self.assertTrue(asking.is_open)
        assert asking.channel is not None
        wrapper: Any = asking.transport
        real = wrapper.getHandle

        class Changed:
            """A connection whose other side has another certificate now."""

            def get_peer_certificate(self, *, as_cryptography: bool) -> x509.Certificate:
                return BEN.certificate

            def __getattr__(self, name: str) -> Any:
                return getattr(real(), name)

        wrapper.getHandle = Changed
        asking.handshakeCompleted()
        self.assertIsInstance(asking.ended, Violation)
        self.assertIn("changed its key", str(asking.ended))
        self.network.run(30.0)
        self.assertIsNotNone(made.made[0].ended)

    # Closed networks

    def member(self, identity: Identity, key: NetworkKey | None = KEY) -> Introduction:
        """Somebody in a closed network."""
        return Introduction(identity.node, "secret name", "secret network", key)

    def test_members(self) -> None:
        """Members prove the key to each other, and say no names."""
        made = self.listen(introduction=self.member(ANNA))
        asking = self.ask(introduction=self.member(BEN))
        assert asking.opened is not None
        self.network.run_until(lambda: made.made[0].opened)
        for opened in (asking.opened, made.made[0].opened):
            self.assertEqual((opened.peer.name, opened.peer.network), ("", ""))
        self.leave(asking)

    def test_strangers(self) -> None:
        """A valid certificate without the key, or with another one, gets the same refusal."""
        made = self.listen(introduction=self.member(ANNA))
        for key in (None, NetworkKey(b"x" * 32)):
            asking = self.ask(introduction=self.member(BEN, key))
            self.assertIsInstance(asking.ended, NotAllowed)
            self.assertEqual(str(asking.ended), STRANGER)
            self.network.run(30.0)
            self.assertIn("did not prove the key", for_log(made.made[-1].ended))
        self.assertEqual([each.opened for each in made.made], [None, None])

    def test_nothing_offered_to_strangers(self) -> None:
        """In a closed network, not even what is offered is told."""
        self.listen(introduction=self.member(ANNA))

        class Other(Asking):
            conversation = "registry"

        known = Introduction(BEN.node)
        asking = self.network.result(
            self.endpoint().connect(Made(lambda: Other(known, self.here.reactor, Patience())))
        )
        self.network.run_until(lambda: asking.ended)
        self.assertEqual(str(asking.ended), STRANGER)
        self.network.run(30.0)

    def test_closed_without_tls(self) -> None:
        """Without TLS members prove the key by challenge and response; strangers hear the same."""
        made = self.listen(Plaintext(), self.member(ANNA))
        asking = self.ask(Plaintext(), self.member(BEN))
        self.assertIsNotNone(asking.opened)
        for key in (None, NetworkKey(b"x" * 32)):
            stranger = self.ask(Plaintext(), self.member(BEN, key))
            self.assertEqual(str(stranger.ended), STRANGER)
        self.leave(asking)
        self.assertEqual([each.opened is None for each in made.made], [False, True, True])

    def test_not_admitted(self) -> None:
        """Who is not admitted is refused like a stranger; who dials such a node is told why."""
        made = self.listen(
            introduction=Introduction(ANNA.node, admits=lambda node: node != BEN.node)
        )
        asking = self.ask()
        self.assertEqual(str(asking.ended), STRANGER)
        self.assertIsNone(made.made[0].opened)
        self.assertEqual(for_log(made.made[0].ended), f"{format_node_id(BEN.node)} is banned.")
        self.network.run(30.0)

    def test_dialled_but_not_admitted(self) -> None:
        """Nor does one speak with a banned node by dialling it."""
        self.listen()
        asking = self.ask(introduction=Introduction(BEN.node, admits=lambda node: False))
        self.assertIsInstance(asking.ended, NotAllowed)
        self.assertIn("flow512 bans", str(asking.ended))
        self.network.run(30.0)

    def test_banned_without_tls(self) -> None:
        """Whoever is dialled and banned does not hear that he is, without TLS either."""
        made = self.listen(Plaintext())
        asking = self.ask(Plaintext(), Introduction(BEN.node, admits=lambda node: False))
        self.assertIsInstance(asking.ended, NotAllowed)
        self.assertIn("flow512 bans", str(asking.ended))
        self.network.run(30.0)
        self.assertNotIn("ban", str(made.made[0].ended))

    # Those who speak something else

    def test_plaintext_to_tls(self) -> None:
        """Bare TCP to a node that wants TLS fails, and says what to do."""
        made = self.listen()
        asking = self.ask(Plaintext())
        self.assertIn("--plaintext", str(asking.ended))
        self.assertEqual(made.made, [])
        self.network.run(30.0)

    def test_tls_to_plaintext(self) -> None:
        """TLS to a node that has none fails, says what to do, and never falls back."""
        made = self.listen(Plaintext())
        asking = self.ask()
        self.assertIn("--plaintext", str(asking.ended))
        self.assertEqual(made.made, [])
        self.network.run(30.0)

    def test_tls_alert_without_tls(self) -> None:
        """Without TLS on this side, the first byte of TLS is known for what it is."""
        port = self.there.reactor.listenTCP(
            5000, Made(lambda: Raw(b"\x15\x03\x03\x00\x02\x02\x46"))
        )
        self.addCleanup(self.stop, port)
        asking = self.ask(Plaintext())
        self.assertIsInstance(asking.ended, Unsupported)
        self.assertIn("--plaintext", str(asking.ended))

    def creator(
        self, *, key: Any = None, certificate: Any = None, alpn: Sequence[bytes] = (), most: int = 0
    ) -> Any:
        """TLS as somebody else may speak it."""
        context = SSL.Context(SSL.TLS_METHOD)
        if key is not None:
            context.use_privatekey(key)
            context.use_certificate(certificate)
        if alpn:
            context.set_alpn_protos(list(alpn))
        if most:
            context.set_max_proto_version(most)

        class Creator(Tls):
            def __init__(self) -> None:
                self._context = context

        return Creator()

    def stranger(self, **options: Any) -> tuple[Raw, Made]:
        """Let somebody connect with TLS of his own, and send what looks like a hello."""
        made = self.listen()
        raw = Raw(b"\x01" + bytes(15))
        factory = TLSMemoryBIOFactory(
            self.creator(**options), True, Made(lambda: raw), self.here.reactor
        )
        self.connect(factory)
        self.network.run_until(lambda: raw.lost)
        self.network.run(30.0)
        return raw, made

    def test_no_certificate(self) -> None:
        """Who has no certificate gets not one byte."""
        raw, made = self.stranger(alpn=[ALPN])
        self.assertEqual((raw.received, made.made), (b"", []))
        assert raw.lost is not None

    def test_old_tls(self) -> None:
        """TLS 1.2 is not spoken."""
        raw, made = self.stranger(
            key=BEN.key, certificate=BEN.certificate, alpn=[ALPN], most=SSL.TLS1_2_VERSION
        )
        self.assertEqual((raw.received, made.made), (b"", []))
        assert raw.lost is not None
        assert isinstance(raw.lost.value, SSL.Error)
        self.assertIn("TLS", why_tls_failed(raw.lost.value))

    def test_other_protocol(self) -> None:
        """A valid key does not help who did not agree on the protocol."""
        for alpn in ([], [b"h2"]):
            with self.subTest(alpn=alpn):
                made = self.listen()
                raw = Raw()
                factory = TLSMemoryBIOFactory(
                    self.creator(key=BEN.key, certificate=BEN.certificate, alpn=alpn),
                    True,
                    Made(lambda raw=raw: raw),
                    self.here.reactor,
                )
                self.connect(factory)
                self.network.run_until(lambda raw=raw: raw.lost)
                self.network.run(30.0)
                self.assertEqual(made.made, [])
                self.doCleanups()
                self.setUp()

    def test_other_kind_of_key(self) -> None:
        """A certificate whose key is not Ed25519 is no node's."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
            .not_valid_after(datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC))
            .sign(key, hashes.SHA256())
        )
        _, made = self.stranger(key=key, certificate=certificate, alpn=[ALPN])
        self.assertEqual(made.made, [])

    def test_silent_in_the_handshake(self) -> None:
        """Who connects and does not begin TLS is closed in time."""
        self.listen()
        raw = self.connect(Made(Raw))
        self.network.run(Patience().greeting - 1)
        self.assertIsNone(raw.lost)
        self.network.run(2)
        self.assertIsNotNone(raw.lost)

    def sessions(self) -> int:
        """How many TLS sessions there are in this process."""
        gc.collect()
        return sum(isinstance(each, SSL.Connection) for each in gc.get_objects())

    def test_no_session_for_the_silent(self) -> None:
        """A TLS session takes much memory: nobody gets one before he has said something."""
        before = self.sessions()
        self.listen()
        raw = [self.connect(Made(Raw)) for _ in range(3)]
        self.network.run(1.0)
        self.assertEqual(self.sessions(), before)
        raw[0].transport.write(b"\x16")
        self.network.run(1.0)
        self.assertEqual(self.sessions(), before + 1)
        raw[1].transport.loseConnection()
        self.network.run_until(lambda: all(each.lost for each in raw))
        self.assertEqual([each.received for each in raw], [b"", b"", b""])

    def test_too_many_handshakes(self) -> None:
        """
        Who begins handshakes without end is closed before anything is spent on them, until some
        time has passed; others are not concerned.
        """
        self.listen(limits=Limits(half_open_per_address=2, handshakes_per_address_per_second=1))
        flooding = self.network.host("10.0.0.3").reactor
        place = client_endpoint(flooding, HostPort("10.0.0.1", 5000))

        def begin() -> bool:
            before = self.sessions()
            raw = self.network.result(place.connect(Made(lambda: Raw(b"\x16"))))
            self.network.run(0.05)
            begun = self.sessions() > before
            self.assertEqual(raw.lost is None, begun)
            raw.transport.loseConnection()
            self.network.run(0.05)
            return begun

        self.assertEqual([begin() for _ in range(4)], [True, True, False, False])
        asking = self.ask(expected=ANNA.node)
        self.assertIsNotNone(asking.opened)
        self.network.run(1.0)
        self.assertEqual([begin() for _ in range(2)], [True, False])
        self.leave(asking)

    def test_silent_to_a_conversation(self) -> None:
        """Who says nothing where there is but one conversation is told nothing, and closed."""
        for leaves in (False, True):
            with self.subTest(leaves=leaves):
                made = Made(
                    lambda: Answering(Introduction(ANNA.node), self.there.reactor, Patience())
                )
                port = self.there.reactor.listenTCP(
                    5001, self.tls(self.there, ANNA).accepting(made)
                )
                place = client_endpoint(self.here.reactor, HostPort("10.0.0.1", 5001))
                raw: Any = self.network.result(place.connect(Made(Raw)))
                self.network.run(1.0)
                if leaves:
                    raw.transport.loseConnection()
                self.network.run_until(lambda raw=raw: raw.lost)
                self.network.run(30.0)
                (answering,) = made.made
                self.assertIsInstance(answering.ended, PeerLost if leaves else TimedOut)
                self.assertEqual(raw.received, b"")
                self.network.result(port.stopListening())

    def test_interfaces(self) -> None:
        """What Twisted asks of both is there."""
        verifyClass(IProtocolFactory, type(self.tls(self.here, ANNA).accepting(Made(Raw))))
        verifyObject(IStreamClientEndpoint, self.endpoint())
        for encryption, kind in ((Encryption.TLS, Tls), (Encryption.NONE, Plaintext)):
            made = security_of(encryption, ANNA, self.here.reactor)
            self.assertIsInstance(made, kind)
