"""
Mutations of MessagePack that are MessagePack again.

The decoder is compiled, so coverage does not lead libFuzzer through it, and bytes changed at
random hardly ever make another array that is whole. So most inputs are made here: from some that
are known to be good, or from the one at hand, with one to three changes of their values; the others
are changed as libFuzzer likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import atheris
import msgspec

STRANGE: Final[tuple[object, ...]] = (
    *(None, True, False, [], {}, [[]], {"a": [1]}, {1: 2}, [None] * 130),
    *(0, 1, -1, 2, 3, 4, 15, 16, 127, 128, 255, 256, 512, 513, 999, 1000, 1001, 65535, 65536),
    *(32768, 32769, 86400, 86401, 300_000, 300_001, 2**31, 2**32 - 1, 2**32, 2**36, 2**36 + 1),
    *(2**54, 2**54 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), -5),
    *(0.0, -0.0, 1.5, -1.0, 86400.0, 86400.5, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        "a",
        "registry",
        "transfer",
        "n" * 16,
        "n" * 17,
        "n" * 64,
        "n" * 65,
        "../x",
        "\0",
        "\x1b",
    ),
    *("\u202e", "\u20ac" * 21, "\U0001f600" * 64, "e\u0301"),
    *(b"", b"x", bytes(15), bytes(16), bytes(17), bytes(31), bytes(32), bytes(33), bytes(64)),
    msgspec.msgpack.Ext(1, b"x"),
    msgspec.msgpack.Ext(-1, bytes(8)),
)
"""At the edges of what the fields may be, and beyond."""


def _change(value: object, random: Random) -> object:
    """Change one thing in a value, at any depth."""
    if not isinstance(value, list) or not value or random.random() < 0.1:
        return random.choice(STRANGE)
    place = random.randrange(len(value))
    match random.randrange(8):
        case 0:
            return value[:place]
        case 1:
            return [*value, random.choice(STRANGE)]
        case 2:
            return [*value[:place], value[place], *value[place:]]
        case 3:
            return [*value[:place], *value[place + 1 :]]
        case 4:
            return [*value[:place], random.choice(STRANGE), *value[place + 1 :]]
        case _:
            return [*value[:place], _change(value[place], random), *value[place + 1 :]]


class Mutator:
    """What libFuzzer calls to make an input from another."""

    def __init__(self, begins: Callable[[bytes], int], samples: Sequence[bytes]) -> None:
        """
        @param begins: says where in an input the MessagePack begins, after at least one byte.
        @param samples: inputs with good values.
        """
        self._begins = begins
        self._samples = samples
        self._decoder = msgspec.msgpack.Decoder()
        self._encoder = msgspec.msgpack.Encoder()

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        """
        Make an input.

        @param max_size: bytes; the result is no longer.
        @param seed: the only chance that there is.
        """
        random = Random(seed)
        whole = random.choice(self._samples) if random.random() < 0.7 else data
        if random.random() < 0.4:
            return bytes(atheris.Mutate(whole, max_size))
        begin = self._begins(whole)
        try:
            value = self._decoder.decode(whole[begin:])
            for _ in range(random.randint(1, 3)):
                value = _change(value, random)
            body = self._encoder.encode(value)
        except (ValueError, TypeError, RecursionError):
            return bytes(atheris.Mutate(whole, max_size))
        head = whole[:begin]
        if random.random() < 0.1:
            head = random.randbytes(1) + head[1:]
        return (head + body)[:max_size]
