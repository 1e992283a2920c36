"""
A download on its way: a hidden file beside its target, and the journal of its verified blocks.

What holds, whenever the process is killed or the power fails:

  1. Whoever holds the lock on the partial file, and nobody else, changes it, its journal and
     its placeholder.
  2. A partial file has one name. One that has two was published by a process that died before
     it could remove the hidden name: nobody writes to it again.
  3. It has its full length, as a hole, from the beginning, and gets it only after an older
     journal was emptied for good. So a journal never speaks for a file that came after it.
  4. A block is in L{Partial.have} only if its verified data is in place; the journal tells of no
     other (see L{flow512.content.journal}).
  5. A journal that was not touched for long when something was written to the file vouches for
     nothing: that was another program. What is still right is found by its digests.
  6. Once the disk has failed to sync, nothing that was written before counts: the kernel may
     have dropped it, and does not say so twice. The journal is emptied, nothing is published.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import groupby
from typing import Final

from flow512.content.disk import DISK, Disk, blaming
from flow512.content.journal import BlockSet, Journal
from flow512.content.paths import SHOWN, check_new_name, escape
from flow512.content.publish import OwnNames, current_umask, is_placeholder, place
from flow512.errors import DiskFailure, Misuse, ResourceFailure, StateInUse, UnsafeName
from flow512.units import BLOCK, MAX_FILE_SIZE

_ZEROS: Final = bytes(BLOCK)
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
WRITE_BEHIND: Final = 2**24
"""
Bytes that are written before the system is told to put them on the disk. Without that it keeps
gigabytes back, for all of which the end of the download would have to wait.
"""

TOUCHED: Final = 10.0
"""
Seconds by which the file may have been written to later than its journal: what is written last is
not recorded yet when a process is killed.
"""

_TRIES: Final = 10
"""How often others may publish or remove a partial file just as we open it."""


class Partial:
    """
    A file that is being downloaded; L{Partial.open} makes one.

    Its methods block, so they run on worker threads, of which several may use it at once; only
    what ends it (L{publish}, L{close}, L{discard}) has to wait until the others are done. What
    is in L{have}, L{stored} and L{missing_runs} never block.

    @ivar root: the content id that the file will have.
    @ivar size: its size in bytes.
    @ivar blocks: its number of blocks.
    @ivar have: the blocks that are verified and in place.
    @ivar unproven: runs of blocks that held data when this was opened, but no journal vouches
        for them (it was lost, or is from before a power cut): worth a look at their digests
        before they are fetched again.
    @ivar horizon: as for L{flow512.content.outlet.Outlet}: blocks may come in any order.
    """

    horizon: None = None

    def __init__(
        self,
        folder_fd: int,
        name: str,
        root: bytes,
        size: int,
        boot_id: str,
        *,
        fd: int,
        journal_fd: int,
        disk: Disk,
    ) -> None:
        """
        For L{Partial.open}, which says what the arguments are.

        @param fd: the partial file, locked.
        @param journal_fd: its journal.
        @raise OSError: the disk does not play along.
        """
        self.root = root
        self.size = size
        self.blocks = -(-size // BLOCK)
        self._name = name
        self._shown = escape(name, SHOWN)
        self._own = OwnNames.of(root, name)
        self._folder_fd = folder_fd
        self._fd = fd
        self._journal_fd = journal_fd
        self._disk = disk
        self._journal = Journal(journal_fd, root, size, boot_id, disk)
        # Guards what follows, the journal, and changes of have. No run may slip into the journal
        # between a sync and its seal, so a seal holds it all the while.
        self._lock = threading.RLock()
        self._unrecorded = BlockSet()
        self._doubted = False  # whether a sync has failed
        self._held_back = 0  # bytes written since the system was told to put them on the disk
        part, journal = disk.fstat(fd), disk.fstat(journal_fd)
        if part.st_size == size:
            self._remove_placeholder()
            if part.st_mtime > journal.st_mtime + TOUCHED:
                self._journal.reset()
        else:
            self._journal.reset()
            disk.ftruncate(fd, 0)
            disk.ftruncate(fd, size)
        self.have = self._journal.trusted
        self.unproven = tuple(self._find_unproven())

    @classmethod
    def open(
        cls,
        folder_fd: int,
        name: str,
        root: bytes,
        size: int,
        boot_id: str,
        *,
        disk: Disk = DISK,
        check_name: Callable[[str], None] = check_new_name,
    ) -> Partial:
        """
        Begin a download, or go on with what an earlier process left.

        @param folder_fd: a descriptor of the folder for the file; it stays the caller's, and has
            to stay open as long as the partial file is.
        @param name: what the file is to be called.
        @param root: the content id that it is to have.
        @param size: in bytes.
        @param boot_id: as L{flow512.content.journal.read_boot_id} gives it.
        @param check_name: as for L{flow512.content.publish.check_target}.
        @raise UnsafeName: no file may have that name, or something else than a file of ours has
            the name of a hidden one.
        @raise StateInUse: it is being downloaded already, by this process or another.
        @raise Misuse: no file can have that size.
        @raise flow512.errors.ResourceFailure: the disk does not play along.
        """
        check_name(name)
        if not 0 <= size <= MAX_FILE_SIZE:
            raise Misuse(f"No file can have {size} bytes.")
        own = OwnNames.of(root, name)
        shown = escape(name, SHOWN)
        with ExitStack() as undo, blaming(f"opening the partial file of '{shown}'"):
            fd = _open_locked(folder_fd, own.part, shown, disk)
            undo.callback(disk.close, fd)
            journal_fd = _open_journal(folder_fd, own.journal, disk)
            undo.callback(disk.close, journal_fd)
            # What a dying process was about to publish had its final mode already.
            with suppress(PermissionError):
                disk.fchmod(fd, 0o600)
            partial = cls(
                folder_fd, name, root, size, boot_id, fd=fd, journal_fd=journal_fd, disk=disk
            )
            undo.pop_all()
        return partial

    def _remove_placeholder(self) -> None:
        target = self._disk.stat_in(self._folder_fd, self._name)
        if target is not None and is_placeholder(self._folder_fd, target, self._own, self._disk):
            self._disk.remove(self._folder_fd, self._name)
        self._disk.remove(self._folder_fd, self._own.placing)

    def _find_unproven(self) -> Iterator[tuple[int, int]]:
        found = BlockSet()
        holes = False
        for first, count in self.have.gaps(self.blocks):
            offset = first * BLOCK
            end = min(offset + count * BLOCK, self.size)
            while offset < end:
                begin, stop = self._next_data(offset, end)
                holes = holes or begin > offset or stop < end
                if begin < end:
                    found.add(begin // BLOCK, -(-stop // BLOCK) - begin // BLOCK)
                offset = -(-stop // BLOCK) * BLOCK
        # Some file systems know no holes: to them all is data. There it takes a journal that
        # has lost something to make reading everything worth the while.
        if holes or not self._journal.whole:
            return found.runs()
        return iter(())

    def _next_data(self, offset: int, end: int) -> tuple[int, int]:
        """Find where the next data begins and stops; both are C{end} if there is none."""
        try:
            begin = self._disk.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end, end
        if begin >= end:
            return end, end
        return begin, min(self._disk.lseek(self._fd, begin, os.SEEK_HOLE), end)

    def fileno(self) -> int:
        """
        Give the descriptor of the partial file, for whoever computes its MD5.
        """
        return self._fd

    def open_to_read(self) -> int:
        """
        Open the partial file once more, for somebody who goes on reading it after it was
        published, given up or closed.

        @return: a descriptor of the caller's own. Unlike a duplicate it has no part in the lock,
            which would otherwise last as long as the reader does.
        @raise DiskFailure: another file has taken its place.
        @raise flow512.errors.ResourceFailure: it cannot be opened.
        """
        with ExitStack() as undo, blaming(f"opening the partial file of '{self._shown}'"):
            fd = self._disk.open(
                self._own.part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder_fd
            )
            undo.callback(self._disk.close, fd)
            if not os.path.samestat(self._disk.fstat(fd), self._disk.fstat(self._fd)):
                raise DiskFailure(
                    f"The partial file of '{self._shown}' was taken away; download it again."
                )
            undo.pop_all()
        return fd

    def missing_runs(self) -> Iterator[tuple[int, int]]:
        """
        Give the runs of blocks that are missing now: (first block, number of blocks), ascending.
        """
        return self.have.gaps(self.blocks)

    @property
    def stored(self) -> int:
        """How many bytes are verified and in place."""
        last = self.blocks - 1
        short = BLOCK * self.blocks - self.size if last in self.have else 0
        return BLOCK * len(self.have) - short

    def _length_of(self, block: int) -> int:
        if not 0 <= block < self.blocks:
            raise Misuse(f"'{self._shown}' has {self.blocks} blocks, and no block {block}.")
        return min(BLOCK, self.size - block * BLOCK)

    def write(self, first: int, *blocks: bytes | bytearray | memoryview) -> None:
        """
        Put verified blocks in their places, one after the other. Those that are in place already
        are left alone.

        @param first: the first one's number.
        @param blocks: each a whole one, which the caller has verified.
        @raise Misuse: there is no such block, or one has another length; nothing is written.
        @raise flow512.errors.ResourceFailure: those that are not in place may be written again.
        """
        numbered = list(enumerate(blocks, first))
        for block, data in numbered:
            if len(data) != (length := self._length_of(block)):
                raise Misuse(f"Block {block} has {length} bytes, not {len(data)}.")
        with blaming(f"writing '{self._shown}'"):
            for is_wanted, run in groupby(numbered, lambda each: self._is_to_write(*each)):
                together = list(run)
                if is_wanted:
                    self._disk.write_all(
                        self._fd, [data for _, data in together], together[0][0] * BLOCK
                    )
                    self._held_back += sum(len(data) for _, data in together)
                for block, _ in together:
                    self._in_place(block)
            if self._held_back >= WRITE_BEHIND:
                self._held_back = 0
                # Without the lock: others may go on while this waits for the disk.
                self._trying(self._disk.write_behind)

    def _is_to_write(self, block: int, data: bytes | bytearray | memoryview) -> bool:
        if block in self.have:
            return False
        # Zeros that are there already, as a hole, need no space.
        if not _ZEROS.startswith(data):
            return True
        there = self._disk.pread(self._fd, len(data), block * BLOCK)
        return not there.startswith(data)

    def _in_place(self, block: int) -> None:
        with self._lock:
            if block not in self.have:
                self._unrecorded.add(block)
                self.have.add(block)

    def vouch(self, blocks: Iterable[int]) -> None:
        """
        Say that blocks are in place whose data was there before, and is verified now; and record
        it, as L{flush} does.

        @raise Misuse: there is no such block.
        @raise flow512.errors.ResourceFailure: as L{flush}.
        """
        for block in blocks:
            self._length_of(block)
            self._in_place(block)
        self.flush()

    def flush(self) -> None:
        """
        Record what was written since the last time: from here on a killed process loses nothing
        of it.

        @raise flow512.errors.ResourceFailure: it is not recorded, and may be tried again.
        """
        with self._lock, blaming(f"keeping the journal of '{self._shown}'"):
            if self._doubted:
                raise DiskFailure(f"The disk has failed to keep '{self._shown}'; start again.")
            self._journal.record(self._unrecorded.runs())
            self._unrecorded = BlockSet()

    def seal(self) -> None:
        """
        Record it, and see to it that it is on the disk: from here on a power cut loses nothing
        of it. Takes as long as the disk needs.

        @raise DiskFailure: the disk failed. All that the journal vouched for is in doubt: it is
            emptied, and this can only be closed and opened again.
        @raise flow512.errors.ResourceFailure: as L{flush}.
        """
        with self._lock, blaming(f"saving '{self._shown}'"):
            self.flush()
            if not self._journal.sealed:
                self._trying(self._disk.fdatasync)
                self._journal.seal()

    def _trying(self, sync: Callable[[int], None]) -> None:
        try:
            sync(self._fd)
        except OSError:
            with self._lock:
                self._doubted = True
                with suppress(OSError):
                    self._journal.reset()
            raise

    def read(self, offset: int, length: int) -> bytearray:
        """
        Read what is in place.

        @param offset: in bytes.
        @param length: in bytes; all of them lie within the size.
        @raise DiskFailure: it cannot be read.
        """
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return data

    def read_into(self, offset: int, room: memoryview) -> None:
        """
        Read what is in place to where it is wanted; as L{read}.
        """
        with blaming(f"reading '{self._shown}'"):
            while room:
                count = self._disk.preadv(self._fd, [room], offset)
                if not count:
                    raise DiskFailure(f"The partial file of '{self._shown}' was cut short.")
                offset += count
                room = room[count:]

    def publish(self, *, replace: bool, mtime_ns: int) -> str:
        """
        Give the complete file its name, with the mode that the user's new files have.

        @param replace: whether it may take the place of another file (never of a folder; of a
            link, not of what that points to).
        @param mtime_ns: when it was last changed where it comes from, in nanoseconds.
        @return: the name. This is closed.
        @raise Misuse: blocks are missing.
        @raise TargetExists: the name is taken, or one that other systems cannot tell from it.
            The partial file is kept, and may be published later.
        @raise flow512.errors.ResourceFailure: it may be tried again, now or after the next start.
        """
        if len(self.have) != self.blocks:
            missing = self.blocks - len(self.have)
            raise Misuse(f"'{self._shown}' is not complete: {missing} blocks are missing.")
        self.seal()
        with blaming(f"publishing '{self._shown}'"):
            # Under its name, if the disk failed just after it was given that.
            if not (self._is_called(self._own.part) or self._is_called(self._name)):
                raise DiskFailure(
                    f"The partial file of '{self._shown}' was taken away; download it again."
                )
            # Not every file system can keep these, and neither is worth failing for.
            with suppress(PermissionError):
                self._disk.fchmod(self._fd, 0o666 & ~current_umask())
            with suppress(PermissionError):
                self._disk.utime(self._fd, ns=(mtime_ns, mtime_ns))
            place(
                self._folder_fd, self._fd, self._own, self._name, replace=replace, disk=self._disk
            )
        self._close_files()
        return self._name

    def _is_called(self, name: str) -> bool:
        status = self._disk.stat_in(self._folder_fd, name)
        return status is not None and os.path.samestat(status, self._disk.fstat(self._fd))

    def distrust(self) -> None:
        """
        Take back all that the journal vouched for, since something of it is wrong: the file was
        changed, or the disk did not keep it. This can only be closed then; whoever opens it
        again looks at the digest of every block, and loses none that is right.

        @raise flow512.errors.ResourceFailure: the journal cannot be emptied.
        """
        with self._lock, blaming(f"doubting '{self._shown}'"):
            self._doubted = True
            self._journal.reset()

    def close(self) -> None:
        """
        Leave the file for later: what is in place is sealed, as far as the disk lets us. What
        cannot be recorded will be fetched again. Closed twice, or after L{publish} or
        L{discard}, nothing happens.
        """
        if self._fd >= 0:
            with suppress(ResourceFailure):
                self.seal()
            self._close_files()

    def hand_over(self, root: bytes) -> None:
        """
        Leave what is in place to the download of another content id, now that this is known: of
        the same name, in the same folder. Nothing of it is vouched for: whoever opens that looks
        at the digest of every block. If there is such a download already, this one is given up.
        This is closed.

        @raise StateInUse: another process is at that download; this is as it was.
        @raise flow512.errors.ResourceFailure: it could not be done, and may be tried again.
        """
        own, disk, folder = OwnNames.of(root, self._name), self._disk, self._folder_fd
        with ExitStack() as undo, blaming(f"going on with '{self._shown}'"):
            there = disk.stat_in(folder, own.part)
            # Locked first, so that nobody begins it meanwhile.
            undo.callback(disk.close, _open_locked(folder, own.part, self._shown, disk))
            if there is None or not there.st_size:
                journal = _open_journal(folder, own.journal, disk)
                undo.callback(disk.close, journal)
                # For good: it never speaks for a file that came after it.
                disk.ftruncate(journal, 0)
                disk.fdatasync(journal)
                disk.remove(folder, self._own.journal)
                disk.rename(self._own.part, own.part, src_dir_fd=folder, dst_dir_fd=folder)
            self.discard()

    def discard(self) -> None:
        """
        Give the download up, and remove what there is of it.

        @raise flow512.errors.ResourceFailure: something could not be removed.
        """
        try:
            with blaming(f"removing the partial file of '{self._shown}'"):
                self._disk.remove(self._folder_fd, self._own.part)
                self._disk.remove(self._folder_fd, self._own.journal)
        finally:
            self._close_files()

    def _close_files(self) -> None:
        # The lock goes last, with the partial file. An error tells nothing that a sync has not.
        files = self._journal_fd, self._fd
        self._journal_fd = self._fd = -1
        for fd in files:
            if fd >= 0:
                with suppress(OSError):
                    self._disk.close(fd)


def _open_locked(folder_fd: int, part: str, shown: str, disk: Disk) -> int:
    for _ in range(_TRIES):
        fd = _open_own(folder_fd, part, disk)
        with ExitStack() as undo:
            undo.callback(disk.close, fd)
            try:
                disk.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            ours = disk.fstat(fd)
            named = disk.stat_in(folder_fd, part)
            # If it lost its name between our opening and our locking it, it is somebody's file.
            if named is not None and os.path.samestat(ours, named):
                if ours.st_nlink <= 1:
                    undo.pop_all()
                    return fd
                disk.remove(folder_fd, part)
    raise StateInUse(f"'{shown}' is being downloaded by another process; wait for it, or stop it.")


def _open_journal(folder_fd: int, journal: str, disk: Disk) -> int:
    fd = _open_own(folder_fd, journal, disk)
    with ExitStack() as undo:
        undo.callback(disk.close, fd)
        if disk.fstat(fd).st_nlink <= 1:
            undo.pop_all()
            return fd
    # It goes by another name too, and is somebody's file: not ours to write to.
    disk.remove(folder_fd, journal)
    return _open_own(folder_fd, journal, disk)


def _open_own(folder_fd: int, name: str, disk: Disk) -> int:
    try:
        fd = disk.open(name, _FLAGS, 0o600, dir_fd=folder_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
            raise _in_the_way(name) from error
        raise
    with ExitStack() as undo:
        undo.callback(disk.close, fd)
        status = disk.fstat(fd)
        # Who owns it could change it later; another user's is not ours to go on with.
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _in_the_way(name)
        undo.pop_all()
    return fd


def _in_the_way(name: str) -> UnsafeName:
    return UnsafeName(
        f"'{name}' is a link, no file, or another user's, and so not ours; remove it."
    )
