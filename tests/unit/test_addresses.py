"""Tests for L{flow512.discovery.addresses}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.addresses import LocalAddress, check_interfaces, usable
from flow512.errors import Misuse

LO4 = LocalAddress("127.0.0.1", 8, "lo", 1)
LO6 = LocalAddress("::1", 128, "lo", 1)
LAN4 = LocalAddress("192.168.1.5", 24, "eth0", 2)
LAN6 = LocalAddress("fd00::5", 64, "eth0", 2)
LINK6 = LocalAddress("fe80::5", 64, "eth0", 2)


class MisspeltTests(SynchronousTestCase):
    """Interfaces that a user names."""

    def test_check(self) -> None:
        """A name or address that the machine has not is refused, and what it has is told."""
        here = [LocalAddress("10.0.0.1", 24, "eth0", 2), LocalAddress("127.0.0.1", 8, "lo", 1)]
        check_interfaces(["eth0", "127.0.0.1"], here)
        check_interfaces([], [])
        for name in ("wlan7", "10.0.0.2", "\x1b[31m"):
            with self.assertRaises(Misuse) as caught:
                check_interfaces(["lo", name], here)
            self.assertIn("eth0, lo", str(caught.exception))
            self.assertNotIn("\x1b", str(caught.exception))


class UsableTests(SynchronousTestCase):
    """Which addresses are used."""

    def test_loopback_is_last(self) -> None:
        """The loopback is used only when there is nothing else, and only by IPv4."""
        self.assertEqual(list(usable([LO4, LO6, LAN4])), [LAN4])
        self.assertEqual(list(usable([LO4, LO6, LINK6])), [LINK6])
        self.assertEqual(list(usable([LO4, LO6])), [LO4])
        self.assertEqual(list(usable([])), [])

    def test_one_ipv6(self) -> None:
        """Of an interface's IPv6 addresses one is used: one that all can use, if there is."""
        other = LocalAddress("fd01::5", 64, "eth0", 2)
        wlan = LocalAddress("fe80::5", 64, "wlan0", 3)
        for found in ([LINK6, LAN6, other], [LAN6, LINK6, other], [LAN6, other, LINK6]):
            self.assertEqual(list(usable([*found, wlan])), [LAN6, wlan])

    def test_every_ipv4(self) -> None:
        """All IPv4 addresses are used, since each has a subnet of its own."""
        second = LocalAddress("10.0.0.5", 8, "eth0", 2)
        self.assertEqual(list(usable([LAN4, second, LAN6])), [LAN4, second, LAN6])


class LocalAddressTests(SynchronousTestCase):
    """What an address tells."""

    def test_broadcast(self) -> None:
        """A subnet has a broadcast address if it has room for one."""
        self.assertEqual(LAN4.broadcast, "192.168.1.255")
        self.assertEqual(LO4.broadcast, "127.255.255.255")
        self.assertEqual(LocalAddress("10.0.0.1", 30).broadcast, "10.0.0.3")
        self.assertIsNone(LocalAddress("10.0.0.1", 31).broadcast)
        self.assertIsNone(LAN6.broadcast)

    def test_reaches_subnet(self) -> None:
        """Who is in the subnet is on the link, and nobody else."""
        self.assertTrue(LAN4.reaches("192.168.1.77"))
        for far in ("192.168.2.1", "127.0.0.1", "8.8.8.8", "fd00::1", "fe80::1"):
            self.assertFalse(LAN4.reaches(far), far)
        self.assertTrue(LAN6.reaches("fd00::77"))
        self.assertFalse(LAN6.reaches("fd00:0:0:1::77"))
        self.assertFalse(LAN6.reaches("192.168.1.77"))

    def test_reaches_link_local(self) -> None:
        """A link-local host is on the link, unless it is known to be on another."""
        for address in (LAN6, LINK6):
            self.assertTrue(address.reaches("fe80::77"))
            self.assertTrue(address.reaches("fe80::77%eth0"))
            self.assertFalse(address.reaches("fe80::77%wlan0"))

    def test_leased(self) -> None:
        """An IPv6 address that was leased alone still has its link's neighbours."""
        leased = LocalAddress("fd00::5", 128, "eth0", 2)
        self.assertTrue(leased.reaches("fd00::77"))
        self.assertFalse(LO6.reaches("::2"))
        self.assertFalse(LO6.reaches("fe80::77"))

    def test_scoped(self) -> None:
        """A host gets the interface if it means nothing without."""
        self.assertEqual(LINK6.scoped("fe80::77"), "fe80::77%eth0")
        self.assertEqual(LINK6.scoped("fd00::77"), "fd00::77")
        self.assertEqual(LAN4.scoped("192.168.1.77"), "192.168.1.77")
