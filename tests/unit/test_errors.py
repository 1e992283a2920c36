"""Tests for L{flow512.errors}."""

from __future__ import annotations

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import (
    INTERNAL,
    WIRE_CODES,
    BadDigest,
    BadFrame,
    BadMessage,
    Busy,
    Cancelled,
    DiskFailure,
    DiskFull,
    Flow512Error,
    Misuse,
    NotFound,
    PortTaken,
    Refusal,
    SourceFailure,
    TargetExists,
    TooManyOpenFiles,
    Unreachable,
    Violation,
    from_os_error,
    from_wire,
    to_wire,
)


class WireTests(SynchronousTestCase):
    """An error crosses the wire as a code and a sentence."""

    def test_codes_are_unique(self) -> None:
        """No two errors share a code, and every code fits in its field."""
        codes = list(WIRE_CODES.values())
        self.assertEqual(len(set(codes)), len(codes))
        self.assertTrue(all(0 < code <= 65535 for code in codes))

    def test_there_and_back(self) -> None:
        """
        A refusal arrives as what it was sent as, with its sentence. What would say something of
        the one who reads it (a violation, misuse, its own cancelling), or that nobody is there,
        is only a refusal to that one.
        """
        for kind in WIRE_CODES:
            if kind is Flow512Error:
                continue
            back = from_wire(*to_wire(kind("It is so.")))
            is_ours_to_say = issubclass(kind, Violation | Unreachable) or kind in (
                Cancelled,
                Misuse,
            )
            self.assertIs(type(back), Refusal if is_ours_to_say else kind)
            self.assertEqual(str(back), "It is so.")

    def test_retry_after(self) -> None:
        """Busy says when to ask again; everything else says 0, for waiting is no use."""
        self.assertEqual(to_wire(Busy("Full.", 2.5)), (7, "Full.", 2.5))
        self.assertEqual(to_wire(NotFound("No.")), (5, "No.", 0.0))
        back = from_wire(7, "Full.", 2.5)
        assert isinstance(back, Busy)
        self.assertEqual(back.retry_after, 2.5)

    def test_nearest_ancestor(self) -> None:
        """An error without a code of its own goes by that of its nearest ancestor."""
        self.assertEqual(to_wire(TargetExists("It is there."))[:2], (12, "It is there."))
        self.assertEqual(to_wire(BadDigest("It lied."))[0], WIRE_CODES[Violation])
        self.assertEqual(to_wire(BadFrame("Cut."))[0], 2)
        self.assertEqual(to_wire(BadMessage("Odd."))[0], 3)

    def test_resources(self) -> None:
        """What fails on a machine is, to the other side, a source that failed, and why."""
        for kind in (DiskFull, DiskFailure, TooManyOpenFiles, PortTaken):
            self.assertEqual(to_wire(kind("Why.")), (WIRE_CODES[SourceFailure], "Why.", 0.0))

    def test_secrets_stay(self) -> None:
        """Errors that are not for strangers say nothing of what they know."""
        for error in (ValueError("secret"), KeyError("secret"), Refusal("secret")):
            code, sentence, retry_after = to_wire(error)
            self.assertEqual((code, retry_after), (INTERNAL, 0.0))
            self.assertNotIn("secret", sentence)

    def test_internal(self) -> None:
        """An error inside the other node is a failure of the source."""
        self.assertIs(type(from_wire(INTERNAL, "Oops.", 0.0)), SourceFailure)

    def test_unknown_codes(self) -> None:
        """A code of a newer version is a plain refusal, with its sentence."""
        for code in (0, 15, 65535):
            error = from_wire(code, "New.", 0.0)
            self.assertIs(type(error), Refusal)
            self.assertEqual(str(error), "New.")


class BlameTests(SynchronousTestCase):
    """The type says who is to blame."""

    def test_families(self) -> None:
        """Every error of the taxonomy belongs to exactly one of its five families."""
        families = [
            each for each in Flow512Error.__subclasses__() if each.__module__ == "flow512.errors"
        ]
        self.assertEqual(
            {family.__name__ for family in families},
            {"Misuse", "Violation", "ResourceFailure", "Refusal", "Unreachable"},
        )
        for kind in WIRE_CODES:
            if kind is not Flow512Error:
                self.assertEqual(len([each for each in families if issubclass(kind, each)]), 1)


class SystemCallTests(SynchronousTestCase):
    """A failed system call is named for what it is."""

    def test_causes(self) -> None:
        """A full disk, no descriptors left, and anything else are told apart."""
        rows = [
            (errno.ENOSPC, DiskFull, "The disk is full while writing a.txt; free some space"),
            (errno.EDQUOT, DiskFull, "The disk is full while writing a.txt; free some space"),
            (errno.EMFILE, TooManyOpenFiles, "No file descriptor is left while writing a.txt"),
            (errno.ENFILE, TooManyOpenFiles, "No file descriptor is left while writing a.txt"),
            (errno.EIO, DiskFailure, f"{os.strerror(errno.EIO)} while writing a.txt."),
        ]
        for number, kind, beginning in rows:
            error = from_os_error(OSError(number, os.strerror(number)), "writing a.txt")
            self.assertIs(type(error), kind)
            self.assertEqual(str(error)[: len(beginning)], beginning)

    def test_without_number(self) -> None:
        """An error that carries only a text is told by it."""
        self.assertEqual(str(from_os_error(OSError("odd"), "reading")), "odd while reading.")
