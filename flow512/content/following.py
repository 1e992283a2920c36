"""
Following a share live: what to look at, and when. Pure: it is told what happened, and at what time.

A place is a file or a folder of a share. Whatever happens to it, it is only noted; what has become
of it is found out by looking. So events may come twice, late, or under an old name: the worst that
follows is a look for nothing. Only an event that is lost without a word does harm; where that may
have been, everything is looked at again.

Each place goes through three states::

    unknown --note--> noted --quiet for QUIET seconds, and a round begins--> taken --> unknown
                       | ^
                       +-+ note

A round begins once nothing at all has happened for QUIET seconds: so a burst of ten thousand
files is one round. If it never becomes quiet, one begins PATIENCE seconds after the first note, and
takes what is quiet itself. What is noted still is named as busy: somebody writes it, and whoever
looks at the folder around it leaves it out.

A place, or everything, that is taken again and again, each time less than CALM seconds after the
last, rests for twice as long each time, up to that: a log that grows every second is not hashed
every second.

What is remembered is bounded. More than CROWD places in one folder become one, the folder, which
stands for all beneath it and does not have to become quiet. More than MOST places become
everything, as do events that were lost; nothing more is remembered until that is taken.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

QUIET: Final = 0.5
"""Seconds without an event after which a file is taken to be written."""

PATIENCE: Final = 5.0
"""Seconds after which a round begins although something happens all the time."""

CALM: Final = 60.0
"""Seconds without being looked at after which a place counts as one that seldom changes."""

CROWD: Final = 256
"""Places in one folder that are remembered one by one."""

MOST: Final = 4096
"""Places that are remembered in all; a few hundred bytes each."""


class Place(NamedTuple):
    """
    A file or folder of a share; it may be there or not.

    @ivar share: the share's key.
    @ivar path: inside the share; empty for its folder itself.
    """

    share: bytes
    path: str

    @property
    def folder(self) -> Place:
        """The folder that it is in; that of a share's folder is itself."""
        return Place(self.share, self.path.rpartition("/")[0])


class Look(msgspec.Struct, frozen=True):
    """
    What to look at in one round.

    @ivar places: these, and whatever is beneath them.
    @ivar busy: files that are being written, to be left out.
    @ivar is_everything: whether all shares are to be looked through, whatever C{places} has.
    @ivar is_walk: whether it is one of those that come at regular times; a rule of access that
        is gone stands until two of these have missed it (L{flow512.content.access}).
    """

    places: tuple[Place, ...] = ()
    busy: frozenset[Place] = frozenset()
    is_everything: bool = False
    is_walk: bool = False


EVERYTHING: Final = Look(is_everything=True)
WALK: Final = Look(is_everything=True, is_walk=True)

_EVERYWHERE: Final = Place(b"", "")


class Following:
    """
    Gathers what happened into rounds.
    """

    def __init__(self) -> None:
        self._noted: dict[Place, float] = {}  # and when something happened there last
        self._names: dict[Place, set[Place]] = {}  # what is noted in each folder
        self._crowded: set[Place] = set()
        # When each was taken last, and how long it rests from then; the oldest first.
        self._taken: dict[Place, tuple[float, float]] = {}
        self._is_everything = False
        self._since = self._last = 0.0

    def note(self, now: float, place: Place) -> None:
        """
        Take note that something happened.

        @param now: seconds, on a clock that never goes back.
        @param place: where.
        """
        self._happened(now)
        folder = place.folder
        if self._is_everything or place in self._crowded or folder in self._crowded:
            return
        self._noted[place] = now
        if not place.path:
            return
        names = self._names.setdefault(folder, set())
        names.add(place)
        if len(names) > CROWD:
            for name in names:
                del self._noted[name]
                self._crowded.discard(name)
            del self._names[folder]
            self.note(now, folder)
            if folder in self._noted:  # and not one of a crowd itself
                self._crowded.add(folder)
        if len(self._noted) > MOST:
            self.lose(now)

    def lose(self, now: float) -> None:
        """
        Take note that events were lost: anything may have happened.

        @param now: as for L{note}.
        """
        self._happened(now)
        self.forget()
        self._is_everything = True

    def due(self) -> float | None:
        """
        Say when the next round begins, if nothing more happens.

        @return: L{None} if there is nothing to look at.
        """
        if not self._is_pending:
            return None
        due = min(self._last + QUIET, self._since + PATIENCE)
        if self._is_everything:
            before, rest = self._taken.get(_EVERYWHERE, (0.0, 0.0))
            return max(due, before + rest)
        return max(due, min(map(self._ready, self._noted)))

    def take(self, now: float) -> Look:
        """
        Begin a round.

        @param now: as for L{note}.
        @return: what to look at; nothing if no place is quiet.
        """
        if self._is_everything:
            self.forget()
            self._rest(now, _EVERYWHERE)
            return EVERYTHING
        taken = tuple(place for place in self._noted if self._ready(place) <= now)
        for place in taken:
            del self._noted[place]
            self._rest(now, place)
            self._crowded.discard(place)
            names = self._names.get(place.folder)
            if names is not None:
                names.discard(place)
                if not names:
                    del self._names[place.folder]
        self._since = now
        return Look(taken, frozenset(self._noted))

    def forget(self) -> None:
        """
        Take everything for looked at.
        """
        self._noted.clear()
        self._names.clear()
        self._crowded.clear()
        self._is_everything = False

    def _ready(self, place: Place) -> float:
        before, rest = self._taken.get(place, (0.0, 0.0))
        return max(self._noted[place] + QUIET, before + rest)

    def _rest(self, now: float, place: Place) -> None:
        before, rest = self._taken.pop(place, (0.0, 0.0))
        again = rest and now - before < CALM + rest
        self._taken[place] = now, min(2 * rest, CALM) if again else QUIET
        if len(self._taken) > MOST:
            del self._taken[next(iter(self._taken))]

    @property
    def _is_pending(self) -> bool:
        return self._is_everything or bool(self._noted)

    def _happened(self, now: float) -> None:
        if not self._is_pending:
            self._since = now
        self._last = now
