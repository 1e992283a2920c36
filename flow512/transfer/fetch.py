"""
Fetching one file: from what sources say of it to a published file under its own name.

The order matters: what can fail before the disk is touched fails first (the name; a root and a
size that do not belong together), then what can fail without a byte on its way (the target), and
nothing is published before everything has been verified.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from flow512.content.journal import read_boot_id
from flow512.content.outlet import Outlet
from flow512.content.partial import Partial
from flow512.content.paths import check_path, open_folder, open_folder_beneath
from flow512.content.provisional import take_over
from flow512.content.publish import check_target
from flow512.errors import (
    Flow512Error,
    ResourceFailure,
    UnsafeName,
)
from flow512.interfaces import RunBlocking, at_its_end
from flow512.transfer.blocks import BlockSource
from flow512.transfer.download import Checksum, Download, Order
from flow512.transfer.finding import Candidate
from flow512.transfer.md5_check import DamagedPartial
from flow512.transfer.proof import Claim, Proof
from flow512.units import BLOCK, LONGEST_RUN
from flow512.wire.messages import Entry

if TYPE_CHECKING:
    from flow512.transfer.offers import Offer, Offers

_T = TypeVar("_T")

WORTH_OFFERING: Final = 4 * BLOCK
"""Bytes that a content has to have more of for others to be offered it while it is fetched."""


class Target(msgspec.Struct, frozen=True):
    """
    Where a file is to go.

    @ivar folder: an existing folder.
    @ivar name: what to call it there; its own name if empty.
    @ivar replace: whether it may take the place of another file.
    @ivar beneath: the way down from the folder, which exists and on which no link is followed.
    """

    folder: str
    name: str = ""
    replace: bool = False
    beneath: tuple[str, ...] = ()

    def name_for(self, entry: Entry) -> str:
        """
        Say what a file is to be called.

        @raise UnsafeName: its own name must not touch this machine's disk.
        """
        return self.name or check_path(entry.path)[-1]


class Growing(Protocol):
    """
    A download of any sort, for whoever wants to see how far it is.
    """

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    @property
    def stored(self) -> int:
        """Bytes that are in place."""


class Fetched(msgspec.Struct, frozen=True):
    """
    What became of a fetch.

    @ivar entry: what the source said of the file.
    @ivar path: where it is now.
    @ivar resumed: bytes that an earlier download had left.
    @ivar fetched: bytes that came now.
    @ivar md5: of the file, as a source told it, too; L{None} if that was not wanted, or if nobody
        who is left can tell: those who are downloading it themselves do not know it yet.
    @ivar sent: who sent how many of those bytes that were right, the most first.
    """

    entry: Entry
    path: str
    resumed: int
    fetched: int
    md5: bytes | None
    sent: tuple[tuple[Candidate, int], ...] = ()


class Fetcher(msgspec.Struct, frozen=True):
    """
    Fetches files from open sources.

    @ivar clock: for deadlines.
    @ivar run_blocking: runs what waits for the disk.
    @ivar run_long: runs what hashes whole files.
    @ivar random: chooses among blocks that are equally rare.
    @ivar run: pieces that a frame may carry, 1 to L{LONGEST_RUN}.
    @ivar checksum: whether the MD5 is compared at the end.
    @ivar offers: where others find what is fetched into files; L{None} to pass nothing on.
    """

    clock: IReactorTime
    run_blocking: RunBlocking
    run_long: RunBlocking
    random: Random
    run: int = LONGEST_RUN
    checksum: Checksum = Checksum.MD5
    offers: Offers | None = None

    async def fetch(
        self,
        sources: Sequence[Claim],
        target: Target,
        progress: Callable[[Download], None] = lambda _: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Fetched:
        """
        Fetch one file and publish it.

        @param sources: open ones, with what each says of the file; all say that it has the same
            root. Whoever opened them leaves them afterwards.
        @param target: where the file is to go.
        @param progress: called with the download, first when it begins and then as it grows. More
            sources may be added to it; those with only parts have to be, with what they have.
        @param blame: told who sent something wrong, and what, as soon as it has shown.
        @param passed_over: told who is of no use, and why, without having sent anything wrong.
        @raise Flow512Error: as L{Download.start}, and L{flow512.errors.TargetExists},
            L{flow512.errors.UnsafeName}, L{flow512.errors.StateInUse}. What was verified until
            then stays in the partial file, and the next fetch goes on from there.
        """
        sources = _nameable(sources, target, blame)
        proof = Proof(sources, self.clock, blame, passed_over)
        proven = await proof.settle()
        entry = proven[0].entry
        name = target.name_for(entry)
        work = _Work(self, entry, target, name, proof, progress, blame, passed_over)
        senders = [(each.candidate, each.source) for each in _whole(proven)]
        try:
            return await work.fetch_from(senders)
        except DamagedPartial:
            # Nothing of it is trusted now: what is right is found by its digests, and kept.
            return await work.fetch_from(work.senders_left())

    async def stream(
        self,
        sources: Sequence[Claim],
        open_outlet: Callable[[Entry], Outlet],
        progress: Callable[[Download], None] = lambda _: None,
        blame: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
        passed_over: Callable[[Candidate, Flow512Error], None] = lambda who, reason: None,
    ) -> Outlet:
        """
        Write one file on as it comes, verified and in order.

        @param sources: as for L{fetch}.
        @param open_outlet: says where it goes, once its size is proven.
        @param progress: as for L{fetch}.
        @param blame: as for L{fetch}.
        @param passed_over: as for L{fetch}.
        @return: where it went, to its end.
        @raise Flow512Error: as L{Download.start}, C{open_outlet} and L{Outlet.write}.
        """
        proof = Proof(sources, self.clock, blame, passed_over)
        proven = await proof.settle()
        outlet = open_outlet(proven[0].entry)
        download = Download(
            outlet,
            self.clock,
            self.run_blocking,
            self.run_long,
            self.random,
            verifier=proof.verifier,
            checksum=Checksum.NONE,
            order=Order.FIRST_FIRST,
            progress=progress,
            blame=blame,
            passed_over=passed_over,
        )
        for each in _whole(proven):
            download.add(each.candidate, each.source)
        try:
            progress(download)
            await download.start()
        finally:
            outlet.stop()
            await at_its_end(download.idle())
        return outlet


class _Work:
    """
    What is done once it is proven what the file is.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        entry: Entry,
        target: Target,
        name: str,
        proof: Proof,
        progress: Callable[[Download], None],
        blame: Callable[[Candidate, Flow512Error], None],
        passed_over: Callable[[Candidate, Flow512Error], None],
    ) -> None:
        self._fetcher = fetcher
        self._entry = entry
        self._target = target
        self._name = name
        self._proof = proof
        self._progress = progress
        self._blame = blame
        self._passed_over = passed_over
        self._download: Download | None = None
        self._fetched = 0
        self._sent: Counter[Candidate] = Counter()

    def senders_left(self) -> list[tuple[Candidate, BlockSource]]:
        """
        Give the sources that the download had last, but for those that were left out, and for those
        that had only parts.
        """
        assert self._download is not None
        return [
            (each.who, each.source)
            for each in self._download.senders.values()
            if not each.lost and not each.is_partial
        ]

    async def fetch_from(self, senders: Sequence[tuple[Candidate, BlockSource]]) -> Fetched:
        """
        Download, and publish.
        """
        fetcher, entry, target = self._fetcher, self._entry, self._target
        run_blocking = fetcher.run_blocking
        opened, is_unwanted = await at_its_end(
            run_blocking(_open, target, self._name, entry, fetcher.offers)
        )
        offer = opened.offer
        download = self._download = Download(
            opened.partial,
            fetcher.clock,
            run_blocking,
            fetcher.run_long,
            fetcher.random,
            verifier=self._proof.verifier,
            run=fetcher.run,
            checksum=fetcher.checksum,
            progress=self._progress,
            blame=self._blame,
            passed_over=self._passed_over,
            onlooker=offer,
        )
        if offer is not None:
            offer.begin()
            offer.page_proven(self._proof.verifier.shape.levels - 1, 0, self._proof.page)
        for who, source in senders:
            download.add(who, source)
        is_offered_on = False
        try:
            if is_unwanted:
                raise CancelledError
            self._progress(download)
            try:
                await download.start()
            except DamagedPartial:
                # Every block was in its place when that showed, so no worker is at the file.
                if offer is not None:
                    offer.withdraw()
                await at_its_end(run_blocking(opened.partial.distrust))
                raise
            if offer is not None:
                offer.md5 = download.md5
            is_offered_on, _ = await at_its_end(
                run_blocking(opened.publish, target.replace, entry.mtime)
            )
        finally:
            if offer is not None:
                (offer.linger if is_offered_on else offer.withdraw)()
            await at_its_end(download.idle())
            await at_its_end(run_blocking(opened.close))
            self._fetched += download.fetched
            for each in download.senders.values():
                self._sent[each.who] += each.verified
        path = os.path.join(target.folder, *target.beneath, self._name)
        resumed = max(0, entry.size - sum(self._sent.values()))
        md5 = download.md5 if download.is_md5_compared else None
        sent = tuple(each for each in self._sent.most_common() if each[1])
        return Fetched(entry, path, resumed, self._fetched, md5, sent)


def _nameable(
    claims: Sequence[Claim], target: Target, blame: Callable[[Candidate, Flow512Error], None]
) -> list[Claim]:
    """Leave out those who say that it has a name which must not touch the disk."""
    left: list[Claim] = []
    refused: list[tuple[Claim, UnsafeName]] = []
    for each in claims:
        try:
            target.name_for(each.entry)
        except UnsafeName as error:
            refused.append((each, error))
        else:
            left.append(each)
    if not left:
        raise refused[0][1]
    for each, reason in refused:
        blame(each.candidate, reason)
        each.source.leave()
    return left


def _whole(claims: Sequence[Claim]) -> list[Claim]:
    return [each for each in claims if not each.entry.is_partial]


class _Opened(msgspec.Struct, frozen=True):
    """A partial file, the folder that it is in, and how others find it meanwhile."""

    folder: int
    partial: Partial
    offer: Offer | None

    def publish(self, replace: bool, mtime: int) -> bool:
        """
        @return: whether it may be offered on.
        """
        self.partial.publish(replace=replace, mtime_ns=mtime)
        if self.offer is None:
            return False
        try:
            self.offer.published()
        except ResourceFailure:
            return False
        return True

    def close(self) -> None:
        self.partial.close()
        os.close(self.folder)


def open_target(target: Target) -> int:
    """
    Open the folder that a file is to go to.

    @return: a descriptor, for the caller to close.
    @raise Flow512Error: it is not there, or cannot be opened.
    """
    top = open_folder(target.folder)
    try:
        return open_folder_beneath(top, target.beneath)
    finally:
        os.close(top)


def _open(target: Target, name: str, entry: Entry, offers: Offers | None) -> _Opened:
    assert entry.root is not None
    folder = open_target(target)
    with ExitStack() as undo:
        undo.callback(os.close, folder)
        check_target(folder, name, entry.root, replace=target.replace)
        take_over(folder, name, entry, read_boot_id())
        partial = Partial.open(folder, name, entry.root, entry.size, read_boot_id())
        undo.callback(partial.close)
        offer = None
        if offers is not None and entry.size > WORTH_OFFERING and not entry.is_restricted:
            # That others cannot have it is no reason not to have it oneself.
            with suppress(UnsafeName, ResourceFailure):
                offer = offers.prepare(partial, entry)
        undo.pop_all()
    return _Opened(folder, partial, offer)
