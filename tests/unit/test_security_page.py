"""docs/security.rst, held to the tests: what it promises is tested where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.rst"


def _tests_of(file: Path) -> set[str]:
    """The tests in a file: C{Class.method}, and the names of functions."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


class PageTests(SynchronousTestCase):
    """The page says nothing of tests that is not so."""

    text = PAGE.read_text(encoding="utf-8")

    def test_tests_exist(self) -> None:
        """Every test that is named is there."""
        wrong = []
        for name in re.findall(r"``((?:system\.)?test_[\w.]+)``", self.text):
            place = "system" if name.startswith("system.") else "unit"
            module, _, test = name.removeprefix("system.").partition(".")
            file = ROOT / "tests" / place / f"{module}.py"
            if not file.exists() or test not in _tests_of(file):
                wrong.append(name)
        self.assertEqual(wrong, [])

    def test_every_promise_is_held(self) -> None:
        """After each promise stands a test, or a file of them."""
        section = self.text.partition("\nPromises\n")[2].partition("\nWhat is not promised\n")[0]
        promises = re.split(r"\n- \*\*", section)[1:]
        self.assertGreater(len(promises), 10)
        for promise in promises:
            self.assertRegex(promise, r"``(system\.)?test_|``tests/unit/test_\w+\.py``", promise)

    def test_files_exist(self) -> None:
        """So are the files."""
        for name in re.findall(r"``((?:tests|benchmarks)/[\w/]+\.py)``", self.text):
            self.assertTrue((ROOT / name).exists(), name)
