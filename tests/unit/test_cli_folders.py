"""Tests for C{flow512 get DIR/}."""

from __future__ import annotations

import os

from flow512.cli.outcome import WRONG_USAGE
from flow512.cli.unfolding import Selection
from flow512.content.manifest import Item
from tests.unit.command_line import CommandCase, Said

TREE = {
    "photos/one.jpg": b"1" * 5000,
    "photos/two.png": b"2" * 100,
    "photos/raw/one.raw": b"r" * 300_000,
    "notes.txt": b"n" * 10,
}


class FolderTests(CommandCase):
    """A whole folder, as a user asks for it."""

    def get(self, *arguments: str) -> Said:
        """Fetch from the one node that there is."""
        return self.flow512("get", *arguments, "--from", "10.0.0.1")

    def content(self, folder: str = "") -> dict[str, bytes]:
        """The files that are here."""
        top = self.here / folder
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in top.rglob("*")
            if path.is_file()
        }

    def test_folder(self) -> None:
        """A folder comes whole, with one line that sums it up; again, nothing is fetched."""
        self.start_node(TREE, beacon_port=None)
        target = str(self.here / "mine")
        said = self.get("photos/", "-o", target)
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertRegex(
            said.out, r"\AFolder '.*mine': 3 of 3 files, 298 KiB in \d+\.\d s \(.+/s\)\.\n\Z"
        )
        expected = {path[7:]: data for path, data in TREE.items() if path.startswith("photos/")}
        self.assertEqual(self.content("mine"), expected)
        said = self.get("photos/", "-o", target)
        self.assertIn("0 of 3 files", said.out)
        self.assertIn("3 were here already", said.out)

    def test_everything(self) -> None:
        """C{/} is all that the peer offers; it has no name, so -o has to give one."""
        self.start_node(TREE, beacon_port=None)
        said = self.get("/")
        self.assertEqual(said.status, WRONG_USAGE)
        self.assertIn("-o", said.err)
        said = self.get("/", "-o", str(self.here))
        self.assertEqual(said.status, 0)
        self.assertEqual(self.content(), TREE)

    def test_selection(self) -> None:
        """Patterns choose what comes."""
        self.start_node(TREE, beacon_port=None)
        self.get("/", "-o", str(self.here / "a"), "--include", "*.jpg", "--include", "notes*")
        self.assertEqual(sorted(self.content("a")), ["notes.txt", "photos/one.jpg"])
        self.get("/", "-o", str(self.here / "b"), "--exclude", "raw", "--exclude", "*.txt")
        self.assertEqual(sorted(self.content("b")), ["photos/one.jpg", "photos/two.png"])

    def test_left_out(self) -> None:
        """What is here and is another stays, and is said; with --replace it does not."""
        self.start_node(TREE, beacon_port=None)
        (self.here / "one.jpg").write_bytes(b"mine")
        said = self.get("photos/", "-o", str(self.here))
        self.assertIn("2 of 3 files", said.out)
        self.assertIn("Left out: one.jpg: Another file of that name is here; --replace", said.out)
        self.assertEqual((self.here / "one.jpg").read_bytes(), b"mine")
        said = self.get("photos/", "-o", str(self.here), "--replace")
        self.assertNotIn("Left out", said.out)
        self.assertEqual((self.here / "one.jpg").read_bytes(), TREE["photos/one.jpg"])

    def test_json(self) -> None:
        """A program is told what was found, what was left out, and the counts."""
        self.start_node(TREE, beacon_port=None)
        (self.here / "one.jpg").write_bytes(b"mine")
        said = self.get("photos/", "-o", str(self.here), "--json")
        self.assertEqual(said.event("found")["path"], "photos/")
        self.assertEqual(said.event("left_out")["path"], "one.jpg")
        done = said.event("done")
        self.assertEqual(
            {name: done[name] for name in ("files", "folders", "stored", "left_out", "unchanged")},
            {"files": 3, "folders": 1, "stored": 2, "left_out": 1, "unchanged": 0},
        )
        self.assertEqual(done["fetched"], 300_100)

    def test_by_content_id(self) -> None:
        """The manifest's content id gets the folder, too, from whoever has made it."""
        self.start_node(TREE, beacon_port=None)
        target = str(self.here / "one")
        root = self.get("photos/", "-o", target, "--json").event("found")["root"]
        said = self.get(f"{root}/", "-o", str(self.here / "two"))
        self.assertEqual(said.status, 0)
        self.assertEqual(self.content("two"), self.content("one"))

    def test_no_such_folder(self) -> None:
        """A folder that nobody has is not found, and none is made here."""
        self.start_node(TREE, beacon_port=None)
        said = self.get("films/", "-o", str(self.here / "films"))
        self.assertEqual(said.status, 3)
        self.assertIn("films/", said.err)
        self.assertFalse((self.here / "films").exists())
        said = self.get("../", "-o", str(self.here / "up"))
        self.assertEqual(said.status, WRONG_USAGE)
        self.assertEqual(os.listdir(self.here), [])


class SelectionTests(CommandCase):
    """What patterns fit."""

    def test_patterns(self) -> None:
        """Without a slash a pattern is about names anywhere; with one, about whole paths."""
        for include, exclude, path, expected in (
            ((), (), "a/b.txt", True),
            (("*.txt",), (), "a/b.txt", True),
            (("*.txt",), (), "a/b.png", False),
            (("a/*",), (), "a/deep/b.png", True),
            (("a/*",), (), "b/a/x", False),
            ((), ("a",), "a/b.txt", False),
            ((), ("a/",), "x/a/b.txt", False),
            ((), ("b.*",), "a/b.txt", False),
            (("*.txt",), ("secret*",), "secret.txt", False),
            ((), ("A",), "a/b", True),
        ):
            chosen = Selection(include, exclude)(Item(path, 0, 0, 0, b"r" * 32))
            self.assertEqual(chosen, expected, (include, exclude, path))
