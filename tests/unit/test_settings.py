"""Tests for L{flow512.settings}."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from flow512.discovery.election import Mode
from flow512.errors import Misuse
from flow512.settings import INodeListener, NodeListener, NodeSettings


class NodeSettingsTests(SynchronousTestCase):
    """L{NodeSettings}."""

    def test_contradictions(self) -> None:
        """What contradicts itself or a limit is refused at once."""
        for wrong in ({"name": "x" * 65}, {"network": "x" * 65}, {"name": "\udcff"}):
            with self.assertRaises(Misuse):
                NodeSettings(**wrong)  # type: ignore[arg-type]  # the names are known
        with self.assertRaises(Misuse):
            NodeSettings(serves=False, bootstrap=Mode.ALWAYS)
        NodeSettings(name="x" * 64, serves=False, bootstrap=Mode.NEVER)

    def test_rescan(self) -> None:
        """How often the shares are looked through is a time, or never."""
        for wrong in (-1.0, float("inf"), float("nan")):
            with self.assertRaises(Misuse):
                NodeSettings(rescan=wrong)
        NodeSettings(rescan=0.0)

    def test_offered(self) -> None:
        """The downloads folder is offered too, and once."""
        self.assertEqual(NodeSettings(("a", "b")).offered, ("a", "b"))
        self.assertEqual(NodeSettings(("a",), "b").offered, ("a", "b"))
        self.assertEqual(NodeSettings(("a", "b"), "b").offered, ("a", "b"))

    def test_offered_once(self) -> None:
        """A folder that was named twice, however it is written, is offered once."""
        named = ("a", "b", "./a/", os.path.abspath("b"), "a")
        self.assertEqual(NodeSettings(named, "b/.").offered, ("a", "b"))

    def test_listener(self) -> None:
        """A listener that listens to nothing takes everything."""
        listener = NodeListener()
        verifyObject(INodeListener, listener)
        listener.node_listening("10.0.0.1", 5000)
        listener.peers_changed([], [], [])
        listener.bootstrap_started(5000)
