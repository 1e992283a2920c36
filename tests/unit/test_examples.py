"""
The programs of docs/embedding.rst, on the network in memory: each takes the reactor it is handed.
"""

from __future__ import annotations

import hashlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import ModuleType

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from flow512 import HostPort, LocalAddress, Mode, NamedRegistry, NodeService, NodeSettings
from flow512.errors import NotFound
from flow512.testing import Host, Network

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> ModuleType:
    """Load one of the programs without running it."""
    spec = spec_from_file_location(f"docs_example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reader(Protocol):
    """Keeps what it is told."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class ExampleTests(SynchronousTestCase):
    """Each program does what it says."""

    def setUp(self) -> None:
        self.network = Network(seed=1)
        self.host = self.network.host("10.0.0.1", name="server")
        self.other = self.network.host("10.0.0.2", name="other")

    def node(self, host: Host, beacon_port: int | None = None, **settings: object) -> NodeService:
        """Make a node that announces nothing, unless it is given a port for that."""
        return NodeService(
            host.reactor,
            NodeSettings(beacon_port=beacon_port, **settings),
            random=Random(host.name),
            run_blocking=host.run_blocking,
            local_addresses=lambda: [LocalAddress(host.addresses[0], 24, "eth0", 2)],
        )

    def roll_call(self) -> str:
        """Ask the application who is there."""
        endpoint = clientFromString(self.other.reactor, "tcp:server:5001")
        reader = self.network.result(connectProtocol(endpoint, Reader()))
        self.network.run(1)
        return reader.received.decode()

    def test_registry(self) -> None:
        """The other service sees who registers; both end with the application."""
        make_application = example("registry_in_application").make_application
        application = make_application(self.host.reactor, "tcp:5000", "tcp:5001")
        application.startService()
        node = self.node(
            self.other,
            name="\N{BELL}b",
            registries=(NamedRegistry(HostPort("server", 5000)),),
            bootstrap=Mode.NEVER,
        )
        self.assertEqual(self.roll_call(), "")
        node.startService()
        self.network.run(1)
        self.assertEqual(self.roll_call(), "10.0.0.2 5000 '\\U0001f514b'\n")
        self.network.result(node.stopService())
        self.network.run(1)
        self.assertEqual(self.roll_call(), "")
        self.network.result(application.stopService())
        self.network.run(1)
        self.network.close()

    def test_registry_without_a_port(self) -> None:
        """A port that is taken ends the program with a sentence that says so."""
        self.host.reactor.listenTCP(5000, Factory())
        main = example("registry_in_application").main
        with self.assertRaises(SystemExit) as caught:
            main(self.host.reactor, "tcp:5000", "tcp:5001")
        self.assertIn("Nothing can listen on 'tcp:5000'", str(caught.exception))

    def test_fetch(self) -> None:
        """The Deferred fires with the file in its place; one that is not there fails it."""
        # Not mktemp(), which leaves its folders in the tree when pytest runs this.
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        share, folder = Path(temporary.name, "share"), Path(temporary.name, "folder")
        share.mkdir()
        folder.mkdir()
        content = Random(3).randbytes(300_000)
        (share / "trailer.mkv").write_bytes(content)
        node = self.node(self.host, shares=(str(share),), bootstrap=Mode.ALWAYS)
        node.startService()
        fetch = example("fetch").fetch
        place = (self.other.reactor, self.other.run_blocking, "server:5000")
        fetched = self.network.result(fetch(*place, "trailer.mkv", str(folder)))
        self.assertEqual((folder / "trailer.mkv").read_bytes(), content)
        self.assertEqual(fetched.md5, hashlib.md5(content).digest())
        with self.assertRaises(NotFound):
            self.network.result(fetch(*place, "nothing.mkv", str(folder)))
        self.network.run(1)
        self.network.result(node.stopService())
        self.network.close()

    def test_look_around(self) -> None:
        """What peers share is said, and how a file begins; a file that nobody has fails it."""
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        content = Random(3).randbytes(600_000)
        Path(temporary.name, "a\N{BELL}b").write_bytes(content)
        Path(temporary.name, "empty").touch()
        library = self.node(self.host, 5120, shares=(temporary.name,), name="library")
        here = self.node(self.other, 5120, serves=False)
        for node in (library, here):
            node.startService()
        said: list[str] = []

        def look_around(path: str) -> None:
            looking = example("look_around").look_around
            arguments = (self.other.reactor, here, path, 300)
            self.network.result(Deferred.fromCoroutine(looking(*arguments, said.append)))

        look_around("a\N{BELL}b")
        library_says = "library (10.0.0.1:5000) has"
        files = [
            f"{library_says} 'a\\U0001f514b': 600000 bytes",
            f"{library_says} 'empty': 0 bytes",
        ]
        self.assertEqual(said, [*files, f"'a\\U0001f514b' begins with {content[:300]!a}"])
        self.assertLess(self.other.bytes_received, 500_000)
        look_around("empty")
        self.assertEqual(said[-1], "'empty' begins with b''")
        with self.assertRaises(NotFound):
            look_around("nothing")
        for node in (here, library):
            self.network.result(node.stopService())
        self.network.close()

    def test_no_such_interface(self) -> None:
        """An interface that is not there is said, and not waited for without a word."""
        main = example("beacon_alone").main
        with self.assertRaisesRegex(SystemExit, "There is no interface 'eth9' here."):
            main(self.host.reactor, "kitchen", "8000", "127.0.0.1", "eth9")

    def test_beacon(self) -> None:
        """Two see each other come and go, and see no beacon of another network."""
        make_beacon = example("beacon_alone").make_beacon
        said: dict[str, list[str]] = {"kitchen": [], "attic": []}
        reactor = self.host.reactor
        kitchen, attic = (
            make_beacon(reactor, name, port, ("127.0.0.1",), said[name].append)
            for name, port in (("kitchen", 8000), ("attic", 8001))
        )
        kitchen.startService()
        attic.startService()
        self.network.run(5)
        self.assertEqual(said["kitchen"], ["found 'attic' at 127.0.0.1 port 8001"])
        self.assertEqual(said["attic"], ["found 'kitchen' at 127.0.0.1 port 8000"])
        self.network.result(attic.stopService())
        self.network.run(1)
        self.assertEqual(said["kitchen"][1:], ["lost 'attic'"])
        self.network.result(kitchen.stopService())
        self.network.close()
