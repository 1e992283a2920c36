"""Tests for L{flow512.content.unfolding}."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import stat
import tempfile
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from flow512.content.disk import DISK, Disk
from flow512.content.manifest import NOT_ALL, Item
from flow512.content.paths import MAX_DEPTH
from flow512.content.placing import Existing
from flow512.content.tree import format_content_id, root_digest
from flow512.content.unfolding import MAX_REASONS, Permissions, Unfolding
from flow512.errors import (
    DiskFailure,
    DiskFull,
    NotFound,
    ResourceFailure,
    TargetExists,
    UnsafeName,
)
from flow512.wire.fields import MAX_PATH
from tests.unit.partial_files import Killed, Step, WatchedDisk, dying_at, failing, failing_at


def file(path: str, data: bytes = b"data", mode: int = 0o644, mtime: int = 7) -> Item:
    """A file in a manifest."""
    return Item(path, mode, mtime, len(data), root_digest(len(data), data))


class Named(WatchedDisk):
    """A disk on which no file is without a name, as NFS is."""

    def __init__(self, before: Step | None = None) -> None:
        def refuse(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "open" and args[0] == ".":
                raise OSError(errno.EOPNOTSUPP, "no files without names here")
            if before is not None:
                before(count, name, args)

        super().__init__(refuse)


class WithoutProc(WatchedDisk):
    """A disk in a place where there is no C{/proc}."""

    def __init__(self, before: Step | None = None) -> None:
        def refuse(count: int, name: str, args: tuple[Any, ...]) -> None:
            if name == "link" and args[0].startswith("/proc"):
                raise OSError(errno.ENOENT, "nothing of that name")
            if before is not None:
                before(count, name, args)

        super().__init__(refuse)


class UnfoldingTests(SynchronousTestCase):
    """What a manifest says, done to a folder."""

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = self.enterContext(tempfile.TemporaryDirectory())
        self.top = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.top)

    def unfolding(
        self,
        existing: Existing = Existing.KEEP,
        disk: Disk = DISK,
        permissions: Permissions = Permissions.NEW,
    ) -> Unfolding:
        """Begin."""
        made = Unfolding(self.top, existing, disk, permissions=permissions)
        self.addCleanup(made.close)
        return made

    def write(self, path: str, data: bytes = b"mine") -> str:
        """Put a file there."""
        whole = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as made:
            made.write(data)
        return whole

    def content(self) -> dict[str, bytes | None]:
        """What is in the folder; of folders, nothing."""
        found: dict[str, bytes | None] = {}
        for where, folders, files in os.walk(self.folder):
            below = os.path.relpath(where, self.folder)
            for name in folders:
                found[os.path.normpath(os.path.join(below, name)) + "/"] = None
            for name in files:
                with open(os.path.join(where, name), "rb") as there:
                    found[os.path.normpath(os.path.join(below, name))] = there.read()
        return found

    def test_whole(self) -> None:
        """Folders and files come to be as the manifest says, with modes and times."""
        items = [
            file("a.txt", mode=0o600),
            Item("a/", 0o750, 11),
            file("a/b", b"", mode=0o777),
            Item("a/empty/", 0o500, 13),
            file("z"),
        ]
        unfolding = self.unfolding()
        wanted = unfolding.take(items[:3]) + unfolding.take(items[3:])
        self.assertEqual([item.path for item in wanted], ["a.txt", "a/b", "z"])
        for item in wanted:
            unfolding.placing.put(item, b"data"[: item.size])
        unfolding.finish()
        self.assertEqual(
            self.content(),
            {"a/": None, "a/empty/": None, "a.txt": b"data", "a/b": b"", "z": b"data"},
        )
        self.assertEqual((unfolding.outcome.files, unfolding.outcome.folders), (3, 2))
        self.assertEqual(unfolding.outcome.size, 8)
        umask = os.umask(0)
        os.umask(umask)
        for item in items:
            status = os.stat(os.path.join(self.folder, item.path))
            expected = item.mode & ~umask | (0o700 if item.is_folder else 0)
            self.assertEqual(stat.S_IMODE(status.st_mode), expected, item.path)
            self.assertEqual(status.st_mtime_ns, item.mtime, item.path)

    def test_again(self) -> None:
        """What is here by size and time is not wanted again; what was changed here is kept."""
        items = [Item("a/", 0o755, 1), file("a/one"), file("a/two"), file("three")]
        unfolding = self.unfolding()
        for item in unfolding.take(items):
            unfolding.placing.put(item, b"data")
        unfolding.finish()
        self.write("a/two", b"mine now")
        again = self.unfolding()
        self.assertEqual(again.take(items), [])
        again.finish()
        self.assertEqual(again.outcome.unchanged, 2)
        [(path, reason)] = again.outcome.left_out
        self.assertEqual(path, "a/two")
        self.assertIn("--replace", reason)
        self.assertEqual(self.content()["a/two"], b"mine now")

    def test_permissions(self) -> None:
        """If they are to follow, those of unchanged files do, within the umask; others' stay."""
        self.addCleanup(os.umask, os.umask(0o022))
        items = [file("one", mode=0o666), file("two", mode=0o640), file("x", mode=0o640)]
        unfolding = self.unfolding()
        for item in unfolding.take(items):
            unfolding.placing.put(item, b"data")
        for name in ("one", "x"):
            os.chmod(os.path.join(self.folder, name), 0o4711)
        os.utime(os.path.join(self.folder, "x"), ns=(8, 8))
        disk = WatchedDisk()
        unfolding = self.unfolding(disk=disk, permissions=Permissions.ALL)
        self.assertEqual(unfolding.take(items), [])
        self.assertEqual((unfolding.outcome.unchanged, unfolding.outcome.left_out_count), (2, 1))
        unfolding.close()
        modes = [stat.S_IMODE(os.stat(os.path.join(self.folder, i.path)).st_mode) for i in items]
        self.assertEqual(modes, [0o644, 0o640, 0o4711])
        self.assertEqual((disk.calls.count("fchmod"), disk.opened), (1, set()))

    def test_permissions_that_stay(self) -> None:
        """Those of another user's file stay; what is wrong with the disk is said."""
        items = [file("one"), file("two")]
        unfolding = self.unfolding()
        for item in unfolding.take(items):
            unfolding.placing.put(item, b"data")
        os.chmod(os.path.join(self.folder, "one"), 0o600)
        disk = WatchedDisk(failing("fchmod", errno.EPERM))
        unfolding = self.unfolding(disk=disk, permissions=Permissions.ALL)
        self.assertEqual((unfolding.take(items), unfolding.outcome.unchanged), ([], 2))
        self.assertEqual(disk.opened, set())
        disk = WatchedDisk(failing("fchmod", errno.EIO))
        unfolding = self.unfolding(disk=disk, permissions=Permissions.ALL)
        error = self.assertRaises(DiskFailure, unfolding.take, items)
        self.assertIn("setting the permissions of 'one'", str(error))

    def test_replace(self) -> None:
        """If the user lets it, another file is replaced; a link is, and not what it points to."""
        outside = self.enterContext(tempfile.NamedTemporaryFile())
        self.write("one", b"mine")
        os.symlink(outside.name, os.path.join(self.folder, "two"))
        items = [file("one"), file("two")]
        unfolding = self.unfolding(Existing.REPLACE)
        for item in unfolding.take(items):
            unfolding.placing.put(item, b"data")
        self.assertEqual(self.content(), {"one": b"data", "two": b"data"})
        self.assertEqual(os.path.getsize(outside.name), 0)
        self.assertFalse(os.path.islink(os.path.join(self.folder, "two")))

    def test_links(self) -> None:
        """A link where a folder is meant is not followed, and all that was to be in it is left."""
        outside = self.enterContext(tempfile.TemporaryDirectory())
        os.symlink(outside, os.path.join(self.folder, "a"))
        unfolding = self.unfolding(Existing.REPLACE)
        items = [Item("a/", 0o755, 1), file("a/one"), Item("a/b/", 0o755, 1), file("z")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["z"])
        unfolding.finish()
        self.assertEqual(os.listdir(outside), [])
        self.assertIn("link", unfolding.outcome.left_out[0][1])
        self.assertRaises(UnsafeName, unfolding.placing.put, file("a/one"), b"data")
        self.assertRaises(UnsafeName, unfolding.placing.folder_of, file("a/one"))
        self.assertEqual(os.listdir(outside), [])

    def test_hostile_names(self) -> None:
        """Names that must not touch the disk do not, and the rest comes all the same."""
        bad = [
            *("..", "../x", "a/../../x", ".flow512-allow", "CON", "x:stream", "~", "x\u202ey"),
            *("/etc/passwd", "a//b", "x" * 256, "end."),
        ]
        unfolding = self.unfolding()
        wanted = unfolding.take([file(name) for name in bad] + [file("good")])
        self.assertEqual([item.path for item in wanted], ["good"])
        self.assertEqual(unfolding.outcome.left_out_count, len(bad))
        self.assertTrue(all(shown.isprintable() for shown, _ in unfolding.outcome.left_out))
        self.assertEqual(self.content(), {})

    def test_hostile_folders(self) -> None:
        """A folder with such a name is not made, and nothing in it wanted."""
        unfolding = self.unfolding()
        items = [Item("../", 0o755, 0), file("../x"), Item("../../", 0o755, 0), file("z")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["z"])
        self.assertEqual(self.content(), {})
        self.assertEqual([path for path, _ in unfolding.outcome.left_out], ["../"])

    def test_twins(self) -> None:
        """Of two names that some systems cannot tell apart, the first comes."""
        self.write("ÜBER")
        unfolding = self.unfolding()
        items = [
            Item("A/", 0o755, 0),
            file("A/x"),
            file("README"),
            file("a"),
            file("readme"),
            file("u\u0308ber"),
        ]
        self.assertEqual([item.path for item in unfolding.take(items)], ["A/x", "README"])
        self.assertEqual(
            [path for path, _ in unfolding.outcome.left_out], ["a", "readme", "u\u0308ber"]
        )

    def test_file_and_folder(self) -> None:
        """A file where a folder is meant, and the reverse, stay as they are."""
        self.write("a", b"mine")
        os.mkdir(os.path.join(self.folder, "b"))
        unfolding = self.unfolding(Existing.REPLACE)
        items = [Item("a/", 0o755, 0), file("a/x"), file("b")]
        self.assertEqual(unfolding.take(items), [])
        self.assertEqual(self.content(), {"a": b"mine", "b/": None})
        self.assertEqual([path for path, _ in unfolding.outcome.left_out], ["a/", "b"])
        self.assertEqual(
            (unfolding.outcome.left_out_count, unfolding.outcome.left_out_within), (3, 1)
        )

    def test_file_and_folder_of_one_name(self) -> None:
        """A name that the peer has as a file and as a folder is the file, and the rest comes."""
        items = [file("x"), file("x.b"), Item("x/", 0o755, 0), file("x/a"), file("y")]
        for existing in Existing:
            # The file may be in its place before the folder is heard of, or not.
            for count in (0, 1):
                with tempfile.TemporaryDirectory() as self.folder:
                    self.top = os.open(self.folder, os.O_RDONLY)
                    self.addCleanup(os.close, self.top)
                    unfolding = self.unfolding(existing)
                    for part in (items[:count], items[count:]):
                        for item in unfolding.take(part):
                            unfolding.placing.put(item, b"data")
                    unfolding.finish()
                    self.assertEqual(self.content(), dict.fromkeys(("x", "x.b", "y"), b"data"))
                [(path, reason)] = unfolding.outcome.left_out
                self.assertEqual(path, "x/")
                self.assertIn("has a file of that name, too", reason)
                self.assertEqual(unfolding.outcome.left_out_within, 1)

    def test_file_and_folder_again(self) -> None:
        """What is here already stays what it is, a file or a folder, and the rest comes."""
        items = [file("x"), Item("x/", 0o755, 0), file("x/a"), file("y")]
        for existing in Existing:
            with tempfile.TemporaryDirectory() as self.folder:
                self.top = os.open(self.folder, os.O_RDONLY)
                self.addCleanup(os.close, self.top)
                os.mkdir(os.path.join(self.folder, "x"))
                unfolding = self.unfolding(existing)
                wanted = unfolding.take(items)
                self.assertEqual([item.path for item in wanted], ["x/a", "y"])
                self.assertEqual(unfolding.outcome.left_out[0][0], "x")
                self.assertEqual(unfolding.outcome.left_out_count, 1)
                os.rmdir(os.path.join(self.folder, "x"))
                self.write("x")
                unfolding = self.unfolding(existing)
                wanted = unfolding.take(items)
                self.assertEqual([item.path for item in wanted][-1], "y")
                self.assertEqual(unfolding.outcome.left_out[-1][0], "x/")
                self.assertEqual(self.content(), {"x": b"mine"})

    def test_folder_came_meanwhile(self) -> None:
        """A folder that somebody makes where a file is to be stays, and is no error of the disk."""
        for existing in Existing:
            unfolding = self.unfolding(existing)
            [item] = unfolding.take([file(existing.value)])
            os.mkdir(os.path.join(self.folder, existing.value))
            error = self.assertRaises(TargetExists, unfolding.placing.put, item, b"data")
            self.assertIn(f"'{existing.value}' came to be there meanwhile", str(error))
        self.assertEqual(self.content(), {f"{existing.value}/": None for existing in Existing})

    def test_came_meanwhile(self) -> None:
        """A file that somebody makes while one is fetched is not replaced."""
        for disk in (DISK, Named(), WithoutProc()):
            unfolding = self.unfolding(disk=disk)
            [item] = unfolding.take([file("one")])
            whole = self.write("one", b"mine")
            self.assertRaises(TargetExists, unfolding.placing.put, item, b"data")
            self.assertEqual(self.content(), {"one": b"mine"})
            os.unlink(whole)

    def test_nothing_is_left_open(self) -> None:
        """However deep and long a manifest is, and however files are made, nothing stays open."""
        for disk in (DISK, Named(), WithoutProc()):
            for existing in Existing:
                gc.collect()  # or others' files may be closed meanwhile
                before = len(os.listdir("/proc/self/fd"))
                paths = ("a/", "a/b/", "a/b/c", "a/d", "e/", "e/f", "g")
                items = [
                    Item(path, 0o755, 7) if path.endswith("/") else file(path) for path in paths
                ]
                unfolding = self.unfolding(existing, disk=disk)
                for item in unfolding.take(items):
                    unfolding.placing.put(item, b"data")
                    unfolding.placing.finish_file(item)
                unfolding.finish()
                unfolding.close()
                self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_without_hard_links(self) -> None:
        """Where the file system has no hard links, files get their names all the same."""

        class Flat(Disk):
            def link(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]  # a static one there
                raise OSError(errno.EPERM, "no links here")

        unfolding = self.unfolding(disk=Flat())
        for item in unfolding.take([file("one"), file("two")]):
            unfolding.placing.put(item, b"data")
        self.assertEqual(self.content(), {"one": b"data", "two": b"data"})

    def check_nameless(self) -> None:
        """Skip the test where files cannot be without a name."""
        try:
            os.close(os.open(self.folder, os.O_TMPFILE | os.O_WRONLY))
        except (AttributeError, OSError):
            raise SkipTest("This file system has no files without names.") from None

    def test_calls(self) -> None:
        """A new file costs five system calls, and nothing is asked that is known already."""
        disk = WatchedDisk()
        unfolding = self.unfolding(disk=disk)
        items = [Item("a/", 0o755, 1), *(file(f"a/{number}") for number in range(9))]
        wanted = unfolding.take(items)
        self.assertEqual(disk.calls, [])
        for item in wanted:
            unfolding.placing.put(item, b"data")
        self.check_nameless()
        self.assertEqual(disk.calls, ["open", "pwritev", "utime", "link"] * 9)
        self.assertEqual(disk.opened, set())

    def test_everywhere(self) -> None:
        """Wherever it is, a file gets its content, its mode within the umask, and its time."""
        self.addCleanup(os.umask, os.umask(0o027))
        for kind in (WatchedDisk, Named, WithoutProc):
            for existing in Existing:
                disk = kind()
                unfolding = self.unfolding(existing, disk)
                path = f"{kind.__name__} {existing.value}"
                for item in unfolding.take([file(path, mode=0o777), file(f"{path} too", b"")]):
                    unfolding.placing.put(item, b"data"[: item.size])
                status = os.stat(os.path.join(self.folder, path))
                self.assertEqual((stat.S_IMODE(status.st_mode), status.st_mtime_ns), (0o750, 7))
                content = self.content()
                self.assertEqual((content.pop(path), content.pop(f"{path} too")), (b"data", b""))
                self.assertEqual(disk.opened, set())
                os.unlink(os.path.join(self.folder, path))
                os.unlink(os.path.join(self.folder, f"{path} too"))
                self.assertEqual(self.content(), {})

    def put_all(self, disk: WatchedDisk, existing: Existing) -> None:
        """Put two files into a folder."""
        unfolding = self.unfolding(existing, disk)
        for item in unfolding.take([Item("a/", 0o700, 1), file("a/one"), file("a/two")]):
            unfolding.placing.put(item, b"data")
        unfolding.close()

    def test_killed_anywhere(self) -> None:
        """
        Killed at any call, no file is there that is not whole, and one that is to be replaced is
        the old one or the new; the next time all is there, and nothing besides but, where files
        have names from the start, the hidden one of a file that is whole.
        """
        whole = {"a/": None, "a/one": b"data", "a/two": b"data"}
        for kind in (WatchedDisk, Named, WithoutProc):
            for existing, before in ((Existing.KEEP, None), (Existing.REPLACE, b"mine")):
                for call in range(1, 100):
                    if before is not None:
                        self.write("a/one", before)
                    disk = kind(dying_at(call))
                    try:
                        self.put_all(disk, existing)
                    except Killed:
                        disk.crash()
                    there = self.content()
                    self.assertIn(there.get("a/one"), (before, b"data"))
                    self.assertIn(there.get("a/two"), (None, b"data"))
                    is_through = call > len(disk.calls)
                    self.put_all(kind(), existing)
                    there = self.content()
                    for path in set(there) - set(whole):
                        hidden = os.path.join(self.folder, path)
                        self.assertEqual(os.stat(hidden).st_nlink, 2)
                        os.unlink(hidden)
                        del there[path]
                    self.assertEqual(there, whole)
                    os.unlink(os.path.join(self.folder, "a/one"))
                    os.unlink(os.path.join(self.folder, "a/two"))
                    if is_through:
                        break
                else:
                    self.fail("It does not end.")

    def test_any_call_fails(self) -> None:
        """Whichever call fails: it is named, nothing is left open, and nothing half is there."""
        for kind in (WatchedDisk, Named):
            for call in range(1, 100):
                disk = kind(failing_at(errno.EIO, call))
                with contextlib.suppress(ResourceFailure):
                    self.put_all(disk, Existing.KEEP)
                self.assertEqual(disk.opened, set())
                for path, content in self.content().items():
                    self.assertIn((path, content), [("a/", None), (path, b"data")])
                self.put_all(kind(), Existing.KEEP)
                self.assertEqual(self.content(), {"a/": None, "a/one": b"data", "a/two": b"data"})
                os.unlink(os.path.join(self.folder, "a/one"))
                os.unlink(os.path.join(self.folder, "a/two"))
                if call > len(disk.calls):
                    break
            else:
                self.fail("It does not end.")

    def test_short_writes(self) -> None:
        """A disk that takes a byte at a time gets them all."""

        class Nibbling(Disk):
            def pwritev(self, fd: int, parts: Any, offset: int) -> int:  # type: ignore[override]  # a static one there
                return os.pwrite(fd, bytes(parts[0])[:1], offset)

        unfolding = self.unfolding(disk=Nibbling())
        [item] = unfolding.take([file("one")])
        unfolding.placing.put(item, b"data")
        self.assertEqual(self.content(), {"one": b"data"})

    def test_too_deep(self) -> None:
        """What is deeper than a path may be is left out, and so is a path that is too long."""
        paths = ["d/" * depth for depth in range(1, MAX_DEPTH + 2)]
        unfolding = self.unfolding()
        [wanted] = unfolding.take(
            [
                *(Item(path, 0o755, 1) for path in paths[: MAX_DEPTH - 1]),
                file(paths[MAX_DEPTH - 2] + "x"),
                Item(paths[MAX_DEPTH - 1], 0o755, 1),
                file(paths[MAX_DEPTH - 1] + "x"),
                Item(paths[MAX_DEPTH], 0o755, 1),
            ]
        )
        self.assertEqual(wanted.path.count("/"), MAX_DEPTH - 1)
        self.assertEqual(unfolding.outcome.left_out_count, 2)
        long = ["é" * 120 + "/"]
        while len(long[-1].encode()) <= MAX_PATH + 1:
            long.append(long[-1] + long[0])
        taken = self.unfolding()
        taken.take([Item(path, 0o755, 1) for path in long])
        self.assertEqual(taken.outcome.left_out_count, 1)

    def test_unreadable(self) -> None:
        """When a file that is here cannot be looked at, that ends it, with the reason."""
        self.write("one")
        disk = WatchedDisk(failing("stat", errno.EIO))
        unfolding = self.unfolding(Existing.REPLACE, disk)
        error = self.assertRaises(DiskFailure, unfolding.take, [file("one"), file("two")])
        self.assertIn("looking at 'one'", str(error))

    def test_folder_that_cannot_be_made(self) -> None:
        """A full disk, or one on which nothing may be written, is never taken for a bad name."""
        for number, kind in ((errno.ENOSPC, DiskFull), (errno.EACCES, DiskFailure)):

            class Failing(Disk):
                def mkdir(self, *args: Any, number: int = number, **kwargs: Any) -> None:  # type: ignore[override]  # a static one there
                    raise OSError(number, os.strerror(number))

            unfolding = self.unfolding(disk=Failing())
            error = self.assertRaises(kind, unfolding.take, [Item("a/", 0o755, 0), file("a/x")])
            self.assertIn("making the folder 'a/'", str(error))

    def test_names_that_windows_forbids(self) -> None:
        """The peer has it under a name that may not be here: what is said gets it."""
        content = format_content_id(file("What?").root or b"")
        for origin, path, hint in (
            ("films/", "What?", f"`flow512 get {content} -o NAME` gets it."),
            (None, "What?", f"`flow512 get {content} -o NAME` gets it."),
            ("", "it's?/", "`flow512 get 'it'\"'\"'s?/' -o NAME` gets it."),
            ("films/", "-x?/", "`flow512 get 'films/-x?/' -o NAME` gets it."),
            ("", "-x?/", "`flow512 get -o NAME -- '-x?/'` gets it."),
            ("", "flow512:notes/", "which Windows forbids."),
            ("", "a\N{ZERO WIDTH SPACE}?/", "which Windows forbids."),
            (None, "What?/", "which Windows forbids."),
            ("films/", "CON", "device on Windows."),
        ):
            unfolding = Unfolding(self.top, Existing.KEEP, origin=origin)
            item = Item(path, 0o755, 0) if path.endswith("/") else file(path)
            self.assertEqual(unfolding.take([item]), [])
            unfolding.close()
            [(_, reason)] = unfolding.outcome.left_out
            self.assertTrue(reason.endswith(hint), reason)

    def test_not_all(self) -> None:
        """What the peer cannot say at all now counts as left out; what it says is taken."""
        unfolding = self.unfolding()
        items = [NOT_ALL, Item("a/", 0o755, 0), file("a/x")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["a/x"])
        self.assertEqual([path for path, _ in unfolding.outcome.left_out], ["/"])
        self.assertEqual(unfolding.outcome.folders, 1)
        unfolding.finish()

    def test_disk_full(self) -> None:
        """A full disk is told as such, and leaves nothing half."""

        class Full(Disk):
            def pwritev(self, *args: Any) -> int:  # type: ignore[override]  # a static one there
                raise OSError(errno.ENOSPC, "full")

        unfolding = self.unfolding(disk=Full())
        [item] = unfolding.take([file("one")])
        error = self.assertRaises(DiskFull, unfolding.placing.put, item, b"data")
        self.assertIn("'one'", str(error))
        self.assertEqual(self.content(), {})

    def test_missing(self) -> None:
        """What the other side could not list is left out and said, and what is here of it stays."""
        self.write("a/one", b"mine")
        self.write("b", b"mine")
        unfolding = self.unfolding(Existing.REPLACE)
        items = [Item("a/", 0o755, 0, 1), Item("b", 0o644, 0), file("c")]
        self.assertEqual([item.path for item in unfolding.take(items)], ["c"])
        unfolding.finish()
        self.assertEqual([path for path, _ in unfolding.outcome.left_out], ["a/", "b"])
        self.assertEqual(self.content(), {"a/": None, "a/one": b"mine", "b": b"mine"})

    def test_large_file(self) -> None:
        """A file that a download has placed gets its permissions afterwards."""
        unfolding = self.unfolding()
        items = [Item("a/", 0o755, 0), file("a/big", mode=0o640, mtime=99)]
        [item] = unfolding.take(items)
        fd = unfolding.placing.folder_of(item)
        try:
            os.close(os.open("big", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        finally:
            os.close(fd)
        unfolding.placing.finish_file(item)
        status = os.stat(os.path.join(self.folder, "a/big"))
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_mtime_ns), (0o640, 99))
        self.assertRaises(NotFound, unfolding.placing.folder_of, file("none/x"))

    def test_reasons_are_bounded(self) -> None:
        """A folder full of bad names does not fill the memory with reasons."""
        unfolding = self.unfolding()
        unfolding.take([file(f"x:{number}") for number in range(MAX_REASONS + 5)])
        self.assertEqual(len(unfolding.outcome.left_out), MAX_REASONS)
        self.assertEqual(unfolding.outcome.left_out_count, MAX_REASONS + 5)
