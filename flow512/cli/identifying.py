"""
C{flow512 id}: what local files are called, wherever they are. No network and no reactor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from flow512.cli.outcome import DONE, status_of
from flow512.cli.voice import Voice
from flow512.content.hashing import hash_file, never
from flow512.content.paths import escape
from flow512.content.tree import format_content_id
from flow512.errors import Flow512Error, Misuse, NotFound, from_os_error


def identify(paths: Sequence[str], voice: Voice) -> int:
    """
    Say the content id and the MD5 of each file; go on with the next after one that fails.

    @return: the exit status: that of the last failure, if any.
    """
    status = DONE
    for path in paths:
        try:
            size, root, md5 = _hash(path)
        except Flow512Error as error:
            voice.fail(error)
            status = status_of(error)
        else:
            voice.say(f"{root}  {md5}  {escape(path)}")
            voice.tell("id", path=path, bytes=size, root=root, md5=md5)
    return status


def _hash(path: str) -> tuple[int, str, str]:
    shown = f"'{escape(path)}'"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise NotFound(f"There is no file {shown}; check the spelling.") from None
    except OSError as error:
        raise from_os_error(error, f"opening {shown}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Misuse(f"{shown} is not a regular file, so it has no content id.")
        tree, md5 = hash_file(fd, status.st_size, stop=never, md5=True, what=shown)
    finally:
        os.close(fd)
    assert md5 is not None
    return status.st_size, format_content_id(tree.root), md5.hex()
