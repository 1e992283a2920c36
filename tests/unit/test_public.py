"""What can be imported from flow512 itself, and what the pages tell people to do with it."""

from __future__ import annotations

import ast
import re
import textwrap
import threading
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import ModuleType

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
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
        catalog = flow512.Catalog(flow512.IN_MEMORY)
        self.addCleanup(catalog.close)
        library = flow512.Library(catalog, [])
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
            flow512.SharedPortFactory(introduction, host.reactor),
        ]
        for factory in factories:
            verifyObject(IProtocolFactory, factory)

    def test_started_twice(self) -> None:
        """
        A service that a running parent has started may be started once more by who forgot that:
        when it has stopped, nothing of it is left.
        """
        network = Network()
        host = network.host("10.0.0.1")
        catalog = flow512.Catalog(flow512.IN_MEMORY)
        self.addCleanup(catalog.close)
        before = threading.active_count()
        services = [
            flow512.Beacon(
                host.reactor,
                name="embedded",
                random=Random(1),
                interfaces=[flow512.LocalAddress("10.0.0.1", 24, "eth0", 2)],
            ),
            flow512.IndexingService(
                flow512.Library(catalog, []), host.reactor, host.run_blocking, rescan=1.0
            ),
            flow512.Workers(host.reactor),
        ]
        application = MultiService()
        application.startService()
        for service in services:
            service.setServiceParent(application)
        services[-1].run_blocking(threading.get_ident)
        for service in services:
            service.startService()
        network.run(3)
        network.result(application.stopService())
        network.run(3)
        self.assertEqual(network.left_over(), [])
        self.assertLessEqual(threading.active_count(), before)


def python_blocks(page: str) -> list[str]:
    """Take the Python that a page shows, but for what it includes from files."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in blocks]


class PageTests(SynchronousTestCase):
    """What the README and docs/embedding.rst show does what they say."""

    def setUp(self) -> None:
        self.network = Network(seed=1)
        self.host = self.network.host("10.0.0.1")
        # Not mktemp(), which leaves its folders in the tree when pytest runs this.
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name, "folder")
        self.folder.mkdir()
        self.application = MultiService()
        self.names = {
            "application": self.application,
            "folder": str(self.folder),
            "reactor": self.host.reactor,
            "run_blocking": self.host.run_blocking,
        }

    def follow(self, block: str) -> None:
        """Do what a page shows."""
        exec(compile(block, "shown", "exec"), self.names)

    def test_editable_install(self) -> None:
        """There is one command for an editable install, in the mode that keeps the plugins."""
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        found = re.findall(r"pip install [^`\n]*-e [^`\n]*", text)
        self.assertEqual(found, ["pip install -e '.[test]' --config-settings editable_mode=compat"])

    def test_node(self) -> None:
        """A node that shares the folder is one of the application's services."""
        (readme,) = python_blocks("README.rst")
        for block in (readme, python_blocks("docs/embedding.rst")[0]):
            self.follow(block)
            node = self.names["node"]
            self.assertIsInstance(node, flow512.NodeService)
            self.assertIn(node, list(self.application))
            self.assertEqual(node.settings.shares, (str(self.folder),))

    def test_node_on_a_host(self) -> None:
        """Two nodes that are made as shown find each other, and a file goes where it is said to."""
        (self.folder / "file.bin").write_bytes(b"content")
        (block,) = (each for each in python_blocks("docs/embedding.rst") if "def node_on" in each)
        self.follow(block)
        downloads = self.folder.with_name("downloads")
        downloads.mkdir()
        there = flow512.NodeSettings(name="there", shares=(str(self.folder),))
        here = flow512.NodeSettings(serves=False, downloads=str(downloads))
        hosts = (self.host, self.network.host("10.0.0.2"))
        nodes = [
            self.names["node_on"](*each)  # type: ignore[operator]  # the page's function
            for each in zip(hosts, (there, here), strict=True)
        ]
        for node in nodes:
            node.startService()
        self.network.run(10)
        self.network.result(nodes[1].get("file.bin"))
        self.assertEqual((downloads / "file.bin").read_bytes(), b"content")
        for node in nodes:
            self.network.result(node.stopService())

    def test_table(self) -> None:
        """The table of docs/embedding.rst has every name that can be imported."""
        page = (ROOT / "docs/embedding.rst").read_text(encoding="utf-8")
        table = page[page.index("What can be imported from ``flow512``") :]
        self.assertEqual(
            {*flow512.__all__, "__version__"} - {*re.findall(r"``(\w+)``", table)}, {"__version__"}
        )

    def test_folder_at_an_endpoint(self) -> None:
        """What is in the folder is listed at the endpoint and can be fetched from it."""
        content = Random(1).randbytes(1000)
        (self.folder / "file.bin").write_bytes(content)
        self.names["endpoint"] = serverFromString(self.host.reactor, "tcp:7000")
        (block,) = (
            each for each in python_blocks("docs/embedding.rst") if "TransferFactory" in each
        )
        # The catalog's file goes to the test's own folder.
        database = str(self.folder.with_suffix(".sqlite"))
        self.assertIn('"catalog.sqlite"', block)
        self.follow(block.replace('"catalog.sqlite"', repr(database)))
        port = self.network.result(self.names["listening"])
        self.application.startService()
        self.network.run(1)

        other = self.network.host("10.0.0.2")
        identity = flow512.Identity.from_seed(bytes(32))
        tls = flow512.Tls(identity, other.reactor)
        client = flow512.TransferClient(
            flow512.Introduction(identity.node, "other"),
            other.reactor,
            lambda address: tls.connecting(flow512.client_endpoint(other.reactor, address)),
            other.run_blocking,
        )
        place = flow512.Candidate(flow512.HostPort("10.0.0.1", 7000))

        async def look() -> list[str]:
            source = await client.connect(place)
            paths = [entry.path async for entry in client.entries(source)]
            source.leave()
            return paths

        self.assertEqual(self.network.result(Deferred.fromCoroutine(look())), ["file.bin"])
        target = self.folder.with_name("target")
        target.mkdir()
        getting = client.get([place], flow512.Target(str(target)), path="file.bin")
        self.network.result(Deferred.fromCoroutine(getting))
        self.assertEqual((target / "file.bin").read_bytes(), content)

        self.network.result(Deferred.fromCoroutine(client.stop()))
        self.network.result(port.stopListening())
        self.network.result(self.names["factory"].stop())
        self.network.result(self.application.stopService())
        self.names["library"].close()
        self.names["catalog"].close()
        self.network.close()
