"""What C{flow512} says to who has asked for something that is not so."""

from __future__ import annotations

import io
import os

from flow512.cli.outcome import WRONG_USAGE
from flow512.link.node_id import format_node_id
from tests.unit.command_line import CommandCase, Said

LOCAL = ("--no-beacon", "--from", "10.0.0.1")


class Descriptor(io.StringIO):
    """Text that was written to a file; what does not go through it is lost."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


class SentenceTests(CommandCase):
    """One node shares a file in a folder."""

    def setUp(self) -> None:
        super().setUp()
        self.node = self.start_node(
            {"films/a.txt": b"film\n", "my films/a": b"mine"}, beacon_port=None
        )

    def failing(self, status: int, *arguments: str) -> str:
        with open(os.devnull, "wb") as nowhere:
            said = self.flow512(*arguments, out=Descriptor(nowhere.fileno()))
        self.assertEqual((said.status, said.out), (status, ""), said.err)
        self.assertRegex(said.err, r"\Aflow512: [^\n]+\n\Z")
        return said.err

    def test_folder_without_its_slash(self) -> None:
        """Who asks for a folder as for a file is told how to ask for it."""
        self.assertIn("ask for 'films/'", self.failing(3, "get", "films", *LOCAL))
        said = self.failing(3, "cat", "films", *LOCAL)
        self.assertIn("`flow512 get films/` fetches it", said)
        said = self.failing(3, "cat", "my films", *LOCAL)
        self.assertIn("`flow512 get 'my films/'` fetches it", said)
        for command in ("get", "cat"):
            self.assertIn("Nobody has 'film'", self.failing(3, command, "film", *LOCAL))

    def test_cat_of_a_folder(self) -> None:
        """C{cat} writes files, and says so before anybody is asked."""
        said = self.failing(WRONG_USAGE, "cat", "films/", *LOCAL)
        self.assertIn("'films/' is a folder, and cat writes one file", said)

    def test_folder_onto_a_file(self) -> None:
        """A folder does not go where a file is: that exists already."""
        taken = self.here / "taken"
        taken.write_bytes(b"mine")
        said = self.failing(4, "get", "films/", "-o", str(taken), *LOCAL)
        self.assertIn("is there, and is no folder", said)
        self.assertEqual(taken.read_bytes(), b"mine")
        (self.here / "films").symlink_to("nowhere")
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.here)
        self.assertIn("'./films' is there", self.failing(4, "get", "films/", *LOCAL))

    def test_options_of_the_other_kind(self) -> None:
        """An option that would mean nothing is refused."""
        said = self.failing(WRONG_USAGE, "get", "films/", "--http-source", "http://a/b", *LOCAL)
        self.assertIn("--http-source is not for folders", said)
        for option in ("--include", "--exclude"):
            said = self.failing(WRONG_USAGE, "get", "films/a.txt", option, "x", *LOCAL)
            self.assertIn(f"{option} is not for single files", said)

    def test_impossible_address(self) -> None:
        """What can only be an address, and is none, is refused at once."""
        start = self.network.clock.seconds()
        for command in (("get", "x", "--from"), ("cat", "x", "--from"), ("ls",)):
            said = self.failing(WRONG_USAGE, *command, "127.0.0.1:99999")
            self.assertIn("its port has to be one from 1 to 65535", said)
        said = self.failing(WRONG_USAGE, "ls", "nobody@10.0.0.1:5000")
        self.assertIn("is no node id", said)
        self.assertEqual(self.network.clock.seconds(), start)

    def test_banned(self) -> None:
        """Whoever asks a node that he has banned is told so in his own name, and not in its."""
        state = str(self.folder / "state")
        node = format_node_id(self.node.introduction.node)
        self.assertEqual(self.flow512("ban", node, "--state", state).status, 0)
        for command in ("get", "cat"):
            said = self.failing(1, command, "films/a.txt", *LOCAL, "--state", state)
            self.assertIn("10.0.0.1:5000: You have banned that node; `flow512 bans`", said)

    def test_one_second(self) -> None:
        """One second is one."""
        for arguments in (("ls", "box"), ("peers",)):
            said: Said = self.flow512(*arguments, "--no-beacon", "--wait", "1")
            self.assertIn("within 1 second;", said.err)

    def test_not_utf8(self) -> None:
        """A byte of a name that is not UTF-8 is called that."""
        said = self.failing(WRONG_USAGE, "get", os.fsdecode(b"latin\xe9.txt"), *LOCAL)
        self.assertIn(r"it contains \xe9, a byte that is not UTF-8", said)
