"""C{flow512 console}: the dialogue, and the line that it is held on."""

from __future__ import annotations

import os
from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.testing import StringTransport
from zope.interface.verify import verifyObject

from flow512.cli.console import CHOOSE, WHAT, WHOM, Dialogue
from flow512.cli.terminal import Terminal
from flow512.discovery.election import Mode
from flow512.settings import NodeSettings
from tests.unit.command_line import CommandCase


class Script:
    """A user who knows his part, and everything that he and the console say."""

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = iter(answers)
        self.transcript = ""

    def say(self, sentence: str) -> None:
        self.transcript += sentence + "\n"

    def ask(self, question: str) -> Deferred[str | None]:
        answer = next(self.answers, None)
        self.transcript += question + ("" if answer is None else answer + "\n")
        return succeed(answer)


class DialogueTests(CommandCase):
    """The seed's words, line for line."""

    def setUp(self) -> None:
        super().setUp()
        self.start_node(
            {"test2.txt": b"hello\n", "sub/x\u202ey.txt": b"no", "sub/in.txt": b"in"},
            beacon_port=None,
        )

    def hold(self, *answers: str) -> list[str]:
        """Play a part; the transcript as lines."""
        script = Script(answers)
        settings = NodeSettings(
            downloads=str(self.here), beacon_port=None, bootstrap=Mode.NEVER, name="me"
        )

        async def play() -> None:
            async with self.machine(self.client).node(settings) as node:
                await Dialogue(node, script).hold()

        self.network.result(Deferred.fromCoroutine(play()))
        return script.transcript.splitlines()

    def test_download(self) -> None:
        """A file is fetched into the shared folder, and every line is the seed's."""
        self.assertEqual(
            self.hold("d", "10.0.0.1", "test2.txt", "q"),
            [
                "Enter 'd' to download a file or 'q' to quit:",
                "d",
                "Enter the IP of the peer to download from: 10.0.0.1",
                "Enter the filename to download: test2.txt",
                "File 'test2.txt' downloaded successfully.",
                "[+] Hash verification successful. The file is intact.",
                "Enter 'd' to download a file or 'q' to quit:",
                "q",
            ],
        )
        self.assertEqual((self.here / "test2.txt").read_bytes(), b"hello\n")

    def test_end_of_input(self) -> None:
        """The end of the input ends the dialogue, wherever it is."""
        for part in ((), ("d",), ("d", "10.0.0.1")):
            self.hold(*part)
        self.assertEqual(list(self.here.iterdir()), [])

    def refusal(self, *answers: str) -> str:
        """Give the one line that refuses, after which it goes on."""
        lines = self.hold(*answers, "q")
        self.assertEqual(lines[-2:], [CHOOSE.rstrip("\n"), "q"])
        [refused] = [line for line in lines if line.startswith("[-] ")]
        return refused

    def test_refusals(self) -> None:
        """Each is one line, names the cause, and does not end the dialogue."""
        self.assertEqual(self.refusal("x\x1b[2J"), "[-] 'x\\x1b[2J' is neither 'd' nor 'q'.")
        self.assertIn("A peer is needed", self.refusal("d", " "))
        self.assertIn("A filename is needed", self.refusal("d", "10.0.0.1", ""))
        self.assertEqual(
            self.refusal("d", "10.0.0.1", "nope.txt"), "[-] File 'nope.txt' not found on 10.0.0.1."
        )
        self.assertIn("is no address", self.refusal("d", "not an address", "test2.txt"))
        self.assertIn("cannot be reached", self.refusal("d", "10.0.0.1:77", "test2.txt"))
        self.assertIn("is refused as a path", self.refusal("d", "10.0.0.1", "../../etc/passwd"))
        self.hold("d", "10.0.0.1", "test2.txt")
        self.assertEqual(
            self.refusal("d", "10.0.0.1", "test2.txt"),
            "[-] File 'test2.txt' is here already; move it away first.",
        )
        (self.here / "in.txt").write_bytes(b"mine")
        self.assertEqual(
            self.refusal("d", "10.0.0.1", "sub/in.txt"),
            "[-] File 'in.txt' is here already; move it away first.",
        )

    def test_empty_line(self) -> None:
        """An empty line asks again, and blanks around an answer do not count."""
        self.assertEqual(len(self.hold("", " q ")), 4)


class TerminalTests(CommandCase):
    """Questions and answers, by lines, in a pipe and on a terminal."""

    def terminal(self, stdin: int | None = None) -> Terminal:
        if stdin is None:
            read, write = os.pipe()
            self.addCleanup(os.close, write)
            stdin = read
        self.addCleanup(os.close, stdin)
        terminal = Terminal(stdin, stdin)
        self.transport = StringTransport()
        terminal.makeConnection(self.transport)
        return terminal

    def said(self) -> str:
        """What was written since the last look."""
        said = self.transport.value().decode()
        self.transport.clear()
        return said

    def test_pipe(self) -> None:
        """In a pipe each answer is written behind its question, as a terminal would show it."""
        terminal = self.terminal()
        asked = terminal.ask(WHOM)
        terminal.dataReceived(b"10.0.")
        self.assertNoResult(asked)
        terminal.dataReceived(b"0.1\r\nte\x07st.txt\nq\n")
        self.assertEqual(self.successResultOf(asked), "10.0.0.1")
        self.assertEqual(self.successResultOf(terminal.ask(WHAT)), "te\x07st.txt")
        self.assertEqual(self.said(), f"{WHOM}10.0.0.1\n{WHAT}te\\x07st.txt\n")

    def test_terminal(self) -> None:
        """A terminal shows what is typed by itself."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        terminal = self.terminal(theirs)
        terminal.dataReceived(b"d\n")
        self.assertEqual(self.successResultOf(terminal.ask(CHOOSE)), "d")
        self.assertEqual(self.said(), CHOOSE)

    def test_end(self) -> None:
        """What was typed before the end of the input is still heard."""
        terminal = self.terminal()
        self.assertTrue(verifyObject(IHalfCloseableProtocol, terminal))
        terminal.dataReceived(b"d\n")
        terminal.readConnectionLost()
        self.assertEqual(self.successResultOf(terminal.ask(CHOOSE)), "d")
        self.assertIsNone(self.successResultOf(terminal.ask(WHOM)))
        terminal.connectionLost()
        self.assertIsNone(self.successResultOf(terminal.ask(WHOM)))

    def test_end_while_asking(self) -> None:
        """A question that is open when the input ends is answered by nothing."""
        terminal = self.terminal()
        asked = terminal.ask(CHOOSE)
        terminal.writeConnectionLost()
        self.assertIsNone(self.successResultOf(asked))
        self.said()
        terminal.say("Nobody reads this.")
        terminal.connectionLost()
        self.assertEqual(self.said(), "")

    def test_words_between(self) -> None:
        """What a node tells stands on its own line, and an open question is asked again."""
        terminal = self.terminal()
        terminal.say("Server running on port 5000")
        self.assertEqual(self.said(), "Server running on port 5000\n")
        terminal.ask(CHOOSE)
        terminal.say("Connection accepted.")
        self.assertEqual(self.said(), f"{CHOOSE}Connection accepted.\n")
        terminal.dataReceived(b"d\n")
        asked = terminal.ask(WHOM)
        self.said()
        terminal.say("Connection accepted.")
        self.assertEqual(self.said(), f"\nConnection accepted.\n{WHOM}")
        asked.cancel()
        self.failureResultOf(asked)

    def test_before_it_is_there(self) -> None:
        """What is told before anybody listens is not kept."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        Terminal(read, write).say("lost")

    def test_endless_line(self) -> None:
        """A line without end is an empty answer, and its memory is given back."""
        terminal = self.terminal()
        asked = terminal.ask(CHOOSE)
        terminal.dataReceived(b"x" * 100_000)
        self.assertEqual(self.successResultOf(asked), "")
        asked = terminal.ask(CHOOSE)
        terminal.dataReceived(b"q\n")
        self.assertEqual(self.successResultOf(asked), "q")
