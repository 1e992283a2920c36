"""
The two sides of a conversation: who connected, and who was connected to.

They differ in how they greet (L{flow512.wire.handshake}); once that is done, the conversation is
the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flow512.errors import Banned, NotAllowed
from flow512.link.conversation import Conversation
from flow512.link.node_id import format_node_id
from flow512.link.security import is_tls
from flow512.wire.frame import Frame
from flow512.wire.handshake import STRANGER, Acceptor, Agreement, Initiator
from flow512.wire.messages import HELLO_ANSWER, HELLO_ONLY, Challenge, Hello, Kind, decode


class Caller(Conversation):
    """
    The side that connected: it says hello first.

    @ivar expected: the node id that the other side must have; L{None} for any.
    """

    expected: bytes | None = None
    _initiator: Initiator

    def _allowed_in_greeting(self) -> Mapping[int, int]:
        return HELLO_ANSWER

    def _closed_in_greeting(self) -> str:
        sentence = super()._closed_in_greeting()
        if is_tls(self.transport):
            return sentence
        return f"{sentence[:-1]}; if it wants TLS, leave out --plaintext here."

    def _begin_greeting(self) -> None:
        if self.channel is not None:
            self._check_admitted(self.channel.peer)
        self._initiator = Initiator(
            self.introduction.hello(self.conversation),
            key=self.introduction.key,
            channel=self.channel,
            nonce=self.introduction.nonce(),
            expected=self.expected,
        )
        self.send(self._initiator.opening())

    def _greeted(self, frame: Frame) -> Agreement | None:
        if frame.kind == Kind.CHALLENGE:
            self.send(self._initiator.challenged(decode(frame, Challenge)))
            return None
        agreement = self._initiator.answered(decode(frame, Hello))
        self._check_admitted(agreement.peer.node)
        return agreement

    def _check_admitted(self, node: bytes) -> None:
        if not self.introduction.admits(node):
            raise Banned("You have banned that node; `flow512 bans` tells why.")


class Answerer(Conversation):
    """
    The side that was connected to: it answers the hello, or refuses.

    @ivar admission: told the node id of the other side once its hello is through, and before it
        is answered; raises L{Flow512Error} to refuse it all the same.
    """

    admission: Callable[[bytes], None] | None = None
    _acceptor: Acceptor

    def _allowed_in_greeting(self) -> Mapping[int, int]:
        return HELLO_ONLY

    def _begin_greeting(self) -> None:
        self._acceptor = Acceptor(
            self.introduction.hello(self.conversation),
            key=self.introduction.key,
            channel=self.channel,
            nonce=self.introduction.nonce(),
        )

    def _greeted(self, frame: Frame) -> Agreement | None:
        theirs = decode(frame, Hello)
        answer = self._acceptor.greeted(theirs)
        if self._acceptor.agreement is not None:
            if not self.introduction.admits(theirs.node):
                raise NotAllowed(STRANGER, f"{format_node_id(theirs.node)} is banned.")
            if self.admission is not None:
                self.admission(theirs.node)
        self.send(answer)
        return self._acceptor.agreement
