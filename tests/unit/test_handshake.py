"""Tests for L{flow512.wire.handshake}."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Unsupported, Violation
from flow512.wire.handshake import agree, choose_conversation
from flow512.wire.messages import Hello
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
