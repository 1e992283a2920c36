"""
A folder to download to, on a disk that a test can watch, fill, or let die.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.content.disk import Disk
from flow512.content.partial import Partial
from flow512.content.publish import OwnNames
from flow512.units import BLOCK

ROOT = bytes(range(32))
NAME = "report.pdf"
BOOT = "boot one"
MTIME = 1_600_000_000_123_456_789
OWN = OwnNames.of(ROOT, NAME)

CONTENT = b"".join((bytes([65 + block]) * BLOCK) for block in range(3)) + b"tail"
"""Four blocks, the last of them short."""


def block_of(content: bytes, block: int) -> bytes:
    return content[block * BLOCK : (block + 1) * BLOCK]


Step = Callable[[int, str, tuple[Any, ...]], None]


class Killed(BaseException):
    """The process is no more: nothing of ours may catch this."""


class WatchedDisk(Disk):
    """
    A disk that counts its calls, and lets a test step in before each of them.

    @ivar before: is called with the number, name and arguments of each.
    @ivar calls: the names of all calls so far, but for those that close a file.
    @ivar opened: the descriptors that are open.
    @ivar lost: those that a L{crash} has closed.
    """

    CALLS = frozenset(
        {
            *("open", "flock", "stat", "fstat", "lseek", "pread", "preadv", "pwritev"),
            *("ftruncate", "fdatasync", "fsync", "fchmod", "utime", "link", "rename"),
            *("unlink", "write_behind"),
        }
    )

    def __init__(self, before: Step | None = None) -> None:
        self.calls: list[str] = []
        self.opened: set[int] = set()
        self.lost: set[int] = set()
        self.before = before

    def __getattribute__(self, name: str) -> Any:
        real = super().__getattribute__(name)
        if name not in WatchedDisk.CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.before is not None:
                self.before(len(self.calls), name, args)
            result = real(*args, **kwargs)
            if name == "open":
                self.opened.add(result)
            return result

        return call

    def close(self, fd: int) -> None:
        if fd in self.lost:
            self.lost.discard(fd)
            return
        os.close(fd)
        self.opened.discard(fd)

    def crash(self) -> None:
        """Close what the kernel closes when a process dies. Whoever tidies up may do so again."""
        for fd in tuple(self.opened):
            self.close(fd)
            self.lost.add(fd)
        self.before = None


class NoLinks(WatchedDisk):
    """A disk without hard links, as FAT is."""

    def link(self, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no links here")


class ForgetfulDisk(WatchedDisk):
    """
    A disk that keeps data only if it is told to.

    @ivar synced: what each file was when it was last synced, by inode.
    """

    def __init__(self, before: Step | None = None) -> None:
        super().__init__(before)
        self.synced: dict[int, bytes] = {}

    def fdatasync(self, fd: Any) -> None:
        status = os.fstat(fd)
        self.synced[status.st_ino] = os.pread(fd, status.st_size, 0)

    def forget(self, path: str) -> None:
        """Let the power fail on a file: its length stays, its data is as it was synced."""
        with open(path, "r+b") as file:
            status = os.fstat(file.fileno())
            file.truncate(0)
            file.write(self.synced.get(status.st_ino, b"")[: status.st_size])
            file.truncate(status.st_size)


def failing(called: str, number: int) -> Step:
    """Let the next call of that name fail with this error."""
    left = [OSError(number, os.strerror(number))]

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if name == called and left:
            raise left.pop()

    return before


def failing_at(number: int, call: int) -> Step:
    """Let one call fail, by its number, with this error."""

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if count == call:
            raise OSError(number, os.strerror(number))

    return before


def dying_at(call: int) -> Step:
    """Kill the process in one call, by its number; a write does half of its work."""

    def before(count: int, name: str, args: tuple[Any, ...]) -> None:
        if count == call and name == "pwritev":
            fd, parts, offset = args
            data = b"".join(parts)
            os.pwrite(fd, data[: len(data) // 2], offset)
        if count >= call:
            raise Killed

    return before


class InFolder(SynchronousTestCase):
    """Tests that have a folder to download to."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = holder.name
        self.fd = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.made: list[Partial] = []

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def put(self, name: str, data: bytes = b"somebody's") -> None:
        with open(self.path(name), "wb") as file:
            file.write(data)

    def data(self, name: str = NAME) -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def open(
        self,
        size: int = len(CONTENT),
        *,
        name: str = NAME,
        root: bytes = ROOT,
        boot_id: str = BOOT,
        disk: WatchedDisk | None = None,
    ) -> Partial:
        disk = disk or WatchedDisk()
        self.addCleanup(disk.crash)
        partial = Partial.open(self.fd, name, root, size, boot_id, disk=disk)
        self.made.append(partial)
        return partial

    def complete(self, content: bytes = CONTENT, disk: WatchedDisk | None = None) -> Partial:
        partial = self.open(len(content), disk=disk)
        for first, count in list(partial.missing_runs()):
            for block in range(first, first + count):
                partial.write(block, block_of(content, block))
        return partial

    def crashed(self, *blocks: int, flush: bool = True) -> None:
        """Leave what a process leaves that was killed after it wrote these blocks."""
        disk = WatchedDisk()
        partial = self.open(disk=disk)
        for block in blocks:
            partial.write(block, block_of(CONTENT, block))
        if flush:
            partial.flush()
        disk.crash()

    def spoil(self, *blocks: int) -> None:
        """Change blocks of the partial file behind everybody's back."""
        with open(self.path(OWN.part), "r+b") as file:
            for block in blocks:
                file.seek(block * BLOCK)
                file.write(b"?" * len(block_of(CONTENT, block)))


def have(partial: Partial) -> set[int]:
    return {block for block in range(partial.blocks) if block in partial.have}
