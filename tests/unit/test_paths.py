"""
Tests for L{flow512.content.paths}.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import stat
import tempfile
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.paths import (
    MAX_DEPTH,
    MAX_NAME,
    check_name,
    check_new_name,
    check_path,
    escape,
    is_own_name,
    open_beneath,
    open_folder,
    open_folder_beneath,
    twin_key,
)
from flow512.errors import DiskFailure, NotFound, ShareMissing, TooManyOpenFiles, UnsafeName
from flow512.wire.fields import MAX_PATH

ANY_TEXT = st.text(st.characters(), max_size=40)
"""Lone surrogates included."""

REFUSED_NAMES = {
    "": "empty",
    ".": "stands for a folder",
    "..": "stands for a folder",
    "a/b": "parts folders",
    "..\\b": "parts folders",
    "C:": "drive letter",
    "c:x.txt": "drive letter",
    "~": "home folder",
    "~root": "home folder",
    "a\0b": r"\x00",
    "a\nb": r"\x0a",
    "a\rb": r"\x0d",
    "a\tb": r"\x09",
    "\x1b[31mred": r"\x1b",
    "a\x7f": r"\x7f",
    "a\x9b2J": r"\x9b",
    "a\u2028b": r"\u2028",
    "a\u2029b": r"\u2029",
    "gpj.\u202eexe": "direction",
    "\u202aa": "direction",
    "a\u2066b": "direction",
    "a\u2069": "direction",
    "a\u200e": "direction",
    "a\u200f": "direction",
    "\u061ca": "direction",
    "a\ud800": "half a character",
    "\udcffa": r"it contains \xff, a byte that is not UTF-8",
    "CON": "device",
    "con": "device",
    "Nul.txt": "device",
    "nul .txt": "device",
    "COM1": "device",
    "com9.tar.gz": "device",
    "COM\u00b9": "device",
    "LPT3:": "device",
    "CONIN$": "device",
    "conout$.x": "device",
    "aux": "device",
    "prn": "device",
    "a.": "dot or a space",
    "a ": "dot or a space",
    " ": "dot or a space",
    "...": "dot or a space",
    "a" * (MAX_NAME + 1): "longer than 255",
    "\u20ac" * (MAX_NAME // 3 + 1): "longer than 255",
    "a" * 10_000_000: "longer than 255",
}

ALLOWED_NAMES = [
    "a",
    "a" * MAX_NAME,
    "\u20ac" * (MAX_NAME // 3),
    "report.pdf",
    ".hidden",
    "..a",
    "a..b",
    "a ~ b",
    "-rf",
    " leading",
    "caf\u00e9",
    "cafe\u0301",
    "\N{FAMILY}\u200d\N{GIRL}.png",
    "console",
    "COM0",
    "COM10",
    "nullable.txt",
    "lpt",
]

NOT_ON_WINDOWS = ["What?.mp3", "12:30.txt", "<a>", 'a"b', "a|b", "*.txt", "ab:stream"]


class Names(SynchronousTestCase):
    """One part of a path."""

    def test_refused(self) -> None:
        """A hostile name is refused, in a printable sentence that says what is wrong with it."""
        for name, why in REFUSED_NAMES.items():
            error = self.assertRaises(UnsafeName, check_name, name)
            self.assertIn(why, str(error), ascii(name[:50]))
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 250)
            self.assertRaises(UnsafeName, check_new_name, name)

    def test_allowed(self) -> None:
        """An odd name that hurts nobody passes, also for a new file."""
        for name in ALLOWED_NAMES:
            check_name(name)
            check_new_name(name)

    def test_new_names(self) -> None:
        """What only Windows forbids may be shared, but no new file is called so unless asked."""
        for name in NOT_ON_WINDOWS:
            check_name(name)
            error = self.assertRaises(UnsafeName, check_new_name, name)
            self.assertIn("-o", str(error))

    def test_own_names(self) -> None:
        """Nobody's file can pass for one of our own hidden ones, in whatever case."""
        for name in (".flow512-aaaaaaaaaaaaaaaa.part", ".FLOW512-x"):
            self.assertTrue(is_own_name(name))
            self.assertRaises(UnsafeName, check_new_name, name)
        self.assertFalse(is_own_name("flow512-0.1.tar.gz"))

    @given(ANY_TEXT)
    def test_what_passes_can_be_stored(self, name: str) -> None:
        """Whatever passes is one printable-or-harmless part that a file system can store."""
        try:
            check_name(name)
        except UnsafeName as error:
            self.assertTrue(str(error).isprintable())
            return
        self.assertNotIn("/", name)
        self.assertNotIn("\0", name)
        self.assertNotIn(name, ("", ".", ".."))
        self.assertLessEqual(len(os.fsencode(name)), MAX_NAME)
        self.assertFalse(any(unicodedata.category(char) in ("Cc", "Cs") for char in name))


class Paths(SynchronousTestCase):
    """Whole paths."""

    def test_parts(self) -> None:
        """A good path is taken apart."""
        self.assertEqual(check_path("a"), ("a",))
        self.assertEqual(check_path("a/b c/d.txt"), ("a", "b c", "d.txt"))
        self.assertEqual(len(check_path("/".join("a" * MAX_DEPTH))), MAX_DEPTH)

    def test_longest(self) -> None:
        """The longest path passes, and one byte more does not, however it is spelled."""
        part = "\u20ac" * 50
        path = "/".join([part] * 27)
        path += "/" + "a" * (MAX_PATH - len(path.encode()) - 1)
        self.assertEqual(len(path.encode()), MAX_PATH)
        check_path(path)
        error = self.assertRaises(UnsafeName, check_path, path + "a")
        self.assertIn("4096", str(error))

    def test_refused(self) -> None:
        """A hostile path is refused in a sentence that says what is wrong with it."""
        for path, why in {
            "": "empty",
            "/": "absolute",
            "/etc/passwd": "absolute",
            "//host/share": "absolute",
            "a//b": "empty",
            "a/": "empty",
            "../a": "stands for a folder",
            "a/../../b": "'..', it stands for a folder",
            "a/./b": "stands for a folder",
            "..\\..\\a": "parts folders",
            "C:/Windows": "drive letter",
            "a/nul/b": "device",
            "~/.ssh/id": "home folder",
            "/".join("a" * (MAX_DEPTH + 1)): "100 folders deep",
            "a/" * 1000 + "a": "100 folders deep",
            "a" * (MAX_PATH + 1): "4096",
            "a" * 10_000_000: "4096",
        }.items():
            error = self.assertRaises(UnsafeName, check_path, path)
            self.assertIn(why, str(error), path[:50])

    def test_every_part_counts(self) -> None:
        """A name that is refused alone is refused wherever in a path it stands."""
        for name in REFUSED_NAMES:
            for path in (f"{name}/a", f"a/{name}", f"a/{name}/b"):
                if name != "a/b":
                    self.assertRaises(UnsafeName, check_path, path)

    @given(ANY_TEXT)
    def test_never_leads_out(self, path: str) -> None:
        """What passes stays beneath the folder that it is joined to."""
        try:
            parts = check_path(path)
        except UnsafeName:
            return
        self.assertEqual("/".join(parts), path)
        self.assertEqual(os.path.normpath(os.path.join("/share", path)), f"/share/{path}")


class Display(SynchronousTestCase):
    """Text for people."""

    def test_escape(self) -> None:
        """What does not print is shown by its number; the rest as it is."""
        for text, shown in {
            "": "",
            "plain \u00e9\u4e2d": "plain \u00e9\u4e2d",
            "a\nb\x1b[1m": r"a\x0ab\x1b[1m",
            "\u202eexe": r"\u202eexe",
            "\ud83d": r"\ud83d",
            "\U000e0041": r"\U000e0041",
            "back\\slash": "back\\slash",
        }.items():
            self.assertEqual(escape(text), shown)

    def test_limit(self) -> None:
        """A limit holds for what is shown, and a cut can be seen."""
        self.assertEqual(escape("abcde", 5), "abcde")
        self.assertEqual(escape("abcdef", 5), "abcd\u2026")
        self.assertEqual(escape("\n" * 10, 5), "\\x0a\u2026")

    @given(ANY_TEXT, st.integers(1, 50))
    def test_always_prints(self, text: str, limit: int) -> None:
        """Whatever comes, the result prints, can be encoded, and is escaped only once."""
        shown = escape(text)
        self.assertTrue(shown.isprintable())
        shown.encode()
        self.assertEqual(escape(shown), shown)
        self.assertLessEqual(len(escape(text, limit)), limit)


class Twins(SynchronousTestCase):
    """Names that other systems cannot tell apart."""

    def test_twins(self) -> None:
        """Case and normal form make no difference; anything else does."""
        for one, other in (
            ("Report.PDF", "report.pdf"),
            ("caf\u00e9", "cafe\u0301"),
            ("CAFE\u0301", "caf\u00e9"),
            ("stra\u00dfe", "STRASSE"),
            ("\u212aelvin", "kelvin"),
        ):
            self.assertEqual(twin_key(one), twin_key(other))
        self.assertNotEqual(twin_key("cafe"), twin_key("caf\u00e9"))
        self.assertNotEqual(twin_key("a"), twin_key("a "))

    @given(ANY_TEXT)
    def test_every_form_has_one_key(self, name: str) -> None:
        """A name has the key of its own normal forms, and the key is a name of the same key."""
        key = twin_key(name)
        self.assertEqual(twin_key(unicodedata.normalize("NFC", name)), key)
        self.assertEqual(twin_key(unicodedata.normalize("NFD", name)), key)
        self.assertEqual(twin_key(key), key)


class Opening(SynchronousTestCase):
    """Files and folders beneath a folder."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.outside = os.path.join(holder.name, "outside")
        self.share = os.path.join(holder.name, "share")
        os.makedirs(os.path.join(self.share, "sub", "deep"))
        os.mkdir(self.outside)
        self.make(self.outside, "secret", b"secret")
        self.make(self.share, "file", b"file")
        self.make(self.share, "sub/deep/leaf", b"leaf")
        self.fd = open_folder(self.share)
        self.addCleanup(os.close, self.fd)

    def make(self, folder: str, name: str, data: bytes) -> None:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)

    def refused(self, *parts: str, flags: int = os.O_RDONLY) -> str:
        return str(self.assertRaises(UnsafeName, open_beneath, self.fd, parts, flags))

    def test_opens(self) -> None:
        """A file is opened, at whatever depth, and the folder's descriptor is left alone."""
        for parts, data in ((("file",), b"file"), (("sub", "deep", "leaf"), b"leaf")):
            fd = open_beneath(self.fd, parts)
            self.addCleanup(os.close, fd)
            self.assertEqual(os.read(fd, 10), data)
            self.assertFalse(os.get_inheritable(fd))
        os.fstat(self.fd)

    def test_opens_folders(self) -> None:
        """A folder beneath is opened; no parts stand for the folder itself, opened anew."""
        for parts, names in ((("sub",), ["deep"]), ((), ["file", "sub"])):
            fd = open_folder_beneath(self.fd, parts)
            self.addCleanup(os.close, fd)
            self.assertEqual(sorted(os.listdir(fd)), names)
            self.assertNotEqual(fd, self.fd)

    def test_no_descriptor_is_left(self) -> None:
        """Neither success nor failure leaves a folder open on the way."""
        before = len(os.listdir("/dev/fd"))
        os.close(open_beneath(self.fd, ("sub", "deep", "leaf")))
        for parts in (("sub", "deep", "none"), ("sub", "file", "x"), ("sub", "deep"), ("", "x")):
            self.assertRaises((NotFound, UnsafeName), open_beneath, self.fd, parts)
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_links_are_not_followed(self) -> None:
        """A link is refused as the file, as a folder on the way, and wherever it points."""
        os.symlink(os.path.join(self.outside, "secret"), os.path.join(self.share, "link"))
        os.symlink("file", os.path.join(self.share, "inner"))
        os.symlink(self.outside, os.path.join(self.share, "out"))
        os.symlink("none", os.path.join(self.share, "dangling"))
        os.symlink(self.outside, os.path.join(self.share, "sub", "out"))
        for parts in (
            ("link",),
            ("inner",),
            ("dangling",),
            ("out",),
            ("out", "secret"),
            ("sub", "out", "secret"),
        ):
            self.assertIn("link", self.refused(*parts))
        self.assertRaises(UnsafeName, open_folder_beneath, self.fd, ("out",))

    def test_only_regular_files(self) -> None:
        """A FIFO does not block us; it, a socket and a folder are refused."""
        os.mkfifo(os.path.join(self.share, "fifo"))
        os.mknod(os.path.join(self.share, "socket"), stat.S_IFSOCK | 0o600)
        for name in ("fifo", "socket", "sub"):
            self.assertIn("not a regular file", self.refused(name))
        self.assertIn("not a regular file", self.refused("fifo", flags=os.O_WRONLY))
        self.assertIn("not a regular file", self.refused("sub", flags=os.O_RDWR))

    def test_parts_are_checked(self) -> None:
        """Whoever forgets to check the parts still does not get out."""
        for parts in (("..", "outside", "secret"), ("sub/../../outside/secret",), ("",), (".",)):
            self.refused(*parts)

    def test_not_there(self) -> None:
        """What is not there is said not to be, by its own name."""
        for parts, why in (
            (("none",), "no 'none'"),
            (("sub", "none", "x"), "no 'none'"),
            (("file", "x"), "'file' is not a folder"),
        ):
            error = self.assertRaises(NotFound, open_beneath, self.fd, parts)
            self.assertIn(why, str(error))

    def test_folder_removed(self) -> None:
        """Nothing is found in a folder that was removed while it was open."""
        fd = open_folder_beneath(self.fd, ("sub", "deep"))
        self.addCleanup(os.close, fd)
        os.unlink(os.path.join(self.share, "sub", "deep", "leaf"))
        os.rmdir(os.path.join(self.share, "sub", "deep"))
        self.assertRaises(NotFound, open_beneath, fd, ("leaf",))

    def test_machine_errors(self) -> None:
        """An error of this machine keeps its own name."""
        closed = os.dup(self.fd)
        os.close(closed)
        error = self.assertRaises(DiskFailure, open_beneath, closed, ("file",))
        self.assertIn(os.strerror(errno.EBADF), str(error))

    def test_out_of_descriptors(self) -> None:
        """When the process has no descriptor left, that is what it says, at every step."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        # Whatever else is open: from here on none below is free, and none above is used.
        gc.collect()
        highest = max(map(int, os.listdir("/proc/self/fd")))
        free = 0
        while free <= highest:
            filler = os.dup(self.fd)
            self.addCleanup(os.close, filler)
            free = filler + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        self.assertRaises(TooManyOpenFiles, open_folder, self.share)
        self.assertRaises(TooManyOpenFiles, open_beneath, self.fd, ("file",))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        self.assertRaises(TooManyOpenFiles, open_beneath, self.fd, ("file",))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
        os.close(open_beneath(self.fd, ("file",)))

    def test_open_folder_through_link(self) -> None:
        """The user's own folder may be reached through a link."""
        link = os.path.join(self.outside, "share")
        os.symlink(self.share, link)
        fd = open_folder(link)
        self.addCleanup(os.close, fd)
        self.assertEqual(sorted(os.listdir(fd)), ["file", "sub"])

    def test_open_folder_missing(self) -> None:
        """A folder that is none is said to be none, in one printable sentence."""
        file = os.path.join(self.share, "file")
        for path, why in (
            (os.path.join(self.share, "none"), "There is no folder"),
            (file, "is not a folder"),
            ("a\0b", r"a\x00b"),
            ("", "There is no folder"),
            ("x" * 5000, "There is no folder"),
        ):
            error = self.assertRaises(ShareMissing, open_folder, path)
            self.assertIn(why, str(error))
            self.assertTrue(str(error).isprintable())
