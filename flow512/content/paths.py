"""
The one door for names: what comes from the network or from a user passes here before it
touches a disk.

A name is refused if it could lead out of its folder, be taken for something else by a person,
a terminal or another operating system, or not be stored at all (FIELD.md 1). Names that pass
are opened beneath a folder's descriptor, one part after the other, without ever following a
link: whatever is swapped in between the check and the use, the walk stays inside (FIELD.md 2).

What Windows only forbids in new names (C{What?.mp3}) is common elsewhere, so it may be shared;
L{check_new_name} refuses it where a file is about to be made.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from flow512.errors import Misuse, NotFound, ShareMissing, UnsafeName, from_os_error
from flow512.wire.fields import MAX_PATH

MAX_NAME: Final = 255
"""Bytes in one part of a path, as UTF-8; what most file systems can store."""

MAX_DEPTH: Final = 100
"""Parts in a path. Each one costs a system call whenever the path is opened."""

SHOWN: Final = 80
"""Characters of a name that a sentence shows; the rest of a longer one is left out."""

OWN_PREFIX: Final = ".flow512-"
"""How the hidden files that flow512 itself puts beside a download begin."""

_REFUSED: Final = re.compile(
    r"(?P<control>[\x00-\x1f\x7f-\x9f\u2028\u2029])"
    r"|(?P<slash>[\\/])"
    r"|(?P<bidi>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
    r"|(?P<byte>[\udc80-\udcff])"
    r"|(?P<surrogate>[\ud800-\udfff])"
)
_REASONS: Final = {
    "control": "it contains the control character {}",
    "slash": "it contains {}, which parts folders",
    "bidi": "it contains {}, which changes the direction of writing",
    "byte": "it contains {}, a byte that is not UTF-8",
    "surrogate": "it contains {}, which is half a character",
}
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9\u00b9\u00b2\u00b3]) *([.:]|\Z)",
    re.IGNORECASE,
)
_NOT_ON_WINDOWS: Final = re.compile(r'[<>:"|?*]')

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def escape(text: str, limit: int | None = None) -> str:
    r"""
    Make text from strangers fit for a terminal, a log, or a sentence.

    What does not print, or changes how its neighbours print (control and bidi characters, lone
    surrogates, unassigned code points), becomes C{\xNN}, C{\uNNNN} or C{\UNNNNNNNN}. Backslashes
    stay as they are, so that what is escaped twice looks the same as what is escaped once.

    @param limit: characters in the result, at least 1; a longer one is cut and ends in an
        ellipsis.
    """
    shown = text if limit is None else text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else _code(char) for char in shown)
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def _code(char: str) -> str:
    number = ord(char)
    if number <= 0xFF:
        return f"\\x{number:02x}"
    if number <= 0xFFFF:
        return f"\\u{number:04x}"
    return f"\\U{number:08x}"


def twin_key(name: str) -> str:
    """
    Say what a name has in common with those that other systems cannot tell from it.

    Two names with one key are one file where letter case or Unicode's normal form does not
    count (macOS, Windows). It is Unicode's canonical caseless match, D145 in chapter 3.13.
    """
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded)


def is_own_name(name: str) -> bool:
    """
    Say whether a name belongs to flow512's own hidden files, which are never shared.
    """
    return name.casefold().startswith(OWN_PREFIX)


def _fault(name: str) -> str | None:
    """Say what is wrong with one part of a path, as the end of a sentence."""
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return "it stands for a folder"
    # Every character is at least one byte: the cheap bound comes first.
    if len(name) > MAX_NAME:
        return f"it is longer than {MAX_NAME} bytes"
    if refused := _refusal(name):
        return refused
    if len(name.encode()) > MAX_NAME:
        return f"it is longer than {MAX_NAME} bytes"
    if name[0] == "~":
        return "it begins with ~, which shells take for a home folder"
    if name[-1] in ". ":
        return "it ends with a dot or a space, which some systems drop"
    if _DRIVE.match(name):
        return "it begins with a drive letter"
    if _DEVICE.match(name):
        return "it is the name of a device on Windows"
    return None


def _refusal(text: str) -> str | None:
    """Say which of its characters no name may have, as the end of a sentence."""
    refused = _REFUSED.search(text)
    if refused is None:
        return None
    assert refused.lastgroup is not None
    shown = refused.group()
    # Python has a byte that is not UTF-8 as half a character (PEP 383).
    code = f"\\x{ord(shown) - 0xDC00:02x}" if refused.lastgroup == "byte" else _code(shown)
    return _REASONS[refused.lastgroup].format(code)


def check_name(name: str) -> None:
    """
    Let one part of a path pass, or refuse it.

    @raise UnsafeName: it must not touch the disk; the sentence, fit for display, says why.
    """
    fault = _fault(name)
    if fault is not None:
        raise UnsafeName(f"'{escape(name, SHOWN)}' is refused as a name: {fault}.")


def check_new_name(
    name: str, instead: Callable[[], str] = lambda: "choose another name with -o"
) -> None:
    """
    Let a name pass under which a file is to be made in a download folder, or refuse it.

    Stricter than L{check_name}: download folders are often memory sticks and network drives,
    where C{notes:x} names a stream inside of C{notes}; and a stranger's file must not pass for
    one of our own hidden ones.

    @param instead: says what to do, as the end of a sentence; nothing if it is empty.
    @raise UnsafeName: with a sentence that says why and what to do.
    """
    fault = _fault(name)
    if fault is None and (refused := _NOT_ON_WINDOWS.search(name)):
        fault = f"it contains {refused.group()}, which Windows forbids"
    if fault is None and is_own_name(name):
        fault = f"flow512 keeps names that begin with {OWN_PREFIX} for itself"
    if fault is not None:
        advice = instead()
        raise UnsafeName(
            f"'{escape(name, SHOWN)}' is refused as a file name: {fault}"
            + (f"; {advice}." if advice else ".")
        )


def check_path(path: str) -> tuple[str, ...]:
    """
    Take a path apart that came from the network or from a user.

    @param path: relative, its parts divided by C{/}; at most C{MAX_PATH} bytes as UTF-8, and
        L{MAX_DEPTH} parts.
    @return: its parts, each of which L{check_name} lets pass.
    @raise UnsafeName: it must not touch the disk; the sentence, fit for display, says why.
    """
    fault = _path_fault(path)
    if fault is not None:
        raise UnsafeName(f"'{escape(path, SHOWN)}' is refused as a path: {fault}.")
    return tuple(path.split("/"))


def check_prefix(prefix: str) -> None:
    """
    Let what a user looks for pass, the beginning of paths, or refuse it.

    @raise Misuse: no path can begin so, nor can anybody be asked; the sentence says why.
    """
    try:
        fault = None
        if len(prefix) > MAX_PATH or len(prefix.encode()) > MAX_PATH:
            fault = f"it is longer than {MAX_PATH} bytes"
    except UnicodeEncodeError as error:
        fault = _refusal(prefix[error.start])
    if fault is not None:
        raise Misuse(f"'{escape(prefix, SHOWN)}' is refused as a prefix: {fault}.")


def _path_fault(path: str) -> str | None:
    if not path:
        return "it is empty"
    if len(path) > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes"
    if path[0] == "/":
        return "it is absolute"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"it is more than {MAX_DEPTH} folders deep"
    for part in parts:
        fault = _fault(part)
        if fault is not None:
            return f"in its part '{escape(part, SHOWN)}', {fault}" if len(parts) > 1 else fault
    if len(path.encode()) > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes"
    return None


def open_folder(path: str) -> int:
    """
    Open a folder that the user named: a share, or where downloads go.

    Links in the path are followed: they are the user's own.

    @return: a descriptor, for the caller to close.
    @raise ShareMissing: there is no such folder.
    @raise flow512.errors.ResourceFailure: it cannot be opened.
    """
    shown = escape(path, SHOWN)
    try:
        return os.open(path, _FOLDER_FLAGS)
    except ValueError:  # a NUL inside
        raise ShareMissing(f"There is no folder '{shown}'; check the spelling.") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG):
            raise ShareMissing(
                f"There is no folder '{shown}'; check the spelling, or create it."
            ) from error
        if error.errno == errno.ENOTDIR:
            raise ShareMissing(f"'{shown}' is not a folder; name the folder it is in.") from error
        raise from_os_error(error, f"opening the folder '{shown}'") from error


def open_folder_beneath(dir_fd: int, parts: Sequence[str]) -> int:
    """
    Open a folder inside of another one, without following any link.

    @param dir_fd: a descriptor of the outer folder, which stays the caller's.
    @param parts: the way down; none for the outer folder itself.
    @return: a new descriptor, for the caller to close.
    @raise UnsafeName: a part is refused by L{check_name}, or is a link.
    @raise NotFound: a part is not there, or is no folder.
    @raise flow512.errors.ResourceFailure: it cannot be opened.
    """
    try:
        # Not os.dup: two descriptors of one opening would share their place in a listing.
        folder = os.open(".", _FOLDER_FLAGS, dir_fd=dir_fd)
    except OSError as error:
        raise from_os_error(error, "opening a folder") from error
    for part in parts:
        try:
            inner = _open_part(folder, part, _FOLDER_FLAGS | os.O_NOFOLLOW)
        finally:
            os.close(folder)
        folder = inner
    return folder


def open_beneath(dir_fd: int, parts: Sequence[str], flags: int = os.O_RDONLY) -> int:
    """
    Open a regular file inside of a folder, without following any link and without waiting for
    whoever holds the other end of a FIFO or device.

    @param dir_fd: a descriptor of the folder, which stays the caller's.
    @param parts: the way down, at least one; the last names the file.
    @param flags: as for C{os.open}; to read, unless told otherwise. Nothing is created.
    @return: a descriptor, for the caller to close.
    @raise UnsafeName: a part is refused by L{check_name} or is a link, or what the last one
        names is no regular file.
    @raise NotFound: a part is not there, or is no folder.
    @raise flow512.errors.ResourceFailure: it cannot be opened.
    """
    folder = open_folder_beneath(dir_fd, parts[:-1])
    try:
        return open_file_in(folder, parts[-1], flags)[0]
    finally:
        os.close(folder)


def open_file_in(folder: int, name: str, flags: int = os.O_RDONLY) -> tuple[int, os.stat_result]:
    """
    Open a regular file that is directly in a folder, as L{open_beneath} does.

    @param folder: its descriptor, which stays the caller's.
    @return: a descriptor, for the caller to close, and what the system says of the file.
    @raise UnsafeName: as L{open_beneath}; so are the others.
    """
    fd = _open_part(folder, name, flags | _FILE_FLAGS)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeName(f"'{escape(name, SHOWN)}' is not a regular file.")
    except OSError as error:
        os.close(fd)
        raise from_os_error(error, f"looking at '{escape(name, SHOWN)}'") from error
    except UnsafeName:
        os.close(fd)
        raise
    return fd, status


def _open_part(folder: int, part: str, flags: int) -> int:
    check_name(part)
    try:
        return os.open(part, flags, dir_fd=folder)
    except OSError as error:
        shown = escape(part, SHOWN)
        if error.errno == errno.ENOENT:
            raise NotFound(f"There is no '{shown}'.") from error
        # A link is ELOOP, but ENOTDIR to Linux where a folder is asked for.
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _is_link(folder, part)):
            raise UnsafeName(f"'{shown}' is a link, and links are not followed.") from error
        if error.errno == errno.ENOTDIR:
            raise NotFound(f"'{shown}' is not a folder.") from error
        # A socket or a device without a driver; or a folder, opened to write.
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EOPNOTSUPP):
            raise UnsafeName(f"'{shown}' is not a regular file.") from error
        raise from_os_error(error, f"opening '{shown}'") from error


def _is_link(folder: int, part: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:  # gone meanwhile
        return False
