"""
What holds of every codec whatever it is given, where no module of tests of its own has it already.
"""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import TreeVerifier
from flow512.discovery.datagram import (
    MAX_DATAGRAM,
    Announce,
    Answer,
    Datagram,
    Goodbye,
    Offer,
    Query,
    decode,
    encode,
    encode_query,
)
from flow512.errors import BadDigest, BadMessage, Misuse, NotAllowed, Refusal, Violation
from flow512.units import BLOCK
from flow512.wire.handshake import STRANGER, Acceptor, Agreement, Channel, Initiator
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import Challenge, Hello
from tests.unit.cutting import UNHURRIED
from tests.unit.test_tree import small_tree

instances = st.binary(min_size=16, max_size=16)
ids = st.binary(min_size=32, max_size=32)
names = st.text(max_size=64)
sequences = st.integers(0, 2**63 - 1)
offers = st.builds(Offer, st.text(min_size=1, max_size=16), st.integers(1, 65535))
announced = (
    instances,
    names,
    names,
    st.just(b"") | ids,
    st.lists(offers, max_size=4).map(tuple),
    sequences,
    st.integers(1000, 300_000),
)

datagrams: st.SearchStrategy[Datagram] = st.one_of(
    st.builds(Announce, *announced),
    st.builds(Answer, *announced),
    st.builds(Goodbye, instances, names, sequences),
    st.builds(Query, instances, names, st.binary(max_size=512)),
)

hellos = st.builds(
    Hello,
    oldest=st.integers(1, 3),
    newest=st.integers(1, 3),
    conversation=st.sampled_from(["registry", "transfer"]),
    node=ids,
    network=st.sampled_from(["", "lab"]),
    features=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
)


def flipped(data: bytes, bit: int) -> bytes:
    """Change one bit; it may be counted beyond the end."""
    byte, place = divmod(bit % (8 * len(data)), 8)
    return data[:byte] + bytes([data[byte] ^ 1 << place]) + data[byte + 1 :]


class DatagramTests(SynchronousTestCase):
    """The beacon's open datagrams."""

    @UNHURRIED
    @given(datagrams, st.data())
    def test_there_and_back(self, datagram: Datagram, data: st.DataObject) -> None:
        """What can be written is read as the same, fits, and means nothing when it is cut."""
        try:
            written = encode(datagram)
        except Misuse as error:
            self.assertIn("shorter", str(error))
            return
        self.assertLessEqual(len(written), MAX_DATAGRAM)
        self.assertEqual(decode(written), datagram)
        cut = data.draw(st.integers(0, len(written) - 1))
        if not isinstance(datagram, Query) or cut < len(written) - len(datagram.padding) - 3:
            with self.assertRaises(BadMessage):
                decode(written[:cut])

    @given(instances, names)
    def test_questions(self, instance: bytes, network: str) -> None:
        """A question fills the datagram, whoever asks, in whatever network."""
        written = encode_query(instance, network)
        self.assertEqual(len(written), MAX_DATAGRAM)
        asked = decode(written)
        assert isinstance(asked, Query)
        self.assertEqual((asked.instance, asked.network), (instance, network))


class TreeTests(SynchronousTestCase):
    """The pages of a tree, and the blocks that they prove."""

    DATA = bytes(range(256)) * (BLOCK // 256) + b"the end"
    TREE = small_tree(DATA)

    @given(st.integers(min_value=0))
    def test_page(self, bit: int) -> None:
        """A page with any bit changed is refused, and not kept."""
        verifier = TreeVerifier(self.TREE.root, len(self.DATA))
        with self.assertRaises(BadDigest):
            verifier.add_page(0, 0, flipped(self.TREE.page(0, 0), bit))
        self.assertEqual(verifier.wanted(0), (0, 0))

    @UNHURRIED
    @given(st.integers(min_value=0))
    def test_block(self, bit: int) -> None:
        """A block with any bit changed is refused."""
        verifier = TreeVerifier(self.TREE.root, len(self.DATA))
        verifier.add_page(0, 0, self.TREE.page(0, 0))
        with self.assertRaises(BadDigest):
            verifier.verify(0, flipped(self.DATA[:BLOCK], bit))
        verifier.verify(0, self.DATA[:BLOCK])

    @given(st.integers(0, 2**63 - 1))
    def test_size(self, size: int) -> None:
        """The page of a file is not that of another size."""
        page = self.TREE.page(0, 0)
        verifier = TreeVerifier(self.TREE.root, size)
        if size == len(self.DATA):
            verifier.add_page(0, 0, page)
            return
        with self.assertRaises((BadDigest, BadMessage, Misuse)):
            verifier.add_page(0, 0, page)


class HandshakeTests(SynchronousTestCase):
    """Two nodes that do what the protocol asks."""

    def meet(
        self, one: Hello, other: Hello, keys: tuple[NetworkKey | None, NetworkKey | None], tls: bool
    ) -> tuple[Agreement | None, Agreement | None]:
        """Let two nodes greet each other; what each of them has agreed to is returned."""
        mine, theirs = Channel(other.node, b"s" * 32), Channel(one.node, b"s" * 32)
        here = Initiator(one, key=keys[0], channel=mine if tls else None, nonce=b"1" * 32)
        there = Acceptor(other, key=keys[1], channel=theirs if tls else None, nonce=b"2" * 32)
        try:
            answer = there.greeted(here.opening())
            if isinstance(answer, Challenge):
                answer = there.greeted(here.challenged(answer))
            assert isinstance(answer, Hello)
            return here.answered(answer), there.agreement
        except (Refusal, Violation):
            return None, there.agreement

    @given(hellos, hellos, st.none() | ids, st.booleans())
    def test_same_network(self, one: Hello, other: Hello, secret: bytes | None, tls: bool) -> None:
        """In one network, open or closed, both agree to the same, or neither agrees."""
        key = None if secret is None else NetworkKey(secret)
        mine, theirs = self.meet(one, other, (key, key), tls)
        self.assertEqual(mine is None, theirs is None)
        if mine is not None and theirs is not None:
            self.assertEqual((mine.version, mine.features), (theirs.version, theirs.features))
            self.assertEqual((mine.peer.node, theirs.peer.node), (other.node, one.node))

    @given(hellos, hellos, ids, st.none() | ids, st.booleans())
    def test_strangers(
        self, one: Hello, other: Hello, secret: bytes, guess: bytes | None, tls: bool
    ) -> None:
        """Nobody agrees to anything with a node that has no key or another one."""
        if guess == secret:
            return
        keys = (NetworkKey(secret), None if guess is None else NetworkKey(guess))
        # Who has no key may well believe a member's hello; the member goes away.
        self.assertIsNone(self.meet(one, other, keys, tls)[0])
        self.assertEqual(self.meet(one, other, keys[::-1], tls), (None, None))

    @given(hellos, ids, st.integers(min_value=0), st.sampled_from(["node", "proof"]))
    def test_changed(self, one: Hello, secret: bytes, bit: int, what: str) -> None:
        """A member's hello whose proof or node id has a bit changed is a stranger's."""
        key = NetworkKey(secret)
        other = msgspec.structs.replace(one, node=b"o" * 32)
        said = Initiator(one, key=key, channel=Channel(other.node, b"s" * 32)).opening()
        changed = msgspec.structs.replace(said, **{what: flipped(getattr(said, what), bit)})
        there = Acceptor(other, key=key, channel=Channel(changed.node, b"s" * 32))
        with self.assertRaises(NotAllowed) as refused:
            there.greeted(changed)
        self.assertEqual(str(refused.exception), STRANGER)
        self.assertIsNone(there.agreement)
