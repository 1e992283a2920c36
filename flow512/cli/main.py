"""
C{flow512}: where the process begins, and the exit status with which it ends.

What takes a while to load is loaded when the signals have been taken.
"""

from __future__ import annotations

import sys

from flow512.cli.leaving import leave
from flow512.cli.stopping import take_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    import click

    from flow512.cli.invoking import Runner
    from flow512.cli.running import Command
    from flow512.cli.voice import Voice


def run_in_process(
    command: Command,
    voice: Voice,
    *,
    verbose: bool,
    words: Callable[[str], None] | None = None,
) -> int:
    """
    Run a command on this process's reactor; the L{Runner} of everybody but tests.
    """
    import gc

    from twisted.internet import reactor
    from twisted.logger import LogLevel

    from flow512.cli.logs import begin_logging
    from flow512.cli.running import run
    from flow512.clocks import keep_steady
    from flow512.descriptors import allow_enough_descriptors

    allow_enough_descriptors()
    keep_steady(reactor)
    begin_logging(sys.stderr, LogLevel.info if verbose else LogLevel.warn, words)
    # What is imported by now stays to the end; the collector would go through it time and again.
    gc.freeze()
    gc.enable()
    return run(command, voice, reactor)


def main(arguments: Sequence[str] | None = None, runner: Runner = run_in_process) -> int:
    """
    Run one command.

    @param arguments: as typed; L{None} for those of this process, whose signals and standard
        streams are taken in hand then, and which ends with the command.
    @param runner: runs what needs a network.
    @return: the exit status.
    """
    if arguments is not None:
        return _typed(arguments, runner)
    take_signals()
    from flow512.cli import sparing, standard

    standard.open_missing()
    standard.guard()
    sparing.load_no_more_than(sys.argv[1:])
    return leave(_typed(sys.argv[1:], runner))


def _usage(error: click.ClickException, arguments: Sequence[str], commands: Container[str]) -> str:
    """Say what click has against the arguments, in words for users, and where help is."""
    context = getattr(error, "ctx", None)
    where = "flow512" if context is None else context.command_path
    if context is None and arguments and arguments[0] in commands:
        where = f"flow512 {arguments[0]}"
    sentence = error.format_message().rstrip(".")
    for type_name in ("float range", "integer range"):
        sentence = sentence.replace(f"is not a valid {type_name}", "is no number that fits")
    if "?" in sentence[-2:]:
        return f"{sentence} See `{where} --help`."
    return f"{sentence}; see `{where} --help`."


def _typed(arguments: Sequence[str], runner: Runner) -> int:
    import gc
    import io

    # Importing makes many objects, and leaves no garbage.
    gc.disable()
    import click

    from flow512.cli.commands import cli, wants_json
    from flow512.cli.invoking import voice_for
    from flow512.cli.outcome import DONE, FAILED, WRONG_USAGE, Interrupted, status_of
    from flow512.errors import Flow512Error, Misuse

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name is no reason to fail

    def fail(error: Flow512Error) -> None:
        voice_for(wants_json(arguments)).fail(error)

    try:
        # click itself ends the process quietly when nobody reads its output any more.
        status: int | None = cli.main(
            arguments, prog_name="flow512", standalone_mode=False, obj=runner
        )
        sys.stdout.flush()
    except click.ClickException as error:
        fail(Misuse(_usage(error, arguments, cli.commands)))
        return WRONG_USAGE
    except Flow512Error as error:
        fail(error)
        return status_of(error)
    except BrokenPipeError:
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        stopped = Interrupted("Stopped.")
        fail(stopped)
        return status_of(stopped)
    finally:
        gc.enable()
    return status or DONE
