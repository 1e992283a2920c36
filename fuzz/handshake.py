"""
Fuzz L{flow512.wire.handshake}: two members of a network, and one in the middle who is none.

An input is a program for the one in the middle. He may begin conversations with either member, as
the one who connects or who is connected to, several at once, and send them hellos and challenges
that he puts together from whatever he has ever heard, said by whomever, and from what he makes up.
He does not have the network key; the parties' answers are all that he learns of it.

  - Only L{NotAllowed}, L{Unsupported} and L{Violation} get out.
  - In a closed network nobody agrees under TLS. Without TLS one agrees only where the other member
    is in the very same conversation, in the other role: he has passed everything on.
  - A closed network's member tells him exactly one thing, unless he passed a proof on.
  - Under TLS nobody is taken for another node than TLS has proven, and nobody for another than
    was looked for.
  - What was agreed is what both said: the version, features, the network, the conversation.
  - Whatever the parties say can be written, and read again as the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import atheris
import msgspec
from running import run

with atheris.instrument_imports(include=["flow512"]):
    from flow512.errors import BadMessage, NotAllowed, Unsupported, Violation
    from flow512.wire import messages
    from flow512.wire.fields import Message
    from flow512.wire.frame import HEADER_SIZE, Frame
    from flow512.wire.handshake import STRANGER, Acceptor, Agreement, Channel, Initiator
    from flow512.wire.membership import NetworkKey
    from flow512.wire.messages import Challenge, Hello

MEMBERS: Final = (b"1" * 32, b"2" * 32)
STRANGERS: Final = (b"E" * 32, b"F" * 32)
KEY: Final = NetworkKey(b"k" * 32)

CLOSED: Final = 1
TLS: Final = 2
LOOKED_FOR: Final = 4
"""In the first byte: whether the network is a closed one, TLS is used, and an id is looked for."""

MOST: Final = 14
"""Instructions in a program."""

TEXTS: Final = ("", "transfer", "registry", "net")

_M = TypeVar("_M", bound=Message)


def over_the_wire(message: _M) -> _M:
    """
    Write a message and read it again.

    @raise BadMessage: it could not be said.
    """
    spelled = messages.encode(message)
    return messages.decode(Frame(spelled[0], 0, 0, spelled[HEADER_SIZE:]), type(message))


@dataclass
class Run:
    """
    A member in one conversation, and what became of it.

    @ivar sent: the nonce that the member drew.
    @ivar heard: the nonce that came, where the member went on with it.
    """

    side: Initiator | Acceptor
    node: bytes
    hello: Hello
    channel: Channel | None
    looked_for: bytes | None
    sent: bytes
    heard: bytes | None = None
    peer: bytes | None = None
    proved: bool = False
    over: bool = False
    agreement: Agreement | None = None


class Middle:
    """The one in the middle, what he knows, and the members' conversations."""

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.place = 1
        self.how = program[0]
        self.key = KEY if self.how & CLOSED else None
        self.runs: list[Run] = []
        self.hellos = [Hello(1, 1, "transfer", STRANGERS[0])]
        self.known = [*MEMBERS, *STRANGERS, bytes(32)]

    def take(self) -> int:
        """Take the next byte of the program; 0 after its end."""
        place = self.place
        self.place += 1
        return self.program[place] if place < len(self.program) else 0

    def begin(self) -> None:
        """Begin a conversation with a member."""
        choice = self.take()
        node = MEMBERS[choice & 1]
        number = bytes([len(self.runs) + 1])
        nonce = b"n" * 31 + number
        hello = Hello(
            1 + (choice >> 2 & 1),
            1 + (choice >> 2 & 3),
            TEXTS[1 + (choice >> 4 & 1)],
            node,
            network="" if self.key else TEXTS[choice >> 5 & 2],
            features=("a", "b")[: choice >> 6],
        )
        channel = None
        if self.how & TLS:
            channel = Channel(STRANGERS[self.take() & 1], b"s" * 31 + number)
            self.known.append(channel.session)
        looked_for = self.known[self.take() % 4] if self.how & LOOKED_FOR else None
        side: Initiator | Acceptor
        if choice & 2:
            side = Acceptor(hello, key=self.key, channel=channel, nonce=nonce)
            self.runs.append(Run(side, node, hello, channel, None, nonce))
            return
        side = Initiator(hello, key=self.key, channel=channel, nonce=nonce, expected=looked_for)
        made = Run(side, node, hello, channel, looked_for, nonce)
        try:
            self.hear(made, side.opening())
        except Violation:
            assert channel is not None
            assert channel.peer != looked_for
            return
        self.runs.append(made)

    def hear(self, speaker: Run, message: Hello | Challenge) -> None:
        """Learn from what a member says, of which he is sure that it can be said."""
        assert over_the_wire(message) == message
        assert message.node == speaker.node
        if isinstance(message, Hello):
            assert (message.proof is None) or self.key is not None
            speaker.proved = speaker.proved or message.proof is not None
            self.hellos.append(message)
            self.known += [part for part in (message.nonce, message.proof) if part is not None]
        else:
            self.known.append(message.nonce)

    def any_known(self) -> bytes:
        """Choose 32 bytes: heard before, or made up."""
        choice = self.take()
        return bytes([choice]) * 32 if choice >= 250 else self.known[choice % len(self.known)]

    def make_hello(self) -> Hello:
        """Put a hello together."""
        hello = self.hellos[self.take() % len(self.hellos)]
        changes: dict[str, object] = {}
        what = self.take()
        if what & 1:
            changes["node"] = self.any_known()
        if what & 2:
            changes["nonce"] = self.any_known() if what & 64 else None
        if what & 4:
            changes["proof"] = self.any_known() if what & 64 else None
        if what & 8:
            changes["conversation"] = TEXTS[self.take() % 4]
        if what & 16:
            changes["network"] = TEXTS[self.take() % 4]
        if what & 32:
            versions = self.take()
            changes |= {"oldest": versions & 15, "newest": versions >> 4, "features": ("b", "c")}
        return msgspec.structs.replace(hello, **changes)

    def say(self) -> None:
        """Say something to a member whose conversation is not over."""
        open_ones = [speaker for speaker in self.runs if not speaker.over]
        if not open_ones:
            return
        listener = open_ones[self.take() % len(open_ones)]
        message: Hello | Challenge
        if isinstance(listener.side, Initiator) and self.take() & 1:
            message = Challenge(self.any_known(), self.any_known())
        else:
            message = self.make_hello()
        try:
            message = over_the_wire(message)
        except BadMessage:
            return
        try:
            self.tell(listener, message)
        except (NotAllowed, Unsupported, Violation) as error:
            listener.over = True
            if isinstance(listener.side, Acceptor) and self.key is not None:
                uniform = isinstance(error, NotAllowed) and str(error) == STRANGER
                assert uniform or self.partner(listener, listener.peer), "told to a stranger"

    def tell(self, listener: Run, message: Hello | Challenge) -> None:
        """Let a member take a message in."""
        if isinstance(listener.side, Acceptor):
            assert isinstance(message, Hello)
            if listener.heard is None:
                listener.heard = message.nonce
                listener.peer = message.node
            answer = listener.side.greeted(message)
            assert isinstance(answer, Hello) == (listener.side.agreement is not None)
            if isinstance(answer, Hello):
                self.doubt(listener, listener.side.agreement, message)
            self.hear(listener, answer)
        elif isinstance(message, Challenge):
            answer = listener.side.challenged(message)
            listener.heard, listener.peer = message.nonce, message.node
            self.hear(listener, answer)
        else:
            self.doubt(listener, listener.side.answered(message), message)

    def partner(self, one: Run, peer: bytes | None) -> bool:
        """Say whether a member is in the very same conversation, and gave a proof in it."""
        return any(
            other.proved
            and other.channel is None
            and type(other.side) is not type(one.side)
            and other.node == peer
            and other.peer == one.node
            and (other.sent, other.heard) == (one.heard, one.sent)
            for other in self.runs
        )

    def doubt(self, member: Run, agreement: Agreement | None, said: Hello) -> None:
        """Doubt what a member agreed to."""
        assert agreement is not None
        member.over = True
        member.agreement = agreement
        assert agreement.peer == said
        if self.key is not None:
            assert member.channel is None, "agreed with a stranger under TLS"
            assert self.partner(member, said.node), "agreed with nobody"
        if member.channel is not None:
            assert said.node == member.channel.peer, "taken for another"
        assert member.looked_for in (None, said.node), "not the one looked for"
        ours = member.hello
        assert said.oldest <= agreement.version <= said.newest
        assert ours.oldest <= agreement.version <= ours.newest
        assert agreement.features <= set(ours.features) & set(said.features)
        assert (said.network, said.conversation) == (ours.network, ours.conversation)

    def go(self) -> None:
        """Run the program."""
        for _ in range(MOST):
            if self.place >= len(self.program):
                break
            if self.take() & 3:
                self.say()
            elif len(self.runs) < 6:
                self.begin()


def one_input(data: bytes) -> None:
    """See the module."""
    if data:
        Middle(data).go()


if __name__ == "__main__":
    run("handshake", one_input, 100)
