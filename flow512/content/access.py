"""
Access: who may see a share.

There are two rules, and both must allow: the node ids that the share was given (C{--allow}), and
those in the file L{ALLOW_FILE} at the top of its folder, one a line, with C{#} before comments.
Where there is neither, everybody may see it. The owner always may.

A share is never opened by mistake:

  - a file that cannot be read, or has one wrong line, closes the share to everybody;
  - a file without any id does so, too;
  - a file that was there and is gone stands until two walks in succession have missed it. It may be
    gone because an editor puts another in its place, or because the folder is being deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, TypeAlias

from flow512.content.paths import OWN_PREFIX, escape, open_file_in
from flow512.errors import Misuse, NotFound, ResourceFailure, UnsafeName, from_os_error

ALLOW_FILE: Final = OWN_PREFIX + "allow"
"""The file of those who may see a share; as all that begins so, it is never offered itself."""

MAX_ALLOW_FILE: Final = 256 * 1024
"""Bytes in that file, some 4,000 ids: it is read anew for every request."""

NOBODY: Final = b""
"""Whoever asks without having proven who he is. No rule allows him."""

ParseId: TypeAlias = Callable[[str], bytes]
"""Reads a node id as people write it, or raises L{Misuse}."""


class Change(NamedTuple):
    """
    What has become of a share's L{ALLOW_FILE}.

    @ivar sentence: it, fit for display.
    @ivar is_fault: whether the owner has to do something about it.
    """

    sentence: str
    is_fault: bool = False


class Verdict(NamedTuple):
    """
    What the rules say.

    @ivar rule: the rule that hides the share from who asks, as the end of a sentence that is fit
        for display; L{None} if he may see it.
    @ivar change: what has become of the file, if it is not as it was when it was last looked at.
    """

    rule: str | None
    change: Change | None = None


def unreadable_id(text: str) -> bytes:
    """
    Read no id at all: for programs that were not told how ids are written.

    @raise Misuse: always.
    """
    raise Misuse("this program was not told how node ids are written.")


def parse_allowed(data: bytes, parse_id: ParseId) -> frozenset[bytes]:
    """
    Read an L{ALLOW_FILE}.

    @param data: what is in it.
    @param parse_id: reads one id.
    @return: the ids.
    @raise Misuse: a line is neither empty, nor a comment, nor an id; the sentence gives its number.
    """
    allowed = set()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.partition(b"#")[0].decode().strip()
            if text:
                allowed.add(parse_id(text))
        except UnicodeDecodeError:
            raise Misuse(f"line {number} is no text.") from None
        except Misuse as error:
            raise Misuse(f"line {number}: {escape(str(error))}") from None
    return frozenset(allowed)


class Access:
    """
    The rules of one share. One thread at a time may use it.

    @ivar is_unread: whether the disk, or a permission, has kept the file from being read, and what
        is in it, or that there is none, is not known since: nobody may see the share then, but that
        is no rule of its owner's.
    """

    is_unread = False

    def __init__(self, allow: Collection[bytes] = (), parse_id: ParseId = unreadable_id) -> None:
        """
        @param allow: node ids; everybody, as far as this rule goes, if empty.
        @param parse_id: reads the ids in the file.
        """
        self._given = frozenset(allow)
        self._parse_id = parse_id
        self._data: bytes | None = None
        # Whom the file allows; None while there is none.
        self._listed: frozenset[bytes] | None = None
        self._listed_before: frozenset[bytes] | None = None
        self._fault = ""
        self._is_gone = False
        self._missed = 0

    def judge(self, folder: int, asker: bytes | None) -> Verdict:
        """
        Look at the rules as they are now.

        @param folder: the share's descriptor.
        @param asker: a node id that was proven, L{NOBODY}, or L{None} for the owner.
        """
        change = self._look(folder)
        return Verdict(None if asker is None else self._rule_against(asker), change)

    def allowed(self, asker: bytes | None) -> bool:
        """
        Say whether somebody might see the share by the rules as they were when last looked at; if
        they could not be read, by those before.

        @param asker: as for L{judge}.
        """
        if asker is None:
            return True
        if self.is_unread:
            return self._rule_by(asker, self._listed_before) is None
        return self._rule_against(asker) is None

    def walked(self, folder: int) -> None:
        """
        Take note that a walk through the share begins.

        @param folder: the share's descriptor.
        """
        try:
            is_gone = self._is_gone and _read(folder) is None
        except (UnsafeName, ResourceFailure):
            is_gone = False
        self._missed = self._missed + 1 if is_gone else 0
        if self._missed == 2:
            self._data = self._listed = None
            self._fault = ""
            self._is_gone = self.is_unread = False
            self._missed = 0

    def _rule_against(self, asker: bytes) -> str | None:
        if self._fault:
            return f"{ALLOW_FILE} cannot be used"
        return self._rule_by(asker, self._listed)

    def _rule_by(self, asker: bytes, listed: frozenset[bytes] | None) -> str | None:
        if asker == NOBODY and (self._given or listed is not None):
            return "without TLS nobody proves who he is"
        if self._given and asker not in self._given:
            return "--allow does not name it"
        if listed is not None and asker not in listed:
            return f"{ALLOW_FILE} does not name it"
        return None

    def _look(self, folder: int) -> Change | None:
        try:
            data = _read(folder)
        except UnsafeName as error:
            self.is_unread = False
            return self._close(str(error))
        except ResourceFailure as error:
            if not self.is_unread:
                self._listed_before = self._listed
            self.is_unread = True
            return self._close(str(error))
        if data is None:
            if self._listed is None or self._is_gone:
                return None
            self._is_gone = True
            return Change(
                f"{ALLOW_FILE} is gone; it counts until two walks through the share have missed it."
            )
        self._is_gone = self.is_unread = False
        if data == self._data:
            return None
        self._data = data
        try:
            if len(data) > MAX_ALLOW_FILE:
                raise Misuse(f"it is longer than {MAX_ALLOW_FILE} bytes.")
            self._listed = parse_allowed(data, self._parse_id)
        except Misuse as error:
            return self._close(str(error), data)
        self._fault = ""
        return Change(f"{ALLOW_FILE} was read; node ids that it allows: {len(self._listed)}.")

    def _close(self, fault: str, data: bytes | None = None) -> Change | None:
        self._data = data
        self._listed = frozenset()
        self._is_gone = False
        if fault == self._fault:
            return None
        self._fault = fault
        return Change(
            f"{ALLOW_FILE} cannot be used, so nobody may see the share: {fault}", is_fault=True
        )


def _read(folder: int) -> bytes | None:
    try:
        fd, _ = open_file_in(folder, ALLOW_FILE)
    except NotFound:
        return None
    try:
        with open(fd, "rb") as file:
            return file.read(MAX_ALLOW_FILE + 1)
    except OSError as error:
        raise from_os_error(error, f"reading {ALLOW_FILE}") from error
