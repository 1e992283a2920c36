"""Tests for L{flow512.content.small}, as the library serves many small files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from unittest import mock

from flow512.content.access import ALLOW_FILE
from flow512.content.catalog import Known
from flow512.content.library import Library, Share
from flow512.content.view import View
from flow512.errors import DiskFailure
from flow512.units import BLOCK
from flow512.wire.bundle import MAX_BUNDLED, Parcel, unpack
from tests.unit.test_library import LibraryCase, root_of

UNKNOWN = b"?" * 32


class SmallTests(LibraryCase):
    """Many small files, read in a row."""

    def setUp(self) -> None:
        super().setUp()
        self.contents = {
            path: path.encode() * 20 for path in ("top", "one/a", "one/b", "one/in/c", "two/d")
        }
        for path, content in self.contents.items():
            self.put(path, content)
        self.library.scan()
        self.hash_all()

    def read(
        self, roots: Sequence[bytes], size: int = BLOCK, view: View | None = None
    ) -> list[bytes | None]:
        """Read contents into a parcel of some size; no descriptor is left behind."""
        parcel = Parcel(bytearray(size))
        before = set(os.listdir("/proc/self/fd"))
        self.library.read_small(roots, parcel, view)
        self.assertLessEqual(set(os.listdir("/proc/self/fd")), before)
        if not parcel.count:
            return []
        found = unpack(parcel.body)
        self.assertEqual(len(found), parcel.count)
        return [None if each is None else bytes(each) for each in found]

    def roots(self, *paths: str) -> list[bytes]:
        """The roots that files had at first."""
        return [root_of(self.contents[path]) for path in paths]

    def read_all(self) -> dict[str, bytes | None]:
        """Read all that was there at first."""
        return dict(zip(self.contents, self.read(self.roots(*self.contents)), strict=True))

    def test_all(self) -> None:
        """Files come whole, in the order in which they were asked for, wherever they are."""
        self.assertEqual(self.read_all(), self.contents)
        some = ("two/d", "one/in/c", "top", "one/in/c", "one/b")
        self.assertEqual(self.read(self.roots(*some)), [self.contents[path] for path in some])
        self.put("empty", b"")
        self.library.scan()
        self.hash_all()
        self.assertEqual(self.read([root_of(b"")]), [b""])

    def test_cost(self) -> None:
        """One more file of a folder costs the system one open, two looks, one read, one close; and
        the catalog is not asked for each."""
        contents = [b"%d" % number for number in range(30)]
        for number, content in enumerate(contents):
            self.put(f"one/in/many/{number}", content)
        self.library.scan()
        self.hash_all()
        roots = [root_of(content) for content in contents]

        def cost(count: int) -> tuple[int, ...]:
            with (
                mock.patch("os.open", wraps=os.open) as opens,
                mock.patch("os.fstat", wraps=os.fstat) as looks,
                mock.patch("os.preadv", wraps=os.preadv) as reads,
                mock.patch("os.close", wraps=os.close) as closes,
                mock.patch.object(
                    self.catalog, "first_holders", wraps=self.catalog.first_holders
                ) as questions,
            ):
                self.assertEqual(self.read(roots[:count]), contents[:count])
            return tuple(each.call_count for each in (opens, looks, reads, closes, questions))

        one, many = cost(1), cost(30)
        self.assertEqual(
            [more - less for more, less in zip(many, one, strict=True)], [29, 58, 29, 29, 0]
        )

    def test_no_room(self) -> None:
        """Reading ends with the first that does not fit, be it there or missing."""
        top, one = (len(self.contents[path]) for path in ("top", "one/a"))
        roots = self.roots("top", "one/a", "one/b")
        whole = [self.contents[path] for path in ("top", "one/a", "one/b")]
        for size, count in ((top + 3, 0), (top + 4, 1), (top + one + 8, 2), (BLOCK, 3)):
            self.assertEqual(self.read(roots, size), whole[:count])
        for missing in (UNKNOWN, self.large()):
            for size, count in ((3, 0), (4, 1), (7, 1), (8, 2)):
                self.assertEqual(self.read([missing] * 3, size), [None] * count)
        manifest = self.library.stat("two/")
        assert manifest.root is not None
        self.assertEqual(self.read([manifest.root], manifest.size + 3), [])
        self.assertEqual(len(self.read([manifest.root], manifest.size + 4)), 1)

    def large(self) -> bytes:
        """Share a file of one byte too much; its root is returned."""
        content = bytes(MAX_BUNDLED + 1)
        self.put("large", content)
        self.library.scan()
        self.hash_all()
        return root_of(content)

    def test_largest(self) -> None:
        """The largest that travels so does; one byte more is missing, and not even opened."""
        content = bytes(MAX_BUNDLED)
        self.put("largest", content)
        large = self.large()
        with mock.patch("os.open", wraps=os.open) as opens:
            self.assertEqual(self.read([root_of(content), large]), [content, None])
        self.assertNotIn("large", [call.args[0] for call in opens.call_args_list])

    def test_changed(self) -> None:
        """What has changed is missing, costs the others nothing, and is hashed next."""
        self.put("one/a", b"changed")
        os.unlink(os.path.join(self.folder, "two/d"))
        expected = {**self.contents, "one/a": None, "two/d": None}
        self.assertEqual(self.read_all(), expected)
        self.assertEqual(self.hash_all(), ["one/a"])
        self.assertEqual(self.read([root_of(b"changed")]), [b"changed"])

    def test_changes_while_read(self) -> None:
        """What changes under way is missing, though all its bytes came."""
        reads = os.preadv

        def meddle(fd: int, rooms: Sequence[memoryview], offset: int) -> int:
            count = reads(fd, rooms, offset)
            if bytes(rooms[0]) == self.contents["one/b"]:
                self.put("one/b", b"x" * count)
            return count

        self.patch(os, "preadv", meddle)
        self.assertEqual(self.read_all(), {**self.contents, "one/b": None})
        self.assertEqual(self.hash_all(), ["one/b"])

    def test_links(self) -> None:
        """No link is followed out of the share, whether it took the place of a file or a folder,
        nor one to a file that is just what was hashed."""
        for path in ("one", "two/d"):
            whole = os.path.join(self.folder, path)
            os.rename(whole, os.path.join(self.top, "elsewhere"))
            os.symlink(os.path.join(self.top, "elsewhere"), whole)
            missing = {each: None for each in self.contents if each.startswith(path)}
            self.assertEqual(self.read_all(), {**self.contents, **missing})
            os.unlink(whole)
            os.rename(os.path.join(self.top, "elsewhere"), whole)

    def test_folder_swapped_meanwhile(self) -> None:
        """If a folder is exchanged while its files are read, only what was hashed is given out."""
        other = os.path.join(self.top, "other")
        shutil.copytree(os.path.join(self.folder, "one"), other)
        reads = os.preadv

        def meddle(fd: int, rooms: Sequence[memoryview], offset: int) -> int:
            if bytes(os.pread(fd, 100, 0)) == self.contents["one/a"] and os.path.isdir(other):
                os.rename(os.path.join(self.folder, "one"), os.path.join(self.top, "moved"))
                os.rename(other, os.path.join(self.folder, "one"))
            return reads(fd, rooms, offset)

        self.patch(os, "preadv", meddle)
        # Of "one" itself, that which was open; of a folder in it, what is there now.
        self.assertEqual(self.read_all(), {**self.contents, "one/in/c": None})

    def test_another_holder(self) -> None:
        """If one file has changed another with the content serves, in whatever share."""
        self.put("z", self.contents["one/a"])
        self.put("z", self.contents["one/b"], self.second)
        self.library.scan()
        self.hash_all()
        for path in ("one/a", "one/b"):
            self.put(path, b"changed")
        self.assertEqual(self.read_all(), self.contents)
        self.library.scan()
        self.assertEqual(self.read_all(), self.contents)

    def test_disk_failures(self) -> None:
        """A system that reads less than it is asked to changes nothing; one that fails costs the
        file that it fails for, and no descriptor."""
        reads, looks = os.preadv, os.fstat

        def some(fd: int, rooms: Sequence[memoryview], offset: int) -> int:
            return reads(fd, [memoryview(rooms[0])[:7]], offset)

        def fails(fd: int, rooms: Sequence[memoryview], offset: int) -> int:
            if os.pread(fd, 100, 0) == self.contents["one/a"]:
                raise OSError(5, "Input/output error")
            return reads(fd, rooms, offset)

        def stale(fd: int) -> os.stat_result:
            if os.pread(fd, 100, 0) == self.contents["one/a"]:
                raise OSError(116, "Stale file handle")
            return looks(fd)

        with mock.patch("os.preadv", some):
            self.assertEqual(self.read_all(), self.contents)
        for patch in (mock.patch("os.preadv", fails), mock.patch("os.fstat", stale)):
            with patch:
                self.assertEqual(self.read_all(), {**self.contents, "one/a": None})
        self.assertEqual(self.read_all(), self.contents)

    def test_catalog_that_fails(self) -> None:
        """If many cannot be looked up at once, each is by itself."""
        large = self.large()
        with mock.patch.object(self.catalog, "first_holders", side_effect=DiskFailure("broken")):
            self.assertEqual(self.read_all(), self.contents)
            self.assertEqual(self.read([large, *self.roots("top")]), [None, self.contents["top"]])

    def test_share_that_goes(self) -> None:
        """What a share had that is gone meanwhile is missing."""
        holders = self.catalog.first_holders

        def go(share: bytes, roots: Sequence[bytes]) -> dict[bytes, Known]:
            self.library.shares[0].close()
            return holders(share, roots)

        with mock.patch.object(self.catalog, "first_holders", go):
            self.assertEqual(self.read_all(), dict.fromkeys(self.contents))

    def test_access(self) -> None:
        """What whoever asks may not see is missing, and that is noted; the rules are those of the
        view, which is as of now."""
        friend, stranger = b"f" * 32, b"s" * 32
        notes = mock.Mock()
        self.put("open", b"for all", self.second)
        self.library = Library(
            self.catalog, [Share(self.folder, allow=[friend]), Share(self.second, "other")], notes
        )
        self.addCleanup(self.library.close)
        self.library.scan()
        self.hash_all()
        roots = [*self.roots("top"), root_of(b"for all")]
        whole = [self.contents["top"], b"for all"]
        self.assertEqual(self.read(roots, view=self.library.seen_by(friend)), whole)
        notes.withheld.assert_not_called()
        self.assertEqual(self.read(roots, view=self.library.seen_by(stranger)), [None, b"for all"])
        notes.withheld.assert_called_once()
        self.put(ALLOW_FILE, b"nonsense", self.second)
        self.assertEqual(self.read(roots, view=self.library.seen_by(stranger)), [None, None])

    def test_manifest(self) -> None:
        """A small manifest is a content as others are, and none any more once it is not kept."""
        entry = self.library.stat("one/in/")
        assert entry.root is not None
        [content] = self.read([entry.root])
        assert content is not None
        self.assertEqual(root_of(content), entry.root)
        self.library.close()
        self.assertEqual(self.read([entry.root]), [None])
