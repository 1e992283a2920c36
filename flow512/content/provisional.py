"""
A file that is taken before anybody knows its root.

It is a partial file as any other (L{flow512.content.partial}), under an id made up from what was
told of it. Its blocks come in order from the first to the last, and the tree is made from them.
Nothing of it is proven before that has the root that the source tells at the end.

When the root is known in the meantime, the file goes on under that as any other does, and each of
its blocks is proven then: L{take_over}.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from blake3 import blake3

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.journal import HEADER, MAGIC
from flow512.content.partial import Partial
from flow512.content.paths import OWN_PREFIX, SHOWN, escape
from flow512.content.publish import OwnNames
from flow512.content.tree import Shape, TreeBuilder, block_digest
from flow512.errors import BadDigest, StateInUse, from_os_error
from flow512.units import BLOCK
from flow512.wire.messages import Entry

KEY: Final = b"flow512 provisional id".ljust(32, b"\0")

_TO_LOOK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

LOOK_AT_ONCE: Final = 128
"""Blocks of an earlier download that one visit to the disk reads again (32 MiB)."""


def provisional_id(entry: Entry) -> bytes:
    """
    Make the id of a file that has no root yet: the keyed BLAKE3 of its size and mtime, 8 bytes
    each, big-endian, and its path.
    """
    numbers = entry.size.to_bytes(8, "big") + entry.mtime.to_bytes(8, "big", signed=True)
    return blake3(numbers + entry.path.encode(), key=KEY).digest()


def take_over(folder_fd: int, name: str, entry: Entry, boot_id: str, disk: Disk = DISK) -> None:
    """
    Let the download of a content id begin with what came of the file before its root was known,
    if there is any. Nothing happens if another process is at it.

    @param folder_fd: a descriptor of the folder that the file is to be in.
    @param name: what it is to be called.
    @param entry: what is told of it; has a root.
    @param boot_id: as for L{Partial.open}.
    @raise Flow512Error: as L{Partial.open} and L{Partial.hand_over}.
    """
    assert entry.root is not None
    before = provisional_id(entry)
    with blaming(f"looking for '{escape(name, SHOWN)}'"):
        if disk.stat_in(folder_fd, OwnNames.of(before, name).part) is None:
            return
    with suppress(StateInUse):
        partial = Partial.open(folder_fd, name, before, entry.size, boot_id, disk=disk)
        try:
            partial.hand_over(entry.root)
        finally:
            partial.close()


def is_begun(folder_fd: int, name: str, entry: Entry, disk: Disk = DISK) -> bool:
    """
    Say whether an earlier download, which knew the root, has left something of a file: it is worth
    waiting for the root then.

    @param folder_fd: a descriptor of the folder that the file is to be in.
    @param name: what it is to be called.
    @param entry: what is told of it.
    @raise flow512.errors.ResourceFailure: the folder cannot be read.
    """
    with blaming(f"looking for '{escape(name, SHOWN)}'"):
        journals = [each for each in disk.listdir(folder_fd) if each.startswith(OWN_PREFIX)]
        for journal in journals:
            root = _root_in(folder_fd, journal, entry.size, disk)
            if root is None or root == provisional_id(entry):
                continue
            own = OwnNames.of(root, name)
            if own.journal == journal and disk.stat_in(folder_fd, own.part) is not None:
                return True
    return False


def _root_in(folder_fd: int, journal: str, size: int, disk: Disk) -> bytes | None:
    try:
        fd = disk.open(journal, _TO_LOOK, dir_fd=folder_fd)
    except OSError:
        return None  # a link, or gone
    try:
        header = disk.pread(fd, HEADER.size, 0)
    except OSError:
        return None  # a folder, say
    finally:
        disk.close(fd)
    if len(header) < HEADER.size:
        return None
    magic, root, told = HEADER.unpack(header)
    return root if (magic, told) == (MAGIC, size) else None


class Provisional:
    """
    A file that is being taken. Its methods block, and one thread at a time may use it; L{size},
    L{blocks}, L{next} and L{stored} never block.

    @ivar size: its bytes, as the source tells.
    @ivar blocks: its number of blocks.
    @ivar next: the first block that is not counted in its tree.
    """

    def __init__(
        self, folder_fd: int, name: str, entry: Entry, boot_id: str, disk: Disk = DISK
    ) -> None:
        """
        Begin, or go on with what an earlier process left: call L{look} until it is over then.

        @param folder_fd: as for L{Partial.open}, as are the others.
        @param name: what the file is to be called.
        @param entry: what the source tells of it.
        @raise Flow512Error: as L{Partial.open}.
        """
        root = provisional_id(entry)
        self._partial = Partial.open(folder_fd, name, root, entry.size, boot_id, disk=disk)
        if [first for first, _ in self._partial.have.runs()] not in ([], [0]):
            # Not by us: only what is in order can be counted.
            self._partial.discard()
            self._partial = Partial.open(folder_fd, name, root, entry.size, boot_id, disk=disk)
        self.size = entry.size
        self.blocks = self._partial.blocks
        self.next = 0
        self._shape = Shape(self.size)
        self._builder = TreeBuilder()

    @property
    def stored(self) -> int:
        """How many bytes are in place."""
        return self._partial.stored

    def look(self) -> bool:
        """
        Read some of what was in place when this was opened, and count it in the tree.

        @return: whether there is more to be read.
        @raise Flow512Error: it cannot be read.
        """
        there = len(self._partial.have)
        stop = min(there, self.next + LOOK_AT_ONCE)
        digests = [
            block_digest(self._partial.read(BLOCK * block, self._shape.block_length(block)))
            for block in range(self.next, stop)
        ]
        self._count(digests)
        return stop < there

    def store(self, arrived: Sequence[tuple[bytes | bytearray, bytes]]) -> None:
        """
        Put the next blocks in their places, and record it.

        @param arrived: each block, and the digest that it has to have.
        @raise BadDigest: one is not what its digest says; those before it are in place.
        @raise Flow512Error: they cannot be written.
        """
        digests = [block_digest(data) for data, _ in arrived]
        wrong = next((at for at, each in enumerate(arrived) if each[1] != digests[at]), None)
        right = arrived[:wrong]
        self._partial.write(self.next, *(data for data, _ in right))
        self._partial.flush()
        self._count(digests[:wrong])
        if wrong is not None:
            raise BadDigest(f"Block {self.next} is not what its digest says.")

    def _count(self, digests: Sequence[bytes]) -> None:
        try:
            self._builder.add_many(b"".join(digests))
        except OSError as error:
            raise from_os_error(error, "keeping digests") from error
        self.next += len(digests)

    def root(self) -> bytes:
        """
        Give the root of the file, all of which is in place.

        @raise Flow512Error: it cannot be made.
        """
        try:
            return self._builder.finish(self.size).root
        except OSError as error:
            raise from_os_error(error, "keeping digests") from error

    def publish(self, *, replace: bool, mtime_ns: int) -> None:
        """
        Give the file its name; see L{Partial.publish}.
        """
        self._partial.publish(replace=replace, mtime_ns=mtime_ns)

    def discard(self) -> None:
        """
        Throw it away; see L{Partial.discard}.
        """
        self._partial.discard()

    def close(self) -> None:
        """
        Leave it for later; see L{Partial.close}.
        """
        self._partial.close()
