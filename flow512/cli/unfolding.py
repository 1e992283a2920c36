"""
C{flow512 get DIR/}: fetch a whole folder with a node that lives no longer than that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flow512.cli.formatting import rate_text, size_text
from flow512.cli.getting import Wish
from flow512.cli.meeting import Meeting
from flow512.cli.outcome import Interrupted
from flow512.cli.progress import Progress
from flow512.cli.running import STOPPED, Machine
from flow512.cli.voice import Voice
from flow512.content.manifest import Item
from flow512.content.paths import check_new_name, check_path, escape
from flow512.content.tree import SCHEME, format_content_id, parse_content_id
from flow512.content.unfolding import Existing
from flow512.errors import Flow512Error, Misuse, Unreachable
from flow512.settings import NodeSettings
from flow512.transfer.download import Download
from flow512.transfer.finding import Candidate
from flow512.transfer.folders import Progress as FolderProgress
from flow512.wire.messages import Entry

_SAID: int = 10
"""Reasons that are said, of those for which something is left out."""


@dataclass(frozen=True)
class Selection:
    """
    Which part of a folder is wanted, by patterns as shells have them; C{*} stands for slashes too.

    @ivar include: only what one of these fits; everything if there are none.
    @ivar exclude: nothing that one of these fits, nor what is in a folder that one fits.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __call__(self, item: Item) -> bool:
        path = item.path.rstrip("/")
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if any(_fits(each, pattern) for pattern in self.exclude for each in above):
            return False
        # A folder is made if something in it may be wanted: with patterns, when a file is.
        if not self.include:
            return True
        return item.is_folder or any(_fits(path, pattern) for pattern in self.include)


def _fits(path: str, pattern: str) -> bool:
    pattern = pattern.rstrip("/")
    # A pattern without a slash is about names, wherever they are.
    return fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def is_folder(wanted: str) -> bool:
    """
    Say whether a user asks for a folder.
    """
    return wanted.endswith("/")


def _top(wish: Wish) -> str:
    """
    Name the folder that the content goes to.

    @raise Misuse: it has no name.
    @raise UnsafeName: its name must not touch the disk.
    """
    target = wish.target
    if target.name:
        return os.path.join(target.folder, target.name)
    if target.folder != ".":
        return target.folder
    if wish.wanted == "/" or wish.wanted.startswith(SCHEME):
        raise Misuse("Say by -o where the folder is to go; it has no name of its own.")
    name = check_path(wish.wanted[:-1])[-1]
    check_new_name(name)
    return name


class _Unfolding:
    """One folder, as it is told to the user."""

    def __init__(self, machine: Machine, voice: Voice, progress: Progress) -> None:
        self._clock = machine.reactor
        self._voice = voice
        self._bar = progress
        self._start = 0.0
        self._entry: Entry | None = None
        self._has_begun = False
        self._progress: FolderProgress | None = None
        self._before = 0  # of the large file that is under way

    def found(self, candidate: Candidate, entry: Entry) -> None:
        """It is there."""
        assert entry.root is not None
        self._entry = entry
        self._start = self._clock.seconds()
        self._voice.tell(
            "found",
            peer=candidate.name,
            address=str(candidate.address),
            path=entry.path,
            root=format_content_id(entry.root),
        )

    def told(self, progress: FolderProgress) -> None:
        """More of it is here."""
        self._progress = progress
        if progress.is_listed:
            self._show(progress.stored)

    def growing(self, download: Download) -> None:
        """More of a large file is here."""
        if self._progress is not None:
            self._show(self._progress.stored + download.stored)

    def _show(self, stored: int) -> None:
        assert self._progress is not None
        assert self._entry is not None
        if not self._has_begun:
            self._has_begun = True
            size = self._progress.outcome.size
            self._bar.begin(Entry(self._entry.path, size, 0), stored)
        else:
            self._bar.grown(stored)

    def blamed(self, who: Candidate, reason: Flow512Error) -> None:
        """Somebody sent something wrong, and is not asked any more."""
        why = escape(str(reason))
        self._voice.tell("dropped", peer=who.name, address=str(who.address), reason=why)

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._bar.end()

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
            seconds=round(seconds, 6),
        )
        same = f"; {outcome.unchanged} were here already" if outcome.unchanged else ""
        self._voice.say(
            f"Folder '{escape(top)}': {progress.done} of {outcome.files} files,"
            f" {size_text(progress.fetched)} in {seconds:.1f} s"
            f" ({rate_text(progress.fetched, seconds)}){same}."
        )
        for path, reason in outcome.left_out[:_SAID]:
            self._voice.tell("left_out", path=path, reason=escape(reason))
            self._voice.say(f"Left out: {path}: {escape(reason)}")
        more = outcome.left_out_count - _SAID
        if more > 0:
            self._voice.say(f"Left out: {more} more.")

    def stopped(self) -> Interrupted:
        """The user does not want to wait."""
        done = 0 if self._progress is None else self._progress.done
        return Interrupted(f"Stopped after {done} files; run the same command again to go on.")


async def get_folder(
    machine: Machine,
    settings: NodeSettings,
    wish: Wish,
    selection: Selection,
    voice: Voice,
    progress: Progress,
) -> None:
    """
    Fetch a folder.

    @param settings: see L{flow512.cli.getting.passing}.
    @raise Flow512Error: as L{flow512.node.NodeService.get_folder}; L{Interrupted} if it was
        cancelled. What is in its place until then is not fetched the next time.
    """
    if wish.wanted.startswith(SCHEME):
        parse_content_id(wish.wanted.rstrip("/"))
    elif wish.wanted != "/":
        check_path(wish.wanted[:-1])
    top = _top(wish)
    told = _Unfolding(machine, voice, progress)
    try:
        async with machine.node(settings) as node:
            meeting = Meeting(machine.reactor, node, wish.wait)
            if wish.peer:
                await meeting.peer(wish.peer)
            else:
                await meeting.anybody()
            outcome = await node.get_folder(
                wish.wanted.rstrip("/") if wish.wanted.startswith(SCHEME) else wish.wanted,
                top,
                peer=wish.peer,
                existing=Existing.REPLACE if wish.target.replace else Existing.KEEP,
                is_wanted=selection,
                found=told.found,
                told=told.told,
                growing=told.growing,
                blame=told.blamed,
            )
    except STOPPED:
        told.end()
        raise told.stopped() from None
    except Unreachable as error:
        told.end()
        raise type(error)(f"{error} Run the same command again to go on.") from error
    except BaseException:
        told.end()
        raise
    told.end()
    told.done(top, outcome)
