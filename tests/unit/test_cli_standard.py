"""Standard streams that fail, and what becomes of the command whose they are."""

from __future__ import annotations

import io
import os

from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.outcome import DONE, FAILED
from flow512.cli.standard import StandardError, StandardOutput
from flow512.cli.voice import JsonVoice, PlainVoice, Undeterred
from flow512.errors import DiskFull, NotFound
from tests.unit.command_line import CommandCase


def full() -> io.BufferedWriter:
    """A disk without room."""
    return open("/dev/full", "wb")


def unread() -> io.BufferedWriter:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "wb")


class StreamTests(SynchronousTestCase):
    """The streams themselves."""

    def test_full(self) -> None:
        """A full disk is named; after that, what is written goes nowhere and the end is quiet."""
        with StandardOutput(full(), "utf-8") as out:
            out.write("hello\n")
            error = self.assertRaises(DiskFull, out.flush)
            self.assertIn("while writing to standard output", str(error))
            out.write("hello\n")
            out.flush()

    def test_full_at_once(self) -> None:
        """What does not fit into the buffer fails at once; nothing at all never does."""
        with StandardOutput(full(), "utf-8", write_through=True) as out:
            self.assertEqual(out.write(""), 0)
            self.assertRaises(DiskFull, out.write, "x" * 100_000)

    def test_unread(self) -> None:
        """That nobody reads is for whoever writes to judge."""
        with StandardOutput(unread(), "utf-8") as out:
            out.write("hello\n")
            self.assertRaises(BrokenPipeError, out.flush)

    def test_errors(self) -> None:
        """Nobody could be told that standard error fails, so nothing fails for that."""
        for raw in (full(), unread()):
            with StandardError(raw, "utf-8") as err:
                self.assertEqual(err.write("hello\n"), 6)
                err.flush()
        with StandardError(full(), "utf-8", write_through=True) as err:
            self.assertEqual(err.write("x" * 100_000), 100_000)


class VoiceTests(SynchronousTestCase):
    """Who speaks by them."""

    def setUp(self) -> None:
        self.err = io.StringIO()

    def test_error_that_cannot_be_told(self) -> None:
        """An error is said on standard error, though a program waits for it and cannot be told."""
        with StandardOutput(full(), "utf-8") as out:
            JsonVoice(out, self.err).fail(NotFound("It is gone."))
        self.assertEqual(self.err.getvalue(), "flow512: It is gone.\n")

    def test_undeterred(self) -> None:
        """Who is not deterred says the rest on standard error, and that it failed at the end."""
        for raw, words in ((full(), "The disk is full"), (unread(), "Nobody reads standard")):
            self.err.truncate(0)
            with StandardOutput(raw, "utf-8") as out:
                voice = Undeterred(PlainVoice(out, self.err))
                voice.say("One.")
                voice.say("Two.")
                voice.fail(NotFound("It is gone."))
            first, *rest = self.err.getvalue().strip("\0").splitlines()
            self.assertIn(words, first)
            self.assertEqual(rest, ["One.", "Two.", "flow512: It is gone."])
            self.assertEqual(voice.status, FAILED)

    def test_undeterred_json(self) -> None:
        """What a program cannot be told any more, a person is."""
        with StandardOutput(full(), "utf-8") as out:
            voice = Undeterred(JsonVoice(out, self.err))
            voice.tell("done")
            voice.tell("done")
            voice.say("It is here.")
        self.assertEqual(self.err.getvalue().splitlines()[1:], ["It is here."])

    def test_not_tried(self) -> None:
        """As long as all is well, it speaks as the voice that it has."""
        out = io.StringIO()
        voice = Undeterred(PlainVoice(out, self.err))
        voice.say("One.")
        voice.tell("event")
        voice.warn("Careful.")
        voice.fail(NotFound("It is gone."))
        self.assertEqual(out.getvalue(), "One.\n")
        self.assertEqual(self.err.getvalue(), "flow512: Careful.\nflow512: It is gone.\n")
        self.assertEqual(voice.status, DONE)


class Full(StandardOutput):
    """Standard output without room."""

    def __init__(self) -> None:
        super().__init__(full(), "utf-8")

    def getvalue(self) -> str:
        """What it took."""
        return ""


class CommandTests(CommandCase):
    """Commands whose standard output fails."""

    def full(self, *arguments: str) -> tuple[int, str]:
        """Run a command whose standard output has no room."""
        with Full() as out:
            said = self.flow512(*arguments, out=out)
            return said.status, said.err

    def test_what_was_asked_for(self) -> None:
        """What is only to be printed has failed, and one sentence says why."""
        self.start_node({"a.txt": b"a"}, beacon_port=None)
        for arguments in (
            ("ls", "10.0.0.1"),
            ("ls", "10.0.0.1", "--json"),
            ("id", str(self.folder / "share of server" / "a.txt")),
            ("whoami", "--state", str(self.here)),
            ("--help",),
            ("--version",),
        ):
            status, said = self.full(*arguments)
            self.assertEqual(status, 1, arguments)
            self.assertRegex(said, r"\Aflow512: The disk is full [^\n]+\n\Z", arguments)

    def test_what_was_done(self) -> None:
        """A file that is here is said to be here, though not where that was to be said."""
        self.start_node({"a.txt": b"a"}, beacon_port=None)
        for more in ((), ("--json",)):
            status, said = self.full(
                "get", "a.txt", "--from", "10.0.0.1", "-o", str(self.here), *more
            )
            self.assertEqual(status, 1)
            self.assertIn("File 'a.txt' downloaded successfully.", said)
            (self.here / "a.txt").unlink()
