"""Running a command: how it ends, what it logs, how it shows progress, and whom it starts."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import redirect_stderr
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from flow512.cli.bar import Bar
from flow512.cli.children import STOP_SECONDS, Child
from flow512.cli.logs import Observer
from flow512.cli.progress import Milestones, Silence, ToldProgress, bar_on
from flow512.cli.running import Machine, judge, never, run, to_its_end
from flow512.cli.stage import Stage
from flow512.cli.voice import JsonVoice, PlainVoice
from flow512.discovery.election import Mode
from flow512.errors import DiskFull
from flow512.node import NodeService
from flow512.settings import NodeSettings
from flow512.transfer.fetch import Target
from flow512.wire.messages import Entry
from tests.unit.command_line import CommandCase, TerminalText


class ShortReactor(Clock):
    """Runs until it is stopped, or nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopped = False
        self.from_thread: list[Callable[[], None]] = []

    def callFromThread(self, function: Callable[[], None]) -> None:
        self.from_thread.append(function)

    def stop(self) -> None:
        self.is_stopped = True

    def run(self) -> None:
        while not self.is_stopped:
            self.advance(1)
            while self.from_thread:
                self.from_thread.pop()()


class RunTests(CommandCase):
    """How a command ends."""

    def setUp(self) -> None:
        super().setUp()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.voice = PlainVoice(self.out, self.err)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_done(self) -> None:
        """A command that returns is exit status 0, and the reactor stops."""

        async def command(machine: Machine) -> None:
            self.assertIs(machine.reactor, reactor)

        reactor = ShortReactor()
        self.assertEqual(run(command, self.voice, reactor), 0)
        self.assertEqual(self.err.getvalue(), "")

    def test_failed(self) -> None:
        """One of our errors is its sentence and its status, escaped and without a traceback."""

        async def command(machine: Machine) -> None:
            raise DiskFull("No space for a\x1bb.")

        self.assertEqual(run(command, self.voice, ShortReactor()), 1)
        self.assertEqual(self.err.getvalue(), "flow512: No space for a\\x1bb.\n")

    def interrupted(self, number: int) -> int:
        async def command(machine: Machine) -> None:
            handler = signal.getsignal(number)
            machine.reactor.callLater(3, os.kill, os.getpid(), number)
            machine.reactor.callLater(4, self.assertNotEqual, signal.getsignal(number), handler)
            await Deferred()

        return run(command, self.voice, ShortReactor())

    def test_signals(self) -> None:
        """Ctrl-C and a request to end cancel the command; a second one would end the process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(self.interrupted(number), 130)
            self.assertEqual(signal.getsignal(number), signal.SIG_DFL)
        self.assertEqual(self.err.getvalue(), "flow512: Stopped.\n" * 2)

    def test_terminal_closed(self) -> None:
        """
        So does a terminal that is closed; that comes twice, from the system and from the shell.
        """
        self.assertEqual(self.interrupted(signal.SIGHUP), 130)
        self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)

    def test_cancelled_twice(self) -> None:
        """A node that is stopped because its command was cancelled is stopped to the end."""
        self.start_node({"big": bytes(64 * 2**20)})
        nodes: list[NodeService] = []
        results: list[object] = []

        async def command() -> None:
            async with self.machine(self.client).node(NodeSettings(bootstrap=Mode.NEVER)) as node:
                nodes.append(node)
                await node.get("big", peer="10.0.0.1", target=Target(str(self.here)))

        running = Deferred.fromCoroutine(command())
        running.addErrback(lambda failure: failure.trap(CancelledError))
        running.addBoth(results.append)
        self.network.run_until(lambda: any(self.here.iterdir()))
        while not results:
            running.cancel()
            self.network.run(0.001)
        self.assertEqual(nodes[0].port, 0)
        self.assertEqual(results, [CancelledError])

    def test_what_must_not_be_cut_short(self) -> None:
        """Its failure is told rather than that it was cancelled, and nothing before it ends."""
        for result, kind in ((DiskFull("No space."), DiskFull), (None, CancelledError)):
            work: Deferred[Any] = Deferred()
            waiting = Deferred.fromCoroutine(to_its_end(work))
            waiting.cancel()
            waiting.cancel()
            self.assertNoResult(waiting)
            work.errback(result) if result else work.callback(None)
            self.failureResultOf(waiting, kind)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(to_its_end(succeed(5)))), 5)

    def test_nohup(self) -> None:
        """What was started with C{nohup} goes on when its terminal is closed."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        async def command(machine: Machine) -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            waiting: Deferred[None] = Deferred()
            machine.reactor.callLater(3, waiting.callback, None)
            await waiting

        self.assertEqual(run(command, self.voice, ShortReactor()), 0)

    def test_early_signal(self) -> None:
        """A signal that comes while the command is still starting counts as well."""

        async def command(machine: Machine) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await Deferred()

        self.assertEqual(run(command, self.voice, ShortReactor()), 130)

    def test_failure_before_the_first_wait(self) -> None:
        """A command that cannot even be made ends the reactor as well."""

        def command(machine: Machine) -> Coroutine[Deferred[Any], Any, None]:
            raise DiskFull("No space.")

        self.assertEqual(run(command, self.voice, ShortReactor()), 1)
        self.assertEqual(self.err.getvalue(), "flow512: No space.\n")

    def test_signal_before_the_command(self) -> None:
        """A signal counts that comes when the reactor has not begun to run."""

        class Early(ShortReactor):
            def run(self) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                self.from_thread.pop()()
                super().run()

        async def command(machine: Machine) -> None:
            raise AssertionError("it is over already")

        self.assertEqual(run(command, self.voice, Early()), 130)
        self.assertEqual(self.err.getvalue(), "flow512: Stopped.\n")

    def test_signal_before_the_start(self) -> None:
        """So does one that stops the reactor before the command has been called."""

        async def command(machine: Machine) -> None:
            raise AssertionError("it is over already")

        reactor = ShortReactor()
        reactor.stop()
        self.assertEqual(run(command, self.voice, reactor), 130)

    def test_until_ended(self) -> None:
        """What runs until the user ends it has not failed when he does."""

        async def command(machine: Machine) -> None:
            machine.reactor.callLater(1, os.kill, os.getpid(), signal.SIGTERM)
            await never()

        self.assertEqual(run(command, self.voice, ShortReactor()), 0)

    def test_defect(self) -> None:
        """Anything else is a defect: its traceback is shown, and whose fault it is."""
        err = io.StringIO()
        with redirect_stderr(err):
            status = judge(Failure(ZeroDivisionError("oops")), PlainVoice(self.out, err))
        self.assertEqual(status, 1)
        self.assertIn("ZeroDivisionError: oops", err.getvalue())
        self.assertIn("flow512: That is a defect in flow512", err.getvalue())

    def test_reader_gone(self) -> None:
        """That nobody reads the output any more is for whoever writes it."""
        self.assertRaises(BrokenPipeError, judge, Failure(BrokenPipeError()), self.voice)


class ObserverTests(CommandCase):
    """Who is told what is logged."""

    def observed(self, level: LogLevel, *, watched: bool) -> tuple[str, list[str]]:
        err = io.StringIO()
        words: list[str] = []
        observer = Observer(err, level, words.append if watched else None)
        self.assertTrue(verifyObject(ILogObserver, observer))
        ours = Logger("flow512.node", observer=observer)
        theirs = Logger("twisted.web", observer=observer)
        ours.info("Server running on port {port}", port=5000)
        ours.debug("Detail.")
        ours.warn("Careful: {why}", why="hot")
        theirs.info("Starting factory.")
        theirs.error("Broken.")
        return err.getvalue(), words

    def test_watched(self) -> None:
        """A node's words are bare sentences; only what is grave goes to standard error."""
        err, words = self.observed(LogLevel.warn, watched=True)
        self.assertEqual(words, ["Server running on port 5000"])
        self.assertEqual(err, "flow512: Careful: hot\nflow512: Broken.\n")

    def test_unwatched(self) -> None:
        """Where nobody watches, words are log lines like others."""
        self.assertEqual(
            self.observed(LogLevel.warn, watched=False)[0],
            "flow512: Careful: hot\nflow512: Broken.\n",
        )
        err, _ = self.observed(LogLevel.info, watched=False)
        self.assertIn("flow512: Server running on port 5000\n", err)
        self.assertIn("flow512: Starting factory.\n", err)
        self.assertNotIn("Detail", err)


TERMINAL = {"TERM": "xterm"}
"""The environment of a process on a terminal that can move its cursor."""


class ProgressTests(CommandCase):
    """How far a download is."""

    entry = Entry("sub/a[red]b\x1b.bin", 1000, 0, bytes(32))

    def test_told(self) -> None:
        """Objects come at most every quarter of a second."""
        out, clock = io.StringIO(), Clock()
        progress = ToldProgress(JsonVoice(out, out), clock)
        progress.begin(self.entry, 0)
        for stored in range(1, 11):
            clock.advance(0.1)
            progress.grown(stored)
        progress.end()
        lines = out.getvalue().splitlines()
        self.assertEqual(len(lines), 4)
        self.assertEqual(lines[1], '{"event": "progress", "stored": 3, "bytes": 1000}')

    def test_milestones(self) -> None:
        """Each quarter is said once; a resumed download begins where it is."""
        out = io.StringIO()
        progress = Milestones(PlainVoice(out, out))
        progress.begin(self.entry, 300)
        for stored in (310, 499, 500, 600, 999, 1000):
            progress.grown(stored)
        progress.end()
        self.assertEqual(
            out.getvalue().splitlines(),
            [f"{n} % of 1.0 KiB" for n in (25, 50, 75, 100)],
        )

    def test_bar(self) -> None:
        """The bar shows the name as it is, rate and time left; it is drawn rarely, then removed."""
        out, clock = TerminalText(), Clock()
        console = Console(
            file=out, force_terminal=True, width=100, color_system=None, _environ=TERMINAL
        )
        bar = Bar(console, clock)
        bar.begin(self.entry, 0)
        for stored in range(0, 600, 10):
            clock.advance(0.01)
            bar.grown(stored)
        drawn = out.getvalue().count("\r")
        self.assertTrue(5 <= drawn <= 16, drawn)
        self.assertIn("a[red]b\\x1b.bin", out.getvalue())
        self.assertRegex(out.getvalue(), r"5\d%.* [\d.]+ (KiB|bytes)/s 0:00:0\d")
        bar.end()
        self.assertTrue(out.getvalue().endswith("\x1b[1A\x1b[2K"))

    def test_size_that_is_found_out_later(self) -> None:
        """Until it is known what all comes to, what is here is shown without that."""
        out, clock = io.StringIO(), Clock()
        voices = JsonVoice(out, out), PlainVoice(out, out)
        for progress in (ToldProgress(voices[0], clock), Milestones(voices[1]), Silence()):
            progress.begin(Entry("photos/", 0, 0), 0, is_sized=False)
            clock.advance(1)
            progress.grown(500)
            progress.sized(1000)
            clock.advance(1)
            progress.grown(600)
        self.assertEqual(
            out.getvalue().splitlines(),
            [
                '{"event": "progress", "stored": 0, "bytes": null}',
                '{"event": "progress", "stored": 500, "bytes": null}',
                '{"event": "progress", "stored": 600, "bytes": 1000}',
                "50 % of 1.0 KiB",
            ],
        )

    def test_bar_of_a_folder(self) -> None:
        """It has the folder's name, and a percentage as soon as that is known."""
        for path, name in (("my/photos/", "photos"), ("/", "/")):
            out, clock = TerminalText(), Clock()
            console = Console(
                file=out, force_terminal=True, width=100, color_system=None, _environ=TERMINAL
            )
            bar = Bar(console, clock)
            bar.begin(Entry(path, 0, 0), 0, is_sized=False)
            bar.grown(500)
            self.assertRegex(out.getvalue(), rf"\r[^\n]*{name} .*500/\? bytes")
            self.assertNotIn("%", out.getvalue())
            bar.sized(1000)
            clock.advance(1)
            bar.grown(600)
            self.assertIn(" 60%", out.getvalue())
            bar.end()

    def test_width_of_the_bar(self) -> None:
        """It takes one line, whatever the terminal, the file and its name are."""
        for width, shown in ((30, ()), (40, ("1%", "0:19")), (80, ("1%", "GiB", "0:19"))):
            for name in ("a.bin", "a" * 50, "\u6f22 " * 30):
                out, clock = TerminalText(), Clock()
                console = Console(
                    file=out, force_terminal=True, width=width, color_system=None, _environ=TERMINAL
                )
                bar = Bar(console, clock)
                bar.begin(Entry(name, 1000 << 30, 0), 0)
                for stored in range(0, 15 << 30, 1 << 28):
                    clock.advance(0.3)
                    bar.grown(stored)
                drawn = out.getvalue()
                bar.end()
                self.assertNotIn("\n", drawn)
                last = drawn.rpartition("\x1b[2K")[2]
                self.assertLessEqual(cell_len(last.rstrip()), width)
                for words in (name[:1], *shown):
                    self.assertIn(words, last)

    def test_no_bar(self) -> None:
        """Nothing is drawn where there is no terminal; ending what has not begun is harmless."""
        progress = bar_on(io.StringIO(), Clock())
        self.assertIsInstance(progress, Silence)
        progress.begin(self.entry, 0)
        progress.grown(1)
        progress.end()
        bar_on(TerminalText(), Clock()).end()


class Process:
    """The transport of a child, which notes its signals."""

    def __init__(self) -> None:
        self.signals: list[str] = []
        self.is_gone = False

    def signalProcess(self, name: str) -> None:
        if self.is_gone:
            raise ProcessExitedAlready
        self.signals.append(name)


class Spawner:
    """Starts no process, but remembers which."""

    def spawnProcess(
        self, child: Child, program: str, arguments: list[str], env: dict[str, str], path: str
    ) -> None:
        self.started = (program, arguments, path)
        self.transport = Process()
        child.makeConnection(self.transport)


class ChildTests(CommandCase):
    """Processes that are watched."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[tuple[str, str]] = []
        self.gone: list[str] = []
        self.child = Child(
            "registry",
            lambda name, line: self.lines.append((name, line)),
            lambda child: self.gone.append(child.epitaph),
        )
        spawner = Spawner()
        self.child.start(spawner, ["/bin/x", "-n"], "/tmp")
        self.assertEqual(spawner.started, ("/bin/x", ["/bin/x", "-n"], "/tmp"))
        self.process = spawner.transport

    def test_lines(self) -> None:
        """Lines are passed on whole, from either stream, escaped, the last without its end."""
        self.child.childDataReceived(1, b"one\ntw")
        self.child.childDataReceived(2, b"err\x1b\n\n")
        self.child.childDataReceived(1, b"o\nrest")
        self.child.processEnded(Failure(ProcessDone(0)))
        self.assertEqual([line for _, line in self.lines], ["one", "err\\x1b", "two", "rest"])
        self.assertEqual(self.lines[0][0], "registry")

    def test_endless_line(self) -> None:
        """A line without end is passed on in parts."""
        for _ in range(5):
            self.child.childDataReceived(1, b"x" * 3000)
        self.assertEqual(len(self.lines), 2)

    def test_awaited(self) -> None:
        """Whoever waits for words is given the line that has them."""
        said = self.child.says("Port: ")
        self.child.childDataReceived(1, b"Hello\n")
        self.assertNoResult(said)
        self.child.childDataReceived(1, b"At Port: 5\nAt Port: 6\n")
        self.assertEqual(self.successResultOf(said), "At Port: 5")

    def test_dies(self) -> None:
        """One that ends by itself is reported, with its status and its last words."""
        self.child.childDataReceived(1, b"a\nb\nc\nPort taken.\n")
        self.child.processEnded(Failure(ProcessTerminated(3)))
        self.assertEqual(
            self.gone,
            ["The process 'registry' ended with status 3; it said: b / c / Port taken."],
        )
        self.successResultOf(self.child.stop(Clock()))
        self.assertEqual(self.process.signals, [])

    def test_killed_by_others(self) -> None:
        """So is the signal that ended it."""
        self.child.processEnded(Failure(ProcessTerminated(signal=9)))
        self.assertEqual(self.gone, ["The process 'registry' died of signal 9, and said nothing."])

    def test_stopped(self) -> None:
        """A child that is asked to end, and does, is not reported."""
        clock = Clock()
        stopping = self.child.stop(clock)
        self.assertEqual(self.process.signals, ["TERM"])
        self.assertNoResult(stopping)
        self.child.processEnded(Failure(ProcessDone(0)))
        self.successResultOf(stopping)
        self.assertEqual((self.gone, clock.getDelayedCalls()), ([], []))

    def test_stubborn(self) -> None:
        """One that does not end in time is killed."""
        clock = Clock()
        self.child.stop(clock)
        clock.advance(STOP_SECONDS)
        self.assertEqual(self.process.signals, ["TERM", "KILL"])
        self.child.processEnded(Failure(ProcessTerminated(signal=9)))

    def test_gone_meanwhile(self) -> None:
        """One that is gone before the signal arrives is waited for all the same."""
        self.process.is_gone = True
        stopping = self.child.stop(Clock())
        self.child.processEnded(Failure(ProcessDone(0)))
        self.successResultOf(stopping)


class StageTests(CommandCase):
    """Where the demo is seen."""

    def setUp(self) -> None:
        super().setUp()
        self.out, self.err = io.StringIO(), io.StringIO()
        self.stage = Stage(self.out, self.err)

    def test_lines(self) -> None:
        """Log lines are shown without their time, Twisted's own only if something is wrong."""
        time = "2026-01-01T00:00:00+0000"
        self.stage.line("registry", f"{time} [flow512.registry.server.X#info] Peer [x] connected")
        self.stage.line("second", f"{time} [twisted.scripts#info] reactor class: E")
        self.stage.line("second", f"{time} [-] Main loop terminated.")
        self.stage.line("second", f"{time} [twisted.internet#error] Broken.")
        self.stage.line("second", "Traceback")
        self.assertEqual(
            self.out.getvalue().splitlines(),
            [
                "registry | Peer [x] connected",
                "  second | Broken.",
                "  second | Traceback",
            ],
        )

    def test_says(self) -> None:
        """What happens is told as it is, however long; errors go to standard error."""
        self.stage.say("[bold]" + "x" * 300)
        self.stage.announce("$ twistd")
        self.stage.tell("done", bytes=1)
        self.stage.fail(DiskFull("No space."))
        self.assertEqual(self.out.getvalue().splitlines(), ["[bold]" + "x" * 300, "", "$ twistd"])
        self.assertEqual(self.err.getvalue(), "flow512: No space.\n")

    def test_progress(self) -> None:
        """There is a bar on a terminal, and quarters elsewhere."""
        self.assertIsInstance(self.stage.progress(Clock()), Milestones)
        self.addCleanup(os.environ.__setitem__, "TERM", os.environ.get("TERM", "dumb"))
        os.environ["TERM"] = "xterm"
        self.assertIsInstance(Stage(TerminalText(), self.err).progress(Clock()), Bar)
