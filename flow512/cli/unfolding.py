"""
C{flow512 get DIR/}: fetch a whole folder with a node that lives no longer than that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from flow512.cli.formatting import files_text, rate_text, size_text, took_text
from flow512.cli.getting import Telling, Wish
from flow512.cli.meeting import Meeting
from flow512.cli.outcome import Incomplete
from flow512.cli.progress import Progress
from flow512.cli.running import Machine
from flow512.cli.voice import Voice
from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond, Surplus
from flow512.content.paths import check_new_name, check_path, escape
from flow512.content.placing import Existing
from flow512.content.tree import SCHEME, parse_content_id
from flow512.errors import Flow512Error, Misuse
from flow512.settings import NodeSettings
from flow512.transfer.download import Download
from flow512.transfer.folders import Progress as FolderProgress
from flow512.wire.messages import Entry

_SAID: Final = 10
"""Paths that are said of those that are left out, deleted, or too much."""


class Selection(msgspec.Struct, frozen=True):
    """
    Which part of a folder is wanted, by patterns as shells have them; C{*} stands for slashes too.
    A folder that a pattern fits is meant with all that is in it.

    @ivar include: only what one of these fits; everything if there are none.
    @ivar exclude: nothing that one of these fits.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, item: Item) -> bool:
        if not self.include and not self.exclude:
            return True
        path = item.path.rstrip("/")
        names = path.split("/")
        if any(_fits(path, names, pattern) for pattern in self.exclude):
            return False
        if not self.include or (item.is_folder and item.is_missing):
            return True  # nobody knows what is in a folder that the peer cannot read
        return any(_fits(path, names, pattern) for pattern in self.include)


def _fits(path: str, names: list[str], pattern: str) -> bool:
    pattern = pattern.rstrip("/")
    if "/" in pattern:
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
    # A pattern without a slash is about names, wherever they are.
    return any(fnmatchcase(name, pattern) for name in names)


def is_folder(wanted: str) -> bool:
    """
    Say whether a user asks for a folder.
    """
    return wanted.endswith("/")


def beyond_of(wanted: str, *, mirror: bool, delete: bool) -> Beyond:
    """
    Read what C{--mirror} and C{--delete} say.

    @param wanted: what the user asks for.
    @raise Misuse: it makes no sense.
    """
    if delete and not mirror:
        raise Misuse("--delete is for --mirror only, which says what it would delete; give both.")
    if mirror and not is_folder(wanted):
        raise Misuse("--mirror is for folders only; put a slash at the end of what you ask for.")
    if not mirror:
        return Beyond.IGNORE
    return Beyond.DELETE if delete else Beyond.COUNT


def _top(wish: Wish) -> str:
    """
    Name the folder that the content goes to.

    @raise Misuse: it has no name.
    @raise UnsafeName: its name must not touch the disk.
    """
    target = wish.target
    if target.name:
        return os.path.join(target.folder, target.name)
    if wish.is_placed:
        return target.folder
    if wish.wanted == "/" or wish.wanted.startswith(SCHEME):
        raise Misuse("Say by -o where the folder is to go; it has no name of its own.")
    name = check_path(wish.wanted[:-1])[-1]
    check_new_name(name)
    return name


class _Unfolding(Telling):
    """One folder."""

    _is_shown = False
    _is_sized = False

    def __init__(self, machine: Machine, voice: Voice, progress: Progress, beyond: Beyond) -> None:
        super().__init__(machine, voice, progress)
        self._deletes = beyond is Beyond.DELETE
        self._progress: FolderProgress | None = None

    def told(self, progress: FolderProgress) -> None:
        """More of it is here."""
        self.has_begun = True
        self._progress = progress
        self._show(progress.stored)

    def left_out(self, path: str, reason: str) -> None:
        """Something is not taken; a person is told at the end."""
        self._voice.tell("left_out", path=path, reason=escape(reason))

    def growing(self, download: Download) -> None:
        """More of a large file is here."""
        if self._progress is not None:
            self._show(self._progress.stored + download.stored)

    def _show(self, stored: int) -> None:
        assert self._progress is not None
        assert self._entry is not None
        was_sized, self._is_sized = self._is_sized, self._progress.is_listed
        size = self._progress.outcome.size
        if not self._is_shown:
            self._is_shown = True
            entry = Entry(self._entry.path, size, 0)
            self._bar.begin(entry, stored, is_sized=self._is_sized)
            return
        if self._is_sized and not was_sized:
            self._bar.sized(size)
        self._bar.grown(stored)

    def done(self, top: str, progress: FolderProgress) -> None:
        """All of it is here that comes."""
        seconds = self._clock.seconds() - self._start
        outcome = progress.outcome
        self._voice.tell(
            "done",
            path=top,
            files=outcome.files,
            folders=outcome.folders,
            bytes=outcome.size,
            stored=progress.done,
            fetched=progress.fetched,
            unchanged=outcome.unchanged,
            left_out=outcome.left_out_count,
            surplus=None if progress.surplus is None else progress.surplus.count,
            deleted=0 if progress.surplus is None else progress.surplus.deleted,
            seconds=round(seconds, 6),
        )
        came = (
            f"{progress.done} of {files_text(outcome.files)},"
            f" {size_text(progress.fetched)} in {took_text(seconds)}"
            f" ({rate_text(progress.fetched, seconds)})"
        )
        if not progress.done:
            came = "nothing was fetched"
        verb = "was" if outcome.unchanged == 1 else "were"
        same = f"; {outcome.unchanged} {verb} here already" if outcome.unchanged else ""
        self._voice.say(f"Folder '{escape(top)}': {came}{same}.")
        count = outcome.left_out_count - outcome.left_out_within
        self._say_paths("Left out", outcome.left_out, count)
        if outcome.left_out_within:
            self._voice.say(f"Left out: {outcome.left_out_within} that are in these folders.")
        if progress.surplus is not None:
            self._say_surplus(progress.surplus, outcome.left_out_count)

    def _say_surplus(self, surplus: Surplus, left_out: int) -> None:
        # What was in the way of something may be gone, and that be left out all the same.
        deletes = self._deletes and bool(not left_out or surplus.deleted or surplus.failed)
        for path in surplus.paths:
            self._voice.tell("deleted" if deletes else "surplus", path=path)
        count = surplus.deleted if deletes else surplus.count
        if count:
            names = ", ".join(surplus.paths[:_SAID])
            more = f" and {count - _SAID} more" if count > _SAID else ""
            what = "Deleted" if deletes else "Here and not there"
            hint = "" if self._deletes else "; --mirror --delete deletes them"
            self._voice.say(f"{what}: {names}{more}{hint}.")
        failed = surplus.count - surplus.deleted if deletes else 0
        for path, reason in surplus.failed[:_SAID]:
            self._voice.tell("kept", path=path, reason=escape(reason))
        self._say_paths("Not deleted", surplus.failed, failed)
        if self._deletes and not deletes:
            self._voice.say("Nothing was deleted, since something was left out.")

    def _say_paths(self, what: str, paths: Sequence[tuple[str, str]], count: int) -> None:
        for path, reason in paths[:_SAID]:
            self._voice.say(f"{what}: {path}: {escape(reason)}")
        if count > _SAID:
            self._voice.say(f"{what}: {count - _SAID} more.")

    def stopped(self) -> str:
        """Say how many files are here."""
        if self._progress is None:
            return "Stopped before anything was downloaded."
        return f"Stopped after {self._progress.done} files; run the same command again to go on."

    @contextmanager
    def until_it_is_here(self) -> Iterator[None]:
        """
        As for every download; and say that nothing was deleted, if something was to be.
        """
        try:
            with super().until_it_is_here():
                yield
        except Flow512Error as error:
            if not self._deletes:
                raise
            surplus = None if self._progress is None else self._progress.surplus
            count = 0 if surplus is None else surplus.deleted
            fate = f"{count} were deleted." if count else "Nothing was deleted."
            raise type(error)(f"{error} {fate}") from error


async def get_folder(
    machine: Machine,
    settings: NodeSettings,
    wish: Wish,
    selection: Selection,
    beyond: Beyond,
    voice: Voice,
    progress: Progress,
) -> None:
    """
    Fetch a folder.

    @param settings: see L{flow512.cli.getting.passing}.
    @param beyond: what becomes of what is here and not there.
    @raise Incomplete: something was left out, and the rest is here.
    @raise Flow512Error: as L{flow512.node.fetching.Fetching.get_folder}; L{Interrupted} if it was
        cancelled. What is in its place until then is not fetched the next time.
    """
    if wish.wanted.startswith(SCHEME):
        parse_content_id(wish.wanted.rstrip("/"))
    elif wish.wanted != "/":
        check_path(wish.wanted[:-1])
    top = _top(wish)
    told = _Unfolding(machine, voice, progress, beyond)
    with told.until_it_is_here():
        async with machine.node(settings) as node:
            meeting = Meeting(machine.reactor, node, wish.wait)
            if wish.peer:
                await meeting.peer(wish.peer)
            else:
                await meeting.anybody()
            outcome = await node.fetching.get_folder(
                wish.wanted.rstrip("/") if wish.wanted.startswith(SCHEME) else wish.wanted,
                top,
                peer=wish.peer,
                existing=Existing.REPLACE if wish.target.replace else Existing.KEEP,
                beyond=beyond,
                is_wanted=selection,
                found=told.found,
                told=told.told,
                growing=told.growing,
                left_out=told.left_out,
                blame=told.blamed,
            )
    told.done(top, outcome)
    if count := outcome.outcome.left_out_count:
        raise Incomplete(f"Not all of the folder is here; left out: {count}.")
