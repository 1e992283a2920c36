"""Tests for L{flow512.wire.handshake}."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import NotAllowed, Unsupported, Violation
from flow512.wire.handshake import (
    STRANGER,
    Acceptor,
    Channel,
    Initiator,
    agree,
    choose_conversation,
)
from flow512.wire.membership import NetworkKey, Role
from flow512.wire.messages import Challenge, Hello
from tests.unit.cutting import UNHURRIED


def hello(oldest: int = 1, newest: int = 1, **changes: object) -> Hello:
    """A hello like any other, but for some fields."""
    plain = Hello(oldest, newest, "transfer", bytes(32))
    return msgspec.structs.replace(plain, **changes)


versions = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted)
features = st.lists(st.sampled_from("abcd")).map(tuple)


class AgreeTests(SynchronousTestCase):
    """Two hellos agree, or say why they do not."""

    def test_versions(self) -> None:
        """The version is the newest that both speak."""
        for ours, theirs, version in [
            ((1, 1), (1, 1), 1),
            ((1, 3), (2, 5), 3),
            ((2, 5), (1, 3), 3),
            ((1, 9), (4, 4), 4),
            ((1, 3), (3, 9), 3),
        ]:
            self.assertEqual(agree(hello(*ours), hello(*theirs)).version, version)

    def test_no_common_version(self) -> None:
        """Without a common version the sentence says what each speaks and what to do."""
        for ours, theirs in [((1, 1), (2, 3)), ((4, 6), (2, 3))]:
            with self.assertRaises(Unsupported) as raised:
                agree(hello(*ours), hello(*theirs))
            self.assertEqual(
                str(raised.exception),
                f"This node speaks versions {ours[0]} to {ours[1]} of the protocol, the other"
                f" {theirs[0]} to {theirs[1]}; update the older of the two.",
            )

    def test_contradiction(self) -> None:
        """A hello whose oldest version is newer than its newest contradicts itself."""
        self.assertRaises(Violation, agree, hello(1, 9), hello(3, 2))

    def test_networks(self) -> None:
        """Another network is refused, and which one is ours is not told."""
        for ours, theirs in [("", "office"), ("office", ""), ("office", "Office")]:
            with self.assertRaises(Unsupported) as raised:
                agree(hello(network=ours), hello(network=theirs))
            self.assertNotIn("office", str(raised.exception).lower())
        agree(hello(network="office"), hello(network="office"))

    def test_conversations(self) -> None:
        """An answer about something else is a violation."""
        self.assertRaises(Violation, agree, hello(), hello(conversation="registry"))

    def test_features(self) -> None:
        """A feature is on when both name it."""
        agreement = agree(hello(features=("a", "b")), hello(features=("b", "c")))
        self.assertEqual(agreement.features, {"b"})

    def test_peer(self) -> None:
        """The agreement holds what the other side said of itself."""
        theirs = hello(name="Ben")
        self.assertIs(agree(hello(name="Anna"), theirs).peer, theirs)

    @UNHURRIED
    @given(versions, versions, features, features)
    def test_both_reckon_the_same(
        self, a: list[int], b: list[int], some: tuple[str, ...], others: tuple[str, ...]
    ) -> None:
        """Both sides come to the same version and features, or both to none."""
        one, other = hello(*a, features=some), hello(*b, features=others)
        if max(a[0], b[0]) > min(a[1], b[1]):
            self.assertRaises(Unsupported, agree, one, other)
            self.assertRaises(Unsupported, agree, other, one)
            return
        here, there = agree(one, other), agree(other, one)
        self.assertEqual((here.version, here.features), (there.version, there.features))
        self.assertTrue(a[0] <= here.version <= a[1] and b[0] <= here.version <= b[1])


class ChooseTests(SynchronousTestCase):
    """An acceptor looks up what it is asked for."""

    def test_offered(self) -> None:
        """What is offered is found."""
        self.assertEqual(choose_conversation(hello(), ["registry", "transfer"]), "transfer")

    def test_not_offered(self) -> None:
        """What is not offered is refused, and the sentence says what is."""
        for offered, what in [(["registry"], "registry"), (["b", "a"], "a, b"), ([], "nothing")]:
            with self.assertRaises(Unsupported) as raised:
                choose_conversation(hello(), offered)
            self.assertEqual(str(raised.exception), f"That is not offered here: {what} is.")


INITIATOR_NODE = b"i" * 32
ACCEPTOR_NODE = b"a" * 32
KEY = NetworkKey(bytes(range(32)))
OTHER_KEY = NetworkKey(bytes(32))


def initiator(**options: Any) -> Initiator:
    """The side that speaks first."""
    return Initiator(hello(node=INITIATOR_NODE), nonce=b"n" * 32, **options)


def acceptor(**options: Any) -> Acceptor:
    """The side that is spoken to."""
    return Acceptor(hello(node=ACCEPTOR_NODE), nonce=b"m" * 32, **options)


def under_tls(session: bytes = b"s" * 32) -> tuple[Channel, Channel]:
    """What TLS has proven to the initiator, and to the acceptor."""
    return Channel(ACCEPTOR_NODE, session), Channel(INITIATOR_NODE, session)


class OpenNetworkTests(SynchronousTestCase):
    """Both sides, where nobody has to prove a key."""

    def test_agreed(self) -> None:
        """One hello each, with and without TLS, and both hold to the same."""
        for mine, theirs in (under_tls(), (None, None)):
            here, there = initiator(channel=mine), acceptor(channel=theirs)
            said = here.opening()
            self.assertEqual((said.nonce, said.proof), (None, None))
            answer = there.greeted(said)
            assert isinstance(answer, Hello)
            self.assertEqual(here.answered(answer).peer.node, ACCEPTOR_NODE)
            assert there.agreement is not None
            self.assertEqual(there.agreement.peer.node, INITIATOR_NODE)

    def test_another_node_than_proven(self) -> None:
        """Under TLS a hello must name the node that the key proves, on both sides."""
        mine, theirs = under_tls()
        there = acceptor(channel=theirs)
        self.assertRaises(Violation, there.greeted, hello(node=b"x" * 32))
        self.assertIsNone(there.agreement)
        here = initiator(channel=mine)
        here.opening()
        self.assertRaises(Violation, here.answered, hello(node=b"x" * 32))

    def test_another_node_than_expected(self) -> None:
        """Who looks for one node says nothing to another; without TLS he goes by what it says."""
        mine, _ = under_tls()
        self.assertRaises(Violation, initiator(channel=mine, expected=b"x" * 32).opening)
        initiator(channel=mine, expected=ACCEPTOR_NODE).opening()
        here = initiator(expected=b"x" * 32)
        here.opening()
        self.assertRaises(Violation, here.answered, hello(node=ACCEPTOR_NODE))

    def test_challenged_for_nothing(self) -> None:
        """Nobody is asked for a proof in an open network."""
        here = initiator()
        here.opening()
        self.assertRaises(Violation, here.challenged, Challenge(bytes(32), ACCEPTOR_NODE))

    def test_another_conversation(self) -> None:
        """The acceptor serves one conversation."""
        self.assertRaises(Unsupported, acceptor().greeted, hello(conversation="registry"))


class ClosedNetworkTests(SynchronousTestCase):
    """Both sides, where both have to prove the key."""

    def refused(self, there: Acceptor, said: Hello) -> None:
        """The acceptor says what it says to every stranger, and agrees to nothing."""
        with self.assertRaises(NotAllowed) as raised:
            there.greeted(said)
        self.assertEqual(str(raised.exception), STRANGER)
        self.assertIsNone(there.agreement)

    def challenged(self, here: Initiator, there: Acceptor) -> Hello:
        """Go through the handshake without TLS, up to the second hello."""
        challenge = there.greeted(here.opening())
        assert isinstance(challenge, Challenge)
        self.assertIsNone(there.agreement)
        return here.challenged(challenge)

    def test_members(self) -> None:
        """Members agree in one exchange under TLS, and in two without."""
        mine, theirs = under_tls()
        here, there = initiator(key=KEY, channel=mine), acceptor(key=KEY, channel=theirs)
        answer = there.greeted(here.opening())
        assert isinstance(answer, Hello)
        self.assertEqual(here.answered(answer).peer.node, ACCEPTOR_NODE)
        here, there = initiator(key=KEY), acceptor(key=KEY)
        answer = there.greeted(self.challenged(here, there))
        assert isinstance(answer, Hello)
        self.assertEqual(here.answered(answer).peer.node, ACCEPTOR_NODE)
        self.assertIsNotNone(there.agreement)

    def test_strangers(self) -> None:
        """No key and a wrong key are told the same, whatever else is wrong with the hello."""
        mine, theirs = under_tls()
        for stranger in (initiator(channel=mine), initiator(channel=mine, key=OTHER_KEY)):
            said = stranger.opening()
            self.refused(acceptor(key=KEY, channel=theirs), said)
            for changes in ({"oldest": 9, "newest": 9}, {"conversation": "x"}, {"network": "x"}):
                wrong = msgspec.structs.replace(said, **changes)
                self.refused(acceptor(key=KEY, channel=theirs), wrong)
        self.refused(acceptor(key=KEY), initiator().opening())
        there = acceptor(key=KEY)
        self.refused(there, self.challenged(initiator(key=OTHER_KEY), there))

    def test_replayed(self) -> None:
        """A member's hello means nothing in another session, from another node, or to another."""
        mine, theirs = under_tls()
        said = initiator(key=KEY, channel=mine).opening()
        self.refused(acceptor(key=KEY, channel=under_tls(b"t" * 32)[1]), said)
        thief = b"t" * 32
        self.refused(
            acceptor(key=KEY, channel=Channel(thief, theirs.session)),
            msgspec.structs.replace(said, node=thief),
        )
        self.refused(Acceptor(hello(node=thief), nonce=b"m" * 32, key=KEY, channel=theirs), said)

    def test_replayed_without_tls(self) -> None:
        """Without TLS, a member's second hello is no answer to another challenge."""
        said = self.challenged(initiator(key=KEY), acceptor(key=KEY))
        other = Acceptor(hello(node=ACCEPTOR_NODE), nonce=b"o" * 32, key=KEY)
        challenge = other.greeted(msgspec.structs.replace(said, proof=None))
        self.assertIsInstance(challenge, Challenge)
        self.refused(other, said)
        # Nor can the node or the nonce be exchanged between the two hellos.
        for changes in ({"node": b"t" * 32}, {"nonce": b"t" * 32}):
            there = acceptor(key=KEY)
            said = self.challenged(initiator(key=KEY), there)
            self.refused(there, msgspec.structs.replace(said, **changes))

    def test_proof_at_once_without_tls(self) -> None:
        """Without TLS nothing can be proven before the challenge."""
        there = acceptor(key=KEY)
        said = hello(node=INITIATOR_NODE, proof=b"p" * 32)
        self.refused(there, said)

    def test_acceptor_is_no_member(self) -> None:
        """The initiator believes nobody who does not prove the key, nor its own proof come back."""
        mine, _ = under_tls()
        here = initiator(key=KEY, channel=mine)
        said = here.opening()
        wrong_key = OTHER_KEY.prove(Role.ACCEPTOR, mine.session, INITIATOR_NODE, ACCEPTOR_NODE)
        for proof in (None, wrong_key, said.proof):
            with self.assertRaises(Violation) as raised:
                here.answered(hello(node=ACCEPTOR_NODE, proof=proof))
            self.assertIn("did not prove", str(raised.exception))
            self.assertIn("`flow512 join`", str(raised.exception))
        # Without TLS as well, where an open node answers at once.
        here = initiator(key=KEY)
        here.opening()
        self.assertRaises(Violation, here.answered, hello(node=ACCEPTOR_NODE))

    def test_challenges_that_make_no_sense(self) -> None:
        """Nobody is challenged under TLS, twice, or by another node than he looks for."""
        challenge = Challenge(b"m" * 32, ACCEPTOR_NODE)
        here = initiator(key=KEY, channel=under_tls()[0])
        here.opening()
        self.assertRaises(Violation, here.challenged, challenge)
        here = initiator(key=KEY)
        here.opening()
        here.challenged(challenge)
        self.assertRaises(Violation, here.challenged, challenge)
        here = initiator(key=KEY, expected=b"x" * 32)
        here.opening()
        self.assertRaises(Violation, here.challenged, challenge)

    def test_another_node_than_challenged(self) -> None:
        """Without TLS, who challenged is who answers."""
        here, there = initiator(key=KEY), acceptor(key=KEY)
        answer = there.greeted(self.challenged(here, there))
        assert isinstance(answer, Hello)
        self.assertRaises(Violation, here.answered, msgspec.structs.replace(answer, node=b"x" * 32))
