"""
The handshake: who speaks, about what, in which version, and in which network.

States of one side, and what moves it. Between two nodes of an open network, and under TLS::

    initiator:  says HELLO ──> waiting ──HELLO──> agreed
                                  └─────ERROR──> refused
    acceptor:                  waiting ──HELLO──> agreed, answers HELLO
                                  └─────HELLO──> refused, answers ERROR

In a closed network without TLS, the acceptor has to choose a part of what is proven::

    initiator:  says HELLO ──> waiting ──CHALLENGE──> says HELLO again ──> waiting ──HELLO──> agreed
    acceptor:   waiting ──HELLO──> answers CHALLENGE ──> waiting ──HELLO──> agreed, answers HELLO

Invariants: nothing but these is read in C{waiting} (an initiator also reads the refusal); the
deadline on it is the driver's. Both sides reckon the agreement from the same two hellos and by the
same rule, so they need not tell each other what it is:

  - the version is the smaller of the two newest ones, and must be one that both speak;
  - a feature is on when both name it;
  - the conversation is the one the initiator asks for; the acceptor names it in its answer;
  - the networks' names are equal;
  - under TLS, each side's node id is the one that it proved there.

In a closed network the initiator proves the key first (L{flow512.wire.membership}). Whoever does
not is told L{STRANGER} and nothing else, whatever else may be wrong with what he said; nothing
about this node was said before that. The initiator believes nobody either who does not prove it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from flow512.errors import NotAllowed, Unsupported, Violation
from flow512.wire.membership import NetworkKey, Role
from flow512.wire.messages import Challenge, Hello

STRANGER: Final = (
    "This node does not speak with you; if its network is a closed one, `flow512 join` it first."
)
"""
All that a stranger hears: whether he has no key, a wrong one, or was banned is not his to know.
"""


class Agreement(msgspec.Struct, frozen=True):
    """
    What both sides hold to from now on.

    @ivar version: of the protocol.
    @ivar features: that both have.
    @ivar peer: the other side's hello.
    """

    version: int
    features: frozenset[str]
    peer: Hello


class Channel(msgspec.Struct, frozen=True):
    """
    What TLS has proven of a connection.

    @ivar peer: the other side's node id.
    @ivar session: 32 bytes of exported keying material, which only the two ends have.
    """

    peer: bytes
    session: bytes


class Initiator:
    """
    The side that speaks first.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        key: NetworkKey | None = None,
        channel: Channel | None = None,
        nonce: bytes = b"",
        expected: bytes | None = None,
    ) -> None:
        """
        @param hello: what it says of itself, without any proof.
        @param key: of its network; L{None} if that is open.
        @param channel: what TLS has proven; L{None} without TLS.
        @param nonce: 32 random bytes, for a closed network without TLS.
        @param expected: the node id that the other side must have; L{None} for any.
        """
        self._hello = hello
        self._key = key
        self._channel = channel
        self._nonce = nonce
        self._expected = expected
        self._session = b"" if channel is None else channel.session
        self._acceptor = b"" if channel is None else channel.peer

    def opening(self) -> Hello:
        """
        Give what is said first.

        @raise Violation: TLS has proven another node than is looked for.
        """
        if self._channel is not None:
            self._check_node(self._channel.peer)
        if self._key is None:
            return self._hello
        if self._channel is None:
            return msgspec.structs.replace(self._hello, nonce=self._nonce)
        return self._proving(self._key)

    def challenged(self, challenge: Challenge) -> Hello:
        """
        Answer a challenge.

        @raise Violation: there is nothing to prove, or it was proven already.
        """
        if self._key is None or self._session:
            raise Violation("A proof was asked for that there is no reason for.")
        self._check_node(challenge.node)
        self._session = self._nonce + challenge.nonce
        self._acceptor = challenge.node
        return msgspec.structs.replace(self._proving(self._key), nonce=self._nonce)

    def answered(self, theirs: Hello) -> Agreement:
        """
        Take the other side's hello.

        @raise Unsupported: no version in common, or another network.
        @raise Violation: it is another node than it proved to be, or than is looked for, it did
            not prove that it is a member, or its hello makes no sense.
        """
        if self._key is not None and not (
            self._session
            and self._key.is_proof(
                theirs.proof or b"", Role.ACCEPTOR, self._session, self._hello.node, self._acceptor
            )
        ):
            # That is said on both sides, and the one that has not joined may be either.
            raise Violation(
                "The other node did not prove that it belongs to this network; both have to join it"
                " (`flow512 join`), each with its own state folder."
            )
        if self._acceptor and theirs.node != self._acceptor:
            raise _other_name()
        self._check_node(theirs.node)
        return agree(self._hello, theirs)

    def _check_node(self, node: bytes) -> None:
        if self._expected is not None and node != self._expected:
            raise Violation("Another node answers at that address than the one looked for.")

    def _proving(self, key: NetworkKey) -> Hello:
        proof = key.prove(Role.INITIATOR, self._session, self._hello.node, self._acceptor)
        return msgspec.structs.replace(self._hello, proof=proof)


class Acceptor:
    """
    The side that is spoken to.

    @ivar agreement: what both hold to; L{None} until the answer to give is a hello.
    """

    agreement: Agreement | None = None

    def __init__(
        self,
        hello: Hello,
        *,
        key: NetworkKey | None = None,
        channel: Channel | None = None,
        nonce: bytes = b"",
    ) -> None:
        """
        @param hello: what it says of itself, without any proof.
        @param key: of its network; L{None} if that is open.
        @param channel: what TLS has proven; L{None} without TLS.
        @param nonce: 32 random bytes, for a closed network without TLS.
        """
        self._hello = hello
        self._key = key
        self._channel = channel
        self._nonce = nonce
        self._session = b"" if channel is None else channel.session
        self._challenged: Hello | None = None

    def greeted(self, theirs: Hello) -> Hello | Challenge:
        """
        Take the other side's hello.

        @return: what to answer.
        @raise NotAllowed: it is a stranger in this closed network.
        @raise Unsupported: no version in common, another network or conversation.
        @raise Violation: its hello contradicts itself, or what TLS has proven.
        """
        if self._key is None:
            answer = self._hello
        elif self._channel is None and self._challenged is None:
            if theirs.nonce is None:
                raise _stranger()
            self._challenged = theirs
            self._session = theirs.nonce + self._nonce
            return Challenge(self._nonce, self._hello.node)
        else:
            answer = self._member(self._key, theirs)
        if self._channel is not None and theirs.node != self._channel.peer:
            raise _other_name()
        choose_conversation(theirs, [self._hello.conversation])
        self.agreement = agree(self._hello, theirs)
        return answer

    def _member(self, key: NetworkKey, theirs: Hello) -> Hello:
        first = self._challenged
        is_the_same = first is None or (first.node, first.nonce) == (theirs.node, theirs.nonce)
        initiator, acceptor = theirs.node, self._hello.node
        if not is_the_same or not key.is_proof(
            theirs.proof or b"", Role.INITIATOR, self._session, initiator, acceptor
        ):
            raise _stranger()
        proof = key.prove(Role.ACCEPTOR, self._session, initiator, acceptor)
        return msgspec.structs.replace(self._hello, proof=proof)


def _stranger() -> NotAllowed:
    return NotAllowed(STRANGER, "It did not prove the key of this closed network.")


def _other_name() -> Violation:
    return Violation("The hello names another node than the one that the other side proved to be.")


def agree(ours: Hello, theirs: Hello) -> Agreement:
    """
    Reckon what two hellos agree on.

    @param ours: what this side says, with the conversation that it asks for or answers with.
    @param theirs: what the other side said.
    @raise Unsupported: no version in common, or another network.
    @raise Violation: a hello that contradicts itself, or answers about another conversation.
    """
    if theirs.oldest > theirs.newest:
        raise Violation("The hello names versions from newer to older.")
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        raise Unsupported(
            f"This node speaks versions {ours.oldest} to {ours.newest} of the protocol, the other"
            f" {theirs.oldest} to {theirs.newest}; update the older of the two."
        )
    if ours.network != theirs.network:
        raise Unsupported("The other node belongs to another network.")
    if ours.conversation != theirs.conversation:
        raise Violation("The hello answers about another conversation than was asked for.")
    return Agreement(version, frozenset(ours.features) & frozenset(theirs.features), theirs)


def choose_conversation(theirs: Hello, offered: Collection[str]) -> str:
    """
    Find what the initiator asks for among what is offered here.

    @raise Unsupported: it is not offered.
    """
    if theirs.conversation not in offered:
        raise Unsupported(
            "That is not offered here: " + (", ".join(sorted(offered)) or "nothing") + " is."
        )
    return theirs.conversation
