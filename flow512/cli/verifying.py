"""
C{flow512 verify}: what is wrong with local files, without putting it right.

What a file should be is said by its content id: the one that the user gives, or the one in the
catalog, if the file is in a share and has not been written to since. Where it is damaged is said
by the digests of its blocks, which the catalog has as well, or a peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from flow512.cli.outcome import DAMAGED, DONE, status_of
from flow512.cli.remembered import catalog_in, find_known
from flow512.cli.voice import Voice
from flow512.content.catalog import Catalog
from flow512.content.journal import BlockSet
from flow512.content.paths import escape
from flow512.content.suspect import Damage, SuspectFile, damage_of
from flow512.content.tree import SCHEME, TreeVerifier, format_content_id
from flow512.errors import (
    BadDigest,
    BadMessage,
    Flow512Error,
    Misuse,
    NotFound,
)
from flow512.link.content_link import LinkedPeer, is_content_link, parse_content_link
from flow512.units import BLOCK, DIGESTS_PER_PAGE

if TYPE_CHECKING:
    from flow512.transfer.finding import Candidate  # which takes a while to load

MOST_SHOWN: Final = 8
"""Damaged ranges of a file that a person is told; a program is told all."""


class Expected(msgspec.Struct, frozen=True):
    """
    A file, and what it should be.

    @ivar root: its content id; L{None} if the user did not say.
    @ivar peers: who has it, according to the user.
    """

    file: str
    root: bytes | None = None
    peers: tuple[LinkedPeer, ...] = ()


def expected_of(words: Sequence[str]) -> list[Expected]:
    """
    Read C{FILE [flow512:ID] [FILE [flow512:ID]]...}; a link does for an id.

    @raise Misuse: an id has no file, or is none.
    """
    found: list[Expected] = []
    for word in words:
        if not is_content_link(word):
            found.append(Expected(word))
        elif found and found[-1].root is None:
            link = parse_content_link(word)
            found[-1] = Expected(found[-1].file, link.root, link.peers)
        else:
            raise Misuse(
                "A content id stands behind the file that should have it; a file of such a name"
                f" is written ./{SCHEME}..."
            )
    return found


def damage_text(damage: Damage) -> str:
    """
    Say what is wrong with a file, as the end of a sentence.
    """
    if damage.is_none:
        return "intact"
    told = []
    if damage.runs:
        ranges = [f"{first}-{last}" for first, last in damage.ranges]
        more = len(ranges) - MOST_SHOWN
        shown = ", ".join(ranges[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
        of = -(-damage.size // BLOCK)
        told.append(f"damaged in {damage.blocks} of {of} blocks (bytes {shown})")
    if damage.size_here != damage.size:
        by = damage.size_here - damage.size
        count = "1 byte" if abs(by) == 1 else f"{abs(by)} bytes"
        told.append(f"{count} too {'long' if by > 0 else 'short'}")
    return ", ".join(told)


class Verdicts:
    """
    Says of each file what it is.

    @ivar status: the exit status: L{DAMAGED} if any file is, else that of the last failure.
    """

    status = DONE

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    def judge(self, file: str, root: bytes, damage: Damage) -> None:
        """Its blocks were looked at."""
        self._voice.say(f"{escape(file)}: {damage_text(damage)}")
        self._tell(file, root, damage.is_none, damage)

    def compare(self, file: str, root: bytes, found: bytes, size: int) -> None:
        """All that is known is whether it has the content id that it should have."""
        is_intact = root == found
        self._voice.say(
            f"{escape(file)}: intact"
            if is_intact
            else f"{escape(file)}: damaged, or another file; --from PEER tells where"
        )
        damage = Damage(size, size, ()) if is_intact else None
        self._tell(file, root, is_intact, damage)

    def _tell(self, file: str, root: bytes, is_intact: bool, damage: Damage | None) -> None:
        if not is_intact:
            self.status = DAMAGED
        self._voice.tell(
            "verified",
            path=file,
            root=format_content_id(root),
            intact=is_intact,
            bytes=None if damage is None else damage.size,
            bytes_here=None if damage is None else damage.size_here,
            blocks=None if damage is None else damage.blocks,
            ranges=None if damage is None else [f"{low}-{high}" for low, high in damage.ranges],
        )

    def blame(self, who: Candidate, reason: Flow512Error) -> None:
        """Somebody sent something wrong, and is not asked any more."""
        why = escape(str(reason))
        self._voice.tell("dropped", peer=who.name, address=str(who.address), reason=why)
        self._voice.warn(f"{who} was dropped: {why}")

    def fail(self, error: Flow512Error) -> None:
        """Nothing can be said of it."""
        self._voice.fail(error)
        if self.status != DAMAGED:
            self.status = status_of(error)


def verify(files: Sequence[Expected], state: str, verdicts: Verdicts) -> int:
    """
    Look at files, by what this machine knows; go on with the next after one that fails.

    @param state: the state folder, in which a catalog may be.
    @return: the exit status.
    """
    with catalog_in(state) as catalog:
        for each in files:
            suspect = SuspectFile(each.file)
            try:
                suspect.open()
                root = each.root or _known_root(suspect, catalog)
                damage = _look(suspect, root, catalog)
                if damage is None:
                    verdicts.compare(each.file, root, suspect.root(), suspect.size)
                else:
                    verdicts.judge(each.file, root, damage)
            except Flow512Error as error:
                verdicts.fail(error)
            finally:
                suspect.close()
    return verdicts.status


def _known_root(suspect: SuspectFile, catalog: Catalog | None) -> bytes:
    known = None if catalog is None else find_known(catalog, suspect.path)
    shown = escape(suspect.path)
    if known is None or known.root is None:
        raise NotFound(
            f"Nobody knows what '{shown}' should be; give its {SCHEME}ID behind it, or name a peer"
            " that has it with --from."
        )
    if known.stamp != suspect.stamp:
        raise NotFound(
            f"'{shown}' was written to since its content id was made; say which one it should have."
        )
    return known.root


def _look(suspect: SuspectFile, root: bytes, catalog: Catalog | None) -> Damage | None:
    """Look at its blocks, if the catalog has their digests."""
    content = None if catalog is None else catalog.content(root)
    if catalog is None or content is None:
        return None
    verifier = TreeVerifier(root, content.size)
    damaged = BlockSet()
    try:
        if not verifier.shape.blocks:
            verifier.add_page(0, 0, b"")
        for first in range(0, verifier.shape.blocks, DIGESTS_PER_PAGE):
            while (page := verifier.wanted(first)) is not None:
                verifier.add_page(*page, catalog.page(root, *page) or b"")
            end = min(first + DIGESTS_PER_PAGE, verifier.shape.blocks)
            digests = [verifier.expects(block) or b"" for block in range(first, end)]
            for block in suspect.damaged(verifier.shape, first, digests):
                damaged.add(block)
            verifier.forget(0, first // DIGESTS_PER_PAGE)
    except (BadDigest, BadMessage):
        return None  # the catalog is damaged; whoever serves with it takes note
    return damage_of(content.size, suspect.size, damaged)
