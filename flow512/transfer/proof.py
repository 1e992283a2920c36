"""
Who of several sources tells the truth of a content's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from flow512.content.tree import TreeVerifier
from flow512.errors import BadDigest, Busy, Flow512Error, NotFound, Unsupported, Violation
from flow512.transfer.blocks import BlockSource
from flow512.transfer.finding import Candidate
from flow512.transfer.senders import telling_most
from flow512.transfer.source import fell_silent
from flow512.wire.messages import Entry


class Claim(Protocol):
    """
    A source, and what it says of a file; L{Found<flow512.transfer.finding.Found>} is one.
    """

    @property
    def candidate(self) -> Candidate:
        """Whose source it is."""

    @property
    def source(self) -> BlockSource:
        """It, open."""

    @property
    def entry(self) -> Entry:
        """What it says; it has a root."""


class Proof:
    """
    What settles it: the first page of digests, which
    proves it, is asked of all of them, and the first that is right is it.

    A lie about the size must not cost what an earlier download has left.

    @ivar verifier: once it is settled, knows that page.
    @ivar page: it; empty if the content is.
    """

    verifier: TreeVerifier
    page: bytes

    def __init__(
        self,
        sources: Sequence[Claim],
        clock: IReactorTime,
        blame: Callable[[Candidate, Flow512Error], None],
        passed_over: Callable[[Candidate, Flow512Error], None],
    ) -> None:
        """
        @param sources: all say that they have the same root. Who lies is left.
        @param clock: for the silence of sources.
        @param blame: told who lies.
        @param passed_over: told who is of no use, and why, without having lied.
        """
        self._sources = sources
        self._clock = clock
        self._blame = blame
        self._passed_over = passed_over
        self._left: list[Claim] = list(sources)
        self._blamed: list[Claim] = []
        self._reasons: list[Flow512Error] = []

    async def settle(self) -> list[Claim]:
        """
        Ask them.

        @return: the sources that are left, one that has proven its word first.
        @raise Flow512Error: no source has.
        """
        settled: Deferred[tuple[Claim, TreeVerifier, bytes]] = Deferred()
        asked = [self._ask(each, settled) for each in self._sources]
        left = len(asked)

        def answered(_: None) -> None:
            nonlocal left
            left -= 1
            if not left and not settled.called:
                settled.errback(telling_most(self._reasons))

        for deferred in asked:
            deferred.addCallback(answered).addErrback(
                lambda failure: None if settled.called else settled.errback(failure)
            )
        try:
            first, self.verifier, self.page = await settled
        finally:
            for deferred in asked:
                deferred.cancel()
        for each in self._sources:
            if each.entry.size != first.entry.size:
                self._leave_out(each, BadDigest("The source told a wrong size of the content."))
        rest = [each for each in self._left if each is not first]
        return [first, *rest]

    def _ask(
        self, found: Claim, settled: Deferred[tuple[Claim, TreeVerifier, bytes]]
    ) -> Deferred[None]:
        root, size = found.entry.root, found.entry.size
        assert root is not None
        verifier = TreeVerifier(root, size)
        top = verifier.shape.levels - 1
        asked: Deferred[bytes] = (
            maybeDeferred(found.source.page, root, top, 0) if size else succeed(b"")
        )
        asked.addTimeout(found.source.patience.silence * 2, self._clock, fell_silent)

        def came(page: bytes) -> None:
            verifier.add_page(top, 0, page)
            if not settled.called:
                settled.callback((found, verifier, page))

        def failed(failure: Failure) -> None:
            failure.trap(Flow512Error, CancelledError)  # type: ignore[no-untyped-call]  # Twisted has no types there
            error = failure.value
            if isinstance(error, Flow512Error):
                self._reasons.append(error)
                # Who cannot give pages may have the blocks.
                if not isinstance(error, NotFound | Unsupported | Busy):
                    self._leave_out(found, error)

        return asked.addCallback(came).addErrback(failed)

    def _leave_out(self, found: Claim, error: Flow512Error) -> None:
        self._left = [each for each in self._left if each is not found]
        if not isinstance(error, Violation):
            self._passed_over(found.candidate, error)
        elif all(each is not found for each in self._blamed):
            self._blamed.append(found)
            self._blame(found.candidate, error)
        found.source.leave()
