"""
Fuzz L{flow512.wire.messages}: any body, of any kind.

  - Only L{BadMessage} gets out.
  - What is accepted keeps to the limits that docs/protocol.rst gives for texts, bytes, lists
    and numbers.
  - What is accepted is written as a frame that is read as the same message.
  - What an ERROR tells becomes one of our errors, and that can be told again.
"""

from __future__ import annotations

from typing import Final

import atheris
import msgspec
from messagepack import Mutator
from running import run, samples

with atheris.instrument_imports(include=["flow512"]):
    from flow512.errors import BadMessage, Flow512Error, from_wire
    from flow512.wire import fields, messages
    from flow512.wire.frame import Frame, FrameReader

GROWS: Final = 64
"""Bytes by which a message may be longer than it came: defaults, and numbers written in full."""


def within_limits(value: object) -> bool:
    """Say whether a value, and all that is in it, is one that a message may have."""
    match value:
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return 0 <= value <= fields.MAX_SECONDS
        case str():
            value.encode()  # raises for half a character
            return len(value) <= fields.MAX_PATH
        case bytes():
            return len(value) in (16, 32)
        case tuple():
            return len(value) <= fields.MAX_LIST and all(map(within_limits, value))
        case msgspec.Struct():
            return all(map(within_limits, msgspec.structs.astuple(value)))
    return False


def one_input(data: bytes) -> None:
    """The first byte is the kind, the rest the body."""
    if not data:
        return
    kind, body = data[0], data[1:]
    try:
        message = messages.message_in(Frame(kind, 7, 0, body))
    except BadMessage as error:
        str(error).encode()
        return
    assert within_limits(message), "over a limit"
    try:
        spelled = messages.encode(message, 7)
    except BadMessage:
        assert len(body) + GROWS > messages.CAPS[kind], "accepted, and cannot be written"
        return
    reader = FrameReader(messages.CAPS)
    reader.receive(spelled)
    frame = reader.next_frame()
    assert frame is not None, "no whole frame"
    assert reader.is_between_frames, "more than one frame"
    assert (frame.kind, frame.request) == (kind, 7)
    assert messages.message_in(frame) == message, "written otherwise than read"
    if isinstance(message, messages.Error):
        told = from_wire(message.code, message.sentence, message.retry_after)
        assert isinstance(told, Flow512Error)
        messages.encode(messages.error_message(told))


if __name__ == "__main__":
    run("messages", one_input, 400, Mutator(lambda data: 1, samples("messages")))
