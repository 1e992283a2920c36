"""
Giving a finished download its name, all at once and never over somebody else's file.

A download of content C{root} to be called C{name} has hidden files of its own beside it, whose
names come from both, so that nothing about them depends on how long or odd C{name} is.

The states that a folder can be left in, and what the next start makes of each::

    part, perhaps journal        under way, or complete      goes on with it
    part and name are one file   died after the link         removes part and journal
    part, placing, name empty    died before the rename      removes name, goes on with part
    name, no part                died after the rename       removes journal and placing

Where the file system has hard links, C{link} gives the name: it is atomic and fails if the name
is taken. Elsewhere (FAT, some network drives) an empty placeholder claims the name, by O_EXCL,
and the partial file is renamed over it; the placing file tells from the instant before that an
empty file of this name would be ours.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from base64 import b32encode
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from blake3 import blake3

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.paths import OWN_PREFIX, SHOWN, check_new_name, escape, twin_key
from flow512.errors import TargetExists

_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)
"""How C{link} says that this file system or file cannot have another name."""

_STATUS: Final = "/proc/self/status"  # Linux tells it there

_umask_lock: Final = threading.Lock()


class OwnNames(msgspec.Struct, frozen=True):
    """
    The names of a download's hidden files.

    @ivar part: the data so far.
    @ivar journal: which blocks of it are verified.
    @ivar placing: that the name is being claimed, where there are no hard links.
    """

    part: str
    journal: str
    placing: str

    @classmethod
    def of(cls, root: bytes, name: str) -> OwnNames:
        """
        Make the names for a content id and the name that its file is to have.
        """
        # A file that is repaired may have a name that is not UTF-8.
        text = name.encode(errors="surrogateescape")
        key = b32encode(blake3(root + text).digest(10)).decode().lower()
        return cls(*(f"{OWN_PREFIX}{key}.{what}" for what in ("part", "journal", "placing")))


def check_target(
    folder_fd: int,
    name: str,
    root: bytes,
    *,
    replace: bool,
    disk: Disk = DISK,
    check_name: Callable[[str], None] = check_new_name,
) -> None:
    """
    Find out before a download whether its file could be published, so that it fails early; and
    tidy up after an earlier process that died when it had just published it.

    @param folder_fd: a descriptor of the folder that the file is to be in.
    @param replace: whether the user lets it take the place of another file.
    @param check_name: lets the name pass, or raises L{UnsafeName}.
    @raise UnsafeName: no file may have that name.
    @raise TargetExists: the name is taken, or a name that other systems cannot tell from it. The
        sentence says what to do.
    @raise flow512.errors.ResourceFailure: the folder cannot be read.
    """
    check_name(name)
    own = OwnNames.of(root, name)
    with blaming(f"looking for '{escape(name, SHOWN)}'"):
        target = disk.stat_in(folder_fd, name)
        part = disk.stat_in(folder_fd, own.part)
        if target is not None and part is not None and os.path.samestat(target, part):
            disk.remove(folder_fd, own.part)
            part = None
        if target is not None and part is None:
            disk.remove(folder_fd, own.journal)
            disk.remove(folder_fd, own.placing)
        if target is not None and not is_placeholder(folder_fd, target, own, disk):
            _refuse_taken(name, target, replace)
        _refuse_twins(folder_fd, name, disk)


def is_placeholder(folder_fd: int, target: os.stat_result, own: OwnNames, disk: Disk) -> bool:
    """
    Say whether what has the name is our own placeholder, that a process left when it died.
    """
    return (
        stat.S_ISREG(target.st_mode)
        and target.st_size == 0
        and disk.stat_in(folder_fd, own.placing) is not None
        and disk.stat_in(folder_fd, own.part) is not None
    )


def _refuse_taken(name: str, target: os.stat_result, replace: bool) -> None:
    if stat.S_ISDIR(target.st_mode):
        raise TargetExists(f"'{escape(name, SHOWN)}' is a folder; choose another name with -o.")
    if not replace:
        raise TargetExists(
            f"'{escape(name, SHOWN)}' is there already; choose another name with -o, "
            "or use --replace."
        )


def _refuse_twins(folder_fd: int, name: str, disk: Disk) -> None:
    names = disk.listdir(folder_fd)
    if name in names:
        return
    key = twin_key(name)
    for other in names:
        if twin_key(other) == key:
            raise TargetExists(
                f"'{escape(other, SHOWN)}' is there already, and some systems cannot tell it "
                f"from '{escape(name, SHOWN)}'; choose another name with -o."
            )


def place(
    folder_fd: int, fd: int, own: OwnNames, name: str, *, replace: bool, disk: Disk = DISK
) -> None:
    """
    Give the complete partial file its name.

    @param fd: the partial file, open and locked by the caller.
    @param replace: whether it may take the place of another file; of a link, never of what the
        link points to; and never of a folder.
    @raise TargetExists: the name is taken; the partial file is as it was.
    @raise OSError: something else failed. The file may have its name already.
    """
    target = disk.stat_in(folder_fd, name)
    has_name = target is not None and os.path.samestat(target, disk.fstat(fd))
    if replace and target is not None:
        _refuse_taken(name, target, replace)
    _refuse_twins(folder_fd, name, disk)
    if has_name:
        pass  # the disk failed after that, the last time
    elif replace:
        disk.rename(own.part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    else:
        _claim(folder_fd, fd, own, name, disk)
    disk.remove(folder_fd, own.part)
    _sync_folder(folder_fd, disk)
    disk.remove(folder_fd, own.journal)
    disk.remove(folder_fd, own.placing)


def _claim(folder_fd: int, fd: int, own: OwnNames, name: str, disk: Disk) -> None:
    try:
        disk.link(own.part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
    except FileExistsError:
        _refuse_other(folder_fd, fd, name, disk)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_without_links(folder_fd, fd, own, name, disk)


def _claim_without_links(folder_fd: int, fd: int, own: OwnNames, name: str, disk: Disk) -> None:
    # First, so that the placing file is there for as short a time as can be.
    _refuse_other(folder_fd, fd, name, disk)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    disk.close(disk.open(own.placing, flags, 0o600, dir_fd=folder_fd))
    try:
        disk.close(disk.open(name, flags | os.O_EXCL, 0o600, dir_fd=folder_fd))
    except OSError:
        disk.remove(folder_fd, own.placing)
        _refuse_other(folder_fd, fd, name, disk)
        raise
    try:
        disk.rename(own.part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        disk.remove(folder_fd, name)
        disk.remove(folder_fd, own.placing)
        raise


def _refuse_other(folder_fd: int, fd: int, name: str, disk: Disk) -> None:
    """Refuse a name that is taken, unless by this very file: then it was claimed before."""
    target = disk.stat_in(folder_fd, name)
    if target is not None and not os.path.samestat(target, disk.fstat(fd)):
        _refuse_taken(name, target, replace=False)


def _sync_folder(folder_fd: int, disk: Disk) -> None:
    try:
        disk.fsync(folder_fd)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so thus.
        if error.errno != errno.EINVAL:
            raise


def current_umask() -> int:
    """
    Find out which mode bits the user does not want new files to have.

    Where the system does not tell it, there is no way to look without setting it. The lock keeps
    two of us from each taking the other's value for the user's; a file that somebody else makes in
    between is only too private.
    """
    with suppress(OSError), open(_STATUS, "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    with _umask_lock:
        umask = os.umask(0o077)
        os.umask(umask)
    return umask
