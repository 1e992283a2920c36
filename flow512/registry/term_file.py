"""
The latest term that a process knew, kept for its next run: the file C{term} in the state folder,
one line with a number.
"""

from __future__ import annotations

import os
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flow512.content.paths import escape
from flow512.discovery.claims import MAX_TERM
from flow512.errors import Flow512Error
from flow512.interfaces import RunBlocking
from flow512.link.secret_file import read_secret, replace_secret

TERM_FILE: Final = "term"


def read_term(state: str) -> int:
    """
    Find the term.

    @param state: the state folder.
    @return: 0 if there is no such file, or nothing in it that makes sense: then it is told by the
        first registry.
    """
    try:
        content = read_secret(os.path.join(state, TERM_FILE))
    except Flow512Error:
        return 0
    if content is None or not content.strip().isdigit() or len(content) > 32:
        return 0
    return min(int(content), MAX_TERM)


def write_term(state: str, term: int) -> None:
    """
    Keep a term. This blocks.

    @param state: the state folder.
    @raise flow512.errors.ResourceFailure: it cannot be written; the old one stays.
    """
    replace_secret(os.path.join(state, TERM_FILE), f"{term}\n".encode())


class TermKeeper:
    """
    Keeps the latest term, one write after the other.

    @ivar term: the latest one.
    """

    log = Logger()

    def __init__(self, state: str | None, run_blocking: RunBlocking | None) -> None:
        """
        Read what was kept. This blocks for a moment.

        @param state: the state folder; L{None} to keep nothing.
        @param run_blocking: runs what waits for the disk; L{None} to keep nothing.
        """
        self.term = 0 if state is None else read_term(state)
        self._state = state
        self._run_blocking = run_blocking
        self._written = self.term
        self._writing: Deferred[None] | None = None

    def remember(self, term: int) -> None:
        """
        Keep a term that is later.
        """
        self.term = max(term, self.term)
        self._write()

    def _write(self) -> None:
        state, run_blocking = self._state, self._run_blocking
        if state is None or run_blocking is None or self._writing is not None:
            return
        if self.term == self._written:
            return
        self._written = self.term
        self._writing = run_blocking(write_term, state, self.term)
        self._writing.addErrback(
            lambda failure: self.log.warn(
                "The term {term} could not be written down: {why}",
                term=self.term,
                why=escape(failure.getErrorMessage()),
            )
        )
        self._writing.addCallback(self._has_written)

    def _has_written(self, _: object) -> None:
        self._writing = None
        self._write()

    async def finish(self) -> None:
        """
        Wait until all is written.
        """
        while self._writing is not None:
            done: Deferred[None] = Deferred()
            self._writing.addCallback(done.callback)
            await done
