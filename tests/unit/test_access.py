"""
Access: who may see a share, by which rule, and that none is opened by mistake.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from io import FileIO
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.access import (
    ALLOW_FILE,
    MAX_ALLOW_FILE,
    NOBODY,
    Change,
    parse_allowed,
    unreadable_id,
)
from flow512.content.catalog import IN_MEMORY, Catalog
from flow512.content.library import Library, Share, View
from flow512.errors import DiskFailure, Misuse, NotFound
from flow512.wire.messages import Entry
from tests.unit.test_shares import as_nobody

ANN = b"a" * 32
BOB = b"b" * 32
EVE = b"e" * 32


def parse(text: str) -> bytes:
    """Read an id as these tests write it: one letter."""
    if len(text) != 1 or not text.isalpha() or not text.isascii():
        raise Misuse(f"'{text}' is no node id.")
    return text.encode() * 32


class Notes:
    """Everything that a library had to say."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Change]] = []
        self.refusals: list[tuple[bytes, str, str]] = []

    def rules_changed(self, share: str, change: Change) -> None:
        self.changes.append((share, change))

    def withheld(self, asker: bytes, share: str, rule: str) -> None:
        self.refusals.append((asker, share, rule))


class BrokenFile(FileIO):
    """A file on a disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class AllowFileTests(SynchronousTestCase):
    """Reading the file of those who may see a share."""

    def test_forms(self) -> None:
        """One id a line; comments, blanks, empty lines and the marks of other systems are fine."""
        rows: list[tuple[bytes, set[bytes]]] = [
            (b"", set()),
            (b"# nobody\n\n", set()),
            (b"a", {ANN}),
            (b"a\nb\n", {ANN, BOB}),
            (b"a\r\nb\r\n", {ANN, BOB}),
            (b"\xef\xbb\xbfa\n", {ANN}),
            (b"  a\t# Ann's laptop\n\t# b is gone\na\n", {ANN}),
            ("a # Ännchen\n".encode(), {ANN}),
            ("a # Ännchen\n".encode("latin-1"), {ANN}),
        ]
        for data, allowed in rows:
            self.assertEqual(parse_allowed(data, parse), allowed, data)

    def test_wrong_line(self) -> None:
        """One wrong line makes the whole file wrong, and is named by its number."""
        rows = [
            (b"nonsense", "line 1: "),
            (b"a\n\nb b\nb\n", "line 3: "),
            (b"a\n\xff\xfe\n", "line 2 is no text."),
            (b"a,b", "line 1: "),
            (b"a\x00", "line 1: "),
            (b"a\rb", "line 1: "),
            (b"a\n\x1b[2J\n", "line 2: '\\x1b[2J' is no node id."),
        ]
        for data, sentence in rows:
            with self.assertRaises(Misuse) as caught:
                parse_allowed(data, parse)
            self.assertTrue(str(caught.exception).startswith(sentence), str(caught.exception))

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever is in the file is a list of ids, or refused as a whole."""
        try:
            allowed = parse_allowed(data, parse)
        except Misuse:
            return
        self.assertTrue(all(len(node) == 32 for node in allowed))

    def test_no_parser(self) -> None:
        """A program that was not told how ids are written reads none."""
        with self.assertRaises(Misuse):
            parse_allowed(b"a", unreadable_id)


class AccessCase(SynchronousTestCase):
    """Two folders, of which the second is shared with everybody."""

    def setUp(self) -> None:
        """Make them."""
        self.top = self.enterContext(tempfile.TemporaryDirectory())
        os.chmod(self.top, 0o755)
        self.private = os.path.join(self.top, "private")
        self.public = os.path.join(self.top, "public")
        os.mkdir(self.private)
        os.mkdir(self.public)
        self.notes = Notes()
        self.open_library()

    def open_library(self, *allow: bytes) -> None:
        """Share the folders, the first of them with these only."""
        self.catalog = Catalog(IN_MEMORY)
        self.addCleanup(self.catalog.close)
        self.share = Share(self.private, "private", allow=allow, parse_id=parse)
        self.library = Library(self.catalog, [self.share, Share(self.public, "public")], self.notes)
        self.addCleanup(self.library.close)

    def put(self, path: str, data: bytes, folder: str = "") -> str:
        """Write a file into the private folder, or another."""
        whole = os.path.join(folder or self.private, path)
        with open(whole, "wb") as file:
            file.write(data)
        return whole

    def allow(self, data: bytes) -> None:
        """Write the file of those who may see the private folder."""
        self.put(ALLOW_FILE, data)

    def who_sees(self) -> str:
        """Say whom the private folder is shown to."""
        askers = {"a": ANN, "b": BOB, "e": EVE, "-": NOBODY}
        return "".join(
            name
            for name, asker in askers.items()
            if self.share in self.library.seen_by(asker).shares
        )

    def sentences(self) -> list[str]:
        """Take what was told of the rules."""
        changes, self.notes.changes = self.notes.changes, []
        return [change.sentence for _, change in changes]


class RuleTests(AccessCase):
    """Who sees a share."""

    def test_no_rule(self) -> None:
        """Everybody, where there is no rule; even who has proven nothing."""
        self.assertEqual(self.who_sees(), "abe-")
        self.assertEqual((self.notes.changes, self.notes.refusals), ([], []))

    def test_option(self) -> None:
        """Those that the share was given, and no others."""
        self.open_library(ANN, BOB)
        self.assertEqual(self.who_sees(), "ab")

    def test_nobody_cannot_be_allowed(self) -> None:
        """A rule that names nobody in particular is no rule that lets anybody in."""
        self.open_library(NOBODY)
        self.assertEqual(self.who_sees(), "")

    def test_file(self) -> None:
        """Those whom the file names; its changes count at once, even within one tick of a clock."""
        for text, seen in (
            ("a", "a"),
            ("b", "b"),
            ("a\ne", "ae"),
            ("", ""),
            ("# a", ""),
            ("e", "e"),
        ):
            self.allow(text.encode())
            os.utime(os.path.join(self.private, ALLOW_FILE), ns=(0, 0))
            self.assertEqual(self.who_sees(), seen, text)

    def test_both(self) -> None:
        """With both rules, those whom both name."""
        self.open_library(ANN, BOB)
        self.allow(b"b\ne\n")
        self.assertEqual(self.who_sees(), "b")

    def test_rules_are_named(self) -> None:
        """A view says which rule hides what."""
        rows: list[tuple[tuple[bytes, ...], bytes | None, bytes, str]] = [
            ((ANN,), None, EVE, "--allow does not name it"),
            ((), b"a", EVE, f"{ALLOW_FILE} does not name it"),
            ((ANN,), b"e", EVE, "--allow does not name it"),
            ((ANN,), b"??", ANN, f"{ALLOW_FILE} cannot be used"),
            ((ANN,), None, NOBODY, "without TLS nobody proves who he is"),
            ((), b"a", NOBODY, "without TLS nobody proves who he is"),
        ]
        for option, data, asker, rule in rows:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.private, ALLOW_FILE))
            if data is not None:
                self.allow(data)
            self.open_library(*option)
            self.assertEqual(self.library.seen_by(asker).withheld, (("private", rule),))

    def test_equal_views(self) -> None:
        """Views that show the same are equal, whosever they are."""
        self.open_library(ANN, BOB)
        views = {self.library.seen_by(asker) for asker in (ANN, BOB)}
        self.assertEqual(len(views), 1)
        self.assertNotIn(self.library.seen_by(EVE), views)


class MistakeTests(AccessCase):
    """No share is opened by mistake."""

    def test_wrong_line(self) -> None:
        """A wrong line closes the share to everybody, and is told once, with its number."""
        self.allow(b"a\nnonsense\n")
        self.assertEqual([self.who_sees() for _ in range(3)], ["", "", ""])
        [(share, change)] = self.notes.changes
        self.assertEqual((share, change.is_fault), ("private", True))
        self.assertIn("line 2: 'nonsense'", change.sentence)
        self.sentences()
        self.allow(b"a\n")
        self.assertEqual(self.who_sees(), "a")
        [(_, change)] = self.notes.changes
        self.assertFalse(change.is_fault)
        self.assertIn("allows: 1", change.sentence)
        self.sentences()
        self.allow(b"a\nnonsense\n")
        self.assertEqual(self.who_sees(), "")
        self.assertEqual(len(self.sentences()), 1)

    def test_no_file(self) -> None:
        """What stands in the file's place and cannot be read as one closes the share."""
        place = os.path.join(self.private, ALLOW_FILE)
        outside = self.put("outside", b"a", self.top)
        for make in (
            lambda: os.symlink(outside, place),
            lambda: os.mkfifo(place),
        ):
            make()
            self.assertEqual(self.who_sees(), "")
            self.assertEqual(len(self.sentences()), 1)
            os.unlink(place)
        os.mkdir(place)
        self.assertEqual(self.who_sees(), "")

    def test_unreadable(self) -> None:
        """A file that may not be read closes the share, until it may."""
        self.allow(b"a")
        place = os.path.join(self.private, ALLOW_FILE)
        os.chmod(place, 0)
        with as_nobody():
            self.assertEqual(self.who_sees(), "")
            self.assertIn("Permission denied", "".join(self.sentences()))
        os.chmod(place, 0o644)
        self.assertEqual(self.who_sees(), "a")

    def test_missed_while_unreadable(self) -> None:
        """
        That the rules cannot be read is none of them: those who could see the share miss it, so
        that nobody who mirrors it takes its files for deleted.
        """
        self.allow(b"a")
        self.assertEqual(self.who_sees(), "a")
        self.assertFalse(self.share.is_missed_by(ANN))
        place = os.path.join(self.private, ALLOW_FILE)
        os.chmod(place, 0)
        with as_nobody():
            self.assertEqual(self.who_sees(), "")
        self.assertEqual([self.share.is_missed_by(who) for who in (ANN, BOB)], [True, False])
        os.unlink(place)
        self.assertEqual(self.who_sees(), "")
        self.assertTrue(self.share.is_missed_by(ANN))
        for _ in range(2):
            self.share.walked()
        self.assertFalse(self.share.is_missed_by(ANN))

    def test_read_error(self) -> None:
        """So does an error of the disk in the middle of it."""
        self.allow(b"a")
        self.assertEqual(self.who_sees(), "a")

        def broken(fd: int, mode: str) -> BrokenFile:
            return BrokenFile(fd, mode)

        with patch("flow512.content.access.open", broken, create=True):
            self.assertEqual(self.who_sees(), "")
        self.assertIn(os.strerror(errno.EIO), self.sentences()[1])
        self.assertEqual(self.who_sees(), "a")

    def test_too_long(self) -> None:
        """A file that is too long is not read in part."""
        self.allow(b"a\n" + b"#" * (MAX_ALLOW_FILE - 2))
        self.assertEqual(self.who_sees(), "a")
        self.allow(b"a\n" + b"#" * (MAX_ALLOW_FILE - 1))
        self.assertEqual(self.who_sees(), "")

    def test_no_parser(self) -> None:
        """Where nobody can read ids, the file closes the share."""
        self.put(ALLOW_FILE, b"a", self.public)
        self.assertEqual(self.library.seen_by(ANN).shares, (self.share,))

    def test_nobody_listens(self) -> None:
        """The rules hold all the same for an application that does not want to hear of them."""
        self.allow(b"a")
        self.put("secret", b"secret")
        library = Library(self.catalog, [Share(self.private, parse_id=parse)])
        self.addCleanup(library.close)
        library.scan()
        self.assertEqual(library.list(view=library.seen_by(EVE)), ((), False))
        self.assertEqual(len(library.list(view=library.seen_by(ANN))[0]), 1)

    def test_removed(self) -> None:
        """A file that is gone counts until two walks in succession have missed it."""
        self.allow(b"a")
        self.assertEqual(self.who_sees(), "a")
        self.sentences()
        os.unlink(os.path.join(self.private, ALLOW_FILE))
        self.assertEqual([self.who_sees() for _ in range(3)], ["a", "a", "a"])
        [sentence] = self.sentences()
        self.assertIn("is gone", sentence)
        self.library.scan()
        self.assertEqual(self.who_sees(), "a")
        self.library.scan()
        self.assertEqual(self.who_sees(), "abe-")

    def test_replaced(self) -> None:
        """A file that is only gone for a moment opens nothing, however often that happens."""
        self.allow(b"a")
        self.library.scan()
        for _ in range(3):
            os.unlink(os.path.join(self.private, ALLOW_FILE))
            self.library.scan()
            self.assertEqual(self.who_sees(), "a")
            self.allow(b"a")
            self.library.scan()
        os.unlink(os.path.join(self.private, ALLOW_FILE))
        self.assertEqual(self.who_sees(), "a")
        self.allow(b"??")
        self.library.scan()
        self.assertEqual(self.who_sees(), "")

    def test_cannot_be_read_for_now(self) -> None:
        """A walk that cannot tell whether the file is there has not missed it."""
        self.allow(b"a")
        self.library.scan()
        place = os.path.join(self.private, ALLOW_FILE)
        os.unlink(place)
        self.library.scan()
        os.mkdir(place)
        self.share.look_again()
        os.rmdir(place)
        self.share.look_again()
        self.assertEqual(self.who_sees(), "a")

    def test_folder_removed(self) -> None:
        """While a folder is being deleted, nobody new sees what is left of it."""
        self.allow(b"a")
        self.put("secret", b"secret")
        self.library.scan()
        os.unlink(os.path.join(self.private, ALLOW_FILE))
        self.assertEqual(self.who_sees(), "a")
        shutil.rmtree(self.private)
        self.assertEqual(self.who_sees(), "a")
        self.library.scan()
        self.assertEqual(self.who_sees(), "")
        os.mkdir(self.private)
        self.allow(b"b")
        self.library.scan()
        self.assertEqual(self.who_sees(), "b")

    def test_told_at_the_first_walk(self) -> None:
        """The owner hears of a wrong file before anybody asks."""
        self.allow(b"??")
        self.library.scan()
        self.assertEqual(len(self.sentences()), 1)
        self.library.scan()
        self.assertEqual(self.sentences(), [])


class LibraryTests(AccessCase):
    """A library answers everybody as if the shares that he may not see were not there."""

    def setUp(self) -> None:
        """Put a file into each folder, one that both have, and allow Ann."""
        super().setUp()
        self.put("private", b"private")
        self.put("both", b"both, in private")
        self.put("both", b"both, in public", self.public)
        self.put("public", b"public", self.public)
        self.allow(b"a")
        self.library.scan()
        self.roots: dict[bytes, bytes] = {}
        while (entry := self.library.hash_next()) is not None:
            assert entry.root is not None
            share = self.public if entry.size in (6, 15) else self.private
            with open(os.path.join(share, entry.path), "rb") as file:
                self.roots[file.read()] = entry.root

    def view(self, asker: bytes) -> View:
        """Find out what somebody sees."""
        return self.library.seen_by(asker)

    def listed(self, asker: bytes) -> dict[str, int]:
        """List for somebody: sizes by path."""
        return {each.path: each.size for each in self.library.list(view=self.view(asker))[0]}

    def test_list(self) -> None:
        """In lists, and a path that is withheld hides none that is not."""
        self.assertEqual(self.listed(ANN), {"both": 16, "private": 7, "public": 6})
        self.assertEqual(self.listed(EVE), {"both": 15, "public": 6})
        self.assertEqual(self.listed(NOBODY), {"both": 15, "public": 6})
        self.assertEqual(len(self.library.list()[0]), 3)

    def test_by_path(self) -> None:
        """By path, whether the file is hashed already or not."""
        self.put("new", b"new")
        for path in ("private", "new", ALLOW_FILE, "nothing"):
            self.assertIsNone(self.library.known(path, self.view(EVE)))
            with self.assertRaises(NotFound) as caught:
                self.library.stat(path, view=self.view(EVE))
            self.assertEqual(
                str(caught.exception),
                f"No file '{path}' is shared here; `flow512 ls` shows what is.",
            )
        self.assertEqual(self.library.stat("new", view=self.view(ANN)).size, 3)
        known = self.library.known("both", self.view(EVE))
        assert known is not None
        self.assertEqual(known.size, 15)
        self.assertEqual(self.library.stat("both", view=self.view(EVE)).size, 15)
        self.assertEqual(self.library.stat("both", view=self.view(ANN)).size, 16)

    def ask_all(self, root: bytes, asker: bytes) -> set[str]:
        """Ask for a content in every way, and collect what is answered when it is refused."""
        refusals = set()
        for ask in (
            lambda view: self.library.stat("", root, view=view),
            lambda view: self.library.page(root, 0, 0, view),
            lambda view: self.library.page(root, 9, 9, view),
            lambda view: self.library.checksum(root, view=view),
            lambda view: self.library.open(root, view),
        ):
            try:
                answer = ask(self.view(asker))
            except NotFound as error:
                refusals.add(str(error))
                continue
            except Misuse:
                continue  # the tree has no such page
            if not isinstance(answer, bytes | Entry):
                answer.close()
        return refusals

    def test_by_content(self) -> None:
        """By content id, in whatever way it is asked for: as of one that is nowhere."""
        root = self.roots[b"private"]
        self.library.checksum(root)  # so that it is known, too
        self.assertEqual(self.ask_all(root, ANN), set())
        [refusal] = self.ask_all(root, EVE)
        [unknown] = self.ask_all(bytes(32), EVE)
        self.assertEqual(refusal.partition("flow512:")[0], unknown.partition("flow512:")[0])
        self.assertNotIn("private", refusal)

    def test_content_in_two_shares(self) -> None:
        """A content that is also in a share that he may see is given, under its name there."""
        self.put("copy", b"private", self.public)
        self.library.scan()
        self.library.hash_next()
        root = self.roots[b"private"]
        self.assertEqual(self.ask_all(root, EVE), set())
        self.assertEqual(self.library.stat("", root, view=self.view(EVE)).path, "copy")
        self.assertEqual(self.library.stat("", root, view=self.view(ANN)).path, "private")

    def test_no_longer_shared(self) -> None:
        """What was shared in a former run, and is not now, is as unknown as the rest."""
        library = Library(self.catalog, [Share(self.public)])
        self.addCleanup(library.close)
        root = self.roots[b"private"]
        for ask in (
            lambda: library.page(root, 0, 0),
            lambda: library.checksum(root),
        ):
            with self.assertRaises(NotFound):
                ask()

    def test_taken_away_while_open(self) -> None:
        """A file that is open is read no more once its reader may not see it, and the log knows."""
        root = self.roots[b"private"]
        content = self.library.open(root, self.view(ANN))
        self.addCleanup(content.close)
        content.check_access()
        self.allow(b"b")
        self.notes.refusals.clear()
        with self.assertRaises(NotFound):
            content.check_access()
        self.assertEqual(self.notes.refusals, [(ANN, "private", f"{ALLOW_FILE} does not name it")])
        owners = self.library.open(root)
        self.addCleanup(owners.close)
        owners.check_access()

    def test_notes(self) -> None:
        """Who is refused by a rule, and in which share, is noted; who is not, is not."""
        refusal = (EVE, "private", f"{ALLOW_FILE} does not name it")
        root = self.roots[b"private"]
        for ask in (
            lambda view: self.library.list(view=view),
            lambda view: self.library.stat("private", view=view),
            lambda view: self.library.stat("", root, view=view),
            lambda view: self.library.page(root, 0, 0, view),
            lambda view: self.library.checksum(root, view=view),
            lambda view: self.library.open(root, view),
        ):
            self.notes.refusals.clear()
            with contextlib.suppress(NotFound):
                ask(self.view(EVE))
            self.assertEqual(self.notes.refusals, [refusal])
        self.notes.refusals.clear()
        self.library.stat("public", view=self.view(EVE))
        self.library.list(view=self.view(ANN))
        with self.assertRaises(NotFound):
            self.library.stat("nothing", view=self.view(ANN))
        self.assertEqual(self.notes.refusals, [])

    def test_other_failures_are_no_refusals(self) -> None:
        """A disk that fails is not taken for a rule."""
        place = os.path.join(self.public, "public")
        os.chmod(place, 0)
        with as_nobody(), self.assertRaises(DiskFailure):
            self.library.open(self.roots[b"public"], self.view(EVE))
        self.assertEqual(self.notes.refusals, [])

    def test_own_files(self) -> None:
        """The file itself is nobody's to see, nor is it told whether it could be read."""
        os.chmod(os.path.join(self.private, ALLOW_FILE), 0o600)
        self.assertNotIn(ALLOW_FILE, self.listed(ANN))
        with self.assertRaises(NotFound):
            self.library.stat(ALLOW_FILE, view=self.view(ANN))
        self.put(".flow512-x", b"x", self.public)
        os.chmod(os.path.join(self.public, ".flow512-x"), 0)
        with as_nobody():
            self.assertIsNone(self.library.known(".flow512-x", self.view(EVE)))
