"""What can be imported from flow512 itself, and what the README tells people to do with it."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from types import ModuleType

from twisted.application.service import IService, MultiService
from twisted.internet.interfaces import IProtocolFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import flow512
from flow512.testing import Network

ROOT = Path(__file__).parents[2]
SOURCE = Path(flow512.__file__)


def fresh() -> ModuleType:
    """Load the package's own module once more, with nothing asked of it yet."""
    spec = spec_from_file_location("flow512", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen_by_type_checkers() -> dict[str, str]:
    """Read which module each name is imported from under C{if TYPE_CHECKING}."""
    found = {}
    for block in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for statement in block.body:
                assert isinstance(statement, ast.ImportFrom)
                found.update((name.name, str(statement.module)) for name in statement.names)
    return found


class NameTests(SynchronousTestCase):
    """The names of the package."""

    def test_every_name(self) -> None:
        """Every public name is there, and is the one that type checkers are told of."""
        homes = seen_by_type_checkers()
        self.assertEqual({*homes, "__version__"}, set(flow512.__all__))
        for name, home in homes.items():
            self.assertIs(getattr(flow512, name), getattr(import_module(home), name), name)

    def test_once(self) -> None:
        """No name is listed twice."""
        self.assertEqual(len(set(flow512.__all__)), len(flow512.__all__))

    def test_loaded_when_asked_for(self) -> None:
        """A name is listed before anybody asks for it, and loaded only then."""
        module = fresh()
        self.assertIn("NodeService", dir(module))
        self.assertNotIn("NodeService", vars(module))
        self.assertIs(module.NodeService, flow512.NodeService)
        self.assertIn("NodeService", vars(module))

    def test_no_such_name(self) -> None:
        """A name that is not there is an ordinary C{AttributeError}."""
        with self.assertRaisesRegex(AttributeError, "module 'flow512' has no attribute 'Nothing'"):
            _ = fresh().Nothing

    def test_version(self) -> None:
        """The version is that of the package's metadata."""
        self.assertRegex(flow512.__version__, r"^\d+\.\d+\.\d+$")


class PieceTests(SynchronousTestCase):
    """What an application embeds is what Twisted knows how to run."""

    def test_services_and_factories(self) -> None:
        """Each is an C{IService} or an C{IProtocolFactory}, made with nothing but public names."""
        host = Network().host("10.0.0.1")
        introduction = flow512.Introduction(bytes(32), "embedded")
        library = flow512.Library(flow512.Catalog(flow512.IN_MEMORY), [])
        endpoint = flow512.client_endpoint(host.reactor, flow512.HostPort("10.0.0.2", 5000))
        services = [
            flow512.NodeService(
                host.reactor, flow512.NodeSettings(), run_blocking=host.run_blocking
            ),
            flow512.RegistryService(host.reactor, flow512.RegistrySettings()),
            flow512.RegistryClient(
                host.reactor, endpoint, introduction, port=0, ticket=bytes(16), random=Random(1)
            ),
            flow512.Beacon(host.reactor, name="embedded", random=Random(1)),
        ]
        for service in services:
            verifyObject(IService, service)
        factories = [
            flow512.RegistryFactory(introduction, host.reactor),
            flow512.TransferFactory(library, introduction, host.reactor, host.run_blocking),
            flow512.SourceFactory(introduction, host.reactor),
            flow512.SharedPortFactory(host.reactor),
        ]
        for factory in factories:
            verifyObject(IProtocolFactory, factory)


class ReadmeTests(SynchronousTestCase):
    """The README's lines do what it says."""

    def setUp(self) -> None:
        self.text = (ROOT / "README.rst").read_text(encoding="utf-8")

    def test_editable_install(self) -> None:
        """There is one command for an editable install, in the mode that keeps the plugins."""
        found = re.findall(r"pip install [^`\n]*-e [^`\n]*", self.text)
        self.assertEqual(found, ["pip install -e '.[test]' --config-settings editable_mode=compat"])

    def test_embedding(self) -> None:
        """The lines on embedding share a folder and fetch a file, in an application's services."""
        block = re.search(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", self.text)
        assert block is not None
        lines = re.sub(r"^    ", "", block[1], flags=re.MULTILINE)
        self.assertLessEqual(len([line for line in lines.splitlines() if line]), 6)
        host = Network().host("10.0.0.1")
        folder = Path(self.mktemp())
        folder.mkdir()
        application = MultiService()
        names = {"reactor": host.reactor, "application": application, "folder": str(folder)}
        exec(compile(lines, "README.rst", "exec"), names)  # the README is ours
        self.assertEqual([type(each) for each in application], [flow512.NodeService])
