"""
The house's order, read from the source: who imports whom, and what nobody imports.

Each rule is a function from parsed sources to sentences, so that the same rule that judges
flow512 is also shown a source that breaks it.
"""

from __future__ import annotations

import ast
import configparser
import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

ROOT: Final = Path(__file__).resolve().parents[2]

HEIGHTS: Final = {
    "flow512": 10,
    "plugins": 9,
    "web": 8,
    "cli": 8,
    "node": 7,
    "settings": 6.5,
    "transfer": 6,
    "registry": 5,
    "link": 4,
    "content": 3,
    "wire": 2,
    "discovery": 1,
    "ground": 0,
}
"""How high each room stands; it may import only what is lower, and itself."""

GROUND: Final = {"clocks", "descriptors", "errors", "units", "interfaces", "limits", "_version"}
"""Modules that everybody may import."""

PURE: Final = (
    "flow512.content",
    "flow512.discovery.claims",
    "flow512.discovery.datagram",
    "flow512.discovery.deeds",
    "flow512.discovery.election",
    "flow512.discovery.engine",
    "flow512.discovery.hints",
    "flow512.discovery.links",
    "flow512.discovery.prospects",
    "flow512.discovery.resting",
    "flow512.discovery.succession",
    "flow512.link.faults",
    "flow512.link.gate",
    "flow512.link.http_url",
    "flow512.link.origin",
    "flow512.link.rate",
    "flow512.registry.acquaintances",
    "flow512.registry.holdings",
    "flow512.registry.inventory",
    "flow512.registry.table",
    "flow512.transfer.actions",
    "flow512.transfer.course",
    "flow512.transfer.holders",
    "flow512.transfer.incoming",
    "flow512.transfer.masks",
    "flow512.transfer.pace",
    "flow512.transfer.swarm",
    "flow512.transfer.wanted",
    "flow512.wire",
)
"""What is handed its time and its chance, and imports no Twisted, itself or through others."""

CLOCKS_AND_CHANCE: Final = {"datetime", "secrets", "time", "uuid"}

REACTOR_IN_FUNCTIONS: Final = {
    "flow512.plugins": "makeService",
    "flow512.cli": None,
    "flow512.testing": None,
}
"""Where the reactor may be imported: in the function of that name, or in any."""


@dataclass(frozen=True)
class Import:
    """
    One name that a module imports.

    @ivar target: absolute; C{package.name} for C{from package import name}.
    @ivar line: where.
    @ivar functions: names of the functions around it, outermost first.
    @ivar for_types: it stands under C{if TYPE_CHECKING}, and nothing is loaded.
    """

    target: str
    line: int
    functions: tuple[str, ...]
    for_types: bool


@dataclass
class _Reader(ast.NodeVisitor):
    package: str
    found: list[Import] = field(default_factory=list)
    functions: tuple[str, ...] = ()
    for_types: bool = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside = self.functions
        self.functions = (*outside, node.name)
        self.generic_visit(node)
        self.functions = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        outside = self.for_types
        self.for_types = outside or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body:
            self.visit(statement)
        self.for_types = outside
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self.note(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            parts = self.package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1])
            origin = f"{base}.{origin}" if origin else base
        for name in node.names:
            self.note(f"{origin}.{name.name}", node.lineno)

    def note(self, target: str, line: int) -> None:
        self.found.append(Import(target, line, self.functions, self.for_types))


class Sources:
    """Modules by name, each with what it imports."""

    def __init__(self, texts: Mapping[str, str], packages: frozenset[str] = frozenset()) -> None:
        """
        @param texts: source of each module by its dotted name.
        @param packages: which of them are C{__init__.py}.
        """
        self.trees = {name: ast.parse(text) for name, text in texts.items()}
        self.imports: dict[str, list[Import]] = {}
        for name, tree in self.trees.items():
            reader = _Reader(name if name in packages else name.rpartition(".")[0])
            reader.visit(tree)
            self.imports[name] = reader.found

    def module(self, target: str) -> str | None:
        """Find the module of flow512 that an import loads: the target, or what it is a name in."""
        while target:
            if target in self.trees:
                return target
            target = target.rpartition(".")[0]
        return None

    def edges(self, name: str) -> Iterator[tuple[str, Import]]:
        """List the modules of flow512 that a module imports."""
        for found in self.imports[name]:
            target = self.module(found.target)
            if target is not None and target != name:
                yield target, found


def read_tree() -> Sources:
    """Parse every module of flow512."""
    texts: dict[str, str] = {}
    packages = set()
    for path in sorted((ROOT / "flow512").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        texts[".".join(parts)] = path.read_text(encoding="utf-8")
    return Sources(texts, frozenset(packages))


def room(module: str) -> str:
    """Tell which room a module of flow512 belongs to."""
    parts = module.split(".")
    if len(parts) == 1:
        return "flow512"
    return "ground" if parts[1] in GROUND else parts[1]


def within(module: str, place: str) -> bool:
    """Tell whether a module is a place or inside it."""
    return module == place or module.startswith(place + ".")


def strangers(sources: Sources) -> list[str]:
    """Find modules that belong to no known room."""
    known = {*HEIGHTS, "testing"}
    return [
        f"{name}: give its room a height in {Path(__file__).name}"
        for name in sources.trees
        if room(name) not in known
    ]


def upward_imports(sources: Sources) -> list[str]:
    """Find imports of a room that does not stand below; C{testing} stands outside the house."""
    wrong = []
    for name in sources.trees:
        here = room(name)
        for target, found in sources.edges(name):
            there = room(target)
            if here == there:
                continue
            if here == "testing" or there == "testing":
                allowed = False
            else:
                allowed = HEIGHTS.get(there, 99) < HEIGHTS.get(here, 0)
            if not allowed:
                wrong.append(f"{name}:{found.line} ({here}) imports {target} ({there})")
    return wrong


def circles(sources: Sources) -> list[str]:
    """Find a circle of modules that load each other, be it as late as in a function."""
    graph = {
        name: {target for target, found in sources.edges(name) if not found.for_types}
        for name in sources.trees
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def impurities(sources: Sources) -> list[str]:
    """Find pure modules that reach Twisted, or have a clock or chance of their own."""
    wrong = []
    for name in sources.trees:
        if not any(within(name, place) for place in PURE):
            continue
        via = {name: name}
        waiting = [name]
        while waiting:
            module = waiting.pop()
            wrong += [
                f"{via[module]}:{found.line} imports {found.target}, and {name} is to be pure"
                for found in sources.imports[module]
                if within(found.target, "twisted")
            ]
            for target, _ in sources.edges(module):
                if target not in via:
                    via[target] = f"{via[module]} -> {target}"
                    waiting.append(target)
        wrong += [
            f"{name}:{found.line} imports {found.target}; have it handed in"
            for found in sources.imports[name]
            if found.target.partition(".")[0] in CLOCKS_AND_CHANCE
            or (within(found.target, "random") and found.target not in ("random", "random.Random"))
        ]
        # A parameter may well be called random; then the module is not imported by that name.
        has_module = any(found.target == "random" for found in sources.imports[name])
        wrong += [
            f"{name}:{node.lineno} uses {ast.unparse(node)}; have a random.Random handed in"
            for node in ast.walk(sources.trees[name])
            if _is_own_chance(node, has_module)
        ]
    return wrong


def _is_own_chance(node: ast.AST, has_module: bool) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("random.Random", "Random")
    if not isinstance(node, ast.Attribute):
        return False
    text = ast.unparse(node)
    return text == "os.urandom" or (
        has_module and text.startswith("random.") and text != "random.Random"
    )


def reactor_imports(sources: Sources) -> list[str]:
    """Find imports of the global reactor where it does not belong."""
    wrong = []
    for name, imports in sources.imports.items():
        for found in imports:
            if not within(found.target, "twisted.internet.reactor"):
                continue
            allowed = any(
                within(name, place) and found.functions and function in (None, found.functions[0])
                for place, function in REACTOR_IN_FUNCTIONS.items()
            )
            if not allowed:
                wrong.append(f"{name}:{found.line} imports the reactor; have it handed in")
    return wrong


class HouseTests(SynchronousTestCase):
    """flow512 as it is keeps every rule."""

    def test_rules(self) -> None:
        """No module is out of place, imports upwards, is impure, or grabs the reactor."""
        sources = read_tree()
        self.assertIn("flow512.errors", sources.trees)
        for rule in (strangers, upward_imports, circles, impurities, reactor_imports):
            wrong = rule(sources)
            self.assertEqual(wrong, [], f"{rule.__doc__}\n" + "\n".join(wrong))

    def test_shipped(self) -> None:
        """Every package of the tree is named in setup.cfg, so that none is left out of a wheel."""
        config = configparser.ConfigParser(interpolation=None)
        config.read(ROOT / "setup.cfg", encoding="utf-8")
        there = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for top in ("flow512", "twisted")
            for path in (ROOT / top).rglob("*.py")
        }
        self.assertEqual(sorted(config["options"]["packages"].split()), sorted(there))

    def test_plugin_folder(self) -> None:
        """The folder of the plugins is no package: an C{__init__.py} would replace Twisted's."""
        found = [path.name for path in (ROOT / "twisted").rglob("__init__.py")]
        self.assertEqual(found, [])

    def test_seen_by_both_runners(self) -> None:
        """
        Every unit test is a method in a package, for trial finds no others.

        A module-level function or a class of plain pytest would run under pytest only.
        """
        wrong = []
        for path in sorted((ROOT / "tests" / "unit").rglob("*.py")):
            if not (path.parent / "__init__.py").exists():
                wrong.append(f"{path.relative_to(ROOT)}: its folder lacks __init__.py")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                name = getattr(node, "name", "")
                plain_class = isinstance(node, ast.ClassDef) and not node.bases
                if name.startswith("test") or (plain_class and name.startswith("Test")):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
        self.assertEqual(wrong, [])


class RuleTests(SynchronousTestCase):
    """Each rule notices what it is there for."""

    def test_stranger(self) -> None:
        """A new room has to be given its place."""
        self.assertEqual(strangers(Sources({"flow512.wire.frame": ""})), [])
        self.assertEqual(len(strangers(Sources({"flow512.attic": ""}))), 1)

    def test_upwards(self) -> None:
        """A room may import what is below it, the ground and itself, and nothing else."""
        rows = [
            ("flow512.link.framed", "from flow512.wire import frame", True),
            ("flow512.link.framed", "from flow512.errors import Misuse", True),
            ("flow512.link.framed", "from flow512.link import tls", True),
            ("flow512.link.framed", "from . import tls", True),
            ("flow512.link.framed", "import flow512.registry.server", False),
            ("flow512.link.framed", "from ..registry.server import Server", False),
            ("flow512.link.framed", "from flow512 import NodeService", False),
            ("flow512.link.framed", "def later():\n    import flow512.registry.server", False),
            ("flow512.cli.main", "from flow512.web import page", False),
            ("flow512.testing.network", "from flow512.wire import frame", False),
            ("flow512.testing.network", "from flow512.testing import pipe", True),
            ("flow512.wire.frame", "import flow512.testing", False),
            ("flow512.units", "from flow512.wire import frame", False),
            ("flow512", "from flow512.registry.server import Server", True),
        ]
        targets = ["flow512", "flow512.errors", "flow512.wire", "flow512.wire.frame"]
        targets += ["flow512.link.tls", "flow512.registry.server", "flow512.web"]
        targets += ["flow512.testing", "flow512.testing.pipe"]
        for name, text, allowed in rows:
            sources = Sources({**dict.fromkeys(targets, ""), name: text}, frozenset(["flow512"]))
            self.assertEqual(upward_imports(sources) == [], allowed, f"{name}: {text}")

    def test_circle(self) -> None:
        """Modules of one room that import each other are found."""
        first, second = "flow512.wire.frame", "flow512.wire.messages"
        sources = Sources({first: f"import {second}", second: ""})
        self.assertEqual(circles(sources), [])
        rows = [
            (f"import {first}", 1),
            (f"def later():\n    import {first}", 1),
            (f"if TYPE_CHECKING:\n    import {first}", 0),
            (f"if TYPE_CHECKING:\n    pass\nelse:\n    import {first}", 1),
        ]
        for text, count in rows:
            sources = Sources({first: f"import {second}", second: text})
            self.assertEqual(len(circles(sources)), count, text)

    def test_impure(self) -> None:
        """Twisted is found however far away, and so are clocks and dice."""
        rows = [
            ("import random\ndef pick(r: random.Random) -> float:\n    return r.random()", True),
            ("from random import Random\ndef pick(random: Random):\n    random.random()", True),
            ("from flow512.errors import Misuse", True),
            ("from twisted.internet import defer", False),
            ("import twisted", False),
            ("from flow512.registry.server import Server", False),
            ("import time", False),
            ("from secrets import token_bytes", False),
            ("import random\nx = random.random()", False),
            ("import random\nx = random.Random(1)", False),
            ("from random import randbytes", False),
            ("import os\nx = os.urandom(4)", False),
        ]
        for text, allowed in rows:
            sources = Sources(
                {
                    "flow512.registry.table": text,
                    "flow512.registry.server": "from twisted.internet import protocol",
                    "flow512.errors": "",
                }
            )
            self.assertEqual(impurities(sources) == [], allowed, text)

    def test_impure_elsewhere(self) -> None:
        """What is not pure may use Twisted."""
        sources = Sources({"flow512.link.framed": "from twisted.internet import protocol"})
        self.assertEqual(impurities(sources), [])

    def test_reactor(self) -> None:
        """The reactor is imported inside functions, of C{makeService}, the CLI and testing only."""
        statement = "from twisted.internet import reactor"
        rows = [
            ("flow512.plugins.node_tap", "makeService", True),
            ("flow512.plugins.node_tap", "elsewhere", False),
            ("flow512.plugins.node_tap", None, False),
            ("flow512.cli.main", "main", True),
            ("flow512.cli.main", None, False),
            ("flow512.testing.network", "run", True),
            ("flow512.link.framed", "connect", False),
        ]
        for name, function, allowed in rows:
            text = statement if function is None else f"def {function}():\n    {statement}"
            self.assertEqual(
                reactor_imports(Sources({name: text})) == [], allowed, f"{name}: {text}"
            )
        other_spelling = Sources({"flow512.link.framed": "import twisted.internet.reactor"})
        self.assertEqual(len(reactor_imports(other_spelling)), 1)
