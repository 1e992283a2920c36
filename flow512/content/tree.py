"""
The tree: 512-ary digests that prove a file block by block.

Level 0 has the digests of the blocks, in order; every higher level has the digests of the pages
of the level below. A page is up to 512 digests of one level in a row: the unit in which the tree
travels. The level that fits in one page is the top, and the root is the digest of the top page
together with the file's size::

    root   = keyed(ROOT, size as 8 bytes, big-endian || digest of the top page)
    page   = keyed(PAGE, its digests one after the other)
    block  = keyed(BLOCK, its bytes)

C{keyed} is BLAKE3 in its keyed mode, so no digest of one sort can pass for one of another. That
a page stands on one level and not on another follows from the size, which the root binds. A file
without bytes has no blocks, and one page without digests. docs/tree.rst says the same for people
who write another client; C{tests/vectors/tree.json} holds both to it.

Source of BLAKE3: U{https://github.com/BLAKE3-team/BLAKE3-specs/blob/master/blake3.pdf}.
"""

from __future__ import annotations

import os
import re
import weakref
from base64 import b32decode, b32encode
from functools import cached_property
from tempfile import mkstemp
from typing import Final, TypeAlias

import msgspec
from blake3 import blake3

from flow512.content.pieces import piece_count
from flow512.errors import BadDigest, BadMessage, Misuse
from flow512.units import BLOCK, DIGEST, DIGESTS_PER_PAGE, MAX_FILE_SIZE, PAGE

Buffer: TypeAlias = bytes | bytearray | memoryview

HELD: Final = 1024 * 1024
"""Bytes of digests of one level that are held in memory while a file is hashed (8 GiB of it)."""

KEY_BLOCK: Final = b"flow512 tree: block".ljust(32, b"\0")
KEY_PAGE: Final = b"flow512 tree: page".ljust(32, b"\0")
KEY_ROOT: Final = b"flow512 tree: root".ljust(32, b"\0")

SCHEME: Final = "flow512:"
"""What a written content id begins with."""

_CONTENT_ID: Final = re.compile("[Ff][Ll][Oo][Ww]512:([A-Za-z2-7]{52})")


def block_digest(block: Buffer) -> bytes:
    """
    Digest a block.

    @param block: its bytes, at most L{BLOCK} of them.
    """
    return blake3(block, key=KEY_BLOCK).digest()


def page_digest(page: Buffer) -> bytes:
    """
    Digest a page.

    @param page: up to 512 digests, one after the other.
    """
    return blake3(page, key=KEY_PAGE).digest()


def root_digest(size: int, top_page: Buffer) -> bytes:
    """
    Make the root, which is a file's content id.

    @param size: the file's bytes, 0 to L{MAX_FILE_SIZE}.
    @param top_page: the only page of the top level.
    """
    return blake3(size.to_bytes(8, "big") + page_digest(top_page), key=KEY_ROOT).digest()


def format_content_id(root: bytes) -> str:
    """
    Write a root as people pass it on: C{flow512:} and 52 letters and digits.

    The encoding is base32 of RFC 4648, in lower case and without padding.

    @param root: 32 bytes.
    """
    return SCHEME + b32encode(root).decode("ascii").rstrip("=").lower()


def parse_content_id(text: str) -> bytes:
    """
    Read what L{format_content_id} wrote, in lower or upper case.

    @return: the root.
    @raise Misuse: it is anything else, which includes unused bits that are not zero: every root
        has one text only.
    """
    match = _CONTENT_ID.fullmatch(text)
    if match is not None:
        root = b32decode(match[1].upper() + "====")
        if format_content_id(root) == text.lower():
            return root
    raise Misuse(
        "That is no content id: one is `flow512:` and 52 letters and digits out of a-z and 2-7,"
        " as `flow512 id` prints it."
    )


class Shape(msgspec.Struct, frozen=True, dict=True):
    """
    What follows from a file's size alone.

    @ivar size: bytes, 0 to L{MAX_FILE_SIZE}.
    """

    size: int

    def __post_init__(self) -> None:
        """
        @raise Misuse: no file can have this size.
        """
        if not 0 <= self.size <= MAX_FILE_SIZE:
            raise Misuse(f"No file can have {self.size} bytes.")

    @cached_property
    def pieces(self) -> int:
        """How many pieces there are."""
        return piece_count(self.size)

    @cached_property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.size // BLOCK)

    @cached_property
    def _pages(self) -> tuple[int, ...]:
        counts = [max(1, -(-self.blocks // DIGESTS_PER_PAGE))]
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // DIGESTS_PER_PAGE))
        return tuple(counts)

    @property
    def levels(self) -> int:
        """How many levels there are, 1 to 5; the top one is C{levels - 1}."""
        return len(self._pages)

    def pages(self, level: int) -> int:
        """
        Say how many pages a level has.

        @raise Misuse: there is no such level.
        """
        if not 0 <= level < self.levels:
            raise Misuse(f"The tree of {self.size} bytes has no level {level}.")
        return self._pages[level]

    def digests(self, level: int) -> int:
        """
        Say how many digests a level has.

        @raise Misuse: there is no such level.
        """
        self.pages(level)
        return self._pages[level - 1] if level else self.blocks

    def page_length(self, level: int, index: int) -> int:
        """
        Say how many bytes a page has.

        @raise Misuse: there is no such page.
        """
        if not 0 <= index < self.pages(level):
            raise Misuse(f"The tree of {self.size} bytes has no page {index} on level {level}.")
        return min(PAGE, DIGEST * self.digests(level) - PAGE * index)

    def block_length(self, index: int) -> int:
        """
        Say how many bytes a block has.

        @raise Misuse: there is no such block.
        """
        if not 0 <= index < self.blocks:
            raise Misuse(f"A file of {self.size} bytes has no block {index}.")
        return min(BLOCK, self.size - BLOCK * index)


class _Level:
    """
    The digests of one level, one after the other. Beyond L{HELD} they are in a file without a
    name, so that memory does not grow with the file that is hashed.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._fd = -1
        self._in_file = 0

    def __len__(self) -> int:
        return self._in_file + len(self._held)

    def add(self, digests: Buffer) -> None:
        """
        Append digests.

        @raise OSError: there is no room for the file.
        """
        self._held += digests
        if len(self._held) < HELD:
            return
        if self._fd < 0:
            self._fd, name = mkstemp(prefix="flow512-")
            weakref.finalize(self, os.close, self._fd)
            os.unlink(name)
        offset, left = self._in_file, memoryview(self._held)
        while left:
            written = os.pwrite(self._fd, left, offset)
            offset, left = offset + written, left[written:]
        self._in_file = offset
        self._held = bytearray()

    def read(self, start: int, length: int) -> bytes:
        """
        Give some of it.

        @raise OSError: the file cannot be read.
        """
        data = b""
        if start < self._in_file:
            data = os.pread(self._fd, min(length, self._in_file - start), start)
        at = start + len(data) - self._in_file
        return data + bytes(self._held[at : at + length - len(data)])


class Tree(msgspec.Struct, frozen=True, eq=False):
    """
    All digests of a file.

    @ivar root: the content id.
    @ivar shape: what follows from the size.
    """

    root: bytes
    shape: Shape
    _levels: tuple[_Level, ...]

    def __eq__(self, other: object) -> bool:
        return self.root == other.root if isinstance(other, Tree) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.root)

    def page(self, level: int, index: int) -> bytes:
        """
        Give a page.

        @raise Misuse: there is no such page.
        """
        start = PAGE * index
        length = self.shape.page_length(level, index)
        return self._levels[level].read(start, length)


class TreeBuilder:
    """
    Makes a L{Tree} from the digests of a file's blocks, in order, each 32 bytes.
    """

    def __init__(self) -> None:
        self._blocks = _Level()

    def add(self, digest: bytes) -> None:
        """
        Add the next block.

        @param digest: what L{block_digest} says of it.
        """
        self._blocks.add(digest)

    def add_many(self, digests: bytes) -> None:
        """
        Add the next blocks.

        @param digests: of each, one after the other.
        """
        self._blocks.add(digests)

    def finish(self, size: int) -> Tree:
        """
        Make the tree; the builder stays as it is.

        @param size: the file's bytes.
        @raise Misuse: a file of that size has another number of blocks.
        @raise OSError: there is no room for a temporary file, or it cannot be read.
        """
        shape = Shape(size)
        if len(self._blocks) != DIGEST * shape.blocks:
            raise Misuse(
                f"A file of {size} bytes has {shape.blocks} blocks;"
                f" the digests of {len(self._blocks) / DIGEST:g} were added."
            )
        levels = [self._blocks]
        for _ in range(1, shape.levels):
            below, above = levels[-1], _Level()
            for start in range(0, len(below), PAGE):
                above.add(page_digest(below.read(start, min(PAGE, len(below) - start))))
            levels.append(above)
        top = levels[-1].read(0, len(levels[-1]))
        return Tree(root_digest(size, top), shape, tuple(levels))


class TreeVerifier:
    """
    Holds the pages of a file's tree that are proven, and judges pages and blocks by them.

    Ask L{wanted} for the page to fetch next, and give it to L{add_page}, until it wants none;
    then L{verify} the block. A page is kept only if it is proven by its parent, the top page by
    the root; so whatever is in here belongs to this root and this size.

    Everything is cheap enough for the reactor's thread: one dictionary look-up, or the digest of
    one page or one block.

    @ivar root: the content id.
    @ivar shape: what follows from the size.
    """

    def __init__(self, root: bytes, size: int) -> None:
        """
        @param root: 32 bytes.
        @param size: what somebody says that the file's size is; adding the top page proves it.
        @raise Misuse: no file can have this size.
        """
        self.root = root
        self.shape = Shape(size)
        self._pages: dict[tuple[int, int], bytes] = {}

    def wanted(self, block: int) -> tuple[int, int] | None:
        """
        Say which page is needed next to judge a block.

        @return: level and index of the topmost page that is missing on the way from the root to
            the block's digest; L{None} if the digest is here.
        @raise Misuse: the file has no such block.
        """
        self.shape.block_length(block)
        for level in range(self.shape.levels - 1, -1, -1):
            page = (level, block // DIGESTS_PER_PAGE ** (level + 1))
            if page not in self._pages:
                return page
        return None

    def add_page(self, level: int, index: int, data: Buffer) -> None:
        """
        Take a page that somebody sent. Unless it is proven, nothing changes.

        @raise BadMessage: it has not the length that the page has by the file's size.
        @raise BadDigest: it is not the page of this file.
        @raise Misuse: there is no such page, or its parent is not here to judge it by.
        """
        length = self.shape.page_length(level, index)
        if len(data) != length:
            raise BadMessage(
                f"Page {index} of level {level} has {length} bytes, and {len(data)} came."
            )
        if level == self.shape.levels - 1:
            proven = root_digest(self.shape.size, data) == self.root
        else:
            proven = page_digest(data) == self._digest(level + 1, index)
        if not proven:
            raise BadDigest(f"Page {index} of level {level} is not this content's.")
        self._pages[level, index] = bytes(data)

    def expects(self, block: int) -> bytes | None:
        """
        Give a block's digest.

        @return: L{None} if its page is not here; L{wanted} says what is missing.
        @raise Misuse: the file has no such block.
        """
        self.shape.block_length(block)
        index, slot = divmod(block, DIGESTS_PER_PAGE)
        page = self._pages.get((0, index))
        return None if page is None else page[DIGEST * slot : DIGEST * (slot + 1)]

    def verify(self, block: int, data: Buffer) -> None:
        """
        Judge a block.

        @param data: all of its bytes.
        @raise BadDigest: they are not this block's.
        @raise Misuse: the file has no such block, or its digest is not here.
        """
        expected = self.expects(block)
        if expected is None:
            raise Misuse(f"The digest of block {block} is not here yet.")
        if block_digest(data) != expected:
            raise BadDigest(f"Block {block} is not what its digest says.")

    def forget(self, level: int, index: int) -> None:
        """
        Give a page's memory back; L{wanted} names it again when it is needed again.

        @param level: with C{index}, a page that need not be here.
        """
        self._pages.pop((level, index), None)

    def _digest(self, level: int, slot: int) -> bytes:
        index, place = divmod(slot, DIGESTS_PER_PAGE)
        page = self._pages.get((level, index))
        if page is None:
            raise Misuse(f"Page {index} of level {level} has to come before those below it.")
        return page[DIGEST * place : DIGEST * (place + 1)]
