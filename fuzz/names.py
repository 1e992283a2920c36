"""
Fuzz L{flow512.content.paths}: any text as a name and as a path.

  - Only L{UnsafeName} gets out of a check, in a sentence that prints; only that and L{NotFound}
    get out of opening what passed.
  - What passes leads to a place inside of the folder, by C{realpath} and by what is then opened,
    though the folder is full of links that lead out.
  - What passes has no control, bidi or half character, no part that Windows takes for a drive or
    a device, and can be stored. Unicode's database and Python's own C{ntpath} are the judges.
  - Ordinary names pass.
  - C{escape} gives what prints, in Unicode, within its limit, and the same when it is done again.
  - A name has the key of its normal forms.
"""

from __future__ import annotations

import ntpath
import os
import unicodedata
from functools import lru_cache
from pathlib import PureWindowsPath
from string import ascii_letters
from typing import Final

import atheris
from running import run

with atheris.instrument_imports(include=["flow512"]):
    from flow512.content import paths
    from flow512.errors import NotFound, UnsafeName

BIDI_CLASSES: Final = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
BIDI_MARKS: Final = {"\u200e", "\u200f", "\u061c"}
REFUSED_CATEGORIES: Final = {"Cc", "Cs", "Zl", "Zp"}

ROOT: Final = os.path.join(os.path.realpath(os.path.dirname(__file__)), ".names", "share")
"""Kept from run to run, as libFuzzer ends a process where nothing can be tidied up."""


def build() -> int:
    """Make a share full of traps under short names, unless it is there, and open it."""
    outside = os.path.dirname(ROOT) + "/outside"
    for folder in (ROOT + "/d/d", outside + "/d"):
        os.makedirs(folder, exist_ok=True)
    for path in (outside + "/f", outside + "/d/f", ROOT + "/f", ROOT + "/d/f", ROOT + "/d/d/f"):
        with open(path, "wb"):
            pass
    for folder in (ROOT, ROOT + "/d", ROOT + "/d/d"):
        for name, target in (("o", outside), ("l", outside + "/f"), ("u", ".."), ("r", "/")):
            if not os.path.lexists(f"{folder}/{name}"):
                os.symlink(target, f"{folder}/{name}")
        if not os.path.lexists(f"{folder}/p"):
            os.mkfifo(f"{folder}/p")
    return paths.open_folder(ROOT)


SHARE: Final = build()


def is_hostile(char: str) -> bool:
    """Say whether a character must not stand in a name."""
    return (
        unicodedata.category(char) in REFUSED_CATEGORIES
        or unicodedata.bidirectional(char) in BIDI_CLASSES
        or char in BIDI_MARKS
    )


# What prints is looked at once for all, and not again in every input.
assert not any(is_hostile(char) for char in map(chr, range(0x110000)) if char.isprintable())


def hostile(text: str) -> bool:
    """Say whether a text has a character that must not stand in a name."""
    return not text.isprintable() and any(map(is_hostile, text))


@lru_cache(4096)
def is_device(name: str) -> bool:
    """Ask Python what Windows keeps for itself."""
    return PureWindowsPath(name).is_reserved()


def passes(text: str, whole: bool) -> bool:
    """Ask the door, for a whole path or one part of it."""
    try:
        if whole:
            assert "/".join(paths.check_path(text)) == text
        else:
            paths.check_name(text)
    except UnsafeName as error:
        check_sentence(error)
        return False
    return True


def check_sentence(error: Exception) -> None:
    """Doubt what people are told."""
    assert str(error).isprintable(), "a sentence that does not print"
    assert len(str(error)) < 1000, "a sentence without end"


def check_passed_name(name: str) -> None:
    """Doubt a name that passed."""
    assert not hostile(name), "a refused character"
    assert "/" not in name
    assert "\\" not in name
    assert name not in ("", ".", "..")
    assert len(os.fsencode(name)) <= 255
    assert not name.startswith("~")
    # Windows lets any character be a drive; a letter is what real ones have.
    assert ntpath.splitdrive(name)[0][:1] not in set(ascii_letters), "a drive"
    assert not is_device(name), "a device"
    assert name == name.rstrip(". "), "an end that Windows drops"


def check_passed_path(path: str) -> None:
    """Doubt a path that passed: where does it lead, and where is one led who opens it?"""
    assert len(path.encode()) <= 4096
    assert os.path.normpath(f"{ROOT}/{path}") == f"{ROOT}/{path}"
    parts = paths.check_path(path)
    for part in parts:
        check_passed_name(part)
        assert passes(part, whole=False)
    try:
        fd = paths.open_beneath(SHARE, parts)
    except (UnsafeName, NotFound) as error:
        check_sentence(error)
        return
    try:
        real = os.path.realpath(f"{ROOT}/{path}")
        assert real == f"{ROOT}/{path}", "through a link"
        assert os.readlink(f"/proc/self/fd/{fd}") == real, "another file"
    finally:
        os.close(fd)


def check_shown(text: str, limit: int) -> None:
    """Hold C{escape} to its word."""
    for shown in (paths.escape(text), paths.escape(text, limit)):
        assert shown.isprintable()  # so it is not hostile either
        shown.encode()
        assert paths.escape(shown) == shown, "escaped twice"
    assert len(shown) <= limit


def one_input(data: bytes) -> None:
    """
    The first byte is the limit for showing it; the rest is UTF-8, half characters allowed. From 250
    on the text is repeated, for the limits of length.
    """
    if not data:
        return
    try:
        text = data[1:].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data[1:].decode("utf-8", "surrogateescape")  # as os.listdir gives it
    check_shown(text, data[0] + 1)
    if data[0] >= 250:
        text *= 60
    if passes(text, whole=False):
        check_passed_name(text)
        assert paths.twin_key(unicodedata.normalize("NFC", text)) == paths.twin_key(text)
        assert paths.twin_key(paths.twin_key(text)) == paths.twin_key(text)
    else:
        plain = text.isascii() and text.isalnum() and len(text) <= 255
        assert not plain or is_device(text), "an ordinary name is refused"
    if passes(text, whole=True):
        check_passed_path(text)
    try:
        paths.check_new_name(text)
    except UnsafeName as error:
        check_sentence(error)
    else:
        check_passed_name(text)
        assert not set(text) & set('<>:"|?*'), "what Windows forbids"
        assert not ntpath.splitdrive(text)[0], "a drive"
        assert not text.lower().startswith(".flow512-"), "one of our own"


if __name__ == "__main__":
    run("names", one_input, 100)
