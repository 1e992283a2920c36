"""C{flow512 whoami}, C{invite}, C{join} and C{leave}, as they are typed."""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import click
from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.joining import Invitation, Surroundings, invite, join, leave, read_link
from flow512.cli.main import main
from flow512.cli.qr import has_room
from flow512.cli.tables import table_for
from flow512.cli.voice import JsonVoice, PlainVoice
from flow512.cli.whoami import whoami
from flow512.discovery.addresses import LocalAddress
from flow512.errors import DiskFailure, Misuse
from flow512.link.address import HostPort
from flow512.link.identity import read_identity
from flow512.link.join_link import JoinLink, Registry, format_key, parse_join_link
from flow512.link.listening_file import Listening, ListeningFile
from flow512.link.network_file import load_network, store_network
from flow512.link.node_id import format_node_id, parse_node_id
from tests.unit.command_line import Said, TerminalText
from tests.unit.transfer_ends import a_folder

KEY = bytes(range(100, 132))
TEXT = format_key(KEY)
OTHER = bytes(range(32))
OFFICE = JoinLink("office", KEY, (Registry(HostPort("192.0.2.7", 5000), OTHER),))
HOME = JoinLink("home", bytes(range(50, 82)))
ADDRESSES = [
    LocalAddress("192.0.2.1", 24, "eth0", 2),
    LocalAddress("fe80::1", 64, "eth0", 2),
    LocalAddress("2001:db8::1", 64, "eth1", 3),
]


class Typed(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


class KeysCase(SynchronousTestCase):
    """A state folder, and commands that are typed."""

    def setUp(self) -> None:
        self.folder = a_folder(self)
        self.state = str(self.folder / "state")
        self.out = io.StringIO()
        self.voice = PlainVoice(self.out, io.StringIO())
        self.addresses = ADDRESSES
        self.notices: list[str] = []
        self.drawn: list[str] = []

    def flow512(
        self,
        *arguments: str,
        stdin: io.StringIO | None = None,
        out: io.StringIO | None = None,
        state: str | None = None,
    ) -> Said:
        """Type a command for the state folder."""
        out, err = out or io.StringIO(), io.StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            mock.patch("sys.stdin", stdin or io.StringIO()),
        ):
            status = main([*arguments, "--state", state or self.state])
        return Said(status, out.getvalue(), err.getvalue())

    def invited(self, *arguments: str) -> JoinLink:
        """Invite, and read the link."""
        said = self.flow512("invite", *arguments)
        self.assertEqual(said.status, 0, said.err)
        [line] = said.out.splitlines()
        return parse_join_link(line)

    def start_node(self, host: str = "", port: int = 5001) -> None:
        """Make believe that a node runs with the state folder."""
        os.makedirs(self.state, mode=0o700, exist_ok=True)
        self.addCleanup(ListeningFile(self.state, Listening(host, port)).close)

    def around(self, agreed: Sequence[str] = ()) -> Surroundings:
        """What C{invite} finds, but for the machine's own."""
        sentences = iter(agreed)

        def agree(sentence: str) -> None:
            if next(sentences, None) is None:
                raise click.Abort
            self.notices.append(sentence)

        return Surroundings(
            self.notices.append,
            agree,
            self.drawn.append,
            lambda size: KEY[:size],
            lambda: self.addresses,
        )

    def invite(self, **invitation: object) -> JoinLink:
        """Invite on a machine with the addresses above."""
        self.out.truncate(0)
        self.out.seek(0)
        wish = Invitation(self.state, **invitation)  # type: ignore[arg-type]  # as given
        self.assertEqual(invite(wish, self.voice, self.around(["yes"])), 0)
        return parse_join_link(self.out.getvalue())


class WhoamiTests(KeysCase):
    """C{flow512 whoami}."""

    def told(self) -> dict[str, object]:
        """Ask on a machine with the addresses above."""
        out = io.StringIO()
        voice = JsonVoice(out, io.StringIO())
        whoami(
            self.state,
            voice,
            table_for(out, voice),
            self.drawn.append,
            local_addresses=lambda: ADDRESSES,
        )
        return Said(0, out.getvalue(), "").event("whoami")

    def test_new(self) -> None:
        """The first time the identity is made, and then it stays."""
        said = self.flow512("whoami")
        rows = dict(line.split("\t") for line in said.out.splitlines() if "address" not in line)
        self.assertEqual(parse_node_id(rows["id"]), read_identity(self.state).node)
        self.assertEqual(rows["name"], socket.gethostname())
        self.assertNotIn("network", rows)
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual(self.flow512("whoami").out, said.out)

    def test_told(self) -> None:
        """A program gets the same as one object; without a node the port is the usual one."""
        told = self.told()
        self.assertEqual(told["id"], format_node_id(read_identity(self.state).node))
        self.assertEqual(told["addresses"], ["192.0.2.1:5000", "[2001:db8::1]:5000"])
        self.assertEqual((told["network"], told["running"]), (None, False))
        self.assertEqual(self.drawn, [told["id"]])

    def test_running(self) -> None:
        """The port is that of the node that runs, at all addresses that others can use."""
        self.start_node()
        told = self.told()
        self.assertEqual(told["addresses"], ["192.0.2.1:5001", "[2001:db8::1]:5001"])
        self.assertIs(told["running"], True)

    def test_one_address(self) -> None:
        """A node that listens at one address is reached there only."""
        self.start_node("192.0.2.99")
        self.assertEqual(self.told()["addresses"], ["192.0.2.99:5001"])

    def test_network(self) -> None:
        """The network is named, never its key; the name cannot control the terminal."""
        self.flow512("join", stdin=io.StringIO(str(JoinLink("a\x1b[2J", KEY))))
        said = self.flow512("whoami")
        self.assertIn("network\ta\\x1b[2J\n", said.out)
        self.assertNotIn(TEXT, said.out + said.err)
        self.assertEqual(self.told()["network"], "a\x1b[2J")

    def test_no_addresses(self) -> None:
        """A machine that does not tell its addresses is the reason that is named."""

        def fail() -> Sequence[LocalAddress]:
            raise OSError("no netlink")

        with self.assertRaises(DiskFailure) as caught:
            whoami(
                self.state,
                self.voice,
                table_for(self.out, self.voice),
                self.drawn.append,
                local_addresses=fail,
            )
        self.assertIn("no netlink while looking for this machine's", str(caught.exception))


class CodeTests(KeysCase):
    """QR codes."""

    def lines(self, said: Said) -> list[str]:
        """The lines of a QR code."""
        return [
            line
            for line in said.out.splitlines()
            if line and set(line) <= set("\u2580\u2584\u2588 ")
        ]

    def test_on_a_terminal(self) -> None:
        """A terminal that is wide enough shows it; a narrow one does not."""
        for columns, shown in (("80", True), ("36", False)):
            with mock.patch.dict(os.environ, COLUMNS=columns):
                said = self.flow512("whoami", out=TerminalText())
            self.assertEqual(len(self.lines(said)) > 15, shown, columns)

    def test_in_a_pipe(self) -> None:
        """A pipe gets none unless it is asked for, and a program never."""
        for arguments, shown in (((), False), (("--qr",), True), (("--qr", "--json"), False)):
            for command in ("whoami", "invite"):
                said = self.flow512(command, *arguments)
                self.assertEqual(bool(self.lines(said)), shown, arguments)

    def test_longest(self) -> None:
        """The longest link that can be made fits into a code, if not on the terminal."""
        registry = Registry(HostPort("a" * 120, 5000), OTHER)
        link = str(JoinLink("n" * 64, KEY, (registry,) * 13))
        self.assertGreater(len(link), 2600)
        self.assertFalse(has_room(link, TerminalText()))
        with mock.patch.dict(os.environ, COLUMNS="500"):
            self.assertTrue(has_room(link, TerminalText()))


class InviteTests(KeysCase):
    """C{flow512 invite}."""

    def test_first_and_again(self) -> None:
        """The first time makes a key, then it is shown; nothing but the link is printed."""
        link = self.invited("--name", "office")
        self.assertEqual((link.name, len(link.key)), ("office", 32))
        self.assertEqual(self.invited(), link)
        self.assertEqual(self.invited("--name", "office"), link)
        self.assertEqual(load_network(self.state), link)
        other = str(self.folder / "other")
        again = parse_join_link(self.flow512("invite", state=other).out)
        self.assertNotEqual(again.key, link.key)
        self.assertEqual(again.name, socket.gethostname())

    def test_key_is_what_chance_gives(self) -> None:
        """The key is the random bytes that were handed in, nothing less."""
        self.assertEqual(self.invite(name="office"), JoinLink("office", KEY))
        self.assertEqual(self.drawn, [str(JoinLink("office", KEY))])

    def test_what_people_are_told(self) -> None:
        """Beside the link: what it is worth and how it is used; not the key once more."""
        said = self.flow512("invite", "--name", "off\x07ice")
        self.assertIn("Whoever has this link is in the network 'off\\x07ice'.", said.err)
        self.assertIn("`flow512 join`", said.err)
        self.assertIn("names no registry", said.err)
        self.assertNotIn(format_key(parse_join_link(said.out).key), said.err)

    def test_json(self) -> None:
        """A program gets link, name and registries."""
        told = self.flow512("invite", "--json", "--name", "office", "--registry", "a:1").event(
            "invite"
        )
        link = parse_join_link(told["link"])
        self.assertEqual((told["name"], told["registries"]), ("office", ["a:1"]))
        self.assertEqual(link.registries, (Registry(HostPort("a", 1)),))

    def test_files(self) -> None:
        """Nothing in the state folder can be read by others."""
        self.invited()
        self.assertEqual(os.stat(self.state).st_mode & 0o077, 0)
        for name in os.listdir(self.state):
            self.assertEqual(os.stat(os.path.join(self.state, name)).st_mode & 0o077, 0, name)

    def test_registries_given(self) -> None:
        """Those given are in the link; those of the first time are remembered, later ones not."""
        node = format_node_id(OTHER)
        first = self.invited("--registry", "a", "--registry", f"{node}@[::1]:7")
        self.assertEqual(
            first.registries, (Registry(HostPort("a", 5000)), Registry(HostPort("::1", 7), OTHER))
        )
        self.assertEqual(
            self.invited("--registry", "b").registries, (Registry(HostPort("b", 5000)),)
        )
        self.assertEqual(self.invited(), first)

    def test_registry_of_our_own(self) -> None:
        """A node does not remember itself as the registry to go to."""
        me = Registry(HostPort("me.example", 5000), read_identity(self.state).node)
        self.assertEqual(self.invited("--registry", str(me)).registries, (me,))
        self.assertEqual(
            load_network(self.state), JoinLink(socket.gethostname(), self.invited().key)
        )

    def test_running_node(self) -> None:
        """Without a registry the link names the node that runs here, by address and id."""
        self.start_node()
        node = read_identity(self.state).node
        link = self.invite(name="office")
        self.assertEqual(
            link.registries,
            (
                Registry(HostPort("192.0.2.1", 5001), node),
                Registry(HostPort("2001:db8::1", 5001), node),
            ),
        )
        self.assertNotIn("names no registry", " ".join(self.notices))
        self.assertIn("has to be started again", " ".join(self.notices))
        self.notices.clear()
        self.assertEqual(self.invite(), link)
        self.assertNotIn("has to be started again", " ".join(self.notices))
        self.assertEqual(load_network(self.state), JoinLink("office", KEY))

    def test_many_addresses(self) -> None:
        """A machine with more addresses than a link holds names the first ones."""
        self.start_node()
        self.addresses = [LocalAddress(f"192.0.2.{each}", 24) for each in range(1, 100)]
        self.assertEqual(len(self.invite().registries), 16)

    def test_another_name(self) -> None:
        """A network is not renamed in passing."""
        self.invited("--name", "office")
        said = self.flow512("invite", "--name", "home")
        self.assertEqual((said.status, said.out), (2, ""))
        self.assertIn("is called 'office'", said.err)

    def test_new_key(self) -> None:
        """C{--new} says what it means, then makes another key; name and registries stay."""
        first = self.invited("--name", "office", "--registry", "a")
        said = self.flow512("invite", "--new")
        second = parse_join_link(said.out)
        self.assertIn("network 'office' begins anew", said.err)
        self.assertIn("join again", said.err)
        self.assertNotEqual(second.key, first.key)
        self.assertEqual((second.name, second.registries), (first.name, first.registries))
        self.assertEqual(self.invited(), second)
        third = self.invited("--new", "--name", "home", "--registry", "b")
        self.assertEqual((third.name, third.registries), ("home", (Registry(HostPort("b", 5000)),)))
        self.assertEqual(load_network(self.state), third)

    def test_new_key_declined(self) -> None:
        """At a terminal the user is asked first; with another answer than yes nothing changes."""
        first = self.invited("--name", "office")
        with mock.patch("click.termui.visible_prompt_func", side_effect=["n", "y"]):
            said = self.flow512("invite", "--new", stdin=Typed())
            self.assertEqual((said.status, said.out), (130, ""))
            self.assertEqual(load_network(self.state), first)
            said = self.flow512("invite", "--new", stdin=Typed())
        self.assertEqual(said.status, 0)
        self.assertNotEqual(parse_join_link(said.out).key, first.key)

    def test_new_where_none_was(self) -> None:
        """C{--new} without a network is an ordinary first time."""
        said = self.flow512("invite", "--new")
        self.assertEqual(said.status, 0)
        self.assertNotIn("begins anew", said.err)

    def test_key_file(self) -> None:
        """A key file is what the link is made of, and nothing of it is stored."""
        path = self.folder / "key"
        path.touch(0o600)
        path.write_text(f"{TEXT}\n")
        self.assertEqual(
            self.invited("--network-key-file", str(path), "--name", "office"),
            JoinLink("office", KEY),
        )
        path.write_text(str(OFFICE))
        self.assertEqual(self.invited("--network-key-file", str(path)), OFFICE)
        self.assertIsNone(load_network(self.state))
        for arguments in (("--new",), ("--name", "home")):
            said = self.flow512("invite", "--network-key-file", str(path), *arguments)
            self.assertEqual((said.status, said.out), (2, ""))

    def test_key_file_without_name(self) -> None:
        """A bare key does not say what the network is called."""
        path = self.folder / "key"
        path.touch(0o600)
        path.write_text(TEXT)
        said = self.flow512("invite", "--network-key-file", str(path))
        self.assertEqual((said.status, said.out), (2, ""))
        self.assertIn("--name", said.err)
        self.assertNotIn(TEXT, said.err)

    def test_wrong_registry(self) -> None:
        """A mistyped registry is told before anything is made."""
        said = self.flow512("invite", "--registry", "a b")
        self.assertEqual(said.status, 2)
        self.assertIsNone(load_network(self.state))


class JoinTests(KeysCase):
    """C{flow512 join}."""

    def test_from_standard_input(self) -> None:
        """A link that comes through a pipe is stored; what is said has no key in it."""
        for arguments in ((), ("-",)):
            said = self.flow512("join", *arguments, stdin=io.StringIO(f"{OFFICE}\n"))
            self.assertEqual((said.status, said.err), (0, ""))
            self.assertIn("Joined the network 'office'", said.out)
            self.assertNotIn(TEXT, said.out)
            self.assertEqual(load_network(self.state), OFFICE)

    def test_invite_to_join(self) -> None:
        """What C{invite} prints is what C{join} takes."""
        other = str(self.folder / "other")
        link = self.flow512("invite", "--name", "office", state=other).out
        self.flow512("join", stdin=io.StringIO(link))
        self.assertEqual(load_network(self.state), load_network(other))

    def test_asked_for(self) -> None:
        """At a terminal the link is asked for, and what is typed is not shown."""
        asked: list[str] = []

        def getpass(prompt: str, stream: object = None, **_: object) -> str:
            asked.append(prompt)
            return str(OFFICE)

        with mock.patch("getpass.getpass", getpass):
            said = self.flow512("join", stdin=Typed())
        self.assertEqual(said.status, 0)
        self.assertEqual(len(asked), 1)
        self.assertNotIn(TEXT, said.out + said.err)
        self.assertEqual(load_network(self.state), OFFICE)

    def test_nothing_typed(self) -> None:
        """No answer is no link."""
        with mock.patch("getpass.getpass", return_value=""):
            self.assertEqual(self.flow512("join", stdin=Typed()).status, 2)

    def test_as_argument(self) -> None:
        """A link among the arguments works, and the user is told who could see it."""
        said = self.flow512("join", str(OFFICE))
        self.assertEqual(said.status, 0)
        self.assertRegex(said.err, r"\AOther users [^\n]*`flow512 join`[^\n]*\n\Z")
        self.assertNotIn(TEXT, said.out + said.err)
        self.assertEqual(load_network(self.state), OFFICE)

    def test_key_is_not_repeated(self) -> None:
        """Whatever is wrong with the command line, the key is not written out again."""
        link = str(OFFICE)
        for arguments in (
            ("join", link, "again"),
            ("join", "my", link),
            ("join", f"{link}x", "--replace"),
            ("join", link.replace("key=", "key=1")),
            (link,),
            ("whoami", link),
            ("invite", "--registry", link),
            ("invite", "--network-key-file", link),
            ("invite", "--network-key-file", TEXT),
            ("leave", link),
            (f"--{link}",),
        ):
            said = self.flow512(*arguments)
            self.assertEqual(said.status, 2, arguments)
            self.assertRegex(said.err, r"\A(Other users [^\n]+\n)?flow512: [^\n]+\n\Z")
            self.assertNotIn(TEXT, said.out + said.err)
            self.assertIsNone(load_network(self.state))

    def test_key_is_not_repeated_to_programs(self) -> None:
        """Nor does it get into an object that a program may log."""
        out, err = io.StringIO(), io.StringIO()
        JsonVoice(out, err).fail(Misuse(f"'{OFFICE}' is no peer."))
        self.assertNotIn(TEXT, out.getvalue() + err.getvalue())
        self.assertIn("is no peer", out.getvalue())

    def test_garbage(self) -> None:
        """What is not text is no link either."""
        raw = io.TextIOWrapper(io.BytesIO(f"{OFFICE}\xff".encode("latin-1")), "utf-8")
        with self.assertRaises(Misuse) as caught:
            read_link(None, raw, str, self.notices.append)
        self.assertIsNone(caught.exception.__context__)
        self.assertEqual(self.flow512("join", stdin=io.StringIO("x" * 100_000)).status, 2)

    def test_another_network(self) -> None:
        """Joining another network than the one stored needs C{--replace}."""
        for first, second in (
            (OFFICE, HOME),
            (OFFICE, JoinLink("home", KEY)),
            (OFFICE, JoinLink("office", HOME.key)),
        ):
            self.flow512("join", "--replace", stdin=io.StringIO(str(first)))
            said = self.flow512("join", stdin=io.StringIO(str(second)))
            self.assertEqual((said.status, said.out), (2, ""))
            self.assertIn("network 'office' already", said.err)
            self.assertEqual(load_network(self.state), first)
            said = self.flow512("join", "--replace", stdin=io.StringIO(str(second)))
            self.assertEqual(said.status, 0)
            self.assertEqual(load_network(self.state), second)

    def test_replace_what_is_damaged(self) -> None:
        """C{--replace} also mends what cannot be read, or was open to others."""
        read_identity(self.state)
        path = Path(self.state, "network.json")
        path.write_text("{")
        for mode in (0o600, 0o644):
            path.chmod(mode)
            self.assertEqual(self.flow512("join", stdin=io.StringIO(str(OFFICE))).status, 2)
        self.assertEqual(
            self.flow512("join", "--replace", stdin=io.StringIO(str(OFFICE))).status, 0
        )
        self.assertEqual(load_network(self.state), OFFICE)

    def test_same_network_again(self) -> None:
        """The same network with other registries: the new ones count, if there are any."""
        other = JoinLink("office", KEY, (Registry(HostPort("b", 1)),))
        for link, expected in ((OFFICE, OFFICE), (other, other), (JoinLink("office", KEY), other)):
            self.assertEqual(self.flow512("join", stdin=io.StringIO(str(link))).status, 0)
            self.assertEqual(load_network(self.state), expected)

    def test_own_link(self) -> None:
        """A node that joins by its own link does not take itself for the registry."""
        me = Registry(HostPort("192.0.2.1", 5000), read_identity(self.state).node)
        join(
            self.state,
            JoinLink("n", KEY, (me,)),
            self.voice,
            self.notices.append,
            may_replace=False,
        )
        self.assertEqual(load_network(self.state), JoinLink("n", KEY))

    def test_running_node(self) -> None:
        """A node that runs is in the network only once it was started again; that is said."""
        self.start_node()
        join(self.state, OFFICE, self.voice, self.notices.append, may_replace=False)
        leave(self.state, self.voice, self.notices.append)
        self.assertEqual(len(self.notices), 2)
        for notice in self.notices:
            self.assertIn("has to be started again", notice)


class LeaveTests(KeysCase):
    """C{flow512 leave}."""

    def test_left(self) -> None:
        """The key is gone from the disk; the identity stays."""
        before = read_identity(self.state)
        store_network(self.state, OFFICE)
        said = self.flow512("leave")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertIn("Left the network", said.out)
        for path in Path(self.state).iterdir():
            self.assertIsNone(re.search(TEXT.encode(), path.read_bytes()), path)
        self.assertEqual(read_identity(self.state).node, before.node)

    def test_in_none(self) -> None:
        """Leaving twice is no failure, and makes no folder."""
        said = self.flow512("leave")
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertIn("in no network", said.out)
        self.assertFalse(os.path.exists(self.state))
