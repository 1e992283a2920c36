"""
How many files and connections this process may have open.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

ENOUGH: Final = 16_384
"""Descriptors that the defaults of L{flow512.limits.Limits} need, with the files served."""


def allow_enough_descriptors() -> None:
    """
    Raise this process's limit on descriptors, as far as it may, to what its own limits need.

    Systems begin with 1,024 for the sake of programs that use C{select}. For processes that are
    flow512's own, and never for somebody else's that it is a part of.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH:
        return
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
