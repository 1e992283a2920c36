"""
A folder that is being received: what a manifest says, done to a folder of this machine.

First each page of the manifest is L{taken<Unfolding.take>}: its folders are made, and its files
sorted into those that are here already, those that must not be touched, those that cannot be had,
and those that are to be fetched. What is fetched is put in its place whole, small files by
L{flow512.content.placing}, large ones by a download. L{Unfolding.finish} gives the folders their
permissions and times at last, as no more files come into them. What is known of a folder, because
it has been listed or is new, is not asked for again.

Nothing is ever written through a link: every step down is one into a real folder, by descriptor. A
file that is here and is another is kept, unless the user lets it be replaced; nothing is deleted
(L{flow512.content.mirroring} does that). A name that may not be, or that some systems cannot tell
from one that is here, is left out, with the reason, and everything else goes on.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from functools import cached_property
from shlex import quote
from typing import Final

import msgspec

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.manifest import MODES, NOT_ALL, Item
from flow512.content.paths import (
    MAX_DEPTH,
    SHOWN,
    check_name,
    check_new_name,
    check_path,
    escape,
    open_folder_beneath,
    twin_key,
)
from flow512.content.placing import Existing, Placing
from flow512.content.publish import current_umask
from flow512.content.times import KeptTimes
from flow512.content.tree import SCHEME, format_content_id
from flow512.errors import Misuse, NotFound, TargetExists, UnsafeName
from flow512.wire.fields import MAX_PATH

_HERE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LONG: Final = MAX_PATH // 4  # fewer characters than this are never too many bytes

MAX_REASONS: Final = 1000
"""Reasons that are kept for what is left out; a folder full of bad names must not fill memory."""

_NOT_HASHED: Final = "The peer has not hashed it yet, or cannot read it."
_NOT_READ: Final = "The peer cannot read that folder."
_NOT_ALL_READ: Final = "The peer cannot read all of it now; some of its folders are not there."
_A_FOLDER: Final = "A folder of that name is here."
_NO_FOLDER: Final = "Something of that name is here that is no folder."
_NOT_ENTERED: Final = "The folder that it is in was left out."


class Permissions(Enum):
    """Which files get the permissions of the manifest: those that come, or unchanged ones too."""

    NEW = "new"
    ALL = "all"


class Obstacles(Enum):
    """What becomes of what comes where a folder is in a file's place, or the reverse."""

    LEAVE_OUT = "leave out"
    WAIT = "wait"


class Unfolded(msgspec.Struct):
    """
    What has become of a manifest's items so far.

    @ivar files: that the manifest has.
    @ivar size: bytes of all of them.
    @ivar folders: that the manifest has.
    @ivar unchanged: files that were here already, by size and time.
    @ivar left_out: paths, escaped, with why each was left out; the first thousand, without those
        that are in a folder that was left out.
    @ivar left_out_count: how many were left out in all.
    @ivar left_out_within: how many of these are in a folder that was left out.
    @ivar news: what was left out, as in C{left_out} but all of it, until somebody takes it away;
        another thread may do that.
    """

    files: int = 0
    size: int = 0
    folders: int = 0
    unchanged: int = 0
    left_out: list[tuple[str, str]] = msgspec.field(default_factory=list)
    left_out_count: int = 0
    left_out_within: int = 0
    news: deque[tuple[str, str]] = msgspec.field(default_factory=deque)

    def leave_out(self, path: str, reason: str) -> None:
        """
        Note that something is not taken.
        """
        self.left_out_count += 1
        self.news.append((escape(path), reason))
        if len(self.left_out) < MAX_REASONS:
            self.left_out.append((escape(path, SHOWN), reason))

    def leave_out_within(self, path: str) -> None:
        """
        Note that something is not taken, because the folder that it is in is not.
        """
        self.left_out_count += 1
        self.left_out_within += 1
        self.news.append((escape(path), _NOT_ENTERED))


class _Folder(msgspec.Struct):
    """
    One that the manifest is in at the moment.

    @ivar path: with a slash at its end; empty for the top.
    @ivar fd: its descriptor; -1 if it is left out, or waits, with all that is in it.
    @ivar names: what is in it, by what other systems cannot tell apart.
    @ivar files: the names of those that the manifest has in it, but for what is left out because
        it is a folder here.
    @ivar waits: whether it waits until what is in its place is gone.
    """

    path: str
    fd: int
    names: dict[str, str]
    files: set[str] = msgspec.field(default_factory=set)
    waits: bool = False


class Unfolding:
    """
    One folder. Every method blocks; one thread at a time.

    @ivar outcome: what has become of it so far.
    @ivar placing: puts in their places the files that L{take} has asked for.
    """

    def __init__(
        self,
        top: int,
        existing: Existing,
        disk: Disk = DISK,
        origin: str | None = None,
        permissions: Permissions = Permissions.NEW,
        obstacles: Obstacles = Obstacles.LEAVE_OUT,
    ) -> None:
        """
        @param top: a descriptor of the folder; it stays the caller's.
        @param existing: what becomes of files that are here and are others.
        @param origin: the folder's path at the peer, with a slash at its end, empty for all that it
            offers; L{None} if it is not known. It is for advice.
        @param permissions: which files get those of the manifest; folders always do.
        @param obstacles: what becomes of what comes in the place of something of the other kind.
            What waits is for L{take_waiting} or L{leave_out_waiting}, when all has been taken.
        """
        self._top = top
        self._origin = origin
        self._existing = existing
        self._permissions = permissions
        self._obstacles = obstacles
        self._waiting: set[str] = set()  # without what is in folders that wait
        self._above: set[str] = set()  # the folders that these are in
        self._disk = disk
        self._within: list[_Folder] = []
        self._finishing: list[Item] = []
        self._times = KeptTimes(disk)
        self.placing = Placing(top, existing, disk)
        self.outcome = Unfolded()

    def close(self) -> None:
        """
        Give back what is open. A second time does nothing.
        """
        self._leave_all()
        self.placing.close()
        self._times.close()

    def _leave_all(self) -> None:
        for folder in self._within:
            if folder.fd >= 0:
                os.close(folder.fd)
        self._within = []

    # What the manifest says

    def take(self, items: Iterable[Item]) -> list[Item]:
        """
        Take a part of the manifest, the next one.

        @return: the files that are to be fetched.
        @raise ResourceFailure: a folder could not be made or read, or a file not looked at; the
            rest can be taken later, by a new L{Unfolding} of the same manifest.
        """
        if not self._within:
            self._within.append(self._entered("", open_folder_beneath(self._top, ())))
        wanted = []
        for item in items:
            self._leave_for(item.path)
            if item.path == NOT_ALL.path and item.is_missing:
                self.outcome.leave_out(item.path, _NOT_ALL_READ)
            elif item.is_folder:
                self.outcome.folders += 1
                self._enter(item)
            else:
                self.outcome.files += 1
                self.outcome.size += item.size
                if item.is_missing:
                    self.outcome.leave_out(item.path, _NOT_HASHED)
                elif self._is_wanted(item):
                    wanted.append(item)
        return wanted

    @property
    def waits(self) -> bool:
        """Whether anything waits until what is in its place is gone."""
        return bool(self._waiting)

    def take_waiting(self, items: Iterable[Item]) -> list[Item]:
        """
        Take what has waited, since what was in its place is gone; else it is left out now.

        @param items: the next ones of the same manifest, from its beginning again.
        @return: the files that are to be fetched.
        @raise ResourceFailure: as L{take}.
        """
        if self._obstacles is Obstacles.WAIT:
            self._obstacles = Obstacles.LEAVE_OUT
            self._leave_all()
            self._within.append(self._entered("", open_folder_beneath(self._top, ())))
        wanted = []
        for item in items:
            if self._has_waited(item) or item.path in self._above:
                self._leave_for(item.path)
                if item.is_folder:
                    self._enter(item)
                elif self._is_wanted(item):
                    wanted.append(item)
        return wanted

    def leave_out_waiting(self, items: Iterable[Item]) -> None:
        """
        Leave out what has waited: what is in its place stays.

        @param items: all of the same manifest.
        """
        for item in filter(self._has_waited, items):
            if item.path not in self._waiting:
                self.outcome.leave_out_within(item.path)
            else:
                self.outcome.leave_out(item.path, _NO_FOLDER if item.is_folder else _A_FOLDER)

    def _wait(self, path: str) -> None:
        self._waiting.add(path)
        self._above.update(each.path for each in self._within)

    def _has_waited(self, item: Item) -> bool:
        path = item.path
        if path in self._waiting:
            return True
        slash = path.find("/")
        while slash >= 0:
            if path[: slash + 1] in self._waiting:
                return True
            slash = path.find("/", slash + 1)
        return False

    def _leave_for(self, path: str) -> None:
        while not path.startswith(self._within[-1].path):
            folder = self._within.pop()
            if folder.fd >= 0:
                os.close(folder.fd)

    def _entered(self, path: str, fd: int) -> _Folder:
        try:
            with blaming(f"reading the folder '{escape(path, SHOWN) or '.'}'"):
                names = self._disk.listdir(fd)
        except BaseException:
            os.close(fd)
            raise
        self._times.tidy(fd, names)
        return _Folder(path, fd, {twin_key(name): name for name in names})

    def _enter(self, item: Item) -> None:
        parent = self._within[-1]
        fd, is_new, waits = -1, False, False
        if item.is_missing:
            self.outcome.leave_out(item.path, _NOT_READ)
        elif parent.waits:
            waits = True
        elif parent.fd < 0:
            self.outcome.leave_out_within(item.path)
        else:
            try:
                fd, is_new = self._make(parent, item)
                waits = fd < 0
            except (Misuse, NotFound) as error:
                # It is about this one name; what is wrong with the disk ends it all.
                self.outcome.leave_out(item.path, str(error))
        if fd < 0:
            self._within.append(_Folder(item.path, -1, {}, waits=waits))
            return
        self._within.append(_Folder(item.path, fd, {}) if is_new else self._entered(item.path, fd))
        self._finishing.append(item)

    def _make(self, parent: _Folder, item: Item) -> tuple[int, bool]:
        """Open a folder, and say whether it is new; -1 if it waits."""
        name = item.path[len(parent.path) : -1]
        if name in parent.files:
            # It came first, since a slash sorts behind, and may have been asked for already.
            raise TargetExists("The peer has a file of that name, too, and no name can be both.")
        self._claim(parent, item, name)
        is_new = True
        with blaming(f"making the folder '{escape(item.path, SHOWN)}'"):
            try:
                # Nobody but its owner, until all is in it.
                self._disk.mkdir(name, 0o700, dir_fd=parent.fd)
            except FileExistsError:
                is_new = False
                here = self._disk.stat_in(parent.fd, name)
                is_folder = here is None or stat.S_ISDIR(here.st_mode)
                if not is_folder and self._obstacles is Obstacles.WAIT:
                    self._wait(item.path)
                    return -1, False
        return open_folder_beneath(parent.fd, (name,)), is_new

    def _claim(self, parent: _Folder, item: Item, name: str) -> bool:
        """
        See to it that something may be made by a name.

        @return: whether something of that name is known already.
        """
        # What is above was checked when it was entered, and no name that passes has a slash.
        check_new_name(name, lambda: self._other_way(item, name))
        if len(self._within) > MAX_DEPTH or len(item.path) > _LONG:
            check_path(item.path.rstrip("/"))
        key = twin_key(name)
        twin = parent.names.get(key)
        if twin is None:
            parent.names[key] = name
            return False
        if twin != name:
            raise TargetExists(
                f"Some systems cannot tell it from '{escape(twin, SHOWN)}', which is there already."
            )
        return True

    def _other_way(self, item: Item, name: str) -> str:
        """Say how something can be had whose name cannot be here."""
        with suppress(UnsafeName):
            check_name(name)  # as the peer has to, which would not give it otherwise
            if item.root is not None:
                # Whatever its path looks like, this does not look like an option, or another id.
                return f"`flow512 get {format_content_id(item.root)} -o NAME` gets it"
            if self._origin is not None:
                return _way_to_folder(self._origin + item.path)
        return ""

    def _is_wanted(self, item: Item) -> bool:
        parent = self._within[-1]
        if parent.fd < 0:
            if not parent.waits:
                self.outcome.leave_out_within(item.path)
            return False
        name = item.path[len(parent.path) :]
        here = None
        try:
            if self._claim(parent, item, name):
                with blaming(f"looking at '{escape(item.path, SHOWN)}'"):
                    here = self._disk.stat_in(parent.fd, name)
        except Misuse as error:
            self.outcome.leave_out(item.path, str(error))
            return False
        is_folder = here is not None and stat.S_ISDIR(here.st_mode)
        if is_folder and self._obstacles is Obstacles.LEAVE_OUT:
            self.outcome.leave_out(item.path, _A_FOLDER)
            return False
        parent.files.add(name)
        if is_folder:
            self._wait(item.path)
            return False
        if here is None:
            return True
        if self._is_same(here, item, parent):
            self.outcome.unchanged += 1
            if self._permissions is Permissions.ALL:
                self._set_mode(here, item, parent, name)
            return False
        if self._existing is Existing.KEEP:
            self.outcome.leave_out(
                item.path, "Another file of that name is here; --replace takes this one instead."
            )
            return False
        return True

    def _is_same(self, here: os.stat_result, item: Item, parent: _Folder) -> bool:
        """Say whether a file that is here is the one of the manifest, by size and time."""
        if not stat.S_ISREG(here.st_mode) or here.st_size != item.size:
            return False
        if here.st_mtime_ns == item.mtime:
            return True
        return here.st_mtime_ns == self._times.made_of(item.mtime, parent.fd, here.st_dev)

    @cached_property
    def _umask(self) -> int:
        return current_umask()

    def _set_mode(self, here: os.stat_result, item: Item, parent: _Folder, name: str) -> None:
        """Give a file that is here the permissions that it would have if it came now."""
        mode = item.mode & MODES & ~self._umask
        if stat.S_IMODE(here.st_mode) == mode:
            return
        with (
            blaming(f"setting the permissions of '{escape(item.path, SHOWN)}'"),
            # It is another user's, or may not even be read; its content is right all the same.
            suppress(PermissionError),
        ):
            fd = self._disk.open(name, _HERE, dir_fd=parent.fd)
            try:
                self._disk.fchmod(fd, mode)
            finally:
                self._disk.close(fd)

    # The end

    def finish(self) -> None:
        """
        Give the folders their permissions and times; nothing may be put into them after that.

        @raise ResourceFailure: one could not be given them.
        """
        self.close()
        umask = current_umask()
        # What is deepest first: a folder without the right to be searched hides what is in it.
        for item in reversed(self._finishing):
            with blaming(f"setting the permissions of '{escape(item.path, SHOWN)}'"):
                fd = open_folder_beneath(self._top, tuple(item.path[:-1].split("/")))
                try:
                    # Its owner can always go on with it.
                    self._disk.fchmod(fd, item.mode & MODES & ~umask | stat.S_IRWXU)
                    self._disk.utime(fd, ns=(item.mtime, item.mtime))
                finally:
                    self._disk.close(fd)
        self._finishing = []


def _way_to_folder(path: str) -> str:
    """Say how a folder can be had by its path, if it can be typed at all."""
    if path.startswith(SCHEME) or not path.isprintable():
        return ""
    typed = f"-o NAME -- {quote(path)}" if path.startswith("-") else f"{quote(path)} -o NAME"
    return f"`flow512 get {typed}` gets it"
