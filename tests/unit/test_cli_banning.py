"""C{flow512 ban}, C{unban} and C{bans}, as they are typed."""

from __future__ import annotations

import io
import stat
from contextlib import redirect_stderr, redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.banning import ban, bans, parse_duration, unban
from flow512.cli.main import main
from flow512.cli.tables import table_for
from flow512.cli.voice import JsonVoice, PlainVoice
from flow512.errors import Misuse, NotFound
from flow512.link.bans import MAX_BAN
from flow512.link.identity import read_identity
from flow512.link.node_id import format_node_id
from tests.unit.command_line import Said, TerminalText
from tests.unit.transfer_ends import a_folder

EVE = format_node_id(b"e" * 32)
ANN = format_node_id(b"a" * 32)
START = 1_795_370_400
"""2026-11-22 18:00 UTC."""


class DurationTests(SynchronousTestCase):
    """How long."""

    def test_units(self) -> None:
        """A number and a unit."""
        rows = [
            ("1s", 1),
            ("90s", 90),
            ("5m", 300),
            ("12h", 43200),
            ("7d", 604800),
            ("2w", 1209600),
        ]
        for text, seconds in rows:
            self.assertEqual(parse_duration(text), seconds)

    def test_nonsense(self) -> None:
        """Nothing else, and the sentence shows what is meant."""
        for text in (
            "",
            "7",
            "d",
            "7 d",
            "-1d",
            "1.5h",
            "7D",
            "1d12h",
            "\N{ARABIC-INDIC DIGIT SEVEN}d",
            "9" * 11 + "s",
            "\n",
        ):
            with self.assertRaises(Misuse) as caught:
                parse_duration(text)
            self.assertIn("as in 7d", str(caught.exception))


class CommandTests(SynchronousTestCase):
    """The commands at a moment that the test chooses."""

    def setUp(self) -> None:
        """Choose it."""
        self.state = str(a_folder(self) / "state")
        self.now = START
        self.out = io.StringIO()
        self.voice = PlainVoice(self.out, self.out)

    def clock(self) -> float:
        """Give the time."""
        return self.now

    def said(self) -> str:
        """Take what was said."""
        text = self.out.getvalue()
        self.out.seek(0)
        self.out.truncate()
        return text

    def listed(self) -> str:
        """List the bans, for a pipe."""
        self.assertEqual(
            bans(self.state, self.voice, table_for(self.out, self.voice), self.clock), 0
        )
        return self.said()

    def test_all_of_it(self) -> None:
        """A ban is made, shown with its reason and its end, and is over by itself."""
        self.assertEqual(self.listed(), "")
        ban(self.state, EVE, self.voice, self.clock, reason="fills the disk", duration="7d")
        self.assertEqual(
            self.said(), f"{EVE}: Banned until 2026-11-29 18:00 UTC: fills the disk.\n"
        )
        self.now += 60
        ban(self.state, ANN.lower().replace("-", " "), self.voice, self.clock)
        self.assertEqual(self.said(), f"{ANN}: Banned without end.\n")
        of_ann = f"{ANN}\t2026-11-22T18:01:00Z\twithout end\t\n"
        self.assertEqual(
            self.listed(),
            f"{EVE}\t2026-11-22T18:00:00Z\t2026-11-29T18:00:00Z\tfills the disk\n{of_ann}",
        )
        self.now = START + 7 * 86400
        self.assertEqual(self.listed(), of_ann)
        unban(self.state, ANN, self.voice, self.clock)
        self.assertEqual(self.said(), f"{ANN} is banned no more.\n")
        self.assertEqual(self.listed(), "")

    def test_not_banned(self) -> None:
        """Whoever is not banned cannot be unbanned; nothing is made for that."""
        with self.assertRaises(NotFound):
            unban(self.state, EVE, self.voice, self.clock)
        ban(self.state, ANN, self.voice, self.clock)
        with self.assertRaises(NotFound):
            unban(self.state, EVE, self.voice, self.clock)

    def test_oneself(self) -> None:
        """A node does not ban itself."""
        own = format_node_id(read_identity(self.state).node)
        with self.assertRaises(Misuse):
            ban(self.state, own, self.voice, self.clock)
        self.assertEqual(self.listed(), "")

    def test_escaped(self) -> None:
        """A reason that was pasted from somewhere does not control the terminal."""
        ban(self.state, EVE, self.voice, self.clock, reason="\x1b[2J\t\n")
        self.assertIn("\\x1b[2J", self.said())
        [line] = self.listed().splitlines()
        self.assertTrue(line.endswith("without end\t\\x1b[2J\\x09\\x0a"), line)

    def test_json(self) -> None:
        """Programs are told the same."""
        voice = JsonVoice(self.out, self.out)
        ban(self.state, EVE, voice, self.clock, reason="noise", duration="1m")
        ban(self.state, ANN, voice, self.clock)
        bans(self.state, voice, table_for(self.out, voice), self.clock)
        unban(self.state, EVE, voice, self.clock)
        since, until = "2026-11-22T18:00:00Z", "2026-11-22T18:01:00Z"
        of_eve = {"id": EVE, "reason": "noise", "since": since, "until": until}
        of_ann = {"id": ANN, "reason": "", "since": since, "until": None}
        events = Said(0, self.said(), "").events
        self.assertEqual(events[0], {"event": "banned", **of_eve})
        self.assertEqual(events[1], {"event": "banned", **of_ann})
        # At the same moment: in the order of their ids.
        self.assertEqual(events[2:4], [{"event": "ban", **each} for each in (of_ann, of_eve)])
        self.assertEqual(events[4], {"event": "unbanned", **of_eve})


class TypedTests(SynchronousTestCase):
    """The commands as they are typed."""

    def setUp(self) -> None:
        """Choose a state folder."""
        self.folder = a_folder(self)
        self.state = self.folder / "state"

    def flow512(self, *arguments: str, out: io.StringIO | None = None) -> Said:
        """Type one."""
        out, err = out or io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main([*arguments, "--state", str(self.state)])
        return Said(status, out.getvalue(), err.getvalue())

    def test_all_of_it(self) -> None:
        """They work without a node, and what they make is nobody else's to read."""
        made = self.flow512("ban", EVE, "--reason", "noise", "--for", "1h", "--json")
        self.assertEqual((made.status, made.event("banned")["reason"]), (0, "noise"))
        self.assertEqual(stat.S_IMODE(self.state.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((self.state / "bans.json").stat().st_mode), 0o600)
        self.assertEqual(self.flow512("bans", "--json").event("ban")["id"], EVE)
        shown = self.flow512("bans", out=TerminalText()).out
        self.assertRegex(shown, rf"\A{EVE}  \S+ \S+  \S+ \S+  noise\n\Z")
        self.assertEqual(self.flow512("unban", EVE).out, f"{EVE} is banned no more.\n")
        self.assertEqual(self.flow512("bans"), Said(0, "", ""))
        self.assertEqual(self.flow512("bans", out=TerminalText()).out, "Nobody is banned.\n")

    def test_wrong_usage(self) -> None:
        """A mistyped id, time or reason bans nobody, and is explained in one sentence."""
        rows = [
            (("ban", EVE[:-1] + "A"), 2, "mistyped"),
            (("ban", EVE[:-1]), 2, "characters"),
            (("ban", EVE, "--for", "ever"), 2, "as in 7d"),
            (("ban", EVE, "--for", f"{MAX_BAN + 1}s"), 2, "a hundred years"),
            (("ban", EVE, "--reason", "x" * 201), 2, "200"),
            (("ban",), 2, "NODE_ID"),
            (("unban", EVE), 3, "is not banned"),
        ]
        for arguments, status, words in rows:
            said = self.flow512(*arguments)
            self.assertEqual((said.status, said.out), (status, ""), arguments)
            self.assertIn(words, said.err)
            self.assertEqual(len(said.err.splitlines()), 1)
            told = self.flow512(*arguments, "--json")
            self.assertEqual((told.status, told.err), (status, said.err))
            error = told.event("error")
            self.assertEqual(f"flow512: {error['sentence']}\n", said.err)
            self.assertEqual(error["code"], "NotFound" if status == 3 else "Misuse")
        self.assertFalse((self.state / "bans.json").exists())

    def test_damaged(self) -> None:
        """A file that makes no sense is told of, and not overwritten."""
        self.state.mkdir(mode=0o700)
        (self.state / "bans.json").write_text("nonsense")
        for arguments in (("bans",), ("ban", EVE), ("unban", EVE)):
            said = self.flow512(*arguments)
            self.assertEqual(said.status, 2)
            self.assertIn("holds no list of bans", said.err)
        self.assertEqual((self.state / "bans.json").read_text(), "nonsense")

    def test_no_folder(self) -> None:
        """A state folder that is none is told of."""
        self.state.write_text("")
        for arguments in (("bans",), ("ban", EVE), ("unban", EVE)):
            self.assertNotEqual(self.flow512(*arguments).status, 0)
