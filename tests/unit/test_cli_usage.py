"""What C{flow512} makes of what is typed, as far as no network is needed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from contextlib import redirect_stderr, redirect_stdout

from msgspec.structs import replace

from flow512 import errors
from flow512.cli.formatting import (
    columns,
    exact_time_text,
    rate_text,
    size_text,
    time_text,
    took_text,
)
from flow512.cli.main import main
from flow512.cli.outcome import Interrupted, status_of
from flow512.cli.tables import Columns
from flow512.cli.voice import PlainVoice
from flow512.content.tree import format_content_id, parse_content_id
from flow512.link.named_registry import NamedRegistry
from flow512.settings import NodeSettings
from tests.unit.command_line import CommandCase


class UsageTests(CommandCase):
    """Wrong usage is one sentence and exit status 2."""

    def refused(self, *arguments: str) -> str:
        said = self.flow512(*arguments)
        self.assertEqual((said.status, said.out), (2, ""))
        self.assertRegex(said.err, r"\Aflow512: [^\n]+\n\Z")
        return said.err

    def test_no_command(self) -> None:
        """Without a command, the help is written to standard error."""
        said = self.flow512()
        self.assertEqual((said.status, said.out), (2, ""))
        for command in ("serve", "get", "ls", "peers", "id", "console", "demo"):
            self.assertIn(f"\n  {command} ", said.err)

    def test_help_and_version(self) -> None:
        """They are what was asked for: standard output, exit status 0."""
        said = self.flow512("get", "--help")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertIn("--no-md5", said.out)
        said = self.flow512("--version")
        self.assertRegex(said.out, r"\Aflow512 \d+\.\d+")
        self.assertEqual(said.status, 0)

    def test_for_programs(self) -> None:
        """With --json it is an object as well, of those commands that have objects to print."""
        share = self.share({})
        for arguments in (
            ("get",),
            ("get", "flow512:x"),
            ("get", "a", "--wait", "soon"),
            ("serve", share, "--limit", "foo=1"),
        ):
            said = self.flow512(*arguments, "--json")
            self.assertEqual(said.status, 2)
            error = said.event("error")
            self.assertEqual(
                (said.err, error["code"]), (f"flow512: {error['sentence']}\n", "Misuse")
            )
        for arguments in (("cat", "a"), ("frob",)):
            self.assertIn("flow512: No such ", self.refused(*arguments, "--json"))

    def test_width_of_help(self) -> None:
        """Help fits into the terminal, and is not so wide that it could not be read."""
        for terminal, widest in (("40", 38), ("80", 78), ("300", 98)):
            self.patch_environment("COLUMNS", terminal)
            for arguments in (("--help",), ("get", "--help"), ("invite", "--help")):
                width = max(map(len, self.flow512(*arguments).out.splitlines()))
                self.assertTrue(widest - 12 <= width <= widest, (terminal, arguments, width))

    def test_mistyped(self) -> None:
        """The sentence names what is wrong, and the command whose help to read."""
        self.assertIn("No such command 'frob'; see `flow512 --help`.", self.refused("frob"))
        self.assertIn("'TARGET'; see `flow512 get --help`.", self.refused("get"))
        self.assertIn("'--run'", self.refused("get", "x", "--run", "0"))
        self.assertIn("'--run'", self.refused("get", "x", "--run", "2049"))
        self.assertIn("'--wait'", self.refused("get", "x", "--wait", "-1"))
        self.assertIn("'--bootstrap'", self.refused("serve", ".", "--bootstrap", "perhaps"))
        self.assertIn("'DIR...'", self.refused("serve"))
        said = self.refused("serve", ".", "--registry")
        self.assertIn("'--registry' requires an argument; see `flow512 serve --help`.", said)
        for wrong in (("--run", "x"), ("--wait", "x")):
            self.assertIn("'x' is no number that fits; see", self.refused("get", "x", *wrong))
        said = self.refused("get", "x", "--form", "y")
        self.assertIn("Did you mean '--from'? See `flow512 get --help`.", said)
        self.assertIn("'serve'?) See `flow512 --help`.", self.refused("Serve"))

    def test_url(self) -> None:
        """Whoever asks for what a browser fetches hears how web servers are made use of."""
        for command in ("get", "cat"):
            self.assertIn("--http-source", self.refused(command, "http://example.org/file.iso"))

    def test_address_that_is_none(self) -> None:
        """It is quoted once, and the sentence says how addresses are given."""
        said = self.refused("get", "x", "--from", "10.0.0.1:y", "--no-beacon")
        self.assertEqual(said.count("10.0.0.1:y"), 1)
        self.assertIn("give host, host:port", said)
        said = self.refused("serve", self.share({}), "--listen", "10.0.0.1:5000")
        self.assertIn("give it as in tcp:5000, or tcp:5000:interface=10.0.0.5.", said)

    def test_no_link(self) -> None:
        """Nothing at all is no link that could be wrong."""
        self.assertIn("No join link was given", self.refused("join", ""))

    def test_no_time(self) -> None:
        """How long something takes is a number that time can reach."""
        for given in ("nan", "inf", "1e999"):
            for command in (("get", "x", "--wait"), ("ls", "--wait"), ("serve", ".", "--rescan")):
                said = self.refused(*command, given)
                self.assertIn(f"Invalid value for '{command[-1]}': ", said)
                self.assertIn("is no number of seconds; see `flow512", said)

    def test_from_nobody(self) -> None:
        """A shell variable that is not set does not mean everybody."""
        for command in (
            ("get", "x"),
            ("get", "x/"),
            ("cat", "x"),
            ("verify", "x"),
            ("repair", "x"),
        ):
            self.assertIn("--from is empty; ", self.refused(*command, "--from", ""))

    def test_impossible_prefix(self) -> None:
        """What no path can begin with is not looked for."""
        said = self.refused("ls", "--prefix", os.fsdecode(b"films/caf\xe9"))
        self.assertIn(
            r"'films/caf\udce9' is refused as a prefix: it contains \xe9, a byte that is not UTF-8",
            said,
        )
        for prefix in ("x" * 4097, "\N{EURO SIGN}" * 1366):
            self.assertIn("it is longer than 4096 bytes", self.refused("ls", "--prefix", prefix))

    def test_senseless(self) -> None:
        """So does what only flow512 itself can judge."""
        self.assertIn("is no address", self.refused("peers", "--registry", "a b"))
        self.assertIn("at most 64 characters", self.refused("peers", "--network", "n" * 65))

    def test_hostile_paths(self) -> None:
        """A path that no share can have is refused before anybody is asked."""
        for path in ("", "../x", "/etc/passwd", "a\x1b[2Jb", "\udcff"):
            self.assertIn("is refused as a path", self.refused("get", path))

    def test_half_an_id(self) -> None:
        """What begins like a content id has to be one."""
        self.assertIn("That is no content id", self.refused("get", "flow512:abc"))

    def test_ctrl_c_without_network(self) -> None:
        """Ctrl-C while a command works without a network is exit status 130 as well."""

        def interrupt(*_: object, **__: object) -> int:
            raise KeyboardInterrupt

        err = io.StringIO()
        with redirect_stderr(err):
            status = main(["peers"], interrupt)
        self.assertEqual((status, err.getvalue().strip()), (130, "flow512: Stopped."))

    def test_reader_gone(self) -> None:
        """When nobody reads the output any more, that is no sentence but exit status 1."""
        read, write = os.pipe()
        os.close(read)
        err = io.StringIO()
        with open(write, "w", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(err):
            with self.assertRaises(SystemExit) as ended:
                main(["--version"])
            self.assertEqual((ended.exception.code, err.getvalue()), (1, ""))
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

    def test_names_that_the_terminal_lacks(self) -> None:
        """Characters that standard output cannot show are written as escapes."""
        raw = io.BytesIO()
        path = self.folder / "naïve"
        path.write_bytes(b"")
        with io.TextIOWrapper(raw, "ascii") as out, redirect_stdout(out):
            self.assertEqual(main(["id", str(path)]), 0)
            self.assertIn(b"na\\xefve", raw.getvalue())


class StatusTests(CommandCase):
    """Every kind of error has the documented exit status."""

    def test_statuses(self) -> None:
        """Scripts can tell wrong usage, absence, a taken name and bad luck apart."""
        expected = {
            errors.DiskFull: 1,
            errors.BadDigest: 1,
            errors.StateInUse: 1,
            errors.NotAllowed: 1,
            errors.Misuse: 2,
            errors.ShareMissing: 2,
            errors.UnsafeName: 2,
            errors.NotFound: 3,
            errors.NoSuchPeer: 3,
            errors.TargetExists: 4,
            errors.Unreachable: 5,
            errors.PeerLost: 5,
            errors.TimedOut: 5,
            errors.Busy: 5,
            Interrupted: 130,
        }
        self.assertEqual({kind: status_of(kind("x")) for kind in expected}, expected)


class IdTests(CommandCase):
    """C{flow512 id} needs no network."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "a\nb.txt"
        self.path.write_bytes(b"hello\n")

    def test_plain(self) -> None:
        """One line a file: the content id that C{get} takes, the MD5 of C{md5sum}, the path."""
        said = self.flow512("id", str(self.path), str(self.path))
        [line, again] = said.out.splitlines()
        root, md5, path = line.split("  ")
        self.assertEqual(format_content_id(parse_content_id(root)), root)
        self.assertEqual(md5, hashlib.md5(b"hello\n").hexdigest())
        self.assertTrue(path.endswith("a\\x0ab.txt"), path)
        self.assertEqual((again, said.status, said.err), (line, 0, ""))

    def test_json(self) -> None:
        """The object has the path as it is."""
        told = self.flow512("id", "--json", str(self.path)).event("id")
        self.assertEqual(told["path"], str(self.path))
        self.assertEqual((told["bytes"], told["md5"]), (6, hashlib.md5(b"hello\n").hexdigest()))

    def test_some_fail(self) -> None:
        """The others are done, and the exit status tells of the last failure."""
        said = self.flow512("id", str(self.folder), str(self.folder / "nope"), str(self.path))
        self.assertEqual(said.status, 3)
        self.assertIn("is not a regular file", said.err)
        self.assertIn("There is no file", said.err)
        self.assertIn("a\\x0ab.txt", said.out)
        self.assertEqual(self.flow512("id", "a\0b").status, 3)
        told = self.flow512("id", "--json", str(self.folder)).event("error")
        self.assertEqual(told["code"], "Misuse")

    def test_true_cause(self) -> None:
        """Another failure is named as the system names it."""
        said = self.flow512("id", "x" * 300)
        self.assertEqual(said.status, 1)
        self.assertIn(os.strerror(errno.ENAMETOOLONG), said.err)


class FormattingTests(CommandCase):
    """Numbers as people read them."""

    def test_sizes(self) -> None:
        """About three digits, and never a thousand of something."""
        sizes = [0, 1, 512, 999, 1000, 1024, 10_240, 1_023_999, 64 * 2**20, 2**40, 2**63, 2**80]
        self.assertEqual(
            [size_text(size) for size in sizes],
            [
                *("0 bytes", "1 byte", "512 bytes", "999 bytes", "1.0 KiB", "1.0 KiB", "10.0 KiB"),
                *("1.0 MiB", "64.0 MiB", "1.0 TiB", "8.0 EiB", "1048576 EiB"),
            ],
        )

    def test_rates(self) -> None:
        """Nothing is infinitely fast."""
        self.assertEqual(rate_text(2048, 2.0), "1.0 KiB/s")
        self.assertEqual(rate_text(1, 0.0), "1.0 KiB/s")
        for seconds, text in (
            (61.04, "61.0 s"),
            (0.1, "0.1 s"),
            (0.0123, "0.01 s"),
            (0, "0.001 s"),
        ):
            self.assertEqual(took_text(seconds), text)

    def test_times(self) -> None:
        """Any number that a peer sends can be shown."""
        self.assertEqual(exact_time_text(1_000_000_000 * 10**9), "2001-09-09T01:46:40Z")
        self.assertRegex(time_text(1_000_000_000 * 10**9), r"\A2001-09-(08|09) \d\d:\d\d\Z")
        for mtime in (2**63 - 1, -(2**63), 0):
            self.assertTrue(time_text(mtime))
            self.assertTrue(exact_time_text(mtime))
        self.assertEqual(exact_time_text(10**30), "?")
        self.assertEqual(time_text(10**30), "?")

    def test_columns(self) -> None:
        """They line up, without blanks at the ends."""
        self.assertEqual(columns([["a", "bb"], ["ccc", "d"]], [3, 2]), ["a    bb", "ccc  d"])
        self.assertEqual(columns([], []), [])

    def test_long_tables(self) -> None:
        """Rows are shown as they come, lined up with each other and with those before."""
        out = io.StringIO()
        table = Columns(PlainVoice(out, out))
        table.row("name", "size")
        table.rows([("a", "1"), ("bbbbbb", "22")])
        self.assertEqual(out.getvalue(), "name    size\na       1\nbbbbbb  22\n")
        table.rows([("c", "3")])
        table.row("last", "4")
        self.assertTrue(out.getvalue().endswith("\nc       3\n"))
        table.end()
        self.assertTrue(out.getvalue().endswith("\nlast    4\n"))


class SettingsTests(CommandCase):
    """Options become settings."""

    def test_options_of_a_node(self) -> None:
        """Each option of C{serve} arrives where it belongs."""
        from flow512.cli.options import Reach
        from flow512.discovery.beacon import PORT
        from flow512.link.address import HostPort
        from flow512.link.identity import default_state
        from flow512.link.node_id import format_node_id
        from flow512.link.security import Encryption
        from flow512.transfer.finding import Candidate

        node = bytes(range(32))
        reach = Reach(
            registries=(f"{format_node_id(node)}@registry:5001", "b"),
            registry_all=True,
            peers=("10.0.0.5", f"{format_node_id(node)}@box"),
            network="office",
            key_file="key",
            plaintext=True,
            state="state",
            beacon_port=0,
            interfaces=("lo",),
        )
        self.assertEqual(
            reach.settings(name="n"),
            NodeSettings(
                name="n",
                beside="state",
                registries=(
                    NamedRegistry(HostPort("registry", 5001), node),
                    NamedRegistry(HostPort("b", 5000)),
                ),
                registry_all=True,
                peers=(
                    Candidate(HostPort("10.0.0.5", 5000)),
                    Candidate(HostPort("box", 5000), node=node),
                ),
                network="office",
                network_key_file="key",
                encryption=Encryption.NONE,
                beacon_port=PORT,
                interfaces=("lo",),
            ),
        )
        plain = Reach((), False, (), "", "", False, None, None, ())
        self.assertEqual(plain.settings(), NodeSettings(beside=default_state(), beacon_port=None))
        self.assertEqual(replace(plain, beacon_port=99).settings().beacon_port, 99)
