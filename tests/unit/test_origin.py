"""Tests for L{flow512.link.origin}."""

from __future__ import annotations

from ipaddress import ip_address

from twisted.trial.unittest import SynchronousTestCase

from flow512.link.origin import plain_address, source_of, subnet_of, unwrapped


class OriginTests(SynchronousTestCase):
    """Who is counted as one."""

    def test_plain_addresses(self) -> None:
        """Scopes and wrappings are taken off; what is no address gives none."""
        rows = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("fe80::1%eth9", "fe80::1"),
            ("2001:DB8::0:1", "2001:db8::1"),
        ]
        for host, plain in rows:
            self.assertEqual(plain_address(host), ip_address(plain))
        for host in ("UNIXAddress('/run/x')", "", "somewhere", "192.0.2.1/24"):
            self.assertIsNone(plain_address(host))

    def test_unwrapped(self) -> None:
        """IPv4 in IPv6 is the IPv4 address; nothing else is changed, and scopes stay."""
        rows = [
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::FFFF:c000:0201", "192.0.2.1"),
            ("::ffff:192.0.2.1%eth9", "192.0.2.1"),
        ]
        for host, plain in rows:
            self.assertEqual(unwrapped(host), plain)
        for host in ("192.0.2.1", "fe80::1%eth9", "2001:db8::1", "::1", "name", "a:b", ""):
            self.assertEqual(unwrapped(host), host)

    def test_sources(self) -> None:
        """An IPv4 address counts as one, and so does a whole IPv6 network of 64 bits."""
        self.assertEqual(source_of("::ffff:192.0.2.1"), source_of("192.0.2.1"))
        self.assertNotEqual(source_of("192.0.2.1"), source_of("192.0.2.2"))
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::ffff:1"))
        self.assertNotEqual(source_of("2001:db8::1"), source_of("2001:db8:0:1::1"))
        self.assertEqual(source_of("somewhere"), "somewhere")

    def test_subnets(self) -> None:
        """A /24 of IPv4 is a subnet, and a /48 of IPv6."""
        self.assertEqual(subnet_of("::ffff:192.0.2.1"), subnet_of("192.0.2.255"))
        self.assertNotEqual(subnet_of("192.0.2.1"), subnet_of("192.0.3.1"))
        self.assertEqual(subnet_of("2001:db8:7::1"), subnet_of("2001:db8:7:ffff::1"))
        self.assertNotEqual(subnet_of("2001:db8:7::1"), subnet_of("2001:db8:8::1"))
        self.assertEqual(subnet_of("somewhere"), "somewhere")
