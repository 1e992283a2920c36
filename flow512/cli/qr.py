"""
QR codes on a terminal.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import segno


def show_code(text: str, out: TextIO) -> None:
    """
    Draw a QR code, half a line of characters to each of its rows.

    @param text: at most 2,953 bytes.
    """
    _code(text).terminal(out, compact=True)
    out.flush()


def has_room(text: str, out: TextIO) -> bool:
    """
    Say whether somebody could see the code: on a terminal that is wide enough.
    """
    return out.isatty() and _code(text).symbol_size()[0] <= shutil.get_terminal_size().columns


def _code(text: str) -> segno.QRCode:
    import segno  # most commands draw none

    return segno.make_qr(text, error="l")
