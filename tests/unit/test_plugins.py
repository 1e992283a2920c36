"""Tests for L{flow512.plugins} and what C{twistd} is told of it."""

from __future__ import annotations

import io
import sys
from random import Random
from types import ModuleType
from unittest import mock

from twisted.application.service import IService, IServiceMaker, ServiceMaker
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import capturedLogs, formatEvent
from twisted.plugin import IPlugin
from twisted.plugins import flow512_dropin
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.discovery.beacon import PORT as BEACON_PORT
from flow512.discovery.election import Mode
from flow512.errors import PortTaken
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.node import NodeService
from flow512.plugins import node_tap, registry_tap
from flow512.plugins.options import Daemon, refuse
from flow512.registry.service import RegistryService
from flow512.testing import Network
from tests.unit.transfer_ends import a_folder


class PluginTestCase(SynchronousTestCase):
    """Options that are read, and what is said on the real standard error."""

    def refused(self, tap: ModuleType, *arguments: str) -> str:
        """The one sentence with which options are refused."""
        with mock.patch.object(sys, "__stderr__", io.StringIO()) as said:
            with self.assertRaises(SystemExit) as caught:
                tap.Options().parseOptions(list(arguments))
            self.assertEqual(caught.exception.code, 1)
            text = said.getvalue()
        self.assertTrue(text.startswith(f"twistd {tap.COMMAND}: "), text)
        self.assertEqual(text.count("\n"), 1, text)
        return text

    def node(self, *arguments: str) -> node_tap.Options:
        """Read a node's options."""
        options = node_tap.Options()
        options.parseOptions(list(arguments))
        return options

    def registry(self, *arguments: str) -> registry_tap.Options:
        """Read a registry's options."""
        options = registry_tap.Options()
        options.parseOptions(list(arguments))
        return options


class OptionsTests(PluginTestCase):
    """Every option, and every wrong value."""

    def test_peers(self) -> None:
        """Nodes to be asked are given by address, with their ids or without."""
        settings = self.node("--peer", "10.0.0.5", "--peer", "box:5001").settings
        self.assertEqual(
            [each.address for each in settings.peers],
            [HostPort("10.0.0.5", 5000), HostPort("box", 5001)],
        )
        self.assertIn("is no address", self.refused(node_tap, "--peer", "a b"))

    def test_node(self) -> None:
        """Each option of a node is in its settings."""
        share, other, state = (str(a_folder(self)) for _ in range(3))
        settings = self.node(
            *("--share", share, "--share", other, "--downloads", other, "--state", state),
            *(
                "--registry",
                "host:80",
                "--registry",
                "b",
                "--registry-all",
                "--bootstrap",
                "never",
                "--listen",
                "tcp:7",
            ),
            *("--name", "me", "--network", "lab", "--beacon-port", "99"),
            *("--interface", "eth0", "--interface", "10.0.0.1", "--rescan", "7.5"),
        ).settings
        self.assertEqual((settings.shares, settings.downloads), ((share, other), other))
        self.assertEqual((settings.rescan, self.node().settings.rescan), (7.5, 60.0))
        self.assertEqual(settings.state, state)
        registries = (NamedRegistry(HostPort("host", 80)), NamedRegistry(HostPort("b", 5000)))
        self.assertEqual((settings.registries, settings.registry_all), (registries, True))
        self.assertEqual((settings.bootstrap, settings.listen), (Mode.NEVER, "tcp:7"))
        self.assertEqual((settings.name, settings.network), ("me", "lab"))
        self.assertEqual(settings.beacon_port, 99)
        self.assertEqual(settings.interfaces, ("eth0", "10.0.0.1"))

    def test_node_by_itself(self) -> None:
        """Without options a node shares nothing, and chooses for itself."""
        settings = self.node().settings
        self.assertEqual((settings.shares, settings.downloads), ((), None))
        self.assertIn("flow512", settings.state or "")
        self.assertEqual((settings.registries, settings.bootstrap), ((), Mode.AUTO))
        self.assertEqual((settings.listen, settings.beacon_port), ("", BEACON_PORT))
        self.assertIsNone(self.node("--no-beacon").settings.beacon_port)

    def test_registry(self) -> None:
        """Each option of a registry is in its settings."""
        settings = self.registry(
            *("--listen", "tcp:7", "--name", "me", "--network", "lab"),
            *("--beacon-port", "65535", "--interface", "eth0"),
        ).settings
        self.assertEqual((settings.listen, settings.name), ("tcp:7", "me"))
        self.assertEqual((settings.network, settings.beacon_port), ("lab", 65535))
        self.assertEqual(settings.interfaces, ("eth0",))
        self.assertIsNone(self.registry("--no-beacon").settings.beacon_port)

    def test_wrong_values(self) -> None:
        """Each wrong value ends the process with one sentence that shows it."""
        for tap in (node_tap, registry_tap):
            for wrong, shown in (
                (("--beacon-port", "0"), "1 to 65535"),
                (("--beacon-port", "65536"), "1 to 65535"),
                (("--beacon-port", "x"), ": 'x' is no port; that is a number from"),
                (("--nonsense",), "--nonsense"),
                (("argu\x1bment",), "'argu\\x1bment'"),
                (("--name", "x" * 65), "64"),
                (("--network", "x" * 65), "64"),
                (("--name", "\udcff"), "no name"),
            ):
                self.assertIn(shown, self.refused(tap, *wrong))
        for wrong, shown in (
            (("--share", "/nowhere/at/all"), "/nowhere/at/all"),
            (("--downloads", "/nowhere/at/all"), "/nowhere/at/all"),
            (("--bootstrap", "perhaps"), "'perhaps'"),
            (("--registry", "a b"), "'a b'"),
            (("--registry",), "registry"),
        ):
            self.assertIn(shown, self.refused(node_tap, *wrong))

    def test_without_standard_error(self) -> None:
        """A process without a standard error ends all the same."""
        with (
            mock.patch.object(sys, "__stderr__", None),
            self.assertRaises(SystemExit) as caught,
        ):
            refuse("x", "y")
        self.assertEqual(caught.exception.code, 1)


class ServiceTests(PluginTestCase):
    """What C{makeService} makes."""

    def setUp(self) -> None:
        self.network = Network(1)
        self.host = self.network.host("10.0.0.1")

    def test_start_and_stop(self) -> None:
        """Both services start with a reactor that is handed in, and stop without a trace."""
        node = self.node("--no-beacon", "--state", str(a_folder(self)), "--name", "n")
        for service in (
            registry_tap.makeService(
                self.registry("--no-beacon", "--name", "r"), self.host.reactor
            ),
            node_tap.makeService(node, self._with_workers()),
        ):
            verifyObject(IService, service)
            service.privilegedStartService()
            service.startService()
            self.assertTrue(self.host.reactor.open_sockets())
            stopped = service.stopService()
            assert isinstance(stopped, Deferred)
            self.network.result(stopped)
            self.network.assert_quiet()

    def _with_workers(self) -> IReactorTime:
        # A node makes threads of its own; here they are the simulation's.
        run = self.host.run_blocking
        patcher = mock.patch.multiple(
            "flow512.interfaces.Workers",
            run_blocking=lambda workers, *args, **kwargs: run(*args, **kwargs),
            run_long=lambda workers, *args, **kwargs: run(*args, **kwargs),
        )
        patcher.start()
        self.addCleanup(patcher.stop)
        return self.host.reactor

    def test_cannot_start(self) -> None:
        """A service that cannot start ends the process with its sentence."""

        class Broken(RegistryService):
            """Has no port."""

            def privilegedStartService(self) -> None:
                raise PortTaken("No port.")

        service = Broken(self.host.reactor, self.registry("--no-beacon").settings)
        daemon = Daemon("flow512-x", service)
        with (
            mock.patch("flow512.plugins.options._is_detached", return_value=False),
            mock.patch.object(sys, "__stderr__", io.StringIO()) as said,
        ):
            with self.assertRaises(SystemExit):
                daemon.privilegedStartService()
            self.assertEqual(said.getvalue(), "twistd flow512-x: No port.\n")
        with (
            mock.patch("flow512.plugins.options._is_detached", return_value=True),
            capturedLogs() as logs,
            self.assertRaises(PortTaken),
        ):
            # In the background: what twistd hands to the process that waits is an exception.
            daemon.privilegedStartService()
        self.assertEqual([formatEvent(event) for event in logs], ["No port."])

    def test_global_reactor(self) -> None:
        """Without a reactor it is the installed one, asked for only then."""
        fake = ModuleType("twisted.internet.reactor")
        reactor = self.host.reactor
        with (
            mock.patch.dict(sys.modules, {"twisted.internet.reactor": fake}),
            mock.patch("twisted.internet.reactor", reactor, create=True),
        ):
            services = [
                registry_tap.makeService(self.registry("--no-beacon")),
                node_tap.makeService(self.node("--no-beacon")),
            ]
        daemons = [each for each in services if isinstance(each, Daemon)]
        for daemon in daemons:
            if daemon.starter is not None:
                daemon.starter.close()
        kinds = [type(daemon.service) for daemon in daemons]
        self.assertEqual(kinds, [RegistryService, NodeService])

    def test_stop_is_passed_on(self) -> None:
        """What stopping returns is what the service returns, so that C{twistd} waits for it."""
        service = RegistryService(
            self.host.reactor, self.registry("--no-beacon").settings, random=Random(1)
        )
        done = succeed(None)
        with mock.patch.object(service, "stopService", return_value=done):
            self.assertIs(Daemon("x", service).stopService(), done)


class DropinTests(SynchronousTestCase):
    """What C{twistd} finds."""

    def test_makers(self) -> None:
        """Both subcommands are there, with options and a service of their own."""
        makers = [each for each in vars(flow512_dropin).values() if isinstance(each, ServiceMaker)]
        self.assertEqual({each.tapname for each in makers}, {"flow512-node", "flow512-registry"})
        for maker in makers:
            verifyObject(IServiceMaker, maker)
            verifyObject(IPlugin, maker)
            self.assertTrue(issubclass(maker.options, Options))
            self.assertTrue(callable(maker.makeService))
            usage = maker.options().getUsage()
            self.assertIn("--listen=", usage)
            self.assertIn("--no-beacon", usage)
