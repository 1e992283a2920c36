"""
A file that is sent before anybody knows its root: it is hashed as it is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from flow512.content.catalog import Stamp
from flow512.content.opened import check_unchanged, disk_of, fill
from flow512.content.tree import Shape, Tree, TreeBuilder, block_digest
from flow512.errors import Misuse, from_os_error
from flow512.units import BLOCK
from flow512.wire.messages import Entry


class UnhashedContent:
    """
    A file that is read once, in order. One thread at a time may use it.

    @ivar size: its bytes.
    @ivar mtime: its last change, nanoseconds since 1970 (UTC).
    @ivar first: the block that it is read from.
    @ivar disk: the number of the disk that it is on.
    """

    def __init__(
        self,
        fd: int,
        stamp: Stamp,
        what: str,
        first: int,
        check_access: Callable[[], None],
        record: Callable[[Tree], Entry],
    ) -> None:
        """
        @param fd: the file, open for reading; it belongs to this object from now on, unless this
            raises.
        @param stamp: the file's, when it was opened.
        @param what: what to call it in sentences.
        @param first: the block to begin with; the number of blocks for none.
        @param check_access: raises L{NotFound<flow512.errors.NotFound>} once it is not for whom
            it was opened any more.
        @param record: keeps the tree, and says what is known of the file with it.
        @raise Misuse: it has not so many blocks.
        """
        blocks = Shape(stamp.size).blocks
        if first > blocks:
            raise Misuse(f"{what} has {blocks} blocks, and none from {first} on.")
        self.size = stamp.size
        self.mtime = stamp.mtime
        self.first = first
        self._fd = fd
        self.disk = disk_of(fd)
        self._stamp = stamp
        self._what = what
        self._check_access = check_access
        self._record = record
        self._next = first
        self._builder = None if first else TreeBuilder()

    def read(self, rooms: Sequence[bytearray]) -> list[bytes]:
        """
        Read the next blocks to where they are wanted, and hash them.

        @param rooms: each is filled, and as long as its block is; at most 16.
        @return: the digest of each.
        @raise NotFound: it is not for whom it was opened any more.
        @raise ContentChanged: the file is no longer what it was when it was opened.
        @raise ResourceFailure: it could not be read, or there is no room for its digests.
        """
        self._check_access()
        fill(self._fd, self._next * BLOCK, rooms, self._what)
        # Once the bytes are here: what was written before has left its mark on the stamp.
        check_unchanged(self._fd, self._stamp, self._what)
        digests = [block_digest(room) for room in rooms]
        self._next += len(rooms)
        if self._builder is not None:
            try:
                self._builder.add_many(b"".join(digests))
            except OSError as error:
                raise from_os_error(error, f"hashing {self._what}") from error
        return digests

    def finish(self) -> Entry | None:
        """
        Make the tree of what was read, and have it kept.

        @return: what is known of the file, with its root; L{None} if not all of it was read here,
            so that L{Library.stat<flow512.content.library.Library.stat>} has to tell.
        @raise Flow512Error: as L{read}; or the tree cannot be kept.
        """
        self._check_access()
        if self._builder is None:
            return None
        try:
            tree = self._builder.finish(self.size)
        except OSError as error:
            raise from_os_error(error, f"hashing {self._what}") from error
        check_unchanged(self._fd, self._stamp, self._what)
        return self._record(tree)

    def close(self) -> None:
        """
        Give the descriptor back; a second time does nothing.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
