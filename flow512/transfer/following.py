"""
The watches on the folders of the shares: what the system tells of them, said as places to look at.

Each folder needs a watch of its own, and there may be a hundred thousand. What keeps them right:

  - A folder is watched before it is listed: what came before the watch is in the list, what comes
    after it is an event. So once L{FolderWatches.cover} is through, nothing beneath a place can
    change unnoticed, and what did so before is seen by the look that follows.
  - Workers list; the watches are added on the reactor's thread, some in each turn.
  - A watch follows its folder wherever it is moved, and tells of it under the old name. So when a
    folder is moved, what is watched beneath its old name is forgotten before the next cover, and
    what is beneath the new one is covered as if it were new.
  - The folders that the shares are in are watched too: a share's folder that is removed, and made
    anew, does not say so itself.
  - If events were lost or a share's folder is another one now, everything is begun anew.

When no more folders can be watched, that is said once, and nothing is watched any more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from flow512.content.access import ALLOW_FILE
from flow512.content.following import Following, Place
from flow512.content.library import Library, Share
from flow512.content.paths import is_own_name
from flow512.errors import Cancelled, ResourceFailure, ShareMissing
from flow512.interfaces import RunBlocking
from flow512.transfer.inotify import (
    ALL_CHANGES,
    COMING_AND_GOING,
    Event,
    Notifier,
    OpenNotifier,
)

_AT_ONCE: Final = 200
"""Folders that are watched, or no longer, in one turn of the reactor: some microseconds each."""

_NO_MORE: Final = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What the system says when it is not the folder that is to blame."""


class FolderWatches:
    """
    Watches all folders of a library's shares.
    """

    log = Logger()

    def __init__(
        self,
        library: Library,
        following: Following,
        clock: IReactorTime,
        run_blocking: RunBlocking,
        open_notifier: OpenNotifier,
        happened: Callable[[], None],
    ) -> None:
        """
        @param library: whose shares are watched.
        @param following: is told of the places where something happens.
        @param clock: for the time, and for the turns.
        @param run_blocking: runs the listing of folders.
        @param open_notifier: opens what watches.
        @param happened: called whenever C{following} was told something.
        """
        self._library = library
        self._following = following
        self._clock = clock
        self._run_blocking = run_blocking
        self._open_notifier = open_notifier
        self._happened = happened
        self._notifier: Notifier | None = None
        self._is_closed = False
        self._can_watch = True
        self._roots: tuple[tuple[str, Share], ...] = ()
        self._paths: dict[int, str] = {}  # of what is watched, without links
        self._watches: dict[str, int] = {}
        self._inside: dict[str, set[str]] = {}  # the watched folders in each
        self._moved: dict[str, None] = {}
        self._turn: Deferred[None] | None = None

    @property
    def are_kept(self) -> bool:
        """Whether all folders that were covered are watched now."""
        return self._notifier is not None

    async def begin(self) -> None:
        """
        Watch all folders of all shares, anew.

        @raise Cancelled: they were closed meanwhile.
        """
        self._watch_nothing()
        if not self._can_watch:
            return
        self._roots = await self._run_blocking(_find, self._library.shares)
        self._check_open()
        try:
            self._notifier = self._open_notifier(self._told)
            for root, _ in self._roots:
                self._watch(os.path.dirname(root), COMING_AND_GOING)
        except OSError as error:
            self._give_up(error)
            return
        await self.cover(Place(share.key, "") for _, share in self._roots)

    async def cover(self, places: Iterable[Place]) -> None:
        """
        Watch all folders at and beneath some places that are not watched yet.

        @param places: what is no folder is passed over.
        @raise Cancelled: they were closed meanwhile.
        """
        moved, self._moved = self._moved, {}
        for path in moved:
            await self._forget(path)
        wanted = list(places)
        for root, share in self._roots:
            paths = [place.path for place in wanted if place.share == share.key]
            if paths:
                # The way to a place that something happened at may lead through a link by now, out
                # of the share.
                paths = await self._run_blocking(share.only_folders, paths)
                self._check_open()
            while paths:
                paths = await self._watch_all(root, paths)
                if paths:
                    paths = await self._run_blocking(share.subfolders, paths)
                    self._check_open()

    def close(self) -> None:
        """
        Watch nothing any more. What is under way is cancelled.
        """
        self._is_closed = True
        self._watch_nothing()
        if self._turn is not None:
            self._turn.cancel()

    # Watching

    def _watch_nothing(self) -> None:
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()
        self._paths, self._watches, self._inside, self._moved = {}, {}, {}, {}

    def _check_open(self) -> None:
        if self._is_closed:
            raise Cancelled("The folders are not watched any more.")

    async def _watch_all(self, root: str, paths: list[str]) -> list[str]:
        watched = []
        left = iter(paths)
        while some := list(islice(left, _AT_ONCE)):
            if self._notifier is None:
                return []
            try:
                watched += [
                    path
                    for path in some
                    if self._watch(_beneath(root) + path if path else root, ALL_CHANGES)
                ]
            except OSError as error:
                self._give_up(error)
                return []
            await self._next_turn()
        return watched

    def _watch(self, path: str, events: Event) -> bool:
        """Say whether there is such a folder, and it is watched now."""
        assert self._notifier is not None
        try:
            watch = self._notifier.watch(os.fsencode(path), events)
        except OSError as error:
            if error.errno in _NO_MORE:
                raise
            return False
        before = self._paths.get(watch)
        if before is not None and before != path:
            # Moved, and the word of that is still on its way.
            self._unlink(before)
        self._paths[watch] = path
        self._watches[path] = watch
        self._inside.setdefault(os.path.dirname(path), set()).add(path)
        return True

    def _unlink(self, path: str) -> int | None:
        folder = os.path.dirname(path)
        siblings = self._inside.get(folder, set())
        siblings.discard(path)
        if not siblings:
            self._inside.pop(folder, None)
        watch = self._watches.pop(path, None)
        if watch is not None:
            del self._paths[watch]
        return watch

    async def _forget(self, path: str) -> None:
        left = [path]
        done = 0
        while left:
            path = left.pop()
            left += self._inside.get(path, ())
            watch = self._unlink(path)
            if watch is not None and self._notifier is not None:
                self._notifier.forget(watch)
            done += 1
            if done % _AT_ONCE == 0:
                await self._next_turn()

    async def _next_turn(self) -> None:
        self._turn = deferLater(self._clock, 0)
        try:
            await self._turn
        except CancelledError:
            self._check_open()
        finally:
            self._turn = None

    def _give_up(self, error: OSError) -> None:
        self._can_watch = False
        self._watch_nothing()
        self.log.warn(
            "The shares are not followed live but looked through now and then: the system lets no"
            " more folders be watched ({why}); raise fs.inotify.max_user_watches or"
            " max_user_instances with sysctl, and start again.",
            why=error.strerror,
        )

    # What happens

    def _told(self, watch: int, what: Event, name: bytes) -> None:
        folder = self._paths.get(watch)
        if (
            folder is not None
            and name
            and not self._is_shared(_beneath(folder) + os.fsdecode(name))
        ):
            return  # beside a share, whose own coming and going is waited for there
        # Even what comes and goes under a name of our own leaves its mark on the folder.
        self._library.happened()
        if what & Event.OVERFLOW:
            self._lose()
            return
        if folder is None:
            return
        if not name:
            if what & Event.IGNORED:
                self._unlink(folder)
            if what & (Event.IGNORED | Event.MOVE_SELF) and self._is_root(folder):
                self._lose()
            return
        path = _beneath(folder) + os.fsdecode(name)
        if what & (Event.MOVED_FROM | Event.MOVED_TO) and path in self._watches:
            self._moved[path] = None
        if what & COMING_AND_GOING and self._is_root(path):
            self._lose()
        elif os.fsdecode(name) == ALLOW_FILE or not is_own_name(os.fsdecode(name)):
            self._note(path)

    def _is_shared(self, path: str) -> bool:
        return any(path == root or path.startswith(_beneath(root)) for root, _ in self._roots)

    def _is_root(self, path: str) -> bool:
        return any(path == root for root, _ in self._roots)

    def _note(self, path: str) -> None:
        for root, share in self._roots:
            if path.startswith(_beneath(root)):
                place = Place(share.key, path[len(_beneath(root)) :])
                self._following.note(self._clock.seconds(), place)
                self._happened()

    def _lose(self) -> None:
        self._following.lose(self._clock.seconds())
        self._happened()


def _find(shares: Sequence[Share]) -> tuple[tuple[str, Share], ...]:
    for share in shares:
        # Another folder may have taken its place.
        with suppress(ShareMissing, ResourceFailure):
            share.look_again()
    return tuple((share.real_path(), share) for share in shares)


def _beneath(folder: str) -> str:
    return folder if folder.endswith("/") else folder + "/"
