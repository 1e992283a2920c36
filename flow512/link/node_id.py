"""
Node ids as people see them: base32 with check characters, in the form of Syncthing's device ids.

The 32 bytes are 52 characters of base32 (RFC 4648). Each 13 of them are followed by a check
character, and the 56 are shown in 8 groups of 7::

    P56IOI7-MZJNU2Y-IQGDREY-DM2MGTI-MGL3BXN-PQ6W5BM-TBBZ4TJ-XZWICQ2

The check character is Luhn's algorithm modulo 32, with Syncthing's order of the weights (1 for the
first character, 2 for the second, and so on). It finds every single wrong character, and every
swap of two unlike neighbours among the 13, but for C{A} with C{7}: doubled, 0 and 31 stay what they
are. Nor does it find a swap of the 13th with the check character itself, as both weigh 1.
"""

from __future__ import annotations

import base64
import string
from typing import Final

from flow512.content.paths import SHOWN, escape
from flow512.errors import Misuse

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DIGITS: Final = {char: digit for digit, char in enumerate(_ALPHABET)}
_BASE: Final = len(_ALPHABET)

_CHECKED: Final = 13
"""Characters that one check character stands for."""

_SHOWN_TOGETHER: Final = 7
_LENGTH: Final = 56

MIN_BEGINNING: Final = _SHOWN_TOGETHER
"""Characters of a node id that are enough to name a peer by: its first group."""

_MEANT: Final = 50
"""Characters of such a text that can be meant as nothing but a node id."""

_FORGIVEN: Final = str.maketrans(
    string.ascii_lowercase + "018", string.ascii_uppercase + "OIB", "-" + string.whitespace
)
"""What people type, and what they mean: base32 has no 0, 1 and 8, which look like O, I and B."""


def format_node_id(node: bytes) -> str:
    """
    Write a node id for people.

    @param node: 32 bytes.
    @return: 63 characters, of which L{parse_node_id} makes the bytes again.
    """
    plain = base64.b32encode(node).decode().rstrip("=")
    parts = [plain[at : at + _CHECKED] for at in range(0, len(plain), _CHECKED)]
    return "-".join(_groups("".join(part + _check(part) for part in parts)))


def parse_node_id(text: str) -> bytes:
    """
    Read a node id that somebody typed or pasted.

    @param text: in any case, with or without blanks and dashes, wherever they are; 0, 1 and 8
        count as O, I and B.
    @return: 32 bytes.
    @raise Misuse: it is no node id; the sentence tells a wrong length from a mistyped character,
        and names the groups that the latter is in.
    """
    typed = text.translate(_FORGIVEN)
    shown = escape(text, SHOWN)
    if len(typed) != _LENGTH:
        raise Misuse(
            f"'{shown}' is no node id: it has {len(typed)} characters, and a node id has {_LENGTH}"
            " (dashes do not count); copy all of it."
        )
    for char in typed:
        if char not in _DIGITS:
            raise Misuse(f"'{shown}' is mistyped: no node id contains '{escape(char)}'.")
    _check_all(typed, shown)
    plain = "".join(typed[at : at + _CHECKED] for at in range(0, _LENGTH, _CHECKED + 1))
    node = base64.b32decode(plain + "=" * (-len(plain) % 8))
    groups = _groups(typed)
    # 52 characters are 260 bits: if the last four could be anything, one id would have 16 forms.
    if format_node_id(node) != "-".join(groups):
        raise _mistyped(shown, "-".join(groups[-2:]))
    return node


def parse_beginning(text: str) -> str:
    """
    Read what may be the beginning of a node id, or a name.

    @param text: as for L{parse_node_id}.
    @return: as L{format_node_id} writes it, as far as it goes; empty if it has fewer characters
        than L{MIN_BEGINNING}, or one that no node id has.
    @raise Misuse: it can only be meant as a node id, and is mistyped.
    """
    typed = text.translate(_FORGIVEN)
    is_meant = len(typed) >= _MEANT and typed.isascii() and typed.isalnum()
    if is_meant and len(typed) >= _LENGTH:
        return format_node_id(parse_node_id(text))
    if len(typed) < MIN_BEGINNING or not all(char in _DIGITS for char in typed):
        return ""
    if is_meant:
        _check_all(typed, escape(text, SHOWN))
    return "-".join(_groups(typed))


def mistyped_groups(beginning: str) -> str:
    """
    Find the mistake in the beginning of a node id.

    @param beginning: as L{parse_beginning} returns it.
    @return: the two groups that it is in; empty if none is found.
    """
    groups = beginning.split("-")
    for first, second in zip(groups[::2], groups[1::2], strict=False):
        both = first + second
        if both[_CHECKED:] not in ("", _check(both[:_CHECKED])):
            return f"{first}-{second}"
    return ""


def _check_all(typed: str, shown: str) -> None:
    where = mistyped_groups("-".join(_groups(typed)))
    if where:
        raise _mistyped(shown, where)


def _mistyped(shown: str, where: str) -> Misuse:
    return Misuse(f"'{shown}' is mistyped somewhere in {where}; compare it again.")


def split_node_id(text: str) -> tuple[bytes | None, str]:
    """
    Read C{ID@ADDRESS}, as somebody types whom he wants at an address.

    @return: the node id, L{None} if there is none, and the rest.
    @raise Misuse: what stands before the C{@} is no node id.
    """
    node, at, rest = text.partition("@")
    # A Twisted endpoint string may have an @ anywhere after its colon, as a path may.
    if not at or set(node) & set(":/"):
        return None, text
    return parse_node_id(node), rest


def _groups(text: str) -> list[str]:
    return [text[at : at + _SHOWN_TOGETHER] for at in range(0, len(text), _SHOWN_TOGETHER)]


def _check(part: str) -> str:
    """
    Compute a check character: Luhn's, for any base (U{https://en.wikipedia.org/wiki/Luhn_mod_N_algorithm}).
    """
    total = 0
    for at, char in enumerate(part):
        addend = _DIGITS[char] * (1 + at % 2)
        total += addend // _BASE + addend % _BASE
    return _ALPHABET[-total % _BASE]
