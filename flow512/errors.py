"""
Every error that flow512 raises, and what each is called on the wire.

The type says who is to blame, the message is one sentence that names the cause
and says what to do::

    Flow512Error
      Misuse            the caller or the user asked for something that cannot be
      Violation         the other side broke the protocol; its stream is not to be trusted further
      ResourceFailure   this machine: disk, descriptors, ports
      Refusal           the other side understood, and will not or cannot
      Unreachable       the other side is not there, or went away

An error crosses the wire as a code and a sentence; L{WIRE_CODES} is the only table
between the two. The code of an error that no row names is L{INTERNAL}: what went wrong
inside a node is logged there, not told to strangers.
"""

from __future__ import annotations

import errno
from typing import Final


class Flow512Error(Exception):
    """The root of every error here. C{str(error)} is one sentence for a person."""


class Misuse(Flow512Error):
    """What was asked for cannot be; nothing was changed."""


class UnsafeName(Misuse):
    """A name or path that must not touch this machine's disk."""


class TargetExists(Misuse):
    """Something else already has the name that a file was to be published under."""


class StateInUse(Misuse):
    """Another process works on the same state folder or partial file."""


class ShareMissing(Misuse):
    """A folder that was named, to be shared or for a download, is not there, or is no folder."""


class Violation(Flow512Error):
    """The other side broke the protocol; the conversation ends."""


class BadFrame(Violation):
    """A frame of unknown kind, over its cap, of wrong length, or at the wrong time."""


class BadMessage(Violation):
    """A frame body that is not the message its kind promises."""


class BadDigest(Violation):
    """Bytes that are not what their digest says; whoever sent them lied or is broken."""


class ResourceFailure(Flow512Error):
    """This machine could not do it."""


class DiskFull(ResourceFailure):
    """No space or quota left."""


class DiskFailure(ResourceFailure):
    """A read or write on this machine failed."""


class TooManyOpenFiles(ResourceFailure):
    """The process has no file descriptor left."""


class PortTaken(ResourceFailure):
    """The port to listen on belongs to another process, or may not be opened."""


class Refusal(Flow512Error):
    """The other side said no; the conversation goes on."""


class NotFound(Refusal):
    """The other side has no such path or content."""


class NotAllowed(Refusal):
    """The other side does not let us.

    @ivar rule: which rule refuses, for the log of the side that does; it is never sent.
    """

    def __init__(self, sentence: str, rule: str = "") -> None:
        super().__init__(sentence)
        self.rule = rule


class Banned(NotAllowed):
    """It is this side that does not speak with the other, which it has banned."""


class Busy(Refusal):
    """Over a limit for now.

    @ivar retry_after: seconds to wait before asking again.
    """

    def __init__(self, sentence: str, retry_after: float = 1.0) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ContentChanged(Refusal):
    """The file changed at its source since its root was computed."""


class Unsupported(Refusal):
    """No version or feature in common, or a conversation that is not offered here."""


class SourceFailure(Refusal):
    """The other side could not read or could not go on, through no fault of ours."""


class Cancelled(Refusal):
    """The request was cancelled before it was answered."""


class ReaderGone(Cancelled):
    """Nobody reads any more what was to be written."""


class Unreachable(Flow512Error):
    """The other side could not be reached, or fell silent."""


class NoSuchPeer(Unreachable):
    """No peer is known by that name, id or address."""


class PeerLost(Unreachable):
    """The connection ended before the answer."""


class TimedOut(Unreachable):
    """The other side did not answer in time."""


INTERNAL: Final = 1

WIRE_CODES: Final[dict[type[Flow512Error], int]] = {
    Flow512Error: INTERNAL,
    BadFrame: 2,
    BadMessage: 3,
    Unsupported: 4,
    NotFound: 5,
    NotAllowed: 6,
    Busy: 7,
    ContentChanged: 8,
    SourceFailure: 9,
    Cancelled: 10,
    TimedOut: 11,
    Misuse: 12,
    StateInUse: 13,
    Violation: 14,
}
"""What each error is called on the wire; docs/protocol.rst lists the same numbers."""

_BY_CODE: Final = {code: kind for kind, code in WIRE_CODES.items()}

_BELIEVED: Final = frozenset(
    {NotFound, NotAllowed, ContentChanged, Unsupported, SourceFailure, StateInUse}
)
# The others would say something of this side (that it broke the protocol, was cancelled, or is
# misused), or that nobody is there: none of that is the other side's to say.


def to_wire(error: BaseException) -> tuple[int, str, float]:
    """
    Say an error in the wire's terms.

    @return: code, sentence, and seconds to wait before trying again (0 if waiting is no use).
        The nearest ancestor that L{WIRE_CODES} names gives the code. An error that is not one
        of ours says nothing but that it happened.
    """
    if isinstance(error, ResourceFailure):
        return WIRE_CODES[SourceFailure], str(error), 0.0
    for kind in type(error).__mro__:
        if kind is Flow512Error:
            break
        code = WIRE_CODES.get(kind)
        if code is not None:
            return code, str(error), error.retry_after if isinstance(error, Busy) else 0.0
    return INTERNAL, "Something went wrong inside the node; its log tells more.", 0.0


def for_log(error: BaseException) -> str:
    """
    Say an error for the log of this side, which may name a rule that the other is not told.
    """
    return (error.rule if isinstance(error, NotAllowed) else "") or str(error)


def from_wire(code: int, sentence: str, retry_after: float) -> Flow512Error:
    """
    Make the error that an ERROR message tells of.

    @param code: any number. One that this version does not know, or that is not for the other
        side to say, becomes a plain L{Refusal}.
    @param sentence: what the other side said; hostile until it is escaped for display.
    @return: the error, not raised.
    """
    kind = _BY_CODE.get(code, Refusal)
    if kind is Busy:
        return Busy(sentence, retry_after)
    if kind is Flow512Error:
        return SourceFailure(sentence)
    return kind(sentence) if kind in _BELIEVED else Refusal(sentence)


def from_os_error(error: OSError, doing: str) -> ResourceFailure:
    """
    Name the true cause of a failed system call.

    @param doing: what was being done, as in C{"writing report.pdf"}.
    @return: the error, not raised.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk is full while {doing}; free some space and try again.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyOpenFiles(
            f"No file descriptor is left while {doing}; raise the limit with `ulimit -n`."
        )
    return DiskFailure(f"{error.strerror or error} while {doing}.")
