"""Tests for L{flow512.descriptors}."""

from __future__ import annotations

import resource
from resource import RLIM_INFINITY, RLIMIT_NOFILE
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from flow512.descriptors import ENOUGH, allow_enough_descriptors


class DescriptorTests(SynchronousTestCase):
    """The limit is raised to what is needed, and never lowered."""

    def test_raised(self) -> None:
        """It becomes what is needed, or as much as the system lets it."""
        for before, after in (
            ((1024, RLIM_INFINITY), (ENOUGH, RLIM_INFINITY)),
            ((1024, 10 * ENOUGH), (ENOUGH, 10 * ENOUGH)),
            ((1024, 4096), (4096, 4096)),
            ((ENOUGH, 10 * ENOUGH), None),
            ((10 * ENOUGH, 10 * ENOUGH), None),
            ((RLIM_INFINITY, RLIM_INFINITY), None),
        ):
            with (
                mock.patch.object(resource, "getrlimit", return_value=before),
                mock.patch.object(resource, "setrlimit") as set_limit,
            ):
                allow_enough_descriptors()
            calls = [] if after is None else [mock.call(RLIMIT_NOFILE, after)]
            self.assertEqual(set_limit.mock_calls, calls, before)

    def test_not_allowed(self) -> None:
        """A system that does not let it goes on as it was."""
        for error in (ValueError("not allowed"), PermissionError("not allowed")):
            with (
                mock.patch.object(resource, "getrlimit", return_value=(1024, 4096)),
                mock.patch.object(resource, "setrlimit", side_effect=error),
            ):
                allow_enough_descriptors()
