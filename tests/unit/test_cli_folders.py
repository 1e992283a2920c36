"""Tests for C{flow512 get DIR/}."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Sequence

from twisted.internet.defer import Deferred

from flow512.cli import unfolding
from flow512.cli.outcome import DONE, WRONG_USAGE
from flow512.cli.unfolding import Selection
from flow512.content.disk import Disk
from flow512.content.manifest import Item
from flow512.content.mirroring import Beyond, Mirror
from flow512.errors import DiskFailure
from flow512.transfer import folders
from flow512.transfer.asked import ParcelSink
from flow512.transfer.source import SourceProtocol
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
            said.out, r"\AFolder '.*mine': 3 of 3 files, 298 KiB in \d+\.\d+ s \(.+/s\)\.\n\Z"
        )
        expected = {path[7:]: data for path, data in TREE.items() if path.startswith("photos/")}
        self.assertEqual(self.content("mine"), expected)
        said = self.get("photos/", "-o", target)
        self.assertRegex(
            said.out, r"\AFolder '.*mine': nothing was fetched; 3 were here already\.\n\Z"
        )
        (self.here / "mine" / sorted(expected)[0]).unlink()
        said = self.get("photos/", "-o", target)
        self.assertIn("': 1 of 3 files, ", said.out)

    def test_everything(self) -> None:
        """C{/} is all that the peer offers; it has no name, so -o has to give one."""
        self.start_node(TREE, beacon_port=None)
        said = self.get("/")
        self.assertEqual(said.status, WRONG_USAGE)
        self.assertIn("-o", said.err)
        said = self.get("/", "-o", str(self.here))
        self.assertEqual(said.status, 0)
        self.assertEqual(self.content(), TREE)

    def test_current_folder(self) -> None:
        """The current folder is one like any other, however it is named."""
        self.start_node({}, beacon_port=None, shares=(os.path.abspath(self.share(TREE)),))
        self.here = self.here.resolve()
        self.addCleanup(os.chdir, os.getcwd())
        for number, here in enumerate((".", "./", "{}")):
            folder = self.here / str(number)
            folder.mkdir()
            os.chdir(folder)
            # What is in the folder has nothing to do with what the folder is called.
            (folder / "photos").write_bytes(b"mine")
            said = self.get("photos/", "-o", here.format(os.getcwd()))
            self.assertEqual((said.status, said.err), (0, ""))
            self.assertEqual((folder / "one.jpg").read_bytes(), TREE["photos/one.jpg"])
            self.assertEqual((folder / "photos").read_bytes(), b"mine")
            (folder / "photos").unlink()
            said = self.get("/", "-o", here.format(os.getcwd()))
            self.assertEqual((said.status, said.err), (0, ""))
            self.assertEqual((folder / "photos/two.png").read_bytes(), TREE["photos/two.png"])

    def test_empty_output(self) -> None:
        """A shell variable that is not set names no folder, and least of all this one."""
        for target in ("photos/", "notes.txt"):
            said = self.get(target, "-o", "")
            self.assertEqual((said.status, said.out), (WRONG_USAGE, ""))
            self.assertRegex(said.err, r"\Aflow512: -o is empty; [^\n]+\n\Z")

    def test_nothing_comes(self) -> None:
        """Folders that were made for nothing go again; those that were there stay."""
        self.start_node(TREE, beacon_port=None)
        (self.here / "empty").mkdir()
        for name in ("new", "new/", "new/deep/one", "empty", "empty/deep"):
            said = self.get("photos/", "-o", f"{self.here}/{name}", "--include", "nothing")
            self.assertEqual((said.status, said.out), (3, ""))
            self.assertEqual([each.name for each in self.here.iterdir()], ["empty"])
            self.assertEqual(os.listdir(self.here / "empty"), [])

    def test_empty_folder(self) -> None:
        """A folder that is empty there is so here."""
        share = self.share(TREE)
        os.mkdir(os.path.join(share, "nothing"))
        self.start_node({}, beacon_port=None, shares=(share,))
        said = self.get("nothing/", "-o", str(self.here / "new"))
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual(os.listdir(self.here / "new"), [])

    def test_selection(self) -> None:
        """Patterns choose what comes."""
        self.start_node(TREE, beacon_port=None)
        self.get("/", "-o", str(self.here / "a"), "--include", "*.jpg", "--include", "notes*")
        self.assertEqual(sorted(self.content("a")), ["notes.txt", "photos/one.jpg"])
        self.get("/", "-o", str(self.here / "b"), "--exclude", "raw", "--exclude", "*.txt")
        self.assertEqual(sorted(self.content("b")), ["photos/one.jpg", "photos/two.png"])
        self.get("/", "-o", str(self.here / "c"), "--include", "raw")
        self.assertEqual(sorted(self.content("c")), ["photos/raw/one.raw"])
        self.get("/", "-o", str(self.here / "d"), "--include", "*.txt")
        self.assertEqual(os.listdir(self.here / "d"), ["notes.txt"])

    def test_nothing_fits(self) -> None:
        """Patterns that fit nothing are said, and nothing is done, nor deleted."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        for patterns in (("--include", "*.bin"), ("--exclude", "*")):
            said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete", *patterns)
            self.assertEqual((said.status, said.out), (3, ""))
            self.assertIn("Nothing in that folder fits; check --include", said.err)
        self.assertTrue((self.here / "old/a.jpg").exists())

    def test_options_of_the_other_kind(self) -> None:
        """What would do nothing for a folder, or for a file, is refused before anybody is asked."""
        for target, option, value in (
            ("notes.txt", "--include", "*"),
            ("notes.txt", "--exclude", "*"),
            ("photos/", "--http-source", "http://10.0.0.1/"),
            ("photos/", "--run", "1"),
        ):
            said = self.get(target, option, value)
            self.assertEqual((said.status, said.out), (WRONG_USAGE, ""))
            self.assertIn(f"{option} is not for", said.err)

    def test_names_that_windows_forbids(self) -> None:
        """What has a name that may not be here is left out; the command that is said gets it."""
        names = ("What's up?", "flow512:notes", "-x?", "films/What's up?", "How?/x", "-o?/x")
        self.start_node({name: name.encode() for name in (*names, "b")}, beacon_port=None)
        said = self.get("/", "-o", str(self.here))
        self.assertEqual(said.status, 7)
        self.assertEqual(self.content(), {"b": b"b"})
        commands = said.out.split("`")[1::2]
        for number, command in enumerate(commands):
            mine = shlex.quote(str(self.here / f"mine {number}"))
            words = shlex.split(command.replace(" -o NAME", f" -o {mine} --from 10.0.0.1"))
            said = self.flow512(*words[1:])
            self.assertEqual((words[0], said.status, said.err), ("flow512", 0, ""))
        came = self.content().values()
        self.assertEqual(sorted(came), sorted(name.encode() for name in (*names, "b")))

    def test_what_is_left_out_with_a_folder(self) -> None:
        """A folder that is left out counts with all that is in it; each is told to a program."""
        files = {f"photos/{number:02}": b"x" for number in range(15)}
        self.start_node({**TREE, **files}, beacon_port=None)
        (self.here / "photos").write_bytes(b"mine")
        said = self.get("/", "-o", str(self.here))
        self.assertEqual(said.status, 7)
        self.assertIn("\nLeft out: 19 that are in these folders.\n", said.out)
        self.assertEqual(said.err, "flow512: Not all of the folder is here; left out: 20.\n")
        said = self.get("/", "-o", str(self.here), "--json")
        paths = [event["path"] for event in said.events if event["event"] == "left_out"]
        self.assertEqual(len(paths), 20)
        self.assertLessEqual({*files, "photos/raw/one.raw"}, set(paths))
        kinds = [event["event"] for event in said.events]
        self.assertLess(kinds.index("left_out"), kinds.index("done"))
        self.assertEqual((said.event("done")["left_out"], said.status), (20, 7))
        self.assertEqual(said.event("error")["code"], "Incomplete")

    def test_disk_that_is_full(self) -> None:
        """When a folder cannot be made for want of space, it has failed, in one sentence."""
        self.start_node(TREE, beacon_port=None)

        def full(*args: object, **more: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        self.patch(Disk, "mkdir", full)
        said = self.get("photos/", "-o", str(self.here))
        self.assertEqual((said.status, said.out), (1, ""))
        self.assertRegex(said.err, r"\Aflow512: The disk is full while making .*\.\n\Z")

    def test_progress(self) -> None:
        """How far it is is told from the beginning on, at first without knowing of how much: the
        list is not read to its end before much of the folder is here."""
        self.start_node({f"{number:04}": bytes(1000) for number in range(1300)}, beacon_port=None)
        self.network.run(10)  # until all of it is hashed
        self.patch(folders, "AHEAD", 200_000)
        said = self.get("/", "-o", str(self.here), "--json", "--down", "400KiB")
        told = [event for event in said.events if event["event"] == "progress"]
        stored = [event["stored"] for event in told if event["bytes"] is None]
        self.assertGreater(stored[-1], 0)
        self.assertEqual(told[-1]["bytes"], 1_300_000)
        self.assertEqual(len({event["bytes"] for event in told}), 2)

    def test_liar(self) -> None:
        """Who sends something wrong is named on standard error."""
        self.start_node(TREE, beacon_port=None)
        bundle = SourceProtocol.bundle

        def lie(
            source: SourceProtocol, roots: Sequence[bytes], sizes: Sequence[int], sink: ParcelSink
        ) -> Deferred[None]:
            lies = [memoryview(bytes(size)) for size in sizes]
            return bundle(source, roots, sizes, lambda first, got: sink(first, lies[: len(got)]))

        self.patch(SourceProtocol, "bundle", lie)
        said = self.get("photos/", "-o", str(self.here))
        self.assertIn("10.0.0.1:5000 was dropped: The source sent another file", said.err)
        self.assertEqual(said.status, 1)

    def test_mirror_of_a_share_that_is_gone(self) -> None:
        """When a share of the peer is gone, none of it is deleted here."""
        other = self.share({"films/film": b"film"}, "other")
        files = self.share(TREE, "files")
        self.start_node({}, beacon_port=None, shares=(files, other))
        target = ("-o", str(self.here), "--mirror", "--delete")
        self.assertEqual(self.get("/", *target).status, 0)
        self.assertIn("films/film", self.content())
        os.rename(other, other + ".away")
        self.network.run(70)
        said = self.get("/", *target)
        self.assertEqual(said.status, 7)
        self.assertIn("Left out: /: The peer cannot read all of it now", said.out)
        self.assertIn("films/film", self.content())

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

    def mirrored(self) -> None:
        """Have all of the folder here, some of it otherwise, and more."""
        self.get("photos/", "-o", str(self.here))
        (self.here / "two.png").write_bytes(b"mine")
        for name in ("raw/old.raw", "old/a.jpg", "old/b.jpg"):
            (self.here / name).parent.mkdir(exist_ok=True)
            (self.here / name).write_bytes(b"old")

    def test_mirror(self) -> None:
        """--mirror takes what differs and names what is too much; --delete deletes that as well."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        said = self.get("photos/", "-o", str(self.here), "--mirror")
        self.assertIn(
            "\nHere and not there: old/a.jpg, old/b.jpg, old/, raw/old.raw;"
            " --mirror --delete deletes them.\n",
            said.out,
        )
        self.assertEqual(self.content()["two.png"], TREE["photos/two.png"])
        self.assertEqual(len(self.content()), 6)
        self.assertEqual(said.status, 0)
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertIn("\nDeleted: old/a.jpg, old/b.jpg, old/, raw/old.raw.\n", said.out)
        expected = {path[7:]: data for path, data in TREE.items() if path.startswith("photos/")}
        self.assertEqual(self.content(), expected)
        self.assertFalse((self.here / "old").exists())
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertEqual(len(said.out.splitlines()), 1)

    def test_mirror_of_permissions(self) -> None:
        """Only --mirror brings the permissions of what is unchanged up to date; it stays that."""
        self.addCleanup(os.umask, os.umask(0o022))
        files = self.share(TREE, "files")
        names = {"one.jpg": 0o600, "raw/one.raw": 0o775, "two.png": 0o4711}
        for name in names:
            os.chmod(os.path.join(files, "photos", name), 0o755)
        self.start_node({}, beacon_port=None, shares=(files,))
        target = ("-o", str(self.here))
        self.get("photos/", *target)
        for name, mode in names.items():
            os.chmod(os.path.join(files, "photos", name), mode)
        self.network.run(70)
        for option, modes in (
            ((), [0o755, 0o755, 0o755]),
            (("--replace",), [0o755, 0o755, 0o755]),
            (("--mirror",), [0o600, 0o755, 0o711]),
        ):
            said = self.get("photos/", *target, *option)
            self.assertIn("nothing was fetched; 3 were here already", said.out)
            found = [stat.S_IMODE((self.here / name).stat().st_mode) for name in names]
            self.assertEqual(found, modes)

    def test_mirror_of_a_part(self) -> None:
        """What patterns leave out is not touched."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        (self.here / "empty").mkdir()
        (self.here / "new").mkdir()
        (self.here / "new/c.jpg").write_bytes(b"new")
        patterns = ("--mirror", "--delete", "--include", "*.jpg", "--exclude", "b.*")
        said = self.get("photos/", "-o", str(self.here), *patterns)
        self.assertIn("Deleted: new/c.jpg, new/, old/a.jpg.", said.out)
        self.assertEqual(self.content()["two.png"], b"mine")
        self.assertEqual((self.here / "raw/old.raw").read_bytes(), b"old")
        self.assertTrue((self.here / "old/b.jpg").exists())
        self.assertTrue((self.here / "empty").exists())

    def test_many_too_much(self) -> None:
        """Of much that is too much, the first are named and the others counted."""
        self.start_node(TREE, beacon_port=None)
        for number in range(15):
            (self.here / f"{number:02}").write_bytes(b"mine")
        (self.here / "CON").write_bytes(b"mine")
        target = ("-o", str(self.here), "--mirror")
        said = self.get("photos/", *target)
        self.assertIn("00, 01, 02, 03, 04, 05, 06, 07, 08, 09 and 6 more;", said.out)
        said = self.get("photos/", *target, "--delete", "--json")
        deleted = [event["path"] for event in said.events if event["event"] == "deleted"]
        self.assertEqual(deleted, [f"{number:02}" for number in range(15)])
        self.assertEqual(said.event("kept")["path"], "CON")
        done = said.event("done")
        self.assertEqual((done["surplus"], done["deleted"]), (16, 15))
        said = self.get("photos/", *target, "--delete")
        self.assertIn("\nNot deleted: CON: 'CON' is refused as a name", said.out)

    def test_mirror_that_is_not_whole(self) -> None:
        """If something is left out, nothing is deleted, and that is said."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        (self.here / "one.jpg").rename(self.here / "ONE.jpg")
        (self.here / "raw/one.raw").unlink()
        (self.here / "raw/one.raw").mkdir()
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertIn("Left out: one.jpg: Some systems cannot tell it from 'ONE.jpg'", said.out)
        self.assertIn("Left out: raw/one.raw: A folder of that name is here.", said.out)
        self.assertIn(
            "\nHere and not there: ONE.jpg, old/a.jpg, old/b.jpg, old/, raw/old.raw, raw/one.raw/.",
            said.out,
        )
        self.assertIn("\nNothing was deleted, since something was left out.\n", said.out)
        self.assertTrue((self.here / "old/a.jpg").exists())

    def test_mirror_of_another_kind(self) -> None:
        """What is in the way goes with what is not there; if it cannot, that is said."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        (self.here / "one.jpg").unlink()
        (self.here / "one.jpg").mkdir()
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertEqual((said.status, said.err), (DONE, ""))
        self.assertIn("\nDeleted: old/a.jpg, old/b.jpg, old/, one.jpg/", said.out)
        self.assertTrue((self.here / "one.jpg").is_file())
        (self.here / "one.jpg").unlink()
        (self.here / "one.jpg").mkdir()
        (self.here / "one.jpg/CON").touch()
        (self.here / "more").touch()
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertEqual(said.status, 7)
        self.assertIn("Left out: one.jpg: A folder of that name is here.", said.out)
        self.assertIn("\nDeleted: more.\nNot deleted: one.jpg/CON: ", said.out)
        self.assertNotIn("Nothing was deleted", said.out)

    def test_mirror_that_is_stopped(self) -> None:
        """Stopped or failed before the end, nothing is deleted, and that is said."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        (self.here / "raw/one.raw").unlink()
        arguments = ("get", "photos/", "-o", str(self.here), "--mirror", "--delete", "--json")
        said = self.flow512(*arguments, "--from", "10.0.0.1", until=lambda out: "found" in out)
        self.assertRegex(said.event("error")["sentence"], r"\AStopped .* Nothing was deleted\.\Z")
        said = self.flow512(*arguments, "--from", "10.0.0.9")
        self.assertRegex(said.event("error")["sentence"], r"reached.* Nothing was deleted\.\Z")
        self.assertTrue((self.here / "old/a.jpg").exists())

    def test_mirror_that_fails_late(self) -> None:
        """If it fails when something has been deleted, that is said instead."""
        self.start_node(TREE, beacon_port=None)
        self.mirrored()
        compare = Mirror.compare

        def fail(mirror: Mirror, beyond: Beyond) -> None:
            compare(mirror, beyond)
            raise DiskFailure("The disk fails.")

        self.patch(Mirror, "compare", fail)
        said = self.get("photos/", "-o", str(self.here), "--mirror", "--delete")
        self.assertEqual(said.err, "flow512: The disk fails. 4 were deleted.\n")

    def test_mirror_usage(self) -> None:
        """--delete needs --mirror, and --mirror a folder; else nobody is even asked."""
        for arguments in (("photos/", "--delete"), ("notes.txt", "--mirror")):
            said = self.get(*arguments)
            self.assertEqual((said.status, said.out), (WRONG_USAGE, ""))
            self.assertIn("--mirror is for" if len(arguments[0]) > 7 else "give both", said.err)

    def test_nobody_there(self) -> None:
        """When nothing has begun, there is nothing to go on with; when it has, that is said."""
        self.assertNotIn("Run the same command", self.get("photos/").err)
        self.start_node({"a": b"a", "z": bytes(9_000_000)}, beacon_port=None)

        def lose(out: str) -> bool:
            if '"stored": 1' in out:
                self.network.cut(self.server, self.client)
            return False

        target = ("-o", str(self.here), "--json", "--from", "10.0.0.1")
        said = self.flow512("get", "/", *target, until=lose)
        self.assertEqual(said.status, 5)
        self.assertIn("Run the same command again to go on.", said.event("error")["sentence"])

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
            (("a",), (), "a/deep/b", True),
            (("a/deep/",), (), "a/deep/er/b", True),
            (("a/deep",), (), "a/deeper", False),
            ((), ("a/d*p",), "a/deep/er/b", False),
            ((), ("*/d",), "a/b/d/e", False),
            ((), ("a/b",), "x/a/b", True),
        ):
            chosen = Selection(include, exclude)(Item(path, 0, 0, 0, b"r" * 32))
            self.assertEqual(chosen, expected, (include, exclude, path))

    def test_folders(self) -> None:
        """With patterns a folder is wanted if it fits; what is in one nobody knows may be."""
        chosen = Selection(("*.txt",))
        self.assertFalse(chosen(Item("a/", 0, 0)))
        self.assertTrue(chosen(Item("a.txt/", 0, 0)))
        self.assertTrue(chosen(Item("a/", 0, 0, 1)))
        self.assertFalse(Selection((), ("a",))(Item("a/", 0, 0, 1)))

    def test_long_paths(self) -> None:
        """A path of thousands of parts is gone through once for a pattern, not once for a part."""
        looked = 0

        def counted(text: str, pattern: str) -> bool:
            nonlocal looked
            looked += len(text)
            return False

        self.patch(unfolding, "fnmatchcase", counted)
        Selection(("x/*",), ("y", "z/*"))(Item("a/" * 2000 + "b", 0, 0, 0, b"r" * 32))
        self.assertLess(looked, 20_000)
