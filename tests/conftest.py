"""What pytest could get wrong: unit tests left out unseen, and a second owner of the reactor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.trial import unittest


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in a folder of its own, as trial does: C{mktemp} makes what it makes right there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scratch"))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Refuse asynchronous test cases of trial.

    They start and crash the reactor, which under pytest belongs to pytest-twisted.
    """
    for item in items:
        owner = getattr(item, "cls", None)
        if isinstance(owner, type) and issubclass(owner, unittest.TestCase):
            raise pytest.UsageError(
                f"{item.nodeid}: derive it from SynchronousTestCase, or write a function "
                "for pytest-twisted in tests/system/."
            )


def _skipped_unit_tests(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    skipped = reporter.stats.get("skipped", []) + reporter.stats.get("xfailed", [])
    return sorted(report.nodeid for report in skipped if report.nodeid.startswith("tests/unit/"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that left out a unit test: they need nothing that a machine could lack."""
    if session.exitstatus == pytest.ExitCode.OK and _skipped_unit_tests(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which unit tests were left out."""
    for nodeid in _skipped_unit_tests(config):
        terminalreporter.write_line(f"{nodeid}: a unit test may not be skipped.", red=True)
