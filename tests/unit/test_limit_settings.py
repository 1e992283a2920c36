"""Tests for L{flow512.limits}."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import fields
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Misuse
from flow512.limits import SCALE, Limits, option_name

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.rst"


class SettingTests(SynchronousTestCase):
    """What users set."""

    def test_nothing_set(self) -> None:
        """Without settings all limits are the defaults, which suit each other."""
        self.assertEqual(Limits.with_settings([]), Limits())

    def test_set(self) -> None:
        """Numbers, fractions of seconds and multiples of bytes are read; the last one counts."""
        limits = Limits.with_settings(
            ["requests=100", "handshake=2.5", "buffered=16MiB", " requests = 200 ", "idle=60"]
        )
        self.assertEqual(
            limits, Limits(requests=200, handshake=2.5, buffered=16 * 2**20, idle=60.0)
        )

    def test_every_limit_has_a_name(self) -> None:
        """Every limit can be set by its own name to what it is."""
        settings = [f"{option_name(each.name)}={each.default}" for each in fields(Limits)]
        self.assertEqual(Limits.with_settings(settings), Limits())

    def test_enclosing(self) -> None:
        """A limit that would keep another from having effect is raised, unless it was set."""
        limits = Limits.with_settings(["connections-per-address=9000", "dials-per-address=2000"])
        self.assertEqual((limits.connections_per_address, limits.connections), (9000, 18000))
        self.assertEqual((limits.dials_per_subnet, limits.dials), (2000, 2000))
        limits = Limits.with_settings(["connections=5000", "connections-per-address=9000"])
        self.assertEqual(limits.connections, 5000)

    def test_one_setting_for_a_crowd(self) -> None:
        """
        One setting makes room for thousands of nodes behind one address; for fewer than the
        defaults allow nothing changes, and what was set by itself stays.
        """
        self.assertEqual(Limits.with_settings(["nodes-per-address=1000"]), Limits())
        limits = Limits.with_settings(["nodes-per-address=5000", "half-open=3000"])
        self.assertGreaterEqual(limits.connections_per_address, 10_000)
        # The last quarter of all connections is kept for other addresses.
        self.assertGreaterEqual(limits.connections * 3 // 4, 10_000)
        self.assertGreaterEqual(limits.registrations_per_address, 10_000)
        self.assertGreaterEqual(limits.registrations_per_address_per_minute, 10_000)
        self.assertGreaterEqual(limits.dial_backs_per_subnet_per_minute, 5_000)
        self.assertEqual((limits.half_open_per_address, limits.half_open), (5000, 3000))
        Limits.with_settings(["nodes-per-address=100000"])

    def test_unknown(self) -> None:
        """A name that is none is refused with the nearest one, or with all."""
        for setting in ("conections=5", "connection=5", "connections_=5"):
            with self.assertRaisesRegex(Misuse, r"did you mean connections\?"):
                Limits.with_settings([setting])
        with self.assertRaisesRegex(Misuse, r"'xyz'; there are .*dials-per-subnet.*"):
            Limits.with_settings(["xyz=5"])
        with self.assertRaises(Misuse) as caught:
            Limits.with_settings(["\x1b[2J\u202e=5"])
        self.assertTrue(str(caught.exception).isprintable())

    def test_out_of_range(self) -> None:
        """A value that makes no sense is refused with the range."""
        rows = [
            "requests",
            "requests=",
            "requests=0",
            "requests=-5",
            "requests=70000",
            "requests=64.5",
            "requests=1e3",
            "requests=64MiB",
            "requests=6_4",
            "requests=\u0666\u0664",
            "requests=" + 5000 * "9",
        ]
        for setting in rows:
            with self.assertRaisesRegex(Misuse, "requests is a whole number from 32 to 65536"):
                Limits.with_settings([setting])
        with self.assertRaisesRegex(Misuse, "idle is a number from 1 to 604800 seconds"):
            Limits.with_settings(["idle=inf"])
        with self.assertRaisesRegex(Misuse, "buffered is a whole number from 4194304 to"):
            Limits.with_settings(["buffered=1.0001KiB"])
        with self.assertRaisesRegex(Misuse, "buffered is a whole number from 4194304 to .* bytes"):
            Limits(buffered=0)


class PageTests(SynchronousTestCase):
    """What the manual says of limits."""

    def test_every_limit_is_documented(self) -> None:
        """The page names every limit with its default."""
        rows = {
            words[0].strip("`"): words[1]
            for line in PAGE.read_text(encoding="utf-8").splitlines()
            if line.startswith("``") and len(words := line.split()) > 1
        }
        self.assertIn(SCALE, rows)
        for each in fields(Limits):
            default = f"{each.default // 2**20}MiB" if each.name == "buffered" else each.default
            shown = rows.get(option_name(each.name), "").replace(",", "")
            self.assertEqual(shown, f"{default:g}" if isinstance(default, float) else str(default))
