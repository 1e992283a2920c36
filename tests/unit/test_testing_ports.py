"""
L{flow512.testing.ports}: which socket has which port.
"""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from flow512.testing.ports import EPHEMERAL_PORTS, PortTable


class PortTableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table: PortTable[str] = PortTable()

    def bind_fails(self, number: int, *args: object, **options: bool) -> None:
        error = self.assertRaises(OSError, self.table.bind, "other", *args, **options)
        self.assertEqual(error.errno, number)

    def test_overlap(self) -> None:
        """A wildcard and an address of its family overlap; two addresses do not."""
        self.table.bind("a", "10.0.0.1", 1)
        self.table.bind("b", "10.0.0.2", 1)
        self.bind_fails(errno.EADDRINUSE, "0.0.0.0", 1)
        self.bind_fails(errno.EADDRINUSE, "10.0.0.1", 1)
        self.table.bind("six", "::", 1)

    def test_dual(self) -> None:
        """A dual IPv6 wildcard overlaps what is IPv4."""
        self.table.bind("a", "10.0.0.1", 1)
        self.bind_fails(errno.EADDRINUSE, "::", 1, dual=True)
        self.table.bind("b", "::", 2, dual=True)
        self.bind_fails(errno.EADDRINUSE, "0.0.0.0", 2)

    def test_shared(self) -> None:
        """Sharing takes two."""
        self.table.bind("a", "0.0.0.0", 1, shared=True)
        self.bind_fails(errno.EADDRINUSE, "0.0.0.0", 1)
        self.table.bind("b", "0.0.0.0", 1, shared=True)
        self.assertEqual(self.table.find("10.0.0.1", 1), ["a", "b"])
        self.table.release("a", 1)
        self.assertEqual(self.table.find("10.0.0.1", 1), ["b"])

    def test_best(self) -> None:
        """An address fits better than a wildcard, and that better than one of the other family."""
        self.table.bind("dual", "::", 1, dual=True, shared=True)
        self.assertEqual(self.table.find("10.0.0.1", 1), ["dual"])
        self.table.bind("all", "0.0.0.0", 1, shared=True)
        self.assertEqual(self.table.find("10.0.0.1", 1), ["all"])
        self.table.bind("one", "10.0.0.1", 1, shared=True)
        self.assertEqual(self.table.find("10.0.0.1", 1), ["one"])
        self.assertEqual(self.table.find("10.0.0.1", 2), [])
        self.table.bind("one only", "10.0.0.1", 3)
        self.assertEqual(self.table.find("10.0.0.2", 3), [])

    def test_release(self) -> None:
        """What is given back is free; what was not had is no matter."""
        self.table.bind("a", "0.0.0.0", 1)
        self.table.release("other", 1)
        self.table.release("other", 2)
        self.bind_fails(errno.EADDRINUSE, "0.0.0.0", 1)
        self.table.release("a", 1)
        self.assertEqual(len(self.table), 0)
        self.table.bind("b", "0.0.0.0", 1)

    def test_no_port(self) -> None:
        """There are ports from 1 to 65535."""
        for port in (-1, 65536):
            self.bind_fails(errno.EACCES, "0.0.0.0", port)

    def test_ephemeral(self) -> None:
        """Free ports are given in turn, round and round, until there is none."""
        first = self.table.bind("a", "0.0.0.0", 0)
        for _ in range(len(EPHEMERAL_PORTS) - 2):
            self.table.bind("a", "0.0.0.0", 0)
        self.table.release("a", first + 5)
        last = self.table.bind("a", "0.0.0.0", 0)
        self.assertEqual(last, EPHEMERAL_PORTS[-1])
        self.assertEqual(self.table.bind("a", "0.0.0.0", 0), first + 5)
        self.bind_fails(errno.EADDRINUSE, "0.0.0.0", 0)
