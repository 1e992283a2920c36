"""
C{docs/testing.rst}: what it shows works.
"""

from __future__ import annotations

import textwrap
import unittest
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PAGE = Path(__file__).parents[2] / "docs" / "testing.rst"


def programs() -> list[str]:
    """Cut the programs out of the page."""
    blocks = PAGE.read_text(encoding="utf-8").split(".. code-block:: python\n")[1:]
    found = []
    for block in blocks:
        lines = []
        for line in block.splitlines():
            if line and not line.startswith("    "):
                break
            lines.append(line)
        found.append(textwrap.dedent("\n".join(lines)))
    return found


class PageTests(SynchronousTestCase):
    def test_programs(self) -> None:
        """The page's test passes, and its claim that a seed repeats holds."""
        names: dict[str, type[SynchronousTestCase]] = {"__name__": "page"}
        first, second = programs()
        exec(first, names)
        result = unittest.TestResult()
        names["EchoTests"]("test_echo").run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (1, [], []))
        exec(second, names)
